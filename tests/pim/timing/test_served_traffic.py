"""Ordinary traffic beside the units: kernel, naive channel and audit agree."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice, Organization, Refresh, RefreshMode
from attacc.hardware.placement import Placement
from attacc.pim.audit import legality
from attacc.pim.program.program import MULTIPLY, AddressLayout, Dependences, Kind, Program
from attacc.pim.program.trace import NAMES
from attacc.pim.program.traffic import Traffic, TrafficPolicy, mixed, streaming
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import resolve_timing
from tests import share
from tests.oracle import timing as oracle
from tests.oracle.traffic import (
    Arrival,
    Outcome,
    Policy,
    SharedChannel,
    Waiting,
    simulate_shared,
)

HBM3 = DRAMS.load("hbm3-5.2")
SMALL = Organization(
    channels=2, pseudo_channels=2, ranks=2, bank_groups=2, banks=2, rows=8, columns=8,
    access_bytes=32,
)  # fmt: skip
SPELLED = {kind: name for name, kind in NAMES.items()}


@dataclass(frozen=True)
class Step:
    """One step of the units' program, or of traffic (then waits is its arrival)."""

    kind: Kind
    address: int
    first: int
    channels: int
    waits: int = 0
    signals: tuple[oracle.Signal, ...] = ()


def columns_of(steps: list[Step], o: Organization, dependences: Dependences | None) -> Program:
    return Program(
        o,
        np.array([s.kind for s in steps], dtype=np.uint8),
        np.array([s.address for s in steps], dtype=np.int64),
        np.array([s.first for s in steps], dtype=np.int16),
        np.array([s.channels for s in steps], dtype=np.int16),
        dependences,
    )


def program_of(steps: list[Step], o: Organization, *, one_entrance: bool) -> Program:
    if one_entrance:
        return columns_of(steps, o, None)
    width = max([1, *(len(step.signals) for step in steps)])
    blank = oracle.Signal(0, 0)
    signals = [[*s.signals, *[blank] * (width - len(s.signals))] for s in steps]
    events = np.array([[one.event for one in row] for row in signals], dtype=np.int32)
    delays = np.array([[one.delay for one in row] for row in signals], dtype=np.int32)
    last = max([0, *(s.waits for s in steps), *(one.event for row in signals for one in row)])
    return columns_of(
        steps,
        o,
        Dependences(
            waits=np.array([s.waits for s in steps], dtype=np.int32),
            signals=events.reshape(len(steps), width),
            delays=delays.reshape(len(steps), width),
            events=last,
        ),
    )


def traffic_of(steps: list[Step], o: Organization) -> Traffic:
    return Traffic(columns_of(steps, o, None), np.array([s.waits for s in steps], dtype=np.int64))


def request_of(step: Step, channel: int, o: Organization) -> oracle.Request:
    at = AddressLayout.of(o)
    return oracle.Request(
        SPELLED[step.kind],
        channel,
        step.address >> at.pseudo_channel & (o.pseudo_channels - 1),
        step.address >> at.rank & (o.ranks - 1),
        step.address >> at.bank_group & (o.bank_groups - 1),
        step.address >> at.bank & (o.banks - 1),
        step.address >> at.row & (o.rows - 1),
        step.address >> at.column & (o.columns - 1),
    )


def commands(timed: TimedRun) -> list[oracle.Command]:
    assert timed.log is not None
    return [
        oracle.Command(
            c.cycle, c.command, c.channel, c.pseudo_channel, c.rank, c.bank_group, c.bank, c.row,
            c.column,
        )
        for c in timed.log
    ]  # fmt: skip


