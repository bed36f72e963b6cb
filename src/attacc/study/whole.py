"""Whole requests of a comparison: what a system serves when its GPUs also prefill.

Every system gets its best layout, engine and batch. A system with AttAccs is compared with the
system of the same GPUs without AttAccs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from attacc.errors import InputError
from attacc.gpu.costs import CostModel
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.system import AttentionSite, ResolvedSystem
from attacc.models.served import ServedModel
from attacc.serving.candidates import Served, ServingLimit
from attacc.serving.policies import PrefillPolicy, ServingOptions
from attacc.serving.search import Search
from attacc.serving.steady import told
from attacc.study.decomposition import Decomposition, decompose
from attacc.study.ranges import Draws, Range, outcomes, range_of
from attacc.study.thresholds import Threshold, pays_from
from attacc.system.cost import Ownership, dram_area, money
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.system.sites import Site
from attacc.units import NS_PER_MS
from attacc.workload.requests import Workload
from attacc.workload.speculation import Speculation

MILLION: Final = 1e6
SECONDS_PER_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class NextBest:
    """The best way to serve with another layout.

    Attributes:
        layout: of the model over the GPUs.
        engine: whose steps are priced; None for the published GPU model.
        batch: requests in flight, on all replicas together.
        output_tokens_per_s: output tokens of all replicas in a second.
    """

    layout: str
    engine: Engine | None
    batch: int
    output_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One batch of the layout that was chosen.

    Attributes:
        batch: requests in flight that decode, on all replicas together.
        output_tokens_per_s: output tokens in a second.
        ttft_ms: time to the first token of a request that does not queue.
        tpot_ms: mean time per output token after the first.
    """

    batch: int
    output_tokens_per_s: float
    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class Economy:
    """What requests cost, and what a gain is for what it takes; see `attacc.system.cost`.

    Attributes:
        node_energy_per_request_j: energy of one request with the host of the node.
        cost_per_request_usd: price of the node written off, and energy; None where a price is not
            stated.
        cost_per_million_tokens_usd: of a million output tokens, likewise.
        gain_per_dram_area: requests per second for the silicon of all core dies, over those of the
            baseline; None where an area is not stated.
        gain_per_watt: requests for each joule of the node, over those of the baseline.
        gain_per_usd: requests for each dollar, over those of the baseline.
    """

    node_energy_per_request_j: float
    cost_per_request_usd: float | None
    cost_per_million_tokens_usd: float | None
    gain_per_dram_area: float | None
    gain_per_watt: float | None
    gain_per_usd: float | None


