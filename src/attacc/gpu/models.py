"""Which model prices the GPUs: by name, as options and documents call it."""

from __future__ import annotations

from enum import StrEnum

from attacc.gpu.calibrated.costs import CalibratedCostModel
from attacc.gpu.costs import CostModel
from attacc.gpu.published.model import PublishedCostModel


class GpuModel(StrEnum):
    """The models of GPUs."""

    PUBLISHED = "published"
    """The system model released with AttAcc: comparable with the papers."""
    CALIBRATED = "calibrated"
    """Operators fitted to measured kernels: comparable with real GPUs."""


def cost_model(model: GpuModel) -> CostModel:
    """Return the cost model of a name."""
    match model:
        case GpuModel.PUBLISHED:
            return PublishedCostModel()
        case GpuModel.CALIBRATED:
            return CalibratedCostModel()
