"""The facts about a GPU that the kernels need."""

from __future__ import annotations

import numpy as np

from attacc.errors import InputError
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.records import GB, SeriesType
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import BlockFormat


def peak_flops_per_s(gpu: GpuSpec, left: SeriesType, right: SeriesType | None = None) -> float:
    """Return the peak rate of a product of operands of these types.

    Raises:
        InputError: the data sheet states no rate of 4-bit floating point, which is asked for.
    """
    kinds = [left] if right is None else [left, right]
    if all(kind is BlockFormat.NVFP4 for kind in kinds):
        if gpu.fp4_flops is None:
            raise InputError(
                "its data sheet states no rate of 4-bit floating point",
                where=f"GPU {gpu.name}",
                hint='add fp4_peak = "9000 TFLOPS", or what its data sheet states',
            )
        return gpu.fp4_flops
    return gpu.peak_flops_per_s(*kinds)


def machine(gpu: GpuSpec, left: SeriesType, right: SeriesType | None = None) -> Floats:
    """Return the facts about a GPU that the kernels need, as an array.

    Args:
        gpu: the GPU.
        left: element type of a product's left matrix, or of a cache.
        right: element type of a product's right matrix, or the type in which attention computes; by
            default that of ``left``. Both types together decide the peak rate.
    """
    other = left if right is None else right
    return np.array(
        [
            left.bytes,
            gpu.cores,
            peak_flops_per_s(gpu, left, other) * GB,
            gpu.memory_bytes_per_s * GB,
            gpu.l2_bytes,
            other.bytes,
        ]
    )
