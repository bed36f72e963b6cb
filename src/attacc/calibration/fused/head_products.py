"""Measured products of every head's activations with weights of that head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.calibration.fused.distinct import fit_distinct
from attacc.calibration.fused.kind import MeasuredKind, plain_labels
from attacc.calibration.problems import Unknown, around, error, extent, record
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed, Flags, Table
from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.fused.head_products import (
    HeadCoefficients,
    HeadProductSeries,
    HeadRange,
    HeadShapes,
    head_product_limits,
    head_product_ns,
    head_product_times,
)
from attacc.gpu.calibrated.fused.latent_attention import LATENT, NOPE, VALUE
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.machine import machine
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType

if TYPE_CHECKING:
    import polars as pl

SIDES: Final = {"mla_gen_pre": (LATENT, NOPE), "mla_gen_post": (VALUE, LATENT)}
"""Name of the operator -> columns and inner dimension of one head's product: queries times the
matrix that absorbs keys, contexts times the matrix of values."""
UNKNOWNS: Final = (
    around(3500.0, 3.0),
    around(500.0),
    Unknown(0.8, 0.2, 1.0),
    around(150.0),
    around(45.0, 6.0),
    Unknown(0.8, 0.3, 1.0),
    Unknown(0.7, 0.2, 1.2),
    Unknown(3.0, 1.0, 8.0),
    Unknown(0.3, 0.02, 2.0),
)
"""Unknowns in the order of `HeadCoefficients`."""
LAUNCH: Final = 0


def _claims(table: Table) -> Flags:
    names = table.texts("op_name")
    return np.asarray(names.is_in(list(SIDES)).to_numpy(), dtype=np.bool_)


def _labels(table: Table) -> pl.DataFrame:
    return plain_labels(table, operation="op_name")


def _shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> HeadShapes:
    n, k = SIDES[key.operation]
    return HeadShapes.of(m=sizes["num_tokens"], n=n, k=k, heads=sizes["num_heads"])


def fit_products(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[HeadProductSeries, Floats]:
    """Fit a series of products of heads. See `MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, HeadShapes)  # noqa: S101 - the operator implies it
    at = machine(gpu, ElementType.BF16)

    def predict(some: FusedShapes, vector: Floats) -> Floats:
        assert isinstance(some, HeadShapes)  # noqa: S101
        return head_product_times(some, at, vector, weights_cached=True)

    start = {LAUNCH: float(np.quantile(data.time_ns, 0.02)) * 0.8}
    found = fit_distinct(shapes, data.time_ns, UNKNOWNS, predict, [start], folds=folds)
    series = HeadProductSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        kernel=data.key.operation,
        points=data.count,
        error=error(found.held_back, data.time_ns),
        range=HeadRange(
            m=extent(shapes.m), n=extent(shapes.n), k=extent(shapes.k), heads=extent(shapes.heads)
        ),
        coefficients=record(HeadCoefficients, found.values),
    )
    return series, found.held_back


MLA_BATCHED_MATMUL: Final = MeasuredKind(
    operator=MeasuredOperator.MLA_BATCHED_MATMUL,
    columns=("gpu", "framework", "version", "dtype", "op_name"),
    sizes={"num_tokens": Allowed(1, 2.0**31), "num_heads": Allowed(1, 2.0**16)},
    types={"bfloat16": ElementType.BF16},
    series=HeadProductSeries,
    shapes=_shapes,
    size=lambda shapes: shapes.m,
    classes=(("m <= 16", 16), ("m 17-256", 256), ("m 257-2048", 2048), ("m > 2048", np.inf)),
    predict=head_product_ns,
    limits=head_product_limits,
    fit=fit_products,
    labels=_labels,
    claims=_claims,
    optional=("kernel_source",),
)
"""Products of heads in absorbed latent attention."""
