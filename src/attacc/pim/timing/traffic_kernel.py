"""Ordinary reads and writes of one channel, beside the units' commands, compiled.

The policy is that of docs/model/traffic.md. Constants and small functions are shared with
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
    COLUMN_BUS,
    DUE,
    LENGTH,
    NEVER,
    PRECHARGE_ALL,
    PRECHARGE_BANK,
    PROGRESS,
    REFRESH,
    REFRESH_PER_BANK,
    REFRESHED,
    ROW_BUS,
    ROW_MASK,
    ROW_SHIFT,
    WAKE,
    WRITE,
    Record,
    Rules,
    State,
    Traffic,
    maintain,
    maintenance,
    raise_gates,
    ready_cycle,
    record,
)

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

PIM = 0
ORDINARY = 1

# Columns of the state of each class of channels.
NEXT_ARRIVAL = 0
"""The request that arrives next."""
MODE = 1
SINCE = 2
"""Cycle in which the mode began."""
CHANGING = 3
"""1 while the mode is to change."""
DEADLINE = 4
"""In PIM mode, the next decision is in this cycle, unless the units' queue becomes empty before."""
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
    cycle: int,
    traffic: Traffic,
    policy: I64,
    banks_per_pseudo_channel: int,
    c: int,
) -> int:
    """Queue requests that have arrived; return when the next one arrives, unless held back."""
    coming = traffic.desk[c, NEXT_ARRIVAL]
    while coming < traffic.arrivals_end[c]:
        if traffic.arrival[coming] > cycle:
            traffic.desk[c, NEXT_ARRIVAL] = coming
            return int(traffic.arrival[coming])
        key = int(traffic.arriving[coming])
        pseudo_channel = ((key >> CODE_BITS) & BANK_MASK) // banks_per_pseudo_channel
        q = 2 * pseudo_channel + (key & CODE_MASK == WRITE)
        if traffic.counts[c, q] >= policy[QUEUE_ENTRIES]:
            break
        traffic.queued[c, q, traffic.counts[c, q], REQUEST] = coming
        traffic.queued[c, q, traffic.counts[c, q], ENTERED] = cycle
        traffic.counts[c, q] += 1
        traffic.desk[c, WAITING] += 1
        coming += 1
    traffic.desk[c, NEXT_ARRIVAL] = coming
    return NEVER


@inlined
def decide_directions(cycle: int, policy: I64, traffic: Traffic, c: int) -> int:
    """Decide for each pseudo-channel whether it writes; return when the next write becomes old."""
    again = NEVER
    for p in range(traffic.writing.shape[1]):
        reads, writes = traffic.counts[c, 2 * p], traffic.counts[c, 2 * p + 1]
        old = False
        if writes > 0:
            becomes_old = traffic.queued[c, 2 * p + 1, 0, ENTERED] + policy[TURN_PATIENCE]
            old = becomes_old <= cycle
            if not old:
                again = min(again, becomes_old)
        if traffic.writing[c, p] == 1:
            if writes == 0 or (writes <= policy[WRITE_LOW] and reads > 0 and not old):
                traffic.writing[c, p] = 0
        elif writes >= policy[WRITE_HIGH] or (reads == 0 and writes > 0) or old:
            traffic.writing[c, p] = 1
    return again


@inlined
def decide_mode(cycle: int, units_queue: int, policy: I64, traffic: Traffic, c: int) -> int:
    """Decide whether the mode is to change; return when that has to be decided again."""
    rested = traffic.desk[c, SINCE] + policy[TURN]
    if traffic.desk[c, MODE] == ORDINARY:
        if units_queue == 0:
            return NEVER
        if traffic.desk[c, WAITING] == 0 or cycle >= rested:
            traffic.desk[c, CHANGING] = 1
            return NEVER
        return rested
    if traffic.desk[c, WAITING] == 0:
        return NEVER
    again = NEVER
    for q in range(traffic.counts.shape[1]):
        if traffic.counts[c, q] > 0:
            waited = (
                max(traffic.queued[c, q, 0, ENTERED], traffic.desk[c, SINCE])
                + policy[TURN_PATIENCE]
            )
            again = min(again, waited)
            if q % 2 == 1 and traffic.counts[c, q] >= policy[WRITE_HIGH]:
                again = min(again, rested)
    if units_queue == 0 or again <= cycle:
        traffic.desk[c, CHANGING] = 1
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
def finds_row(key: int, traffic: Traffic, c: int) -> bool:
    """Return whether a read or write finds its row open."""
    return traffic.bank_rows[c, (key >> CODE_BITS) & BANK_MASK] == (key >> ROW_SHIFT) & ROW_MASK


