"""Comparisons of systems: figures, batches, capacity, latency targets, models and workloads."""

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from itertools import pairwise
from math import isclose, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attacc as aa
from attacc.errors import CapacityError, InputError, UnknownNameError
from attacc.gpu.costs import BOUNDS, Bound, EnergyBreakdown
from attacc.gpu.models import GpuModel
from attacc.gpu.published.model import PublishedCostModel
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule, load_system
from attacc.models.architecture import MODELS
from attacc.models.operators import Experts, MatMul
from attacc.models.parameters import count_parameters
from attacc.models.steps import decode_step, prefill_step
from attacc.pim.stack import Stack
from attacc.study.compare import Comparison, Status, SystemResult, compare, compare_study
from attacc.study.specification import StudySpec, WorkloadTable, load_study
from attacc.system.attaccs import (
    AttaccAttention,
    Attaccs,
    AttentionCurve,
    CurveKind,
    LayerHeads,
)
from attacc.system.capacity import footprint, stores
from attacc.system.pricer import Limit
from attacc.system.step import Group, StepCost
from attacc.workload.requests import fixed_lengths
from tests import share
from tests.pricing import step_cost
from tests.study.comparisons import (
    PAPERS,
    default_comparison,
    published_comparison,
    rows,
    served,
    study,
)

SHORT = {"prompt": 128, "output": 8}
STACK_BYTES = float(16 * 2**30)
A100A_BYTES_PER_S = 3352e9


PINNED = """
system batch throughput_tokens_per_s tpot_ms longest_step_ms prefill_ms energy_per_token_j
dgx-base 17 424.0902163 40.0858104 43.95732611 634.8249359 1.35780667
dgx-large 52 779.9216135 66.67336704 78.28791417 634.8249359 0.8996538428
2xdgx 52 1053.872664 49.34182446 55.14909803 461.1656849 0.9137425597
dgx-cpu 113 23.63340674 4781.367378 6360.313719 634.8249359 2.677272629
dgx-attacc-bank 35 1116.775562 31.34022733 32.1001066 634.8249359 0.6011528258
dgx-attacc-bankgroup 35 947.9017753 36.92365698 39.50731146 634.8249359 0.7174785222
dgx-attacc-buffer 35 664.7518624 52.65122519 59.27568071 634.8249359 0.9158544479
"""
PINNED_TOO = """
system prefill_energy_j hidden_ms speedup energy_ratio
dgx-base 435.4169921 0 1 1
dgx-large 435.4169921 0 1.839046466 1.509254566
2xdgx 448.5376271 0 2.485019988 1.485983832
dgx-cpu 435.5174943 3.877875976 0.0557273095 0.5071604048
dgx-attacc-bank 435.5174943 0.1261568 2.63334432 2.25867136
dgx-attacc-bankgroup 435.5174943 0.1261568 2.235141814 1.892470128
dgx-attacc-buffer 435.5174943 0.1261568 1.567477477 1.482557271
"""


def pinned() -> dict[str, dict[str, float]]:
    """Return the pinned figures: system -> name -> value."""
    found: dict[str, dict[str, float]] = {}
    for table in (PINNED, PINNED_TOO):
        names, *lines = (line.split() for line in table.split("\n") if line)
        for system, *values in lines:
            figures = zip(names[1:], map(float, values), strict=True)
            found.setdefault(system, {}).update(figures)
    return found


@pytest.fixture(scope="session")
def default() -> Comparison:
    return default_comparison()


@pytest.fixture(scope="session")
def published() -> Comparison:
    return published_comparison()


@pytest.fixture(params=["default", "published"])
def either(request: pytest.FixtureRequest) -> Comparison:
    return default_comparison() if request.param == "default" else published_comparison()


def by_name(comparison: Comparison) -> dict[str, SystemResult]:
    return {result.system: result for result in comparison.systems}


def part(result: SystemResult, group: Group) -> float:
    """Return the milliseconds of one part of the step."""
    _, performance = served(result)
    return next(entry.time_ms for entry in performance.breakdown if entry.name is group)


def fits(result: SystemResult, model: str, batch: int, prompt: int, output: int) -> bool:
    """Whether a batch fits a system without co-processing, from the stores themselves."""
    system = load_system(result.system)
    need = footprint(MODELS.load(model), fixed_lengths(prompt, output), tensor_parallel=system.gpus)
    stack_bytes = STACK_BYTES if system.attacc is not None else 0.0
    return all(store.fits for store in stores(need, system, batch, stack_bytes=stack_bytes))


# The default comparison.


def test_default_comparison_has_the_platforms_of_the_papers_in_order(default: Comparison) -> None:
    """Catches a platform that is lost or moved, so that speed-ups refer to another one."""
    assert tuple(result.system for result in default.systems) == PAPERS
    assert len(PAPERS) == 7
    assert (default.model.name, default.workload.name) == ("gpt3-175b", "2048+2048")
    assert (default.workload.length_kind, default.workload.mean_kv_tokens) == ("exact", 3072)
    assert (default.cost_model, default.slo_ms) == ("calibrated", None)


@pytest.mark.parametrize("name", PAPERS)
def test_published_figures_stay(published: Comparison, name: str) -> None:
    """Catches any change of any figure: a regression test, of what this version computes.

    1e-6, because the figures are pinned with ten digits and sums may be reordered.
    """
    batch, performance = served(by_name(published)[name])
    figures = pinned()[name]
    assert batch.size == figures.pop("batch")
    for figure, expected in figures.items():
        value = getattr(performance, figure)
        assert isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9), figure


def test_units_nearer_to_the_cells_are_faster_and_save_energy(either: Comparison) -> None:
    """Catches placements that are mixed up."""
    found = by_name(either)
    ordered = [served(found[f"dgx-attacc-{placement}"])[1] for placement in Placement]
    assert [str(placement) for placement in Placement] == ["bank", "bankgroup", "buffer"]
    for near, far in pairwise(ordered):
        assert near.throughput_tokens_per_s > far.throughput_tokens_per_s
        assert near.energy_per_token_j < far.energy_per_token_j
    base = served(found["dgx-base"])[1]
    assert ordered[-1].throughput_tokens_per_s > base.throughput_tokens_per_s


