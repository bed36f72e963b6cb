"""The legality checker: golden logs and our own are legal, and every fault is found and named."""

import gzip
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from attacc.errors import DocumentError, InputError
from attacc.hardware.dram import (
    DRAMS,
    DramDevice,
    OrdinaryFamily,
    Refresh,
    RefreshMode,
    Rule,
    RuleSet,
    Scope,
    evaluate_cycles,
)
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.audit.legality import (
    LISTED,
    BrokenRule,
    Check,
    LegalityReport,
    Violation,
    check,
    describe_rule,
)
from attacc.pim.log import LOG_COLUMNS, LoggedCommand, read_log, write_log
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import MULTIPLY
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.trace import NAMES, parse_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests import share

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
OFTEN = DEVICE.model_copy(update={"timing": DEVICE.timing | {"nREFI": 700, "nRFC": 300}})
"""Refreshes within short logs."""
COMPLETE = DRAMS.load("hbm3-5.2")
"""With ordinary traffic, windows, and the refresh of one bank."""
PER_BANK = COMPLETE.model_copy(update={"refresh": Refresh(mode=RefreshMode.PER_BANK)})

GOLDEN = {
    "bank_h16_L256_d128_b2_pc": Placement.BANK,
    "bank_h20_L777_d128_b2_pc": Placement.BANK,
    "bank_h33_L2048_d128_b2_npc": Placement.BANK,
    "bank_h3_L4096_d64_b2_pc": Placement.BANK,
    "bg_h16_L256_d128_b2_pc": Placement.BANKGROUP,
    "bg_h17_L1500_d128_b2_npc": Placement.BANKGROUP,
    "bg_h40_L257_d96_b2_pc": Placement.BANKGROUP,
    "buffer_h17_L257_d128_b2_pc": Placement.BUFFER,
    "buffer_h33_L511_d96_b2_pc": Placement.BUFFER,
    "buffer_h8_L16_d128_b2_npc": Placement.BUFFER,
}
ANY = -1
COMPARED = {scope: scope.fields for scope in Scope}


def at(
    cycle: int,
    command: str,
    place: tuple[int, int, int, int] = (0, 0, 0, 0),
    *,
    row: int = 0,
    channel: int = 0,
) -> LoggedCommand:
    """A command at (pseudo-channel, rank, bank group, bank)."""
    return LoggedCommand(cycle, command, channel, *place, row, 0)


def maintenance(
    cycle: int, command: str, pseudo_channel: int = 0, channel: int = 0
) -> LoggedCommand:
    """PREA or REFab as a refresh has it issued."""
    return LoggedCommand(cycle, command, channel, pseudo_channel, ANY, ANY, ANY, ANY, ANY)


def audit(
    log: Iterable[LoggedCommand],
    placement: Placement = Placement.BANK,
    device: DramDevice = DEVICE,
    *,
    power_limited: bool = True,
) -> tuple[Violation, ...]:
    report = check(
        log, device, placement=placement, power_limited=power_limited, listed=sys.maxsize
    )
    assert len(report.violations) == report.total
    return report.violations


def only(violations: Iterable[Violation], kind: Check) -> list[Violation]:
    return [violation for violation in violations if violation.check is kind]


# A second, naive statement of what is legal: every pair of commands, and every bank by itself.


class Fault(NamedTuple):
    """What is broken, by which command of the log (its position), and the slack of timing."""

    check: Check
    rule: str
    position: int
    slack: int | None


def family_names(rule_set: RuleSet, placement: Placement) -> set[str]:
    family = rule_set.families[placement]
    return {family.activate, family.multiply, family.precharge}


def commands_of(rule_set: RuleSet, placement: Placement) -> list[str]:
    """Those that a log of this placement may hold."""
    others = {name for p in rule_set.families for name in family_names(rule_set, p)}
    shared = {rule_set.precharge_all, rule_set.refresh}
    kept = family_names(rule_set, placement) | shared
    known = (*rule_set.row_commands, *rule_set.column_commands)
    return [name for name in known if name in kept or name not in others]


def place_of(entry: LoggedCommand, rule_set: RuleSet) -> tuple[int, int, int, int]:
    if entry.command in (rule_set.precharge_all, rule_set.refresh):
        return (entry.pseudo_channel, ANY, ANY, ANY)
    return (entry.pseudo_channel, entry.rank, entry.bank_group, entry.bank)


def meet(one: tuple[int, ...], other: tuple[int, ...], scope: Scope) -> bool:
    """Whether two places lie on the same instance of a scope."""
    return all(
        not compared or a == b or ANY in (a, b)
        for a, b, compared in zip(one, other, COMPARED[scope], strict=True)
    )


def naive_timing(log: list[LoggedCommand], device: DramDevice) -> set[Fault]:
    rule_set = device.rule_set
    parameters = device.parameters(power_limited=True)
    rules: dict[str, list[tuple[Rule, int]]] = {}
    for rule in rule_set.rules:
        for name in rule.after:
            rules.setdefault(name, []).append((rule, evaluate_cycles(rule.latency, parameters)))
    faults: set[Fault] = set()
    for position, after in enumerate(log):
        for rule, cycles in rules.get(after.command, []):
            meeting = sorted(
                before.cycle
                for before in log[:position]
                if before.channel == after.channel
                and before.command in rule.before
                and meet(place_of(before, rule_set), place_of(after, rule_set), rule.scope)
            )
            if len(meeting) >= rule.window:
                slack = after.cycle - meeting[-rule.window] - cycles
                if slack < 0:
                    faults.add(Fault(Check.TIMING, describe_rule(rule, cycles), position, slack))
    return faults


@cache
def banks_covered(
    place: tuple[int, ...], scope: Scope, sizes: tuple[int, ...]
) -> list[tuple[int, ...]]:
    return [bank for bank in product(*map(range, sizes)) if meet(bank, place, scope)]


def naive_state(log: list[LoggedCommand], placement: Placement, device: DramDevice) -> set[Fault]:
    """Buses, and the open row of every single bank, opened by the units or by ordinary traffic."""
    rule_set = device.rule_set
    family = rule_set.families[placement]
    nothing = OrdinaryFamily(activate="", read="", write="", precharge="")
    ordinary = rule_set.ordinary or nothing
    o = device.organization
    sizes = (o.pseudo_channels, o.ranks, o.bank_groups, o.banks)
    units_rows: dict[tuple[int, ...], int] = {}
    ordinary_rows: dict[tuple[int, ...], int] = {}
    had_turn: set[tuple[int, ...]] = set()
    faults: set[Fault] = set()
    for position, entry in enumerate(log):

        def fault(kind: Check, slack: int | None = None, position: int = position) -> None:
            faults.add(Fault(kind, "", position, slack))

        own_bus = rule_set.row_commands
        if entry.command not in own_bus:
            own_bus = rule_set.column_commands
        on_bus = [c for c in log[:position] if c.channel == entry.channel and c.command in own_bus]
        if on_bus and on_bus[-1].cycle == entry.cycle:
            fault(Check.BUS, -1)

        of_units = entry.command in (family.activate, family.multiply, family.precharge)
        scope = family.row_scope if of_units else Scope.BANK
        if entry.command == rule_set.precharge_all:
            scope = Scope.CHANNEL
        elif entry.command == rule_set.refresh:
            scope = Scope.PSEUDO_CHANNEL
        place = place_of(entry, rule_set)
        covered = [(entry.channel, *bank) for bank in banks_covered(place, scope, sizes)]
        rows, others = (units_rows, ordinary_rows) if of_units else (ordinary_rows, units_rows)
        found = {rows.get(bank) for bank in covered}
        others_open = any(bank[0] == entry.channel for bank in others)

        if entry.command == rule_set.precharge_all:
            for bank in covered:
                units_rows.pop(bank, None)
                ordinary_rows.pop(bank, None)
        elif entry.command in (family.activate, ordinary.activate):
            if others_open:
                fault(Check.MODE)
            if found != {None}:
                fault(Check.OPEN_BANK)
            rows |= dict.fromkeys(covered, entry.row)
        elif entry.command in (family.precharge, ordinary.precharge):
            if others_open:
                fault(Check.MODE)
            for bank in covered:
                rows.pop(bank, None)
        elif entry.command in (family.multiply, ordinary.read, ordinary.write):
            if None in found:
                fault(Check.CLOSED_ROW)
            elif found != {entry.row}:
                fault(Check.OTHER_ROW)
        elif entry.command in (rule_set.refresh, rule_set.refresh_bank):
            if any(bank in units_rows or bank in ordinary_rows for bank in covered):
                fault(Check.REFRESH_OF_OPEN_BANK)
            if entry.command == rule_set.refresh:
                had_turn -= set(covered)
            elif covered[0] in had_turn:
                fault(Check.REPEATED_REFRESH)
            else:
                had_turn |= set(covered)
                of_pseudo_channel = {bank for bank in had_turn if bank[:2] == covered[0][:2]}
                if len(of_pseudo_channel) == o.banks_per_channel // o.pseudo_channels:
                    had_turn -= of_pseudo_channel
    return faults


