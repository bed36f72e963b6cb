"""The memory controllers of one stack, compiled.

The behaviour is that of reference/controller.md, cycle by cycle; cycles in which nothing can
change are skipped, and channels that receive the same requests are simulated once. Channels meet
only where requests enter: one full queue blocks all later requests.

Commands and roles are the numbers of `attacc.timing.tables.Code`; the constants below repeat
those that the control flow names, since a kernel sees integers only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import kernel

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

ACTIVATE = 0
MULTIPLY = 1
PRECHARGE = 2
PRECHARGE_ALL = 3
REFRESH = 4
BARRIER = 15
"""As the code of a request or of a selection: a barrier."""
EMPTY = 16
"""As the code of a selection: no request."""

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
ROOM = 1024
"""Places of the buffer through which a queue wanders, so that its head leaves without a move."""

OK = 0
STUCK = 1
"""No request leaves a queue any more: rows are opened and closed for ever, or nothing issues."""
PATIENCE = 100
"""Refresh intervals without a request leaving after which that is said."""

NEVER = 2**62


@kernel
def ready_cycle(code: int, bank: int, gates: I32, slot: I32, times: I64, c: int) -> int:
    """Return the first cycle in which no gate of channel class c holds the command back."""
    ready = 0
    for i in range(gates.shape[1]):
        gate = gates[code, i]
        if gate < 0:
            break
        ready = max(ready, times[c, slot[gate, bank]])
    return ready


@kernel
def raise_gates(
    code: int, bank: int, cycle: int, raised: I32, latency: I64, slot: I32, times: I64, c: int
) -> None:
    """Hold back the followers of a command that issues in this cycle."""
    for i in range(raised.shape[1]):
        gate = raised[code, i]
        if gate < 0:
            break
        where = slot[gate, bank]
        times[c, where] = max(times[c, where], cycle + latency[code, i])


@kernel
def next_code(key: int, row_slot: I32, open_rows: I64, c: int) -> int:
    """Return the next command of a request: what a multiply needs first, or the request."""
    code = key & CODE_MASK
    if code != MULTIPLY:
        return code
    open_row = open_rows[c, row_slot[(key >> CODE_BITS) & BANK_MASK]]
    if open_row == (key >> ROW_SHIFT) & ROW_MASK:
        return MULTIPLY
    return ACTIVATE if open_row < 0 else PRECHARGE


@kernel
def is_row_code(code: int) -> bool:
    """Return whether a command takes the row command bus."""
    return code == ACTIVATE or (PRECHARGE <= code <= REFRESH)


@kernel
def data_cycle(key: int, code: int, awaited: I32, happened: I64, c: int) -> int:
    """Return the first cycle in which what a request waits for is there, as far as is known.

    Rows open and close without waiting.
    """
    event = key >> EVENT_SHIFT
    if event == 0 or is_row_code(code):
        return 0
    return NEVER if awaited[c, event] > 0 else happened[c, event]


@kernel
def signal(event: int, cycle: int, awaited: I32, happened: I64, c: int) -> None:
    """Note that one of those who make an event has done so, to take effect in a cycle."""
    if event > 0:
        awaited[c, event] -= 1
        happened[c, event] = max(happened[c, event], cycle)


@kernel
def count_others(keys: I64, start: int, length: int, row_slot: I32, open_rows: I64, c: int) -> int:
    """Return how many entries of a queue are neither barriers nor multiplies on an open row."""
    others = 0
    for place in range(start, start + length):
        key = keys[c, place]
        if key != BARRIER and next_code(key, row_slot, open_rows, c) != MULTIPLY:
            others += 1
    return others


@kernel
def select(
    cycle: int, keys: I64, start: int, length: int, gates: I32, slot: I32, times: I64,
    row_slot: I32, open_rows: I64, banks_per_pseudo_channel: int, multiply_from: int,
    awaited: I32, happened: I64, moves_yield: int, c: int,
) -> tuple[int, int, bool, int]:  # fmt: skip
    """Choose the best request of the queue of channel class c, whose leading barrier is gone.

    No multiply is ready before cycle ``multiply_from``, which saves looking at its gates.

    Returns:
        Its place in the buffer, its next command, whether that is ready in this cycle, and, when
        it is not, the first later cycle in which some command becomes ready.
    """
    if length == 0:
        return start, EMPTY, False, NEVER
    head = keys[c, start]
    if head == BARRIER:
        return start, BARRIER, True, NEVER
    head_code = next_code(head, row_slot, open_rows, c)
    wake = max(
        ready_cycle(head_code, (head >> CODE_BITS) & BANK_MASK, gates, slot, times, c),
        data_cycle(head, head_code, awaited, happened, c),
    )
    if wake <= cycle:
        return start, head_code, True, NEVER
    behind_barrier = False
    previous = head
    for place in range(start + 1, start + length):
        key = keys[c, place]
        if key == previous:
            continue  # waits for what its predecessor waits for
        previous = key
        if key == BARRIER:
            behind_barrier = True
            continue
        code = next_code(key, row_slot, open_rows, c)
        if code == MULTIPLY and multiply_from > cycle:
            if not behind_barrier:
                wake = min(wake, multiply_from)
            continue
        if behind_barrier and not is_row_code(code):
            continue
        bank = (key >> CODE_BITS) & BANK_MASK
        ready = max(
            ready_cycle(code, bank, gates, slot, times, c),
            data_cycle(key, code, awaited, happened, c),
        )
        if ready > cycle:
            wake = min(wake, ready)
        elif code == MULTIPLY or not (moves_yield == 1 or is_row_code(code)):
            return place, code, True, NEVER
        else:
            # Row commands, and in the reference moves too, yield to a queued row hit on the same
            # bank address, in whichever pseudo-channel.
            refused = False
            for other in range(start, start + length):
                if next_code(keys[c, other], row_slot, open_rows, c) == MULTIPLY:
                    distance = ((keys[c, other] >> CODE_BITS) & BANK_MASK) - bank
                    if distance % banks_per_pseudo_channel == 0:
                        refused = True
                        break
            if not refused:
                return place, code, True, NEVER
    return start, head_code, False, wake


@kernel
def record(log: I64, entry: int, cycle: int, code: int, c: int, step: int, bank: int) -> None:
    """Write one entry of the log, if it has room for it."""
    if entry < len(log):
        log[entry, 0] = cycle
        log[entry, 1] = code
        log[entry, 2] = c
        log[entry, 3] = step
        log[entry, 4] = bank


@kernel
def run_controllers(
    keys: I64, first: I32, last: I32, classes: int,
    gates: I32, raised: I32, latency: I64, slot: I32, slots: int, row_slot: I32, row_slots: int,
    pseudo_channels: int, banks_per_pseudo_channel: int, refresh_interval: int,
    multiply_interval: int, moves_yield: int, signals: I32, delays: I32, producers: I32,
    issued: I64, log: I64,
) -> tuple[int, int, int]:  # fmt: skip
    """Play a program on the controllers of one stack.

    Args:
        keys: (n,) key of each step's request.
        first: (n,) first class of channels that a step goes to.
        last: (n,) one past the last class.
        classes: number of classes of identical channels.
        gates: (codes, width), see `attacc.timing.tables.TimingTables`.
        raised: (codes, width), as there.
        latency: (codes, width), as there.
        slot: (gates, banks), as there.
        slots: as there.
        row_slot: (banks,), as there.
        row_slots: as there.
        pseudo_channels: as there.
        banks_per_pseudo_channel: as there.
        refresh_interval: as there.
        multiply_interval: as there.
        moves_yield: 1 if so, see there.
        signals: (n, k) events that a step helps to make when it issues, 0 for none.
        delays: (n, k) cycles until that takes effect.
        producers: (events,) how many steps of a channel make each event; event 0 is none.
        issued: (classes, codes) commands issued, counted up here.
        log: (k, 5) receives cycle, command, class, step (-1 for maintenance) and bank of the
            first k commands.

    Returns:
        Status, cycles, and the number of commands over all classes.
    """
    n = len(keys)
    queue = np.zeros((classes, ROOM), dtype=np.int64)
    queued_step = np.zeros((classes, ROOM), dtype=np.int64)
    start = np.zeros(classes, dtype=np.int64)
    length = np.zeros(classes, dtype=np.int64)
    barriers = np.zeros(classes, dtype=np.int64)  # in the queue
    others = np.zeros(classes, dtype=np.int64)  # in the queue, neither row hits nor barriers
    times = np.zeros((classes, slots), dtype=np.int64)
    open_rows = np.full((classes, row_slots), -1, dtype=np.int64)
    multiply_from = np.zeros(classes, dtype=np.int64)
    awaited = np.zeros((classes, len(producers)), dtype=np.int32)
    for c in range(classes):
        awaited[c, :] = producers
    happened = np.zeros((classes, len(producers)), dtype=np.int64)
    due = np.zeros(classes, dtype=np.int64)  # refreshes waiting
    refreshed = np.zeros(classes, dtype=np.int64)  # refreshes done
    wake = np.ones(classes, dtype=np.int64)
    logged = 0
    step = 0
    entering = 0
    if n > 0:
        entering = first[0]
    next_refresh = refresh_interval
    cycle = 0
    progress = 0  # cycle in which a request last left a queue
    while True:
        following = next_refresh
        if step < n and length[entering] < QUEUE:
            following = cycle + 1
        for c in range(classes):
            following = min(following, wake[c])
        cycle = following
        if cycle - progress > PATIENCE * refresh_interval:
            return STUCK, cycle, logged

        # Requests enter in trace order until the next one's queue is full. One that cannot issue
        # now leaves its channel asleep until it can.
        while step < n:
            key = keys[step]
            while entering < last[step] and length[entering] < QUEUE:
                c = entering
                if start[c] + length[c] == ROOM:
                    for i in range(length[c]):
                        queue[c, i] = queue[c, start[c] + i]
                        queued_step[c, i] = queued_step[c, start[c] + i]
                    start[c] = 0
                queue[c, start[c] + length[c]] = key
                queued_step[c, start[c] + length[c]] = step
                code = next_code(key, row_slot, open_rows, c)
                if length[c] == 0:
                    wake[c] = cycle
                elif wake[c] > cycle and key != BARRIER:
                    if code == MULTIPLY and multiply_from[c] > cycle:
                        if barriers[c] == 0:
                            wake[c] = min(wake[c], multiply_from[c])
                    elif barriers[c] == 0 or is_row_code(code):
                        bank = (key >> CODE_BITS) & BANK_MASK
                        ready = ready_cycle(code, bank, gates, slot, times, c)
                        ready = max(ready, data_cycle(key, code, awaited, happened, c))
                        wake[c] = min(wake[c], max(ready, cycle))
                length[c] += 1
                if key == BARRIER:
                    barriers[c] += 1
                elif code != MULTIPLY:
                    others[c] += 1
                entering += 1
            if entering < last[step]:
                break
            step += 1
            if step < n:
                entering = first[step]

        if cycle == next_refresh:
            next_refresh += refresh_interval
            for c in range(classes):
                due[c] += pseudo_channels
                wake[c] = cycle

        for c in range(classes):
            if wake[c] > cycle:
                continue
            wake[c] = NEVER
            first_was_row = False
            # Two passes: at most one row command and one column command.
            for attempt in range(2):
                at = -1
                if attempt == 0 and due[c] > 0:
                    # Maintenance goes first: close all banks, then refresh.
                    first_was_row = True
                    code = REFRESH
                    for r in range(row_slots):
                        if open_rows[c, r] >= 0:
                            code = PRECHARGE_ALL
                    bank = (refreshed[c] % pseudo_channels) * banks_per_pseudo_channel
                    ready = ready_cycle(code, bank, gates, slot, times, c)
                    if ready > cycle:
                        wake[c] = ready
                        continue
                    if code == PRECHARGE_ALL:
                        open_rows[c, :] = -1
                        others[c] = length[c] - barriers[c]
                    else:
                        due[c] -= 1
                        refreshed[c] += 1
                    wake[c] = cycle + 1
                else:
                    if length[c] > 0 and queue[c, start[c]] == BARRIER:
                        start[c] += 1
                        length[c] -= 1
                        barriers[c] -= 1
                        progress = cycle
                    place, code, is_ready, later = select(
                        cycle, queue, start[c], length[c], gates, slot, times, row_slot,
                        open_rows, banks_per_pseudo_channel,
                        multiply_from[c], awaited, happened, moves_yield, c,
                    )  # fmt: skip
                    if code == EMPTY:
                        break
                    if code == BARRIER:
                        # A command of neither bus, which leaves its queue and ends the cycle.
                        record(log, logged, cycle, code, c, queued_step[c, place], 0)
                        logged += 1
                        start[c] += 1
                        length[c] -= 1
                        barriers[c] -= 1
                        progress = cycle
                        wake[c] = cycle + 1
                        break
                    if not is_ready:
                        wake[c] = min(wake[c], later)
                        break  # in the first pass, the second one would choose the same
                    is_row = is_row_code(code)
                    if attempt == 0:
                        first_was_row = is_row
                    elif is_row == first_was_row:
                        wake[c] = cycle + 1  # the bus is taken
                        break
                    at = queued_step[c, place]
                    bank = (queue[c, place] >> CODE_BITS) & BANK_MASK
                    if is_row:
                        row = (queue[c, place] >> ROW_SHIFT) & ROW_MASK
                        open_rows[c, row_slot[bank]] = row if code == ACTIVATE else -1
                        others[c] = count_others(queue, start[c], length[c], row_slot, open_rows, c)
                    else:
                        progress = cycle
                        if code != MULTIPLY:
                            others[c] -= 1
                        for i in range(signals.shape[1]):
                            signal(signals[at, i], cycle + delays[at, i], awaited, happened, c)
                        for i in range(place, start[c], -1):
                            queue[c, i] = queue[c, i - 1]
                            queued_step[c, i] = queued_step[c, i - 1]
                        start[c] += 1
                        length[c] -= 1
                    if attempt == 1:
                        wake[c] = cycle + 1
                raise_gates(code, bank, cycle, raised, latency, slot, times, c)
                issued[c, code] += 1
                record(log, logged, cycle, code, c, at, bank)
                logged += 1
                if code == MULTIPLY:
                    multiply_from[c] = cycle + multiply_interval
                if (
                    attempt == 0
                    and code == MULTIPLY
                    and others[c] == 0
                    and length[c] > 0
                    and queue[c, start[c]] != BARRIER
                ):
                    # Nothing but row hits: no second command now, nor a next one any earlier.
                    wake[c] = multiply_from[c]
                    break

        if step == n:
            left = 0
            for c in range(classes):
                left += length[c] + due[c]
            if left == 0:
                return OK, cycle, logged
