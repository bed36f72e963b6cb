"""Static batching: a batch runs until all of its requests have ended.

Source: FasterTransformer as Vidur has it. A batch starts as soon as a request waits and no batch
runs. It takes requests from the front of the queue until it has its size, or until the memory does
not suffice for the greatest length of another one. The first step prefills all prompts and gives
each request its first token. Each later step gives a token to every request that has not ended.
Requests that have ended keep their memory until the last one ends. Only then the next batch starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacc.serving.engines.policy import Call, Refusal, Request
from attacc.serving.engines.sums import Sums
from attacc.serving.engines.synchronous import Synchronous


@dataclass(frozen=True, slots=True)
class StaticSettings:
    """What static batching is started with; defaults are those of Vidur (7d47513).

    Attributes:
        blocks: blocks of memory.
        max_tokens: tokens of prompt and outputs that each request has memory for.
        block_tokens: tokens of a block.
        batch_size: most requests of a batch.
    """

    blocks: int
    max_tokens: int
    block_tokens: int = 16
    batch_size: int = 128


class Static(Synchronous):
    """The scheduler.

    Args:
        settings: what it is started with.
        tells: as in `Policy`.
    """

    name: ClassVar[str] = "static"

    def __init__(self, settings: StaticSettings, *, tells: bool = False) -> None:
        super().__init__(settings.blocks, settings.block_tokens, tells=tells)
        self._settings = settings
        self._each = self._blocks(settings.max_tokens)

    def arrive(self, request: Request) -> Refusal | None:
        """Put a request into the queue; it must fit into the memory of one request."""
        if request.prompt + request.outputs > self._settings.max_tokens:
            return Refusal.LONG
        self._waiting.append(request)
        return None

    def schedule(self) -> Call:
        """Decide on a step."""
        call, sums = Call(), Sums()
        if self._running:
            self._decode(call, sums)
        else:
            self._start(call, sums)
        return self._decide(call, sums)

    def _start(self, call: Call, sums: Sums) -> None:
        """Start a batch."""
        size = self._settings.batch_size
        while self._waiting and len(self._running) < size and self._each <= self._free:
            request = self._waiting.popleft()
            self._free -= self._each
            self._running[request.index] = request
            self._prefill(request, request.prompt, call, sums)

    def _leave(self, ended: list[Request]) -> None:
        """Free the memory of the batch if its last requests have ended."""
        if ended and not self._decodes:
            self._free += self._each * len(self._running)
            self._running.clear()