@dataclass(frozen=True, slots=True)
class WholeRequests:
    """Whole requests in steady state, prefill and decode.

    Attributes:
        layout: of the model over the GPUs, as ``--layout`` takes it; over those that decode, where
            others prefill.
        prefill_layout: of the model over GPUs that only prefill; None where there are none.
        engine: whose kernels and host are priced; None for the published GPU model.
        prefill: how the GPUs prefill.
        batch: requests in flight that decode, on all replicas together.
        limit: reason why the batch is not larger.
        requests_per_s: requests that end in a second.
        output_tokens_per_s: output tokens in a second.
        ttft_ms: time to the first token of a request that does not queue.
        tpot_ms: mean time per output token after the first.
        prefill_share: share of the steps that prefill.
        energy_per_request_j: energy of one request.
        energy_per_million_tokens_j: energy of a million output tokens.
        baseline: system that `speedup` and `energy_ratio` compare with: the one with the same GPUs
            without AttAccs, or else the first one.
        speedup: requests per second over those of the baseline; None without one.
        speedup_low: 5th percentile of the speed-up, over what is not known exactly
            (`attacc.study.ranges`).
        speedup_high: 95th percentile.
        depends_most_on: what the range depends on most; None where it does not vary.
        energy_ratio: energy per request of the baseline over that of this system.
        energy_ratio_low: 5th percentile of it.
        energy_ratio_high: 95th percentile of it.
        pays_from: from which output length on AttAccs pay, for the best ones beside each baseline;
            None for all others, for requests of different lengths, and where no longer output fits.
        next_best: the best way with another layout; None where there is none.
        parts_ms: time of one request on one replica that decodes, by parts: its share of the steps.
        energies_j: energy of one request, by what takes it.
        curve: batches that were tried in this layout.
        economy: what requests cost, and what the gain is for area, energy and money.
        decomposition: where a gain of AttAccs comes from; None without AttAccs, and where the GPUs
            alone do not hold the model.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
    """

    layout: str
    prefill_layout: str | None
    engine: Engine | None
    prefill: PrefillPolicy
    batch: int
    limit: ServingLimit
    requests_per_s: float
    output_tokens_per_s: float
    ttft_ms: float
    tpot_ms: float
    prefill_share: float
    energy_per_request_j: float
    energy_per_million_tokens_j: float
    baseline: str | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    depends_most_on: str | None
    energy_ratio: float | None
    energy_ratio_low: float | None
    energy_ratio_high: float | None
    pays_from: Threshold | None
    next_best: NextBest | None
    parts_ms: dict[str, float]
    energies_j: dict[str, float]
    curve: tuple[CurvePoint, ...]
    economy: Economy
    decomposition: Decomposition | None
    estimates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of whole requests, for all systems of a comparison.

    Attributes:
        model: the model.
        workload: the requests.
        options: how the GPUs prefill, and latency targets.
        gpu_model: what prices the GPUs.
        engine: the only engine to price; None for the best one.
        layout: numbers of the layout that are given; None for the best layout.
        batch: requests in flight on all replicas together; None for the best batch.
        speculation: drafts of every decode step.
        shared_prefix: tokens that all prompts begin with.
    """

    model: ServedModel
    workload: Workload
    options: ServingOptions
    gpu_model: GpuModel
    engine: Engine | None
    layout: str | None
    batch: int | None
    speculation: Speculation
    shared_prefix: int

    @property
    def engines(self) -> Sequence[Engine | None]:
        """The engines to try."""
        if self.gpu_model is GpuModel.PUBLISHED:
            return (None,)
        return tuple(Engine) if self.engine is None else (self.engine,)


SitesOf = Callable[[ResolvedSystem], Sequence[Mapping[str, Site]]]
"""Returns the assignments of the mixers on a system. The best one is taken."""

_costs: Callable[[GpuModel, Engine | None], CostModel] = cache(cost_model)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The best way of a system to serve, or the reason why there is none.

    Attributes:
        system: the system.
        served: the best way; None if there is none.
        next_best: the best way with another layout.
        reason: why there is none.
        decomposition: where a gain of AttAccs comes from.
    """

    system: ResolvedSystem
    served: Served | None = None
    next_best: Served | None = None
    reason: str | None = None
    decomposition: Decomposition | None = None


def has_choice(system: ResolvedSystem) -> bool:
    """Return whether mixers of a system may run elsewhere than on its GPUs.

    Args:
        system: the system.
    """
    return system.spec.attention is not AttentionSite.GPU


def best_of(asked: Asked, system: ResolvedSystem, sites: Sequence[Mapping[str, Site]]) -> Found:
    """Find the best way of a system to serve whole requests.

    Args:
        asked: what is asked.
        system: the system.
        sites: assignments of the mixers to devices. The best one is taken.
    """
    ways: list[tuple[Served, Served | None]] = []
    refusals: list[InputError] = []
    for assignment in sites:

        def pricer_of(
            devices: ResolvedSystem,
            layout: Layout,
            engine: Engine | None,
            assignment: Mapping[str, Site] = assignment,
        ) -> Pricer:
            return Pricer(
                asked.model,
                devices,
                gpu_model=_costs(asked.gpu_model, engine),
                sites=assignment if has_choice(devices) else {},
                speculation=asked.speculation,
                shared_prefix=asked.shared_prefix,
                layout=replace(layout, replicas=1),
            )

        search = Search(
            pricer_of,
            system,
            asked.workload,
            asked.options,
            asked.engines,
            asked.model,
            asked.layout,
            asked.batch,
        )
        try:
            ways.append(search.best())
        except InputError as refusal:
            refusals.append(refusal)
    if not ways:
        why = refusals[0]
        return Found(system, reason=f"{why.message} ({why.hint})" if why.hint else why.message)
    best, other = max(ways, key=lambda way: way[0].requests_per_s)
    return Found(system, best, other)


