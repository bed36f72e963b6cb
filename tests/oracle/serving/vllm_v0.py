"""The scheduler of vLLM V0 (0.6.6): prefill steps before decode steps, or chunked prefill.

Source: the executed semantics on the project's page of serving engines, sections 1.2 and 10.
Preemption recomputes. Prefix caching, swapping, several steps per schedule call and asynchronous
processing of outputs are not modelled.

Decisions:

1. A prompt of more than `max_model_len - 1` tokens is rejected as long when it is first seen. A
   head with more known tokens than the token budget is rejected as long (without chunked prefill),
   a victim with its outputs, too: the engine compares the length of the sequence.
   A head of which `blocks - need < watermark` is rejected as never. The lines of these two stand
   before the line of the schedule call that rejects.
2. A call that runs nothing and preempts nothing rejects the head as never. A call that runs nothing
   but preempts is followed by another call, which may admit the victim again: the prefill of a
   victim emits a token, so that the engine moves on.
3. The number of sequences counts all running requests and those admitted in the call.
4. In a chunked step the rule of one free block holds for decodes. A running prefill has its blocks.
5. In a chunked step requests that the budget left out stay at the front of `running`; then come the
   decodes, the running prefills and the new prefills of the step. A chunk that ends a prefill
   counts as a prefill.
6. The victim of a request is the last of those after it that the step has not looked at, else the
   request itself. A victim keeps its outputs and is prefilled over all its known tokens.
7. Rows and emitted tokens are listed in the order in which the budget is given out, not in the
   order of the batch on the device (prefills first).
8. Outputs end a request, or a length of max_model_len.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle.serving.common import (
    Call,
    Job,
    Planned,
    Policy,
    Request,
    Time,
    ceil_div,
    drive,
    nothing,
)


@dataclass(frozen=True)
class Settings:
    """What vLLM V0 is started with."""

    blocks: int
    max_model_len: int = 2048
    block_tokens: int = 16
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    chunked_prefill: bool = False
    watermark: float = 0.01


class Scheduler(Policy):
    """The state of the scheduler."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.running: list[Request] = []
        self.prefilling: set[int] = set()  # admitted, and no token emitted since then
        self.held: dict[int, int] = {}  # blocks of each request
        self.watermark = int(settings.watermark * settings.blocks)

    def free(self) -> int:
        return self.settings.blocks - sum(self.held.values())

    def arrive(self, job: Job) -> None:
        request = Request(job)
        if request.prompt > self.settings.max_model_len - 1:
            self.log.reject(request, self.now, "long")
        else:
            self.waiting.append(request)

    def schedule(self) -> Call:
        call = Call([], [], [])
        if self.settings.chunked_prefill:
            return self.chunked(call)
        admitted = self.admit(call, self.settings.max_num_batched_tokens)
        self.running += admitted
        if not admitted:
            queue, self.running = self.running, []
            while queue:
                request = queue.pop(0)
                if self.append_slot(request, queue, call.preempted):
                    self.running.append(request)
                    self.plan(call, request, 1)
            self.waiting[:0] = reversed(call.preempted)
        return call._replace(stuck=not call.preempted)

    def chunked(self, call: Call) -> Call:
        """Schedule decodes and chunks of prefills in one step."""
        budget = self.settings.max_num_batched_tokens
        queue, decodes, prefills = self.running, list[Request](), list[Request]()
        self.running = []
        while queue and budget > 0:
            request = queue.pop(0)
            left = request.known - request.done
            decode = request.index not in self.prefilling
            if decode and not self.append_slot(request, queue, call.preempted):
                continue
            n = min(left, budget)
            self.plan(call, request, n)
            budget -= n
            (decodes if decode else prefills).append(request)
        self.waiting[:0] = reversed(call.preempted)
        self.running = queue + decodes + prefills
        self.running += self.admit(call, budget)
        return call._replace(stuck=not call.preempted)

    def admit(self, call: Call, budget: int) -> list[Request]:
        """Admit from the head of the queue, with all blocks of all known tokens."""
        admitted: list[Request] = []
        chunks = self.settings.chunked_prefill
        while self.waiting:
            request = self.waiting[0]
            need = ceil_div(request.known, self.settings.block_tokens)
            if not chunks and request.known > self.settings.max_num_batched_tokens:
                self.log.reject(self.waiting.pop(0), self.now, "long")
                continue
            if self.settings.blocks - need < self.watermark:
                self.reject_head()
                continue
            n = min(request.known, budget) if chunks else request.known
            seqs = len(self.running) + len(admitted) + 1
            if (
                self.free() - need < self.watermark
                or not 0 < n <= budget
                or seqs > self.settings.max_num_seqs
            ):
                break
            self.held[request.index] = need
            self.prefilling.add(request.index)
            admitted.append(self.waiting.pop(0))
            self.plan(call, request, n)
            budget -= n
        return admitted

    def append_slot(self, request: Request, queue: list[Request], preempted: list[Request]) -> bool:
        """Give a decode its slot; one block must be free even if none is needed.

        Returns:
            False if the request itself was preempted.
        """
        while self.free() < 1:
            victim = queue.pop() if queue else request
            del self.held[victim.index]
            victim.done = 0
            preempted.append(victim)
            if victim is request:
                return False
        if request.known > self.held[request.index] * self.settings.block_tokens:
            self.held[request.index] += 1
        return True

    def plan(self, call: Call, request: Request, n: int) -> None:
        """Put n tokens of a request into the step."""
        before = request.done
        request.done += n
        call.planned.append(Planned(request, n, before, request.done == request.known))

    def update(self, planned: Sequence[Planned]) -> tuple[list[Request], list[Request]]:
        emitted = [p.request for p in planned if p.emits]
        for request in emitted:
            request.emit()
            self.prefilling.discard(request.index)
        finished = [r for r in emitted if r.ended(self.settings.max_model_len)]
        for request in finished:
            self.running.remove(request)
            del self.held[request.index]
        return emitted, finished


def simulate(
    jobs: Sequence[Job], settings: Settings, duration_ps: Time, host_ps: Time = nothing
) -> str:
    """The event log of vLLM V0."""
    return drive(Scheduler(settings), jobs, duration_ps, host_ps)
