"""How far the published schedule is from the cycles published with AttAcc, by placement and length.

The 64,938 published rows come from an unreleased build of the authors' simulator, so they are no
oracle. Their request counts show one difference: in a last round without a partner, that build
issues softmax and return of the probabilities after every group of scores, not once. The second
half of the table adds these repeats to the program.

    python benchmarks/published_attention.py [SHARED] [--sample N --seed S] [--placement P] [--json]
"""

import csv
import gzip
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import MULTIPLY, Kind, Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
PLACEMENTS = {"BA": Placement.BANK, "BG": Placement.BANKGROUP, "BUFFER": Placement.BUFFER}
ELEMENTS = {"1": ElementType.INT8, "2": ElementType.FP16}
CLASSES = (256, 512, 1024, 2048, 3072, 4096)
"""Upper ends of the classes of lengths."""


class Shape(NamedTuple):
    """What the cycles depend on; the length only through the keys of a part."""

    placement: Placement
    heads: int
    keys_per_part: int
    head_dim: int
    element: ElementType
    power_limited: bool


class Row(NamedTuple):
    """One published row."""

    shape: Shape
    length: int
    cycles: int
    counts: tuple[int, ...]
    """Of multiplies, SFM, MVGB, MVSB and WRGB."""


class Ours(NamedTuple):
    """Cycles and counts of one program."""

    cycles: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Deviation:
    """How far published rows lie above ours, as fractions of ours.

    `repeats` says whether the program has the repeats of the published build.
    """

    placement: str
    lengths: str
    repeats: bool
    rows: int
    equal_counts: int
    mean: float
    median: float
    least: float
    most: float


def layout(shape: Shape, length: int) -> HeadLayout:
    return HeadLayout(DEVICE.organization, shape.placement, shape.head_dim, shape.element, length)


def read_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            length = int(row["L"])
            shape = Shape(
                PLACEMENTS[row["pim_type"]],
                int(row["nhead"]),
                0,
                int(row["dhead"]),
                ELEMENTS[row["dbyte"]],
                row["power_constraint"] == "True",
            )
            shape = shape._replace(keys_per_part=layout(shape, length).keys_per_part)
            counts = tuple(int(row[c]) for c in ("mac", "softmax", "mvgb", "mvsb", "wrgb"))
            rows.append(Row(shape, length, int(row["cycle"]), counts))
    return rows


def with_repeats(program: Program, groups: int) -> Program:
    """Repeat softmax and return of a last unpaired round behind each barrier of its score."""
    softmax = int(np.flatnonzero(program.kind == Kind.SFM)[-1])
    barriers = np.flatnonzero(program.kind == Kind.BARRIER)
    end = int(barriers[barriers > softmax][0]) + 1
    repeated = np.arange(softmax, end)
    order: list[npt.NDArray[np.int64]] = []
    begin = 0
    for barrier in barriers[barriers < softmax][-groups:].tolist():
        order += [np.arange(begin, barrier + 1), repeated]
        begin = barrier + 1
    steps = np.concatenate([*order, np.arange(begin, len(program))])
    return Program(
        program.organization,
        program.kind[steps],
        program.address[steps],
        program.first_channel[steps],
        program.channels[steps],
    )


def simulate(program: Program, shape: Shape) -> Ours:
    counts = program.counts()
    kinds = (MULTIPLY[shape.placement], Kind.SFM, Kind.MVGB, Kind.MVSB, Kind.WRGB)
    tables = resolve_timing(DEVICE, shape.placement, power_limited=shape.power_limited)
    return Ours(run(program, tables).cycles, tuple(counts[kind] for kind in kinds))


def attend(shape: Shape, length: int) -> tuple[Ours, Ours]:
    """Cycles and counts without and with the repeats."""
    head = layout(shape, length)
    program = attention_program(head, shape.heads, Schedule.PUBLISHED)
    ours = simulate(program, shape)
    if -(-shape.heads // DEVICE.organization.channels) % 2 == 0:
        return ours, ours
    return ours, simulate(with_repeats(program, head.score_groups), shape)


def compare(rows: Iterable[Row], ours: dict[Shape, tuple[Ours, Ours]]) -> list[Deviation]:
    cells: dict[tuple[str, str, bool], list[tuple[float, bool]]] = defaultdict(list)
    for row in rows:
        if row.shape not in ours:
            continue
        upper = next(end for end in CLASSES if row.length <= end)
        for repeats, found in zip((False, True), ours[row.shape], strict=True):
            for lengths in (f"up to {upper}", "all"):
                key = row.shape.placement.value, lengths, repeats
                cells[key].append((row.cycles / found.cycles - 1, row.counts == found.counts))

    order = [p.value for p in Placement], [f"up to {end}" for end in CLASSES] + ["all"]
    deviations: list[Deviation] = []
    for placement, lengths, repeats in sorted(
        cells, key=lambda k: (k[2], order[0].index(k[0]), order[1].index(k[1]))
    ):
        cell = cells[placement, lengths, repeats]
        values = [value for value, _ in cell]
        deviations.append(
            Deviation(
                placement,
                lengths,
                repeats,
                len(cell),
                sum(equal for _, equal in cell),
                statistics.mean(values),
                statistics.median(values),
                min(values),
                max(values),
            )
        )
    return deviations


def main(
    shared: Annotated[Path, typer.Argument(help="The shared reference folder.")] = Path(
        "../shared"
    ),
    sample: Annotated[int | None, typer.Option(help="Distinct shapes per placement.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    placement: Annotated[list[Placement] | None, typer.Option(help="Only this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the published schedule with the cycles published with AttAcc."""
    rows = read_rows(shared / "reference/golden/published_attention_cycles.csv.gz")
    lengths = {row.shape: row.length for row in rows}
    chosen: list[Shape] = []
    for one in placement or list(Placement):
        shapes = [shape for shape in lengths if shape.placement is one]
        if sample is not None and sample < len(shapes):
            shapes = random.Random(seed).sample(shapes, sample)
        chosen += shapes
    console = Console(stderr=True)
    ours = {
        shape: attend(shape, lengths[shape])
        for shape in track(chosen, "Simulating", console=console, transient=True)
    }
    deviations = compare(rows, ours)
    if as_json:
        print(json.dumps([asdict(deviation) for deviation in deviations], indent=2))
        return
    table = Table(title=f"published cycles / ours - 1, {len(chosen):,} distinct shapes")
    table.add_column("program")
    table.add_column("placement")
    table.add_column("length")
    for name in ("rows", "equal counts", "mean", "median", "least", "most"):
        table.add_column(name, justify="right")
    for d in deviations:
        table.add_row(
            "with repeats" if d.repeats else "published",
            d.placement,
            d.lengths,
            f"{d.rows:,}",
            f"{d.equal_counts / d.rows:.1%}",
            *(f"{value:+.2%}" for value in (d.mean, d.median, d.least, d.most)),
            end_section=d.lengths == "all",
        )
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    typer.run(main)
