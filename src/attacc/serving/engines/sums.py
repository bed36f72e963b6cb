"""What a step computes, as a policy puts it together row by row."""

from __future__ import annotations

from attacc.serving.engines.policy import Remote, Request
from attacc.serving.work import Chunk, Work


class Sums:
    """What a step computes, as it is put together.

    Attributes:
        decoding: as in `Work`.
        keys: as in `Work`.
        longest: as in `Work`.
        chunks: as in `Work`.
        tokens: requests that get a token.
        begins: requests whose prompts end with the step, so that they decode from then on.
        loads: requests that decode for the first time, since their prompts were loaded.
    """

    __slots__ = ("begins", "chunks", "decoding", "keys", "loads", "longest", "tokens")

    def __init__(self) -> None:
        self.decoding = self.keys = self.longest = self.tokens = 0
        self.chunks: list[Chunk] = []
        self.begins: list[Request] = []
        self.loads: list[Request] = []

    def add(self, request: Request, new: int, cached: int, *, emits: bool) -> None:
        """Count computed tokens of a request, after those that are done.

        A single token decodes if it follows the prompt, or if all tokens before it were loaded.

        Args:
            request: the request.
            new: how many.
            cached: tokens before them from the prefix cache.
            emits: whether the request gets a token.
        """
        self.tokens += emits
        loaded = request.remote is Remote.LOADED
        if new == 1 and (request.done >= request.prompt or loaded):
            self.decoding += 1
            self.keys += request.done + 1
            self.longest = max(self.longest, request.done + 1)
            if request.done < request.prompt:
                self.loads.append(request)
        else:
            self.chunks.append(Chunk(new, request.done, cached, emits))
            if emits:
                self.begins.append(request)

    def work(self) -> Work | None:
        """Return what the step computes; None for nothing."""
        if not self.decoding and not self.chunks:
            return None
        return Work(self.decoding, self.keys, self.longest, tuple(self.chunks))
