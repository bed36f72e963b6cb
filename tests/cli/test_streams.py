"""Standard streams that are full, closed, or left by their reader."""

import subprocess
import sys
from pathlib import Path

import pytest

from attacc.cli.output import compilation_shown
from attacc.compiled import _not_kept  # pyright: ignore[reportPrivateUsage]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of POSIX")


def redirected(redirections: str, *args: str) -> tuple[int, str, str]:
    """Return the exit code, stdout and stderr of a command with redirections of the shell."""
    done = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "attacc", *args],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def full() -> str:
    """A file that takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full")
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        file.write(b"a byte")
    return "/dev/full"


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("presets",), ("presets", "--json")])
def test_full_stdout(full: str, args: tuple[str, ...]) -> None:
    """A traceback, or success without an answer: ``attacc compare > answer`` on a full disk."""
    message = "error: standard output cannot be written: No space left on device\n"
    assert redirected(f"> {full}", *args) == (1, "", message)


def test_closed_stdout() -> None:
    """Success without an answer, from a service that closes what it does not need."""
    assert redirected(">&-", "presets") == (1, "", "error: standard output is closed\n")


@pytest.mark.parametrize("redirection", ["2> {}", "2>&-"])
def test_stderr_that_takes_nothing(full: str, redirection: str) -> None:
    """An exit code that is lost because the message is, or an answer that is."""
    redirection = redirection.format(full)
    assert redirected(redirection, "presets", "gpu", "a10") == (2, "", "")
    exit_code, stdout, _ = redirected(redirection, "--version")
    assert (exit_code, stdout[:7]) == (0, "attacc ")


def test_nowhere_to_write(full: str) -> None:
    """An exit code of Python's own where no stream takes anything."""
    assert redirected(f"> {full} 2> {full}", "presets") == (1, "", "")
    assert redirected("<&- >&- 2>&-", "presets") == (1, "", "")


def test_closed_descriptor_is_not_reused() -> None:
    """The next file that is opened becomes stderr: messages from C would be written into it."""
    code = (
        "import os, sys; from attacc.cli import entry, main; "
        "main.app = lambda: sys.stdout.write(str(os.open(os.devnull, os.O_RDONLY) > 2)); "
        "entry.run()"
    )
    shell = 'exec "$@" 2>&- <&-'
    done = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True"


def test_code_that_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """A wait before every answer that nobody explains; or that each of many kernels does."""
    with compilation_shown():
        _not_kept("the disk is full")
        _not_kept("the disk is full")
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("warning: machine code cannot be kept")
    assert "the disk is full; set NUMBA_CACHE_DIR" in stderr
    assert stderr.count("\n") == 1
