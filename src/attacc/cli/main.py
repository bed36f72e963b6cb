"""The application: its commands, and how it reports errors.

Exit codes:

- 0: an answer.
- 1: a fault of attacc itself, or an output that cannot be written or that nobody reads any more.
- 2: input that cannot be used.
- 3: a log that breaks a rule, or a claim that does not hold.
- 130, 143, 129: an interrupt, SIGTERM, SIGHUP.

An answer is printed whole on stdout. An error is one message on stderr; then stdout stays empty.
After an interrupt, stdout stays empty, too; but ``serve`` prints what it has played until then.
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
    model,
    presets,
    reproduce,
    serve,
    trace,
    validate,
    where,
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
    """The commands. Every error that is raised on purpose is printed as one message."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001 - the base class's signature
        windows_expand_args: bool = True,  # noqa: FBT001
        **extra: Any,
    ) -> Any:
        """Run one command. If standalone, print its error and exit with its code."""

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
    """Run a command, print its error on stderr, and return the exit code."""
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
        traceback.clear_frames(error.__traceback__)  # frees memory for the message
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
    """Run a command. If a signal comes, raise `Stopped`, whatever the command raises or returns."""
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
    serve.serve,
    where.where,
    model.model,
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
