"""The tables of docs/model/interleaving.md and docs/model/mapping.md, from runs of the code.

Usage: python benchmarks/interleaving.py
"""

from collections.abc import Iterator, Sequence
from time import perf_counter

import numpy as np

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.mapping.balance import Assignment, Chunk, assign, assign_stacks
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.interleaved import (
    QueryPasses,
    chunk_grain,
    interleaved_program,
    longest_chunk,
)
from attacc.pim.program.program import MULTIPLY, Dependences, Program
from attacc.pim.program.schedule import attention_program
from attacc.pim.timing.dealing import Dealer
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing

DEVICE = DRAMS.load("hbm3-5.2")
CHANNELS = DEVICE.organization.channels


def layout_of(placement: Placement, length: int) -> HeadLayout:
    return HeadLayout(DEVICE.organization, placement, 128, ElementType.FP16, length)


def multiplies_alone(program: Program) -> Program:
    """The multiplies of a program, which wait for nothing but rows."""
    steps = np.flatnonzero(program.kind == MULTIPLY[program.placement()])
    nothing = np.zeros((len(steps), 1), dtype=np.int32)
    return Program(
        program.organization,
        program.kind[steps],
        program.address[steps],
        program.first_channel[steps],
        program.channels[steps],
        Dependences(
            waits=nothing[:, 0].copy(),
            signals=nothing,
            delays=nothing.copy(),
            events=0,
        ),
    )


def cycles_of(
    placement: Placement, assignment: Assignment, queries: int = 1, queries_per_read: int = 1
) -> tuple[int, int, int]:
    """Cycles of the fullest channel's multiplies at their cadence, with rows, and of all."""
    layout = layout_of(placement, 1)
    tables = resolve_timing(
        DEVICE, placement, power_limited=True, queries_per_read=queries_per_read
    )
    program = interleaved_program(
        DEVICE,
        layout,
        assignment,
        multiply_interval=tables.multiply_interval,
        queries=queries,
        queries_per_read=queries_per_read,
    )
    passes = QueryPasses.of(queries, queries_per_read).passes
    multiplies = max(
        sum(2 * passes * layout.head(chunk.length).score_multiplies for chunk in chunks)
        for chunks in assignment.channels
    )
    rows = run(multiplies_alone(program), tables).cycles
    return multiplies * tables.multiply_interval, rows, run(program, tables).cycles


def dealt(placement: Placement, lengths: Sequence[int]) -> Assignment:
    layout = layout_of(placement, 1)
    return assign(
        lengths,
        channels=CHANNELS,
        longest=longest_chunk(DEVICE, layout),
        grain=chunk_grain(layout),
    )


def chosen(
    placement: Placement, lengths: Sequence[int], queries: int = 1, queries_per_read: int = 1
) -> Assignment:
    """What a stack attends to, of all ways to deal its heads out."""
    passes = QueryPasses.of(queries, queries_per_read)
    tables = resolve_timing(
        DEVICE, placement, power_limited=True, queries_per_read=queries_per_read
    )
    return Dealer(DEVICE, layout_of(placement, 1), tables, passes).play(lengths).assignment


def whole(heads: int, length: int) -> Assignment:
    """Equal heads, none of them cut: those left over go to the first channels."""
    return Assignment.of(
        tuple(
            tuple(Chunk(head, 0, length) for head in range(channel, heads, CHANNELS))
            for channel in range(CHANNELS)
        )
    )


def exposed() -> Iterator[str]:
    yield "| heads, keys | placement | cadence | rows | interleaved | exposed |"
    yield "|---|---|---|---|---|---|"
    for heads in (128, 130):
        for length in (128, 2048, 4096):
            for placement in Placement:
                cadence, rows, cycles = cycles_of(placement, chosen(placement, [length] * heads))
                more = cycles - rows
                yield (
                    f"| {heads}, {length:,} | {placement.value} | {cadence:,} | {rows:,} | "
                    f"{cycles:,} | {more:,} ({more / rows:.1%}) |"
                )


