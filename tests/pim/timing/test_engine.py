"""Small programs whose every command is timed by hand, from reference/controller.md."""

from functools import partial

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.balance import Assignment, Chunk
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.program.interleaved import interleaved_program
from attacc.pim.program.program import Kind, Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.trace import parse_trace
from attacc.pim.program.traffic import Traffic, streaming
from attacc.pim.timing.controllers import Room, Stream
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import Code, resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
STREAMED = DRAMS.load("hbm3-5.2")
BANK, BANKGROUP, BUFFER = Placement
COLUMN, ROW, B, G, R, P, C = (1 << bit for bit in (5, 10, 24, 26, 28, 29, 30))
"""One more column, row, bank, bank group, rank, pseudo-channel, channel."""
AB, SB, PB = "PIM_MAC_AB", "PIM_MAC_SB", "PIM_MAC_PB"
WR, MV, GB, SFM, BAR = "PIM_WR_GB", "PIM_MV_SB", "PIM_MV_GB", "PIM_SFM", "PIM_BARRIER"

Requests = list[tuple[str, int]]


def program(requests: Requests) -> Program:
    text = "".join(f"{name} {address:#x}\n" for name, address in requests)
    return parse_trace(text.encode(), DEVICE.organization, where="test")


def device(**timing: int) -> DramDevice:
    return DEVICE.model_copy(update={"timing": DEVICE.timing | timing})


def play(
    requests: Requests,
    placement: Placement,
    power_limited: bool = True,
    on: DramDevice = DEVICE,
) -> TimedRun:
    tables = resolve_timing(on, placement, power_limited=power_limited)
    return run(program(requests), tables, log=True)


def commands(timed: TimedRun, channel: int = 0) -> list[tuple[int, str]]:
    assert timed.log is not None
    return [(entry.cycle, entry.command) for entry in timed.log if entry.channel == channel]


