"""SGLang: golden vectors of the real scheduler, and the naive twin on random workloads."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.serving.engines.policy import Ended
from attacc.serving.engines.sglang import Sglang, SglangSettings
from attacc.serving.simulator import Run, play
from attacc.serving.work import Work
from tests.oracle.serving import sglang
from tests.oracle.serving.common import Job, Step
from tests.serving import golden_vectors as golden
from tests.serving import workloads
from tests.serving.golden_vectors import STEP_PS, Asked, Vector, differences, event, plain
from tests.serving.test_engines import device_ps, host_ps, requests_of
from tests.serving.workloads import PRIVATE, Cost


def run_of(asked: tuple[Asked, ...], settings: dict[str, Any], cost: Cost) -> Run:
    """Play requests on SGLang."""
    policy = Sglang(SglangSettings(**settings), tells=True)
    return play(
        policy,
        iter(requests_of(asked)),
        lambda work: device_ps(cost, work),
        lambda work: host_ps(cost, work),
    )


def text(run: Run) -> str:
    """The events of a run."""
    assert run.events is not None
    return run.events.text()


def twin(asked: tuple[Asked, ...], settings: dict[str, Any], cost: Cost) -> str:
    """The events of the naive twin."""
    jobs = [Job(index, *one) for index, one in enumerate(asked)]
    return sglang.simulate(jobs, sglang.Settings(**settings), cost.duration_ps, cost.host_ps)


@given(workloads.asked(), workloads.sglang(), workloads.costs())
def test_sglang_is_its_twin(asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost) -> None:
    """Catches any event, time or order that differs from a plain scheduler's."""
    assert text(run_of(asked, options, cost)) == twin(asked, options, cost)


@pytest.mark.parametrize("vector", golden.SGLANG, ids=lambda one: one.name)
def test_golden_vectors(vector: Vector) -> None:
    """Catches any deviation from the event logs of the engine's own scheduler."""
    settings: dict[str, Any] = dict(vector.settings)
    policy = Sglang(SglangSettings(**settings), tells=True)
    run = play(policy, iter(requests_of(vector.jobs)), lambda _: STEP_PS, lambda _: 0)
    assert differences(vector, text(run)) == []


@pytest.mark.parametrize(
    ("vector", "stated"), [(golden.SG_B, golden.SG_B_RATIO), (golden.SG_F, golden.SG_F_RATIO)]
)
def test_admission_foresees_outputs_as_the_engine_did(
    vector: Vector, stated: tuple[int, float]
) -> None:
    """Catches a share that falls in prefills, too, or that a retraction does not raise.

    The page cuts the share to four digits, so that it may lie 0.0001 above.
    """
    settings: dict[str, Any] = dict(vector.settings)
    policy = Sglang(SglangSettings(**settings))
    ratios: list[float] = []

    def time(_: Work) -> int:
        ratios.append(policy.ratio)
        return STEP_PS

    play(policy, iter(requests_of(vector.jobs)), time, lambda _: 0)
    step, ratio = stated
    assert ratio <= ratios[step] < ratio + 0.0001


@st.composite
def crowded(draw: st.DrawFn) -> tuple[Asked, ...]:
    """Requests with short prompts and many outputs, so that running ones run out of slots.

    Where all have one prompt, a victim frees its outputs alone, and one victim may not be enough.
    """
    alike = draw(st.booleans())
    return tuple(
        Asked(
            1000 * draw(st.integers(0, 8)),
            ((0, 10),)
            if alike
            else (
                (draw(st.integers(0, 1)), draw(st.integers(1, 8))),
                (PRIVATE + index, draw(st.integers(1, 8))),
            ),
            draw(st.integers(1, 30)),
        )
        for index in range(draw(st.integers(3, 12)))
    )


@given(crowded(), workloads.sglang(), workloads.costs(), st.integers(35, 60))
def test_requests_that_lose_their_slots(
    asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost, slots: int
) -> None:
    """Catches another choice or order of victims, and what the cache keeps of them."""
    settings = {**options, "pool_tokens": slots, "conservativeness": 0.0}
    assert text(run_of(asked, settings, cost)) == twin(asked, settings, cost)


