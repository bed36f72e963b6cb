"""Programs executed on data, bit for bit against plain NumPy that knows no commands."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.numerics.arithmetic import Arithmetic, Exponential, Normalization, Order
from attacc.pim.numerics.formats import Format, Overflow
from attacc.pim.numerics.plan import AttentionPlan, Contexts
from attacc.pim.numerics.quantize import quantize
from attacc.pim.program.program import Kind
from tests import share
from tests.oracle import attention as oracle

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]

DEVICE = DRAMS.load("hbm3-5.2")
REFERENCE = DRAMS.load("hbm3-5.2-asplos24")
FP16 = ElementType.FP16
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))


def narrow(channels: int, buffer_words: int = 16, device: DramDevice = DEVICE) -> DramDevice:
    """A stack of fewer channels, each with the same share of the buffer die."""
    organization = device.organization.model_copy(update={"channels": channels})
    if device.pipeline is None:
        return device.model_copy(update={"organization": organization})
    share = channels / device.organization.channels
    update = {
        "softmax_lanes": int(device.pipeline.softmax_lanes * share),
        "softmax_buffer_bytes": device.pipeline.softmax_buffer_bytes * share,
        "buffer_words": buffer_words,
    }
    pipeline = device.pipeline.model_copy(update=update)
    return device.model_copy(update={"organization": organization, "pipeline": pipeline})


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of some heads."""

    queries: F64
    keys: list[F64]
    values: list[F64]

    @classmethod
    def random(
        cls, lengths: Sequence[int], head_dim: int, queries: int = 1, seed: int = 0,
        spread: float = 1.0, value_dim: int | None = None, *, one_copy: bool = False,
    ) -> "Heads":  # fmt: skip
        """Normally distributed; with a spread of 2**12 there are subnormals and overflows."""
        random = np.random.default_rng(seed)

        def draw(*shape: int) -> F64:
            return random.standard_normal(shape) * spread ** random.uniform(-1, 1, shape)

        keys = [draw(length, head_dim) for length in lengths]
        if one_copy:
            values = [key[:, : value_dim or head_dim] for key in keys]
        else:
            values = [draw(length, value_dim or head_dim) for length in lengths]
        return cls(draw(len(lengths), queries, head_dim), keys, values)


def answer(plan: AttentionPlan, heads: Heads, arithmetic: Arithmetic) -> Contexts:
    return plan.attend(plan.store(heads.keys, heads.values, arithmetic), heads.queries, arithmetic)


def seen_by(plan: AttentionPlan, head: int, query: int) -> tuple[int, int]:
    """Keys that a query sees: those of its token's window, of which the last is its own."""
    token = query * plan.tokens.count // plan.passes.queries
    end = plan.lengths[head] - plan.tokens.count + token + 1
    return max(0, end - (plan.tokens.window or end)), end


def expected(plan: AttentionPlan, heads: Heads, arithmetic: Arithmetic) -> F32:
    """What the oracle says, told only how heads were cut."""
    o = plan.layout.organization
    device = oracle.Device(
        plan.layout.placement.value, o.pseudo_channels, o.ranks, o.bank_groups, o.banks,
        o.access_bytes, plan.buffer_words,
    )  # fmt: skip
    a = arithmetic
    numbers = oracle.Numbers(
        operand=a.operand, probability=a.probability, multiplier=a.multiplier, adder=a.adder,
        accumulator=a.accumulator, lanes=a.lanes, tree=a.tree, groups=a.groups, score=a.score,
        context=a.context, exponential=a.exponential, table_bits=a.table_bits,
        softmax_lanes=a.softmax_lanes, normalization=a.normalization, merge=a.merge,
        output=a.output, overflow=a.overflow,
    )  # fmt: skip
    attention = oracle.Attention(
        device,
        numbers,
        plan.layout.head_dim,
        plan.layout.value_dim,
        plan.layout.key_slices,
        one_copy=plan.layout.one_copy,
    )
    words = plan.buffer_words // plan.passes.most
    chunks = [
        sorted((one.start, one.length) for own in plan.chunks for one in own if one.head == head)
        for head in range(len(heads.keys))
    ]
    return np.array(
        [
            [
                attention.attend(
                    q, heads.keys[head], heads.values[head], chunks[head],
                    scale=1 / math.sqrt(plan.layout.head_dim), words=words,
                    oldest=plan.oldest[head], seen=seen_by(plan, head, number),
                )
                for number, q in enumerate(queries)
            ]
            for head, queries in enumerate(heads.queries)
        ]
    )  # fmt: skip


