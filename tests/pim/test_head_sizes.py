"""Values of another size than keys, and keys that are cut over their elements, on whole stacks.

Every case is timed, audited against the timing rules, checked for hazards, and executed on data.
"""

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.audit.legality import check
from attacc.pim.mapping.geometry import KeyLayout, rows_of, rows_of_values
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.plan import AttentionPlan
from attacc.pim.program.interleaved import QueryPasses, sliced
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.stacks import attend_over
from tests import share
from tests.pim.audit.test_hazards import interleaved, said
from tests.pim.numerics.test_execute import Heads, answer, assert_same_bits, expected, narrow

DEVICE = DRAMS.load("hbm3-5.2")
FP16 = ElementType.FP16
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))
SIZES = pytest.mark.parametrize(
    ("head_dim", "value_dim", "queries", "per_read", "key_slices", "one_copy"),
    share.cases(
        __name__,
        [
            (64, 128, 1, 1, None, False),
            (192, 128, 3, 1, None, False),
            (96, 8, 3, 2, None, False),
            (576, 512, 4, 1, None, False),
            (576, 512, 5, 4, 9, False),
            (1000, 300, 1, 1, None, False),
            (576, 512, 4, 1, None, True),
            (576, 512, 5, 4, 9, True),
            (128, 128, 1, 1, None, True),
            (320, 24, 3, 2, 5, True),
        ],
        5,
    ),
    ids=str,
)


def counts(found: StackAttention) -> dict[str, int]:
    return {entry.command: entry.count for entry in found.commands}


@pytest.mark.untraced  # of whole stacks: the checkers would take three times as long
@PLACEMENTS
@SIZES
def test_heads_of_any_sizes_are_timed_legal_and_executed(
    placement: Placement,
    head_dim: int,
    value_dim: int,
    queries: int,
    per_read: int,
    key_slices: int | None,
    one_copy: bool,
) -> None:
    """Catches a level that takes values for keys, or a slice for a key, and the others do not."""
    device, lengths = narrow(2), [520, 33, 7]
    played = interleaved(
        device, placement, lengths, head_dim, FP16, queries=queries, queries_per_read=per_read,
        value_dim=value_dim, key_slices=key_slices, one_copy=one_copy,
    )  # fmt: skip
    audit = check(
        played.log, device, placement=placement, power_limited=True, queries_per_read=per_read
    )
    assert audit.violations == ()
    hazards = played.report()
    assert said(hazards) == ""
    assert hazards.commands == played.program.requests
    plan = AttentionPlan.of(
        device, placement, lengths, head_dim, FP16, value_dim=value_dim, key_slices=key_slices,
        one_copy=one_copy, queries=queries, queries_per_read=per_read,
    )  # fmt: skip
    heads = Heads.random(lengths, head_dim, queries, value_dim=value_dim, one_copy=one_copy)
    ours = answer(plan, heads, Arithmetic())
    assert ours.context.shape == (3, queries, value_dim)
    assert ours.complete.all()
    assert_same_bits(ours.context, expected(plan, heads, Arithmetic()))


@PLACEMENTS
@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.PUBLISHED])
def test_schedules_behind_barriers_take_values_of_their_own_size(
    placement: Placement, schedule: Schedule
) -> None:
    """Catches values that only the interleaved schedule tells from keys."""
    device = narrow(1, device=DRAMS.load("hbm3-5.2-asplos24"))
    plan = AttentionPlan.of(device, placement, [70], 64, FP16, value_dim=128, schedule=schedule)
    heads = Heads.random([70], 64, value_dim=128)
    ours = answer(plan, heads, Arithmetic())
    assert ours.complete.all()
    assert_same_bits(ours.context, expected(plan, heads, Arithmetic()))


