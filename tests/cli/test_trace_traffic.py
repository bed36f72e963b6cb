"""``attacc trace run --traffic``."""

from pathlib import Path

import numpy as np
import pytest

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.pim.program.trace import read_trace
from attacc.pim.program.traffic import read_traffic
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests.cli.console import answer, document, refusal

DEVICE = DRAMS.load("hbm3-5.2")
ON = ("--device", "hbm3-5.2")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    path = tmp_path / "units.trace"
    path.write_text("".join(f"PIM_MAC_AB {column * 32:#x}\n" for column in range(32)))
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    path = tmp_path / "host.trace"
    lines = [f"LD {i << 10 | (i % 3) << 26:#x} {40 * i}\n" for i in range(120)]
    path.write_text("ST 0x0\nST 0x400\n" + "".join(lines))
    return path


def test_figures_are_those_of_the_library(units: Path, host: Path) -> None:
    """A wait from the wrong moment, reads told as writes, a bandwidth of something else."""
    got = document("trace", "run", units, "--traffic", host, *ON)[0]
    traffic = read_traffic(host, DEVICE.organization)
    timed = run(
        read_trace(units, DEVICE.organization),
        resolve_timing(DEVICE, Placement.BANK, power_limited=True),
        traffic=traffic,
    )
    assert timed.traffic is not None
    assert got["cycles"] == timed.cycles
    assert got["requests"]["mac"] == 32
    assert got["commands"]["RD"] == 120
    assert got["commands"]["WR"] == 2
    told = got["traffic"]
    assert list(told) == ["file", "bytes", "bytes_per_s", "reads", "writes"]
    assert (told["file"], told["bytes"]) == (str(host), 122 * 32)
    assert told["bytes_per_s"] == timed.traffic.bytes_per_s
    waits = np.sort((timed.traffic.served - np.maximum(traffic.arrival, 1))[2:])
    assert told["reads"]["requests"] == 120
    assert abs(told["reads"]["mean_wait_ns"] - waits.mean() * DEVICE.clock_ns) < 1e-6
    # 119 of 120 are 99 %; 118 are not.
    assert abs(told["reads"]["p99_wait_ns"] - waits[118] * DEVICE.clock_ns) < 1e-6
    assert told["writes"]["requests"] == 2


def test_tables_tell_the_same(units: Path, host: Path) -> None:
    """A table without the traffic, of one trace or of several."""
    one = answer("trace", "run", units, "--traffic", host, *ON)
    assert "host.trace beside it: 3.904 kB at" in one
    rows = [line.split() for line in one.splitlines()]
    assert [row[1] for row in rows if row[:1] == ["reads"]] == ["120"]
    assert [row[1] for row in rows if row[:1] == ["writes"]] == ["2"]
    several = answer("trace", "run", units, units, "--traffic", host, *ON)
    assert several.count("GB/s") == 2
    assert "GB/s" not in answer("trace", "run", units, units, *ON)


def test_one_direction_only(units: Path, tmp_path: Path) -> None:
    """A mean of nothing."""
    path = tmp_path / "stores.trace"
    path.write_text("ST 0x0\n")
    told = document("trace", "run", units, "--traffic", path, *ON)[0]["traffic"]
    assert told["reads"] is None
    assert told["writes"]["requests"] == 1
    assert "reads" not in answer("trace", "run", units, "--traffic", path, *ON)


def test_the_log_holds_the_traffic(units: Path, host: Path, tmp_path: Path) -> None:
    """A log of the trace alone; one that the audit finds fault with."""
    log = tmp_path / "commands.log"
    document("trace", "run", units, "--traffic", host, "--log", log, *ON)
    names = [line.split(", ")[1] for line in log.read_text().splitlines()]
    assert names.count("RD") == 120
    assert names.count("MACAB") == 32
    assert document("trace", "check", log, *ON)["legal"] is True


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("LD 0x0 5\nLD 0x0 4\n", "line 2: arrival 4"),
        ("PIM_SFM 0x0\n", "line 1: SFM is no ordinary request"),
        ("\n\n", "holds no requests"),
    ],
)
def test_bad_traffic_names_its_line(units: Path, tmp_path: Path, text: str, part: str) -> None:
    """A message about the trace instead."""
    path = tmp_path / "host.trace"
    path.write_text(text)
    message = refusal("trace", "run", units, "--traffic", path, *ON)
    assert "host.trace" in message
    assert part in message


def test_what_traffic_is_refused(units: Path, host: Path, tmp_path: Path) -> None:
    """A device that cannot, a file that is not there, one that the log would overwrite."""
    message = refusal("trace", "run", units, "--traffic", host)
    assert "hbm3-5.2-asplos24 has no commands for ordinary reads" in message
    assert "no such file" in refusal("trace", "run", units, "--traffic", tmp_path / "n", *ON)
    before = host.read_text()
    refusal("trace", "run", units, "--traffic", host, "--log", host, *ON)
    assert host.read_text() == before
