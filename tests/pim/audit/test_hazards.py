"""The data checker: what it accepts, what it rejects, and that it is sharp to the cycle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.audit import hazards
from attacc.pim.audit.hazards import Hazard, HazardReport, check_hazards
from attacc.pim.log import LoggedCommand
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import (
    ChannelChunks,
    HeadLayout,
    HeadRegions,
    KeyLayout,
    allocate_heads,
)
from attacc.pim.numerics import plan
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
    sliced,
)
from attacc.pim.program.program import MULTIPLY, Kind, Program
from attacc.pim.program.schedule import attention_program, published_regions
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests import share

DEVICE = DRAMS.load("hbm3-5.2")
REFERENCE = DRAMS.load("hbm3-5.2-asplos24")
FP16, INT8 = ElementType.FP16, ElementType.INT8
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))


def narrow(channels: int, **pipeline: float) -> DramDevice:
    """A stack of fewer channels, each with the same share of the buffer die."""
    assert DEVICE.pipeline is not None
    share = channels / DEVICE.organization.channels
    update = {
        "softmax_lanes": int(DEVICE.pipeline.softmax_lanes * share),
        "softmax_buffer_bytes": DEVICE.pipeline.softmax_buffer_bytes * share,
    }
    organization = DEVICE.organization.model_copy(update={"channels": channels})
    changed = DEVICE.pipeline.model_copy(update=update | pipeline)
    return DEVICE.model_copy(update={"organization": organization, "pipeline": changed})


@dataclass(frozen=True)
class Played:
    """A program, its log, and what its channels attended to."""

    device: DramDevice
    program: Program
    log: tuple[LoggedCommand, ...]
    chunks: list[ChannelChunks]
    queries: int = 1
    queries_per_read: int = 1

    def report(self, **pipeline: float) -> HazardReport:
        """Check the log, against other latencies and buffers if some are given."""
        device = self.device
        if pipeline:
            assert device.pipeline is not None
            changed = device.pipeline.model_copy(update=pipeline)
            device = device.model_copy(update={"pipeline": changed})
        return check_hazards(
            self.log,
            device,
            self.chunks,
            queries=self.queries,
            queries_per_read=self.queries_per_read,
        )


def interleaved(
    device: DramDevice,
    placement: Placement,
    lengths: Sequence[int],
    head_dim: int = 128,
    element: ElementType = FP16,
    *,
    queries: int = 1,
    queries_per_read: int = 1,
    power_limited: bool = True,
    spare: int = 0,
    value_dim: int | None = None,
    key_slices: int | None = None,
    one_copy: bool = False,
    change: Callable[[Program], Program] = lambda program: program,
) -> Played:
    """Play the interleaved schedule of some heads, after a change to its program."""
    layout = sliced(
        device,
        KeyLayout(
            device.organization,
            placement,
            head_dim,
            element,
            value_dim=value_dim,
            one_copy=one_copy,
        ),
        QueryPasses.of(queries, queries_per_read),
        key_slices=key_slices,
    )
    assignment = assign(
        lengths,
        channels=device.organization.channels,
        longest=longest_chunk(device, layout, queries_per_read),
        grain=chunk_grain(layout),
    )
    tables = resolve_timing(
        device,
        placement,
        power_limited=power_limited,
        queries_per_read=queries_per_read,
        element_bits=element.bits,
    )
    rooms = [[chunk.length + spare for chunk in channel] for channel in assignment.channels]
    program = change(
        interleaved_program(
            device,
            layout,
            assignment,
            multiply_interval=tables.multiply_interval,
            queries=queries,
            queries_per_read=queries_per_read,
            capacities=rooms,
        )
    )
    chunks = [
        ChannelChunks.allocated(layout, [chunk.length for chunk in channel], room)
        for channel, room in zip(assignment.channels, rooms, strict=True)
    ]
    log = run(program, tables, log=True).log or ()
    return Played(device, program, log, chunks, queries, queries_per_read)


def scheduled(
    device: DramDevice,
    placement: Placement,
    schedule: Schedule,
    *,
    heads: int,
    length: int,
    head_dim: int = 128,
    element: ElementType = FP16,
) -> Played:
    """Play the published or the complete schedule of some equal heads."""
    layout = HeadLayout(device.organization, placement, head_dim, element, length)
    program = attention_program(layout, heads, schedule)
    tables = resolve_timing(device, placement, power_limited=True)
    channels = device.organization.channels
    rounds = -(-heads // channels)
    regions = (
        published_regions(layout, rounds)
        if schedule is Schedule.PUBLISHED
        else allocate_heads(layout, rounds)
    )
    chunks: list[ChannelChunks] = []
    for channel in range(channels):
        own = len(range(channel, heads, channels))
        some = HeadRegions(regions.keys[:own], regions.values[:own])
        chunks.append(ChannelChunks(layout, (length,) * own, some))
    return Played(device, program, run(program, tables, log=True).log or (), chunks)


def said(report: HazardReport) -> str:
    """The first violation in words, "" if there is none."""
    return str(report.first) if report.first else ""


# The interleaved schedule is right.

LATENCIES: st.SearchStrategy[dict[str, float]] = st.fixed_dictionaries(
    {},
    optional={
        "write_to_multiply": st.integers(0, 60),
        "multiply_to_move": st.integers(0, 100),
        "move_to_softmax": st.integers(0, 100),
        "softmax_to_move": st.integers(0, 50),
        "softmax_passes": st.integers(1, 20),
        "buffer_words": st.sampled_from([16, 32]),
    },
)
LENGTHS = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.lists(st.sampled_from([1, 16, 17, 255, 256, 257, 1000]), min_size=1, max_size=6),
    st.integers(1, 4500).map(lambda length: [length]),
)


@pytest.mark.untraced  # of whole stacks: the checker would take three times as long
@PLACEMENTS
@given(
    lengths=LENGTHS,
    channels=st.sampled_from([1, 2, 4]),
    latencies=LATENCIES,
    head_dim=st.sampled_from([64, 80, 128, 192, 256]),
    element=st.sampled_from([FP16, INT8]),
    power_limited=st.booleans(),
)
@settings(max_examples=share.examples(__name__, 25, 4))
def test_no_interleaved_program_uses_or_destroys_what_it_may_not(
    placement: Placement,
    lengths: list[int],
    channels: int,
    latencies: dict[str, float],
    head_dim: int,
    element: ElementType,
    power_limited: bool,
) -> None:
    """Catches any missing dependence of the builder, for any latencies."""
    device = narrow(channels, **latencies)
    played = interleaved(device, placement, lengths, head_dim, element, power_limited=power_limited)
    assert said(played.report()) == ""


@pytest.mark.untraced  # of whole stacks: the checker would take three times as long
@PLACEMENTS
@given(
    lengths=LENGTHS,
    queries=st.sampled_from([(1, 1), (3, 2), (5, 4)]),
    sizes=st.sampled_from([(64, 128), (192, 128), (96, 96), (48, 8), (576, 512), (320, 72)]),
    one_copy=st.booleans(),
    spare=st.sampled_from([0, 0, 100]),
    element=st.sampled_from([FP16, INT8]),
    latencies=LATENCIES,
)
@settings(max_examples=share.examples(__name__, 15, 3))
def test_heads_of_any_sizes_use_and_destroy_nothing_that_they_may_not(
    placement: Placement,
    lengths: list[int],
    queries: tuple[int, int],
    sizes: tuple[int, int],
    one_copy: bool,
    spare: int,
    element: ElementType,
    latencies: dict[str, float],
) -> None:
    """Catches values laid out like keys, and slices of keys without buffers of their own."""
    head_dim, value_dim = sizes
    device = narrow(2, **latencies)
    assert device.pipeline is not None
    layout = KeyLayout(device.organization, placement, head_dim, element)
    fitting = device.pipeline.buffer_words // queries[1]
    played = interleaved(
        device,
        placement,
        lengths,
        head_dim,
        element,
        queries=queries[0],
        queries_per_read=queries[1],
        value_dim=value_dim,
        spare=spare,
        key_slices=-(-layout.columns_per_key // fitting),
        one_copy=one_copy and value_dim <= head_dim,
    )
    report = played.report()
    assert said(report) == ""
    assert report.commands == played.program.requests


@PLACEMENTS
@given(
    lengths=st.lists(st.sampled_from([1, 16, 17, 255, 256, 300]), min_size=1, max_size=4),
    spare=st.sampled_from([1, 16, 100, 300, 4000]),
    queries=st.integers(1, 3),
)
@settings(max_examples=share.examples(__name__, 10, 2))
def test_chunks_may_have_room_to_grow(
    placement: Placement, lengths: list[int], spare: int, queries: int
) -> None:
    """Catches commands that read beyond a chunk's keys, or a checker that takes room for keys."""
    played = interleaved(narrow(2), placement, lengths, 64, FP16, spare=spare, queries=queries)
    assert said(played.report()) == ""


