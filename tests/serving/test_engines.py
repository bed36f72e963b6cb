"""The engines: golden vectors of the real schedulers, and the naive twins on random workloads."""

from typing import Any

import pytest
from hypothesis import given

from attacc.serving.engines.policy import Request
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.serving.simulator import play
from attacc.serving.work import Work
from tests.oracle.serving import vllm_v1
from tests.oracle.serving.common import Job
from tests.serving import workloads
from tests.serving.golden_vectors import STEP_PS, V1, Asked, Vector, differences
from tests.serving.workloads import PRIVATE, Cost


def requests_of(asked: tuple[Asked, ...]) -> list[Request]:
    """Requests as the engines take them, by arrival; prompts without shared contents have none."""
    found = [
        Request(
            index,
            one.arrival_ps,
            sum(tokens for _, tokens in one.prompt),
            one.outputs,
            one.prompt if any(content < PRIVATE for content, _ in one.prompt) else None,
        )
        for index, one in enumerate(asked)
    ]
    return sorted(found, key=lambda request: (request.arrival_ps, request.index))


def device_ps(cost: Cost, work: Work) -> int:
    """Time of a step by its sums."""
    past = work.keys - work.decoding + sum(chunk.past for chunk in work.chunks)
    alone = 7 if not work.decoding else 0
    return cost.base + cost.token * work.new_tokens + cost.past * past + alone


def host_ps(cost: Cost, work: Work) -> int:
    """Time of the host by the rows of a step."""
    return cost.host * (work.decoding + len(work.chunks))


def log_of(asked: tuple[Asked, ...], settings: dict[str, Any], cost: Cost) -> str:
    """Return the events of vLLM V1."""
    policy = VllmV1(VllmV1Settings(**settings), tells=True)
    run = play(
        policy,
        iter(requests_of(asked)),
        lambda work: device_ps(cost, work),
        lambda work: host_ps(cost, work),
    )
    assert run.events is not None
    return run.events.text()


@pytest.mark.parametrize("vector", V1, ids=lambda one: one.name)
def test_golden_vectors(vector: Vector) -> None:
    """Catches any deviation from the event logs of the engine's own scheduler."""
    settings: dict[str, Any] = {"max_model_len": 4096, **vector.settings}
    policy = VllmV1(VllmV1Settings(**settings), tells=True)
    run = play(policy, iter(requests_of(vector.jobs)), lambda _: STEP_PS, lambda _: 0)
    assert run.events is not None
    assert differences(vector, run.events.text()) == []


@given(workloads.asked(), workloads.vllm_v1(), workloads.costs())
def test_vllm_v1_is_its_twin(asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost) -> None:
    """Catches any event, time or order that differs from a plain scheduler's."""
    jobs = [Job(index, *one) for index, one in enumerate(asked)]
    settings = vllm_v1.Settings(**options)
    expected = vllm_v1.simulate(jobs, settings, cost.duration_ps, cost.host_ps)
    assert log_of(asked, {"max_model_len": settings.max_model_len, **options}, cost) == expected
