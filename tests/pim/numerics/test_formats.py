"""Number formats: every code, and rounding against NumPy's and ml_dtypes' own."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.compiled import kernel
from attacc.errors import InputError, UnknownNameError
from attacc.pim.numerics.formats import Format, Overflow, Rounding
from attacc.pim.numerics.quantize import check_finite, quantize
from attacc.pim.numerics.rounding_kernel import exponential, rounded

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.unsignedinteger]

TYPES: list[tuple[Format, Any, Any]] = [
    (Format.FP16, np.float16, np.uint16),
    (Format.BF16, ml_dtypes.bfloat16, np.uint16),
    (Format.E4M3, ml_dtypes.float8_e4m3fn, np.uint8),
    (Format.E5M2, ml_dtypes.float8_e5m2, np.uint8),
]
OTHERS = pytest.mark.parametrize(("of", "theirs", "code"), TYPES)


@kernel
def round_all(
    values: F64, floor: int, spread: int, largest: float, beyond: float, out: F64
) -> None:
    for i in range(len(values)):
        out[i] = rounded(values[i], floor, spread, largest, beyond)


@kernel
def exponentials(values: F64, out: F64) -> None:
    for i in range(len(values)):
        out[i] = exponential(values[i])


def compiled(values: F64, rounding: Rounding) -> F64:
    out = np.empty_like(values)
    round_all(values, *rounding, out)
    return out


def samples(of: Format) -> F64:
    """Bits of all exponents, all values of the format, and what lies about and between them."""
    random = np.random.default_rng(3)
    bits = random.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    some: list[F64] = [bits[np.isfinite(bits)].astype(np.float64)]
    if of is not Format.FP32:
        values = np.unique(of.table[np.isfinite(of.table)]).astype(np.float64)
        middle = (values[1:] + values[:-1]) / 2
        some += [values, middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)]
        step = of.largest - values[-2]
        some.append(of.largest + step * np.array([0.25, 0.499, 0.5, 0.501, 1, 2]))
    every = np.concatenate(some)
    return np.concatenate([every, -every, [np.inf, -np.inf, np.nan, 0.0, -0.0]])


@OTHERS
def test_every_code_means_the_same(of: Format, theirs: Any, code: Any) -> None:
    """Catches a wrong bias, subnormal, infinity or NaN; codes of values are those values' codes."""
    codes: Codes = np.arange(1 << of.bits).astype(code)
    ours = of.from_bits(codes)
    others: F32 = codes.view(theirs).astype(np.float32)
    np.testing.assert_array_equal(ours, others)
    known = ~np.isnan(others)
    np.testing.assert_array_equal(np.signbit(ours[known]), np.signbit(others[known]))
    np.testing.assert_array_equal(of.to_bits(ours)[known], codes[known])
    assert np.isnan(of.from_bits(of.to_bits(ours)[~known])).all()


