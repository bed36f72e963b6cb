"""Measured serving runs under open-loop load, served again by the simulator.

A run is one row of a table: model, GPUs, the engine's options, mean lengths, and stages of constant
mean rate, one after the other. The measured figures are means and percentiles over the requests of
all stages. Sources: the figures are those of inference-sim/sim-to-real-accuracy-validation; the
load generator is kubernetes-sigs/inference-perf.

The generator has a few prompts and sends them again and again (`SHARED`), so that nearly every
prompt is found in the prefix cache. The gaps of its "constant" load are exponential, and are scaled
so that a stage lasts as long as asked.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from attacc.errors import DocumentError, InputError
from attacc.files import read_data, text_of
from attacc.models.architecture import MODELS
from attacc.serving.results import Latencies, Targets
from attacc.serving.serve import Server
from attacc.serving.started import ASYNCHRONOUS, EngineOptions, Overheads
from attacc.workload.arrivals import Arrivals, poisson
from attacc.workload.prefixes import PrefixHashes
from attacc.workload.requests import Requests

MODEL_PATHS: Final = {
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b",
    "Qwen/Qwen3-14B": "qwen3-14b",
    "codellama/CodeLlama-34b-Instruct-hf": "codellama-34b",
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "mistralai/Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "mistralai/Mixtral-8x22B-Instruct-v0.1": "mixtral-8x22b",
}
"""The model, as the table calls it -> preset."""
SYSTEMS: Final = {"h100-sxm-80gb": "8xh100"}
SYSTEM_PROMPT_TOKENS: Final = 100
"""Tokens of a system prompt, which the prompts of a group begin with."""
CUT_S: Final = 60.0
"""Seconds of each stage that are simulated by default; the measured stages last 600 or 1,200 s."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The prompts that a load generator has.

    Attributes:
        groups: system prompts.
        users: prompts for each system prompt.
    """

    groups: int
    users: int

    @property
    def prompts(self) -> int:
        """Prompts that differ."""
        return self.groups * self.users


SHARED: Final = {"general": Shared(9, 5), "codegen": Shared(11, 4), "roleplay": Shared(9, 5)}
"""Workload -> its prompts, of the generator's profiles (shared_prefix: num_unique_system_prompts,
num_users_per_system_prompt) in public repositories of the campaign. The profile of roleplay was not
found; that of general stands for it. Any number of prompts far below that of the requests gives the
same hits."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Latencies of a run in milliseconds.

    Attributes:
        ttft: mean time to the first token.
        ttft_p90: 90th percentile of it.
        ttft_p99: 99th percentile of it.
        tpot: mean time per further token of a request.
        itl: mean time between two pieces of an answer. A measured piece may hold several tokens; a
            simulated one holds one.
        e2el: mean time to the last token.
        e2el_p90: 90th percentile of it.
        e2el_p99: 99th percentile of it.
    """

    ttft: float
    ttft_p90: float
    ttft_p99: float
    tpot: float
    itl: float
    e2el: float
    e2el_p90: float
    e2el_p99: float

    @classmethod
    def of(cls, found: Latencies) -> Figures:
        """Return those of a simulated run."""
        return cls(
            found.ttft_ms.mean,
            found.ttft_ms.p90,
            found.ttft_ms.p99,
            found.tpot_ms.mean,
            found.itl_ms.mean,
            found.e2el_ms.mean,
            found.e2el_ms.p90,
            found.e2el_ms.p99,
        )

    def off(self, measured: Figures) -> Figures:
        """Return how far these are from measured ones, as signed shares of the latter.

        Args:
            measured: the measured ones.
        """
        names = self.__slots__
        return Figures(*(getattr(self, name) / getattr(measured, name) - 1 for name in names))


@dataclass(frozen=True, slots=True)
class OpenLoopRun:
    """One measured run.

    Attributes:
        number: of the run, as in the table.
        model_path: the model, as the table calls it.
        gpu: the GPU, as the table calls it.
        precision: of weights and activations, as in "fp16".
        tensor_parallel: GPUs that share every layer.
        options: what the engine was started with.
        workload: name of the load, a key of `SHARED`.
        prompt: tokens of every prompt.
        outputs: tokens of every answer.
        rates: requests in a second, of every stage.
        seconds: of every stage.
        measured: latencies. TPOT is that of the means: (E2EL - TTFT) / (outputs - 1).
    """

    number: int
    model_path: str
    gpu: str
    precision: str
    tensor_parallel: int
    options: EngineOptions
    workload: str
    prompt: int
    outputs: int
    rates: tuple[float, ...]
    seconds: tuple[float, ...]
    measured: Figures

    @property
    def model(self) -> str | None:
        """Preset of the model; None where there is none in this precision."""
        return MODEL_PATHS.get(self.model_path) if self.precision == "fp16" else None

    @property
    def name(self) -> str:
        """Model, GPUs and load, for people."""
        model = self.model or self.model_path.split("/")[-1]
        return f"{self.number}: {model} on {self.tensor_parallel}, {self.workload}"

    def requests(self, cut_s: float = CUT_S, *, shared: bool = True) -> Requests:
        """Return the requests of the run.

        Args:
            cut_s: most seconds of each stage.
            shared: whether prompts repeat (`SHARED`); otherwise every prompt is new.

        Raises:
            InputError: the load is not known.
        """
        times, start = list[np.ndarray[tuple[int], np.dtype[np.float64]]](), 0.0
        for stage, (rate, whole_s) in enumerate(zip(self.rates, self.seconds, strict=True)):
            stage_s = min(whole_s, cut_s)
            times.append(start + poisson(round(rate * stage_s), rate, seed=stage).times_s)
            start += stage_s
        arrivals = Arrivals(np.concatenate(times), f"stages of {self.rates} requests/s")
        found = Requests.fixed(self.prompt, self.outputs, len(arrivals)).with_arrivals(arrivals)
        return replace(found, prefix_hashes=self._hashes(len(found))) if shared else found

    def _hashes(self, count: int) -> PrefixHashes:
        """Return ids of the blocks of prompts that repeat in turn."""
        if self.workload not in SHARED:
            raise InputError(
                f"the prompts of the load {self.workload!r:.40} are not known",
                where="workload",
                hint=f"use one of {', '.join(SHARED)}",
            )
        of, size = SHARED[self.workload], self.options.block_tokens
        blocks, common = -(-self.prompt // size), SYSTEM_PROMPT_TOKENS // size
        lists = [
            [user // of.users * blocks + block for block in range(common)]
            + [(of.groups + user) * blocks + block for block in range(common, blocks)]
            for user in range(of.prompts)
        ]
        return PrefixHashes.of_lists((lists[i % of.prompts] for i in range(count)), size)

    def server(self, overheads: Overheads | None = None) -> Server:
        """Return the engine of the run.

        Args:
            overheads: of the engine; None for the defaults of its version.

        Raises:
            InputError: no preset stands for the model, or no system for the GPU.
        """
        if self.model is None or self.gpu not in SYSTEMS:
            raise InputError(
                f"no preset stands for {self.model_path} in {self.precision} on {self.gpu}",
                where=self.name,
                hint="leave the run out",
            )
        options = replace(self.options, overheads=overheads)
        layout = f"tp={self.tensor_parallel}"
        return Server(self.model, SYSTEMS[self.gpu], options=options, layout=layout)

    def simulated(
        self, overheads: Overheads | None = None, cut_s: float = CUT_S, *, shared: bool = True
    ) -> Figures:
        """Serve the run's requests, and return their latencies.

        Args:
            overheads: as in `server`.
            cut_s: as in `requests`.
            shared: as in `requests`.

        Raises:
            InputError: as in `server` and `requests`.
        """
        requests = self.requests(cut_s, shared=shared)
        return Figures.of(self.server(overheads).latencies(requests, Targets()))


def read_open_loop(path: Path) -> list[OpenLoopRun]:
    """Read a table of runs: CSV with a header, the columns of ``serving_open_loop.csv``.

    Args:
        path: the file.

    Raises:
        DocumentError: the file is absent or holds no runs, or a column is missing or malformed.
    """
    where = str(path)
    rows = list(csv.DictReader(text_of(read_data(path), where=where).splitlines()))
    if not rows:
        raise DocumentError("holds no runs", where=where, hint="give a header and rows")
    found: list[OpenLoopRun] = []
    for line, row in enumerate(rows, start=2):
        try:
            found.append(_run(row))
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
            raise DocumentError(
                f"no run under open-loop load: {error}",
                where=f"{where}:{line}",
                hint="give the columns of serving_open_loop.csv",
            ) from None
    return found


def _run(row: dict[str, str]) -> OpenLoopRun:
    def several(name: str) -> tuple[float, ...]:
        return tuple(float(part) for part in row[name].split(";"))

    ttft, e2el = float(row["ttft_mean_ms"]), float(row["e2e_mean_ms"])
    outputs = int(row["output_tokens_mean"])
    return OpenLoopRun(
        number=int(row["run"]),
        model_path=row["model"],
        gpu=row["gpu"],
        precision=row["precision"],
        tensor_parallel=int(row["tensor_parallel"]),
        options=EngineOptions(
            engine_version=row["engine_version"],
            max_num_seqs=int(row["max_num_seqs"]),
            max_num_batched_tokens=int(row["max_num_batched_tokens"]),
            block_tokens=int(row["block_tokens"]),
            kv_memory_fraction=float(row["memory_utilization"]),
            max_model_len=int(row["max_model_len"]),
        ),
        workload=row["workload"],
        prompt=int(row["prompt_tokens_mean"]),
        outputs=outputs,
        rates=several("stage_requests_per_s"),
        seconds=several("stage_seconds"),
        measured=Figures(
            ttft=ttft,
            ttft_p90=float(row["ttft_p90_ms"]),
            ttft_p99=float(row["ttft_p99_ms"]),
            tpot=(e2el - ttft) / (outputs - 1),
            itl=float(row["itl_mean_ms"]),
            e2el=e2el,
            e2el_p90=float(row["e2e_p90_ms"]),
            e2el_p99=float(row["e2e_p99_ms"]),
        ),
    )


def dense(runs: Sequence[OpenLoopRun]) -> list[OpenLoopRun]:
    """Return the runs of dense models with a preset, to which overheads are fitted.

    Args:
        runs: any.
    """
    return [run for run in runs if run.model and MODELS.load(run.model).experts is None]


def with_experts(runs: Sequence[OpenLoopRun]) -> list[OpenLoopRun]:
    """Return the runs of models with experts and a preset.

    Args:
        runs: any.
    """
    return [run for run in runs if run.model and MODELS.load(run.model).experts is not None]


ROUNDS: Final = 3
"""Rounds of a fit. Latencies are nearly lines of both coefficients, so that few are enough."""


def fitted(runs: Sequence[OpenLoopRun], cut_s: float = CUT_S) -> Overheads:
    """Fit both overheads to runs, by least squares of logarithms: TPOT first, then TTFT.

    Args:
        runs: at least one.
        cut_s: as in `OpenLoopRun.requests`.
    """
    told = [run.measured for run in runs]
    layer_us, found = ASYNCHRONOUS.layer_us, list[Figures]()
    for _ in range(ROUNDS):
        found = [run.simulated(Overheads(layer_us), cut_s) for run in runs]
        slopes = np.array([_layers(run) for run in runs]) / [one.tpot for one in found]
        misses = np.log([m.tpot / s.tpot for m, s in zip(told, found, strict=True)])
        layer_us = max(0.0, layer_us + 1e3 * float(slopes @ misses / (slopes @ slopes)))
    first = np.array([one.ttft for one in found])
    wanted, request_ms = np.array([one.ttft for one in told]), ASYNCHRONOUS.request_ms
    for _ in range(2 * ROUNDS):
        slopes = 1 / (first + request_ms)
        misses = np.log(wanted / (first + request_ms))
        request_ms = max(0.0, request_ms + float(slopes @ misses / (slopes @ slopes)))
    return Overheads(layer_us, request_ms)


def _layers(run: OpenLoopRun) -> int:
    return run.server().layers
