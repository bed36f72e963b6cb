"""Layers as schedules: against the closed forms where these are exact, and by hand elsewhere."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import EnergyBreakdown
from attacc.gpu.models import GpuModel, cost_model
from attacc.gpu.published.model import PublishedCostModel, published_rates
from attacc.hardware.placement import Placement
from attacc.hardware.system import load_system
from attacc.models.architecture import MODELS
from attacc.models.operators import Step
from attacc.models.steps import decode_step
from attacc.pim.product import AttaccProducts
from attacc.study.papers.pipelined_layer import (
    ATTACC,
    BACK,
    GPU,
    THERE,
    DecodeLayer,
    GpuOperator,
    OverlapComparison,
    SharedProduct,
    layer_ns,
    product_ns,
    simulate_decode_step,
    simulate_layers,
)
from attacc.system.attaccs import AttaccAttention
from attacc.system.overlap import basic_overlap, head_level_pipelining
from tests.pricing import step_cost

COSTS = PublishedCostModel()
RATES = published_rates(Placement.BANK, power_limited=True, stacks_per_device=5)
SYSTEM = load_system("dgx-attacc-bank")
PRODUCTS = AttaccProducts.of(SYSTEM)
TIMES = st.floats(min_value=0.1, max_value=1000)


def attention_of(time_ns: float) -> AttaccAttention:
    return AttaccAttention.one(time_ns, EnergyBreakdown())


def gpt3(batch: int = 18) -> Step:
    model = MODELS.load("gpt3-175b")
    return decode_step(model, batch=batch, kv_length=3072, tensor_parallel=8)


def compared(attention_ns: float, step: Step | None = None) -> OverlapComparison:
    return simulate_decode_step(
        step or gpt3(), SYSTEM, COSTS, attention_of(attention_ns), RATES, products=PRODUCTS
    )


def layer_of(
    units: int,
    qkv: float,
    there: float,
    attention: float,
    back: float,
    projection: float,
    *,
    pipelined: bool,
) -> DecodeLayer:
    """A layer whose whole operators take so long."""
    times = (qkv, there, attention, back, projection)
    return DecodeLayer(units, pipelined, *(time / units for time in times), rest=())


@given(units=st.integers(1, 12), qkv=TIMES, there=TIMES, attention=TIMES, back=TIMES, after=TIMES)
def test_basic_overlap_is_exact_where_attention_is_longest(
    units: int, qkv: float, there: float, attention: float, back: float, after: float
) -> None:
    """Catches transfers that wait for each other, or that other heads' attention does not hide."""
    attention += there + back
    layer = layer_of(units, qkv, there, attention, back, after, pipelined=False)
    visible = basic_overlap(attention_ns=attention, transfer_ns=there + back, r=1 / units)
    expected = qkv + attention + visible + after
    assert simulate_layers(layer, 1).makespan_ns == pytest.approx(expected)


@given(units=st.integers(1, 12), qkv=TIMES, there=TIMES, attention=TIMES, back=TIMES, after=TIMES)
def test_pipelining_is_exact_where_attention_is_longest(
    units: int, qkv: float, there: float, attention: float, back: float, after: float
) -> None:
    """Catches AttAcc left idle between two heads, and a projection that comes too late."""
    attention += qkv + there + back + after
    layer = layer_of(units, qkv, there, attention, back, after, pipelined=True)
    visible = head_level_pipelining(
        attention_ns=attention, transfer_ns=there + back, qkv_ns=qkv, projection_ns=after,
        qkv_share=0.75, r=1 / units,
    )  # fmt: skip
    expected = attention + visible.transfer_ns + visible.qkv_ns + visible.projection_ns
    assert simulate_layers(layer, 1).makespan_ns == pytest.approx(expected)


@given(units=st.integers(1, 12), qkv=TIMES, there=TIMES, attention=TIMES, back=TIMES, after=TIMES)
def test_pipelined_layer_lies_between_its_bounds(
    units: int, qkv: float, there: float, attention: float, back: float, after: float
) -> None:
    """Catches work that is lost or done twice, and idle time that nothing explains.

    No resource can be busy for longer than the layer. A list schedule of one pass through the
    stages leaves the longest of them waiting for at most one unit of each of the others, and the
    projection, which comes behind QKV on the same GPU, for what is left of it.
    """
    layer = layer_of(units, qkv, there, attention, back, after, pipelined=True)
    schedule = simulate_layers(layer, 1)
    fill = (qkv + there + attention + back + after) / units
    most = max(qkv + after, qkv, there, attention, back, after)
    assert schedule.busy_ns(GPU) == pytest.approx(qkv + after)
    assert schedule.busy_ns(ATTACC) == pytest.approx(attention)
    assert schedule.busy_ns(THERE) == pytest.approx(there)
    assert schedule.busy_ns(BACK) == pytest.approx(back)
    assert most * (1 - 1e-9) <= schedule.makespan_ns <= (most + fill) * (1 + 1e-9)
    whole = simulate_layers(replace(layer, pipelined=False), 1)
    assert schedule.makespan_ns <= whole.makespan_ns * (1 + 1e-9)


