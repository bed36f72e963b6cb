"""Experts of one layer on one GPU: two grouped products, and moving tokens to experts and back.

The equations are in docs/model/gpu-model.md. What a step costs depends on how tokens spread over
experts: how many experts are visited, and how many tiles of rows the visits start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacc.documents import Spec
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes, overlapped
from attacc.gpu.calibrated.limits import Floats, Limits, limit
from attacc.gpu.calibrated.machine import peak_flops_per_s
from attacc.gpu.calibrated.records import GB, Coefficients, Extent, Positive, SeriesType, Share
from attacc.hardware.gpu import GpuSpec
from attacc.models.operators import expert_chances
from attacc.models.precision import BlockFormat, ElementType
from attacc.units import BytesPerSecond, Nanoseconds

ROWS: Final = (16, 32, 64, 128, 256)
"""Rows of a tile that kernels choose among."""
COLUMNS: Final = (32, 64, 128, 256)
"""Columns of a tile."""
LARGEST_TILE: Final = 32768
SMALL_TILE: Final = (16, 32)
LARGE_TILE: Final = (64, 64)
"""Rows and columns of a tile of vLLM's kernel in Triton where it has no tuned configuration: the
first up to as many tokens as there are experts, the second above."""
FEW_ROWS: Final = 96.0
"""Mean rows of a visited expert up to which some kernels take tiles that stream weights slowly."""
FEW_SHARPNESS: Final = 4.0
"""How sharply they change to others."""
MISS_SHARPNESS: Final = 4.0
"""How sharply weights begin to miss the second-level cache as they outgrow it."""
OUTPUT_BYTES: Final = 2.0
"""Bytes of an element of results and of gathered rows."""


@dataclass(frozen=True, slots=True)
class ExpertTypes:
    """What the experts of a series read, and how they compute.

    Attributes:
        activation: element type of the rows that the products read.
        weights: how the weights are stored.
        computes: type whose peak rate the products reach.
    """

    activation: SeriesType
    weights: SeriesType
    computes: SeriesType


BF16, FP8 = ElementType.BF16, ElementType.FP8
TYPES: Final = {
    "bfloat16": ExpertTypes(BF16, BF16, BF16),
    "fp8": ExpertTypes(FP8, FP8, FP8),
    "fp8_block": ExpertTypes(FP8, BlockFormat.FP8_BLOCK, FP8),
    "int4_wo": ExpertTypes(BF16, BlockFormat.INT4_G32, BF16),
    "nvfp4": ExpertTypes(BlockFormat.NVFP4, BlockFormat.NVFP4, BlockFormat.NVFP4),
    "w4a16_mxfp4": ExpertTypes(BF16, BlockFormat.MXFP4, BF16),
    "w4a8_mxfp4_mxfp8": ExpertTypes(FP8, BlockFormat.MXFP4, FP8),
}
"""Name in tables of measurements -> types."""


@dataclass(frozen=True, slots=True)
class ExpertShapes(FusedShapes):
    """Experts of one layer on one GPU.

    Attributes:
        tokens: tokens of the step, over all GPUs.
        hidden: inputs and outputs of an expert.
        width: elements between the matrices of an expert, on this GPU.
        per_token: experts that a token visits.
        experts: experts of the layer.
        here: experts whose weights this GPU holds.
        matrices: matrices of an expert: 3 where it is gated, else 2.
        visits: visits of tokens to experts of this GPU.
        visited: experts of this GPU that at least one token visits.
        tiles_16: tiles of 16 rows that the visits start, over all experts of this GPU; likewise
            the further fields, in the order of `ROWS`.
    """

    tokens: Floats
    hidden: Floats
    width: Floats
    per_token: Floats
    experts: Floats
    here: Floats
    matrices: Floats
    visits: Floats
    visited: Floats
    tiles_16: Floats
    tiles_32: Floats
    tiles_64: Floats
    tiles_128: Floats
    tiles_256: Floats

    @property
    def tiles(self) -> tuple[Floats, ...]:
        """Tiles that the visits start, in the order of `ROWS`."""
        return self.tiles_16, self.tiles_32, self.tiles_64, self.tiles_128, self.tiles_256

    @property
    def flops(self) -> Floats:
        """Operations of all products; a multiply and an add count as two."""
        return 2.0 * self.matrices * self.visits * self.hidden * self.width


class ExpertsCoefficients(Coefficients):
    """The coefficients of the time of experts.

    Attributes:
        launch_ns: time to start and end the kernels, and to choose and sort.
        divided_ns: additional time where the experts are divided among GPUs.
        expert_ns: time of every visited expert.
        tile_ns: time to fill and drain a tile's pipeline, once for each round of tiles.
        compute_share: share of the peak rate that a core reaches inside a tile.
        core_bytes_per_s: rate at which one core takes in operands.
        l2_core_bytes_per_s: rate at which the second-level cache delivers operands to one core.
        read_share: share of the memory's bandwidth for weights, rows and results.
        group_tiles: tiles of rows that are computed while the weights stay in the second-level
            cache.
        l2_fit: weights of an expert that half miss the second-level cache, as a multiple of it.
        gather_share: share of the memory's bandwidth for one row of every visit of any GPU.
        absent_share: the same, in addition, where the experts are divided among GPUs.
        visit_share: share of the memory's bandwidth for what a visit of this GPU moves between the
            products.
        sustained_share: share of the clock that the power limit leaves to long kernels.
        sustained_after_ns: time of kernels that reach half of that slow-down.
        sharpness: how well arithmetic and traffic overlap; infinite for a perfect overlap.
        few_rows: additional part of the products' time where visited experts have few rows.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    divided_ns: Nanoseconds = Field(validation_alias="divided")
    expert_ns: Nanoseconds = Field(validation_alias="expert")
    tile_ns: Nanoseconds = Field(validation_alias="tile")
    compute_share: Share
    core_bytes_per_s: BytesPerSecond = Field(validation_alias="core_load")
    l2_core_bytes_per_s: BytesPerSecond = Field(validation_alias="l2_per_core")
    read_share: Share
    group_tiles: Positive
    l2_fit: Positive
    gather_share: Positive
    absent_share: Positive
    visit_share: Positive
    sustained_share: Share
    sustained_after_ns: Nanoseconds = Field(validation_alias="sustained_after")
    sharpness: Positive
    few_rows: Positive


