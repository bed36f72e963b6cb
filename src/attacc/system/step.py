"""Steps of a model on a system: every operator priced, placed, overlapped and summed.

Operators of a layer run one after the other, on all GPUs at once. Only the overlaps of
`attacc.system.overlap` run at the same time. Times are those of one GPU, which are equal for all
GPUs; energies are those of the whole system. One step and ten thousand are priced by the same code:
arrays have one element for each step, or a single element that stands for all steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cached_property, reduce
from operator import add
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import (
    BOUNDS,
    Bound,
    Codes,
    CostModel,
    Energies,
    EnergyBreakdown,
    Estimate,
    Floats,
    OperatorCosts,
    noted,
    only,
)
from attacc.gpu.rates import AttaccRates
from attacc.hardware.link import LinkSpec
from attacc.hardware.system import AttentionSite, ResolvedSystem, Softmax
from attacc.models.operators import (
    AllReduce,
    Attention,
    Collective,
    Experts,
    LatentAttention,
    LayerOperators,
    MatMul,
    Operator,
    Phase,
    Pointwise,
    Size,
    Step,
)
from attacc.models.served import ServedModel
from attacc.pim.energy.power import Standby
from attacc.results import Result, flat
from attacc.system.attaccs import SCORE_BYTES, AttaccAttention, context_bytes, query_bytes
from attacc.system.boundary import PJ_PER_NS_PER_W, ConstantPower, constant_power
from attacc.system.overlap import basic_overlap, coprocessed_share, head_level_pipelining

QKV: Final = "qkv"
PROJECTION: Final = "projection"
FEED_FORWARD: Final = ("ff1", "ff2", "ff3")
SHARED: Final = "shared_attention"
START: Final = "attention_start"
NO_ENERGY: Final = EnergyBreakdown()
NO_POWER: Final = ConstantPower()


class Group(StrEnum):
    """Parts of a step in a breakdown."""

    FC = "fc"
    """Products with weights."""
    ATTENTION = "attention"
    """Score, softmax and context, on any device."""
    COMMUNICATION = "communication"
    """Collectives between GPUs, and transfers to and from the devices that run attention."""
    OTHER = "other"
    """Activations, norms, embedding, and time that the host adds."""


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator in a step.

    Attributes:
        name: name of the operator.
        group: part of the step in which it counts.
        runs: number of runs in the step: once per layer, or once.
        time_ns: time that one run adds to the step.
        alone_ns: time of one run by itself; the difference to `time_ns` is hidden by other work, or
            done on other devices.
        bound: resource that limits the operator.
        energy: energy of one run on all devices, without what they draw at any time.
        launch_ns: part of `alone_ns` that is the start of kernels.
        estimates: parts of its price that are scaled, assumed, or beyond the fitted range.
        layers: kind of the layers that it is in; empty outside them.
    """

    name: str
    group: Group
    runs: int
    time_ns: float
    alone_ns: float
    bound: Bound
    energy: EnergyBreakdown
    launch_ns: float = 0.0
    estimates: tuple[str, ...] = ()
    layers: str = ""


@dataclass(frozen=True, slots=True)
class GroupCost:
    """One part of a step.

    Attributes:
        time_ns: time that it adds to the step, over all layers.
        bound: resource that limits most of that time; None where there is no time.
        energy: energy over all layers and boards, with what these draw at any time in this time.
    """

    time_ns: float
    bound: Bound | None
    energy: EnergyBreakdown


