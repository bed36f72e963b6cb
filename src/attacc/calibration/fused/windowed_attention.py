"""Measured attention within a window, in decode and in prefill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.calibration import attention_unknowns
from attacc.calibration.attention_unknowns import SCALAR_SHARE, WIDENED_KV_PASSES
from attacc.calibration.fused.kind import MeasuredKind, plain_labels
from attacc.calibration.problems import (
    Indices,
    Problem,
    Unknown,
    around,
    error,
    extent,
    fit,
    record,
)
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed, Flags, Reasons, Table
from attacc.gpu.calibrated.attention_records import DecodeCoefficients, PrefillCoefficients
from attacc.gpu.calibrated.fused.windowed_attention import (
    ANY,
    CACHES,
    StoreCoefficients,
    WindowCoefficients,
    WindowedDecodeKernel,
    WindowedDecodeSeries,
    WindowedPrefillKernel,
    WindowedPrefillSeries,
    WindowedRange,
    WindowedShapes,
    kernels_of,
    windowed_decode_ns,
    windowed_decode_times,
    windowed_limits,
    windowed_prefill_ns,
    windowed_prefill_times,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.machine import machine
from attacc.hardware.gpu import GpuSpec

if TYPE_CHECKING:
    import polars as pl

DECODE_UNKNOWNS: Final = (
    *attention_unknowns.DECODE_UNKNOWNS,
    Unknown(96.0, 1.0, 192.0),
    around(3000.0, 20.0),
    around(300.0, 30.0),
)
"""Unknowns in the order of `DecodeCoefficients`, then of `WindowCoefficients`."""
DECODE_FIELDS: Final = len(DecodeCoefficients.model_fields)
LAUNCH: Final = 0
DECODE_LOAD: Final = 3
DECODE_COMPUTE: Final = 5
"""Places of coefficients in the vector of decode attention."""
SHARES: Final = 6
PREFILL_UNKNOWNS: Final = (
    *attention_unknowns.PREFILL_UNKNOWNS[:SHARES],
    Unknown(0.6, 0.1, 1.0),
    *attention_unknowns.PREFILL_UNKNOWNS[SHARES + 1 :],
    around(500.0, 20.0),
    around(300.0, 30.0),
    around(200.0, 30.0),
)
"""Unknowns in the order of `PrefillCoefficients`, then of `StoreCoefficients`."""
PREFILL_FIELDS: Final = len(PrefillCoefficients.model_fields)
TILE_ROWS: Final = 2
KEY: Final = 4
KV_PASSES: Final = 11
SUSTAINED_AFTER: Final = 14
"""Places of coefficients in the vector of prefill attention."""
TRITON_DIMS: Final = (192, 192)
"""Heads that vLLM's attention on Blackwell leaves to a kernel written in Triton."""
ONE_TOKEN: Final = (1, 1)
SOURCES: Final = ("kernel_source",)
SIZES: Final = {
    "batch_size": Allowed(1, 2.0**24),
    "num_heads": Allowed(1, 2.0**16),
    "num_key_value_heads": Allowed(1, 2.0**16),
    "head_dim": Allowed(1, 2.0**16),
    "window_size": Allowed(1, 2.0**31),
}
LENGTH: Final = Allowed(1, 2.0**31)
NO_WINDOW: Final = (0.0, -1.0)
"""Values of window_size that stand for attention to all keys."""
PAST: Final = "past_length"
ATTENTION_TYPES: Final = ("bfloat16", "float16", "half")


def _claims(table: Table) -> Flags:
    numbers = table.numbers("window_size")
    return np.isfinite(numbers.values) & ~np.isin(numbers.values, NO_WINDOW)


def _claims_prefill(table: Table) -> Flags:
    claims = _claims(table)
    if PAST not in table.columns:
        return claims
    past = table.numbers(PAST)
    return claims & (past.empty | (past.values == 0))


def _labels(table: Table) -> pl.DataFrame:
    return plain_labels(table, dtype="kv_cache_dtype")


def _shapes(sizes: Mapping[str, Floats], length: str) -> WindowedShapes:
    return WindowedShapes(
        batch=sizes["batch_size"],
        heads=sizes["num_heads"],
        kv_heads=sizes["num_key_value_heads"],
        head_dim=sizes["head_dim"],
        length=sizes[length],
        past=np.zeros_like(sizes[length]),
        window=sizes["window_size"],
    )


