"""Prefill and decode on two engines: the naive twin, and scenarios by hand."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attacc.serving.clients import Clients
from attacc.serving.engines.disaggregated import Decode, Prefill
from attacc.serving.engines.policy import Ended, Request
from attacc.serving.engines.vllm_v1 import VllmV1Settings
from attacc.serving.pools import DecodeEngine, Pair, PrefillEngine
from attacc.serving.simulator import Dispatcher, Run
from attacc.serving.work import Work
from tests.oracle.serving import disaggregated, vllm_v1
from tests.oracle.serving.common import Job, Step
from tests.serving import workloads
from tests.serving.golden_vectors import STEP_PS, Asked
from tests.serving.test_engines import requests_of
from tests.serving.workloads import Cost


def played(
    requests: list[Request],
    settings: tuple[VllmV1Settings, VllmV1Settings],
    transfer_ps: Callable[[int], int],
    times: tuple[Callable[[Work], int], Callable[[Work], int]],
    concurrency: int | None = None,
) -> tuple[Run, Run]:
    """Play requests on both engines."""
    dispatcher = Dispatcher(Clients(iter(requests), concurrency=concurrency))
    pair = Pair(
        lambda hand_on: PrefillEngine(
            Prefill(settings[0], tells=True), *times, dispatcher.answer, hand_on
        ),
        lambda source: DecodeEngine(
            Decode(settings[1], tells=True), *times, dispatcher.answer, transfer_ps, source
        ),
    )
    dispatcher.play([pair])
    first, second = pair.engines
    return first.run, second.run


def log_of(runs: tuple[Run, Run]) -> str:
    """Return the events of both engines, as the twin writes them."""
    lines: list[str] = []
    for name, run in zip("PD", runs, strict=True):
        assert run.events is not None
        lines += [f"{name} {line}\n" for line in run.events.lines]
    return "".join(lines)


def row_ps(cost: Cost, work: Work) -> int:
    """Time of a step by its rows, whatever its kind."""
    past = work.keys - work.decoding + sum(chunk.past for chunk in work.chunks)
    return cost.base + cost.token * work.new_tokens + cost.past * past


def twin_ps(cost: Cost, step: Step) -> int:
    """The same for the twin."""
    return cost.base + sum(cost.token * new + cost.past * known for _, new, known in step.rows)


def both() -> SearchStrategy[tuple[dict[str, Any], dict[str, Any]]]:
    """Settings of both engines."""
    return st.tuples(workloads.vllm_v1(), workloads.vllm_v1())


@given(workloads.asked(), both(), workloads.costs(), st.sampled_from([0, 1, 10, 100]))
def test_two_pools_are_their_twins(
    asked: tuple[Asked, ...],
    options: tuple[dict[str, Any], dict[str, Any]],
    cost: Cost,
    token_ps: int,
) -> None:
    """Catches any event, time or order that differs from two plain schedulers with a link."""
    jobs = [Job(index, *one) for index, one in enumerate(asked)]
    p, d = (vllm_v1.Settings(**one) for one in options)
    settings = disaggregated.Settings(p, d, lambda tokens: 5 + token_ps * tokens)
    expected = disaggregated.simulate(
        jobs, settings, lambda step: twin_ps(cost, step), lambda step: cost.host * len(step.rows)
    )
    found = played(
        requests_of(asked),
        (VllmV1Settings(**options[0]), VllmV1Settings(**options[1])),
        lambda tokens: 5 + token_ps * tokens,
        (
            lambda work: row_ps(cost, work),
            lambda work: cost.host * (work.decoding + len(work.chunks)),
        ),
    )
    assert log_of(found) == expected
