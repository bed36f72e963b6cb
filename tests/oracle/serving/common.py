"""What the twins of all serving engines share: jobs, steps, the event log, the synchronous loop.

Decisions that hold for every policy:

1. The engine looks for arrivals when a schedule call begins. A job that arrived at or before the
   time of the call is seen. Jobs are seen in the order of (arrival, index).
2. A rejection that an arrival causes has the time of the schedule call that first sees the job,
   and its line stands before the line of that call.
3. A schedule call that runs nothing takes no time. Where something waits, the call is logged, and
   the engine calls again at the same time. Where nothing waits, the call is neither logged nor
   counted, and the engine jumps to the next arrival.
4. Rows of a step, emitted tokens and finished requests are listed in scheduled order.
5. `run` and `free` are always in the line of a schedule call, `free` is always in the line of an
   update. Other fields are left out where they are empty.
6. A policy that keeps prefill and decode steps apart tells the kind of a step. Otherwise, a row is
   a prefill row if it computes a token of the prompt or more than one token, and a step is of kind
   "P" if all rows are prefill rows, "D" if none is, else "M".
7. Time starts at 0. Jobs ask for at least one output and have at least one prompt token.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Token = tuple[str, int, int]
"""A token by name: ("in", content, position in the run) or ("out", request, which output)."""


@dataclass(frozen=True)
class Job:
    """One request as it arrives.

    Args:
        index: number of the request; it orders equal arrivals.
        arrival_ps: when the request arrives.
        prompt: runs of (content, tokens); token j of a run is known by (content, j).
        outputs: tokens to produce.

    Raises:
        ValueError: if the prompt is empty, a run has no token, or no output is asked for.
    """

    index: int
    arrival_ps: int
    prompt: tuple[tuple[int, int], ...]
    outputs: int

    def __post_init__(self) -> None:
        if not self.prompt or min(tokens for _, tokens in self.prompt) < 1 or self.outputs < 1:
            raise ValueError(f"job {self.index}: {self.prompt}, {self.outputs} outputs")

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return sum(tokens for _, tokens in self.prompt)

    def names(self) -> list[Token]:
        """Names of the tokens of the prompt."""
        return [("in", content, j) for content, tokens in self.prompt for j in range(tokens)]


class Row(NamedTuple):
    """What a step computes for one request: `new` tokens after `known` ones that have their KV."""

    request: int
    new: int
    known: int


class Step(NamedTuple):
    """One step of an engine.

    Attributes:
        kind: "P" prefill, "D" decode, "M" both.
        rows: what is computed, in scheduled order.
        pool: "P" or "D" for the pools of a disaggregated system, else empty.
    """

    kind: str
    rows: tuple[Row, ...]
    pool: str = ""


Time = Callable[[Step], int]
"""Picoseconds that something takes for a step."""


def nothing(step: Step) -> int:
    """Time of a host that takes none."""
    return 0


def ceil_div(number: int, by: int) -> int:
    """A quotient, rounded up."""
    return -(-number // by)


class Request:
    """A request inside an engine.

    Attributes:
        index: number of the job.
        prompt: tokens of the prompt.
        names: names of all known tokens, those of the prompt and the outputs so far.
        outputs: outputs so far.
        most: outputs that end the request.
        done: tokens whose KV is computed or being computed.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.index = job.index
        self.prompt = job.tokens
        self.names = job.names()
        self.outputs = 0
        self.most = job.outputs
        self.done = 0

    @property
    def known(self) -> int:
        """Tokens whose names are known."""
        return len(self.names)

    def emit(self) -> None:
        """Receive one output."""
        self.names.append(("out", self.index, self.outputs))
        self.outputs += 1

    def ended(self, longest: int | None = None) -> bool:
        """Whether no output is left, or the sequence has reached the longest length."""
        return self.outputs >= self.most or (longest is not None and self.known >= longest)


class Planned(NamedTuple):
    """One request's part in a step, and whether the step emits a token for it."""

    request: Request
    new: int
    known: int
    emits: bool


def step_of(planned: Sequence[Planned], kind: str = "", pool: str = "") -> Step:
    """The step that a duration is asked for; without a kind, its rows tell the kind."""
    if not kind:
        prefills = [p.new > 1 or p.known < p.request.prompt for p in planned]
        kind = "P" if all(prefills) else "M" if any(prefills) else "D"
    return Step(kind, tuple(Row(p.request.index, p.new, p.known) for p in planned), pool)


