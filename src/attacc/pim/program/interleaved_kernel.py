"""Compiled code that writes the steps of a channel's interleaved attention in their order.

`attacc.pim.program.interleaved` describes the steps and their dependences. The tests' oracle has a
naive twin of this module. Multiplies have the places 0, 1, 2, ... All other steps have a place
among the multiplies. They come in three sequences, whose places never decrease: moves, softmaxes
and fills. So nothing has to be sorted. The next step is the one with the least place among the next
move, softmax, fill and multiply. At the same place the order is move, softmax, fill, multiply.
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
"""Fields of a turn. A turn is one pass over one chunk.

Its chunk; queries of the pass; accesses of probabilities for each query; parts of the context;
phase of the first part; first softmax.
"""

PHASE_TURN, PHASE_PART, PHASE_UNIT, PHASE_FILL, PHASE_WORDS = range(5)
"""Fields of a phase. A phase is the score of a turn for one slice of its keys, or a part of its
context.

Its turn; part of the context, or -1 - s for the score of slice s of the keys; first unit; number of
the first event that lets the phase's buffer be filled; accesses that fill the buffer for each
query.
"""

UNIT_BEGIN, UNIT_X, UNIT_PHASE = range(3)
"""Fields of a unit of multiplies: its first multiply in the channel and in the chunk; its phase."""

EVENTS_APART = 4
BEGUN, DONE, FILL, SCORED = range(1, EVENTS_APART + 1)
"""The first event of each kind.

- BEGUN, for each unit: its buffer is filled, and it may begin.
- DONE, for each unit: it has multiplied.
- FILL, for each phase: its buffer may be filled. A phase that waits for softmaxes has one event for
  each query.
- SCORED, for each turn and query: the scores are complete.

