"""Whole steps priced by the calibrated GPU model."""

from dataclasses import replace
from math import isclose

import numpy as np
import pytest

from attacc.errors import EngineError, InputError
from attacc.gpu.calibrated.costs import CalibratedCostModel, Kernels, as_run
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.gpu.costs import Bound, EnergyBreakdown
from attacc.gpu.frameworks import SERVING, ServedSteps, serving_series, token_ns
from attacc.gpu.models import GpuModel, cost_model
from attacc.gpu.published.model import PublishedCostModel, published_rates
from attacc.hardware.cpu import CPUS
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.hardware.system import (
    AttaccTable,
    AttentionSite,
    ResolvedSystem,
    SystemSpec,
    load_system,
    resolve_system,
)
from attacc.models.architecture import MODELS, ModelSpec
from attacc.models.operators import (
    AllReduce,
    Attention,
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
)
from attacc.models.precision import ElementType
from attacc.models.steps import decode_step, prefill_step
from attacc.system.attaccs import AttaccAttention
from attacc.system.pricer import Pricer
from tests.pricing import kernel, step_cost

BF16, FP8, INT8, INT4 = ElementType.BF16, ElementType.FP8, ElementType.INT8, ElementType.INT4
ALONE = CalibratedCostModel(serving=None)
MODEL = CalibratedCostModel()
RATES = published_rates(Placement.BANK, power_limited=True, stacks_per_device=5)


def gpus(name: str, count: int) -> ResolvedSystem:
    link = "nvlink3" if name.startswith("a100") else "nvlink4"
    link = "nvlink5" if name == "b200" else link
    spec = SystemSpec(name="mine", gpu=name, gpus=count, link=link, attention=AttentionSite.GPU)
    return resolve_system(spec)


def typed(name: str, **types: ElementType) -> ModelSpec:
    model = MODELS.load(name)
    return model.model_copy(update={"precision": model.precision.model_copy(update=types)})


def product(left: ElementType, right: ElementType, count: int = 1) -> MatMul:
    return MatMul("ff1", MatMulRole.FC, 32, 4096, 8192, count, left, right, left)


@pytest.mark.parametrize("gpu", ["a100", "h100", "h200"])
@pytest.mark.parametrize("split", [1, 8])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt3-13b"])
def test_a_step_is_the_sum_of_its_kernels(gpu: str, split: int, model: str) -> None:
    """Catches an operator that a step prices otherwise than the validated kernels do."""
    spec, kernels, system = MODELS.load(model), Kernels(CalibratedGpu.load(gpu)), gpus(gpu, split)

    def alone_ns(op: Operator) -> float:
        match op:
            case MatMul():
                return kernel(kernels.product(op)).time_ns
            case Attention():
                return kernel(kernels.attention(op)).time_ns
            case Pointwise():
                return kernel(kernels.pointwise(op)).time_ns
            case AllReduce():
                return kernel(kernels.all_reduce(op, split)).time_ns
            case _:
                raise AssertionError(f"{op.name} in a model of dense layers")

    for step, costs in (
        (decode_step(spec, batch=24, kv_length=1500, tensor_parallel=split), ALONE),
        (prefill_step(spec, batch=1, prompt_length=900, tensor_parallel=split), MODEL),
    ):
        run = as_run(step)
        [layer] = run.layers
        assert layer.runs == spec.layers
        inside = spec.layers * sum(map(alone_ns, layer.operators))
        expected = inside + sum(map(alone_ns, run.outside))
        assert isclose(step_cost(step, system, costs).time_ns, expected, rel_tol=1e-12)


@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize("weights", [FP8, BF16])
def test_a_decode_step_is_the_time_per_token_that_was_fitted(
    split: int, weights: ElementType
) -> None:
    """Catches a host that is counted twice or of another type, and graphs that hide nothing."""
    model, batch = typed("llama-3.1-8b", weights=weights), 40
    pricer = Pricer(model, gpus("h100", split), gpu_model=MODEL)
    alone = Pricer(model, gpus("h100", split), gpu_model=ALONE).step(decode=[2000] * batch)
    cost = pricer.step(decode=[2000] * batch)
    reduce_ns = alone.communication.time_ns
    launch_ns = sum(op.runs * op.launch_ns for op in alone.operators)
    values = (batch, 1e9, alone.time_ns - reduce_ns, launch_ns, reduce_ns, model.layers, 0.0)
    steps = ServedSteps(*(np.array([float(value)]) for value in values))
    series = serving_series(SERVING.load("vllm"), None, weights)
    assert series is not None
    assert series.dtype is weights
    expected = token_ns(steps, series.token)
    assert isclose(cost.time_ns, float(expected[0]), rel_tol=1e-12)
    hosts = [op for op in cost.operators if op.name.startswith("host")]
    assert [op.runs for op in hosts] == [model.layers, 1]
    assert all(op.bound is Bound.LATENCY for op in hosts)


