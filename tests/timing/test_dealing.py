"""The dealer: forecasts as its twin, and no choice that loses to another one that it has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.mapping.balance import Assignment, Chunk, assign, ways
from attacc.mapping.head import HeadLayout
from attacc.models.precision import ElementType
from attacc.program.interleaved import QueryPasses, chunk_grain, interleaved_program, longest_chunk
from attacc.timing.dealing import Dealer
from attacc.timing.engine import run
from attacc.timing.tables import resolve_timing
from tests.oracle.dealing import Expected

DEVICES = {name: DRAMS.load(name) for name in ("hbm3-5.2", "hbm4-8.0", "gddr6-aim-14")}
"""The first and second have rules by AttAcc's names; all have pipelines."""


def dealer(
    name: str,
    placement: Placement,
    queries: int = 1,
    queries_per_read: int = 1,
    head_dim: int = 128,
    element: ElementType = ElementType.FP16,
) -> Dealer:
    device = DEVICES[name]
    passes = QueryPasses.of(queries, queries_per_read)
    return Dealer(
        device,
        HeadLayout(device.organization, placement, 1, head_dim, element),
        resolve_timing(device, placement, power_limited=True, queries_per_read=passes.most),
        passes,
    )


def cycles_of(one: Dealer, assignment: Assignment) -> int:
    program = interleaved_program(
        one.device,
        one.layout,
        assignment,
        multiply_interval=one.tables.multiply_interval,
        queries=one.passes.queries,
        queries_per_read=one.passes.most,
    )
    return run(program, one.tables).cycles


def opening(name: str, placement: Placement) -> int:
    """What `Expected` asks for, from the timing of a device by name."""
    timing = DEVICES[name].timing
    if placement is Placement.BANK:
        return timing["nRTPL"] + timing["nRP"] + timing["nRCDRD"]
    return max(timing["nRRDS"], -(-timing["nFAW"] // 4))


@given(
    chunks=st.lists(st.integers(1, 600), min_size=1, max_size=6),
    name=st.sampled_from(["hbm3-5.2", "hbm4-8.0"]),
    placement=st.sampled_from(list(Placement)),
    queries=st.sampled_from([(1, 1), (3, 1), (2, 2), (3, 2)]),
    head_dim=st.sampled_from([64, 128]),
)
@settings(max_examples=60)
def test_the_forecast_is_that_of_the_twin(
    chunks: list[int],
    name: str,
    placement: Placement,
    queries: tuple[int, int],
    head_dim: int,
) -> None:
    """Catches a phase, a row or a wait that is left out, or counted twice."""
    one = dealer(name, placement, *queries, head_dim)
    expected = Expected(
        one.device,
        one.layout,
        one.tables.multiply_interval,
        opening(name, placement),
        one.tables.moves_apart,
        one.passes.each,
    )
    assignment = Assignment.of([[Chunk(0, 0, length) for length in chunks]])
    assert one.forecast(assignment) == expected.channel(chunks)
    shortest = [Chunk(0, 0, min(chunks))]
    both = Assignment.of([shortest, [Chunk(0, 0, length) for length in chunks], []])
    assert one.forecast(both) == max(
        expected.channel(chunks), expected.channel([min(chunks)])
    )
