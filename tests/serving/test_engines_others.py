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
from tests.serving.golden_vectors import SARATHI_A, STEP_PS, V0, Asked, Vector, differences, event
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


@pytest.mark.parametrize("vector", [*V0, SARATHI_A], ids=lambda one: one.name)
def test_golden_vectors(vector: Vector) -> None:
    """Catches any deviation from the event logs of the engines' own schedulers."""
    policy = MAKERS[vector.policy](**vector.settings)
    run = play(policy, iter(requests_of(vector.jobs)), lambda _: STEP_PS, lambda _: 0)
    assert differences(vector, text_of(run)) == []


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
