"""Audits a command log: which rules of its device does it break?

The audit is a witness beside the compiled controllers and their naive oracle. It decides nothing:
it replays the commands of a log in the given order and cycles, and knows only the device's rules
and organisation. It therefore imports neither the engine nor its tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from attacc.errors import InputError, nearest_hint
from attacc.hardware.dram import (
    Bus,
    CommandFamily,
    DramDevice,
    OrdinaryFamily,
    Organization,
    RefreshMode,
    Rule,
    Scope,
    evaluate_cycles,
)
from attacc.hardware.placement import Placement
from attacc.pim.log import BARRIER, LoggedCommand

if TYPE_CHECKING:
    pass

MAX_POSTPONED: Final = 8
"""Most refreshes that a controller may postpone: two refreshes are at most 9 nREFI apart (DDR3,
JESD79-3; the deficit mode of AMD's HBM2 controller, PG313, does the same)."""

_ANY: Final = -1
"""Field in the address of a maintenance command: all ranks, bank groups or banks."""

LISTED: Final = 100
"""Violations of each rule that a report lists; all are counted."""

_Key = tuple[int, ...]
"""An instance of a scope: the address fields that take part in it."""


class Check(StrEnum):
    """Kinds of rules that a log can break."""

    TIMING = "timing"
    """A timing rule of the device: too early."""
    BUS = "bus"
    """Two commands in one cycle on one command bus of a channel."""
    CLOSED_ROW = "closed_row"
    """A multiply, read or write whose banks are closed."""
    OTHER_ROW = "other_row"
    """A multiply, read or write whose banks have another row open."""
    OPEN_BANK = "open_bank"
    """An activate of banks that are open."""
    MODE = "mode"
    """An ordinary row command while the units have rows open, or the other way round."""
    REFRESH_OF_OPEN_BANK = "refresh_of_open_bank"
    """A refresh of a pseudo-channel with an open bank, or of a bank that is open."""
    REPEATED_REFRESH = "repeated_refresh"
    """A second refresh of a bank before every other bank of its pseudo-channel was refreshed."""
    LATE_REFRESH = "late_refresh"
    """A refresh that came too late, or never."""
    UNKNOWN_COMMAND = "unknown_command"
    """A command that the device does not have."""
    OTHER_PLACEMENT = "other_placement"
    """A command of another placement of the units."""
    ADDRESS = "address"
    """An address that the device does not have."""
    ORDER = "order"
    """A cycle before the cycle of the previous command of the channel."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule.

    Attributes:
        check: what kind of rule.
        rule: the rule in words; for timing, its commands, latency expression and resolved cycles.
        scope: scope at which the two commands meet; None for rules without a scope.
        before: the command that made the other one illegal; None if there is none.
        after: the illegal command; None for a refresh that never came.
        required_cycles: least cycles between the two commands; for a late refresh, the most cycles
            after it fell due. None where the fault is not about time.
        actual_cycles: cycles between the two in the log.
        slack_cycles: cycles by which the rule is missed, always negative.
    """

    check: Check
    rule: str
    scope: Scope | None
    before: LoggedCommand | None
    after: LoggedCommand | None
    required_cycles: int | None = None
    actual_cycles: int | None = None
    slack_cycles: int | None = None


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """How often a log breaks a rule.

    Attributes:
        check: what kind of rule.
        rule: for timing, the rule in words; None where all faults of a kind are counted together.
        count: number of violations.
    """

    check: Check
    rule: str | None
    count: int


@dataclass(frozen=True, slots=True)
class LegalityReport:
    """What an audit of a command log found.

    Attributes:
        device: the device's name.
        placement: the placement whose commands were expected.
        power_limited: whether the power-limited cadence of multiplies was expected.
        commands: number of commands in the log.
        channels: channels that occur in the log.
        last_cycle: last cycle of the log; 0 if it is empty.
        violations: the first violations of each rule, up to the wanted number, in the order of the
            log; refreshes that never came are at the end.
        broken: every broken rule, in the order of its first violation.
    """

    device: str
    placement: Placement
    power_limited: bool
    commands: int
    channels: tuple[int, ...]
    last_cycle: int
    violations: tuple[Violation, ...]
    broken: tuple[BrokenRule, ...]

    @property
    def legal(self) -> bool:
        """Whether the log breaks no rule."""
        return not self.broken

    @property
    def total(self) -> int:
        """Number of violations, including those that are not listed."""
        return sum(rule.count for rule in self.broken)


def describe_rule(rule: Rule, cycles: int) -> str:
    """Return a timing rule in words, as violations name it: "A -> B: nX = 3 at channel"."""
    before, after = ", ".join(rule.before), ", ".join(rule.after)
    counted = f", from the last but {rule.window - 1}" if rule.window > 1 else ""
    return f"{before} -> {after}: {rule.latency} = {cycles} at {rule.scope}{counted}"


def check(
    log: Iterable[LoggedCommand],
    device: DramDevice,
    *,
    placement: Placement,
    power_limited: bool,
    postponed_refreshes: int = 0,
    queries_per_read: int = 1,
    element_bits: int = 16,
    temperature_c: float | None = None,
    listed: int = LISTED,
) -> LegalityReport:
    """Audit the command log of one stack.

    Commands of one channel must come in the order in which they issued; how channels are
    interleaved does not matter. Channels that do not occur are not judged.

    Args:
        log: the commands.
        device: the device with its rules.
        placement: where the units of the stack sit.
        power_limited: whether multiplies must keep the power-limited cadence.
        postponed_refreshes: number of refreshes of a pseudo-channel that may be owed when the next
            one falls due. A refresh falls due at each multiple of nREFI. With 0 it must issue
            before the next one falls due, else so many intervals later. A refresh of one bank falls
            due at each multiple of nREFI divided by the banks of a pseudo-channel, and must issue
            within as many cycles.
        queries_per_read: queries by which a unit multiplies each access; the cadence depends on it.
        element_bits: bits of an element of an access, 16, 8 or 4; the cadence depends on it.
        temperature_c: temperature of the device, which decides how often it needs a refresh; None
            for a device that is not hot.
        listed: number of first violations of each rule that the report lists. All violations are
            counted; memory grows with the listed ones only.

    Raises:
        InputError: the device has no commands for the placement, cannot multiply by so many
            queries or be so hot, or the postponed refreshes are not 0 to `MAX_POSTPONED`.
    """
    families = device.rule_set.families
    if placement not in families:
        raise InputError(
            f"{device.name} has no commands for units per {placement}",
            hint=f"its rules have those per {', '.join(families) or 'nothing'}",
        )
    if not 0 <= postponed_refreshes <= MAX_POSTPONED:
        raise InputError(
            f"postponed_refreshes = {postponed_refreshes} is not 0 to {MAX_POSTPONED}",
            hint="DRAM allows no more, and the reference controller none",
        )
    parameters = device.parameters(
        power_limited=power_limited,
        queries_per_read=queries_per_read,
        element_bits=element_bits,
        temperature_c=temperature_c,
    )
    law = _Law.of(device, placement, parameters, postponed=postponed_refreshes)
    found = _Findings(listed)
    channels: dict[int, _Channel] = {}
    commands = 0
    last_cycle = 0
    for entry in log:
        commands += 1
        last_cycle = max(last_cycle, entry.cycle)
        channel = channels.get(entry.channel)
        if channel is None:
            if not 0 <= entry.channel < device.organization.channels:
                found.add(
                    Check.ADDRESS,
                    partial(
                        _wrong_field, entry, "channel", entry.channel, device.organization.channels
                    ),
                )
                continue
            channel = channels[entry.channel] = _Channel(entry.channel, law, found)
        channel.replay(entry)
    for number in sorted(channels):
        channels[number].end(last_cycle)
    return LegalityReport(
        device=device.name,
        placement=placement,
        power_limited=power_limited,
        commands=commands,
        channels=tuple(sorted(channels)),
        last_cycle=last_cycle,
        violations=tuple(found.listed),
        broken=tuple(BrokenRule(check, rule, n) for (check, rule), n in found.counts.items()),
    )


def _wrong_field(entry: LoggedCommand, name: str, value: int, size: int) -> Violation:
    return Violation(Check.ADDRESS, f"{name} = {value} is not 0 to {size - 1}", None, None, entry)


class _Findings:
    """The violations of a log: all are counted, and the first of each rule are listed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.listed: list[Violation] = []
        self.counts: Counter[tuple[Check, str | None]] = Counter()

    def add(self, check: Check, make: Callable[[], Violation], rule: str | None = None) -> None:
        """Count a violation; its object is made only if it is listed."""
        self.add_all(check, 1, lambda _: make(), rule)

    def add_all(
        self, check: Check, count: int, make: Callable[[int], Violation], rule: str | None = None
    ) -> None:
        """Count violations; those that are listed are made from their numbers, from 0."""
        before = self.counts[check, rule]
        self.counts[check, rule] += count
        self.listed += map(make, range(min(count, self.most - before)))


@dataclass(frozen=True)
class _TimingRule:
    """A rule with its latency in cycles, the fields that its scope compares, and its words."""

    rule: Rule
    cycles: int
    compared: tuple[int, ...]
    text: str

    @classmethod
    def of(cls, rule: Rule, parameters: Mapping[str, int]) -> _TimingRule:
        cycles = evaluate_cycles(rule.latency, parameters)
        return cls(rule, cycles, _compared(rule.scope), describe_rule(rule, cycles))

    @property
    def compares_below_pseudo_channel(self) -> bool:
        return any(index > 0 for index in self.compared)


@dataclass(frozen=True)
class _Law:
    """The rules that a log must keep: a device, resolved for a placement and a cadence.

    Attributes:
        organization: the organisation that limits addresses.
        buses: the bus of every command that the device has.
        foreign: commands of other placements.
        family: the commands of this placement.
        ordinary: the commands of ordinary reads and writes, if the device has any.
        row_compared: the address fields (of four) that are equal in banks that share an open row.
        precharge_all: the command that closes all banks of a channel.
        refresh: the command that refreshes a pseudo-channel.
        refresh_bank: the command that refreshes a bank, if the device has one.
        without_row: commands that need no row and no column in their address.
        rules: every timing rule; rules about commands of other placements never apply.
        per_bank: whether refreshes of single banks fall due, rather than of pseudo-channels.
        banks: number of banks of a pseudo-channel.
        refresh_interval: cycles from one refresh of a pseudo-channel that falls due to the next.
        refresh_deadline: cycles from when a refresh falls due within which it must issue.
    """

    organization: Organization
    buses: dict[str, Bus]
    foreign: frozenset[str]
    family: CommandFamily
    ordinary: OrdinaryFamily | None
    row_compared: tuple[int, ...]
    precharge_all: str
    refresh: str
    refresh_bank: str | None
    without_row: frozenset[str]
    rules: tuple[_TimingRule, ...]
    per_bank: bool
    banks: int
    refresh_interval: int
    refresh_deadline: int

    @classmethod
    def of(
        cls,
        device: DramDevice,
        placement: Placement,
        parameters: Mapping[str, int],
        *,
        postponed: int,
    ) -> _Law:
        rule_set = device.rule_set
        family = rule_set.families[placement]
        maintenance = {rule_set.precharge_all, rule_set.refresh}
        others = {
            name
            for other in rule_set.families.values()
            for name in (other.activate, other.multiply, other.precharge)
        }
        closing = {family.precharge, *maintenance}
        if rule_set.refresh_bank is not None:
            closing.add(rule_set.refresh_bank)
        if rule_set.ordinary is not None:
            closing.add(rule_set.ordinary.precharge)
        o = device.organization
        banks = o.banks_per_channel // o.pseudo_channels
        per_bank = device.refresh.mode is RefreshMode.PER_BANK
        return cls(
            organization=device.organization,
            buses=dict.fromkeys(rule_set.row_commands, Bus.ROW)
            | dict.fromkeys(rule_set.column_commands, Bus.COLUMN),
            foreign=frozenset(
                others - {family.activate, family.multiply, family.precharge} - maintenance
            ),
            family=family,
            ordinary=rule_set.ordinary,
            row_compared=_compared(family.row_scope),
            precharge_all=rule_set.precharge_all,
            refresh=rule_set.refresh,
            refresh_bank=rule_set.refresh_bank,
            without_row=frozenset(closing),
            rules=tuple(_TimingRule.of(rule, parameters) for rule in rule_set.rules),
            per_bank=per_bank,
            banks=banks,
            refresh_interval=parameters["nREFI"] // (banks if per_bank else 1),
            refresh_deadline=parameters["nREFI"] * (1 + postponed) - 1,
        )


def _compared(scope: Scope) -> tuple[int, ...]:
    return tuple(index for index, takes_part in enumerate(scope.fields) if takes_part)


class _Watch:
    """One timing rule in one channel: the latest preceding commands per instance of its scope.

    Of all preceding commands on an instance, the one with the highest cycle is nearest to a
    following command. If this pair keeps the rule, all other pairs do. A rule is therefore reported
    once per following command, with this pair. A rule with a window of k takes the preceding
    command with the k-th highest cycle.

    A maintenance command acts on every instance below its pseudo-channel. Only rules that compare
    fields below the pseudo-channel have to search for these instances, and only where a maintenance
    command takes part.
    """

    def __init__(self, rule: _TimingRule, maintenance: tuple[str, str]) -> None:
        self.rule = rule
        self.window = rule.rule.window
        self.latest: dict[_Key, list[LoggedCommand]] = {}
        names = (*rule.rule.before, *rule.rule.after)
        self.must_search = rule.compares_below_pseudo_channel and any(
            name in names for name in maintenance
        )

    def preceding(self, key: _Key) -> LoggedCommand | None:
        if self.must_search:
            meeting = [
                one for other, held in self.latest.items() if _meet(key, other) for one in held
            ]
            meeting.sort(key=_cycle)
        else:
            meeting = self.latest.get(key, ())
        return meeting[-self.window] if len(meeting) >= self.window else None

    def issued(self, entry: LoggedCommand, key: _Key) -> None:
        held = self.latest.setdefault(key, [])
        held.append(entry)
        if len(held) > 1 and held[-2].cycle > entry.cycle:
            held.sort(key=_cycle)
        del held[: -self.window]


def _cycle(entry: LoggedCommand) -> int:
    return entry.cycle


def _address(entry: LoggedCommand) -> _Key:
    return (entry.pseudo_channel, entry.rank, entry.bank_group, entry.bank)


def _meet(one: _Key, other: _Key) -> bool:
    return all(a == b or _ANY in (a, b) for a, b in zip(one, other, strict=True))


@dataclass(frozen=True, slots=True)
class _Duties:
    """The timing rules that a command at an address must keep, and those that it starts."""

    to_keep: list[tuple[_Watch, _Key]]
    to_start: list[tuple[_Watch, _Key]]


@dataclass
class _Refreshes:
    """The refreshes of one pseudo-channel.

    Attributes:
        settled: number of refreshes that fell due and have issued, or were reported.
        latest: the latest refresh.
        had_turn: per-bank refreshes since every bank was last refreshed.
    """

    settled: int = 0
    latest: LoggedCommand | None = None
    had_turn: dict[_Key, LoggedCommand] = field(default_factory=dict[_Key, LoggedCommand])


@dataclass
class _Channel:
    """Replays the commands of one channel.

    Attributes:
        number: number of the channel.
        law: the rules that the log must keep.
        found: the violations of all channels; those of this channel are added.
        latest: the command with the highest cycle.
        buses: the latest command of either bus.
        rows: per set of banks that share a row, the latest command of the units that opened or
            closed it.
        ordinary_rows: per bank, the latest ordinary command that opened or closed it.
        refreshes: the refreshes of each pseudo-channel.
        watches: one watch per timing rule.
        duties: per command and address, the timing rules that apply; filled as commands occur.
    """

    number: int
    law: _Law
    found: _Findings
    latest: LoggedCommand | None = None
    buses: dict[Bus, LoggedCommand] = field(default_factory=dict[Bus, LoggedCommand])
    rows: dict[_Key, LoggedCommand] = field(default_factory=dict[_Key, LoggedCommand])
    ordinary_rows: dict[_Key, LoggedCommand] = field(default_factory=dict[_Key, LoggedCommand])
    refreshes: list[_Refreshes] = field(init=False)
    watches: list[_Watch] = field(init=False)
    duties: dict[tuple[str, _Key], _Duties] = field(default_factory=dict[tuple[str, _Key], _Duties])

    def __post_init__(self) -> None:
        law = self.law
        self.refreshes = [_Refreshes() for _ in range(law.organization.pseudo_channels)]
        self.watches = [_Watch(rule, (law.precharge_all, law.refresh)) for rule in law.rules]

    def replay(self, entry: LoggedCommand) -> None:
        """Judge the next command, and remember it for the judgement of later commands.

        A command that the device does not have, or not at that address, is not remembered.
        """
        self._check_order(entry)
        if entry.command == BARRIER or not self._is_known(entry) or not self._has_address(entry):
            return
        self._check_bus(entry)
        law = self.law
        if entry.command == law.refresh:
            self._replay_refresh(entry)
        elif entry.command == law.refresh_bank:
            self._replay_refresh_of_bank(entry)
        elif entry.command == law.precharge_all:
            self.rows = dict.fromkeys(self.rows, entry)
            self.ordinary_rows = dict.fromkeys(self.ordinary_rows, entry)
        elif entry.command == law.family.activate:
            self._check_mode(entry)
            self._open(entry, self.rows, self._row_key(entry), law.family.row_scope)
        elif entry.command == law.family.multiply:
            self._check_row(entry, self.rows.get(self._row_key(entry)), law.family.row_scope)
        elif entry.command == law.family.precharge:
            self._check_mode(entry)
            self.rows[self._row_key(entry)] = entry
        elif law.ordinary is not None:
            self._replay_ordinary(entry, law.ordinary)
        self._check_timing(entry)

    def _replay_ordinary(self, entry: LoggedCommand, ordinary: OrdinaryFamily) -> None:
        key = _address(entry)
        if entry.command == ordinary.activate:
            self._check_mode(entry)
            self._open(entry, self.ordinary_rows, key, Scope.BANK)
        elif entry.command in (ordinary.read, ordinary.write):
            self._check_row(entry, self.ordinary_rows.get(key), Scope.BANK)
        elif entry.command == ordinary.precharge:
            self._check_mode(entry)
            self.ordinary_rows[key] = entry

    def end(self, cycle: int) -> None:
        """Report refreshes that should have issued up to a cycle and have not."""
        for pseudo_channel in range(len(self.refreshes)):
            self._expire_refreshes(pseudo_channel, cycle, None)

    def _report(
        self,
        check: Check,
        rule: Callable[[], str],
        before: LoggedCommand | None,
        after: LoggedCommand,
        scope: Scope | None = None,
    ) -> None:
        """Report a violation; its rule is put into words only if it is listed."""
        self.found.add(check, lambda: Violation(check, rule(), scope, before, after))

    def _report_open(
        self, check: Check, what: str, latest: LoggedCommand, entry: LoggedCommand, scope: Scope
    ) -> None:
        """Report a command that needs closed banks which the latest command opened."""
        self._report(
            check,
            lambda: f"{entry.command} needs {what} closed: row {latest.row} is open",
            latest,
            entry,
            scope,
        )

    def _report_early(
        self,
        check: Check,
        rule: str,
        scope: Scope,
        before: LoggedCommand,
        after: LoggedCommand,
        required: int,
    ) -> None:
        actual = after.cycle - before.cycle
        self.found.add(
            check,
            lambda: Violation(
                check, rule, scope, before, after, required, actual, actual - required
            ),
            rule if check is Check.TIMING else None,
        )

    def _check_order(self, entry: LoggedCommand) -> None:
        latest = self.latest
        if entry.cycle < 1:
            self._report(Check.ORDER, lambda: "cycles count from 1", None, entry)
        if latest is None or latest.cycle <= entry.cycle:
            self.latest = entry
        else:
            rule = "cycles of a channel never go back"
            self._report_early(Check.ORDER, rule, Scope.CHANNEL, latest, entry, 0)

    def _is_known(self, entry: LoggedCommand) -> bool:
        name = entry.command
        if name not in self.law.buses:
            self._report(Check.UNKNOWN_COMMAND, lambda: self._unknown(name), None, entry)
            return False
        if name in self.law.foreign:
            rule = f"{name} belongs to another placement of the units"
            self._report(Check.OTHER_PLACEMENT, lambda: rule, None, entry)
            return False
        return True

    def _unknown(self, name: str) -> str:
        return f"the device has no command {name!r}: {nearest_hint(name, self.law.buses)}"

    def _has_address(self, entry: LoggedCommand) -> bool:
        o = self.law.organization
        least = _ANY if entry.command in (self.law.precharge_all, self.law.refresh) else 0
        least_row = _ANY if entry.command in self.law.without_row else 0
        if (
            0 <= entry.pseudo_channel < o.pseudo_channels
            and least <= entry.rank < o.ranks
            and least <= entry.bank_group < o.bank_groups
            and least <= entry.bank < o.banks
            and least_row <= entry.row < o.rows
            and least_row <= entry.column < o.columns
        ):
            return True
        for name, value, lowest, size in (
            ("pseudo-channel", entry.pseudo_channel, 0, o.pseudo_channels),
            ("rank", entry.rank, least, o.ranks),
            ("bank group", entry.bank_group, least, o.bank_groups),
            ("bank", entry.bank, least, o.banks),
            ("row", entry.row, least_row, o.rows),
            ("column", entry.column, least_row, o.columns),
        ):
            if not lowest <= value < size:
                self.found.add(Check.ADDRESS, partial(_wrong_field, entry, name, value, size))
        return False

    def _check_bus(self, entry: LoggedCommand) -> None:
        bus = self.law.buses[entry.command]
        latest = self.buses.get(bus)
        if latest is not None and latest.cycle == entry.cycle:
            rule = f"one command a cycle on the {bus} bus of a channel"
            self._report_early(Check.BUS, rule, Scope.CHANNEL, latest, entry, 1)
        self.buses[bus] = entry

    def _row_key(self, entry: LoggedCommand) -> _Key:
        return tuple(
            value if index in self.law.row_compared else _ANY
            for index, value in enumerate(_address(entry))
        )

    def _is_open(self, latest: LoggedCommand) -> bool:
        """Whether the latest row command somewhere left a row open."""
        ordinary = self.law.ordinary
        return latest.command == self.law.family.activate or (
            ordinary is not None and latest.command == ordinary.activate
        )

    def _check_mode(self, entry: LoggedCommand) -> None:
        """Check that the units and ordinary traffic never have rows open at the same time."""
        family = self.law.family
        units = entry.command in (family.activate, family.precharge)
        others = self.ordinary_rows if units else self.rows
        latest = max(filter(self._is_open, others.values()), key=_cycle, default=None)
        if latest is not None:
            what = "the rows of ordinary traffic" if units else "the rows of the units"
            self._report_open(Check.MODE, what, latest, entry, Scope.CHANNEL)

    def _open(
        self, entry: LoggedCommand, rows: dict[_Key, LoggedCommand], key: _Key, scope: Scope
    ) -> None:
        latest = rows.get(key)
        if latest is not None and self._is_open(latest):
            self._report_open(Check.OPEN_BANK, "its banks", latest, entry, scope)
        rows[key] = entry

    def _check_row(self, entry: LoggedCommand, latest: LoggedCommand | None, scope: Scope) -> None:
        if latest is None or not self._is_open(latest):
            rule = f"{entry.command} needs row {entry.row} open: its banks are closed"
            self._report(Check.CLOSED_ROW, lambda: rule, latest, entry, scope)
        elif latest.row != entry.row:
            rule = f"{entry.command} needs row {entry.row} open: row {latest.row} is"
            self._report(Check.OTHER_ROW, lambda: rule, latest, entry, scope)

    def _check_closed(self, entry: LoggedCommand, covered: _Key, what: str, scope: Scope) -> None:
        for rows in (self.rows, self.ordinary_rows):
            for key, latest in rows.items():
                if self._is_open(latest) and _meet(key, covered):
                    self._report_open(Check.REFRESH_OF_OPEN_BANK, what, latest, entry, scope)

    def _replay_refresh(self, entry: LoggedCommand) -> None:
        covered = (entry.pseudo_channel, _ANY, _ANY, _ANY)
        self._check_closed(entry, covered, "all banks", Scope.PSEUDO_CHANNEL)
        refreshes = self.refreshes[entry.pseudo_channel]
        refreshes.had_turn.clear()
        self._settle(entry, self.law.banks if self.law.per_bank else 1)

    def _replay_refresh_of_bank(self, entry: LoggedCommand) -> None:
        key = _address(entry)
        self._check_closed(entry, key, "its bank", Scope.BANK)
        had_turn = self.refreshes[entry.pseudo_channel].had_turn
        earlier = had_turn.get(key)
        if earlier is not None:
            rule = f"{entry.command} takes every bank of a pseudo-channel in turn"
            self._report(Check.REPEATED_REFRESH, lambda: rule, earlier, entry, Scope.PSEUDO_CHANNEL)
        had_turn[key] = entry
        if len(had_turn) == self.law.banks:
            had_turn.clear()
        self._settle(entry, 1 if self.law.per_bank and earlier is None else 0)

    def _settle(self, entry: LoggedCommand, worth: int) -> None:
        """Count a refresh as `worth` of those that fall due."""
        self._expire_refreshes(entry.pseudo_channel, entry.cycle, entry)
        refreshes = self.refreshes[entry.pseudo_channel]
        # A refresh ahead of time is legal, but earns no credit.
        due = entry.cycle // self.law.refresh_interval - refreshes.settled
        refreshes.settled += min(worth, max(0, due))
        if worth:
            refreshes.latest = entry

    def _expire_refreshes(
        self, pseudo_channel: int, cycle: int, entry: LoggedCommand | None
    ) -> None:
        """Report every refresh that is overdue at a cycle; after that it is no longer owed."""
        refreshes = self.refreshes[pseudo_channel]
        interval, deadline = self.law.refresh_interval, self.law.refresh_deadline
        settled, latest = refreshes.settled, refreshes.latest

        def missed(number: int) -> Violation:
            due = (settled + 1 + number) * interval
            rule = (
                f"channel {self.number}, pseudo-channel {pseudo_channel}: the refresh due at "
                f"cycle {due}, a multiple of {self._interval_name} = {interval}, issues by "
                f"{due + deadline}"
            )
            return Violation(
                Check.LATE_REFRESH,
                rule,
                Scope.PSEUDO_CHANNEL,
                latest,
                entry,
                deadline,
                cycle - due,
                due + deadline - cycle,
            )

        # Number of refreshes that fell due more than the deadline before this cycle.
        count = (cycle - deadline - 1) // interval - settled
        if count > 0:
            refreshes.settled += count
            self.found.add_all(Check.LATE_REFRESH, count, missed)

    @property
    def _interval_name(self) -> str:
        return f"nREFI / {self.law.banks}" if self.law.per_bank else "nREFI"

    def _check_timing(self, entry: LoggedCommand) -> None:
        address = _address(entry)
        if entry.command in (self.law.precharge_all, self.law.refresh):
            # The command acts on the whole pseudo-channel, whichever bank its address names.
            address = (entry.pseudo_channel, _ANY, _ANY, _ANY)
        duties = self.duties.get((entry.command, address))
        if duties is None:
            duties = self._duties_of(entry.command, address)
        for watch, key in duties.to_keep:
            before = watch.preceding(key)
            if before is not None and entry.cycle - before.cycle < watch.rule.cycles:
                rule = watch.rule
                self._report_early(
                    Check.TIMING, rule.text, rule.rule.scope, before, entry, rule.cycles
                )
        for watch, key in duties.to_start:
            watch.issued(entry, key)

    def _duties_of(self, command: str, address: _Key) -> _Duties:
        def at_address(watches: list[_Watch]) -> list[tuple[_Watch, _Key]]:
            return [(w, tuple(address[index] for index in w.rule.compared)) for w in watches]

        duties = _Duties(
            to_keep=at_address([w for w in self.watches if command in w.rule.rule.after]),
            to_start=at_address([w for w in self.watches if command in w.rule.rule.before]),
        )
        self.duties[command, address] = duties
        return duties
