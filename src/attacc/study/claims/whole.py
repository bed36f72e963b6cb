"""Claims about whole requests: offline throughput, layouts, and what is in doubt."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

import numpy as np

from attacc.errors import EngineError
from attacc.gpu.models import GpuModel
from attacc.hardware.gpu import GPUS
from attacc.hardware.system import (
    AttentionSite,
    ResolvedSystem,
    SystemSpec,
    changed_system,
    resolve_system,
)
from attacc.models.huggingface import load_model
from attacc.models.served import ServedModel
from attacc.serving.policies import ServingOptions
from attacc.serving.search import layouts
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
from attacc.study.whole import Asked, best_of
from attacc.system.doubts import activations
from attacc.workload.requests import Workload, fixed_lengths
from attacc.workload.speculation import NO_DRAFTS

TABLE: Final = "throughput_offline.csv"
RESERVE: Final = 0.1
"""Memory that TensorRT-LLM's runs left free: they used 0.90 to 0.95 of it."""
PRESETS: Final = {
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.1-405B-Instruct": "llama-3.1-405b",
}
"""Dense models of the table. Llama 3.3 70B has the shape of Llama 3.1 70B."""
CONFIGS: Final = {
    ("Qwen/Qwen3-235B-A22B", "fp8"): "Qwen--Qwen3-235B-A22B-FP8_config.json",
    ("Qwen/Qwen3-235B-A22B", "nvfp4"): "nvidia--Qwen3-235B-A22B-NVFP4_config.json",
    ("Qwen/Qwen3-30B-A3B", "nvfp4"): "Qwen--Qwen3-30B-A3B_config.json",
    ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", "fp8"): (
        "meta-llama--Llama-4-Maverick-17B-128E-Instruct_config.json"
    ),
}
"""Models with experts: name and type of the weights -> configuration among the reference data."""
RECORDED: Final = {"dense": (0.0630, 51), "experts": (0.163, 22)}
"""Mean errors and rows, as measured when this was written."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run, with what is predicted for it.

    Attributes:
        name: GPU, model, lengths.
        dense: whether the model has no experts.
        gpu: the GPU.
        error: predicted over measured output tokens per second, less 1.
    """

    name: str
    dense: bool
    gpu: str
    error: float


def _model(name: str, precision: str, configs: Path) -> ServedModel | None:
    if name in PRESETS:
        return load_model(PRESETS[name], weights=precision, kv="fp8")
    config = CONFIGS.get((name, precision))
    if config is None:
        return None
    stated = precision.upper() in config
    return load_model(configs / config, weights=None if stated else precision, kv="fp8")


def _gpus(gpu: str, count: int) -> ResolvedSystem:
    sheet = GPUS.load(gpu)
    return resolve_system(
        SystemSpec(
            name=f"{count}x{gpu}",
            gpu=gpu,
            gpus=count,
            memory_reserve=RESERVE,
            link=sheet.link if count > 1 else None,
            attention=AttentionSite.GPU,
        )
    )


def _asked(model: ServedModel, workload: Workload, layout: str | None) -> Asked:
    return Asked(
        model=model,
        workload=workload,
        options=ServingOptions(),
        gpu_model=GpuModel.CALIBRATED,
        engine=None,
        layout=layout,
        batch=None,
        speculation=NO_DRAFTS,
        shared_prefix=0,
    )


@cache
def predicted(table: Path, configs: Path) -> tuple[tuple[Run, ...], int]:
    """Predict the runs of the table.

    Returns:
        The runs, and how many have a model that is not among the reference data.
    """
    found: list[Run] = []
    left = 0
    with table.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            model = _model(row["model"], row["precision"], configs)
            if model is None:
                left += 1
                continue
            gpu, count = row["gpu"].split("-")[0], int(row["tensor_parallel"])
            output = int(row["output_tokens"])
            workload = fixed_lengths(int(row["prompt_tokens"]), output)
            asked = _asked(model, workload, f"tp={count},replicas=1")
            way = best_of(asked, _gpus(gpu, count), [{}]).served
            if way is None:
                raise EngineError(f"{row['model']} does not fit on {count} {gpu}")
            measured = float(row["output_tokens_per_s"])
            name = f"{row['model'].split('/')[1]} on {count} {gpu}, {workload.name}"
            error = way.requests_per_s * output / measured - 1
            found.append(Run(name, row["model"] in PRESETS, gpu, error))
    return tuple(found), left


def _mean(runs: Sequence[Run]) -> float:
    return float(np.mean([abs(run.error) for run in runs]))


