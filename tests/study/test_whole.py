"""Whole requests of a comparison: baselines, where a gain comes from, and what requests cost."""

from math import isclose, prod
from typing import Any

import pytest

import attacc as aa
from attacc.errors import InputError
from attacc.gpu.models import Engine
from attacc.hardware.system import ResolvedSystem, gpus_alone, load_system
from attacc.serving.policies import PrefillPolicy
from attacc.study.compare import Comparison, SystemResult
from attacc.study.decomposition import Cause, decompose, equal_stacks
from attacc.study.whole import Found, WholeRequests, partner
from attacc.system.cost import dram_area, money

SHARED = load_system(
    "8xh100-attacc-hbm3-shared",
    name="shared",
    **{"gpus": 2, "attacc.devices": 2, "head_level_pipelining": True},
)
TWO = load_system("8xh100", name="two", gpus=2)
FAST = load_system("8xh200", name="fast", gpus=2)


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return aa.compare(
        "llama-3.1-8b",
        (512, 33),
        [TWO, SHARED, FAST],
        batch=32,
        layout="tp=2,replicas=1",
        engine="vllm",
    )


def whole(result: SystemResult) -> WholeRequests:
    assert result.whole_requests is not None, result.whole_reason
    return result.whole_requests


def test_what_is_fixed_is_what_is_served(compared: Comparison) -> None:
    """Catches a layout, an engine or a batch that is searched although it is given."""
    for result in compared.systems:
        found = whole(result)
        assert (found.layout, found.engine, found.batch) == ("tp=2,replicas=1", Engine.VLLM, 32)
        assert (found.limit, found.prefill) == ("given", PrefillPolicy.MIXED)
        assert found.next_best is None
        assert isclose(found.output_tokens_per_s, 33 * found.requests_per_s)
        million = found.energy_per_request_j / 33 * 1e6
        assert isclose(found.energy_per_million_tokens_j, million)


def test_prompts_beyond_the_context_are_told() -> None:
    """Catches whole requests, prefill included, at lengths that the model was not made for."""
    long, short = (
        aa.compare("llama-2-7b", (prompt, 2), TWO, batch=1, layout="tp=2,replicas=1", engine="vllm")
        for prompt in (5000, 4000)
    )
    said = "prompts of up to 5,000 tokens and requests of up to 5,002 tokens"
    assert f"{said}, of a model that was made for 4,096" in whole(long.systems[0]).estimates
    assert not any("made for" in note for note in whole(short.systems[0]).estimates)


def test_a_row_is_compared_with_its_gpus_alone_or_else_the_first(compared: Comparison) -> None:
    """Catches AttAccs that are compared with other GPUs, and ratios the wrong way around."""
    two, shared, fast = map(whole, compared.systems)
    assert [row.baseline for row in (two, shared, fast)] == ["two"] * 3
    assert (two.speedup, two.energy_ratio, two.depends_most_on) == (1, 1, None)
    assert (two.speedup_low, two.speedup_high) == pytest.approx((1, 1))
    for row in (shared, fast):
        assert row.speedup == row.requests_per_s / two.requests_per_s
        assert row.energy_ratio == two.energy_per_request_j / row.energy_per_request_j
        assert row.speedup_low is not None
        assert row.speedup_high is not None
        assert row.speedup is not None
        assert row.speedup_low < row.speedup < row.speedup_high
        assert row.depends_most_on is not None
    assert [gain.system for gain in compared.gains] == ["shared"]


def test_partners() -> None:
    """Catches a partner with other GPUs, more of them, or other memory where there is a choice."""
    names = ("8xh200", "8xh100", "2xdgx", "dgx-base", "dgx-large", "8xh100-attacc-hbm3",
             "dgx-attacc-bank", "8xb200-attacc-hbm3", "dgx-cpu")  # fmt: skip
    found = {name: Found(load_system(name)) for name in names}
    every = list(found.values())

    def of(name: str) -> str:
        return partner(found[name], every).system.name

    assert of("8xh100-attacc-hbm3") == "8xh100"
    assert of("dgx-attacc-bank") == "dgx-base"
    assert of("dgx-cpu") == "dgx-base"
    assert of("8xb200-attacc-hbm3") == of("2xdgx") == of("8xh100") == "8xh200"
    backwards = [found["dgx-large"], found["dgx-base"]]
    assert partner(found["dgx-attacc-bank"], backwards).system.name == "dgx-base"
    assert partner(found["dgx-attacc-bank"], backwards[:1]).system.name == "dgx-large"


