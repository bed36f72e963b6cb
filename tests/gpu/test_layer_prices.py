"""Prices of experts, recurrent states, convolutions and vLLM's own sums."""

from dataclasses import replace
from math import isclose

import numpy as np
import pytest

from attacc.gpu.calibrated.costs import CalibratedCostModel, Kernels
from attacc.gpu.calibrated.fused.moe import ROWS, ExpertShapes, experts_ns
from attacc.gpu.calibrated.fused.state import StateShapes, state_ns
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.gpu.costs import Bound
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.models.operators import (
    AllReduce,
    Convolution,
    Experts,
    IndexScan,
    LatentAttention,
    Phase,
    PointwiseKind,
    Size,
    StateKind,
    StateUpdate,
)
from attacc.models.precision import BlockFormat, ElementType, WeightType
from tests.pricing import kernel

BF16, FP8, INT8 = ElementType.BF16, ElementType.FP8, ElementType.INT8
DECODE, PREFILL = Phase.DECODE, Phase.PREFILL


def kernels(name: str) -> Kernels:
    return Kernels(CalibratedGpu.load(name))


def experts(tokens: Size, weights: WeightType = BF16, *, here: int = 128) -> Experts:
    swiglu = PointwiseKind.SWIGLU
    return Experts(tokens, 4096, 1536, 128, here, 8, True, swiglu, BF16, weights)


def state(kind: StateKind, phase: Phase, batch: Size = 64, queries: Size = 1) -> StateUpdate:
    dims = (128, 128) if kind is StateKind.DELTA_NET else (128, 64)
    return StateUpdate(kind, phase, batch, queries, 32, 16, *dims, 4.0, BF16)


def test_many_tokens_are_priced_as_equal_loads() -> None:
    """Catches a price that is not that of the fitted series.

    8,192 tokens give each of 128 experts 512 visits, with little spread.
    """
    h100 = CalibratedGpu.load("h100")
    (series,) = (entry for entry in h100.calibration.moe if entry.dtype == "bfloat16")
    tiles = {f"tiles_{rows}": 128 * 512 / rows for rows in ROWS}
    sizes = {"tokens": 8192, "hidden": 4096, "width": 1536, "per_token": 8, "experts": 128}
    shapes = ExpertShapes.of(**sizes, here=128, matrices=3, visits=65536, visited=128, **tiles)
    priced = kernel(kernels("h100").experts(experts(8192)))
    assert isclose(priced.time_ns, experts_ns(series, h100.gpu, shapes)[0], rel_tol=0.12)
    assert priced.flops == 2 * 3 * 65536 * 4096 * 1536
    assert priced.estimates == ()


def test_few_tokens_read_few_experts() -> None:
    """Catches all experts read for one token, and energy without the experts' bytes."""
    one, many = (kernel(kernels("h100").experts(experts(count))) for count in (1, 256))
    assert isclose(one.dram_bytes, 8 * 3 * 4096 * 1536 * 2, rel_tol=0.01)
    assert many.dram_bytes > 15 * one.dram_bytes
    assert many.time_ns > 8 * one.time_ns
    assert many.bound is Bound.MEMORY


def test_steps_are_priced_one_by_one() -> None:
    """Catches sizes of one step that leak into another."""
    counts = np.array([1.0, 64.0, 4096.0, 64.0])
    together = kernels("b200").experts(experts(counts, BlockFormat.NVFP4))
    alone = [
        kernels("b200").experts(experts(float(n), BlockFormat.NVFP4)).time_ns[0] for n in counts
    ]
    assert np.allclose(together.time_ns, alone)


def test_a_device_with_an_eighth_of_the_experts() -> None:
    """Catches the experts of all GPUs on each."""
    whole = kernels("h100").experts(experts(1024)).time_ns[0]
    part = kernels("h100").experts(experts(1024, here=16)).time_ns[0]
    assert whole / 8 < part < whole / 3


@pytest.mark.parametrize(
    ("name", "weights", "note"),
    [
        ("a100", FP8, "experts with fp8 weights: as bf16 with fewer bytes, never measured"),
        ("h100", INT8, "experts with int8 weights: as bf16 with fewer bytes, never measured"),
        ("a100a", BF16, "operators on a100a: scaled from a100"),
    ],
)
def test_experts_that_were_not_measured_say_so(name: str, weights: WeightType, note: str) -> None:
    """Catches a price that looks measured, or weights of another type that cost the same."""
    priced = kernel(kernels(name).experts(experts(32, weights)))
    assert note in priced.estimates
    if weights is not BF16:
        assert priced.time_ns < kernel(kernels(name).experts(experts(32))).time_ns


def test_experts_without_any_series_take_the_data_sheet() -> None:
    """Catches a GPU without measured experts that is an error, or that hides it."""
    h100 = CalibratedGpu.load("h100")
    bare = replace(h100, calibration=h100.calibration.model_copy(update={"moe": ()}))
    priced = kernel(Kernels(bare).experts(experts(32)))
    assert isclose(priced.time_ns, priced.dram_bytes / 3350, rel_tol=0.01)
    assert any("never measured" in note for note in priced.estimates)


def test_experts_outside_the_range_say_so() -> None:
    """Catches a step of more tokens than were measured."""
    notes = kernel(kernels("h100").experts(experts(1e6))).estimates
    assert "experts on h100: shapes outside those fitted" in notes


