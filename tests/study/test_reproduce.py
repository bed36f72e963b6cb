"""The papers' figures made again: data, prices, and exhibits that take little time."""

import time
from dataclasses import replace
from math import isclose
from multiprocessing import active_children

import pytest

from attacc.errors import EngineError, InputError, UnknownNameError
from attacc.gpu.costs import OperatorCosts
from attacc.gpu.models import GpuModel, cost_model
from attacc.gpu.published.model import PublishedCostModel
from attacc.hardware.dram import DRAMS
from attacc.hardware.gpu import GpuSpec
from attacc.hardware.link import LINKS
from attacc.models.operators import MatMul
from attacc.models.parameters import kv_bytes_per_token, weight_bytes
from attacc.study.compare import compare_study
from attacc.study.papers import asplos2024 as asplos2024
from attacc.study.papers import cal2023 as cal2023
from attacc.study.papers.breakdown import breakdown
from attacc.study.papers.exhibits import Column, Exhibit, Form, Paper, deviation
from attacc.study.papers.figures import paper_figures
from attacc.study.papers.headline import PapersConditions, Printed, figure
from attacc.study.papers.platforms import Load, Pricers
from attacc.study.papers.recorded_runs import (
    ends_of_parts,
    paper_runs,
    published_cycles,
    times_of,
)
from attacc.study.papers.reproduce import (
    EXHIBITS,
    _another_process,  # pyright: ignore[reportPrivateUsage]
    _not_interrupted,  # pyright: ignore[reportPrivateUsage]
    chosen,
    reproduce,
)
from attacc.study.papers.schedules import schedules
from attacc.study.papers.setting import (
    LOADS,
    LONG,
    OWN_STACK,
    PUBLISHED_STACK,
    Reasons,
    Setting,
    best,
)
from attacc.study.papers.step import PublishedRun, decode_of
from tests import share
from tests.study.comparisons import served, study

SOME_LOADS = (*share.cases(__name__, LOADS[:-1], 1), LOADS[-1])
"""Of an exhibit's loads, a short one, and the one of which a paper tells the largest batch."""
ASKED = 0.005
"""Deviation that is asked for of every time of the published runs; what is reached is rounding."""


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(Pricers(cost_model(GpuModel.PUBLISHED)))


def test_every_time_of_the_published_runs() -> None:
    """Catches a slip in the data, in the steps of the release, or in what stands for a length."""
    runs = paper_runs()
    assert len(runs) == 50
    for run in runs:
        one = run.run
        weights = ends_of_parts(one) if one.placement else None
        cycles = {n: published_cycles(one, n) for n in weights or ()}
        times = times_of(one, cycles, weights)
        assert [time.name for time in times] == [time.name for time in run.times]
        for ours, printed in zip(times, run.times, strict=True):
            assert isclose(ours.value_ms, printed.value_ms, rel_tol=1e-7, abs_tol=1e-9), (
                run,
                ours,
            )


@pytest.mark.parametrize("pipelining", [False, True])
def test_ends_of_parts_stand_for_all_lengths(pipelining: bool) -> None:
    """Catches a part whose weight is wrong: first and last parts are not full."""
    run = PublishedRun(
        "LLAMA-65B", "A100a", 8, 2, 117, 2050, 40, placement="bank", pipelining=pipelining
    )
    weights = ends_of_parts(run)
    lengths = range(run.prompt + 1, run.prompt + run.output)
    assert isclose(sum(weights.values()), len(lengths))
    cycles = {n: published_cycles(run, n) for n in lengths}
    every, few = decode_of(run, cycles), decode_of(run, cycles, weights)
    assert isclose(every.time_ns, few.time_ns, rel_tol=1e-12)


def test_cycles_that_were_not_carried_over() -> None:
    """Catches a shape that is priced with the cycles of another."""
    run = PublishedRun("LLAMA-65B", "A100a", 8, 2, 1, 64, 2, placement="bank")
    with pytest.raises(EngineError, match="no published cycles"):
        published_cycles(run, 65)


@pytest.mark.untraced  # of whole exhibits
def test_headline_figures(setting: Setting) -> None:
    """Catches a figure of the papers that is no longer met within 10 %, but for the known one."""
    reasons = Reasons()
    known = asplos2024.conditions(setting)
    source = PapersConditions(setting, reasons)
    off = {
        claim.id: deviation(figure(claim.id, source, known), claim.value)
        for claim in paper_figures()
    }
    assert not reasons.told
    assert all(value is not None for value in off.values())
    outside = [name for name, value in off.items() if value is not None and abs(value) > 0.1]
    assert outside == ["released-mt-nlg-over-base"]
    runs = figure("released-gpt3-over-base", Printed(), known)
    assert runs is not None
    assert isclose(runs, 3.972, rel_tol=1e-3)
    assert figure("over-two-dgx", Printed(), known) is None
    with pytest.raises(EngineError, match="nothing is computed"):
        figure("unheard-of", source, known)


