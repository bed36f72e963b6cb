"""Predicted against measured times of GPU operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from attacc.errors import InputError
from attacc.study.measured import ELEMENTS, MeasuredOperator, Measurements, Messages
from attacc.system.calibrated import (
    AttentionShapes,
    CalibratedGpu,
    Flags,
    Floats,
    GemmShapes,
    attention_inside,
    collective_inside,
    collective_ns,
    decode_ns,
    gemm_inside,
    matmul_ns,
    prefill_ns,
)
from attacc.system.calibration import CALIBRATIONS, DecodeSeries, GemmSeries, PrefillSeries

ALL: Final = "all"
SIZE_CLASSES: Final[dict[MeasuredOperator, tuple[tuple[str, float], ...]]] = {
    MeasuredOperator.GEMM: (
        ("m <= 16", 16),
        ("m 17-256", 256),
        ("m 257-2048", 2048),
        ("m > 2048", np.inf),
    ),
    MeasuredOperator.DECODE: (
        ("keys <= 128", 128),
        ("keys 129-2048", 2048),
        ("keys > 2048", np.inf),
    ),
    MeasuredOperator.PREFILL: (
        ("tokens <= 128", 128),
        ("tokens 129-2048", 2048),
        ("tokens > 2048", np.inf),
    ),
    MeasuredOperator.ALL_REDUCE: (
        ("<= 64 KiB", 2.0**16),
        ("<= 4 MiB", 2.0**22),
        ("> 4 MiB", np.inf),
    ),
}
"""Name and upper end of every class: rows of a product, keys, prompt tokens, bytes of a message."""
NAMES: Final = {element: name for name, element in ELEMENTS.items()}


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well one class of one series is predicted; errors are fractions of the measured time.

    Attributes:
        operator: as in "gemm", or a collective as in "all_gather".
        gpu: as the table calls it.
        dtype: as the table calls it.
        framework: whose kernels were measured.
        version: of the framework.
        size_class: one of `SIZE_CLASSES`, or "all".
        calibration: the document whose coefficients were taken.
        predicted_by: the series in it.
        scaled: the coefficients are those of another GPU.
        points: shapes predicted.
        out_of_range: shapes of the class that the series is not stated for.
        mape: mean absolute error; None without points, as are the others.
        median_ape: median of the absolute error.
        p90_ape: 90th percentile of the absolute error.
        bias: mean error; positive where predicted times are too long.
    """

    operator: str
    gpu: str
    dtype: str
    framework: str
    version: str
    size_class: str
    calibration: str
    predicted_by: str
    scaled: bool
    points: int
    out_of_range: int
    mape: float | None
    median_ape: float | None
    p90_ape: float | None
    bias: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """A series of measurements with its predictions.

    Attributes:
        data: the measurements.
        time_ns: predicted; not a number where the shape is out of range.
        calibration: the document whose coefficients were taken.
        predicted_by: the series in it.
        scaled: the coefficients are those of another GPU.
    """

    data: Measurements
    time_ns: Floats
    calibration: str
    predicted_by: str
    scaled: bool


def check(tables: Sequence[Measurements], calibrated: CalibratedGpu | None = None) -> list[Checked]:
    """Predict every measurement.

    Args:
        tables: series of measurements.
        calibrated: the GPU to predict with; by default every GPU's own preset.

    Raises:
        InputError: a GPU without a preset, or one that was not measured.
    """
    presets = {} if calibrated is not None else _presets()
    chosen = tables if calibrated is None else _of(tables, calibrated)
    done: list[Checked] = []
    for data in chosen:
        gpu = calibrated or presets.get(data.key.gpu)
        if gpu is None:
            raise InputError(
                f"no calibration for {data.key.gpu!r}",
                where="gpu",
                hint=f"known are {', '.join(sorted(presets))}; name one with --gpu",
            )
        done.append(_checked(data, gpu))
    return done


def _presets() -> dict[str, CalibratedGpu]:
    named: dict[str, CalibratedGpu] = {}
    for name in CALIBRATIONS.names():
        for alias in CALIBRATIONS.load(name).measured_as:
            named[alias] = CalibratedGpu.load(name)
    return named


def _of(tables: Sequence[Measurements], calibrated: CalibratedGpu) -> list[Measurements]:
    names = {calibrated.gpu.name, *calibrated.calibration.measured_as}
    found = sorted({data.key.gpu for data in tables})
    if len(found) == 1:
        return list(tables)
    mine = [data for data in tables if data.key.gpu in names]
    if not mine:
        raise InputError(
            f"measured are {', '.join(found)}, and not {calibrated.gpu.name}", where="--gpu"
        )
    return mine


