"""Fitting the parts of a GPU's power to kernels whose power was measured.

The meter averages over tens of milliseconds, including gaps between kernels and kernels that ran
before. So only kernels of at least `SHORTEST_NS` count. Idle power is the power of the shortest
products. The limit is the power of the longest products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacc.calibration.least_squares import minimise
from attacc.calibration.series import MeasuredOperator, Measurements
from attacc.gpu.calibrated.coefficients import PowerSpec
from attacc.gpu.calibrated.kernels import AttentionShapes, GemmShapes
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.power import Work, attention_work, gemm_work, power

SHORTEST_NS: Final = 100_000.0
IDLE_BELOW_NS: Final = 3_000.0
LIMIT_ABOVE_NS: Final = 1_000_000.0
PULL: Final = 1.0
STARTS: Final = (180.0, 0.5, 0.3, 0.25, 35.0, 5.0)
"""Values at which the search begins: active power in watts, then picojoules per operation (product,
attention, attention over 8 bits) and per byte (memory, second-level cache). Measurements hardly
determine the last value, so it stays near its start."""


def fit_power(tables: Sequence[Measurements], *, folds: int = 3) -> PowerSpec | None:
    """Fit the parts of the power of a GPU.

    Args:
        tables: measurements; those without power are left out.
        folds: parts of the cross-validation that gives the stated errors.

    Returns:
        The parts of the power; None where no product's power was measured.
    """
    metered = [data.take(np.isfinite(data.power_w)) for data in tables]
    metered = [data for data in metered if data.count]
    products = [data for data in metered if data.key.operator is MeasuredOperator.GEMM]
    if not products:
        return None
    time = np.concatenate([data.time_ns for data in products])
    drawn = np.concatenate([data.power_w for data in products])
    if not (time < IDLE_BELOW_NS).any() or not (time > LIMIT_ABOVE_NS).any():
        return None
    idle = float(np.quantile(drawn[time < IDLE_BELOW_NS], 0.05))
    limit = float(np.median(np.sort(drawn[time > LIMIT_ABOVE_NS])[-200:]))
    work, time, drawn = _long(metered)
    rows = np.arange(time.size)
    order = np.random.default_rng(0).permutation(rows)
    held_back = np.empty_like(drawn)
    for fold in range(folds):
        inside, outside = order[fold::folds], np.delete(order, np.s_[fold::folds])
        seen = _fitted(work, time, drawn, outside, idle, limit)
        held_back[inside] = power(seen, _some(work, inside), time[inside]).total_w
    spec = _fitted(work, time, drawn, rows, idle, limit)
    if not folds:
        held_back = power(spec, work, time).total_w
    error = np.abs(held_back / drawn - 1)
    attention = work.attention > 0
    return spec.model_copy(
        update={
            "gemm_error": float(error[~attention].mean()),
            "attention_error": float(error[attention].mean()) if attention.any() else 0.0,
        }
    )


def _long(metered: Sequence[Measurements]) -> tuple[Work, Floats, Floats]:
    parts: list[Work] = []
    times: list[Floats] = []
    drawn: list[Floats] = []
    for whole in metered:
        data = whole.take(whole.time_ns >= SHORTEST_NS)
        match data.shapes:
            case GemmShapes() as shapes:
                parts.append(gemm_work(shapes, data.key.dtype))
            case AttentionShapes() as shapes:
                prefill = data.key.operator is MeasuredOperator.PREFILL
                parts.append(attention_work(shapes, data.key.dtype, prefill=prefill))
            case _:
                continue
        times.append(data.time_ns)
        drawn.append(data.power_w)
    work = Work(
        flops=np.concatenate([part.flops for part in parts]),
        dram_bytes=np.concatenate([part.dram_bytes for part in parts]),
        l2_bytes=np.concatenate([part.l2_bytes for part in parts]),
        attention=np.concatenate([part.attention for part in parts]),
        eight_bits=np.concatenate([part.eight_bits for part in parts]),
    )
    return work, np.concatenate(times), np.concatenate(drawn)


def _some(work: Work, rows: NDArray[np.intp]) -> Work:
    return Work(
        work.flops[rows],
        work.dram_bytes[rows],
        work.l2_bytes[rows],
        work.attention[rows],
        work.eight_bits[rows],
    )


def _spec(values: Floats, idle_w: float, limit_w: float) -> PowerSpec:
    active, product, attention, attention_fp8, dram, l2 = (float(value) for value in values)
    return PowerSpec(
        idle_w=idle_w,
        active_w=active,
        limit_w=limit_w,
        gemm_flop_pj=product,
        attention_flop_pj=attention,
        attention_flop_fp8_pj=attention_fp8,
        dram_pj_per_byte=dram,
        l2_pj_per_byte=l2,
        gemm_error=0.0,
        attention_error=0.0,
    )


def _fitted(
    work: Work,
    time_ns: Floats,
    drawn_w: Floats,
    rows: NDArray[np.intp],
    idle_w: float,
    limit_w: float,
) -> PowerSpec:
    some, time, drawn = _some(work, rows), time_ns[rows], drawn_w[rows]

    def residuals(values: Floats) -> Floats:
        return power(_spec(values, idle_w, limit_w), some, time).total_w / drawn - 1

    origin = np.array(STARTS)
    found = minimise(residuals, origin, low=origin / 20, high=origin * 20, pull=PULL, origin=origin)
    return _spec(found.values, idle_w, limit_w)
