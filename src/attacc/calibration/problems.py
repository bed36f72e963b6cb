"""Fits of coefficients to measured times, with cross-validation.

The fit is least squares of the logarithm of predicted over measured time. Beyond a tenth the loss
grows linearly, so that a few shapes on which a library chose a bad kernel do not bend the model.
The error that a document states comes from cross-validation: shapes are divided into folds, and
each fold is predicted by a fit to the other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from attacc.calibration.least_squares import minimise
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.records import GB, Coefficients

Indices = NDArray[np.intp]
FOLDS: Final = 3
ROWS_OF_A_FIT: Final = 3000
"""Most measurements of one fit. They determine some twenty coefficients; more only take time."""
EVALUATIONS: Final = 40
STAIR: Final = 3e-3
"""Relative step of numeric derivatives. It is large because tiles and rounds make the model a
staircase."""
PULL: Final = 0.05
"""Weight of a coefficient's distance from its start, where a shape has weight 1. It only decides
coefficients on which no shape depends."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A coefficient to be fitted.

    Attributes:
        start: value at which the search begins.
        low: smallest value allowed.
        high: largest value allowed.
    """

    start: float
    low: float
    high: float


def around(start: float, factor: float = 12.0) -> Unknown:
    """Return an unknown that is at most a factor from its start."""
    return Unknown(start, start / factor, start * factor)


@dataclass(frozen=True, slots=True)
class Problem:
    """A fit to be made: unknown coefficients, measured times and a model.

    Attributes:
        unknowns: the coefficients.
        time_ns: measured times in nanoseconds.
        predict: (coefficients, rows) -> predicted times of these rows, in nanoseconds.
        starts: sets of start values. The fit from each is made, and the best fit counts.
    """

    unknowns: Sequence[Unknown]
    time_ns: Floats
    predict: Callable[[Floats, Indices], Floats]
    starts: Sequence[Floats]

    @property
    def count(self) -> int:
        """Number of measurements."""
        return self.time_ns.size


def least_squares(problem: Problem, rows: Indices, starts: Sequence[Floats]) -> Floats:
    """Return the coefficients that fit some of the rows best.

    Args:
        problem: the problem.
        rows: places of the measurements to fit.
        starts: sets of start values. The best of the fits counts.

    Raises:
        InputError: SciPy is not installed.
    """
    measured = problem.time_ns[rows]
    fits = [
        minimise(
            lambda values: np.log(problem.predict(values, rows) / measured),
            start,
            low=np.array([unknown.low for unknown in problem.unknowns]),
            high=np.array([unknown.high for unknown in problem.unknowns]),
            pull=PULL,
            origin=np.array([unknown.start for unknown in problem.unknowns]),
            evaluations=EVALUATIONS,
            step=STAIR,
        )
        for start in starts
    ]
    return min(fits, key=lambda found: found.cost).values


@dataclass(frozen=True, slots=True)
class Fit:
    """The result of a fit.

    Attributes:
        values: the coefficients, fitted to all rows, or to `ROWS_OF_A_FIT` rows of them.
        held_back: for each row, its time as predicted by a fit that did not see the row.
    """

    values: Floats
    held_back: Floats


def fit(problem: Problem, *, folds: int = FOLDS, seed: int = 0) -> Fit:
    """Fit all rows, and predict every row by a fit to other rows.

    Args:
        problem: the problem.
        folds: parts of the cross-validation; 0 for none.
        seed: seed of the division into folds.
    """
    order = np.random.default_rng(seed).permutation(problem.count)
    everything = np.arange(problem.count)
    found = [least_squares(problem, order[:ROWS_OF_A_FIT], problem.starts)]
    held_back = problem.predict(found[0], everything)
    for fold in range(folds):
        inside, outside = order[fold::folds], np.delete(order, np.s_[fold::folds])
        # The fit to all rows has seen this fold. So the search begins at the problem's own starts.
        seen = least_squares(problem, outside[:ROWS_OF_A_FIT], problem.starts)
        held_back[inside] = problem.predict(seen, inside)
        found.append(seen)
    # The loss has several minima. A fold may have found a deeper one than the fit to all rows.
    best = min(
        found, key=lambda values: error(problem.predict(values, everything), problem.time_ns)
    )
    if best is not found[0]:
        best = least_squares(problem, order[:ROWS_OF_A_FIT], [best])
    return Fit(best, held_back)


C = TypeVar("C", bound=Coefficients)


def record(kind: type[C], values: Floats) -> C:
    """Return the record of a vector of coefficients, as the inverse of the record's ``vector``."""
    named = {
        name: float(value) / (GB if name.endswith("_bytes_per_s") else 1.0)
        for name, value in zip(kind.model_fields, values, strict=True)
        if value != 0.0 or kind.model_fields[name].is_required()
    }
    return kind.model_validate(named)


def extent(values: Floats) -> tuple[int, int]:
    """Return the whole numbers around all values."""
    return int(np.floor(values.min())), int(np.ceil(values.max()))


def error(predicted: Floats, measured: Floats) -> float:
    """Return the mean absolute relative error, where there is a prediction."""
    known = np.isfinite(predicted)
    return float(np.mean(np.abs(predicted[known] / measured[known] - 1)))
