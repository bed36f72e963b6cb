"""Executes the commands of a stack on data: queries go in, contexts of chunks come out.

Every command acts on modelled banks, vector buffers, accumulators and the softmax buffer, in the
order in which the controllers issue it. The meaning of a command follows from its address and from
the order alone, as in `attacc.pim.audit.hazards`. In addition:

- The count of commands of a kind at an address wraps around after the last pass, so that a command
  which is issued once more is executed once more. In a sum that is not complete yet, a product
  replaces the earlier product from the same address.
- The two halves of the vector buffers, and the two sets of accumulators, are used in turn. One
  that is still needed is not taken as long as the other is free. Data that were not overwritten
  remain.
- The first multiply of a sum starts it, and the others add to it. Controllers let multiplies of
  open rows overtake others. A unit adds in the order of addresses: a multiply that is ahead of
  earlier ones waits in the unit. So the bits do not depend on the timing. This order is assumed.
- The buffer die adds up the parts of a context in a fixed order, whenever they arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import EngineError, InputError
from attacc.hardware.placement import Placement
from attacc.pim.mapping.geometry import ChannelChunks, KeyLayout
from attacc.pim.numerics.arithmetic import Arithmetic, Exponential, Normalization, Order
from attacc.pim.numerics.formats import Format, Overflow
from attacc.pim.numerics.issue import IssuedSteps
from attacc.pim.numerics.memory import BankMemory, Geometry, MultiplyPlaces, pad_elements
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.program.program import AddressLayout, Kind

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sight:
    """Which keys of a chunk the queries see. Keys are told by their age among those of the head.

    Attributes:
        age: age of the chunk's first key; 0 is the oldest key of the head.
        ring: number of ages; age 0 comes behind the greatest age.
        seen: per query, the least age that it sees, and one past the greatest.
    """

    age: int
    ring: int
    seen: tuple[tuple[int, int], ...]

    @classmethod
    def of_all(cls, queries: int) -> Sight:
        """Return the sight of queries that see all keys, however many there will be."""
        return cls(0, ENDLESS, ((0, ENDLESS),) * queries)


ENDLESS: Final = 2**62
"""Number of ages of keys that do not lie in a ring."""


@dataclass(frozen=True, eq=False)
class ChannelShape:
    """The chunks of one channel, in the form that the kernel takes.

    `attacc.pim.numerics.execute_kernel.execute` describes the arrays.

    Attributes:
        layout: how a key lies in the banks.
        passes: how the queries that share keys and values are divided into passes.
        shape: numbers of the channel.
        chunks: chunks of the channel.
        sights: which keys the queries of each chunk see.
        products: keys and values, in the order of their first bytes.
        turns: passes over chunks, in the order of their softmaxes.
        turn_of: (chunks, passes) turn of each pass over each chunk.
        softmaxes: one softmax per query of each turn.
        places: where multiplies read.
        parts: (softmaxes,) number of parts of each context that reach the buffer die.
        moves: (softmaxes,) number of moves that bring these parts.
        sizes: numbers of counted multiplies, fills and moves; of scores; of elements of parts of
            contexts; and of moves of contexts.
    """

    layout: KeyLayout
    passes: QueryPasses
    shape: I64
    chunks: I64
    sights: I64
    products: I64
    turns: I64
    turn_of: I64
    softmaxes: I64
    places: MultiplyPlaces
    parts: I64
    moves: I64
    sizes: tuple[int, int, int, int, int, int]

    @classmethod
    def of(
        cls,
        channel: ChannelChunks,
        passes: QueryPasses,
        buffer_words: int,
        *,
        paired: bool,
        sights: Sequence[Sight] | None = None,
    ) -> ChannelShape:
        """Return the shape for the chunks of a channel.

        Args:
            channel: its chunks; their keys and values must not overlap.
            passes: how the queries that share keys and values are divided into passes.
            buffer_words: accesses of half a vector buffer.
            paired: whether two chunks alternate pass by pass, as in the interleaved schedule;
                otherwise all passes of a chunk come before those of the next chunk.
            sights: per chunk, which of its keys the queries see; None for all keys.

        Raises:
            InputError: the queries of a pass exceed half a vector buffer, or only some keys are
                read.
        """
        from attacc.pim.numerics import execute_kernel as k  # loads Numba

        if channel.apart != 1:
            raise InputError("reads of selected keys are timed, and not executed on data")
        layout, o = channel.layout, channel.layout.organization
        geometry = Geometry.of(o, layout.placement)
        at = AddressLayout.of(o)
        width, per_key = layout.elements_per_column, layout.columns_per_slice
        if passes.most * per_key > buffer_words:
            raise InputError(
                f"{passes.most} queries of head_dim {layout.head_dim} take "
                f"{passes.most * per_key} accesses, half a vector buffer holds {buffer_words}",
                hint="use a smaller head_dim, or read for fewer queries at a time",
            )
        part_words = buffer_words // passes.most
        on_die = layout.placement is Placement.BUFFER
        ranks = 1 if on_die else o.ranks
        score_places = 1 if on_die else o.ranks * o.bank_groups
        context_places = ranks * (o.banks if layout.placement is Placement.BANK else 1)
        shape = np.array(
            [
                at.bank, at.bank_group, at.rank, o.access_bytes, o.columns, o.banks, o.bank_groups,
                o.ranks, o.pseudo_channels, geometry.units, geometry.stride, layout.sequence_parts,
                width, per_key, layout.keys_per_move, buffer_words, part_words, passes.passes,
                passes.most, passes.queries, list(Placement).index(layout.placement),
                layout.key_slices, layout.context_slices, layout.slices_together,
                layout.columns_per_slice if layout.one_copy else layout.context_slices,
                layout.padded_value,
            ],
            dtype=np.int64,
        )  # fmt: skip

        each = [layout.head(length) for length in channel.lengths]
        rooms = [layout.head(length) for length in channel.room]
        fills = [-(-one.probability_words // part_words) for one in each]
        seen = [Sight.of_all(passes.queries)] * len(each) if sights is None else sights
        chunks = np.array(
            [
                [
                    one.length, one.keys_per_part, one.probability_words, fill, room.keys_per_part,
                    rotation, sight.age, sight.ring,
                ]
                for one, fill, room, rotation, sight in zip(
                    each, fills, rooms, channel.turned, seen, strict=True
                )
            ],
            dtype=np.int64,
        ).reshape(-1, 8)  # fmt: skip

        slots_of_keys = buffer_words * layout.key_slices
        places = MultiplyPlaces.of(layout.head(max(channel.room, default=1)))
        furthest = np.maximum.accumulate(places.column) + 1
        rows_of = [list[int]() for _ in range(9)]
        multiplies = filled = moved = 0
        for number, (one, room) in enumerate(zip(each, rooms, strict=True)):
            for of_context, begins in enumerate((channel.regions.keys, channel.regions.values)):
                count = room.value_places if of_context else room.score_multiplies
                size = int(furthest[count - 1]) * o.access_bytes
                slots = fills[number] * buffer_words if of_context else slots_of_keys
                if layout.key_slices > 1 and not of_context:
                    # Addresses of fills may exceed those of a short chunk, within the same row.
                    size = max(size, slots)
                banks = o.banks if layout.placement is Placement.BANK else 1
                fill_places = score_places if of_context else banks
                move_places = context_places if of_context else score_places
                begin = int(begins[number])
                row = (
                    begin, begin + size, number, of_context, multiplies, filled, moved, slots,
                    move_places,
                )  # fmt: skip
                for column, value in zip(rows_of, row, strict=True):
                    column.append(value)
                multiplies += one.context_multiplies if of_context else one.score_multiplies
                filled += slots * fill_places
                moved += move_places
        products = np.array(rows_of, dtype=np.int64).T
        products = np.ascontiguousarray(products[np.argsort(products[:, k.BEGIN])])

        first_query = np.cumsum([0, *passes.each])
        turns: list[tuple[int, int, int, int]] = []
        turn_of = np.zeros((len(each), passes.passes), dtype=np.int64)
        softmaxes: list[tuple[int, int, int, int]] = []
        parts: list[int] = []
        moves: list[int] = []
        scores = staged = received = 0
        together = 2 if paired else 1
        for first in range(0, len(each), together):
            pair = range(first, min(first + together, len(each)))
            for which, queries in enumerate(passes.each):
                for number in pair:
                    turn_of[number, which] = len(turns)
                    turns.append((number, queries, int(first_query[which]), len(softmaxes)))
                    count = fills[number] * o.pseudo_channels * ranks
                    for _ in range(queries):
                        softmaxes.append((scores, staged, received, len(turns) - 1))
                        parts.append(count)
                        moves.append(fills[number] * layout.context_slices * context_places)
                        scores += each[number].length
                        staged += count * layout.padded_value
                        received += moves[-1]
        return cls(
            layout=layout,
            passes=passes,
            shape=shape,
            chunks=chunks,
            sights=np.array([sight.seen for sight in seen], dtype=np.int64).reshape(
                len(each), passes.queries, 2
            ),
            products=products,
            turns=np.array(turns, dtype=np.int64).reshape(-1, 4),
            turn_of=turn_of,
            softmaxes=np.array(softmaxes, dtype=np.int64).reshape(-1, 4),
            places=places,
            parts=np.array(parts, dtype=np.int64),
            moves=np.array(moves, dtype=np.int64),
            sizes=(multiplies, filled, moved, scores, staged, received),
        )

    @cached_property
    def query_of(self) -> tuple[I64, I64]:
        """Chunk and query of each softmax."""
        from attacc.pim.numerics import execute_kernel as k

        turn = self.softmaxes[:, k.SOFTMAX_TURN]
        within = np.arange(len(turn)) - self.turns[turn, k.TURN_SOFTMAX]
        return self.turns[turn, k.TURN_CHUNK], self.turns[turn, k.TURN_QUERY] + within


@dataclass(frozen=True, eq=False)
class ChunkContexts:
    """The results of the buffer die for the chunks of a channel.

    Attributes:
        maximum: (chunks, queries) greatest score, in fp32; NaN where no softmax was issued.
        total: (chunks, queries) sum of the exponentials of the scores less the greatest, in fp32.
        context: (chunks, queries, value elements) in fp32; NaN where it is not complete. With
            `Normalization.AFTER` it is not yet divided by the total.
        complete: (chunks, queries) whether all parts of the context have arrived.
    """

    maximum: F32
    total: F32
    context: F32
    complete: npt.NDArray[np.bool_]

    @classmethod
    def gathered(cls, parts: Sequence[ChunkContexts], order: I64) -> ChunkContexts:
        """Return the chunks of several channels in another order.

        Args:
            parts: results of each channel.
            order: (chunks,) for each place, the number of its chunk among those of all channels.
        """
        return cls(
            np.concatenate([one.maximum for one in parts])[order],
            np.concatenate([one.total for one in parts])[order],
            np.concatenate([one.context for one in parts])[order],
            np.concatenate([one.complete for one in parts])[order],
        )


@dataclass(frozen=True, eq=False)
class Machine:
    """The arithmetic of a device, in the form that the kernel takes.

    `attacc.pim.numerics.execute_kernel.execute` describes the arrays.

    Attributes:
        arithmetic: formats and orders.
        layout: placement, head_dim and element type of the heads.
        choices: choices of formats and orders, as numbers.
        floors: lower limits of the roundings.
        limits: upper limits of the roundings.
        powers: table of the exponential.
        score_shift: power of two by which scores are divided before they move.
        context_shift: power of two by which parts of a context are divided before they move.
    """

    arithmetic: Arithmetic
    layout: KeyLayout
    choices: I64
    floors: I64
    limits: F64
    powers: F32
    score_shift: int
    context_shift: int

    @classmethod
    def of(cls, arithmetic: Arithmetic, layout: KeyLayout, buffer_words: int) -> Machine:
        """Return the machine for heads of a layout.

        Args:
            arithmetic: formats and orders.
            layout: how a key lies in the banks.
            buffer_words: accesses of half a vector buffer.

        Raises:
            InputError: the layout's elements are not the arithmetic's operands.
        """
        arithmetic.check_layout(layout)
        a = arithmetic
        formats = (a.multiplier, a.adder, a.accumulator, a.score, a.context, a.probability)
        roundings = [one.rounding(a.overflow) for one in formats]
        table_bits = a.table_bits if a.exponential is Exponential.TABLE else 0
        choices = [
            a.tree is Order.PAIRWISE, a.groups is Order.PAIRWISE, a.merge is Order.PAIRWISE,
            a.lanes, a.softmax_lanes, a.normalization is Normalization.BEFORE, table_bits,
            *_single(a),
        ]  # fmt: skip
        return cls(
            arithmetic,
            layout,
            np.array(choices, dtype=np.int64),
            np.array([(one.floor, one.spread) for one in roundings], dtype=np.int64),
            np.array([(one.largest, one.beyond) for one in roundings]),
            np.exp2(np.arange((1 << table_bits) + 1) / (1 << table_bits)).astype(np.float32),
            a.score_shift(layout.head_dim),
            a.context_shift(buffer_words * layout.elements_per_column),
        )


def _single(a: Arithmetic) -> tuple[bool, bool, bool, bool, bool]:
    """Return whether float32 gives the units' bits, and which results are rounded to fp16.

    See `attacc.pim.numerics.single_kernel` for when that gives the same bits.
    """
    roles = (a.multiplier, a.adder, a.accumulator)
    halves = [role is Format.FP16 for role in roles]
    native = all(role in (Format.FP16, Format.FP32) for role in roles)
    # Native operations do not saturate at the largest value of fp32.
    native &= a.overflow is Overflow.INFINITE or Format.FP32 not in roles
    # Products of bf16 may lie below what float32 can hold.
    native &= not any(halves) or Format.BF16 not in (a.operand, a.probability)
    return native, halves[0], halves[1], halves[2], a.operand is Format.FP16


@dataclass(frozen=True, eq=False)
class ChannelState:
    """The contents of a channel's units and its share of the buffer die after some commands.

    Attributes:
        halves: (2, 4) halves of the vector buffers, as in `attacc.pim.numerics.execute_kernel`:
            the content of each half, the multiplies that will still use it, and when it was taken.
        sets: (2, 4) sets of accumulators, with the same columns.
        buffers: (2, accesses, units * elements) the vector buffers.
        sums: (2, queries of a pass, units * elements) the accumulators. Scores are at element
            key * units + unit, a slice of the context at unit * elements + lane.
        scores: the softmax buffer: scores of all softmaxes, or the values that replaced them.
        parts: parts of contexts that have reached the buffer die.
        arrived: which moves of contexts have arrived.
        maxima: (softmaxes,) greatest score of each softmax, in fp32; NaN before it was issued.
        totals: (softmaxes,) sum of exponentials of each softmax.
    """

    halves: I64
    sets: I64
    buffers: F32
    sums: F32
    scores: F32
    parts: F32
    arrived: U8
    maxima: F32
    totals: F32

    @classmethod
    def after(
        cls,
        issued: IssuedSteps,
        shape: ChannelShape,
        machine: Machine,
        memory: BankMemory,
        channel: int,
        queries: F32,
        score_factors: F32,
        *,
        commands: int | None = None,
    ) -> ChannelState:
        """Execute the commands of one channel, or the first ones of them.

        Args:
            issued: its commands.
            shape: its chunks.
            machine: the arithmetic.
            memory: the banks of the stack, holding keys and values.
            channel: number of the channel.
            queries: as in `execute_channel`.
            score_factors: as in `execute_channel`.
            commands: number of commands to execute; None for all.

        Raises:
            InputError: a command belongs to no keys or values of the channel; says which.
            EngineError: arrays of shapes that do not belong to the channel.
        """
        from attacc.pim.numerics import execute_kernel as k  # loads Numba

        layout, a = machine.layout, machine.arithmetic
        chunks, heads = len(shape.chunks), shape.passes.queries
        if queries.shape != (chunks, heads, layout.head_dim):
            raise EngineError(
                f"queries of shape {queries.shape} for {chunks} chunks and {heads} queries"
            )
        geometry = Geometry.of(layout.organization, layout.placement)
        multiplies, filled, moved, scores, staged, received = shape.sizes
        lanes = geometry.units * layout.elements_per_column
        part_keys = int(shape.shape[k.PART_WORDS]) * layout.elements_per_column
        unit_of_work = max(part_keys, layout.keys_per_move * layout.columns_per_slice)
        softmaxes = len(shape.softmaxes)
        state = cls(
            halves=np.full((2, 4), -1, dtype=np.int64),
            sets=np.full((2, 4), -1, dtype=np.int64),
            buffers=np.zeros((2, int(shape.shape[k.BUFFER_WORDS]), lanes), dtype=np.float32),
            sums=np.zeros((2, shape.passes.most, lanes), dtype=np.float32),
            scores=np.zeros(scores, dtype=np.float32),
            parts=np.zeros(staged, dtype=np.float32),
            arrived=np.zeros(received, dtype=np.uint8),
            maxima=np.full(softmaxes, np.nan, dtype=np.float32),
            totals=np.full(softmaxes, np.nan, dtype=np.float32),
        )
        factors = (score_factors.astype(np.float64) * 2.0**machine.score_shift).astype(np.float32)
        numbers = k.Numbers(
            shape.shape, machine.choices, machine.floors, machine.limits, machine.powers
        )
        plan = k.Plan(
            shape.chunks, shape.sights, shape.products, shape.turns, shape.turn_of, shape.softmaxes,
            shape.places.column, shape.places.bank,
        )  # fmt: skip
        accesses = memory.accesses(channel, layout.element.bits)
        data = k.Data(
            rows=memory.slots[channel],
            memory=accesses.reshape(-1, geometry.banks * layout.elements_per_column),
            table=a.operand.table,
            owners=np.arange(chunks),
            queries=pad_elements(queries, layout.padded_key).astype(np.float32),
            factors=factors,
        )
        space = k.Space(
            issued=np.zeros(multiplies, dtype=np.int32),
            filled=np.zeros(filled, dtype=np.int32),
            moved=np.zeros(moved, dtype=np.int32),
            halves=state.halves,
            sets=state.sets,
            waiting=np.zeros((2, unit_of_work), dtype=np.uint8),
            buffers=state.buffers,
            sums=state.sums,
            operands=np.empty(lanes),
            room=np.empty(lanes),
            spare=np.empty(lanes),
            repeated=np.empty(lanes, dtype=np.float32),
            singles=np.empty((4, lanes), dtype=np.float32),
            lanes=np.zeros(a.softmax_lanes, dtype=np.float32),
            scores=state.scores,
            staged=state.parts,
            received=state.arrived,
        )
        status, number = k.execute(
            issued.kind[:commands],
            issued.address[:commands],
            numbers,
            np.float32(a.gain),
            2.0**-machine.score_shift,
            2.0**-machine.context_shift,
            plan,
            data,
            space,
            k.Yields(state.maxima, state.totals),
        )
        if status != k.OK:
            name = Kind(int(issued.kind[number])).name
            raise InputError(
                f"{name} in cycle {int(issued.cycle[number])} of channel {channel}, at "
                f"{int(issued.address[number]):#x}: no keys or values that it could mean lie there",
                hint="execute a program with the chunks that it was built for",
            )
        return state


def execute_channel(
    issued: IssuedSteps,
    shape: ChannelShape,
    machine: Machine,
    memory: BankMemory,
    channel: int,
    queries: F32,
    score_factors: F32,
    context_factors: F32,
) -> ChunkContexts:
    """Execute the commands of one channel.

    Args:
        issued: its commands.
        shape: its chunks.
        machine: the arithmetic.
        memory: the banks of the stack, holding keys and values.
        channel: number of the channel.
        queries: (chunks, queries, head_dim) queries of each chunk's head, as values of the
            operand's format.
        score_factors: (chunks, queries) factors of scores from scales of 8-bit formats and the
            scale of the attention. The arithmetic's own factors are applied in addition.
        context_factors: (chunks,) factors of contexts from scales of 8-bit formats.

    Raises:
        InputError: a command belongs to no keys or values of the channel; says which.
        EngineError: arrays of shapes that do not belong to the channel.
    """
    from attacc.pim.numerics import execute_kernel as k  # loads Numba

    state = ChannelState.after(issued, shape, machine, memory, channel, queries, score_factors)
    layout, a = machine.layout, machine.arithmetic
    chunks, heads = len(shape.chunks), shape.passes.queries
    whole = layout.padded_value
    softmaxes = len(shape.softmaxes)
    contexts = np.empty((softmaxes, whole), dtype=np.float32)
    complete = np.zeros(softmaxes, dtype=np.uint8)
    k.merge_parts(
        whole, int(machine.choices[k.MERGE_PAIRWISE]), shape.parts, shape.softmaxes, shape.moves,
        state.parts, state.arrived, np.empty(int(shape.parts.max(initial=1)), dtype=np.float32),
        contexts, complete,
    )  # fmt: skip
    # One product undoes the scale, the gain of probabilities, and the shift of moved sums.
    undone = context_factors.astype(np.float64) * 2.0**machine.context_shift / a.gain
    result = ChunkContexts(
        np.full((chunks, heads), np.nan, dtype=np.float32),
        np.full((chunks, heads), np.nan, dtype=np.float32),
        np.full((chunks, heads, layout.value_elements), np.nan, dtype=np.float32),
        np.zeros((chunks, heads), dtype=np.bool_),
    )
    chunk, query = shape.query_of
    result.maximum[chunk, query] = state.maxima
    result.total[chunk, query] = state.totals
    values = contexts[:, : layout.value_elements] * undone.astype(np.float32)[chunk, np.newaxis]
    result.context[chunk, query] = np.where(complete[:, np.newaxis] > 0, values, np.float32(np.nan))
    result.complete[chunk, query] = complete > 0
    return result


def merge_chunks(
    parts: ChunkContexts, head: I64, heads: int, normalization: Normalization
) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Merge the chunks of each head to the head's attention, exactly except for rounding in fp32.

    With m the greatest score of a head, the context and the total of chunk c are multiplied by
    e**(m_c - m) (docs/model/mapping.md, chunks). A head of one chunk, whose context is already
    divided, stays as it is.

    Args:
        parts: results of all chunks.
        head: (chunks,) head of each chunk; the chunks of a head are merged in the given order.
        heads: number of heads.
        normalization: whether contexts are already divided by their totals.

    Returns:
        (heads, queries, value elements) contexts in fp32, and (heads, queries) whether each is
        complete.
    """
    queries, elements = parts.context.shape[1:]
    before = normalization is Normalization.BEFORE
    greatest = np.full((heads, queries), -np.inf, dtype=np.float32)
    np.maximum.at(greatest, head, parts.maximum)
    number = _numbers_within(head, heads)
    above = np.zeros((heads, queries, elements), dtype=np.float32)
    below = np.zeros((heads, queries), dtype=np.float32)
    complete = np.ones((heads, queries), dtype=np.bool_)
    alone = np.bincount(head, minlength=heads) == 1
    np.logical_and.at(complete, head, parts.complete)
    complete[np.bincount(head, minlength=heads) == 0] = False
    # One addition per step keeps the order of the chunks.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for step in range(int(number.max(initial=-1)) + 1):
            chosen = np.flatnonzero(number == step)
            to = head[chosen]
            less = (parts.maximum[chosen] - greatest[to]).astype(np.float64)
            weight = np.exp(less).astype(np.float32)
            total = weight * parts.total[chosen]
            factor = total if before else weight
            term = factor[..., np.newaxis] * parts.context[chosen]
            above[to] = term if step == 0 else above[to] + term
            below[to] = total if step == 0 else below[to] + total
        over: F32 = np.divide(np.float32(1), below, dtype=np.float32)
        merged = above * over[..., np.newaxis]
    if before:
        own = np.flatnonzero(alone[head])
        merged[head[own]] = parts.context[own]
    return merged, complete


def _numbers_within(head: I64, heads: int) -> I64:
    """Return the number of each chunk within its head."""
    number = np.zeros(len(head), dtype=np.int64)
    seen = np.zeros(heads, dtype=np.int64)
    for at, which in enumerate(head.tolist()):
        number[at] = seen[which]
        seen[which] += 1
    return number
