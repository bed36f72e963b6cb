from collections.abc import Iterable
from dataclasses import replace
from math import isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import BOUNDS, Bound, EnergyBreakdown
from attacc.gpu.published.model import PublishedCostModel, published_rates
from attacc.hardware.placement import Placement
from attacc.hardware.system import (
    AttaccTable,
    AttentionSite,
    ResolvedSystem,
    SystemSpec,
    load_system,
    resolve_system,
)
from attacc.models.architecture import MODELS
from attacc.models.operators import (
    AllReduce,
    Attention,
    Operator,
    Pointwise,
    PointwiseKind,
    Step,
)
from attacc.models.precision import ElementType
from attacc.models.steps import Decoding, decode_step, model_step, prefill_step
from attacc.system.attaccs import AttaccAttention
from attacc.system.step import Group, StepCost, step_costs
from tests.pricing import step_cost

MODEL = PublishedCostModel()
RATES = published_rates(Placement.BANK, power_limited=True, stacks_per_device=5)
ATTENTION = AttaccAttention.one(1e5, EnergyBreakdown(dram_pj=7.0, alu_pj=3.0))
GPT3 = MODELS.load("gpt3-175b")
LLAMA3 = MODELS.load("llama-3.1-70b")
MIXTRAL = MODELS.load("mixtral-8x7b")


def with_attacc(
    *, devices: int = 8, pipelining: bool = False, coprocessing: bool = False
) -> ResolvedSystem:
    spec = SystemSpec(
        name="mine",
        gpu="a100a",
        gpus=8,
        link="nvlink3",
        attention=AttentionSite.ATTACC,
        attacc=AttaccTable(devices=devices, stacks_per_device=5, placement=Placement.BANK),
        head_level_pipelining=pipelining,
        ff_coprocessing=coprocessing,
    )
    return resolve_system(spec)


def gpt3_step(batch: int = 18, kv_length: int = 3000) -> Step:
    return decode_step(GPT3, batch=batch, kv_length=kv_length, tensor_parallel=8)


def on_attacc(system: ResolvedSystem, step: Step, time_ns: float = 1e5) -> StepCost:
    attention = AttaccAttention.one(time_ns, EnergyBreakdown(dram_pj=7.0, alu_pj=3.0))
    return step_cost(step, system, MODEL, RATES, attention=attention)


@pytest.mark.parametrize("name", ["dgx-base", "dgx-cpu", "dgx-attacc-bank"])
def test_a_step_is_the_sum_of_its_groups(name: str) -> None:
    """Catches an operator without a group, and energy or time that is counted twice."""
    cost = step_cost(gpt3_step(), load_system(name), MODEL, RATES, attention=ATTENTION)
    groups = [cost.group(group) for group in Group]
    assert groups == [cost.fc, cost.attention, cost.communication, cost.other]
    assert isclose(cost.time_ns, sum(group.time_ns for group in groups), rel_tol=1e-12)
    energy = sum(group.energy.total_pj for group in groups)
    assert isclose(cost.energy.total_pj, energy, rel_tol=1e-12)
    assert cost.cost_model == "published"
    assert cost.hidden_ns >= 0


def test_operators_keep_their_order_and_count() -> None:
    """Catches an operator that is lost, moved, or run in every layer where it runs once."""
    step = gpt3_step()
    cost = step_cost(step, load_system("dgx-base"), MODEL)
    kernels = [
        name
        for op in (*step.layers[0].operators, *step.outside)
        for name in (("score", "softmax", "context") if isinstance(op, Attention) else (op.name,))
    ]
    assert [op.name for op in cost.operators] == kernels
    outside = len(cost.operators) - len(step.outside)
    assert {op.runs for op in cost.operators[:outside]} == {96}
    assert {op.runs for op in cost.operators[outside:]} == {1}


def test_many_lengths_in_one_go() -> None:
    """Catches a length that does not reach all three attention operators, or another step's."""
    system = load_system("dgx-base")
    lengths = (1, 100, 4095)
    decode = Decoding(18, np.array(lengths, dtype=np.float64))
    together = step_costs(model_step(GPT3, decode=decode, tensor_parallel=8), system, MODEL)
    assert together.steps == 3
    for number, length in enumerate(lengths):
        alone = step_cost(gpt3_step(kv_length=length), system, MODEL)
        assert together.at(number) == alone
        assert together.time_ns[number] == alone.time_ns
        assert isclose(together.energy.total_pj[number], alone.energy.total_pj, rel_tol=1e-14)


def test_energy_counts_every_gpu() -> None:
    """Catches the energy of one GPU in place of the system's."""
    step = gpt3_step()
    cost = step_cost(step, load_system("dgx-base"), MODEL)
    qkv = MODEL.matmul(step.layers[0].operators[0], load_system("dgx-base").gpu).one  # pyright: ignore[reportArgumentType]
    assert cost.operators[0].energy == qkv.energy.times(8)


