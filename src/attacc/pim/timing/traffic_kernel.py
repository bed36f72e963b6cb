"""Ordinary reads and writes of one channel, beside the units' commands, compiled.

The policy is that of docs/traffic.md. Constants and small functions are shared with
`attacc.pim.timing.kernel`, which calls `ordinary_cycle` first in every cycle of a channel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import inlined, kernel
from attacc.pim.timing.controller_kernel import (
    ACTIVATE_BANK,
    BANK_MASK,
    BANKS_PER_PSEUDO_CHANNEL,
    CODE_BITS,
    CODE_MASK,
    DUE,
    LENGTH,
    NEVER,
    PRECHARGE,
    PRECHARGE_ALL,
    PRECHARGE_BANK,
    PROGRESS,
    REFRESH,
    REFRESH_PER_BANK,
    REFRESHED,
    ROW_MASK,
    ROW_SHIFT,
    WAKE,
    WRITE,
    note_rows,
    raise_gates,
    ready_cycle,
    record,
)

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

PIM = 0
ORDINARY = 1

ROW_BUS = 1
COLUMN_BUS = 2

# Columns of what is kept of each class of channels.
NEXT_ARRIVAL = 0
"""The request that arrives next."""
MODE = 1
SINCE = 2
"""Cycle in which the mode began."""
CHANGING = 3
"""1 while the mode is to change."""
DEADLINE = 4
"""In PIM mode: nothing is decided before this cycle, unless the units' queue becomes empty."""
WAITING = 5
"""Requests in the queues."""
DESK_COLUMNS = 6

# Columns of an entry of a queue.
REQUEST = 0
ENTERED = 1
QUEUED_COLUMNS = 2

# The policy, see `attacc.pim.program.traffic.TrafficPolicy`.
QUEUE_ENTRIES = 0
WRITE_HIGH = 1
WRITE_LOW = 2
TURN_PATIENCE = 3
TURN = 4


@inlined
def take_arrivals(
    cycle: int, arriving: I64, arrival: I64, arrivals_end: I64, policy: I64,
    banks_per_pseudo_channel: int, desk: I64, queued: I64, counts: I64, c: int,
) -> int:  # fmt: skip
    """Take what has arrived into the queues; return when more arrives, if it is not held back."""
    coming = desk[c, NEXT_ARRIVAL]
    while coming < arrivals_end[c]:
        if arrival[coming] > cycle:
            desk[c, NEXT_ARRIVAL] = coming
            return int(arrival[coming])
        key = int(arriving[coming])
        pseudo_channel = ((key >> CODE_BITS) & BANK_MASK) // banks_per_pseudo_channel
        q = 2 * pseudo_channel + (key & CODE_MASK == WRITE)
        if counts[c, q] >= policy[QUEUE_ENTRIES]:
            break
        queued[c, q, counts[c, q], REQUEST] = coming
        queued[c, q, counts[c, q], ENTERED] = cycle
        counts[c, q] += 1
        desk[c, WAITING] += 1
        coming += 1
    desk[c, NEXT_ARRIVAL] = coming
    return NEVER


@inlined
def decide_directions(
    cycle: int, policy: I64, queued: I64, counts: I64, writing: I64, c: int
) -> int:
    """Decide for each pseudo-channel whether it writes; return when a write will have got old."""
    again = NEVER
    for p in range(writing.shape[1]):
        reads, writes = counts[c, 2 * p], counts[c, 2 * p + 1]
        old = False
        if writes > 0:
            becomes_old = queued[c, 2 * p + 1, 0, ENTERED] + policy[TURN_PATIENCE]
            old = becomes_old <= cycle
            if not old:
                again = min(again, becomes_old)
        if writing[c, p] == 1:
            if writes == 0 or (writes <= policy[WRITE_LOW] and reads > 0 and not old):
                writing[c, p] = 0
        elif writes >= policy[WRITE_HIGH] or (reads == 0 and writes > 0) or old:
            writing[c, p] = 1
    return again


@inlined
def decide_mode(
    cycle: int, units_queue: int, policy: I64, desk: I64, queued: I64, counts: I64, c: int
) -> int:
    """Decide whether the mode is to change; return when that has to be decided again."""
    rested = desk[c, SINCE] + policy[TURN]
    if desk[c, MODE] == ORDINARY:
        if units_queue == 0:
            return NEVER
        if desk[c, WAITING] == 0 or cycle >= rested:
            desk[c, CHANGING] = 1
            return NEVER
        return rested
    if desk[c, WAITING] == 0:
        return NEVER
    again = NEVER
    for q in range(counts.shape[1]):
        if counts[c, q] > 0:
            waited = max(queued[c, q, 0, ENTERED], desk[c, SINCE]) + policy[TURN_PATIENCE]
            again = min(again, waited)
            if q % 2 == 1 and counts[c, q] >= policy[WRITE_HIGH]:
                again = min(again, rested)
    if units_queue == 0 or again <= cycle:
        desk[c, CHANGING] = 1
        return NEVER
    return again