@pytest.mark.parametrize("name", PAPERS)
def test_figures_of_a_row_agree_with_each_other(either: Comparison, name: str) -> None:
    """Catches a part of time or energy that is lost or counted twice, and slipped units."""
    batch, p = served(by_name(either)[name])
    assert [entry.name for entry in p.breakdown] == list(Group)
    assert isclose(p.throughput_tokens_per_s * p.tpot_ms / 1e3, batch.size, rel_tol=1e-12)
    assert isclose(sum(entry.time_ms for entry in p.breakdown), p.tpot_ms, rel_tol=1e-12)
    assert isclose(sum(entry.share for entry in p.breakdown), 1, rel_tol=1e-12)
    energy_j = sum(entry.energy_j for entry in p.breakdown)
    assert isclose(energy_j, p.energy_per_token_j * batch.size, rel_tol=1e-12)
    for entry in p.breakdown:
        assert isclose(entry.share, entry.time_ms / p.tpot_ms, rel_tol=1e-12)
        assert entry.energy_j > 0
        assert (entry.bound is None) == (entry.time_ms == 0)
    assert p.longest_step_ms > p.tpot_ms > 0
    assert p.hidden_ms >= 0


def test_the_first_row_is_what_the_others_are_compared_with(either: Comparison) -> None:
    """Catches ratios against another row, or the wrong way around."""
    _, first = served(either.systems[0])
    assert (first.speedup, first.energy_ratio) == (1.0, 1.0)
    for result in either.systems[1:]:
        _, p = served(result)
        ratio = p.throughput_tokens_per_s / first.throughput_tokens_per_s
        assert p.speedup is not None
        assert p.energy_ratio is not None
        assert isclose(p.speedup, ratio, rel_tol=1e-12)
        saved = first.energy_per_token_j / p.energy_per_token_j
        assert isclose(p.energy_ratio, saved, rel_tol=1e-12)


@pytest.mark.parametrize("name", PAPERS)
def test_the_batch_fits_and_one_request_more_does_not(either: Comparison, name: str) -> None:
    """Catches a batch that is too large or too small, and memory that is not that of the batch."""
    result = by_name(either)[name]
    batch, _ = served(result)
    assert (batch.limit, batch.size) == (Limit.KV_CAPACITY, batch.largest_that_fits)
    for memory in result.memory:
        used = memory.weights_bytes + memory.activations_bytes + memory.kv_bytes
        assert used <= memory.available_bytes
    full = next(memory for memory in result.memory if memory.name == batch.store)
    assert full.kv_bytes > 0.4 * full.available_bytes
    assert fits(result, "gpt3-175b", batch.size, 2048, 2048)
    assert not fits(result, "gpt3-175b", batch.size + 1, 2048, 2048)


def test_all_memory_of_a_system_is_listed(default: Comparison) -> None:
    """Catches memory of one GPU, stack or socket in place of all of them."""
    gib = 2**30
    found = {result.system: result.memory_bytes / gib for result in default.systems}
    assert found == {
        "dgx-base": 640,
        "dgx-large": 1280,
        "2xdgx": 1280,
        "dgx-cpu": 640 + 2048,
        "dgx-attacc-bank": 1280,
        "dgx-attacc-bankgroup": 1280,
        "dgx-attacc-buffer": 1280,
    }
    rules = {result.system: result.capacity_rule for result in default.systems}
    assert [name for name, rule in rules.items() if rule] == list(PAPERS[4:])


def test_a_step_takes_at_least_what_its_memory_traffic_takes(either: Comparison) -> None:
    """Catches figures that no hardware could reach: every weight, key and value is read once."""
    weight_bytes = 2 * (count_parameters(MODELS.load("gpt3-175b")).total - 50257 * 12288)
    for name in ("dgx-base", "dgx-large", "2xdgx"):
        result = by_name(either)[name]
        batch, p = served(result)
        gpus = load_system(name).gpus
        kv_bytes = batch.size * 3072 * either.model.kv_bytes_per_token
        least_ms = (weight_bytes + kv_bytes) / (gpus * A100A_BYTES_PER_S) * 1e3
        assert p.tpot_ms > least_ms
        assert part(result, Group.ATTENTION) > kv_bytes / (gpus * A100A_BYTES_PER_S) * 1e3
    bank = by_name(either)["dgx-attacc-bank"]
    batch, _ = served(bank)
    device = DRAMS.load("hbm3-5.2")
    peak = 40 * device.internal_bytes_per_s(Placement.BANK, power_limited=True)
    kv_bytes = batch.size * 3072 * either.model.kv_bytes_per_token
    assert part(bank, Group.ATTENTION) > kv_bytes / peak * 1e3


def test_progress_names_every_system_before_it_is_priced() -> None:
    """Catches a progress bar that stands still."""
    told: list[tuple[str, int]] = []
    asked = study(workload=SHORT, batch=1, systems=["dgx-base", "2xdgx"])
    compare_study(asked, lambda name, total: told.append((name, total)))
    assert told == [("dgx-base", 2), ("2xdgx", 2)]


# One to one with the parts it is made of.


