"""The memory controllers of one stack, compiled.

The behaviour is that of reference/controller.md, cycle by cycle; cycles in which nothing can
change are skipped, and channels that receive the same requests are simulated once. Channels meet
only where requests enter: one full queue blocks all later requests.

Requests of a queue that are alike (same command, bank, row and awaited event, and no barrier
between them) are one *item*, because the first one holds back all of them. An item remembers a
lower bound of the cycle in which it may issue. Gates only rise, so a bound remains valid until a
row opens or closes or an event happens. The kernel looks at an item again when its bound is
reached.

A `State` holds all that is needed to continue with further requests, so that a program can be fed
piece by piece.

Commands and roles are the numbers of `attacc.pim.timing.tables.Code`. The constants below repeat
the numbers that the control flow names, since a kernel sees integers only.
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
    COLUMN_BUS,
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
    PROGRESS,
    QUEUE,
    REFRESH_INTERVAL,
    REFRESHES_PER_INTERVAL,
    ROW_BUS,
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
    Record,
    Requests,
    Rules,
    State,
    Traffic,
    is_move_code,
    is_row_code,
    maintain,
    maintenance,
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
def item_ready(i: int, state: State, rules: Rules, c: int) -> int:
    """Return the first cycle in which an item may issue, as far as is known.

    Rows open and close without waiting for an event.
    """
    code = state.items[c, i, NEXT]
    key = state.items[c, i, KEY]
    event = key >> EVENT_SHIFT
    happens = 0
    if event > 0 and not is_row_code(code):
        if state.awaited[c, event] > 0:
            return NEVER
        happens = state.happened[c, event]
    return max(happens, ready_cycle(code, (key >> CODE_BITS) & BANK_MASK, rules, state, c))


@inlined
def head_item(state: State, c: int) -> int:
    """Return the item at the head of a queue; the queue has an item, and no barrier at its head."""
    head = 0
    for i in range(1, state.lanes[c, ITEMS]):
        if state.items[c, i, AGE] < state.items[c, head, AGE]:
            head = i
    return head


@inlined
def select(
    cycle: int,
    state: State,
    rules: Rules,
    bank_mask: int,
    moves_yield: int,
    multiply_interval: int,
    moves_apart: int,
    c: int,
) -> tuple[int, int, int, int]:
    """Choose the best request of a queue without a barrier at its head: the oldest that may issue.

    Returns:
        The item of the best request, or -1 if none may issue now; a lower bound of the cycle in
        which another request may issue after the best one; the step of the oldest request that
        yields to row hits, `NEVER` for none; and the step of the next multiply of another item. The
        bound leaves out the last two.
    """
    best = -1
    soonest = NEVER
    head = -1
    oldest_yielding = NEVER
    next_multiply = NEVER
    rows_ready = multiplies_ready = moves_ready = False  # besides the best
    every, some = -1, 0  # bits set in the banks of all these moves, and of any of them
    epoch = state.lanes[c, EPOCH]
    multiply_from = state.lanes[c, MULTIPLY_FROM]
    for i in range(state.lanes[c, ITEMS]):
        bound = state.items[c, i, BOUND]
        if bound >= soonest and bound > cycle:
            continue
        code = state.items[c, i, NEXT]
        if code == MULTIPLY:
            if state.items[c, i, BEHIND] != epoch:
                continue
            if multiply_from > cycle:
                soonest = min(soonest, max(multiply_from, bound))
                continue
            if best >= 0 and bound <= cycle and state.items[c, i, AGE] > state.items[c, best, AGE]:
                next_multiply = min(next_multiply, state.items[c, i, AGE])
                continue
        else:
            is_row = is_row_code(code)
            if not is_row and state.items[c, i, BEHIND] != epoch:
                continue
            # Row commands, and in the reference moves too, yield to a queued row hit on the same
            # bank address, in whichever pseudo-channel; the head of the queue does not.
            if is_row or moves_yield == 1:
                bank = (state.items[c, i, KEY] >> CODE_BITS) & BANK_MASK
                if state.hits[c, bank & bank_mask] > 0:
                    if head < 0:
                        head = head_item(state, c)
                    if i != head:
                        oldest_yielding = min(oldest_yielding, state.items[c, i, AGE])
                        continue
        behind_a_move = (
            best >= 0
            and is_move_code(code)
            and is_move_code(state.items[c, best, NEXT])
            and state.items[c, i, AGE] > state.items[c, best, AGE]
        )
        if bound <= cycle and not behind_a_move:
            bound = item_ready(i, state, rules, c)
            state.items[c, i, BOUND] = bound
        if bound > cycle:
            soonest = min(soonest, bound)
        elif best < 0:
            best = i
        else:
            other = i
            if state.items[c, i, AGE] < state.items[c, best, AGE]:
                other = best
                best = i
            code = state.items[c, other, NEXT]
            rows_ready |= is_row_code(code)
            multiplies_ready |= code == MULTIPLY
            if is_move_code(code):
                # A move behind an older one need not be checked: it does not issue now.
                moves_ready = True
                bank = (state.items[c, other, KEY] >> CODE_BITS) & BANK_MASK
                every &= bank
                some |= bank
    if rows_ready or multiplies_ready or moves_ready:
        code = state.items[c, best, NEXT]
        if rows_ready or is_row_code(code):
            soonest = cycle
        else:
            # The bus of column commands is taken in this cycle.
            if moves_ready:
                bank = (state.items[c, best, KEY] >> CODE_BITS) & BANK_MASK
                one_pseudo_channel = ((every & bank) ^ (some | bank)) & ~bank_mask == 0
                apart = moves_apart if one_pseudo_channel and code != MULTIPLY else 1
                soonest = min(soonest, cycle + apart)
            if multiplies_ready:
                soonest = min(soonest, cycle + (multiply_interval if code == MULTIPLY else 1))
    return best, soonest, oldest_yielding, next_multiply


@inlined
def enter(
    key: int,
    step: int,
    cycle: int,
    state: State,
    rules: Rules,
    bank_mask: int,
    c: int,
) -> None:
    """Append a request to the queue of a class; it may issue from a cycle on.

    If the request cannot issue in that cycle, its channel stays asleep until it can.
    """
    if state.lanes[c, LENGTH] == 0:
        state.lanes[c, WAKE] = cycle
    state.lanes[c, LENGTH] += 1
    if key == BARRIER:
        state.entries[c, state.lanes[c, BARRIERS], BARRIER_STEP] = step
        state.lanes[c, BARRIERS] += 1
        return
    behind = state.lanes[c, EPOCH] + state.lanes[c, BARRIERS]
    if state.lanes[c, BARRIERS] == 0:
        state.lanes[c, IN_FRONT] += 1
    entry = state.lanes[c, FREE]
    state.lanes[c, FREE] = state.entries[c, entry, LINK]
    state.entries[c, entry, STEP_OF] = step
    bank = (key >> CODE_BITS) & BANK_MASK
    n = state.lanes[c, ITEMS]
    # Most requests join the item that the request before them joined.
    i = state.lanes[c, JOINED]
    if i >= n or state.items[c, i, KEY] != key or state.items[c, i, BEHIND] != behind:
        i = n - 1
        while i >= 0 and (state.items[c, i, KEY] != key or state.items[c, i, BEHIND] != behind):
            i -= 1
    if i >= 0:
        state.lanes[c, JOINED] = i
        state.entries[c, state.items[c, i, LAST], LINK] = entry
        state.items[c, i, LAST] = entry
        state.items[c, i, LEFT] += 1
        if state.items[c, i, NEXT] == MULTIPLY:
            state.hits[c, bank & bank_mask] += 1
        return
    code = next_code(key, rules, state, c)
    state.items[c, n, KEY] = key
    state.items[c, n, NEXT] = code
    state.items[c, n, BEHIND] = behind
    state.items[c, n, FIRST] = entry
    state.items[c, n, LAST] = entry
    state.items[c, n, LEFT] = 1
    state.items[c, n, AGE] = step
    state.lanes[c, ITEMS] = n + 1
    if code == MULTIPLY:
        state.hits[c, bank & bank_mask] += 1
    bound = item_ready(n, state, rules, c)
    state.items[c, n, BOUND] = bound
    state.lanes[c, RUNS_BEFORE] = min(state.lanes[c, RUNS_BEFORE], bound)
    if state.lanes[c, BARRIERS] == 0 or is_row_code(code):
        state.lanes[c, WAKE] = min(state.lanes[c, WAKE], max(bound, cycle))


@inlined
def leave(i: int, state: State, c: int) -> bool:
    """Take the first request of an item out of the queue; return whether the item is gone."""
    entry = state.items[c, i, FIRST]
    following = state.entries[c, entry, LINK]
    state.entries[c, entry, LINK] = state.lanes[c, FREE]
    state.lanes[c, FREE] = entry
    state.lanes[c, LENGTH] -= 1
    state.lanes[c, IN_FRONT] -= 1
    state.items[c, i, LEFT] -= 1
    if state.items[c, i, LEFT] > 0:
        state.items[c, i, FIRST] = following
        state.items[c, i, AGE] = state.entries[c, following, STEP_OF]
        return False
    end = state.lanes[c, ITEMS] - 1
    state.lanes[c, ITEMS] = end
    if i < end:
        for column in range(ITEM_COLUMNS):
            state.items[c, i, column] = state.items[c, end, column]
    return True


@inlined
def pop_barrier(state: State, c: int) -> int:
    """Take the barrier at the head out of the queue; return its step."""
    step = state.entries[c, 0, BARRIER_STEP]
    state.lanes[c, LENGTH] -= 1
    state.lanes[c, BARRIERS] -= 1
    state.lanes[c, EPOCH] += 1
    for k in range(state.lanes[c, BARRIERS]):
        state.entries[c, k, BARRIER_STEP] = state.entries[c, k + 1, BARRIER_STEP]
    front = 0
    for i in range(state.lanes[c, ITEMS]):
        if state.items[c, i, BEHIND] == state.lanes[c, EPOCH]:
            front += state.items[c, i, LEFT]
    state.lanes[c, IN_FRONT] = front
    return step


@inlined
def signal(
    step: int,
    cycle: int,
    requests: Requests,
    state: State,
    c: int,
) -> int:
    """Signal the events of a step; return when the first event takes effect, or `NEVER`.

    A step that waits for such an event uses the same bus as the signalling command, so it issues in
    a later cycle.
    """
    soonest = NEVER
    for k in range(requests.signals.shape[1]):
        event = requests.signals[step, k]
        if event > 0:
            effect = max(state.happened[c, event], cycle + requests.delays[step, k])
            state.happened[c, event] = effect
            state.awaited[c, event] -= 1
            if state.awaited[c, event] == 0:
                soonest = min(soonest, max(effect, cycle + 1))
                for j in range(state.lanes[c, ITEMS]):
                    if state.items[c, j, BOUND] == NEVER:
                        state.items[c, j, BOUND] = 0
    return soonest


@inlined
def multiply_again(
    cycle: int,
    base: int,
    requests: Requests,
    rules: Rules,
    state: State,
    room: Record,
    c: int,
) -> bool:
    """Issue the next multiply of a run; no other command can come before it.

    Returns:
        Whether the class sleeps until the following one. If not, it may issue a row command in
        this cycle.
    """
    multiply_interval = rules.fixed[MULTIPLY_INTERVAL]
    i = state.lanes[c, RUNNING]
    bank = (state.items[c, i, KEY] >> CODE_BITS) & BANK_MASK
    at = state.entries[c, state.items[c, i, FIRST], STEP_OF]
    raise_gates(MULTIPLY, bank, cycle, rules, state, c)
    state.clock[PROGRESS] = cycle
    state.lanes[c, MULTIPLY_FROM] = cycle + multiply_interval
    state.hits[c, bank & (rules.fixed[BANKS_PER_PSEUDO_CHANNEL] - 1)] -= 1
    gone = leave(i, state, c)
    effect = signal(at - base, cycle, requests, state, c)
    record(cycle, MULTIPLY, c, at, bank, state, room)
    before = min(state.lanes[c, RUNS_BEFORE], effect)
    state.lanes[c, RUNS_BEFORE] = before
    if gone or before <= cycle or state.items[c, i, AGE] >= state.lanes[c, RUNS_WHILE_OLDER]:
        state.lanes[c, RUNNING] = -1
        return False
    bound = item_ready(i, state, rules, c)
    state.items[c, i, BOUND] = bound
    if bound > cycle + multiply_interval and state.lanes[c, RUNS_ALONE] == 0:
        state.lanes[c, RUNNING] = -1
        bound = cycle + multiply_interval
    if bound >= before:
        state.lanes[c, RUNNING] = -1
        bound = before
    state.lanes[c, WAKE] = bound
    return True


@inlined
def enter_alone(
    step: int,
    end: int,
    base: int,
    cycle: int,
    requests: Requests,
    rules: Rules,
    state: State,
) -> int:
    """Let steps enter, in order, until the queue of the only class is full.

    Returns:
        The step that enters next.
    """
    bank_mask = rules.fixed[BANKS_PER_PSEUDO_CHANNEL] - 1
    while step < end and state.lanes[0, LENGTH] < QUEUE:
        enter(int(requests.keys[step - base]), step, cycle + 1, state, rules, bank_mask, 0)
        step += 1
    return step


@inlined
def enter_several(
    step: int,
    entering: int,
    end: int,
    base: int,
    cycle: int,
    requests: Requests,
    rules: Rules,
    state: State,
) -> tuple[int, int]:
    """Let steps enter, in order, until a class of the next step has a full queue.

    Args:
        step: the step that enters next.
        entering: the class that it enters next; -1 if it has entered no class.
        end: step before which to stop.
        base: number of the first step of the requests.
        cycle: the present cycle.
        requests: the steps.
        rules: the device.
        state: state of the controllers.

    Returns:
        The step that enters next, and the class that it enters next.
    """
    bank_mask = rules.fixed[BANKS_PER_PSEUDO_CHANNEL] - 1
    while step < end:
        key = int(requests.keys[step - base])
        beyond = requests.last[step - base]
        if entering < 0:
            entering = int(requests.first[step - base])
        while entering < beyond and state.lanes[entering, LENGTH] < QUEUE:
            enter(key, step, cycle + 1, state, rules, bank_mask, entering)
            entering += 1
        if entering < beyond:
            break
        step += 1
        entering = -1
    return step, entering


@inlined
def fall_due(cycle: int, classes: int, rules: Rules, state: State) -> None:
    """Make refreshes fall due in every class, and wake every class up."""
    state.clock[NEXT_REFRESH] += rules.fixed[REFRESH_INTERVAL]
    for c in range(classes):
        state.lanes[c, RUNNING] = -1
        state.lanes[c, DUE] += rules.fixed[REFRESHES_PER_INTERVAL]
        state.lanes[c, WAKE] = cycle


@inlined
def refresh(cycle: int, rules: Rules, state: State, room: Record, c: int) -> None:
    """Issue the next command of a refresh that is due, or sleep until it may issue."""
    code, bank = maintenance(state, rules, c)
    ready = ready_cycle(code, bank, rules, state, c)
    if ready > cycle:
        state.lanes[c, WAKE] = ready
        return
    maintain(code, bank, state, rules, c)
    state.lanes[c, WAKE] = cycle + 1
    raise_gates(code, bank, cycle, rules, state, c)
    record(cycle, code, c, -1, bank, state, room)


@inlined
def serve(
    i: int,
    cycle: int,
    base: int,
    may_run: int,
    soonest: int,
    oldest_yielding: int,
    next_multiply: int,
    requests: Requests,
    rules: Rules,
    state: State,
    c: int,
) -> int:
    """Take a request whose column command issues out of its queue, and update the state.

    Args:
        i: the item of the request.
        cycle: the present cycle.
        base: number of the first step of the requests.
        may_run: 1 if a run of multiplies may begin with this request.
        soonest: a lower bound of the cycle in which another command may issue.
        oldest_yielding: the step of the oldest request that yields to row hits.
        next_multiply: the step of the next multiply of another item.
        requests: the steps.
        rules: the device.
        state: state of the controllers.
        c: the class.

    Returns:
        The lower bound after the command.
    """
    multiply_interval = rules.fixed[MULTIPLY_INTERVAL]
    code = state.items[c, i, NEXT]
    yielding = oldest_yielding < NEVER
    at = state.entries[c, state.items[c, i, FIRST], STEP_OF]
    where = (state.items[c, i, KEY] >> CODE_BITS) & (rules.fixed[BANKS_PER_PSEUDO_CHANNEL] - 1)
    state.clock[PROGRESS] = cycle
    gone = leave(i, state, c)
    if code == MULTIPLY:
        state.hits[c, where] -= 1
        state.lanes[c, MULTIPLY_FROM] = cycle + multiply_interval
        if yielding and state.hits[c, where] == 0:
            soonest = cycle  # nothing yields to it any longer
    if (
        yielding
        and state.lanes[c, ITEMS] > 0
        and state.items[c, head_item(state, c), AGE] == oldest_yielding
    ):
        soonest = cycle  # the head yields to none
    soonest = min(soonest, signal(at - base, cycle, requests, state, c))
    if not gone and soonest > cycle:
        bound = item_ready(i, state, rules, c)
        state.items[c, i, BOUND] = bound
        if (
            code == MULTIPLY
            and may_run == 1
            and bound < soonest
            and state.items[c, i, AGE] < next_multiply
            and (bound <= cycle + multiply_interval or next_multiply == NEVER)
        ):
            state.lanes[c, RUNNING] = i
            state.lanes[c, RUNS_BEFORE] = soonest
            state.lanes[c, RUNS_WHILE_OLDER] = min(oldest_yielding, next_multiply)
            state.lanes[c, RUNS_ALONE] = 1 if next_multiply == NEVER else 0
        soonest = min(soonest, bound)
    return soonest


@inlined
def issue(
    cycle: int,
    base: int,
    taken: int,
    may_run: int,
    requests: Requests,
    rules: Rules,
    state: State,
    room: Record,
    c: int,
) -> int:
    """Issue the best command of a queue, if one may issue, and note when to look at it again.

    Args:
        cycle: the present cycle.
        base: number of the first step of the requests.
        taken: the bus that the first command of this cycle took; 0 for the first command.
        may_run: 1 if a run of multiplies may begin.
        requests: the steps.
        rules: the device.
        state: state of the controllers.
        room: arrays for the log and the windows.
        c: the class.

    Returns:
        The bus that the command took; 0 if the cycle has no further command.
    """
    bank_mask = rules.fixed[BANKS_PER_PSEUDO_CHANNEL] - 1
    multiply_interval = rules.fixed[MULTIPLY_INTERVAL]
    if state.lanes[c, BARRIERS] > 0 and state.lanes[c, IN_FRONT] == 0:
        pop_barrier(state, c)
        state.clock[PROGRESS] = cycle
    if state.lanes[c, LENGTH] == 0:
        return 0
    if state.lanes[c, IN_FRONT] == 0:
        # A command of neither bus, which leaves its queue and ends the cycle.
        at = pop_barrier(state, c)
        record(cycle, BARRIER, c, at, 0, state, room)
        state.lanes[c, WAKE] = cycle + 1
        state.clock[PROGRESS] = cycle
        return 0
    i, soonest, oldest_yielding, next_multiply = select(
        cycle,
        state,
        rules,
        bank_mask,
        rules.fixed[MOVES_YIELD],
        multiply_interval,
        rules.fixed[MOVES_APART],
        c,
    )
    if i < 0:
        state.lanes[c, WAKE] = min(state.lanes[c, WAKE], soonest)
        return 0  # in the first pass, the second one would choose the same
    key = state.items[c, i, KEY]
    code = state.items[c, i, NEXT]
    bank = (key >> CODE_BITS) & BANK_MASK
    bus = ROW_BUS if is_row_code(code) else COLUMN_BUS
    if bus == taken:
        state.lanes[c, WAKE] = cycle + 1
        return 0
    at = state.entries[c, state.items[c, i, FIRST], STEP_OF]
    raise_gates(code, bank, cycle, rules, state, c)
    if bus == ROW_BUS:
        row = (key >> ROW_SHIFT) & ROW_MASK
        state.open_rows[c, rules.row_slot[bank]] = row if code == ACTIVATE else -1
        note_rows(state, rules, bank_mask, c)
        soonest = cycle
    else:
        soonest = serve(
            i,
            cycle,
            base,
            may_run if taken == 0 else 0,
            soonest,
            oldest_yielding,
            next_multiply,
            requests,
            rules,
            state,
            c,
        )
    if next_multiply < NEVER:
        after = multiply_interval if code == MULTIPLY else 0 if bus == ROW_BUS else 1
        soonest = min(soonest, cycle + after)
    record(cycle, code, c, at, bank, state, room)
    if taken != 0:
        state.lanes[c, WAKE] = cycle + 1
        return 0
    if soonest > cycle and (state.lanes[c, IN_FRONT] > 0 or state.lanes[c, BARRIERS] == 0):
        state.lanes[c, WAKE] = soonest  # no second command
        return 0
    return bus


@kernel
def run_controllers(
    requests: Requests,
    base: int,
    end: int,
    more: int,
    until: int,
    rules: Rules,
    state: State,
    traffic: Traffic,
    policy: I64 | None,
    room: Record,
    several: int | None,
) -> int:
    """Play (a piece of) a program on the controllers of one stack.

    Args:
        requests: steps that enter.
        base: number of the first of these steps; if earlier steps are queued, the steps must have
            no signals (k = 0).
        end: number of the step before which to stop entering.
        more: 1 to return once the step `end` would enter, to be called again; 0 to end the
            program.
        until: cycle up to which rows are still refreshed after the last command; 0 to end with the
            last command.
        rules: the device.
        state: state of the controllers; it is changed.
        traffic: ordinary traffic; it is changed.
        policy: policy of ordinary traffic (`attacc.pim.timing.traffic_kernel`); None without
            traffic.
        room: arrays for the log and the windows.
        several: None if there is a single class and no ordinary traffic. Such a run, one of several
            classes, and one with ordinary traffic have machine code of their own, which is faster
            and takes less time to compile.

    Returns:
        A status.
    """
    # The arguments come as plain tuples (`attacc.compiled.plain`).
    requests, rules, state = Requests(*requests), Rules(*rules), State(*state)
    traffic, room = Traffic(*traffic), Record(*room)
    classes = 1 if several is None else len(state.lanes)
    cycle = state.clock[CYCLE]
    step = state.clock[STEP]
    entering = state.clock[ENTERING]
    runs = 1 if policy is None else 0
    taken = 0
    while True:
        if several is None:
            step = enter_alone(step, end, base, cycle, requests, rules, state)
        else:
            step, entering = enter_several(step, entering, end, base, cycle, requests, rules, state)
        if step == end and more == 1:
            state.clock[CYCLE], state.clock[STEP], state.clock[ENTERING] = cycle, step, entering
            return OK
        if state.clock[LOGGED] > room.log_end or cycle > room.windows_end:
            state.clock[CYCLE], state.clock[STEP], state.clock[ENTERING] = cycle, step, entering
            return FULL

        if several is None and policy is None and state.lanes[0, RUNNING] >= 0:
            # With a single class there is no other class to look at.
            following = state.lanes[0, WAKE]
            if following < state.lanes[0, RUNS_BEFORE] and following < state.clock[NEXT_REFRESH]:
                cycle = following
                if multiply_again(cycle, base, requests, rules, state, room, 0):
                    continue
                taken = COLUMN_BUS
                state.lanes[0, WAKE] = cycle

        cycle = state.clock[NEXT_REFRESH]
        for c in range(classes):
            cycle = min(cycle, state.lanes[c, WAKE])
        if until > 0 and cycle > until:
            state.clock[CYCLE] = until
            return OK
        if until == 0 and cycle - state.clock[PROGRESS] > PATIENCE * rules.fixed[REFRESH_INTERVAL]:
            state.clock[CYCLE] = cycle
            return STUCK
        if cycle == state.clock[NEXT_REFRESH]:
            fall_due(cycle, classes, rules, state)

        for c in range(classes):
            if state.lanes[c, WAKE] > cycle:
                continue
            if policy is not None and ordinary_cycle(cycle, c, traffic, policy, rules, state, room):
                continue
            state.lanes[c, WAKE] = NEVER
            if (
                several is not None
                and state.lanes[c, RUNNING] >= 0
                and cycle < state.lanes[c, RUNS_BEFORE]
            ):
                if multiply_again(cycle, base, requests, rules, state, room, c):
                    continue
                taken = COLUMN_BUS
            state.lanes[c, RUNNING] = -1
            # At most one row command and one column command; maintenance goes first.
            for _ in range(2):
                if taken == 0 and state.lanes[c, DUE] > 0:
                    refresh(cycle, rules, state, room, c)
                    taken = ROW_BUS
                    continue
                taken = issue(cycle, base, taken, runs, requests, rules, state, room, c)
                if taken == 0:
                    break
            taken = 0
            if policy is not None:
                state.lanes[c, WAKE] = min(state.lanes[c, WAKE], traffic.desk[c, DEADLINE])
                if state.lanes[c, LENGTH] == 0 and traffic.desk[c, WAITING] > 0:
                    state.lanes[c, WAKE] = min(state.lanes[c, WAKE], cycle + 1)

        if step == end and until == 0:
            left = 0
            for c in range(classes):
                left += state.lanes[c, LENGTH] + state.lanes[c, DUE]
                if policy is not None:
                    left += (
                        traffic.desk[c, WAITING]
                        + traffic.arrivals_end[c]
                        - traffic.desk[c, NEXT_ARRIVAL]
                    )
            if left == 0:
                state.clock[CYCLE], state.clock[STEP], state.clock[ENTERING] = cycle, step, entering
                return OK


@kernel
def pack_stream(
    kind: npt.NDArray[np.uint8], address: I64, waits: I32, signals: I32, code_of: I64,
    bank_shift: int, row_shift: int, row_mask: int, keys: I64, producers: I32,
) -> int:  # fmt: skip
    """Pack steps into keys.

    Args:
        kind: (n,) kinds of the steps.
        address: (n,) addresses of the steps.
        waits: (n,) event that each step waits for; (0,) for none.
        signals: (n, k) events that each step signals.
        code_of: (kinds,) code of each kind.
        bank_shift: bits below the bank's number in an address.
        row_shift: bits below the row in an address.
        row_mask: mask of the row, after shifting.
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
    """Return how many first steps of two streams behave alike, whatever steps follow."""
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