def test_room_is_not_keys() -> None:
    """Catches a checker that takes multiplies beyond the keys of a chunk for granted."""
    played = interleaved(narrow(1), Placement.BANK, [300], 64, FP16, spare=100)
    (chunks,) = played.chunks
    fewer = replace(played, chunks=[replace(chunks, lengths=(280,))]).report()
    needs = {one.needs for one in fewer.violations if one.hazard is Hazard.NOWHERE}
    assert needs == {
        "the score of chunk 0 has no multiply 18",
        "the context of chunk 0 has no multiply 18",
    }


@pytest.mark.untraced  # of whole stacks: the checker would take three times as long
@pytest.mark.parametrize(
    ("placement", "lengths", "head_dim", "element"),
    share.cases(
        __name__,
        [
            (Placement.BANK, [1] * 300, 128, FP16),
            (Placement.BANK, [*range(1, 3000, 10)], 64, FP16),
            (Placement.BANK, [70_000, 1, 5000], 128, FP16),
            (Placement.BANK, [4096] * 17, 256, INT8),
            (Placement.BANKGROUP, [1 + 37 * head % 900 for head in range(130)], 128, INT8),
            (Placement.BANKGROUP, [20_000, 3], 64, FP16),
            (Placement.BUFFER, [1 + 7 * head % 90 for head in range(100)], 128, FP16),
            (Placement.BUFFER, [9000, 1], 96, INT8),
        ],
        4,
    ),
)
def test_whole_stacks_are_interleaved_right(
    placement: Placement, lengths: list[int], head_dim: int, element: ElementType
) -> None:
    """Catches what only many channels, many heads or cut heads show."""
    played = interleaved(DEVICE, placement, lengths, head_dim, element)
    report = played.report()
    assert said(report) == ""
    assert report.commands == played.program.requests


