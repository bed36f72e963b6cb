from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, Organization
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout, allocate_heads, check_capacity, rows_of

HBM3 = DRAMS.load("hbm3-5.2-asplos24").organization
BANK, BANKGROUP, BUFFER = Placement
COLUMN, ROW, B, G, R = 1 << 5, 1 << 10, 1 << 24, 1 << 26, 1 << 28


def layout(
    placement: Placement,
    length: int = 3072,
    head_dim: int = 128,
    element: ElementType = ElementType.FP16,
) -> HeadLayout:
    return HeadLayout(HBM3, placement, head_dim, element, length)


@pytest.mark.parametrize(
    ("placement", "parts", "keys", "columns", "multiplies", "groups", "words", "rows"),
    [
        # 3,072 keys of 128 fp16 elements: 16 elements a column.
        (BANK, 16, 192, 2, 384, 12, 12, 12),
        (BANKGROUP, 16, 192, 8, 1536, 12, 12, 12),
        (BUFFER, 2, 1536, 8, 12288, 96, 96, 12),
    ],
)
def test_one_head_by_hand(
    placement: Placement,
    parts: int,
    keys: int,
    columns: int,
    multiplies: int,
    groups: int,
    words: int,
    rows: int,
) -> None:
    """Catches a formula of reference/attacc.md, mapping of one head, that is off."""
    head = layout(placement)
    assert head.elements_per_column == 16
    assert (head.sequence_parts, head.keys_per_part) == (parts, keys)
    assert head.dimension_parts == (4 if placement is BANK else 1)
    assert (head.columns_per_key, head.context_slices) == (columns, columns)
    assert (head.score_multiplies, head.context_multiplies) == (multiplies, multiplies)
    assert (head.keys_per_move, head.score_groups) == (16, groups)
    assert head.probability_words == words
    assert head.rows == rows


@pytest.mark.parametrize(
    ("element", "elements", "columns"),
    [
        (ElementType.FP16, 16, 2),
        (ElementType.BF16, 16, 2),
        (ElementType.FP8, 32, 1),
        (ElementType.INT8, 32, 1),
        (ElementType.INT4, 64, 1),
    ],
)
def test_smaller_elements_take_fewer_columns(
    element: ElementType, elements: int, columns: int
) -> None:
    """Catches bytes taken for bits, and int4 as a whole byte."""
    head = layout(BANK, element=element)
    assert (head.elements_per_column, head.columns_per_key) == (elements, columns)


@given(
    placement=st.sampled_from(list(Placement)),
    length=st.integers(1, 40_000),
    head_dim=st.integers(1, 600),
    element=st.sampled_from(list(ElementType)),
)
def test_a_head_has_room_for_its_keys_and_not_much_more(
    placement: Placement, length: int, head_dim: int, element: ElementType
) -> None:
    """Catches keys or elements that no multiply reads, and columns that nobody needs."""
    head = layout(placement, length, head_dim, element)
    banks = {BANK: 64, BANKGROUP: 16, BUFFER: 2}[placement]
    elements = head.score_multiplies * banks * head.elements_per_column
    assert elements >= length * head_dim
    padded = head.elements_per_column * head.dimension_parts
    assert elements < (length + head.sequence_parts) * (head_dim + padded)
    assert head.score_groups == ceil(head.keys_per_part / 16)
    words = head.probability_words * head.elements_per_column * head.sequence_parts
    assert length <= words < length + head.elements_per_column * head.sequence_parts


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (BANK, {0: 0, 1: COLUMN, 31: 31 * COLUMN, 32: ROW, 33: ROW + COLUMN}),
        (
            BANKGROUP,
            {1: COLUMN, 32: B, 96: 3 * B, 127: 3 * B + 31 * COLUMN, 128: ROW, 160: ROW + B},
        ),
        (
            BUFFER,
            {
                1: G, 3: 3 * G, 4: R, 7: R + 3 * G, 8: B, 31: 3 * B + R + 3 * G, 32: COLUMN,
                1023: 31 * COLUMN + 3 * B + R + 3 * G, 1024: ROW, 1033: ROW + B + G,
            },
        ),
    ],
)  # fmt: skip
def test_addresses_of_multiplies(placement: Placement, expected: dict[int, int]) -> None:
    """Catches another order of columns, banks, groups, ranks and rows (reference/schedule.md)."""
    addresses = layout(placement).multiply_addresses(1200).tolist()
    assert {x: addresses[x] for x in expected} == expected


@given(
    placement=st.sampled_from(list(Placement)),
    length=st.integers(1, 3000),
    head_dim=st.integers(1, 300),
)
def test_rows_hold_exactly_the_multiplies(placement: Placement, length: int, head_dim: int) -> None:
    """Catches a head that reaches into the rows of the next one, and rows left empty."""
    head = layout(placement, length, head_dim)
    addresses = head.multiply_addresses(head.score_multiplies)
    rows = addresses // ROW % HBM3.rows
    assert len(set(addresses.tolist())) == head.score_multiplies
    assert rows.max() == head.rows - 1
    assert rows.min() == 0


