"""Which channel attends to what: heads cut into chunks, and chunks dealt out to channels.

A chunk is a run of keys and values of one head that one channel attends to by itself. A head is
cut where it exceeds what the buffers of a channel hold, where a stack has fewer heads than
channels, and where that evens out the channels. The softmax of a cut head is merged exactly from
its chunks: each yields its maximum, its sum and its context, which are rescaled to the common
maximum and added.

Heads are dealt out to stacks in the same way: whole, unless a head is long for a stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import NamedTuple

from attacc.errors import InputError


class Chunk(NamedTuple):
    """A run of keys of one head.

    Attributes:
        head: which head, by its place in the list of lengths.
        start: first key.
        length: keys.
    """

    head: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """Chunks of a stack's heads, channel by channel.

    Attributes:
        channels: per channel, its chunks, longest first.
    """

    channels: tuple[tuple[Chunk, ...], ...]

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys of each channel."""
        return tuple(_keys(chunks) for chunks in self.channels)

    @property
    def imbalance(self) -> float:
        """Keys of the fullest channel over their mean: 1 is perfect."""
        keys = self.keys
        return max(keys) * len(keys) / sum(keys)


@dataclass(frozen=True, slots=True)
class StackAssignment:
    """Heads of a system, stack by stack.

    Attributes:
        stacks: per stack, its heads and parts of heads, longest first.
    """

    stacks: tuple[tuple[Chunk, ...], ...]

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys of each stack."""
        return tuple(_keys(parts) for parts in self.stacks)

    @property
    def imbalance(self) -> float:
        """Keys of the fullest stack over their mean: 1 is perfect."""
        keys = self.keys
        return max(keys) * len(keys) / sum(keys)

    def lengths(self, stack: int) -> tuple[int, ...]:
        """Return what one stack attends to, as the lengths that `assign` takes."""
        return tuple(part.length for part in self.stacks[stack])


def assign(lengths: Sequence[int], *, channels: int, longest: int, grain: int) -> Assignment:
    """Cut heads into chunks and deal these out to channels.

    The longest chunk goes to the least loaded channel, and so on. Then the last chunks of those
    channels that remain too full are cut, and shared out to the others, if all channels end up
    sooner. A chunk counts as its keys and a quarter of the grain: it opens rows of its own.

    No channel counts for more than the mean of this first deal by more than 1.5 grains.

    Args:
        lengths: keys of every head of the stack.
        channels: channels of the stack.
        longest: keys that a chunk may have at most.
        grain: keys below which cutting does not pay: a multiple of this is where cuts fall.

    Raises:
        InputError: no heads, or one of no keys.
    """
    # A head longer than a channel's fair share is cut down to it.
    limit = min(longest, _share(lengths, channels, grain))
    return Assignment(_deal(lengths, channels, limit, grain, overhead=grain // 4))


def assign_stacks(
    lengths: Sequence[int], *, stacks: int, channels: int, longest: int, grain: int
) -> StackAssignment:
    """Deal the heads of a system out to its stacks, as `assign` does to channels.

    Heads stay whole, unless they exceed a stack's fair share or cutting evens out the stacks. They
    are cut where it gives all channels of a stack whole grains, so that each can have a part.
    No stack counts for more than the mean of the first deal by more than 1.5 grains of all its
    channels.

    Args:
        lengths: keys of every head of the system.
        stacks: how many there are.
        channels: channels of each stack.
        longest: keys that a chunk of a channel may have at most.
        grain: as for `assign`.

    Raises:
        InputError: no heads, or one of no keys.
    """
    grain = min(grain, longest)
    limit = _share(lengths, stacks, channels * grain)
    dealt = _deal(lengths, stacks, limit, channels * grain, overhead=grain // 4)
    return StackAssignment(dealt)


def _keys(chunks: Sequence[Chunk]) -> int:
    return sum([length for _, _, length in chunks])


def _share(lengths: Sequence[int], bins: int, grain: int) -> int:
    """Return the fair share of a bin in whole grains.

    Raises:
        InputError: no heads, or one of no keys.
    """
    if not lengths:
        raise InputError("there are no heads to attend to", where="lengths")
    if min(lengths) < 1:
        head, length = next((h, length) for h, length in enumerate(lengths) if length < 1)
        raise InputError(f"length {length} of head {head} must be at least 1")
    share = -(-sum(lengths) // bins)
    return -(-share // grain) * grain


def _deal(
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
    dealt: list[list[Chunk]]
    loads = [0] * bins
    if chunks[0][0] == chunks[-1][0]:  # equal ones go round
        longest = -chunks[0][0]
        whole = [Chunk(head, start, longest) for _, head, start in chunks]
        dealt = [whole[which::bins] for which in range(bins)]
        loads = [len(own) * (longest + overhead) for own in dealt]
    else:
        dealt = [[] for _ in range(bins)]
        heap = [(0, which) for which in range(bins)]
        heapify(heap)
        for negative, head, start in chunks:
            load, which = heap[0]
            dealt[which].append(Chunk(head, start, -negative))
            heapreplace(heap, (load - negative + overhead, which))
        for load, which in heap:
            loads[which] = load
    _even_out(dealt, loads, grain, grain // 4)
    # Those that do the same become neighbours.
    dealt.sort(key=lambda one: [length for _, _, length in one], reverse=True)
    return tuple(map(tuple, dealt))


def _even_out(dealt: list[list[Chunk]], loads: Sequence[int], grain: int, overhead: int) -> None:
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
        shed = _shed(last, loads, emptiest, level, grain, overhead)
        if shed:
            moves, high = shed, level - 1
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


def _shed(
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
