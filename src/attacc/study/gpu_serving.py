"""Serving runs at constant concurrency: time to first token and per output token.

The table's columns are those of aiconfigurator's collection of published runs (ai-dynamo,
Apache-2.0). A run is inside the model's range if the model is dense and known, its products are in
16 or 8 bits, at most 8 GPUs share it, and the memory holds all requests in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacc.errors import DocumentError, InputError
from attacc.models.architecture import MODELS, ModelSpec
from attacc.models.parameters import kv_bytes_per_token, weight_bytes
from attacc.models.precision import ElementType
from attacc.models.sharding import valid_tensor_parallel
from attacc.study.gpu_check import ALL, Accuracy
from attacc.study.least_squares import minimise
from attacc.study.measured import read_frame
from attacc.system.calibrated import CalibratedGpu, Floats
from attacc.system.calibrated_costs import Kernels
from attacc.system.calibrated_step import decode_time, prefill_time
from attacc.system.serving import (
    SERVING,
    FirstTokenCoefficients,
    ServedSteps,
    ServingSeries,
    ServingSpec,
    TokenCoefficients,
    first_token_ns,
    token_ns,
)

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
MODEL_PATHS: Final = {
    "Qwen/Qwen3-32B": "qwen3-32b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
}
SYSTEMS: Final = {"a100_sxm": "a100", "h100_sxm": "h100", "h200_sxm": "h200"}
PRODUCTS_FROM: Final = {("TRTLLM", "h200"): "h100"}
"""TensorRT-LLM's products were not measured on an H200: those of an H100, on its data sheet."""
WEIGHTS: Final = {None: ElementType.BF16, "fp8": ElementType.FP8, "fp8_block": ElementType.FP8}
EIGHT_BIT_CACHE: Final = ("trtllm",)
"""Frameworks whose 8-bit runs keep the cache in 8 bits too."""
MEMORY_SHARE: Final = 0.9
"""Of the memory that frameworks use, by default."""
LARGEST_TENSOR_PARALLEL: Final = 8
FEWEST_RUNS: Final = 10
FOLDS: Final = 5
NS_PER_MS: Final = 1e6
CLASSES: Final = (
    (ALL, 0.0, np.inf),
    ("requests <= 16", 0.0, 16.0),
    ("requests 17-64", 16.0, 64.0),
    ("requests > 64", 64.0, np.inf),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run.

    Attributes:
        framework: as in "vllm".
        version: of the framework; empty where not recorded.
        gpu: as the table calls it.
        model: preset of the model; None where there is none.
        dtype: element type of the products; None where the model has none for it.
        prompt: tokens of every prompt.
        output: tokens of every output.
        concurrency: requests in flight.
        tensor_parallel: GPUs.
        ttft_ms: time to first token.
        tpot_ms: time per output token.
    """

    framework: str
    version: str
    gpu: str
    model: str | None
    dtype: ElementType | None
    prompt: int
    output: int
    concurrency: int
    tensor_parallel: int
    ttft_ms: float
    tpot_ms: float


def is_serving_table(path: Path) -> bool:
    """Return whether a table holds serving runs rather than operators."""
    return set(COLUMNS) <= set(read_frame(path).columns)


def read_runs(path: Path) -> list[Run]:
    """Read a table of serving runs.

    Raises:
        DocumentError: a column is missing, or a time is not positive.
    """
    frame = read_frame(path)
    missing = sorted(set(COLUMNS) - set(frame.columns))
    if missing:
        raise DocumentError(f"has no column {missing[0]!r}", where=str(path))
    runs = [
        Run(
            framework=row["backend"],
            version=row["backend_version"] or "",
            gpu=row["system"],
            model=MODEL_PATHS.get(row["model_path"]),
            dtype=WEIGHTS.get(row["gemm_quant_mode"]),
            prompt=int(row["isl"]),
            output=int(row["osl"]),
            concurrency=int(row["batch_size"]),
            tensor_parallel=int(row["tp_size"]),
            ttft_ms=float(row["ttft_ms"]),
            tpot_ms=float(row["tpot_ms"]),
        )
        for row in frame.iter_rows(named=True)
    ]
    for run in runs:
        if not (run.ttft_ms > 0 and run.tpot_ms > 0):
            raise DocumentError("holds times that are not positive", where=str(path))
    return runs


@dataclass(frozen=True, slots=True)
class Served:
    """Runs with the times of their steps.

    Attributes:
        runs: those inside the model's range.
        steps: their steps.
        outside: runs that are not.
    """

    runs: list[Run]
    steps: ServedSteps
    outside: list[Run]


def served(runs: Sequence[Run]) -> Served:
    """Time the steps of runs."""
    inside: list[Run] = []
    outside: list[Run] = []
    rows: list[tuple[float, ...]] = []
    kernels: dict[tuple[str, str], Kernels] = {}
    for run in runs:
        row = _steps(run, kernels)
        if row is None:
            outside.append(run)
        else:
            inside.append(run)
            rows.append(row)
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 7).T
    return Served(inside, ServedSteps(*(np.ascontiguousarray(c) for c in columns)), outside)


def _steps(run: Run, known: dict[tuple[str, str], Kernels]) -> tuple[float, ...] | None:
    if run.model is None or run.dtype is None or run.gpu not in SYSTEMS:
        return None
    if run.framework not in SERVING.names():
        return None
    model = MODELS.load(run.model)
    if run.tensor_parallel > LARGEST_TENSOR_PARALLEL:
        return None
    if run.tensor_parallel not in valid_tensor_parallel(model):
        return None
    cache = _cache(run.framework, run.dtype)
    precision = model.precision.model_copy(update={"weights": run.dtype, "kv": cache})
    model = model.model_copy(update={"precision": precision})
    key = (run.framework, run.gpu)
    if key not in known:
        known[key] = _kernels(run.framework, SYSTEMS[run.gpu])
    kernels = known[key]
    if _capacity(model, kernels, run) < run.concurrency:
        return None
    decode = decode_time(
        model,
        kernels,
        batch=run.concurrency,
        kv_length=run.prompt + run.output // 2,
        tensor_parallel=run.tensor_parallel,
    )
    prefill = prefill_time(
        model,
        kernels,
        prompts=1,
        prompt_length=run.prompt,
        tensor_parallel=run.tensor_parallel,
    )
    operators = decode.products_ns + decode.attention_ns + decode.pointwise_ns
    prompt = prefill.products_ns + prefill.attention_ns + prefill.pointwise_ns + prefill.reduce_ns
    return (
        run.concurrency,
        run.output,
        operators,
        decode.launch_ns,
        decode.reduce_ns,
        decode.layers,
        prompt,
    )


def _cache(framework: str, dtype: ElementType) -> ElementType:
    return dtype if framework in EIGHT_BIT_CACHE else ElementType.BF16


def _kernels(framework: str, gpu: str) -> Kernels:
    library = SERVING.load(framework).kernels
    calibrated = CalibratedGpu.load(gpu)
    other = PRODUCTS_FROM.get((library, gpu))
    return Kernels(
        calibrated,
        framework=library,
        products=None if other is None else CalibratedGpu.load(other).on(calibrated.gpu),
    )


def _capacity(model: ModelSpec, kernels: Kernels, run: Run) -> float:
    """Return how many requests at full length the memory holds."""
    memory = MEMORY_SHARE * kernels.gpu.gpu.memory_bytes
    room = memory - weight_bytes(model, run.tensor_parallel)
    return room / (kv_bytes_per_token(model, run.tensor_parallel) * (run.prompt + run.output))


TOKEN_STARTS: Final = (0.5, 2e3, 3e5, 1e3, 0.6, 1.0)
FIRST_STARTS: Final = (4e7, 1.5, 0.2, 100.0, 0.01)
PULL: Final = 0.1
WIDTH: Final = 3000.0
"""How far coefficients may lie from where the search begins, as a factor."""


def fit_tokens(steps: ServedSteps, measured_ns: Floats) -> TokenCoefficients:
    """Fit the coefficients of the time per output token."""
    origin = np.array(TOKEN_STARTS)
    high = origin * WIDTH
    high[0] = 1.0  # a share of the launches
    found = minimise(
        lambda values: np.log(token_ns(steps, _token(values)) / measured_ns),
        origin,
        low=origin / WIDTH,
        high=high,
        pull=PULL,
        origin=origin,
    )
    return _token(found.values)


def fit_first(
    steps: ServedSteps, measured_ns: Floats, time_per_token_ns: Floats
) -> FirstTokenCoefficients:
    """Fit the coefficients of the time to the first token."""
    origin = np.array(FIRST_STARTS)
    found = minimise(
        lambda values: np.log(
            first_token_ns(steps, _first(values), time_per_token_ns) / measured_ns
        ),
        origin,
        low=origin / WIDTH,
        high=origin * WIDTH,
        pull=PULL,
        origin=origin,
    )
    return _first(found.values)


def _token(values: Floats) -> TokenCoefficients:
    graph, layer, step, request, reduce, prefill = (float(value) for value in values)
    return TokenCoefficients(
        graph_share=graph,
        layer_ns=layer,
        step_ns=step,
        request_ns=request,
        reduce_share=reduce,
        prefill_share=prefill,
    )


def _first(values: Floats) -> FirstTokenCoefficients:
    start, own, queued, limit, slot = (float(value) for value in values)
    return FirstTokenCoefficients(
        start_ns=start,
        own_prefills=own,
        queued_share=queued,
        queue_limit=limit,
        slot_share=slot,
    )


def fit_serving(name: str, kernels: str, source: Served, where: str) -> ServingSpec:
    """Fit a framework to its runs, a series for each version and element type.

    Args:
        name: of the framework.
        kernels: framework whose measured operators stand for its own.
        source: timed runs of any frameworks.
        where: where the runs come from.

    Raises:
        InputError: no version has enough runs.
    """
    mine = np.array([run.framework == name for run in source.runs])
    kinds = sorted(
        {(run.version, str(run.dtype)) for run, take in zip(source.runs, mine, strict=True) if take}
    )
    series: list[ServingSeries] = []
    for version, dtype in kinds:
        chosen = np.array(
            [
                run.framework == name and run.version == version and str(run.dtype) == dtype
                for run in source.runs
            ]
        )
        if chosen.sum() >= FEWEST_RUNS:
            series.append(_serving_series(name, version, ElementType(dtype), source, chosen))
    if not series:
        raise InputError(f"too few runs of {name}", hint=f"{FEWEST_RUNS} of one version are needed")
    series.sort(key=lambda entry: entry.points)
    return ServingSpec(
        name=name,
        description=f"What {name} adds to the operators of a step",
        kernels=kernels,
        series=tuple(series),
        sources={"default": where},
    )


def _serving_series(
    name: str, version: str, dtype: ElementType, source: Served, chosen: NDArray[np.bool_]
) -> ServingSeries:
    steps = source.steps.take(chosen)
    runs = [run for run, take in zip(source.runs, chosen, strict=True) if take]
    tpot = np.array([run.tpot_ms for run in runs]) * NS_PER_MS
    ttft = np.array([run.ttft_ms for run in runs]) * NS_PER_MS
    order = np.random.default_rng(0).permutation(len(runs))
    token_error, first_error = np.empty(len(runs)), np.empty(len(runs))
    for fold in range(FOLDS):
        inside, outside = order[fold::FOLDS], np.delete(order, np.s_[fold::FOLDS])
        seen, hidden = steps.take(outside), steps.take(inside)
        token = fit_tokens(seen, tpot[outside])
        first = fit_first(seen, ttft[outside], token_ns(seen, token))
        per_token = token_ns(hidden, token)
        token_error[inside] = per_token / tpot[inside] - 1
        first_error[inside] = first_token_ns(hidden, first, per_token) / ttft[inside] - 1
    token = fit_tokens(steps, tpot)
    return ServingSeries(
        version=version,
        dtype=dtype,
        cache=_cache(name, dtype),
        points=len(runs),
        tpot_error=float(np.abs(token_error).mean()),
        ttft_error=float(np.abs(first_error).mean()),
        token=token,
        first=fit_first(steps, ttft, token_ns(steps, token)),
    )


def serving_series(spec: ServingSpec, version: str, dtype: ElementType) -> ServingSeries | None:
    """Return the series of a version; else the largest one of its element type; else None."""
    same = [series for series in spec.series if series.dtype is dtype]
    exact = [series for series in same if series.version == version]
    return (exact or same or [None])[-1]


def check_serving(runs: Sequence[Run]) -> list[Accuracy]:
    """Predict serving runs, and return the errors by framework, version and concurrency."""
    timed = served(runs)
    kinds = sorted({(run.framework, run.version, run.gpu, str(run.dtype)) for run in runs})
    rows: list[Accuracy] = []
    for framework, version, gpu, dtype in kinds:
        mine = np.array([_kind(run) == (framework, version, gpu, dtype) for run in timed.runs])
        outside = [run for run in timed.outside if _kind(run) == (framework, version, gpu, dtype)]
        chosen = [run for run, take in zip(timed.runs, mine, strict=True) if take]
        series = None
        if chosen:
            series = serving_series(SERVING.load(framework), version, ElementType(dtype))
        if series is None:
            outside, chosen = outside + chosen, []
        for operator in ("tpot", "ttft"):
            predicted = measured = np.empty(0)
            if series is not None:
                steps = timed.steps.take(mine)
                predicted = token_ns(steps, series.token)
                if operator == "ttft":
                    predicted = first_token_ns(steps, series.first, predicted)
                values = [run.tpot_ms if operator == "tpot" else run.ttft_ms for run in chosen]
                measured = np.array(values) * NS_PER_MS
            rows += _rows(
                operator,
                (framework, version, gpu, dtype),
                np.array([run.concurrency for run in chosen], dtype=np.float64),
                predicted / measured - 1,
                np.array([run.concurrency for run in outside], dtype=np.float64),
                "" if series is None else f"{framework} {series.version} {series.dtype}",
            )
    return rows


def _kind(run: Run) -> tuple[str, str, str, str]:
    return run.framework, run.version, run.gpu, str(run.dtype)


def _rows(
    operator: str,
    kind: tuple[str, str, str, str],
    concurrency: Floats,
    errors: Floats,
    outside: Floats,
    predicted_by: str,
) -> list[Accuracy]:
    framework, version, gpu, dtype = kind
    rows: list[Accuracy] = []
    for name, low, high in CLASSES:
        some = errors[(concurrency > low) & (concurrency <= high)]
        size, known = np.abs(some), some.size > 0
        rows.append(
            Accuracy(
                operator=operator,
                gpu=gpu,
                dtype=dtype,
                framework=framework,
                version=version,
                size_class=name,
                calibration=SYSTEMS.get(gpu, ""),
                predicted_by=predicted_by,
                scaled=False,
                points=int(some.size),
                out_of_range=int(((outside > low) & (outside <= high)).sum()),
                mape=float(size.mean()) if known else None,
                median_ape=float(np.median(size)) if known else None,
                p90_ape=float(np.quantile(size, 0.9)) if known else None,
                bias=float(some.mean()) if known else None,
            )
        )
    return rows
