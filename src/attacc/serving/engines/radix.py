"""A radix tree of token sequences: the prefix cache of SGLang.

Source: SGLang 0.5.8 with pages of one token. A node holds the tokens between its parent and itself.
A match or an insertion follows a sequence from the root, stamps the nodes on its way, and splits a
node where the sequence leaves it. Requests lock the node where their own prefix ends, and so all
nodes above it. Leaves without a lock are given up, the one that was stamped longest ago first.

Tokens are not stored one by one. A sequence is a list of segments: what follows what, run by run.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

from attacc.serving.engines.policy import Request

Content = tuple[int, int]
"""Where tokens come from: a kind, and a number within the kind."""
_SHARED, _PROMPT, _OUTPUTS = range(3)


class Segment(NamedTuple):
    """Tokens of one content.

    Attributes:
        content: where they come from.
        first: the first one's number in the content.
        end: one more than the last one's number.
    """

    content: Content
    first: int
    end: int


def sequence(request: Request, tokens: int) -> list[Segment]:
    """Return the first tokens of a request, its outputs after its prompt.

    Args:
        request: the request.
        tokens: how many.
    """
    prompt = min(tokens, request.prompt)
    found: list[Segment] = []
    left = prompt
    for content, length in request.runs or ():
        if left <= 0:
            break
        found.append(Segment((_SHARED, content), 0, min(length, left)))
        left -= length
    if request.runs is None and prompt:
        found.append(Segment((_PROMPT, request.index), 0, prompt))
    if tokens > prompt:
        found.append(Segment((_OUTPUTS, request.index), 0, tokens - prompt))
    return found


class Node:
    """A node of the tree.

    Attributes:
        segments: tokens between its parent and itself.
        tokens: how many these are.
        parent: the node above; the root is its own.
        children: nodes below, by the content and number of their first token.
        locks: requests that hold it or a node below it.
        stamp: when it was matched or entered last, in ticks; -1 once it was given up.
    """

    __slots__ = ("children", "locks", "parent", "segments", "stamp", "tokens")

    def __init__(self, segments: list[Segment], parent: Node | None, stamp: int) -> None:
        self.segments, self.stamp = segments, stamp
        self.parent = self if parent is None else parent
        self.tokens = sum(end - first for _, first, end in segments)
        self.children: dict[tuple[Content, int], Node] = {}
        self.locks = 0

    @property
    def begins(self) -> tuple[Content, int]:
        """Content and number of its first token."""
        first = self.segments[0]
        return first.content, first.first


class RadixTree:
    """The tree.

    Attributes:
        tokens: tokens that it holds.
        evictable: tokens of nodes without a lock.
    """

    def __init__(self) -> None:
        self.tokens = self.evictable = 0
        self._root = Node([], None, 0)
        self._ticks = self._nodes = 0
        # Leaves without a lock, as (stamp, number, leaf); entries that are no longer true stay.
        self._leaves: list[tuple[int, int, Node]] = []
        self._numbers = count()

    @property
    def noted(self) -> int:
        """Notes of leaves that can be given up; some of them are no longer true."""
        return len(self._leaves)

    def match(self, key: Sequence[Segment]) -> tuple[int, Node]:
        """Return how many tokens of a sequence the tree holds, and the node where these end.

        Args:
            key: the sequence.
        """
        node, tokens, _ = self._follow(key)
        return tokens, node

    def insert(self, key: Sequence[Segment]) -> tuple[int, Node]:
        """Enter a sequence; return how many tokens the tree held already, and the last node.

        Args:
            key: the sequence.
        """
        node, tokens, rest = self._follow(key)
        if rest:
            child = Node(rest, node, self._ticks)
            node.children[child.begins] = child
            self.tokens += child.tokens
            self.evictable += child.tokens
            self._nodes += 1
            self._offer(child)
            node = child
        return tokens, node

    def lock(self, node: Node) -> None:
        """Keep a node and all nodes above it."""
        while node is not self._root:
            if not node.locks:
                self.evictable -= node.tokens
            node.locks += 1
            node = node.parent

    def unlock(self, node: Node) -> None:
        """Take back one lock."""
        above = node
        while above is not self._root:
            above.locks -= 1
            if not above.locks:
                self.evictable += above.tokens
            above = above.parent
        self._offer(node)

    def evict(self, tokens: int) -> int:
        """Give up leaves without a lock until enough tokens are gone, or none is left.

        Leaves go as a whole.

        Args:
            tokens: how many tokens at least.

        Returns:
            The tokens that are gone.
        """
        gone = 0
        while gone < tokens and self._leaves:
            stamp, _, node = heappop(self._leaves)
            if not self._is_free(stamp, node):
                continue
            del node.parent.children[node.begins]
            node.stamp = -1
            gone += node.tokens
            self._nodes -= 1
            self._offer(node.parent)
        self.tokens -= gone
        self.evictable -= gone
        return gone

    def _follow(self, key: Sequence[Segment]) -> tuple[Node, int, list[Segment]]:
        """Stamp the nodes along a sequence.

        Returns:
            The node where the tree leaves the sequence, the tokens up to there, and what follows.
        """
        self._ticks += 1
        node, tokens, rest = self._root, 0, list(key)
        while rest:
            child = node.children.get((rest[0].content, rest[0].first))
            if child is None:
                break
            child.stamp = self._ticks
            same, rest = _common(child.segments, rest)
            tokens += same
            if same < child.tokens:
                node = self._split(child, same)
                self._offer(child)
                break
            node = child
        self._offer(node)
        return node, tokens, rest

    def _split(self, node: Node, tokens: int) -> Node:
        """Cut a node in two, and return the upper part; requests keep the lower one."""
        head, tail = _cut(node.segments, tokens)
        upper = Node(head, node.parent, node.stamp)
        upper.parent.children[upper.begins] = upper
        node.segments, node.parent = tail, upper
        node.tokens -= tokens
        upper.children[node.begins] = node
        upper.locks = node.locks
        self._nodes += 1
        return upper

    def _offer(self, node: Node) -> None:
        """Note a node as one that can be given up, if it is one."""
        if not self._is_free(node.stamp, node):
            return
        if len(self._leaves) > 4 * self._nodes + 64:
            last = {id(leaf): (stamp, number, leaf) for stamp, number, leaf in self._leaves
                    if self._is_free(stamp, leaf)}  # fmt: skip
            self._leaves = list(last.values())
            heapify(self._leaves)
        heappush(self._leaves, (node.stamp, next(self._numbers), node))

    def _is_free(self, stamp: int, node: Node) -> bool:
        """Return whether a node still has this stamp, and is a leaf without a lock."""
        is_leaf = not node.children and node is not self._root
        return is_leaf and not node.locks and node.stamp == stamp


def _common(own: Sequence[Segment], key: list[Segment]) -> tuple[int, list[Segment]]:
    """Return how many tokens two sequences begin with together, and what is left of the second."""
    same, at, skip = 0, 0, 0
    for content, first, end in own:
        token = first
        while token < end:
            if at == len(key):
                return same, []
            other = key[at]
            begin = other.first + skip
            if other.content != content or begin != token:
                return same, _tail(key, at, skip)
            taken = min(end - token, other.end - begin)
            same += taken
            token += taken
            skip += taken
            if begin + taken == other.end:
                at, skip = at + 1, 0
    return same, _tail(key, at, skip)


def _tail(key: list[Segment], at: int, skip: int) -> list[Segment]:
    """Return a sequence without its first segments and the first tokens of the next one."""
    if not skip:
        return key[at:]
    content, first, end = key[at]
    return [Segment(content, first + skip, end), *key[at + 1 :]]


def _cut(segments: Sequence[Segment], tokens: int) -> tuple[list[Segment], list[Segment]]:
    """Cut a sequence after some of its tokens, at least one and not all."""
    head: list[Segment] = []
    left = tokens
    for at, (content, first, end) in enumerate(segments):
        if left <= end - first:
            head.append(Segment(content, first, first + left))
            rest = [Segment(content, first + left, end)] if left < end - first else []
            return head, [*rest, *segments[at + 1 :]]
        head.append(segments[at])
        left -= end - first
    raise ValueError(f"{tokens} tokens are not fewer than the sequence has")
