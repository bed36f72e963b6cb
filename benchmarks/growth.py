"""How time grows with commands, heads and length, for every placement, as a figure.

    python benchmarks/growth.py [--rounds N] [--figure FILE.svg] [--json]

Needs matplotlib: pip install 'attacc[bench]'. Asserts nothing about time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from clock import Machine, Time, fastest, least, report, timed
from rich.console import Console
from rich.progress import track

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.stack import Stack
from attacc.pim.timing.pieces import run_pieces, run_repeated
from attacc.pim.timing.tables import resolve_timing

T = TypeVar("T")

DEVICE: Final = DRAMS.load("hbm3-5.2")
REFERENCE: Final = DRAMS.load("hbm3-5.2-asplos24")
HEAD_DIM: Final = 128
HEADS_LENGTH: Final = 512
"""Keys of the heads whose number grows."""
LENGTH_HEADS: Final = 16
"""Heads whose length grows: one for each channel."""
ENOUGH_S: Final = 0.5
"""Cases that take longer are measured once."""

BODIES: Final = {
    Placement.BANK: (8, 3072),
    Placement.BANKGROUP: (8, 1024),
    Placement.BUFFER: (1, 1024),
}
"""Heads of a channel and their keys, of the program that is repeated."""
COMMANDS: Final = [10**exponent for exponent in (5, 6, 7, 8, 9)]
HEADS: Final = [2**exponent for exponent in range(13)]
LENGTHS: Final = [2**exponent for exponent in range(4, 21)]

COLOURS: Final = {
    Placement.BANK: "#0072b2",
    Placement.BANKGROUP: "#d55e00",
    Placement.BUFFER: "#009e73",
}
"""Of Okabe and Ito, which tell apart for all kinds of sight."""
NAMES: Final = {
    Placement.BANK: "bank",
    Placement.BANKGROUP: "bank group",
    Placement.BUFFER: "buffer",
}
MARKERS: Final = {Placement.BANK: "o", Placement.BANKGROUP: "s", Placement.BUFFER: "^"}


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        against: what grows: "commands", "commands, folded", "heads" or "length".
        placement: of the units.
        x: how much of it there is.
        cycles: what was simulated.
        cpu_s: processor time.
        wall_s: wall time.
    """

    against: str
    placement: Placement
    x: int
    cycles: int
    cpu_s: float
    wall_s: float


def new_stack(placement: Placement) -> Stack:
    return Stack(DEVICE, placement, power_limited=True, schedule=Schedule.INTERLEAVED)


def attended(against: str, placement: Placement, heads: int, length: int, repeat: int) -> Point:
    """Build, timing and energy, on a stack that has computed nothing yet."""

    def attend(stack: Stack) -> int:
        return stack.attend(
            heads=heads, length=length, head_dim=HEAD_DIM, element=ElementType.FP16
        ).cycles

    cycles, first = timed(attend, new_stack(placement))
    again: list[Time] = []
    if first.cpu_s < ENOUGH_S:
        again = [fastest(repeat, lambda: new_stack(placement), attend)]
    time = least([first, *again])
    return Point(
        against, placement, heads if against == "heads" else length, cycles, time.cpu_s, time.wall_s
    )


def body(placement: Placement) -> Program:
    """Heads for every channel alike, without dependences: some 8,000 steps."""
    heads, length = BODIES[placement]
    layout = HeadLayout(REFERENCE.organization, placement, HEAD_DIM, ElementType.FP16, length)
    return attention_program(layout, heads * REFERENCE.organization.channels, Schedule.COMPLETE)


def played(placement: Placement, commands: int, *, fold: bool, repeat: int) -> Point:
    """The same program over and over, piece by piece or folded."""
    tables = resolve_timing(REFERENCE, placement, power_limited=True)
    one = body(placement)
    each = sum(entry.count for entry in run_pieces([one], tables).commands)
    count = max(1, round(commands / each))

    def play(program: Program) -> tuple[int, int]:
        if fold:
            run = run_repeated(program, count, tables).timed
        else:
            run = run_pieces((program for _ in range(count)), tables)
        return run.cycles, sum(entry.count for entry in run.commands)

    (cycles, issued), first = timed(play, one)
    again = [fastest(repeat, lambda: one, play)] if first.cpu_s < ENOUGH_S else []
    time = least([first, *again])
    against = "commands, folded" if fold else "commands"
    return Point(against, placement, issued, cycles, time.cpu_s, time.wall_s)


