"""Two parts of a step that take turns on the GPUs and on the devices that run attention.

While AttAccs (or CPUs) attend for one part of the requests, the GPUs work on the other part. The
parts are two halves of the batch (NeuPIMs, arXiv 2403.00579), or the requests that
decode and the prompts beside them (L3, arXiv 2504.17584). Each part runs through all layers by
itself, so the weights of a layer are read once for each part, and each part has collectives and
kernels of its own.

The schedule has two resources, the GPUs together and the attending devices together, each of which
does one thing at a time. Both take the parts in turn, layer by layer, and never in another order.
In that order every piece of work starts as soon as its predecessor and its resource allow. So the
times of all steps follow from one recurrence, which `waits_ns` runs for arrays of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

import numpy as np

from attacc.errors import EngineError
from attacc.gpu.costs import Codes, Energies, Estimate, Flags, Floats
from attacc.hardware.system import Overlap, PrefillOverlap, SystemSpec
from attacc.models.operators import Phase, Step
from attacc.system.batches import Batches
from attacc.system.layer import Beside, LayerParts, sum_ns
from attacc.system.step_cost import OperatorTimes

TURNS: Final = "two parts of a step take turns on GPUs and AttAccs: by a schedule, never measured"
"""Note of attention whose step is such a schedule."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The forms that steps of a phase may take on a system; the fastest one is taken.

    Attributes:
        whole: all requests together.
        halves: two halves of the requests, and of every chunk of a prompt, in turn.
        prompts: the requests that decode and the prompts, in turn.
        beside: in every form, the GPUs attend for the prompts of a part while other devices attend
            for its decoding requests.
    """

    whole: bool = True
    halves: bool = False
    prompts: bool = False
    beside: bool = False

    @property
    def takes_turns(self) -> bool:
        """Whether a form has two parts."""
        return self.halves or self.prompts


def plan_of(spec: SystemSpec, phase: Phase) -> Plan:
    """Return the forms that a system allows for steps of a phase.

    In steps with prompts, "layers" of `prefill_overlap` goes before `overlap`.
    """
    if phase is Phase.PREFILL:
        return Plan()
    halves, whole = spec.overlap is not Overlap.NONE, spec.overlap is not Overlap.HALVES
    prefill = spec.prefill_overlap
    if phase is Phase.DECODE or prefill is PrefillOverlap.NONE:
        return Plan(whole=whole, halves=halves)
    if prefill is PrefillOverlap.LAYERS:
        return Plan(whole=False, prompts=True, beside=True)
    return Plan(whole=whole, halves=halves, prompts=prefill is PrefillOverlap.AUTO, beside=True)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some of a step's requests, by themselves.

    Attributes:
        step: their operators, with the phase of the whole step.
        beside: inputs besides the operators.
    """

    step: Step
    beside: Beside


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Two parts that make up a step together.

    Attributes:
        parts: in the order in which they take turns.
        possible: (steps,) whether a step has both.
    """

    parts: tuple[Part, Part]
    possible: Flags


def divisions(plan: Plan, batches: Batches) -> list[tuple[Batches, Batches, Flags]]:
    """Return the two parts of every form that has two, and which steps have both.

    Args:
        plan: what the system allows.
        batches: steps of one phase.
    """
    found = [batches.halves()] if plan.halves else []
    if plan.prompts:
        both = np.ones(len(batches), dtype=np.bool_)
        found.append((batches.decode_only, batches.prefill_only, both))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class LayerWork:
    """What one layer of one part occupies; nanoseconds, for each step.

    Attributes:
        ahead_ns: the GPUs, before attention.
        prompts_ns: the GPUs, with attention of prompts.
        away_ns: the devices that run attention, with transfers that they do not hide and with their
            start; None where they have nothing to do.
        behind_ns: the GPUs, after attention.
    """

    ahead_ns: Floats
    prompts_ns: Floats
    away_ns: Floats | None
    behind_ns: Floats

    @classmethod
    def of(cls, parts: LayerParts) -> LayerWork:
        """Return the work of a layer from its operators."""
        return cls(
            ahead_ns=sum_ns(parts.ahead),
            prompts_ns=sum_ns(parts.prompts),
            away_ns=sum_ns(parts.away) if parts.away else None,
            behind_ns=sum_ns((*parts.local, *parts.behind)),
        )


def spread(runs: Sequence[int]) -> list[int]:
    """Return an order of all layers in which those of each kind are evenly spread.

    Args:
        runs: layers of each kind.

    Returns:
        The kind of every layer.
    """
    places = [((n + 0.5) / many, kind) for kind, many in enumerate(runs) for n in range(many)]
    return [kind for _, kind in sorted(places)]


def waits_ns(
    parts: Sequence[Sequence[LayerWork]], order: Sequence[int], *, beside: bool = False
) -> Floats:
    """Return how long the GPUs wait for attention in all layers together.

    A layer's work after attention and the next layer's work before it are one turn of a part on the
    GPUs. The step is as long as the work of the GPUs and these waits.

    Args:
        parts: for each part, the work of a layer of each kind; a part may lack the last kinds.
        order: kind of each layer.
        beside: whether attention on other devices starts before that of the part's prompts on the
            GPUs, and not after it.
    """
    gpus_ns, away_ns, waited_ns = np.zeros(1), np.zeros(1), np.zeros(1)
    attended_ns = [np.zeros(1) for _ in parts]
    behind_ns = [np.zeros(1) for _ in parts]
    for kind in order:
        for number, layers in enumerate(parts):
            if kind >= len(layers):
                continue
            work = layers[kind]
            wait_ns = np.maximum(0.0, attended_ns[number] - gpus_ns)
            waited_ns = waited_ns + wait_ns
            ready_ns = gpus_ns + wait_ns + behind_ns[number] + work.ahead_ns
            gpus_ns = ready_ns + work.prompts_ns
            if not beside:
                ready_ns = gpus_ns
            attended_ns[number], behind_ns[number] = ready_ns, work.behind_ns
            if work.away_ns is not None:
                away_ns = np.maximum(away_ns, ready_ns) + work.away_ns
                attended_ns[number] = away_ns
    for attended, behind in zip(attended_ns, behind_ns, strict=True):
        wait_ns = np.maximum(0.0, attended - gpus_ns)
        waited_ns = waited_ns + wait_ns
        gpus_ns = gpus_ns + wait_ns + behind
    return waited_ns


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The layers of steps in one form.

    Attributes:
        operators: of a layer of each kind, as they add to the step.
        allowed: (steps,) whether a step may take the form.
        parts: how many parts run through the layers by themselves.
    """

    operators: list[OperatorTimes]
    allowed: Flags
    parts: int

    @property
    def time_ns(self) -> Floats:
        """Time of all layers."""
        return sum((op.runs * op.time_ns for op in self.operators), np.zeros(1))