@pytest.mark.parametrize(
    ("placement", "requests", "expected"),
    [
        # nRCD, and the cadence of multiplies.
        (BANK, [(AB, 0), (AB, COLUMN)], [(1, "ACTAB"), (20, "MACAB"), (26, "MACAB")]),
        # nRAS holds the precharge back, nRP the next activate.
        (
            BANK,
            [(AB, 0), (AB, ROW)],
            [(1, "ACTAB"), (20, "MACAB"), (46, "PREA"), (65, "ACTAB"), (84, "MACAB")],
        ),
        # nRTPL after the fifth multiply is later than nRAS.
        (
            BANK,
            [(AB, 0)] * 5 + [(AB, ROW)],
            [
                (1, "ACTAB"),
                (20, "MACAB"),
                (26, "MACAB"),
                (32, "MACAB"),
                (38, "MACAB"),
                (44, "MACAB"),
                (52, "PREA"),
                (71, "ACTAB"),
                (90, "MACAB"),
            ],
        ),
        # The banks of a command in another bank, group, rank or pseudo-channel are all open.
        (
            BANK,
            [(AB, 0), (AB, B + G + R)],
            [(1, "ACTAB"), (20, "MACAB"), (26, "MACAB")],
        ),
        # Bank indices have rows of their own; nACT between their activates.
        (
            BANKGROUP,
            [(SB, 0), (SB, B), (SB, G + R)],
            [(1, "ACTSB"), (3, "ACTSB"), (20, "MACSB"), (26, "MACSB"), (32, "MACSB")],
        ),
        (
            BANKGROUP,
            [(SB, 0), (SB, ROW)],
            [(1, "ACTSB"), (20, "MACSB"), (46, "PRESB"), (65, "ACTSB"), (84, "MACSB")],
        ),
        # Another rank, another group of the same rank, the same group: nBL, nCCDS, nCCDL.
        (
            BUFFER,
            [(PB, 0), (PB, R)],
            [(1, "ACTPB"), (3, "ACTPB"), (20, "MACPB"), (22, "MACPB")],
        ),
        (
            BUFFER,
            [(PB, 0), (PB, G)],
            [(1, "ACTPB"), (3, "ACTPB"), (20, "MACPB"), (22, "MACPB")],
        ),
        (
            BUFFER,
            [(PB, 0), (PB, B)],
            [(1, "ACTPB"), (3, "ACTPB"), (20, "MACPB"), (24, "MACPB")],
        ),
        (
            BUFFER,
            [(PB, 0), (PB, ROW)],
            [(1, "ACTPB"), (20, "MACPB"), (46, "PREPB"), (65, "ACTPB"), (84, "MACPB")],
        ),
        # Moves: the same group, another group, another rank, another pseudo-channel.
        (BANK, [(WR, 0), (MV, B)], [(1, "WRGB"), (5, "MVSB")]),
        (BANK, [(MV, 0), (GB, G)], [(1, "MVSB"), (3, "MVGB")]),
        (BANK, [(GB, 0), (SFM, R)], [(1, "MVGB"), (3, "SFM")]),
        (BANK, [(SFM, 0), (WR, P)], [(1, "SFM"), (2, "WRGB")]),
        # A row command and a column command in one cycle; moves run beside multiplies.
        (BANK, [(WR, 0), (AB, 0)], [(1, "WRGB"), (1, "ACTAB"), (20, "MACAB")]),
        (BANK, [(AB, 0), (WR, B)], [(1, "ACTAB"), (1, "WRGB"), (20, "MACAB")]),
        (
            BANK,
            [(AB, 0), (AB, 0), (WR, B), (WR, B), (WR, B), (WR, B), (WR, B), (WR, B)],
            [
                (1, "ACTAB"),
                (1, "WRGB"),
                (5, "WRGB"),
                (9, "WRGB"),
                (13, "WRGB"),
                (17, "WRGB"),
                (20, "MACAB"),
                (21, "WRGB"),
                (26, "MACAB"),
            ],
        ),
        # A younger move yields to every queued row hit on the same bank address.
        (BANK, [(AB, 0), (WR, 0)], [(1, "ACTAB"), (20, "MACAB"), (21, "WRGB")]),
        (
            BANK,
            [(AB, 0), (AB, 0), (WR, 0)],
            [(1, "ACTAB"), (20, "MACAB"), (26, "MACAB"), (27, "WRGB")],
        ),
        # An older one does not: it is the candidate as soon as it is the oldest.
        (
            BANK,
            [(AB, 0), (WR, 0), (AB, 0)],
            [(1, "ACTAB"), (20, "MACAB"), (21, "WRGB"), (26, "MACAB")],
        ),
    ],
)
def test_commands_by_hand(
    placement: Placement, requests: Requests, expected: list[tuple[int, str]]
) -> None:
    """Catches a command that issues a cycle early or late."""
    timed = play(requests, placement)
    assert commands(timed) == expected
    assert timed.cycles == expected[-1][0]
    assert timed.time_ns == timed.cycles * 0.769


def test_the_cadence_without_a_power_limit() -> None:
    """Catches a power limit that cannot be lifted."""
    for name, placement in ((AB, BANK), (SB, BANKGROUP)):
        timed = play([(name, 0), (name, 0)], placement, power_limited=False)
        assert [cycle for cycle, _ in commands(timed)] == [1, 20, 24]


def test_a_row_reopens_no_earlier_than_its_cycle_time() -> None:
    """Catches nRC that is ignored: on this device it is longer than nRAS + nRP."""
    for name, placement in ((AB, BANK), (SB, BANKGROUP), (PB, BUFFER)):
        timed = play([(name, 0), (name, ROW)], placement, on=device(nRC=100))
        assert [cycle for cycle, _ in commands(timed)] == [1, 20, 46, 101, 120]


