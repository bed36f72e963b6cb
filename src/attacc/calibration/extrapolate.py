"""Predicting shapes that were not measured: another GPU from its data sheet, or larger products.

The coefficients of a GPU that was not measured must follow from those of other GPUs. Three rules
are compared (docs/model/gpu-model.md):

- ``all``: one set of coefficients is fitted to all other GPUs together. Shares of the data sheet
  and times of launches are the same on every GPU. The bytes that a core takes in per nanosecond
  grow with its peak rate, and the time of a step of its work shrinks with that rate.
- ``memory``: the shares of the memory's bandwidth are fitted to all other GPUs together. Every
  other coefficient is fitted to each GPU by itself, and the prediction takes that of the nearest
  GPU.
- ``none``: every coefficient is that of the nearest GPU.

The nearest GPU is the one whose cores have the most similar peak rate. Among equal rates it is the
one with the most similar number of cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacc.calibration.check import NAMES
from attacc.calibration.fit import (
    PROTOCOLS,
    collective_problem,
    decode_problem,
    gemm_problem,
    gemm_unknowns,
    library_rules,
    modelled_dims,
    prefill_problem,
    prefill_taken_by,
    taken_by,
)
from attacc.calibration.problems import ROWS_OF_A_FIT, Indices, Problem, least_squares
from attacc.calibration.series import MeasuredOperator, Measurements, Messages
from attacc.errors import InputError
from attacc.gpu.calibrated.attention_records import DecodeCoefficients, PrefillCoefficients
from attacc.gpu.calibrated.coefficients import (
    GemmCoefficients,
    HostCoefficients,
    QuantiseCoefficients,
)
from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.kernels import GemmShapes, preset_of
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.machine import peak_flops_per_s
from attacc.gpu.calibrated.records import SeriesType
from attacc.hardware.gpu import GPUS, GpuSpec
from attacc.hardware.link import LINKS

LINK_OF: Final = {"a100": "nvlink3", "h100": "nvlink4", "h200": "nvlink4", "b200": "nvlink5"}
"""Presets with the data sheets of the links over which collectives were measured, by GPU."""
MEMORY_SHARES: Final = ("read_share", "write_share", "io_share")
PER_CORE_RATES: Final = ("core_bytes_per_s", "l2_core_bytes_per_s", "split_core_bytes_per_s")
PER_CORE_TIMES: Final = (
    "tile_ns",
    "step_ns",
    "block_ns",
    "block_dim_ns",
    "key_ns",
    "key_dim_ns",
    "row_ns",
)


class Shared(StrEnum):
    """The rules by which GPUs share coefficients."""

    ALL = "all"
    MEMORY = "memory"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """Errors on shapes that no fit has seen, as fractions of the measured time.

    Attributes:
        operator: the operator, as in "gemm", or the collective, as in "all_gather".
        gpu: the predicted GPU, as the table calls it.
        dtype: the element type, as the table calls it.
        framework: the framework whose kernels were measured.
        version: version of the framework.
        seen: the measurements that were fitted: GPUs and versions, or numbers of rows.
        shared: the rule by which GPUs share coefficients; None where a GPU predicts itself.
        points: number of shapes that were predicted.
        mape: mean absolute error.
        bias: mean error; positive where predicted times are too long.
    """

    operator: str
    gpu: str
    dtype: str
    framework: str
    version: str
    seen: str
    shared: Shared | None
    points: int
    mape: float
    bias: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Measurements of one GPU that one set of coefficients describes.

    Attributes:
        problem: the fit of the coefficients to these measurements.
        scale: for each coefficient, its value on this GPU over its value on the predicted GPU.
        memory: whether each coefficient is a share of the memory's bandwidth.
        rows: places of these measurements among all measurements of the GPU.
    """

    problem: Problem
    scale: Floats
    memory: NDArray[np.bool_]
    rows: Indices


def extrapolate_gpu(
    tables: Sequence[Measurements], unseen: str, seen: Sequence[str]
) -> list[Extrapolation]:
    """Predict one GPU from its data sheet and the measurements of others.

    Args:
        tables: measurements of all the GPUs.
        unseen: preset of the GPU to predict. The predictions are compared with its measurements.
        seen: presets of the GPUs to fit. For every library the newest measured version is fitted.

    Returns:
        One entry for each rule, for every series of the unseen GPU that a seen GPU has too. With a
        single seen GPU there is only the rule `Shared.NONE`.

    Raises:
        InputError: a GPU is unknown, was not measured, or is both seen and unseen.
    """
    if unseen in seen:
        raise InputError(f"{unseen} is to be predicted", where="seen")
    by_gpu = _by_preset(tables)
    for name in (unseen, *seen):
        if name not in by_gpu:
            raise InputError(
                f"{name} was not measured", hint=f"measured are {', '.join(sorted(by_gpu))}"
            )
    rows: list[Extrapolation] = []
    for target in by_gpu[unseen]:
        known: dict[str, Measurements] = {}
        for name in seen:
            for data in by_gpu[name]:
                if _kind(data) == _kind(target):
                    known[name] = data  # the last of several versions
        if known:
            rows += _extrapolated(target, unseen, known)
    if not rows:
        raise InputError(
            f"nothing measured on {unseen}, that is modelled, was measured on {', '.join(seen)}"
        )
    return rows


