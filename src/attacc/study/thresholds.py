"""From which output length on AttAccs pay.

Prefill runs on the GPUs, with AttAccs or without. So a gain grows with the share of decode, and
with the tokens that it attends to. Longer outputs are tried in the layout and with the engine that
were chosen for the lengths that were asked for, each with its own best batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.errors import InputError
from attacc.serving.candidates import BatchSearch, Served
from attacc.serving.policies import PrefillPolicy, ServingOptions
from attacc.workload.requests import Workload, WorkloadKind, fixed_lengths

PAYS: Final = 1.05
"""Speed-up from which AttAccs are said to pay."""
FACTORS: Final = (4, 16)
"""Multiples of the output length that are tried."""
MOST_TOKENS: Final = 131_072
"""Longest outputs that are tried."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The shortest output that was tried for which AttAccs pay.

    Attributes:
        output_tokens: its tokens; None where they pay for none that was tried.
        speedup: over whole requests, at that length, or at the longest that was tried.
        longest_tried: output tokens of the longest that was tried.
    """

    output_tokens: int | None
    speedup: float
    longest_tried: int


def pays_from(
    mine: Served, base: Served, workload: Workload, options: ServingOptions
) -> Threshold | None:
    """Return from which output length on a system pays against another.

    Args:
        mine: the best way of the system.
        base: the best way of the system that it is compared with.
        workload: the requests that were asked for.
        options: what was asked.

    Returns:
        The threshold; None where requests differ, where other GPUs prefill, or where no longer
        output fits.
    """
    speedup = mine.requests_per_s / base.requests_per_s
    equal = workload.kind is WorkloadKind.FIXED and len(workload) == 1
    if not equal or options.prefill is PrefillPolicy.DISAGGREGATED:
        return None
    prompt, output = int(workload.prompt_tokens[0]), int(workload.output_tokens[0])
    if speedup >= PAYS:
        return Threshold(output, speedup, output)
    made_for = mine.pricer.model.model.max_context or MOST_TOKENS
    tried: Threshold | None = None
    for factor in FACTORS:
        longer = output * factor
        if longer > MOST_TOKENS or prompt + longer > made_for:
            break
        requests = fixed_lengths(prompt, longer)
        try:
            rates = [
                BatchSearch(way.pricer, requests, options, way.layout, way.engine)
                .best()
                .requests_per_s
                for way in (mine, base)
            ]
        except InputError:
            break
        gain = rates[0] / rates[1]
        tried = Threshold(longer if gain >= PAYS else None, gain, longer)
        if tried.output_tokens is not None:
            break
    return tried
