"""Writes the steps of a channel's interleaved attention straight in their order, compiled.

What the steps are, and what waits for what, is told in `attacc.pim.program.interleaved`; the naive
twin of this module is in the tests' oracle. Multiplies stand at the places 0, 1, 2, ... All other
steps have a place among them, and come in three sequences, whose places never decrease: moves,
softmaxes and fills. So that nothing has to be sorted: of the three, and the next multiply, the one
at the least place is written next; at the same place moves come first, then softmaxes, fills, and
the multiply.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.compiled import kernel

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

WRGB = 1
MVSB = 2
MVGB = 3
SFM = 4
"""Kinds of requests, as in `attacc.pim.program.program.Kind`."""


TURN_CHUNK, TURN_QUERIES, TURN_WORDS, TURN_PARTS, TURN_CONTEXT, TURN_SOFTMAX = range(6)
"""Of a turn, which is one pass over one chunk: the chunk; queries of the pass; accesses of
probabilities per query; parts of the context; phase of the first of these; first softmax."""

PHASE_TURN, PHASE_PART, PHASE_UNIT, PHASE_FILL, PHASE_WORDS = range(5)
"""Of a phase: its turn; part of the context, or -1 for the score; first unit; number of the first
event that lets its buffer be filled; accesses per query that fill it."""

UNIT_BEGIN, UNIT_X, UNIT_PHASE = range(3)
"""Of a unit: its first multiply, in the channel and in the chunk; its phase."""

EVENTS_APART = 4
BEGUN, DONE, FILL, SCORED = range(1, EVENTS_APART + 1)
"""The first event of each kind: filled and free to begin, per unit; multiplied, per unit; ready to
be filled, per phase, and per query for those who wait for its softmax; scored, per turn and query.
The next one of a kind is `EVENTS_APART` later, so that channels which begin alike name alike."""

SPARE = 3
"""Places beyond the last turn, phase and unit, so that the next ones can be asked for."""


class Shape(NamedTuple):
    """What all chunks of a channel have in common.

    Attributes:
        queries: queries that share each chunk.
        passes: how often a chunk is read for them.
        sequence_parts: parts of the sequence that lie side by side.
        keys_per_move: keys of each part whose scores move together.
        elements: elements of an access.
        columns: multiplies per key of each part, and output slices.
        part_words: accesses of probabilities that each query has in half a vector buffer.
        buffer_words: accesses of half a vector buffer.
    """

    queries: int
    passes: int
    sequence_parts: int
    keys_per_move: int
    elements: int
    columns: int
    part_words: int
    buffer_words: int


class Chunks(NamedTuple):
    """The chunks of a channel.

    Attributes:
        lengths: (chunks,) keys of each chunk.
        keys: (chunks,) where its keys begin.
        values: (chunks,) where its values begin.
        busy: (chunks,) cycles that the softmax of one query takes.
        strides: (chunks,) keys of each part for which an output slice of its values has room.
    """

    lengths: I64
    keys: I64
    values: I64
    busy: I64
    strides: I64


class Sites(NamedTuple):
    """Addresses, from where a chunk's keys or values begin.

    Attributes:
        multiplies: of the multiplies of the chunk with most room.
        query_places: of the units to be filled with different parts of a query.
        probability_places: of those to be filled with different probabilities.
        score_moves: of the moves of one unit's scores.
        context_moves: of the moves of one output slice.
    """

    multiplies: I64
    query_places: I64
    probability_places: I64
    score_moves: I64
    context_moves: I64


class Times(NamedTuple):
    """Latencies in cycles, as `attacc.hardware.dram.Pipeline` has them.

    Attributes:
        write_to_multiply: from a write of a buffer to a multiply that uses it.
        multiply_to_move: from a multiply to the move of its sum.
        move_to_softmax: from a move of scores to their softmax.
        softmax_to_move: from a softmax to the move of its probabilities.
        interval: from one multiply to the next.
        spacing: multiplies from one move to the next.
    """

    write_to_multiply: int
    multiply_to_move: int
    move_to_softmax: int
    softmax_to_move: int
    interval: int
    spacing: float


class Room(NamedTuple):
    """Where `weave` works.

    Attributes:
        turns: (6, turns + `SPARE`) what turns are.
        phases: (5, phases + `SPARE`) what phases are.
        units: (3, units + `SPARE`) what units are.
        fill_places: (events to be filled,) where the first fill of each stands.
        move_places: (2, units) where the first move would stand, and where the last one has to.
        softmax_places: (softmaxes,) where each stands.
    """

    turns: I64
    phases: I64
    units: I64
    fill_places: F64
    move_places: F64
    softmax_places: F64


class Steps(NamedTuple):
    """Columns of `attacc.pim.program.program.Program`, to be written.

    Attributes:
        kinds: (steps,).
        addresses: (steps,).
        waits: (steps,).
        signals: (steps, 3).
        delays: (steps, 3).
    """

    kinds: U8
    addresses: I64
    waits: I32
    signals: I32
    delays: I32


@kernel
def count(
    lengths: I64, queries: int, passes: int, sequence_parts: int, keys_per_move: int,
    elements: int, columns: int, part_words: int, query_places: int, probability_places: int,
    score_moves: int, context_moves: int,
) -> tuple[int, int, int, int, int, int]:  # fmt: skip
    """Return how many steps, events to be filled, units, phases, turns and softmaxes there are.

    The arguments are those of `weave`, lists replaced by their lengths.
    """
    steps = 0
    units = 0
    phases = 0
    for length in lengths:
        keys = -(-length // sequence_parts)
        groups = -(-keys // keys_per_move)
        words = -(-length // (sequence_parts * elements))
        parts = -(-words // part_words)
        phases += passes * (1 + parts)
        units += passes * (groups + parts * columns)
        steps += 2 * passes * keys * columns
        steps += queries * (columns * query_places + words * probability_places + 1)
        steps += queries * (groups * score_moves + parts * columns * context_moves)
    turns = passes * len(lengths)
    softmaxes = queries * len(lengths)
    return steps, phases + softmaxes - turns, units, phases, turns, softmaxes


@kernel
def take_turns(
    lengths: I64, queries: int, passes: int, words_per_key: int, part_words: int, turns: I64
) -> int:
    """Write all turns, and the softmaxes before each; return how many turns there are.

    Two chunks take turns until their passes are done.
    """
    at = 0
    softmax = 0
    for first in range(0, len(lengths), 2):
        for which in range(passes):
            for chunk in range(first, min(first + 2, len(lengths))):
                words = -(-lengths[chunk] // words_per_key)
                turns[TURN_CHUNK, at] = chunk
                turns[TURN_QUERIES, at] = queries // passes + (which < queries % passes)
                turns[TURN_WORDS, at] = words
                turns[TURN_PARTS, at] = -(-words // part_words)
                turns[TURN_SOFTMAX, at] = softmax
                softmax += turns[TURN_QUERIES, at]
                at += 1
    turns[TURN_SOFTMAX, at] = softmax
    return at


@kernel
def order_phases(count: int, part_words: int, columns: int, turns: I64, phases: I64) -> int:
    """Write the phases of all turns in order, without their units; return how many there are.

    The context of a turn comes after the score of the next one.
    """
    at = 0
    for turn in range(count + 1):
        if turn < count:
            phases[PHASE_TURN, at] = turn
            phases[PHASE_PART, at] = -1
            phases[PHASE_WORDS, at] = columns
            at += 1
        before = turn - 1
        if before >= 0:
            turns[TURN_CONTEXT, before] = at
            for part in range(turns[TURN_PARTS, before]):
                phases[PHASE_TURN, at] = before
                phases[PHASE_PART, at] = part
                left = turns[TURN_WORDS, before] - part * part_words
                phases[PHASE_WORDS, at] = min(part_words, left)
                at += 1
    return at


@kernel
def cut_units(
    count: int, lengths: I64, sequence_parts: int, keys_per_move: int, elements: int,
    columns: int, part_words: int, strides: I64, turns: I64, phases: I64, units: I64,
) -> int:  # fmt: skip
    """Write the units of all phases; return how many multiplies they have."""
    unit = 0
    total = 0
    for k in range(count):
        phases[PHASE_UNIT, k] = unit
        chunk = turns[TURN_CHUNK, phases[PHASE_TURN, k]]
        keys = -(-lengths[chunk] // sequence_parts)
        part = phases[PHASE_PART, k]
        if part < 0:
            size = keys_per_move * columns
            for x in range(0, keys * columns, size):
                units[UNIT_BEGIN, unit] = total
                units[UNIT_X, unit] = x
                units[UNIT_PHASE, unit] = k
                unit += 1
                total += int(min(size, keys * columns - x))
        else:
            first = part * part_words * elements
            size = int(min(part_words * elements, keys - first))
            for output in range(columns):
                units[UNIT_BEGIN, unit] = total
                units[UNIT_X, unit] = output * strides[chunk] + first
                units[UNIT_PHASE, unit] = k
                unit += 1
                total += size
    phases[PHASE_UNIT, count] = unit
    for i in range(SPARE):
        units[UNIT_BEGIN, unit + i] = total
    return total


@kernel
def suggest_places(
    total: int, busy: I64, multiply_to_move: int, move_to_softmax: int, softmax_to_move: int,
    interval: int, spacing: float, probability_places: int, score_moves: int, context_moves: int,
    all_phases: int, all_units: int, turns: I64, phases: I64, units: I64, fill_places: F64,
    move_places: F64, softmax_places: F64,
) -> None:  # fmt: skip
    """Write where the latencies suggest that all but the multiplies should stand.

    Args:
        total: multiplies.
        busy: as for `weave`, up to ``spacing``.
        multiply_to_move: likewise.
        move_to_softmax: likewise.
        softmax_to_move: likewise.
        interval: likewise.
        spacing: likewise.
        probability_places: how many of these there are; likewise the following two.
        score_moves: of a unit and query.
        context_moves: of a unit and query.
        all_phases: of the channel.
        all_units: of the channel.
        turns: as written by `take_turns`.
        phases: as written by `order_phases`.
        units: as written by `cut_units`.
        fill_places: output: where the first fill that waits for an event stands.
        move_places: (2, units) output: where the first move of a unit would stand, and where the
            last one has to.
        softmax_places: output: where each softmax stands.
    """
    last_move = 0.0
    for k in range(all_phases):
        turn, part = phases[PHASE_TURN, k], phases[PHASE_PART, k]
        chunk, queries = turns[TURN_CHUNK, turn], turns[TURN_QUERIES, turn]
        at = phases[PHASE_FILL, k]
        # The half of the buffer is free when the phase before the previous one has ended.
        fill_places[at] = units[UNIT_BEGIN, phases[PHASE_UNIT, k - 1]] if k else 0
        if part == 0:
            for i in range(queries):
                ready = softmax_places[turns[TURN_SOFTMAX, turn] + i]
                ready += (busy[chunk] + softmax_to_move) / interval
                if i:
                    taken = spacing * (phases[PHASE_WORDS, k] * probability_places)
                    fill_places[at + i] = fill_places[at + i - 1] + taken
                fill_places[at + i] = max(ready, fill_places[at + i])
        latest = float(total + all_units)
        moves = queries * context_moves
        if part < 0:
            latest = float(units[UNIT_BEGIN, phases[PHASE_UNIT, turns[TURN_CONTEXT, turn]]])
            moves = queries * score_moves
        for unit in range(phases[PHASE_UNIT, k], phases[PHASE_UNIT, k + 1]):
            ready = max(units[UNIT_BEGIN, unit + 1] + multiply_to_move / interval, last_move)
            move_places[0, unit] = ready
            move_places[1, unit] = latest
            if unit + 2 < all_units:
                move_places[1, unit] = min(float(units[UNIT_BEGIN, unit + 2]), latest)
            last_move = min(ready + spacing * (moves - 1), move_places[1, unit])
        if part < 0:
            ready = last_move + move_to_softmax / interval
            for i in range(turns[TURN_SOFTMAX, turn], turns[TURN_SOFTMAX, turn + 1]):
                softmax_places[i] = min(ready, latest)
                ready = softmax_places[i] + busy[chunk] / interval


@kernel
def weave(
    chunks: Chunks,
    shape: Shape,
    sites: Sites,
    times: Times,
    multiply: int,
    room: Room,
    steps: Steps,
) -> int:
    """Write all steps of a channel.

    Args:
        chunks: the chunks.
        shape: what they have in common.
        sites: addresses.
        times: latencies.
        multiply: kind of the multiplies.
        room: where to work.
        steps: the steps, written.

    Returns:
        The number of steps.
    """
    # They come as plain tuples (`attacc.compiled.plain`).
    chunks, shape, sites, times = Chunks(*chunks), Shape(*shape), Sites(*sites), Times(*times)
    room, steps = Room(*room), Steps(*steps)
    kinds, addresses, waits, signals, delays = steps
    turns, phases, units, fill_places, move_places, softmax_places = room
    keys, values, busy = chunks.keys, chunks.values, chunks.busy
    write_to_multiply, multiply_to_move = times.write_to_multiply, times.multiply_to_move
    move_to_softmax, softmax_to_move = times.move_to_softmax, times.softmax_to_move
    spacing = times.spacing
    multiplies, query_places, probability_places, score_moves, context_moves = sites
    all_turns = take_turns(
        chunks.lengths,
        shape.queries,
        shape.passes,
        shape.sequence_parts * shape.elements,
        shape.part_words,
        turns,
    )
    all_phases = order_phases(all_turns, shape.part_words, shape.columns, turns, phases)
    total = cut_units(
        all_phases,
        chunks.lengths,
        shape.sequence_parts,
        shape.keys_per_move,
        shape.elements,
        shape.columns,
        shape.part_words,
        chunks.strides,
        turns,
        phases,
        units,
    )
    all_units = phases[PHASE_UNIT, all_phases]
    softmaxes = turns[TURN_SOFTMAX, all_turns]

    fills = 0
    for k in range(all_phases):
        phases[PHASE_FILL, k] = fills
        returns = phases[PHASE_PART, k] == 0
        fills += turns[TURN_QUERIES, phases[PHASE_TURN, k]] if returns else 1

    suggest_places(
        total,
        busy,
        multiply_to_move,
        move_to_softmax,
        softmax_to_move,
        times.interval,
        spacing,
        len(probability_places),
        len(score_moves),
        len(context_moves),
        all_phases,
        all_units,
        turns,
        phases,
        units,
        fill_places,
        move_places,
        softmax_places,
    )

    # The next move, softmax and fill, and where they stand.
    step = 0
    unit = 0  # of the next multiply
    n = 0  # the next multiply
    move_unit = 0
    move_query = 0
    move_which = 0  # of the places
    moved = 0  # of the unit
    move_at = min(move_places[0, 0], move_places[1, 0])
    softmax = 0
    softmax_turn = 0
    softmax_at = softmax_places[0]
    fill_phase = 0
    fill_event = 0
    fill_query = 0
    fill_which = 0  # of the places
    fill_word = 0
    filled = 0  # since the event
    fill_at = 0.0
    none = np.inf
    while True:
        place = min(move_at, softmax_at, fill_at)
        while n < total and n < place:
            end = units[UNIT_BEGIN, unit + 1]
            if place < end:
                end = math.ceil(place)
            k = units[UNIT_PHASE, unit]
            chunk = turns[TURN_CHUNK, phases[PHASE_TURN, k]]
            base = keys[chunk] if phases[PHASE_PART, k] < 0 else values[chunk]
            x = units[UNIT_X, unit] + n - units[UNIT_BEGIN, unit]
            wait, ended = BEGUN + EVENTS_APART * unit, DONE + EVENTS_APART * unit
            refill = FILL + EVENTS_APART * phases[PHASE_FILL, k + 2] if k + 2 < all_phases else 0
            for i in range(end - n):
                at = step + i
                kinds[at] = multiply
                addresses[at] = base + multiplies[x + i]
                waits[at] = wait
                signals[at, 0] = ended
                signals[at, 1] = refill
                signals[at, 2] = 0
                delays[at, 0] = multiply_to_move
                delays[at, 1] = multiply_to_move
                delays[at, 2] = 0
            step += end - n
            n = end
            if n == units[UNIT_BEGIN, unit + 1]:
                unit += 1
        if place == none:
            break
        if move_at == place:
            k = units[UNIT_PHASE, move_unit]
            turn = phases[PHASE_TURN, k]
            chunk = turns[TURN_CHUNK, turn]
            of_scores = phases[PHASE_PART, k] < 0
            addresses_of = score_moves if of_scores else context_moves
            kinds[step] = MVSB
            base = keys[chunk] if of_scores else values[chunk]
            addresses[step] = base + addresses_of[move_which]
            done = DONE + EVENTS_APART * move_unit
            free = BEGUN + EVENTS_APART * (move_unit + 2)
            waits[step] = done
            signals[step, 0] = free if move_unit + 2 < all_units else 0
            signals[step, 1] = done + EVENTS_APART if move_unit + 1 < all_units else 0
            scored = SCORED + EVENTS_APART * turns[TURN_SOFTMAX, turn]
            signals[step, 2] = scored if of_scores else 0
            delays[step, 0] = 1
            delays[step, 1] = 0
            delays[step, 2] = move_to_softmax
            moved += 1
            move_which += 1
            if move_which == len(addresses_of):
                move_which = 0
                move_query += 1
            if move_query == turns[TURN_QUERIES, turn]:
                move_query = 0
                moved = 0
                move_unit += 1
            move_at = none
            if move_unit < all_units:
                move_at = min(
                    move_places[0, move_unit] + spacing * moved,
                    move_places[1, move_unit],
                )
        elif softmax_at == place:
            chunk = turns[TURN_CHUNK, softmax_turn]
            query = softmax - turns[TURN_SOFTMAX, softmax_turn]
            kinds[step] = SFM
            addresses[step] = keys[chunk]
            scored = SCORED + EVENTS_APART * softmax
            filling = phases[PHASE_FILL, turns[TURN_CONTEXT, softmax_turn]] + query
            waits[step] = scored
            signals[step, 0] = FILL + EVENTS_APART * filling
            signals[step, 1] = scored + EVENTS_APART if softmax + 1 < softmaxes else 0
            signals[step, 2] = 0
            delays[step, 0] = busy[chunk] + softmax_to_move
            delays[step, 1] = busy[chunk]
            delays[step, 2] = 0
            softmax += 1
            softmax_at = none
            if softmax < softmaxes:
                softmax_at = softmax_places[softmax]
                if softmax == turns[TURN_SOFTMAX, softmax_turn + 1]:
                    softmax_turn += 1
        else:
            turn, part = phases[PHASE_TURN, fill_phase], phases[PHASE_PART, fill_phase]
            chunk, of_pass = turns[TURN_CHUNK, turn], turns[TURN_QUERIES, turn]
            words = phases[PHASE_WORDS, fill_phase]
            if part < 0:
                kinds[step] = WRGB
                places = len(query_places)
                slot = fill_query * words + fill_word
                addresses[step] = keys[chunk] + query_places[fill_which] + slot
            else:
                kinds[step] = MVGB
                places = len(probability_places)
                slot = part * shape.buffer_words + fill_query * words + fill_word
                addresses[step] = values[chunk] + probability_places[fill_which] + slot
            waits[step] = FILL + EVENTS_APART * fill_event
            # All units of a phase use what fills the buffer. Those after the second wait for the
            # moves of others that do.
            first = phases[PHASE_UNIT, fill_phase]
            signals[step, 0] = BEGUN + EVENTS_APART * first
            delays[step, 0] = write_to_multiply
            delays[step, 1] = 0
            delays[step, 2] = 0
            which = 1
            if first + 1 < phases[PHASE_UNIT, fill_phase + 1]:
                signals[step, 1] = BEGUN + EVENTS_APART * (first + 1)
                delays[step, 1] = write_to_multiply
                which = 2
            # The probabilities of the next query, or of the next part.
            follower = 0
            if part == 0 and fill_query + 1 < of_pass:
                follower = FILL + EVENTS_APART * (fill_event + 1)
            elif part >= 0 and fill_query + 1 == of_pass and part + 1 < turns[TURN_PARTS, turn]:
                follower = FILL + EVENTS_APART * phases[PHASE_FILL, fill_phase + 1]
            signals[step, which] = follower
            if which == 1:
                signals[step, 2] = 0
            filled += 1
            fill_word += 1
            if fill_word == words:
                fill_word = 0
                fill_which += 1
            if fill_which == places:
                fill_which = 0
                fill_query += 1
                if fill_query == of_pass or part == 0:
                    fill_event += 1
                    filled = 0
            if fill_query == of_pass:
                fill_query = 0
                fill_phase += 1
            fill_at = none
            if fill_phase < all_phases:
                latest = units[UNIT_BEGIN, phases[PHASE_UNIT, fill_phase]]
                fill_at = min(fill_places[fill_event] + spacing * filled, float(latest))
        step += 1
    return step
