"""Attention over latents (MLA): one record per token, which all query heads share.

Decode runs in the absorbed form: every head is a row of one product with the records. Prefill runs
in either form: absorbed, or expanded, with a key and a value for each head. The equations are in
docs/model/gpu-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from attacc.documents import Spec
from attacc.errors import InputError
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes
from attacc.gpu.calibrated.limits import Floats, Limits, Places, limit, within
from attacc.gpu.calibrated.machine import machine
from attacc.gpu.calibrated.records import Coefficients, Extent, Positive, Share
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType
from attacc.units import Bytes, BytesPerSecond, Nanoseconds

CACHES: Final = {"bfloat16": ElementType.BF16, "fp8": ElementType.FP8}
"""Name of a cache's element type in tables of measurements -> the type."""
LATENT: Final = 512
ROPE: Final = 64
NOPE: Final = 128
VALUE: Final = 128
"""Elements of a latent, of its rotated part, of an expanded key without the rotated part, and of an
expanded value, as they were measured (DeepSeek-V3)."""
ACTIVATION_BYTES: Final = 2.0
"""Bytes of an element of queries and results."""
PARTIAL_BYTES: Final = 8.0
"""Bytes that an element of a partial result moves: 4 are written, and read again."""
KEY_STEP: Final = 64.0
"""Keys that a core takes at once in decode."""
HIDES: Final = 4.0
"""How well the work of the host and of the GPU overlap."""


@dataclass(frozen=True, slots=True)
class LatentShapes(FusedShapes):
    """Attention over latents of one layer on one GPU.

    Attributes:
        batch: requests.
        heads: query heads.
        length: keys of every request (decode), or new tokens of every prompt (prefill).
        past: in prefill, keys before the new tokens; 0 in decode.
        latent: elements of a latent.
        rope: rotated elements of a key.
        nope: other elements of an expanded key.
        value: elements of an expanded value.
    """

    batch: Floats
    heads: Floats
    length: Floats
    past: Floats
    latent: Floats
    rope: Floats
    nope: Floats
    value: Floats


class LatentForm(StrEnum):
    """How prefill attention over latents is computed."""

    ABSORBED = "absorbed"
    """Every head is a row of one product with the records."""
    EXPANDED = "expanded"
    """Every head has keys and values of its own."""


