"""The console through which all tables and messages reach a terminal, a pipe or a file.

A table loses nothing. If it is wider than the terminal, its rows are shown one below the other,
with a line for each column. Output to a pipe or a file has no width, unless COLUMNS states one. No
line ends in blanks.

Names, values and descriptions come from files and from the command line. They may hold text that
rich takes for markup or emoji codes. They may also hold text that a terminal takes for commands:
escape sequences, carriage returns, changes of the direction of writing. All of it is shown as plain
text and does nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from attacc.errors import printable

UNLIMITED: Final = 10_000
"""Columns of a pipe or a file."""


class Terminal(Console):
    """A console without markup. It shows characters that do not print as escapes.

    Args:
        stderr: whether the console writes to standard error instead of standard output.
        wraps: whether long lines are broken at the width of the terminal.
    """

    def __init__(self, *, stderr: bool = False, wraps: bool = True) -> None:
        super().__init__(
            stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=not wraps
        )
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = UNLIMITED

    def show(self, renderable: RenderableType) -> None:
        """Print an answer. A table that is too wide is printed row by row."""
        fitting = self._fitting(renderable)
        if self.is_terminal:
            self.print(fitting)
            return
        with self.capture() as captured:
            self.print(fitting)
        lines = captured.get().split("\n")
        self.file.write("\n".join(line.rstrip(" ") for line in lines))

    def _fitting(self, renderable: RenderableType) -> RenderableType:
        """Return a renderable whose tables are no wider than the terminal."""
        if isinstance(renderable, Group):
            return Group(*(self._fitting(part) for part in renderable.renderables))
        if isinstance(renderable, Table) and renderable.row_count:
            too_wide = self._least_width(renderable) > self.width
            if too_wide or self._loses_something(renderable):
                return _stacked(renderable)
        return renderable

    def _least_width(self, table: Table) -> int:
        """Return the width below which columns would be cut, and words broken."""
        wide = self.options.update(max_width=UNLIMITED)
        total = 0
        for column in table.columns:
            cells = [column.header, *column.cells]
            measured = [Measurement.get(self, wide, cell) for cell in cells]
            total += max(one.maximum if column.no_wrap else one.minimum for one in measured)
        left, right = table.padding[3], table.padding[1]
        edges = 0 if table.pad_edge else left + right
        gaps = (len(table.columns) - 1) * (table.box is not None)
        return total + len(table.columns) * (left + right) - edges + gaps

    def _loses_something(self, table: Table) -> bool:
        """Return whether a character of a cell would not be shown at the terminal's width."""
        cells = [
            _plain(cell)
            for column in table.columns
            for cell in (column.header, *column.cells)
            if isinstance(cell, str | Text)
        ]
        lines = self.render_lines(table, self.options, pad=False)
        shown = Counter(segment.text for line in lines for segment in line)
        left: Counter[str] = Counter()
        for text, times in shown.items():
            for character, number in Counter(printable(text)).items():
                left[character] += times * number
        wanted = Counter("".join(printable(cell, keep="\n") for cell in cells))
        return any(left[c] < number for c, number in wanted.items() if not c.isspace())

    def render_str(self, text: str, **given: Any) -> Text:
        """Return a cell or line of plain text, made printable before its width is measured."""
        return super().render_str(printable(text, keep="\n"), **given)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the pieces of a renderable; text in rich's own objects is printable too."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)


def _stacked(table: Table) -> Group:
    """Return the rows of a table one below the other, with a line for each column."""
    names = [" ".join(_plain(column.header).split()) for column in table.columns]
    cells = [list(column.cells) for column in table.columns]
    parts: list[RenderableType] = [table.title, ""] if table.title else []
    for row in range(table.row_count):
        inner = Table.grid(padding=(0, 2))
        inner.add_column(style="dim", no_wrap=True)
        inner.add_column(overflow="fold")
        for name, column in zip(names, cells, strict=True):
            if name or _plain(column[row]):
                inner.add_row(Text(name), column[row])
        parts += [inner, ""]
    return Group(*parts[:-1])


def _plain(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell) if isinstance(cell, str) else "x"


def bar(*, shown: bool) -> Progress:
    """Return a progress bar on standard error. It is erased when it ends.

    Args:
        shown: whether the bar is shown at all.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        console=Terminal(stderr=True),
        transient=True,
        disable=not shown,
    )
