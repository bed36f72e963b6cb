"""The tables of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.gpu.models import GpuModel
from attacc.serving.policies import PrefillPolicy
from attacc.study.compare import (
    Comparison,
    Part,
    Performance,
    Status,
    SystemResult,
)
from attacc.study.decomposition import Cause
from attacc.study.thresholds import PAYS
from attacc.study.whole import WholeRequests
from attacc.system.attaccs import CurveKind
from attacc.system.pricer import BatchChoice, Limit
from attacc.system.sites import Site
from attacc.workload.lengths import LengthKind

LIMITS = {
    Limit.KV_CAPACITY: "KV capacity",
    Limit.ACTIVATIONS: "activations",
    Limit.COPIES: "copies of weights",
    Limit.LATENCY: "TPOT target",
    Limit.GIVEN: "given",
}
SITES = {Site.GPU: "GPUs", Site.ATTACC: "AttAccs"}
PARTS = {
    "fc": "FC",
    "attention": "attention",
    "communication": "transfers,\ncollectives",
    "other": "other",
}


def comparison_tables(comparison: Comparison) -> RenderableType:
    """Return a heading, the summary, the breakdown of the decode step, and notes."""
    return Group(
        *_verdict_first(comparison),
        _heading(comparison),
        "",
        *_whole_requests(comparison),
        _memory(comparison),
        _summary(comparison),
        "",
        *([_breakdown(comparison), ""] if _priced(comparison) else []),
        *(Text(note, style="dim") for note in _notes(comparison)),
    )


def _verdict_first(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield the verdict; nothing where nothing is compared with its GPUs alone."""
    lines = _verdict(comparison)
    yield from (Text(line, style="bold") for line in lines)
    if lines:
        yield ""


