"""The timeline of docs/model/interleaving.md is that of a real run."""

from pathlib import Path

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.log import LoggedCommand
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import HeadLayout, allocate_chunks
from attacc.pim.program.interleaved import (
    chunk_grain,
    interleaved_program,
    longest_chunk,
    softmax_cycles,
)
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DOCS = Path(__file__).parents[3] / "docs" / "model" / "interleaving.md"
LENGTH = 1024
CYCLES_PER_CHARACTER = 50


def timeline() -> str:
    """What channel 0 does for two heads of 1,024 keys, one letter per head."""
    device = DRAMS.load("hbm3-5.2")
    layout = HeadLayout(device.organization, Placement.BANK, 128, ElementType.FP16, LENGTH)
    assignment = assign(
        [LENGTH] * 32,
        channels=16,
        longest=longest_chunk(device, layout),
        grain=chunk_grain(layout),
    )
    tables = resolve_timing(device, Placement.BANK, power_limited=True)
    program = interleaved_program(
        device, layout, assignment, multiply_interval=tables.multiply_interval
    )
    result = run(program, tables, log=True)
    first_rows = (allocate_chunks(layout, [LENGTH] * 2).keys // 1024).tolist()
    width = -(-(result.cycles + 1) // CYCLES_PER_CHARACTER)
    lines = {
        name: ["."] * width
        for name in (
            "multiply keys", "multiply values", "write query", "return probabilities",
            "move scores", "move context", "softmax", "rows, refresh",
        )
    }  # fmt: skip

    def mark(name: str, letter: str, first: int, last: int) -> None:
        for at in range(first // CYCLES_PER_CHARACTER, last // CYCLES_PER_CHARACTER + 1):
            lines[name][at] = letter

    def name_of(command: LoggedCommand, *, values: bool) -> str:
        return {
            "MACAB": ("multiply keys", "multiply values")[values],
            "WRGB": "write query",
            "MVGB": "return probabilities",
            "MVSB": ("move scores", "move context")[values],
        }[command.command]

    softmaxes = 0
    for command in result.log or ():
        cycle = command.cycle
        if command.channel != 0:
            continue
        if command.command == "SFM":
            busy = int(softmax_cycles(device, LENGTH))
            mark("softmax", "ab"[softmaxes], cycle, cycle + busy)
            softmaxes += 1
        elif command.command in ("ACTAB", "PREA", "REFab"):
            mark("rows, refresh", "R" if command.command == "REFab" else "r", cycle, cycle)
        else:
            chunk = int(command.row >= first_rows[1])
            values = command.row >= first_rows[chunk] + layout.rows
            mark(name_of(command, values=values), "ab"[chunk], cycle, cycle)
    return "".join(f"{name:21}{''.join(line)}\n" for name, line in lines.items())


def test_documented_timeline_is_current() -> None:
    """Catches a page that shows another schedule than the one that is built."""
    assert timeline() in DOCS.read_text(encoding="utf-8")
