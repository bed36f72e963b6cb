"""Attention within a window: every query attends to the newest keys only.

The kernels are those of attention to all keys. A window that ends inside the keys adds the tiles at
its edges, which are masked, and the search for the first tile. The equations are in
docs/model/gpu-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from attacc.documents import Spec
from attacc.errors import InputError
from attacc.gpu.calibrated.attention_records import (
    AttentionRange,
    DecodeCoefficients,
    PrefillCoefficients,
)
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes
from attacc.gpu.calibrated.limits import Flags, Floats, Limits, Places, limit, within
from attacc.gpu.calibrated.machine import machine
from attacc.gpu.calibrated.records import Coefficients, Extent, Positive
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType
from attacc.units import Nanoseconds

CACHES: Final = {"bfloat16": ElementType.BF16, "fp8": ElementType.FP8}
"""Name of a cache's element type in tables of measurements -> the type."""
ANY: Final = (0, 2**20)
"""Smallest and largest size, of kernels that take all."""
STORE_ELEMENTS: Final = 512.0
"""Elements of a token's keys that one block of threads stores at once (vLLM's
reshape_and_cache_flash)."""
SMALL_DIM: Final = 64.0
SMALL_TILE: Final = 128
TILE_KEYS: Final = 128.0
LARGE_TILE_KEYS: Final = 80.0
"""Keys of a tile in prefill, for heads of up to 128 elements, and for larger heads."""
DIMS: Final = (64.0, 128.0, 192.0, 256.0)
"""Sizes of a head for which a share of the peak rate is stated."""


@dataclass(frozen=True, slots=True)
class WindowedShapes(FusedShapes):
    """Attention of one layer on one GPU within a window.

    Attributes:
        batch: requests.
        heads: query heads.
        kv_heads: key/value heads.
        head_dim: elements of a head.
        length: keys of every request (decode), or new tokens of every prompt (prefill).
        past: in prefill, keys before the new tokens; 0 in decode.
        window: keys that a query attends to at most.
    """

    batch: Floats
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    length: Floats
    past: Floats
    window: Floats

    @property
    def cut(self) -> Flags:
        """Whether there are more keys than the window takes."""
        return self.past + self.length > self.window


class WindowCoefficients(Coefficients):
    """What decode attention takes in addition where a window ends inside the keys.

    Attributes:
        edge_keys: further keys that are read, of tiles that the window covers in part.
        cut_ns: fixed time.
        cut_block_ns: time of a block of work.
    """

    edge_keys: Positive
    cut_ns: Nanoseconds = Field(validation_alias="cut")
    cut_block_ns: Nanoseconds = Field(validation_alias="cut_block")


class StoreCoefficients(Coefficients):
    """What prefill attention takes in addition.

    Attributes:
        cut_ns: fixed time where a window ends inside the keys.
        cut_tile_ns: time of a tile of queries where a window ends inside the keys.
        store_ns: time in which one core stores keys and values of one token, where a token has at
            least `STORE_ELEMENTS` elements; less in proportion where it has fewer.
    """

    cut_ns: Nanoseconds = Field(validation_alias="cut")
    cut_tile_ns: Nanoseconds = Field(validation_alias="cut_tile")
    store_ns: Nanoseconds = Field(validation_alias="store")


class WindowedRange(AttentionRange):
    """Range of the shapes that a series of attention within a window is stated for.

    Attributes:
        window: smallest and largest window.
    """

    window: tuple[Extent, Extent]


class WindowedDecodeKernel(Spec):
    """One kernel of decode attention within a window.

    Attributes:
        head_dims: smallest and largest size of a head that the kernel takes.
        coefficients: coefficients of attention to all keys.
        window: coefficients of the window.
    """

    head_dims: tuple[Extent, Extent] = ANY
    coefficients: DecodeCoefficients
    window: WindowCoefficients


class WindowedPrefillKernel(Spec):
    """One kernel of prefill attention within a window.

    Attributes:
        head_dims: smallest and largest size of a head that the kernel takes.
        tokens: smallest and largest number of new tokens of a prompt that the kernel takes.
        packs_groups: whether the queries of a group fill the rows of a tile together.
        coefficients: coefficients of attention to all keys.
        store: coefficients of the window, and of storing keys and values.
    """

    head_dims: tuple[Extent, Extent] = ANY
    tokens: tuple[Extent, Extent] = ANY
    packs_groups: bool
    coefficients: PrefillCoefficients
    store: StoreCoefficients


class WindowedDecodeSeries(FusedSeries):
    """Decode attention of one library within a window.

    Attributes:
        range: shapes that the series is stated for.
        kernels: kernels of the library. The first one that takes a shape computes it.
    """

    range: WindowedRange
    kernels: Annotated[tuple[WindowedDecodeKernel, ...], Field(min_length=1)]


