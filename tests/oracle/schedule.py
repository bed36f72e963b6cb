"""The published order of commands (reference/schedule.md), written out step by step.

Independent of the package: it imports nothing from `attacc`, and is slow and literal on purpose.
One text line per command, as the trace files have them.
"""

from collections.abc import Iterator

CHANNELS = 16
COLUMN_BYTES = 32
KEYS_PER_MOVE = 16
"""Key parts (16 or 2 keys each) whose scores one MVSB group moves."""

COLUMN = 1 << 5
ROW = 1 << 10
BANK = 1 << 24
BANK_GROUP = 1 << 26
RANK = 1 << 28
CHANNEL = 1 << 30
VALUES = 1 << 23
"""Distance from a round's K to its V: 8,192 rows."""

PLACEMENTS = ("bank", "bankgroup", "buffer")
MAC = {"bank": "PIM_MAC_AB", "bankgroup": "PIM_MAC_SB", "buffer": "PIM_MAC_PB"}


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Round:
    """The commands of up to 16 heads that run side by side, one per channel, as flat lists."""

    def __init__(
        self, placement: str, index: int, used: int, length: int, head_dim: int, element_bytes: int
    ) -> None:
        self.placement = placement
        self.used = used
        n = COLUMN_BYTES // element_bytes
        key_parts = ceil_div(length, 2 if placement == "buffer" else 16)
        words = ceil_div(head_dim, 4 * n) if placement == "bank" else ceil_div(head_dim, n)
        keys = index * ceil_div(4096 * head_dim, 64)
        values = keys + VALUES

        self.wrgb: list[str] = []
        for bank in range(4 if placement == "bank" else 1):
            for j in range(words):
                self.wrgb += self.step("PIM_WR_GB", keys + bank * BANK + j)

        self.score_macs: list[list[str]] = []
        for first in range(0, key_parts, KEYS_PER_MOVE):
            group: list[str] = []
            for p in range(first, min(first + KEYS_PER_MOVE, key_parts)):
                for j in range(words):
                    group += self.mac(keys, p * words + j)
            self.score_macs.append(group)

        self.score_moves: list[str] = []
        if placement == "buffer":
            self.score_moves += self.step("PIM_MV_SB", keys)
        else:
            for bank_group in range(4):
                for rank in range(2):
                    address = keys + bank_group * BANK_GROUP + rank * RANK
                    self.score_moves += self.step("PIM_MV_SB", address)

        self.softmax = self.step("PIM_SFM", 0)

        self.mvgb: list[str] = []
        if placement == "buffer":
            for j in range(ceil_div(length, 2 * n)):
                self.mvgb += self.step("PIM_MV_GB", values + j)
        else:
            for rank in range(2):
                for bank_group in range(4):
                    for j in range(ceil_div(length, 16 * n)):
                        address = values + rank * RANK + bank_group * BANK_GROUP + j
                        self.mvgb += self.step("PIM_MV_GB", address)

        self.context_macs: list[list[str]] = []
        for s in range(words):
            group = []
            for p in range(key_parts):
                group += self.mac(values, s * key_parts + p)
            self.context_macs.append(group)

        self.context_moves: list[str] = []
        if placement == "bank":
            for bank in range(4):
                for rank in range(2):
                    self.context_moves += self.step("PIM_MV_SB", values + bank * BANK + rank * RANK)
        elif placement == "bankgroup":
            for rank in range(2):
                self.context_moves += self.step("PIM_MV_SB", values + rank * RANK)
        else:
            self.context_moves += self.step("PIM_MV_SB", values)

    def step(self, kind: str, address: int) -> list[str]:
        return [f"{kind} 0x{address + c * CHANNEL:08x}" for c in range(self.used)]

    def mac(self, base: int, x: int) -> list[str]:
        if self.placement == "bank":
            address = base + x * COLUMN
        elif self.placement == "bankgroup":
            address = base + x % 32 * COLUMN + x // 32 % 4 * BANK + x // 128 * ROW
        else:
            bank_group, rank = x % 4, x // 4 % 2
            address = base + bank_group * BANK_GROUP + rank * RANK
            address += x // 8 % 4 * BANK + x // 32 % 32 * COLUMN + x // 1024 * ROW
        return self.step(MAC[self.placement], address)


def barrier() -> list[str]:
    return [f"PIM_BARRIER 0x{c * CHANNEL:08x}" for c in range(CHANNELS)]


def piece(commands: list[str], k: int, stride: int) -> list[str]:
    return commands[k * stride : (k + 1) * stride]


def score(
    this: Round, *, softmax_of: Round | None, wrgb_of: Round | None, mvgb_of: Round | None
) -> Iterator[str]:
    """Steps A and B, and the score of a last unpaired round: what is given runs alongside."""
    groups = len(this.score_macs)
    for j in range(groups + 1):
        if j < groups:
            yield from this.score_macs[j]
        if j > 0:
            yield from this.score_moves
        if j == 0 and softmax_of is not None:
            yield from softmax_of.softmax
        if j < groups and wrgb_of is not None:
            yield from piece(wrgb_of.wrgb, j, len(wrgb_of.wrgb) // groups)
        if groups // 2 <= j < groups and mvgb_of is not None:
            stride = len(mvgb_of.mvgb) // ceil_div(groups, 2)
            yield from piece(mvgb_of.mvgb, j - groups // 2, stride)
        if j < groups:
            yield from barrier()


def context(this: Round, *, alongside: Round | None) -> Iterator[str]:
    """Step C (with the other round's softmax alongside) and step D (without)."""
    slices = len(this.context_macs)
    for j in range(slices + 1):
        if j < slices:
            yield from this.context_macs[j]
        if j > 0:
            yield from this.context_moves
        if j == 0 and alongside is not None:
            yield from alongside.softmax
        if slices // 2 <= j < slices and alongside is not None:
            stride = len(alongside.mvgb) // ceil_div(slices, 2)
            yield from piece(alongside.mvgb, j - slices // 2, stride)
        if j < slices:
            yield from barrier()


def stream(
    placement: str, heads: int, length: int, head_dim: int, element_bytes: int
) -> Iterator[str]:
    """The published trace, one line at a time.

    Raises:
        ValueError: for a placement other than bank, bankgroup or buffer.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement is one of {PLACEMENTS}, not {placement!r}")

    def build(index: int) -> Round:
        used = min(CHANNELS, heads - index * CHANNELS)
        return Round(placement, index, used, length, head_dim, element_bytes)

    count = ceil_div(heads, CHANNELS)
    for i in range(0, count - 1, 2):
        first, second = build(i), build(i + 1)
        yield from first.wrgb
        if i == 0:
            yield from first.score_macs[0][: first.used]
        yield from barrier()
        yield from score(first, softmax_of=None, wrgb_of=second, mvgb_of=None)
        yield from score(second, softmax_of=first, wrgb_of=None, mvgb_of=first)
        yield from context(first, alongside=second)
        yield from context(first, alongside=None)
    if count % 2 == 1:
        last = build(count - 1)
        yield from last.wrgb
        yield from barrier()
        yield from score(last, softmax_of=None, wrgb_of=None, mvgb_of=None)
        yield from last.softmax
        yield from last.mvgb
        yield from barrier()
        yield from context(last, alongside=None)


def published(
    placement: str, heads: int, length: int, head_dim: int, element_bytes: int
) -> list[str]:
    """The whole published trace as text lines; see `stream`."""
    return list(stream(placement, heads, length, head_dim, element_bytes))
