"""Engines of a run, and what they did: one engine, or several behind a router.

A pool is the GPUs of one engine, and what prices its steps. Copies of a pool share the prices. The
boards of every engine draw power for as long as the whole run takes. An instance is what a router
sends requests to: one engine, or some that prefill and some that decode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import numpy as np

from attacc.gpu.costs import PARTS, Floats
from attacc.serving.disaggregated import move_of
from attacc.serving.engines.disaggregated import Decode, Prefill
from attacc.serving.pools import DecodeEngine, Pools, PrefillEngine
from attacc.serving.prices.steps import StepPrices
from attacc.serving.records.usage import usage_of
from attacc.serving.results import StepSurrogate
from attacc.serving.routing import RouterName, router_of
from attacc.serving.simulator import Answer, Engine, Instance, Run
from attacc.serving.started import EngineOptions, PolicyName, Started, start, v1_settings
from attacc.serving.work import Work
from attacc.system.boundary import constant_power
from attacc.system.capacity import Footprint
from attacc.system.pricer import Pricer
from attacc.units import PJ_PER_J, PS_PER_NS, PS_PER_S
from attacc.workload.requests import Requests

UNWRITTEN: Final = (
    "writes of moved keys and values into the stacks of AttAccs: decode steps beside them take no "
    "longer"
)
"""Note of prompts that come from GPUs that prefill."""
REMEMBERED: Final = 2**16
"""Lengths of prompts whose moves are kept; the least recently used ones are dropped."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The GPUs of one engine, or of several equal ones.

    Attributes:
        pricer: prices the steps of one of them.
        prices: durations of steps, from tables that the pricer fills.
        engines: how many engines there are in one system.
        more_ps: picoseconds by which the engine makes every step longer than its price.
    """

    pricer: Pricer
    prices: StepPrices
    engines: int = 1
    more_ps: int = 0

    def device_ps(self, work: Work) -> int:
        """Return how long the devices take for a step, in picoseconds."""
        return self.prices.device_ps(work) + self.more_ps


@dataclass(frozen=True, slots=True)
class Played:
    """An engine that was played.

    Attributes:
        name: its name.
        pool: its GPUs.
        started: what it was started with.
        engine: the engine.
        prefills: whether it only prefills: then another engine tells of the outputs.
        moves: of keys and values to it; None where it computes them.
    """

    name: str
    pool: Pool
    started: Started
    engine: Engine
    prefills: bool = False
    moves: Moves | None = None


class Moves:
    """Moves of keys and values from the GPUs that prefill to those that decode.

    Args:
        sent: what a request needs in memory on the GPUs that prefill.
        decode: prices the steps of those that decode.
        received: what a request needs in memory there.

    Attributes:
        energies_pj: (kinds,) energy of all moves by the kinds of `attacc.gpu.costs.PARTS`.
    """

    def __init__(self, sent: Footprint, decode: Pricer, received: Footprint) -> None:
        self._sent, self._decode, self._received = sent, decode, received
        self.energies_pj = np.zeros(len(PARTS))
        self._priced = lru_cache(maxsize=REMEMBERED)(self._price)

    def move_ps(self, tokens: int) -> int:
        """Move the keys and values of tokens, and return the picoseconds that it takes.

        Args:
            tokens: of a prompt.

        Raises:
            InputError: no link between the GPUs is stated.
        """
        time_ps, energies_pj = self._priced(tokens)
        self.energies_pj += energies_pj
        return time_ps

    @property
    def estimates(self) -> tuple[str, ...]:
        """What is left out of the moves."""
        return () if self._decode.attaccs is None else (UNWRITTEN,)

    def _price(self, tokens: int) -> tuple[int, Floats]:
        move = move_of(self._sent, self._decode, self._received, tokens)
        return round(move.time_ns * PS_PER_NS), move.energies_pj[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class EngineUse:
    """What one engine did.

    Attributes:
        name: name of its system, with a number where there are several of this name.
        layout: of the model over its GPUs.
        kv_blocks: blocks of memory that requests can have; slots of a token for SGLang.
        requests: requests that ended on it.
        rejected: requests that it could never run.
        steps: its steps.
        mean_running: requests that run, on average over time.
        kv_use: share of the blocks in use, on average over time.
        busy_share: share of the time in which a step runs.
        utilisation: share of the time in which GPUs, links between them, transfers to AttAccs, and
            AttAccs work.
        imbalance: time that the fullest channel of its AttAccs takes over that of the mean one;
            None where attention does not follow from what channels hold.
        energy_j: energy of its boards by what takes it, idle time included.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
        run: what happened.
    """

    name: str
    layout: str
    kv_blocks: int
    requests: int
    rejected: int
    steps: int
    mean_running: float
    kv_use: float
    busy_share: float
    utilisation: dict[str, float]
    imbalance: float | None
    energy_j: dict[str, float]
    estimates: tuple[str, ...] = field(repr=False)
    run: Run = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures; estimates stand beside those of all engines."""
        hidden = ("estimates", "run")
        return {name: getattr(self, name) for name in self.__slots__ if name not in hidden}


