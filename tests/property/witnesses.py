"""Random programs for the three witnesses: compiled kernel, naive controller, legality checker.

Run as a script, prints what the witnesses say of some programs: their answers with and without
compilation have to be the same.
"""

import sys
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, ActivateWindow, DramDevice, Refresh, RefreshMode
from attacc.hardware.placement import Placement
from attacc.pim.audit import legality
from attacc.pim.program.program import MULTIPLY, Kind, Program
from attacc.pim.program.trace import format_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import TimingTables, resolve_timing
from tests.oracle import timing as oracle
from tests.property.steps import Step, logged, oracle_requests, program_of

MOVES = (Kind.WRGB, Kind.MVSB, Kind.MVGB, Kind.SFM)
BARRIER = "PIM_BARRIER"
DEVICES = 24
"""Sets of random timings per placement."""
WINDOWS = {
    # Sets of four banks that one activate of the units opens one after the other.
    (ActivateWindow.RANK, Placement.BANK): 4,
    (ActivateWindow.PSEUDO_CHANNEL, Placement.BANK): 8,
    (ActivateWindow.RANK, Placement.BANKGROUP): 1,
    (ActivateWindow.PSEUDO_CHANNEL, Placement.BANKGROUP): 2,
}


@dataclass(frozen=True)
class Case:
    """A program, and the device that it is for."""

    device: DramDevice
    tables: TimingTables
    program: Program
    power_limited: bool


@cache
def device_of(placement: Placement, number: int) -> tuple[DramDevice, TimingTables, bool]:
    """Return one of the devices with random timings; odd ones are of the complete rules."""
    random = Random(f"{placement} {number}")  # noqa: S311 - no secret
    refresh = random.choice([(5070, 456), (700, 300), (300, 30)])
    timing = {
        "nREFI": refresh[0],
        "nRFC": refresh[1],
        "nRCDRD" if number % 2 else "nRCD": random.randint(8, 25),
        "nRP": random.randint(1, 25),
        # A row stays open until it can be read: otherwise two requests close it for each other.
        "nRAS": random.randint(26, 50),
        "nRC": random.randint(1, 70),
        "nRTPL": random.randint(1, 10),
        "nCCDS": random.randint(1, 5),
        "nCCDL": random.randint(1, 9),
        "nBL": random.randint(1, 4),
    }
    base = DRAMS.load("hbm3-5.2" if number % 2 else "hbm3-5.2-asplos24")
    update: dict[str, Any] = {
        "timing": base.timing | timing,
        "moves_pass_hits": bool(number % 2) and random.random() < 0.5,
    }
    if number % 2 and placement is not Placement.BANK and random.random() < 0.5:
        update["refresh"] = Refresh(mode=RefreshMode.PER_BANK)
        timing |= {"nREFI": 5070, "nRFC": 456}  # the 32 banks of a pseudo-channel fit
        update["timing"] = base.timing | timing
    if number % 2:
        windows = list(ActivateWindow)
        update["four_activate_window"] = windows[number // 2 % len(windows)]
    device = base.model_copy(update=update)
    power_limited = random.random() < 0.5
    return device, resolve_timing(device, placement, power_limited=power_limited), power_limited


def case_of(placement: Placement, seed: int) -> Case:
    """Return a random program; on the complete rules, with dependences."""
    device, tables, power_limited = device_of(placement, seed % DEVICES)
    random = Random(f"{placement} program {seed}")  # noqa: S311 - no secret
    dependent = seed % DEVICES % 2 == 1
    multiply = MULTIPLY[placement]
    kinds = random.choices(
        [multiply, *MOVES, Kind.BARRIER], weights=[8, 1, 1, 1, 1, 1], k=random.randint(1, 40)
    )
    events = random.randint(1, 6)
    signals = [
        tuple(
            oracle.Signal(random.randint(1, events), random.choice([0, 1, 3, 31, 200]))
            for _ in range(random.choice([0, 0, 1, 3]))
        )
        if dependent and kind is not Kind.BARRIER
        else ()
        for kind in kinds
    ]
    last = {one.event: i for i, row in enumerate(signals) for one in row}
    steps: list[Step] = []
    for i, kind in enumerate(kinds):
        known = [event for event in range(1, events + 1) if last.get(event, -1) < i]
        waits = random.choice([0, 0, *known]) if dependent and kind is not Kind.BARRIER else 0
        # Few rows and columns, so that rows are hit, missed and conflicting.
        address = random.randrange(3) << 5 | random.randrange(3) << 10
        address |= random.randrange(16) << 24 | random.randrange(2) << 28
        if kind is not multiply:
            address |= random.randrange(2) << 29
        first = random.randrange(2)
        steps.append(Step(kind, address, first, random.randint(1, 2 - first), waits, signals[i]))
    return Case(device, tables, program_of(steps, dependent=dependent), power_limited)


def witness(placement: Placement, seed: int) -> str:
    """Return in a line what the kernel says, having compared it with the other witnesses.

    Raises:
        AssertionError: they disagree.
    """
    case = case_of(placement, seed)
    try:
        ours = run(case.program, case.tables, log=True)
    except InputError:
        return "never served"  # requests close each other's rows: the oracle would never end
    parameters = case.device.parameters(power_limited=case.power_limited)
    per_bank = case.device.refresh.mode is RefreshMode.PER_BANK
    if case.program.dependences is None:
        theirs = oracle.simulate(
            oracle.parse(format_trace(case.program).splitlines()),
            placement=placement.value,
            timing=parameters,
        )
    else:
        theirs = oracle.simulate_dependent(
            {
                c: own
                for c, own in oracle_requests(case.program).items()
                # A channel with a barrier alone has no data, and is not refreshed.
                if any(one.request.kind != BARRIER for one in own)
            },
            placement=placement.value,
            timing=parameters,
            moves_yield=not case.device.moves_pass_hits,
            device=oracle.Device(
                rules="hbm-pim",
                refresh="per_bank" if per_bank else "all_bank",
                windows=WINDOWS.get((case.device.four_activate_window, placement), 0),
            ),
        )
    assert ours.log is not None
    assert sorted(logged(ours.log)) == sorted(theirs.log), seed
    assert ours.cycles == theirs.cycles, seed
    report = legality.check(
        ours.log,
        case.device,
        placement=placement,
        power_limited=case.power_limited,
        postponed_refreshes=legality.MAX_POSTPONED,
    )
    assert report.legal, (seed, report.violations[:1])
    return f"{ours.cycles} {sum(entry.count for entry in ours.commands)}"


if __name__ == "__main__":
    for one in Placement:
        for seed in range(int(sys.argv[1])):
            print(one, seed, witness(one, seed))  # noqa: T201 - what this script is for
