from dataclasses import replace
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.gpu.costs import Bound
from attacc.gpu.published.model import COST_MODELS, PublishedCostModel, published_rates
from attacc.hardware.cpu import CPUS
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.models.operators import (
    AllReduce,
    Attention,
    MatMul,
    MatMulRole,
    Phase,
    Pointwise,
    PointwiseKind,
)
from attacc.models.precision import ElementType

A100A = GPUS.load("a100a")
H100 = GPUS.load("h100")
NVLINK3 = LINKS.load("nvlink3")
MODEL = PublishedCostModel()
FP16, INT8, INT4 = ElementType.FP16, ElementType.INT8, ElementType.INT4


def fc(m: int, n: int, k: int, right: ElementType = FP16) -> MatMul:
    return MatMul("ff1", MatMulRole.FC, m, n, k, 1, FP16, right, FP16)


def test_a_large_product_is_compute_bound_at_the_published_efficiency() -> None:
    """Catches a wrong efficiency or rate: 108 x 16 x 2 tiles of 256 x 256 fill every core."""
    cost = MODEL.matmul(fc(108 * 256, 8192, 8192), A100A).one
    assert cost.bound is Bound.COMPUTE
    assert isclose(cost.time_ns, 2 * 108 * 256 * 8192**2 / (0.8 * 312e12) * 1e9, rel_tol=1e-12)


def test_a_single_row_is_memory_bound() -> None:
    """Catches a wrong bandwidth: at one row the weights are read once."""
    op = fc(1, 108 * 512, 12288)
    cost = MODEL.matmul(op, A100A).one
    assert cost.bound is Bound.MEMORY
    assert isclose(cost.time_ns, op.bytes / (0.85 * 3352e9) * 1e9, rel_tol=1e-12)
    assert isclose(cost.energy.dram_pj, op.bytes * 28.72, rel_tol=1e-12)


def test_four_bit_weights_move_a_quarter_and_compute_as_sixteen_bits() -> None:
    """Catches weights priced at the width of activations, or arithmetic at that of weights."""
    few_rows, many_rows = (1, 108 * 512, 12288), (108 * 256, 8192, 8192)
    narrow, wide = (MODEL.matmul(fc(*few_rows, right), A100A).one for right in (INT4, FP16))
    assert isclose(narrow.time_ns / wide.time_ns, 0.25, rel_tol=1e-3)
    narrow, wide = (MODEL.matmul(fc(*many_rows, right), A100A).one for right in (INT4, FP16))
    assert narrow.bound is wide.bound is Bound.COMPUTE
    # Not equal: with other element sizes the search chooses other tiles.
    assert isclose(narrow.time_ns, wide.time_ns, rel_tol=0.05)


def test_register_energy_counts_bytes_of_all_products() -> None:
    """Catches the published slips, and a repair that touches anything but the registers."""
    op = MatMul("score", MatMulRole.SCORE, 1, 1000, 128, 40, FP16, FP16, FP16)
    repaired = MODEL.matmul(op, A100A).one
    published = PublishedCostModel(repair_slips=False).matmul(op, A100A).one
    assert isclose(repaired.energy.register_pj, 3 * 1000 * 128 * 40 * 2 * 0.0675)
    assert isclose(published.energy.register_pj, 3 * 1000 * 128 * 0.0675)
    assert repaired.time_ns == published.time_ns
    assert replace(repaired.energy, register_pj=0.0) == replace(published.energy, register_pj=0.0)


def test_coprocessing_is_balanced_against_the_rate_of_the_types() -> None:
    """Catches the published slip: the 16-bit rate also for one-byte elements."""
    op = MatMul("ff1", MatMulRole.FC, 512, 512, 512, 1, INT8, INT8, INT8)
    published = PublishedCostModel(repair_slips=False)
    assert MODEL.coprocessing_peak_flops_per_s(op, A100A) == 624e12
    assert published.coprocessing_peak_flops_per_s(op, A100A) == 312e12


@pytest.mark.parametrize(
    ("kind", "expected_ns"),
    [
        (PointwiseKind.GELU, 8290 + 4.47e-4 * 1555 / 3352 * 2 * 64 * 4096 * 2),
        (PointwiseKind.SWIGLU, 8290 + 4.47e-4 * 1555 / 3352 * 3 * 64 * 4096 * 2),
        (PointwiseKind.LAYER_NORM, 6870 + 1.6e-3 * 1555 / 3352 * 3 * 64 * 4096 * 2),
        (PointwiseKind.EMBEDDING, 6870 + 1.6e-3 * 1555 / 3352 * 2 * 64 * 4096 * 2),
    ],
)
def test_fitted_operators_follow_their_line(kind: PointwiseKind, expected_ns: float) -> None:
    """Catches a wrong line, or a wrong number of matrices moved."""
    cost = MODEL.pointwise(Pointwise("x", kind, 64, 4096, 1, FP16), A100A).one
    assert isclose(cost.time_ns, expected_ns, rel_tol=1e-12)
    assert cost.bound is Bound.LATENCY


