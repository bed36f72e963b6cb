"""Resolved gates and latencies against the rules of reference/controller.md, evaluated by hand."""

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from attacc.hardware.dram import DRAMS, Organization, Scope
from attacc.hardware.placement import Placement
from attacc.pim.timing.tables import Code, TimingTables, resolve_timing, scope_instances

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
BANKS = 64
ACT, MAC, PRE, PREA, REF = list(Code)[:5]
CADENCE = -1
"""Stands for the cadence of multiplies, which depends on the power limit."""
MOVES = (Code.WRGB, Code.MVSB, Code.MVGB, Code.SFM)

Waits = npt.NDArray[np.int64]
"""(codes, codes, banks, banks): cycles from a command at a bank to another at another bank."""

HAND = [
    # Of all placements: a two-cycle activate, refresh, and moves.
    ("", "", (ACT,), (ACT, PRE, PREA, REF), 2),
    ("", "p", (ACT,), (REF,), 63),
    ("", "p", (PRE, PREA), (REF,), 19),
    ("", "", (REF,), (ACT,), 456),
    ("", "p", MOVES, MOVES, 2),
    ("", "pr", MOVES, MOVES, 2),
    ("", "prg", MOVES, MOVES, 4),
    ("bank", "", (MAC,), (MAC,), CADENCE),
    ("bank", "", (ACT,), (ACT,), 63),
    ("bank", "", (ACT,), (MAC,), 19),
    ("bank", "", (ACT,), (PREA,), 45),
    ("bank", "", (MAC,), (PREA,), 8),
    ("bank", "", (PREA,), (ACT,), 19),
    ("bankgroup", "", (MAC,), (MAC,), CADENCE),
    ("bankgroup", "b", (ACT,), (ACT,), 63),
    ("bankgroup", "b", (ACT,), (MAC,), 19),
    ("bankgroup", "b", (ACT,), (PRE,), 45),
    ("bankgroup", "b", (MAC,), (PRE,), 8),
    ("bankgroup", "b", (PRE,), (ACT,), 19),
    ("buffer", "", (MAC,), (MAC,), 2),
    # A MACPB carries the address of pseudo-channel 0, and acts in both.
    ("buffer", "pr", (MAC,), (MAC,), 2),
    ("buffer", "prg", (MAC,), (MAC,), 4),
    ("buffer", "rgb", (ACT,), (ACT,), 63),
    ("buffer", "rgb", (ACT,), (MAC,), 19),
    ("buffer", "rgb", (ACT,), (PRE,), 45),
    ("buffer", "rgb", (MAC,), (PRE,), 8),
    ("buffer", "rgb", (PRE,), (ACT,), 19),
]
"""Placement (or all), fields that must be equal, preceding and following commands, cycles."""


