"""Names and values from outside do nothing to a terminal, and every JSON answer stays JSON."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attacc.cli.main import app
from attacc.errors import printable
from tests.calibration.gpu_tables import gemm_csv
from tests.cli.console import DEVICE_FILE, check_refusal

NAMES = (
    "mine [/x] [bold red]fast[/] :smile:",
    "mi'n\"e $x$ \\ <b>&amp; \N{GRINNING FACE} \N{CJK UNIFIED IDEOGRAPH-4E00}",
    "mine\x1b[31m\x1b]0;title\x07\r\u202egnp\nerror: second line",
)
"""Markup, emoji codes; quotes, formulas; escape sequences, directions, lines."""
NO_TEXT = "mine\udcff"
"""A byte of a file's name that is no UTF-8."""
SYSTEM = """\
gpu = "a100"
gpus = 8
link = "nvlink3"
attention = "gpu"
"""
TRACE = "PIM_WR_GB 0x0\nPIM_MAC_AB 0x0\n"


def run(
    *args: str | Path, columns: int = 20, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a command on a narrow terminal that is none."""
    done = CliRunner(env={"COLUMNS": str(columns)} | (env or {})).invoke(
        app, [str(a) for a in args]
    )
    assert done.exit_code in (0, 2, 3), done.output
    return done.exit_code, done.stdout, done.stderr


def check_plain(text: str) -> None:
    """Check that a text holds nothing that acts on a terminal."""
    assert all(c == "\n" or c.isprintable() for c in text), repr(text)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_documents_are_shown_as_they_are_written(tmp_path: Path, name: str) -> None:
    """``mine [fast]`` was shown as ``mine``, ``mine [/x]`` ended in a traceback of rich."""
    system, device = tmp_path / "system.toml", tmp_path / "device.toml"
    system.write_text(f"name = {json.dumps(name, ensure_ascii=False)}\n{SYSTEM}")
    device.write_text(DEVICE_FILE.replace('"mine"', json.dumps(name, ensure_ascii=False)))
    shape = ("--heads", "2", "--length", "16", "--schedule", "complete")
    for command in (
        ("compare", "--system", system, "--model", "llama-2-7b", "--batch", "1"),
        ("attention", "--device", device, *shape),
    ):
        code, stdout, stderr = run(*command, columns=200)
        assert (code, stderr) == (0, "")
        check_plain(stdout)
        # A table breaks a name at its line ends. Of running text rich drops bells and returns.
        for line in re.split("[\n\r\x07]", name):
            assert printable(line) in stdout
        json.loads(run(*command, "--json")[1])


def check_both(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Check a command's table, its JSON document, and both its messages."""
    code, stdout, stderr = run(*command, env=env)
    check_plain(stdout + stderr)
    as_json, document, message = run(*command, "--json", env=env)
    assert as_json == code
    if code == 2:
        check_refusal(stdout, stderr)
        check_refusal(document, message)
        check_plain(message)
    else:
        assert (stderr, message) == ("", "")
        json.loads(document)


@pytest.mark.untraced  # of commands that have tests of their own
@pytest.mark.parametrize("name", NAMES)
def test_names_of_files(tmp_path: Path, name: str) -> None:
    """Every command that takes a file, once with it and once without."""
    folder = tmp_path / name.replace("/", "|")
    folder.mkdir()
    trace, log, table = folder / "a.trace", folder / "a.log", gemm_csv(folder / "a.csv", rows=20)
    trace.write_text(TRACE)
    check_both("trace", "run", trace, "--log", log)
    check_both("trace", "check", log)
    check_both("gpu", "check", table)
    for absent in (
        ("trace", "run", folder / "absent"),
        ("trace", "check", folder / "absent"),
        ("trace", "build", folder / "absent" / "x", "--heads", "1", "--length", "16"),
        ("gpu", "check", folder / "absent.csv"),
        ("compare", "--model", folder / "absent.toml"),
        ("compare", "--system", folder / "absent.toml"),
        ("compare", "--trace", folder / "absent.csv"),
        ("compare", folder / "absent.toml"),
        ("attention", "--device", folder / "absent.toml"),
        ("attention", "--lengths-file", folder / "absent"),
        ("accuracy", "--recorded", folder / "absent"),
        ("presets", "system", folder / "absent.toml"),
        ("reproduce", "--report", folder / "absent" / "a.html"),
        ("validate", "--reference", folder / "absent"),
    ):
        check_both(*absent)


@pytest.mark.parametrize("name", [*NAMES, NO_TEXT])
def test_values_on_the_command_line(name: str) -> None:
    """An option's value is part of the message that refuses it."""
    for command in (
        ("attention", "--heads", name),
        ("attention", "--placement", name),
        ("attention", "--device", name),
        ("attention", f"--{name}"),
        ("compare", "--model", name),
        ("compare", "--system", name),
        ("compare", "--workload", name),
        ("compare", "--batch", name),
        ("compare", "--gpu-model", name),
        ("reproduce", "--gpu-model", name),
        ("reproduce", name),
        ("accuracy", "--kv", name),
        ("gpu", "check", name),
        ("presets", name),
        ("presets", "system", name),
        ("reproduce", name),
        ("validate", "--claim", name),
        (name,),
    ):
        code, stdout, stderr = run(*command)
        assert code == 2
        check_refusal(stdout, stderr)
        check_plain(stderr)


def test_names_in_tables_of_measurements(tmp_path: Path) -> None:
    """The name of a GPU and the version of a framework come from a file, too."""
    table = gemm_csv(tmp_path / "gemm.csv", rows=20)
    hostile = "0.1 [/x] \x1b[31m $a$ $"
    table.write_text(table.read_text().replace("0.24.0", hostile))
    check_both("gpu", "check", table)
    check_both("gpu", "check", table, "--figure", tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "\x1b" not in text


@pytest.mark.untraced  # of commands that have tests of their own
@pytest.mark.parametrize(
    "env",
    [
        {"NO_COLOR": "1"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"TERM": "dumb"},
        {"TTY_COMPATIBLE": "0"},
    ],
)
def test_every_answer_in_other_surroundings(env: dict[str, str], tmp_path: Path) -> None:
    """Catches a document that is broken at the width, coloured, or beside another word."""
    table = gemm_csv(tmp_path / "gemm.csv", rows=20)
    for command in (
        ("compare", "--model", "llama-2-7b", "--batch", "1", "--system", "dgx-attacc-bank"),
        ("attention", "--heads", "2", "--length", "16"),
        ("presets",),
        ("presets", "system"),
        ("presets", "dram", "hbm3-5.2"),
        ("gpu", "check", table),
        ("accuracy", "--length", "64", "--head-dim", "16"),
    ):
        check_both(*command, env=env)


def test_a_process_without_a_terminal(tmp_path: Path) -> None:
    """What the runner inside the tests cannot show: bytes in names, an encoding that is narrow."""
    name = os.fsencode(tmp_path) + b"/\xff \x1b[31m.toml"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "attacc", "compare", "--model", name, "--json"],
        capture_output=True,
        check=False,
        env=os.environ
        | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "20"},
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")
    check_plain(done.stderr.decode("ascii"))
