"""The application: its commands, and what becomes of errors.

Exit codes: 0 for an answer, 2 for input that cannot be used, 1 for a fault of attacc itself, an
output that cannot be written or whose reader went away, 3 for a log that breaks a rule or a claim
that does not hold, 130 when interrupted, 143 and 129 after SIGTERM and SIGHUP. An answer is on
stdout, complete; an error is one message on stderr, and nothing on stdout.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from attacc.cli import (
    accuracy,
    attention,
    compare,
    generate,
    gpu,
    presets,
    reproduce,
    trace,
    validate,
)
from attacc.cli.entry import SIGNALS
from attacc.cli.output import (
    compilation_shown,
    complain,
    guard_standard_streams,
    silence_stdout,
)
from attacc.cli.places import Command
from attacc.errors import AttaccError, InputError

FAULT: Final = 1
BAD_INPUT: Final = 2


class CommandLine(TyperGroup):
    """The commands, with every error that is raised on purpose told in one message."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001 - the base class's signature
        windows_expand_args: bool = True,  # noqa: FBT001
        **extra: Any,
    ) -> Any:
        """Run one command; standalone, exit with its code and every error told."""

        def play() -> Any:
            return super(CommandLine, self).main(
                (sys.argv[1:] if args is None else args) or ["--help"],
                prog_name or "attacc",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        return sys.exit(_exit_code(play)) if standalone_mode else play()


def _exit_code(play: Callable[[], Any]) -> int:
    """Return what to exit with after a command; all that went wrong is told on stderr."""
    try:
        guard_standard_streams()
        with compilation_shown():
            code = _unless_stopped(play)
        sys.stdout.flush()
    except InputError as error:
        where = f"{error.where}: " if error.where else ""
        complain(where + error.message, hint=error.hint)
        return BAD_INPUT
    except AttaccError as error:
        complain(str(error))
        return FAULT
    except typer.TyperException as error:
        complain(
            error.format_message(),
            hint="attacc --help and attacc COMMAND --help tell the usage",
        )
        return error.exit_code
    except MemoryError as error:
        traceback.clear_frames(error.__traceback__)  # what was allocated, for the message's sake
        complain(
            ": ".join(filter(None, ("the memory of this machine does not suffice", str(error)))),
            hint="ask for less",
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        silence_stdout()
        return SIGNALS.exit_code
    except BrokenPipeError:
        silence_stdout()
        return FAULT
    return int(code or 0)


def _unless_stopped(play: Callable[[], Any]) -> Any:
    """Play a command; once a signal has come, whatever it raises or returns is an interrupt."""
    try:
        return play()
    finally:
        SIGNALS.check()


app = typer.Typer(
    cls=CommandLine,
    help="What does it buy to run the attention of large language models inside the memory?",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature of a callback
    if wanted:
        from attacc import __version__

        typer.echo(f"attacc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options before the command."""


for _command in (
    compare.compare,
    attention.attention,
    accuracy.accuracy,
    generate.generate,
    presets.presets,
    reproduce.reproduce,
    validate.validate,
):
    app.command(cls=Command)(_command)
app.add_typer(gpu.app, name="gpu")
app.add_typer(trace.app, name="trace")
