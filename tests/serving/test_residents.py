"""Where the keys of running requests lie in AttAccs, and what their attention takes there."""

from dataclasses import replace

import numpy as np
import pytest

from attacc.errors import CapacityError
from attacc.serving.engines.policy import Request
from attacc.serving.prices.residents import Residents
from attacc.serving.prices.steps import StepPrices
from attacc.serving.records.usage import usage_of
from attacc.serving.results import Requested
from attacc.serving.serve import arriving, serve
from attacc.serving.simulator import Run, play
from attacc.serving.started import EngineOptions, PolicyName, Residence, start
from attacc.serving.work import Chunk, Held, Work
from attacc.system.pricer import Pricer
from attacc.system.residents import held_times
from attacc.workload.arrivals import poisson
from attacc.workload.prefixes import PrefixHashes
from attacc.workload.requests import Requests, WorkloadKind

pytestmark = pytest.mark.untraced  # other tests reach these lines, too

ALONE = [name for name in PolicyName if name is not PolicyName.DISAGGREGATED]
LLAMA, GPT3 = "llama-3.1-70b", "gpt3-175b"
PAIRS = [(LLAMA, "8xh100-attacc-hbm3-shared"), (GPT3, "dgx-attacc-bank")]


def uneven(count: int, seed: int) -> Requests:
    """Return requests of unequal lengths that arrive in half a second."""
    random = np.random.default_rng(seed)
    prompts, outputs = random.integers(1, 1500, count), random.integers(1, 200, count)
    requests = Requests("uneven", WorkloadKind.TRACE, "a test", prompts, outputs)
    return requests.with_arrivals(poisson(count, 2.0 * count, seed=seed))


def played(
    pricer: Pricer, requests: Requests, options: EngineOptions, *, exact: bool = False
) -> tuple[Run, Residents, StepPrices]:
    prices = StepPrices(pricer, exact=exact)
    engine, residents = start(pricer, requests, options), prices.residents()
    assert residents is not None
    engine.policy.residents = residents
    return (
        play(engine.policy, arriving(requests), prices.device_ps, prices.host_ps),
        residents,
        prices,
    )


def follow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every step adds the keys that channels hold."""
    totals: list[int] = []
    step = Residents.step

    def told(self: Residents) -> Held:
        held = step(self)
        own = [channel for stack in held.lists() for channel in stack]
        assert (held.keys, held.chunks) in {(sum(one), len(one)) for one in own}
        assert held.all_chunks == sum(map(len, own))
        totals.append(sum(map(sum, own)))
        return held

    monkeypatch.setattr(Residents, "step", told)
    return totals


@pytest.mark.parametrize("policy", ALONE)
@pytest.mark.parametrize("blocks", [None, 130])
def test_channels_hold_the_keys_that_a_step_attends_to(
    policy: PolicyName, blocks: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a request that decodes without a place, or keeps one after its end or preemption."""
    pricer = Pricer(*PAIRS[0])
    assert pricer.residing is not None
    heads, _ = pricer.residing
    totals = follow(monkeypatch)
    options = EngineOptions(policy=policy, kv_blocks=blocks, max_num_seqs=12)
    run, residents, _ = played(pricer, uneven(30, 3), options)
    preempted = sum(Requested.of(run.policy.ledger).column("preemptions"))
    never = {PolicyName.STATIC, PolicyName.SGLANG}
    assert bool(preempted) == (blocks is not None and policy not in never)
    works = [one.work for one in run.steps if one.work.decoding]
    assert totals == [heads.kv_heads * work.keys for work in works]
    assert residents.steps == len(works)
    assert residents.step().all_chunks == 0


