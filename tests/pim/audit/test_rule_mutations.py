"""Every timing rule matters: one cycle more on any pair of commands shows in some small program."""

from collections.abc import Iterator, Sequence
from itertools import product
from operator import eq

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice, Refresh, RefreshMode, Rule, RuleSet
from attacc.hardware.placement import Placement
from attacc.pim.log import LoggedCommand
from attacc.pim.program.program import MULTIPLY, Program
from attacc.pim.program.trace import NAMES, parse_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests import share

COMPLETE = DRAMS.load("hbm3-5.2")
DEVICES = {
    "reference": DRAMS.load("hbm3-5.2-asplos24"),
    "all-bank": COMPLETE,
    # Refreshes end before the next one is due, so that units of all banks find time to work.
    "per-bank": COMPLETE.model_copy(
        update={
            "refresh": Refresh(mode=RefreshMode.PER_BANK),
            "timing": COMPLETE.timing | {"nRFCpb": 60},
        }
    ),
}
ORGANIZATION = COMPLETE.organization
BANKS = ORGANIZATION.banks_per_channel // ORGANIZATION.pseudo_channels
MOVES = {"PIM_WR_GB": "WRGB", "PIM_MV_SB": "MVSB", "PIM_MV_GB": "MVGB", "PIM_SFM": "SFM"}

Pair = tuple[str, str, str, str]
"""Latency, scope, preceding command, following command."""
Outcome = tuple[LoggedCommand, ...] | None


def names_of(device: DramDevice, placement: Placement) -> set[str]:
    """The commands that a controller of the placement issues."""
    rule_set = device.rule_set
    family = rule_set.families[placement]
    per_bank = device.refresh.mode is RefreshMode.PER_BANK
    refresh = rule_set.refresh_bank if per_bank else rule_set.refresh
    own = {family.activate, family.multiply, family.precharge, refresh, *MOVES.values()}
    own |= set() if per_bank else {rule_set.precharge_all}
    return {name for name in own if name is not None}


def pairs(device: DramDevice, placement: Placement) -> list[Pair]:
    """The pairs of commands that the rules constrain, of the commands of one placement."""
    names = names_of(device, placement)
    return [
        (rule.latency, rule.scope.value, before, after)
        for rule in device.rule_set.rules
        for before, after in product(rule.before, rule.after)
        if before in names and after in names
    ]


def rules_with(rule_set: RuleSet, longer: Pair | None) -> RuleSet:
    """One rule per pair of commands; one of them a cycle longer."""
    rules: list[Rule] = []
    for rule in rule_set.rules:
        for before, after in product(rule.before, rule.after):
            chosen = (rule.latency, rule.scope.value, before, after) == longer
            latency = f"{rule.latency} + 1" if chosen else rule.latency
            update = {"before": (before,), "after": (after,), "latency": latency}
            rules.append(rule.model_copy(update=update))
    return rule_set.model_copy(update={"rules": tuple(rules)})


def program(lines: list[tuple[str, int]]) -> Program:
    text = "".join(f"{name} {address:#x}\n" for name, address in lines)
    return parse_trace(text.encode(), ORGANIZATION, where="test")


def moves() -> Iterator[Program]:
    """Every move after every other one, in one channel each, to another rank, group and bank."""
    for distance in (1 << 28, 1 << 26, 1 << 24):
        yield program(
            [
                request
                for channel, (before, after) in enumerate(product(MOVES, MOVES))
                for request in ((before, channel << 30), (after, channel << 30 | distance))
            ]
        )


def multiplies(placement: Placement) -> Iterator[Program]:
    """Row hits, and rows that conflict, in one bank and in several."""
    name = next(name for name, kind in NAMES.items() if kind is MULTIPLY[placement])
    row, bank, bank_group, rank = 1 << 10, 1 << 24, 1 << 26, 1 << 28
    yield program([(name, 0), (name, row)])
    yield program([(name, 0)] * 6)
    yield program([(name, 0), (name, bank), (name, bank_group), (name, rank), (name, rank)])
    yield program([(name, 0)] * 6 + [(name, row), (name, bank), (name, 0)])
    yield program([(name, r * row + b * bank) for r in range(3) for b in range(2)])
    yield program([(name, r * rank + g * bank_group) for r in range(2) for g in range(4)])
    yield program([("PIM_MV_SB", 0)] * 80)


