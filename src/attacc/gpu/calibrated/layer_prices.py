"""Prices of experts, of recurrent states with their convolutions, and of a library's own sums.

Whatever is scaled, or was measured with other sizes, types or kernels, is named in the price. What
was not measured on a GPU at all takes the peak rate and the bandwidth of its data sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from attacc.gpu.calibrated.fused.custom_all_reduce import (
    SumShapes,
    custom_all_reduce_limits,
    custom_all_reduce_ns,
    runs_own_kernel,
)
from attacc.gpu.calibrated.fused.moe import (
    TYPES,
    ExpertMachine,
    ExpertShapes,
    ExpertsSeries,
    ExpertTypes,
    expert_times,
    experts_limits,
    independent_visits,
    rule_of,
)
from attacc.gpu.calibrated.fused.state import (
    STATE_BYTES,
    StateRole,
    StateSeries,
    StateShapes,
    state_limits,
    state_ns,
)
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.gpu.calibrated.limits import inside
from attacc.gpu.calibrated.machine import peak_flops_per_s
from attacc.gpu.calibrated.power import TILE, Work
from attacc.gpu.calibrated.priced import Priced, column, roofline
from attacc.gpu.costs import BUSIEST, Bound, Codes, Estimate, Floats, either, over_distinct
from attacc.models.operators import AllReduce, Convolution, Experts, Phase, StateKind, StateUpdate
from attacc.models.precision import BlockFormat, ElementType
from attacc.units import NS_PER_S

BF16: Final = ElementType.BF16
SIXTEEN_BITS: Final = (ElementType.FP16, ElementType.BF16)
AS_BF16: Final = "as bf16 with fewer bytes, never measured"
MEASURED_DIM: Final = 128.0
"""Elements of a key and of a value of the measured states."""
GRAPH: Final = "vLLM graph"
EAGER: Final = "vLLM eager"
DISPATCHED: Final = "experts of tokens that travel to them: rows of own visits, never measured"
_FOUR_BITS: Final = (ElementType.INT4, BlockFormat.INT4_G128, BlockFormat.INT4_G32)


def _scaled(gpu: CalibratedGpu) -> list[Estimate]:
    if gpu.scaled_from is None:
        return []
    return [Estimate.always(f"operators on {gpu.gpu.name}: scaled from {gpu.scaled_from}")]


def _types(op: Experts) -> tuple[str | None, ExpertTypes]:
    """Return the name that tables give to an operator's types, if they have one, and the types."""
    weights, activation = op.weights, op.activation
    wide = activation in SIXTEEN_BITS
    if weights in SIXTEEN_BITS:
        name = "bfloat16"
    elif weights in _FOUR_BITS:
        name = "int4_wo"
    elif weights is BlockFormat.MXFP4:
        name = "w4a16_mxfp4" if wide else "w4a8_mxfp4_mxfp8"
    else:
        name = str(weights) if str(weights) in TYPES else None
    if name is not None:
        return name, replace(TYPES[name], weights=BF16 if weights in SIXTEEN_BITS else weights)
    return None, ExpertTypes(BF16, weights, BF16)


def _nearest_experts(
    series: Sequence[ExpertsSeries], wanted: str, ranks: float, shapes: ExpertShapes
) -> ExpertsSeries:
    """Return the series of the framework, of as many GPUs, in range, with the most points."""

    def rank(entry: ExpertsSeries) -> tuple[bool, bool, float, int]:
        low, high = entry.range.ranks
        covered = inside(experts_limits(entry, shapes)).mean()
        return entry.framework == wanted, low <= ranks <= high, float(covered), entry.points

    return max(series, key=rank)


