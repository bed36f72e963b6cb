"""Predicted against measured times of GPU operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from attacc.calibration.fused.registry import KINDS
from attacc.calibration.measured import ELEMENTS, FORMATS
from attacc.calibration.series import MeasuredOperator, Measurements, Messages, Unusable
from attacc.errors import InputError
from attacc.gpu.calibrated.coefficients import (
    CALIBRATIONS,
    CollectiveSeries,
    DecodeSeries,
    GemmSeries,
    PrefillSeries,
)
from attacc.gpu.calibrated.fused.base import FusedSeries
from attacc.gpu.calibrated.kernels import (
    AttentionShapes,
    CalibratedGpu,
    GemmShapes,
    attention_limits,
    collective_limits,
    collective_ns,
    decode_ns,
    gemm_limits,
    matmul_ns,
    prefill_ns,
)
from attacc.gpu.calibrated.limits import Floats, Limits, inside
from attacc.gpu.calibrated.records import SeriesType

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
"""For each operator, the name and the upper end of every size class.

The size is the rows of a product, the keys of decode attention, the tokens of a prompt, or the
bytes of a message.
"""
COLLECTIVES: Final = (
    MeasuredOperator.ALL_REDUCE,
    *(kind.operator for kind in KINDS.values() if kind.reference),
)
"""Operators whose libraries all stand for a GPU."""
NAMES: Final[dict[SeriesType, str]] = {
    element: name for name, element in (*ELEMENTS.items(), *FORMATS.items())
}


@dataclass(frozen=True, slots=True)
class Outside:
    """Rows of a size class that were not predicted for one reason.

    Attributes:
        reason: the reason.
        rows: number of rows.
    """

    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of the predictions of one size class, as fractions of the measured time.

    Attributes:
        operator: the operator, as in "gemm", or the collective, as in "all_gather".
        gpu: the GPU, as the table calls it.
        dtype: the element type, as the table calls it.
        framework: the framework whose kernels were measured.
        version: version of the framework. Several versions, separated by commas, are counted
            together: every shape is predicted by the series of its own version, and counts once.
        reference: whether the framework stands for this GPU.
        size_class: one of `SIZE_CLASSES`, or "all".
        calibration: the document that holds the coefficients; empty where there is none.
        predicted_by: the series of that document.
        scaled: whether the coefficients are those of another GPU.
        points: number of shapes that were predicted.
        out_of_range: number of shapes of the class that were not predicted.
        outside: the shapes that were not predicted, by reason.
        mape: mean absolute error. All errors are None without points.
        median_ape: median of the absolute error.
        p90_ape: 90th percentile of the absolute error.
        bias: mean error; positive where predicted times are too long.
    """

    operator: str
    gpu: str
    dtype: str
    framework: str
    version: str
    reference: bool
    size_class: str
    calibration: str
    predicted_by: str
    scaled: bool
    points: int
    out_of_range: int
    outside: tuple[Outside, ...]
    mape: float | None
    median_ape: float | None
    p90_ape: float | None
    bias: float | None


NOTHING: Final = "nothing"
"""Name in `predicted_by` of rows that no series predicts."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A series of measurements with its predictions.

    Attributes:
        data: the measurements.
        time_ns: predicted times in nanoseconds; not a number for a row without a prediction.
        outside: for each row, the reason why it has no prediction; empty where it has one.
        calibration: the document that holds the coefficients.
        predicted_by: the series of that document.
        reference: whether the framework stands for this GPU.
        scaled: whether the coefficients are those of another GPU.
    """

    data: Measurements
    time_ns: Floats
    outside: tuple[str, ...]
    calibration: str
    predicted_by: str
    reference: bool
    scaled: bool


def check(tables: Sequence[Measurements], calibrated: CalibratedGpu | None = None) -> list[Checked]:
    """Predict every measurement.

    Args:
        tables: series of measurements.
        calibrated: the calibration to predict with; by default the preset of each GPU.

    Raises:
        InputError: no GPU has a preset, or the GPU of the given calibration was not measured.
    """
    if calibrated is not None:
        names = measured_names([data.key.gpu for data in tables], calibrated)
        return [_checked(data, calibrated) for data in tables if data.key.gpu in names]
    presets = _presets()
    if tables and not any(data.key.gpu in presets for data in tables):
        raise InputError(
            f"no calibration for {tables[0].key.gpu!r}",
            where="gpu",
            hint=f"known are {', '.join(sorted(presets))}; name one",
        )
    return [
        _checked(data, presets[data.key.gpu])
        if data.key.gpu in presets
        else _unknown(data, f"no calibration for {data.key.gpu!r}")
        for data in tables
    ]


