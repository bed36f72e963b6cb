"""The page docs/model/walk-through.md: one head's walk through a stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.pim.numerics.execute import ChannelState
from attacc.pim.program.program import Kind
from attacc.study.walkthrough import Walk

Numbers = npt.NDArray[np.floating]

NAMES: Final = {
    Kind.WRGB: "WRGB",
    Kind.MACAB: "MACAB",
    Kind.MVSB: "MVSB",
    Kind.SFM: "SFM",
    Kind.MVGB: "MVGB",
}
SHOWN_KEYS: Final = (0, 1, 2, 3, 4, 15, 16, 17, 31)
MORE: Final = "..."


def walk_page(walk: Walk) -> str:
    """Return the page in Markdown, for units at `bank` and keys of one access (8 elements)."""
    sections = (_head, _places, _commands, _score, _softmax, _return, _context, _result)
    return "\n\n".join([_opening(walk), *(section(walk) for section in sections)]) + "\n"


def _opening(walk: Walk) -> str:
    w = walk.layout
    return (
        "# One head, walked through\n\n"
        f"A head of {w.length} keys of {w.head_dim} elements at `bank`, fp16 throughout, on "
        f"channel {walk.channel} of the {walk.channels} of an HBM3 stack (`hbm3-5.2`); the others "
        "have nothing to do. What [numerics](numerics.md) says of every command, here with "
        "numbers. They are what the program leaves in banks and units when it is executed command "
        "by command (`attacc.study.walkthrough`); `python benchmarks/walk_through.py --write` "
        "writes this page, and a test compares it."
    )


def _head(walk: Walk) -> str:
    stored = walk.arithmetic.operand.from_bits(walk.query_bits)
    rows = [
        ["q", *(f"{x:g}" for x in walk.query)],
        ["q in fp16", *(f"{x:.6g}" for x in stored)],
        ["bits", *map(_hex, walk.query_bits)],
        ["k_0", *(f"{x:g}" for x in walk.keys[0])],
        ["v_0", *(f"{x:g}" for x in walk.values[0])],
    ]
    return (
        "## The head\n\nNormally distributed numbers of two decimals (seed 0). Of 32 keys and "
        "values, the first:\n\n" + _table(["element", *map(str, range(walk.layout.head_dim))], rows)
    )


def _places(walk: Walk) -> str:
    w, o = walk.layout, walk.layout.organization
    lanes = w.dimension_parts * w.elements_per_column
    header = ["key", "pseudo-channel", "rank", "bank group"]
    header += ["k: row, column", "bits in bank 0", "v: row, column", "bits in bank 0"]
    rows: list[list[str]] = []
    before = -1
    for key in SHOWN_KEYS:
        if key != before + 1:
            rows.append([MORE] + [""] * 7)
        before = key
        channel, rank, group = _part(walk, key)
        row, column = divmod(walk.keys_at // o.access_bytes + key // w.sequence_parts, o.columns)
        key_bits = walk.access(row, column)[channel, rank, group, 0]
        at = walk.values_at // o.access_bytes + key // w.sequence_parts
        value_row, value_column = divmod(at, o.columns)
        value_bits = walk.access(value_row, value_column)[channel, rank, group, 0]
        rows.append(
            [
                str(key), str(channel), str(rank), str(group),
                f"{row}, {column}", " ".join(map(_hex, key_bits[:3])) + " " + MORE,
                f"{value_row}, {value_column}", " ".join(map(_hex, value_bits[:3])) + " " + MORE,
            ]
        )  # fmt: skip
    first = walk.access(walk.keys_at // (o.access_bytes * o.columns), 0)[0, 0, 0]
    return (
        "## Where it lies\n\n"
        f"The channel has {w.sequence_parts} parts (pseudo-channel, rank, bank group); key k goes "
        f"to part k mod {w.sequence_parts}. So every part has "
        f"p = {w.keys_per_part} keys. The {w.dimension_parts} banks of a group share a key: with "
        f"accesses of {w.elements_per_column} elements there is room for {lanes}, of which "
        f"{w.head_dim} are used. One access of bank 0 holds them, and is half empty; banks 1 to 3 "
        "hold padding, which is read and multiplied like everything else.\n\n"
        + _table(header, rows)
        + f"\n\nThe whole access of k_0, {o.access_bytes} bytes, and that of bank 1 beside it:\n\n"
        "```\n"
        + "\n".join(f"bank {bank}  " + " ".join(map(_hex, first[bank])) for bank in (0, 1))
        + "\n```"
    )


def _commands(walk: Walk) -> str:
    meaning = {
        (Kind.WRGB, 0): "q into half 0 of the vector buffers, an access for the units on each of "
        "banks 0, 1, 2, 3 of all groups: q_0 to q_7 for bank 0, padding for the others",
        (Kind.MACAB, 0): "every unit multiplies the access of its first, second key by q, and adds "
        "the products to a score",
        (Kind.MVSB, 0): "per rank and bank group, the scores of both pseudo-channels go to the "
        "softmax buffer, those of the four banks added up",
        (Kind.SFM, 0): "softmax of 32 scores",
        (
            Kind.MVGB,
            0,
        ): "per rank and bank group, in both pseudo-channels, the probabilities of its "
        "keys into half 1 of the vector buffers",
        (Kind.MACAB, 1): "every unit multiplies the access of its first, second value by the "
        "probability, lane by lane",
        (Kind.MVSB, 1): "per bank and rank, the sums of the four bank groups go to the buffer die",
    }
    rows: list[list[str]] = []
    seen: dict[Kind, int] = {}
    for start, end in _runs(walk):
        kind = Kind(int(walk.issued.kind[start]))
        cycles = walk.issued.cycle[start:end].tolist()
        addresses = [f"{address:#010x}" for address in walk.issued.address[start:end].tolist()]
        shown = addresses if len(addresses) < 4 else [*addresses[:2], MORE, addresses[-1]]
        if kind is Kind.SFM:
            shown = ["-"]
        span = str(cycles[0]) if len(cycles) == 1 else f"{cycles[0]} to {cycles[-1]}"
        number = seen.get(kind, 0)
        seen[kind] = number + 1
        rows.append([span, str(end - start), NAMES[kind], ", ".join(shown), meaning[kind, number]])
    return (
        "## The commands\n\nIn order of issue; the controller opens rows on its own. Keys begin at "
        f"byte {walk.keys_at:#x} of every bank (row 0), values at {walk.values_at:#x} (row 1), "
        "which is how a command's address tells which of the two it is about.\n\n"
        + _table(["cycles", "", "command", "addresses", "what it does"], rows)
    )


def _score(walk: Walk) -> str:
    units = walk.layout.organization.banks_per_channel
    names = ["products", "sums of pairs", "of fours", "of eights", "of all"]
    rows: list[list[str]] = []
    for name, level in zip(names, walk.tree, strict=True):
        used = max(1, walk.layout.head_dim * len(level) // len(walk.tree[0]))
        zeros = len(level) - used
        padding = f"{zeros} zero{'s' if zeros > 1 else ''}" if zeros else ""
        rows.append([name, ", ".join(f"{x:.6g}" for x in level[:used]), padding])
    first, second = _positions(walk, Kind.MACAB)[:2]
    cycles = walk.issued.cycle
    held = [
        [
            f"{cycles[at]}", f"{_sum(walk, at, 0):.6g}", f"{_sum(walk, at, units):.6g}",
            f"{_sum(walk, at, 1):g}, {_sum(walk, at, 2):g}, {_sum(walk, at, 3):g}",
        ]
        for at in (first, second)
    ]  # fmt: skip
    move = _positions(walk, Kind.MVSB)[0]
    arrived = np.flatnonzero(walk.states[move + 1].scores != walk.states[move].scores)
    moved = ", ".join(f"t_{key} = {walk.states[move + 1].scores[key]:.6g}" for key in arrived)
    return (
        "## A score\n\nThe unit on bank 0 of the first part (pseudo-channel, rank and bank group "
        f"0) in cycle {cycles[first]}: products of q and k_0, each rounded to fp16, and the adder "
        "tree, which rounds every sum.\n\n"
        + _table(["", "", "padding"], rows)
        + "\n\nIts accumulators, and those of the units on banks 1 to 3 for the same key:\n\n"
        + _table(["after cycle", "bank 0, k_0", "bank 0, k_16", "banks 1, 2, 3, k_0"], held)
        + f"\n\nThe MVSB in cycle {cycles[move]} adds up the four banks and brings four scores to "
        f"the softmax buffer: {moved}. Seven more bring the rest."
    )


def _softmax(walk: Walk) -> str:
    at = _positions(walk, Kind.SFM)[0]
    before, after = walk.states[at].scores, walk.states[at + 1].scores
    bits = walk.arithmetic.probability.to_bits(after)
    scale = np.float32(1 / np.sqrt(walk.layout.head_dim))
    rows: list[list[str]] = []
    last = -1
    for key in SHOWN_KEYS:
        if key != last + 1:
            rows.append([MORE] + [""] * 6)
        last = key
        rows.append(
            [
                str(key), f"{before[key]:.6g}", f"{before[key] * scale:.6g}",
                f"{walk.scores[key]:.6g}", _hex(bits[key]), f"{after[key]:.6g}",
                f"{walk.probabilities[key]:.6g}",
            ]
        )  # fmt: skip
    final = walk.states[at + 1]
    return (
        f"## Softmax\n\nIn cycle {walk.issued.cycle[at]}, in fp32: the greatest score is "
        f"m = {final.maxima[0]:.7g}, the exponentials less it add up to s = "
        f"{final.totals[0]:.7g}. Probabilities, rounded to fp16, take the place of the scores.\n\n"
        + _table(["key", "t (fp16)", "x = t / sqrt(8)", "exact", "bits of p", "p", "exact"], rows)
        + f"\n\nThe probabilities add up to {after.astype(np.float64).sum():.7g}."
    )


def _return(walk: Walk) -> str:
    at = _positions(walk, Kind.MVGB)[0]
    width = walk.layout.elements_per_column
    before, after = walk.states[at].buffers, walk.states[at + 1].buffers
    half, word, lane = (int(x) for x in np.argwhere(before != after)[0])
    unit = lane // width
    held = after[half, word, unit * width : (unit + 1) * width]
    used = ", ".join(f"{x:.6g}" for x in held[: walk.layout.keys_per_part])
    changed = np.argwhere(
        (before != after).reshape(-1, walk.layout.elements_per_column).any(axis=1)
    )
    units = sorted({int(at) % walk.layout.organization.banks_per_channel for at in changed.flat})
    parts = sorted({at // walk.layout.dimension_parts for at in units})
    which = ", ".join(map(str, units))
    return (
        f"## Probabilities return\n\nThe MVGB in cycle {walk.issued.cycle[at]} writes access {word}"
        f" of half {half} of the vector buffers of units {which}: all banks of "
        f"parts {' and '.join(map(str, parts))}, one in each pseudo-channel. The units of part 0 "
        f"get p_0, p_16 = {used}, and {width - walk.layout.keys_per_part} zeros. "
        "Half 0 still holds q."
    )


def _context(walk: Walk) -> str:
    w, o = walk.layout, walk.layout.organization
    first, second = _positions(walk, Kind.MACAB)[2:4]
    cycles = walk.issued.cycle
    held = [
        [name, *(f"{x:.5g}" for x in _slice(walk, at))]
        for name, at in (
            (f"cycle {cycles[first]}: p_0 v_0", first),
            (f"cycle {cycles[second]}: + p_16 v_16", second),
        )
    ]
    parts = walk.states[-1].parts.reshape(o.pseudo_channels, o.ranks, o.banks, -1)
    arrived = [
        [f"pseudo-channel {channel}, rank {rank}",
         *(f"{x:.5g}" for x in parts[channel, rank, 0, : w.head_dim])]
        for channel in range(o.pseudo_channels)
        for rank in range(o.ranks)
    ]  # fmt: skip
    move = _positions(walk, Kind.MVSB)[w.sequence_parts // o.pseudo_channels]
    elements = [str(element) for element in range(w.head_dim)]
    return (
        "## Context\n\nThe same unit: its accumulators have become one per lane, of which eight "
        "are in use.\n\n"
        + _table(["after", *elements], held)
        + f"\n\nThe MVSB in cycle {cycles[move]} adds up the four bank groups of rank 0, in fp16 "
        "one after the other, for bank 0 of both pseudo-channels; the next one that of rank 1; six "
        "more bring the padding of banks 1 to 3. What lies on the buffer die then:\n\n"
        + _table(["part", *elements], arrived)
        + "\n\nIt adds the four up in fp32, in this order, and rounds to fp16."
    )


def _result(walk: Walk) -> str:
    bits = walk.arithmetic.output.to_bits(walk.context)
    apart = walk.context.astype(np.float64) - walk.exact
    size = float(np.sqrt(np.mean(np.square(walk.exact))))
    rms = float(np.sqrt(np.mean(np.square(apart)))) / size
    rows = [
        ["bits", *map(_hex, bits)],
        ["device", *(f"{x:.6f}" for x in walk.context)],
        ["float64", *(f"{x:.6f}" for x in walk.exact)],
        ["difference", *(f"{x:.1e}" for x in apart)],
    ]
    return (
        "## The answer\n\nAgainst attention in float64 of the numbers at the top:\n\n"
        + _table(["element", *map(str, range(walk.layout.head_dim))], rows)
        + f"\n\nRelative RMS error: {rms:.1e}. [Accuracy](accuracy.md) tells how it grows."
    )


def _part(walk: Walk, key: int) -> tuple[int, int, int]:
    """Return the pseudo-channel, rank and bank group of a key."""
    o = walk.layout.organization
    part = key % walk.layout.sequence_parts
    channel, rest = divmod(part, o.ranks * o.bank_groups)
    rank, group = divmod(rest, o.bank_groups)
    return channel, rank, group


def _runs(walk: Walk) -> list[tuple[int, int]]:
    """Return the beginning and the end of each run of commands of one kind."""
    kinds = walk.issued.kind
    starts = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist()]
    return list(zip(starts, [*starts[1:], len(kinds)], strict=True))


def _positions(walk: Walk, kind: Kind) -> list[int]:
    return np.flatnonzero(walk.issued.kind == kind).tolist()


def _sum(walk: Walk, at: int, element: int) -> float:
    """Return an accumulator of the set that scores use, after a command."""
    state: ChannelState = walk.states[at + 1]
    return float(state.sums[0, 0, element])


def _slice(walk: Walk, at: int) -> Numbers:
    """Return the first unit's accumulators of the set that the context uses."""
    return walk.states[at + 1].sums[1, 0, : walk.layout.head_dim]


def _hex(code: np.unsignedinteger | int) -> str:
    return f"{int(code):04x}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
