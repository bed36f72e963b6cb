"""Code shared by the kernels of a memory controller: the layout of its state, gates and rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.compiled import inlined

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

ACTIVATE = 0
MULTIPLY = 1
PRECHARGE = 2
PRECHARGE_ALL = 3
REFRESH = 4
MOVES_FROM = 5
READ = 9
WRITE = 10
ACTIVATE_BANK = 11
PRECHARGE_BANK = 12
BARRIER = 15
"""Code of a barrier among the requests. Moves and softmaxes have the codes from 5 to 8."""

CODE_BITS = 4
BANK_BITS = 12
ROW_BITS = 24
ROW_SHIFT = CODE_BITS + BANK_BITS
EVENT_SHIFT = ROW_SHIFT + ROW_BITS
CODE_MASK = (1 << CODE_BITS) - 1
BANK_MASK = (1 << BANK_BITS) - 1
ROW_MASK = (1 << ROW_BITS) - 1
"""A request's key holds its code, bank, row and awaited event (0: none) in one number. Requests
with equal keys wait for the same gates, row and event."""

QUEUE = 33
"""Entries of a queue: it takes another request while it holds 32 or fewer."""

OK = 0
STUCK = 1
FULL = 2
"""Status: the log, or the windows, need more room before the next commands."""
MOST_AT_ONCE = 4
"""Commands that a class may issue between two checks of the room: one on each bus by the units, and
one on each bus by ordinary traffic."""
"""Status: no request leaves a queue any more. Rows open and close for ever, or nothing issues."""
PATIENCE = 100
"""Refresh intervals without a request leaving a queue after which that status is returned."""

NEVER = 2**62

ROW_BUS = 1
COLUMN_BUS = 2

# Columns of the state of each class of channels.
LENGTH = 0
"""Requests in the queue, barriers among them."""
ITEMS = 1
"""Items in the queue."""
BARRIERS = 2
"""Barriers in the queue."""
EPOCH = 3
"""Barriers that have left the queue."""
IN_FRONT = 4
"""Requests before the first barrier."""
FREE = 5
"""The first free entry; taken entries and free entries are linked lists."""
DUE = 6
"""Refreshes that are due and have not issued."""
REFRESHED = 7
"""Refreshes done."""
WAKE = 8
"""Nothing happens before this cycle."""
MULTIPLY_FROM = 9
"""No multiply issues before this cycle."""
RUNNING = 10
"""The item whose multiplies run: they follow each other without another column command between
them; -1 for none."""
RUNS_BEFORE = 11
"""The run lasts until this cycle at most."""
RUNS_WHILE_OLDER = 12
"""The run lasts while its item is older than this step. The step is the next multiply of another
item, or the oldest request that yields to the run's row hits, unless that request is the head."""
RUNS_ALONE = 13
"""1 if no other multiply waits behind the run."""
JOINED = 14
"""The item that a request last joined."""
LANE_COLUMNS = 15

# Columns of an item.
KEY = 0
NEXT = 1
"""Its next command: the activate or precharge that a multiply needs first, or the request."""
BOUND = 2
"""Lower bound of the cycle in which the item may issue."""
BEHIND = 3
"""Barriers that entered before it."""
FIRST = 4
"""Its first entry."""
LAST = 5
"""Its last entry."""
LEFT = 6
"""Number of its entries."""
AGE = 7
"""Step of its first entry."""
ITEM_COLUMNS = 8

# Columns of an entry.
STEP_OF = 0
LINK = 1
"""The next entry of the same item, or the next free one."""
BARRIER_STEP = 2
"""Steps of the queued barriers, in order, one per place, unlike the other columns."""
ENTRY_COLUMNS = 3

# Numbers of the state of the whole stack.
CYCLE = 0
NEXT_REFRESH = 1
PROGRESS = 2
"""Cycle in which a request last left a queue."""
LOGGED = 3
"""Commands so far, over all classes."""
STEP = 4
"""The step that enters next."""
ENTERING = 5
"""The class that this step enters next; -1 for its first class."""
CLOCK_COLUMNS = 6

# Numbers of a device, see `attacc.pim.timing.tables.TimingTables`.
BANKS_PER_PSEUDO_CHANNEL = 0
REFRESH_INTERVAL = 1
REFRESHES_PER_INTERVAL = 2
REFRESH_PER_BANK = 3
MOVES_YIELD = 4
MULTIPLY_INTERVAL = 5
MOVES_APART = 6
"""Least cycles between two moves or softmaxes of a pseudo-channel."""