def measured_names(found: Sequence[str], calibrated: CalibratedGpu) -> set[str]:
    """Return the GPUs of a table that a calibration stands for. A single GPU always counts.

    Raises:
        InputError: the calibration stands for none of several GPUs.
    """
    names = {calibrated.gpu.name, *calibrated.calibration.measured_as}
    mine = names & set(found) if len(set(found)) > 1 else set(found)
    if found and not mine:
        raise InputError(
            f"measured are {', '.join(sorted(set(found)))}, and not {calibrated.gpu.name}",
            where="gpu",
        )
    return mine


def _presets() -> dict[str, CalibratedGpu]:
    named: dict[str, CalibratedGpu] = {}
    for name in CALIBRATIONS.names():
        for alias in CALIBRATIONS.load(name).measured_as:
            named[alias] = CalibratedGpu.load(name)
    return named


def _unknown(data: Measurements, reason: str) -> Checked:
    none = np.full(data.count, np.nan)
    return Checked(data, none, (reason,) * data.count, "", NOTHING, reference=False, scaled=False)


def _checked(data: Measurements, gpu: CalibratedGpu) -> Checked:
    shapes = data.shapes
    time_ns = np.full(data.count, np.nan)
    limits: Limits = []
    name = NOTHING
    try:
        match shapes:
            case GemmShapes():
                series = _nearest(gpu, gpu.calibration.gemm, data)
                limits = gemm_limits(series.range, shapes)
                keeps = inside(limits)
                time_ns[keeps] = matmul_ns(series, gpu.gpu, shapes.take(keeps))
                name = _named(series)
            case AttentionShapes() if data.key.operator is MeasuredOperator.DECODE:
                decode = _nearest(gpu, gpu.calibration.decode, data)
                limits = attention_limits(decode.range, shapes)
                keeps = inside(limits)
                time_ns[keeps] = decode_ns(decode, gpu.gpu, shapes.take(keeps))
                name = _named(decode)
            case AttentionShapes():
                prefill = _nearest(gpu, gpu.calibration.prefill, data)
                limits = attention_limits(prefill.range, shapes)
                single = None
                if prefill.single_token_decodes:
                    try:
                        single = _nearest(gpu, gpu.calibration.decode, data)
                    except _NotMeasuredError:
                        reason = "decode attention, which prompts of one token run, is fitted"
                        limits.append((reason, shapes.length > 1))
                keeps = inside(limits)
                time_ns[keeps] = prefill_ns(prefill, single, gpu.gpu, shapes.take(keeps))
                name = _named(prefill)
            case Messages():
                collective = _collective(gpu, data)
                limits = collective_limits(collective, shapes.gpus, shapes.message_bytes)
                some = shapes.take(inside(limits))
                time_ns[inside(limits)] = collective_ns(collective, some.gpus, some.message_bytes)
                name = collective.operation
            case _:
                kind = KINDS[data.key.operator]
                fused = _fused(gpu, data)
                limits = kind.limits(fused, shapes)
                keeps = inside(limits)
                time_ns[keeps] = kind.predict(fused, gpu.gpu, shapes.take(keeps))
                name = f"{fused.framework} {fused.version} {fused.dtype} {fused.kernel}".strip()
    except _NotMeasuredError as error:
        limits = [(str(error), np.zeros(data.count, dtype=np.bool_))]
    always = data.key.operator in COLLECTIVES
    reference = always or data.key.framework == gpu.calibration.reference
    return Checked(
        data,
        time_ns,
        _reasons(limits, data.count),
        gpu.calibration.name,
        name,
        reference=reference,
        scaled=gpu.scaled_from is not None,
    )


def _reasons(limits: Limits, count: int) -> tuple[str, ...]:
    """Return for each shape the first limit that it breaks; empty where it breaks none."""
    reasons = np.full(count, "", dtype=object)
    for stated, keeps in reversed(limits):
        reasons[~keeps] = f"only stated where {stated}"
    return tuple(str(reason) for reason in reasons)


S = TypeVar("S", GemmSeries, DecodeSeries, PrefillSeries)


class _NotMeasuredError(Exception):
    """No series was fitted for this operator and element type, so every row is out of range."""


def _nearest(gpu: CalibratedGpu, series: Sequence[S], data: Measurements) -> S:
    """Return the series of the same library, or else of its framework, or else of the reference."""
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
    raise _NotMeasuredError(f"{key.operator} in {NAMES[key.dtype]} is fitted")


def _fused(gpu: CalibratedGpu, data: Measurements) -> FusedSeries:
    key = data.key
    found = KINDS[key.operator].nearest(gpu.calibration, key)
    if found is None:
        kernel = f" by {key.operation}" if key.operation else ""
        raise _NotMeasuredError(f"{key.operator} in {key.types}{kernel} is fitted")
    return found


def _collective(gpu: CalibratedGpu, data: Measurements) -> CollectiveSeries:
    for series in gpu.calibration.collectives:
        if series.operation == data.key.operation:
            return series
    raise _NotMeasuredError(f"{data.key.operation} is fitted")


