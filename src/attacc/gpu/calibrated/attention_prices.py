"""Prices of attention within a window, of attention over latents, and of what belongs to it.

Whatever is scaled, or was measured with other sizes, types or kernels, is named in the price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from attacc.gpu.calibrated.fused.base import FusedSeries, series_of
from attacc.gpu.calibrated.fused.head_products import (
    HeadProductSeries,
    HeadShapes,
    head_product_limits,
    head_product_ns,
)
from attacc.gpu.calibrated.fused.latent_attention import (
    LATENT,
    NOPE,
    ROPE,
    VALUE,
    LatentDecodeSeries,
    LatentForm,
    LatentPrefillSeries,
    LatentShapes,
    latent_decode,
    latent_limits,
    latent_prefill_ns,
)
from attacc.gpu.calibrated.fused.sparse_decode import (
    SCORE_BYTES,
    SparseDecodeSeries,
    attention_times,
    record_bytes,
    scan_times,
)
from attacc.gpu.calibrated.fused.windowed_attention import (
    WindowedDecodeSeries,
    WindowedPrefillSeries,
    WindowedShapes,
    mean_keys,
    windowed_decode,
    windowed_limits,
    windowed_prefill_ns,
)
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.gpu.calibrated.limits import inside
from attacc.gpu.calibrated.machine import peak_flops_per_s
from attacc.gpu.calibrated.power import Work
from attacc.gpu.calibrated.priced import Priced, bound_of, column, roofline
from attacc.gpu.calibrated.records import GB
from attacc.gpu.costs import PAST, RAGGED, Estimate, Floats, ragged
from attacc.models.operators import Attention, IndexScan, LatentAttention, MatMul, Phase
from attacc.models.precision import ElementType

SIXTEEN_BITS: Final = (ElementType.FP16, ElementType.BF16)
BF16_NAME: Final = "bfloat16"
AS_BF16: Final = "as bf16 with fewer bytes, never measured"
WITHIN_KEYS: Final = "attention within a window: as attention to its keys, never measured"
CACHED_WEIGHTS: Final = "products of heads: weights read from memory, which measured ones kept"
ABSORBED_ONLY: Final = (
    "prefill over expanded latents: as attention with heads of as many elements, never measured"
)
SPARSE_PREFILL: Final = "sparse attention in prefill: as decode of every token, never measured"
INDEX_HEADS: Final = (32, 64)
INDEX_DIM: Final = 128
"""Index heads and elements of an index key of the modules that were measured."""
BESIDE: Final = (
    "kernels beside sparse attention: those of its scan and attention take their least time in them"
)
SCAN_PREFILL: Final = "index scores in prefill: as those of decode, never measured"
HOST_HIDDEN: Final = "attention over latents: without the host's time, in which it was measured"
CHOSEN: Final = 2048.0
"""Records that padded kernels compute at least: those of the measured models."""
L2_TILE: Final = (128, 256)
"""Results of a tile, by which the traffic of the second-level cache is counted."""

S = TypeVar("S", bound=FusedSeries)


@dataclass(frozen=True, slots=True)
class Found:
    """Which series prices a kernel.

    Attributes:
        computes: element type of the series' cache.
        estimates: what the series stands for without having been measured.
    """

    computes: ElementType
    estimates: tuple[Estimate, ...]


def _find(
    gpu: CalibratedGpu, framework: str | None, series: Sequence[S], cache: ElementType, what: str
) -> tuple[S, Found] | None:
    """Return the series of a cache, or else of a 16-bit cache, or else of another framework.

    Args:
        gpu: the GPU.
        framework: the framework; None for that which stands for the GPU.
        series: the series of an operator.
        cache: element type of the cache.
        what: the operator, in words.

    Returns:
        The series, and what it was not measured for; None where there is no series at all.
    """
    wanted = framework or gpu.calibration.reference
    others = dict.fromkeys(entry.framework for entry in series)
    names = [BF16_NAME] if cache in SIXTEEN_BITS else [str(cache), BF16_NAME]
    for name in names:
        for candidate in (wanted, *others):
            found = series_of(series, candidate, None, name)
            if found is None:
                continue
            notes = [f"operators on {gpu.gpu.name}: scaled from {gpu.scaled_from}"]
            notes = notes if gpu.scaled_from is not None else []
            if candidate != wanted:
                notes.append(f"{what} on {gpu.gpu.name}: kernels of {candidate}")
            if cache not in SIXTEEN_BITS and name == BF16_NAME:
                notes.append(f"{what} with an {cache} cache: {AS_BF16}")
            computes = ElementType.BF16 if name == BF16_NAME else cache
            return found, Found(computes, tuple(map(Estimate.always, notes)))
    return None


def _outside(what: str, gpu: CalibratedGpu, fits: np.ndarray) -> Estimate:
    return Estimate(f"{what} on {gpu.gpu.name}: shapes outside those fitted", ~fits)


def _attention_work(flops: Floats, dram: Floats, cache: ElementType) -> Work:
    flops, dram = (np.array(part) for part in np.broadcast_arrays(flops, dram))
    eight = np.full_like(dram, float(cache.bytes == 1))
    return Work(flops, dram, np.zeros_like(dram), np.ones_like(dram), eight)


def _windowed_shapes(op: Attention, length: Floats, window: int) -> WindowedShapes:
    prefill = op.phase is Phase.PREFILL
    return WindowedShapes.of(
        batch=op.batch,
        # Several tokens of a request read its keys together, like the heads of a group.
        heads=op.heads if prefill else column(op.heads * op.queries),
        kv_heads=op.kv_heads,
        head_dim=op.head_dim,
        length=length,
        past=op.past if prefill else 0,
        window=window,
    )


def windowed_attention(gpu: CalibratedGpu, framework: str | None, op: Attention) -> Priced | None:
    """Price attention within a window.

    In decode, a request with as many keys as the window counts as cut by it.

    Args:
        gpu: the GPU.
        framework: framework of the kernels; None for that which stands for the GPU.
        op: the attention, with a window.

    Returns:
        The price; None where attention within a window was not measured on this GPU.
    """
    window = op.window
    if window is None:
        return None
    cache = op.kv
    what = f"{op.phase} attention within a window"
    if op.phase is Phase.PREFILL:
        prefill = _find(gpu, framework, gpu.calibration.windowed_prefill_attention, cache, what)
        if prefill is None:
            return None
        return _windowed_prefill(gpu, op, window, *prefill)
    decode = _find(gpu, framework, gpu.calibration.windowed_decode_attention, cache, what)
    if decode is None:
        return None
    return _windowed_decode(gpu, op, window, *decode)


def _windowed_decode(
    gpu: CalibratedGpu, op: Attention, window: int, series: WindowedDecodeSeries, found: Found
) -> Priced:
    read = None if op.kv in SIXTEEN_BITS else op.kv

    def timed(keys: Floats) -> tuple[Floats, Floats, WindowedShapes]:
        shapes = _windowed_shapes(op, np.where(keys >= window, window + 1.0, keys), window)
        return *windowed_decode(series, gpu.gpu, shapes, read), shapes

    keys = column(op.keys)
    time_ns, rounds, shapes = timed(keys)
    estimates = list(found.estimates)
    if op.longest is not None:
        longest = column(op.longest)
        time_ns = ragged(time_ns, timed(longest)[0], rounds)
        estimates.append(Estimate(RAGGED, longest > keys))
    fits = inside(windowed_limits(series, shapes))
    estimates.append(_outside("decode attention within a window", gpu, fits))
    work = _attention_work(column(op.flops), column(op.bytes), op.kv)
    launch_ns = series.kernels[-1].coefficients.launch_ns
    bound = bound_of(work, time_ns, launch_ns, gpu.gpu, found.computes)
    return Priced(time_ns, launch_ns, bound, work, tuple(estimates))


def _windowed_prefill(
    gpu: CalibratedGpu, op: Attention, window: int, series: WindowedPrefillSeries, found: Found
) -> Priced:
    shapes = _windowed_shapes(op, column(op.queries), window)
    time_ns = windowed_prefill_ns(series, gpu.gpu, shapes)
    kept = shapes.length + np.minimum(shapes.past, window)
    moved = 4 * shapes.batch * shapes.head_dim
    moved = moved * (shapes.length * shapes.heads + kept * shapes.kv_heads)
    pairs = shapes.length * mean_keys(shapes)[0]
    work = _attention_work(4 * shapes.batch * shapes.heads * pairs * shapes.head_dim, moved, op.kv)
    launch_ns = series.kernels[-1].coefficients.launch_ns
    bound = bound_of(work, time_ns, launch_ns, gpu.gpu, found.computes)
    later = Estimate(PAST, shapes.past > 0)
    limits = [part for part in windowed_limits(series, shapes) if "earlier" not in part[0]]
    outside = _outside("prefill attention within a window", gpu, inside(limits))
    return Priced(time_ns, launch_ns, bound, work, (*found.estimates, later, outside))


def without_window(op: Attention) -> Attention:
    """Return attention to all of as many keys as a window leaves.

    In prefill, past and own keys are those of a chunk with the same mean and the same largest
    number of keys.
    """
    window = op.window
    if window is None or op.phase is Phase.DECODE:
        return replace(op, window=None)
    shapes = _windowed_shapes(op, column(op.queries), window)
    mean, _ = mean_keys(shapes)
    most = np.minimum(shapes.past + shapes.length, window)
    return replace(op, window=None, past=2 * mean - most, keys=most)


def _latent_shapes(op: LatentAttention, length: Floats, heads: Floats) -> LatentShapes:
    return LatentShapes.of(
        batch=op.batch,
        heads=heads,
        length=length,
        past=op.past if op.phase is Phase.PREFILL else 0,
        latent=op.latent,
        rope=op.rope_dim,
        nope=op.nope_dim,
        value=op.value_dim,
    )


def _other_sizes(op: LatentAttention) -> Estimate:
    same = (op.latent, op.rope_dim, op.nope_dim, op.value_dim) == (LATENT, ROPE, NOPE, VALUE)
    what = (
        f"latents of {op.latent} and {op.rope_dim} elements, expanded to {op.nope_dim} and "
        f"{op.value_dim}: scaled by bytes and operations from {LATENT}, {ROPE}, {NOPE} and {VALUE}"
    )
    return Estimate(what, np.array([not same]))


def _fits(series: LatentDecodeSeries | LatentPrefillSeries, shapes: LatentShapes) -> np.ndarray:
    """Return which shapes are within the range, apart from what other estimates name."""
    limits = latent_limits(series, shapes)
    return inside([part for part in limits if not part[0].startswith(("latents", "there"))])


def latent_decode_attention(
    gpu: CalibratedGpu, framework: str | None, op: LatentAttention
) -> Priced:
    """Price decode attention over latents, in the absorbed form.

    Several new tokens of a request are as many times its heads: all share the records.

    Args:
        gpu: the GPU.
        framework: framework of the kernels; None for that which stands for the GPU.
        op: the attention.
    """
    what = "decode attention over latents"
    work = _attention_work(column(op.flops), column(op.bytes), op.kv)
    known = _find(gpu, framework, gpu.calibration.mla_decode, op.kv, what)
    if known is None:
        return roofline(work, gpu.gpu, ElementType.BF16, what)
    measured, found = known
    # Steps run as graphs of kernels, which the host starts at once.
    kernels = tuple(
        kernel.model_copy(
            update={"coefficients": kernel.coefficients.model_copy(update={"host_ns": None})}
        )
        for kernel in measured.kernels
    )
    waits = any(kernel.coefficients.host_ns is not None for kernel in measured.kernels)
    series = measured.model_copy(update={"kernels": kernels})
    read = None if op.kv in SIXTEEN_BITS else op.kv
    heads = column(op.heads * op.queries)
    shapes = _latent_shapes(op, column(op.keys), heads)
    time_ns, rounds = latent_decode(series, gpu.gpu, shapes, read)
    estimates = [*found.estimates, _other_sizes(op), Estimate(HOST_HIDDEN, np.array([waits]))]
    if op.longest is not None:
        longest = latent_decode(
            series, gpu.gpu, _latent_shapes(op, column(op.longest), heads), read
        )[0]
        time_ns = ragged(time_ns, longest, rounds)
        estimates.append(Estimate(RAGGED, column(op.longest) > column(op.keys)))
    estimates.append(_outside(what, gpu, _fits(series, shapes)))
    launch_ns = kernels[-1].coefficients.launch_ns
    bound = bound_of(work, time_ns, launch_ns, gpu.gpu, found.computes)
    return Priced(time_ns, launch_ns, bound, work, tuple(estimates))


def latent_prefill_attention(
    gpu: CalibratedGpu, framework: str | None, op: LatentAttention
) -> Priced | None:
    """Price prefill attention over expanded latents.

    Args:
        gpu: the GPU.
        framework: framework of the kernels; None for that which stands for the GPU.
        op: the attention.

    Returns:
        The price; None where only the absorbed form was measured on this GPU, or none.
    """
    what = "prefill attention over latents"
    known = _find(gpu, framework, gpu.calibration.mla_prefill, op.kv, what)
    if known is None or known[0].form is LatentForm.ABSORBED:
        return None
    measured, found = known
    waits = measured.coefficients.host_ns is not None
    alone = measured.coefficients.model_copy(update={"host_ns": None})
    series = measured.model_copy(update={"coefficients": alone})
    shapes = _latent_shapes(op, column(op.queries), column(op.heads))
    time_ns = latent_prefill_ns(series, gpu.gpu, shapes)
    width = op.nope_dim + op.rope_dim + op.value_dim
    pairs = shapes.length * (shapes.past + shapes.length / 2)
    flops = 2 * shapes.batch * shapes.heads * pairs * width
    work = _attention_work(flops, column(op.bytes), op.kv)
    launch_ns = series.coefficients.launch_ns
    bound = bound_of(work, time_ns, launch_ns, gpu.gpu, found.computes)
    estimates = (
        *found.estimates,
        _other_sizes(op),
        Estimate(HOST_HIDDEN, np.array([waits])),
        Estimate(PAST, shapes.past > 0),
        _outside(what, gpu, _fits(series, shapes)),
    )
    return Priced(time_ns, launch_ns, bound, work, estimates)


def expanded(op: LatentAttention) -> Attention:
    """Return prefill attention with the operations and bytes of that over expanded latents.

    Keys and values of a head have different sizes; a head of their mean has the same work.
    """
    mean = (op.nope_dim + op.rope_dim + op.value_dim) // 2
    return Attention(
        phase=Phase.PREFILL,
        batch=op.batch,
        heads=op.heads,
        kv_heads=op.heads,
        head_dim=mean,
        queries=op.queries,
        keys=op.keys,
        activation=op.activation,
        kv=op.activation,
        past=op.past,
    )


def _sparse_series(
    gpu: CalibratedGpu, framework: str | None, cache: ElementType
) -> tuple[SparseDecodeSeries, ElementType, tuple[Estimate, ...]] | None:
    """Return the modules' series of a cache, with weights of 16 bits, and the cache it stands for.

    The series' model is the first that was measured; parts of the module are scaled by sizes.
    """
    name = BF16_NAME if cache.bytes > 1 else str(ElementType.FP8)
    wanted = framework or gpu.calibration.reference
    mine = [
        series
        for series in gpu.calibration.sparse_decode
        if series.dtype == f"{BF16_NAME}/{name}" and series.framework == wanted
    ]
    if not mine:
        return None
    notes: list[str] = []
    if gpu.scaled_from is not None:
        notes.append(f"operators on {gpu.gpu.name}: scaled from {gpu.scaled_from}")
    if cache not in (*SIXTEEN_BITS, ElementType.FP8):
        notes.append(f"sparse attention with an {cache} cache: as {name}, never measured")
    return mine[0], mine[0].cache, tuple(map(Estimate.always, notes))


def sparse_attention(gpu: CalibratedGpu, framework: str | None, op: LatentAttention) -> Priced:
    """Price attention to chosen records, with all that its module runs beside products and scan.

    Args:
        gpu: the GPU.
        framework: framework of the kernels; None for that which stands for the GPU.
        op: the attention, which gathers records.
    """
    what = "sparse attention over latents"
    work = _attention_work(column(op.flops), column(op.bytes), op.kv)
    known = _sparse_series(gpu, framework, op.kv)
    if known is None:
        return roofline(work, gpu.gpu, ElementType.BF16, what)
    series, cache, notes = known
    of = series.coefficients
    keys = column(op.keys)
    tokens, heads = column(op.batch * op.queries), column(op.heads)
    latent, rope = column(op.latent), column(op.rope_dim)
    computed = np.maximum(keys, CHOSEN) if series.pads else keys
    attention = attention_times(
        tokens,
        heads,
        record_bytes(latent, rope, cache),
        (computed, 2 * latent + rope),
        gpu.gpu,
        (of.round_ns, of.key_ns, of.attention_share, of.read_share),
    )
    beside = of.fixed_ns + tokens * (of.token_ns + of.head_ns * heads)
    time_ns = beside if op.elsewhere else beside + attention
    limits = series.range
    fits = (heads >= limits.heads[0]) & (heads <= limits.heads[1])
    fits = fits & (tokens <= limits.batch[1])
    estimates = (
        *notes,
        _other_sizes(op),
        Estimate(SPARSE_PREFILL, np.array([op.phase is Phase.PREFILL])),
        Estimate(BESIDE, np.array([op.elsewhere])),
        _outside(what, gpu, fits),
    )
    bound = bound_of(work, time_ns, of.fixed_ns, gpu.gpu, ElementType.BF16)
    # Modules were measured as graphs of kernels, which start by themselves.
    return Priced(time_ns, 0.0, bound, work, estimates)


def index_scan(gpu: CalibratedGpu, framework: str | None, op: IndexScan) -> Priced:
    """Price the scores of index keys, and the choice of the best tokens.

    Args:
        gpu: the GPU.
        framework: framework of the kernels; None for that which stands for the GPU.
        op: the scan.
    """
    what = "scan of index keys"
    cache = ElementType.FP8 if ElementType.FP8 in gpu.gpu.peak_flops else ElementType.BF16
    work = _attention_work(column(op.flops), column(op.bytes), cache)
    known = _sparse_series(gpu, framework, cache)
    if known is None:
        return roofline(work, gpu.gpu, cache, what)
    series, _, notes = known
    of = series.coefficients
    keys = column(op.keys)
    read = 0.0 if op.scored else op.key_bytes
    moved = op.batch * keys * (read + SCORE_BYTES * op.queries)
    chooses = keys > op.chosen
    scan = scan_times(moved, chooses, gpu.gpu, of.scan_share, of.choice_ns)
    peak = peak_flops_per_s(gpu.gpu, cache) * GB
    time_ns = np.maximum(scan, work.flops / (of.product_share * peak))
    same = op.heads in INDEX_HEADS and (op.dim, op.chosen) == (INDEX_DIM, CHOSEN)
    other = f"scan with {op.heads} heads of {op.dim} elements: by bytes and operations, scaled"
    estimates = (
        *notes,
        Estimate(SCAN_PREFILL, np.array([op.phase is Phase.PREFILL])),
        Estimate(other, np.array([not same])),
    )
    bound = bound_of(work, time_ns, 0.0, gpu.gpu, cache)
    return Priced(time_ns, 0.0, bound, work, estimates)


def heads_product(gpu: CalibratedGpu, framework: str | None, op: MatMul) -> Priced:
    """Price a product of every head's activations with weights of that head.

    Args:
        gpu: the GPU.
        framework: framework of the kernels; None for that which stands for the GPU.
        op: the product; ``count`` is the number of heads.
    """
    what = "products of heads"
    shapes = HeadShapes.of(m=op.m, n=op.n, k=op.k, heads=op.count)
    left, right = op.left.bytes, op.right.bytes
    l2 = shapes.flops / 2 * (right / L2_TILE[0] + left / L2_TILE[1])
    moved = np.broadcast_to(column(op.bytes), l2.shape)
    none = np.zeros_like(l2)
    work = Work(shapes.flops, np.array(moved), l2, none, np.full_like(l2, float(left == 1)))
    series = _head_series(gpu, framework, shapes)
    if series is None:
        return roofline(work, gpu.gpu, ElementType.BF16, what)
    notes = [CACHED_WEIGHTS]
    if gpu.scaled_from is not None:
        notes.append(f"operators on {gpu.gpu.name}: scaled from {gpu.scaled_from}")
    if op.right not in SIXTEEN_BITS or op.left not in SIXTEEN_BITS:
        notes.append(f"products of heads of {op.left} with {op.right} weights: {AS_BF16}")
    time_ns = head_product_ns(series, gpu.gpu, shapes, op.right)
    outside = _outside(what, gpu, inside(head_product_limits(series, shapes)))
    launch_ns = series.coefficients.launch_ns
    bound = bound_of(work, time_ns, launch_ns, gpu.gpu, ElementType.BF16)
    return Priced(time_ns, launch_ns, bound, work, (*map(Estimate.always, notes), outside))


def _head_series(
    gpu: CalibratedGpu, framework: str | None, shapes: HeadShapes
) -> HeadProductSeries | None:
    """Return the series of the nearest measured product: one that widens, or one that narrows."""
    wanted = framework or gpu.calibration.reference
    widens = bool(shapes.n[0] >= shapes.k[0])
    for series in gpu.calibration.mla_batched_matmul:
        if series.framework == wanted and (series.range.n[0] >= series.range.k[0]) == widens:
            return series
    return None
