"""Claims about the calibrated GPU model: operators and power, against measured kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from attacc.calibration.check import ALL, Accuracy, Checked, accuracy, check
from attacc.calibration.measured import of_gpu, read_measurements
from attacc.calibration.power import SHORTEST_NS
from attacc.calibration.scaling import CoreRule, Rows, core_rate, matched, transfers
from attacc.calibration.series import MeasuredOperator, Measurements
from attacc.errors import EngineError
from attacc.gpu.calibrated.coefficients import CALIBRATIONS, CalibrationSpec, PowerSpec
from attacc.gpu.calibrated.kernels import AttentionShapes, CalibratedGpu, GemmShapes
from attacc.gpu.calibrated.power import attention_work, gemm_work, power
from attacc.hardware.gpu import GPUS
from attacc.study.claims.validation import (
    Check,
    Claim,
    Figure,
    Measured,
    Needs,
    ReferenceData,
    Room,
    Tolerance,
    Unit,
)

LIBRARIES: Final = ("polars",)
HELD_BACK: Final = "in cross-validation"
COLLECTIVES: Final = "NCCL"
DECODE_TABLE: Final = "decode_attention.parquet"
CORES_LIMIT: Final = 0.4
"""Share of the bandwidth below which nothing but the cores can limit large attention."""
MEMORY_LIMITS: Final = 0.9
SOURCE: Final = (
    "ai-dynamo/aiconfigurator, Apache-2.0; 70 % of its shapes, the others kept elsewhere"
)


@dataclass(frozen=True, slots=True)
class MeasuredGpu:
    """A GPU of the tables.

    Attributes:
        preset: preset of its calibration.
        name: name for people.
        tables: its name in the tables.
        ending: ending of the names of its own files; empty where it is in those of all GPUs.
    """

    preset: str
    name: str
    tables: str
    ending: str = ""

    def file(self, operator: Operator) -> str:
        """Return the file of the measurements of an operator."""
        return f"{operator.table}{self.ending}.parquet"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator with a claim.

    Attributes:
        id: part of the claim's id.
        name: name for people.
        table: file of the measurements, without the endings of its name.
        measured: its name in that file.
        library: library whose kernels stand for the GPU.
        most: largest mean absolute error with which the claim holds.
        reason: reason for that limit.
        errors: returns the errors that a preset records, by series of the reference library.
    """

    id: str
    name: str
    table: str
    measured: MeasuredOperator
    library: str
    most: float
    reason: str
    errors: Callable[[CalibrationSpec], dict[str, float]]


def _libraries(kind: str, spec: CalibrationSpec) -> dict[str, float]:
    series = {"gemm": spec.gemm, "decode": spec.decode, "prefill": spec.prefill}[kind]
    return {
        f"{one.framework} {one.version} {one.dtype}": one.error
        for one in series
        if one.framework == spec.reference
    }


def _sums(spec: CalibrationSpec) -> dict[str, float]:
    return {one.operation: one.error for one in spec.collectives if one.operation == "all_reduce"}


MEASURED_GPUS: Final = (
    MeasuredGpu("a100", "A100 80 GB", "a100-sxm-80gb"),
    MeasuredGpu("h100", "H100", "h100-sxm-80gb"),
    MeasuredGpu("h200", "H200", "h200-sxm-141gb"),
    MeasuredGpu("b200", "B200", "b200-sxm-180gb", "_b200"),
)
GOAL: Final = "the project's goal for shapes held back"
OPERATORS: Final = (
    Operator(
        "gemm",
        "matrix products",
        "gemm",
        MeasuredOperator.GEMM,
        "vLLM",
        0.10,
        f"{GOAL}; interpolation between neighbours in the table is itself off by 4 to 9 %",
        partial(_libraries, "gemm"),
    ),
    Operator(
        "decode",
        "decode attention",
        "decode_attention",
        MeasuredOperator.DECODE,
        "vLLM",
        0.12,
        GOAL,
        partial(_libraries, "decode"),
    ),
    Operator(
        "prefill",
        "prefill attention",
        "prefill_attention",
        MeasuredOperator.PREFILL,
        "vLLM",
        0.12,
        GOAL,
        partial(_libraries, "prefill"),
    ),
    Operator(
        "all-reduce",
        "all-reduces",
        "nccl",
        MeasuredOperator.ALL_REDUCE,
        COLLECTIVES,
        0.10,
        GOAL,
        _sums,
    ),
)


