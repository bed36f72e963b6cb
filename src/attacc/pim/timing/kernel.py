"""The memory controllers of one stack, compiled.

The behaviour is that of reference/controller.md, cycle by cycle; cycles in which nothing can
change are skipped, and channels that receive the same requests are simulated once. Channels meet
only where requests enter: one full queue blocks all later requests.

Requests of a queue that are alike (same command, bank, row and awaited event, and no barrier
between them) are one *item*: what holds the first back holds all back. An item remembers a lower
bound of the cycle in which it may issue. Gates only ever rise, so that a bound stays one, until a
row opens or closes or an event happens; items are looked at again when theirs is reached.

All that is needed to go on with further requests is kept in the arrays of `run_controllers`, so
that a program can be fed piece by piece.

Commands and roles are the numbers of `attacc.pim.timing.tables.Code`; the constants below repeat
those that the control flow names, since a kernel sees integers only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import inlined, kernel
from attacc.pim.timing.controller_kernel import (
    ACTIVATE,
    AGE,
    BANK_MASK,
    BANKS_PER_PSEUDO_CHANNEL,
    BARRIER,
    BARRIER_STEP,
    BARRIERS,
    BEHIND,
    BOUND,
    CODE_BITS,
    CYCLE,
    DUE,
    ENTERING,
    EPOCH,
    EVENT_SHIFT,
    FIRST,
    FREE,
    FULL,
    IN_FRONT,
    ITEM_COLUMNS,
    ITEMS,
    JOINED,
    KEY,
    LAST,
    LEFT,
    LENGTH,
    LINK,
    LOGGED,
    MOVES_APART,
    MOVES_YIELD,
    MULTIPLY,
    MULTIPLY_FROM,
    MULTIPLY_INTERVAL,
    NEVER,
    NEXT,
    NEXT_REFRESH,
    OK,
    PATIENCE,
    PRECHARGE,
    PRECHARGE_ALL,
    PROGRESS,
    QUEUE,
    REFRESH,
    REFRESH_INTERVAL,
    REFRESH_PER_BANK,
    REFRESHED,
    REFRESHES_PER_INTERVAL,
    ROW_MASK,
    ROW_SHIFT,
    RUNNING,
    RUNS_ALONE,
    RUNS_BEFORE,
    RUNS_WHILE_OLDER,
    STEP,
    STEP_OF,
    STUCK,
    WAKE,
    is_move_code,
    is_row_code,
    next_code,
    note_rows,
    raise_gates,
    ready_cycle,
    record,
)
from attacc.pim.timing.traffic_kernel import DEADLINE, NEXT_ARRIVAL, WAITING, ordinary_cycle

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@inlined
def item_ready(
    i: int, items: I64, waits: I32, times: I64, awaited: I32, happened: I64, c: int
) -> int:
    """Return the first cycle in which an item may issue, as far as is known.

    Rows open and close without waiting for an event.
    """
    code = items[c, i, NEXT]
    key = items[c, i, KEY]
    event = key >> EVENT_SHIFT
    happens = 0
    if event > 0 and not is_row_code(code):
        if awaited[c, event] > 0:
            return NEVER
        happens = happened[c, event]
    return max(happens, ready_cycle(code, (key >> CODE_BITS) & BANK_MASK, waits, times, c))


@inlined
def head_item(items: I64, lanes: I64, c: int) -> int:
    """Return the item at the head of a queue that holds one and whose leading barrier is gone."""
    head = 0
    for i in range(1, lanes[c, ITEMS]):
        if items[c, i, AGE] < items[c, head, AGE]:
            head = i
    return head


@inlined
def select(
    cycle: int, items: I64, lanes: I64, waits: I32, times: I64, bank_mask: int,
    moves_yield: int, multiply_interval: int, moves_apart: int, hits: I32, awaited: I32,
    happened: I64, c: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Choose the best request of a queue whose leading barrier is gone: the oldest that may issue.

    Returns:
        Its item, or -1 if none may issue now; a lower bound of the cycle in which another one may,
        once it has issued; the step of the oldest of those that yield to row hits, `NEVER` for
        none; and that of the next multiply of another item. The bound leaves out both of these.
    """
    best = -1
    soonest = NEVER
    head = -1
    oldest_yielding = NEVER
    next_multiply = NEVER
    rows_ready = multiplies_ready = moves_ready = False  # besides the best
    every, some = -1, 0  # bits set in the banks of all these moves, and of any of them
    epoch = lanes[c, EPOCH]
    multiply_from = lanes[c, MULTIPLY_FROM]
    for i in range(lanes[c, ITEMS]):
        bound = items[c, i, BOUND]
        if bound >= soonest and bound > cycle:
            continue
        code = items[c, i, NEXT]
        if code == MULTIPLY:
            if items[c, i, BEHIND] != epoch:
                continue
            if multiply_from > cycle:
                soonest = min(soonest, max(multiply_from, bound))
                continue
            if best >= 0 and bound <= cycle and items[c, i, AGE] > items[c, best, AGE]:
                next_multiply = min(next_multiply, items[c, i, AGE])
                continue
        else:
            is_row = is_row_code(code)
            if not is_row and items[c, i, BEHIND] != epoch:
                continue
            # Row commands, and in the reference moves too, yield to a queued row hit on the same
            # bank address, in whichever pseudo-channel; the head of the queue does not.
            if is_row or moves_yield == 1:
                bank = (items[c, i, KEY] >> CODE_BITS) & BANK_MASK
                if hits[c, bank & bank_mask] > 0:
                    if head < 0:
                        head = head_item(items, lanes, c)
                    if i != head:
                        oldest_yielding = min(oldest_yielding, items[c, i, AGE])
                        continue
        behind_a_move = (
            best >= 0
            and is_move_code(code)
            and is_move_code(items[c, best, NEXT])
            and items[c, i, AGE] > items[c, best, AGE]
        )
        if bound <= cycle and not behind_a_move:
            bound = item_ready(i, items, waits, times, awaited, happened, c)
            items[c, i, BOUND] = bound
        if bound > cycle:
            soonest = min(soonest, bound)
        elif best < 0:
            best = i
        else:
            other = i
            if items[c, i, AGE] < items[c, best, AGE]:
                other = best
                best = i
            code = items[c, other, NEXT]
            rows_ready |= is_row_code(code)
            multiplies_ready |= code == MULTIPLY
            if is_move_code(code):
                # One behind an older move may well not be ready: it does not issue now.
                moves_ready = True
                bank = (items[c, other, KEY] >> CODE_BITS) & BANK_MASK
                every &= bank
                some |= bank
    if rows_ready or multiplies_ready or moves_ready:
        code = items[c, best, NEXT]
        if rows_ready or is_row_code(code):
            soonest = cycle
        else:
            # The bus of column commands is taken in this cycle.
            if moves_ready:
                bank = (items[c, best, KEY] >> CODE_BITS) & BANK_MASK
                one_pseudo_channel = ((every & bank) ^ (some | bank)) & ~bank_mask == 0
                apart = moves_apart if one_pseudo_channel and code != MULTIPLY else 1
                soonest = min(soonest, cycle + apart)
            if multiplies_ready:
                soonest = min(soonest, cycle + (multiply_interval if code == MULTIPLY else 1))
    return best, soonest, oldest_yielding, next_multiply


