"""Measured attention over latents, in decode and in prefill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.calibration.fused.distinct import fit_distinct
from attacc.calibration.fused.kind import MeasuredKind, plain_labels
from attacc.calibration.problems import Fit, Unknown, around, error, extent, record
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed, Flags, Table
from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.fused.latent_attention import (
    CACHES,
    LATENT,
    NOPE,
    ROPE,
    VALUE,
    LatentDecodeCoefficients,
    LatentDecodeKernel,
    LatentDecodeSeries,
    LatentForm,
    LatentPrefillCoefficients,
    LatentPrefillSeries,
    LatentRange,
    LatentShapes,
    decode_kernels_of,
    latent_decode_ns,
    latent_decode_times,
    latent_limits,
    latent_prefill_ns,
    latent_prefill_times,
    prefill_computes,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.machine import machine
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType

if TYPE_CHECKING:
    import polars as pl

Unknowns = tuple[Unknown | None, ...]
DECODE_UNKNOWNS: Final[Unknowns] = (
    around(7000.0, 5.0),
    around(1500.0),
    around(80.0),
    around(2.0, 50.0),
    Unknown(0.5, 0.02, 1.0),
    around(20.0, 20.0),
    Unknown(0.85, 0.2, 1.0),
    Unknown(0.8, 0.1, 2.5),
    around(8000.0, 20.0),
    around(60e6, 8.0),
    around(50.0, 8.0),
    around(3000.0),
    around(15.0),
    around(128.0, 5.0),
    around(3.0, 3.0),
    None,
    None,
    None,
)
"""Unknowns in the order of `LatentDecodeCoefficients`; the last three are those of some kernels."""
RESIDENT: Final = Unknown(2.0, 1.0, 4.0)
CONVERT: Final = around(350.0, 20.0)
HOST: Final = around(300_000.0, 2.0)
LAUNCH: Final = 0
CORE_LOAD: Final = 2
DECODE_KEY: Final = 3
SHARE: Final = 4
DECODE_OTHERS: Final = 15
"""Places of coefficients in the vector of decode attention, and of the first that some lack."""
PREFILL_UNKNOWNS: Final[Unknowns] = (
    around(9000.0, 5.0),
    around(1500.0),
    around(10.0, 30.0),
    around(5.0, 20.0),
    Unknown(0.6, 0.1, 1.0),
    Unknown(0.7, 0.1, 2.5),
    Unknown(1.0, 0.3, 8.0),
    Unknown(0.7, 0.05, 5.0),
    Unknown(0.85, 0.5, 1.0),
    around(1e6),
    None,
    None,
)
"""Unknowns in the order of `LatentPrefillCoefficients`; the last two are those of some kernels."""
PREFILL_KEY: Final = 3
PREFILL_OTHERS: Final = 10
"""Places of coefficients in the vector of prefill attention, and of the first that some lack."""
SIZES: Final = {
    "num_heads": Allowed(1, 2.0**16),
    "batch_size": Allowed(1, 2.0**24),
}
LENGTH: Final = Allowed(1, 2.0**31)
PAST: Final = "past_length"
DECODE_NAMES: Final = ("generation_mla", "mla_generation")
PREFILL_NAMES: Final = ("context_mla", "mla_context")
"""Names of the operators in the column op_name."""


def converts(gpu: GpuSpec, cache: ElementType) -> bool:
    """Return whether an 8-bit cache is first converted to 16 bits: Hopper's kernels do."""
    return cache.bytes == 1 and gpu.fp4_flops is None


def waits(gpu: GpuSpec) -> bool:
    """Return whether the kernels wait for the host: vLLM's in Triton, which runs on Ampere."""
    return ElementType.FP8 not in gpu.peak_flops


def decode_rules(gpu: GpuSpec) -> tuple[tuple[tuple[int, int], int, int, int], ...]:
    """Return heads, heads of a block, least rows and fixed parts of each kernel of a GPU.

    Ampere runs vLLM's kernels in Triton: one for a single head, one for blocks of 16 heads, both
    with 4 parts. Hopper runs FlashAttention 3 with blocks of 64 heads. Blackwell runs
    TensorRT-LLM's: one for blocks of 16 heads up to 32, and one for blocks of 128.
    """
    if waits(gpu):
        return (((1, 1), 1, 1, 4), ((2, 2**20), 16, 16, 4))
    if gpu.fp4_flops is None:
        return (((1, 2**20), 64, 64, 0),)
    return (((1, 32), 16, 16, 0), ((33, 2**20), 128, 64, 0))


