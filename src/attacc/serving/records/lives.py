"""Lives of chosen requests: what happened to each, from its arrival to its end.

Steps that decode are told together, from the first to the last one between two other events.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from attacc.errors import InputError
from attacc.results import Result
from attacc.serving.engines.policy import Call, Policy, Refusal, Request
from attacc.serving.records.steps import Steps
from attacc.serving.simulator import Events, Flight


class LifeKind(StrEnum):
    """What happens to a request."""

    ARRIVAL = "arrival"
    """It arrives, and waits."""
    ADMISSION = "admission"
    """It gets memory; its tokens are those that the prefix cache held."""
    CHUNK = "chunk"
    """A step computes tokens of its prompt, or again tokens that it lost."""
    FIRST = "first token"
    """It has its first output token."""
    DECODE = "decode"
    """Steps compute one token each."""
    PREEMPTION = "preemption"
    """It loses its memory, and waits again."""
    END = "end"
    """It has its last output token; its tokens are all of its outputs."""
    REJECTION = "rejection"
    """It is given up."""


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """Something that happens to a request, at a time or from one time to another.

    Attributes:
        kind: what happens.
        start_ps: when it begins. Steps begin and end on the devices.
        end_ps: when it ends; equal to the start of what takes no time.
        first_step: number of the first step of a chunk or of decode; -1 elsewhere.
        last_step: number of the last one; -1 elsewhere.
        tokens: tokens that steps compute, that were found, or that it got; 0 elsewhere.
        past: tokens of the request before those of the steps; 0 elsewhere.
    """

    kind: LifeKind
    start_ps: int
    end_ps: int
    first_step: int = -1
    last_step: int = -1
    tokens: int = 0
    past: int = 0


@dataclass(frozen=True, slots=True)
class Life(Result):
    """What happened to one request.

    Attributes:
        number: its number.
        prompt: tokens of its prompt.
        outputs: tokens that it asked for.
        reason: why it was rejected; None if it was not.
        events: what happened, in order.
    """

    number: int
    prompt: int
    outputs: int
    reason: Refusal | None
    events: tuple[LifeEvent, ...]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each event."""
        return [asdict(event) for event in self.events]


@dataclass(slots=True)
class _Followed:
    """A request on its way.

    Attributes:
        request: the request.
        events: what happened so far; steps have no times yet.
        done: tokens with keys and values, or that are being computed.
        holds: whether it has memory.
        outputs: tokens that it got.
        reason: why it was rejected.
    """

    request: Request
    events: list[LifeEvent]
    done: int = 0
    holds: bool = False
    outputs: int = 0
    reason: Refusal | None = None

    def add(self, kind: LifeKind, now_ps: int, tokens: int = 0) -> None:
        """Add an event that takes no time."""
        self.events.append(LifeEvent(kind, now_ps, now_ps, tokens=tokens))

    def begin(self, now_ps: int) -> None:
        """Add the first token; a step that decodes may run already."""
        place = len(self.events) - (self.events[-1].kind is LifeKind.DECODE)
        self.events.insert(place, LifeEvent(LifeKind.FIRST, now_ps, now_ps))

    def compute(self, step: int, tokens: int) -> None:
        """Add tokens that a step computes."""
        decodes = tokens == 1 and self.done >= self.request.prompt
        kind = LifeKind.DECODE if decodes else LifeKind.CHUNK
        last = self.events[-1]
        if decodes and last.kind is kind:
            self.events[-1] = replace(last, last_step=step, tokens=last.tokens + 1)
        else:
            self.events.append(LifeEvent(kind, 0, 0, step, step, tokens, self.done))
        self.done += tokens


class Lives(Events):
    """Events of a run, of chosen requests alone and by request in place of lines of text.

    Args:
        numbers: numbers of the requests.
    """

    __slots__ = ("_found", "_numbers")

    def __init__(self, numbers: Collection[int]) -> None:
        super().__init__()
        self._numbers = frozenset(numbers)
        self._found: dict[int, _Followed] = {}

    def _of(self, request: Request) -> _Followed | None:
        """Return what is known of a request; None if it was not chosen."""
        if request.index not in self._numbers:
            return None
        found = self._found.get(request.index)
        if found is None:
            found = self._found[request.index] = _Followed(request, [])
            found.add(LifeKind.ARRIVAL, request.arrival_ps)
        return found

    def reject(self, request: Request, now_ps: int, reason: Refusal) -> None:
        """Note that a request is rejected."""
        if found := self._of(request):
            found.add(LifeKind.REJECTION, now_ps)
            found.reason = reason

    def schedule(self, policy: Policy, call: Call, now_ps: int) -> int:  # noqa: ARG002 - as `Events`
        """Note what a call decides, and return its number."""
        for request in call.preempted:
            if found := self._of(request):
                found.add(LifeKind.PREEMPTION, now_ps)
                found.done, found.holds = 0, False
        hits = {request.index: tokens for request, tokens in call.hits}
        for request, tokens in call.rows:
            if found := self._of(request):
                if not found.holds:
                    found.done = hits.get(request.index, 0)
                    found.add(LifeKind.ADMISSION, now_ps, found.done)
                    found.holds = True
                found.compute(call.step, tokens)
        return call.step

    def update(self, policy: Policy, flight: Flight, ended: list[Request], now_ps: int) -> None:  # noqa: ARG002
        """Note the results of a step."""
        for request in flight.call.emits:
            if found := self._of(request):
                found.outputs += 1
                if found.outputs == 1:
                    found.begin(now_ps)
        for request in ended:
            if found := self._of(request):
                found.add(LifeKind.END, now_ps, found.outputs)

    def lives(self, steps: Steps) -> list[Life]:
        """Return the lives of the chosen requests that were scheduled or rejected, by number.

        Args:
            steps: the steps of the run.
        """
        return [self._life(number, steps) for number in sorted(self._found)]

    def life(self, number: int, steps: Steps) -> Life | None:
        """Return the life of one of the chosen requests.

        Args:
            number: its number.
            steps: the steps of the run.

        Returns:
            The life; None if it was neither scheduled nor rejected before the run was interrupted.

        Raises:
            InputError: it was not chosen.
        """
        if number not in self._numbers:
            raise InputError(
                f"request {number} was not followed",
                where="number",
                hint="name it when the requests are served",
            )
        return self._life(number, steps) if number in self._found else None

    def _life(self, number: int, steps: Steps) -> Life:
        found = self._found[number]
        request = found.request
        events = tuple(
            event
            if event.first_step < 0
            else replace(
                event,
                start_ps=steps[event.first_step].start_ps,
                end_ps=steps[event.last_step].end_ps,
            )
            for event in found.events
        )
        return Life(number, request.prompt, request.outputs, found.reason, events)
