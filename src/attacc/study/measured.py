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

if TYPE_CHECKING:
    import polars as pl

NS_PER_MS: Final = 1e6


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


def read_measurements(path: Path) -> list[Measurements]:
    """Read a table of measurements, taken apart into series.

    Args:
        path: a Parquet or CSV file.

    Returns:
        One entry per GPU, framework, version and element type (and collective), sorted.

    Raises:
        DocumentError: the file cannot be read, or its columns are those of no table known.
        InputError: Polars is not installed.
    """
    frame = read_frame(path)
    operator = _operator_of(frame, path)
    keys = [column for column in COLUMNS[operator] if column in KEY_COLUMNS]
    series = [
        _series(operator, part, path)
        for _, part in sorted(
            frame.partition_by(keys, as_dict=True).items(), key=lambda kv: str(kv[0])
        )
    ]
    return [entry for entry in series if entry.count]


KEY_COLUMNS: Final = ("gpu", "framework", "version", "dtype", "kv_cache_dtype", "op_name")


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
    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv}
    reader = readers.get(path.suffix)
    if reader is None:
        raise DocumentError(
            f"unknown file kind {path.suffix!r}", where=str(path), hint="use .parquet or .csv"
        )
    try:
        return reader(path)
    except FileNotFoundError:
        raise DocumentError("no such file", where=str(path)) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DocumentError(f"cannot be read: {error!s:.200}", where=str(path)) from None


def _operator_of(frame: pl.DataFrame, path: Path) -> MeasuredOperator:
    for operator, columns in COLUMNS.items():
        if set(columns) <= set(frame.columns):
            return operator
    listed = "; or ".join(", ".join(columns) for columns in COLUMNS.values())
    raise DocumentError(
        f"has the columns {', '.join(frame.columns)}", where=str(path), hint=f"needed are {listed}"
    )


def _series(operator: MeasuredOperator, part: pl.DataFrame, path: Path) -> Measurements:
    def text(column: str) -> str:
        return str(part[column][0])

    def numbers(column: str) -> Floats:
        values = part[column].cast(float).to_numpy()
        if not np.isfinite(values).all():
            raise DocumentError("holds entries that are no numbers", where=f"{path}: {column}")
        return np.ascontiguousarray(values, dtype=np.float64)

    time_ns = numbers("latency_ms") * NS_PER_MS
    if not time_ns.min() > 0:
        raise DocumentError("holds times that are not positive", where=f"{path}: latency_ms")
    power = np.full(part.height, np.nan)
    if "power_w" in part.columns:
        power = part["power_w"].cast(float).fill_null(np.nan).to_numpy().astype(np.float64)
    if operator is MeasuredOperator.ALL_REDUCE:
        key = SeriesKey(operator, text("gpu"), "NCCL", "", ElementType.FP16, text("op_name"))
        shapes = Messages(
            numbers("num_gpus"), numbers("message_elements") * COLLECTIVE_ELEMENT_BYTES
        )
        return Measurements(key, shapes, time_ns, power)
    dtype = text("dtype" if operator is MeasuredOperator.GEMM else "kv_cache_dtype")
    if dtype not in ELEMENTS:
        raise DocumentError(
            f"unknown element type {dtype!r}",
            where=str(path),
            hint=f"known are {', '.join(ELEMENTS)}",
        )
    key = SeriesKey(operator, text("gpu"), text("framework"), text("version"), ELEMENTS[dtype])
    if operator is MeasuredOperator.GEMM:
        shapes = GemmShapes.of(numbers("m"), numbers("n"), numbers("k"))
        return Measurements(key, shapes, time_ns, power)
    length = "kv_length" if operator is MeasuredOperator.DECODE else "prompt_length"
    shapes = AttentionShapes.of(
        numbers("batch_size"),
        numbers("num_heads"),
        numbers("num_key_value_heads"),
        numbers("head_dim"),
        numbers(length),
    )
    return Measurements(key, shapes, time_ns, power)


def of_gpu(series: Iterable[Measurements], names: Iterable[str]) -> list[Measurements]:
    """Return the series of one GPU, by any of its names."""
    wanted = set(names)
    return [entry for entry in series if entry.key.gpu in wanted]
