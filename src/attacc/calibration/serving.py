"""Serving runs at constant concurrency: time to first token and per output token.

The columns of a table are those of aiconfigurator's collection of published runs (ai-dynamo,
Apache-2.0). A run can be predicted if its language model is dense and known, if its products are in
16 or 8 bits, if at most 8 GPUs share it, and if the memory holds all requests in flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from attacc.calibration.check import NAMES, NOTHING, Accuracy, Group, class_rows
from attacc.calibration.least_squares import minimise
from attacc.calibration.tables import Allowed, Reasons, Table, open_table
from attacc.errors import InputError
from attacc.gpu.calibrated.coefficients import CALIBRATIONS
from attacc.gpu.calibrated.costs import CalibratedCostModel
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.frameworks import (
    PRODUCTS_FROM,
    SERVING,
    FirstTokenCoefficients,
    FrontEndCoefficients,
    Latency,
    ServedSteps,
    ServingSeries,
    ServingSpec,
    TokenCoefficients,
    latency,
    serving_series,
)
from attacc.hardware.gpu import GPUS
from attacc.hardware.system import AttentionSite, SystemSpec, resolve_system
from attacc.models.architecture import MODELS
from attacc.models.precision import ElementType
from attacc.models.served import valid_tensor_parallel
from attacc.system.batches import Chunk
from attacc.system.pricer import Pricer
from attacc.system.step import Group as Part
from attacc.system.step import StepCost
from attacc.units import NS_PER_MS
from attacc.workload.requests import fixed_lengths

COLUMNS: Final = (
    "backend",
    "backend_version",
    "model_path",
    "system",
    "isl",
    "osl",
    "gemm_quant_mode",
    "batch_size",
    "tp_size",
    "ttft_ms",
    "tpot_ms",
)
"""The columns that identify a table of runs. All of them are used."""
OPTIONAL: Final = ("precision",)
"""Columns that are used if a table has them."""
HARMLESS: Final = ("id",)
"""Columns that change nothing. ``id`` is the name of a run, made of the other columns."""
QUANTITIES: Final = {
    "isl": Allowed(1, 2.0**31),
    "osl": Allowed(1, 2.0**31),
    "batch_size": Allowed(1, 2.0**24),
    "tp_size": Allowed(1, 2.0**20),
    "ttft_ms": Allowed(1e-3, 1e9, whole=False),
    "tpot_ms": Allowed(1e-3, 1e9, whole=False),
}
"""Ranges of the columns. A token takes at least a microsecond, and nobody waits for ten days."""
PRECISIONS: Final = {"": "", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
"""Type of the products: value of ``gemm_quant_mode`` -> value of ``precision``."""
MODEL_PATHS: Final = {
    "Qwen/Qwen3-32B": "qwen3-32b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
}
SYSTEMS: Final = {"a100_sxm": "a100", "h100_sxm": "h100", "h200_sxm": "h200"}
WEIGHTS: Final = {"": ElementType.BF16, "fp8": ElementType.FP8, "fp8_block": ElementType.FP8}
EIGHT_BIT_CACHE: Final = ("trtllm",)
"""Frameworks whose runs with 8-bit products also have an 8-bit cache."""
MEMORY_SHARE: Final = 0.9
"""Share of a GPU's memory that frameworks use by default."""
LARGEST_TENSOR_PARALLEL: Final = 8
FEWEST_RUNS: Final = 10
FOLDS: Final = 5
CLASSES: Final = (
    ("requests <= 16", 16.0),
    ("requests 17-64", 64.0),
    ("requests > 64", np.inf),
)
"""Name and upper end of every size class; the size is the number of requests in flight."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run.

    Attributes:
        framework: the framework, as in "vllm".
        version: version of the framework; empty where it was not recorded.
        gpu: the GPU, as the table calls it.
        model: preset of the language model; None where there is none.
        model_path: the language model, as the table calls it.
        quantised: type of the products, as the table calls it; empty for 16 bits.
        prompt: tokens of every prompt.
        output: tokens of every output.
        concurrency: requests in flight.
        tensor_parallel: number of GPUs that share the model.
        ttft_ms: time to first token, in milliseconds.
        tpot_ms: time per output token, in milliseconds.
        fault: the fault of a run that cannot be used at all; empty for other runs.
    """

    framework: str
    version: str
    gpu: str
    model: str | None
    model_path: str
    quantised: str
    prompt: int
    output: int
    concurrency: int
    tensor_parallel: int
    ttft_ms: float
    tpot_ms: float
    fault: str = ""

    @property
    def dtype(self) -> ElementType | None:
        """Element type of the products; None where the type is not known."""
        return WEIGHTS.get(self.quantised)


