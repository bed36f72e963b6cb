"""Two parts of a step that take turns, event by event: what the recurrence must equal."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layer:
    """One layer of one part, in whole ticks; ``away`` is None without attention elsewhere."""

    ahead: int
    prompts: int
    away: int | None
    behind: int


@dataclass
class Job:
    """A piece of work on a resource, behind others that it needs."""

    ticks: int
    needs: list["Job"]
    end: int | None = None


@dataclass
class Resource:
    """Does one job at a time, in the order in which they were queued."""

    queue: list[Job] = field(default_factory=list[Job])
    running: Job | None = None
    free_at: int = 0
    busy: int = 0

    def add(self, ticks: int, needs: Sequence[Job]) -> Job:
        """Queue a job."""
        job = Job(ticks, list(needs))
        self.queue.append(job)
        return job

    def advance(self, now: int) -> bool:
        """End what ends now, and start the next job if all that it needs has ended."""
        changed = False
        if self.running is not None and self.free_at <= now:
            self.running.end, self.running = now, None
            changed = True
        if self.running is None and self.queue:
            job = self.queue[0]
            if all(need.end is not None for need in job.needs):
                self.queue.pop(0)
                self.running, self.free_at = job, now + job.ticks
                self.busy += job.ticks
                changed = True
        return changed


def play(
    parts: Sequence[Sequence[Layer]], order: Sequence[int], *, beside: bool
) -> tuple[int, int, int]:
    """Return when the last job ends, and how long the GPUs and the other devices are busy."""
    gpus, away = Resource(), Resource()
    last: list[list[Job]] = [[] for _ in parts]
    behind = [0 for _ in parts]
    started = [False for _ in parts]
    for kind in order:
        for number, part in enumerate(parts):
            if kind >= len(part):
                continue
            layer = part[kind]
            needs = last[number]
            if started[number]:
                needs = [gpus.add(behind[number], needs)]
            ahead = gpus.add(layer.ahead, needs)
            prompts = gpus.add(layer.prompts, [ahead])
            first = ahead if beside else prompts
            last[number] = [prompts]
            if layer.away is not None:
                last[number] = [away.add(layer.away, [first]), prompts]
            behind[number], started[number] = layer.behind, True
    for number in range(len(parts)):
        if started[number]:
            gpus.add(behind[number], last[number])
    now = 0
    while gpus.queue or away.queue or gpus.running or away.running:
        if not (gpus.advance(now) | away.advance(now)):
            now = min(r.free_at for r in (gpus, away) if r.running is not None)
    return now, gpus.busy, away.busy