def naive_late_refreshes(log: list[LoggedCommand], device: DramDevice) -> int:
    """How many refreshes of how many pseudo-channels came too late, or never."""
    o = device.organization
    per_bank = device.refresh.mode is RefreshMode.PER_BANK
    banks = o.banks_per_channel // o.pseudo_channels
    tolerance = device.timing["nREFI"]
    interval = tolerance // banks if per_bank else tolerance
    end = max((entry.cycle for entry in log), default=0)
    repeated = {
        f.position
        for f in naive_state(log, Placement.BANK, device)
        if f.check is Check.REPEATED_REFRESH
    }
    late = 0
    for channel, pch in product({entry.channel for entry in log}, range(o.pseudo_channels)):
        due = list(range(interval, end + 1, interval))
        for position, entry in enumerate(log):
            if (entry.channel, entry.pseudo_channel) != (channel, pch):
                continue
            if entry.command == device.rule_set.refresh:
                worth = banks if per_bank else 1
            elif entry.command == device.rule_set.refresh_bank and per_bank:
                worth = 0 if position in repeated else 1
            else:
                continue
            late += sum(cycle + tolerance <= entry.cycle for cycle in due)
            due = [cycle for cycle in due if cycle + tolerance > entry.cycle]
            settled = sum(cycle <= entry.cycle for cycle in due[:worth])
            due = due[settled:]
        late += sum(cycle + tolerance <= end for cycle in due)
    return late


def found_faults(log: list[LoggedCommand], report: LegalityReport) -> set[Fault]:
    positions = {id(entry): position for position, entry in enumerate(log)}
    return {
        Fault(
            violation.check,
            violation.rule if violation.check is Check.TIMING else "",
            positions[id(violation.after)],
            violation.slack_cycles,
        )
        for violation in report.violations
        if violation.check is not Check.LATE_REFRESH
    }


def assert_as_naive(log: list[LoggedCommand], placement: Placement, device: DramDevice) -> bool:
    """Compare the checker with the naive statement; returns whether the log is legal."""
    report = check(log, device, placement=placement, power_limited=True, listed=sys.maxsize)
    expected = naive_timing(log, device) | naive_state(log, placement, device)
    assert found_faults(log, report) == expected
    late = only(report.violations, Check.LATE_REFRESH)
    assert len(late) == naive_late_refreshes(log, device)
    return report.legal


# Golden logs, and logs made from them.


def golden_log(reference: Path, name: str, channel: int = 0) -> list[LoggedCommand]:
    folder = reference / "reference/golden/command_logs"
    return list(read_log(folder / f"{name}.ch{channel}.log.gz"))


@pytest.mark.reference
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_logs_are_legal(reference: Path, name: str) -> None:
    """Catches a rule read more strictly than the reference controller keeps it."""
    limited = name.endswith("_pc")
    logs = [golden_log(reference, name, channel) for channel in (0, 15)]
    for log in (*logs, logs[0] + logs[1]):
        report = check(log, DEVICE, placement=GOLDEN[name], power_limited=limited)
        assert report.violations == ()
        assert report.legal
        assert report.commands == len(log)
        assert report.last_cycle == max((entry.cycle for entry in log), default=0)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["bank_h33_L2048_d128_b2_npc", "bg_h17_L1500_d128_b2_npc"])
def test_golden_logs_break_the_slower_cadence(reference: Path, name: str) -> None:
    """Catches a checker that takes the cadence from elsewhere, or none at all."""
    violations = audit(golden_log(reference, name), GOLDEN[name])
    suffix = "AB" if GOLDEN[name] is Placement.BANK else "SB"
    rule = f"MAC{suffix} -> MAC{suffix}: nCCD{suffix} = 6 at channel"
    assert {(v.rule, v.slack_cycles) for v in violations} == {(rule, -2)}


@pytest.mark.untraced  # thousands of logs: the checker would take three times as long
@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "around_refresh"),
    [
        ("bank_h16_L256_d128_b2_pc", False),
        ("bank_h33_L2048_d128_b2_npc", True),
        ("bg_h16_L256_d128_b2_pc", False),
        ("bg_h17_L1500_d128_b2_npc", True),
        ("buffer_h8_L16_d128_b2_npc", False),
        ("buffer_h17_L257_d128_b2_pc", True),
    ],
)
def test_moved_and_swapped_commands_of_golden_logs(
    reference: Path, name: str, around_refresh: bool
) -> None:
    """Catches a fault that is missed, or seen where there is none, among real neighbours: each
    command a cycle earlier, a cycle later, and in the next one's place.
    """
    log = golden_log(reference, name)
    if around_refresh:
        refresh = next(index for index, entry in enumerate(log) if entry.command == "REFab")
        log = log[refresh - 25 : refresh + 25]
    else:
        log = log[:50]
    illegal = 0
    for index, entry in enumerate(log):
        for cycle in (entry.cycle - 1, entry.cycle + 1):
            moved = [*log[:index], replace(entry, cycle=cycle), *log[index + 1 :]]
            moved.sort(key=lambda c: c.cycle)
            if moved[0].cycle > 0:
                illegal += not assert_as_naive(moved, GOLDEN[name], DEVICE)
    for index, (one, other) in enumerate(pairwise(log)):
        pair = (replace(other, cycle=one.cycle), replace(one, cycle=other.cycle))
        swapped = [*log[:index], *pair, *log[index + 2 :]]
        illegal += not assert_as_naive(swapped, GOLDEN[name], DEVICE)
    assert illegal > len(log)


@pytest.mark.reference
def test_no_multiply_of_a_golden_log_may_come_earlier(reference: Path) -> None:
    """Catches an audit that lets the commands slip that matter most."""
    log = golden_log(reference, "bank_h16_L256_d128_b2_pc")
    early: set[str] = set()
    for index, entry in enumerate(log):
        if entry.command == "MACAB":
            moved = [*log[:index], replace(entry, cycle=entry.cycle - 1), *log[index + 1 :]]
            moved.sort(key=lambda c: c.cycle)
            found = audit(moved)
            assert {v.slack_cycles for v in found} == {-1}
            early |= {v.rule for v in found}
    assert early == {
        "MACAB -> MACAB: nCCDAB = 6 at channel",
        "ACTAB -> MACAB: nRCD = 19 at channel",
        "one command a cycle on the column bus of a channel",
    }


# The faults of the released simulator (reference/attacc.md, 1 to 3), as its logs would show them.


@pytest.mark.reference
def test_a_refresh_that_does_not_wait_for_its_precharge(reference: Path) -> None:
    """Fault 1: REFab ignores nRP after PREA."""
    log = golden_log(reference, "bg_h17_L1500_d128_b2_npc")
    precharge = next(entry for entry in log if entry.command == "PREA")
    early = [
        replace(entry, cycle=precharge.cycle + 1 + entry.pseudo_channel)
        if entry.command == "REFab" and entry.cycle < 6000
        else entry
        for entry in log
    ]
    beside, found = audit(early, Placement.BANKGROUP, power_limited=False)
    assert beside.rule == "ACTAB, ACTSB, ACTPB -> REFab: nRC = 63 at pseudo_channel"
    assert found.rule == "PREA, PRESB, PREPB -> REFab: nRP = 19 at pseudo_channel"
    assert found.before == precharge
    assert found.after == replace(precharge, command="REFab", cycle=precharge.cycle + 1)
    assert (found.required_cycles, found.actual_cycles, found.slack_cycles) == (19, 1, -18)


