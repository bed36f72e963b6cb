"""Requests over time on one engine: arrivals, steps, and what happens when.

One host thread schedules, launches and takes in results. A policy allows one or two steps in
flight. With fewer in flight, the thread schedules; else it waits for the oldest step. The thread
goes on when it has launched a step, ``host_ps`` after the call. The device runs one step after the
other. So a step takes the sum of host and device with one step in flight, and the longer of both
with two. Times are whole picoseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from attacc.serving.clients import Clients
from attacc.serving.engines.policy import Call, Policy, Refusal, Request
from attacc.serving.records.requests import Rejections
from attacc.serving.records.steps import Steps
from attacc.serving.work import Work

Times = Callable[[Work], int]
"""Picoseconds that something takes for a step."""
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


class _Engine:
    """One engine on its way through a run."""

    def __init__(self, policy: Policy, clients: Clients, device_ps: Times, host_ps: Times) -> None:
        self.run = Run(policy, events=Events() if policy.tells else None)
        self._policy, self._clients = policy, clients
        self._device_ps, self._host_ps = device_ps, host_ps
        self._flights: deque[Flight] = deque()
        self._now = self._device_free = 0
        self._blocked = False

    def play(self) -> Run:
        """Play until nothing is left."""
        depth = self._policy.depth
        while True:
            if self._flights and (self._blocked or len(self._flights) == depth):
                self._update()
                continue
            self._receive()
            call = self._policy.schedule()
            for request, reason in call.rejected:
                self._reject(request, reason)
            if call.work is not None:
                self._launch(call, call.work)
            elif not self._pause(call):
                return self.run

    def _receive(self) -> None:
        """Take in the requests that have arrived."""
        clients = self._clients
        while (arrival := clients.arrival_ps) is not None and arrival <= self._now:
            request = clients.take()
            reason = self._policy.arrive(request)
            if reason is not None:
                self._reject(request, reason)

    def _reject(self, request: Request, reason: Refusal) -> None:
        self.run.rejected.add(request, reason, self._now)
        self._clients.answer(self._now)
        if self.run.events is not None:
            self.run.events.reject(request, self._now, reason)

    def _launch(self, call: Call, work: Work) -> None:
        policy, scheduled = self._policy, self._now
        number = -1
        if self.run.events is not None:
            number = self.run.events.schedule(policy, call, scheduled)
        self._now += self._host_ps(work)
        start = max(self._device_free, self._now)
        self._device_free = end = start + self._device_ps(work)
        self._flights.append(Flight(call, number, end))
        times, held = (
            (scheduled, self._now, start, end),
            (policy.runs, policy.waits, policy.free),
        )
        self.run.steps.add(work, times, held, len(call.preempted))

    def _update(self) -> None:
        flight = self._flights.popleft()
        self._blocked = False
        self._now = max(self._now, flight.end_ps)
        ended = self._policy.update(flight.call, self._now)
        self.run.steps.end(len(ended))
        for _ in ended:
            self._clients.answer(self._now)
            self.run.end_ps = self._now
        if self.run.events is not None:
            self.run.events.update(self._policy, flight, ended, self._now)
        if not self._flights:
            self._drop_stuck()

    def _drop_stuck(self) -> None:
        """Reject a request that can never run, once nothing is in flight."""
        request = self._policy.stuck()
        if request is not None and self._policy.drop(request):
            self._reject(request, Refusal.NEVER)

    def _pause(self, call: Call) -> bool:
        """Go on after a call that runs nothing; return False at the end."""
        policy = self._policy
        if self.run.events is not None and (policy.waits or self._flights):
            self.run.events.schedule(policy, call, self._now)
        if self._flights:
            self._blocked = True
        elif policy.waits:
            self._drop_stuck()
        elif (arrival := self._clients.arrival_ps) is not None:
            self._now = max(self._now, arrival)
        else:
            return False
        return True


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
    engine = _Engine(policy, Clients(requests, concurrency=concurrency), device_ps, host_ps)
    if events is not None:
        policy.tells, engine.run.events = True, events
    try:
        return engine.play()
    except KeyboardInterrupt:
        if interrupted is None or not interrupted():
            raise
        engine.run.partial = True
        return engine.run
