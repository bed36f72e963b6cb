"""Tables of measured GPU operators, as arrays.

The columns are those of the tables of aiconfigurator (ai-dynamo, Apache-2.0). One row is one shape
on one GPU with one version of one framework. Every column of a table must be used, or be known to
change nothing (`HARMLESS`). A table with another column is refused. A row counts as unusable, with
the reason, if the model does not price what it measures, or if it holds an impossible number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from attacc.calibration.fused.kind import LATENCY, POWER, AnyKind
from attacc.calibration.fused.registry import KINDS
from attacc.calibration.series import (
    MeasuredOperator,
    MeasuredTable,
    Measurements,
    Messages,
    SeriesKey,
    Unusable,
)
from attacc.calibration.tables import Allowed, Flags, Reasons, Table, open_table
from attacc.errors import DocumentError
from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.kernels import AttentionShapes, GemmShapes
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.records import SeriesType
from attacc.models.precision import BlockFormat, ElementType
from attacc.units import NS_PER_MS

if TYPE_CHECKING:
    import polars as pl


COLUMNS: Final = {
    MeasuredOperator.GEMM: ("gpu", "framework", "version", "dtype", "m", "n", "k", "latency_ms"),
    MeasuredOperator.DECODE: (
        "gpu",
        "framework",
        "version",
        "kv_cache_dtype",
        "batch_size",
        "num_heads",
        "num_key_value_heads",
        "head_dim",
        "kv_length",
        "latency_ms",
    ),
    MeasuredOperator.PREFILL: (
        "gpu",
        "framework",
        "version",
        "kv_cache_dtype",
        "batch_size",
        "num_heads",
        "num_key_value_heads",
        "head_dim",
        "prompt_length",
        "latency_ms",
    ),
    MeasuredOperator.ALL_REDUCE: ("gpu", "op_name", "num_gpus", "message_elements", "latency_ms"),
}
"""The columns that identify a table of each operator. All of them are used."""

LIBRARY_COLUMNS: Final = ("kernel_source", "backend", "framework")
"""Columns that name the library of a collective. The first one that exists and is not empty counts.
Without any of them the library is NCCL."""
OPTIONAL: Final[dict[MeasuredOperator, tuple[str, ...]]] = {
    MeasuredOperator.GEMM: ("op_name", "power_w"),
    MeasuredOperator.DECODE: ("op_name", "attn_dtype", "window_size", "power_w"),
    MeasuredOperator.PREFILL: ("op_name", "attn_dtype", "window_size", "past_length", "power_w"),
    MeasuredOperator.ALL_REDUCE: (*LIBRARY_COLUMNS, "version", "dtype", "power_w"),
}
"""Columns that are used if a table has them."""
HARMLESS: Final = ("kernel_source",)
"""Columns that change nothing. ``kernel_source`` names the kernel that a framework chose for a
shape, and a series contains all kernels of one version of a framework."""
_OP_NAMES: Final[dict[MeasuredOperator, tuple[str, ...]]] = {
    MeasuredOperator.GEMM: ("gemm",),
    MeasuredOperator.DECODE: ("generation_attention",),
    MeasuredOperator.PREFILL: ("context_attention",),
}
ATTENTION_TYPES: Final = ("bfloat16", "float16", "half")
"""Element types of queries and results in the tables that the presets were fitted to. The caches of
these tables have 16 or 8 bits."""
ONLY: Final[dict[str, tuple[tuple[float, ...], str]]] = {
    "window_size": (
        (0.0, -1.0),
        "attention within a window (window_size) is modelled only without earlier tokens",
    ),
    "past_length": ((0.0,), "prefill after cached tokens (past_length) is not modelled"),
}
"""Column -> the values that are used, and the reason why rows with other values are not. An empty
field is used too."""
_MOST: Final = 2.0**31
QUANTITIES: Final = {
    "m": Allowed(1, _MOST),
    "n": Allowed(1, _MOST),
    "k": Allowed(1, _MOST),
    "batch_size": Allowed(1, 2.0**24),
    "num_heads": Allowed(1, 2.0**16),
    "num_key_value_heads": Allowed(1, 2.0**16),
    "head_dim": Allowed(1, 2.0**16),
    "kv_length": Allowed(1, _MOST),
    "prompt_length": Allowed(1, _MOST),
    "num_gpus": Allowed(1, 2.0**20),
    "message_elements": Allowed(1, 2.0**50),
    "latency_ms": Allowed(1e-6, 1e8, whole=False),
    "power_w": Allowed(0.1, 1e5, whole=False),
}
"""Ranges of the columns. A cycle of a GPU lasts a millionth of a millisecond, and nobody measures a
call that takes a day. The limits of sizes are at least a hundred times the sizes in use."""
ELEMENTS: Final = {
    "bfloat16": ElementType.BF16,
    "float16": ElementType.FP16,
    "fp8": ElementType.FP8,
    "int8": ElementType.INT8,
}
FORMATS: Final = {str(block): block for block in (BlockFormat.FP8_BLOCK, BlockFormat.NVFP4)}
"""Types of products that have series of their own. Caches and messages do not have them."""
ALIASES: Final = {"half": "float16"}
"""Other names of element types."""
COLLECTIVE_LIBRARY: Final = "NCCL"
COLLECTIVE_ELEMENT: Final = "float16"
"""Element type of messages in a table that states none."""
SIZE_COLUMNS: Final = {
    MeasuredOperator.GEMM: ("m", "n", "k"),
    MeasuredOperator.DECODE: COLUMNS[MeasuredOperator.DECODE][4:9],
    MeasuredOperator.PREFILL: COLUMNS[MeasuredOperator.PREFILL][4:9],
    MeasuredOperator.ALL_REDUCE: ("num_gpus", "message_elements"),
}


def read_table(path: Path) -> MeasuredTable:
    """Read a table of measurements, and divide it into series.

    Args:
        path: a Parquet or CSV file.

    Raises:
        DocumentError: the file cannot be read, has no rows, has not the columns of a known table,
            or has a column that may change what was measured.
    """
    return measurements(open_table(path))


def read_measurements(path: Path) -> list[Measurements]:
    """Read a table of measurements of which every row can be used.

    Args:
        path: a Parquet or CSV file.

    Raises:
        DocumentError: as in `read_table`, or a row cannot be used.
    """
    table = read_table(path)
    for left in table.unusable:
        raise DocumentError(
            f"{left.rows} rows of {left.gpu} cannot be used: {left.reason}", where=str(path)
        )
    return table.series


def measurements(table: Table) -> MeasuredTable:
    """Divide a table of measurements into series.

    Raises:
        DocumentError: the table has not the columns of a known table, or has a column that may
            change what was measured.
    """
    parts: list[MeasuredTable] = []
    rest = np.ones(table.rows, dtype=np.bool_)
    for kind in KINDS.values():
        mine = kind.claimed(table) & rest
        if mine.any():
            parts.append(_of_kind(kind, table.take(mine)))
            rest &= ~mine
    if rest.any():
        parts.append(_of_operator(table.take(rest)))
    return MeasuredTable(
        [data for part in parts for data in part.series],
        [left for part in parts for left in part.unusable],
    )


def _of_kind(kind: AnyKind, table: Table) -> MeasuredTable:
    """Divide the rows that measure an operator of `attacc.calibration.fused` into series."""
    table.allow((*kind.needed, *kind.optional, POWER))
    labels = kind.labels(table)
    reasons = Reasons(table.rows)
    for column in ("gpu", "framework"):
        reasons.add(_among(labels[column], ("",)), f"{column} is empty")
    _leave_types(labels["dtype"], kind.types, reasons)
    for column, allowed in kind.known.items():
        _leave_texts(column, allowed, table, reasons)
    wanted = {**kind.sizes, LATENCY: QUANTITIES[LATENCY], POWER: QUANTITIES[POWER]}
    columns = table.quantities(wanted, (POWER,), reasons)
    derived: Mapping[str, Floats] = {} if kind.derived is None else kind.derived(table)
    columns |= derived
    if kind.leave is not None:
        kind.leave(columns, reasons)

    def shapes(key: SeriesKey, rows: NDArray[np.intp]) -> FusedShapes:
        return kind.shapes(key, {name: columns[name][rows] for name in (*kind.sizes, *derived)})

    return _divided(kind.operator, labels, kind.types, reasons, columns, shapes, named=True)


def _of_operator(table: Table) -> MeasuredTable:
    """Divide the rows of products, attention or NCCL's collectives into series."""
    operator = _operator_of(table)
    table.allow((*COLUMNS[operator], *OPTIONAL[operator], *HARMLESS))
    labels = _labels(operator, table)
    reasons = Reasons(table.rows)
    for column in ("gpu", "framework"):
        reasons.add(_among(labels[column], ("",)), f"{column} is empty")
    types = _types(operator)
    _leave_types(labels["dtype"], types, reasons)
    _leave_others(operator, table, labels, reasons)
    wanted = {name: QUANTITIES[name] for name in (*SIZE_COLUMNS[operator], "latency_ms", "power_w")}
    columns = table.quantities(wanted, ("power_w",), reasons)
    sizes = [columns[name] for name in SIZE_COLUMNS[operator]]
    if "num_heads" in columns:
        with np.errstate(invalid="ignore"):  # in rows that are left out already
            ragged = np.fmod(columns["num_heads"], columns["num_key_value_heads"]) != 0
        reasons.add(ragged, "num_heads is no multiple of num_key_value_heads")

    def shapes(key: SeriesKey, rows: NDArray[np.intp]) -> GemmShapes | AttentionShapes | Messages:
        return _shapes(operator, key.dtype, [values[rows] for values in sizes])

    return _divided(operator, labels, types, reasons, columns, shapes, named=False)


