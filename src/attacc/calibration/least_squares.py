"""Fitting of coefficients by least squares. Only this module imports SciPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from attacc.errors import InputError
from attacc.gpu.calibrated.limits import Floats

LINEAR_BEYOND: Final = 0.1
"""Relative error above which the loss grows linearly. So a few shapes on which a library chose a
bad kernel do not bend the model."""


@dataclass(frozen=True, slots=True)
class Found:
    """A minimum of the loss.

    Attributes:
        values: the coefficients.
        cost: the loss at the minimum.
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
    """Fit positive coefficients. The search is over their logarithms.

    Args:
        residuals: function from coefficients to relative errors.
        start: coefficients at which the search begins.
        low: smallest values allowed.
        high: largest values allowed.
        pull: weight of a coefficient's distance from its origin, where a residual has weight 1. It
            only decides coefficients on which no residual depends.
        origin: values to which coefficients are pulled.
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
