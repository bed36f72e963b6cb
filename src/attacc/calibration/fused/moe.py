"""Measured experts of a layer, and how the tables' tokens were spread over experts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from attacc.calibration.fused.custom_all_reduce import generation
from attacc.calibration.fused.kind import MeasuredKind, plain_labels
from attacc.calibration.problems import (
    Indices,
    Problem,
    Unknown,
    around,
    error,
    extent,
    fit,
    record,
)
from attacc.calibration.series import MeasuredOperator, Measurements, SeriesKey
from attacc.calibration.tables import Allowed, Reasons, Table
from attacc.gpu.calibrated.fused.moe import (
    ROWS,
    TYPES,
    ExpertMachine,
    ExpertRule,
    ExpertsCoefficients,
    ExpertShapes,
    ExpertsRange,
    ExpertsSeries,
    ExpertTiles,
    expert_times,
    experts_limits,
    experts_ns,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.hardware.gpu import GpuSpec

if TYPE_CHECKING:
    import polars as pl

SKEWS: Final = {"balanced": 0.0, "power_law_1.01": 1.01, "power_law_1.2": 1.2}
"""Text of the column distribution -> exponent of the density from which loads were drawn."""
DRAWS: Final = 16
"""Draws of loads whose mean the model takes. A table holds one draw."""
FEW: Final = (0.01, 2.0)
"""Limits of the loads before they are scaled, where there are no more visits than experts."""
MOST: Final = 0.8
"""The same where there are more: from 1 to this share of the tokens."""
CAPS: Final = 8
"""Rounds in which loads above the number of tokens are handed to other experts."""
EARLY: Final = "0.14."
"""First characters of the versions whose table differs: every expert has three matrices there, and
few tokens all visit one GPU."""
UNGATED: Final = ((2688, 1856), (1024, 2688), (2048, 5120), (4096, 2688))
"""(hidden, width) of the experts of Nemotron 3, which have two matrices. No column says so."""
GROUPED: Final = (7168, 2048, 8, 256)
"""(hidden, width, experts of a token, experts) of DeepSeek V3. Its experts are chosen in groups,
and a balanced choice of experts is none of groups."""
TUNED: Final = ((1, 14336), (8, 7168), (8, 3584), (8, 1792), (8, 4096), (8, 2048), (128, 192))
"""(experts held, width) for which vLLM 0.14 has a configuration tuned on an A100 in 16 bits."""
UNKNOWNS: Final = (
    around(30_000.0, 8.0),
    around(10_000.0, 15.0),
    around(50.0, 50.0),
    around(1500.0, 25.0),
    Unknown(0.7, 0.1, 1.0),
    around(150.0, 14.0),
    around(80.0, 12.0),
    Unknown(0.9, 0.2, 1.05),
    Unknown(3.0, 1.0, 64.0),
    Unknown(0.7, 0.1, 6.0),
    Unknown(0.6, 0.05, 4.0),
    Unknown(1.5, 0.05, 20.0),
    Unknown(0.6, 0.05, 4.0),
    Unknown(0.85, 0.4, 1.0),
    around(5e6, 50.0),
    Unknown(2.5, 1.2, 9.0),
    Unknown(0.05, 0.001, 2.0),
)


def _shared(values: Floats, total: float, most: float) -> Floats:
    """Return loads in proportion to values, with a sum, and at most ``most`` each."""
    loads = values / values.sum(axis=1, keepdims=True) * total
    for _ in range(CAPS):
        over = loads > most
        if not over.any():
            break
        loads = np.where(over, most, loads)
        missing = total - loads.sum(axis=1, keepdims=True)
        free = np.where(loads < most, loads, 0.0)
        loads = loads + free / np.maximum(free.sum(axis=1, keepdims=True), 1e-9) * missing
    return loads


def _whole(near: Floats, loads: Floats, total: float) -> Floats:
    """Return whole loads with a sum: the nearest ones, or one off where that is least wrong.

    Args:
        near: the nearest whole loads.
        loads: the loads.
        total: the sum.
    """
    missing = np.rint(total - near.sum(axis=1, keepdims=True))
    place = np.argsort(np.argsort(near - loads, axis=1), axis=1)
    last = loads.shape[1] - 1 - place
    whole = near + (place < missing) - ((last < -missing) & (near > 0))
    return np.maximum(whole, 0.0)


def drawn_loads(tokens: int, per_token: int, experts: int, skew: float) -> tuple[Floats, Floats]:
    """Return the visits of each expert in several draws; arrays of (draws, experts).

    Loads are drawn from a density that falls with a power of the load, between two limits. They are
    scaled to the number of visits, and no expert is visited twice by a token.

    Args:
        tokens: tokens of the step.
        per_token: experts that a token visits.
        experts: experts of the layer.
        skew: exponent of the density, not 1.

    Returns:
        The visits, and the rounded loads before their sum was corrected.
    """
    share = np.random.default_rng(0).random((DRAWS, experts))
    total = float(tokens * per_token)
    low, high = FEW if total <= experts else (1.0, max(MOST * tokens, 1.01))
    power = 1 - skew
    drawn = ((high**power - low**power) * share + low**power) ** (1 / power)
    loads = _shared(drawn, total, float(tokens))
    near = np.floor(loads + 0.5)
    return _whole(near, loads, total), near


@lru_cache(maxsize=2**16)
def measured_visits(
    tokens: int, per_token: int, experts: int, ranks: int, skew: float
) -> tuple[float, ...]:
    """Return visits, visited experts and started tiles (`ROWS`) of the GPU with the most visits.

    The GPU is chosen by the rounded loads, before their sum is corrected. So it is any one where
    few tokens leave all rounded loads at zero. Single tokens take as long as one visited expert.

    Args:
        tokens: tokens of the step.
        per_token: experts that a token visits.
        experts: experts of the layer.
        ranks: GPUs among which the experts are divided.
        skew: exponent of the density of loads; 0 for equal loads.
    """
    here = experts // ranks
    if skew == 0:
        visits = tokens * per_token / ranks
        visited = min(float(here), max(1.0, visits))
        started = [visited * np.ceil(visits / visited / rows - 1e-9) for rows in ROWS]
        return visits, visited, *(float(count) for count in started)
    loads, near = drawn_loads(tokens, per_token, experts, skew)
    chosen = near.reshape(DRAWS, ranks, here).sum(axis=2).argmax(axis=1)
    fullest = loads.reshape(DRAWS, ranks, here)[np.arange(DRAWS), chosen]
    means = [
        fullest.sum(axis=1).mean(),
        (fullest > 0).sum(axis=1).mean(),
        *(np.ceil(fullest / rows).sum(axis=1).mean() for rows in ROWS),
    ]
    return tuple(max(1.0, float(mean)) for mean in means)


def _derived(table: Table) -> dict[str, Floats]:
    names = table.texts("distribution")
    skews = np.full(table.rows, np.nan)
    for name, skew in SKEWS.items():
        skews[(names == name).to_numpy()] = skew
    early = table.texts("version").str.starts_with(EARLY).to_numpy().astype(np.float64)
    return {"skew": skews, "early": early}


def _leave(columns: Mapping[str, Floats], reasons: Reasons) -> None:
    """Leave out the rows whose spread of tokens over experts is not known."""
    experts, ranks = columns["num_experts"], columns["moe_ep_size"]
    with np.errstate(invalid="ignore"):  # in rows that are left out already
        ragged = np.fmod(experts, ranks) != 0
        few = columns["num_tokens"] * columns["topk"] <= experts
        sizes = [columns[name] for name in ("hidden_size", "inter_size", "topk", "num_experts")]
        grouped = np.logical_and.reduce(
            [size == wanted for size, wanted in zip(sizes, GROUPED, strict=True)]
        )
    reasons.add(ragged, "num_experts is no multiple of moe_ep_size")
    reasons.add(columns["topk"] > experts, "topk is above num_experts")
    reasons.add(
        (columns["early"] > 0) & few & (ranks > 1),
        f"vLLM {EARLY}x: which GPUs few tokens visit is not known",
    )
    reasons.add(
        grouped & (columns["skew"] == 0),
        "DeepSeek V3's experts are chosen in groups, and a balanced choice is none of groups",
    )


def _shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> ExpertShapes:
    tokens, per_token, experts, ranks = (
        sizes[name] for name in ("num_tokens", "topk", "num_experts", "moe_ep_size")
    )
    hidden, whole = sizes["hidden_size"], sizes["inter_size"]
    ungated = np.zeros(tokens.shape, dtype=np.bool_)
    if not key.version.startswith(EARLY):
        for inputs, width in UNGATED:
            ungated |= (hidden == inputs) & (whole == width)
    rows = np.stack([tokens, per_token, experts, ranks, sizes["skew"]], axis=1)
    spread = np.array(
        [measured_visits(int(t), int(k), int(e), int(r), float(s)) for t, k, e, r, s in rows]
    ).reshape(-1, 2 + len(ROWS))
    counts = {f"tiles_{count}": spread[:, 2 + place] for place, count in enumerate(ROWS)}
    return ExpertShapes(
        tokens=tokens,
        hidden=hidden,
        width=np.ceil(whole / sizes["moe_tp_size"]),
        per_token=per_token,
        experts=experts,
        here=experts / ranks,
        matrices=np.where(ungated, 2.0, 3.0),
        visits=spread[:, 0],
        visited=spread[:, 1],
        **counts,
    )


def tiles_of(key: SeriesKey, gpu: GpuSpec) -> ExpertRule:
    """Return what is known of the tiles of a kernel.

    On an A100, vLLM 0.14 runs its kernel in Triton with the default configuration, but for the
    sizes of `TUNED`.
    """
    if generation(gpu) == "ampere" and key.version.startswith(EARLY):
        return ExpertRule(ExpertTiles.TRITON_DEFAULT, TUNED)
    return ExpertRule()


def fit_experts(data: Measurements, gpu: GpuSpec, folds: int) -> tuple[ExpertsSeries, Floats]:
    """Fit the experts of one kernel. See `attacc.calibration.fused.kind.MeasuredKind.fit`."""
    shapes = data.shapes
    assert isinstance(shapes, ExpertShapes)  # noqa: S101 - the operator implies it
    at, rule = ExpertMachine.of(gpu, TYPES[data.key.types]), tiles_of(data.key, gpu)

    def predict(values: Floats, rows: Indices) -> Floats:
        of = record(ExpertsCoefficients, values)
        return expert_times(shapes.take(rows), at, of, rule)[0]

    start = np.array([unknown.start for unknown in UNKNOWNS])
    start[0] = min(max(float(np.quantile(data.time_ns, 0.01)), UNKNOWNS[0].low), UNKNOWNS[0].high)
    found = fit(Problem(UNKNOWNS, data.time_ns, predict, [start]), folds=folds)
    series = ExpertsSeries(
        framework=data.key.framework,
        version=data.key.version,
        dtype=data.key.types,
        kernel=data.key.operation,
        points=data.count,
        error=error(found.held_back, data.time_ns),
        tiles=rule.tiles,
        tuned=rule.tuned,
        range=ExpertsRange(
            tokens=extent(shapes.tokens),
            hidden=extent(shapes.hidden),
            width=extent(shapes.width),
            per_token=extent(shapes.per_token),
            experts=extent(shapes.experts),
            ranks=extent(shapes.experts / shapes.here),
        ),
        coefficients=record(ExpertsCoefficients, found.values),
    )
    return series, found.held_back


def _labels(table: Table) -> pl.DataFrame:
    return plain_labels(table, operation="kernel_source")


_MOST: Final = 2.0**24
MOE: Final = MeasuredKind(
    operator=MeasuredOperator.MOE,
    columns=("gpu", "framework", "version", "kernel_source", "dtype", "distribution"),
    sizes={
        "num_tokens": Allowed(1, _MOST),
        "hidden_size": Allowed(1, _MOST),
        "inter_size": Allowed(1, _MOST),
        "topk": Allowed(1, 2.0**12),
        "num_experts": Allowed(1, 2.0**14),
        "moe_tp_size": Allowed(1, 2.0**14),
        "moe_ep_size": Allowed(1, 2.0**14),
    },
    types={name: types.weights for name, types in TYPES.items()},
    series=ExpertsSeries,
    shapes=_shapes,
    size=lambda shapes: shapes.tokens,
    classes=(("tokens <= 16", 16), ("tokens 17-512", 512), ("tokens > 512", np.inf)),
    predict=experts_ns,
    limits=experts_limits,
    fit=fit_experts,
    labels=_labels,
    optional=("op_name",),
    known={"op_name": ("moe",), "distribution": tuple(SKEWS)},
    derived=_derived,
    leave=_leave,
)
"""Experts of a layer. A kernel is a series of its own."""
