"""Quantises numbers of the host: bits of a format, with a scale where the format needs one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.pim.numerics.formats import Codes, Floats, Format, Overflow

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]

_BLOCK: Final = 1 << 16
"""Number of values that are rounded at a time."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """Bits of a format, and the scale of their values.

    Attributes:
        format: format of the codes.
        codes: bits, of any shape.
        scale: float32 factor of the values. Its shape is that of the codes' leading dimensions with
            scales of their own. It is 1 for formats of 16 bits and more.
    """

    format: Format
    codes: Codes
    scale: F32

    @property
    def values(self) -> F64:
        """The values that the codes stand for."""
        scale = self.scale.reshape(self.scale.shape + (1,) * (self.codes.ndim - self.scale.ndim))
        return self.format.from_bits(self.codes).astype(np.float64) * scale


def quantize(
    values: Floats, to: Format, *, name: str, own: int = 0, scale: F32 | None = None
) -> Quantized:
    """Round numbers to a format.

    Formats of 8 bits get a scale that maps the largest magnitude to the largest value of the
    format. With a given scale, values beyond the range saturate.

    Args:
        values: finite values, of any shape.
        to: the format.
        name: name of the values, for messages.
        own: number of leading dimensions that have scales of their own.
        scale: a scale that was chosen earlier, for example for keys to which a key is appended.

    Raises:
        InputError: a value is no finite number, or too large for a format without a scale; or the
            given scale does not have the shape of the values.
    """
    given = np.asarray(values)
    check_finite(given, name)
    leading = given.shape[:own]
    if to.bits > 8:
        worst = float(given.flat[int(np.argmax(np.abs(given)))]) if given.size else 0.0
        if not np.isfinite(to.rounded(np.array(worst))):
            raise InputError(
                f"{name} hold {worst:.6g}, which is beyond {to} ({to.largest:.6g} at most)",
                hint="scale the model's keys and values, or store them as bf16 or int8",
            )
        return Quantized(to, _codes(given, to, None), np.ones(leading, dtype=np.float32))
    rest = tuple(range(own, given.ndim))
    if scale is None:
        most = np.max(np.abs(given), axis=rest, initial=0.0).astype(np.float64)
        fitting: F32 = np.asarray(most / to.largest, dtype=np.float32)
        # Values that are all zero need no scale; values too small for a float32 scale are lost.
        chosen = np.where(fitting > 0, fitting, np.float32(1))
    else:
        chosen = scale
        if scale.shape != leading:
            raise InputError(f"{name} have scales of shape {leading}, given are {scale.shape}")
        if not (np.isfinite(scale).all() and bool(np.all(scale > 0))):
            raise InputError(f"a scale of {name} is not a positive number")
    by = chosen.astype(np.float64).reshape(leading + (1,) * len(rest))
    return Quantized(to, _codes(given, to, by), chosen)


def _codes(values: Floats, to: Format, by: F64 | None) -> Codes:
    """Return the bits of values divided by scales (which broadcast); large values saturate.

    Values are rounded some rows at a time, so that intermediate arrays stay in the cache.
    """

    def of(part: Floats, own: F64 | None) -> Codes:
        return to.to_bits(part if own is None else part / own, Overflow.SATURATE)

    if values.size <= _BLOCK:
        return of(values, by)
    rows = max(1, _BLOCK * len(values) // values.size)
    parts = [slice(first, first + rows) for first in range(0, len(values), rows)]
    # A tensor with one scale for all values has a single row of scales.
    return np.concatenate(
        [of(values[at], by if by is None or len(by) == 1 else by[at]) for at in parts]
    )


def check_finite(values: Floats, name: str) -> None:
    """Refuse values that are not numbers.

    Raises:
        InputError: a value is NaN or infinite; says which, and where.
    """
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        others = int(wrong.sum()) - 1
        more = f", and {others} more that are not finite" if others else ""
        raise InputError(
            f"{name} hold {values[at]} at {at}{more}",
            hint="attention takes finite numbers: look where these come from",
        )
