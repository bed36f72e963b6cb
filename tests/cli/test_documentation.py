"""Pages of docs: their examples are what the commands print."""

import json
import re
import shlex
from pathlib import Path
from typing import cast

import pytest

from tests.cli.console import invoke

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = re.compile(r"^```console\n\$ attacc (.*)\n((?:.*\n)*?)```$", re.MULTILINE)
WALL_TIMES = ("parse_s", "simulate_s")


def without_wall_times(value: object) -> object:
    """Return a JSON document with 0 for what differs from machine to machine."""
    if isinstance(value, list):
        return [without_wall_times(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {key: 0.0 if key in WALL_TIMES else without_wall_times(item) for key, item in items}
    return value


@pytest.mark.parametrize(("page", "fewest"), [("reference/cli.md", 7), ("model/gqa.md", 3)])
def test_examples(page: str, fewest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key renamed, or a figure changed, that the documentation still tells otherwise."""
    monkeypatch.chdir(tmp_path)
    examples = EXAMPLES.findall((DOCS / page).read_text(encoding="utf-8"))
    assert len(examples) >= fewest
    for command, expected in examples:
        result = invoke(*shlex.split(command))
        if "--json" in command:
            got, told = (
                json.dumps(without_wall_times(json.loads(text)), indent=2)
                for text in (result.stdout, expected)
            )
            assert got == told, command
        else:
            assert result.output == expected, command


@pytest.mark.untraced  # a whole comparison
def test_the_readme_shows_what_the_main_job_prints() -> None:
    """Catches a table at the front door that the command no longer prints."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\n(\w(?:.*\n)*?)```$", readme, re.MULTILINE)
    assert len(shown) == 2
    printed = "\n".join(
        line.rstrip() for line in invoke("compare", columns=120).stdout.splitlines()
    )
    assert printed.startswith(shown[0])
    assert shown[1] in printed
