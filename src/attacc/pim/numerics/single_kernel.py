"""Products and sums in float32, where that gives the same bits as float64 and one rounding.

- Native float32 is fp32: every operation is rounded once.
- A product of two values of fp16, or of 8 bits, is exact in float32: it is rounded once to fp16.
- A sum of two values of fp16, rounded to 24 bits and then to 11 or fewer, equals the sum rounded
  once, because 24 >= 2 * 11 + 2 (Figueroa, as in `attacc.pim.numerics.rounding_kernel`).

Float32 takes half the memory of float64, and native rounding to fp32 takes no extra operations.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from attacc.compiled import kernel

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.unsignedinteger]

EXPONENT_MASK = np.int32(0x7F800000)
LEAST_NORMAL = np.int32((127 - 14) << 23)
"""Exponent of the least normal value of fp16, in the bits of a float32."""
SPREAD = np.int32((24 - 11) << 23)
LARGEST = np.float32(65504)
HALF_TO_SINGLE = np.float32(2.0**112)
"""Factor between equal exponent fields of fp16 and float32, whose biases are 15 and 127."""


@kernel
def half(value: np.float32, beyond: np.float32) -> np.float32:
    """Round to the nearest value of fp16, ties to even; see `rounding_kernel.rounded`."""
    size = abs(value)
    exponent = max(np.int32(np.float32(size).view(np.int32) & EXPONENT_MASK), LEAST_NORMAL)
    coarse = np.int32(exponent + SPREAD).view(np.float32)
    near = np.float32(np.float32(size + coarse) - coarse)
    return np.float32(math.copysign(beyond if near > LARGEST else near, value))


@kernel
def decode_half(codes: Codes, values: F32) -> None:
    """Write the values of bits of fp16 that are all finite.

    Args:
        codes: (n,) bits.
        values: (n,) output.
    """
    for i in range(len(codes)):
        code = np.int32(codes[i])
        size = np.int32((code & np.int32(0x7FFF)) << np.int32(13)).view(np.float32)
        # Subnormals are normal in float32: the product is exact.
        value = np.float32(size * HALF_TO_SINGLE).view(np.int32)
        sign = np.int32((code & np.int32(0x8000)) << np.int32(16))
        values[i] = np.int32(value | sign).view(np.float32)


@kernel
def products(count: int, rounds: int, beyond: np.float32, left: F32, right: F32, to: F32) -> None:
    """Write products; they are rounded to fp16 if ``rounds`` is not 0."""
    if rounds:
        for i in range(count):
            to[i] = half(np.float32(left[i] * right[i]), beyond)
    else:
        for i in range(count):
            to[i] = np.float32(left[i] * right[i])


@kernel
def multiply_accumulate(
    count: int, rounds_products: int, rounds_sums: int, beyond: np.float32, left: F32, right: F32,
    sums: F32,
) -> None:  # fmt: skip
    """Add a product to every sum."""
    if rounds_sums:
        for i in range(count):
            term = half(np.float32(left[i] * right[i]), beyond)
            sums[i] = half(np.float32(sums[i] + term), beyond)
    elif rounds_products:
        for i in range(count):
            sums[i] = np.float32(sums[i] + half(np.float32(left[i] * right[i]), beyond))
    else:
        for i in range(count):
            sums[i] = np.float32(sums[i] + np.float32(left[i] * right[i]))


@kernel
def accumulate(count: int, rounds: int, beyond: np.float32, terms: F32, sums: F32) -> None:
    """Add a term to every sum."""
    if rounds:
        for i in range(count):
            sums[i] = half(np.float32(sums[i] + terms[i]), beyond)
    else:
        for i in range(count):
            sums[i] = np.float32(sums[i] + terms[i])


@kernel
def pairs(count: int, rounds: int, beyond: np.float32, of: F32, to: F32) -> None:
    """Write the sums of neighbours."""
    if rounds:
        for i in range(count):
            to[i] = half(np.float32(of[2 * i] + of[2 * i + 1]), beyond)
    else:
        for i in range(count):
            to[i] = np.float32(of[2 * i] + of[2 * i + 1])


@kernel
def tree(
    count: int, lanes: int, pairwise: int, rounds: int, beyond: np.float32, terms: F32, spare: F32
) -> int:
    """Add up each ``lanes`` terms; return 0 if the sums are in ``terms``, 1 if in ``spare``."""
    if pairwise:
        where = 0
        while lanes > 1:
            count //= 2
            lanes //= 2
            if where == 0:
                pairs(count, rounds, beyond, terms, spare)
            else:
                pairs(count, rounds, beyond, spare, terms)
            where = 1 - where
        return where
    for group in range(count // lanes):
        total = terms[group * lanes]
        for i in range(1, lanes):
            total = np.float32(total + terms[group * lanes + i])
            if rounds:
                total = half(total, beyond)
        spare[group] = total
    return 1


@kernel
def added(rounds: int, beyond: np.float32, terms: F32) -> np.float32:
    """Return the sum of terms, one after the other."""
    total = terms[0]
    for i in range(1, len(terms)):
        total = np.float32(total + terms[i])
        if rounds:
            total = half(total, beyond)
    return total
