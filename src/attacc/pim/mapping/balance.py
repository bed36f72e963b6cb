"""Which channel attends to what: heads cut into chunks, and chunks dealt out to channels.

A chunk is a run of keys and values of one head that one channel attends to by itself. A head is
cut where it exceeds what the buffers of a channel hold, where a stack has fewer heads than
channels, and where that evens out the channels. The softmax of a cut head is merged exactly from
its chunks: each yields its maximum, its sum and its context, which are rescaled to the common
maximum and added.

Heads are dealt out to stacks in the same way: whole, unless a head is long for a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError

I64 = npt.NDArray[np.int64]


_WAYS: Final = (
    (4, 1), (1, 2), (2, 8), (4, 8), (None, 2), (1, None), (3, 8), (None, None),
)  # fmt: skip
"""Ways to deal heads out: quarters of a channel's fair share that a chunk may have, None for as
many keys as the buffers hold; quarters of a grain that a chunk counts for, None for channels that
are not evened out. The first is that of `assign`; the others are those of 35 that gained most on
random heads, one after the other."""


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
        lengths: per bin, keys of its chunks.
    """

    head: I64
    start: I64
    lengths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, bins: Sequence[Sequence[Chunk]]) -> DealtChunks:
        """Return chunks that are listed by bin, as they are."""
        chunks = [chunk for own in bins for chunk in own]
        head = np.array([chunk.head for chunk in chunks], dtype=np.int64)
        start = np.array([chunk.start for chunk in chunks], dtype=np.int64)
        return cls(head, start, tuple([tuple([chunk.length for chunk in own]) for own in bins]))

    @cached_property
    def bins(self) -> tuple[tuple[Chunk, ...], ...]:
        """Per bin, its chunks."""
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
        """Keys of the fullest bin over their mean: 1 is perfect."""
        return max(self.keys) * len(self.keys) / sum(self.keys)


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
    return Assignment(_deal(_cut(lengths, limit, grain), channels, grain, grain // 4))


def ways(
    lengths: Sequence[int], *, channels: int, longest: int, grain: int
) -> Iterator[Assignment]:
    """Yield ways to deal heads out to channels: `assign` first, and then others, all different.

    They differ in how long a chunk may be to begin with: as the buffers allow, a fair share of a
    channel, or a part of it; and in what a chunk counts for in addition to its keys: a quarter of
    the grain, a half, or two; or channels are not evened out. Which one is fastest depends on the
    device (`attacc.pim.timing.dealing`).

    Args:
        lengths: as for `assign`, likewise the others.
        channels: channels of the stack.
        longest: keys that a chunk may have at most.
        grain: keys below which cutting does not pay.

    Raises:
        InputError: no heads, or one of no keys.
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
    whole = channels * grain
    chunks = _cut(lengths, _share(lengths, stacks, whole), whole)
    return StackAssignment(_deal(chunks, stacks, whole, whole // 4, first=grain // 4))


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
    """Return heads, those that exceed a limit cut as evenly as whole grains allow."""
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
        bins: how many there are.
        grain: where cuts fall.
        overhead: what a chunk counts for in addition to its keys; None for a quarter of the grain,
            and bins that are not evened out.
        first: what it counts for in the first deal, before bins are evened out; as much by default.
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
    # Those that do the same become neighbours.
    ranks = sorted(range(bins), key=own.__getitem__, reverse=True)
    if ranks != list(range(bins)):
        laid = np.concatenate([laid[ends[which] : ends[which + 1]] for which in ranks])
    return DealtChunks(chunks[0, laid], chunks[1, laid], tuple([own[which] for which in ranks]))