def _decode_shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> WindowedShapes:
    del key
    return _shapes(sizes, "kv_length")


def _prefill_shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> WindowedShapes:
    del key
    return _shapes(sizes, "prompt_length")


def _leave_ragged(columns: Mapping[str, Floats], reasons: Reasons) -> None:
    with np.errstate(invalid="ignore"):  # in rows that are left out already
        ragged = np.fmod(columns["num_heads"], columns["num_key_value_heads"]) != 0
    reasons.add(ragged, "num_heads is no multiple of num_key_value_heads")


def window_range(shapes: WindowedShapes) -> WindowedRange:
    """Return the range of shapes that a series is stated for."""
    return WindowedRange(
        batch=extent(shapes.batch),
        heads=extent(shapes.heads),
        group=extent(shapes.heads / shapes.kv_heads),
        length=extent(shapes.length),
        head_dims=tuple(int(dim) for dim in np.unique(shapes.head_dim)),
        window=extent(shapes.window),
    )


def _launch(data: Measurements) -> float:
    return float(np.quantile(data.time_ns, 0.01)) * 0.7


def decode_problem(data: Measurements, gpu: GpuSpec) -> Problem:
    """Return the problem of one kernel of decode attention within a window."""
    shapes = data.shapes
    assert isinstance(shapes, WindowedShapes)  # noqa: S101 - the operator implies it
    at = machine(gpu, CACHES[data.key.types])

    def predict(values: Floats, rows: Indices) -> Floats:
        main, window = values[:DECODE_FIELDS], values[DECODE_FIELDS:]
        return windowed_decode_times(shapes.take(rows), at, main, window)[0]

    first = np.array([unknown.start for unknown in DECODE_UNKNOWNS])
    first[LAUNCH] = _launch(data)
    # Cores may also wait for single keys or for arithmetic instead of bytes: other minima.
    waiting, slow = first.copy(), first.copy()
    waiting[DECODE_LOAD : DECODE_LOAD + 2] = 200.0, 4.0
    slow[DECODE_COMPUTE] = 0.15
    return Problem(DECODE_UNKNOWNS, data.time_ns, predict, [first, waiting, slow])