class LatentDecodeCoefficients(Coefficients):
    """The coefficients of the time of decode attention over latents.

    A block of work is a tile of heads of one request, with its part of the keys.

    Attributes:
        launch_ns: time to start and end the kernels.
        block_ns: fixed time of a block of work.
        core_bytes_per_s: rate at which one core takes in records.
        key_ns: latency of one key.
        compute_share: share of the peak rate that a core reaches.
        row_ns: time of one head of a block.
        read_share: share of the memory's bandwidth for records.
        write_share: share of the memory's bandwidth for queries and results.
        ramp_ns: time that is lost until the memory delivers at that share.
        ramp_bytes: bytes after which half of that time is lost.
        l2_core_bytes_per_s: rate at which the second-level cache delivers records to one core.
        split_ns: fixed time to combine the parts, where the keys are divided.
        split_core_bytes_per_s: rate at which one core moves partial results.
        split_keys: fewest keys of a part.
        sharpness: how well work on the cores and traffic overlap.
        resident: number of blocks that a core works on at once; None for one.
        convert_bytes_per_s: rate at which the records of an 8-bit cache are first converted to
            16 bits; None where they are not.
        host_ns: time in which the host starts the kernels, while the GPU waits; None where it does
            not wait.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    block_ns: Nanoseconds = Field(validation_alias="block")
    core_bytes_per_s: BytesPerSecond = Field(validation_alias="core_load")
    key_ns: Nanoseconds = Field(validation_alias="key")
    compute_share: Share
    row_ns: Nanoseconds = Field(validation_alias="row")
    read_share: Share
    write_share: Positive
    ramp_ns: Nanoseconds = Field(validation_alias="ramp")
    ramp_bytes: Bytes
    l2_core_bytes_per_s: BytesPerSecond = Field(validation_alias="l2_per_core")
    split_ns: Nanoseconds = Field(validation_alias="split")
    split_core_bytes_per_s: BytesPerSecond = Field(validation_alias="split_per_core")
    split_keys: Positive
    sharpness: Positive
    resident: Positive | None = None
    convert_bytes_per_s: BytesPerSecond | None = Field(default=None, validation_alias="convert")
    host_ns: Nanoseconds | None = Field(default=None, validation_alias="host")


class LatentPrefillCoefficients(Coefficients):
    """The coefficients of the time of prefill attention over latents.

    Attributes:
        launch_ns: time to start and end the kernels.
        tile_ns: fixed time of a tile of queries.
        row_ns: time of one query of a tile.
        key_ns: time of one key that a tile reads.
        compute_share: share of the peak rate that a core reaches.
        io_share: share of the memory's bandwidth.
        kv_passes: how often keys and values cross the memory interface.
        longest: share of the longest tile's excess that no other tile hides.
        sustained_share: share of the clock that the power limit leaves to long kernels.
        sustained_after_ns: time of a kernel that reaches half of that slow-down.
        convert_bytes_per_s: rate at which operands are first converted: the records of an 8-bit
            cache (absorbed), or queries, keys and values (expanded); None where they are not.
        host_ns: time in which the host starts the kernels, while the GPU waits; None where it does
            not wait.
    """

    launch_ns: Nanoseconds = Field(validation_alias="launch")
    tile_ns: Nanoseconds = Field(validation_alias="tile")
    row_ns: Nanoseconds = Field(validation_alias="row")
    key_ns: Nanoseconds = Field(validation_alias="key")
    compute_share: Share
    io_share: Positive
    kv_passes: Positive
    longest: Positive
    sustained_share: Share
    sustained_after_ns: Nanoseconds = Field(validation_alias="sustained_after")
    convert_bytes_per_s: BytesPerSecond | None = Field(default=None, validation_alias="convert")
    host_ns: Nanoseconds | None = Field(default=None, validation_alias="host")


class LatentRange(Spec):
    """Range of the shapes that a series of attention over latents is stated for.

    Attributes:
        batch: smallest and largest number of requests.
        heads: smallest and largest number of query heads.
        length: smallest and largest number of keys, or of tokens of a prompt.
    """

    batch: tuple[Extent, Extent]
    heads: tuple[Extent, Extent]
    length: tuple[Extent, Extent]


class LatentDecodeKernel(Spec):
    """One kernel of decode attention over latents.

    Attributes:
        heads: smallest and largest number of query heads that the kernel takes.
        tile_heads: heads of a block of work.
        least_rows: rows that a block computes where it has fewer heads.
        parts: parts into which the keys of a request are always divided; 0 where the fastest
            number of parts is taken.
        coefficients: coefficients of the kernel's time.
    """

    heads: tuple[Extent, Extent]
    tile_heads: Annotated[int, Field(ge=1, le=1024)]
    least_rows: Annotated[int, Field(ge=1, le=1024)]
    parts: Annotated[int, Field(ge=0, le=1024)] = 0
    coefficients: LatentDecodeCoefficients


class LatentDecodeSeries(FusedSeries):
    """Decode attention over latents of one library.

    Attributes:
        range: shapes that the series is stated for.
        kernels: kernels of the library. The first one that takes a shape computes it.
    """

    range: LatentRange
    kernels: Annotated[tuple[LatentDecodeKernel, ...], Field(min_length=1)]


class LatentPrefillSeries(FusedSeries):
    """Prefill attention over latents of one library.

    Attributes:
        form: how it is computed.
        tile_rows: queries of a tile.
        tile_keys: keys of a tile.
        range: shapes that the series is stated for.
        coefficients: coefficients of the time.
    """

    form: LatentForm
    tile_rows: Annotated[int, Field(ge=1, le=4096)]
    tile_keys: Annotated[int, Field(ge=1, le=4096)]
    range: LatentRange
    coefficients: LatentPrefillCoefficients


def waited(time_ns: Floats, host_ns: float) -> Floats:
    """Return the time of kernels that the host starts meanwhile."""
    return (time_ns**HIDES + host_ns**HIDES) ** (1 / HIDES)


def _joined(work: Floats, dram: Floats, l2: Floats, sharpness: float) -> Floats:
    """Return the time of three activities that overlap, between their maximum and their sum."""
    most = np.maximum(np.maximum(work, dram), l2)
    total = (work / most) ** sharpness + (dram / most) ** sharpness + (l2 / most) ** sharpness
    joined: Floats = most * total ** (1 / sharpness)
    return joined


def latent_decode_times(
    shapes: LatentShapes, at: Floats, vector: Floats, kernel: tuple[int, int, int], stored: float
) -> tuple[Floats, Floats]:
    """Return the times of one kernel in nanoseconds, and the rounds in which each core works.

    Args:
        shapes: the attention.
        at: the GPU, as `attacc.gpu.calibrated.machine.machine` returns it. The bytes of an operand
            are those that the kernel reads.
        vector: coefficients, in the order of `LatentDecodeCoefficients`.
        kernel: heads of a block, least rows of a block, and parts of the keys, or 0.
        stored: bytes of an element of the cache.
    """
    from attacc.gpu.calibrated.curves_kernel import SPLITS

    launch, block_ns, core_load, key_ns, compute_share, row_ns = map(float, vector[:6])
    read_share, write_share, ramp_ns, ramp_bytes, l2_core = map(float, vector[6:11])
    split_ns, split_core, split_keys, sharpness = map(float, vector[11:15])
    resident, convert, host = map(float, vector[15:])
    at_once = max(1.0, resident)
    size, cores, peak, bandwidth = map(float, at[:4])
    tile_heads, least_rows, fixed_parts = kernel
    batch, heads, length = shapes.batch, shapes.heads, shapes.length
    width = shapes.latent + shapes.rope
    rows = np.minimum(heads, tile_heads)
    base = batch * np.ceil(heads / tile_heads)
    records = batch * length * width * size
    others = batch * heads * (width + shapes.latent) * ACTIVATION_BYTES
    dram = records / (bandwidth * read_share) + others / (bandwidth * write_share)
    dram += ramp_ns * records / (records + ramp_bytes)
    l2 = base * length * width * size / (l2_core * cores)
    parts = np.array([fixed_parts], dtype=np.float64) if fixed_parts else SPLITS
    # One row for each shape, and one column for each number of parts.
    queue = np.ceil(base[:, None] * parts / (cores * at_once))
    keys = np.ceil(length[:, None] / parts / KEY_STEP) * KEY_STEP
    load = queue * keys * (at_once * (width * size / core_load)[:, None] + key_ns)
    flops = 2 * np.maximum(rows, least_rows) * (width + shapes.latent)
    compute = queue * at_once * keys * flops[:, None] / (compute_share * peak / cores)
    partial = (batch * heads * shapes.latent * PARTIAL_BYTES)[:, None] / (split_core * cores)
    split = np.where(parts > 1, split_ns + parts * partial, 0.0)
    work = np.maximum(load, compute) + queue * (block_ns + row_ns * rows[:, None])
    time = np.maximum(work, np.maximum(dram, l2)[:, None]) + split
    if not fixed_parts:
        few = length[:, None] / parts < split_keys
        many = base[:, None] * (parts - 1) > 2 * cores
        time = np.where((parts > 1) & (few | many), np.inf, time)
    best = np.argmin(time, axis=1)
    each = np.arange(best.size, dtype=np.intp)
    total = launch + split[each, best] + _joined(work[each, best], dram, l2, sharpness)
    if convert > 0:
        total = total + batch * length * width * stored / convert
    return waited(total, host), queue[each, best]


def latent_prefill_times(
    shapes: LatentShapes,
    at: Floats,
    vector: Floats,
    form: LatentForm,
    tile: tuple[int, int],
) -> Floats:
    """Return the times of causal prefill attention in nanoseconds.

    Args:
        shapes: the attention.
        at: the GPU, as `attacc.gpu.calibrated.machine.machine` returns it.
        vector: coefficients, in the order of `LatentPrefillCoefficients`.
        form: how it is computed.
        tile: queries and keys of a tile.
    """
    launch, tile_ns, row_ns, key_ns, share, io_share = map(float, vector[:6])
    kv_passes, longest, sustained, after_ns, convert, host = map(float, vector[6:])
    cores, peak, bandwidth = map(float, at[1:4])
    tile_rows, tile_keys = tile
    batch, heads, length = shapes.batch, shapes.heads, shapes.length
    keys = shapes.past + length
    if form is LatentForm.ABSORBED:
        group, width = heads, 2 * shapes.latent + shapes.rope
        cached, converted = shapes.latent + shapes.rope, keys * (shapes.latent + shapes.rope)
    else:
        group, width = np.ones_like(heads), shapes.nope + shapes.rope + shapes.value
        cached = heads * width
        converted = heads * (length * (shapes.nope + shapes.rope) + keys * width)
    tiles = np.ceil(length * group / tile_rows)
    tokens = tile_rows / group
    blocks = batch * heads / group * tiles
    whole = np.ceil(keys / tile_keys) * tile_keys
    reach = shapes.past + length / 2 + np.maximum(tokens, tile_keys) / 2
    computed = np.minimum(whole, reach)
    compute = 2 * tile_rows * computed * width / (share * peak / cores)
    rows = np.minimum(tile_rows, length * group)
    block = tile_ns + np.maximum(compute, computed * key_ns) + rows * row_ns
    last = block * whole / computed
    queue = np.ceil(blocks / cores)
    in_order = blocks * block / cores + longest * (last - block) * (1 - 1 / queue)
    on_cores = np.where(tiles == 1, queue * block, np.maximum(in_order, last))
    moved = batch * (length * heads * width + kv_passes * keys * cached) * ACTIVATION_BYTES
    time = on_cores + moved / (bandwidth * io_share)
    busy = np.minimum(1, blocks * compute / cores / time)
    total = launch + time / (1 - (1 - sustained) * busy * time / (time + after_ns))
    if convert > 0:
        total = total + batch * converted / convert
    return waited(total, host)


def decode_kernels_of(heads: tuple[tuple[int, int], ...], shapes: LatentShapes) -> Places:
    """Return for each shape the index of the first kernel that takes it; -1 where none does."""
    chosen = np.full(shapes.heads.size, -1, dtype=np.intp)
    for i in reversed(range(len(heads))):
        chosen[within(shapes.heads, heads[i])] = i
    return chosen


def latent_decode(
    series: LatentDecodeSeries,
    gpu: GpuSpec,
    shapes: LatentShapes,
    cache: ElementType | None = None,
) -> tuple[Floats, Floats]:
    """Return the times of decode attention in nanoseconds, and the rounds of each core.

    Args:
        series: series of the kernels.
        gpu: the GPU.
        shapes: the attention.
        cache: element type of the stored records; by default that of the series. Another type
            changes the bytes that are read, and not the type that computes.

    Raises:
        InputError: no kernel takes one of the shapes.
    """
    kernels = series.kernels
    chosen = decode_kernels_of(tuple(kernel.heads for kernel in kernels), shapes)
    if (chosen < 0).any():
        raise InputError(
            f"no kernel of {series.framework} takes {shapes.heads[chosen < 0][0]:g} heads",
            where="heads",
        )
    times, rounds = np.empty((2, chosen.size))
    own = CACHES[series.dtype]
    for i, kernel in enumerate(kernels):
        mine = chosen == i
        converts = kernel.coefficients.convert_bytes_per_s is not None
        computes = ElementType.BF16 if converts else own
        times[mine], rounds[mine] = latent_decode_times(
            shapes.take(mine),
            machine(gpu, computes if cache is None or converts else cache, computes),
            kernel.coefficients.vector(),
            (kernel.tile_heads, kernel.least_rows, kernel.parts),
            (own if cache is None else cache).bytes,
        )
    return times, rounds


def latent_decode_ns(series: LatentDecodeSeries, gpu: GpuSpec, shapes: LatentShapes) -> Floats:
    """Return the times of decode attention in nanoseconds. See `latent_decode`."""
    return latent_decode(series, gpu, shapes)[0]


def prefill_computes(form: LatentForm, cache: ElementType) -> ElementType:
    """Return the type in which a form computes: the absorbed form converts an 8-bit cache."""
    return ElementType.BF16 if form is LatentForm.ABSORBED else cache


def latent_prefill_ns(series: LatentPrefillSeries, gpu: GpuSpec, shapes: LatentShapes) -> Floats:
    """Return the times of causal prefill attention in nanoseconds.

    Args:
        series: series of the kernels.
        gpu: the GPU.
        shapes: the attention.
    """
    return latent_prefill_times(
        shapes,
        machine(gpu, prefill_computes(series.form, CACHES[series.dtype])),
        series.coefficients.vector(),
        series.form,
        (series.tile_rows, series.tile_keys),
    )


def latent_limits(series: LatentDecodeSeries | LatentPrefillSeries, shapes: LatentShapes) -> Limits:
    """Return for each size which attention is within the range of a series."""
    limits = series.range
    sizes = (
        (shapes.latent == LATENT)
        & (shapes.rope == ROPE)
        & (shapes.nope == NOPE)
        & (shapes.value == VALUE)
    )
    return [
        (f"latents have {LATENT} and {ROPE} elements, expanded to {NOPE} and {VALUE}", sizes),
        ("there are no earlier tokens", shapes.past == 0),
        limit("batch", shapes.batch, limits.batch),
        limit("heads", shapes.heads, limits.heads),
        limit("length", shapes.length, limits.length),
    ]
