"""Tables of measured GPU operators, as arrays.

The columns are those of the tables of aiconfigurator (ai-dynamo, Apache-2.0): one row is one shape
on one GPU with one version of one framework. Parquet and CSV are read by Polars, which is
installed with ``attacc[gpu]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from attacc.errors import DocumentError, InputError
from attacc.models.precision import ElementType
from attacc.system.calibrated import AttentionShapes, Floats, GemmShapes
from attacc.units import NS_PER_MS

if TYPE_CHECKING:
    import polars as pl


class MeasuredOperator(StrEnum):
    """What a table measures."""

    GEMM = "gemm"
    DECODE = "decode_attention"
    PREFILL = "prefill_attention"
    ALL_REDUCE = "all_reduce"


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
"""The columns by which a table is recognised; ``power_w`` may be there too."""

ELEMENTS: Final = {
    "bfloat16": ElementType.BF16,
    "float16": ElementType.FP16,
    "fp8": ElementType.FP8,
    "int8": ElementType.INT8,
}
COLLECTIVE_LIBRARY: Final = "NCCL"
COLLECTIVE_ELEMENT_BYTES: Final = 2
"""Messages of the collectives are counted in 16-bit elements."""


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """Whose measurements they are.

    Attributes:
        operator: which operator.
        gpu: as the table calls it.
        framework: as in "VLLM"; the library of collectives is "NCCL".
        version: of the framework; empty where the table has none.
        dtype: element type of the operands, or of the cache.
        operation: the collective, as in "all_reduce"; empty for other operators.
    """

    operator: MeasuredOperator
    gpu: str
    framework: str
    version: str
    dtype: ElementType
    operation: str = ""


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of a collective; arrays of one length.

    Attributes:
        gpus: how many GPUs take part.
        message_bytes: of the whole message.
    """

    gpus: Floats
    message_bytes: Floats

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> Messages:
        """Return some of them."""
        return Messages(self.gpus[chosen], self.message_bytes[chosen])


@dataclass(frozen=True, slots=True)
class Measurements:
    """One series of measurements.

    Attributes:
        key: whose they are.
        shapes: what was measured.
        time_ns: how long it took.
        power_w: what the GPU drew meanwhile; not a number where unknown.
    """

    key: SeriesKey
    shapes: GemmShapes | AttentionShapes | Messages
    time_ns: Floats
    power_w: Floats

    @property
    def count(self) -> int:
        """How many there are."""
        return self.time_ns.size

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> Measurements:
        """Return some of them."""
        return Measurements(
            self.key, self.shapes.take(chosen), self.time_ns[chosen], self.power_w[chosen]
        )


@dataclass(frozen=True, slots=True)
class Unusable:
    """Rows of a table that nothing can be predicted or fitted for.

    Attributes:
        operator: which operator.
        gpu: as the table calls it.
        framework: as in "VLLM".
        version: of the framework.
        dtype: as the table calls it.
        operation: the collective; empty for other operators.
        rows: how many.
        reason: why.
    """

    operator: MeasuredOperator
    gpu: str
    framework: str
    version: str
    dtype: str
    operation: str
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """A table of measurements, taken apart.

    Attributes:
        series: one entry per GPU, framework, version and element type (and collective), sorted.
        unusable: rows that are in none of them.
    """

    series: list[Measurements]
    unusable: list[Unusable]


def read_table(path: Path) -> MeasuredTable:
    """Read a table of measurements, taken apart into series.

    Args:
        path: a Parquet or CSV file.

    Raises:
        DocumentError: the file cannot be read, has no rows, or its columns are those of no table
            known.
        InputError: Polars is not installed.
    """
    frame = read_frame(path)
    operator = _operator_of(frame, path)
    if not frame.height:
        raise DocumentError("has no rows", where=str(path))
    keys = [column for column in COLUMNS[operator] if column in KEY_COLUMNS]
    parts = sorted(frame.partition_by(keys, as_dict=True).items(), key=lambda kv: str(kv[0]))
    series: list[Measurements] = []
    unusable: list[Unusable] = []
    for _, part in parts:
        found, left = _series(operator, part)
        unusable += left
        if found is not None:
            series.append(found)
    return MeasuredTable(series, unusable)


def read_measurements(path: Path) -> list[Measurements]:
    """Read a table of measurements of which every row can be used.

    Args:
        path: a Parquet or CSV file.

    Raises:
        DocumentError: as in `read_table`, or a row cannot be used.
        InputError: Polars is not installed.
    """
    table = read_table(path)
    for left in table.unusable:
        raise DocumentError(
            f"{left.rows} rows of {left.gpu} cannot be used: {left.reason}", where=str(path)
        )
    return table.series


KEY_COLUMNS: Final = ("gpu", "framework", "version", "dtype", "kv_cache_dtype", "op_name")
TEXT_COLUMNS: Final[tuple[str, ...]] = (
    *KEY_COLUMNS,
    "backend",
    "backend_version",
    "gemm_quant_mode",
)
"""Columns that hold text, whatever it looks like: version 0.10 is not 0.1."""


