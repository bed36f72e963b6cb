"""Traces, cycles and command logs of the reference controller."""

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import AddressLayout, Kind, Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.program.trace import format_trace, read_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
ELEMENTS = {"1": ElementType.INT8, "2": ElementType.FP16}
LONGEST_TEXT = 60_000
LOGGED = [
    "bank_h16_L256_d128_b2_pc",
    "bank_h20_L777_d128_b2_pc",
    "bank_h33_L2048_d128_b2_npc",
    "bank_h3_L4096_d64_b2_pc",
    "bg_h16_L256_d128_b2_pc",
    "bg_h17_L1500_d128_b2_npc",
    "bg_h40_L257_d96_b2_pc",
    "buffer_h17_L257_d128_b2_pc",
    "buffer_h33_L511_d96_b2_pc",
    "buffer_h8_L16_d128_b2_npc",
]


class Golden(NamedTuple):
    """One row of timing.csv and its trace."""

    row: dict[str, str]
    placement: Placement
    program: Program

    @property
    def published(self) -> Program:
        row = self.row
        layout = HeadLayout(
            DEVICE.organization,
            self.placement,
            int(row["head_dim"]),
            ELEMENTS[row["element_bytes"]],
            int(row["length"]),
        )
        return attention_program(layout, int(row["heads"]), Schedule.PUBLISHED)


def text_of(path: Path) -> str:
    with gzip.open(path, "rt") as file:
        return file.read()


@pytest.fixture(scope="module")
def golden(reference: Path) -> list[Golden]:
    folder = reference / "reference/golden"
    with (folder / "timing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 220
    return [
        Golden(
            row,
            Placement(row["placement"]),
            read_trace(folder / "traces" / row["trace"], DEVICE.organization),
        )
        for row in rows
    ]


@pytest.mark.reference
def test_every_golden_trace_takes_the_golden_cycles(golden: list[Golden]) -> None:
    """Catches any deviation of the controllers, of their rules, or of the end of a run."""
    counted: dict[str, int] = {}
    for row, placement, program in golden:
        tables = resolve_timing(DEVICE, placement, power_limited=row["power_limited"] == "1")
        counted[row["trace"]] = run(program, tables).cycles
    assert counted == {row["trace"]: int(row["cycles"]) for row, _, _ in golden}


@pytest.mark.reference
def test_every_golden_trace_holds_the_requests_of_its_row(golden: list[Golden]) -> None:
    """Catches lines that the parser drops, repeats or takes for another request."""
    for row, _, program in golden:
        counts = program.counts()
        macs = sum(counts.get(kind, 0) for kind in (Kind.MACAB, Kind.MACSB, Kind.MACPB))
        ours = [macs, *(counts[kind] for kind in (Kind.SFM, Kind.MVGB, Kind.MVSB, Kind.WRGB))]
        theirs = [int(row[name]) for name in ("mac", "softmax", "mvgb", "mvsb", "wrgb")]
        assert ours == theirs, row["trace"]
        assert program.requests == int(row["trace_lines"]), row["trace"]


@pytest.mark.untraced  # of long logs
@pytest.mark.reference
@pytest.mark.parametrize("name", LOGGED)
def test_command_logs_agree_line_by_line(reference: Path, name: str) -> None:
    """Catches errors that cancel in the cycle count: order, addresses, maintenance."""
    folder = reference / "reference/golden/command_logs"
    program = read_trace(folder / f"{name}.trace.gz", DEVICE.organization)
    tables = resolve_timing(DEVICE, program.placement(), power_limited=name.endswith("_pc"))
    log = run(program, tables, log=True).log
    assert log is not None
    for channel in (0, 15):
        ours = [
            f"{c.cycle}, {c.command}, {c.channel}, {c.pseudo_channel}, {c.rank}, {c.bank_group}, "
            f"{c.bank}, {c.row}, {c.column}"
            for c in log
            if c.channel == channel
        ]
        assert ours == text_of(folder / f"{name}.ch{channel}.log.gz").splitlines()


@pytest.mark.reference
def test_there_are_no_other_command_logs(reference: Path) -> None:
    """Catches a log that this file forgets to compare."""
    logs = (reference / "reference/golden/command_logs").glob("*.log.gz")
    names = {path.name.removesuffix(".log.gz") for path in logs}
    assert names == {f"{name}.ch{channel}" for name in LOGGED for channel in (0, 15)}


@pytest.mark.reference
def test_text_survives_reading_and_writing(golden: list[Golden], reference: Path) -> None:
    """Catches a request or address that changes when a trace is read and written again."""
    for row, _, program in golden[::4]:
        if int(row["trace_lines"]) <= LONGEST_TEXT:
            text = text_of(reference / "reference/golden/traces" / row["trace"])
            assert format_trace(program) == text, row["trace"]


@pytest.mark.untraced  # of long logs
@pytest.mark.reference
def test_the_published_schedule_is_the_golden_text(golden: list[Golden], reference: Path) -> None:
    """Catches a command dropped, repeated, moved or addressed otherwise than as published."""
    compared = 0
    for one in golden:
        if int(one.row["trace_lines"]) <= LONGEST_TEXT:
            text = text_of(reference / "reference/golden/traces" / one.row["trace"])
            assert format_trace(one.published) == text, one.row["trace"]
            compared += 1
    assert compared == 190


@pytest.mark.reference
def test_the_published_schedule_holds_the_golden_requests(golden: list[Golden]) -> None:
    """The same for the 30 traces that take too long as text: request by request."""
    for one in golden:
        if int(one.row["trace_lines"]) > LONGEST_TEXT:
            for ours, theirs in zip(lines(one.published), lines(one.program), strict=True):
                assert np.array_equal(ours, theirs), one.row["trace"]


def lines(program: Program) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Kind and byte address of every line that the text of a program would have."""
    width = program.channels.astype(np.int64)
    step = np.repeat(np.arange(len(program)), width)
    within = np.arange(len(step)) - (np.cumsum(width) - width)[step]
    channel = program.first_channel[step] + within
    bit = AddressLayout.of(program.organization).channel
    return program.kind[step], program.address[step] | channel << bit
