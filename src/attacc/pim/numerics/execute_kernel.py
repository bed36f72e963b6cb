"""Compiled code that executes the commands of one channel on data.

The meaning of a command follows from its address, and from the number of earlier commands of its
kind at that address, as in `attacc.pim.audit.hazards`. `attacc.pim.numerics.execute` describes how
these counts wrap around, and what the halves of a vector buffer and the sets of accumulators hold.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.compiled import kernel
from attacc.pim.numerics import single_kernel as single
from attacc.pim.numerics.rounding_kernel import exponential, rounded

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.unsignedinteger]

WRGB = 1
MVSB = 2
MVGB = 3
SFM = 4
"""Kinds of requests, as in `attacc.pim.program.program.Kind`. All other kinds are multiplies."""

OK = 0
NOWHERE = 1
"""Status: a command's address belongs to no keys or values, or not to this kind of command."""

(
    BANK_BIT, GROUP_BIT, RANK_BIT, ACCESS_BYTES, COLUMNS, BANKS, GROUPS, RANKS, PSEUDO_CHANNELS,
    UNITS, STRIDE, PARTS, WIDTH, PER_KEY, PER_MOVE, BUFFER_WORDS, PART_WORDS, PASSES, QUERIES,
    ALL_QUERIES, PLACEMENT, KEY_SLICES, OUTPUTS, TOGETHER, SIDE, WHOLE,
) = range(26)  # fmt: skip
"""Fields of `Numbers.shape`, which describes the channel.

Bits of an address; bytes of an access; columns of a row; banks, bank groups, ranks and
pseudo-channels; units, and banks from one unit to the next; parts of the sequence; elements of an
access; columns of a slice of a key; keys of a part whose scores move together; accesses of half a
vector buffer, and those of them that hold the probabilities of one query; passes; queries of the
fullest pass; queries of all passes; the placement; slices of elements into which keys are cut;
output slices, which are columns of a value; those of them whose accesses lie side by side, value by
value; consecutive accesses of a value that a bank holds; elements of a value with padding.
"""

BANK, BANKGROUP, BUFFER = range(3)
"""Values of ``PLACEMENT``: where the units are."""

MULTIPLIER, ADDER, ACCUMULATOR, SCORE, CONTEXT, PROBABILITY = range(6)
"""Rows of `Numbers.floors` and `Numbers.limits`: where a number is rounded."""

(
    TREE_PAIRWISE, GROUPS_PAIRWISE, MERGE_PAIRWISE, LANES, SOFTMAX_LANES, NORMALIZE, TABLE_BITS,
    SINGLE, HALF_PRODUCTS, HALF_TREE, HALF_SUMS, HALF_CODES,
) = range(12)  # fmt: skip
"""Fields of `Numbers.choices`, which describes the arithmetic.

Whether the tree of a unit, sums over banks and sums over parts of a context add up in pairs;
lanes of the tree, and of the softmax; whether exponentials are divided before they return; bits of
the table of the exponential, or 0 for the exact function; whether units can be computed in float32
(`attacc.pim.numerics.single_kernel`); whether products, tree and sums are rounded to fp16 there;
whether operands are fp16.
"""

OPERANDS, PRODUCTS, SPARE, REPEATED = range(4)
"""Rows of `Space.singles`, the working arrays for float32."""

LENGTH, KEYS, WORDS, FILLS, ROOM, ROTATION, AGE, RING = range(8)
"""Fields of a chunk: its keys; keys of each part; accesses of probabilities of each part; number of
phases of its context; keys of each part for which there is room; key of each part with which
reading begins, and from which it goes around; age of the chunk's first key among the keys of its
head, and number of these: age 0 comes behind the greatest age."""

BEGIN, END, CHUNK, IS_CONTEXT, ISSUED, FILLED, MOVED, SLOTS, PLACES = range(9)
"""Fields of the keys or the values of a chunk: first and last address; the chunk; whether they are
values; where the counts of their multiplies, fills and moves begin; accesses and places that are
counted."""

TURN_CHUNK, TURN_QUERIES, TURN_QUERY, TURN_SOFTMAX = range(4)
"""Fields of a turn, which is one pass over one chunk: the chunk; queries of the pass; first query;
first softmax."""

SCORES_AT, STAGED_AT, RECEIVED_AT, SOFTMAX_TURN = range(4)
"""Fields of a softmax of one query of a turn: where its scores, the parts of its context, and the
flags of arrived parts begin; its turn."""

TAG, LEFT, OPENED, DONE = range(4)
"""Fields of half a vector buffer, or of a set of accumulators.

Tag of its contents; multiplies or moves that still use it; number of the command that took it;
multiplies that were summed up in order.
"""

TAGS = 1 << 30
"""A number larger than the phases, or the units of work, of any turn."""


class Numbers(NamedTuple):
    """The channel and its arithmetic.

    Attributes:
        shape: (26,) sizes of the channel, in the order of the constants above.
        choices: (12,) choices of the arithmetic, in the order of the constants above.
        floors: (6, 2) floor and spread of every rounding.
        limits: (6, 2) largest value of every rounding, and the result of a larger one.
        powers: table of the exponential.
    """

    shape: I64
    choices: I64
    floors: I64
    limits: F64
    powers: F32


class Plan(NamedTuple):
    """The chunks and their order. The fields of each row are the constants above.

    Attributes:
        chunks: (chunks, 8) the chunks.
        sights: (chunks, queries, 2) least age of a key that each query sees, and one past the
            greatest.
        products: (2 * chunks, 9) the keys and the values of each chunk, in the order of addresses.
        turns: (turns, 4) the turns.
        turn_of: (chunks, passes) the turn of every pass.
        softmaxes: (softmaxes, 4) the softmaxes.
        columns: accesses that consecutive multiplies read, from the beginning of keys or values.
        banks: banks that consecutive multiplies read, among the banks of a unit.
    """

    chunks: I64
    sights: I64
    products: I64
    turns: I64
    turn_of: I64
    softmaxes: I64
    columns: I64
    banks: I64


