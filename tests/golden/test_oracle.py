"""The naive controller and schedule against the golden data they were written from."""

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import share
from tests.oracle import schedule, timing

pytestmark = pytest.mark.untraced  # the naive controllers would take three times as long

PLACEMENTS: tuple[timing.Placement, ...] = ("bank", "bankgroup", "buffer")
TRACES_PER_PLACEMENT = share.examples(__name__, 10, 4)
# The buffer placement has only a few traces as small as the others' ten smallest.
LONGEST_TRACE = {"bank": 4_000, "bankgroup": 4_000, "buffer": 7_000}
LONGEST_TEXT = 20_000
LOGGED: dict[str, timing.Placement] = {
    "bank_h16_L256_d128_b2_pc": "bank",
    "bank_h3_L4096_d64_b2_pc": "bank",
    "bank_h20_L777_d128_b2_pc": "bank",
    "bg_h16_L256_d128_b2_pc": "bankgroup",
    "bg_h40_L257_d96_b2_pc": "bankgroup",
    "buffer_h8_L16_d128_b2_npc": "buffer",
    "buffer_h17_L257_d128_b2_pc": "buffer",
}


class Golden(NamedTuple):
    """One row of golden/timing.csv."""

    trace: str
    heads: int
    length: int
    head_dim: int
    element_bytes: int
    power_limited: bool
    lines: int
    cycles: int


def golden(reference: Path, placement: str) -> list[Golden]:
    with (reference / "reference/golden/timing.csv").open(newline="") as file:
        rows = [
            Golden(
                trace=row["trace"],
                heads=int(row["heads"]),
                length=int(row["length"]),
                head_dim=int(row["head_dim"]),
                element_bytes=int(row["element_bytes"]),
                power_limited=row["power_limited"] == "1",
                lines=int(row["trace_lines"]),
                cycles=int(row["cycles"]),
            )
            for row in csv.DictReader(file)
            if row["placement"] == placement
        ]
    return sorted(rows, key=lambda row: row.lines)


def lines_of(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return file.read().splitlines()


def cadence(*, power_limited: bool) -> dict[str, int]:
    return timing.HBM3_5200 if power_limited else timing.HBM3_5200_UNLIMITED


@pytest.mark.reference
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_cycles_of_small_golden_traces(reference: Path, placement: timing.Placement) -> None:
    """Any misreading of the controller, or of the end of a run, shifts these counts."""
    rows = [row for row in golden(reference, placement) if row.lines <= LONGEST_TRACE[placement]]
    chosen = rows[:: len(rows) // TRACES_PER_PLACEMENT][:TRACES_PER_PLACEMENT]
    assert len(chosen) == TRACES_PER_PLACEMENT

    counted: dict[str, int] = {}
    for row in chosen:
        requests = timing.parse(reference / "reference/golden/traces" / row.trace)
        result = timing.simulate(
            requests, placement=placement, timing=cadence(power_limited=row.power_limited)
        )
        counted[row.trace] = result.cycles

    assert counted == {row.trace: row.cycles for row in chosen}


@pytest.mark.reference
@pytest.mark.parametrize("name", share.cases(__name__, list(LOGGED), 3))
def test_commands_of_logged_traces(reference: Path, name: str) -> None:
    """Errors that cancel in the cycle count (order, addresses, refresh) show line by line."""
    folder = reference / "reference/golden/command_logs"
    result = timing.simulate(
        timing.parse(folder / f"{name}.trace.gz"),
        placement=LOGGED[name],
        timing=cadence(power_limited=name.endswith("_pc")),
    )
    for channel in (0, 15):
        log = [command.line() for command in result.log if command.channel == channel]
        assert log == lines_of(folder / f"{name}.ch{channel}.log.gz")


@pytest.mark.reference
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_published_schedule_is_the_golden_text(reference: Path, placement: str) -> None:
    """A command dropped, repeated or moved otherwise than as published changes the text."""
    rows = [row for row in golden(reference, placement) if row.lines <= LONGEST_TEXT]
    assert rows
    for row in rows:
        text = schedule.published(placement, row.heads, row.length, row.head_dim, row.element_bytes)
        assert text == lines_of(reference / "reference/golden/traces" / row.trace), row.trace


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("PIM_MAC_XB 0x0", "PIM_MAC_XB"), ("PIM_SFM", "line 1"), ("PIM_SFM 16", "PIM_SFM 16")],
)
def test_malformed_line_is_refused(line: str, complaint: str) -> None:
    """A typo in a random program would otherwise be timed as something else."""
    with pytest.raises(ValueError, match=complaint):
        timing.parse([line])


def test_foreign_mac_is_refused() -> None:
    """A buffer MAC in the bank placement has no rules and would issue at will."""
    requests = timing.parse(["PIM_MAC_PB 0x0"])
    with pytest.raises(ValueError, match="PIM_MAC_PB is not part of the bank placement"):
        timing.simulate(requests, placement="bank", timing=timing.HBM3_5200)
