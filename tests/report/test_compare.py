"""The tables of a comparison, as text 100 columns wide."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

import attacc as aa
from attacc.report.compare import comparison_tables
from attacc.study.compare import Comparison, SystemResult, compare_study
from attacc.system.attaccs import CurveKind
from tests.study.comparisons import PAPERS, default_comparison, published_comparison, served, study

SHORT = {"prompt": 64, "output": 4}


@pytest.fixture(scope="session")
def default() -> Comparison:
    return default_comparison()


@pytest.fixture(scope="session")
def published() -> Comparison:
    return published_comparison()


def rendered(comparison: Comparison, width: int = 80) -> str:
    """Return the tables as text, and check that nothing is cut off."""
    text = StringIO()
    Console(width=width, file=text, highlight=False).print(comparison_tables(comparison))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text.getvalue()
    return text.getvalue()


def cells(text: str, system: str) -> list[list[str]]:
    """Return the words of the lines that begin with a system's name."""
    return [line.split() for line in text.splitlines() if line.startswith(f" {system} ")]


def test_every_system_has_its_row_in_all_tables(default: Comparison) -> None:
    """Catches a row that is lost, or figures under the wrong heading."""
    text = rendered(default)
    for result in default.systems:
        batch, p = served(result)
        memory, summary, breakdown = cells(text, result.system)
        assert memory[1] == f"{result.memory_bytes / 2**30:,.0f}"
        assert memory[2] == summary[1] == str(batch.size)
        assert " ".join(memory[3:]) == f"KV capacity, {batch.store}"
        assert float(summary[3].replace(",", "")) == float(f"{p.tpot_ms:.4g}")
        assert summary[-2:] == [f"{p.speedup:.2f}x", f"{p.energy_ratio:.2f}x"]
        assert breakdown[2] == f"({p.breakdown[0].share:.0%})"
    assert [system for system in PAPERS if cells(text, system)] == list(PAPERS)


def test_the_published_tables(published: Comparison) -> None:
    """Catches any change of the papers' comparison, column by column: a regression test."""
    text = rendered(published)
    memory, bank, _ = cells(text, "dgx-attacc-bank")
    assert " ".join(memory) == "dgx-attacc-bank 1,280 35 KV capacity, memory of each AttAcc stack"
    assert " ".join(bank) == "dgx-attacc-bank 35 1,117 31.34 634.8 0.601 2.63x 2.26x"
    assert "gpt3-175b  174.6 B parameters, weights fp16, activations fp16, KV cache fp16" in text
    assert "2,048 prompt + 2,048 output tokens, mean KV length 3,072" in text
    assert "latency target" not in text


@pytest.mark.parametrize("model", ["calibrated", "published"])
def test_notes_say_what_is_estimated(model: str) -> None:
    """Catches an estimate that is passed off as exact, and the other way around."""
    default = default_comparison() if model == "calibrated" else published_comparison()
    text = " ".join(rendered(default).split())
    named = {"calibrated": "calibrated GPU model", "published": "published system model"}
    assert f"estimates of the {named[model]}" in text
    assert "Tokens/s, ms and J per token: of decode alone" in text
    _, p = served(default.systems[-1])
    assert p.attacc is not None
    assert p.attacc.kind is CurveKind.INTERPOLATED
    told = "dgx-attacc-buffer: attention is timed exactly at some lengths and interpolated between "
    told += f"them, its mean within {p.attacc.relative_error:.2%} (estimated)"
    assert told in text
    exact = compare_study(study(workload=SHORT, batch=2, systems=["dgx-attacc-bank"]))
    assert "dgx-attacc-bank: attention" not in " ".join(rendered(exact).split())
    assert "representative lengths" not in text
    assert "query heads that share them" not in text
    assert "active" not in text


def test_notes_of_mixed_requests_experts_and_grouped_queries() -> None:
    """Catches a note that is missing where it matters."""
    systems = ["dgx-base", "dgx-attacc-bank"]
    mixed = compare_study(
        study(
            model="mixtral-8x7b", workload={"synthetic": "azure-code-2023"}, systems=systems,
            batch=4,
        )
    )  # fmt: skip
    text = " ".join(rendered(mixed).split())
    assert "46.7 B parameters (12.9 B active)" in text
    assert "priced at representative lengths" in text
    assert "with 99.9 % probability: estimates" in text
    assert (
        "dgx-attacc-bank: reads keys and values 4 times a step, for the query heads that share "
        "them" in text
    )
    assert "dgx-base: reads" not in text
    assert " 4 given " in text


