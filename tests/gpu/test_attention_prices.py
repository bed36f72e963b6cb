"""Prices of attention within a window, over latents, of products of heads and of index scans."""

from dataclasses import replace
from math import isclose

import numpy as np
import pytest

from attacc.gpu.calibrated.costs import Kernels
from attacc.gpu.calibrated.fused.latent_attention import LatentShapes, latent_decode_ns
from attacc.gpu.calibrated.fused.windowed_attention import WindowedShapes, windowed_decode_ns
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.gpu.costs import Bound
from attacc.hardware.gpu import GPUS
from attacc.models.operators import (
    Attention,
    IndexScan,
    LatentAttention,
    MatMul,
    MatMulRole,
    Phase,
    Size,
)
from attacc.models.precision import ElementType
from tests.pricing import kernel

BF16, FP8, INT8 = ElementType.BF16, ElementType.FP8, ElementType.INT8
DECODE, PREFILL = Phase.DECODE, Phase.PREFILL


def kernels(name: str) -> Kernels:
    return Kernels(CalibratedGpu.load(name))


def windowed(
    phase: Phase, keys: float, window: int | None = 1024, *, kv: ElementType = BF16
) -> Attention:
    queries = 1 if phase is DECODE else 4096
    return Attention(phase, 16, 32, 8, 128, queries, keys, BF16, kv, window=window)


def latent(
    phase: Phase, keys: Size, kv: ElementType = BF16, size: int = 512, *, gathers: bool = False
) -> LatentAttention:
    queries = 1 if phase is DECODE else keys
    sizes = (size, 64, 128, 128)
    return LatentAttention(phase, 8, 16, *sizes, queries, keys, BF16, kv, gathers=gathers)


@pytest.mark.parametrize("name", ["h100", "h200", "b200"])
def test_windows_are_priced_by_their_own_series(name: str) -> None:
    """Catches a window that is priced as attention to all keys, or not as cut."""
    of = kernels(name)
    gpu, series = of.gpu.gpu, of.gpu.calibration.windowed_decode_attention[0]
    priced = kernel(of.attention(windowed(DECODE, 1024)))
    sizes = {"batch": 16, "heads": 32, "kv_heads": 8, "head_dim": 128, "past": 0}
    shapes = WindowedShapes.of(**sizes, length=9000, window=1024)
    assert priced.time_ns == windowed_decode_ns(series, gpu, shapes)[0]
    assert priced.estimates == ()
    assert priced.flops == windowed(DECODE, 1024).flops
    short = kernel(of.attention(windowed(PREFILL, 1024))).time_ns
    assert short < kernel(of.attention(windowed(PREFILL, 4096, None))).time_ns
    ragged = windowed(DECODE, 512)
    several = Attention(DECODE, 16, 32, 8, 128, 1, 512, BF16, BF16, longest=1024, window=1024)
    assert kernel(of.attention(several)).time_ns >= kernel(of.attention(ragged)).time_ns
    assert any("unequal" in note for note in kernel(of.attention(several)).estimates)


