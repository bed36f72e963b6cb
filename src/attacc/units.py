"""Physical quantities: every conversion of the project is in this file.

Inside the project a quantity is a plain number in the base unit that its name carries
(``latency_ns``, ``bandwidth_bytes_per_s``, ``energy_pj``). In a document that people write it is
text with a unit (``"3352 GB/s"``, ``"350 ns"``), so that a misread unit is an error and not a
factor of 1000. Prefixes k, M, G, T are powers of 1000; Ki, Mi, Gi, Ti are powers of 1024.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final

from pydantic import BeforeValidator, ValidationInfo

from attacc.errors import nearest_hint

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3
BITS_PER_BYTE: Final = 8
NS_PER_S: Final = 1e9
MS_PER_S: Final = 1e3
NS_PER_MS: Final = NS_PER_S / MS_PER_S
PJ_PER_J: Final = 1e12

_DECIMAL: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
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
}
"""Dimension -> unit as written -> factor to the base unit that names the dimension."""

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
            f"{dimension} must be text with a unit, as in {_example(dimension)!r}, not {value!r}"
        )
    match = _QUANTITY.fullmatch(value)
    if match is None or not match[2]:
        raise ValueError(
            f"{value!r} is not a number and a unit of {dimension}, as in {_example(dimension)!r}"
        )
    if match[2] not in units:
        raise ValueError(
            f"unknown unit {match[2]!r} for {dimension}: {nearest_hint(match[2], units)}"
        )
    number = float(match[1]) * units[match[2]]
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is too large a number of {dimension}")
    return number


def _example(dimension: str) -> str:
    return f"1.5 {list(UNITS[dimension])[1 if len(UNITS[dimension]) > 1 else 0]}"


def _positive(dimension: str) -> BeforeValidator:
    def validate(value: object, info: ValidationInfo) -> float:
        # Python code gives numbers in base units; documents (validated with a context) give text.
        if isinstance(value, (int, float)) and info.context is None:
            number = float(value)
        else:
            number = parse_quantity(value, dimension)
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{value!r} must be a positive number of {dimension}")
        return number

    return BeforeValidator(validate)


Bytes = Annotated[float, _positive("bytes")]
BytesPerSecond = Annotated[float, _positive("bytes per second")]
OperationsPerSecond = Annotated[float, _positive("operations per second")]
Hertz = Annotated[float, _positive("hertz")]
BitsPerSecond = Annotated[float, _positive("bits per second")]
Nanoseconds = Annotated[float, _positive("nanoseconds")]
NanosecondsPerByte = Annotated[float, _positive("nanoseconds per byte")]
Watts = Annotated[float, _positive("watts")]
Picojoules = Annotated[float, _positive("picojoules")]
PicojoulesPerBit = Annotated[float, _positive("picojoules per bit")]
PicojoulesPerByte = Annotated[float, _positive("picojoules per byte")]
SquareMillimetres = Annotated[float, _positive("square millimetres")]