def test_two_units_by_hand() -> None:
    """Catches a projection that goes before QKV of a later unit, and a lost dependence."""
    layer = DecodeLayer(2, True, 4, 1, 3, 1, 2, rest=(GpuOperator("rest", 5),))
    schedule = simulate_layers(layer, 1)
    # qkv 0-4, 4-8; there 4-5, 8-9; attention 5-8, 9-12; back 8-9, 12-13; projection 9-11, 13-15.
    assert schedule.task("layer 0: attention 1").start_ns == 9
    assert schedule.task("layer 0: projection 0").start_ns == 9
    assert schedule.task("layer 0: projection 1").start_ns == 13
    assert schedule.makespan_ns == 20
    assert simulate_layers(layer, 3).makespan_ns == 60
    assert layer_ns(simulate_layers(layer, 3)) == 20


def test_closed_forms_and_schedules_of_a_step_agree_where_attention_is_longest() -> None:
    """Catches an operator of the step that is missing from the schedule, or in it twice."""
    result = compared(1e6)
    assert result.units == 12
    assert result.neither.simulated_ns == pytest.approx(result.neither.closed_form_ns, rel=1e-12)
    assert result.neither.priced_ns == pytest.approx(result.neither.closed_form_ns, rel=1e-12)
    pipelining = result.pipelining
    assert pipelining.simulated_ns == pytest.approx(pipelining.closed_form_ns, rel=1e-12)
    assert pipelining.simulated_ns < result.neither.simulated_ns
    assert [(c.head_level_pipelining, c.ff_coprocessing) for c in result.cases] == [
        (False, False), (True, False), (False, True), (True, True),
    ]  # fmt: skip


def test_pipelining_beats_the_closed_form_where_products_are_longest() -> None:
    """Catches the difference that the page states: r times attention and transfers hide as well."""
    step, time_ns = gpt3(), 2e4
    result = compared(time_ns, step)
    cost = step_cost(step, SYSTEM, COSTS, attention=attention_of(time_ns))
    op = {op.name: op.alone_ns for op in cost.operators}
    hidden_ns = (time_ns + op["qkv_transfer"] + op["context_transfer"]) / result.units
    closed_ns = result.pipelining.closed_form_ns - step.layer_count * hidden_ns
    assert result.pipelining.simulated_ns == pytest.approx(closed_ns, rel=1e-12)


def test_units_are_key_value_heads() -> None:
    """Catches a pipeline of query heads whose keys and values come together."""
    model = MODELS.load("llama-3.1-70b")
    step = decode_step(model, batch=64, kv_length=3072, tensor_parallel=8)
    assert compared(1e5, step).units == 1
    mine = load_system("dgx-attacc-bank")
    spec = mine.spec.model_copy(update={"gpus": 2})
    step = decode_step(model, batch=64, kv_length=3072, tensor_parallel=2)
    two = replace(mine, spec=spec)
    assert simulate_decode_step(step, two, COSTS, attention_of(1e5), RATES).units == 4


def shared_by(result: OverlapComparison, name: str) -> SharedProduct:
    return next(product for product in result.coprocessing.products if product.name == name)