def forms_of(
    plan: Plan,
    whole: Sequence[LayerParts],
    divided: Sequence[tuple[Turns, Sequence[Sequence[LayerParts]]]],
    runs: Sequence[int],
) -> list[Form]:
    """Return the forms that steps may take: all requests together, then parts in turn.

    Args:
        plan: what the system allows. Steps that have no two parts stay whole in any case.
        whole: layers of each kind with all requests together.
        divided: two parts of the requests, with their layers of each kind.
        runs: layers of each kind.
    """
    alone = [op for layer in whole for op in layer.in_a_row(beside=plan.beside)]
    forms = [
        Form(in_turns(whole, layers, runs, beside=plan.beside), turns.possible, len(layers))
        for turns, layers in divided
    ]
    allowed = np.ones(1, dtype=np.bool_)
    if not plan.whole and forms:
        allowed = ~np.logical_or.reduce([form.allowed for form in forms])
    return [Form(alone, allowed, 1), *forms]


def in_turns(
    whole: Sequence[LayerParts],
    parts: Sequence[Sequence[LayerParts]],
    runs: Sequence[int],
    *,
    beside: bool,
) -> list[OperatorTimes]:
    """Return the operators of layers whose parts take turns; a run is that of both parts.

    All work of the GPUs adds to the step. Attention on other devices adds the time for which the
    GPUs wait, dealt out over its operators by their times. Keys and values of prompts move behind
    the work of both parts.

    Args:
        whole: the layers of each kind with all requests together; operators keep its order.
        parts: the layers of each kind, for each part.
        runs: layers of each kind.
        beside: as in `waits_ns`.
    """
    work = [[LayerWork.of(one) for one in layers] for layers in parts]
    waited_ns = waits_ns(work, spread(runs), beside=beside)
    away_ns = np.zeros(1)
    for layers in work:
        for many, one in zip(runs, layers, strict=False):
            if one.away_ns is not None:
                away_ns = away_ns + many * one.away_ns
    share = np.divide(
        waited_ns, away_ns, out=np.zeros(np.broadcast(waited_ns, away_ns).shape), where=away_ns > 0
    )
    found: list[OperatorTimes] = []
    for kind, together in enumerate(whole):
        own = [_waiting(layers[kind], share) for layers in parts if kind < len(layers)]
        layer = _merged(together.in_place, own)
        found += [*layer, *together.moves(layer)]
    return found


