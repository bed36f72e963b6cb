"""Tables of the command ``serve``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.report.values import count, plain_table, scaled, titled
from attacc.results import Listing
from attacc.serving.rates import FoundRate
from attacc.serving.records.lives import Life, LifeKind
from attacc.serving.results import Spread
from attacc.serving.serve import Service
from attacc.units import PS_PER_MS

HUNDRED = 100.0
STATISTICS = ("mean", "median", "p90", "p99")


def service_renderable(found: Service) -> RenderableType:
    """Return what users felt: a sentence, latencies, rates, and what the engine had."""
    told = found.latencies
    parts: list[RenderableType] = [
        Text.assemble(
            (found.system, "bold"),
            f" serves {told.completed:,} requests in {told.duration_s:,.1f} s: "
            f"{told.request_throughput:.3g} requests and {count(round(told.output_throughput))} "
            "tokens in a second.",
        )
    ]
    if found.partial:
        parts.append(
            Text(
                "The run was interrupted: all figures are those until then. "
                f"{found.unfinished:,} requests had not ended.",
                style="bold",
            )
        )
    if told.overloaded:
        parts.append(
            Text(
                "It is overloaded: requests come faster than they are served, so that latencies "
                "tell the length of the trace.",
                style="bold",
            )
        )
    if told.rejected:
        parts.append(Text(f"{told.rejected:,} requests can never run, and were rejected."))
    several = len(found.engines) > 1
    title = "All engines" if several else "Engine"
    parts += [titled("Latencies, ms", _latencies(found)), titled(title, _engine(found))]
    if several:
        parts.append(titled("Each engine", _engines(found)))
    if found.life is not None:
        parts.append(titled(f"Request {found.life.number}", _life(found.life)))
    if found.timeline is not None:
        parts.append(Text(f"\nThe timeline draws {found.timeline.words}."))
    notes = [f"steps are priced within {found.step_surrogate.bound:.2%}"]
    if found.step_surrogate.sampled_steps:
        notes.append(
            f"{found.step_surrogate.sampled_steps} of them exactly, too: off by at most "
            f"{found.step_surrogate.max_deviation:.2%}"
        )
    parts.append(Text("\n" + "; ".join(notes).capitalize() + ".", style="dim"))
    if found.estimates:
        parts.append(Text("Scaled or assumed, beyond what was measured:", style="dim"))
        parts += [Text(f"- {note}", style="dim") for note in found.estimates]
    return Group(*parts)


def rates_renderable(found: Listing[FoundRate]) -> RenderableType:
    """Return the highest rate of each system side by side."""
    table = plain_table()
    for name in (
        "system",
        "requests per s",
        "keep targets",
        "TTFT p99",
        "TPOT p99",
        "tokens per s",
    ):
        table.add_column(name, justify="left" if name == "system" else "right")
    for one in found:
        told = one.service.latencies
        table.add_row(
            one.system,
            f"{one.requests_per_s:.3g}{'*' if one.burst else ''}",
            f"{one.attainment:.1%}",
            _short(told.ttft_ms.p99),
            _short(told.tpot_ms.p99),
            count(round(told.output_throughput)),
        )
    note = (
        f"Highest rate at which {found[0].share:.0%} of the requests keep the targets; 2 % more "
        "miss them. The requests are those of the file, with their gaps made shorter or longer."
    )
    if any(one.burst for one in found):
        note += (
            " * The rate is that of a burst, and too high for requests that go on: the run is "
            "overloaded, or lasts less than three times as long as a request. Give more requests."
        )
    return Group(titled("Highest rates", table), Text("\n" + note, style="dim"))


def _latencies(found: Service) -> Table:
    table = plain_table()
    table.add_column("")
    for name in STATISTICS:
        table.add_column(name, justify="right")
    told = found.latencies
    for name, spread in (
        ("TTFT", told.ttft_ms),
        ("TPOT", told.tpot_ms),
        ("ITL", told.itl_ms),
        ("E2EL", told.e2el_ms),
    ):
        table.add_row(name, *_cells(spread, overloaded=told.overloaded))
    return table


def _cells(spread: Spread, *, overloaded: bool) -> list[str]:
    if overloaded:
        return ["overloaded"] * len(STATISTICS)
    return [_short(getattr(spread, name)) for name in STATISTICS]


def _short(value: float) -> str:
    """Return a time with three digits, and no exponent."""
    return f"{value:,.0f}" if value >= HUNDRED else f"{value:#.3g}"


def _life(life: Life) -> Table:
    """Return what happened to a request, with times from its arrival."""
    table = plain_table()
    for name in ("", "from, ms", "to, ms", "steps", "tokens"):
        table.add_column(name, justify="right" if name else "left")
    arrival = life.events[0].start_ps
    for event in life.events:
        begin, end = ((time - arrival) / PS_PER_MS for time in (event.start_ps, event.end_ps))
        steps = f"{event.first_step:,}"
        if event.last_step > event.first_step:
            steps += f" to {event.last_step:,}"
        name = str(event.kind)
        if event.kind is LifeKind.REJECTION and life.reason is not None:
            name += f" ({life.reason})"
        table.add_row(
            name,
            f"{begin:,.2f}",
            "" if event.end_ps == event.start_ps else f"{end:,.2f}",
            "" if event.first_step < 0 else steps,
            f"{event.tokens:,}" if event.tokens else "",
        )
    return table


def _engine(found: Service) -> Table:
    table = plain_table()
    table.add_column("")
    table.add_column("", justify="right")
    told = found.latencies
    rows = [
        ("policy", found.policy),
        ("layout", found.layout),
        ("blocks of memory", f"{found.kv_blocks:,} of {found.block_tokens} tokens"),
        ("steps", f"{found.steps:,}"),
        ("requests that run, mean", f"{found.mean_running:.3g}"),
        ("memory in use, mean", f"{found.kv_use:.1%}"),
        ("time with a step", f"{found.busy_share:.1%}"),
        ("preemptions", f"{told.preemptions:,}"),
        ("prompts found in the prefix cache", f"{told.prefix_hit_share:.1%}"),
    ]
    if found.imbalance is not None:
        rows.append(("fullest channel of AttAccs over the mean", f"{found.imbalance:.2f}"))
    if told.slo_attainment is not None and told.request_goodput is not None:
        rows += [
            ("requests that keep the targets", f"{told.slo_attainment:.1%}"),
            ("goodput, requests in a second", f"{told.request_goodput:.3g}"),
        ]
    if found.router is not None:
        rows.insert(1, ("router", found.router))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _engines(found: Service) -> Table:
    table = plain_table()
    for name in ("engine", "requests", "run, mean", "memory in use", "with a step", "energy"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    for one in found.engines:
        table.add_row(
            one.name,
            f"{one.requests:,}",
            f"{one.mean_running:.3g}",
            f"{one.kv_use:.1%}",
            f"{one.busy_share:.1%}",
            scaled(sum(one.energy_j.values()), "J"),
        )
    return table
