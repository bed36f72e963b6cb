"""One step of a model on a system: every operator priced, placed, overlapped and summed.

Operators of a layer run one after the other on every GPU at once; only what `overlap` states runs
beside something else. Times are those of one GPU, which all GPUs share; energies are those of the
whole system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, reduce
from operator import add
from typing import Final

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import Bound, CostModel, EnergyBreakdown, OperatorCost
from attacc.gpu.rates import AttaccRates
from attacc.hardware.link import LinkSpec
from attacc.hardware.system import AttentionSite, ResolvedSystem
from attacc.models.operators import (
    AllReduce,
    Attention,
    MatMul,
    Operator,
    Phase,
    Pointwise,
    Step,
)
from attacc.system.attaccs import AttaccAttention, context_bytes, query_bytes
from attacc.system.overlap import basic_overlap, coprocessed_share, head_level_pipelining

QKV: Final = "qkv"
PROJECTION: Final = "projection"
FEED_FORWARD: Final = ("ff1", "ff2", "ff3")
NO_ENERGY: Final = EnergyBreakdown()
PJ_PER_NS_PER_W: Final = 1e3
"""Picojoules that one watt amounts to in a nanosecond."""


class Group(StrEnum):
    """Parts of a step in a breakdown."""

    FC = "fc"
    """Products with weights."""
    ATTENTION = "attention"
    """Score, softmax and context, wherever they run."""
    COMMUNICATION = "communication"
    """Collectives between GPUs, and transfers to and from what runs attention."""
    OTHER = "other"
    """Activations, norms, embedding, and what the host adds."""


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator in a step.

    Attributes:
        name: of the operator.
        group: where it counts.
        runs: how many times it runs in the step: once per layer, or once.
        time_ns: what one run adds to the step.
        alone_ns: what one run takes; the rest is hidden by other work, or done elsewhere.
        bound: what it waits for.
        energy: of one run, all devices together; without what GPUs draw when idle.
        estimates: what of its price is scaled, assumed, or beyond what was fitted.
    """

    name: str
    group: Group
    runs: int
    time_ns: float
    alone_ns: float
    bound: Bound
    energy: EnergyBreakdown
    estimates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupCost:
    """One part of a step.

    Attributes:
        time_ns: what it adds to the step, over all layers.
        bound: what most of that time is spent waiting for; None where there is no time.
        energy: over all layers and devices, what GPUs draw in this time when idle included.
    """

    time_ns: float
    bound: Bound | None
    energy: EnergyBreakdown


@dataclass(frozen=True)
class StepCost:
    """Time and energy of a step.

    Attributes:
        cost_model: kind of the cost model that priced the operators.
        operators: those of a layer in order, then those outside the layers.
        static_w: what all GPUs together draw at any time, whatever they do.
    """

    cost_model: str
    operators: tuple[OperatorTime, ...]
    static_w: float = 0.0

    @cached_property
    def time_ns(self) -> float:
        """Duration of the step."""
        return sum(op.runs * op.time_ns for op in self.operators)

    @cached_property
    def hidden_ns(self) -> float:
        """Work that other work hides, or that is shared with AttAcc, summed over operators."""
        return sum(op.runs * (op.alone_ns - op.time_ns) for op in self.operators)

    @cached_property
    def energy(self) -> EnergyBreakdown:
        """Energy of the whole system."""
        return _total_energy(self.operators) + self._idle(self.time_ns)

    @property
    def estimates(self) -> tuple[str, ...]:
        """What of the step is scaled, assumed, or beyond what was fitted; each once."""
        return tuple(dict.fromkeys(note for op in self.operators for note in op.estimates))

    def _idle(self, time_ns: float) -> EnergyBreakdown:
        return EnergyBreakdown(static_pj=self.static_w * PJ_PER_NS_PER_W * time_ns)

    @property
    def fc(self) -> GroupCost:
        """Products with weights."""
        return self.group(Group.FC)

    @property
    def attention(self) -> GroupCost:
        """Score, softmax and context."""
        return self.group(Group.ATTENTION)

    @property
    def communication(self) -> GroupCost:
        """Collectives and transfers."""
        return self.group(Group.COMMUNICATION)

    @property
    def other(self) -> GroupCost:
        """Activations, norms, embedding."""
        return self.group(Group.OTHER)

    def group(self, group: Group) -> GroupCost:
        """Return the sum of one part."""
        members = [op for op in self.operators if op.group is group]
        waits: dict[Bound, float] = {}
        for op in members:
            waits[op.bound] = waits.get(op.bound, 0.0) + op.runs * op.time_ns
        bound = max(waits, key=lambda bound: waits[bound]) if any(waits.values()) else None
        time_ns = sum(waits.values())
        return GroupCost(time_ns, bound, _total_energy(members) + self._idle(time_ns))


