"""The Sarathi scheduler as Vidur has it: chunked prefill with all prompt blocks at admission.

Source: the executed semantics on the project's page of serving engines, sections 1.3 and 10.

Decisions:

1. A preempted request keeps its outputs and is prefilled over all its known tokens. This holds for
   a request preempted in the middle of its prefill, too: the page calls Vidur's other result for
   that case a defect.
2. Started requests are looked at in the order of (arrival, index), which is sorted in every call.
3. The victim of a decode is the last started request that the call has not looked at, be it a
   decode or an incomplete prefill, else the request itself. Incomplete prefills that were put aside
   are no victims.
4. Each victim is put at the front of the queue, one after the other.
5. The watermark is int(fraction * blocks). Decodes do not keep it.
6. A call that runs nothing rejects the head as never: nothing is started then, and another call
   would decide the same.
7. No length is too long: the page gives no limit of the model's length.
8. The micro-batch cap is the batch cap: one pipeline stage.
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
    """What Vidur's Sarathi is started with."""

    blocks: int
    block_tokens: int = 16
    batch_size_cap: int = 128
    chunk_size: int = 512
    watermark_blocks_fraction: float = 0.01


class Scheduler(Policy):
    """The state of the scheduler."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.started: list[Request] = []
        self.held: dict[int, int] = {}  # blocks of each started request
        self.target: dict[int, int] = {}  # tokens that each started request has to prefill
        self.watermark = int(settings.watermark_blocks_fraction * settings.blocks)

    def free(self) -> int:
        return self.settings.blocks - sum(self.held.values())

    def arrive(self, job: Job) -> None:
        self.waiting.append(Request(job))

    def schedule(self) -> Call:
        call = Call([], [], [])
        queue = sorted(self.started, key=lambda r: (r.job.arrival_ps, r.index))
        prefills: list[Request] = []
        while queue and len(call.planned) < self.settings.batch_size_cap:
            request = queue.pop(0)
            if request.done < self.target[request.index]:
                prefills.append(request)
            elif self.append_slot(request, queue, call.preempted):
                self.plan(call, request, 1)
        for request in prefills:
            n = min(self.target[request.index] - request.done, self.room(call))
            if n > 0:
                self.plan(call, request, n)
        self.admit(call)
        return call

    def append_slot(self, request: Request, queue: list[Request], preempted: list[Request]) -> bool:
        """Give a decode its slot; one block must be free even if none is needed.

        Returns:
            False if the request itself was preempted.
        """
        while self.free() < 1:
            victim = queue.pop() if queue else request
            self.started.remove(victim)
            del self.held[victim.index], self.target[victim.index]
            victim.done = 0
            self.waiting.insert(0, victim)
            preempted.append(victim)
            if victim is request:
                return False
        if request.known > self.held[request.index] * self.settings.block_tokens:
            self.held[request.index] += 1
        return True

    def room(self, call: Call) -> int:
        """Tokens that the chunk has left."""
        return self.settings.chunk_size - sum(p.new for p in call.planned)

    def admit(self, call: Call) -> None:
        """Start waiting requests, with all blocks of all known tokens."""
        cap = self.settings.batch_size_cap
        while self.waiting and len(self.started) < cap and len(call.planned) < cap:
            request = self.waiting[0]
            need = ceil_div(request.known, self.settings.block_tokens)
            n = min(request.known, self.room(call))
            if self.free() - need < self.watermark or n <= 0:
                break
            self.started.append(self.waiting.pop(0))
            self.held[request.index] = need
            self.target[request.index] = request.known
            self.plan(call, request, n)

    def plan(self, call: Call, request: Request, n: int) -> None:
        """Put n tokens of a request into the step."""
        before = request.done
        request.done += n
        call.planned.append(Planned(request, n, before, request.done == request.known))

    def update(self, planned: Sequence[Planned]) -> tuple[list[Request], list[Request]]:
        emitted = [p.request for p in planned if p.emits]
        for request in emitted:
            request.emit()
        finished = [request for request in emitted if request.ended()]
        for request in finished:
            self.started.remove(request)
            del self.held[request.index], self.target[request.index]
        return emitted, finished


def simulate(
    jobs: Sequence[Job], settings: Settings, duration_ps: Time, host_ps: Time = nothing
) -> str:
    """The event log of Vidur's Sarathi scheduler."""
    return drive(Scheduler(settings), jobs, duration_ps, host_ps)
