"""Attention to some of the stored keys, as sparse attention selects them: bounds of its cost.

Which keys a query selects is known only when it runs. Units read whole accesses of open rows, and a
multiply reads one key of every part of the sequence. So the cost depends on where the selected keys
lie, between two ends:

- clustered: they are neighbours. The units read no other keys, and open the fewest rows;
- scattered: no two of them are in the same read. Each key that is selected takes a read of its own
  in all parts, at even distances, so that the reads go to as many rows as they can. (Where banks
  take turns, reads that return to one bank again and again would take longer still.)

Selected keys are taken to be spread over the channels as evenly as stored keys are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from attacc.errors import InputError
from attacc.models.precision import ElementType, kv_element
from attacc.pim.attention import StackAttention
from attacc.pim.mapping.geometry import HeadLayout, check_capacity
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.stack import MOST_KEYS, Stack
from attacc.pim.stacks import deal_over
from attacc.results import Result, flat
from attacc.units import whole


@dataclass(frozen=True, slots=True)
class SelectionBounds(Result):
    """Attention to selected keys of equal heads, at the least and at the most cost.

    Attributes:
        stored: keys of each head that are stored.
        selected: keys of each head to which a query attends.
        clustered: the selected keys are neighbours.
        scattered: each selected key is read with keys beside it that are not selected; the keys
            count these, too.
    """

    stored: int
    selected: int
    clustered: StackAttention
    scattered: StackAttention

    def to_dict(self) -> dict[str, Any]:
        """Return both ends as plain values."""
        return {
            "stored": self.stored,
            "selected": self.selected,
            "clustered": self.clustered.to_dict(),
            "scattered": self.scattered.to_dict(),
        }

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each end."""
        ends: Mapping[str, StackAttention] = {
            "clustered": self.clustered,
            "scattered": self.scattered,
        }
        return [{"selection": name} | flat(one.to_dict()) for name, one in ends.items()]


def selection_bounds(
    stack: Stack,
    *,
    heads: int,
    length: int,
    selected: int,
    head_dim: int = 128,
    element: ElementType | str = ElementType.FP16,
    value_dim: int | None = None,
    key_slices: int | None = None,
    one_copy: bool = False,
    queries_per_kv_head: int = 1,
    queries_per_read: int = 1,
) -> SelectionBounds:
    """Time and cost attention to selected keys, at both ends.

    All queries of a head attend to the same selected keys.

    Args:
        stack: the stack, with the interleaved schedule.
        heads: query heads on the stack.
        length: keys of each head that are stored.
        selected: keys of each head to which its queries attend; at most all of them.
        head_dim: elements of a key.
        element: element type of the keys and values.
        value_dim: as in `Stack.attend`.
        key_slices: as in `Stack.attend`.
        one_copy: as in `Stack.attend`.
        queries_per_kv_head: as in `Stack.attend`.
        queries_per_read: as in `Stack.attend`.

    Raises:
        InputError: more keys are selected than stored; or as in `Stack.attend`.
    """
    element = kv_element(element, where="element")
    whole(length, where="length", most=MOST_KEYS)
    if whole(selected, where="selected", most=MOST_KEYS) > length:
        raise InputError(
            f"{selected} keys are selected of {length}",
            where="selected",
            hint="select at most the keys that are stored",
        )
    if whole(heads, where="heads", most=MOST_KEYS) % whole(
        queries_per_kv_head, where="queries_per_kv_head"
    ):
        raise InputError(
            f"{heads} query heads cannot share keys and values by {queries_per_kv_head}",
            hint="take a number of query heads that is a multiple of those that share a head",
        )
    kv_heads = heads // queries_per_kv_head
    sizes = SelectedHeads(
        head_dim=whole(head_dim, where="head_dim"),
        element=element,
        value_dim=value_dim,
        key_slices=key_slices,
        one_copy=one_copy,
        queries_per_kv_head=queries_per_kv_head,
        queries_per_read=queries_per_read,
    )
    check_capacity(sizes.layout(stack, length), [length], [kv_heads])
    ends = selection_ends(stack, ((length, selected),) * kv_heads, sizes)
    (scattered,) = ends.scattered
    return SelectionBounds(
        stored=length, selected=selected, clustered=ends.clustered, scattered=scattered
    )


