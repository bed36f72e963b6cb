"""How many keys and rows of growing requests lie in each channel, without lists of rows.

A simulator of requests over time needs the keys, chunks and free rows of every channel, but not the
numbers of the rows. `Residence` tells which rows a chunk has; here they are only counted. With
`Policy.RESIDENT` both place every chunk alike. A step in which all requests grow by one key visits
only the requests that need another chunk; all others are counted by channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import CapacityError, InputError, Shortfall
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import KeyLayout, stored_rows
from attacc.pim.mapping.residence import Growth, room_of_rows
from attacc.pim.mapping.resident_places import (
    CAPACITY,
    CHANNEL,
    HEAD,
    ROWS,
    STACK,
    START,
)  # fmt: skip

I64 = npt.NDArray[np.int64]

NEVER: Final = -1


class Policy(StrEnum):
    """Where a new chunk goes. Stored keys never move."""

    RESIDENT = "resident"
    """As `Residence` does: heads are cut where that fills the channels of a stack evenly."""
    HEAD_FIRST = "head-first"
    """A whole head goes to the channel with the least load of all (AttAcc, ASPLOS 2024)."""
    REQUEST_CHANNEL = "request-channel"
    """All heads of a request go to the channel with the least load (NeuPIMs, ASPLOS 2024)."""
    TOKEN_PARALLEL = "token-parallel"  # noqa: S105  # tokens of a model, no secret
    """Chunks of one grain go to all channels in turn."""


@dataclass(slots=True, eq=False)
class CountedRequest:
    """A request and its chunks.

    Attributes:
        number: number of the request, in the order of arrival.
        chunks: (7, chunks) chunks in the order in which they were dealt out, in rows as
            `resident_places.HEAD` names them.
        ends: (heads,) one past the last key for which each head has room.
        last: (heads,) last chunk of each head.
        room: keys for which every head has room.
        length: keys of each head when the request was last visited.
        seen: step of that visit.
        due: step in which a head needs another chunk.
        watched: (growing heads,) numbers of the chunks that grow by a key per step; None while it
            is visited.
    """

    number: int
    chunks: I64
    ends: I64
    last: I64
    room: int = 0
    length: int = 0
    seen: int = 0
    due: int = NEVER
    watched: I64 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """First keys of a request, where they lie.

    Attributes:
        keys: how many there are of each head.
        chunks: (7, chunks) as in `CountedRequest`; they take no rows, and hold these keys alone.
    """

    keys: int
    chunks: I64

    @classmethod
    def of(cls, chunks: I64, keys: int) -> Prefix:
        """Return the first keys of a request.

        Args:
            chunks: (7, chunks) chunks of the request.
            keys: how many.
        """
        own = np.ascontiguousarray(chunks[:, chunks[START] < keys])
        own[CAPACITY] = np.minimum(own[CAPACITY], keys - own[START])
        own[ROWS] = 0
        return cls(keys, own)


class ResidentCounts:
    """The channels of equal stacks, and how many rows, chunks and keys of requests they hold.

    Args:
        layout: how a key lies in the banks.
        stacks: the number of stacks.
        layers: layers of the model; all have the same chunks.
        heads: key/value heads of every request.
        growth: how requests may grow.
        policy: where new chunks go.

    Attributes:
        free_rows: (stacks, channels) free rows of every bank.
        loads: (stacks, channels) keys of one layer, and a quarter of a grain for each chunk.
        chunks: (stacks, channels) chunks of one layer.
        growing: (stacks, channels) keys by which a step makes the loads larger, if no request needs
            another chunk.
        visits: requests that were visited in all steps so far.
        overhead: keys that count in `loads` for each chunk.
    """

    def __init__(
        self, layout: KeyLayout, *, stacks: int, layers: int, heads: int, growth: Growth,
        policy: Policy = Policy.RESIDENT,
    ) -> None:  # fmt: skip
        from attacc.pim.mapping import resident_counts_kernel  # loads Numba

        self._kernels = resident_counts_kernel
        o = layout.organization
        self._heads, self._layers, self._growth = heads, layers, growth
        self._layout, self._policy = layout, policy
        self.overhead = growth.grain // 4
        self.free_rows: I64 = np.full((stacks, o.channels), o.rows, dtype=np.int64)
        self.loads: I64 = np.zeros((stacks, o.channels), dtype=np.int64)
        self.chunks: I64 = np.zeros((stacks, o.channels), dtype=np.int64)
        self.visits = 0
        self.growing: I64 = np.zeros((stacks, o.channels), dtype=np.int64)
        lengths = range(growth.longest + 1)
        self._rows_of: I64 = np.array([stored_rows(layout, n) for n in lengths], dtype=np.int64)
        most = int(self._rows_of[-1]) + 1
        rooms = [room_of_rows(layout, growth, rows) for rows in range(most + 1)]
        self._room_of: I64 = np.array(rooms, dtype=np.int64)
        self._sizes: I64 = np.array(
            [growth.longest, growth.grain, self.overhead, layers], dtype=np.int64
        )
        self._now = self._arrivals = self._turn = 0
        self._due: dict[int, dict[int, CountedRequest]] = {}

    @property
    def keys(self) -> I64:
        """(stacks, channels) keys of one layer."""
        return self.loads - self.overhead * self.chunks

    def arrive(self, length: int, prefix: Prefix | None = None) -> CountedRequest:
        """Give a new request room for its keys; it takes part in later steps.

        Args:
            length: keys of each head.
            prefix: first keys, which lie where another request put them; it reads them there, and
                they take no rows of its own. None for keys of its own alone.

        Raises:
            CapacityError: there is not enough room; nothing has changed.
            InputError: the request has no keys of its own.
        """
        shared = 0 if prefix is None else prefix.keys
        if length <= shared:
            raise InputError(f"length {length} of a request must be at least {shared + 1}")
        request = CountedRequest(
            self._arrivals, np.zeros((7, 0), dtype=np.int64),
            np.zeros(self._heads, dtype=np.int64), np.full(self._heads, -1, dtype=np.int64),
        )  # fmt: skip
        if prefix is not None:
            request.chunks, request.length, request.room = prefix.chunks, shared, shared
            request.ends[:] = shared
            request.last[prefix.chunks[HEAD]] = np.arange(prefix.chunks.shape[1])
            self._read(prefix, 1)
        try:
            self._grow(request, length)
        except CapacityError:
            if prefix is not None:
                self._read(prefix, -1)
            raise
        self._arrivals += 1
        self._watch(request)
        return request

    def _read(self, prefix: Prefix, sign: int) -> None:
        """Count the keys of a prefix for a request that reads them, or no longer."""
        at = prefix.chunks[STACK], prefix.chunks[CHANNEL]
        np.add.at(self.loads, at, sign * (prefix.chunks[CAPACITY] + self.overhead))
        np.add.at(self.chunks, at, sign)

    def grow(self, request: CountedRequest, length: int) -> None:
        """Give a request room for more keys, all at once.

        Raises:
            CapacityError: there is not enough room; nothing has changed.
        """
        self._unwatch(request)
        try:
            self._grow(request, length)
        finally:
            self._watch(request)

    def step(self) -> list[CountedRequest]:
        """Let all requests grow by one key.

        Requests with room grow first. Then those without grow in the order of their arrival.

        Returns:
            Requests for which there was no room. They have not grown, and the next step tries again
            unless they are freed.
        """
        due = [one for one in self._due.pop(self._now + 1, {}).values() if one.due == self._now + 1]
        due.sort(key=lambda one: one.number)
        for request in due:
            self._unwatch(request)
        self._now += 1
        self.loads += self.growing
        self.visits += len(due)
        refused: list[CountedRequest] = []
        for request in due:
            try:
                self._grow(request, request.length + 1)
            except CapacityError:
                refused.append(request)
            self._watch(request)
        return refused

    def length(self, request: CountedRequest) -> int:
        """Return the keys of each head of a request."""
        grown = 0 if request.watched is None else self._now - request.seen
        return request.length + grown

    def held(self, requests: Sequence[CountedRequest]) -> tuple[I64, I64]:
        """Return where the chunks of requests lie that have keys.

        Args:
            requests: the requests.

        Returns:
            (chunks,) channels, counted over all stacks, and (chunks,) keys.
        """
        channels, keys = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for request in requests:
            own = request.chunks
            channels.append(own[STACK] * self.chunks.shape[1] + own[CHANNEL])
            keys.append(np.clip(self.length(request) - own[START], 0, own[CAPACITY]))
        all_keys = np.concatenate(keys)
        some = all_keys > 0
        return np.concatenate(channels)[some], all_keys[some]

    def free(self, request: CountedRequest) -> None:
        """Take back all rows of a request."""
        self._unwatch(request)
        self._kernels.resize(request.chunks, request.length, 0, self.loads)
        self._place(request.chunks, -1)

    def _watch(self, request: CountedRequest) -> None:
        """Count the heads of a request that grow, until one of them has no room."""
        last = request.last[request.ends > request.length]
        request.watched, request.seen = last, self._now
        self._kernels.watch(request.chunks, last, 1, self.growing)
        request.due = self._now + request.room - request.length + 1
        self._due.setdefault(request.due, {})[request.number] = request

    def _unwatch(self, request: CountedRequest) -> None:
        """Write down how long a request is now, and no longer count it as growing."""
        request.length = self.length(request)
        last, request.watched, request.due = request.watched, None, NEVER
        if last is not None:
            self._kernels.watch(request.chunks, last, -1, self.growing)

    def _grow(self, request: CountedRequest, length: int) -> None:
        """Add the chunks that a request needs, and the keys of all its chunks."""
        if length > request.room:
            added = self._added(request, length)
            self._place(added, 1)
            before = request.chunks.shape[1]
            request.chunks = np.concatenate([request.chunks, added], axis=1)
            # Chunks of a head are in order, so that its last one is written last.
            request.last[added[HEAD]] = before + np.arange(added.shape[1])
            request.ends[added[HEAD]] = added[START] + added[CAPACITY]
            request.room = int(request.ends.min())
        self._kernels.resize(request.chunks, request.length, length, self.loads)
        request.length = length

    def _place(self, chunks: I64, sign: int) -> None:
        """Count chunks without their keys, with sign 1, or no longer, with sign -1."""
        self._kernels.place(chunks, sign, self.overhead, self.loads, self.chunks, self.free_rows)

    def _added(self, request: CountedRequest, length: int) -> I64:
        """Return the chunks that would give a request room."""
        # Reserves for growing must not use up the room for keys.
        for growing in (self._growth.growing, 1):
            dealt = {
                Policy.RESIDENT: self._resident,
                Policy.HEAD_FIRST: self._head_first,
                Policy.REQUEST_CHANNEL: self._request_channel,
                Policy.TOKEN_PARALLEL: self._token_parallel,
            }[self._policy](request, length, growing)
            if dealt is not None:
                return dealt
        o = self._layout.organization
        row = o.columns * o.access_bytes * o.banks_per_channel
        whole, rest = divmod(length - request.length, self._growth.longest)
        rows = whole * int(self._rows_of[-1]) + int(self._rows_of[rest])
        # What stays in one channel needs room there.
        alone = self._policy in (Policy.HEAD_FIRST, Policy.REQUEST_CHANNEL)
        free = int(self.free_rows.max() if alone else self.free_rows.sum())
        heads = 1 if self._policy is Policy.HEAD_FIRST else self._heads
        raise CapacityError(
            Shortfall(
                f"{'a channel' if alone else 'banks'} for {length - request.length} more keys and "
                f"values of request {request.number} ({heads} heads, {self._layers} layers, "
                f"{self._policy})",
                rows * heads * self._layers * row,
                free * row,
            ),
            where="AttAcc",
            hint="free a request, ask for fewer tokens, or take more stacks",
        )

    def _resident(self, request: CountedRequest, length: int, growing: int) -> I64 | None:
        """Deal out as `Residence` does."""
        stacks = len(self.loads)
        homes = np.full(self._heads, -1, dtype=np.int64)
        known = request.last >= 0
        homes[known] = request.chunks[STACK, request.last[known]]
        room = (length // self._growth.quantum + 2) * self._heads
        chunks = np.empty((7, room), dtype=np.int64)
        count = np.zeros(1, dtype=np.int64)
        left = np.empty(self._heads, dtype=np.int64)
        totals, order = np.empty((2, stacks), dtype=np.int64)
        missing = self._kernels.deal(
            length, growing, request.ends, homes, self.loads.copy(), self.free_rows.copy(),
            self._rows_of, self._room_of, self._sizes, chunks, count, left, totals, order,
        )  # fmt: skip
        return None if missing else chunks[:, : int(count[0])].copy()

    def _pieces(
        self, request: CountedRequest, head: int, length: int, growing: int, longest: int
    ) -> Iterator[tuple[int, int, int, int, int]]:
        """Cut the keys that a head lacks into chunks: head, start, capacity, load, rows."""
        at = int(request.ends[head])
        while at < length:
            keys = min(length - at, longest)
            capacity = keys
            if at + keys == length:
                whole = min(int(self._rows_of[max(keys, growing)]), len(self._room_of) - 1)
                capacity = max(keys, min(int(self._room_of[whole]), longest))
            rows = self._layers * int(self._rows_of[capacity])
            yield head, at, capacity, keys + self.overhead, rows
            at += keys

    def _in_channels(
        self, request: CountedRequest, length: int, growing: int, groups: Sequence[range]
    ) -> I64 | None:
        """Deal groups of heads out, each to the least loaded channel that has room for it."""
        loads, free = self.loads.ravel().copy(), self.free_rows.ravel().copy()
        dealt: list[tuple[int, ...]] = []
        for group in groups:
            pieces = [
                piece
                for head in group
                for piece in self._pieces(request, head, length, growing, self._growth.longest)
            ]
            if not pieces:
                continue
            rows = sum(piece[4] for piece in pieces)
            last = int(request.last[group[0]])
            if last < 0:
                fitting = np.flatnonzero(free >= rows)
                if not len(fitting):
                    return None
                at = int(fitting[np.argmin(loads[fitting])])
            else:
                stack, channel = request.chunks[STACK, last], request.chunks[CHANNEL, last]
                at = int(stack) * self.loads.shape[1] + int(channel)
                if free[at] < rows:
                    return None
            free[at] -= rows
            loads[at] += sum(piece[3] for piece in pieces)
            stack, channel = divmod(at, self.loads.shape[1])
            dealt += [(*piece[:3], stack, channel, *piece[3:]) for piece in pieces]
        return np.array(dealt, dtype=np.int64).T

    def _head_first(self, request: CountedRequest, length: int, growing: int) -> I64 | None:
        heads = [range(head, head + 1) for head in range(self._heads)]
        return self._in_channels(request, length, growing, heads)

    def _request_channel(self, request: CountedRequest, length: int, growing: int) -> I64 | None:
        return self._in_channels(request, length, growing, [range(self._heads)])

    def _token_parallel(self, request: CountedRequest, length: int, growing: int) -> I64 | None:
        """Deal chunks of a grain out to the channels in turn; full channels are passed over."""
        free = self.free_rows.ravel().copy()
        grain, turn = self._growth.grain, self._turn
        dealt: list[tuple[int, ...]] = []
        for head in range(self._heads):
            reserve = min(growing, grain)
            for piece in self._pieces(request, head, length, reserve, grain):
                passed = 0
                while free[turn] < piece[4]:
                    turn = (turn + 1) % len(free)
                    passed += 1
                    if passed == len(free):
                        return None
                free[turn] -= piece[4]
                stack, channel = divmod(turn, self.loads.shape[1])
                dealt.append((*piece[:3], stack, channel, *piece[3:]))
                turn = (turn + 1) % len(free)
        self._turn = turn
        return np.array(dealt, dtype=np.int64).T


def redealt(
    lengths: Sequence[int], *, heads: int, stacks: int, channels: int, growth: Growth
) -> tuple[tuple[int, ...], ...]:
    """Return the chunks of each channel if all keys were dealt out anew: a bound, no policy.

    No real system reaches this, since stored keys would have to move in every step.

    Args:
        lengths: keys of each request.
        heads: key/value heads of every request.
        stacks: the number of stacks.
        channels: channels of each stack.
        growth: how heads may be cut.

    Returns:
        Per channel of all stacks, the keys of its chunks.

    Raises:
        InputError: there are no requests, or one has no keys.
    """
    every = [length for length in lengths for _ in range(heads)]
    return assign(
        every, channels=stacks * channels, longest=growth.longest, grain=growth.grain
    ).lengths
