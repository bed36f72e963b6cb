from math import isclose

from hypothesis import given
from hypothesis import strategies as st

from attacc.system.overlap import basic_overlap, coprocessed_share, head_level_pipelining

TIMES = st.floats(0, 1e9)
HEADS = st.integers(1, 200)


@given(attention=TIMES, transfer=TIMES, heads=HEADS)
def test_basic_overlap_lies_between_full_overlap_and_none(
    attention: float, transfer: float, heads: int
) -> None:
    """Catches a step that beats its longer part, or is slower than without overlap."""
    visible = basic_overlap(attention_ns=attention, transfer_ns=transfer, r=1 / heads)
    slack = 1e-9 * (attention + transfer)
    assert visible <= transfer + slack
    assert attention + visible >= max(attention, transfer) - slack


@given(
    attention=TIMES,
    transfer=TIMES,
    qkv=TIMES,
    projection=TIMES,
    share=st.floats(0, 1),
    heads=HEADS,
)
def test_pipelining_lies_between_full_overlap_and_none(
    attention: float, transfer: float, qkv: float, projection: float, share: float, heads: int
) -> None:
    """Catches negative times, and steps beyond what overlap can give, at any shape of a layer."""
    visible = head_level_pipelining(
        attention_ns=attention,
        transfer_ns=transfer,
        qkv_ns=qkv,
        projection_ns=projection,
        qkv_share=share,
        r=1 / heads,
    )
    slack = 1e-9 * (attention + transfer + qkv + projection)
    assert -slack <= visible.qkv_ns <= qkv + slack
    assert -slack <= visible.projection_ns <= projection + slack
    assert -slack <= visible.transfer_ns <= transfer + slack
    total = attention + visible.transfer_ns + visible.qkv_ns + visible.projection_ns
    assert total >= max(attention, transfer, qkv + projection) - slack


def test_a_single_head_overlaps_nothing() -> None:
    """Catches overlap within one head, which would need results before their operands."""
    visible = head_level_pipelining(
        attention_ns=5.0, transfer_ns=1.0, qkv_ns=3.0, projection_ns=1.0, qkv_share=0.75, r=1.0
    )
    assert (visible.transfer_ns, visible.qkv_ns, visible.projection_ns) == (1.0, 3.0, 1.0)


def test_each_case_hides_what_the_longest_stage_covers() -> None:
    """Catches exchanged cases: attention, weights, or transfers as the longest stage."""

    def visible(attention: float, transfer: float) -> tuple[float, float, float]:
        v = head_level_pipelining(
            attention_ns=attention,
            transfer_ns=transfer,
            qkv_ns=6.0,
            projection_ns=2.0,
            qkv_share=0.75,
            r=0.25,
        )
        return float(v.transfer_ns), float(v.qkv_ns), float(v.projection_ns)

    assert visible(attention=10.0, transfer=4.0) == (1.0, 1.5, 0.5)
    assert visible(attention=10.0, transfer=12.0) == (4.5, 1.5, 0.5)
    assert visible(attention=4.0, transfer=1.0) == (0.25, 3.75, 1.25)
    assert visible(attention=4.0, transfer=16.0) == (13.0, 1.5, 0.5)


def test_a_short_projection_leaves_the_rest_to_qkv() -> None:
    """Catches a negative projection where its share exceeds it, as with few key/value heads."""
    v = head_level_pipelining(
        attention_ns=10.0, transfer_ns=1.0, qkv_ns=11.0, projection_ns=1.0, qkv_share=0.5, r=0.1
    )
    assert v.projection_ns == 0.0
    assert isclose(v.qkv_ns + v.projection_ns, 12.0 - 9.0)


@given(
    compute_bound=st.booleans(),
    rows=st.integers(1, 1000),
    weight_bytes=st.sampled_from([0.5, 1.0, 2.0]),
    ratio=st.floats(0.1, 20),
)
def test_coprocessing_shares_a_product(
    compute_bound: bool, rows: int, weight_bytes: float, ratio: float
) -> None:
    """Catches a share outside 0 to 1, or one that leaves one side waiting for the other."""
    peak, bandwidth = 312e12, 3352e9
    share = coprocessed_share(
        compute_bound=compute_bound,
        rows=rows,
        weight_bytes=weight_bytes,
        peak_flops_per_s=peak,
        memory_bytes_per_s=bandwidth,
        internal_bytes_per_s=ratio * bandwidth,
    )
    assert 0 < share < 1
    if compute_bound:
        on_gpu, on_attacc = (1 - share) / peak, share / (2 * ratio * bandwidth / weight_bytes)
    else:
        on_gpu, on_attacc = 1 - share, share * rows / ratio
    assert isclose(on_gpu, on_attacc, rel_tol=1e-9)
