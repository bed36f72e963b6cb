"""The layout, the engine and the batch that serve most requests within latency targets.

Every layout of the model over the GPUs is tried with every engine, and batches of many sizes. The
fullest batch is not always the best: tiles fit some batches better, and a smaller batch answers
faster. So the batch is the one with the highest throughput that keeps the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeGuard

import numpy as np

from attacc.errors import CapacityError, InputError
from attacc.gpu.costs import PARTS, Floats
from attacc.gpu.models import Engine
from attacc.hardware.system import ResolvedSystem, gpus_alone, with_keys
from attacc.models.architecture import divisors
from attacc.models.feedforward import Mixture
from attacc.models.mixers import AnyMixer, Attention
from attacc.models.served import ServedModel, splits_of
from attacc.serving.policies import (
    ENGINE_RULES,
    NO_ENGINE,
    EngineRules,
    PrefillPolicy,
    ServingOptions,
)
from attacc.serving.steady import SteadyStates, prefill_alone, steady_states, told, within
from attacc.system.batches import Ints
from attacc.system.boundary import constant_power
from attacc.system.capacity import Footprint
from attacc.system.layout import Layout
from attacc.system.pricer import Drawn, Pricer
from attacc.system.step import Group
from attacc.units import NS_PER_MS, NS_PER_S, PJ_PER_J
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
        layout: of the model over the GPUs.
        engine: whose kernels and host are priced; None for the published GPU model.
        batch: requests in flight that decode, on all replicas together.
        requests_per_s: requests that end in a second, on all replicas together.
        ttft_ns: time to the first token of a request that does not queue.
        tpot_ns: mean time per output token after the first.
        energy_j: energy of one request.
        prefill_share: share of the steps that prefill.
        limit: reason why no larger batch is used.
        parts_ns: time of one request on one replica, by parts: its share of the steps.
        energies_j: energy of one request by the kinds of `attacc.gpu.costs.PARTS`.
        curve: batches that were tried in this layout, with what they give.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
        pricer: prices the steps of one replica.
        prefill_pricer: prices the prefills of one replica, where other GPUs prefill.
        prefill_layout: of the model over these GPUs.
    """

    layout: Layout
    engine: Engine | None
    batch: int
    requests_per_s: float
    ttft_ns: float
    tpot_ns: float
    energy_j: float
    prefill_share: float
    limit: ServingLimit
    parts_ns: Mapping[Group, float]
    energies_j: Mapping[str, float]
    curve: tuple[Point, ...]
    estimates: tuple[str, ...]
    pricer: Pricer
    prefill_pricer: Pricer | None = None
    prefill_layout: Layout | None = None

    @property
    def gpus(self) -> int:
        """GPUs that the layout uses, those that only prefill included."""
        return self.layout.gpus + (0 if self.prefill_layout is None else self.prefill_layout.gpus)


class _TargetError(InputError):
    """No batch keeps the latency targets."""


PricerOf = Callable[[ResolvedSystem, Layout, Engine | None], Pricer]
"""Returns the pricer of one replica: the replica's devices, the layout, and the engine."""


def replica(system: ResolvedSystem, layout: Layout) -> ResolvedSystem:
    """Return the devices of one replica as a system.

    Args:
        system: all devices.
        layout: of a model over its GPUs. It may use fewer GPUs than there are; then the other
            devices that belong to these GPUs are left out, too.

    Raises:
        InputError: there are fewer GPUs than the layout uses, or the AttAccs or CPUs cannot be
            dealt out evenly.
    """
    if layout.gpus > system.gpus:
        raise InputError(
            f"{layout} takes {layout.gpus} GPUs, and {system.name} has {system.gpus}",
            where="layout",
            hint="use fewer GPUs",
        )
    if layout.tp == system.gpus:
        return system
    changes: dict[str, object] = {"gpus": layout.tp}
    spec = system.spec
    if spec.attacc is not None:
        devices = _dealt(spec.attacc.devices, "attacc.devices", layout, system)
        changes["attacc"] = spec.attacc.model_copy(update={"devices": devices})
    if spec.cpu is not None:
        count = _dealt(spec.cpu.count, "cpu.count", layout, system)
        changes["cpu"] = spec.cpu.model_copy(update={"count": count})
    return with_keys(system, changes)


def _dealt(count: int, key: str, layout: Layout, system: ResolvedSystem) -> int:
    """Return the devices that belong to the GPUs of one replica."""
    if count * layout.tp % system.gpus:
        raise InputError(
            f"{count} devices ({key}) are not dealt out evenly to {layout.tp} of "
            f"{system.gpus} GPUs",
            where="layout",
            hint="use another tp",
        )
    return count * layout.tp // system.gpus


