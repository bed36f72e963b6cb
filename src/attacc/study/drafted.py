"""Attention of a step that verifies drafts, for each token that the step yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attacc.pim.stacks import AttentionOfStacks
from attacc.results import Result, flat
from attacc.workload.speculation import Speculation


@dataclass(frozen=True, slots=True)
class DraftedAttention(Result):
    """Attention of one step over the newest token of each request and its drafts.

    Attributes:
        attention: of all these tokens.
        speculation: the drafts, and how many are accepted.
    """

    attention: AttentionOfStacks
    speculation: Speculation

    @property
    def time_per_token_ns(self) -> float:
        """Time of the slowest stack over the tokens that the step yields for a request."""
        return self.attention.time_ns / self.speculation.tokens_per_step

    @property
    def energy_per_token_pj(self) -> float:
        """Energy of all stacks over the same tokens."""
        return self.attention.energy_pj / self.speculation.tokens_per_step

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the attention, and those for each token."""
        return self.attention.to_dict() | {
            "draft_tokens": self.speculation.draft_tokens,
            "acceptance": list(self.speculation.acceptance),
            "tokens_per_step": self.speculation.tokens_per_step,
            "time_per_token_ns": self.time_per_token_ns,
            "energy_per_token_pj": self.energy_per_token_pj,
        }

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row."""
        return [flat(self.to_dict())]
