"""Heads to chunks to channels: everything once, nothing too long, nobody overloaded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.mapping.balance import Assignment, Chunk, assign

STACKS = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([1, 2, 8, 16, 32]),
        "longest": st.sampled_from([256, 1024, 4096]),
        "grain": st.sampled_from([1, 32, 256]),
    }
)
LENGTHS = st.lists(st.one_of(st.integers(1, 300), st.integers(1, 20_000)), min_size=1, max_size=60)


def chunks(assignment: Assignment) -> list[Chunk]:
    return [chunk for channel in assignment.channels for chunk in channel]


@given(lengths=LENGTHS, stack=STACKS)
def test_every_key_goes_to_exactly_one_chunk(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches keys that are lost or attended to twice where a head is cut."""
    assignment = assign(lengths, **stack)
    for head, length in enumerate(lengths):
        end = 0
        for chunk in sorted(
            (chunk for chunk in chunks(assignment) if chunk.head == head),
            key=lambda chunk: chunk.start,
        ):
            assert chunk.start == end
            assert chunk.length >= 1
            end += chunk.length
        assert end == length


@given(lengths=LENGTHS, stack=STACKS)
def test_chunks_keep_their_limits(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches chunks that no buffer holds, and cuts within a group of moves."""
    assignment = assign(lengths, **stack)
    assert len(assignment.channels) == stack["channels"]
    for chunk in chunks(assignment):
        assert chunk.length <= stack["longest"]
        assert chunk.start % stack["grain"] == 0


@given(lengths=LENGTHS, stack=STACKS)
def test_channels_are_balanced(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches any other rule than the longest to the least loaded, and a wrong imbalance."""
    assignment = assign(lengths, **stack)
    dealt = sorted(chunks(assignment), key=lambda c: (-c.length, c.head, c.start))
    channels: list[list[Chunk]] = [[] for _ in range(stack["channels"])]
    for chunk in dealt:
        loads = [sum(c.length for c in channel) for channel in channels]
        channels[loads.index(min(loads))].append(chunk)
    assert assignment.channels == tuple(map(tuple, channels))

    mean = sum(lengths) / stack["channels"]
    assert sum(assignment.keys) == sum(lengths)
    assert assignment.imbalance == max(assignment.keys) * stack["channels"] / sum(lengths)
    # The fullest channel was the least loaded before its last chunk (Graham, 1969).
    assert max(assignment.keys) <= mean + max(c.length for c in dealt)


@given(lengths=LENGTHS, stack=STACKS)
def test_assignment_is_deterministic(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches an order that depends on more than the lengths."""
    assert assign(lengths, **stack) == assign(tuple(lengths), **stack)


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


def test_no_heads_and_no_keys_are_refused() -> None:
    """Catches an empty stack, or head, that would divide by zero later."""
    with pytest.raises(InputError, match="there are no heads"):
        assign([], channels=16, longest=4096, grain=256)
    with pytest.raises(InputError, match="length 0 of head 1 must be at least 1"):
        assign([5, 0], channels=16, longest=4096, grain=256)