def test_an_organisation_of_ones_own() -> None:
    """Catches sizes of HBM3 in the formulas: here 8 parts, 2 banks, columns of 64 B."""
    organization = Organization(
        channels=4, pseudo_channels=1, ranks=2, bank_groups=4, banks=2, rows=128, columns=16,
        access_bytes=64,
    )  # fmt: skip
    head = HeadLayout(organization, BANK, 96, ElementType.FP16, 100)
    assert (head.elements_per_column, head.sequence_parts, head.dimension_parts) == (32, 8, 2)
    assert (head.keys_per_part, head.columns_per_key, head.score_multiplies) == (13, 2, 26)
    assert (head.keys_per_move, head.score_groups, head.probability_words) == (32, 1, 1)
    assert head.rows == 2


def test_heads_follow_each_other_without_a_gap() -> None:
    """Catches regions that overlap, or rows that are lost."""
    head = layout(BANKGROUP)
    regions = allocate_heads(head, 5)
    assert regions.keys.tolist() == [i * 24 * ROW for i in range(5)]
    assert regions.values.tolist() == [(i * 24 + 12) * ROW for i in range(5)]


def test_the_last_row_may_be_used() -> None:
    """Catches a bound that is one too strict or too loose."""
    head = layout(BANK, length=16 * 32 * 8, head_dim=64)
    assert head.rows == 8
    assert len(allocate_heads(head, 1024).keys) == 1024
    with pytest.raises(InputError, match=r"1025 heads.*need 16400 rows.*at most 1024 such heads"):
        allocate_heads(head, 1025)


def test_a_head_that_never_fits_is_refused() -> None:
    """Catches a hint that promises room for a fraction of a head."""
    with pytest.raises(InputError, match=r"at most 0 such heads fit into a channel, 0 into"):
        allocate_heads(layout(BANK, length=4 * 2**20), 1)

    with pytest.raises(InputError, match="the interleaved schedule cuts long heads over channels"):
        allocate_heads(layout(BANK, length=4 * 2**20), 1)


@given(
    placement=st.sampled_from(list(Placement)),
    head_dim=st.integers(1, 300),
    element=st.sampled_from(list(ElementType)),
    lengths=st.lists(st.integers(1, 10_000), min_size=1, max_size=5),
)
def test_rows_are_those_of_the_length_asked_for(
    placement: Placement, head_dim: int, element: ElementType, lengths: list[int]
) -> None:
    """Catches rows that depend on the layout's own length."""
    heads = [HeadLayout(HBM3, placement, head_dim, element, length) for length in lengths]
    assert [rows_of(heads[-1], length) for length in lengths] == [head.rows for head in heads]
    # By hand: multiplies in turn go to 1, 4 or 32 banks of 32 columns.
    in_turn = {BANK: 1, BANKGROUP: 4, BUFFER: 32}[placement]
    assert heads[0].rows == -(-heads[0].score_multiplies // (32 * in_turn))


def test_a_stack_holds_what_its_channels_hold() -> None:
    """Catches a bound that refuses heads which fit, or lets any number pass.

    3,072 keys take 12 rows, and values as many: 682 heads in a channel of 16,384 rows, 10,912 in
    16. Only heads that are cut fill the last 16 rows of every channel: 10,922 and two thirds.
    """
    head = layout(BANK, length=1)
    check_capacity(head, [3072], [10_922])
    with pytest.raises(
        InputError,
        match=r"10923 heads of length 3072 need 16385 rows .* which has 16384 .at most 10912 such",
    ):
        check_capacity(head, [3072], [10_923])
    # A head of 2^26 keys takes all rows of 16 channels twice.
    check_capacity(head, [2**25], [1])
    with pytest.raises(InputError, match="at most 1 such heads fit into a stack, or take more"):
        check_capacity(head, [2**25], [2])
    check_capacity(head, [3072, 6144], [10_000, 400])
    with pytest.raises(InputError, match=r"10900 heads of up to 6144 keys .*fewer or shorter"):
        check_capacity(head, [3072, 6144], [10_000, 900])


@pytest.mark.parametrize(
    ("length", "head_dim", "message"),
    [(0, 128, "length = 0"), (-5, 128, "length = -5"), (1, 0, "head_dim = 0")],
)
def test_impossible_sizes_are_refused(length: int, head_dim: int, message: str) -> None:
    """Catches a head without keys, which would take no time."""
    with pytest.raises(InputError, match=f"{message} must be at least 1"):
        layout(BANK, length, head_dim)