def test_states_are_priced_by_their_kernels() -> None:
    """Catches a state that is not that of the fitted kernel, or chunks that decode."""
    h100 = CalibratedGpu.load("h100")
    recurrent = h100.calibration.gated_delta_net[-1]
    sizes = {"channels": 1, "reach": 1, "heads": 32, "key_heads": 16}
    shapes = StateShapes.of(batch=64, queries=1, **sizes, key_dim=128, value_dim=128)
    priced = kernel(kernels("h100").state(state(StateKind.DELTA_NET, DECODE)))
    assert isclose(priced.time_ns, state_ns(recurrent, h100.gpu, shapes)[0], rel_tol=1e-9)
    assert isclose(priced.time_ns, 95_000, rel_tol=0.1)  # as measured
    assert priced.estimates == ()
    prefill = kernel(kernels("h100").state(state(StateKind.DELTA_NET, PREFILL, 1, 8192)))
    assert isclose(prefill.time_ns, 390_800, rel_tol=0.1)  # as measured


def test_mamba2s_recurrence_is_an_estimate() -> None:
    """Catches a recurrence that looks measured, or that costs as much as one of twice its size."""
    delta = kernel(kernels("h200").state(state(StateKind.DELTA_NET, DECODE)))
    mamba = kernel(kernels("h200").state(state(StateKind.MAMBA2, DECODE)))
    assert isclose(mamba.time_ns / delta.time_ns, 0.5, rel_tol=0.1)
    assert any("never measured" in note for note in mamba.estimates)
    delta, mamba = (
        kernel(kernels("h200").state(state(kind, PREFILL, 1, 32768))) for kind in StateKind
    )
    assert isclose(mamba.time_ns / delta.time_ns, 0.5, rel_tol=0.1)


def test_states_and_convolutions_of_a_gpu_that_was_not_measured() -> None:
    """Catches a GPU without measured states that is an error."""
    for priced in (
        kernels("a100").state(state(StateKind.DELTA_NET, DECODE)),
        kernels("a100").convolution(Convolution(DECODE, 64, 1, 8192, 4, BF16)),
    ):
        assert any("never measured" in note for note in kernel(priced).estimates)


def test_convolutions_are_those_of_the_framework() -> None:
    """Catches TensorRT-LLM's convolution, which is slower, in a step of vLLM."""
    op = Convolution(PREFILL, 64, 256, 8192, 4, BF16)
    mine = kernel(kernels("h100").convolution(op))
    theirs = kernel(Kernels(CalibratedGpu.load("h100"), "TRTLLM").convolution(op))
    assert isclose(mine.time_ns, 240_500, rel_tol=0.1)  # as measured
    assert theirs.time_ns > 1.5 * mine.time_ns
    assert mine.estimates == theirs.estimates == ()


def sums(rows: Size) -> AllReduce:
    return AllReduce("all_reduce1", rows, 8192, BF16)


def test_short_sums_take_vllms_kernel_and_long_ones_nccl() -> None:
    """Catches a sum that is faster than the library's, or a host that counts in graphs."""
    h100 = kernels("h100")
    short, long = sums(4), sums(4096)
    graph = kernel(h100.custom_all_reduce(short, 8))
    eager = kernel(h100.custom_all_reduce(short, 8, in_graph=False))
    assert isclose(graph.time_ns, 6000, rel_tol=0.2)
    assert isclose(eager.time_ns, 23_000, rel_tol=0.1)
    nccl = kernel(h100.all_reduce(long, 8))
    assert kernel(h100.custom_all_reduce(long, 8)).time_ns == nccl.time_ns
    assert kernel(h100.custom_all_reduce(short, 3)) == kernel(h100.all_reduce(short, 3))
    link = LINKS.load("nvlink3")
    assert kernel(h100.custom_all_reduce(short, 8, link)) == kernel(h100.all_reduce(short, 8, link))


def test_both_kinds_of_sums_in_one_call() -> None:
    """Catches notes of NCCL's sums on steps that vLLM's kernel runs."""
    priced = kernels("a100a").custom_all_reduce(sums(np.array([1.0, 4096.0])), 8)
    alone = [kernels("a100a").custom_all_reduce(sums(rows), 8).time_ns[0] for rows in (1.0, 4096.0)]
    assert np.allclose(priced.time_ns, alone)
    notes = {entry.what: entry.holds.tolist() for entry in priced.estimates}
    assert notes["operators on a100a: scaled from a100"] == [True, False]


def test_a_cost_model_prices_every_such_operator() -> None:
    """Catches an operator that has no price, or none of the energy."""
    model = CalibratedCostModel(serving=None)
    h100 = GPUS.load("h100")
    latent = LatentAttention(DECODE, 4, 16, 512, 64, 128, 128, 1, 2048, BF16, BF16)
    for op in (
        experts(32),
        state(StateKind.DELTA_NET, DECODE),
        Convolution(DECODE, 64, 1, 8192, 4, BF16),
        latent,
        IndexScan(DECODE, 4, 64, 128, 1, 4096, 132.0, 2048),
    ):
        (cost,) = model.fused(op, h100)
        assert cost.name == op.name
        assert cost.time_ns[0] > 0
        assert cost.energy.total_pj[0] > 0
