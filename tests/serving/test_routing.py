"""Several engines in the order of time, and the routers before them."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import UnknownNameError
from attacc.serving.clients import Clients
from attacc.serving.engines.policy import Request
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.serving.routing import LeastLoaded, PrefixAware, RoundRobin, RouterName, router_of
from attacc.serving.simulator import Dispatcher, Engine, Instance, Router
from tests.oracle.serving import fleet, vllm_v1
from tests.oracle.serving.common import Job
from tests.serving import workloads
from tests.serving.golden_vectors import Asked
from tests.serving.test_engines import device_ps, host_ps, log_of, requests_of
from tests.serving.workloads import Cost


def logs_of(
    asked: tuple[Asked, ...],
    settings: dict[str, Any],
    cost: Cost,
    router: Router,
    number: int,
    concurrency: int | None = None,
) -> list[str]:
    """Return the events of each of several engines."""
    requests = iter(requests_of(asked))
    dispatcher = Dispatcher(Clients(requests, concurrency=concurrency), router)
    engines = [
        Engine(
            VllmV1(VllmV1Settings(**settings), tells=True),
            lambda work: device_ps(cost, work),
            lambda work: host_ps(cost, work),
            dispatcher.answer,
        )
        for _ in range(number)
    ]
    dispatcher.play([Instance([engine]) for engine in engines])
    return [engine.run.events.text() for engine in engines if engine.run.events is not None]


@given(
    workloads.asked(),
    workloads.vllm_v1(),
    workloads.costs(),
    st.integers(1, 4),
    st.sampled_from([RouterName.ROUND_ROBIN, RouterName.LEAST_LOADED]),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_several_engines_are_their_twins(
    asked: tuple[Asked, ...],
    options: dict[str, Any],
    cost: Cost,
    number: int,
    name: RouterName,
    clients: int | None,
) -> None:
    """Catches a turn or an arrival out of order, and a router that sees a state too old or new."""
    jobs = [Job(index, *one) for index, one in enumerate(asked)]
    jobs.sort(key=lambda job: (job.arrival_ps, job.index))
    settings = vllm_v1.Settings(**options)
    round_robin = name is RouterName.ROUND_ROBIN
    choose = fleet.round_robin() if round_robin else fleet.least_loaded()
    times = (cost.duration_ps, cost.host_ps)
    expected = fleet.simulate(jobs, settings, number, choose, times, clients)
    own = {"max_model_len": settings.max_model_len, **options}
    assert logs_of(asked, own, cost, router_of(name), number, clients) == expected


@given(workloads.asked(), workloads.vllm_v1(), workloads.costs(), st.integers(2, 3))
def test_engines_share_nothing(
    asked: tuple[Asked, ...], options: dict[str, Any], cost: Cost, number: int
) -> None:
    """Catches an engine that is disturbed by the others: alone it does the same."""
    order = sorted(range(len(asked)), key=lambda index: (asked[index].arrival_ps, index))
    logs = logs_of(asked, options, cost, RoundRobin(), number)
    for place, log in enumerate(logs):
        mine = set(order[place::number])
        # Requests of others come long after all that matters, and too late for any line before.
        late = max(one.arrival_ps for one in asked) + 10**9
        own = tuple(
            one if index in mine else one._replace(arrival_ps=late)
            for index, one in enumerate(asked)
        )
        alone = log_of(own, options, cost)
        assert alone.startswith(log)


def test_an_engine_makes_way_for_one_that_it_wakes() -> None:
    """Catches an engine that plays on while the next request of its client waits elsewhere."""
    outputs = (20, 1, 2, 1, 1)
    asked = tuple(Asked(0, ((100 + i, 16),), count) for i, count in enumerate(outputs))
    settings = {"blocks": 64, "asynchronous": False}
    logs = logs_of(asked, settings, Cost(1000, 0, 0, 0), RoundRobin(), 2, 2)
    # Request 2 ends on engine 0 at 4007, where request 0 goes on. Request 3 follows on engine 1,
    # which is idle, and ends at 5014. So request 4 is seen by the next call of engine 0.
    assert "S 1 @4007 run 3:16 free 62" in logs[1].splitlines()
    assert "S 6 @6007 run 0:1 4:16 free 60" in logs[0].splitlines()


@dataclass(frozen=True)
class Seen:
    """What a router sees of an instance."""

    waits: int = 0
    runs: int = 0
    in_flight: int = 0


def prompt(index: int, *runs: tuple[int, int]) -> Request:
    """A request with one output."""
    return Request(index, 0, sum(tokens for _, tokens in runs), 1, runs)


def test_round_robin_begins_again_after_the_last() -> None:
    """Catches an instance that is left out."""
    router = RoundRobin()
    seen = [Seen(), Seen(), Seen()]
    assert [router.choose(prompt(i, (i, 5)), seen) for i in range(5)] == [0, 1, 2, 0, 1]


def test_a_waiting_request_counts_for_four_that_run() -> None:
    """Catches another weight, and equal loads that go to a higher number."""
    router, one = LeastLoaded(), prompt(0, (0, 5))
    assert router.choose(one, [Seen(waits=1), Seen(runs=5)]) == 0
    assert router.choose(one, [Seen(waits=1), Seen(runs=3)]) == 1
    assert router.choose(one, [Seen(waits=1), Seen(runs=4)]) == 0


def test_a_beginning_is_sent_where_it_was_before() -> None:
    """Catches a match of too little, a match that starts later, and trees that do not grow."""
    router, seen = PrefixAware(), [Seen(), Seen()]
    shared = (7, 100)
    assert router.choose(prompt(0, shared, (10, 50)), seen) == 0
    assert router.choose(prompt(1, (11, 200)), seen) == 1  # the smallest tree
    assert router.choose(prompt(2, shared, (12, 200)), seen) == 0  # 100 of 300 match
    # 30 of 100 match, which is not more than 0.3; the trees have 350 and 200 tokens.
    assert router.choose(prompt(3, (7, 30), (13, 70)), seen) == 1
    # What was sent for want of a match counts, too: equal matches go to the lower number.
    assert router.choose(prompt(4, (7, 30), (14, 20)), seen) == 0
    assert router.choose(prompt(5, (15, 10), shared), seen) == 1  # no match in the middle


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [((65, 0), 1), ((64, 0), 0), ((201, 134), 0), ((202, 134), 1)],
)
def test_uneven_loads_come_before_a_match(loads: tuple[int, int], chosen: int) -> None:
    """Catches either bound that is left out, or reached and not exceeded."""
    router = PrefixAware()
    router.choose(prompt(0, (7, 100)), [Seen(), Seen()])
    seen = [Seen(in_flight=load) for load in loads]
    assert router.choose(prompt(1, (7, 100)), seen) == chosen


def test_an_unknown_router_is_named() -> None:
    """Catches a router that stands for another one."""
    with pytest.raises(UnknownNameError, match="unknown router 'random'"):
        router_of("random")
