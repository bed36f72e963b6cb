"""Windows whose rows are used in turn, and several new tokens, each with the keys up to its own.

Every case is timed, audited against the timing rules, checked for hazards, and executed on data.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.audit.hazards import check_hazards
from attacc.pim.audit.legality import check
from attacc.pim.log import LoggedCommand
from attacc.pim.mapping.geometry import ChannelChunks, HeadRegions, KeyLayout, stored_rows
from attacc.pim.mapping.residence import Growth, Residence
from attacc.pim.mapping.ring import NewTokens, rotation
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization
from attacc.pim.numerics.formats import Codes
from attacc.pim.numerics.plan import AttentionPlan
from attacc.pim.program.interleaved import interleaved_program
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.stacks import AttentionOfStacks, attend_over
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests import share
from tests.oracle import interleaved as oracle
from tests.pim.audit.test_hazards import said
from tests.pim.numerics.test_execute import Heads, answer, assert_same_bits, expected, narrow
from tests.pim.program.test_interleaved import assert_same

DEVICE = DRAMS.load("hbm3-5.2")
FP16 = ElementType.FP16
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))


def test_a_ring_keeps_the_newest() -> None:
    """Catches a place that is reused too early or too late, and another end of the window."""
    ring = NewTokens(window=5)
    assert [ring.held(tokens) for tokens in (1, 5, 6, 13)] == [1, 5, 5, 5]
    # Of 13 tokens, 8 to 12 are kept; 8 is the oldest, in place 8 mod 5.
    assert [ring.oldest(tokens) for tokens in (1, 5, 6, 10, 13)] == [0, 0, 1, 0, 3]
    assert ring.seen(5) == ((0, 5),)
    # Of three new tokens the first one needs two keys that the last one does not see.
    three = NewTokens(window=5, count=3)
    assert (three.places, three.held(6), three.held(20), three.oldest(20)) == (7, 6, 7, 6)
    assert three.seen(7) == ((0, 5), (1, 6), (2, 7))
    assert three.seen(6) == ((0, 4), (0, 5), (1, 6))
    assert NewTokens(count=2).seen(9) == ((0, 8), (0, 9))
    with pytest.raises(InputError, match="3 new tokens in a request of 2 tokens"):
        three.held(2)
    with pytest.raises(InputError, match="window = 0 must be at least 1"):
        NewTokens(window=0)
    # A chunk that does not hold the oldest key is read from its first key on.
    assert [rotation(100, start, 64, 16) for start in (0, 64, 128)] == [0, 2, 0]


def owned(plan: AttentionPlan) -> list[ChannelChunks]:
    """The chunks of every channel, for the checker."""
    parts = plan.layout.sequence_parts
    return [
        ChannelChunks(
            plan.layout,
            tuple(one.length for one in chunks),
            HeadRegions(regions.keys, regions.values),
            room,
            tuple(rotation(plan.oldest[one.head], one.start, one.length, parts) for one in chunks),
        )
        for chunks, regions, room in zip(plan.chunks, plan.regions, plan.capacities, strict=True)
    ]


def log_of(
    device: DramDevice, placement: Placement, plan: AttentionPlan
) -> tuple[LoggedCommand, ...]:
    """The commands of a plan, from a program built anew; the naive builder makes the same."""
    from attacc.pim.mapping.balance import Assignment

    tables = resolve_timing(
        device, placement, power_limited=True, queries_per_read=plan.passes.most
    )
    fast, naive = (
        build(
            device,
            plan.layout,
            Assignment.of(plan.chunks),
            multiply_interval=tables.multiply_interval,
            queries=plan.passes.queries,
            queries_per_read=plan.passes.most,
            rotations=[one.turned for one in owned(plan)],
        )
        for build in (interleaved_program, oracle.interleaved_program)
    )
    assert_same(fast, naive)
    return run(fast, tables, log=True).log or ()


@pytest.mark.untraced  # of whole stacks: the checkers would take three times as long
@PLACEMENTS
@given(
    tokens=st.lists(
        st.one_of(st.integers(5, 60), st.sampled_from([256, 300, 555, 1111])),
        min_size=1,
        max_size=4,
    ),
    window=st.sampled_from([None, 1, 7, 16, 40, 256, 500]),
    count=st.sampled_from([1, 1, 2, 5]),
    sharing=st.sampled_from([(1, 1), (2, 1), (3, 4)]),
    sizes=st.sampled_from([(64, 64), (96, 40), (576, 512)]),
    normalization=st.sampled_from(Normalization),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=share.examples(__name__, 12, 5))
def test_windows_and_new_tokens_are_timed_legal_and_executed(
    placement: Placement,
    tokens: list[int],
    window: int | None,
    count: int,
    sharing: tuple[int, int],
    sizes: tuple[int, int],
    normalization: Normalization,
    seed: int,
) -> None:
    """Catches keys that are read, hidden or added up at another place than they were written."""
    device = narrow(2, 64)
    queries, per_read = sharing
    head_dim, value_dim = sizes
    if head_dim == 576 and placement is not Placement.BANK:
        per_read = 1
    plan = AttentionPlan.of(
        device, placement, tokens, head_dim, FP16, value_dim=value_dim, window=window,
        query_tokens=count, queries=queries, queries_per_read=per_read,
    )  # fmt: skip
    log = log_of(device, placement, plan)
    audit = check(
        log, device, placement=placement, power_limited=True, queries_per_read=plan.passes.most
    )
    assert audit.violations == ()
    hazards = check_hazards(
        log, device, owned(plan), queries=plan.passes.queries, queries_per_read=plan.passes.most
    )
    assert said(hazards) == ""
    heads = Heads.random(
        plan.lengths, head_dim, queries * count, seed=seed, value_dim=value_dim
    )  # fmt: skip
    arithmetic = Arithmetic(normalization=normalization)
    ours = answer(plan, heads, arithmetic)
    assert ours.complete.all()
    assert_same_bits(ours.context, expected(plan, heads, arithmetic))


def test_token_w_plus_1_lies_in_the_row_of_token_1() -> None:
    """Catches a window that moves through the banks, and keys at another place than that read."""
    window, head_dim = 4 * 16, 64
    device = narrow(1)
    random = np.random.default_rng(5)
    keys = random.standard_normal((window + 1, head_dim))
    full = AttentionPlan.of(device, Placement.BANK, [window], head_dim, FP16, window=window)
    more = AttentionPlan.of(device, Placement.BANK, [window + 1], head_dim, FP16, window=window)
    assert full.regions[0].keys.tolist() == more.regions[0].keys.tolist()
    assert more.lengths == full.lengths == (window,)
    old = full.store([keys[:-1]], [keys[:-1]], Arithmetic()).memory
    new = more.store([keys[1:]], [keys[1:]], Arithmetic()).memory
    assert new.rows_in_use(0).tolist() == old.rows_in_use(0).tolist() == [0, 1]

    def of_place(memory_bits: Codes, place: int) -> list[float]:
        """Elements of a key: its part is a bank group, its number within the part a column."""
        number, part = divmod(place, 16)
        banks = memory_bits[number, 4 * part : 4 * part + 4]  # 4 banks of 16 elements
        return banks.reshape(-1).view(np.float16).tolist()

    before = old.accesses(0, 16)[old.slots[0][0] * 32 :]
    after = new.accesses(0, 16)[new.slots[0][0] * 32 :]
    token_1, token_2, last = (keys[n].astype(np.float16).tolist() for n in (0, 1, window))
    assert of_place(before, 0) == token_1
    assert of_place(after, 0) == last
    assert of_place(before, 1) == of_place(after, 1) == token_2


@PLACEMENTS
@pytest.mark.parametrize("one_copy", [False, True])
def test_requests_with_a_window_keep_their_rows(placement: Placement, *, one_copy: bool) -> None:
    """Catches a request that takes more rows than its window needs, or moves a key."""
    organization = DEVICE.organization.model_copy(update={"channels": 2})
    layout = KeyLayout(
        organization, placement, 192, FP16, value_dim=128, key_slices=3, one_copy=one_copy
    )
    growth = Growth(longest=4096, grain=64, growing=64, quantum=16)
    window = 500
    ring = Residence(
        layout, stacks=1, layers=2, heads=2, growth=growth, tokens=NewTokens(window=window)
    )
    everything = ring.free_bytes
    request = ring.grow(None, window - 1, name="one")
    request = ring.grow(request, window, name="one")
    full, room = ring.free_bytes, request.room
    first = [ring.place(request, head, 0) for head in range(2)]
    for tokens in (window + 1, 2 * window, 2 * window + 7, 40 * window):
        request = ring.grow(request, tokens, name="one")
        assert (ring.free_bytes, request.length, request.room) == (full, window, room)
    assert [ring.place(request, head, window) for head in range(2)] == first
    assert ring.place(request, 0, 7 * window + 300) == ring.place(request, 0, 300)
    taken = sum(chunk.rows.size for chunk in request.chunks())
    kept = Residence(layout, stacks=1, layers=2, heads=2, growth=growth)
    longer = kept.grow(None, 4 * window, name="all")
    assert sum(chunk.rows.size for chunk in longer.chunks()) > taken
    for chunk in request.chunks():
        assert chunk.rows.shape == (2, stored_rows(layout, chunk.capacity))
    ring.free(request)
    assert ring.free_bytes == everything
    with pytest.raises(InputError, match="token 2000 has no place in a request of 2000 keys"):
        kept.place(longer, 0, 4 * window)


@PLACEMENTS
def test_rows_open_in_the_order_of_the_ring(placement: Placement) -> None:
    """Catches a window that is read from its first place on, whatever its oldest token."""
    device, window, head_dim = narrow(1), 4096 if placement is not Placement.BUFFER else 1024, 128
    layout = Stack(device, placement).layout(window, head_dim, FP16)
    half = window // 2
    plan = AttentionPlan.of(device, placement, [window + half], head_dim, FP16, window=window)
    assert (plan.oldest, len(plan.chunks[0])) == ((half,), 1)
    activate = {
        Placement.BANK: "ACTAB", Placement.BANKGROUP: "ACTSB", Placement.BUFFER: "ACTPB",
    }[placement]  # fmt: skip
    log = log_of(device, placement, plan)
    opened = list(dict.fromkeys(one.row for one in log if one.command == activate))
    rows = layout.rows
    assert rows > 1
    scored = [row for row in opened if row < rows]
    assert scored == [*range(rows // 2, rows), *range(rows // 2)]
    # The first row of values in the log is that of the oldest token, too.
    values = [row for row in opened if row >= rows]
    assert sorted(values) == list(range(rows, 2 * rows))
    per_row = layout.organization.columns * layout.banks_in_turn
    assert values[0] == rows + half // layout.sequence_parts // per_row


def counts(found: StackAttention) -> dict[str, int]:
    return {entry.command: entry.count for entry in found.commands}


@PLACEMENTS
def test_a_full_window_takes_what_a_full_context_takes(placement: Placement) -> None:
    """Catches a window that reads more or less than its keys.

    A window that starts within a row opens this row twice, once for each of its ends. Where one
    bank after the other is read, these are at most two activations for each chunk, and their time.
    A window that starts at the first place of a chunk takes the same time.
    """
    stack, window = Stack(DEVICE, placement), 1024
    full = stack.attend(heads=32, length=window)
    for tokens in (window, 2 * window, 7 * window):
        same = stack.attend(heads=32, length=tokens, window=window)
        assert (same.cycles, same.commands, same.keys) == (full.cycles, full.commands, full.keys)
        assert (same.energy, same.window, same.length) == (full.energy, window, window)
    for tokens in (window + 1, window + 160, 3 * window - 1):
        other = stack.attend(heads=32, length=tokens, window=window)
        assert other.kv_bytes == full.kv_bytes
        for name in ("WRGB", "MVSB", "MVGB", "SFM"):
            assert counts(other)[name] == counts(full)[name]
        assert other.read_bytes == full.read_bytes
        if placement is not Placement.BUFFER:
            opened = [
                sum(one.count for one in found.commands if one.command.startswith("ACT"))
                for found in (full, other)
            ]
            assert opened[0] <= opened[1] <= opened[0] + 2 * other.dealt.chunks
        assert full.cycles <= 1.01 * other.cycles
        assert other.cycles <= 1.06 * full.cycles
    short = stack.attend(heads=32, length=500, window=window)
    assert short.cycles == stack.attend(heads=32, length=500).cycles
    assert stack.attend_to([500, 5000], window=window).keys == 500 + window


@PLACEMENTS
def test_new_tokens_share_reads_like_query_heads(placement: Placement) -> None:
    """Catches tokens that read for themselves, and scores that are counted for one token."""
    stack = Stack(DEVICE, placement)
    several = stack.attend(
        heads=32, length=700, queries_per_kv_head=2, query_tokens=3, queries_per_read=2
    )
    shared = stack.attend(heads=96, length=700, queries_per_kv_head=6, queries_per_read=2)
    assert (several.cycles, several.commands) == (shared.cycles, shared.commands)
    assert (several.energy, several.passes) == (shared.energy, 3)
    assert (several.heads, several.query_tokens, shared.query_tokens) == (32, 3, 1)
    assert several.to_dict()["query_tokens"] == 3
    # Three tokens see windows of their own, in a ring of two more places.
    ring = stack.attend(heads=32, length=700, query_tokens=3, window=100)
    assert ring.keys == 32 * 102


def test_stacks_share_out_windows() -> None:
    """Catches rings whose oldest key is lost where heads are dealt out to stacks."""
    stack = Stack(DEVICE, Placement.BANK)

    def attend(heads: int, stacks: int) -> AttentionOfStacks:
        return attend_over(
            stack, [5000] * heads, stacks=stacks, head_dim=128, element=FP16, window=1024,
            query_tokens=2,
        )  # fmt: skip

    two, one = attend(32, 2), attend(16, 1)
    assert [each.cycles for each in two.each if each] == [one.slowest.cycles] * 2
    assert two.slowest == one.slowest
    cut = attend_over(stack, [400_000], stacks=2, head_dim=128, element=FP16, window=200_000)
    assert cut.cut_heads == 1
    assert sum(each.keys for each in cut.each if each) == 200_000
    assert {each.window for each in cut.each if each} == {200_000}


def test_what_no_window_can_be_is_refused() -> None:
    """Catches windows and tokens that are timed as others."""
    stack = Stack(DEVICE, Placement.BANK)
    with pytest.raises(InputError, match="window: 0 is out of range"):
        stack.attend(heads=1, length=10, window=0)
    with pytest.raises(InputError, match="query_tokens: 0 is out of range"):
        stack.attend(heads=1, length=10, query_tokens=0)
    with pytest.raises(InputError, match="4 new tokens in a request of 3 tokens"):
        stack.attend_to([10, 3], query_tokens=4)
    barriers = Stack(DEVICE, Placement.BANK, schedule=Schedule.COMPLETE)
    with pytest.raises(InputError, match="the complete schedule reads no ring"):
        barriers.attend(heads=1, length=10, window=5)
    with pytest.raises(InputError, match="the complete schedule reads no ring"):
        AttentionPlan.of(
            DEVICE, Placement.BANK, [20], 64, FP16, window=5, schedule=Schedule.COMPLETE
        )