def _total_energy(operators: Iterable[OperatorTime]) -> EnergyBreakdown:
    return reduce(add, (op.energy.times(op.runs) for op in operators), NO_ENERGY)


def average(costs: Sequence[StepCost], weights: Sequence[float] | None = None) -> StepCost:
    """Return the mean step of several of one model on one system, as over the length of an output.

    What bounds an operator is what bounds it most of the time.

    Args:
        costs: at least one; all of the same operators in the same order.
        weights: how often each occurs; once each by default.
    """
    shares = [1.0] * len(costs) if weights is None else list(weights)
    total = sum(shares)
    shares = [share / total for share in shares]
    rows = zip(*(cost.operators for cost in costs), strict=True)
    operators = tuple(_average_operator(row, shares) for row in rows)
    return replace(costs[0], operators=operators)


def _average_operator(row: Sequence[OperatorTime], shares: Sequence[float]) -> OperatorTime:
    first = row[0]
    if all(op is first for op in row):
        return first

    def mean(value: Callable[[OperatorTime], float]) -> float:
        return sum(share * value(op) for op, share in zip(row, shares, strict=True))

    waits: dict[Bound, float] = {}
    for op, share in zip(row, shares, strict=True):
        waits[op.bound] = waits.get(op.bound, 0.0) + share * op.alone_ns
    return replace(
        first,
        time_ns=mean(lambda op: op.time_ns),
        alone_ns=mean(lambda op: op.alone_ns),
        bound=max(waits, key=lambda bound: waits[bound]),
        energy=EnergyBreakdown(
            dram_pj=mean(lambda op: op.energy.dram_pj),
            l2_pj=mean(lambda op: op.energy.l2_pj),
            l1_pj=mean(lambda op: op.energy.l1_pj),
            register_pj=mean(lambda op: op.energy.register_pj),
            alu_pj=mean(lambda op: op.energy.alu_pj),
            link_pj=mean(lambda op: op.energy.link_pj),
            static_pj=mean(lambda op: op.energy.static_pj),
        ),
        estimates=tuple(dict.fromkeys(note for op in row for note in op.estimates)),
    )


def prefill_cost(
    step: Step, system: ResolvedSystem, costs: CostModel, *, kv_bytes: float = 0.0
) -> StepCost:
    """Price a prefill, which runs on the GPUs.

    Where the cache is elsewhere, each layer's keys and values leave while the GPUs work on: only
    what takes longer than the layer adds to the step.

    Args:
        step: a prefill.
        system: the system.
        costs: the cost model.
        kv_bytes: keys and values of one layer that one GPU has computed; ignored where attention
            runs on the GPUs.

    Raises:
        InputError: the step is split over another number of GPUs than the system has, or nothing
            is known of collectives over their link.
    """
    _check_split(step, system)
    costs = costs.for_phase(step.phase)
    step = costs.as_run(step)
    layer = [cost for op in step.layer for cost in _on_gpus(op, step.layers, system, costs)]
    outside = [cost for op in step.outside for cost in _on_gpus(op, 1, system, costs)]
    if system.spec.attention is not AttentionSite.GPU:
        work_ns = sum(op.time_ns for op in layer)
        cost = costs.transfer("kv_transfer", kv_bytes * _gpus_per_link(system), _away(system))
        layer.append(
            OperatorTime(
                name=cost.name,
                group=Group.COMMUNICATION,
                runs=step.layers,
                time_ns=max(0.0, cost.time_ns - work_ns),
                alone_ns=cost.time_ns,
                bound=cost.bound,
                energy=cost.energy.times(system.gpus / _gpus_per_link(system)),
            )
        )
    operators = (*layer, *outside, *_on_host(step, costs))
    return StepCost(costs.kind, operators, _static_w(system, costs))


