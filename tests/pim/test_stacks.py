"""Attention of several stacks at once."""

from math import isclose

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.stacks import AttentionOfStacks, RequestPlacement, attend_over

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


def placed(lengths: list[int], stacks: int, placement: RequestPlacement) -> AttentionOfStacks:
    return attend_over(STACK, lengths, stacks=stacks, head_dim=128, element=FP16, placed=placement)


def test_requests_that_stay_in_a_channel_leave_others_idle() -> None:
    """Catches heads that are cut or spread although their request has a channel.

    4 requests of 8 heads on 2 devices of 2 stacks: every device has 4 heads of each request in one
    channel, two requests a stack. The stack waits for a channel with 4 heads, as if it had 4 heads
    in each of its 16 channels.
    """
    found = placed([1024] * 32, 4, RequestPlacement(heads=8, together=4, devices=2))
    assert [one.kv_heads for one in found.each if one is not None] == [8] * 4
    assert (found.cut_heads, found.parts, found.imbalance) == (0, 32, 1)
    slowest = found.slowest
    assert slowest.dealt.imbalance == 8
    assert slowest.dealt.cut_heads == 0
    full = STACK.attend_to([1024] * 64, head_dim=128, element=FP16, together=4)
    assert isclose(slowest.cycles, full.cycles, rel_tol=0.01)
    free = over([1024] * 32, 4)
    assert slowest.time_ns > 4 * free.time_ns


def test_a_request_with_fewer_heads_than_devices_goes_to_some_of_them() -> None:
    """Catches devices that stay idle: 3 requests of 2 heads take 4 devices in turn."""
    found = placed([500] * 6, 4, RequestPlacement(heads=2, together=1, devices=4))
    assert [one.kv_heads for one in found.each if one is not None] == [2, 2, 1, 1]
    with pytest.raises(InputError, match="5 heads are not those of requests of 2 heads"):
        placed([500] * 5, 4, RequestPlacement(heads=2, together=1, devices=4))


def test_requests_of_other_lengths_go_to_the_emptier_channel() -> None:
    """Catches requests in the order of their arrival: two long ones, each with a channel alone."""
    lengths = [length for length in [200, 3000, 300, 3000] + [100] * 12 for _ in range(2)]
    found = placed(lengths, 1, RequestPlacement(heads=2, together=2, devices=1))
    alone = STACK.attend_to([3000] * 2, head_dim=128, element=FP16, together=2)
    assert isclose(found.time_ns, alone.time_ns, rel_tol=0.01)


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
