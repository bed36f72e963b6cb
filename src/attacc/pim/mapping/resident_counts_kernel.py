"""The compiled dealer of `resident_counts`. The naive twin is `residence.Residence`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import inlined, kernel
from attacc.pim.mapping.resident_places import (
    CAPACITY,
    CHANNEL,
    GRAIN,
    HEAD,
    LAYERS,
    LOAD,
    LONGEST,
    OVERHEAD,
    ROWS,
    STACK,
    START,
)

I64 = npt.NDArray[np.int64]


@inlined
def room(free: int, room_of: I64, sizes: I64) -> int:
    """Return for how many keys of all layers a number of free rows has room."""
    return int(room_of[min(free // sizes[LAYERS], len(room_of) - 1)])


@inlined
def piece(load: int, left: int, level: int, sizes: I64) -> int:
    """Return how many of the keys that are left a channel of a load should get."""
    grain = sizes[GRAIN]
    below = level - load - sizes[OVERHEAD]
    return min(left, sizes[LONGEST], max(grain, below // grain * grain))


@inlined
def find(loads: I64, free: I64, room_of: I64, sizes: I64, stack: int, wanted: int) -> int:
    """Return the least loaded channel with room for the wanted keys, or else the one with most."""
    fitting = -1
    widest = -1
    most = 0
    for channel in range(loads.shape[1]):
        load = loads[stack, channel]
        here = room(free[stack, channel], room_of, sizes)
        if here >= wanted and (fitting < 0 or load < loads[stack, fitting]):
            fitting = channel
        if widest < 0 or here > most or (here == most and load < loads[stack, widest]):
            widest = channel
            most = here
    return fitting if fitting >= 0 else widest


@inlined
def cut(
    loads: I64, free: I64, rows_of: I64, room_of: I64, sizes: I64, chunks: I64, count: I64,
    stack: int, head: int, at: int, end: int, level: int, growing: int,
) -> int:  # fmt: skip
    """Deal keys of a head out to channels of a stack; return the first key without room."""
    while at < end:
        least = 0
        for which in range(1, loads.shape[1]):
            if loads[stack, which] < loads[stack, least]:
                least = which
        wanted = piece(loads[stack, least], end - at, level, sizes)
        channel = find(loads, free, room_of, sizes, stack, wanted)
        here = room(free[stack, channel], room_of, sizes)
        keys = min(wanted, here)
        if here >= wanted:
            keys = min(piece(loads[stack, channel], end - at, level, sizes), here)
        if keys < 1:
            return at
        capacity = keys
        if at + keys == end:
            whole = min(rows_of[max(keys, growing)], len(room_of) - 1)
            capacity = max(keys, min(room_of[whole], here))
        n = count[0]
        chunks[HEAD, n] = head
        chunks[START, n] = at
        chunks[CAPACITY, n] = capacity
        chunks[STACK, n] = stack
        chunks[CHANNEL, n] = channel
        chunks[LOAD, n] = keys + sizes[OVERHEAD]
        chunks[ROWS, n] = sizes[LAYERS] * rows_of[capacity]
        loads[stack, channel] += chunks[LOAD, n]
        free[stack, channel] -= chunks[ROWS, n]
        count[0] = n + 1
        at += keys
    return at


@inlined
def undo(loads: I64, free: I64, chunks: I64, count: I64, before: int) -> None:
    """Remove the last chunks until `before` are left."""
    for n in range(before, count[0]):
        loads[chunks[STACK, n], chunks[CHANNEL, n]] -= chunks[LOAD, n]
        free[chunks[STACK, n], chunks[CHANNEL, n]] += chunks[ROWS, n]
    count[0] = before


@inlined
def level_of(loads: I64, stack: int, keys: int, heads: int, sizes: I64) -> int:
    """Return the load of every channel if a stack were filled evenly, in whole grains."""
    total = keys + sizes[OVERHEAD] * heads
    for channel in range(loads.shape[1]):
        total += loads[stack, channel]
    grain = sizes[GRAIN]
    return -(-total // (loads.shape[1] * grain)) * grain


@inlined
def sort_stacks(loads: I64, totals: I64, order: I64) -> None:
    """Write the stacks, the least loaded first; of equal ones, the first."""
    for stack in range(len(totals)):
        totals[stack] = 0
        for channel in range(loads.shape[1]):
            totals[stack] += loads[stack, channel]
        at = stack
        while at > 0 and totals[order[at - 1]] > totals[stack]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = stack


@inlined
def give_stacks(length: int, starts: I64, homes: I64, loads: I64, sizes: I64, totals: I64) -> None:
    """Give every short head without a stack to the stack that is then the least loaded."""
    for stack in range(len(totals)):
        totals[stack] = 0
        for channel in range(loads.shape[1]):
            totals[stack] += loads[stack, channel]
    for head in range(len(starts)):
        if starts[head] < length:
            if homes[head] < 0:
                least = 0
                for stack in range(1, len(totals)):
                    if totals[stack] < totals[least]:
                        least = stack
                homes[head] = least
            totals[homes[head]] += length - starts[head] + sizes[OVERHEAD]


@inlined
def deal_elsewhere(
    length: int, start: int, head: int, growing: int, loads: I64, free: I64, rows_of: I64,
    room_of: I64, sizes: I64, chunks: I64, count: I64, totals: I64, order: I64,
) -> int:  # fmt: skip
    """Deal a head out to another stack as a whole, or else to several; return keys without room."""
    sort_stacks(loads, totals, order)
    for which in range(len(order)):
        before = count[0]
        level = level_of(loads, order[which], length - start, 1, sizes)
        if length == cut(
            loads, free, rows_of, room_of, sizes, chunks, count, order[which], head, start, length,
            level, growing,
        ):  # fmt: skip
            return 0
        undo(loads, free, chunks, count, before)
    at = start
    for which in range(len(order)):
        level = level_of(loads, order[which], length - at, 1, sizes)
        at = cut(
            loads, free, rows_of, room_of, sizes, chunks, count, order[which], head, at, length,
            level, growing,
        )  # fmt: skip
    return length - at


@kernel
def deal(
    length: int, growing: int, starts: I64, homes: I64, loads: I64, free: I64, rows_of: I64,
    room_of: I64, sizes: I64, chunks: I64, count: I64, left: I64, totals: I64, order: I64,
) -> int:  # fmt: skip
    """Deal out the keys for which the heads of a request have no room yet.

    Args:
        length: keys of each head.
        growing: least room of the last chunk of a head, in keys.
        starts: (heads,) first key of each head that has no room.
        homes: (heads,) stack of each head, or -1 for a head without chunks; receives the stacks.
        loads: (stacks, channels) keys, and the overhead of each chunk; receives the new loads.
        free: (stacks, channels) free rows; receives what remains.
        rows_of: (longest + 1,) rows of one layer that a chunk of so many keys takes.
        room_of: (n,) keys for which so many rows of one layer have room; more rows have no more.
        sizes: (4,) see `LONGEST`.
        chunks: (7, room) receives the chunks.
        count: (1,) zero; receives the number of chunks.
        left: (heads,) working space.
        totals: (stacks,) working space.
        order: (stacks,) working space.

    Returns:
        The keys for which no room was found.
    """
    give_stacks(length, starts, homes, loads, sizes, totals)
    left[:] = 0
    others = 0
    missing = 0
    for first in range(len(starts)):
        if starts[first] >= length or left[first] != 0:
            continue
        stack = homes[first]
        keys = 0
        heads = 0
        for head in range(first, len(starts)):
            if starts[head] < length and homes[head] == stack:
                keys += length - starts[head]
                heads += 1
        level = level_of(loads, stack, keys, heads, sizes)
        for head in range(first, len(starts)):
            if starts[head] < length and homes[head] == stack:
                before = count[0]
                left[head] = -1
                if length > cut(
                    loads, free, rows_of, room_of, sizes, chunks, count, stack, head, starts[head],
                    length, level, growing,
                ):  # fmt: skip
                    undo(loads, free, chunks, count, before)
                    others += 1
                    left[head] = others
    for which in range(1, others + 1):
        head = 0
        while left[head] != which:
            head += 1
        missing += deal_elsewhere(
            length, starts[head], head, growing, loads, free, rows_of, room_of, sizes, chunks,
            count, totals, order,
        )  # fmt: skip
    return missing


@kernel
def place(chunks: I64, sign: int, overhead: int, loads: I64, counts: I64, free: I64) -> None:
    """Count chunks in their channels, without their keys, or no longer.

    Args:
        chunks: (7, chunks) the chunks.
        sign: 1 to count them, -1 to take them back.
        overhead: keys that each chunk counts for.
        loads: (stacks, channels) keys, and the overhead of each chunk; is changed.
        counts: (stacks, channels) chunks; is changed.
        free: (stacks, channels) free rows; is changed.
    """
    for n in range(chunks.shape[1]):
        stack, channel = chunks[STACK, n], chunks[CHANNEL, n]
        loads[stack, channel] += sign * overhead
        counts[stack, channel] += sign
        free[stack, channel] -= sign * chunks[ROWS, n]


@kernel
def resize(chunks: I64, before: int, after: int, loads: I64) -> None:
    """Count the keys of chunks in their channels when their heads get more or fewer keys.

    Args:
        chunks: (7, chunks) the chunks of a request.
        before: keys of each head that are counted.
        after: keys of each head that are to be counted.
        loads: (stacks, channels) keys; is changed.
    """
    for n in range(chunks.shape[1]):
        start, capacity = chunks[START, n], chunks[CAPACITY, n]
        old = min(max(before - start, 0), capacity)
        new = min(max(after - start, 0), capacity)
        loads[chunks[STACK, n], chunks[CHANNEL, n]] += new - old


@kernel
def watch(chunks: I64, numbers: I64, sign: int, growing: I64) -> None:
    """Count chunks that grow by a key per step, or no longer.

    Args:
        chunks: (7, chunks) the chunks of a request.
        numbers: (growing heads,) numbers of those that grow.
        sign: 1 to count them, -1 to take them back.
        growing: (stacks, channels) chunks that grow; is changed.
    """
    for n in numbers:
        growing[chunks[STACK, n], chunks[CHANNEL, n]] += sign
