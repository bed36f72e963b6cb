"""How evenly requests that come, grow and leave fill the channels, for every policy.

    python benchmarks/residence.py TRACE.csv [--steps N] [--json]

TRACE.csv is a trace with the columns ContextTokens and GeneratedTokens (Azure, 2023).
Asserts nothing about time.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Final

import numpy as np
import typer

from attacc.errors import CapacityError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.mapping.residence import Growth
from attacc.pim.mapping.resident_counts import CountedRequest, Policy, ResidentCounts, redealt

STACKS: Final = 40
HEAD_DIM: Final = 128
GRAIN: Final = 256
WARM_UP: Final = 500
"""Steps before the first that counts."""
SAMPLED: Final = 100
"""Steps between two that are dealt anew."""
MODELS: Final = {
    "gpt-3-175b": (96, 96, 4096),
    "llama-3.1-70b": (80, 8, 4096),
    "llama-3.1-70b, shared reads": (80, 8, 512),
}
"""Layers, key/value heads, and keys that a chunk may have at most."""


@dataclass
class Row:
    """Sums over steps.

    Attributes:
        batch: running requests, mean.
        keys: keys of the fullest channel over the mean; both are sums over steps.
        with_chunks: the same of keys and a quarter of a grain for each chunk, over the mean keys.
        chunks: chunks of a channel, mean.
        evicted: requests that had no room to grow, or do not fit alone.
        microseconds: wall time of a step with its arrivals and ends.
        tokens_per_s: keys (of one head) that grow per second of wall time.
        visits: requests that are visited per step, arrivals apart.
    """

    model: str
    slots: int
    policy: str
    batch: float = 0.0
    keys: float = 0.0
    with_chunks: float = 0.0
    chunks: float = 0.0
    evicted: int = 0
    microseconds: float = 0.0
    tokens_per_s: float = 0.0
    visits: float = 0.0


def trace(path: Path) -> Iterator[tuple[int, int]]:
    """Prompt and answer of each request, over and over."""
    with path.open() as file:
        rows = [(int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in csv.DictReader(file)]
    while True:
        yield from ((prompt, answer) for prompt, answer in rows if prompt > 0 and answer > 0)


class Stream:
    """A running batch of a constant number of slots, as far as the banks have room."""

    def __init__(self, counts: ResidentCounts, path: Path, slots: int) -> None:
        self.counts, self.slots = counts, slots
        self.requests = trace(path)
        self.waiting = next(self.requests)
        self.running: dict[CountedRequest, int] = {}
        self.evicted = 0

    def step(self) -> None:
        for request in [one for one, left in self.running.items() if left == 0]:
            self.counts.free(request)
            del self.running[request]
        while len(self.running) < self.slots:
            prompt, answer = self.waiting
            try:
                self.running[self.counts.arrive(prompt)] = answer
            except CapacityError:
                if self.running:
                    break
                self.evicted += 1  # it does not fit alone
                self.waiting = next(self.requests)
                break
            self.waiting = next(self.requests)
        for request in self.counts.step():
            self.counts.free(request)
            del self.running[request]
            self.evicted += 1
        for request in self.running:
            self.running[request] -= 1

    def lengths(self) -> list[int]:
        return [self.counts.length(one) for one in self.running]


def measured(path: Path, model: str, slots: int, policy: Policy, steps: int) -> list[Row]:
    layers, heads, longest = MODELS[model]
    growth = Growth(longest=longest, grain=GRAIN, growing=min(4 * GRAIN, longest), quantum=16)
    o = DRAMS.load("hbm3-5.2").organization
    counts = ResidentCounts(
        KeyLayout(o, Placement.BANK, HEAD_DIM, ElementType.FP16), stacks=STACKS, layers=layers,
        heads=heads, growth=growth, policy=policy,
    )  # fmt: skip
    stream = Stream(counts, path, slots)
    for _ in range(WARM_UP):
        stream.step()
    row, bound = Row(model, slots, policy), Row(model, slots, "redealt")
    sums: defaultdict[str, float] = defaultdict(float)
    wall, visits = 0.0, counts.visits
    for step in range(steps):
        begin = perf_counter()
        stream.step()
        wall += perf_counter() - begin
        keys = counts.keys
        sums["max"] += int(keys.max())
        sums["load"] += int(counts.loads.max())
        sums["mean"] += float(keys.mean())
        sums["chunks"] += float(counts.chunks.mean())
        sums["batch"] += len(stream.running)
        if policy is Policy.RESIDENT and step % SAMPLED == 0:
            dealt = redealt(
                stream.lengths(), heads=heads, stacks=STACKS, channels=o.channels, growth=growth
            )
            sums["again"] += 1
            sums["again max"] += max(sum(own) for own in dealt)
            sums["again load"] += max(sum(own) + len(own) * GRAIN // 4 for own in dealt)
            sums["again mean"] += float(keys.mean())
            sums["again chunks"] += float(np.mean([len(own) for own in dealt]))
            bound.batch += len(stream.running)
    row.batch, row.chunks = sums["batch"] / steps, sums["chunks"] / steps
    row.evicted = stream.evicted
    if not sums["mean"]:
        row.keys = row.with_chunks = float("nan")
        return [row]
    row.keys, row.with_chunks = sums["max"] / sums["mean"], sums["load"] / sums["mean"]
    row.microseconds = 1e6 * wall / steps
    row.tokens_per_s, row.visits = sums["batch"] / wall, (counts.visits - visits) / steps
    if not sums["again"]:
        return [row]
    bound.keys = sums["again max"] / sums["again mean"]
    bound.with_chunks = sums["again load"] / sums["again mean"]
    bound.batch, bound.chunks = bound.batch / sums["again"], sums["again chunks"] / sums["again"]
    return [row, bound]


def main(
    path: Annotated[Path, typer.Argument(metavar="TRACE.csv")],
    steps: Annotated[int, typer.Option(help="Steps that count.")] = 1500,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    if not as_json:
        print("| model, slots | policy | batch | keys | with chunks | chunks | evicted |", end="")
        print(" us/step | tokens/s | visits |\n|---|---|---|---|---|---|---|---|---|---|")
    for model in MODELS:
        for slots in (64, 256):
            for policy in Policy:
                for row in measured(path, model, slots, policy, steps):
                    if as_json:
                        print(json.dumps(asdict(row)))
                        continue
                    print(
                        f"| {model}, {slots} | `{row.policy}` | {row.batch:.0f} | {row.keys:.3f} "
                        f"| {row.with_chunks:.3f} | {row.chunks:.1f} | {row.evicted} "
                        f"| {row.microseconds:.0f} | {row.tokens_per_s:.3g} | {row.visits:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    typer.run(main)