def test_the_host_of_types_that_were_not_served_says_so() -> None:
    """Catches a host's time of another element type that is passed off as measured."""
    wide, narrow = (
        Pricer(typed("llama-3.1-8b", weights=weights), gpus("h100", 1), gpu_model=MODEL)
        for weights in (BF16, INT4)
    )
    note = "host time of vllm with int4 weights: that of bf16"
    assert note in narrow.step(decode=[100]).estimates
    assert not any("host" in told for told in wide.step(decode=[100]).estimates)


def test_operators_as_libraries_run_them() -> None:
    """Catches gate and up as two products, a plain block taken for a gated one, an 8-bit head."""
    gated = typed("llama-3.1-8b", weights=FP8)
    before = decode_step(gated, batch=3, kv_length=10, tensor_parallel=2)
    after = as_run(before)
    names = [op.name for op in after.layers[0].operators if isinstance(op, MatMul)]
    assert names == ["qkv", "projection", "ff1", "ff3"]
    wide = next(op for op in after.layers[0].operators if op.name == "ff1")
    assert isinstance(wide, MatMul)
    assert (wide.m, wide.n, wide.k) == (3, 14336, 4096)
    head = next(op for op in after.outside if op.name == "lm_head")
    assert isinstance(head, MatMul)
    assert (head.left, head.right, head.out) == (BF16, BF16, BF16)
    plain = decode_step(MODELS.load("gpt3-13b"), batch=3, kv_length=10, tensor_parallel=1)
    assert as_run(plain) == plain


@pytest.mark.parametrize("name", ["dgx-base", "dgx-cpu", "dgx-attacc-bank"])
def test_idle_power_runs_through_the_whole_step(name: str) -> None:
    """Catches GPUs that draw nothing while AttAccs or CPUs attend, or more than their boards."""
    system = load_system(name)
    step = decode_step(MODELS.load("gpt3-175b"), batch=16, kv_length=3000, tensor_parallel=8)
    given = AttaccAttention.one(5e6, EnergyBreakdown(dram_pj=1e6))
    cost = step_cost(step, system, MODEL, RATES, attention=given)
    idle_pj = 8 * 132.2 * 400 / 700 * 1e3 * cost.time_ns
    active = sum(op.runs * op.energy.static_pj for op in cost.operators)
    assert isclose(cost.energy.static_pj, idle_pj + active, rel_tol=1e-3)
    assert active < 8 * 177.5 * 400 / 700 * 1e3 * cost.time_ns
    groups = (cost.fc, cost.attention, cost.communication, cost.other)
    total = sum(group.energy.total_pj for group in groups)
    assert isclose(cost.energy.total_pj, total, rel_tol=1e-12)
    if name == "dgx-attacc-bank":
        share = cost.attention.time_ns / cost.time_ns
        assert isclose(cost.attention.energy.static_pj, share * idle_pj, rel_tol=1e-3)
    if name == "dgx-base":
        assert cost.energy.total_pj < 8 * 400 * 1e3 * cost.time_ns
    assert PublishedCostModel().static_w(system.gpu) == 0


def test_energy_is_measured_power_times_time() -> None:
    """Catches parts of a kernel's energy that do not sum to the power that was fitted."""
    h200 = GPUS.load("h200")
    op = MatMul("ff1", MatMulRole.FC, 8192, 8192, 8192, 1, BF16, BF16, BF16)
    cost = ALONE.matmul(op, h200).one
    power_w = cost.energy.total_pj / cost.time_ns / 1e3 + ALONE.static_w(h200)
    assert 500 < power_w < 700
    assert cost.estimates == ()


def test_power_of_other_gpus_is_scaled_and_says_so() -> None:
    """Catches the H200's watts on another board, or a scaling that nobody is told of."""
    a100 = GPUS.load("a100")
    cost = ALONE.matmul(product(BF16, BF16), a100).one
    assert cost.estimates == (
        "energy on a100: power scaled from h200 by board power and peak rate",
    )
    assert isclose(ALONE.static_w(a100), 132.2 * 400 / 700)
    unstated = a100.model_copy(update={"board_power_w": None})
    with pytest.raises(InputError, match="board_power"):
        CalibratedCostModel().static_w(unstated)


