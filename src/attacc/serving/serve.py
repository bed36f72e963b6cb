"""Requests over time on a system: from names to latencies.

`serve` builds one engine on the GPUs of a system, prices its steps by the one `Pricer`, plays the
requests, and tells what users would have felt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

from attacc.errors import InputError, member
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.system import ResolvedSystem, changed_system, with_keys
from attacc.models.huggingface import load_model
from attacc.models.parameters import AnyModel
from attacc.results import Result
from attacc.serving.engines.policy import Policy, Request
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.serving.prices import StepPrices
from attacc.serving.results import Latencies, StepSurrogate, Targets, latencies
from attacc.serving.search import replica
from attacc.serving.simulator import Run, play
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.units import PS_PER_S, finite, whole
from attacc.workload.requests import Requests

CONTEXT_BYTES: Final = 0.15 * 2**30
"""Memory of a GPU that the CUDA context takes. Source: llm-d's planner."""
CONTEXT_WITH_NCCL_BYTES: Final = 0.60 * 2**30
"""The same where GPUs talk to each other, with the buffers of NCCL."""
SEEN_SHARE: Final = 79.18 / 80.0
"""Share of a GPU's memory that CUDA reports. Source: H100, 79.18 GiB of 80."""
VLLM_VERSION: Final = "0.16"
"""The version of vLLM V1 whose semantics are played by default."""


class PolicyName(StrEnum):
    """A batching policy."""

    VLLM_V1 = "vllm-v1"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is started with, under vLLM's names; None for the engine's default.

    Attributes:
        policy: the batching policy.
        engine_version: version of the engine whose rules are played.
        max_num_seqs: most running requests.
        max_num_batched_tokens: most tokens of a step.
        block_tokens: tokens of a block of memory.
        kv_blocks: blocks of memory.
        kv_memory_fraction: share of each GPU's memory that the engine may use
            (``gpu_memory_utilization``), where blocks are not given.
        max_model_len: most tokens of a request; the model's context by default.
        prefix_caching: whether requests find what others have computed.
    """

    policy: PolicyName = PolicyName.VLLM_V1
    engine_version: str = VLLM_VERSION
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_tokens: int = 16
    kv_blocks: int | None = None
    kv_memory_fraction: float = 0.9
    max_model_len: int | None = None
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "kv_blocks", "max_model_len"):
            if getattr(self, name) is not None:
                whole(getattr(self, name), where=name)
        whole(self.block_tokens, where="block_tokens")
        share = finite(self.kv_memory_fraction, where="kv_memory_fraction", least=0)
        if not 0 < share <= 1:
            raise InputError(
                f"{share:g} is out of range",
                where="kv_memory_fraction",
                hint="use a share above 0 and up to 1, as 0.9",
            )


def version_of(text: str) -> tuple[int, int]:
    """Return the first two numbers of an engine's version.

    Args:
        text: as in "0.15.1".

    Raises:
        InputError: it is none.
    """
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        raise InputError(
            f"{text!r:.40} is no version", where="engine_version", hint="write it as in 0.16"
        )
    return int(parts[0]), int(parts[1])


@dataclass(frozen=True)
class Service(Result):
    """What users of a system felt.

    Attributes:
        model: the model.
        system: the system.
        workload: the requests.
        policy: the batching policy, with its version.
        layout: of the model over the GPUs.
        kv_blocks: blocks of memory, the engine's placeholder included.
        block_tokens: tokens of a block.
        latencies: latencies and rates.
        steps: steps of the engine.
        mean_running: requests that run, on average over time.
        kv_use: share of the blocks in use, on average over time.
        busy_share: share of the time in which a step runs.
        step_surrogate: how far fast prices of steps are from exact ones.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
    """

    model: str
    system: str
    workload: str
    policy: str
    layout: str
    kv_blocks: int
    block_tokens: int
    latencies: Latencies
    steps: int
    mean_running: float
    kv_use: float
    busy_share: float
    step_surrogate: StepSurrogate
    estimates: tuple[str, ...]
    run: Run = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures; latencies and rates stand beside the others."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del own["run"]
        found = own.pop("latencies").to_dict()
        surrogate = own["step_surrogate"]
        own["step_surrogate"] = {
            name: getattr(surrogate, name) for name in surrogate.__dataclass_fields__
        }
        return own | found

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row."""
        return [self.to_dict()]


def arriving(requests: Requests) -> Iterator[Request]:
    """Yield requests as an engine takes them, in the order of their arrival.

    Args:
        requests: the requests; without arrivals, all come at once.
    """
    count = len(requests)
    times = np.zeros(count) if requests.arrival_s is None else requests.arrival_s
    arrivals = np.rint(times * PS_PER_S).astype(np.int64)
    runs = requests.prompt_runs()
    for place in np.argsort(arrivals, kind="stable").tolist():
        contents = runs.of(place)
        shared = any(content >= 0 for content, _ in contents)
        yield Request(
            place,
            int(arrivals[place]),
            int(requests.prompt_tokens[place]),
            int(requests.output_tokens[place]),
            contents if shared else None,
        )


