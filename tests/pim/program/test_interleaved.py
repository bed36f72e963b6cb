"""The interleaved program: all of the work, in places of its own, in an order that can be served.

That it is right in time is for `tests/pim/audit/test_hazards.py`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.balance import Assignment, Chunk, assign
from attacc.pim.mapping.geometry import HeadLayout, KeyLayout, allocate_chunks
from attacc.pim.program.interleaved import (
    chunk_grain,
    interleaved_program,
    longest_chunk,
    softmax_cycles,
)
from attacc.pim.program.program import MULTIPLY, Dependences, Kind, Program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests import share
from tests.oracle import interleaved as oracle

DEVICE = DRAMS.load("hbm3-5.2")
FP16, INT8 = ElementType.FP16, ElementType.INT8
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))
BANK, BANK_GROUP, RANK = 1 << 24, 1 << 26, 1 << 28
ROW_BYTES = 1024

SHAPES = {
    "lengths": st.one_of(
        st.lists(st.integers(1, 50), min_size=1, max_size=40),
        st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    ),
    "head_dim": st.sampled_from([64, 80, 128, 256]),
    "element": st.sampled_from([FP16, INT8]),
}


def with_pipeline(**update: float) -> DramDevice:
    assert DEVICE.pipeline is not None
    return DEVICE.model_copy(update={"pipeline": DEVICE.pipeline.model_copy(update=update)})


def build(
    placement: Placement,
    lengths: Sequence[int],
    head_dim: int = 128,
    element: ElementType = FP16,
    device: DramDevice = DEVICE,
    *,
    queries: int = 1,
    queries_per_read: int = 1,
) -> tuple[Program, Dependences, Assignment]:
    layout = KeyLayout(device.organization, placement, head_dim, element)
    assignment = assign(
        lengths,
        channels=device.organization.channels,
        longest=longest_chunk(device, layout, queries_per_read),
        grain=chunk_grain(layout),
    )
    program = interleaved_program(
        device,
        layout,
        assignment,
        multiply_interval=6,
        queries=queries,
        queries_per_read=queries_per_read,
    )
    assert program.dependences is not None
    return program, program.dependences, assignment


PIPELINES: st.SearchStrategy[dict[str, float]] = st.fixed_dictionaries(
    {},
    optional={
        "write_to_multiply": st.integers(0, 60),
        "multiply_to_move": st.integers(0, 100),
        "move_to_softmax": st.integers(0, 100),
        "softmax_to_move": st.integers(0, 50),
        "softmax_lanes": st.sampled_from([1, 100, 256]),
        "softmax_passes": st.integers(1, 20),
        "buffer_words": st.sampled_from([16, 20, 32]),
    },
)


def assert_same(fast: Program, naive: Program) -> None:
    """Compare two programs step by step."""
    assert fast.dependences is not None
    assert naive.dependences is not None
    for name in ("kind", "address", "first_channel", "channels"):
        assert np.array_equal(getattr(fast, name), getattr(naive, name)), name
    assert fast.dependences.events == naive.dependences.events
    for name in ("waits", "signals", "delays"):
        ours, theirs = getattr(fast.dependences, name), getattr(naive.dependences, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs), name


@pytest.mark.untraced  # of the naive program most of all
@PLACEMENTS
@given(pipeline=PIPELINES, interval=st.integers(1, 70), queries=st.integers(1, 20), **SHAPES)
@settings(max_examples=share.examples(__name__, 60, 24))
def test_compiled_program_is_the_naive_one(
    placement: Placement,
    pipeline: dict[str, float],
    interval: int,
    queries: int,
    lengths: list[int],
    head_dim: int,
    element: ElementType,
) -> None:
    """Catches any step that the compiled builder writes elsewhere, or ties otherwise."""
    device = with_pipeline(**pipeline)
    layout = KeyLayout(device.organization, placement, head_dim, element)
    most = int(device.pipeline.buffer_words) // layout.columns_per_key if device.pipeline else 1
    for queries_per_read in {1, min(2, most), most}:
        assignment = assign(
            lengths,
            channels=16,
            longest=longest_chunk(device, layout, queries_per_read),
            grain=chunk_grain(layout),
        )
        fast, naive = (
            build(
                device,
                layout,
                assignment,
                multiply_interval=interval,
                queries=queries,
                queries_per_read=queries_per_read,
            )
            for build in (interleaved_program, oracle.interleaved_program)
        )
        assert_same(fast, naive)


@PLACEMENTS
@given(
    spare=st.sampled_from([0, 0, 1, 100]),
    queries=st.sampled_from([(1, 1), (3, 2), (5, 4)]),
    sizes=st.sampled_from([(64, 128), (192, 128), (48, 8), (576, 512), (320, 72)]),
    one_copy=st.booleans(),
    lengths=SHAPES["lengths"],
    element=SHAPES["element"],
)
@settings(max_examples=share.examples(__name__, 30, 12))
def test_compiled_program_of_heads_of_any_sizes_is_the_naive_one(
    placement: Placement,
    spare: int,
    queries: tuple[int, int],
    sizes: tuple[int, int],
    one_copy: bool,
    lengths: list[int],
    element: ElementType,
) -> None:
    """Catches values laid out like keys, and slices of keys in another order or another place."""
    head_dim, value_dim = sizes
    whole = KeyLayout(
        DEVICE.organization, placement, head_dim, element, value_dim=value_dim,
        one_copy=one_copy and value_dim <= head_dim,
    )  # fmt: skip
    layout = replace(whole, key_slices=-(-whole.columns_per_key // (16 // queries[1])))
    assignment = assign(
        lengths,
        channels=16,
        longest=longest_chunk(DEVICE, layout, queries[1]),
        grain=chunk_grain(layout),
    )
    fast, naive = (
        build(
            DEVICE,
            layout,
            assignment,
            multiply_interval=6,
            queries=queries[0],
            queries_per_read=queries[1],
            capacities=[[length + spare for length in own] for own in assignment.lengths],
        )
        for build in (interleaved_program, oracle.interleaved_program)
    )
    assert_same(fast, naive)


@PLACEMENTS
@given(
    spare=st.lists(st.sampled_from([0, 0, 1, 15, 16, 100, 700]), min_size=40, max_size=40),
    queries=st.integers(1, 3),
    **SHAPES,
)
@settings(max_examples=share.examples(__name__, 30, 12))
def test_compiled_program_of_chunks_with_room_is_the_naive_one(
    placement: Placement,
    spare: list[int],
    queries: int,
    lengths: list[int],
    head_dim: int,
    element: ElementType,
) -> None:
    """Catches values that lie as far apart as there are keys, not as there is room for."""
    layout = KeyLayout(DEVICE.organization, placement, head_dim, element)
    assignment = assign(
        lengths, channels=16, longest=longest_chunk(DEVICE, layout), grain=chunk_grain(layout)
    )
    rooms: list[list[int]] = [
        [chunk.length + spare[(which + channel) % 40] for which, chunk in enumerate(own)]
        for channel, own in enumerate(assignment.channels)
    ]
    fast, naive = (
        build(
            DEVICE, layout, assignment, multiply_interval=6, queries=queries, capacities=rooms
        )
        for build in (interleaved_program, oracle.interleaved_program)
    )  # fmt: skip
    assert_same(fast, naive)


def test_a_chunk_without_room_for_its_keys_is_refused() -> None:
    layout = KeyLayout(DEVICE.organization, Placement.BANK, 64, FP16)
    assignment = Assignment.of(((Chunk(0, 0, 5),), *[()] * 15))
    none: list[list[int]] = [[]] * 15
    for rooms, message in (
        ([[4], *none], "chunk 0 of channel 0 has 5 keys, and room for 4"),
        ([[], *none], "room for .* chunks per channel is given"),
    ):
        with pytest.raises(InputError, match=message):
            interleaved_program(
                DEVICE, layout, assignment, multiply_interval=6, capacities=rooms
            )  # fmt: skip


def of_channel(program: Program, channel: int) -> list[int]:
    """Steps that a channel receives, in order."""
    first = program.first_channel.astype(int)
    own = (first <= channel) & (channel < first + program.channels)
    return np.flatnonzero(own).tolist()


def expected(
    placement: Placement,
    chunks: Sequence[Chunk],
    head_dim: int,
    element: ElementType,
    passes: Sequence[int],
) -> Counter[tuple[Kind, int]]:
    """Every command of a channel, written out from the mapping of a head.

    Chunks lie one after the other, the keys of each before its values, and are read once for the
    queries of each pass. Half a vector buffer of 16 words holds the probabilities of all of them.
    """
    share = 16 // max(passes)
    n = 32 // element.bytes
    parts = 2 if placement is Placement.BUFFER else 16
    commands: Counter[tuple[Kind, int]] = Counter()
    row = 0
    for chunk in chunks:
        keys_per_part = -(-chunk.length // parts)
        columns = -(-head_dim // int((4 if placement is Placement.BANK else 1) * n))
        words = -(-chunk.length // int(parts * n))
        in_turn = {Placement.BANK: 1, Placement.BANKGROUP: 4, Placement.BUFFER: 32}[placement]
        rows = -(-keys_per_part * columns // (32 * in_turn))
        k, v = row * ROW_BYTES, (row + rows) * ROW_BYTES
        row += 2 * rows
        for x in range(keys_per_part * columns):
            if placement is Placement.BANK:
                address = 32 * x
            elif placement is Placement.BANKGROUP:
                address = x // 128 * ROW_BYTES + x // 32 % 4 * BANK + x % 32 * 32
            else:
                address = x // 32 * 32 + x // 8 % 4 * BANK + x % 4 * BANK_GROUP + x // 4 % 2 * RANK
            commands[MULTIPLY[placement], k + address] += len(passes)
            commands[MULTIPLY[placement], v + address] += len(passes)
        groups = [
            rank * RANK + group * BANK_GROUP
            for rank in range(2)
            for group in range(4)
            if placement is not Placement.BUFFER
        ] or [0]
        ranks = [0, RANK] if placement is not Placement.BUFFER else [0]
        banks = [bank * BANK for bank in range(4)] if placement is Placement.BANK else [0]
        for queries in passes:
            commands[Kind.SFM, k] += queries
            for word in range(queries * columns):
                for bank in banks:
                    commands[Kind.WRGB, k + bank + word] += 1
            for group in groups:
                commands[Kind.MVSB, k + group] += queries * -(-keys_per_part // 16)
                for part, first in enumerate(range(0, words, share)):
                    for word in range(queries * min(share, words - first)):
                        commands[Kind.MVGB, v + group + 16 * part + word] += 1
            # A slice is summed up, and moved, once per half a buffer of probabilities.
            for rank in ranks:
                for bank in banks:
                    commands[Kind.MVSB, v + rank + bank] += queries * columns * -(-words // share)
    return commands


@PLACEMENTS
@given(sharing=st.sampled_from([(1,), (1, 1, 1), (4,), (3, 2)]), **SHAPES)
@settings(max_examples=share.examples(__name__, 20, 8))
def test_every_command_is_there_exactly_once(
    placement: Placement,
    sharing: tuple[int, ...],
    lengths: list[int],
    head_dim: int,
    element: ElementType,
) -> None:
    """Catches commands that are dropped, repeated, or sent to another channel or place."""
    layout = KeyLayout(DEVICE.organization, placement, head_dim, element)
    if max(sharing) * layout.columns_per_key > 16:
        sharing = (1,) * sum(sharing)
    program, _, assignment = build(
        placement,
        lengths,
        head_dim,
        element,
        queries=sum(sharing),
        queries_per_read=max(sharing),
    )
    for channel, chunks in enumerate(assignment.channels):
        issued = Counter(
            (Kind(program.kind[i]), int(program.address[i])) for i in of_channel(program, channel)
        )
        assert issued == expected(placement, chunks, head_dim, element, sharing)


@PLACEMENTS
@given(queries=st.integers(1, 5), **SHAPES)
@settings(max_examples=share.examples(__name__, 15, 6))
def test_steps_wait_only_for_earlier_ones(
    placement: Placement, queries: int, lengths: list[int], head_dim: int, element: ElementType
) -> None:
    """Catches an order in which a full queue waits for what is behind it, and lost signals."""
    columns = KeyLayout(DEVICE.organization, placement, head_dim, element).columns_per_key
    program, dependences, assignment = build(
        placement,
        lengths,
        head_dim,
        element,
        queries=queries,
        queries_per_read=min(3, 16 // columns),
    )
    for channel in range(len(assignment.channels)):
        own = dependences.signals[of_channel(program, channel)]
        left = np.bincount(own.ravel(), minlength=1 + dependences.events)
        left[0] = 0
        for i in of_channel(program, channel):
            assert left[dependences.waits[i]] == 0
            for event in dependences.signals[i]:
                if event:
                    left[event] -= 1
        assert not left.any()


@PLACEMENTS
@given(lengths=st.lists(st.integers(1, 9000), max_size=8), head_dim=st.sampled_from([64, 80, 256]))
def test_chunks_do_not_overlap(placement: Placement, lengths: list[int], head_dim: int) -> None:
    """Catches regions of chunks of different lengths that reach into each other."""
    layout = KeyLayout(DEVICE.organization, placement, head_dim, FP16)
    regions = allocate_chunks(layout, lengths)
    end = 0
    for length, keys, values in zip(lengths, regions.keys, regions.values, strict=True):
        chunk = layout.head(length)
        for begin in (keys, values):
            assert begin >= end
            last = int((chunk.multiply_addresses(chunk.score_multiplies) % BANK).max())
            end = begin + last + 32


def test_channels_of_the_same_chunks_share_their_steps() -> None:
    """Catches programs that grow with channels that do the same: 12 of 16 hold two equal heads."""
    program, _, assignment = build(Placement.BANK, [512] * 28)
    assert [len(chunks) for chunks in assignment.channels] == [2] * 12 + [1] * 4
    assert set(zip(program.first_channel.tolist(), program.channels.tolist(), strict=True)) == {
        (0, 12), (12, 4),
    }  # fmt: skip


def test_program_is_deterministic() -> None:
    """Catches steps whose order depends on anything but the arguments."""
    lengths = [1 + 97 * head % 700 for head in range(60)]
    first, second = build(Placement.BUFFER, lengths), build(Placement.BUFFER, lengths)
    assert first[2].channels == second[2].channels
    for name in ("kind", "address", "first_channel", "channels"):
        assert np.array_equal(getattr(first[0], name), getattr(second[0], name))
    assert first[1].events == second[1].events
    for name in ("waits", "signals", "delays"):
        assert np.array_equal(getattr(first[1], name), getattr(second[1], name))


@pytest.mark.parametrize(("placement", "words"), [(Placement.BANK, 16), (Placement.BUFFER, 128)])
def test_contexts_of_many_probabilities_come_in_parts(placement: Placement, words: int) -> None:
    """Catches parts larger than half a buffer: each part moves every output slice."""
    program, _, assignment = build(placement, [4096] * 16)
    layout = HeadLayout(DEVICE.organization, placement, 128, FP16, 4096)
    assert layout.probability_words == words
    assert assignment.imbalance == 1.0
    is_value = (program.address & (BANK - 1)) >= layout.rows * ROW_BYTES
    moves = np.count_nonzero((program.kind == Kind.MVSB) & is_value)
    per_slice = 8 if placement is Placement.BANK else 1
    assert moves == per_slice * layout.context_slices * words // 16


@PLACEMENTS
def test_latencies_hide_under_the_multiplies_of_the_other_head(placement: Placement) -> None:
    """Catches an order that leaves the pipeline's latencies exposed.

    Two heads of 2,048 keys per channel. What cannot hide is at the ends, and does not grow: the
    first query, and the moves of the last slice. 1 % is for these.
    """
    slow = with_pipeline(softmax_passes=6)
    ideal = with_pipeline(
        write_to_multiply=0,
        multiply_to_move=0,
        move_to_softmax=0,
        softmax_to_move=0,
        softmax_clock_hz=1e15,
    )
    tables = resolve_timing(DEVICE, placement, power_limited=True)
    cycles = [
        run(build(placement, [2048] * 32, device=device)[0], tables).cycles
        for device in (ideal, DEVICE, slow)
    ]
    assert cycles[0] <= cycles[1] <= 1.01 * cycles[0]
    assert cycles[2] <= 1.01 * cycles[0]


@pytest.mark.parametrize(("queries", "keys"), [(2, 2048), (4, 1024)])
def test_softmaxes_of_shared_keys_hide(queries: int, keys: int) -> None:
    """Catches an order that leaves the softmaxes of a pass only one phase to hide under.

    Chunks that serve so many queries that their softmaxes take as long as the score of another
    chunk (2 queries), or half as long again (4). What does not hide is at the ends: further chunks
    cost no more than their multiplies with rows do, to within 1 %.
    """
    ideal = with_pipeline(
        write_to_multiply=0,
        multiply_to_move=0,
        move_to_softmax=0,
        softmax_to_move=0,
        softmax_clock_hz=1e15,
    )
    tables = resolve_timing(DEVICE, Placement.BANK, power_limited=True, queries_per_read=queries)

    def cycles(device: DramDevice, chunks: int) -> int:
        program, _, _ = build(
            Placement.BANK,
            [keys] * (16 * chunks),
            device=device,
            queries=queries,
            queries_per_read=queries,
        )
        return run(program, tables).cycles

    further = [cycles(device, 8) - cycles(device, 4) for device in (ideal, DEVICE)]
    assert further[1] <= 1.01 * further[0]


def test_the_last_chunk_hides_under_the_one_before() -> None:
    """Catches a softmax that has nothing to hide under since its chunk has no partner.

    Nine heads on one channel of sixteen cost no more than nine eighths of eight.
    """
    tables = resolve_timing(DEVICE, Placement.BANK, power_limited=True)
    layout = KeyLayout(DEVICE.organization, Placement.BANK, 128, FP16)
    cycles: list[int] = []
    for heads in (8, 9):
        chunks = tuple(Chunk(head, 0, 2048) for head in range(heads))
        program = interleaved_program(
            DEVICE, layout, Assignment.of((chunks, *[()] * 15)), multiply_interval=6
        )
        cycles.append(run(program, tables).cycles)
    assert cycles[1] <= 1.005 * 9 / 8 * cycles[0]


def test_softmax_takes_its_lanes_for_all_passes() -> None:
    """256 lanes of 666 MHz for 16 channels: 3 passes of 4,096 scores over 16 lanes are 768 lane
    cycles, 1,153.2 ns, 1,499.6 cycles of 0.769 ns."""
    assert softmax_cycles(DEVICE, 4096) == 1500
    assert softmax_cycles(DEVICE, 1) == softmax_cycles(DEVICE, 16) == 6
    assert softmax_cycles(DEVICE, 17) == 12


@pytest.mark.parametrize(
    ("placement", "buffer_bytes", "longest"),
    [
        (Placement.BANK, 512 * 1024, 4096),
        (Placement.BUFFER, 512 * 1024, 4096),
        (Placement.BANK, 512 * 1024 - 1, 3840),
        (Placement.BANK, 16 * 8 * 255, 255),
        (Placement.BUFFER, 16 * 8 * 255, 224),
    ],
)
def test_two_chunks_share_the_softmax_buffer(
    placement: Placement, buffer_bytes: float, longest: int
) -> None:
    """Catches chunks whose scores leave no room for those of a second one."""
    layout = KeyLayout(DEVICE.organization, placement, 128, FP16)
    assert longest_chunk(with_pipeline(softmax_buffer_bytes=buffer_bytes), layout) == longest


def test_what_fits_no_buffer_or_bank_is_refused() -> None:
    """Catches programs that would overflow, and errors that do not say the way out."""
    layout = KeyLayout(DEVICE.organization, Placement.BANK, 128, FP16)
    with pytest.raises(InputError, match=r"models no latencies.*\[pipeline\]"):
        longest_chunk(DRAMS.load("hbm3-5.2-asplos24"), layout)
    with pytest.raises(InputError, match="does not hold two scores per channel"):
        longest_chunk(with_pipeline(softmax_buffer_bytes=127.0), layout)
    with pytest.raises(InputError, match="does not hold two times 40 scores"):
        longest_chunk(with_pipeline(softmax_buffer_bytes=16 * 8 * 39.0), layout, 40)
    with pytest.raises(InputError, match=r"query of head_dim 272 takes 17 .*smaller head_dim"):
        build(Placement.BUFFER, [5], 272)
    with pytest.raises(InputError, match=r"9 queries of head_dim 128 take 18 .*at most 8 queries"):
        build(Placement.BANK, [5], queries=9, queries_per_read=9)
    wide = with_pipeline(buffer_words=64)
    with pytest.raises(InputError, match="probabilities of 33 queries have no addresses"):
        build(Placement.BUFFER, [5], 16, device=wide, queries=33, queries_per_read=33)
    with pytest.raises(InputError, match="queries = 0 must be at least 1"):
        build(Placement.BANK, [5], queries=0)
    with pytest.raises(InputError, match="queries_per_read = 0 must be at least 1"):
        interleaved_program(
            DEVICE,
            layout,
            Assignment.of(((Chunk(0, 0, 5),), *[()] * 15)),
            multiply_interval=6,
            queries_per_read=0,
        )
    assignment = Assignment.of(((Chunk(0, 0, 4097),), *[()] * 15))
    with pytest.raises(InputError, match=r"chunk of 4097 keys leaves .* at most 4096 keys"):
        interleaved_program(DEVICE, layout, assignment, multiply_interval=6)
    with pytest.raises(InputError, match=r"need 16416 rows of every bank, which has 16384"):
        build(Placement.BANK, [4096] * 16 * 513)