def test_two_requests_lose_their_slots_in_one_step() -> None:
    """Catches a retraction that ends after one victim, and another order of victims.

    All share one prompt. At 16 ns no slot is free, and five requests need one each. Request 4 has
    the fewest outputs (4), which take 3 slots. Then request 0 has the fewest (7), which take 6. Of
    these 9 slots the other three take one each.
    """
    outputs = {0: (8, 14), 1: (6, 9), 2: (4, 11), 3: (8, 3), 4: (8, 9), 5: (5, 14)}
    asked = tuple(Asked(at * STEP_PS, ((0, 10),), most) for at, most in outputs.values())
    settings = {"pool_tokens": 40, "conservativeness": 0.05}
    cost = Cost(base=1000, token=0, past=0, host=0)
    log = text(run_of(asked, settings, cost))
    assert log == twin(asked, settings, cost)
    lines = [line for line in log.splitlines() if "preempt" in line]
    assert lines == ["S 12 @16035 run 2:1 5:1 1:1 preempt 4 0 wait 4 0 free 6"]


def test_a_request_that_outgrows_the_pool_is_rejected() -> None:
    """Catches a loop without an end, and slots that are not given back.

    Admission counts 4,096 outputs at most, so that a request of 5,000 gets into 4,200 slots.
    """
    asked = plain((60, 5000, 0), (30, 2, 1))
    settings = {"pool_tokens": 4200}
    cost = Cost(base=1000, token=0, past=0, host=0)
    run = run_of(asked, settings, cost)
    log = text(run)
    assert log == twin(asked, settings, cost)
    # Two prefills, 7 ps longer, and 4,140 decode steps, until request 0 alone fills the pool.
    assert log.splitlines()[-1] == "reject 0 @4142014 reason=never"
    assert run.policy.free == 4140
    assert run.policy.runs == 0


@given(crowded(), workloads.sglang())
def test_a_step_is_described_by_what_it_computes(
    asked: tuple[Asked, ...], options: dict[str, Any]
) -> None:
    """Catches sums of a batch that go wrong when requests come, end or lose their slots."""
    settings: dict[str, Any] = {**options, "conservativeness": 0.0}
    jobs = [Job(index, *one) for index, one in enumerate(asked)]
    expected: list[tuple[int, int, int, list[tuple[int, int]]]] = []

    def time(step: Step) -> int:
        if step.kind == "P":
            expected.append((0, 0, 0, [(new, known) for _, new, known in step.rows]))
        else:
            keys = [known + 1 for _, _, known in step.rows]
            expected.append((len(keys), sum(keys), max(keys), []))
        return STEP_PS

    sglang.simulate(jobs, sglang.Settings(**settings), time)
    policy = Sglang(SglangSettings(**settings))
    run = play(policy, iter(requests_of(asked)), lambda _: STEP_PS, lambda _: 0)
    assert expected == [
        (work.decoding, work.keys, work.longest, [(one.new, one.past) for one in work.chunks])
        for work in (step.work for step in run.steps)
    ]


@given(workloads.asked(), workloads.sglang(), workloads.costs())
def test_the_ledger_counts_every_token(
    asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost
) -> None:
    """Catches a token that is not told, or told with another time, also after a retraction."""
    run = run_of(asked, {**options, "conservativeness": 0.0}, cost)
    times: dict[int, list[int]] = {}
    for line in text(run).splitlines():
        one = event(line)
        for index in map(int, one.fields.get("emit", [])):
            times.setdefault(index, []).append(int(one.fields["@"][0]))
    gaps = Counter(b - a for told in times.values() for a, b in pairwise(told))
    assert run.policy.ledger.gaps == gaps
    numbers = run.policy.ledger.ended
    ended = [Ended(*numbers[at : at + 8]) for at in range(0, len(numbers), 8)]
    assert len(ended) + len(run.rejected) == len(asked)
    for one in ended:
        told = times[one.number]
        assert (one.first_ps, one.end_ps, one.outputs) == (told[0], told[-1], len(told))
    assert run.policy.runs == 0
