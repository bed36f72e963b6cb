"""What the operators of this package share: shapes as arrays, and the head of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from attacc.errors import InputError
from attacc.gpu.calibrated.limits import Flags, Floats
from attacc.gpu.calibrated.records import Fitted, Library


@dataclass(frozen=True, slots=True)
class FusedShapes:
    """Sizes of an operator, as arrays with one element for each shape.

    Every field of a subclass is such an array.
    """

    @classmethod
    def of(cls, **sizes: ArrayLike) -> Self:
        """Return shapes from sizes that broadcast to one length.

        Raises:
            InputError: a size is below 0, or is no number.
        """
        arrays = np.broadcast_arrays(*(np.atleast_1d(value) for value in sizes.values()))
        flat = {
            name: np.ascontiguousarray(array, dtype=np.float64).ravel()
            for name, array in zip(sizes, arrays, strict=True)
        }
        for name, array in flat.items():
            if array.size and not array.min() >= 0:
                raise InputError(
                    f"{array.min():g} is no size",
                    where=name,
                    hint="use numbers that are not below 0",
                )
        return cls(**flat)

    def take(self, chosen: NDArray[np.integer] | Flags) -> Self:
        """Return the shapes at some places."""
        return type(self)(**{name: column[chosen] for name, column in self.columns().items()})

    def columns(self) -> dict[str, Floats]:
        """Return the sizes by name."""
        return {column.name: getattr(self, column.name) for column in fields(self)}


def overlapped(sharpness: float, *times: Floats) -> Floats:
    """Return the time of activities that overlap: between their longest and their sum.

    Args:
        sharpness: how well they overlap: 1 not at all, infinite entirely.
        times: time of each activity alone, in any one unit.
    """
    longest = np.maximum(np.maximum.reduce(times), 1e-300)
    total = np.sum([(time / longest) ** sharpness for time in times], axis=0)
    return longest * total ** (1 / sharpness)


class FusedSeries(Library, Fitted):
    """The head of a series of one operator.

    Attributes:
        dtype: element types, as tables of measurements name them.
        kernel: kernel that was measured, where tables tell several apart; empty elsewhere.
    """

    dtype: str = Field(min_length=1, max_length=64)
    kernel: str = Field(default="", max_length=128)


S = TypeVar("S", bound=FusedSeries)


def series_of(
    series: Sequence[S],
    framework: str,
    version: str | None,
    dtype: str,
    kernel: str = "",
    reference: str | None = None,
) -> S | None:
    """Return the series of a library, or else of another version, or else of the reference.

    Args:
        series: the fitted series of an operator.
        framework: framework of the kernels.
        version: version of the framework; None for the newest.
        dtype: element types, as tables of measurements name them.
        kernel: the kernel.
        reference: framework whose series stands for those of others; None for none.

    Returns:
        The series; None where there is none of these element types and this kernel.
    """
    same = [entry for entry in series if (entry.dtype, entry.kernel) == (dtype, kernel)]
    mine = [entry for entry in same if entry.framework == framework]
    exact = [entry for entry in mine if entry.version == version]
    others = [entry for entry in same if entry.framework == reference]
    return next((found[-1] for found in (exact, mine, others) if found), None)
