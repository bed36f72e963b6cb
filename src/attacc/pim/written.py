"""What writing keys and values into a stack costs, by the exact engine.

Keys and values reach a stack over its interface, as ordinary writes (docs/model/traffic.md). There
are two kinds of them:

- the keys and values of prompts, which are prefilled meanwhile. They take turns with the commands
  of attention: rows close, the writes open rows of their own, and attention opens its rows again.
- the key and the value of every new token of a request that decodes. They have to be in the banks
  before attention reads them.

Both are timed for one channel with small programs, which are remembered. Writes of prompts beside
attention are then a line over the number of writes, up to a bound: attention and writes alternate,
so attention of a given length meets a limited number of writes. docs/model/overlap.md tells how far
the line is from full programs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.mapping.balance import assign_together
from attacc.pim.mapping.geometry import KeyLayout, allocate_chunks, rows_of_both
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
)
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.traffic import Traffic, kv_writes, token_writes
from attacc.pim.stack import Stack
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import TimingTables, resolve_timing
from attacc.units import BITS_PER_BYTE, NS_PER_S

F64 = npt.NDArray[np.float64]

CYCLES: Final = 20_000
"""Least cycles of the multiplies of the attention beside which writes are timed."""
MOST_KEYS: Final = 2048
"""Keys of a head of that attention, and of a head to which a token is appended, at most."""
MANY: Final = 16_384
"""Writes of a prompt that are timed by themselves."""
BURSTS: Final = (128, 2048)
"""Writes whose time beside attention decides where the line begins."""
DRAWS: Final = 4
"""Draws of the places of new tokens over which the time of their writes is a mean."""
UNITS: Final = ("MAC", "MV", "SFM", "WRGB")
"""Beginnings of the names of the units' commands."""


@dataclass(frozen=True, slots=True)
class BesideAttention:
    """Time by which writes make the attention of their channel longer.

    Attributes:
        first_ns: of any writes, beyond the line: rows that close and open.
        access_ns: of every write.
        most: bound of the time added over that of attention by itself, for any number of writes.
    """

    first_ns: float
    access_ns: float
    most: float

    def towards(self, other: BesideAttention, share: float) -> BesideAttention:
        """Return what lies between this and another one.

        Args:
            other: the other one.
            share: of the other one, 0 to 1.
        """
        return BesideAttention(
            (1 - share) * self.first_ns + share * other.first_ns,
            (1 - share) * self.access_ns + share * other.access_ns,
            (1 - share) * self.most + share * other.most,
        )

    def added_ns(self, writes: F64, attention_ns: F64) -> F64:
        """Return the time added to attention.

        Args:
            writes: (steps,) writes of the channel.
            attention_ns: (steps,) attention by itself.
        """
        line_ns = np.where(writes > 0, self.first_ns + self.access_ns * writes, 0.0)
        return np.minimum(line_ns, self.most * attention_ns)


@dataclass(frozen=True, slots=True)
class WritesAlone:
    """Writes of a channel without attention beside them.

    Attributes:
        time_ns: their time.
        energy_pj: their energy, from the host to the cells.
    """

    time_ns: float
    energy_pj: float


