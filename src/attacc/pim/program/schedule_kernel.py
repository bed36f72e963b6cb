"""Weaves the commands of all heads of a stack into one program, compiled.

A head's commands come as address lists relative to where its keys or values begin: slices of q
(WRGB), multiplies of the score, moves of scores (MVSB), softmax (SFM), moves of probabilities
(MVGB), multiplies of the context, and moves of the context (MVSB). `attacc.pim.program.schedule`
describes the two schedules.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attacc.compiled import kernel

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]
I64 = npt.NDArray[np.int64]

BARRIER = 0
WRGB = 1
MVSB = 2
MVGB = 3
SFM = 4
"""Kinds of requests, as in `attacc.pim.program.program.Kind`."""


@kernel
def emit(
    kind: int, address: int, first: int, channels: int, at: int, kinds: U8, addresses: I64,
    firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append one step; return the number of steps."""
    kinds[at] = kind
    addresses[at] = address
    firsts[at] = first
    counts[at] = channels
    return at + 1


@kernel
def emit_list(
    kind: int, items: I64, begin: int, end: int, base: int, channels: int, at: int, kinds: U8,
    addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append a range of a list, every item for all channels; return the number of steps."""
    for i in range(begin, min(end, len(items))):
        at = emit(kind, base + items[i], 0, channels, at, kinds, addresses, firsts, counts)
    return at


@kernel
def emit_flat(
    kind: int, items: I64, begin: int, end: int, base: int, channels: int, at: int, kinds: U8,
    addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append a range of the list of (item, channel) pairs; return the number of steps."""
    end = min(end, len(items) * channels)
    while begin < end:
        item = begin // channels
        first = begin - item * channels
        last = min(channels, end - item * channels)
        at = emit(
            kind, base + items[item], first, last - first, at, kinds, addresses, firsts, counts
        )
        begin = item * channels + last
    return at


@kernel
def published_score(
    head: int, q_of: int, softmax_of: int, multiply: int, channels: I64, keys: I64, values: I64,
    q: I64, score: I64, per_group: int, score_moves: I64, probabilities: I64, all_channels: int,
    at: int, kinds: U8, addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append the score of a round of heads.

    Woven in: q of round ``q_of`` and the softmax of round ``softmax_of`` with the return of its
    probabilities, where these are not -1.
    """
    groups = -(-len(score) // per_group)
    for j in range(groups + 1):
        if j < groups:
            at = emit_list(
                multiply, score, j * per_group, (j + 1) * per_group, keys[head], channels[head],
                at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        if j > 0:
            at = emit_list(
                MVSB, score_moves, 0, len(score_moves), keys[head], channels[head], at, kinds,
                addresses, firsts, counts,
            )  # fmt: skip
        if j == 0 and softmax_of >= 0:
            at = emit(SFM, 0, 0, channels[softmax_of], at, kinds, addresses, firsts, counts)
        if j == groups:
            break
        if q_of >= 0:
            stride = len(q) * channels[q_of] // groups
            at = emit_flat(
                WRGB, q, j * stride, (j + 1) * stride, keys[q_of], channels[q_of], at, kinds,
                addresses, firsts, counts,
            )  # fmt: skip
        if softmax_of >= 0 and j >= groups // 2:
            stride = len(probabilities) * channels[softmax_of] // (groups - groups // 2)
            k = j - groups // 2
            at = emit_flat(
                MVGB, probabilities, k * stride, (k + 1) * stride, values[softmax_of],
                channels[softmax_of], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        at = emit(BARRIER, 0, 0, all_channels, at, kinds, addresses, firsts, counts)
    return at


@kernel
def published_context(
    head: int, softmax_of: int, multiply: int, channels: I64, values: I64, context: I64,
    per_slice: int, context_moves: I64, probabilities: I64, all_channels: int, at: int, kinds: U8,
    addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append the context of a round; weave in the softmax of another round, if it is not -1."""
    slices = len(context) // per_slice
    for j in range(slices + 1):
        if j < slices:
            at = emit_list(
                multiply, context, j * per_slice, (j + 1) * per_slice, values[head],
                channels[head], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        if j > 0:
            at = emit_list(
                MVSB, context_moves, 0, len(context_moves), values[head], channels[head], at,
                kinds, addresses, firsts, counts,
            )  # fmt: skip
        if j == 0 and softmax_of >= 0:
            at = emit(SFM, 0, 0, channels[softmax_of], at, kinds, addresses, firsts, counts)
        if j == slices:
            break
        if softmax_of >= 0 and j >= slices // 2:
            stride = len(probabilities) * channels[softmax_of] // (slices - slices // 2)
            k = j - slices // 2
            at = emit_flat(
                MVGB, probabilities, k * stride, (k + 1) * stride, values[softmax_of],
                channels[softmax_of], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        at = emit(BARRIER, 0, 0, all_channels, at, kinds, addresses, firsts, counts)
    return at


@kernel
def weave_published(
    multiply: int, channels: I64, keys: I64, values: I64, q: I64, score: I64, per_group: int,
    score_moves: I64, probabilities: I64, context: I64, per_slice: int, context_moves: I64,
    all_channels: int, kinds: U8, addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append the published schedule of all rounds (reference/schedule.md).

    Args:
        multiply: kind of the multiplies.
        channels: (rounds,) number of channels, from channel 0, that hold a head of the round.
        keys: (rounds,) first byte of the round's keys.
        values: (rounds,) first byte of the round's values.
        q: addresses of the slices of q.
        score: addresses of the score's multiplies.
        per_group: multiplies of the score between two groups of moves.
        score_moves: addresses of one group of moves.
        probabilities: addresses of the moves that return probabilities.
        context: addresses of the context's multiplies.
        per_slice: multiplies of one output slice.
        context_moves: addresses of the moves of one output slice.
        all_channels: channels of the stack; each of them gets every barrier.
        kinds: output, the column `kind` of `attacc.pim.program.program.Program`.
        addresses: output, the column `address`.
        firsts: output, the column `first_channel`.
        counts: output, the column `channels`.

    Returns:
        The number of steps.
    """
    rounds = len(channels)
    at = 0
    for i in range(0, rounds, 2):
        paired = i + 1 < rounds
        at = emit_list(
            WRGB, q, 0, len(q), keys[i], channels[i], at, kinds, addresses, firsts, counts
        )
        if paired and i == 0:
            at = emit_list(
                multiply, score, 0, 1, keys[i], channels[i], at, kinds, addresses, firsts, counts
            )
        at = emit(BARRIER, 0, 0, all_channels, at, kinds, addresses, firsts, counts)
        at = published_score(
            i, i + 1 if paired else -1, -1, multiply, channels, keys, values, q, score, per_group,
            score_moves, probabilities, all_channels, at, kinds, addresses, firsts, counts,
        )  # fmt: skip
        if paired:
            at = published_score(
                i + 1, -1, i, multiply, channels, keys, values, q, score, per_group, score_moves,
                probabilities, all_channels, at, kinds, addresses, firsts, counts,
            )  # fmt: skip
            at = published_context(
                i, i + 1, multiply, channels, values, context, per_slice, context_moves,
                probabilities, all_channels, at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        else:
            at = emit(SFM, 0, 0, channels[i], at, kinds, addresses, firsts, counts)
            at = emit_list(
                MVGB, probabilities, 0, len(probabilities), values[i], channels[i], at, kinds,
                addresses, firsts, counts,
            )  # fmt: skip
            at = emit(BARRIER, 0, 0, all_channels, at, kinds, addresses, firsts, counts)
        # In a pair this should be the context of round i + 1, but the generator repeats round i.
        at = published_context(
            i, -1, multiply, channels, values, context, per_slice, context_moves, probabilities,
            all_channels, at, kinds, addresses, firsts, counts,
        )  # fmt: skip
    return at


@kernel
def share(items: int, index: int, parts: int) -> int:
    """Return where part ``index`` begins when items are spread evenly over parts."""
    return items * index // parts


@kernel
def complete_score(
    head: int, q_of: int, softmax_of: int, multiply: int, channels: I64, keys: I64, values: I64,
    q: I64, score: I64, per_group: int, score_moves: I64, probabilities: I64, barrier: int,
    at: int, kinds: U8, addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append the score of a round of heads.

    Scores move in the segment after the multiplies that made them. Two things are woven in: q of
    round ``q_of``, and the softmax of round ``softmax_of`` in the segment after its last scores
    have moved. The probabilities of that softmax return in later segments.
    """
    groups = -(-len(score) // per_group)
    segments = groups + 1
    softmax_at = 1
    if softmax_of >= 0:
        segments = max(segments, softmax_at + 2)
    return_from = max(softmax_at + 1, groups // 2)
    # The last segment has no multiplies that hide the return; it is used only if no other is left.
    return_to = max(groups, return_from + 1)
    for j in range(segments):
        if j < groups:
            at = emit_list(
                multiply, score, j * per_group, (j + 1) * per_group, keys[head], channels[head],
                at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        if 0 < j <= groups:
            at = emit_list(
                MVSB, score_moves, 0, len(score_moves), keys[head], channels[head], at, kinds,
                addresses, firsts, counts,
            )  # fmt: skip
        if softmax_of >= 0 and j == softmax_at:
            at = emit(SFM, 0, 0, channels[softmax_of], at, kinds, addresses, firsts, counts)
        if softmax_of >= 0 and return_from <= j < return_to:
            parts = return_to - return_from
            at = emit_list(
                MVGB, probabilities, share(len(probabilities), j - return_from, parts),
                share(len(probabilities), j - return_from + 1, parts), values[softmax_of],
                channels[softmax_of], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        if q_of >= 0 and j < groups:
            at = emit_list(
                WRGB, q, share(len(q), j, groups), share(len(q), j + 1, groups), keys[q_of],
                channels[q_of], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        # The moves of the last scores run under the following commands, unless a softmax is due.
        if j < segments - 1 or softmax_of >= 0:
            at = emit(BARRIER, 0, 0, barrier, at, kinds, addresses, firsts, counts)
    return at


@kernel
def complete_context(
    head: int, q_of: int, softmax_of: int, multiply: int, channels: I64, keys: I64, values: I64,
    q: I64, context: I64, per_slice: int, context_moves: I64, probabilities: I64, barrier: int,
    at: int, kinds: U8, addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append the context of a round of heads.

    Two things are woven in: q of round ``q_of``, and in the first segment the softmax of round
    ``softmax_of``, whose scores have moved before. The probabilities of that softmax return in
    later segments.
    """
    slices = len(context) // per_slice
    return_from = max(1, slices // 2)
    return_to = max(slices, return_from + 1)
    for j in range(slices + 1):
        if j < slices:
            at = emit_list(
                multiply, context, j * per_slice, (j + 1) * per_slice, values[head],
                channels[head], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        if j > 0:
            at = emit_list(
                MVSB, context_moves, 0, len(context_moves), values[head], channels[head], at,
                kinds, addresses, firsts, counts,
            )  # fmt: skip
        if softmax_of >= 0 and j == 0:
            at = emit(SFM, 0, 0, channels[softmax_of], at, kinds, addresses, firsts, counts)
        if softmax_of >= 0 and return_from <= j < return_to:
            parts = return_to - return_from
            at = emit_list(
                MVGB, probabilities, share(len(probabilities), j - return_from, parts),
                share(len(probabilities), j - return_from + 1, parts), values[softmax_of],
                channels[softmax_of], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        if q_of >= 0 and j < slices:
            at = emit_list(
                WRGB, q, share(len(q), j, slices), share(len(q), j + 1, slices), keys[q_of],
                channels[q_of], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        # The moves of the last slice run under later commands, unless probabilities are due there.
        if j < slices or softmax_of >= 0 or q_of >= 0:
            at = emit(BARRIER, 0, 0, barrier, at, kinds, addresses, firsts, counts)
    return at


@kernel
def weave_complete(
    multiply: int, channels: I64, keys: I64, values: I64, q: I64, score: I64, per_group: int,
    score_moves: I64, probabilities: I64, context: I64, per_slice: int, context_moves: I64,
    kinds: U8, addresses: I64, firsts: I16, counts: I16,
) -> int:  # fmt: skip
    """Append the complete schedule of all rounds; arguments as of `weave_published`.

    A pair of rounds (i, i + 1): score of i with q of i + 1; score of i + 1 with the softmax of i;
    context of i with the softmax of i + 1; context of i + 1 with q of i + 2. A barrier separates
    each command from the commands that it depends on.
    """
    rounds = len(channels)
    at = emit_list(WRGB, q, 0, len(q), keys[0], channels[0], 0, kinds, addresses, firsts, counts)
    at = emit(BARRIER, 0, 0, channels[0], at, kinds, addresses, firsts, counts)
    for i in range(0, rounds, 2):
        paired = i + 1 < rounds
        following = i + 2 if i + 2 < rounds else -1
        at = complete_score(
            i, i + 1 if paired else -1, -1, multiply, channels, keys, values, q, score, per_group,
            score_moves, probabilities, channels[i], at, kinds, addresses, firsts, counts,
        )  # fmt: skip
        last = i
        if paired:
            last = i + 1
            at = complete_score(
                i + 1, -1, i, multiply, channels, keys, values, q, score, per_group, score_moves,
                probabilities, channels[i], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
            at = complete_context(
                i, -1, i + 1, multiply, channels, keys, values, q, context, per_slice,
                context_moves, probabilities, channels[i], at, kinds, addresses, firsts, counts,
            )  # fmt: skip
        else:
            at = emit(BARRIER, 0, 0, channels[i], at, kinds, addresses, firsts, counts)
            at = emit(SFM, 0, 0, channels[i], at, kinds, addresses, firsts, counts)
            at = emit(BARRIER, 0, 0, channels[i], at, kinds, addresses, firsts, counts)
            at = emit_list(
                MVGB, probabilities, 0, len(probabilities), values[i], channels[i], at, kinds,
                addresses, firsts, counts,
            )  # fmt: skip
            at = emit(BARRIER, 0, 0, channels[i], at, kinds, addresses, firsts, counts)
        at = complete_context(
            last, following, -1, multiply, channels, keys, values, q, context, per_slice,
            context_moves, probabilities, channels[i], at, kinds, addresses, firsts, counts,
        )  # fmt: skip
    return at
