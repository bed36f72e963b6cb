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
from attacc.serving.pools import DecodeEngine, Pools, PrefillEngine
from attacc.serving.routing import LeastLoaded, RoundRobin
from attacc.serving.simulator import Dispatcher, Run
from attacc.serving.work import Chunk, Work
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
    pools = Pools(
        lambda hand_on: [
            PrefillEngine(Prefill(settings[0], tells=True), *times, dispatcher.answer, hand_on)
        ],
        [DecodeEngine(Decode(settings[1], tells=True), *times, dispatcher.answer, transfer_ps)],
        (RoundRobin(), RoundRobin()),
    )
    dispatcher.play([pools])
    first, second = pools.engines
    assert pools.in_flight == 0
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


V1 = VllmV1Settings(blocks=64, asynchronous=False)


def constant(work: Work) -> int:
    """Every step takes the same time."""
    return STEP_PS


def nothing(work: Work) -> int:
    """A host that takes no time."""
    return 0


def by_the_token(tokens: int) -> int:
    """Time of a transfer."""
    return 10 * tokens


def test_a_first_token_waits_for_prefill_transfer_and_a_step() -> None:
    """Catches a first token of P, an arrival at D in place of the user's, and hits of D."""
    asked = (Asked(0, ((0, 32),), 2), Asked(5000, ((0, 32),), 1))
    runs = played(requests_of(asked), (V1, V1), by_the_token, (constant, nothing))
    ended = runs[1].policy.ledger.ended
    size = len(Ended._fields)
    first, second = (Ended(*ended[at : at + size]) for at in (0, size))
    # 1000 of P, 320 of the link, 1000 of D; then a step for each further token.
    assert (first.arrival_ps, first.first_ps, first.end_ps, first.hits) == (0, 2320, 3320, 0)
    # D has 16 of the 32 tokens, and so has P.
    assert (second.arrival_ps, second.first_ps, second.hits) == (5000, 5000 + 2160, 16)
    assert dict(runs[1].policy.ledger.gaps) == {1000: 1}


def test_the_last_token_of_a_loaded_prompt_decodes() -> None:
    """Catches a chunk where the pricer would read keys and values back from AttAccs."""
    asked = (Asked(0, ((100, 32),), 3),)
    runs = played(requests_of(asked), (V1, V1), by_the_token, (constant, nothing))
    assert [step.work.chunks[0].new for step in runs[0].steps] == [32]
    assert [step.work for step in runs[1].steps] == [Work(1, keys, keys) for keys in (32, 33, 34)]


def test_blocks_stay_until_they_are_read() -> None:
    """Catches blocks that P frees at the end of a prefill, and a waiting head that is given up."""
    small = VllmV1Settings(blocks=3, asynchronous=False)
    asked = tuple(Asked(0, ((100 + i, 32),), 1) for i in range(2))
    runs = played(requests_of(asked), (small, V1), by_the_token, (constant, nothing))
    assert log_of(runs).splitlines() == [
        "P S 0 @0 run 0:32 wait 1 free 0",
        "P U 0 @1000 emit 0 finish 0 free 0",
        "P S 1 @1000 run wait 1 free 0",
        "P S 2 @1320 run 1:32 free 0",
        "P U 2 @2320 emit 1 finish 1 free 0",
        "D S 0 @1000 run wait 0 free 61",
        "D S 1 @1320 run 0:1 free 61",
        "D U 1 @2320 emit 0 finish 0 free 63",
        "D S 2 @2320 run wait 1 free 61",
        "D S 3 @2640 run 1:1 free 61",
        "D U 3 @3640 emit 1 finish 1 free 63",
    ]


def test_memory_of_a_rejected_request_becomes_free() -> None:
    """Catches blocks of P that nobody will read, and a request that nobody answers."""
    small = VllmV1Settings(blocks=2, asynchronous=False)
    asked = (Asked(0, ((100, 32),), 1), Asked(0, ((101, 8),), 1))
    first, second = played(requests_of(asked), (V1, small), by_the_token, (constant, nothing))
    assert [(one.number, one.reason) for one in second.rejected] == [(0, "never")]
    assert first.policy.free == 63
    assert not first.policy.awaits
    assert len(second.policy.ledger) == 1


