"""Decode attention of several stacks at once: heads dealt out to them, equal stacks timed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, NamedTuple

from attacc.errors import InputError
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType, kv_element
from attacc.pim.attention import StackAttention
from attacc.pim.mapping.balance import Chunk, assign_stacks
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.mapping.ring import NewTokens
from attacc.pim.program.interleaved import QueryPasses, chunk_grain, longest_chunk
from attacc.pim.stack import MOST_KEYS, Stack
from attacc.results import Result
from attacc.units import wholes


@dataclass(frozen=True, slots=True)
class AttentionOfStacks(Result):
    """Attention of heads that were dealt out to equal stacks.

    Merging the parts of a head that was cut over stacks takes no time and no energy here.

    Attributes:
        each: attention of every stack; None for a stack without heads.
        cut_heads: key/value heads that were cut over several stacks.
        parts: parts of heads, one for each head and stack that holds some of it.
        imbalance: keys of the fullest stack over the mean of all stacks; 1 is perfect.
    """

    each: tuple[StackAttention | None, ...]
    cut_heads: int
    parts: int
    imbalance: float

    @property
    def slowest_index(self) -> int:
        """Number of the stack that takes longest; the first one of equal stacks."""
        times = [0.0 if one is None else one.time_ns for one in self.each]
        return times.index(max(times))

    @property
    def slowest(self) -> StackAttention:
        """The stack that takes longest, for which the others wait."""
        return next(one for one in self.each[self.slowest_index :] if one is not None)

    @property
    def time_ns(self) -> float:
        """Time until all stacks have ended."""
        return self.slowest.time_ns

    @property
    def energy_pj(self) -> float:
        """Energy of the commands of all stacks."""
        return sum(one.energy.total_pj for one in self.each if one is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the slowest stack, and of all stacks if there are several."""
        several = None
        if len(self.each) > 1:
            several = {
                "count": len(self.each),
                "slowest": self.slowest_index,
                "imbalance": self.imbalance,
                "cut_heads": self.cut_heads,
                "energy_pj": self.energy_pj,
                "each": self.table_rows(),
            }
        return self.slowest.to_dict() | {"stacks": several}

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each stack; a stack without heads has zeros.

        A head that was cut over stacks counts in each of them.
        """
        return [
            dict.fromkeys(("heads", "keys", "chunks", "cycles"), 0)
            | {"time_ns": 0.0, "energy_pj": 0.0}
            if one is None
            else {
                "heads": one.heads,
                "keys": one.keys,
                "chunks": one.dealt.chunks,
                "cycles": one.cycles,
                "time_ns": one.time_ns,
                "energy_pj": one.energy.total_pj,
            }
            for one in self.each
        ]


@dataclass(frozen=True, slots=True)
class RequestPlacement:
    """Heads of a request that lie together: a share of them in one channel of each device.

    Attributes:
        heads: key/value heads of a request, of all devices; they come one after the other.
        together: heads of a request that lie in one channel, a divisor of `heads`.
        devices: devices, each with equally many stacks.
    """

    heads: int
    together: int
    devices: int


def attend_over(
    stack: Stack,
    lengths: Sequence[int],
    *,
    stacks: int,
    head_dim: int,
    element: ElementType | str,
    value_dim: int | None = None,
    key_slices: int | None = None,
    one_copy: bool = False,
    window: int | None = None,
    query_tokens: int = 1,
    queries_per_kv_head: int = 1,
    queries_per_read: int = 1,
    window_ns: float | None = None,
    cut: bool = True,
    placed: RequestPlacement | None = None,
) -> AttentionOfStacks:
    """Time and cost the attention of heads that are dealt out to equal stacks.

    With the interleaved schedule heads are dealt out by their lengths, and cut over stacks where
    that evens out the stacks (`assign_stacks`). If heads must stay whole, each goes to the stack
    with the fewest keys, the longest head first. With barriers whole heads go to the stacks in
    turn. If shares of requests must stay together, they go to the devices in turn, and there to the
    stack and channel with the fewest keys, the longest request first.

    Args:
        stack: one of the stacks.
        lengths: tokens of each key/value head's request, of all stacks.
        stacks: number of stacks.
        head_dim: elements of a key.
        element: element type of the keys and values.
        value_dim: as in `Stack.attend`.
        key_slices: as in `Stack.attend`.
        one_copy: as in `Stack.attend`.
        window: as in `Stack.attend`.
        query_tokens: as in `Stack.attend`.
        queries_per_kv_head: as in `Stack.attend`.
        queries_per_read: as in `Stack.attend`.
        window_ns: time over which power is averaged; None for no power over time.
        cut: whether heads may be cut over stacks.
        placed: which heads of a request stay in one channel; None where heads are dealt out one by
            one.

    Raises:
        InputError: no heads, a length below 1, or as in `Stack.attend`.
    """
    element = kv_element(element, where="element")
    wholes(lengths, where="lengths", most=MOST_KEYS)

    tokens = NewTokens(window, query_tokens)
    # Of each stack, the keys that are stored of each head, and the place of the oldest of them.
    rings = {length: _Ring(tokens.held(length), tokens.oldest(length)) for length in set(lengths)}
    heads = [rings[length] for length in lengths]

    def attend(held: tuple[_Ring, ...]) -> StackAttention:
        return stack.attend_to(
            tuple(one.keys for one in held),
            oldest=tuple(one.oldest for one in held),
            head_dim=head_dim,
            element=element,
            value_dim=value_dim,
            key_slices=key_slices,
            one_copy=one_copy,
            window=window,
            query_tokens=query_tokens,
            queries_per_kv_head=queries_per_kv_head,
            queries_per_read=queries_per_read,
            window_ns=window_ns,
            together=None if placed is None else placed.together,
        )

    if stacks == 1:
        return AttentionOfStacks((attend(tuple(heads)),), 0, len(lengths), 1.0)
    if placed is not None:
        dealt = _together(heads, stacks, placed)
    else:
        together = QueryPasses.of(queries_per_kv_head * query_tokens, queries_per_read).most
        layout = stack.layout(
            max((one.keys for one in heads), default=1),
            head_dim,
            element,
            value_dim=value_dim,
            key_slices=key_slices,
            one_copy=one_copy,
            queries_per_read=together,
        )
        dealt = deal_over(
            stack, [one.keys for one in heads], layout, stacks=stacks, together=together, cut=cut
        )
    held = [tuple(heads[part.head].part(part.start, part.length) for part in own) for own in dealt]
    parts_of = Counter(part.head for own in dealt for part in own)
    known = {one: attend(one) for one in dict.fromkeys(held) if one}
    keys = [sum(one.keys for one in own) for own in held]
    return AttentionOfStacks(
        each=tuple(known.get(one) for one in held),
        cut_heads=sum(number > 1 for number in parts_of.values()),
        parts=parts_of.total(),
        imbalance=max(keys) * stacks / sum(keys),
    )


def deal_over(
    stack: Stack,
    lengths: Sequence[int],
    layout: KeyLayout,
    *,
    stacks: int,
    together: int,
    cut: bool,
) -> tuple[tuple[Chunk, ...], ...]:
    """Return the heads, or parts of heads, of every stack, as in `attend_over`.

    Args:
        stack: one of the stacks.
        lengths: keys that are stored of each key/value head, of all stacks.
        layout: how a key lies in the banks.
        stacks: number of stacks.
        together: queries that a read of keys serves.
        cut: whether heads may be cut over stacks.

    Raises:
        InputError: there are no heads.
    """
    whole = [Chunk(head, 0, keys) for head, keys in enumerate(lengths)]
    if not whole:
        raise InputError("there are no heads to attend to", where="lengths")
    if stacks == 1:
        return (tuple(whole),)
    if stack.schedule is not Schedule.INTERLEAVED:
        return tuple(tuple(whole[which::stacks]) for which in range(stacks))
    if not cut:
        return _whole(whole, stacks)
    return assign_stacks(
        lengths,
        stacks=stacks,
        channels=layout.organization.channels,
        longest=longest_chunk(stack.device, layout, together),
        grain=chunk_grain(layout),
    ).stacks


class _Ring(NamedTuple):
    """Keys of a head, or of a part of one, which may lie in a ring.

    Attributes:
        keys: keys that are stored.
        oldest: place of the oldest of them; 0 for a part that does not hold it.
    """

    keys: int
    oldest: int

    def part(self, start: int, length: int) -> _Ring:
        """Return some of the keys."""
        inside = start <= self.oldest < start + length
        return _Ring(length, self.oldest - start if inside else 0)


def _whole(heads: Sequence[Chunk], stacks: int) -> tuple[tuple[Chunk, ...], ...]:
    """Return the heads of each stack, every head in one stack."""
    loads = [(0, which) for which in range(stacks)]
    held: list[list[Chunk]] = [[] for _ in range(stacks)]
    for head in sorted(heads, key=lambda one: one.length, reverse=True):
        load, which = heappop(loads)
        held[which].append(head)
        heappush(loads, (load + head.length, which))
    return tuple(tuple(one) for one in held)


def _together(
    heads: Sequence[_Ring], stacks: int, placed: RequestPlacement
) -> tuple[tuple[Chunk, ...], ...]:
    """Return the heads of each stack, those that lie together one after the other.

    Raises:
        InputError: there are no heads, or no whole requests.
    """
    if not heads or len(heads) % placed.heads:
        raise InputError(
            f"{len(heads)} heads are not those of requests of {placed.heads} heads",
            where="lengths",
        )
    per_device = stacks // placed.devices
    shares = placed.heads // placed.together
    loads = [[(0, which) for which in range(per_device)] for _ in range(placed.devices)]
    held: list[list[Chunk]] = [[] for _ in range(stacks)]
    whole = [Chunk(number, 0, head.keys) for number, head in enumerate(heads)]
    requests = [whole[first : first + placed.heads] for first in range(0, len(whole), placed.heads)]
    requests.sort(key=lambda one: one[0].length, reverse=True)
    for number, request in enumerate(requests):
        for share in range(shares):
            device = (number * shares + share) % placed.devices
            own = request[share * placed.together : (share + 1) * placed.together]
            load, which = heappop(loads[device])
            held[device * per_device + which] += own
            heappush(loads[device], (load + sum(one.length for one in own), which))
    return tuple(tuple(one) for one in held)
