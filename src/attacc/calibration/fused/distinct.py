"""Fits to distinct shapes. What was measured twice is one shape, in one fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from attacc.calibration.problems import Fit, Indices, Problem, Unknown, fit
from attacc.gpu.calibrated.fused.base import FusedShapes
from attacc.gpu.calibrated.limits import Floats


def fit_distinct(
    shapes: FusedShapes,
    time_ns: Floats,
    unknowns: Sequence[Unknown | None],
    predict: Callable[[FusedShapes, Floats], Floats],
    starts: Sequence[dict[int, float]],
    *,
    folds: int,
) -> Fit:
    """Fit coefficients to shapes, each with the mean of its measured times.

    Args:
        shapes: the measured shapes, some of them several times.
        time_ns: measured times in nanoseconds.
        unknowns: the coefficients; None for one that a kernel does not have, which is zero.
        predict: (shapes, coefficients) -> times in nanoseconds.
        starts: for each start of the search, place of a coefficient -> start value. The other
            coefficients start at their own.
        folds: parts of the cross-validation; 0 for none.

    Returns:
        The coefficients, and for each measurement its time as predicted by a fit that did not see
        its shape.
    """
    sizes = np.stack(list(shapes.columns().values()), axis=1)
    _, first, place = np.unique(sizes, axis=0, return_index=True, return_inverse=True)
    place = place.ravel()
    mean = np.bincount(place, weights=time_ns) / np.bincount(place)
    some = shapes.take(first)
    present = np.array([unknown is not None for unknown in unknowns])
    known = [unknown for unknown in unknowns if unknown is not None]

    def vector(values: Floats) -> Floats:
        everything = np.zeros(present.size)
        everything[present] = values
        return everything

    def predicted(values: Floats, rows: Indices) -> Floats:
        return predict(some.take(rows), vector(values))

    begin = vector(np.array([unknown.start for unknown in known]))
    tried: list[Floats] = []
    for changes in starts:
        start = begin.copy()
        start[list(changes)] = list(changes.values())
        tried.append(start[present])
    found = fit(Problem(known, mean, predicted, tried), folds=folds)
    return Fit(vector(found.values), found.held_back[place])
