"""The modelled banks of a stack, and where keys and values are written in them.

Key k of a chunk is the (k div P)-th key of part k mod P of the sequence. A part lies in one
pseudo-channel, rank and bank group (bank, bankgroup), or in one pseudo-channel (buffer). So a new
key takes the next place, and no other key moves. At ``bank``, the elements of a key lie in the
banks of its group one access after the other: bank b holds the accesses b w to b w + w - 1 of a
slice of the key, where w is the number of columns per slice; a key that is not cut is one slice.
The keys of one slice lie together. The values of an output slice are laid out alike.
`attacc.pim.mapping.geometry.HeadLayout` tells which multiply reads which column. AttAcc, ASPLOS
2024, states the split (reference/attacc.md, mapping of one head), but not which key goes to which
part; that is assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import Organization
from attacc.hardware.placement import Placement
from attacc.pim.mapping.geometry import HeadLayout, HeadRegions, KeyLayout
from attacc.pim.numerics.formats import Codes

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which bank of a channel a unit reads.

    The banks of a channel are numbered by pseudo-channel, rank, bank group and bank, the last
    varying fastest. Unit u reads bank u * stride + (what the multiply's address says).

    Attributes:
        units: number of units of a channel; units are numbered in the order of their banks.
        stride: number of banks from one unit's bank to the next unit's bank.
        banks: number of banks of a channel.
    """

    units: int
    stride: int
    banks: int

    @classmethod
    def of(cls, organization: Organization, placement: Placement) -> Geometry:
        """Return the geometry of a placement."""
        banks = organization.banks_per_channel
        stride = {
            Placement.BANK: 1,
            Placement.BANKGROUP: organization.banks,
            Placement.BUFFER: banks // organization.pseudo_channels,
        }[placement]
        return cls(banks // stride, stride, banks)


@dataclass(frozen=True, eq=False)
class MultiplyPlaces:
    """Where the multiplies of a head read, relative to the begin of its keys or values.

    Attributes:
        column: (n,) access in a bank, rows one after the other.
        bank: (n,) bank, among those of one unit.
    """

    column: I64
    bank: I64

    @classmethod
    def of(cls, layout: HeadLayout) -> MultiplyPlaces:
        """Return the places of the multiplies of the score, or of the context if it has more.

        Those of both are the same, as far as they go.
        """
        o = layout.organization
        count = max(layout.score_multiplies, layout.value_places)
        address = layout.multiply_addresses(count)
        bank, in_bank = np.divmod(address, o.bank_bytes)
        return cls(in_bank // o.access_bytes, bank)


@dataclass(frozen=True, eq=False)
class BankMemory:
    """The contents of the banks of a stack. Only rows that were written are kept.

    Attributes:
        organization: the stack.
        slots: per channel, (rows,) number of each row among the kept rows; 0 for a row that is not
            kept.
        channels: per channel, the contents: (kept rows, columns, pseudo-channels, ranks, bank
            groups, banks, bytes of an access). Kept row 0 is zero, and stands for all rows that
            are not kept.
    """

    organization: Organization
    slots: list[I64] = field(default_factory=list[I64])
    channels: list[U8] = field(default_factory=list[U8])

    def __post_init__(self) -> None:
        for _ in range(self.organization.channels):
            self.slots.append(np.zeros(self.organization.rows, dtype=np.int64))
            self.channels.append(self._rows(1))

    def _rows(self, rows: int) -> U8:
        o = self.organization
        shape = (o.columns, o.pseudo_channels, o.ranks, o.bank_groups, o.banks, o.access_bytes)
        return np.zeros((rows, *shape), dtype=np.uint8)

    def rows_in_use(self, channel: int) -> I64:
        """Return the rows of a channel that are kept."""
        return np.flatnonzero(self.slots[channel])

    def reserve(self, channel: int, first: int, last: int) -> None:
        """Keep some rows of a channel.

        Args:
            channel: which.
            first: row.
            last: row.

        Raises:
            InputError: the banks have fewer rows.
        """
        if last >= self.organization.rows:
            raise InputError(
                f"row {last} of channel {channel} does not exist: a bank has "
                f"{self.organization.rows}",
                hint="store fewer or shorter heads per stack",
            )
        slots, held = self.slots[channel], self.channels[channel]
        missing = first + np.flatnonzero(slots[first : last + 1] == 0)
        used = 1 + int(slots.max())  # rows may have two numbers
        if used + len(missing) > len(held):
            # Grow by half, so that data that grow token by token are not copied every time.
            more = max(used + len(missing), len(held) * 3 // 2) - len(held)
            self.channels[channel] = np.concatenate([held, self._rows(more)])
        slots[missing] = used + np.arange(len(missing))

    def accesses(self, channel: int, bits: int) -> Codes:
        """Return the contents of a channel, access by access, as elements of 8 or 16 bits.

        Returns:
            (kept rows * columns, banks, elements of an access), a view.
        """
        o = self.organization
        data = self.channels[channel].reshape(-1, o.banks_per_channel, o.access_bytes)
        return data.view({8: np.uint8, 16: np.dtype("<u2")}[bits])

    def alias(self, channel: int, begin: int, other: int, last: int) -> None:
        """Give rows a second number each.

        Args:
            channel: the channel.
            begin: first byte, in every bank, of the rows.
            other: first byte by their second numbers.
            last: last access of the rows, relative to the first.
        """
        o = self.organization
        row_bytes = o.columns * o.access_bytes
        rows = last // o.columns + 1
        first, second = begin // row_bytes, other // row_bytes
        slots = self.slots[channel]
        slots[second : second + rows] = slots[first : first + rows]

    def write(
        self, channel: int, begin: int, places: MultiplyPlaces, geometry: Geometry, codes: Codes
    ) -> None:
        """Write the elements that consecutive multiplies of a head will read.

        Args:
            channel: the channel.
            begin: first byte, in every bank, of the head's keys or values.
            places: where the head's multiplies read.
            geometry: which unit reads which bank.
            codes: (multiplies, units, elements of an access).
        """
        o = self.organization
        row, column = np.divmod(begin // o.access_bytes + places.column[: len(codes)], o.columns)
        self.reserve(channel, int(row.min()), int(row.max()))
        at = self.slots[channel][row] * o.columns + column
        bank = np.arange(geometry.units) * geometry.stride + places.bank[: len(codes), np.newaxis]
        bits = codes.dtype.itemsize * 8
        self.accesses(channel, bits)[at[:, np.newaxis], bank] = codes


def store_head(
    memory: BankMemory,
    channel: int,
    layout: HeadLayout,
    keys_at: int,
    values_at: int,
    keys: Codes,
    values: Codes,
    capacity: int | None = None,
) -> None:
    """Write the keys and values of one head, or chunk of one, into the banks of a channel.

    Padding, to whole accesses and parts, is written as zeros. Values that are part of the keys are
    not written: their rows are those of the keys, by another number.

    Args:
        memory: the banks.
        channel: the channel.
        layout: the shape of the head.
        keys_at: first byte, in every bank, of the keys.
        values_at: first byte of the values.
        keys: (length, head_dim) bits.
        values: (length, value elements) bits.
        capacity: keys for which the head has room; by default its number of keys.

    Raises:
        InputError: keys or values have another shape or width, or do not fit into the banks.
    """
    geometry = Geometry.of(layout.organization, layout.placement)
    reserved = layout if capacity is None else layout.head(capacity)
    places = MultiplyPlaces.of(reserved)
    if layout.one_copy and not np.array_equal(values, keys[:, : layout.value_elements]):
        raise InputError(
            "the values of a head are not the first elements of its keys",
            hint="store values apart, or give the first elements of the keys as values",
        )
    banks, width = layout.dimension_parts, layout.elements_per_column
    key_shape = (layout.key_slices, banks, layout.columns_per_slice, width)
    value_shape = (1, banks, layout.context_slices, width)
    for name, codes, at, elements, shape in (
        ("keys", keys, keys_at, layout.head_dim, key_shape),
        ("values", values, values_at, layout.value_elements, value_shape),
    ):
        if codes.shape != (layout.length, elements):
            raise InputError(
                f"{name} of shape {codes.shape} for a head of {layout.length} keys of "
                f"{elements} elements"
            )
        if codes.dtype.itemsize * 8 != layout.element.bits:
            raise InputError(
                f"{name} of {codes.dtype.itemsize * 8} bits, laid out as {layout.element}"
            )
        whole = pad_elements(codes, math.prod(shape))
        parts, own = layout.sequence_parts, reserved.keys_per_part
        padded = np.zeros((own * parts, whole.shape[1]), dtype=codes.dtype)
        padded[: layout.length] = whole
        split = padded.reshape(own, parts, *shape)
        # To (slice, key, column) or (column, key), then part and bank, whose product is the unit.
        order = (2, 0, 4, 1, 3, 5) if name == "keys" else (2, 4, 0, 1, 3, 5)
        read = split.transpose(order).reshape(-1, geometry.units, width)
        memory.write(channel, at, places, geometry, read)
        if layout.one_copy:
            memory.alias(channel, keys_at, values_at, int(places.column[len(read) - 1]))
            return


def pad_elements(codes: npt.NDArray[np.generic], whole: int) -> npt.NDArray[np.generic]:
    """Return elements followed by zeros.

    Args:
        codes: (..., elements).
        whole: number of elements with padding, as `KeyLayout.padded_key` and `padded_value` say.
    """
    padded = np.zeros((*codes.shape[:-1], whole), dtype=codes.dtype)
    padded[..., : codes.shape[-1]] = codes
    return padded


def check_regions(layout: KeyLayout, capacities: tuple[int, ...], regions: HeadRegions) -> None:
    """Refuse keys and values that overlap, or lie beyond the banks of a channel.

    Args:
        layout: how a key lies in the banks.
        capacities: keys for which each head has room.
        regions: where the keys and values of each head begin.

    Raises:
        InputError: two regions overlap, or one lies beyond the banks; says which.
    """
    spans: list[tuple[int, int, str]] = []
    for number, capacity in enumerate(capacities):
        head = layout.head(capacity)
        columns = MultiplyPlaces.of(head).column
        for name, begins, count in (
            ("keys", regions.keys, head.score_multiplies),
            ("values", regions.values, head.value_places),
        ):
            size = (int(columns[:count].max()) + 1) * layout.organization.access_bytes
            begin = int(begins[number])
            spans.append((begin, begin + size, f"the {name} of chunk {number}"))
    spans.sort()
    if spans and spans[-1][1] > layout.organization.bank_bytes:
        raise InputError(
            f"{spans[-1][2]} end at byte {spans[-1][1]} of every bank, which has "
            f"{layout.organization.bank_bytes}",
            hint="use another schedule, or fewer or shorter heads",
        )
    for (_, end, before), (begin, _, after) in pairwise(spans):
        if begin < end:
            raise InputError(
                f"{before} and {after} overlap in the banks",
                hint="only one of them can be stored: use another schedule, or shorter heads",
            )
