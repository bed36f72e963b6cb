"""Claims about the simulator with its own prices: measured engines, served again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from attacc.calibration.closed_loop import ClosedLoop, playable
from attacc.calibration.closed_loop import simulated as played
from attacc.calibration.open_loop import Figures, OpenLoopRun, dense, read_open_loop, with_experts
from attacc.calibration.serving import read_runs
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
    counted,
)

OPEN: Final = "data/silicon/serving_open_loop.csv"
CLOSED: Final = "data/silicon/end_to_end.csv"


@dataclass(frozen=True, slots=True)
class Recorded:
    """Errors of a latency when this was written.

    Attributes:
        error: mean without signs, of the runs that are claimed.
        held_back: the same, each model predicted by overheads fitted to the others.
        experts: mean without signs of the runs of models with experts.
    """

    error: float
    held_back: float
    experts: float


RECORDED: Final = {
    "tpot": Recorded(0.0193, 0.0266, 0.224),
    "itl": Recorded(0.0391, 0.0342, 0.223),
    "ttft": Recorded(0.0966, 0.1338, 0.814),
    "e2el_p99": Recorded(0.0302, 0.0380, 0.536),
}
"""Latency, a field of `Figures` -> its errors. ``benchmarks/open_loop.py`` measures them."""
RUNS: Final = 8
CLOSED_RECORDED: Final = {"tpot": 0.0415, "ttft": 0.1680}
"""Latency -> mean error without signs of the runs at constant concurrency."""
CLOSED_RUNS: Final = 57
WORDS: Final = {
    "tpot": ("mean time per output token", 0.08),
    "itl": ("mean time between two pieces of an answer", 0.08),
    "ttft": ("mean time to the first token", 0.20),
    "e2el_p99": ("99th percentile of the time to the last token", 0.12),
}
"""Latency -> its name, and the project's goal."""


def mean_off(runs: Sequence[OpenLoopRun], found: Sequence[Figures], latency: str) -> float:
    """Return the mean error of a latency without its sign.

    Args:
        runs: the measured ones.
        found: their simulations.
        latency: a field of `Figures`.
    """
    off = [getattr(one.off(run.measured), latency) for run, one in zip(runs, found, strict=True)]
    return sum(map(abs, off)) / len(off)


def _told(latency: str, error: float, runs: int, experts: float) -> Measured:
    held_back = RECORDED[latency].held_back
    figures = (
        Figure("models held back from the fit", held_back),
        Figure("models with experts", experts, group="not claimed"),
    )
    return Measured(error, runs, figures)


def recorded(latency: str) -> Measured:
    """Return the errors that were measured when the claim was written."""
    of = RECORDED[latency]
    return _told(latency, of.error, RUNS, of.experts)


@lru_cache(maxsize=1)
def _served(folder: Path) -> tuple[tuple[list[OpenLoopRun], list[Figures]], ...]:
    """Return runs and simulations: of dense models, and of models with experts."""
    runs = read_open_loop(folder / OPEN)
    return tuple(
        (some, [run.simulated() for run in some]) for some in (dense(runs), with_experts(runs))
    )


def served(latency: str, reference: ReferenceData) -> Measured:
    """Serve the runs again, and return the mean error of a latency."""
    claimed, others = _served(reference.folder)
    experts = mean_off(*others, latency)
    return _told(latency, mean_off(*claimed, latency), len(claimed[0]), experts)


def closed_error(found: Sequence[ClosedLoop], latency: str) -> float:
    """Return the mean error of a latency without its sign.

    Args:
        found: simulated runs.
        latency: "tpot" or "ttft".
    """
    return sum(abs(one.tpot_off if latency == "tpot" else one.ttft_off) for one in found) / len(
        found
    )


def closed_recorded(latency: str) -> Measured:
    """Return the error that was measured when the claim was written."""
    return Measured(CLOSED_RECORDED[latency], CLOSED_RUNS)


@lru_cache(maxsize=1)
def _closed(folder: Path) -> tuple[list[ClosedLoop], int]:
    """Return simulated runs, and how many runs of vLLM there are."""
    every = read_runs(folder / CLOSED)
    return played(playable(every)), sum(run.framework == "vllm" for run in every)


def closed_served(latency: str, reference: ReferenceData) -> Measured:
    """Serve the runs at constant concurrency again, and return the mean error of a latency."""
    found, vllm = _closed(reference.folder)
    left = counted("runs of vLLM in other precisions, or of unknown versions", vllm - len(found))
    return Measured(closed_error(found, latency), len(found), (left,))


def _open_checks() -> Iterable[Check]:
    for latency, (words, goal) in WORDS.items():
        yield Check(
            Claim(
                id=f"open-loop-{latency.replace('_', '-')}",
                room=Room.SERVING,
                statement=f"Served by the simulator at the measured rates, the {words} of dense "
                "models on 1 and 4 GPUs is that measured, on average over all runs.",
                data=f"{OPEN}: vLLM 0.15.1 on H100, requests that arrive at random "
                "(inference-sim/sim-to-real-accuracy-validation)",
                tolerance=Tolerance(goal, Unit.SHARE, "the project's goal"),
                limits="Two overheads were fitted to these runs, with prompts that repeat as the "
                "load generator's profiles say. Stages are cut to a minute; in their whole length "
                "the 99th percentile of the time to the last token is off by 5.8 %. Runs of models "
                "with experts had phases that no steady load explains "
                "(docs/evidence/open-loop.md).",
                needs=Needs.REFERENCE,
                tests=("tests/calibration/test_open_loop.py",),
            ),
            measure=partial(recorded, latency),
            with_data=partial(served, latency),
            files=(OPEN,),
        )


def _closed_checks() -> Iterable[Check]:
    for latency, goal in (("tpot", 0.078), ("ttft", 0.17)):
        yield Check(
            Claim(
                id=f"closed-loop-{latency}",
                room=Room.SERVING,
                statement=f"Served by the simulator at constant concurrency, the "
                f"{WORDS[latency][0]} of a dense model on 2 to 8 GPUs is that measured, on average "
                "over all runs.",
                data=f"{CLOSED}: vLLM 0.12 on H100, 8 to 128 requests in flight "
                "(ai-dynamo/aiconfigurator, Apache-2.0)",
                tolerance=Tolerance(
                    goal, Unit.SHARE, "that of the formula over all frameworks, and two points"
                ),
                limits="The formula's coefficients of the host were fitted to these runs, and 8 "
                "requests of a client were chosen by TTFT: of 6, 8 and 10 they are nearest. Tokens "
                "of a step are a rule of the collection. First tokens of long prompts come too "
                "early where few requests are in flight.",
                needs=Needs.REFERENCE,
                tests=("tests/calibration/test_open_loop.py",),
            ),
            measure=partial(closed_recorded, latency),
            with_data=partial(closed_served, latency),
            files=(CLOSED,),
            libraries=("polars",),
        )


CHECKS: Final = (*_open_checks(), *_closed_checks())
"""What this package claims, and the checks of each claim."""
