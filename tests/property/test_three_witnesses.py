"""Kernel, naive controller and legality checker on 2,000 random programs per placement."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attacc.hardware.placement import Placement
from tests.property.witnesses import witness

pytestmark = pytest.mark.untraced  # the naive controllers would take three times as long

PROGRAMS = 2000
BATCH = 200
UNCOMPILED = 40


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
@pytest.mark.parametrize("placement", list(Placement))
def test_the_three_witnesses_agree(placement: Placement, first: int) -> None:
    """Catches any command that differs, any rule that is broken, and programs that test nothing."""
    told = [witness(placement, seed) for seed in range(first, first + BATCH)]
    assert len(set(told)) > BATCH / 2


def said(*, compiled: bool) -> str:
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "error", "-m", "tests.property.witnesses", str(UNCOMPILED)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "0" if compiled else "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_agree_without_compilation_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches what compiled code does and the same Python does not, on random programs."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # untraced as well
    answers = said(compiled=False)
    assert answers == said(compiled=True)
    assert len(answers.splitlines()) == UNCOMPILED * len(Placement)
