"""The operators of one kind of layers, priced and placed on the devices that run them.

The GPUs run everything but the attention of decode steps, which AttAccs or CPUs may run. Transfers
move queries, contexts, keys and values over the link between them. `LayerParts` keeps these parts
apart, and an overlap decides how much of each adds to the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from attacc.errors import EngineError
from attacc.gpu.costs import (
    BOUNDS,
    Bound,
    Codes,
    CostModel,
    Energies,
    Estimate,
    Floats,
    OperatorCosts,
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
    GroupShares,
    IndexScan,
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
from attacc.system.boundary import PJ_PER_NS_PER_W
from attacc.system.layer_attention import (
    SCAN_ON_ATTACC,
    WRITTEN,
    AttaccAttention,
    KvWrites,
    ends_told,
)
from attacc.system.overlap import basic_overlap, coprocessed_share, head_level_pipelining
from attacc.system.step_cost import NO_ENERGY, Group, OperatorTimes
from attacc.system.transfers import (
    SOFTMAX_BYTES,
    choice_bytes,
    context_bytes,
    own_requests,
    query_bytes,
    scan_bytes,
    score_bytes,
)

QKV: Final = "qkv"
PROJECTION: Final = "projection"
FEED_FORWARD: Final = ("ff1", "ff2", "ff3")
SHARED: Final = "shared_attention"
START: Final = "attention_start"
APPEND: Final = "kv_append"
WRITES: Final = "kv_writes"
EVERYONE: Final = GroupShares()
"""Shares of operators that all GPUs run alike."""


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
        writes: what it costs to write keys and values into the stacks of the AttAccs; None where
            the system does not count it.
    """

    attention: AttaccAttention | None = None
    away: bool = True
    written_bytes: float | Floats = 0.0
    read_bytes: float | Floats = 0.0
    writes: KvWrites | None = None


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
        start_factor: factor of the time to start attention on AttAccs.
    """

    model: ServedModel | None = None
    layers: tuple[LayerBeside, ...] = (LayerBeside(),)
    rates: AttaccRates | None = None
    copies: float | Floats = 1.0
    standby: Standby | None = None
    start_factor: float | Floats = 1.0

    def of_layer(self, number: int) -> LayerBeside:
        """Return the inputs of one kind of layers.

        Args:
            number: its place in the step.
        """
        return self.layers[min(number, len(self.layers) - 1)]


def on_gpus(
    op: Operator,
    runs: int,
    kind: str,
    system: ResolvedSystem,
    costs: CostModel,
    shares: GroupShares,
) -> list[OperatorTimes]:
    """Price an operator on the GPUs; each kernel of it has a time of its own.

    Args:
        op: the operator of the busiest GPU.
        runs: how often it runs in a step.
        kind: kind of its layer; empty outside the layers.
        system: the system.
        costs: the cost model.
        shares: what all groups of GPUs do, over as many groups as busy as the busiest one.
    """
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
            group, priced = Group.FC, _experts(op, system, costs)
        case _:
            group, priced = Group.ATTENTION, costs.fused(op, system.gpu)
    return [
        _placed(cost, group, runs, system.gpus * _share(op, cost, shares), kind) for cost in priced
    ]


def _experts(op: Experts, system: ResolvedSystem, costs: CostModel) -> tuple[OperatorCosts, ...]:
    """Price experts: the time of the busiest GPU, the energy of one with the mean of the visits."""
    priced = costs.fused(op, system.gpu)
    if not np.any(np.asarray(op.load) != 1):
        return priced
    mean = costs.fused(replace(op, load=1.0), system.gpu)
    return tuple(replace(a, energy=b.energy) for a, b in zip(priced, mean, strict=True))


def _share(op: Operator, cost: OperatorCosts, shares: GroupShares) -> Size:
    """Return the energy of an operator on all GPUs, over that of GPUs as busy as the busiest one.

    A product that arithmetic does not limit reads its weights in every group that has tokens.
    Otherwise the work counts.
    """
    match op:
        case MatMul():
            computes = cost.bound == BOUNDS.index(Bound.COMPUTE)
            return np.where(computes, shares.tokens, shares.present)
        case Pointwise() | AllReduce() | Collective() | Experts():
            return shares.tokens
        case _:
            return shares.of_phase(op.phase)


@dataclass(frozen=True, slots=True, eq=False)
class LayerParts:
    """One layer of a kind, operator by operator, in the order in which it runs.

    Attributes:
        ahead: on the GPUs, up to attention.
        prompts: attention of prompts, on the GPUs.
        local: attention of decode steps, where the GPUs run it.
        away: attention of decode steps, where other devices run it: their start, transfers of
            queries and contexts, and attention itself.
        behind: on the GPUs, after attention.
        moved: transfers of keys and values of prompts, in both directions, by themselves.
        hides_moves: whether the work of the layer hides these transfers.
        copied_share: share of the feed-forward weights that AttAccs hold copies of.
        writes_ns: time of the writes of prompts into the stacks, by themselves.
        arriving: whether these prompts are prefilled elsewhere, and are written at any time.
    """

    ahead: tuple[OperatorTimes, ...]
    prompts: tuple[OperatorTimes, ...]
    local: tuple[OperatorTimes, ...]
    away: tuple[OperatorTimes, ...]
    behind: tuple[OperatorTimes, ...]
    moved: tuple[OperatorTimes, ...]
    hides_moves: bool
    copied_share: Floats
    writes_ns: float | Floats = 0.0
    arriving: bool = False

    @property
    def in_place(self) -> list[OperatorTimes]:
        """All operators in order, but for the transfers of keys and values of prompts."""
        return [*self.ahead, *self.prompts, *self.local, *self.away, *self.behind]

    def in_a_row(self, *, beside: bool = False) -> list[OperatorTimes]:
        """Return the operators as they add to a step in which requests are processed together.

        Args:
            beside: whether the GPUs attend for prompts while other devices attend for the requests
                that decode. What takes longer adds to the step.
        """
        one = self
        if self.arriving:
            one = replace(self, away=self._at_any_time())
        elif not beside:
            one = replace(self, away=self._after_prompts())
        elif self.prompts and self.away:
            away_ns = sum_ns(self.away)
            longer_ns = np.maximum(0.0, away_ns - sum_ns(self.prompts))
            share = np.divide(longer_ns, away_ns, out=np.zeros_like(longer_ns), where=away_ns > 0)
            away = (replace(op, time_ns=op.time_ns * share) for op in self.away)
            one = replace(self, away=tuple(away))
        layer = one.in_place
        return [*layer, *self.moves(layer)]

    def _after_prompts(self) -> tuple[OperatorTimes, ...]:
        """Return attention on other devices that begins after that of prompts on the GPUs.

        Keys and values of the prompts are written meanwhile. What is left is written beside it.
        """
        left_ns = np.maximum(0.0, self.writes_ns - sum_ns(self.prompts))
        share = np.divide(left_ns, self.writes_ns, out=np.zeros_like(left_ns), where=left_ns > 0)
        return _with_writes(self.away, share)

    def _at_any_time(self) -> tuple[OperatorTimes, ...]:
        """Return attention on other devices, beside which its share of all writes comes."""
        away_ns = sum_ns(op for op in self.away if op.name != WRITES)
        layer_ns = sum_ns(op for op in self.in_place if op.name != WRITES)
        return _with_writes(self.away, away_ns / layer_ns)

    def moves(self, layer: Sequence[OperatorTimes]) -> list[OperatorTimes]:
        """Return transfers of keys and values of prompts as they add to a step.

        The two directions of a link are independent. Both are hidden behind the work of the layer.

        Args:
            layer: the other operators of the layer, as they add to the step.
        """
        if not self.hides_moves:
            return list(self.moved)
        work_ns = sum_ns(layer)
        found: list[OperatorTimes] = []
        for cost in self.moved:
            visible_ns = np.maximum(0.0, cost.alone_ns - work_ns)
            found.append(replace(cost, time_ns=visible_ns))
            work_ns = work_ns + visible_ns
        return found


def _with_writes(away: Iterable[OperatorTimes], share: Floats) -> tuple[OperatorTimes, ...]:
    """Return operators, with a share of the time of writes of prompts."""
    return tuple(
        replace(op, time_ns=op.time_ns * share) if op.name == WRITES else op for op in away
    )


def sum_ns(operators: Iterable[OperatorTimes]) -> Floats:
    """Return the time that operators add to a step, one run of each."""
    return sum((op.time_ns for op in operators), np.zeros(1))


class LayerPricer:
    """Prices the operators of one kind of layers.

    Args:
        step: the steps.
        layer: the kind of layers.
        system: the system.
        costs: the cost model, for steps of that phase.
        beside: inputs besides the operators.
        own: those of this kind of layers.
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
        self._phase, self._layer, self._shares = step.phase, layer, step.shares
        self._groups = step.mixer_groups
        self._sharers = step.tensor_parallel // step.mixer_groups
        self._system, self._costs = system, costs
        self._beside, self._own = beside, own
        self._copied_share: Floats = np.zeros(1)
        attention = [op for op in layer.operators if isinstance(op, Attention | LatentAttention)]
        self._shared = [op for op in attention if op.name == SHARED]
        self._decode = _of_phase([op for op in attention if op.name != SHARED], Phase.DECODE)
        self._prefill = _of_phase(attention, Phase.PREFILL)
        place = layer.operators.index(attention[0]) if attention else len(layer.operators)
        self._ahead = layer.operators[:place]
        self._behind = [
            op for op in layer.operators[place:] if not isinstance(op, Attention | LatentAttention)
        ]

    def parts(self) -> LayerParts:
        """Return the parts of one such layer."""
        before = [cost for op in self._ahead for cost in self._product(op)]
        after = [cost for op in self._behind for cost in self._product(op)]
        prompts = self._prefill_attention()
        local: list[OperatorTimes] = []
        away: list[OperatorTimes] = []
        if self._decode is not None and self._site is AttentionSite.GPU:
            local = [cost for op in (*self._shared, self._decode) for cost in self._on_gpus(op)]
        elif self._decode is not None:
            before, away, after = self._decode_attention(self._decode, before, after)
        moved = self._moved() if self._prefill is not None else []
        return LayerParts(
            ahead=tuple(before),
            prompts=tuple(prompts),
            local=tuple(local),
            away=tuple(away),
            behind=tuple(after),
            moved=tuple(moved),
            hides_moves=self._system.spec.transfer_overlap,
            copied_share=self._copied_share,
            writes_ns=0.0 if self._own.writes is None else self._own.writes.alone_ns,
            arriving=self._own.writes is not None and self._own.writes.arriving,
        )

    def _on_gpus(self, op: Operator, whole: Operator | None = None) -> list[OperatorTimes]:
        """Price an operator of the layer, or a part of a whole one, on the GPUs."""
        layer = self._layer
        shares = EVERYONE if (whole or op).name in layer.everyone else self._shares
        return on_gpus(op, layer.runs, layer.kind, self._system, self._costs, shares)

    def _product(self, op: Operator, whole: Operator | None = None) -> list[OperatorTimes]:
        """Price an operator other than attention, or a part of a whole one.

        AttAccs may take over a part of it.
        """
        if isinstance(op, IndexScan) and op.phase is Phase.DECODE:
            if self._site is AttentionSite.ATTACC:
                return self._scan(op)
            return self._on_gpus(op)
        shares = self._phase is Phase.DECODE and self._system.spec.ff_coprocessing
        if shares and isinstance(op, Experts):
            return [cost for part in self._costs.products(op) for cost in self._product(part, op)]
        placed = self._on_gpus(op, whole)
        if not shares or op.name not in FEED_FORWARD:
            return placed
        if not isinstance(op, MatMul):
            raise EngineError(f"{op.name} is no matrix product")
        if self._beside.rates is None:
            raise EngineError("feed-forward co-processing needs the rates of the AttAccs")
        shared: list[OperatorTimes] = []
        for alone in placed:
            share = np.minimum(self._beside.copies, self._balanced_share(op, alone.bound))
            self._copied_share = np.maximum(self._copied_share, share)
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

    def _moved(self) -> list[OperatorTimes]:
        """Return transfers of keys and values between the GPUs and the devices with the cache."""
        if self._site is AttentionSite.GPU:
            return []
        own, share = self._own, self._shares.prefill
        there = self._transfer("kv_transfer", own.written_bytes, share)
        if own.writes is not None:
            there = replace(there, energy=there.energy + own.writes.prompt_energy)
        moved = [there]
        if np.any(np.asarray(own.read_bytes) > 0):
            moved.append(self._transfer("kv_read_back", own.read_bytes, share))
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
        parts: float | Floats = 0.0
        chosen: Size = 0.0
        beside: list[OperatorTimes] = []
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
            # Heads of keys are shared out to the GPUs; latents serve the heads of each GPU that
            # shares their requests.
            latent = isinstance(op, LatentAttention)
            parts = given.extra_parts / (self._groups if latent else self._system.gpus)
            if isinstance(op, LatentAttention) and op.gathers:
                chosen = choice_bytes(op, self._sharers)
                beside = self._on_gpus(replace(op, elsewhere=True))
            attention = OperatorTimes(
                "attention",
                Group.ATTENTION,
                self._layer.runs,
                given.time_ns,
                given.time_ns,
                given.bound,
                given.energy + self._open_rows(given.time_ns),
                estimates=ends_told(given),
                layers=self._layer.kind,
            )
        r, share = 1 / op.heads, self._shares.decode
        scores = self._score_bytes(op)
        there = self._transfer("qkv_transfer", query_bytes(op, parts) + chosen + scores, share)
        back = self._transfer("context_transfer", context_bytes(op, parts) + scores, share)
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
        elif self._system.spec.transfer_overlap:
            visible_ns = basic_overlap(attention_ns=busy_ns, transfer_ns=transfer_ns, r=r)
        else:
            visible_ns = transfer_ns
        visible_share = visible_ns / transfer_ns
        there, back = (replace(op, time_ns=op.alone_ns * visible_share) for op in (there, back))
        appended, written = self._written()
        away = [*self._start(), *appended, there, attention, *written, back]
        return [*before, *beside], away, after

    def _written(self) -> tuple[list[OperatorTimes], list[OperatorTimes]]:
        """Return the writes of keys and values into stacks: before attention, and beside it."""
        writes = self._own.writes
        if self._site is not AttentionSite.ATTACC or writes is None:
            return [], []
        runs, kind = self._layer.runs, self._layer.kind

        def of(name: str, ns: Floats, energy: Energies) -> OperatorTimes:
            energy = energy + self._open_rows(ns)
            notes = (Estimate.always(WRITTEN),)
            bound = only(Bound.MEMORY)
            return OperatorTimes(
                name, Group.ATTENTION, runs, ns, ns, bound, energy, 0.0, notes, kind
            )

        appended = [of(APPEND, writes.append_ns, writes.append_energy)]
        if not np.any(writes.beside_ns > 0):
            return appended, []
        energy = writes.prompt_energy if writes.arriving else Energies.equal(NO_ENERGY)
        hides = writes.arriving or self._system.spec.transfer_overlap
        return appended, [of(WRITES, writes.beside_ns if hides else np.zeros(1), energy)]

    def _score_bytes(self, op: Attention | LatentAttention) -> Size:
        """Return the bytes of scores that one GPU gets, and sends back as probabilities."""
        attacc = self._system.attacc
        if attacc is None or attacc.table.softmax is Softmax.DEVICE:
            return 0.0
        return op.batch * op.queries * op.heads * op.keys * SOFTMAX_BYTES

    def _scan(self, op: IndexScan) -> list[OperatorTimes]:
        """Price a scan of index keys on AttAccs, and the choice on the GPUs, which share requests.

        No transfer is hidden: the choice needs all scores of a request.
        """
        given = self._own.attention
        if given is None or given.chosen is None:
            raise EngineError("a scan on AttAcc needs the attention of one layer")
        gpus, chosen, share = self._sharers, given.chosen, self._shares.decode
        choice = replace(op, batch=own_requests(op.batch, gpus), scored=True)
        return [
            *self._start(),
            self._transfer("index_transfer", scan_bytes(op, gpus), share),
            OperatorTimes(
                op.name,
                Group.ATTENTION,
                self._layer.runs,
                chosen.scan_ns,
                chosen.scan_ns,
                chosen.scan_bound,
                chosen.scan_energy + self._open_rows(chosen.scan_ns),
                estimates=(Estimate.always(SCAN_ON_ATTACC),),
                layers=self._layer.kind,
            ),
            self._transfer("score_transfer", score_bytes(op, gpus), share),
            *self._on_gpus(choice),
        ]

    def _start(self) -> list[OperatorTimes]:
        """Return the start of a layer's attention on AttAccs, during which all devices wait."""
        attacc = self._system.attacc
        if attacc is None or not attacc.table.start_ns:
            return []
        ns, none = (
            np.atleast_1d(self._beside.start_factor * attacc.table.start_ns),
            Energies.equal(NO_ENERGY),
        )
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

    def _transfer(self, name: str, size_bytes: Size, share: Size) -> OperatorTimes:
        """Price bytes that GPUs send to, or get from, the devices that run attention.

        Args:
            name: name of the transfer.
            size_bytes: bytes of a GPU of the largest group.
            share: bytes of all GPUs over those of as many GPUs of the largest group.
        """
        per_link = gpus_per_link(self._system)
        cost = self._costs.transfer(name, per_link * size_bytes, away_link(self._system))
        devices = self._system.gpus / per_link * share
        return _placed(cost, Group.COMMUNICATION, self._layer.runs, devices, self._layer.kind)


def _placed(
    cost: OperatorCosts, group: Group, runs: int, devices: Size, kind: str
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


def away_link(system: ResolvedSystem) -> LinkSpec:
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