def fields() -> dict[str, npt.NDArray[np.int64]]:
    bank = np.arange(BANKS)
    return {"p": bank // 32, "r": bank // 16 % 2, "g": bank // 4 % 4, "b": bank % 4}


def by_hand(placement: Placement, cadence: int) -> Waits:
    waits = np.zeros((len(Code), len(Code), BANKS, BANKS), dtype=np.int64)
    for where, scope, before, after, cycles in HAND:
        if where not in ("", placement.value):
            continue
        meet = np.ones((BANKS, BANKS), dtype=bool)
        for name in scope:
            field = fields()[name]
            meet &= field[:, None] == field[None, :]
        wait = meet * (cadence if cycles == CADENCE else cycles)
        for first, second in product(before, after):
            waits[first, second] = np.maximum(waits[first, second], wait)
    if placement is Placement.BANK:
        # There PRE is PREA.
        for code in Code:
            waits[PRE, code] = waits[PREA, code] = np.maximum(waits[PRE, code], waits[PREA, code])
            waits[code, PRE] = waits[code, PREA] = np.maximum(waits[code, PRE], waits[code, PREA])
    return waits


def by_tables(tables: TimingTables) -> Waits:
    waits = np.zeros((len(Code), len(Code), BANKS, BANKS), dtype=np.int64)
    for first, second in product(Code, Code):
        for i, cycles in enumerate(tables.latency[first]):
            raised = tables.raises[first, :, i]
            for waited in tables.waits[second].T:
                meet = (raised[:, None] == waited[None, :]) & (raised[:, None] >= 0)
                waits[first, second] = np.maximum(waits[first, second], meet * cycles)
    return waits


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize(("power_limited", "cadence"), [(True, 6), (False, 4)])
def test_every_wait_between_any_two_banks(
    placement: Placement, power_limited: bool, cadence: int
) -> None:
    """Catches a rule that is lost, at the wrong scope or latency, or about the wrong commands."""
    tables = resolve_timing(DEVICE, placement, power_limited=power_limited)
    hand, resolved = by_hand(placement, cadence), by_tables(tables)
    for first, second in product(Code, Code):
        assert np.array_equal(hand[first, second], resolved[first, second]), (first, second)


@pytest.mark.parametrize(
    ("placement", "names", "rows"),
    [
        (Placement.BANK, ("ACTAB", "MACAB", "PREA", "PREA", "REFab"), 1),
        (Placement.BANKGROUP, ("ACTSB", "MACSB", "PRESB", "PREA", "REFab"), 4),
        (Placement.BUFFER, ("ACTPB", "MACPB", "PREPB", "PREA", "REFab"), 32),
    ],
)
def test_names_and_open_rows(placement: Placement, names: tuple[str, ...], rows: int) -> None:
    """Catches commands of another placement, and banks that share the wrong open row."""
    tables = resolve_timing(DEVICE, placement, power_limited=True)
    assert tables.names == (*names, "WRGB", "MVSB", "MVGB", "SFM", "RD", "WR", "ACT", "PRE")
    assert tables.row_slots == rows
    assert sorted(set(tables.row_slot.tolist())) == list(range(rows))
    assert (tables.refreshes_per_interval, tables.banks_per_pseudo_channel) == (2, 32)
    assert (tables.refresh_bank.tolist(), tables.refresh_per_bank) == ([0, 32], False)
    assert tables.refresh_interval == 5070
    assert (tables.device, tables.clock_ns) == ("hbm3-5.2-asplos24", 0.769)


@pytest.mark.parametrize(
    ("placement", "limited", "unlimited"),
    [(Placement.BANK, 6, 4), (Placement.BANKGROUP, 6, 4), (Placement.BUFFER, 2, 2)],
)
def test_least_cycles_between_multiplies(
    placement: Placement, limited: int, unlimited: int
) -> None:
    """Catches an interval over which the kernel would skip cycles in which something happens."""
    intervals = [
        resolve_timing(DEVICE, placement, power_limited=p).multiply_interval for p in (True, False)
    ]
    assert intervals == [limited, unlimited]


def test_all_times_are_kept_and_none_twice() -> None:
    """Catches a time that nothing waits for or raises, or that a command waits for twice."""
    for placement in Placement:
        tables = resolve_timing(DEVICE, placement, power_limited=True)
        for table in (tables.waits, tables.raises):
            assert set(np.unique(table).tolist()) == set(range(-1, tables.slots))
            rows = table.reshape(-1, table.shape[2]).tolist()
            assert all(len({*row} - {-1}) == sum(x >= 0 for x in row) for row in rows)


@pytest.mark.parametrize(
    ("scope", "count"),
    [
        (Scope.CHANNEL, 1),
        (Scope.PSEUDO_CHANNEL, 2),
        (Scope.RANK, 8),
        (Scope.BANK_GROUP, 16),
        (Scope.BANK, 32),
        (Scope.BANK_INDEX, 2),
        (Scope.BANK_PAIR, 16),
    ],
)
def test_scopes_of_an_uneven_organisation(scope: Scope, count: int) -> None:
    """Catches sizes that are taken for those of HBM3."""
    organization = Organization(
        channels=2, pseudo_channels=2, ranks=4, bank_groups=2, banks=2, rows=8, columns=4,
        access_bytes=32,
    )  # fmt: skip
    instances, instances_count = scope_instances(organization, scope)
    assert instances_count == count
    assert instances.shape == (32,)
    assert sorted(set(instances.tolist())) == list(range(count))
    assert set(np.bincount(instances).tolist()) == {32 // count}
