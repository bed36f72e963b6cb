"""The complete schedule against an enumeration of what attention takes (reference/attacc.md)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import ceil
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import MULTIPLY, Kind, Program
from attacc.pim.program.schedule import attention_program
from tests import share

HBM3 = DRAMS.load("hbm3-5.2-asplos24").organization
CHANNELS, ROWS = 16, 16384
COLUMN, ROW, BANK, BANK_GROUP, RANK = 1 << 5, 1 << 10, 1 << 24, 1 << 26, 1 << 28


class Shape(NamedTuple):
    """Attention of equal heads on one stack."""

    placement: Placement
    heads: int
    length: int
    head_dim: int
    element: ElementType

    @property
    def layout(self) -> HeadLayout:
        return HeadLayout(HBM3, self.placement, self.head_dim, self.element, self.length)

    @property
    def program(self) -> Program:
        return attention_program(self.layout, self.heads, Schedule.COMPLETE)


@dataclass
class Head:
    """Addresses of the commands of one head, in the order in which they depend on each other."""

    wrgb: list[int] = field(default_factory=list[int])
    score: list[list[int]] = field(default_factory=list[list[int]])
    """Multiplies whose scores one group of moves carries away."""
    score_moves: list[int] = field(default_factory=list[int])
    """One group of them."""
    mvgb: list[int] = field(default_factory=list[int])
    context: list[list[int]] = field(default_factory=list[list[int]])
    """Multiplies of one output slice."""
    context_moves: list[int] = field(default_factory=list[int])


def enumerate_head(shape: Shape, index: int) -> Head:
    """The commands of head `index` of a channel, and where its keys and values lie."""
    n = 32 * 8 // shape.element.bits
    head = Head()
    if shape.placement is Placement.BUFFER:
        parts, words, banks = ceil(shape.length / 2), ceil(shape.head_dim / n), 32
        moves, context_moves = [0], [0]
        probabilities = list(range(ceil(shape.length / (2 * n))))
        slices_of_q = list(range(words))
    else:
        parts, banks = ceil(shape.length / 16), 4
        words = ceil(shape.head_dim / n)
        moves = [r * RANK + g * BANK_GROUP for r in range(2) for g in range(4)]
        count = ceil(shape.length / (16 * n))
        probabilities = [move + word for move in moves for word in range(count)]
        slices_of_q = list(range(words))
        context_moves = [r * RANK for r in range(2)]
        if shape.placement is Placement.BANK:
            banks, words = 1, ceil(shape.head_dim / (4 * n))
            slices_of_q = [b * BANK + word for b in range(4) for word in range(words)]
            context_moves = [b * BANK + r * RANK for b in range(4) for r in range(2)]

    def multiply(x: int) -> int:
        if shape.placement is Placement.BANK:
            return x * COLUMN
        if shape.placement is Placement.BANKGROUP:
            return x % 32 * COLUMN + x // 32 % 4 * BANK + x // 128 * ROW
        group = x % 4 * BANK_GROUP + x // 4 % 2 * RANK
        return group + x // 8 % 4 * BANK + x // 32 % 32 * COLUMN + x // 1024 * ROW

    rows = ceil(parts * words / (32 * banks))
    keys = 2 * index * rows * ROW
    values = keys + rows * ROW
    head.wrgb = [keys + a for a in slices_of_q]
    for first in range(0, parts, 16):
        group = range(first, min(first + 16, parts))
        head.score.append([keys + multiply(p * words + j) for p in group for j in range(words)])
    head.score_moves = [keys + a for a in moves]
    head.mvgb = [values + a for a in probabilities]
    for s in range(words):
        head.context.append([values + multiply(s * parts + p) for p in range(parts)])
    head.context_moves = [values + a for a in context_moves]
    return head


def requests(program: Program) -> Iterator[tuple[Kind, int, int]]:
    """Kind, address below the channel, and channel, in order."""
    columns = (program.kind, program.address, program.first_channel, program.channels)
    for kind, address, first, count in zip(*(c.tolist() for c in columns), strict=True):
        for channel in range(first, first + count):
            yield Kind(kind), address, channel


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    return Shape(
        draw(st.sampled_from(list(Placement))),
        draw(st.integers(1, 70)),
        draw(st.integers(1, 600)),
        draw(st.integers(1, 200)),
        draw(st.sampled_from(list(ElementType))),
    )


@pytest.mark.untraced  # of a naive checker
@given(shapes())
@settings(max_examples=share.examples(__name__, 40, 16))
@example(Shape(Placement.BANK, 33, 3072, 128, ElementType.FP16))
@example(Shape(Placement.BUFFER, 17, 257, 128, ElementType.INT4))
def test_every_command_of_every_head_is_issued_once(shape: Shape) -> None:
    """Catches the faults of the published order: commands that are dropped or issued twice."""
    multiply = MULTIPLY[shape.placement]
    expected: Counter[tuple[Kind, int, int]] = Counter()
    for h in range(shape.heads):
        head, channel = enumerate_head(shape, h // CHANNELS), h % CHANNELS
        moves = len(head.score) * head.score_moves + len(head.context) * head.context_moves
        for kind, addresses in (
            (Kind.WRGB, head.wrgb),
            (multiply, [a for group in head.score + head.context for a in group]),
            (Kind.MVSB, moves),
            (Kind.MVGB, head.mvgb),
            (Kind.SFM, [0]),
        ):
            expected.update((kind, address, channel) for address in addresses)
    program = shape.program
    issued = Counter(r for r in requests(program) if r[0] is not Kind.BARRIER)
    assert issued == expected


@given(shapes())
@settings(max_examples=share.examples(__name__, 40, 16))
@example(Shape(Placement.BANK, 70, 1000, 129, ElementType.FP16))
@example(Shape(Placement.BANKGROUP, 70, 599, 17, ElementType.FP16))
@example(Shape(Placement.BUFFER, 70, 513, 16, ElementType.FP16))
def test_keys_and_values_of_all_heads_lie_apart(shape: Shape) -> None:
    """Catches two heads, or keys and values, in the same column of the same bank."""
    read = [
        (address, channel)
        for kind, address, channel in requests(shape.program)
        if kind is MULTIPLY[shape.placement]
    ]
    # A multiply at an address reads that column of every bank that it opens, and nothing else
    # opens them: two multiplies meet in a bank exactly if their addresses are equal.
    assert len(set(read)) == len(read)
    for address, _ in read:
        assert address % COLUMN == 0
        if shape.placement is not Placement.BUFFER:
            assert address < (BANK if shape.placement is Placement.BANK else BANK_GROUP)
    assert shape.program.count(MULTIPLY[shape.placement]) == len(read)


def check_order(shape: Shape, program: Program, channel: int) -> None:
    """Assert that what depends on something is behind a barrier after it, on one channel."""
    multiply = MULTIPLY[shape.placement]
    segment = 0
    at: defaultdict[tuple[Kind, int], list[int]] = defaultdict(list)
    for kind, address, where in requests(program):
        if where == channel:
            segment += kind is Kind.BARRIER
            at[kind, address].append(segment)

    def span(kind: Kind, addresses: list[int]) -> tuple[int, int]:
        issued = [s for address in addresses for s in at[kind, address]]
        return min(issued), max(issued)

    heads = ceil((shape.heads - channel) / CHANNELS)
    softmax = at[Kind.SFM, 0]
    assert len(softmax) == heads
    for index in range(heads):
        head = enumerate_head(shape, index)
        assert span(Kind.WRGB, head.wrgb)[1] < span(multiply, head.score[0])[0]
        for groups, moves in (
            (head.score, head.score_moves),
            (head.context, head.context_moves),
        ):
            for g, group in enumerate(groups):
                ready = span(multiply, group)[1]
                for address in moves:
                    assert ready < at[Kind.MVSB, address][g]
        last_scores = max(at[Kind.MVSB, a][len(head.score) - 1] for a in head.score_moves)
        assert last_scores < softmax[index]
        first_back, last_back = span(Kind.MVGB, head.mvgb)
        assert softmax[index] < first_back
        assert last_back < min(span(multiply, group)[0] for group in head.context)


@given(shapes())
@settings(max_examples=share.examples(__name__, 40, 16))
def test_what_depends_is_behind_a_barrier(shape: Shape) -> None:
    """Catches scores moved before they are there, a softmax before its last score, and so on."""
    program = shape.program
    for channel in {0, (shape.heads - 1) % CHANNELS, min(shape.heads, CHANNELS) - 1}:
        check_order(shape, program, channel)


@pytest.mark.untraced  # of a naive checker
@pytest.mark.parametrize(
    ("placement", "heads", "length"),
    list(product(Placement, (1, 16, 17, 32, 33, 64), (1, 16, 17, 256, 257, 800))),
)
def test_dependences_at_the_edges(placement: Placement, heads: int, length: int) -> None:
    """The same where rounds, groups and parts are just full or just one over."""
    for head_dim in (1, 64, 65):
        shape = Shape(placement, heads, length, head_dim, ElementType.FP16)
        check_order(shape, shape.program, 0)


def test_every_channel_gets_the_barriers_of_its_own_commands() -> None:
    """Catches channels that run ahead: those of a last round of few heads included."""
    program = Shape(Placement.BANK, 18, 100, 64, ElementType.FP16).program
    barriers = Counter(c for kind, _, c in requests(program) if kind is Kind.BARRIER)
    assert set(barriers) == set(range(CHANNELS))
    assert len(set(barriers.values())) == 1
    few = Shape(Placement.BANK, 3, 100, 64, ElementType.FP16).program
    assert {c for *_, c in requests(few)} == {0, 1, 2}, "channels without a head stay idle"


def test_heads_that_do_not_fit_are_refused_with_what_does() -> None:
    """Catches keys of one head over the values of another for want of rows.

    At bank, 3,072 keys of 128 fp16 elements take 192 x 2 multiplies, 12 rows; keys and values of
    682 heads take 16,368 of the 16,384 rows of a bank.
    """
    layout = HeadLayout(HBM3, Placement.BANK, 128, ElementType.FP16, 3072)
    fits = ROWS // 24
    assert fits == 682
    program = attention_program(layout, fits * CHANNELS, Schedule.COMPLETE)
    assert program.address.max() < ROWS * ROW + 3 * (BANK + BANK_GROUP) + RANK
    with pytest.raises(
        InputError,
        match=r"683 heads of length 3072 in one channel need 16392 rows of every bank, which has "
        r"16384 \(at most 682 such heads fit into a channel, 10912 into a stack\)",
    ):
        attention_program(layout, fits * CHANNELS + 1, Schedule.COMPLETE)


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize(("heads", "queries"), [(64, 4), (50, 2), (16, 8)])
def test_grouped_queries_read_the_same_keys_one_after_another(
    placement: Placement, heads: int, queries: int
) -> None:
    """Catches keys that are stored once per query head, and query heads without their reads."""
    shape = Shape(placement, heads, 300, 96, ElementType.FP16)
    program = attention_program(shape.layout, heads, Schedule.COMPLETE, queries)
    issued = Counter(r for r in requests(program) if r[0] is MULTIPLY[placement])
    expected: Counter[tuple[Kind, int, int]] = Counter()
    for h in range(heads):
        head = enumerate_head(shape, h // CHANNELS // queries)
        for group in head.score + head.context:
            expected.update((MULTIPLY[placement], address, h % CHANNELS) for address in group)
    assert issued == expected
    assert program.counts() == shape.program.counts()


def test_grouped_queries_need_room_for_their_keys_once() -> None:
    """Catches a capacity that counts query heads: two per key/value head, of which 682 fit."""
    layout = HeadLayout(HBM3, Placement.BANK, 128, ElementType.FP16, 3072)
    attention_program(layout, 682 * CHANNELS * 2, Schedule.COMPLETE, 2)
    with pytest.raises(InputError, match="683 heads of length 3072"):
        attention_program(layout, 682 * CHANNELS * 2 + 1, Schedule.COMPLETE, 2)
