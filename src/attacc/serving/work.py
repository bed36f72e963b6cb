"""What an engine's step computes, as the sums that its price depends on.

An engine keeps these sums up to date from step to step. So a step costs the same to describe for
one request and for a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attacc.errors import EngineError


class Chunk(NamedTuple):
    """Tokens of one request that a step prefills.

    Attributes:
        new: tokens that are computed, at least 1.
        past: tokens before them, whose keys and values are known.
        cached: of these, tokens that another request computed and left in the prefix cache.
        emits: whether the step yields a token for the request, as the last chunk does.
    """

    new: int
    past: int
    cached: int
    emits: bool


Lists = tuple[tuple[tuple[int, ...], ...], ...]
"""Per stack and channel, the keys of its chunks."""


def forgotten() -> Lists:
    """Stand for chunks of a step that is over.

    Raises:
        EngineError: whenever it is called.
    """
    raise EngineError("what channels hold is known only while a step is launched")


class Held(NamedTuple):
    """What the channels of AttAccs hold of the requests that decode, for one layer.

    Attributes:
        keys: keys in the channel that takes longest.
        chunks: chunks in this channel.
        all_chunks: chunks in all channels.
        lists: returns, until the next step, per stack and channel the keys of its chunks.
    """

    keys: int
    chunks: int
    all_chunks: int
    lists: Callable[[], Lists] = forgotten


class Work(NamedTuple):
    """What one step computes.

    Attributes:
        decoding: requests that decode, one token each.
        keys: keys that all of them attend to together, their new ones included.
        longest: keys of the longest of them; 0 where none decodes.
        chunks: what is prefilled beside them.
        held: where their keys lie in AttAccs; None where nothing depends on it.
    """

    decoding: int
    keys: int
    longest: int
    chunks: tuple[Chunk, ...] = ()
    held: Held | None = None

    @property
    def new_tokens(self) -> int:
        """Tokens that the step computes."""
        return self.decoding + sum(chunk.new for chunk in self.chunks)
