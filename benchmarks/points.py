"""How long ten thousand system points take: model x system x batch x length, decode steps.

Usage: python benchmarks/points.py
"""

from __future__ import annotations

import time

import numpy as np

from attacc.system.pricer import Pricer, SplitError, Timed
from attacc.workload.requests import fixed_lengths

MODELS = ("gpt3-175b", "llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "qwen3-32b")
SYSTEMS = tuple(
    f"8x{gpu}{kind}"
    for gpu in ("h100", "h200", "b200", "gb200", "a100")
    for kind in ("", "-attacc-hbm3")
)
SIZES = np.unique(np.geomspace(1, 128, 32).astype(np.int64))[:20]
LENGTHS = np.geomspace(512, 16_384, 10).astype(np.int64)
TIMED = Timed((int(SIZES[0]), int(SIZES[8]), int(SIZES[-1])), (int(LENGTHS[0]), int(LENGTHS[-1])))


def main() -> None:
    """Price the points, and print how many took how long."""
    points, started = 0, time.process_time()
    for model in MODELS:
        for system in SYSTEMS:
            try:
                pricer = Pricer(model, system)
            except SplitError:
                continue
            need = pricer.need(fixed_lengths(512, 16))
            sizes, lengths = np.repeat(SIZES, LENGTHS.size), np.tile(LENGTHS, SIZES.size)
            priced = pricer.sized(sizes, lengths, timed=TIMED, need=need)
            points += priced.time_ns.size
    print(f"{points:,} points in {time.process_time() - started:.1f} s of processor time")


if __name__ == "__main__":
    main()
