"""The one door to a terminal: text from outside reaches it as text, and does nothing there.

Names, values and descriptions come from files and from the command line. They may hold what rich
takes for markup or emoji codes, and what a terminal takes for commands: escape sequences, carriage
returns, changes of the direction of writing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.segment import Segment
from rich.text import Text

from attacc.errors import printable


class Terminal(Console):
    """A console that takes text for text, and shows what does not print as an escape.

    Args:
        stderr: whether it writes to standard error, and not to standard output.
        wraps: whether long lines are broken at the width of the terminal.
    """

    def __init__(self, *, stderr: bool = False, wraps: bool = True) -> None:
        super().__init__(
            stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=not wraps
        )

    def render_str(self, text: str, **given: Any) -> Text:
        """Return a cell or a line that was given as plain text, printable before it is measured."""
        return super().render_str(printable(text, keep="\n"), **given)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the pieces of a renderable, with what came in rich's own texts printable too."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)


def bar(*, shown: bool) -> Progress:
    """Return a progress bar on standard error, which leaves nothing behind.

    Args:
        shown: whether it is shown at all.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        console=Terminal(stderr=True),
        transient=True,
        disable=not shown,
    )
