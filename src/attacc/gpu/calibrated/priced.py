"""The price of one kernel in several steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacc.gpu.calibrated.power import Work
from attacc.gpu.costs import Bound, Codes, Estimate, Floats, either
from attacc.hardware.gpu import GpuSpec
from attacc.models.operators import Size
from attacc.models.precision import ElementType
from attacc.units import NS_PER_S


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """Times of one kernel in several steps. A single element stands for all steps.

    Attributes:
        time_ns: times of the kernel alone on the GPU.
        launch_ns: part of each time that starts the kernel.
        bound: resources that limit the times, as codes of `BOUNDS`.
        work: operations and bytes of the kernel.
        estimates: parts of the price that are scaled, assumed, or outside the fitted range, with
            their steps.
    """

    time_ns: Floats
    launch_ns: float
    bound: Codes
    work: Work
    estimates: tuple[Estimate, ...]


def column(size: Size) -> Floats:
    """Return a size as an array with one element for each step."""
    return np.atleast_1d(np.asarray(size, dtype=np.float64))


def bound_of(
    work: Work, time_ns: Floats, launch_ns: float, gpu: GpuSpec, computes: ElementType
) -> Codes:
    """Return what limits kernels: arithmetic or memory, or the launch of short kernels."""
    arithmetic_s = work.flops / gpu.peak_flops_per_s(computes)
    limits = either(
        arithmetic_s > work.dram_bytes / gpu.memory_bytes_per_s, Bound.COMPUTE, Bound.MEMORY
    )
    return either(launch_ns > time_ns / 2, Bound.LATENCY, limits)


def roofline(work: Work, gpu: GpuSpec, computes: ElementType, what: str) -> Priced:
    """Price a kernel that was never measured by the peak rate and bandwidth of a data sheet.

    Args:
        work: operations and bytes of the kernel.
        gpu: the GPU.
        computes: type in which the kernel computes.
        what: the kernel, in words.
    """
    arithmetic_ns = work.flops / gpu.peak_flops_per_s(computes) * NS_PER_S
    traffic_ns = work.dram_bytes / gpu.memory_bytes_per_s * NS_PER_S
    time_ns = np.maximum(arithmetic_ns, traffic_ns)
    note = f"{what} on {gpu.name}: peak rate and bandwidth of its data sheet, never measured"
    bound = bound_of(work, time_ns, 0.0, gpu, computes)
    return Priced(time_ns, 0.0, bound, work, (Estimate.always(note),))
