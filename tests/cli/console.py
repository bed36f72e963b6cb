"""Runs the command line inside the test's process, and checks what every answer must be.

A runner makes all commands from their functions before each call, which takes ten times longer than
most answers. Here, and wherever this module is imported, they are made once, as in a process.
"""

import functools
import json
from pathlib import Path
from typing import Any

import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from attacc.cli.main import app

_runner: Any = typer.testing  # whose imports are its own matter, for type checkers
assert _runner._get_command is typer.main.get_command
_runner._get_command = functools.cache(typer.main.get_command)

DEVICE_FILE = """\
name = "mine"
rules = "attacc-pim"
energy = "fgdram-2017"
pin_rate = "5.2 Gb/s"
clock = "0.769 ns"
[organization]
channels = 16
pseudo_channels = 2
ranks = 2
bank_groups = 4
banks = 4
rows = 16384
columns = 32
access_bytes = 32
[timing]
nBL = 2
nACT = 2
nRCD = 19
nRP = 19
nRAS = 45
nRC = 63
nRTPL = 8
nCCDS = 2
nCCDL = 4
nREFI = 5070
nRFC = 456
[power_limited]
nCCDAB = 6
nCCDSB = 6
[unlimited]
nCCDAB = 4
nCCDSB = 4
"""
"""The reference device as a user would write it."""


def invoke(*args: str | Path, columns: int = 100) -> Result:
    """Run ``attacc`` with these arguments."""
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(arg) for arg in args])


def answer(*args: str | Path) -> str:
    """Return the text on stdout of a command that succeeds without a word on stderr."""
    result = invoke(*args)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def document(*args: str | Path) -> Any:
    """Return the one JSON document on stdout."""
    return json.loads(answer(*args, "--json"))


def refusal(*args: str | Path) -> str:
    """Return the one message of a command that refuses its input: exit code 2, empty stdout."""
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    check_refusal(result.stdout, result.stderr)
    return result.stderr


def check_refusal(stdout: str, stderr: str) -> None:
    """Check that nothing is on stdout, and one message and no traceback on stderr."""
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert sum(line.startswith("error: ") for line in stderr.splitlines()) == 1, stderr
    assert "Traceback" not in stderr
