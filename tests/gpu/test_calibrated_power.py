"""Power of a GPU by parts."""

import numpy as np

from attacc.gpu.calibrated.coefficients import PowerSpec
from attacc.gpu.calibrated.kernels import AttentionShapes, GemmShapes
from attacc.gpu.calibrated.power import attention_work, gemm_work, power
from attacc.models.precision import ElementType

SPEC = PowerSpec(
    idle_w=100.0,
    active_w=50.0,
    limit_w=700.0,
    gemm_flop_pj=0.5,
    attention_flop_pj=0.25,
    attention_flop_fp8_pj=0.2,
    dram_pj_per_byte=30.0,
    l2_pj_per_byte=5.0,
    gemm_error=0.1,
    attention_error=0.2,
)


def test_parts_are_energy_over_time() -> None:
    """Catches a wrong factor of 1000, or traffic counted as arithmetic."""
    work = gemm_work(GemmShapes.of(1024, 1024, 1024), ElementType.BF16)
    parts = power(SPEC, work, np.array([1e5]))
    assert parts.idle_w[0] == 100
    np.testing.assert_allclose(parts.dynamic_w, 50 + 0.5e-12 * 2 * 1024**3 / 1e-4)
    dram, l2 = 6 * 1024**2, 1024**3 * 2 * (1 / 128 + 1 / 256)
    np.testing.assert_allclose(parts.memory_w, (30e-12 * dram + 5e-12 * l2) / 1e-4)


def test_the_board_limits_the_sum() -> None:
    """Catches power beyond what the board allows."""
    work = gemm_work(GemmShapes.of(8192, 8192, 8192), ElementType.BF16)
    parts = power(SPEC, work, np.array([1.2e6]))
    assert parts.dynamic_w[0] > 450
    assert parts.total_w[0] < 700


def test_attention_counts_half_of_the_products_and_all_of_the_cache() -> None:
    """Catches the causal half left out, or keys counted in the wrong type."""
    shapes = AttentionShapes.of(2, 8, 2, 128, 1000)
    prefill = attention_work(shapes, ElementType.FP8, prefill=True)
    decode = attention_work(shapes, ElementType.FP8, prefill=False)
    assert prefill.flops[0] == 4 * 2 * 8 * 1000 * 1000 / 2 * 128
    assert decode.flops[0] == 4 * 2 * 8 * 1000 * 128
    assert decode.dram_bytes[0] == 2 * 8 * 128 * 4 + 2 * 2 * 2 * 1000 * 128
    assert power(SPEC, decode, np.array([1e5])).total_w[0] < 160