def serve(
    model: str | Path | Mapping[str, object] | AnyModel,
    system: str | Path | Mapping[str, object] | ResolvedSystem,
    requests: Requests | str | Path | tuple[int, int],
    *,
    options: EngineOptions | None = None,
    targets: Targets | None = None,
    layout: str | Layout | None = None,
    gpu_model: GpuModel | str = GpuModel.CALIBRATED,
    exact: bool = False,
    seed: int = 0,
) -> Service:
    """Serve requests over time.

    Args:
        model: a preset's name, a file, or a model.
        system: a preset's name, a file, or a system.
        requests: with arrivals; without them, all come at once.
        options: what the engine is started with.
        targets: latencies that users accept.
        layout: of the model over the GPUs; by default all of them share every layer.
        gpu_model: what prices the GPUs.
        exact: whether every step is priced exactly, which takes long.
        seed: of the sample of steps that are priced exactly.

    Raises:
        InputError: a name, an option or a request is wrong, or no request can run.
        CapacityError: the model does not fit.
    """
    asked = options or EngineOptions()
    given = Requests.of(requests)
    pricer = _pricer(model, system, layout, member(GpuModel, gpu_model, where="gpu_model"), asked)
    prices = StepPrices(pricer, seed=seed, exact=exact)
    settings = _settings(pricer, given, asked)
    policy = VllmV1(settings)
    run = play(policy, arriving(given), prices.device_ps, prices.host_ps)
    return _service(pricer, given, asked, settings, run, prices, targets or Targets())


def _pricer(
    model: str | Path | Mapping[str, object] | AnyModel,
    system: str | Path | Mapping[str, object] | ResolvedSystem,
    layout: str | Layout | None,
    gpu_model: GpuModel,
    asked: EngineOptions,
) -> Pricer:
    """Return the pricer of the engine's GPUs."""
    whole_model = load_model(model, where="model")
    devices = changed_system(system, where="system")
    own = Layout(devices.gpus) if layout is None else layout
    if isinstance(own, str):
        own = Layout.parse(own)
    if own.replicas != 1:
        raise InputError(
            f"{own.replicas} replicas need a router",
            where="layout",
            hint="serve the share of one replica: replicas=1, with its part of the requests",
        )
    spare = CONTEXT_BYTES if own.gpus == 1 else CONTEXT_WITH_NCCL_BYTES
    taken = spare / devices.gpu.memory_bytes
    reserve = max(0.0, 1 - asked.kv_memory_fraction * SEEN_SHARE + taken)
    devices = with_keys(replica(devices, own), {"memory_reserve": min(reserve, 0.9)})
    costs = cost_model(gpu_model, None if gpu_model is GpuModel.PUBLISHED else Engine.VLLM)
    return Pricer(whole_model, devices, gpu_model=costs, layout=replace(own, replicas=1))


def _settings(pricer: Pricer, requests: Requests, asked: EngineOptions) -> VllmV1Settings:
    """Return what the engine is started with, by the defaults of its version and GPU."""
    version, gpu = version_of(asked.engine_version), pricer.system.gpu
    large = gpu.memory_bytes >= 70 * 2**30 and not gpu.name.startswith("a100")
    tokens = asked.max_num_batched_tokens or (8192 if large else 2048)
    seqs = asked.max_num_seqs or (1024 if large else 256)
    blocks = asked.kv_blocks
    if blocks is None:
        need = pricer.need(requests.workload(), chunk_tokens=tokens, staggered=True)
        blocks = pricer.most_tokens(need, seqs) // asked.block_tokens + 1
    longest = asked.max_model_len or pricer.model.model.max_context or 2**31
    return VllmV1Settings(
        blocks=blocks,
        block_tokens=asked.block_tokens,
        max_model_len=longest,
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
        prefix_caching=asked.prefix_caching,
        asynchronous=version >= (0, 14),
        reserve_full_isl=version >= (0, 19),
    )


def _service(
    pricer: Pricer,
    requests: Requests,
    asked: EngineOptions,
    settings: VllmV1Settings,
    run: Run,
    prices: StepPrices,
    targets: Targets,
) -> Service:
    """Return what users felt in a run."""
    policy: Policy = run.policy
    found = latencies(policy.ledger, len(run.rejected), targets)
    starts = np.array([step.start_ps for step in run.steps], dtype=np.float64)
    ends = np.array([step.end_ps for step in run.steps], dtype=np.float64)
    running = np.array([step.running for step in run.steps], dtype=np.float64)
    used = settings.blocks - 1 - np.array([step.free for step in run.steps], dtype=np.float64)
    busy, total = ends - starts, found.duration_s * PS_PER_S
    return Service(
        model=pricer.model.name,
        system=pricer.system.name,
        workload=requests.name,
        policy=f"{asked.policy} {asked.engine_version}",
        layout=str(pricer.layout),
        kv_blocks=settings.blocks,
        block_tokens=settings.block_tokens,
        latencies=found,
        steps=len(run.steps),
        mean_running=float(running @ busy) / total,
        kv_use=float(used @ busy) / total / (settings.blocks - 1),
        busy_share=float(busy.sum()) / total,
        step_surrogate=prices.surrogate(),
        estimates=prices.estimates,
        run=run,
    )