@pytest.mark.reference
def test_an_activate_that_forgets_the_refresh_of_the_second_pseudo_channel(
    reference: Path,
) -> None:
    """Fault 1: nRFC counted from the first of the two refreshes."""
    log = golden_log(reference, "buffer_h17_L257_d128_b2_pc")
    second = next(c for c in log if c.command == "REFab" and c.pseudo_channel == 1)
    first_activate = next(c for c in log if c.command == "ACTPB" and c.cycle > second.cycle)
    early = [replace(c, cycle=c.cycle - 1) if c is first_activate else c for c in log]
    (found,) = audit(early, Placement.BUFFER)
    assert found.rule == "REFab -> ACTAB, ACTSB, ACTPB: nRFC = 456 at channel"
    assert (found.before, found.slack_cycles) == (second, -1)


@pytest.mark.reference
def test_a_pseudo_channel_that_is_never_refreshed(reference: Path) -> None:
    """Fault 1, taken further: the second pseudo-channel forgotten altogether."""
    log = golden_log(reference, "buffer_h33_L511_d96_b2_pc")
    without = [c for c in log if c.command != "REFab" or c.pseudo_channel == 0]
    found = audit(without, Placement.BUFFER)
    assert [v.check for v in found] == [Check.LATE_REFRESH] * 2
    assert [(v.before, v.after, v.scope) for v in found] == [(None, None, Scope.PSEUDO_CHANNEL)] * 2
    end = log[-1].cycle
    assert [v.actual_cycles for v in found] == [end - 5070, end - 10140]
    assert [v.slack_cycles for v in found] == [10139 - end, 15209 - end]
    assert "channel 0, pseudo-channel 1: the refresh due at cycle 5070" in found[0].rule


def test_a_softmax_that_ignores_the_data_bus() -> None:
    """Fault 2: SFM beside a move of its pseudo-channel."""
    found = audit([at(1, "MVSB"), at(2, "SFM", (0, 1, 1, 0)), at(4, "MVGB", (0, 0, 1, 0))])
    moves = "WRGB, MVSB, MVGB, SFM"
    assert [(v.rule, v.slack_cycles) for v in found] == [
        (f"{moves} -> {moves}: nBL = 2 at pseudo_channel", -1)
    ]


def test_a_row_that_another_bank_group_kept_open() -> None:
    """Fault 3: PRESB closed one bank only, so the row is taken for open in the other groups."""
    log = [
        at(1, "ACTSB", row=7),
        at(20, "MACSB", row=7),
        at(46, "PRESB", row=7),
        at(60, "MACSB", (0, 1, 2, 0), row=7),
    ]
    (found,) = audit(log, Placement.BANKGROUP)
    assert found.check is Check.CLOSED_ROW
    assert (found.before, found.after, found.scope) == (log[2], log[3], Scope.BANK_INDEX)
    assert found.rule == "MACSB needs row 7 open: its banks are closed"


@pytest.mark.reference
def test_a_closed_row_used_on_in_a_golden_log(reference: Path) -> None:
    """Fault 3 once more: after each PRESB, a multiply finds the same row in another bank group."""
    log = golden_log(reference, "bg_h16_L256_d128_b2_pc")
    closing = [c for c in log if c.command == "PRESB"]
    assert closing
    multiplies = {c.cycle for c in log if c.command in ("MACSB", "ACTSB")}
    for one in closing:
        opened = [c for c in log if c.command == "ACTSB" and c.bank == one.bank]
        row = max((c for c in opened if c.cycle < one.cycle), key=lambda c: c.cycle).row
        extra = replace(one, cycle=one.cycle + 6, command="MACSB", bank_group=3, row=row)
        if {extra.cycle + distance for distance in range(-6, 7)} & multiplies:
            found = audit(sorted([*log, extra], key=lambda c: c.cycle), Placement.BANKGROUP)
            assert [v.after for v in only(found, Check.CLOSED_ROW)] == [extra]


def test_an_activate_of_banks_that_another_group_opened() -> None:
    """Fault 3: PRESB and ACTSB repeated for every bank group."""
    log = [at(1, "ACTSB", row=7), at(70, "ACTSB", (0, 0, 1, 0), row=8), at(90, "MACSB", row=7)]
    first, second = audit(log, Placement.BANKGROUP)
    assert (first.check, first.before, first.after) == (Check.OPEN_BANK, log[0], log[1])
    assert first.rule == "ACTSB needs its banks closed: row 7 is open"
    assert (second.check, second.before, second.after) == (Check.OTHER_ROW, log[1], log[2])
    assert second.rule == "MACSB needs row 7 open: row 8 is"


@pytest.mark.reference
def test_multiplies_whose_banks_keep_no_time(reference: Path) -> None:
    """Fault 3: MACPB counted for the wrong banks, so its own are precharged at once."""
    log = golden_log(reference, "buffer_h17_L257_d128_b2_pc")
    rules: dict[str, int] = {}
    closing = [index for index, entry in enumerate(log) if entry.command == "PREPB"]
    for index in closing[::8]:
        entry = log[index]
        place = (entry.rank, entry.bank_group, entry.bank)
        last = max(
            c.cycle
            for c in log[:index]
            if c.command == "MACPB" and (c.rank, c.bank_group, c.bank) == place
        )
        moved = [*log[:index], replace(entry, cycle=last + 1), *log[index + 1 :]]
        moved.sort(key=lambda c: c.cycle)
        for violation in audit(moved, Placement.BUFFER):
            if violation.before is not None and violation.before.command == "MACPB":
                assert violation.slack_cycles == -7
                rules[violation.rule] = rules.get(violation.rule, 0) + 1
    assert rules == {"MACPB -> PREPB: nRTPL = 8 at bank_pair": 13}


def test_multiplies_of_one_bank_group_in_a_row() -> None:
    """Fault 3: nCCDL kept for another bank group than the one that was read."""
    log = [
        at(1, "ACTPB"),
        at(3, "ACTPB", (0, 0, 0, 1)),
        at(22, "MACPB"),
        at(24, "MACPB", (0, 0, 0, 1)),
    ]
    (found,) = audit(log, Placement.BUFFER)
    assert found.rule == "MACPB -> MACPB: nCCDL = 4 at bank_group"
    assert (found.before, found.after, found.slack_cycles) == (log[2], log[3], -2)


HAND = {
    "fault 1: REFab does not wait for PREA": (
        Placement.BANK,
        [
            at(1, "ACTAB", row=3),
            at(20, "MACAB", row=3),
            maintenance(83, "PREA"),
            maintenance(84, "REFab", 0),
            maintenance(102, "REFab", 1),
        ],
        {
            "attacc-pim": [("PREA, PRESB, PREPB -> REFab: nRP = 19 at pseudo_channel", -18)],
            # There PREA counts for the pseudo-channel that it was not addressed to as well.
            "hbm-pim": [("PREA, PRESB, PREPB -> REFab: nRP = 19 at channel", -18)],
        },
    ),
    "fault 1: the second REFab does not hold activates back": (
        Placement.BUFFER,
        [
            maintenance(100, "REFab", 0),
            maintenance(150, "REFab", 1),
            at(556, "ACTPB", row=3),
        ],
        {
            "attacc-pim": [("REFab -> ACTAB, ACTSB, ACTPB: nRFC = 456 at channel", -50)],
            "hbm-pim": [
                (
                    "REFab -> ACTAB, ACTSB, ACTPB, PREA, PRESB, PREPB: nRFC = 456 at channel",
                    -50,
                )
            ],
        },
    ),
    "fault 3: MACPB counts for the wrong bank": (
        Placement.BUFFER,
        [
            at(1, "ACTPB", (0, 1, 2, 3), row=3),
            at(60, "MACPB", (0, 1, 2, 3), row=3),
            at(61, "PREPB", (0, 1, 2, 3), row=3),
        ],
        {
            "attacc-pim": [("MACPB -> PREPB: nRTPL = 8 at bank_pair", -7)],
            "hbm-pim": [("MACPB -> PREPB: nRTPL = 8 at bank_pair", -7)],
        },
    ),
    "fault 3: PRESB closes one bank": (
        Placement.BANKGROUP,
        [
            at(1, "ACTSB", row=3),
            at(20, "MACSB", row=3),
            at(46, "PRESB", row=3),
            at(60, "MACSB", (1, 1, 2, 0), row=3),
        ],
        {
            "attacc-pim": [("MACSB needs row 3 open: its banks are closed", None)],
            "hbm-pim": [("MACSB needs row 3 open: its banks are closed", None)],
        },
    ),
}


