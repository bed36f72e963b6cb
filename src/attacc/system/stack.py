"""Decode attention of one AttAcc stack: its program timed on its device and costed in energy."""

from __future__ import annotations

from dataclasses import dataclass, field

from attacc.energy.dram import DRAM_ENERGIES, AttentionEnergy, attention_energy
from attacc.errors import InputError
from attacc.hardware.dram import DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.mapping.balance import assign
from attacc.mapping.head import HeadLayout
from attacc.models.precision import ElementType
from attacc.program.interleaved import chunk_grain, interleaved_program, longest_chunk
from attacc.program.program import Program
from attacc.program.schedule import attention_program
from attacc.timing.engine import CommandCount, TimedRun, run
from attacc.timing.tables import TimingTables, resolve_timing
from attacc.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class StackAttention:
    """Attention of a number of equal heads on one stack, one new query each.

    Attributes:
        device: the DRAM device's name.
        placement: where the units sit.
        power_limited: whether the multiplies keep the cadence of the power budget.
        schedule: order of the commands.
        heads: heads on the stack.
        length: keys of each head.
        head_dim: elements of a key.
        element: element type of the keys and values.
        cycles: of the command clock.
        time_ns: the same.
        commands: how often each command issued.
        kv_bytes: keys and values of all heads, counted once for every query head.
        read_bytes: what the units read from the banks, padding included.
        achieved_bytes_per_s: keys and values over time.
        internal_bytes_per_s: peak at which the units can read.
        external_bytes_per_s: peak of the stack's interface.
        energy: by component.
    """

    device: str
    placement: Placement
    power_limited: bool
    schedule: Schedule
    heads: int
    length: int
    head_dim: int
    element: ElementType
    cycles: int
    time_ns: float
    commands: tuple[CommandCount, ...]
    kv_bytes: float
    read_bytes: float
    achieved_bytes_per_s: float
    internal_bytes_per_s: float
    external_bytes_per_s: float
    energy: AttentionEnergy


@dataclass(frozen=True, eq=False)
class Stack:
    """A device with units at a placement, ready to attend.

    Programs are timed once per shape: lengths that fill the same columns share their commands.

    Attributes:
        device: the DRAM device.
        placement: where the units sit.
        power_limited: whether the multiplies keep the cadence of the power budget.
        schedule: order of the commands.
    """

    device: DramDevice
    placement: Placement
    power_limited: bool
    schedule: Schedule
    _tables: TimingTables = field(init=False, repr=False)
    _runs: dict[tuple[int, int, int, ElementType, int], TimedRun] = field(
        init=False,
        repr=False,
        default_factory=dict[tuple[int, int, int, ElementType, int], TimedRun],
    )

    def __post_init__(self) -> None:
        tables = resolve_timing(self.device, self.placement, power_limited=self.power_limited)
        object.__setattr__(self, "_tables", tables)

    def layout(self, length: int, head_dim: int, element: ElementType) -> HeadLayout:
        """Return how one head lies in a channel of this stack."""
        return HeadLayout(self.device.organization, self.placement, length, head_dim, element)

    def attend(
        self,
        *,
        heads: int,
        length: int,
        head_dim: int,
        element: ElementType,
        queries_per_kv_head: int = 1,
    ) -> StackAttention:
        """Time and cost the attention of equal heads.

        Args:
            heads: query heads on the stack; each has its keys and values read once.
            length: keys of each head.
            head_dim: elements of a key.
            element: element type of the keys and values.
            queries_per_kv_head: query heads that read the same keys and values, one after
                another in the same channel.

        Raises:
            InputError: a size below 1; the heads do not fit into the banks (unless published); or
                (interleaved) the device has no pipeline, or heads share keys and values.
        """
        layout = self.layout(length, head_dim, element)
        timed = self._timed(layout, heads, queries_per_kv_head)
        multiply = self.device.rule_set.families[self.placement].multiply
        banks = self.device.banks_per_command(self.placement)
        energy = attention_energy(
            timed,
            layout,
            heads,
            DRAM_ENERGIES.load(self.device.energy),
            banks_per_multiply=banks,
        )
        kv_bytes = 2 * heads * length * head_dim * element.bytes
        return StackAttention(
            device=self.device.name,
            placement=self.placement,
            power_limited=self.power_limited,
            schedule=self.schedule,
            heads=heads,
            length=length,
            head_dim=head_dim,
            element=element,
            cycles=timed.cycles,
            time_ns=timed.time_ns,
            commands=timed.commands,
            kv_bytes=kv_bytes,
            read_bytes=timed.count(multiply) * banks * self.device.organization.access_bytes,
            achieved_bytes_per_s=kv_bytes / timed.time_ns * NS_PER_S,
            internal_bytes_per_s=self.device.internal_bytes_per_s(
                self.placement, power_limited=self.power_limited
            ),
            external_bytes_per_s=self.device.external_bytes_per_s,
            energy=energy,
        )

    def _timed(self, layout: HeadLayout, heads: int, queries_per_kv_head: int) -> TimedRun:
        key = (heads, layout.keys_per_part, layout.head_dim, layout.element, queries_per_kv_head)
        if key not in self._runs:
            program = self._program(layout, heads, queries_per_kv_head)
            self._runs[key] = run(program, self._tables)
        return self._runs[key]

    def _program(self, layout: HeadLayout, heads: int, queries_per_kv_head: int) -> Program:
        if self.schedule is not Schedule.INTERLEAVED:
            return attention_program(layout, heads, self.schedule, queries_per_kv_head)
        if queries_per_kv_head > 1:
            raise InputError(
                f"{queries_per_kv_head} query heads share keys and values",
                hint="the interleaved schedule deals heads out one by one: use the complete one",
            )
        if heads < 1:
            raise InputError(f"heads = {heads} must be at least 1")
        # Lengths that fill the same columns share their commands, and so the longest of them.
        longest = layout.keys_per_part * layout.sequence_parts
        assignment = assign(
            [longest] * heads,
            channels=self.device.organization.channels,
            longest=longest_chunk(self.device, layout),
            grain=chunk_grain(layout),
        )
        return interleaved_program(
            self.device, layout, assignment, multiply_interval=self._tables.multiply_interval
        )
