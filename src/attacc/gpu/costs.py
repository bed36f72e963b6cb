"""The interface of cost models, and the prices that they return.

A cost model prices one operator on one device, for one step or for many steps at once. Sizes may be
arrays with one element for each step; prices always are such arrays. No caller of a `CostModel`
knows how it computes a price. So a model that is fitted to measurements can replace the published
one.
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
from attacc.models.operators import (
    AllReduce,
    Attention,
    Collective,
    Convolution,
    Experts,
    IndexScan,
    LatentAttention,
    MatMul,
    Phase,
    Pointwise,
    StateUpdate,
    Step,
)
from attacc.models.served import ServedModel

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Codes = NDArray[np.int8]


Fused = Experts | LatentAttention | IndexScan | StateUpdate | Convolution
"""Operators that libraries run as kernels of their own, beside attention over keys and values."""


class Bound(StrEnum):
    """The resource that limits the time of an operator."""

    COMPUTE = "compute"
    """The arithmetic units."""
    MEMORY = "memory"
    """Bandwidth of the memory that holds the operands."""
    LINK = "link"
    """Bandwidth of a link between devices."""
    LATENCY = "latency"
    """Launching a kernel, or starting the steps of a collective, whatever the amount of data."""
    READS = "reads"
    """Rows and columns of the DRAM of AttAccs, as in `attacc.pim.limits`, like the names below."""
    UNITS = "units"
    """The cadence of the units of AttAccs, or of their power budget."""
    MOVES = "moves"
    """Fills of the buffers of AttAccs, and moves of sums."""
    SOFTMAX = "softmax"
    """The softmax unit of AttAccs."""
    READS_UNITS = "reads and units"
    READS_MOVES = "reads and moves"
    READS_SOFTMAX = "reads and softmax"
    UNITS_MOVES = "units and moves"
    UNITS_SOFTMAX = "units and softmax"
    MOVES_SOFTMAX = "moves and softmax"


@dataclass(frozen=True, slots=True)
class EnergyBreakdown:
    """Energy in picojoules, by the part that takes it.

    Attributes:
        dram_pj: memory: its cells, and the way to the edge of the device or of the unit.
        l2_pj: second-level cache.
        l1_pj: first-level cache.
        register_pj: registers.
        alu_pj: arithmetic.
        link_pj: links between devices.
        static_pj: energy of GPUs that does not depend on the work: idle power of their boards, and
            power of cores that are switched on.
        standby_pj: standby and refresh of the stacks of AttAccs.
        device_pj: what AttAccs draw at any time beside their stacks.
        host_pj: what the node draws at any time beside its boards.
    """

    dram_pj: float = 0.0
    l2_pj: float = 0.0
    l1_pj: float = 0.0
    register_pj: float = 0.0
    alu_pj: float = 0.0
    link_pj: float = 0.0
    static_pj: float = 0.0
    standby_pj: float = 0.0
    device_pj: float = 0.0
    host_pj: float = 0.0

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
            + self.standby_pj
            + self.device_pj
            + self.host_pj
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
            self.standby_pj + other.standby_pj,
            self.device_pj + other.device_pj,
            self.host_pj + other.host_pj,
        )

    def times(self, factor: float) -> EnergyBreakdown:
        """Return all parts multiplied by a factor."""
        return EnergyBreakdown(
            self.dram_pj * factor,
            self.l2_pj * factor,
            self.l1_pj * factor,
            self.register_pj * factor,
            self.alu_pj * factor,
            self.link_pj * factor,
            self.static_pj * factor,
            self.standby_pj * factor,
            self.device_pj * factor,
            self.host_pj * factor,
        )


BOUNDS: Final = tuple(Bound)
"""The bounds, in the order of the codes in `OperatorCosts.bound`."""


def either(flags: ArrayLike, yes: Bound, no: Bound | Codes) -> Codes:
    """Return for each step the code of one bound where its flag is true, else that of another."""
    other = BOUNDS.index(no) if isinstance(no, Bound) else no
    return np.atleast_1d(np.where(flags, BOUNDS.index(yes), other).astype(np.int8))


def only(bound: Bound) -> Codes:
    """Return the code of one bound for all steps."""
    return np.full(1, BOUNDS.index(bound), dtype=np.int8)


PARTS: Final = tuple(part.name for part in fields(EnergyBreakdown))


@dataclass(frozen=True, slots=True, eq=False)
class Energies:
    """Energy of several steps, by the part that takes it.

    Attributes:
        parts_pj: (parts, steps) picojoules; the parts are those of `EnergyBreakdown`.
    """

    parts_pj: Floats

    @classmethod
    def of(cls, **parts: ArrayLike) -> Energies:
        """Return energies from the parts by name; parts that are not given are 0.

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
        """Return all parts multiplied by a factor."""
        return Energies(self.parts_pj * factor)

    def at(self, index: int) -> EnergyBreakdown:
        """Return the energy of one step; any index will do if all steps have the same energy."""
        column = index if self.parts_pj.shape[1] > 1 else 0
        return EnergyBreakdown(*self.parts_pj[:, column].tolist())


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """Price of one run of an operator in one step.

    Attributes:
        name: name of the operator.
        time_ns: time from start to end in nanoseconds, while nothing else runs on the device.
        bound: resource that limits the time.
        energy: energy of one device, or of all sockets together if CPUs run the operator. It does
            not contain the idle power of the device (`CostModel.static_w`).
        launch_ns: part of the time that starts kernels.
        estimates: parts of the price, in words, that were neither published nor measured: they are
            scaled, assumed, or outside the fitted range.
    """

    name: str
    time_ns: float
    bound: Bound
    energy: EnergyBreakdown
    launch_ns: float = 0.0
    estimates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A part of a price that was neither published nor measured.

    Attributes:
        what: the part, in words.
        holds: for each step, whether the estimate applies to it.
    """

    what: str
    holds: Flags

    @classmethod
    def always(cls, what: str) -> Estimate:
        """Return an estimate that applies to every step."""
        return cls(what, np.ones(1, dtype=np.bool_))


def noted(estimates: tuple[Estimate, ...], index: int | None = None) -> tuple[str, ...]:
    """Return the texts of the estimates that apply to one step, or to any step, each text once."""
    return tuple(
        dict.fromkeys(
            e.what
            for e in estimates
            if (e.holds.any() if index is None else e.holds[index if e.holds.size > 1 else 0])
        )
    )


@dataclass(frozen=True, slots=True, eq=False)
class OperatorCosts:
    """Prices of one operator in several steps; the operator runs once in each step.

    Fields are those of `OperatorCost`. Arrays have one element for each step; a single element
    stands for all steps.

    Attributes:
        name: name of the operator.
        time_ns: times in nanoseconds.
        bound: resources that limit the times, as codes of `BOUNDS`.
        energy: energy of one device in each step.
        launch_ns: part of each time that starts kernels.
        estimates: parts that were neither published nor measured, with their steps.
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
            EngineError: there are several steps.
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
    """Price each distinct combination of sizes once, and return the prices of all steps.

    Args:
        price: function that takes arrays of one length and returns arrays of that length.
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

    A core works through several blocks of work, one after another in ``rounds``, and takes the next
    block as soon as it is free. So all cores together take as long as with equal requests of the
    mean length. The last block may belong to the longest request. Then it takes longer than the
    mean by the difference of one round. For equal requests the time does not change. No time
    exceeds that of requests that are all as long as the longest. The formula is an estimate, since
    unequal lengths were never measured.

    Args:
        at_mean: time if all requests had the mean length.
        at_longest: time if all requests had the longest length.
        rounds: number of blocks that a core works through one after another, at least 1.
    """
    return at_mean + np.maximum(0.0, at_longest - at_mean) / rounds


