"""GPU prices with errors drawn at random: what the same steps would cost if the model were off.

A cost model is off in a way that its held-back measurements tell: by so many per cent for matrix
products, for attention, for collectives. `DrawnCostModel` multiplies the times of each kind of
operators by a factor for every step, so that many draws are priced like many steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from attacc.gpu.costs import CostModel, Floats, Fused, GpuPart, HostTime, OperatorCosts
from attacc.hardware.cpu import CpuSpec
from attacc.hardware.gpu import GpuSpec
from attacc.hardware.link import LinkSpec
from attacc.models.operators import (
    AllReduce,
    Attention,
    Collective,
    Experts,
    MatMul,
    Phase,
    Pointwise,
    Step,
)
from attacc.models.served import ServedModel


@dataclass(frozen=True, eq=False)
class DrawnCostModel(CostModel):
    """A cost model whose times are multiplied by a factor for each step.

    Attributes:
        base: the cost model.
        factors: kind of operators -> (steps,) factors of their times; kinds that are absent stay.
    """

    base: CostModel
    factors: Mapping[GpuPart, Floats]

    @property
    def kind(self) -> str:
        """Kind of the model."""
        return self.base.kind

    def _of(self, part: GpuPart) -> Floats:
        return self.factors.get(part, np.ones(1))

    def _drawn(self, cost: OperatorCosts, part: GpuPart) -> OperatorCosts:
        return replace(cost, time_ns=cost.time_ns * self._of(part))

    def as_run(self, step: Step) -> Step:
        """Return the operators that the kernels of this model run for a step."""
        return self.base.as_run(step)

    def for_steps(self, phase: Phase, model: ServedModel | None = None) -> CostModel:
        """Return the cost model for steps of one phase of one model."""
        return replace(self, base=self.base.for_steps(phase, model))

    def host(self, step: Step) -> HostTime | None:
        """Return the time that the host adds to steps."""
        host = self.base.host(step)
        if host is None:
            return None
        factor = self._of(GpuPart.HOST)
        return replace(host, layer_ns=host.layer_ns * factor, step_ns=host.step_ns * factor)

    def static_w(self, gpu: GpuSpec) -> float:
        """Return the watts that one GPU draws at any time."""
        return self.base.static_w(gpu)

    def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCosts:
        """Price a matrix product on one GPU."""
        return self._drawn(self.base.matmul(op, gpu), GpuPart.PRODUCTS)

    def coprocessing_peak_flops_per_s(self, op: MatMul, gpu: GpuSpec) -> float | Floats:
        """Return the GPU's arithmetic rate in a product that it shares with AttAcc."""
        rate = self.base.coprocessing_peak_flops_per_s(op, gpu)
        return rate / self._of(GpuPart.PRODUCTS)

    def coprocessing_bytes_per_s(self, op: MatMul, gpu: GpuSpec) -> float | Floats:
        """Return the GPU's memory bandwidth in a product that it shares with AttAcc."""
        return self.base.coprocessing_bytes_per_s(op, gpu) / self._of(GpuPart.PRODUCTS)

    def pointwise(self, op: Pointwise, gpu: GpuSpec) -> OperatorCosts:
        """Price an operator that acts on every element, on one GPU."""
        return self.base.pointwise(op, gpu)

    def attention(self, op: Attention, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price attention of one layer on one GPU."""
        part = GpuPart.DECODE if op.phase is Phase.DECODE else GpuPart.PREFILL
        return tuple(self._drawn(cost, part) for cost in self.base.attention(op, gpu))

    def products(self, op: Experts) -> tuple[MatMul | Pointwise, ...]:
        """Return the experts as the products that this model's kernels run."""
        return self.base.products(op)

    def fused(self, op: Fused, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price an operator that libraries run as kernels of its own, on one GPU."""
        return tuple(self._drawn(cost, GpuPart.FUSED) for cost in self.base.fused(op, gpu))

    def all_reduce(self, op: AllReduce, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price the sum of one matrix over several GPUs."""
        return self._drawn(self.base.all_reduce(op, gpu, link, gpus), GpuPart.COLLECTIVES)

    def collective(self, op: Collective, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price an exchange of tokens between GPUs."""
        return self._drawn(self.base.collective(op, gpu, link, gpus), GpuPart.COLLECTIVES)

    def transfer(
        self, name: str, transferred_bytes: float | Floats, link: LinkSpec
    ) -> OperatorCosts:
        """Price moving bytes over one device's link, in one direction."""
        return self._drawn(self.base.transfer(name, transferred_bytes, link), GpuPart.LINK)

    def cpu_attention(self, op: Attention, gpus: int, cpu: CpuSpec, sockets: int) -> OperatorCosts:
        """Price attention of one layer on the sockets of a host, for all GPUs together."""
        return self.base.cpu_attention(op, gpus, cpu, sockets)
