"""What engines of a run did: one engine, or several behind a router.

A pool is the GPUs of one engine, and what prices its steps. Copies of a pool share the prices. The
boards of every engine draw power for as long as the whole run takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from attacc.gpu.costs import PARTS
from attacc.serving.prices.steps import StepPrices
from attacc.serving.records.usage import usage_of
from attacc.serving.results import StepSurrogate
from attacc.serving.simulator import Answer, Engine, Run
from attacc.serving.started import Started
from attacc.system.boundary import constant_power
from attacc.system.pricer import Pricer
from attacc.units import PJ_PER_J, PS_PER_NS, PS_PER_S


@dataclass(frozen=True, slots=True)
class Pool:
    """The GPUs of one engine.

    Attributes:
        pricer: prices their steps.
        prices: durations of steps, from tables that the pricer fills.
    """

    pricer: Pricer
    prices: StepPrices


@dataclass(frozen=True, slots=True)
class Played:
    """An engine that was played.

    Attributes:
        name: of the instance that it belongs to.
        pool: its GPUs.
        started: what it was started with.
        engine: the engine.
    """

    name: str
    pool: Pool
    started: Started
    engine: Engine


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


def begin(name: str, pool: Pool, started: Started, answer: Answer) -> Played:
    """Return an engine that is about to be played.

    Args:
        name: of the instance that it belongs to.
        pool: its GPUs.
        started: what it is started with.
        answer: is told when a request ends or is rejected.
    """
    started.policy.residents = pool.prices.residents()
    engine = Engine(started.policy, pool.prices.device_ps, pool.prices.host_ps, answer)
    return Played(name, pool, started, engine)


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
            part.removesuffix("_pj"): (getattr(totals.energy, part) + getattr(between, part))
            / PJ_PER_J
            for part in PARTS
        },
        estimates=totals.estimates,
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
