"""The published runs, repeated with the published attention cycles and with those of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.pim.stack import Stack
from attacc.study.papers.exhibits import (
    Cell,
    Column,
    Exhibit,
    Form,
    Mark,
    Panel,
    Paper,
    Series,
    deviation,
)
from attacc.study.papers.recorded_runs import (
    NS_PER_MS,
    SEQUENCE_PARTS,
    PaperRun,
    Printed,
    ends_of_parts,
    paper_runs,
    published_cycles,
    times_of,
)
from attacc.study.papers.step import ELEMENT, PublishedRun, decode_of

TOLERANCE: Final = 0.005
"""Largest acceptable deviation of any time, with the published cycles."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The mean decode step of a run on an AttAcc system.

    Attributes:
        step_ms: duration of the step.
        attention_ms: time that attention adds to the step.
    """

    step_ms: float
    attention_ms: float


@dataclass(frozen=True, slots=True)
class Repeated:
    """One repeated run, beside its printed times.

    Attributes:
        run: the run.
        times: times with the published cycles.
        worst: the time that deviates most.
        worst_deviation: deviation of that time.
        published_schedule: step with the engine's cycles of the published schedule; None on GPUs.
        interleaved: step with the cycles of this project's schedule and stack; None on GPUs.
    """

    run: PaperRun
    times: tuple[Printed, ...]
    worst: str
    worst_deviation: float
    published_schedule: Decoded | None
    interleaved: Decoded | None


class Engine:
    """Cycles of a stack by a schedule on a device, for units in the banks within the budget.

    Args:
        dram: name of the device's preset.
        schedule: order of the commands.
    """

    def __init__(self, dram: str, schedule: Schedule) -> None:
        self._stack = Stack(DRAMS.load(dram), Placement.BANK, power_limited=True, schedule=schedule)

    def decode(self, run: PublishedRun) -> Decoded:
        """Price the mean decode step of a run with the cycles of the fullest stack."""
        weights = ends_of_parts(run)
        cycles = {n: self._cycles(run, -(-n // SEQUENCE_PARTS) * SEQUENCE_PARTS) for n in weights}
        step = decode_of(run, cycles, weights)
        return Decoded(step.time_ns / NS_PER_MS, step.attention.time_ns / NS_PER_MS)

    def _cycles(self, run: PublishedRun, length: int) -> int:
        return self._stack.attend(
            heads=run.heads_per_stack,
            length=length,
            head_dim=run.shape.head_dim,
            element=ELEMENT[run.word],
        ).cycles


def repeat(run: PaperRun, published: Engine, interleaved: Engine) -> Repeated:
    """Repeat one run."""
    one = run.run
    if one.placement:
        weights = ends_of_parts(one)
        times = times_of(one, {n: published_cycles(one, n) for n in weights}, weights)
    else:
        times = times_of(one, {})
    worst, worst_deviation = "none", 0.0
    for ours, printed in zip(times, run.times, strict=True):
        off = deviation(ours.value_ms, printed.value_ms) if printed.value_ms else ours.value_ms
        if off and abs(off) > abs(worst_deviation):
            worst, worst_deviation = ours.name, off
    return Repeated(
        run,
        times,
        worst,
        worst_deviation,
        published.decode(one) if one.placement else None,
        interleaved.decode(one) if one.placement else None,
    )


def runs() -> Exhibit:
    """Every published run, its step time and its attention."""
    published = Engine("hbm3-5.2-asplos24", Schedule.PUBLISHED)
    interleaved = Engine("hbm3-5.2", Schedule.INTERLEAVED)
    repeated = [repeat(run, published, interleaved) for run in paper_runs()]
    rows: list[tuple[Cell, ...]] = []
    for one in repeated:
        run = one.run.run
        step, attention = one.run.time_ms("decode"), one.run.time_ms("attention")
        engine: list[Cell] = []
        for decoded in (one.published_schedule, one.interleaved):
            inner = None if decoded is None else decoded.attention_ms
            whole = None if decoded is None else decoded.step_ms
            engine += [inner, deviation(inner, attention), whole, deviation(whole, step)]
        ours = next(time.value_ms for time in one.times if time.name == "decode")
        rows.append(
            (
                run.model,
                f"{8 * run.word} bits",
                run.prompt,
                run.output,
                run.batch,
                _system(run),
                step,
                ours,
                deviation(ours, step),
                one.worst,
                one.worst_deviation,
                attention,
                *engine,
            )
        )
    off = max(abs(one.worst_deviation) for one in repeated)
    names = tuple(str(index + 1) for index, one in enumerate(repeated) if one.interleaved)
    bars = tuple(
        Series(
            label,
            names,
            tuple(
                deviation(decoded.step_ms, one.run.time_ms("decode"))
                for one in repeated
                if (decoded := by_schedule(one)) is not None
            ),
            Mark.BARS,
        )
        for label, by_schedule in (
            ("published schedule", _by_published_schedule),
            ("interleaved schedule", _interleaved),
        )
    )
    return Exhibit(
        id="asplos2024-paper-runs",
        paper=Paper.ASPLOS2024,
        title="The published runs, repeated",
        conditions="8 A100a, alone and with 8 AttAccs of 5 stacks, units in the banks within the "
        "power budget; the release's steps, without embedding and LM head; mean decode step",
        columns=(
            Column("model", "model", form=Form.TEXT),
            Column("elements", "elements", form=Form.TEXT, detail=True),
            Column("prompt_tokens", "Lin", "tokens", Form.COUNT),
            Column("output_tokens", "Lout", "tokens", Form.COUNT),
            Column("batch", "batch", form=Form.COUNT),
            Column("system", "system", form=Form.TEXT),
            Column("paper_ms", "paper", "ms"),
            Column("ours_ms", "ours", "ms", detail=True),
            Column("deviation", "off by", form=Form.DEVIATION),
            Column("worst_time", "worst of 20 times", form=Form.TEXT, detail=True),
            Column("worst_deviation", "its deviation", form=Form.DEVIATION, detail=True),
            Column("paper_attention_ms", "paper, attention", "ms", detail=True),
            Column("published_schedule_attention_ms", "(a) attention", "ms", detail=True),
            Column(
                "published_schedule_attention_deviation",
                "(a) att. off by",
                form=Form.DEVIATION,
            ),
            Column("published_schedule_ms", "(a) step", "ms", detail=True),
            Column("published_schedule_deviation", "(a) step off by", form=Form.DEVIATION),
            Column("interleaved_attention_ms", "(b) attention", "ms", detail=True),
            Column("interleaved_attention_deviation", "(b) att. off by", form=Form.DEVIATION),
            Column("interleaved_ms", "(b) step", "ms", detail=True),
            Column("interleaved_deviation", "(b) step off by", form=Form.DEVIATION),
        ),
        rows=tuple(rows),
        notes=(
            (
                "Ours: the published GPU model fed with the published attention cycles, whatever "
                f"GPU model is chosen. Largest deviation of all {20 * len(repeated)} times: "
                f"{off:.1e} ({TOLERANCE:.1%} is asked for)."
            ),
            (
                "(a) cycles of the engine for the published schedule on the papers' stack: the "
                "published cycles come from a build that was never released, whose last odd round "
                "repeats the softmax (docs/model/timing.md)."
            ),
            (
                "(b) cycles of the engine for this project's schedule on the stack with latencies "
                "and buffers: heads are evened out over channels, where the papers round up to "
                "whole rounds."
            ),
        ),
        panels=(Panel("", "run", "step over published, less one", bars),),
    )


def _by_published_schedule(one: Repeated) -> Decoded | None:
    return one.published_schedule


def _interleaved(one: Repeated) -> Decoded | None:
    return one.interleaved


def _system(run: PublishedRun) -> str:
    if not run.placement:
        return "GPUs"
    switches = {
        (False, False): "",
        (True, False): " + pipelining",
        (False, True): " + co-processing",
        (True, True): " + both",
    }
    return "AttAcc" + switches[run.pipelining, run.coprocessing]
