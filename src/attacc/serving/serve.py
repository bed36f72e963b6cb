"""Requests over time on systems: from names to latencies.

`serve` builds an engine on the GPUs of each system, prices its steps by the one `Pricer`, plays the
requests, and tells what users would have felt. Several systems, or copies of one, form a fleet
behind a router.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from attacc.errors import InputError, member
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.system import MAX_DEVICES, ResolvedSystem, changed_system, with_keys
from attacc.models.huggingface import load_model
from attacc.models.parameters import AnyModel
from attacc.results import Result
from attacc.serving.clients import Clients
from attacc.serving.disaggregated import decoding, prefilling
from attacc.serving.engines.policy import Ledger, Request
from attacc.serving.fleet import (
    EngineUse,
    Played,
    Pool,
    begin,
    mean_of,
    numbered,
    surrogate_of,
    together,
    use_of,
)
from attacc.serving.prices.steps import StepPrices
from attacc.serving.records.lives import Life, Lives
from attacc.serving.records.tables import write_table
from attacc.serving.records.timeline import Timeline, TimelineWindow, timeline_of
from attacc.serving.results import Latencies, Requested, StepSurrogate, Targets, latencies
from attacc.serving.routing import RouterName, router_of
from attacc.serving.search import replica
from attacc.serving.simulator import Dispatcher, Instance, Interrupted, Run
from attacc.serving.started import NO_OVERHEADS, EngineOptions, PolicyName, overheads_of
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.units import PS_PER_MS, PS_PER_S, PS_PER_US, whole
from attacc.workload.requests import Requests

if TYPE_CHECKING:
    import polars as pl

AnySystem = str | Path | Mapping[str, object] | ResolvedSystem
"""A preset's name, a file, a document, or a system."""
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
    """What users of a system, or of a fleet, felt.

    Shares of the time are means over all engines.

    Attributes:
        model: the model.
        system: the system; of a fleet, all systems.
        workload: the requests.
        policy: the batching policy, with its version.
        router: what sends requests to one of several instances; None where there is one.
        layout: of the model over the GPUs; of a fleet, all layouts.
        kv_blocks: blocks of memory that requests can have; slots of a token for SGLang.
        block_tokens: tokens of a block.
        partial: whether an interrupt ended the run; all figures are those of the run until then.
        unfinished: requests that had neither ended nor been rejected then; 0 otherwise.
        latencies: latencies and rates.
        steps: steps of all engines.
        mean_running: requests that run, on average over time.
        kv_use: share of the blocks in use, on average over time.
        busy_share: share of the time in which a step runs.
        utilisation: share of the time in which GPUs, links between them, transfers to AttAccs, and
            AttAccs work.
        energy_per_output_token_j: energy of all boards for each output token, by what takes it,
            idle time included.
        imbalance: time that the fullest channel of AttAccs takes over that of the mean one, over
            the run, on the engine where it is largest; None where attention does not follow from
            what channels hold.
        step_surrogate: how far fast prices of steps are from exact ones.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range, and
            overheads of the engine.
        engines: what each engine did.
        life: what happened to the request that was followed; None where none was, or where it was
            neither scheduled nor rejected before an interrupt.
        timeline: the run as events for a viewer; None where none was asked for.
    """

    model: str
    system: str
    workload: str
    policy: str
    router: str | None
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
    imbalance: float | None
    step_surrogate: StepSurrogate
    estimates: tuple[str, ...]
    engines: tuple[EngineUse, ...] = field(repr=False, compare=False)
    life: Life | None = None
    timeline: Timeline | None = field(default=None, repr=False, compare=False)

    @property
    def run(self) -> Run:
        """What happened on the only engine.

        Raises:
            InputError: there are several engines.
        """
        if len(self.engines) != 1:
            raise InputError(
                f"{len(self.engines)} engines have a run each",
                where="run",
                hint="take engines[0].run, and so on",
            )
        return self.engines[0].run

    def requests_frame(self) -> pl.DataFrame:
        """Return a row for each request, in the order of their numbers.

        Columns are those of `Requested.frame`, with nulls for requests that were rejected, and
        ``rejected_ps`` and ``reason``, which are null for those that ended.
        """
        import polars as pl

        ended = self.latencies.requests.frame()
        rejected = [one.run.rejected.frame() for one in self.engines]
        return pl.concat([ended, *rejected], how="diagonal").sort("number")

    def steps_frame(self) -> pl.DataFrame:
        """Return a row for each step (`attacc.serving.records.steps.COLUMNS`).

        Where there are several engines, a column ``engine`` has the name of each step's.
        """
        import polars as pl

        frames = [one.run.steps.frame() for one in self.engines]
        if len(frames) == 1:
            return frames[0]
        return pl.concat(
            frame.select(pl.lit(one.name).alias("engine"), pl.all())
            for one, frame in zip(self.engines, frames, strict=True)
        )

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
        del own["timeline"]
        found = own.pop("latencies").to_dict()
        own["step_surrogate"] = asdict(self.step_surrogate)
        own["engines"] = [engine.to_dict() for engine in self.engines]
        own["life"] = None if self.life is None else self.life.to_dict()
        return own | found

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row, without the engines one by one."""
        row = self.to_dict()
        del row["engines"]
        return [row]


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

    With the policy "disaggregated" some of the GPUs prefill and the others decode. Either side has
    as many engines as its layout has replicas.

    Args:
        model: a preset's name, a file, or a model.
        system: a preset's name, a file, or a system.
        options: what engines are started with.
        layout: of the model over the GPUs, or over those that decode; by default all of them share
            every layer.
        prefill_layout: the same for GPUs that only prefill.
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
        system: AnySystem,
        *,
        options: EngineOptions | None = None,
        layout: str | Layout | None = None,
        prefill_layout: str | Layout | None = None,
        gpu_model: GpuModel | str = GpuModel.CALIBRATED,
        changes: Mapping[str, object] | None = None,
        exact: bool = False,
        seed: int = 0,
    ) -> None:
        self._options = options or EngineOptions()
        devices = changed_system(system, changes, where="system")
        kind = member(GpuModel, gpu_model, where="gpu_model")
        self._name = devices.name
        # The published model knows no engine: its steps are those of the papers.
        published = kind is GpuModel.PUBLISHED and self._options.overheads is None
        self._overheads = NO_OVERHEADS if published else overheads_of(self._options)
        self._seed, self._exact = seed, exact
        self._pricers = [
            (_pricer(model, own, over, kind, self._options), over.replicas)
            for own, over in _parts(devices, layout, prefill_layout, self._options)
        ]
        self._pools = self._priced()

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self._pricers[0][0].model.name

    @property
    def system_name(self) -> str:
        """Name of the system."""
        return self._name

    @property
    def options(self) -> EngineOptions:
        """What engines are started with."""
        return self._options

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return sum(group.count for group in self._pricers[0][0].model.groups)

    @property
    def later_ps(self) -> int:
        """Picoseconds after which users see a token."""
        return round(self._overheads.request_ms * PS_PER_MS)

    def estimates(self, requests: Requests) -> tuple[str, ...]:
        """Return notes of the engine's overheads, and of requests that are long for the model.

        Args:
            requests: the requests.
        """
        longest = int((requests.prompt_tokens + requests.output_tokens).max())
        longest = min(longest, self._options.max_model_len or longest)
        prompt = min(longest, int(requests.prompt_tokens.max()))
        beyond = self._pricers[0][0].model.beyond_context(longest, prompt)
        return (*self._overheads.estimates, *beyond)

    def pools(self, *, fresh: bool) -> list[Pool]:
        """Return the GPUs of the engine, or those that prefill and those that decode.

        Args:
            fresh: whether steps are sampled for one run alone, whose prices are then checked.
        """
        return self._priced() if fresh else self._pools

    def _prices(self, pricer: Pricer) -> StepPrices:
        return StepPrices(
            pricer, seed=self._seed, exact=self._exact, residence=self._options.residence
        )

    def _priced(self) -> list[Pool]:
        more_ps = round(self._overheads.layer_us * self.layers * PS_PER_US)
        return [
            Pool(pricer, self._prices(pricer), engines, more_ps)
            for pricer, engines in self._pricers
        ]

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
        """Serve requests over time on one engine.

        Args:
            requests: as in `Fleet.serve`.
            targets: as in `Fleet.serve`.
            concurrency: as in `Fleet.serve`.
            interrupted: as in `Fleet.serve`.
            follow: as in `Fleet.serve`.
            draw: as in `Fleet.serve`.

        Raises:
            InputError: as in `Fleet.serve`.
            CapacityError: as in `Fleet.serve`.
            KeyboardInterrupt: as in `Fleet.serve`.
        """
        return Fleet([self]).serve(
            requests, targets, concurrency=concurrency, interrupted=interrupted, follow=follow,
            draw=draw,
        )  # fmt: skip

    def latencies(
        self, requests: Requests, targets: Targets, *, concurrency: int | None = None
    ) -> Latencies:
        """Return the latencies of requests over time alone, which takes less time.

        Args:
            requests: as in `Fleet.serve`.
            targets: as in `Fleet.serve`.
            concurrency: as in `Fleet.serve`.

        Raises:
            InputError: as in `Fleet.serve`.
            CapacityError: as in `Fleet.serve`.
        """
        return Fleet([self]).latencies(requests, targets, concurrency=concurrency)


class Fleet:
    """Instances behind a router, which serve the same requests together.

    Args:
        servers: a system each, with equal models and policies.
        replicas: copies of each of them.
        router: what sends a request to an instance.

    Raises:
        InputError: a name or a number is wrong.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        replicas: int = 1,
        router: RouterName | str = RouterName.ROUND_ROBIN,
    ) -> None:
        if not servers:
            raise InputError("there is no system", where="system", hint="give at least one")
        if len({server.model_name for server in servers}) > 1:
            raise InputError(
                "a fleet has different models", where="model", hint="let each fleet serve one model"
            )
        if any(server.options != servers[0].options for server in servers):
            raise InputError(
                "a fleet has engines of different options",
                where="options",
                hint="start all engines with the same options",
            )
        copies = whole(replicas, where="replicas", most=MAX_DEVICES)
        self._router = member(RouterName, router, where="router")
        self._servers, self._copies = tuple(servers), copies

    @property
    def systems(self) -> list[str]:
        """Names of the systems of all instances, in order."""
        return [one.system_name for one in self._servers for _ in range(self._copies)]

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
            InputError: no request can run, there is no request of that number, or a request is
                followed or drawn on several engines.
            CapacityError: the model does not fit.
            KeyboardInterrupt: an interrupt came, and nothing of the run is kept: it is not wanted,
                or no request has ended.
        """
        # The sample of exact steps is that of this run.
        numbers: set[int] = set()
        if follow is not None:
            numbers.add(whole(follow, where="follow", least=0, most=len(requests) - 1))
        if draw is not None:
            numbers.update(range(draw.first, draw.last + 1))
        lives = Lives(numbers) if numbers else None
        played = self._play(requests, concurrency, fresh=True, interrupted=interrupted, lives=lives)
        ended = any(one.engine.run.policy.ledger.ended for one in played if not one.prefills)
        if played[0].engine.run.partial and not ended:
            raise KeyboardInterrupt
        found = self._service(requests, played, self._latencies(played, targets or Targets()))
        if lives is None:
            return found
        steps = found.run.steps
        life = None if follow is None else lives.life(follow, steps)
        timeline = None
        if draw is not None:
            timeline = timeline_of(steps, lives, played[0].pool.prices, draw)
        return replace(found, life=life, timeline=timeline)

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
        played = self._play(requests, concurrency, fresh=False)
        return self._latencies(played, targets)

    def _latencies(self, played: Sequence[Played], targets: Targets) -> Latencies:
        """Return the latencies of all requests."""
        runs = [one.engine.run for one in played]
        ledgers = [one.engine.run.policy.ledger for one in played if not one.prefills]
        cut_ps = max((run.steps[-1].end_ps for run in runs if run.partial and run.steps), default=0)
        found = latencies(
            Ledger.joined(ledgers),
            sum(len(run.rejected) for run in runs),
            targets,
            until_ps=cut_ps,
            later_ps=self._servers[0].later_ps,
        )
        before = [Requested.of(one.engine.run.policy.ledger) for one in played if one.prefills]
        lost = sum(int(requests.column("preemptions").sum()) for requests in before)
        return replace(found, preemptions=found.preemptions + lost)

    def _play(
        self,
        requests: Requests,
        concurrency: int | None,
        *,
        fresh: bool,
        interrupted: Interrupted | None = None,
        lives: Lives | None = None,
    ) -> list[Played]:
        clients = None if concurrency is None else whole(concurrency, where="concurrency")
        names = iter(numbered(self.systems))
        router = router_of(self._router)
        dispatcher = Dispatcher(Clients(arriving(requests), concurrency=clients), router)
        instances: list[Instance] = []
        played: list[Played] = []
        for server in self._servers:
            pools = server.pools(fresh=fresh)
            for _ in range(self._copies):
                instance, engines = begin(
                    next(names), pools, requests, server.options, self._router, dispatcher.answer
                )
                instances.append(instance)
                played += engines
        if lives is not None:
            if len(played) != 1:
                raise InputError(
                    f"{len(played)} engines serve, and what happens is told of one alone",
                    where="follow",
                    hint="serve with one system, without replicas, to follow requests or draw them",
                )
            played[0].engine.tell(lives)
        dispatcher.play(instances, interrupted)
        return played

    def _service(self, requests: Requests, played: list[Played], found: Latencies) -> Service:
        """Return what users felt in a run."""
        uses = tuple(use_of(one, found.duration_s) for one in played)
        tokens = found.output_throughput * found.duration_s
        capacity = sum(use.kv_blocks for use in uses)
        options, first = self._servers[0].options, uses[0]
        notes = [note for one in played for note in one.pool.prices.estimates]
        notes += [note for use in uses for note in use.estimates]
        return Service(
            model=self._servers[0].model_name,
            system=together(self.systems),
            workload=requests.name,
            policy=options.title,
            router=self._router.value if len(self.systems) > 1 else None,
            layout=" + ".join(dict.fromkeys(use.layout for use in uses)),
            kv_blocks=capacity,
            block_tokens=played[0].started.unit_tokens,
            partial=played[0].engine.run.partial,
            unfinished=len(requests) - found.completed - found.rejected,
            latencies=found,
            steps=sum(use.steps for use in uses),
            mean_running=sum(use.mean_running for use in uses),
            kv_use=sum(use.kv_use * (use.kv_blocks / capacity) for use in uses),
            busy_share=mean_of([use.busy_share for use in uses]),
            utilisation={
                name: mean_of([use.utilisation[name] for use in uses]) for name in first.utilisation
            },
            energy_per_output_token_j={
                part: sum(use.energy_j[part] for use in uses) / tokens for part in first.energy_j
            },
            imbalance=max((use.imbalance for use in uses if use.imbalance), default=None),
            step_surrogate=surrogate_of(one.pool for one in played),
            estimates=tuple(dict.fromkeys((*notes, *self._servers[0].estimates(requests)))),
            engines=uses,
        )


def serve(
    model: str | Path | Mapping[str, object] | AnyModel,
    system: AnySystem | Sequence[AnySystem],
    requests: Requests | str | Path | tuple[int, int],
    *,
    options: EngineOptions | None = None,
    targets: Targets | None = None,
    layout: str | Layout | None = None,
    prefill_layout: str | Layout | None = None,
    replicas: int = 1,
    router: RouterName | str = RouterName.ROUND_ROBIN,
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
        system: as in `Server`, or a list of systems that serve the requests together.
        requests: requests, a file of them, or prompt and output tokens of one.
        options: as in `Server`.
        targets: latencies that users accept.
        layout: as in `Server`.
        prefill_layout: as in `Server`.
        replicas: copies of each system.
        router: what sends a request to one of several systems.
        gpu_model: as in `Server`.
        concurrency: clients that each wait for an answer, in place of arrivals.
        changes: as in `Server`; of every system.
        exact: as in `Server`.
        seed: as in `Server`.
        follow: number of a request whose life the answer tells.
        draw: what the timeline of the answer draws; None for no timeline.

    Raises:
        InputError: a name, an option or a request is wrong, or no request can run.
        CapacityError: the model does not fit.
    """
    servers = [
        Server(
            model, one, options=options, layout=layout, prefill_layout=prefill_layout,
            gpu_model=gpu_model, changes=changes, exact=exact, seed=seed,
        )
        for one in _each(system)
    ]  # fmt: skip
    fleet = Fleet(servers, replicas=replicas, router=router)
    return fleet.serve(
        Requests.of(requests), targets, concurrency=concurrency, follow=follow, draw=draw
    )