def test_int8_is_bf16_at_the_rate_and_width_of_int8() -> None:
    """Catches int8 weights read at two bytes, or passed off as measured."""
    a100 = Kernels(CalibratedGpu.load("a100"))
    wide, narrow = (
        kernel(a100.product(product(BF16, BF16))),
        kernel(a100.product(product(INT8, INT8))),
    )
    assert 0.45 < narrow.time_ns / wide.time_ns < 0.8
    assert narrow.estimates == ("int8 products: scaled from bf16, never measured",)
    decode = Attention(Phase.DECODE, 64, 16, 16, 128, 1, 8000, BF16, INT8)
    cached, halved = (
        kernel(a100.attention(replace(decode, kv=BF16))),
        kernel(a100.attention(decode)),
    )
    assert 0.45 < halved.time_ns / cached.time_ns < 0.7
    assert halved.estimates == (
        "decode attention with an int8 cache: as bf16 with fewer bytes, never measured",
    )


@pytest.mark.parametrize(
    ("left", "right"), [(FP8, BF16), (INT8, BF16), (FP8, INT8), (INT8, FP8), (INT4, INT4)]
)
def test_types_without_kernels_are_refused(left: ElementType, right: ElementType) -> None:
    """Catches a price for products that no library has; the way out is named."""
    with pytest.raises(InputError, match=r'as wide as the weights .*gpu_model = "published"'):
        kernel(Kernels(CalibratedGpu.load("h100")).product(product(left, right)))


@pytest.mark.parametrize("gpu", ["a100", "h100", "b200"])
@pytest.mark.parametrize(("right", "share"), [(INT8, 1 / 2), (INT4, 1 / 4)])
def test_narrow_weights_are_read_faster_and_computed_in_16_bits(
    gpu: str, right: ElementType, share: float
) -> None:
    """Catches weights read at the activations' width, 8-bit arithmetic, or a guess not told."""
    kernels = Kernels(CalibratedGpu.load(gpu))
    wide, narrow = (kernel(kernels.product(product(BF16, element))) for element in (BF16, right))
    told = f"products of 16-bit activations with {right} weights: as bf16 with smaller weights"
    assert [note for note in narrow.estimates if note not in wide.estimates] == [
        f"{told}, never measured; kernels that convert weights are slower at many rows"
    ]
    assert share * wide.time_ns < narrow.time_ns < 0.9 * wide.time_ns
    assert isclose(wide.dram_bytes - narrow.dram_bytes, 4096 * 8192 * 2 * (1 - share))
    tall = [replace(product(BF16, element), m=8192) for element in (BF16, right)]
    many = [kernel(kernels.product(op)).time_ns for op in tall]
    least_ns = tall[0].flops / GPUS.load(gpu).peak_flops_per_s(BF16) * 1e9
    assert least_ns < many[1] <= many[0]
    assert kernel(kernels.product(product(ElementType.FP16, right))) == narrow


@pytest.mark.parametrize("left", [BF16, FP8])
def test_eight_bit_floating_point_without_units_for_it(left: ElementType) -> None:
    """Catches fp8 arithmetic on an A100, or weights there of two bytes."""
    kernels = Kernels(CalibratedGpu.load("a100"))
    wide, narrow = (
        kernel(kernels.product(product(BF16, BF16))),
        kernel(kernels.product(product(left, FP8))),
    )
    assert 0.45 < narrow.time_ns / wide.time_ns < 0.8
    (told,) = narrow.estimates
    assert "with fp8 weights: as bf16 with" in told
    assert "never measured" in told
    tall = replace(product(left, FP8), m=8192)
    assert kernel(kernels.product(tall)).time_ns > tall.flops / 312e12 * 1e9


@pytest.mark.parametrize("left", [FP8, INT8])
def test_four_bit_weights_of_eight_bit_activations(left: ElementType) -> None:
    """Catches int4 beside 8 bits read as 8 bits, or a model that has no price at all."""
    kernels = Kernels(CalibratedGpu.load("h100"))
    eight, four = (kernel(kernels.product(product(left, right))) for right in (left, INT4))
    assert four.time_ns < eight.time_ns
    assert any(f"{left} activations with int4 weights" in note for note in four.estimates)