# Where a gain comes from.


def test_factors_multiply_to_the_gain(compared: Comparison) -> None:
    """Catches a step that is left out or counted twice, and another way than the printed one."""
    two, shared, fast = map(whole, compared.systems)
    found = shared.decomposition
    assert found is not None
    assert two.decomposition is fast.decomposition is None
    assert [factor.cause for factor in found.factors] == list(Cause)
    assert found.baseline_requests_per_s == two.requests_per_s
    assert found.factors[-1].requests_per_s == shared.requests_per_s
    assert isclose(found.gain, prod(f.factor for f in found.factors), rel_tol=1e-12)
    assert shared.speedup is not None
    assert isclose(found.gain, shared.speedup, rel_tol=1e-12)
    assert found.equal_stacks_requests_per_s == found.factors[1].requests_per_s
    by_cause = {factor.cause: factor.factor for factor in found.factors}
    assert by_cause[Cause.CAPACITY] == 1  # the batch is given
    assert by_cause[Cause.BANDWIDTH] > 1
    assert by_cause[Cause.UNIT] > 1


def test_a_chain_changes_one_thing_at_a_time() -> None:
    """Catches a system of the chain that has more than its cause, or less."""
    asked: list[tuple[float, ...]] = []

    def best(system: ResolvedSystem) -> tuple[float, float]:
        pool = system.attacc
        queries = 0 if pool is None else pool.table.queries_per_read
        overlap = system.spec.head_level_pipelining
        gib, tb = system.gpu.memory_bytes / 2**30, system.gpu.memory_bytes_per_s / 1e12
        asked.append((round(gib), round(tb, 2), queries, overlap))
        return float(len(asked)), 1.0

    found = decompose(SHARED, best)
    assert found is not None
    # The system, without overlap, with the papers' unit, equal stacks, memory alone, GPUs alone.
    assert asked == [
        (80, 3.35, 8, True), (80, 3.35, 8, False), (80, 3.35, 1, False),
        (160, round(3.352 + 5 * 0.6656, 2), 0, False), (160, 3.35, 0, False),
        (80, 3.35, 0, False),
    ]  # fmt: skip
    rates = [factor.requests_per_s for factor in found.factors]
    assert (found.baseline_requests_per_s, rates) == (6, [5, 4, 3, 2, 1])


def test_systems_of_a_chain() -> None:
    """Catches AttAccs that stay, memory of all devices on each GPU, and a name that is kept."""
    plain = gpus_alone(SHARED)
    assert (plain.attacc, plain.gpus, plain.gpu) == (None, 2, SHARED.gpu)
    more = equal_stacks(SHARED)
    assert more.spec.name == "h100 with 5 stacks of hbm3-5.2 more"
    assert more.attacc is None
    with pytest.raises(InputError, match="two has no AttAccs"):
        equal_stacks(TWO)
    assert decompose(TWO, lambda _: (1.0, 1.0)) is None


# What requests cost.


def test_cost_by_hand(compared: Comparison) -> None:
    """Catches hours taken for seconds, and energy, host or use that is left out."""
    two, shared, _ = map(whole, compared.systems)
    for system, row in ((TWO, two), (SHARED, shared)):
        host_w = system.spec.host_power_w
        assert host_w is not None
        node_j = row.energy_per_request_j + host_w / row.requests_per_s
        economy = row.economy
        assert economy.node_energy_per_request_j == pytest.approx(node_j)
        seconds = 4 * 365 * 24 * 3600 * 0.7
        usd = money(system).node_price_usd / seconds / row.requests_per_s
        usd += node_j / 3.6e6 * 1.2 * 0.1
        assert economy.cost_per_request_usd == pytest.approx(usd)
        assert economy.cost_per_million_tokens_usd == pytest.approx(usd / 33 * 1e6)
    assert shared.speedup is not None
    silicon = dram_area(SHARED).total_mm2 / dram_area(TWO).total_mm2
    assert shared.economy.gain_per_dram_area == pytest.approx(shared.speedup / silicon)
    one, other = two.economy, shared.economy
    saved = one.node_energy_per_request_j / other.node_energy_per_request_j
    assert other.gain_per_watt == pytest.approx(saved)
    assert one.cost_per_request_usd is not None
    assert other.cost_per_request_usd is not None
    cheaper = one.cost_per_request_usd / other.cost_per_request_usd
    assert other.gain_per_usd == pytest.approx(cheaper)
    assert (one.gain_per_dram_area, one.gain_per_watt, one.gain_per_usd) == (1, 1, 1)