def assert_same_bits(ours: F32, theirs: F32) -> None:
    """NaN is NaN; everything else, zeros included, is equal bit by bit."""
    assert ours.shape == theirs.shape
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(
        np.where(nan, np.float32(0), ours).view(np.uint32),
        np.where(nan, np.float32(0), theirs.astype(np.float32)).view(np.uint32),
    )


WIDE = st.sampled_from(
    [
        (Format.FP16, Format.FP16, Format.FP16),
        (Format.FP16, Format.FP16, Format.FP32),
        (Format.FP16, Format.FP32, Format.FP32),
        (Format.BF16, Format.BF16, Format.BF16),
        (Format.BF16, Format.FP32, Format.FP32),
        (Format.FP32, Format.FP32, Format.FP32),
    ]
)
OPERANDS = st.sampled_from(
    [
        (ElementType.FP16, Format.FP16, Format.FP16),
        (ElementType.FP16, Format.FP16, Format.BF16),
        (ElementType.BF16, Format.BF16, Format.BF16),
        (ElementType.BF16, Format.BF16, Format.FP16),
        (ElementType.INT8, Format.INT8, Format.INT8),
        (ElementType.FP8, Format.E4M3, Format.E4M3),
        (ElementType.FP8, Format.E5M2, Format.E4M3),
        (ElementType.FP8, Format.E5M2, Format.E5M2),
    ]
)


@st.composite
def arithmetics(draw: st.DrawFn) -> tuple[ElementType, Arithmetic]:
    element, operand, probability = draw(OPERANDS)
    multiplier, adder, accumulator = draw(WIDE)
    return element, Arithmetic(
        operand=operand,
        probability=probability,
        multiplier=multiplier,
        adder=adder,
        accumulator=accumulator,
        lanes=draw(st.sampled_from([16, 16, 8, 1])),
        tree=draw(st.sampled_from(Order)),
        groups=draw(st.sampled_from(Order)),
        score=draw(st.sampled_from([Format.FP16, Format.BF16])),
        context=draw(st.sampled_from([Format.FP16, Format.BF16])),
        exponential=draw(st.sampled_from(Exponential)),
        table_bits=draw(st.integers(1, 8)),
        softmax_lanes=draw(st.sampled_from([1, 5, 16])),
        normalization=draw(st.sampled_from(Normalization)),
        merge=draw(st.sampled_from(Order)),
        output=draw(st.sampled_from([Format.FP16, Format.BF16, Format.FP32])),
        overflow=draw(st.sampled_from(Overflow)),
    )