def extrapolate_rows(tables: Sequence[Measurements], most_rows: int) -> list[Extrapolation]:
    """Predict products of more rows from a fit to those of fewer, on the same GPU.

    Args:
        tables: measurements; only products are used.
        most_rows: most rows of a product that is fitted.

    Raises:
        InputError: no product was measured, or none with fewer or with more rows than the limit.
    """
    found: list[Extrapolation] = []
    for name, series in _by_preset(tables).items():
        for data in series:
            if not isinstance(data.shapes, GemmShapes):
                continue
            few = np.flatnonzero(data.shapes.m <= most_rows)
            many = np.flatnonzero(data.shapes.m > most_rows)
            if not (few.size and many.size):
                raise InputError(
                    f"all products on {data.key.gpu} have {'more' if many.size else 'no more'} "
                    f"than {most_rows} rows",
                    where="rows",
                )
            gpu = GPUS.load(name)
            problem = gemm_problem(data, gpu, library_rules(data.key, gpu))
            values = least_squares(problem, _some(few, ROWS_OF_A_FIT), problem.starts)
            predicted = problem.predict(values, many)
            found.append(_row(data, f"m <= {most_rows}", None, predicted, data.time_ns[many]))
    if not found:
        raise InputError("no products in the tables", where="rows")
    return found


def _by_preset(tables: Iterable[Measurements]) -> dict[str, list[Measurements]]:
    found: dict[str, list[Measurements]] = {}
    for data in tables:
        name = preset_of(data.key.gpu)
        GPUS.load(name)  # a GPU without a data sheet is an error
        found.setdefault(name, []).append(data)
    return found


def _kind(data: Measurements) -> tuple[MeasuredOperator, str, str, SeriesType]:
    return data.key.operator, data.key.operation, data.key.framework, data.key.dtype


def _extrapolated(
    target: Measurements, unseen: str, known: Mapping[str, Measurements]
) -> list[Extrapolation]:
    gpu = GPUS.load(unseen)
    nearest = min(known, key=lambda name: _distance(GPUS.load(name), gpu, target.key.dtype))
    asked = _parts(target, gpu, gpu)
    seen = {name: _parts(data, GPUS.load(name), gpu) for name, data in known.items()}
    told = ", ".join(f"{name} {data.key.version}".strip() for name, data in known.items())
    rows: list[Extrapolation] = []
    for shared in Shared if len(known) > 1 else (Shared.NONE,):
        predicted = np.full(target.count, np.nan)
        for place, part in enumerate(asked):
            # The other GPU may have one kernel more. Then this GPU's last kernel stands for it.
            of_part = {
                name: [p for i, p in enumerate(parts) if min(i, len(asked) - 1) == place]
                for name, parts in seen.items()
            }
            if not of_part[nearest]:
                continue
            values = _joint(of_part, nearest, shared)
            predicted[part.rows] = part.problem.predict(values, np.arange(part.rows.size))
        inside = np.isfinite(predicted)
        if not inside.any():
            continue
        source = told if shared is not Shared.NONE else f"{nearest} {known[nearest].key.version}"
        rows.append(_row(target, source.strip(), shared, predicted[inside], target.time_ns[inside]))
    return rows


def _distance(one: GpuSpec, other: GpuSpec, dtype: SeriesType) -> tuple[float, float]:
    return (
        abs(np.log(_per_core(one, dtype) / _per_core(other, dtype))),
        abs(np.log(one.cores / other.cores)),
    )


