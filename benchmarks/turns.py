"""What it gains that two parts of a step take turns: the tables of docs/model/overlap.md.

Run ``python benchmarks/turns.py``.
"""

from collections.abc import Sequence
from itertools import product
from typing import Final

import attacc as aa
from attacc.system.step import StepCost
from attacc.units import NS_PER_MS

SYSTEM: Final = "8xh200-attacc-hbm3-shared"
OTHERS: Final = ("8xh200-attacc-hbm3", "8xh200-attacc-hbm4-shared", "8xb200-attacc-hbm4-shared")
MODELS: Final = ("llama-3.1-70b", "gpt3-175b")
LENGTH: Final = 8192
BATCHES: Final = (8, 16, 32, 64, 128, 192, 256, 512)


def row(*cells: object) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |")


def gain(before: StepCost, after: StepCost) -> str:
    """Return by how much a step is faster, and how much energy it needs."""
    energy = after.energy.total_pj / before.energy.total_pj
    return f"{before.time_ns / after.time_ns:.2f} | {energy:.2f}"


def halves_table(system: str, model: str, batches: Sequence[int]) -> None:
    """Print decode steps whole and in halves."""
    whole = aa.Pricer(model, system)
    halves = aa.Pricer(model, aa.load_system(system, overlap="halves"))
    fits = whole.largest_batch((LENGTH - 1, 1)).largest_that_fits
    print(f"\n{system}, {model}, {LENGTH:,} keys: {fits} requests fit\n")
    row("requests", "whole, ms", "halves, ms", "faster", "energy", "GPUs, attention of a half, us")
    for batch in batches:
        before, after = (one.step(decode=[LENGTH] * batch) for one in (whole, halves))
        layers = [op for op in after.operators if op.layers]
        away = [op for op in layers if op.time_ns < op.alone_ns]
        attention = sum(op.alone_ns for op in away) / 2e3
        gpus = sum(op.alone_ns for op in layers if op not in away) / 2e3
        times = (f"{one.time_ns / NS_PER_MS:.1f}" for one in (before, after))
        row(batch, *times, gain(before, after), f"{gpus:.0f}, {attention:.0f}")


def prompts_table(model: str) -> None:
    """Print steps with a chunk of a prompt beside decoding requests."""
    keys = ("none", "attention", "layers")
    pricers = [aa.Pricer(model, aa.load_system(SYSTEM, prefill_overlap=key)) for key in keys]
    print(f"\n{SYSTEM}, {model}, {LENGTH:,} keys, chunk behind 4,096 tokens\n")
    for batch, chunk in product((16, 64, 128, 256), (512, 2048)):
        steps = [
            one.step(decode=[LENGTH] * batch, prefill=[aa.Chunk(chunk, past=4096)])
            for one in pricers
        ]
        before = steps[0]
        row(
            batch, chunk, f"{before.time_ns / NS_PER_MS:.1f}", *(gain(before, s) for s in steps[1:])
        )


def main() -> None:
    """Print all tables."""
    for model in MODELS:
        halves_table(SYSTEM, model, BATCHES)
    for system, model in product(OTHERS, MODELS):
        halves_table(system, model, BATCHES[:-1])
    for model in MODELS:
        prompts_table(model)


if __name__ == "__main__":
    main()