def test_a_rejection_wakes_the_engine_that_prefills() -> None:
    """Catches an engine that plays on while the other one waits for memory that is free now."""
    narrow = VllmV1Settings(blocks=64, max_model_len=60, asynchronous=False)
    few = VllmV1Settings(blocks=5, asynchronous=False)
    asked = (
        Asked(0, ((100, 16),), 20),
        Asked(2500, ((101, 64),), 1),  # too long to decode; it fills the memory for prefills
        Asked(2600, ((102, 16),), 1),
    )
    log = log_of(played(requests_of(asked), (few, narrow), by_the_token, (constant, nothing)))
    # Request 1 reaches the decoding engine at 3500, and its call at 4160 rejects it.
    assert "D reject 1 @4160 reason=long" in log.splitlines()
    assert "P S 3 @4160 run 2:16 free 3" in log.splitlines()
    assert "D S 5 @5160 run 0:1 wait 2 free 60" in log.splitlines()


def test_a_preempted_prompt_is_a_prompt_again() -> None:
    """Catches a token in the middle of a recomputed prompt that counts as a decode."""
    tight = VllmV1Settings(
        blocks=6, max_num_batched_tokens=2, prefix_caching=False, asynchronous=False
    )
    asked = tuple(Asked(0, ((100 + i, 32),), 20) for i in range(2))
    _, run = played(requests_of(asked), (V1, tight), by_the_token, (constant, nothing))
    chunks = [chunk for step in run.steps for chunk in step.work.chunks]
    assert chunks[0] == Chunk(1, 0, 0, emits=False)
    assert len(run.policy.ledger) == 2


def test_clients_wait_for_the_engine_that_decodes() -> None:
    """Catches a client that takes the end of a prefill for an answer."""
    asked = tuple(Asked(0, ((100 + i, 16),), 2) for i in range(3))
    runs = played(requests_of(asked), (V1, V1), by_the_token, (constant, nothing), concurrency=1)
    ended = runs[1].policy.ledger.ended
    rows = [Ended(*ended[at : at + 8]) for at in range(0, len(ended), 8)]
    assert [row.arrival_ps for row in rows] == [0, 3160, 6320]


@given(workloads.asked(), both(), workloads.costs(), st.integers(1, 3))
def test_nothing_is_lost(
    asked: tuple[Asked, ...],
    options: tuple[dict[str, Any], dict[str, Any]],
    cost: Cost,
    clients: int,
) -> None:
    """Catches requests that end twice or never, and blocks that nobody frees."""
    settings = (VllmV1Settings(**options[0]), VllmV1Settings(**options[1]))
    first, second = played(
        requests_of(asked),
        settings,
        by_the_token,
        (lambda work: row_ps(cost, work), lambda work: cost.host * len(work.chunks)),
        concurrency=clients,
    )
    rejected = len(first.rejected) + len(second.rejected)
    assert len(second.policy.ledger) + rejected == len(asked)
    for run, own in zip((first, second), settings, strict=True):
        assert run.policy.free == own.blocks - 1
        assert not run.policy.awaits
        assert not run.policy.waits


@given(workloads.asked(), both(), workloads.costs(), st.integers(1, 3), st.integers(1, 3))
def test_several_engines_on_each_side(
    asked: tuple[Asked, ...],
    options: tuple[dict[str, Any], dict[str, Any]],
    cost: Cost,
    prefills: int,
    decodes: int,
) -> None:
    """Catches blocks that are freed on another engine than that which keeps them."""
    settings = (VllmV1Settings(**options[0]), VllmV1Settings(**options[1]))
    dispatcher = Dispatcher(Clients(iter(requests_of(asked))))

    def device(work: Work) -> int:
        return row_ps(cost, work)

    pools = Pools(
        lambda hand_on: [
            PrefillEngine(Prefill(settings[0]), device, nothing, dispatcher.answer, hand_on)
            for _ in range(prefills)
        ],
        [
            DecodeEngine(Decode(settings[1]), device, nothing, dispatcher.answer, by_the_token)
            for _ in range(decodes)
        ],
        (RoundRobin(), LeastLoaded()),
    )
    dispatcher.play([pools])
    ended: list[int] = []
    for number, engine in enumerate(pools.engines):
        run, own = engine.run, settings[number >= prefills]
        assert run.policy.free == own.blocks - 1
        assert not run.policy.awaits
        ended += [one.number for one in run.rejected]
        if number >= prefills:
            ended += run.policy.ledger.ended[:: len(Ended._fields)]
    assert sorted(ended) == list(range(len(asked)))
    assert pools.in_flight == 0