def devices(device: DramDevice) -> Iterator[DramDevice]:
    """Refreshes right after an activate, a precharge and a multiply; rows that close or reopen
    early or late, so that each of several rules about the same two commands is once the last.
    """
    yield device
    yield with_timing(device, {"nRP": 1, "nRC": 1})
    late, early = {"nRC": 100}, {"nRAS": 1, "nRTPL": 1}
    if device.rules == "attacc-pim":
        for refresh, other in product((4, 22, 23, 45, 47, 65), ({}, late, early)):
            yield with_timing(device, {"nREFI": refresh, "nRFC": 1} | other)
        return
    # The rules that most others hide: of the row bus, and between activates of other banks.
    soon, apart = {"nRRDS": 1, "nRRDL": 1, "nFAW": 1}, {"nPPD": 7}
    yield with_timing(device, soon | early | {"nRCDRD": 2})
    yield with_timing(device, apart | early)
    if device.refresh.mode is RefreshMode.ALL_BANK:
        others: tuple[dict[str, int], ...] = ({}, late, early, apart | early)
        for refresh, other in product((4, 22, 23, 45, 47, 65), others):
            yield with_timing(device, {"nREFI": refresh, "nRFC": 1} | other)
        # Refreshes that wait for hits, and then follow each other.
        yield with_timing(device, {"nREFI": 22, "nRFC": 10})
        return
    quick, short = {"nRFCpb": 1, "nRREFD": 1}, {"nRP": 1, "nRC": 1, "nRRDL": 9}
    for refresh, other in product((7, 22, 23, 45, 47, 65), ({}, late, early, short, soon | early)):
        yield with_timing(device, {"nREFI": refresh * BANKS} | quick | other)
    for blocked, distance in ((20, 1), (1, 6), (40, 6), (7 * BANKS, 1), (1, 7)):
        busy = {"nREFI": 50 * BANKS, "nRFCpb": blocked, "nRREFD": distance}
        if distance == 7 or blocked == 7 * BANKS:
            busy["nREFI"] = 7 * BANKS
        yield with_timing(device, busy)
        yield with_timing(device, busy | early)


def with_timing(device: DramDevice, timing: dict[str, int]) -> DramDevice:
    return device.model_copy(update={"timing": device.timing | timing})


def outcomes_on(
    device: DramDevice, placement: Placement, programs: Sequence[Program]
) -> Iterator[Outcome]:
    """Every command of each program; None where rows close again before they are read, or where
    the device is refreshed too often for anything to run.
    """
    try:
        tables = resolve_timing(device, placement, power_limited=True)
    except InputError:
        yield from (None for _ in programs)
        return
    for one in programs:
        try:
            yield run(one, tables, log=True).log
        except InputError:
            yield None


def unnoticed(device: DramDevice, placement: Placement, patch: pytest.MonkeyPatch) -> set[Pair]:
    """The pairs of commands whose rule may be a cycle longer without any difference."""
    original = device.rule_set
    situations = {
        True: ([device], list(moves())),
        False: (list(devices(device)), list(multiplies(placement))),
    }

    def outcomes(longer: Pair | None, *, of_moves: bool) -> Iterator[Outcome]:
        rule_set = rules_with(original, longer)
        patch.setattr(DramDevice, "rule_set", property(lambda _: rule_set))
        played_on, programs = situations[of_moves]
        for other in played_on:
            yield from outcomes_on(other, placement, programs)

    unchanged = {of_moves: list(outcomes(None, of_moves=of_moves)) for of_moves in (True, False)}
    patch.undo()
    found: set[Pair] = set()
    for pair in pairs(device, placement):
        of_moves = pair[2] in MOVES.values()
        # Lazily: the first difference will do.
        if all(map(eq, outcomes(pair, of_moves=of_moves), unchanged[of_moves])):
            found.add(pair)
        patch.undo()
    return found


def cannot_bind(device: DramDevice, placement: Placement) -> set[Pair]:
    """The pairs that others hide, for the reasons given."""
    family = device.rule_set.families[placement]
    activate, precharge = family.activate, family.precharge
    refresh = "REFsb" if device.refresh.mode is RefreshMode.PER_BANK else "REFab"
    found: set[Pair] = set()
    if placement is Placement.BANK or refresh == "REFab":
        # Before a refresh, and before an activate where there is a single row, a row that is open
        # is precharged, nACT after the activate that opened it; and the row bus takes one command
        # a cycle. So whatever comes after that precharge is nACT + 1 later anyway.
        found.add(("nACT", "channel", activate, refresh))
    if placement is Placement.BANK:
        found.add(("nACT", "channel", activate, activate))
    if device.rules == "attacc-pim":
        return found
    if placement is Placement.BANK or refresh == "REFab":
        # After PREA nothing is open. A row that is precharged next was activated in between, which
        # takes nRP + nACT cycles at least, more than nPPD.
        found |= {("nPPD", "channel", "PREA", name) for name in {"PREA", precharge}}
    if refresh == "REFab":
        # The same for a refresh, after which an activate waits for nRFC itself.
        found |= {("nRFC", "channel", "REFab", name) for name in {"PREA", precharge}}
        if placement is not Placement.BANK:
            # Only a refresh asks for PREA there, and it comes first, nRP later, in both
            # pseudo-channels: an activate follows nRP + 2 after PREA at the earliest.
            found.add(("nRP", "channel", "PREA", activate))
    elif placement is Placement.BANK:
        # Between two refreshes of a bank lie all others of its pseudo-channel, nRREFD apart: more
        # than nRFCpb. (Elsewhere the units may starve, and moves go on, with a longer nRFCpb.)
        assert BANKS * device.timing["nRREFD"] > device.timing["nRFCpb"] + 1
        found.add(("nRFCpb", "bank", "REFsb", "REFsb"))
    return found


@pytest.mark.untraced  # thousands of small runs would take twice as long
@pytest.mark.parametrize(
    ("placement", "name"), share.cases(__name__, list(product(Placement, DEVICES)), 4)
)
def test_a_cycle_more_on_any_rule_shows(
    name: str, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a rule that the tables or the kernel drop, merge with another, or misplace."""
    device = DEVICES[name]
    expected = cannot_bind(device, placement)
    assert unnoticed(device, placement, monkeypatch) == expected