def test_attention_on_attacc_takes_the_time_and_energy_it_was_given() -> None:
    """Catches attention that is scaled by GPUs, or softmax that is added to its time."""
    attention = AttaccAttention.one(1e5, EnergyBreakdown(dram_pj=7.0, alu_pj=3.0), 5e4)
    cost = step_cost(gpt3_step(), with_attacc(), MODEL, attention=attention)
    assert isclose(cost.attention.time_ns, 96 * 1e5)
    assert cost.attention.energy == EnergyBreakdown(dram_pj=96 * 7.0, alu_pj=96 * 3.0)
    assert cost.attention.bound is Bound.MEMORY


def test_fewer_attaccs_share_their_links() -> None:
    """Catches transfers at the bandwidth of links that are not there."""
    eight, two = (on_attacc(with_attacc(devices=n), gpt3_step()) for n in (8, 2))

    def transfer(cost: StepCost) -> tuple[float, float]:
        op = next(op for op in cost.operators if op.name == "qkv_transfer")
        return op.alone_ns, op.energy.link_pj

    assert isclose(transfer(two)[0], 4 * transfer(eight)[0])
    assert isclose(transfer(two)[1], transfer(eight)[1])


@given(
    batch=st.integers(1, 200),
    length=st.integers(1, 2048),
    attention_ns=st.floats(0, 1e7),
    model=st.sampled_from(["gpt3-175b", "llama-3.1-70b", "mixtral-8x7b"]),
)
def test_each_optimisation_only_helps(
    batch: int, length: int, attention_ns: float, model: str
) -> None:
    """Catches an optimisation that slows a step down, or hides more than there is to hide in."""
    spec = MODELS.load(model)
    step = decode_step(spec, batch=batch, kv_length=length, tensor_parallel=8)
    plain = on_attacc(with_attacc(), step, attention_ns)
    pipelined = on_attacc(with_attacc(pipelining=True), step, attention_ns)
    both = on_attacc(with_attacc(pipelining=True, coprocessing=True), step, attention_ns)
    slack = 1 + 1e-9
    assert both.time_ns <= pipelined.time_ns * slack
    assert pipelined.time_ns <= plain.time_ns * slack
    for cost in (plain, pipelined, both):
        assert all(op.time_ns >= -1e-6 for op in cost.operators)
        serial = sum(op.runs * op.alone_ns for op in cost.operators)
        assert isclose(cost.time_ns + cost.hidden_ns, serial, rel_tol=1e-9)
        assert cost.time_ns >= cost.attention.time_ns


def test_coprocessing_moves_energy_to_attacc() -> None:
    """Catches weights read by both sides, or read once on AttAcc where every row reads them."""
    plain, shared = (on_attacc(with_attacc(coprocessing=on), gpt3_step()) for on in (False, True))
    by_name = {op.name: op for op in plain.operators}
    ff1 = next(op for op in shared.operators if op.name == "ff1")
    share = (9 / 18) / (1 + 9 / 18)
    weights = 18 * share * 12288 * 4 * 12288 * 2
    assert isclose(ff1.time_ns, (1 - share) * by_name["ff1"].time_ns)
    expected = (1 - share) * by_name["ff1"].energy.dram_pj + weights * 0.55 * 8
    assert isclose(ff1.energy.dram_pj, expected, rel_tol=1e-9)
    assert isclose(ff1.energy.alu_pj, by_name["ff1"].energy.alu_pj, rel_tol=1e-9)


def test_prefill_hides_the_transfer_of_the_cache() -> None:
    """Catches a prefill that waits for a transfer, or does not where it is too long to hide."""
    step = prefill_step(GPT3, batch=4, prompt_length=2048, tensor_parallel=8)
    alone = step_cost(step, load_system("dgx-base"), MODEL)
    kv_bytes = 4 * 2048 * 2 * 12288 / 8 * 2
    hidden = step_cost(step, with_attacc(), MODEL, kv_bytes=kv_bytes)
    assert isclose(hidden.time_ns, alone.time_ns)
    assert isclose(hidden.hidden_ns, 96 * kv_bytes / 300e9 * 1e9)
    energy = hidden.energy.link_pj - alone.energy.link_pj
    assert isclose(energy, 8 * 96 * kv_bytes * 10.4, rel_tol=1e-9)
    slow = step_cost(step, with_attacc(), MODEL, kv_bytes=1e6 * kv_bytes)
    assert isclose(slow.time_ns, 96 * 1e6 * kv_bytes / 300e9 * 1e9, rel_tol=1e-2)


