"""A decode step of GPUs and AttAccs as a schedule of operators, beside the closed forms.

Every GPU does the same at the same time, so the schedule is that of one GPU, its AttAcc and the
link between them. These are four resources, because the link's two directions count separately. A
*unit* is a key/value head of the GPU with all queries that share it, of every request of the batch,
or a group of such heads. The attention of a unit occupies all stacks, and takes the layer's
attention divided by the number of units. The published closed forms assume the same
(`attacc.system.overlap`), with r = 1 / heads.

In a layer the GPU generates QKV, AttAcc attends unit by unit, each unit's transfers overlapping
other units' attention, and the GPU projects. With head-level pipelining QKV and projection go unit
by unit as well: the GPU generates all units in turn, and then projects them as they come back.
Between the sum over GPUs behind the projection and the end of the layer, nothing depends on
single heads any more, so that layers follow each other without overlap.

With feed-forward co-processing AttAcc computes some columns of each feed-forward product, row by
row: the activations of a row travel to AttAcc, and its results back, while other rows are
multiplied. The GPU continues when its own columns and those of AttAcc are computed. Products that
read the same activations (the gated pair) follow each other without waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import CostModel
from attacc.gpu.rates import AttaccRates
from attacc.hardware.system import ResolvedSystem
from attacc.models.operators import Attention, Experts, MatMul, Step
from attacc.models.parameters import AnyModel
from attacc.models.precision import ElementType
from attacc.models.served import served
from attacc.pim.product import AttaccProducts, StackProduct
from attacc.pim.program.product import ProductShape
from attacc.study.papers.operator_schedule import OperatorSchedule, Task, schedule_tasks
from attacc.system.attaccs import AttaccAttention
from attacc.system.step import (
    FEED_FORWARD,
    PROJECTION,
    QKV,
    Beside,
    LayerBeside,
    OperatorTime,
    StepCost,
    gpus_per_link,
    step_costs,
)

GPU: Final = "GPU"
THERE: Final = "link to AttAcc"
ATTACC: Final = "AttAcc"
BACK: Final = "link from AttAcc"

SIMULATED_LAYERS: Final = 2
"""Simulated layers: the second one begins, like every later one, when the previous one ends."""


@dataclass(frozen=True, slots=True)
class SharedProduct:
    """A feed-forward product that shares its columns between the GPU and AttAcc.

    Attributes:
        name: name of the operator.
        columns: columns that AttAcc computes for one GPU.
        of_columns: columns of the GPU's product.
        closed_form_share: share that the closed form gives AttAcc.
        gpu_ns: time of the GPU's columns.
        there_ns: transfer of all activations to AttAcc.
        back_ns: transfer of AttAcc's results.
        repeats: number of products of this shape, as of experts.
        stacks: number of stacks that compute AttAcc's columns of one GPU.
        stack: one stack's part of one product; None where AttAcc computes nothing, because sharing
            would only take longer.
    """

    name: str
    columns: int
    of_columns: int
    closed_form_share: float
    gpu_ns: float
    there_ns: float
    back_ns: float
    repeats: int
    stacks: float
    stack: StackProduct | None

    @property
    def share(self) -> float:
        """Share of AttAcc in the columns."""
        return self.columns / self.of_columns

    @property
    def attacc_ns(self) -> float:
        """Time of AttAcc's columns, without transfers."""
        return 0.0 if self.stack is None else self.repeats * self.stack.time_ns

    @property
    def attacc_pj(self) -> float:
        """Energy of all commands of one GPU's stacks, padding included."""
        if self.stack is None:
            return 0.0
        return self.repeats * self.stacks * self.stack.energy.total_pj


@dataclass(frozen=True, slots=True)
class GpuOperator:
    """An operator that runs on the GPU alone.

    Attributes:
        name: name of the operator.
        time_ns: its duration.
    """

    name: str
    time_ns: float


