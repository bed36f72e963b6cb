"""The complete rule set, restated by hand: a latency, scope or command that is off by one shows."""

from itertools import product

import pytest

from attacc.hardware.dram import DRAMS, ActivateWindow, DramDevice, Scope, evaluate_cycles
from tests.oracle import timing as oracle

DEVICE = DRAMS.load("hbm3-5.2")

Waits = dict[tuple[Scope, str, str, int], int]
"""Scope, preceding command, following command, window -> cycles."""

UNITS = ("ACTAB", "ACTSB", "ACTPB")
MULTIPLIES = ("MACAB", "MACSB", "MACPB")
CLOSING = ("PREA", "PRESB", "PREPB")
OUT, IN = ("MVSB", "SFM"), ("WRGB", "MVGB", "SFM")
CHANNEL, PSEUDO_CHANNEL, BANK = Scope.CHANNEL, Scope.PSEUDO_CHANNEL, Scope.BANK
RANK, BANK_GROUP = Scope.RANK, Scope.BANK_GROUP
OWN = {"ACTAB": CHANNEL, "ACTSB": Scope.BANK_INDEX, "ACTPB": Scope.BANK_PAIR}

ORDINARY: list[tuple[Scope, tuple[str, ...], tuple[str, ...], int]] = [
    # Rows.
    (PSEUDO_CHANNEL, ("ACT",), ("ACT",), 2),
    (BANK_GROUP, ("ACT",), ("ACT",), 4),
    (BANK, ("ACT",), ("ACT",), 63),
    (BANK, ("ACT",), ("RD",), 19),
    (BANK, ("ACT",), ("WR",), 19),
    (BANK, ("ACT",), ("PRE",), 45),
    (BANK, ("RD",), ("PRE",), 8),
    (BANK, ("WR",), ("PRE",), 6 + 2 + 21),
    (BANK, ("PRE",), ("ACT",), 19),
    (PSEUDO_CHANNEL, ("PRE",), ("PRE",), 1),
    # PREA closes them, in both pseudo-channels.
    (CHANNEL, ("ACT",), ("PREA",), 45),
    (CHANNEL, ("RD",), ("PREA",), 8),
    (CHANNEL, ("WR",), ("PREA",), 6 + 2 + 21),
    (CHANNEL, ("PREA",), ("ACT",), 19),
    # The row bus, between all commands.
    (CHANNEL, ("ACT", *UNITS), ("ACT", *UNITS, *CLOSING, "PRE", "REFab", "REFsb"), 2),
    (CHANNEL, CLOSING, (*CLOSING, "PRE"), 1),
    (CHANNEL, ("PRE",), CLOSING, 1),
    # Columns.
    (PSEUDO_CHANNEL, ("RD",), ("RD",), 2),
    (RANK, ("RD",), ("RD",), 2),
    (BANK_GROUP, ("RD",), ("RD",), 4),
    (PSEUDO_CHANNEL, ("WR",), ("WR",), 2),
    (RANK, ("WR",), ("WR",), 2),
    (BANK_GROUP, ("WR",), ("WR",), 4),
    (PSEUDO_CHANNEL, ("RD",), ("WR",), 17),
    (PSEUDO_CHANNEL, ("WR",), ("RD",), 6 + 2 + 8),
    (BANK_GROUP, ("WR",), ("RD",), 6 + 2 + 11),
    # Refresh.
    (PSEUDO_CHANNEL, ("ACT",), ("REFab",), 63),
    (PSEUDO_CHANNEL, ("PRE",), ("REFab",), 19),
    (PSEUDO_CHANNEL, ("REFab",), ("ACT", "PRE"), 456),
    (BANK, ("ACT",), ("REFsb",), 63),
    (BANK, ("PRE",), ("REFsb",), 19),
    (PSEUDO_CHANNEL, ("ACT",), ("REFsb",), 4),
    (BANK, ("REFsb",), ("ACT",), 260),
    (PSEUDO_CHANNEL, ("REFsb",), ("ACT",), 11),
    # From the units' rows to ordinary ones, and back.
    *((scope, ("ACT",), (activate,), 63) for activate, scope in OWN.items()),
    *((scope, (activate,), ("ACT",), 63) for activate, scope in OWN.items()),
    *((scope, ("PRE",), (activate,), 19) for activate, scope in OWN.items()),
    (Scope.BANK_INDEX, ("PRESB",), ("ACT",), 19),
    (Scope.BANK_PAIR, ("PREPB",), ("ACT",), 19),
    # From moves to reads and writes, and back; the other way round the data path turns.
    (PSEUDO_CHANNEL, ("RD",), OUT, 2),
    (RANK, ("RD",), OUT, 2),
    (BANK_GROUP, ("RD",), OUT, 4),
    (PSEUDO_CHANNEL, OUT, ("RD",), 2),
    (RANK, OUT, ("RD",), 2),
    (BANK_GROUP, OUT, ("RD",), 4),
    (PSEUDO_CHANNEL, ("WR",), IN, 2),
    (RANK, ("WR",), IN, 2),
    (BANK_GROUP, ("WR",), IN, 4),
    (PSEUDO_CHANNEL, IN, ("WR",), 2),
    (RANK, IN, ("WR",), 2),
    (BANK_GROUP, IN, ("WR",), 4),
    (PSEUDO_CHANNEL, ("RD",), ("WRGB", "MVGB"), 17),
    (PSEUDO_CHANNEL, ("MVSB",), ("WR",), 17),
    (PSEUDO_CHANNEL, ("WR",), ("MVSB",), 16),
    (BANK_GROUP, ("WR",), ("MVSB",), 19),
    (PSEUDO_CHANNEL, ("WRGB", "MVGB"), ("RD",), 16),
    (BANK_GROUP, ("WRGB", "MVGB"), ("RD",), 19),
]
"""All rules about RD, WR, ACT and PRE but nFAW, in cycles of hbm3-5.2."""

