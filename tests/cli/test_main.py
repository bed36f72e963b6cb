"""The frame of the command line: help, exit codes, and streams."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attacc import __version__
from attacc.cli import output
from attacc.cli.main import app
from attacc.errors import CapacityError, EngineError, Shortfall
from attacc.pim.stack import Stack
from tests.cli.console import answer, check_refusal, invoke, refusal

SMALL = ("attention", "--heads", "2", "--length", "16")


def attacc(
    *args: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "attacc", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | (env or {}),
    )


def raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Have the library raise an error in the middle of a command."""

    def attend(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Stack, "attend_to", attend)


def test_version() -> None:
    """A version that is not the distribution's would mislead bug reports."""
    assert answer("--version") == answer("-V") == f"attacc {__version__}\n"


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(args: tuple[str, ...]) -> None:
    """A command that is not registered, or a bare call that is an error to a newcomer."""
    text = answer(*args)
    for command in ("compare", "attention", "generate", "presets", "trace"):
        assert f" {command} " in text


@pytest.mark.parametrize(
    "command",
    [("attention",), ("generate",), ("presets",), ("trace",), ("trace", "run"), ("trace", "build")],
)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    """Annotations that typer cannot resolve fail only when the command is called."""
    assert "Usage: " in answer(*command, "--help")


def test_help_needs_no_heavy_imports() -> None:
    """A module-level import of NumPy or Numba makes every call wait, --help included."""
    code = (
        "import sys, attacc.cli.main\n"
        "print(*{'numpy', 'numba', 'pydantic', 'rich'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("atention",), ["'atention'", "'attention'"]),
        (("trace", "rum"), ["'rum'", "'run'"]),
        (("trace",), ["Missing command"]),
        (("--jason",), ["--jason"]),
        ((*SMALL, "--jason"), ["--jason", "--json"]),
        ((*SMALL, "--head-dims", "4"), ["--head-dims", "--head-dim"]),
        (("attention", "--heads", "2"), ["--length"]),
        (("attention", "--heads", "2", "--length"), ["--length"]),
        ((*SMALL, "surplus"), ["surplus"]),
        (("trace", "run"), ["FILE"]),
        (("presets", "gpu", "a100", "surplus"), ["surplus"]),
    ],
)
def test_usage_errors(args: tuple[str, ...], parts: list[str]) -> None:
    """A usage error that goes without the offending word, or in a box across many lines."""
    message = refusal(*args)
    for part in parts:
        assert part in message
    assert message.count("\n") == 2


def test_fault_of_attacc_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program reported as the user's."""
    raises(monkeypatch, EngineError("impossible state"))
    result = invoke(*SMALL)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: impossible state\n"


def test_capacity_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit must be told with its place and the way out."""
    raises(
        monkeypatch,
        CapacityError(Shortfall("HBM", 3e9, 1e9), where="system tiny", hint="batch 4 fits"),
    )
    message = refusal(*SMALL)
    assert "system tiny: HBM: 3.00 GB needed, 1.00 GB available" in message
    assert message.endswith("hint: batch 4 fits\n")


def test_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array beyond this machine's memory would end in a traceback."""
    raises(monkeypatch, MemoryError("Unable to allocate 1. TiB"))
    assert "memory of this machine does not suffice: Unable to allocate" in refusal(*SMALL)
    raises(monkeypatch, MemoryError())
    assert "memory of this machine does not suffice\n" in refusal(*SMALL)


def test_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C that prints a traceback, or looks like success to a script."""
    raises(monkeypatch, KeyboardInterrupt())
    result = invoke(*SMALL)
    assert (result.exit_code, result.output) == (130, "")


def test_programming_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug dressed up as a message would never be reported."""
    raises(monkeypatch, ZeroDivisionError())
    assert isinstance(invoke(*SMALL).exception, ZeroDivisionError)


def test_application_inside_another() -> None:
    """Without standalone mode, typer's callers get the exceptions themselves."""
    with pytest.raises(Exception, match="atention"):
        CliRunner().invoke(app, ["atention"], standalone_mode=False, catch_exceptions=False)


def test_message_with_brackets_is_not_markup(tmp_path: Path) -> None:
    """Rich would swallow what looks like a style, and fail at a closing tag."""
    assert "[/red][bold].trace: no such file" in refusal(
        "trace", "run", tmp_path / "[/red][bold].trace"
    )


def test_long_message_is_not_wrapped(tmp_path: Path) -> None:
    """A wrapped file name cannot be copied or searched for."""
    name = "long-" * 40 + ".trace"
    result = invoke("trace", "run", tmp_path / name, columns=40)
    assert f"{name}: no such file" in result.stderr


def test_process_answers_with_one_document() -> None:
    """Anything else on stdout breaks a pipeline into a JSON reader."""
    done = attacc(*SMALL, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["heads"] == 2


def test_process_refuses(tmp_path: Path) -> None:
    """An exit code lost between the application and the process."""
    done = attacc("trace", "run", tmp_path / "absent.trace", "--json")
    assert done.returncode == 2
    check_refusal(done.stdout, done.stderr)


def test_process_with_an_encoding_of_few_characters() -> None:
    """The micro sign and a file's name must not end in a UnicodeEncodeError."""
    done = attacc(*SMALL, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, "")


def test_reader_that_goes_away() -> None:
    """``attacc presets | head -1`` must not complain about the closed pipe."""
    with subprocess.Popen(
        [sys.executable, "-m", "attacc", "presets", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_on_stderr_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar on stdout would spoil the JSON."""
    stdout, stderr = io.StringIO(), _Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(sys, "stdout", stdout)
    with output.progress_bar("many") as progress:
        progress("one", 2)
        progress("two", 2)
    assert "two" in stderr.getvalue()
    assert stdout.getvalue() == ""
