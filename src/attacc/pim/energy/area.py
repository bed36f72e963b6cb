"""Area of units that serve several queries with a read, and the share of a die that they take.

Synthesised at 28 nm, in multiples of the area of the paper's unit, which serves one query: 0.91 for
8 queries, 1.55 for 16 and 2.97 for 32, at 667 MHz (a public fork of the released simulator; its
units share trees of adders and have buffers for the queries). Between these numbers the area is
interpolated. Below 8 queries it is taken as that of the paper's unit, which is an upper end. Units
in every bank take (12.03 k + 1.15) of the 121 mm2 of an HBM3 die, where k is that multiple (AttAcc,
ASPLOS 2024, section 7; reference/fair-comparison.md, section 4).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from attacc.hardware.placement import Placement

_QUERIES: Final = (1.0, 7.0, 8.0, 16.0, 32.0)
_AREAS: Final = (1.0, 1.0, 0.91, 1.55, 2.97)
_DIE_MM2: Final = 121.0
_UNITS: Final = 128
"""Units of a die: one for each of its banks."""
_UNITS_MM2: Final = 12.03
_BESIDE_MM2: Final = 1.15
"""What the units need beside them: control, and the way to the buffer die."""


def unit_area(queries: int) -> float | None:
    """Return the area of a unit and its buffers, as a multiple of the paper's unit.

    Args:
        queries: queries that a read serves.

    Returns:
        The multiple; None beyond 32 queries, for which no unit was synthesised.
    """
    if queries > _QUERIES[-1]:
        return None
    return float(np.interp(queries, _QUERIES, _AREAS))


def units_area_mm2(queries: int, units: int) -> float | None:
    """Return the area of the units of a die, one in every bank, with what they need beside them.

    A unit is taken to have the size of a unit of HBM3 at 666 MHz, in AttAcc's process.

    Args:
        queries: queries that a read serves.
        units: units of the die.

    Returns:
        Square millimetres; None beyond 32 queries, for which no unit was synthesised.
    """
    area = unit_area(queries)
    return None if area is None else (_UNITS_MM2 * area + _BESIDE_MM2) * units / _UNITS


def die_share(queries: int, placement: Placement) -> float | None:
    """Return the share of a DRAM die that units in every bank take.

    Args:
        queries: queries that a read serves.
        placement: where the units sit.

    Returns:
        The share; None for units elsewhere, and beyond 32 queries.
    """
    area = units_area_mm2(queries, _UNITS)
    if area is None or placement is not Placement.BANK:
        return None
    return area / _DIE_MM2