def test_rows_without_figures_say_why() -> None:
    """Catches figures of a system that has none, and a reason that is lost."""
    systems = ["dgx-base", "2xdgx", "dgx-cpu", "dgx-attacc-bank"]
    comparison = compare_study(
        study(
            model="opt-66b", workload={"prompt": 2048, "output": 4}, systems=systems, batch=130,
            slo_ms=60,
        )
    )  # fmt: skip
    text = rendered(comparison)
    assert " ".join(cells(text, "dgx-base")[0]) == "dgx-base 640 - does not fit"
    assert " ".join(cells(text, "2xdgx")[0]) == "2xdgx 1,280 - cannot split"
    assert " ".join(cells(text, "dgx-cpu")[0]) == "dgx-cpu 2,688 130 above target"
    for name in systems[:3]:
        assert " ".join(cells(text, name)[1]) == f"{name} - - - - - - -"
    assert "latency target 60 ms per output token" in text
    for result in comparison.systems[:3]:
        assert f"{result.system}: {result.reason}" in " ".join(text.split())


def test_no_figures_no_breakdown() -> None:
    """Catches an empty table."""
    text = rendered(compare_study(study(workload=SHORT, systems=["dgx-base"], slo_ms=1)))
    assert "Mean decode step" not in text
    assert "above target" in text


def test_a_target_is_named_as_what_limits_the_batch() -> None:
    """Catches a limit without what would fit otherwise, and a column that grows too wide."""
    comparison = compare_study(study(workload=SHORT, systems=["dgx-base"], slo_ms=40))
    batch, _ = served(comparison.systems[0])
    text = rendered(comparison)
    assert "TPOT target" in text
    assert f"({batch.largest_that_fits:,} fit)" in text


def huge(result: SystemResult) -> SystemResult:
    """Return a row with wide figures."""
    batch, p = served(result)
    return replace(
        result,
        memory_bytes=999_999 * 2.0**30,
        batch=replace(batch, size=1_048_576, largest_that_fits=1_048_576),
        performance=replace(
            p,
            throughput_tokens_per_s=123_456.0,
            prefill_ms=1_234_567.0,
            tpot_ms=123_456.0,
            energy_per_token_j=1234.5,
            speedup=123.45,
            energy_ratio=123.45,
            hidden_ms=12345.6,
        ),
    )


def test_wide_figures_are_not_cut_off(published: Comparison) -> None:
    """Catches digits that are lost where figures are large or names long."""
    systems = tuple(huge(result) for result in published.systems)
    text = rendered(replace(published, systems=systems))
    for figure in ("999,999", "1,048,576", "123,456", "1,234,567", "123.45x", "12,346"):
        assert figure in text
    name = "a-system-whose-name-is-longer-than-a-column-of-this-table"
    text = rendered(replace(published, systems=(replace(published.systems[0], system=name),)))
    assert "a-system-whose" in text
    assert "424.1" in text


def test_notes_of_the_calibrated_model() -> None:
    """Catches figures of one GPU model under the other's name, or a scaling that is not told."""
    document = {"workload": SHORT, "systems": ["dgx-base", "2xdgx"], "batch": 2}
    text = rendered(compare_study(study(**document)))
    words = " ".join(text.split())
    assert "are estimates of the calibrated GPU model (--gpu-model published" in words
    assert "Energy: of GPUs, idle too, links and memory." in words
    assert "Scaled or assumed, beyond what was measured:" in words
    listed = [line.rstrip() for line in text.splitlines() if line.startswith("- ")]
    assert listed == [
        "- operators on a100a: scaled from a100",
        "- energy on a100a: power scaled from h200 by board power and peak rate",
        "- collectives of 16 GPUs: scaled, as in one NVLink domain",
    ]
    published = " ".join(rendered(compare_study(study(**document, gpu_model="published"))).split())
    assert "are estimates of the published system model." in published
    assert "Scaled or assumed" not in published


