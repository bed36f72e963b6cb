"""All goals of speed side by side, in one run on one core, after compilation.

Prints what was asked for, what was measured, and the machine; asserts nothing about time.

    python benchmarks/speed.py [SHARED] [--repeat N] [--quick] [--json]

Goals are compared with processor time, which is what one free core would take: other work on the
machine lengthens wall time, which is told beside it. That of a process is of all its threads.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from clock import Machine, Time, fastest, least, peak_bytes, process, report, timed
from golden_traces import time_traces
from rich.console import Console
from rich.table import Table

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.program import Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.timing.pieces import run_pieces, run_repeated
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2")
HEAD_DIM = 128
"""Of GPT-3 175B, whose attention has 96 heads in each of 96 layers."""
HEADS, LENGTH = 130, 3072
PROMPT, OUTPUT = 2048, 2048
LONG = 2**20
COMMANDS = 10**8

PIECES, FOLDED = "--child-pieces", "--child-folded"
"""What a process of its own measures, whose memory is nobody else's."""


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        case: what was measured.
        value: the figure.
        unit: its unit.
        goal: what it must stay below, or reach; None where none was set.
        at_least: whether it must reach the goal.
        cpu_s: processor time, of all threads where it is that of a process; None if it says
            nothing.
        wall_s: likewise.
        note: what else there is to know.
    """

    case: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    cpu_s: float | None = None
    wall_s: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value < self.goal


def new_stack(placement: Placement) -> Stack:
    return Stack(DEVICE, placement, power_limited=True, schedule=Schedule.INTERLEAVED)


def attend(stack: Stack, heads: int, length: int) -> StackAttention:
    return stack.attend(heads=heads, length=length, head_dim=HEAD_DIM, element=ElementType.FP16)


def golden(shared: Path, repeat: int) -> Iterator[Figure]:
    totals = time_traces(shared, 3 * repeat)
    for total in totals:
        everything = total is totals[-1]
        yield Figure(
            f"golden traces, {total.placement}: reference seconds over ours",
            total.speedup,
            "x",
            1000 if everything else None,
            at_least=True,
            cpu_s=total.simulate.cpu_s,
            wall_s=total.simulate.wall_s,
            note=f"{total.exact} of {total.traces} exact, {total.requests:,} requests",
        )
    total = totals[-1]
    yield Figure(
        "golden traces: reading and parsing",
        total.lines_per_s / 1e6,
        "M lines/s",
        5,
        at_least=True,
        cpu_s=total.parse.cpu_s,
        wall_s=total.parse.wall_s,
    )


def one_attention(repeat: int) -> Iterator[Figure]:
    """Build, timing and energy: on a stack in use, at a length new to it, and on a new stack."""
    found = {placement: attend(new_stack(placement), HEADS, LENGTH) for placement in Placement}
    resolving: dict[Placement, list[Time]] = {placement: [] for placement in Placement}
    first: dict[Placement, list[Time]] = {placement: [] for placement in Placement}
    warm: dict[Placement, list[Time]] = {placement: [] for placement in Placement}
    for _ in range(4 * repeat):
        for placement in Placement:
            for _ in range(5):
                stack, time = timed(new_stack, placement)
                resolving[placement].append(time)
                first[placement].append(timed(attend, stack, HEADS, LENGTH)[1])
        for placement in Placement:
            stacks = [new_stack(placement) for _ in range(5)]
            for stack in stacks:
                attend(stack, HEADS, LENGTH // 2)
            warm[placement] += [timed(attend, stack, HEADS, LENGTH)[1] for stack in stacks]
    for placement in Placement:
        commands = sum(entry.count for entry in found[placement].commands)
        time = least(warm[placement])
        yield Figure(
            f"attention, {placement}, {HEADS} heads of {LENGTH:,}",
            time.cpu_s * 1e3,
            "ms",
            1 if placement is Placement.BANK else None,
            cpu_s=time.cpu_s,
            wall_s=time.wall_s,
            note=f"{found[placement].cycles:,} cycles, {commands:,} commands",
        )
        time = least(first[placement])
        yield Figure(
            f"the same, the first of a new stack, {placement}",
            time.cpu_s * 1e3,
            "ms",
            cpu_s=time.cpu_s,
            wall_s=time.wall_s,
        )
        time = least(resolving[placement])
        yield Figure(
            f"resolving its device, {placement}",
            time.cpu_s * 1e3,
            "ms",
            cpu_s=time.cpu_s,
            wall_s=time.wall_s,
            note="once for each stack",
        )


def all_lengths(repeat: int, *, quick: bool) -> Iterator[Figure]:
    """One token after the other of an answer."""
    for placement in Placement:
        slow = placement is Placement.BUFFER
        lengths = range(PROMPT + 1, PROMPT + OUTPUT + 1, 64 if slow and quick else 1)

        def call(stack: Stack, lengths: range = lengths) -> None:
            for length in lengths:
                attend(stack, HEADS, length)

        def prepare(placement: Placement = placement) -> Stack:
            return new_stack(placement)

        time = fastest(1 if slow else repeat, prepare, call)
        yield Figure(
            f"{len(lengths):,} lengths of ({PROMPT}, {OUTPUT}), {placement}, {HEADS} heads",
            time.cpu_s,
            "s",
            1 if placement is Placement.BANK else None,
            cpu_s=time.cpu_s,
            wall_s=time.wall_s,
        )


def long_contexts(repeat: int) -> Iterator[Figure]:
    """Heads of a million keys: as many as a stack holds, and one cut over all channels."""
    for placement in Placement:
        for heads in (1, most_heads(placement)):
            found, first = timed(attend, new_stack(placement), heads, LONG)
            again = [
                timed(attend, new_stack(placement), heads, LONG)[1]
                for _ in range(repeat - 1 if first.cpu_s < 5 else 0)
            ]
            time = least([first, *again])
            yield Figure(
                f"attention, {placement}, {heads} head{'s' * (heads > 1)} of {LONG:,}",
                time.cpu_s,
                "s",
                1 if placement is Placement.BANK else None,
                cpu_s=time.cpu_s,
                wall_s=time.wall_s,
                note=f"{found.cycles:,} cycles",
            )


def most_heads(placement: Placement) -> int:
    """The largest number of such heads that fit into a stack."""
    layout = HeadLayout(DEVICE.organization, placement, HEAD_DIM, ElementType.FP16, LONG)
    rows = DEVICE.organization.rows * DEVICE.organization.channels
    most = rows // (2 * layout.rows)
    while most > 1:
        try:
            attend(new_stack(placement), most, LONG)
        except InputError:
            most -= 1
        else:
            break
    return most


def body() -> Program:
    """The attention of as many heads as there are channels, without dependences."""
    device = DRAMS.load("hbm3-5.2-asplos24")
    layout = HeadLayout(device.organization, Placement.BANK, HEAD_DIM, ElementType.FP16, LENGTH)
    return attention_program(layout, 8 * device.organization.channels, Schedule.COMPLETE)


def child(what: str) -> None:
    """Play 10^8 requests of a channel, and print time and memory as JSON."""
    device = DRAMS.load("hbm3-5.2-asplos24")
    tables = resolve_timing(device, Placement.BANK, power_limited=True)
    steps = len(body())
    run_pieces([body()], tables)
    run_repeated(body(), 1, tables)
    count = math.ceil(COMMANDS / steps)
    played = count
    if what == PIECES:
        run, time = timed(run_pieces, (body() for _ in range(count)), tables)
    else:
        repeated, time = timed(run_repeated, body(), count, tables)
        run, played = repeated.timed, repeated.played
    report(
        {
            "cpu_s": time.cpu_s,
            "wall_s": time.wall_s,
            "peak_bytes": peak_bytes(),
            "requests": count * steps,
            "commands": sum(entry.count for entry in run.commands),
            "cycles": run.cycles,
            "count": count,
            "played": played,
        }
    )


def many_commands() -> Iterator[Figure]:
    """A program that never exists as a whole."""
    for what in (PIECES, FOLDED):
        found = json.loads(process([__file__, what]).stdout)
        case = "played piece by piece" if what == PIECES else "repeated and folded"
        note = (
            f"{found['requests']:,} requests, {found['commands']:,} commands of all channels, "
            f"{found['cycles']:,} cycles"
        )
        if what == FOLDED:
            note += f"; {found['played']:,} of {found['count']:,} repetitions played"
        yield Figure(
            f"10^8 requests {case}: memory",
            found["peak_bytes"] / 1e6,
            "MB",
            500,
            cpu_s=found["cpu_s"],
            wall_s=found["wall_s"],
            note=note,
        )


def processes(repeat: int) -> Iterator[Figure]:
    """What a user waits for before anything is computed."""
    code = "from time import perf_counter as t; b = t(); import attacc; print(t() - b)"
    inside = min(float(process(["-c", code]).stdout) for _ in range(3 * repeat))
    yield Figure("import attacc, in a fresh process", inside, "s", 0.3)
    version = least([process(["-m", "attacc", "--version"]).time for _ in range(3 * repeat)])
    yield Figure(
        "attacc --version, the whole process",
        version.cpu_s,
        "s",
        0.3,
        cpu_s=version.cpu_s,
        wall_s=version.wall_s,
    )
    attention = ["-m", "attacc", "attention", "--heads", str(HEADS), "--length", str(LENGTH)]
    for name, command, goal in (
        ("attacc attention", attention, 20),
        ("attacc compare", ["-m", "attacc", "compare"], None),
    ):
        colds: list[Time] = []
        warms: list[Time] = []
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as cache:
                where = {"NUMBA_CACHE_DIR": cache}
                colds.append(process([*command, "--json"], where).time)
                warms.append(process([*command, "--json"], where).time)
        cold, warm = least(colds), least(warms)
        for state, time in (("nothing compiled yet", cold), ("compiled before", warm)):
            yield Figure(
                f"{name}, the whole process, {state}",
                time.cpu_s,
                "s",
                goal if time is cold else None,
                cpu_s=time.cpu_s,
                wall_s=time.wall_s,
            )


def figures(shared: Path, repeat: int, *, quick: bool) -> Iterator[Figure]:
    yield from golden(shared, repeat)
    yield from one_attention(repeat)
    yield from all_lengths(repeat, quick=quick)
    yield from long_contexts(repeat)
    yield from many_commands()
    yield from processes(repeat)


def rounded(value: float, unit: str) -> str:
    digits = max(0, 2 - math.floor(math.log10(value))) if 0 < value < 100 else 0
    return f"{value:,.{digits}f}{'' if unit == 'x' else ' '}{unit}"


def table_of(found: list[Figure], machine: Machine, repeat: int) -> Table:
    table = Table(title=f"Speed, one core, fastest of {repeat} or more", caption=str(machine))
    table.add_column("case")
    for name in ("goal", "measured", "", "processor", "wall"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    for one in found:
        sign = ">= " if one.at_least else "< "
        table.add_row(
            one.case,
            "" if one.goal is None else sign + rounded(one.goal, one.unit),
            rounded(one.value, one.unit),
            "" if one.met is None else "met" if one.met else "missed",
            "" if one.cpu_s is None else rounded(one.cpu_s, "s"),
            "" if one.wall_s is None else rounded(one.wall_s, "s"),
            one.note,
        )
    return table


def main(
    shared: Annotated[Path, typer.Argument(help="The shared reference folder.")] = Path(
        "../shared"
    ),
    repeat: Annotated[int, typer.Option(help="Take the fastest of so many.", min=1)] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="A part of the lengths where all take minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure every goal of speed on this machine."""
    machine = Machine.this()
    console = Console(stderr=True)
    found: list[Figure] = []
    with console.status("measuring") as status:
        for one in figures(shared, repeat, quick=quick):
            found.append(one)
            status.update(f"after {one.case}")
    if as_json:
        report(
            {
                "machine": asdict(machine),
                "figures": [asdict(one) | {"met": one.met} for one in found],
            }
        )
        return
    Console(width=max(200, Console().width)).print(table_of(found, machine, repeat))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in (PIECES, FOLDED):
        child(sys.argv[1])
    else:
        typer.run(main)
