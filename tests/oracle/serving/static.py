"""Static batching: a batch runs until all of its requests have finished.

Source: the project's page of serving engines, section 1.5.

Decisions:

1. A batch takes requests from the head of the queue up to the batch size, as long as the memory of
   `max_tokens` is free for each: ceil(max_tokens / block) blocks.
2. The first step of a batch prefills all of its prompts and emits a token for each. Each later step
   decodes the requests that are not finished.
3. All blocks of a batch are freed in the update in which its last request finishes.
4. A request with more than `max_tokens` prompt tokens and outputs is rejected as long when it is
   first seen.
5. A schedule call that can start no request although none runs rejects the head as never.
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
    """What a static batcher is started with."""

    blocks: int
    block_tokens: int = 16
    batch_size: int = 8
    max_tokens: int = 4096
    """Prompt tokens and outputs that each request has memory for."""


class Scheduler(Policy):
    """The state of the scheduler."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.each = ceil_div(settings.max_tokens, settings.block_tokens)
        self.batch: list[Request] = []

    def free(self) -> int:
        return self.settings.blocks - len(self.batch) * self.each

    def arrive(self, job: Job) -> None:
        request = Request(job)
        if request.prompt + request.most > self.settings.max_tokens:
            self.log.reject(request, self.now, "long")
        else:
            self.waiting.append(request)

    def schedule(self) -> Call:
        if not self.batch:
            while (
                self.waiting
                and len(self.batch) < self.settings.batch_size
                and self.free() >= self.each
            ):
                self.batch.append(self.waiting.pop(0))
        call = Call([], [], [])
        for request in self.batch:
            if not request.ended():
                n = request.known - request.done
                call.planned.append(Planned(request, n, request.done, True))
                request.done += n
        return call

    def update(self, planned: Sequence[Planned]) -> tuple[list[Request], list[Request]]:
        emitted = [p.request for p in planned]
        for request in emitted:
            request.emit()
        finished = [request for request in emitted if request.ended()]
        if all(request.ended() for request in self.batch):
            self.batch = []
        return emitted, finished


def simulate(
    jobs: Sequence[Job], settings: Settings, duration_ps: Time, host_ps: Time = nothing
) -> str:
    """The event log of static batching."""
    return drive(Scheduler(settings), jobs, duration_ps, host_ps)