@dataclass(frozen=True, slots=True)
class SelectedHeads:
    """Sizes of heads that attend to some of their keys; fields as in `Stack.attend`."""

    head_dim: int
    element: ElementType
    value_dim: int | None = None
    key_slices: int | None = None
    one_copy: bool = False
    queries_per_kv_head: int = 1
    queries_per_read: int = 1

    @property
    def together(self) -> int:
        """Queries that a read serves."""
        return QueryPasses.of(self.queries_per_kv_head, self.queries_per_read).most

    def layout(self, stack: Stack, length: int) -> HeadLayout:
        """Return how a head of so many keys lies in a channel of a stack."""
        return stack.layout(
            length,
            self.head_dim,
            self.element,
            value_dim=self.value_dim,
            key_slices=self.key_slices,
            one_copy=self.one_copy,
            queries_per_read=self.together,
        )

    def attend(self, stack: Stack, lengths: Sequence[int], apart: int) -> StackAttention:
        """Attend to keys that are read, each so many places of its part from the next."""
        return stack.attend_to(
            lengths,
            head_dim=self.head_dim,
            element=self.element,
            value_dim=self.value_dim,
            key_slices=self.key_slices,
            one_copy=self.one_copy,
            apart=apart,
            queries_per_kv_head=self.queries_per_kv_head,
            queries_per_read=self.queries_per_read,
        )


class SelectionEnds(NamedTuple):
    """Attention of one stack to selected keys of heads of any lengths, at both ends.

    Attributes:
        clustered: the selected keys of each head are neighbours.
        scattered: each selected key takes a read of its own. Heads whose reads lie equally far
            apart run together, and such groups run one after another.
    """

    clustered: StackAttention
    scattered: tuple[StackAttention, ...]

    @property
    def scattered_ns(self) -> float:
        """Time of the scattered end."""
        return sum(one.time_ns for one in self.scattered)


def selection_ends(
    stack: Stack, heads: Sequence[tuple[int, int]], sizes: SelectedHeads
) -> SelectionEnds:
    """Time and cost attention to selected keys of the heads of one stack, at both ends.

    Args:
        stack: the stack, with the interleaved schedule.
        heads: keys that are stored and keys that are selected, at most all of them, of each
            key/value head.
        sizes: of the heads.

    Raises:
        InputError: as in `Stack.attend`.
    """
    groups: dict[int, list[int]] = {}
    for stored, selected in heads:
        layout = sizes.layout(stack, stored)
        reads = min(selected, layout.keys_per_part)
        apart = layout.keys_per_part // reads
        groups.setdefault(apart, []).append(reads * layout.sequence_parts)
    return SelectionEnds(
        sizes.attend(stack, [selected for _, selected in heads], 1),
        tuple(sizes.attend(stack, keys, apart) for apart, keys in groups.items()),
    )


class SelectedPart(NamedTuple):
    """A head, or a part of one, that lies in one stack.

    Attributes:
        stored: its keys.
        selected: those of them that are attended to.
    """

    stored: int
    selected: int


def selected_over(
    stack: Stack,
    lengths: Sequence[int],
    *,
    chosen: int,
    stacks: int,
    sizes: SelectedHeads,
    cut: bool,
) -> tuple[tuple[SelectedPart, ...], ...]:
    """Return the heads, or parts of heads, of every stack, each with its share of the choice.

    Heads are dealt out as in `attend_over`. Selected keys are taken to be spread over the parts of
    a head as evenly as its keys are, rounded up.

    Args:
        stack: one of the stacks, with the interleaved schedule.
        lengths: keys that are stored of each head.
        chosen: keys of each head that are selected at most.
        stacks: number of stacks.
        sizes: of the heads.
        cut: whether heads may be cut over stacks.

    Raises:
        InputError: there are no heads.
    """
    layout = sizes.layout(stack, max(lengths, default=1))
    dealt = deal_over(stack, lengths, layout, stacks=stacks, together=sizes.together, cut=cut)
    return tuple(
        tuple(
            SelectedPart(part.length, -(-min(chosen, lengths[part.head]) * part.length
                                        // lengths[part.head]))
            for part in own
        )
        for own in dealt
    )  # fmt: skip
