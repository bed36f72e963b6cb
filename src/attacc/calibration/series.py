"""Series of measured GPU operators, and the rows of tables that are in none of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.kernels import AttentionShapes, GemmShapes
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.records import SeriesType


class MeasuredOperator(StrEnum):
    """The operator that a table measures."""

    GEMM = "gemm"
    DECODE = "decode_attention"
    PREFILL = "prefill_attention"
    ALL_REDUCE = "all_reduce"
    CUSTOM_ALL_REDUCE = "custom_all_reduce"
    MOE = "moe"
    GATED_DELTA_NET = "gated_delta_net"
    MAMBA2 = "mamba2"
    WINDOWED_DECODE = "windowed_decode_attention"
    WINDOWED_PREFILL = "windowed_prefill_attention"
    MLA_DECODE = "mla_decode"
    MLA_PREFILL = "mla_prefill"
    MLA_BATCHED_MATMUL = "mla_batched_matmul"
    SPARSE_DECODE = "sparse_decode"


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """The key of a series of measurements.

    Attributes:
        operator: the operator.
        gpu: the GPU, as the table calls it.
        framework: the framework, as in "VLLM", or the library of a collective, as in "NCCL".
        version: version of the framework; empty where the table has none.
        dtype: element type of the operands, or of the cache.
        operation: the collective, as in "all_reduce", or the kernel of an operator of
            `attacc.calibration.fused`; empty for other operators.
        types: name of the element types in a table of such an operator; empty for other operators,
            where ``dtype`` has one name.
    """

    operator: MeasuredOperator
    gpu: str
    framework: str
    version: str
    dtype: SeriesType
    operation: str = ""
    types: str = ""


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of a collective; arrays of one length.

    Attributes:
        gpus: numbers of GPUs that take part.
        message_bytes: bytes of the whole message.
    """

    gpus: Floats
    message_bytes: Floats

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> Messages:
        """Return the messages at some places."""
        return Messages(self.gpus[chosen], self.message_bytes[chosen])


@dataclass(frozen=True, slots=True)
class Measurements:
    """One series of measurements.

    Attributes:
        key: key of the series.
        shapes: the shapes that were measured.
        time_ns: measured times in nanoseconds.
        power_w: power of the GPU during each measurement, in watts; not a number where unknown.
    """

    key: SeriesKey
    shapes: GemmShapes | AttentionShapes | Messages | FusedShapes
    time_ns: Floats
    power_w: Floats

    @property
    def count(self) -> int:
        """Number of measurements."""
        return self.time_ns.size

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> Measurements:
        """Return the measurements at some places."""
        return Measurements(
            self.key, self.shapes.take(chosen), self.time_ns[chosen], self.power_w[chosen]
        )


@dataclass(frozen=True, slots=True)
class Unusable:
    """Rows of a table that can be neither predicted nor fitted, for one reason.

    Attributes:
        operator: the operator.
        gpu: the GPU, as the table calls it.
        framework: the framework, as in "VLLM".
        version: version of the framework.
        dtype: the element type, as the table calls it.
        operation: the collective, or the kernel; empty for other operators.
        rows: number of rows.
        reason: the reason.
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
    """A table of measurements, divided into series.

    Attributes:
        series: one entry for each GPU, framework, version and element type (and collective),
            sorted.
        unusable: rows that are in none of the series.
    """

    series: list[Measurements]
    unusable: list[Unusable]
