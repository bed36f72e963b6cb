"""Times a program on a device: when each command issues, and how many cycles it all takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.program.program import MULTIPLY, AddressLayout, Kind, Program
from attacc.timing.tables import Code, TimingTables

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

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
        command: its name, as in "MACAB".
        count: how often.
    """

    command: str
    count: int


@dataclass(frozen=True, slots=True)
class LoggedCommand:
    """One command as a controller issued it.

    Attributes:
        cycle: when, the first cycle being 1.
        command: its name.
        channel: where.
        pseudo_channel: where; -1, as the fields after it, for a command without such an address.
        rank: where.
        bank_group: where.
        bank: where.
        row: where.
        column: where.
        offset: byte within the column, by which the moves into a vector buffer tell its accesses
            apart; -1 where it is not known, as in logs of the reference.
    """

    cycle: int
    command: str
    channel: int
    pseudo_channel: int
    rank: int
    bank_group: int
    bank: int
    row: int
    column: int
    offset: int = -1


@dataclass(frozen=True)
class TimedRun:
    """A program played on a device.

    Attributes:
        cycles: of the command clock, until the last command has issued.
        time_ns: the same in nanoseconds.
        commands: how often each command issued, over all channels.
        log: every command, by cycle and channel, if it was asked for.
    """

    cycles: int
    time_ns: float
    commands: tuple[CommandCount, ...]
    log: tuple[LoggedCommand, ...] | None

    def count(self, command: str) -> int:
        """Return how often a command issued; 0 for one that never did."""
        return sum(entry.count for entry in self.commands if entry.command == command)


def run(program: Program, tables: TimingTables, *, log: bool = False) -> TimedRun:
    """Play a program on the controllers of one stack.

    Args:
        program: requests, of the placement that the tables were resolved for.
        tables: the device, resolved for a placement and a cadence.
        log: whether to return every command.

    Raises:
        InputError: the program was built for another organisation or placement, or holds
            ordinary reads and writes, which this engine does not time; or the device's timing
            never serves it.
    """
    _check(program, tables)
    totals = np.zeros(len(Code), dtype=np.int64)
    entries: list[I64] = []
    cycles = 0
    streams = _streams(program)
    for stream in streams:
        end, issued, logged = _play(stream, tables, log=log)
        cycles = max(cycles, end)
        totals += issued
        entries.append(logged)
    names = dict.fromkeys(tables.names, 0)
    for code in Code:
        names[tables.names[code]] += int(totals[code])
    return TimedRun(
        cycles=cycles,
        time_ns=cycles * tables.clock_ns,
        commands=tuple(CommandCount(name, count) for name, count in names.items()),
        log=_log(entries, streams, program, tables) if log else None,
    )


@dataclass(frozen=True, eq=False)
class _Stream:
    """Requests that enter one after the other, for some classes of identical channels.

    Attributes:
        keys: (n,) code, bank, row and awaited event of each step.
        first: (n,) first class that a step goes to.
        last: (n,) one past the last class.
        first_channel: of the first class.
        width: (classes,) channels of each class.
        steps: (n,) their places in the program.
        signals: see `Dependences`; likewise the following ones.
        delays: as there.
        producers: (events + 1,) of each channel of the stream.
    """

    keys: I64
    first: I32
    last: I32
    first_channel: int
    width: I64
    steps: I64
    signals: I32
    delays: I32
    producers: I32


def _streams(program: Program) -> list[_Stream]:
    """Split a program into what enters independently.

    Without dependences all channels share one entrance; with them every channel has its own, and
    channels that receive the same steps are one class.
    """
    first, last, width = _channel_classes(program)
    keys = _keys(program)
    everything = np.arange(len(program), dtype=np.int64)
    if program.dependences is None:
        nothing = np.zeros((len(program), 0), dtype=np.int32)
        none = np.zeros(1, dtype=np.int32)
        return [_Stream(keys, first, last, 0, width, everything, nothing, nothing, none)]
    starts = np.cumsum(width) - width
    streams: list[_Stream] = []
    for c in range(len(width)):
        steps = everything[(first <= c) & (c < last)]
        one = np.zeros(len(steps), dtype=np.int32)
        channel = int(starts[c])
        streams.append(
            _Stream(
                keys[steps],
                one,
                one + np.int32(1),
                channel,
                width[c : c + 1],
                steps,
                program.dependences.signals[steps],
                program.dependences.delays[steps],
                program.dependences.producers[channel],
            )
        )
    return streams


