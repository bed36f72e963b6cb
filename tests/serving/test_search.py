"""The search for the layout, the engine and the batch, against tries one by one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attacc.errors import CapacityError, InputError
from attacc.gpu.costs import PARTS, GpuPart
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.system import ResolvedSystem, load_system
from attacc.models.huggingface import load_model
from attacc.models.parameters import kv_bytes_per_token
from attacc.serving.candidates import BatchSearch, Served, ServingLimit, sizes_up_to
from attacc.serving.policies import PrefillPolicy, ServingOptions
from attacc.serving.search import Search, layouts, replica, states_drawn
from attacc.serving.steady import SteadyStates, prefill_alone
from attacc.system.batches import Ints
from attacc.system.boundary import constant_power
from attacc.system.layout import Layout
from attacc.system.pricer import Drawn, Pricer
from attacc.system.step import Group
from attacc.workload.requests import Workload, fixed_lengths

MODEL = load_model("llama-3.1-8b")
REQUESTS = fixed_lengths(256, 33)
TWO = load_system("8xh100", name="two", gpus=2)
TWO_ATTACC = load_system("8xh100-attacc-hbm3", name="mine", **{"gpus": 2, "attacc.devices": 2})
COSTS = {engine: cost_model(GpuModel.CALIBRATED, engine) for engine in Engine}


def pricer(system: ResolvedSystem, layout: Layout, engine: Engine | None) -> Pricer:
    assert engine is not None
    return Pricer(MODEL, system, gpu_model=COSTS[engine], layout=replace(layout, replicas=1))


def search(
    system: ResolvedSystem = TWO,
    *,
    engines: Sequence[Engine] = (Engine.VLLM,),
    fixed: str | None = None,
    batch: int | None = None,
    **options: Any,
) -> Search:
    asked = ServingOptions(**options)
    return Search(pricer, system, REQUESTS, asked, engines, MODEL, fixed, batch)


def one(layout: Layout, engine: Engine, system: ResolvedSystem = TWO, **options: Any) -> Served:
    """Return what one layout serves."""
    asked = ServingOptions(**options)
    priced = pricer(replica(system, layout), layout, engine)
    return BatchSearch(priced, REQUESTS, asked, layout, engine).best()


# Layouts.


def test_a_layout_is_read_and_written() -> None:
    """Catches a number under another name, and one that is dropped."""
    assert Layout.parse("tp=4,replicas=2") == Layout(4, 2)
    assert Layout.parse(" tp = 8 , ep=8,dp=8") == Layout(8, ep=8, dp=8)
    assert str(Layout(8, 1, 4, 2)) == "tp=8,replicas=1,ep=4,dp=2"
    assert Layout.parse(str(Layout(2, 4))) == Layout(2, 4)
    assert Layout.stated("dp=2") == {"dp": 2}


@pytest.mark.parametrize(
    "text", ["", "tp", "tp=0", "tp=2,tp=2", "pp=2", "tp=1025", "tp=-1", "tp=2;replicas=2"]
)
def test_what_is_no_layout_is_refused(text: str) -> None:
    """Catches a layout that is half understood."""
    with pytest.raises(InputError, match="is no layout"):
        Layout.stated(text)


def test_devices_are_dealt_out_with_their_gpus() -> None:
    """Catches AttAccs that every replica has all of, and odd ones that are lost."""
    eight = load_system("8xh100-attacc-hbm3")
    part = replica(eight, Layout(2, 4))
    assert part.attacc is not None
    assert (part.gpus, part.attacc.table.devices, part.attacc.stacks) == (2, 2, 10)
    assert replica(eight, Layout(8)) is eight
    with pytest.raises(InputError, match="takes 16 GPUs, and 8xh100-attacc-hbm3 has 8"):
        replica(eight, Layout(8, 2))
    three = load_system("8xh100-attacc-hbm3", name="three", **{"attacc.devices": 3})
    with pytest.raises(InputError, match=r"3 devices \(attacc\.devices\) are not dealt out evenly"):
        replica(three, Layout(2, 4))


def test_layouts_use_all_gpus_unless_told() -> None:
    """Catches GPUs that idle, and a number that is given and not kept."""
    eight = load_system("8xh100")
    assert list(layouts(eight, MODEL)) == [Layout(8), Layout(4, 2), Layout(2, 4), Layout(1, 8)]
    assert list(layouts(eight, MODEL, "tp=2")) == [Layout(2, 4)]
    assert list(layouts(eight, MODEL, "tp=2,replicas=3")) == [Layout(2, 3)]
    assert Layout(8, 1, 1, 4) in list(layouts(eight, MODEL, "dp=4"))
    assert list(layouts(eight, MODEL, "tp=3")) == [Layout(3, 2)]  # the pricer says why not


def test_experts_and_few_heads_have_layouts_of_their_own() -> None:
    """Catches experts that are always cut, and heads that are copied where groups can share."""
    eight, mixtral = load_system("8xh100"), load_model("mixtral-8x7b")
    found = list(layouts(eight, mixtral))
    assert {Layout(8), Layout(8, ep=8), Layout(8, ep=8, dp=8), Layout(8, dp=8)} <= set(found)
    sixteen = load_system("8xh100", name="sixteen", gpus=16)
    assert Layout(16, dp=2) in list(layouts(sixteen, MODEL))  # 8 key/value heads


def test_sizes_of_batches() -> None:
    """Catches a largest batch that is not tried, and sizes beyond it."""
    assert sizes_up_to(1).tolist() == [1]
    assert sizes_up_to(20).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]


# The search.


def test_the_best_way_is_the_best_of_all_ways() -> None:
    """Catches a way that is not tried, and a next best way of the same layout."""
    best, other = search(engines=tuple(Engine)).best()
    ways = [one(layout, engine) for layout in layouts(TWO, MODEL) for engine in Engine]
    rates = sorted((way.requests_per_s for way in ways), reverse=True)
    assert best.requests_per_s == rates[0]
    assert other is not None
    assert other.layout != best.layout
    others = [way.requests_per_s for way in ways if way.layout != best.layout]
    assert other.requests_per_s == max(others)


def test_replicas_serve_as_many_times_the_requests() -> None:
    """Catches rates of one replica for all, and a batch that is not that of all."""
    two, alone = one(Layout(1, 2), Engine.VLLM), one(Layout(1, 1), Engine.VLLM)
    assert two.requests_per_s == 2 * alone.requests_per_s
    assert (two.batch, two.gpus) == (2 * alone.batch, 2)
    assert (two.tpot_ns, two.energy_j) == (alone.tpot_ns, alone.energy_j)


def test_engines_take_no_more_requests_than_they_do() -> None:
    """Catches a batch beyond the engine's limit, and memory that is reserved alike."""
    best = one(Layout(2), Engine.VLLM, prefill=PrefillPolicy.DISAGGREGATED)
    assert (best.batch, best.limit) == (1024, ServingLimit.ENGINE)


