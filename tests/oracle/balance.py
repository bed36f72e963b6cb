"""Chunks dealt out to bins with lists and a heap: what the compiled dealer must do.

Slow on purpose; see `attacc.pim.mapping.balance` for what it means.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace

from attacc.pim.mapping.balance import Chunk


def deal(
    lengths: Sequence[int], bins: int, limit: int, grain: int, *, overhead: int
) -> tuple[tuple[Chunk, ...], ...]:
    """Deal heads, cut to a limit, out to bins: longest first, then evened out.

    Args:
        lengths: keys of every head.
        bins: how many there are.
        limit: keys that a chunk may have at most.
        grain: where cuts fall.
        overhead: what a chunk counts for in addition to its keys.
    """
    chunks: list[tuple[int, int, int]] = []  # so that they sort: -length, head, start
    for head, length in enumerate(lengths):
        if length <= limit:
            chunks.append((-length, head, 0))
            continue
        pieces = -(-length // limit)
        size = min(limit, -(-length // (pieces * grain)) * grain)
        chunks += [(-min(size, length - at), head, at) for at in range(0, length, size)]
    chunks.sort()
    loads = [0] * bins
    dealt: list[list[Chunk]] = [[] for _ in range(bins)]
    heap = [(0, which) for which in range(bins)]
    heapify(heap)
    for negative, head, start in chunks:
        load, which = heap[0]
        dealt[which].append(Chunk(head, start, -negative))
        heapreplace(heap, (load - negative + overhead, which))
    for load, which in heap:
        loads[which] = load
    even_out(dealt, loads, grain, grain // 4)
    # Those that do the same become neighbours.
    dealt.sort(key=lambda one: [length for _, _, length in one], reverse=True)
    return tuple(map(tuple, dealt))


def even_out(dealt: list[list[Chunk]], loads: Sequence[int], grain: int, overhead: int) -> None:
    """Cut the last chunk of bins that are too full, and share it out, if all are done sooner.

    Args:
        dealt: chunks of every bin, changed in place.
        loads: what these count for.
        grain: where cuts fall.
        overhead: what a part counts for in addition to its keys.
    """
    low, high = -(-sum(loads) // len(loads)), max(loads) - max(1, overhead)
    moves: list[tuple[int, int, int]] = []
    emptiest = sorted(range(len(loads)), key=loads.__getitem__)
    last = [own[-1].length if own else 0 for own in dealt]
    # What is shed at one level can be shed at any higher one: find the lowest, to within little.
    while low <= high - grain // 8:
        level = (low + high) // 2
        found = shed(last, loads, emptiest, level, grain, overhead)
        if found:
            moves, high = found, level - 1
        else:
            low = level + 1
    changed: set[int] = set()
    for giver, taker, length in moves:
        head, start, whole = dealt[giver].pop()
        if length < whole:
            dealt[giver].append(Chunk(head, start, whole - length))
        dealt[taker].append(Chunk(head, start + whole - length, length))
        changed |= {giver, taker}
    for which in changed:
        dealt[which].sort(key=lambda chunk: (-chunk.length, chunk.head, chunk.start))


def shed(
    last: Sequence[int],
    loads: Sequence[int],
    emptiest: Sequence[int],
    level: int,
    grain: int,
    overhead: int,
) -> list[tuple[int, int, int]]:
    """Return which keys have to move so that no bin exceeds a level: (from, to, keys).

    Keys are taken from the end of a bin's ``last`` chunk, without which it would be below the mean.
    There are none if that does not work out. What moves goes to the ``emptiest`` bins first.
    """
    takers = iter(emptiest)
    taker = next(takers)
    room = level - loads[taker]
    moves: list[tuple[int, int, int]] = []
    for giver, load in enumerate(loads):
        if load <= level:
            continue
        length = last[giver]
        left = length - max(0, length - (load - level)) // grain * grain
        while left > 0:
            # All of it, or what leaves whole grains.
            piece = left - max(0, -(-(left + overhead - room) // grain)) * grain
            if piece > 0:
                moves.append((giver, taker, piece))
                left -= piece
                room -= piece + overhead
                continue
            taker = next(takers, giver)
            room = level - loads[taker]
            if room <= 0:
                return []
    return moves
