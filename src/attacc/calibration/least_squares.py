"""The one door to SciPy: fitting coefficients by least squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from attacc.errors import InputError
from attacc.gpu.calibrated.kernels import Floats

LINEAR_BEYOND: Final = 0.1
"""Relative error from which on the loss grows linearly: a few shapes on which a library chose a
bad kernel shall not bend the model."""


@dataclass(frozen=True, slots=True)
class Found:
    """A minimum.

    Attributes:
        values: the coefficients.
        cost: what is left of the loss.
    """

    values: Floats
    cost: float


def minimise(
    residuals: Callable[[Floats], Floats],
    start: Floats,
    *,
    low: Floats,
    high: Floats,
    pull: float,
    origin: Floats,
    evaluations: int | None = None,
    step: float | None = None,
) -> Found:
    """Fit positive coefficients; the search is over their logarithms.

    Args:
        residuals: coefficients -> relative errors.
        start: where the search begins.
        low: smallest values allowed.
        high: largest values allowed.
        pull: weight of a coefficient's distance from its origin, against that of one residual:
            next to nothing, unless no residual depends on the coefficient.
        origin: where coefficients are pulled to.
        evaluations: most steps of the search; None for SciPy's default.
        step: relative step of numeric derivatives; None for SciPy's default.

    Raises:
        InputError: SciPy is not installed.
    """
    try:
        from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise InputError(
            "coefficients are fitted by SciPy, which is not installed",
            hint="pip install 'attacc[gpu]'",
        ) from None
    bottom, top, middle = np.log(low), np.log(high), np.log(origin)
    margin = 1e-6 * (top - bottom)

    def everything(logs: Floats) -> Floats:
        return np.concatenate([residuals(np.exp(logs)), pull * (logs - middle)])

    library: Any = optimize
    found = library.least_squares(
        everything,
        np.clip(np.log(start), bottom + margin, top - margin),
        bounds=(bottom, top),
        loss="soft_l1",
        f_scale=LINEAR_BEYOND,
        diff_step=step,
        max_nfev=evaluations,
    )
    return Found(np.exp(np.asarray(found.x, dtype=np.float64)), float(found.cost))
