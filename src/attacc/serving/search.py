"""The layout, the engine and the batch that serve most requests within latency targets.

Every layout of the model over the GPUs is tried with every engine, each with its best batch
(`attacc.serving.candidates`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import inf
from typing import TypeGuard

import numpy as np

from attacc.errors import CapacityError, InputError
from attacc.gpu.costs import PARTS
from attacc.gpu.models import Engine
from attacc.hardware.system import ResolvedSystem, with_keys
from attacc.models.architecture import divisors
from attacc.models.feedforward import Mixture
from attacc.models.mixers import AnyMixer, Attention
from attacc.models.served import ServedModel, splits_of
from attacc.serving.candidates import BatchSearch, Served, ServingLimit, TargetError, need_of
from attacc.serving.disaggregated import (
    Joined,
    PrefillSide,
    decoding,
    joined,
    move_of,
    prefilling,
)
from attacc.serving.policies import PrefillPolicy, ServingOptions
from attacc.serving.steady import prefill_alone, steady_states, told
from attacc.system.layout import Layout
from attacc.system.pricer import Drawn, Pricer
from attacc.units import NS_PER_MS
from attacc.workload.requests import Workload

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


def states_drawn(way: Served, workload: Workload, options: ServingOptions, drawn: Drawn) -> Joined:
    """Return what a way to serve gives, for draws of what is not known exactly.

    The layout and the batch stay those of the best estimates.

    Args:
        way: the way.
        workload: the requests.
        options: what was asked.
        drawn: (draws,) factors.
    """
    draws, pricer, side = drawn.attacc.size, way.pricer, way.prefill
    states = steady_states(
        pricer,
        workload,
        np.full(draws, -(-way.batch // way.layout.replicas)),
        need_of(pricer, workload, options, way.engine),
        policy=options.prefill,
        token_budget=options.token_budget * way.layout.dp,
        drawn=drawn,
    )
    rates = np.broadcast_to(states.requests_per_s, (draws,)) * way.layout.replicas
    energies_j = np.broadcast_to(states.energies_j, (len(PARTS), draws))
    if side is None or way.move is None:
        return Joined(rates, energies_j)
    prefill = prefill_alone(side.pricer, workload, drawn)
    return joined(side, prefill, pricer, way.layout.replicas, rates, energies_j, way.move)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The batches of one layout and engine, and the GPUs that prefill for them.

    Attributes:
        batches: the batches.
        side: the GPUs that prefill; None where these ones do.
    """

    batches: BatchSearch
    side: PrefillSide | None

    @property
    def requests_per_s(self) -> float:
        """Requests of the best batch that end in a second, an estimate."""
        most = inf if self.side is None else self.side.requests_per_s
        return min(self.batches.requests_per_s, most)


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
        candidates: list[_Candidate] = []
        refusals: list[InputError] = []
        system = self._decoding()
        for engine in self.engines:
            side = self._prefilling(engine)
            for layout in layouts(system, self.model, self.fixed):
                try:
                    pricer = self.pricer_of(replica(system, layout), layout, engine)
                    batches = BatchSearch(
                        pricer, self.workload, self.options, layout, engine, batch=self.batch
                    )
                    candidates.append(_Candidate(batches, side))
                except InputError as refusal:
                    refusals.append(refusal)
        return self._first(candidates, refusals)

    def _first(
        self, candidates: Sequence[_Candidate], refusals: list[InputError]
    ) -> tuple[Served, Served | None]:
        """Return the best way, and the best one with another layout.

        The best batches are priced by themselves in the order of their estimated rates, and no
        more of them than the answer takes.
        """
        waiting: list[tuple[float, int, Served | None]] = [
            (-one.requests_per_s, place, None) for place, one in enumerate(candidates)
        ]
        heapify(waiting)
        best: Served | None = None
        while waiting:
            _, place, priced = heappop(waiting)
            if priced is None:
                if best is not None and best.layout == candidates[place].batches.layout:
                    continue
                try:
                    heappush(waiting, self._next(candidates[place], place))
                except InputError as refusal:
                    refusals.append(refusal)
            elif best is None:
                best = priced
            elif best.layout != priced.layout:
                return best, priced
        if best is None:
            raise _most_telling(refusals)
        return best, None

    def _next(self, candidate: _Candidate, place: int) -> tuple[float, int, Served | None]:
        """Price the best batch of a candidate by itself, and return its place in the order."""
        found = candidate.batches.priced()
        if found is None:
            return -candidate.requests_per_s, place, None
        if candidate.side is not None:
            found = self._behind(candidate.side, found)
        return -found.requests_per_s, place, found

    def _decoding(self) -> ResolvedSystem:
        """Return the devices that decode."""
        if self.options.prefill is not PrefillPolicy.DISAGGREGATED:
            return self.system
        return decoding(self.system, self.options.prefill_gpus)

    def _prefilling(self, engine: Engine | None) -> PrefillSide | None:
        """Return the GPUs that only prefill, in their best layout; None where there are none."""
        some = self.options.prefill_gpus
        if self.options.prefill is not PrefillPolicy.DISAGGREGATED or some is None:
            return None
        gpus = prefilling(self.system, some)
        sides: list[PrefillSide] = []
        refusals: list[InputError] = []
        for layout in layouts(gpus, self.model):
            try:
                pricer = self.pricer_of(replica(gpus, layout), layout, engine)
                need = need_of(pricer, self.workload, self.options, engine)
                pricer.most(need, 1)
                prefill = prefill_alone(pricer, self.workload)
            except InputError as refusal:
                refusals.append(refusal)
                continue
            sides.append(PrefillSide(pricer, layout, prefill, need))
        if not sides:
            raise _most_telling(refusals)
        target_ms = self.options.slo_ttft_ms
        limit_ns = inf if target_ms is None else target_ms * NS_PER_MS
        quick = [side for side in sides if side.prefill.time_ns[0] <= limit_ns]
        if not quick:
            raise InputError(
                f"no layout of {some} GPUs prefills within {target_ms:g} ms",
                where="slo_ttft_ms",
                hint="allow more time, or let more GPUs prefill",
            )
        return max(quick, key=lambda side: side.requests_per_s)

    def _behind(self, side: PrefillSide, decode: Served) -> Served:
        """Return a way to decode, with the GPUs that prefill for it.

        Raises:
            InputError: the move of keys and values leads to a first token that misses its target.
        """
        need = need_of(decode.pricer, self.workload, self.options, decode.engine)
        move = move_of(side.need, decode.pricer, need, self.workload.mean_prompt_tokens)
        ttft_ns = float(side.prefill.time_ns[0]) + move.time_ns
        target_ms = self.options.slo_ttft_ms
        if target_ms is not None and ttft_ns > target_ms * NS_PER_MS:
            raise TargetError(
                f"prefill and the move of keys and values take {ttft_ns / NS_PER_MS:.3g} ms, and "
                f"the TTFT may take {target_ms:g} ms",
                where="slo_ttft_ms",
                hint="allow more time, or let more GPUs prefill",
            )
        rates = np.array([decode.requests_per_s])
        energies_j = np.array([*decode.energies_j.values()])[:, None]
        both = joined(
            side, side.prefill, decode.pricer, decode.layout.replicas, rates, energies_j, move
        )
        rate = float(both.requests_per_s[0])
        return replace(
            decode,
            requests_per_s=rate,
            ttft_ns=ttft_ns,
            energies_j=dict(zip(PARTS, both.energies_j[:, 0].tolist(), strict=True)),
            limit=ServingLimit.PREFILL if rate < decode.requests_per_s else decode.limit,
            estimates=told(decode.estimates, side.prefill.steps.estimates),
            prefill=side,
            move=move,
        )


def _most_telling(refusals: Sequence[InputError]) -> InputError:
    """Return the refusal that says most: a target that is missed, else too little memory."""
    for kind in (TargetError, CapacityError):
        for refusal in refusals:
            if isinstance(refusal, kind):
                return refusal
    return refusals[0]
