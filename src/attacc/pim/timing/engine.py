"""Times a program on a device: when each command issues, and how many cycles it all takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import Organization
from attacc.pim.log import LoggedCommand
from attacc.pim.program.program import MULTIPLY, AddressLayout, Kind, Program
from attacc.pim.program.traffic import Traffic, TrafficPolicy
from attacc.pim.timing.controllers import ControllerState, Desk, Room, Stream
from attacc.pim.timing.tables import ORDINARY_CODES, Code, TimingTables
from attacc.units import NS_PER_S

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

MAINTENANCE: Final = -1
"""Step of a command that no request asked for, in the kernel's log."""
REQUESTS: Final = -2
"""Step of the first request of the traffic, counted downwards."""

_CODES: Final = {
    Kind.WRGB: Code.WRGB,
    Kind.MVSB: Code.MVSB,
    Kind.MVGB: Code.MVGB,
    Kind.SFM: Code.SFM,
    Kind.MACAB: Code.MULTIPLY,
    Kind.MACSB: Code.MULTIPLY,
    Kind.MACPB: Code.MULTIPLY,
}


@dataclass(frozen=True, slots=True)
class CommandCount:
    """How often a command issued, over all channels.

    Attributes:
        command: name of the command, as in "MACAB".
        count: number of times that it issued.
    """

    command: str
    count: int


@dataclass(frozen=True, eq=False)
class ServedTraffic:
    """When ordinary traffic was served, and at which bandwidth.

    Attributes:
        reads: number of reads, over all channels.
        writes: number of writes, over all channels.
        bytes: bytes that reads and writes moved.
        served: (n,) cycle in which the last RD or WR of each request issued.
        bytes_per_s: bytes over the time from the first arrival to the last RD or WR.
    """

    reads: int
    writes: int
    bytes: int
    served: I64
    bytes_per_s: float


@dataclass(frozen=True)
class TimedRun:
    """A program played on a device.

    Attributes:
        cycles: cycles of the command clock until the last command has issued.
        time_ns: the same duration in nanoseconds.
        commands: how often each command issued, over all channels.
        log: every command, by cycle and channel, if a log was wanted.
        windows: (windows, codes) how often each `attacc.pim.timing.tables.Code` issued over all
            channels in each window of cycles, if windows were wanted.
        traffic: when ordinary traffic was served, if there was any.
        last: command -> the cycle in which it issued last, if these were wanted.
    """

    cycles: int
    time_ns: float
    commands: tuple[CommandCount, ...]
    log: tuple[LoggedCommand, ...] | None = None
    windows: I64 | None = None
    traffic: ServedTraffic | None = None
    last: Mapping[str, int] | None = None

    def count(self, command: str) -> int:
        """Return how often a command issued; 0 for one that never did."""
        return self._counts.get(command, 0)

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for entry in self.commands:
            counts[entry.command] = counts.get(entry.command, 0) + entry.count
        return counts


