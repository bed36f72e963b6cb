"""Blocks of memory for keys and values, with a prefix cache, as vLLM V1 keeps them.

Free blocks lie in a queue. Blocks are taken from its front, and return to its end, the last block
of a request first. A free block keeps its tokens until it is taken: so the queue is in the order in
which cached blocks are given up. Block 0 is a placeholder that no request gets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from attacc.serving.engines.policy import Key, Request


class BlockPool:
    """Blocks, the queue of free ones, and the prefix cache.

    Args:
        blocks: how many there are, the placeholder included.
        size: tokens of a block.
        caching: whether full blocks are found again.
    """

    def __init__(self, blocks: int, size: int, *, caching: bool) -> None:
        self.size, self.blocks, self._caching = size, blocks, caching
        self._queue = OrderedDict.fromkeys(range(1, blocks))
        self._users = [0] * blocks
        self._keys: dict[int, Key] = {}
        self._cached: dict[Key, list[int]] = {}

    @property
    def free(self) -> int:
        """Free blocks."""
        return len(self._queue)

    @property
    def queue(self) -> list[int]:
        """Free blocks, the next one to be taken first."""
        return list(self._queue)

    def hits(self, request: Request) -> list[int]:
        """Return cached blocks that a request begins with.

        The last token is always computed, as its result is needed.
        """
        found: list[int] = []
        # Only another request's prompt, or its own earlier life, can have left what it looks for.
        if not self._caching or (request.runs is None and not request.preemptions):
            return found
        cached, size = self._cached, self.size
        for block in range((request.known - 1) // size):
            same = cached.get(request.key(block, size))
            if same is None:
                break
            found.append(same[0])
        return found

    def evictable(self, hits: Sequence[int]) -> int:
        """Return how many of the hit blocks lie in the queue of free ones."""
        return sum(not self._users[block] for block in hits)

    def need(self, request: Request, tokens: int, hits: int = 0) -> int:
        """Return the blocks that a request lacks for its first tokens.

        Args:
            request: the request.
            tokens: how many.
            hits: cached blocks that it begins with.
        """
        return max(-(-tokens // self.size) - len(request.blocks) - hits, 0)

    def take(self, request: Request, new: int) -> None:
        """Give a request blocks from the front of the queue; there must be as many.

        Args:
            request: the request.
            new: how many.
        """
        queue, users, keys, blocks = self._queue, self._users, self._keys, request.blocks
        for _ in range(new):
            block, _ = queue.popitem(last=False)
            if block in keys:
                self._forget(block)
            users[block] = 1
            blocks.append(block)

    def touch(self, request: Request, hits: Sequence[int]) -> None:
        """Give a request cached blocks."""
        for block in hits:
            if not self._users[block]:
                del self._queue[block]
            self._users[block] += 1
        request.blocks += hits
        request.registered += len(hits)

    def register(self, request: Request, tokens: int) -> None:
        """Enter full blocks into the prefix cache.

        Args:
            request: whose blocks.
            tokens: its first tokens that count.
        """
        if not self._caching:
            return
        for number in range(request.registered, tokens // self.size):
            block, key = request.blocks[number], request.key(number, self.size)
            self._keys[block] = key
            self._cached.setdefault(key, []).append(block)
            request.registered += 1

    def _forget(self, block: int) -> None:
        key = self._keys.pop(block)
        same = self._cached[key]
        same.remove(block)
        if not same:
            del self._cached[key]

    def release(self, request: Request) -> None:
        """Take all blocks from a request; the last one becomes free first."""
        users, queue = self._users, self._queue
        for block in reversed(request.blocks):
            users[block] -= 1
            if not users[block]:
                queue[block] = None
        request.blocks = []
        request.registered = 0