class WindowedPrefillSeries(FusedSeries):
    """Prefill attention of one library within a window.

    Attributes:
        range: shapes that the series is stated for.
        kernels: kernels of the library. The first one that takes a shape computes it.
    """

    range: WindowedRange
    kernels: Annotated[tuple[WindowedPrefillKernel, ...], Field(min_length=1)]


def windowed_decode_times(
    shapes: WindowedShapes, at: Floats, vector: Floats, window: Floats
) -> tuple[Floats, Floats]:
    """Return the times of one kernel in nanoseconds, and the rounds in which each core works.

    Args:
        shapes: the attention.
        at: the GPU, as `attacc.gpu.calibrated.machine.machine` returns it.
        vector: coefficients, in the order of `DecodeCoefficients`.
        window: coefficients, in the order of `WindowCoefficients`.
    """
    from attacc.gpu.calibrated.curves_kernel import SPLITS, decode_times

    edge_keys, cut_ns, cut_block_ns = map(float, window)
    cut = shapes.cut.astype(np.float64)
    keys = np.minimum(shapes.length, shapes.window) + cut * edge_keys
    times, rounds = np.empty((2, keys.size))
    decode_times(
        shapes.batch,
        shapes.heads,
        shapes.kv_heads,
        shapes.head_dim,
        keys,
        at,
        vector[None, :],
        np.array([[*ANY, 0, 1, 1, 1, *ANY]], dtype=np.float64),
        SPLITS,
        times,
        rounds,
    )
    return times + cut * (cut_ns + cut_block_ns * rounds), rounds


def mean_keys(shapes: WindowedShapes) -> tuple[Floats, Floats]:
    """Return the mean keys of the new tokens of a prompt, and the share that the window cuts.

    A token at place i sees past + i keys, and not more than the window. So keys grow for the first
    window - past tokens, and are those of the window for the others.
    """
    growing = np.clip(shapes.window - shapes.past, 0, shapes.length)
    cut = 1 - growing / shapes.length
    seen = np.minimum(shapes.past, shapes.window) + growing / 2
    return (1 - cut) * seen + cut * shapes.window, cut


def windowed_prefill_times(
    shapes: WindowedShapes, at: Floats, vector: Floats, store: Floats, *, packs_groups: bool
) -> Floats:
    """Return the times of one kernel in nanoseconds.

    Args:
        shapes: the attention.
        at: the GPU, as `attacc.gpu.calibrated.machine.machine` returns it.
        vector: coefficients, in the order of `PrefillCoefficients`.
        store: coefficients, in the order of `StoreCoefficients`.
        packs_groups: whether the queries of a group fill the rows of a tile together.
    """
    launch, tile_ns, tile_rows, row_ns, key_ns, key_dim_ns = map(float, vector[:6])
    io_share, kv_passes, longest, sustained, after_ns = map(float, vector[10:])
    cut_ns, cut_tile_ns, store_ns = map(float, store)
    cores, peak, bandwidth = map(float, at[1:4])
    batch, heads, kv_heads, dim = shapes.batch, shapes.heads, shapes.kv_heads, shapes.head_dim
    group = heads / kv_heads if packs_groups else np.ones_like(heads)
    tile_keys = np.where(dim <= TILE_KEYS, TILE_KEYS, LARGE_TILE_KEYS)
    tall = (dim <= SMALL_DIM) & (tile_rows == SMALL_TILE)
    high = np.where(tall, 1.5 * tile_rows, tile_rows)
    tiles = np.ceil(shapes.length * group / high)
    blocks = batch * heads / group * tiles
    tokens = high / group
    mean, cut = mean_keys(shapes)
    # A tile also computes masked keys: half a tile at the newest keys, and where the window cuts
    # keys off, half a tile at the oldest.
    farthest = np.minimum(shapes.past + shapes.length, shapes.window + tokens)
    whole = np.ceil(farthest / tile_keys) * tile_keys
    computed = np.minimum(whole, mean + np.maximum(tokens, tile_keys) / 2 * (1 + cut))
    read = np.minimum(farthest, mean + tokens / 2 * (1 + cut))
    wide = dim / 128
    share = np.interp(dim, DIMS, vector[6:10])
    compute = 4 * high * computed * dim / (share * peak / cores)
    rows = np.minimum(high, shapes.length * group)
    block = tile_ns + np.maximum(compute, read * (key_ns + key_dim_ns * wide))
    block = block + rows * row_ns * wide + shapes.cut * cut_tile_ns
    last = block * whole / computed
    queue = np.ceil(blocks / cores)
    in_order = blocks * block / cores + longest * (last - block) * (1 - 1 / queue)
    on_cores = np.where(tiles == 1, queue * block, np.maximum(in_order, last))
    kept = shapes.length + np.minimum(shapes.past, shapes.window)
    moved = 4 * batch * dim * (shapes.length * heads + kept * kv_passes * kv_heads)
    time = on_cores + moved / (bandwidth * io_share)
    busy = np.minimum(1, blocks * compute / cores / time)
    time = time / (1 - (1 - sustained) * busy * time / (time + after_ns))
    filled = np.minimum(1, kv_heads * dim / STORE_ELEMENTS)
    stored = store_ns * batch * shapes.length / cores * filled
    total: Floats = launch + time + shapes.cut * cut_ns + stored
    return total


