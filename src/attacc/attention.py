"""Public: attention of several stacks, of queries that share reads, and to selected keys."""

from attacc.pim.lengths import MAX_HEADS, parse_lengths, read_lengths
from attacc.pim.selection import SelectionBounds, selection_bounds
from attacc.pim.stacks import AttentionOfStacks, attend_over
from attacc.study.reads import Read, Reads, compare_reads

__all__ = [
    "MAX_HEADS",
    "AttentionOfStacks",
    "Read",
    "Reads",
    "SelectionBounds",
    "attend_over",
    "compare_reads",
    "parse_lengths",
    "read_lengths",
    "selection_bounds",
]