class Requests(NamedTuple):
    """The steps of a stream, which enter the queues.

    Attributes:
        keys: (n,) key of each step's request.
        first: (n,) first class of channels that a step goes to.
        last: (n,) one past the last class.
        signals: (n, k) events that a step signals when it issues, 0 for none.
        delays: (n, k) cycles until each signal takes effect.
    """

    keys: I64
    first: I32
    last: I32
    signals: I32
    delays: I32


class Rules(NamedTuple):
    """The device's tables, from `attacc.pim.timing.tables.TimingTables`.

    Attributes:
        waits: (codes, banks, width) gates that hold a command back.
        raises: (codes, banks, width) gates that a command raises.
        latency: (codes, width) cycles by which each gate is raised.
        window: (codes, width) how many of the last such commands a gate counts.
        row_slot: (banks,) number of the open row that the bank belongs to.
        refresh_bank: (refreshes,) bank of each refresh in turn.
        fixed: numbers of the device, by the constants above.
    """

    waits: I32
    raises: I32
    latency: I64
    window: I32
    row_slot: I32
    refresh_bank: I32
    fixed: I64


class State(NamedTuple):
    """The whole state of the controllers, from which a run can continue.

    Attributes:
        clock: numbers of the stack, by the constants above.
        lanes: (classes, columns) numbers of each class, by the constants above.
        items: (classes, QUEUE, columns) items of each queue, by the constants above.
        entries: (classes, QUEUE, columns) entries of each queue, by the constants above.
        times: (classes, slots) cycles before which gates hold commands back.
        recent: (classes, slots, widest window) the last such cycles, for gates with windows.
        open_rows: (classes, row slots) the open row, -1 for none.
        hits: (classes, banks of a pseudo-channel) queued multiplies on open rows.
        awaited: (classes, events) steps that an event still waits for.
        happened: (classes, events) cycle in which the event happens, as far as is known.
        issued: (classes, codes) commands issued so far.
        width: (classes,) channels of each class.
    """

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
    width: I64


class Traffic(NamedTuple):
    """Ordinary traffic: the requests that arrive, and the state of their queues and banks.

    Attributes:
        arriving: (requests,) keys of the requests, one class after the other.
        arrival: (requests,) cycle in which each arrives.
        arrivals_end: (classes,) one past the last request of each class.
        desk: (classes, columns) numbers of each class, by the constants of
            `attacc.pim.timing.traffic_kernel`.
        queued: (classes, 2 pseudo-channels, entries, columns) queued reads and writes of each
            pseudo-channel, by age.
        counts: (classes, 2 pseudo-channels) number of queued reads and writes.
        writing: (classes, pseudo-channels) 1 where writes are served.
        bank_rows: (classes, banks) open rows in ordinary mode, -1 for none.
        served: (requests,) receives the cycle of each request's RD or WR.
    """

    arriving: I64
    arrival: I64
    arrivals_end: I64
    desk: I64
    queued: I64
    counts: I64
    writing: I64
    bank_rows: I64
    served: I64


class Record(NamedTuple):
    """Arrays that receive the log and the counts of commands by time window.

    Attributes:
        log: (k, 5) receives cycle, command, class, step (-1 for maintenance) and bank of the first
            k commands; (0, 5) where no log is wanted.
        windows: (windows, codes) receives the commands of all channels in each window of time.
        window_cycles: length of a window, 0 for no windows.
        log_end: number of commands after which to return, so that the log can be made longer.
        windows_end: cycle after which to return, so that windows can be added.
    """

    log: I64
    windows: I64
    window_cycles: int
    log_end: int
    windows_end: int


@inlined
def ready_cycle(code: int, bank: int, rules: Rules, state: State, c: int) -> int:
    """Return the first cycle in which no gate of channel class c holds the command back."""
    ready = 0
    for i in range(rules.waits.shape[2]):
        where = rules.waits[code, bank, i]
        if where < 0:
            break
        ready = max(ready, state.times[c, where])
    return ready