class Data(NamedTuple):
    """The data of the computation.

    Only rows that hold keys or values are stored.

    Attributes:
        rows: (rows of a bank,) number of each row among the stored rows.
        memory: (stored rows * columns, banks * elements of an access) codes of the elements.
        table: value of every code.
        owners: (chunks,) owner of each chunk, an index into ``queries`` and ``factors``.
        queries: (owners, queries, elements) queries, padded to whole accesses.
        factors: (owners, queries) factor by which the softmax multiplies scores.
    """

    rows: I64
    memory: Codes
    table: F32
    owners: I64
    queries: F32
    factors: F32


class Space(NamedTuple):
    """The state of a channel during execution, and its working arrays.

    Attributes:
        issued: how often each multiply has issued; zero on entry.
        filled: how often each access of each place has been written; zero on entry.
        moved: how often each place has moved; zero on entry.
        halves: (2, 4) fields of the halves of the vector buffers; -1 on entry.
        sets: (2, 4) fields of the sets of accumulators; -1 on entry.
        waiting: (2, multiplies of a unit of work) whether a multiply waits for earlier ones.
        buffers: (2, accesses, units * elements) the vector buffers; zero on entry.
        sums: (2, queries of a pass, units * elements) the accumulators; zero on entry. Scores are
            stored key by key, contexts unit by unit.
        operands: (units * elements,) working array for values that were read.
        room: (units * elements,) working array.
        spare: (units * elements,) working array.
        repeated: (units * elements,) working array.
        singles: (4, units * elements) working arrays for float32.
        lanes: (softmax lanes,) working array.
        scores: the softmax buffer; zero on entry.
        staged: parts of contexts on the buffer die; zero on entry.
        received: whether each part of a context has reached the buffer die; zero on entry.
    """

    issued: I32
    filled: I32
    moved: I32
    halves: I64
    sets: I64
    waiting: U8
    buffers: F32
    sums: F32
    operands: F64
    room: F64
    spare: F64
    repeated: F32
    singles: F32
    lanes: F32
    scores: F32
    staged: F32
    received: U8


class Yields(NamedTuple):
    """The results of softmaxes.

    Attributes:
        maxima: (softmaxes,) the greatest score of each softmax.
        totals: (softmaxes,) the sum of exponentials of each softmax.
    """

    maxima: F32
    totals: F32


@kernel
def take(tag: int, left: int, clock: int, holders: I64) -> int:
    """Return the half or set whose contents have a tag. If none has the tag, give it one.

    The older of the two is given, unless it is still used and the other is not.
    """
    first, second = 0, 1
    if holders[1, OPENED] < holders[0, OPENED]:
        first, second = 1, 0
    which = first
    if holders[0, TAG] == tag:
        return 0
    if holders[1, TAG] == tag:
        return 1
    if holders[first, LEFT] > 0 and holders[second, LEFT] <= 0:
        which = second
    holders[which, TAG] = tag
    holders[which, LEFT] = left
    holders[which, OPENED] = clock
    holders[which, DONE] = 0
    return which


@kernel
def add_up(count: int, pairwise: int, role: int, floors: I64, limits: F64, terms: F64) -> float:
    """Return the sum of the first ``count`` terms, a power of two. The terms are overwritten."""
    floor, spread = floors[role, 0], floors[role, 1]
    largest, beyond = limits[role, 0], limits[role, 1]
    if pairwise:
        while count > 1:
            count //= 2
            for i in range(count):
                pair = terms[2 * i] + terms[2 * i + 1]
                terms[i] = rounded(pair, floor, spread, largest, beyond)
        return float(terms[0])
    total = float(terms[0])
    for i in range(1, count):
        total = rounded(total + float(terms[i]), floor, spread, largest, beyond)
    return total


@kernel
def halve(
    count: int, floor: int, spread: int, largest: float, beyond: float, of: F64, to: F64
) -> None:
    """Write the rounded sums of pairs of neighbours."""
    for i in range(count):
        to[i] = rounded(of[2 * i] + of[2 * i + 1], floor, spread, largest, beyond)


