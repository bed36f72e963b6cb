"""Where the keys and values of growing requests lie. Stored keys and values never move.

A request begins with the keys of its prompt and grows token by token. All of its layers have the
same chunks in the same channels, each layer in rows of its own. Heads are dealt out to stacks and
then to channels, least loaded first. A head is cut in whole grains where it exceeds the level to
which all channels could be filled evenly. The last chunk of a head grows up to the keys for which
rows are reserved. Then another chunk opens, on the least loaded channel of its stack.

Rows are handed out one by one, the lowest free row first, and need not be neighbours. A command
names rows by their numbers within the chunk, and its controller has a table of the real rows.
Timing does not change, because it depends only on whether two rows are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import CapacityError, InputError, Shortfall
from attacc.pim.mapping.geometry import KeyLayout, stored_rows
from attacc.pim.mapping.ring import NewTokens

I64 = npt.NDArray[np.int64]

GROWING_GRAINS: Final = 4
"""Least room of the last chunk of a head, in grains. One more chunk costs some 80 cycles, as much
as the multiplies of 53 keys at bank (docs/model/mapping.md): 5 % of four grains of 256 keys."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How requests may grow.

    Attributes:
        longest: keys that a chunk may have at most.
        grain: keys below which cutting does not pay.
        growing: least room of the last chunk of a head, in keys, as long as the banks have room.
        quantum: the commands of a chunk change with its length only at multiples of so many keys.
    """

    longest: int
    grain: int
    growing: int
    quantum: int

    def __post_init__(self) -> None:
        if not 1 <= self.growing <= self.longest:
            raise InputError(
                f"growing_keys = {self.growing} must be from 1 to {self.longest}, the most keys of "
                "a chunk"
            )


def room_of_rows(layout: KeyLayout, growth: Growth, rows: int) -> int:
    """Return for how many keys of one layer a number of rows of a channel has room.

    Args:
        layout: how a key lies in the banks.
        growth: how requests may grow.
        rows: rows of every bank.
    """
    o = layout.organization
    columns = layout.columns_per_key + (0 if layout.one_copy else layout.context_slices)
    keys = rows * o.columns * layout.banks_in_turn // columns
    # Keys and values begin with rows of their own.
    while keys and stored_rows(layout, keys * layout.sequence_parts) > rows:
        keys -= 1
    room = min(keys * layout.sequence_parts, growth.longest)
    # The next chunk then begins where a group of moves begins.
    grain = growth.grain if room >= growth.grain else growth.quantum
    return room // grain * grain


@dataclass(slots=True, eq=False)
class ResidentChunk:
    """A run of keys of one head in one channel, in all layers.

    Attributes:
        head: key/value head of the request.
        start: first key of the chunk.
        capacity: keys for which the chunk has room.
        stack: stack that holds it.
        channel: channel of that stack.
        rows: (layers, rows) rows of every bank: those of the keys, then those of the values.
    """

    head: int
    start: int
    capacity: int
    stack: int
    channel: int
    rows: I64 = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))

    @property
    def end(self) -> int:
        """One past the last key for which the chunk has room."""
        return self.start + self.capacity

    def keys(self, length: int) -> int:
        """Return how many keys of a head of this length lie in the chunk."""
        return min(max(0, length - self.start), self.capacity)


@dataclass(slots=True, eq=False)
class ResidentRequest:
    """The chunks that a request has been given.

    Attributes:
        heads: per key/value head, its chunks in order of their keys.
        length: keys of its longest layer.
        version: grows whenever chunks are added.
    """

    heads: list[list[ResidentChunk]]
    length: int = 0
    version: int = 0

    @property
    def room(self) -> int:
        """Keys for which all heads have room."""
        return min(chunks[-1].end for chunks in self.heads)

    def chunks(self) -> Iterator[ResidentChunk]:
        """Go through the chunks of all heads."""
        for chunks in self.heads:
            yield from chunks


class BankRows:
    """The rows of the banks of equal stacks, and which of them are free.

    Args:
        layout: organisation of each stack.
        stacks: the number of stacks.

    Attributes:
        free: (stacks, channels) free rows of every bank.
    """

    def __init__(self, layout: KeyLayout, stacks: int) -> None:
        o = layout.organization
        self.free: I64 = np.full((stacks, o.channels), o.rows, dtype=np.int64)
        self._fresh: I64 = np.zeros((stacks, o.channels), dtype=np.int64)
        self._returned: list[list[list[int]]] = [
            [[] for _ in range(o.channels)] for _ in range(stacks)
        ]

    def take(self, stack: int, channel: int, needed: int) -> list[int]:
        """Take rows of a channel, the lowest free rows first."""
        at = stack, channel
        returned = self._returned[stack][channel]
        again = min(needed, len(returned))
        rows = [heappop(returned) for _ in range(again)]
        fresh = int(self._fresh[at])
        rows += range(fresh, fresh + needed - again)
        self._fresh[at] += needed - again
        self.free[at] -= needed
        return rows

    def give(self, stack: int, channel: int, rows: I64) -> None:
        """Give rows of a channel back."""
        returned = self._returned[stack][channel]
        returned.extend(rows.ravel().tolist())
        heapify(returned)
        self.free[stack, channel] += rows.size


class Residence:
    """The banks of equal stacks, and which request has which rows of them.

    Args:
        layout: how a key lies in the banks.
        stacks: the number of stacks.
        layers: layers of the model; all have the same chunks.
        heads: key/value heads of every request.
        growth: how requests may grow.
        tokens: what the new tokens of a step see. With a window a request has no more rows than its
            ring needs, and later tokens take the places of earlier ones. By default all keys are
            kept.
        rows: the rows of the banks, where layers of other windows share them; by default all rows
            are for these layers.

    Attributes:
        rows_of_banks: the rows of the banks.
        free_rows: (stacks, channels) free rows of every bank.
        loads: (stacks, channels) keys of one layer, and a quarter of a grain for each chunk.
    """

    def __init__(
        self,
        layout: KeyLayout,
        *,
        stacks: int,
        layers: int,
        heads: int,
        growth: Growth,
        tokens: NewTokens | None = None,
        rows: BankRows | None = None,
    ) -> None:
        o = layout.organization
        self._layout = layout
        self._tokens = tokens or NewTokens()
        self._layers = layers
        self._heads = heads
        self._growth = growth
        self._overhead = growth.grain // 4
        self.rows_of_banks = rows or BankRows(layout, stacks)
        self.free_rows: I64 = self.rows_of_banks.free
        self.loads: I64 = np.zeros((stacks, o.channels), dtype=np.int64)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all banks of a channel."""
        o = self._layout.organization
        return o.columns * o.access_bytes * o.banks_per_channel

    @property
    def free_bytes(self) -> int:
        """Bytes of all free rows."""
        return int(self.free_rows.sum()) * self.row_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all stacks."""
        return self.free_rows.size * self._layout.organization.rows * self.row_bytes

    def grow(self, request: ResidentRequest | None, length: int, *, name: str) -> ResidentRequest:
        """Give a request room for more keys. If there is not enough room, nothing changes.

        Args:
            request: the request; None for a new one.
            length: tokens of its longest layer from now on.
            name: name of the request, for messages.

        Raises:
            CapacityError: there is not enough room; says how much is missing.
            InputError: the request has fewer tokens than a step has new ones.
        """
        length = self._tokens.held(length)
        grown = request or ResidentRequest([[] for _ in range(self._heads)])
        if request is None or length > request.room:
            added = self._added(grown, length, name)
            for chunk in added:
                chunk.rows = self._take(chunk)
                grown.heads[chunk.head].append(chunk)
            grown.version += 1
        if length > grown.length:
            for chunk in grown.chunks():
                if chunk.end > grown.length:
                    more = chunk.keys(length) - chunk.keys(grown.length)
                    self.loads[chunk.stack, chunk.channel] += more
            grown.length = length
        return grown

    def place(self, request: ResidentRequest, head: int, token: int) -> tuple[ResidentChunk, int]:
        """Return where the key of a token lies: its chunk, and its number among the chunk's keys.

        Args:
            request: the request, which has grown to the token at least once.
            head: key/value head.
            token: number of the token, from 0.

        Raises:
            InputError: the request has no place for the token.
        """
        at = token if self._tokens.places is None else token % self._tokens.places
        for chunk in request.heads[head]:
            if chunk.start <= at < min(chunk.end, request.length):
                return chunk, at - chunk.start
        raise InputError(
            f"token {token} has no place in a request of {request.length} keys",
            hint="grow the request first",
        )

    def free(self, request: ResidentRequest) -> None:
        """Take back all rows of a request."""
        for chunk in request.chunks():
            self.rows_of_banks.give(chunk.stack, chunk.channel, chunk.rows)
            self.loads[chunk.stack, chunk.channel] -= self._overhead + chunk.keys(request.length)

    def _take(self, chunk: ResidentChunk) -> I64:
        """Take the rows of a chunk in all layers, the lowest free rows first."""
        needed = self._layers * self._rows(chunk.capacity)
        rows = self.rows_of_banks.take(chunk.stack, chunk.channel, needed)
        self.loads[chunk.stack, chunk.channel] += self._overhead
        return np.array(rows, dtype=np.int64).reshape(self._layers, -1)

    def _rows(self, capacity: int) -> int:
        """Return how many rows a chunk takes in one layer, for keys and values together."""
        return stored_rows(self._layout, capacity)

    def _room_of(self, rows: int) -> int:
        """Return for how many keys of all layers a number of rows of a channel has room."""
        return room_of_rows(self._layout, self._growth, rows // self._layers)

    def _added(self, request: ResidentRequest, length: int, name: str) -> list[ResidentChunk]:
        """Return the chunks that would give a request room; their rows are not taken yet."""
        # Reserves for growing must not use up the room for keys.
        # A ring grows no further than its places.
        growing = min(self._growth.growing, self._tokens.places or self._growth.growing)
        trial = self._deal(request, length, growing)
        if trial.missing:
            trial = self._deal(request, length, 1)
        if not trial.missing:
            return trial.chunks
        layers, rows = self._layers, sum(self._rows(chunk.capacity) for chunk in trial.chunks)
        short = self._rows(trial.missing) * layers * self.row_bytes
        usable = rows * layers * self.row_bytes
        raise CapacityError(
            Shortfall(
                f"banks for {length - request.length} more keys and values of {name} "
                f"({self._heads} heads, {layers} layers)",
                usable + short,
                usable,
            ),
            where="AttAcc",
            hint="free a request, ask for fewer tokens, or take more stacks",
        )

    def _deal(self, request: ResidentRequest, length: int, growing: int) -> _Trial:
        """Deal out the keys for which the heads of a request have no room yet.

        Args:
            request: the request with its chunks.
            length: keys of each head.
            growing: least room of the last chunk of a head, in keys.
        """
        trial = _Trial(self.loads.copy(), self.free_rows.copy())
        starts = [chunks[-1].end if chunks else 0 for chunks in request.heads]
        short = [head for head, start in enumerate(starts) if start < length]
        # A head goes to the stack that already has it, or else to the least loaded one.
        of_stack = trial.loads.sum(axis=1)
        wanted: dict[int, list[int]] = {}
        for head in short:
            chunks = request.heads[head]
            stack = chunks[-1].stack if chunks else int(np.argmin(of_stack))
            of_stack[stack] += length - starts[head] + self._overhead
            wanted.setdefault(stack, []).append(head)
        left: list[int] = []
        for stack, heads in wanted.items():
            level = self._level(trial, stack, [length - starts[head] for head in heads])
            for head in heads:
                before = trial.mark()
                if self._cut(trial, stack, head, starts[head], length, level, growing) < length:
                    trial.undo(before)
                    left.append(head)
        # A head that does not fit there goes to another stack as a whole, or else to several.
        for head in left:
            stacks = np.argsort(trial.loads.sum(axis=1), kind="stable").tolist()
            for stack in stacks:
                before = trial.mark()
                level = self._level(trial, stack, [length - starts[head]])
                if self._cut(trial, stack, head, starts[head], length, level, growing) == length:
                    break
                trial.undo(before)
            else:
                at = starts[head]
                for stack in stacks:
                    level = self._level(trial, stack, [length - at])
                    at = self._cut(trial, stack, head, at, length, level, growing)
                trial.missing += length - at
        return trial

    def _level(self, trial: _Trial, stack: int, lengths: Sequence[int]) -> int:
        """Return the load of every channel if a stack were filled evenly, in whole grains."""
        loads, grain = trial.loads[stack], self._growth.grain
        total = int(loads.sum()) + sum(lengths) + self._overhead * len(lengths)
        return -(-total // (len(loads) * grain)) * grain

    def _cut(
        self, trial: _Trial, stack: int, head: int, at: int, end: int, level: int, growing: int
    ) -> int:
        """Deal keys of a head out to channels of a stack; return the first key without room."""
        g = self._growth
        while at < end:
            order = np.argsort(trial.loads[stack], kind="stable").tolist()
            rooms = {channel: self._room_of(int(trial.rows[stack, channel])) for channel in order}
            channel = order[0]
            keys = self._piece(trial, stack, channel, end - at, level)
            fitting = [one for one in order if rooms[one] >= min(keys, g.longest)]
            if fitting:
                channel = fitting[0]
                keys = min(self._piece(trial, stack, channel, end - at, level), rooms[channel])
            else:
                channel = max(order, key=lambda one: rooms[one])
                keys = min(keys, rooms[channel])
                if keys < 1:
                    return at
            capacity = keys
            if at + keys == end:
                # The last chunk gets whole rows, since no other chunk could use the rest of a row.
                rows = self._layers * self._rows(max(keys, growing))
                capacity = max(keys, min(self._room_of(rows), rooms[channel]))
            chunk = ResidentChunk(head, at, capacity, stack, channel)
            trial.add(chunk, keys + self._overhead, self._layers * self._rows(capacity))
            at += keys
        return at

    def _piece(self, trial: _Trial, stack: int, channel: int, left: int, level: int) -> int:
        """Return how many of the keys that are left a channel should get."""
        g = self._growth
        below = level - int(trial.loads[stack, channel]) - self._overhead
        return min(left, g.longest, max(g.grain, below // g.grain * g.grain))


@dataclass(slots=True, eq=False)
class _Trial:
    """Chunks that are dealt out on trial, before their rows are taken.

    Attributes:
        loads: (stacks, channels) loads as in `Residence`, with the chunks of the trial.
        rows: (stacks, channels) rows that would remain free.
        chunks: the chunks so far.
        taken: load and rows of each chunk.
        missing: keys for which no room was found.
    """

    loads: I64
    rows: I64
    chunks: list[ResidentChunk] = field(default_factory=list[ResidentChunk])
    taken: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    missing: int = 0

    def add(self, chunk: ResidentChunk, load: int, rows: int) -> None:
        """Add a chunk with its load and rows."""
        self.chunks.append(chunk)
        self.taken.append((load, rows))
        self.loads[chunk.stack, chunk.channel] += load
        self.rows[chunk.stack, chunk.channel] -= rows

    def mark(self) -> int:
        """Return the number of chunks so far, for `undo`."""
        return len(self.chunks)

    def undo(self, count: int) -> None:
        """Remove the last chunks until `count` are left."""
        while len(self.chunks) > count:
            chunk, (load, rows) = self.chunks.pop(), self.taken.pop()
            self.loads[chunk.stack, chunk.channel] -= load
            self.rows[chunk.stack, chunk.channel] += rows
