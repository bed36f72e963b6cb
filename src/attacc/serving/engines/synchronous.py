"""What policies share that run one step at a time, without a prefix cache.

Each has one queue and counts free blocks of memory. A request prefills, then it decodes. All
requests that decode are counted together (`attacc.serving.engines.decodes`). In a step, decodes
come before prefills.
"""

from __future__ import annotations

from collections import deque

from attacc.serving.engines.decodes import Decodes
from attacc.serving.engines.policy import Call, Policy, Request
from attacc.serving.engines.sums import Sums


class Synchronous(Policy):
    """A policy with one step in flight and no prefix cache.

    Args:
        blocks: blocks of memory.
        size: tokens of a block.
        tells: as in `Policy`.
    """

    def __init__(self, blocks: int, size: int, *, tells: bool) -> None:
        super().__init__(tells=tells)
        self._free, self._size = blocks, size
        # Requests that have memory, in the order in which a step looks at them.
        self._running: dict[int, Request] = {}
        self._decodes = Decodes(size, self.ledger)
        # Requests whose prefill has begun and not ended; those whose prefill ends with the step.
        self._partial: dict[int, Request] = {}
        self._prefilled: list[Request] = []
        self._steps = 0

    # What others ask.

    @property
    def runs(self) -> int:
        """Requests that have memory."""
        return len(self._running)

    @property
    def free(self) -> int:
        """Blocks that are free."""
        return self._free

    # A step.

    def _blocks(self, tokens: int) -> int:
        """Return the blocks that hold tokens of one request."""
        return -(-tokens // self._size)

    def _prefill(self, request: Request, tokens: int, call: Call, sums: Sums) -> None:
        """Compute tokens of a request that has blocks for all its known tokens.

        Args:
            request: the request.
            tokens: how many, at least one.
            call: the call.
            sums: what the step computes.
        """
        emits = request.done + tokens == request.known
        sums.add(request, tokens, 0, emits=emits)
        request.done += tokens
        if emits:
            self._partial.pop(request.index, None)
            self._prefilled.append(request)
        else:
            self._partial[request.index] = request
        if self.tells:
            call.rows.append((request, tokens))
            if emits:
                call.emits.append(request)

    def _prefill_more(self, left: int, call: Call, sums: Sums) -> int:
        """Compute more of the prompts whose prefill has begun.

        There is one at most, and it is the youngest that has memory: nobody is admitted behind a
        prompt that takes all tokens of a step.

        Args:
            left: tokens that the step may still prefill.
            call: the call.
            sums: what the step computes.

        Returns:
            The tokens that are left then.
        """
        for request in list(self._partial.values()):
            tokens = min(request.known - request.done, left)
            if tokens > 0:
                self._prefill(request, tokens, call, sums)
                left -= tokens
        return left

    def _decode(self, call: Call, sums: Sums) -> None:
        """Compute a token of every request that decodes."""
        if self.tells:
            decoding = [one for one in self._running.values() if one in self._decodes]
            call.rows += [(request, 1) for request in decoding]
            call.emits += decoding
        self._decodes.round(sums)

    def _grow(self, call: Call) -> None:
        """Give every request that decodes the block that it needs.

        One block must be free for each request in its turn, even if it needs none. Where none is
        free, the last running request that the step has not looked at loses its memory, else the
        request itself.
        """
        need = self._decodes.need
        if not self._decodes or need < self._free:
            self._free -= need
            return
        others = deque(self._running.values())
        while others:
            request = others.popleft()
            if request in self._decodes and self._make_room(request, others, call):
                self._free -= self._decodes.needs(request)

    def _make_room(self, request: Request, others: deque[Request], call: Call) -> bool:
        """Free a block for a request.

        Args:
            request: the request.
            others: requests that may lose their memory, the last one first. Those that do are taken
                out.
            call: the call.

        Returns:
            Whether the request still has its own memory.
        """
        while self._free < 1:
            victim = others.pop() if others else request
            self._preempt(victim, call)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request, call: Call) -> None:
        """Take all memory from a request, and put it at the front of the queue."""
        if self._partial.pop(request.index, None) is None:
            self._decodes.remove(request)
            self._free += self._blocks(request.done)
        else:
            self._free += self._blocks(request.known)
        del self._running[request.index]
        request.done = 0
        request.preemptions += 1
        self._waiting.appendleft(request)
        call.preempted.append(request)

    def _decide(self, call: Call, sums: Sums, *, final: bool = True) -> Call:
        """Complete a call.

        Args:
            call: the call.
            sums: what the step computes.
            final: whether another call would decide the same if this one computes nothing, so that
                the head of the queue can never run.
        """
        call.work, call.tokens, call.begins = sums.work(), sums.tokens, sums.begins
        if call.work is not None:
            call.step = self._steps
            self._steps += 1
        elif self._waiting and final:
            self._stuck = self._waiting[0]
        return call

    def update(self, call: Call, now_ps: int) -> list[Request]:
        """Take in the results of a step."""
        ended = self._decodes.results(now_ps, call.tokens - len(self._prefilled))
        for request in self._prefilled:
            self.ledger.alone(request, now_ps)
            request.known += 1
            if request.known >= self._end(request):
                ended.append(request)
            else:
                self._decodes.add(request, self._end(request))
        self._prefilled = []
        for request in ended:
            self.ledger.finish(request, now_ps)
        self._leave(ended)
        return ended

    def _end(self, request: Request) -> int:
        """Return the known tokens with which a request ends."""
        return request.prompt + request.outputs

    def _leave(self, ended: list[Request]) -> None:
        """Free the memory of requests that ended with a step."""
        for request in ended:
            del self._running[request.index]
            self._free += self._blocks(request.done)