@pytest.mark.parametrize(
    ("gpu", "cache", "most"),
    [
        # An A100's kernel of single heads computes nearly as long as it reads: 16 bits stay.
        ("a100", FP8, 0.8),
        ("a100", INT8, 0.8),
        ("h100", INT8, 0.7),
        ("h100", INT4, 0.5),
    ],
)
def test_a_cache_that_was_not_measured_has_the_bytes_of_its_type(
    gpu: str, cache: ElementType, most: float
) -> None:
    """Catches 8-bit arithmetic in kernels of 16 bits, a cache of two bytes, a guess not told."""
    kernels = Kernels(CalibratedGpu.load(gpu))
    op = Attention(Phase.DECODE, 64, 8, 8, 128, 1, 8000, BF16, BF16)
    wide, narrow = kernel(kernels.attention(op)), kernel(kernels.attention(replace(op, kv=cache)))
    assert cache.bytes / 2 * wide.time_ns < narrow.time_ns < most * wide.time_ns
    cached = 2 * 64 * 8 * 128 * 8000
    assert isclose(wide.dram_bytes - narrow.dram_bytes, cached * (2 - cache.bytes))
    assert narrow.estimates == (
        f"decode attention with an {cache} cache: as bf16 with fewer bytes, never measured",
    )
    prompt = replace(op, phase=Phase.PREFILL, batch=1, queries=8000)
    filled = kernel(kernels.attention(replace(prompt, kv=cache)))
    assert filled.time_ns == kernel(kernels.attention(prompt)).time_ns
    assert "prefill attention with an" in filled.estimates[0]


def test_a_cache_that_was_measured_is_no_estimate() -> None:
    """Catches a series of 8 bits that is passed over, and halves of attention priced apart."""
    op = Attention(Phase.DECODE, 64, 8, 8, 128, 1, 8000, BF16, BF16)
    kernels = Kernels(CalibratedGpu.load("h100"))
    assert kernel(kernels.attention(replace(op, kv=FP8))).estimates == ()
    with pytest.raises(EngineError, match="priced as a whole"):
        kernel(kernels.product(op.score))


@pytest.mark.parametrize("dim", [16, 32, 512])
def test_heads_of_sizes_that_nothing_was_measured_with(dim: int) -> None:
    """Catches a model that has no price for its small or large heads, or one in silence."""
    kernels = Kernels(CalibratedGpu.load("h100"))
    op = Attention(Phase.PREFILL, 1, 8, 8, 64 if dim < 64 else 256, 2000, 2000, BF16, BF16)
    known, odd = kernel(kernels.attention(op)), kernel(kernels.attention(replace(op, head_dim=dim)))
    assert isclose(odd.time_ns, known.time_ns * max(1, dim / 256))
    assert odd.estimates == ("prefill attention on h100: shapes outside those fitted",)


def test_experts_share_the_cores() -> None:
    """Catches experts of a mixture run one after the other, or only one of them."""
    kernels = Kernels(CalibratedGpu.load("h100"))
    eight, one = (
        kernel(kernels.product(product(BF16, BF16, 8))),
        kernel(kernels.product(product(BF16, BF16))),
    )
    assert 3 * one.time_ns < eight.time_ns < 8 * one.time_ns
    assert any("experts" in estimate for estimate in eight.estimates)


def test_sums_over_other_numbers_of_gpus_and_links() -> None:
    """Catches a collective extrapolated in silence, or over a link of which nothing is known."""
    kernels = Kernels(CalibratedGpu.load("h100"))
    small, large = (AllReduce("sum", rows, 8192, BF16) for rows in (1, 16384))
    measured = kernel(kernels.all_reduce(large, 8, LINKS.load("nvlink4")))
    assert measured == kernel(kernels.all_reduce(large, 8))
    assert (measured.estimates, measured.bound) == ((), Bound.LINK)
    assert kernel(kernels.all_reduce(small, 8)).bound is Bound.LATENCY
    more = kernel(kernels.all_reduce(small, 16))
    assert more.time_ns > kernel(kernels.all_reduce(small, 8)).time_ns
    assert more.estimates == ("collectives of 16 GPUs: scaled, as in one NVLink domain",)
    between = kernel(kernels.all_reduce(large, 6))
    assert between.time_ns > kernel(kernels.all_reduce(large, 4)).time_ns
    assert between.estimates == ("collectives of 6 GPUs: scaled, as in one NVLink domain",)
    slower = kernel(kernels.all_reduce(large, 8, LINKS.load("nvlink3")))
    assert 1.3 < slower.time_ns / measured.time_ns < 1.5
    assert any("nvlink3" in estimate for estimate in slower.estimates)
    with pytest.raises(InputError, match="nothing is known of collectives over pcie5-x16"):
        kernel(kernels.all_reduce(small, 8, LINKS.load("pcie5-x16")))


