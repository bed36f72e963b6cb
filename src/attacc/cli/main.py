"""The application: its commands, and what becomes of errors.

Exit codes: 0 for an answer, 2 for input that cannot be used, 1 for a fault of attacc itself or a
reader of the output that went away, 130 when interrupted. An answer is on stdout, complete; an
error is one message on stderr, and nothing on stdout.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from attacc.cli.output import complain
from attacc.errors import AttaccError, InputError

INTERRUPTED = 130
"""128 and the number of SIGINT, as shells report it."""


class CommandLine(TyperGroup):
    """The commands, with every error that they raise on purpose told in one message."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001 - typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001
        **extra: Any,
    ) -> None:
        """Run one command and exit."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # File names and sources may hold what the terminal cannot show.
                stream.reconfigure(errors="backslashreplace")
        sys.exit(self._exit_code(args, prog_name or "attacc"))

    def _exit_code(self, args: Sequence[str] | None, prog_name: str) -> int:
        try:
            code = super().main(args, prog_name=prog_name, standalone_mode=False)
            sys.stdout.flush()
        except InputError as error:
            complain(f"{error.where}: {error.message}" if error.where else error.message,
                     hint=error.hint)
            return 2
        except AttaccError as error:
            complain(str(error))
            return 1
        except typer.TyperException as error:
            complain(error.format_message())
            return error.exit_code
        except (KeyboardInterrupt, typer.Abort):
            return INTERRUPTED
        except BrokenPipeError:
            # Python would complain again when it flushes stdout at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return int(code or 0)


app = typer.Typer(
    cls=CommandLine,
    name="attacc",
    help="What does it buy to run the attention of large language models inside the memory?",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