@pytest.mark.parametrize("residence", [Residence.HEAD_FIRST, Residence.TOKEN_PARALLEL])
def test_other_places_hold_the_same_keys(
    residence: Residence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a policy of residence that is dropped on its way, and lines that do not fit it."""
    totals = follow(monkeypatch)
    requests = uneven(20, 9)
    usual = serve(GPT3, "dgx-attacc-bank", requests)
    before = len(totals)
    found = serve(GPT3, "dgx-attacc-bank", requests, options=EngineOptions(residence=residence))
    assert totals[before:] == [96 * keys for keys in found.run.steps.column("keys") if keys]
    assert found.imbalance != usual.imbalance
    assert found.step_surrogate.max_deviation < 0.02


def test_a_request_that_fits_no_channel_is_refused() -> None:
    """Catches requests that run although a channel is too small for all their heads."""
    options = EngineOptions(residence=Residence.REQUEST_CHANNEL)
    with pytest.raises(CapacityError, match=r"a channel for .*96 heads, 96 layers"):
        serve(GPT3, "dgx-attacc-bank", (1500, 5), options=options)


@pytest.mark.parametrize("policy", [PolicyName.VLLM_V1, PolicyName.SGLANG])
def test_a_shared_beginning_is_read_where_it_lies(
    policy: PolicyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches beginnings that lie once for each request: these would fill all channels alike."""
    totals = follow(monkeypatch)
    count = 12
    prompts = np.full(count, 2048 + 40, dtype=np.int64)
    hashes = PrefixHashes.of_lists([[1, 2, 3, 4, 10 + number] for number in range(count)])
    requests = Requests(
        "shared", WorkloadKind.TRACE, "a test", prompts, np.full(count, 30, dtype=np.int64),
        np.linspace(0.0, 6.0, count), hashes,
    )  # fmt: skip
    options = EngineOptions(policy=policy)
    found = serve(GPT3, "dgx-attacc-bank", requests, options=options)
    assert found.latencies.prefix_hit_share > 0.8
    assert totals == [96 * keys for keys in found.run.steps.column("keys").tolist() if keys]
    apart = serve(GPT3, "dgx-attacc-bank", replace(requests, prefix_hashes=None), options=options)
    assert found.imbalance is not None
    assert apart.imbalance is not None
    assert found.imbalance > apart.imbalance


def test_channels_hold_what_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a request whose prompt came over a link, and which decodes without a place."""
    totals = follow(monkeypatch)
    options = EngineOptions(policy=PolicyName.DISAGGREGATED, prefill_gpus=4, kv_blocks=300)
    found = serve(LLAMA, "8xh100-attacc-hbm3-shared", uneven(30, 3), options=options)
    _, decode = found.engines
    assert found.latencies.preemptions > 0
    assert totals == [8 * keys for keys in decode.run.steps.column("keys").tolist() if keys]


@pytest.mark.parametrize(("model", "system"), PAIRS)
def test_steps_are_near_those_of_the_engine(model: str, system: str) -> None:
    """Catches a fit of other channels than those that occur, and a wrong number of layers.

    The largest deviation of a step that was measured is 1.3 %.
    """
    run, _, prices = played(Pricer(model, system), uneven(40, 5), EngineOptions())
    check = prices.check()
    assert check.asked_steps == len(run.steps)
    assert check.max_deviation < 0.02
    assert check.max_deviation < check.bound < 0.06
    assert any("fullest channel" in note for note in prices.estimates)
    imbalance = usage_of(run.steps, prices, 1).imbalance
    assert imbalance is not None
    assert 1.0 <= imbalance < 4.0


def test_exact_prices_are_those_of_the_engine() -> None:
    """Catches an exact price that remembers what the channels held in another step."""
    pricer = Pricer(*PAIRS[1])
    run, _, prices = played(pricer, uneven(3, 7), EngineOptions(), exact=True)
    assert prices.check().max_deviation == pytest.approx(0.0, abs=1e-9)
    assert prices.estimates == ()
    assert len(set(run.steps.column("channel_keys").tolist())) > 10


@pytest.mark.parametrize(("model", "system"), PAIRS)
def test_channels_of_a_stack_do_not_wait_for_each_other(model: str, system: str) -> None:
    """The time of a stack is that of its slowest channel by itself, on which the sums rest."""
    pricer = Pricer(model, system)
    assert pricer.attaccs is not None
    assert pricer.residing is not None
    heads, layers = pricer.residing
    residents = Residents(pricer.attaccs, heads, layers, held_times(pricer.attaccs, heads, layers))
    for request in (3, 4, 5):
        one = Request(request, 0, 500 * request, 9)
        one.done = one.prompt
        residents.begin([one])
    stack = max(residents.lists(), key=lambda own: sum(map(sum, own)))
    whole, *_ = pricer.attaccs.attend_held(heads, stack)
    empty = [()] * 15
    alone = [pricer.attaccs.attend_held(heads, [own, *empty])[0] for own in stack if own]
    assert whole == max(alone)


def test_what_is_read_back_lies_on_a_line() -> None:
    """Catches cached tokens that pass the link for nothing, or twice."""
    pricer = Pricer(*PAIRS[0])
    prices, exact = StepPrices(pricer), StepPrices(pricer, exact=True)
    for new, past, cached in ((8, 9000, 9000), (300, 4000, 1600), (16, 64, 16)):
        work = Work(0, 0, 0, (Chunk(new, past, cached, emits=True),))
        assert prices.time_ps(work) == pytest.approx(exact.time_ps(work), rel=2e-3)
