"""Every timing rule matters: one cycle more on any pair of commands shows in some small program."""

from collections.abc import Iterator
from itertools import product

import pytest

from attacc.hardware.dram import DRAMS, RULE_SETS, DramDevice, Rule, RuleSet
from attacc.hardware.placement import Placement
from attacc.program.program import MULTIPLY, Program
from attacc.program.trace import NAMES, parse_trace
from attacc.timing.engine import LoggedCommand, run
from attacc.timing.tables import Code, resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
RULE_SET = RULE_SETS.load("attacc-pim")
MOVES = ("PIM_WR_GB", "PIM_MV_SB", "PIM_MV_GB", "PIM_SFM")

Pair = tuple[str, str, str, str]
"""Latency, scope, preceding command, following command."""


def with_rules(device: DramDevice, rules: tuple[Rule, ...]) -> DramDevice:
    """The device under other rules than those of a preset."""
    changed = RULE_SET.model_copy(update={"rules": rules})

    class Changed(DramDevice):
        @property
        def rule_set(self) -> RuleSet:
            return changed

    return Changed.model_construct(**dict(device))


def pairs(placement: Placement) -> list[Pair]:
    """The pairs of commands that the rules constrain, of the commands of one placement."""
    names = resolve_timing(DEVICE, placement, power_limited=True).names
    return [
        (rule.latency, rule.scope.value, before, after)
        for rule in RULE_SET.rules
        for before, after in product(rule.before, rule.after)
        if before in names and after in names
    ]


def split_rules(longer: Pair | None) -> tuple[Rule, ...]:
    """One rule per pair of commands; one of them a cycle longer."""
    return tuple(
        rule.model_copy(
            update={
                "before": (before,),
                "after": (after,),
                "latency": rule.latency
                + " + 1" * ((rule.latency, rule.scope.value, before, after) == longer),
            }
        )
        for rule in RULE_SET.rules
        for before, after in product(rule.before, rule.after)
    )


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
    """Row hits, and rows that conflict in the same bank, in others, and after other distances."""
    name = next(name for name, kind in NAMES.items() if kind is MULTIPLY[placement])
    row, bank, bank_group, rank = 1 << 10, 1 << 24, 1 << 26, 1 << 28
    yield program([(name, 0), (name, row)])
    yield program([(name, 0), (name, bank), (name, bank_group), (name, rank), (name, rank)])
    yield program([(name, 0)] * 6 + [(name, row), (name, bank), (name, 0)])


def devices() -> Iterator[DramDevice]:
    """Refreshes in many phases; rows that close early, and rows that reopen late."""
    phases = [*range(2, 90, 1)]
    for refresh, extra in product(phases, ({}, {"nRC": 100}, {"nRAS": 1, "nRTPL": 1})):
        timing = DEVICE.timing | {"nRFC": 1, "nREFI": refresh + 2} | extra
        yield DEVICE.model_copy(update={"timing": timing})
    yield DEVICE


def outcome(
    device: DramDevice, placement: Placement, one: Program
) -> tuple[LoggedCommand, ...] | None:
    tables = resolve_timing(device, placement, power_limited=True)
    return run(one, tables, log=True).log