@inlined
def enter(
    key: int, step: int, cycle: int, items: I64, entries: I64, lanes: I64, waits: I32, times: I64,
    row_slot: I32, open_rows: I64, bank_mask: int, hits: I32, awaited: I32,
    happened: I64, c: int,
) -> None:  # fmt: skip
    """Append a request to the queue of a class, to be seen from a cycle on.

    One that cannot issue then leaves its channel asleep until it can.
    """
    if lanes[c, LENGTH] == 0:
        lanes[c, WAKE] = cycle
    lanes[c, LENGTH] += 1
    if key == BARRIER:
        entries[c, lanes[c, BARRIERS], BARRIER_STEP] = step
        lanes[c, BARRIERS] += 1
        return
    behind = lanes[c, EPOCH] + lanes[c, BARRIERS]
    if lanes[c, BARRIERS] == 0:
        lanes[c, IN_FRONT] += 1
    entry = lanes[c, FREE]
    lanes[c, FREE] = entries[c, entry, LINK]
    entries[c, entry, STEP_OF] = step
    bank = (key >> CODE_BITS) & BANK_MASK
    n = lanes[c, ITEMS]
    # Most join the item that the one before them joined.
    i = lanes[c, JOINED]
    if i >= n or items[c, i, KEY] != key or items[c, i, BEHIND] != behind:
        i = n - 1
        while i >= 0 and (items[c, i, KEY] != key or items[c, i, BEHIND] != behind):
            i -= 1
    if i >= 0:
        lanes[c, JOINED] = i
        entries[c, items[c, i, LAST], LINK] = entry
        items[c, i, LAST] = entry
        items[c, i, LEFT] += 1
        if items[c, i, NEXT] == MULTIPLY:
            hits[c, bank & bank_mask] += 1
        return
    code = next_code(key, row_slot, open_rows, c)
    items[c, n, KEY] = key
    items[c, n, NEXT] = code
    items[c, n, BEHIND] = behind
    items[c, n, FIRST] = entry
    items[c, n, LAST] = entry
    items[c, n, LEFT] = 1
    items[c, n, AGE] = step
    lanes[c, ITEMS] = n + 1
    if code == MULTIPLY:
        hits[c, bank & bank_mask] += 1
    bound = item_ready(n, items, waits, times, awaited, happened, c)
    items[c, n, BOUND] = bound
    lanes[c, RUNS_BEFORE] = min(lanes[c, RUNS_BEFORE], bound)
    if lanes[c, BARRIERS] == 0 or is_row_code(code):
        lanes[c, WAKE] = min(lanes[c, WAKE], max(bound, cycle))