@pytest.mark.untraced  # of whole stacks: the checker would take three times as long
@PLACEMENTS
@given(
    lengths=st.one_of(
        st.lists(st.integers(1, 40), min_size=1, max_size=8),
        st.lists(st.sampled_from([1, 16, 17, 255, 256, 257, 600]), min_size=1, max_size=3),
    ),
    queries=st.integers(1, 17),
    queries_per_read=st.integers(1, 16),
    channels=st.sampled_from([1, 2]),
    latencies=LATENCIES,
    head_dim=st.sampled_from([16, 64, 80, 128]),
    element=st.sampled_from([FP16, INT8]),
)
@settings(max_examples=share.examples(__name__, 25, 4))
def test_no_shared_read_uses_or_destroys_what_it_may_not(
    placement: Placement,
    lengths: list[int],
    queries: int,
    queries_per_read: int,
    channels: int,
    latencies: dict[str, float],
    head_dim: int,
    element: ElementType,
) -> None:
    """Catches any missing dependence between queries, or passes, that share keys and values."""
    device = narrow(channels, **latencies)
    assert device.pipeline is not None
    columns = KeyLayout(device.organization, placement, head_dim, element).columns_per_key
    queries_per_read = min(queries_per_read, device.pipeline.buffer_words // columns)
    played = interleaved(
        device,
        placement,
        lengths,
        head_dim,
        element,
        queries=queries,
        queries_per_read=queries_per_read,
    )
    assert said(played.report()) == ""


@pytest.mark.untraced  # of whole stacks: the checker would take three times as long
@pytest.mark.parametrize(
    ("placement", "lengths", "queries", "queries_per_read"),
    [
        (Placement.BANK, [3072] * 9, 8, 8),
        (Placement.BANK, [1500, 700, 31], 8, 3),
        (Placement.BANK, [1 + 97 * head % 900 for head in range(20)], 3, 1),
        (Placement.BANKGROUP, [1000] * 17, 4, 2),
        (Placement.BUFFER, [300, 1, 200], 7, 2),
    ],
)
def test_whole_stacks_of_shared_heads_are_right(
    placement: Placement, lengths: list[int], queries: int, queries_per_read: int
) -> None:
    """Catches what only many channels, many passes or cut heads show."""
    played = interleaved(
        DEVICE, placement, lengths, queries=queries, queries_per_read=queries_per_read
    )
    report = played.report()
    assert said(report) == ""
    assert report.commands == played.program.requests
    # Whoever claims that fewer queries were served finds work that belongs to nobody.
    fewer = replace(played, queries=queries - 1).report()
    assert fewer.count(Hazard.REPEATED) + fewer.count(Hazard.NOWHERE) > 0
    more = replace(played, queries=queries + 1).report()
    assert more.count(Hazard.MISSING) > 0


def test_a_context_of_more_probabilities_than_half_a_buffer_is_cut() -> None:
    """Catches phases that follow each other before the softmax, or that share a half."""
    device = narrow(2, softmax_buffer_bytes=2.0**20)
    for placement in Placement:
        lengths = [9000, 8000, 5000, 600] if placement is not Placement.BUFFER else [1500, 70]
        played = interleaved(device, placement, lengths, 64)
        assert said(played.report()) == ""


# It is right because of its dependences, and no more careful than it has to be.


def without_waits(kind: Kind) -> Callable[[Program], Program]:
    """Let steps of one kind wait for nothing."""

    def change(program: Program) -> Program:
        assert program.dependences is not None
        waits = np.where(program.kind == kind, 0, program.dependences.waits).astype(np.int32)
        return replace(program, dependences=replace(program.dependences, waits=waits))

    return change


@pytest.mark.parametrize("queries", [1, 2])
@PLACEMENTS
@pytest.mark.parametrize("kind", ["WRGB", "MVSB", "MVGB", "SFM", "MAC"])
def test_steps_that_do_not_wait_are_caught(placement: Placement, kind: str, queries: int) -> None:
    """Catches a checker that is blind to one kind of dependence."""
    which = MULTIPLY[placement] if kind == "MAC" else Kind[kind]
    # So short that all steps are queued together.
    played = interleaved(
        narrow(1),
        placement,
        [20] * 4,
        64,
        queries=queries,
        queries_per_read=queries,
        change=without_waits(which),
    )
    first = played.report().first
    assert first is not None
    assert first.command is not None
    # A query that takes its half too early may as well leave none to the probabilities.
    assert first.command.command in {which.name, "MVGB" if kind == "WRGB" else which.name}
    assert first.hazard in (Hazard.EARLY, Hazard.OVERWRITES)
    assert first.ready is None or first.ready > first.cycle


def without_signal(kind: Kind, which: int) -> Callable[[Program], Program]:
    """Let steps of one kind no longer take part in making one of their events."""

    def change(program: Program) -> Program:
        assert program.dependences is not None
        signals = program.dependences.signals.copy()
        signals[program.kind == kind, which] = 0
        dependences = replace(program.dependences, signals=signals)
        return replace(program, dependences=dependences)

    return change


@pytest.mark.parametrize(
    ("placement", "kind", "which", "lengths", "latencies", "victim"),
    [
        (Placement.BANK, Kind.WRGB, 0, [600], {"write_to_multiply": 90}, "MACAB"),
        (Placement.BANK, Kind.WRGB, 1, [600], {"write_to_multiply": 90}, "MACAB"),
        (Placement.BUFFER, Kind.MVGB, 0, [1], {}, "MACPB"),
        (Placement.BUFFER, Kind.MVGB, 1, [1], {}, "MACPB"),
        (Placement.BUFFER, Kind.MVGB, 2, [1100], {"softmax_passes": 100}, "MVGB"),
        (Placement.BUFFER, Kind.MVSB, 0, [38, 18, 15, 7], {}, "MACPB"),
        (Placement.BUFFER, Kind.MVSB, 1, [38, 18, 15, 7], {}, "MVSB"),
        (Placement.BANK, Kind.MVSB, 2, [1], {}, "SFM"),
        (Placement.BANK, Kind.SFM, 0, [1], {}, "MVGB"),
        (Placement.BANK, Kind.SFM, 1, [20, 20], {"softmax_passes": 100}, "SFM"),
        (Placement.BANKGROUP, Kind.MACSB, 0, [1], {}, "MVSB"),
        (Placement.BANKGROUP, Kind.MACSB, 1, [20] * 4, {}, "WRGB"),
    ],
)
def test_every_dependence_is_needed(
    placement: Placement,
    kind: Kind,
    which: int,
    lengths: list[int],
    latencies: dict[str, float],
    victim: str,
) -> None:
    """Catches an event that the builder could lose without anybody noticing."""
    device = narrow(1, **latencies)
    change = without_signal(kind, which)
    right = interleaved(device, placement, lengths, 64, INT8)
    wrong = interleaved(device, placement, lengths, 64, INT8, change=change)
    assert said(right.report()) == ""
    first = wrong.report().first
    assert first is not None
    assert first.command is not None
    assert first.command.command == victim


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("placement", "kind", "which", "queries_per_read", "victim"),
    [
        (Placement.BANK, Kind.WRGB, 0, 2, "MACAB"),
        (Placement.BANK, Kind.MVGB, 0, 2, "MACAB"),
        (Placement.BUFFER, Kind.MVGB, 2, 2, "MVGB"),
        (Placement.BANK, Kind.SFM, 0, 2, "MVGB"),
        (Placement.BANK, Kind.SFM, 1, 2, "SFM"),
        (Placement.BUFFER, Kind.MVSB, 2, 2, "SFM"),
        (Placement.BUFFER, Kind.MVSB, 2, 1, "SFM"),
        (Placement.BANKGROUP, Kind.MACSB, 0, 2, "MVSB"),
        (Placement.BANKGROUP, Kind.MACSB, 1, 1, "WRGB"),
    ],
)
def test_every_dependence_of_shared_reads_is_needed(
    placement: Placement, kind: Kind, which: int, queries_per_read: int, victim: str
) -> None:
    """Catches an event between queries that share keys and values that could be lost unnoticed."""

    def played(change: Callable[[Program], Program]) -> Played:
        passes = 6 if kind is Kind.SFM else 1
        return interleaved(
            narrow(1, softmax_passes=passes, multiply_to_move=90),
            placement,
            [600] * 3,
            64,
            queries=4,
            queries_per_read=queries_per_read,
            change=change,
        )

    assert said(played(lambda program: program).report()) == ""
    first = played(without_signal(kind, which)).report().first
    assert first is not None
    assert first.command is not None
    assert first.command.command == victim


