"""How processor time and memory of a serving run grow with its requests, as a table and a figure.

    python benchmarks/serving_growth.py [--most N] [--repeat N] [--figure FILE.svg] [--json]

Lengths are those of the preset ``azure-conv-2023``, arrivals a Poisson process below saturation.
Every run has a process of its own, whose memory is nobody else's. Needs matplotlib for a figure:
pip install 'attacc[bench]'. Asserts nothing about time.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from clock import Machine, peak_bytes, process, report

from attacc.serving.serve import Server
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests

LENGTHS: Final = "azure-conv-2023"
COUNTS: Final = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
WARM: Final = 300
"""Requests of a run before, which loads what is compiled."""
BYTES_PER_MB: Final = 1e6
SEED: Final = 1


@dataclass(frozen=True)
class Case:
    """What serves requests.

    Attributes:
        name: as the table and the figure tell it.
        model: a preset.
        system: a preset.
        requests_per_s: rate of arrivals.
        most: requests of the longest run.
        colour: of its line.
    """

    name: str
    model: str
    system: str
    requests_per_s: float
    most: int
    colour: str


CASES: Final = (
    Case("GPUs", "llama-65b", "8xh100", 5.0, 1_000_000, "#0072b2"),
    Case("GPUs and AttAccs", "llama-3.1-70b", "8xh100-attacc-hbm3-shared", 6.0, 100_000, "#d55e00"),
)
"""Colours are those of Okabe and Ito, which tell apart for all kinds of sight."""


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        case: name of what served.
        requests: how many.
        steps: of the engine.
        cpu_s: processor time of the run, the least of all repeats.
        grown_bytes: most memory of the process in the run, less the most before; the least of all
            repeats.
        live: most requests that waited or ran at once.
        busy_share: share of the time in which a step runs.
    """

    case: str
    requests: int
    steps: int
    cpu_s: float
    grown_bytes: int
    live: int
    busy_share: float


def arriving(case: Case, count: int) -> Requests:
    """Return requests in the order of a Poisson process."""
    lengths = Requests.synthetic(LENGTHS, count=count, seed=SEED)
    return lengths.with_arrivals(poisson(count, case.requests_per_s, seed=SEED))


def run(case: Case, count: int) -> Point:
    """Serve requests in this process, which must be new."""
    server = Server(case.model, case.system)
    server.serve(arriving(case, WARM))
    requests = arriving(case, count)
    before, begin = peak_bytes(), time.process_time()
    service = server.serve(requests)
    cpu_s, grown = time.process_time() - begin, peak_bytes() - before
    live = max(
        int((page.column("running") + page.column("waiting")).max())
        for page in service.run.steps.pages()
    )
    return Point(case.name, count, service.steps, cpu_s, grown, live, service.busy_share)


def measured(number: int, count: int, repeat: int) -> Point:
    """Serve requests in new processes, and return the least of what they take."""
    found = [
        Point(**json.loads(process([__file__, "--child", f"{number} {count}"]).stdout))
        for _ in range(repeat)
    ]
    return replace(
        found[0],
        cpu_s=min(point.cpu_s for point in found),
        grown_bytes=min(point.grown_bytes for point in found),
    )


def print_table(found: list[Point]) -> None:
    """Print a row for each run, and how memory grows from one run to the next."""
    print("| system | requests | steps | processor, s | us per step | memory, MB | live at most |")
    print("|---|---|---|---|---|---|---|")
    for point in found:
        cells = (
            point.case,
            f"{point.requests:,}",
            f"{point.steps:,}",
            f"{point.cpu_s:.1f}",
            f"{1e6 * point.cpu_s / point.steps:.1f}",
            f"{point.grown_bytes / BYTES_PER_MB:.0f}",
            f"{point.live}",
        )
        print(f"| {' | '.join(cells)} |")
    for one, other in pairwise(found):
        if one.case == other.case:
            more = other.grown_bytes - one.grown_bytes
            print(
                f"{one.case}, {one.requests:,} to {other.requests:,} requests: "
                f"{more / (other.steps - one.steps):.0f} bytes for each further step, "
                f"{more / (other.requests - one.requests):.0f} for each further request"
            )


def draw(found: list[Point], path: Path) -> None:
    """Draw time and memory against requests."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    settings: Any = mpl.rcParams
    settings.update(
        {
            "svg.hashsalt": "attacc",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    subplots: Any = plt.subplots
    figure, panels = subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
    for case in CASES:
        own = [point for point in found if point.case == case.name]
        counts = [point.requests for point in own]
        values = (
            [point.cpu_s for point in own],
            [point.grown_bytes / BYTES_PER_MB for point in own],
        )
        for axes, ys in zip(panels, values, strict=True):
            label = f"{case.model}, {case.system}"
            axes.plot(counts, ys, marker="o", ms=4, lw=1.4, color=case.colour, label=label)
    for axes, label in zip(panels, ("processor time, s", "further memory, MB"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="requests", ylabel=label)
        axes.grid(which="major", color="#e6e6e6", lw=0.7)
        axes.set_axisbelow(True)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left")
    save: Any = figure.savefig
    save(path, metadata={"Date": None})


def main(
    most: Annotated[int, typer.Option(help="Requests of the longest run.", min=1)] = 1_000_000,
    repeat: Annotated[int, typer.Option(help="Take the least of so many runs.", min=1)] = 2,
    figure: Annotated[Path | None, typer.Option(help="Write the figure here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    child: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the growth of time and memory, and print it."""
    if child is not None:
        number, count = map(int, child.split())
        report(asdict(run(CASES[number], count)))
        return
    machine = Machine.this()
    found = [
        measured(number, count, repeat)
        for number, case in enumerate(CASES)
        for count in COUNTS
        if count <= min(most, case.most)
    ]
    if figure is not None:
        draw(found, figure)
    if as_json:
        report({"machine": asdict(machine), "points": [asdict(point) for point in found]})
    else:
        print(machine)
        print_table(found)


if __name__ == "__main__":
    typer.run(main)