@pytest.mark.parametrize("device", [DEVICE, COMPLETE], ids=lambda device: device.rules)
@pytest.mark.parametrize("fault", HAND)
def test_the_unrepaired_faults_by_hand(fault: str, device: DramDevice) -> None:
    """Catches an audit that a log of the released simulator, faults 1 and 3, would pass; without
    the reference's own logs.
    """
    placement, log, expected = HAND[fault]
    found = audit(log, placement, device)
    assert [(v.rule, v.slack_cycles) for v in found] == expected[device.rules]
    assert {v.after for v in found} <= set(log[1:])


# Logs of the engine.


@pytest.mark.untraced
@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.PUBLISHED])
@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize(("device", "power_limited"), [(DEVICE, True), (OFTEN, False)])
def test_built_programs_run_legally(
    placement: Placement, schedule: Schedule, device: DramDevice, power_limited: bool
) -> None:
    """Catches an engine that issues a command too early, or a checker stricter than the rules."""
    layout = HeadLayout(device.organization, placement, 96, ElementType.FP16, 150)
    program = attention_program(layout, 18, schedule)
    tables = resolve_timing(device, placement, power_limited=power_limited)
    log = run(program, tables, log=True).log
    assert log is not None
    report = check(log, device, placement=placement, power_limited=power_limited)
    assert report.violations == ()
    assert report.channels == tuple(range(16))


@st.composite
def traces(draw: st.DrawFn, placement: Placement) -> str:
    """Few banks, rows and channels; any pseudo-channel."""
    multiply = next(name for name, kind in NAMES.items() if kind is MULTIPLY[placement])
    others = ["PIM_WR_GB", "PIM_MV_SB", "PIM_MV_GB", "PIM_SFM", "PIM_BARRIER"]
    lines: list[str] = []
    for name in draw(st.lists(st.sampled_from([multiply] * 9 + others), min_size=1, max_size=90)):
        row, column = draw(st.integers(0, 2)), draw(st.integers(0, 1))
        bank = draw(st.integers(0, 63))
        address = bank << 24 | row << 10 | column << 5 | draw(st.integers(0, 1)) << 30
        lines.append(f"{name} {address:#x}\n")
    return "".join(lines)


@pytest.mark.untraced  # of many logs alike
@pytest.mark.parametrize("placement", list(Placement))
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 60, 24))
def test_random_programs_run_legally(placement: Placement, data: st.DataObject) -> None:
    """Catches what built programs are too regular to reach."""
    device = data.draw(st.sampled_from([DEVICE, OFTEN]))
    limited = data.draw(st.booleans())
    text = data.draw(traces(placement))
    program = parse_trace(text.encode(), device.organization, where="drawn")
    try:
        timed = run(program, resolve_timing(device, placement, power_limited=limited), log=True)
    except InputError:
        reject()  # rows that are closed for each other for ever
    assert timed.log is not None
    assert check(timed.log, device, placement=placement, power_limited=limited).violations == ()


# Every timing rule, from the rule sets themselves.


class Gate(NamedTuple):
    """Two commands that a rule of a device is about."""

    device: DramDevice
    placement: Placement
    rule: Rule
    before: str
    after: str

    @property
    def cycles(self) -> int:
        return evaluate_cycles(self.rule.latency, self.device.parameters(power_limited=True))

    def log(self, distance: int, place: tuple[int, int, int, int]) -> list[LoggedCommand]:
        """The two, so many cycles apart, the second one at a place; the first as often as the
        rule's window counts, all at once.
        """
        rule_set = self.device.rule_set
        first = (10, self.before, (0, 0, 0, 0))
        return [
            maintenance(cycle, name, where[0])
            if name in (rule_set.precharge_all, rule_set.refresh)
            else at(cycle, name, where)
            for cycle, name, where in (
                *[first] * self.rule.window,
                (10 + distance, self.after, place),
            )
        ]


def sizes_of(device: DramDevice) -> tuple[int, int, int, int]:
    o = device.organization
    return (o.pseudo_channels, o.ranks, o.bank_groups, o.banks)


def gates() -> Iterator[Gate]:
    devices = map(DRAMS.load, DRAMS.names())
    one_per_rule_set = {d.rules: d for d in devices if min(sizes_of(d)) > 1}
    for device in one_per_rule_set.values():
        rule_set = device.rule_set
        for placement, rule in product(rule_set.families, rule_set.rules):
            names = commands_of(rule_set, placement)
            for before, after in product(rule.before, rule.after):
                if before in names and after in names:
                    yield Gate(device, placement, rule, before, after)


def timing_of(log: list[LoggedCommand], gate: Gate) -> set[tuple[str, int | None]]:
    violations = audit(log, gate.placement, gate.device)
    return {(v.rule, v.slack_cycles) for v in only(violations, Check.TIMING)}


@pytest.mark.untraced  # thousands of logs: the checker would take three times as long
def test_every_rule_bites_one_cycle_early_and_no_later() -> None:
    """Catches a rule that is dropped, mixed up with another, or off by a cycle. A new rule of any
    device is covered by itself.
    """
    seen: list[Rule] = []
    for gate in gates():
        seen.append(gate.rule)
        name = describe_rule(gate.rule, gate.cycles)
        # As far apart as the scope allows, and on the same bank.
        apart = [0 if compared else 1 for compared in gate.rule.scope.fields]
        for place in ((apart[0], apart[1], apart[2], apart[3]), (0, 0, 0, 0)):
            for distance in (gate.cycles - 1, gate.cycles):
                log = gate.log(distance, place)
                timing = timing_of(log, gate)
                assert timing == {
                    (fault.rule, fault.slack) for fault in naive_timing(log, gate.device)
                }
                found = [slack for rule, slack in timing if rule == name]
                assert found == ([-1] if distance < gate.cycles else [])
    for name in DRAMS.names():
        assert all(rule in seen for rule in DRAMS.load(name).rule_set.rules)


@pytest.mark.untraced  # thousands of logs: the checker would take three times as long
def test_every_rule_stays_within_its_scope() -> None:
    """Catches a rule applied across pseudo-channels, ranks, groups, banks or channels that its
    scope tells apart.
    """
    for gate in gates():
        name = describe_rule(gate.rule, gate.cycles)
        rule_set = gate.device.rule_set
        wide = {gate.before, gate.after} & {rule_set.precharge_all, rule_set.refresh}
        for index, compared in enumerate(gate.rule.scope.fields):
            if compared and not (wide and index > 0):
                place = [0, 0, 0, 0]
                place[index] = 1
                log = gate.log(gate.cycles - 1, (place[0], place[1], place[2], place[3]))
                assert name not in dict(timing_of(log, gate))
        *first, second = gate.log(gate.cycles - 1, (0, 0, 0, 0))
        assert name not in dict(timing_of([*first, replace(second, channel=1)], gate))


