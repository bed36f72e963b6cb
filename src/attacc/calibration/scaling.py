"""How the work of attention on the cores scales from one GPU to another, by measured GPUs.

A GPU without measurements takes another GPU's coefficients on its own data sheet. Traffic is then
shorter with a faster memory. The question is what becomes of the work on the cores: taking in keys
and values, arithmetic, and the fixed time of a block. `CoreRule` has the candidates. `transfers`
predicts measured decode attention of one GPU from the coefficients of another with each rule
(docs/model/gpu-model.md, "Scaling to another data sheet").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from attacc.calibration.series import MeasuredOperator, Measurements
from attacc.errors import EngineError, InputError
from attacc.gpu.calibrated.attention_records import DecodeCoefficients
from attacc.gpu.calibrated.coefficients import DecodeSeries
from attacc.gpu.calibrated.kernels import (
    AttentionShapes,
    CalibratedGpu,
    DecodeTimer,
    attention_limits,
    preset_of,
)
from attacc.gpu.calibrated.limits import Flags, Floats, inside
from attacc.gpu.calibrated.machine import peak_flops_per_s
from attacc.gpu.calibrated.records import GB, SeriesType
from attacc.hardware.gpu import GPUS, GpuSpec
from attacc.models.precision import ElementType

CORE_RATES: Final = ("core_bytes_per_s", "l2_core_bytes_per_s", "split_core_bytes_per_s")
CORE_TIMES: Final = ("block_ns", "block_dim_ns", "row_ns", "key_ns")
FLOPS_PER_CYCLE: Final = {"a100": 2048, "h100": 4096, "h200": 4096, "b200": 8192}
"""Operations in 16 bits of one core in a cycle (NVIDIA's white papers of the architectures); the
peak rate of the data sheet over these and the cores is the clock."""
LARGE_BYTES: Final = 1e8
"""Keys and values of a large shape. Launches and ramps are a small part of its time."""
CORES_LIMIT: Final = 0.6
"""Share of the memory's bandwidth below which the cores are taken to limit a large shape."""
FACTORS: Final = np.geomspace(0.5, 8.0, 81)
"""Factors of the cores' rates that are tried for the best one."""


class CoreRule(StrEnum):
    """What the rates of a core grow with, and its times shrink with."""

    CONSTANT = "constant"
    """Nothing; arithmetic takes its share of the data sheet's peak rate. The model's own rule."""
    CLOCK = "clock"
    PEAK = "peak"
    """The peak rate of one core."""
    BANDWIDTH = "bandwidth"
    """The memory's bandwidth for one core, so that all cores together grow with the memory."""
    ROOT = "root"
    """The square root of the memory's bandwidth for one core."""


class Rows(StrEnum):
    """Which shapes an error is of."""

    ALL = "all"
    LARGE = "large"
    """`LARGE_BYTES` of keys and values, and at least one request and key/value head per core."""
    CORES = "cores"
    """Large shapes that the cores limit on the GPU whose coefficients are scaled."""
    MEMORY = "memory"
    """The other large shapes."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Errors of one GPU's decode attention, predicted from another GPU's coefficients.

    Attributes:
        source: preset of the GPU whose coefficients are scaled.
        target: preset of the GPU that is predicted.
        framework: the framework whose kernels were measured.
        seen: version of the framework on the source.
        version: version of the framework on the target.
        dtype: element type of the cache.
        rows: which shapes.
        points: number of shapes.
        mape: mean absolute error of each rule, as a fraction of the measured time.
        bias: mean error of each rule; positive where predicted times are too long.
        own: mean absolute error of the target's own coefficients.
        best_factor: factor of the cores' rates, arithmetic included, with the least error.
    """

    source: str
    target: str
    framework: str
    seen: str
    version: str
    dtype: SeriesType
    rows: Rows
    points: int
    mape: dict[CoreRule, float]
    bias: dict[CoreRule, float]
    own: float
    best_factor: float


@dataclass(frozen=True, slots=True)
class Matched:
    """Shapes of decode attention that two GPUs measured in one version of one library.

    Attributes:
        share: share of the first GPU's bandwidth at which it read keys and values.
        ratio: time of the first GPU over that of the second.
    """

    share: Floats
    ratio: Floats


def core_factor(rule: CoreRule, source: GpuSpec, target: GpuSpec) -> float:
    """Return the rates of a core of one GPU over those of another GPU.

    Args:
        rule: the rule.
        source: data sheet of the GPU whose coefficients are scaled.
        target: data sheet of the other GPU.

    Raises:
        InputError: the rule needs a clock, and a GPU's is not known.
    """
    wider = target.memory_bytes_per_s / target.cores / (source.memory_bytes_per_s / source.cores)
    match rule:
        case CoreRule.CONSTANT:
            return 1.0
        case CoreRule.CLOCK:
            return _clock_hz(target) / _clock_hz(source)
        case CoreRule.PEAK:
            return _core_flops(target, ElementType.BF16) / _core_flops(source, ElementType.BF16)
        case CoreRule.BANDWIDTH:
            return wider
        case CoreRule.ROOT:
            return float(np.sqrt(wider))


def _core_flops(gpu: GpuSpec, dtype: SeriesType) -> float:
    return peak_flops_per_s(gpu, dtype) / gpu.cores


def _clock_hz(gpu: GpuSpec) -> float:
    if gpu.name not in FLOPS_PER_CYCLE:
        raise InputError(
            f"the clock of {gpu.name} is not known",
            where="rule",
            hint=f"known are {', '.join(FLOPS_PER_CYCLE)}",
        )
    return _core_flops(gpu, ElementType.BF16) / FLOPS_PER_CYCLE[gpu.name]


def faster_cores(timer: DecodeTimer, factor: float) -> DecodeTimer:
    """Return a timer of kernels whose work on the cores, arithmetic included, is faster.

    Launches, what the memory delivers, and the fixed time to combine parts stay.

    Args:
        timer: the kernels.
        factor: rates of the cores over those of the timer.
    """
    names = list(DecodeCoefficients.model_fields)
    rates = [names.index(name) for name in (*CORE_RATES, "compute_share")]
    times = [names.index(name) for name in CORE_TIMES]
    coefficients = timer.coefficients.copy()
    coefficients[:, rates] *= factor
    coefficients[:, times] /= factor
    return replace(timer, coefficients=coefficients)


def scaled_timer(
    series: DecodeSeries, source: GpuSpec, target: GpuSpec, rule: CoreRule
) -> DecodeTimer:
    """Return a timer of one GPU's kernels on the data sheet of another GPU.

    Args:
        series: the kernels, fitted to the source.
        source: data sheet of the source.
        target: data sheet of the other GPU.
        rule: how the work on the cores scales.
    """
    timer = DecodeTimer.of(series, target)
    if rule is CoreRule.CONSTANT:
        return timer
    return _by_factor(series, source, timer, target, core_factor(rule, source, target))


def _by_factor(
    series: DecodeSeries, source: GpuSpec, timer: DecodeTimer, target: GpuSpec, factor: float
) -> DecodeTimer:
    """Return a timer whose cores are faster than the source's by a factor, arithmetic included."""
    sheet = _core_flops(target, series.dtype) / _core_flops(source, series.dtype)
    place = list(DecodeCoefficients.model_fields).index("compute_share")
    coefficients = timer.coefficients.copy()
    coefficients[:, place] /= sheet  # the rate of arithmetic is then that of the source
    return faster_cores(replace(timer, coefficients=coefficients), factor)


def kv_bytes(shapes: AttentionShapes, dtype: SeriesType) -> Floats:
    """Return the bytes of keys and values of decode attention."""
    return 2.0 * shapes.batch * shapes.kv_heads * shapes.length * shapes.head_dim * dtype.bytes


def _decode(tables: Sequence[Measurements], preset: str) -> Iterator[Measurements]:
    for data in tables:
        if data.key.operator is MeasuredOperator.DECODE and preset_of(data.key.gpu) == preset:
            yield data


def _shapes(data: Measurements) -> AttentionShapes:
    if not isinstance(data.shapes, AttentionShapes):
        raise EngineError(f"{data.key.operator} has no shapes of attention")
    return data.shapes


def transfers(tables: Sequence[Measurements], source: str, target: str) -> list[Transfer]:
    """Predict the decode attention of one GPU from the coefficients of another, with every rule.

    Args:
        tables: measurements of the target.
        source: preset of the GPU whose coefficients are scaled.
        target: preset of the GPU that is predicted.

    Returns:
        One entry for each class of shapes of every series of the target whose library and element
        type the source has, too. A class without shapes has no entry.

    Raises:
        InputError: the target was not measured.
    """
    seen, asked = CalibratedGpu.load(source), CalibratedGpu.load(target)
    found: list[Transfer] = []
    measured = list(_decode(tables, target))
    if not measured:
        raise InputError(f"decode attention of {target} is in none of the tables", where="target")
    for data in measured:
        kind = data.key.framework, data.key.dtype
        known = [one for one in seen.calibration.decode if (one.framework, one.dtype) == kind]
        if known:
            found += _transferred(data, known[-1], seen.gpu, asked)
    return found


def _transferred(
    data: Measurements, series: DecodeSeries, source: GpuSpec, asked: CalibratedGpu
) -> Iterator[Transfer]:
    target, key = asked.gpu, data.key
    keeps = inside(attention_limits(series.range, _shapes(data)))
    shapes, measured = _shapes(data).take(keeps), data.time_ns[keeps]
    own = DecodeTimer.of(asked.decode(key.dtype, key.framework, key.version), target)
    for rows, chosen in _classes(series, source, target, shapes).items():
        some, times = shapes.take(chosen), measured[chosen]
        if not times.size:
            continue
        errors = {
            rule: scaled_timer(series, source, target, rule).ns(some) / times - 1
            for rule in CoreRule
        }
        plain = DecodeTimer.of(series, target)
        tried = [
            np.abs(_by_factor(series, source, plain, target, factor).ns(some) / times - 1).mean()
            for factor in FACTORS.tolist()
        ]
        yield Transfer(
            source.name,
            target.name,
            key.framework,
            series.version,
            key.version,
            key.dtype,
            rows,
            times.size,
            {rule: float(np.abs(error).mean()) for rule, error in errors.items()},
            {rule: float(error.mean()) for rule, error in errors.items()},
            float(np.abs(own.ns(some) / times - 1).mean()),
            float(FACTORS[int(np.argmin(tried))]),
        )


def _classes(
    series: DecodeSeries, source: GpuSpec, target: GpuSpec, shapes: AttentionShapes
) -> dict[Rows, Flags]:
    moved = kv_bytes(shapes, series.dtype)
    large = (moved >= LARGE_BYTES) & (shapes.batch * shapes.kv_heads >= target.cores)
    reached = moved / DecodeTimer.of(series, source).ns(shapes) / (source.memory_bytes_per_s * GB)
    cores = reached < CORES_LIMIT
    return {
        Rows.ALL: np.ones_like(large),
        Rows.LARGE: large,
        Rows.CORES: large & cores,
        Rows.MEMORY: large & ~cores,
    }


def matched(tables: Sequence[Measurements], first: str, second: str) -> Matched:
    """Return the large shapes that two GPUs measured in the same version of the same library.

    No model takes part: a ratio of 1 says that the GPUs take equally long.

    Args:
        tables: measurements of both GPUs.
        first: preset of one GPU.
        second: preset of the other GPU.

    Raises:
        InputError: no library was measured on both GPUs in one version.
    """
    gpu = GPUS.load(first)
    shares: list[Floats] = [np.empty(0)]
    ratios: list[Floats] = [np.empty(0)]
    others = {_library(data): data for data in _decode(tables, second)}
    same = [data for data in _decode(tables, first) if _library(data) in others]
    if not same:
        raise InputError(f"{first} and {second} share no version of a library", where="tables")
    for data in same:
        other = others[_library(data)]
        places = {sizes: i for i, sizes in enumerate(_sizes(other))}
        pairs = [(i, places[sizes]) for i, sizes in enumerate(_sizes(data)) if sizes in places]
        here, there = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        shapes = _shapes(data).take(here)
        moved = kv_bytes(shapes, data.key.dtype)
        large = (moved >= LARGE_BYTES) & (shapes.batch * shapes.kv_heads >= gpu.cores)
        mine, theirs = data.time_ns[here][large], other.time_ns[there][large]
        shares.append(moved[large] / mine / (gpu.memory_bytes_per_s * GB))
        ratios.append(mine / theirs)
    return Matched(np.concatenate(shares), np.concatenate(ratios))


def _library(data: Measurements) -> tuple[str, str, SeriesType]:
    return data.key.framework, data.key.version, data.key.dtype


def _sizes(data: Measurements) -> list[tuple[float, ...]]:
    shapes = _shapes(data)
    columns = (shapes.batch, shapes.heads, shapes.kv_heads, shapes.head_dim, shapes.length)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@dataclass(frozen=True, slots=True)
class CoreRate:
    """What one core takes in of keys and values while the memory is almost idle.

    Attributes:
        measured: bytes per second of one core, one entry for each shape.
        predicted: the same by the GPU's own coefficients.
    """

    measured: Floats
    predicted: Floats


def core_rate(tables: Sequence[Measurements], preset: str, framework: str) -> CoreRate:
    """Return the rate of a core in heads that a kernel does not divide, with most cores idle.

    The shapes are large, have one query head per key/value head, and leave at least three quarters
    of the cores without work. Only kernels that do not divide the keys of a head are meant.

    Args:
        tables: measurements of the GPU.
        preset: preset of the GPU.
        framework: framework of the kernels.

    Raises:
        InputError: the tables have no such shape.
    """
    gpu = CalibratedGpu.load(preset)
    measured: list[Floats] = []
    predicted: list[Floats] = []
    for data in _decode(tables, preset):
        series = gpu.calibration.decode
        kernels = [one for one in series if _same(one, data) and one.framework == framework]
        if not kernels or kernels[-1].kernels[0].splits_ungrouped:
            continue
        shapes = _shapes(data)
        blocks = shapes.batch * shapes.kv_heads
        moved = kv_bytes(shapes, data.key.dtype)
        few = (shapes.heads == shapes.kv_heads) & (4 * blocks <= gpu.gpu.cores)
        chosen = few & (moved >= LARGE_BYTES)
        bytes_of_core = (moved / blocks)[chosen] / GB
        measured.append(bytes_of_core / data.time_ns[chosen])
        predicted.append(
            bytes_of_core / DecodeTimer.of(kernels[-1], gpu.gpu).ns(shapes.take(chosen))
        )
    if not sum(part.size for part in measured):
        raise InputError(
            f"no undivided head of {framework} with idle cores was measured on {preset}",
            where="tables",
        )
    return CoreRate(np.concatenate(measured), np.concatenate(predicted))


def _same(series: DecodeSeries, data: Measurements) -> bool:
    return (series.framework, series.version, series.dtype) == _library(data)