def fit_decode(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[WindowedDecodeSeries, Floats]:
    """Fit a series of decode attention within a window. See `MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, WindowedShapes)  # noqa: S101
    dims = (TRITON_DIMS, ANY) if gpu.fp4_flops is not None else (ANY,)
    chosen = kernels_of(dims, (ANY,) * len(dims), shapes)
    held_back = np.empty(data.count)
    kernels: list[WindowedDecodeKernel] = []
    for i, head_dims in enumerate(dims):
        mine = chosen == i
        if not mine.any():
            continue
        found = fit(decode_problem(data.take(mine), gpu), folds=folds)
        held_back[mine] = found.held_back
        kernels.append(
            WindowedDecodeKernel(
                head_dims=head_dims,
                coefficients=record(DecodeCoefficients, found.values[:DECODE_FIELDS]),
                window=record(WindowCoefficients, found.values[DECODE_FIELDS:]),
            )
        )
    series = WindowedDecodeSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        points=data.count,
        error=error(held_back, data.time_ns),
        range=window_range(shapes),
        kernels=tuple(kernels),
    )
    return series, held_back


def prefill_rules(gpu: GpuSpec) -> tuple[tuple[tuple[int, int], tuple[int, int], bool, int], ...]:
    """Return heads, tokens, whether groups are packed, and rows of a tile, of each kernel.

    On Hopper, one kernel takes all prompts (FlashAttention 3). On Blackwell, a prompt of one token
    runs as decode attention, and a kernel in Triton takes heads of 192 elements.
    """
    if gpu.fp4_flops is None:
        return ((ANY, ANY, True, 128),)
    return (
        (TRITON_DIMS, ANY, True, 16),
        (ANY, ONE_TOKEN, True, 64),
        (ANY, ANY, False, 256),
    )


def prefill_problem(
    data: Measurements, gpu: GpuSpec, tile_rows: int, *, packs_groups: bool
) -> Problem:
    """Return the problem of one kernel of prefill attention within a window."""
    shapes = data.shapes
    assert isinstance(shapes, WindowedShapes)  # noqa: S101
    cache = CACHES[data.key.types]
    at = machine(gpu, cache)
    unknowns = list(PREFILL_UNKNOWNS)
    unknowns[TILE_ROWS] = Unknown(tile_rows, tile_rows * 0.999, tile_rows * 1.001)
    small = tile_rows < 64
    if small:
        unknowns[SHARES : SHARES + 4] = [SCALAR_SHARE] * 4
    elif not packs_groups and cache.bytes == 1:
        unknowns[KV_PASSES] = WIDENED_KV_PASSES

    def predict(values: Floats, rows: Indices) -> Floats:
        main, store = values[:PREFILL_FIELDS].copy(), values[PREFILL_FIELDS:]
        main[TILE_ROWS] = tile_rows
        return windowed_prefill_times(shapes.take(rows), at, main, store, packs_groups=packs_groups)

    first = np.array([unknown.start for unknown in unknowns])
    first[LAUNCH] = _launch(data)
    # Tiles may also wait for their keys, or for arithmetic at a low rate: other minima.
    waiting, slow = first.copy(), first.copy()
    waiting[KEY : KEY + 2] = 20.0
    slow[SHARES : SHARES + 4] = 0.1 if small else 0.4
    slow[SUSTAINED_AFTER] = 1e5
    return Problem(unknowns, data.time_ns, predict, [first, waiting, slow])


def fit_prefill(
    data: Measurements, gpu: GpuSpec, folds: int
) -> tuple[WindowedPrefillSeries, Floats]:
    """Fit a series of prefill attention within a window. See `MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, WindowedShapes)  # noqa: S101
    rules = prefill_rules(gpu)
    chosen = kernels_of(tuple(r[0] for r in rules), tuple(r[1] for r in rules), shapes)
    held_back = np.empty(data.count)
    kernels: list[WindowedPrefillKernel] = []
    for i, (head_dims, tokens, packs_groups, tile_rows) in enumerate(rules):
        mine = chosen == i
        if not mine.any():
            continue
        problem = prefill_problem(data.take(mine), gpu, tile_rows, packs_groups=packs_groups)
        found = fit(problem, folds=folds)
        held_back[mine] = found.held_back
        values = found.values.copy()
        values[TILE_ROWS] = tile_rows
        kernels.append(
            WindowedPrefillKernel(
                head_dims=head_dims,
                tokens=tokens,
                packs_groups=packs_groups,
                coefficients=record(PrefillCoefficients, values[:PREFILL_FIELDS]),
                store=record(StoreCoefficients, values[PREFILL_FIELDS:]),
            )
        )
    series = WindowedPrefillSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        points=data.count,
        error=error(held_back, data.time_ns),
        range=window_range(shapes),
        kernels=tuple(kernels),
    )
    return series, held_back


WINDOWED_DECODE: Final = MeasuredKind(
    operator=MeasuredOperator.WINDOWED_DECODE,
    columns=("gpu", "framework", "version", "kv_cache_dtype"),
    sizes={**SIZES, "kv_length": LENGTH},
    types=CACHES,
    series=WindowedDecodeSeries,
    shapes=_decode_shapes,
    size=lambda shapes: shapes.length,
    classes=(("keys <= 128", 128), ("keys 129-2048", 2048), ("keys > 2048", np.inf)),
    predict=windowed_decode_ns,
    limits=windowed_limits,
    fit=fit_decode,
    labels=_labels,
    claims=_claims,
    optional=("op_name", "attn_dtype", *SOURCES),
    known={"op_name": ("generation_attention",), "attn_dtype": ATTENTION_TYPES},
    leave=_leave_ragged,
)
"""Decode attention within a window. The column window_size tells the rows from those of attention
to all keys."""
WINDOWED_PREFILL: Final = MeasuredKind(
    operator=MeasuredOperator.WINDOWED_PREFILL,
    columns=("gpu", "framework", "version", "kv_cache_dtype"),
    sizes={**SIZES, "prompt_length": LENGTH},
    types=CACHES,
    series=WindowedPrefillSeries,
    shapes=_prefill_shapes,
    size=lambda shapes: shapes.length,
    classes=(("tokens <= 128", 128), ("tokens 129-2048", 2048), ("tokens > 2048", np.inf)),
    predict=windowed_prefill_ns,
    limits=windowed_limits,
    fit=fit_prefill,
    labels=_labels,
    claims=_claims_prefill,
    optional=("op_name", "attn_dtype", PAST, *SOURCES),
    known={"op_name": ("context_attention",), "attn_dtype": ATTENTION_TYPES},
    leave=_leave_ragged,
)
"""Prefill attention within a window."""
