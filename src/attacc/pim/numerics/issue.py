"""The order in which the controllers of a stack issue the steps of a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.pim.program.program import Program
from attacc.pim.timing.controllers import ControllerState, Room, Stream
from attacc.pim.timing.engine import check_program, class_starts, pack
from attacc.pim.timing.tables import Code, TimingTables

_DATA: Final = (Code.MULTIPLY, Code.WRGB, Code.MVSB, Code.MVGB, Code.SFM)
"""Commands that move or use data. (Commands that open and close rows also belong to steps.)"""

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class IssuedSteps:
    """Steps that neighbouring channels issue alike, in order of time.

    Row commands, refresh and barriers are left out.

    Attributes:
        first_channel: first of the channels.
        channels: number of channels.
        kind: (n,) `attacc.pim.program.program.Kind` of each step.
        address: (n,) byte address of each step, below the channel.
        cycle: (n,) cycle in which each step issues; the first cycle is 1.
    """

    first_channel: int
    channels: int
    kind: U8
    address: I64
    cycle: I64


@dataclass(frozen=True, eq=False)
class PlayedSteps:
    """A program played on the controllers of one stack.

    Attributes:
        issued: issued steps, for each run of neighbouring channels that issue alike.
        cycles: cycles until the last command has issued, as in `attacc.pim.timing.engine.run`.
        counts: (codes,) how often each `attacc.pim.timing.tables.Code` issued, over all channels.
    """

    issued: tuple[IssuedSteps, ...]
    cycles: int
    counts: I64


def issued_steps(program: Program, tables: TimingTables) -> tuple[IssuedSteps, ...]:
    """Play a program on the controllers of one stack, and return the issued steps.

    Args:
        program: requests, of the placement that the tables were resolved for.
        tables: the device, resolved for a placement and a cadence.

    Raises:
        InputError: as `attacc.pim.timing.engine.run`.
    """
    return played_steps(program, tables).issued


def played_steps(program: Program, tables: TimingTables) -> PlayedSteps:
    """Play a program, and return the issued steps, the cycles and the counts of commands.

    Args:
        program: as in `issued_steps`.
        tables: as in `issued_steps`.

    Raises:
        InputError: as in `issued_steps`.
    """
    check_program(program, tables)
    result: list[IssuedSteps] = []
    cycles = 0
    counts = np.zeros(len(Code), dtype=np.int64)
    for stream in _streams(program):
        log, state = _log(stream, tables)
        cycles = max(cycles, state.cycle)
        counts += state.issued_by_all
        starts = stream.first_channel + np.cumsum(stream.width) - stream.width
        for number, (start, width) in enumerate(
            zip(starts.tolist(), stream.width.tolist(), strict=True)
        ):
            own = log[(log[:, 2] == number) & np.isin(log[:, 1], _DATA)]
            steps = stream.steps[own[:, 3]]
            result.append(
                IssuedSteps(start, width, program.kind[steps], program.address[steps], own[:, 0])
            )
    return PlayedSteps(tuple(result), cycles, counts)


def _streams(program: Program) -> Iterator[Stream]:
    """Yield independent streams: one for all channels without dependences, else one per class."""
    starts = class_starts(program)
    width = np.diff(starts, append=program.organization.channels)
    first = program.first_channel.astype(np.int64)
    last = first + program.channels
    if program.dependences is None:
        everything = np.arange(len(program), dtype=np.int64)
        yield pack(
            program, everything, np.searchsorted(starts, first).astype(np.int32),
            np.searchsorted(starts, last).astype(np.int32), 0, width,
        )  # fmt: skip
        return
    for number, start in enumerate(starts.tolist()):
        steps = np.flatnonzero((first <= start) & (start < last))
        if len(steps):
            one = np.zeros(len(steps), dtype=np.int32)
            yield pack(program, steps, one, one + 1, start, width[number : number + 1])


def _log(stream: Stream, tables: TimingTables) -> tuple[I64, ControllerState]:
    """Return cycle, code, class, step and bank of each issued command, and the final state."""
    log = Room.begun(stream, log=True, window_cycles=0)
    state = ControllerState.at_start(stream, tables)
    state.play(stream, tables, room=log)
    return log.log[: state.logged], state
