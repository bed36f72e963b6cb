"""What all records of the calibrated GPU model share: limits of their fields, origin, library."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacc.documents import Spec
from attacc.models.precision import WeightType

Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A number or a ratio. The limits are far beyond the result of any fit."""
Share = Annotated[float, Field(ge=1e-6, le=1.2)]
"""A share of a figure of the data sheet. It exceeds 1 where clocks are above the stated ones."""
Error = Annotated[float, Field(ge=0, le=1e6)]
"""A mean absolute relative error. At 1, the error is as large as the measured value."""
Extent = Annotated[int, Field(ge=0, le=2**53)]
"""A smallest or a largest measured size."""
Points = Annotated[int, Field(ge=0, le=2**40)]
"""A number of measurements."""
GB: Final = 1e-9
"""Factor from bytes per second to bytes per nanosecond."""


SeriesType = WeightType
"""Type of the operands of a series."""


class Coefficients(Spec):
    """Base class of the coefficient records."""

    def vector(self) -> NDArray[np.float64]:
        """Return the coefficients in the order of the fields; rates are in bytes per nanosecond.

        A coefficient that is absent is zero.
        """
        values: list[float] = []
        for name in type(self).model_fields:
            value: float = getattr(self, name) or 0.0
            values.append(value * GB if name.endswith("_bytes_per_s") else value)
        return np.array(values)


class Fitted(Spec):
    """The origin of a series.

    Attributes:
        points: number of measurements that the series was fitted to.
        error: mean absolute relative error on shapes that were held back, in cross-validation.
    """

    points: Points
    error: Error


class Library(Spec):
    """The library whose kernels were measured.

    Attributes:
        framework: the framework, as in "VLLM".
        version: version of the framework.
    """

    framework: str
    version: str