@inlined
def leave(i: int, items: I64, entries: I64, lanes: I64, c: int) -> bool:
    """Take the first request of an item out of the queue; return whether the item is gone."""
    entry = items[c, i, FIRST]
    following = entries[c, entry, LINK]
    entries[c, entry, LINK] = lanes[c, FREE]
    lanes[c, FREE] = entry
    lanes[c, LENGTH] -= 1
    lanes[c, IN_FRONT] -= 1
    items[c, i, LEFT] -= 1
    if items[c, i, LEFT] > 0:
        items[c, i, FIRST] = following
        items[c, i, AGE] = entries[c, following, STEP_OF]
        return False
    end = lanes[c, ITEMS] - 1
    lanes[c, ITEMS] = end
    if i < end:
        for column in range(ITEM_COLUMNS):
            items[c, i, column] = items[c, end, column]
    return True


@inlined
def pop_barrier(items: I64, entries: I64, lanes: I64, c: int) -> int:
    """Take the barrier at the head out of the queue; return its step."""
    step = entries[c, 0, BARRIER_STEP]
    lanes[c, LENGTH] -= 1
    lanes[c, BARRIERS] -= 1
    lanes[c, EPOCH] += 1
    for k in range(lanes[c, BARRIERS]):
        entries[c, k, BARRIER_STEP] = entries[c, k + 1, BARRIER_STEP]
    front = 0
    for i in range(lanes[c, ITEMS]):
        if items[c, i, BEHIND] == lanes[c, EPOCH]:
            front += items[c, i, LEFT]
    lanes[c, IN_FRONT] = front
    return step


@inlined
def maintenance(
    lanes: I64, fixed: I64, refresh_bank: I32, row_slot: I32, open_rows: I64, c: int
) -> tuple[int, int]:
    """Return the command by which a refresh that is due goes on, and its bank address.

    An all-bank refresh needs all rows of the channel closed, that of a bank the row of it.
    """
    bank = int(refresh_bank[lanes[c, REFRESHED] % len(refresh_bank)])
    if fixed[REFRESH_PER_BANK] == 1:
        return (PRECHARGE if open_rows[c, row_slot[bank]] >= 0 else REFRESH), bank
    for r in range(open_rows.shape[1]):
        if open_rows[c, r] >= 0:
            return PRECHARGE_ALL, bank
    return REFRESH, bank


@inlined
def signal(
    step: int, cycle: int, signals: I32, delays: I32, items: I64, lanes: I64, awaited: I32,
    happened: I64, c: int,
) -> int:  # fmt: skip
    """Make what a step signals happen; return when the first event takes effect, or `NEVER`.

    What waits for events takes the bus of the command that signals: it issues in a later cycle.
    """
    soonest = NEVER
    for k in range(signals.shape[1]):
        event = signals[step, k]
        if event > 0:
            effect = max(happened[c, event], cycle + delays[step, k])
            happened[c, event] = effect
            awaited[c, event] -= 1
            if awaited[c, event] == 0:
                soonest = min(soonest, max(effect, cycle + 1))
                for j in range(lanes[c, ITEMS]):
                    if items[c, j, BOUND] == NEVER:
                        items[c, j, BOUND] = 0
    return soonest