def recorded(gpu: MeasuredGpu, operator: Operator) -> Measured:
    """Return the largest error that a preset records, of cross-validation by shape."""
    errors = operator.errors(CALIBRATIONS.load(gpu.preset))
    if not errors:
        raise EngineError(f"the preset {gpu.preset} records no error of {operator.name}")
    told = tuple(Figure(name, error, group=HELD_BACK) for name, error in errors.items())
    return Measured(max(errors.values()), len(errors), told)


def predicted(gpu: MeasuredGpu, operator: Operator, reference: ReferenceData) -> Measured:
    """Predict a table, and return the mean absolute error of the worst reference series."""
    rows = [
        row
        for row in accuracy(_checked(reference, operator, gpu), by_version=True)
        if row.operator == operator.measured.value and row.size_class == ALL
    ]
    ours = [row for row in rows if row.reference]
    others = [row for row in rows if row not in ours]
    return Measured(
        max(row.mape for row in ours if row.mape is not None),
        sum(row.points for row in ours),
        (
            *_told("by series", ours),
            *recorded(gpu, operator).figures,
            *_told("not claimed", others),
        ),
    )


def _checked(reference: ReferenceData, operator: Operator, gpu: MeasuredGpu) -> list[Checked]:
    tables = read_measurements(reference.silicon / gpu.file(operator))
    return check(of_gpu(tables, [gpu.tables]))


def _told(group: str, rows: Sequence[Accuracy]) -> Iterator[Figure]:
    for row in rows:
        name = " ".join(filter(None, (row.framework, row.version, row.dtype)))
        if row.mape is not None:
            yield Figure(name, row.mape, group=group)
        if row.out_of_range:
            outside = f"shapes out of its range ({name})"
            yield Figure(outside, row.out_of_range, Unit.COUNT, group)


def moved_to_another_gpu(reference: ReferenceData) -> Measured:
    """Return the error of H100's coefficients on the H200's data sheet, for products."""
    tables = of_gpu(
        read_measurements(reference.silicon / "gemm.parquet"), [MEASURED_GPUS[2].tables]
    )
    h100 = CalibratedGpu.load("h100")
    versions = {one.version for one in h100.calibration.gemm}
    rows = [
        row
        for row in accuracy(check(tables, h100.on(GPUS.load("h200"))), by_version=True)
        if row.size_class == ALL and row.version in versions and row.mape is not None
    ]
    return Measured(
        max(row.mape for row in rows if row.mape is not None),
        sum(row.points for row in rows),
        tuple(_told("by series", rows)),
    )


def _attention(reference: ReferenceData) -> list[Measurements]:
    return read_measurements(reference.silicon / DECODE_TABLE)


def faster_memory(reference: ReferenceData) -> Measured:
    """Return the error of H100's coefficients on the H200's data sheet, for large attention.

    Only libraries that both GPUs measured in one version count. Other rules for the work on the
    cores are further figures, over the shapes that the cores limit.
    """
    found = transfers(_attention(reference), "h100", "h200")
    same = [one for one in found if one.seen == one.version]
    large = [one for one in same if one.rows is Rows.LARGE]
    figures = [
        Figure(f"{one.framework} {one.dtype}", one.mape[CoreRule.CONSTANT], group="by series")
        for one in large
    ]
    figures += [
        Figure(f"{one.dtype}, {rule}", one.mape[rule], group="where the cores limit, by rule")
        for one in same
        if one.rows is Rows.CORES
        for rule in (CoreRule.CONSTANT, CoreRule.ROOT, CoreRule.BANDWIDTH)
    ]
    return Measured(
        max(one.mape[CoreRule.CONSTANT] for one in large),
        sum(one.points for one in large),
        tuple(figures),
    )


def same_cores(reference: ReferenceData) -> Measured:
    """Return how H100's and H200's measured times differ where the cores limit attention."""
    pairs = matched(_attention(reference), "h100", "h200")
    slow = pairs.ratio[pairs.share < CORES_LIMIT]
    fast = pairs.ratio[pairs.share >= MEMORY_LIMITS]
    return Measured(
        float(np.abs(slow - 1).mean()),
        slow.size,
        (
            Figure("H100's time over H200's there, median", float(np.median(slow)), Unit.NUMBER),
            Figure(
                "the same at 0.9 of H100's bandwidth and more",
                float(np.median(fast)),
                Unit.NUMBER,
            ),
        ),
    )


