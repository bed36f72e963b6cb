"""Energy and busy time of all steps of a run, priced in bulk once the run is over.

On GPUs every step is priced by itself, with the requests of `Works.batches`. Where AttAccs attend,
steps are priced in the blocks of the tables. The requests of a step have its mean length, and its
chunks are equal ones with as many pairs of a query and a key. Steps that read keys and values back
are priced exactly, which is slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from attacc.gpu.costs import PARTS, EnergyBreakdown, Floats
from attacc.results import Result, flat
from attacc.serving.prices.decode import block_ends, timed_between
from attacc.serving.prices.parts import EQUAL, HOST, MOVED, RETURNED, SENT, StepSource
from attacc.serving.prices.works import Works
from attacc.system.batches import Ints
from attacc.system.pricer import Timed
from attacc.system.step import Group, OperatorTimes, StepCosts

STEPS_AT_ONCE: Final = 8192
"""Steps of one call of the pricer."""
COLLECTIVES, TRANSFERS, GPUS, AWAY, WAITS = range(5)
_RESOURCES: Final = 5


@dataclass(frozen=True, slots=True)
class Totals(Result):
    """What all steps of a run take together.

    A resource is busy for the time that its operators take by themselves, hidden or not.

    Attributes:
        steps: number of steps.
        time_ns: sum of their durations.
        gpus_ns: time in which the GPUs compute.
        links_ns: time of collectives between the GPUs.
        transfers_ns: time of transfers to and from the devices that attend instead of GPUs.
        away_ns: time in which these devices, AttAccs or CPUs, attend.
        host_ns: time that the host adds.
        energy: energy of all boards.
        node_energy: energy of the node, its host included.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
    """

    steps: int
    time_ns: float
    gpus_ns: float
    links_ns: float
    transfers_ns: float
    away_ns: float
    host_ns: float
    energy: EnergyBreakdown
    node_energy: EnergyBreakdown
    estimates: tuple[str, ...]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row."""
        return [flat(self.to_dict())]


def totals_of(source: StepSource, works: Works) -> Totals:
    """Return energy and busy time of steps.

    Args:
        source: prices the steps.
        works: the steps.

    Raises:
        InputError: as in `Pricer.steps`.
    """
    time_ns, busy = 0.0, np.zeros(_RESOURCES)
    energy, node = np.zeros(len(PARTS)), np.zeros(len(PARTS))
    notes = dict[str, None]()
    for costs in _priced(source, works):
        time_ns += float(costs.time_ns.sum())
        busy += _busy(costs)
        energy += costs.energy.parts_pj.sum(axis=1)
        node += costs.node_energy.parts_pj.sum(axis=1)
        notes.update(dict.fromkeys(costs.estimates))
    if source.equal and works.held is None and works.decoding.any():
        notes[EQUAL] = None
    return Totals(
        steps=len(works),
        time_ns=time_ns,
        gpus_ns=float(busy[GPUS]),
        links_ns=float(busy[COLLECTIVES]),
        transfers_ns=float(busy[TRANSFERS]),
        away_ns=float(busy[AWAY]),
        host_ns=float(busy[WAITS]),
        energy=EnergyBreakdown(*energy.tolist()),
        node_energy=EnergyBreakdown(*node.tolist()),
        estimates=tuple(notes),
    )


def _priced(source: StepSource, works: Works) -> Iterator[StepCosts]:
    """Yield costs of all steps, each step once."""
    if source.equal and works.held is None:
        held = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(works.cached)])
        back = held[works.chunk_ends] > held[works.chunk_ends - works.chunks]
        yield from _in_blocks(source, works.take(np.flatnonzero(~back)))
        works = works.take(np.flatnonzero(back))
    for first in range(0, len(works), STEPS_AT_ONCE):
        own = works.part(first, min(first + STEPS_AT_ONCE, len(works)))
        yield from (costs for _, costs in source.groups(own))


def _in_blocks(source: StepSource, works: Works) -> Iterator[StepCosts]:
    """Yield costs of steps of equal requests. No step reads keys and values back."""
    for chosen, timed in _blocks(works):
        for first in range(0, chosen.size, STEPS_AT_ONCE):
            own = works.take(chosen[first : first + STEPS_AT_ONCE])
            yield from (costs for _, costs in source.in_block(own, timed))


def _blocks(works: Works) -> Iterator[tuple[Ints, Timed]]:
    """Yield numbers of steps that lie in one block of the tables, and the ends of the block."""
    decodes = works.decoding > 0
    idle = np.flatnonzero(~decodes)
    if idle.size:
        yield idle, Timed((1,), (1, 1))
    some = np.flatnonzero(decodes)
    if not some.size:
        return
    mean = np.maximum(1, np.rint(works.keys[some] / works.decoding[some]).astype(np.int64))
    rows, columns = block_ends(works.decoding[some], mean)
    blocks, place = np.unique(np.concatenate([rows, columns]), axis=1, return_inverse=True)
    for number, (low, high, fewest, most) in enumerate(blocks.T.tolist()):
        yield some[place.ravel() == number], timed_between(low, high, (fewest, most))


def _busy(costs: StepCosts) -> Floats:
    """Return the time of each resource in all steps together, in nanoseconds."""
    found = np.zeros(_RESOURCES)
    for op, resource in zip(costs.operators, resources(costs.operators), strict=True):
        alone = np.broadcast_to(op.alone_ns, (costs.steps,))
        found[resource] += op.runs * float(alone.sum())
    return found


def resources(operators: Sequence[OperatorTimes]) -> list[int]:
    """Return the resource of each operator.

    Operators between a transfer to the devices that attend and the transfer back run on these
    devices.

    Args:
        operators: of steps, in order.
    """
    found: list[int] = []
    away = False
    for op in operators:
        if op.name in SENT:
            away = True
        elif op.name in RETURNED:
            away = False
        if op.name in HOST:
            found.append(WAITS)
        elif op.name in SENT | RETURNED | MOVED:
            found.append(TRANSFERS)
        elif op.group is Group.COMMUNICATION:
            found.append(COLLECTIVES)
        else:
            found.append(AWAY if away else GPUS)
    return found
