"""Tables of step times: exact over numbers of tokens and chunks, straight lines over lengths.

Every table is priced at fixed nodes, in blocks of neighbouring nodes. So no value depends on which
step was asked for first. Blocks and cells are bounded in number; all are dropped together, and are
priced anew to the same values.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Final

import numpy as np

from attacc.gpu.costs import Floats
from attacc.serving.prices.parts import StepParts, StepSource
from attacc.serving.prices.works import Works
from attacc.units import MAX_SIZE

TOKENS_IN_BLOCK: Final = 512
"""Neighbouring numbers of tokens that are priced together."""
NEW_IN_BLOCK: Final = 32
"""Cells along the axis of new tokens that are priced together."""
PASTS_IN_BLOCK: Final = 8
"""Cells along the axis of past tokens that are priced together."""
MOST_BLOCKS: Final = 4096
"""Blocks that a table keeps."""
MOST_CELLS: Final = 2**18
"""Cells that a table keeps."""
SPREADS: Final = (0.0, 0.25, 0.5, 1.0)
"""Nodes of the spread of chunks: 0 for equal ones, 1 where one has nearly all tokens."""


def spaced(each_octave: int) -> tuple[int, ...]:
    """Return whole numbers from 1, at most so many in an octave, up to beyond the largest size.

    Args:
        each_octave: a power of two.
    """
    found = set(range(1, each_octave))
    size = each_octave
    while size <= MAX_SIZE:
        found.update(size * (each_octave + i) // each_octave for i in range(each_octave))
        size *= 2
    return tuple(sorted(found))


NEW: Final = tuple(
    sorted(
        {
            *((n, 0) for n in spaced(16) if n < 16 or n > 2048),
            *((16 * i, j) for i in range(1, 129) for j in (0, 1)),
            *((128 * i, j) for i in range(17, 65) for j in (0, 1)),
        }
    )
)
"""Nodes of the new tokens of chunks: tokens of each, and tokens more of all together. Kernels fill
tiles of 128 rows, which are 16 tokens of eight heads that share keys."""
PAST: Final = (0, *(n for n in spaced(4) if n >= 64))
"""Nodes of the number of tokens before a chunk."""


class TokenTable:
    """Values over whole numbers, exact, priced in blocks.

    Args:
        price: takes an array of numbers and returns their values.
        first: the least number.
        block: neighbouring numbers that are priced together.
    """

    def __init__(
        self, price: Callable[[Sequence[int]], Floats], first: int, block: int = TOKENS_IN_BLOCK
    ) -> None:
        self._price, self._first, self._block = price, first, block
        self._known: dict[int, float] = {}

    def at(self, number: int) -> float:
        """Return the value of a number."""
        known = self._known.get(number)
        if known is not None:
            return known
        if len(self._known) >= MOST_CELLS:
            self._known.clear()
        start = number - number % self._block
        numbers = range(max(start, self._first), start + self._block)
        self._known.update(zip(numbers, self._price(numbers).tolist(), strict=True))
        return self._known[number]


def uneven(chunks: int, nodes: Sequence[tuple[int, int, float]]) -> Works:
    """Return steps with one large chunk; their other chunks are equal.

    Args:
        chunks: how many in a step.
        nodes: for each step, the new tokens of all its chunks together, the tokens before each of
            them, and their spread. The squares of the new tokens sum to ``1 + spread * (chunks -
            1)`` times those of equal chunks, as nearly as whole numbers allow.
    """
    new, past, spread = np.array(nodes).T
    small = np.rint(new / chunks * (1.0 - np.sqrt(spread)))
    sizes = np.repeat(np.maximum(1, small)[:, None], chunks, axis=1)
    # Of equal chunks, some have one token more.
    more = np.arange(chunks) < (new - chunks * (new // chunks))[:, None]
    sizes = np.where((spread == 0.0)[:, None], (new // chunks)[:, None] + more, sizes)
    sizes[:, 0] = new - sizes[:, 1:].sum(axis=1)
    none = np.zeros(len(nodes), dtype=np.int64)
    return Works(
        none,
        none,
        none,
        sizes.ravel().astype(np.int64),
        np.repeat(past, chunks).astype(np.int64),
        np.zeros(sizes.size, dtype=np.int64),
        chunks * np.arange(1, len(nodes) + 1),
    )


class PromptTable:
    """Values over chunks of prompts: exact in their number, lines over sizes and past tokens.

    Args:
        source: prices the steps.
        taken: returns a value for each step.

    Attributes:
        checks: functions that return steps at the centres of cells that were priced.
    """

    def __init__(self, source: StepSource, taken: Callable[[StepParts], Floats]) -> None:
        self._source, self._taken = source, taken
        self._blocks: dict[tuple[int, int, int], Floats] = {}
        self._cells: dict[tuple[int, int, int, int], tuple[float, ...]] = {}
        self._axes: dict[int, tuple[float, ...]] = {}
        self.checks: list[Callable[[], Works]] = []

    def at(self, chunks: int, new: int, squares: int, pairs: int) -> float:
        """Return the value of chunks.

        Args:
            chunks: how many, at least 1.
            new: new tokens of all.
            squares: sum of their squares.
            pairs: sum of the products of new and past tokens.
        """
        # Kernels differ for prompts of one token each. So no line joins these to longer ones.
        mean = new / chunks if new == chunks else max(2.0, new / chunks)
        past = pairs / new
        spread = (chunks * squares / (new * new) - 1.0) / (chunks - 1) if chunks > 1 else 0.0
        axis = self._axes.get(chunks) or self._axis_of(chunks)
        i, j = bisect_right(axis, mean) - 1, bisect_right(PAST, past) - 1
        k = 0 if spread < SPREADS[1] else 1 if spread < SPREADS[2] else 2
        cell = self._cells.get((chunks, i, j, k))
        if cell is None:
            cell = self._cell(chunks, axis, i, j, k)
        low, per_new, near, per_past, even, per_spread = cell[:6]
        v000, v100, v010, v110, v001, v101, v011, v111 = cell[6:]
        x, y = (mean - low) * per_new, (past - near) * per_past
        lower, upper = v000 + (v100 - v000) * x, v010 + (v110 - v010) * x
        value = lower + (upper - lower) * y
        if spread <= 0.0:
            return value
        lower, upper = v001 + (v101 - v001) * x, v011 + (v111 - v011) * x
        return value + (lower + (upper - lower) * y - value) * (spread - even) * per_spread

    def _axis_of(self, chunks: int) -> tuple[float, ...]:
        """Return the nodes of the mean number of new tokens, and keep them."""
        if len(self._axes) >= MOST_BLOCKS:
            self._axes.clear()
        self._axes[chunks] = tuple(base + more / chunks for base, more in NEW)
        return self._axes[chunks]

    def _cell(
        self, chunks: int, axis: tuple[float, ...], i: int, j: int, k: int
    ) -> tuple[float, ...]:
        """Make a cell from its block."""
        block = self._block(chunks, i // NEW_IN_BLOCK, j // PASTS_IN_BLOCK)
        if len(self._cells) >= MOST_CELLS:
            self._cells.clear()
        row, column = i % NEW_IN_BLOCK, j % PASTS_IN_BLOCK
        corners = [
            float(block[row + x, column + y, min(k + z, block.shape[2] - 1)])
            for z in (0, 1)
            for y in (0, 1)
            for x in (0, 1)
        ]
        cell = (
            axis[i],
            1.0 / (axis[i + 1] - axis[i]),
            float(PAST[j]),
            1.0 / (PAST[j + 1] - PAST[j]),
            SPREADS[k],
            1.0 / (SPREADS[k + 1] - SPREADS[k]),
            *corners,
        )
        self._cells[chunks, i, j, k] = cell
        return cell

    def _block(self, chunks: int, rows: int, columns: int) -> Floats:
        """Return the values of a block: (new, past, spreads)."""
        found = self._blocks.get((chunks, rows, columns))
        if found is not None:
            return found
        if len(self._blocks) >= MOST_BLOCKS:
            self._blocks.clear()
        nodes = NEW[rows * NEW_IN_BLOCK :][: NEW_IN_BLOCK + 1]
        pasts = PAST[columns * PASTS_IN_BLOCK :][: PASTS_IN_BLOCK + 1]
        spreads = SPREADS if chunks > 1 else SPREADS[:1]
        totals = [chunks * base + more for base, more in nodes]
        works = uneven(chunks, list(product(totals, pasts, spreads)))
        values = self._taken(self._source.exact(works))
        found = values.reshape(len(nodes), len(pasts), len(spreads))
        self._blocks[chunks, rows, columns] = found
        self.checks.append(partial(_centres, chunks, totals, pasts, spreads))
        return found


def _centres(
    chunks: int, totals: Sequence[int], pasts: Sequence[int], spreads: Sequence[float]
) -> Works:
    """Return the centres of a quarter of the cells of a block."""
    new = [sum(pair) // 2 for pair in pairwise(totals)]
    past = [sum(pair) // 2 for pair in pairwise(pasts)][::4]
    spread = [sum(pair) / 2 for pair in pairwise(spreads)] or spreads
    return uneven(chunks, list(product(new, past, spread)))
