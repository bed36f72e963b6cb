"""Wall time of attention behind barriers on one stack: single shapes, and a sweep over lengths.

Prints what building and simulating a program takes on one core, after compilation, and asserts
nothing about time.

    python benchmarks/attention.py [--repeat N] [--json]
"""

import json
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.schedule import attention_program
from attacc.pim.stack import Stack
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
BARRIERS = (Schedule.COMPLETE, Schedule.PUBLISHED)
SHAPES = [
    (placement, schedule, heads, length)
    for placement in Placement
    for schedule in BARRIERS
    for heads, length in ((16, 512), (130, 3072), (16, 32_768))
]
SWEEP = range(16, 4097, 16)
"""Every length up to 4,096 that differs in commands with the units per bank or bank group."""


@dataclass(frozen=True)
class Timing:
    """One case; of a sweep, cycles and seconds are sums."""

    case: str
    steps: int
    cycles: int
    build_s: float
    simulate_s: float


def time_shape(
    placement: Placement, schedule: Schedule, heads: int, length: int, repeat: int
) -> Timing:
    layout = HeadLayout(DEVICE.organization, placement, 128, ElementType.FP16, length)
    tables = resolve_timing(DEVICE, placement, power_limited=True)
    builds: list[float] = []
    runs: list[float] = []
    steps = cycles = 0
    for _ in range(repeat):
        begin = perf_counter()
        program = attention_program(layout, heads, schedule)
        built = perf_counter()
        cycles = run(program, tables).cycles
        builds.append(built - begin)
        runs.append(perf_counter() - built)
        steps = len(program)
    case = f"{placement}, {schedule}, {heads} heads of {length:,}"
    return Timing(case, steps, cycles, min(builds), min(runs))


def time_sweep(placement: Placement, heads: int) -> Timing:
    stack = Stack(DEVICE, placement, power_limited=True, schedule=Schedule.COMPLETE)
    begin = perf_counter()
    cycles = sum(
        stack.attend(heads=heads, length=length, head_dim=128, element=ElementType.FP16).cycles
        for length in SWEEP
    )
    case = f"{placement}, complete, {heads} heads, {len(SWEEP)} lengths up to {SWEEP[-1]:,}"
    return Timing(case, 0, cycles, 0.0, perf_counter() - begin)


def main(
    repeat: Annotated[int, typer.Option(help="Take the fastest of so many.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time attention of head_dim 128 in fp16 on one power-limited HBM3 5.2 Gb/s stack."""
    for schedule in BARRIERS:
        time_shape(Placement.BANK, schedule, 1, 16, 1)  # compiles
    timings = [time_shape(*shape, repeat) for shape in SHAPES]
    timings += [time_sweep(placement, 130) for placement in (Placement.BANK, Placement.BANKGROUP)]
    if as_json:
        print(json.dumps([asdict(timing) for timing in timings], indent=2))
        return
    table = Table(title=f"Attention on one stack, one core, fastest of {repeat}")
    table.add_column("case")
    for name in ("steps", "cycles", "build ms", "simulate ms"):
        table.add_column(name, justify="right")
    for timing in timings:
        sweep = timing.steps == 0
        table.add_row(
            timing.case,
            "" if sweep else f"{timing.steps:,}",
            f"{timing.cycles:,}",
            "included" if sweep else f"{timing.build_s * 1e3:.2f}",
            f"{timing.simulate_s * 1e3:.2f}",
        )
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    typer.run(main)