def throughput(kind: str, reference: ReferenceData) -> Measured:
    """Return the mean error of one kind of models."""
    runs, left = predicted(reference.silicon / TABLE, reference.silicon.parent / "model_configs")
    mine = [run for run in runs if run.dense == (kind == "dense")]
    counted = [run for run in mine if kind == "dense" or run.gpu != "b200"]
    worst = max(counted, key=lambda run: abs(run.error))
    figures = [
        Figure("mean error with its sign", float(np.mean([run.error for run in counted]))),
        Figure("error", abs(worst.error), group=f"worst, {worst.name}"),
    ]
    others = [run for run in mine if run not in counted]
    if others:
        figures.append(Figure("error", _mean(others), group="experts in 4 bits on B200"))
        figures.append(Figure("rows without a model here", left, Unit.COUNT))
    return Measured(_mean(counted), len(counted), tuple(figures))


def recorded(kind: str) -> Measured:
    """Return the mean error that was measured when the claim was written."""
    return Measured(*RECORDED[kind])


def searched() -> Measured:
    """Return by how much any fixed layout beats the one that the search finds."""
    model, workload = load_model("mixtral-8x7b"), fixed_lengths(2048, 512)
    system = changed_system("8xh200")
    found = best_of(_asked(model, workload, None), system, [{}])
    if found.served is None:
        raise EngineError(found.reason or "nothing fits")
    best = found.served.requests_per_s
    rates: list[float] = []
    for layout in layouts(system, model):
        given = f"tp={layout.tp},replicas={layout.replicas},ep={layout.ep},dp={layout.dp}"
        way = best_of(_asked(model, workload, given), system, [{}])
        if way.served is not None:
            rates.append(way.served.requests_per_s)
    return Measured(max(rates) / best - 1, len(rates))


def windows() -> Measured:
    """Compare the cost of four-activate windows with the reference's arithmetic."""
    found = activations(changed_system("8xh100-attacc-hbm3"), 16)
    row = 19 + 6 * 32 + 8 + 19
    by_hand = (row + 3 * 39) / row, (row + 7 * 39) / row
    own = found.per_rank, found.per_pseudo_channel
    errors = [abs(mine / hand - 1) for mine, hand in zip(own, by_hand, strict=True)]
    return Measured(
        max(errors),
        len(errors),
        (
            Figure("rate with a window of each rank", 1 / found.per_rank),
            Figure("rate with a window of each pseudo-channel", 1 / found.per_pseudo_channel),
        ),
    )


_OFFLINE: Final = f"data/silicon/{TABLE}: TensorRT-LLM 1.0, all requests queued at once (NVIDIA)"


def _offline(kind: str, most: float, models: str, limits: str) -> Check:
    return Check(
        Claim(
            id=f"whole-{kind}",
            room=Room.SERVING,
            statement=f"Output tokens per second of whole requests, {models}, are those measured, "
            "on average over all rows.",
            data=_OFFLINE,
            tolerance=Tolerance(
                most,
                Unit.SHARE,
                "the project's goal; nothing was fitted to these runs, and the batch of the engine "
                "is not known",
            ),
            limits=limits,
            needs=Needs.REFERENCE,
            tests=("tests/study/test_validation.py",),
        ),
        measure=partial(recorded, kind),
        with_data=partial(throughput, kind),
        files=(f"data/silicon/{TABLE}",),
    )


CHECKS: Final = (
    _offline(
        "dense",
        0.12,
        "of dense models in the table's layout",
        "A steady state is priced, not the first and the last requests of a queue.",
    ),
    _offline(
        "experts",
        0.20,
        "of models with experts on H100 and H200 in the table's number of GPUs",
        "Experts in 4 bits on B200 are left out: the kernels that were measured are vLLM's of "
        "2026, faster than TensorRT-LLM 1.0's of 2025. Expert and attention data parallelism are "
        "searched, since the table does not state them.",
    ),
    Check(
        Claim(
            id="layout-search",
            room=Room.SYSTEM,
            statement="No layout that is fixed by hand serves more requests than the one that the "
            "search finds.",
            data="every layout of Mixtral 8x7B over eight H200, tried one by one",
            tolerance=Tolerance(1e-9, Unit.SHARE, "the same prices: rounding, and no more"),
            limits="Parts for experts and groups for mixers are those that the search considers.",
            tests=("tests/serving/test_search.py",),
        ),
        measure=searched,
    ),
    Check(
        Claim(
            id="activation-windows",
            room=Room.SYSTEM,
            statement="If rows opened by fours, units in the banks of HBM3 would keep 0.67 (window "
            "of a rank) or 0.47 (of a pseudo-channel) of their rate.",
            data="a row of 32 columns at the published cadence of 6: 238 cycles, and 3 or 7 "
            "windows of nFAW = 39 more, by hand (reference/fair-comparison.md)",
            tolerance=Tolerance(1e-9, Unit.SHARE, "the same sum: rounding, and no more"),
            limits="Nothing of the windows is hidden behind multiplies: an upper bound.",
            tests=("tests/study/test_study_ranges.py",),
        ),
        measure=windows,
    ),
)
