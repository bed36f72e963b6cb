"""Requests over time on a system: from names to latencies.

`serve` builds one engine on the GPUs of a system, prices its steps by the one `Pricer`, plays the
requests, and tells what users would have felt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
from attacc.serving.records.lives import Life, Lives
from attacc.serving.records.tables import write_table
from attacc.serving.records.timeline import Timeline, TimelineWindow, timeline_of
from attacc.serving.records.usage import usage_of
from attacc.serving.results import Latencies, StepSurrogate, Targets, latencies
from attacc.serving.search import replica
from attacc.serving.simulator import Interrupted, Run, play
from attacc.serving.started import EngineOptions, Started, start
from attacc.system.boundary import constant_power
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.units import PJ_PER_J, PS_PER_NS, PS_PER_S, whole
from attacc.workload.requests import Requests

if TYPE_CHECKING:
    import polars as pl

CONTEXT_BYTES: Final = 0.15 * 2**30
"""Memory of a GPU that the CUDA context takes. Source: llm-d's planner."""
CONTEXT_WITH_NCCL_BYTES: Final = 0.60 * 2**30
"""The same where GPUs talk to each other, with the buffers of NCCL."""
AT_ONCE: Final = 4096
"""Requests that are read from their columns at once."""
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
        partial: whether an interrupt ended the run; all figures are those of the run until then.
        unfinished: requests that had neither ended nor been rejected then; 0 otherwise.
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
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
        run: what happened, step by step.
        life: what happened to the request that was followed; None where none was, or where it was
            neither scheduled nor rejected before an interrupt.
        timeline: the run as events for a viewer; None where none was asked for.
    """

    model: str
    system: str
    workload: str
    policy: str
    layout: str
    kv_blocks: int
    block_tokens: int
    partial: bool
    unfinished: int
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
    life: Life | None = None
    timeline: Timeline | None = field(default=None, repr=False, compare=False)

    def requests_frame(self) -> pl.DataFrame:
        """Return a row for each request, in the order of their numbers.

        Columns are those of `Requested.frame`, with nulls for requests that were rejected, and
        ``rejected_ps`` and ``reason``, which are null for those that ended.
        """
        import polars as pl

        ended = self.latencies.requests.frame()
        both = pl.concat([ended, self.run.rejected.frame()], how="diagonal")
        return both.sort("number")

    def steps_frame(self) -> pl.DataFrame:
        """Return a row for each step (`attacc.serving.records.steps.COLUMNS`)."""
        return self.run.steps.frame()

    def write_requests(self, path: str | Path) -> None:
        """Write `requests_frame` to a file.

        Args:
            path: a file that ends in ``.parquet``, ``.csv`` or ``.csv.gz``.

        Raises:
            InputError: the file has another ending, or cannot be written.
        """
        write_table(self.requests_frame(), path)

    def write_steps(self, path: str | Path) -> None:
        """Write `steps_frame` to a file.

        Args:
            path: as in `write_requests`.

        Raises:
            InputError: as in `write_requests`.
        """
        write_table(self.steps_frame(), path)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures; latencies and rates stand beside the others."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del own["run"], own["timeline"]
        found = own.pop("latencies").to_dict()
        own["step_surrogate"] = asdict(self.step_surrogate)
        own["life"] = None if self.life is None else self.life.to_dict()
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
    order = np.argsort(arrivals, kind="stable")
    runs = None if requests.prefix_hashes is None else requests.prompt_runs()
    for first in range(0, count, AT_ONCE):
        places = order[first : first + AT_ONCE]
        columns = (places, arrivals[places], requests.prompt_tokens[places])
        numbers = np.stack([*columns, requests.output_tokens[places]], axis=1)
        for place, arrival_ps, prompt, outputs in numbers.tolist():
            contents = None if runs is None else runs.of(place)
            shared = contents is not None and any(content >= 0 for content, _ in contents)
            yield Request(place, arrival_ps, prompt, outputs, contents if shared else None)


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
        self._seed, self._exact = seed, exact
        self._prices = StepPrices(self._pricer, seed=seed, exact=exact)

    def serve(
        self,
        requests: Requests,
        targets: Targets | None = None,
        *,
        concurrency: int | None = None,
        interrupted: Interrupted | None = None,
        follow: int | None = None,
        draw: TimelineWindow | None = None,
    ) -> Service:
        """Serve requests over time.

        Args:
            requests: with arrivals; without them, all come at once.
            targets: latencies that users accept.
            concurrency: clients that each wait for an answer, in place of arrivals.
            interrupted: is called when an interrupt comes, and returns whether the answer is that
                of the run so far, marked as partial; None to raise the interrupt.
            follow: number of a request whose life the answer tells; the run takes longer then.
            draw: what the timeline of the answer draws, likewise; None for no timeline.

        Raises:
            InputError: no request can run, or there is no request of that number.
            CapacityError: the model does not fit.
            KeyboardInterrupt: an interrupt came, and nothing of the run is kept: it is not wanted,
                or no request has ended.
        """
        # The sample of exact steps is that of this run.
        prices = StepPrices(self._pricer, seed=self._seed, exact=self._exact)
        numbers: set[int] = set()
        if follow is not None:
            numbers.add(whole(follow, where="follow", least=0, most=len(requests) - 1))
        if draw is not None:
            numbers.update(range(draw.first, draw.last + 1))
        lives = Lives(numbers) if numbers else None
        engine, run = self._play(requests, prices, concurrency, interrupted, lives)
        if run.partial and not run.policy.ledger.ended:
            raise KeyboardInterrupt
        found = _service(
            self._pricer, requests, self._options, engine, run, prices, targets or Targets()
        )
        if lives is None:
            return found
        life = None if follow is None else lives.life(follow, run.steps)
        timeline = None if draw is None else timeline_of(run.steps, lives, self._pricer, draw)
        return replace(found, life=life, timeline=timeline)

    def latencies(self, requests: Requests, targets: Targets) -> Latencies:
        """Return the latencies of requests over time alone, which takes less time.

        Args:
            requests: as in `serve`.
            targets: as in `serve`.

        Raises:
            InputError: as in `serve`.
            CapacityError: as in `serve`.
        """
        _, run = self._play(requests, self._prices, None)
        return latencies(run.policy.ledger, len(run.rejected), targets)

    def _play(
        self,
        requests: Requests,
        prices: StepPrices,
        concurrency: int | None,
        interrupted: Interrupted | None = None,
        lives: Lives | None = None,
    ) -> tuple[Started, Run]:
        engine = start(self._pricer, requests, self._options)
        clients = None if concurrency is None else whole(concurrency, where="concurrency")
        run = play(
            engine.policy,
            arriving(requests),
            prices.device_ps,
            prices.host_ps,
            concurrency=clients,
            interrupted=interrupted,
            events=lives,
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
    follow: int | None = None,
    draw: TimelineWindow | None = None,
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
        follow: number of a request whose life the answer tells.
        draw: what the timeline of the answer draws; None for no timeline.

    Raises:
        InputError: a name, an option or a request is wrong, or no request can run.
        CapacityError: the model does not fit.
    """
    server = Server(
        model, system, options=options, layout=layout, gpu_model=gpu_model, changes=changes,
        exact=exact, seed=seed,
    )  # fmt: skip
    return server.serve(
        Requests.of(requests), targets, concurrency=concurrency, follow=follow, draw=draw
    )


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
    targets: Targets,
) -> Service:
    """Return what users felt in a run."""
    cut_ps = run.steps[-1].end_ps if run.partial else 0
    found = latencies(run.policy.ledger, len(run.rejected), targets, until_ps=cut_ps)
    used = usage_of(run.steps, prices, engine.capacity)
    total, totals = found.duration_s * PS_PER_S, used.totals
    duration_ns = total / PS_PER_NS
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
        partial=run.partial,
        unfinished=len(requests) - found.completed - found.rejected,
        latencies=found,
        steps=len(run.steps),
        mean_running=used.running / total,
        kv_use=used.used / total / engine.capacity,
        busy_share=used.busy_ps / total,
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
