"""The shape of the code: what no contract of imports can say."""

import ast
from pathlib import Path

import pytest

import attacc

PACKAGE = Path(attacc.__file__).parent
MOST_ARGUMENTS = 20
MOST_MODULES = 18


@pytest.mark.untraced  # reads the sources
def test_no_function_takes_more_arguments_than_a_reader_can() -> None:
    """Catches state that is handed over array by array; commands have an argument an option."""
    wide: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                a = node.args
                number = len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs)
                if number > MOST_ARGUMENTS:
                    wide[f"{path.relative_to(PACKAGE)}: {node.name}"] = number
    assert wide == {}


def test_no_room_holds_more_modules_than_a_page() -> None:
    """Catches a folder that has become a heap."""
    for folder in [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]:
        assert len(list(folder.glob("*.py"))) <= MOST_MODULES, folder
