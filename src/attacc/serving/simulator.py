"""Requests over time on engines: arrivals, steps, and what happens when.

An engine has one host thread, which schedules, launches and takes in results. A policy allows one
or two steps in flight. With fewer in flight, the thread schedules; else it waits for the oldest
step. The thread goes on when it has launched a step, ``host_ps`` after the call. The device runs
one step after the other. So a step takes the sum of host and device with one step in flight, and
the longer of both with two. Times are whole picoseconds.

An engine moves on in turns: a call of its policy, or the results of a step. The dispatcher plays
the turns of all engines in the order of time, equal times by the engines' numbers. At each arrival
it asks a router which instance gets the request. Arrivals come before turns at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from attacc.serving.clients import Clients
from attacc.serving.engines.policy import Call, Policy, Refusal, Request
from attacc.serving.records.requests import Rejections
from attacc.serving.records.steps import Steps
from attacc.serving.work import Work

Times = Callable[[Work], int]
"""Picoseconds that something takes for a step."""
Answer = Callable[[int], None]
"""Takes the time in picoseconds at which a request has ended or is rejected."""
NEVER: Final = 2**80
"""A time that does not come."""
Interrupted = Callable[[], bool]
"""Is called when an interrupt has come; returns whether what was played so far is kept."""


class Flight(NamedTuple):
    """A step that was launched."""

    call: Call
    number: int
    end_ps: int


@dataclass(slots=True)
class Events:
    """The events of a run as lines of text, one for each, for comparison and for reading.

    ``S 3 @900 run 0:1 1:8 hit 1:16 preempt 2 wait 2 free 7``: call 3 at 900 ps computes 1 token of
    request 0 and 8 of request 1, which found 16 in the prefix cache; request 2 lost its memory;
    what waits, and what is free. ``U 3 @1900 emit 0 1 finish 0 free 9``: its results.

    Attributes:
        lines: the lines.
    """

    lines: list[str] = field(default_factory=list[str])
    _calls: int = 0

    def reject(self, request: Request, now_ps: int, reason: Refusal) -> None:
        """Write that a request is rejected."""
        self.lines.append(f"reject {request.index} @{now_ps} reason={reason}")

    def schedule(self, policy: Policy, call: Call, now_ps: int) -> int:
        """Write a call, and return its number."""
        parts = [" ".join([f"S {self._calls} @{now_ps} run", *_pairs(call.rows)])]
        if call.hits:
            parts.append(" ".join(["hit", *_pairs(call.hits)]))
        if call.preempted:
            parts.append(" ".join(["preempt", *_numbers(call.preempted)]))
        if policy.waits:
            parts.append(" ".join(["wait", *_numbers(policy.waiting())]))
        self.lines.append(" ".join([*parts, f"free {policy.free}"]))
        self._calls += 1
        return self._calls - 1

    def update(self, policy: Policy, flight: Flight, ended: list[Request], now_ps: int) -> None:
        """Write the results of a step."""
        parts = [f"U {flight.number} @{now_ps}"]
        if flight.call.emits:
            parts.append(" ".join(["emit", *_numbers(flight.call.emits)]))
        if ended:
            parts.append(" ".join(["finish", *_numbers(ended)]))
        self.lines.append(" ".join([*parts, f"free {policy.free}"]))

    def text(self) -> str:
        """Return all lines, each ended by a newline."""
        return "".join(line + "\n" for line in self.lines)


def _pairs(rows: list[tuple[Request, int]]) -> Iterator[str]:
    return (f"{request.index}:{tokens}" for request, tokens in rows)


def _numbers(requests: Iterable[Request]) -> Iterator[str]:
    return (str(request.index) for request in requests)


@dataclass(slots=True)
class Run:
    """What happened.

    Attributes:
        policy: the engine, with the times of its tokens in its ledger.
        steps: every step, in order.
        rejected: requests that were rejected, with the reason.
        end_ps: when the last request ended.
        events: lines of text; None where they were not asked for.
        partial: whether an interrupt ended it before its last request ended.
    """

    policy: Policy
    steps: Steps = field(default_factory=Steps)
    rejected: Rejections = field(default_factory=Rejections)
    end_ps: int = 0
    events: Events | None = None
    partial: bool = False


class Engine:
    """One engine on its way through a run, in turns.

    Args:
        policy: the batching policy.
        device_ps: time of a step on the devices.
        host_ps: time from the call that decides on a step to its launch.
        answer: is told when a request ends or is rejected.

    Attributes:
        next_ps: when its next turn is; `NEVER` if nothing can happen until something arrives.
        told: whether its last turn made other engines have turns; the dispatcher sets it back.
        left: requests that have ended here or are rejected.
        run: what has happened so far.
    """

    __slots__ = (
        "_answer",
        "_device_free",
        "_device_ps",
        "_flights",
        "_host_ps",
        "_idle",
        "_inbox",
        "_policy",
        "_takes",
        "left",
        "next_ps",
        "run",
        "told",
    )  # fmt: skip

    def __init__(self, policy: Policy, device_ps: Times, host_ps: Times, answer: Answer) -> None:
        self.run = Run(policy, events=Events() if policy.tells else None)
        self.next_ps, self.left, self.told = 0, 0, False
        self._policy, self._answer = policy, answer
        self._device_ps, self._host_ps = device_ps, host_ps
        self._inbox: deque[Request] = deque()
        self._flights: deque[Flight] = deque()
        self._device_free = 0
        # Whether the next turn takes in results; whether nothing happens until something arrives.
        self._takes = self._idle = False

    def tell(self, events: Events) -> None:
        """Tell what happens, from now on.

        Args:
            events: who is told.
        """
        self._policy.tells, self.run.events = True, events

    @property
    def waits(self) -> int:
        """Requests without memory, those that the policy has not seen included."""
        return self._policy.waits + len(self._inbox)

    @property
    def runs(self) -> int:
        """Requests with memory."""
        return self._policy.runs

    def deliver(self, request: Request, now_ps: int) -> None:
        """Put a request into the inbox.

        Args:
            request: the request.
            now_ps: when it arrives, not before the last turn of any engine.
        """
        self._inbox.append(request)
        self._wake(now_ps)

    def turn(self) -> None:
        """Take the next turn: a call, or the results of a step."""
        now = self.next_ps
        if self._takes:
            self._update(now)
            return
        if self._inbox:
            self._receive(now)
        call, residents = self._policy.schedule(), self._policy.residents
        if residents is not None:
            residents.end(call.leaves)
            residents.end(call.preempted)
        for request, reason in call.rejected:
            self._reject(request, reason, now)
        if call.work is not None:
            self._launch(call, call.work, now)
        else:
            self._pause(call, now)

    def _wake(self, at_ps: int) -> None:
        """Let an idle engine go on."""
        if self._idle:
            self.next_ps = min(self.next_ps, at_ps)

    def _receive(self, now: int) -> None:
        """Take in the requests that have arrived."""
        while self._inbox:
            request = self._inbox.popleft()
            reason = self._policy.arrive(request)
            if reason is not None:
                self._reject(request, reason, now)

    def _reject(self, request: Request, reason: Refusal, now: int) -> None:
        self.run.rejected.add(request, reason, now)
        if self._policy.residents is not None:
            self._policy.residents.end([request])
        if self.run.events is not None:
            self.run.events.reject(request, now, reason)
        self._leave(now)

    def _launch(self, call: Call, work: Work, now: int) -> None:
        policy, flights = self._policy, self._flights
        if policy.residents is not None:
            policy.residents.begin(call.loads, coming=1)
            if work.decoding:
                decoding, keys, longest, chunks, _ = work
                work = Work(decoding, keys, longest, chunks, policy.residents.step())
            policy.residents.begin(call.begins)
        number = -1
        if self.run.events is not None:
            number = self.run.events.schedule(policy, call, now)
        launched = now + self._host_ps(work)
        start = max(self._device_free, launched)
        self._device_free = end = start + self._device_ps(work)
        flights.append(Flight(call, number, end))
        held = policy.runs, policy.waits, policy.free
        self.run.steps.add(work, (now, launched, start, end), held, len(call.preempted))
        self._takes, self._idle = len(flights) == policy.depth, False
        self.next_ps = max(launched, flights[0].end_ps) if self._takes else launched

    def _update(self, now: int) -> None:
        flight = self._flights.popleft()
        ended = self._policy.update(flight.call, now)
        self.run.steps.end(len(ended))
        if self._policy.residents is not None:
            self._policy.residents.end(ended)
        if self.run.events is not None:
            self.run.events.update(self._policy, flight, ended, now)
        self._takes = False
        if ended:
            self.run.end_ps = now
            self._end(ended, now)
        if not self._flights:
            self._drop_stuck(now)

    def _end(self, ended: Sequence[Request], now: int) -> None:
        """Let go of requests that have ended."""
        for _ in ended:
            self._leave(now)

    def _leave(self, now: int) -> None:
        """Tell that a request has left the engine for good."""
        self.left += 1
        self._answer(now)

    def _drop_stuck(self, now: int) -> None:
        """Reject a request that can never run, once nothing is in flight."""
        request = self._policy.stuck()
        if request is not None and self._policy.drop(request):
            self._reject(request, Refusal.NEVER, now)

    def _pause(self, call: Call, now: int) -> None:
        """Go on after a call that runs nothing."""
        policy = self._policy
        if self.run.events is not None and (policy.waits or self._flights):
            self.run.events.schedule(policy, call, now)
        if self._flights:
            self._takes = True
            self.next_ps = max(now, self._flights[0].end_ps)
        elif policy.waits and not policy.awaits:
            self._drop_stuck(now)
        elif not self._inbox:
            self._idle, self.next_ps = True, NEVER


class Instance:
    """What a router sends requests to: one engine, or several that hand requests on.

    Args:
        engines: the engines; the first one takes requests in.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        self._sent = 0

    @property
    def waits(self) -> int:
        """Requests without memory."""
        return sum(engine.waits for engine in self.engines)

    @property
    def runs(self) -> int:
        """Requests with memory."""
        return sum(engine.runs for engine in self.engines)

    @property
    def in_flight(self) -> int:
        """Requests that were sent to it and have neither ended nor been rejected."""
        return self._sent - sum(engine.left for engine in self.engines)

    def deliver(self, request: Request, now_ps: int) -> None:
        """Take in a request.

        Args:
            request: the request.
            now_ps: when it arrives.
        """
        self._sent += 1
        self.engines[0].deliver(request, now_ps)


