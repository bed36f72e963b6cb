"""Requests over time on a system: from names to latencies.

`serve` builds one engine on the GPUs of a system, prices its steps by the one `Pricer`, plays the
requests, and tells what users would have felt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from attacc.errors import InputError, member
from attacc.gpu.costs import PARTS
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.system import ResolvedSystem, changed_system, with_keys
from attacc.models.huggingface import load_model
from attacc.models.parameters import AnyModel
from attacc.results import Result
from attacc.serving.engines.policy import Request
from attacc.serving.prices.steps import StepPrices
from attacc.serving.prices.works import Works
from attacc.serving.results import Latencies, StepSurrogate, Targets, latencies
from attacc.serving.search import replica
from attacc.serving.simulator import Run, play
from attacc.serving.started import NO_OVERHEADS, EngineOptions, Started, overheads_of, start
from attacc.serving.work import Work
from attacc.system.boundary import constant_power
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.units import PJ_PER_J, PS_PER_MS, PS_PER_NS, PS_PER_S, PS_PER_US, whole
from attacc.workload.requests import Requests

CONTEXT_BYTES: Final = 0.15 * 2**30
"""Memory of a GPU that the CUDA context takes. Source: llm-d's planner."""
CONTEXT_WITH_NCCL_BYTES: Final = 0.60 * 2**30
"""The same where GPUs talk to each other, with the buffers of NCCL."""
SEEN_SHARE: Final = 79.18 / 80.0
"""Share of a GPU's memory that CUDA reports. Source: H100, 79.18 GiB of 80."""


@dataclass(frozen=True)
class Service(Result):
    """What users of a system felt.

    Attributes:
        model: the model.
        system: the system.
        workload: the requests.
        policy: the batching policy, with its version.
        layout: of the model over the GPUs.
        kv_blocks: blocks of memory that requests can have; slots of a token for SGLang.
        block_tokens: tokens of a block.
        latencies: latencies and rates.
        steps: steps of the engine.
        mean_running: requests that run, on average over time.
        kv_use: share of the blocks in use, on average over time.
        busy_share: share of the time in which a step runs.
        utilisation: share of the time in which GPUs, links between them, transfers to AttAccs, and
            AttAccs work.
        energy_per_output_token_j: energy of all boards for each output token, by what takes it,
            idle time included.
        step_surrogate: how far fast prices of steps are from exact ones.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range, and
            overheads of the engine.
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
    utilisation: dict[str, float]
    energy_per_output_token_j: dict[str, float]
    step_surrogate: StepSurrogate
    estimates: tuple[str, ...]
    run: Run = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures; latencies and rates stand beside the others."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del own["run"]
        found = own.pop("latencies").to_dict()
        own["step_surrogate"] = asdict(self.step_surrogate)
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


class Server:
    """An engine's model and GPUs, ready to serve requests again and again.

    Args:
        model: a preset's name, a file, or a model.
        system: a preset's name, a file, or a system.
        options: what engines are started with.
        layout: of the model over the GPUs; by default all of them share every layer.
        gpu_model: what prices the GPUs.
        changes: keys of the system to change.
        exact: whether every step is priced exactly, which takes long.
        seed: of the sample of steps that are priced exactly.

    Raises:
        InputError: a name or an option is wrong.
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, object] | AnyModel,
        system: str | Path | Mapping[str, object] | ResolvedSystem,
        *,
        options: EngineOptions | None = None,
        layout: str | Layout | None = None,
        gpu_model: GpuModel | str = GpuModel.CALIBRATED,
        changes: Mapping[str, object] | None = None,
        exact: bool = False,
        seed: int = 0,
    ) -> None:
        self._options = options or EngineOptions()
        devices = changed_system(system, changes, where="system")
        kind = member(GpuModel, gpu_model, where="gpu_model")
        self._pricer = _pricer(model, devices, layout, kind, self._options)
        # The published model knows no engine: its steps are those of the papers.
        published = kind is GpuModel.PUBLISHED and self._options.overheads is None
        own = NO_OVERHEADS if published else overheads_of(self._options)
        self._overheads = own
        self._layers_ps = round(own.layer_us * self.layers * PS_PER_US)
        self._later_ps = round(own.request_ms * PS_PER_MS)
        self._seed, self._exact = seed, exact
        self._prices = StepPrices(self._pricer, seed=seed, exact=exact)

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return sum(group.count for group in self._pricer.model.groups)

    def serve(
        self, requests: Requests, targets: Targets | None = None, *, concurrency: int | None = None
    ) -> Service:
        """Serve requests over time.

        Args:
            requests: with arrivals; without them, all come at once.
            targets: latencies that users accept.
            concurrency: clients that each wait for an answer, in place of arrivals.

        Raises:
            InputError: no request can run.
            CapacityError: the model does not fit.
        """
        # The sample of exact steps is that of this run.
        prices = StepPrices(self._pricer, seed=self._seed, exact=self._exact)
        engine, run = self._play(requests, prices, concurrency)
        found = self._latencies(run, targets or Targets())
        service = _service(self._pricer, requests, self._options, engine, run, prices, found)
        return replace(service, estimates=(*service.estimates, *self._overheads.estimates))

    def latencies(
        self, requests: Requests, targets: Targets, *, concurrency: int | None = None
    ) -> Latencies:
        """Return the latencies of requests over time alone, which takes less time.

        Args:
            requests: as in `serve`.
            targets: as in `serve`.
            concurrency: as in `serve`.

        Raises:
            InputError: as in `serve`.
            CapacityError: as in `serve`.
        """
        _, run = self._play(requests, self._prices, concurrency)
        return self._latencies(run, targets)

    def _latencies(self, run: Run, targets: Targets) -> Latencies:
        return latencies(run.policy.ledger, len(run.rejected), targets, self._later_ps)

    def _play(
        self, requests: Requests, prices: StepPrices, concurrency: int | None
    ) -> tuple[Started, Run]:
        engine = start(self._pricer, requests, self._options)
        clients = None if concurrency is None else whole(concurrency, where="concurrency")

        def device_ps(work: Work) -> int:
            return prices.device_ps(work) + self._layers_ps

        run = play(
            engine.policy,
            arriving(requests),
            device_ps,
            prices.host_ps,
            concurrency=clients,
        )
        return engine, run


