"""The scheduler of Sarathi: decodes first, and the rest of a step's tokens for chunks of prompts.

Source: Vidur's Sarathi (7d47513), with one pipeline stage. A step takes three turns.

1. Every request that decodes gets a token, in the order of arrival. The chunk size does not limit
   them. Each one needs a free block, even where its token still fits into its last block. Where
   none is free, the last request that the turn has not looked at loses its memory, else the request
   itself. It goes to the front of the queue, and is prefilled again with its outputs.
2. Prefills that have begun get chunks, in the order of arrival, while the step has fewer tokens
   than the chunk size.
3. Waiting requests are started, also in a step that took memory from one. Each gets blocks for its
   whole prompt, beyond which the watermark must stay free.

The order of arrival is that of the starts: a request that loses its memory arrived after all others
that have memory, and it is the next one to be started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacc.serving.engines.policy import Call, Refusal, Request
from attacc.serving.engines.sums import Sums
from attacc.serving.engines.synchronous import Synchronous


@dataclass(frozen=True, slots=True)
class SarathiSettings:
    """What Sarathi is started with; defaults are those of Vidur (7d47513).

    Attributes:
        blocks: blocks of memory.
        block_tokens: tokens of a block.
        batch_size_cap: most requests that have memory.
        chunk_size: tokens of a step up to which prompts are prefilled.
        watermark_blocks_fraction: share of the blocks that stays free when a request is started.
    """

    blocks: int
    block_tokens: int = 16
    batch_size_cap: int = 128
    chunk_size: int = 512
    watermark_blocks_fraction: float = 0.01


class Sarathi(Synchronous):
    """The scheduler.

    Args:
        settings: what it is started with.
        tells: as in `Policy`.
    """

    name: ClassVar[str] = "sarathi"

    def __init__(self, settings: SarathiSettings, *, tells: bool = False) -> None:
        super().__init__(settings.blocks, settings.block_tokens, tells=tells)
        self._settings = settings
        self._spare = int(settings.watermark_blocks_fraction * settings.blocks)

    def arrive(self, request: Request) -> Refusal | None:
        """Put a request into the queue."""
        self._waiting.append(request)
        return None

    def schedule(self) -> Call:
        """Decide on a step."""
        call, sums = Call(), Sums()
        self._grow(call)
        self._decode(call, sums)
        left = self._prefill_more(self._settings.chunk_size - sums.decoding, call, sums)
        self._start(left, call, sums)
        return self._decide(call, sums)

    def _start(self, left: int, call: Call, sums: Sums) -> None:
        """Start waiting requests from the front, until one does not fit.

        Args:
            left: tokens that the step may still prefill.
            call: the call.
            sums: what the step computes.
        """
        while self._waiting and left > 0 and len(self._running) < self._settings.batch_size_cap:
            request = self._waiting[0]
            need = self._blocks(request.known)
            if self._free - need < self._spare:
                break
            self._waiting.popleft()
            self._free -= need
            self._running[request.index] = request
            tokens = min(request.known, left)
            self._prefill(request, tokens, call, sums)
            left -= tokens