class Call(NamedTuple):
    """What one schedule call decides.

    Attributes:
        planned: what runs, in scheduled order.
        hits: (request, tokens) of those admitted with tokens from a cache.
        preempted: requests that lost their memory, in order.
        stuck: whether the head of the queue can never run, if nothing runs.
        kind: "P" or "D" where the policy keeps them apart.
    """

    planned: list[Planned]
    hits: list[tuple[Request, int]]
    preempted: list[Request]
    stuck: bool = True
    kind: str = ""


class Log:
    """The event log.

    Args:
        prefix: what each line begins with.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.lines: list[str] = []
        self.calls = 0

    def _write(self, head: str, fields: Sequence[tuple[str, Sequence[object]]]) -> None:
        parts = [head]
        parts += [" ".join([name, *map(str, values)]) for name, values in fields if values]
        self.lines.append(self.prefix + " ".join(parts))

    def reject(self, request: Request, at_ps: int, reason: str) -> None:
        """A request that can never run."""
        self._write(f"reject {request.index} @{at_ps} reason={reason}", [])

    def schedule(self, at_ps: int, call: Call, waiting: Sequence[Request], free: int) -> int:
        """A schedule call; returns its number."""
        run = " ".join(["run", *(f"{p.request.index}:{p.new}" for p in call.planned)])
        fields: list[tuple[str, Sequence[object]]] = [
            ("hit", [f"{request.index}:{tokens}" for request, tokens in call.hits]),
            ("preempt", [request.index for request in call.preempted]),
            ("wait", [request.index for request in waiting]),
            ("free", [free]),
        ]
        self._write(f"S {self.calls} @{at_ps} {run}", fields)
        self.calls += 1
        return self.calls - 1

    def update(
        self,
        step: int,
        at_ps: int,
        emitted: Sequence[Request],
        finished: Sequence[Request],
        free: int,
    ) -> None:
        """The end of a step."""
        fields: list[tuple[str, Sequence[object]]] = [
            ("emit", [request.index for request in emitted]),
            ("finish", [request.index for request in finished]),
            ("free", [free]),
        ]
        self._write(f"U {step} @{at_ps}", fields)

    def text(self) -> str:
        """All lines, each ended by a newline."""
        return "".join(line + "\n" for line in self.lines)


class Arrivals:
    """Jobs that have not been seen, in the order of (arrival, index)."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs: list[Job] = []
        self.add(jobs)

    def add(self, jobs: Sequence[Job]) -> None:
        """Put in jobs that will arrive."""
        self.jobs = sorted([*self.jobs, *jobs], key=lambda job: (job.arrival_ps, job.index))

    def due(self, now_ps: int) -> list[Job]:
        """Take the jobs that have arrived."""
        taken: list[Job] = []
        while self.jobs and self.jobs[0].arrival_ps <= now_ps:
            taken.append(self.jobs.pop(0))
        return taken

    def next_ps(self) -> int | None:
        """When the next job arrives; None if there is none."""
        return self.jobs[0].arrival_ps if self.jobs else None


class Policy(ABC):
    """A scheduler whose steps do not overlap: schedule, execute, update, and again.

    Attributes:
        waiting: the queue, front first.
        log: what is written.
        now: time of the call, ps.
    """

    def __init__(self) -> None:
        self.now = 0
        self.waiting: list[Request] = []
        self.log = Log()

    @abstractmethod
    def arrive(self, job: Job) -> None:
        """Put a job into the queue, or reject it."""

    @abstractmethod
    def schedule(self) -> Call:
        """Decide on a step."""

    @abstractmethod
    def update(self, planned: Sequence[Planned]) -> tuple[list[Request], list[Request]]:
        """Take in a step's results; returns those that received a token and those finished."""

    @abstractmethod
    def free(self) -> int:
        """Blocks or tokens that are free."""

    def reject_head(self) -> None:
        """Drop the head of the queue, since it can never run."""
        self.log.reject(self.waiting.pop(0), self.now, "never")


def drive(policy: Policy, jobs: Sequence[Job], duration_ps: Time, host_ps: Time) -> str:
    """Run a scheduler whose steps do not overlap; returns the event log."""
    arrivals = Arrivals(jobs)
    log = policy.log
    while True:
        for job in arrivals.due(policy.now):
            policy.arrive(job)
        call = policy.schedule()
        if call.planned:
            number = log.schedule(policy.now, call, policy.waiting, policy.free())
            step = step_of(call.planned, call.kind)
            policy.now += host_ps(step) + duration_ps(step)
            emitted, finished = policy.update(call.planned)
            log.update(number, policy.now, emitted, finished, policy.free())
        elif policy.waiting:
            log.schedule(policy.now, call, policy.waiting, policy.free())
            if call.stuck:
                policy.reject_head()
        elif (arrival := arrivals.next_ps()) is not None:
            policy.now = max(policy.now, arrival)
        else:
            return log.text()