def _whole_requests(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what is told of whole requests; nothing where they are left out."""
    if not any(r.whole_requests or r.whole_reason for r in comparison.systems):
        return
    yield _whole(comparison)
    yield from (Text(note, style="dim") for note in _whole_notes(comparison))
    yield ""
    if comparison.gains:
        yield _causes(comparison)
        yield Text(CAUSES_NOTE, style="dim")
        yield ""
        yield _economies(comparison)
        yield Text(ECONOMY_NOTE, style="dim")
        yield ""


def _priced(comparison: Comparison) -> bool:
    return any(result.performance is not None for result in comparison.systems)


def _heading(comparison: Comparison) -> Text:
    model, workload = comparison.model, comparison.workload
    active = ""
    if model.active_parameters != model.parameters:
        active = f" ({model.active_parameters / 1e9:.1f} B active)"
    return Text.assemble(
        (model.name, "bold"),
        f"  {model.parameters / 1e9:.1f} B parameters{active}, weights {model.weights}, "
        f"activations {model.activations}, KV cache {model.kv} "
        f"({model.kv_bytes_per_token / 1e6:.3g} MB a token)\n",
        (workload.name, "bold"),
        f"  {workload.mean_prompt_tokens:,.0f} prompt + {workload.mean_output_tokens:,.0f} output "
        f"tokens, mean KV length {workload.mean_kv_tokens:,.0f}",
        f"\nlatency target {comparison.slo_ms:g} ms per output token" if comparison.slo_ms else "",
        _drafts(comparison),
        f"\n{comparison.shared_prefix:,} tokens that all prompts begin with"
        if comparison.shared_prefix
        else "",
    )


def _drafts(comparison: Comparison) -> str:
    """Return the drafts of a step in words; empty without any."""
    drafts = comparison.speculation
    if not drafts.draft_tokens:
        return ""
    chances = ", ".join(f"{one:g}" for one in dict.fromkeys(drafts.acceptance))
    return (
        f"\n{drafts.draft_tokens} drafts a step, accepted with {chances}: "
        f"{comparison.tokens_per_step:.2f} tokens a step"
    )


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _memory(comparison: Comparison) -> Table:
    table = _table("What fits")
    table.add_column("system", overflow="fold", min_width=12)
    table.add_column("memory\nGiB", justify="right", no_wrap=True)
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("limited by")
    for result in comparison.systems:
        batch = "-" if result.batch is None else f"{result.batch.size:,}"
        if result.batch is None or result.performance is None:
            limit = _short_reason(result)
        else:
            limit = _limit(result.batch)
        table.add_row(result.system, f"{result.memory_bytes / 2**30:,.0f}", batch, limit)
    return table


CLEAR: Final = 0.02
"""Part of a speed-up below which it is called no gain."""


CAUSES_NOTE: Final = (
    "A chain from the GPUs alone, each system in its best layout: the memory of the AttAccs on the "
    "GPUs; their stacks as plain HBM (equal stacks); AttAccs with the papers' unit; with the "
    "system's units; with its overlaps. The factors multiply to the gain over the GPUs alone."
)
ECONOMY_NOTE: Final = (
    "Node: boards and host. Cost: price of the node over 4 years at 70 % use, and energy "
    "(docs/model/cost.md); no AttAcc is on sale, so its price is an estimate. Gains: requests for "
    "each mm2 of DRAM dies, joule and dollar, over those of the baseline."
)


def _causes(comparison: Comparison) -> Table:
    table = _table("Where the gain comes from")
    table.add_column("system", overflow="fold", min_width=12)
    table.add_column("GPUs\nalone/s", justify="right", no_wrap=True)
    for cause in Cause:
        table.add_column(str(cause).replace(" in ", " in\n"), justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True, style="bold")
    table.add_column("equal\nstacks/s", justify="right", no_wrap=True)
    for result in comparison.gains:
        whole = result.whole_requests
        found = None if whole is None else whole.decomposition
        if found is None:
            table.add_row(result.system, *["-"] * 8)
            continue
        table.add_row(
            result.system,
            _short(found.baseline_requests_per_s, 3),
            *(f"{factor.factor:.2f}x" for factor in found.factors),
            f"{found.gain:.2f}x",
            _short(found.equal_stacks_requests_per_s, 3),
        )
    return table


def _economies(comparison: Comparison) -> Table:
    table = _table("Cost of whole requests, and gain for what it takes")
    table.add_column("system", overflow="fold", min_width=12)
    table.add_column("J per request,\nnode", justify="right", no_wrap=True)
    table.add_column("USD per M\ntokens", justify="right", no_wrap=True)
    table.add_column("gain per\nDRAM area", justify="right", no_wrap=True)
    table.add_column("gain per\nwatt", justify="right", no_wrap=True)
    table.add_column("gain per\nUSD", justify="right", no_wrap=True)
    for result in comparison.systems:
        if result.whole_requests is None:
            continue
        found = result.whole_requests.economy
        cost = found.cost_per_million_tokens_usd
        table.add_row(
            result.system,
            _short(found.node_energy_per_request_j, 3),
            "-" if cost is None else _short(cost, 3),
            *(
                "-" if gain is None else f"{gain:.2f}x"
                for gain in (found.gain_per_dram_area, found.gain_per_watt, found.gain_per_usd)
            ),
        )
    return table


def _verdict(comparison: Comparison) -> list[str]:
    """Return what AttAccs buy over whole requests, a sentence for each baseline.

    Where the best system does not stand for all, the sentence says what the others get.
    """
    by_baseline: dict[str | None, list[tuple[str, WholeRequests]]] = {}
    for result in comparison.gains:
        if result.whole_requests is not None:
            found = by_baseline.setdefault(result.whole_requests.baseline, [])
            found.append((result.system, result.whole_requests))
    lines: list[str] = []
    for baseline, found in by_baseline.items():
        name, best = found[0]
        line = f"{_word(best)}: {name} serves {_times(best)} the requests of {baseline}"
        if len(found) > 1:
            other, worst = found[-1]
            line += f", {other} {_times(worst)}"
        lines.append(f"{line}.{_from_which_length(best)}")
    return lines


def _from_which_length(whole: WholeRequests) -> str:
    """Return from which output length on AttAccs pay, as a sentence; empty where they do anyway."""
    found = whole.pays_from
    if found is None:
        return ""
    if whole.speedup is not None and whole.speedup >= PAYS:
        return ""
    if found.output_tokens is None:
        return (
            f" It does not pay up to {found.longest_tried:,} output tokens either "
            f"({found.speedup:.2f}x)."
        )
    return f" It pays from {found.output_tokens:,} output tokens on ({found.speedup:.2f}x)."


def _word(whole: WholeRequests) -> str:
    """Return whether a gain is clear."""
    gain = whole.speedup or 0.0
    low, high = whole.speedup_low or gain, whole.speedup_high or gain
    if low > 1 + CLEAR:
        return "It pays"
    if high < 1 - CLEAR:
        return "It does not pay"
    return "It may pay" if gain > 1 + CLEAR else "No clear gain"


def _times(whole: WholeRequests) -> str:
    """Return a speed-up with its range; a dash without one."""
    return _within(whole.speedup, whole.speedup_low, whole.speedup_high)


def _within(ratio: float | None, low: float | None, high: float | None) -> str:
    """Return a ratio with its range, where it has one; a dash without a ratio."""
    if ratio is None:
        return "-"
    if low is None or high is None or low == high:
        return f"{ratio:.2f}x"
    return f"{ratio:.2f}x ({low:.2f} to {high:.2f})"


def _whole(comparison: Comparison) -> Table:
    table = _table("Whole requests: prefill and decode in steady state, in the best layout")
    table.add_column("system", overflow="fold", min_width=12)
    table.add_column("layout", no_wrap=True)
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("requests\nper s", justify="right", no_wrap=True)
    table.add_column("tokens\nper s", justify="right", no_wrap=True)
    table.add_column("TTFT\nms", justify="right", no_wrap=True)
    table.add_column("TPOT\nms", justify="right", no_wrap=True)
    table.add_column("J per\nrequest", justify="right", no_wrap=True)
    table.add_column("speed-up", justify="right", no_wrap=True, style="bold")
    table.add_column("energy\nratio", justify="right", no_wrap=True, style="bold")
    for result in comparison.systems:
        whole = result.whole_requests
        if whole is None:
            table.add_row(result.system, *["-"] * 9)
            continue
        table.add_row(
            result.system,
            whole.layout.replace(",", "\n"),
            f"{whole.batch:,}",
            _short(whole.requests_per_s, 3),
            _short(whole.output_tokens_per_s),
            _short(whole.ttft_ms, 3),
            _short(whole.tpot_ms, 3),
            _short(whole.energy_per_request_j, 3),
            _times(whole).replace(" (", "\n("),
            _within(whole.energy_ratio, whole.energy_ratio_low, whole.energy_ratio_high).replace(
                " (", "\n("
            ),
        )
    return table


PREFILLS: Final = {
    PrefillPolicy.SERIAL: "one prompt at a time, while decode waits",
    PrefillPolicy.MIXED: "in the same steps as decode",
    PrefillPolicy.DISAGGREGATED: "on GPUs of its own",
}


def _whole_notes(comparison: Comparison) -> list[str]:
    """Return what the table of whole requests counts, and what its ranges depend on most."""
    served = [(r.system, r.whole_requests) for r in comparison.systems if r.whole_requests]
    notes: list[str] = []
    if served:
        notes.append(
            f"Prefill runs {PREFILLS[served[0][1].prefill]} (--prefill). Batch: requests that "
            "decode at a time, on all replicas. TTFT: without queueing. Speed-up: requests per "
            "second, from the 5th to the 95th percentile over what is not known exactly."
        )
    for system, whole in served:
        parts = [f"{system}: by {whole.engine}" if whole.engine else system]
        if whole.baseline != system and whole.speedup is not None:
            parts.append(f"against {whole.baseline}")
        if whole.depends_most_on is not None:
            parts.append(f"the range depends most on {whole.depends_most_on}")
        if whole.next_best is not None:
            other = whole.next_best
            parts.append(
                f"next best {other.layout} with {_short(other.output_tokens_per_s)} tokens/s"
            )
        notes.append("; ".join(parts) + ".")
    notes += [f"{r.system}: {r.whole_reason}" for r in comparison.systems if r.whole_reason]
    return notes


def _summary(comparison: Comparison) -> Table:
    table = _table("Decode alone, and prefill of one request alone, on all GPUs together")
    table.add_column("system", overflow="fold", min_width=12)
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("tokens\nper s", justify="right", no_wrap=True)
    table.add_column("ms per\ntoken", justify="right", no_wrap=True)
    table.add_column("prefill\nms", justify="right", no_wrap=True)
    table.add_column("J per\ntoken", justify="right", no_wrap=True)
    table.add_column("speed\nup", justify="right", no_wrap=True, style="bold")
    table.add_column("energy\nratio", justify="right", no_wrap=True, style="bold")
    for result in comparison.systems:
        if result.performance is None or result.batch is None:
            table.add_row(result.system, *["-"] * 7)
        else:
            batch = f"{result.batch.size:,}"
            table.add_row(result.system, batch, *_figures(result.performance))
    return table


def _limit(batch: BatchChoice) -> str:
    if batch.limit in (Limit.KV_CAPACITY, Limit.ACTIVATIONS):
        return f"{LIMITS[batch.limit]}, {batch.store}"
    return f"{LIMITS[batch.limit]} ({batch.largest_that_fits:,} fit)"


def _short_reason(result: SystemResult) -> str:
    return {
        Status.DOES_NOT_FIT: "does not fit",
        Status.DOES_NOT_SPLIT: "cannot split",
        Status.MISSES_SLO: "above target",
        Status.REFUSED: "not possible",
    }[result.status]


def _short(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, or with all digits before the point."""
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}"


