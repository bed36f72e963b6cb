"""``attacc trace``: command traces in text form, played on a device or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Final

import typer

from attacc.cli import options
from attacc.cli.options import (
    REFERENCE_DEVICE,
    Device,
    DType,
    HeadDim,
    Heads,
    Json,
    Length,
    PlacementName,
    PowerLimit,
    ScheduleName,
)
from attacc.cli.output import check_source, check_target, print_answer, progress
from attacc.errors import DocumentError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from attacc.hardware.dram import DramDevice
    from attacc.hardware.placement import Placement
    from attacc.pim.program.program import Program
    from attacc.pim.program.traffic import Traffic
    from attacc.pim.timing.engine import ServedTraffic
    from attacc.pim.timing.tables import TimingTables
    from attacc.report.trace import RequestCounts, TraceRun, TrafficRun, Waits

app = typer.Typer(help="Play, write and audit command traces in text form.")

ILLEGAL: Final = 3
"""Exit code of an audit that found a broken rule."""


@app.command()
def run(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Text traces, plain or compressed with gzip."),
    ],
    device: Device = REFERENCE_DEVICE,
    power_limit: PowerLimit = True,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write every command that the controllers issue, as lines of: cycle, command, "
            "channel, pseudo-channel, rank, bank group, bank, row, column. For one trace.",
        ),
    ] = None,
    traffic: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Loads and stores of the host that run beside each trace, as lines of LD or ST, "
            "address and, optionally, the cycle of arrival.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Play command traces on the controllers of one stack.

    The GEMV units sit where the multiplies of a trace need them. All traces are read before the
    first is played.
    """
    from attacc.report.trace import run_renderable

    inputs = [*files, traffic] if traffic else files
    if log is not None:
        if len(files) > 1:
            raise InputError(
                f"the commands of {len(files)} traces do not go into one log",
                where="--log",
                hint="give one trace at a time",
            )
        check_target(log, "--log", inputs=inputs)
    for file in inputs:
        check_source(file)
    dram = options.load_device(device)
    _compile(dram)
    host = _read_host(traffic, dram) if traffic else None
    traces = [
        _read(file, dram) for file in progress(files, total=len(files), doing="reading traces")
    ]
    tables: dict[Placement, TimingTables] = {}
    runs = [
        _play(trace, host, dram, tables, power_limited=power_limit)
        for trace in progress(traces, total=len(traces), doing="playing traces")
    ]
    if log is not None:
        _write_log(traces[0], host, tables[traces[0].placement], log)
    print_answer(runs, run_renderable, as_json=json)


