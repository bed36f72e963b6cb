"""Attention of several stacks at once."""

from math import isclose

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.stacks import AttentionOfStacks, attend_over

STACK = Stack(
    DRAMS.load("hbm3-5.2"), Placement.BANK, power_limited=True, schedule=Schedule.INTERLEAVED
)
BARRIERS = Stack(
    DRAMS.load("hbm3-5.2-asplos24"), Placement.BANK, power_limited=True, schedule=Schedule.COMPLETE
)
FP16 = ElementType.FP16


def over(
    lengths: list[int], stacks: int, *, queries: int = 1, stack: Stack = STACK
) -> AttentionOfStacks:
    return attend_over(
        stack, lengths, stacks=stacks, head_dim=128, element=FP16, queries_per_kv_head=queries
    )


def alone(lengths: list[int], *, queries: int = 1, stack: Stack = STACK) -> StackAttention:
    return stack.attend_to(lengths, head_dim=128, element=FP16, queries_per_kv_head=queries)


def test_one_stack_is_a_stack() -> None:
    """Catches a second way to attend that answers differently."""
    found = over([100, 3000, 20], 1, queries=3)
    assert found.each == (alone([100, 3000, 20], queries=3),)
    assert (found.slowest, found.imbalance, found.cut_heads) == (found.each[0], 1, 0)


def test_equal_stacks_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches minutes of work for a rack of equal stacks."""
    asked: list[tuple[int, ...]] = []
    attend_to = Stack.attend_to

    def counted(stack: Stack, lengths: tuple[int, ...], **options: object) -> StackAttention:
        asked.append(lengths)
        return attend_to(stack, lengths, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Stack, "attend_to", counted)
    found = over([512] * 16 * 64, 64)
    assert asked == [(512,) * 16]
    assert len(found.each) == 64
    assert found.imbalance == 1
    assert isclose(found.energy_pj, 64 * found.slowest.energy.total_pj)


def test_the_slowest_stack_is_told() -> None:
    """Catches a stack that others do not wait for, and keys that are lost on the way."""
    found = over([4096] * 5 + [100] * 7, 3)
    times = [one.time_ns for one in found.each if one is not None]
    assert found.time_ns == max(times) == times[found.slowest_index]
    assert found.slowest is found.each[found.slowest_index]
    held = [one.keys for one in found.each if one is not None]
    assert sum(held) == 5 * 4096 + 700
    assert isclose(found.imbalance, max(held) / (sum(held) / 3))


def test_a_long_head_is_cut_over_stacks() -> None:
    """Catches seven stacks that wait for one."""
    found = over([2**20], 8, queries=2)
    assert (found.cut_heads, found.imbalance) == (1, 1)
    assert found.slowest == alone([2**17], queries=2)
    assert found.slowest.heads == 2


def test_stacks_without_heads_idle() -> None:
    """Catches a stack that attends to nothing, or energy of one that does not."""
    found = over([16], 3)
    assert [one is None for one in found.each] == [False, True, True]
    assert (found.imbalance, found.slowest_index) == (3, 0)
    assert found.energy_pj == found.slowest.energy.total_pj


def test_barriers_deal_whole_heads_out_in_turn() -> None:
    """Catches heads that are cut for a schedule that cannot merge them."""
    found = over([4096] * 5, 2, stack=BARRIERS)
    assert [one.heads for one in found.each if one is not None] == [3, 2]
    assert (found.cut_heads, found.imbalance) == (0, 1.2)
    assert found.each[0] == alone([4096] * 3, stack=BARRIERS)
    with pytest.raises(InputError, match="attends to heads of one length"):
        over([5, 6, 7], 2, stack=BARRIERS)


@pytest.mark.parametrize(
    ("lengths", "message"), [([], "no heads"), ([5, 0, 3], "lengths: 0 is out of range")]
)
@pytest.mark.parametrize("stacks", [1, 2])
def test_heads_without_keys_are_refused(lengths: list[int], stacks: int, message: str) -> None:
    """Catches heads that take no time."""
    with pytest.raises(InputError, match=message):
        over(lengths, stacks)