def prefill_rule(framework: str, gpu: GpuSpec) -> tuple[LatentForm, int, int]:
    """Return the form, and queries and keys of a tile.

    SGLang runs FlashAttention 3 in the absorbed form on Hopper. All others expand the latents.
    """
    if waits(gpu):
        return LatentForm.EXPANDED, 128, 64
    if gpu.fp4_flops is not None:
        return LatentForm.EXPANDED, 256, 128
    if framework == "SGLang":
        return LatentForm.ABSORBED, 64, 64
    return LatentForm.EXPANDED, 128, 128


def _claims_decode(table: Table) -> Flags:
    return _named(table, DECODE_NAMES)


def _claims_prefill(table: Table) -> Flags:
    past = table.numbers(PAST)
    return _named(table, PREFILL_NAMES) & (past.empty | (past.values == 0))


def _named(table: Table, names: tuple[str, ...]) -> Flags:
    """Return which rows measure an operator. Tables with sizes of heads are of other attention."""
    if "head_dim" in table.columns:
        return np.zeros(table.rows, dtype=np.bool_)
    return np.asarray(table.texts("op_name").is_in(list(names)).to_numpy(), dtype=np.bool_)


def _labels(table: Table) -> pl.DataFrame:
    return plain_labels(table, dtype="kv_cache_dtype")


def _shapes(sizes: Mapping[str, Floats], length: str) -> LatentShapes:
    like = np.ones_like(sizes[length])
    return LatentShapes(
        batch=sizes["batch_size"],
        heads=sizes["num_heads"],
        length=sizes[length],
        past=np.zeros_like(like),
        latent=LATENT * like,
        rope=ROPE * like,
        nope=NOPE * like,
        value=VALUE * like,
    )


def _decode_shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> LatentShapes:
    del key
    return _shapes(sizes, "kv_length")


def _prefill_shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> LatentShapes:
    del key
    return _shapes(sizes, "prompt_length")


def _range(shapes: LatentShapes) -> LatentRange:
    return LatentRange(
        batch=extent(shapes.batch), heads=extent(shapes.heads), length=extent(shapes.length)
    )


def _launch(time_ns: Floats, gpu: GpuSpec) -> dict[int, float]:
    """Return the start of the launch; the host hides it where the kernels wait for the host."""
    return {} if waits(gpu) else {LAUNCH: float(np.quantile(time_ns, 0.05)) * 0.8}


def fit_decode_kernel(
    data: Measurements, gpu: GpuSpec, kernel: tuple[int, int, int], folds: int
) -> Fit:
    """Fit one kernel of decode attention over latents to the shapes that it takes.

    Args:
        data: the measurements.
        gpu: the GPU.
        kernel: heads of a block, least rows of a block, and parts of the keys, or 0.
        folds: parts of the cross-validation; 0 for none.
    """
    shapes = data.shapes
    assert isinstance(shapes, LatentShapes)  # noqa: S101 - the operator implies it
    cache = CACHES[data.key.types]
    converted = converts(gpu, cache)
    at = machine(gpu, ElementType.BF16 if converted else cache)
    unknowns = (
        *DECODE_UNKNOWNS[:DECODE_OTHERS],
        RESIDENT if waits(gpu) else None,
        CONVERT if converted else None,
        HOST if waits(gpu) else None,
    )

    def predict(some: FusedShapes, vector: Floats) -> Floats:
        assert isinstance(some, LatentShapes)  # noqa: S101
        return latent_decode_times(some, at, vector, kernel, cache.bytes)[0]

    launch = _launch(data.time_ns, gpu)
    # Cores may also compute slowly, or wait for single keys instead of bytes: other minima.
    starts = [launch, {**launch, SHARE: 0.15}, {**launch, CORE_LOAD: 400.0, DECODE_KEY: 6.0}]
    return fit_distinct(shapes, data.time_ns, unknowns, predict, starts, folds=folds)


