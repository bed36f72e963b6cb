"""Every timing rule matters: one cycle more on any pair of commands shows in some small program."""

from collections.abc import Iterator
from itertools import product
from operator import eq

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, RULE_SETS, DramDevice, Rule, RuleSet
from attacc.hardware.placement import Placement
from attacc.program.program import MULTIPLY, Program
from attacc.program.trace import NAMES, parse_trace
from attacc.timing.engine import LoggedCommand, run
from attacc.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
RULE_SET = RULE_SETS.load("attacc-pim")
MOVES = {"PIM_WR_GB": "WRGB", "PIM_MV_SB": "MVSB", "PIM_MV_GB": "MVGB", "PIM_SFM": "SFM"}

Pair = tuple[str, str, str, str]
"""Latency, scope, preceding command, following command."""
Outcome = tuple[LoggedCommand, ...] | None


def pairs(placement: Placement) -> list[Pair]:
    """The pairs of commands that the rules constrain, of the commands of one placement."""
    names = resolve_timing(DEVICE, placement, power_limited=True).names
    return [
        (rule.latency, rule.scope.value, before, after)
        for rule in RULE_SET.rules
        for before, after in product(rule.before, rule.after)
        if before in names and after in names
    ]


def rules_with(longer: Pair | None) -> RuleSet:
    """One rule per pair of commands; one of them a cycle longer."""
    rules: list[Rule] = []
    for rule in RULE_SET.rules:
        for before, after in product(rule.before, rule.after):
            chosen = (rule.latency, rule.scope.value, before, after) == longer
            latency = f"{rule.latency} + 1" if chosen else rule.latency
            update = {"before": (before,), "after": (after,), "latency": latency}
            rules.append(rule.model_copy(update=update))
    return RULE_SET.model_copy(update={"rules": tuple(rules)})


def program(lines: list[tuple[str, int]]) -> Program:
    text = "".join(f"{name} {address:#x}\n" for name, address in lines)
    return parse_trace(text.encode(), DEVICE.organization, where="test")


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
    yield program([(name, 0), (name, bank), (name, bank_group), (name, rank), (name, rank)])
    yield program([(name, 0)] * 6 + [(name, row), (name, bank), (name, 0)])
    yield program([(name, r * row + b * bank) for r in range(3) for b in range(2)])


def devices() -> Iterator[DramDevice]:
    """Refreshes right after an activate, a precharge and a multiply; rows that close or reopen
    early or late, so that each of several rules about the same two commands is once the last.
    """
    yield DEVICE
    yield DEVICE.model_copy(update={"timing": DEVICE.timing | {"nRP": 1, "nRC": 1}})
    late, early = {"nRC": 100}, {"nRAS": 1, "nRTPL": 1}
    for refresh, other in product((4, 22, 23, 45, 47, 65), ({}, late, early)):
        timing = DEVICE.timing | {"nREFI": refresh, "nRFC": 1} | other
        yield DEVICE.model_copy(update={"timing": timing})


def outcome(device: DramDevice, placement: Placement, one: Program) -> Outcome:
    """Every command, or None where rows close again before they are read."""
    try:
        return run(one, resolve_timing(device, placement, power_limited=True), log=True).log
    except InputError:
        return None


CANNOT_BIND: dict[Placement, set[Pair]] = {
    # Before its activate an open row is precharged, nACT after the activate that opened it, and
    # the row bus takes one command a cycle: the second activate is nACT + 1 later anyway.
    Placement.BANK: {("nACT", "channel", "ACTAB", "ACTAB")},
    Placement.BANKGROUP: set(),
    Placement.BUFFER: set(),
}
for suffix, cannot in zip(("AB", "SB", "PB"), CANNOT_BIND.values(), strict=True):
    # The same for a refresh, before which PREA closes what the activate has opened.
    cannot.add(("nACT", "channel", f"ACT{suffix}", "REFab"))


@pytest.mark.parametrize("placement", list(Placement))
def test_a_cycle_more_on_any_rule_shows(
    placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a rule that the tables or the kernel drop, merge with another, or misplace."""
    situations = {
        True: [(DEVICE, one) for one in moves()],
        False: [(device, one) for device in devices() for one in multiplies(placement)],
    }

    def outcomes(longer: Pair | None, *, of_moves: bool) -> Iterator[Outcome]:
        rule_set = rules_with(longer)
        monkeypatch.setattr(DramDevice, "rule_set", property(lambda _: rule_set))
        for device, one in situations[of_moves]:
            yield outcome(device, placement, one)

    unchanged = {of_moves: list(outcomes(None, of_moves=of_moves)) for of_moves in (True, False)}
    unnoticed: set[Pair] = set()
    for pair in pairs(placement):
        of_moves = pair[2] in MOVES.values()
        # Lazily: the first difference will do.
        if all(map(eq, outcomes(pair, of_moves=of_moves), unchanged[of_moves])):
            unnoticed.add(pair)
    assert unnoticed == CANNOT_BIND[placement]
