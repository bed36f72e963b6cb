"""Where growing requests lie: every row once, heads cut alike, nothing that moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import CapacityError, InputError
from attacc.hardware.dram import DRAMS, Organization
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import KeyLayout, rows_of
from attacc.pim.mapping.residence import Growth, Residence, ResidentRequest
from tests import share

ORGANIZATION = DRAMS.load("hbm3-5.2").organization
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))


def layout(organization: Organization, placement: Placement = Placement.BANK) -> KeyLayout:
    return KeyLayout(organization, placement, 64, ElementType.FP16)


def residence(
    *, stacks: int = 1, layers: int = 2, heads: int = 3, channels: int = 16, rows: int = 16384,
    growth: Growth | None = None, placement: Placement = Placement.BANK,
) -> Residence:  # fmt: skip
    organization = ORGANIZATION.model_copy(update={"channels": channels, "rows": rows})
    return Residence(
        layout(organization, placement), stacks=stacks, layers=layers, heads=heads,
        growth=growth or Growth(longest=4096, grain=256, growing=1024, quantum=16),
    )  # fmt: skip


def keys_of(request: ResidentRequest, length: int, stacks: int, channels: int) -> list[list[int]]:
    """Keys of every channel of every stack."""
    keys = [[0] * channels for _ in range(stacks)]
    for chunk in request.chunks():
        keys[chunk.stack][chunk.channel] += chunk.keys(length)
    return keys


@pytest.mark.untraced  # three times as long, of lines that all tests here reach
@PLACEMENTS
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 30, 12))
def test_rows_belong_to_one_chunk_and_heads_have_all_keys(
    placement: Placement, data: st.DataObject
) -> None:
    """Catches rows given twice or lost, chunks that move, overlap or leave keys out."""
    layers, heads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    growth = Growth(
        longest=data.draw(st.sampled_from([64, 512, 4096])), grain=64, growing=64, quantum=16
    )
    all_of = residence(
        stacks=2, layers=layers, heads=heads, channels=3, rows=256, growth=growth,
        placement=placement,
    )  # fmt: skip
    held: dict[int, ResidentRequest] = {}
    everything = all_of.free_bytes
    for _ in range(data.draw(st.integers(1, 12))):
        number = data.draw(st.integers(0, 3))
        before = held.get(number)
        if before is not None and data.draw(st.integers(0, 3)) == 0:
            all_of.free(held.pop(number))
            continue
        length = (before.length if before else 0) + data.draw(st.sampled_from([1, 30, 400, 3000]))
        known = [] if before is None else [(id(c), c.start, c.channel) for c in before.chunks()]
        free = all_of.free_rows.copy()
        try:
            held[number] = all_of.grow(before, length, name=f"request {number}")
        except CapacityError:
            np.testing.assert_array_equal(all_of.free_rows, free)
            assert held.get(number) is before
            continue
        now = {
            id(chunk): (id(chunk), chunk.start, chunk.channel) for chunk in held[number].chunks()
        }
        assert [now[one[0]] for one in known] == known
        taken: set[tuple[int, int, int]] = set()
        for request in held.values():
            assert request.room >= request.length
            for head, chunks in enumerate(request.heads):
                assert [chunk.start for chunk in chunks] == [
                    0, *(chunk.end for chunk in chunks[:-1])
                ]  # fmt: skip
                for chunk in chunks:
                    assert chunk.head == head
                    assert chunk.start % growth.quantum == 0
                    assert chunk.capacity <= growth.longest
                    rows = rows_of(layout(ORGANIZATION, placement), chunk.capacity)
                    assert chunk.rows.shape == (layers, 2 * rows)
                    places = {
                        (chunk.stack, chunk.channel, row) for row in chunk.rows.ravel().tolist()
                    }
                    assert len(places) == chunk.rows.size
                    assert not places & taken
                    taken |= places
        assert max((row for _, _, row in taken), default=0) < 256
        assert all_of.free_rows.sum() + len(taken) == 2 * 3 * 256
        loads = np.zeros((2, 3), dtype=np.int64)
        for request in held.values():
            for chunk in request.chunks():
                loads[chunk.stack, chunk.channel] += chunk.keys(request.length) + 16
        np.testing.assert_array_equal(all_of.loads, loads)
    for request in held.values():
        all_of.free(request)
    assert all_of.free_bytes == everything == all_of.capacity_bytes
    assert not all_of.loads.any()


def test_few_heads_are_cut_to_the_level_of_all_channels() -> None:
    """Catches channels that wait for a few: 3 heads of 1,024 keys make 12 chunks of 256."""
    request = residence().grow(None, 1024, name="")
    (keys,) = keys_of(request, 1024, 1, 16)
    assert sorted(keys) == [0] * 4 + [256] * 12


def test_heads_that_fill_the_channels_stay_whole() -> None:
    request = residence(heads=32).grow(None, 3072, name="")
    (keys,) = keys_of(request, 3072, 1, 16)
    assert keys == [2 * 3072] * 16
    assert all(len(chunks) == 1 for chunks in request.heads)


def test_a_head_too_many_is_shared_out() -> None:
    """Catches a seventeenth head that doubles the time of one channel."""
    request = residence(heads=17).grow(None, 3072, name="")
    (keys,) = keys_of(request, 3072, 1, 16)
    assert max(keys) == 3072 + 256
    assert sum(len(chunks) > 1 for chunks in request.heads) == 1


def test_heads_go_to_stacks_whole_and_then_to_the_emptiest() -> None:
    all_of = residence(stacks=3, heads=4)
    first = all_of.grow(None, 512, name="")
    assert [{chunk.stack for chunk in chunks} for chunks in first.heads] == [{0}, {1}, {2}, {0}]
    second = all_of.grow(None, 512, name="")
    stacks = [chunks[0].stack for one in (first, second) for chunks in one.heads]
    assert sorted(np.bincount(stacks).tolist()) == [2, 3, 3]


def test_a_full_chunk_is_followed_on_the_emptiest_channel_of_its_stack() -> None:
    all_of = residence(heads=1, stacks=2)
    request = all_of.grow(None, 100, name="")
    (first,) = request.heads[0]
    assert first.capacity == 1024
    assert all_of.grow(request, 1024, name="") is request
    assert len(request.heads[0]) == 1
    all_of.grow(request, 1025, name="")
    _, second = request.heads[0]
    assert (second.start, second.capacity, second.stack) == (1024, 1024, first.stack)
    assert second.channel != first.channel


def test_rows_of_who_left_come_first() -> None:
    all_of = residence(heads=1, channels=1, layers=1)
    first, second = (all_of.grow(None, 10, name="") for _ in range(2))
    assert first.heads[0][0].rows.tolist() == [[0, 1, 2, 3]]
    all_of.free(first)
    third = all_of.grow(None, 10, name="")
    assert third.heads[0][0].rows.tolist() == [[0, 1, 2, 3]]
    assert second.heads[0][0].rows.tolist() == [[4, 5, 6, 7]]


def test_growing_must_be_possible() -> None:
    for growing in (0, 65):
        with pytest.raises(InputError, match=f"growing_keys = {growing} must be from 1 to 64"):
            Growth(longest=64, grain=64, growing=growing, quantum=16)
