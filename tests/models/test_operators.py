"""Operations and bytes of the operators, by hand."""

from attacc.models.operators import MatMul, MatMulRole
from attacc.models.precision import ElementType, Precision


def test_flops_and_bytes_of_a_product() -> None:
    """An operand counted at the type of another, or once instead of count times."""
    op = MatMul(
        "ff1", MatMulRole.FC, 2, 30, 400, 5, ElementType.BF16, ElementType.INT4, ElementType.FP8
    )
    assert op.flops == 2 * 2 * 30 * 400 * 5
    assert op.bytes == 5 * (2 * 2 * 400 + 0.5 * 400 * 30 + 1 * 2 * 30)


def test_bytes_of_element_types() -> None:
    """A type of the wrong width."""
    widths = {element.value: element.bytes for element in ElementType}
    assert widths == {"fp16": 2, "bf16": 2, "fp8": 1, "int8": 1, "int4": 0.5}
    assert ElementType.INT4.bits == 4
    assert Precision().weights is ElementType.FP16
