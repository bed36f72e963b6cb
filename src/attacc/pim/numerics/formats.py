"""Number formats: their values, and rounding to them.

Four numbers describe each format, so that one rule rounds to all formats: the bits of the
significand, the least exponent (below it values are a fixed distance apart: subnormals), the
largest value, and the result for values beyond it. All values of int8 are subnormal in this sense.
Rounding is to nearest, ties to even (IEEE 754-2019, 4.3.1).

Sources: IEEE 754-2019 (fp16, fp32); bfloat16 as in Intel's "BFLOAT16 - Hardware Numerics
Definition" (2018), with subnormals; "OCP 8-bit Floating Point Specification (OFP8)" (2023) for
both fp8 formats: e4m3 has no infinity, and one NaN per sign.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.errors import UnknownNameError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Codes = npt.NDArray[np.unsignedinteger]

FRACTION_BITS: Final = 52
"""Bits of the fraction of a float64."""
BIAS: Final = 1023
"""Bias of the exponent of a float64."""
EXPONENT_MASK: Final = 0x7FF << FRACTION_BITS


class Overflow(StrEnum):
    """Result of rounding a value beyond the largest value of its format."""

    INFINITE = "infinite"
    """Infinity; NaN in a format without one."""
    SATURATE = "saturate"
    """The largest value."""


class Rounding(NamedTuple):
    """Rounding to a format, as kernels compute it (`attacc.pim.numerics.rounding_kernel`).

    Attributes:
        floor: bits of the least normal value as a float64.
        spread: number to add to the bits of a power of two. The sum is the power of two whose last
            bit has the weight of the last bit of a value of the format.
        largest: largest finite value.
        beyond: result for larger values.
    """

    floor: int
    spread: int
    largest: float
    beyond: float


class Format(StrEnum):
    """How a number is represented."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    E4M3 = "fp8-e4m3"
    E5M2 = "fp8-e5m2"
    INT8 = "int8"

    @classmethod
    def named(cls, name: str, *, where: str | None = None) -> Format:
        """Return the format of this name.

        Raises:
            UnknownNameError: there is no such format; proposes the nearest names.
        """
        try:
            return cls(name)
        except ValueError:
            known = [member.value for member in cls]
            raise UnknownNameError("number format", name, known, where=where) from None

    @property
    def bits(self) -> int:
        """Number of bits of a value."""
        return _SHAPES[self].bits

    @property
    def significand(self) -> int:
        """Bits of the significand, with the leading one that is not stored."""
        return _SHAPES[self].significand

    @property
    def least_exponent(self) -> int:
        """Exponent of the least normal value; subnormals are as far apart as values next to it."""
        return _SHAPES[self].least_exponent

    @property
    def quantum(self) -> float:
        """Distance of neighbouring values near zero, which is the least positive value."""
        return 2.0 ** (self.least_exponent - self.significand + 1)

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return _SHAPES[self].largest

    @property
    def is_integer(self) -> bool:
        """Whether values are integers, which always saturate."""
        return self is Format.INT8

    def contains(self, other: Format) -> bool:
        """Return whether every value of another format is also a value of this one."""
        return (
            self.significand >= other.significand
            and self.quantum <= other.quantum
            and self.largest >= other.largest
        )

    def rounding(self, overflow: Overflow = Overflow.INFINITE) -> Rounding:
        """Return the numbers by which kernels round to this format."""
        beyond = self.largest
        if overflow is Overflow.INFINITE and not self.is_integer:
            beyond = float("nan") if self is Format.E4M3 else float("inf")
        return Rounding(
            (self.least_exponent + BIAS) << FRACTION_BITS,
            (FRACTION_BITS + 1 - self.significand) << FRACTION_BITS,
            self.largest,
            beyond,
        )

    def rounded(self, values: Floats, overflow: Overflow = Overflow.INFINITE) -> F64:
        """Round values to the nearest of this format, ties to even.

        Args:
            values: any shape, float32 or float64.
            overflow: what becomes of values beyond the largest.
        """
        floor, spread, largest, beyond = self.rounding(overflow)
        exact = np.asarray(values, dtype=np.float64)
        size = np.abs(exact)
        exponent = np.maximum(size.view(np.int64) & EXPONENT_MASK, floor)
        # At 2**52 times the distance of neighbours, float64 holds only multiples of that distance.
        with np.errstate(invalid="ignore", over="ignore"):
            coarse = (exponent + np.where(np.isfinite(exact), spread, 0)).view(np.float64)
            near = np.where(np.isfinite(exact), (size + coarse) - coarse, size)
        return np.copysign(np.where(near > largest, beyond, near), exact)

    def to_bits(self, values: Floats, overflow: Overflow = Overflow.INFINITE) -> Codes:
        """Return the bits of values, rounded to this format.

        Args:
            values: any shape, float32 or float64.
            overflow: what becomes of values beyond the largest.

        Returns:
            Unsigned integers of `bits` bits, of the same shape. An int8 is a two's complement.
        """
        near = self.rounded(values, overflow)
        code_type = _CODE_TYPES[self.bits]
        if self.is_integer:
            whole = np.where(np.isnan(near), 0.0, near)
            return whole.astype(np.int8).view(np.uint8)
        dropped = FRACTION_BITS + 1 - self.significand
        size = np.abs(near)
        first = (self.least_exponent + BIAS - 1) << (self.significand - 1)
        code = (size.view(np.int64) >> dropped) - first
        least = size < 2.0**self.least_exponent
        code = np.where(least, (np.where(least, size, 0.0) / self.quantum).astype(np.int64), code)
        code = np.where(np.isinf(size), _SHAPES[self].infinity, code)
        code = np.where(np.isnan(size), _SHAPES[self].nan, code)
        return (code | np.signbit(near).astype(np.int64) << (self.bits - 1)).astype(code_type)

    def from_bits(self, codes: Codes) -> F32:
        """Return the values of bits.

        Args:
            codes: unsigned integers of `bits` bits, any shape.
        """
        if self is Format.FP32:
            return np.ascontiguousarray(codes, dtype=np.uint32).view(np.float32)
        return self.table[codes]

    @property
    def table(self) -> F32:
        """(2**bits,) the value of every code of a format of 8 or 16 bits."""
        return _table(self)


