"""Speculative decoding: drafts of several tokens that one step verifies.

A step verifies ``draft_tokens`` drafts beside the newest token. Draft i is kept if it and all
before it are accepted. So a step yields 1 + a1 + a1 a2 + ... tokens on average, where ai is the
probability that draft i is accepted if those before it were (Leviathan et al., arXiv 2211.17192,
section 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from attacc.errors import InputError
from attacc.units import finite, whole

MOST_DRAFTS: Final = 64
"""Drafts of one step at most: far more than anybody verifies."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """Drafts of every step.

    Attributes:
        draft_tokens: drafts that a step verifies; 0 without speculation.
        acceptance: for each draft, the probability that it is accepted if those before it were.
    """

    draft_tokens: int = 0
    acceptance: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, draft_tokens: int | None = None, acceptance: float | Iterable[float] | None = None
    ) -> Speculation:
        """Return what is asked for.

        Args:
            draft_tokens: drafts of a step; None or 0 for none.
            acceptance: a probability for every draft, or one for all.

        Raises:
            InputError: a number is out of range, or the numbers do not fit each other.
        """
        drafts = 0 if draft_tokens is None else whole(draft_tokens, where="draft_tokens", least=0)
        if drafts > MOST_DRAFTS:
            raise InputError(
                f"{drafts} is out of range", where="draft_tokens", hint=f"use 0 to {MOST_DRAFTS}"
            )
        if not drafts:
            if acceptance is not None:
                raise InputError(
                    "there are no drafts to accept", where="acceptance", hint="give draft_tokens"
                )
            return cls()
        if acceptance is None:
            raise InputError(
                f"how many of {drafts} drafts are accepted is not known",
                where="acceptance",
                hint="give a probability, as in 0.8, or one for each draft",
            )
        each: list[float]
        if isinstance(acceptance, float | int):
            each = [float(acceptance)] * drafts
        else:
            each = list(acceptance)
        if len(each) != drafts:
            raise InputError(
                f"{len(each)} probabilities for {drafts} drafts",
                where="acceptance",
                hint="give one for all, or one for each",
            )
        checked = tuple(finite(one, where="acceptance", least=0) for one in each)
        for one in checked:
            if one > 1:
                what = f"{one:g} is no probability"
                raise InputError(what, where="acceptance", hint="use 0 to 1")
        return cls(drafts, checked)

    @property
    def queries(self) -> int:
        """Tokens of a request that a step computes: its newest one, and the drafts."""
        return 1 + self.draft_tokens

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a step yields for a request, on average."""
        kept, total = 1.0, 1.0
        for chance in self.acceptance:
            kept *= chance
            total += kept
        return total


NO_DRAFTS: Final = Speculation()