def test_windows_that_were_not_measured_say_so() -> None:
    """Catches a GPU, a cache or a library without a window's series whose price looks measured."""
    for op in (windowed(DECODE, 1024), windowed(PREFILL, 1024)):
        told = kernel(kernels("a100").attention(op)).estimates
        assert any("within a window: as attention to its keys" in note for note in told)
        eight = kernel(kernels("h100").attention(windowed(op.phase, 1024, kv=INT8))).estimates
        assert any("int8 cache: as bf16 with fewer bytes" in note for note in eight)
    of = kernels("a100")
    band = kernel(of.attention(windowed(PREFILL, 1024))).time_ns
    everything = kernel(of.attention(windowed(PREFILL, 4096, None))).time_ns
    assert 0.3 * everything < band < 0.8 * everything  # 896 of 2,048 keys on average


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "b200"])
@pytest.mark.parametrize("cache", [BF16, FP8])
def test_latents_in_decode(name: str, cache: ElementType) -> None:
    """Catches another library's kernels, or a cache's type, that a price passes off as its own."""
    of = kernels(name)
    priced = kernel(of.latent(latent(DECODE, 4096, cache)))
    told = " ".join(priced.estimates)
    assert ("kernels of SGLang" in told) is (name != "a100")
    assert ("fp8 cache: as bf16 with fewer bytes" in told) is (name == "a100" and cache is FP8)
    assert ("without the host's time" in told) is (name == "a100")
    assert priced.flops == 2 * 8 * 16 * 4096 * 1088
    own = {"batch": 8, "heads": 16, "length": 4096, "past": 0}
    sizes = {"latent": 512, "rope": 64, "nope": 128, "value": 128}
    series = next(s for s in of.gpu.calibration.mla_decode if s.dtype == "bfloat16")
    measured = latent_decode_ns(series, of.gpu.gpu, LatentShapes.of(**own, **sizes))
    if cache is BF16 and name != "a100":
        assert priced.time_ns == measured[0]
    wide = kernel(of.latent(latent(DECODE, 65536, cache, size=1024)))
    assert any("scaled by bytes and operations" in note for note in wide.estimates)
    assert wide.time_ns > 1.3 * kernel(of.latent(latent(DECODE, 65536, cache))).time_ns


def test_the_host_of_a_step_is_not_that_of_a_measurement() -> None:
    """Catches a third of a millisecond of vLLM's host on an A100 in every layer of a graph."""
    assert kernel(kernels("a100").latent(latent(DECODE, 64))).time_ns < 60_000


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "b200"])
def test_latents_in_prefill_are_expanded(name: str) -> None:
    """Catches the absorbed form of SGLang's measurements on Hopper in a step that expands."""
    priced = kernel(kernels(name).latent(latent(PREFILL, 8192)))
    told = " ".join(priced.estimates)
    assert ("as attention with heads of as many elements" in told) is name.startswith("h")
    peak = GPUS.load(name).peak_flops_per_s(BF16)
    expanded = 8 * 16 * 8192 * 8192 * 320  # half of the pairs, twice per multiply and add
    assert 0.25 < expanded / peak * 1e9 / priced.time_ns < 0.95


@pytest.mark.parametrize("name", ["h100", "h200", "b200"])
def test_sparse_attention_and_its_scan(name: str) -> None:
    """Catches a module whose fixed time is lost, or counted for the scan and the attention."""
    of = kernels(name)
    chosen = of.latent(latent(DECODE, 2048, FP8, gathers=True))
    assert kernel(chosen).estimates == ()
    scan = IndexScan(DECODE, 8, 64, 128, 1, 65536, 132.0, 2048)
    priced = kernel(of.index_scan(scan))
    bandwidth = of.gpu.gpu.memory_bytes_per_s * 1e-9
    floor = 8 * 65536 * 140 / bandwidth
    assert floor < priced.time_ns < 2 * floor + 30_000
    assert priced.bound is Bound.MEMORY
    series = next(s for s in of.gpu.calibration.sparse_decode if s.dtype == "bfloat16/fp8")
    fixed_ns = series.coefficients.fixed_ns
    assert fixed_ns < kernel(chosen).time_ns < 2 * fixed_ns
    assert chosen.launch_ns == 0
    few = kernel(of.index_scan(IndexScan(DECODE, 8, 64, 128, 1, 2048, 132.0, 2048)))
    assert few.time_ns < priced.time_ns
    prompt = kernel(of.latent(latent(PREFILL, 2048, FP8, gathers=True)))
    assert any("as decode of every token" in note for note in prompt.estimates)