@inlined
def multiply_again(
    cycle: int, base: int, signals: I32, delays: I32, waits: I32, raises: I32, latency: I64,
    window: I32, multiply_interval: int, bank_mask: int, clock: I64, lanes: I64, items: I64,
    entries: I64, times: I64, recent: I64, hits: I32, awaited: I32, happened: I64, issued: I64,
    log: I64, windows: I64, window_cycles: int, width: I64, c: int,
) -> bool:  # fmt: skip
    """Issue the next multiply of a run, of which it is known that nothing comes before it.

    Returns:
        Whether the class sleeps until the following one. If not, it may issue a row command in
        this cycle.
    """
    i = lanes[c, RUNNING]
    bank = (items[c, i, KEY] >> CODE_BITS) & BANK_MASK
    at = entries[c, items[c, i, FIRST], STEP_OF]
    raise_gates(MULTIPLY, bank, cycle, raises, latency, window, times, recent, c)
    clock[PROGRESS] = cycle
    lanes[c, MULTIPLY_FROM] = cycle + multiply_interval
    hits[c, bank & bank_mask] -= 1
    gone = leave(i, items, entries, lanes, c)
    effect = signal(at - base, cycle, signals, delays, items, lanes, awaited, happened, c)
    record(cycle, MULTIPLY, c, at, bank, clock, log, issued, windows, window_cycles, width)
    before = min(lanes[c, RUNS_BEFORE], effect)
    lanes[c, RUNS_BEFORE] = before
    if gone or before <= cycle or items[c, i, AGE] >= lanes[c, RUNS_WHILE_OLDER]:
        lanes[c, RUNNING] = -1
        return False
    bound = item_ready(i, items, waits, times, awaited, happened, c)
    items[c, i, BOUND] = bound
    if bound > cycle + multiply_interval and lanes[c, RUNS_ALONE] == 0:
        lanes[c, RUNNING] = -1
        bound = cycle + multiply_interval
    if bound >= before:
        lanes[c, RUNNING] = -1
        bound = before
    lanes[c, WAKE] = bound
    return True