TIGHT = {
    Placement.BANK: [
        at(1, "ACTAB", row=3),
        at(20, "MACAB", row=3),
        at(26, "MACAB", row=3),
        at(46, "PREA"),
        at(65, "ACTAB", row=4),
        at(84, "MACAB", row=4),
        maintenance(110, "PREA"),
        maintenance(129, "REFab", 0),
        maintenance(130, "REFab", 1),
        at(586, "ACTAB", row=4),
    ],
    Placement.BANKGROUP: [
        at(1, "ACTSB", row=3),
        at(3, "ACTSB", (0, 0, 0, 1), row=5),
        at(20, "MACSB", row=3),
        at(26, "MACSB", (0, 1, 2, 1), row=5),
        at(46, "PRESB"),
        at(48, "PRESB", (0, 1, 2, 1)),
        at(65, "ACTSB", row=4),
        at(67, "ACTSB", (0, 0, 0, 1), row=5),
        at(84, "MACSB", row=4),
    ],
    Placement.BUFFER: [
        at(1, "ACTPB", (0, 0, 1, 0), row=3),
        at(3, "ACTPB", row=3),
        at(5, "ACTPB", (0, 0, 0, 1), row=5),
        at(20, "MACPB", (0, 0, 1, 0), row=3),
        at(22, "MACPB", row=3),
        at(26, "MACPB", (0, 0, 0, 1), row=5),
        at(28, "MACPB", (0, 0, 1, 0), row=3),
        at(46, "PREPB", (0, 0, 1, 0)),
        at(48, "PREPB"),
        at(65, "ACTPB", (0, 0, 1, 0), row=4),
        at(67, "ACTPB", row=4),
        at(84, "MACPB", (0, 0, 1, 0), row=4),
        at(86, "MACPB", row=4),
    ],
}
"""Every command at the first cycle at which it may issue."""


@pytest.mark.parametrize("placement", list(Placement))
def test_a_log_without_a_cycle_to_spare(placement: Placement) -> None:
    """Catches rules that hold a legal log back, and one that lets a command come early in it."""
    log = TIGHT[placement]
    assert audit(log, placement) == ()
    for index in range(1, len(log)):
        early = replace(log[index], cycle=log[index].cycle - 1)
        found = audit([*log[:index], early], placement)
        assert -1 in [v.slack_cycles for v in found]
        assert {v.after for v in found} == {early}


# What is no timing rule.


def test_one_command_a_cycle_on_each_bus() -> None:
    """Catches two commands at once on one bus, and the two buses taken for one."""
    log = [at(9, "ACTAB"), at(9, "WRGB"), at(9, "MVSB", (1, 0, 0, 0)), at(9, "WRGB", channel=1)]
    (found,) = audit(log)
    assert (found.check, found.before, found.after) == (Check.BUS, log[1], log[2])
    assert (found.required_cycles, found.actual_cycles, found.slack_cycles) == (1, 0, -1)
    assert found.rule == "one command a cycle on the column bus of a channel"
    (found, *_) = audit([maintenance(9, "REFab", 0), maintenance(9, "REFab", 1)])
    assert found.rule == "one command a cycle on the row bus of a channel"


@pytest.mark.parametrize(
    ("placement", "suffix", "elsewhere"),
    [
        (Placement.BANK, "AB", (1, 1, 3, 3)),
        (Placement.BANKGROUP, "SB", (1, 1, 3, 0)),
        (Placement.BUFFER, "PB", (1, 0, 0, 0)),
    ],
)
def test_a_multiply_needs_its_row(
    placement: Placement, suffix: str, elsewhere: tuple[int, int, int, int]
) -> None:
    """Catches a multiply on banks never opened, closed again, or open at another row; and one
    refused although another command's address opened its banks.
    """
    opened = at(1, f"ACT{suffix}", elsewhere, row=5)
    multiply = at(100, f"MAC{suffix}", row=5)
    assert audit([opened, multiply], placement) == ()

    def checks(*log: LoggedCommand) -> list[tuple[Check, object, object]]:
        return [(v.check, v.before, v.after) for v in audit(log, placement)]

    assert checks(multiply) == [(Check.CLOSED_ROW, None, multiply)]
    other = replace(multiply, row=6)
    assert checks(opened, other) == [(Check.OTHER_ROW, opened, other)]
    for closing in (at(60, "PREA"), maintenance(60, "PREA", 1)):
        assert checks(opened, closing, multiply) == [(Check.CLOSED_ROW, closing, multiply)]


@pytest.mark.parametrize(
    ("placement", "suffix", "beside"),
    [(Placement.BANKGROUP, "SB", (0, 0, 0, 1)), (Placement.BUFFER, "PB", (0, 0, 1, 0))],
)
def test_a_precharge_closes_its_banks_and_no_others(
    placement: Placement, suffix: str, beside: tuple[int, int, int, int]
) -> None:
    """Catches a precharge that closes too much, or an open bank that an activate overlooks."""
    log = [
        at(1, f"ACT{suffix}"),
        at(3, f"ACT{suffix}", beside),
        at(60, f"PRE{suffix}"),
        at(100, f"MAC{suffix}", beside),
        at(110, f"ACT{suffix}", beside),
        at(120, f"ACT{suffix}"),
    ]
    (found,) = audit(log, placement)
    assert (found.check, found.before, found.after) == (Check.OPEN_BANK, log[1], log[4])


@pytest.mark.parametrize(
    ("placement", "suffix"),
    [(Placement.BANK, "AB"), (Placement.BANKGROUP, "SB"), (Placement.BUFFER, "PB")],
)
def test_a_refresh_needs_all_banks_closed(placement: Placement, suffix: str) -> None:
    """Catches a refresh of banks that are open, in whichever pseudo-channel they were opened."""
    log = [at(1, f"ACT{suffix}", row=4), maintenance(90, "REFab", 1)]
    (found,) = audit(log, placement)
    assert (found.check, found.before, found.after) == (Check.REFRESH_OF_OPEN_BANK, *log)
    assert found.scope is Scope.PSEUDO_CHANNEL
    assert found.rule == "REFab needs all banks closed: row 4 is open"


