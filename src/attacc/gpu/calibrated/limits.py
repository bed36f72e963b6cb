"""The range of shapes that a series is stated for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]
Limits = list[tuple[str, Flags]]
"""For each size: its range in words, and for each shape whether the size is within the range."""


def inside(limits: Limits) -> Flags:
    """Return which shapes are within the range of a series in every size."""
    return np.logical_and.reduce([keeps for _, keeps in limits])


def limit(name: str, values: Floats, limits: tuple[int, int]) -> tuple[str, Flags]:
    """Return a range in words, and which values are within it."""
    return f"{name} is {limits[0]:,} to {limits[1]:,}", within(values, limits)


def within(values: Floats, limits: tuple[int, int]) -> Flags:
    """Return which values are within a range."""
    return (values >= limits[0]) & (values <= limits[1])
