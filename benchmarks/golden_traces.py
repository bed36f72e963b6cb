"""Wall time of the golden traces against the time that the reference controller took for them.

Prints parse and simulation time on one core, after compilation, and asserts nothing about time.

    python benchmarks/golden_traces.py [SHARED] [--repeat N] [--json]
"""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.program.program import Program
from attacc.program.trace import read_trace
from attacc.timing.engine import run
from attacc.timing.tables import TimingTables, resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")


@dataclass
class Total:
    """Sums over the traces of one placement, or of all."""

    placement: str
    traces: int = 0
    exact: int = 0
    requests: int = 0
    cycles: int = 0
    reference_s: float = 0.0
    parse_s: float = 0.0
    simulate_s: float = 0.0

    @property
    def speedup(self) -> float:
        """Of the simulation."""
        return self.reference_s / self.simulate_s

    @property
    def speedup_with_parsing(self) -> float:
        """Of reading, decompressing and parsing the trace, and the simulation."""
        return self.reference_s / (self.parse_s + self.simulate_s)


def timed_run(program: Program, tables: TimingTables) -> tuple[int, float]:
    begin = perf_counter()
    cycles = run(program, tables).cycles
    return cycles, perf_counter() - begin


def timed_read(path: Path) -> tuple[Program, float]:
    begin = perf_counter()
    program = read_trace(path, DEVICE.organization)
    return program, perf_counter() - begin


def main(
    shared: Annotated[Path, typer.Argument(help="The shared reference folder.")] = Path(
        "../shared"
    ),
    repeat: Annotated[int, typer.Option(help="Take the fastest of so many.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the 220 golden traces."""
    folder = shared / "reference/golden"
    with (folder / "timing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    totals = {name: Total(name) for name in (*(p.value for p in Placement), "all")}
    compiled = False
    for row in rows:
        path = folder / "traces" / row["trace"]
        power_limited = row["power_limited"] == "1"
        tables = resolve_timing(DEVICE, Placement(row["placement"]), power_limited=power_limited)
        if not compiled:
            timed_run(timed_read(path)[0], tables)
            compiled = True
        reads = [timed_read(path) for _ in range(repeat)]
        program = reads[0][0]
        runs = [timed_run(program, tables) for _ in range(repeat)]
        cycles = runs[0][0]
        for total in (totals[row["placement"]], totals["all"]):
            total.traces += 1
            total.exact += cycles == int(row["cycles"])
            total.requests += program.requests
            total.cycles += cycles
            total.reference_s += float(row["reference_seconds"])
            total.parse_s += min(seconds for _, seconds in reads)
            total.simulate_s += min(seconds for _, seconds in runs)
    if as_json:
        print(
            json.dumps(
                [
                    asdict(total)
                    | {"speedup": total.speedup, "speedup_with_parsing": total.speedup_with_parsing}
                    for total in totals.values()
                ],
                indent=2,
            )
        )
        return
    table = Table(title=f"Golden traces, one core, fastest of {repeat}")
    table.add_column("placement")
    for name in (
        "traces", "exact", "requests", "cycles", "reference s", "parse s", "simulate s",
        "speed-up", "with parsing",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for total in totals.values():
        table.add_row(
            total.placement,
            str(total.traces),
            str(total.exact),
            f"{total.requests:,}",
            f"{total.cycles:,}",
            f"{total.reference_s:.1f}",
            f"{total.parse_s:.3f}",
            f"{total.simulate_s:.3f}",
            f"{total.speedup:,.0f}x",
            f"{total.speedup_with_parsing:,.0f}x",
        )
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    typer.run(main)
