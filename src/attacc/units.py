"""Physical quantities: every conversion of the project is in this file.

Inside the project a quantity is a plain number in the base unit that its name carries
(``latency_ns``, ``bandwidth_bytes_per_s``, ``energy_pj``). In a document that people write it is
text with a unit (``"3352 GB/s"``, ``"350 ns"``), so that a misread unit is an error and not a
factor of 1000. Prefixes k, M, G, T, P, E are powers of 1000; Ki, Mi, Gi, Ti are powers of 1024.

Every quantity has a physical range. A type such as `Watts` has the range of its dimension, which
no device is near to; a field that means something narrower states a range of its own. What lies
outside is a slip in a unit or in an exponent, and sums of it might overflow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Annotated, Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from attacc.errors import InputError, nearest_hint

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3
BITS_PER_BYTE: Final = 8
NS_PER_S: Final = 1e9
MS_PER_S: Final = 1e3
PS_PER_NS: Final = 10**3
PS_PER_US: Final = 10**6
PS_PER_MS: Final = 10**9
PS_PER_S: Final = 10**12
NS_PER_MS: Final = NS_PER_S / MS_PER_S
PJ_PER_J: Final = 1e12

MAX_SIZE: Final = 2**24
"""Largest accepted size of anything in a model, or length of anything in a workload. It is beyond
the largest published (contexts of 10 Mi tokens), so that a slip in a document is caught."""

_DECIMAL: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SMALL: Final = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}


def _prefixed(unit: str, prefixes: dict[str, float], scale: float = 1.0) -> dict[str, float]:
    return {prefix + unit: factor * scale for prefix, factor in prefixes.items()}


UNITS: Final[dict[str, dict[str, float]]] = {
    "bytes": _prefixed("B", _DECIMAL | _BINARY),
    "bytes per second": _prefixed("B/s", _DECIMAL | _BINARY),
    "operations per second": _prefixed("FLOPS", _DECIMAL) | _prefixed("OPS", _DECIMAL),
    "hertz": _prefixed("Hz", _DECIMAL),
    "nanoseconds": _prefixed("s", _SMALL, NS_PER_S),
    "nanoseconds per byte": _prefixed("s/B", _SMALL, NS_PER_S),
    "watts": _prefixed("W", _SMALL | _DECIMAL),
    "picojoules": _prefixed("J", _SMALL, PJ_PER_J),
    "picojoules per bit": _prefixed("J/b", _SMALL, PJ_PER_J),
    "picojoules per byte": _prefixed("J/B", _SMALL, PJ_PER_J)
    | _prefixed("J/b", _SMALL, PJ_PER_J * BITS_PER_BYTE),
    "bits per second": _prefixed("b/s", _DECIMAL),
    "square millimetres": {"mm2": 1.0},
    "US dollars": {"USD": 1.0},
    "US dollars per hour": {"USD/h": 1.0},
    "US dollars per gigabyte": {"USD/GB": 1.0},
}
"""Dimension -> unit as written -> factor to the base unit that names the dimension."""

DECIMAL: Final = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""A number in ASCII digits, without a sign: Python and Polars read digits of other scripts too."""
_WHOLE: Final = re.compile(r"-?[0-9]+")
_MOST_DIGITS: Final = 30
"""Most digits of a whole number that is read: Python refuses thousands."""
_DIGITS: Final = r"[0-9]+(?:_[0-9]+)*"
"""As in TOML: ASCII digits, with underscores between digits only."""
_QUANTITY: Final = re.compile(
    rf"\s*([+-]?{_DIGITS}(?:\.{_DIGITS})?(?:[eE][+-]?{_DIGITS})?)\s*([^\s_]\S*)?\s*",
    re.ASCII,
)


def parse_quantity(value: object, dimension: str) -> float:
    """Convert text such as ``"3352 GB/s"`` to a number in the base unit of its dimension.

    Args:
        value: text of a number and a unit.
        dimension: a key of `UNITS`.

    Raises:
        ValueError: the text is no number with a unit, or its unit is not of this dimension.
    """
    units = UNITS[dimension]
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - pydantic reports ValueError
            f"{dimension} must be text with a unit, as in {_example(dimension)!r}, "
            f"not {value!r:.80}"
        )
    match = _QUANTITY.fullmatch(value)
    if match is None or not match[2]:
        raise ValueError(
            f"{value!r:.80} is not a number and a unit of {dimension}, "
            f"as in {_example(dimension)!r}"
        )
    if match[2] not in units:
        raise ValueError(
            f"unknown unit {match[2]!r:.80} for {dimension}: {nearest_hint(match[2], units)}"
        )
    number = float(match[1]) * units[match[2]]
    if not math.isfinite(number):
        raise ValueError(f"{value!r:.80} is too large a number of {dimension}")
    return number


