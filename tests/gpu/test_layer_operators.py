"""Experts, recurrent states, convolutions and a library's own sums, by hand."""

from math import isclose

import numpy as np
import pytest

from attacc.documents import parse_document
from attacc.errors import DocumentError, InputError
from attacc.gpu.calibrated.coefficients import CALIBRATIONS
from attacc.gpu.calibrated.fused.custom_all_reduce import (
    SumShapes,
    custom_all_reduce_ns,
    sum_times,
)
from attacc.gpu.calibrated.fused.moe import (
    ROWS,
    ExpertMachine,
    ExpertRule,
    ExpertsCoefficients,
    ExpertShapes,
    ExpertTiles,
    expert_times,
    independent_visits,
    started_tiles,
)
from attacc.gpu.calibrated.fused.state import (
    ChunkCoefficients,
    StateRole,
    StateSeries,
    StateShapes,
    StreamCoefficients,
    chunk_times,
    stream_times,
    streamed_bytes,
)
from attacc.hardware.gpu import GPUS
from attacc.models.operators import expected_visits

FAST = 1e18
"""A rate in bytes per second at which nothing takes time."""
MAXIMUM = 500.0
"""A sharpness at which activities overlap entirely."""
NOTHING = 1e-6
"""The smallest number that a document may state."""
MOST = 1e6
"""The largest number that a document may state."""


def experts(visits: float, visited: float, *, here: float = 8, **sizes: float) -> ExpertShapes:
    """Return experts of which each visited one has the same number of rows."""
    each = visits / visited
    tiles = {f"tiles_{rows}": visited * np.ceil(each / rows) for rows in ROWS}
    common = {"tokens": visits, "hidden": 1024, "width": 512, "per_token": 1, "experts": 8}
    return ExpertShapes.of(
        **{**common, "matrices": 3, **sizes}, here=here, visits=visits, visited=visited, **tiles
    )


def machine(cores: float = 100.0, flops: float = 1e9) -> ExpertMachine:
    return ExpertMachine(
        cores, flops, bytes_per_ns=1000.0, l2_bytes=1e12, row_bytes=2.0, weight_bytes=2.0
    )


def coefficients(**changed: float) -> ExpertsCoefficients:
    free = {
        "launch": NOTHING, "divided": NOTHING, "expert": NOTHING, "tile": NOTHING,
        "compute_share": 1.0, "core_load": FAST, "l2_per_core": FAST, "read_share": 1.0,
        "group_tiles": 1.0, "l2_fit": 1.0, "gather_share": MOST, "absent_share": MOST,
        "visit_share": MOST, "sustained_share": 1.0, "sustained_after": 1e9, "sharpness": MAXIMUM,
        "few_rows": NOTHING,
    }  # fmt: skip
    return ExpertsCoefficients.model_validate({**free, **changed})


def time_of(
    shapes: ExpertShapes, of: ExpertsCoefficients, at: ExpertMachine | None = None
) -> float:
    return float(expert_times(shapes, at or machine(), of, ExpertRule())[0][0])


def test_few_rows_read_the_weights_of_visited_experts() -> None:
    """Catches weights of experts that nobody visits, or a matrix that is forgotten.

    Four experts of three matrices of 1,024 x 512 elements of 2 bytes are 12.6 MB, and the rows are
    (1,024 + 1,024) x 2 + (512 + 1,024) x 2 bytes for each of 4 visits: 12.6 us at 1,000 bytes/ns.
    """
    weights = 4 * 3 * 1024 * 512 * 2
    rows = 4 * 2 * ((1024 + 2 * 512) + (512 + 1024))
    assert isclose(time_of(experts(4, 4), coefficients()), (weights + rows) / 1000, rel_tol=1e-3)


def test_two_matrices_read_two_thirds() -> None:
    """Catches experts without a gate that are priced with one."""
    gated, plain = experts(4, 4), experts(4, 4, matrices=2)
    ratio = time_of(plain, coefficients()) / time_of(gated, coefficients())
    assert isclose(ratio, 2 / 3, rel_tol=1e-2)


def test_tiles_are_computed_in_rounds() -> None:
    """Catches padding or rounds that are left out.

    One expert with 1,024 rows on one core of 1 operation/ns: nothing is padded, so that all
    2 x 3 x 1,024 x 1,024 x 512 operations count.
    """
    shapes = experts(1024, 1, here=8)
    time = time_of(shapes, coefficients(), machine(cores=1, flops=1.0))
    assert isclose(time, 2 * 3 * 1024 * 1024 * 512, rel_tol=1e-3)
    # One more row starts one more tile of 16 rows, and none of another expert.
    more = time_of(experts(1025, 1), coefficients(), machine(cores=1, flops=1.0))
    assert isclose(more / time, 1040 / 1024, rel_tol=1e-3)


