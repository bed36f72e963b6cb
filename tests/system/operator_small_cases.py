"""A few operators of every kind that reach every line of the calibrated model's kernels.

python tests/system/operator_small_cases.py
"""

from __future__ import annotations

import sys

import numpy as np

from attacc.errors import InputError
from attacc.gpu.calibrated.kernels import (
    AttentionShapes,
    CalibratedGpu,
    GemmShapes,
    decode_ns,
    gemm_times,
    gemm_vector,
    matmul_ns,
    prefill_ns,
)
from attacc.gpu.calibrated.machine import machine
from attacc.gpu.calibrated.records import SeriesType
from attacc.models.precision import ElementType

PRODUCTS = GemmShapes.of(
    [1, 7, 64, 100, 300, 512, 4096],
    [64, 4096, 2048, 96, 8192, 64, 8192],
    [64, 65536, 128] + 4 * [4096],
)
DECODE = AttentionShapes.of(
    [1, 2, 1000, 16], [8, 32, 8, 128], [8, 8, 1, 1], [64, 128, 192, 256], [1, 16384, 300, 4096]
)
PREFILL = AttentionShapes.of(
    [1, 2, 32, 1], [8, 32, 8, 128], [8, 8, 1, 1], [64, 96, 192, 256], [1, 2048, 130, 8192]
)


def main() -> None:
    for name in ("a100", "h100", "b200"):
        gpu = CalibratedGpu.load(name)
        calibration = gpu.calibration
        for series in calibration.gemm:
            show(name, series.dtype, matmul_ns(series, gpu.gpu, PRODUCTS))
        for decode in calibration.decode:
            show(name, decode.dtype, decode_ns(decode, gpu.gpu, DECODE))
        for prefill in calibration.prefill:
            show(name, prefill.dtype, prefill_ns(prefill, None, gpu.gpu, PREFILL))
    without_a_kernel()


def without_a_kernel() -> None:
    """Print what is said of shapes that a library has nothing for."""
    gpu = CalibratedGpu.load("a100")
    series = gpu.gemm(ElementType.BF16)
    vector = gemm_vector(series.coefficients, None)
    few = np.array([[0.0, 16.0, 0.0, 1024.0, 16.0, 16.0, 1.0, 1.0]])
    grouped = gpu.decode(ElementType.BF16)
    grouped = grouped.model_copy(update={"kernels": grouped.kernels[1:]})
    try:
        gemm_times(PRODUCTS, machine(gpu.gpu, series.dtype), vector, few)
    except InputError as error:
        sys.stdout.write(f"{error}\n")
    try:
        decode_ns(grouped, gpu.gpu, DECODE)
    except InputError as error:
        sys.stdout.write(f"{error}\n")


def show(name: str, dtype: SeriesType, times: np.ndarray) -> None:
    # Powers differ in their last digits.
    sys.stdout.write(f"{name} {dtype} " + " ".join(f"{time:.9g}" for time in times) + "\n")


if __name__ == "__main__":
    main()
