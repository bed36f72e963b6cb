"""Requests in counts: the same chunks as in rows, and policies whose counts add up."""

import numpy as np
import pytest

from attacc.errors import CapacityError, InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.mapping.residence import Growth, Residence, ResidentRequest
from attacc.pim.mapping.resident_counts import (
    CountedRequest,
    Policy,
    Prefix,
    ResidentCounts,
    redealt,
)
from attacc.pim.mapping.resident_places import CAPACITY, CHANNEL, HEAD, ROWS, START

ORGANIZATION = DRAMS.load("hbm3-5.2").organization


def layout(placement: Placement, rows: int, channels: int) -> KeyLayout:
    organization = ORGANIZATION.model_copy(update={"channels": channels, "rows": rows})
    return KeyLayout(organization, placement, 64, ElementType.FP16)


def placed(request: ResidentRequest) -> list[tuple[int, ...]]:
    """Chunks as the counts have them."""
    return sorted((c.head, c.start, c.capacity, c.stack, c.channel) for c in request.chunks())


def counted(request: CountedRequest) -> list[tuple[int, ...]]:
    return sorted(tuple(chunk) for chunk in request.chunks[:5].T.tolist())


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_the_rows(placement: Placement, seed: int) -> None:
    """Catches a chunk that the compiled dealer places, sizes or undoes in another way."""
    rng = np.random.default_rng(seed)
    growth = Growth(longest=[128, 1024][seed % 2], grain=64, growing=64 << seed // 2, quantum=16)
    of = layout(placement, [300, 40, 96, 24][seed], 3)
    heads, layers = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    rows = Residence(of, stacks=3, layers=layers, heads=heads, growth=growth)
    counts = ResidentCounts(of, stacks=3, layers=layers, heads=heads, growth=growth)
    held: list[tuple[CountedRequest, ResidentRequest]] = []
    refusals = 0
    for _ in range(400):
        if rng.random() < 0.05 and held:
            one, other = held.pop(int(rng.integers(len(held))))
            counts.free(one)
            rows.free(other)
        if rng.random() < 0.2:
            length = int(rng.choice([1, 30, 400, 3000]))
            try:
                other = rows.grow(None, length, name="")
            except CapacityError:
                refusals += 1
                with pytest.raises(CapacityError):
                    counts.arrive(length)
            else:
                held.append((counts.arrive(length), other))
        if rng.random() < 0.05 and held:
            one, other = held[int(rng.integers(len(held)))]
            try:
                rows.grow(other, other.length + 100, name="")
            except CapacityError:
                with pytest.raises(CapacityError):
                    counts.grow(one, counts.length(one) + 100)
            else:
                counts.grow(one, counts.length(one) + 100)
        refused = counts.step()
        short = [pair for pair in held if pair[1].room <= pair[1].length]
        for _, other in [pair for pair in held if pair not in short]:
            rows.grow(other, other.length + 1, name="")
        full: list[CountedRequest] = []
        for one, other in short:
            try:
                rows.grow(other, other.length + 1, name="")
            except CapacityError:
                full.append(one)
        refusals += len(full)
        assert refused == full
        assert [counts.length(one) for one, _ in held] == [other.length for _, other in held]
        np.testing.assert_array_equal(counts.loads, rows.loads)
        np.testing.assert_array_equal(counts.free_rows, rows.free_rows)
    assert [counted(one) for one, _ in held] == [placed(other) for _, other in held]
    assert refusals > 0


@pytest.mark.parametrize("policy", list(Policy))
def test_every_key_has_one_place(policy: Policy) -> None:
    """Catches keys, chunks or rows that steps lose or count twice."""
    growth = Growth(longest=512, grain=256, growing=512, quantum=16)
    of = layout(Placement.BANK, 16384, 4)
    counts = ResidentCounts(of, stacks=2, layers=2, heads=3, growth=growth, policy=policy)
    one = counts.arrive(700)
    for _ in range(300):
        assert counts.step() == []
    two = counts.arrive(5)
    for _ in range(600):
        assert counts.step() == []
    assert (counts.length(one), counts.length(two)) == (1600, 605)
    assert counts.keys.sum() == 3 * (1600 + 605)
    for request, length in ((one, 1600), (two, 605)):
        for head in range(3):
            own = request.chunks[:, request.chunks[0] == head]
            assert own[1].tolist() == [0, *(own[1] + own[2]).tolist()[:-1]]
            assert own[1][-1] + own[2][-1] >= length
    counts.free(one)
    counts.free(two)
    assert not counts.loads.any()
    assert not counts.chunks.any()
    assert (counts.free_rows == 16384).all()


def test_policies_place_heads_as_they_say() -> None:
    """Catches a head or request that leaves its channel, and grains that skip channels."""
    growth = Growth(longest=512, grain=256, growing=512, quantum=16)
    of = layout(Placement.BANK, 16384, 4)

    def spread(policy: Policy) -> list[list[int]]:
        counts = ResidentCounts(of, stacks=2, layers=2, heads=3, growth=growth, policy=policy)
        counts.arrive(1024)
        return counts.keys.tolist()

    assert spread(Policy.HEAD_FIRST) == [[1024, 1024, 1024, 0], [0, 0, 0, 0]]
    assert spread(Policy.REQUEST_CHANNEL) == [[3072, 0, 0, 0], [0, 0, 0, 0]]
    assert spread(Policy.TOKEN_PARALLEL) == [[512, 512, 512, 512], [256, 256, 256, 256]]


@pytest.mark.parametrize("policy", list(Policy))
def test_full_banks_refuse_and_change_nothing(policy: Policy) -> None:
    """Catches a refusal that keeps rows, and a request that never grows again."""
    growth = Growth(longest=512, grain=256, growing=256, quantum=16)
    counts = ResidentCounts(
        layout(Placement.BANK, 32, 2), stacks=1, layers=1, heads=1, growth=growth, policy=policy
    )
    held = [counts.arrive(500)]
    before = counts.loads.copy(), counts.free_rows.copy()
    with pytest.raises(CapacityError, match="more keys"):
        counts.arrive(100_000)
    np.testing.assert_array_equal(counts.loads, before[0])
    np.testing.assert_array_equal(counts.free_rows, before[1])
    held.append(counts.arrive(500))
    refused: list[CountedRequest] = []
    while not refused:
        refused = counts.step()
    stopped = counts.length(refused[0])
    counts.free(next(one for one in held if one is not refused[0]))
    counts.step()
    assert counts.length(refused[0]) in (stopped, stopped + 1)


def test_requests_without_keys_are_refused() -> None:
    """Catches a request that would hold no rows."""
    growth = Growth(longest=512, grain=256, growing=256, quantum=16)
    counts = ResidentCounts(
        layout(Placement.BANK, 32, 2), stacks=1, layers=1, heads=1, growth=growth
    )
    with pytest.raises(InputError, match="length 0"):
        counts.arrive(0)


def test_redealt_keys_are_all_there() -> None:
    """Catches keys that the bound loses, and channels that it leaves empty."""
    growth = Growth(longest=512, grain=256, growing=256, quantum=16)
    dealt = redealt([2048, 100], heads=2, stacks=2, channels=2, growth=growth)
    keys = [sum(own) for own in dealt]
    assert sum(keys) == 2 * 2148
    assert max(keys) <= 1.5 * min(keys)


def test_a_prefix_is_read_where_it_lies() -> None:
    """Catches a prefix that is stored again, read once for all, or kept in the loads for ever."""
    of = layout(Placement.BANK, 4000, 4)
    growth = Growth(longest=1024, grain=64, growing=256, quantum=16)
    counts = ResidentCounts(of, stacks=2, layers=2, heads=3, growth=growth)
    first = counts.arrive(500)
    alone, rows = counts.keys.copy(), counts.free_rows.copy()
    second = counts.arrive(320, Prefix.of(first.chunks, 300))
    # The first 300 keys of each head lie where those of the first request do.
    _, keys = counts.held([second])
    assert keys.sum() == 3 * 320
    for head in range(3):
        own = second.chunks[:, second.chunks[HEAD] == head]
        theirs = first.chunks[:, first.chunks[HEAD] == head]
        shared = own[:, own[START] < 300]
        assert shared[CAPACITY].sum() == 300
        np.testing.assert_array_equal(shared[CHANNEL], theirs[CHANNEL, : shared.shape[1]])
        assert (shared[ROWS] == 0).all()
        assert own[START, -1] == 300
    assert counts.keys.sum() == 3 * (500 + 320)
    # Rows are those of 20 keys, and of the room to grow.
    fresh = ResidentCounts(of, stacks=2, layers=2, heads=3, growth=growth)
    before = fresh.free_rows.sum()
    fresh.arrive(20)
    assert (rows - counts.free_rows).sum() == (before - fresh.free_rows.sum())
    for _ in range(40):
        counts.step()
    assert counts.keys.sum() == 3 * (540 + 360)
    counts.free(second)
    assert (counts.keys >= alone).all()
    counts.free(first)
    assert not counts.loads.any()
    assert not counts.chunks.any()


def test_a_prefix_without_room_behind_it_changes_nothing() -> None:
    """Catches loads of a prefix whose request was refused."""
    growth = Growth(longest=1024, grain=64, growing=64, quantum=16)
    counts = ResidentCounts(
        layout(Placement.BANK, 24, 2), stacks=1, layers=1, heads=1, growth=growth
    )
    first = counts.arrive(200)
    loads, chunks = counts.loads.copy(), counts.chunks.copy()
    with pytest.raises(CapacityError):
        counts.arrive(100_000, Prefix.of(first.chunks, 128))
    np.testing.assert_array_equal(counts.loads, loads)
    np.testing.assert_array_equal(counts.chunks, chunks)
    with pytest.raises(InputError, match="at least 129"):
        counts.arrive(128, Prefix.of(first.chunks, 128))
