"""The published system model as a cost model.

Formulas and constants are those of the system model that AttAcc's authors released, as restated in
reference/system-model.md. They are extended to an element type for each operand, and to embeddings.
docs/model/system-model.md states the equations, their validation and their limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from attacc.documents import Presets, PresetSpec, Spec
from attacc.errors import InputError
from attacc.gpu.costs import (
    BUSIEST,
    PAST,
    RAGGED,
    Bound,
    CostModel,
    Energies,
    Estimate,
    Floats,
    Fused,
    OperatorCosts,
    either,
    only,
    over_distinct,
    ragged,
)
from attacc.gpu.rates import AttaccRates
from attacc.hardware.cpu import CpuSpec
from attacc.hardware.gpu import GpuSpec
from attacc.hardware.link import LinkSpec
from attacc.hardware.placement import Placement
from attacc.models.operators import (
    AllReduce,
    Attention,
    Collective,
    Experts,
    MatMul,
    MatMulRole,
    Phase,
    Pointwise,
    PointwiseKind,
)
from attacc.models.precision import ElementType
from attacc.units import (
    NS_PER_S,
    BytesPerSecond,
    Nanoseconds,
    NanosecondsPerByte,
    Picojoules,
    PicojoulesPerByte,
)

FITTED: Final = {
    PointwiseKind.GELU: "activation",
    PointwiseKind.RELU: "activation",
    PointwiseKind.SWIGLU: "activation",
    PointwiseKind.LAYER_NORM: "norm",
    PointwiseKind.RMS_NORM: "norm",
    PointwiseKind.EMBEDDING: "norm",
}
"""The fitted line that prices each operator. The published model has no embedding; it is priced by
its memory traffic, on the line of a norm."""

MATRICES_MOVED: Final = {
    PointwiseKind.SOFTMAX: 2,
    PointwiseKind.GELU: 2,
    PointwiseKind.RELU: 2,
    PointwiseKind.SWIGLU: 3,
    PointwiseKind.LAYER_NORM: 3,
    PointwiseKind.RMS_NORM: 3,
    PointwiseKind.EMBEDDING: 2,
}
"""Number of matrices of the result's size that an operator reads and writes."""


_Share = Annotated[float, Field(ge=1e-6, le=1)]
_Ratio = Annotated[int, Field(ge=1, le=10_000)]
_Operations = Annotated[int, Field(ge=0, le=10_000)]


class Efficiency(Spec):
    """Shares of the peaks that kernels reach.

    Attributes:
        compute: share of the peak arithmetic rate.
        memory: share of the peak memory bandwidth.
    """

    compute: _Share
    memory: _Share