def test_prices_are_those_of_a_comparison(setting: Setting) -> None:
    """Catches a step that differs from what attacc compare prices at every length."""
    names = ["dgx-base", "dgx-cpu", "dgx-attacc-bank"]
    results = compare_study(study(systems=names, gpu_model="published")).systems
    plain = replace(OWN_STACK, pipelining=False, coprocessing=False)
    for result, platform in zip(
        results, (setting.base, setting.cpu, setting.attacc(plain)), strict=True
    ):
        batch, performance = served(result)
        assert setting.pricers.largest(platform, setting.gpt3, LONG) == batch.size
        ours = setting.pricers.serve(platform, setting.gpt3, LONG, batch.size)
        assert isclose(ours.step_ms, performance.tpot_ms, rel_tol=1e-3)
        assert isclose(ours.energy_per_token_j, performance.energy_per_token_j, rel_tol=1e-3)
        assert isclose(
            ours.step_ms,
            ours.fc_ms + ours.attention_ms + ours.communication_ms + ours.other_ms,
        )


@pytest.mark.parametrize("slo_ms", [30.0, 50.0])
def test_batch_within_a_target(setting: Setting, slo_ms: float) -> None:
    """Catches a search that stops at a batch below the largest, or above the target."""
    load = Load(512, 128)
    for platform in (setting.large, setting.attacc(PUBLISHED_STACK)):
        outcome = best(setting, Reasons(), platform, setting.gpt3, load, slo_ms)
        assert outcome.served is not None
        assert outcome.served.step_ms <= slo_ms
        assert outcome.limit == "target"
        most = setting.pricers.largest(platform, setting.gpt3, load)
        for batch in range(outcome.served.batch + 1, min(most, outcome.served.batch + 30) + 1):
            assert setting.pricers.serve(platform, setting.gpt3, load, batch).step_ms > slo_ms


def test_what_cannot_be_served(setting: Setting) -> None:
    """Catches a blank without a reason."""
    reasons = Reasons()
    tiny = replace(OWN_STACK, stacks_per_device=1)
    assert (
        best(setting, reasons, setting.base, setting.gpt3, LONG, 1.0).limit == "misses the target"
    )
    outcome = best(setting, reasons, setting.attacc(tiny), setting.gpt3, Load(131071, 2))
    assert (outcome.served, outcome.limit) == (None, "does not fit")
    assert not reasons.told
    with pytest.raises(InputError, match="has no AttAccs"):
        setting.pricers.overlap(setting.base, setting.gpt3, LONG, 1)


@pytest.mark.untraced  # of whole exhibits
def test_steps_without_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a refusal of the cost model that ends a reproduction, or that nobody is told."""
    monkeypatch.setattr(asplos2024, "LOADS", SOME_LOADS)

    class Refuses(PublishedCostModel):
        def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCosts:
            raise InputError(f"no price for this {type(op).__name__}", where=gpu.name)

    refusing = Setting(Pricers(Refuses()))
    exhibit = cal2023.attention_share(refusing)
    assert exhibit.column("step_ms") == [None] * len(exhibit.rows)
    assert [note for note in exhibit.notes if "no price for this" in note] == [
        "No figures for DGX_Base: a100a: no price for this MatMul"
    ]
    assert set(asplos2024.grid(refusing, refusing.gpt3, "gpt3").column("limit")) == {"no price"}


def test_intensity(setting: Setting) -> None:
    """Catches operations or bytes that are counted twice, and a wrong ridge."""
    exhibit = cal2023.intensity(setting)
    assert "ridge at 93.1 op/B" in exhibit.conditions
    rows = [dict(zip((c.key for c in exhibit.columns), row, strict=True)) for row in exhibit.rows]
    attention = [r for r in rows if r["phase"] == "decode" and r["layer"] in ("score", "context")]
    assert len(attention) == 30
    assert all(0.98 < float(row["ours_ops_per_byte"] or 0) < 1 for row in attention)
    qkv = {row["batch"]: row for row in rows if (row["phase"], row["layer"]) == ("decode", "qkv")}
    batch, n, k = 64, 3 * 12288 / 8, 12288
    by_hand = 2 * batch * n * k / (2 * (batch * k + k * n + batch * n))
    assert isclose(float(qkv[64]["ours_ops_per_byte"] or 0), by_hand)
    assert float(qkv[256]["share_of_peak"] or 0) == 1


def test_kv_bytes(setting: Setting) -> None:
    """Catches gigabytes of the wrong model."""
    exhibit = cal2023.kv_bytes(setting)
    row = next(r for r in exhibit.rows if r[:3] == ("GPT-3 175B", 2048, 54))
    spec = setting.gpt3.spec
    assert row[3:5] == (weight_bytes(spec) / 1e9, 54 * 2048 * kv_bytes_per_token(spec) / 1e9)


@pytest.mark.untraced  # of whole searches for a batch, as other tests of exhibits
def test_batch_limit_of_the_paper(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a deviation that stands in another row than the paper's."""
    monkeypatch.setattr(cal2023, "LOADS", SOME_LOADS)
    exhibit = cal2023.batches(setting)
    rows = [row for row in exhibit.rows if row[3] is not None]
    assert [row[:5] for row in rows] == [(2048, 2048, "DGX_Base", 18, 17)]
    assert isclose(rows[0][5], 17 / 18 - 1) if isinstance(rows[0][5], float) else False