def fit_decode(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[LatentDecodeSeries, Floats]:
    """Fit a series of decode attention over latents. See `MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, LatentShapes)  # noqa: S101
    rules = decode_rules(gpu)
    chosen = decode_kernels_of(tuple(rule[0] for rule in rules), shapes)
    held_back = np.empty(data.count)
    kernels: list[LatentDecodeKernel] = []
    for i, (heads, tile, least, parts) in enumerate(rules):
        mine = chosen == i
        if not mine.any():
            continue
        found = fit_decode_kernel(data.take(mine), gpu, (tile, least, parts), folds)
        held_back[mine] = found.held_back
        kernels.append(
            LatentDecodeKernel(
                heads=heads,
                tile_heads=tile,
                least_rows=least,
                parts=parts,
                coefficients=record(LatentDecodeCoefficients, found.values),
            )
        )
    series = LatentDecodeSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        points=data.count,
        error=error(held_back, data.time_ns),
        range=_range(shapes),
        kernels=tuple(kernels),
    )
    return series, held_back


def fit_prefill(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[LatentPrefillSeries, Floats]:
    """Fit a series of prefill attention over latents. See `MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, LatentShapes)  # noqa: S101
    cache = CACHES[data.key.types]
    form, rows, keys = prefill_rule(data.key.framework, gpu)
    at = machine(gpu, prefill_computes(form, cache))
    others = (CONVERT if cache.bytes == 1 else None, HOST if waits(gpu) else None)
    unknowns = (*PREFILL_UNKNOWNS[:PREFILL_OTHERS], *others)

    def predict(some: FusedShapes, vector: Floats) -> Floats:
        assert isinstance(some, LatentShapes)  # noqa: S101
        return latent_prefill_times(some, at, vector, form, (rows, keys))

    launch = _launch(data.time_ns, gpu)
    # Cores may also compute slowly, or wait for single keys: other minima.
    starts = [launch, {**launch, SHARE: 0.3}, {**launch, PREFILL_KEY: 20.0}]
    found = fit_distinct(shapes, data.time_ns, unknowns, predict, starts, folds=folds)
    series = LatentPrefillSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        points=data.count,
        error=error(found.held_back, data.time_ns),
        form=form,
        tile_rows=rows,
        tile_keys=keys,
        range=_range(shapes),
        coefficients=record(LatentPrefillCoefficients, found.values),
    )
    return series, found.held_back


MLA_DECODE: Final = MeasuredKind(
    operator=MeasuredOperator.MLA_DECODE,
    columns=("gpu", "framework", "version", "kv_cache_dtype", "op_name"),
    sizes={**SIZES, "kv_length": LENGTH},
    types=CACHES,
    series=LatentDecodeSeries,
    shapes=_decode_shapes,
    size=lambda shapes: shapes.length,
    classes=(("keys <= 128", 128), ("keys 129-2048", 2048), ("keys > 2048", np.inf)),
    predict=latent_decode_ns,
    limits=latent_limits,
    fit=fit_decode,
    labels=_labels,
    claims=_claims_decode,
    optional=("kernel_source", "dtype", "tp_size"),
    known={"dtype": ("bfloat16",)},
)
"""Decode attention over latents. ``num_heads`` are those of one GPU, whatever ``tp_size`` is."""
MLA_PREFILL: Final = MeasuredKind(
    operator=MeasuredOperator.MLA_PREFILL,
    columns=("gpu", "framework", "version", "kv_cache_dtype", "op_name", PAST),
    sizes={**SIZES, "prompt_length": LENGTH},
    types=CACHES,
    series=LatentPrefillSeries,
    shapes=_prefill_shapes,
    size=lambda shapes: shapes.length,
    classes=(("tokens <= 128", 128), ("tokens 129-2048", 2048), ("tokens > 2048", np.inf)),
    predict=latent_prefill_ns,
    limits=latent_limits,
    fit=fit_prefill,
    labels=_labels,
    claims=_claims_prefill,
    optional=("kernel_source", "dtype", "tp_size"),
    known={"dtype": ("bfloat16",)},
)
"""Prefill attention over latents."""