def _joint(parts: Mapping[str, Sequence[_Part]], nearest: str, shared: Shared) -> Floats:
    """Fit parts together, and return the coefficients of the nearest GPU.

    The vector of unknowns holds the coefficients of the nearest GPU, and then for every other GPU
    the coefficients that it does not share.
    """
    first = parts[nearest][0]
    unknowns = list(first.problem.unknowns)
    starts = [list(start) for start in first.problem.starts]
    common = np.ones(len(unknowns), dtype=np.bool_) if shared is Shared.ALL else first.memory
    placed: list[tuple[_Part, Indices]] = []
    for name, mine in parts.items():
        if not mine or (shared is Shared.NONE and name != nearest):
            continue
        place = np.arange(common.size)
        if name != nearest:
            own = np.flatnonzero(~common)
            place[own] = len(unknowns) + np.arange(own.size)
            unknowns += [mine[0].problem.unknowns[int(i)] for i in own]
            for start, theirs in zip(starts, mine[0].problem.starts, strict=True):
                start.extend(theirs[own])
        placed += [(part, place) for part in mine]
    # Every kernel has the same weight, whatever the number of its measurements.
    most = ROWS_OF_A_FIT // len(placed)
    rows = [_some(np.arange(part.problem.count), most) for part, _ in placed]

    def predict(values: Floats, chosen: Indices) -> Floats:
        times = [
            part.problem.predict(values[place] * part.scale, mine)
            for (part, place), mine in zip(placed, rows, strict=True)
        ]
        return np.concatenate(times)[chosen]

    measured = [part.problem.time_ns[mine] for (part, _), mine in zip(placed, rows, strict=True)]
    together = Problem(
        unknowns, np.concatenate(measured), predict, [np.array(start) for start in starts]
    )
    found = least_squares(together, np.arange(together.count), together.starts)
    return found[: common.size]


def _parts(data: Measurements, gpu: GpuSpec, target: GpuSpec) -> list[_Part]:
    """Return the problems of a series, one for each set of coefficients of its library."""
    rules = library_rules(data.key, gpu)
    faster = _per_core(gpu, data.key.dtype) / _per_core(target, data.key.dtype)
    everything = np.arange(data.count)
    if isinstance(data.shapes, Messages):
        problem = collective_problem(data)
        scale = np.ones(len(problem.unknowns))
        scale[2 : 3 * PROTOCOLS : 3] = _link_bytes_per_s(gpu) / _link_bytes_per_s(target)
        return [_Part(problem, scale, np.zeros(scale.size, dtype=np.bool_), everything)]
    if isinstance(data.shapes, GemmShapes):
        problem = gemm_problem(data, gpu, rules)
        kinds = (GemmCoefficients, QuantiseCoefficients, HostCoefficients)
        every = [name for kind in kinds for name in kind.model_fields]
        wanted = zip(every, gemm_unknowns(rules), strict=True)
        fields = [name for name, unknown in wanted if unknown is not None]
        return [_part(problem, fields, faster, everything)]
    if isinstance(data.shapes, FusedShapes):
        raise InputError(
            f"{data.key.operator} is not predicted from other GPUs",
            where="measured",
            hint="leave its table out",
        )
    known = modelled_dims(data.shapes)
    parts: list[_Part] = []
    if data.key.operator is MeasuredOperator.PREFILL:
        if rules.single_token_decodes:
            known &= data.shapes.length > 1
        taken = prefill_taken_by(rules.prefill, data.shapes)
        for i, prompts in enumerate(rules.prefill):
            mine = everything[known & (taken == i)]
            if mine.size:
                problem = prefill_problem(data.take(mine), gpu, prompts)
                parts.append(_part(problem, list(PrefillCoefficients.model_fields), faster, mine))
        return parts
    taken = taken_by(rules.decode, data.shapes)
    for i, rule in enumerate(rules.decode):
        mine = everything[known & (taken == i)]
        if mine.size:
            problem = decode_problem(data.take(mine), gpu, rule)
            parts.append(_part(problem, list(DecodeCoefficients.model_fields), faster, mine))
    return parts


def _part(problem: Problem, fields: Sequence[str], faster: float, rows: Indices) -> _Part:
    power = [float(name in PER_CORE_RATES) - float(name in PER_CORE_TIMES) for name in fields]
    memory = np.array([name in MEMORY_SHARES for name in fields])
    return _Part(problem, faster ** np.array(power), memory, rows)


def _per_core(gpu: GpuSpec, dtype: SeriesType) -> float:
    return peak_flops_per_s(gpu, dtype) / gpu.cores


def _link_bytes_per_s(gpu: GpuSpec) -> float:
    if gpu.name not in LINK_OF:
        raise InputError(
            f"the link of {gpu.name} is not known", hint=f"known are {', '.join(LINK_OF)}"
        )
    return LINKS.load(LINK_OF[gpu.name]).bytes_per_s


def _some(rows: Indices, most: int) -> Indices:
    return np.random.default_rng(0).permutation(rows)[:most]


def _row(
    data: Measurements, seen: str, shared: Shared | None, predicted: Floats, measured: Floats
) -> Extrapolation:
    errors = predicted / measured - 1
    key = data.key
    return Extrapolation(
        operator=key.operation or key.operator.value,
        gpu=key.gpu,
        dtype=NAMES[key.dtype],
        framework=key.framework,
        version=key.version,
        seen=seen,
        shared=shared,
        points=int(errors.size),
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
    )