def rate_of_a_core(reference: ReferenceData) -> Measured:
    """Return the error of what one core of an A100 takes in while the memory is almost idle."""
    rate = core_rate(_attention(reference), "a100", "VLLM")
    all_cores = float(np.median(rate.measured)) * GPUS.load("a100").cores
    bandwidth = GPUS.load("a100a").memory_bytes_per_s
    return Measured(
        float(np.abs(rate.predicted / rate.measured - 1).mean()),
        rate.measured.size,
        (Figure("rate of all cores over A100a's bandwidth", all_cores / bandwidth),),
    )


def recorded_power(attribute: str) -> Measured:
    """Return an error that the H200's preset records of its power."""
    return Measured(float(getattr(_power_spec(), attribute)), 1)


def _power_spec() -> PowerSpec:
    spec = CALIBRATIONS.load("h200").power
    if spec is None:
        raise EngineError("the preset h200 has no power")
    return spec


def power_of(operators: Sequence[MeasuredOperator], reference: ReferenceData) -> Measured:
    """Return the mean absolute error of power, over kernels that are long enough to be metered."""
    spec = _power_spec()
    errors: list[np.ndarray] = []
    for operator in OPERATORS:
        if operator.measured not in operators:
            continue
        tables = read_measurements(reference.silicon / MEASURED_GPUS[2].file(operator))
        for series in of_gpu(tables, [MEASURED_GPUS[2].tables]):
            long = np.isfinite(series.power_w) & (series.time_ns >= SHORTEST_NS)
            if long.any():
                errors.append(_power_errors(spec, series.take(long)))
    every = np.concatenate(errors)
    return Measured(float(every.mean()), every.size, (Figure("median", float(np.median(every))),))


def _power_errors(spec: PowerSpec, data: Measurements) -> np.ndarray:
    match data.shapes:
        case GemmShapes() as shapes:
            work = gemm_work(shapes, data.key.dtype)
        case AttentionShapes() as shapes:
            prefill = data.key.operator is MeasuredOperator.PREFILL
            work = attention_work(shapes, data.key.dtype, prefill=prefill)
        case _:
            raise EngineError("power is known of products and attention only")
    return np.abs(power(spec, work, data.time_ns).total_w / data.power_w - 1)


def _checks() -> Iterable[Check]:
    for operator in OPERATORS:
        for gpu in MEASURED_GPUS:
            yield Check(
                Claim(
                    id=f"gpu-{operator.id}-{gpu.preset}",
                    room=Room.GPU,
                    statement=f"Times of {operator.library}'s {operator.name} on the {gpu.name}, "
                    "as predicted, are those measured, on average over each series.",
                    data=f"data/silicon/{gpu.file(operator)} ({SOURCE})",
                    tolerance=Tolerance(operator.most, Unit.SHARE, operator.reason),
                    limits="The coefficients saw these shapes; the errors in cross-validation are "
                    "of shapes that they did not see. A mean: single shapes are off by more. "
                    "Nothing about other libraries, versions, or shapes out of range.",
                    needs=Needs.REFERENCE,
                    tests=("tests/calibration/test_reference.py", "tests/gpu/test_coefficients.py"),
                ),
                measure=partial(recorded, gpu, operator),
                with_data=partial(predicted, gpu, operator),
                files=(f"data/silicon/{gpu.file(operator)}",),
                libraries=LIBRARIES,
            )
    yield Check(
        Claim(
            id="gpu-transfer",
            room=Room.GPU,
            statement="Coefficients fitted to an H100, on the data sheet of an H200, predict the "
            "H200's products of the same library version.",
            data=f"data/silicon/gemm.parquet ({SOURCE})",
            tolerance=Tolerance(
                0.10, Unit.SHARE, "the goal for the GPU that coefficients were fitted to"
            ),
            limits="Two GPUs with the same cores. vLLM's attention, measured in another version, "
            "is off by more than 20 % (docs/model/gpu-model.md). On a B200, of other tiles and "
            "kernels, H200's coefficients are off by 19 % on products and 25 to 41 % on attention.",
            needs=Needs.REFERENCE,
            tests=("tests/calibration/test_reference.py",),
        ),
        with_data=moved_to_another_gpu,
        files=("data/silicon/gemm.parquet",),
        libraries=LIBRARIES,
    )
    yield from _scaling_checks()
    yield from _power_checks()
    yield Check(
        Claim(
            id="gpu-unseen-shapes",
            room=Room.GPU,
            statement="Coefficients fitted to half of the A100's products predict the other half, "
            "and those fitted to products of up to 512 rows the larger ones in 16 bits.",
            data=f"data/silicon/gemm.parquet ({SOURCE})",
            tolerance=Tolerance(
                0.10, Unit.SHARE, "the goal for shapes held back; 15 % beyond 512 rows"
            ),
            limits="One GPU and library; fits take too long for this command.",
            needs=Needs.TESTS,
            tests=("tests/calibration/test_reference.py", "tests/calibration/test_extrapolate.py"),
        )
    )