@dataclass(frozen=True, slots=True)
class DecodeLayer:
    """The work of one layer of a decode step, in nanoseconds.

    Attributes:
        units: number of key/value heads of one GPU, or of groups of them.
        pipelined: whether QKV and projection are computed unit by unit.
        qkv_ns: QKV of one unit, with the other operators before its attention.
        there_ns: transfer of one unit's queries, keys and values.
        attention_ns: attention of one unit.
        back_ns: transfer of one unit's contexts.
        projection_ns: projection of one unit.
        rest: operators after the projection, in order.
    """

    units: int
    pipelined: bool
    qkv_ns: float
    there_ns: float
    attention_ns: float
    back_ns: float
    projection_ns: float
    rest: tuple[GpuOperator | SharedProduct, ...]

    def tasks(self, prefix: str, after: tuple[str, ...]) -> list[Task]:
        """Return the layer's tasks; later tasks have to wait for the last of these only.

        Args:
            prefix: prefix of the tasks' names.
            after: names of the tasks that the layer waits for.
        """
        units = range(self.units)
        tasks: list[Task] = []
        if self.pipelined:
            tasks += [Task(f"{prefix}qkv {h}", GPU, self.qkv_ns, after) for h in units]
        else:
            tasks.append(Task(f"{prefix}qkv", GPU, self.units * self.qkv_ns, after))
        for h in units:
            source = tasks[h if self.pipelined else 0].name
            tasks += [
                Task(f"{prefix}there {h}", THERE, self.there_ns, (source,)),
                Task(f"{prefix}attention {h}", ATTACC, self.attention_ns, (f"{prefix}there {h}",)),
                Task(f"{prefix}back {h}", BACK, self.back_ns, (f"{prefix}attention {h}",)),
            ]
        if self.pipelined:
            # AttAcc has to be fed first: projections come behind all of QKV.
            tasks += [
                Task(f"{prefix}projection {h}", GPU, self.projection_ns, (f"{prefix}back {h}",), 1)
                for h in units
            ]
            after = tuple(f"{prefix}projection {h}" for h in units)
        else:
            backs = tuple(f"{prefix}back {h}" for h in units)
            whole_ns = self.units * self.projection_ns
            tasks.append(Task(f"{prefix}projection", GPU, whole_ns, backs))
            after = (f"{prefix}projection",)
        return [*tasks, *rest_tasks(self.rest, prefix, after)]


def rest_tasks(
    operators: Sequence[GpuOperator | SharedProduct], prefix: str, after: tuple[str, ...]
) -> list[Task]:
    """Return tasks of operators in sequence; neighbouring shared products run together.

    Args:
        operators: the operators in order.
        prefix: prefix of the tasks' names.
        after: names of the tasks that the first operator waits for.
    """
    tasks: list[Task] = []
    beside: tuple[str, ...] = ()
    for op in operators:
        if isinstance(op, GpuOperator):
            after, beside = beside or after, ()
            tasks.append(Task(prefix + op.name, GPU, op.time_ns, after))
            after = (prefix + op.name,)
            continue
        tasks.append(Task(prefix + op.name, GPU, op.gpu_ns, after))
        beside = (*beside, prefix + op.name)
        if op.stack is not None:
            rows = product_rows(op, prefix, after)
            tasks += rows
            beside = (*beside, rows[-1].name)
    return tasks


def product_rows(op: SharedProduct, prefix: str, after: tuple[str, ...]) -> list[Task]:
    """Return the tasks of AttAcc's part of a product, for every segment and pass.

    A segment of the activations travels for each pass. Results return when the last segment has
    been multiplied with their rows. The last task ends when all results are back.
    """
    if op.stack is None:
        raise EngineError(f"AttAcc has no part of {op.name}")
    tasks: list[Task] = []
    each = op.stack.passes * op.stack.segments * op.repeats
    for repeat in range(op.repeats):
        for segment in range(op.stack.segments):
            for row in range(op.stack.passes):
                name = f"{prefix}{op.name} product {repeat} segment {segment} pass {row}"
                there, here = f"{name} there", f"{name} on AttAcc"
                tasks += [
                    Task(there, THERE, op.there_ns / each, after),
                    Task(here, ATTACC, op.attacc_ns / each, (there,)),
                ]
                if segment == op.stack.segments - 1:
                    back_ns = op.back_ns / (op.stack.passes * op.repeats)
                    tasks.append(Task(f"{name} back", BACK, back_ns, (here,)))
    return tasks


def simulate_layers(layer: DecodeLayer, layers: int = SIMULATED_LAYERS) -> OperatorSchedule:
    """Run consecutive layers, each of which waits for the end of the one before.

    Args:
        layer: the layer that is repeated.
        layers: number of layers; the names of their tasks begin with "layer 0: " and so on.
    """
    tasks: list[Task] = []
    after: tuple[str, ...] = ()
    for number in range(layers):
        own = layer.tasks(f"layer {number}: ", after)
        tasks += own
        needed = {name for task in own for name in task.after}
        after = tuple(task.name for task in own if task.name not in needed)
    return schedule_tasks(tasks)