def layouts(
    system: ResolvedSystem, model: ServedModel, fixed: str | None = None
) -> Iterator[Layout]:
    """Yield the layouts to try, most GPUs in a replica first.

    Experts are split over all GPUs of a replica, or each GPU has its own ones. All GPUs share the
    mixers; or, where the model has experts, each GPU has requests of its own; or, where GPUs
    outnumber the key/value heads, there are groups with as many GPUs as heads.

    Args:
        system: the system.
        model: the model.
        fixed: numbers that are given, as `Layout.stated` reads them. Where replicas are not named,
            they take all GPUs.

    Raises:
        InputError: as in `Layout.stated`.
    """
    given = Layout.stated(fixed) if fixed is not None else {}
    heads = [layer.mixer.kv_heads for layer in model.model.layers if _has_heads(layer.mixer)]
    for tp in [given["tp"]] if "tp" in given else divisors(system.gpus)[::-1]:
        replicas = given.get("replicas", max(1, system.gpus // tp))
        groups = {1, *(tp // some for some in heads if tp % some == 0)}
        if any(isinstance(layer.feed_forward, Mixture) for layer in model.model.layers):
            groups.add(tp)
        found = [
            layout
            for split in splits_of(model, tp)
            for layout in [Layout(tp, replicas, split.expert_parts, split.mixer_groups)]
            if given.get("dp", layout.dp) == layout.dp
            and given.get("ep", layout.ep) == layout.ep
            and ("dp" in given or layout.dp in groups)
            and ("ep" in given or layout.ep in (1, tp))
        ]
        if not found and "tp" in given:
            # A layout that is asked for is refused by the pricer, which says why.
            found = [Layout(tp, replicas, given.get("ep", 1), given.get("dp", 1))]
        yield from found


def _has_heads(mixer: AnyMixer | None) -> TypeGuard[Attention]:
    return isinstance(mixer, Attention)


def sizes_up_to(most: int) -> Ints:
    """Return sizes of batches to try: evenly spread, and powers of 2 among them.

    Args:
        most: the largest, which is tried, too.
    """
    octaves = np.arange(int(np.log2(most)) + 1)
    each = 2.0 ** octaves[:, None] * (1 + np.arange(PER_DOUBLING) / PER_DOUBLING)
    found = np.unique(np.append(each[each == np.floor(each)], most)).astype(np.int64)
    return found[found <= most]


def served_by(
    pricer: Pricer,
    workload: Workload,
    options: ServingOptions,
    layout: Layout,
    engine: Engine | None,
    *,
    batch: int | None = None,
) -> Served:
    """Return the best batch of one layout.

    Args:
        pricer: prices the steps of one replica.
        workload: the requests.
        options: what is asked.
        layout: of the model over the GPUs.
        engine: whose steps are priced.
        batch: requests in flight on all replicas together; None for the best batch.

    Raises:
        CapacityError: not even one request fits, or the batch does not.
        InputError: no batch keeps the targets, or the budget has no room.
    """
    need = _need(pricer, workload, options, engine)
    share = None if batch is None else -(-batch // layout.replicas)
    fits = pricer.most(need, share)
    most = min(fits, _rules(engine).most_requests)
    limit = ServingLimit.MEMORY if most == fits else ServingLimit.ENGINE
    sizes = sizes_up_to(most)
    if share is not None:
        sizes, limit, most = np.array([share]), ServingLimit.GIVEN, share

    def states_of(sizes: Ints) -> SteadyStates:
        return steady_states(
            pricer,
            workload,
            sizes,
            need,
            policy=options.prefill,
            token_budget=options.token_budget * layout.dp,
        )

    states = states_of(sizes)
    best, kept, one = _best_within(states, states_of, options)
    last = states.decoding.size - 1
    if best < last:
        limit = ServingLimit.THROUGHPUT
        if best + 1 not in kept:
            late = options.slo_ttft_ms is not None and (
                best + 1 not in within(states, slo_ttft_ms=options.slo_ttft_ms)
            )
            limit = ServingLimit.TTFT if late else ServingLimit.TPOT
    elif states.decoding[last] < most:
        limit = ServingLimit.TOKENS
    size = int(states.decoding[best])
    return Served(
        layout=layout,
        engine=engine,
        batch=size * layout.replicas,
        requests_per_s=float(one.requests_per_s[0]) * layout.replicas,
        ttft_ns=float(one.ttft_ns[0]),
        tpot_ns=float(one.tpot_ns[0]),
        energy_j=float(one.energy_j[0]),
        prefill_share=float(one.prefill_share[0]),
        limit=limit,
        parts_ns=dict(zip(Group, one.parts_ns[:, 0].tolist(), strict=True)),
        energies_j=dict(zip(PARTS, one.energies_j[:, 0].tolist(), strict=True)),
        curve=_curve(states, layout),
        estimates=one.estimates,
        pricer=pricer,
    )


def _best_within(
    states: SteadyStates, states_of: Callable[[Ints], SteadyStates], options: ServingOptions
) -> tuple[int, Ints, SteadyStates]:
    """Return the batch with most requests per second that keeps the targets.

    Among many batches, attention on AttAccs is interpolated over the size of the batch. The batch
    that is chosen is priced again without, and must keep the targets then, too.

    Args:
        states: of all batches.
        states_of: returns the steady states of other batches.
        options: what is asked.

    Returns:
        The batch's place among all, the places of those that keep the targets, and its state alone.

    Raises:
        InputError: no batch keeps the targets.
    """

    def those_within(some: SteadyStates) -> Ints:
        return within(some, slo_tpot_ms=options.slo_tpot_ms, slo_ttft_ms=options.slo_ttft_ms)

    kept = those_within(states)
    while kept.size:
        best = int(kept[np.argmax(states.requests_per_s[kept])])
        one = states_of(states.decoding[best : best + 1])
        if those_within(one).size:
            return best, kept, one
        kept = kept[kept != best]
    raise _misses(states, options)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnStates:
    """A way to serve, for draws of what is not known exactly.

    Attributes:
        requests_per_s: (draws,) requests that end in a second, on all replicas together.
        energies_j: (kinds, draws) energy of one request by the kinds of `attacc.gpu.costs.PARTS`.
    """

    requests_per_s: Floats
    energies_j: Floats


def states_drawn(
    way: Served, workload: Workload, options: ServingOptions, drawn: Drawn
) -> DrawnStates:
    """Return what a way to serve gives, for draws of what is not known exactly.

    The layout and the batch stay those of the best estimates.

    Args:
        way: the way.
        workload: the requests.
        options: what was asked.
        drawn: (draws,) factors.
    """
    draws, pricer = drawn.attacc.size, way.pricer
    states = steady_states(
        pricer,
        workload,
        np.full(draws, -(-way.batch // way.layout.replicas)),
        _need(pricer, workload, options, way.engine),
        policy=options.prefill,
        token_budget=options.token_budget * way.layout.dp,
        drawn=drawn,
    )
    rates = np.broadcast_to(states.requests_per_s, (draws,)) * way.layout.replicas
    energies_j = np.broadcast_to(states.energies_j, (len(PARTS), draws))
    if way.prefill_pricer is not None and way.prefill_layout is not None:
        prefill = prefill_alone(way.prefill_pricer, workload, drawn)
        rates = np.minimum(rates, way.prefill_layout.replicas * NS_PER_S / prefill.time_ns)
        energies_j = energies_j + prefill.steps.energies_pj / PJ_PER_J
    return DrawnStates(rates, energies_j)


def _rules(engine: Engine | None) -> EngineRules:
    return NO_ENGINE if engine is None else ENGINE_RULES[engine]


def _need(
    pricer: Pricer, workload: Workload, options: ServingOptions, engine: Engine | None
) -> Footprint:
    """Return what requests need in memory, by the engine's rules."""
    return pricer.need(
        workload,
        chunk_tokens=options.token_budget,
        staggered=not _rules(engine).reserves_output,
    )


def _misses(states: SteadyStates, options: ServingOptions) -> _TargetError:
    asked = [
        f"{name} of {target:g} ms"
        for name, target in (("TPOT", options.slo_tpot_ms), ("TTFT", options.slo_ttft_ms))
        if target is not None
    ]
    return _TargetError(
        f"no batch keeps a {' and a '.join(asked)}: one request alone has a TPOT of "
        f"{states.tpot_ns[0] / 1e6:.3g} ms and a TTFT of {states.ttft_ns[0] / 1e6:.3g} ms",
        where="slo",
        hint="allow more time, or use more GPUs",
    )


@dataclass(frozen=True, slots=True)
class _PrefillSide:
    """GPUs that do nothing but prefill.

    Attributes:
        requests_per_s: prompts that they prefill in a second at most.
        ttft_ns: time of one prefill.
        energy_j: energy of one prefill.
        static_w: power of these GPUs while they wait.
        estimates: parts of the price that are scaled, assumed, or beyond the fitted range.
        pricer: prices the prefills of one replica.
        layout: of the model over these GPUs.
    """

    requests_per_s: float
    ttft_ns: float
    energy_j: float
    static_w: float
    estimates: tuple[str, ...]
    pricer: Pricer
    layout: Layout


@dataclass(frozen=True, slots=True)
class Search:
    """What ways to serve there are.

    Attributes:
        pricer_of: returns the pricer of one replica.
        system: all devices.
        workload: the requests.
        options: what is asked.
        engines: engines to try; None for the published GPU model.
        model: the model.
        fixed: numbers of the layout that are given.
        batch: requests in flight on all replicas together; None for the best batch.
    """

    pricer_of: PricerOf
    system: ResolvedSystem
    workload: Workload
    options: ServingOptions
    engines: Sequence[Engine | None]
    model: ServedModel
    fixed: str | None = None
    batch: int | None = None

    def best(self) -> tuple[Served, Served | None]:
        """Return the way to serve most requests in a second, and the next best one.

        The next best way differs in the layout.

        Raises:
            CapacityError: not even one request fits into any layout.
            InputError: no layout splits the model or the devices, or none keeps the targets.
        """
        found: list[Served] = []
        refusals: list[InputError] = []
        system = self._decoding()
        for engine in self.engines:
            side = self._prefilling(engine)
            for layout in layouts(system, self.model, self.fixed):
                try:
                    pricer = self.pricer_of(replica(system, layout), layout, engine)
                    one = served_by(
                        pricer, self.workload, self.options, layout, engine, batch=self.batch
                    )
                except InputError as refusal:
                    refusals.append(refusal)
                    continue
                found.append(one if side is None else _behind(side, one))
        if not found:
            raise _most_telling(refusals)
        found.sort(key=lambda one: -one.requests_per_s)
        others = (one for one in found if one.layout != found[0].layout)
        return found[0], next(others, None)

    def _decoding(self) -> ResolvedSystem:
        """Return the devices that decode."""
        if self.options.prefill is not PrefillPolicy.DISAGGREGATED:
            return self.system
        some = self.options.prefill_gpus
        if some is None or not 1 <= some < self.system.gpus:
            raise InputError(
                "how many GPUs prefill is not said" if some is None else f"{some} is out of range",
                where="prefill_gpus",
                hint=f"{self.system.name} has {self.system.gpus} GPUs: give a part of them",
            )
        return with_keys(self.system, {"gpus": self.system.gpus - some})

    def _prefilling(self, engine: Engine | None) -> _PrefillSide | None:
        """Return the GPUs that only prefill, in their best layout; None where there are none."""
        some = self.options.prefill_gpus
        if self.options.prefill is not PrefillPolicy.DISAGGREGATED or some is None:
            return None
        gpus = with_keys(gpus_alone(self.system), {"gpus": some})
        sides: list[_PrefillSide] = []
        refusals: list[InputError] = []
        for layout in layouts(gpus, self.model):
            try:
                pricer = self.pricer_of(replica(gpus, layout), layout, engine)
                pricer.most(_need(pricer, self.workload, self.options, engine), 1)
                one = prefill_alone(pricer, self.workload)
            except InputError as refusal:
                refusals.append(refusal)
                continue
            static_w = layout.gpus * pricer.costs.static_w(gpus.gpu)
            time_ns = float(one.time_ns[0])
            rate = layout.replicas * NS_PER_S / time_ns
            sides.append(
                _PrefillSide(
                    requests_per_s=rate,
                    ttft_ns=time_ns,
                    energy_j=one.energy_j,
                    static_w=static_w,
                    estimates=one.steps.estimates,
                    pricer=pricer,
                    layout=layout,
                )
            )
        target_ms = self.options.slo_ttft_ms
        quick = [s for s in sides if target_ms is None or s.ttft_ns <= target_ms * NS_PER_MS]
        if not quick:
            raise (
                _most_telling(refusals)
                if not sides
                else InputError(
                    f"no layout of {some} GPUs prefills within {target_ms:g} ms",
                    where="slo_ttft_ms",
                    hint="allow more time, or let more GPUs prefill",
                )
            )
        return max(quick, key=lambda side: side.requests_per_s)


def _behind(side: _PrefillSide, decode: Served) -> Served:
    """Return a way to decode, with the GPUs that prefill for it.

    The slower side decides the rate. The boards of the other one wait for a part of the time.
    """
    rate = min(side.requests_per_s, decode.requests_per_s)
    system, costs, attaccs = decode.pricer.system, decode.pricer.costs, decode.pricer.attaccs
    standby = None if attaccs is None else attaccs.standby
    each = constant_power(system, costs.static_w(system.gpu), standby)
    idle_j = side.static_w * (1 / rate - 1 / side.requests_per_s)
    idle_j += decode.layout.replicas * each.boards_w * (1 / rate - 1 / decode.requests_per_s)
    return replace(
        decode,
        requests_per_s=rate,
        ttft_ns=side.ttft_ns,
        energy_j=decode.energy_j + side.energy_j + idle_j,
        limit=ServingLimit.PREFILL if rate < decode.requests_per_s else decode.limit,
        estimates=told(decode.estimates, side.estimates),
        prefill_pricer=side.pricer,
        prefill_layout=side.layout,
    )


def _most_telling(refusals: Sequence[InputError]) -> InputError:
    """Return the refusal that says most: a target that is missed, else too little memory."""
    for kind in (_TargetError, CapacityError):
        for refusal in refusals:
            if isinstance(refusal, kind):
                return refusal
    return refusals[0]
