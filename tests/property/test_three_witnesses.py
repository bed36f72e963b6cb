"""Kernel, naive controller and legality checker on 2,000 random programs per placement."""

import pytest

from attacc.hardware.placement import Placement
from tests import share
from tests.property.witnesses import witness
from tests.uncompiled import printed

pytestmark = pytest.mark.untraced  # the naive controllers would take three times as long

PROGRAMS = 2000
BATCH = 200
UNCOMPILED = 40
SCRIPT = ("-m", "tests.property.witnesses", str(UNCOMPILED))


@pytest.mark.parametrize("first", share.cases(__name__, range(0, PROGRAMS, BATCH), 1))
@pytest.mark.parametrize("placement", list(Placement))
def test_the_three_witnesses_agree(placement: Placement, first: int) -> None:
    """Catches any command that differs, any rule that is broken, and programs that test nothing."""
    told = [witness(placement, seed) for seed in range(first, first + BATCH)]
    assert len(set(told)) > BATCH / 2


def test_they_agree_without_compilation_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches what compiled code does and the same Python does not, on random programs."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # untraced as well
    answers = printed(*SCRIPT, compiled=False)
    assert answers == printed(*SCRIPT, compiled=True)
    assert len(answers.splitlines()) == UNCOMPILED * len(Placement)
