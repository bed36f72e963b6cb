"""Where a gain of AttAccs comes from: factors in a fixed order that multiply to the gain.

The chain starts at the GPUs alone, and changes one thing at a time:

1. capacity: the GPUs have as much memory as GPUs and AttAccs together;
2. bandwidth: the stacks of the AttAccs are plain HBM of the GPUs, with the bandwidth of their
   interfaces (the system of equal stacks);
3. processing in memory: the stacks are AttAccs with the papers' unit, one query for each read;
4. unit: a read serves as many queries as the system's units do;
5. overlap: the system's overlaps and co-processing are on: the system itself.

Every system of the chain has its own best layout, engine and batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from math import prod

from attacc.errors import InputError
from attacc.hardware.system import (
    OVERLAPS_OFF,
    ResolvedSystem,
    gpus_alone,
    with_keys,
)
from attacc.system.doubts import device_of


class Cause(StrEnum):
    """What one step of the chain adds."""

    CAPACITY = "capacity"
    BANDWIDTH = "bandwidth"
    PROCESSING = "processing in memory"
    UNIT = "unit"
    OVERLAP = "overlap"


@dataclass(frozen=True, slots=True)
class Factor:
    """One step of the chain.

    Attributes:
        cause: what is added.
        requests_per_s: requests per second with it.
        factor: over those without it.
    """

    cause: Cause
    requests_per_s: float
    factor: float


@dataclass(frozen=True)
class Decomposition:
    """A gain as a product.

    Attributes:
        baseline_requests_per_s: of the GPUs alone.
        factors: the steps, in the order of `Cause`.
        equal_stacks_requests_per_s: of the GPUs with the stacks as plain HBM.
        equal_stacks_energy_j: energy of one request there.
    """

    baseline_requests_per_s: float
    factors: tuple[Factor, ...]
    equal_stacks_requests_per_s: float
    equal_stacks_energy_j: float

    @cached_property
    def gain(self) -> float:
        """The product of all factors."""
        return prod(factor.factor for factor in self.factors)


def equal_stacks(system: ResolvedSystem, *, bandwidth: bool = True) -> ResolvedSystem:
    """Return the GPUs of a system with the stacks of its AttAccs as memory of their own.

    Args:
        system: a system with AttAccs.
        bandwidth: whether the interfaces of the stacks add to the GPUs' bandwidth.

    Raises:
        InputError: the system has no AttAccs.
    """
    device, pool = device_of(system), system.attacc
    if device is None or pool is None:
        raise InputError(f"{system.name} has no AttAccs", where="system")
    each = pool.stacks / system.gpus
    memory = system.gpu.memory_bytes + each * device.organization.stack_bytes
    rate = system.gpu.memory_bytes_per_s
    if bandwidth:
        rate += each * device.external_bytes_per_s
    gpu = system.gpu.model_copy(update={"memory_bytes": memory, "memory_bytes_per_s": rate})
    plain = gpus_alone(system)
    name = f"{system.spec.gpu} with {each:g} stacks of {device.name} more"
    spec = plain.spec.model_copy(update={"name": name, "memory_per_gpu_bytes": None})
    return replace(plain, spec=spec, gpu=gpu)


def _without(system: ResolvedSystem, *, unit: bool) -> ResolvedSystem:
    """Return a system without its overlaps; also with the papers' unit, where asked."""
    pool = system.attacc
    assert pool is not None  # noqa: S101 - asked only then
    table = pool.table.model_copy(update={"queries_per_read": 1}) if unit else pool.table
    return with_keys(system, {**OVERLAPS_OFF, "attacc": table})


def decompose(
    system: ResolvedSystem, best: Callable[[ResolvedSystem], tuple[float, float]]
) -> Decomposition | None:
    """Return where the gain of a system over its GPUs alone comes from.

    Args:
        system: a system with AttAccs.
        best: returns the requests per second of a system in its best layout, and the energy of one
            request.

    Returns:
        The factors; None where the model does not fit into the GPUs alone.
    """
    pool = system.attacc
    if pool is None:
        return None
    own = best(system)
    overlaps = any(getattr(system.spec, key) != value for key, value in OVERLAPS_OFF.items())
    unit = best(_without(system, unit=False)) if overlaps else own
    processing = best(_without(system, unit=True)) if pool.table.queries_per_read > 1 else unit
    try:
        bandwidth = best(equal_stacks(system))
        capacity = best(equal_stacks(system, bandwidth=False))
        first = best(gpus_alone(system))
    except InputError:
        return None
    chain = (capacity[0], bandwidth[0], processing[0], unit[0], own[0])
    before = (first[0], *chain[:-1])
    factors = tuple(
        Factor(cause, rate, rate / last)
        for cause, rate, last in zip(Cause, chain, before, strict=True)
    )
    return Decomposition(first[0], factors, *bandwidth)
