"""Steps of a run in columns, and the requests that stand for them when they are priced.

A `Work` tells of its decoding requests how many there are, the keys of all together and those of
the longest. `Works.batches` chooses lengths with exactly these sums: one request is the longest,
and the others are as equal as whole numbers allow. Attention to all keys on GPUs costs the same
for any lengths with these sums (`attacc.gpu.costs.ragged`). Attention within a window does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attacc.errors import InputError
from attacc.serving.work import Chunk, Work
from attacc.system.batches import Batches, Ints
from attacc.units import MAX_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class Works:
    """What several steps compute; chunks of the first step come first.

    Attributes:
        decoding: (steps,) requests that decode.
        keys: (steps,) keys of all of them together.
        longest: (steps,) keys of the longest of them; 0 where none decodes.
        new: (chunks,) tokens that a chunk computes.
        past: (chunks,) tokens before them.
        cached: (chunks,) of these, tokens that the prefix cache holds.
        chunk_ends: (steps,) number of chunks up to the end of each step.
        held: (3, steps) what AttAccs hold of the requests that decode: keys and chunks of the
            channel that takes longest, and chunks of all channels. All are 0 where none decodes.
            None where nothing depends on it.

    Raises:
        InputError: no requests have these keys in all and in the longest one, or a step is empty.
    """

    decoding: Ints
    keys: Ints
    longest: Ints
    new: Ints
    past: Ints
    cached: Ints
    chunk_ends: Ints
    held: Ints | None = None

    def __post_init__(self) -> None:
        some = self.decoding > 0
        least = -(-self.keys // np.maximum(self.decoding, 1))
        fits = (self.longest >= least) & (self.longest <= self.keys - (self.decoding - 1))
        wrong = np.where(some, ~fits | (least < 1), (self.keys != 0) | (self.longest != 0))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"{self.decoding[at]} requests with {self.keys[at]:,} keys, the longest with "
                f"{self.longest[at]:,}",
                where=f"step {at}",
                hint="the longest has at least the mean, and leaves one key for each other request",
            )
        empty = ~some & (self.chunks == 0)
        if empty.any():
            raise InputError("a step without requests", where=f"step {int(np.argmax(empty))}")

    @classmethod
    def of(cls, works: Iterable[Work]) -> Works:
        """Return steps in columns.

        Args:
            works: the steps.

        Raises:
            InputError: as the class.
        """
        each = list(works)
        chunks = [chunk for work in each for chunk in work.chunks]

        def column(values: Sequence[int]) -> Ints:
            return np.array(values, dtype=np.int64)

        for number, chunk in enumerate(chunks):
            fits = 1 <= chunk.new <= MAX_SIZE and 0 <= chunk.cached <= chunk.past <= MAX_SIZE
            if not fits:
                raise InputError(
                    f"{chunk.new:,} tokens after {chunk.past:,} past ones, {chunk.cached:,} cached",
                    where=f"chunk {number}",
                    hint=f"give 1 to {MAX_SIZE:,} tokens, and count cached tokens as past ones",
                )
        if any(work.longest > MAX_SIZE for work in each):
            raise InputError(f"a request has more than {MAX_SIZE:,} keys", where="longest")
        return cls(
            column([work.decoding for work in each]),
            column([work.keys for work in each]),
            column([work.longest for work in each]),
            column([chunk.new for chunk in chunks]),
            column([chunk.past for chunk in chunks]),
            column([chunk.cached for chunk in chunks]),
            np.cumsum(column([len(work.chunks) for work in each])),
            _held(each),
        )

    @classmethod
    def beside(
        cls, decoding: Ints, keys: Ints, longest: Ints, chunks: Sequence[Chunk] = ()
    ) -> Works:
        """Return steps that decode, with the same chunks in each.

        Args:
            decoding: (steps,) requests that decode.
            keys: (steps,) keys of all of them together.
            longest: (steps,) keys of the longest of them.
            chunks: the chunks of every step.

        Raises:
            InputError: as the class.
        """
        new, past, cached = (
            np.array([chunk[:3] for chunk in chunks], dtype=np.int64).reshape(-1, 3).T
        )
        steps = decoding.size
        ends = len(chunks) * np.arange(1, steps + 1)
        return cls(
            decoding.astype(np.int64),
            keys.astype(np.int64),
            longest.astype(np.int64),
            np.tile(new, steps),
            np.tile(past, steps),
            np.tile(cached, steps),
            ends,
        )

    @classmethod
    def joined(cls, pieces: Sequence[Works]) -> Works:
        """Return the steps of several records, one after the other.

        Args:
            pieces: the records, at least one.
        """
        shifts = np.cumsum([0, *(piece.new.size for piece in pieces[:-1])])
        ends = [piece.chunk_ends + shift for piece, shift in zip(pieces, shifts, strict=True)]
        return cls(
            np.concatenate([piece.decoding for piece in pieces]),
            np.concatenate([piece.keys for piece in pieces]),
            np.concatenate([piece.longest for piece in pieces]),
            np.concatenate([piece.new for piece in pieces]),
            np.concatenate([piece.past for piece in pieces]),
            np.concatenate([piece.cached for piece in pieces]),
            np.concatenate(ends),
            _joined([piece.held for piece in pieces]),
        )

    def __len__(self) -> int:
        return self.decoding.size

    @property
    def chunks(self) -> Ints:
        """(steps,) number of chunks."""
        return np.diff(self.chunk_ends, prepend=0)

    def rows(self) -> Iterator[Work]:
        """Yield the steps; no chunk emits a token."""
        chunks = [
            Chunk(*sizes, emits=False)
            for sizes in zip(
                self.new.tolist(), self.past.tolist(), self.cached.tolist(), strict=True
            )
        ]
        first = 0
        for decoding, keys, longest, end in zip(
            self.decoding.tolist(),
            self.keys.tolist(),
            self.longest.tolist(),
            self.chunk_ends.tolist(),
            strict=True,
        ):
            yield Work(decoding, keys, longest, tuple(chunks[first:end]))
            first = end

    def part(self, first: int, last: int) -> Works:
        """Return consecutive steps.

        Args:
            first: number of the first of them.
            last: number of the step behind the last of them.
        """
        start = int(self.chunk_ends[first - 1]) if first else 0
        own, ends = slice(first, last), self.chunk_ends[first:last]
        there = slice(start, int(ends[-1]) if ends.size else start)
        return Works(
            self.decoding[own],
            self.keys[own],
            self.longest[own],
            self.new[there],
            self.past[there],
            self.cached[there],
            ends - start,
            None if self.held is None else self.held[:, own],
        )

    def take(self, chosen: Ints) -> Works:
        """Return some of the steps.

        Args:
            chosen: their numbers.
        """
        many = self.chunks
        starts = (self.chunk_ends - many)[chosen]
        sizes = many[chosen]
        ends = np.cumsum(sizes)
        there = np.repeat(starts - ends + sizes, sizes) + np.arange(int(sizes.sum()))
        return Works(
            self.decoding[chosen],
            self.keys[chosen],
            self.longest[chosen],
            self.new[there],
            self.past[there],
            self.cached[there],
            ends,
            None if self.held is None else self.held[:, chosen],
        )

    def batches(self) -> Batches:
        """Return requests with these sums: the longest, and others as equal as can be."""
        others = np.maximum(self.decoding - 1, 0)
        rest = self.keys - self.longest
        low = rest // np.maximum(others, 1)
        high = rest - low * others
        lengths = np.stack([self.longest, low + 1, low], axis=1)
        counts = np.stack([np.minimum(self.decoding, 1), high, others - high], axis=1)
        kept = counts > 0
        return Batches(
            lengths[kept],
            counts[kept],
            np.cumsum(kept.sum(axis=1)),
            self.new,
            self.past,
            self.cached,
            self.chunk_ends,
        )


def _held(works: Sequence[Work]) -> Ints | None:
    """Return what AttAccs hold in each step; None where a step that decodes does not tell it."""
    if not works or any(work.held is None for work in works if work.decoding):
        return None
    none = 0, 0, 0
    return np.array([work.held[:3] if work.held else none for work in works], dtype=np.int64).T


def _joined(pieces: Sequence[Ints | None]) -> Ints | None:
    """Return what AttAccs hold in the steps of several records; None where one does not tell it."""
    known = [piece for piece in pieces if piece is not None]
    return np.concatenate(known, axis=1) if len(known) == len(pieces) else None
