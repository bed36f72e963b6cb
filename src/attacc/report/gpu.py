"""Tables and figures of the calibrated GPU model. This module computes no errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from attacc.errors import InputError
from attacc.report.figures import check_figure, words, write_figure

if TYPE_CHECKING:
    from attacc.calibration.check import Accuracy, Checked
    from attacc.calibration.extrapolate import Extrapolation


def accuracy_tables(rows: Sequence[Accuracy]) -> Group:
    """Return errors by size class, in one table for each series."""
    series: dict[str, Table] = {}
    for row in rows:
        library = f"{row.framework} {row.version}".strip()
        title = f"{row.operator}, {row.gpu}, {row.dtype}, {library}"
        if row.reference:
            title += " (reference)"
        if row.scaled:
            title += f", scaled from {row.calibration}"
        table = series.get(title)
        if table is None:
            table = series[title] = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
            table.add_column("size")
            for column in ("points", "outside", "mean %", "median %", "90 % below", "bias %"):
                table.add_column(column, justify="right")
        table.add_row(
            row.size_class,
            str(row.points),
            str(row.out_of_range),
            _percent(row.mape),
            _percent(row.median_ape),
            _percent(row.p90_ape),
            _percent(row.bias, sign=True),
        )
        if row.outside and row.size_class == "all":
            reasons = "; ".join(f"{entry.rows:,}: {entry.reason}" for entry in row.outside)
            table.caption, table.caption_justify = f"outside: {reasons}", "left"
    return Group(*series.values())


def extrapolation_table(rows: Sequence[Extrapolation]) -> Table:
    """Return the errors on rows that no fit has seen."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("operator", "predicted", "seen", "shared"):
        table.add_column(column)
    for column in ("points", "mean %", "bias %"):
        table.add_column(column, justify="right")
    for row in rows:
        predicted = f"{row.gpu}, {row.framework} {row.version}".strip()
        table.add_row(
            row.operator,
            f"{predicted}, {row.dtype}",
            row.seen,
            row.shared or "-",
            str(row.points),
            _percent(row.mape),
            _percent(row.bias, sign=True),
        )
    return table


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def write_accuracy_figure(checked: Sequence[Checked], path: Path) -> None:
    """Draw predicted over measured time, in one panel for each operator and GPU.

    Raises:
        InputError: Matplotlib is not installed, or the file is of another kind.
    """
    check_figure(path)
    from matplotlib.figure import Figure

    if not checked:
        raise InputError("draws operators, and there are none", where=f"figure {path}")
    drawn = [entry for entry in checked if np.isfinite(entry.time_ns).any()]
    if not drawn:
        raise InputError("nothing could be predicted", where=f"figure {path}")
    panels = list(dict.fromkeys(_panel(entry) for entry in drawn))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure: Any = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for place, panel in enumerate(panels):
        axes = grid[place // columns][place % columns]
        for entry in drawn:
            known = np.isfinite(entry.time_ns)
            if _panel(entry) != panel:
                continue
            measured = entry.data.time_ns[known] / 1e3
            axes.plot(
                measured,
                entry.time_ns[known] / 1e3 / measured,
                ",",
                rasterized=True,
                label=words(
                    f"{entry.data.key.framework} {entry.data.key.version} {entry.data.key.dtype}"
                ),
            )
        axes.set_xscale("log")
        axes.set_ylim(0.5, 1.5)
        axes.axhline(1.0, color="black", linewidth=0.8)
        for edge in (0.9, 1.1):
            axes.axhline(edge, color="black", linewidth=0.5, linestyle=":")
        axes.set_title(words(", ".join(panel)), fontsize="medium")
        axes.set_xlabel("measured, microseconds")
        axes.set_ylabel("predicted / measured")
        legend = axes.legend(fontsize="x-small", loc="upper right")
        for handle in legend.legend_handles:
            handle.set_marker("o")
    for place in range(len(panels), rows * columns):
        grid[place // columns][place % columns].set_axis_off()
    write_figure(figure, path)


def _panel(entry: Checked) -> tuple[str, str]:
    key = entry.data.key
    return key.operation or key.operator.value, key.gpu
