"""Output of all commands: the answer goes to stdout, and messages and progress go to stderr."""

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
    """Stdout. Its failures are `OutputError`, which tells them apart from those of other files."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # the reader of the pipe has ended
            raise
        except OSError as error:
            silence_stdout()
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None


class _Messages(io.FileIO):
    """Stderr. Messages that cannot be written are lost, and the command goes on."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def guard_standard_streams() -> None:
    """Make stdout and stderr write any text, and make failures of stdout an `OutputError`.

    A file's name may hold characters that the encoding of a stream lacks. These are written as
    escapes.

    Raises:
        OutputError: stdout is closed. A later write to stdout raises it if the write fails.
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
    if type(raw) is not io.FileIO:  # a stream of a test, or a console of Windows
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
    """Write nothing more to stdout, neither what is still buffered nor what comes later."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # stdout of a test has no descriptor
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def print_answer(answer: A, render: Callable[[A], RenderableType], *, as_json: bool) -> None:
    """Write the answer of a command to stdout.

    Args:
        answer: the answer, from the library.
        render: turns the answer into tables.
        as_json: whether to write the answer as one JSON document instead of tables.

    Raises:
        InputError: a figure overflowed. Then nothing is written.
    """
    document = answer.to_json()
    if as_json:
        sys.stdout.write(document)
    else:
        from attacc.report.terminal import Terminal

        Terminal().show(render(answer))
    sys.stdout.flush()  # an answer of a command that was interrupted is written, too


def print_text(text: str) -> None:
    """Write a text to stdout without any change."""
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
    """Print on stderr, once each, that kernels are compiled and that they cannot be kept.

    Kernels that an earlier command compiled are loaded from disk, and nothing is printed. The line
    about compiling appears on a terminal only. The warning that kernels cannot be kept appears in
    any case, since the user can change that.
    """
    said: set[str] = set()

    def say(what: str, line: str) -> None:
        if what not in said:
            # A line, and not a second bar: a command's own bar lets lines on stderr pass.
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
"""Seconds between two lines of progress, where stderr is no terminal."""
PROGRESS: Final = "ATTACC_PROGRESS"
"""The environment variable that turns these lines off."""


class Heartbeat:
    """Prints every few seconds on stderr what a command is doing, unless stderr is a terminal."""

    def __init__(self) -> None:
        self._doing = "working"
        self._ended = Event()

    def tell(self, doing: str) -> None:
        """Store what the command is doing, for the next line."""
        self._doing = doing

    @contextmanager
    def beating(self) -> Generator[None]:
        """Print the lines until the block ends, unless `PROGRESS` says off."""
        wanted = os.environ.get(PROGRESS, "on")
        if wanted not in ("on", "off"):
            complain(f"{PROGRESS}: {wanted!r:.40} is unknown", hint="use on or off")
            sys.exit(2)
        if sys.stderr.isatty() or wanted == "off":
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
    """Show a bar on stderr, if stderr is a terminal. The bar has one step for each piece of work.

    Args:
        title: text of the bar before the first piece of work.

    Yields:
        A function that is called before each piece of work, with its name and the number of all
        pieces.
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
