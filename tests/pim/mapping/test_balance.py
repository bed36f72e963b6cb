"""Heads to chunks to channels: everything once, nothing too long, nobody overloaded."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.pim.mapping.balance import (
    Assignment,
    Chunk,
    StackAssignment,
    assign,
    assign_stacks,
    assign_together,
)

STACKS = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([1, 2, 8, 16, 32]),
        "longest": st.sampled_from([256, 1024, 4096]),
        "grain": st.sampled_from([1, 32, 256]),
    }
)
LENGTHS = st.one_of(
    st.lists(st.one_of(st.integers(1, 300), st.integers(1, 20_000)), min_size=1, max_size=60),
    st.tuples(st.integers(1, 9000), st.integers(1, 200)).map(lambda few: [few[0]] * few[1]),
)


def chunks(assignment: Assignment) -> list[Chunk]:
    return [chunk for channel in assignment.channels for chunk in channel]


def assert_all_there(lengths: Sequence[int], parts: Sequence[Chunk]) -> None:
    """Every key of every head is in exactly one part."""
    for head, length in enumerate(lengths):
        end = 0
        for part in sorted(part for part in parts if part.head == head):
            assert part.start == end
            assert part.length >= 1
            end += part.length
        assert end == length


@given(lengths=LENGTHS, stack=STACKS)
def test_every_key_goes_to_exactly_one_chunk(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches keys that are lost or attended to twice where a head is cut."""
    assert_all_there(lengths, chunks(assign(lengths, **stack)))


