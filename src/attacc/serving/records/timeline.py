"""Timelines of runs in the trace event format of Chrome, which Perfetto opens.

Spans are complete events (``ph`` X) with ``ts`` and ``dur`` in microseconds. A span lies within
another of its track, or beside it. Processes and threads name the tracks: requests, the engine's
host and steps, devices, and the commands of one DRAM channel.

The price of a step tells how long each operator takes, by itself and what it adds to the step. It
does not tell when hidden work runs. So an operator is drawn such that it ends where the time that
it adds ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from attacc.errors import InputError
from attacc.files import write_whole
from attacc.serving.prices.parts import HOST
from attacc.serving.prices.steps import StepPrices
from attacc.serving.prices.totals import resources
from attacc.serving.prices.works import Works
from attacc.serving.records.lives import Life, LifeKind, Lives
from attacc.serving.records.steps import Steps, StepTimes
from attacc.system.pricer import Pricer
from attacc.system.step_cost import OperatorTime
from attacc.units import whole, whole_number

Event = dict[str, Any]

MOST_STEPS: Final = 1000
"""Most steps that a timeline draws, with some 15 spans each."""
MOST_REQUESTS: Final = 1000
"""Most requests that a timeline draws."""
MOST_COMMANDS: Final = 20_000
"""Most commands of a DRAM channel that a timeline draws."""
DRAWN_REQUESTS: Final = 32
"""Requests that a timeline draws by default."""
PS_PER_US: Final = 10**6
REQUESTS, ENGINE, DEVICES, LAYERS, CHANNEL = range(1, 6)
"""Processes."""
HOST_TRACK, STEP_TRACK = 1, 2
_DEVICES: Final = ("links between GPUs", "transfers to AttAccs", "GPUs", "AttAccs")
"""Names of `attacc.serving.prices.totals.resources`."""
_RANGE: Final = re.compile(r"([0-9]+)(?:\.\.([0-9]+))?")


@dataclass(frozen=True, slots=True)
class TimelineWindow:
    """What a timeline draws.

    Attributes:
        first: number of the first request.
        last: number of the last request.
        opened: number of the step that is drawn layer by layer; None for none.
    """

    first: int = 0
    last: int = DRAWN_REQUESTS - 1
    opened: int | None = None

    def __post_init__(self) -> None:
        whole(self.first, where="first", least=0)
        whole(self.last, where="last", least=self.first, most=self.first + MOST_REQUESTS - 1)
        if self.opened is not None:
            whole(self.opened, where="opened", least=0, most=2**31)

    @classmethod
    def parse(cls, text: str | None, opened: int | None, *, where: str) -> TimelineWindow:
        """Return the window that a text states: ``32`` for the first ones, or ``64..95``.

        Args:
            text: the requests; None for the first `DRAWN_REQUESTS`.
            opened: as in the class.
            where: the option or the argument that it came from, for messages.

        Raises:
            InputError: the text states no requests, or too many.
        """
        if text is None:
            return cls(opened=opened)
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise InputError(f"{text!r:.40} is no range", where=where, hint="write 32 or 64..95")
        low, high = found.groups()
        if high is None:
            return cls(0, whole_number(low, where=where, most=MOST_REQUESTS) - 1, opened)
        first = whole_number(low, where=where, least=0)
        most = first + MOST_REQUESTS - 1
        return cls(first, whole_number(high, where=where, least=first, most=most), opened)


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """A run as events.

    Attributes:
        events: the events; names of tracks first, then spans in the order of their starts.
        requests: how many requests are drawn.
        steps: numbers of the steps that are drawn; None for none.
        total_steps: steps of the run.
        opened: what is drawn of the opened step's DRAM commands, in words; empty if there are none.
    """

    events: list[Event]
    requests: int
    steps: range | None
    total_steps: int
    opened: str = ""

    @property
    def words(self) -> str:
        """What is drawn, in words."""
        drawn = f"{self.requests:,} requests and no steps"
        if self.steps is not None:
            drawn = (
                f"{self.requests:,} requests and steps {self.steps[0]:,} to {self.steps[-1]:,} of "
                f"{self.total_steps:,}"
            )
        return f"{drawn}; {self.opened}" if self.opened else drawn

    def to_json(self) -> str:
        """Return the JSON document, one event a line."""
        lines = ",\n".join(json.dumps(event, allow_nan=False) for event in self.events)
        other = json.dumps({"drawn": self.words})
        return f'{{"displayTimeUnit": "ms", "otherData": {other}, "traceEvents": [\n{lines}\n]}}\n'

    def write(self, path: str | Path) -> None:
        """Write the JSON document, complete or not at all.

        Args:
            path: the file, compressed where its name ends in ``.gz``.

        Raises:
            DocumentError: it cannot be written.
        """
        write_whole(Path(path), self.to_json().encode())


def timeline_of(steps: Steps, lives: Lives, prices: StepPrices, window: TimelineWindow) -> Timeline:
    """Return the timeline of a run.

    Args:
        steps: all steps of the run.
        lives: of the requests that are drawn, and of others.
        prices: prices the operators of the steps that are drawn.
        window: what is drawn.
    """
    told = ""
    drawn = [one for one in lives.lives(steps) if window.first <= one.number <= window.last]
    computed = [event for one in drawn for event in one.events if event.first_step >= 0]
    numbers = None
    if computed:
        first = min(event.first_step for event in computed)
        last = max(event.last_step for event in computed)
        numbers = range(first, min(last + 1, first + MOST_STEPS))
    opened = window.opened
    if opened is not None and opened >= len(steps):
        opened, told = None, f"there is no step {opened:,} to open"
    until_ps = steps[numbers[-1] if numbers else -1].end_ps
    each = [*(numbers or ())]
    if opened is not None and opened not in each:
        each.append(opened)
    spans = [span for one in drawn for span in _request(one, until_ps)]
    spans += [span for number in each for span in _step(number, steps[number])]
    devices = [*_devices(each, [steps[number] for number in each], prices, opened)]
    spans += devices
    if opened is not None:
        commands, told = _commands(steps[opened], devices, prices.pricer)
        spans += commands
    spans.sort(key=lambda span: (span["ts"], -span["dur"]))
    return Timeline([*_names(spans), *spans], len(drawn), numbers, len(steps), told)


def _span(
    name: str, process: int, track: int, start_ps: float, end_ps: float, **told: object
) -> Event:
    """Return a span of a track."""
    return {
        "name": name,
        "ph": "X",
        "pid": process,
        "tid": track,
        "ts": start_ps / PS_PER_US,
        "dur": (end_ps - start_ps) / PS_PER_US,
        "args": told,
    }


def _names(spans: Sequence[Event]) -> list[Event]:
    """Return events that name the processes and threads of spans."""
    processes = {
        REQUESTS: "requests",
        ENGINE: "engine",
        DEVICES: "devices",
        LAYERS: "layers of one step",
        CHANNEL: "commands of one DRAM channel",
    }
    found: list[Event] = []
    tracks: set[tuple[int, int]] = {(span["pid"], span["tid"]) for span in spans}
    for process, track in sorted(tracks):
        if process == REQUESTS:
            name = f"request {track - 1}"
        elif process == ENGINE:
            name = "host" if track == HOST_TRACK else "steps"
        elif process == DEVICES:
            name = _DEVICES[track - 1]
        elif process == CHANNEL:
            name = f"pseudo-channel {track - 2}" if track > 1 else "whole channel"
        else:
            name = processes[process]
        for kind, told in (("process_name", processes[process]), ("thread_name", name)):
            event = {"name": kind, "ph": "M", "pid": process, "tid": track, "args": {"name": told}}
            found.append(event)
    return found


def _request(life: Life, until_ps: int) -> Iterator[Event]:
    """Yield the spans of a request that begin before a time, cut off there."""
    track = life.number + 1

    def span(name: str, start_ps: int, end_ps: int, **told: object) -> Iterator[Event]:
        end_ps = min(end_ps, until_ps)
        if start_ps < end_ps:
            yield _span(name, REQUESTS, track, start_ps, end_ps, **told)

    last = life.events[-1]
    left = last.kind in (LifeKind.END, LifeKind.REJECTION)
    end_ps = last.end_ps if left else until_ps
    name = "request" if life.reason is None else f"rejected: {life.reason}"
    yield from span(name, life.events[0].start_ps, end_ps, prompt=life.prompt, outputs=life.outputs)
    # Since when it waits, and when the last step ends that computed something of it.
    waits, since_ps, busy_ps = "queued", life.events[0].start_ps, 0
    for event in life.events:
        if event.kind is LifeKind.ADMISSION or (event is last and event.kind is LifeKind.REJECTION):
            yield from span(waits, max(since_ps, busy_ps), event.start_ps)
        elif event.kind is LifeKind.PREEMPTION:
            # A step that is in flight goes on, and its work is lost.
            waits, since_ps = "preempted", event.start_ps
        elif event.first_step >= 0:
            busy_ps = event.end_ps
            decodes = event.kind is LifeKind.DECODE
            yield from span(
                "decode" if decodes else "prefill",
                event.start_ps,
                event.end_ps,
                steps=f"{event.first_step} to {event.last_step}",
                tokens=event.tokens,
                past=event.past,
            )


def _step(number: int, step: StepTimes) -> Iterator[Event]:
    """Yield the spans of a step: scheduled by the host, and run on the devices."""
    work = step.work
    yield _span(
        f"schedule step {number}", ENGINE, HOST_TRACK, step.scheduled_ps, step.launched_ps,
        running=step.running, waiting=step.waiting, free=step.free, preempted=step.preempted,
    )  # fmt: skip
    yield _span(
        f"step {number}", ENGINE, STEP_TRACK, step.start_ps, step.end_ps, decoding=work.decoding,
        keys=work.keys, longest=work.longest, chunks=len(work.chunks), new_tokens=work.new_tokens,
        ended=step.ended,
    )  # fmt: skip


def _devices(
    numbers: Sequence[int], steps: Sequence[StepTimes], prices: StepPrices, opened: int | None
) -> Iterator[Event]:
    """Yield what the devices do in steps, operator by operator.

    Args:
        numbers: of the steps.
        steps: the steps.
        prices: prices their operators.
        opened: number of the step that is drawn layer by layer.
    """
    if not steps:
        return
    for chosen, costs in prices.costs(Works.of(step.work for step in steps)):
        codes = resources(costs.operators)
        indices: list[int] = chosen.tolist()
        for place, index in enumerate(indices):
            runs = [
                (op.at(place), code)
                for op, code in zip(costs.operators, codes, strict=True)
                if op.name not in HOST
            ]
            step = steps[index]
            yield from _Blocks(step, runs, at_once=numbers[index] != opened).spans()


def _commands(step: StepTimes, devices: Sequence[Event], pricer: Pricer) -> tuple[list[Event], str]:
    """Return the commands of one DRAM channel in a step's first attention on AttAccs.

    The step's requests are dealt out anew for it. The channel is the one of the slowest stack that
    ends last. Times are scaled to the attention of the layer.

    Args:
        step: the step that is drawn layer by layer.
        devices: operators of this step, and of others.
        pricer: prices the step.

    Returns:
        The spans of the commands, and in words what is drawn or why nothing is.
    """
    blocks = [
        span
        for span in devices
        if span["tid"] == len(_DEVICES)
        and step.start_ps <= span["ts"] * PS_PER_US + 0.5 < step.end_ps
        and span["name"] == "attention"
    ]
    if not step.work.decoding or not blocks:
        return [], ""
    batches = Works.of([step.work]).batches()
    lengths: list[int] = batches.lengths.repeat(batches.counts).tolist()
    try:
        run = pricer.logged(lengths)
    except InputError as error:
        return [], f"no DRAM commands: {error.message}"
    if run is None or run.log is None:
        return [], ""
    channel = max(run.log, key=lambda command: command.cycle).channel
    own = [command for command in run.log if command.channel == channel]
    block = min(blocks, key=lambda span: span["ts"])
    start, cycle_us = block["ts"], block["dur"] / (run.cycles + 1)
    spans = [
        {
            "name": one.command,
            "ph": "X",
            "pid": CHANNEL,
            "tid": 2 + one.pseudo_channel,
            "ts": start + one.cycle * cycle_us,
            "dur": cycle_us,
            "args": {
                "cycle": one.cycle,
                "rank": one.rank,
                "bank_group": one.bank_group,
                "bank": one.bank,
                "row": one.row,
                "column": one.column,
            },
        }
        for one in own[:MOST_COMMANDS]
    ]
    return spans, (
        f"{len(spans):,} of {len(own):,} commands of channel {channel} in the first attention of "
        "the opened step"
    )


class _Blocks:
    """The operators of one step, one after the other.

    Times are those of the price, scaled to the duration that the step had in the run.

    Args:
        step: the step.
        runs: operators in order, each with its resource.
        at_once: whether all layers of a kind are one block for each operator.
    """

    def __init__(
        self, step: StepTimes, runs: Sequence[tuple[OperatorTime, int]], *, at_once: bool
    ) -> None:
        total_ns = sum(op.runs * op.time_ns for op, _ in runs)
        self._scale = (step.end_ps - step.start_ps) / total_ns
        self._runs, self._at_once = runs, at_once
        self._start = self._cursor = float(step.start_ps)
        self._end = float(step.end_ps)
        self._busy = [self._start] * len(_DEVICES)

    def spans(self) -> Iterator[Event]:
        """Yield the spans."""
        for (layers, runs), each in groupby(self._runs, lambda run: (run[0].layers, run[0].runs)):
            own = [*each]
            if self._at_once or runs == 1:
                for op, code in own:
                    yield from self._block(op, code, runs)
                continue
            for layer in range(runs):
                begin = self._cursor
                for op, code in own:
                    yield from self._block(op, code, 1)
                name = f"layer {layer} {layers}".strip()
                yield _span(name, LAYERS, 1, begin, min(self._cursor, self._end))

    def _block(self, op: OperatorTime, code: int, runs: int) -> Iterator[Event]:
        """Yield the span of some runs of an operator, and go on by the time that they add."""
        scale = runs * self._scale
        adds, alone = op.time_ns * scale, max(op.alone_ns, op.time_ns) * scale
        self._cursor = stop = min(self._cursor + adds, self._end)
        begin = max(stop - alone, self._busy[code], self._start)
        if begin < stop:
            self._busy[code] = stop
            yield _span(
                op.name, DEVICES, code + 1, begin, stop, runs=runs, layers=op.layers,
                bound=str(op.bound), alone_us=op.alone_ns * runs / 1e3,
                adds_us=op.time_ns * runs / 1e3,
            )  # fmt: skip