@app.command()
def build(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The trace to write, compressed where its name ends in .gz."
        ),
    ],
    heads: Heads,
    length: Length,
    head_dim: HeadDim = 128,
    dtype: DType = "fp16",
    placement: PlacementName = "bank",
    device: Device = REFERENCE_DEVICE,
    schedule: ScheduleName = "complete",
    json: Json = False,
) -> None:
    """Write the commands of the attention of one stack as a text trace."""
    from attacc.hardware.placement import Placement
    from attacc.hardware.system import Schedule
    from attacc.pim.mapping.geometry import HeadLayout
    from attacc.pim.program.schedule import attention_program
    from attacc.pim.program.trace import write_trace
    from attacc.report.trace import BuiltTrace, built_renderable

    check_target(file, "FILE")
    dram = options.load_device(device)
    element = options.kv_element(dtype)
    units = options.choice(Placement, placement, "--placement")
    order = options.choice(Schedule, schedule, "--schedule")
    layout = HeadLayout(dram.organization, units, head_dim, element, length)
    program = attention_program(layout, heads, order)
    write_trace(program, file)
    built = BuiltTrace(
        file=str(file),
        device=dram.name,
        placement=units,
        schedule=order,
        heads=heads,
        length=length,
        head_dim=head_dim,
        dtype=element,
        requests=_count(program),
    )
    print_answer(built, built_renderable, as_json=json)


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(metavar="LOG", help="Command log, as trace run --log writes it; .gz too."),
    ],
    device: Device = REFERENCE_DEVICE,
    power_limit: PowerLimit = True,
    placement: Annotated[
        str | None,
        typer.Option(
            metavar="bank|bankgroup|buffer",
            help="Where the stack's GEMV units sit; as the log's commands tell by default.",
        ),
    ] = None,
    queries_per_read: Annotated[
        int,
        typer.Option(
            parser=options.size("--queries-per-read", most=1024),
            metavar="N",
            help="Queries that a multiply serves, which decides its cadence.",
        ),
    ] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            parser=options.number("--temperature"),
            metavar="C",
            help="Of the stack: a hot one has to be refreshed more often.",
        ),
    ] = None,
    postponed_refreshes: Annotated[
        int,
        typer.Option(
            parser=options.size("--postponed-refreshes", least=0),
            metavar="N",
            help="Refreshes that may be owed when the next one falls due.",
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Audit a command log against every rule of a device.

    Exits with 3 if the log breaks a rule.
    """
    from attacc.hardware.placement import Placement
    from attacc.pim.audit import legality
    from attacc.pim.log import read_log
    from attacc.report.legality import CheckedLog, checked_renderable

    dram = options.load_device(device)
    check_source(file)
    log = read_log(file)
    if placement is None:
        units = _placement_of(log.names, dram, file)
    else:
        units = options.choice(Placement, placement, "--placement")
    report = legality.check(
        log,
        dram,
        placement=units,
        power_limited=power_limit,
        queries_per_read=queries_per_read,
        temperature_c=temperature,
        postponed_refreshes=postponed_refreshes,
    )
    answer = CheckedLog(
        file=str(file),
        device=report.device,
        placement=report.placement,
        power_limited=report.power_limited,
        legal=report.legal,
        commands=report.commands,
        channels=report.channels,
        last_cycle=report.last_cycle,
        violations=report.violations,
        total=report.total,
        broken=report.broken,
    )
    print_answer(answer, checked_renderable, as_json=json)
    if not report.legal:
        raise typer.Exit(ILLEGAL)


def _placement_of(commands: frozenset[str], dram: DramDevice, file: Path) -> Placement:
    """Return the one placement whose activates and multiplies a log holds."""
    present = [
        placement
        for placement, family in dram.rule_set.families.items()
        if commands & {family.activate, family.multiply}
    ]
    if len(present) != 1:
        found = "several placements" if present else "no placement"
        raise InputError(
            f"its commands are those of {found}",
            where=str(file),
            hint="say which one is meant with --placement",
        )
    return present[0]


@dataclass(frozen=True)
class _Trace:
    """A trace that was read.

    Attributes:
        file: where from.
        program: what it holds.
        placement: that of its multiplies.
        parse_s: wall time of reading and parsing the file.
    """

    file: Path
    program: Program
    placement: Placement
    parse_s: float


def _read(file: Path, device: DramDevice) -> _Trace:
    from attacc.pim.program.trace import read_trace

    start = perf_counter()
    program = read_trace(file, device.organization)
    if not len(program):
        raise DocumentError(
            "holds no requests", where=str(file), hint="a line is as in PIM_MAC_AB 0x40000000"
        )
    parse_s = perf_counter() - start
    try:
        placement = program.placement()
    except InputError as error:
        raise InputError(error.message, where=str(file), hint=error.hint) from None
    return _Trace(file, program, placement, parse_s)


@dataclass(frozen=True)
class _Host:
    """Ordinary traffic that was read.

    Attributes:
        file: where from.
        traffic: what it holds.
    """

    file: Path
    traffic: Traffic


def _read_host(file: Path, device: DramDevice) -> _Host:
    from attacc.pim.program.traffic import read_traffic

    if device.rule_set.ordinary is None:
        raise InputError(
            f"{device.name} has no commands for ordinary reads and writes",
            where="--traffic",
            hint="use a device whose rule set has an [ordinary] table, as hbm3-5.2 does",
        )
    traffic = read_traffic(file, device.organization)
    if not len(traffic.requests):
        raise DocumentError(
            "holds no requests", where=str(file), hint="a line is as in LD 0x40000000 1200"
        )
    return _Host(file, traffic)


def _play(
    trace: _Trace,
    host: _Host | None,
    device: DramDevice,
    tables: dict[Placement, TimingTables],
    *,
    power_limited: bool,
) -> TraceRun:
    """Time a trace; resolves the device for its placement if no trace before has."""
    from attacc.pim.timing.engine import run
    from attacc.pim.timing.tables import resolve_timing
    from attacc.report.trace import TraceRun

    if trace.placement not in tables:
        tables[trace.placement] = resolve_timing(
            device, trace.placement, power_limited=power_limited
        )
    start = perf_counter()
    try:
        timed = run(trace.program, tables[trace.placement], traffic=host.traffic if host else None)
    except InputError as error:
        where = f"{trace.file}: {error.where}" if error.where else str(trace.file)
        raise InputError(error.message, where=where, hint=error.hint) from None
    return TraceRun(
        file=str(trace.file),
        device=device.name,
        placement=trace.placement,
        power_limited=power_limited,
        cycles=timed.cycles,
        time_ns=timed.time_ns,
        requests=_count(trace.program),
        commands={entry.command: entry.count for entry in timed.commands},
        parse_s=trace.parse_s,
        simulate_s=perf_counter() - start,
        traffic=_served(host, timed.traffic, device.clock_ns) if host and timed.traffic else None,
    )


def _served(host: _Host, served: ServedTraffic, clock_ns: float) -> TrafficRun:
    import numpy as np

    from attacc.pim.program.program import Kind
    from attacc.report.trace import TrafficRun

    # What arrives before the first cycle waits from then on.
    waits = served.served - np.maximum(host.traffic.arrival, 1)
    kinds = host.traffic.requests.kind
    return TrafficRun(
        file=str(host.file),
        bytes=served.bytes,
        bytes_per_s=served.bytes_per_s,
        reads=_waits(served.reads, waits[kinds == Kind.LD], clock_ns),
        writes=_waits(served.writes, waits[kinds == Kind.ST], clock_ns),
    )


def _waits(requests: int, cycles: npt.NDArray[np.int64], clock_ns: float) -> Waits | None:
    import numpy as np

    from attacc.report.trace import Waits

    if not requests:
        return None
    return Waits(
        requests=requests,
        mean_wait_ns=float(cycles.mean()) * clock_ns,
        p99_wait_ns=float(np.percentile(cycles, 99, method="inverted_cdf")) * clock_ns,
    )


def _compile(device: DramDevice) -> None:
    """Have the kernels compiled, so that no wall time that is told includes it."""
    from attacc.hardware.placement import Placement
    from attacc.pim.program.trace import parse_trace
    from attacc.pim.timing.engine import run
    from attacc.pim.timing.tables import resolve_timing

    smallest = parse_trace(b"PIM_WR_GB 0x0\n", device.organization, where="")
    run(smallest, resolve_timing(device, Placement.BANK, power_limited=True))


def _count(program: Program) -> RequestCounts:
    from attacc.pim.program.program import MULTIPLY, Kind
    from attacc.report.trace import RequestCounts

    counts = program.counts()
    return RequestCounts(
        mac=sum(counts.get(kind, 0) for kind in MULTIPLY.values()),
        softmax=counts.get(Kind.SFM, 0),
        mvgb=counts.get(Kind.MVGB, 0),
        mvsb=counts.get(Kind.MVSB, 0),
        wrgb=counts.get(Kind.WRGB, 0),
        barrier=counts.get(Kind.BARRIER, 0),
    )


def _write_log(trace: _Trace, host: _Host | None, tables: TimingTables, path: Path) -> None:
    """Write the command log of a trace: one command a line, by cycle and channel."""
    from attacc.pim.log import write_log
    from attacc.pim.timing.engine import run

    timed = run(trace.program, tables, log=True, traffic=host.traffic if host else None)
    write_log(path, timed.log or ())