class _Shape(NamedTuple):
    """Bits and limits of a format. Infinity and NaN are codes; without infinity, both are NaN."""

    bits: int
    significand: int
    least_exponent: int
    largest: float
    infinity: int
    nan: int


_SHAPES: Final = {
    Format.FP32: _Shape(32, 24, -126, (2 - 2.0**-23) * 2.0**127, 0x7F800000, 0x7FC00000),
    Format.BF16: _Shape(16, 8, -126, (2 - 2.0**-7) * 2.0**127, 0x7F80, 0x7FC0),
    Format.FP16: _Shape(16, 11, -14, 65504.0, 0x7C00, 0x7E00),
    Format.E4M3: _Shape(8, 4, -6, 448.0, 0x7F, 0x7F),
    Format.E5M2: _Shape(8, 3, -14, 57344.0, 0x7C, 0x7E),
    # Symmetric, as quantised keys and values commonly are: -128 is never produced.
    Format.INT8: _Shape(8, 8, 7, 127.0, 0, 0),
}

_CODE_TYPES: Final = {8: np.uint8, 16: np.uint16, 32: np.uint32}


@cache
def _table(of: Format) -> F32:
    shape = _SHAPES[of]
    codes = np.arange(2**shape.bits, dtype=np.int64)
    if of.is_integer:
        return codes.astype(np.uint8).view(np.int8).astype(np.float32)
    sign = np.where(codes >> (shape.bits - 1), -1.0, 1.0)
    size = codes & (2 ** (shape.bits - 1) - 1)
    exponent, fraction = np.divmod(size, 2 ** (shape.significand - 1))
    leading = np.where(exponent > 0, 2 ** (shape.significand - 1), 0)
    values = (leading + fraction) * of.quantum * 2.0 ** np.maximum(exponent - 1, 0)
    values = np.where(
        size >= shape.infinity, np.where(size > shape.infinity, np.nan, np.inf), values
    )
    if shape.infinity == shape.nan:
        values = np.where(size == shape.nan, np.nan, values)
    table = (sign * values).astype(np.float32)
    table.setflags(write=False)
    return table
