"""The page that walks one head through a stack is what the code prints."""

from pathlib import Path

import numpy as np

from attacc.pim.numerics.execute import ChannelState
from attacc.pim.program.program import Kind
from attacc.report.walkthrough import walk_page
from attacc.study.walkthrough import walk_through

PAGE = Path(__file__).parents[2] / "docs" / "model" / "walk-through.md"


def test_page() -> None:
    """A mapping, an order of issue or an arithmetic changed, that the page still tells otherwise;
    `python benchmarks/walk_through.py --write` renews it."""
    assert PAGE.read_text(encoding="utf-8") == walk_page(walk_through())


def test_states_of_prefixes() -> None:
    """A state that is not that of its command: a later one that acts on an earlier state, or one
    that executes too little."""
    walk = walk_through()
    kinds = walk.issued.kind.tolist()
    assert len(walk.states) == len(kinds) + 1
    names = ("buffers", "sums", "scores", "parts")
    acts_on = {Kind.WRGB: "buffers", Kind.MACAB: "sums", Kind.SFM: "scores", Kind.MVGB: "buffers"}

    def changed(before: ChannelState, after: ChannelState) -> set[str]:
        return {
            name
            for name in names
            if not np.array_equal(getattr(before, name), getattr(after, name))
        }

    half = kinds.index(Kind.SFM)
    for at, kind in enumerate(kinds):
        found = changed(walk.states[at], walk.states[at + 1])
        moved = "scores" if at < half else "parts"
        # Padding, all zeros, is written and moved, too, and changes nothing.
        assert found <= {acts_on.get(Kind(kind), moved)}
    assert not walk.states[0].buffers.any()
    before, after = walk.states[half : half + 2]
    assert np.isnan(before.maxima).all()
    assert not np.isnan(after.maxima).any()
    assert walk.states[-1].arrived.all()


def test_answer_is_near_exact_attention() -> None:
    """A walk of other data than it shows."""
    walk = walk_through(length=48, head_dim=8, seed=5)
    np.testing.assert_allclose(walk.context, walk.exact, atol=2e-3)  # a few roundings to fp16
    stored = walk.arithmetic.operand.from_bits(walk.access(0, 2)[1, 1, 3, 0, :8])
    np.testing.assert_allclose(stored, walk.keys[47], rtol=2**-11)