def test_products_of_heads() -> None:
    """Catches heads that share one product's activations, and weights that lie in the cache."""
    op = MatMul("absorb_keys", MatMulRole.HEADS, 16, 512, 128, 128, BF16, BF16, BF16)
    for name in ("h100", "h200", "b200"):
        priced = kernel(kernels(name).product(op))
        assert priced.dram_bytes == op.bytes
        weights = 128 * 512 * 128 * 2 / GPUS.load(name).memory_bytes_per_s * 1e9
        assert weights < priced.time_ns < 3 * weights + 5000
        assert any("weights read from memory" in note for note in priced.estimates)
    many = MatMul("absorb_values", MatMulRole.HEADS, 16, 128, 512, 128, BF16, FP8, BF16)
    told = kernel(kernels("h100").product(many)).estimates
    assert any("fp8 weights: as bf16 with fewer bytes" in note for note in told)


def test_operators_without_series_take_the_data_sheet() -> None:
    """Catches a GPU on which an operator was never measured, and whose price does not say so."""
    of = kernels("a100")
    bandwidth = of.gpu.gpu.memory_bytes_per_s
    scan = IndexScan(DECODE, 8, 64, 128, 1, 65536, 132.0, 2048)
    op = MatMul("absorb_keys", MatMulRole.HEADS, 1, 512, 128, 128, BF16, BF16, BF16)
    for priced, moved in (
        (of.index_scan(scan), scan.bytes),
        (of.product(op), op.bytes),
        (of.latent(latent(DECODE, 2048, gathers=True)), latent(DECODE, 2048).bytes),
    ):
        one = kernel(priced)
        assert any("never measured" in note for note in one.estimates)
        assert one.time_ns >= 0.99e9 * float(moved) / bandwidth


def test_scaled_gpus_say_so() -> None:
    """Catches an H200's coefficients on another data sheet that count as measured there."""
    other = GPUS.load("h200").model_copy(update={"name": "mine", "memory_bytes_per_s": 9.6e12})
    of = Kernels(CalibratedGpu.load("h200").on(other))
    op = MatMul("absorb_keys", MatMulRole.HEADS, 16, 512, 128, 128, BF16, BF16, BF16)
    scan = IndexScan(DECODE, 8, 64, 128, 1, 65536, 132.0, 2048)
    for priced in (
        of.attention(windowed(DECODE, 1024)),
        of.attention(windowed(PREFILL, 1024)),
        of.latent(latent(DECODE, 4096)),
        of.latent(latent(DECODE, 2048, gathers=True)),
        of.index_scan(scan),
        of.product(op),
    ):
        assert any("scaled from h200" in note for note in kernel(priced).estimates)


def test_many_steps_are_those_of_one() -> None:
    """Catches a size of one step that is taken for all."""
    of = kernels("b200")
    lengths = np.array([100.0, 5000.0, 60000.0])
    together = of.latent(latent(DECODE, lengths))
    for i, length in enumerate(lengths):
        assert isclose(together.time_ns[i], kernel(of.latent(latent(DECODE, length))).time_ns)


def test_values_of_another_size_and_several_tokens_are_said_to_be_estimates() -> None:
    """Catches values that are priced as keys, and queries of drafts that cost nothing."""
    of = kernels("h200")
    plain = Attention(DECODE, 32, 16, 4, 160, 1, 4096, BF16, BF16)
    other = replace(plain, head_dim=192, value_dim=128)
    assert of.attention(other).time_ns == of.attention(plain).time_ns
    assert any("another size" in e.what for e in of.attention(other).estimates)
    for window in (None, 1024):
        keys = 4096 if window is None else window
        one = Attention(DECODE, 32, 16, 4, 128, 1, keys, BF16, BF16, window=window)
        four = of.attention(replace(one, queries=4))
        wide = of.attention(replace(one, heads=64))
        assert four.time_ns == wide.time_ns
        assert four.time_ns >= of.attention(one).time_ns
        assert any("several tokens" in e.what for e in four.estimates)
        assert not any("several tokens" in e.what for e in wide.estimates)