@PLACEMENTS
@pytest.mark.parametrize(
    ("latency", "late"),
    [
        ("write_to_multiply", "MAC"),
        ("multiply_to_move", "MVSB"),
        ("move_to_softmax", "SFM"),
        ("softmax_to_move", "MVGB"),
        ("softmax_passes", "MVGB"),
    ],
)
def test_latencies_are_kept_to_the_cycle(placement: Placement, latency: str, late: str) -> None:
    """Catches a builder that waits longer than it must, and a checker that is lax."""
    # So slow that nothing else takes longer, such as opening a row, and so small that every half
    # of a buffer holds one access: the first multiply waits for all of them.
    device = narrow(1, write_to_multiply=90, multiply_to_move=90, move_to_softmax=90)
    assert device.pipeline is not None
    played = interleaved(device, placement, [20], 16)
    assert said(played.report()) == ""
    cycles: int = getattr(device.pipeline, latency)
    first = played.report(**{latency: cycles + 1}).first
    assert first is not None
    assert first.hazard is Hazard.EARLY
    assert first.command is not None
    assert first.command.command.startswith(late)
    if latency != "softmax_passes":
        assert first.ready == first.cycle + 1


def test_lanes_are_busy_until_a_softmax_ends() -> None:
    """Catches a softmax that begins on lanes that another one occupies."""
    played = interleaved(narrow(1), Placement.BANK, [2048] * 2)
    violations = played.report(softmax_passes=60).violations
    assert any(v.needs == "the lanes that chunk 0 occupies" for v in violations)


