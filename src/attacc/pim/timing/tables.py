"""Turns the rules of a device into integer tables for the kernel.

Every (scope, following command) that some rule constrains is a *gate*: a row of times, one per
instance of the scope, before which the command must not issue. Commands with the same
constraints at a scope share a gate. Issuing a command raises the gates of its followers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import (
    DramDevice,
    OrdinaryFamily,
    Organization,
    RefreshMode,
    RuleSet,
    Scope,
    evaluate_cycles,
)
from attacc.hardware.placement import Placement

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Code(IntEnum):
    """Roles of the commands that a controller issues; the kernel sees the numbers."""

    ACTIVATE = 0
    MULTIPLY = 1
    PRECHARGE = 2
    PRECHARGE_ALL = 3
    REFRESH = 4
    WRGB = 5
    MVSB = 6
    MVGB = 7
    SFM = 8
    READ = 9
    WRITE = 10
    ACTIVATE_BANK = 11
    PRECHARGE_BANK = 12


ORDINARY_CODES: Final = (Code.READ, Code.WRITE, Code.ACTIVATE_BANK, Code.PRECHARGE_BANK)
_NO_ORDINARY: Final = OrdinaryFamily(activate="ACT", read="RD", write="WR", precharge="PRE")
"""Names for commands that never issue."""
_WIDE: Final = (Scope.CHANNEL, Scope.PSEUDO_CHANNEL)
ROW_CODES: Final = (Code.ACTIVATE, Code.PRECHARGE, Code.PRECHARGE_ALL, Code.REFRESH)


@dataclass(frozen=True, eq=False)
class TimingTables:
    """A device, placement and cadence as integer tables; all times are in clock cycles.

    Each gate keeps one time per instance of its scope. A *slot* is the place of such a time.

    Attributes:
        device: the device's name.
        organization: the organisation that addresses refer to.
        clock_ns: the clock's period.
        placement: the placement whose commands the roles stand for.
        names: (codes,) the command that each `Code` stands for.
        waits: (codes, banks, width) slots of the times before which a command to a bank must not
            issue, one per gate; -1 beyond the last.
        raises: (codes, banks, width) slots of the times that a command raises; -1 beyond the last.
        raises_alone: as `raises`, without the slots that only ordinary commands wait for, which
            stand last; used where there is no ordinary traffic.
        latency: (codes, width) cycles from a command's issue to the time that it raises.
        window: (codes, width) number of last such commands that the gate counts; the latency
            counts from the first of them.
        widest_window: the largest window.
        slots: number of slots.
        row_slot: (banks,) number of the open row that a bank belongs to.
        row_slots: number of open rows of a channel.
        banks_per_pseudo_channel: distance between the first banks of two pseudo-channels.
        refresh_bank: (refreshes,) bank addresses of refreshes, in the order in which they come.
        refresh_per_bank: whether a refresh is of one bank, rather than of a pseudo-channel.
        refreshes_per_interval: refreshes that fall due together, one per pseudo-channel.
        refresh_interval: cycles from one such group of refreshes to the next.
        moves_yield: whether ready moves give way to queued row hits on their bank address.
        multiply_interval: least cycles between two multiplies of a channel, whatever their bank.
        moves_apart: least cycles between two moves or softmaxes of a pseudo-channel, by the rules
            of the pseudo-channel and of the channel.
        serves_traffic: whether the device has commands for ordinary reads and writes.
    """

    device: str
    organization: Organization
    clock_ns: float
    placement: Placement
    names: tuple[str, ...]
    waits: I32
    raises: I32
    raises_alone: I32
    latency: I64
    window: I32
    widest_window: int
    slots: int
    row_slot: I32
    row_slots: int
    banks_per_pseudo_channel: int
    refresh_bank: I32
    refresh_per_bank: bool
    refreshes_per_interval: int
    refresh_interval: int
    multiply_interval: int
    moves_apart: int
    moves_yield: bool
    serves_traffic: bool

    def apart(self, before: Code, after: Code, one: int, other: int) -> int:
        """Return the least cycles from one command to another by their common gates.

        A gate with a window of several commands counts with its latency divided by the window.

        Args:
            before: the first command.
            after: the second command.
            one: bank address of the first command.
            other: bank address of the second command.
        """
        awaited = set(self.waits[after, other].tolist())
        raised = zip(
            self.raises[before, one].tolist(),
            self.latency[before].tolist(),
            self.window[before].tolist(),
            strict=True,
        )
        return max(
            (-(-cycles // window) for slot, cycles, window in raised if slot in awaited - {-1}),
            default=0,
        )

    @cached_property
    def fixed(self) -> I64:
        """The single numbers of the tables, in the order of `attacc.pim.timing.kernel`."""
        return np.array(
            [
                self.banks_per_pseudo_channel,
                self.refresh_interval,
                self.refreshes_per_interval,
                self.refresh_per_bank,
                self.moves_yield,
                self.multiply_interval,
                self.moves_apart,
            ],
            dtype=np.int64,
        )


@dataclass(frozen=True, slots=True)
class _Gate:
    """A gate; commands with the same constraints at a scope share it.

    Attributes:
        scope: the scope at which commands meet.
        window: number of last commands that it counts.
        rule: the rule that it belongs to, if its window is above 1; else -1.
        waits: preceding commands, and for how many cycles each holds the followers back.
    """

    scope: Scope
    window: int
    rule: int
    waits: tuple[tuple[str, int], ...]


def resolve_timing(
    device: DramDevice,
    placement: Placement,
    *,
    power_limited: bool,
    queries_per_read: int = 1,
    element_bits: int = 16,
    temperature_c: float | None = None,
) -> TimingTables:
    """Resolve the rules of a device for one placement into integer tables.

    Args:
        device: the device.
        placement: where its units sit.
        power_limited: whether multiplies keep the cadence of the power budget.
        queries_per_read: queries that a unit multiplies with each column that it reads.
        element_bits: bits of an element of these columns: 16, 8 or 4.
        temperature_c: temperature of the device, which decides how often it refreshes; None for
            its usual rate.

    Raises:
        InputError: the device refreshes bank by bank so often that units which read all banks at
            once would never run.
    """
    rule_set = device.rule_set
    family = rule_set.families[placement]
    ordinary = rule_set.ordinary or _NO_ORDINARY
    per_bank = device.refresh.mode is RefreshMode.PER_BANK
    parameters = device.parameters(
        power_limited=power_limited,
        queries_per_read=queries_per_read,
        element_bits=element_bits,
        temperature_c=temperature_c,
    )
    names = (
        family.activate,
        family.multiply,
        family.precharge,
        rule_set.precharge_all,
        refresh_command(device),
        *(code.name for code in (Code.WRGB, Code.MVSB, Code.MVGB, Code.SFM)),
        ordinary.read,
        ordinary.write,
        ordinary.activate,
        ordinary.precharge,
    )
    waits_for, raises, scopes = _gates(rule_set, parameters, names)

    slots = 0
    slot: list[I32] = []
    for scope in scopes:
        instances, count = scope_instances(device.organization, scope)
        slot.append(instances + np.int32(slots))
        slots += count
    slot.append(np.full(device.organization.banks_per_channel, -1, dtype=np.int32))
    slot_of = np.array(slot)
    gates = _padded([waits_for[name] for name in names], -1)
    used = {
        gate for code, name in enumerate(names) if code not in ORDINARY_CODES
        for gate in waits_for[name]
    }  # fmt: skip
    for held in raises.values():
        held.sort(key=lambda raised: raised[0] not in used)
    raised = _padded([[gate for gate, _, _ in raises[name]] for name in names], -1)
    alone = np.where(np.isin(raised, list(used)), raised, -1)
    row_slot, row_slots = scope_instances(device.organization, family.row_scope)
    o = device.organization
    banks_per_pseudo_channel = o.banks_per_channel // o.pseudo_channels
    refresh_interval = parameters["nREFI"] // (banks_per_pseudo_channel if per_bank else 1)
    if per_bank and row_slots == 1:
        _check_all_banks_rest(device, parameters, names[Code.ACTIVATE], refresh_interval)
    return TimingTables(
        device=device.name,
        organization=device.organization,
        clock_ns=device.clock_ns,
        placement=placement,
        names=names,
        waits=_by_bank(slot_of, gates),
        raises=_by_bank(slot_of, raised),
        raises_alone=_by_bank(slot_of, alone),
        latency=_padded([[cycles for _, cycles, _ in raises[name]] for name in names], 0),
        window=_padded([[window for _, _, window in raises[name]] for name in names], 1).astype(
            np.int32
        ),
        widest_window=max((window for held in raises.values() for _, _, window in held), default=1),
        slots=slots,
        row_slot=row_slot,
        row_slots=row_slots,
        banks_per_pseudo_channel=banks_per_pseudo_channel,
        refresh_bank=_refresh_order(o, per_bank=per_bank),
        refresh_per_bank=per_bank,
        refreshes_per_interval=o.pseudo_channels,
        refresh_interval=refresh_interval,
        multiply_interval=_multiply_interval(rule_set, parameters, family.multiply),
        moves_apart=_moves_apart(waits_for, raises, scopes, names),
        moves_yield=not device.moves_pass_hits,
        serves_traffic=rule_set.ordinary is not None,
    )


def refresh_command(device: DramDevice) -> str:
    """Return the command by which a device refreshes.

    Raises:
        InputError: the device refreshes bank by bank, but its rule set has no command for that.
    """
    rule_set = device.rule_set
    if device.refresh.mode is RefreshMode.ALL_BANK:
        return rule_set.refresh
    if rule_set.refresh_bank is None:
        raise InputError(
            f"rule set {rule_set.name} has no command that refreshes one bank",
            where=f"{device.name}: refresh.mode",
            hint='use mode = "all_bank", or a rule set with refresh_bank',
        )
    return rule_set.refresh_bank


def _gates(
    rule_set: RuleSet, parameters: Mapping[str, int], names: Sequence[str]
) -> tuple[dict[str, list[int]], dict[str, list[tuple[int, int, int]]], list[Scope]]:
    """Return the gates by following command, the gates that a command raises, and their scopes."""
    constraints: dict[tuple[Scope, str, int, int], dict[str, int]] = defaultdict(dict)
    for number, rule in enumerate(rule_set.rules):
        cycles = evaluate_cycles(rule.latency, parameters)
        for after in rule.after:
            if after not in names:
                continue
            waits = constraints[rule.scope, after, rule.window, number if rule.window > 1 else -1]
            for before in rule.before:
                if before in names:
                    waits[before] = max(cycles, waits.get(before, 0))
    gate_of: dict[_Gate, int] = {}
    waits_for: dict[str, list[int]] = defaultdict(list)
    for (scope, after, window, number), waits in constraints.items():
        if waits:
            gate = _Gate(scope, window, number, tuple(sorted(waits.items())))
            waits_for[after].append(gate_of.setdefault(gate, len(gate_of)))
    raises: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for gate, place in gate_of.items():
        for before, cycles in gate.waits:
            raises[before].append((place, cycles, gate.window))
    return waits_for, raises, [gate.scope for gate in gate_of]


def _multiply_interval(rule_set: RuleSet, parameters: Mapping[str, int], multiply: str) -> int:
    """Return the least cycles between any two multiplies of a channel."""
    return max(
        1,
        *(
            evaluate_cycles(rule.latency, parameters)
            for rule in rule_set.rules
            if rule.scope is Scope.CHANNEL
            and rule.window == 1
            and multiply in rule.before
            and multiply in rule.after
        ),
    )


def _moves_apart(
    waits_for: Mapping[str, list[int]],
    raises: Mapping[str, list[tuple[int, int, int]]],
    scopes: Sequence[Scope],
    names: Sequence[str],
) -> int:
    """Return the least cycles between any two moves or softmaxes of a pseudo-channel."""
    moves = [names[code] for code in (Code.WRGB, Code.MVSB, Code.MVGB, Code.SFM)]
    wide = [place for place, scope in enumerate(scopes) if scope in _WIDE]

    def apart(before: str, after: str) -> int:
        common = [
            cycles
            for gate, cycles, window in raises[before]
            if gate in wide and gate in waits_for[after] and window == 1
        ]
        return max(common, default=1)

    return max(1, min(apart(before, after) for before in moves for after in moves))


def _refresh_order(organization: Organization, *, per_bank: bool) -> I32:
    """Return the bank addresses of successive refreshes; pseudo-channels take turns.

    In per-bank refresh, bank groups change first, then ranks, then banks. The banks that one MACSB
    reads are thus refreshed one after the other.
    """
    o = organization
    address = np.arange(o.banks_per_channel, dtype=np.int32).reshape(
        o.pseudo_channels, o.ranks, o.bank_groups, o.banks
    )
    if per_bank:
        return np.ascontiguousarray(address.transpose(3, 1, 2, 0)).reshape(-1)
    return np.ascontiguousarray(address[:, 0, 0, 0])


def _check_all_banks_rest(
    device: DramDevice, parameters: Mapping[str, int], activate: str, interval: int
) -> None:
    """Refuse units that need all banks at once where one of them is always being refreshed."""
    refresh = refresh_command(device)
    blocked = max(
        (
            evaluate_cycles(rule.latency, parameters)
            for rule in device.rule_set.rules
            if refresh in rule.before and activate in rule.after
        ),
        default=0,
    )
    if blocked >= interval:
        raise InputError(
            f"a bank is refreshed every {interval} cycles for {blocked} cycles: {activate} would "
            "never find all banks at rest",
            where=f"{device.name}: refresh.mode",
            hint='use mode = "all_bank" for units that read all banks at once',
        )


def scope_instances(organization: Organization, scope: Scope) -> tuple[I32, int]:
    """Return which instance of a scope each bank of a channel belongs to, and how many there are.

    Banks are numbered with the bank in the low digits, then bank group, rank, pseudo-channel.
    """
    o = organization
    sizes = (o.pseudo_channels, o.ranks, o.bank_groups, o.banks)
    fields = np.indices(sizes).reshape(4, -1)
    instance = np.zeros(fields.shape[1], dtype=np.int32)
    count = 1
    for field, size, takes_part in zip(fields, sizes, scope.fields, strict=True):
        if takes_part:
            instance = instance * size + field.astype(np.int32)
            count *= size
    return instance, count


def _by_bank(slot_of: I32, gates: I64) -> I32:
    """Return the slots of gates: (codes, banks, width), from (codes, width) gates."""
    return np.ascontiguousarray(slot_of[gates].transpose(0, 2, 1))


def _padded(rows: list[list[int]], fill: int) -> I64:
    width = max(1, *map(len, rows))
    table = np.full((len(rows), width), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
