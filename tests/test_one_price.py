"""One price and one capacity: nobody else computes them."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import attacc

PACKAGE = Path(attacc.__file__).parent
PRICES = {"step_costs"}
"""What prices operators of a step. The pricer is the way to it; the released program's own steps,
and schedules of single operators beside the closed forms, are made of other operators."""
MAY_PRICE = {
    "system/step.py",
    "system/pricer.py",
    "study/papers/pipelined_layer.py",
    "study/papers/step.py",
}
CAPACITY = {
    "check_batch",
    "copies_that_fit",
    "footprint",
    "footprint_of",
    "largest_batch",
    "preferred_batch",
    "stores",
}
MAY_FIT = {"system/capacity.py", "system/pricer.py"}
MODULES = re.compile(r"attacc\.system\.(step|capacity) import")
"""Modules of the functions above; no other file needs a closer look."""
REPLACED = re.compile(
    r"\b(DecodePricer|prefill_cost|_mean_step|_largest_within_target|calibrated_step|decode_time"
    r"|prefill_time|copied_capacity)\b"
)


@cache
def imports(path: Path) -> set[tuple[str, str]]:
    """Modules and names that a file imports from the package."""
    found: set[tuple[str, str]] = set()
    text = path.read_text(encoding="utf-8")
    if not MODULES.search(text):
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {(node.module, alias.name) for alias in node.names}
    return found


def users(module: str, names: set[str]) -> set[str]:
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(where == module and name in names for where, name in imports(path))
    }


@pytest.mark.untraced  # reads the sources
def test_steps_are_priced_in_one_place() -> None:
    """Catches a second path from a batch to a price."""
    assert users("attacc.system.step", PRICES) <= MAY_PRICE
    assert "system/pricer.py" in users("attacc.system.step", PRICES)


@pytest.mark.untraced  # reads the sources
def test_what_fits_is_decided_in_one_place() -> None:
    """Catches a second answer to whether a batch fits."""
    assert users("attacc.system.capacity", CAPACITY) <= MAY_FIT
    assert "system/pricer.py" in users("attacc.system.capacity", CAPACITY)


def test_what_the_pricer_replaces_is_gone() -> None:
    """Catches an earlier pricer that comes back under its name."""
    left = {
        path.relative_to(PACKAGE).as_posix(): match.group()
        for path in PACKAGE.rglob("*.py")
        if (match := REPLACED.search(path.read_text(encoding="utf-8")))
    }
    assert left == {}