def naive(
    program: list[Step],
    traffic: list[Step],
    device: DramDevice,
    placement: Placement,
    policy: TrafficPolicy,
    *,
    one_entrance: bool,
    channel_type: type[SharedChannel] = SharedChannel,
) -> Outcome:
    """What the naive channels make of it."""
    o = device.organization
    return simulate_shared(
        [
            oracle.DependentRequest(
                request_of(step, channel, o),
                0 if one_entrance else step.waits,
                () if one_entrance else step.signals,
            )
            for step in program
            for channel in range(step.first, step.first + step.channels)
        ],
        [
            Arrival(request_of(step, channel, o), step.waits, place)
            for place, step in enumerate(traffic)
            for channel in range(step.first, step.first + step.channels)
        ],
        device=device,
        placement=placement.value,
        policy=Policy(
            policy.queue, policy.write_high, policy.write_low, policy.patience, policy.turn
        ),
        power_limited=True,
        one_entrance=one_entrance,
        channel_type=channel_type,
    )


def addresses(o: Organization) -> st.SearchStrategy[int]:
    """A few rows and columns of every bank."""
    at = AddressLayout.of(o)

    def packed(place: tuple[int, int, int, int, int, int]) -> int:
        column, row, bank, group, rank, half = place
        return (
            column << at.column | row << at.row | bank << at.bank | group << at.bank_group
            | rank << at.rank | half << at.pseudo_channel
        )  # fmt: skip

    below = [st.integers(0, n - 1) for n in (o.banks, o.bank_groups, o.ranks, o.pseudo_channels)]
    return st.tuples(st.integers(0, 3), st.integers(0, 2), *below).map(packed)


@st.composite
def programs(draw: st.DrawFn, placement: Placement, o: Organization) -> list[Step]:
    """Steps on one or both channels that wait only for what earlier ones signal."""
    multiply = MULTIPLY[placement]
    kinds = [multiply] * 8 + [Kind.WRGB, Kind.MVSB, Kind.MVGB, Kind.SFM, Kind.BARRIER]
    drawn = draw(st.lists(st.sampled_from(kinds), max_size=40))
    events = draw(st.integers(1, 4))
    signal = st.builds(oracle.Signal, st.integers(1, events), st.sampled_from([0, 1, 31, 200]))
    signals = [
        () if kind is Kind.BARRIER else tuple(draw(st.lists(signal, max_size=2))) for kind in drawn
    ]
    last = {one.event: i for i, row in enumerate(signals) for one in row}
    steps: list[Step] = []
    for i, kind in enumerate(drawn):
        known = [event for event in range(1, events + 1) if last.get(event, -1) < i]
        waits = draw(st.sampled_from([0, 0, *known])) if kind is not Kind.BARRIER else 0
        address = draw(addresses(o))
        if kind is multiply:
            address &= (1 << AddressLayout.of(o).pseudo_channel) - 1
        first, channels = draw(st.sampled_from([(0, 2), (0, 2), (0, 1), (1, 1)]))
        steps.append(Step(kind, address, first, channels, waits, signals[i]))
    return steps


@st.composite
def arrivals(draw: st.DrawFn, o: Organization) -> list[Step]:
    """Loads and stores in bursts and after pauses, to all banks or often the same few."""
    at = AddressLayout.of(o)
    every = (1 << at.channel) - 1
    few = ((1 << at.bank) - 1) | 1 << at.bank_group
    places = draw(st.sampled_from([every, few]))
    step = st.tuples(
        st.sampled_from([Kind.LD, Kind.ST]),
        addresses(o),
        st.sampled_from([(0, 2), (0, 1), (1, 1)]),
        st.sampled_from([0] * 12 + [1, 4, 30, 150, 700]),
    )
    now = 0
    steps: list[Step] = []
    least = draw(st.sampled_from([1, 30]))
    drawn = draw(st.lists(step, min_size=least, max_size=60))
    for kind, address, (first, channels), pause in drawn:
        now += pause
        steps.append(Step(kind, address & places, first, channels, now))
    return steps


@st.composite
def policies(draw: st.DrawFn) -> TrafficPolicy:
    """Small ones, so that modes and directions change often."""
    queue = draw(st.sampled_from([2, 3, 4, 5, 8, 64]))
    high = draw(st.integers(2, min(queue, 10)))
    return TrafficPolicy(
        queue,
        high,
        draw(st.integers(1, high - 1)),
        draw(st.sampled_from([1, 20, 100, 400])),
        draw(st.sampled_from([1, 10, 30, 60, 300])),
    )