def _example(dimension: str) -> str:
    return f"1.5 {list(UNITS[dimension])[1 if len(UNITS[dimension]) > 1 else 0]}"


RANGES: Final[dict[str, tuple[str, str]]] = {
    "bytes": ("1 B", "1 EB"),
    "bytes per second": ("1 kB/s", "1 EB/s"),
    "operations per second": ("1 MFLOPS", "1000 EFLOPS"),
    "hertz": ("1 kHz", "1 THz"),
    "nanoseconds": ("0.001 ps", "1000 s"),
    "nanoseconds per byte": ("1e-6 ps/B", "1 ms/B"),
    "watts": ("1 uW", "1 GW"),
    "picojoules": ("1e-6 pJ", "1 J"),
    "picojoules per bit": ("1e-6 pJ/b", "1 uJ/b"),
    "picojoules per byte": ("1e-6 pJ/B", "10 uJ/B"),
    "bits per second": ("1 kb/s", "1 Pb/s"),
    "square millimetres": ("1e-6 mm2", "1e6 mm2"),
    "US dollars": ("0.01 USD", "1e9 USD"),
    "US dollars per hour": ("1e-4 USD/h", "1e6 USD/h"),
    "US dollars per gigabyte": ("1e-3 USD/GB", "1e6 USD/GB"),
}
"""Dimension -> least and most value of its fields, unless a field states its own range."""