@inlined
def choose(
    cycle: int,
    buses: int,
    traffic: Traffic,
    rules: Rules,
    state: State,
    c: int,
) -> tuple[int, int, int, int]:
    """Choose the best command in ordinary mode, among the commands for a free bus.

    Returns:
        The queue of the request, -1 if none may issue; its place in the queue; its command; and
        the first later cycle in which a command may issue, if none may issue now.
    """
    best_q, best_place, best_code = -1, -1, -1
    best_request = NEVER
    row_q, row_place, row_code = -1, -1, -1
    row_request = NEVER
    soonest = NEVER
    for p in range(traffic.writing.shape[1]):
        q = 2 * p + traffic.writing[c, p]
        for place in range(traffic.counts[c, q]):
            request = int(traffic.queued[c, q, place, REQUEST])
            key = int(traffic.arriving[request])
            bank = (key >> CODE_BITS) & BANK_MASK
            if finds_row(key, traffic, c):
                if buses & COLUMN_BUS == 0 or request > best_request:
                    continue
                code = key & CODE_MASK
                ready = ready_cycle(code, bank, rules, state, c)
                if ready <= cycle:
                    best_q, best_place, best_code, best_request = q, place, code, request
                else:
                    soonest = min(soonest, ready)
                continue
            if buses & ROW_BUS == 0 or request > row_request:
                continue
            code = ACTIVATE_BANK
            if traffic.bank_rows[c, bank] >= 0:
                code = PRECHARGE_BANK
                held = False
                for other in range(traffic.counts[c, q]):
                    other_key = int(traffic.arriving[traffic.queued[c, q, other, REQUEST]])
                    if (other_key >> CODE_BITS) & BANK_MASK == bank and finds_row(
                        other_key, traffic, c
                    ):
                        held = True
                        break
                if held:
                    continue
            ready = ready_cycle(code, bank, rules, state, c)
            if ready <= cycle:
                row_q, row_place, row_code, row_request = q, place, code, request
            else:
                soonest = min(soonest, ready)
    if best_q >= 0:
        return best_q, best_place, best_code, soonest
    return row_q, row_place, row_code, soonest


@inlined
def host_maintenance(traffic: Traffic, rules: Rules, state: State, c: int) -> tuple[int, int]:
    """Return the next refresh command as `maintenance` does, for the rows of ordinary mode."""
    bank = int(rules.refresh_bank[state.lanes[c, REFRESHED] % len(rules.refresh_bank)])
    if rules.fixed[REFRESH_PER_BANK] == 1:
        return (PRECHARGE_BANK if traffic.bank_rows[c, bank] >= 0 else REFRESH), bank
    return (PRECHARGE_ALL if any_open(traffic.bank_rows, c) else REFRESH), bank


@inlined
def maintain_host(code: int, bank: int, traffic: Traffic, state: State, c: int) -> None:
    """Note closed rows and refreshes as `maintain` does, for the rows of ordinary mode."""
    if code == REFRESH:
        state.lanes[c, DUE] -= 1
        state.lanes[c, REFRESHED] += 1
    elif code == PRECHARGE_BANK:
        traffic.bank_rows[c, bank] = -1
    else:
        for b in range(traffic.bank_rows.shape[1]):
            traffic.bank_rows[c, b] = -1


@inlined
def change_mode(
    cycle: int,
    deadline: int,
    traffic: Traffic,
    rules: Rules,
    state: State,
    room: Record,
    c: int,
) -> bool:
    """Close the rows that a change of mode needs closed, and change it once none is open.

    Returns:
        Whether the cycle ends with this.
    """
    mode = traffic.desk[c, MODE]
    closing = any_open(state.open_rows, c) if mode == PIM else any_open(traffic.bank_rows, c)
    if closing:
        if mode == PIM:
            code, bank = maintenance(state, rules, c)
        else:
            code, bank = host_maintenance(traffic, rules, state, c)
        if state.lanes[c, DUE] == 0:
            code = PRECHARGE_ALL
        ready = ready_cycle(code, bank, rules, state, c)
        if ready > cycle:
            state.lanes[c, WAKE] = min(ready, deadline)
            return True
        if mode == PIM:
            maintain(code, bank, state, rules, c)
        else:
            maintain_host(code, bank, traffic, state, c)
        raise_gates(code, bank, cycle, rules, state, c)
        record(cycle, code, c, -1, bank, state, room)
        state.lanes[c, WAKE] = cycle + 1
        if any_open(state.open_rows, c) if mode == PIM else any_open(traffic.bank_rows, c):
            return True
    else:
        state.lanes[c, WAKE] = NEVER
    traffic.desk[c, MODE] = ORDINARY if mode == PIM else PIM
    traffic.desk[c, SINCE] = cycle
    traffic.desk[c, CHANGING] = 0
    return closing