@pytest.mark.parametrize(
    ("timing", "requests", "expected"),
    [
        # Due at 50. The second activate waits for it: PREA at 46 -> REFab of pseudo-channel 0
        # after nRP, of the other, where nothing was precharged, in the next cycle, then nRFC.
        (
            {},
            [(AB, 0), (AB, ROW)],
            [
                (1, "ACTAB"),
                (20, "MACAB"),
                (46, "PREA"),
                (65, "REFab"),
                (66, "REFab"),
                (76, "ACTAB"),
                (95, "MACAB"),
            ],
        ),
        # Due at 50 with an open row. Row hits go on and hold its precharge off by nRTPL each.
        (
            {},
            [(AB, 0)] * 7,
            [
                (1, "ACTAB"),
                (20, "MACAB"),
                (26, "MACAB"),
                (32, "MACAB"),
                (38, "MACAB"),
                (44, "MACAB"),
                (50, "MACAB"),
                (56, "MACAB"),
                (64, "PREA"),
                (83, "REFab"),
                (84, "REFab"),
            ],
        ),
        # With nRTPL below the cadence, the precharge comes between two of them.
        (
            {"nRTPL": 5},
            [(AB, 0)] * 7,
            [
                (1, "ACTAB"),
                (20, "MACAB"),
                (26, "MACAB"),
                (32, "MACAB"),
                (38, "MACAB"),
                (44, "MACAB"),
                (50, "PREA"),
                (69, "REFab"),
                (70, "REFab"),
                (80, "ACTAB"),
                (99, "MACAB"),
                (105, "MACAB"),
                (125, "PREA"),
                (144, "REFab"),
                (145, "REFab"),
            ],
        ),
    ],
)
def test_refresh_by_hand(
    timing: dict[str, int], requests: Requests, expected: list[tuple[int, str]]
) -> None:
    """Catches a refresh that comes early, late, without its precharge, or that stops too much."""
    timed = play(requests, BANK, on=device(nREFI=50, nRFC=10, **timing))
    assert commands(timed) == expected
    assert timed.cycles == expected[-1][0]


def test_a_refresh_closes_every_bank() -> None:
    """Catches a placement of many open rows of which the refresh closes some only."""
    timed = play([(PB, 0), (PB, G), (PB, R)] * 20, BUFFER, on=device(nREFI=60, nRFC=10))
    names = [name for _, name in commands(timed)]
    first_refresh = names.index("REFab")
    assert names[first_refresh - 1] == "PREA"
    assert names[:first_refresh].count("ACTPB") == 3
    assert names[first_refresh:].count("ACTPB") >= 3


def test_a_barrier_holds_columns_back_and_lets_rows_through() -> None:
    """Catches a multiply or move that overtakes a barrier, and an activate that waits for it."""
    timed = play([(SB, 0), (BAR, 0), (WR, 0), (SB, B)], BANKGROUP)
    names = commands(timed)
    # Bank 1 opens behind the barrier; the write waits for the multiply before it.
    assert names == [(1, "ACTSB"), (3, "ACTSB"), (20, "MACSB"), (21, "WRGB"), (26, "MACSB")]


def test_every_second_barrier_takes_a_command() -> None:
    """Catches barriers that all leave at once, or each in a cycle of its own.

    In cycle 1, behind the write, one is taken off silently and the next one issued; in cycle 2
    the same with the other two, which ends the cycle.
    """
    timed = play([(WR, 0), *[(BAR, 0)] * 4, (WR, P)], BANK)
    assert commands(timed) == [(1, "WRGB"), (1, "BARRIER"), (2, "BARRIER"), (3, "WRGB")]


