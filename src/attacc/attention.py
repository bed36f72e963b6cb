"""Public: attention of several stacks, of queries that share reads, and to selected keys."""

from attacc.pim.lengths import MAX_HEADS, parse_lengths, read_lengths
from attacc.pim.selection import SelectionBounds, selection_bounds
from attacc.pim.stacks import AttentionOfStacks, attend_over
from attacc.study.drafted import DraftedAttention
from attacc.study.reads import Read, Reads, compare_reads
from attacc.workload.speculation import Speculation

__all__ = [
    "MAX_HEADS",
    "AttentionOfStacks",
    "DraftedAttention",
    "Read",
    "Reads",
    "SelectionBounds",
    "Speculation",
    "attend_over",
    "compare_reads",
    "parse_lengths",
    "read_lengths",
    "selection_bounds",
]
