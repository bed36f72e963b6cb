"""Checking, writing and labelling of figures; all figures of Matplotlib reach files from here."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from attacc.errors import InputError, printable
from attacc.files import check_target, write_whole

KINDS: Final = (".svg", ".png", ".pdf")
"""Suffixes that a figure's file may have."""


def check_figure(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse a figure that cannot be drawn, before anything is computed.

    Args:
        path: the figure's file.
        inputs: files that are read. The figure must not overwrite them.

    Raises:
        InputError: the file cannot be written, Matplotlib is not installed, or the suffix is none
            of `KINDS`.
    """
    check_target(path, "figure", inputs)
    if path.suffix not in KINDS:
        raise InputError(
            f"{path.suffix or 'no suffix'!r:.40} tells no format of figures",
            where=f"figure {path}",
            hint=f"use one of {', '.join(KINDS)}",
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "figures need matplotlib, which is not installed",
            where=f"figure {path}",
            hint="pip install 'attacc[figures]'",
        )


def words(text: str) -> str:
    """Return a text from outside in a form in which Matplotlib sees no formula, all printable."""
    return printable(text).replace("$", r"\$")


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure of Matplotlib. The file appears complete or not at all.

    The same figure always gives the same SVG.

    Args:
        figure: a Matplotlib figure.
        path: the figure's file, with a suffix of `KINDS`.

    Raises:
        DocumentError: the file cannot be written.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    stream = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context(
        {"svg.hashsalt": "attacc"}
    ):  # Else the names of parts are drawn at random.
        figure.savefig(stream, format=path.suffix[1:], metadata=metadata, dpi=150)
    write_whole(path, stream.getvalue())