def read_frame(path: Path) -> pl.DataFrame:
    """Read a table of any columns.

    Raises:
        DocumentError: the file cannot be read.
        InputError: Polars is not installed.
    """
    try:
        import polars as pl
    except ImportError:
        raise InputError(
            "tables of measurements are read by Polars, which is not installed",
            where=str(path),
            hint="pip install 'attacc[gpu]'",
        ) from None
    if path.suffix not in {".parquet", ".csv"}:
        raise DocumentError(
            f"unknown file kind {path.suffix!r}", where=str(path), hint="use .parquet or .csv"
        )
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        text: dict[str, type[pl.String]] = dict.fromkeys(TEXT_COLUMNS, pl.String)
        return pl.read_csv(path, schema_overrides=text, infer_schema_length=None)
    except FileNotFoundError:
        raise DocumentError("no such file", where=str(path)) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DocumentError(f"cannot be read: {error!s:.200}", where=str(path)) from None


def _operator_of(frame: pl.DataFrame, path: Path) -> MeasuredOperator:
    missing = {
        operator: [column for column in columns if column not in frame.columns]
        for operator, columns in COLUMNS.items()
    }
    nearest = min(missing, key=lambda operator: len(missing[operator]))
    if not missing[nearest]:
        return nearest
    listed = "; or ".join(", ".join(columns) for columns in COLUMNS.values())
    raise DocumentError(
        f"has the columns {', '.join(frame.columns)}; for {nearest}, "
        f"{', '.join(missing[nearest])} are missing",
        where=str(path),
        hint=f"needed are {listed}",
    )


SIZE_COLUMNS: Final = {
    MeasuredOperator.GEMM: ("m", "n", "k"),
    MeasuredOperator.DECODE: COLUMNS[MeasuredOperator.DECODE][4:9],
    MeasuredOperator.PREFILL: COLUMNS[MeasuredOperator.PREFILL][4:9],
    MeasuredOperator.ALL_REDUCE: ("num_gpus", "message_elements"),
}


def _series(
    operator: MeasuredOperator, part: pl.DataFrame
) -> tuple[Measurements | None, list[Unusable]]:
    def text(column: str) -> str:
        return str(part[column][0] if part[column][0] is not None else "")

    def numbers(column: str) -> Floats:
        values = part[column].cast(float, strict=False).fill_null(np.nan).to_numpy()
        return np.ascontiguousarray(values, dtype=np.float64)

    collective = operator is MeasuredOperator.ALL_REDUCE
    framework, version, dtype, operation = COLLECTIVE_LIBRARY, "", "float16", ""
    if collective:
        operation = text("op_name")
    else:
        framework, version = text("framework"), text("version")
        dtype = text("dtype" if operator is MeasuredOperator.GEMM else "kv_cache_dtype")
    unusable: list[Unusable] = []

    def leave(rows: int, reason: str) -> None:
        left = Unusable(operator, text("gpu"), framework, version, dtype, operation, rows, reason)
        unusable.append(left)

    if dtype not in ELEMENTS:
        leave(part.height, f"element type {dtype!r} is none of {', '.join(ELEMENTS)}")
        return None, unusable
    good = np.ones(part.height, dtype=np.bool_)
    columns = {name: numbers(name) for name in (*SIZE_COLUMNS[operator], "latency_ms")}
    for name, values in columns.items():
        least = "not positive" if name == "latency_ms" else "below 1"
        low = ~(values > 0) if name == "latency_ms" else ~(values >= 1)
        for bad, reason in ((~np.isfinite(values), "no number"), (low, least)):
            if (bad & good).any():
                leave(int((bad & good).sum()), f"{name} is {reason}")
                good &= ~bad
    if not good.any():
        return None, unusable
    sizes = [columns[name][good] for name in SIZE_COLUMNS[operator]]
    match operator:
        case MeasuredOperator.GEMM:
            shapes = GemmShapes.of(*sizes)
        case MeasuredOperator.ALL_REDUCE:
            shapes = Messages(sizes[0], sizes[1] * COLLECTIVE_ELEMENT_BYTES)
        case _:
            shapes = AttentionShapes.of(*sizes)
    power = (
        numbers("power_w")[good] if "power_w" in part.columns else np.full(sizes[0].size, np.nan)
    )
    key = SeriesKey(operator, text("gpu"), framework, version, ELEMENTS[dtype], operation)
    return Measurements(key, shapes, columns["latency_ms"][good] * NS_PER_MS, power), unusable


def of_gpu(series: Iterable[Measurements], names: Iterable[str]) -> list[Measurements]:
    """Return the series of one GPU, by any of its names."""
    wanted = set(names)
    return [entry for entry in series if entry.key.gpu in wanted]