def _figures(p: Performance) -> tuple[str, ...]:
    return (
        _short(p.throughput_tokens_per_s),
        _short(p.tpot_ms),
        _short(p.prefill_ms),
        f"{p.energy_per_token_j:#.3g}",
        "-" if p.speedup is None else f"{p.speedup:.2f}x",
        "-" if p.energy_ratio is None else f"{p.energy_ratio:.2f}x",
    )


def _breakdown(comparison: Comparison) -> Table:
    table = _table("Mean decode step: ms (share of the step), and what each part waits for")
    table.add_column("system", overflow="fold", min_width=12)
    for name in PARTS.values():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("hidden\nms", justify="right", no_wrap=True)
    for result in comparison.systems:
        if result.performance is not None:
            parts = result.performance.breakdown
            hidden = _short(result.performance.hidden_ms, 3)
            table.add_row(result.system, *map(_part, parts), hidden)
    return table


def _part(part: Part) -> str:
    # Two names take two lines: a wider column would leave no room for the others.
    bound = "\n" + part.bound.replace(" and ", " and\n") if part.bound else ""
    return f"{_short(part.time_ms, 3)} ({part.share:.0%}){bound}"


def _notes(comparison: Comparison) -> list[str]:
    if comparison.cost_model == GpuModel.CALIBRATED:
        model = "calibrated GPU model (--gpu-model published: as in the papers)"
        energy = "of GPUs, idle too, links and memory"
    else:
        model, energy = "published system model", "of data moved and of arithmetic"
    notes = [
        f"GPU times and energies are estimates of the {model}.",
        f"Tokens/s, ms and J per token: of decode alone. Energy: {energy}.",
        "Speed-up and energy ratio: tokens/s, and energy per decoded token, against the first row.",
        "Prefill: of one request alone. Batch: fits up to every request's last token.",
    ]
    if comparison.workload.length_kind is LengthKind.ESTIMATE:
        notes.append(
            "Decode steps are priced at representative lengths, and each memory suffices for mixed "
            "requests with 99.9 % probability: estimates."
        )
    if comparison.estimates:
        notes += ["Scaled or assumed, beyond what was measured:"]
        notes += [f"- {estimate}" for estimate in comparison.estimates]
    for result in comparison.systems:
        if result.reason is not None:
            notes.append(f"{result.system}: {result.reason}")
        if len(set(result.sites.values())) > 1:
            where = ", ".join(f"{kind} on {SITES[site]}" for kind, site in result.sites.items())
            notes.append(f"{result.system}: {where} (--site).")
        attacc = result.performance.attacc if result.performance is not None else None
        if attacc is None:
            continue
        if attacc.passes_per_kv_head > 1:
            notes.append(
                f"{result.system}: reads keys and values {attacc.passes_per_kv_head} times a step, "
                "for the query heads that share them."
            )
        if attacc.kind is CurveKind.INTERPOLATED:
            notes.append(
                f"{result.system}: attention is timed exactly at some lengths and interpolated "
                f"between them, its mean within {attacc.relative_error:.2%} (estimated)."
            )
    return notes