@given(lengths=LENGTHS, stack=STACKS)
def test_chunks_keep_their_limits(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches chunks that no buffer holds, and cuts within a group of moves."""
    assignment = assign(lengths, **stack)
    assert len(assignment.channels) == stack["channels"]
    for chunk in chunks(assignment):
        assert chunk.length <= stack["longest"]
        assert chunk.start % stack["grain"] == 0


def longest_first(parts: Sequence[int], bins: int, overhead: int) -> list[int]:
    """What bins count if each part, the longest first, goes to the least loaded."""
    loads = [0] * bins
    for part in sorted(parts, reverse=True):
        loads[loads.index(min(loads))] += part + overhead
    return loads


def cut_to(lengths: Sequence[int], limit: int, grain: int) -> list[int]:
    """Lengths of heads that are cut, as evenly as whole grains allow, to a limit."""
    parts: list[int] = []
    for length in lengths:
        pieces = -(-length // limit)
        size = length if pieces == 1 else min(limit, -(-length // (pieces * grain)) * grain)
        parts += [min(size, length - start) for start in range(0, length, size)]
    return parts


@given(lengths=LENGTHS, stack=STACKS)
def test_channels_are_balanced(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches a rule worse than the longest to the least loaded, and cuts that do not pay."""
    channels, longest, grain = stack["channels"], stack["longest"], stack["grain"]
    overhead = grain // 4
    assignment = assign(lengths, **stack)
    assert list(assignment.channels) == sorted(
        assignment.channels, key=lambda column: [chunk.length for chunk in column], reverse=True
    )
    share = -(-sum(lengths) // channels)
    parts = cut_to(lengths, min(longest, max(grain, -(-share // grain) * grain)), grain)
    dealt = longest_first(parts, channels, overhead)
    loads = [sum(chunk.length + overhead for chunk in column) for column in assignment.channels]
    if len(chunks(assignment)) == len(parts):
        assert sorted(loads) == sorted(dealt)
    else:
        assert max(loads) <= max(dealt) - overhead
    assert max(loads) <= sum(dealt) / channels + 1.5 * grain + 1

    assert sum(assignment.keys) == sum(lengths)
    assert assignment.imbalance == max(assignment.keys) * channels / sum(lengths)


@given(lengths=LENGTHS, together=st.sampled_from([1, 2, 8]), stack=STACKS)
def test_a_request_stays_in_one_channel(
    lengths: list[int], together: int, stack: dict[str, int]
) -> None:
    """Catches a head away from the others of its request, a lost key, and a chunk too long."""
    heads = [length for length in lengths for _ in range(together)]
    found = assign_together(heads, together=together, **stack)
    assert_all_there(heads, chunks(found))
    homes: dict[int, set[int]] = {}
    for which, own in enumerate(found.channels):
        assert [chunk.length for chunk in own] == sorted((one.length for one in own), reverse=True)
        for chunk in own:
            homes.setdefault(chunk.head // together, set()).add(which)
            assert chunk.length <= stack["longest"]
    assert all(len(channels) == 1 for channels in homes.values())
    # Longest first to the least loaded: no channel exceeds the mean by more than a request.
    assert max(found.keys) <= sum(heads) / stack["channels"] + together * max(lengths)


def test_requests_that_are_not_whole_are_refused() -> None:
    """Catches heads that are left over."""
    with pytest.raises(InputError, match="3 heads are no shares of 2 heads each"):
        assign_together([5, 5, 5], together=2, channels=4, longest=256, grain=32)
    with pytest.raises(InputError, match="no heads"):
        assign_together([], together=2, channels=4, longest=256, grain=32)


@given(lengths=LENGTHS, stack=STACKS)
def test_assignment_is_deterministic(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches an order that depends on more than the lengths."""
    assert assign(lengths, **stack).channels == assign(tuple(lengths), **stack).channels


def test_a_lone_head_is_spread_over_the_stack() -> None:
    """Catches one channel that works while fifteen idle."""
    assignment = assign([16_384], channels=16, longest=4096, grain=256)
    assert assignment.keys == (1024,) * 16
    assert assignment.imbalance == 1.0


def test_short_heads_are_not_cut() -> None:
    """Catches cuts that only add commands: a chunk below the grain reads as many columns."""
    assignment = assign([256, 100], channels=16, longest=4096, grain=256)
    assert chunks(assignment) == [Chunk(0, 0, 256), Chunk(1, 0, 100)]
    assert assignment.keys == (256, 100, *[0] * 14)
    assert assignment.imbalance == 256 * 16 / 356


def test_a_head_beyond_the_buffers_is_cut_even_into_one_channel() -> None:
    """Catches a limit that counts only while other channels are idle."""
    assignment = assign([10_000], channels=1, longest=4096, grain=256)
    assert [(c.start, c.length) for c in assignment.channels[0]] == [
        (0, 3584), (3584, 3584), (7168, 2832),
    ]  # fmt: skip


def test_a_million_keys_fit_one_stack() -> None:
    """Catches a head length that the cutting cannot cope with."""
    assignment = assign([2**20], channels=16, longest=4096, grain=256)
    assert assignment.keys == (65_536,) * 16
    assert {chunk.length for chunk in chunks(assignment)} == {4096}


@pytest.mark.parametrize(
    ("length", "heads", "last", "imbalance"),
    [
        (2048, 130, 256, 1.0),  # 130 = 8 x 16 + 2, and 2 heads are 16 times 256 keys
        (3072, 130, 512, 25_088 / 24_960),
        (3072, 17, 256, 3328 / 3264),
        (128, 130, 128, 9 / 8.125),  # too short to be cut
    ],
)
def test_heads_that_are_left_over_are_shared_out(
    length: int, heads: int, last: int, imbalance: float
) -> None:
    """Catches channels with one head more than others, where these could take a part of it."""
    assignment = assign([length] * heads, channels=16, longest=4096, grain=256)
    assert assignment.imbalance == imbalance
    assert assignment.channels[0][-1].length == last


SYSTEMS = st.fixed_dictionaries(
    {
        "stacks": st.sampled_from([1, 2, 5, 40]),
        "channels": st.sampled_from([1, 4, 16]),
        "longest": st.sampled_from([16, 4096]),
        "grain": st.sampled_from([32, 256]),
    }
)
LONG = st.lists(
    st.one_of(st.integers(1, 300), st.integers(1, 20_000), st.integers(1, 2**20)),
    min_size=1,
    max_size=60,
)


@given(lengths=LONG, system=SYSTEMS)
def test_stacks_are_balanced(lengths: list[int], system: dict[str, int]) -> None:
    """Catches lost keys, cuts of heads that are short for a stack, and stacks with too much."""
    assignment = assign_stacks(lengths, **system)
    stacks, channels = system["stacks"], system["channels"]
    grain_of_channel = min(system["grain"], system["longest"])
    grain = channels * grain_of_channel
    assert len(assignment.stacks) == stacks
    parts = [part for stack in assignment.stacks for part in stack]
    assert_all_there(lengths, parts)
    for head, start, length in parts:
        assert start % grain == 0
        assert length == lengths[head] or lengths[head] > grain
    # All keys count, and a quarter of a grain per part.
    each = grain_of_channel // 4
    loads = [sum(part.length + each for part in stack) for stack in assignment.stacks]
    assert max(loads) <= sum(loads) / stacks + 1.5 * grain + 1
    assert assignment.imbalance == max(assignment.keys) * stacks / sum(lengths)

    # And so for the channels of the fullest stack.
    stack = assignment.keys.index(max(assignment.keys))
    own = assignment.lengths(stack)
    inside = assign(own, channels=channels, longest=4096, grain=grain_of_channel)
    assert sum(inside.keys) == assignment.keys[stack]
    counted = [sum(chunk.length + each for chunk in column) for column in inside.channels]
    assert max(counted) <= sum(counted) / channels + 1.5 * grain_of_channel + 1


def test_equal_heads_are_dealt_out_to_stacks_whole() -> None:
    """Catches cuts over stacks where a cut over the channels of one will do."""
    assignment = assign_stacks([3072] * 96, stacks=40, channels=16, longest=4096, grain=256)
    assert sorted(map(len, assignment.stacks)) == [2] * 24 + [3] * 16
    assert assignment.imbalance == 3 / 2.4
    assert assignment.lengths(0) == (3072,) * 3


def test_a_head_too_long_for_a_stack_is_cut_over_stacks() -> None:
    """Catches one stack that works while others idle."""
    assignment = assign_stacks([2**20, 100], stacks=8, channels=16, longest=4096, grain=256)
    assert assignment.imbalance < 1.01
    assert isinstance(assignment, StackAssignment)
    assert {part.length for stack in assignment.stacks for part in stack} == {131_072, 100}


def test_no_heads_and_no_keys_are_refused() -> None:
    """Catches an empty stack, or head, that would divide by zero later."""
    with pytest.raises(InputError, match="there are no heads"):
        assign_stacks([], stacks=2, channels=16, longest=4096, grain=256)
    with pytest.raises(InputError, match="there are no heads"):
        assign([], channels=16, longest=4096, grain=256)
    with pytest.raises(InputError, match="length 0 of head 1 must be at least 1"):
        assign([5, 0], channels=16, longest=4096, grain=256)
