"""What is known of a kind of measured operator: its columns, its series, its times and its fit.

A new operator is one `MeasuredKind` in a module of this package and one entry of
`attacc.calibration.fused.registry`. Its series have a field of `CalibrationSpec` with the
operator's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np

from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed, Flags, Reasons, Table
from attacc.gpu.calibrated.coefficients import CalibrationSpec
from attacc.gpu.calibrated.fused.base import FusedSeries, FusedShapes, series_of
from attacc.gpu.calibrated.limits import Floats, Limits
from attacc.gpu.calibrated.records import SeriesType
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType

if TYPE_CHECKING:
    import polars as pl

Z = TypeVar("Z", bound=FusedShapes)
S = TypeVar("S", bound=FusedSeries)

LABELS: Final = ("gpu", "framework", "version", "dtype", "operation")
"""Fields of a `SeriesKey` that the labels of a row name. ``dtype`` is the name in the table, and
``operation`` the kernel."""
LATENCY: Final = "latency_ms"
POWER: Final = "power_w"
SIXTEEN_BITS: Final = {"bfloat16": ElementType.BF16, "float16": ElementType.FP16}


def texts(table: Table, column: str, otherwise: str = "") -> pl.Series:
    """Return a column of text; one text for all rows where the table has no such column."""
    import polars as pl

    if column in table.columns:
        return table.texts(column)
    return pl.Series([otherwise]).new_from_index(0, table.rows)


def plain_labels(
    table: Table, *, dtype: str = "dtype", always: str = "", operation: str = ""
) -> pl.DataFrame:
    """Return the labels of each row, from columns.

    Args:
        table: the table.
        dtype: column that names the element types.
        always: name of the element types where the table has no such column.
        operation: column that names the kernel; empty where series have one kernel, or several.
    """
    import polars as pl

    return pl.DataFrame(
        {
            "gpu": texts(table, "gpu"),
            "framework": texts(table, "framework"),
            "version": texts(table, "version"),
            "dtype": texts(table, dtype, always),
            "operation": texts(table, operation) if operation else texts(table, ""),
        }
    )


def every_row(table: Table) -> Flags:
    """Return that all rows of a table measure an operator."""
    return np.ones(table.rows, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class MeasuredKind(Generic[Z, S]):
    """A kind of measured operator.

    Attributes:
        operator: the operator. Its name is that of the field of `CalibrationSpec`, too.
        columns: columns that a table must have, besides those of ``sizes`` and the latency.
        sizes: columns of numbers that the shapes are made from, with the range of each.
        types: name of the element types in a table -> the type of the weights, or of the cache.
        series: class of the fitted series.
        shapes: (key, columns of ``sizes`` and derived ones) -> shapes.
        size: shapes -> the size that the classes of errors go by.
        classes: name and upper end of each class of sizes.
        predict: (series, GPU, shapes) -> times in nanoseconds, for shapes within the limits.
        limits: (series, shapes) -> which shapes are within the range of the series.
        fit: (measurements, GPU, folds) -> series, and the time of each row as predicted by a fit
            that did not see it.
        labels: table -> the columns `LABELS`.
        claims: table with these columns -> rows that measure this operator.
        optional: columns that a table may have.
        known: column -> texts that are modelled. Rows with another text are left out.
        derived: table -> further columns of numbers, made from its columns of text.
        leave: leaves rows out, by the columns of ``sizes`` and the derived ones. Values may be
            impossible in rows that are left out already.
        reference: whether every framework stands for the GPU, as for collectives.
    """

    operator: MeasuredOperator
    columns: tuple[str, ...]
    sizes: Mapping[str, Allowed]
    types: Mapping[str, SeriesType]
    series: type[S]
    shapes: Callable[[SeriesKey, Mapping[str, Floats]], Z]
    size: Callable[[Z], Floats]
    classes: tuple[tuple[str, float], ...]
    predict: Callable[[S, GpuSpec, Z], Floats]
    limits: Callable[[S, Z], Limits]
    fit: Callable[[Measurements, GpuSpec, int], tuple[S, Floats]]
    labels: Callable[[Table], pl.DataFrame] = plain_labels
    claims: Callable[[Table], Flags] = every_row
    optional: tuple[str, ...] = ()
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    derived: Callable[[Table], Mapping[str, Floats]] | None = None
    leave: Callable[[Mapping[str, Floats], Reasons], None] | None = None
    reference: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a table must have."""
        return (*self.columns, *self.sizes, LATENCY)

    def claimed(self, table: Table) -> Flags:
        """Return which rows of a table measure this operator."""
        if any(column not in table.columns for column in self.needed):
            return np.zeros(table.rows, dtype=np.bool_)
        return self.claims(table)

    def fitted(self, calibration: CalibrationSpec) -> Sequence[S]:
        """Return the series of a calibration."""
        found: Sequence[S] = getattr(calibration, self.operator.value)
        return found

    def nearest(self, calibration: CalibrationSpec, key: SeriesKey) -> S | None:
        """Return the series that predicts measurements; None where there is none."""
        return series_of(
            self.fitted(calibration),
            key.framework,
            key.version,
            key.types,
            key.operation,
            calibration.reference,
        )


AnyKind = MeasuredKind[Any, Any]