def test_a_refresh_does_not_mind_the_other_pseudo_channels_banks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a refresh held back by what it does not touch, where banks work alone."""
    rule_set = DEVICE.rule_set
    families = rule_set.families
    single = families[Placement.BUFFER].model_copy(update={"row_scope": Scope.BANK})
    changed = rule_set.model_copy(update={"families": families | {Placement.BUFFER: single}})
    monkeypatch.setattr(DramDevice, "rule_set", property(lambda _: changed))
    log = [at(1, "ACTPB", (1, 0, 0, 0)), maintenance(90, "REFab", 0)]
    assert audit(log, Placement.BUFFER) == ()
    (found,) = audit([*log, maintenance(91, "REFab", 1)], Placement.BUFFER)
    assert found.check is Check.REFRESH_OF_OPEN_BANK


def test_unknown_commands_and_those_of_other_placements() -> None:
    """Catches a misspelt command that no rule would hold back, and a unit that is not there."""
    log = [at(1, "MACAb"), at(2, "ACTPB"), at(3, "PRESB"), at(4, "MACSB")]
    found = audit(log)
    assert [v.check for v in found] == [Check.UNKNOWN_COMMAND] + [Check.OTHER_PLACEMENT] * 3
    assert [v.after for v in found] == log
    assert "no command 'MACAb': did you mean 'MACAB'" in found[0].rule
    assert found[1].rule == "ACTPB belongs to another placement of the units"
    assert audit([maintenance(1, "PREA")], Placement.BUFFER) == ()


def test_a_barrier_is_no_command() -> None:
    """Catches a barrier that is refused, or takes a bus."""
    assert audit([at(1, "BARRIER"), at(1, "BARRIER"), at(1, "ACTAB"), at(1, "WRGB")]) == ()


@pytest.mark.parametrize(
    ("update", "rule"),
    [
        ({"channel": 16}, "channel = 16 is not 0 to 15"),
        ({"channel": -1}, "channel = -1 is not 0 to 15"),
        ({"pseudo_channel": 2}, "pseudo-channel = 2 is not 0 to 1"),
        ({"rank": 2}, "rank = 2 is not 0 to 1"),
        ({"bank_group": -1}, "bank group = -1 is not 0 to 3"),
        ({"bank": 4}, "bank = 4 is not 0 to 3"),
        ({"row": 16384}, "row = 16384 is not 0 to 16383"),
        ({"column": 32}, "column = 32 is not 0 to 31"),
    ],
)
def test_addresses_that_the_device_does_not_have(update: dict[str, int], rule: str) -> None:
    """Catches a command that is beyond the stack, and therefore on no known bank."""
    log = [replace(at(1, "ACTAB"), **update)]
    (found,) = audit(log)
    assert (found.check, found.rule, found.after) == (Check.ADDRESS, rule, log[0])
    report = check(log, DEVICE, placement=Placement.BANK, power_limited=True)
    assert report.channels == (() if "channel" in update else (0,))


def test_maintenance_is_addressed_to_a_pseudo_channel() -> None:
    """Catches a refresh of nothing in particular, which no rule would compare with anything."""
    (found,) = audit([maintenance(1, "REFab", ANY)])
    assert found.rule == "pseudo-channel = -1 is not 0 to 1"


def test_cycles_never_go_back_within_a_channel() -> None:
    """Catches a log out of order, which would hide what comes too early; channels may take turns
    as they like.
    """
    log = [at(30, "WRGB"), at(10, "WRGB", channel=1), at(29, "WRGB", (1, 0, 0, 0))]
    (found,) = audit(log)
    assert (found.check, found.before, found.after) == (Check.ORDER, log[0], log[2])
    assert (found.required_cycles, found.actual_cycles, found.slack_cycles) == (0, -1, -1)
    (found,) = audit([at(0, "WRGB")])
    assert (found.check, found.rule) == (Check.ORDER, "cycles count from 1")


def test_the_latest_of_commands_out_of_order_counts() -> None:
    """Catches a command that hides behind an earlier one which stands after it in the log."""
    found = audit([at(30, "WRGB"), at(20, "WRGB"), at(31, "WRGB")])
    timing = [v for v in only(found, Check.TIMING) if v.after == at(31, "WRGB")]
    assert {v.before for v in timing} == {at(30, "WRGB")}


# Ordinary traffic.


def test_ordinary_traffic_without_a_cycle_to_spare() -> None:
    """Catches a rule of reads and writes that holds a legal log back, or lets one come early."""
    rest = [
        at(1, "ACT", row=3),
        at(3, "ACT", (0, 0, 1, 0), row=3),
        at(5, "ACT", (1, 0, 0, 0), row=3),
        at(20, "RD", row=3),
        at(22, "RD", (0, 0, 1, 0), row=3),
        at(24, "RD", row=3),
        at(25, "WR", (1, 0, 0, 0), row=3),
        # nCL + nBL + 2 - nCWL = 17 cycles to turn the bus around.
        at(41, "WR", row=3),
        # nCWL + nBL + nWTRS = 16 cycles, and nWTRL = 11 in the same bank group.
        at(57, "RD", (0, 0, 1, 0), row=3),
        at(60, "RD", row=3),
        # nCWL + nBL + nWR = 29.
        at(70, "PRE", row=3),
        at(89, "ACT", row=4),
        at(108, "WR", row=4),
        at(137, "PREA", row=4),
        at(156, "ACTAB", row=5),
        at(175, "MACAB", row=5),
        at(201, "PREA", row=5),
        at(220, "ACT", row=6),
    ]
    assert audit(rest, Placement.BANK, COMPLETE) == ()
    loose = {"WR": (1, 0, 0, 0)}
    for index in range(3, len(rest)):
        if (rest[index].command, place_of(rest[index], COMPLETE.rule_set)) in loose.items():
            continue
        early = replace(rest[index], cycle=rest[index].cycle - 1)
        found = audit([*rest[:index], early], Placement.BANK, COMPLETE)
        assert -1 in [v.slack_cycles for v in found], early


def test_four_activates_in_a_window() -> None:
    """Catches a fifth activate within nFAW of the first, and one refused that is not the fifth."""
    places = [(0, rank, group, 0) for rank in (0, 1) for group in range(4)]
    activates = [at(1 + 2 * i, "ACT", places[i], row=3) for i in range(4)]
    fifth = at(40, "ACT", places[4], row=3)
    assert audit([*activates, fifth], Placement.BANK, COMPLETE) == ()
    (found,) = audit([*activates, replace(fifth, cycle=39)], Placement.BANK, COMPLETE)
    assert found.rule == "ACT -> ACT: nFAW = 39 at pseudo_channel, from the last but 3"
    assert (found.before, found.slack_cycles) == (activates[0], -1)
    # The other pseudo-channel has a window of its own.
    assert audit([*activates, at(9, "ACT", (1, 0, 0, 0))], Placement.BANK, COMPLETE) == ()


def test_ordinary_commands_need_their_bank() -> None:
    """Catches a read of a closed bank or of another row, and a bank opened twice."""
    log = [
        at(1, "RD", row=3),
        at(2, "ACT", row=3),
        at(30, "WR", row=4),
        at(40, "RD", (0, 0, 0, 1), row=3),
        at(70, "ACT", row=4),
        at(120, "PRE"),
        at(130, "WR", row=4),
    ]
    found = audit(log, Placement.BANK, COMPLETE)
    assert [(v.check, v.before, v.after) for v in found if v.check is not Check.TIMING] == [
        (Check.CLOSED_ROW, None, log[0]),
        (Check.OTHER_ROW, log[1], log[2]),
        (Check.CLOSED_ROW, None, log[3]),
        (Check.OPEN_BANK, log[1], log[4]),
        (Check.CLOSED_ROW, log[5], log[6]),
    ]


def test_rows_of_the_units_and_of_ordinary_traffic_exclude_each_other() -> None:
    """Catches a channel that serves both at once; after PREA it may change."""
    log = [
        at(1, "ACTPB", row=3),
        at(80, "ACT", (0, 1, 0, 0), row=4),
        at(160, "MACPB", row=3),
        at(200, "PREPB"),
        at(300, "ACTPB", row=3),
        at(400, "PRE", (0, 1, 0, 0)),
        maintenance(500, "PREA"),
        at(600, "ACT", (0, 1, 0, 0), row=4),
    ]
    found = audit(log, Placement.BUFFER, COMPLETE)
    assert [(v.check, v.before, v.after) for v in found] == [
        (Check.MODE, log[0], log[1]),
        (Check.MODE, log[1], log[3]),
        (Check.MODE, log[1], log[4]),
        (Check.MODE, log[4], log[5]),
    ]
    assert found[0].rule == "ACT needs the rows of the units closed: row 3 is open"
    assert found[1].rule == "PREPB needs the rows of ordinary traffic closed: row 4 is open"
    assert audit([log[0], log[2], log[3], log[7]], Placement.BUFFER, COMPLETE) == ()


# Refresh in time.


def refreshes(*cycles: int) -> list[LoggedCommand]:
    """Both pseudo-channels refreshed."""
    return [maintenance(cycle + pch, "REFab", pch) for cycle in cycles for pch in (0, 1)]


def late(log: list[LoggedCommand], postponed: int = 0) -> list[tuple[int | None, int | None]]:
    """Cycle of the refresh that came too late (None: never), and by how much."""
    report = check(
        log,
        DEVICE,
        placement=Placement.BANK,
        power_limited=True,
        postponed_refreshes=postponed,
    )
    assert all(violation.check is Check.LATE_REFRESH for violation in report.violations)
    return [(v.after.cycle if v.after else None, v.slack_cycles) for v in report.violations]


def test_refreshes_issue_before_the_next_falls_due() -> None:
    """Catches a refresh a cycle too late, in one pseudo-channel of two; and one called late that
    is not.
    """
    assert late(refreshes(5070, 10140, 15210)) == []
    assert late(refreshes(10138, 15208)) == []
    assert late(refreshes(10139, 15209)) == [(10140, -1)]
    assert late(refreshes(10140, 15210)) == [(10140, -1), (10141, -2)]


def test_a_refresh_left_out_is_missed_once() -> None:
    """Catches a refresh that never came; those after it are on time."""
    assert late(refreshes(5100, 15300)) == [(15300, -91), (15301, -92)]
    assert late([*refreshes(5100), at(15209, "WRGB")]) == []
    assert late([*refreshes(5100), at(15210, "WRGB")]) == [(None, -1)] * 2
    assert late([at(5069 + 5070, "WRGB")]) == []
    log = refreshes(5100, 15300)
    assert [(v.before, v.after) for v in audit(log)] == [(log[0], log[2]), (log[1], log[3])]


def test_a_refresh_ahead_of_time_earns_no_credit() -> None:
    """Catches a burst of refreshes that stands for those of the rest of the log."""
    assert late([*refreshes(10, 20, 30, 5070, 5080), at(15300, "WRGB")]) == [(None, -91)] * 2


def test_postponed_refreshes_are_caught_up() -> None:
    """Catches debts forgiven or counted twice where a controller may postpone."""
    burst = refreshes(20000, 20002, 20004)
    assert late(burst, postponed=2) == []
    assert late(burst, postponed=1) == [(20000, -4791), (20001, -4792)]
    assert late([*refreshes(20000), at(25350, "WRGB")], postponed=2) == [(None, -1)] * 2


def test_an_idle_channel_is_refreshed_too() -> None:
    """Catches a channel that is forgotten once it has nothing more to do."""
    log = [at(1, "WRGB", channel=3), *refreshes(5070, 10140)]
    found = audit(log)
    assert [v.check for v in found] == [Check.LATE_REFRESH] * 2
    assert all("channel 3" in v.rule for v in found)


def test_refreshes_missed_in_a_very_long_log_are_counted() -> None:
    """Catches a record, or a step, for each of 10^14 missed refreshes: no time would be enough."""
    first, last = at(1, "WRGB"), at(10**18 - 1, "WRGB", channel=15)
    report = check([first, last], DEVICE, placement=Placement.BANK, power_limited=True)
    # Of two channels with two pseudo-channels each: those due up to 5070 cycles before the end.
    missed = 4 * ((10**18 - 1) // 5070 - 1)
    assert report.broken == (BrokenRule(Check.LATE_REFRESH, None, missed),)
    assert report.total == missed
    assert not report.legal
    assert len(report.violations) == LISTED
    assert "due at cycle 507000, " in report.violations[-1].rule


@pytest.mark.parametrize("listed", [0, 1, 3, 7])
def test_all_violations_are_counted_and_the_first_of_each_rule_listed(listed: int) -> None:
    """Catches a list that grows with the log, and one rule that takes the room of another."""
    log = [at(1, "ACTAB")]
    for n in range(5):
        log += [at(20 + 3 * n, "MACAB"), at(20 + 3 * n, "NOPE"), at(21 + 3 * n, "MACAB", row=1)]
    every = audit(log)
    report = check(log, DEVICE, placement=Placement.BANK, power_limited=True, listed=listed)
    kinds = Counter((v.check, v.rule if v.check is Check.TIMING else None) for v in every)
    assert {(rule.check, rule.rule): rule.count for rule in report.broken} == kinds
    assert {Check.TIMING, Check.UNKNOWN_COMMAND, Check.OTHER_ROW} <= {check for check, _ in kinds}
    assert max(kinds.values()) > 3
    seen: Counter[tuple[Check, str | None]] = Counter()
    for violation in every:
        kind = (violation.check, violation.rule if violation.check is Check.TIMING else None)
        seen[kind] += 1
        assert (violation in report.violations) == (seen[kind] <= listed)
    assert len(report.violations) == sum(min(count, listed) for count in kinds.values())
    assert report.total == len(every)


def bank_refresh(cycle: int, place: tuple[int, int, int, int]) -> LoggedCommand:
    return LoggedCommand(cycle, "REFsb", 0, *place, ANY, ANY)


def a_round(first: int, interval: int) -> list[LoggedCommand]:
    """Every bank of both pseudo-channels, in some order."""
    return [
        bank_refresh(first + i * interval + pch, (pch, rank, group, bank))
        for i, (rank, group, bank) in enumerate(product(range(2), range(4), range(4)))
        for pch in (0, 1)
    ]


def test_every_bank_is_refreshed_in_turn() -> None:
    """Catches a bank that is refreshed twice while another goes without; the order is free."""
    log = a_round(158, 158)
    assert audit(log, Placement.BUFFER, PER_BANK) == ()
    assert audit([*log, *a_round(5214, 158)], Placement.BUFFER, PER_BANK) == ()
    again = bank_refresh(5214, (0, 0, 0, 0))
    (found,) = audit([*log[:-2], again], Placement.BUFFER, PER_BANK)
    assert (found.check, found.before, found.after) == (Check.REPEATED_REFRESH, log[0], again)
    assert found.rule == "REFsb takes every bank of a pseudo-channel in turn"
    after_all = maintenance(5160, "REFab", 0)
    log = [*log[:-2], after_all, replace(again, cycle=5700)]
    assert only(audit(log, Placement.BUFFER, PER_BANK), Check.REPEATED_REFRESH) == []


def test_refreshes_of_banks_are_due_one_by_one() -> None:
    """Catches a bank's refresh that comes more than nREFI late, or never."""
    first, second, *rest = a_round(158 + 5068, 158)
    assert second.cycle == 158 + 5069
    assert audit([first, second, *rest], Placement.BUFFER, PER_BANK) == ()
    late = replace(second, cycle=5228)
    (found,) = audit([first, late, *rest], Placement.BUFFER, PER_BANK)
    assert (found.check, found.after, found.slack_cycles) == (Check.LATE_REFRESH, late, -1)
    text = "pseudo-channel 1: the refresh due at cycle 158, a multiple of nREFI / 32 = 158"
    assert text in found.rule
    # One refresh of all banks stands for those that are due of all of them.
    end = at(10112, "WRGB")
    both = refreshes(5070)
    assert audit([*both, end], Placement.BUFFER, PER_BANK) == ()
    assert len(audit([at(5228, "WRGB")], Placement.BUFFER, PER_BANK)) == 2


