"""Measured sums over GPUs as vLLM runs them, in graphs and started one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.calibration.fused.kind import SIXTEEN_BITS, MeasuredKind, plain_labels
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
from attacc.calibration.tables import Allowed, Flags, Table
from attacc.gpu.calibrated.fused.custom_all_reduce import (
    OWN_BELOW,
    CustomAllReduceCoefficients,
    CustomAllReduceSeries,
    EagerCoefficients,
    SumShapes,
    custom_all_reduce_limits,
    custom_all_reduce_ns,
    sum_times,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType

if TYPE_CHECKING:
    import polars as pl

EAGER: Final = "vLLM_custom_eager"
GRAPH: Final = "vLLM_custom_graph"
FRAMEWORKS: Final = {EAGER: "vLLM eager", GRAPH: "vLLM graph"}
"""Name in the column kernel_source -> name of the library."""
UNKNOWNS: Final = (
    around(4500.0, 4.0),
    around(150.0, 10.0),
    around(250.0, 8.0),
    around(1500.0, 8.0),
    around(10000.0, 8.0),
    around(1000.0, 20.0),
    around(150.0, 6.0),
    around(20000.0, 10.0),
    around(350.0, 4.0),
)
EAGER_UNKNOWNS: Final = (
    around(21000.0, 4.0),
    around(200.0, 20.0),
    around(38000.0, 4.0),
    around(1500.0, 8.0),
)
SHARE: Final = Unknown(1.0, 0.4, 6.0)


def _claims(table: Table) -> Flags:
    sources = table.texts("kernel_source")
    return np.asarray(sources.is_in(list(FRAMEWORKS)).to_numpy(), dtype=np.bool_)


def _labels(table: Table) -> pl.DataFrame:
    import polars as pl

    labels = plain_labels(table)
    return labels.with_columns(
        framework=pl.Series(table.texts("kernel_source")).replace_strict(FRAMEWORKS, default="")
    )


def _shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> SumShapes:
    return SumShapes(sizes["num_gpus"], sizes["message_elements"] * key.dtype.bytes)


def generation(gpu: GpuSpec) -> str:
    """Return the generation of a GPU, by the types that it computes with."""
    if gpu.fp4_flops is not None:
        return "blackwell"
    return "hopper" if ElementType.FP8 in gpu.peak_flops else "ampere"


def _shares(values: Floats, others: int) -> tuple[Floats, Floats]:
    """Return the shares of both protocols; that of the fewest GPUs is 1.

    Args:
        values: shares of other numbers of GPUs: of both protocols, or the same of both.
        others: how many other numbers of GPUs there are.
    """
    one = np.ones(1)
    low = values[:others]
    simple = values[values.size - others :]
    return np.concatenate([one, low]), np.concatenate([one, simple])


def fit_sums(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[CustomAllReduceSeries, Floats]:
    """Fit a series of sums. See `attacc.calibration.fused.kind.MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, SumShapes)  # noqa: S101 - the operator implies it
    counts = np.unique(shapes.gpus)
    limits = OWN_BELOW[generation(gpu)]
    own_below = np.floor(np.interp(counts, list(limits), list(limits.values())))
    place = np.searchsorted(counts, shapes.gpus)
    eager = data.key.framework == FRAMEWORKS[EAGER]
    main, host = len(UNKNOWNS), len(EAGER_UNKNOWNS) if eager else 0
    adds = generation(gpu) == "blackwell"  # in switches, from 4 GPUs, with either protocol
    shares = (SHARE,) * ((1 + adds) * (counts.size - 1))
    unknowns = (*UNKNOWNS, *EAGER_UNKNOWNS[:host], *shares)

    def predict(values: Floats, rows: Indices) -> Floats:
        low, simple = _shares(values[main + host :], counts.size - 1)
        return sum_times(
            shapes.take(rows),
            own_below[place[rows]],
            (low[place[rows]], simple[place[rows]]),
            values[:main],
            values[main : main + host] if eager else None,
        )

    start = np.array([unknown.start for unknown in unknowns])
    found = fit(Problem(unknowns, data.time_ns, predict, [start]), folds=folds)
    values = found.values
    low, simple = _shares(values[main + host :], counts.size - 1)
    series = CustomAllReduceSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        points=data.count,
        error=error(found.held_back, data.time_ns),
        gpus=tuple(int(count) for count in counts),
        bytes=extent(shapes.message_bytes),
        own_below=tuple(int(size) for size in own_below),
        nccl_share=tuple(low.tolist()),
        simple_share=tuple(simple.tolist()),
        coefficients=record(CustomAllReduceCoefficients, values[:main]),
        eager=record(EagerCoefficients, values[main : main + host]) if eager else None,
    )
    return series, found.held_back


def _predict(series: CustomAllReduceSeries, gpu: GpuSpec, shapes: SumShapes) -> Floats:
    del gpu  # rates are those of the GPU's links
    return custom_all_reduce_ns(series, shapes)


CUSTOM_ALL_REDUCE: Final = MeasuredKind(
    operator=MeasuredOperator.CUSTOM_ALL_REDUCE,
    columns=("gpu", "version", "kernel_source", "dtype"),
    sizes={"num_gpus": Allowed(2, 2.0**20), "message_elements": Allowed(1, 2.0**50)},
    types=SIXTEEN_BITS,
    series=CustomAllReduceSeries,
    shapes=_shapes,
    size=lambda shapes: shapes.message_bytes,
    classes=(("<= 64 KiB", 2.0**16), ("<= 4 MiB", 2.0**22), ("> 4 MiB", np.inf)),
    predict=_predict,
    limits=custom_all_reduce_limits,
    fit=fit_sums,
    labels=_labels,
    claims=_claims,
    optional=("framework", "op_name", "backend"),
    known={"op_name": ("all_reduce",)},
    reference=True,
)
"""Sums over GPUs as vLLM runs them. Columns are those of the tables of NCCL; the column
kernel_source tells them apart."""
