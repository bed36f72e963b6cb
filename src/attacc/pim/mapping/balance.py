"""Which channel attends to which keys: heads are cut into chunks, and chunks dealt to channels.

A chunk is a run of keys and values of one head that one channel attends to by itself. A head is
cut where it exceeds what the buffers of a channel hold, where a stack has fewer heads than
channels, and where a cut evens out the channels. The softmax of a cut head is merged exactly from
its chunks: each chunk yields its maximum, its sum and its context. Sums and contexts are rescaled
to the common maximum and added.

Heads are dealt out to stacks in the same way. A head stays whole unless it exceeds a stack's share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError

I64 = npt.NDArray[np.int64]


_WAYS: Final = (
    (4, 1), (1, 2), (2, 8), (4, 8), (None, 2), (1, None), (3, 8), (None, None),
)  # fmt: skip
"""Ways to deal heads out, as pairs. The first number is the longest chunk at first, in quarters of
a channel's fair share; None stands for as many keys as the buffers hold. The second number is what
a chunk counts for besides its keys, in quarters of a grain; None stands for channels that are not
evened out. The first way is that of `assign`. The others were chosen one by one out of 35 ways,
each as the one that gained most on random heads."""


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
    """Chunks that are dealt out to bins. A bin is a channel or a stack.

    Attributes:
        head: (chunks,) head of each chunk, bin by bin, in each bin the longest chunk first.
        start: (chunks,) first key of each chunk.
        lengths: per bin, the number of keys of each chunk.
    """

    head: I64
    start: I64
    lengths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, bins: Sequence[Sequence[Chunk]]) -> DealtChunks:
        """Return chunks that are listed by bin, in the given order."""
        chunks = [chunk for own in bins for chunk in own]
        head = np.array([chunk.head for chunk in chunks], dtype=np.int64)
        start = np.array([chunk.start for chunk in chunks], dtype=np.int64)
        return cls(head, start, tuple([tuple([chunk.length for chunk in own]) for own in bins]))

    @cached_property
    def bins(self) -> tuple[tuple[Chunk, ...], ...]:
        """Per bin, the chunks."""
        places = zip(self.head.tolist(), self.start.tolist(), strict=True)
        return tuple(
            [tuple([Chunk(*next(places), length) for length in own]) for own in self.lengths]
        )

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """Per bin, keys of all its chunks."""
        return tuple(map(sum, self.lengths))

    @property
    def imbalance(self) -> float:
        """Keys of the fullest bin over the mean of all bins: 1 is perfect."""
        return max(self.keys) * len(self.keys) / sum(self.keys)


@dataclass(frozen=True, eq=False)
class Assignment:
    """Chunks of a stack's heads, dealt out to its channels."""

    dealt: DealtChunks

    @classmethod
    def of(cls, channels: Sequence[Sequence[Chunk]]) -> Assignment:
        """Return chunks that are listed by channel, in the given order."""
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
        """Keys of the fullest channel over the mean of all channels: 1 is perfect."""
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
        """Keys of the fullest stack over the mean of all stacks: 1 is perfect."""
        return self.dealt.imbalance

    def lengths(self, stack: int) -> tuple[int, ...]:
        """Return the keys of each head or part on one stack, as `assign` takes them."""
        return self.dealt.lengths[stack]


