"""Claims about rules: every rule is checked, and the commands of the schedules keep all rules."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from attacc.errors import EngineError
from attacc.hardware.dram import DRAMS, DramDevice, Rule, RuleSet, evaluate_cycles
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.audit.hazards import check_hazards
from attacc.pim.audit.legality import Check as Broken
from attacc.pim.audit.legality import check, describe_rule
from attacc.pim.log import LoggedCommand, read_log
from attacc.pim.mapping.balance import Assignment, assign
from attacc.pim.mapping.geometry import ChannelChunks, HeadLayout
from attacc.pim.program.interleaved import chunk_grain, interleaved_program, longest_chunk
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from attacc.study.claims.validation import (
    Check,
    Claim,
    Measured,
    Needs,
    ReferenceData,
    Room,
    Tolerance,
    Unit,
    counted,
)

SEED: Final = 0
PROGRAMS: Final = 2
"""Random programs per device preset and placement, in each of two schedules."""
LONGEST: Final = {Placement.BANK: 500, Placement.BANKGROUP: 150, Placement.BUFFER: 60}
"""Most keys of a head: large enough for a refresh in most programs, and small enough for audits of
seconds."""
HEADS: Final = 24
HEAD_DIMS: Final = (64, 96, 128, 160)
POSTPONED: Final = 1
"""Refreshes that may be owed: row hits delay the precharge before a refresh by less than an
interval."""
REFERENCE_DEVICE: Final = "hbm3-5.2-asplos24"
NOTHING_BROKEN: Final = Tolerance(
    0, Unit.CASES, "a command that breaks a rule of the standard is a fault, however rare"
)


# Every rule, one cycle early and on time.


@dataclass(frozen=True, slots=True)
class Gate:
    """Two commands that a rule of a device is about.

    Attributes:
        device: the device.
        placement: placement of the commands.
        rule: the rule.
        before: the command that makes the other one wait.
        after: the command that waits.
    """

    device: DramDevice
    placement: Placement
    rule: Rule
    before: str
    after: str

    @property
    def cycles(self) -> int:
        """Cycles that must lie between the two commands."""
        return evaluate_cycles(self.rule.latency, self.device.parameters(power_limited=True))

    def slacks(self, distance: int, place: tuple[int, int, int, int]) -> list[int | None]:
        """Return the slacks of the rule's violations in the audit.

        Args:
            distance: cycles between the two commands.
            place: pseudo-channel, rank, bank group and bank of the second command; those of the
                first are zeros.
        """
        everywhere = {self.device.rule_set.precharge_all, self.device.rule_set.refresh}

        def at(cycle: int, name: str, where: tuple[int, int, int, int]) -> LoggedCommand:
            if name in everywhere:
                return LoggedCommand(cycle, name, 0, where[0], -1, -1, -1, -1, -1)
            return LoggedCommand(cycle, name, 0, *where, 0, 0)

        log = [at(10, self.before, (0, 0, 0, 0))] * self.rule.window
        log.append(at(10 + distance, self.after, place))
        report = check(log, self.device, placement=self.placement, power_limited=True)
        name = describe_rule(self.rule, self.cycles)
        return [
            violation.slack_cycles
            for violation in report.violations
            if violation.check is Broken.TIMING and violation.rule == name
        ]


def gates() -> Iterator[Gate]:
    """Yield every pair of commands of every rule of the presets' rule sets."""
    devices = map(DRAMS.load, DRAMS.names())
    for device in {device.rules: device for device in devices if _has_many(device)}.values():
        for placement, rule in product(device.rule_set.families, device.rule_set.rules):
            names = _commands_of(device.rule_set, placement)
            for before, after in product(rule.before, rule.after):
                if before in names and after in names:
                    yield Gate(device, placement, rule, before, after)


def _has_many(device: DramDevice) -> bool:
    """Return whether the device has two or more of everything, so that scopes differ."""
    o = device.organization
    return min(o.pseudo_channels, o.ranks, o.bank_groups, o.banks) > 1


def _commands_of(rule_set: RuleSet, placement: Placement) -> set[str]:
    """Return the commands that a log of this placement may hold."""
    own = {
        where: {family.activate, family.multiply, family.precharge}
        for where, family in rule_set.families.items()
    }
    shared = {rule_set.precharge_all, rule_set.refresh}
    others = set[str]().union(*own.values()) - own[placement] - shared
    return {*rule_set.row_commands, *rule_set.column_commands} - others


def rules_bite() -> Measured:
    """Count the pairs of commands for which a rule is noticed too late, or too early."""
    wrong, cases = 0, 0
    watched: list[Rule] = []
    for gate in gates():
        watched.append(gate.rule)
        # On the same bank, and as far apart as the scope of the rule allows.
        pseudo, rank, group, bank = (0 if compared else 1 for compared in gate.rule.scope.fields)
        for place in ((0, 0, 0, 0), (pseudo, rank, group, bank)):
            wrong += gate.slacks(gate.cycles - 1, place) != [-1]
            wrong += gate.slacks(gate.cycles, place) != []
            cases += 2
    for name in DRAMS.names():
        missing = [rule for rule in DRAMS.load(name).rule_set.rules if rule not in watched]
        if missing:
            raise EngineError(f"no pair of commands tries {missing[0]} of {name}")
    return Measured(wrong, cases, (counted("pairs of commands", len(watched)),))


