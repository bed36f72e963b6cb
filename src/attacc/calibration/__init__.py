"""Public: the cost models of GPUs, fitted to measurements and checked against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attacc.calibration.from_files import (
        Accuracies,
        check_measured,
        extrapolate_measured,
        fit_measured,
    )

__all__ = ["Accuracies", "check_measured", "extrapolate_measured", "fit_measured"]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used, because modules of this room import each other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from attacc.calibration import from_files

    return getattr(from_files, name)
