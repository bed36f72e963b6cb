"""The requests of a step as sizes, and which keys a query of theirs attends to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attacc.models.operators import Size

Floats = NDArray[np.float64]
Seen = Callable[[Floats], Floats]
"""Keys that a query attends to, for each number of keys of its context."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Requests that get one token each; any size may be an array with one element for each step.

    Attributes:
        requests: how many.
        keys: keys that a request attends to, its newest included; where they differ, the mean.
        longest: keys of the longest request; None where all are alike.
        mean: returns the mean over the requests of a function of their keys; None where all are
            alike.
        queries: tokens of each request in the step: 1, and more where drafts are verified. The last
            of them attends to ``keys``. What the mask of the others saves is not counted.
        shared: of its keys, those at the beginning that all requests share. Layers of full
            attention read them once for all; others are priced without sharing.
    """

    requests: Size
    keys: Size
    longest: Size | None = None
    mean: Callable[[Seen], Size] | None = None
    queries: int = 1
    shared: int = 0

    @property
    def tokens(self) -> Size:
        """Tokens of all requests."""
        return self.requests * self.queries

    def dealt(self, groups: int) -> Decoding:
        """Return the requests of the largest of several groups, among which all are dealt out.

        Lengths are dealt out so that groups have equal means.
        """
        return replace(self, requests=-(-self.requests // groups))

    def seen(self, limit: Seen) -> tuple[Size, Size | None]:
        """Return the keys within a limit: their mean, and those of the longest request.

        Args:
            limit: keys that a query attends to, for each number of keys of its context.
        """
        if limit is all_keys:
            return self.keys, self.longest
        mean = applied(limit, self.keys) if self.mean is None else self.mean(limit)
        return mean, None if self.longest is None else applied(limit, self.longest)


def applied(function: Seen, size: Size) -> Size:
    """Return a function of keys at a size."""
    found = function(np.asarray(size, dtype=np.float64))
    return float(found) if np.ndim(found) == 0 else found


@dataclass(frozen=True, slots=True)
class Prefilling:
    """Parts of prompts that are processed; any size may be an array with one element for each step.

    Chunks of different sizes are described by means that keep the number of tokens, and the number
    of pairs of a query and a key.

    Attributes:
        chunks: how many.
        new: new tokens of a chunk, or their mean.
        keys: keys that a new token may attend to: those before the chunk and those of the chunk;
            where chunks differ, the mean over all new tokens.
        past: of these, the keys before the chunk.
        mean: returns the mean over the new tokens of a function of the keys of their chunk, those
            before it included; None where all chunks are alike.
    """

    chunks: Size
    new: Size
    keys: Size
    past: Size = 0
    mean: Callable[[Seen], Size] | None = None

    @property
    def tokens(self) -> Size:
        """New tokens of all chunks."""
        return self.chunks * self.new

    def dealt(self, groups: int) -> Prefilling:
        """Return the chunks of the largest of several groups, as `Decoding.dealt` does."""
        return replace(self, chunks=-(-self.chunks // groups))


def all_keys(keys: Floats) -> Floats:
    """Return all keys."""
    return keys


def at_most(most: int) -> Seen:
    """Return the newest keys, up to a number."""
    return lambda keys: np.minimum(keys, most)


def beyond(shared: int) -> Seen:
    """Return the keys without those of a shared prefix."""
    return lambda keys: keys - shared


def in_chunk(chunk: int) -> Seen:
    """Return the keys of a query's own aligned chunk, its own key included."""
    return lambda keys: np.where(keys > 0, np.fmod(keys - 1, chunk) + 1, 0.0)


def prefill_keys(limit: Seen, prefill: Prefilling) -> Size:
    """Return the keys that a new token attends to, without the mask."""
    if limit is all_keys:
        return prefill.keys
    return applied(limit, prefill.keys) if prefill.mean is None else prefill.mean(limit)