def is_serving_table(table: Table) -> bool:
    """Return whether a table holds serving runs, and not operators."""
    return set(COLUMNS) <= set(table.columns)


def read_runs(path: Path) -> list[Run]:
    """Read a table of serving runs.

    Raises:
        DocumentError: the file cannot be read, has no rows, lacks a column, or has a column that
            may change what was measured.
    """
    return serving_runs(open_table(path))


def serving_runs(table: Table) -> list[Run]:
    """Return all runs of a table, also those with impossible figures.

    If one figure of a run is impossible, all its figures are 0, and `Run.fault` says why.

    Raises:
        DocumentError: a column is missing, or a column may change what was measured.
    """
    table.require(COLUMNS)
    table.allow((*COLUMNS, *OPTIONAL, *HARMLESS))
    reasons = Reasons(table.rows)
    numbers = table.quantities(QUANTITIES, (), reasons)
    texts = {
        name: table.texts(name).to_list()
        for name in ("backend", "backend_version", "model_path", "system", "gemm_quant_mode")
    }
    quantised = texts["gemm_quant_mode"]
    if "precision" in table.columns:
        told = table.texts("precision").to_list()
        # A run with products of an unknown type cannot be predicted, whatever the type's name.
        differs = [PRECISIONS.get(a, b) != b for a, b in zip(quantised, told, strict=True)]
        reasons.add(np.array(differs), "gemm_quant_mode and precision contradict each other")

    def number(name: str, row: int) -> float:
        value = float(numbers[name][row])
        return 0.0 if reasons.of(row) else value

    return [
        Run(
            framework=texts["backend"][row],
            version=texts["backend_version"][row],
            gpu=texts["system"][row],
            model=MODEL_PATHS.get(texts["model_path"][row]),
            model_path=texts["model_path"][row],
            quantised=quantised[row],
            prompt=int(number("isl", row)),
            output=int(number("osl", row)),
            concurrency=int(number("batch_size", row)),
            tensor_parallel=int(number("tp_size", row)),
            ttft_ms=number("ttft_ms", row),
            tpot_ms=number("tpot_ms", row),
            fault=reasons.of(row),
        )
        for row in range(table.rows)
    ]


@dataclass(frozen=True, slots=True)
class OutsideRun:
    """A run that cannot be predicted.

    Attributes:
        run: the run.
        reason: the reason.
    """

    run: Run
    reason: str


@dataclass(frozen=True, slots=True)
class Served:
    """Runs with the times of their steps.

    Attributes:
        runs: runs that can be predicted.
        steps: the times of their steps.
        outside: runs that cannot be predicted.
    """

    runs: list[Run]
    steps: ServedSteps
    outside: list[OutsideRun]


class _OutsideError(Exception):
    """A run cannot be predicted."""


def known_kernels() -> dict[str, str]:
    """Return framework -> framework whose measured operators stand for it, by the presets."""
    return {name: SERVING.load(name).kernels for name in SERVING.names()}


def served(runs: Sequence[Run], kernels_of: Mapping[str, str] | None = None) -> Served:
    """Time the steps of runs.

    Args:
        runs: the runs.
        kernels_of: framework -> framework whose measured operators stand for its own; by default
            `known_kernels`.
    """
    libraries = known_kernels() if kernels_of is None else kernels_of
    inside: list[Run] = []
    outside: list[OutsideRun] = []
    rows: list[tuple[float, ...]] = []
    cost_models = {
        library: CalibratedCostModel(
            framework=library, serving=None, products_from=PRODUCTS_FROM.get(library)
        )
        for library in set(libraries.values())
    }
    for run in runs:
        try:
            costs = cost_models.get(libraries.get(run.framework, ""))
            rows.append(_steps(run, costs))
            inside.append(run)
        except _OutsideError as error:
            outside.append(OutsideRun(run, str(error)))
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 7).T
    return Served(inside, ServedSteps(*(np.ascontiguousarray(c) for c in columns)), outside)