@inlined
def raise_gates(
    code: int,
    bank: int,
    cycle: int,
    rules: Rules,
    state: State,
    c: int,
) -> None:
    """Hold back the followers of a command that issues in this cycle."""
    for i in range(rules.raises.shape[2]):
        where = rules.raises[code, bank, i]
        if where < 0:
            break
        free = cycle + rules.latency[code, i]
        if rules.window[code, i] > 1:
            # The window-th last such command decides; it is the oldest of the remembered ones.
            for j in range(rules.window[code, i] - 1, 0, -1):
                state.recent[c, where, j] = state.recent[c, where, j - 1]
            state.recent[c, where, 0] = free
            free = state.recent[c, where, rules.window[code, i] - 1]
        state.times[c, where] = max(state.times[c, where], free)


@inlined
def next_code(key: int, rules: Rules, state: State, c: int) -> int:
    """Return the next command of a request: the row command it needs first, or the request."""
    code = key & CODE_MASK
    if code != MULTIPLY:
        return code
    open_row = state.open_rows[c, rules.row_slot[(key >> CODE_BITS) & BANK_MASK]]
    if open_row == (key >> ROW_SHIFT) & ROW_MASK:
        return MULTIPLY
    return ACTIVATE if open_row < 0 else PRECHARGE


@inlined
def is_row_code(code: int) -> bool:
    """Return whether a command takes the row command bus."""
    return code == ACTIVATE or (PRECHARGE <= code <= REFRESH)


@inlined
def is_move_code(code: int) -> bool:
    """Return whether a command is a move or a softmax."""
    return MOVES_FROM <= code < READ


@inlined
def note_rows(
    state: State,
    rules: Rules,
    bank_mask: int,
    c: int,
) -> None:
    """Update each multiply's next command, and the row hits, after rows opened or closed.

    ``bank_mask`` selects the bits of a bank's number that give its place in the pseudo-channel.
    """
    for bank in range(state.hits.shape[1]):
        state.hits[c, bank] = 0
    for i in range(state.lanes[c, ITEMS]):
        key = state.items[c, i, KEY]
        if key & CODE_MASK == MULTIPLY:
            code = next_code(key, rules, state, c)
            if code != state.items[c, i, NEXT]:
                state.items[c, i, NEXT] = code
                state.items[c, i, BOUND] = 0
            if code == MULTIPLY:
                bank = (key >> CODE_BITS) & BANK_MASK
                state.hits[c, bank & bank_mask] += state.items[c, i, LEFT]


@inlined
def record(
    cycle: int,
    code: int,
    c: int,
    step: int,
    bank: int,
    state: State,
    room: Record,
) -> None:
    """Count a command, and write it into the log if the log has room for it."""
    entry = state.clock[LOGGED]
    state.clock[LOGGED] = entry + 1
    if entry < len(room.log):
        room.log[entry, 0] = cycle
        room.log[entry, 1] = code
        room.log[entry, 2] = c
        room.log[entry, 3] = step
        room.log[entry, 4] = bank
    if code != BARRIER:
        state.issued[c, code] += 1
        if room.window_cycles > 0:
            room.windows[(cycle - 1) // room.window_cycles, code] += state.width[c]


@inlined
def maintenance(state: State, rules: Rules, c: int) -> tuple[int, int]:
    """Return the next command of a refresh that is due, and its bank address.

    An all-bank refresh needs all rows of the channel closed; the refresh of a bank needs the row
    of that bank closed.
    """
    bank = int(rules.refresh_bank[state.lanes[c, REFRESHED] % len(rules.refresh_bank)])
    if rules.fixed[REFRESH_PER_BANK] == 1:
        return (PRECHARGE if state.open_rows[c, rules.row_slot[bank]] >= 0 else REFRESH), bank
    for r in range(state.open_rows.shape[1]):
        if state.open_rows[c, r] >= 0:
            return PRECHARGE_ALL, bank
    return REFRESH, bank


@inlined
def maintain(code: int, bank: int, state: State, rules: Rules, c: int) -> None:
    """Note the rows of the units that a precharge closes, or that a refresh has issued."""
    if code == REFRESH:
        state.lanes[c, DUE] -= 1
        state.lanes[c, REFRESHED] += 1
        return
    if code == PRECHARGE_ALL:
        for r in range(state.open_rows.shape[1]):
            state.open_rows[c, r] = -1
    else:
        state.open_rows[c, rules.row_slot[bank]] = -1
    note_rows(state, rules, rules.fixed[BANKS_PER_PSEUDO_CHANNEL] - 1, c)
