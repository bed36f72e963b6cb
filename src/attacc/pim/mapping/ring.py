"""Rows that tokens of a window use in turn, and which of them a new token sees.

A head that attends to a window keeps as many keys as the window has, and no more. The key of token
n (from 0) lies in place n mod M of a ring of M places, so a new token takes the place, and so the
rows, of the oldest one. Several new tokens of one step each see a window of their own; the ring
then has a place more for each further token.

A step reads a ring in the order of age: it begins at the oldest token, and goes around. Units read
one key of every part of the sequence at once, so reading begins at the keys of all parts that lie
beside the oldest one.
"""

from __future__ import annotations

from dataclasses import dataclass

from attacc.errors import InputError


@dataclass(frozen=True, slots=True)
class NewTokens:
    """The new tokens of a step, and the earlier ones that each of them sees.

    Attributes:
        window: keys that a token sees at most, its own included; None for all earlier ones.
        count: new tokens of a step, whose keys are stored already. Each of them sees the keys up to
            its own: a causal tail.
    """

    window: int | None = None
    count: int = 1

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("query_tokens", self.count)):
            if value is not None and value < 1:
                raise InputError(f"{name} = {value} must be at least 1")

    @property
    def places(self) -> int | None:
        """Places of a ring; None where every token keeps a place of its own."""
        return None if self.window is None else self.window + self.count - 1

    def held(self, tokens: int) -> int:
        """Return the keys that are stored, and read, of a request.

        Args:
            tokens: tokens of the request, the new ones included.

        Raises:
            InputError: the request has fewer tokens than new ones.
        """
        if tokens < self.count:
            raise InputError(
                f"query_tokens = {self.count} new tokens in a request of {tokens} tokens",
                hint="lengths count the new tokens, too",
            )
        return tokens if self.places is None else min(tokens, self.places)

    def oldest(self, tokens: int) -> int:
        """Return the place of the oldest key that is stored.

        Args:
            tokens: tokens of the request, the new ones included.
        """
        full = self.places is not None and tokens > self.places
        return tokens % self.places if full and self.places is not None else 0

    def seen(self, held: int) -> tuple[tuple[int, int], ...]:
        """Return, for each new token, the first and one past the last key that it sees, by age.

        Args:
            held: keys that are stored; the oldest has age 0.
        """
        ends = range(held - self.count + 1, held + 1)
        window = held if self.window is None else self.window
        return tuple((max(0, end - window), end) for end in ends)


def rotation(oldest: int, start: int, length: int, parts: int) -> int:
    """Return the key of each part with which reading a chunk of a ring begins.

    Args:
        oldest: place of the oldest key of the head.
        start: first place of the chunk.
        length: places of the chunk.
        parts: parts into which the sequence of a chunk is cut.
    """
    return (oldest - start) // parts if start <= oldest < start + length else 0
