"""Rows of many banks that open four at a time, judged bank by bank.

A command log has one ACTAB (or ACTSB) for many banks. Here every such command is written out as the
activates of single banks that it stands for, and these are held against nFAW, tRCD, tRAS and tRC as
the standard states them: without the derived cycles by which the package's rules say the same.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from attacc.hardware.dram import ActivateWindow, DramDevice, load_device
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.audit.legality import Check, check
from attacc.pim.log import LoggedCommand
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.program.interleaved import (
    chunk_grain,
    interleaved_program,
    longest_chunk,
)
from attacc.pim.stack import Stack
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

Bank = tuple[int, int, int, int]
"""Pseudo-channel, rank, bank group, bank."""
CASES = [
    ("hbm3-5.2", Placement.BANK, ActivateWindow.RANK),
    ("hbm3-5.2", Placement.BANK, ActivateWindow.PSEUDO_CHANNEL),
    ("hbm3-5.2", Placement.BANKGROUP, ActivateWindow.RANK),
    ("hbm3-5.2", Placement.BANKGROUP, ActivateWindow.PSEUDO_CHANNEL),
    ("gddr6-aim-16", Placement.BANK, ActivateWindow.RANK),
    ("neupims-2.0", Placement.BANK, ActivateWindow.RANK),
    ("hbm4-8.0", Placement.BANKGROUP, ActivateWindow.PSEUDO_CHANNEL),
]


def device_of(name: str, window: ActivateWindow) -> DramDevice:
    return load_device(name, four_activate_window=window.value)


def played(device: DramDevice, placement: Placement) -> list[LoggedCommand]:
    """The commands of two or three heads a channel, refreshes among them."""
    layout = KeyLayout(device.organization, placement, 128, ElementType.FP16)
    assignment = assign(
        [700] * (2 * device.organization.channels + 1),
        channels=device.organization.channels,
        longest=longest_chunk(device, layout),
        grain=chunk_grain(layout),
    )
    tables = resolve_timing(device, placement, power_limited=True)
    program = interleaved_program(
        device, layout, assignment, multiply_interval=tables.multiply_interval
    )
    log = run(program, tables, log=True).log
    assert log is not None
    return list(log)


def banks_of(device: DramDevice, command: LoggedCommand) -> list[Bank]:
    """The banks on which an activate, multiply or precharge of units acts."""
    o = device.organization
    banks = range(o.banks) if command.command.endswith("AB") else [command.bank]
    if command.command == "PREA":
        banks = range(o.banks)
    return list(product(range(o.pseudo_channels), range(o.ranks), range(o.bank_groups), banks))


def opened(device: DramDevice, command: LoggedCommand) -> Iterator[tuple[int, Bank]]:
    """The activates of single banks, four at a time in each window."""
    per_rank = device.four_activate_window is ActivateWindow.RANK
    groups: dict[tuple[int, ...], list[Bank]] = defaultdict(list)
    for bank in banks_of(device, command):
        groups[bank[:2] if per_rank else bank[:1]].append(bank)
    for own in groups.values():
        for place, bank in enumerate(own):
            yield command.cycle + place // 4 * device.timing["nFAW"], bank


@pytest.mark.untraced  # of many commands: it would take three times as long
@pytest.mark.parametrize(("name", "placement", "window"), CASES)
def test_banks_open_four_at_a_time(name: str, placement: Placement, window: ActivateWindow) -> None:
    """Catches a fifth activate within nFAW, and a bank that is used before it is open."""
    device = device_of(name, window)
    t = device.timing
    log = played(device, placement)
    assert check(log, device, placement=placement, power_limited=True).violations == ()
    activates: dict[tuple[int, ...], list[int]] = defaultdict(list)
    last: dict[tuple[int, Bank], int] = {}
    for command in log:
        if command.command in ("ACTAB", "ACTSB"):
            for cycle, bank in opened(device, command):
                own = bank[:2] if window is ActivateWindow.RANK else bank[:1]
                activates[command.channel, *own].append(cycle)
                assert cycle - last.get((command.channel, bank), -t["nRC"]) >= t["nRC"]
                last[command.channel, bank] = cycle
        elif command.command in ("MACAB", "MACSB", "PRESB", "PREA"):
            least = t.get("nRCDMAC", t["nRCDRD"]) if command.command[0] == "M" else t["nRAS"]
            for bank in banks_of(device, command):
                since = command.cycle - last.get((command.channel, bank), -least)
                assert since >= least, command
    for cycles in activates.values():
        cycles.sort()
        assert all(
            later - sooner >= t["nFAW"] for sooner, later in zip(cycles, cycles[4:], strict=False)
        )


@pytest.mark.untraced
@pytest.mark.parametrize("window", [ActivateWindow.RANK, ActivateWindow.PSEUDO_CHANNEL])
def test_rows_that_open_at_once_are_found(window: ActivateWindow) -> None:
    """Catches an audit that takes all banks for open when the first four are."""
    device = device_of("hbm3-5.2", window)
    at_once = played(device_of("hbm3-5.2", ActivateWindow.NONE), Placement.BANK)
    report = check(at_once, device, placement=Placement.BANK, power_limited=True)
    assert {fault.check for fault in report.broken} == {Check.TIMING}
    early = {rule.rule.split(":")[0] for rule in report.broken if rule.rule is not None}
    assert "ACTAB -> MACAB" in early
    # One cycle early, and no other command moved.
    log = played(device, Placement.BANK)
    first = next(i for i, one in enumerate(log) if one.command == "MACAB")
    log[first] = replace(log[first], cycle=log[first].cycle - 1)
    found = check(log, device, placement=Placement.BANK, power_limited=True).violations
    assert [fault.slack_cycles for fault in found if "ACTAB -> MACAB" in fault.rule] == [-1]


@pytest.mark.parametrize(
    ("power_limited", "per_rank", "per_pseudo_channel"), [(True, 0.67, 0.47), (False, 0.60, 0.39)]
)
def test_what_a_window_costs_attacc(
    power_limited: bool,
    per_rank: float,
    per_pseudo_channel: float,
) -> None:
    """Catches a window that is hidden, or counted twice.

    A row of 32 columns takes 238 cycles (174 without a power limit), and 117 more where ranks keep
    the window, 273 more where pseudo-channels do (reference/fair-comparison.md, section 2). 0.015,
    since refreshes and the first query take their time in any case.
    """

    def time_ns(window: ActivateWindow, placement: Placement = Placement.BANK) -> float:
        stack = Stack(device_of("hbm3-5.2", window), placement, power_limited=power_limited)
        return stack.attend(heads=64, length=4096).time_ns

    free = time_ns(ActivateWindow.NONE)
    assert free / time_ns(ActivateWindow.RANK) == pytest.approx(per_rank, abs=0.015)
    shared = time_ns(ActivateWindow.PSEUDO_CHANNEL)
    assert free / shared == pytest.approx(per_pseudo_channel, abs=0.015)
    # Units per bank group open four banks of a rank: exactly one window, behind multiplies.
    group = [time_ns(window, Placement.BANKGROUP) for window in ActivateWindow]
    assert group[0] == group[1]
    assert group[0] / group[2] == pytest.approx(1, abs=0.01)