RAGGED: Final = "decode attention of unequal lengths: by a model of rounds, never measured"
PAST: Final = "prefill attention over earlier keys: by the number of keys, never measured"
BUSIEST: Final = (
    "experts of the busiest GPUs: even choices, the most visits by a normal distribution, "
    "never measured"
)
"""Note of experts whose visits differ among GPUs."""
MIXED: Final = "steps that prefill and decode: sums of both, never measured"


@dataclass(frozen=True, slots=True)
class HostTime:
    """Time that the host adds to steps, while the GPUs wait.

    Attributes:
        layer_ns: nanoseconds for every layer.
        step_ns: nanoseconds for every step.
        estimates: parts of the time that were not measured.
    """

    layer_ns: float | Floats
    step_ns: Floats
    estimates: tuple[Estimate, ...] = ()


class GpuPart(StrEnum):
    """Kinds of operators whose prices are off together."""

    PRODUCTS = "matrix products on GPUs"
    DECODE = "decode attention on GPUs"
    PREFILL = "prefill attention on GPUs"
    FUSED = "experts, latents and states on GPUs"
    COLLECTIVES = "collectives between GPUs"
    HOST = "time of the serving engine"
    LINK = "link to the devices that run attention"


UNMEASURED_ERROR: Final = 0.15
"""Mean relative error of a price that no measurement tells, assumed: above that of any kind of
operators that was measured."""


