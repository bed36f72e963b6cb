from dataclasses import astuple
from math import isclose

from hypothesis import given
from hypothesis import strategies as st

from attacc.gpu.published.tiles import search_tiles
from tests.oracle.published_tiles import Search, search

BYTES = st.sampled_from([0.5, 1.0, 2.0])


def compiled(s: Search) -> tuple[float, float, float, float]:
    sizes = float(s.m), float(s.n), float(s.k), float(s.count)
    return search_tiles(
        *sizes, s.left, s.right, s.out, int(s.fc), float(s.cores), s.l1_bytes, s.l2_bytes
    )


@given(
    st.builds(
        Search,
        m=st.integers(1, 700),
        n=st.integers(1, 700),
        k=st.integers(1, 20_000),
        count=st.integers(1, 300),
        left=BYTES,
        right=BYTES,
        out=BYTES,
        fc=st.booleans(),
        cores=st.integers(1, 150),
        l1_bytes=st.floats(2048, 300_000),
        l2_bytes=st.floats(64, 2_000_000),
    )
)
def test_the_kernel_finds_what_the_plain_search_finds(s: Search) -> None:
    """Catches a wrong candidate, tie, or limit, above all in the search over rows only."""
    for value, expected in zip(compiled(s), astuple(search(s)), strict=True):
        assert isclose(value, expected, rel_tol=1e-12)


def test_an_exactly_filled_l2_counts_as_fitting() -> None:
    """Catches a limit that is off by one tile where a tile fills the cache to the byte."""
    tile = Search(64, 64, 6400, 1, 2.0, 2.0, 2.0, True, 1, 2048.0, 0.0)
    for sides in (16, 32, 48):
        full = 2 * (2 * sides * 100 + sides * sides)
        exact = Search(*astuple(tile)[:-1], l2_bytes=float(full))
        assert compiled(exact)[1] == search(exact).l2_tile_bytes


def test_without_room_the_l1_tile_is_used_in_l2_too() -> None:
    """Catches a search that finds nothing where the second-level cache is very small."""
    tiny = Search(100, 100, 100_000, 3, 2.0, 2.0, 2.0, True, 10, 200_000.0, 1.0)
    _, l2_tile_bytes, l1_tile_bytes, _ = compiled(tiny)
    assert l2_tile_bytes == l1_tile_bytes
