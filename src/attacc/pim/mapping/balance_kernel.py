"""Compiled kernels that deal chunks out to bins and even the bins out; see `balance`.

The naive twin is in the tests' oracle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import inlined, kernel

I64 = npt.NDArray[np.int64]

GIVER, TAKER, KEYS = range(3)
"""Columns of a move. Its keys come from the end of the giver's last chunk."""

HEAD, START, LENGTH, BIN = range(4)
"""Rows of the chunks' array; BIN is the bin to which a chunk goes."""


@kernel
def deal(count: int, chunks: I64, overhead: int, loads: I64, last: I64) -> int:
    """Give each chunk to the least loaded bin; of equal ones, to the first.

    Args:
        count: number of chunks.
        chunks: (4, room) heads, first keys and numbers of keys of the chunks, in the order in which
            they are dealt out; receives the bins.
        overhead: what a chunk counts for in addition to its keys.
        loads: (bins,) zeros; receives the load of each bin.
        last: (bins,) receives the last chunk of those bins that have one.

    Returns:
        The largest load.
    """
    largest = 0
    for chunk in range(count):
        least = 0
        for which in range(1, len(loads)):
            if loads[which] < loads[least]:
                least = which
        chunks[BIN, chunk] = least
        loads[least] += chunks[LENGTH, chunk] + overhead
        last[least] = chunk
        largest = max(largest, loads[least])
    return int(largest)


@inlined
def shed(
    chunks: I64, loads: I64, last: I64, emptiest: I64, level: int, grain: int, overhead: int,
    moves: I64,
) -> int:  # fmt: skip
    """Write which keys have to move so that no bin's load exceeds a level.

    Keys are taken from the end of a bin's last chunk; without this chunk the bin would be below
    the mean. The keys go to the ``emptiest`` bins first.

    Returns:
        The number of moves; 0 if no moves reach the level.
    """
    count = 0
    place = 0
    taker = emptiest[0]
    room = level - loads[taker]
    for giver in range(len(loads)):
        if loads[giver] <= level:
            continue
        length = chunks[LENGTH, last[giver]]
        left = length - max(0, length - (loads[giver] - level)) // grain * grain
        while left > 0:
            # All the keys that are left, or so many that whole grains remain.
            piece = left - max(0, -((room - left - overhead) // grain)) * grain
            if piece > 0:
                moves[count, GIVER] = giver
                moves[count, TAKER] = taker
                moves[count, KEYS] = piece
                count += 1
                left -= piece
                room -= piece + overhead
                continue
            place += 1
            if place == len(emptiest):
                return 0
            taker = emptiest[place]
            room = level - loads[taker]
            if room <= 0:
                return 0
    return count


@kernel
def even_out(
    count: int, chunks: I64, loads: I64, last: I64, emptiest: I64, low: int, high: int,
    grain: int, overhead: int, moves: I64,
) -> int:  # fmt: skip
    """Cut the last chunks of bins that are too full, and share them out, if all finish sooner.

    If a level can be reached, every higher level can be reached, too. So bisection finds the lowest
    level, to within an eighth of a grain.

    Args:
        count: number of chunks.
        chunks: (4, count + 2 bins) as `deal` leaves them; receives the parts that move.
        loads: (bins,) load of each bin.
        last: (bins,) last chunk of each bin.
        emptiest: (bins,) all bins, the least loaded first.
        low: lowest level to be tried.
        high: highest level to be tried.
        grain: cuts fall on its multiples.
        overhead: what a part counts for in addition to its keys.
        moves: (2 bins, 3) working space.

    Returns:
        The number of chunks after the cuts.
    """
    lowest = -1
    while low <= high - grain // 8:
        level = (low + high) // 2
        if shed(chunks, loads, last, emptiest, level, grain, overhead, moves) > 0:
            lowest = level
            high = level - 1
        else:
            low = level + 1
    found = 0
    if lowest >= 0:
        found = shed(chunks, loads, last, emptiest, lowest, grain, overhead, moves)
    for move in range(found):
        chunk = last[moves[move, GIVER]]
        left = chunks[LENGTH, chunk] - moves[move, KEYS]
        part = chunk
        if left > 0:
            part = count
            count += 1
            chunks[HEAD, part] = chunks[HEAD, chunk]
            chunks[START, part] = chunks[START, chunk] + left
            chunks[LENGTH, part] = moves[move, KEYS]
            chunks[LENGTH, chunk] = left
        chunks[BIN, part] = moves[move, TAKER]
    return count


@inlined
def comes_first(chunks: I64, one: int, other: int) -> bool:
    """Return whether a chunk goes before another: the longer one; of equal ones, earlier keys."""
    if chunks[LENGTH, one] != chunks[LENGTH, other]:
        return chunks[LENGTH, one] > chunks[LENGTH, other]
    if chunks[HEAD, one] != chunks[HEAD, other]:
        return chunks[HEAD, one] < chunks[HEAD, other]
    return chunks[START, one] < chunks[START, other]


@kernel
def lay_out(count: int, chunks: I64, bounds: I64, ends: I64, order: I64) -> int:
    """Write the chunks of every bin, one bin after the other, in each bin the longest first.

    Args:
        count: number of chunks.
        chunks: (4, room) the chunks with their bins.
        bounds: (bins + 1,) zeros; receives where each bin begins, and the end of the last bin.
        ends: (bins,) working space.
        order: (count,) receives the numbers of the chunks.

    Returns:
        The number of chunks.
    """
    for chunk in range(count):
        bounds[chunks[BIN, chunk] + 1] += 1
    for which in range(len(ends)):
        bounds[which + 1] += bounds[which]
        ends[which] = bounds[which]
    for chunk in range(count):
        which = chunks[BIN, chunk]
        at = ends[which]
        ends[which] += 1
        while at > bounds[which] and comes_first(chunks, chunk, int(order[at - 1])):
            order[at] = order[at - 1]
            at -= 1
        order[at] = chunk
    return count