class Quantity:
    """A kind of field of a document: a positive number of one dimension, within a range.

    It is used in annotations, as in ``Annotated[float, Quantity("bytes", "2 KiB", "1 GiB")]``.

    Args:
        dimension: a key of `UNITS`.
        least: the smallest value, as text with a unit; by default that of the dimension. Zero is
            allowed only where it is stated here.
        most: the largest value, as text with a unit; by default that of the dimension.

    Attributes:
        low: the smallest value, in the base unit.
        high: the largest value, in the base unit.
        text: the range in words, with units as in documents.
    """

    def __init__(self, dimension: str, least: str | None = None, most: str | None = None) -> None:
        of_all = RANGES[dimension]
        least, most = least or of_all[0], most or of_all[1]
        self.dimension = dimension
        self.low = parse_quantity(least, dimension)
        self.high = parse_quantity(most, dimension)
        self.text = f"{least} to {most}"

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return pydantic's schema of the field: `_parse` runs first, then the number's checks."""
        return core_schema.with_info_before_validator_function(self._parse, handler(source))

    def _parse(self, value: object, info: ValidationInfo) -> float:
        # Python code gives numbers in base units; documents (validated with a context) give text.
        if isinstance(value, (int, float)) and info.context is None:
            number = float(value)
        else:
            number = parse_quantity(value, self.dimension)
        if not (math.isfinite(number) and number >= 0 and (number > 0 or self.low == 0)):
            raise ValueError(f"{value!r:.80} must be a positive number of {self.dimension}")
        if not self.low <= number <= self.high:
            raise ValueError(
                f"{value!r:.80} is not within {self.text}: check the number and its unit"
            )
        return number


def whole_number(
    text: str, *, where: str, least: int = 1, most: int = MAX_SIZE, word: str | None = None
) -> int:
    """Return the whole number that a text holds in ASCII digits.

    Python's own ``int`` accepts more: ``1_0``, and digits of other scripts.

    Args:
        text: the text, as in "12".
        where: the option, argument or line that the text came from.
        least: the least allowed number.
        most: the greatest allowed number.
        word: a word that the caller accepts in place of a number, for the hint.

    Raises:
        InputError: the text is no whole number, or the number is out of range.
    """
    hint = f"use a whole number from {least} to {most}"
    if word is not None:
        hint += f", or {word}"
    if _WHOLE.fullmatch(text) is None:
        raise InputError(f"{text!r:.40} is no whole number", where=where, hint=hint)
    if len(text) > _MOST_DIGITS or not least <= int(text) <= most:
        raise InputError(f"{text:.40} is out of range", where=where, hint=hint)
    return int(text)


def whole(value: object, *, where: str, least: int = 1, most: int = MAX_SIZE) -> int:
    """Return a whole number that Python code gives as an argument.

    Args:
        value: an int, or one of NumPy's; a float is none, even where nothing is behind the point.
        where: the argument.
        least: the least number that is allowed.
        most: the greatest.

    Raises:
        InputError: it is none, or out of range.
    """
    hint = f"use a whole number from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{value!r:.40} is no whole number", where=where, hint=hint)
    number = int(value)
    if not least <= number <= most:
        raise InputError(f"{number!s:.40} is out of range", where=where, hint=hint)
    return number


def wholes(
    values: object, *, where: str, least: int = 1, most: int = MAX_SIZE
) -> NDArray[np.int64]:
    """Return whole numbers that Python code gives as a sequence or an array.

    Args:
        values: ints in a list, a tuple or an array.
        where: the argument.
        least: the least number that is allowed.
        most: the greatest.

    Returns:
        (numbers,) or the array's own shape.

    Raises:
        InputError: it is no sequence, or an entry is no whole number or out of range.
    """
    if not isinstance(values, np.ndarray):
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise InputError(
                f"{values!r:.40} is no list of whole numbers", where=where, hint="give a list"
            )
        listed = list(cast("Iterable[object]", values))
        # Long lists hold few different numbers, which hash alike only where they are equal.
        alike = {type(value) for value in listed} == {int}
        for value in set(listed) if alike else listed:
            whole(value, where=where, least=least, most=most)
        return np.array(listed, dtype=np.int64)
    numbers = cast("NDArray[Any]", values)
    if numbers.dtype.kind not in "iu":
        raise InputError(
            f"an array of {numbers.dtype} holds no whole numbers",
            where=where,
            hint="give one of integers",
        )
    wrong = (numbers < least) | (numbers > most)
    if wrong.any():
        whole(numbers[wrong].flat[0], where=where, least=least, most=most)
    return numbers.astype(np.int64)


def finite(value: object, *, where: str, least: float, most: float = math.inf) -> float:
    """Return a finite number that Python code gives as an argument.

    Args:
        value: an int or a float.
        where: the argument.
        least: the least number that is allowed.
        most: the greatest.

    Raises:
        InputError: it is none, or out of range.
    """
    hint = f"use a number of at least {least:g}"
    if most < math.inf:
        hint += f" and at most {most:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{value!r:.40} is no number", where=where, hint=hint)
    number = float(value)
    if not (math.isfinite(number) and least <= number <= most):
        raise InputError(f"{number!s:.40} is out of range", where=where, hint=hint)
    return number


def decimal_number(text: str, *, where: str) -> float:
    """Return the finite number that a text holds in ASCII digits, as in "-1.5e3".

    Raises:
        InputError: the text is no finite number.
    """
    value = float(text) if re.fullmatch("-?" + DECIMAL, text) else math.nan
    if not math.isfinite(value):
        raise InputError(f"{text!r:.40} is no number", where=where, hint="use one such as 20")
    return value


Bytes = Annotated[float, Quantity("bytes")]
BytesPerSecond = Annotated[float, Quantity("bytes per second")]
OperationsPerSecond = Annotated[float, Quantity("operations per second")]
Hertz = Annotated[float, Quantity("hertz")]
BitsPerSecond = Annotated[float, Quantity("bits per second")]
Nanoseconds = Annotated[float, Quantity("nanoseconds")]
NanosecondsPerByte = Annotated[float, Quantity("nanoseconds per byte")]
Watts = Annotated[float, Quantity("watts")]
Picojoules = Annotated[float, Quantity("picojoules")]
PicojoulesPerBit = Annotated[float, Quantity("picojoules per bit")]
PicojoulesPerByte = Annotated[float, Quantity("picojoules per byte")]
SquareMillimetres = Annotated[float, Quantity("square millimetres")]
Dollars = Annotated[float, Quantity("US dollars")]
DollarsPerHour = Annotated[float, Quantity("US dollars per hour")]
DollarsPerGigabyte = Annotated[float, Quantity("US dollars per gigabyte")]