class DecodePricer:
    """Prices the decode steps of one batch on one system, at any length of the cache.

    What does not depend on the length is priced once.

    Args:
        step: a decode step, at any length.
        system: the system.
        costs: the cost model.
        rates: rates of one AttAcc device; needed for feed-forward co-processing.
        copies: share of the feed-forward weights whose copies fit into the AttAccs, which limits
            the share of the products that they take over (`attacc.system.capacity`); 1 where the
            memory for copies is not counted, as in the published model.

    Raises:
        InputError: the step is split over another number of GPUs than the system has, or nothing
            is known of collectives over their link.
    """

    def __init__(
        self,
        step: Step,
        system: ResolvedSystem,
        costs: CostModel,
        rates: AttaccRates | None = None,
        copies: float = 1.0,
    ) -> None:
        _check_split(step, system)
        costs = costs.for_phase(step.phase)
        step = costs.as_run(step)
        self._system = system
        self._costs = costs
        self._static_w = _static_w(system, costs)
        self._layers = step.layers
        self._attention = _attention_operator(step)
        place = step.layer.index(self._attention)
        before, after = step.layer[:place], step.layer[place + 1 :]
        self._copied_share = 0.0
        self._before = [cost for op in before for cost in self._beside(op, rates, copies)]
        self._after = [cost for op in after for cost in self._beside(op, rates, copies)]
        self._outside = [cost for op in step.outside for cost in _on_gpus(op, 1, system, costs)]
        self._outside += _on_host(step, costs)
        self._r = 1 / self._attention.heads
        self._qkv_share = _qkv_share(before, after)

    @property
    def heads(self) -> int:
        """Query heads of one GPU."""
        return round(1 / self._r)

    @property
    def copied_share(self) -> float:
        """Share of the feed-forward weights that AttAccs multiply with, and hold copies of.

        The largest over the feed-forward products; 0 without co-processing.
        """
        return self._copied_share

    def cost(
        self, *, kv_length: int | None = None, attention: AttaccAttention | None = None
    ) -> StepCost:
        """Price one step.

        Args:
            kv_length: keys that every request attends to; by default that of the step given.
            attention: attention of one layer at this length, where it runs on AttAcc.
        """
        op = self._attention if kv_length is None else replace(self._attention, keys=kv_length)
        site = self._system.spec.attention
        if site is AttentionSite.GPU:
            middle = _on_gpus(op, self._layers, self._system, self._costs)
            return self._assemble(self._before, middle, self._after)
        if site is AttentionSite.CPU:
            return self._on_cpus(op)
        if attention is None:
            raise EngineError("attention on AttAcc needs the attention of one layer")
        return self._on_attaccs(op, attention)

    def _assemble(
        self,
        before: Sequence[OperatorTime],
        middle: Sequence[OperatorTime],
        after: Sequence[OperatorTime],
    ) -> StepCost:
        operators = (*before, *middle, *after, *self._outside)
        return StepCost(self._costs.kind, operators, self._static_w)

    def _on_cpus(self, op: Attention) -> StepCost:
        host = self._system.host
        if host is None:
            raise EngineError("attention on CPUs of a system without CPUs")
        cost = self._costs.cpu_attention(op, self._system.gpus, host.cpu, host.count)
        transfers = self._transfers(op)
        transfer_ns = sum(cost.time_ns for cost in transfers)
        visible_ns = basic_overlap(attention_ns=cost.time_ns, transfer_ns=transfer_ns, r=self._r)
        attention = self._elsewhere(cost.time_ns, cost.bound, cost.energy, cost.estimates)
        middle = self._around(attention, transfers, visible_ns / transfer_ns)
        return self._assemble(self._before, middle, self._after)

    def _on_attaccs(self, op: Attention, attention: AttaccAttention) -> StepCost:
        transfers = self._transfers(op)
        transfer_ns = sum(cost.time_ns for cost in transfers)
        attention_ns = attention.time_ns + attention.softmax_ns
        before, after = self._before, self._after
        if self._system.spec.head_level_pipelining:
            qkv, projection = _named(before, QKV), _named(after, PROJECTION)
            visible = head_level_pipelining(
                attention_ns=attention_ns,
                transfer_ns=transfer_ns,
                qkv_ns=qkv.alone_ns,
                projection_ns=projection.alone_ns,
                qkv_share=self._qkv_share,
                r=self._r,
            )
            visible_ns = visible.transfer_ns
            before = _replaced(before, qkv, visible.qkv_ns)
            after = _replaced(after, projection, visible.projection_ns)
        else:
            visible_ns = basic_overlap(
                attention_ns=attention_ns, transfer_ns=transfer_ns, r=self._r
            )
        middle = self._around(
            self._elsewhere(attention.time_ns, Bound.MEMORY, attention.energy),
            transfers,
            visible_ns / transfer_ns,
        )
        return self._assemble(before, middle, after)

    def _elsewhere(
        self,
        time_ns: float,
        bound: Bound,
        energy: EnergyBreakdown,
        estimates: tuple[str, ...] = (),
    ) -> OperatorTime:
        return OperatorTime(
            "attention", Group.ATTENTION, self._layers, time_ns, time_ns, bound, energy, estimates
        )

    def _transfers(self, op: Attention) -> tuple[OperatorCost, OperatorCost]:
        link, gpus = _away(self._system), _gpus_per_link(self._system)
        there = self._costs.transfer("qkv_transfer", gpus * query_bytes(op), link)
        back = self._costs.transfer("context_transfer", gpus * context_bytes(op), link)
        return there, back

    def _around(
        self,
        attention: OperatorTime,
        transfers: tuple[OperatorCost, OperatorCost],
        visible_share: float,
    ) -> list[OperatorTime]:
        devices = self._system.gpus / _gpus_per_link(self._system)
        there, back = (
            OperatorTime(
                cost.name,
                Group.COMMUNICATION,
                self._layers,
                cost.time_ns * visible_share,
                cost.time_ns,
                cost.bound,
                cost.energy.times(devices),
                cost.estimates,
            )
            for cost in transfers
        )
        return [there, attention, back]

    def _beside(self, op: Operator, rates: AttaccRates | None, copies: float) -> list[OperatorTime]:
        placed = _on_gpus(op, self._layers, self._system, self._costs)
        if not self._system.spec.ff_coprocessing or op.name not in FEED_FORWARD:
            return placed
        if not isinstance(op, MatMul):
            raise EngineError(f"{op.name} is no matrix product")
        if rates is None:
            raise EngineError("feed-forward co-processing needs the rates of the AttAccs")
        shared: list[OperatorTime] = []
        for alone in placed:
            share = min(copies, _balanced_share(op, alone.bound, self._system, self._costs, rates))
            self._copied_share = max(self._copied_share, share)
            shared.append(_coprocessed(op, alone, self._system.gpus, rates, share))
        return shared


