"""Attention of heads on one stack: their layout, the issued commands, and the resulting values.

A plan depends on shapes only, and serves any data of these shapes: any layer, any step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.balance import Assignment, Chunk, assign
from attacc.pim.mapping.geometry import (
    ChannelChunks,
    HeadRegions,
    KeyLayout,
    allocate_heads,
    check_capacity,
)
from attacc.pim.mapping.ring import NewTokens, rotation
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.execute import (
    ChannelShape,
    ChunkContexts,
    Machine,
    Sight,
    execute_channel,
    merge_chunks,
)
from attacc.pim.numerics.formats import Floats, Format
from attacc.pim.numerics.issue import IssuedSteps, issued_steps
from attacc.pim.numerics.memory import BankMemory, check_regions, store_head
from attacc.pim.numerics.quantize import Quantized, quantize
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
    pipeline_of,
    sliced,
)
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program, published_regions
from attacc.pim.timing.tables import TimingTables, resolve_timing

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

BUFFER_WORDS = 16
"""Accesses of half a vector buffer of a device without a pipeline: as in AttAcc's units. The
auditor of hazards states this number independently."""


@dataclass(frozen=True, eq=False)
class StoredHeads:
    """Keys and values of heads in the banks of a stack.

    Attributes:
        memory: the banks.
        operand: format of keys and values.
        key_scale: (heads,) factor of the codes of each head's keys.
        value_scale: (heads,) factor of the codes of each head's values.
    """

    memory: BankMemory
    operand: Format
    key_scale: F32
    value_scale: F32


@dataclass(frozen=True, eq=False)
class Contexts:
    """The contexts that a stack computes.

    Attributes:
        context: (heads, queries, value elements) values of the output format; NaN where the program
            produced no context.
        complete: (heads, queries) whether the program produced the context.
    """

    context: F32
    complete: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """The layout and the commands by which a stack attends to heads of given lengths.

    Attributes:
        layout: how a key lies in the banks.
        lengths: keys of each head that are stored.
        oldest: place of the oldest of these keys (`attacc.pim.mapping.ring`).
        tokens: the new tokens of a step, and what each of them sees.
        passes: how the queries that share keys and values are divided into passes.
        buffer_words: accesses of half a vector buffer.
        chunks: per channel, its chunks.
        capacities: per channel, keys for which each chunk has room.
        regions: per channel, where the keys and values of its chunks begin.
        shapes: per channel, its chunks in the form that the kernel takes.
        issued: per channel, its commands; None for a channel without commands.
    """

    layout: KeyLayout
    lengths: tuple[int, ...]
    oldest: tuple[int, ...]
    tokens: NewTokens
    passes: QueryPasses
    buffer_words: int
    chunks: tuple[tuple[Chunk, ...], ...]
    capacities: tuple[tuple[int, ...], ...]
    regions: tuple[HeadRegions, ...]
    shapes: tuple[ChannelShape, ...]
    issued: tuple[IssuedSteps | None, ...]

    @classmethod
    def of(
        cls,
        device: DramDevice,
        placement: Placement,
        lengths: Sequence[int],
        head_dim: int,
        element: ElementType,
        *,
        value_dim: int | None = None,
        key_slices: int | None = None,
        one_copy: bool = False,
        window: int | None = None,
        query_tokens: int = 1,
        queries: int = 1,
        queries_per_read: int = 1,
        schedule: Schedule = Schedule.INTERLEAVED,
        power_limited: bool = True,
    ) -> AttentionPlan:
        """Build the program of a stack, and play it on its controllers.

        Args:
            device: the stack.
            placement: where its units are.
            lengths: tokens of each head's request, the new ones included.
            head_dim: elements of a key.
            element: element type of keys and values.
            value_dim: elements of a value; None for as many as a key has.
            key_slices: slices of elements into which keys are cut; None for as few as the vector
                buffers need (`attacc.pim.program.interleaved.sliced`).
            one_copy: whether the first elements of a key serve as its value.
            window: keys that a token sees at most, its own included; None for all earlier ones.
                Only so many keys are stored, as a ring.
            query_tokens: new tokens of a step, each of which sees the keys up to its own.
            queries: query heads that share each head.
            queries_per_read: queries that a read serves at most, of all heads that share the keys
                and of all new tokens.
            schedule: order of the commands. Schedules with barriers take heads of one length, and
                one query for each.
            power_limited: whether multiplies keep a cadence that limits power.

        Raises:
            InputError: the schedule cannot serve these heads, or they do not fit into banks or
                buffers.
        """
        layout = KeyLayout(
            device.organization, placement, head_dim, element, value_dim=value_dim,
            one_copy=one_copy,
        )  # fmt: skip
        tokens = NewTokens(window, query_tokens)
        passes = QueryPasses.of(queries * query_tokens, queries_per_read)
        layout = sliced(device, layout, passes, schedule, key_slices)
        held = [tokens.held(length) for length in lengths]
        if schedule is Schedule.INTERLEAVED:
            assignment = assign(
                held,
                channels=device.organization.channels,
                longest=longest_chunk(device, layout, passes.most),
                grain=chunk_grain(layout),
            )
            counts = Counter(held)
            check_capacity(layout, list(counts), list(counts.values()))
            return cls.of_assignment(
                device, layout, assignment, passes=passes, power_limited=power_limited,
                tokens=tokens, oldest=[tokens.oldest(length) for length in lengths],
            )  # fmt: skip
        if window is not None:
            raise InputError(
                f"window = {window}: the {schedule} schedule reads no ring of keys",
                hint=f"use the {Schedule.INTERLEAVED} schedule, on a device with a [pipeline]",
            )
        tables = resolve_timing(
            device,
            placement,
            power_limited=power_limited,
            queries_per_read=passes.most,
            element_bits=element.bits,
        )
        assignment, program, owned = _behind_barriers(layout, lengths, passes, schedule)
        words = BUFFER_WORDS if device.pipeline is None else device.pipeline.buffer_words
        return cls._played(assignment, owned, program, tables, passes, words, paired=False)

    @classmethod
    def of_assignment(
        cls,
        device: DramDevice,
        layout: KeyLayout,
        assignment: Assignment,
        *,
        passes: QueryPasses,
        capacities: Sequence[Sequence[int]] | None = None,
        power_limited: bool = True,
        tokens: NewTokens | None = None,
        oldest: Sequence[int] | None = None,
    ) -> AttentionPlan:
        """Build the interleaved program of heads that have been dealt out.

        Args:
            device: the stack.
            layout: how a key lies in the banks.
            assignment: chunks of every channel; the chunks of a head make up the whole head.
            passes: how the queries that share keys and values are divided into passes.
            capacities: per channel, keys for which each chunk has room; by default its number of
                keys.
            power_limited: as in `of`.
            tokens: the new tokens of a step, and what each of them sees; by default a single token
                that sees all keys.
            oldest: place of the oldest key of each head; by default the first.

        Raises:
            InputError: heads or queries do not fit into banks or buffers.
        """
        places = {} if oldest is None else dict(enumerate(oldest))
        turned = [
            [
                rotation(places.get(head, 0), start, length, layout.sequence_parts)
                for head, start, length in own
            ]
            for own in assignment.channels
        ]
        tables = resolve_timing(
            device,
            layout.placement,
            power_limited=power_limited,
            queries_per_read=passes.most,
            element_bits=layout.element.bits,
        )
        lengths = assignment.lengths
        rooms = lengths if capacities is None else capacities
        program = interleaved_program(
            device,
            layout,
            assignment,
            multiply_interval=tables.multiply_interval,
            queries=passes.queries,
            queries_per_read=passes.most,
            capacities=rooms,
            rotations=turned,
        )
        owned = [
            ChannelChunks.allocated(layout, own, room, turns)
            for own, room, turns in zip(lengths, rooms, turned, strict=True)
        ]
        words = pipeline_of(device).buffer_words
        return cls._played(
            assignment, owned, program, tables, passes, words, paired=True,
            tokens=tokens or NewTokens(), oldest=places,
        )  # fmt: skip

    @classmethod
    def _played(
        cls,
        assignment: Assignment,
        owned: Sequence[ChannelChunks],
        program: Program,
        tables: TimingTables,
        passes: QueryPasses,
        words: int,
        *,
        paired: bool,
        tokens: NewTokens | None = None,
        oldest: Mapping[int, int] | None = None,
    ) -> AttentionPlan:
        """Play the program of a stack, and prepare its channels for the kernel."""
        layout = owned[0].layout
        tokens, oldest = tokens or NewTokens(), oldest or {}
        heads: dict[int, int] = {}
        for head, _, length in (chunk for own in assignment.channels for chunk in own):
            heads[head] = heads.get(head, 0) + length
        shapes: dict[tuple[object, ...], ChannelShape] = {}
        each: list[ChannelShape] = []
        for own, chunks in zip(owned, assignment.channels, strict=True):
            sights = tuple(
                _sight(tokens, passes.queries, heads[head], oldest.get(head, 0), start)
                for head, start, _ in chunks
            )
            key = own.lengths, own.room, own.turned, sights
            if key not in shapes:
                check_regions(layout, own.room, own.regions)
                shapes[key] = ChannelShape.of(own, passes, words, paired=paired, sights=sights)
            each.append(shapes[key])
        issued: list[IssuedSteps | None] = [None] * len(owned)
        for steps in issued_steps(program, tables):
            for channel in range(steps.first_channel, steps.first_channel + steps.channels):
                issued[channel] = steps
        return cls(
            layout,
            tuple(heads[head] for head in range(len(heads))),
            tuple(oldest.get(head, 0) for head in range(len(heads))),
            tokens,
            passes,
            words,
            assignment.channels,
            tuple(own.room for own in owned),
            tuple(own.regions for own in owned),
            tuple(each),
            tuple(issued),
        )

    def store(
        self, keys: Sequence[Floats], values: Sequence[Floats], arithmetic: Arithmetic
    ) -> StoredHeads:
        """Round keys and values to the operands' format, and write them into banks.

        Args:
            keys: per head, (length, head_dim) keys that are stored, the oldest first.
            values: per head, (length, value elements), likewise. Values that are part of the keys
                have to equal their first elements.
            arithmetic: arithmetic of the device.

        Raises:
            InputError: a shape is wrong, a value is not finite or beyond the format, or the format
                is not that of the plan.
        """
        arithmetic.check_layout(self.layout)
        of_keys, of_values = [
            [
                quantize(tensor, arithmetic.operand, name=f"{name} of head {head}")
                for head, tensor in enumerate(tensors)
            ]
            for name, tensors in (("keys", keys), ("values", values))
        ]
        if self.layout.one_copy:
            # The same bits, and so the same scales, as those of the keys.
            for key, value in zip(keys, values, strict=True):
                if not np.array_equal(key[:, : self.layout.value_elements], value):
                    raise InputError("the values of a head are not the first elements of its keys")
            of_values = [
                replace(key, codes=key.codes[:, : self.layout.value_elements]) for key in of_keys
            ]
        return self.write(of_keys, of_values)

    def write(self, keys: Sequence[Quantized], values: Sequence[Quantized]) -> StoredHeads:
        """Write the bits of keys and values into banks.

        Args:
            keys: per head, (length, head_dim) with one scale, the oldest first.
            values: per head, (length, value elements) with one scale, likewise.

        Raises:
            InputError: a shape or the width of a number is wrong, or formats differ.
        """
        for name, tensors, elements in (
            ("keys", keys, self.layout.head_dim),
            ("values", values, self.layout.value_elements),
        ):
            if len(tensors) != len(self.lengths):
                raise InputError(
                    f"{name} of {len(tensors)} heads are given, the plan is for {len(self.lengths)}"
                )
            for head, (tensor, length) in enumerate(zip(tensors, self.lengths, strict=True)):
                if tensor.codes.shape != (length, elements):
                    raise InputError(
                        f"{name} of head {head} have shape {tensor.codes.shape}, not "
                        f"{(length, elements)}"
                    )
        formats = sorted({tensor.format for tensor in (*keys, *values)})
        if len(formats) > 1:
            raise InputError(f"keys and values are of several formats: {', '.join(formats)}")
        # A ring of keys begins with the place of the oldest, and goes around.
        placed_keys, placed_values = (
            [
                np.roll(one.codes, oldest, axis=0)
                for one, oldest in zip(all_, self.oldest, strict=True)
            ]
            for all_ in (keys, values)
        )
        memory = BankMemory(self.layout.organization)
        for channel, (chunks, rooms, regions) in enumerate(
            zip(self.chunks, self.capacities, self.regions, strict=True)
        ):
            for number, (head, start, length) in enumerate(chunks):
                own = slice(start, start + length)
                store_head(
                    memory,
                    channel,
                    self.layout.head(length),
                    int(regions.keys[number]),
                    int(regions.values[number]),
                    placed_keys[head][own],
                    placed_values[head][own],
                    rooms[number],
                )
        return StoredHeads(
            memory,
            formats[0],
            np.array([one.scale for one in keys], dtype=np.float32),
            np.array([one.scale for one in values], dtype=np.float32),
        )

    def attend(
        self,
        stored: StoredHeads,
        queries: Floats,
        arithmetic: Arithmetic,
        *,
        scale: float | None = None,
    ) -> Contexts:
        """Attend with new queries to stored heads.

        Args:
            stored: the heads that `store` has written.
            queries: (heads, queries, head_dim). Of several new tokens, the queries of the first
                token come first.
            arithmetic: arithmetic of the device.
            scale: factor of the scores; 1 / sqrt(head_dim) by default.

        Raises:
            InputError: a shape is wrong, a query is not finite or beyond the format, the format
                is not that of the plan, or the address of a command has no meaning.
        """
        heads, head_dim = len(self.lengths), self.layout.head_dim
        expected = (heads, self.passes.queries, head_dim)
        if queries.shape != expected:
            raise InputError(f"queries have shape {queries.shape}, not {expected}")
        if stored.operand is not arithmetic.operand:
            raise InputError(
                f"keys and values are stored as {stored.operand}, not {arithmetic.operand}",
                hint="attend with the operands that were stored",
            )
        by = 1 / math.sqrt(head_dim) if scale is None else scale
        if not (math.isfinite(by) and by > 0):
            raise InputError(f"scale = {by} must be a positive number")
        machine = Machine.of(arithmetic, self.layout, self.buffer_words)
        q = quantize(queries, arithmetic.operand, name="queries", own=2)
        q_values = arithmetic.operand.from_bits(q.codes)
        score_factors = (
            q.scale.astype(np.float64) * stored.key_scale.astype(np.float64)[:, np.newaxis] * by
        ).astype(np.float32)
        parts = [
            execute_channel(
                issued, shape, machine, stored.memory, channel, q_values[own], score_factors[own],
                stored.value_scale[own],
            )
            for channel, (chunks, shape, issued) in enumerate(
                zip(self.chunks, self.shapes, self.issued, strict=True)
            )
            if issued is not None and chunks
            for own in [np.array([chunk.head for chunk in chunks])]
        ]  # fmt: skip
        all_chunks = [
            chunk
            for chunks, issued in zip(self.chunks, self.issued, strict=True)
            if issued is not None
            for chunk in chunks
        ]
        order = np.array(
            sorted(range(len(all_chunks)), key=lambda at: all_chunks[at].start), dtype=np.int64
        )
        merged, complete = merge_chunks(
            ChunkContexts.gathered(parts, order),
            np.array([chunk.head for chunk in all_chunks], dtype=np.int64)[order],
            heads,
            arithmetic.normalization,
        )
        output = arithmetic.output.rounded(merged, arithmetic.overflow).astype(np.float32)
        return Contexts(np.where(complete[..., np.newaxis], output, np.float32(np.nan)), complete)


def _sight(tokens: NewTokens, queries: int, held: int, oldest: int, start: int) -> Sight:
    """Return which keys of a chunk the queries see.

    Args:
        tokens: the new tokens of a step, and what each of them sees.
        queries: queries that share the chunk, those of the first token first.
        held: keys of the chunk's head.
        oldest: place of the oldest of them.
        start: first place of the chunk.
    """
    seen = tokens.seen(held)
    if all(one == (0, held) for one in seen):
        return Sight.of_all(queries)
    each = queries // tokens.count
    return Sight((start - oldest) % held, held, tuple(one for one in seen for _ in range(each)))


def _behind_barriers(
    layout: KeyLayout, lengths: Sequence[int], passes: QueryPasses, schedule: Schedule
) -> tuple[Assignment, Program, list[ChannelChunks]]:
    """Return the layout of the heads of a schedule with barriers, and its program."""
    if not lengths or min(lengths) != max(lengths) or passes.queries > 1:
        raise InputError(
            f"the {schedule} schedule attends to heads of one length, with one query each",
            hint=f"use the {Schedule.INTERLEAVED} schedule, on a device with a [pipeline]",
        )
    channels, length = layout.organization.channels, lengths[0]
    shape = layout.head(length)
    program = attention_program(shape, len(lengths), schedule)
    rounds = -(-len(lengths) // channels)
    published = schedule is Schedule.PUBLISHED
    regions = published_regions(shape, rounds) if published else allocate_heads(shape, rounds)
    chunks = tuple(
        tuple(Chunk(head, 0, length) for head in range(channel, len(lengths), channels))
        for channel in range(channels)
    )
    owned = [
        ChannelChunks(
            shape,
            (length,) * len(own),
            HeadRegions(regions.keys[: len(own)], regions.values[: len(own)]),
        )
        for own in chunks
    ]
    return Assignment.of(chunks), program, owned
