"""Kernels of what stays in the banks, against the same things in NumPy."""

import numpy as np
import pytest

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.numerics import single_kernel
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format, Overflow
from attacc.pim.numerics.quantize import quantize
from attacc.pim.numerics.resident import Attender, BankStore
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2")
ELEMENTS = {
    Format.FP16: ElementType.FP16,
    Format.BF16: ElementType.BF16,
    Format.INT8: ElementType.INT8,
    Format.E4M3: ElementType.FP8,
    Format.E5M2: ElementType.FP8,
}


def attender(operand: Format) -> Attender:
    element = ELEMENTS[operand]
    fp8 = operand if element is ElementType.FP8 else Format.E4M3
    layout = KeyLayout(DEVICE.organization, Placement.BANK, 16, element)
    tables = resolve_timing(DEVICE, Placement.BANK, power_limited=True)
    arithmetic = Arithmetic.of(element, fp8=fp8)
    return Attender(DEVICE, layout, tables, QueryPasses.of(1, 1), arithmetic, 0.25)


@pytest.mark.parametrize("operand", list(ELEMENTS))
def test_bits_are_those_of_the_format(operand: Format) -> None:
    """Catches subnormals, ties, signs and scales that the kernel rounds otherwise."""
    random = np.random.default_rng(1)
    values = random.standard_normal((3, 40, 16)) * 2.0 ** random.integers(-30, 12, (3, 40, 16))
    halves = Format.FP16.table[np.arange(0, 2**15 - 2**10)]
    middles = ((halves[:-1].astype(np.float64) + halves[1:]) / 2).astype(np.float32)
    edges = np.resize(middles, (3, 40, 16)) * np.where(np.arange(16) % 2, -1, 1)
    edges[0, 0, :2] = 0.0, -0.0
    for drawn in (values, edges):
        tensor = np.clip(drawn, -60000, 60000).astype(np.float32)
        units = attender(operand)
        scales = units.scales(tensor, 1)
        codes, saturated = units.encode(tensor, scales, units.layout.padded_key, name="keys")
        for head in range(3):
            theirs = quantize(tensor[head], operand, name="keys")
            assert scales[head] == theirs.scale
            np.testing.assert_array_equal(codes[head, :, :16], theirs.codes)
        assert saturated == 0
        assert not codes[:, :, 16:].any()


def test_halves_are_rounded_as_by_the_format() -> None:
    """Catches a rounding in float32 that is not that of fp16: all exponents, middles, beyond."""
    halves = Format.FP16.table[np.arange(2**15 - 2**10)].astype(np.float64)
    middles = (halves[:-1] + halves[1:]) / 2
    near = np.concatenate([halves, middles, [65519.99, 65520, 65536, 1e9, 1e-9, 2.0**-25]])
    singles = near.astype(np.float32)
    singles = np.concatenate(
        [singles, np.nextafter(singles, np.float32(0)), np.nextafter(singles, np.float32(np.inf))]
    )
    singles = np.concatenate([singles, -singles, [np.float32(np.inf), np.float32(-np.inf)]])
    for overflow in Overflow:
        beyond = np.float32(Format.FP16.rounding(overflow).beyond)
        # Doubled and halved, which is exact: the kernel rounds products.
        ours = np.empty_like(singles)
        ones = np.ones_like(singles)
        single_kernel.products(len(singles), 1, beyond, singles, ones, ours)
        finite = np.isfinite(singles)
        theirs = Format.FP16.rounded(singles, overflow).astype(np.float32)
        np.testing.assert_array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))
        if overflow is Overflow.INFINITE:
            np.testing.assert_array_equal(ours, theirs)


def test_sums_of_halves_are_rounded_once() -> None:
    """Catches double rounding: sums of all exponents, in float32 and then to fp16."""
    random = np.random.default_rng(5)
    codes = random.integers(0, 2**16, (2, 200_000)).astype(np.uint16)
    pair = Format.FP16.from_bits(codes)
    pair = pair[:, np.isfinite(pair).all(axis=0)]
    exact = Format.FP16.rounded(pair[0].astype(np.float64) + pair[1]).astype(np.float32)
    ours = pair[0].copy()
    single_kernel.accumulate(len(ours), 1, np.float32(np.inf), pair[1], ours)
    np.testing.assert_array_equal(ours.view(np.uint32), exact.view(np.uint32))
    products = np.empty_like(ours)
    single_kernel.products(len(ours), 1, np.float32(np.inf), pair[0], pair[1], products)
    exact = Format.FP16.rounded(pair[0].astype(np.float64) * pair[1]).astype(np.float32)
    np.testing.assert_array_equal(products.view(np.uint32), exact.view(np.uint32))


def test_codes_of_fp16_are_read_as_the_table_has_them() -> None:
    codes = np.arange(2**16, dtype=np.uint16)
    codes = codes[np.isfinite(Format.FP16.table[codes])]
    values = np.empty(len(codes), dtype=np.float32)
    single_kernel.decode_half(codes, values)
    np.testing.assert_array_equal(values.view(np.uint32), Format.FP16.table[codes].view(np.uint32))


def test_kept_rows_are_empty_when_they_are_taken_again() -> None:
    """Catches padding that is what somebody else has left."""
    store = BankStore(DEVICE.organization)
    first = store.take(3)
    store.data[first] = 7
    store.give(first[:2])
    again = store.take(4)
    assert len(set(again.tolist()) | {int(first[2])}) == 5
    assert not store.data[again].any()
    assert (store.data[first[2]] == 7).all()
