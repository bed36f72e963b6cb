"""How requests may grow in the channels of a stack."""

from __future__ import annotations

import math

from attacc.hardware.dram import DramDevice
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.mapping.residence import GROWING_GRAINS, Growth
from attacc.pim.program.interleaved import QueryPasses, chunk_grain, longest_chunk, pipeline_of


def chunk_growth(
    device: DramDevice, layout: KeyLayout, passes: QueryPasses, growing_keys: int | None = None
) -> Growth:
    """Return how requests may grow.

    Args:
        device: the DRAM device of a stack.
        layout: how a key lies in the banks.
        passes: how the queries that share keys and values are divided into passes.
        growing_keys: least room of the last chunk of a head, in keys; None for the default.

    Raises:
        InputError: a chunk cannot have `growing_keys` keys.
    """
    longest = longest_chunk(device, layout, passes.most)
    grain = min(chunk_grain(layout), longest)
    # Lengths within a quantum fill as many columns and take as many passes of the softmax lanes.
    lanes = max(1, pipeline_of(device).softmax_lanes // device.organization.channels)
    quantum = math.gcd(layout.sequence_parts, lanes, longest)
    growing = min(GROWING_GRAINS * grain, longest) if growing_keys is None else growing_keys
    return Growth(longest, grain, growing, quantum)