def _named(series: GemmSeries | DecodeSeries | PrefillSeries) -> str:
    return f"{series.framework} {series.version} {series.dtype}"


def accuracy(
    checked: Sequence[Checked], unusable: Sequence[Unusable] = (), *, by_version: bool = False
) -> list[Accuracy]:
    """Return errors by operator, GPU, element type, framework and size class, all sizes first.

    Args:
        checked: predictions.
        unusable: rows without a prediction; they count in the class of all sizes.
        by_version: whether each version of a framework has an entry of its own.
    """
    groups: dict[tuple[str, ...], tuple[list[Checked], list[Unusable]]] = {}
    for entry in checked:
        key = entry.data.key
        types = key.types or NAMES[key.dtype]
        name = (_titled(key.operator, key.operation), key.gpu, types, key.framework)
        name = (*name, key.version) if by_version else name
        groups.setdefault(name, ([], []))[0].append(entry)
    for left in unusable:
        name = (_titled(left.operator, left.operation), left.gpu, left.dtype, left.framework)
        name = (*name, left.version) if by_version else name
        groups.setdefault(name, ([], []))[1].append(left)
    return [row for name, (some, left) in groups.items() for row in _accuracy(name, some, left)]


def _titled(operator: MeasuredOperator, operation: str) -> str:
    """Return the name of an operator, or of a collective. Kernels of one operator are together."""
    return operator.value if operator in KINDS else operation or operator.value


def _accuracy(
    name: tuple[str, ...], checked: Sequence[Checked], unusable: Sequence[Unusable]
) -> list[Accuracy]:
    operator = checked[0].data.key.operator if checked else unusable[0].operator
    none = np.empty(0)
    versions = {e.data.key.version: None for e in checked} | {u.version: None for u in unusable}
    predicted_by = {e.predicted_by: None for e in checked if e.predicted_by != NOTHING}
    return class_rows(
        Group(
            operator=name[0],
            gpu=name[1],
            dtype=name[2],
            framework=name[3],
            version=", ".join(versions),
            reference=any(entry.reference for entry in checked),
            calibration=next((e.calibration for e in checked if e.calibration), ""),
            predicted_by=", ".join(predicted_by) or NOTHING,
            scaled=any(entry.scaled for entry in checked),
        ),
        KINDS[operator].classes if operator in KINDS else SIZE_CLASSES[operator],
        sizes=np.concatenate([none, *(_sizes(entry.data) for entry in checked)]),
        errors=np.concatenate([none, *(e.time_ns / e.data.time_ns - 1 for e in checked)]),
        outside=[reason for entry in checked for reason in entry.outside],
        unusable=[Outside(left.reason, left.rows) for left in unusable],
    )


@dataclass(frozen=True, slots=True)
class Group:
    """The rows whose errors are counted together; the fields are those of `Accuracy`."""

    operator: str
    gpu: str
    dtype: str
    framework: str
    version: str
    reference: bool
    calibration: str
    predicted_by: str
    scaled: bool


def class_rows(
    group: Group,
    classes: Sequence[tuple[str, float]],
    *,
    sizes: Floats,
    errors: Floats,
    outside: Sequence[str],
    unusable: Sequence[Outside] = (),
) -> list[Accuracy]:
    """Return the errors of a group by size class, the class of all sizes first.

    Args:
        group: the group.
        classes: name and upper end of every class.
        sizes: the size of each row.
        errors: the error of each row; any value where the row was not predicted.
        outside: for each row, the reason why it was not predicted; empty where it was.
        unusable: rows without a size; they count in the class of all sizes.
    """
    reasons = np.array(outside, dtype=object)
    known = reasons == ""
    members: list[tuple[str, NDArray[np.bool_]]] = [(ALL, np.ones(sizes.size, dtype=np.bool_))]
    low = 0.0
    for label, high in classes:
        members.append((label, (sizes > low) & (sizes <= high)))
        low = high
    rows: list[Accuracy] = []
    for label, member in members:
        counts = Counter(str(reason) for reason in reasons[member & ~known])
        if label == ALL:
            for left in unusable:
                counts[left.reason] += left.rows
        some = errors[member & known]
        size, any_known = np.abs(some), some.size > 0
        rows.append(
            Accuracy(
                operator=group.operator,
                gpu=group.gpu,
                dtype=group.dtype,
                framework=group.framework,
                version=group.version,
                reference=group.reference,
                size_class=label,
                calibration=group.calibration,
                predicted_by=group.predicted_by,
                scaled=group.scaled,
                points=int(some.size),
                out_of_range=counts.total(),
                outside=tuple(Outside(reason, count) for reason, count in counts.items()),
                mape=float(size.mean()) if any_known else None,
                median_ape=float(np.median(size)) if any_known else None,
                p90_ape=float(np.quantile(size, 0.9)) if any_known else None,
                bias=float(some.mean()) if any_known else None,
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
        case shapes:
            return KINDS[data.key.operator].size(shapes)