def test_other_machines() -> None:
    """Catches a GPU or CPU without coefficients that takes another's, or its own in silence."""
    with pytest.raises(InputError, match=r"GPU mine has no calibration .*h100"):
        ALONE.kernels(GPUS.load("h100").model_copy(update={"name": "mine"}))
    faster = GPUS.load("h100").model_copy(update={"memory_bytes_per_s": 4e12})
    op = Attention(Phase.DECODE, 64, 8, 8, 128, 1, 4000, BF16, BF16)
    own, scaled, larger = (
        CalibratedCostModel(serving=None).attention(op, gpu)[0].one
        for gpu in (
            GPUS.load("h100"),
            faster,
            GPUS.load("h100").model_copy(update={"memory_bytes": 96e9}),
        )
    )
    assert scaled.time_ns < own.time_ns
    assert "operators on h100: scaled from h100" in scaled.estimates
    assert larger == own
    cpu = CPUS.load("epyc-7742").model_copy(update={"name": "mine"})
    with pytest.raises(InputError, match="CPU mine has no calibration"):
        ALONE.cpu_attention(op, 8, cpu, 2)


def test_attention_on_cpus_at_a_share_of_their_bandwidth() -> None:
    """Catches one GPU's share in place of all, or an assumed share that goes without saying."""
    op = Attention(Phase.DECODE, 18, 12, 12, 128, 1, 4096, BF16, BF16)
    cpu = CPUS.load("epyc-7742")
    cost = ALONE.cpu_attention(op, 8, cpu, 2).one
    assert isclose(cost.time_ns, 8 * op.bytes / (0.73 * 2 * 204.8e9) * 1e9)
    assert cost.bound is Bound.MEMORY
    assert cost.estimates == ("attention on epyc-7742: 73% of the data sheet's bandwidth, assumed",)
    slow = cpu.model_copy(update={"peak_flops_per_s": 1e9})
    assert ALONE.cpu_attention(op, 8, slow, 2).one.bound is Bound.COMPUTE


def test_shapes_outside_what_was_fitted_are_named() -> None:
    """Catches an extrapolation that looks like an interpolation."""
    kernels = Kernels(CalibratedGpu.load("a100"))
    tall = replace(product(BF16, BF16), m=100_000)
    assert (
        "products on a100: shapes outside those fitted" in kernel(kernels.product(tall)).estimates
    )
    odd = Attention(Phase.DECODE, 4, 8, 8, 160, 1, 100, BF16, BF16)
    expected = ("decode attention on a100: shapes outside those fitted",)
    assert kernel(kernels.attention(odd)).estimates == expected


def test_attention_waits_for_what_its_shape_implies() -> None:
    """Catches decode attention called compute-bound, or a single key memory-bound."""
    kernels = Kernels(CalibratedGpu.load("h100"))
    decode = Attention(Phase.DECODE, 64, 8, 8, 128, 1, 8000, BF16, BF16)
    prompt = Attention(Phase.PREFILL, 1, 8, 8, 128, 8000, 8000, BF16, BF16)
    assert kernel(kernels.attention(decode)).bound is Bound.MEMORY
    assert kernel(kernels.attention(replace(decode, batch=1, keys=2))).bound is Bound.LATENCY
    assert kernel(kernels.attention(prompt)).bound is Bound.COMPUTE


@pytest.mark.parametrize("batch", [8, 600])
def test_co_processing_ends_together(batch: int) -> None:
    """Catches AttAcc's share set against a rate that the GPU's kernel does not reach."""

    def system(*, coprocessing: bool) -> ResolvedSystem:
        table = AttaccTable(devices=8, stacks_per_device=5, placement=Placement.BANK)
        spec = SystemSpec(
            name="mine",
            gpu="a100a",
            gpus=8,
            link="nvlink3",
            attention=AttentionSite.ATTACC,
            attacc=table,
            ff_coprocessing=coprocessing,
        )
        return resolve_system(spec)

    step = decode_step(MODELS.load("gpt3-175b"), batch=batch, kv_length=100, tensor_parallel=8)
    given = AttaccAttention.one(1e5, EnergyBreakdown())
    plain, shared = (
        step_cost(step, system(coprocessing=on), MODEL, RATES, attention=given)
        for on in (False, True)
    )
    alone = next(op for op in plain.operators if op.name == "ff1")
    ff1 = next(op for op in shared.operators if op.name == "ff1")
    assert alone.bound is (Bound.COMPUTE if batch == 600 else Bound.MEMORY)
    share = 1 - ff1.time_ns / alone.time_ns
    weights = 12288 * 4 * 12288 / 8 * 2
    on_attacc_ns = batch * share * weights / RATES.internal_bytes_per_s * 1e9
    assert isclose(ff1.time_ns, on_attacc_ns, rel_tol=1e-9)
    assert shared.time_ns < plain.time_ns


def test_a_model_by_its_name() -> None:
    """Catches a name that gives the other model."""
    for name in GpuModel:
        assert cost_model(name).kind == name
