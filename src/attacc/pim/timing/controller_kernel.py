"""What the kernels of a memory controller share: the layout of its state, gates and rows."""

from __future__ import annotations

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
"""As the code of a request: a barrier. Moves and softmaxes have the codes from 5 to 8."""

CODE_BITS = 4
BANK_BITS = 12
ROW_BITS = 24
ROW_SHIFT = CODE_BITS + BANK_BITS
EVENT_SHIFT = ROW_SHIFT + ROW_BITS
CODE_MASK = (1 << CODE_BITS) - 1
BANK_MASK = (1 << BANK_BITS) - 1
ROW_MASK = (1 << ROW_BITS) - 1
"""A request's key is its code, bank, row and the event it waits for (0: none) in one number;
equal keys wait for the same."""

QUEUE = 33
"""Entries of a queue: it takes another request while it holds 32 or fewer."""

OK = 0
STUCK = 1
FULL = 2
"""The log, or the windows, need more room before the next commands."""
MOST_AT_ONCE = 4
"""Commands that a class may issue between two looks at the room: of each bus, and ordinary ones."""
"""No request leaves a queue any more: rows are opened and closed for ever, or nothing issues."""
PATIENCE = 100
"""Refresh intervals without a request leaving after which that is said."""

NEVER = 2**62

# Columns of what is kept of each class of channels.
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
"""The first free entry; those taken and those free are linked lists."""
DUE = 6
"""Refreshes that wait."""
REFRESHED = 7
"""Refreshes done."""
WAKE = 8
"""Nothing happens before this cycle."""
MULTIPLY_FROM = 9
"""No multiply issues before this one."""
RUNNING = 10
"""The item whose multiplies follow each other, nothing else coming between; -1 for none."""
RUNS_BEFORE = 11
"""Before this cycle."""
RUNS_WHILE_OLDER = 12
"""And while it is older than this step: the next multiply of another item, or the oldest of what
yields to its row hits, unless it is the head."""
RUNS_ALONE = 13
"""1 if no other multiply waits behind it."""
JOINED = 14
"""The item that a request last joined."""
LANE_COLUMNS = 15

# Columns of an item.
KEY = 0
NEXT = 1
"""Its next command: what a multiply needs first, or the request."""
BOUND = 2
"""It does not issue before this cycle."""
BEHIND = 3
"""Barriers that entered before it."""
FIRST = 4
"""Its first entry."""
LAST = 5
"""Its last entry."""
LEFT = 6
"""Its entries."""
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

# What is kept of the stack.
CYCLE = 0
NEXT_REFRESH = 1
PROGRESS = 2
"""Cycle in which a request last left a queue."""
LOGGED = 3
"""Commands so far, over all classes."""
STEP = 4
"""The step that enters next."""
ENTERING = 5
"""The class that it enters next; -1 for its first."""
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


@inlined
def ready_cycle(code: int, bank: int, waits: I32, times: I64, c: int) -> int:
    """Return the first cycle in which no gate of channel class c holds the command back."""
    ready = 0
    for i in range(waits.shape[2]):
        where = waits[code, bank, i]
        if where < 0:
            break
        ready = max(ready, times[c, where])
    return ready


@inlined
def raise_gates(
    code: int, bank: int, cycle: int, raises: I32, latency: I64, window: I32, times: I64,
    recent: I64, c: int,
) -> None:  # fmt: skip
    """Hold back the followers of a command that issues in this cycle."""
    for i in range(raises.shape[2]):
        where = raises[code, bank, i]
        if where < 0:
            break
        free = cycle + latency[code, i]
        if window[code, i] > 1:
            # The window-th last such command decides: the oldest of those remembered.
            for j in range(window[code, i] - 1, 0, -1):
                recent[c, where, j] = recent[c, where, j - 1]
            recent[c, where, 0] = free
            free = recent[c, where, window[code, i] - 1]
        times[c, where] = max(times[c, where], free)


@inlined
def next_code(key: int, row_slot: I32, open_rows: I64, c: int) -> int:
    """Return the next command of a request: what a multiply needs first, or the request."""
    code = key & CODE_MASK
    if code != MULTIPLY:
        return code
    open_row = open_rows[c, row_slot[(key >> CODE_BITS) & BANK_MASK]]
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
    items: I64, lanes: I64, row_slot: I32, open_rows: I64, bank_mask: int,
    hits: I32, c: int,
) -> None:  # fmt: skip
    """See again, after rows opened or closed, what multiplies need, and which find theirs open.

    ``bank_mask`` leaves of a bank's number its place in the pseudo-channel.
    """
    for bank in range(hits.shape[1]):
        hits[c, bank] = 0
    for i in range(lanes[c, ITEMS]):
        key = items[c, i, KEY]
        if key & CODE_MASK == MULTIPLY:
            code = next_code(key, row_slot, open_rows, c)
            if code != items[c, i, NEXT]:
                items[c, i, NEXT] = code
                items[c, i, BOUND] = 0
            if code == MULTIPLY:
                bank = (key >> CODE_BITS) & BANK_MASK
                hits[c, bank & bank_mask] += items[c, i, LEFT]


@inlined
def record(
    cycle: int, code: int, c: int, step: int, bank: int, clock: I64, log: I64,
    issued: I64, windows: I64, window_cycles: int, width: I64,
) -> None:  # fmt: skip
    """Count a command, and write it into the log if that has room for it."""
    entry = clock[LOGGED]
    clock[LOGGED] = entry + 1
    if entry < len(log):
        log[entry, 0] = cycle
        log[entry, 1] = code
        log[entry, 2] = c
        log[entry, 3] = step
        log[entry, 4] = bank
    if code != BARRIER:
        issued[c, code] += 1
        if window_cycles > 0:
            windows[(cycle - 1) // window_cycles, code] += width[c]
