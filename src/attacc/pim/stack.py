"""Decode attention of one AttAcc stack: its program timed on its device and costed in energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, NamedTuple, final

import numpy as np

from attacc.errors import InputError, member
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType, kv_element
from attacc.pim.attention import Dealt, StackAttention
from attacc.pim.energy.dram import (
    DRAM_ENERGIES,
    DramEnergy,
    attention_energy,
)
from attacc.pim.energy.power import (
    cadence_from_budget,
    windowed_power,
    with_power_cadence,
)
from attacc.pim.limits import BusyShares, busy_shares
from attacc.pim.mapping.balance import Assignment
from attacc.pim.mapping.geometry import HeadLayout, KeyLayout, allocate_heads, check_capacity
from attacc.pim.mapping.ring import NewTokens
from attacc.pim.program.interleaved import QueryPasses, sliced, softmax_cycles
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.dealing import Dealer
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import TimingTables, resolve_timing
from attacc.units import NS_PER_S, finite, whole, wholes

MAX_WINDOW_CYCLES: Final = 10**9
"""Most cycles of the command clock over which power is averaged: about a second."""

MOST_KEYS: Final = 2**48
"""Far more heads, and keys, than fit into a stack: how many fit is told by its capacity."""
_COLDEST_C: Final = -273.0
_HOTTEST_C: Final = 200.0
"""Beyond what any DRAM works at: a slip in a unit."""
_CADENCES: Final = {
    Placement.BANK: "nCCDAB",
    Placement.BANKGROUP: "nCCDSB",
    Placement.BUFFER: "nCCDPB",
}
"""The cadence that a power budget makes longer, by placement."""


class _Sizes(NamedTuple):
    """Sizes of heads, as `Stack.layout` takes them."""

    head_dim: int
    element: ElementType
    value_dim: int | None
    key_slices: int | None
    one_copy: bool
    queries_per_read: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """The shape of an attention, which decides its commands and their timing.

    Attributes:
        lengths: keys of key/value heads (rounded up to whole columns), place of their oldest key
            (rounded down to whole columns), and number of such heads, the longest first.
        layout: how a key lies in the banks.
        queries: queries that share each key/value head.
        queries_per_read: queries that a read serves at most.
        window_cycles: length of the windows in which commands are counted; 0 for none.
        apart: keys of each part from one key that is read to the next.
        together: consecutive heads of a length that stay in one channel; None for any channels.
        held: keys of the chunks that lie in each channel already; None for heads that are dealt
            out.
    """

    lengths: tuple[tuple[int, int, int], ...]
    layout: KeyLayout
    queries: int
    queries_per_read: int
    window_cycles: int
    apart: int = 1
    together: int | None = None
    held: tuple[tuple[int, ...], ...] | None = None

    @property
    def longest(self) -> int:
        """Keys of the longest head."""
        return self.lengths[0][0]

    @property
    def heads(self) -> int:
        """Key/value heads."""
        return sum(heads for _, _, heads in self.lengths)

    def each(self) -> list[int]:
        """Return the keys of every head, the longest first."""
        return [keys for keys, _, heads in self.lengths for _ in range(heads)]

    def oldest(self) -> list[int]:
        """Return the place of the oldest key of every head, in the same order."""
        return [oldest for _, oldest, heads in self.lengths for _ in range(heads)]


@dataclass(frozen=True, eq=False)
class _Played:
    """A timed program: the assignment of its heads, the device on which it ran, what was busy."""

    device: DramDevice
    internal_bytes_per_s: float
    multiply_interval: int
    timed: TimedRun
    dealt: Dealt
    busy: BusyShares


REMEMBERED: Final = 4096
"""Programs of a stack whose timing is kept; the least recently used ones are dropped."""


@final
class Stack:
    """A device with units at a placement, ready to attend.

    Programs are timed once per shape: lengths that fill the same columns share their commands, and
    so do heads of the same lengths in any order. `REMEMBERED` shapes are kept.

    Args:
        device: the DRAM device: a preset's name, a path, or one that is loaded already.
        placement: where the units sit.
        power_limited: whether the multiplies keep a cadence that limits power.
        schedule: order of the commands.
        power_budget_w: budget in watts from which that cadence is computed, for the shape of the
            longest head; None for the device's own cadence.
        temperature_c: temperature of the device, which decides how often it refreshes; None for
            its usual rate.
        logs: whether answers hold every command, which takes much memory.

    Raises:
        UnknownNameError: there is no such device, placement or schedule.
        InputError: the schedule is interleaved, and the device models no pipeline; a budget
            without a limit; or the temperature leaves no time between refreshes.
    """

    device: DramDevice
    placement: Placement
    power_limited: bool
    schedule: Schedule
    power_budget_w: float | None
    temperature_c: float | None
    logs: bool

    def __init__(
        self,
        device: DramDevice | str | Path = "hbm3-5.2",
        placement: Placement | str = Placement.BANK,
        *,
        power_limited: bool = True,
        schedule: Schedule | str = Schedule.INTERLEAVED,
        power_budget_w: float | None = None,
        temperature_c: float | None = None,
        logs: bool = False,
    ) -> None:
        vars(self).update(
            device=DRAMS.load_any(device, where="device"),
            placement=member(Placement, placement, where="placement"),
            power_limited=power_limited,
            schedule=member(Schedule, schedule, where="schedule"),
            power_budget_w=None
            if power_budget_w is None
            else finite(power_budget_w, where="power_budget_w", least=0),
            temperature_c=None
            if temperature_c is None
            else finite(temperature_c, where="temperature_c", least=_COLDEST_C, most=_HOTTEST_C),
            logs=logs,
        )
        if self.schedule is Schedule.INTERLEAVED and self.device.pipeline is None:
            raise InputError(
                f"the {self.schedule} schedule needs a device with a [pipeline], which "
                f"{self.device.name} does not have",
                hint=f"use the {Schedule.COMPLETE} schedule, or another device, as hbm3-5.2",
            )
        if self.power_budget_w is not None and not self.power_limited:
            raise InputError(
                f"a power budget of {self.power_budget_w:g} W, but multiplies without a limit",
                hint="limit the power, or give no budget",
            )
        # An impossible temperature or organisation is refused here, not at the first use.
        self._resolve(self.device, 1, ElementType.FP16)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"{name} of a stack cannot be changed: make another stack")

    def __repr__(self) -> str:
        return f"Stack({self.device.name!r}, {str(self.placement)!r})"

    @cached_property
    def _energies(self) -> DramEnergy:
        return DRAM_ENERGIES.load(self.device.energy)

    @cached_property
    def _multiply(self) -> str:
        return self.device.rule_set.families[self.placement].multiply

    @cached_property
    def _banks_per_multiply(self) -> int:
        return self.device.banks_per_command(self.placement)

    @cached_property
    def _tables(self) -> dict[tuple[int, int, int | None], TimingTables]:
        return {}

    @cached_property
    def _dealers(self) -> dict[tuple[TimingTables, KeyLayout, int, int], Dealer]:
        return {}

    @cached_property
    def _played(self) -> Callable[[_Shape], _Played]:
        return lru_cache(maxsize=REMEMBERED)(self._play)

    def layout(
        self,
        length: int,
        head_dim: int,
        element: ElementType,
        *,
        value_dim: int | None = None,
        key_slices: int | None = None,
        one_copy: bool = False,
        queries_per_read: int = 1,
    ) -> HeadLayout:
        """Return how one head lies in a channel of this stack.

        Args:
            length: keys of the head.
            head_dim: elements of a key.
            element: element type of the keys and values.
            value_dim: as in `attend`.
            key_slices: as in `attend`.
            one_copy: as in `attend`.
            queries_per_read: queries that a read of keys and values serves, which decides into how
                many slices long keys are cut.

        Raises:
            InputError: keys cannot be cut into so many slices.
        """
        sizes = _Sizes(head_dim, element, value_dim, key_slices, one_copy, queries_per_read)
        return self._key_layout(sizes).head(length)

    @cached_property
    def _key_layout(self) -> Callable[[_Sizes], KeyLayout]:
        return lru_cache(maxsize=REMEMBERED)(self._lay_out)

    def _lay_out(self, sizes: _Sizes) -> KeyLayout:
        whole = KeyLayout(
            self.device.organization,
            self.placement,
            sizes.head_dim,
            sizes.element,
            value_dim=sizes.value_dim,
            one_copy=sizes.one_copy,
        )
        together = QueryPasses.of(sizes.queries_per_read, sizes.queries_per_read)
        return sliced(self.device, whole, together, self.schedule, sizes.key_slices)

    def attend(
        self,
        *,
        heads: int,
        length: int,
        head_dim: int = 128,
        element: ElementType | str = ElementType.FP16,
        value_dim: int | None = None,
        key_slices: int | None = None,
        one_copy: bool = False,
        window: int | None = None,
        query_tokens: int = 1,
        queries_per_kv_head: int = 1,
        queries_per_read: int = 1,
        window_ns: float | None = None,
    ) -> StackAttention:
        """Time and cost the attention of equal heads.

        Args:
            heads: query heads on the stack.
            length: tokens of each head's request, the new ones included.
            head_dim: elements of a key.
            element: element type of the keys and values.
            value_dim: elements of a value; None for as many as a key has.
            key_slices: slices of elements into which every key is cut, so that half a vector buffer
                holds a slice of a query; None for as few as long keys need.
            one_copy: whether the first elements of a key serve as its value, so that values are not
                stored apart.
            window: keys that a token sees at most, its own included; None for all earlier ones.
                Only so many keys are stored, in rows that are used in turn.
            query_tokens: new tokens, each of which sees the keys up to its own.
            queries_per_kv_head: query heads that share the keys and values of one head. They
                attend in the channels that hold these keys and values.
            queries_per_read: queries that a read of keys and values serves at most, of all heads
                that share them and of all new tokens; the other queries take further passes.
            window_ns: time over which power is averaged; None for no power over time.

        Raises:
            InputError: a size below 1; query heads that cannot share keys and values evenly; the
                heads do not fit into the banks, or queries into the vector buffers; the budget
                does not even suffice for standby; or the schedule cannot do what is asked
                (`attend_to`).
        """
        whole(heads, where="heads", most=MOST_KEYS)
        whole(length, where="length", most=MOST_KEYS)
        _check_sizes(head_dim, value_dim, key_slices, queries_per_read)
        if heads % whole(queries_per_kv_head, where="queries_per_kv_head"):
            raise InputError(
                f"{heads} query heads cannot share keys and values by {queries_per_kv_head}",
                hint="take a number of query heads that is a multiple of those that share a head",
            )
        kind = kv_element(element, where="element")
        whole(query_tokens, where="query_tokens")
        passes = QueryPasses.of(queries_per_kv_head * query_tokens, queries_per_read)
        held = _tokens(window, query_tokens).held(length)
        sizes = _Sizes(head_dim, kind, value_dim, key_slices, one_copy, passes.most)
        layout = self._key_layout(sizes).head(held)
        kv_heads = heads // queries_per_kv_head
        # Refused before they are listed one by one.
        if self.schedule is Schedule.INTERLEAVED:
            check_capacity(layout, [held], [kv_heads])
        else:
            allocate_heads(layout, -(-kv_heads // layout.organization.channels))
        return self.attend_to(
            [length] * kv_heads,
            head_dim=head_dim,
            element=kind,
            value_dim=value_dim,
            key_slices=key_slices,
            one_copy=one_copy,
            window=window,
            query_tokens=query_tokens,
            queries_per_kv_head=queries_per_kv_head,
            queries_per_read=queries_per_read,
            window_ns=window_ns,
        )

    def attend_to(
        self,
        lengths: Sequence[int],
        *,
        head_dim: int = 128,
        element: ElementType | str = ElementType.FP16,
        value_dim: int | None = None,
        key_slices: int | None = None,
        one_copy: bool = False,
        window: int | None = None,
        query_tokens: int = 1,
        oldest: Sequence[int] | None = None,
        apart: int = 1,
        queries_per_kv_head: int = 1,
        queries_per_read: int = 1,
        window_ns: float | None = None,
        together: int | None = None,
    ) -> StackAttention:
        """Time and cost the attention of heads of any lengths.

        The schedules with barriers, complete and published, take equal heads and one query for
        each read. They share keys and values only where key/value heads fill every channel alike.

        Args:
            lengths: tokens of each key/value head's request.
            head_dim: elements of a key.
            element: element type of the keys and values.
            value_dim: as in `attend`.
            key_slices: as in `attend`.
            one_copy: as in `attend`.
            window: as in `attend`.
            query_tokens: as in `attend`.
            oldest: place of the oldest key of each head, for parts of rings that were dealt out
                already; the lengths are then keys that are stored. None for heads as a whole.
            apart: keys of each part from one key that is read to the next; the lengths are then
                keys that are read, and so many times as many are stored
                (`attacc.pim.selection`).
            queries_per_kv_head: as in `attend`.
            queries_per_read: as in `attend`.
            window_ns: as in `attend`.
            together: heads of a request that stay in one channel; they have equal lengths. None for
                heads that are dealt out, and cut, so that the channels end together.

        Raises:
            InputError: as in `attend`; or heads that should stay together are no whole requests.
        """
        if not wholes(lengths, where="lengths", most=MOST_KEYS).size:
            raise InputError("there are no heads to attend to", where="lengths")
        _check_sizes(head_dim, value_dim, key_slices, queries_per_read)
        whole(queries_per_kv_head, where="queries_per_kv_head")
        element = kv_element(element, where="element")
        whole(query_tokens, where="query_tokens")
        tokens = _tokens(window, query_tokens)
        if window is not None and self.schedule is not Schedule.INTERLEAVED:
            raise InputError(
                f"window = {window}: the {self.schedule} schedule reads no ring of keys",
                hint=f"use the {Schedule.INTERLEAVED} schedule, on a device with a [pipeline]",
            )
        if oldest is None:
            oldest = [tokens.oldest(length) for length in lengths] if window else ()
            lengths = [tokens.held(length) for length in lengths]
        passes = QueryPasses.of(queries_per_kv_head * query_tokens, queries_per_read)
        sizes = _Sizes(head_dim, element, value_dim, key_slices, one_copy, passes.most)
        layout = self._key_layout(sizes)
        if self.schedule is not Schedule.INTERLEAVED:
            self._check_barriers(lengths, passes)
            if apart != 1:
                raise InputError(
                    f"the {self.schedule} schedule reads all keys",
                    hint=f"use the {Schedule.INTERLEAVED} schedule, on a device with a [pipeline]",
                )
        shape = _Shape(
            _alike(lengths, oldest, layout.sequence_parts),
            layout,
            passes.queries,
            passes.most,
            0 if window_ns is None else self._window_cycles(window_ns),
            whole(apart, where="apart"),
            None if together is None else whole(together, where="together"),
        )
        return self._attention(shape, passes, lengths, queries_per_kv_head, window)

    def attend_held(
        self,
        channels: Sequence[Sequence[int]],
        *,
        head_dim: int = 128,
        element: ElementType | str = ElementType.FP16,
        value_dim: int | None = None,
        key_slices: int | None = None,
        one_copy: bool = False,
        query_tokens: int = 1,
        queries_per_kv_head: int = 1,
        queries_per_read: int = 1,
    ) -> StackAttention:
        """Time and cost the attention of chunks that lie in channels already.

        Each chunk counts as a key/value head of its own.

        Args:
            channels: keys of the chunks in each channel; at least one chunk.
            head_dim: as in `attend`.
            element: as in `attend`.
            value_dim: as in `attend`.
            key_slices: as in `attend`.
            one_copy: as in `attend`.
            query_tokens: as in `attend`.
            queries_per_kv_head: as in `attend`.
            queries_per_read: as in `attend`.

        Raises:
            InputError: as in `attend`; the schedule has barriers; there are not as many channels as
                in the stack, or no chunks.
        """
        if self.schedule is not Schedule.INTERLEAVED:
            raise InputError(
                f"the {self.schedule} schedule deals heads out by itself",
                hint=f"use the {Schedule.INTERLEAVED} schedule, on a device with a [pipeline]",
            )
        count = self.device.organization.channels
        if len(channels) != count:
            raise InputError(f"{len(channels)} channels, not {count}", where="channels")
        lengths = [keys for own in channels for keys in own]
        if not wholes(lengths, where="channels", most=MOST_KEYS).size:
            raise InputError("there are no chunks to attend to", where="channels")
        _check_sizes(head_dim, value_dim, key_slices, queries_per_read)
        passes = QueryPasses.of(
            whole(queries_per_kv_head, where="queries_per_kv_head")
            * whole(query_tokens, where="query_tokens"),
            queries_per_read,
        )
        kind = kv_element(element, where="element")
        sizes = _Sizes(head_dim, kind, value_dim, key_slices, one_copy, passes.most)
        layout = self._key_layout(sizes)
        shape = _Shape(
            _alike(lengths, (), layout.sequence_parts),
            layout,
            passes.queries,
            passes.most,
            0,
            held=tuple(tuple(own) for own in channels),
        )
        return self._attention(shape, passes, lengths, queries_per_kv_head, None)

    def _attention(
        self,
        shape: _Shape,
        passes: QueryPasses,
        lengths: Sequence[int],
        queries_per_kv_head: int,
        window: int | None,
    ) -> StackAttention:
        """Return what a program costs.

        Args:
            shape: of the program.
            passes: how the queries that share keys and values are divided into passes.
            lengths: keys of each key/value head, or of each chunk that lies there.
            queries_per_kv_head: as in `attend`.
            window: as in `attend`.
        """
        layout = shape.layout
        played = self._played(shape)
        timed, device = played.timed, played.device
        keys = sum(lengths)
        elements = layout.head_dim + (0 if layout.one_copy else layout.value_elements)
        kv_bytes = keys * elements * layout.element.bytes
        of_a_read = passes.queries / passes.passes
        energy = attention_energy(
            timed,
            layout,
            keys * passes.queries,
            self._energies,
            banks_per_multiply=self._banks_per_multiply,
            queries_per_read=of_a_read,
        )
        power = None
        if timed.windows is not None:
            power = windowed_power(
                timed.windows,
                device,
                self.placement,
                self._energies,
                shape.window_cycles,
                cycles=timed.cycles,
                budget_w=self.power_budget_w,
                queries_per_read=of_a_read,
                element=layout.element,
                softmax_pj_per_command=energy.softmax_pj / timed.count("SFM"),
            )
        return StackAttention(
            device=self.device.name,
            placement=self.placement,
            power_limited=self.power_limited,
            power_budget_w=self.power_budget_w,
            schedule=self.schedule,
            temperature_c=self.temperature_c,
            heads=len(lengths) * queries_per_kv_head,
            kv_heads=len(lengths),
            query_tokens=passes.queries // queries_per_kv_head,
            queries_per_read=passes.most,
            passes=passes.passes,
            window=window,
            keys=keys,
            shortest=min(lengths),
            longest=max(lengths),
            head_dim=layout.head_dim,
            value_dim=layout.value_elements,
            key_slices=layout.key_slices,
            one_copy=layout.one_copy,
            element=layout.element,
            dealt=played.dealt,
            cycles=timed.cycles,
            time_ns=timed.time_ns,
            multiply_interval=played.multiply_interval,
            busy=played.busy,
            buffer_words=self._buffer_words(shape, played.dealt),
            commands=timed.commands,
            kv_bytes=kv_bytes,
            read_bytes=timed.count(self._multiply)
            * self._banks_per_multiply
            * device.organization.access_bytes,
            achieved_bytes_per_s=kv_bytes / timed.time_ns * NS_PER_S,
            internal_bytes_per_s=played.internal_bytes_per_s,
            external_bytes_per_s=device.external_bytes_per_s,
            energy=energy,
            power=power,
            log=timed.log,
        )

    def _check_barriers(self, lengths: Sequence[int], passes: QueryPasses) -> None:
        """Refuse heads and queries that the schedules with barriers cannot serve."""
        hint = f"use the {Schedule.INTERLEAVED} schedule, on a device with a [pipeline]"
        channels = self.device.organization.channels
        if min(lengths) != max(lengths):
            raise InputError(
                f"the {self.schedule} schedule attends to heads of one length, not of "
                f"{min(lengths)} to {max(lengths)} keys",
                hint=hint,
            )
        if passes.most > 1:
            raise InputError(
                f"queries_per_read = {passes.most}: the {self.schedule} schedule reads keys and "
                "values once for every query head",
                hint=hint,
            )
        if passes.queries > 1 and len(lengths) % channels:
            raise InputError(
                f"the {self.schedule} schedule cannot deal out {len(lengths)} key/value heads that "
                f"{passes.queries} query heads share each: they do not fill {channels} channels "
                "alike",
                hint=f"take a multiple of {channels}, or {hint}",
            )

    def _buffer_words(self, shape: _Shape, dealt: Dealt) -> int | None:
        if self.device.pipeline is None:
            return None
        chunk = shape.layout.head(dealt.longest_chunk)
        room = self.device.pipeline.buffer_words // shape.queries_per_read
        words = max(chunk.columns_per_slice, min(room, chunk.probability_words))
        return shape.queries_per_read * words

    def _window_cycles(self, window_ns: float) -> int:
        cycles = finite(window_ns, where="window_ns", least=0) / self.device.clock_ns
        if not cycles >= 1:
            raise InputError(
                f"a window of {window_ns:g} ns is {cycles:.4g} cycles of the command clock",
                hint=f"use one of at least {self.device.clock_ns:g} ns",
            )
        # A window that is longer than the run is one window in any case.
        return round(min(cycles, MAX_WINDOW_CYCLES))

    def _resolve(
        self, device: DramDevice, queries_per_read: int, element: ElementType
    ) -> TimingTables:
        """Return the timing tables of the device, which may have a cadence from the budget."""
        cadence = None
        if device is not self.device:
            cadence = device.parameters(
                power_limited=self.power_limited,
                queries_per_read=queries_per_read,
                element_bits=element.bits,
            )[_CADENCES[self.placement]]
        key = queries_per_read, element.bits, cadence
        if key not in self._tables:
            self._tables[key] = resolve_timing(
                device,
                self.placement,
                power_limited=self.power_limited,
                queries_per_read=queries_per_read,
                element_bits=element.bits,
                temperature_c=self.temperature_c,
            )
        return self._tables[key]

    def _dealer(self, device: DramDevice, tables: TimingTables, shape: _Shape) -> Dealer:
        """Return the dealer for heads of a shape, whatever their lengths."""
        key = tables, shape.layout, shape.queries, shape.queries_per_read
        if key not in self._dealers:
            passes = QueryPasses.of(shape.queries, shape.queries_per_read)
            self._dealers[key] = Dealer(device, shape.layout, tables, passes)
        return self._dealers[key]

    def least_ns(self, layout: HeadLayout, queries: int, queries_per_read: int = 1) -> float:
        """Return the time of one head's multiplies at their cadence, on the channel that holds it.

        Attention to several heads of a channel takes at least as long as all their multiplies.

        Args:
            layout: how the head lies in the stack.
            queries: queries of the head.
            queries_per_read: as in `attend`.
        """
        passes = QueryPasses.of(queries, queries_per_read)
        tables = self._resolve(self.device, passes.most, layout.element)
        multiplies = passes.passes * (layout.score_multiplies + layout.context_multiplies)
        return multiplies * tables.multiply_interval * self.device.clock_ns

    def _play(self, shape: _Shape) -> _Played:
        layout = shape.layout.head(shape.longest)
        device, channels = self.device, self.device.organization.channels
        if self.power_budget_w is not None:
            cadence = cadence_from_budget(
                device,
                self.placement,
                self.power_budget_w,
                self._energies,
                shape.queries_per_read,
                layout=layout,
                temperature_c=self.temperature_c,
            )
            device = with_power_cadence(device, cadence)
        tables = self._resolve(device, shape.queries_per_read, layout.element)
        if self.schedule is Schedule.INTERLEAVED:
            keys_of, _, heads_of = zip(*shape.lengths, strict=True)
            check_capacity(layout, [keys * shape.apart for keys in keys_of], heads_of)
            dealer = self._dealer(device, tables, shape)
            if shape.held is not None:
                dealt_run = dealer.held(shape.held, log=self.logs)
            else:
                dealt_run = dealer.play(
                    shape.each(),
                    window_cycles=shape.window_cycles,
                    oldest=shape.oldest(),
                    apart=shape.apart,
                    together=shape.together,
                    log=self.logs,
                )
            timed, dealt = dealt_run.timed, _dealt(dealt_run.assignment)
            own = [keys for keys in set(dealt_run.assignment.lengths) if keys]
            scored = shape.queries * max(int(softmax_cycles(device, keys).sum()) for keys in own)
        else:
            scored = 0  # Behind barriers the softmax takes no time.
            kv_heads = shape.heads
            dealt = Dealt(
                kv_heads, shape.longest, 0, -(-kv_heads // channels) * channels / kv_heads
            )
            program = attention_program(
                layout, kv_heads * shape.queries, self.schedule, shape.queries
            )
            timed = run(program, tables, window_cycles=shape.window_cycles, log=self.logs)
        internal = device.internal_bytes_per_s(
            self.placement, power_limited=self.power_limited, element_bits=layout.element.bits
        )
        busy = busy_shares(
            timed,
            device,
            shape.layout,
            tables,
            queries_per_read=shape.queries_per_read,
            fullest=dealt.imbalance / channels,
            softmax_cycles=scored,
        )
        return _Played(device, internal, tables.multiply_interval, timed, dealt, busy)


def _tokens(window: int | None, query_tokens: int) -> NewTokens:
    """Return what the new tokens of a step see.

    Raises:
        InputError: a number is below 1.
    """
    if window is not None:
        whole(window, where="window", most=MOST_KEYS)
    return NewTokens(window, whole(query_tokens, where="query_tokens"))


def _alike(
    lengths: Sequence[int], oldest: Sequence[int], parts: int
) -> tuple[tuple[int, int, int], ...]:
    """Return keys, place of the oldest key, and number of heads that share their commands.

    Lengths that fill the same columns share their commands; the longest stands for all.
    """
    keys = -(-np.array(lengths, dtype=np.int64) // parts) * parts
    if not any(oldest):
        each, counts = np.unique(keys, return_counts=True)
        alike = zip(each[::-1].tolist(), counts[::-1].tolist(), strict=True)
        return tuple((own, 0, count) for own, count in alike)
    places = np.array(oldest, dtype=np.int64) // parts * parts
    each, counts = np.unique(np.stack([-keys, places], axis=1), axis=0, return_counts=True)
    return tuple(
        (-less, place, count)
        for (less, place), count in zip(each.tolist(), counts.tolist(), strict=True)
    )


def _check_sizes(
    head_dim: int, value_dim: int | None, key_slices: int | None, queries_per_read: int
) -> None:
    """Refuse sizes of heads below 1."""
    whole(head_dim, where="head_dim")
    whole(queries_per_read, where="queries_per_read")
    for name, size in (("value_dim", value_dim), ("key_slices", key_slices)):
        if size is not None:
            whole(size, where=name)


def _dealt(assignment: Assignment) -> Dealt:
    dealt = assignment.dealt
    # All chunks of a cut head except its first begin with a later key.
    cut = dealt.head[dealt.start > 0]
    return Dealt(
        chunks=len(dealt.head),
        longest_chunk=max(map(max, filter(None, dealt.lengths))),
        cut_heads=len(set(cut.tolist())),
        imbalance=assignment.imbalance,
    )