def layer_ns(schedule: OperatorSchedule) -> float:
    """Return the time that the last layer of a schedule adds to the layers before it."""
    last = schedule.tasks[-1].task.name.split(":")[0]
    before = [t.end_ns for t in schedule.tasks if not t.task.name.startswith(f"{last}:")]
    return schedule.makespan_ns - max(before, default=0.0)


@dataclass(frozen=True, slots=True)
class OverlapCase:
    """One step with some of the optimisations, by formula and by schedule.

    Attributes:
        head_level_pipelining: whether QKV and projection are computed unit by unit.
        ff_coprocessing: whether AttAcc shares the feed-forward products.
        closed_form_ns: the step by the published closed forms.
        simulated_ns: the step by schedule; a unit's part of QKV and projection, and the GPU's part
            of a shared product, take their share of the whole operator's time, as in the closed
            forms.
        priced_ns: the step by schedule, where the cost model prices these parts as the smaller
            products that they are.
        schedule: the schedule of ``simulated_ns``, for `SIMULATED_LAYERS` layers.
        products: the feed-forward products with AttAcc's columns in ``simulated_ns``.
    """

    head_level_pipelining: bool
    ff_coprocessing: bool
    closed_form_ns: float
    simulated_ns: float
    priced_ns: float
    schedule: OperatorSchedule
    products: tuple[SharedProduct, ...]


@dataclass(frozen=True, slots=True)
class OverlapComparison:
    """A decode step with each choice of the optimisations.

    Attributes:
        units: key/value heads of one GPU, or groups of them, which form the pipeline.
        neither: only transfers overlap attention.
        pipelining: head-level pipelining only.
        coprocessing: feed-forward co-processing only.
        both: head-level pipelining and feed-forward co-processing.
    """

    units: int
    neither: OverlapCase
    pipelining: OverlapCase
    coprocessing: OverlapCase
    both: OverlapCase

    @property
    def cases(self) -> tuple[OverlapCase, ...]:
        """All four, in the order of the attributes."""
        return self.neither, self.pipelining, self.coprocessing, self.both


def simulate_decode_step(
    step: Step,
    system: ResolvedSystem,
    costs: CostModel,
    attention: AttaccAttention,
    rates: AttaccRates,
    *,
    model: AnyModel | None = None,
    products: AttaccProducts | None = None,
    units: int | None = None,
    unit_attention_ns: float | None = None,
) -> OverlapComparison:
    """Compare closed forms and schedules of a decode step.

    The price does not depend on the two switches of the system: each choice is priced.

    Args:
        step: a decode step.
        system: GPUs and AttAccs.
        costs: the cost model.
        attention: attention of one layer on all AttAccs.
        rates: rates of one AttAcc device, for the closed form of co-processing.
        model: the model of the step, whose types decide the framework's host time; None if not
            known.
        products: times products on AttAcc; by default the AttAccs of the system.
        units: number of groups of key/value heads of one GPU that form the pipeline; by default
            each head is a group. The closed forms always take single heads.
        unit_attention_ns: attention of one unit by itself; by default its share of the layer's.

    Raises:
        InputError: as `step_costs`; the device cannot run products (`AttaccProducts`); or the
            key/value heads of a GPU cannot be grouped so.
        EngineError: the system has no AttAccs, or the step no QKV and projection.
    """
    if products is None:
        products = AttaccProducts.of(system)
    known = None if model is None else served(model)
    beside = Beside(known, (LayerBeside(attention=attention),), rates)
    plan = _Plan(step, system, costs, beside, products, units, unit_attention_ns)
    cases = [
        plan.case(pipelined=pipelined, shared=shared)
        for shared in (False, True)
        for pipelined in (False, True)
    ]
    return OverlapComparison(plan.units, *cases)


