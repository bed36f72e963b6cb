"""GPU prices with errors drawn at random: each kind of operators by its own factors."""

from collections.abc import Callable

import numpy as np
import pytest

from attacc.gpu.costs import CostModel, GpuPart, OperatorCosts
from attacc.gpu.drawn import DrawnCostModel
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.cpu import CPUS
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.models.architecture import MODELS
from attacc.models.operators import (
    AllReduce,
    Attention,
    Collective,
    CollectiveKind,
    Experts,
    MatMul,
    MatMulRole,
    Phase,
    Pointwise,
    PointwiseKind,
)
from attacc.models.precision import ElementType
from attacc.models.steps import decode_step

GPU, LINK, CPU = GPUS.load("h100"), LINKS.load("nvlink4"), CPUS.load("epyc-7742")
BF16 = ElementType.BF16
PRODUCT = MatMul("ff1", MatMulRole.FC, 64, 4096, 4096, 1, BF16, BF16, BF16)
NORM = Pointwise("norm1", PointwiseKind.RMS_NORM, 64, 4096, 1, BF16)
DECODE = Attention(Phase.DECODE, 64, 32, 8, 128, 1, 1024, BF16, BF16)
PREFILL = Attention(Phase.PREFILL, 1, 32, 8, 128, 1024, 512.5, BF16, BF16)
EXPERTS = Experts(64, 4096, 14336, 8, 8, 2, True, PointwiseKind.SWIGLU, BF16, BF16)
SUM = AllReduce("all_reduce1", 64, 4096, BF16)
GATHER = Collective("dispatch", CollectiveKind.ALL_GATHER, 64, 4096, BF16)
FACTORS = {part: np.array([1.5, 2.0 + place]) for place, part in enumerate(GpuPart)}
"""Factors that differ by kind of operators, for two steps."""

Priced = Callable[[CostModel], tuple[OperatorCosts, ...]]


CASES: list[tuple[GpuPart | None, Priced]] = [
    (GpuPart.PRODUCTS, lambda m: (m.matmul(PRODUCT, GPU),)),
    (GpuPart.DECODE, lambda m: m.attention(DECODE, GPU)),
    (GpuPart.PREFILL, lambda m: m.attention(PREFILL, GPU)),
    (GpuPart.FUSED, lambda m: m.fused(EXPERTS, GPU)),
    (GpuPart.COLLECTIVES, lambda m: (m.all_reduce(SUM, GPU, LINK, 8),)),
    (GpuPart.COLLECTIVES, lambda m: (m.collective(GATHER, GPU, LINK, 8),)),
    (GpuPart.LINK, lambda m: (m.transfer("qkv", 1e6, LINK),)),
    (None, lambda m: (m.pointwise(NORM, GPU),)),
    (None, lambda m: (m.cpu_attention(DECODE, 8, CPU, 2),)),
]


@pytest.mark.parametrize(("part", "price"), CASES)
def test_each_kind_of_operators_has_its_own_factors(part: GpuPart | None, price: Priced) -> None:
    """Catches a kind with the factors of another one, or without, and an energy that is drawn."""
    base = cost_model(GpuModel.CALIBRATED)
    plain, drawn = price(base), price(DrawnCostModel(base, FACTORS))
    assert len(plain) == len(drawn) > 0
    for before, after in zip(plain, drawn, strict=True):
        factors = np.ones(1) if part is None else FACTORS[part]
        assert after.time_ns == pytest.approx(before.time_ns * factors, rel=1e-12)
        assert after.energy.total_pj == pytest.approx(before.energy.total_pj, rel=1e-12)
        assert after.name == before.name


def test_the_host_and_shared_products_are_drawn_too() -> None:
    """Catches a host without its factors, and a rate that rises where times do."""
    base = cost_model(GpuModel.CALIBRATED, Engine.VLLM)
    model = MODELS.load("llama-3.1-8b")
    step = decode_step(model, batch=8, kv_length=100, tensor_parallel=1)
    served = base.for_steps(Phase.DECODE, None)
    drawn = DrawnCostModel(base, FACTORS).for_steps(Phase.DECODE, None)
    before, after = served.host(step), drawn.host(step)
    assert before is not None
    assert after is not None
    factors = FACTORS[GpuPart.HOST]
    assert after.step_ns == pytest.approx(before.step_ns * factors)
    assert after.layer_ns == pytest.approx(before.layer_ns * factors)
    slower = FACTORS[GpuPart.PRODUCTS]
    for name in ("coprocessing_peak_flops_per_s", "coprocessing_bytes_per_s"):
        rate = getattr(served, name)(PRODUCT, GPU)
        assert getattr(drawn, name)(PRODUCT, GPU) == pytest.approx(rate / slower)
    assert drawn.static_w(GPU) == base.static_w(GPU)
    assert drawn.kind == base.kind


def test_kinds_without_factors_stay() -> None:
    """Catches a kind that is priced at nothing because it is not drawn."""
    base = cost_model(GpuModel.CALIBRATED)
    drawn = DrawnCostModel(base, {GpuPart.DECODE: np.array([3.0])})
    assert drawn.matmul(PRODUCT, GPU).one == base.matmul(PRODUCT, GPU).one


def test_kernels_are_those_of_the_data_sheet_not_of_the_name() -> None:
    """Catches a GPU that is priced as another one of the same name, whichever came first."""
    wide = GPU.model_copy(update={"memory_bytes_per_s": 2 * GPU.memory_bytes_per_s})
    costs = cost_model(GpuModel.CALIBRATED)
    (narrow_first,), (wide_next,) = costs.attention(DECODE, GPU), costs.attention(DECODE, wide)
    assert wide_next.time_ns[0] < 0.8 * narrow_first.time_ns[0]
    (wide_alone,) = cost_model(GpuModel.CALIBRATED).attention(DECODE, wide)
    assert wide_next.time_ns[0] == wide_alone.time_ns[0]
    assert costs.attention(DECODE, GPU)[0].time_ns[0] == narrow_first.time_ns[0]