SCOPES = {
    "channel": CHANNEL,
    "pch": PSEUDO_CHANNEL,
    "rank": RANK,
    "bank group": BANK_GROUP,
    "bank": BANK,
    "rank of both pchs": Scope.RANK_PAIR,
    "bank group of both pchs": Scope.BANK_GROUP_PAIR,
    "bank of both pchs": Scope.BANK_PAIR,
    "bank index": Scope.BANK_INDEX,
}
PLACEMENTS: tuple[oracle.Placement, ...] = ("bank", "bankgroup", "buffer")


def longest(
    rules: list[tuple[Scope, tuple[str, ...], tuple[str, ...], int, int]],
) -> Waits:
    waits: Waits = {}
    for scope, before, after, cycles, window in rules:
        for first, second in product(before, after):
            key = (scope, first, second, window)
            waits[key] = max(cycles, waits.get(key, 0))
    return waits


def by_rules(device: DramDevice) -> Waits:
    parameters = device.parameters(power_limited=True)
    return longest(
        [
            (r.scope, r.before, r.after, evaluate_cycles(r.latency, parameters), r.window)
            for r in device.rule_set.rules
        ]
    )


WINDOWS = {
    # Sets of four banks that ACTAB and ACTSB open one after the other: of the 32 banks of a
    # pseudo-channel, or of the 16 of a rank; of 8, or 4, banks of an index.
    ActivateWindow.NONE: {"bank": 0, "bankgroup": 0, "buffer": 0},
    ActivateWindow.RANK: {"bank": 4, "bankgroup": 1, "buffer": 0},
    ActivateWindow.PSEUDO_CHANNEL: {"bank": 8, "bankgroup": 2, "buffer": 0},
}


@pytest.mark.parametrize("window", list(ActivateWindow))
def test_the_complete_rules_are_those_of_oracle_and_page(window: ActivateWindow) -> None:
    """Catches any rule a cycle too long or too short, at another scope, missing or superfluous."""
    device = DEVICE.model_copy(update={"four_activate_window": window})
    timing = DEVICE.parameters(power_limited=True)
    windows = WINDOWS[window]
    late = {
        "ACTAB": 39 * max(0, windows["bank"] - 1),
        "ACTSB": 39 * max(0, windows["bankgroup"] - 1),
    }
    expected = longest(
        [
            (SCOPES[r.scope], r.preceding, r.following, r.latency, r.window)
            for placement in PLACEMENTS
            for r in oracle.complete_timing_table(placement, timing, windows[placement])
        ]
        + [(*rule, 1) for rule in ORDINARY]
        # An ordinary activate after that of units, whose last banks open later than the first.
        + [(OWN[name], (name,), ("ACT",), 63 + cycles, 1) for name, cycles in late.items()]
        + [(PSEUDO_CHANNEL, ("ACT",), ("ACT",), 39, 4)]
    )
    assert by_rules(device) == expected
