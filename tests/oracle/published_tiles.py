"""The tile search of the published system model, as obvious as possible.

Imports nothing from the product: the sizes of tiles, both searches and the utilisation are written
out from reference/system-model.md, with each operand's own element size.
"""

import math
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Search:
    """What the search is about: sizes, products, bytes per element, and the GPU."""

    m: int
    n: int
    k: int
    count: int
    left: float
    right: float
    out: float
    fc: bool
    cores: int
    l1_bytes: float
    l2_bytes: float


@dataclass(frozen=True)
class Chosen:
    """Share of cores at work, and bytes moved at the level of each tile."""

    utilization: float
    l2_tile_bytes: float
    l1_tile_bytes: float
    register_tile_bytes: float


def sides(limit: int) -> list[int]:
    return [min(side, limit) for side in [8, 16, 32, *range(64, 513, 64)]]


def multiples(tile: int, limit: int) -> list[int]:
    return [*range(tile, limit, tile), limit]


def moved(s: Search, tm: int, tn: int) -> float:
    left = math.ceil(s.n / tn) * s.m * s.k * s.left
    right = math.ceil(s.m / tm) * s.n * s.k * s.right
    return left + right + s.m * s.n * s.out


def held(s: Search, tm: int, tn: int, tk: float) -> float:
    return tm * tk * s.left + tn * tk * s.right + tm * tn * s.out


def utilization(s: Search, tm: int, tn: int) -> float:
    blocks = s.count
    if s.fc:
        blocks *= math.ceil(s.m / tm) * math.ceil(s.n / tn)
    return blocks / (math.ceil(blocks / s.cores) * s.cores)


def search(s: Search) -> Chosen:
    best_score, best = math.inf, (0, 0)
    for tm in sides(s.m):
        for tn in sides(s.n):
            if held(s, tm, tn, 32) > s.l1_bytes:
                continue
            score = moved(s, tm, tn) * s.count / utilization(s, tm, tn) ** 2
            if score < best_score:
                best_score, best = score, (tm, tn)
    larger = product(multiples(best[0], s.m), multiples(best[1], s.n))
    allowed = [best, *(tile for tile in larger if held(s, *tile, s.k / 64) <= s.l2_bytes)]
    return Chosen(
        utilization(s, *best),
        min(moved(s, *tile) for tile in allowed) * s.count,
        moved(s, *best) * s.count,
        moved(s, 16, 16) * s.count,
    )
