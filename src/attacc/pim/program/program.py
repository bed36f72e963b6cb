"""A command program: the requests that one stack's controllers receive, in trace order.

A step is one request of one kind at one address below the channel, sent to a run of neighbouring
channels in ascending order. Programs that drive identical channels are stored once for all of
them, and the engine simulates such channels once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import Organization
from attacc.hardware.placement import Placement

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I16 = npt.NDArray[np.int16]
I64 = npt.NDArray[np.int64]


class Kind(IntEnum):
    """Kinds of requests; the numbers are what kernels see."""

    BARRIER = 0
    WRGB = 1
    MVSB = 2
    MVGB = 3
    SFM = 4
    MACAB = 5
    MACSB = 6
    MACPB = 7
    LD = 8
    ST = 9


MULTIPLY: Final = {
    Placement.BANK: Kind.MACAB,
    Placement.BANKGROUP: Kind.MACSB,
    Placement.BUFFER: Kind.MACPB,
}
"""The multiply request of each placement."""


@dataclass(frozen=True, eq=False)
class Dependences:
    """Which steps of a program use the results of which others, as events.

    An event happens on a channel when all steps that signal it have issued there and their delays
    have passed. A step does not issue before the event that it waits for. Events are numbered from
    1.

    Attributes:
        waits: (n,) event that a step waits for, 0 for none.
        signals: (n, k) events that a step signals, 0 for none.
        delays: (n, k) clock cycles from the step's issue until each signal takes effect.
        events: number of events.
    """

    waits: I32
    signals: I32
    delays: I32
    events: int


@dataclass(frozen=True, eq=False)
class Program:
    """Requests of one stack, in the order in which they enter the controllers' queues.

    Attributes:
        organization: the stack that the addresses refer to.
        kind: (n,) `Kind` of each step.
        address: (n,) byte address of each step, below the channel.
        first_channel: (n,) first channel that the step goes to.
        channels: (n,) number of neighbouring channels that the step goes to.
        dependences: which step waits for which; None for a program that is ordered by barriers.
            Each channel of a program with dependences receives its steps by itself.
        known_runs: the value of `runs`, if the builder knows it.
    """

    organization: Organization
    kind: U8
    address: I64
    first_channel: I16
    channels: I16
    dependences: Dependences | None = None
    known_runs: I64 | None = None

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.kind)

    @property
    def requests(self) -> int:
        """Requests over all channels; a text trace has this many lines."""
        return int(self.channels.sum(dtype=np.int64))

    @cached_property
    def runs(self) -> I64:
        """First step of each run of steps to the same channels, and the end of the last run."""
        if self.known_runs is not None:
            return self.known_runs
        first, channels = self.first_channel, self.channels
        changes = np.flatnonzero((first[1:] != first[:-1]) | (channels[1:] != channels[:-1])) + 1
        begin = np.zeros(min(1, len(self)), dtype=np.int64)
        return np.concatenate([begin, changes, np.full(1, len(self))])

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """Kinds of requests that occur in the program."""
        present = self.kind.tobytes()
        return frozenset([kind for kind in Kind if kind in present])

    def count(self, kind: Kind) -> int:
        """Return the number of requests of one kind, over all channels."""
        return int(self.channels[self.kind == kind].sum(dtype=np.int64))

    def counts(self) -> dict[Kind, int]:
        """Return, for every kind that occurs, its number of requests over all channels."""
        totals = np.bincount(self.kind, weights=self.channels, minlength=len(Kind))
        return {kind: int(totals[kind]) for kind in Kind if totals[kind]}

    def placement(self) -> Placement:
        """Return the placement that the program's multiplies belong to; bank if it has none.

        Raises:
            InputError: the program mixes the multiplies of several placements.
        """
        present = [p for p, kind in MULTIPLY.items() if kind in self.kinds]
        if len(present) > 1:
            names = " and ".join(MULTIPLY[p].name for p in present)
            raise InputError(
                f"the program mixes {names}",
                hint="a stack has the units of one placement: split the program",
            )
        return present[0] if present else Placement.BANK


@dataclass(frozen=True, slots=True)
class AddressLayout:
    """Where the fields of a byte address lie, from the low bits up.

    Offset, column, row, bank, bank group, rank, pseudo-channel, channel
    (reference/controller.md, input).

    Attributes:
        column: bit position of the column.
        row: bit position of the row.
        bank: bit position of the bank.
        bank_group: bit position of the bank group.
        rank: bit position of the rank.
        pseudo_channel: bit position of the pseudo-channel.
        channel: bit position of the channel.
        end: first bit beyond the address.
    """

    column: int
    row: int
    bank: int
    bank_group: int
    rank: int
    pseudo_channel: int
    channel: int
    end: int

    @classmethod
    def of(cls, organization: Organization) -> AddressLayout:
        """Return the layout of a stack's addresses."""
        o = organization
        sizes = (
            o.access_bytes, o.columns, o.rows, o.banks, o.bank_groups, o.ranks, o.pseudo_channels,
            o.channels,
        )  # fmt: skip
        return _address_layout(sizes)


@lru_cache(maxsize=64)
def _address_layout(sizes: tuple[int, ...]) -> AddressLayout:
    """Return the layout for the sizes of the fields; each size is a power of two."""
    positions = list(accumulate(size.bit_length() - 1 for size in sizes))
    return AddressLayout(*positions)