def test_smaller_buffers_are_exceeded() -> None:
    """Catches a checker that does not count what a buffer holds."""
    # The softmax of one chunk takes so long that the scores of the other arrive meanwhile.
    played = interleaved(narrow(1, softmax_passes=50), Placement.BANKGROUP, [300, 200])
    assert said(played.report(buffer_words=8)) == ""
    query = played.report(buffer_words=7)
    assert query.count(Hazard.EXCEEDS) == 2
    assert "takes 8 accesses, half a buffer holds 7, never" in said(query)
    scores = played.report(softmax_buffer_bytes=4.0 * 499)
    assert scores.count(Hazard.EXCEEDS) == 1
    assert "500 scores of chunks 0, 1 where 499 have room" in said(scores)
    assert said(played.report(softmax_buffer_bytes=4.0 * 500)) == ""


# The faults that this checker found in the first version of the interleaved schedule.


@PLACEMENTS
def test_second_slice_of_a_lone_key_waits_for_its_probability(placement: Placement) -> None:
    """Catches units after the first of a phase that do not wait for the buffer to be filled."""
    assert said(interleaved(narrow(1), placement, [1]).report()) == ""


def test_slices_that_end_out_of_order_move_in_order() -> None:
    """Catches moves that overtake those of the slice before: an MVSB does not tell which it is."""
    played = interleaved(narrow(1), Placement.BUFFER, [38, 18, 15, 7], 64, INT8)
    assert said(played.report()) == ""


