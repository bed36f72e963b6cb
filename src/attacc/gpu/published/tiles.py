"""The tile search of the published system model, compiled.

Sizes are floating-point numbers because the published model divides LLaMA's intermediate size
without rounding. For whole sizes every intermediate result up to 2**53 is exact.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacc.compiled import kernel

L1_SIDES: Final = np.array([8, 16, 32, *range(64, 513, 64)], dtype=np.float64)
"""Candidate sides of a tile in the first-level cache."""
L1_DEPTH: Final = 32.0
"""Inner dimension of a tile in the first-level cache."""
L2_PARTS: Final = 64.0
"""Number of parts into which a tile in the second-level cache divides the inner dimension."""
REGISTER_SIDE: Final = 16.0
"""Side of the tile that registers hold."""


@kernel
def traffic(
    tm: float,
    tn: float,
    m: float,
    n: float,
    k: float,
    left: float,
    right: float,
    out: float,
) -> float:
    """Return the bytes that one product moves if it is computed in tiles of tm x tn results.

    Every column of tiles reads the left matrix, and every row of tiles reads the right matrix.
    """
    return math.ceil(n / tn) * m * k * left + math.ceil(m / tm) * n * k * right + m * n * out


@kernel
def footprint(tm: float, tn: float, depth: float, left: float, right: float, out: float) -> float:
    """Return the bytes of a tile: its parts of both operands, and its results."""
    return tm * depth * left + tn * depth * right + tm * tn * out


@kernel
def search_tiles(
    m: float,
    n: float,
    k: float,
    count: float,
    left: float,
    right: float,
    out: float,
    tiles_in_parallel: int,
    cores: float,
    l1_bytes: float,
    l2_bytes: float,
) -> tuple[float, float, float, float]:
    """Choose the tiles of ``count`` products of an (m, k) with a (k, n) matrix.

    Args:
        m: rows of the left matrix.
        n: columns of the right matrix.
        k: inner dimension.
        count: independent products.
        left: bytes of one element of the left matrix.
        right: bytes of one element of the right matrix.
        out: bytes of one element of the result.
        tiles_in_parallel: 1 if the tiles of one product run on different cores, else 0.
        cores: cores of the GPU.
        l1_bytes: first-level cache of one core.
        l2_bytes: second-level cache.

    Returns:
        The share of the cores that work. Then the bytes that all products move in tiles of the
        second-level cache, of the first-level cache, and of registers.
    """
    best = math.inf
    best_tm = best_tn = utilization = l1_traffic = 0.0
    for side_m in L1_SIDES:
        tm = min(side_m, m)
        for side_n in L1_SIDES:
            tn = min(side_n, n)
            if footprint(tm, tn, L1_DEPTH, left, right, out) > l1_bytes:
                continue
            blocks = count
            if tiles_in_parallel:
                blocks = count * math.ceil(m / tm) * math.ceil(n / tn)
            used = blocks / (math.ceil(blocks / cores) * cores)
            moved = traffic(tm, tn, m, n, k, left, right, out) * count
            score = moved / (used * used)
            if score < best:
                best, best_tm, best_tn = score, tm, tn
                utilization, l1_traffic = used, moved

    # Traffic falls with both sides of a tile. So for each tm the largest tn that fits is the best,
    # and only rows are searched. The tile of the first-level cache may always be used.
    depth = k / L2_PARTS
    least = traffic(best_tm, best_tn, m, n, k, left, right, out)
    columns = math.ceil(n / best_tn)
    for i in range(1, math.ceil(m / best_tm) + 1):
        tm = min(i * best_tm, m)
        if footprint(tm, min(best_tn, n), depth, left, right, out) > l2_bytes:
            break
        room = (l2_bytes - tm * depth * left) / (depth * right + tm * out)
        j = min(columns, math.floor(room / best_tn) + 1)
        while footprint(tm, min(j * best_tn, n), depth, left, right, out) > l2_bytes:
            j -= 1
        least = min(least, traffic(tm, min(j * best_tn, n), m, n, k, left, right, out))
    return (
        utilization,
        least * count,
        l1_traffic,
        traffic(REGISTER_SIDE, REGISTER_SIDE, m, n, k, left, right, out) * count,
    )


@kernel
def search_all(
    m: NDArray[np.float64],
    n: NDArray[np.float64],
    k: NDArray[np.float64],
    count: NDArray[np.float64],
    left: float,
    right: float,
    out: float,
    tiles_in_parallel: int,
    cores: float,
    l1_bytes: float,
    l2_bytes: float,
    found: NDArray[np.float64],
) -> None:
    """Choose the tiles of many products.

    Sizes are those of `search_tiles`, as arrays with one element for each product.

    Args:
        m: rows of the left matrices.
        n: columns of the right matrices.
        k: inner dimensions.
        count: independent products.
        left: bytes of one element of the left matrix.
        right: bytes of one element of the right matrix.
        out: bytes of one element of the result.
        tiles_in_parallel: 1 if the tiles of one product run on different cores, else 0.
        cores: cores of the GPU.
        l1_bytes: first-level cache of one core.
        l2_bytes: second-level cache.
        found: (4, products) the results of `search_tiles`; the function writes them.
    """
    for i in range(m.size):
        found[0, i], found[1, i], found[2, i], found[3, i] = search_tiles(
            m[i], n[i], k[i], count[i], left, right, out, tiles_in_parallel, cores, l1_bytes,
            l2_bytes,
        )  # fmt: skip
