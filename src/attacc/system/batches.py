"""The requests of steps: requests that decode, and chunks of prompts, with sums over both.

A price depends on sums: how many requests decode, how many keys they attend to together and how
many the longest one has, how many new tokens chunks have, and how many pairs of a query and a key.
`Batches` holds the requests of any number of steps as flat arrays, so that all steps are priced in
one go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attacc.errors import EngineError, InputError
from attacc.models.operators import Phase
from attacc.models.steps import Decoding, Prefilling
from attacc.units import MAX_SIZE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PHASES = (Phase.DECODE, Phase.PREFILL, Phase.MIXED)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a prompt that is processed in one step.

    Attributes:
        new: tokens of the chunk, at least 1.
        past: earlier tokens of the same prompt, to whose keys and values the new tokens attend.
        cached: past tokens whose keys and values lie only where decode attention runs, for example
            a prefix that another request left there. They are read back over the link.
    """

    new: int
    past: int = 0
    cached: int = 0


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
    """

    lengths: Ints
    counts: Ints
    decode_ends: Ints
    new: Ints
    past: Ints
    cached: Ints
    prefill_ends: Ints

    @classmethod
    def equal(cls, requests: ArrayLike, lengths: ArrayLike) -> Batches:
        """Return decode steps whose requests all have the same length.

        Args:
            requests: (steps,) number of decoding requests, or one number for all steps.
            lengths: (steps,) keys that each request attends to, or one number for all steps.

        Raises:
            InputError: a number is below 1.
        """
        counts, keys = np.broadcast_arrays(
            np.atleast_1d(np.asarray(requests, dtype=np.int64)),
            np.atleast_1d(np.asarray(lengths, dtype=np.int64)),
        )
        _check("requests", counts, 1)
        _check("lengths", keys, 1)
        none = np.zeros(0, dtype=np.int64)
        ends = np.arange(1, counts.size + 1)
        return cls(keys, counts, ends, none, none, none, np.zeros_like(ends))

    @classmethod
    def of(cls, steps: Iterable[tuple[Sequence[int], Sequence[Chunk]]]) -> Batches:
        """Return steps from lists.

        Args:
            steps: for each step the lengths of the requests that decode, and the chunks of prompts.

        Raises:
            InputError: a step without both, a size out of range, or more cached than past tokens.
        """
        decode, prefill = [np.zeros(0, dtype=np.int64)], list[Chunk]()
        decode_ends, prefill_ends, entries = list[int](), list[int](), 0
        for number, (lengths, chunks) in enumerate(steps):
            if not len(lengths) and not chunks:
                raise InputError(
                    f"step {number} has no requests", hint="give requests that decode, or prompts"
                )
            decode.append(np.asarray(lengths, dtype=np.int64))
            prefill += chunks
            entries += len(lengths)
            decode_ends.append(entries)
            prefill_ends.append(len(prefill))
        keys = np.concatenate(decode)
        new, past, cached = (
            np.array([getattr(chunk, name) for chunk in prefill], dtype=np.int64)
            for name in ("new", "past", "cached")
        )
        _check("decode", keys, 1)
        _check("new", new, 1)
        _check("past", past, 0)
        _check("cached", cached, 0)
        if (cached > past).any():
            which = int(np.argmax(cached > past))
            raise InputError(
                f"{cached[which]} tokens are cached, of {past[which]} past tokens",
                where="cached",
                hint="count at most the past tokens of a chunk",
            )
        ends = np.array(decode_ends, dtype=np.int64), np.array(prefill_ends, dtype=np.int64)
        return cls(keys, np.ones_like(keys), ends[0], new, past, cached, ends[1])

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
        )

    def decoding(self) -> Decoding | None:
        """Return the decoding requests; None in prefills. All steps must have one phase."""
        if not self.requests.any():
            return None
        differ = (self.shortest != self.longest).any()
        longest = self.longest if differ else None
        requests = _constant(self.requests)
        return Decoding(requests, _constant(self.keys / self.requests), longest)

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
        )

    def lengths_of(self, step: int) -> list[int]:
        """Return the length of every request that decodes in a step."""
        first = 0 if step == 0 else int(self.decode_ends[step - 1])
        last = int(self.decode_ends[step])
        return np.repeat(self.lengths[first:last], self.counts[first:last]).tolist()


def _constant(values: Floats) -> float | Floats:
    """Return one number for an array of equal numbers, so that it is priced once."""
    if not values.size:
        raise EngineError("no steps")
    return float(values[0]) if (values == values[0]).all() else values


def _check(name: str, values: Ints, least: int) -> None:
    wrong = (values < least) | (values > MAX_SIZE)
    if wrong.any():
        raise InputError(
            f"{values[wrong][0]} is out of range", where=name, hint=f"use {least} to {MAX_SIZE}"
        )
