"""What all commands share when they answer."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from attacc.cli.output import print_answer
from attacc.errors import DocumentError, InputError
from attacc.files import LISTED_FILES, check_source, no_such_file
from attacc.results import Listing


@dataclass(frozen=True)
class Figure:
    """An answer of one figure."""

    value: float


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_figure_that_overflows_is_refused_in_tables_as_in_json(
    value: float,
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before, most commands printed inf in their tables."""
    with pytest.raises(InputError, match="a figure of the answer overflows"):
        print_answer(Listing([Figure(1.0), Figure(value)]), str, as_json=as_json)
    assert capsys.readouterr().out == ""


def test_every_command_answers_through_the_same_door() -> None:
    """Catches a command that renders a table of its own, past the check of its figures."""
    folder = Path(__file__).parents[2] / "src" / "attacc" / "cli"
    modules = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    doors = ("Console()", "Console(highlight", "dumps(", "to_json(")
    printing = {name for name, text in modules.items() if any(door in text for door in doors)}
    assert printing == {"output.py"}


def test_an_absent_source_proposes_what_is_near(tmp_path: Path) -> None:
    """Catches a folder of thousands of files that is listed in a message."""
    (tmp_path / "short.log").touch()
    (tmp_path / "other").touch()
    check_source(tmp_path / "short.log")
    with pytest.raises(DocumentError, match=r"\(did you mean 'short\.log'\?\)$"):
        check_source(tmp_path / "shor.log")
    with pytest.raises(DocumentError, match=r"no such file$"):
        check_source(tmp_path / "zzzzzzzzzzz")
    for number in range(LISTED_FILES):
        (tmp_path / f"{number}.toml").touch()
    assert "choose from" in str(no_such_file(tmp_path / "gpu.toml", (".toml",)))
    (tmp_path / "more.toml").touch()
    assert "choose from" not in str(no_such_file(tmp_path / "gpu.toml", (".toml",)))


def test_progress_off_a_terminal() -> None:
    """Catches minutes without a word where stderr is a file, and a word on stdout."""
    code = (
        "import sys; from attacc.cli import entry, output; output.HEARTBEAT_S = 0.02; "
        "sys.argv = ['attacc', 'compare', 'asplos2024', '--decode-only', '--json']; entry.run()"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"ATTACC_PROGRESS": "on"},
    )
    assert json.loads(done.stdout)["systems"]
    lines = done.stderr.splitlines()
    assert any(re.fullmatch(r"attacc: comparing dgx-\S+, \d of 7, \d+ s", line) for line in lines)


@pytest.mark.parametrize(("value", "code", "said"), [("off", 0, ""), ("fast", 2, "use on or off")])
def test_progress_is_turned_off_by_name(value: str, code: int, said: str) -> None:
    """Catches lines that cannot be turned off, and a slip that is passed over."""
    run = (
        "import sys; from attacc.cli import entry, output; output.HEARTBEAT_S = 0.001; "
        "sys.argv = ['attacc', 'presets', 'link']; entry.run()"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", run],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ATTACC_PROGRESS": value},
    )
    assert done.returncode == code
    assert said in done.stderr
    assert (done.stderr == "") == (said == "")