def _waiting(parts: LayerParts, share: Floats) -> list[OperatorTimes]:
    """Return the operators of a layer, with a share of the time of attention on other devices."""
    away = tuple(
        replace(
            op,
            time_ns=op.time_ns * share,
            estimates=(*op.estimates, Estimate.always(TURNS))
            if op.name == "attention"
            else op.estimates,
        )
        for op in parts.away
    )
    return replace(parts, away=away).in_place


def _numbered(operators: Iterable[OperatorTimes]) -> dict[tuple[str, int], OperatorTimes]:
    """Return operators by name, and by how many of the same name come before."""
    seen: dict[str, int] = {}
    found: dict[tuple[str, int], OperatorTimes] = {}
    for op in operators:
        number = seen.get(op.name, 0)
        seen[op.name] = number + 1
        found[op.name, number] = op
    return found


def _merged(
    names: Sequence[OperatorTimes], parts: Sequence[Sequence[OperatorTimes]]
) -> list[OperatorTimes]:
    """Return the operators of all parts, those of one name added up.

    Layers that keep states have an operator of one name for decoding requests and for prompts.
    Where these are apart, both count as the first one, and the second one is without cost.

    Args:
        names: operators of all names, in order.
        parts: operators of each part.

    Raises:
        EngineError: a part has an operator that is not among the names.
    """
    each = [_numbered(part) for part in parts]
    for own in each:
        if unknown := own.keys() - _numbered(names).keys():
            raise EngineError(f"only a part of a step has {', '.join(n for n, _ in unknown)}")
    found: list[OperatorTimes] = []
    for key, name in _numbered(names).items():
        own = [part[key] for part in each if key in part]
        found.append(reduce(_added, own) if own else _free(name))
    return found


def _free(op: OperatorTimes) -> OperatorTimes:
    """Return an operator of no cost."""
    none = np.zeros(1)
    return replace(
        op, time_ns=none, alone_ns=none, energy=op.energy.times(0.0), launch_ns=0.0, estimates=()
    )


def _added(a: OperatorTimes, b: OperatorTimes) -> OperatorTimes:
    """Return an operator of two parts; the part that takes longer names the bound."""
    return replace(
        a,
        time_ns=a.time_ns + b.time_ns,
        alone_ns=a.alone_ns + b.alone_ns,
        bound=np.where(a.alone_ns >= b.alone_ns, a.bound, b.bound).astype(np.int8),
        energy=a.energy + b.energy,
        launch_ns=a.launch_ns + b.launch_ns,
        estimates=(*a.estimates, *b.estimates),
    )


def fastest(forms: Sequence[Form], extra_ns: Floats) -> Codes:
    """Return the number of the fastest allowed form of each step; of equal ones, the first.

    Args:
        forms: at least one of which is allowed in every step.
        extra_ns: time that every part adds besides its operators.
    """
    times = np.broadcast_arrays(
        *(np.where(form.allowed, form.time_ns + form.parts * extra_ns, np.inf) for form in forms)
    )
    return np.argmin(np.stack(times), axis=0).astype(np.int8)


def chosen(forms: Sequence[Form], codes: Codes) -> list[OperatorTimes]:
    """Return the operators of each step in the form that it takes.

    Args:
        forms: with the same operators.
        codes: (steps,) number of the form of each step.
    """
    if (codes == codes[0]).all():
        return forms[int(codes[0])].operators
    found: list[OperatorTimes] = []
    for each in zip(*(form.operators for form in forms), strict=True):
        energies = [op.energy.parts_pj for op in each]
        found.append(
            replace(
                each[0],
                time_ns=_of_form([op.time_ns for op in each], codes),
                alone_ns=_of_form([op.alone_ns for op in each], codes),
                bound=_of_form([op.bound for op in each], codes).astype(np.int8),
                energy=Energies(_of_form(energies, codes)),
                launch_ns=_of_form([np.atleast_1d(op.launch_ns) for op in each], codes),
                estimates=tuple(
                    Estimate(note.what, note.holds & (codes == number))
                    for number, op in enumerate(each)
                    for note in op.estimates
                ),
            )
        )
    return found


def _of_form(values: Sequence[Floats | Codes], codes: Codes) -> Floats:
    """Return for each step the values of its form; the last axis is that of the steps."""
    found = values[0].astype(np.float64)
    for number, own in enumerate(values[1:], start=1):
        found = np.where(codes == number, own, found)
    return np.array(np.broadcast_to(found, (*found.shape[:-1], codes.size)))
