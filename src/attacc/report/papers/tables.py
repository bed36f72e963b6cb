"""Tables of a reproduction of the papers' figures, for a terminal."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.study.papers.exhibits import Cell, Column, Exhibit, Form
from attacc.study.papers.reproduce import Reproduction

MOST_ROWS: Final = 60
"""Most rows of a table that are printed."""
ABSENT: Final = "-"


def reproduction_tables(reproduction: Reproduction) -> Group:
    """Return every exhibit as a table with its conditions and notes."""
    parts: list[RenderableType] = [
        Text(
            f"GPU model: {reproduction.gpu_model}. Deviation: ours over the paper's value, less 1."
        )
    ]
    parts += [Text(f"* Estimate: {note}") for note in reproduction.estimates]
    for exhibit in reproduction.exhibits:
        parts += ["", Text(f"{exhibit.id}: {exhibit.title}", style="bold")]
        parts += [Text(exhibit.conditions, style="dim"), _table(exhibit)]
        if len(exhibit.rows) > MOST_ROWS:
            left = len(exhibit.rows) - MOST_ROWS
            parts.append(Text(f"... and {left} rows more: see --report or --json"))
        parts += [Text(f"* {note}") for note in exhibit.notes]
    return Group(*parts)


def written(cell: Cell, form: Form) -> str:
    """Return the text of a cell, without its unit."""
    if cell is None:
        return ABSENT
    if isinstance(cell, str):
        return cell
    match form:
        case Form.COUNT:
            return f"{cell:,.0f}"
        case Form.RATIO:
            return f"{cell:.2f}x"
        case Form.SHARE:
            return f"{cell:.1%}"
        case Form.DEVIATION:
            return f"{cell:+.1%}" if abs(cell) >= 0.0005 else "0.0%"
        case Form.NUMBER | Form.TEXT:
            return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"


def heading(column: Column) -> str:
    """Return the heading of a column, with its unit."""
    return f"{column.title}, {column.unit}" if column.unit else column.title


def _table(exhibit: Exhibit) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [index for index, column in enumerate(exhibit.columns) if not column.detail]
    for index in shown:
        column = exhibit.columns[index]
        head = f"{column.title}\n{column.unit}" if column.unit else column.title
        cells = [written(row[index], column.form) for row in exhibit.rows[:MOST_ROWS]]
        widest = max(len(word) for text in (head, *cells) for word in text.split() or [""])
        text = column.form is Form.TEXT
        table.add_column(
            head, justify="left" if text else "right", min_width=widest, overflow="fold"
        )
    for row in exhibit.rows[:MOST_ROWS]:
        table.add_row(*(Text(written(row[i], exhibit.columns[i].form)) for i in shown))
    return table
