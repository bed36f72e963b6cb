"""The requests of steps: requests that decode, and chunks of prompts, with sums over both.

A price depends on sums: how many requests decode, how many keys they attend to together and how
many the longest one has, how many new tokens chunks have, and how many pairs of a query and a key.
`Batches` holds the requests of any number of steps as flat arrays, so that all steps are priced in
one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attacc.errors import EngineError, InputError
from attacc.models.in_flight import Decoding, Prefilling
from attacc.models.operators import Phase
from attacc.units import whole, wholes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PHASES = (Phase.DECODE, Phase.PREFILL, Phase.MIXED)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a prompt that is processed in one step.

    Attributes:
        new: its tokens, at least 1.
        past: tokens of the same prompt whose keys and values are known, which the new ones attend
            to.
        cached: of these, tokens whose keys and values lie only where decode attention runs, as
            those of a prefix that another request left there. They are read back over the link.

    Raises:
        InputError: a number is out of range, or more tokens are cached than past.
    """

    new: int
    past: int = 0
    cached: int = 0

    def __post_init__(self) -> None:
        whole(self.new, where="new")
        past = whole(self.past, where="past", least=0)
        if whole(self.cached, where="cached", least=0) > past:
            raise InputError(
                f"{self.cached} tokens are cached, of {past} past tokens",
                where="cached",
                hint="count at most the past tokens of a chunk",
            )