def complete() -> Iterator[str]:
    device = DRAMS.load("hbm3-5.2-asplos24")
    for placement in Placement:
        layout = HeadLayout(device.organization, placement, 128, ElementType.FP16, 2048)
        tables = resolve_timing(device, placement, power_limited=True)
        program = attention_program(layout, 128, Schedule.COMPLETE)
        yield f"128 heads of 2,048 keys, {placement.value}: {run(program, tables).cycles:,}"


def balanced() -> Iterator[str]:
    yield "| heads, keys | placement | imbalance whole | cycles | imbalance cut | cycles |"
    yield "|---|---|---|---|---|---|"
    for heads, length in ((130, 3072), (130, 2048), (40, 1000), (17, 3072), (18, 512)):
        for placement in Placement:
            before, after = whole(heads, length), chosen(placement, [length] * heads)
            yield (
                f"| {heads}, {length:,} | {placement.value} | {before.imbalance:.3f} | "
                f"{cycles_of(placement, before)[2]:,} | {after.imbalance:.3f} | "
                f"{cycles_of(placement, after)[2]:,} |"
            )


def shared() -> Iterator[str]:
    yield "| placement | queries per read | passes | longest chunk | cadence | rows | cycles |"
    yield "|---|---|---|---|---|---|---|"
    for placement in Placement:
        for queries_per_read in (1, 2, 4, 8):
            try:
                assignment = chosen(placement, [3072] * 16, 8, queries_per_read)
                figures = cycles_of(placement, assignment, 8, queries_per_read)
            except InputError:
                continue
            longest = longest_chunk(DEVICE, layout_of(placement, 1), queries_per_read)
            passes = QueryPasses.of(8, queries_per_read).passes
            row = " | ".join(f"{figure:,}" for figure in figures)
            yield f"| {placement.value} | {queries_per_read} | {passes} | {longest:,} | {row} |"


def stacks() -> Iterator[str]:
    for lengths, what in (
        ([3072] * 96, "96 heads of 3,072 keys"),
        ([2**20] * 30, "30 heads of 1,048,576 keys"),
        ([1 + 997 * head % 8000 for head in range(1000)], "1,000 heads of 1 to 8,000 keys"),
    ):
        over = assign_stacks(lengths, stacks=8, channels=CHANNELS, longest=4096, grain=256)
        parts = sum(map(len, over.stacks))
        yield f"{what} over 8 stacks: imbalance {over.imbalance:.4f}, {parts} parts"


def speed() -> Iterator[str]:
    yield "| heads, keys | placement | steps | assign, ms | build, ms |"
    yield "|---|---|---|---|---|"
    ragged = [1 + 997 * head % 4000 for head in range(300)]
    for lengths, what in (
        ([3072] * 128, "128, 3,072"),
        ([3072] * 130, "130, 3,072"),
        (ragged, "300, 1 to 4,000"),
        ([2**20] * 30, "30, 1,048,576"),
    ):
        for placement in Placement:
            times: list[tuple[float, float]] = []
            steps = 0
            for _ in range(5):
                begin = perf_counter()
                assignment = dealt(placement, lengths)
                middle = perf_counter()
                interval = {Placement.BANK: 6, Placement.BANKGROUP: 6, Placement.BUFFER: 2}
                program = interleaved_program(
                    DEVICE,
                    layout_of(placement, 1),
                    assignment,
                    multiply_interval=interval[placement],
                )
                times.append((middle - begin, perf_counter() - middle))
                steps = len(program)
            dealing, building = (1e3 * min(column) for column in zip(*times, strict=True))
            yield f"| {what} | {placement.value} | {steps:,} | {dealing:.2f} | {building:.2f} |"


if __name__ == "__main__":
    for table in (exposed, complete, balanced, shared, stacks, speed):
        print(table.__name__)
        for line in table():
            print(line)
        print()
