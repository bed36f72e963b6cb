"""The models that price GPUs, by the names that options and documents use."""

from __future__ import annotations

from enum import StrEnum

from attacc.gpu.calibrated.costs import CalibratedCostModel
from attacc.gpu.costs import CostModel
from attacc.gpu.published.model import PublishedCostModel


class GpuModel(StrEnum):
    """The names of the models."""

    PUBLISHED = "published"
    """The system model that was released with AttAcc. Its results compare with the papers."""
    CALIBRATED = "calibrated"
    """A model fitted to measured kernels. Its results compare with real GPUs."""


def cost_model(model: GpuModel) -> CostModel:
    """Return the cost model with a name."""
    match model:
        case GpuModel.PUBLISHED:
            return PublishedCostModel()
        case GpuModel.CALIBRATED:
            return CalibratedCostModel()