def _check_split(step: Step, system: ResolvedSystem) -> None:
    if step.tensor_parallel != system.gpus:
        raise InputError(
            f"the step is split over {step.tensor_parallel} GPUs, the system has {system.gpus}",
            where=system.spec.name,
            hint="build the step with the system's number of GPUs",
        )


def _attention_operator(step: Step) -> Attention:
    found = [op for op in step.layer if isinstance(op, Attention)]
    if len(found) != 1 or found[0].phase is not Phase.DECODE:
        raise EngineError("the step is no decode step with one attention in a layer")
    return found[0]


def _qkv_share(before: Iterable[Operator], after: Iterable[Operator]) -> float:
    """Return the share of QKV generation in the arithmetic before and after attention."""
    qkv = sum(op.flops for op in before if isinstance(op, MatMul) and op.name == QKV)
    projection = sum(op.flops for op in after if isinstance(op, MatMul) and op.name == PROJECTION)
    return qkv / (qkv + projection) if qkv + projection else 0.0


def _named(operators: Sequence[OperatorTime], name: str) -> OperatorTime:
    for op in operators:
        if op.name == name:
            return op
    raise EngineError(f"head-level pipelining needs an operator {name} beside the attention")


def _replaced(
    operators: Sequence[OperatorTime], old: OperatorTime, time_ns: float
) -> list[OperatorTime]:
    return [replace(op, time_ns=time_ns) if op is old else op for op in operators]


