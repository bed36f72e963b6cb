"""The radix tree of SGLang against sets of prefixes, and what it gives up first."""

from hypothesis import given
from hypothesis import strategies as st

from attacc.serving.engines.policy import Request
from attacc.serving.engines.radix import RadixTree, Segment, sequence

Prefix = tuple[tuple[int, int], ...]


def key(*runs: tuple[int, int]) -> list[Segment]:
    """A sequence from (content, tokens)."""
    return [Segment((0, content), 0, tokens) for content, tokens in runs]


def names(segments: list[Segment]) -> Prefix:
    """Tokens one by one."""
    return tuple((s.content[1], token) for s in segments for token in range(s.first, s.end))


def cut(segments: list[Segment], at: int) -> list[Segment]:
    """The same tokens, with each segment cut in two where it is long enough."""
    found: list[Segment] = []
    for content, first, end in segments:
        if end - first > at:
            found += [Segment(content, first, first + at), Segment(content, first + at, end)]
        else:
            found.append(Segment(content, first, end))
    return found


def keys() -> st.SearchStrategy[list[Segment]]:
    """Sequences that begin alike."""
    run = st.tuples(st.integers(0, 2), st.integers(1, 5))
    runs = st.lists(run, min_size=1, max_size=4).map(lambda found: key(*found))
    return st.builds(cut, runs, st.integers(1, 4))


@given(st.lists(st.tuples(st.booleans(), keys()), max_size=12))
def test_the_tree_holds_every_prefix_once(turns: list[tuple[bool, list[Segment]]]) -> None:
    """Catches a match that is too short or too long, and tokens lost or doubled by a split.

    Sequences with the same tokens are cut into segments at different places.
    """
    tree = RadixTree()
    held: set[Prefix] = set()
    for enters, segments in turns:
        tokens = names(segments)
        prefixes = [tokens[:end] for end in range(1, len(tokens) + 1)]
        found, _ = tree.insert(segments) if enters else tree.match(segments)
        assert found == sum(prefix in held for prefix in prefixes)
        if enters:
            held.update(prefixes)
        assert tree.tokens == tree.evictable == len(held)
    assert tree.evict(len(held) + 1) == len(held)
    assert tree.tokens == tree.evictable == 0


def test_the_leaf_that_was_matched_longest_ago_goes_first() -> None:
    """Catches an order by age, a leaf that goes in part, and a parent that goes before its leaf."""
    tree = RadixTree()
    for end in (1, 2, 3):
        tree.insert(key((0, 10), (end, 5)))
    tree.match(key((0, 10), (1, 5)))
    assert tree.evict(1) == 5
    assert tree.match(key((0, 10), (2, 5)))[0] == 10
    assert tree.evict(6) == 10
    assert tree.match(key((0, 10), (1, 5)))[0] == 10
    assert tree.evict(1) == 10


def test_locked_tokens_stay() -> None:
    """Catches a node that is given up under a request, also after others have split it."""
    tree = RadixTree()
    _, node = tree.insert(key((0, 20)))
    tree.lock(node)
    tree.insert(key((0, 8), (1, 4)))
    assert (tree.tokens, tree.evictable) == (24, 4)
    assert tree.evict(100) == 4
    assert tree.match(key((0, 20)))[0] == 20
    tree.unlock(node)
    assert tree.evictable == 20
    assert tree.evict(1) == 12
    assert tree.evict(1) == 8


def test_many_matches_of_a_cached_leaf_take_no_memory() -> None:
    """Catches notes of leaves that pile up while the tree does not grow."""
    tree = RadixTree()
    tree.insert(key((0, 4)))
    for _ in range(1000):
        tree.match(key((0, 4)))
    assert tree.noted < 100
    assert tree.evict(1) == 4


def test_a_request_is_its_prompt_and_then_its_outputs() -> None:
    """Catches outputs or private prompts that two requests seem to share."""
    shared = Request(3, 0, 30, 5, ((7, 20), (8, 10)))
    assert sequence(shared, 24) == [Segment((0, 7), 0, 20), Segment((0, 8), 0, 4)]
    assert names(sequence(shared, 32))[:30] == names(key((7, 20), (8, 10)))
    private, other = Request(7, 0, 20, 5), Request(8, 0, 20, 5)
    assert sequence(private, 0) == []
    pairs = [sequence(shared, 32), sequence(private, 22), sequence(other, 22)]
    tree = RadixTree()
    assert [tree.insert(one)[0] for one in pairs] == [0, 0, 0]
