"""Compiled kernels for a host: quantise numbers, write tokens into banks, execute all channels.

All stacks share one array of kept rows, the store. A table gives the number in the store of each
row of a chunk. See `attacc.pim.numerics.resident`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.compiled import kernel
from attacc.pim.numerics.execute_kernel import (
    AGE,
    BANKS,
    COLUMNS,
    KEY_SLICES,
    LENGTH,
    MERGE_PAIRWISE,
    OK,
    OUTPUTS,
    PARTS,
    PER_KEY,
    PLACEMENT,
    RING,
    STRIDE,
    WIDTH,
    Data,
    Numbers,
    Plan,
    Space,
    Yields,
    execute,
    merge_parts,
)
from attacc.pim.numerics.rounding_kernel import exponential, rounded

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.unsignedinteger]

NOT_FINITE = 1
BEYOND = 2
"""Status: a value is no finite number, or is too large for a format without a scale."""

FLOOR, SPREAD, SIGNIFICAND, LEAST_EXPONENT, BITS, IS_INTEGER, SCALED = range(7)
"""Numbers of a format, as in `attacc.pim.numerics.formats.Format`; SCALED tells whether its values
have scales."""

(
    STEPS_AT, STEPS_END, CHUNKS_AT, CHUNKS_END, TURNS_AT, TURNS_END, SOFTMAXES_AT, SOFTMAXES_END,
    MULTIPLIES, FILLED, MOVED, SCORES, STAGED, RECEIVED,
) = range(14)  # fmt: skip
"""Columns of a work: where its steps, chunks, turns and softmaxes begin and end; and the numbers of
counted multiplies, fills, moves, scores, elements of parts of contexts, and moves of contexts."""

WORK, OWN_CHUNKS_AT, ROWS_AT, ROWS_END, OWN_SOFTMAXES_AT = range(5)
"""Columns of a channel: its work; where its chunks, rows and softmaxes begin."""

LATER, FIRST, ALONE = range(3)
"""Roles of a chunk in its head: a later one of several, the first of several, or the only one."""

FRACTION_BITS = 52
BIAS = 1023
BANK = 0
"""Placement whose units share a key."""


class Sights(NamedTuple):
    """Which keys of the chunks of all channels the queries see.

    Attributes:
        ages: (chunks, 2) age of the first key of each chunk, and number of ages.
        seen: (chunks, queries, 2) least age that each query sees, and one past the greatest.
    """

    ages: I64
    seen: I64


@kernel
def fit_scales(values: F32, largest: float, margin: float, scales: F32) -> None:
    """Write, per head, the scale that maps the largest magnitude times a margin to the format.

    Args:
        values: (heads, tokens, elements).
        largest: largest value of the format.
        margin: factor by which later values may exceed the largest of these.
        scales: (heads,) output.
    """
    for head in range(values.shape[0]):
        most = 0.0
        for token in range(values.shape[1]):
            for i in range(values.shape[2]):
                most = max(most, abs(float(values[head, token, i])))
        scale = np.float32(most * margin / largest)
        scales[head] = scale if scale > 0 else np.float32(1)


@kernel
def encode(values: F32, scales: F32, of: I64, largest: float, codes: Codes) -> tuple[int, int]:
    """Round numbers to a format, and write their bits.

    Args:
        values: (heads, tokens, elements).
        scales: (heads,) divisors of the values, where the format has scales.
        of: (7,) the format.
        largest: largest value of the format.
        codes: (heads, tokens, padded elements) output.

    Returns:
        `OK` or the fault of a value, and the number of values that were clipped to the largest.
    """
    floor, spread, scaled = of[FLOOR], of[SPREAD], of[SCALED]
    dropped = FRACTION_BITS + 1 - of[SIGNIFICAND]
    first = (of[LEAST_EXPONENT] + BIAS - 1) << (of[SIGNIFICAND] - 1)
    least = 2.0 ** of[LEAST_EXPONENT]
    per_quantum = 2.0 ** -(of[LEAST_EXPONENT] - of[SIGNIFICAND] + 1)
    sign = 1 << (of[BITS] - 1)
    mask = (1 << of[BITS]) - 1
    saturated = 0
    for head in range(values.shape[0]):
        by = float(scales[head])
        for token in range(values.shape[1]):
            for i in range(values.shape[2]):
                value = float(values[head, token, i])
                if not abs(value) < np.inf:
                    return NOT_FINITE, 0
                if scaled:
                    value /= by
                near = rounded(value, floor, spread, largest, np.inf)
                size = abs(near)
                if size > largest:
                    if not scaled:
                        return BEYOND, 0
                    size = largest
                    saturated += 1
                if of[IS_INTEGER]:
                    whole = np.int64(size)
                    codes[head, token, i] = (-whole if value < 0 else whole) & mask
                    continue
                if size >= least:
                    code = (np.float64(size).view(np.int64) >> dropped) - first
                else:
                    code = np.int64(size * per_quantum)
                if np.float64(near).view(np.int64) < 0:
                    code |= sign
                codes[head, token, i] = code
    return OK, saturated


@kernel
def prepare_queries(
    values: F32, key_scales: F32, by: float, score_scale: float, of: I64, largest: float,
    padded: F32, factors: F32,
) -> int:  # fmt: skip
    """Round queries to a format, and write the factors of their scores.

    Args:
        values: (owners, queries, elements).
        key_scales: (owners,) scales of the keys.
        by: factor of all scores.
        score_scale: factor that undoes the division of scores before they move.
        of: (7,) the format.
        largest: largest value of the format.
        padded: (owners, queries, padded elements) output; the padding is not changed.
        factors: (owners, queries) output.

    Returns:
        `OK` or the fault of a value.
    """
    floor, spread, scaled = of[FLOOR], of[SPREAD], of[SCALED]
    for owner in range(values.shape[0]):
        for query in range(values.shape[1]):
            most = 0.0
            for i in range(values.shape[2]):
                size = abs(float(values[owner, query, i]))
                if not size < np.inf:
                    return NOT_FINITE
                most = max(most, size)
            scale = np.float32(1)
            if scaled:
                scale = np.float32(most / largest)
                scale = scale if scale > 0 else np.float32(1)
            for i in range(values.shape[2]):
                value = float(values[owner, query, i])
                if scaled:
                    value /= float(scale)
                near = rounded(value, floor, spread, largest, np.inf)
                if abs(near) > largest:
                    if not scaled:
                        return BEYOND
                    near = largest if near > 0 else -largest
                padded[owner, query, i] = near
            factor = np.float32(float(scale) * float(key_scales[owner]) * by)
            factors[owner, query] = np.float32(float(factor) * score_scale)
    return OK


@kernel
def write_tokens(
    keys: Codes, values: Codes, first: int, shape: I64, chunks_at: I64, starts: I64, rooms: I64,
    rows_at: I64, values_at: I64, rows: I64, columns: I64, banks: I64, memory: Codes,
) -> None:  # fmt: skip
    """Write keys and values into consecutive places of the banks.

    Args:
        keys: (heads, tokens, padded elements) bits.
        values: (heads, tokens, padded elements) bits; without elements where values are part of the
            keys.
        first: place of the first token among the keys of a head.
        shape: see `attacc.pim.numerics.execute_kernel.execute`.
        chunks_at: (heads + 1,) where the chunks of each head begin.
        starts: (chunks,) first key of each chunk.
        rooms: (chunks,) keys of each part for which a chunk has room.
        rows_at: (chunks + 1,) where the rows of each chunk begin: rows of keys, then of values.
        values_at: (chunks,) where the rows of the values of each chunk begin.
        rows: number of each row in the store.
        columns: accesses that consecutive multiplies read, relative to the first of the keys or
            values.
        banks: banks of these accesses, among the banks of a unit.
        memory: (kept rows * columns, banks * elements of an access).
    """
    parts, width, per_slice = shape[PARTS], shape[WIDTH], shape[PER_KEY]
    shared = shape[BANKS] if shape[PLACEMENT] == BANK else 1
    stride, per_row = shape[STRIDE], shape[COLUMNS]
    for head in range(keys.shape[0]):
        chunk = chunks_at[head]
        for token in range(keys.shape[1]):
            position = first + token
            while chunk + 1 < chunks_at[head + 1] and starts[chunk + 1] <= position:
                chunk += 1
            own, part = (position - starts[chunk]) // parts, (position - starts[chunk]) % parts
            for of_values in range(2 if values.shape[2] else 1):
                codes = values if of_values else keys
                begin = values_at[chunk] if of_values else rows_at[chunk]
                # Values are not cut: a slice of the output is a column of each of them.
                per = shape[OUTPUTS] if of_values else per_slice
                for word in range(per if of_values else per * shape[KEY_SLICES]):
                    x = word * rooms[chunk] + own
                    cut = 0
                    if not of_values:
                        cut = word // per
                        x = (cut * rooms[chunk] + own) * per + word % per
                    row = rows[begin + columns[x] // per_row]
                    at = row * per_row + columns[x] % per_row
                    for which in range(shared):
                        to = (banks[x] + (part * shared + which) * stride) * width
                        element = ((cut * shared + which) * per + word - cut * per) * width
                        for i in range(width):
                            memory[at, to + i] = codes[head, token, element + i]


@kernel
def merge_heads(
    maxima: F32, totals: F32, contexts: F32, factors: F32, heads: I64, roles: I64, of_query: I64,
    sinks: F32, divided: int, of: I64, largest: float, beyond: float, above: F32, below: F32,
    merged: F32,
) -> None:  # fmt: skip
    """Merge the chunks of each head, and round the result, as `attacc.pim.numerics.execute` does.

    A sink is merged last, like a chunk of one key with this score and a value of zeros.

    Args:
        maxima: (softmaxes,) greatest score of each softmax.
        totals: (softmaxes,) sum of exponentials of each softmax.
        contexts: (softmaxes, padded elements).
        factors: (heads,) factors of the contexts.
        heads: (chunks,) head of each chunk; the chunks of a head are in the order of their keys.
        roles: (chunks,) role of each chunk, see above.
        of_query: (chunks, queries) softmax of each query.
        sinks: (heads, queries) sink of each query, or (0, 0) for none.
        divided: whether contexts are already divided by their totals.
        of: (7,) the format of the result.
        largest: largest value of the format.
        beyond: result for values larger than that.
        above: (heads, queries) working space for the greatest score of a head.
        below: (heads, queries) working space for the sum of exponentials of a head.
        merged: (heads, queries, elements) output.
    """
    elements = merged.shape[2]
    sunk = len(sinks) > 0
    above[:] = -np.inf
    for head in range(len(sinks)):
        for query in range(sinks.shape[1]):
            above[head, query] = sinks[head, query]
    for chunk in range(len(heads)):
        for query in range(of_query.shape[1]):
            greatest = maxima[of_query[chunk, query]]
            known = above[heads[chunk], query]
            # As numpy.maximum has it, NaN remains one.
            if greatest > known or greatest != greatest:
                above[heads[chunk], query] = greatest
    for chunk in range(len(heads)):
        head = heads[chunk]
        factor = factors[head]
        for query in range(of_query.shape[1]):
            softmax = of_query[chunk, query]
            if divided and roles[chunk] == ALONE and not sunk:
                for i in range(elements):
                    merged[head, query, i] = np.float32(contexts[softmax, i] * factor)
                continue
            less = np.float32(maxima[softmax] - above[head, query])
            weight = np.float32(exponential(np.float64(less)))
            total = np.float32(weight * totals[softmax])
            by = total if divided else weight
            later = roles[chunk] == LATER
            below[head, query] = np.float32(below[head, query] + total) if later else total
            for i in range(elements):
                term = np.float32(by * np.float32(contexts[softmax, i] * factor))
                before = merged[head, query, i]
                merged[head, query, i] = np.float32(before + term) if later else term
    if sunk:
        for head in range(merged.shape[0]):
            for query in range(merged.shape[1]):
                less = np.float32(sinks[head, query] - above[head, query])
                weight = np.float32(exponential(np.float64(less)))
                below[head, query] = np.float32(below[head, query] + weight)
    for chunk in range(len(heads)):
        head = heads[chunk]
        for query in range(of_query.shape[1]):
            over = np.float32(1)
            if sunk or not (divided and roles[chunk] == ALONE):
                # Once per head: what is divided already counts as a sum of 1.
                over = np.float32(over / below[head, query])
                below[head, query] = np.float32(1)
            if over != 1:
                for i in range(elements):
                    merged[head, query, i] = np.float32(merged[head, query, i] * over)
    for head in range(merged.shape[0]):
        for query in range(merged.shape[1]):
            for i in range(elements):
                value = np.float64(merged[head, query, i])
                merged[head, query, i] = rounded(value, of[FLOOR], of[SPREAD], largest, beyond)


@kernel
def execute_channels(
    channels: I64,
    works: I64,
    kinds: U8,
    addresses: I64,
    numbers: Numbers,
    gain: np.float32,
    score_scale: float,
    context_scale: float,
    plan: Plan,
    parts: I64,
    moves: I64,
    lengths: I64,
    sights: Sights,
    data: Data,
    own_chunks: I64,
    space: Space,
    terms: F32,
    yields: Yields,
    contexts: F32,
    complete: U8,
) -> tuple[int, int, int]:
    """Execute the commands of all channels of all stacks.

    `attacc.pim.numerics.execute_kernel.execute` describes the arguments. Here each array holds all
    works, or all channels, one after the other. Working space suffices for the largest work.

    Args:
        channels: (channels, 5) columns of each channel, see above.
        works: (works, 14) columns of each work, see above.
        kinds: see `execute`.
        addresses: see `execute`.
        numbers: see `execute`.
        gain: see `execute`.
        score_scale: see `execute`.
        context_scale: see `execute`.
        plan: chunks, products and turns of all works, with rounded lengths of chunks; its sights
            are not used.
        parts: (softmaxes of all works,) parts of each context.
        moves: (softmaxes of all works,) moves of each context.
        lengths: keys of the chunks of all channels.
        sights: which of these keys queries see.
        data: rows and owners of all channels, and the memory of all stacks.
        own_chunks: working space for the chunks of a channel.
        space: working space.
        terms: working space for the parts of a context.
        yields: (softmaxes of all channels,) output.
        contexts: (softmaxes of all channels, padded elements) output.
        complete: (softmaxes of all channels,) output: whether all parts of the context arrived.

    Returns:
        `OK` or a fault, with its channel and command.
    """
    for channel in range(len(channels)):
        work = works[channels[channel, WORK]]
        steps = slice(work[STEPS_AT], work[STEPS_END])
        first, last = work[CHUNKS_AT], work[CHUNKS_END]
        own_turns = slice(work[TURNS_AT], work[TURNS_END])
        own_softmaxes = slice(work[SOFTMAXES_AT], work[SOFTMAXES_END])
        at = channels[channel, OWN_CHUNKS_AT]
        for chunk in range(last - first):
            for i in range(plan.chunks.shape[1]):
                own_chunks[chunk, i] = plan.chunks[first + chunk, i]
            own_chunks[chunk, LENGTH] = lengths[at + chunk]
            own_chunks[chunk, AGE] = sights.ages[at + chunk, 0]
            own_chunks[chunk, RING] = sights.ages[at + chunk, 1]
        to = channels[channel, OWN_SOFTMAXES_AT]
        end = to + work[SOFTMAXES_END] - work[SOFTMAXES_AT]
        space.issued[: work[MULTIPLIES]] = 0
        space.filled[: work[FILLED]] = 0
        space.moved[: work[MOVED]] = 0
        space.halves[:] = -1
        space.sets[:] = -1
        space.scores[: work[SCORES]] = 0
        space.staged[: work[STAGED]] = 0
        space.received[: work[RECEIVED]] = 0
        yields.maxima[to:end] = np.nan
        yields.totals[to:end] = np.nan
        own_plan = Plan(
            own_chunks[: last - first], sights.seen[at : at + last - first],
            plan.products[2 * first : 2 * last], plan.turns[own_turns], plan.turn_of[first:last],
            plan.softmaxes[own_softmaxes], plan.columns, plan.banks,
        )  # fmt: skip
        own_data = Data(
            data.rows[channels[channel, ROWS_AT] : channels[channel, ROWS_END]], data.memory,
            data.table, data.owners[at : at + last - first], data.queries, data.factors,
        )  # fmt: skip
        status, number = execute(
            kinds[steps], addresses[steps], numbers, gain, score_scale, context_scale, own_plan,
            own_data, space, Yields(yields.maxima[to:end], yields.totals[to:end]),
        )  # fmt: skip
        if status != OK:
            return status, channel, number
        merge_parts(
            contexts.shape[1],
            numbers.choices[MERGE_PAIRWISE],
            parts[own_softmaxes],
            plan.softmaxes[own_softmaxes],
            moves[own_softmaxes],
            space.staged,
            space.received,
            terms,
            contexts[to:end],
            complete[to:end],
        )
    return OK, 0, 0
