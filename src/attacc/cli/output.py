"""What all commands share: one answer on stdout, all else on stderr, and files to be written."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attacc.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import RenderableType

T = TypeVar("T")


def print_json(answer: DataclassInstance | list[DataclassInstance]) -> None:
    """Write an answer, or a list of answers, as the one JSON document on stdout."""
    records = answer if isinstance(answer, list) else [answer]
    documents = [dataclasses.asdict(record) for record in records]
    document = documents if isinstance(answer, list) else documents[0]
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_rich(renderable: RenderableType) -> None:
    """Write a table, or another renderable of rich, to stdout."""
    from rich.console import Console

    Console(highlight=False).print(renderable)


def complain(message: str, *, hint: str | None = None) -> None:
    """Write the one message of a command that failed to stderr."""
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble(("error: ", "bold red"), message)
    if hint:
        text.append_text(Text.assemble(("\nhint: ", "bold"), hint))
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def progress(items: Iterable[T], *, total: int, doing: str) -> Iterable[T]:
    """Go through items behind a progress bar on stderr, where that is a terminal."""
    if total < 2 or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(
        items, description=doing, total=total, console=Console(stderr=True), transient=True
    )


def check_target(path: Path, option: str, inputs: Iterable[Path] = ()) -> None:
    """Refuse a file to be written that cannot be, before anything is computed.

    Args:
        path: the file.
        option: the option or argument that named it.
        inputs: files that are read, and must not be overwritten.

    Raises:
        InputError: it is a folder, it lies in no folder, or it is one of the inputs.
    """
    try:
        is_folder, has_folder = path.is_dir(), path.parent.is_dir()
        is_read = path.resolve() in {file.resolve() for file in inputs}
    except (OSError, RuntimeError) as error:  # a name too long, a folder not to be looked into
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be written: {reason}", where=f"{option} {path}") from None
    if is_folder:
        raise InputError("is a folder", where=f"{option} {path}", hint="name a file in it")
    if not has_folder:
        raise InputError(
            f"there is no folder {path.parent}", where=f"{option} {path}", hint="create it first"
        )
    if is_read:
        raise InputError("is also read", where=f"{option} {path}", hint="name another file")