# Schedules that are ordered by barriers.


FIRST_PUBLISHED = {
    Placement.BANK: "cycle 20, channel 0: MACAB (rank 0 group 0 bank 0 row 0 column 0) uses data "
    "not yet produced: access 0 of the query of chunk 0, from cycle 25",
    Placement.BANKGROUP: "cycle 30, channel 0: MACSB (rank 0 group 0 bank 0 row 0 column 0) "
    "repeats what was done: multiply 0 of the score of chunk 0",
    Placement.BUFFER: "cycle 30, channel 0: MACPB (rank 0 group 0 bank 0 row 0 column 0) "
    "repeats what was done: multiply 0 of the score of chunk 0",
}


@pytest.mark.untraced  # of long logs
@PLACEMENTS
def test_published_schedule_is_rejected(placement: Placement) -> None:
    """The first violation by name: the first multiply of a pair issues twice, once too early."""
    played = scheduled(REFERENCE, placement, Schedule.PUBLISHED, heads=32, length=256)
    report = played.report()
    assert said(report) == FIRST_PUBLISHED[placement]
    # Context of the pair's first heads twice, of its second ones never (reference/attacc.md).
    layout = played.chunks[0].layout.head(256)
    again = [v for v in report.violations if v.hazard is Hazard.REPEATED and v.channel == 0]
    assert sum(v.needs.endswith("of the context of chunk 0") for v in again) == (
        layout.context_multiplies
    )
    never = {v.needs for v in report.violations if v.hazard is Hazard.MISSING and v.channel == 0}
    count = layout.context_multiplies
    assert f"{count} of {count} multiplies of the context of chunk 1" in never
    assert "never issued" in str(report.violations[-1])


