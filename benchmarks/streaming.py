"""Ordinary traffic: bandwidth of streams per standard, write draining, prefill beside decode.

Prints the figures of docs/model/traffic.md, and asserts nothing.

    python benchmarks/streaming.py [--json]
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from attacc.hardware.dram import DRAMS, Organization
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.balance import assign
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.interleaved import chunk_grain, interleaved_program, longest_chunk
from attacc.pim.program.program import Kind, Program
from attacc.pim.program.traffic import TrafficPolicy, kv_writes, mixed, streaming
from attacc.pim.timing.engine import TimedRun, run
from attacc.pim.timing.tables import resolve_timing
from attacc.study.claims.timing import streaming_bound

REFRESHES = 20
"""Refresh intervals that a stream lasts, its beginning and end included."""
UNITS = DRAMS.load("hbm3-5.2")
HEADS, LENGTH, PREFILL = 64, 3072, 256


@dataclass(frozen=True)
class Streams:
    """One device; bandwidths in bytes per second."""

    device: str
    peak: float
    bound: float
    reads: float
    writes: float


@dataclass(frozen=True)
class Draining:
    """A random mix under one policy: cycles, and changes between reads and writes."""

    write_high: int
    write_low: int
    cycles: int
    turnarounds: int
    bytes_per_s: float


@dataclass(frozen=True)
class Beside:
    """Decode attention while prefill writes; cycles until each of the two has ended."""

    placement: str
    decode_alone: int
    prefill_alone: int
    decode: int
    prefill: int


def nothing(o: Organization) -> Program:
    none = np.zeros(0, dtype=np.int16)
    return Program(o, none.astype(np.uint8), none.astype(np.int64), none, none)


def streams() -> Iterator[Streams]:
    for name in DRAMS.names():
        device = DRAMS.load(name)
        if device.rule_set.ordinary is None:
            continue
        o, t = device.organization, device.timing
        groups = o.ranks * o.bank_groups
        turns = REFRESHES * t["nREFI"] // t["nBL"] // groups
        length = turns * groups * o.pseudo_channels * o.access_bytes
        tables = resolve_timing(device, Placement.BANK, power_limited=True)
        measured: list[float] = []
        for kind in (Kind.LD, Kind.ST):
            served = run(nothing(o), tables, traffic=streaming(o, kind, length)).traffic
            assert served is not None
            measured.append(served.bytes_per_s)
        yield Streams(name, device.external_bytes_per_s, streaming_bound(device), *measured)


def turnarounds(timed: TimedRun) -> int:
    last: dict[tuple[int, int], str] = {}
    changes = 0
    for c in timed.log or ():
        if c.command in ("RD", "WR"):
            where = (c.channel, c.pseudo_channel)
            changes += last.get(where, c.command) != c.command
            last[where] = c.command
    return changes


def draining() -> Iterator[Draining]:
    o = UNITS.organization
    tables = resolve_timing(UNITS, Placement.BANK, power_limited=True)
    traffic = mixed(o, 16_000, seed=4, writes=0.4, locality=0.8)
    for high, low in ((2, 1), (16, 4), (48, 16), (64, 1)):
        policy = TrafficPolicy(write_high=high, write_low=low)
        timed = run(nothing(o), tables, log=True, traffic=traffic, policy=policy)
        assert timed.traffic is not None
        yield Draining(high, low, timed.cycles, turnarounds(timed), timed.traffic.bytes_per_s)


def beside() -> Iterator[Beside]:
    """Each channel gets the keys and values of one head of a prompt, above those in use."""
    o = UNITS.organization
    for placement in Placement:
        tables = resolve_timing(UNITS, placement, power_limited=True)
        layout = HeadLayout(o, placement, 128, ElementType.FP16, LENGTH)
        assignment = assign(
            [LENGTH] * HEADS,
            channels=o.channels,
            longest=longest_chunk(UNITS, layout),
            grain=chunk_grain(layout),
        )
        program = interleaved_program(
            UNITS, layout, assignment, multiply_interval=tables.multiply_interval
        )
        prompt = HeadLayout(o, placement, 128, ElementType.FP16, PREFILL)
        row_bytes = o.columns * o.access_bytes
        first = o.bank_bytes - 2 * prompt.rows * row_bytes
        writes = kv_writes(
            prompt, keys=first, values=first + prompt.rows * row_bytes, channels=o.channels
        )
        alone = run(nothing(o), tables, traffic=writes)
        both = run(program, tables, traffic=writes, log=True)
        assert both.traffic is not None
        units = max(
            c.cycle for c in both.log or () if c.command.startswith(("MAC", "MV", "SFM", "WRGB"))
        )
        served = int(both.traffic.served.max())
        yield Beside(placement.value, run(program, tables).cycles, alone.cycles, units, served)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    per_device, policies, shared = list(streams()), list(draining()), list(beside())
    if as_json:
        tables = {"streams": per_device, "draining": policies, "beside": shared}
        print(json.dumps({name: [asdict(r) for r in rows] for name, rows in tables.items()}))
        return
    console = Console()
    table = Table("device", "peak GB/s", "bound", "reads", "of bound", "writes", "of bound")
    for r in per_device:
        table.add_row(
            r.device,
            *(f"{value / 1e9:.1f}" for value in (r.peak, r.bound, r.reads)),
            f"{r.reads / r.bound:.1%}",
            f"{r.writes / 1e9:.1f}",
            f"{r.writes / r.bound:.1%}",
        )
    console.print(table)
    table = Table("write_high", "write_low", "cycles", "turnarounds", "GB/s")
    for d in policies:
        table.add_row(
            *(f"{n:,}" for n in (d.write_high, d.write_low, d.cycles, d.turnarounds)),
            f"{d.bytes_per_s / 1e9:.1f}",
        )
    console.print(table)
    table = Table("units", "decode alone", "prefill alone", "decode", "prefill")
    for b in shared:
        counts = (b.decode_alone, b.prefill_alone, b.decode, b.prefill)
        table.add_row(b.placement, *(f"{n:,}" for n in counts))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