def _away(system: ResolvedSystem) -> LinkSpec:
    """Return the link from a GPU to what runs attention."""
    for place in (system.host, system.attacc):
        if place is not None:
            return place.link
    raise EngineError(f"{system.spec.name} has nothing but GPUs")


def _gpus_per_link(system: ResolvedSystem) -> float:
    """Return how many GPUs share one link to AttAcc: several where AttAccs are fewer."""
    if system.attacc is None:
        return 1.0
    return max(1.0, system.gpus / system.attacc.table.devices)


def _on_gpus(
    op: Operator, runs: int, system: ResolvedSystem, costs: CostModel
) -> list[OperatorTime]:
    match op:
        case MatMul():
            group, priced = Group.FC, (costs.matmul(op, system.gpu),)
        case Attention():
            group, priced = Group.ATTENTION, costs.attention(op, system.gpu)
        case Pointwise():
            group, priced = Group.OTHER, (costs.pointwise(op, system.gpu),)
        case AllReduce():
            if system.link is None:
                raise EngineError(f"{op.name} on a system without a link between its GPUs")
            group = Group.COMMUNICATION
            priced = (costs.all_reduce(op, system.gpu, system.link, system.gpus),)
    return [
        OperatorTime(
            cost.name,
            group,
            runs,
            cost.time_ns,
            cost.time_ns,
            cost.bound,
            cost.energy.times(system.gpus),
            cost.estimates,
        )
        for cost in priced
    ]


def _on_host(step: Step, costs: CostModel) -> list[OperatorTime]:
    """Return what the host adds to a step, as operators during which all devices wait."""
    host = costs.host(step)
    if host is None:
        return []
    return [
        OperatorTime(name, Group.OTHER, runs, time_ns, time_ns, Bound.LATENCY, NO_ENERGY)
        for name, runs, time_ns in (
            ("host_layer", step.layers, host.layer_ns),
            ("host_step", 1, host.step_ns),
        )
    ]


def _static_w(system: ResolvedSystem, costs: CostModel) -> float:
    return system.gpus * costs.static_w(system.gpu)


def _balanced_share(
    op: MatMul, bound: Bound, system: ResolvedSystem, costs: CostModel, rates: AttaccRates
) -> float:
    """Return the share of a product on AttAccs with which they and the GPUs end together."""
    if system.attacc is None:
        raise EngineError(f"system {system.spec.name} has no AttAccs")
    return coprocessed_share(
        compute_bound=bound is Bound.COMPUTE,
        rows=op.m,
        weight_bytes=op.right.bytes,
        peak_flops_per_s=costs.coprocessing_peak_flops_per_s(op, system.gpu),
        memory_bytes_per_s=costs.coprocessing_bytes_per_s(op, system.gpu),
        internal_bytes_per_s=rates.internal_bytes_per_s * system.attacc.table.devices / system.gpus,
    )


def _coprocessed(
    op: MatMul, placed: OperatorTime, gpus: int, rates: AttaccRates, share: float
) -> OperatorTime:
    """Return a feed-forward product of which AttAccs compute a share."""
    multiply_adds = share * gpus * op.flops / 2
    on_attacc = EnergyBreakdown(
        dram_pj=multiply_adds * op.right.bytes * rates.read_pj_per_byte,
        alu_pj=multiply_adds * rates.multiply_add_pj,
    )
    return replace(
        placed,
        time_ns=(1 - share) * placed.time_ns,
        energy=placed.energy.times(1 - share) + on_attacc,
    )