def run(
    program: Program,
    tables: TimingTables,
    *,
    log: bool = False,
    last: bool = False,
    window_cycles: int = 0,
    traffic: Traffic | None = None,
    policy: TrafficPolicy | None = None,
) -> TimedRun:
    """Play a program on the controllers of one stack.

    A channel that has ended is refreshed until the last channel ends. A channel that receives no
    requests issues no commands.

    Args:
        program: requests, of the placement that the tables were resolved for.
        tables: the device, resolved for a placement and a cadence.
        log: whether to return every command.
        last: whether to return when each command issued last.
        window_cycles: length of the windows in which to count commands; 0 for none.
        traffic: ordinary reads and writes beside the program.
        policy: how ordinary traffic is served; the default policy if not given.

    Raises:
        InputError: the program was built for another organisation or placement, or holds
            ordinary reads and writes, which belong into the traffic; the device serves no traffic;
            or with its timing a request is never served.
    """
    check_program(program, tables)
    if window_cycles < 0:
        raise InputError(f"window_cycles = {window_cycles} must not be negative")
    starts = class_starts(program)
    if traffic is not None:
        _check_traffic(traffic, tables)
        starts = np.union1d(starts, class_starts(traffic.requests))
    streams = _streams(program, starts, idle=traffic is not None)
    desks = rooms = None
    if traffic is not None:
        desks = _desks(traffic, policy or TrafficPolicy(), streams, starts, tables)
    logged = log or last
    if logged or window_cycles:
        rooms = [Room.begun(stream, log=logged, window_cycles=window_cycles) for stream in streams]
    beside = [
        (None if rooms is None else rooms[i], None if desks is None else desks[i])
        for i in range(len(streams))
    ]
    if desks is None and rooms is None:
        states = _play(streams, tables)
    else:
        states = [ControllerState.at_start(stream, tables) for stream in streams]
        for state, stream, (room, desk) in zip(states, streams, beside, strict=True):
            state.play(stream, tables, room=room, desk=desk)
    cycles = max((state.cycle for state in states), default=0)
    for state, stream, (room, desk) in zip(states, streams, beside, strict=True):
        if state.cycle < cycles and state.issued_by_all.any():
            state.play(stream, tables, until=cycles, room=room, desk=desk)
    issued = sum((state.issued_by_all for state in states), np.zeros(len(Code), dtype=np.int64))
    entries: tuple[LoggedCommand, ...] | None = None
    windows: I64 | None = None
    ends: Mapping[str, int] | None = None
    if rooms is not None and logged:
        logs = [room.log[: state.logged] for room, state in zip(rooms, states, strict=True)]
        if log:
            entries = _log(logs, streams, desks, program, traffic, tables)
        if last:
            ends = _last(logs, tables)
    if rooms is not None and window_cycles:
        windows = np.zeros((-(-cycles // window_cycles), len(Code)), dtype=np.int64)
        for room in rooms:
            some = room.windows[: len(windows)]
            windows[: len(some)] += some
    return TimedRun(
        cycles=cycles,
        time_ns=cycles * tables.clock_ns,
        commands=count_by_name(issued, tables),
        log=entries,
        windows=windows,
        traffic=None if traffic is None or desks is None else _served(traffic, desks, tables),
        last=ends,
    )


def count_by_name(issued: I64, tables: TimingTables) -> tuple[CommandCount, ...]:
    """Return how often each command issued, from counts by `attacc.pim.timing.tables.Code`.

    The commands of ordinary traffic are listed where there was any.
    """
    names: dict[str, int] = {}
    for code, (name, count) in enumerate(zip(tables.names, issued.tolist(), strict=True)):
        if count or code not in ORDINARY_CODES:
            names[name] = names.get(name, 0) + count
    return tuple(CommandCount(name, count) for name, count in names.items())


def _streams(program: Program, starts: I64, *, idle: bool) -> list[Stream]:
    """Split a program into streams that enter the channels independently.

    Without dependences all channels share one stream. With dependences every channel has its own
    stream, and channels that receive the same steps are one class.

    Args:
        program: the program.
        starts: first channels of the classes.
        idle: whether to return empty streams for classes that receive no steps.
    """
    end = program.organization.channels
    class_of = np.full(end + 1, len(starts), dtype=np.int32)
    class_of[starts] = np.arange(len(starts), dtype=np.int32)
    width = np.append(starts[1:], end) - starts
    steps = np.arange(len(program), dtype=np.int64)
    if program.dependences is None:
        begin = program.first_channel.astype(np.intp)
        first, last = class_of[begin], class_of[begin + program.channels]
        return [pack(program, steps, first, last, 0, width)]
    bounds = program.runs
    runs = bounds[:-1]
    begin = program.first_channel[runs].astype(np.intp)
    first = class_of[begin].tolist()
    last = class_of[begin + program.channels[runs]].tolist()
    ends = bounds.tolist()
    streams: list[Stream] = []
    for c in range(len(width)):
        own = [
            steps[ends[run] : ends[run + 1]]
            for run in range(len(first))
            if first[run] <= c < last[run]
        ]
        if own or idle:
            chosen = own[0] if len(own) == 1 else np.concatenate([steps[:0], *own])
            one = np.zeros(len(chosen), dtype=np.int32)
            streams.append(pack(program, chosen, one, one + 1, int(starts[c]), width[c : c + 1]))
    return streams


def pack(
    program: Program,
    steps: I64,
    first: I32,
    last: I32,
    first_channel: int,
    width: I64,
) -> Stream:
    """Pack some steps of a program as the kernel compares them."""
    from attacc.pim.timing import kernel  # loads Numba

    layout = AddressLayout.of(program.organization)
    # Where steps are neighbours, a slice avoids a copy.
    chosen: slice | I64 = steps
    if len(steps) and steps[-1] - steps[0] + 1 == len(steps):
        chosen = slice(int(steps[0]), int(steps[-1]) + 1)
    n = len(steps)
    if program.dependences is None:
        waits = np.zeros(0, dtype=np.int32)
        signals = delays = np.zeros((n, 0), dtype=np.int32)
        events = 0
    else:
        waits = program.dependences.waits[chosen]
        signals = program.dependences.signals[chosen]
        delays = program.dependences.delays[chosen]
        events = program.dependences.events
    keys = np.empty(n, dtype=np.int64)
    producers = np.zeros(events + 1, dtype=np.int32)
    kernel.pack_stream(
        program.kind[chosen], program.address[chosen], waits, signals, _code_of(), layout.bank,
        layout.row, program.organization.rows - 1, keys, producers,
    )  # fmt: skip
    return Stream(keys, first, last, first_channel, width, steps, signals, delays, producers)


@cache
def _code_of() -> I64:
    """Return the code of each kind of request."""
    from attacc.pim.timing import controller_kernel

    codes = np.full(len(Kind), controller_kernel.BARRIER, dtype=np.int64)
    for kind, code in _CODES.items():
        codes[kind] = code
    return codes


def _play(streams: Sequence[Stream], tables: TimingTables) -> list[ControllerState]:
    """Play streams to their ends; their common beginning is simulated once."""
    from attacc.pim.timing import kernel

    if len(streams) < 2:
        states = [ControllerState.at_start(stream, tables) for stream in streams]
    else:
        start, *others = streams
        shared = min(
            kernel.common_prefix(
                start.keys, other.keys, start.signals, other.signals, start.delays, other.delays,
                start.producers, other.producers,
            )
            for other in others
        )  # fmt: skip
        state = ControllerState.at_start(start, tables)
        state.play(start, tables, end=shared, more=True)
        states = [state, *(state.handed_over(start, stream) for stream in others)]
    for state, stream in zip(states, streams, strict=True):
        state.play(stream, tables)
    return states


def check_program(program: Program, tables: TimingTables) -> None:
    """Refuse a program that does not belong to the resolved device.

    Raises:
        InputError: the program was built for another organisation or placement, or holds requests
            that are not timed.
    """
    o = program.organization
    if o is not tables.organization and o != tables.organization:
        raise InputError(
            f"the program's addresses refer to another organisation than {tables.device}",
            hint="build or read the program with the device's own organisation",
        )
    for kind in (Kind.LD, Kind.ST):
        if kind in program.kinds:
            raise InputError(
                f"the program holds {program.count(kind)} {kind.name} requests",
                hint="ordinary reads and writes go into the traffic beside a program",
            )
    for placement, kind in MULTIPLY.items():
        if kind in program.kinds and placement != tables.placement:
            raise InputError(
                f"the program holds {kind.name} requests, which a stack with its units per "
                f"{tables.placement} does not have",
                hint="a program keeps to the multiplies of one placement",
            )


def class_starts(program: Program) -> I64:
    """Return the first channels of runs of channels that no step tells apart.

    Such channels behave identically.
    """
    runs = program.runs[:-1]
    first = program.first_channel[runs].astype(np.intp)
    starts_class = np.zeros(program.organization.channels + 1, dtype=np.bool_)
    starts_class[0] = True
    starts_class[first] = True
    starts_class[first + program.channels[runs]] = True
    return np.flatnonzero(starts_class[:-1])


def _check_traffic(traffic: Traffic, tables: TimingTables) -> None:
    if traffic.requests.organization != tables.organization:
        raise InputError(
            f"the traffic's addresses refer to another organisation than {tables.device}",
            hint="build or read the traffic with the device's own organisation",
        )
    if not tables.serves_traffic:
        raise InputError(
            "the rules of the device have no commands for ordinary reads and writes",
            where=tables.device,
            hint="use a device whose rule set has an [ordinary] table, as hbm3-5.2 does",
        )


def _desks(
    traffic: Traffic,
    policy: TrafficPolicy,
    streams: Sequence[Stream],
    starts: I64,
    tables: TimingTables,
) -> list[Desk]:
    """Deal traffic out to the classes of every stream."""
    from attacc.pim.timing import controller_kernel

    requests = traffic.requests
    layout = AddressLayout.of(requests.organization)
    row = (requests.address >> layout.row) & (requests.organization.rows - 1)
    keys = (
        np.where(requests.kind == Kind.LD, int(Code.READ), int(Code.WRITE))
        | (requests.address >> layout.bank) << controller_kernel.CODE_BITS
        | row << controller_kernel.ROW_SHIFT
    )
    numbers = np.array(
        [policy.queue, policy.write_high, policy.write_low, policy.patience, policy.turn],
        dtype=np.int64,
    )
    first = requests.first_channel.astype(np.int64)
    end = first + requests.channels
    desks: list[Desk] = []
    for stream in streams:
        begin = int(np.searchsorted(starts, stream.first_channel))
        channels = starts[begin : begin + len(stream.width)].tolist()
        lists = [np.flatnonzero((first <= channel) & (channel < end)) for channel in channels]
        desks.append(Desk.at_start(lists, keys, traffic.arrival, numbers, tables))
    return desks


def _served(traffic: Traffic, desks: Sequence[Desk], tables: TimingTables) -> ServedTraffic:
    """Return when each request was served by the last of its channels."""
    served = np.zeros(len(traffic.requests), dtype=np.int64)
    for desk in desks:
        np.maximum.at(served, desk.request, desk.served)
    counts = traffic.requests.counts()
    reads, writes = counts.get(Kind.LD, 0), counts.get(Kind.ST, 0)
    moved = (reads + writes) * tables.organization.access_bytes
    took = 0
    if len(served):
        took = int(served.max() - traffic.arrival.min()) + 1
    return ServedTraffic(
        reads=reads,
        writes=writes,
        bytes=moved,
        served=served,
        bytes_per_s=moved / (took * tables.clock_ns) * NS_PER_S if took else 0.0,
    )


def _last(entries: list[I64], tables: TimingTables) -> dict[str, int]:
    """Return when each command issued last, from the kernel's logs."""
    found: dict[str, int] = {}
    for logged in entries:
        cycles, codes = logged[:, 0], logged[:, 1]
        for code, name in enumerate(tables.names):
            own = cycles[codes == code]
            if own.size:
                found[name] = max(int(own.max()), found.get(name, 0))
    return found


def _log(
    entries: list[I64],
    streams: list[Stream],
    desks: list[Desk] | None,
    program: Program,
    traffic: Traffic | None,
    tables: TimingTables,
) -> tuple[LoggedCommand, ...]:
    """Spell out the kernel's logs for every channel of every class."""
    from attacc.pim.timing import controller_kernel

    layout = AddressLayout.of(program.organization)
    names = dict(enumerate(tables.names)) | {controller_kernel.BARRIER: Kind.BARRIER.name}
    log: list[LoggedCommand] = []
    for i, (stream, logged) in enumerate(zip(streams, entries, strict=True)):
        starts = stream.first_channel + np.cumsum(stream.width) - stream.width
        for cycle, code, channel_class, step, bank in logged.tolist():
            if step >= 0:
                place = _place(int(program.address[stream.steps[step]]), program.organization)
            elif step < MAINTENANCE and traffic is not None and desks is not None:
                request = desks[i].request[REQUESTS - step]
                place = _place(int(traffic.requests.address[request]), program.organization)
            elif tables.refresh_per_bank and code != Code.PRECHARGE_ALL:
                place = (*_place(bank << layout.bank, program.organization)[:4], -1, -1, -1)
            else:
                place = (bank // tables.banks_per_pseudo_channel, -1, -1, -1, -1, -1, -1)
            start = int(starts[channel_class])
            log.extend(
                LoggedCommand(cycle, names[code], channel, *place)
                for channel in range(start, start + int(stream.width[channel_class]))
            )
    log.sort(key=lambda entry: (entry.cycle, entry.channel))
    return tuple(log)


def _place(address: int, organization: Organization) -> tuple[int, int, int, int, int, int, int]:
    """Return pseudo-channel, rank, bank group, bank, row, column and offset of an address."""
    o = organization
    layout = AddressLayout.of(o)
    return (
        address >> layout.pseudo_channel,
        (address >> layout.rank) & (o.ranks - 1),
        (address >> layout.bank_group) & (o.bank_groups - 1),
        (address >> layout.bank) & (o.banks - 1),
        (address >> layout.row) & (o.rows - 1),
        (address >> layout.column) & (o.columns - 1),
        address & (o.access_bytes - 1),
    )