# Random programs.


@dataclass(frozen=True, slots=True)
class Drawn:
    """Attention of random shape on one stack.

    Attributes:
        device: the stack.
        layout: layout of its heads; its length is that of all heads in the complete schedule.
        lengths: lengths of the heads in the interleaved schedule.
        queries: queries that share the keys and values of a head in the interleaved schedule.
        queries_per_read: queries that a read serves at most.
    """

    device: DramDevice
    layout: HeadLayout
    lengths: tuple[int, ...]
    queries: int
    queries_per_read: int

    @classmethod
    def draw(cls, device: DramDevice, placement: Placement, number: int) -> Drawn:
        """Return the shape with this number; equal numbers give equal shapes."""
        some = random.Random(f"{SEED} {device.name} {placement} {number}")  # noqa: S311 - no secret
        element = some.choice((ElementType.FP16, ElementType.INT8))
        length = some.randint(1, LONGEST[placement])  # drawn first, as the recorded counts were
        head_dim = some.choice(HEAD_DIMS)
        lengths = [some.randint(1, LONGEST[placement]) for _ in range(some.randint(1, HEADS))]
        queries = some.choice((1, 1, 2))
        together = some.randint(1, queries)
        if device.pipeline is not None:
            # The queries of a read fill half a vector buffer at most.
            words = device.pipeline.buffer_words // together
            held = int(words * device.organization.access_bytes / element.bytes)
            head_dim = min(head_dim, held)
        layout = HeadLayout(device.organization, placement, head_dim, element, length)
        return cls(device, layout, tuple(lengths), queries, together)

    @property
    def placement(self) -> Placement:
        """Where the units are."""
        return self.layout.placement

    def assignment(self) -> Assignment:
        """Return the chunks of each channel in the interleaved schedule."""
        return assign(
            self.lengths,
            channels=self.device.organization.channels,
            longest=longest_chunk(self.device, self.layout, self.queries_per_read),
            grain=chunk_grain(self.layout),
        )

    def complete(self) -> Program:
        """Return the commands of the complete schedule: heads of one length, one query each."""
        return attention_program(self.layout, len(self.lengths), Schedule.COMPLETE)

    def interleaved(self) -> Program:
        """Return the commands of the interleaved schedule."""
        tables = resolve_timing(
            self.device,
            self.placement,
            power_limited=True,
            queries_per_read=self.queries_per_read,
        )
        return interleaved_program(
            self.device,
            self.layout,
            self.assignment(),
            multiply_interval=tables.multiply_interval,
            queries=self.queries,
            queries_per_read=self.queries_per_read,
        )

    def broken(self, program: Program, queries_per_read: int) -> tuple[int, int]:
        """Play a program.

        Returns:
            Number of broken rules, and of issued commands.
        """
        tables = resolve_timing(
            self.device, self.placement, power_limited=True, queries_per_read=queries_per_read
        )
        log = run(program, tables, log=True).log or ()
        report = check(
            log,
            self.device,
            placement=self.placement,
            power_limited=True,
            queries_per_read=queries_per_read,
            postponed_refreshes=POSTPONED,
        )
        return report.total, len(log)

    def hazards(self) -> tuple[int, int]:
        """Play the interleaved schedule.

        Returns:
            Number of hazards, and of checked commands.
        """
        tables = resolve_timing(
            self.device,
            self.placement,
            power_limited=True,
            queries_per_read=self.queries_per_read,
        )
        log = run(self.interleaved(), tables, log=True).log or ()
        channels = [
            ChannelChunks.allocated(self.layout, [chunk.length for chunk in chunks])
            for chunks in self.assignment().channels
        ]
        report = check_hazards(
            log,
            self.device,
            channels,
            queries=self.queries,
            queries_per_read=self.queries_per_read,
        )
        return len(report.violations), report.commands


def drawn(*, pipelined: bool) -> Iterator[Drawn]:
    """Yield the random shapes, of all presets or of those with latencies between commands."""
    for name in DRAMS.names():
        device = DRAMS.load(name)
        if pipelined and device.pipeline is None:
            continue
        for placement in device.rule_set.families:
            for number in range(PROGRAMS):
                yield Drawn.draw(device, placement, number)


def complete_is_legal() -> Measured:
    """Count the rules that random programs of the complete schedule break."""
    return _counted((one, one.complete(), 1) for one in drawn(pipelined=False))


def interleaved_is_legal() -> Measured:
    """Count the rules that random programs of the interleaved schedule break."""
    return _counted((one, one.interleaved(), one.queries_per_read) for one in drawn(pipelined=True))


def _counted(programs: Iterable[tuple[Drawn, Program, int]]) -> Measured:
    broken, commands, count = 0, 0, 0
    for one, program, queries_per_read in programs:
        found, issued = one.broken(program, queries_per_read)
        broken, commands, count = broken + found, commands + issued, count + 1
    return Measured(broken, commands, (counted("programs", count),))


