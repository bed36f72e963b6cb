"""Compiled forecast of how long channels attend to their chunks; see `dealing`.

The naive twin is in the tests' oracle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import inlined, kernel

I64 = npt.NDArray[np.int64]


PARTS, COLUMNS, ROW, BANKS, PER_BANK, INTERVAL, OPENING, OUTPUTS, TOGETHER = range(9)
"""How multiplies go through a chunk: parts of its sequence; multiplies per key of each part;
multiplies that one row of all banks serves; number of banks in turn; multiplies before the next
bank; cycles of a multiply; additional cycles where a bank has another row open; output slices;
output slices whose accesses lie side by side, value by value."""


@inlined
def openings(begin: int, end: int, last: int, going: I64) -> int:
    """Return how many banks multiplies ``begin`` to ``end`` of a chunk have to open.

    Args:
        begin: the first multiply.
        end: one past the last multiply.
        last: the row that is open.
        going: (9,) how multiplies go through the chunk.
    """
    row, each = going[ROW], going[PER_BANK]
    count = 0
    for which in range(begin // row, (end - 1) // row + 1):
        if which != last:
            first, behind = max(begin, which * row), min(end, (which + 1) * row)
            count += min(going[BANKS], (behind - 1) // each - first // each + 1)
            last = which
    return count


@kernel
def multiplying(lengths: I64, segment: int, going: I64, cycles: I64) -> None:
    """Write how long the multiplies of every chunk take, for one pass.

    Args:
        lengths: (chunks,) keys of each chunk.
        segment: keys of each part whose probabilities fit half a vector buffer.
        going: (9,) how multiplies go through a chunk.
        cycles: (2, chunks) output: of the score, and of the context.
    """
    columns = going[COLUMNS]
    for chunk in range(len(lengths)):
        if chunk and lengths[chunk] == lengths[chunk - 1]:
            cycles[0, chunk] = cycles[0, chunk - 1]
            cycles[1, chunk] = cycles[1, chunk - 1]
            continue
        keys = -(-lengths[chunk] // going[PARTS])
        busy = keys * columns * going[INTERVAL]
        cycles[0, chunk] = busy + openings(0, keys * columns, -1, going) * going[OPENING]
        busy = keys * going[OUTPUTS] * going[INTERVAL]
        opened = 0
        last = -1
        for first in range(0, keys, segment):
            size = min(segment, keys - first)
            for output in range(going[OUTPUTS]):
                together = going[TOGETHER]
                begin = (output // together * keys + first) * together
                opened += openings(begin, begin + size * together, last, going)
                last = (begin + size * together - 1) // going[ROW]
        cycles[1, chunk] = busy + opened * going[OPENING]


@kernel
def forecast(
    words: I64, bounds: I64, cycles: I64, busy: I64, queries: int, passes: int, columns: int,
    key_slices: int, outputs: int, part_words: int, moves: I64, moves_apart: int, pipeline: I64,
    done: I64,
) -> int:  # fmt: skip
    """Return how long the slowest channel takes, without refresh.

    Args:
        words: (chunks,) accesses of probabilities of each chunk, channel by channel.
        bounds: (channels + 1,) where each channel begins, and the end of the last one.
        cycles: (2, chunks) cycles of the multiplies of the score and of the context, for one pass.
        busy: (chunks,) cycles that the softmax of one query takes.
        queries: queries that share each chunk.
        passes: number of passes over each chunk.
        columns: multiplies per slice of a key of each part.
        key_slices: slices of elements into which keys are cut.
        outputs: output slices.
        part_words: accesses of probabilities that each query has in half a vector buffer.
        moves: (4,) number of fills with one access of a query, of fills with one access of
            probabilities, of moves of a unit's scores, and of moves of an output slice.
        moves_apart: cycles between two fills or moves.
        pipeline: (4,) cycles from a write to the multiply, from the multiply to the move, from the
            move to the softmax, and from the softmax to the move of probabilities.
        done: (2,) working space.
    """
    slowest = 0
    for channel in range(len(bounds) - 1):
        begin, chunks = bounds[channel], bounds[channel + 1] - bounds[channel]
        if chunks == 0:
            continue
        now = 0
        lanes = 0  # when they are free
        context = 0  # when the last one ended
        chunk = before = begin  # of this turn, and of that whose context is still to come
        served = before_queries = 0  # queries of these
        for turn in range(passes * chunks + 1):
            if turn < passes * chunks:
                # Two chunks alternate until all their passes are served.
                pair, own = turn // (2 * passes), turn % (2 * passes)
                together = min(2, chunks - 2 * pair)
                chunk = begin + 2 * pair + own % together
                served = queries // passes + (own // together < queries % passes)
                fill = served * columns * moves[0] * moves_apart
                if turn == 0:
                    now = fill + pipeline[0] + cycles[0, chunk]
                else:
                    now += max(cycles[0, chunk], key_slices * fill)
                scored = now + pipeline[1] + served * moves[2] * moves_apart + pipeline[2]
                lanes = max(lanes, scored) + served * busy[chunk]
                done[turn % 2] = lanes
            if turn > 0:
                fill = min(words[before], part_words) * moves[1] * moves_apart
                # Those of the last query return when its softmax is done, all of them when the
                # context that used their half of the buffer is.
                returned = max(
                    done[(turn - 1) % 2] + pipeline[3] + fill, context + before_queries * fill
                )
                segments = -(-words[before] // part_words)
                away = segments * before_queries * outputs * moves[3] * moves_apart
                now = max(now, returned + pipeline[0]) + max(cycles[1, before], away)
                context = now
            before, before_queries = chunk, served
        now += pipeline[1] + before_queries * moves[3] * moves_apart
        slowest = max(slowest, now)
    return int(slowest)
