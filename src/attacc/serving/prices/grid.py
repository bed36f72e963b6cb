"""A grid of whole steps, for systems on which the parts of a step run at the same time.

Steps are those of equal requests and equal chunks. Straight lines join the nodes along each axis.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Final

from attacc.serving.prices.parts import StepSource
from attacc.serving.prices.tables import MOST_CELLS, spaced
from attacc.serving.prices.works import Works
from attacc.serving.work import Chunk, Work
from attacc.system.pricer import Timed

REQUESTS: Final = spaced(8)
"""Nodes of the number of requests that decode."""
KEYS: Final = spaced(2)
"""Nodes of their mean number of keys."""
NEW: Final = spaced(4)
"""Nodes of the mean number of new tokens of a chunk."""
PAST: Final = (0, *(n for n in spaced(1) if n >= 256))
"""Nodes of the tokens before a chunk."""

Corners = tuple[tuple[float, float], ...]
"""Device's and host's time of the corners of a cell; the last axis varies fastest."""


class MixedGrid:
    """Whole steps with prompts, exact in the number of chunks.

    Args:
        source: prices the steps.

    Attributes:
        checks: functions that return the centres of cells that were priced.
    """

    def __init__(self, source: StepSource) -> None:
        self._source = source
        self._cells: dict[tuple[int, ...], Corners] = {}
        self.checks: list[Callable[[], Works]] = []

    def at(
        self, decoding: int, keys: int, chunks: int, new: int, pairs: int
    ) -> tuple[float, float]:
        """Return the device's and the host's time of a step in nanoseconds.

        Args:
            decoding: requests that decode; 0 for none.
            keys: keys of all of them together.
            chunks: how many, at least 1.
            new: new tokens of all chunks.
            pairs: sum of the products of new and past tokens.
        """
        asked: list[tuple[tuple[int, ...], float]] = [(NEW, new / chunks), (PAST, pairs / new)]
        if decoding:
            asked = [(REQUESTS, decoding), (KEYS, keys / decoding), *asked]
        places = [bisect_right(nodes, value) - 1 for nodes, value in asked]
        cell = (chunks, *places)
        corners = self._cells.get(cell)
        if corners is None:
            nodes = [own[i : i + 2] for (own, _), i in zip(asked, places, strict=True)]
            corners = self._priced(chunks, nodes)
            if len(self._cells) >= MOST_CELLS:
                self._cells.clear()
            self._cells[cell] = corners
        values = list(corners)
        for (nodes, value), i in zip(reversed(asked), reversed(places), strict=True):
            share = (value - nodes[i]) / (nodes[i + 1] - nodes[i])
            values = [
                (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)
                for a, b in zip(values[::2], values[1::2], strict=True)
            ]
        return values[0]

    def _priced(self, chunks: int, nodes: Sequence[tuple[int, ...]]) -> Corners:
        """Price the corners of a cell, and note its centre."""
        works = [_work(chunks, corner) for corner in product(*nodes)]
        decoding = len(nodes) == 4
        sizes, keys = (nodes[0], nodes[1]) if decoding else ((1, 1), (1, 1))
        timed = Timed(tuple(sorted({*sizes})), (keys[0], keys[1]))
        parts = self._source.parts_in_block(Works.of(works), timed)
        centre = _work(chunks, [sum(pair) // 2 for pair in nodes])
        self.checks.append(partial(Works.of, [centre]))
        return tuple(zip(parts.device_ns.tolist(), parts.host_ns.tolist(), strict=True))


def _work(chunks: int, sizes: Sequence[int]) -> Work:
    """Return a step of equal requests and equal chunks."""
    *decode, new, past = sizes
    own = (Chunk(new, past, 0, True),) * chunks
    if not decode:
        return Work(0, 0, 0, own)
    requests, keys = decode
    return Work(requests, requests * keys, keys, own)
