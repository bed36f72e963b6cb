"""What all commands share: one answer on stdout, all else on stderr, and files to be written."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar, cast

from attacc.compiled import NOT_KEPT, told_of_compilation
from attacc.errors import AttaccError, printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from rich.console import RenderableType

    from attacc.results import Answer

A = TypeVar("A", bound="Answer")


class OutputError(AttaccError):
    """Stdout cannot be written."""


class _Answers(io.FileIO):
    """Stdout, whose failures are told apart from those of other files."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # its reader has seen enough
            raise
        except OSError as error:
            silence_stdout()
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None


class _Messages(io.FileIO):
    """Stderr, on which what cannot be said is not said."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def guard_standard_streams() -> None:
    """Have stdout and stderr write any text, and tell what became of the answer.

    A file's name may hold what a stream's encoding cannot express: that is written as its code.

    Raises:
        OutputError: stdout is closed, or cannot be written; from now on, when it is written.
    """
    sys.stderr = _guarded(sys.stderr, _Messages)
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - of a closed descriptor
        raise OutputError("standard output is closed")
    sys.stdout = _guarded(sys.stdout, _Answers)


def _guarded(stream: TextIO, kind: type[io.FileIO]) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    buffer = cast("Any", stream).buffer
    raw = getattr(buffer, "raw", buffer)
    if type(raw) is not io.FileIO:  # of a test, or of a console of Windows
        stream.reconfigure(errors="backslashreplace")
        return cast("TextIO", stream)
    return io.TextIOWrapper(
        io.BufferedWriter(kind(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def silence_stdout() -> None:
    """Have nothing more written to stdout: an answer is there complete, or as much as could be."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # none, as in a test
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def print_answer(answer: A, render: Callable[[A], RenderableType], *, as_json: bool) -> None:
    """Write the answer of a command to stdout.

    Args:
        answer: of the library.
        render: makes a table of it.
        as_json: whether to write it as one JSON document instead.

    Raises:
        InputError: a figure overflowed; nothing is written then.
    """
    document = answer.to_json()
    if as_json:
        sys.stdout.write(document)
    else:
        from attacc.report.terminal import Terminal

        Terminal().show(render(answer))


def print_text(text: str) -> None:
    """Write a document of the package to stdout as it is."""
    sys.stdout.write(text)


def complain(message: str, *, hint: str | None = None) -> None:
    """Write the one message of a command that failed to stderr."""
    from rich.text import Text

    from attacc.report.terminal import Terminal

    text = Text.assemble(("error: ", "bold red"), printable(message))
    if hint:
        text.append_text(Text.assemble(("\nhint: ", "bold"), printable(hint)))
    Terminal(stderr=True, wraps=False).print(text)


@contextmanager
def compilation_shown() -> Generator[None]:
    """Say on stderr that something is being compiled, or cannot be kept: once each, if at all.

    What was compiled by an earlier command is loaded from disk, and no word said. That a
    compilation takes its time is of interest on a terminal only. That it will do so every time is
    said in any case, since it can be helped.
    """
    said: set[str] = set()

    def say(what: str, line: str) -> None:
        if what not in said:
            # A line, and not a bar: those of commands let what is written to stderr pass.
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        said.add(what)

    def compiling() -> None:
        HEARTBEAT.tell("compiling for this machine, which is kept for the next time")
        if sys.stderr.isatty() and "not kept" not in said:
            say("compiling", "compiling for this machine, which is kept for the next time ...")

    def not_kept(reason: str) -> None:
        say("not kept", f"warning: {NOT_KEPT.format(reason=reason)}")

    with told_of_compilation(compiling, not_kept):
        yield


HEARTBEAT_S: Final = 5.0
"""Between two lines of progress, where stderr is no terminal."""


class Heartbeat:
    """Says on stderr what a command is doing, every few seconds, where that is no terminal."""

    def __init__(self) -> None:
        self._doing = "working"
        self._ended = Event()

    def tell(self, doing: str) -> None:
        """Take note of what the command is doing."""
        self._doing = doing

    @contextmanager
    def beating(self) -> Generator[None]:
        """Say it until the block ends."""
        if sys.stderr.isatty():
            yield
            return
        self._ended.clear()
        thread = Thread(target=self._say, args=(monotonic(),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()

    def _say(self, begin: float) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            doing = printable(self._doing)
            sys.stderr.write(f"attacc: {doing}, {monotonic() - begin:.0f} s\n")
            sys.stderr.flush()


HEARTBEAT: Final = Heartbeat()


@contextmanager
def progress_bar(title: str) -> Generator[Callable[[str, int], None]]:
    """Show a bar on stderr, where that is a terminal, with one step per name that it is told.

    Args:
        title: before the first name.

    Yields:
        What takes the name of each thing before its work, and how many there are in all.
    """
    from attacc.report.terminal import bar

    with bar(shown=sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=None)
        done = 0

        def show(name: str, total: int) -> None:
            nonlocal done
            HEARTBEAT.tell(f"{title} {name}, {done + 1} of {total}")
            progress.update(task, description=name, completed=done, total=total)
            done += 1

        yield show
