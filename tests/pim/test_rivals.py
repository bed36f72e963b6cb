"""Memories of other makers: commands are legal, use no data too early, and compute attention."""

import pytest

from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.audit import legality
from attacc.pim.audit.hazards import check_hazards
from attacc.pim.mapping.balance import Assignment, assign, assign_together
from attacc.pim.mapping.geometry import ChannelChunks, KeyLayout
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.plan import AttentionPlan
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
    sliced,
)
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests.pim.numerics.test_execute import Heads, answer, assert_same_bits, expected, narrow

RIVALS = [
    # Device, placement, queries a read; heads that stay in a channel.
    ("hbm-pim-2.4", Placement.BANKGROUP, 1, None),
    ("gddr6-aim-16", Placement.BANK, 1, None),
    ("hbm3-5.2-logic-die", Placement.BANKGROUP, 8, None),
    ("neupims-2.0", Placement.BANK, 1, 2),
]
CASES = pytest.mark.parametrize(("name", "placement", "queries", "together"), RIVALS)
FP16 = ElementType.FP16


def of_channels(device: DramDevice, channels: int) -> DramDevice:
    assert device.pipeline is not None
    return narrow(channels, device.pipeline.buffer_words, device)


def dealt(
    device: DramDevice, layout: KeyLayout, lengths: list[int], queries: int, together: int | None
) -> Assignment:
    bins = {
        "channels": device.organization.channels,
        "longest": longest_chunk(device, layout, queries),
        "grain": chunk_grain(layout),
    }
    if together is None:
        return assign(lengths, **bins)
    return assign_together(lengths, together=together, **bins)


def layout_of(device: DramDevice, placement: Placement, queries: int) -> KeyLayout:
    whole = KeyLayout(device.organization, placement, 128, FP16)
    return sliced(device, whole, QueryPasses.of(queries, queries))


@pytest.mark.untraced  # of long logs: the checkers would take three times as long
@CASES
def test_commands_are_legal_and_wait_for_their_data(
    name: str, placement: Placement, queries: int, together: int | None
) -> None:
    """Catches a rule of the device that the engine does not keep, and a buffer that is too small.

    Two heads a channel and two more, refreshed more often so that refreshes fall among them.
    """
    device = DRAMS.load(name)
    timing = device.timing | {"nREFI": device.timing["nREFI"] // 2}
    device = of_channels(device.model_copy(update={"timing": timing}), 4)
    layout = layout_of(device, placement, queries)
    lengths = [900 + 16 * (head // 2 % 5) for head in range(10)]
    assignment = dealt(device, layout, lengths, queries, together)
    tables = resolve_timing(device, placement, power_limited=True, queries_per_read=queries)
    program = interleaved_program(
        device,
        layout,
        assignment,
        multiply_interval=tables.multiply_interval,
        queries=queries,
        queries_per_read=queries,
    )
    timed = run(program, tables, log=True)
    assert timed.log is not None
    log = list(timed.log)
    report = legality.check(
        log,
        device,
        placement=placement,
        power_limited=True,
        postponed_refreshes=1,
        queries_per_read=queries,
    )
    assert report.violations == ()
    assert timed.count("REFab") > 0
    chunks = [ChannelChunks.allocated(layout, own) for own in assignment.lengths]
    found = check_hazards(log, device, chunks, queries=queries, queries_per_read=queries)
    assert found.violations == ()


@CASES
def test_attention_is_computed_bit_by_bit(
    name: str, placement: Placement, queries: int, together: int | None
) -> None:
    """Catches a bank, a unit or a slice of a key that the executor takes for another's."""
    device = of_channels(DRAMS.load(name), 2)
    layout = layout_of(device, placement, queries)
    lengths = [70, 70, 33, 33]
    plan = AttentionPlan.of_assignment(
        device,
        layout,
        dealt(device, layout, lengths, queries, together),
        passes=QueryPasses.of(queries, queries),
    )
    heads = Heads.random(lengths, 128, queries, seed=5)
    numbers = Arithmetic()
    found = answer(plan, heads, numbers)
    assert found.complete.all()
    assert_same_bits(found.context, expected(plan, heads, numbers))