class ExpertTiles(StrEnum):
    """The tiles that a library chooses among."""

    ANY = "any"
    """The fastest of `ROWS` by `COLUMNS`."""
    TRITON_DEFAULT = "triton_default"
    """`SMALL_TILE` or `LARGE_TILE`, and any tile for tuned sizes."""


class ExpertsRange(Spec):
    """Range of the shapes that a series of experts is stated for.

    Attributes:
        tokens: smallest and largest number of tokens.
        hidden: smallest and largest number of inputs of an expert.
        width: smallest and largest number of elements between its matrices.
        per_token: smallest and largest number of experts that a token visits.
        experts: smallest and largest number of experts.
        ranks: smallest and largest number of GPUs among which the experts are divided.
    """

    tokens: tuple[Extent, Extent]
    hidden: tuple[Extent, Extent]
    width: tuple[Extent, Extent]
    per_token: tuple[Extent, Extent]
    experts: tuple[Extent, Extent]
    ranks: tuple[Extent, Extent]


class ExpertsSeries(FusedSeries):
    """Experts of one kernel of a library.

    Attributes:
        tiles: tiles that the kernel chooses among.
        tuned: (experts held, width) of the sizes for which the library has a tuned configuration,
            where that decides about tiles.
        range: shapes that the series is stated for.
        coefficients: coefficients of the time.
    """

    tiles: ExpertTiles = ExpertTiles.ANY
    tuned: tuple[tuple[Extent, Extent], ...] = ()
    range: ExpertsRange
    coefficients: ExpertsCoefficients


@dataclass(frozen=True, slots=True)
class ExpertMachine:
    """The facts about a GPU that experts need.

    Attributes:
        cores: number of cores.
        flops_per_ns: peak rate of the products.
        bytes_per_ns: bandwidth of the memory.
        l2_bytes: size of the second-level cache.
        row_bytes: bytes of an element of the rows that the products read.
        weight_bytes: bytes of an element of the weights, with its share of the scales.
    """

    cores: float
    flops_per_ns: float
    bytes_per_ns: float
    l2_bytes: float
    row_bytes: float
    weight_bytes: float

    @classmethod
    def of(cls, gpu: GpuSpec, types: ExpertTypes) -> ExpertMachine:
        """Return the facts about a GPU.

        Raises:
            InputError: the GPU's data sheet states no rate of the type that computes.
        """
        return cls(
            gpu.cores,
            peak_flops_per_s(gpu, types.computes) * GB,
            gpu.memory_bytes_per_s * GB,
            gpu.l2_bytes,
            types.activation.bytes,
            types.weights.bytes,
        )