def _play(stream: _Stream, tables: TimingTables, *, log: bool) -> tuple[int, I64, I64]:
    """Return the cycles, the commands issued by code, and the log of one stream."""
    from attacc.timing import kernel  # loads Numba

    classes = len(stream.width)

    def play(log_entries: int) -> tuple[int, I64, int, I64]:
        entries = np.zeros((log_entries, 5), dtype=np.int64)
        issued = np.zeros((classes, len(Code)), dtype=np.int64)
        status, cycles, logged = kernel.run_controllers(
            stream.keys, stream.first, stream.last, classes, tables.gates, tables.raised,
            tables.latency, tables.slot, tables.slots, tables.row_slot, tables.row_slots,
            tables.pseudo_channels, tables.banks_per_pseudo_channel, tables.refresh_interval,
            tables.multiply_interval, int(tables.moves_yield), stream.signals, stream.delays,
            stream.producers, issued, entries,
        )  # fmt: skip
        if status != kernel.OK:
            raise InputError(
                f"after cycle {cycles} no request of the program is ever served",
                where=tables.device,
                hint="its timing lets rows close again before they are read (see nRAS and nRCD), "
                "or a step waits for what only a later one produces",
            )
        return int(cycles), issued, int(logged), entries  # NumPy's without compilation

    cycles, issued, logged, entries = play(0)
    if log:
        entries = play(logged)[3]
    return cycles, stream.width @ issued, entries


def _check(program: Program, tables: TimingTables) -> None:
    if program.organization != tables.organization:
        raise InputError(
            f"the program's addresses refer to another organisation than {tables.device}",
            hint="build or read the program with the device's own organisation",
        )
    counts = program.counts()
    for kind in (Kind.LD, Kind.ST):
        if kind in counts:
            raise InputError(
                f"the program holds {counts[kind]} {kind.name} requests",
                hint="only PIM requests are timed: remove the ordinary reads and writes",
            )
    for placement, kind in MULTIPLY.items():
        if kind in counts and placement != tables.placement:
            raise InputError(
                f"the program holds {kind.name} requests, which a stack with its units per "
                f"{tables.placement} does not have",
                hint="a program keeps to the multiplies of one placement",
            )


def _keys(program: Program) -> I64:
    """Pack code, bank and row of every step into the number that the kernel compares."""
    from attacc.timing import kernel

    layout = AddressLayout.of(program.organization)
    code_of = np.full(len(Kind), kernel.BARRIER, dtype=np.int64)
    for kind, code in _CODES.items():
        code_of[kind] = code
    code = code_of[program.kind]
    bank = program.address >> layout.bank
    row = (program.address >> layout.row) & (program.organization.rows - 1)
    is_multiply = code == Code.MULTIPLY
    key = code | bank << kernel.CODE_BITS | np.where(is_multiply, row, 0) << kernel.ROW_SHIFT
    if program.dependences is not None:
        key |= program.dependences.waits.astype(np.int64) << kernel.EVENT_SHIFT
    return np.where(code == kernel.BARRIER, kernel.BARRIER, key)


def _channel_classes(
    program: Program,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], I64]:
    """Group neighbouring channels that no step tells apart: they behave identically.

    Returns:
        First class and one past the last class of each step, and the channels of each class.
    """
    first = program.first_channel.astype(np.intp)
    end = first + program.channels
    starts_class = np.zeros(program.organization.channels + 1, dtype=np.bool_)
    starts_class[[0, -1]] = True
    starts_class[first] = True
    starts_class[end] = True
    class_of = (np.cumsum(starts_class) - 1).astype(np.int32)
    return class_of[first], class_of[end], np.diff(np.flatnonzero(starts_class))


def _log(
    entries: list[I64], streams: list[_Stream], program: Program, tables: TimingTables
) -> tuple[LoggedCommand, ...]:
    """Spell out the kernel's logs for every channel of every class."""
    from attacc.timing import kernel

    layout = AddressLayout.of(program.organization)
    names = dict(enumerate(tables.names)) | {kernel.BARRIER: Kind.BARRIER.name}
    o = program.organization
    log: list[LoggedCommand] = []
    for stream, logged in zip(streams, entries, strict=True):
        starts = stream.first_channel + np.cumsum(stream.width) - stream.width
        for cycle, code, channel_class, step, bank in logged.tolist():
            if step < 0:
                pseudo_channel = bank // tables.banks_per_pseudo_channel
                place = (pseudo_channel, -1, -1, -1, -1, -1, -1)
            else:
                address = int(program.address[stream.steps[step]])
                place = (
                    address >> layout.pseudo_channel,
                    (address >> layout.rank) & (o.ranks - 1),
                    (address >> layout.bank_group) & (o.bank_groups - 1),
                    (address >> layout.bank) & (o.banks - 1),
                    (address >> layout.row) & (o.rows - 1),
                    (address >> layout.column) & (o.columns - 1),
                    address & (o.access_bytes - 1),
                )
            start = int(starts[channel_class])
            log.extend(
                LoggedCommand(cycle, names[code], channel, *place)
                for channel in range(start, start + int(stream.width[channel_class]))
            )
    log.sort(key=lambda entry: (entry.cycle, entry.channel))
    return tuple(log)