@st.composite
def devices(draw: st.DrawFn, placement: Placement, mode: RefreshMode) -> DramDevice:
    """Short latencies in every proportion; refreshes that come often."""
    banks = SMALL.banks_per_channel // SMALL.pseudo_channels
    if mode is RefreshMode.ALL_BANK:
        refresh = draw(st.sampled_from([(5070, 456), (700, 200), (400, 30)]))
        bank_refresh = 100
    else:
        refresh = (draw(st.sampled_from([150, 60])) * banks, 200)
        bank_refresh = draw(st.sampled_from([50, 30]))
        if placement is not Placement.BANK:
            bank_refresh *= 3
    ranges = {
        "nACT": (1, 3), "nPPD": (1, 3), "nCL": (5, 20), "nCWL": (2, 8), "nRCDRD": (3, 25),
        "nRCDWR": (3, 25), "nRP": (1, 25), "nRAS": (26, 50), "nRC": (1, 80), "nRTPL": (1, 10),
        "nWR": (1, 25), "nCCDS": (1, 5), "nCCDL": (1, 9), "nBL": (1, 4), "nRRDS": (1, 8),
        "nRRDL": (1, 12), "nFAW": (1, 60), "nWTRS": (0, 10), "nWTRL": (0, 15), "nRTW": (0, 20),
        "nRREFD": (1, 14),
    }  # fmt: skip
    timing = {name: draw(st.integers(*bounds)) for name, bounds in ranges.items()}
    timing |= {"nREFI": refresh[0], "nRFC": refresh[1], "nRFCpb": bank_refresh}
    return HBM3.model_copy(
        update={
            "organization": SMALL,
            "timing": HBM3.timing | timing,
            "refresh": Refresh(mode=mode),
            "moves_pass_hits": draw(st.booleans()),
        }
    )


@pytest.mark.untraced  # the naive channels would take three times as long
@pytest.mark.parametrize("mode", list(RefreshMode))
@pytest.mark.parametrize("placement", list(Placement))
@given(data=st.data())
@settings(max_examples=share.examples(__name__, 60, 15))
def test_kernel_and_oracle_agree_on_random_traffic(
    placement: Placement, mode: RefreshMode, data: st.DataObject
) -> None:
    """Catches any departure from docs/model/traffic.md: modes, choice, refresh, entry."""
    device = data.draw(devices(placement, mode))
    policy = data.draw(policies())
    steps = data.draw(programs(placement, SMALL))
    host = data.draw(arrivals(SMALL))
    one_entrance = data.draw(st.booleans())
    tables = resolve_timing(device, placement, power_limited=True)
    program = program_of(steps, SMALL, one_entrance=one_entrance)
    traffic = traffic_of(host, SMALL)
    try:
        ours = run(program, tables, log=True, traffic=traffic, policy=policy)
    except InputError:
        reject()  # modes that change before anything can be served
    theirs = naive(steps, host, device, placement, policy, one_entrance=one_entrance)
    assert sorted(commands(ours)) == sorted(theirs.log)
    assert ours.cycles == theirs.cycles
    assert ours.traffic is not None
    assert ours.traffic.served.tolist() == [theirs.served[i] for i in range(len(host))]
    assert ours.traffic.bytes == traffic.bytes
    report = legality.check(
        ours.log or (), device, placement=placement, power_limited=True, postponed_refreshes=8
    )
    assert report.violations == ()