@dataclass(frozen=True, slots=True)
class ExpertRule:
    """The tiles of a library.

    Attributes:
        tiles: tiles that the kernel chooses among.
        tuned: (experts held, width) of the sizes that have a tuned configuration.
    """

    tiles: ExpertTiles = ExpertTiles.ANY
    tuned: tuple[tuple[int, int], ...] = ()

    def takes(self, rows: int, columns: int, shapes: ExpertShapes) -> NDArray[np.bool_] | None:
        """Return which shapes may be computed by a tile; None for all."""
        if self.tiles is ExpertTiles.ANY:
            return None
        few = shapes.tokens <= shapes.here
        takes = np.zeros(few.shape, dtype=np.bool_)
        for held, width in self.tuned:
            takes |= (shapes.here == held) & (shapes.width == width)
        if (rows, columns) == SMALL_TILE:
            takes |= few
        if (rows, columns) == LARGE_TILE:
            takes |= ~few
        return takes


def _product_ns(
    n: Floats,
    k: Floats,
    shapes: ExpertShapes,
    at: ExpertMachine,
    of: ExpertsCoefficients,
    rule: ExpertRule,
) -> tuple[Floats, Floats]:
    """Return the time of one grouped product, and its arithmetic's part of that, in nanoseconds.

    Args:
        n: columns of the weights of an expert.
        k: rows of these weights.
        shapes: the experts.
        at: the GPU.
        of: the coefficients.
        rule: tiles of the library.
    """
    weights = n * k * at.weight_bytes
    miss = 1 / (1 + (of.l2_fit * at.l2_bytes / weights) ** MISS_SHARPNESS)
    moved = shapes.visits * (k * at.row_bytes + n * OUTPUT_BYTES)
    best = np.full(shapes.tokens.shape, np.inf)
    arithmetic = np.zeros_like(best)
    for rows, started in zip(ROWS, shapes.tiles, strict=True):
        again = np.maximum(started / of.group_tiles - shapes.visited, 0.0) * miss
        read = (shapes.visited + again) * weights + moved
        memory = read / (of.read_share * at.bytes_per_ns)
        for columns in COLUMNS:
            takes = rule.takes(rows, columns, shapes)
            if rows * columns > LARGEST_TILE or (takes is not None and not takes.any()):
                continue
            tiles = started * np.ceil(n / columns)
            operands = (rows * at.row_bytes + columns * at.weight_bytes) * k
            compute = 2.0 * rows * columns * k / (of.compute_share * at.flops_per_ns / at.cores)
            tile = of.tile_ns + np.maximum(compute, operands / (of.core_bytes_per_s * GB))
            rounds = np.maximum(1.0, np.ceil(tiles / at.cores))
            l2 = tiles * operands / (of.l2_core_bytes_per_s * GB * at.cores)
            time = overlapped(of.sharpness, rounds * tile, memory, l2)
            faster = time < best if takes is None else takes & (time < best)
            best = np.where(faster, time, best)
            arithmetic = np.where(faster, rounds * tile, arithmetic)
    return best, arithmetic


def expert_times(
    shapes: ExpertShapes, at: ExpertMachine, of: ExpertsCoefficients, rule: ExpertRule
) -> tuple[Floats, Floats]:
    """Return the times of experts, and the arithmetic's part of them, in nanoseconds.

    Args:
        shapes: the experts.
        at: the GPU.
        of: the coefficients.
        rule: tiles of the library.
    """
    wide = (shapes.matrices - 1) * shapes.width
    first, busy = _product_ns(wide, shapes.hidden, shapes, at, of, rule)
    second, also = _product_ns(shapes.hidden, shapes.width, shapes, at, of, rule)
    rows = shapes.visits / shapes.visited
    few = 1 + of.few_rows / (1 + (rows / FEW_ROWS) ** FEW_SHARPNESS)
    divided = shapes.here < shapes.experts
    gathered = shapes.tokens * shapes.per_token * shapes.hidden * OUTPUT_BYTES / at.bytes_per_ns
    between = shapes.visits * (shapes.hidden + shapes.width) * OUTPUT_BYTES / at.bytes_per_ns
    time = few * (first + second) + gathered / of.gather_share + between / of.visit_share
    time = time + np.where(divided, gathered / of.absent_share, 0.0)
    slower = (1 / of.sustained_share - 1) * time / (time + of.sustained_after_ns)
    fixed = of.launch_ns + of.expert_ns * shapes.visited + np.where(divided, of.divided_ns, 0.0)
    return fixed + time * (1 + slower), few * (busy + also)