def _each(system: AnySystem | Sequence[AnySystem]) -> list[AnySystem]:
    """Return systems that are given alone or in a list."""
    if isinstance(system, (str, Path, Mapping, ResolvedSystem)):
        return [system]
    return list(system)


def _parts(
    devices: ResolvedSystem,
    layout: str | Layout | None,
    prefill_layout: str | Layout | None,
    options: EngineOptions,
) -> list[tuple[ResolvedSystem, Layout]]:
    """Return the devices of the engine, or of both sides, with the layouts over them."""
    if options.policy is PolicyName.DISAGGREGATED:
        decode = decoding(devices, options.prefill_gpus)
        prefill = prefilling(devices, devices.gpus - decode.gpus)
        return [
            (prefill, _layout(prefill, prefill_layout, where="prefill_layout")),
            (decode, _layout(decode, layout, where="layout")),
        ]
    if prefill_layout is not None:
        raise InputError(
            f"no GPUs only prefill with {options.policy}",
            where="prefill_layout",
            hint="leave it out, or use disaggregated",
        )
    own = _layout(devices, layout, where="layout")
    if own.replicas != 1:
        raise InputError(
            f"{own.replicas} replicas are no layout of one engine",
            where="layout",
            hint=f"give a system of {own.tp} GPUs (--set gpus={own.tp}), and --replicas "
            f"{own.replicas}",
        )
    return [(devices, own)]


def _layout(devices: ResolvedSystem, asked: str | Layout | None, *, where: str) -> Layout:
    """Return the layout that is asked for; by default all GPUs share every layer."""
    if asked is None:
        return Layout(devices.gpus)
    return Layout.parse(asked, where=where) if isinstance(asked, str) else asked


def _pricer(
    model: str | Path | Mapping[str, object] | AnyModel,
    devices: ResolvedSystem,
    own: Layout,
    gpu_model: GpuModel,
    asked: EngineOptions,
) -> Pricer:
    """Return the pricer of the GPUs of one engine."""
    whole_model = load_model(model, where="model")
    spare = CONTEXT_BYTES if own.tp == 1 else CONTEXT_WITH_NCCL_BYTES
    taken = spare / devices.gpu.memory_bytes
    reserve = max(0.0, 1 - asked.kv_memory_fraction * SEEN_SHARE + taken)
    devices = with_keys(replica(devices, own), {"memory_reserve": min(reserve, 0.9)})
    costs = cost_model(gpu_model, None if gpu_model is GpuModel.PUBLISHED else Engine.VLLM)
    return Pricer(whole_model, devices, gpu_model=costs, layout=replace(own, replicas=1))