def _divided(
    operator: MeasuredOperator,
    labels: pl.DataFrame,
    types: Mapping[str, SeriesType],
    reasons: Reasons,
    columns: Mapping[str, Floats],
    shapes: Callable[
        [SeriesKey, NDArray[np.intp]], GemmShapes | AttentionShapes | Messages | FusedShapes
    ],
    *,
    named: bool,
) -> MeasuredTable:
    """Divide the rows of one operator into series by their labels.

    Args:
        operator: the operator.
        labels: the fields of `SeriesKey` for each row.
        types: name of an element type -> the type.
        reasons: the rows that cannot be used.
        columns: numbers of each row, with latency and power.
        shapes: (key, rows) -> shapes of these rows.
        named: whether the key states the name of the element type.
    """
    series: list[Measurements] = []
    unusable: list[Unusable] = []
    for (gpu, framework, version, dtype, operation), rows in _groups(labels):
        unusable += [
            Unusable(operator, gpu, framework, version, dtype, operation, count, reason)
            for reason, count in reasons.counts(rows).items()
        ]
        good = rows[reasons.usable[rows]]
        if not good.size:
            continue
        name = dtype if named else ""
        key = SeriesKey(operator, gpu, framework, version, types[dtype], operation, name)
        time_ns = columns[LATENCY][good] * NS_PER_MS
        series.append(Measurements(key, shapes(key, good), time_ns, columns[POWER][good]))
    return MeasuredTable(series, unusable)