def _checked(data: Measurements, gpu: CalibratedGpu) -> Checked:
    shapes = data.shapes
    time_ns = np.full(data.count, np.nan)
    inside: Flags
    try:
        match shapes:
            case GemmShapes():
                series = _nearest(gpu, gpu.calibration.gemm, data)
                inside = gemm_inside(series.range, shapes)
                time_ns[inside] = matmul_ns(series, gpu.gpu, shapes.take(inside))
                name = _named(series)
            case AttentionShapes() if data.key.operator is MeasuredOperator.DECODE:
                decode = _nearest(gpu, gpu.calibration.decode, data)
                inside = attention_inside(decode.range, shapes)
                time_ns[inside] = decode_ns(decode, gpu.gpu, shapes.take(inside))
                name = _named(decode)
            case AttentionShapes():
                prefill = _nearest(gpu, gpu.calibration.prefill, data)
                inside = attention_inside(prefill.range, shapes)
                single = None
                if prefill.single_token_decodes:
                    try:
                        single = _nearest(gpu, gpu.calibration.decode, data)
                    except _NotMeasuredError:
                        inside &= shapes.length > 1
                time_ns[inside] = prefill_ns(prefill, single, gpu.gpu, shapes.take(inside))
                name = _named(prefill)
            case Messages():
                collective = gpu.collective(data.key.operation)
                inside = collective_inside(collective, shapes.gpus, shapes.message_bytes)
                some = shapes.take(inside)
                time_ns[inside] = collective_ns(collective, some.gpus, some.message_bytes)
                name = collective.operation
    except _NotMeasuredError:
        name = "nothing"
    return Checked(data, time_ns, gpu.calibration.name, name, gpu.scaled_from is not None)


S = TypeVar("S", GemmSeries, DecodeSeries, PrefillSeries)


class _NotMeasuredError(Exception):
    """No series has this element type: every row is out of range."""


def _nearest(gpu: CalibratedGpu, series: Sequence[S], data: Measurements) -> S:
    """Return the series of the same library; else of its framework; else of the reference."""
    key = data.key
    same = [entry for entry in series if entry.dtype is key.dtype]
    for wanted in (
        [
            entry
            for entry in same
            if (entry.framework, entry.version) == (key.framework, key.version)
        ],
        [entry for entry in same if entry.framework == key.framework],
        [entry for entry in same if entry.framework == gpu.calibration.reference],
    ):
        if wanted:
            return wanted[-1]
    raise _NotMeasuredError


def _named(series: GemmSeries | DecodeSeries | PrefillSeries) -> str:
    return f"{series.framework} {series.version} {series.dtype}"


def accuracy(checked: Sequence[Checked]) -> list[Accuracy]:
    """Return errors by series and size class, the class of all sizes first."""
    return [row for entry in checked for row in _accuracy(entry)]


def _accuracy(entry: Checked) -> list[Accuracy]:
    key = entry.data.key
    sizes = _sizes(entry.data)
    classes: list[tuple[str, NDArray[np.bool_]]] = [(ALL, np.ones(sizes.size, dtype=np.bool_))]
    low = 0.0
    for name, high in SIZE_CLASSES[key.operator]:
        classes.append((name, (sizes > low) & (sizes <= high)))
        low = high
    known = np.isfinite(entry.time_ns)
    rows: list[Accuracy] = []
    for name, member in classes:
        errors = entry.time_ns[member & known] / entry.data.time_ns[member & known] - 1
        size = np.abs(errors)
        some = errors.size > 0
        rows.append(
            Accuracy(
                operator=key.operation or key.operator.value,
                gpu=key.gpu,
                dtype=NAMES[key.dtype],
                framework=key.framework,
                version=key.version,
                size_class=name,
                calibration=entry.calibration,
                predicted_by=entry.predicted_by,
                scaled=entry.scaled,
                points=int(errors.size),
                out_of_range=int((member & ~known).sum()),
                mape=float(size.mean()) if some else None,
                median_ape=float(np.median(size)) if some else None,
                p90_ape=float(np.quantile(size, 0.9)) if some else None,
                bias=float(errors.mean()) if some else None,
            )
        )
    return rows


def _sizes(data: Measurements) -> Floats:
    match data.shapes:
        case GemmShapes(m=m):
            return m
        case AttentionShapes(length=length):
            return length
        case Messages(message_bytes=size):
            return size