@kernel
def run_controllers(
    keys: I64, first: I32, last: I32, signals: I32, delays: I32, base: int, end: int, more: int,
    waits: I32, raises: I32, latency: I64, window: I32, row_slot: I32, refresh_bank: I32,
    fixed: I64,
    clock: I64, lanes: I64, items: I64, entries: I64, times: I64, recent: I64, open_rows: I64,
    hits: I32, awaited: I32, happened: I64,
    arriving: I64, arrival: I64, arrivals_end: I64, policy: I64 | None,
    desk: I64, queued: I64, counts: I64, writing: I64, bank_rows: I64, served: I64,
    issued: I64, log: I64, windows: I64, window_cycles: int, log_end: int, windows_end: int,
    width: I64, several: int | None,
) -> int:  # fmt: skip
    """Play (a piece of) a program on the controllers of one stack.

    Args:
        keys: (n,) key of each step's request.
        first: (n,) first class of channels that a step goes to.
        last: (n,) one past the last class.
        signals: (n, k) events that a step helps to make when it issues, 0 for none.
        delays: (n, k) cycles until that takes effect.
        base: number of the first step of these; k must be 0 if steps before it are queued.
        end: number of the step before which to stop entering.
        more: 1 to return once that step would enter, to be called again; 0 to end the program.
        waits: (codes, banks, width), see `attacc.pim.timing.tables.TimingTables`.
        raises: (codes, banks, width), as there.
        latency: (codes, width), as there.
        window: (codes, width), as there.
        row_slot: (banks,), as there.
        refresh_bank: (refreshes,), as there.
        fixed: as there.
        clock: see above; state, as all that follow up to ``happened``.
        lanes: (classes, columns) see above.
        items: (classes, QUEUE, columns) see above.
        entries: (classes, QUEUE, columns) see above.
        times: (classes, slots) cycles before which gates hold commands back.
        recent: (classes, slots, widest window) the last such cycles of windows.
        open_rows: (classes, row slots) -1 for none.
        hits: (classes, banks of a pseudo-channel) queued multiplies on open rows.
        awaited: (classes, events) steps that an event still waits for.
        happened: (classes, events) cycle in which it happens, as far as is known.
        arriving: (requests,) see `attacc.pim.timing.traffic_kernel.ordinary_cycle`; likewise all up
            to ``served``.
        arrival: as there.
        arrivals_end: as there.
        policy: as there; None without ordinary traffic.
        desk: as there.
        queued: as there.
        counts: as there.
        writing: as there.
        bank_rows: as there.
        served: as there.
        issued: (classes, codes) commands issued, counted up here.
        log: (k, 5) receives cycle, command, class, step (-1 for maintenance) and bank of the
            first k commands; (0, 5) where nobody asks.
        windows: (windows, codes) commands of all channels in each stretch of time, counted up.
        window_cycles: length of such a stretch, 0 for none.
        log_end: commands after which to return, for a longer log.
        windows_end: cycle after which to return, for more windows.
        width: (classes,) channels of each class.
        several: None if there is a single class. For this, and for no ordinary traffic, machine
            code of their own is compiled: without what they do not need, it is faster, and ready
            sooner.

    Returns:
        A status.
    """
    classes = 1 if several is None else len(lanes)
    bank_mask = fixed[BANKS_PER_PSEUDO_CHANNEL] - 1
    refresh_interval = fixed[REFRESH_INTERVAL]
    moves_yield = fixed[MOVES_YIELD]
    moves_apart = fixed[MOVES_APART]
    multiply_interval = fixed[MULTIPLY_INTERVAL]
    cycle = clock[CYCLE]
    step = clock[STEP]
    entering = clock[ENTERING]
    taken = False
    while True:
        # Requests enter in trace order until the next one's queue is full.
        while step < end:
            key = int(keys[step - base])
            if several is None:
                if lanes[0, LENGTH] >= QUEUE:
                    break
                enter(
                    key, step, cycle + 1, items, entries, lanes, waits, times, row_slot,
                    open_rows, bank_mask, hits, awaited, happened, 0,
                )  # fmt: skip
                step += 1
                continue
            beyond = last[step - base]
            if entering < 0:
                entering = int(first[step - base])
            while entering < beyond and lanes[entering, LENGTH] < QUEUE:
                enter(
                    key, step, cycle + 1, items, entries, lanes, waits, times, row_slot,
                    open_rows, bank_mask, hits, awaited, happened, entering,
                )  # fmt: skip
                entering += 1
            if entering < beyond:
                break
            step += 1
            entering = -1
        if step == end and more == 1:
            clock[CYCLE], clock[STEP], clock[ENTERING] = cycle, step, entering
            return OK
        if clock[LOGGED] > log_end or cycle > windows_end:
            clock[CYCLE], clock[STEP], clock[ENTERING] = cycle, step, entering
            return FULL

        if several is None and policy is None and lanes[0, RUNNING] >= 0:
            # With a single class there is nobody else to look at.
            following = lanes[0, WAKE]
            if following < lanes[0, RUNS_BEFORE] and following < clock[NEXT_REFRESH]:
                cycle = following
                if multiply_again(
                    cycle, base, signals, delays, waits, raises, latency, window,
                    multiply_interval, bank_mask, clock, lanes, items, entries, times, recent,
                    hits, awaited, happened, issued, log, windows, window_cycles, width, 0,
                ):  # fmt: skip
                    continue
                taken = True  # the bus of column commands, in this cycle
                lanes[0, WAKE] = cycle

        cycle = clock[NEXT_REFRESH]
        for c in range(classes):
            cycle = min(cycle, lanes[c, WAKE])
        if cycle - clock[PROGRESS] > PATIENCE * refresh_interval:
            clock[CYCLE] = cycle
            return STUCK
        if cycle == clock[NEXT_REFRESH]:
            clock[NEXT_REFRESH] += refresh_interval
            for c in range(classes):
                lanes[c, RUNNING] = -1
                lanes[c, DUE] += fixed[REFRESHES_PER_INTERVAL]
                lanes[c, WAKE] = cycle

        for c in range(classes):
            if lanes[c, WAKE] > cycle:
                continue
            if policy is not None and ordinary_cycle(
                cycle, c, arriving, arrival, arrivals_end, policy, desk, queued, counts, writing,
                bank_rows, served, waits, raises, latency, window, row_slot, refresh_bank, fixed,
                clock, lanes, items, times, recent, open_rows, hits, issued, log, windows,
                window_cycles, width,
            ):  # fmt: skip
                continue
            lanes[c, WAKE] = NEVER
            first_was_row = False
            begin = 0
            if taken:
                begin = 1
                taken = False
            elif several is not None and lanes[c, RUNNING] >= 0 and cycle < lanes[c, RUNS_BEFORE]:
                if multiply_again(
                    cycle, base, signals, delays, waits, raises, latency, window,
                    multiply_interval, bank_mask, clock, lanes, items, entries, times, recent,
                    hits, awaited, happened, issued, log, windows, window_cycles, width, c,
                ):  # fmt: skip
                    continue
                begin = 1
            lanes[c, RUNNING] = -1
            # Two passes: at most one row command and one column command.
            for attempt in range(begin, 2):
                at = -1
                soonest = cycle  # lower bound of when another command may issue
                if attempt == 0 and lanes[c, DUE] > 0:
                    # Maintenance goes first.
                    first_was_row = True
                    code, bank = maintenance(lanes, fixed, refresh_bank, row_slot, open_rows, c)
                    ready = ready_cycle(code, bank, waits, times, c)
                    if ready > cycle:
                        lanes[c, WAKE] = ready
                        continue
                    if code == REFRESH:
                        lanes[c, DUE] -= 1
                        lanes[c, REFRESHED] += 1
                    else:
                        if code == PRECHARGE_ALL:
                            for r in range(open_rows.shape[1]):
                                open_rows[c, r] = -1
                        else:
                            open_rows[c, row_slot[bank]] = -1
                        note_rows(items, lanes, row_slot, open_rows, bank_mask, hits, c)
                    lanes[c, WAKE] = cycle + 1
                    raise_gates(code, bank, cycle, raises, latency, window, times, recent, c)
                else:
                    if lanes[c, BARRIERS] > 0 and lanes[c, IN_FRONT] == 0:
                        pop_barrier(items, entries, lanes, c)
                        clock[PROGRESS] = cycle
                    if lanes[c, LENGTH] == 0:
                        break
                    if lanes[c, IN_FRONT] == 0:
                        # A command of neither bus, which leaves its queue and ends the cycle.
                        at = pop_barrier(items, entries, lanes, c)
                        record(
                            cycle, BARRIER, c, at, 0, clock, log, issued, windows, window_cycles,
                            width,
                        )  # fmt: skip
                        lanes[c, WAKE] = cycle + 1
                        clock[PROGRESS] = cycle
                        break
                    i, soonest, oldest_yielding, next_multiply = select(
                        cycle, items, lanes, waits, times, bank_mask, moves_yield,
                        multiply_interval, moves_apart, hits, awaited, happened, c,
                    )  # fmt: skip
                    yielding = oldest_yielding < NEVER
                    if i < 0:
                        lanes[c, WAKE] = min(lanes[c, WAKE], soonest)
                        break  # in the first pass, the second one would choose the same
                    key = items[c, i, KEY]
                    code = items[c, i, NEXT]
                    bank = (key >> CODE_BITS) & BANK_MASK
                    is_row = is_row_code(code)
                    if attempt == 0:
                        first_was_row = is_row
                    elif is_row == first_was_row:
                        lanes[c, WAKE] = cycle + 1  # the bus is taken
                        break
                    at = entries[c, items[c, i, FIRST], STEP_OF]
                    raise_gates(code, bank, cycle, raises, latency, window, times, recent, c)
                    if is_row:
                        row = (key >> ROW_SHIFT) & ROW_MASK
                        open_rows[c, row_slot[bank]] = row if code == ACTIVATE else -1
                        note_rows(items, lanes, row_slot, open_rows, bank_mask, hits, c)
                        soonest = cycle
                    else:
                        clock[PROGRESS] = cycle
                        gone = leave(i, items, entries, lanes, c)
                        if code == MULTIPLY:
                            where = bank & bank_mask
                            hits[c, where] -= 1
                            lanes[c, MULTIPLY_FROM] = cycle + multiply_interval
                            if yielding and hits[c, where] == 0:
                                soonest = cycle  # nothing yields to it any longer
                        if (
                            yielding
                            and lanes[c, ITEMS] > 0
                            and items[c, head_item(items, lanes, c), AGE] == oldest_yielding
                        ):
                            soonest = cycle  # the head yields to none
                        effect = signal(
                            at - base, cycle, signals, delays, items, lanes, awaited, happened, c
                        )  # fmt: skip
                        soonest = min(soonest, effect)
                        if not gone and soonest > cycle:
                            bound = item_ready(i, items, waits, times, awaited, happened, c)
                            items[c, i, BOUND] = bound
                            if (
                                code == MULTIPLY
                                and attempt == 0
                                and policy is None
                                and bound < soonest
                                and items[c, i, AGE] < next_multiply
                                and (bound <= cycle + multiply_interval or next_multiply == NEVER)
                            ):
                                lanes[c, RUNNING] = i
                                lanes[c, RUNS_BEFORE] = soonest
                                lanes[c, RUNS_WHILE_OLDER] = min(oldest_yielding, next_multiply)
                                lanes[c, RUNS_ALONE] = 1 if next_multiply == NEVER else 0
                            soonest = min(soonest, bound)
                    if next_multiply < NEVER:
                        after = multiply_interval if code == MULTIPLY else 0 if is_row else 1
                        soonest = min(soonest, cycle + after)
                    if attempt == 1:
                        lanes[c, WAKE] = cycle + 1
                record(cycle, code, c, at, bank, clock, log, issued, windows, window_cycles, width)
                if (
                    soonest > cycle
                    and attempt == 0
                    and (lanes[c, IN_FRONT] > 0 or lanes[c, BARRIERS] == 0)
                ):
                    lanes[c, WAKE] = soonest  # no second command
                    break
            if policy is not None:
                lanes[c, WAKE] = min(lanes[c, WAKE], desk[c, DEADLINE])
                if lanes[c, LENGTH] == 0 and desk[c, WAITING] > 0:
                    lanes[c, WAKE] = min(lanes[c, WAKE], cycle + 1)

        if step == end:
            left = 0
            for c in range(classes):
                left += lanes[c, LENGTH] + lanes[c, DUE]
                if policy is not None:
                    left += desk[c, WAITING] + arrivals_end[c] - desk[c, NEXT_ARRIVAL]
            if left == 0:
                clock[CYCLE], clock[STEP], clock[ENTERING] = cycle, step, entering
                return OK


