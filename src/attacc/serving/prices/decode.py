"""The table of requests that decode: exact in their number, over mean and longest keys.

Equal requests have values on straight lines between numbers of keys. Requests of unequal lengths
take longer, by a share of what equal requests would take longer that all are as long as the
longest. Cost models know such a share (`attacc.gpu.costs.ragged`). The table takes it from priced
steps at fixed nodes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np

from attacc.gpu.costs import Floats
from attacc.serving.prices.parts import StepParts, StepSource
from attacc.serving.prices.tables import MOST_BLOCKS, MOST_CELLS, spaced
from attacc.serving.prices.works import Works
from attacc.serving.work import Chunk
from attacc.system.batches import Ints
from attacc.system.pricer import Timed

REQUESTS_IN_BLOCK: Final = 16
"""Neighbouring numbers of requests whose unequal lengths are priced together."""
EQUAL_IN_BLOCK: Final = 64
"""Neighbouring numbers of equal requests that are priced together, where GPUs attend."""
TIMED_EVERY: Final = 5
"""Attention on AttAccs is timed at every so many requests, and at the ends of blocks."""
NODES_IN_BLOCK: Final = 16
"""Cells along the axis of keys that are priced together, where lengths differ."""
EVEN_NODES_IN_BLOCK: Final = 32
"""Likewise, of equal requests."""
KEYS: Final = tuple(
    sorted({*((n, 0) for n in spaced(8)), *((64 * i, j) for i in range(1, 33) for j in (0, 1))})
)
"""Nodes of the keys of requests whose lengths differ: keys of each, and keys more of all together.
Kernels read keys in blocks of 64, so that times rise in steps where requests have few keys."""
EVEN_KEYS: Final = tuple(
    sorted(
        {
            *((n, 0) for n in spaced(8) if n < 4096),
            *((64 * i, j) for i in range(1, 65) for j in (0, 1)),
            *((n, 0) for n in spaced(32) if n > 4096),
        }
    )
)
"""Nodes of the keys of equal requests, likewise. Kernels change how they split keys over cores at
some lengths. So the nodes are dense."""
REACHES: Final = (0, 1, 2, 3, *(n * 2**i - 1 for i in range(1, 24) for n in (3, 4)))
"""Nodes of the reach of the longest request."""
REACHES_IN_BLOCK: Final = 4
"""Cells along the axis of reaches that are priced together."""
LEAST_RISE: Final = 1e-6
"""Relative rise from mean to longest keys below which a share is not taken from a node."""

Taken = Callable[[StepParts], Floats]
"""Returns a value for each step."""


def block_ends(requests: Ints, keys: Ints) -> tuple[Ints, Ints]:
    """Return the ends of the blocks of `EqualTable` in which steps lie.

    Args:
        requests: (steps,) how many decode, at least 1.
        keys: (steps,) their mean number of keys, at least 1.

    Returns:
        (2, steps) fewest and most requests of the block of each step, and fewest and most keys.
    """
    first = requests - requests % REQUESTS_IN_BLOCK
    rows = np.stack([np.maximum(first, 1), first + REQUESTS_IN_BLOCK - 1])
    nodes = np.array([base for base, _ in EVEN_KEYS])
    start = (
        (np.searchsorted(nodes, keys, side="right") - 1)
        // EVEN_NODES_IN_BLOCK
        * EVEN_NODES_IN_BLOCK
    )
    last = np.minimum(start + EVEN_NODES_IN_BLOCK, nodes.size - 1)
    return rows, np.stack([nodes[start], np.array([sum(node) for node in EVEN_KEYS])[last]])


def timed_between(fewest: int, most: int, keys: tuple[int, int]) -> Timed:
    """Return the batches of a block at which attention on AttAccs is timed.

    Args:
        fewest: requests of the smallest batch.
        most: requests of the largest one.
        keys: fewest and most mean keys.
    """
    return Timed((*range(fewest, most, TIMED_EVERY), most), keys)


def reaches(requests: int) -> tuple[int, ...]:
    """Return nodes of the reach of the longest request.

    The reach is 0 for equal requests, and one less than their number where the longest has all
    keys but one for each of the others.

    Args:
        requests: how many decode.
    """
    most = requests - 1
    return (*(n for n in REACHES if n < most), most)


Cell = tuple[int, float, float, float, float]
"""Requests, the fewest keys and those at which the next cell begins, the value at the fewest, and
the slope."""
NOWHERE: Final[Cell] = (0, 0.0, 0.0, 0.0, 0.0)
"""A cell in which no step lies."""


class EqualTable:
    """Values over requests of equal lengths: exact in their number, lines over their keys.

    Args:
        source: prices the steps.
        taken: returns a value for each step.
        beside: chunks in each of the steps.
    """

    def __init__(self, source: StepSource, taken: Taken, beside: tuple[Chunk, ...]) -> None:
        self._source, self._taken, self._beside = source, taken, beside
        self._rows = REQUESTS_IN_BLOCK if source.equal else EQUAL_IN_BLOCK
        self._blocks: dict[tuple[int, int], Floats] = {}
        self._cells: dict[tuple[int, int], Cell] = {}
        self._axes: dict[int, tuple[float, ...]] = {}

    def axis(self, requests: int) -> tuple[float, ...]:
        """Return the nodes of the mean keys of so many requests.

        Args:
            requests: how many decode.
        """
        found = self._axes.get(requests)
        if found is None:
            if len(self._axes) >= MOST_BLOCKS:
                self._axes.clear()
            found = self._axes[requests] = tuple(base + more / requests for base, more in EVEN_KEYS)
        return found

    def cell(self, requests: int, keys: float) -> Cell:
        """Return the cell in which a step lies.

        Args:
            requests: how many decode, at least 1.
            keys: keys of each of them, at least 1.
        """
        i = bisect_right(self._axes.get(requests) or self.axis(requests), keys) - 1
        return self._cells.get((requests, i)) or self._cell(requests, i)

    def _cell(self, requests: int, i: int) -> Cell:
        """Make a cell from its block."""
        rows, columns = requests // self._rows, i // EVEN_NODES_IN_BLOCK
        block = self._blocks.get((rows, columns))
        if block is None:
            if len(self._blocks) >= MOST_BLOCKS:
                self._blocks.clear()
            block = self._blocks[rows, columns] = self._priced(rows, columns)
        if len(self._cells) >= MOST_CELLS:
            self._cells.clear()
        axis, column = self.axis(requests), i % EVEN_NODES_IN_BLOCK
        low, high = block[requests - max(1, rows * self._rows), column : column + 2].tolist()
        cell = requests, axis[i], axis[i + 1], low, (high - low) / (axis[i + 1] - axis[i])
        self._cells[requests, i] = cell
        return cell

    def _priced(self, rows: int, columns: int) -> Floats:
        """Return the values of a block: (requests, keys)."""
        sizes = np.arange(max(1, rows * self._rows), (rows + 1) * self._rows)
        nodes = EVEN_KEYS[columns * EVEN_NODES_IN_BLOCK :][: EVEN_NODES_IN_BLOCK + 1]
        base, more = np.array(nodes).T
        keys = sizes[:, None] * base + more
        each = np.broadcast_to(sizes[:, None], keys.shape).ravel()
        longest = np.broadcast_to(base + more, keys.shape).ravel()
        works = Works.beside(each, keys.ravel(), longest, self._beside)
        timed = timed_between(int(sizes[0]), int(sizes[-1]), (nodes[0][0], sum(nodes[-1])))
        return self._taken(self._source.parts_in_block(works, timed)).reshape(keys.shape)


class DecodeTable:
    """Values over requests that decode.

    Args:
        source: prices the steps.
        taken: returns a value for each step.
        beside: chunks in each of the steps.

    Attributes:
        checks: functions that return steps at the centres of cells that were priced.
    """

    def __init__(self, source: StepSource, taken: Taken, beside: tuple[Chunk, ...] = ()) -> None:
        self._source, self._taken, self._beside = source, taken, beside
        self._even = EqualTable(source, taken, beside)
        self._equal = source.equal
        self._blocks: dict[tuple[int, int, int], dict[int, Floats]] = {}
        self._cells: dict[tuple[int, int, int], tuple[float, ...]] = {}
        self._reaches: dict[int, tuple[int, ...]] = {}
        self._axes: dict[int, tuple[float, ...]] = {}
        # Steps of a run lie in the same cells one after the other.
        self._near = self._far = NOWHERE
        self.checks: list[Callable[[], Works]] = []

    def at(self, requests: int, keys: int, longest: int) -> float:
        """Return the value of a step.

        Args:
            requests: how many decode, at least 1.
            keys: keys of all together.
            longest: keys of the longest.
        """
        mean = keys / requests
        near = self._near
        if near[0] != requests or not near[1] <= mean < near[2]:
            near = self._near = self._even.cell(requests, mean)
        value = near[3] + (mean - near[1]) * near[4]
        if longest <= mean or self._equal:
            return value
        far = self._far
        if far[0] != requests or not far[1] <= longest < far[2]:
            far = self._far = self._even.cell(requests, longest)
        rise = far[3] + (longest - far[1]) * far[4] - value
        if rise <= 0.0:
            return value
        own = self._reaches.get(requests) or self._reaches_of(requests)
        reach = (longest - mean) / (mean - 1.0)
        i = bisect_right(self._axes[requests], mean) - 1
        j = min(bisect_right(own, reach), len(own) - 1) - 1
        cell = self._cells.get((requests, i, j))
        if cell is None:
            cell = self._cell(requests, i, j)
        low, per_key, near, per_reach, s00, s10, s01, s11 = cell
        x, y = (mean - low) * per_key, (reach - near) * per_reach
        lower, upper = s00 + (s10 - s00) * x, s01 + (s11 - s01) * x
        return value + rise * (lower + (upper - lower) * y)

    def _reaches_of(self, requests: int) -> tuple[int, ...]:
        """Return the nodes of the reach of so many requests; keep them and those of their keys."""
        if len(self._reaches) >= MOST_BLOCKS:
            self._reaches.clear()
            self._axes.clear()
        self._reaches[requests] = reaches(requests)
        self._axes[requests] = tuple(base + more / requests for base, more in KEYS)
        return self._reaches[requests]

    def _cell(self, requests: int, i: int, j: int) -> tuple[float, ...]:
        """Make a cell from its block."""
        rows, columns, deep = (
            requests // REQUESTS_IN_BLOCK,
            i // NODES_IN_BLOCK,
            j // REACHES_IN_BLOCK,
        )
        if (rows, columns, deep) not in self._blocks:
            if len(self._blocks) >= MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[rows, columns, deep] = self._shares(rows, columns, deep)
        block = self._blocks[rows, columns, deep][requests]
        if len(self._cells) >= MOST_CELLS:
            self._cells.clear()
        axis, own = self._axes[requests], self._reaches[requests]
        column, place = i % NODES_IN_BLOCK, j % REACHES_IN_BLOCK
        cell = (
            axis[i],
            1.0 / (axis[i + 1] - axis[i]),
            float(own[j]),
            1.0 / (own[j + 1] - own[j]),
            *block[column : column + 2, place].tolist(),
            *block[column : column + 2, place + 1].tolist(),
        )
        self._cells[requests, i, j] = cell
        return cell

    def _shares(self, rows: int, columns: int, deep: int) -> dict[int, Floats]:
        """Return the shares of a block: requests -> (keys, reaches)."""
        first = rows * REQUESTS_IN_BLOCK
        nodes = KEYS[columns * NODES_IN_BLOCK :][: NODES_IN_BLOCK + 1]
        own = {
            size: self._reaches_of(size)[deep * REACHES_IN_BLOCK :][: REACHES_IN_BLOCK + 1]
            for size in range(max(2, first), first + REQUESTS_IN_BLOCK)
        }
        own = {size: reach for size, reach in own.items() if len(reach) > 1}
        points = [
            (size, size * base + more, reach)
            for size, each in own.items()
            for base, more in nodes
            for reach in each
        ]
        works = self._works(*np.array(points).T)
        sizes, longest = works.decoding, works.longest
        least = -(-works.keys // sizes)
        every = Works.joined(
            [
                works,
                Works.beside(sizes, works.keys, least, self._beside),
                Works.beside(sizes, sizes * longest, longest, self._beside),
            ]
        )
        values = self._taken(self._source.exact(every))
        value, even, most = np.split(values, 3)
        rise = most - even
        told = (longest > least) & (rise > LEAST_RISE * np.abs(even))
        share = np.divide(value - even, rise, out=np.full_like(rise, np.nan), where=told)
        found, done = dict[int, Floats](), 0
        for size, reach in own.items():
            shape = len(nodes), len(reach)
            found[size] = filled(share[done : done + shape[0] * shape[1]].reshape(shape))
            done += found[size].size
        middle = list(own)[len(own) // 2]
        self.checks.append(partial(self._centres, middle, nodes, own[middle]))
        return found

    def _works(self, sizes: Ints, keys: Ints, reach: Floats | Ints) -> Works:
        """Return steps whose longest requests have a reach, as nearly as whole numbers allow."""
        mean = keys / sizes
        most = np.rint(mean + reach * (mean - 1.0)).astype(np.int64)
        longest = np.minimum(keys - sizes + 1, np.maximum(-(-keys // sizes), most))
        return Works.beside(sizes, keys, longest, self._beside)

    def _centres(self, size: int, nodes: Sequence[tuple[int, int]], own: Sequence[int]) -> Works:
        """Return the centres of cells at one number of requests."""
        keys = [size * base + more for base, more in nodes]
        reach = [(near + far) / 2 for near, far in pairwise(own)]
        middle = np.repeat([sum(pair) // 2 for pair in pairwise(keys)], len(reach))
        return self._works(np.full_like(middle, size), middle, np.tile(reach, len(keys) - 1))


def filled(shares: Floats) -> Floats:
    """Return shares in which those that are not known are those of the next longer requests.

    The next further reach counts first, then the next larger mean. A share of 1 stands where there
    is none, as for a core that works through one block.

    Args:
        shares: (keys, reaches) shares; not a number where equal requests of the mean take as long
            as those of the longest.
    """
    found = shares.copy()
    for j in range(found.shape[1] - 2, -1, -1):
        found[:, j] = np.where(np.isnan(found[:, j]), found[:, j + 1], found[:, j])
    for i in range(found.shape[0] - 2, -1, -1):
        found[i] = np.where(np.isnan(found[i]), found[i + 1], found[i])
    return np.nan_to_num(found, nan=1.0)
