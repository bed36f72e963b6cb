"""The scheduler of vLLM V0: prefill steps before decode steps, or chunked prefill.

Source: vLLM 0.6.6. By default a step prefills or decodes. As long as the request at the front of
the queue can be admitted, steps prefill whole prompts, and all requests that decode wait. With
chunked prefill, running requests come first: those that decode, then the prompt whose prefill has
begun. Then waiting requests are admitted while tokens are left.

A request gets blocks for its whole prompt when it is admitted. A request that decodes needs a free
block, even where its token still fits into its last block. Where none is free, the last running
request that the step has not looked at loses its memory, else the request itself. It goes to the
front of the queue, and is prefilled again with its outputs.

Prefix caching, swapping, several steps for each call and outputs that are processed while the next
step runs are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacc.serving.engines.policy import Call, Refusal, Request
from attacc.serving.engines.sums import Sums
from attacc.serving.engines.synchronous import Synchronous

_LEAST_BUDGET = 2048
"""Tokens of a step by default, with chunked prefill or for short lengths (vLLM 0.6.6)."""


@dataclass(frozen=True, slots=True)
class VllmV0Settings:
    """What vLLM V0 is started with; defaults are those of vLLM 0.6.6.

    Attributes:
        blocks: blocks of memory.
        max_model_len: most tokens of a request.
        block_tokens: tokens of a block.
        max_num_batched_tokens: most tokens that a step prefills, with chunked prefill most tokens
            of a step; None for 2,048, and without chunked prefill at least ``max_model_len``.
        max_num_seqs: most running requests.
        chunked_prefill: whether a prompt may take several steps, beside requests that decode. The
            engine switches this on itself where ``max_model_len`` exceeds 32,768.
        watermark: share of the blocks that stays free when a request is admitted.
    """

    blocks: int
    max_model_len: int
    block_tokens: int = 16
    max_num_batched_tokens: int | None = None
    max_num_seqs: int = 256
    chunked_prefill: bool = False
    watermark: float = 0.01

    @property
    def budget(self) -> int:
        """Most tokens of a step."""
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens
        return _LEAST_BUDGET if self.chunked_prefill else max(self.max_model_len, _LEAST_BUDGET)


class VllmV0(Synchronous):
    """The scheduler.

    Args:
        settings: what it is started with.
        tells: as in `Policy`.
    """

    name: ClassVar[str] = "vllm-v0"

    def __init__(self, settings: VllmV0Settings, *, tells: bool = False) -> None:
        super().__init__(settings.blocks, settings.block_tokens, tells=tells)
        self._settings = settings
        self._total, self._budget = settings.blocks, settings.budget
        self._spare = int(settings.watermark * settings.blocks)

    def arrive(self, request: Request) -> Refusal | None:
        """Put a request into the queue; the model must have room for its prompt and a token."""
        if request.prompt > self._settings.max_model_len - 1:
            return Refusal.LONG
        self._waiting.append(request)
        return None

    def schedule(self) -> Call:
        """Decide on a step."""
        call, sums, budget = Call(), Sums(), self._budget
        if self._settings.chunked_prefill:
            self._grow(call)
            self._decode(call, sums)
            self._admit(self._prefill_more(budget - sums.decoding, call, sums), call, sums)
        else:
            self._admit(budget, call, sums)
            if not sums.chunks:
                self._grow(call)
                self._decode(call, sums)
        return self._decide(call, sums, final=not call.preempted)

    def _admit(self, budget: int, call: Call, sums: Sums) -> None:
        """Admit waiting requests from the front, until one does not fit."""
        settings = self._settings
        while self._waiting:
            request = self._waiting[0]
            need = self._blocks(request.known)
            refusal = self._refusal(request, need)
            if refusal is not None:
                call.rejected.append((self._waiting.popleft(), refusal))
                continue
            tokens = min(request.known, budget) if settings.chunked_prefill else request.known
            if self._free - need < self._spare or not 0 < tokens <= budget:
                break
            if len(self._running) >= settings.max_num_seqs:
                break
            self._waiting.popleft()
            self._free -= need
            self._running[request.index] = request
            self._prefill(request, tokens, call, sums)
            budget -= tokens

    def _refusal(self, request: Request, need: int) -> Refusal | None:
        """Return why the request at the front of the queue can never be admitted.

        Args:
            request: the request.
            need: blocks of its known tokens.
        """
        if not self._settings.chunked_prefill and request.known > self._budget:
            return Refusal.LONG
        return Refusal.NEVER if self._total - need < self._spare else None

    def _end(self, request: Request) -> int:
        """Return the known tokens with which a request ends."""
        return min(request.prompt + request.outputs, self._settings.max_model_len)
