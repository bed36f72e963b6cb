"""Static batching, Sarathi and vLLM V0: golden vectors, and the naive twins on random workloads."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given

from attacc.serving.engines.policy import Policy
from attacc.serving.engines.sarathi import Sarathi, SarathiSettings
from attacc.serving.engines.static import Static, StaticSettings
from attacc.serving.engines.vllm_v0 import VllmV0, VllmV0Settings
from attacc.serving.simulator import Run, play
from attacc.serving.work import Chunk, Work
from tests.oracle.serving import sarathi, static, vllm_v0
from tests.oracle.serving.common import Job
from tests.serving import workloads
from tests.serving.golden_vectors import (
    SARATHI_A,
    STEP_PS,
    V0,
    Asked,
    Vector,
    differences,
    event,
    plain,
    steps,
)
from tests.serving.test_engines import device_ps, host_ps, requests_of
from tests.serving.workloads import Cost


def make_static(**settings: Any) -> Policy:
    """Return static batching that tells its events."""
    return Static(StaticSettings(**settings), tells=True)


def make_sarathi(**settings: Any) -> Policy:
    """Return Sarathi that tells its events."""
    return Sarathi(SarathiSettings(**settings), tells=True)


def make_vllm_v0(*, max_model_len: int = 2048, **settings: Any) -> Policy:
    """Return vLLM V0 that tells its events."""
    return VllmV0(VllmV0Settings(max_model_len=max_model_len, **settings), tells=True)


MAKERS: dict[str, Callable[..., Policy]] = {
    "static": make_static,
    "sarathi": make_sarathi,
    "vllm_v0": make_vllm_v0,
}


def run_of(policy: Policy, asked: tuple[Asked, ...], cost: Cost) -> Run:
    """Play requests with times that depend on what a step computes."""
    return play(
        policy,
        iter(requests_of(asked)),
        lambda work: device_ps(cost, work),
        lambda work: host_ps(cost, work),
    )


def text_of(run: Run) -> str:
    """Return the events of a run."""
    assert run.events is not None
    return run.events.text()


def jobs_of(asked: tuple[Asked, ...]) -> list[Job]:
    """Requests as the twins take them."""
    return [Job(index, *one) for index, one in enumerate(asked)]


def works_of(asked: tuple[Asked, ...], log: str) -> list[Work]:
    """Work of every step, by its rows in the event log."""
    prompts = [sum(tokens for _, tokens in one.prompt) for one in asked]
    done = [0] * len(asked)
    works: list[Work] = []
    events = [event(line) for line in log.splitlines()]
    emits = {one.number: one.fields.get("emit", []) for one in events if one.kind == "U"}
    for call in [one for one in events if one.kind == "S"]:
        for victim in map(int, call.fields.get("preempt", [])):
            done[victim] = 0
        decodes: list[int] = []
        chunks: list[Chunk] = []
        for row in call.fields["run"]:
            name, new = row.split(":")[0], int(row.split(":")[1])
            index = int(name)
            if new == 1 and done[index] >= prompts[index]:
                decodes.append(done[index] + 1)
            else:
                chunks.append(Chunk(new, done[index], 0, name in emits[call.number]))
            done[index] += new
        if call.fields["run"]:
            works.append(Work(len(decodes), sum(decodes), max(decodes, default=0), tuple(chunks)))
    return works


def check_ledger(asked: tuple[Asked, ...], run: Run) -> None:
    """Check times of tokens and ends of requests against the event log."""
    emits: dict[int, list[int]] = {}
    ended: list[tuple[int, int]] = []
    preemptions: Counter[int] = Counter()
    for one in map(event, text_of(run).splitlines()):
        for index in map(int, one.fields.get("emit", [])):
            emits.setdefault(index, []).append(int(one.fields["@"][0]))
        ended += [(int(index), int(one.fields["@"][0])) for index in one.fields.get("finish", [])]
        preemptions.update(map(int, one.fields.get("preempt", [])))
    gaps = Counter(
        later - earlier for times in emits.values() for earlier, later in pairwise(times)
    )
    ledger = run.policy.ledger
    assert ledger.gaps == gaps
    expected = [
        (
            index, asked[index].arrival_ps, emits[index][0], end,
            sum(tokens for _, tokens in asked[index].prompt), len(emits[index]), 0,
            preemptions[index],
        )
        for index, end in ended
    ]  # fmt: skip
    assert ledger.ended.tolist() == [value for one in expected for value in one]


def check(policy: Policy, asked: tuple[Asked, ...], cost: Cost, expected: str) -> None:
    """Compare a run with the log of a twin, and its sums and times with the log."""
    run = run_of(policy, asked, cost)
    log = text_of(run)
    assert log == expected
    assert [step.work for step in run.steps] == works_of(asked, log)
    check_ledger(asked, run)


BY_HAND = (
    Vector(
        "a victim in the middle of its prefill starts again in the same step",
        "sarathi",
        plain((30, 3, 0), (16, 1, 1)),
        {"blocks": 3, "chunk_size": 20},
        steps(
            [
                "run 0:20 preempt wait free 1 -> emit finish free 1",
                "run 0:10 1:10 preempt wait free 0 -> emit 0 finish free 0",
                "run 0:1 1:16 preempt 1 wait free 0 -> emit 0 1 finish 1 free 1",
                "run 0:1 preempt wait free 1 -> emit 0 finish 0 free 3",
            ]
        ),
    ),
    Vector(
        "the last chunk of a lone victim is one token behind its prompt",
        "sarathi",
        plain((40, 2, 0), (5, 1, 2)),
        {"blocks": 3, "chunk_size": 20},
        steps(
            [
                "run 0:20 free 0 -> emit",
                "run 0:20 -> emit 0 finish free 0",
                "run 0:20 preempt 0 wait 1 free 0 -> emit",
                "run 0:20 preempt wait 1 free 0 -> emit",
                "run 0:1 wait 1 free 0 -> emit 0 finish 0 free 3",
                "run 1:5 wait free 2 -> emit 1 finish 1 free 3",
            ]
        ),
    ),
    Vector(
        "a chunked step admits its own victim",
        "vllm_v0",
        plain((40, 2, 0)),
        {"blocks": 3, "chunked_prefill": True},
        steps(
            [
                "run 0:40 free 0 -> emit 0 finish free 0",
                "run 0:41 preempt 0 wait free 0 -> emit 0 finish 0 free 3",
            ]
        ),
    ),
    Vector(
        "of two victims of a chunked step the older one is first in the queue",
        "vllm_v0",
        plain((16, 4, 0), (16, 6, 0), (5, 3, 0)),
        {"blocks": 3, "chunked_prefill": True},
        steps(
            [
                "run 0:16 1:16 2:5 free 0 -> emit 0 1 2 free 0",
                "run 0:1 preempt 2 1 wait 1 2 free 1 -> emit 0 free 1",
                "run 0:1 preempt wait 1 2 free 1 -> emit 0 free 1",
                "run 0:1 wait 1 2 free 1 -> emit 0 finish 0 free 3",
                "run 1:17 2:6 wait free 0 -> emit 1 2 free 0",
                "run 1:1 2:7 preempt 2 wait free 0 -> emit 1 2 finish 2 free 1",
                *["run 1:1 free 1 -> emit 1 finish free 1"] * 2,
                "run 1:1 free 1 -> emit 1 finish 1 free 3",
            ]
        ),
    ),
    Vector(
        "a victim with its outputs exceeds the tokens of a step",
        "vllm_v0",
        plain((40, 4, 0)),
        {"blocks": 3, "max_num_batched_tokens": 40},
        (
            "S 0 run 0:40 free 0",
            "U 0 emit 0 finish free 0",
            "S 1 run preempt 0 wait 0 free 3",
            "reject 0 reason=long",
        ),
    ),
    Vector(
        "Sarathi keeps the watermark free, for good and for now",
        "sarathi",
        plain((150, 1, 0), (130, 2, 0), (16, 1, 0)),
        {"blocks": 10, "watermark_blocks_fraction": 0.1},
        (
            "S 0 run wait 0 1 2 free 10",
            "reject 0 reason=never",
            "S 1 run 1:130 wait 2 free 1",
            "U 1 emit 1 finish free 1",
            "S 2 run 1:1 wait 2 free 1",
            "U 2 emit 1 finish 1 free 10",
            "S 3 run 2:16 wait free 9",
            "U 3 emit 2 finish 2 free 10",
        ),
    ),
    Vector(
        "vLLM V0 keeps the watermark free, for good and for now",
        "vllm_v0",
        plain((150, 1, 0), (130, 2, 0), (16, 1, 0)),
        {"blocks": 10, "watermark": 0.1},
        (
            "reject 0 reason=never",
            "S 0 run 1:130 wait 2 free 1",
            "U 0 emit 1 finish free 1",
            "S 1 run 1:1 wait 2 free 1",
            "U 1 emit 1 finish 1 free 10",
            "S 2 run 2:16 wait free 9",
            "U 2 emit 2 finish 2 free 10",
        ),
    ),
    Vector(
        "a request that has ended keeps its memory until its batch has ended",
        "static",
        plain((10, 1, 0), (20, 3, 0), (30, 1, 0)),
        {"blocks": 9, "batch_size": 3, "max_tokens": 64},
        steps(
            [
                "run 0:10 1:20 wait 2 free 1 -> emit 0 1 finish 0 free 1",
                "run 1:1 wait 2 free 1 -> emit 1 finish free 1",
                "run 1:1 wait 2 free 1 -> emit 1 finish 1 free 9",
                "run 2:30 wait free 5 -> emit 2 finish 2 free 9",
            ]
        ),
    ),
)
"""Cases that random workloads seldom meet, worked out by hand from the rules of each policy."""


@pytest.mark.parametrize("vector", [*V0, SARATHI_A, *BY_HAND], ids=lambda one: one.name)
def test_golden_vectors(vector: Vector) -> None:
    """Catches any deviation from the engines' own schedulers, and from cases worked out by hand."""
    policy = MAKERS[vector.policy](**vector.settings)
    run = play(policy, iter(requests_of(vector.jobs)), lambda _: STEP_PS, lambda _: 0)
    log = text_of(run)
    assert differences(vector, log) == []
    assert [step.work for step in run.steps] == works_of(vector.jobs, log)
    check_ledger(vector.jobs, run)