@inlined
def leave_queue(q: int, place: int, cycle: int, traffic: Traffic, state: State, c: int) -> None:
    """Take a request that is served out of its queue."""
    state.clock[PROGRESS] = cycle
    traffic.served[traffic.queued[c, q, place, REQUEST]] = cycle
    traffic.counts[c, q] -= 1
    traffic.desk[c, WAITING] -= 1
    for i in range(place, traffic.counts[c, q]):
        traffic.queued[c, q, i, REQUEST] = traffic.queued[c, q, i + 1, REQUEST]
        traffic.queued[c, q, i, ENTERED] = traffic.queued[c, q, i + 1, ENTERED]


@inlined
def serve_host(
    cycle: int,
    deadline: int,
    traffic: Traffic,
    rules: Rules,
    state: State,
    room: Record,
    c: int,
) -> int:
    """Issue at most one command on each bus in ordinary mode; return when to look again."""
    wake = deadline
    free = ROW_BUS | COLUMN_BUS
    for attempt in range(2):
        if attempt == 0 and state.lanes[c, DUE] > 0:
            free = COLUMN_BUS
            step = -1
            code, bank = host_maintenance(traffic, rules, state, c)
            ready = ready_cycle(code, bank, rules, state, c)
            if ready > cycle:
                wake = min(wake, ready)
                continue
            maintain_host(code, bank, traffic, state, c)
        else:
            q, place, code, soonest = choose(cycle, free, traffic, rules, state, c)
            if q < 0:
                wake = min(wake, soonest)
                break
            request = int(traffic.queued[c, q, place, REQUEST])
            key = int(traffic.arriving[request])
            bank = (key >> CODE_BITS) & BANK_MASK
            step = -2 - request
            free = COLUMN_BUS
            if code == ACTIVATE_BANK:
                traffic.bank_rows[c, bank] = (key >> ROW_SHIFT) & ROW_MASK
            elif code == PRECHARGE_BANK:
                traffic.bank_rows[c, bank] = -1
            else:
                free = ROW_BUS
                leave_queue(q, place, cycle, traffic, state, c)
        raise_gates(code, bank, cycle, rules, state, c)
        record(cycle, code, c, step, bank, state, room)
        wake = cycle + 1
    return wake


@kernel
def ordinary_cycle(
    cycle: int,
    c: int,
    traffic: Traffic,
    policy: I64,
    rules: Rules,
    state: State,
    room: Record,
) -> bool:
    """Play ordinary traffic for one cycle of channel class c.

    Args:
        cycle: the present cycle.
        c: the class.
        traffic: the requests that arrive, and the state of their queues and banks.
        policy: numbers of the policy, by the constants above.
        rules: the device.
        state: state of the controllers.
        room: arrays for the log and the windows; the step of request i is -2 - i.

    Returns:
        Whether the cycle is complete. It is not in PIM mode, where the units' commands follow.
    """
    deadline = take_arrivals(cycle, traffic, policy, rules.fixed[BANKS_PER_PSEUDO_CHANNEL], c)
    if traffic.desk[c, WAITING] == 0 and state.lanes[c, LENGTH] == 0 and deadline < NEVER:
        state.clock[PROGRESS] = cycle  # nothing to do before more arrives
    deadline = min(deadline, decide_directions(cycle, policy, traffic, c))
    if traffic.desk[c, CHANGING] == 0:
        again = decide_mode(cycle, state.lanes[c, LENGTH], policy, traffic, c)
        deadline = min(deadline, again)
    if traffic.desk[c, CHANGING] == 1:
        if change_mode(cycle, deadline, traffic, rules, state, room, c):
            return True
        # The next cycle decides when to leave the mode that was just entered.
        deadline = cycle + 1
    traffic.desk[c, DEADLINE] = deadline
    if traffic.desk[c, MODE] == PIM:
        return False
    state.lanes[c, WAKE] = serve_host(cycle, deadline, traffic, rules, state, room, c)
    return True