def _scaling_checks() -> Iterable[Check]:
    yield _about_cores(
        "gpu-core-scaling",
        faster_memory,
        Tolerance(
            0.12,
            Unit.SHARE,
            "the project's goal for attention on the GPU that coefficients were fitted to",
        ),
        statement="With a faster memory, attention's work on a core takes as long as before: "
        "H100's coefficients on the H200's data sheet predict the H200's large decode attention.",
        limits="One pair of GPUs with the same cores, and TensorRT-LLM, whose version is the same "
        "on both. Large: at least 100 MB of keys and values, and one request and key/value head "
        "per core. A new generation of cores is off by up to 96 % (docs/model/gpu-model.md).",
    )
    yield _about_cores(
        "gpu-core-memory",
        same_cores,
        Tolerance(
            0.05,
            Unit.SHARE,
            "a quarter of what cores would gain that grew with the root of the bandwidth",
        ),
        statement="Where large decode attention leaves most of the H100's bandwidth unused, the "
        "H200 takes as long, with the same cores and 1.43 times the bandwidth.",
        limits="Measured times of TensorRT-LLM below 0.4 of the bandwidth; no model takes part. "
        "Where the memory is the limit, the H200 is faster by nearly the bandwidth's factor.",
    )
    yield _about_cores(
        "gpu-core-rate",
        rate_of_a_core,
        Tolerance(
            0.05,
            Unit.SHARE,
            "less than the 6 % that 204 heads lose on 108 cores, the other explanation",
        ),
        statement="One core of an A100 takes in keys and values of a head at the rate that the "
        "coefficients say while the memory is almost idle, so that no memory limits it.",
        limits="vLLM's kernel of heads that share no keys, which divides no head among cores. "
        "Other kernels of the same GPU are faster. A100's cores were never measured with HBM3.",
    )


def _about_cores(
    name: str,
    measure: Callable[[ReferenceData], Measured],
    tolerance: Tolerance,
    *,
    statement: str,
    limits: str,
) -> Check:
    return Check(
        Claim(
            id=name,
            room=Room.GPU,
            statement=statement,
            data=f"data/silicon/{DECODE_TABLE} ({SOURCE})",
            tolerance=tolerance,
            limits=limits,
            needs=Needs.REFERENCE,
            tests=("tests/calibration/test_scaling.py",),
        ),
        with_data=measure,
        files=(f"data/silicon/{DECODE_TABLE}",),
        libraries=LIBRARIES,
    )


def _power_checks() -> Iterable[Check]:
    attention = (MeasuredOperator.DECODE, MeasuredOperator.PREFILL)
    names = ("gemm.parquet", "decode_attention.parquet", "prefill_attention.parquet")
    paths = tuple(f"data/silicon/{name}" for name in names)
    for name, operators, field, most, own, reason in (
        (
            "products",
            (MeasuredOperator.GEMM,),
            "gemm_error",
            0.10,
            paths[:1],
            "no goal was set; that for the times of products",
        ),
        (
            "attention",
            attention,
            "attention_error",
            0.25,
            paths[1:],
            (
                "no goal was set, this one with the error known; like kernels are metered at "
                "values a factor of two apart"
            ),
        ),
    ):
        yield Check(
            Claim(
                id=f"gpu-power-{name}",
                room=Room.GPU,
                statement=f"The power of {name} on the H200, as predicted, is that measured, on "
                "average over kernels of 100 us and more.",
                data=f"{', '.join(own)}, rows with a power ({SOURCE})",
                tolerance=Tolerance(most, Unit.SHARE, reason),
                limits="One GPU. Given the measured time; the split into idle, cores and memory is "
                "fitted, not measured.",
                needs=Needs.REFERENCE,
                tests=("tests/gpu/test_calibrated_power.py",),
            ),
            measure=partial(recorded_power, field),
            with_data=partial(power_of, operators),
            files=own,
            libraries=LIBRARIES,
        )


CHECKS: Final = tuple(_checks())