@pytest.mark.parametrize("vector", BY_HAND, ids=lambda one: one.name)
def test_twins_in_cases_by_hand(vector: Vector) -> None:
    """Catches a twin that decides otherwise in the cases worked out by hand."""
    jobs, options = jobs_of(vector.jobs), dict[str, Any](vector.settings)
    match vector.policy:
        case "static":
            log = static.simulate(jobs, static.Settings(**options), lambda _: STEP_PS)
        case "sarathi":
            log = sarathi.simulate(jobs, sarathi.Settings(**options), lambda _: STEP_PS)
        case _:
            log = vllm_v0.simulate(jobs, vllm_v0.Settings(**options), lambda _: STEP_PS)
    assert differences(vector, log) == []


def test_defaults_of_the_budget_of_vllm_v0() -> None:
    """Catches a budget that is below the longest prompt, and one of chunks that depends on it."""
    budgets = [
        VllmV0Settings(blocks=1, max_model_len=length, chunked_prefill=chunked).budget
        for length in (1024, 8192)
        for chunked in (False, True)
    ]
    assert budgets == [2048, 2048, 8192, 2048]


@given(workloads.asked(), workloads.static(), workloads.costs())
def test_static_is_its_twin(asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost) -> None:
    """Catches any event, time, sum or order that differs from a plain static batcher's."""
    settings = static.Settings(**options)
    expected = static.simulate(jobs_of(asked), settings, cost.duration_ps, cost.host_ps)
    check(make_static(**options), asked, cost, expected)


@given(workloads.asked(), workloads.sarathi(), workloads.costs())
def test_sarathi_is_its_twin(asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost) -> None:
    """Catches any event, time, sum or order that differs from a plain Sarathi scheduler's."""
    settings = sarathi.Settings(**options)
    expected = sarathi.simulate(jobs_of(asked), settings, cost.duration_ps, cost.host_ps)
    check(make_sarathi(**options), asked, cost, expected)


@given(workloads.asked(), workloads.vllm_v0(), workloads.costs())
def test_vllm_v0_is_its_twin(asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost) -> None:
    """Catches any event, time, sum or order that differs from a plain V0 scheduler's."""
    settings = vllm_v0.Settings(**options)
    expected = vllm_v0.simulate(jobs_of(asked), settings, cost.duration_ps, cost.host_ps)
    check(make_vllm_v0(**options), asked, cost, expected)
