"""The best batch of one layout of a model over GPUs, within latency targets.

The fullest batch is not always the best: tiles fit some batches better, and a smaller batch answers
faster. So the batch is the one with the highest throughput that keeps the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from attacc.errors import InputError
from attacc.gpu.costs import PARTS
from attacc.gpu.models import Engine
from attacc.serving.disaggregated import Move, PrefillSide
from attacc.serving.policies import ENGINE_RULES, NO_ENGINE, EngineRules, ServingOptions
from attacc.serving.steady import SteadyStates, steady_states, within
from attacc.system.batches import Ints
from attacc.system.capacity import Footprint
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.system.step import Group
from attacc.units import NS_PER_MS
from attacc.workload.requests import Workload

PER_DOUBLING: Final = 4
"""Sizes of batches that are tried between a size and twice this size."""


class ServingLimit(StrEnum):
    """The reason why no larger batch serves more requests."""

    MEMORY = "memory"
    """The memory holds no more requests."""
    ENGINE = "engine"
    """The engine takes no more requests."""
    TOKENS = "token_budget"
    """More requests leave no room for their prompts in a step."""
    TPOT = "tpot_target"
    TTFT = "ttft_target"
    PREFILL = "prefill"
    """The GPUs that prefill pass no more requests on."""
    GIVEN = "given"
    THROUGHPUT = "throughput"
    """Larger batches fit, and serve fewer requests in a second."""


@dataclass(frozen=True, slots=True)
class Point:
    """One batch of a layout.

    Attributes:
        batch: requests in flight that decode, on all replicas together.
        requests_per_s: requests that end in a second, on all replicas together.
        ttft_ns: time to the first token of a request that does not queue.
        tpot_ns: mean time per output token after the first.
    """

    batch: int
    requests_per_s: float
    ttft_ns: float
    tpot_ns: float


def _curve(states: SteadyStates, layout: Layout) -> tuple[Point, ...]:
    """Return the states of one replica as points of all replicas."""
    return tuple(
        Point(layout.replicas * size, layout.replicas * rate, ttft_ns, tpot_ns)
        for size, rate, ttft_ns, tpot_ns in zip(
            states.decoding.tolist(),
            states.requests_per_s.tolist(),
            states.ttft_ns.tolist(),
            states.tpot_ns.tolist(),
            strict=True,
        )
    )


@dataclass(frozen=True, slots=True)
class Served:
    """One way to serve a workload.

    Attributes:
        layout: of the model over the GPUs; over those that decode, where others prefill.
        engine: whose kernels and host are priced; None for the published GPU model.
        batch: requests in flight that decode, on all replicas together.
        requests_per_s: requests that end in a second, on all replicas together.
        ttft_ns: time to the first token of a request that does not queue.
        tpot_ns: mean time per output token after the first.
        prefill_share: share of the steps that prefill.
        limit: reason why no larger batch is used.
        parts_ns: time of one request on one replica that decodes, by parts: its share of the
            steps.
        energies_j: energy of one request by the kinds of `attacc.gpu.costs.PARTS`.
        curve: batches that were tried in this layout, with what they give.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
        pricer: prices the steps of one replica.
        prefill: other GPUs that prefill; None where there are none.
        move: of a prompt's keys and values from these GPUs; likewise.
    """

    layout: Layout
    engine: Engine | None
    batch: int
    requests_per_s: float
    ttft_ns: float
    tpot_ns: float
    prefill_share: float
    limit: ServingLimit
    parts_ns: Mapping[Group, float]
    energies_j: Mapping[str, float]
    curve: tuple[Point, ...]
    estimates: tuple[str, ...]
    pricer: Pricer
    prefill: PrefillSide | None = None
    move: Move | None = None

    @property
    def energy_j(self) -> float:
        """Energy of one request."""
        return sum(self.energies_j.values())

    @property
    def gpus(self) -> int:
        """GPUs that the layout uses, those that only prefill included."""
        return self.layout.gpus + (0 if self.prefill is None else self.prefill.layout.gpus)


class TargetError(InputError):
    """No batch keeps the latency targets."""


def sizes_up_to(most: int) -> Ints:
    """Return sizes of batches to try: evenly spread, and powers of 2 among them.

    Args:
        most: the largest, which is tried, too.
    """
    octaves = np.arange(int(np.log2(most)) + 1)
    each = 2.0 ** octaves[:, None] * (1 + np.arange(PER_DOUBLING) / PER_DOUBLING)
    found = np.unique(np.append(each[each == np.floor(each)], most)).astype(np.int64)
    return found[found <= most]


class BatchSearch:
    """Finds the best batch of one layout and engine.

    Among many batches, attention on AttAccs is interpolated over the size of the batch. So the rate
    of the best batch is an estimate, until that batch is priced by itself.

    Args:
        pricer: prices the steps of one replica.
        workload: the requests.
        options: what is asked.
        layout: of the model over the GPUs.
        engine: whose steps are priced.
        batch: requests in flight on all replicas together; None for the best batch.

    Attributes:
        layout: of the model over the GPUs.

    Raises:
        CapacityError: not even one request fits, or the batch does not.
        InputError: no batch keeps the targets, or the budget has no room.
    """

    def __init__(
        self,
        pricer: Pricer,
        workload: Workload,
        options: ServingOptions,
        layout: Layout,
        engine: Engine | None,
        *,
        batch: int | None = None,
    ) -> None:
        self.layout: Final = layout
        self._pricer, self._workload, self._options = pricer, workload, options
        self._engine = engine
        self._need = need_of(pricer, workload, options, engine)
        share = None if batch is None else -(-batch // layout.replicas)
        fits = pricer.most(self._need, share)
        self._most = min(fits, rules_of(engine).most_requests)
        self._limit = ServingLimit.MEMORY if self._most == fits else ServingLimit.ENGINE
        sizes = sizes_up_to(self._most)
        if share is not None:
            sizes, self._limit, self._most = np.array([share]), ServingLimit.GIVEN, share
        if options.slo_tpot_ms is not None:
            possible = self._possible(sizes, options.slo_tpot_ms)
            if possible.size < sizes.size:
                sizes, self._limit, self._most = possible, ServingLimit.TPOT, int(possible[-1])
        self._states = self._states_of(sizes)
        self._kept = self._within(self._states)
        if not self._kept.size:
            raise _misses(self._states, options)

    def _possible(self, sizes: Ints, slo_tpot_ms: float) -> Ints:
        """Return the sizes that may keep a target, and the smallest one.

        Other sizes miss it by the multiplies on AttAccs alone.
        """
        shortest = int(self._workload.prompt_tokens.min()) + 1
        least_ms = self._pricer.least_ns(sizes, shortest) / NS_PER_MS
        possible = least_ms <= slo_tpot_ms * self._pricer.speculation.tokens_per_step
        possible[0] = True
        return sizes[possible]

    def _states_of(self, sizes: Ints) -> SteadyStates:
        return steady_states(
            self._pricer,
            self._workload,
            sizes,
            self._need,
            policy=self._options.prefill,
            token_budget=self._options.token_budget * self.layout.dp,
        )

    def _within(self, states: SteadyStates) -> Ints:
        options = self._options
        return within(states, slo_tpot_ms=options.slo_tpot_ms, slo_ttft_ms=options.slo_ttft_ms)

    @property
    def _place(self) -> int:
        """Place of the batch with most requests per second among those that keep the targets."""
        return int(self._kept[np.argmax(self._states.requests_per_s[self._kept])])

    @property
    def requests_per_s(self) -> float:
        """Requests per second of the best batch on all replicas together, an estimate."""
        return float(self._states.requests_per_s[self._place]) * self.layout.replicas

    def priced(self) -> Served | None:
        """Price the best batch by itself.

        Returns:
            The batch; None if it misses a target after all. Then another batch is the best.

        Raises:
            InputError: no other batch is left.
        """
        best = self._place
        one = self._states
        if one.decoding.size > 1:
            one = self._states_of(one.decoding[best : best + 1])
            if not self._within(one).size:
                self._kept = self._kept[self._kept != best]
                if not self._kept.size:
                    raise _misses(self._states, self._options)
                return None
        size = int(one.decoding[0])
        return Served(
            layout=self.layout,
            engine=self._engine,
            batch=size * self.layout.replicas,
            requests_per_s=float(one.requests_per_s[0]) * self.layout.replicas,
            ttft_ns=float(one.ttft_ns[0]),
            tpot_ns=float(one.tpot_ns[0]),
            prefill_share=float(one.prefill_share[0]),
            limit=self._limit_of(best),
            parts_ns=dict(zip(Group, one.parts_ns[:, 0].tolist(), strict=True)),
            energies_j=dict(zip(PARTS, one.energies_j[:, 0].tolist(), strict=True)),
            curve=_curve(self._states, self.layout),
            estimates=one.estimates,
            pricer=self._pricer,
        )

    def _limit_of(self, best: int) -> ServingLimit:
        """Return the reason why no larger batch than the best one is used."""
        states, options = self._states, self._options
        last = states.decoding.size - 1
        if best < last:
            if best + 1 in self._kept:
                return ServingLimit.THROUGHPUT
            late = options.slo_ttft_ms is not None and (
                best + 1 not in within(states, slo_ttft_ms=options.slo_ttft_ms)
            )
            return ServingLimit.TTFT if late else ServingLimit.TPOT
        return ServingLimit.TOKENS if states.decoding[last] < self._most else self._limit

    def best(self) -> Served:
        """Return the best batch, priced by itself.

        Raises:
            InputError: no batch keeps the targets.
        """
        while True:
            found = self.priced()
            if found is not None:
                return found


def rules_of(engine: Engine | None) -> EngineRules:
    """Return what an engine allows; the published GPU model has none."""
    return NO_ENGINE if engine is None else ENGINE_RULES[engine]


def need_of(
    pricer: Pricer, workload: Workload, options: ServingOptions, engine: Engine | None
) -> Footprint:
    """Return what requests need in memory, by the engine's rules."""
    return pricer.need(
        workload,
        chunk_tokens=options.token_budget,
        staggered=not rules_of(engine).reserves_output,
    )


def _misses(states: SteadyStates, options: ServingOptions) -> TargetError:
    asked = [
        f"{name} of {target:g} ms"
        for name, target in (("TPOT", options.slo_tpot_ms), ("TTFT", options.slo_ttft_ms))
        if target is not None
    ]
    return TargetError(
        f"no batch keeps a {' and a '.join(asked)}: one request alone has a TPOT of "
        f"{states.tpot_ns[0] / 1e6:.3g} ms and a TTFT of {states.ttft_ns[0] / 1e6:.3g} ms",
        where="slo",
        hint="allow more time, or use more GPUs",
    )
