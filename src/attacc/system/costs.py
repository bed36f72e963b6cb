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
from attacc.models.operators import AllReduce, MatMul, Pointwise


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
    """

    dram_pj: float = 0.0
    l2_pj: float = 0.0
    l1_pj: float = 0.0
    register_pj: float = 0.0
    alu_pj: float = 0.0
    link_pj: float = 0.0

    @property
    def total_pj(self) -> float:
        """The sum of all parts."""
        return (
            self.dram_pj + self.l2_pj + self.l1_pj + self.register_pj + self.alu_pj + self.link_pj
        )

    def __add__(self, other: EnergyBreakdown) -> EnergyBreakdown:
        return EnergyBreakdown(
            self.dram_pj + other.dram_pj,
            self.l2_pj + other.l2_pj,
            self.l1_pj + other.l1_pj,
            self.register_pj + other.register_pj,
            self.alu_pj + other.alu_pj,
            self.link_pj + other.link_pj,
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
        )


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """Price of one operator, run once.

    Attributes:
        name: of the operator.
        time_ns: from start to end, nothing else running on the device.
        bound: what it waits for.
        energy: of one device; of all sockets together where CPUs run it.
    """

    name: str
    time_ns: float
    bound: Bound
    energy: EnergyBreakdown


class CostModel(abc.ABC):
    """Prices operators."""

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """How the prices came about, as in "published"; part of every result."""

    @abc.abstractmethod
    def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCost:
        """Price a matrix product on one GPU."""

    @abc.abstractmethod
    def coprocessing_peak_flops_per_s(self, op: MatMul, gpu: GpuSpec) -> float:
        """Return the GPU's arithmetic rate that AttAcc adds to when both share a product."""

    @abc.abstractmethod
    def pointwise(self, op: Pointwise, gpu: GpuSpec) -> OperatorCost:
        """Price an operator on every element on one GPU."""

    @abc.abstractmethod
    def all_reduce(self, op: AllReduce, link: LinkSpec, gpus: int) -> OperatorCost:
        """Price the sum of one matrix over several GPUs.

        Raises:
            InputError: nothing is known of collectives over this link.
        """

    @abc.abstractmethod
    def transfer(self, name: str, transferred_bytes: float, link: LinkSpec) -> OperatorCost:
        """Price moving bytes over one device's link, in one direction."""

    @abc.abstractmethod
    def cpu_attention(
        self, operators: tuple[MatMul | Pointwise, ...], gpus: int, cpu: CpuSpec, sockets: int
    ) -> OperatorCost:
        """Price the attention operators of all GPUs together on the sockets of a host."""