@dataclass(frozen=True)
class StepCost(Result):
    """Time and energy of a step.

    Attributes:
        cost_model: kind of the cost model that priced the operators.
        operators: operators of a layer in order, for each kind of layers; then operators outside
            the layers.
        constant: power that is drawn at any time, whatever the devices do.
    """

    cost_model: str
    operators: tuple[OperatorTime, ...]
    constant: ConstantPower = NO_POWER

    def __repr__(self) -> str:
        return (
            f"StepCost(time_ns={self.time_ns:.6g}, energy_pj={self.energy.total_pj:.6g}, "
            f"{len(self.operators)} operators)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return time, energy, parts and operators as plain values."""
        parts = {str(group): asdict(self.group(group)) for group in Group}
        return {
            "cost_model": self.cost_model,
            "time_ns": self.time_ns,
            "hidden_ns": self.hidden_ns,
            "energy_pj": self.energy.total_pj,
            "energy": asdict(self.energy),
            "node_energy_pj": self.node_energy.total_pj,
            "parts": parts,
            "operators": [asdict(operator) for operator in self.operators],
            "estimates": list(self.estimates),
        }

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each operator: one run of it, and how many times it runs."""
        return [
            flat(asdict(operator)) | {"energy_pj": operator.energy.total_pj}
            for operator in self.operators
        ]

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
        """Energy of all boards: GPUs and AttAccs with their memory, or the CPUs that attend."""
        return _total_energy(self.operators) + self.constant.of_boards(self.time_ns)

    @property
    def node_energy(self) -> EnergyBreakdown:
        """Energy of the node: its boards, and the host beside them."""
        return self.energy + self.constant.of_host(self.time_ns)

    @property
    def estimates(self) -> tuple[str, ...]:
        """Parts of the price that are scaled, assumed, or beyond the fitted range, each once."""
        return tuple(dict.fromkeys(note for op in self.operators for note in op.estimates))

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
        energy = _total_energy(members) + self.constant.of_boards(time_ns)
        return GroupCost(time_ns, bound, energy)


def _total_energy(operators: Iterable[OperatorTime]) -> EnergyBreakdown:
    return reduce(add, (op.energy.times(op.runs) for op in operators), NO_ENERGY)


@dataclass(frozen=True, slots=True, eq=False)
class OperatorTimes:
    """One operator in several steps; fields as in `OperatorTime`, arrays over the steps."""

    name: str
    group: Group
    runs: int
    time_ns: Floats
    alone_ns: Floats
    bound: Codes
    energy: Energies
    launch_ns: float = 0.0
    estimates: tuple[Estimate, ...] = ()
    layers: str = ""

    def at(self, index: int) -> OperatorTime:
        """Return the operator in one step."""

        def of(values: Floats | Codes) -> float:
            return float(values[index if values.size > 1 else 0])

        return OperatorTime(
            self.name,
            self.group,
            self.runs,
            of(self.time_ns),
            of(self.alone_ns),
            BOUNDS[int(of(self.bound))],
            self.energy.at(index),
            self.launch_ns,
            noted(self.estimates, index),
            self.layers,
        )

    def mean(self, shares: Floats) -> OperatorTime:
        """Return the mean over the steps; its bound is the one that limits most of the time."""

        def of(values: Floats) -> float:
            return float(np.sum(shares * values)) if values.size > 1 else float(values[0])

        waits = np.bincount(
            np.broadcast_to(self.bound, shares.shape),
            weights=shares * self.alone_ns,
            minlength=len(BOUNDS),
        )
        # Among bounds of equal weight, as for an operator without time, the first one is taken.
        first = int(self.bound[0])
        bound = int(waits.argmax()) if waits.max() > waits[first] else first
        return OperatorTime(
            self.name,
            self.group,
            self.runs,
            of(self.time_ns),
            of(self.alone_ns),
            BOUNDS[bound],
            EnergyBreakdown(*(of(part) for part in self.energy.parts_pj)),
            self.launch_ns,
            noted(self.estimates),
            self.layers,
        )


@dataclass(frozen=True, eq=False)
class StepCosts:
    """Time and energy of several steps of the same operators.

    Attributes:
        steps: number of steps.
        cost_model: as in `StepCost`.
        operators: operators of a layer in order, for each kind of layers; then operators outside
            the layers.
        constant: power that is drawn at any time, whatever the devices do.
        copied_share: (steps,) share of the feed-forward weights of which AttAccs hold copies to
            multiply with: the largest share of all products; 0 without co-processing.
    """

    steps: int
    cost_model: str
    operators: tuple[OperatorTimes, ...]
    constant: ConstantPower
    copied_share: Floats

    @cached_property
    def time_ns(self) -> Floats:
        """Durations of the steps."""
        total = np.zeros(self.steps)
        for op in self.operators:
            total += op.runs * op.time_ns
        return total

    @cached_property
    def energy(self) -> Energies:
        """Energy of all boards, as in `StepCost.energy`."""
        total = self.constant.of_boards_in_steps(self.time_ns)
        for op in self.operators:
            total = total + op.energy.times(op.runs)
        return total

    @property
    def estimates(self) -> tuple[str, ...]:
        """Parts of any step's price that are scaled, assumed, or beyond the fitted range."""
        notes = (note for op in self.operators for note in noted(op.estimates))
        return tuple(dict.fromkeys(notes))

    @property
    def node_energy(self) -> Energies:
        """Energy of the node: its boards, and the host beside them."""
        return self.energy + self.constant.of_host_in_steps(self.time_ns)

    def at(self, index: int) -> StepCost:
        """Return one step."""
        operators = tuple(op.at(index) for op in self.operators)
        return StepCost(self.cost_model, operators, self.constant)

    @property
    def one(self) -> StepCost:
        """The only step.

        Raises:
            EngineError: there are several steps.
        """
        if self.steps != 1:
            raise EngineError(f"{self.steps} steps, not one")
        return self.at(0)

    def mean(self, weights: ArrayLike | None = None) -> StepCost:
        """Return the mean step, as over the length of an output.

        Args:
            weights: how often each step occurs; once each by default.
        """
        counts = np.ones(self.steps) if weights is None else np.asarray(weights, dtype=np.float64)
        shares = counts / counts.sum()
        operators = tuple(op.mean(shares) for op in self.operators)
        return StepCost(self.cost_model, operators, self.constant)


@dataclass(frozen=True, slots=True)
class LayerBeside:
    """Inputs of the price of one kind of layers besides its operators.

    Attributes:
        attention: decode attention of one layer on all AttAccs; None where it runs elsewhere.
        away: whether keys and values lie with the devices that run attention, and not on the GPUs.
        written_bytes: bytes of keys and values of one layer that one GPU computes in a prefill and
            sends to the devices that run attention.
        read_bytes: bytes of keys and values of one layer that one GPU needs in a prefill and reads
            from the devices that run attention.
    """

    attention: AttaccAttention | None = None
    away: bool = True
    written_bytes: float | Floats = 0.0
    read_bytes: float | Floats = 0.0


@dataclass(frozen=True, slots=True)
class Beside:
    """Inputs of a step's price besides its operators.

    Attributes:
        model: the model of the steps; None where it is not known.
        layers: inputs for each kind of layers of the step; the last one holds for all that follow.
        rates: rates of one AttAcc device; needed for feed-forward co-processing.
        copies: share of the feed-forward weights whose copies fit into the AttAccs. It limits the
            share of the products that AttAccs take over (`attacc.system.capacity`). It is 1 where
            the memory for copies is not counted, as in the published model.
        standby: power of the stacks of all AttAccs whose units do nothing; None where the system
            does not count it.
    """

    model: ServedModel | None = None
    layers: tuple[LayerBeside, ...] = (LayerBeside(),)
    rates: AttaccRates | None = None
    copies: float | Floats = 1.0
    standby: Standby | None = None

    def of_layer(self, number: int) -> LayerBeside:
        """Return the inputs of one kind of layers.

        Args:
            number: its place in the step.
        """
        return self.layers[min(number, len(self.layers) - 1)]


def step_costs(
    step: Step, system: ResolvedSystem, costs: CostModel, beside: Beside | None = None
) -> StepCosts:
    """Price one step, or many steps of the same operators.

    A prefill runs on the GPUs. Where the cache is elsewhere, each layer's keys and values are sent
    while the GPUs compute. A transfer adds time only as far as it takes longer than the layer. The
    same holds for earlier keys and values that the GPUs have to read back.

    Args:
        step: a decode step, a prefill, or both.
        system: the system.
        costs: the cost model.
        beside: further inputs.

    Raises:
        InputError: the step is split over another number of GPUs than the system has, or the
            latency of collectives over the GPUs' link is not known.
    """
    if step.tensor_parallel != system.gpus:
        raise InputError(
            f"the step is split over {step.tensor_parallel} GPUs, the system has {system.gpus}",
            where=system.spec.name,
            hint="build the step with the system's number of GPUs",
        )
    given = beside or Beside()
    costs = costs.for_steps(step.phase, given.model)
    step = costs.as_run(step)
    layers = [
        _Layer(step, layer, system, costs, given, given.of_layer(number))
        for number, layer in enumerate(step.layers)
    ]
    operators = [cost for layer in layers for cost in layer.price()]
    outside = [cost for op in step.outside for cost in _on_gpus(op, 1, "", system, costs)]
    operators += [*outside, *_on_host(step, costs)]
    steps = max(op.time_ns.size for op in operators)
    copied: Floats = reduce(np.maximum, (layer.copied_share for layer in layers))
    return StepCosts(
        steps=steps,
        cost_model=costs.kind,
        operators=tuple(operators),
        constant=constant_power(system, costs.static_w(system.gpu), given.standby),
        copied_share=np.broadcast_to(copied, (steps,)),
    )


def _on_gpus(
    op: Operator, runs: int, kind: str, system: ResolvedSystem, costs: CostModel
) -> list[OperatorTimes]:
    """Price an operator on the GPUs; each kernel of it has a time of its own."""
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
            priced = (costs.all_reduce(op, system.gpu, system.link, op.devices or system.gpus),)
        case Collective():
            if system.link is None:
                raise EngineError(f"{op.name} on a system without a link between its GPUs")
            group = Group.COMMUNICATION
            priced = (costs.collective(op, system.gpu, system.link, op.devices or system.gpus),)
        case Experts():
            group, priced = Group.FC, costs.fused(op, system.gpu)
        case _:
            group, priced = Group.ATTENTION, costs.fused(op, system.gpu)
    return [_placed(cost, group, runs, system.gpus, kind) for cost in priced]


def _on_host(step: Step, costs: CostModel) -> list[OperatorTimes]:
    """Return the time that the host adds, as operators during which all devices wait."""
    host = costs.host(step)
    if host is None:
        return []
    layer_ns, none = np.atleast_1d(host.layer_ns), Energies.equal(NO_ENERGY)
    return [
        OperatorTimes(name, Group.OTHER, runs, ns, ns, only(Bound.LATENCY), none, 0.0, notes)
        for name, runs, ns, notes in (
            ("host_layer", step.layer_count, layer_ns, host.estimates),
            ("host_step", 1, host.step_ns, host.estimates),
        )
    ]


class _Layer:
    """Prices the operators of one kind of layers.

    Attributes:
        copied_share: share of the feed-forward weights of which AttAccs hold copies.
    """

    def __init__(
        self,
        step: Step,
        layer: LayerOperators,
        system: ResolvedSystem,
        costs: CostModel,
        beside: Beside,
        own: LayerBeside,
    ) -> None:
        self._phase, self._layer = step.phase, layer
        self._system, self._costs = system, costs
        self._beside, self._own = beside, own
        self.copied_share: Floats = np.zeros(1)
        attention = [op for op in layer.operators if isinstance(op, Attention | LatentAttention)]
        self._shared = [op for op in attention if op.name == SHARED]
        self._decode = _of_phase([op for op in attention if op.name != SHARED], Phase.DECODE)
        self._prefill = _of_phase(attention, Phase.PREFILL)
        place = layer.operators.index(attention[0]) if attention else len(layer.operators)
        self._ahead = layer.operators[:place]
        self._behind = [
            op for op in layer.operators[place:] if not isinstance(op, Attention | LatentAttention)
        ]

    def price(self) -> list[OperatorTimes]:
        """Return the costs of one such layer, operator by operator."""
        before = [cost for op in self._ahead for cost in self._product(op)]
        after = [cost for op in self._behind for cost in self._product(op)]
        prefill = self._prefill_attention()
        middle: list[OperatorTimes] = []
        if self._decode is not None:
            before, middle, after = self._decode_attention(self._decode, before, after)
        layer = [*before, *prefill, *middle, *after]
        if self._prefill is not None:
            layer += self._moved(layer)
        return layer

    def _on_gpus(self, op: Operator) -> list[OperatorTimes]:
        return _on_gpus(op, self._layer.runs, self._layer.kind, self._system, self._costs)

    def _product(self, op: Operator) -> list[OperatorTimes]:
        """Price an operator other than attention; AttAccs may take over a part of it."""
        shares = self._phase is Phase.DECODE and self._system.spec.ff_coprocessing
        if shares and isinstance(op, Experts):
            return [cost for part in self._costs.products(op) for cost in self._product(part)]
        placed = self._on_gpus(op)
        if not shares or op.name not in FEED_FORWARD:
            return placed
        if not isinstance(op, MatMul):
            raise EngineError(f"{op.name} is no matrix product")
        if self._beside.rates is None:
            raise EngineError("feed-forward co-processing needs the rates of the AttAccs")
        shared: list[OperatorTimes] = []
        for alone in placed:
            share = np.minimum(self._beside.copies, self._balanced_share(op, alone.bound))
            self.copied_share = np.maximum(self.copied_share, share)
            shared.append(self._coprocessed(op, alone, self._beside.rates, share))
        return shared

    def _balanced_share(self, op: MatMul, bound: Codes) -> Floats:
        """Return the share of a product on AttAccs with which AttAccs and GPUs end together."""
        attacc, rates, gpus = self._system.attacc, self._beside.rates, self._system.gpus
        if attacc is None or rates is None:
            raise EngineError(f"system {self._system.spec.name} has no AttAccs")
        return coprocessed_share(
            compute_bound=bound == BOUNDS.index(Bound.COMPUTE),
            rows=op.m,
            weight_bytes=op.right.bytes,
            peak_flops_per_s=self._costs.coprocessing_peak_flops_per_s(op, self._system.gpu),
            memory_bytes_per_s=self._costs.coprocessing_bytes_per_s(op, self._system.gpu),
            internal_bytes_per_s=rates.internal_bytes_per_s * attacc.table.devices / gpus,
        )

    def _coprocessed(
        self, op: MatMul, placed: OperatorTimes, rates: AttaccRates, share: Floats
    ) -> OperatorTimes:
        """Return a feed-forward product that AttAccs compute a share of."""
        multiply_adds = share * self._system.gpus * op.flops / 2
        on_attacc = Energies.of(
            dram_pj=multiply_adds * op.right.bytes * rates.read_pj_per_byte,
            alu_pj=multiply_adds * rates.multiply_add_pj,
        )
        return replace(
            placed,
            time_ns=(1 - share) * placed.time_ns,
            energy=placed.energy.times(1 - share) + on_attacc,
        )

    def _prefill_attention(self) -> list[OperatorTimes]:
        if self._prefill is None:
            return []
        found = self._on_gpus(self._prefill)
        if self._phase is Phase.MIXED:
            return [replace(op, name=f"prefill_{op.name}") for op in found]
        return found

    def _moved(self, layer: Sequence[OperatorTimes]) -> list[OperatorTimes]:
        """Return transfers of keys and values between the GPUs and the devices with the cache.

        The two directions of a link are independent. Both are hidden behind the work of the layer.
        """
        if self._site is AttentionSite.GPU:
            return []
        work_ns = sum(op.time_ns for op in layer)
        moved: list[OperatorTimes] = []
        read = np.any(np.asarray(self._own.read_bytes) > 0)
        for name, size in (
            ("kv_transfer", self._own.written_bytes),
            *([("kv_read_back", self._own.read_bytes)] if read else []),
        ):
            cost = self._transfer(name, size)
            visible_ns = np.maximum(0.0, cost.alone_ns - work_ns)
            moved.append(replace(cost, time_ns=visible_ns))
            work_ns = work_ns + visible_ns
        return moved

    @property
    def _site(self) -> AttentionSite:
        """Where the keys and values of these layers lie, and decode steps attend to them."""
        return self._system.spec.attention if self._own.away else AttentionSite.GPU

    def _decode_attention(
        self,
        op: Attention | LatentAttention,
        before: list[OperatorTimes],
        after: list[OperatorTimes],
    ) -> tuple[list[OperatorTimes], list[OperatorTimes], list[OperatorTimes]]:
        """Return the operators before attention, attention with transfers, and those after it."""
        site = self._site
        if site is AttentionSite.GPU:
            prefix = [cost for part in self._shared for cost in self._on_gpus(part)]
            return before, [*prefix, *self._on_gpus(op)], after
        parts: float | Floats = 0.0
        if site is AttentionSite.CPU:
            if self._system.host is None or isinstance(op, LatentAttention) or self._shared:
                raise EngineError("attention on CPUs of a system without CPUs, or of latents")
            host, gpus = self._system.host, self._system.gpus
            cost = self._costs.cpu_attention(op, gpus, host.cpu, host.count)
            busy_ns = cost.time_ns
            attention = _placed(cost, Group.ATTENTION, self._layer.runs, 1, self._layer.kind)
        else:
            given = self._own.attention
            if given is None:
                raise EngineError("attention on AttAcc needs the attention of one layer")
            busy_ns = given.time_ns + given.softmax_ns
            parts = given.extra_parts / self._system.gpus
            attention = OperatorTimes(
                "attention",
                Group.ATTENTION,
                self._layer.runs,
                given.time_ns,
                given.time_ns,
                only(Bound.MEMORY),
                given.energy + self._open_rows(given.time_ns),
                layers=self._layer.kind,
            )
        r = 1 / op.heads
        scores = self._score_bytes(op)
        there = self._transfer("qkv_transfer", query_bytes(op, parts) + scores)
        back = self._transfer("context_transfer", context_bytes(op, parts) + scores)
        transfer_ns = there.alone_ns + back.alone_ns
        if site is AttentionSite.ATTACC and self._system.spec.head_level_pipelining:
            qkv, projection = _named(before, QKV), _named(after, PROJECTION)
            visible = head_level_pipelining(
                attention_ns=busy_ns,
                transfer_ns=transfer_ns,
                qkv_ns=qkv.alone_ns,
                projection_ns=projection.alone_ns,
                qkv_share=_qkv_share(self._ahead, self._behind),
                r=r,
            )
            visible_ns = visible.transfer_ns
            before = _replaced(before, qkv, visible.qkv_ns)
            after = _replaced(after, projection, visible.projection_ns)
        else:
            visible_ns = basic_overlap(attention_ns=busy_ns, transfer_ns=transfer_ns, r=r)
        share = visible_ns / transfer_ns
        there, back = (replace(op, time_ns=op.alone_ns * share) for op in (there, back))
        return before, [*self._start(), there, attention, back], after

    def _score_bytes(self, op: Attention | LatentAttention) -> Size:
        """Return the bytes of scores that one GPU gets, and sends back as probabilities."""
        attacc = self._system.attacc
        if attacc is None or attacc.table.softmax is Softmax.DEVICE:
            return 0.0
        return op.batch * op.queries * op.heads * op.keys * SCORE_BYTES

    def _start(self) -> list[OperatorTimes]:
        """Return the start of a layer's attention on AttAccs, during which all devices wait."""
        attacc = self._system.attacc
        if attacc is None or not attacc.table.start_ns:
            return []
        ns, none = np.full(1, attacc.table.start_ns), Energies.equal(NO_ENERGY)
        runs, kind = self._layer.runs, self._layer.kind
        return [
            OperatorTimes(
                START, Group.ATTENTION, runs, ns, ns, only(Bound.LATENCY), none, layers=kind
            )
        ]

    def _open_rows(self, time_ns: Floats) -> Energies:
        """Return what the stacks draw while rows are open, beyond standby with closed ones."""
        standby = self._beside.standby
        open_w = 0.0 if standby is None else standby.open_w
        return Energies.of(standby_pj=open_w * PJ_PER_NS_PER_W * time_ns)

    def _transfer(self, name: str, size_bytes: Size) -> OperatorTimes:
        """Price bytes that each GPU sends to, or gets from, the devices that run attention."""
        per_link = gpus_per_link(self._system)
        cost = self._costs.transfer(name, per_link * size_bytes, _away(self._system))
        devices = self._system.gpus / per_link
        return _placed(cost, Group.COMMUNICATION, self._layer.runs, devices, self._layer.kind)


def _placed(
    cost: OperatorCosts, group: Group, runs: int, devices: float, kind: str
) -> OperatorTimes:
    return OperatorTimes(
        cost.name,
        group,
        runs,
        cost.time_ns,
        cost.time_ns,
        cost.bound,
        cost.energy.times(devices),
        cost.launch_ns,
        cost.estimates,
        kind,
    )


def _of_phase(
    operators: Sequence[Attention | LatentAttention], phase: Phase
) -> Attention | LatentAttention | None:
    """Return the attention of one phase; None where there is none."""
    found = [op for op in operators if op.phase is phase]
    if len(found) > 1:
        raise EngineError(f"a layer with {len(found)} attentions in {phase}")
    return found[0] if found else None


def _qkv_share(before: Iterable[Operator], after: Iterable[Operator]) -> float:
    """Return the share of QKV generation in the weights before and after attention."""
    qkv = sum(op.n * op.k for op in before if isinstance(op, MatMul) and op.name == QKV)
    projection = sum(
        op.n * op.k for op in after if isinstance(op, MatMul) and op.name == PROJECTION
    )
    return float(qkv / (qkv + projection)) if qkv + projection else 0.0


def _named(operators: Sequence[OperatorTimes], name: str) -> OperatorTimes:
    for op in operators:
        if op.name == name:
            return op
    raise EngineError(f"head-level pipelining needs an operator {name} beside the attention")


def _replaced(
    operators: Sequence[OperatorTimes], old: OperatorTimes, time_ns: Floats
) -> list[OperatorTimes]:
    return [replace(op, time_ns=time_ns) if op is old else op for op in operators]


def _away(system: ResolvedSystem) -> LinkSpec:
    """Return the link from a GPU to the devices that run attention."""
    for place in (system.host, system.attacc):
        if place is not None:
            return place.link
    raise EngineError(f"{system.spec.name} has nothing but GPUs")


def gpus_per_link(system: ResolvedSystem) -> float:
    """Return the number of GPUs per link to AttAcc; it exceeds 1 where AttAccs are fewer."""
    if system.attacc is None:
        return 1.0
    return max(1.0, system.gpus / system.attacc.table.devices)