def interleaved_has_no_hazard() -> Measured:
    """Count the hazards in random programs of the interleaved schedule."""
    hazards, commands, programs = 0, 0, 0
    for one in drawn(pipelined=True):
        found, checked = one.hazards()
        hazards, commands, programs = hazards + found, commands + checked, programs + 1
    return Measured(hazards, commands, (counted("programs", programs),))


def golden_logs_are_legal(reference: ReferenceData) -> Measured:
    """Count the rules that the logs of the reference controller break."""
    device = DRAMS.load(REFERENCE_DEVICE)
    broken, commands, logs = 0, 0, 0
    for path in sorted((reference.golden / "command_logs").glob("*.log.gz")):
        log = read_log(path)
        placement = {"bank": Placement.BANK, "bg": Placement.BANKGROUP, "buffer": Placement.BUFFER}[
            path.name.split("_")[0]
        ]
        limited = path.name.split(".")[0].endswith("_pc")
        report = check(log, device, placement=placement, power_limited=limited)
        broken, commands, logs = broken + report.total, commands + len(log), logs + 1
    return Measured(broken, commands, (counted("logs", logs),))


def _checks() -> Iterable[Check]:
    shapes = (
        f"{PROGRAMS} programs per device preset and placement, shapes drawn with seed {SEED}: 1 to "
        f"{HEADS} heads, head_dim 64 to 160, fp16 and int8"
    )
    yield Check(
        Claim(
            id="legality-every-rule",
            room=Room.LEGALITY,
            statement="The audit of command logs refuses every rule's second command one cycle "
            "early, and accepts it on time.",
            data="every rule of every rule set of the presets (attacc.hardware, "
            "presets/rules), each of its pairs of commands at each placement, on the same bank and "
            "as far apart as its scope",
            tolerance=Tolerance(
                0, Unit.CASES, "a rule that is not watched to the cycle is not watched"
            ),
            limits="Shows that the rules of the presets are watched, not that they are those of a "
            "chip: presets name their sources.",
            tests=("tests/pim/audit/test_legality.py", "tests/pim/timing/test_rules_by_hand.py"),
        ),
        measure=rules_bite,
    )
    yield Check(
        Claim(
            id="legality-complete-schedule",
            room=Room.LEGALITY,
            statement="What the controllers make of the complete schedule breaks no rule, on any "
            "device preset.",
            data=f"{shapes}; audited by attacc.pim.audit.legality, which knows the rules only",
            tolerance=NOTHING_BROKEN,
            limits="Keys of a head: at most 500 (bank), 150 (bank group), 60 (buffer). One query "
            "per key; refreshed all banks at once, owing one refresh at most.",
            tests=("tests/pim/timing/test_standards.py",),
        ),
        measure=complete_is_legal,
    )
    yield Check(
        Claim(
            id="legality-interleaved-schedule",
            room=Room.LEGALITY,
            statement="What the controllers make of the interleaved schedule breaks no rule, on "
            "any device preset with a pipeline.",
            data=f"{shapes}, heads of different lengths, up to 2 queries per head; same audit",
            tolerance=NOTHING_BROKEN,
            limits="As above. Refresh bank by bank is among the tests.",
            tests=("tests/pim/timing/test_standards.py",),
        ),
        measure=interleaved_is_legal,
    )
    yield Check(
        Claim(
            id="legality-hazards",
            room=Room.LEGALITY,
            statement="In the interleaved schedule no command uses data before they are there, "
            "overwrites what is in use, or is missing.",
            data="the same programs; checked by attacc.pim.audit.hazards, which knows heads, "
            "latencies and buffers, and no dependences of the program",
            tolerance=Tolerance(0, Unit.CASES, "one wrong operand makes a wrong context"),
            limits="Latencies between commands are assumed (docs/model/interleaving.md).",
            tests=("tests/pim/audit/test_hazards.py", "tests/pim/program/test_interleaved.py"),
        ),
        measure=interleaved_has_no_hazard,
    )
    yield Check(
        Claim(
            id="legality-golden-logs",
            room=Room.LEGALITY,
            statement="The reference controller's own command logs break no rule.",
            data="logs of channels 0 and 15 for 10 traces (reference/golden/command_logs)",
            tolerance=Tolerance(
                0, Unit.CASES, "a rule that the reference breaks would be none of its rules"
            ),
            limits="Rules that these logs never come near are not tried by them.",
            needs=Needs.REFERENCE,
            tests=("tests/pim/audit/test_legality.py",),
        ),
        with_data=golden_logs_are_legal,
        files=("reference/golden/command_logs",),
    )
    yield Check(
        Claim(
            id="legality-mutations",
            room=Room.LEGALITY,
            statement="One cycle more on any rule about the units' commands shows in a small "
            "program, or cannot bind for a reason that is given.",
            data="every such rule of the two rule sets",
            tolerance=Tolerance(0, Unit.CASES, "a rule that changes nothing is not implemented"),
            limits="Small programs; one rule at a time.",
            needs=Needs.TESTS,
            tests=("tests/pim/audit/test_rule_mutations.py",),
        )
    )


CHECKS: Final = tuple(_checks())
