"""What no engine, router or pool may break, on random workloads, counted again at every step."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.serving.clients import Clients
from attacc.serving.engines.disaggregated import Decode, Prefill
from attacc.serving.engines.policy import Policy
from attacc.serving.engines.sarathi import Sarathi, SarathiSettings
from attacc.serving.engines.sglang import Sglang, SglangSettings
from attacc.serving.engines.static import Static, StaticSettings
from attacc.serving.engines.vllm_v0 import VllmV0, VllmV0Settings
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.serving.pools import DecodeEngine, Pools, PrefillEngine
from attacc.serving.routing import RouterName, router_of
from attacc.serving.simulator import Dispatcher, Engine, Instance
from attacc.serving.work import Work
from tests import share
from tests.serving import workloads
from tests.serving.golden_vectors import Asked
from tests.serving.test_engines import device_ps, host_ps, requests_of
from tests.serving.watch import Watch, check_end
from tests.serving.workloads import Cost

Options = dict[str, Any]
few = settings(max_examples=share.examples(__name__, 200, 40))
ROUTERS = st.sampled_from(list(RouterName))
CLIENTS = st.one_of(st.none(), st.none(), st.integers(1, 5))


pytestmark = pytest.mark.untraced  # other tests reach these lines, too


def v1(options: Options) -> tuple[Policy, Watch]:
    """Return vLLM V1, watched."""
    own = VllmV1Settings(**options)
    return VllmV1(own), v1_watch(own)


def v1_watch(own: VllmV1Settings) -> Watch:
    """Return a watch of vLLM V1."""
    return Watch(capacity=own.blocks - 1, tokens=own.max_num_batched_tokens, seqs=own.max_num_seqs)


def v0(options: Options) -> tuple[Policy, Watch]:
    """Return vLLM V0, watched."""
    own = VllmV0Settings(**options)
    return VllmV0(own), Watch(capacity=own.blocks, tokens=own.budget, seqs=own.max_num_seqs)


def sarathi(options: Options) -> tuple[Policy, Watch]:
    """Return Sarathi, watched."""
    own = SarathiSettings(**options)
    return Sarathi(own), Watch(capacity=own.blocks, seqs=own.batch_size_cap)


def sglang(options: Options) -> tuple[Policy, Watch]:
    """Return SGLang, watched."""
    own = SglangSettings(**options)
    return Sglang(own), Watch(capacity=own.pool_tokens, seqs=own.max_running_requests)


def static(options: Options) -> tuple[Policy, Watch]:
    """Return static batching, watched."""
    own = StaticSettings(**options)
    return Static(own), Watch(capacity=own.blocks, seqs=own.batch_size)


POLICIES: dict[str, tuple[Callable[[Options], tuple[Policy, Watch]], Any]] = {
    "vllm-v1": (v1, workloads.vllm_v1(asynchronous=False)),
    "vllm-v1-async": (v1, workloads.vllm_v1(asynchronous=True)),
    "vllm-v0": (v0, workloads.vllm_v0()),
    "sarathi": (sarathi, workloads.sarathi()),
    "sglang": (sglang, workloads.sglang()),
    "static": (static, workloads.static()),
}


@pytest.mark.parametrize("name", POLICIES)
@few
@given(st.data(), workloads.asked(), workloads.costs(), st.integers(1, 3), ROUTERS, CLIENTS)
def test_engines_behind_routers(
    name: str,
    data: st.DataObject,
    asked: tuple[Asked, ...],
    cost: Cost,
    number: int,
    router: RouterName,
    clients: int | None,
) -> None:
    """Catches lost requests and tokens, leaked or shared blocks, sums that drift from their rows,
    steps over a bound or over each other, and requests that overtake others.
    """
    make, options = POLICIES[name]
    own = data.draw(options)
    requests = requests_of(asked)
    sent = [request.index for request in requests]
    dispatcher = Dispatcher(Clients(iter(requests), concurrency=clients), router_of(router))
    watches: list[Watch] = []
    instances: list[Instance] = []
    for _ in range(number):
        policy, watch = make(own)
        engine = Engine(
            policy,
            lambda work: device_ps(cost, work),
            lambda work: host_ps(cost, work),
            dispatcher.answer,
        )
        engine.tell(watch)
        watches.append(watch)
        instances.append(Instance([engine]))
    dispatcher.play(instances)
    for watch, instance in zip(watches, instances, strict=True):
        check_end(watch, instance.engines[0].run, sent)
        assert (instance.in_flight, instance.waits, instance.runs) == (0, 0, 0)
    check_all(asked, watches)


def check_all(asked: tuple[Asked, ...], watches: list[Watch]) -> None:
    """Every request ended once, with all its outputs or those up to the limit, or was rejected."""
    ended = [one for watch in watches for one in watch.ended]
    rejected = [one for watch in watches for one, _ in watch.rejected]
    assert sorted(one.index for one in (*ended, *rejected)) == list(range(len(asked)))
    for one in ended:
        outputs = one.known - one.prompt
        assert 0 < outputs <= asked[one.index].outputs
        assert outputs == asked[one.index].outputs or one.known in {64, 96}


@few
@given(
    workloads.asked(),
    st.tuples(workloads.vllm_v1(), workloads.vllm_v1()),
    workloads.costs(),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ROUTERS,
    CLIENTS,
    st.sampled_from([0, 1, 50]),
)
def test_pools_behind_routers(
    asked: tuple[Asked, ...],
    options: tuple[Options, Options],
    cost: Cost,
    numbers: tuple[int, int],
    router: RouterName,
    clients: int | None,
    token_ps: int,
) -> None:
    """Catches the same on both sides, and blocks that are freed before or long after a read."""
    own = [VllmV1Settings(**one) for one in options]
    requests = requests_of(asked)
    sent = [request.index for request in requests]
    dispatcher = Dispatcher(Clients(iter(requests), concurrency=clients))

    def device(work: Work) -> int:
        return device_ps(cost, work)

    def host(work: Work) -> int:
        return host_ps(cost, work)

    pools = Pools(
        lambda hand_on: [
            PrefillEngine(Prefill(own[0]), device, host, dispatcher.answer, hand_on)
            for _ in range(numbers[0])
        ],
        [
            DecodeEngine(
                Decode(own[1]), device, host, dispatcher.answer, lambda n: 5 + token_ps * n
            )
            for _ in range(numbers[1])
        ],
        (router_of(router), router_of(router)),
    )
    watches = [v1_watch(own[place >= numbers[0]]) for place in range(sum(numbers))]
    for engine, watch in zip(pools.engines, watches, strict=True):
        engine.tell(watch)
    dispatcher.play([pools])
    for place, (engine, watch) in enumerate(zip(pools.engines, watches, strict=True)):
        check_end(watch, engine.run, sent if place < numbers[0] else None)
    first, second = watches[: numbers[0]], watches[numbers[0] :]
    rejected = [one.index for watch in first for one, _ in watch.rejected]
    prefilled = [one.index for watch in first for one in watch.ended]
    left = [one.index for watch in second for one in watch.ended]
    left += [one.index for watch in second for one, _ in watch.rejected]
    assert sorted(prefilled) == sorted(left)
    assert sorted(prefilled + rejected) == list(range(len(asked)))
    assert (pools.in_flight, pools.waits, pools.runs) == (0, 0, 0)
