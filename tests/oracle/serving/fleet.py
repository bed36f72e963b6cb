"""Several engines of vLLM V1 behind a router, in plain words.

Decisions:

1. Turns are taken in the order of time. Of turns at the same time, that of the engine with the
   lower number is first.
2. A request is sent to an engine when it arrives, before all turns at this time, and after all
   turns before it. The engine sees it at its next schedule call.
3. With clients that wait, a client sends its next request when its last one has ended or was
   rejected. A request that follows a rejection can be seen by the call that rejected.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.oracle.serving import vllm_v1
from tests.oracle.serving.common import Job, Time
from tests.oracle.serving.vllm_v1 import BlockRequest, Engine

Choose = Callable[[Job, Sequence[Engine]], int]
"""The number of the engine that gets a request."""


def round_robin() -> Choose:
    """One engine after the other."""
    sent: list[int] = []

    def choose(job: Job, engines: Sequence[Engine]) -> int:
        sent.append(job.index)
        return (len(sent) - 1) % len(engines)

    return choose


def least_loaded() -> Choose:
    """The engine with the least 4 * waiting + running, the first one of equal ones."""

    def load(engine: Engine) -> int:
        waiting = len(engine.waiting) + len(engine.arrivals.jobs)
        return 4 * waiting + len(engine.running)

    def choose(job: Job, engines: Sequence[Engine]) -> int:
        loads = [load(engine) for engine in engines]
        return loads.index(min(loads))

    return choose


class Clients:
    """Jobs in the order in which they are sent.

    Args:
        jobs: by arrival.
        concurrency: clients that wait for their answers; None for arrivals as they are.
    """

    def __init__(self, jobs: Sequence[Job], concurrency: int | None) -> None:
        self.jobs = list(jobs)
        self.free = None if concurrency is None else [0] * concurrency

    def next_ps(self) -> int | None:
        """When the next job arrives; None if that is not known."""
        if not self.jobs or self.free == []:
            return None
        return self.jobs[0].arrival_ps if self.free is None else self.free[0]

    def take(self) -> Job:
        """The next job, at its arrival."""
        job = self.jobs.pop(0)
        return job if self.free is None else replace(job, arrival_ps=self.free.pop(0))

    def answer(self, now_ps: int) -> None:
        """A client has its answer."""
        if self.free is not None:
            self.free.append(now_ps)


class Told(Engine):
    """An engine that tells when a request leaves it.

    Attributes:
        leave: is called at each end and at each rejection.
    """

    leave: Callable[[int], None]

    def finish(self, request: BlockRequest) -> None:
        super().finish(request)
        self.leave(self.now)

    def reject(self, request: BlockRequest, reason: str) -> None:
        super().reject(request, reason)
        self.leave(self.now)

    def receive(self) -> None:
        while due := self.arrivals.due(self.now):
            for job in due:
                self.arrive(job)


def simulate(
    jobs: Sequence[Job],
    settings: vllm_v1.Settings,
    number: int,
    choose: Choose,
    times: tuple[Time, Time],
    concurrency: int | None = None,
) -> list[str]:
    """The event logs of all engines."""
    engines = [Told([], settings, *times) for _ in range(number)]
    clients = Clients(jobs, concurrency)

    def send(until_ps: int) -> None:
        while (at := clients.next_ps()) is not None and at <= until_ps:
            job = clients.take()
            engines[choose(job, engines)].arrivals.jobs.append(job)

    def leave(now_ps: int) -> None:
        clients.answer(now_ps)
        send(now_ps)

    for engine in engines:
        engine.leave = leave
    while True:
        turns = [(at, i) for i, one in enumerate(engines) if (at := one.next_ps()) is not None]
        arrival = clients.next_ps()
        if arrival is not None and (not turns or arrival <= min(turns)[0]):
            send(arrival)
        elif turns:
            engines[min(turns)[1]].turn()
        else:
            return [engine.log.text() for engine in engines]