class FittedLine(Spec):
    """Time of a kernel as a straight line over its memory traffic.

    Attributes:
        start_ns: time without traffic.
        ns_per_byte: time of each byte, at the bandwidth of the measured GPU.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    ns_per_byte: NanosecondsPerByte = Field(validation_alias="per_byte")


class Elementwise(Spec):
    """Kernels on every element, whose times were measured.

    Attributes:
        fitted_at_bytes_per_s: memory bandwidth of the GPU that was measured.
        activation: line of activation functions.
        norm: line of norms.
    """

    fitted_at_bytes_per_s: BytesPerSecond = Field(validation_alias="fitted_at")
    activation: FittedLine
    norm: FittedLine


class EventEnergy(Spec):
    """Energy per event on a GPU.

    Attributes:
        dram_pj_per_byte: energy of a byte between memory and the GPU.
        l2_pj_per_byte: energy of a byte at the second-level cache.
        l1_pj_per_byte: energy of a byte at the first-level cache.
        register_pj_per_byte: energy of a byte at the registers.
        multiply_add_pj: energy of one multiplication and one addition.
    """

    dram_pj_per_byte: PicojoulesPerByte = Field(validation_alias="dram")
    l2_pj_per_byte: PicojoulesPerByte = Field(validation_alias="l2")
    l1_pj_per_byte: PicojoulesPerByte = Field(validation_alias="l1")
    register_pj_per_byte: PicojoulesPerByte = Field(validation_alias="register")
    multiply_add_pj: Picojoules = Field(validation_alias="multiply_add")


class PublishedRates(Spec):
    """Bandwidths of a stack and the energy of its reads, as the published model states them.

    Attributes:
        interface_bytes_per_s: bandwidth between the stack and the outside.
        power_limited: internal bandwidth over the interface's bandwidth, within the power budget.
        unlimited: internal bandwidth over the interface's bandwidth, without a power budget.
        read_pj_per_byte: energy of moving a byte from the cells to the units.
    """

    interface_bytes_per_s: BytesPerSecond = Field(validation_alias="interface")
    power_limited: dict[Placement, _Ratio]
    unlimited: dict[Placement, _Ratio]
    read_pj_per_byte: dict[Placement, PicojoulesPerByte] = Field(validation_alias="read_energy")


class PublishedConstants(PresetSpec):
    """All constants of the published system model, except those of links.

    Attributes:
        efficiency: shares of the peaks that kernels reach.
        elementwise: kernels whose times were measured.
        energy: energy per event.
        flops_per_element: operations per element, for operators that act on every element.
        attacc: bandwidths of a stack.
    """

    efficiency: Efficiency
    elementwise: Elementwise
    energy: EventEnergy
    flops_per_element: dict[PointwiseKind, _Operations]
    attacc: PublishedRates


COST_MODELS: Final = Presets("cost model", PublishedConstants, "attacc.gpu", "presets")


def published_rates(
    placement: Placement, *, power_limited: bool, stacks_per_device: int
) -> AttaccRates:
    """Return the rates of one AttAcc as the published model states them.

    The internal bandwidths are rounder than those of the DRAM device. For units in the banks within
    the power budget they are 9 times that of the interface; the cadence of the device's multiply
    commands gives 10.7 times.
    """
    constants = COST_MODELS.load("published")
    rates = constants.attacc
    ratio = (rates.power_limited if power_limited else rates.unlimited)[placement]
    interface = rates.interface_bytes_per_s * stacks_per_device
    return AttaccRates(
        interface_bytes_per_s=interface,
        internal_bytes_per_s=ratio * interface,
        read_pj_per_byte=rates.read_pj_per_byte[placement],
        multiply_add_pj=constants.energy.multiply_add_pj,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tiles:
    """Results of the tile search, as arrays with one element for each step.

    Attributes:
        utilization: share of the cores that work.
        dram_bytes: bytes that move between memory and the second-level cache.
        l2_bytes: bytes that move between the caches.
        l1_bytes: bytes that move between the first-level cache and the registers.
    """

    utilization: Floats
    dram_bytes: Floats
    l2_bytes: Floats
    l1_bytes: Floats


class PublishedCostModel(CostModel):
    """The published system model.

    Args:
        repair_slips: whether two mistakes of the published model are repaired. The repaired model
            counts the register traffic of a matrix product in bytes and over all products of a
            batch. It shares a compute-bound product with AttAcc in proportion to the GPU's rate for
            the element types. The published model counts register traffic in elements of a single
            product, and takes the GPU's 16-bit rate for all types.
    """

    def __init__(self, *, repair_slips: bool = True) -> None:
        self.repair_slips = repair_slips
        self.constants = COST_MODELS.load("published")

    @property
    def kind(self) -> str:
        """The name of the published constants."""
        return self.constants.name

    def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCosts:
        """Price a matrix product by the longer of its arithmetic and its memory traffic."""
        efficiency = self.constants.efficiency
        tiles = _search(op, gpu)
        peak = gpu.peak_flops_per_s(op.left, op.right)
        compute_s = op.flops / (efficiency.compute * peak * tiles.utilization)
        bandwidth = efficiency.memory * gpu.memory_bytes_per_s * tiles.utilization
        memory_s = tiles.dram_bytes / bandwidth
        return OperatorCosts(
            op.name,
            np.maximum(compute_s, memory_s) * NS_PER_S,
            either(compute_s > memory_s, Bound.COMPUTE, Bound.MEMORY),
            self._matmul_energy(op, tiles),
        )

    def _matmul_energy(self, op: MatMul, tiles: _Tiles) -> Energies:
        multiply_adds = op.flops / 2
        if self.repair_slips:
            register_bytes = multiply_adds * (op.left.bytes + op.right.bytes + op.out.bytes)
        else:
            register_bytes = 3 * multiply_adds / op.count
        energy = self.constants.energy
        return Energies.of(
            dram_pj=tiles.dram_bytes * energy.dram_pj_per_byte,
            l2_pj=tiles.l2_bytes * energy.l2_pj_per_byte,
            l1_pj=tiles.l1_bytes * energy.l1_pj_per_byte,
            register_pj=register_bytes * energy.register_pj_per_byte,
            alu_pj=multiply_adds * energy.multiply_add_pj,
        )

    def coprocessing_peak_flops_per_s(self, op: MatMul, gpu: GpuSpec) -> float:
        """Return the GPU's peak rate for the operands' types (as published: for 16 bits)."""
        if self.repair_slips:
            return gpu.peak_flops_per_s(op.left, op.right)
        return gpu.peak_flops[ElementType.FP16]

    def coprocessing_bytes_per_s(self, op: MatMul, gpu: GpuSpec) -> float:
        """Return the bandwidth of the data sheet."""
        del op
        return gpu.memory_bytes_per_s

    def pointwise(self, op: Pointwise, gpu: GpuSpec) -> OperatorCosts:
        """Price an operator that acts on every element.

        A softmax takes the time of its memory traffic, and any other operator the time on a line
        fitted to measurements. Where the arithmetic takes longer, its time counts instead. The
        matrices of one operator run on one core each.
        """
        constants = self.constants
        utilization = op.count / (-(-op.count // gpu.cores) * gpu.cores)
        elements = np.atleast_1d(np.asarray(op.m * 1.0 * op.n * op.count))
        moved_bytes = MATRICES_MOVED[op.kind] * elements * op.element.bytes
        if op.kind is PointwiseKind.SOFTMAX:
            bandwidth = constants.efficiency.memory * gpu.memory_bytes_per_s * utilization
            start_ns, traffic_ns = 0.0, moved_bytes / bandwidth * NS_PER_S
        else:
            elementwise = constants.elementwise
            line = elementwise.activation if FITTED[op.kind] == "activation" else elementwise.norm
            scale = elementwise.fitted_at_bytes_per_s / gpu.memory_bytes_per_s
            start_ns, traffic_ns = line.start_ns, line.ns_per_byte * scale * moved_bytes
        flops = constants.flops_per_element[op.kind] * elements
        rate = constants.efficiency.compute * gpu.peak_flops_per_s(op.element) * utilization
        compute_ns = flops / rate * NS_PER_S
        moves = either(start_ns > traffic_ns, Bound.LATENCY, Bound.MEMORY)
        energy = constants.energy
        return OperatorCosts(
            op.name,
            np.maximum(compute_ns, start_ns + traffic_ns),
            either(compute_ns > start_ns + traffic_ns, Bound.COMPUTE, moves),
            Energies.of(
                dram_pj=moved_bytes * energy.dram_pj_per_byte,
                l2_pj=moved_bytes * energy.l2_pj_per_byte,
                l1_pj=moved_bytes * energy.l1_pj_per_byte,
                register_pj=moved_bytes * energy.register_pj_per_byte,
                alu_pj=flops / 2 * energy.multiply_add_pj,
            ),
        )

    def attention(self, op: Attention, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price attention as three operators: score, softmax and context.

        Each head of a request is a block of work. A core works on one block at a time.
        """
        parts = self._attention(op, gpu)
        if op.phase is Phase.PREFILL:
            past = np.atleast_1d(np.asarray(op.past > 0))
            if past.any():
                return tuple(replace(part, estimates=(Estimate(PAST, past),)) for part in parts)
            return parts
        if op.longest is None:
            return parts
        rounds = np.ceil(op.score.count / gpu.cores)
        differ = np.atleast_1d(np.asarray(op.longest > op.keys))
        longest = self._attention(replace(op, keys=op.longest, longest=None), gpu)
        return tuple(
            replace(
                mean,
                time_ns=ragged(mean.time_ns, most.time_ns, rounds),
                estimates=(Estimate(RAGGED, differ),),
            )
            for mean, most in zip(parts, longest, strict=True)
        )

    def _attention(self, op: Attention, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price attention of equal requests."""
        return (
            self.matmul(op.score, gpu),
            self.pointwise(op.softmax, gpu),
            self.matmul(op.context, gpu),
        )

    def fused(self, op: Fused, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price experts product by product, and other kernels by their arithmetic and traffic.

        The published release has neither. Kernels other than experts take the longer of their
        operations and their bytes, at the shares of the peaks that products reach.
        """
        if isinstance(op, Experts):
            busiest = (Estimate(BUSIEST, np.atleast_1d(np.asarray(op.load)) > 1),)
            return tuple(
                replace(
                    self.matmul(part, gpu)
                    if isinstance(part, MatMul)
                    else self.pointwise(part, gpu),
                    estimates=busiest,
                )
                for part in op.products()
            )
        efficiency, energy = self.constants.efficiency, self.constants.energy
        flops, moved = (np.atleast_1d(np.asarray(size, dtype=np.float64))
                        for size in (op.flops, op.bytes))  # fmt: skip
        compute_s = flops / (efficiency.compute * gpu.peak_flops[ElementType.FP16])
        memory_s = moved / (efficiency.memory * gpu.memory_bytes_per_s)
        return (
            OperatorCosts(
                op.name,
                np.maximum(compute_s, memory_s) * NS_PER_S,
                either(compute_s > memory_s, Bound.COMPUTE, Bound.MEMORY),
                Energies.of(
                    dram_pj=moved * energy.dram_pj_per_byte,
                    alu_pj=flops / 2 * energy.multiply_add_pj,
                ),
                estimates=(Estimate.always(f"{op.name}: by operations and bytes, never measured"),),
            ),
        )

    def all_reduce(self, op: AllReduce, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price the sum of one matrix over several GPUs.

        The sum takes as many steps as there are other GPUs. In each step, one part of the matrix
        crosses every link.
        """
        del gpu
        return _ring(op, link, gpus)

    def collective(self, op: Collective, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price an exchange of rows among several GPUs, by the rule of the sum.

        The published release has no such exchange.
        """
        del gpu
        what = f"{op.kind.replace('_', '-')}: by the published rule of all-reduces, never measured"
        return replace(_ring(op, link, gpus), estimates=(Estimate.always(what),))

    def transfer(
        self, name: str, transferred_bytes: float | Floats, link: LinkSpec
    ) -> OperatorCosts:
        """Price moving bytes over one device's link at its full bandwidth, without latency."""
        moved_bytes = np.atleast_1d(np.asarray(transferred_bytes, dtype=np.float64))
        return OperatorCosts(
            name,
            moved_bytes / link.bytes_per_s * NS_PER_S,
            only(Bound.LINK),
            Energies.of(link_pj=moved_bytes * link.energy_pj_per_byte),
        )

    def cpu_attention(self, op: Attention, gpus: int, cpu: CpuSpec, sockets: int) -> OperatorCosts:
        """Price attention on the CPUs with the efficiencies of the GPUs' kernels.

        The published release has no formula for CPUs. Every operand of the products is read from
        memory once, and scores stay in the caches. Only the energy of memory is counted. Work is
        assumed to be shared evenly, whatever the lengths.
        """
        score, softmax, context = op.score, op.softmax, op.context
        scores = 1.0 * softmax.m * softmax.n * softmax.count
        softmax_flops = self.constants.flops_per_element[softmax.kind] * scores * gpus
        flops = score.flops * gpus + softmax_flops + context.flops * gpus
        operand_bytes = score.bytes * gpus + context.bytes * gpus
        efficiency = self.constants.efficiency
        compute_s = flops / (efficiency.compute * cpu.peak_flops_per_s * sockets)
        memory_s = operand_bytes / (efficiency.memory * cpu.memory_bytes_per_s * sockets)
        return OperatorCosts(
            "attention",
            np.atleast_1d(np.maximum(compute_s, memory_s) * NS_PER_S),
            either(compute_s > memory_s, Bound.COMPUTE, Bound.MEMORY),
            Energies.of(dram_pj=operand_bytes * cpu.memory_pj_per_byte),
        )


def _ring(op: AllReduce | Collective, link: LinkSpec, gpus: int) -> OperatorCosts:
    """Price a collective: it takes one step for each other GPU."""
    if link.collective is None:
        verb = "sum" if isinstance(op, AllReduce) else "exchange"
        raise InputError(
            f"no latency of collectives is known for {link.name}, over which {gpus} GPUs {verb} "
            f"{op.name}",
            where="link",
            hint="use an NVLink, or a link of your own with a table [collective]",
        )
    matrix_bytes = np.atleast_1d(np.asarray(op.bytes, dtype=np.float64))
    part_bytes = matrix_bytes / gpus
    start_ns = link.collective.start_ns
    data_ns = link.collective.ns_per_byte * part_bytes
    wire_ns = part_bytes / link.bytes_per_s * NS_PER_S
    return OperatorCosts(
        op.name,
        (gpus - 1) * np.maximum(start_ns + data_ns, wire_ns),
        either(start_ns > np.maximum(data_ns, wire_ns), Bound.LATENCY, Bound.LINK),
        Energies.of(link_pj=matrix_bytes * link.energy_pj_per_byte),
    )


def _search(op: MatMul, gpu: GpuSpec) -> _Tiles:
    # Imported here because it loads Numba.
    from attacc.gpu.published.tiles import search_all

    def search(sizes: tuple[Floats, ...]) -> tuple[Floats, ...]:
        m, n, k, count = sizes
        found = np.empty((4, m.size))
        search_all(
            m,
            n,
            k,
            count,
            op.left.bytes,
            op.right.bytes,
            op.out.bytes,
            int(op.role is MatMulRole.FC),
            float(gpu.cores),
            gpu.l1_bytes,
            gpu.l2_bytes,
            found,
        )
        return tuple(found)

    return _Tiles(*over_distinct(search, (op.m, op.n, op.k, op.count)))


def published_softmax_ns(
    softmax: Pointwise, rates: AttaccRates, gpus_per_device: float = 1.0
) -> float:
    """Return the softmax time of one layer on AttAcc, as the published model estimates it.

    The time is the longer of arithmetic and traffic. Arithmetic is 5 operations per score, at a
    rate of one operation per byte of interface bandwidth, or two for one-byte elements. Traffic is
    reading and writing the scores over the interface.

    Args:
        softmax: the softmax of one layer on one GPU.
        rates: rates of one AttAcc device.
        gpus_per_device: number of GPUs that share one AttAcc device.
    """
    scores = softmax.m * softmax.n * softmax.count * gpus_per_device
    widths = 2 / softmax.element.bytes
    operations_s = 5 * scores / (rates.interface_bytes_per_s * widths)
    moves_s = 2 * scores * softmax.element.bytes / rates.interface_bytes_per_s
    return float(np.maximum(operations_s, moves_s)) * NS_PER_S