def _operator_of(table: Table) -> MeasuredOperator:
    missing = {
        operator: [column for column in columns if column not in table.columns]
        for operator, columns in COLUMNS.items()
    }
    nearest = min(missing, key=lambda operator: len(missing[operator]))
    if not missing[nearest]:
        return nearest
    if "op_name" in table.columns:
        names = [name for name in table.texts("op_name").unique(maintain_order=True) if name]
        modelled = [name for known in _OP_NAMES.values() for name in known]
        is_collective = "num_gpus" in table.columns
        if names and not is_collective and not set(names) & set(modelled):
            raise DocumentError(
                f"measures {', '.join(names):.200}, which is not modelled",
                where=table.where,
                hint=f"modelled are {', '.join(modelled)} and collectives",
            )
    listed = "; or ".join(", ".join(columns) for columns in COLUMNS.values())
    raise DocumentError(
        f"has the columns {', '.join(table.columns):.400}; for {nearest}, "
        f"{', '.join(missing[nearest])} are missing",
        where=table.where,
        hint=f"needed are {listed}",
    )


def _labels(operator: MeasuredOperator, table: Table) -> pl.DataFrame:
    """Return the fields of `SeriesKey` for each row, with the names that the table uses.

    Element types have the names of `ELEMENTS`. NCCL is `COLLECTIVE_LIBRARY` in any
    spelling.
    """
    import polars as pl

    def text(column: str, otherwise: str = "") -> pl.Series:
        if column in table.columns:
            return table.texts(column)
        return pl.Series([otherwise]).new_from_index(0, table.rows)

    if operator is MeasuredOperator.ALL_REDUCE:
        library = text("")
        for column in (name for name in LIBRARY_COLUMNS if name in table.columns):
            library = table.texts(column).zip_with(library == "", library)
        if not set(LIBRARY_COLUMNS) & set(table.columns):
            library = text("", COLLECTIVE_LIBRARY)
        is_nccl = library.str.to_uppercase() == COLLECTIVE_LIBRARY
        library = text("", COLLECTIVE_LIBRARY).zip_with(is_nccl, library)
        dtype, operation = text("dtype", COLLECTIVE_ELEMENT), text("op_name")
    else:
        library, operation = text("framework"), text("")
        dtype = text("dtype" if operator is MeasuredOperator.GEMM else "kv_cache_dtype")
    return pl.DataFrame(
        {
            "gpu": text("gpu"),
            "framework": library,
            "version": text("version"),
            "dtype": dtype.replace(ALIASES),
            "operation": operation,
        }
    )


