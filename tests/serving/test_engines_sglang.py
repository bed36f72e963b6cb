"""SGLang: golden vectors of the real scheduler, and the naive twin on random workloads."""

from typing import Any

import pytest
from hypothesis import given

from attacc.serving.engines.sglang import Sglang, SglangSettings
from attacc.serving.simulator import Run, play
from tests.oracle.serving import sglang
from tests.oracle.serving.common import Job
from tests.serving import golden_vectors as golden
from tests.serving import workloads
from tests.serving.golden_vectors import STEP_PS, Asked, Vector, differences
from tests.serving.test_engines import device_ps, host_ps, requests_of
from tests.serving.workloads import Cost

STEADY = Cost(base=1000, token=0, past=0, host=0)


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