def test_variants_are_as_they_say(setting: Setting) -> None:
    """Catches a switch that does not reach the system."""
    other = replace(
        PUBLISHED_STACK,
        power_limited=False,
        pipelining=False,
        stacks_per_device=3,
        link="pcie4-x16",
    )
    platform = setting.attacc(other)
    assert setting.attacc(replace(other)) is platform
    system = platform.system
    assert system.attacc is not None
    table = system.attacc.table
    assert (table.dram, table.schedule, table.capacity) == (
        DRAMS.load("hbm3-5.2-asplos24").name,
        "complete",
        "pooled",
    )
    assert (table.power_limited, table.stacks_per_device) == (False, 3)
    assert system.attacc.link == LINKS.load("pcie4-x16")
    assert (system.spec.head_level_pipelining, system.spec.ff_coprocessing) == (False, True)


def test_parts_add_up(setting: Setting) -> None:
    """Catches a part of a printed step that is left out, or counted twice."""
    exhibit = breakdown(setting)
    assert len(exhibit.rows) == 4 * 3 * 5
    for first in range(0, len(exhibit.rows), 5):
        *parts, step = exhibit.rows[first : first + 5]
        assert step[3] == "step"
        for index, allowed in ((4, 1e-7), (5, 1e-9), (7, 1e-7)):
            values = [row[index] for row in (*parts, step)]
            numbers = [value for value in values if isinstance(value, float)]
            assert len(numbers) == 5
            assert isclose(sum(numbers[:4]), numbers[4], rel_tol=allowed, abs_tol=1e-7)


@pytest.mark.untraced  # of whole exhibits
def test_schedules_beside_closed_forms(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches schedules that are set beside the closed form of other switches."""
    monkeypatch.setattr("attacc.study.papers.schedules.MOST_REQUESTS", 60)
    exhibit = schedules(setting)
    simulated = [c for c in asplos2024.conditions(setting) if c.batch <= 60]
    assert len(exhibit.rows) == 4 * len(simulated) == 8
    for row in exhibit.rows:
        off = row[7]
        assert isinstance(off, float)
        assert abs(off) < (1e-9 if row[4] == "none" else 0.03)
    assert any("854 of GPT-3 175B" in note for note in exhibit.notes)


def test_choice_of_exhibits() -> None:
    """Catches an exhibit that is left out, or listed under another name than it bears."""
    assert len({spec.id for spec in EXHIBITS}) == len(EXHIBITS)
    assert chosen(list(Paper)) == EXHIBITS
    assert {spec.paper for spec in chosen([Paper.CAL2023])} == {Paper.CAL2023}
    assert [spec.id for spec in chosen([], ["asplos2024-link"])] == ["asplos2024-link"]
    with pytest.raises(UnknownNameError, match="did you mean 'asplos2024-link'"):
        chosen([], ["asplos2024-links"])


@pytest.mark.untraced  # of whole exhibits
def test_quick_exhibits_in_order() -> None:
    """Catches progress that skips an exhibit, and an exhibit under another name or paper."""
    told: list[str] = []
    names = ["cal2023-kv-bytes", "asplos2024-link", "asplos2024-gqa", "asplos2024-length"]
    specs = chosen([], names)
    made = reproduce(specs, GpuModel.PUBLISHED, lambda name, _: told.append(name))
    assert made.gpu_model is GpuModel.PUBLISHED
    assert told == [spec.id for spec in specs] == [exhibit.id for exhibit in made.exhibits]
    assert [e.paper for e in made.exhibits] == [spec.paper for spec in specs]
    for exhibit in made.exhibits:
        assert exhibit.rows
        assert exhibit.panels
        for panel in exhibit.panels:
            assert all(len(series.x) == len(series.y) > 0 for series in panel.series)


def test_in_two_processes() -> None:
    """Catches an exhibit made in the other process that is lost, or not in its place."""
    intensity, kv_bytes = chosen([], ["cal2023-intensity", "cal2023-kv-bytes"])
    told: list[str] = []
    specs = (replace(intensity, alone=True), kv_bytes)
    totals: set[int] = set()

    def tell(name: str, total: int) -> None:
        told.append(name)
        totals.add(total)

    made = reproduce(specs, GpuModel.PUBLISHED, tell, second_process=True)
    assert made == reproduce((intensity, kv_bytes), GpuModel.PUBLISHED)
    assert sorted(told) == ["cal2023-intensity", "cal2023-kv-bytes"]
    assert totals == {2}


def test_a_row_of_the_wrong_length() -> None:
    """Catches a table whose cells stand under other heads."""
    with pytest.raises(EngineError, match="as many cells"):
        Exhibit(
            "x", Paper.CAL2023, "", "", (Column("a", "a", form=Form.TEXT),), (("1", "2"),), (), ()
        )


def test_interrupt_ends_the_second_process() -> None:
    """Ctrl-C that is heard only when another process has finished, which may take a minute."""

    def interrupted() -> None:
        with _another_process() as pool:
            with _not_interrupted():
                pool.submit(time.sleep, 60)
            assert active_children()
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 30
    assert not active_children()
