"""State of the controllers of one stack between two pieces of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attacc.compiled import plain
from attacc.errors import InputError
from attacc.pim.timing.tables import Code, TimingTables

if TYPE_CHECKING:
    from attacc.pim.timing.controller_kernel import State

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """Requests that enter one after the other, for some classes of identical channels.

    Attributes:
        keys: (n,) code, bank, row and awaited event of each step.
        first: (n,) first class that a step goes to.
        last: (n,) one past the last class.
        first_channel: first channel of the first class.
        width: (classes,) number of channels of each class.
        steps: (n,) places of the steps in the program.
        signals: (n, k) events that each step signals, see `Dependences`.
        delays: (n, k) cycles until each signal takes effect, see `Dependences`.
        producers: (events + 1,) number of steps that signal each event, in each channel.
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

    @property
    def events(self) -> int:
        """Number of events, counting the event 0 that stands for none."""
        return len(self.producers)


@dataclass(eq=False)
class Room:
    """Arrays in which the kernel writes the log and the windows; they grow as they fill up.

    Attributes:
        log: (k, 5) cycle, code, class, step and bank of the first k commands; (0, 5) if no log is
            wanted.
        windows: (windows, codes) commands of all channels in each window of time.
        window_cycles: length of a window, 0 for no windows.
    """

    log: I64
    windows: I64
    window_cycles: int

    @classmethod
    def begun(cls, stream: Stream, *, log: bool, window_cycles: int) -> Room:
        """Return room for the commands that a stream will probably issue.

        Args:
            stream: the requests.
            log: whether every command is kept.
            window_cycles: length of the windows in which commands are counted, or 0.
        """
        entries = 0
        if log:
            # A command for every step and class, and half as many for rows and refresh.
            steps = int((stream.last - stream.first).sum(dtype=np.int64))
            entries = steps * 3 // 2 + 64 * len(stream.width)
        return cls(
            np.zeros((entries, 5), dtype=np.int64),
            np.zeros((64 if window_cycles else 0, len(Code)), dtype=np.int64),
            window_cycles,
        )

    def ends(self, classes: int, refresh_interval: int) -> tuple[int, int]:
        """Return the log entry and the cycle after which there may be too little room."""
        from attacc.pim.timing.controller_kernel import MOST_AT_ONCE, NEVER

        log_end = len(self.log) - MOST_AT_ONCE * classes if len(self.log) else NEVER
        # Controllers wake up at least once in every interval between refreshes.
        cycles = len(self.windows) * self.window_cycles - refresh_interval - 1
        return log_end, cycles if self.window_cycles else NEVER

    def grow(self) -> None:
        """Double the room, and keep the entries."""
        self.log = np.concatenate([self.log, np.zeros_like(self.log)])
        self.windows = np.concatenate([self.windows, np.zeros_like(self.windows)])


@dataclass(frozen=True, eq=False)
class Desk:
    """Ordinary traffic of some classes of channels, with the state of its queues.

    The arrays are those of `attacc.pim.timing.traffic_kernel.ordinary_cycle`. In addition,
    ``request`` is an array (requests,) with the number of each request in the whole traffic.
    """

    arriving: I64
    arrival: I64
    arrivals_end: I64
    policy: I64
    desk: I64
    queued: I64
    counts: I64
    writing: I64
    bank_rows: I64
    served: I64
    request: I64

    @classmethod
    def at_start(
        cls, lists: Sequence[I64], keys: I64, arrival: I64, policy: I64, tables: TimingTables
    ) -> Desk:
        """Return the state before anything has arrived.

        Args:
            lists: for each class, the numbers of its requests, in order.
            keys: (n,) keys of all requests.
            arrival: (n,) cycle in which each request arrives.
            policy: (columns,) see `attacc.pim.timing.traffic_kernel`.
            tables: the device.
        """
        from attacc.pim.timing import traffic_kernel  # loads Numba

        sizes = np.array([len(one) for one in lists], dtype=np.int64)
        ends = np.cumsum(sizes)
        request = np.concatenate([np.zeros(0, dtype=np.int64), *lists])
        classes = len(lists)
        banks = tables.organization.banks_per_channel
        pseudo_channels = tables.organization.pseudo_channels
        entries = int(policy[traffic_kernel.QUEUE_ENTRIES])
        desk = np.zeros((classes, traffic_kernel.DESK_COLUMNS), dtype=np.int64)
        desk[:, traffic_kernel.NEXT_ARRIVAL] = ends - sizes
        return cls(
            arriving=keys[request],
            arrival=arrival[request],
            arrivals_end=ends,
            policy=policy,
            desk=desk,
            queued=np.zeros(
                (classes, 2 * pseudo_channels, entries, traffic_kernel.QUEUED_COLUMNS),
                dtype=np.int64,
            ),
            counts=np.zeros((classes, 2 * pseudo_channels), dtype=np.int64),
            writing=np.zeros((classes, pseudo_channels), dtype=np.int64),
            bank_rows=np.full((classes, banks), -1, dtype=np.int64),
            served=np.zeros(len(request), dtype=np.int64),
            request=request,
        )


