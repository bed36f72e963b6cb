"""Public: attention of several stacks, and of queries that share reads of keys and values."""

from attacc.pim.lengths import MAX_HEADS, parse_lengths, read_lengths
from attacc.pim.stacks import AttentionOfStacks, attend_over
from attacc.study.reads import Read, Reads, compare_reads

__all__ = [
    "MAX_HEADS",
    "AttentionOfStacks",
    "Read",
    "Reads",
    "attend_over",
    "compare_reads",
    "parse_lengths",
    "read_lengths",
]
