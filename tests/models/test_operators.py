"""Operations and bytes of the operators, by hand."""

from attacc.models.operators import Attention, MatMul, MatMulRole, Phase
from attacc.models.precision import ElementType, Precision


def test_flops_and_bytes_of_a_product() -> None:
    """An operand counted at the type of another, or once instead of count times."""
    op = MatMul(
        "ff1", MatMulRole.FC, 2, 30, 400, 5, ElementType.BF16, ElementType.INT4, ElementType.FP8
    )
    assert op.flops == 2 * 2 * 30 * 400 * 5
    assert op.bytes == 5 * (2 * 2 * 400 + 0.5 * 400 * 30 + 1 * 2 * 30)


def test_the_products_of_attention() -> None:
    """Keys read per query head in decode, or in the cache's type before they are in the cache."""
    bf16, fp8 = ElementType.BF16, ElementType.FP8
    decode = Attention(Phase.DECODE, 3, 8, 2, 64, 1, 1000, bf16, fp8)
    prefill = Attention(Phase.PREFILL, 3, 8, 2, 64, 500, 500, bf16, fp8)
    for op, rows, count, read in ((decode, 4, 6, fp8), (prefill, 500, 24, bf16)):
        score, softmax, context = op.score, op.softmax, op.context
        assert (score.m, score.n, score.k, score.count) == (rows, op.keys, 64, count)
        assert (context.m, context.n, context.k, context.count) == (rows, 64, op.keys, count)
        assert (softmax.m, softmax.n, softmax.count) == (rows, op.keys, count)
        assert (score.left, score.right, score.out) == (bf16, read, bf16)
        assert (context.left, context.right, context.out) == (bf16, read, bf16)
        assert op.flops == score.flops + context.flops
    assert decode.bytes == 3 * 64 * (2 * 8 * 2 + 2 * 2 * 1000)
    assert prefill.bytes == 3 * 64 * 500 * (2 * 8 * 2 + 2 * 2 * 2)


def test_bytes_of_element_types() -> None:
    """A type of the wrong width."""
    widths = {element.value: element.bytes for element in ElementType}
    assert widths == {"fp16": 2, "bf16": 2, "fp8": 1, "int8": 1, "int4": 0.5}
    assert ElementType.INT4.bits == 4
    assert Precision().weights is ElementType.FP16
