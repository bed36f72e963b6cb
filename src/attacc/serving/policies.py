"""How prefill and decode share the GPUs, and what users may be asked to wait."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from attacc.gpu.models import Engine

TOKEN_BUDGET: Final = 8192
"""Tokens of one step, of all requests together: the default of vLLM's server on large GPUs
(``max_num_batched_tokens``) and of TensorRT-LLM (``max_num_tokens``)."""


class PrefillPolicy(StrEnum):
    """How the GPUs that decode also prefill."""

    SERIAL = "serial"
    """A step prefills one prompt or decodes. All that decode wait for a prefill."""
    MIXED = "mixed"
    """Prompts are prefilled in the same steps as others decode, up to a budget of tokens."""
    DISAGGREGATED = "disaggregated"
    """Some of the GPUs prefill, the others decode."""


@dataclass(frozen=True, slots=True)
class EngineRules:
    """What an engine allows.

    Attributes:
        most_requests: requests in flight on one replica.
        reserves_output: whether a request gets memory for its whole length when it starts, so that
            none is ever evicted. Otherwise it gets memory as its tokens come.
    """

    most_requests: int
    reserves_output: bool


ENGINE_RULES: Final = {
    Engine.VLLM: EngineRules(1024, reserves_output=False),
    Engine.TRTLLM: EngineRules(2048, reserves_output=True),
}
"""Defaults: vLLM's ``max_num_seqs`` on large GPUs, and its blocks that are allocated as tokens
come; TensorRT-LLM's ``max_batch_size``, and its scheduler that guarantees no eviction."""
NO_ENGINE: Final = EngineRules(2**20, reserves_output=False)
"""The published GPU model has no engine: memory alone limits the requests."""


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """What is asked of whole requests.

    Attributes:
        prefill: how the GPUs prefill.
        token_budget: tokens of one step at most, of decode and prefill together, on each group of
            GPUs that has requests of its own.
        prefill_gpus: GPUs that prefill, where they do nothing else.
        slo_tpot_ms: longest acceptable mean time per output token.
        slo_ttft_ms: longest acceptable time to the first token, without queueing.
    """

    prefill: PrefillPolicy = PrefillPolicy.MIXED
    token_budget: int = TOKEN_BUDGET
    prefill_gpus: int | None = None
    slo_tpot_ms: float | None = None
    slo_ttft_ms: float | None = None