def experts(gpu: CalibratedGpu, framework: str | None, op: Experts) -> Priced:
    """Price the experts of one layer.

    Visited experts and started tiles are expectations over tokens that choose independently. The
    part of the price that starts kernels counts as none, since it cannot be told from choosing and
    sorting.
    """
    wanted = framework or gpu.calibration.reference
    name, types = _types(op)
    estimates = _scaled(gpu)
    found = [entry for entry in gpu.calibration.moe if entry.dtype == name]
    if not found:
        found = [entry for entry in gpu.calibration.moe if entry.dtype == "bfloat16"]
        types = ExpertTypes(BF16, op.weights, BF16)
        estimates.append(Estimate.always(f"experts with {op.weights} weights: {AS_BF16}"))

    def spread(tokens: Floats, load: Floats, present: Floats) -> ExpertShapes:
        return independent_visits(
            tokens=tokens,
            load=load,
            present=present,
            hidden=op.hidden,
            width=op.width,
            per_token=op.per_token,
            experts=op.experts,
            here=op.here,
            matrices=op.matrices,
            skew=op.skew,
        )

    sizes = np.broadcast_arrays(column(op.tokens), column(op.load), column(op.present))
    notes = [Estimate(BUSIEST, sizes[1] > 1)]
    if op.dispatched:
        notes.append(Estimate.always(DISPATCHED))
    if not found:
        work = _experts_work(spread(*sizes), types)
        priced = roofline(work, gpu.gpu, BF16, f"experts with {op.weights} weights")
        return replace(priced, estimates=(*priced.estimates, *notes))
    estimates += notes
    first = spread(*(size[:1] for size in sizes))
    best = _nearest_experts(found, wanted, op.experts / op.here, first)
    if best.framework != wanted:
        what = f"experts on {gpu.gpu.name}: kernels of {best.framework}"
        estimates.append(Estimate.always(what))
    at = ExpertMachine.of(gpu.gpu, types)

    def timed(sizes: tuple[Floats, ...]) -> tuple[Floats, ...]:
        shapes = spread(*sizes)
        time_ns, busy_ns = expert_times(shapes, at, best.coefficients, rule_of(best))
        work = _experts_work(shapes, types)
        outside = (~inside(experts_limits(best, shapes))).astype(np.float64)
        return time_ns, busy_ns, outside, work.flops, work.dram_bytes, work.l2_bytes

    time_ns, busy_ns, outside, flops, dram, l2 = over_distinct(timed, sizes)
    what = f"experts on {gpu.gpu.name}: shapes outside those fitted"
    estimates.append(Estimate(what, outside > 0))
    eight = np.full_like(flops, float(types.activation.bytes == 1))
    work = Work(flops, dram, l2, np.zeros_like(flops), eight)
    bound = _bound(busy_ns > time_ns / 2, best.coefficients.launch_ns, time_ns)
    return Priced(time_ns, 0.0, bound, work, tuple(estimates))


def _bound(computes: np.ndarray, fixed_ns: float, time_ns: Floats) -> Codes:
    limits = either(computes, Bound.COMPUTE, Bound.MEMORY)
    return either(fixed_ns > time_ns / 2, Bound.LATENCY, limits)


def _experts_work(shapes: ExpertShapes, types: ExpertTypes) -> Work:
    """Return the work of experts: visited weights, and rows in and out of both products."""
    left, right = types.activation.bytes, types.weights.bytes
    weights = shapes.visited * shapes.matrices * shapes.hidden * shapes.width * right
    rows = shapes.visits * (2 * shapes.hidden + (shapes.matrices + 1) * shapes.width) * 2.0
    l2 = shapes.flops / 2 * (right / TILE[0] + left / TILE[1])
    eight = np.full_like(weights, float(left == 1))
    return Work(shapes.flops, weights + rows, l2, np.zeros_like(weights), eight)


def _kernel_of(
    gpu: CalibratedGpu,
    framework: str | None,
    series: Sequence[StateSeries],
    role: StateRole,
    what: str,
) -> tuple[StateSeries, list[Estimate]] | None:
    """Return the series of a role, first of the framework; None where there is none at all."""
    wanted = (framework or gpu.calibration.reference).upper()
    found = [entry for entry in series if entry.role is role]
    if not found:
        return None
    mine = [entry for entry in found if entry.framework.upper() == wanted]
    estimates = _scaled(gpu)
    if not mine:
        kernels = f"{what} on {gpu.gpu.name}: kernels of {found[-1].framework}"
        estimates.append(Estimate.always(kernels))
    return (mine or found)[-1], estimates


def _priced(
    gpu: CalibratedGpu,
    found: tuple[StateSeries, list[Estimate]],
    shapes: StateShapes,
    work: Work,
    time_ns: Floats,
    what: str,
) -> Priced:
    series, estimates = found
    outside = ~inside(state_limits(series, shapes))
    note = Estimate(f"{what} on {gpu.gpu.name}: shapes outside those fitted", outside)
    parts = series.stream or series.chunks
    launch_ns = 0.0 if parts is None else parts.launch_ns
    arithmetic_ns = work.flops / peak_flops_per_s(gpu.gpu, BF16) * NS_PER_S
    bound = _bound(arithmetic_ns > time_ns / 2, launch_ns, time_ns)
    return Priced(time_ns, launch_ns, bound, work, (*estimates, note))


def _traffic(flops: Floats, dram_bytes: Floats) -> Work:
    none = np.zeros_like(dram_bytes)
    return Work(np.broadcast_to(flops, dram_bytes.shape), dram_bytes, none, none, none)