def test_fixed_times_count_visited_experts_and_divided_layers() -> None:
    """Catches a fixed time that does not grow with experts, or counts on a single GPU."""
    base = time_of(experts(4, 4), coefficients())
    of = coefficients(expert=10.0, launch=100.0, divided=1000.0)
    assert isclose(time_of(experts(4, 4), of) - base, 140.0, rel_tol=1e-6)
    assert isclose(time_of(experts(4, 4, here=4), of) - base, 1140.0, rel_tol=1e-4)


def test_weights_beyond_the_cache_are_read_again() -> None:
    """Catches tiles of rows that find their weights in a cache that is too small.

    256 rows are one tile of 256 rows, and so read the weights once. 2,560 rows are ten, and with a
    cache that holds nothing they read them ten times.
    """
    at = ExpertMachine(1e6, 1e15, 1000.0, 1.0, 2.0, 2.0)
    of = coefficients()
    once, again = experts(256, 1), experts(2560, 1)
    weights = 3 * 1024 * 512 * 2 / 1000
    rows = 2 * ((1024 + 2 * 512) + (512 + 1024)) / 1000
    assert isclose(time_of(once, of, at), weights + 256 * rows, rel_tol=1e-3)
    assert isclose(time_of(again, of, at), 10 * weights + 2560 * rows, rel_tol=1e-3)


def test_default_tiles_follow_the_tokens() -> None:
    """Catches a default configuration of Triton that changes at another number of tokens.

    Up to as many tokens as experts, tiles have 16 rows, else 64. A tuned size takes any.
    """
    at = machine(cores=1, flops=1.0)
    default = ExpertRule(ExpertTiles.TRITON_DEFAULT)
    tuned = ExpertRule(ExpertTiles.TRITON_DEFAULT, ((8, 512),))
    few, many = experts(8, 8), experts(16, 8)
    (few_ns,), (many_ns,) = (
        expert_times(shapes, at, coefficients(), default)[0] for shapes in (few, many)
    )
    assert isclose(many_ns / few_ns, 4.0, rel_tol=1e-3)
    (tuned_ns,) = expert_times(many, at, coefficients(), tuned)[0]
    assert isclose(tuned_ns, few_ns, rel_tol=1e-3)


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("tokens", [1, 40, 3000])
def test_started_tiles_are_those_of_a_binomial(tokens: int, rows: int) -> None:
    """Catches an expectation that is off by a tile; the reference counts every number of visits."""
    chance = 8 / 128
    numbers = np.arange(tokens + 1)
    steps = np.log((tokens - numbers[:-1]) / (numbers[:-1] + 1)) + np.log(chance / (1 - chance))
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + tokens * np.log1p(-chance)
    exact = float(np.sum(np.exp(logs) * np.ceil(numbers / rows)))
    mean = np.array([tokens * chance])
    found = float(started_tiles(mean, np.array([chance]), rows)[0])
    assert isclose(found, exact, rel_tol=0.02)


@pytest.mark.parametrize("skew", [0.0, 0.8])
def test_independent_tokens_visit_as_many_experts_as_expected(skew: float) -> None:
    """Catches visits of this GPU that are those of all GPUs."""
    tokens = np.array([1.0, 16.0, 512.0])
    shapes = independent_visits(
        tokens=tokens, hidden=64, width=64, per_token=4, experts=64, here=16, matrices=3, skew=skew
    )
    expected = np.array([expected_visits(64, 4, float(count), skew) for count in tokens])
    assert np.allclose(shapes.visited, expected / 4, rtol=1e-9)
    assert np.allclose(shapes.visits, tokens * 4 * 16 / 64)
    assert (shapes.tiles_16 >= shapes.visited - 1e-9).all()


def states(**sizes: float) -> StateShapes:
    common = {"batch": 2, "queries": 1, "channels": 1024, "reach": 4, "heads": 4, "key_heads": 2}
    return StateShapes.of(**{**common, "key_dim": 128, "value_dim": 128, **sizes})


def test_bytes_of_states_and_convolutions() -> None:
    """Catches a state that is only read, or columns that are kept for nothing.

    A head's state has 128 x 128 numbers of 4 bytes, read and written. Rows are keys and queries of
    two heads, values and results of four. A convolution keeps three columns.
    """
    each = streamed_bytes(StateRole.RECURRENT, states())
    assert each[0] == 2 * 4 * 128 * 128 * 4 + (2 * 2 + 2 * 4) * 128 * 2
    assert streamed_bytes(StateRole.CONVOLUTION_DECODE, states())[0] == 1024 * (2 + 6) * 2


