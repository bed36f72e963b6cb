"""Tables and a figure of the accuracy of a device's attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.hardware.placement import Placement
from attacc.pim.numerics.formats import Format
from attacc.report.figures import check_figure, write_figure
from attacc.report.values import count, plain_table, titled, units_at
from attacc.study.accuracy import (
    YARDSTICK,
    AccuracyReach,
    AccuracyResult,
    AccuracyRow,
    Data,
    Error,
)

_DATA: Final = {
    Data.GAUSSIAN: "Gaussian: diffuse attention",
    Data.PEAKED: "Peaked: few keys have most of the weight",
    Data.RECORDED: "Recorded from a model",
}
_COLOURS: Final = {
    (Format.FP16, Format.FP16): "#d55e00",
    (Format.FP16, Format.FP32): "#0072b2",
    (Format.BF16, Format.FP32): "#009e73",
    (Format.INT8, Format.FP32): "#cc79a7",
    (Format.E4M3, Format.FP32): "#e69f00",
    (Format.E5M2, Format.FP32): "#56b4e9",
}
"""Colours of Okabe and Ito, which people with any colour vision can tell apart.

The key is the format of keys and values, and the format of sums.
"""
_MARKERS: Final = {
    (Format.FP16, Format.FP16): "o",
    (Format.FP16, Format.FP32): "s",
    (Format.BF16, Format.FP32): "^",
    (Format.INT8, Format.FP32): "D",
    (Format.E4M3, Format.FP32): "v",
    (Format.E5M2, Format.FP32): "P",
}

Arithmetics = list[tuple[Format, Format]]


def accuracy_renderable(result: AccuracyResult) -> RenderableType:
    """Return the errors by length and format, and the greatest length good enough for each."""
    parts: list[RenderableType] = [_heading(result)]
    for data, placement, rows in _panels(result):
        where = f"{_DATA[data]}; {units_at(placement)}"
        parts += [
            titled(f"{where}\nRMS error against exact attention", _table(rows, computing=False)),
            titled(
                "Of that, by computing: against exact attention of what is stored (! beyond bf16)",
                _table(rows, computing=True),
            ),
        ]
    parts.append(_reach(result))
    parts += ["", *(Text(note, style="dim") for note in _notes(result))]
    return Group(*parts)


def _heading(result: AccuracyResult) -> Text:
    heads = "head" if result.heads == 1 else "heads"
    shared = result.queries_per_kv_head
    sharing = f", {shared} queries share each" if shared > 1 else ""
    contexts = result.heads * result.steps * result.queries_per_kv_head
    return Text.assemble(
        (result.model, "bold"),
        f"  heads of {result.head_dim} elements{sharing}\n{result.device}, a channel per "
        f"head; {result.heads} {heads} of keys and values at each length, {contexts} contexts",
    )


def _panels(result: AccuracyResult) -> Iterator[tuple[Data, Placement, list[AccuracyRow]]]:
    """Yield each pair of a distribution and a placement, with its rows."""
    for data, placement in dict.fromkeys((row.data, row.placement) for row in result.rows):
        own = [row for row in result.rows if (row.data, row.placement) == (data, placement)]
        yield data, placement, own


def _arithmetics(rows: Sequence[AccuracyRow]) -> Arithmetics:
    return list(dict.fromkeys((row.kv, row.accumulate) for row in rows))


def _name(kv: Format, accumulate: Format, between: str) -> str:
    return f"{kv}{between}{accumulate}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 1 else f"{100 * share:.0f}%"


def _table(rows: list[AccuracyRow], *, computing: bool) -> Table:
    table = plain_table()
    table.add_column("keys", justify="right")
    table.add_column(f"{YARDSTICK}\ninputs" if computing else "of these\ncount", justify="right")
    arithmetics = _arithmetics(rows)
    for kv, accumulate in arithmetics:
        table.add_column(_name(kv, accumulate, "\nin "), justify="right")
    for length in dict.fromkeys(row.length for row in rows):
        own = {(row.kv, row.accumulate): row for row in rows if row.length == length}
        first = next(iter(own.values()))
        reference = _percent(first.limit_rms) if computing else f"{first.effective_keys:,.3g}"
        if not computing and first.effective_keys >= 1000:
            reference = count(round(first.effective_keys))
        cells = [
            _cell(own[each], own[each].computing if computing else own[each].total, computing)
            for each in arithmetics
        ]
        table.add_row(count(length), reference, *cells)
    return table


def _cell(row: AccuracyRow, error: Error | None, computing: bool) -> str:  # noqa: FBT001 - private
    if error is None:
        return "overflow"
    return _percent(error.rms) + (("" if row.good_enough else "!") if computing else "")


def _reach(result: AccuracyResult) -> RenderableType:
    table = plain_table()
    table.padding = (0, 1, 0, 0)
    for name in ("data", "units", "arithmetic"):
        table.add_column(name, no_wrap=True)
    for name in (
        "good to\nkeys",
        "share of\nlimit",
        "at\nkeys",
        "largest\nerror",
        "1 -\ncosine",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for reach in result.reach:
        own = [row for row in result.rows if _belongs(row, reach)]
        totals = [row.total for row in own if row.total is not None]
        up_to = "none" if reach.good_up_to is None else count(reach.good_up_to)
        table.add_row(
            reach.data,
            reach.placement,
            _name(reach.kv, reach.accumulate, "/"),
            up_to,
            "overflow" if reach.worst_share is None else f"{reach.worst_share:.2f}",
            count(reach.worst_length),
            _percent(max((one.max for one in totals), default=0.0)) if totals else "-",
            f"{1 - min(one.cosine for one in totals):.1e}" if totals else "-",
        )
    return titled("Good enough: computing loses no more than bf16 inputs would", table)


def _belongs(row: AccuracyRow, reach: AccuracyReach) -> bool:
    return (row.data, row.placement, row.kv, row.accumulate) == (
        reach.data,
        reach.placement,
        reach.kv,
        reach.accumulate,
    )


def _notes(result: AccuracyResult) -> list[str]:
    seed = "recorded data" if result.seed is None else f"seed {result.seed}"
    return [
        f"Errors are relative to the root mean square of the exact context; {seed}.",
        "Keys that count: 1 over the sum of squared probabilities.",
        "fp16/fp32, fp16 in fp32: keys and values in fp16, sums in fp32.",
        "Share of limit: of computing, the largest error over that of exact attention of bf16.",
    ]


def draw_accuracy(result: AccuracyResult, path: Path) -> None:
    """Draw the errors against the length, in one panel for each distribution and placement.

    Args:
        result: the errors.
        path: the figure's file; its suffix decides the format.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    check_figure(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = list(_panels(result))
    settings: dict[str, Any] = {
        "svg.hashsalt": "attacc",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    matplotlib: Any = mpl
    with matplotlib.rc_context(settings):
        figure: Any = Figure(figsize=(5.2 * len(panels) + 1.9, 4.4), layout="constrained")
        axes: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (data, placement, rows) in zip(axes, panels, strict=True):
            _draw_panel(axis, rows)
            axis.set_title(f"{_DATA[data]}\n{units_at(placement)}", fontsize=10)
        axes[0].set_ylabel("relative RMS error of the context")
        shown = dict.fromkeys(
            arithmetic for _, _, rows in panels for arithmetic in _arithmetics(rows)
        )
        handles: list[Any] = [
            Line2D([], [], color=_COLOURS[each], marker=_MARKERS[each], ms=4, lw=1.4,
                   label=_name(*each, ", sums in "))
            for each in shown
        ]  # fmt: skip
        handles += [
            Line2D([], [], color="#555555", lw=1.4, label="against exact attention"),
            Line2D([], [], color="#555555", lw=1.2, ls=":", label="of this, by computing"),
            Line2D([], [], color="black", lw=1.2, ls="--", label="exact, of bf16 inputs: limit"),
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
        write_figure(figure, path)


def _draw_panel(axis: Any, rows: list[AccuracyRow]) -> None:
    for each in _arithmetics(rows):
        own = sorted((row for row in rows if (row.kv, row.accumulate) == each), key=_length)
        colour = _COLOURS[each]
        for errors, line in (
            ([(row.length, row.total) for row in own], "-"),
            ([(row.length, row.computing) for row in own], ":"),
        ):
            there = [(length, error.rms) for length, error in errors if error is not None]
            axis.plot(
                [length for length, _ in there],
                [rms for _, rms in there],
                color=colour,
                ls=line,
                lw=1.4,
                marker=_MARKERS[each],
                ms=4 if line == "-" else 2.5,
                markerfacecolor=colour if line == "-" else "white",
            )
    limits = sorted({(row.length, row.limit_rms) for row in rows})
    axis.plot([length for length, _ in limits], [rms for _, rms in limits], "k--", lw=1.2)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("keys of the head")
    ticks = [length for length, _ in limits][:: -(-len(limits) // 6)]
    axis.set_xticks(ticks, [count(length) for length in ticks])
    axis.minorticks_off()
    axis.grid(which="major", color="#e6e6e6", lw=0.7)
    axis.set_axisbelow(True)


def _length(row: AccuracyRow) -> int:
    return row.length
