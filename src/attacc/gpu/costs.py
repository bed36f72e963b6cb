"""What an operator costs: the interface that every cost model implements.

A cost model prices one operator on one device, for one step or for many steps at once: sizes may
be arrays with one element for each step, and prices always are. Nothing here, and nothing that
takes a `CostModel`, knows how a price came about, so that models fitted to measurements can take
the place of the published one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attacc.errors import EngineError
from attacc.hardware.cpu import CpuSpec
from attacc.hardware.gpu import GpuSpec
from attacc.hardware.link import LinkSpec
from attacc.models.architecture import ModelSpec
from attacc.models.operators import AllReduce, Attention, MatMul, Phase, Pointwise, Step

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Codes = NDArray[np.int8]


class Bound(StrEnum):
    """What an operator waits for."""

    COMPUTE = "compute"
    """Arithmetic units."""
    MEMORY = "memory"
    """Bandwidth of the memory that its operands are in."""
    LINK = "link"
    """Bandwidth of a link between devices."""
    LATENCY = "latency"
    """Starting it: launching a kernel, or a collective's steps, whatever the amount of data."""


@dataclass(frozen=True, slots=True)
class EnergyBreakdown:
    """Energy by where it goes, in picojoules.

    Attributes:
        dram_pj: memory: cells and the way to the device's (or the unit's) edge.
        l2_pj: second-level cache.
        l1_pj: first-level cache.
        register_pj: registers.
        alu_pj: arithmetic.
        link_pj: links between devices.
        static_pj: drawn whatever the work: idle power, and that of cores switched on.
    """

    dram_pj: float = 0.0
    l2_pj: float = 0.0
    l1_pj: float = 0.0
    register_pj: float = 0.0
    alu_pj: float = 0.0
    link_pj: float = 0.0
    static_pj: float = 0.0

    @property
    def total_pj(self) -> float:
        """The sum of all parts."""
        return (
            self.dram_pj
            + self.l2_pj
            + self.l1_pj
            + self.register_pj
            + self.alu_pj
            + self.link_pj
            + self.static_pj
        )

    def __add__(self, other: EnergyBreakdown) -> EnergyBreakdown:
        return EnergyBreakdown(
            self.dram_pj + other.dram_pj,
            self.l2_pj + other.l2_pj,
            self.l1_pj + other.l1_pj,
            self.register_pj + other.register_pj,
            self.alu_pj + other.alu_pj,
            self.link_pj + other.link_pj,
            self.static_pj + other.static_pj,
        )

    def times(self, factor: float) -> EnergyBreakdown:
        """Return every part multiplied."""
        return EnergyBreakdown(
            self.dram_pj * factor,
            self.l2_pj * factor,
            self.l1_pj * factor,
            self.register_pj * factor,
            self.alu_pj * factor,
            self.link_pj * factor,
            self.static_pj * factor,
        )


BOUNDS: Final = tuple(Bound)
"""What a code of `OperatorCosts.bound` stands for."""


def either(flags: ArrayLike, yes: Bound, no: Bound | Codes) -> Codes:
    """Return the codes of one bound where flags hold, and of another where they do not."""
    other = BOUNDS.index(no) if isinstance(no, Bound) else no
    return np.atleast_1d(np.where(flags, BOUNDS.index(yes), other).astype(np.int8))


def only(bound: Bound) -> Codes:
    """Return the code of a bound, for all steps."""
    return np.full(1, BOUNDS.index(bound), dtype=np.int8)


PARTS: Final = tuple(part.name for part in fields(EnergyBreakdown))


