"""Measured attention modules of DeepSeek sparse attention, in decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.calibration.fused.distinct import fit_distinct
from attacc.calibration.fused.kind import MeasuredKind, plain_labels
from attacc.calibration.problems import Unknown, around, error, extent, record
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed
from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.fused.sparse_decode import (
    CACHES,
    TYPES,
    SparseCoefficients,
    SparseDecodeSeries,
    SparseRange,
    SparseShapes,
    sparse_decode_ns,
    sparse_limits,
    sparse_parts,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.hardware.gpu import GpuSpec

if TYPE_CHECKING:
    import polars as pl

    from attacc.calibration.tables import Table

MODELS: Final = {
    "deepseek-ai/DeepSeek-V3.2": {
        "hidden": 7168,
        "query_rank": 1536,
        "latent": 512,
        "rope": 64,
        "nope": 128,
        "value": 128,
        "index_heads": 64,
        "index_dim": 128,
        "chosen": 2048,
    },
    "zai-org/GLM-5": {
        "hidden": 6144,
        "query_rank": 2048,
        "latent": 512,
        "rope": 64,
        "nope": 192,
        "value": 256,
        "index_heads": 32,
        "index_dim": 128,
        "chosen": 2048,
    },
}
"""Model -> sizes of its attention, as in its config.json."""
UNKNOWNS: Final = (
    around(110_000.0, 4.0),
    around(100.0, 30.0),
    around(1.0, 50.0),
    Unknown(0.7, 0.1, 1.0),
    Unknown(0.5, 0.05, 1.0),
    Unknown(0.7, 0.2, 1.0),
    around(8000.0, 20.0),
    around(300.0, 10.0),
    around(10.0, 20.0),
    Unknown(0.5, 0.03, 1.0),
    Unknown(0.7, 0.1, 1.0),
)
"""Unknowns in the order of `SparseCoefficients`."""
FIXED: Final = 0


def pads(gpu: GpuSpec, cache: str) -> bool:
    """Return whether the attention computes padded lists: Hopper's kernels of 8-bit caches do."""
    return CACHES[cache].bytes == 1 and gpu.fp4_flops is None


def _labels(table: Table) -> pl.DataFrame:
    labels = plain_labels(table, dtype="gemm_type", operation="model")
    return labels.with_columns(dtype=labels["dtype"] + "/" + table.texts("kv_cache_dtype"))


def _shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> SparseShapes:
    return SparseShapes.of(
        batch=sizes["batch_size"],
        heads=sizes["num_heads"],
        length=sizes["kv_length"],
        **MODELS[key.operation],
    )


def fit_modules(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[SparseDecodeSeries, Floats]:
    """Fit a series of attention modules. See `MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, SparseShapes)  # noqa: S101 - the operator implies it
    cache = data.key.types.split("/")[1]
    types, padded = (TYPES[data.key.types], CACHES[cache]), pads(gpu, cache)

    def predict(some: FusedShapes, vector: Floats) -> Floats:
        assert isinstance(some, SparseShapes)  # noqa: S101
        return sparse_parts(some, gpu, vector, types, pads=padded).total_ns

    start = {FIXED: float(np.quantile(data.time_ns, 0.02)) * 0.7}
    found = fit_distinct(shapes, data.time_ns, UNKNOWNS, predict, [start], folds=folds)
    series = SparseDecodeSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        kernel=data.key.operation,
        points=data.count,
        error=error(found.held_back, data.time_ns),
        pads=padded,
        range=SparseRange(
            batch=extent(shapes.batch), heads=extent(shapes.heads), length=extent(shapes.length)
        ),
        coefficients=record(SparseCoefficients, found.values),
    )
    return series, found.held_back


SPARSE_DECODE: Final = MeasuredKind(
    operator=MeasuredOperator.SPARSE_DECODE,
    columns=("gpu", "framework", "version", "model", "gemm_type", "kv_cache_dtype"),
    sizes={
        "num_heads": Allowed(1, 2.0**16),
        "batch_size": Allowed(1, 2.0**24),
        "kv_length": Allowed(1, 2.0**31),
    },
    types=TYPES,
    series=SparseDecodeSeries,
    shapes=_shapes,
    size=lambda shapes: shapes.length,
    classes=(("keys <= 128", 128), ("keys 129-2048", 2048), ("keys > 2048", np.inf)),
    predict=sparse_decode_ns,
    limits=sparse_limits,
    fit=fit_modules,
    labels=_labels,
    optional=("op_name", "kernel_source", "architecture", "dtype", "tp_size"),
    known={
        "op_name": ("dsa_generation_module",),
        "dtype": ("bfloat16",),
        "model": tuple(MODELS),
    },
)
"""Attention modules of whole layers. ``num_heads`` are those of one GPU."""
