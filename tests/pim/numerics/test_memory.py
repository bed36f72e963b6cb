"""Where keys and values are written: by hand, and against the formulas of docs/model/mapping.md."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout, HeadRegions, KeyLayout, allocate_chunks
from attacc.pim.numerics.memory import BankMemory, check_regions, store_head
from tests import share

ORGANIZATION = DRAMS.load("hbm3-5.2").organization
FP16, INT8 = ElementType.FP16, ElementType.INT8


def held(memory: BankMemory, channel: int, place: tuple[int, ...], byte: int, bits: int) -> int:
    """The element at a byte of a bank: (pseudo-channel, rank, bank group, bank)."""
    o = memory.organization
    row, rest = divmod(byte, o.columns * o.access_bytes)
    column, offset = divmod(rest, o.access_bytes)
    slot = memory.slots[channel][row]
    assert slot > 0
    data = memory.channels[channel][(slot, column, *place)]
    return int.from_bytes(data[offset : offset + bits // 8].tobytes(), "little")


@pytest.mark.parametrize("placement", list(Placement))
@given(
    length=st.integers(1, 90),
    head_dim=st.sampled_from([8, 40, 64, 80, 128]),
    element=st.sampled_from([FP16, INT8]),
)
@settings(max_examples=share.examples(__name__, 15, 6))
def test_every_element_is_where_the_mapping_says(
    placement: Placement, length: int, head_dim: int, element: ElementType
) -> None:
    """Catches a transposed axis, and padding that is not zero; element by element."""
    layout = HeadLayout(ORGANIZATION, placement, head_dim, element, length)
    regions = allocate_chunks(layout, [5, length])
    random = np.random.default_rng(length)
    kind = np.uint16 if element is FP16 else np.uint8
    keys, values = random.integers(1, 2**element.bits, (2, length, head_dim)).astype(kind)
    memory = BankMemory(ORGANIZATION)
    begins = int(regions.keys[1]), int(regions.values[1])
    store_head(memory, 3, layout, *begins, keys, values)
    n, w, p = layout.elements_per_column, layout.columns_per_key, layout.keys_per_part
    written = 0
    for key, e in product(range(length), range(head_dim)):
        position, part = divmod(key, 2 if placement is Placement.BUFFER else 16)
        access, lane = divmod(e, n)
        for codes, begin, of_values in ((keys, begins[0], False), (values, begins[1], True)):
            bank, column = 0, access
            if placement is Placement.BANK:
                bank, column = divmod(access, w)
            x = column * p + position if of_values else position * w + column
            if placement is Placement.BANK:
                place = (part // 8, part // 4 % 2, part % 4, bank)
                byte = x * 32
            elif placement is Placement.BANKGROUP:
                place = (part // 8, part // 4 % 2, part % 4, x // 32 % 4)
                byte = (x // 128 * 32 + x % 32) * 32
            else:
                place = (part, x // 4 % 2, x % 4, x // 8 % 4)
                byte = x // 32 * 32
            at = begin + byte + lane * element.bits // 8
            assert held(memory, 3, place, at, element.bits) == codes[key, e]
            written += 1
    assert written == np.count_nonzero(memory.accesses(3, element.bits))
    assert not any(len(memory.rows_in_use(channel)) for channel in range(16) if channel != 3)


def test_only_rows_in_use_are_kept() -> None:
    """Catches rows kept twice or lost as others are added, and rows that no bank has."""
    memory = BankMemory(ORGANIZATION)
    memory.reserve(2, 100, 102)
    memory.channels[2][memory.slots[2][101]] = 7
    memory.reserve(2, 99, 110)
    assert memory.rows_in_use(2).tolist() == list(range(99, 111))
    assert len(set(memory.slots[2][99:111].tolist())) == 12
    assert (memory.channels[2][memory.slots[2][101]] == 7).all()
    assert len(memory.channels[2]) < 20
    assert not memory.channels[2][memory.slots[2][0]].any()
    with pytest.raises(InputError, match="row 16384 of channel 2 does not exist"):
        memory.reserve(2, 0, ORGANIZATION.rows)


def test_codes_of_another_shape_are_refused() -> None:
    layout = HeadLayout(ORGANIZATION, Placement.BANK, 64, FP16, 20)
    codes = np.ones((20, 64), dtype=np.uint16)
    memory = BankMemory(ORGANIZATION)
    with pytest.raises(InputError, match=r"values of shape \(19, 64\) for a head of 20 keys of 64"):
        store_head(memory, 0, layout, 0, 1024, codes, codes[1:])
    with pytest.raises(InputError, match="keys of 8 bits, laid out as fp16"):
        store_head(memory, 0, layout, 0, 1024, codes.astype(np.uint8), codes)


def test_overlapping_heads_are_refused() -> None:
    layout = KeyLayout(ORGANIZATION, Placement.BUFFER, 64, FP16)
    check_regions(layout, (70, 70), allocate_chunks(layout, [70, 70]))
    regions = HeadRegions(np.array([0, 1024]), np.array([2048, 1024]))
    with pytest.raises(InputError, match="keys of chunk 1 and the values of chunk 1 overlap"):
        check_regions(layout, (7, 7), regions)
    beyond = HeadRegions(np.array([0]), np.array([ORGANIZATION.bank_bytes]))
    with pytest.raises(InputError, match="values of chunk 0 end at byte 16777248 of every bank"):
        check_regions(layout, (7,), beyond)