class StackWrites:
    """Writes of keys and values of one kind of heads into a stack.

    Args:
        stack: the stack; its device serves ordinary writes.
        layout: how a key lies in the banks.
        passes: how the queries that share keys and values are divided into passes.
    """

    def __init__(self, stack: Stack, layout: KeyLayout, passes: QueryPasses) -> None:
        self._stack, self._layout, self._passes = stack, layout, passes
        self._device = stack.device
        self._beside = lru_cache(maxsize=256)(self._time_beside)
        self._append = lru_cache(maxsize=1024)(self._time_append)

    @property
    def writes_per_token(self) -> int:
        """Writes of the key and the value of one token."""
        layout = self._layout
        elements = layout.padded_key + (0 if layout.one_copy else layout.padded_value)
        return elements // layout.elements_per_column

    @property
    def longest(self) -> int | None:
        """Keys of a head that one channel holds at most; None for any number."""
        if self._stack.schedule is not Schedule.INTERLEAVED:
            return None
        return longest_chunk(self._device, self._layout, self._passes.most)

    @property
    def grain(self) -> int:
        """Keys at whose multiples heads are cut."""
        return chunk_grain(self._layout)

    @property
    def clock_ns(self) -> float:
        """Duration of a cycle."""
        return self._device.clock_ns

    def cycles_per_write(self, bytes_per_s: float) -> float:
        """Return the cycles in which a link brings what one write stores."""
        access_ns = self._layout.organization.access_bytes / bytes_per_s * NS_PER_S
        return access_ns / self.clock_ns

    def beside(self, interval: float) -> BesideAttention:
        """Return what writes of a channel cost beside attention.

        Args:
            interval: cycles between the arrivals of two writes. A channel takes about one write in
                a cycle, so shorter ones make no difference. Powers of two are timed, and other
                intervals interpolated over their logarithm.
        """
        power = math.log2(max(1.0, interval))
        low = math.floor(power)
        one = self._beside(low)
        return one if power == low else one.towards(self._beside(low + 1), power - low)

    @cached_property
    def alone(self) -> WritesAlone:
        """What one of many writes of a prompt costs without attention beside them."""
        written = self._prompt(MANY)
        many = self._alone(written)
        writes = len(written.requests)
        return WritesAlone(many.time_ns / writes, many.energy_pj / writes)

    def append(self, heads: int, tokens: int = 1) -> WritesAlone:
        """Return what it costs to store the new tokens of all heads of a channel.

        The tokens of a head go to neighbouring parts of its sequence. The parts of different heads
        are drawn, since their requests differ in length.

        Args:
            heads: heads of the channel.
            tokens: new tokens of each head.
        """
        return self._append(heads, tokens) if heads > 0 else WritesAlone(0.0, 0.0)

    @cached_property
    def _tables(self) -> TimingTables:
        return resolve_timing(
            self._device,
            self._stack.placement,
            power_limited=self._stack.power_limited,
            queries_per_read=self._passes.most,
            element_bits=self._layout.element.bits,
            temperature_c=self._stack.temperature_c,
        )

    def _alone(self, written: Traffic) -> WritesAlone:
        """Return what writes cost by themselves."""
        ordinary = self._device.rule_set.ordinary
        timed = run(_nothing(self._layout), self._tables, traffic=written)
        assert ordinary is not None  # noqa: S101 - `run` has refused such a device
        energy = DRAM_ENERGIES.load(self._device.energy)
        bits = written.bytes * BITS_PER_BYTE
        path = energy.interposer + energy.unit_to_buffer_die(Placement.BANK) + energy.cell
        opening_pj = bits * energy.activate
        if energy.activate_row is not None:
            opening_pj = timed.count(ordinary.activate) * energy.activate_row
        return WritesAlone(timed.time_ns, bits * path + opening_pj)

    def _prompt(self, writes: int, interval: float = 0.0) -> Traffic:
        """Return at least so many writes of one channel, of the last rows of its banks."""
        layout = self._layout
        o, parts = layout.organization, layout.sequence_parts
        tokens = -(-writes // (self.writes_per_token * parts)) * parts
        head = layout.head(tokens)
        row_bytes = o.columns * o.access_bytes
        values = o.bank_bytes - head.value_rows * row_bytes
        written = kv_writes(head, keys=values - head.rows * row_bytes, values=values)
        return written.paced(interval)

    @cached_property
    def _attention(self) -> tuple[Program, int]:
        """The program beside which writes are timed, in channel 0, and its cycles."""
        stack, layout, passes = self._stack, self._layout, self._passes
        longest = self.longest
        length = MOST_KEYS if longest is None else min(MOST_KEYS, longest)
        head = layout.head(length)
        each = (head.score_multiplies + head.context_multiplies) * passes.passes
        heads = -(-CYCLES // (each * self._tables.multiply_interval))
        channels = layout.organization.channels
        if longest is None:
            program = attention_program(
                head, heads * channels * passes.queries, stack.schedule, passes.queries
            )
        else:
            program = interleaved_program(
                self._device,
                layout,
                assign_together(
                    [length] * heads,
                    together=heads,
                    channels=channels,
                    longest=longest,
                    grain=self.grain,
                ),
                multiply_interval=self._tables.multiply_interval,
                queries=passes.queries,
                queries_per_read=passes.most,
            )
        return program, run(program, self._tables).cycles

    def _time_beside(self, power: int) -> BesideAttention:
        program, alone = self._attention
        interval = 2.0**power if power else 0.0
        plenty = int(2.5 * alone / 2.0**power)
        ends, inside = self._played(program, self._prompt(plenty, interval))
        access = (ends - alone) / inside
        bursts = (self._played(program, self._prompt(writes, interval)) for writes in BURSTS)
        first = float(np.mean([end - alone - access * met for end, met in bursts]))
        return BesideAttention(
            max(0.0, first) * self.clock_ns, access * self.clock_ns, (ends - alone) / alone
        )

    def _played(self, program: Program, written: Traffic) -> tuple[int, int]:
        """Return the cycle of the last command of attention, and the writes until then."""
        timed = run(program, self._tables, last=True, traffic=written)
        assert timed.traffic is not None  # noqa: S101 - there is traffic
        assert timed.last is not None  # noqa: S101 - it was wanted
        ends = max(cycle for name, cycle in timed.last.items() if name.startswith(UNITS))
        return ends, int((timed.traffic.served <= ends).sum())

    def _time_append(self, heads: int, tokens: int) -> WritesAlone:
        layout = self._layout
        parts = layout.sequence_parts
        length = min(MOST_KEYS, self.longest or MOST_KEYS)
        room = layout.organization.rows // heads
        while length > max(parts, tokens) and rows_of_both(layout, length) > room:
            length //= 2
        head = layout.head(max(length, parts + tokens))
        regions = allocate_chunks(layout, [head.length] * heads)
        random = np.random.default_rng(0)
        each: list[WritesAlone] = []
        for _ in range(DRAWS):
            first = head.length - parts - tokens + random.integers(1, parts + 1, size=heads)
            places = first[:, np.newaxis] + np.arange(tokens)
            each.append(self._alone(token_writes(head, regions, places.tolist())))
        return WritesAlone(
            sum(one.time_ns for one in each) / DRAWS, sum(one.energy_pj for one in each) / DRAWS
        )


def added_beside(each: StackWrites, writes: F64, interval: F64, attention_ns: F64) -> F64:
    """Return the time that writes add to the attention of their channel, in several steps.

    Args:
        each: what the writes cost.
        writes: (steps,) writes of the channel.
        interval: (steps,) cycles between the arrivals of two writes.
        attention_ns: (steps,) attention by itself, or one time for all steps.
    """
    found = np.zeros(writes.shape)
    alone_ns = np.broadcast_to(attention_ns, writes.shape)
    for some in np.unique(interval[writes > 0]).tolist():
        at = (interval == some) & (writes > 0)
        found[at] = each.beside(some).added_ns(writes[at], alone_ns[at])
    return found


def _nothing(layout: KeyLayout) -> Program:
    """Return a program without steps."""
    none = np.zeros(0, dtype=np.int64)
    return Program(
        layout.organization,
        none.astype(np.uint8),
        none,
        none.astype(np.int16),
        none.astype(np.int16),
    )
