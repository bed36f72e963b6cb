"""Power of a GPU while a kernel runs: a constant part, arithmetic, and traffic.

The work of a kernel follows from its shape. Every operand crosses the memory interface once, and
tiles of 128 x 256 results read their operands from the second-level cache. Power is the energy of
that work over the kernel's time. Near the limit of the board, the sum of all parts bends to that
limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from attacc.errors import InputError
from attacc.gpu.calibrated.coefficients import PowerSpec
from attacc.gpu.calibrated.kernels import AttentionShapes, CalibratedGpu, GemmShapes
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.records import SeriesType
from attacc.hardware.gpu import GpuSpec
from attacc.models.precision import ElementType

BEND: Final = 12.0
"""How sharply the sum bends to the limit."""
MEASURED: Final = "h200"
"""The calibration whose power was measured. The power of other GPUs is scaled from it."""
RESULT_BYTES: Final = 2
TILE: Final = (128, 256)


@dataclass(frozen=True, slots=True)
class Work:
    """The work of kernels, as arrays with one element for each kernel.

    Attributes:
        flops: operations; a multiply and an add count as two.
        dram_bytes: bytes that cross the memory interface.
        l2_bytes: bytes that the second-level cache delivers.
        attention: whether the kernel is attention, and not a product with weights.
        eight_bits: whether the kernel has 8-bit operands, or an 8-bit cache in attention.
    """

    flops: Floats
    dram_bytes: Floats
    l2_bytes: Floats
    attention: Floats
    eight_bits: Floats


@dataclass(frozen=True, slots=True)
class Power:
    """The parts of the power in watts, as arrays with one element for each kernel.

    Attributes:
        idle_w: power with or without a kernel.
        dynamic_w: power of cores that are switched on, and of their arithmetic.
        memory_w: power of memory and second-level cache.
        total_w: sum of all parts, or the board's limit.
    """

    idle_w: Floats
    dynamic_w: Floats
    memory_w: Floats
    total_w: Floats


def gemm_work(shapes: GemmShapes, element: SeriesType, weights: SeriesType | None = None) -> Work:
    """Return the work of matrix products.

    Args:
        shapes: the products.
        element: element type of the left matrix.
        weights: element type of the right matrix; by default that of the left.
    """
    left, right = element.bytes, (element if weights is None else weights).bytes
    dram = (shapes.m * left + shapes.n * right) * shapes.k + shapes.m * shapes.n * RESULT_BYTES
    l2 = shapes.flops / 2 * (right / TILE[0] + left / TILE[1])
    kind = np.zeros_like(dram)
    return Work(shapes.flops, dram, l2, kind, np.full_like(dram, float(left == 1)))


def attention_work(shapes: AttentionShapes, cache: SeriesType, *, prefill: bool) -> Work:
    """Return the work of decode attention, or of causal prefill attention."""
    queries = shapes.batch * shapes.heads * shapes.head_dim * 2 * RESULT_BYTES
    keys = shapes.earlier + shapes.own if prefill else shapes.length
    cached = 2 * shapes.batch * shapes.kv_heads * shapes.head_dim * keys
    pairs = shapes.length * (shapes.earlier + shapes.own / 2) if prefill else shapes.length
    flops = 4 * shapes.batch * shapes.heads * pairs * shapes.head_dim
    if prefill:
        dram = queries * shapes.length + cached * RESULT_BYTES
    else:
        dram = queries + cached * cache.bytes
    kind = np.ones_like(dram)
    return Work(flops, dram, np.zeros_like(dram), kind, np.full_like(dram, float(cache.bytes == 1)))


def power(spec: PowerSpec, work: Work, time_ns: Floats) -> Power:
    """Return the power of kernels that run back to back.

    Args:
        spec: coefficients of the GPU's power.
        work: work of each kernel.
        time_ns: time of each kernel.
    """
    attention = np.where(work.eight_bits > 0, spec.attention_flop_fp8_pj, spec.attention_flop_pj)
    flop_pj = np.where(work.attention > 0, attention, spec.gemm_flop_pj)
    # A picojoule per nanosecond is a milliwatt.
    dynamic = spec.active_w + flop_pj * work.flops / time_ns * 1e-3
    traffic_pj = spec.dram_pj_per_byte * work.dram_bytes + spec.l2_pj_per_byte * work.l2_bytes
    memory = traffic_pj / time_ns * 1e-3
    idle = np.full_like(memory, spec.idle_w)
    wanted = idle + dynamic + memory
    total = (wanted**-BEND + spec.limit_w**-BEND) ** (-1 / BEND)
    return Power(idle, dynamic, memory, total)


def power_on(gpu: CalibratedGpu) -> tuple[PowerSpec, tuple[str, ...]]:
    """Return the coefficients of a GPU's power, and notes if they were not fitted to this GPU.

    Raises:
        InputError: the GPU's power was not fitted, and its data sheet states no board power.
    """
    own = gpu.calibration.power
    if own is not None and gpu.scaled_from is None:
        return own, ()
    measured = CalibratedGpu.load(MEASURED)
    if measured.calibration.power is None:
        raise InputError("no power was fitted", where=f"calibration {MEASURED}")
    scaled = scaled_power(measured.calibration.power, measured.gpu, gpu.gpu)
    return scaled, (
        f"energy on {gpu.gpu.name}: power scaled from {MEASURED} by board power and peak rate",
    )


def scaled_power(spec: PowerSpec, measured: GpuSpec, gpu: GpuSpec) -> PowerSpec:
    """Return the coefficients of one GPU's power, scaled to the data sheet of another GPU.

    A board is built for the power of its chip. So idle and active power are scaled with the board
    power, and the energy of an operation with board power over peak rate. A byte of memory or of
    the second-level cache is assumed to take the same energy on both GPUs.

    Args:
        spec: power of the GPU that was measured.
        measured: data sheet of the GPU that was measured.
        gpu: data sheet of the other GPU.

    Raises:
        InputError: a data sheet states no board power.
    """
    board = _board_w(gpu) / _board_w(measured)
    operation = board * (measured.peak_flops[ElementType.FP16] / gpu.peak_flops[ElementType.FP16])
    return spec.model_copy(
        update={
            "idle_w": spec.idle_w * board,
            "active_w": spec.active_w * board,
            "limit_w": spec.limit_w * board,
            "gemm_flop_pj": spec.gemm_flop_pj * operation,
            "attention_flop_pj": spec.attention_flop_pj * operation,
            "attention_flop_fp8_pj": spec.attention_flop_fp8_pj * operation,
        }
    )


def _board_w(gpu: GpuSpec) -> float:
    if gpu.board_power_w is None:
        raise InputError(
            f"its power can only be scaled from an {MEASURED}, by a board power that is not stated",
            where=f"GPU {gpu.name}",
            hint='add board_power = "400 W", or what its data sheet states',
        )
    return gpu.board_power_w