def test_attention_on_cpus_is_slower_than_on_gpus() -> None:
    """Catches CPU attention priced as one GPU's share, and transfers that are not hidden."""
    step = gpt3_step()
    cpu = step_cost(step, load_system("dgx-cpu"), MODEL)
    gpu = step_cost(step, load_system("dgx-base"), MODEL)
    ratio = (8 * 3352) / (2 * 204.8)
    assert isclose(cpu.attention.time_ns / gpu.attention.time_ns, ratio, rel_tol=0.5)
    names = [op.name for op in cpu.operators]
    assert names[1:4] == ["qkv_transfer", "attention", "context_transfer"]
    back = cpu.operators[3]
    assert isclose(back.time_ns, back.alone_ns / 12)


def test_the_mean_weighs_times_energies_and_bounds() -> None:
    """Catches a mean that drops an energy or reports the bound of the first step."""
    decode = Decoding(18, np.array([10.0, 4000.0]))
    step = model_step(GPT3, decode=decode, tensor_parallel=8)
    costs = step_costs(step, load_system("dgx-base"), MODEL)
    short, long = costs.at(0), costs.at(1)
    mean = costs.mean([1, 3])
    assert isclose(mean.time_ns, 0.25 * short.time_ns + 0.75 * long.time_ns)
    expected = 0.25 * short.energy.total_pj + 0.75 * long.energy.total_pj
    assert isclose(mean.energy.total_pj, expected)
    assert mean.operators[0] == short.operators[0]
    codes = np.array([BOUNDS.index(bound) for bound in (Bound.COMPUTE, Bound.MEMORY)], np.int8)
    changed = replace(costs.operators[1], bound=codes)
    assert changed.mean(np.array([0.5, 0.5])).bound is Bound.MEMORY


def test_a_step_for_other_gpus_is_refused() -> None:
    """Catches a step priced on a system that it was not built for."""
    step = decode_step(GPT3, batch=1, kv_length=1, tensor_parallel=4)
    with pytest.raises(InputError, match="split over 4 GPUs, the system has 8"):
        step_cost(step, load_system("dgx-base"), MODEL)
    prefill = prefill_step(GPT3, batch=1, prompt_length=1, tensor_parallel=4)
    with pytest.raises(InputError, match="split over 4 GPUs, the system has 8"):
        step_cost(prefill, load_system("dgx-base"), MODEL)


def with_layer(step: Step, operators: Iterable[Operator]) -> Step:
    """A step whose layers consist of other operators."""
    return replace(step, layers=(replace(step.layers[0], operators=tuple(operators)),))


def test_faults_of_the_caller_are_engine_errors() -> None:
    """Catches attention of zero time where nobody timed it, and other silent omissions."""
    step = gpt3_step()
    with pytest.raises(EngineError, match="needs the attention"):
        step_cost(step, with_attacc(), MODEL)
    with pytest.raises(EngineError, match="needs the rates"):
        step_cost(step, with_attacc(coprocessing=True), MODEL, attention=ATTENTION)
    operators = step.layers[0].operators
    twice = (*operators, next(op for op in operators if isinstance(op, Attention)))
    with pytest.raises(EngineError, match="a layer with 2 attentions in decode"):
        step_cost(with_layer(step, twice), load_system("dgx-base"), MODEL)
    two = model_step(GPT3, decode=Decoding(1, np.array([1.0, 2.0])), tensor_parallel=8)
    several = step_costs(two, load_system("dgx-base"), MODEL)
    with pytest.raises(EngineError, match="2 steps, not one"):
        _ = several.one
    nameless = with_layer(step, (op for op in operators if op.name != "projection"))
    with pytest.raises(EngineError, match="needs an operator projection"):
        step_cost(nameless, with_attacc(pipelining=True), MODEL, attention=ATTENTION)
    odd = Pointwise("ff1", PointwiseKind.GELU, 1, 1, 1, ElementType.FP16)
    with pytest.raises(EngineError, match="ff1 is no matrix product"):
        step_cost(with_layer(step, (*operators, odd)), with_attacc(coprocessing=True), MODEL, RATES)
    unlinked = replace(load_system("dgx-base"), link=None)
    assert any(isinstance(op, AllReduce) for op in operators)
    with pytest.raises(EngineError, match="without a link"):
        step_cost(step, unlinked, MODEL)
    hostless = replace(load_system("dgx-cpu"), host=None)
    with pytest.raises(EngineError, match="without CPUs"):
        step_cost(step, hostless, MODEL)
    lonely = replace(with_attacc(), attacc=None)
    with pytest.raises(EngineError, match="nothing but GPUs"):
        step_cost(step, lonely, MODEL, attention=ATTENTION)