def test_a_channel_that_is_done_is_refreshed_until_the_last_is() -> None:
    """Catches rows that lose what they hold while another channel still works."""
    device = HBM3.model_copy(
        update={"organization": SMALL, "timing": HBM3.timing | {"nREFI": 700, "nRFC": 200}}
    )
    tables = resolve_timing(device, Placement.BANK, power_limited=True)
    row = 1 << AddressLayout.of(SMALL).row
    rows = [Step(Kind.MACAB, row * (i % 2), 0, 1) for i in range(100)]
    steps = [Step(Kind.MACAB, 0, 1, 1), *rows]
    timed = run(program_of(steps, SMALL, one_entrance=False), tables, log=True)
    assert timed.log is not None
    assert [c.cycle for c in timed.log if c.channel == 1 and c.command == "MACAB"][-1] < 100
    refreshes = [c.cycle for c in timed.log if c.channel == 1 and c.command == "REFab"]
    assert len(refreshes) == 2 * (timed.cycles // 700)
    assert max(c.cycle for c in timed.log) == timed.cycles
    report = legality.check(timed.log, device, placement=Placement.BANK, power_limited=True)
    assert report.violations == ()


NOTHING = columns_of([], HBM3.organization, None)
STANDARDS = [name for name in DRAMS.names() if DRAMS.load(name).rules == "hbm-pim"]
BANK = Placement.BANK


def by_hand(steps: list[Step], policy: TrafficPolicy | None = None) -> list[tuple[int, str]]:
    """Commands of channel 0 of an idle stack."""
    tables = resolve_timing(HBM3, BANK, power_limited=True)
    traffic = traffic_of(steps, HBM3.organization)
    timed = run(NOTHING, tables, log=True, traffic=traffic, policy=policy)
    return [(c.cycle, c.command) for c in timed.log or () if c.channel == 0]


COLUMN, ROW, B, G, R, P = (1 << bit for bit in (5, 10, 24, 26, 28, 29))
"""One more column, row, bank, bank group, rank, pseudo-channel."""


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # nRCDRD; nCCDL within a bank group.
        ([(Kind.LD, 0), (Kind.LD, COLUMN)], [(1, "ACT"), (20, "RD"), (24, "RD")]),
        # nRRDS and nCCDS between bank groups; a row command beside each column command.
        ([(Kind.LD, 0), (Kind.LD, G)], [(1, "ACT"), (3, "ACT"), (20, "RD"), (22, "RD")]),
        # The other pseudo-channel has a data bus of its own, but no command bus: nACT, then 1.
        ([(Kind.LD, 0), (Kind.LD, P)], [(1, "ACT"), (3, "ACT"), (20, "RD"), (22, "RD")]),
        # nRAS, nRP.
        (
            [(Kind.LD, 0), (Kind.LD, ROW)],
            [(1, "ACT"), (20, "RD"), (46, "PRE"), (65, "ACT"), (84, "RD")],
        ),
        # A row hit overtakes a row conflict of its bank, whose PRE waits for it.
        (
            [(Kind.LD, 0), (Kind.LD, ROW), (Kind.LD, COLUMN)],
            [(1, "ACT"), (20, "RD"), (24, "RD"), (46, "PRE"), (65, "ACT"), (84, "RD")],
        ),
        # Writes wait for all reads, then nCL + nBL + 2 - nCWL.
        (
            [(Kind.ST, 0), (Kind.LD, COLUMN), (Kind.LD, 2 * COLUMN)],
            [(1, "ACT"), (20, "RD"), (24, "RD"), (41, "WR")],
        ),
        # nRCDWR; where there is nothing to read, a write goes at once.
        ([(Kind.ST, 0)], [(1, "ACT"), (20, "WR")]),
    ],
)  # fmt: skip
def test_small_traffic_is_as_by_hand(
    steps: list[tuple[Kind, int]], expected: list[tuple[int, str]]
) -> None:
    """Catches a misreading that kernel and oracle share."""
    assert by_hand([Step(kind, address, 0, 1) for kind, address in steps]) == expected


def test_a_read_that_arrives_while_writing_waits_for_the_low_mark() -> None:
    """Catches directions that turn for every request, or writes that never end."""
    policy = TrafficPolicy(queue=8, write_high=3, write_low=1)
    steps = [Step(Kind.ST, i * COLUMN, 0, 1) for i in range(3)]
    steps.append(Step(Kind.LD, 3 * COLUMN, 0, 1, waits=21))
    assert by_hand(steps, policy) == [
        # Two writes, the read nCWL + nBL + nWTRL = 19 after the second, then the last write.
        (1, "ACT"), (20, "WR"), (24, "WR"), (43, "RD"), (60, "WR"),
    ]  # fmt: skip


