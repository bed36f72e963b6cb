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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attacc.errors import InputError
from attacc.models.precision import ElementType, kv_element
from attacc.pim.attention import StackAttention
from attacc.pim.mapping.geometry import check_capacity
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.stack import MOST_KEYS, Stack
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
    layout = stack.layout(
        length,
        whole(head_dim, where="head_dim"),
        element,
        value_dim=value_dim,
        key_slices=key_slices,
        one_copy=one_copy,
        queries_per_read=QueryPasses.of(queries_per_kv_head, queries_per_read).most,
    )
    check_capacity(layout, [length], [kv_heads])
    parts, places = layout.sequence_parts, layout.keys_per_part
    reads = min(selected, places)

    def attend(keys: int, apart: int) -> StackAttention:
        return stack.attend_to(
            (keys,) * kv_heads,
            head_dim=head_dim,
            element=element,
            value_dim=value_dim,
            key_slices=key_slices,
            one_copy=one_copy,
            apart=apart,
            queries_per_kv_head=queries_per_kv_head,
            queries_per_read=queries_per_read,
        )

    return SelectionBounds(
        stored=length,
        selected=selected,
        clustered=attend(selected, 1),
        scattered=attend(reads * parts, places // reads),
    )