# Whole requests.


@pytest.fixture(scope="module")
def whole() -> Comparison:
    """Two GPUs alone and with AttAccs, and a system without whole requests."""
    two = aa.load_system("8xh100", name="two", gpus=2)
    mine = aa.load_system("8xh100-attacc-hbm3", name="mine", **{"gpus": 2, "attacc.devices": 2})
    one = aa.load_system("8xh100", name="one", gpus=1)
    return aa.compare(
        "llama-3.1-8b", (256, 17), [two, mine, one], batch=8, layout="tp=2", engine="vllm"
    )


def with_speedup(comparison: Comparison, best: float, low: float, high: float) -> Comparison:
    """Return a comparison whose system with AttAccs has another speed-up."""
    two, mine, one = comparison.systems
    assert mine.whole_requests is not None
    found = replace(mine.whole_requests, speedup=best, speedup_low=low, speedup_high=high)
    return replace(comparison, systems=(two, replace(mine, whole_requests=found), one))


@pytest.mark.parametrize(
    ("speedup", "verdict"),
    [
        ((1.5, 1.1, 1.7), "It pays: mine serves 1.50x (1.10 to 1.70) the requests of two."),
        ((0.8, 0.7, 0.9), "It does not pay: mine serves 0.80x (0.70 to 0.90)"),
        ((1.1, 0.9, 1.2), "It may pay: mine serves 1.10x (0.90 to 1.20)"),
        ((1.01, 0.9, 1.2), "No clear gain: mine serves 1.01x (0.90 to 1.20)"),
        ((1.03, 1.01, 1.04), "It may pay: mine serves 1.03x (1.01 to 1.04)"),
    ],
)
def test_the_verdict_comes_first(
    whole: Comparison, speedup: tuple[float, float, float], verdict: str
) -> None:
    """Catches a gain that is called clear although it may be none, and one that comes last."""
    assert rendered(with_speedup(whole, *speedup), 120).startswith(verdict)


def test_the_verdict_of_several_systems_names_the_best_and_the_worst(whole: Comparison) -> None:
    """Catches a best system that stands for all."""
    two, mine, one = with_speedup(whole, 1.5, 1.1, 1.7).systems
    assert mine.whole_requests is not None
    slow = replace(mine.whole_requests, speedup=0.7, speedup_low=0.6, speedup_high=0.8)
    both = replace(
        whole, systems=(two, replace(mine, system="slow", whole_requests=slow), mine, one)
    )
    first = rendered(both, 120).splitlines()[0]
    assert first == (
        "It pays: mine serves 1.50x (1.10 to 1.70) the requests of two, slow 0.70x (0.60 to 0.80)."
    )


def test_whole_requests_have_their_tables(whole: Comparison) -> None:
    """Catches figures under another heading, and a system without any that is not told of."""
    text = rendered(whole, 120)
    served_by, gain, cost, *_ = cells(text, "mine")
    found = whole.systems[1].whole_requests
    assert found is not None
    assert served_by[1:5] == ["tp=2", "8", f"{found.requests_per_s:#.3g}", served_by[4]]
    assert served_by[-2:] == [f"{found.speedup:.2f}x", f"{found.energy_ratio:.2f}x"]
    assert found.decomposition is not None
    factors = [f"{factor.factor:.2f}x" for factor in found.decomposition.factors]
    assert gain[2:8] == [*factors, f"{found.decomposition.gain:.2f}x"]
    economy = found.economy
    gains = (economy.gain_per_dram_area, economy.gain_per_watt, economy.gain_per_usd)
    assert cost[-3:] == [f"{value:.2f}x" for value in gains]
    assert f"mine: by vllm; against two; the range depends most on {found.depends_most_on}" in (
        " ".join(text.split())
    )
    assert "one: tp=2,replicas=1 takes 2 GPUs, and one has 1 (use fewer GPUs)" in text


def test_nothing_is_told_of_whole_requests_without_them(default: Comparison) -> None:
    """Catches empty tables where whole requests are left out."""
    text = rendered(default)
    assert text.startswith("gpt3-175b")
    for title in ("Whole requests", "Where the gain", "Cost of"):
        assert title not in text