def experts_ns(series: ExpertsSeries, gpu: GpuSpec, shapes: ExpertShapes) -> Floats:
    """Return the times of experts in nanoseconds.

    Args:
        series: series of the kernel.
        gpu: the GPU.
        shapes: the experts.
    """
    at = ExpertMachine.of(gpu, TYPES[series.dtype])
    return expert_times(shapes, at, series.coefficients, rule_of(series))[0]


def rule_of(series: ExpertsSeries) -> ExpertRule:
    """Return the tiles of a series."""
    return ExpertRule(series.tiles, series.tuned)


def experts_limits(series: ExpertsSeries, shapes: ExpertShapes) -> Limits:
    """Return for each size which experts are within the range of a series."""
    within = series.range
    return [
        limit("tokens", shapes.tokens, within.tokens),
        limit("hidden", shapes.hidden, within.hidden),
        limit("width", shapes.width, within.width),
        limit("experts of a token", shapes.per_token, within.per_token),
        limit("experts", shapes.experts, within.experts),
        limit("GPUs that share experts", shapes.experts / shapes.here, within.ranks),
    ]


STEPS: Final = 24
"""Tiles of one expert that are counted one by one; beyond, the last one is half full."""


def started_tiles(mean: Floats, chance: Floats, rows: float) -> Floats:
    """Return the expected number of tiles that a binomial number of visits starts.

    An expert whose X visits fill tiles of b rows starts ceil(X / b) of them. The expectation is the
    sum over j of P(X > j b). P(X > 0) is exact. The other terms take the normal distribution.

    Args:
        mean: expected visits of an expert.
        chance: chance of one token to visit the expert.
        rows: rows of a tile.
    """
    tokens = mean / chance
    some = 1 - np.exp(tokens * np.log1p(-np.minimum(chance, 1 - 1e-12)))
    spread = np.sqrt(np.maximum(mean * (1 - chance), 1e-12))
    total = some.copy()
    for j in range(1, STEPS):
        total += np.minimum(some, _above((j * rows + 0.5 - mean) / spread))
    return np.where(mean + 5 * spread < STEPS * rows, total, mean / rows + 0.5)


def _above(z: Floats) -> Floats:
    """Return the chance that a normal variable exceeds a number of standard deviations.

    The approximation by a logistic curve (Bowling et al., 2009) is off by 0.00014 at most.
    """
    z = np.clip(z, -8.0, 8.0)
    return 1 / (1 + np.exp(0.07056 * z**3 + 1.5976 * z))


def independent_visits(
    *,
    tokens: Floats,
    hidden: int,
    width: int,
    per_token: int,
    experts: int,
    here: int,
    matrices: int,
    skew: float = 0.0,
    load: Floats | float = 1.0,
    present: Floats | None = None,
) -> ExpertShapes:
    """Return experts whose tokens choose independently of each other.

    Args:
        tokens: tokens of each step.
        hidden: inputs and outputs of an expert.
        width: elements between its matrices.
        per_token: experts that a token visits.
        experts: experts of the layer.
        here: experts that the GPU holds.
        matrices: matrices of an expert.
        skew: exponent of the power law by which tokens choose; 0 for an even choice.
        load: visits to experts of the GPU, over the mean of all GPUs. They spread over its experts
            like those of as many more tokens.
        present: tokens whose rows the GPU has; None for all.
    """
    chances, times = np.unique(expert_chances(experts, per_token, skew), return_counts=True)
    share = here / experts * times
    loads = (tokens * load)[:, None]
    mean = loads * chances
    chance = np.broadcast_to(chances, mean.shape)
    none = 1 - np.exp(loads * np.log1p(-np.minimum(chance, 1 - 1e-12)))
    tiles = {f"tiles_{rows}": started_tiles(mean, chance, rows) @ share for rows in ROWS}
    return ExpertShapes.of(
        tokens=tokens if present is None else present,
        hidden=hidden,
        width=width,
        per_token=per_token,
        experts=experts,
        here=here,
        matrices=matrices,
        visits=tokens * per_token * here / experts * load,
        visited=none @ share,
        **tiles,
    )