def test_a_target_is_kept() -> None:
    """Catches a batch that misses a target, and a limit that does not say why."""
    free = one(Layout(2), Engine.VLLM)
    target_ms = free.tpot_ns / 2e6
    kept = one(Layout(2), Engine.VLLM, slo_tpot_ms=target_ms)
    assert kept.tpot_ns <= target_ms * 1e6
    assert kept.requests_per_s < free.requests_per_s
    assert kept.limit is ServingLimit.TPOT
    first = one(Layout(2), Engine.VLLM, slo_ttft_ms=free.ttft_ns * 0.7e-6)
    assert first.ttft_ns <= free.ttft_ns * 0.7
    assert first.limit is ServingLimit.TTFT
    with pytest.raises(InputError, match=r"no batch keeps a TPOT of 0\.01 ms: one request alone"):
        search(slo_tpot_ms=0.01).best()


def test_the_batch_that_is_answered_keeps_the_target_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a target that is kept only by what is interpolated between batches."""

    def states(
        pricer: Pricer, workload: Workload, sizes: Ints, *others: object, **more: object
    ) -> SteadyStates:
        del pricer, workload, others, more
        exact = 1.1 if sizes.size == 1 else 1.0
        some = np.ones(sizes.size, dtype=np.float64)
        return SteadyStates(
            decoding=sizes,
            requests_per_s=some * sizes,
            ttft_ns=some,
            tpot_ns=exact * 1e6 * sizes * some,
            prefill_share=some,
            parts_ns=np.ones((len(Group), sizes.size)),
            energies_j=np.ones((len(PARTS), sizes.size)),
            estimates=(),
        )

    monkeypatch.setattr("attacc.serving.candidates.steady_states", states)
    found = one(Layout(2), Engine.VLLM, slo_tpot_ms=10.0)
    assert (found.batch, found.tpot_ns) == (8, pytest.approx(8.8e6))
    assert found.limit is ServingLimit.TPOT


def test_a_given_batch_is_that_of_all_replicas() -> None:
    """Catches a batch for each replica, and one that does not fit."""
    best, _ = search(fixed="tp=1,replicas=2", batch=10).best()
    assert (best.batch, best.limit, str(best.layout)) == (
        10, ServingLimit.GIVEN, "tp=1,replicas=2"
    )  # fmt: skip
    with pytest.raises(CapacityError):
        search(fixed="tp=2", batch=10**6).best()


# GPUs that only prefill.


def test_how_many_gpus_prefill_must_be_told() -> None:
    """Catches a number that is guessed, and one that leaves nothing to decode."""
    apart: dict[str, Any] = {"prefill": PrefillPolicy.DISAGGREGATED}
    with pytest.raises(InputError, match="how many GPUs prefill is not said"):
        search(**apart).best()
    with pytest.raises(InputError, match="2 is out of range"):
        search(**apart, prefill_gpus=2).best()


@pytest.mark.parametrize(("batch", "limit"), [(4, ServingLimit.GIVEN), (400, ServingLimit.PREFILL)])
def test_the_slower_side_decides_and_the_other_one_waits(batch: int, limit: ServingLimit) -> None:
    """Catches the sum or the faster side; and boards of AttAccs that draw nothing while idle.

    Writes of arriving keys and values are left out: decode alone has none.
    """
    own = {"attacc.devices": 2, "attacc.writes": False}
    two, three = (
        load_system("8xh100-attacc-hbm3", name="mine", **{"gpus": gpus} | own) for gpus in (2, 3)
    )
    best, _ = search(
        three,
        fixed="tp=2,replicas=1",
        batch=batch,
        prefill=PrefillPolicy.DISAGGREGATED,
        prefill_gpus=1,
    ).best()
    decode, _ = search(
        two,
        fixed="tp=2,replicas=1",
        batch=batch,
        engines=(Engine.VLLM,),
        prefill=PrefillPolicy.SERIAL,
    ).best()
    alone = prefill_alone(decode.pricer, REQUESTS)
    apart = prefill_alone(pricer(load_system("8xh100", name="one", gpus=1), Layout(1), Engine.VLLM),
                        REQUESTS)  # fmt: skip
    # Serial steady state without its prefill: what the two GPUs decode alone.
    each_ns = 1e9 / decode.requests_per_s - float(alone.time_ns[0])
    rate = min(1e9 / each_ns, 1e9 / float(apart.time_ns[0]))
    assert best.requests_per_s == pytest.approx(rate, rel=1e-9)
    # The GPU that prefills sends all keys and values; AttAccs get them over links of their own.
    moved = kv_bytes_per_token(MODEL) * REQUESTS.mean_prompt_tokens
    between, away = three.link, three.attacc
    assert between is not None
    assert away is not None
    move_ns = max(
        2e9 * moved / between.both_ways_bytes_per_s,
        2e9 * (moved / 2) / away.link.both_ways_bytes_per_s,
    )
    assert best.ttft_ns == pytest.approx(float(apart.time_ns[0]) + move_ns, rel=1e-9)
    assert (best.limit, best.gpus) == (limit, 3)
    gpu_w = best.pricer.costs.static_w(TWO.gpu)
    assert decode.pricer.attaccs is not None
    boards = constant_power(two, gpu_w, decode.pricer.attaccs.standby)
    assert boards.boards_w > 2 * gpu_w
    wait_s = 1 / rate - each_ns / 1e9
    idle_j = boards.boards_w * wait_s + gpu_w * (1 / rate - float(apart.time_ns[0]) / 1e9)
    prefills_j = [one.steps.energies_pj.sum() / 1e12 for one in (apart, alone)]
    links_pj = between.energy_pj_per_byte + away.link.energy_pj_per_byte
    work_j = decode.energy_j + prefills_j[0] - prefills_j[1] + moved * links_pj / 1e12
    assert best.energy_j == pytest.approx(work_j + idle_j, rel=1e-9)
    assert sum(best.energies_j.values()) == best.energy_j


def test_draws_of_the_best_estimates_are_the_best_estimates() -> None:
    """Catches draws that leave out the move, or the boards that wait for the other side."""
    three = load_system("8xh100-attacc-hbm3", name="three", **{"gpus": 3, "attacc.devices": 2})
    asked = search(three, batch=4, prefill=PrefillPolicy.DISAGGREGATED, prefill_gpus=1)
    best, _ = asked.best()
    ones = np.ones(3)
    drawn = Drawn(dict.fromkeys(GpuPart, ones), ones, ones)
    found = states_drawn(best, REQUESTS, asked.options, drawn)
    assert found.requests_per_s == pytest.approx(best.requests_per_s, rel=1e-12)
    assert found.energies_j.sum(axis=0) == pytest.approx(best.energy_j, rel=1e-12)


def test_keys_and_values_that_arrive_are_written_beside_decode() -> None:
    """Catches prompts of other GPUs that take neither time nor energy of the AttAccs."""
    served: list[Served] = []
    for writes in (False, True):
        three = load_system(
            "8xh100-attacc-hbm3",
            name="three",
            **{"gpus": 3, "attacc.devices": 2, "attacc.writes": writes},
        )
        best, _ = search(
            three,
            fixed="tp=2,replicas=1",
            batch=4,
            prefill=PrefillPolicy.DISAGGREGATED,
            prefill_gpus=1,
        ).best()
        served.append(best)
    without, with_writes = served
    assert without.tpot_ns < with_writes.tpot_ns < 1.05 * without.tpot_ns
    assert without.energy_j < with_writes.energy_j < 1.05 * without.energy_j


def test_gpus_that_prefill_hold_the_model() -> None:
    """Catches weights of 141 GB that are prefilled with on one GPU of 80 GB."""
    model = load_model("llama-3.1-70b")

    def of(system: ResolvedSystem, layout: Layout, engine: Engine | None) -> Pricer:
        assert engine is not None
        return Pricer(model, system, gpu_model=COSTS[engine], layout=replace(layout, replicas=1))

    asked = ServingOptions(prefill=PrefillPolicy.DISAGGREGATED, prefill_gpus=4)
    eight = load_system("8xh100")
    best, _ = Search(of, eight, REQUESTS, asked, [Engine.VLLM], model, "tp=4", 8).best()
    assert best.prefill is not None
    assert best.prefill.layout.tp >= 2
    few = replace(asked, prefill_gpus=1)
    with pytest.raises(CapacityError, match="the weights take"):
        Search(of, eight, REQUESTS, few, [Engine.VLLM], model, "tp=7", 8).best()
