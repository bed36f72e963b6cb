"""Measured convolutions of Mamba-2 layers. The recurrence itself is in no table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from attacc.calibration.fused.kind import SIXTEEN_BITS, MeasuredKind, plain_labels
from attacc.calibration.fused.states import CLASSES, COMMON_SIZES, fit_state, product_of_tokens
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed, Reasons, Table
from attacc.gpu.calibrated.fused.state import (
    StateRole,
    StateSeries,
    StateShapes,
    state_limits,
    state_ns,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.hardware.gpu import GpuSpec

if TYPE_CHECKING:
    import polars as pl

ROLES: Final = {
    "causal_conv1d_fn": StateRole.CONVOLUTION_PREFILL,
    "causal_conv1d_update": StateRole.CONVOLUTION_DECODE,
}
"""Kernel in the column kernel_source -> what it does."""
_MOST: Final = 2.0**16


def _labels(table: Table) -> pl.DataFrame:
    return plain_labels(table, dtype="", always="bfloat16", operation="kernel_source")


def _shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> StateShapes:
    del key
    heads, groups = sizes["nheads"], sizes["n_groups"]
    columns, elements = sizes["d_state"], sizes["head_dim"]
    return StateShapes(
        batch=sizes["batch_size"],
        queries=sizes["seq_len"],
        channels=heads * elements + 2 * groups * columns,
        reach=sizes["d_conv"],
        heads=heads,
        key_heads=groups,
        key_dim=columns,
        value_dim=elements,
    )


def _leave(columns: Mapping[str, Floats], reasons: Reasons) -> None:
    wrong = product_of_tokens(columns["batch_size"], columns["seq_len"], columns["num_tokens"])
    reasons.add(wrong, "num_tokens is not batch_size x seq_len")


def _fit(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[StateSeries, Floats]:
    return fit_state(data, gpu, folds, ROLES[data.key.operation])


MAMBA2: Final = MeasuredKind(
    operator=MeasuredOperator.MAMBA2,
    columns=("gpu", "framework", "version", "kernel_source"),
    sizes={
        **COMMON_SIZES,
        "d_state": Allowed(1, _MOST),
        "nheads": Allowed(1, _MOST),
        "head_dim": Allowed(1, _MOST),
        "n_groups": Allowed(1, _MOST),
        "chunk_size": Allowed(1, _MOST),
    },
    types={"bfloat16": SIXTEEN_BITS["bfloat16"]},
    series=StateSeries,
    shapes=_shapes,
    size=lambda shapes: shapes.batch * shapes.queries,
    classes=CLASSES,
    predict=state_ns,
    limits=state_limits,
    fit=_fit,
    labels=_labels,
    optional=("op_name", "phase", "model_name"),
    known={
        "op_name": ("mamba2",),
        "kernel_source": tuple(ROLES),
        "phase": ("context", "generation"),
    },
    leave=_leave,
)
"""Convolutions of Mamba-2 layers, with 16-bit rows."""