@OTHERS
def test_rounding_is_theirs(of: Format, theirs: Any, code: Any) -> None:
    """Catches ties, subnormals and overflow; from float32, which both round but once."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = samples(of).astype(np.float32)
        rounded_by_them = values.astype(theirs)
    others: F32 = rounded_by_them.astype(np.float32)
    codes: Codes = rounded_by_them.view(code)
    ours = of.to_bits(values)
    known = ~np.isnan(others)
    np.testing.assert_array_equal(ours[known], codes[known])
    assert np.isnan(of.from_bits(ours[~known])).all()


@pytest.mark.parametrize("of", list(Format))
@pytest.mark.parametrize("overflow", list(Overflow))
def test_the_kernel_rounds_alike(of: Format, overflow: Overflow) -> None:
    """Catches compiled rounding that differs, signed zeros, infinities and NaN included."""
    values = samples(of)
    ours, theirs = compiled(values, of.rounding(overflow)), of.rounded(values, overflow)
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(ours[~nan].view(np.int64), theirs[~nan].view(np.int64))


def test_float32_is_rounded_as_numpy_does() -> None:
    values = samples(Format.FP32)
    random = np.random.default_rng(5).standard_normal(100_000) * 2.0**-140
    values = np.concatenate([values, random, np.array([3.4028235677973366e38])])
    with np.errstate(over="ignore"):
        theirs = values.astype(np.float32)
    np.testing.assert_array_equal(Format.FP32.rounded(values).astype(np.float32), theirs)
    codes = Format.FP32.to_bits(values)
    known = ~np.isnan(theirs)
    np.testing.assert_array_equal(codes[known], theirs.view(np.uint32)[known])
    np.testing.assert_array_equal(Format.FP32.from_bits(codes)[known], theirs[known])


def test_int8_saturates_symmetrically() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 1e9, -1e9, np.inf])
    codes = Format.INT8.to_bits(values)
    expected = [0, 2, 2, 0, -2, 126, 127, 127, -127, 127]
    np.testing.assert_array_equal(codes.view(np.int8), expected)
    np.testing.assert_array_equal(
        Format.INT8.from_bits(codes), np.array(expected, dtype=np.float32)
    )


def test_saturation_stops_at_the_largest() -> None:
    for of in (Format.FP16, Format.E4M3, Format.E5M2, Format.BF16):
        values = np.array([of.largest, of.largest * 1.9, -np.inf])
        near = of.rounded(values, Overflow.SATURATE)
        np.testing.assert_array_equal(near, [of.largest, of.largest, -of.largest])
    assert np.isnan(Format.E4M3.rounded(np.array([500.0]))).all()
    assert np.isinf(Format.E5M2.rounded(np.array([62000.0]))).all()


@given(a=st.integers(0, 2**16 - 1), b=st.integers(0, 2**16 - 1))
def test_half_precision_arithmetic_is_numpys(a: int, b: int) -> None:
    """Catches double rounding: products and sums computed in float64 and rounded once."""
    x, y = np.array([a, b], dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        for exact, half in (
            (np.float64(x) * np.float64(y), x * y),
            (np.float64(x) + np.float64(y), x + y),
        ):
            ours = compiled(np.array([exact]), Format.FP16.rounding())
            np.testing.assert_array_equal(ours, np.float64(half))


@given(a=st.integers(0, 2**32 - 1), b=st.integers(0, 2**32 - 1))
def test_single_precision_sums_are_numpys(a: int, b: int) -> None:
    x, y = np.array([a, b], dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        ours = compiled(np.array([np.float64(x) + np.float64(y)]), Format.FP32.rounding())
        np.testing.assert_array_equal(ours, np.float64(x + y))


def test_exponential_is_rounded_to_the_nearest_float32() -> None:
    """Catches a polynomial that is too short, and underflow."""
    random = np.random.default_rng(1)
    values = np.concatenate(
        [
            -random.exponential(10, 200_000),
            -np.logspace(-30, 2.3, 10_000),
            [0.0, -0.0, -87.3, -103.9, -104.1, -1e30, -np.inf, np.nan],
        ]
    ).astype(np.float32)
    ours = np.empty(len(values))
    exponentials(values.astype(np.float64), ours)
    theirs = np.exp(values.astype(np.float64))
    np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32))
    known = theirs > 1e-40
    assert np.max(np.abs(ours[known] / theirs[known] - 1)) < 5e-16


def test_formats_have_names() -> None:
    assert Format.named("fp8-e4m3") is Format.E4M3
    with pytest.raises(UnknownNameError, match=r"unknown number format 'fp61'.*did you mean"):
        Format.named("fp61", where="--kv")
    assert Format.FP32.contains(Format.BF16)
    assert Format.FP32.contains(Format.FP16)
    assert not Format.FP16.contains(Format.BF16)
    assert not Format.BF16.contains(Format.FP16)


# Numbers of a host.


def test_scales_use_the_whole_format() -> None:
    """Catches scales of the wrong dimension, or that are not undone."""
    values = np.array([[1.0, -254.0], [0.5, 0.25], [0.0, 0.0]])
    together = quantize(values, Format.INT8, name="keys")
    assert together.scale == np.float32(2)
    np.testing.assert_array_equal(together.values, [[0, -254], [0, 0], [0, 0]])
    each = quantize(values, Format.INT8, name="keys", own=1)
    assert each.scale.shape == (3,)
    assert each.scale[2] == 1
    assert each.codes[1, 0] == 127
    assert np.abs(each.values - values).max() <= 1
    eight = quantize(values, Format.E4M3, name="keys", own=1)
    assert np.abs(eight.values - values).max() <= 254 * 2**-4


def test_a_given_scale_saturates() -> None:
    """Catches keys added later that change the scale of those already stored."""
    scale = np.float32(0.1)
    later = quantize(np.array([1.0, 100.0]), Format.INT8, name="keys", scale=np.asarray(scale))
    assert later.codes.view(np.int8).tolist() == [10, 127]
    for wrong in (np.ones(2, dtype=np.float32), np.float32(0), np.float32(np.inf)):
        with pytest.raises(InputError, match="scale"):
            quantize(np.array([1.0]), Format.INT8, name="keys", scale=np.asarray(wrong))


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"keys hold -70000, which is beyond fp16 \(65504 at most"):
        quantize(np.array([1.0, -70000.0]), Format.FP16, name="keys")
    assert quantize(np.array([65519.0]), Format.FP16, name="keys").values == 65504
    assert quantize(np.array([70000.0]), Format.BF16, name="keys").values == 70144
    with pytest.raises(InputError, match=r"queries hold nan at \(1,\), and 1 more"):
        check_finite(np.array([0, np.nan, np.inf]), "queries")