@kernel
def pack_stream(
    kind: npt.NDArray[np.uint8], address: I64, waits: I32, signals: I32, code_of: I64,
    bank_shift: int, row_shift: int, row_mask: int, keys: I64, producers: I32,
) -> int:  # fmt: skip
    """Pack steps into keys.

    Args:
        kind: (n,) kinds of the steps.
        address: (n,) addresses.
        waits: (n,) events waited for; (0,) for none.
        signals: (n, k) events signalled.
        code_of: (kinds,) code of each kind.
        bank_shift: bits below the bank's number in an address.
        row_shift: bits below the row.
        row_mask: of the row, after shifting.
        keys: (n,) receives the keys.
        producers: (events + 1,) zeros; receives how many steps signal each event.

    Returns:
        The number of steps.
    """
    for i in range(len(kind)):
        code = code_of[kind[i]]
        key = code
        if code != BARRIER:
            key |= (address[i] >> bank_shift) << CODE_BITS
            if code == MULTIPLY:
                key |= ((address[i] >> row_shift) & row_mask) << ROW_SHIFT
            if len(waits) > 0:
                key |= np.int64(waits[i]) << EVENT_SHIFT
        keys[i] = key
        for j in range(signals.shape[1]):
            if signals[i, j] > 0:
                producers[signals[i, j]] += 1
    return len(kind)


@kernel
def common_prefix(
    keys: I64, other_keys: I64, signals: I32, other_signals: I32, delays: I32, other_delays: I32,
    producers: I32, other_producers: I32,
) -> int:  # fmt: skip
    """Return how many first steps of two streams behave alike, whatever follows."""
    n = min(len(keys), len(other_keys))
    for i in range(n):
        if keys[i] != other_keys[i]:
            return i
        event = keys[i] >> EVENT_SHIFT
        if keys[i] != BARRIER and producers[event] != other_producers[event]:
            return i
        for j in range(signals.shape[1]):
            if signals[i, j] != other_signals[i, j] or delays[i, j] != other_delays[i, j]:
                return i
    return n
