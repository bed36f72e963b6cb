"""How the keys and values of one attention head lie in the banks of one channel.

AttAcc, ASPLOS 2024, section on data mapping (reference/attacc.md, mapping of one head). The
sequence is cut into parts, each owned by one group of units; a multiply command reads one column
of every part at once. In the score, the running index counts columns of a part key by key; in
the context it counts them output slice by output slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.dram import Organization
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.units import BITS_PER_BYTE

I64 = npt.NDArray[np.int64]

SCORE_BYTES: Final = 2
"""Bytes of one score that moves to the softmax: it is sent in 16 bits."""


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """How a key, or a value, of a head lies in the banks of one channel.

    Attributes:
        organization: the stack.
        placement: where its units sit.
        head_dim: elements of a key.
        element: element type of the keys and values.
        value_dim: elements of a value; None for as many as a key has.
        key_slices: equal slices of elements into which every key is cut. The keys of one slice lie
            together, and the scores of a slice are partial sums (docs/model/heads.md).
        one_copy: whether the first elements of a key serve as its value, so that values are not
            stored. Programs name the rows of the keys a second time, as rows of values; the
            controller has a table of the real rows.
    """

    organization: Organization
    placement: Placement
    head_dim: int
    element: ElementType
    value_dim: int | None = field(default=None, kw_only=True)
    key_slices: int = field(default=1, kw_only=True)
    one_copy: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.head_dim < 1:
            raise InputError(f"head_dim = {self.head_dim} must be at least 1")
        if self.value_dim is not None and self.value_dim < 1:
            raise InputError(f"value_dim = {self.value_dim} must be at least 1")
        if self.one_copy and self.value_elements > self.head_dim:
            raise InputError(
                f"value_dim = {self.value_elements}: keys of {self.head_dim} elements do not hold "
                "such values",
                hint="store values apart, or give a value_dim of at most head_dim",
            )
        columns = self._columns(self.head_dim)
        if self.key_slices < 1 or (self.key_slices - 1) * self.columns_per_slice >= columns:
            raise InputError(
                f"key_slices = {self.key_slices}: keys of {self.head_dim} elements cannot be cut "
                "into so many equal slices",
                hint=f"give a number from 1 to {columns} that leaves no slice empty",
            )

    def head(self, length: int) -> HeadLayout:
        """Return the layout of a head, or of a chunk of one, with a number of keys and values.

        Raises:
            InputError: the length is below 1.
        """
        return HeadLayout(
            self.organization,
            self.placement,
            self.head_dim,
            self.element,
            length,
            value_dim=self.value_dim,
            key_slices=self.key_slices,
            one_copy=self.one_copy,
        )

    def _columns(self, elements: int) -> int:
        """Return the columns of every bank that one key or value of each part takes."""
        return -(-elements // (self.dimension_parts * self.elements_per_column))

    @property
    def elements_per_column(self) -> int:
        """Elements that one column access of one bank holds."""
        return self.organization.access_bytes * BITS_PER_BYTE // self.element.bits

    @property
    def sequence_parts(self) -> int:
        """Parts into which the sequence is cut, one for each unit or group of units."""
        o = self.organization
        if self.placement is Placement.BUFFER:
            return o.pseudo_channels
        return o.pseudo_channels * o.ranks * o.bank_groups

    @property
    def dimension_parts(self) -> int:
        """Parts into which the elements of a key are cut: banks that share a key."""
        return self.organization.banks if self.placement is Placement.BANK else 1

    @property
    def value_elements(self) -> int:
        """Elements of a value, without padding."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def columns_per_slice(self) -> int:
        """Multiplies that one slice of one key of each part takes in the score."""
        return -(-self._columns(self.head_dim) // max(1, self.key_slices))

    @property
    def columns_per_key(self) -> int:
        """Multiplies that one key of each part takes in the score, in all slices of the key."""
        return self.key_slices * self.columns_per_slice

    @property
    def context_slices(self) -> int:
        """Slices of the output; a slice is finished before the next one begins."""
        if not self.one_copy:
            return self._columns(self.value_elements)
        # Banks hold consecutive accesses of a slice of the key: the first bank has all columns that
        # any bank has.
        last, width = (self.value_elements - 1) // self.elements_per_column, self.columns_per_slice
        before, access = divmod(last, self.dimension_parts * width)
        return before * width + min(access + 1, width)

    @property
    def slices_together(self) -> int:
        """Output slices whose accesses lie side by side, value by value."""
        return self.columns_per_slice if self.one_copy else 1

    @property
    def value_columns(self) -> int:
        """Columns of every bank that a value of each part takes, or the key that it is part of."""
        return self.columns_per_key if self.one_copy else self.context_slices

    @property
    def padded_key(self) -> int:
        """Elements of a key, padding included."""
        return self.dimension_parts * self.columns_per_key * self.elements_per_column

    @property
    def padded_value(self) -> int:
        """Elements of a value, or of the key that it is part of, padding included."""
        if self.one_copy:
            return self.padded_key
        return self.dimension_parts * self.context_slices * self.elements_per_column

    @property
    def keys_per_move(self) -> int:
        """Keys of each part whose scores one group of moves carries away: they fill an access."""
        return self.organization.access_bytes // SCORE_BYTES

    @property
    def banks_in_turn(self) -> int:
        """Banks (or sets of banks read together) that consecutive multiplies go around."""
        o = self.organization
        return {
            Placement.BANK: 1,
            Placement.BANKGROUP: o.banks,
            Placement.BUFFER: o.ranks * o.bank_groups * o.banks,
        }[self.placement]

    @property
    def multiplies_per_bank(self) -> int:
        """Consecutive multiplies that read one bank (or set of banks) before the next in turn."""
        return self.organization.columns if self.placement is Placement.BANKGROUP else 1

    def multiply_addresses(self, count: int) -> I64:
        """Return the byte addresses, below the channel, of the first `count` multiplies from row 0.

        Bank: columns in order. Bankgroup: a row of 32 columns, then the next bank. Buffer: the
        bank groups of both ranks in turn, then the next bank, then the next column.
        """
        o = self.organization
        x = np.arange(count, dtype=np.int64)
        if self.placement is Placement.BANK:
            bank, column = np.zeros_like(x), x
        elif self.placement is Placement.BANKGROUP:
            bank = x // o.columns % o.banks
            column = x % o.columns + x // (o.columns * o.banks) * o.columns
        else:
            groups = o.ranks * o.bank_groups
            bank = x % groups * o.banks + x // groups % o.banks
            column = x // (groups * o.banks)
        return bank * o.bank_bytes + column * o.access_bytes


@dataclass(frozen=True, slots=True)
class HeadLayout(KeyLayout):
    """One head of attention on one channel, or a chunk of one.

    Attributes:
        length: keys (and values) of the head.
    """

    length: int

    def __post_init__(self) -> None:
        KeyLayout.__post_init__(self)
        if self.length < 1:
            raise InputError(f"length = {self.length} must be at least 1")

    @property
    def of_any_length(self) -> KeyLayout:
        """How one key lies in the banks."""
        return KeyLayout(
            self.organization,
            self.placement,
            self.head_dim,
            self.element,
            value_dim=self.value_dim,
            key_slices=self.key_slices,
            one_copy=self.one_copy,
        )

    @property
    def keys_per_part(self) -> int:
        """Keys of the longest part."""
        return -(-self.length // self.sequence_parts)

    @property
    def score_multiplies(self) -> int:
        """Multiply commands of the score."""
        return self.keys_per_part * self.columns_per_key

    @property
    def context_multiplies(self) -> int:
        """Multiply commands of the context."""
        return self.context_slices * self.keys_per_part

    @property
    def value_places(self) -> int:
        """Accesses, in the order of multiplies, among which the context finds its values."""
        return self.value_columns * self.keys_per_part

    @property
    def score_groups(self) -> int:
        """Groups of moves that carry away the scores, or those of one slice of the keys."""
        return -(-self.keys_per_part // self.keys_per_move)

    @property
    def probability_words(self) -> int:
        """Moves per part that return the softmax output to the vector buffers."""
        return -(-self.length // (self.sequence_parts * self.elements_per_column))

    @property
    def rows(self) -> int:
        """Rows that the keys take in every bank that holds them."""
        return rows_of(self, self.length)

    @property
    def value_rows(self) -> int:
        """Rows that the values take in every bank that holds them."""
        return rows_of_values(self, self.length)


@dataclass(frozen=True, eq=False)
class HeadRegions:
    """Where keys and values of consecutive heads (or chunks of heads) of a channel begin.

    Attributes:
        keys: (heads,) first byte, in every bank, of the keys.
        values: (heads,) first byte of the values.
    """

    keys: I64
    values: I64


def rows_of(layout: KeyLayout, length: int) -> int:
    """Return the rows that keys of a length take in every bank that holds them.

    Args:
        layout: how a key lies in the banks.
        length: keys of a head, or of a chunk of one.
    """
    return _rows_of(layout, length, layout.columns_per_key)


def rows_of_values(layout: KeyLayout, length: int) -> int:
    """Return the rows that values of a length take in every bank that holds them.

    Values that are part of the keys take no rows of their own, but a program names their rows.

    Args:
        layout: how a value lies in the banks.
        length: values of a head, or of a chunk of one.
    """
    return _rows_of(layout, length, layout.value_columns)


def rows_of_both(layout: KeyLayout, length: int) -> int:
    """Return the rows that a program names for the keys and the values of a length.

    Args:
        layout: how keys and values lie in the banks.
        length: keys of a head, or of a chunk of one.
    """
    return rows_of(layout, length) + rows_of_values(layout, length)


def stored_rows(layout: KeyLayout, length: int) -> int:
    """Return the rows of every bank that the keys and the values of a length take.

    Values that are part of the keys take none.

    Args:
        layout: how keys and values lie in the banks.
        length: keys of a head, or of a chunk of one.
    """
    return rows_of(layout, length) + (0 if layout.one_copy else rows_of_values(layout, length))


def _rows_of(layout: KeyLayout, length: int, columns: int) -> int:
    per_row_of_all_banks = layout.organization.columns * layout.banks_in_turn
    keys_per_part = -(-length // layout.sequence_parts)
    return -(-keys_per_part * columns // per_row_of_all_banks)


def rows_of_chunks(layout: KeyLayout, lengths: Iterable[int]) -> int:
    """Return the rows of every bank that the keys and values of a channel's chunks take.

    Args:
        layout: as for `rows_of`.
        lengths: keys of each chunk.
    """
    return sum(rows_of_both(layout, length) * count for length, count in Counter(lengths).items())


def check_capacity(layout: KeyLayout, lengths: Sequence[int], counts: Sequence[int]) -> None:
    """Refuse heads that no way of cutting and dealing out would fit into a stack.

    Heads that pass this check may still not fit: chunks of heads begin with rows of their own, and
    a channel may get more than its share (`allocate_chunks`).

    Args:
        layout: how a key lies in the banks.
        lengths: keys of key/value heads; a length may occur several times.
        counts: how many heads have each of these lengths.

    Raises:
        InputError: all rows of the stack together do not suffice.
    """
    o = layout.organization
    rows = [rows_of_both(layout, length) for length in lengths]
    needed = sum(row * count for row, count in zip(rows, counts, strict=True))
    if needed <= o.rows * o.channels:
        return
    if len(lengths) == 1:
        which = f"{sum(counts)} heads of length {lengths[0]}"
        each = rows[0]
        # A head that fits into a channel is not cut as long as heads outnumber the channels.
        fits = o.rows // each * o.channels if each <= o.rows else o.rows * o.channels // each
        hint = f"at most {fits} such heads fit into a stack"
    else:
        which = f"{sum(counts)} heads of up to {max(lengths)} keys"
        hint = "attend to fewer or shorter heads per stack"
    raise InputError(
        f"{which} need {-(-needed // o.channels)} rows of every bank, which has {o.rows}",
        hint=f"{hint}, or take more stacks",
    )


def allocate_heads(layout: HeadLayout, heads: int) -> HeadRegions:
    """Give each head of one channel rows of its own.

    Args:
        layout: the shape of every head.
        heads: how many heads the channel holds.

    Raises:
        InputError: the rows of a bank do not suffice.
    """
    o = layout.organization
    each = layout.rows + layout.value_rows
    needed = each * heads
    if needed > o.rows:
        fits = o.rows // each
        cut = "" if fits else "; the interleaved schedule cuts long heads over channels"
        raise InputError(
            f"{heads} heads of length {layout.length} in one channel need {needed} rows of every "
            f"bank, which has {o.rows}",
            hint=f"at most {fits} such heads fit into a channel, {fits * o.channels} into a "
            f"stack{cut}",
        )
    return allocate_chunks(layout, [layout.length] * heads)


def allocate_chunks(layout: KeyLayout, lengths: Sequence[int]) -> HeadRegions:
    """Give each chunk of one channel rows of its own, one chunk after the other.

    Args:
        layout: how a key lies in the banks.
        lengths: keys of each chunk.

    Raises:
        InputError: the rows of a bank do not suffice.
    """
    o = layout.organization
    row_bytes = o.columns * o.access_bytes
    rows_of_length = {
        length: (rows_of(layout, length), rows_of_values(layout, length)) for length in set(lengths)
    }
    keys: list[int] = []
    values: list[int] = []
    row = 0
    for length in lengths:
        of_keys, of_values = rows_of_length[length]
        keys.append(row * row_bytes)
        values.append((row + of_keys) * row_bytes)
        row += of_keys + of_values
    if row > o.rows:
        raise InputError(
            f"the {len(lengths)} chunks of a channel need {row} rows of every bank, which "
            f"has {o.rows}",
            hint="attend to fewer or shorter heads per stack",
        )
    return HeadRegions(np.array(keys, dtype=np.int64), np.array(values, dtype=np.int64))


def check_room(lengths: Sequence[Sequence[int]], capacities: Sequence[Sequence[int]]) -> None:
    """Refuse chunks that have more keys than room.

    Args:
        lengths: per channel, keys of each chunk.
        capacities: per channel, keys for which each chunk has room.

    Raises:
        InputError: a chunk exceeds its room, or numbers of channels or chunks differ; says which.
    """
    if list(map(len, lengths)) != list(map(len, capacities)):
        raise InputError(
            f"room for {list(map(len, capacities))} chunks per channel is given, there are "
            f"{list(map(len, lengths))}"
        )
    for channel, (own, rooms) in enumerate(zip(lengths, capacities, strict=True)):
        for number, (length, room) in enumerate(zip(own, rooms, strict=True)):
            if length > room:
                raise InputError(
                    f"chunk {number} of channel {channel} has {length} keys, and room for {room}"
                )


@dataclass(frozen=True, eq=False)
class ChannelChunks:
    """The chunks that one channel attends to.

    Attributes:
        layout: how a key lies in the banks.
        lengths: keys of each chunk, in the order of their softmax.
        regions: where the keys and values of each chunk begin.
        capacities: keys for which each chunk has room. The values of one slice and those of the
            next are as far apart as the room, not the length, says. None where chunks fill their
            room.
        rotations: the key of each part with which reading each chunk begins, and from which it goes
            around (`attacc.pim.mapping.ring`); None for the first key of every chunk.
        apart: keys of each part from one key that is read to the next.
    """

    layout: KeyLayout
    lengths: tuple[int, ...]
    regions: HeadRegions
    capacities: tuple[int, ...] | None = None
    rotations: tuple[int, ...] | None = None
    apart: int = 1

    def __post_init__(self) -> None:
        check_room([self.lengths], [self.room])

    @property
    def turned(self) -> tuple[int, ...]:
        """The key of each part with which reading each chunk begins."""
        return (0,) * len(self.lengths) if self.rotations is None else self.rotations

    @property
    def room(self) -> tuple[int, ...]:
        """Keys for which each chunk has room."""
        return self.lengths if self.capacities is None else self.capacities

    @classmethod
    def allocated(
        cls,
        layout: KeyLayout,
        lengths: Iterable[int],
        capacities: Iterable[int] | None = None,
        rotations: Iterable[int] | None = None,
    ) -> ChannelChunks:
        """Return chunks that lie one after the other in the rows (`allocate_chunks`).

        Args:
            layout: how a key lies in the banks.
            lengths: keys of each chunk.
            capacities: keys for which each chunk has room; None for as many as it has.
            rotations: as in the attribute.
        """
        lengths = tuple(lengths)
        room = lengths if capacities is None else tuple(capacities)
        turned = None if rotations is None else tuple(rotations)
        return cls(layout, lengths, allocate_chunks(layout, room), room, turned)