def state(gpu: CalibratedGpu, framework: str | None, op: StateUpdate) -> Priced:
    """Price a recurrent state.

    Mamba-2's recurrence was not measured. It takes the kernels of gated delta net at its own bytes,
    and its heads' work in proportion to the numbers of a head's state.
    """
    mamba = op.kind is StateKind.MAMBA2
    name = "recurrence of Mamba-2" if mamba else "gated delta net"
    what = f"{op.phase} of {name}"
    role = StateRole.RECURRENT if op.phase is Phase.DECODE else StateRole.CHUNKS
    work = _traffic(column(op.flops), column(op.bytes))
    found = _kernel_of(gpu, framework, gpu.calibration.gated_delta_net, role, what)
    if found is None:
        return roofline(work, gpu.gpu, BF16, what)
    series, estimates = found
    shapes = StateShapes.of(
        batch=column(op.batch),
        queries=column(op.queries),
        channels=2 * op.key_heads * op.key_dim + op.heads * op.value_dim,
        reach=1.0,
        heads=op.heads,
        key_heads=op.key_heads,
        key_dim=op.key_dim,
        value_dim=op.value_dim,
    )
    size = op.key_dim * op.value_dim / MEASURED_DIM**2
    if series.chunks is not None and size != 1:
        of = series.chunks
        slower = {"block_ns": size * of.block_ns, "chunk_ns": size * of.chunk_ns}
        series = series.model_copy(update={"chunks": of.model_copy(update=slower)})
    if mamba:
        note = f"{what}: by gated delta net's kernels at its own bytes, never measured"
        estimates.append(Estimate.always(note))
    elif size != 1:
        note = f"{what}: heads of other sizes, by the numbers of a state, never measured"
        estimates.append(Estimate.always(note))
    if op.state_bytes != STATE_BYTES:
        note = f"{what}: states of {op.state_bytes:g} bytes a number, never measured"
        estimates.append(Estimate.always(note))
    time_ns = state_ns(series, gpu.gpu, shapes, op.state_bytes)
    return _priced(gpu, (series, estimates), shapes, work, time_ns, what)


def convolution(gpu: CalibratedGpu, framework: str | None, op: Convolution) -> Priced:
    """Price the short convolution before a recurrent state."""
    decodes = op.phase is Phase.DECODE
    role = StateRole.CONVOLUTION_DECODE if decodes else StateRole.CONVOLUTION_PREFILL
    work = _traffic(column(op.flops), column(op.bytes))
    series = (*gpu.calibration.mamba2, *gpu.calibration.gated_delta_net)
    what = f"{op.phase} of short convolutions"
    found = _kernel_of(gpu, framework, series, role, what)
    if found is None:
        return roofline(work, gpu.gpu, BF16, what)
    shapes = StateShapes.of(
        batch=column(op.batch),
        queries=column(op.queries),
        channels=op.channels,
        reach=op.width,
        heads=1.0,
        key_heads=1.0,
        key_dim=1.0,
        value_dim=1.0,
    )
    return _priced(gpu, found, shapes, work, state_ns(found[0], gpu.gpu, shapes), what)


def custom_all_reduce(
    gpu: CalibratedGpu, op: AllReduce, gpus: int, by_nccl: Callable[[], Priced], *, in_graph: bool
) -> Priced:
    """Price a sum over GPUs by vLLM's own kernel where it runs it, and by NCCL elsewhere.

    Args:
        gpu: the GPU, with the links among GPUs that were measured.
        op: the sum.
        gpus: number of GPUs.
        by_nccl: returns NCCL's price.
        in_graph: whether the kernel runs in a graph, and is not started by the host.
    """
    wanted = GRAPH if in_graph else EAGER
    found = [entry for entry in gpu.calibration.custom_all_reduce if entry.framework == wanted]
    nccl = by_nccl()
    if not found or gpus not in found[-1].gpus:
        return nccl
    series = found[-1]
    message = column(1.0 * op.m * op.n * op.element.bytes)
    shapes = SumShapes.of(gpus=float(gpus), message_bytes=message)
    own = inside(custom_all_reduce_limits(series, shapes)) & runs_own_kernel(series, shapes)
    of = series.coefficients
    waits = (gpus - 1) * message / of.read_bytes_per_s * NS_PER_S > of.start_ns
    time_ns = np.where(own, custom_all_reduce_ns(series, shapes), nccl.time_ns)
    bound = np.where(own, either(waits, Bound.LINK, Bound.LATENCY), nccl.bound).astype(np.int8)
    estimates = [replace(entry, holds=entry.holds & ~own) for entry in nccl.estimates]
    noted = [Estimate(entry.what, own) for entry in _scaled(gpu)]
    return Priced(time_ns, 0.0, bound, nccl.work, (*estimates, *noted))
