"""Rounding to a number format, and the exponential, as part of compiled loops.

Every value is computed in float64 and rounded once to its format. The result equals an exact
operation with one rounding. Products of two significands of up to 24 bits are exact in float64. A
sum of two numbers of up to 24 bits that is rounded to 53 bits, and then to at least the bits of
these numbers, equals the sum rounded once, because 53 >= 2 * 24 + 2 (Figueroa, "When is double
rounding innocuous?", SIGNUM Newsletter 30(3), 1995).
"""

from __future__ import annotations

import math

import numpy as np

from attacc.compiled import kernel

FRACTION_BITS = 52
BIAS = 1023
EXPONENT_MASK = 0x7FF << FRACTION_BITS

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238
"""ln 2 to 32 bits, so that its multiples by small integers are exact."""
LN2_LOW = 1.9082149292705877e-10
LEAST_EXPONENT = -110.0
"""Below this the exponential is less than half the least float32."""


@kernel
def rounded(value: float, floor: int, spread: int, largest: float, beyond: float) -> float:
    """Round to the nearest value of a format, ties to even.

    The last four arguments are those of `attacc.pim.numerics.formats.Rounding`. Adding a power of
    two that is 2**52 times the distance of neighbouring values rounds to multiples of that
    distance.
    """
    size = abs(value)
    exponent = max(np.float64(size).view(np.int64) & EXPONENT_MASK, floor)
    coarse = np.int64(exponent + spread).view(np.float64)
    near = (size + coarse) - coarse
    return math.copysign(beyond if near > largest else near, value)


@kernel
def exponential(x: float) -> float:
    """Return e**x for x of at most 0, to within a few parts in 10**16.

    The function evaluates a Taylor polynomial about the nearest multiple of ln 2. All machines
    round its operations alike.
    """
    y = max(x, LEAST_EXPONENT)
    k = math.floor(y * LOG2_E + 0.5)
    r = (y - k * LN2_HIGH) - k * LN2_LOW
    p = 1.0 + r / 13.0
    p = 1.0 + r / 12.0 * p
    p = 1.0 + r / 11.0 * p
    p = 1.0 + r / 10.0 * p
    p = 1.0 + r / 9.0 * p
    p = 1.0 + r / 8.0 * p
    p = 1.0 + r / 7.0 * p
    p = 1.0 + r / 6.0 * p
    p = 1.0 + r / 5.0 * p
    p = 1.0 + r / 4.0 * p
    p = 1.0 + r / 3.0 * p
    p = 1.0 + r / 2.0 * p
    p = 1.0 + r * p
    power = np.int64((np.int64(k) + BIAS) << FRACTION_BITS).view(np.float64)
    # NaN remains NaN.
    return p * power if x == x else x