def test_traffic_of_one_channel_leaves_the_others_alone() -> None:
    """Catches channels that meet although each is fed by itself."""
    o = HBM3.organization
    steps = [Step(Kind.MACAB, i * COLUMN, 0, 16) for i in range(40)]
    program = program_of(steps, o, one_entrance=False)
    tables = resolve_timing(HBM3, BANK, power_limited=True)
    host = traffic_of([Step(Kind.LD, i * G, 3, 1, waits=10) for i in range(4)], o)
    alone = run(program, tables, log=True)
    beside = run(program, tables, log=True, traffic=host, policy=TrafficPolicy(patience=30))

    def of(timed: TimedRun, channel: int) -> list[tuple[int, str]]:
        return [(c.cycle, c.command) for c in timed.log or () if c.channel == channel]

    assert of(beside, 3) != of(alone, 3)
    assert {command for _, command in of(beside, 3)} >= {"MACAB", "ACT", "RD", "PREA"}
    for channel in (0, 2, 4, 15):
        assert of(beside, channel) == of(alone, channel)


def test_a_request_of_several_channels_is_served_by_the_last() -> None:
    """Catches the first channel's cycle, and bytes counted once."""
    o = HBM3.organization
    tables = resolve_timing(HBM3, BANK, power_limited=True)
    steps = [Step(Kind.LD, 0, 5, 1), Step(Kind.ST, ROW, 5, 1), Step(Kind.LD, 2 * ROW, 4, 2)]
    timed = run(NOTHING, tables, log=True, traffic=traffic_of(steps, o))
    assert timed.traffic is not None
    at = {(c.row, c.channel): c.cycle for c in timed.log or () if c.command in ("RD", "WR")}
    assert timed.traffic.served.tolist() == [at[0, 5], at[1, 5], at[2, 5]]
    assert at[2, 4] < at[2, 5]
    served = timed.traffic
    assert (served.reads, served.writes, served.bytes) == (3, 1, 4 * 32)
    assert {c.command: c.count for c in timed.commands}["RD"] == 3
    assert timed.count("WR") == 1


def test_no_traffic_is_no_traffic() -> None:
    """Catches a division by no time."""
    tables = resolve_timing(HBM3, BANK, power_limited=True)
    timed = run(NOTHING, tables, traffic=traffic_of([], HBM3.organization))
    assert timed.traffic is not None
    assert (timed.traffic.bytes, timed.traffic.bytes_per_s) == (0, 0.0)
    assert run(NOTHING, tables).traffic is None


def analytic_bound(device: DramDevice) -> float:
    """Bytes per second that no order of accesses exceeds, from the standard's numbers alone."""
    o, t = device.organization, device.timing
    groups = o.ranks * o.bank_groups
    activates = min(4 / t["nFAW"], 1 / t["nRRDS"], groups / t["nRRDL"])
    of_pseudo_channel = min(
        1 / t["nBL"],  # the data bus
        o.ranks / t["nCCDS"],
        groups / t["nCCDL"],
        activates * o.columns,
        groups * o.banks * o.columns / t["nRC"],
    )
    column_bus, row_bus = 1.0, o.columns / (t["nACT"] + 1)
    of_channel = min(o.pseudo_channels * of_pseudo_channel, column_bus, row_bus)
    refreshing = t["nRFC"] / t["nREFI"]
    per_cycle = of_channel * (1 - refreshing) * o.channels * o.access_bytes
    return per_cycle / device.clock_ns * 1e9


@pytest.mark.parametrize("kind", [Kind.LD, Kind.ST])
@pytest.mark.parametrize("name", STANDARDS)
def test_streams_come_near_the_bound_of_every_standard(name: str, kind: Kind) -> None:
    """Catches a lost cycle per access, a row that opens late, a refresh that costs too much."""
    device = DRAMS.load(name)
    o, t = device.organization, device.timing
    assert device.refresh.mode is RefreshMode.ALL_BANK
    turn = o.pseudo_channels * o.ranks * o.bank_groups * o.access_bytes
    turns = 20 * t["nREFI"] // t["nBL"] // (o.ranks * o.bank_groups)
    traffic = streaming(o, kind, turns * turn)
    timed = run(
        columns_of([], o, None),
        resolve_timing(device, BANK, power_limited=True),
        traffic=traffic,
    )
    assert timed.count("REFab") >= 20 * o.channels * o.pseudo_channels
    assert timed.traffic is not None
    assert timed.traffic.bytes == o.channels * turns * turn
    assert 0.97 < timed.traffic.bytes_per_s / analytic_bound(device) < 1