Known = dict[str, Found]
"""The best ways of systems of a comparison, and of systems on the way to them."""


def known_as(system: ResolvedSystem) -> str:
    """Return all that the best way of a system depends on, as one text.

    Args:
        system: the system.
    """
    spec = system.spec.model_dump_json(exclude={"name", "description", "sources"})
    return f"{spec} {system.gpu.model_dump_json()}"


def with_causes(found: Found, asked: Asked, sites_of: SitesOf, known: Known) -> Found:
    """Add where the gain of a system with AttAccs comes from.

    Args:
        found: the best way of the system.
        asked: what is asked.
        sites_of: returns the assignments of the mixers on a system.
        known: best ways that are known, to which those that are found are added.
    """
    if found.served is None or found.system.attacc is None:
        return found
    own = found.served.requests_per_s, found.served.energy_j

    def best(system: ResolvedSystem) -> tuple[float, float]:
        if system is found.system:
            return own
        key = known_as(system)
        if key not in known:
            known[key] = best_of(asked, system, sites_of(system))
        other = known[key]
        if other.served is None:
            raise InputError(other.reason or "it serves nothing", where=system.name)
        return other.served.requests_per_s, other.served.energy_j

    return replace(found, decomposition=decompose(found.system, best))


def partner(mine: Found, all_of: Sequence[Found]) -> Found:
    """Return what a system is compared with.

    A system whose attention leaves the GPUs is compared with the same GPUs alone, if there are any,
    those with as much memory first. Any other system is compared with the first one.

    Args:
        mine: the system.
        all_of: all systems of the comparison.
    """
    if mine.system.spec.attention is AttentionSite.GPU:
        return all_of[0]
    alone = [
        other
        for other in all_of
        if other.system.spec.attention is AttentionSite.GPU
        and other.system.gpu.name == mine.system.gpu.name
        and other.system.gpus == mine.system.gpus
    ]
    same = mine.system.gpu.memory_bytes
    return min(alone, key=lambda one: one.system.gpu.memory_bytes != same, default=all_of[0])


def all_whole_requests(all_of: Sequence[Found], asked: Asked) -> list[WholeRequests | None]:
    """Return the figures of all systems; None for those that serve no requests.

    Args:
        all_of: all systems of the comparison.
        asked: what was asked.
    """
    draws = Draws.of()
    drawn = [
        None if one.served is None else outcomes(one.served, asked.workload, asked.options, draws)
        for one in all_of
    ]
    found: list[WholeRequests | None] = []
    for mine, own in zip(all_of, drawn, strict=True):
        base = partner(mine, all_of)
        other = drawn[all_of.index(base)]
        spread = energy = None
        if own is not None and other is not None:
            spread = range_of(own.requests_per_s / other.requests_per_s, draws)
            energy = range_of(other.energy_j / own.energy_j, draws)
        found.append(_whole_requests(mine, base, asked, spread, energy))
    return _with_thresholds(found, all_of, asked)


def _with_thresholds(
    found: Sequence[WholeRequests | None], all_of: Sequence[Found], asked: Asked
) -> list[WholeRequests | None]:
    """Add from which output length on the best AttAccs beside each baseline pay."""
    told: list[WholeRequests | None] = list(found)
    best: dict[str | None, int] = {}
    for number, (one, mine) in enumerate(zip(found, all_of, strict=True)):
        if one is None or one.speedup is None or mine.system.attacc is None:
            continue
        before = best.get(one.baseline)
        known = None if before is None else found[before]
        if known is None or known.speedup is None or one.speedup > known.speedup:
            best[one.baseline] = number
    for number in best.values():
        one, mine = found[number], all_of[number]
        base = partner(mine, all_of)
        if one is not None and mine.served is not None and base.served is not None:
            threshold = pays_from(mine.served, base.served, asked.workload, asked.options)
            told[number] = replace(one, pays_from=threshold)
    return told


