"""Time of the golden traces against the time that the reference controller took for them.

Prints parse and simulation time on one core, after compilation, and asserts nothing about time.

    python benchmarks/golden_traces.py [SHARED] [--repeat N] [--json]
"""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from clock import NO_TIME, Time, least, report, timed
from rich.console import Console
from rich.table import Table

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.pim.program.trace import read_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import TimingTables, resolve_timing

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
    parse: Time = NO_TIME
    simulate: Time = NO_TIME

    @property
    def speedup(self) -> float:
        """Of the simulation."""
        return self.reference_s / self.simulate.cpu_s

    @property
    def speedup_with_parsing(self) -> float:
        """Of reading, decompressing and parsing the trace, and the simulation."""
        return self.reference_s / (self.parse.cpu_s + self.simulate.cpu_s)

    @property
    def lines_per_s(self) -> float:
        """Of reading, decompressing and parsing."""
        return self.requests / self.parse.cpu_s


def time_traces(shared: Path, repeat: int) -> list[Total]:
    """Time every trace, the fastest of several; by placement, and all of them last."""
    folder = shared / "reference/golden"
    with (folder / "timing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    traces: list[tuple[Path, TimingTables]] = []
    for row in rows:
        power_limited = row["power_limited"] == "1"
        tables = resolve_timing(DEVICE, Placement(row["placement"]), power_limited=power_limited)
        traces.append((folder / "traces" / row["trace"], tables))
    run(read_trace(traces[0][0], DEVICE.organization), traces[0][1])  # compiles
    parses: list[list[Time]] = [[] for _ in rows]
    runs: list[list[Time]] = [[] for _ in rows]
    totals = {name: Total(name) for name in (*(p.value for p in Placement), "all")}
    # All of them in every round: what slows the machine down for a while spoils no trace.
    for is_last in (*[False] * (repeat - 1), True):
        for i, (row, (path, tables)) in enumerate(zip(rows, traces, strict=True)):
            program, parse = timed(read_trace, path, DEVICE.organization)
            played, simulate = timed(run, program, tables)
            parses[i].append(parse)
            runs[i].append(simulate)
            if not is_last:
                continue
            for total in (totals[row["placement"]], totals["all"]):
                total.traces += 1
                total.exact += played.cycles == int(row["cycles"])
                total.requests += program.requests
                total.cycles += played.cycles
                total.reference_s += float(row["reference_seconds"])
                total.parse = total.parse.plus(least(parses[i]))
                total.simulate = total.simulate.plus(least(runs[i]))
    return list(totals.values())


def main(
    shared: Annotated[Path, typer.Argument(help="The shared reference folder.")] = Path(
        "../shared"
    ),
    repeat: Annotated[int, typer.Option(help="Take the fastest of so many.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the 220 golden traces."""
    totals = time_traces(shared, repeat)
    if as_json:
        report(
            [
                asdict(total)
                | {
                    "parse": total.parse._asdict(),
                    "simulate": total.simulate._asdict(),
                    "speedup": total.speedup,
                    "speedup_with_parsing": total.speedup_with_parsing,
                    "lines_per_s": total.lines_per_s,
                }
                for total in totals
            ]
        )
        return
    table = Table(title=f"Golden traces, one core, fastest of {repeat}, processor time")
    table.add_column("placement")
    for name in (
        "traces", "exact", "requests", "cycles", "reference s", "parse s", "lines/s",
        "simulate s", "speed-up", "with parsing",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for total in totals:
        table.add_row(
            total.placement,
            str(total.traces),
            str(total.exact),
            f"{total.requests:,}",
            f"{total.cycles:,}",
            f"{total.reference_s:.1f}",
            f"{total.parse.cpu_s:.3f}",
            f"{total.lines_per_s / 1e6:.1f} M",
            f"{total.simulate.cpu_s:.3f}",
            f"{total.speedup:,.0f}x",
            f"{total.speedup_with_parsing:,.0f}x",
        )
    Console(width=max(140, Console().width)).print(table)


if __name__ == "__main__":
    typer.run(main)
