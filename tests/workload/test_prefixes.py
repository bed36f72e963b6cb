"""What prompts share: ids of blocks in columns, and prompts as runs, against plain Python."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.workload.prefixes import PrefixHashes
from attacc.workload.requests import Requests, WorkloadKind

BLOCK = 4


def naive_runs(ids: list[int], prompt: int, request: int) -> list[tuple[int, int]]:
    """Runs of one prompt, block by block."""
    runs: list[tuple[int, int]] = []
    left = prompt
    for one in ids:
        runs.append((one, min(BLOCK, left)))
        left -= BLOCK
    return [*runs, (-1 - request, left)] if left > 0 else runs


@st.composite
def prompts_with_ids(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    prompts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=8))
    ids = [draw(st.lists(st.integers(0, 5), max_size=-(-prompt // BLOCK))) for prompt in prompts]
    return prompts, ids


@given(made=prompts_with_ids())
def test_runs_are_the_blocks_and_the_rest(made: tuple[list[int], list[list[int]]]) -> None:
    """Catches a partial block that counts as full, a rest that is lost, and a run of another."""
    prompts, ids = made
    runs = PrefixHashes.of_lists(ids, BLOCK).runs(np.array(prompts))
    assert len(runs) == len(prompts)
    for request, (prompt, own) in enumerate(zip(prompts, ids, strict=True)):
        assert list(runs.of(request)) == naive_runs(own, prompt, request)
        assert sum(tokens for _, tokens in runs.of(request)) == prompt
    assert runs.tokens.min() >= 1


@given(made=prompts_with_ids(), data=st.data())
def test_some_prompts_keep_their_ids(
    made: tuple[list[int], list[list[int]]], data: st.DataObject
) -> None:
    """Catches ids of a neighbour after requests are sorted, left out or repeated."""
    _, ids = made
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=10))
    taken = PrefixHashes.of_lists(ids, BLOCK).take(np.array(rows, dtype=np.int64))
    assert [taken.of(place) for place in range(len(rows))] == [tuple(ids[row]) for row in rows]
    assert taken.block_tokens == BLOCK


def test_a_negative_id_is_not_taken_for_a_text_of_one_prompt() -> None:
    """Catches an id of -1 in a trace that equals the private text of the first request."""
    hashes = PrefixHashes.of_lists([[-1], [-(2**63)], [-1], []], BLOCK)
    runs = hashes.runs(np.array([4, 4, 6, 2]))
    assert runs.of(0) == ((1, 4),)
    assert runs.of(1) == ((0, 4),)
    assert runs.of(2) == ((1, 4), (-3, 2))
    assert runs.of(3) == ((-4, 2),)


def test_blocks_of_another_size() -> None:
    """Catches ids of blocks of 16 tokens that are taken for blocks of 512."""
    requests = Requests(
        name="r",
        kind=WorkloadKind.TRACE,
        source="test",
        prompt_tokens=np.array([600, 40]),
        output_tokens=np.array([1, 1]),
        prefix_hashes=PrefixHashes.of_lists([[1, 2], [1, 2, 3]]),
    )
    with pytest.raises(
        InputError, match=r"request 1 has 3 ids of blocks, and its 40 tokens are 1 blocks of 512"
    ):
        requests.prompt_runs()
    assert requests.prompt_runs(16).of(1) == ((1, 16), (2, 16), (3, 8))
    assert requests.prompt_runs(16).of(0) == ((1, 16), (2, 16), (-1, 568))
    assert requests.first(1).prompt_runs().of(0) == ((1, 512), (2, 88))
    with pytest.raises(InputError, match="block_tokens: 0 is out of range"):
        requests.prompt_runs(0)
    with pytest.raises(InputError, match="block_tokens: 0 is out of range"):
        PrefixHashes.of_lists([[1]], 0)


def test_prompts_without_ids_share_nothing() -> None:
    """Catches equal prompts that count as the same text."""
    runs = Requests.fixed(100, 7, count=3).prompt_runs()
    assert [runs.of(request) for request in range(3)] == [((-1, 100),), ((-2, 100),), ((-3, 100),)]


def test_a_million_prompts_make_no_object_for_each_block() -> None:
    """Catches runs as tuples: 10 million blocks take 80 MB for each column, and not a GB."""
    requests, blocks = 1_000_000, 10
    hashes = PrefixHashes(
        np.arange(requests * blocks), np.arange(requests + 1) * blocks, block_tokens=512
    )
    runs = hashes.runs(np.full(requests, blocks * 512 - 1))
    columns = (runs.content, runs.tokens, runs.starts)
    assert sum(column.nbytes for column in columns) < 17 * requests * blocks
    assert runs.of(requests - 1)[-1] == (requests * blocks - 1, 511)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("mooncake_fast25_conversation_trace.jsonl.gz", 0.366),
        ("mooncake_fast25_synthetic_trace.jsonl.gz", 0.640),
    ],
)
def test_published_traces_share_what_was_counted_of_them(
    reference: Path, name: str, share: float
) -> None:
    """Catches ids that move to other requests: reference/serving-engines.md, section 4.

    The share of blocks that an earlier request has, too, was counted there from the ids alone, and
    is given to a tenth of a percent. Every prompt has an id for each of its blocks.
    """
    requests = Requests.from_trace(reference / "data" / "traces" / name)
    runs = requests.prompt_runs()
    assert runs.content.min() >= 0
    assert len(runs.content) == (-(-requests.prompt_tokens // 512)).sum()
    hits = 1 - len(np.unique(runs.content)) / len(runs.content)
    assert abs(hits - share) < 0.0005