def test_streams_slow_down_beyond_the_cache() -> None:
    """Catches bytes that stay in the cache however many they are."""
    h100 = GPUS.load("h100")
    of = StreamCoefficients.model_validate(
        {"launch": 1000.0, "row": 10.0, "fast": "10000 GB/s", "memory_share": 1.0, "l2_fit": 1.0}
    )
    each = np.array([1e4])
    small = stream_times(states(batch=1), each, h100, of)[0]
    large = stream_times(states(batch=1e6), each, h100, of)[0]
    assert isclose(small, 1000 + 10 + 1e4 / 1e4, rel_tol=1e-6)
    assert isclose(large, 1010 + 1e10 / (h100.memory_bytes_per_s * 1e-9), rel_tol=1e-3)


def test_chunks_follow_each_other() -> None:
    """Catches chunks of one head that are computed at once, or heads that wait for each other."""
    h100 = GPUS.load("h100")
    of = ChunkCoefficients.model_validate(
        {"launch": 100.0, "block": 7.0, "chunk": 3.0, "memory_share": 1.0, "sharpness": MAXIMUM}
    )
    none = np.zeros(1)
    one = chunk_times(states(batch=1, queries=640), none + 1e-9, h100, of)[0]
    assert isclose(one, 100 + 7 + 10 * 3, rel_tol=1e-6)
    # 4 heads x 66 requests fill the 132 cores twice.
    two = chunk_times(states(batch=66, queries=640), none + 1e-9, h100, of)[0]
    assert isclose(two, 100 + 2 * (7 + 10 * 3), rel_tol=1e-6)


def test_a_series_has_the_coefficients_of_its_role() -> None:
    """Catches a document whose convolution has the coefficients of chunks."""
    series = CALIBRATIONS.load("h100").gated_delta_net[0]
    document = {
        "framework": "x", "version": "1", "points": 1, "error": 0.1, "dtype": "bfloat16",
        "role": "chunks", "range": series.range.model_dump(),
        "stream": {
            "launch": "1 ns", "row": "1 ns", "fast": "1 GB/s", "memory_share": 1.0, "l2_fit": 1.0
        },
    }  # fmt: skip
    with pytest.raises(DocumentError, match="chunks needs chunks"):
        parse_document(StateSeries, document, where="document")


SUMS = np.array([4000.0, 100.0, 100.0, 2000.0, 10_000.0, 500.0, 200.0, 20_000.0, 400.0])


def test_sums_in_one_shot_two_shots_and_by_nccl() -> None:
    """Catches a message that takes the wrong way, or a ring that moves the wrong bytes.

    Of 8 GPUs: 64 KiB in one shot (7 messages are read), 1 MiB in two (7/4 of it), and 64 MiB by
    NCCL's simple protocol. Times are in nanoseconds, rates in bytes per nanosecond.
    """
    sizes = np.array([2.0**16, 2.0**20, 2.0**26])
    shapes = SumShapes.of(gpus=8, message_bytes=sizes)
    own, one = np.full(3, 2.0**23), np.ones(3)
    times = sum_times(shapes, own, (one, one), SUMS, None)
    assert isclose(times[0], 4000 + 700 + 7 * 2**16 / 100, rel_tol=1e-9)
    assert isclose(times[1], 4000 + 700 + 2000 + 1.75 * 2**20 / 100, rel_tol=1e-9)
    assert isclose(times[2], 13_500 + 20_000 + 1.75 * 2**26 / 400, rel_tol=0.01)


def test_the_host_starts_eager_sums() -> None:
    """Catches a short message that is faster than the host that starts it."""
    shapes = SumShapes.of(gpus=2, message_bytes=[1024.0, 2.0**28])
    own, one = np.full(2, 2.0**23), np.ones(2)
    eager = np.array([19_000.0, 1000.0, 40_000.0, 1000.0])
    graph = sum_times(shapes, own, (one, one), SUMS, None)
    times = sum_times(shapes, own, (one, one), SUMS, eager)
    assert isclose(times[0], 20_000.0, rel_tol=0.01)
    assert isclose(times[1], graph[1] + 2**28 / 1000, rel_tol=0.01)


def test_sums_of_an_unknown_number_of_gpus() -> None:
    """Catches a number of GPUs that takes the coefficients of another."""
    series = CALIBRATIONS.load("h100").custom_all_reduce[0]
    with pytest.raises(InputError, match="nothing is known of vLLM"):
        custom_all_reduce_ns(series, SumShapes.of(gpus=16, message_bytes=1024.0))
    with pytest.raises(InputError, match="no size"):
        SumShapes.of(gpus=2, message_bytes=-1.0)
