"""What all commands share: one answer on stdout, all else on stderr, and files to be written."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attacc.compiled import told_of_compilation
from attacc.errors import DocumentError, InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import RenderableType

A = TypeVar("A", bound="DataclassInstance | Sequence[DataclassInstance]")
T = TypeVar("T")


def print_answer(answer: A, render: Callable[[A], RenderableType], *, as_json: bool) -> None:
    """Write the answer of a command to stdout.

    Args:
        answer: a record, or a list of records, of plain values.
        render: makes a table of it.
        as_json: whether to write it as one JSON document instead.

    Raises:
        InputError: a figure overflowed; nothing is written then.
    """
    document = _document(answer)
    if as_json:
        sys.stdout.write(document)
    else:
        print_rich(render(answer))


def print_json(answer: DataclassInstance | Sequence[DataclassInstance]) -> None:
    """Write an answer, or a list of answers, as the one JSON document on stdout."""
    sys.stdout.write(_document(answer))


def _document(answer: DataclassInstance | Sequence[DataclassInstance]) -> str:
    plain = (
        [dataclasses.asdict(record) for record in answer]
        if isinstance(answer, Sequence)
        else dataclasses.asdict(answer)
    )
    try:
        return json.dumps(plain, indent=2, allow_nan=False) + "\n"
    except ValueError:
        raise InputError(
            "a figure of the answer overflows",
            hint="a quantity of the input must be out of all proportion: look at its units",
        ) from None


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


@contextmanager
def compilation_shown() -> Generator[None]:
    """Say on stderr, where that is a terminal, that something is being compiled: once, if at all.

    What was compiled by an earlier command is loaded from disk, and no word said.
    """
    said = False

    def say() -> None:
        nonlocal said
        if not said and sys.stderr.isatty():
            # A line, and not a bar: those of commands let what is written to stderr pass.
            sys.stderr.write("compiling for this machine, which is kept for the next time ...\n")
            sys.stderr.flush()
        said = True

    with told_of_compilation(say):
        yield


def check_source(path: Path) -> None:
    """Refuse a file that does not exist, and propose the names that are nearest to its own.

    Raises:
        DocumentError: there is no such file.
    """
    try:
        if path.exists():
            return
        names = [file.name for file in path.parent.iterdir()]
    except OSError:  # no such folder, or a name too long: whoever reads the file tells
        return
    close = difflib.get_close_matches(path.name, names, n=2)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else None
    raise DocumentError("no such file", where=str(path), hint=hint)


def check_target(path: Path, option: str, inputs: Iterable[Path] = ()) -> None:
    """Refuse a file to be written that cannot be, before anything is computed.

    Args:
        path: the file.
        option: the option or argument that named it.
        inputs: files that are read, and must not be overwritten.

    Raises:
        InputError: it is a folder, it lies in no folder, or it is one of the inputs, also by
            another name.
    """
    try:
        # A link is followed: the file that it names is written, and may be still to be made.
        target = path.resolve()
        folder = target.parent if path.is_symlink() else path.parent
        is_folder, has_folder = target.is_dir(), folder.is_dir()
        is_read = any(_is_same_file(target, file) for file in inputs)
    except (OSError, RuntimeError) as error:  # a name too long, a folder not to be looked into
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be written: {reason}", where=f"{option} {path}") from None
    if is_folder:
        raise InputError("is a folder", where=f"{option} {path}", hint="name a file in it")
    if not has_folder:
        raise InputError(
            f"there is no folder {folder}", where=f"{option} {path}", hint="create it first"
        )
    if is_read:
        raise InputError("is also read", where=f"{option} {path}", hint="name another file")


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)  # by hard links too
    except FileNotFoundError:
        return one == other.resolve()


@contextmanager
def progress_bar(title: str, total: int) -> Generator[Callable[[str], None]]:
    """Show a bar on stderr, where that is a terminal, with one step per name that it is told.

    Args:
        title: before the first name.
        total: how many names there will be; each is told before its work.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(title, total=total)
        done = 0

        def show(name: str) -> None:
            nonlocal done
            bar.update(task, description=name, completed=done)
            done += 1

        yield show
