"""Drafts of decode steps: how many tokens a step yields, and impossible numbers."""

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.workload.speculation import Speculation


def test_tokens_of_a_step_are_those_of_drawn_drafts() -> None:
    """Catches a draft that is kept although one before it was rejected."""
    chances = (0.9, 0.5, 0.7)
    drafts = Speculation.of(3, chances)
    accepted = np.random.default_rng(5).random((200_000, 3)) < chances
    kept = np.cumprod(accepted, axis=1).sum(axis=1)
    assert drafts.queries == 4
    assert drafts.tokens_per_step == pytest.approx(1 + 0.9 + 0.45 + 0.315)
    assert drafts.tokens_per_step == pytest.approx(1 + kept.mean(), rel=2e-3)


def test_one_probability_holds_for_all_drafts() -> None:
    """Catches a number that is taken for that of the first draft."""
    assert Speculation.of(2, 0.5) == Speculation.of(2, [0.5, 0.5])
    assert Speculation.of() == Speculation.of(0) == Speculation()
    assert Speculation().tokens_per_step == 1


@pytest.mark.parametrize(
    ("drafts", "acceptance", "message"),
    [
        (2, None, "acceptance: how many of 2 drafts are accepted is not known"),
        (2, [0.5], "acceptance: 1 probabilities for 2 drafts"),
        (2, 1.5, "acceptance: 1.5 is no probability"),
        (2, -0.5, "acceptance: -0.5 is out of range"),
        (65, 0.5, "draft_tokens: 65 is out of range"),
        (None, 0.5, "acceptance: there are no drafts to accept"),
    ],
)
def test_impossible_drafts(
    drafts: int | None, acceptance: float | list[float] | None, message: str
) -> None:
    """Catches a number that is taken although it means nothing."""
    with pytest.raises(InputError) as refusal:
        Speculation.of(drafts, acceptance)
    assert str(refusal.value).startswith(message)
