"""Products of every head's activations with weights of that head (absorbed latent attention).

The heads are one batched product of cuBLAS. Its tiles share the cores. Operands that fit into the
second-level cache stay there from one measured run to the next. In a step, the weights come from
memory. The equations are in docs/model/gpu-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import Field

from attacc.documents import Spec
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes
from attacc.gpu.calibrated.limits import Floats, Limits, limit
from attacc.gpu.calibrated.machine import machine
from attacc.gpu.calibrated.records import Coefficients, Extent, Positive, Share
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType, WeightType
from attacc.units import BytesPerSecond, Nanoseconds

TILES: Final = tuple(
    (rows, columns) for rows in (16, 32, 64, 128, 256) for columns in (64, 128, 256)
)
LARGEST_TILE: Final = 32768
LEAST_TRAFFIC_NS: Final = 1e-3
"""Time of the memory's traffic where all operands lie in the second-level cache."""
RESULT_BYTES: Final = 2.0


@dataclass(frozen=True, slots=True)
class HeadShapes(FusedShapes):
    """One product of an (m, k) with a (k, n) matrix for every head.

    Attributes:
        m: rows: tokens.
        n: columns.
        k: inner dimension.
        heads: number of products.
    """

    m: Floats
    n: Floats
    k: Floats
    heads: Floats

    @property
    def flops(self) -> Floats:
        """Operations; a multiply and an add count as two."""
        return 2.0 * self.m * self.n * self.k * self.heads


class HeadCoefficients(Coefficients):
    """The coefficients of the time of a batched product.

    Attributes:
        launch_ns: time to start and end the kernel.
        tile_ns: time of a round of tiles.
        compute_share: share of the peak rate that a core reaches inside a tile.
        core_bytes_per_s: rate at which one core takes in operands.
        l2_core_bytes_per_s: rate at which the second-level cache delivers operands to one core.
        read_share: share of the memory's bandwidth for operands.
        write_share: share of the memory's bandwidth for results.
        sharpness: how well work on the cores and traffic overlap.
        kept_share: share of the second-level cache that keeps operands and results of the run
            before.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    tile_ns: Nanoseconds = Field(validation_alias="tile")
    compute_share: Share
    core_bytes_per_s: BytesPerSecond = Field(validation_alias="core_load")
    l2_core_bytes_per_s: BytesPerSecond = Field(validation_alias="l2_per_core")
    read_share: Share
    write_share: Positive
    sharpness: Positive
    kept_share: Positive


class HeadRange(Spec):
    """Range of the shapes that a series of products of heads is stated for.

    Attributes:
        m: smallest and largest number of rows.
        n: smallest and largest number of columns.
        k: smallest and largest inner dimension.
        heads: smallest and largest number of heads.
    """

    m: tuple[Extent, Extent]
    n: tuple[Extent, Extent]
    k: tuple[Extent, Extent]
    heads: tuple[Extent, Extent]


class HeadProductSeries(FusedSeries):
    """Products of heads of one library.

    Attributes:
        range: shapes that the series is stated for.
        coefficients: coefficients of the time.
    """

    range: HeadRange
    coefficients: HeadCoefficients


def head_product_times(
    shapes: HeadShapes, at: Floats, vector: Floats, *, weights_cached: bool
) -> Floats:
    """Return the times of products of heads in nanoseconds.

    Args:
        shapes: the products.
        at: the GPU, as `attacc.gpu.calibrated.machine.machine` returns it.
        vector: coefficients, in the order of `HeadCoefficients`.
        weights_cached: whether the weights may lie in the second-level cache, as where one product
            runs again and again.
    """
    launch, tile_ns, compute_share, core_load, l2_core = map(float, vector[:5])
    read_share, write_share, sharpness, kept = map(float, vector[5:])
    left, cores, peak, bandwidth, l2_bytes, right = map(float, at)
    m, n, k, heads = shapes.m, shapes.n, shapes.k, shapes.heads
    weights, inputs, results = heads * k * n * right, heads * m * k * left, heads * m * n
    results = results * RESULT_BYTES
    away = np.clip((weights + inputs + results) / l2_bytes - kept, 0, 1)
    far = away if weights_cached else 1.0
    read = (far * weights + away * inputs) / (bandwidth * read_share)
    dram = np.maximum(read + away * results / (bandwidth * write_share), LEAST_TRAFFIC_NS)
    best = np.full(m.size, np.inf)
    work, l2, fill = np.zeros((3, m.size))
    for rows, columns in TILES:
        if rows * columns > LARGEST_TILE:
            continue
        blocks = heads * np.ceil(m / rows) * np.ceil(n / columns)
        queue = np.ceil(blocks / cores)
        bytes_of_tile = (rows * left + columns * right) * k
        compute = queue * rows * columns * k * 2 / (compute_share * peak / cores)
        busy = np.maximum(compute, queue * bytes_of_tile / core_load)
        cached = blocks * bytes_of_tile / (l2_core * cores)
        start = queue * tile_ns
        # A tile of twice the rows that there are is never taken.
        fits = (np.ceil(m / rows) * rows < 2 * m) | (rows == TILES[0][0])
        time = np.where(fits, np.maximum(np.maximum(busy, cached), dram) + start, np.inf)
        better = time < best
        best = np.where(better, time, best)
        work, l2 = np.where(better, busy, work), np.where(better, cached, l2)
        fill = np.where(better, start, fill)
    most = np.maximum(np.maximum(work, l2), dram)
    total = (work / most) ** sharpness + (l2 / most) ** sharpness + (dram / most) ** sharpness
    time_ns: Floats = launch + fill + most * total ** (1 / sharpness)
    return time_ns


def head_product_ns(
    series: HeadProductSeries,
    gpu: GpuSpec,
    shapes: HeadShapes,
    weights: WeightType | None = None,
) -> Floats:
    """Return the times of products of heads in nanoseconds.

    Args:
        series: series of the kernels.
        gpu: the GPU.
        shapes: the products.
        weights: type of the weights where they come from memory, as in a step; None where one
            product runs again and again, as in the measurements.
    """
    bf16 = ElementType.BF16
    at = machine(gpu, bf16)
    if weights is not None:
        at[5] = weights.bytes
    vector = series.coefficients.vector()
    return head_product_times(shapes, at, vector, weights_cached=weights is None)


def head_product_limits(series: HeadProductSeries, shapes: HeadShapes) -> Limits:
    """Return for each size which products are within the range of a series."""
    limits = series.range
    return [
        limit("m", shapes.m, limits.m),
        limit("n", shapes.n, limits.n),
        limit("k", shapes.k, limits.k),
        limit("heads", shapes.heads, limits.heads),
    ]