@PLACEMENTS
def test_published_schedule_drops_queries(placement: Placement) -> None:
    """The last slice of a query is not written if the number of groups does not divide it."""
    length = 90 if placement is Placement.BUFFER else 700  # three groups
    report = scheduled(REFERENCE, placement, Schedule.PUBLISHED, heads=32, length=length).report()
    assert any("query accesses of chunk 1" in v.needs for v in report.violations)
    never = [v for v in report.violations if v.hazard is Hazard.EARLY and v.ready is None]
    assert any("of the query of chunk 1" in v.needs for v in never)


def test_published_schedule_drops_probabilities() -> None:
    """The last slice of the probabilities likewise, if they come in five groups."""
    played = scheduled(REFERENCE, Placement.BUFFER, Schedule.PUBLISHED, heads=32, length=160)
    report = played.report()
    assert any("probability accesses of chunk 0" in v.needs for v in report.violations)


@PLACEMENTS
def test_published_softmax_does_not_wait_for_its_scores(placement: Placement) -> None:
    """With latencies, the softmax comes before the scores have arrived."""
    report = scheduled(DEVICE, placement, Schedule.PUBLISHED, heads=32, length=20).report()
    early = [v for v in report.violations if v.hazard is Hazard.EARLY]
    assert any(
        v.command is not None and v.command.command == "SFM" and v.needs.startswith("all scores")
        for v in early
    )


@PLACEMENTS
def test_published_regions_of_long_heads_overlap(placement: Placement) -> None:
    """Keys of different rounds in the same rows are named, since addresses are then ambiguous."""
    layout = HeadLayout(REFERENCE.organization, placement, 128, FP16, 2100)
    chunks = ChannelChunks(layout, (2100, 2100), published_regions(layout, 2))
    assert said(check_hazards([], REFERENCE, [chunks] * 16)) == (
        "cycle 0, channel 0: the keys of chunk 0 and the keys of chunk 1 overlap in the banks"
    )


@pytest.mark.untraced  # of long logs
@pytest.mark.parametrize("heads", [1, 16])
@PLACEMENTS
def test_published_single_round_is_accepted(placement: Placement, heads: int) -> None:
    """Its faults concern pairs: what is right must not be rejected."""
    played = scheduled(REFERENCE, placement, Schedule.PUBLISHED, heads=heads, length=500)
    assert said(played.report()) == ""


@pytest.mark.untraced  # of whole stacks: the checker would take three times as long
@PLACEMENTS
@given(
    heads=st.integers(1, 50),
    length=st.integers(1, 260),
    head_dim=st.sampled_from([64, 128, 160]),
    element=st.sampled_from([FP16, INT8]),
)
@settings(max_examples=share.examples(__name__, 10, 2))
def test_complete_schedule_is_right_without_latencies_and_wrong_with_them(
    placement: Placement, heads: int, length: int, head_dim: int, element: ElementType
) -> None:
    """Barriers order commands, but nobody waits for a pipeline."""
    reports = [
        scheduled(
            device,
            placement,
            Schedule.COMPLETE,
            heads=heads,
            length=length,
            head_dim=head_dim,
            element=element,
        ).report()
        for device in (REFERENCE, DEVICE)
    ]
    assert said(reports[0]) == ""
    assert reports[1].count(Hazard.EARLY) > 0
    assert reports[1].count(Hazard.MISSING) == 0


@pytest.mark.untraced  # of whole stacks: the checker would take three times as long
@pytest.mark.parametrize(("length", "right"), [(512, True), (513, False)])
def test_complete_schedule_needs_probabilities_that_fit_the_buffer(
    length: int, right: bool
) -> None:
    """Half a buffer of 16 accesses holds 512 fp16 probabilities on two pseudo-channels."""
    played = scheduled(REFERENCE, Placement.BUFFER, Schedule.COMPLETE, heads=33, length=length)
    assert (said(played.report()) == "") is right


# Logs that somebody spoilt.


