"""Bounds of the cost of attending to selected keys."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.audit.hazards import Hazard, check_hazards
from attacc.pim.audit.legality import check
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import ChannelChunks, KeyLayout, allocate_chunks
from attacc.pim.numerics.execute import ChannelShape
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
)
from attacc.pim.selection import selection_bounds
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests.oracle import interleaved as oracle
from tests.pim.audit.test_hazards import said
from tests.pim.numerics.test_execute import narrow
from tests.pim.program.test_interleaved import assert_same

DEVICE = DRAMS.load("hbm3-5.2")
FP16 = ElementType.FP16
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))


@pytest.mark.untraced  # of whole stacks: the checkers would take three times as long
@PLACEMENTS
@given(
    lengths=st.lists(st.sampled_from([1, 16, 17, 100, 300]), min_size=1, max_size=4),
    apart=st.sampled_from([2, 3, 16, 50]),
    queries=st.sampled_from([(1, 1), (3, 2)]),
    one_copy=st.booleans(),
)
@settings(max_examples=8)
def test_keys_that_lie_apart_are_read_legally(
    placement: Placement,
    lengths: list[int],
    apart: int,
    queries: tuple[int, int],
    one_copy: bool,
) -> None:
    """Catches reads of other keys than the selected ones, and rows that are read while closed."""
    device = narrow(2)
    layout = KeyLayout(
        device.organization, placement, 96, FP16, value_dim=64, key_slices=1, one_copy=one_copy
    )
    assignment = assign(
        lengths,
        channels=2,
        longest=longest_chunk(device, layout, queries[1]),
        grain=chunk_grain(layout),
    )
    tables = resolve_timing(device, placement, power_limited=True, queries_per_read=queries[1])
    fast, naive = (
        build(
            device,
            layout,
            assignment,
            multiply_interval=tables.multiply_interval,
            queries=queries[0],
            queries_per_read=queries[1],
            apart=apart,
        )
        for build in (interleaved_program, oracle.interleaved_program)
    )
    assert_same(fast, naive)
    log = run(fast, tables, log=True).log or ()
    audit = check(log, device, placement=placement, power_limited=True, queries_per_read=queries[1])
    assert audit.violations == ()
    parts = layout.sequence_parts
    chunks = [
        ChannelChunks(layout, own, allocate_chunks(layout, room), room, None, apart)
        for own in assignment.lengths
        for room in [tuple(-(-one // parts) * parts * apart for one in own)]
    ]
    hazards = check_hazards(
        log, device, chunks, queries=queries[0], queries_per_read=queries[1]
    )  # fmt: skip
    assert said(hazards) == ""
    # Whoever takes other keys for selected ones finds reads of nothing, if there are two keys.
    if max(lengths) > parts:
        other = [
            ChannelChunks(layout, one.lengths, one.regions, one.room, None, apart + 1)
            for one in chunks
        ]
        wrong = check_hazards(
            log, device, other, queries=queries[0], queries_per_read=queries[1]
        )  # fmt: skip
        assert wrong.count(Hazard.NOWHERE) > 0


def counts(found: StackAttention) -> dict[str, int]:
    return {entry.command: entry.count for entry in found.commands}


@PLACEMENTS
def test_the_ends_are_what_the_positions_of_keys_say(placement: Placement) -> None:
    """Catches ends in the wrong order, and keys that are read more or less often than they must.

    The least: as if no other keys were stored. The most: one read in all parts, and one row of
    keys, for each selected key.
    """
    stack = Stack(DEVICE, placement)
    multiply, activate = {
        Placement.BANK: ("MACAB", "ACTAB"),
        Placement.BANKGROUP: ("MACSB", "ACTSB"),
        Placement.BUFFER: ("MACPB", "ACTPB"),
    }[placement]
    found = selection_bounds(stack, heads=16, length=32_768, selected=64)
    assert found.clustered == stack.attend(heads=16, length=64)
    layout = stack.layout(1, 128, FP16)
    assert counts(found.scattered)[multiply] == 16 * 64 * 2 * layout.columns_per_key
    assert found.scattered.keys == 16 * 64 * layout.sequence_parts
    assert found.scattered.cycles > 2 * found.clustered.cycles
    if placement is Placement.BANK:
        # A row of keys for each selected key, and a row of values for each of its two slices.
        assert counts(found.scattered)[activate] >= 16 * 64 * 3
    # As many selected keys as there are places in each part: all keys are read.
    everything = stack.attend(heads=16, length=4096)
    most = selection_bounds(stack, heads=16, length=4096, selected=4096 // layout.sequence_parts)
    assert most.scattered.cycles == everything.cycles
    assert most.scattered.commands == everything.commands
    more = selection_bounds(stack, heads=16, length=4096, selected=4096)
    assert more.clustered.commands == more.scattered.commands == everything.commands
    document = found.to_dict()
    assert (document["stored"], document["selected"]) == (32_768, 64)
    assert [row["selection"] for row in found.table_rows()] == ["clustered", "scattered"]


def test_what_cannot_be_selected_is_refused() -> None:
    """Catches a selection that is timed as another one."""
    stack = Stack(DEVICE, Placement.BANK)
    with pytest.raises(InputError, match="11 keys are selected of 10"):
        selection_bounds(stack, heads=1, length=10, selected=11)
    with pytest.raises(InputError, match="selected: 0 is out of range"):
        selection_bounds(stack, heads=1, length=10, selected=0)
    with pytest.raises(InputError, match="3 query heads cannot share keys and values by 2"):
        selection_bounds(stack, heads=3, length=10, selected=1, queries_per_kv_head=2)
    with pytest.raises(InputError, match=r"need .* rows of every bank"):
        selection_bounds(stack, heads=16, length=2**25, selected=64)
    barriers = Stack(DEVICE, Placement.BANK, schedule=Schedule.COMPLETE)
    with pytest.raises(InputError, match="the complete schedule reads all keys"):
        selection_bounds(barriers, heads=16, length=1000, selected=10)
    layout = KeyLayout(DEVICE.organization, Placement.BANK, 64, FP16)
    chunks = ChannelChunks(layout, (16,), allocate_chunks(layout, [64]), (64,), None, 4)
    with pytest.raises(InputError, match="selected keys are timed, and not executed"):
        ChannelShape.of(chunks, QueryPasses.of(1, 1), 16, paired=True)
