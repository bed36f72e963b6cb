"""The compiled dealer against the one with lists and a heap."""

from hypothesis import given
from hypothesis import strategies as st

from attacc.pim.mapping.balance import assign, assign_stacks
from tests.oracle.balance import deal
from tests.pim.mapping.test_balance import LENGTHS, STACKS


@given(lengths=LENGTHS, stack=STACKS)
def test_channels_get_the_chunks_of_the_twin(lengths: list[int], stack: dict[str, int]) -> None:
    """Catches another deal, other cuts, or another order, with and without what evens out."""
    channels, longest, grain = stack["channels"], stack["longest"], stack["grain"]
    share = -(-sum(lengths) // channels)
    limit = min(longest, -(-share // grain) * grain)
    expected = deal(lengths, channels, limit, grain, overhead=grain // 4)
    found = assign(lengths, **stack)
    assert found.channels == expected
    assert found.lengths == tuple(tuple(c.length for c in own) for own in expected)


@given(lengths=LENGTHS, stack=STACKS, stacks=st.integers(1, 50))
def test_stacks_get_the_heads_of_the_twin(
    lengths: list[int], stack: dict[str, int], stacks: int
) -> None:
    """Catches the same where heads are dealt out to stacks."""
    grain = min(stack["grain"], stack["longest"])
    whole = stack["channels"] * grain
    share = -(-sum(lengths) // stacks)
    limit = -(-share // whole) * whole
    expected = deal(lengths, stacks, limit, whole, overhead=grain // 4)
    assert assign_stacks(lengths, stacks=stacks, **stack).stacks == expected