@pytest.fixture(scope="module")
def good() -> Played:
    played = interleaved(narrow(1), Placement.BANK, [300, 20], 64)
    assert said(played.report()) == ""
    return played


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("WRGB", "1 of 4 query accesses of chunk 0 never issued"),
        ("MACAB", "1 of 19 multiplies of the score of chunk 0 never issued"),
        ("MVSB", "1 of 16 moves of the score of chunk 0 never issued"),
        ("SFM", "1 of 2 softmaxes never issued"),
        ("MVGB", "1 of 16 probability accesses of chunk 0 never issued"),
    ],
)
def test_a_dropped_command_is_missed(good: Played, command: str, missing: str) -> None:
    """Catches work that was never done."""
    log = list(good.log)
    log.remove(next(c for c in log if c.command == command))
    report = replace(good, log=tuple(log)).report()
    assert f"cycle {good.log[-1].cycle}, channel 0: {missing}" in map(str, report.violations)


@pytest.mark.parametrize("command", ["WRGB", "MACAB", "MVSB", "SFM", "MVGB"])
def test_a_repeated_command_is_noticed(good: Played, command: str) -> None:
    """Catches work that was done twice."""
    last = [c for c in good.log if c.command == command][-1]
    log = (*good.log, replace(last, cycle=good.log[-1].cycle + 1))
    report = replace(good, log=log).report()
    assert [v.hazard for v in report.violations] == [Hazard.REPEATED]


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("WRGB", {"row": 5000}),
        ("WRGB", {"offset": 1}),
        ("WRGB", {"row": 1}),  # the values of the chunk
        ("MVGB", {"offset": 2}),
        ("MACAB", {"column": 31}),
        ("MVSB", {"row": 5000}),
    ],
)
def test_a_command_that_belongs_nowhere_is_named(
    good: Played, command: str, change: dict[str, int]
) -> None:
    """Catches addresses outside of the chunks, and moves of another kind of data."""
    at = next(i for i, c in enumerate(good.log) if c.command == command)
    log = (*good.log[:at], replace(good.log[at], **change), *good.log[at + 1 :])
    report = replace(good, log=log).report()
    assert report.count(Hazard.NOWHERE) == 1


def test_multiplies_beyond_the_last_key_are_named() -> None:
    """Catches a multiply within the rows of a chunk that reads none of its keys."""
    played = interleaved(narrow(1), Placement.BANKGROUP, [130 * 16], 64)
    last = next(c for c in played.log if c.command == "MACSB")
    beyond = replace(last, cycle=played.log[-1].cycle + 1, row=4, bank=3, column=0)
    report = replace(played, log=(*played.log, beyond)).report()
    assert said(report).endswith("belongs to nothing: the score of chunk 0 has no multiply 608")


def test_channels_without_chunks_do_nothing() -> None:
    """Catches commands on a channel that attends to nothing."""
    played = interleaved(narrow(2), Placement.BANK, [5])
    assert played.chunks[1].lengths == ()
    assert said(played.report()) == ""
    stray = replace(played.log[0], channel=1)
    report = replace(played, log=(stray, *played.log)).report()
    assert [v.hazard for v in report.violations] == [Hazard.NOWHERE]


def test_what_does_not_belong_together_is_refused(good: Played) -> None:
    """Catches questions that have no answer, instead of answering them."""
    log, device, chunks = good.log, good.device, good.chunks
    with pytest.raises(InputError, match="chunks of 2 channels are given, the device has 1"):
        check_hazards(log, device, chunks * 2)
    with pytest.raises(InputError, match="the log names channel 3"):
        check_hazards([replace(log[0], channel=3, command="SFM")], device, chunks)
    with pytest.raises(InputError, match="the log holds MACSB, the chunks are laid out for bank"):
        check_hazards([replace(log[0], command="MACSB")], device, chunks)
    fill = next(c for c in log if c.command == "WRGB")
    with pytest.raises(InputError, match="does not say which access of the vector buffer"):
        check_hazards([replace(fill, offset=-1)], device, chunks)


def test_constants_that_two_witnesses_state_agree() -> None:
    """Catches a buffer that one side fills and the other takes for another size."""
    assert hazards.BUFFER_WORDS == plan.BUFFER_WORDS