def assign(lengths: Sequence[int], *, channels: int, longest: int, grain: int) -> Assignment:
    """Cut heads into chunks and deal the chunks out to channels.

    Chunks are dealt longest first, each to the least loaded channel. Then the last chunks of
    channels that remain too full are cut, and shared out to the others, if all channels then
    finish sooner. A chunk counts as its keys and a quarter of the grain, because it opens rows of
    its own.

    No channel's load exceeds the mean load of the first deal by more than 1.5 grains.

    Args:
        lengths: keys of every head of the stack.
        channels: channels of the stack.
        longest: keys that a chunk may have at most.
        grain: keys below which cutting does not pay; cuts fall on its multiples.

    Raises:
        InputError: there are no heads, or a head has no keys.
    """
    # A head longer than a channel's fair share is cut down to that share.
    limit = min(longest, _share(lengths, channels, grain))
    return Assignment(_deal(_cut(lengths, limit, grain), channels, grain, grain // 4))


def ways(
    lengths: Sequence[int], *, channels: int, longest: int, grain: int
) -> Iterator[Assignment]:
    """Yield ways to deal heads out to channels: `assign` first, and then others, all different.

    The ways differ in how long a chunk may be at first (as the buffers allow, a fair share of a
    channel, or a part of that share). They also differ in what a chunk counts for in addition to
    its keys (a quarter of the grain, a half, or two grains; or channels are not evened out). Which
    way is fastest depends on the device (`attacc.pim.timing.dealing`).

    Args:
        lengths: keys of every head of the stack.
        channels: channels of the stack.
        longest: keys that a chunk may have at most.
        grain: keys below which cutting does not pay.

    Raises:
        InputError: there are no heads, or a head has no keys.
    """
    share = _share(lengths, channels, grain)
    seen: set[tuple[tuple[int, ...], ...]] = set()
    cut: dict[int, _Chunks] = {}
    for part, overhead in _WAYS:
        limit = longest if part is None else min(longest, -(-share * part // (4 * grain)) * grain)
        if limit not in cut:
            cut[limit] = _cut(lengths, limit, grain)
        counts = None if overhead is None else overhead * grain // 4
        found = _deal(cut[limit], channels, grain, counts)
        if found.lengths not in seen:
            seen.add(found.lengths)
            yield Assignment(found)


def assign_together(
    lengths: Sequence[int], *, together: int, channels: int, longest: int, grain: int
) -> Assignment:
    """Deal shares of requests out to channels, each to the channel with the fewest keys.

    The longest share comes first. A head is cut only where it exceeds a chunk, and all its chunks
    stay in its channel.

    Args:
        lengths: keys of every head of the stack; heads of a share come one after the other.
        together: heads of a share.
        channels: channels of the stack.
        longest: keys that a chunk may have at most.
        grain: cuts fall on its multiples.

    Raises:
        InputError: there are no heads, a head has no keys, or the last share is no whole one.
    """
    _share(lengths, channels, grain)  # refuses heads that nobody can attend to
    if len(lengths) % together:
        raise InputError(f"{len(lengths)} heads are no shares of {together} heads each")
    cut = _cut(lengths, longest, min(grain, longest))
    chunks: list[list[Chunk]] = [[] for _ in lengths]
    for chunk in map(Chunk, cut.head.tolist(), cut.start.tolist(), cut.keys.tolist()):
        chunks[chunk.head].append(chunk)
    shares = [range(first, first + together) for first in range(0, len(lengths), together)]
    shares.sort(key=lambda share: sum(lengths[head] for head in share), reverse=True)
    loads = [(0, which) for which in range(channels)]
    bins: list[list[Chunk]] = [[] for _ in range(channels)]
    for share in shares:
        load, which = heappop(loads)
        bins[which] += [chunk for head in share for chunk in chunks[head]]
        heappush(loads, (load + sum(lengths[head] for head in share), which))
    for own in bins:
        own.sort(key=lambda chunk: chunk.length, reverse=True)
    # Channels with equal work become neighbours, so that they can be simulated once.
    bins.sort(key=lambda own: [chunk.length for chunk in own], reverse=True)
    return Assignment.of(bins)


def assign_stacks(
    lengths: Sequence[int], *, stacks: int, channels: int, longest: int, grain: int
) -> StackAssignment:
    """Deal the heads of a system out to its stacks, as `assign` does to channels.

    Heads stay whole, unless they exceed a stack's fair share or cutting evens out the stacks. Cuts
    fall on multiples of the grain times the channels, so that every channel of a stack can have
    whole grains of a part. No stack's load exceeds the mean load of the first deal by more than
    1.5 of these multiples.

    Args:
        lengths: keys of every head of the system.
        stacks: how many there are.
        channels: channels of each stack.
        longest: keys that a chunk of a channel may have at most.
        grain: as for `assign`.

    Raises:
        InputError: there are no heads, or a head has no keys.
    """
    grain = min(grain, longest)
    whole = channels * grain
    chunks = _cut(lengths, _share(lengths, stacks, whole), whole)
    return StackAssignment(_deal(chunks, stacks, whole, whole // 4, first=grain // 4))


def _share(lengths: Sequence[int], bins: int, grain: int) -> int:
    """Return the fair share of a bin, rounded up to whole grains.

    Raises:
        InputError: there are no heads, or a head has no keys.
    """
    if not lengths:
        raise InputError("there are no heads to attend to", where="lengths")
    if min(lengths) < 1:
        head, length = next((h, length) for h, length in enumerate(lengths) if length < 1)
        raise InputError(f"length {length} of head {head} must be at least 1")
    share = -(-sum(lengths) // bins)
    return -(-share // grain) * grain


@dataclass(frozen=True, eq=False)
class _Chunks:
    """Chunks in the order in which they are dealt out: the longest first.

    Attributes:
        head: (chunks,) heads.
        start: (chunks,) first keys.
        keys: (chunks,) keys.
    """

    head: I64
    start: I64
    keys: I64


def _cut(lengths: Sequence[int], limit: int, grain: int) -> _Chunks:
    """Return heads as chunks; heads above a limit are cut as evenly as whole grains allow."""
    keys = np.array(lengths, dtype=np.int64)
    if keys.max() <= limit:
        order = np.argsort(-keys, kind="stable")
        return _Chunks(order, np.zeros(len(keys), dtype=np.int64), keys[order])
    pieces = -(-keys // limit)
    size = np.where(pieces == 1, keys, -(-keys // (pieces * grain)) * grain)
    size = np.minimum(size, limit)
    pieces = -(-keys // size)
    head = np.repeat(np.arange(len(keys)), pieces)
    which = np.arange(len(head)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = which * size[head]
    of_chunk = np.minimum(size[head], keys[head] - start)
    order = np.argsort(-of_chunk, kind="stable")
    return _Chunks(head[order], start[order], of_chunk[order])


def _deal(
    cut: _Chunks, bins: int, grain: int, overhead: int | None, *, first: int | None = None
) -> DealtChunks:
    """Deal chunks out to bins: longest first, then evened out.

    Args:
        cut: the chunks.
        bins: the number of bins.
        grain: cuts fall on its multiples.
        overhead: what a chunk counts for in addition to its keys. None stands for a quarter of the
            grain, and bins that are not evened out.
        first: what a chunk counts for in addition to its keys in the first deal, before bins are
            evened out; `overhead` by default.
    """
    from attacc.pim.mapping import balance_kernel  # loads Numba

    n = len(cut.keys)
    chunks = np.empty((4, n + 2 * bins), dtype=np.int64)
    chunks[0, :n] = cut.head
    chunks[1, :n] = cut.start
    chunks[2, :n] = cut.keys
    loads, last = np.zeros((2, bins), dtype=np.int64)
    of_part = grain // 4 if overhead is None else overhead
    fullest = balance_kernel.deal(n, chunks, of_part if first is None else first, loads, last)
    if overhead is not None:
        n = balance_kernel.even_out(
            n, chunks, loads, last, np.argsort(loads, kind="stable"), -(-int(loads.sum()) // bins),
            fullest - max(1, of_part), grain, of_part, np.empty((2 * bins, 3), dtype=np.int64),
        )  # fmt: skip
    bounds = np.zeros(bins + 1, dtype=np.int64)
    laid = np.empty(n, dtype=np.int64)
    balance_kernel.lay_out(n, chunks, bounds, last, laid)
    ends = bounds.tolist()
    keys_of = chunks[2, laid].tolist()
    own = [tuple(keys_of[begin:end]) for begin, end in pairwise(ends)]
    # Bins with equal work become neighbours, so that they can be simulated once.
    ranks = sorted(range(bins), key=own.__getitem__, reverse=True)
    if ranks != list(range(bins)):
        laid = np.concatenate([laid[ends[which] : ends[which + 1]] for which in ranks])
    return DealtChunks(chunks[0, laid], chunks[1, laid], tuple([own[which] for which in ranks]))
