"""The models that price GPUs, by the names that options and documents use."""

from __future__ import annotations

from enum import StrEnum

from attacc.gpu.calibrated.costs import CalibratedCostModel
from attacc.gpu.costs import CostModel
from attacc.gpu.frameworks import PRODUCTS_FROM, SERVING
from attacc.gpu.published.model import PublishedCostModel


class GpuModel(StrEnum):
    """The names of the models."""

    PUBLISHED = "published"
    """The system model that was released with AttAcc. Its results compare with the papers."""
    CALIBRATED = "calibrated"
    """A model fitted to measured kernels. Its results compare with real GPUs."""


class Engine(StrEnum):
    """Serving engines whose kernels and host were measured."""

    VLLM = "vllm"
    TRTLLM = "trtllm"


def cost_model(model: GpuModel, engine: Engine | None = None) -> CostModel:
    """Return the cost model with a name.

    Args:
        model: the name.
        engine: the engine whose kernels and host the calibrated model prices. None for the
            reference kernels of each GPU with vLLM's host. Where the kernels of an engine were not
            measured on a GPU, the reference kernels of this GPU stand for them.
    """
    if model is GpuModel.PUBLISHED:
        return PublishedCostModel()
    if engine is None:
        return CalibratedCostModel()
    kernels = SERVING.load(engine).kernels
    return CalibratedCostModel(
        framework=kernels,
        serving=engine,
        products_from=PRODUCTS_FROM.get(kernels),
        falls_back=True,
    )
