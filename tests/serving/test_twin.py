"""The twins of the engines' schedulers give the event logs of the engines themselves."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.oracle.serving import vllm_v1
from tests.oracle.serving.common import Job, Step
from tests.serving import golden_vectors as golden
from tests.serving.golden_vectors import STEP_PS, Asked, Vector


def constant(step: Step) -> int:
    """Every step takes the same time."""
    return STEP_PS


def jobs_of(asked: tuple[Asked, ...]) -> list[Job]:
    """Jobs of a vector."""
    return [Job(i, *one) for i, one in enumerate(asked)]


SIMULATE: dict[str, Callable[[Vector], str]] = {}


def simulated(vector: Vector) -> str:
    """The twin's log of a vector."""
    settings: dict[str, Any] = dict(vector.settings)
    jobs = jobs_of(vector.jobs)
    return vllm_v1.simulate(jobs, vllm_v1.Settings(**settings), constant)


@pytest.mark.parametrize("vector", golden.V1, ids=lambda vector: vector.name)
def test_vllm_v1_schedules_as_the_engine_did(vector: Vector) -> None:
    """Catches another order of admission, preemption or eviction, and a block too many."""
    assert golden.differences(vector, simulated(vector)) == []