@dataclass(frozen=True, eq=False)
class Batches:
    """The requests of several steps.

    Requests of equal length are counted together. Entries of the first step come first.

    Attributes:
        lengths: (entries,) keys that a decoding request attends to, the newest key included.
        counts: (entries,) number of requests of that length.
        decode_ends: (steps,) number of entries up to the end of each step.
        new: (chunks,) new tokens of each chunk.
        past: (chunks,) tokens before each chunk.
        cached: (chunks,) past tokens that have to be read back.
        prefill_ends: (steps,) number of chunks up to the end of each step.
        queries: tokens that a step computes for each decoding request: more than 1 where drafts are
            verified. ``lengths`` are the keys of the last of them.
        shared: keys at the beginning that all decoding requests of a step share.
    """

    lengths: Ints
    counts: Ints
    decode_ends: Ints
    new: Ints
    past: Ints
    cached: Ints
    prefill_ends: Ints
    queries: int = 1
    shared: int = 0

    def __post_init__(self) -> None:
        if self.shared and self.lengths.size and self.shared >= self.lengths.min():
            raise InputError(
                f"{self.shared} keys are shared, by requests of {self.lengths.min()}",
                where="shared_prefix",
                hint="share fewer keys than the shortest request has",
            )

    @classmethod
    def equal(
        cls, requests: ArrayLike, lengths: ArrayLike, *, queries: int = 1, shared: int = 0
    ) -> Batches:
        """Return decode steps whose requests all have the same length.

        Args:
            requests: (steps,) number of decoding requests, or one number for all steps.
            lengths: (steps,) keys that each request attends to, or one number for all steps.
            queries: tokens of every request in a step; ``lengths`` are the keys of the last one.
            shared: keys at the beginning that all requests of a step share.

        Raises:
            InputError: a number is below 1.
        """
        given = wholes(np.atleast_1d(requests), where="requests")
        known = wholes(np.atleast_1d(lengths), where="lengths")
        if given.size != known.size and 1 not in (given.size, known.size):
            raise InputError(
                f"{given.size} numbers of requests, but {known.size} lengths",
                where="lengths",
                hint="give one number for all steps, or one for each",
            )
        counts, keys = np.broadcast_arrays(given, known)
        none = np.zeros(0, dtype=np.int64)
        ends = np.arange(1, counts.size + 1)
        zeros = np.zeros_like(ends)
        tokens, prefix = whole(queries, where="queries"), _shared(shared)
        return cls(keys, counts, ends, none, none, none, zeros, tokens, prefix)

    def beside(self, new: ArrayLike, past: ArrayLike, chunks: ArrayLike) -> Batches:
        """Return these decode steps with equal chunks of prompts beside them.

        Args:
            new: (steps,) new tokens of each chunk of a step.
            past: (steps,) tokens before each of them.
            chunks: (steps,) number of chunks of a step, at least 1.

        Raises:
            InputError: a number is out of range.
        """
        counts = np.broadcast_to(wholes(np.atleast_1d(chunks), where="chunks"), len(self))
        given = np.broadcast_to(wholes(np.atleast_1d(new), where="new"), len(self))
        known = wholes(np.atleast_1d(past), where="past", least=0)
        before = np.repeat(np.broadcast_to(known, len(self)), counts)
        return replace(
            self,
            new=np.repeat(given, counts),
            past=before,
            cached=np.zeros_like(before),
            prefill_ends=np.cumsum(counts),
        )

    @classmethod
    def of(
        cls,
        steps: Iterable[tuple[Sequence[int], Sequence[Chunk]]],
        *,
        queries: int = 1,
        shared: int = 0,
    ) -> Batches:
        """Return steps from lists.

        Args:
            steps: for each step the lengths of the requests that decode, and the chunks of prompts.
            queries: as in `equal`.
            shared: as in `equal`.

        Raises:
            InputError: a step without both, a size out of range, or more cached than past tokens.
        """
        decode, prefill = [np.zeros(0, dtype=np.int64)], list[Chunk]()
        decode_ends, prefill_ends, entries = list[int](), list[int](), 0
        for number, step in enumerate(steps):
            if not isinstance(step, tuple | list) or len(step) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(
                    f"step {number} is {step!r:.40}",
                    where="steps",
                    hint="give pairs of lengths and chunks, as in ([512, 600], [])",
                )
            lengths, chunks = step
            keys = wholes(lengths, where="decode")
            pieces = chunks_of(chunks)
            if not keys.size and not pieces:
                raise InputError(
                    f"step {number} has no requests", hint="give requests that decode, or prompts"
                )
            decode.append(keys)
            prefill += pieces
            entries += keys.size
            decode_ends.append(entries)
            prefill_ends.append(len(prefill))
        keys = np.concatenate(decode)
        new, past, cached = (
            np.array([getattr(chunk, name) for chunk in prefill], dtype=np.int64)
            for name in ("new", "past", "cached")
        )
        ends = np.array(decode_ends, dtype=np.int64), np.array(prefill_ends, dtype=np.int64)
        tokens, prefix = whole(queries, where="queries"), _shared(shared)
        return cls(keys, np.ones_like(keys), ends[0], new, past, cached, ends[1], tokens, prefix)

    def __len__(self) -> int:
        return self.decode_ends.size

    def _sums(self, ends: Ints, values: Ints | Floats) -> Floats:
        """Return the sum of entries for each step."""
        totals = np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])
        return totals[ends] - totals[np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])]

    @cached_property
    def requests(self) -> Floats:
        """(steps,) number of decoding requests."""
        return self._sums(self.decode_ends, self.counts)

    @cached_property
    def keys(self) -> Floats:
        """(steps,) keys that all decoding requests attend to together."""
        return self._sums(self.decode_ends, self.counts * self.lengths)

    @cached_property
    def longest(self) -> Floats:
        """(steps,) keys of the longest decoding request; 0 without any."""
        return self._extreme(np.maximum)

    @cached_property
    def shortest(self) -> Floats:
        """(steps,) keys of the shortest decoding request; 0 without any."""
        return self._extreme(np.minimum)

    def _extreme(self, which: np.ufunc) -> Floats:
        found = np.zeros(len(self))
        first = np.concatenate([np.zeros(1, dtype=np.int64), self.decode_ends[:-1]])
        some = self.decode_ends > first
        if some.any():
            found[some] = which.reduceat(self.lengths, first[some])
        return found

    @cached_property
    def chunks(self) -> Floats:
        """(steps,) number of chunks of prompts."""
        return self._sums(self.prefill_ends, np.ones_like(self.new))

    @cached_property
    def new_tokens(self) -> Floats:
        """(steps,) new tokens of all chunks."""
        return self._sums(self.prefill_ends, self.new)

    @cached_property
    def past_tokens(self) -> Floats:
        """(steps,) tokens before the chunks."""
        return self._sums(self.prefill_ends, self.past)

    @cached_property
    def cached_tokens(self) -> Floats:
        """(steps,) past tokens that have to be read back."""
        return self._sums(self.prefill_ends, self.cached)

    @cached_property
    def phases(self) -> NDArray[np.int8]:
        """(steps,) index into `PHASES`."""
        decodes, prefills = self.requests > 0, self.chunks > 0
        return np.where(decodes & prefills, 2, np.where(prefills, 1, 0)).astype(np.int8)

    def take(self, chosen: Ints) -> Batches:
        """Return some of the steps, in the order of their numbers."""
        if chosen.size == len(self):
            return self

        def entries(ends: Ints) -> tuple[Ints, Ints]:
            first = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
            sizes = (ends - first)[chosen]
            starts = np.repeat(first[chosen] - np.cumsum(sizes) + sizes, sizes)
            return starts + np.arange(starts.size), np.cumsum(sizes)

        own, decode_ends = entries(self.decode_ends)
        pieces, prefill_ends = entries(self.prefill_ends)
        return Batches(
            self.lengths[own],
            self.counts[own],
            decode_ends,
            self.new[pieces],
            self.past[pieces],
            self.cached[pieces],
            prefill_ends,
            self.queries,
            self.shared,
        )

    @property
    def decode_only(self) -> Batches:
        """The decoding requests of each step, without chunks."""
        none = np.zeros(0, dtype=np.int64)
        ends = np.zeros_like(self.prefill_ends)
        return replace(self, new=none, past=none, cached=none, prefill_ends=ends)

    @property
    def prefill_only(self) -> Batches:
        """The chunks of each step, without decoding requests."""
        none = np.zeros(0, dtype=np.int64)
        return replace(self, lengths=none, counts=none, decode_ends=np.zeros_like(self.decode_ends))

    def halves(self) -> tuple[Batches, Batches, NDArray[np.bool_]]:
        """Return two halves of each step, and whether the step has two.

        Decoding requests are dealt out in turn, by their lengths; the first half has one more of an
        odd number. Every chunk is cut in two; its second piece comes after the first, and what is
        read back belongs to the first. A step with fewer than two decoding requests, or whose
        chunks all have a single token, has no halves: both are the step.
        """
        steps = np.arange(len(self))
        sizes = np.diff(self.decode_ends, prepend=0)
        order = np.lexsort((self.lengths, np.repeat(steps, sizes)))
        lengths, counts = self.lengths[order], self.counts[order]
        before = np.cumsum(counts) - counts
        first_of = np.repeat(self.decode_ends - sizes, sizes)
        rank = before - before[first_of] if before.size else before
        later = (rank + counts) // 2 - rank // 2
        pieces = np.diff(self.prefill_ends, prepend=0)
        behind = self.new // 2
        possible = (self.requests >= 2) & (
            (self.chunks == 0) | (self._sums(self.prefill_ends, behind) > 0)
        )

        def half(own: Ints, new: Ints, past: Ints, cached: Ints) -> Batches:
            own = np.where(np.repeat(possible, sizes), own, counts)
            divided = np.repeat(possible, pieces)
            new, past, cached = (
                np.where(divided, mine, whole)
                for mine, whole in ((new, self.new), (past, self.past), (cached, self.cached))
            )
            kept, there = own > 0, new > 0
            return replace(
                self,
                lengths=lengths[kept],
                counts=own[kept],
                decode_ends=np.cumsum(
                    np.bincount(np.repeat(steps, sizes)[kept], minlength=len(self))
                ),
                new=new[there],
                past=past[there],
                cached=cached[there],
                prefill_ends=np.cumsum(
                    np.bincount(np.repeat(steps, pieces)[there], minlength=len(self))
                ),
            )

        ahead = self.new - behind
        return (
            half(counts - later, ahead, self.past, self.cached),
            half(later, behind, self.past + ahead, np.zeros_like(self.cached)),
            possible,
        )

    def decoding(self) -> Decoding | None:
        """Return the decoding requests; None in prefills. All steps must have one phase."""
        if not self.requests.any():
            return None
        differ = (self.shortest != self.longest).any()
        longest = self.longest if differ else None
        requests = _constant(self.requests)
        mean = self.mean_of if differ else None
        keys = _constant(self.keys / self.requests)
        return Decoding(requests, keys, longest, mean, self.queries, self.shared)

    def mean_of(self, function: Callable[[Floats], Floats]) -> float | Floats:
        """Return the mean over the decoding requests of a function of their lengths.

        Args:
            function: takes and returns an array, element by element.
        """
        values = function(self.lengths.astype(np.float64))
        return _constant(self._sums(self.decode_ends, self.counts * values) / self.requests)

    def prefilling(self) -> Prefilling | None:
        """Return the prefilled chunks; None in decode steps. All steps must have one phase.

        Chunks of different sizes become equal ones with the same tokens and the same pairs of a
        query and a key.
        """
        if not self.chunks.any():
            return None
        with_past = self._sums(self.prefill_ends, self.new * self.past) / self.new_tokens
        own = self._sums(self.prefill_ends, self.new * self.new) / self.new_tokens
        return Prefilling(
            chunks=_constant(self.chunks),
            new=_constant(self.new_tokens / self.chunks),
            keys=_constant(own + with_past),
            past=_constant(with_past),
            mean=self.chunk_mean_of,
        )

    def chunk_mean_of(self, function: Callable[[Floats], Floats]) -> float | Floats:
        """Return the mean over the new tokens of a function of the keys of their chunk.

        Args:
            function: takes and returns an array, element by element.
        """
        values = function((self.past + self.new).astype(np.float64))
        return _constant(self._sums(self.prefill_ends, self.new * values) / self.new_tokens)

    def lengths_of(self, step: int) -> list[int]:
        """Return the length of every request that decodes in a step."""
        first = 0 if step == 0 else int(self.decode_ends[step - 1])
        last = int(self.decode_ends[step])
        return np.repeat(self.lengths[first:last], self.counts[first:last]).tolist()


def _shared(keys: int) -> int:
    return whole(keys, where="shared_prefix", least=0)


def _constant(values: Floats) -> float | Floats:
    """Return one number for an array of equal numbers, so that it is priced once."""
    if not values.size:
        raise EngineError("no steps")
    return float(values[0]) if (values == values[0]).all() else values


def chunks_of(given: object) -> list[Chunk]:
    """Return chunks of prompts as callers give them.

    Raises:
        InputError: it is no list of chunks.
    """
    if isinstance(given, Iterable):
        pieces = list(cast("Iterable[object]", given))
        if all(isinstance(piece, Chunk) for piece in pieces):
            return cast("list[Chunk]", pieces)
    raise InputError(
        f"{given!r:.60} is no list of chunks", where="prefill", hint="give [Chunk(new=512), ...]"
    )