@kernel
def tree(
    count: int, lanes: int, pairwise: int, floors: I64, limits: F64, products: F64, spare: F64
) -> int:
    """Sum each group of ``lanes`` products; return 0 if the sums are in ``products``, else 1.

    For 1 they are in ``spare``.
    """
    floor, spread = floors[ADDER, 0], floors[ADDER, 1]
    largest, beyond = limits[ADDER, 0], limits[ADDER, 1]
    if pairwise:
        where = 0
        while lanes > 1:
            count //= 2
            lanes //= 2
            if where == 0:
                halve(count, floor, spread, largest, beyond, products, spare)
            else:
                halve(count, floor, spread, largest, beyond, spare, products)
            where = 1 - where
        return where
    for group in range(count // lanes):
        total = products[group * lanes]
        for i in range(1, lanes):
            total = rounded(total + products[group * lanes + i], floor, spread, largest, beyond)
        spare[group] = total
    return 1


@kernel
def read_column(
    access: int, bank: int, shape: I64, rows: I64, memory: Codes, table: F32, operands: F64
) -> None:
    """Read one access of every unit, and write the values of its elements."""
    width, stride = shape[WIDTH], shape[STRIDE]
    column = rows[access // shape[COLUMNS]] * shape[COLUMNS] + access % shape[COLUMNS]
    for unit in range(shape[UNITS]):
        at = unit * width
        for i in range(width):
            operands[at + i] = table[memory[column, (bank + unit * stride) * width + i]]


@kernel
def multiplied(count: int, floors: I64, limits: F64, left: F32, right: F64, products: F64) -> None:
    """Write rounded products."""
    floor, spread = floors[MULTIPLIER, 0], floors[MULTIPLIER, 1]
    largest, beyond = limits[MULTIPLIER, 0], limits[MULTIPLIER, 1]
    for i in range(count):
        products[i] = rounded(float(left[i] * right[i]), floor, spread, largest, beyond)


@kernel
def accumulated(count: int, floors: I64, limits: F64, terms: F64, sums: F32) -> None:
    """Add one term to each sum, and round."""
    floor, spread = floors[ACCUMULATOR, 0], floors[ACCUMULATOR, 1]
    largest, beyond = limits[ACCUMULATOR, 0], limits[ACCUMULATOR, 1]
    for i in range(count):
        sums[i] = rounded(float(sums[i] + terms[i]), floor, spread, largest, beyond)


@kernel
def multiply_keys(
    first: int, key: int, half: int, word: int, which: int, queries: int, shape: I64,
    choices: I64, floors: I64, limits: F64, operands: F64, products: F64, spare: F64,
    buffers: F32, sums: F32,
) -> None:  # fmt: skip
    """Multiply an access of keys by queries, and add the products to one score of each unit."""
    units, width, lanes = shape[UNITS], shape[WIDTH], choices[LANES]
    count = units * width
    groups = width // lanes
    for query in range(queries):
        slot = query * shape[PER_KEY] + word
        multiplied(count, floors, limits, buffers[half, slot], operands, products)
        where = tree(count, lanes, choices[TREE_PAIRWISE], floors, limits, products, spare)
        results, terms = (spare, products) if where else (products, spare)
        own = sums[which, query, key * units : (key + 1) * units]
        for group in range(groups):
            for unit in range(units):
                terms[unit] = results[unit * groups + group]
            if first and group == 0:
                for unit in range(units):
                    own[unit] = terms[unit]
            else:
                accumulated(units, floors, limits, terms, own)


@kernel
def multiply_values(
    first: int, lane: int, half: int, word: int, per_query: int, which: int, queries: int,
    shape: I64, floors: I64, limits: F64, operands: F64, products: F64, buffers: F32,
    repeated: F32, sums: F32,
) -> None:  # fmt: skip
    """Multiply an access of values by a probability of each query, and add up lane by lane."""
    units, width = shape[UNITS], shape[WIDTH]
    count = units * width
    for query in range(queries):
        held = buffers[half, query * per_query + word]
        for unit in range(units):
            factor = held[unit * width + lane]
            for i in range(width):
                repeated[unit * width + i] = factor
        multiplied(count, floors, limits, repeated, operands, products)
        own = sums[which, query]
        if first:
            for i in range(count):
                own[i] = products[i]
        else:
            accumulated(count, floors, limits, products, own)


@kernel
def read_single(
    access: int, bank: int, shape: I64, choices: I64, rows: I64, memory: Codes, table: F32,
    singles: F32,
) -> None:  # fmt: skip
    """Read one access of every unit as `read_column` does, in float32."""
    width, stride = shape[WIDTH], shape[STRIDE]
    column = rows[access // shape[COLUMNS]] * shape[COLUMNS] + access % shape[COLUMNS]
    # Accesses of neighbouring banks are read together.
    together, pieces = width, shape[UNITS]
    if stride == 1:
        together, pieces = width * shape[UNITS], 1
    for piece in range(pieces):
        at = (bank + piece * stride) * width
        codes = memory[column, at : at + together]
        operands = singles[OPERANDS, piece * width : piece * width + together]
        if choices[HALF_CODES]:
            single.decode_half(codes, operands)
        else:
            for i in range(together):
                operands[i] = table[codes[i]]


@kernel
def multiply_keys_single(
    first: int, key: int, half: int, word: int, which: int, queries: int, shape: I64,
    choices: I64, limits: F64, singles: F32, buffers: F32, sums: F32,
) -> None:  # fmt: skip
    """Multiply keys as `multiply_keys` does, in float32."""
    units, width, lanes = shape[UNITS], shape[WIDTH], choices[LANES]
    count = units * width
    groups = width // lanes
    beyond = np.float32(limits[MULTIPLIER, 1])
    for query in range(queries):
        slot = query * shape[PER_KEY] + word
        single.products(
            count, choices[HALF_PRODUCTS], beyond, buffers[half, slot], singles[OPERANDS],
            singles[PRODUCTS],
        )  # fmt: skip
        where = single.tree(
            count, lanes, choices[TREE_PAIRWISE], choices[HALF_TREE], beyond, singles[PRODUCTS],
            singles[SPARE],
        )  # fmt: skip
        results = singles[SPARE if where else PRODUCTS]
        terms = singles[PRODUCTS if where else SPARE]
        own = sums[which, query, key * units : (key + 1) * units]
        for group in range(groups):
            for unit in range(units):
                terms[unit] = results[unit * groups + group]
            if first and group == 0:
                for unit in range(units):
                    own[unit] = terms[unit]
            else:
                single.accumulate(units, choices[HALF_SUMS], beyond, terms, own)


@kernel
def multiply_values_single(
    first: int, lane: int, half: int, word: int, per_query: int, which: int, queries: int,
    shape: I64, choices: I64, limits: F64, singles: F32, buffers: F32, sums: F32,
) -> None:  # fmt: skip
    """Multiply values as `multiply_values` does, in float32."""
    units, width = shape[UNITS], shape[WIDTH]
    count = units * width
    beyond = np.float32(limits[MULTIPLIER, 1])
    repeated = singles[REPEATED]
    for query in range(queries):
        held = buffers[half, query * per_query + word]
        for unit in range(units):
            factor = held[unit * width + lane]
            for i in range(width):
                repeated[unit * width + i] = factor
        own = sums[which, query]
        if first:
            single.products(
                count, choices[HALF_PRODUCTS], beyond, repeated, singles[OPERANDS], own
            )  # fmt: skip
        else:
            single.multiply_accumulate(
                count, choices[HALF_PRODUCTS], choices[HALF_SUMS], beyond, repeated,
                singles[OPERANDS], own,
            )  # fmt: skip


@kernel
def table_exponential(x: np.float32, bits: int, powers: F32) -> np.float64:
    """Return 2**(x log2 e) for x <= 0, from a table of 2**(i / 2**bits), in fp32."""
    y = np.float32(max(x, np.float32(-160.0)) * np.float32(1.4426950408889634))
    whole = math.floor(y)
    place = np.float32(y - np.float32(whole)) * np.float32(1 << bits)
    index = min(int(place), (1 << bits) - 1)
    step = np.float32(powers[index + 1] - powers[index])
    value = np.float32(powers[index] + np.float32((place - np.float32(index)) * step))
    power = np.int64((np.int64(whole) + 1023) << 52).view(np.float64)
    return np.float64(value) * power if x == x else np.float64(x)


@kernel
def softmax(
    which: int, length: int, age: int, ring: int, sight: I64, factor: np.float32,
    gain: np.float32, choices: I64, floors: I64, limits: F64, powers: F32, at: int, lanes: F32,
    scores: F32, maxima: F32, totals: F32,
) -> None:  # fmt: skip
    """Replace the scores of one query by the probabilities that return to the units.

    Keys that the query does not see get the probability zero. A query that sees no key of the chunk
    has minus infinity as its greatest score, and zero as its sum.

    Args:
        which: number of the softmax.
        length: number of keys.
        age: age of the first key.
        ring: number of ages.
        sight: (2,) least age of a key that the query sees, and one past the greatest.
        factor: factor of the scores.
        gain: factor of the probabilities.
        choices: choices of the arithmetic, as in `Numbers`.
        floors: floors of the roundings, as in `Numbers`.
        limits: limits of the roundings, as in `Numbers`.
        powers: the table of the exponential.
        at: place of the query's first score.
        lanes: (softmax lanes,) working array for the sums of the lanes.
        scores: scores of the channel, which the function replaces.
        maxima: output: the greatest score of each softmax.
        totals: output: the sum of exponentials of each softmax.
    """
    greatest = np.float32(-np.inf)
    hides = sight[0] > 0 or sight[1] < ring
    seen = 0
    for i in range(at, at + length):
        scores[i] = np.float32(scores[i] * factor)
        if hides:
            own = (age + i - at) % ring
            if own < sight[0] or own >= sight[1]:
                scores[i] = np.float32(-np.inf)
                continue
        seen += 1
        if scores[i] > greatest:
            greatest = scores[i]
    if seen == 0:
        scores[at : at + length] = np.float32(0)
        maxima[which] = greatest
        totals[which] = np.float32(0)
        return
    bits = choices[TABLE_BITS]
    if bits:
        for i in range(at, at + length):
            less = np.float32(scores[i] - greatest)
            scores[i] = np.float32(table_exponential(less, bits, powers))
    else:
        for i in range(at, at + length):
            less = np.float32(scores[i] - greatest)
            scores[i] = np.float32(exponential(np.float64(less)))
    if hides:
        for i in range(at, at + length):
            own = (age + i - at) % ring
            if own < sight[0] or own >= sight[1]:
                scores[i] = np.float32(0)
    count = choices[SOFTMAX_LANES]
    for lane in range(count):
        lanes[lane] = np.float32(0)
    for first in range(0, length, count):
        for lane in range(min(count, length - first)):
            lanes[lane] = np.float32(lanes[lane] + scores[at + first + lane])
    while count > 1:
        half = count // 2
        for lane in range(half):
            lanes[lane] = np.float32(lanes[2 * lane] + lanes[2 * lane + 1])
        if count % 2:
            lanes[half] = lanes[count - 1]
            half += 1
        count = half
    total = lanes[0]
    maxima[which] = greatest
    totals[which] = total
    by = gain
    if choices[NORMALIZE]:
        by = np.float32(gain * np.float32(np.float32(1) / total))
    floor, spread = floors[PROBABILITY, 0], floors[PROBABILITY, 1]
    largest, beyond = limits[PROBABILITY, 0], limits[PROBABILITY, 1]
    for i in range(at, at + length):
        value = np.float32(scores[i] * by)
        scores[i] = rounded(np.float64(value), floor, spread, largest, beyond)


@kernel
def find(in_bank: int, products: I64) -> int:
    """Return the index of the keys or values at an address in a bank; -1 if there are none."""
    low, high = 0, len(products)
    while low < high:
        middle = (low + high) // 2
        if products[middle, BEGIN] <= in_bank:
            low = middle + 1
        else:
            high = middle
    if low and in_bank < products[low - 1, END]:
        return low - 1
    return -1


@kernel
def pass_of(before: int, least: int, chunk: int, shape: I64, turns: I64, turn_of: I64) -> int:
    """Return the turn of a command, from the number of earlier commands of its kind.

    Args:
        before: number of earlier commands of the kind.
        least: fewest queries of a pass that has such a command. Passes with fewer queries come
            last.
        chunk: the chunk.
        shape: sizes of the channel, as in `Numbers`.
        turns: turns of the channel, as in `Plan`.
        turn_of: (chunks, passes) the turn of every pass.
    """
    with_it = 0
    while with_it < shape[PASSES] and turns[turn_of[chunk, with_it], TURN_QUERIES] >= least:
        with_it += 1
    return turn_of[chunk, before % with_it]


@kernel
def write_query(
    clock: int, product: int, word: int, bank: int, shape: I64, chunks: I64, products: I64,
    turns: I64, turn_of: I64, owners: I64, queries: F32, filled: I32, halves: I64, buffers: F32,
) -> int:  # fmt: skip
    """Execute WRGB: write one access of a query into half a vector buffer of each unit using it."""
    per_key, width, chunk = shape[PER_KEY], shape[WIDTH], products[product, CHUNK]
    # The address of a query that is cut tells which slice of it is written.
    key_slice, access = 0, word
    if shape[KEY_SLICES] > 1:
        key_slice, access = word // shape[BUFFER_WORDS], word % shape[BUFFER_WORDS]
    which = access // per_key
    if products[product, IS_CONTEXT] or which >= shape[QUERIES] or key_slice >= shape[KEY_SLICES]:
        return NOWHERE
    # Units hold different elements of a key only at ``bank``.
    place, first, step = 0, 0, 1
    if shape[PLACEMENT] == BANK:
        place, first, step = bank, bank, shape[BANKS]
    at = products[product, FILLED] + place * products[product, SLOTS] + word
    turn = pass_of(int(filled[at]), which + 1, chunk, shape, turns, turn_of)
    filled[at] += 1
    half = take(turn * TAGS + key_slice, chunks[chunk, KEYS] * per_key, clock, halves)
    owner, query = owners[chunk], turns[turn, TURN_QUERY] + which
    element = ((key_slice * step + place) * per_key + access % per_key) * width
    for unit in range(first, shape[UNITS], step):
        for i in range(width):
            buffers[half, access, unit * width + i] = queries[owner, query, element + i]
    return OK


@kernel
def return_probabilities(
    clock: int, product: int, access: int, rank: int, group: int, shape: I64, chunks: I64,
    products: I64, turns: I64, turn_of: I64, softmaxes: I64, filled: I32, halves: I64, scores: F32,
    buffers: F32,
) -> int:  # fmt: skip
    """Execute MVGB: write one access of probabilities into half a buffer of the units of a part."""
    width, part_words, parts = shape[WIDTH], shape[PART_WORDS], shape[PARTS]
    chunk = products[product, CHUNK]
    fill, word = access // shape[BUFFER_WORDS], access % shape[BUFFER_WORDS]
    if not products[product, IS_CONTEXT] or fill >= chunks[chunk, FILLS]:
        return NOWHERE
    per_query = min(part_words, chunks[chunk, WORDS] - fill * part_words)
    which = word // per_query
    if which >= shape[QUERIES]:
        return NOWHERE
    place, apart = 0, 1
    if shape[PLACEMENT] != BUFFER:
        place, apart = rank * shape[GROUPS] + group, shape[RANKS] * shape[GROUPS]
    at = products[product, FILLED] + place * products[product, SLOTS] + access
    turn = pass_of(int(filled[at]), which + 1, chunk, shape, turns, turn_of)
    filled[at] += 1
    keys = min(part_words * width, chunks[chunk, KEYS] - fill * part_words * width)
    tag = turn * TAGS + shape[KEY_SLICES] + fill
    half = take(tag, keys * shape[OUTPUTS], clock, halves)
    scores_at = softmaxes[turns[turn, TURN_SOFTMAX] + which, SCORES_AT]
    position = (fill * part_words + word % per_query) * width
    units = shape[UNITS] // parts
    of_a_part, rotation = chunks[chunk, KEYS], chunks[chunk, ROTATION]
    for part in range(place, parts, apart):
        for unit in range(part * units, (part + 1) * units):
            for i in range(width):
                key = (position + i + rotation) % of_a_part * parts + part
                value = np.float32(0)
                if position + i < of_a_part and key < chunks[chunk, LENGTH]:
                    value = scores[scores_at + key]
                buffers[half, word, unit * width + i] = value
    return OK


@kernel
def move_scores(
    holder: int, query: int, work: int, key_slice: int, place: int, chunk: I64, at: int,
    scale: float, shape: I64, choices: I64, floors: I64, limits: F64, terms: F64, sums: F32,
    scores: F32,
) -> None:  # fmt: skip
    """Execute MVSB of scores: add up the banks that share a key, and write to the softmax buffer.

    Of keys that are cut, the first slice is written, and the later ones are added to it in fp32.

    Args:
        holder: number of the set of accumulators.
        query: number of the query in the pass.
        work: number of the unit of work within its slice of the keys.
        key_slice: the slice of the keys.
        place: place that moves: rank and bank group.
        chunk: (8,) fields of the chunk; keys beyond its length are padding.
        at: place of the query's first score.
        scale: factor of the scores on the way to the buffer die.
        shape: sizes of the channel, as in `Numbers`.
        choices: choices of the arithmetic, as in `Numbers`.
        floors: floors of the roundings, as in `Numbers`.
        limits: limits of the roundings, as in `Numbers`.
        terms: working array.
        sums: the accumulators.
        scores: the softmax buffer.
    """
    parts, per_move = shape[PARTS], shape[PER_MOVE]
    apart = 1
    if shape[PLACEMENT] != BUFFER:
        apart = shape[RANKS] * shape[GROUPS]
    units = shape[UNITS] // parts
    beyond = np.float32(limits[ACCUMULATOR, 1])
    floor, spread = floors[SCORE, 0], floors[SCORE, 1]
    largest, beyond_way = limits[SCORE, 0], limits[SCORE, 1]
    for part in range(place, parts, apart):
        for i in range(per_move):
            if work * per_move + i >= chunk[KEYS]:
                break
            key = (work * per_move + i + chunk[ROTATION]) % chunk[KEYS] * parts + part
            if key >= chunk[LENGTH]:
                continue
            first = i * shape[UNITS] + part * units
            if choices[SINGLE] and not choices[GROUPS_PAIRWISE]:
                own = sums[holder, query, first : first + units]
                total = float(single.added(choices[HALF_SUMS], beyond, own))
            else:
                for unit in range(units):
                    terms[unit] = sums[holder, query, first + unit]
                total = add_up(units, choices[GROUPS_PAIRWISE], ACCUMULATOR, floors, limits, terms)
            moved = np.float32(rounded(total * scale, floor, spread, largest, beyond_way))
            if key_slice:
                moved = np.float32(scores[at + key] + moved)
            scores[at + key] = moved


@kernel
def move_context(
    holder: int, query: int, work: int, rank: int, bank: int, at: int, scale: float, shape: I64,
    choices: I64, floors: I64, limits: F64, terms: F64, sums: F32, singles: F32, staged: F32,
) -> None:  # fmt: skip
    """Execute MVSB of an output slice: add up bank groups, and write the sums to the buffer die.

    Arguments are those of `move_scores`, except that there is no slice of keys, and that the place
    is a rank and a bank. The sums are written to ``staged`` from ``at`` on.
    """
    width, outputs = shape[WIDTH], shape[OUTPUTS]
    ranks, groups, banks, apart = shape[RANKS], shape[GROUPS], 1, 1
    if shape[PLACEMENT] == BUFFER:
        ranks, groups = 1, 1
    elif shape[PLACEMENT] == BANK:
        banks = apart = shape[BANKS]
    fill, output, side = work // outputs, work % outputs, shape[SIDE]
    floor, spread = floors[CONTEXT, 0], floors[CONTEXT, 1]
    largest, beyond = limits[CONTEXT, 0], limits[CONTEXT, 1]
    single_beyond = np.float32(limits[ACCUMULATOR, 1])
    pseudo_channels = shape[PSEUDO_CHANNELS]
    for pseudo_channel in range(pseudo_channels):
        first = (pseudo_channel * ranks + rank) * groups * apart + bank
        to = ((fill * pseudo_channels + pseudo_channel) * ranks + rank) * shape[WHOLE]
        to = at + to + ((output // side * banks + bank) * side + output % side) * width
        if choices[SINGLE] and not choices[GROUPS_PAIRWISE]:
            totals = singles[PRODUCTS, :width]
            for i in range(width):
                totals[i] = sums[holder, query, first * width + i]
            for group in range(1, groups):
                begin = (first + group * apart) * width
                own = sums[holder, query, begin : begin + width]
                single.accumulate(width, choices[HALF_SUMS], single_beyond, own, totals)
            for i in range(width):
                total = float(totals[i]) * scale
                staged[to + i] = rounded(total, floor, spread, largest, beyond)
            continue
        for i in range(width):
            for group in range(groups):
                terms[group] = sums[holder, query, (first + group * apart) * width + i]
            total = add_up(groups, choices[GROUPS_PAIRWISE], ACCUMULATOR, floors, limits, terms)
            staged[to + i] = rounded(total * scale, floor, spread, largest, beyond)


@kernel
def move(
    product: int,
    rank: int,
    group: int,
    bank: int,
    score_scale: float,
    context_scale: float,
    numbers: Numbers,
    plan: Plan,
    space: Space,
) -> None:
    """Execute MVSB: move the next sums of a place to the buffer die, if they were computed."""
    chunk, of_context = plan.products[product, CHUNK], plan.products[product, IS_CONTEXT]
    placement = numbers.shape[PLACEMENT]
    if placement == BUFFER:
        rank, group, bank = 0, 0, 0
    elif placement == BANKGROUP:
        bank = 0
    groups = -(-plan.chunks[chunk, KEYS] // numbers.shape[PER_MOVE])
    works = groups * numbers.shape[KEY_SLICES]
    place = rank * numbers.shape[GROUPS] + group
    if of_context:
        works = plan.chunks[chunk, FILLS] * numbers.shape[OUTPUTS]
        place = rank * numbers.shape[BANKS] + bank if placement == BANK else rank
    at = plan.products[product, MOVED] + place
    before = space.moved[at] % (works * numbers.shape[ALL_QUERIES])
    space.moved[at] += 1
    which = 0
    turn = plan.turn_of[chunk, 0]
    while before >= works * plan.turns[turn, TURN_QUERIES]:
        before -= works * plan.turns[turn, TURN_QUERIES]
        which += 1
        turn = plan.turn_of[chunk, which]
    work, query = before // plan.turns[turn, TURN_QUERIES], before % plan.turns[turn, TURN_QUERIES]
    tag = int((2 * turn + of_context) * TAGS + work)
    holder = 1 if space.sets[1, TAG] == tag else 0
    if space.sets[holder, TAG] != tag:
        return
    space.sets[holder, LEFT] -= 1
    number = plan.turns[turn, TURN_SOFTMAX] + query
    if of_context:
        move_context(
            holder,
            query,
            work,
            rank,
            bank,
            plan.softmaxes[number, STAGED_AT],
            context_scale,
            numbers.shape,
            numbers.choices,
            numbers.floors,
            numbers.limits,
            space.spare,
            space.sums,
            space.singles,
            space.staged,
        )
        space.received[
            plan.softmaxes[number, RECEIVED_AT] + work * plan.products[product, PLACES] + place
        ] = 1
    else:
        move_scores(
            holder,
            query,
            work % groups,
            work // groups,
            place,
            plan.chunks[chunk],
            plan.softmaxes[number, SCORES_AT],
            score_scale,
            numbers.shape,
            numbers.choices,
            numbers.floors,
            numbers.limits,
            space.spare,
            space.sums,
            space.scores,
        )


@kernel
def multiply(
    clock: int, product: int, x: int, numbers: Numbers, plan: Plan, data: Data, space: Space,
) -> int:  # fmt: skip
    """Execute a multiply and all multiplies that wait for it, or let it wait for earlier ones."""
    width, per_key, part_words = (
        numbers.shape[WIDTH],
        numbers.shape[PER_KEY],
        numbers.shape[PART_WORDS],
    )
    chunk, of_context = plan.products[product, CHUNK], plan.products[product, IS_CONTEXT]
    keys = plan.chunks[chunk, KEYS]
    # Slices of keys, or of the output, are as far apart as the keys for which there is room say.
    slices, each, together = numbers.shape[KEY_SLICES], per_key, 1
    room = plan.chunks[chunk, ROOM]
    if of_context:
        slices, each, together = numbers.shape[OUTPUTS], 1, numbers.shape[TOGETHER]
    # Output slices that lie side by side alternate, value by value.
    before, x = x // (room * each * together), x % (room * each * together)
    output, first = before * together + x % together, x // together
    if first >= keys * each or output >= slices:
        return NOWHERE
    # Multiplies are numbered in the order of reading, which begins anywhere and goes around.
    shift = plan.chunks[chunk, ROTATION] * each
    first = (first - shift) % (keys * each)
    x = output * keys * each + first
    at = plan.products[product, ISSUED] + x
    turn = int(plan.turn_of[chunk, space.issued[at] % numbers.shape[PASSES]])
    space.issued[at] += 1
    queries = plan.turns[turn, TURN_QUERIES]
    if of_context:
        fill = first // (part_words * width)
        first = fill * part_words * width
        work = fill * slices + output
        begin = output * keys + first
        size = min(part_words * width, keys - first)
        per_query = min(part_words, plan.chunks[chunk, WORDS] - fill * part_words)
        tag = int(turn * TAGS + numbers.shape[KEY_SLICES] + fill)
        half = take(tag, size * slices, clock, space.halves)
    else:
        group = first // per_key // numbers.shape[PER_MOVE]
        work = output * -(-keys // numbers.shape[PER_MOVE]) + group
        begin = (output * keys + group * numbers.shape[PER_MOVE]) * per_key
        size = min(numbers.shape[PER_MOVE], keys - group * numbers.shape[PER_MOVE]) * per_key
        per_query = per_key
        half = take(int(turn * TAGS + output), keys * per_key, clock, space.halves)
    space.halves[half, LEFT] -= 1
    tag = int((2 * turn + of_context) * TAGS + work)
    moves = plan.products[product, PLACES] * queries
    fresh = space.sets[0, TAG] != tag and space.sets[1, TAG] != tag
    holder = take(tag, int(moves), clock, space.sets)
    ready = x - begin
    done = space.sets[holder, DONE]
    if ready < done == size:
        fresh = True
        space.sets[holder, LEFT] = moves
        done = 0
    if fresh:
        for i in range(size):
            space.waiting[holder, i] = 0
    if ready > done:
        space.waiting[holder, ready] = 1
        return OK
    if ready < done:
        # The multiply has issued before. Its sum is computed again from the first product.
        if not of_context:
            ready -= ready % per_key
        else:
            ready = 0
        for i in range(ready + 1, done):
            space.waiting[holder, i] = 1
    while True:
        place = (begin + ready - output * keys * each + shift) % (keys * each)
        place = output // together * together * room * each + place * together + output % together
        access = plan.products[product, BEGIN] // numbers.shape[ACCESS_BYTES] + plan.columns[place]
        if numbers.choices[SINGLE]:
            bank = int(plan.banks[place])
            read_single(
                access,
                bank,
                numbers.shape,
                numbers.choices,
                data.rows,
                data.memory,
                data.table,
                space.singles,
            )
            if of_context:
                multiply_values_single(
                    ready == 0,
                    ready % width,
                    half,
                    ready // width,
                    per_query,
                    holder,
                    queries,
                    numbers.shape,
                    numbers.choices,
                    numbers.limits,
                    space.singles,
                    space.buffers,
                    space.sums,
                )
            else:
                multiply_keys_single(
                    ready % per_key == 0,
                    ready // per_key,
                    half,
                    ready % per_key,
                    holder,
                    queries,
                    numbers.shape,
                    numbers.choices,
                    numbers.limits,
                    space.singles,
                    space.buffers,
                    space.sums,
                )
            ready += 1
            space.sets[holder, DONE] = ready
            if ready >= size or not space.waiting[holder, ready]:
                break
            continue
        read_column(
            access,
            int(plan.banks[place]),
            numbers.shape,
            data.rows,
            data.memory,
            data.table,
            space.operands,
        )
        if of_context:
            multiply_values(
                ready == 0,
                ready % width,
                half,
                ready // width,
                per_query,
                holder,
                queries,
                numbers.shape,
                numbers.floors,
                numbers.limits,
                space.operands,
                space.room,
                space.buffers,
                space.repeated,
                space.sums,
            )
        else:
            key, word = ready // per_key, ready % per_key
            multiply_keys(
                word == 0,
                key,
                half,
                word,
                holder,
                queries,
                numbers.shape,
                numbers.choices,
                numbers.floors,
                numbers.limits,
                space.operands,
                space.room,
                space.spare,
                space.buffers,
                space.sums,
            )
        ready += 1
        space.sets[holder, DONE] = ready
        if ready >= size or not space.waiting[holder, ready]:
            break
    return OK


@kernel
def execute(
    kinds: U8,
    addresses: I64,
    numbers: Numbers,
    gain: np.float32,
    score_scale: float,
    context_scale: float,
    plan: Plan,
    data: Data,
    space: Space,
    yields: Yields,
) -> tuple[int, int]:
    """Execute the commands of a channel in order.

    Args:
        kinds: (n,) kind of each command.
        addresses: (n,) byte address of each command within the channel.
        numbers: the channel and its arithmetic.
        gain: factor of the probabilities.
        score_scale: factor of scores on the way to the buffer die.
        context_scale: factor of parts of a context on the way to the buffer die.
        plan: the chunks and their order.
        data: the data of the computation.
        space: state of the channel, and working arrays.
        yields: arrays for the results of softmaxes, which the function writes.

    Returns:
        `OK` or another status, and the number of the command that it is about.
    """
    placement, all_banks = numbers.shape[PLACEMENT], numbers.shape[BANKS]
    groups, ranks = numbers.shape[GROUPS], numbers.shape[RANKS]
    done = 0
    for clock in range(len(kinds)):
        kind = kinds[clock]
        if kind == SFM:
            number = done % len(plan.softmaxes)
            done += 1
            turn = plan.softmaxes[number, SOFTMAX_TURN]
            chunk = plan.turns[turn, TURN_CHUNK]
            query = plan.turns[turn, TURN_QUERY] + number - plan.turns[turn, TURN_SOFTMAX]
            factor = np.float32(data.factors[data.owners[chunk], query])
            softmax(
                number,
                plan.chunks[chunk, LENGTH],
                plan.chunks[chunk, AGE],
                plan.chunks[chunk, RING],
                plan.sights[chunk, query],
                factor,
                gain,
                numbers.choices,
                numbers.floors,
                numbers.limits,
                numbers.powers,
                plan.softmaxes[number, SCORES_AT],
                space.lanes,
                space.scores,
                yields.maxima,
                yields.totals,
            )
            continue
        address = addresses[clock]
        in_bank = address & ((1 << numbers.shape[BANK_BIT]) - 1)
        bank = (address >> numbers.shape[BANK_BIT]) & (all_banks - 1)
        group = (address >> numbers.shape[GROUP_BIT]) & (groups - 1)
        rank = (address >> numbers.shape[RANK_BIT]) & (ranks - 1)
        product = find(in_bank, plan.products)
        if product < 0:
            return NOWHERE, clock
        offset = in_bank - plan.products[product, BEGIN]
        status = OK
        if kind == WRGB:
            status = write_query(
                clock,
                product,
                offset,
                bank,
                numbers.shape,
                plan.chunks,
                plan.products,
                plan.turns,
                plan.turn_of,
                data.owners,
                data.queries,
                space.filled,
                space.halves,
                space.buffers,
            )
        elif kind == MVGB:
            status = return_probabilities(
                clock,
                product,
                offset,
                rank,
                group,
                numbers.shape,
                plan.chunks,
                plan.products,
                plan.turns,
                plan.turn_of,
                plan.softmaxes,
                space.filled,
                space.halves,
                space.scores,
                space.buffers,
            )
        elif kind == MVSB:
            move(
                product, rank, group, bank, score_scale, context_scale, numbers, plan, space,
            )  # fmt: skip
        else:
            x = offset // numbers.shape[ACCESS_BYTES]
            if placement == BANKGROUP:
                row, column = x // numbers.shape[COLUMNS], x % numbers.shape[COLUMNS]
                x = (row * all_banks + bank) * numbers.shape[COLUMNS] + column
            elif placement == BUFFER:
                x = ((x * all_banks + bank) * ranks + rank) * groups + group
            status = multiply(
                clock, product, x, numbers, plan, data, space,
            )  # fmt: skip
        if status != OK:
            return status, clock
    return OK, 0


@kernel
def merge_parts(
    whole: int, pairwise: int, apart: I64, softmaxes: I64, places: I64, staged: F32, received: U8,
    terms: F32, contexts: F32, complete: U8,
) -> None:  # fmt: skip
    """Add up the parts of contexts on the buffer die, in fp32.

    Args:
        whole: elements of a padded context.
        pairwise: whether parts are added in pairs, and not one after another.
        apart: (softmaxes,) number of parts of each context.
        softmaxes: (softmaxes, 4) the softmaxes, as in `Plan`.
        places: (softmaxes,) number of moves of each context.
        staged: parts of contexts, as `execute` has left them.
        received: flags of arrived parts, as `execute` has left them.
        terms: (most parts,) working array.
        contexts: (softmaxes, whole) output: the contexts.
        complete: (softmaxes,) output: whether all parts of each context have arrived.
    """
    for number in range(len(softmaxes)):
        at, count = softmaxes[number, STAGED_AT], apart[number]
        for i in range(whole):
            for part in range(count):
                terms[part] = staged[at + part * whole + i]
            left = count
            while pairwise and left > 1:
                half = left // 2
                for part in range(half):
                    terms[part] = np.float32(terms[2 * part] + terms[2 * part + 1])
                if left % 2:
                    terms[half] = terms[left - 1]
                    half += 1
                left = half
            total = terms[0]
            for part in range(1, left):
                total = np.float32(total + terms[part])
            contexts[number, i] = total
        complete[number] = 1
        for move_number in range(places[number]):
            complete[number] &= received[softmaxes[number, RECEIVED_AT] + move_number]
