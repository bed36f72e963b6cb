"""Which channel attends to what: heads cut into chunks, and chunks dealt out to channels.

A chunk is a run of keys and values of one head that one channel attends to by itself. A head
is cut where it exceeds what the buffers of a channel hold, or where a stack has fewer heads than
channels. The softmax of a cut head is merged exactly from its chunks: each yields its maximum,
its sum and its context, which are rescaled to the common maximum and added.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from attacc.errors import InputError


@dataclass(frozen=True, slots=True)
class Chunk:
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
        return tuple(sum(chunk.length for chunk in chunks) for chunks in self.channels)

    @property
    def imbalance(self) -> float:
        """Keys of the fullest channel over their mean: 1 is perfect."""
        return max(self.keys) * len(self.channels) / sum(self.keys)


def assign(lengths: Sequence[int], *, channels: int, longest: int, grain: int) -> Assignment:
    """Cut heads into chunks and deal these out to channels, longest first.

    Args:
        lengths: keys of every head of the stack.
        channels: channels of the stack.
        longest: keys that a chunk may have at most.
        grain: keys below which cutting does not pay: a multiple of this is where cuts fall.

    Raises:
        InputError: no heads, or one of no keys.
    """
    if not lengths:
        raise InputError("there are no heads to attend to", where="lengths")
    for head, length in enumerate(lengths):
        if length < 1:
            raise InputError(f"length {length} of head {head} must be at least 1")
    # A head longer than a channel's fair share is cut down to it.
    share = -(-sum(lengths) // channels)
    limit = min(longest, max(grain, -(-share // grain) * grain))
    chunks: list[Chunk] = []
    for head, length in enumerate(lengths):
        pieces = -(-length // limit)
        size = -(-length // pieces)
        size = min(limit, -(-size // grain) * grain)
        start = 0
        while start < length:
            chunks.append(Chunk(head, start, min(size, length - start)))
            start += size
    chunks.sort(key=lambda chunk: (-chunk.length, chunk.head, chunk.start))
    loads = [(0, channel) for channel in range(channels)]
    dealt: list[list[Chunk]] = [[] for _ in range(channels)]
    for chunk in chunks:
        load, channel = heapq.heappop(loads)
        dealt[channel].append(chunk)
        heapq.heappush(loads, (load + chunk.length, channel))
    return Assignment(tuple(tuple(column) for column in dealt))