def kernels_of(
    head_dims: tuple[tuple[int, int], ...], tokens: tuple[tuple[int, int], ...], at: WindowedShapes
) -> Places:
    """Return for each shape the index of the first kernel that takes it; -1 where none does.

    Args:
        head_dims: smallest and largest size of a head, of each kernel.
        tokens: smallest and largest number of keys or tokens, of each kernel.
        at: the shapes.
    """
    chosen = np.full(at.batch.size, -1, dtype=np.intp)
    for i in reversed(range(len(head_dims))):
        takes = within(at.head_dim, head_dims[i]) & within(at.length, tokens[i])
        chosen[takes] = i
    return chosen


def _refuse(chosen: Places, series: FusedSeries, shapes: WindowedShapes) -> None:
    if (chosen < 0).any():
        dim = shapes.head_dim[chosen < 0][0]
        raise InputError(
            f"no kernel of {series.framework} takes heads of {dim:g} elements", where="head_dim"
        )


def windowed_decode(
    series: WindowedDecodeSeries,
    gpu: GpuSpec,
    shapes: WindowedShapes,
    cache: ElementType | None = None,
) -> tuple[Floats, Floats]:
    """Return the times of decode attention in nanoseconds, and the rounds of each core.

    Args:
        series: series of the kernels.
        gpu: the GPU.
        shapes: the attention.
        cache: element type of the stored keys and values; by default that of the series. Another
            type changes the bytes that are read, and not the type that computes.

    Raises:
        InputError: no kernel takes one of the shapes.
    """
    kernels = series.kernels
    dims = tuple(kernel.head_dims for kernel in kernels)
    chosen = kernels_of(dims, (ANY,) * len(dims), shapes)
    _refuse(chosen, series, shapes)
    own = CACHES[series.dtype]
    at = machine(gpu, own if cache is None else cache, own)
    times, rounds = np.empty((2, chosen.size))
    for i, kernel in enumerate(kernels):
        mine = chosen == i
        times[mine], rounds[mine] = windowed_decode_times(
            shapes.take(mine), at, kernel.coefficients.vector(), kernel.window.vector()
        )
    return times, rounds


def windowed_decode_ns(
    series: WindowedDecodeSeries, gpu: GpuSpec, shapes: WindowedShapes
) -> Floats:
    """Return the times of decode attention in nanoseconds. See `windowed_decode`."""
    return windowed_decode(series, gpu, shapes)[0]


def windowed_prefill_ns(
    series: WindowedPrefillSeries, gpu: GpuSpec, shapes: WindowedShapes
) -> Floats:
    """Return the times of causal prefill attention in nanoseconds.

    Args:
        series: series of the kernels.
        gpu: the GPU.
        shapes: the attention.

    Raises:
        InputError: no kernel takes one of the shapes.
    """
    kernels = series.kernels
    chosen = kernels_of(
        tuple(kernel.head_dims for kernel in kernels),
        tuple(kernel.tokens for kernel in kernels),
        shapes,
    )
    _refuse(chosen, series, shapes)
    at = machine(gpu, CACHES[series.dtype])
    times = np.empty(chosen.size)
    for i, kernel in enumerate(kernels):
        mine = chosen == i
        times[mine] = windowed_prefill_times(
            shapes.take(mine),
            at,
            kernel.coefficients.vector(),
            kernel.store.vector(),
            packs_groups=kernel.packs_groups,
        )
    return times


def windowed_limits(
    series: WindowedDecodeSeries | WindowedPrefillSeries, shapes: WindowedShapes
) -> Limits:
    """Return for each size which attention is within the range of a series."""
    limits = series.range
    group = shapes.heads / shapes.kv_heads
    dims = np.isin(shapes.head_dim, np.array(limits.head_dims, dtype=np.float64))
    return [
        (f"head_dim is one of {', '.join(str(dim) for dim in limits.head_dims)}", dims),
        ("heads are a multiple of key/value heads", group == np.floor(group)),
        ("there are no earlier tokens", shapes.past == 0),
        limit("batch", shapes.batch, limits.batch),
        limit("heads", shapes.heads, limits.heads),
        limit("heads per key/value head", group, limits.group),
        limit("length", shapes.length, limits.length),
        limit("window", shapes.window, limits.window),
    ]