@PLACEMENTS
def test_values_of_their_own_size_read_what_they_hold(placement: Placement) -> None:
    """Catches reads, bytes and rows of values that are counted as keys.

    A key of 64 and a value of 128 elements take as much together as a key and a value of 96.
    """
    stack = Stack(DEVICE, placement)
    found = stack.attend(heads=16, length=2048, head_dim=64, value_dim=128)
    multiply = {
        Placement.BANK: "MACAB", Placement.BANKGROUP: "MACSB", Placement.BUFFER: "MACPB",
    }[placement]  # fmt: skip
    layout = KeyLayout(DEVICE.organization, placement, 64, FP16, value_dim=128)
    per_key = -(-64 // (layout.dimension_parts * 16)), -(-128 // (layout.dimension_parts * 16))
    assert counts(found)[multiply] == 16 * 2048 // layout.sequence_parts * sum(per_key)
    assert found.kv_bytes == 16 * 2048 * (64 + 128) * 2
    assert found.to_dict()["value_dim"] == 128
    assert rows_of_values(layout, 2048) == 2 * rows_of(layout, 2048)
    other = stack.attend(heads=16, length=2048, head_dim=128, value_dim=64)
    assert counts(other)[multiply] == counts(found)[multiply]
    assert other.kv_bytes == found.kv_bytes
    if placement is not Placement.BANK:  # where both fill whole accesses of every bank
        both = stack.attend(heads=16, length=2048, head_dim=96)
        assert (both.kv_bytes, both.read_bytes) == (found.kv_bytes, found.read_bytes)
        assert both.cycles == pytest.approx(found.cycles, rel=0.02)


@PLACEMENTS
@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.INTERLEAVED])
def test_a_value_dim_that_is_the_head_dim_changes_nothing(
    placement: Placement, schedule: Schedule
) -> None:
    """Catches a default that is another model than none."""
    stack = Stack(DEVICE, placement, schedule=schedule)
    plain = stack.attend(heads=40, length=300, head_dim=96)
    assert stack.attend(heads=40, length=300, head_dim=96, value_dim=96) == plain
    assert stack.attend(heads=40, length=300, head_dim=96, key_slices=1) == plain
    two = attend_over(stack, [300] * 40, stacks=2, head_dim=96, element=FP16, value_dim=96)
    assert two == attend_over(stack, [300] * 40, stacks=2, head_dim=96, element=FP16)


def test_a_latent_head_is_cut_where_the_buffers_need_it() -> None:
    """Catches a head of 576 elements that is refused, or cut into other slices than needed.

    A unit at bank holds a quarter of the head, 9 accesses; at bankgroup and buffer it holds all 36,
    and half a vector buffer 16: three slices of 12 accesses.
    """
    for placement, slices, width in (
        (Placement.BANK, 1, 9), (Placement.BANKGROUP, 3, 12), (Placement.BUFFER, 3, 12),
    ):  # fmt: skip
        stack = Stack(DEVICE, placement)
        found = stack.attend(
            heads=128, length=1024, head_dim=576, value_dim=512, queries_per_kv_head=128
        )
        assert (found.key_slices, found.kv_heads, found.passes) == (slices, 1, 128)
        assert stack.layout(1, 576, FP16).columns_per_slice == width
    layout = KeyLayout(DEVICE.organization, Placement.BANK, 576, FP16)
    four = sliced(DEVICE, layout, QueryPasses.of(128, 4), key_slices=3)
    assert (four.columns_per_slice, four.columns_per_key) == (3, 9)


@PLACEMENTS
def test_one_copy_stores_half_and_reads_what_two_copies_do(placement: Placement) -> None:
    """Catches a copy that is counted twice, and a context that reads other columns than it needs.

    In slices of one access the columns of the values are the first of the keys.
    """
    stack, columns = Stack(DEVICE, placement), 9 if placement is Placement.BANK else 36

    def attend(*, one_copy: bool, key_slices: int | None = None) -> StackAttention:
        return stack.attend(
            heads=32, length=2048, head_dim=576, value_dim=512, queries_per_kv_head=2,
            key_slices=key_slices, one_copy=one_copy,
        )  # fmt: skip

    one, two = (attend(one_copy=which, key_slices=columns) for which in (True, False))
    assert (one.cycles, one.commands, one.energy) == (two.cycles, two.commands, two.energy)
    assert (one.kv_bytes, two.kv_bytes) == (16 * 2048 * 576 * 2, 16 * 2048 * 1088 * 2)
    assert one.to_dict()["one_copy"] is True
    # In wider slices the context opens rows for every column of a slice. At buffer, where 32 banks
    # take turns, such a column lies in few of them.
    wide = attend(one_copy=True)
    opened = [
        sum(count for name, count in counts(found).items() if name.startswith("ACT"))
        for found in (attend(one_copy=False), wide)
    ]
    assert (opened[1] > 1.2 * opened[0]) == (placement is not Placement.BUFFER)
    with pytest.raises(InputError, match="value_dim = 600: keys of 576 elements do not hold"):
        stack.attend(heads=1, length=10, head_dim=576, value_dim=600, one_copy=True)


