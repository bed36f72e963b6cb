"""Programs written step by step, and what the oracle and the log call the same things."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from attacc.hardware.dram import DRAMS
from attacc.pim.log import LoggedCommand
from attacc.pim.program.program import Dependences, Kind, Program
from attacc.pim.program.trace import NAMES
from tests.oracle import timing as oracle

ORGANIZATION = DRAMS.load("hbm3-5.2").organization
SPELLED = {kind: name for name, kind in NAMES.items()}


@dataclass(frozen=True)
class Step:
    """One step of a program, as a person would write it."""

    kind: Kind
    address: int
    first: int
    channels: int
    waits: int = 0
    signals: tuple[oracle.Signal, ...] = ()


def program_of(steps: list[Step], *, dependent: bool = True) -> Program:
    """Return the columns of some steps; without dependences if there are to be none."""
    width = max(len(step.signals) for step in steps)
    blank = oracle.Signal(0, 0)
    signals = [[*s.signals, *[blank] * (width - len(s.signals))] for s in steps]
    shape = (len(steps), width)
    events = np.array([[one.event for one in row] for row in signals], dtype=np.int32)
    delays = np.array([[one.delay for one in row] for row in signals], dtype=np.int32)
    last = max([0, *(s.waits for s in steps), *(one.event for row in signals for one in row)])
    return Program(
        ORGANIZATION,
        np.array([s.kind for s in steps], dtype=np.uint8),
        np.array([s.address for s in steps], dtype=np.int64),
        np.array([s.first for s in steps], dtype=np.int16),
        np.array([s.channels for s in steps], dtype=np.int16),
        None
        if not dependent
        else Dependences(
            waits=np.array([s.waits for s in steps], dtype=np.int32),
            signals=events.reshape(shape),
            delays=delays.reshape(shape),
            events=last,
        ),
    )


def oracle_requests(program: Program) -> dict[int, list[oracle.DependentRequest]]:
    """What each channel receives, read off the program's columns."""
    dependences = program.dependences
    assert dependences is not None
    requests: dict[int, list[oracle.DependentRequest]] = {
        channel: [] for channel in range(program.organization.channels)
    }
    for i in range(len(program)):
        signals = tuple(
            oracle.Signal(int(event), int(delay))
            for event, delay in zip(dependences.signals[i], dependences.delays[i], strict=True)
            if event
        )
        first = int(program.first_channel[i])
        for channel in range(first, first + int(program.channels[i])):
            address = channel << 30 | int(program.address[i])
            line = f"{SPELLED[Kind(program.kind[i])]} {address:#x}"
            requests[channel].append(
                oracle.DependentRequest(oracle.parse([line])[0], int(dependences.waits[i]), signals)
            )
    return requests


def logged(log: Iterable[LoggedCommand]) -> list[oracle.Command]:
    """The engine's log in the oracle's words."""
    return [
        oracle.Command(
            c.cycle, c.command, c.channel, c.pseudo_channel, c.rank, c.bank_group, c.bank, c.row,
            c.column,
        )
        for c in log
    ]  # fmt: skip
