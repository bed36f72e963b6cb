"""Measured recurrent states and convolutions: the form of their tables, and the fit of kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.calibration.fused.distinct import fit_distinct
from attacc.calibration.fused.kind import SIXTEEN_BITS, MeasuredKind, plain_labels
from attacc.calibration.problems import (
    Unknown,
    around,
    error,
    extent,
    record,
)
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed, Reasons, Table
from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.fused.state import (
    ChunkCoefficients,
    StateRange,
    StateRole,
    StateSeries,
    StateShapes,
    StreamCoefficients,
    chunk_times,
    state_limits,
    state_ns,
    stream_times,
    streamed_bytes,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.hardware.gpu import GpuSpec

if TYPE_CHECKING:
    import polars as pl

STREAM_UNKNOWNS: Final = (
    around(2500.0, 4.0),
    around(100.0, 20.0),
    around(4000.0, 6.0),
    Unknown(0.8, 0.3, 1.1),
    Unknown(0.8, 0.1, 4.0),
)
COLUMN_UNKNOWNS: Final = (around(100.0, 8.0), around(30.0, 8.0))
CHUNK_UNKNOWNS: Final = (
    around(4000.0, 8.0),
    around(8000.0, 6.0),
    around(3000.0, 5.0),
    Unknown(0.7, 0.2, 1.1),
    Unknown(2.0, 1.0, 9.0),
)
BY_COLUMN: Final = "TRTLLM"
"""Framework whose convolution of prompts gives every channel of a request a block of its own."""
CLASSES: Final = (
    ("tokens <= 64", 64.0),
    ("tokens 65-4096", 4096.0),
    ("tokens > 4096", np.inf),
)
_MOST: Final = 2.0**24
COMMON_SIZES: Final = {
    "batch_size": Allowed(1, _MOST),
    "seq_len": Allowed(1, _MOST),
    "num_tokens": Allowed(1, 2.0**40),
    "d_model": Allowed(1, _MOST),
    "d_conv": Allowed(1, 2.0**10),
}


def fit_state(
    data: Measurements, gpu: GpuSpec, folds: int, role: StateRole
) -> tuple[StateSeries, Floats]:
    """Fit one kernel of a recurrent layer.

    Args:
        data: measurements of the kernel.
        gpu: the GPU.
        folds: parts of the cross-validation; 0 for none.
        role: what the kernel does.
    """
    shapes = data.shapes
    assert isinstance(shapes, StateShapes)  # noqa: S101 - the operator implies it
    by_column = role is StateRole.CONVOLUTION_PREFILL and data.key.framework == BY_COLUMN
    unknowns = (*STREAM_UNKNOWNS, *COLUMN_UNKNOWNS) if by_column else STREAM_UNKNOWNS
    chunks = role is StateRole.CHUNKS
    if chunks:
        unknowns = CHUNK_UNKNOWNS

    def predict(some: FusedShapes, values: Floats) -> Floats:
        assert isinstance(some, StateShapes)  # noqa: S101 - they are taken from the shapes
        each = streamed_bytes(role, some)
        if chunks:
            return chunk_times(some, each, gpu, record(ChunkCoefficients, values))
        return stream_times(some, each, gpu, _stream(values))

    first = unknowns[0]
    launch = min(max(0.9 * float(data.time_ns.min()), first.low), first.high)
    found = fit_distinct(shapes, data.time_ns, unknowns, predict, [{0: launch}], folds=folds)
    series = StateSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        kernel=data.key.operation,
        points=data.count,
        error=error(found.held_back, data.time_ns),
        role=role,
        range=StateRange(
            batch=extent(shapes.batch),
            queries=extent(shapes.queries),
            channels=extent(shapes.channels),
            heads=extent(shapes.heads),
        ),
        stream=None if chunks else _stream(found.values),
        chunks=record(ChunkCoefficients, found.values) if chunks else None,
    )
    return series, found.held_back


def _stream(values: Floats) -> StreamCoefficients:
    every = np.zeros(len(StreamCoefficients.model_fields))
    every[: values.size] = values
    return record(StreamCoefficients, every)


def kind_of_states(
    operator: MeasuredOperator,
    name: str,
    roles: Mapping[str, StateRole],
    sizes: Mapping[str, Allowed],
    shapes: Callable[[SeriesKey, Mapping[str, Floats]], StateShapes],
) -> MeasuredKind[StateShapes, StateSeries]:
    """Return the kind of tables of one recurrent layer, with a row for each kernel.

    Args:
        operator: the operator.
        name: its name in the column op_name.
        roles: kernel in the column kernel_source -> what it does.
        sizes: columns besides those that all such tables have.
        shapes: returns the shapes of rows from their columns.
    """

    def fit(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[StateSeries, Floats]:
        return fit_state(data, gpu, folds, roles[data.key.operation])

    return MeasuredKind(
        operator=operator,
        columns=("gpu", "framework", "version", "kernel_source"),
        sizes={**COMMON_SIZES, **sizes},
        types={"bfloat16": SIXTEEN_BITS["bfloat16"]},
        series=StateSeries,
        shapes=shapes,
        size=lambda shapes: shapes.batch * shapes.queries,
        classes=CLASSES,
        predict=state_ns,
        limits=state_limits,
        fit=fit,
        labels=_labels,
        optional=("op_name", "phase", "model_name"),
        known={
            "op_name": (name,),
            "kernel_source": tuple(roles),
            "phase": ("context", "generation"),
        },
        leave=_leave,
    )


def _labels(table: Table) -> pl.DataFrame:
    return plain_labels(table, dtype="", always="bfloat16", operation="kernel_source")


def _leave(columns: Mapping[str, Floats], reasons: Reasons) -> None:
    with np.errstate(invalid="ignore"):  # in rows that are left out already
        wrong = columns["batch_size"] * columns["seq_len"] != columns["num_tokens"]
    reasons.add(wrong, "num_tokens is not batch_size x seq_len")