def serve(
    model: str | Path | Mapping[str, object] | AnyModel,
    system: str | Path | Mapping[str, object] | ResolvedSystem,
    requests: Requests | str | Path | tuple[int, int],
    *,
    options: EngineOptions | None = None,
    targets: Targets | None = None,
    layout: str | Layout | None = None,
    gpu_model: GpuModel | str = GpuModel.CALIBRATED,
    concurrency: int | None = None,
    changes: Mapping[str, object] | None = None,
    exact: bool = False,
    seed: int = 0,
) -> Service:
    """Serve requests over time.

    Args:
        model: as in `Server`.
        system: as in `Server`.
        requests: requests, a file of them, or prompt and output tokens of one.
        options: as in `Server`.
        targets: latencies that users accept.
        layout: as in `Server`.
        gpu_model: as in `Server`.
        concurrency: clients that each wait for an answer, in place of arrivals.
        changes: as in `Server`.
        exact: as in `Server`.
        seed: as in `Server`.

    Raises:
        InputError: a name, an option or a request is wrong, or no request can run.
        CapacityError: the model does not fit.
    """
    server = Server(
        model, system, options=options, layout=layout, gpu_model=gpu_model, changes=changes,
        exact=exact, seed=seed,
    )  # fmt: skip
    return server.serve(Requests.of(requests), targets, concurrency=concurrency)


def _pricer(
    model: str | Path | Mapping[str, object] | AnyModel,
    devices: ResolvedSystem,
    layout: str | Layout | None,
    gpu_model: GpuModel,
    asked: EngineOptions,
) -> Pricer:
    """Return the pricer of the engine's GPUs."""
    whole_model = load_model(model, where="model")
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


def _service(
    pricer: Pricer,
    requests: Requests,
    asked: EngineOptions,
    engine: Started,
    run: Run,
    prices: StepPrices,
    found: Latencies,
) -> Service:
    """Return what users felt in a run."""
    starts = np.array([step.start_ps for step in run.steps], dtype=np.float64)
    ends = np.array([step.end_ps for step in run.steps], dtype=np.float64)
    running = np.array([step.running for step in run.steps], dtype=np.float64)
    used = engine.capacity - np.array([step.free for step in run.steps], dtype=np.float64)
    busy, total = ends - starts, found.duration_s * PS_PER_S
    totals, duration_ns = (
        prices.totals(Works.of(step.work for step in run.steps)),
        total / PS_PER_NS,
    )
    standby = None if pricer.attaccs is None else pricer.attaccs.standby
    boards = constant_power(pricer.system, pricer.costs.static_w(pricer.system.gpu), standby)
    # Steps count what boards draw at any time for their own durations, and not between them.
    between = boards.of_boards(duration_ns - totals.time_ns)
    tokens = found.output_throughput * found.duration_s
    check = prices.check()
    return Service(
        model=pricer.model.name,
        system=pricer.system.name,
        workload=requests.name,
        policy=f"{asked.policy} {asked.version}",
        layout=str(pricer.layout),
        kv_blocks=engine.capacity,
        block_tokens=engine.unit_tokens,
        latencies=found,
        steps=len(run.steps),
        mean_running=float(running @ busy) / total,
        kv_use=float(used @ busy) / total / engine.capacity,
        busy_share=float(busy.sum()) / total,
        utilisation={
            "gpus": totals.gpus_ns / duration_ns,
            "links": totals.links_ns / duration_ns,
            "transfers": totals.transfers_ns / duration_ns,
            "attaccs": totals.away_ns / duration_ns,
        },
        energy_per_output_token_j={
            part.removesuffix("_pj"): (getattr(totals.energy, part) + getattr(between, part))
            / PJ_PER_J
            / tokens
            for part in PARTS
        },
        step_surrogate=StepSurrogate(check.bound, check.sampled_steps, check.max_deviation),
        estimates=tuple(dict.fromkeys((*prices.estimates, *totals.estimates))),
        run=run,
    )
