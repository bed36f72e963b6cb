"""The attention module of DeepSeek sparse attention in decode (DSA), as the sum of its parts.

The module projects, scans the index keys of all tokens, chooses the best tokens, and attends to
their records in the absorbed form. The equations are in docs/model/gpu-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import Field

from attacc.documents import Spec
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes
from attacc.gpu.calibrated.limits import Floats, Limits, limit
from attacc.gpu.calibrated.machine import peak_flops_per_s
from attacc.gpu.calibrated.records import GB, Coefficients, Extent, Share
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import BlockFormat, ElementType, WeightType
from attacc.units import Nanoseconds

WEIGHTS: Final[dict[str, WeightType]] = {
    "bfloat16": ElementType.BF16,
    "fp8_block": BlockFormat.FP8_BLOCK,
    "nvfp4": BlockFormat.NVFP4,
}
"""Name of the type of the projections' weights in tables of measurements -> the type."""
CACHES: Final = {"bfloat16": ElementType.BF16, "fp8": ElementType.FP8}
"""Name of the type of the cache in tables of measurements -> the type."""
TYPES: Final = {
    f"{weights}/{cache}": element for weights, element in WEIGHTS.items() for cache in CACHES
}
"""Name of a series' types: of the weights, then of the cache -> type of the weights."""
BF16_BYTES: Final = 2.0
SCALE_ELEMENTS: Final = 128.0
SCALE_BYTES: Final = 4.0
"""An 8-bit record has a scale for every 128 elements of its latent, and 16 bits for each rotated
element; an index key has one scale."""
SCORE_BYTES: Final = 8.0
"""Bytes of an index score: 4 are written, and read again."""
TILE_HEADS: Final = 64.0
"""Heads of a block of work; fewer heads are padded."""
OVERLAP: Final = 3.0
"""How well arithmetic and traffic overlap."""


@dataclass(frozen=True, slots=True)
class SparseShapes(FusedShapes):
    """The attention module of one layer on one GPU, in decode.

    Attributes:
        batch: requests.
        heads: query heads.
        length: keys of every request.
        hidden: elements of an activation.
        query_rank: elements of a query's latent.
        latent: elements of a key's latent.
        rope: rotated elements of a key.
        nope: other elements of an expanded key.
        value: elements of an expanded value.
        index_heads: index heads.
        index_dim: elements of an index key.
        chosen: tokens that are chosen at most.
    """

    batch: Floats
    heads: Floats
    length: Floats
    hidden: Floats
    query_rank: Floats
    latent: Floats
    rope: Floats
    nope: Floats
    value: Floats
    index_heads: Floats
    index_dim: Floats
    chosen: Floats


class SparseCoefficients(Coefficients):
    """The coefficients of the time of the module.

    Attributes:
        fixed_ns: time of all kernels together where they have hardly anything to do.
        token_ns: time of a token in the kernels that act on every element.
        head_ns: time of a head of a token in these kernels.
        weight_share: share of the memory's bandwidth for weights.
        product_share: share of the peak rate in products.
        scan_share: share of the memory's bandwidth for index keys and scores.
        choice_ns: fixed time to choose tokens, where there are more than are chosen.
        round_ns: fixed time of a round of blocks of the attention.
        key_ns: latency of one record.
        attention_share: share of the peak rate in the attention.
        read_share: share of the memory's bandwidth for records, which lie apart.
    """

    fixed_ns: Nanoseconds = Field(validation_alias="fixed")
    token_ns: Nanoseconds = Field(validation_alias="token")
    head_ns: Nanoseconds = Field(validation_alias="head")
    weight_share: Share
    product_share: Share
    scan_share: Share
    choice_ns: Nanoseconds = Field(validation_alias="choice")
    round_ns: Nanoseconds = Field(validation_alias="round")
    key_ns: Nanoseconds = Field(validation_alias="key")
    attention_share: Share
    read_share: Share


class SparseRange(Spec):
    """Range of the shapes that a series of the module is stated for.

    Attributes:
        batch: smallest and largest number of requests.
        heads: smallest and largest number of query heads.
        length: smallest and largest number of keys.
    """

    batch: tuple[Extent, Extent]
    heads: tuple[Extent, Extent]
    length: tuple[Extent, Extent]


class SparseDecodeSeries(FusedSeries):
    """The module of one model in one library. ``kernel`` names the model.

    Attributes:
        pads: whether the attention computes as many records as are chosen at most, however few
            tokens there are.
        range: shapes that the series is stated for.
        coefficients: coefficients of the time.
    """

    pads: bool
    range: SparseRange
    coefficients: SparseCoefficients

    @property
    def weights(self) -> WeightType:
        """Type of the projections' weights."""
        return TYPES[self.dtype]

    @property
    def cache(self) -> ElementType:
        """Type of the cache."""
        return CACHES[self.dtype.split("/")[1]]


@dataclass(frozen=True, slots=True)
class SparseParts:
    """The parts of the module's time, in nanoseconds, as arrays.

    Attributes:
        others_ns: kernels that act on every element, and what all kernels take at least.
        products_ns: projections, and products with the matrices that absorb.
        scan_ns: scores of the index keys, and the choice of tokens.
        attention_ns: attention to the chosen records.
    """

    others_ns: Floats
    products_ns: Floats
    scan_ns: Floats
    attention_ns: Floats

    @property
    def total_ns(self) -> Floats:
        """The sum of the parts."""
        return self.others_ns + self.products_ns + self.scan_ns + self.attention_ns


def record_bytes(latent: Floats, rope: Floats, cache: ElementType) -> Floats:
    """Return the bytes of a token's record in the cache."""
    if cache.bytes >= BF16_BYTES:
        return (latent + rope) * cache.bytes
    scales = latent / SCALE_ELEMENTS * SCALE_BYTES
    return latent * cache.bytes + scales + rope * BF16_BYTES