def test_shared_product_ends_soonest_with_the_share_that_was_chosen() -> None:
    """Catches a search that stops early: one part more or less on each channel is no faster."""
    for name in ("ff1", "ff2"):
        chosen = shared_by(compared(1e5), name)
        assert chosen.stack is not None
        whole_ns = chosen.gpu_ns / (1 - chosen.share)
        for grains in (-2, -1, 1, 2):
            columns = chosen.columns + grains * 16 * 5
            stack = PRODUCTS.multiply(replace(chosen.stack.shape, columns=columns // 5))
            other = replace(
                chosen,
                columns=columns,
                gpu_ns=whole_ns * (1 - columns / chosen.of_columns),
                back_ns=chosen.back_ns * columns / chosen.columns,
                stack=stack,
            )
            assert product_ns(chosen) <= product_ns(other)


def test_shared_products_count_every_transfer_and_pass() -> None:
    """Catches activations that are on AttAcc for nothing, and results nobody waits for."""
    result = compared(1e5)
    product = shared_by(result, "ff1")
    assert product.stack is not None
    # 18 rows of 12,288 fp16 numbers at 300 GB/s; its columns of as many rows back.
    assert product.there_ns == pytest.approx(18 * 12288 * 2 / 300)
    assert product.back_ns == pytest.approx(18 * product.columns * 2 / 300)
    schedule = result.coprocessing.schedule
    timed = [t for t in schedule.tasks if t.task.name.startswith("layer 0: ff1 product")]
    for resource, expected in (
        (THERE, product.there_ns),
        (ATTACC, product.stack.time_ns),
        (BACK, product.back_ns),
    ):
        own = [t.task.duration_ns for t in timed if t.task.resource == resource]
        assert sum(own) == pytest.approx(expected)
    activation = schedule.task("layer 0: activation")
    assert activation.start_ns == pytest.approx(
        max(t.end_ns for t in [*timed, schedule.task("layer 0: ff1")])
    )


def test_gated_products_share_their_activations_time() -> None:
    """Catches the second product of a gated block waiting for AttAcc's part of the first."""
    model = MODELS.load("llama-65b")
    step = decode_step(model, batch=32, kv_length=2048, tensor_parallel=8)
    schedule = compared(1e5, step).coprocessing.schedule
    first, second = (schedule.task(f"layer 1: {name}") for name in ("ff1", "ff2"))
    assert second.start_ns == first.end_ns
    assert schedule.task("layer 1: ff3").start_ns > second.end_ns


def test_experts_are_products_one_after_the_other() -> None:
    """Catches the experts of a layer counted as one, in time, transfers or energy."""
    model = MODELS.load("mixtral-8x7b")
    step = decode_step(model, batch=16, kv_length=2048, tensor_parallel=8)
    result = compared(1e5, step)
    product = shared_by(result, "ff1")
    assert product.stack is not None
    assert product.repeats == 8
    # 4 rows for each of 8 experts: two of 16 tokens' each.
    assert product.there_ns == pytest.approx(8 * 4 * 4096 * 2 / 300)
    parts = 8 * product.stack.passes * product.stack.segments
    on_attacc = [
        t
        for t in result.coprocessing.schedule.tasks
        if t.task.name.startswith("layer 0: ff1 product") and t.task.resource == ATTACC
    ]
    assert len(on_attacc) == parts
    assert sum(t.task.duration_ns for t in on_attacc) == pytest.approx(8 * product.stack.time_ns)
    assert product.attacc_pj == pytest.approx(8 * 5 * product.stack.energy.total_pj)


def test_steps_of_the_calibrated_model_are_scheduled_as_it_runs_them() -> None:
    """Catches kernels that are merged, host time that is lost, small products that cost nothing."""
    step = decode_step(MODELS.load("llama-65b"), batch=32, kv_length=2048, tensor_parallel=8)
    costs = cost_model(GpuModel.CALIBRATED)
    result = simulate_decode_step(step, SYSTEM, costs, attention_of(1e6), RATES, products=PRODUCTS)
    assert result.neither.simulated_ns == pytest.approx(result.neither.closed_form_ns, rel=1e-12)
    assert [product.name for product in result.both.products] == ["ff1", "ff3"]
    pipelining = result.pipelining
    assert pipelining.simulated_ns == pytest.approx(pipelining.closed_form_ns, rel=1e-12)
    assert pipelining.priced_ns > pipelining.simulated_ns


def test_attention_of_a_unit_can_be_given() -> None:
    """Catches a measured unit that is not used: twice as long, and attention is longest."""
    step = gpt3()
    twice = simulate_decode_step(
        step, SYSTEM, COSTS, attention_of(1e6), RATES, products=PRODUCTS,
        unit_attention_ns=2e6 / 12,
    )  # fmt: skip
    expected = compared(1e6, step).neither.simulated_ns + step.layer_count * 1e6
    assert twice.neither.simulated_ns == pytest.approx(expected)


def test_heads_can_be_grouped() -> None:
    """Catches groups that are said to be formed, and heads that go by themselves nonetheless."""
    step = gpt3()
    grouped, single = (
        simulate_decode_step(
            step, SYSTEM, COSTS, attention_of(1e6), RATES, products=PRODUCTS, units=units
        )
        for units in (3, 12)
    )
    assert (grouped.units, single.units) == (3, 12)
    # Attention is longest: a third of all else is visible in place of a twelfth.
    assert grouped.pipelining.simulated_ns > single.pipelining.simulated_ns
    assert grouped.pipelining.closed_form_ns == single.pipelining.closed_form_ns
    with pytest.raises(InputError, match="units = 5 does not divide the 12 key/value heads"):
        simulate_decode_step(step, SYSTEM, COSTS, attention_of(1e6), RATES, units=5)


def test_system_without_attaccs_is_refused() -> None:
    """Catches a schedule of AttAccs that are not there."""
    with pytest.raises(EngineError, match="has no AttAccs"):
        simulate_decode_step(
            gpt3(), load_system("dgx-base"), COSTS, attention_of(1e5), RATES, products=PRODUCTS
        )