def test_a_layout_pays_for_the_gpus_that_it_uses() -> None:
    """Catches the price of idle GPUs, which another layout would use."""
    asked: dict[str, Any] = {"batch": 8, "engine": "vllm"}
    (half,) = aa.compare("llama-3.1-8b", (512, 33), TWO, layout="tp=1,replicas=1", **asked).systems
    one = load_system("8xh100", name="one", gpus=1)
    (alone_,) = aa.compare("llama-3.1-8b", (512, 33), one, layout="tp=1", **asked).systems
    assert whole(half).requests_per_s == whole(alone_).requests_per_s
    host_w = TWO.spec.host_power_w
    assert host_w is not None
    node_j = whole(half).energy_per_request_j + host_w / 2 / whole(half).requests_per_s
    assert whole(half).economy.node_energy_per_request_j == pytest.approx(node_j)
    price = money(TWO).node_price_usd / 2 / (4 * 365 * 24 * 3600 * 0.7)
    usd = price / whole(half).requests_per_s + node_j / 3.6e6 * 1.2 * 0.1
    assert whole(half).economy.cost_per_request_usd == pytest.approx(usd)


def test_gpus_that_only_prefill_have_no_attaccs() -> None:
    """Catches mixers that are sent to AttAccs beside GPUs that have none."""
    three = load_system("8xh100-attacc-hbm3", name="three", **{"gpus": 3, "attacc.devices": 2})
    (row,) = aa.compare(
        "llama-3.1-8b",
        (512, 33),
        three,
        batch=8,
        engine="vllm",
        layout="tp=2,replicas=1",
        prefill="disaggregated",
        prefill_gpus=1,
        sites={"full": "attacc"},
    ).systems
    found = whole(row)
    assert (found.prefill, found.prefill_share) == (PrefillPolicy.DISAGGREGATED, 0)
    assert found.decomposition is not None
    assert isclose(found.decomposition.factors[-1].requests_per_s, found.requests_per_s)


# What cannot be served.


def test_a_model_that_all_gpus_cannot_split_is_served_by_replicas() -> None:
    """Catches a row without whole requests because decode on all GPUs together is not possible."""
    (row,) = aa.compare(
        "gpt3-13b", (64, 9), "2xdgx", batch=4, gpu_model="published", layout="tp=8"
    ).systems
    assert row.status == "does_not_split"
    assert row.performance is None
    found = whole(row)
    assert (found.layout, found.engine, found.speedup) == ("tp=8,replicas=2", None, 1)


def test_decode_only_leaves_whole_requests_out() -> None:
    """Catches a search that is made for nothing."""
    (row,) = aa.compare("llama-3.1-8b", (64, 9), TWO, batch=4, decode_only=True).systems
    assert (row.whole_requests, row.whole_reason) == (None, None)
    assert row.performance is not None


def test_why_no_layout_serves_is_told() -> None:
    """Catches a row that says nothing, and a comparison that ends with the first such row."""
    found = aa.compare("llama-3.1-8b", (64, 9), [TWO, "8xh100"], layout="tp=8", engine="vllm",
                       batch=8)  # fmt: skip
    two, eight = found.systems
    assert two.whole_requests is None
    assert "takes 8 GPUs, and two has 2" in (two.whole_reason or "")
    assert (whole(eight).baseline, whole(eight).speedup) == (None, None)