The next event of a kind has a number that is `EVENTS_APART` higher. So channels whose programs
begin alike have equal numbers there.
"""

SPARE = 3
"""Additional places after the last turn, phase and unit, so that a next one can always be read."""


class Shape(NamedTuple):
    """Sizes that all chunks of a channel have in common.

    Attributes:
        queries: queries that share each chunk.
        passes: how often a chunk is read for its queries.
        sequence_parts: parts of the sequence that lie side by side.
        keys_per_move: keys of each part whose scores move together.
        elements: elements of an access.
        key_slices: slices of elements into which keys are cut.
        columns: multiplies per slice of a key of each part.
        outputs: output slices.
        part_words: accesses of probabilities that each query has in half a vector buffer.
        buffer_words: accesses of half a vector buffer.
        together: output slices whose accesses lie side by side, value by value.
        apart: keys of each part from one key that is read to the next.
    """

    queries: int
    passes: int
    sequence_parts: int
    keys_per_move: int
    elements: int
    key_slices: int
    columns: int
    outputs: int
    part_words: int
    buffer_words: int
    together: int
    apart: int


class Chunks(NamedTuple):
    """The chunks of a channel.

    Attributes:
        lengths: (chunks,) keys of each chunk.
        keys: (chunks,) address at which the keys of each chunk begin.
        values: (chunks,) address at which the values of each chunk begin.
        busy: (chunks,) cycles that the softmax of one query takes.
        strides: (chunks,) keys of each part for which a slice of the keys, and an output slice of
            the values, has room.
        rotations: (chunks,) key of each part with which reading begins; it goes around.
    """

    lengths: I64
    keys: I64
    values: I64
    busy: I64
    strides: I64
    rotations: I64


class Sites(NamedTuple):
    """Addresses relative to the beginning of a chunk's keys or values.

    Attributes:
        multiplies: addresses of the multiplies of the chunk with most room.
        query_places: addresses of the GEMV units that get different parts of a query.
        probability_places: addresses of the GEMV units that get different probabilities.
        score_moves: addresses of the moves of one unit's scores.
        context_moves: addresses of the moves of one output slice.
    """

    multiplies: I64
    query_places: I64
    probability_places: I64
    score_moves: I64
    context_moves: I64


class Times(NamedTuple):
    """Latencies in cycles, as in `attacc.hardware.dram.Pipeline`.

    Attributes:
        write_to_multiply: cycles from a write of a buffer to a multiply that uses it.
        multiply_to_move: cycles from a multiply to the move of its sum.
        move_to_softmax: cycles from a move of scores to their softmax.
        softmax_to_move: cycles from a softmax to the move of its probabilities.
        interval: cycles from one multiply to the next.
        spacing: number of multiplies from one move to the next.
    """

    write_to_multiply: int
    multiply_to_move: int
    move_to_softmax: int
    softmax_to_move: int
    interval: int
    spacing: float


class Room(NamedTuple):
    """Working arrays of `weave`.

    Attributes:
        turns: (6, turns + `SPARE`) fields of the turns.
        phases: (5, phases + `SPARE`) fields of the phases.
        units: (3, units + `SPARE`) fields of the units.
        fill_places: (FILL events,) place of the first fill that waits for each event.
        move_places: (2, units) place suggested for the first move of each unit, and latest place of
            its last move.
        softmax_places: (softmaxes,) place of each softmax.
    """

    turns: I64
    phases: I64
    units: I64
    fill_places: F64
    move_places: F64
    softmax_places: F64


class Steps(NamedTuple):
    """Arrays for the columns of `attacc.pim.program.program.Program`, which `weave` writes.

    Attributes:
        kinds: (steps,) kind of each request.
        addresses: (steps,) address of each request.
        waits: (steps,) event that each request waits for.
        signals: (steps, 3) events that each request signals.
        delays: (steps, 3) delay of each signal in cycles.
    """

    kinds: U8
    addresses: I64
    waits: I32
    signals: I32
    delays: I32


@kernel
def count(
    lengths: I64, queries: int, passes: int, sequence_parts: int, keys_per_move: int,
    elements: int, key_slices: int, columns: int, outputs: int, part_words: int,
    query_places: int, probability_places: int, score_moves: int, context_moves: int,
) -> tuple[int, int, int, int, int, int]:  # fmt: skip
    """Return the numbers of steps, FILL events, units, phases, turns and softmaxes.

    The arguments are those of `weave`, with lengths in place of lists.
    """
    steps = 0
    units = 0
    phases = 0
    for length in lengths:
        keys = -(-length // sequence_parts)
        groups = -(-keys // keys_per_move)
        words = -(-length // (sequence_parts * elements))
        parts = -(-words // part_words)
        phases += passes * (key_slices + parts)
        units += passes * (key_slices * groups + parts * outputs)
        steps += passes * keys * (key_slices * columns + outputs)
        steps += queries * (key_slices * columns * query_places + words * probability_places + 1)
        steps += queries * (key_slices * groups * score_moves + parts * outputs * context_moves)
    turns = passes * len(lengths)
    softmaxes = queries * len(lengths)
    return steps, phases + softmaxes - turns, units, phases, turns, softmaxes


@kernel
def take_turns(
    lengths: I64, queries: int, passes: int, words_per_key: int, part_words: int, turns: I64
) -> int:
    """Write all turns with the number of softmaxes before each, and return the number of turns.

    Two chunks alternate until all their passes are done.
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
def order_phases(
    count: int, part_words: int, key_slices: int, columns: int, turns: I64, phases: I64
) -> int:
    """Write the phases of all turns in order, without their units, and return their number.

    The context of a turn comes after the score of the next turn.
    """
    at = 0
    for turn in range(count + 1):
        if turn < count:
            for key_slice in range(key_slices):
                phases[PHASE_TURN, at] = turn
                phases[PHASE_PART, at] = -1 - key_slice
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
    columns: int, outputs: int, part_words: int, strides: I64, turns: I64, phases: I64, units: I64,
) -> int:  # fmt: skip
    """Write the units of all phases, and return the number of their multiplies."""
    unit = 0
    total = 0
    for k in range(count):
        phases[PHASE_UNIT, k] = unit
        chunk = turns[TURN_CHUNK, phases[PHASE_TURN, k]]
        keys = -(-lengths[chunk] // sequence_parts)
        part = phases[PHASE_PART, k]
        if part < 0:
            size = keys_per_move * columns
            away = (-1 - part) * strides[chunk] * columns
            for x in range(0, keys * columns, size):
                units[UNIT_BEGIN, unit] = total
                units[UNIT_X, unit] = away + x
                units[UNIT_PHASE, unit] = k
                unit += 1
                total += int(min(size, keys * columns - x))
        else:
            first = part * part_words * elements
            size = int(min(part_words * elements, keys - first))
            for output in range(outputs):
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
    interval: int, spacing: float, key_slices: int, probability_places: int, score_moves: int,
    context_moves: int, all_phases: int, all_units: int, turns: I64, phases: I64, units: I64,
    fill_places: F64, move_places: F64, softmax_places: F64,
) -> None:  # fmt: skip
    """Write the places that the latencies suggest for moves, softmaxes and fills.

    Args:
        total: number of multiplies.
        busy: (chunks,) cycles that the softmax of one query takes.
        multiply_to_move: latency, as in `Times`.
        move_to_softmax: latency, as in `Times`.
        softmax_to_move: latency, as in `Times`.
        interval: latency, as in `Times`.
        spacing: multiplies from one move to the next.
        key_slices: slices of elements into which keys are cut.
        probability_places: number of GEMV units that get different probabilities.
        score_moves: number of moves of the scores of a unit and query.
        context_moves: number of moves of the context of a unit and query.
        all_phases: number of phases of the channel.
        all_units: number of units of the channel.
        turns: fields of the turns, as `take_turns` writes them.
        phases: fields of the phases, as `order_phases` writes them.
        units: fields of the units, as `cut_units` writes them.
        fill_places: (FILL events,) output: place of the first fill that waits for each event.
        move_places: (2, units) output: place suggested for the first move of each unit, and latest
            place of its last move.
        softmax_places: (softmaxes,) output: place of each softmax.
    """
    last_move = 0.0
    for k in range(all_phases):
        turn, part = phases[PHASE_TURN, k], phases[PHASE_PART, k]
        chunk, queries = turns[TURN_CHUNK, turn], turns[TURN_QUERIES, turn]
        at = phases[PHASE_FILL, k]
        # A half of the buffer is free when the phase two phases earlier has ended.
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
        if part == -key_slices:
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
        shape: sizes that the chunks have in common.
        sites: addresses.
        times: latencies.
        multiply: kind of the multiplies.
        room: working arrays.
        steps: arrays that the function writes the steps to.

    Returns:
        The number of steps.
    """
    # The arguments come as plain tuples (`attacc.compiled.plain`).
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
    all_phases = order_phases(
        all_turns, shape.part_words, shape.key_slices, shape.columns, turns, phases
    )
    total = cut_units(
        all_phases,
        chunks.lengths,
        shape.sequence_parts,
        shape.keys_per_move,
        shape.elements,
        shape.columns,
        shape.outputs,
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
        shape.key_slices,
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

    # State of the next multiply, move, softmax and fill, and the places of the last three.
    step = 0
    unit = 0  # unit of the next multiply
    n = 0  # number of the next multiply
    move_unit = 0
    move_query = 0
    move_which = 0  # index among the addresses of moves
    moved = 0  # moves of the unit so far
    move_at = min(move_places[0, 0], move_places[1, 0])
    softmax = 0
    softmax_turn = 0
    softmax_at = softmax_places[0]
    fill_phase = 0
    fill_event = 0
    fill_query = 0
    fill_which = 0  # index among the addresses of fills
    fill_word = 0
    filled = 0  # fills since the event
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
            # Slices are as far apart as there is room. Within each, reading goes around.
            each = shape.columns if phases[PHASE_PART, k] < 0 else 1
            span = -(-chunks.lengths[chunk] // shape.sequence_parts) * each
            output = x // (chunks.strides[chunk] * each)
            origin = output * chunks.strides[chunk] * each
            x += chunks.rotations[chunk] * each
            # Output slices that lie side by side alternate, value by value.
            step_by, begin = 1, 0
            if phases[PHASE_PART, k] >= 0 and shape.together > 1:
                step_by = shape.together
                begin = output // step_by * step_by * chunks.strides[chunk] + output % step_by
                begin -= origin * step_by
            wait, ended = BEGUN + EVENTS_APART * unit, DONE + EVENTS_APART * unit
            refill = FILL + EVENTS_APART * phases[PHASE_FILL, k + 2] if k + 2 < all_phases else 0
            for i in range(end - n):
                at = step + i
                kinds[at] = multiply
                y = x + i if x + i < origin + span else x + i - span
                if shape.apart > 1:
                    key = (y - origin) // each
                    y += key * (shape.apart - 1) * each
                addresses[at] = base + multiplies[begin + y * step_by]
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
                slot = (-1 - part) * shape.buffer_words + fill_query * words + fill_word
                addresses[step] = keys[chunk] + query_places[fill_which] + slot
            else:
                kinds[step] = MVGB
                places = len(probability_places)
                slot = part * shape.buffer_words + fill_query * words + fill_word
                addresses[step] = values[chunk] + probability_places[fill_which] + slot
            waits[step] = FILL + EVENTS_APART * fill_event
            # All units of a phase use this buffer. The first two wait for its fills. Later units
            # wait for moves of earlier ones, and so for the fills, too.
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
            # The fills with the probabilities of the next query, or of the next part, come next.
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