def test_a_bank_is_closed_before_its_refresh() -> None:
    """Catches a refresh of a bank that the units or ordinary traffic have open."""
    for opened, placement, there, elsewhere in (
        (at(1, "ACTSB", row=3), Placement.BANKGROUP, (1, 1, 2, 0), (0, 0, 0, 1)),
        (at(1, "ACTPB", row=3), Placement.BUFFER, (1, 0, 0, 0), (0, 1, 0, 0)),
        (at(1, "ACT", row=3), Placement.BUFFER, (0, 0, 0, 0), (1, 0, 0, 0)),
    ):
        refresh = bank_refresh(100, there)
        (found,) = audit([opened, refresh], placement, PER_BANK)
        assert (found.check, found.before, found.after) == (
            Check.REFRESH_OF_OPEN_BANK,
            opened,
            refresh,
        )
        assert found.rule == "REFsb needs its bank closed: row 3 is open"
        assert audit([opened, bank_refresh(100, elsewhere)], placement, PER_BANK) == ()


def test_hot_devices_and_slow_units() -> None:
    """Catches an audit that forgets the temperature, or the queries that share a read."""
    log = refreshes(5070)
    for temperature, late_ones in ((None, 0), (85.0, 0), (86.0, 2)):
        report = check(
            log,
            COMPLETE,
            placement=Placement.BANK,
            power_limited=True,
            temperature_c=temperature,
        )
        assert [v.check for v in report.violations] == [Check.LATE_REFRESH] * late_ones
    multiplies = [at(1, "ACTAB"), at(20, "MACAB"), at(26, "MACAB")]
    for queries, slack in ((1, []), (3, []), (4, [-2])):
        report = check(
            multiplies,
            COMPLETE,
            placement=Placement.BANK,
            power_limited=True,
            queries_per_read=queries,
        )
        assert [v.slack_cycles for v in report.violations] == slack


@pytest.mark.parametrize("postponed", [-1, 9])
def test_no_more_may_be_postponed_than_standards_allow(postponed: int) -> None:
    """Catches a typo that would switch the check of refreshes off."""
    with pytest.raises(InputError, match=f"postponed_refreshes = {postponed} is not 0 to 8"):
        late([], postponed)


# Random logs, mostly illegal, against the naive statement.


