"""Ordinary traffic: loads and stores of the host, which arrive beside the units' program.

docs/model/traffic.md describes how controllers serve ordinary traffic. It has no dependences: the
host decides what to request in which cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import DocumentError, InputError
from attacc.files import encoded_text_of, read_data
from attacc.hardware.dram import Organization
from attacc.hardware.placement import Placement
from attacc.pim.mapping.geometry import HeadLayout, HeadRegions
from attacc.pim.program.program import AddressLayout, Kind, Program
from attacc.pim.program.trace import parse_trace

I64 = npt.NDArray[np.int64]

MAX_ARRIVAL_CYCLES: Final = 10**10
"""Latest arrival, seconds at any clock. A later one is surely a mistake, and would take long to
simulate, since idle stacks refresh until it arrives."""

MAX_QUEUE: Final = 64


@dataclass(frozen=True, eq=False)
class Traffic:
    """Loads and stores of one stack, in the order in which they arrive.

    Attributes:
        requests: steps of `Kind.LD` and `Kind.ST`, without dependences. A step on several channels
            arrives at each of them.
        arrival: (n,) cycle in which each step arrives, not decreasing. The first cycle is 1; a
            step with an earlier arrival is there from the start.
    """

    requests: Program
    arrival: I64

    def __post_init__(self) -> None:
        requests, arrival = self.requests, self.arrival
        if arrival.shape != (len(requests),):
            raise InputError(
                f"{arrival.size} arrivals for {len(requests)} requests",
                hint="give one cycle for each step of ordinary traffic",
            )
        if requests.dependences is not None:
            raise InputError("ordinary traffic has no dependences")
        for kind, count in requests.counts().items():
            if kind not in (Kind.LD, Kind.ST):
                raise InputError(
                    f"the traffic holds {count} {kind.name} requests",
                    hint="ordinary traffic is LD and ST; commands of the units make the program",
                )
        if not len(requests):
            return
        o = requests.organization
        wrong = (requests.address < 0) | (requests.address >= o.banks_per_channel * o.bank_bytes)
        _refuse_first(wrong, requests.address, "an address below the channel")
        wrong = (
            (requests.first_channel < 0)
            | (requests.channels < 1)
            | (requests.first_channel + requests.channels > o.channels)
        )
        _refuse_first(wrong, requests.first_channel, f"the first of some of {o.channels} channels")
        wrong = (arrival < 0) | (arrival > MAX_ARRIVAL_CYCLES)
        _refuse_first(wrong, arrival, f"an arrival of 0 to {MAX_ARRIVAL_CYCLES} cycles")
        _refuse_first(np.diff(arrival, prepend=0) < 0, arrival, "at or after the arrival before it")

    @property
    def bytes(self) -> int:
        """Bytes that all requests move, over all channels."""
        return self.requests.requests * self.requests.organization.access_bytes

    def paced(self, cycles_per_request: float) -> Traffic:
        """Return the same requests, one after the other at an even rate.

        Args:
            cycles_per_request: cycles between two arrivals; with 0 all requests arrive at once.

        Raises:
            InputError: the last request would arrive too late.
        """
        each = np.arange(len(self.requests)) * cycles_per_request
        return replace(self, arrival=each.astype(np.int64))


def _refuse_first(wrong: npt.NDArray[np.bool_], values: npt.NDArray[np.integer], what: str) -> None:
    """Raise InputError for the first step that is wrong, if there is one."""
    if np.any(wrong):
        step = int(np.argmax(wrong))
        raise InputError(f"{int(values[step])} is not {what}", where=f"traffic: step {step}")


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """When a channel serves ordinary traffic, and in which direction (docs/model/traffic.md).

    Attributes:
        queue: entries of the queue of each pseudo-channel and direction.
        write_high: queued writes at which a pseudo-channel begins to write.
        write_low: queued writes at which it returns to reads, if reads are queued.
        patience: cycles that a request waits in its queue before the units are interrupted.
        turn: cycles after which ordinary traffic is interrupted for the units.
    """

    queue: int = 64
    write_high: int = 48
    write_low: int = 16
    patience: int = 2000
    turn: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.write_low < self.write_high <= self.queue <= MAX_QUEUE:
            raise InputError(
                f"write_low = {self.write_low}, write_high = {self.write_high}, "
                f"queue = {self.queue} do not fit together",
                hint=f"they need 0 < write_low < write_high <= queue <= {MAX_QUEUE}",
            )
        for name, value in (("patience", self.patience), ("turn", self.turn)):
            if not 1 <= value <= MAX_ARRIVAL_CYCLES:
                raise InputError(f"{name} = {value} is not 1 to {MAX_ARRIVAL_CYCLES} cycles")


def streaming(organization: Organization, kind: Kind, bytes_per_channel: int) -> Traffic:
    """Return loads or stores of a region of every channel at the peak of the interface.

    All channels work at once. Consecutive accesses go to the pseudo-channels, the bank groups and
    the ranks in turn, so that the short distances between columns suffice. Each bank group is
    accessed row by row, with the next row in its next bank. Bank groups begin at different columns,
    so that rows open one after the other rather than all at once. The part of the first row that
    is left out at first comes last.

    Args:
        organization: the stack.
        kind: `Kind.LD` or `Kind.ST`.
        bytes_per_channel: length of the region in each channel.

    Raises:
        InputError: the region is not of the same whole number of accesses in every bank group, or
            larger than a channel; or the kind is another one.
    """
    o = organization
    groups = o.ranks * o.bank_groups
    turn = o.pseudo_channels * groups * o.access_bytes
    if bytes_per_channel < turn or bytes_per_channel % turn:
        raise InputError(
            f"bytes_per_channel = {bytes_per_channel} is not a multiple of {turn}",
            hint="each bank group of a channel takes the same number of accesses",
        )
    if bytes_per_channel > o.banks_per_channel * o.bank_bytes:
        raise InputError(
            f"bytes_per_channel = {bytes_per_channel} is more than a channel holds, "
            f"{o.banks_per_channel * o.bank_bytes}"
        )
    layout = AddressLayout.of(o)
    each = bytes_per_channel // turn
    access, rank, bank_group, pseudo_channel = np.indices(
        (each, o.ranks, o.bank_groups, o.pseudo_channels), dtype=np.int64
    ).reshape(4, -1)
    place = (access + (rank * o.bank_groups + bank_group) * o.columns // groups) % each
    rows, column = place // o.columns, place % o.columns
    address = (
        pseudo_channel << layout.pseudo_channel
        | rank << layout.rank
        | bank_group << layout.bank_group
        | rows % o.banks << layout.bank
        | rows // o.banks << layout.row
        | column << layout.column
    )
    return _arriving(o, np.full(len(address), kind, dtype=np.uint8), address, 0, o.channels)


def kv_writes(
    layout: HeadLayout, *, keys: int, values: int, first_channel: int = 0, channels: int = 1
) -> Traffic:
    """Return the stores by which prefill fills the keys and values of a head, or chunk of one.

    Every access that the units' multiplies of the head read is written once, padding included
    (docs/model/mapping.md), first all keys, then all values, in the order of the multiplies. Values
    that are part of the keys are not written.

    Args:
        layout: shape and place of the head.
        keys: first byte, in every bank, of the keys, as in
            `attacc.pim.mapping.geometry.HeadRegions`.
        values: first byte of the values.
        first_channel: first channel that holds such a head.
        channels: number of neighbouring channels that hold such a head each.
    """
    o = layout.organization
    fields = AddressLayout.of(o)
    read_at_once = {
        Placement.BANK: (o.banks, o.ranks, o.bank_groups, o.pseudo_channels),
        Placement.BANKGROUP: (1, o.ranks, o.bank_groups, o.pseudo_channels),
        Placement.BUFFER: (1, 1, 1, o.pseudo_channels),
    }[layout.placement]
    bank, rank, bank_group, pseudo_channel = np.indices(read_at_once, dtype=np.int64).reshape(4, -1)
    banks = (
        pseudo_channel << fields.pseudo_channel
        | rank << fields.rank
        | bank_group << fields.bank_group
        | bank << fields.bank
    )
    address = np.concatenate(
        [
            (start + layout.multiply_addresses(count)[:, np.newaxis] + banks).reshape(-1)
            for start, count in (
                (keys, layout.score_multiplies),
                (values, 0 if layout.one_copy else layout.context_multiplies),
            )
        ]
    )
    kind = np.full(len(address), Kind.ST, dtype=np.uint8)
    return _arriving(o, kind, address, first_channel, channels)


def token_writes(
    layout: HeadLayout, regions: HeadRegions, tokens: Sequence[Sequence[int]]
) -> Traffic:
    """Return the stores of the keys and values of some tokens of several heads of a channel.

    Key k of a head is the (k div P)-th key of part k mod P of its sequence
    (`attacc.pim.numerics.memory`). Values that are part of the keys are not written. The heads come
    one after the other, and all stores arrive at the start.

    Args:
        layout: shape of every head.
        regions: where the keys and the values of the heads begin.
        tokens: for each head, the places of the tokens in its sequence.

    Raises:
        InputError: a token lies beyond its head.
    """
    o = layout.organization
    fields = AddressLayout.of(o)
    p, width = layout.keys_per_part, layout.columns_per_slice
    at = layout.multiply_addresses(max(layout.score_multiplies, layout.context_multiplies))
    banks = np.zeros(1, dtype=np.int64)
    if layout.placement is Placement.BANK:
        banks = np.arange(o.banks, dtype=np.int64) << fields.bank
    each: list[I64] = []
    for head, token in ((head, token) for head, own in enumerate(tokens) for token in own):
        if not 0 <= token < layout.length:
            raise InputError(f"token {token} is beyond a head of {layout.length} tokens")
        key, part = divmod(token, layout.sequence_parts)
        if layout.placement is Placement.BUFFER:
            place = part << fields.pseudo_channel
        else:
            rest, group = divmod(part, o.bank_groups)
            pseudo_channel, rank = divmod(rest, o.ranks)
            place = (
                pseudo_channel << fields.pseudo_channel
                | rank << fields.rank
                | group << fields.bank_group
            )
        slices = np.arange(layout.key_slices)[:, np.newaxis] * p
        of_key = ((slices + key) * width + np.arange(width)).reshape(-1)
        of_value = np.arange(0 if layout.one_copy else layout.context_slices) * p + key
        for start, columns in ((regions.keys[head], of_key), (regions.values[head], of_value)):
            each.append((int(start) + place + at[columns][:, np.newaxis] + banks).reshape(-1))
    address = np.concatenate([np.zeros(0, dtype=np.int64), *each])
    return _arriving(o, np.full(len(address), Kind.ST, dtype=np.uint8), address, 0, 1)


def mixed(
    organization: Organization,
    requests: int,
    *,
    seed: int,
    writes: float = 0.3,
    locality: float = 0.5,
    cycles_per_request: float = 0.0,
) -> Traffic:
    """Return random loads and stores, each to one channel.

    Args:
        organization: the stack.
        requests: number of requests.
        seed: seed of the random numbers; equal seeds give equal traffic.
        writes: share of stores.
        locality: probability that a request goes to the next column of the row of the request
            before it, instead of a random place.
        cycles_per_request: mean cycles between two arrivals, exponentially distributed; with 0
            all requests arrive at once.

    Raises:
        InputError: a share is not within 0 to 1, or a number is negative.
    """
    for name, share in (("writes", writes), ("locality", locality)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} = {share} is not 0 to 1")
    if requests < 0 or not 0 <= cycles_per_request <= MAX_ARRIVAL_CYCLES:
        raise InputError(
            f"requests = {requests} and cycles_per_request = {cycles_per_request} must not be "
            f"negative, nor beyond {MAX_ARRIVAL_CYCLES}"
        )
    o = organization
    layout = AddressLayout.of(o)
    random = np.random.default_rng(seed)
    kind = np.where(random.random(requests) < writes, Kind.ST, Kind.LD).astype(np.uint8)
    place = random.integers(o.stack_bytes // o.access_bytes, size=requests)
    fresh = random.random(requests) >= locality
    if requests:
        fresh[0] = True
    leader = np.maximum.accumulate(np.where(fresh, np.arange(requests), 0))
    column = (place[leader] + np.arange(requests) - leader) % o.columns
    place = place[leader] - place[leader] % o.columns + column
    arrival = np.cumsum(random.exponential(cycles_per_request, requests)).astype(np.int64)
    program = Program(
        o,
        kind,
        place * o.access_bytes % (1 << layout.channel),
        (place * o.access_bytes >> layout.channel).astype(np.int16),
        np.ones(requests, dtype=np.int16),
    )
    return Traffic(program, arrival)


def read_traffic(path: Path, organization: Organization) -> Traffic:
    """Read a text trace of loads and stores, each with the cycle of its arrival.

    A line is ``LD 0x40000000 1200``: request, byte address as in other traces
    (`attacc.pim.program.trace`), cycle. A line without a cycle arrives together with the one before
    it, or at the start. Blank lines are ignored.

    Args:
        path: the file; compressed if its name ends in ``.gz``.
        organization: the stack that its addresses refer to.

    Raises:
        DocumentError: the file is absent, unreadable, or malformed at a line.
    """
    where = str(path)
    lines = encoded_text_of(read_data(path), where=where).split(b"\n")
    arrival: list[int] = []
    numbers: list[int] = []
    now = 0
    for i, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        if len(words) == 3:
            now = _arrival(words[2], now, where=f"{where}: line {i + 1}")
            lines[i] = b" ".join(words[:2])
        arrival.append(now)
        numbers.append(i + 1)
    trace = parse_trace(b"\n".join(lines), organization, where=where)
    # One step a line, since neighbouring channels may have different arrivals.
    steps = np.repeat(np.arange(len(trace)), trace.channels)
    starts = np.cumsum(trace.channels, dtype=np.int64) - trace.channels
    kind = trace.kind[steps]
    for line, one in zip(numbers, kind.tolist(), strict=True):
        if one not in (Kind.LD, Kind.ST):
            raise DocumentError(
                f"{Kind(one).name} is no ordinary request",
                where=f"{where}: line {line}",
                hint="traffic is LD and ST; commands of the units go into the trace itself",
            )
    channel = trace.first_channel[steps] + np.arange(len(steps)) - starts[steps]
    requests = Program(
        organization,
        kind,
        trace.address[steps],
        channel.astype(np.int16),
        np.ones(len(steps), dtype=np.int16),
    )
    return Traffic(requests, np.array(arrival, dtype=np.int64))


def _arrival(word: bytes, earliest: int, *, where: str) -> int:
    """Return the cycle of arrival in the third word of a line."""
    text = word.decode("ascii", "replace")
    if not (word.isdigit() and len(word) <= len(str(MAX_ARRIVAL_CYCLES))):
        raise DocumentError(
            f"arrival {text!r:.60} is no cycle",
            where=where,
            hint=f"a line is request, address and 0 to {MAX_ARRIVAL_CYCLES}, as in LD 0x40 1200",
        )
    cycle = int(word)
    if not earliest <= cycle <= MAX_ARRIVAL_CYCLES:
        raise DocumentError(
            f"arrival {cycle} is not {earliest} to {MAX_ARRIVAL_CYCLES}",
            where=where,
            hint="traffic is listed in the order in which it arrives",
        )
    return cycle


def _arriving(
    organization: Organization,
    kind: npt.NDArray[np.uint8],
    address: I64,
    first_channel: int,
    channels: int,
) -> Traffic:
    """Return requests of the same channels that all arrive at the start."""
    n = len(address)
    requests = Program(
        organization,
        kind,
        address,
        np.full(n, first_channel, dtype=np.int16),
        np.full(n, channels, dtype=np.int16),
    )
    return Traffic(requests, np.zeros(n, dtype=np.int64))