@dataclass(frozen=True, slots=True, eq=False)
class Energies:
    """Energy of several steps by where it goes.

    Attributes:
        parts_pj: (parts of `EnergyBreakdown`, steps) picojoules.
    """

    parts_pj: Floats

    @classmethod
    def of(cls, **parts: ArrayLike) -> Energies:
        """Return energies by the names of the parts; those left out are 0.

        Args:
            parts: picojoules, as in `EnergyBreakdown`; arrays of one length, or numbers.
        """
        arrays = {PARTS.index(name): np.atleast_1d(values) for name, values in parts.items()}
        steps = max((array.size for array in arrays.values()), default=1)
        rows = np.zeros((len(PARTS), steps))
        for index, array in arrays.items():
            rows[index] = array
        return cls(rows)

    @classmethod
    def equal(cls, energy: EnergyBreakdown) -> Energies:
        """Return the energy of one step."""
        return cls(np.array([[getattr(energy, name)] for name in PARTS], dtype=np.float64))

    def part(self, name: str) -> Floats:
        """Return one part by its name in `EnergyBreakdown`."""
        return self.parts_pj[PARTS.index(name)]

    @property
    def total_pj(self) -> Floats:
        """The sum of all parts of every step."""
        return np.sum(self.parts_pj, axis=0)

    def __add__(self, other: Energies) -> Energies:
        return Energies(self.parts_pj + other.parts_pj)

    def times(self, factor: float | Floats) -> Energies:
        """Return every part multiplied."""
        return Energies(self.parts_pj * factor)

    def at(self, index: int) -> EnergyBreakdown:
        """Return the energy of one step; where all steps have the same, of any."""
        column = index if self.parts_pj.shape[1] > 1 else 0
        return EnergyBreakdown(*self.parts_pj[:, column].tolist())


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """Price of one operator in one step, run once.

    Attributes:
        name: of the operator.
        time_ns: from start to end, nothing else running on the device.
        bound: what it waits for.
        energy: of one device; of all sockets together where CPUs run it. What the device draws
            when idle is not part of it (`CostModel.static_w`).
        launch_ns: part of the time that is starting kernels.
        estimates: what of it was neither published nor measured, in words: scaled, assumed, or
            beyond what was fitted.
    """

    name: str
    time_ns: float
    bound: Bound
    energy: EnergyBreakdown
    launch_ns: float = 0.0
    estimates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What of a price was neither published nor measured.

    Attributes:
        what: in words.
        holds: the steps that it is true of.
    """

    what: str
    holds: Flags

    @classmethod
    def always(cls, what: str) -> Estimate:
        """Return an estimate that holds for every step."""
        return cls(what, np.ones(1, dtype=np.bool_))


def noted(estimates: tuple[Estimate, ...], index: int | None = None) -> tuple[str, ...]:
    """Return the words of the estimates that hold for one step, or for any; each once."""
    return tuple(
        dict.fromkeys(
            e.what
            for e in estimates
            if (e.holds.any() if index is None else e.holds[index if e.holds.size > 1 else 0])
        )
    )


@dataclass(frozen=True, slots=True, eq=False)
class OperatorCosts:
    """Prices of one operator in several steps, run once in each.

    Arrays have one element for each step; a single element stands for all steps.

    Attributes:
        name: of the operator.
        time_ns: as in `OperatorCost`, likewise the others.
        bound: codes of `BOUNDS`.
        energy: of one device.
        launch_ns: part of the time that is starting kernels.
        estimates: what was neither published nor measured, and in which steps.
    """

    name: str
    time_ns: Floats
    bound: Codes
    energy: Energies
    launch_ns: float = 0.0
    estimates: tuple[Estimate, ...] = ()

    @property
    def one(self) -> OperatorCost:
        """The price in the only step.

        Raises:
            EngineError: there are several.
        """
        if self.time_ns.size != 1:
            raise EngineError(f"{self.name} has {self.time_ns.size} prices, not one")
        return OperatorCost(
            self.name,
            float(self.time_ns[0]),
            BOUNDS[int(self.bound[0])],
            self.energy.at(0),
            self.launch_ns,
            noted(self.estimates, 0),
        )


def over_distinct(
    price: Callable[[tuple[Floats, ...]], tuple[Floats, ...]], sizes: tuple[ArrayLike, ...]
) -> tuple[Floats, ...]:
    """Price every combination of sizes that occurs once, and return the prices of all.

    Args:
        price: takes arrays of one length, returns arrays of that length.
        sizes: arrays of one length, or numbers.
    """
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(s, dtype=np.float64)) for s in sizes))
    if arrays[0].size == 1:
        return price(tuple(arrays))
    varying = [array for array in arrays if array.min() != array.max()]
    if not varying:
        return price(tuple(array[:1] for array in arrays))
    if len(varying) == 1:
        _, first, inverse = np.unique(varying[0], return_index=True, return_inverse=True)
    else:
        _, first, inverse = np.unique(
            np.stack(varying), axis=1, return_index=True, return_inverse=True
        )
    prices = price(tuple(np.ascontiguousarray(array[first]) for array in arrays))
    return tuple(values[inverse.ravel()] for values in prices)


def ragged(at_mean: Floats, at_longest: Floats, rounds: Floats) -> Floats:
    """Return the time of decode attention whose requests have different numbers of keys.

    A core works through blocks of work in ``rounds``, and takes the next block as soon as it is
    free. All cores together take as long as they would with equal requests of the mean length, and
    the last block may be that of the longest request, which takes longer than the mean by the
    difference of one round. Equal requests take exactly what they did, and no time exceeds that of
    requests that are all as long as the longest. An estimate: unequal lengths were never measured.

    Args:
        at_mean: time with all requests as long as the mean.
        at_longest: time with all requests as long as the longest.
        rounds: blocks that a core works through one after the other, at least 1.
    """
    return at_mean + np.maximum(0.0, at_longest - at_mean) / rounds


RAGGED: Final = "decode attention of unequal lengths: by a model of rounds, never measured"
PAST: Final = "prefill attention over earlier keys: by the number of keys, never measured"
MIXED: Final = "steps that prefill and decode: sums of both, never measured"


@dataclass(frozen=True, slots=True)
class HostTime:
    """What the host adds to steps, the GPUs waiting.

    Attributes:
        layer_ns: to every layer.
        step_ns: once, for every step.
        estimates: what of it was not measured.
    """

    layer_ns: float
    step_ns: Floats
    estimates: tuple[Estimate, ...] = ()


class CostModel(abc.ABC):
    """Prices operators, in one step or in many at once."""

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """How the prices came about, as in "published"; part of every result."""

    def as_run(self, step: Step) -> Step:
        """Return the operators that the kernels of this model run for a step."""
        return step

    def for_steps(self, phase: Phase, model: ModelSpec | None = None) -> CostModel:
        """Return the cost model for steps of one phase of one model.

        Libraries start the kernels of decode steps otherwise than those of prefills, and what a
        framework adds was fitted to element types.

        Args:
            phase: of the steps.
            model: whose steps they are; None where it is not known.
        """
        del phase, model
        return self

    def host(self, step: Step) -> HostTime | None:
        """Return what the host adds to steps; None where nothing is known of it."""
        del step
        return None

    def static_w(self, gpu: GpuSpec) -> float:
        """Return what one GPU draws at any time, kernel or none; 0 where it is not counted."""
        del gpu
        return 0.0

    @abc.abstractmethod
    def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCosts:
        """Price a matrix product on one GPU."""

    @abc.abstractmethod
    def coprocessing_peak_flops_per_s(self, op: MatMul, gpu: GpuSpec) -> float | Floats:
        """Return the GPU's arithmetic rate that AttAcc adds to when both share a product."""

    @abc.abstractmethod
    def coprocessing_bytes_per_s(self, op: MatMul, gpu: GpuSpec) -> float | Floats:
        """Return the GPU's bandwidth that AttAcc adds to when both share a product."""

    @abc.abstractmethod
    def pointwise(self, op: Pointwise, gpu: GpuSpec) -> OperatorCosts:
        """Price an operator on every element on one GPU."""

    @abc.abstractmethod
    def attention(self, op: Attention, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price attention of one layer on one GPU: one cost for each kernel that it takes."""

    @abc.abstractmethod
    def all_reduce(self, op: AllReduce, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price the sum of one matrix over several GPUs.

        Raises:
            InputError: nothing is known of collectives over this link.
        """

    @abc.abstractmethod
    def transfer(
        self, name: str, transferred_bytes: float | Floats, link: LinkSpec
    ) -> OperatorCosts:
        """Price moving bytes over one device's link, in one direction."""

    @abc.abstractmethod
    def cpu_attention(self, op: Attention, gpus: int, cpu: CpuSpec, sockets: int) -> OperatorCosts:
        """Price attention of one layer, of all GPUs together, on the sockets of a host."""