class Load(Protocol):
    """What a router sees of an instance."""

    @property
    def waits(self) -> int:
        """Requests without memory."""
        ...

    @property
    def runs(self) -> int:
        """Requests with memory."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests that were sent to it and have neither ended nor been rejected."""
        ...


class Router(Protocol):
    """Chooses who serves a request."""

    def choose(self, request: Request, instances: Sequence[Load]) -> int:
        """Return the number of the instance that gets a request.

        Args:
            request: that arrives.
            instances: at least one, in an order that never changes.
        """
        ...


class Dispatcher:
    """Plays instances in the order of time, and sends requests to them.

    Args:
        clients: who sends requests.
        router: chooses who serves a request; None where there is one instance.
    """

    def __init__(self, clients: Clients, router: Router | None = None) -> None:
        self._clients, self._router = clients, router
        self._instances: Sequence[Instance] = ()
        self._playing: Engine | None = None

    def answer(self, now_ps: int) -> None:
        """Tell a client that its request has ended or is rejected, and send what follows.

        Args:
            now_ps: when.
        """
        clients = self._clients
        clients.answer(now_ps)
        while (arrival := clients.arrival_ps) is not None and arrival <= now_ps:
            self._send(arrival)
            if self._playing is not None:
                self._playing.told = True

    def play(self, instances: Sequence[Instance], interrupted: Interrupted | None = None) -> None:
        """Play until nothing is left, or until an interrupt.

        Args:
            instances: whose engines call `answer`.
            interrupted: is asked at an interrupt; None to raise it.

        Raises:
            KeyboardInterrupt: an interrupt came, and what was played is not to be kept.
        """
        try:
            self._play(instances)
        except KeyboardInterrupt:
            if interrupted is None or not interrupted():
                raise
            for instance in instances:
                for engine in instance.engines:
                    engine.run.partial = True

    def _play(self, instances: Sequence[Instance]) -> None:
        self._instances = instances
        engines = [engine for instance in instances for engine in instance.engines]
        while True:
            times = [engine.next_ps for engine in engines]
            at = min(times)
            arrival = self._clients.arrival_ps
            if arrival is not None and arrival <= at:
                self._send(arrival)
                continue
            if at == NEVER:
                return
            number = times.index(at)
            times[number] = NEVER
            other = min(times)
            # Of equal times, that of the engine with the lower number comes first. The place of the
            # chosen engine holds `NEVER`: without another turn, `until` is `NEVER`.
            until = other + (times.index(other) > number)
            if arrival is not None:
                until = min(until, arrival)
            engine = engines[number]
            engine.told = False
            self._playing = engine if len(engines) > 1 else None
            while engine.next_ps < until and not engine.told:
                engine.turn()

    def _send(self, now_ps: int) -> None:
        """Send the next request to an instance."""
        request, instances = self._clients.take(), self._instances
        number = 0 if self._router is None else self._router.choose(request, instances)
        instances[number].deliver(request, now_ps)


def play(
    policy: Policy,
    requests: Iterator[Request],
    device_ps: Times,
    host_ps: Times,
    *,
    concurrency: int | None = None,
    interrupted: Interrupted | None = None,
    events: Events | None = None,
) -> Run:
    """Play requests on one engine.

    Args:
        policy: the engine.
        requests: what arrives, as in `Clients`.
        device_ps: time of a step on the devices.
        host_ps: time from the call that decides on a step to its launch.
        concurrency: clients that each wait for an answer, as in `Clients`.
        interrupted: is asked at an interrupt; None to raise it.
        events: takes the events in; None for lines of text, if the policy tells rows.

    Raises:
        KeyboardInterrupt: an interrupt came, and what was played is not to be kept.
    """
    dispatcher = Dispatcher(Clients(requests, concurrency=concurrency))
    engine = Engine(policy, device_ps, host_ps, dispatcher.answer)
    if events is not None:
        engine.tell(events)
    dispatcher.play([Instance([engine])], interrupted)
    return engine.run
