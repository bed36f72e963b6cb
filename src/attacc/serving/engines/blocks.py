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
        self._queue: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, blocks))
        # Blocks in the prefix cache: how many requests have them, and what they hold.
        self._users: dict[int, int] = {}
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
        lacking = -(-tokens // self.size) - len(request.blocks) - hits
        return lacking if lacking > 0 else 0

    def take(self, request: Request, new: int) -> None:
        """Give a request blocks from the front of the queue; there must be as many.

        Args:
            request: the request.
            new: how many.
        """
        if not new:
            return
        first = self._queue.popitem
        if new == 1 and not self._keys:
            request.blocks.append(first(last=False)[0])
            return
        taken = [first(last=False)[0] for _ in range(new)]
        if self._keys:
            for block in taken:
                if block in self._keys:
                    self._forget(block)
        request.blocks += taken

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

        Nobody but the request itself, in another life, can look for blocks of contents of its own.
        So these are entered when it is preempted.

        Args:
            request: whose blocks.
            tokens: its first tokens that count.
        """
        if not self._caching:
            return
        full = tokens // self.size
        if request.runs is not None:
            self._enter(request, request.registered, full)
        request.registered = max(request.registered, full)

    def _enter(self, request: Request, first: int, end: int) -> None:
        """Enter blocks, by their numbers in the request, into the prefix cache."""
        for number in range(first, end):
            block, key = request.blocks[number], request.key(number, self.size)
            self._keys[block], self._users[block] = key, 1
            self._cached.setdefault(key, []).append(block)

    def _forget(self, block: int) -> None:
        key = self._keys.pop(block)
        del self._users[block]
        same = self._cached[key]
        same.remove(block)
        if not same:
            del self._cached[key]

    def release(self, request: Request, *, preempted: bool = False) -> None:
        """Take all blocks from a request; the last one becomes free first.

        Args:
            request: the request.
            preempted: whether it will look for its blocks again.
        """
        if preempted and request.runs is None:
            known = sum(block in self._keys for block in request.blocks)
            self._enter(request, known, request.registered)
        users, queue = self._users, self._queue
        if not users:
            queue.update(dict.fromkeys(reversed(request.blocks)))
        else:
            for block in reversed(request.blocks):
                if block in users:
                    users[block] -= 1
                    if users[block]:
                        continue
                queue[block] = None
        request.blocks = []
        request.registered = 0