def test_one_full_queue_blocks_every_channel() -> None:
    """Catches queues of another size, and requests that enter past a blocked one.

    33 requests of channel 0 fit; its 34th enters in the cycle after the first has left, and the
    write of channel 1 only behind that.
    """
    requests = [(AB, 0)] * 34 + [(WR, C)]
    timed = play(requests, BANK)
    assert commands(timed)[:2] == [(1, "ACTAB"), (20, "MACAB")]
    assert commands(timed, 1) == [(21, "WRGB")]
    assert commands(play([(AB, 0)] * 33 + [(WR, C)], BANK), 1) == [(1, "WRGB")]


def test_the_log_spells_out_addresses() -> None:
    """Catches fields that are swapped, and maintenance that claims an address it has not."""
    address = 3 * C + P + R + 2 * G + 3 * B + 5 * ROW + 7 * COLUMN
    timed = play([(MV, address)], BANK)
    assert timed.log is not None
    (only,) = (entry for entry in timed.log if entry.channel == 3)
    place = (only.channel, only.pseudo_channel, only.rank, only.bank_group, only.bank, only.row)
    assert (*place, only.column) == (3, 1, 1, 2, 3, 5, 7)
    refreshed = play([(AB, 0), (AB, ROW)], BANK, on=device(nREFI=50, nRFC=10)).log
    assert refreshed is not None
    refreshes = [entry for entry in refreshed if entry.command == "REFab" and entry.channel == 9]
    assert [(e.pseudo_channel, e.rank, e.bank_group, e.bank, e.row) for e in refreshes[:2]] == [
        (0, -1, -1, -1, -1),
        (1, -1, -1, -1, -1),
    ]


def test_the_log_is_in_order_and_agrees_with_the_counts() -> None:
    """Catches a log that loses commands of channels that are simulated together."""
    timed = play([(AB, c * C) for c in range(16)] + [(AB, c * C + ROW) for c in range(5)], BANK)
    assert timed.log is not None
    order = [(entry.cycle, entry.channel) for entry in timed.log]
    assert order == sorted(order)
    for name in ("ACTAB", "MACAB", "PREA", "REFab", "WRGB"):
        assert timed.count(name) == sum(entry.command == name for entry in timed.log)
    assert (timed.count("ACTAB"), timed.count("MACAB"), timed.count("PREA")) == (21, 21, 5)
    assert timed.count("NOP") == 0


def test_without_a_log_the_same_but_no_log() -> None:
    """Catches a run that depends on being logged."""
    tables = resolve_timing(DEVICE, BANK, power_limited=True)
    one = program([(AB, 0), (AB, ROW)])
    silent, logged = run(one, tables), run(one, tables, log=True)
    assert silent.log is None
    assert (silent.cycles, silent.commands) == (logged.cycles, logged.commands)


def test_channels_need_not_be_alike() -> None:
    """Catches channels that are simulated together although a step tells them apart."""
    requests = [(AB, c * C) for c in range(4)] + [(AB, 2 * C + ROW)]
    timed = play(requests, BANK)
    assert [cycle for cycle, _ in commands(timed, 2)] == [1, 20, 46, 65, 84]
    for channel in (0, 1, 3):
        assert [cycle for cycle, _ in commands(timed, channel)] == [1, 20]
    assert commands(timed, 4) == []


def test_an_empty_program_takes_the_first_cycle() -> None:
    """Catches an engine that fails, or refreshes for ever, when there is nothing to do."""
    timed = play([], BANK)
    assert (timed.cycles, timed.log) == (1, ())
    assert sum(entry.count for entry in timed.commands) == 0


@pytest.mark.parametrize(
    ("requests", "placement", "message"),
    [
        ([("LD", 0), ("LD", 32), (AB, 0)], BANK, r"holds 2 LD requests.*beside a program"),
        ([(AB, 0), ("ST", 0)], BANK, r"holds 1 ST requests"),
        ([(AB, 0)], BUFFER, r"holds MACAB requests, which a stack with its units per buffer"),
        ([(AB, 0), (SB, 0)], BANK, r"holds MACSB requests, which a stack with its units per bank "),
    ],
)
def test_what_the_engine_refuses(requests: Requests, placement: Placement, message: str) -> None:
    """Catches requests that would be timed as something else."""
    with pytest.raises(InputError, match=message):
        play(requests, placement)