class CostModel(abc.ABC):
    """Prices operators, in one step or in many at once."""

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """Kind of the model, as in "published". Every result states it."""

    def as_run(self, step: Step) -> Step:
        """Return the operators that the kernels of this model run for a step."""
        return step

    def for_steps(self, phase: Phase, model: ServedModel | None = None) -> CostModel:
        """Return the cost model for steps of one phase of one model.

        The phase matters because libraries start the kernels of decode steps and of prefills in
        different ways. The model matters because the host's time was fitted for each element type.

        Args:
            phase: phase of the steps.
            model: language model of the steps; None where it is not known.
        """
        del phase, model
        return self

    def host(self, step: Step) -> HostTime | None:
        """Return the time that the host adds to steps; None where it is not known."""
        del step
        return None

    def static_w(self, gpu: GpuSpec) -> float:
        """Return the watts that one GPU draws at any time, even without a kernel; 0 if unknown."""
        del gpu
        return 0.0

    def errors(self, gpu: GpuSpec) -> dict[GpuPart, float]:
        """Return the mean relative error of the prices of each kind of operators on a GPU.

        Args:
            gpu: the GPU.
        """
        del gpu
        return dict.fromkeys(GpuPart, UNMEASURED_ERROR)

    @abc.abstractmethod
    def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCosts:
        """Price a matrix product on one GPU."""

    @abc.abstractmethod
    def coprocessing_peak_flops_per_s(self, op: MatMul, gpu: GpuSpec) -> float | Floats:
        """Return the GPU's arithmetic rate in a product that it shares with AttAcc."""

    @abc.abstractmethod
    def coprocessing_bytes_per_s(self, op: MatMul, gpu: GpuSpec) -> float | Floats:
        """Return the GPU's memory bandwidth in a product that it shares with AttAcc."""

    @abc.abstractmethod
    def pointwise(self, op: Pointwise, gpu: GpuSpec) -> OperatorCosts:
        """Price an operator that acts on every element, on one GPU."""

    @abc.abstractmethod
    def attention(self, op: Attention, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price attention of one layer on one GPU. Each kernel of it has a cost of its own."""

    def products(self, op: Experts) -> tuple[MatMul | Pointwise, ...]:
        """Return the experts as the products that this model's kernels run."""
        return op.products()

    @abc.abstractmethod
    def fused(self, op: Fused, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price an operator that libraries run as kernels of its own, on one GPU."""

    @abc.abstractmethod
    def all_reduce(self, op: AllReduce, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price the sum of one matrix over several GPUs.

        Raises:
            InputError: the time of collectives over this link is not known.
        """

    @abc.abstractmethod
    def collective(self, op: Collective, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price an exchange of rows among several GPUs.

        Raises:
            InputError: the time of collectives over this link is not known.
        """

    @abc.abstractmethod
    def transfer(
        self, name: str, transferred_bytes: float | Floats, link: LinkSpec
    ) -> OperatorCosts:
        """Price moving bytes over one device's link, in one direction."""

    @abc.abstractmethod
    def cpu_attention(self, op: Attention, gpus: int, cpu: CpuSpec, sockets: int) -> OperatorCosts:
        """Price attention of one layer on the sockets of a host, for all GPUs together."""
