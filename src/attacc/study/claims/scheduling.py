"""Claims about the simulated schedulers: recorded runs of engines, played again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from attacc.calibration.scheduling import Deviation, StepLine, deviation, read_recorded, replay
from attacc.serving.engines.vllm_v1 import VllmV1Settings
from attacc.study.claims.validation import (
    Check,
    Claim,
    Figure,
    Measured,
    Needs,
    ReferenceData,
    Room,
    Tolerance,
    Unit,
)


@dataclass(frozen=True, slots=True)
class PlayedRun:
    """A recorded run, and what was fitted to its odd requests by ``benchmarks/scheduling.py``.

    Attributes:
        name: for people.
        file: among the reference data.
        settings: what the engine was started with.
        line: times of steps.
        even: deviations of the even requests, as measured when this was written.
    """

    name: str
    file: str
    settings: VllmV1Settings
    line: StepLine
    even: Deviation


RUNS: Final = (
    PlayedRun(
        "Llama 3.1 8B on an RTX 4090, short of memory",
        "data/serving/rtx4090_llama-3.1-8b.requests.jsonl",
        VllmV1Settings(2588, max_num_batched_tokens=2048, max_num_seqs=256, reserve_full_isl=True),
        StepLine(19.10524, 0.08773323, 0.07522765, 0.08338354, 0.6288111),
        Deviation(150, 0.048, 0.015, 0.013, 0.009),
    ),
    PlayedRun(
        "Llama 3.1 8B on an RTX PRO 6000, short of places",
        "data/serving/rtxpro6000_llama-3.1-8b.requests.jsonl",
        VllmV1Settings(
            30_000, max_num_batched_tokens=2048, max_num_seqs=128, reserve_full_isl=True
        ),
        StepLine(9.819572, 0.04156436, 0.09199818, 0.04993538, 1.014360),
        Deviation(150, 0.057, 0.015, 0.002, -0.005),
    ),
)
"""Runs of vLLM 0.19 with 300 requests of ShareGPT, ten in a second (LLMServingSim's collection).
The memory of the second never fills, so that its blocks do not matter."""


def _error(found: Deviation, latency: str) -> float:
    return found.ttft if latency == "ttft" else found.e2el


def _measured(each: Iterable[tuple[PlayedRun, Deviation]], latency: str) -> Measured:
    told = list(each)
    figures = [
        Figure("mean of the relative deviations", _error(found, latency), group=run.name)
        for run, found in told
    ]
    worst = max(_error(found, latency) for _, found in told)
    return Measured(worst, sum(found.requests for _, found in told), tuple(figures))


def recorded(latency: str) -> Measured:
    """Return the deviations that were measured when the claim was written."""
    return _measured(((run, run.even) for run in RUNS), latency)


def played(latency: str, reference: ReferenceData) -> Measured:
    """Play the runs again, and return the largest mean deviation of even requests."""

    def one(run: PlayedRun) -> Deviation:
        told = read_recorded(reference.folder / run.file)
        again = replay(told, run.line, run.settings)
        return deviation(told, again, range(0, len(told), 2))

    return _measured(((run, one(run)) for run in RUNS), latency)


def _checks() -> Iterable[Check]:
    for latency, words in (("ttft", "first"), ("e2el", "last")):
        yield Check(
            Claim(
                id=f"scheduling-{latency}",
                room=Room.SERVING,
                statement=f"With a step's time fitted to half of the requests, the time to the "
                f"{words} token of the others is that of the recorded runs.",
                data="data/serving: 300 requests each, vLLM 0.19 (casys-kaist/LLMServingSim)",
                tolerance=Tolerance(
                    0.10, Unit.SHARE, "the project's goal, for the mean over the even requests"
                ),
                limits="Five coefficients for each run were fitted to its odd requests, so that "
                "the scheduler is tested, and no price of a step.",
                needs=Needs.REFERENCE,
                tests=("tests/calibration/test_scheduling.py",),
            ),
            measure=partial(recorded, latency),
            with_data=partial(played, latency),
            files=tuple(run.file for run in RUNS),
        )


CHECKS: Final = tuple(_checks())
