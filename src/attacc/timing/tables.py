"""Rules to integer tables: what the kernel sees of a device.

Every (scope, following command) that some rule constrains is a *gate*: a row of times, one per
instance of the scope, before which the command must not issue. Commands with the same
constraints at a scope share a gate. Issuing a command raises the gates of its followers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.hardware.dram import DramDevice, Organization, Scope, evaluate_cycles
from attacc.hardware.placement import Placement

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Code(IntEnum):
    """What a controller issues, by role; the numbers are what the kernel sees."""

    ACTIVATE = 0
    MULTIPLY = 1
    PRECHARGE = 2
    PRECHARGE_ALL = 3
    REFRESH = 4
    WRGB = 5
    MVSB = 6
    MVGB = 7
    SFM = 8


ROW_CODES: Final = (Code.ACTIVATE, Code.PRECHARGE, Code.PRECHARGE_ALL, Code.REFRESH)


@dataclass(frozen=True, eq=False)
class TimingTables:
    """A device, placement and cadence as the kernel sees them; all times in clock cycles.

    Attributes:
        device: the device's name.
        organization: what addresses refer to.
        clock_ns: the clock's period.
        placement: whose commands the roles stand for.
        names: (codes,) the command that each `Code` stands for.
        gates: (codes, width) gates that a command waits for, -1 beyond the last.
        raised: (codes, width) gates that a command raises, -1 beyond the last.
        latency: (codes, width) by how much, from the cycle it issues.
        slot: (gates, banks) where the time of the gate's instance of a bank is kept.
        slots: number of such times.
        row_slot: (banks,) which open row a bank belongs to.
        row_slots: number of open rows of a channel.
        pseudo_channels: refreshes that fall due together.
        banks_per_pseudo_channel: distance between the first banks of two pseudo-channels.
        refresh_interval: nREFI.
        moves_yield: whether ready moves stay behind queued row hits on their bank address.
        multiply_interval: least cycles between two multiplies of a channel, whatever their bank.
    """

    device: str
    organization: Organization
    clock_ns: float
    placement: Placement
    names: tuple[str, ...]
    gates: I32
    raised: I32
    latency: I64
    slot: I32
    slots: int
    row_slot: I32
    row_slots: int
    pseudo_channels: int
    banks_per_pseudo_channel: int
    refresh_interval: int
    multiply_interval: int
    moves_yield: bool


def resolve_timing(
    device: DramDevice, placement: Placement, *, power_limited: bool
) -> TimingTables:
    """Resolve the rules of a device for one placement into integer tables."""
    rule_set = device.rule_set
    family = rule_set.families[placement]
    parameters = device.parameters(power_limited=power_limited)
    names = (
        family.activate,
        family.multiply,
        family.precharge,
        rule_set.precharge_all,
        rule_set.refresh,
        *(code.name for code in (Code.WRGB, Code.MVSB, Code.MVGB, Code.SFM)),
    )

    constraints: dict[tuple[Scope, str], dict[str, int]] = defaultdict(dict)
    for rule in rule_set.rules:
        cycles = evaluate_cycles(rule.latency, parameters)
        for after in rule.after:
            if after not in names:
                continue
            waits = constraints[rule.scope, after]
            for before in rule.before:
                if before in names:
                    waits[before] = max(cycles, waits.get(before, 0))

    gate_of: dict[tuple[Scope, tuple[tuple[str, int], ...]], int] = {}
    waits_for: dict[str, list[int]] = defaultdict(list)
    for (scope, after), waits in constraints.items():
        if waits:
            key = (scope, tuple(sorted(waits.items())))
            waits_for[after].append(gate_of.setdefault(key, len(gate_of)))
    raises: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (_, waits), gate in gate_of.items():
        for before, cycles in waits:
            raises[before].append((gate, cycles))

    slots = 0
    slot: list[I32] = []
    for scope, _ in gate_of:
        instances, count = scope_instances(device.organization, scope)
        slot.append(instances + np.int32(slots))
        slots += count
    row_slot, row_slots = scope_instances(device.organization, family.row_scope)
    o = device.organization
    return TimingTables(
        device=device.name,
        organization=device.organization,
        clock_ns=device.clock_ns,
        placement=placement,
        names=names,
        gates=_padded([waits_for[name] for name in names], -1).astype(np.int32),
        raised=_padded([[g for g, _ in raises[name]] for name in names], -1).astype(np.int32),
        latency=_padded([[cycles for _, cycles in raises[name]] for name in names], 0),
        slot=np.array(slot, dtype=np.int32),
        slots=slots,
        row_slot=row_slot,
        row_slots=row_slots,
        pseudo_channels=o.pseudo_channels,
        banks_per_pseudo_channel=o.banks_per_channel // o.pseudo_channels,
        refresh_interval=parameters["nREFI"],
        multiply_interval=max(
            1, constraints[Scope.CHANNEL, family.multiply].get(family.multiply, 0)
        ),
        moves_yield=not device.moves_pass_hits,
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


def _padded(rows: list[list[int]], fill: int) -> I64:
    width = max(1, *map(len, rows))
    table = np.full((len(rows), width), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
