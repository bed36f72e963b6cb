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
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError

I64 = npt.NDArray[np.int64]
T = TypeVar("T")


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


@dataclass(frozen=True, eq=False)
class DealtChunks:
    """Chunks in the bins that they are dealt out to: channels, or stacks.

    Attributes:
        head: (chunks,) heads, bin by bin, in each the longest chunk first.
        start: (chunks,) first keys.
        length: (chunks,) keys.
        bounds: (bins + 1,) where the chunks of each bin begin, and the end of the last.
    """

    head: I64
    start: I64
    length: I64
    bounds: I64

    @classmethod
    def of(cls, bins: Sequence[Sequence[Chunk]]) -> DealtChunks:
        """Return chunks that are listed by bin, as they are."""
        flat = np.array([chunk for own in bins for chunk in own], dtype=np.int64).reshape(-1, 3)
        ends = np.cumsum([0, *map(len, bins)], dtype=np.int64)
        return cls(flat[:, 0], flat[:, 1], flat[:, 2], ends)

    @cached_property
    def bins(self) -> tuple[tuple[Chunk, ...], ...]:
        """Per bin, its chunks."""
        parts = zip(self.head.tolist(), self.start.tolist(), self.length.tolist(), strict=True)
        return _by_bin(tuple(map(Chunk._make, parts)), self.bounds)

    @cached_property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """Per bin, keys of its chunks."""
        return _by_bin(tuple(self.length.tolist()), self.bounds)

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """Per bin, keys of all its chunks."""
        return tuple(map(sum, self.lengths))

    @property
    def imbalance(self) -> float:
        """Keys of the fullest bin over their mean: 1 is perfect."""
        return max(self.keys) * len(self.keys) / sum(self.keys)


def _by_bin(parts: tuple[T, ...], bounds: I64) -> tuple[tuple[T, ...], ...]:
    ends = bounds.tolist()
    return tuple([parts[begin:end] for begin, end in pairwise(ends)])


@dataclass(frozen=True, eq=False)
class Assignment:
    """Chunks of a stack's heads, dealt out to its channels."""

    dealt: DealtChunks

    @classmethod
    def of(cls, channels: Sequence[Sequence[Chunk]]) -> Assignment:
        """Return chunks that are listed by channel, as they are."""
        return cls(DealtChunks.of(channels))

    @property
    def channels(self) -> tuple[tuple[Chunk, ...], ...]:
        """Per channel, its chunks, longest first."""
        return self.dealt.bins

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """Per channel, keys of its chunks."""
        return self.dealt.lengths

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys of each channel."""
        return self.dealt.keys

    @property
    def imbalance(self) -> float:
        """Keys of the fullest channel over their mean: 1 is perfect."""
        return self.dealt.imbalance


@dataclass(frozen=True, eq=False)
class StackAssignment:
    """Heads of a system, dealt out to its stacks."""

    dealt: DealtChunks

    @property
    def stacks(self) -> tuple[tuple[Chunk, ...], ...]:
        """Per stack, its heads and parts of heads, longest first."""
        return self.dealt.bins

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys of each stack."""
        return self.dealt.keys

    @property
    def imbalance(self) -> float:
        """Keys of the fullest stack over their mean: 1 is perfect."""
        return self.dealt.imbalance

    def lengths(self, stack: int) -> tuple[int, ...]:
        """Return what one stack attends to, as the lengths that `assign` takes."""
        return self.dealt.lengths[stack]


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
    return StackAssignment(_deal(lengths, stacks, limit, channels * grain, overhead=grain // 4))


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


def _deal(lengths: Sequence[int], bins: int, limit: int, grain: int, overhead: int) -> DealtChunks:
    """Deal heads, cut to a limit, out to bins: longest first, then evened out.

    Args:
        lengths: keys of every head.
        bins: how many there are.
        limit: keys that a chunk may have at most.
        grain: where cuts fall.
        overhead: what a chunk counts for in addition to its keys, in the first deal.
    """
    from attacc.mapping import balance_kernel  # loads Numba

    keys = np.array(lengths, dtype=np.int64)
    head, start = np.arange(len(keys)), np.zeros_like(keys)
    if keys.max() > limit:
        head, start, keys = _cut(keys, limit, grain)
    order = np.argsort(-keys, kind="stable")
    n = len(keys)
    chunks = np.empty((4, n + 2 * bins), dtype=np.int64)
    chunks[0, :n], chunks[1, :n], chunks[2, :n] = head[order], start[order], keys[order]
    loads, last = np.zeros((2, bins), dtype=np.int64)
    fullest = balance_kernel.deal(n, chunks, overhead, loads, last)
    part_overhead = grain // 4
    n = balance_kernel.even_out(
        n, chunks, loads, last, np.argsort(loads, kind="stable"), -(-int(loads.sum()) // bins),
        fullest - max(1, part_overhead), grain, part_overhead,
        np.empty((2 * bins, 3), dtype=np.int64),
    )  # fmt: skip
    bounds = np.zeros(bins + 1, dtype=np.int64)
    laid = np.empty(n, dtype=np.int64)
    balance_kernel.lay_out(n, chunks, bounds, last, laid)
    table = chunks[:3, laid]
    # Those that do the same become neighbours.
    own = _by_bin(table[2].tolist(), bounds)
    ranks = sorted(range(bins), key=own.__getitem__, reverse=True)
    if ranks != list(range(bins)):
        sizes = np.diff(bounds)[ranks]
        ends = np.cumsum(sizes)
        places = np.arange(n) + np.repeat(bounds[ranks] - (ends - sizes), sizes)
        table, bounds = table[:, places], np.append(bounds[:1], ends)
    return DealtChunks(table[0], table[1], table[2], bounds)


def _cut(lengths: I64, limit: int, grain: int) -> tuple[I64, I64, I64]:
    """Return heads, first keys and keys of chunks: heads, cut as evenly as whole grains allow."""
    pieces = -(-lengths // limit)
    size = np.where(pieces == 1, lengths, -(-lengths // (pieces * grain)) * grain)
    size = np.minimum(size, limit)
    pieces = -(-lengths // size)
    head = np.repeat(np.arange(len(lengths)), pieces)
    which = np.arange(len(head)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = which * size[head]
    return head, start, np.minimum(size[head], lengths[head] - start)
