from math import isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.system.stack import Stack, StackAttention

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
BANK, BANKGROUP, BUFFER = Placement
STACKS = {
    (placement, schedule): Stack(DEVICE, placement, True, schedule)
    for placement in Placement
    for schedule in (Schedule.COMPLETE, Schedule.PUBLISHED)
}


def attend(
    heads: int,
    length: int,
    placement: Placement = BANK,
    schedule: Schedule = Schedule.COMPLETE,
    head_dim: int = 128,
    element: ElementType = ElementType.FP16,
) -> StackAttention:
    stack = STACKS[placement, schedule]
    return stack.attend(heads=heads, length=length, head_dim=head_dim, element=element)


def test_the_published_schedule_takes_the_golden_cycles() -> None:
    """Catches a stack that hands its device, cadence or schedule on wrongly."""
    stack = Stack(DEVICE, BANK, True, Schedule.PUBLISHED)
    found = stack.attend(heads=1, length=17, head_dim=64, element=ElementType.FP16)
    assert found.cycles == 105
    fast = Stack(DEVICE, BANK, False, Schedule.PUBLISHED)
    found = fast.attend(heads=1, length=200, head_dim=128, element=ElementType.FP16)
    assert found.cycles == 293


@pytest.mark.parametrize(("placement", "parts"), [(BANK, 16), (BANKGROUP, 16), (BUFFER, 2)])
@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.PUBLISHED])
def test_lengths_that_fill_the_same_columns_take_the_same_commands(
    placement: Placement, parts: int, schedule: Schedule
) -> None:
    """Catches a shape that is timed as another one, and a length that leaves its columns."""
    full = attend(20, 6 * parts, placement, schedule)
    for length in (5 * parts + 1, 6 * parts - 1):
        found = attend(20, length, placement, schedule)
        assert (found.cycles, found.commands) == (full.cycles, full.commands)
        assert found.kv_bytes < full.kv_bytes
        assert found.energy.softmax_pj < full.energy.softmax_pj
        fresh = Stack(DEVICE, placement, True, schedule)
        again = fresh.attend(heads=20, length=length, head_dim=128, element=ElementType.FP16)
        assert again == found, "a remembered result and a fresh one differ"
    assert attend(20, 6 * parts + 1, placement, schedule).cycles > full.cycles


@given(
    placement=st.sampled_from(list(Placement)),
    heads=st.integers(1, 40),
    length=st.integers(1, 700),
    head_dim=st.integers(1, 160),
    element=st.sampled_from(list(ElementType)),
)
@settings(max_examples=30)
def test_bandwidths_and_bytes(
    placement: Placement, heads: int, length: int, head_dim: int, element: ElementType
) -> None:
    """Catches units, keys and values counted twice or once, and more than the units can read."""
    found = attend(heads, length, placement, Schedule.COMPLETE, head_dim, element)
    assert found.time_ns == found.cycles * 0.769
    assert found.kv_bytes == 2 * heads * length * head_dim * element.bits / 8
    assert isclose(found.achieved_bytes_per_s, found.kv_bytes / (found.time_ns * 1e-9))
    assert found.read_bytes >= found.kv_bytes
    assert found.read_bytes / (found.time_ns * 1e-9) < found.internal_bytes_per_s
    assert found.internal_bytes_per_s == DEVICE.internal_bytes_per_s(placement, power_limited=True)
    assert found.external_bytes_per_s == DEVICE.external_bytes_per_s
    counts = {entry.command: entry.count for entry in found.commands}
    assert counts["SFM"] == heads


def test_a_full_stack_keeps_the_time_of_its_rows_and_refreshes_only() -> None:
    """Catches time that is lost between multiplies, rounds or heads.

    By hand: a row gives 32 multiplies of 6 cycles, and changing it takes nRTPL + nRP + nRCD - 6
    = 40; a refresh takes 456 of every 5070 cycles. Within 1 %, since the first query, the last
    context and the precharges around refreshes are left out of this.
    """
    found = attend(128, 4096)
    by_hand = 192 / (192 + 40) * (1 - 456 / 5070)
    assert isclose(found.achieved_bytes_per_s / found.internal_bytes_per_s, by_hand, rel_tol=0.01)


def test_results_tell_what_was_asked() -> None:
    """Catches results that cannot be told apart."""
    found = attend(3, 40, BUFFER, Schedule.COMPLETE, 96, ElementType.INT8)
    assert (found.device, found.placement, found.power_limited, found.schedule) == (
        "hbm3-5.2-asplos24", BUFFER, True, Schedule.COMPLETE,
    )  # fmt: skip
    assert (found.heads, found.length, found.head_dim, found.element) == (
        3, 40, 96, ElementType.INT8,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "length", "message"),
    [
        (0, 10, "heads = 0 must be at least 1"),
        (1, 0, "length = 0 must be at least 1"),
        (11_000, 3072, "at most 682 such heads fit into a channel, 10912 into a stack"),
    ],
)
def test_impossible_sizes_are_refused(heads: int, length: int, message: str) -> None:
    """Catches a size that is timed as if it were possible."""
    with pytest.raises(InputError, match=message):
        attend(heads, length)
