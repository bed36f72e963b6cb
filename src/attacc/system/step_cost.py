"""What steps cost: time and energy by operator, by part of a step, and in total.

A `StepCost` is one step. A `StepCosts` is many steps of the same operators: arrays have one element
for each step, or a single element that stands for all steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property, reduce
from operator import add
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from attacc.errors import EngineError
from attacc.gpu.costs import (
    BOUNDS,
    Bound,
    Codes,
    Energies,
    EnergyBreakdown,
    Estimate,
    Floats,
    noted,
)
from attacc.results import Result, flat
from attacc.system.boundary import ConstantPower

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
    """One operator in several steps; fields as in `OperatorTime`, arrays over the steps.

    Where two parts of a step take turns, one run is that of both.
    """

    name: str
    group: Group
    runs: int
    time_ns: Floats
    alone_ns: Floats
    bound: Codes
    energy: Energies
    launch_ns: float | Floats = 0.0
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
            of(np.atleast_1d(self.launch_ns)),
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
            of(np.atleast_1d(self.launch_ns)),
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

    def group_ns(self, group: Group) -> Floats:
        """Return the time that one part adds to each step.

        Args:
            group: the part.
        """
        total = np.zeros(self.steps)
        for op in self.operators:
            if op.group is group:
                total += op.runs * op.time_ns
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
