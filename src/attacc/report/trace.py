"""Tables of the commands ``trace run`` and ``trace build``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from attacc.report.values import (
    command_table,
    count,
    facts,
    plain_table,
    power_words,
    scaled,
    time,
    titled,
    units_at,
)
from attacc.study.command_traces import BuiltTrace, RequestCounts, TraceRun, TrafficRun

_MEANINGS: Final = {
    "wrgb": "write a part of the query into the vector buffers",
    "mac": "multiply a column of keys or values",
    "mvsb": "move scores to the softmax, or contexts out",
    "softmax": "softmax of one head",
    "mvgb": "move probabilities back to the vector buffers",
    "barrier": "later multiplies and moves wait for all before it",
}
"""The meaning of each kind of request, in the order in which a head needs the requests."""


def run_renderable(runs: Sequence[TraceRun]) -> RenderableType:
    """Return the details of one trace, or a table of several."""
    return _run_details(runs[0]) if len(runs) == 1 else _run_table(runs)


def built_renderable(built: BuiltTrace) -> RenderableType:
    """Return the contents of a written trace."""
    title = Text.assemble(
        ("Wrote ", "bold"),
        f"{built.file}\n",
        f"Attention of {count(built.heads)} heads with {count(built.length)} keys and values of "
        f"{built.head_dim} {built.dtype} elements each\n",
        f"on one stack of {built.device}, {units_at(built.placement)}, {built.schedule} schedule",
    )
    return Group(title, _request_table(built.requests))


def _run_details(run: TraceRun) -> RenderableType:
    return Group(
        Text.assemble((PurePath(run.file).name, "bold"), f" on {run.device},"),
        Text(f"{units_at(run.placement)}, {power_words(limited=run.power_limited)}\n"),
        facts(
            ("cycles", count(run.cycles), "of the command clock, to the last command"),
            ("time", time(run.time_ns), "that these cycles take"),
            ("read", scaled(run.parse_s, "s"), "wall time on this machine"),
            ("simulated", scaled(run.simulate_s, "s"), "wall time on this machine"),
        ),
        *([] if run.traffic is None else [_traffic_table(run.traffic)]),
        _request_table(run.requests),
        command_table(run.commands),
    )


def _traffic_table(traffic: TrafficRun) -> RenderableType:
    table = plain_table()
    table.add_column("traffic")
    for name in ("requests", "mean wait", "99 % wait"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, waits in (("reads", traffic.reads), ("writes", traffic.writes)):
        if waits is not None:
            table.add_row(
                name, count(waits.requests), time(waits.mean_wait_ns), time(waits.p99_wait_ns)
            )
    return titled(
        f"{PurePath(traffic.file).name} beside it: {scaled(traffic.bytes, 'B')} at "
        f"{scaled(traffic.bytes_per_s, 'B/s')}",
        table,
    )


def _request_table(requests: RequestCounts) -> RenderableType:
    table = plain_table()
    table.add_column("request")
    table.add_column("count", justify="right")
    table.add_column("what it asks for", style="dim")
    for name, meaning in _MEANINGS.items():
        table.add_row(name, count(getattr(requests, name)), meaning)
    table.add_section()
    table.add_row("all", count(requests.total), "lines of the trace")
    return titled("Requests in the trace, over all channels", table)


def _run_table(runs: Sequence[TraceRun]) -> RenderableType:
    table = plain_table()
    table.add_column("trace", overflow="fold")
    table.add_column("units", no_wrap=True)
    for name in ("cycles", "time", "requests", "read", "simulated"):
        table.add_column(name, justify="right", no_wrap=True)
    if runs[0].traffic is not None:
        table.add_column("traffic", justify="right", no_wrap=True)
    for run in runs:
        traffic = [] if run.traffic is None else [scaled(run.traffic.bytes_per_s, "B/s")]
        table.add_row(
            Text(PurePath(run.file).name.removesuffix(".gz").removesuffix(".trace")),
            run.placement,
            count(run.cycles),
            time(run.time_ns),
            count(run.requests.total),
            scaled(run.parse_s, "s"),
            scaled(run.simulate_s, "s"),
            *traffic,
        )
    table.add_section()
    table.add_row(
        "all",
        "",
        count(sum(run.cycles for run in runs)),
        time(sum(run.time_ns for run in runs)),
        count(sum(run.requests.total for run in runs)),
        scaled(sum(run.parse_s for run in runs), "s"),
        scaled(sum(run.simulate_s for run in runs), "s"),
    )
    power = power_words(limited=runs[0].power_limited)
    return Group(
        Text.assemble((f"{len(runs)} traces", "bold"), f" on {runs[0].device}, {power}\n"),
        table,
        "",
        "units: one GEMV unit per bank, bank group (bankgroup) or pseudo-channel (buffer)",
        "cycles, time: of the stack; read, simulated: wall time on this machine",
    )