def test_values_that_are_part_of_the_keys_are_stored_once() -> None:
    """Catches values that take rows of their own, and values that no key holds."""
    plan = AttentionPlan.of(
        narrow(1), Placement.BANK, [100], 64, FP16, value_dim=48, one_copy=True
    )  # fmt: skip
    heads = Heads.random([100], 64, value_dim=48, one_copy=True)
    memory = plan.store(heads.keys, heads.values, Arithmetic()).memory
    rows = memory.slots[0][memory.rows_in_use(0)].tolist()
    assert rows == [1, 1]  # two numbers of one row
    with pytest.raises(InputError, match="values of a head are not the first elements of its keys"):
        plan.store(heads.keys, [heads.values[0] + 1], Arithmetic())


@PLACEMENTS
def test_slices_cost_their_moves_and_additions(placement: Placement) -> None:
    """Catches partial scores that move, or are added, for nothing."""
    stack = Stack(DEVICE, placement)

    def attend(key_slices: int) -> StackAttention:
        return stack.attend(heads=16, length=1024, head_dim=128, key_slices=key_slices)

    whole, halves = attend(1), attend(2)
    layout = KeyLayout(DEVICE.organization, placement, 128, FP16)
    groups = -(-1024 // layout.sequence_parts // 16)
    places = 1 if placement is Placement.BUFFER else 8
    chunks = halves.dealt.chunks
    assert chunks == whole.dealt.chunks == 64
    of_a_chunk = -(-groups * 16 // chunks)
    assert counts(halves)["MVSB"] - counts(whole)["MVSB"] == chunks * of_a_chunk * places
    for name in ("WRGB", "MVGB", "SFM"):
        assert counts(halves)[name] == counts(whole)[name]
    assert halves.read_bytes == whole.read_bytes
    added = halves.energy.softmax_pj - whole.energy.softmax_pj
    assert added == pytest.approx(whole.energy.softmax_pj / 5, rel=1e-12)


def test_impossible_sizes_of_heads_are_refused() -> None:
    """Catches sizes that are timed as others."""
    stack = Stack(DEVICE, Placement.BANKGROUP)
    with pytest.raises(InputError, match="value_dim: 0 is out of range"):
        stack.attend(heads=1, length=10, value_dim=0)
    with pytest.raises(InputError, match="key_slices: 0 is out of range"):
        stack.attend_to([10], key_slices=0)
    with pytest.raises(InputError, match=r"key_slices = 7: .* leaves no slice empty"):
        stack.attend(heads=1, length=10, key_slices=7)  # of 8 accesses: the 5th would be empty
    with pytest.raises(InputError, match=r"head_dim 576 takes? 18 accesses.*more key_slices"):
        stack.attend(heads=1, length=10, head_dim=576, key_slices=2)
    barriers = Stack(DEVICE, Placement.BANK, schedule=Schedule.COMPLETE)
    with pytest.raises(InputError, match="the complete schedule does not cut keys"):
        barriers.attend(heads=1, length=10, key_slices=2)


@PLACEMENTS
def test_narrow_elements_cost_what_the_unit_forms_of_them(placement: Placement) -> None:
    """Catches a level that multiplies 8 bits at the cadence of 16, on a unit without wider ones."""
    assert DEVICE.pipeline is not None
    plain = DEVICE.pipeline.model_copy(update={"products_8_bits": 16})
    device = DEVICE.model_copy(update={"pipeline": plain})
    wide, narrow_units = Stack(DEVICE, placement), Stack(device, placement)

    def attend(stack: Stack, element: str, per_read: int) -> StackAttention:
        return stack.attend(
            heads=32, length=2048, element=element, queries_per_kv_head=2,
            queries_per_read=per_read,
        )  # fmt: skip

    for per_read in (1, 2):
        assert attend(narrow_units, "fp16", per_read) == attend(wide, "fp16", per_read)
        found, before = (attend(stack, "int8", per_read) for stack in (narrow_units, wide))
        # 16 products of 32 elements take 2 cycles of 666 MHz for a query: 3.9 of 5.2 Gb/s.
        assert found.multiply_interval == max(before.multiply_interval, 4 * per_read)
        assert found.cycles >= before.cycles
        assert found.energy.multiply_pj == before.energy.multiply_pj
    assert found.cycles > 1.05 * before.cycles
    played = interleaved(
        device, placement, [300, 20], element=ElementType.INT8, queries=2, queries_per_read=2
    )
    audit = check(
        played.log, device, placement=placement, power_limited=True, queries_per_read=2,
        element_bits=8,
    )  # fmt: skip
    assert audit.violations == ()
    assert said(played.report()) == ""
