from math import isclose

from attacc.gpu.published.model import published_softmax_ns
from attacc.gpu.rates import AttaccRates
from attacc.models.operators import Attention, Phase, Pointwise, PointwiseKind
from attacc.models.precision import ElementType
from attacc.system.transfers import context_bytes, query_bytes

FP16, INT8 = ElementType.FP16, ElementType.INT8
RATES = AttaccRates(3352e9, 9 * 3352e9, 4.4, 0.32)


def test_without_grouping_three_vectors_go_and_one_comes_back() -> None:
    """Catches a transfer that is not 3h/t per token before and h/t after attention."""
    op = Attention(Phase.DECODE, 18, 12, 12, 128, 1, 4096, FP16, FP16)
    assert query_bytes(op) == 3 * (12288 / 8) * 18 * 2
    assert context_bytes(op) == (12288 / 8) * 18 * 2


def test_grouped_queries_share_keys_and_values() -> None:
    """Catches keys and values sent once per query head, or in the type of the activations."""
    op = Attention(Phase.DECODE, 18, 8, 1, 128, 1, 4096, FP16, INT8)
    assert query_bytes(op) == 18 * (8 * 128 * 2 + 2 * 128)
    assert context_bytes(op) == 18 * 8 * 128 * 2


def test_softmax_is_bound_by_arithmetic_for_two_bytes_and_by_both_for_one() -> None:
    """Catches a softmax estimate other than the published one."""
    scores = 3000 * 216

    def time_ns(element: ElementType, gpus_per_device: float = 1.0) -> float:
        softmax = Pointwise("softmax", PointwiseKind.SOFTMAX, 1, 3000, 216, element)
        return published_softmax_ns(softmax, RATES, gpus_per_device)

    assert isclose(time_ns(FP16), 5 * scores / 3352e9 * 1e9)
    assert isclose(time_ns(INT8), 5 * scores / (2 * 3352e9) * 1e9)
    assert isclose(time_ns(FP16, gpus_per_device=2.0), 2 * time_ns(FP16))