def points(rounds: int, repeat: int) -> Iterator[Point]:
    """Every point once a round: what slows the machine down for a while spoils no curve."""
    for placement in Placement:
        attended("heads", placement, 130, 1000, 1)  # compiles, or loads
    for _ in range(rounds):
        for placement in Placement:
            for commands in COMMANDS:
                yield played(placement, commands, fold=False, repeat=repeat)
                yield played(placement, commands, fold=True, repeat=repeat)
            for heads in HEADS:
                yield attended("heads", placement, heads, HEADS_LENGTH, repeat)
            for length in LENGTHS:
                yield attended("length", placement, LENGTH_HEADS, length, repeat)


def points_of_a_round() -> int:
    return len(Placement) * (2 * len(COMMANDS) + len(HEADS) + len(LENGTHS))


def fastest_of(found: Iterable[Point]) -> list[Point]:
    """The fastest measurement of every point."""
    best: dict[tuple[str, Placement, int], Point] = {}
    for point in found:
        key = point.against, point.placement, point.x
        if key not in best or point.cpu_s < best[key].cpu_s:
            best[key] = point
    return list(best.values())


def guide(axes: Any, found: list[Point]) -> None:
    """A line of slope 1 below the points, where they are."""
    end = max(p.x for p in found)
    each_s = min(p.cpu_s / p.x for p in found) / 2
    begin = max(min(p.x for p in found), min(p.cpu_s for p in found) / each_s / 2)
    axes.plot([begin, end], [begin * each_s, end * each_s], color="#999999", lw=1, ls=":", zorder=1)
    x = begin**0.7 * end**0.3
    axes.annotate(
        "slope 1",
        (x, x * each_s),
        xytext=(4, -3),
        textcoords="offset points",
        color="#777777",
        fontsize=8,
        ha="left",
        va="top",
    )


def draw(found: list[Point], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

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
    figure, panels = subplots(1, 3, figsize=(12.5, 4.6), layout="constrained")
    figure.suptitle("Time to simulate attention on one stack", fontsize=12)
    titles = (
        ("commands", "Timing alone, of one program over and over", "commands issued, all channels"),
        ("heads", f"Build, timing and energy: heads of {HEADS_LENGTH} keys", "heads on the stack"),
        ("length", f"Build, timing and energy: {LENGTH_HEADS} heads", "keys of each head"),
    )
    for axes, (against, title, label) in zip(panels, titles, strict=True):
        for placement in Placement:
            style: dict[str, Any] = {"color": COLOURS[placement], "marker": MARKERS[placement]}
            for kind, line in ((against, "-"), (f"{against}, folded", "--")):
                line_of = [p for p in found if (p.against, p.placement) == (kind, placement)]
                axes.plot(
                    [p.x for p in line_of],
                    [p.cpu_s for p in line_of],
                    ls=line,
                    lw=1.4,
                    ms=4,
                    markerfacecolor="white" if line == "--" else None,
                    label=None if line == "--" else NAMES[placement],
                    **style,
                )
        guide(axes, [p for p in found if p.against == against])
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_title(title, fontsize=10)
        axes.grid(which="major", color="#e6e6e6", lw=0.7)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("processor seconds, one core")
    panels[0].legend(
        handles=[
            *panels[0].get_legend_handles_labels()[0],
            Line2D([], [], color="#555555", lw=1.4, label="played one by one"),
            Line2D([], [], color="#555555", lw=1.4, ls="--", label="folded"),
        ],
        frameon=False,
        fontsize=8,
        loc="upper left",
    )
    panels[1].legend(frameon=False, fontsize=8, loc="upper left", title="units per")
    panels[2].legend(frameon=False, fontsize=8, loc="upper left", title="units per")
    save: Any = figure.savefig
    save(path, metadata={"Date": None})


def main(
    rounds: Annotated[int, typer.Option(help="Take the fastest of so many.", min=1)] = 3,
    repeat: Annotated[int, typer.Option(help="So often in each round.", min=1)] = 3,
    figure: Annotated[Path | None, typer.Option(help="Write the figure here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the growth of time, and draw it."""
    machine = Machine.this()
    found = fastest_of(
        track(
            points(rounds, repeat),
            "measuring",
            total=rounds * points_of_a_round(),
            console=Console(stderr=True),
            transient=True,
        )
    )
    if figure is not None:
        draw(found, figure)
    if as_json:
        report({"machine": asdict(machine), "points": [asdict(point) for point in found]})


if __name__ == "__main__":
    typer.run(main)
