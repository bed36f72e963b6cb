"""What the attention of one stack takes: time, commands, energy and power."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import AttentionEnergy
from attacc.pim.energy.power import PowerTrace
from attacc.pim.limits import BusyShares, Limiter
from attacc.pim.log import LoggedCommand
from attacc.pim.timing.engine import CommandCount
from attacc.results import Result, flat
from attacc.units import NS_PER_S, PJ_PER_J


@dataclass(frozen=True, slots=True)
class Dealt:
    """How the heads of a stack were dealt out to its channels.

    Attributes:
        chunks: number of chunks: heads, or parts of one, that one channel attends to by itself.
        longest_chunk: keys of the longest chunk.
        cut_heads: key/value heads that were cut into several chunks.
        imbalance: keys of the fullest channel over the mean of all channels; 1 is perfect.
    """

    chunks: int
    longest_chunk: int
    cut_heads: int
    imbalance: float


@dataclass(frozen=True, slots=True)
class StackAttention(Result):
    """Attention of a number of heads on one stack, with the queries of one or several new tokens.

    Attributes:
        device: the DRAM device's name.
        placement: where the units sit.
        power_limited: whether the multiplies keep a cadence that limits power.
        power_budget_w: budget from which that cadence was computed; None for the device's own
            cadence.
        schedule: order of the commands.
        temperature_c: temperature of the device; None for its usual rate of refresh.
        heads: query heads on the stack.
        kv_heads: key/value heads, each shared by the same number of query heads.
        query_tokens: new tokens, each with a query for every query head.
        queries_per_read: queries that a read of keys and values serves at most.
        passes: how often keys and values are read for all queries that share them.
        window: keys that a token sees at most; None for all earlier ones.
        keys: sum of the keys that are stored of all key/value heads.
        shortest: keys of the shortest head.
        longest: keys of the longest head.
        head_dim: elements of a key.
        value_dim: elements of a value.
        key_slices: slices of elements into which keys are cut.
        one_copy: whether the first elements of a key serve as its value.
        element: element type of the keys and values.
        dealt: how the heads were dealt out to channels.
        cycles: duration in cycles of the command clock.
        time_ns: duration in nanoseconds.
        multiply_interval: least cycles between two multiplies of a channel.
        busy: how long the resources of the fullest channel are busy.
        buffer_words: most accesses of half a vector buffer in use; None where the device has no
            pipeline.
        commands: how often each command issued.
        kv_bytes: bytes of keys and values of all heads, without padding.
        read_bytes: bytes that the units read in the banks, padding and repeated reads included.
        achieved_bytes_per_s: `kv_bytes` over time.
        internal_bytes_per_s: peak rate at which the units can read.
        external_bytes_per_s: peak rate of the stack's interface.
        energy: energy by component, without refresh and standby.
        power: power over time, with refresh and standby; None if it was not wanted.
        log: every command, by cycle and channel; None where the stack keeps no logs.
    """

    device: str
    placement: Placement
    power_limited: bool
    power_budget_w: float | None
    schedule: Schedule
    temperature_c: float | None
    heads: int
    kv_heads: int
    query_tokens: int
    queries_per_read: int
    passes: int
    window: int | None
    keys: int
    shortest: int
    longest: int
    head_dim: int
    value_dim: int
    key_slices: int
    one_copy: bool
    element: ElementType
    dealt: Dealt
    cycles: int
    time_ns: float
    multiply_interval: int
    busy: BusyShares
    buffer_words: int | None
    commands: tuple[CommandCount, ...]
    kv_bytes: float
    read_bytes: float
    achieved_bytes_per_s: float
    internal_bytes_per_s: float
    external_bytes_per_s: float
    energy: AttentionEnergy
    power: PowerTrace | None
    log: tuple[LoggedCommand, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def limiter(self) -> Limiter:
        """The resource of the stack that limits the time, or two that do so nearly alike."""
        return self.busy.limiter

    @property
    def length(self) -> int | None:
        """Keys of each head; None where heads differ."""
        return self.longest if self.shortest == self.longest else None

    @property
    def achieved_over_internal_peak(self) -> float:
        """Achieved rate over the units' peak rate."""
        return self.achieved_bytes_per_s / self.internal_bytes_per_s

    @property
    def achieved_over_external_peak(self) -> float:
        """Achieved rate over the interface's peak; above 1, no reader outside could be as fast."""
        return self.achieved_bytes_per_s / self.external_bytes_per_s

    @property
    def average_power_w(self) -> float:
        """Energy of the commands over time, without refresh and standby."""
        return self.energy.total_pj / PJ_PER_J / (self.time_ns / NS_PER_S)

    def to_dict(self) -> dict[str, Any]:
        """Return the attention as plain values, with the names of the command line's JSON."""
        parts = asdict(self.energy) | {"total_pj": self.energy.total_pj}
        return {
            "device": self.device,
            "placement": self.placement,
            "power_limited": self.power_limited,
            "power_budget_w": self.power_budget_w,
            "temperature_c": self.temperature_c,
            "schedule": self.schedule,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "query_tokens": self.query_tokens,
            "queries_per_read": self.queries_per_read,
            "passes": self.passes,
            "window": self.window,
            "length": self.length,
            "shortest_length": self.shortest,
            "longest_length": self.longest,
            "keys": self.keys,
            "head_dim": self.head_dim,
            "value_dim": self.value_dim,
            "key_slices": self.key_slices,
            "one_copy": self.one_copy,
            "dtype": self.element,
            "chunks": self.dealt.chunks,
            "cut_heads": self.dealt.cut_heads,
            "imbalance": self.dealt.imbalance,
            "multiply_interval_cycles": self.multiply_interval,
            "buffer_accesses": self.buffer_words,
            "cycles": self.cycles,
            "time_ns": self.time_ns,
            "kv_bytes": self.kv_bytes,
            "read_bytes": self.read_bytes,
            "achieved_bytes_per_s": self.achieved_bytes_per_s,
            "internal_peak_bytes_per_s": self.internal_bytes_per_s,
            "external_peak_bytes_per_s": self.external_bytes_per_s,
            "achieved_over_internal_peak": self.achieved_over_internal_peak,
            "achieved_over_external_peak": self.achieved_over_external_peak,
            "limited_by": self.limiter,
            "busy": asdict(self.busy),
            "commands": {entry.command: entry.count for entry in self.commands},
            "energy": parts,
            "average_power_w": self.average_power_w,
            "power": None if self.power is None else self.power.to_dict(self.time_ns / self.cycles),
        }

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row: the figures of the stack."""
        return [flat(self.to_dict())]
