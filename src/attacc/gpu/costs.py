"""What an operator costs: the interface that every cost model implements.

A cost model prices one operator on one device. Nothing here, and nothing that takes a `CostModel`,
knows how a price came about, so that models fitted to measurements can take the place of the
published one.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from enum import StrEnum

from attacc.hardware.cpu import CpuSpec
from attacc.hardware.gpu import GpuSpec
from attacc.hardware.link import LinkSpec
from attacc.models.operators import AllReduce, Attention, MatMul, Phase, Pointwise, Step


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


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """Price of one operator, run once.

    Attributes:
        name: of the operator.
        time_ns: from start to end, nothing else running on the device.
        bound: what it waits for.
        energy: of one device; of all sockets together where CPUs run it. What the device draws
            when idle is not part of it (`CostModel.static_w`).
        estimates: what of it was neither published nor measured, in words: scaled, assumed, or
            beyond what was fitted.
    """

    name: str
    time_ns: float
    bound: Bound
    energy: EnergyBreakdown
    estimates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostTime:
    """What the host adds to a step, the GPUs waiting.

    Attributes:
        layer_ns: to every layer.
        step_ns: once.
    """

    layer_ns: float
    step_ns: float


class CostModel(abc.ABC):
    """Prices operators."""

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """How the prices came about, as in "published"; part of every result."""

    def as_run(self, step: Step) -> Step:
        """Return the operators that the kernels of this model run for a step."""
        return step

    def for_phase(self, phase: Phase) -> CostModel:
        """Return the model for the steps of one phase, which kernels may be started otherwise in.

        Args:
            phase: of the steps.
        """
        del phase
        return self

    def host(self, step: Step) -> HostTime | None:
        """Return what the host adds to a step; None where nothing is known of it."""
        del step
        return None

    def static_w(self, gpu: GpuSpec) -> float:
        """Return what one GPU draws at any time, kernel or none; 0 where it is not counted."""
        del gpu
        return 0.0

    @abc.abstractmethod
    def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCost:
        """Price a matrix product on one GPU."""

    @abc.abstractmethod
    def coprocessing_peak_flops_per_s(self, op: MatMul, gpu: GpuSpec) -> float:
        """Return the GPU's arithmetic rate that AttAcc adds to when both share a product."""

    @abc.abstractmethod
    def coprocessing_bytes_per_s(self, op: MatMul, gpu: GpuSpec) -> float:
        """Return the GPU's bandwidth that AttAcc adds to when both share a product."""

    @abc.abstractmethod
    def pointwise(self, op: Pointwise, gpu: GpuSpec) -> OperatorCost:
        """Price an operator on every element on one GPU."""

    @abc.abstractmethod
    def attention(self, op: Attention, gpu: GpuSpec) -> tuple[OperatorCost, ...]:
        """Price attention of one layer on one GPU: one cost for each kernel that it takes."""

    @abc.abstractmethod
    def all_reduce(self, op: AllReduce, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCost:
        """Price the sum of one matrix over several GPUs.

        Raises:
            InputError: nothing is known of collectives over this link.
        """

    @abc.abstractmethod
    def transfer(self, name: str, transferred_bytes: float, link: LinkSpec) -> OperatorCost:
        """Price moving bytes over one device's link, in one direction."""

    @abc.abstractmethod
    def cpu_attention(self, op: Attention, gpus: int, cpu: CpuSpec, sockets: int) -> OperatorCost:
        """Price attention of one layer, of all GPUs together, on the sockets of a host."""
