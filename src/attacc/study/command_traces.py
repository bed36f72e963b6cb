"""Command traces in text form: played on the controllers of a stack, written, and audited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from attacc.errors import DocumentError, InputError, member
from attacc.files import check_source, check_target
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType, kv_element
from attacc.pim.audit import legality
from attacc.pim.audit.legality import BrokenRule, Violation
from attacc.pim.log import read_log, write_log
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import MULTIPLY, Kind, Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.trace import parse_trace, read_trace, write_trace
from attacc.pim.program.traffic import Traffic, read_traffic
from attacc.pim.timing.engine import ServedTraffic, run
from attacc.pim.timing.tables import TimingTables, resolve_timing
from attacc.results import Listing, Progress, Result, flat, untold

if TYPE_CHECKING:
    import numpy.typing as npt


REFERENCE_DEVICE: Final = "hbm3-5.2-asplos24"
"""The device of the golden cycle counts and of AttAcc's evaluation, which use text traces."""


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests of a trace by kind, over all channels, under the names of the golden table.

    Attributes:
        mac: multiplies (MACAB, MACSB or MACPB).
        softmax: softmax (SFM).
        mvgb: moves of probabilities to the vector buffers (MVGB).
        mvsb: moves of scores and contexts to the softmax buffers (MVSB).
        wrgb: writes of queries into the vector buffers (WRGB).
        barrier: barriers.
    """

    mac: int
    softmax: int
    mvgb: int
    mvsb: int
    wrgb: int
    barrier: int

    @property
    def total(self) -> int:
        """Requests of all kinds: lines of the trace."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Waits:
    """How long loads, or stores, waited from their arrival until their RD or WR issued.

    Attributes:
        requests: number of requests, over all channels.
        mean_wait_ns: mean wait; a request of several channels waits for the last of them.
        p99_wait_ns: wait that 99 of 100 requests do not exceed.
    """

    requests: int
    mean_wait_ns: float
    p99_wait_ns: float


@dataclass(frozen=True, slots=True)
class TrafficRun:
    """Ordinary traffic played beside a trace.

    Attributes:
        file: file of the traffic.
        bytes: bytes that it moved.
        bytes_per_s: bytes over the time from the first arrival to the last RD or WR.
        reads: waits of reads; None if there were no reads.
        writes: waits of writes; None if there were no writes.
    """

    file: str
    bytes: int
    bytes_per_s: float
    reads: Waits | None
    writes: Waits | None


@dataclass(frozen=True, slots=True)
class TraceRun(Result):
    """One text trace played on a device.

    Attributes:
        file: file of the trace.
        device: the DRAM device's name.
        placement: placement of the multiplies in the trace.
        power_limited: whether the multiplies keep the cadence of the power budget.
        cycles: cycles of the command clock until the last command has issued.
        time_ns: the same duration in nanoseconds.
        requests: requests of the trace, by kind.
        commands: command -> how often the controllers issued it, over all channels.
        parse_s: wall time of reading the file, compilation excluded.
        simulate_s: wall time of playing it, compilation excluded.
        traffic: ordinary traffic beside it; None for none.
    """

    file: str
    device: str
    placement: Placement
    power_limited: bool
    cycles: int
    time_ns: float
    requests: RequestCounts
    commands: dict[str, int]
    parse_s: float
    simulate_s: float
    traffic: TrafficRun | None

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row: the figures of the trace."""
        return [flat(self.to_dict())]


@dataclass(frozen=True, slots=True)
class BuiltTrace(Result):
    """A text trace that was written.

    Attributes:
        file: file of the trace.
        device: the DRAM device's name.
        placement: where the units sit.
        schedule: order of the commands.
        heads: heads on the stack.
        length: keys of each head.
        head_dim: elements of a key.
        dtype: element type of the keys and values.
        requests: requests of the trace, by kind.
    """

    file: str
    device: str
    placement: Placement
    schedule: str
    heads: int
    length: int
    head_dim: int
    dtype: str
    requests: RequestCounts

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row: the figures of the trace."""
        return [flat(self.to_dict())]