def _steps(run: Run, costs: CalibratedCostModel | None) -> tuple[float, ...]:
    if run.fault:
        raise _OutsideError(run.fault)
    if run.model is None:
        raise _OutsideError(f"{run.model_path} is no dense model with a preset")
    if run.dtype is None:
        raise _OutsideError(f"no products in {run.quantised} were measured")
    if run.gpu not in SYSTEMS:
        raise _OutsideError(f"no calibration for {run.gpu!r}")
    if costs is None:
        raise _OutsideError(f"nothing was fitted for {run.framework!r}")
    model = MODELS.load(run.model)
    if run.tensor_parallel > LARGEST_TENSOR_PARALLEL:
        raise _OutsideError(f"more than {LARGEST_TENSOR_PARALLEL} GPUs")
    if run.tensor_parallel not in valid_tensor_parallel(model):
        raise _OutsideError(f"{run.model} is not divided over {run.tensor_parallel} GPUs")
    cache = _cache(run.framework, run.dtype)
    precision = model.precision.model_copy(update={"weights": run.dtype, "kv": cache})
    model = model.model_copy(update={"precision": precision})
    gpu = GPUS.load(SYSTEMS[run.gpu])
    system = SystemSpec(
        name=run.gpu,
        gpu=gpu.name,
        gpus=run.tensor_parallel,
        memory_per_gpu_bytes=MEMORY_SHARE * gpu.memory_bytes,
        link=gpu.link,
        attention=AttentionSite.GPU,
    )
    pricer = Pricer(model, resolve_system(system), gpu_model=costs)
    if not pricer.fits(fixed_lengths(run.prompt, run.output), run.concurrency):
        raise _OutsideError("the memory does not hold all requests at full length")
    try:
        decode = pricer.step(decode=[run.prompt + run.output // 2] * run.concurrency)
        prefill = pricer.step(prefill=[Chunk(run.prompt)])
    except InputError as error:
        raise _OutsideError(error.message) from None
    reduce_ns = decode.group(Part.COMMUNICATION).time_ns
    return (
        run.concurrency,
        run.output,
        decode.time_ns - reduce_ns,
        _launch_ns(decode),
        reduce_ns,
        model.layers,
        prefill.time_ns,
    )


def _launch_ns(step: StepCost) -> float:
    """Return the part of a step's time that starts kernels, in nanoseconds."""
    return sum(op.runs * op.launch_ns for op in step.operators)


def _cache(framework: str, dtype: ElementType) -> ElementType:
    return dtype if framework in EIGHT_BIT_CACHE else ElementType.BF16


TOKEN_STARTS: Final = (0.5, 2e3, 3e5, 1e3, 0.6, 1.0)
FIRST_STARTS: Final = (4e7, 1.5, 0.01, 1.0, 0.01)
FRONT_END_STARTS: Final = (3e6, 4e4, 0.4)
PULL: Final = 0.1
WIDTH: Final = 3000.0
"""Largest factor between a coefficient and its start value."""
FRONT_END_WIDTH: Final = 100.0


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The coefficients of one framework, version and element type: its times besides operators."""

    token: TokenCoefficients
    first: FirstTokenCoefficients
    front_end: FrontEndCoefficients

    def latency(self, steps: ServedSteps) -> Latency:
        """Return the latencies of runs."""
        return latency(steps, self.token, self.first, self.front_end)


def fit_coefficients(steps: ServedSteps, measured: Latency) -> Coefficients:
    """Fit coefficients to runs, to the times to first token and per output token together."""
    origin = np.array((*TOKEN_STARTS, *FIRST_STARTS, *FRONT_END_STARTS))
    low, high = origin / WIDTH, origin * WIDTH
    high[0] = 1.0  # `graph_share` is a share of the launches
    place = len(TOKEN_STARTS) + len(FIRST_STARTS)
    low[place:], high[place:] = origin[place:] / FRONT_END_WIDTH, origin[place:] * FRONT_END_WIDTH
    low[-1], high[-1] = 0.05, 0.99

    def residuals(values: Floats) -> Floats:
        got = _coefficients(values).latency(steps)
        return np.concatenate(
            [
                np.log(got.per_token_ns / measured.per_token_ns),
                np.log(got.first_ns / measured.first_ns),
            ]
        )

    found = minimise(residuals, origin, low=low, high=high, pull=PULL, origin=origin)
    return _coefficients(found.values)


def _coefficients(values: Floats) -> Coefficients:
    tokens, firsts = len(TOKEN_STARTS), len(FIRST_STARTS)
    numbers = [float(value) for value in values]
    graph, layer, step, request, reduce, prefill = numbers[:tokens]
    start, own, bunched, queued, slot = numbers[tokens : tokens + firsts]
    front_request, front_token, waiting = numbers[tokens + firsts :]
    return Coefficients(
        TokenCoefficients(
            graph_share=graph,
            layer_ns=layer,
            step_ns=step,
            request_ns=request,
            reduce_share=reduce,
            prefill_share=prefill,
        ),
        FirstTokenCoefficients(
            start_ns=start,
            own_prefills=own,
            bunched_share=bunched,
            queued_share=queued,
            slot_share=slot,
        ),
        FrontEndCoefficients(request_ns=front_request, token_ns=front_token, waiting_share=waiting),
    )


@dataclass(frozen=True, slots=True)
class FittedServing:
    """A framework's coefficients, and the errors on runs that were held back.

    Attributes:
        spec: the coefficients.
        rows: errors of cross-validation, and runs that were not fitted.
    """

    spec: ServingSpec
    rows: list[Accuracy]


def fit_serving(
    name: str, framework: str, kernels: str, source: Served, where: str
) -> FittedServing:
    """Fit a framework to its runs, a series for each version and element type.

    Args:
        name: name of the document.
        framework: the framework, as the runs call it.
        kernels: framework whose measured operators stand for those of ``framework``.
        source: timed runs of any frameworks.
        where: source of the runs, for the document.

    Raises:
        InputError: no version has enough runs.
    """
    mine = np.array([run.framework == framework for run in source.runs], dtype=np.bool_)
    runs = [run for run in source.runs if run.framework == framework]
    left = [out for out in source.outside if out.run.framework == framework]
    steps = source.steps.take(mine)
    predicted = _nowhere(len(runs))
    series: list[ServingSeries] = []
    for version, dtype in sorted({(run.version, str(run.dtype)) for run in runs}):
        chosen = np.flatnonzero(
            [run.version == version and str(run.dtype) == dtype for run in runs]
        )
        if chosen.size >= FEWEST_RUNS:
            some = [runs[i] for i in chosen]
            entry, held_back = _series(some, steps.take(chosen), ElementType(dtype))
            series.append(entry)
            predicted.first_ns[chosen] = held_back.first_ns
            predicted.per_token_ns[chosen] = held_back.per_token_ns
    if not series:
        raise InputError(
            f"too few runs of {framework}", hint=f"{FEWEST_RUNS} of one version are needed"
        )
    # The last series of an element type stands for versions that are not listed.
    series.sort(key=lambda entry: entry.points)
    spec = ServingSpec(
        name=name,
        description=f"What {framework} adds to the operators of a step",
        framework=framework,
        kernels=kernels,
        series=tuple(series),
        sources={"default": where},
    )
    reason = f"fewer than {FEWEST_RUNS} runs of this version and element type"
    outside = ["" if known else reason for known in np.isfinite(predicted.first_ns)]
    return FittedServing(
        spec,
        _rows(runs, predicted, outside, left, ["the other folds"] * len(runs), by_version=True),
    )


def _nowhere(count: int) -> Latency:
    return Latency(np.full(count, np.nan), np.full(count, np.nan))


def _measured(runs: Sequence[Run]) -> Latency:
    return Latency(
        np.array([run.ttft_ms for run in runs]) * NS_PER_MS,
        np.array([run.tpot_ms for run in runs]) * NS_PER_MS,
    )


def _series(
    runs: Sequence[Run], steps: ServedSteps, dtype: ElementType
) -> tuple[ServingSeries, Latency]:
    measured = _measured(runs)
    order = np.random.default_rng(0).permutation(len(runs))
    held_back = _nowhere(len(runs))
    for fold in range(FOLDS):
        inside, outside = order[fold::FOLDS], np.delete(order, np.s_[fold::FOLDS])
        seen = Latency(measured.first_ns[outside], measured.per_token_ns[outside])
        hidden = fit_coefficients(steps.take(outside), seen).latency(steps.take(inside))
        held_back.first_ns[inside] = hidden.first_ns
        held_back.per_token_ns[inside] = hidden.per_token_ns
    found = fit_coefficients(steps, measured)
    series = ServingSeries(
        version=runs[0].version,
        dtype=dtype,
        cache=_cache(runs[0].framework, dtype),
        points=len(runs),
        tpot_error=float(np.abs(held_back.per_token_ns / measured.per_token_ns - 1).mean()),
        ttft_error=float(np.abs(held_back.first_ns / measured.first_ns - 1).mean()),
        token=found.token,
        first=found.first,
        front_end=found.front_end,
    )
    return series, held_back


def check_serving(
    runs: Sequence[Run], own: ServingSpec | None = None, *, by_version: bool = False
) -> list[Accuracy]:
    """Predict serving runs, and return the errors by framework, GPU, element type and concurrency.

    Args:
        runs: the runs.
        own: coefficients that replace the preset of their framework.
        by_version: whether each version of a framework has an entry of its own.
    """
    specs = {name: SERVING.load(name) for name in SERVING.names()}
    if own is not None:
        specs[own.framework] = own
    timed = served(runs, {name: spec.kernels for name, spec in specs.items()})
    predicted, outside = _nowhere(len(timed.runs)), [""] * len(timed.runs)
    predicted_by = [NOTHING] * len(timed.runs)
    for i, run in enumerate(timed.runs):
        assert run.dtype is not None  # noqa: S101 - `served` leaves such runs outside
        series = serving_series(specs[run.framework], run.version, run.dtype)
        if series is None:
            outside[i] = f"nothing was fitted for {run.framework} in {run.dtype}"
            continue
        got = latency(timed.steps.take(np.array([i])), series.token, series.first, series.front_end)
        predicted.first_ns[i], predicted.per_token_ns[i] = got.first_ns[0], got.per_token_ns[0]
        predicted_by[i] = f"{run.framework} {series.version} {series.dtype}"
    return _rows(timed.runs, predicted, outside, timed.outside, predicted_by, by_version=by_version)


def _rows(
    runs: Sequence[Run],
    predicted: Latency,
    outside: Sequence[str],
    left: Sequence[OutsideRun],
    predicted_by: Sequence[str],
    *,
    by_version: bool,
) -> list[Accuracy]:
    """Return errors by group: first groups with predictions, then groups without any."""
    everything = [*runs, *(out.run for out in left)]
    reasons = [*outside, *(out.reason for out in left)]
    told = [*predicted_by, *(NOTHING for _ in left)]
    measured, none = _measured(runs), np.full(len(left), np.nan)
    errors = {
        "tpot": np.concatenate([predicted.per_token_ns / measured.per_token_ns - 1, none]),
        "ttft": np.concatenate([predicted.first_ns / measured.first_ns - 1, none]),
    }
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, run in enumerate(everything):
        label = run.quantised or NAMES[ElementType.BF16]
        version = (run.version,) if by_version else ()
        groups.setdefault((run.framework, run.gpu, label, *version), []).append(i)
    rows: list[Accuracy] = []
    for (framework, gpu, label, *_), members in sorted(groups.items()):
        known = [told[i] for i in members if told[i] != NOTHING]
        calibration = SYSTEMS.get(gpu, "")
        group = Group(
            operator="",
            gpu=gpu,
            dtype=label,
            framework=framework,
            version=", ".join(sorted({everything[i].version or "unknown" for i in members})),
            reference=bool(calibration)
            and framework.upper() == CALIBRATIONS.load(calibration).reference,
            calibration=calibration,
            predicted_by=", ".join(dict.fromkeys(known)) or NOTHING,
            scaled=False,
        )
        for operator, found in errors.items():
            rows += class_rows(
                replace(group, operator=operator),
                CLASSES,
                sizes=np.array([float(everything[i].concurrency) for i in members]),
                errors=found[members],
                outside=[reasons[i] for i in members],
            )
    return rows