class InOrderChannel(SharedChannel):
    """A channel that looks at the oldest request only."""

    def decided(self) -> list[Waiting]:
        return sorted(self.all_ordinary(), key=lambda waiting: waiting.place)[:1]


def mixed_steps(traffic: Traffic) -> list[Step]:
    r = traffic.requests
    return [
        Step(Kind(kind), address, first, 1, waits)
        for kind, address, first, waits in zip(
            r.kind.tolist(), r.address.tolist(), r.first_channel.tolist(),
            traffic.arrival.tolist(), strict=True,
        )
    ]  # fmt: skip


def test_row_hits_first_beats_the_order_of_arrival() -> None:
    """Catches a choice that is none: first-ready has to gain on a random mix."""
    device = HBM3.model_copy(update={"organization": SMALL})
    traffic = mixed(SMALL, 600, seed=3, writes=0.3, locality=0.5)
    ours = run(
        columns_of([], SMALL, None),
        resolve_timing(device, BANK, power_limited=True),
        traffic=traffic,
    )
    in_order = naive(
        [], mixed_steps(traffic), device, BANK, TrafficPolicy(), one_entrance=True,
        channel_type=InOrderChannel,
    )  # fmt: skip
    assert len(in_order.served) == 600
    assert ours.cycles < 0.5 * in_order.cycles


def turnarounds(timed: TimedRun) -> int:
    """Changes between reads and writes of all pseudo-channels."""
    last: dict[tuple[int, int], str] = {}
    changes = 0
    for c in timed.log or ():
        if c.command in ("RD", "WR"):
            where = (c.channel, c.pseudo_channel)
            changes += last.get(where, c.command) != c.command
            last[where] = c.command
    return changes


def test_draining_writes_together_saves_turnarounds() -> None:
    """Catches marks without effect."""
    tables = resolve_timing(HBM3, BANK, power_limited=True)
    traffic = mixed(HBM3.organization, 16_000, seed=4, writes=0.4, locality=0.8)
    together, eager = (
        run(NOTHING, tables, log=True, traffic=traffic, policy=policy)
        for policy in (TrafficPolicy(), TrafficPolicy(write_high=2, write_low=1))
    )
    assert turnarounds(together) < turnarounds(eager) / 4
    assert together.cycles < eager.cycles


def test_requests_of_the_host_do_not_belong_into_a_program() -> None:
    """Catches loads that the units' controller would take for barriers."""
    tables = resolve_timing(HBM3, BANK, power_limited=True)
    with pytest.raises(InputError, match=r"1 LD requests.*go into the traffic"):
        run(columns_of([Step(Kind.LD, 0, 0, 1)], HBM3.organization, None), tables)


def test_traffic_of_another_stack_is_refused() -> None:
    """Catches addresses taken apart with the wrong layout."""
    tables = resolve_timing(HBM3, BANK, power_limited=True)
    with pytest.raises(InputError, match=r"traffic's addresses.*another organisation"):
        run(NOTHING, tables, traffic=traffic_of([Step(Kind.LD, 0, 0, 1)], SMALL))


def test_a_device_without_ordinary_commands_serves_none() -> None:
    """Catches reads that cost nothing because no rule names them."""
    device = DRAMS.load("hbm3-5.2-asplos24")
    o = device.organization
    tables = resolve_timing(device, BANK, power_limited=True)
    with pytest.raises(InputError, match=r"no commands for ordinary.*hbm3-5.2 does"):
        run(columns_of([], o, None), tables, traffic=traffic_of([Step(Kind.LD, 0, 0, 1)], o))
