"""Parameters of the arithmetic: what makes sense and what does not."""

from typing import Any

import pytest

from attacc.documents import parse_document
from attacc.errors import DocumentError, InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization
from attacc.pim.numerics.formats import Format

DEVICE = DRAMS.load("hbm3-5.2")


def test_the_default_is_the_papers() -> None:
    a = Arithmetic()
    assert a == Arithmetic.of(ElementType.FP16)
    assert {a.operand, a.multiplier, a.adder, a.accumulator, a.output} == {Format.FP16}
    assert a.lanes == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operand": "fp32"}, "operands and probabilities have 8 or 16 bits"),
        ({"probability": "int8"}, "probabilities in int8 are not as wide as operands in fp16"),
        ({"multiplier": "int8"}, "multiplier int8: choose fp16, bf16 or fp32"),
        ({"output": "fp8-e4m3"}, "output fp8-e4m3: choose fp16"),
        ({"score": "fp32"}, "score fp32 does not have 16 bits"),
        ({"context": "int8"}, "context int8 does not have 16 bits"),
        ({"multiplier": "fp32"}, "adder fp16 does not hold every value of multiplier fp32"),
        ({"accumulator": "bf16"}, "accumulator bf16 does not hold every value of adder fp16"),
        ({"lanes": 12}, "lanes = 12 is not a power of two"),
        ({"lanes": 0}, "is out of range"),
        ({"multiplier": "fp64"}, "fp64"),
        ({"accumulater": "fp32"}, "unknown key 'accumulater'.*did you mean 'accumulator'"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_document(Arithmetic, fields, where="test")


def test_elements_that_are_not_computed_with() -> None:
    with pytest.raises(InputError, match="keys and values of int4 are not computed with"):
        Arithmetic.of(ElementType.INT4)
    with pytest.raises(InputError, match="keys and values of bf16 are not"):
        Arithmetic.of(ElementType.FP8, fp8=Format.BF16)
    assert Arithmetic.of(ElementType.FP8, fp8=Format.E5M2).operand is Format.E5M2
    assert Arithmetic.of(ElementType.INT8).normalization is Normalization.AFTER
    assert Arithmetic.of(ElementType.BF16).accumulator is Format.FP32


def test_shifts_are_just_enough() -> None:
    """Catches a score or a context of 8-bit operands beyond 16 bits, or bits given away."""
    a = Arithmetic.of(ElementType.INT8)
    most = 127.0**2 * 128
    assert most / 2 ** a.score_shift(128) <= 65504 < most / 2 ** (a.score_shift(128) - 1)
    assert a.score_shift(1) == 0
    assert 127.0**2 * 512 / 2 ** a.context_shift(512) <= 65504
    assert Arithmetic().score_shift(4096) == 0
    assert Arithmetic().context_shift(4096) == 0


def test_an_access_is_whole_passes_through_the_tree() -> None:
    layout = KeyLayout(DEVICE.organization, Placement.BANK, 64, ElementType.FP16)
    Arithmetic().check_layout(layout)
    with pytest.raises(InputError, match="lanes = 32: an access holds 16 elements"):
        Arithmetic(lanes=32).check_layout(layout)
    with pytest.raises(InputError, match="operands in fp16, keys and values are laid out as int8"):
        Arithmetic().check_layout(
            KeyLayout(DEVICE.organization, Placement.BANK, 64, ElementType.INT8)
        )