def _overlapped(arithmetic_ns: Floats, traffic_ns: Floats) -> Floats:
    joined: Floats = (arithmetic_ns**OVERLAP + traffic_ns**OVERLAP) ** (1 / OVERLAP)
    return joined


def products_times(
    shapes: SparseShapes, gpu: GpuSpec, weights: WeightType, shares: tuple[float, float]
) -> Floats:
    """Return the times of the module's products in nanoseconds.

    Weights of the query's and the key's latents, of queries, of the indexer's queries and of the
    output have the type ``weights``. Those of the index keys, of the index heads' weights and of
    the absorbed matrices have 16 bits.

    Args:
        shapes: the modules.
        gpu: the GPU.
        weights: type of the weights.
        shares: share of the memory's bandwidth, and share of the peak rate.
    """
    bandwidth = gpu.memory_bytes_per_s * GB
    typed = shapes.hidden * (shapes.query_rank + shapes.latent + shapes.rope)
    typed = typed + shapes.query_rank * shapes.heads * (shapes.nope + shapes.rope)
    typed = typed + shapes.query_rank * shapes.index_heads * shapes.index_dim
    typed = typed + shapes.heads * shapes.value * shapes.hidden
    plain = shapes.hidden * (shapes.index_dim + shapes.index_heads)
    plain = plain + shapes.heads * shapes.latent * (shapes.nope + shapes.value)
    traffic = (typed * weights.bytes + plain * BF16_BYTES) / (bandwidth * shares[0])
    fast, slow = (peak_flops_per_s(gpu, kind) * GB for kind in (weights, ElementType.BF16))
    arithmetic = 2 * shapes.batch * (typed / fast + plain / slow) / shares[1]
    return _overlapped(arithmetic, traffic)


def scan_times(
    index_bytes: Floats, chooses: np.ndarray, gpu: GpuSpec, share: float, choice_ns: float
) -> Floats:
    """Return the times to score the index keys and to choose tokens, in nanoseconds.

    Args:
        index_bytes: bytes of index keys and scores.
        chooses: whether there are more tokens than are chosen.
        gpu: the GPU.
        share: share of the memory's bandwidth.
        choice_ns: fixed time of a choice.
    """
    return index_bytes / (gpu.memory_bytes_per_s * GB * share) + chooses * choice_ns


def attention_times(
    batch: Floats,
    heads: Floats,
    record: Floats,
    widths: tuple[Floats, Floats],
    gpu: GpuSpec,
    shares: tuple[float, float, float, float],
) -> Floats:
    """Return the times of attention to chosen records, in nanoseconds.

    Args:
        batch: requests, or tokens.
        heads: query heads.
        record: bytes of a token's record.
        widths: records that are computed, and elements of both products per record.
        gpu: the GPU.
        shares: the coefficients round_ns, key_ns, attention_share and read_share.
    """
    round_ns, key_ns, attention_share, read_share = shares
    keys, width = widths
    padded = np.ceil(heads / TILE_HEADS) * TILE_HEADS
    rounds = np.ceil(batch * padded / TILE_HEADS / gpu.cores)
    peak = peak_flops_per_s(gpu, ElementType.BF16) * GB
    arithmetic = 2 * batch * padded * keys * width / (attention_share * peak)
    traffic = batch * keys * record / (gpu.memory_bytes_per_s * GB * read_share)
    return round_ns * rounds + key_ns * keys + _overlapped(arithmetic, traffic)


def sparse_parts(
    shapes: SparseShapes,
    gpu: GpuSpec,
    vector: Floats,
    types: tuple[WeightType, ElementType],
    *,
    pads: bool,
) -> SparseParts:
    """Return the parts of the module's time.

    Args:
        shapes: the modules.
        gpu: the GPU.
        vector: coefficients, in the order of `SparseCoefficients`.
        types: types of the weights and of the cache.
        pads: whether the attention always computes as many records as are chosen at most.
    """
    fixed, token, head, weight_share, product_share, scan_share = map(float, vector[:6])
    choice_ns, round_ns, key_ns, attention_share, read_share = map(float, vector[6:])
    weights, cache = types
    batch, heads, length = shapes.batch, shapes.heads, shapes.length
    keys = shapes.chosen if pads else np.minimum(length, shapes.chosen)
    index_bytes = batch * length * (shapes.index_dim + SCALE_BYTES + SCORE_BYTES)
    return SparseParts(
        fixed + batch * (token + head * heads),
        products_times(shapes, gpu, weights, (weight_share, product_share)),
        scan_times(index_bytes, length > shapes.chosen, gpu, scan_share, choice_ns),
        attention_times(
            batch,
            heads,
            record_bytes(shapes.latent, shapes.rope, cache),
            (keys, 2 * shapes.latent + shapes.rope),
            gpu,
            (round_ns, key_ns, attention_share, read_share),
        ),
    )


def sparse_decode_ns(series: SparseDecodeSeries, gpu: GpuSpec, shapes: SparseShapes) -> Floats:
    """Return the times of the module in nanoseconds.

    Args:
        series: series of the library.
        gpu: the GPU.
        shapes: the modules.
    """
    types = series.weights, series.cache
    return sparse_parts(shapes, gpu, series.coefficients.vector(), types, pads=series.pads).total_ns


def sparse_limits(series: SparseDecodeSeries, shapes: SparseShapes) -> Limits:
    """Return for each size which modules are within the range of a series."""
    limits = series.range
    return [
        limit("batch", shapes.batch, limits.batch),
        limit("heads", shapes.heads, limits.heads),
        limit("length", shapes.length, limits.length),
    ]
