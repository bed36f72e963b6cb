"""What cannot be stored or attended to is refused, saying what, where and the way out."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format, Overflow
from attacc.pim.numerics.plan import AttentionPlan
from attacc.pim.numerics.quantize import quantize

F64 = npt.NDArray[np.float64]

DEVICE = DRAMS.load("hbm3-5.2")


def plan_of(*lengths: int, head_dim: int = 8) -> AttentionPlan:
    return AttentionPlan.of(DEVICE, Placement.BANK, lengths, head_dim, ElementType.FP16)


def changed(at: tuple[int, int], value: float) -> F64:
    numbers = np.zeros((32, 8))
    numbers[at] = value
    return numbers


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        ((3, 2, np.nan), (0, 0, 0.0), r"keys of head 0 hold nan at \(3, 2\) \("),
        ((0, 0, 0.0), (1, 1, -np.inf), r"values of head 0 hold -inf at \(1, 1\) \("),
        ((2, 2, -7e4), (0, 0, 0.0), r"keys of head 0 hold -70000, which is beyond fp16"),
    ],
)
def test_numbers_that_are_not_stored(
    keys: tuple[int, int, float], values: tuple[int, int, float], message: str
) -> None:
    """NaN that spreads through a head, or an infinity that was a large number."""
    k, v = (changed((row, element), value) for row, element, value in (keys, values))
    with pytest.raises(InputError, match=message):
        plan_of(32).store([k], [v], Arithmetic())


def test_several_numbers_are_counted() -> None:
    """A message that tells of one when all are wrong."""
    with pytest.raises(InputError, match=r"q hold nan at \(0, 0\), and 7 more that are not finite"):
        quantize(np.full((1, 8), np.nan), Format.FP16, name="q")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan_of(2**26, head_dim=128), "1 heads of length 67108864 need 32768 rows"),
        (lambda: plan_of(*[2**22] * 20, head_dim=128), "at most 8 such heads fit into a stack"),
    ],
)
def test_lengths_beyond_a_stack(make: Callable[[], AttentionPlan], message: str) -> None:
    """A message about chunks and rows that does not tell which length was too long."""
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("to", [Format.FP16, Format.INT8, Format.E4M3])
@pytest.mark.parametrize("own", [0, 1])
def test_blocks_leave_no_trace(to: Format, own: int) -> None:
    """Rounding some rows at a time: a block left out, or one with the scale of another."""
    numbers = np.random.default_rng(0).standard_normal((300, 500)).astype(np.float32)
    got = quantize(numbers, to, name="numbers", own=own)
    scale = got.scale.reshape(-1, 1) if own else got.scale
    exact = numbers.astype(np.float64) / scale.astype(np.float64)
    np.testing.assert_array_equal(got.codes, to.to_bits(exact, Overflow.SATURATE))
    largest = np.abs(numbers).max(axis=1 if own else None)
    expected = largest.astype(np.float64) / to.largest if to.bits == 8 else np.ones(got.scale.shape)
    np.testing.assert_array_equal(got.scale, expected.astype(np.float32))
