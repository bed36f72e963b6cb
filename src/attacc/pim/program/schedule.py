"""Schedules ordered by barriers: the order of the commands of all heads of a stack.

Heads go to channels in rounds, one head per channel. Two rounds are in flight, so that the softmax
of one round is hidden under the multiplies of the other.

``published`` is the order of the released trace generator, with the commands that it drops or
repeats (reference/schedule.md). ``complete`` issues every command of every head exactly once, and
keeps the keys and values of all heads in memory without overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.pim.mapping.geometry import HeadLayout, HeadRegions, allocate_heads
from attacc.pim.program.program import MULTIPLY, AddressLayout, Program

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeadCommands:
    """Addresses of the commands of one head, relative to the first byte of its keys or values.

    Attributes:
        q: writes of slices of the query into the vector buffers (WRGB).
        score: multiplies with keys.
        score_moves: one group of moves of scores to the softmax (MVSB).
        probabilities: moves of the softmax output back to the vector buffers (MVGB).
        context: multiplies with values.
        context_moves: moves of one output slice (MVSB).
    """

    q: I64
    score: I64
    score_moves: I64
    probabilities: I64
    context: I64
    context_moves: I64


def head_commands(layout: HeadLayout) -> HeadCommands:
    """Return the commands of one head (reference/schedule.md, per head)."""
    o = layout.organization
    at = AddressLayout.of(o)

    def grid(*counts_and_units: tuple[int, int]) -> I64:
        """Return all sums of one multiple of each unit; the last unit varies fastest."""
        addresses = np.zeros(1, dtype=np.int64)
        for count, unit in counts_and_units:
            steps = np.arange(count, dtype=np.int64) * unit
            addresses = (addresses[:, None] + steps[None, :]).ravel()
        return addresses

    bank, bank_group, rank = 1 << at.bank, 1 << at.bank_group, 1 << at.rank
    columns, words = layout.columns_per_key, layout.probability_words
    if layout.placement is Placement.BUFFER:
        q, score_moves, context_moves = grid((columns, 1)), grid(), grid()
        probabilities = grid((words, 1))
    else:
        on_bank = layout.placement is Placement.BANK
        q = grid((o.banks, bank), (columns, 1)) if on_bank else grid((columns, 1))
        score_moves = grid((o.bank_groups, bank_group), (o.ranks, rank))
        probabilities = grid((o.ranks, rank), (o.bank_groups, bank_group), (words, 1))
        context_moves = grid((o.banks, bank), (o.ranks, rank)) if on_bank else grid((o.ranks, rank))
    return HeadCommands(
        q=q,
        score=layout.multiply_addresses(layout.score_multiplies),
        score_moves=score_moves,
        probabilities=probabilities,
        context=layout.multiply_addresses(layout.context_multiplies),
        context_moves=context_moves,
    )


def attention_program(
    layout: HeadLayout, heads: int, schedule: Schedule, queries_per_kv_head: int = 1
) -> Program:
    """Build the program of one stack that attends with a number of equal heads.

    Args:
        layout: the shape of every head.
        heads: query heads on the stack; head h goes to channel h mod channels.
        schedule: order of the commands, complete or published.
        queries_per_kv_head: consecutive rounds that read the same keys and values.

    Raises:
        InputError: there are no heads; their keys and values do not fit into the banks; or the
            fixed distances between rounds of the published schedule lead beyond the channel.
    """
    if heads < 1:
        raise InputError(f"heads = {heads} must be at least 1")
    if schedule is Schedule.INTERLEAVED:
        raise InputError(
            "the interleaved schedule depends on the device, and its steps on each other, which "
            "the text form of a program cannot say",
            hint="use interleaved_program, or the complete schedule",
        )
    o = layout.organization
    rounds = -(-heads // o.channels)
    channels = np.full(rounds, o.channels, dtype=np.int64)
    channels[-1] = heads - (rounds - 1) * o.channels
    stored = allocate_heads(layout, -(-rounds // queries_per_kv_head))
    if schedule is Schedule.PUBLISHED:
        regions = published_regions(layout, rounds)
    else:
        regions = HeadRegions(
            np.repeat(stored.keys, queries_per_kv_head)[:rounds],
            np.repeat(stored.values, queries_per_kv_head)[:rounds],
        )
    return _weave(layout, regions, channels, heads, schedule)


def published_regions(layout: HeadLayout, rounds: int) -> HeadRegions:
    """Return where the published schedule puts the keys and values of rounds of heads.

    Rounds are a fixed distance apart, whatever the length of the heads, so long heads overlap.
    """
    pitch = -(-4096 * layout.head_dim // 64)
    keys = np.arange(rounds, dtype=np.int64) * pitch
    return HeadRegions(keys, keys + 2**23)


def _weave(
    layout: HeadLayout, regions: HeadRegions, channels: I64, heads: int, schedule: Schedule
) -> Program:
    from attacc.pim.program import schedule_kernel  # loads Numba

    commands = head_commands(layout)
    groups, slices = layout.score_groups, layout.context_slices
    # Room for every command of a round twice, and a barrier and two cut steps per group and slice.
    room = len(channels) * 2 * (
        len(commands.q)
        + len(commands.score)
        + len(commands.probabilities)
        + len(commands.context)
        + (groups + 1) * (len(commands.score_moves) + 5)
        + (slices + 1) * (len(commands.context_moves) + 5)
        + 10
    )  # fmt: skip
    kind = np.empty(room, dtype=np.uint8)
    address = np.empty(room, dtype=np.int64)
    first_channel = np.empty(room, dtype=np.int16)
    count = np.empty(room, dtype=np.int16)
    per_group = layout.keys_per_move * layout.columns_per_key
    multiply = int(MULTIPLY[layout.placement])
    if schedule is Schedule.PUBLISHED:
        steps = schedule_kernel.weave_published(
            multiply, channels, regions.keys, regions.values, commands.q, commands.score,
            per_group, commands.score_moves, commands.probabilities, commands.context,
            layout.keys_per_part, commands.context_moves, layout.organization.channels,
            kind, address, first_channel, count,
        )  # fmt: skip
    else:
        steps = schedule_kernel.weave_complete(
            multiply, channels, regions.keys, regions.values, commands.q, commands.score,
            per_group, commands.score_moves, commands.probabilities, commands.context,
            layout.keys_per_part, commands.context_moves, kind, address, first_channel, count,
        )  # fmt: skip
    channel_bytes = 1 << AddressLayout.of(layout.organization).channel
    if address[:steps].max() >= channel_bytes:
        raise InputError(
            f"the published schedule of {heads} heads of length {layout.length} and head_dim "
            f"{layout.head_dim} reaches beyond the {channel_bytes} bytes of a channel",
            hint="take fewer or smaller heads, or the complete schedule",
        )
    return Program(
        layout.organization,
        kind[:steps].copy(),
        address[:steps].copy(),
        first_channel[:steps].copy(),
        count[:steps].copy(),
    )