@pytest.mark.untraced  # of many random heads: it would take twice as long
@PLACEMENTS
@given(
    arithmetic=arithmetics(),
    lengths=st.one_of(
        st.lists(st.integers(1, 70), min_size=1, max_size=6),
        st.lists(st.sampled_from([1, 16, 31, 257, 700]), min_size=1, max_size=2),
    ),
    head_dim=st.sampled_from([8, 16, 64, 80, 128, 576]),
    value_dim=st.sampled_from([None, None, 8, 40, 128, 300]),
    one_copy=st.booleans(),
    queries=st.sampled_from([(1, 1), (1, 1), (3, 1), (3, 2), (5, 4)]),
    channels=st.sampled_from([1, 2, 4]),
    buffer_words=st.sampled_from([16, 32, 64]),
    spread=st.sampled_from([1.0, 1.0, 16.0, 2.0**12]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=share.examples(__name__, 40, 16))
def test_executed_commands_compute_what_plain_numpy_does(
    placement: Placement,
    arithmetic: tuple[ElementType, Arithmetic],
    lengths: list[int],
    head_dim: int,
    value_dim: int | None,
    one_copy: bool,
    queries: tuple[int, int],
    channels: int,
    buffer_words: int,
    spread: float,
    seed: int,
) -> None:
    """Catches any byte at a wrong place, any sum in another order, any rounding but one."""
    element, numbers = arithmetic
    heads_of_queries, per_read = queries
    device = narrow(channels, buffer_words)
    one_copy = one_copy and (value_dim or 0) <= head_dim
    try:
        plan = AttentionPlan.of(
            device, placement, lengths, head_dim, element, value_dim=value_dim, one_copy=one_copy,
            queries=heads_of_queries, queries_per_read=per_read,
        )  # fmt: skip
    except InputError as error:
        if "half a vector buffer" in str(error) or "addresses of their own" in str(error):
            return
        raise
    if spread > 16 and element is FP16:
        spread = 2.0**7  # so that operands are in the range of fp16
    heads = Heads.random(
        lengths, head_dim, heads_of_queries, seed, spread, value_dim, one_copy=one_copy
    )
    ours = answer(plan, heads, numbers)
    assert ours.complete.all()
    assert_same_bits(ours.context, expected(plan, heads, numbers))


def retimed(device: DramDevice, seed: int) -> DramDevice:
    """The same stack with other latencies: other commands overtake each other."""
    random = np.random.default_rng(seed)
    timing = {
        "nRCDRD": random.integers(8, 25),
        "nRP": random.integers(1, 25),
        "nRAS": random.integers(26, 50),
        "nRC": random.integers(1, 70),
        "nRTPL": random.integers(1, 10),
        "nCCDS": random.integers(1, 5),
        "nCCDL": random.integers(1, 9),
        "nBL": random.integers(1, 4),
        "nREFI": random.choice([5070, 700]),
        "nRFC": random.choice([456, 30]),
    }
    assert device.pipeline is not None
    pipeline = device.pipeline.model_copy(
        update={
            "multiply_to_move": int(random.integers(0, 100)),
            "move_to_softmax": int(random.integers(0, 60)),
            "softmax_passes": int(random.integers(1, 20)),
        }
    )
    changed = device.timing | {name: int(value) for name, value in timing.items()}
    update = {"timing": changed, "pipeline": pipeline, "moves_pass_hits": bool(seed % 2)}
    return device.model_copy(update=update)


@PLACEMENTS
@pytest.mark.parametrize("queries", [(1, 1), (3, 2)])
def test_values_do_not_depend_on_timing(placement: Placement, queries: tuple[int, int]) -> None:
    """Catches a sum in the order of issue, and data told by when a command comes."""
    heads_of_queries, per_read = queries
    device, lengths, head_dim = narrow(2, 16), [520, 70, 33, 300, 9], 64
    heads = Heads.random(lengths, head_dim, heads_of_queries)
    answers: list[F32] = []
    orders: set[bytes] = set()
    for seed in range(6):
        plan = AttentionPlan.of(
            retimed(device, seed) if seed else device, placement, lengths, head_dim, FP16,
            queries=heads_of_queries, queries_per_read=per_read, power_limited=bool(seed % 2),
        )  # fmt: skip
        orders.add(b"".join(one.address.tobytes() for one in plan.issued if one is not None))
        answers.append(answer(plan, heads, Arithmetic()).context)
    assert len(orders) > 1
    for other in answers[1:]:
        assert_same_bits(other, answers[0])


@PLACEMENTS
def test_long_heads_cut_into_chunks_and_phases(placement: Placement) -> None:
    """Catches chunks merged wrongly, and parts of a context that are lost."""
    device = narrow(4, 8)
    plan = AttentionPlan.of(device, placement, [9000, 5000], 64, FP16)
    assert len({chunk.start for own in plan.chunks for chunk in own if chunk.head == 0}) > 1
    assert any(one.probability_words > 8 for one in _layouts(plan))
    heads = Heads.random([9000, 5000], 64)
    for arithmetic in (Arithmetic(), Arithmetic(normalization=Normalization.AFTER)):
        ours = answer(plan, heads, arithmetic)
        assert_same_bits(ours.context, expected(plan, heads, arithmetic))


def _layouts(plan: AttentionPlan) -> list[HeadLayout]:
    return [plan.layout.head(one.length) for own in plan.chunks for one in own]


@PLACEMENTS
@pytest.mark.parametrize(
    ("element", "tolerance"),
    [
        # Some units in the last place of 11, 8 and 8 bits; an int8 has 1/127 of the largest of
        # all values, an e4m3 4 bits, of queries and keys as of probabilities and values.
        (ElementType.FP16, 2.0**-8),
        (ElementType.BF16, 2.0**-6),
        (ElementType.INT8, 2.0**-5),
        (ElementType.FP8, 2.0**-3),
    ],
)
def test_attention_is_attention(
    placement: Placement, element: ElementType, tolerance: float
) -> None:
    """Catches what the oracle shares with the kernel: it compares with float64."""
    lengths, head_dim = [700, 40, 1, 300], 128
    plan = AttentionPlan.of(narrow(2), placement, lengths, head_dim, element)
    heads = Heads.random(lengths, head_dim)
    ours = answer(plan, heads, Arithmetic.of(element))
    for head in range(len(lengths)):
        exact = oracle.exact(
            heads.queries[head], heads.keys[head], heads.values[head], 1 / math.sqrt(head_dim)
        )
        largest = np.abs(heads.values[head]).max()
        assert np.abs(ours.context[head] - exact).max() <= tolerance * largest


def test_fp32_accumulation_is_nearer() -> None:
    """Catches an option without effect."""
    plan = AttentionPlan.of(narrow(1), Placement.BANK, [4000], 128, FP16)
    heads = Heads.random([4000], 128)
    exact = oracle.exact(heads.queries[0], heads.keys[0], heads.values[0], 1 / math.sqrt(128))
    half = answer(plan, heads, Arithmetic()).context[0]
    single = answer(
        plan,
        heads,
        Arithmetic(multiplier=Format.FP32, adder=Format.FP32, accumulator=Format.FP32),
    ).context[0]
    assert np.abs(single - exact).max() < np.abs(half - exact).max() / 2


# Schedules behind barriers.


def dropped(placement: Placement, channels: int, length: int) -> set[int]:
    """Channels whose first head of a pair loses probabilities, by reference/schedule.md.

    The accesses of all channels, channels innermost, are cut into slices of whole numbers.
    """
    on_die = placement is Placement.BUFFER
    parts, places = (2, 1) if on_die else (16, 8)
    words = -(-length // (parts * 16))
    groups = math.ceil(length / parts / 16)
    slices = groups - groups // 2
    items = [(place, word) for place in range(places) for word in range(words)]
    issued = len(items) * channels // slices * slices
    lost: set[int] = set()
    for flat in range(issued, len(items) * channels):
        place, word = items[flat // channels]
        # The first key of the access, of both pseudo-channels; the later ones hold no more.
        if word * 16 * parts + place < length:
            lost.add(flat % channels)
    return lost


def returns_early(plan: AttentionPlan, channel: int, which: int, length: int) -> bool:
    """Whether an access of probabilities returns before the softmax that makes them."""
    o, issued = plan.layout.organization, plan.issued[channel]
    assert issued is not None
    softmax = np.flatnonzero(issued.kind == Kind.SFM)[which]
    in_bank = issued.address - int(plan.regions[channel].values[which])
    place, word = np.divmod(in_bank, o.bank_bytes)
    # Whoever holds no keys gets zeros, sooner or later.
    some_keys = word * 16 * plan.layout.sequence_parts + place // o.banks < length
    returns = (issued.kind == Kind.MVGB) & (word >= 0) & (word < 16) & some_keys
    return bool(returns[:softmax].any())


@PLACEMENTS
@given(
    rounds=st.integers(1, 5),
    some=st.integers(0, 1),
    length=st.one_of(st.integers(1, 500), st.integers(1000, 1300)),
    head_dim=st.sampled_from([64, 80, 128]),
)
@settings(max_examples=share.examples(__name__, 20, 8))
def test_published_schedule_is_wrong_where_the_reference_says(
    placement: Placement, rounds: int, some: int, length: int, head_dim: int
) -> None:
    """The second of a pair is never attended to; who loses accesses is wrong; all else is right.

    But where probabilities return before their softmax, which nothing in the schedule forbids
    (faults 4 and 2 of reference/attacc.md).
    """
    channels = 2
    heads = max(1, rounds * channels - some)
    if placement is Placement.BUFFER and length > 500:
        length //= 3
    lengths = [length] * heads
    try:
        plan = AttentionPlan.of(
            narrow(channels, device=REFERENCE), placement, lengths, head_dim, FP16,
            schedule=Schedule.PUBLISHED,
        )  # fmt: skip
    except InputError as error:
        if "overlap in the banks" in str(error):
            return
        raise
    data = Heads.random(lengths, head_dim)
    ours = answer(plan, data, Arithmetic())
    theirs = expected(plan, data, Arithmetic())
    for head in range(heads):
        which, channel = divmod(head, channels)
        last = -(-heads // channels) - 1
        if which % 2:
            assert not ours.complete[head, 0]
            assert np.isnan(ours.context[head]).all()
            continue
        assert ours.complete[head, 0]
        in_use = min(channels, heads - which * channels)
        paired = which < last
        wrong = paired and channel in dropped(placement, in_use, length)
        wrong |= returns_early(plan, channel, which, length)
        same = np.array_equal(ours.context[head], theirs[head])
        assert same != wrong, (head, length)


def test_published_schedule_loses_probabilities() -> None:
    """Catches a test above that never meets a lost access: 80 accesses in 3 slices."""
    assert dropped(Placement.BANK, 2, 1200) == {0, 1}
    lengths = [1200] * 4
    plan = AttentionPlan.of(
        narrow(2, device=REFERENCE), Placement.BANK, lengths, 64, FP16, schedule=Schedule.PUBLISHED
    )
    data = Heads.random(lengths, 64)
    ours = answer(plan, data, Arithmetic())
    assert ours.complete[:, 0].tolist() == [True, True, False, False]
    assert not np.array_equal(ours.context[:2], expected(plan, data, Arithmetic())[:2])


def test_published_heads_that_overlap_are_refused() -> None:
    """Catches keys written over other keys: rounds are 8 rows apart, 7,000 keys take 28."""
    with pytest.raises(InputError, match="keys of chunk 0 and the keys of chunk 1 overlap in"):
        AttentionPlan.of(
            REFERENCE, Placement.BANK, [7000] * 40, 128, FP16, schedule=Schedule.PUBLISHED
        )


@PLACEMENTS
@given(
    heads=st.integers(1, 9),
    length=st.integers(1, 512),
    head_dim=st.sampled_from([32, 80, 128]),
    element=st.sampled_from([FP16, ElementType.INT8]),
)
@settings(max_examples=share.examples(__name__, 15, 6))
def test_complete_schedule_is_right(
    placement: Placement, heads: int, length: int, head_dim: int, element: ElementType
) -> None:
    """Catches a command too few, or one behind the wrong barrier."""
    plan = AttentionPlan.of(
        narrow(2, device=REFERENCE), placement, [length] * heads, head_dim, element,
        schedule=Schedule.COMPLETE,
    )  # fmt: skip
    data = Heads.random([length] * heads, head_dim)
    arithmetic = Arithmetic.of(element)
    ours = answer(plan, data, arithmetic)
    assert ours.complete.all()
    assert_same_bits(ours.context, expected(plan, data, arithmetic))


def test_a_program_without_a_kind_of_command_is_not_complete_or_wrong() -> None:
    """Catches data that reach the units, the softmax or the host from the side."""
    plan = AttentionPlan.of(narrow(1), Placement.BANK, [40, 50], 64, FP16)
    data = Heads.random([40, 50], 64)
    right = answer(plan, data, Arithmetic()).context
    issued = plan.issued[0]
    assert issued is not None
    for kind in (Kind.WRGB, Kind.MVSB, Kind.MVGB, Kind.SFM, Kind.MACAB):
        keep = issued.kind != kind
        some = replace(
            issued, kind=issued.kind[keep], address=issued.address[keep], cycle=issued.cycle[keep]
        )
        ours = answer(replace(plan, issued=(some,)), data, Arithmetic())
        if kind in (Kind.MVSB, Kind.MACAB):
            assert not ours.complete.any()
        else:
            assert not np.array_equal(ours.context[0], right[0])
            assert not np.array_equal(ours.context[1], right[1])


@PLACEMENTS
def test_attention_reads_the_banks(placement: Placement) -> None:
    """Catches a copy of keys or values beside the modelled banks: one bit is flipped."""
    plan = AttentionPlan.of(narrow(1), placement, [20], 64, FP16)
    data = Heads.random([20], 64)
    stored = plan.store(data.keys, data.values, Arithmetic())
    right = plan.attend(stored, data.queries, Arithmetic()).context
    accesses = stored.memory.accesses(0, 16)
    places = np.argwhere(accesses)
    for at in (places[0], places[-1]):
        accesses[tuple(at)] ^= 0x4000
        wrong = plan.attend(stored, data.queries, Arithmetic()).context
        assert not np.array_equal(wrong, right)
        accesses[tuple(at)] ^= 0x4000


# What is refused.


def test_bad_input_is_named() -> None:
    plan = AttentionPlan.of(narrow(1), Placement.BANK, [20, 30], 64, FP16, queries=2)
    data = Heads.random([20, 30], 64, 2)
    a = Arithmetic()
    stored = plan.store(data.keys, data.values, a)
    with pytest.raises(InputError, match=r"queries have shape \(2, 1, 64\), not \(2, 2, 64\)"):
        plan.attend(stored, data.queries[:, :1], a)
    infinite = data.queries.copy()
    infinite[1, 0, 3] = np.inf
    with pytest.raises(InputError, match=r"queries hold inf at \(1, 0, 3\) \("):
        plan.attend(stored, infinite, a)
    with pytest.raises(InputError, match="scale = -1 must be a positive number"):
        plan.attend(stored, data.queries, a, scale=-1)
    with pytest.raises(InputError, match="keys of 1 heads are given, the plan is for 2"):
        plan.store(data.keys[:1], data.values, a)
    with pytest.raises(InputError, match=r"values of head 1 have shape \(20, 64\), not \(30, 64\)"):
        plan.store(data.keys, [data.values[0]] * 2, a)
    wrong = [data.keys[0], np.full((30, 64), np.nan)]
    with pytest.raises(InputError, match=r"keys of head 1 hold nan at \(0, 0\), and 1919 more"):
        plan.store(wrong, data.values, a)
    with pytest.raises(InputError, match="operands in int8, keys and values are laid out as fp16"):
        plan.store(data.keys, data.values, Arithmetic.of(ElementType.INT8))
    with pytest.raises(InputError, match="keys and values are stored as fp16, not bf16"):
        plan.attend(stored, data.queries, Arithmetic.of(ElementType.BF16))


def test_formats_are_not_mixed() -> None:
    plan = AttentionPlan.of(narrow(1), Placement.BANK, [20], 64, FP16)
    data = Heads.random([20], 64)
    keys = quantize(data.keys[0], Format.FP16, name="keys")
    values = quantize(data.values[0], Format.BF16, name="values")
    with pytest.raises(InputError, match="keys and values are of several formats: bf16, fp16"):
        plan.write([keys], [values])


def test_a_foreign_program_is_refused() -> None:
    """Catches commands whose addresses lie beyond what the channel attends to."""
    small = AttentionPlan.of(narrow(1), Placement.BANK, [20], 64, FP16)
    large = AttentionPlan.of(narrow(1), Placement.BANK, [2000], 64, FP16)
    data = Heads.random([20], 64)
    with pytest.raises(
        InputError, match=r"MACAB in cycle \d+ of channel 0, at 0x[0-9a-f]+: no keys"
    ):
        answer(replace(small, issued=large.issued), data, Arithmetic())


def test_schedules_behind_barriers_take_equal_heads() -> None:
    for lengths, queries in (([20, 30], 1), ([20, 20], 2), ([], 1)):
        with pytest.raises(InputError, match="attends to heads of one length, with one query"):
            AttentionPlan.of(
                REFERENCE, Placement.BANK, lengths, 64, FP16, queries=queries,
                schedule=Schedule.COMPLETE,
            )  # fmt: skip


def test_a_query_beyond_half_a_buffer_is_refused() -> None:
    with pytest.raises(InputError, match="head_dim 512 take 32 accesses, half a vector buffer"):
        AttentionPlan.of(REFERENCE, Placement.BUFFER, [20], 512, FP16, schedule=Schedule.COMPLETE)
