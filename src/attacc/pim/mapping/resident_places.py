"""Places of the numbers that `resident_counts` and its compiled dealer share."""

from __future__ import annotations

LONGEST, GRAIN, OVERHEAD, LAYERS = range(4)
"""Places of the sizes: keys of a chunk at most, of a grain, that a chunk counts for; layers."""

HEAD, START, CAPACITY, STACK, CHANNEL, LOAD, ROWS = range(7)
"""Rows of the chunks' array. LOAD and ROWS are what a chunk adds to its channel."""