def begin(
    name: str,
    pools: Sequence[Pool],
    requests: Requests,
    options: EngineOptions,
    router: RouterName,
    answer: Answer,
) -> tuple[Instance, list[Played]]:
    """Return an instance that is about to be played, and its engines.

    Args:
        name: of the instance.
        pools: the GPUs of its engine, or those that prefill and those that decode.
        requests: what all instances will serve.
        options: what engines are started with.
        router: chooses among several engines that prefill, and among those that decode.
        answer: is told when a request ends or is rejected.

    Raises:
        CapacityError: not even one token fits.
        InputError: an option is wrong.
    """
    if options.policy is PolicyName.DISAGGREGATED:
        return _begin_pools(name, pools[0], pools[1], requests, options, router, answer)
    pool = pools[0]
    started = start(pool.pricer, requests, options)
    started.policy.residents = pool.prices.residents(started.unit_tokens)
    engine = Engine(started.policy, pool.device_ps, pool.prices.host_ps, answer)
    return Instance([engine]), [Played(name, pool, started, engine)]


def _begin_pools(
    name: str,
    first: Pool,
    second: Pool,
    requests: Requests,
    options: EngineOptions,
    router: RouterName,
    answer: Answer,
) -> tuple[Instance, list[Played]]:
    """Return engines that prefill, and engines that decode."""
    settings = [v1_settings(pool.pricer, requests, options) for pool in (first, second)]
    needs = [
        pool.pricer.need(
            requests.workload(), chunk_tokens=own.max_num_batched_tokens, staggered=True
        )
        for pool, own in zip((first, second), settings, strict=True)
    ]
    prefills = [Prefill(settings[0]) for _ in range(first.engines)]
    decodes = [Decode(settings[1]) for _ in range(second.engines)]
    for own in decodes:
        own.residents = second.prices.residents(settings[1].block_tokens)
    moves = [Moves(needs[0], second.pricer, needs[1]) for _ in decodes]
    times = [(pool.device_ps, pool.prices.host_ps) for pool in (first, second)]
    instance = Pools(
        lambda hand_on: [PrefillEngine(own, *times[0], answer, hand_on) for own in prefills],
        [
            DecodeEngine(own, *times[1], answer, move.move_ps)
            for own, move in zip(decodes, moves, strict=True)
        ],
        (router_of(router), router_of(router)),
    )
    parts = [f"{name} prefill"] * first.engines + [f"{name} decode"] * second.engines
    played: list[Played] = []
    for number, (part, engine) in enumerate(zip(numbered(parts), instance.engines, strict=True)):
        place = number - first.engines
        pool, own = (second, settings[1]) if place >= 0 else (first, settings[0])
        started = Started(engine.run.policy, own.blocks - 1, own.block_tokens)
        played.append(
            Played(part, pool, started, engine, place < 0, moves[place] if place >= 0 else None)
        )
    return instance, played


def use_of(played: Played, duration_s: float) -> EngineUse:
    """Return what an engine did.

    Args:
        played: the engine.
        duration_s: of the whole run.
    """
    run, capacity, pricer = played.engine.run, played.started.capacity, played.pool.pricer
    used = usage_of(run.steps, played.pool.prices, capacity)
    total, totals = duration_s * PS_PER_S, used.totals
    duration_ns = total / PS_PER_NS
    standby = None if pricer.attaccs is None else pricer.attaccs.standby
    boards = constant_power(pricer.system, pricer.costs.static_w(pricer.system.gpu), standby)
    # Steps count what boards draw at any time for their own durations, and not between them.
    between = boards.of_boards(duration_ns - totals.time_ns)
    moved = np.zeros(len(PARTS)) if played.moves is None else played.moves.energies_pj
    notes = () if played.moves is None else played.moves.estimates
    return EngineUse(
        name=played.name,
        layout=str(pricer.layout),
        kv_blocks=capacity,
        requests=len(run.policy.ledger),
        rejected=len(run.rejected),
        steps=len(run.steps),
        mean_running=used.running / total,
        kv_use=used.used / total / capacity,
        busy_share=used.busy_ps / total,
        utilisation={
            "gpus": totals.gpus_ns / duration_ns,
            "links": totals.links_ns / duration_ns,
            "transfers": totals.transfers_ns / duration_ns,
            "attaccs": totals.away_ns / duration_ns,
        },
        imbalance=used.imbalance,
        energy_j={
            part.removesuffix("_pj"): (
                getattr(totals.energy, part) + getattr(between, part) + moved_pj
            )
            / PJ_PER_J
            for part, moved_pj in zip(PARTS, moved.tolist(), strict=True)
        },
        estimates=(*totals.estimates, *notes),
        run=run,
    )


def mean_of(shares: Sequence[float]) -> float:
    """Return the mean of the shares of all engines."""
    return sum(shares) / len(shares)


def surrogate_of(pools: Iterable[Pool]) -> StepSurrogate:
    """Return how far fast prices of all pools are from exact ones.

    Args:
        pools: the pools; copies of one pool count once.
    """
    checks = [prices.check() for prices in {id(pool): pool.prices for pool in pools}.values()]
    return StepSurrogate(
        max(check.bound for check in checks),
        sum(check.sampled_steps for check in checks),
        max(check.max_deviation for check in checks),
    )


def numbered(names: Sequence[str]) -> list[str]:
    """Return names that differ: those that occur several times get a number each."""
    found, seen = Counter(names), Counter[str]()
    own: list[str] = []
    for name in names:
        seen[name] += 1
        own.append(f"{name} {seen[name]}" if found[name] > 1 else name)
    return own


def together(names: Sequence[str]) -> str:
    """Return one name for all: "2 x 8xh100 + 8xh200", say."""
    groups = [(name, len([*same])) for name, same in groupby(names)]
    return " + ".join(f"{count} x {name}" if count > 1 else name for name, count in groups)
