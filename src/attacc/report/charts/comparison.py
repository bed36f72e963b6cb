"""The figure of a comparison: latency and throughput, ranges, causes, time and energy.

Every title says what its panel shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from attacc.errors import InputError
from attacc.report.figures import check_figure, words, write_figure
from attacc.study.compare import Comparison
from attacc.study.whole import WholeRequests

COLORS: Final = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00",
    "#56B4E9", "#7F7F7F", "#B22222", "#4B0082", "#6B8E23",
)  # fmt: skip
"""Okabe and Ito's palette for people who do not tell some colours apart, with four more."""
LEAST_SHARE: Final = 0.01
"""Kinds of energy below this share of all are put together."""

Named = tuple[str, WholeRequests]


def write_comparison_figure(comparison: Comparison, path: Path) -> None:
    """Draw a comparison of whole requests.

    Args:
        comparison: the comparison.
        path: the figure's file, with a suffix of `attacc.report.figures.KINDS`.

    Raises:
        InputError: Matplotlib is not installed, the file is of another kind, or no system serves
            whole requests.
        DocumentError: the file cannot be written.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    served = [(r.system, r.whole_requests) for r in comparison.systems if r.whole_requests]
    if not served:
        raise InputError(
            "no system serves whole requests, so there is nothing to draw",
            where=f"figure {path}",
            hint="leave out --decode-only, or see why not in the table",
        )
    figure: Any = Figure(figsize=(13, 14), layout="constrained")
    grid: Any = figure.add_gridspec(3, 2)
    _latency(figure.add_subplot(grid[0, :]), served)
    _ranges(figure.add_subplot(grid[1, 0]), served)
    _causes(figure.add_subplot(grid[1, 1]), served)
    _times(figure.add_subplot(grid[2, 0]), served)
    _energies(figure.add_subplot(grid[2, 1]), served)
    model, workload = comparison.model, comparison.workload
    figure.suptitle(
        words(
            f"{model.name} ({model.weights} weights, {model.kv} cache), {workload.name} tokens: "
            "whole requests in steady state"
        ),
        fontsize="large",
    )
    write_figure(figure, path)


def _latency(axes: Any, served: Sequence[Named]) -> None:
    """Draw tokens per second over the time per token, a line for each system over its batches."""
    for number, (name, whole) in enumerate(served):
        color = COLORS[number % len(COLORS)]
        points = sorted(whole.curve, key=lambda point: point.batch)
        axes.plot(
            [point.tpot_ms for point in points],
            [point.output_tokens_per_s for point in points],
            color=color,
            linewidth=1.4,
            label=words(f"{name}, {whole.layout}"),
        )
        axes.plot(whole.tpot_ms, whole.output_tokens_per_s, "o", color=color, markersize=6)
    best, most = max(served, key=lambda one: one[1].output_tokens_per_s)
    axes.set_title(
        words(
            f"{best} serves most: {most.output_tokens_per_s:,.0f} tokens/s at "
            f"{most.tpot_ms:.3g} ms per token (dots: the batches that serve most)"
        ),
        fontsize="medium",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("time per output token, ms")
    axes.set_ylabel("output tokens per second")
    axes.grid(visible=True, which="both", linewidth=0.3)
    axes.legend(fontsize="small", loc="lower right")


def _ranges(axes: Any, served: Sequence[Named]) -> None:
    """Draw speed-ups with their ranges as whiskers."""
    known = [
        (name, whole, whole.speedup, whole.speedup_low, whole.speedup_high)
        for name, whole in served
        if whole.baseline != name
    ]
    names: list[str] = []
    for place, (name, whole, gain, low, high) in enumerate(known):
        if gain is None or low is None or high is None:
            continue
        names.append(f"{words(name)}\nover {words(whole.baseline or '')}")
        color = COLORS[[one for one, _ in served].index(name) % len(COLORS)]
        axes.barh(place, gain, color=color, alpha=0.8)
        axes.plot([low, high], [place, place], color="black", linewidth=1.2)
        axes.plot([low, high], [place, place], "|", color="black", markersize=9)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("requests per second over those of the baseline")
    clear = [name for name, _, _, low, _ in known if low is not None and low > 1]
    axes.set_title(
        words(
            f"{len(clear)} of {len(known)} gain for sure (whiskers: 5th to 95th percentile)"
            if known
            else "Nothing to compare with"
        ),
        fontsize="medium",
    )


def _causes(axes: Any, served: Sequence[Named]) -> None:
    """Draw the chain of the largest gain as a waterfall."""
    found = [(name, whole.decomposition) for name, whole in served if whole.decomposition]
    if not found:
        axes.set_axis_off()
        axes.set_title("No system with AttAccs, so no gain of theirs", fontsize="medium")
        return
    name, chain = max(found, key=lambda one: one[1].gain)
    last = chain.baseline_requests_per_s
    labels = ["GPUs alone"]
    axes.bar(0, last, color="#7F7F7F")
    for place, factor in enumerate(chain.factors, start=1):
        rate = factor.requests_per_s
        axes.bar(place, rate - last, bottom=last, color="#009E73" if rate >= last else "#D55E00")
        axes.plot([place - 1.4, place + 0.4], [last, last], color="black", linewidth=0.6)
        axes.annotate(
            f"{factor.factor:.2f}x", (place, max(rate, last)), ha="center", va="bottom",
            fontsize="small",
        )  # fmt: skip
        labels.append(str(factor.cause).replace(" in ", " in\n"))
        last = rate
    axes.bar(len(labels), last, color="#0072B2")
    labels.append("the system")
    axes.set_xticks(range(len(labels)), labels, fontsize="small", rotation=20)
    axes.set_ylabel("requests per second")
    rates = [chain.baseline_requests_per_s, *(f.requests_per_s for f in chain.factors)]
    axes.set_ylim(0, 1.1 * max(rates))
    most = max(chain.factors, key=lambda factor: factor.factor)
    least = min(chain.factors, key=lambda factor: factor.factor)
    axes.set_title(
        f"{words(name)}:\n{most.cause} gives {most.factor:.2f}x, {least.cause} {least.factor:.2f}x",
        fontsize="medium",
    )


def _times(axes: Any, served: Sequence[Named]) -> None:
    """Draw the time of the whole system that a request takes, by parts."""
    parts = list(served[0][1].parts_ms)
    shares = {
        name: {part: ms / sum(whole.parts_ms.values()) for part, ms in whole.parts_ms.items()}
        for name, whole in served
    }
    rows = [
        {part: 1e3 / whole.requests_per_s * shares[name][part] for part in parts}
        for name, whole in served
    ]
    _stacked(axes, [name for name, _ in served], rows, parts)
    axes.set_xlabel("ms of the whole system for each request")
    name, _ = max(served, key=lambda one: one[1].requests_per_s)
    attention = shares[name].get("attention", 0.0)
    axes.set_title(words(f"Attention takes {attention:.0%} of {name}"), fontsize="medium")


def _energies(axes: Any, served: Sequence[Named]) -> None:
    """Draw the energy of a request of the boards, by what takes it."""
    most = max(whole.energy_per_request_j for _, whole in served)
    kinds = [
        kind
        for kind in served[0][1].energies_j
        if max(whole.energies_j[kind] for _, whole in served) >= LEAST_SHARE * most
    ]
    rows = [
        {kind: whole.energies_j[kind] for kind in kinds}
        | {"other": sum(j for kind, j in whole.energies_j.items() if kind not in kinds)}
        for _, whole in served
    ]
    _stacked(axes, [name for name, _ in served], rows, [*kinds, "other"])
    axes.set_xlabel("joules of the boards for each request")
    name, whole = min(served, key=lambda one: one[1].energy_per_request_j)
    axes.set_title(
        words(f"{name} takes least: {whole.energy_per_request_j:,.0f} J a request"),
        fontsize="medium",
    )


def _stacked(
    axes: Any, names: Sequence[str], rows: Sequence[dict[str, float]], parts: Sequence[str]
) -> None:
    """Draw a stacked bar for each system."""
    left = [0.0] * len(names)
    for number, part in enumerate(parts):
        widths = [row[part] for row in rows]
        axes.barh(
            range(len(names)), widths, left=left, label=words(part),
            color=COLORS[number % len(COLORS)],
        )  # fmt: skip
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), [words(name) for name in names], fontsize="small")
    axes.invert_yaxis()
    axes.legend(fontsize="small")