NARROW = [
    Rule(scope=Scope.BANK, before=("PREA",), after=("WRGB", "MACPB"), latency="nRP"),
    Rule(
        scope=Scope.BANK_GROUP, before=("WRGB", "MVSB"), after=("PREA", "REFab"), latency="3 * nRC"
    ),
    Rule(scope=Scope.BANK_INDEX, before=("REFab",), after=("REFab", "MACSB"), latency="nRC + 2"),
    Rule(scope=Scope.BANK, before=("ACTAB",), after=("MVGB",), latency="0"),
    Rule(
        scope=Scope.BANK,
        before=("PREA", "WRGB", "REFab"),
        after=("REFab", "WRGB", "MACPB"),
        latency="nRC",
        window=3,
    ),
    Rule(scope=Scope.RANK, before=("WRGB",), after=("MVSB", "PREA"), latency="nRC + nRC", window=2),
]
"""Rules that no device has: maintenance, which has no bank, where banks are compared."""


@st.composite
def random_logs(draw: st.DrawFn, rule_set: RuleSet, placement: Placement) -> list[LoggedCommand]:
    cycles = dict.fromkeys((0, 1), draw(st.integers(1, 150)))
    log: list[LoggedCommand] = []
    names = commands_of(rule_set, placement)
    for _ in range(draw(st.integers(0, 35))):
        channel = draw(st.sampled_from((0, 0, 1)))
        name = draw(st.sampled_from(names))
        cycle = cycles[channel] = cycles[channel] + draw(
            st.one_of(st.integers(0, 5), st.integers(0, 70))
        )
        pseudo_channel, small = draw(st.integers(0, 1)), st.integers(0, 1)
        is_maintenance = name in (rule_set.precharge_all, rule_set.refresh)
        if name == rule_set.refresh_bank:
            place = (draw(small), draw(small), draw(small))
            log.append(LoggedCommand(cycle, name, channel, pseudo_channel, *place, ANY, ANY))
        elif is_maintenance and draw(st.booleans()):
            log.append(maintenance(cycle, name, pseudo_channel, channel))
        else:
            place = (pseudo_channel, draw(small), draw(small), draw(small))
            log.append(at(cycle, name, place, row=draw(small), channel=channel))
    return log


@pytest.mark.untraced  # of a naive checker
@pytest.mark.parametrize("original", [DEVICE, COMPLETE, PER_BANK], ids=["pim", "hbm", "per-bank"])
@pytest.mark.parametrize("placement", list(Placement))
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 60, 24))
def test_random_logs_as_the_naive_statement_says(
    placement: Placement, original: DramDevice, data: st.DataObject
) -> None:
    """Catches every shortcut of the checker: the latest commands per instance, banks that share a
    row kept as one, maintenance that has no bank, channels mixed, traffic of two sorts.
    """
    rule_set = original.rule_set.model_copy(update={"rules": (*original.rule_set.rules, *NARROW)})
    timing = original.timing | {"nREFI": 200, "nRFC": 60}
    device = original.model_copy(update={"timing": timing})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DramDevice, "rule_set", property(lambda _: rule_set))
        assert_as_naive(data.draw(random_logs(rule_set, placement)), placement, device)


# Logs as files, and the module's own place.


@pytest.mark.reference
def test_logs_are_read_as_they_are_written(reference: Path, tmp_path: Path) -> None:
    """Catches a field lost, or two exchanged; compressed or not, with blank lines and spaces."""
    name = "buffer_h17_L257_d128_b2_pc.ch15.log.gz"
    packed = reference / "reference/golden/command_logs" / name
    text = gzip.decompress(packed.read_bytes()).decode()
    log = list(read_log(packed))
    write_log(tmp_path / "again.log", log)
    assert text == (tmp_path / "again.log").read_text(encoding="ascii")
    assert LoggedCommand(5089, "REFab", 15, 0, -1, -1, -1, -1, -1) in log
    plain = tmp_path / "plain.log"
    text = "\n" + text.replace(", ", " ,").replace("\n", " \r\n\n") + ",,,,,,,,\r\n"
    plain.write_text("\ufeff" + text, newline="", encoding="utf-8")
    assert list(read_log(plain)) == log


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1, WRGB, 0, 0, 0, 0, 0, 0\n", "1: 8 fields in '1, WRGB, 0, 0, 0, 0, 0, 0'"),
        ("\n1, WRGB, 0, 0, 0, 0, 0, 0, 0, 0\n", "2: 10 fields in"),
        ("1, WRGB, 0, 0, 0, 0, 0, 0, 0\nx, WRGB, 0, 0, 0, 0, 0, 0, 0", "2: cycle 'x' is not"),
        ("-1, WRGB, 0, 0, 0, 0, 0, 0, 0", "1: cycle '-1' is not a whole number from 0"),
        ("1_0, WRGB, 0, 0, 0, 0, 0, 0, 0", "1: cycle '1_0' is not a whole number from 0"),
        ("1, WR GB, 0, 0, 0, 0, 0, 0, 0", "1: command 'WR GB' is not a name"),
        ("1, WRGB, 0, 0, 0, 0, 0, 0,", "1: column '' is not a whole number"),
        ("1; WRGB; 0; 0; 0; 0; 0; 0; 0", "1: 1 field in"),
        ("1, WRGB, 0, 0, 0, 0, 0, 1.5, 0", "1: row '1.5' is not a whole number"),
        (f"{'9' * 19}, WRGB, 0, 0, 0, 0, 0, 0, 0", "1: cycle '9999999999999999999' is not a whole"),
        (f"{'9' * 5000}, WRGB, 0, 0, 0, 0, 0, 0, 0", "1: cycle '99999"),
        (f"1, WRGB, {'9' * 30}, 0, 0, 0, 0, 0, 0", "1: channel '99999"),
        ("1, WRGB, 0, 0, 0, 0, 0, 0, 0\n1, \N{GREEK SMALL LETTER MU}, 0, 0, 0, 0, 0, 0, 0",
         "2: command '\N{GREEK SMALL LETTER MU}' is not a name"),
    ],
)  # fmt: skip
def test_malformed_lines_are_named(tmp_path: Path, content: str, message: str) -> None:
    """Catches a line that is skipped, or read as something it is not."""
    path = tmp_path / "mine.log"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DocumentError) as error:
        read_log(path)
    assert str(error.value).startswith(f"{path}:{message}")
    assert ",".join(LOG_COLUMNS) in str(error.value).replace(", ", ",")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """Catches a traceback for a file that is missing, a folder, or not compressed."""
    with pytest.raises(DocumentError, match=r"none\.log: no such file"):
        read_log(tmp_path / "none.log")
    with pytest.raises(DocumentError, match="is a folder"):
        read_log(tmp_path)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"1, WRGB\n")[:-4])
    with pytest.raises(DocumentError, match=r"cut\.gz: is a gzip file that was cut off"):
        read_log(tmp_path / "cut.gz")
    # What a file is is told by its first bytes.
    (tmp_path / "plain.gz").write_text("1, WRGB, 0, 0, 0, 0, 0, 0, 0")
    assert list(read_log(tmp_path / "plain.gz")) == [at(1, "WRGB")]


def test_a_placement_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a bare KeyError where a device has no such units."""
    rule_set = DEVICE.rule_set
    families = {Placement.BANK: rule_set.families[Placement.BANK]}
    fewer = rule_set.model_copy(update={"families": families})
    monkeypatch.setattr(DramDevice, "rule_set", property(lambda _: fewer))
    with pytest.raises(InputError, match=r"no commands for units per buffer \(.*per bank"):
        audit([], Placement.BUFFER)


def test_an_empty_log_is_legal() -> None:
    """Catches a report that trips over nothing to report."""
    report = check([], DEVICE, placement=Placement.BANK, power_limited=False)
    assert report == LegalityReport(DEVICE.name, Placement.BANK, False, 0, (), 0, (), ())
    assert report.legal


def test_the_checker_shares_nothing_with_the_other_witnesses() -> None:
    """Catches an import that would let one fault deceive two witnesses."""
    code = (
        "import sys, attacc.pim.audit.legality; "
        "print(*(m for m in sys.modules if m.startswith(('attacc', 'numba', 'tests'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert set(done.stdout.split()) == {
        "attacc",
        "attacc.documents",
        "attacc.errors",
        "attacc.files",
        "attacc.hardware",
        "attacc.hardware.dram",
        "attacc.hardware.placement",
        "attacc.pim",
        "attacc.pim.audit",
        "attacc.pim.audit.legality",
        "attacc.pim.log",
        "attacc.units",
    }