@pytest.mark.parametrize("name", ["dgx-base", "2xdgx", "dgx-cpu"])
def test_a_row_is_the_mean_of_the_published_steps(name: str) -> None:
    """Catches a length too many or too few, and a batch or split that does not reach the step."""
    system, costs = load_system(name), PublishedCostModel()
    (row,) = rows(
        workload={"prompt": 100, "output": 5}, batch=6, systems=[name], gpu_model="published"
    )
    _, p = served(row)
    steps = [
        step_cost(
            decode_step(
                MODELS.load("gpt3-175b"), batch=6, kv_length=length, tensor_parallel=system.gpus
            ),
            system,
            costs,
        )
        for length in (101, 102, 103, 104)
    ]
    assert isclose(p.tpot_ms, fmean(s.time_ns for s in steps) / 1e6, rel_tol=1e-12)
    assert isclose(p.longest_step_ms, max(s.time_ns for s in steps) / 1e6, rel_tol=1e-12)
    energy_pj = fmean(s.energy.total_pj for s in steps)
    assert isclose(p.energy_per_token_j, energy_pj / 6 / 1e12, rel_tol=1e-12)
    hidden_ns = fmean(s.hidden_ns for s in steps)
    assert isclose(p.hidden_ms, hidden_ns / 1e6, rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize(
    ("model", "batch", "queries", "shares"),
    [
        # 6 x 96 heads on 40 stacks.
        ("gpt3-175b", 6, 1, {15: 16, 14: 24}),
        # 7 x 96 heads: two in one channel of the fullest.
        ("gpt3-175b", 7, 1, {17: 32, 16: 8}),
        # 7 x 8 key/value heads, each read by 8 query heads.
        ("llama-2-70b", 7, 8, {2: 16, 1: 24}),
    ],
)
def test_a_row_with_attaccs_is_the_mean_of_steps_with_the_stacks_attention(
    placement: Placement, model: str, batch: int, queries: int, shares: dict[int, int]
) -> None:
    """Catches attention of another shape than the stacks', or energy of one stack.

    Energy within 1e-4: a curve prices lengths that fill the same columns alike, so the softmax of
    up to 15 padding keys is counted, less than 1e-4 of a step's energy.
    """
    name = f"dgx-attacc-{placement}"
    system, costs = load_system(name), PublishedCostModel()
    workload = {"prompt": 1000, "output": 4}
    (row,) = rows(
        model=model, workload=workload, batch=batch, systems=[name], gpu_model="published"
    )
    _, p = served(row)
    device = DRAMS.load("hbm3-5.2")
    stack = Stack(device, placement, power_limited=True, schedule=Schedule.INTERLEAVED)
    spec = MODELS.load(model)
    steps: list[StepCost] = []
    for length in (1001, 1002, 1003):
        dram_pj = alu_pj = time_ns = 0.0
        for heads, stacks in shares.items():
            run = stack.attend(
                heads=heads * queries,
                length=length,
                head_dim=spec.head_dim,
                element=spec.precision.kv,
                queries_per_kv_head=queries,
            )
            e = run.energy
            dram_pj += stacks * (e.activate_pj + e.cell_pj + e.read_path_pj + e.move_pj)
            alu_pj += stacks * (e.multiply_pj + e.softmax_pj)
            time_ns = max(time_ns, run.time_ns)
        step = decode_step(spec, batch=batch, kv_length=length, tensor_parallel=8)
        energy = EnergyBreakdown(dram_pj=dram_pj, alu_pj=alu_pj)
        attention = AttaccAttention.one(time_ns, energy)
        steps.append(step_cost(step, system, costs, attention=attention))
    assert isclose(p.tpot_ms, fmean(s.time_ns for s in steps) / 1e6, rel_tol=1e-12)
    assert isclose(p.longest_step_ms, max(s.time_ns for s in steps) / 1e6, rel_tol=1e-12)
    energy_pj = fmean(s.energy.total_pj for s in steps)
    assert isclose(p.energy_per_token_j, energy_pj / batch / 1e12, rel_tol=1e-4)
    assert p.attacc is not None
    assert (p.attacc.kind, p.attacc.relative_error) == ("exact", 0)
    assert p.attacc.heads_per_stack == max(shares) * queries
    assert p.attacc.passes_per_kv_head == queries


def test_the_longest_step_is_the_longest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the step at the longest cache in its place: here one in the middle takes longer."""
    timed = AttentionCurve.at

    def at(curve: AttentionCurve, lengths: npt.NDArray[np.int64]) -> AttaccAttention:
        found = timed(curve, lengths)
        return replace(found, time_ns=np.where(lengths == 731, 3, 1) * found.time_ns)

    monkeypatch.setattr(AttentionCurve, "at", at)
    (row,) = rows(
        workload={"prompt": 730, "output": 4}, batch=3, systems=["dgx-attacc-buffer"],
        gpu_model="published",
    )  # fmt: skip
    each = [
        served(
            rows(
                workload={"prompt": prompt, "output": 2}, batch=3, systems=["dgx-attacc-buffer"],
                gpu_model="published",
            )[0]
        )[1].tpot_ms
        for prompt in range(730, 733)
    ]  # fmt: skip
    _, p = served(row)
    assert isclose(p.tpot_ms, sum(each) / 3, rel_tol=1e-12)
    assert isclose(p.longest_step_ms, max(each), rel_tol=1e-12)
    assert each[-1] < p.tpot_ms < p.longest_step_ms


@pytest.mark.parametrize("name", ["dgx-base", "dgx-attacc-bank"])
def test_prefill_is_that_of_one_request_alone(name: str) -> None:
    """Catches a prefill of the whole batch, or without the transfer of keys and values."""
    system, model = load_system(name), MODELS.load("gpt3-175b")
    (row,) = rows(
        workload={"prompt": 300, "output": 3}, batch=5, systems=[name], gpu_model="published"
    )
    step = prefill_step(model, batch=1, prompt_length=300, tensor_parallel=8)
    kv_bytes = 300 * 2 * 12288 / 8 * 2
    cost = step_cost(step, system, PublishedCostModel(), kv_bytes=kv_bytes)
    _, p = served(row)
    assert isclose(p.prefill_ms, cost.time_ns / 1e6, rel_tol=1e-12)
    assert isclose(p.prefill_energy_j, cost.energy.total_pj / 1e12, rel_tol=1e-12)


# Batches that are given.


def test_a_batch_that_does_not_fit_everywhere() -> None:
    """Catches a row without the reason, and a speed-up against a row that has no throughput."""
    first, large, bank = rows(systems=["dgx-base", "dgx-large", "dgx-attacc-bank"], batch=20)
    assert first.status is Status.DOES_NOT_FIT
    assert first.reason == (
        "memory of each GPU, for a batch of 20: 92.14 GB needed, 85.90 GB available, "
        "6.24 GB too little (the largest batch that fits is 17)"
    )
    assert (first.batch, first.performance) == (None, None)
    (memory,) = first.memory
    used = memory.weights_bytes + memory.activations_bytes + memory.kv_bytes
    assert isclose(used, 92.14e9, rel_tol=1e-3), "the memory of another batch than that asked for"
    for result, largest in ((large, 52), (bank, 35)):
        batch, p = served(result)
        assert (batch.size, batch.limit, batch.largest_that_fits) == (20, Limit.GIVEN, largest)
        assert (p.speedup, p.energy_ratio) == (None, None)


def test_a_batch_that_fits_nowhere_is_an_error() -> None:
    """Catches an empty table where nothing can be compared."""
    with pytest.raises(CapacityError, match=r"the largest batch that fits is 17\)$") as caught:
        rows(systems=["dgx-base", "dgx-attacc-bank"], batch=36)
    assert caught.value.where == "system dgx-base"


def test_weights_that_do_not_fit_are_a_row_that_says_so() -> None:
    """Catches a model too large for one system that stops the comparison of the others."""
    base, large = rows(
        model="mt-nlg-530b", workload=SHORT, systems=["dgx-base", "dgx-large"], batch="max"
    )
    assert base.status is Status.DOES_NOT_FIT
    assert "the weights take 1,060.0 GB on 8 GPUs" in (base.reason or "")
    assert base.memory[0].weights_bytes > base.memory[0].available_bytes
    served(large)


def test_heads_that_do_not_divide_are_a_row_where_others_can_be_compared() -> None:
    """Catches one system that stops the comparison of all, for two of the models shipped."""
    base, twice = rows(model="opt-66b", workload=SHORT, systems=["dgx-base", "2xdgx"], batch=4)
    served(base)
    assert (twice.status, twice.memory, twice.batch, twice.performance) == (
        Status.DOES_NOT_SPLIT,
        (),
        None,
        None,
    )
    assert twice.memory_bytes == 1280 * 2**30
    assert twice.reason == (
        "16 GPUs cannot share the 72 query heads and 72 key/value heads of opt-66b "
        "(use one of 1, 2, 3, 4, 6, 8, 9, 12, 18, 24, 36, 72)"
    )


def test_heads_that_divide_nowhere_are_an_error() -> None:
    """Catches an error that does not name the system, the value, or the choices."""
    with pytest.raises(InputError, match=r"system 2xdgx: gpus: 16 GPUs.*use one of 1, 2, 3, 4"):
        rows(model="opt-66b", workload=SHORT, systems=["2xdgx"])


# Latency targets.


def keeps(
    system: str, batch: int, slo_ms: float, workload: dict[str, Any], gpu_model: str = "published"
) -> bool:
    (row,) = rows(
        systems=[system], batch=batch, slo_ms=slo_ms, workload=workload, gpu_model=gpu_model
    )
    return row.status is Status.OK


@pytest.mark.untraced  # of whole comparisons
@pytest.mark.parametrize(
    ("system", "slo_ms", "gpu_model"),
    [
        ("dgx-base", 33.0, "published"),
        ("dgx-large", 40.0, "published"),
        ("2xdgx", 34.0, "published"),
        ("dgx-cpu", 60.0, "published"),
        ("dgx-attacc-bank", 33.3, "published"),
        ("dgx-attacc-bankgroup", 33.0, "published"),
        ("dgx-attacc-buffer", 31.0, "published"),
        ("dgx-base", 33.0, "calibrated"),
        ("dgx-attacc-bank", 31.0, "calibrated"),
    ],
)
def test_the_largest_batch_within_a_target_is_found(
    system: str, slo_ms: float, gpu_model: str
) -> None:
    """Catches a search that stops at the first batch that misses, or trusts few lengths."""
    workload = {"prompt": 1024, "output": 6}
    (row,) = rows(systems=[system], slo_ms=slo_ms, workload=workload, gpu_model=gpu_model)
    batch, p = served(row)
    assert p.tpot_ms <= slo_ms
    assert 1 < batch.size < batch.largest_that_fits
    assert batch.limit is Limit.LATENCY
    for larger in range(batch.size + 1, min(batch.largest_that_fits, batch.size + 40) + 1):
        assert not keeps(system, larger, slo_ms, workload, gpu_model)


@pytest.mark.untraced  # of whole comparisons
def test_the_target_does_not_hide_a_larger_batch_that_is_faster() -> None:
    """Catches bisection alone: 25 requests take more than 32 ms, 33 to 35 take less again."""
    (row,) = rows(systems=["dgx-attacc-bank"], slo_ms=32.0, gpu_model="published")
    batch, p = served(row)
    assert (batch.size, batch.limit) == (35, Limit.KV_CAPACITY)
    assert p.tpot_ms < 32
    assert not keeps("dgx-attacc-bank", 30, 32.0, {"prompt": 2048, "output": 2048})


def test_a_target_that_no_batch_keeps() -> None:
    """Catches an empty batch, or a batch of one that is passed off as good enough."""
    base, bank = rows(systems=["dgx-base", "dgx-attacc-bank"], slo_ms=32.9, gpu_model="published")
    assert base.status is Status.MISSES_SLO
    assert (base.batch, base.performance) == (None, None)
    assert (base.reason or "").startswith("a batch of 1 takes 32.97 ms")
    assert (base.reason or "").endswith("more than the target of 32.9 ms")
    _, p = served(bank)
    assert (p.speedup, p.energy_ratio) == (None, None)


def test_a_given_batch_that_misses_the_target() -> None:
    """Catches a target that is ignored where the batch is given."""
    base, bank = rows(
        systems=["dgx-base", "dgx-attacc-bank"], slo_ms=32.0, batch=10, gpu_model="published"
    )
    assert base.status is Status.MISSES_SLO
    assert (base.reason or "").startswith("a batch of 10 takes ")
    assert base.batch is not None
    assert (base.batch.size, base.batch.limit) == (10, Limit.GIVEN)
    batch, _ = served(bank)
    assert (batch.size, batch.limit) == (10, Limit.GIVEN)


TIGHT = """
name = "mine"
gpu = "a100"
gpus = {gpus}
link = "nvlink3"
attention = "attacc"
ff_coprocessing = true
head_level_pipelining = {pipelining}

[attacc]
devices = {devices}
stacks_per_device = {stacks}
placement = "{placement}"
capacity = "{capacity}"
"""
"""A system whose stacks have not always room for all copies that co-processing has use for."""


def tight(folder: Path, **changes: object) -> str:
    fields: dict[str, object] = {
        "gpus": 2, "devices": 2, "stacks": 2, "placement": "bank", "capacity": "separate",
        "pipelining": "false",
    }  # fmt: skip
    path = folder / "mine.toml"
    path.write_text(TIGHT.format_map(fields | changes), encoding="utf-8")
    return str(path)


def test_copies_of_weights_get_the_room_that_is_left(tmp_path: Path) -> None:
    """Catches an answer whose copies of weights overflow the stacks, and its price.

    Two requests once "took" 18.24 ms, with 21.9 GB in each stack of 17.18 GB, and kept a target
    of 20 ms, while a given batch of 2 was refused.
    """
    common: dict[str, Any] = {
        "model": "llama-3.1-70b", "workload": {"prompt": 100, "output": 2},
        "gpu_model": "published", "systems": [tight(tmp_path)],
    }  # fmt: skip
    (given,) = rows(**common, batch=2)
    batch, p = served(given)
    assert (batch.size, batch.limit) == (2, Limit.GIVEN)
    stack = given.memory[1]
    assert stack.weights_bytes + stack.kv_bytes <= stack.available_bytes == STACK_BYTES
    assert isclose(stack.weights_bytes + stack.kv_bytes, STACK_BYTES, rel_tol=1e-11)
    # By hand: what the GPUs keep of the feed-forward products, whose weights are on two GPUs.
    model = MODELS.load("llama-3.1-70b")
    share = stack.weights_bytes * 4 / (count_parameters(model).feed_forward * 2)
    step = decode_step(model, batch=2, kv_length=101, tensor_parallel=2)
    gpu = load_system(common["systems"][0]).gpu
    products_ms = sum(
        step.layer_count * PublishedCostModel().matmul(op, gpu).one.time_ns / 1e6
        for op in step.layers[0].operators
        if isinstance(op, MatMul) and op.name.startswith("ff")
    )
    assert isclose(p.hidden_ms, share * products_ms, rel_tol=0.02), "and some of the transfers"
    (missed,) = rows(**common, slo_ms=20)
    assert (missed.status, missed.batch) == (Status.MISSES_SLO, None)
    assert missed.reason is not None
    assert "a batch of 1 takes 23.86 ms" in missed.reason
    (most,) = rows(**common)
    batch, _ = served(most)
    assert (batch.size, batch.limit, batch.largest_that_fits) == (1928, Limit.COPIES, 2076)
    for size in (2076, 2077):
        if size == 2077:
            with pytest.raises(CapacityError, match="the largest batch that fits is 2,076"):
                rows(**common, batch=size)
        else:
            assert served(rows(**common, batch=size)[0])[0].size == size


def test_a_batch_of_more_than_a_million_can_be_given_too() -> None:
    """Catches a limit of given batches below what a comparison answers: 1,160,000 here."""
    document: dict[str, Any] = {
        "model": "llama-3.1-8b", "workload": {"prompt": 1, "output": 2}, "systems": ["dgx-cpu"],
        "precision": {"kv": "int8"}, "gpu_model": "published",
    }  # fmt: skip
    (most,) = rows(**document)
    size = served(most)[0].size
    assert size > 2**20
    assert served(rows(**document, batch=size)[0])[1] == served(most)[1]


def proportional(
    attaccs: Attaccs, layer: LayerHeads, batch: int, lengths: Sequence[int]
) -> AttentionCurve:
    """Return attention that takes 10 ns for each key of each head on the fullest stack."""
    heads = -(-batch * layer.kv_heads // attaccs.stacks)
    keys = np.array(lengths, dtype=np.float64)
    each = keys * heads
    return AttentionCurve(
        CurveKind.EXACT, 0.0, heads * layer.group, 1, keys, 10 * each, each, each,
        np.full(keys.size, BOUNDS.index(Bound.UNITS), dtype=np.int8), 0 * each, 1,
    )  # fmt: skip


@pytest.mark.untraced  # of whole comparisons
@settings(max_examples=share.examples(__name__, 40, 16))
@given(
    model=st.sampled_from([("llama-2-7b", 1), ("llama-65b", 2), ("llama-3.1-70b", 2)]),
    devices=st.integers(1, 3),
    stacks=st.integers(1, 3),
    placement=st.sampled_from(["bank", "buffer"]),
    capacity=st.sampled_from(["separate", "pooled"]),
    pipelining=st.sampled_from(["true", "false"]),
    prompt=st.integers(1, 3000),
    output=st.integers(2, 3),
    slo_ms=st.none() | st.floats(5, 60),
)
def test_whatever_is_answered_is_what_a_given_batch_gets(
    tmp_path_factory: pytest.TempPathFactory,
    model: tuple[str, int],
    prompt: int,
    output: int,
    slo_ms: float | None,
    **system: object,
) -> None:
    """Catches a batch that the search returns and that does not fit, or is priced otherwise.

    With a formula for attention on AttAcc: timing hundreds of batches would take minutes.
    """
    folder = tmp_path_factory.mktemp("tight")
    document: dict[str, Any] = {
        "model": model[0], "workload": {"prompt": prompt, "output": output},
        "gpu_model": "published", "systems": [tight(folder, gpus=model[1], **system)],
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attaccs, "curve", proportional)
        check_answer(document, slo_ms)


def check_answer(document: dict[str, Any], slo_ms: float | None) -> None:
    """Check the answer for a batch of "max" by those for given batches."""
    try:
        (row,) = rows(**document, **({} if slo_ms is None else {"slo_ms": slo_ms}))
    except CapacityError:
        with pytest.raises(CapacityError):
            rows(**document, batch=1)
        return
    for memory in row.memory:
        used = memory.weights_bytes + memory.activations_bytes + memory.kv_bytes
        assert used <= memory.available_bytes
    if row.status is not Status.OK:
        (alone,) = rows(**document, batch=1)
        assert slo_ms is not None
        assert alone.memory == row.memory
        assert served(alone)[1].tpot_ms > slo_ms
        return
    batch, performance = served(row)
    assert slo_ms is None or performance.tpot_ms <= slo_ms
    (given_it,) = rows(**document, batch=batch.size)
    assert given_it == replace(row, batch=replace(batch, limit=Limit.GIVEN))


def test_a_target_that_the_largest_batch_keeps_does_not_limit_it() -> None:
    """Catches a limit that is always blamed on the target."""
    (row,) = rows(systems=["dgx-base"], slo_ms=1e9, workload={"prompt": 2048, "output": 4})
    batch, _ = served(row)
    assert batch.limit is Limit.KV_CAPACITY
    assert batch.size == batch.largest_that_fits


# Models and element types.

ON_EIGHT = [name for name in MODELS.names() if MODELS.load(name).heads % 8 == 0]
"""Models whose heads eight GPUs can share; all but Qwen2.5 7B, which has 28."""
NEEDS_INT8 = ("mt-nlg-530b", "llama-3.1-405b")


@pytest.mark.untraced  # of whole comparisons
@pytest.mark.parametrize("gpu_model", list(GpuModel))
@pytest.mark.parametrize("model", ON_EIGHT)
def test_every_model_shipped_can_be_compared(model: str, gpu_model: GpuModel) -> None:
    """Catches a model whose heads, experts, norms or sizes some part cannot deal with."""
    weights = {"weights": "int8"} if model in NEEDS_INT8 else {}
    systems = ["dgx-base", "dgx-cpu", "dgx-attacc-bank", "dgx-attacc-bankgroup"]
    comparison = compare_study(
        study(
            model=model, workload=SHORT, systems=systems, batch=8, precision=weights,
            gpu_model=gpu_model,
        )
    )  # fmt: skip
    spec = MODELS.load(model)
    read = count_parameters(spec)
    element_bytes = 1 if weights else 2
    # A token's row of the embedding table is read, not the table; experts that 8 tokens visit.
    least_bytes = element_bytes * (read.active - read.embedding - read.position)
    if spec.tied_embeddings:
        least_bytes += element_bytes * read.embedding
    for result in comparison.systems:
        batch, p = served(result)
        assert batch.size == 8
        assert p.tpot_ms > least_bytes / (8 * A100A_BYTES_PER_S) * 1e3
        assert all(isfinite(entry.time_ms) and entry.time_ms > 0 for entry in p.breakdown)
    assert comparison.model.parameters == read.total
    assert (comparison.model.active_parameters < read.total) == model.startswith("mixtral")


def test_grouped_queries_of_a_head_stay_with_it() -> None:
    """Catches query heads that are dealt out apart from the keys that they share.

    Eight key/value heads go to 8 of 40 stacks, and the eight query heads of each take turns in
    the channels that hold it, not in those of 40 stacks.
    """
    (row,) = rows(model="llama-2-70b", workload=SHORT, systems=["dgx-attacc-bank"], batch=1)
    stack = Stack(
        DRAMS.load("hbm3-5.2"),
        Placement.BANK,
        power_limited=True,
        schedule=Schedule.INTERLEAVED,
    )
    spec = MODELS.load("llama-2-70b")
    one, eight = (
        stack.attend(
            heads=queries, length=129, head_dim=128, element=spec.precision.kv,
            queries_per_kv_head=queries,
        )
        for queries in (1, 8)
    )  # fmt: skip
    attention_ms = part(row, Group.ATTENTION)
    assert attention_ms > spec.layers * eight.time_ns / 1e6
    assert eight.time_ns > 3 * one.time_ns


def test_reads_that_serve_several_queries_make_attention_faster(tmp_path: Path) -> None:
    """Catches a system file whose queries_per_read reaches neither time nor energy."""
    text = """
name = "NAME"
gpu = "a100a"
gpus = 8
link = "nvlink3"
attention = "attacc"
attacc = {devices = 8, stacks_per_device = 5, placement = "bank", queries_per_read = COUNT}
"""
    names: list[str] = []
    for count in (1, 2, 4, 8):
        path = tmp_path / f"read{count}.toml"
        path.write_text(text.replace("NAME", path.stem).replace("COUNT", str(count)))
        names.append(str(path))
    found = rows(
        model="llama-2-70b", workload={"prompt": 4096, "output": 4}, systems=names, batch=80
    )
    times = [part(row, Group.ATTENTION) for row in found]
    energies = [served(row)[1].energy_per_token_j for row in found]
    assert times == sorted(times, reverse=True)
    assert energies == sorted(energies, reverse=True)
    notes = [served(row)[1].attacc for row in found]
    assert [note.passes_per_kv_head for note in notes if note is not None] == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("precision", "weights", "kv"),
    [
        ({}, 2, 2),
        ({"weights": "int8"}, 1, 2),
        ({"weights": "fp8", "activations": "fp8", "kv": "fp8"}, 1, 1),
        ({"weights": "int4"}, 0.5, 2),
        ({"kv": "int8"}, 2, 1),
        ({"weights": "bf16", "activations": "bf16", "kv": "fp8"}, 2, 1),
    ],
)
def test_element_types_count_where_they_are_stored(
    precision: dict[str, str], weights: float, kv: float
) -> None:
    """Catches an element type that changes the wrong memory, or none."""
    comparison = compare_study(
        study(
            model="llama-2-7b", workload=SHORT, systems=["dgx-base", "dgx-attacc-bank"], batch=8,
            precision=precision,
        )
    )  # fmt: skip
    per_token = 2 * 32 * 4096 * kv
    assert comparison.model.kv_bytes_per_token == per_token
    for result in comparison.systems:
        served(result)
        assert isclose(
            sum(
                memory.kv_bytes * (40 if "stack" in memory.name else 8) for memory in result.memory
            ),
            8 * 135 * per_token,
            rel_tol=0.2,  # 256 heads on 40 stacks: the fullest holds 7, the mean is 6.4
        )
        gpu = result.memory[0]
        assert isclose(8 * gpu.weights_bytes, 6.738e9 * weights, rel_tol=1e-3)
    for name in ("weights", "activations", "kv"):
        assert getattr(comparison.model, name) == precision.get(name, "fp16")


def test_narrower_weights_are_faster_where_weights_bound_the_step() -> None:
    """Catches weights that are read in another width than they are stored in."""
    times = [
        part(
            rows(
                workload={"prompt": 128, "output": 3}, systems=["dgx-attacc-bank"], batch=4,
                precision={"weights": weights}, gpu_model="published",
            )[0],
            Group.FC,
        )
        for weights in ("fp16", "int8", "int4")
    ]  # fmt: skip
    assert isclose(times[0] / times[1], 2, rel_tol=0.02)
    assert isclose(times[0] / times[2], 4, rel_tol=0.05)


def test_experts_that_no_token_visits_are_not_read() -> None:
    """Catches a mixture of experts that is priced as a dense model of the same size."""
    (row,) = rows(
        model="mixtral-8x7b", workload=SHORT, systems=["dgx-base"], batch=1, gpu_model="published"
    )
    step = decode_step(MODELS.load("mixtral-8x7b"), batch=1, kv_length=1, tensor_parallel=8)
    [experts] = [op for op in step.layers[0].operators if isinstance(op, Experts)]
    fc = [op for op in experts.products() if isinstance(op, MatMul)]
    assert [op.count for op in fc] == [2, 2, 2]
    total = count_parameters(MODELS.load("mixtral-8x7b")).total
    assert part(row, Group.FC) < 0.5 * 2 * total / (8 * A100A_BYTES_PER_S) * 1e3


def test_attention_and_fc_say_what_bounds_them(published: Comparison) -> None:
    """Catches bounds that belong to another part; decode on GPUs waits for memory (the papers)."""
    _, p = served(by_name(published)["dgx-base"])
    bounds = {entry.name: entry.bound for entry in p.breakdown}
    assert bounds[Group.FC] is bounds[Group.ATTENTION] is Bound.MEMORY
    assert bounds[Group.COMMUNICATION] is bounds[Group.OTHER] is Bound.LATENCY


@pytest.mark.parametrize(
    ("placement", "power_limited", "limit"),
    [
        ("bank", True, Bound.UNITS),
        ("bank", False, Bound.READS),
        ("buffer", True, Bound.READS_UNITS),
    ],
)
def test_attention_on_attaccs_says_what_limits_their_stacks(
    placement: str, power_limited: bool, limit: Bound
) -> None:
    """Catches AttAccs that only wait for memory: the power budget, or rows and columns, decide."""
    system = load_system(f"dgx-attacc-{placement}", attacc={"power_limited": power_limited})
    compared = aa.compare("gpt3-175b", (128, 8), system, batch=16, decode_only=True)
    _, p = served(compared.systems[0])
    bounds = {entry.name: entry.bound for entry in p.breakdown}
    assert bounds[Group.ATTENTION] is limit


# Workloads.


def test_equal_requests_of_a_trace_are_as_fixed_ones(tmp_path: Path) -> None:
    """Catches lengths that are changed on their way through a trace."""
    trace = tmp_path / "equal.jsonl"
    line = '{"timestamp": 0, "input_length": 300, "output_length": 20}\n'
    trace.write_text(line * 5, encoding="utf-8")
    systems = ["dgx-base", "dgx-attacc-bank"]
    traced = compare_study(study(workload={"trace": str(trace)}, systems=systems))
    fixed = compare_study(study(workload={"prompt": 300, "output": 20}, systems=systems))
    assert traced.systems == fixed.systems
    assert traced.workload.requests == 5
    assert (traced.workload.name, fixed.workload.requests) == ("equal.jsonl", 1)


def test_mixed_requests_lie_between_the_shortest_and_the_longest() -> None:
    """Catches a mixture that is priced or stored as one of its extremes."""
    systems = ["dgx-base", "dgx-cpu", "dgx-attacc-bank"]
    mixed = compare_study(study(workload={"synthetic": "azure-conv-2023"}, systems=systems))
    short = compare_study(study(workload={"prompt": 100, "output": 100}, systems=systems))
    long = compare_study(study(workload={"prompt": 14000, "output": 1000}, systems=systems))
    assert mixed.workload.length_kind == "estimate"
    assert mixed.workload.requests == 10_000
    for few, some, many in zip(long.systems, mixed.systems, short.systems, strict=True):
        assert served(few)[0].size < served(some)[0].size < served(many)[0].size
        assert served(few)[1].prefill_ms > served(some)[1].prefill_ms > served(many)[1].prefill_ms


def test_a_seed_makes_the_same_requests_again() -> None:
    """Catches random numbers that no seed reproduces, or that ignore the seed."""

    def made(seed: int) -> Comparison:
        workload = {"synthetic": "azure-code-2023", "seed": seed}
        return compare_study(study(workload=workload, systems=["dgx-attacc-bank"]))

    assert made(3) == made(3)
    assert made(3) != made(4)


def test_outputs_too_long_to_price_every_step_are_estimated() -> None:
    """Catches a million steps that are priced one by one."""
    workload = {"prompt": 10, "output": 2**20}
    comparison = compare_study(study(model="llama-2-7b", workload=workload, systems=["dgx-base"]))
    assert comparison.workload.length_kind == "estimate"
    assert isclose(comparison.workload.mean_kv_tokens, 10 + 2**19, rel_tol=1e-12)
    _, p = served(comparison.systems[0])
    # The cache of one request, half full on average, is read by every step.
    least_ms = 2**19 * comparison.model.kv_bytes_per_token / (8 * A100A_BYTES_PER_S) * 1e3
    assert p.tpot_ms > least_ms


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "requests", "prompt", "output"),
    [
        ("AzureLLMInferenceTrace_conv_2023.csv", 19366, 1154.7, 211.1),
        ("AzureLLMInferenceTrace_code_2023.csv", 8819, 2047.8, 27.9),
        ("mooncake_fast25_conversation_trace.jsonl.gz", 12031, 12035.2, 342.6),
    ],
)
def test_recorded_traces(
    reference: Path, name: str, requests: int, prompt: float, output: float
) -> None:
    """Catches a recorded trace that cannot be compared; means counted from the files apart."""
    trace = reference / "data" / "traces" / name
    # GPT-3 has no room for the longest prompts of Mooncake: 126,000 tokens take 594 GB.
    model = "llama-3.1-70b" if "mooncake" in name else "gpt3-175b"
    systems = ["dgx-base", "dgx-attacc-bank"]
    comparison = compare_study(
        study(model=model, workload={"trace": str(trace)}, systems=systems, gpu_model="published")
    )
    assert comparison.workload.requests == requests
    assert isclose(comparison.workload.mean_prompt_tokens, prompt, rel_tol=1e-4)
    assert isclose(comparison.workload.mean_output_tokens, output, rel_tol=1e-3)
    base, bank = (served(result) for result in comparison.systems)
    assert bank[1].tpot_ms < base[1].tpot_ms
    assert bank[1].speedup is not None
    assert bank[1].speedup > 1.2


# Names.


def test_unknown_systems_are_refused_before_anything_is_priced() -> None:
    """Catches minutes of work before a slip of the pen is noticed."""
    told: list[str] = []
    with pytest.raises(UnknownNameError, match="systems: unknown system preset 'dgx-bsae'"):
        compare_study(study(systems=["dgx-base", "dgx-bsae"]), lambda name, _: told.append(name))
    assert told == []


def test_two_systems_of_one_name_are_refused(tmp_path: Path) -> None:
    """Catches two rows that cannot be told apart."""
    copy = tmp_path / "copy.toml"
    copy.write_text('name = "dgx-base"\ngpu = "h100"\ngpus = 1\nattention = "gpu"\n')
    with pytest.raises(InputError, match="two systems called 'dgx-base'"):
        compare_study(study(systems=["dgx-base", str(copy)]))


def test_the_default_study_is_the_default() -> None:
    """Catches defaults of the function, of a document and of the shipped study that differ."""
    today = load_study("today")
    assert today.model_copy(update={"workload": WorkloadTable()}) == StudySpec()
    for name, parameter in signature(compare).parameters.items():
        if name in StudySpec.model_fields and name != "sites":
            assert parameter.default == getattr(today, name), name
    requests = signature(compare).parameters["requests"].default
    assert (today.workload.prompt, today.workload.output) == requests


def test_key_value_heads_are_copied_on_gpus_only(tmp_path: Path) -> None:
    """Catches copies in stacks and CPUs, which would halve what fits there for no reason."""
    config = tmp_path / "config.json"
    config.write_text(
        '{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, '
        '"num_key_value_heads": 4, "num_hidden_layers": 32, "intermediate_size": 11008, '
        '"vocab_size": 32000, "hidden_act": "silu", "torch_dtype": "float16"}',
        encoding="utf-8",
    )
    comparison = compare_study(
        study(
            model=str(config), workload={"prompt": 1024, "output": 1025}, batch=10,
            systems=["dgx-base", "dgx-cpu", "dgx-attacc-bank"],
        )
    )  # fmt: skip
    kv_bytes = 10 * 2048 * comparison.model.kv_bytes_per_token
    gpu, cpu, bank = (result.memory[-1].kv_bytes for result in comparison.systems)
    assert isclose(8 * gpu, 2 * kv_bytes), "each of 8 GPUs has one of 4 heads"
    assert isclose(cpu, kv_bytes)
    assert isclose(bank, kv_bytes / 40), "10 x 4 heads, one for each of 40 stacks"


def test_the_calibrated_gpu_model_prices_every_part_but_attacc() -> None:
    """Catches systems priced by different models, or estimates that get lost on the way."""
    document = {"workload": SHORT, "systems": ["dgx-base", "dgx-attacc-bank"], "batch": 8}
    published = compare_study(study(**document, gpu_model="published"))
    calibrated = compare_study(study(**document))
    assert (published.cost_model, published.estimates) == ("published", ())
    assert calibrated.cost_model == "calibrated"
    scaled = {
        "operators on a100a: scaled from a100",
        "energy on a100a: power scaled from h200 by board power and peak rate",
    }
    assert set(calibrated.estimates) == scaled
    for before, after in zip(published.systems, calibrated.systems, strict=True):
        assert before.memory == after.memory
        (_, old), (_, new) = served(before), served(after)
        assert set(new.estimates) == scaled
        assert new.tpot_ms != old.tpot_ms
        assert new.energy_per_token_j > 2 * old.energy_per_token_j
    on_attacc = [
        part(result, Group.ATTENTION) for result in (published.systems[1], calibrated.systems[1])
    ]
    assert on_attacc[0] == on_attacc[1]


def test_both_gpu_models_in_the_documentation(default: Comparison, published: Comparison) -> None:
    """Catches a page whose figures are no longer those of the two models: a regression test."""
    page = (Path(__file__).parents[2] / "docs" / "model" / "compare.md").read_text(encoding="utf-8")
    table = page[page.index("## Two GPU models") : page.index("## Which batch")]
    shown = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    for cells, *results in zip(shown, published.systems, default.systems, strict=True):
        (batch, old), (_, new) = (served(result) for result in results)
        assert cells[:2] == [results[0].system, str(batch.size)]
        pairs = [
            (old.throughput_tokens_per_s, new.throughput_tokens_per_s, 0.005),
            (old.energy_per_token_j, new.energy_per_token_j, 0.005),
            (old.speedup, new.speedup, 0.1),
            (old.energy_ratio, new.energy_ratio, 0.05),
        ]
        figures = [float(cell.replace(",", "")) for cell in cells[2:]]
        for i, (first, other, rounding) in enumerate(pairs):
            assert first is not None
            assert other is not None
            assert isclose(figures[2 * i], first, rel_tol=rounding)
            assert isclose(figures[2 * i + 1], other, rel_tol=rounding)
