"""Keys and values that stay and grow in the banks of stacks, and attention to them.

The commands of a channel depend only on the lengths of its chunks, rounded up to whole columns, and
on their room. The work of a channel is therefore computed once (`ChannelWork`), and serves every
channel, layer and step of the same shape. Its rows are numbered from 0, chunk by chunk. A table per
layer says which rows of the store these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.errors import EngineError
from attacc.hardware.dram import DramDevice, Organization
from attacc.pim.mapping.balance import Assignment, Chunk
from attacc.pim.mapping.geometry import ChannelChunks, KeyLayout, rows_of, rows_of_both
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization
from attacc.pim.numerics.execute import ChannelShape, Machine
from attacc.pim.numerics.formats import Codes, Format, Overflow
from attacc.pim.numerics.issue import IssuedSteps, played_steps
from attacc.pim.numerics.memory import Geometry, MultiplyPlaces
from attacc.pim.numerics.quantize import check_finite, quantize
from attacc.pim.numerics.sights import ChunkSights
from attacc.pim.program.interleaved import QueryPasses, interleaved_program, pipeline_of
from attacc.pim.timing.tables import TimingTables

if TYPE_CHECKING:
    from attacc.pim.numerics.execute_kernel import Space

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

WORKS = 512
"""Number of `ChannelWork`s that are remembered."""


class BankStore:
    """The contents of all rows in use, of the banks of all stacks.

    Args:
        organization: organisation of each stack.

    Attributes:
        data: (kept rows, columns, banks, bytes of an access) contents of the rows.
    """

    def __init__(self, organization: Organization) -> None:
        self._organization = organization
        self._returned: list[int] = []
        self._fresh = 0
        self.data: U8 = self._zeros(0)

    def _zeros(self, rows: int) -> U8:
        o = self._organization
        return np.zeros((rows, o.columns, o.banks_per_channel, o.access_bytes), dtype=np.uint8)

    def take(self, rows: int) -> I64:
        """Take more rows, which hold zeros; return their numbers."""
        again = [self._returned.pop() for _ in range(min(rows, len(self._returned)))]
        self.data[again] = 0
        fresh = rows - len(again)
        if self._fresh + fresh > len(self.data):
            # Grow by half, so that growing data are not copied every time.
            more = self._zeros(max(self._fresh + fresh, len(self.data) * 3 // 2))
            more[: self._fresh] = self.data[: self._fresh]
            self.data = more
        taken = [*again, *range(self._fresh, self._fresh + fresh)]
        self._fresh += fresh
        return np.array(taken, dtype=np.int64)

    def give(self, rows: I64) -> None:
        """Give rows back."""
        self._returned.extend(rows.ravel().tolist())

    def accesses(self, bits: int) -> Codes:
        """Return the contents as (kept rows * columns, banks * elements of an access), a view."""
        o = self._organization
        data = self.data.reshape(-1, o.banks_per_channel * o.access_bytes)
        return data.view({8: np.uint8, 16: np.dtype("<u2")}[bits])


@dataclass(frozen=True, eq=False)
class ChannelWork:
    """The commands by which a channel attends to its chunks.

    Attributes:
        issued: its commands, in order of issue.
        shape: its chunks, in the form that the kernel takes.
        cycles: cycles until the last command has issued.
        counts: (codes,) how often each `attacc.pim.timing.tables.Code` issues.
        rows: per chunk, number of rows that its commands name, of its keys and of its values.
    """

    issued: IssuedSteps
    shape: ChannelShape
    cycles: int
    counts: I64
    rows: tuple[int, ...]


class Placed(NamedTuple):
    """A chunk that is attended to.

    Attributes:
        owner: number of its head among the heads that attend.
        start: first key.
        capacity: keys for which the chunk has room.
        length: its number of keys, rounded up to whole columns.
        turned: key of each part with which reading begins (`attacc.pim.mapping.ring`).
    """

    owner: int
    start: int
    capacity: int
    length: int
    turned: int


class Attender:
    """The units of equal stacks: a device, a layout and an arithmetic.

    Args:
        device: each stack.
        layout: how a key lies in the banks.
        tables: the timing of the device.
        passes: how the queries that share keys and values are divided into passes.
        arithmetic: arithmetic of the units.
        scale: factor of the scores.
    """

    def __init__(
        self,
        device: DramDevice,
        layout: KeyLayout,
        tables: TimingTables,
        passes: QueryPasses,
        arithmetic: Arithmetic,
        scale: float,
    ) -> None:
        self.device = device
        self.layout = layout
        self.passes = passes
        self.arithmetic = arithmetic
        self._tables = tables
        self._scale = scale
        self._words = pipeline_of(device).buffer_words
        self.machine = Machine.of(arithmetic, layout, self._words)
        self.format = _format_of(arithmetic.operand)
        self._output = _format_of(arithmetic.output)
        self._beyond = arithmetic.output.rounding(arithmetic.overflow).beyond
        self._gain = np.float32(arithmetic.gain)
        self._score_factor = 2.0**self.machine.score_shift
        self._context_factor = 2.0**self.machine.context_shift
        self.work = lru_cache(maxsize=WORKS)(self._work)

    def _work(self, chunks: tuple[tuple[int, int, int], ...]) -> ChannelWork:
        """Return the work of a channel.

        Args:
            chunks: length and capacity of each chunk, and the key of each part with which reading
                begins, in the order of their softmaxes.

        Raises:
            InputError: the chunks do not fit into the buffers of the channel.
        """
        o = self.layout.organization
        none: tuple[tuple[Chunk, ...], ...] = ((),) * (o.channels - 1)
        lengths, capacities, turned = (list(each) for each in zip(*chunks, strict=True))
        own = tuple(Chunk(head, 0, length) for head, length in enumerate(lengths))
        program = interleaved_program(
            self.device,
            self.layout,
            Assignment.of((own, *none)),
            multiply_interval=self._tables.multiply_interval,
            queries=self.passes.queries,
            queries_per_read=self.passes.most,
            capacities=[capacities, *[[]] * (o.channels - 1)],
            rotations=[turned, *[[]] * (o.channels - 1)],
        )
        played = played_steps(program, self._tables)
        channel = ChannelChunks.allocated(self.layout, lengths, capacities, turned)
        return ChannelWork(
            played.issued[0],
            ChannelShape.of(channel, self.passes, self._words, paired=True),
            played.cycles,
            played.counts,
            tuple(rows_of_both(self.layout, capacity) for capacity in capacities),
        )

    def token_places(
        self, chunks_of_heads: Sequence[int], chunks: Sequence[tuple[int, int, I64]]
    ) -> TokenPlaces:
        """Return where the tokens of a request are written.

        Args:
            chunks_of_heads: number of chunks of each head.
            chunks: chunks of all heads, in the order of their keys: first key, keys for which the
                chunk has room, and (layers, rows) the number in the store of each of its rows.
        """
        capacities = np.array([capacity for _, capacity, _ in chunks], dtype=np.int64)
        rows_at = np.cumsum([0, *(kept.shape[1] for _, _, kept in chunks)])
        of_keys = [rows_of(self.layout, capacity) for _, capacity, _ in chunks]
        most = MultiplyPlaces.of(self.layout.head(int(capacities.max())))
        return TokenPlaces(
            shape=self.shape,
            chunks_at=np.cumsum([0, *chunks_of_heads]),
            starts=np.array([start for start, _, _ in chunks], dtype=np.int64),
            rooms=-(-capacities // self.layout.sequence_parts),
            rows_at=rows_at,
            values_at=rows_at[:-1] + np.array(of_keys, dtype=np.int64),
            rows=np.concatenate([kept for _, _, kept in chunks], axis=1),
            columns=most.column,
            banks=most.bank,
        )

    @cached_property
    def shape(self) -> I64:
        """Numbers of a channel, independent of its chunks, in the form that the kernels take."""
        return self.work(((1, 1, 0),)).shape.shape

    def scales(self, tensor: F32, margin: float) -> F32:
        """Return (heads,) scales for keys or values, from the first tokens.

        Args:
            tensor: (heads, tokens, elements) keys or values of the first tokens.
            margin: factor by which later values may exceed the largest of these.
        """
        from attacc.pim.numerics import resident_kernel as k  # loads Numba

        scales = np.ones(len(tensor), dtype=np.float32)
        if self.arithmetic.operand.bits == _SCALED_BITS:
            k.fit_scales(tensor, self.arithmetic.operand.largest, margin, scales)
        return scales

    def encode(self, tensor: F32, scales: F32, width: int, *, name: str) -> tuple[Codes, int]:
        """Round keys or values to the operands' format.

        Args:
            tensor: (heads, tokens, elements).
            scales: (heads,) scale of each head.
            width: elements with padding.
            name: name of the tensor, for messages.

        Returns:
            (heads, tokens, padded elements) bits, and the number of values that were clipped to the
            largest value of the format.

        Raises:
            InputError: a value is no finite number, or beyond a format without scales.
        """
        from attacc.pim.numerics import resident_kernel as k

        operand = self.arithmetic.operand
        codes: Codes = np.zeros(
            (*tensor.shape[:2], width), dtype={8: np.uint8, 16: np.uint16}[operand.bits]
        )
        status, saturated = k.encode(tensor, scales, self.format, operand.largest, codes)
        if status != k.OK:
            self._refuse(tensor, name)
        return codes, saturated

    def _refuse(self, tensor: F32, name: str) -> None:
        """Raise the error for numbers that a kernel has refused."""
        check_finite(tensor, name)
        quantize(tensor, self.arithmetic.operand, name=name)
        raise EngineError(f"{name} were refused for nothing")

    def attend(
        self,
        plan: ResidentPlan,
        lengths: I64,
        sights: ChunkSights,
        rows: I64,
        store: BankStore,
        queries: F32,
        key_scales: F32,
        value_scales: F32,
        sinks: F32 | None = None,
    ) -> F32:
        """Execute the commands of all channels.

        Args:
            plan: the commands.
            lengths: keys of every chunk of the plan.
            sights: which of them the queries see.
            rows: number in the store of every row of the plan.
            store: the contents of the banks.
            queries: (owners, queries, elements).
            key_scales: (owners,) scales of the keys.
            value_scales: (owners,) scales of the values.
            sinks: (owners, queries) scores beside those of the keys; None for none.

        Returns:
            (owners, queries, value elements) values of the output format.

        Raises:
            InputError: a query is no finite number, or beyond the operands' format.
        """
        from attacc.pim.numerics import resident_kernel as k

        a, machine, layout = self.arithmetic, self.machine, self.layout
        room = plan.room
        status = k.prepare_queries(
            queries, key_scales, self._scale, self._score_factor, self.format,
            a.operand.largest, room.queries, room.factors,
        )  # fmt: skip
        if status != k.OK:
            self._refuse(queries, "queries")
        from attacc.pim.numerics.execute_kernel import Data, Numbers, Plan, Yields

        status, channel, number = k.execute_channels(
            plan.channels,
            plan.works,
            plan.kinds,
            plan.addresses,
            Numbers(plan.shape, machine.choices, machine.floors, machine.limits, machine.powers),
            self._gain,
            1 / self._score_factor,
            1 / self._context_factor,
            Plan(
                plan.chunks, sights.seen, plan.products, plan.turns, plan.turn_of,
                plan.softmaxes, plan.columns, plan.banks,
            ),
            plan.parts,
            plan.moves,
            lengths,
            k.Sights(sights.ages, sights.seen),
            Data(
                rows, store.accesses(layout.element.bits), a.operand.table, plan.owners,
                room.queries, room.factors,
            ),
            room.own_chunks,
            room.space,
            room.terms,
            Yields(room.maxima, room.totals),
            room.contexts,
            room.complete,
        )  # fmt: skip
        if status != k.OK or not room.complete.all():
            raise EngineError(f"command {number} of channel {channel} of a plan means nothing")
        # One product undoes the scale, the gain of probabilities, and the shift of moved sums.
        undone = value_scales.astype(np.float64) * self._context_factor / a.gain
        merged = np.empty((*queries.shape[:2], layout.value_elements), dtype=np.float32)
        beside = np.zeros((0, 0), dtype=np.float32) if sinks is None else sinks
        k.merge_heads(
            room.maxima, room.totals, room.contexts, undone.astype(np.float32), plan.heads,
            plan.roles, plan.of_query, beside, int(a.normalization is Normalization.BEFORE),
            self._output, a.output.largest, self._beyond, room.above, room.below, merged,
        )  # fmt: skip
        return merged


@dataclass(frozen=True, eq=False)
class PlanRoom:
    """Arrays in which the kernel works.

    Attributes:
        queries: (owners, queries, padded elements) queries.
        factors: (owners, queries) factors of the scores.
        own_chunks: working space for the chunks of a channel.
        space: working space for a channel.
        terms: working space for the parts of a context.
        maxima: output, maxima of the scores.
        totals: output, sums of the exponentials.
        contexts: output, contexts.
        complete: output, whether contexts are complete.
        above: numerators in `attacc.pim.numerics.resident_kernel.merge_heads`.
        below: denominators in `attacc.pim.numerics.resident_kernel.merge_heads`.
    """

    queries: F32
    factors: F32
    own_chunks: I64
    space: Space
    terms: F32
    maxima: F32
    totals: F32
    contexts: F32
    complete: U8
    above: F32
    below: F32


@dataclass(frozen=True, eq=False)
class ResidentPlan:
    """The commands by which all channels of all stacks attend to some heads.

    `attacc.pim.numerics.resident_kernel.execute_channels` describes the arrays.

    Attributes:
        channel_works: work of each channel that has chunks.
        places: chunks of each of these channels.
        channels: (channels, 5) numbers of each channel.
        works: (works, 14) numbers of each work.
        kinds: kinds of the steps of all works.
        addresses: addresses of the steps of all works.
        shape: numbers that all channels share.
        chunks: chunks of all works.
        products: products of all works.
        turns: turns of all works.
        turn_of: (chunks, passes) turn of each pass over each chunk, of all works.
        softmaxes: softmaxes of all works.
        parts: parts of contexts of all works.
        moves: moves of all works.
        columns: columns that multiplies read.
        banks: banks that multiplies read.
        owners: (chunks of all channels,) the head that each chunk belongs to.
        starts: (chunks of all channels,) first key of each chunk.
        capacities: (chunks of all channels,) keys for which each chunk has room.
        heads: (chunks of all channels,) head of each chunk; a head's chunks follow their keys.
        roles: (chunks of all channels,) whether each chunk, in the order of `heads`, is the only
            one of its head, the first, or a later one.
        of_query: (chunks of all channels, queries) place of each query's output, in the order of
            `heads`.
        room: arrays in which the kernel works.
    """

    channel_works: tuple[ChannelWork, ...]
    places: tuple[tuple[Placed, ...], ...]
    channels: I64
    works: I64
    kinds: U8
    addresses: I64
    shape: I64
    chunks: I64
    products: I64
    turns: I64
    turn_of: I64
    softmaxes: I64
    parts: I64
    moves: I64
    columns: I64
    banks: I64
    owners: I64
    starts: I64
    capacities: I64
    heads: I64
    roles: I64
    of_query: I64
    room: PlanRoom

    @classmethod
    def of(
        cls, attender: Attender, channels: Sequence[Sequence[Placed]], owners: int
    ) -> ResidentPlan:
        """Return the plan for the chunks of all channels.

        Args:
            attender: the units.
            channels: chunks of every channel that has any, in the order of their softmaxes.
            owners: number of heads that attend.

        Raises:
            InputError: chunks do not fit into the buffers of a channel.
        """
        done = [
            attender.work(tuple((one.length, one.capacity, one.turned) for one in own))
            for own in channels
        ]
        distinct = list(dict.fromkeys(done))
        number = {work: at for at, work in enumerate(distinct)}
        shapes = [work.shape for work in distinct]

        def ends(sizes: list[int]) -> tuple[list[int], list[int]]:
            stops = np.cumsum(sizes).tolist()
            return [stop - size for stop, size in zip(stops, sizes, strict=True)], stops

        works = np.array(
            [
                *ends([len(work.issued.kind) for work in distinct]),
                *ends([len(shape.chunks) for shape in shapes]),
                *ends([len(shape.turns) for shape in shapes]),
                *ends([len(shape.softmaxes) for shape in shapes]),
                *zip(*(shape.sizes for shape in shapes), strict=True),
            ],
            dtype=np.int64,
        ).T
        chunks_at, _ = ends([len(own) for own in channels])
        rows_at, rows_end = ends([sum(work.rows) for work in done])
        softmaxes_at, softmaxes_end = ends([len(work.shape.softmaxes) for work in done])
        table = np.array(
            [[number[work] for work in done], chunks_at, rows_at, rows_end, softmaxes_at],
            dtype=np.int64,
        ).T

        every = [one for own in channels for one in own]
        queries = attender.passes.queries
        of_query = np.zeros((len(every), queries), dtype=np.int64)
        for work, chunk_at, softmax_at in zip(done, chunks_at, softmaxes_at, strict=True):
            chunk, query = work.shape.query_of
            of_query[chunk_at + chunk, query] = softmax_at + np.arange(len(chunk))
        order = np.array(
            sorted(range(len(every)), key=lambda at: (every[at].start, every[at].owner)),
            dtype=np.int64,
        )
        owner_of = np.array([one.owner for one in every], dtype=np.int64)
        longest = max(shapes, key=lambda shape: len(shape.places.column))
        return cls(
            channel_works=tuple(done),
            places=tuple(tuple(own) for own in channels),
            channels=np.ascontiguousarray(table),
            works=np.ascontiguousarray(works),
            kinds=np.concatenate([work.issued.kind for work in distinct]),
            addresses=np.concatenate([work.issued.address for work in distinct]),
            shape=shapes[0].shape,
            chunks=np.concatenate([shape.chunks for shape in shapes]),
            products=np.concatenate([shape.products for shape in shapes]),
            turns=np.concatenate([shape.turns for shape in shapes]),
            turn_of=np.concatenate([shape.turn_of for shape in shapes]),
            softmaxes=np.concatenate([shape.softmaxes for shape in shapes]),
            parts=np.concatenate([shape.parts for shape in shapes]),
            moves=np.concatenate([shape.moves for shape in shapes]),
            columns=longest.places.column,
            banks=longest.places.bank,
            owners=owner_of,
            starts=np.array([one.start for one in every], dtype=np.int64),
            capacities=np.array([one.capacity for one in every], dtype=np.int64),
            heads=owner_of[order],
            roles=_roles(owner_of[order]),
            of_query=of_query[order],
            room=_room(attender, shapes, owners, softmaxes_end[-1]),
        )

    @property
    def cycles(self) -> int:
        """Cycles until the slowest channel has ended."""
        return max(work.cycles for work in self.channel_works)


def _roles(heads: I64) -> I64:
    """Return the role of every chunk (the chunks of a head in order): only, first or later one."""
    from attacc.pim.numerics import resident_kernel as k

    roles = np.full(len(heads), k.LATER, dtype=np.int64)
    _, first, count = np.unique(heads, return_index=True, return_counts=True)
    roles[first] = np.where(count == 1, k.ALONE, k.FIRST)
    return roles


def _room(
    attender: Attender, shapes: Sequence[ChannelShape], owners: int, softmaxes: int
) -> PlanRoom:
    """Return arrays that are large enough for every channel."""
    from attacc.pim.numerics import execute_kernel as k

    layout, machine = attender.layout, attender.machine
    sizes = np.array([shape.sizes for shape in shapes]).max(axis=0).tolist()
    multiplies, filled, moved, scores, staged, received = sizes
    geometry = Geometry.of(layout.organization, layout.placement)
    lanes = geometry.units * layout.elements_per_column
    shape = shapes[0].shape
    part_keys = int(shape[k.PART_WORDS]) * layout.elements_per_column
    unit_of_work = max(part_keys, layout.keys_per_move * layout.columns_per_slice)
    queries, most = attender.passes.queries, attender.passes.most
    space = k.Space(
        issued=np.zeros(multiplies, dtype=np.int32),
        filled=np.zeros(filled, dtype=np.int32),
        moved=np.zeros(moved, dtype=np.int32),
        halves=np.zeros((2, 4), dtype=np.int64),
        sets=np.zeros((2, 4), dtype=np.int64),
        waiting=np.zeros((2, unit_of_work), dtype=np.uint8),
        buffers=np.zeros((2, int(shape[k.BUFFER_WORDS]), lanes), dtype=np.float32),
        sums=np.zeros((2, most, lanes), dtype=np.float32),
        operands=np.zeros(lanes),
        room=np.zeros(lanes),
        spare=np.zeros(lanes),
        repeated=np.zeros(lanes, dtype=np.float32),
        singles=np.zeros((4, lanes), dtype=np.float32),
        lanes=np.zeros(machine.arithmetic.softmax_lanes, dtype=np.float32),
        scores=np.zeros(scores, dtype=np.float32),
        staged=np.zeros(staged, dtype=np.float32),
        received=np.zeros(received, dtype=np.uint8),
    )
    most_chunks = max(len(one.chunks) for one in shapes)
    most_parts = max(int(one.parts.max()) for one in shapes)
    return PlanRoom(
        queries=np.zeros((owners, queries, layout.padded_key), dtype=np.float32),
        factors=np.zeros((owners, queries), dtype=np.float32),
        own_chunks=np.zeros((most_chunks, 8), dtype=np.int64),
        space=space,
        terms=np.zeros(most_parts, dtype=np.float32),
        maxima=np.zeros(softmaxes, dtype=np.float32),
        totals=np.zeros(softmaxes, dtype=np.float32),
        contexts=np.zeros((softmaxes, layout.padded_value), dtype=np.float32),
        complete=np.zeros(softmaxes, dtype=np.uint8),
        above=np.zeros((owners, queries), dtype=np.float32),
        below=np.zeros((owners, queries), dtype=np.float32),
    )


@dataclass(frozen=True, eq=False)
class TokenPlaces:
    """Where the tokens of a request are written.

    The arrays are those of `attacc.pim.numerics.resident_kernel.write_tokens`.

    Attributes:
        shape: numbers of a channel.
        chunks_at: (heads + 1,) first chunk of each head, and the end of the last.
        starts: (chunks,) first key of each chunk.
        rooms: (chunks,) keys for which each chunk has room.
        rows_at: (chunks + 1,) first row of each chunk, and the end of the last.
        values_at: (chunks,) first row of the values of each chunk.
        rows: (layers, rows of all chunks) number of each row in the store.
        columns: columns that multiplies read.
        banks: banks that multiplies read.
    """

    shape: I64
    chunks_at: I64
    starts: I64
    rooms: I64
    rows_at: I64
    values_at: I64
    rows: I64
    columns: I64
    banks: I64

    def write(
        self, store: BankStore, layer: int, first: int, bits: int, keys: Codes, values: Codes
    ) -> None:
        """Write the tokens of consecutive places of a layer.

        Args:
            store: the contents of the banks.
            layer: number of the layer among those that share their places.
            first: place of the first token among the keys of a head.
            bits: bits of an element.
            keys: (heads, tokens, padded elements) bits.
            values: (heads, tokens, padded elements) bits; without elements where values are part
                of the keys.
        """
        from attacc.pim.numerics import resident_kernel as k

        k.write_tokens(
            keys, values, first, self.shape, self.chunks_at, self.starts, self.rooms, self.rows_at,
            self.values_at, self.rows[layer], self.columns, self.banks, store.accesses(bits),
        )  # fmt: skip


_SCALED_BITS = 8


def _format_of(operand: Format) -> I64:
    """Return a format in the form that the kernels take."""
    rounding = operand.rounding(Overflow.INFINITE)
    return np.array(
        [
            rounding.floor, rounding.spread, operand.significand, operand.least_exponent,
            operand.bits, operand.is_integer, operand.bits == _SCALED_BITS,
        ],
        dtype=np.int64,
    )  # fmt: skip