@cache
def no_traffic() -> Desk:
    """Return the state of no traffic at all; the kernel does not look at it."""
    none = np.zeros(0, dtype=np.int64)
    nothing, no_queues = np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0, 0, 0), dtype=np.int64)
    return Desk(
        arriving=none,
        arrival=none,
        arrivals_end=none,
        policy=none,
        desk=nothing,
        queued=no_queues,
        counts=nothing,
        writing=nothing,
        bank_rows=nothing,
        served=none,
        request=none,
    )


@dataclass(frozen=True, eq=False)
class ControllerState:
    """The whole state of the controllers, from which they can continue with further requests.

    The arrays are those of `attacc.pim.timing.kernel.run_controllers`, which changes them.
    """

    width: I64
    clock: I64
    lanes: I64
    items: I64
    entries: I64
    times: I64
    recent: I64
    open_rows: I64
    hits: I32
    awaited: I32
    happened: I64
    issued: I64

    @classmethod
    def at_start(cls, stream: Stream, tables: TimingTables) -> ControllerState:
        """Return the state before anything has entered."""
        from attacc.pim.timing import controller_kernel  # loads Numba

        classes = len(stream.width)
        clock = np.zeros(controller_kernel.CLOCK_COLUMNS, dtype=np.int64)
        clock[controller_kernel.NEXT_REFRESH] = tables.refresh_interval
        clock[controller_kernel.ENTERING] = -1
        lanes = np.zeros((classes, controller_kernel.LANE_COLUMNS), dtype=np.int64)
        lanes[:, controller_kernel.WAKE] = 1
        lanes[:, controller_kernel.RUNNING] = -1
        entries = np.zeros(
            (classes, controller_kernel.QUEUE, controller_kernel.ENTRY_COLUMNS), dtype=np.int64
        )
        entries[:, :, controller_kernel.LINK] = np.arange(1, controller_kernel.QUEUE + 1)
        slots = tables.slots
        return cls(
            width=stream.width,
            clock=clock,
            lanes=lanes,
            items=np.zeros(
                (classes, controller_kernel.QUEUE, controller_kernel.ITEM_COLUMNS), dtype=np.int64
            ),
            entries=entries,
            times=np.zeros((classes, slots), dtype=np.int64),
            recent=np.zeros(
                (classes, slots if tables.widest_window > 1 else 0, tables.widest_window),
                dtype=np.int64,
            ),
            open_rows=np.full((classes, tables.row_slots), -1, dtype=np.int64),
            hits=np.zeros((classes, tables.banks_per_pseudo_channel), dtype=np.int32),
            awaited=np.broadcast_to(stream.producers, (classes, stream.events)).copy(),
            happened=np.zeros((classes, stream.events), dtype=np.int64),
            issued=np.zeros((classes, len(Code)), dtype=np.int64),
        )

    @property
    def cycle(self) -> int:
        """The last cycle that was played."""
        from attacc.pim.timing import controller_kernel

        return int(self.clock[controller_kernel.CYCLE])

    @property
    def steps(self) -> int:
        """Steps that have entered."""
        from attacc.pim.timing import controller_kernel

        return int(self.clock[controller_kernel.STEP])

    @property
    def logged(self) -> int:
        """Commands so far, barriers included; a command counts once for all channels of a class."""
        from attacc.pim.timing import controller_kernel

        return int(self.clock[controller_kernel.LOGGED])

    @property
    def issued_by_all(self) -> I64:
        """(codes,) commands issued so far, over all channels."""
        return self.width @ self.issued

    def copy(self) -> ControllerState:
        """Return a copy that further runs change independently."""
        return ControllerState(*(getattr(self, one.name).copy() for one in fields(self)))

    def handed_over(self, before: Stream, after: Stream) -> ControllerState:
        """Return the present state for another stream with the same beginning.

        Args:
            before: the stream that was played.
            after: the other stream; the events named so far are the same in both.
        """
        events = max(before.events, after.events)
        awaited = np.zeros((len(self.width), events), dtype=np.int32)
        awaited[:, : before.events] = self.awaited
        awaited[:, : before.events] -= before.producers
        awaited[:, : after.events] += after.producers
        happened = np.zeros((len(self.width), events), dtype=np.int64)
        happened[:, : before.events] = self.happened
        return ControllerState(
            width=after.width,
            clock=self.clock.copy(),
            lanes=self.lanes.copy(),
            items=self.items.copy(),
            entries=self.entries.copy(),
            times=self.times.copy(),
            recent=self.recent.copy(),
            open_rows=self.open_rows.copy(),
            hits=self.hits.copy(),
            awaited=awaited,
            happened=happened,
            issued=self.issued.copy(),
        )

    def play(
        self,
        stream: Stream,
        tables: TimingTables,
        *,
        base: int = 0,
        end: int | None = None,
        more: bool = False,
        until: int = 0,
        room: Room | None = None,
        desk: Desk | None = None,
    ) -> None:
        """Play the requests of a stream, from the present state on.

        Args:
            stream: the requests.
            tables: the device.
            base: number of the stream's first step among all steps that have entered.
            end: number of the step before which to stop; by default the end of the stream.
            more: whether to stop as soon as the step `end` would enter, rather than play to the
                end.
            until: cycle up to which rows are still refreshed, for a stream that was played to its
                end; 0 to end with the last command.
            room: arrays for the log and the windows.
            desk: ordinary traffic beside the stream; given from the first request on, or never.

        Raises:
            InputError: no request is ever served any more.
        """
        from attacc.pim.timing import controller_kernel, kernel

        room = room or Room.begun(stream, log=False, window_cycles=0)
        policy = None if desk is None else desk.policy
        # A single class beside ordinary traffic would not be faster by machine code of its own.
        several = None if len(self.width) == 1 and desk is None else len(self.width)
        raises = tables.raises_alone if desk is None else tables.raises
        desk = desk or no_traffic()
        requests = plain(
            controller_kernel.Requests(
                stream.keys, stream.first, stream.last, stream.signals, stream.delays
            )
        )
        rules = plain(controller_kernel.Rules(
            tables.waits, raises, tables.latency, tables.window, tables.row_slot,
            tables.refresh_bank, tables.fixed,
        ))  # fmt: skip
        traffic = plain(controller_kernel.Traffic(
            desk.arriving, desk.arrival, desk.arrivals_end, desk.desk, desk.queued, desk.counts,
            desk.writing, desk.bank_rows, desk.served,
        ))  # fmt: skip
        last = base + len(stream.keys) if end is None else end
        status = controller_kernel.FULL
        while status == controller_kernel.FULL:
            log_end, windows_end = room.ends(len(self.width), tables.refresh_interval)
            status = kernel.run_controllers(
                requests,
                base,
                last,
                int(more),
                until,
                rules,
                plain(self._named()),
                traffic,
                policy,
                plain(
                    controller_kernel.Record(
                        room.log, room.windows, room.window_cycles, log_end, windows_end
                    )
                ),
                several,
            )
            if status == controller_kernel.FULL:
                room.grow()
        if status != controller_kernel.OK:
            raise InputError(
                f"after cycle {self.cycle} no request of the program is ever served",
                where=tables.device,
                hint="its timing lets rows close again before they are read (see nRAS and nRCD), "
                "or a step waits for what only a later one produces",
            )

    def _named(self) -> State:
        """Return the state in the form that the kernel takes."""
        from attacc.pim.timing.controller_kernel import State

        return State(
            self.clock, self.lanes, self.items, self.entries, self.times, self.recent,
            self.open_rows, self.hits, self.awaited, self.happened, self.issued, self.width,
        )  # fmt: skip

    def split(self, classes: I64, width: I64) -> ControllerState:
        """Return the state with classes of channels split; later steps tell the parts apart.

        Args:
            classes: (new classes,) the present class of each new class.
            width: (new classes,) number of channels of each.
        """
        by_class = {
            one.name: getattr(self, one.name)[classes]
            for one in fields(self)
            if one.name not in ("width", "clock")
        }
        return replace(self, width=width, **by_class)

    def signature(self, tables: TimingTables, *, row: int) -> bytes:
        """Return bytes that decide how the controllers continue, relative to the present cycle.

        Two states with the same signature behave alike from then on, if the requests that enter
        are alike. The rows of these requests may differ by as much as the two states' ``row``.

        Args:
            tables: the device.
            row: the row from which rows are counted.
        """
        from attacc.pim.timing import controller_kernel

        cycle, step = (
            int(self.clock[controller_kernel.CYCLE]),
            int(self.clock[controller_kernel.STEP]),
        )
        rows = tables.organization.rows
        parts = [
            np.array(
                [
                    self.clock[controller_kernel.NEXT_REFRESH] - cycle,
                    self.clock[controller_kernel.ENTERING],
                ]
            ),
            np.maximum(self.times - cycle, 0),
            np.maximum(self.recent - cycle, 0),
            np.where(self.open_rows < 0, -1, (self.open_rows - row) % rows),
            self.lanes[:, controller_kernel.DUE],
            self.lanes[:, controller_kernel.REFRESHED] % len(tables.refresh_bank),
        ]
        for lane, items, entries in zip(self.lanes, self.items, self.entries, strict=True):
            queued: list[tuple[int, int]] = []
            for item in items[: lane[controller_kernel.ITEMS]].tolist():
                key, entry = (
                    _moved(item[controller_kernel.KEY], -row, rows),
                    item[controller_kernel.FIRST],
                )
                for _ in range(item[controller_kernel.LEFT]):
                    queued.append((int(entries[entry, controller_kernel.STEP_OF]) - step, key))
                    entry = int(entries[entry, controller_kernel.LINK])
            barriers = (
                entries[: lane[controller_kernel.BARRIERS], controller_kernel.BARRIER_STEP] - step
            )
            queued += [(at, controller_kernel.BARRIER) for at in barriers.tolist()]
            parts.append(np.array([len(queued), *(n for one in sorted(queued) for n in one)]))
        return b"".join(part.astype(np.int64).tobytes() for part in parts)

    def advance(
        self, before: ControllerState, times: int, tables: TimingTables, *, rows: int
    ) -> None:
        """Repeat, a number of times, everything since an earlier state with the same signature.

        Args:
            before: the earlier state.
            times: how often to repeat.
            tables: the device.
            rows: number of rows by which each repetition advances.
        """
        from attacc.pim.timing import controller_kernel

        clock = times * (self.clock - before.clock)
        cycles, steps = int(clock[controller_kernel.CYCLE]), int(clock[controller_kernel.STEP])
        clock[controller_kernel.ENTERING] = 0
        self.clock[:] += clock
        self.issued[:] += times * (self.issued - before.issued)
        for column in (controller_kernel.WAKE, controller_kernel.MULTIPLY_FROM):
            _later(self.lanes[:, column], cycles)
        self.lanes[:, controller_kernel.RUNNING] = -1
        done = (
            self.lanes[:, controller_kernel.REFRESHED]
            - before.lanes[:, controller_kernel.REFRESHED]
        )
        self.lanes[:, controller_kernel.REFRESHED] += times * done
        self.times[:] += cycles
        self.recent[:] += cycles
        all_rows = tables.organization.rows
        moved = times * rows
        self.open_rows[:] = np.where(self.open_rows < 0, -1, (self.open_rows + moved) % all_rows)
        _later(self.items[:, :, controller_kernel.BOUND], cycles)
        self.items[:, :, controller_kernel.AGE] += steps
        self.entries[:, :, controller_kernel.STEP_OF] += steps
        self.entries[:, :, controller_kernel.BARRIER_STEP] += steps
        for item in self.items.reshape(-1, controller_kernel.ITEM_COLUMNS):
            item[controller_kernel.KEY] = _moved(int(item[controller_kernel.KEY]), moved, all_rows)


def _moved(key: int, by: int, rows: int) -> int:
    """Return the key of the same request, a number of rows further on."""
    from attacc.pim.timing import controller_kernel

    if key & controller_kernel.CODE_MASK != controller_kernel.MULTIPLY:
        return key
    row = key >> controller_kernel.ROW_SHIFT & controller_kernel.ROW_MASK
    return key + ((row + by) % rows - row << controller_kernel.ROW_SHIFT)


def _later(cycles: I64, by: int) -> None:
    """Shift cycles, except those that stand for never."""
    from attacc.pim.timing import controller_kernel

    cycles[cycles < controller_kernel.NEVER] += by
