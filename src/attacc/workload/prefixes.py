"""What prompts share: the blocks of each prompt by id, and each prompt as runs of text.

An id of a block names text. Two prompts hold the same text in block j where their ids of block j
are equal, and so are the ids of all blocks before it. A trace of prefix hashes holds such ids
instead of text.

All is held in columns. A million prompts of 25 blocks take 200 MB as `PrefixHashes`, and 400 MB
more as `PromptRuns`; as tuples of Python they would take several GB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.units import whole

I64 = npt.NDArray[np.int64]

MOONCAKE_BLOCK_TOKENS: Final = 512
"""Tokens of a block in Mooncake's traces (kvcache-ai/Mooncake, FAST25 traces)."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptRuns:
    """Prompts as runs of text, one after the other.

    The tokens of equal (content, offset in the run) are the same text, if the runs before them in
    their prompts are equal, too. A prompt that shares nothing is one run.

    Attributes:
        content: (runs,) id of the text of each run. It is negative where no other prompt has this
            text: request i has -1 - i.
        tokens: (runs,) tokens of each run, at least one.
        starts: (requests + 1,) place of the first run of each request; the last element is the
            number of runs.
    """

    content: I64
    tokens: I64
    starts: I64

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.starts) - 1

    def of(self, request: int) -> tuple[tuple[int, int], ...]:
        """Return the runs of one request: (content, tokens) of each.

        Args:
            request: its place, from 0.
        """
        runs = slice(self.starts[request], self.starts[request + 1])
        return tuple(zip(self.content[runs].tolist(), self.tokens[runs].tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class PrefixHashes:
    """Ids of the blocks of prompts.

    A prompt's block j holds the prompt's tokens from ``j * block_tokens`` on. The last block of a
    prompt may be partial. A prompt may have fewer ids than blocks; its other tokens are its own.

    Attributes:
        ids: (blocks,) ids of the blocks of all prompts, one prompt after the other.
        starts: (requests + 1,) place of the first id of each prompt; the last element is the number
            of ids.
        block_tokens: tokens of a full block.
    """

    ids: I64
    starts: I64
    block_tokens: int

    @classmethod
    def of_lists(
        cls, lists: Iterable[Sequence[int]], block_tokens: int = MOONCAKE_BLOCK_TOKENS
    ) -> PrefixHashes:
        """Return the ids that lists hold.

        Args:
            lists: for each prompt the ids of its blocks, whole numbers of 64 bits.
            block_tokens: tokens of a full block.

        Raises:
            InputError: the size of a block is out of range.
        """
        whole(block_tokens, where="block_tokens")
        ids, starts = array("q"), array("q", [0])
        for one in lists:
            ids.extend(one)
            starts.append(len(ids))
        return cls(np.array(ids, dtype=np.int64), np.array(starts, dtype=np.int64), block_tokens)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.starts) - 1

    @property
    def counts(self) -> I64:
        """(requests,) number of ids of each prompt."""
        return np.diff(self.starts)

    def of(self, request: int) -> tuple[int, ...]:
        """Return the ids of the blocks of one prompt.

        Args:
            request: its place, from 0.
        """
        return tuple(self.ids[self.starts[request] : self.starts[request + 1]].tolist())

    def take(self, rows: I64) -> PrefixHashes:
        """Return the ids of some prompts.

        Args:
            rows: (chosen,) their places, in the order of the result.
        """
        counts = self.counts[rows]
        starts = starts_of(counts)
        moved: I64 = np.repeat(self.starts[rows] - starts[:-1], counts)
        places = np.arange(len(moved)) + moved
        return PrefixHashes(self.ids[places], starts, self.block_tokens)

    def runs(self, prompt_tokens: I64, block_tokens: int | None = None) -> PromptRuns:
        """Return each prompt as runs: its blocks with an id, then its other tokens.

        Args:
            prompt_tokens: (requests,) tokens of each prompt.
            block_tokens: tokens of a full block; None for those of the source.

        Raises:
            InputError: a prompt has more ids than blocks, or the size of a block is out of range.
        """
        size = self.block_tokens if block_tokens is None else block_tokens
        whole(size, where="block_tokens")
        counts, blocks = self.counts, -(-prompt_tokens // size)
        wrong = np.flatnonzero(counts > blocks)
        if len(wrong):
            first = int(wrong[0])
            raise InputError(
                f"request {first} has {counts[first]} ids of blocks, and its "
                f"{prompt_tokens[first]} tokens are {blocks[first]} blocks of {size}",
                where="prefix_hashes",
                hint="give block_tokens, the tokens that a block of the trace has",
            )
        is_rest = counts < blocks
        starts = starts_of(counts + is_rest)
        tokens = np.full(starts[-1], size, dtype=np.int64)
        tokens[starts[1:] - 1] = prompt_tokens - size * (counts - ~is_rest)
        content = np.empty(starts[-1], dtype=np.int64)
        has_id = np.ones(starts[-1], dtype=np.bool_)
        has_id[starts[1:][is_rest] - 1] = False
        content[has_id] = _never_negative(self.ids)
        content[~has_id] = -1 - np.flatnonzero(is_rest)
        return PromptRuns(content, tokens, starts)


def starts_of(counts: I64) -> I64:
    """Return where lists start that lie one after the other, and where the last one ends.

    Args:
        counts: (lists,) number of elements of each.

    Returns:
        (lists + 1,) places.
    """
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def private_runs(prompt_tokens: I64) -> PromptRuns:
    """Return prompts that share nothing: each is one run.

    Args:
        prompt_tokens: (requests,) tokens of each prompt.
    """
    requests = np.arange(len(prompt_tokens))
    return PromptRuns(-1 - requests, prompt_tokens, np.arange(len(prompt_tokens) + 1))


def _never_negative(ids: I64) -> I64:
    """Return ids as they are, or their ranks where one of them is negative."""
    if len(ids) and ids.min() < 0:
        return np.unique(ids, return_inverse=True)[1].astype(np.int64)
    return ids