class _Plan:
    """Durations of a step's operators, and of their parts."""

    def __init__(
        self,
        step: Step,
        system: ResolvedSystem,
        costs: CostModel,
        beside: Beside,
        products: AttaccProducts,
        units: int | None,
        unit_attention_ns: float | None,
    ) -> None:
        if system.attacc is None:
            raise EngineError(f"system {system.spec.name} has no AttAccs")
        self._given, self._unphased = step, costs
        costs = costs.for_steps(step.phase, beside.model)
        step = costs.as_run(step)
        self._step, self._system, self._costs = step, system, costs
        self._beside, self._products = beside, products
        self._known: dict[tuple[str, bool], SharedProduct] = {}
        self._link = system.attacc.link
        self._gpus_per_link = gpus_per_link(system)
        if len(step.layers) != 1:
            raise InputError("the schedule knows layers of one kind only")
        operators = step.layers[0].operators
        split = (op.products() if isinstance(op, Experts) else (op,) for op in operators)
        parts = [part for parts in split for part in parts]
        self._matmuls = {op.name: op for op in parts if isinstance(op, MatMul)}
        if any(not isinstance(op.right, ElementType) for op in self._matmuls.values()):
            raise InputError("the schedule knows weights without blocks of scales only")
        for name in (QKV, PROJECTION):
            if name not in self._matmuls:
                raise EngineError(f"the step has no operator {name}")
        heads = next(op.kv_heads for op in operators if isinstance(op, Attention))
        self.units = heads if units is None else units
        if self.units < 1 or heads % self.units:
            raise InputError(
                f"units = {self.units} does not divide the {heads} key/value heads of a GPU"
            )
        cost = self._closed(pipelined=False, shared=False)
        # In place of the attention are itself and the transfers around it.
        layer = [op for op in cost.operators if op.layers]
        self._outside_ns = sum(op.runs * op.time_ns for op in cost.operators[len(layer) :])
        names = [op.name for op in layer]
        first, last = names.index("qkv_transfer"), names.index("context_transfer")
        self._before, self._after = layer[:first], layer[last + 1 :]
        self._there_ns, self._back_ns = layer[first].alone_ns, layer[last].alone_ns
        attention = beside.of_layer(0).attention
        if attention is None:
            raise EngineError("the schedule needs the attention of one layer")
        whole_ns = float(attention.time_ns[0])
        self._unit_attention_ns = (
            whole_ns / self.units if unit_attention_ns is None else unit_attention_ns
        )

    def _closed(self, *, pipelined: bool, shared: bool) -> StepCost:
        """Return the step by the published closed forms."""
        spec = self._system.spec.model_copy(
            update={"head_level_pipelining": pipelined, "ff_coprocessing": shared}
        )
        given = self._beside
        beside = Beside(layers=given.layers, rates=given.rates, standby=given.standby)
        return step_costs(self._given, replace(self._system, spec=spec), self._unphased, beside).one

    def case(self, *, pipelined: bool, shared: bool) -> OverlapCase:
        closed = self._closed(pipelined=pipelined, shared=shared)
        by_share = self._layer(closed.operators, pipelined=pipelined, shared=shared, priced=False)
        by_price = self._layer(closed.operators, pipelined=pipelined, shared=shared, priced=True)
        schedule = simulate_layers(by_share)
        return OverlapCase(
            head_level_pipelining=pipelined,
            ff_coprocessing=shared,
            closed_form_ns=closed.time_ns,
            simulated_ns=self._step_ns(schedule),
            priced_ns=self._step_ns(simulate_layers(by_price)),
            schedule=schedule,
            products=tuple(op for op in by_share.rest if isinstance(op, SharedProduct)),
        )

    def _step_ns(self, schedule: OperatorSchedule) -> float:
        return self._step.layer_count * layer_ns(schedule) + self._outside_ns

    def _layer(
        self, closed: Sequence[OperatorTime], *, pipelined: bool, shared: bool, priced: bool
    ) -> DecodeLayer:
        units = self.units
        qkv, projection = self._matmuls[QKV], self._matmuls[PROJECTION]
        times = {op.name: op.alone_ns for op in (*self._before, *self._after)}
        others_ns = sum(times[op.name] for op in self._before if op.name != QKV) / units
        qkv_ns, projection_ns = times[QKV] / units, times[PROJECTION] / units
        if pipelined and priced:
            qkv_ns = self._gpu_ns(replace(qkv, n=qkv.n // units))
            # Partial sums of all outputs over the unit's part of the inner dimension.
            projection_ns = self._gpu_ns(replace(projection, k=projection.k // units))
        rest: list[GpuOperator | SharedProduct] = []
        closed_ns = {op.name: op.time_ns for op in closed}
        for op in self._after:
            if op.name == PROJECTION:
                continue
            if shared and op.name in FEED_FORWARD:
                closed_share = 1 - closed_ns[op.name] / op.alone_ns
                rest.append(self._shared(op, closed_share, priced=priced))
            else:
                rest.append(GpuOperator(op.name, op.alone_ns))
        return DecodeLayer(
            units=units,
            pipelined=pipelined,
            qkv_ns=qkv_ns + others_ns,
            there_ns=self._there_ns / units,
            attention_ns=self._unit_attention_ns,
            back_ns=self._back_ns / units,
            projection_ns=projection_ns,
            rest=tuple(rest),
        )

    def _gpu_ns(self, op: MatMul) -> float:
        return self._costs.matmul(op, self._system.gpu).one.time_ns

    def _transfer_ns(self, name: str, size_bytes: float) -> float:
        size_bytes *= self._gpus_per_link
        return self._costs.transfer(name, size_bytes, self._link).one.time_ns

    def _shared(self, op: OperatorTime, closed_share: float, *, priced: bool) -> SharedProduct:
        """Return the product with the number of columns on AttAcc with which it ends soonest."""
        # Pipelining changes nothing about it.
        if (op.name, priced) not in self._known:
            self._known[op.name, priced] = self._soonest(op, closed_share, priced=priced)
        return self._known[op.name, priced]

    def _soonest(self, op: OperatorTime, closed_share: float, *, priced: bool) -> SharedProduct:
        product = self._matmuls[op.name]
        rows, inner, width, repeats = (
            int(size) for size in (product.m, product.k, product.n, product.count)
        )
        stacks = self._products.stacks_per_gpu
        # As many columns as there are parts of a channel cost no more than one.
        weights = ElementType(product.right)
        grain = self._products.column_grain(weights)

        def columns(grains: int) -> int:
            return min(round(grains * grain * stacks), width)

        def gpu_ns(grains: int) -> float:
            left = width - columns(grains)
            if not priced:
                return op.alone_ns * left / width
            return self._gpu_ns(replace(product, n=left)) if left else 0.0

        def with_grains(grains: int) -> SharedProduct:
            stack = None
            if grains:
                own = ceil(columns(grains) / stacks)
                stack = self._products.multiply(ProductShape(rows, inner, own, weights))
            there_bytes = repeats * rows * inner * product.left.bytes
            back_bytes = repeats * rows * columns(grains) * product.out.bytes
            return SharedProduct(
                name=op.name,
                columns=columns(grains),
                of_columns=width,
                closed_form_share=closed_share,
                gpu_ns=gpu_ns(grains),
                there_ns=self._transfer_ns(f"{op.name}_in", there_bytes),
                back_ns=self._transfer_ns(f"{op.name}_out", back_bytes),
                repeats=repeats,
                stacks=stacks,
                stack=stack,
            )

        most = int(width / (grain * stacks))
        balanced = largest_balanced(with_grains, most, round(closed_share * most))
        # A smaller product is not always a faster one, where the cost model prices its tiles.
        within = min(range(balanced + 1), key=lambda grains: (gpu_ns(grains), -grains))
        candidates = {within, min(balanced + 1, most)}
        return min((with_grains(grains) for grains in sorted(candidates)), key=product_ns)


def largest_balanced(with_grains: Callable[[int], SharedProduct], most: int, guess: int) -> int:
    """Return the largest share with which AttAcc does not end after the GPU.

    With more columns on AttAcc, AttAcc takes longer and the GPU, by and large, less time.

    Args:
        with_grains: returns the product with a number of grains of its columns on AttAcc.
        most: most grains.
        guess: number of grains at which the search begins.
    """
    low, high = 0, most + 1
    at = min(max(1, guess), most)
    while high - low > 1:
        product = with_grains(at)
        end_ns, gpu_ns = product_ns(product), product.gpu_ns
        if end_ns > gpu_ns:
            high = at
        else:
            low = at
        # The share at which both would end together, if their times were linear in the share.
        attacc_ns = product.there_ns / product.of_columns + product.attacc_ns + product.back_ns
        whole_ns = gpu_ns / (1 - at / (most + 1))
        together = int(whole_ns / (attacc_ns / at + whole_ns / (most + 1)))
        at = together if low < together < high else (low + high) // 2
    return low


def product_ns(product: SharedProduct) -> float:
    """Return when a shared product ends, if its activations are on the GPU at time 0."""
    return schedule_tasks(rest_tasks([product], "", ())).makespan_ns