def test_what_bounds_an_operator_follows_its_size() -> None:
    """Catches a bound that ignores memory or arithmetic."""
    norm = Pointwise("norm1", PointwiseKind.LAYER_NORM, 100_000, 12288, 1, FP16)
    assert MODEL.pointwise(norm, A100A).one.bound is Bound.MEMORY
    softmax = Pointwise("softmax", PointwiseKind.SOFTMAX, 2048, 2048, 108, FP16)
    assert MODEL.pointwise(softmax, A100A).one.bound is Bound.MEMORY
    slow = A100A.model_copy(update={"peak_flops": {FP16: 1e12}})
    assert MODEL.pointwise(softmax, slow).one.bound is Bound.COMPUTE


def test_an_all_reduce_takes_a_step_per_other_gpu() -> None:
    """Catches a wrong number of steps, or a latency that is not scaled to the link."""
    op = AllReduce("all_reduce1", 18, 12288, FP16)
    part = 18 * 12288 * 2 / 8
    cost = MODEL.all_reduce(op, A100A, NVLINK3, 8).one
    assert isclose(cost.time_ns, 7 * (6060 + 0.009 * part), rel_tol=1e-12)
    assert cost.bound is Bound.LATENCY
    faster = MODEL.all_reduce(op, A100A, LINKS.load("nvlink4"), 8).one
    assert isclose(faster.time_ns, 7 * (6060 + 0.006 * part), rel_tol=1e-12)
    large = MODEL.all_reduce(AllReduce("all_reduce1", 10**6, 12288, FP16), A100A, NVLINK3, 8).one
    assert large.bound is Bound.LINK


def test_a_link_without_known_latency_has_no_price_for_collectives() -> None:
    """Catches a fabricated latency."""
    with pytest.raises(InputError, match=r"pcie4-x16.*use an NVLink"):
        MODEL.all_reduce(AllReduce("all_reduce1", 1, 1, FP16), A100A, LINKS.load("pcie4-x16"), 8)


def test_a_transfer_uses_one_direction_of_the_link() -> None:
    """Catches a transfer at the data sheet's figure for both directions."""
    cost = MODEL.transfer("qkv_transfer", 300e9, NVLINK3).one
    assert isclose(cost.time_ns, 1e9)
    assert isclose(cost.energy.link_pj, 300e9 * 10.4)


def test_cpu_attention_reads_every_cache_once() -> None:
    """Catches a cost for one GPU's share, or for one socket, in place of the whole."""
    op = Attention(Phase.DECODE, 18, 12, 12, 128, 1, 4096, FP16, FP16)
    cpu = CPUS.load("epyc-7742")
    cost = MODEL.cpu_attention(op, 8, cpu, 2).one
    moved = 8 * (op.score.bytes + op.context.bytes)
    assert isclose(cost.time_ns, moved / (0.85 * 2 * 204.8e9) * 1e9, rel_tol=1e-12)
    assert cost.bound is Bound.MEMORY
    assert isclose(cost.energy.total_pj, moved * 20.3 * 8, rel_tol=1e-12)
    slow = cpu.model_copy(update={"peak_flops_per_s": 1e9})
    assert MODEL.cpu_attention(op, 8, slow, 2).one.bound is Bound.COMPUTE


def test_published_rates_of_an_attacc() -> None:
    """Catches a wrong ratio, or the rates of a stack in place of those of a device."""
    limited = published_rates(Placement.BANK, power_limited=True, stacks_per_device=5)
    unlimited = published_rates(Placement.BANKGROUP, power_limited=False, stacks_per_device=1)
    assert limited.interface_bytes_per_s == 3352e9
    assert isclose(limited.internal_bytes_per_s, 9 * 3352e9)
    assert isclose(unlimited.internal_bytes_per_s, 8 * 670.4e9)
    assert isclose(unlimited.read_pj_per_byte, 1.56 * 8)


def test_constants_name_their_source() -> None:
    """Catches constants without a source."""
    assert COST_MODELS.names() == ["published"]
    assert "default" in COST_MODELS.load("published").sources
    assert MODEL.kind == "published"


@given(
    m=st.integers(1, 4096),
    n=st.integers(1, 4096),
    k=st.integers(1, 4096),
    element=st.sampled_from([FP16, INT8]),
)
def test_no_product_beats_the_machine(m: int, n: int, k: int, element: ElementType) -> None:
    """Catches a price below the peak rates, or below moving every operand once."""
    op = MatMul("ff1", MatMulRole.FC, m, n, k, 1, element, element, element)
    for gpu in (A100A, H100):
        time_s = MODEL.matmul(op, gpu).one.time_ns / 1e9
        assert time_s * gpu.peak_flops_per_s(element) >= op.flops
        assert time_s * gpu.memory_bytes_per_s >= op.bytes
