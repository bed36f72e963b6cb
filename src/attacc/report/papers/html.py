"""A reproduction as one HTML file that contains its figures and opens without a network."""

from __future__ import annotations

import io
from html import escape
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from attacc.errors import InputError
from attacc.files import check_target, write_whole
from attacc.report.papers.tables import heading, written
from attacc.study.papers.exhibits import Exhibit, Form, Mark, Panel, Series
from attacc.study.papers.reproduce import Reproduction

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
"""Colours for people with any colour vision (M. Okabe, K. Ito, Color Universal Design, 2008)."""
MARKERS: Final = "osD^vPX"
MOST_TICKS: Final = 8
"""Most positions of a line chart that get a tick each."""
STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2.5em; }
.conditions { color: #555; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87em; }
th, td { padding: 0.2em 0.7em; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } .text { text-align: left; }
svg { max-width: 100%; height: auto; } li { margin: 0.2em 0; } nav { columns: 2; }
details summary { cursor: pointer; color: #555; }
"""


def check_report(path: Path) -> None:
    """Refuse a report that cannot be made, before anything is computed.

    Raises:
        InputError: the file is of another kind, or Matplotlib is not installed.
    """
    check_target(path, "report")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"unknown kind of report {path.suffix!r}",
            where=f"report {path}",
            hint="name a file that ends in .html",
        )
    if find_spec("matplotlib") is None:
        raise InputError(
            "its figures are drawn by Matplotlib, which is not installed",
            where=f"report {path}",
            hint="pip install 'attacc[figures]'",
        )


def write_reproduction(reproduction: Reproduction, path: Path) -> None:
    """Write all exhibits as a page.

    The file appears complete or not at all.

    Args:
        reproduction: the exhibits.
        path: path of the file. Its folder must exist.

    Raises:
        DocumentError: the file cannot be written.
    """
    write_whole(path, page(reproduction).encode("utf-8"))


def page(reproduction: Reproduction) -> str:
    """Return the page as HTML. This needs Matplotlib."""
    exhibits = reproduction.exhibits
    links = "\n".join(f'<li><a href="#{escape(e.id)}">{escape(e.title)}</a></li>' for e in exhibits)
    estimates = "\n".join(f"<li>Estimate: {escape(note)}</li>" for note in reproduction.estimates)
    title = "The AttAcc papers, reproduced"
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>
<body>
<h1>{title}</h1>
<p>attacc {escape(version("attacc"))}; GPU model: {escape(reproduction.gpu_model)}. Deviation: ours
over the paper's value, less one. A dash: no figure, for a reason that the notes tell.</p>
<ul>
{estimates}
</ul>
<nav><ul>
{links}
</ul></nav>
{"".join(_section(exhibit) for exhibit in exhibits)}
</body>
</html>
"""


def _section(exhibit: Exhibit) -> str:
    notes = "\n".join(f"<li>{escape(note)}</li>" for note in exhibit.notes)
    return f"""
<section id="{escape(exhibit.id)}">
<h2>{escape(exhibit.title)}</h2>
<p class="conditions"><code>{escape(exhibit.id)}</code>: {escape(exhibit.conditions)}</p>
{figure_svg(exhibit)}
<div class="wide">{_table(exhibit)}</div>
<ul>
{notes}
</ul>
</section>
"""


def _table(exhibit: Exhibit) -> str:
    texts = [' class="text"' if c.form is Form.TEXT else "" for c in exhibit.columns]
    head = "".join(
        f"<th{text}>{escape(heading(column))}</th>"
        for column, text in zip(exhibit.columns, texts, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{text}>{escape(written(cell, column.form))}</td>"
            for cell, column, text in zip(row, exhibit.columns, texts, strict=True)
        )
        + "</tr>"
        for row in exhibit.rows
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"


def figure_svg(exhibit: Exhibit) -> str:
    """Return the figure of an exhibit as an SVG element. This needs Matplotlib."""
    # Imported here because only an extra installs Matplotlib.
    from matplotlib.figure import Figure

    matplotlib: Any = import_module("matplotlib")
    panels = exhibit.panels
    bars = any(s.mark is Mark.BARS for panel in panels for s in panel.series)
    rows, columns = (len(panels), 1) if bars else (1, len(panels))
    width, height = (10.5, 3.4) if bars else (6.5 if columns == 1 else 4.2, 4.2)
    # The salt makes names of clip paths unique on the page, and equal in every run.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": exhibit.id, "font.size": 9}
    ):
        figure: Any = Figure(figsize=(width * columns, height * rows), layout="constrained")
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _draw(axes, panel)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        most = 6 if bars else 3
        figure.legend(handles, labels, loc="outside upper center", ncols=most, frameon=False)
        stream = io.StringIO()
        absent = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=absent)
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _draw(axes: Any, panel: Panel) -> None:
    bars = [series for series in panel.series if series.mark is Mark.BARS]
    others = [series for series in panel.series if series.mark is not Mark.BARS]
    if bars:
        _draw_bars(axes, bars)
    drawn = 0
    for series in others:
        if series.reference:
            axes.plot(series.x, series.y, color="#888888", linewidth=1, label=series.label)
            continue
        look: dict[str, object] = {
            "color": COLOURS[drawn % len(COLOURS)],
            "marker": MARKERS[drawn % len(MARKERS)],
            "label": series.label,
        }
        if series.mark is Mark.POINTS:
            # Points of several series may coincide. So they are hollow, and each series is smaller.
            size = max(3.0, 9.0 - 2.0 * drawn)
            look |= {"linestyle": "none", "markersize": size, "markerfacecolor": "none"}
        else:
            look |= {"linewidth": 1.4, "markersize": 4}
        drawn += 1
        axes.plot(series.x, [_height(value) for value in series.y], **look)
    _scale(axes, panel, others)
    axes.set_title(panel.title, fontsize="medium")
    axes.set_xlabel(panel.x_title)
    axes.set_ylabel(panel.y_title)
    axes.grid(visible=True, axis="y" if bars else "both", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Any, panel: Panel, lines: list[Series]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    def plain(value: float, _: int) -> str:
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"

    for axis, logarithmic, set_scale in (
        (axes.xaxis, panel.log_x, axes.set_xscale),
        (axes.yaxis, panel.log_y, axes.set_yscale),
    ):
        if logarithmic:
            set_scale("log")
            axis.set_major_formatter(FuncFormatter(plain))
            axis.set_minor_formatter(NullFormatter())
    at = sorted({x for one in lines if one.mark is Mark.LINE for x in one.x if not one.reference})
    if 0 < len(at) <= MOST_TICKS:
        axes.set_xticks(at, [plain(float(x), 0) for x in at], minor=False)
        axes.minorticks_off()
    if not panel.log_y and not any(value < 0 for one in panel.series for value in one.y if value):
        axes.set_ylim(bottom=0)


def _height(value: float | None) -> float:
    return float("nan") if value is None else value


def _draw_bars(axes: Any, bars: list[Series]) -> None:
    names = bars[0].x
    width = 0.8 / len(bars)
    for place, series in enumerate(bars):
        at = [index + (place - (len(bars) - 1) / 2) * width for index in range(len(names))]
        heights = [_height(value) for value in series.y]
        colour = COLOURS[place % len(COLOURS)]
        axes.bar(at, heights, width=0.92 * width, color=colour, label=series.label)
    labels = [str(name) for name in names]
    crowded = sum(max(map(len, label.split("\n"))) for label in labels) > 110
    axes.set_xticks(
        range(len(names)), labels, rotation=30 if crowded else 0,
        ha="right" if crowded else "center", fontsize="small",
    )  # fmt: skip
