"""Steps of a model on a system: every operator priced, placed, overlapped and summed.

Operators of a layer run one after the other, on all GPUs at once. Only the overlaps of
`attacc.system.overlap`, and the parts of `attacc.system.schedule`, run at the same time. Times are
those of one GPU, which are equal for all GPUs; energies are those of the whole system. One step and
ten thousand are priced by the same code: arrays have one element for each step, or a single element
that stands for all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import Bound, CostModel, Energies, Floats, HostTime, only
from attacc.hardware.system import ResolvedSystem
from attacc.models.operators import Step
from attacc.system.boundary import constant_power
from attacc.system.layer import (
    EVERYONE,
    FEED_FORWARD,
    PROJECTION,
    QKV,
    Beside,
    LayerBeside,
    LayerParts,
    LayerPricer,
    gpus_per_link,
    on_gpus,
)
from attacc.system.schedule import Turns, chosen, fastest, forms_of, plan_of
from attacc.system.step_cost import (
    NO_ENERGY,
    Group,
    GroupCost,
    OperatorTime,
    OperatorTimes,
    StepCost,
    StepCosts,
)

__all__ = [
    "FEED_FORWARD",
    "PROJECTION",
    "QKV",
    "Beside",
    "Group",
    "GroupCost",
    "LayerBeside",
    "OperatorTime",
    "OperatorTimes",
    "StepCost",
    "StepCosts",
    "gpus_per_link",
    "step_costs",
]


def step_costs(
    step: Step,
    system: ResolvedSystem,
    costs: CostModel,
    beside: Beside | None = None,
    turns: Sequence[Turns] = (),
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
        turns: how the steps may be divided into two parts that take turns. A step takes the fastest
            form that the system's `overlap` and `prefill_overlap` allow.

    Raises:
        InputError: the step is split over another number of GPUs than the system has, or the
            latency of collectives over the GPUs' link is not known.
        EngineError: the system wants parts that take turns, and none are given.
    """
    if step.tensor_parallel != system.gpus:
        raise InputError(
            f"the step is split over {step.tensor_parallel} GPUs, the system has {system.gpus}",
            where=system.spec.name,
            hint="build the step with the system's number of GPUs",
        )
    given, plan = beside or Beside(), plan_of(system.spec, step.phase)
    if plan.takes_turns and not turns:
        raise EngineError(f"steps of system {system.name} take turns: their parts are needed")
    costs = costs.for_steps(step.phase, given.model)
    step = costs.as_run(step)
    whole = _layers(step, given, system, costs)
    divided = [
        (one, [_layers(costs.as_run(part.step), part.beside, system, costs) for part in one.parts])
        for one in (turns if any(layer.away for layer in whole) else ())
    ]
    forms = forms_of(plan, whole, divided, [layer.runs for layer in step.layers])
    host = costs.host(step)
    layer_ns = np.zeros(1) if host is None else np.atleast_1d(host.layer_ns)
    codes = fastest(forms, step.layer_count * layer_ns)
    operators = list(chosen(forms, codes))
    for op in step.outside:
        shares = EVERYONE if op.name in step.everyone else step.shares
        operators += on_gpus(op, 1, "", system, costs, shares)
    if host is not None:
        operators += _on_host(
            step, host, np.array([form.parts for form in forms], dtype=np.float64)[codes]
        )
    steps = max(op.time_ns.size for op in operators)
    copied: Floats = reduce(np.maximum, (layer.copied_share for layer in whole))
    return StepCosts(
        steps=steps,
        cost_model=costs.kind,
        operators=tuple(operators),
        constant=constant_power(system, costs.static_w(system.gpu), given.standby),
        copied_share=np.broadcast_to(copied, (steps,)),
    )


def _layers(
    step: Step, beside: Beside, system: ResolvedSystem, costs: CostModel
) -> list[LayerParts]:
    """Return the parts of one layer of each kind."""
    return [
        LayerPricer(step, layer, system, costs, beside, beside.of_layer(number)).parts()
        for number, layer in enumerate(step.layers)
    ]


def _on_host(step: Step, host: HostTime, parts: Floats) -> list[OperatorTimes]:
    """Return the time that the host adds, as operators during which all devices wait.

    Args:
        step: the steps.
        host: the time.
        parts: (steps,) how many parts of a step run through the layers by themselves, each with
            kernels of its own.
    """
    alike = parts[:1] if (parts == parts[0]).all() else parts
    layer_ns, none = np.atleast_1d(host.layer_ns) * alike, Energies.equal(NO_ENERGY)
    return [
        OperatorTimes(name, Group.OTHER, runs, ns, ns, only(Bound.LATENCY), none, 0.0, notes)
        for name, runs, ns, notes in (
            ("host_layer", step.layer_count, layer_ns, host.estimates),
            ("host_step", 1, host.step_ns, host.estimates),
        )
    ]