@inlined
def any_open(rows: I64, c: int) -> bool:
    """Return whether any row is open."""
    found = False
    for r in range(rows.shape[1]):
        if rows[c, r] >= 0:
            found = True
    return found


@inlined
def finds_row(key: int, bank_rows: I64, c: int) -> bool:
    """Return whether a read or write finds its row open."""
    return bank_rows[c, (key >> CODE_BITS) & BANK_MASK] == (key >> ROW_SHIFT) & ROW_MASK


@inlined
def choose(
    cycle: int, buses: int, arriving: I64, queued: I64, counts: I64,
    writing: I64, bank_rows: I64, waits: I32, times: I64, c: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Choose the best command in ordinary mode, of those that take a bus that is free.

    Returns:
        The queue and the place in it of the request, -1 if none may issue; its command; and the
        first later cycle in which some command may issue, if none does now.
    """
    best_q, best_place, best_code = -1, -1, -1
    best_request = NEVER
    row_q, row_place, row_code = -1, -1, -1
    row_request = NEVER
    soonest = NEVER
    for p in range(writing.shape[1]):
        q = 2 * p + writing[c, p]
        for place in range(counts[c, q]):
            request = int(queued[c, q, place, REQUEST])
            key = int(arriving[request])
            bank = (key >> CODE_BITS) & BANK_MASK
            if finds_row(key, bank_rows, c):
                if buses & COLUMN_BUS == 0 or request > best_request:
                    continue
                code = key & CODE_MASK
                ready = ready_cycle(code, bank, waits, times, c)
                if ready <= cycle:
                    best_q, best_place, best_code, best_request = q, place, code, request
                else:
                    soonest = min(soonest, ready)
                continue
            if buses & ROW_BUS == 0 or request > row_request:
                continue
            code = ACTIVATE_BANK
            if bank_rows[c, bank] >= 0:
                code = PRECHARGE_BANK
                held = False
                for other in range(counts[c, q]):
                    other_key = int(arriving[queued[c, q, other, REQUEST]])
                    if (other_key >> CODE_BITS) & BANK_MASK == bank and finds_row(
                        other_key, bank_rows, c
                    ):
                        held = True
                        break
                if held:
                    continue
            ready = ready_cycle(code, bank, waits, times, c)
            if ready <= cycle:
                row_q, row_place, row_code, row_request = q, place, code, request
            else:
                soonest = min(soonest, ready)
    if best_q >= 0:
        return best_q, best_place, best_code, soonest
    return row_q, row_place, row_code, soonest


@kernel
def ordinary_cycle(
    cycle: int, c: int,
    arriving: I64, arrival: I64, arrivals_end: I64, policy: I64,
    desk: I64, queued: I64, counts: I64, writing: I64, bank_rows: I64, served: I64,
    waits: I32, raises: I32, latency: I64, window: I32, row_slot: I32, refresh_bank: I32,
    fixed: I64, clock: I64, lanes: I64, items: I64, times: I64, recent: I64, open_rows: I64,
    hits: I32, issued: I64, log: I64, windows: I64, window_cycles: int, width: I64,
) -> bool:  # fmt: skip
    """Do what ordinary traffic does in a cycle of channel class c.

    Args:
        cycle: now.
        c: the class.
        arriving: (requests,) keys, of one class after the other.
        arrival: (requests,) cycles.
        arrivals_end: (classes,) one past the last request of each class.
        policy: see above.
        desk: (classes, columns) see above; state, like the following up to ``bank_rows``.
        queued: (classes, 2 pseudo-channels, entries, columns) reads and writes of each
            pseudo-channel, by age.
        counts: (classes, 2 pseudo-channels) their numbers.
        writing: (classes, pseudo-channels) 1 where writes are served.
        bank_rows: (classes, banks) open rows in ordinary mode, -1 for none.
        served: (requests,) receives the cycle of each request's RD or WR.
        waits: see `attacc.pim.timing.kernel.run_controllers`, as for all that follow.
        raises: as in `run_controllers`.
        latency: as in `run_controllers`.
        window: as in `run_controllers`.
        row_slot: as in `run_controllers`.
        refresh_bank: as in `run_controllers`.
        fixed: as in `run_controllers`.
        clock: as in `run_controllers`.
        lanes: as in `run_controllers`.
        items: as in `run_controllers`.
        times: as in `run_controllers`.
        recent: as in `run_controllers`.
        open_rows: as in `run_controllers`.
        hits: as in `run_controllers`.
        issued: as in `run_controllers`.
        log: as in `run_controllers`; the step of request i is -2 - i.
        windows: as in `run_controllers`.
        window_cycles: as in `run_controllers`.
        width: as in `run_controllers`.

    Returns:
        Whether that was all: False in PIM mode, in which the units' commands are to issue.
    """
    banks_per_pseudo_channel = fixed[BANKS_PER_PSEUDO_CHANNEL]
    deadline = take_arrivals(
        cycle, arriving, arrival, arrivals_end, policy, banks_per_pseudo_channel, desk, queued,
        counts, c,
    )  # fmt: skip
    if desk[c, WAITING] == 0 and lanes[c, LENGTH] == 0 and deadline < NEVER:
        clock[PROGRESS] = cycle  # nothing to do before more arrives
    deadline = min(deadline, decide_directions(cycle, policy, queued, counts, writing, c))
    if desk[c, CHANGING] == 0:
        again = decide_mode(cycle, lanes[c, LENGTH], policy, desk, queued, counts, c)
        deadline = min(deadline, again)
    per_bank = fixed[REFRESH_PER_BANK] == 1
    if desk[c, CHANGING] == 1:
        in_pim = desk[c, MODE] == PIM
        if any_open(open_rows, c) if in_pim else any_open(bank_rows, c):
            code = PRECHARGE_ALL
            bank = int(refresh_bank[lanes[c, REFRESHED] % len(refresh_bank)])
            if lanes[c, DUE] > 0 and per_bank:
                code = REFRESH
                if in_pim and open_rows[c, row_slot[bank]] >= 0:
                    code = PRECHARGE
                elif not in_pim and bank_rows[c, bank] >= 0:
                    code = PRECHARGE_BANK
            ready = ready_cycle(code, bank, waits, times, c)
            if ready > cycle:
                lanes[c, WAKE] = min(ready, deadline)
                return True
            if code == REFRESH:
                lanes[c, DUE] -= 1
                lanes[c, REFRESHED] += 1
            for r in range(open_rows.shape[1]):
                if in_pim and (
                    code == PRECHARGE_ALL or (code == PRECHARGE and r == row_slot[bank])
                ):
                    open_rows[c, r] = -1
            for b in range(bank_rows.shape[1]):
                if not in_pim and (code == PRECHARGE_ALL or (code == PRECHARGE_BANK and b == bank)):
                    bank_rows[c, b] = -1
            if in_pim:
                note_rows(items, lanes, row_slot, open_rows, banks_per_pseudo_channel - 1, hits, c)
            raise_gates(code, bank, cycle, raises, latency, window, times, recent, c)
            record(cycle, code, c, -1, bank, clock, log, issued, windows, window_cycles, width)
            if not (any_open(open_rows, c) if in_pim else any_open(bank_rows, c)):
                desk[c, MODE] = ORDINARY if in_pim else PIM
                desk[c, SINCE] = cycle
                desk[c, CHANGING] = 0
            lanes[c, WAKE] = cycle + 1
            return True
        desk[c, MODE] = ORDINARY if in_pim else PIM
        desk[c, SINCE] = cycle
        desk[c, CHANGING] = 0
        lanes[c, WAKE] = NEVER
        # When the mode just entered is to be left again is decided in the next cycle.
        deadline = cycle + 1
    desk[c, DEADLINE] = deadline
    if desk[c, MODE] == PIM:
        return False

    wake = deadline
    first_was_row = False
    for attempt in range(2):
        if attempt == 0 and lanes[c, DUE] > 0:
            first_was_row = True
            bank = int(refresh_bank[lanes[c, REFRESHED] % len(refresh_bank)])
            code = REFRESH
            if per_bank and bank_rows[c, bank] >= 0:
                code = PRECHARGE_BANK
            elif not per_bank and any_open(bank_rows, c):
                code = PRECHARGE_ALL
            ready = ready_cycle(code, bank, waits, times, c)
            if ready > cycle:
                wake = min(wake, ready)
                continue
            if code == REFRESH:
                lanes[c, DUE] -= 1
                lanes[c, REFRESHED] += 1
            elif code == PRECHARGE_BANK:
                bank_rows[c, bank] = -1
            else:
                for b in range(bank_rows.shape[1]):
                    bank_rows[c, b] = -1
            step = -1
        else:
            free = ROW_BUS | COLUMN_BUS
            if attempt == 1:
                free = COLUMN_BUS if first_was_row else ROW_BUS
            q, place, code, soonest = choose(
                cycle, free, arriving, queued, counts, writing, bank_rows, waits, times, c,
            )  # fmt: skip
            if q < 0:
                wake = min(wake, soonest)
                if attempt == 0:
                    break
                continue
            request = int(queued[c, q, place, REQUEST])
            key = int(arriving[request])
            bank = (key >> CODE_BITS) & BANK_MASK
            step = -2 - request
            first_was_row = code in (ACTIVATE_BANK, PRECHARGE_BANK)
            if code == ACTIVATE_BANK:
                bank_rows[c, bank] = (key >> ROW_SHIFT) & ROW_MASK
            elif code == PRECHARGE_BANK:
                bank_rows[c, bank] = -1
            else:
                clock[PROGRESS] = cycle
                served[request] = cycle
                counts[c, q] -= 1
                desk[c, WAITING] -= 1
                for i in range(place, counts[c, q]):
                    queued[c, q, i, REQUEST] = queued[c, q, i + 1, REQUEST]
                    queued[c, q, i, ENTERED] = queued[c, q, i + 1, ENTERED]
        raise_gates(code, bank, cycle, raises, latency, window, times, recent, c)
        record(cycle, code, c, step, bank, clock, log, issued, windows, window_cycles, width)
        wake = cycle + 1
    lanes[c, WAKE] = wake
    return True