@dataclass(frozen=True, slots=True)
class CheckedLog(Result):
    """A command log that was audited.

    Attributes:
        file: file of the log.
        device: the DRAM device's name.
        placement: placement whose commands were expected.
        power_limited: whether the power-limited cadence of multiplies was expected.
        legal: whether the log breaks no rule.
        commands: number of commands in the log.
        channels: channels that occur in the log.
        last_cycle: last cycle of the log.
        violations: the first `LISTED` violations of each rule, in the order of the log.
        total: number of violations, including those that are not listed.
        broken: how often each rule is broken.
    """

    file: str
    device: str
    placement: Placement
    power_limited: bool
    legal: bool
    commands: int
    channels: tuple[int, ...]
    last_cycle: int
    violations: tuple[Violation, ...]
    total: int
    broken: tuple[BrokenRule, ...]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each violation that is listed."""
        return [flat(asdict(violation)) for violation in self.violations]


@dataclass(frozen=True)
class _Trace:
    """A trace that was read.

    Attributes:
        file: file of the trace.
        program: its program.
        placement: placement of its multiplies.
        parse_s: wall time of reading and parsing the file.
    """

    file: Path
    program: Program
    placement: Placement
    parse_s: float


@dataclass(frozen=True)
class _Host:
    """Ordinary traffic that was read.

    Attributes:
        file: file of the traffic.
        traffic: its loads and stores.
    """

    file: Path
    traffic: Traffic


def play_traces(
    files: Sequence[str | Path],
    device: DramDevice | str | Path = REFERENCE_DEVICE,
    *,
    power_limited: bool = True,
    traffic: str | Path | None = None,
    log: str | Path | None = None,
    progress: Progress = untold,
) -> Listing[TraceRun]:
    """Play command traces on the controllers of one stack.

    The GEMV units sit where the multiplies of a trace need them. All traces are read before the
    first is played.

    Args:
        files: text traces, plain or compressed with gzip.
        device: the DRAM device: a preset's name, a path, or loaded already.
        power_limited: whether multiplies keep the cadence of the power budget.
        traffic: loads and stores of the host that run beside each trace; None for none.
        log: file that receives every command of the controllers, for a single trace; None for no
            log.
        progress: called with the name of every file before it is read and before it is played, and
            with the number of all these calls.

    Raises:
        DocumentError: a file cannot be read, or holds no requests.
        InputError: a trace does not suit the device, or several traces are to go into one log.
    """
    if log is not None and len(files) > 1:
        raise InputError(
            f"the commands of {len(files)} traces do not go into one log",
            where="log",
            hint="give one trace at a time",
        )
    inputs = [Path(file) for file in (*files, *([traffic] if traffic else ()))]
    if log is not None:
        check_target(Path(log), "log", inputs=inputs)
    for file in inputs:
        check_source(file)
    device = DRAMS.load_any(device, where="device")
    _compile(device)
    host = _read_host(Path(traffic), device) if traffic else None
    times = 2 * len(files)

    def told(paths: Iterable[str | Path]) -> Iterable[Path]:
        for path in map(Path, paths):
            progress(path.name, times)
            yield path

    traces = [_read(file, device) for file in told(files)]
    tables: dict[Placement, TimingTables] = {}
    runs: list[TraceRun] = []
    for trace in traces:
        progress(trace.file.name, times)
        if trace.placement not in tables:
            tables[trace.placement] = resolve_timing(
                device, trace.placement, power_limited=power_limited
            )
        found = _play(trace, host, device, tables[trace.placement], power_limited=power_limited)
        runs.append(found)
    if log is not None:
        beside = host.traffic if host else None
        timed = run(traces[0].program, tables[traces[0].placement], log=True, traffic=beside)
        write_log(Path(log), timed.log or ())
    return Listing(runs)


def build_trace(
    file: str | Path,
    *,
    heads: int,
    length: int,
    head_dim: int = 128,
    element: ElementType | str = ElementType.FP16,
    placement: Placement | str = Placement.BANK,
    device: DramDevice | str | Path = REFERENCE_DEVICE,
    schedule: Schedule | str = Schedule.COMPLETE,
) -> BuiltTrace:
    """Write the commands of the attention of one stack as a text trace.

    Args:
        file: the trace to write, compressed where its name ends in .gz.
        heads: heads on the stack.
        length: keys of each.
        head_dim: elements of a key.
        element: element type of keys and values.
        placement: where the units sit.
        device: the DRAM device.
        schedule: order of the commands.

    Raises:
        InputError: the heads do not fit, the schedule has no text form, or the file cannot be
            written.
    """
    file = Path(file)
    check_target(file, "file")
    element = kv_element(element, where="element")
    placement = member(Placement, placement, where="placement")
    device = DRAMS.load_any(device, where="device")
    schedule = member(Schedule, schedule, where="schedule")
    layout = HeadLayout(device.organization, placement, head_dim, element, length)
    program = attention_program(layout, heads, schedule)
    write_trace(program, file)
    return BuiltTrace(
        file=str(file),
        device=device.name,
        placement=placement,
        schedule=schedule,
        heads=heads,
        length=length,
        head_dim=head_dim,
        dtype=element,
        requests=_count(program),
    )


def check_log(
    file: str | Path,
    device: DramDevice | str | Path = REFERENCE_DEVICE,
    *,
    placement: Placement | str | None = None,
    power_limited: bool = True,
    queries_per_read: int = 1,
    element: ElementType | str = ElementType.FP16,
    temperature_c: float | None = None,
    postponed_refreshes: int = 0,
) -> CheckedLog:
    """Audit a command log against every rule of a device.

    Args:
        file: the log, plain or compressed with gzip.
        device: the DRAM device.
        placement: where the units sit; None to tell it from the log's commands.
        power_limited: whether multiplies have to keep the cadence of the power budget.
        queries_per_read: queries that a multiply serves, which decides its cadence.
        element: element type of the keys and values, which decides it, too.
        temperature_c: temperature of the stack, since a hot stack has to be refreshed more often;
            None for the usual rate.
        postponed_refreshes: number of refreshes that may be owed when the next one falls due.

    Raises:
        DocumentError: the file cannot be read.
        InputError: the commands belong to no placement or to several ones, or a command is unknown.
    """
    file = Path(file)
    device = DRAMS.load_any(device, where="device")
    check_source(file)
    if placement is not None:
        placement = member(Placement, placement, where="placement")
    log = read_log(file)
    report = legality.check(
        log,
        device,
        placement=_placement_of(log.names, device, file) if placement is None else placement,
        power_limited=power_limited,
        queries_per_read=queries_per_read,
        element_bits=kv_element(element, where="element").bits,
        temperature_c=temperature_c,
        postponed_refreshes=postponed_refreshes,
    )
    return CheckedLog(
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
            hint="say which placement is meant",
        )
    return present[0]


def _read(file: Path, device: DramDevice) -> _Trace:
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


def _read_host(file: Path, device: DramDevice) -> _Host:
    if device.rule_set.ordinary is None:
        raise InputError(
            f"{device.name} has no commands for ordinary reads and writes",
            where="traffic",
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
    tables: TimingTables,
    *,
    power_limited: bool,
) -> TraceRun:
    """Time a trace."""
    start = perf_counter()
    try:
        timed = run(trace.program, tables, traffic=host.traffic if host else None)
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
    # A request that arrives before the first cycle waits from the first cycle on.
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
    if not requests:
        return None
    return Waits(
        requests=requests,
        mean_wait_ns=float(cycles.mean()) * clock_ns,
        p99_wait_ns=float(np.percentile(cycles, 99, method="inverted_cdf")) * clock_ns,
    )


def _compile(device: DramDevice) -> None:
    """Compile the kernels first, so that no reported wall time includes compilation."""
    smallest = parse_trace(b"PIM_WR_GB 0x0\n", device.organization, where="")
    run(smallest, resolve_timing(device, Placement.BANK, power_limited=True))


def _count(program: Program) -> RequestCounts:
    counts = program.counts()
    return RequestCounts(
        mac=sum(counts.get(kind, 0) for kind in MULTIPLY.values()),
        softmax=counts.get(Kind.SFM, 0),
        mvgb=counts.get(Kind.MVGB, 0),
        mvsb=counts.get(Kind.MVSB, 0),
        wrgb=counts.get(Kind.WRGB, 0),
        barrier=counts.get(Kind.BARRIER, 0),
    )