def test_a_program_of_another_organisation_is_refused() -> None:
    """Catches addresses that are cut into the wrong fields."""
    smaller = DEVICE.model_copy(
        update={"organization": DEVICE.organization.model_copy(update={"rows": 8192})}
    )
    tables = resolve_timing(smaller, BANK, power_limited=True)
    with pytest.raises(InputError, match="another organisation than hbm3-5"):
        run(program([(AB, 0)]), tables)


def test_rows_that_close_for_each_other_for_ever_are_reported() -> None:
    """Catches an endless loop on a device whose rows close before they can be read."""
    with pytest.raises(InputError, match=r"hbm3.*no request.*is ever served \(.*nRAS and nRCD"):
        play([(AB, 0), (AB, ROW + B)], BANK, on=device(nRAS=1, nRP=1, nRC=1))


def test_kinds_of_requests_and_commands_agree_with_the_kernels() -> None:
    """Catches a number that one file changed and another one did not."""
    from attacc.pim.program import schedule_kernel
    from attacc.pim.program.program import Kind
    from attacc.pim.timing import controller_kernel as kernel
    from attacc.pim.timing.tables import ROW_CODES, Code

    for name in ("BARRIER", "WRGB", "MVSB", "MVGB", "SFM"):
        assert getattr(schedule_kernel, name) == Kind[name]
    for name in ("ACTIVATE", "MULTIPLY", "PRECHARGE", "PRECHARGE_ALL", "REFRESH"):
        assert getattr(kernel, name) == Code[name]
    assert [kernel.is_row_code(int(code)) for code in Code] == [c in ROW_CODES for c in Code]
    assert max(Code) < kernel.BARRIER
    assert np.iinfo(np.int16).max >= 1024, "channels of a stack must fit"


@pytest.mark.parametrize("beside", [None, streaming(STREAMED.organization, Kind.LD, 2**16)])
@pytest.mark.parametrize("schedule", [Schedule.COMPLETE, Schedule.INTERLEAVED])
def test_what_is_told_does_not_depend_on_the_room_for_it(
    monkeypatch: pytest.MonkeyPatch, schedule: Schedule, beside: Traffic | None
) -> None:
    """Catches commands that are lost, or told twice, where a log or its windows have to grow."""
    layout = KeyLayout(STREAMED.organization, BANKGROUP, 64, ElementType.FP16)
    tables = resolve_timing(STREAMED, BANKGROUP, power_limited=True)
    if schedule is Schedule.COMPLETE:
        played = attention_program(layout.head(1000), 20, schedule)
    else:
        chunks = Assignment.of([[Chunk(0, 0, 2000 + 16 * channel)] for channel in range(16)])
        played = interleaved_program(
            STREAMED, layout, chunks, multiply_interval=tables.multiply_interval
        )
    told: list[TimedRun] = []
    for entries, windows in ((100, 1), (10**5, 10**4)):
        room = partial(small_room, entries, windows)
        monkeypatch.setattr(Room, "begun", room)
        told.append(run(played, tables, log=True, window_cycles=97, traffic=beside))
    small, large = told
    assert small.log == large.log
    assert small.windows is not None
    assert large.windows is not None
    assert np.array_equal(small.windows, large.windows)
    assert small.windows.sum() == sum(count.count for count in small.commands)
    assert len(small.windows) == -(-small.cycles // 97) > 64


def small_room(entries: int, windows: int, _: Stream, *, log: bool, window_cycles: int) -> Room:
    """Return room of a given size, whatever the stream."""
    return Room(
        np.zeros((entries if log else 0, 5), dtype=np.int64),
        np.zeros((windows if window_cycles else 0, len(Code)), dtype=np.int64),
        window_cycles,
    )