def _groups(labels: pl.DataFrame) -> Iterator[tuple[tuple[str, ...], NDArray[np.intp]]]:
    """Yield the names and the rows of every series, sorted by the names."""
    parts = labels.with_row_index("row").partition_by(labels.columns, as_dict=True)
    for key, part in sorted(parts.items(), key=lambda entry: str(entry[0])):
        yield tuple(map(str, key)), part["row"].to_numpy().astype(np.intp)


def _among(values: pl.Series, names: Iterable[str]) -> Flags:
    return np.asarray(values.is_in(list(names)).to_numpy(), dtype=np.bool_)


def _types(operator: MeasuredOperator) -> Mapping[str, SeriesType]:
    return {**ELEMENTS, **FORMATS} if operator is MeasuredOperator.GEMM else ELEMENTS


def _leave_types(dtype: pl.Series, types: Mapping[str, SeriesType], reasons: Reasons) -> None:
    for name in dtype.unique(maintain_order=True):
        if name not in types:
            known = ", ".join(types)
            reasons.add(_among(dtype, (name,)), f"element type {name!r:.40} is none of {known}")


def _leave_others(
    operator: MeasuredOperator, table: Table, labels: pl.DataFrame, reasons: Reasons
) -> None:
    """Leave out the rows that measure what the model does not price."""
    if operator is MeasuredOperator.ALL_REDUCE:
        library = labels["framework"]
        for name in library.unique(maintain_order=True):
            if name != COLLECTIVE_LIBRARY:
                reasons.add(
                    _among(library, (name,)),
                    f"run by {name!r:.40}: only {COLLECTIVE_LIBRARY}'s collectives are modelled",
                )
        return
    for column, allowed in (("op_name", _OP_NAMES[operator]), ("attn_dtype", ATTENTION_TYPES)):
        _leave_texts(column, allowed, table, reasons)
    for column, (allowed, what) in ONLY.items():
        if column in OPTIONAL[operator] and column in table.columns:
            numbers = table.numbers(column)
            none = np.isnan(numbers.values) & ~numbers.empty
            reasons.add(none, f"{column} is no number")
            reasons.add(~numbers.empty & ~np.isin(numbers.values, allowed), what)


def _leave_texts(column: str, allowed: Sequence[str], table: Table, reasons: Reasons) -> None:
    """Leave out the rows whose text in a column is not modelled. An empty field is."""
    if column not in table.columns:
        return
    values = table.texts(column)
    for name in values.unique(maintain_order=True):
        if name and name not in allowed:
            reasons.add(
                _among(values, (name,)),
                f"{column} {name!r:.40} is not modelled, only {', '.join(allowed)}",
            )


def _shapes(
    operator: MeasuredOperator, element: SeriesType, sizes: Sequence[Floats]
) -> GemmShapes | AttentionShapes | Messages:
    match operator:
        case MeasuredOperator.GEMM:
            return GemmShapes.of(*sizes)
        case MeasuredOperator.ALL_REDUCE:
            return Messages(sizes[0], sizes[1] * element.bytes)
        case _:
            return AttentionShapes.of(*sizes)


def of_gpu(series: Iterable[Measurements], names: Iterable[str]) -> list[Measurements]:
    """Return the series of one GPU, by any of its names."""
    wanted = set(names)
    return [entry for entry in series if entry.key.gpu in wanted]
