"""The commands of the README, with the files that they name."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests import share
from tests.cli.console import invoke

ROOT = Path(__file__).parents[2]
SKIPPED = ("generate", "reproduce", "validate")
"""Commands that take minutes, or an extra: they have tests of their own."""


def commands() -> list[str]:
    """Lines of the README's shell blocks that run this package, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("attacc ")]


def chained(lines: list[str]) -> list[list[str]]:
    """Return commands together with those whose files they read: a trace that is built is run."""
    found: list[list[str]] = []
    for line in lines:
        if shlex.split(line)[1] in SKIPPED:
            continue
        if found and line.startswith("attacc trace") and found[-1][-1].startswith("attacc trace"):
            found[-1].append(line)
        else:
            found.append([line])
    return found


@pytest.mark.untraced  # of commands that have tests of their own
@pytest.mark.parametrize(
    "lines", share.cases(__name__, chained(commands()), 7), ids=lambda lines: lines[0]
)
def test_the_readmes_commands_run(
    lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a command of the README that fails, or a file that it names and that is not there."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for line in lines:
        result = invoke(*shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
        assert result.stdout


def test_the_readme_has_commands() -> None:
    """Catches a README whose commands are not found."""
    assert len(chained(commands())) > 10


def test_every_example_is_named(tmp_path: Path) -> None:
    """Catches a file among the examples that no command of the README uses, directly or not."""
    del tmp_path
    named = " ".join(commands()) + (ROOT / "examples" / "study.toml").read_text(encoding="utf-8")
    for path in (ROOT / "examples").iterdir():
        assert path.name == "README.md" or path.name in named