def _whole_requests(
    mine: Found, base: Found, asked: Asked, spread: Range | None, energy: Range | None
) -> WholeRequests | None:
    """Return the figures of a system beside its baseline."""
    best, other = mine.served, mine.next_best
    if best is None:
        return None
    tokens = asked.workload.mean_output_tokens
    speedup = energy_ratio = None
    if base.served is not None:
        speedup = best.requests_per_s / base.served.requests_per_s
        energy_ratio = base.served.energy_j / best.energy_j
    return WholeRequests(
        layout=str(best.layout),
        prefill_layout=None if best.prefill is None else str(best.prefill.layout),
        engine=best.engine,
        prefill=asked.options.prefill,
        batch=best.batch,
        limit=best.limit,
        requests_per_s=best.requests_per_s,
        output_tokens_per_s=best.requests_per_s * tokens,
        ttft_ms=best.ttft_ns / NS_PER_MS,
        tpot_ms=best.tpot_ns / NS_PER_MS,
        prefill_share=best.prefill_share,
        energy_per_request_j=best.energy_j,
        energy_per_million_tokens_j=best.energy_j / tokens * MILLION,
        baseline=None if base.served is None else base.system.name,
        speedup=speedup,
        speedup_low=None if spread is None else spread.low,
        speedup_high=None if spread is None else spread.high,
        depends_most_on=None if spread is None else spread.depends_most_on,
        energy_ratio=energy_ratio,
        energy_ratio_low=None if energy is None else energy.low,
        energy_ratio_high=None if energy is None else energy.high,
        pays_from=None,
        next_best=None
        if other is None
        else NextBest(str(other.layout), other.engine, other.batch, other.requests_per_s * tokens),
        parts_ms={str(part): ns / NS_PER_MS for part, ns in best.parts_ns.items()},
        energies_j={name.removesuffix("_pj"): j for name, j in best.energies_j.items()},
        curve=tuple(
            CurvePoint(
                point.batch,
                point.requests_per_s * tokens,
                point.ttft_ns / NS_PER_MS,
                point.tpot_ns / NS_PER_MS,
            )
            for point in best.curve
        ),
        economy=_economy(mine, base, tokens),
        decomposition=mine.decomposition,
        estimates=told(best.estimates, beyond_context(asked.model, asked.workload)),
    )


def beyond_context(model: ServedModel, workload: Workload) -> tuple[str, ...]:
    """Return a note where prompts or requests are longer than the model was made for.

    Args:
        model: the model.
        workload: the requests.
    """
    return model.beyond_context(workload.max_final_tokens, int(workload.prompt_tokens.max()))


def _economy(mine: Found, base: Found, tokens: float) -> Economy:
    """Return what requests of a system cost, beside those of its baseline."""
    energy_j, usd, per_mm2 = _each(mine)
    base_energy_j, base_usd, base_per_mm2 = _each(base)
    return Economy(
        node_energy_per_request_j=energy_j,
        cost_per_request_usd=usd,
        cost_per_million_tokens_usd=None if usd is None else usd / tokens * MILLION,
        gain_per_dram_area=_ratio(per_mm2, base_per_mm2),
        gain_per_watt=_ratio(base_energy_j or None, energy_j or None),
        gain_per_usd=_ratio(base_usd, usd),
    )


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def _each(found: Found) -> tuple[float, float | None, float | None]:
    """Return energy of the node and dollars of one request, and requests per second and mm2.

    A layout may use a part of the GPUs; then only their part of the system counts.
    """
    served = found.served
    if served is None:
        return 0.0, None, None
    system, rate = found.system, served.requests_per_s
    used = served.gpus / system.gpus
    energy_j = served.energy_j + used * (system.spec.host_power_w or 0.0) / rate
    usd = per_mm2 = None
    with suppress(InputError):
        per_hour = Ownership().usd_per_h(used * money(system).node_price_usd, energy_j * rate)
        usd = per_hour / SECONDS_PER_HOUR / rate
    with suppress(InputError):
        per_mm2 = rate / (used * dram_area(system).total_mm2)
    return energy_j, usd, per_mm2
