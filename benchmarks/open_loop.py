"""Serve measured runs under open-loop load again, and fit the overheads of vLLM's engine to them.

Usage: python benchmarks/open_loop.py [serving_open_loop.csv] [end_to_end.csv]
"""

import sys
from pathlib import Path

import numpy as np

from attacc.calibration.closed_loop import playable
from attacc.calibration.closed_loop import simulated as played
from attacc.calibration.open_loop import Figures, OpenLoopRun, dense, fitted, read_open_loop
from attacc.calibration.serving import read_runs
from attacc.serving.started import NO_OVERHEADS, Overheads

SILICON = Path("../shared/data/silicon")


def line(run: OpenLoopRun, found: Figures) -> str:
    """Return a row of a table: simulated, measured, and errors in percent."""
    told, off = run.measured, found.off(run.measured)
    cells = [
        f"{getattr(found, name):.1f} / {getattr(told, name):.1f} ({getattr(off, name):+.1%})"
        for name in ("tpot", "ttft", "e2el", "e2el_p99")
    ]
    return " | ".join([run.name, *cells, f"{off.itl:+.1%}"])


def means(runs: list[OpenLoopRun], found: list[Figures]) -> str:
    """Return the means of errors without signs."""
    off = [one.off(run.measured) for run, one in zip(runs, found, strict=True)]
    return ", ".join(
        f"{name} {np.mean([abs(getattr(one, name)) for one in off]):.1%}"
        for name in Figures.__slots__
    )


def main() -> None:
    """Print the runs, what is fitted to them, and what this says of models held back."""
    runs = read_open_loop(
        Path(sys.argv[1]) if len(sys.argv) > 1 else SILICON / "serving_open_loop.csv"
    )
    known = [run for run in runs if run.model]
    print("run | TPOT | TTFT | E2EL | 99th percentile of E2EL | ITL")
    for run in known:
        print(line(run, run.simulated()))
    chosen = dense(runs)
    print("\nfitted to dense models:", fitted(chosen))
    print("defaults:", means(chosen, [run.simulated() for run in chosen]))
    print("no overheads:", means(chosen, [run.simulated(NO_OVERHEADS) for run in chosen]))
    hidden: dict[int, Figures] = {}
    for model in dict.fromkeys(run.model for run in chosen):
        own = fitted([run for run in chosen if run.model != model])
        print(f"without {model}:", own)
        hidden |= {run.number: run.simulated(own) for run in chosen if run.model == model}
    print("models held back:", means(chosen, [hidden[run.number] for run in chosen]))
    for overheads in (NO_OVERHEADS, Overheads(20.0), Overheads(35.3)):
        new = [run.simulated(overheads, shared=False) for run in chosen]
        print(f"every prompt new, {overheads}:", means(chosen, new))
    print("\nconstant concurrency")
    table = Path(sys.argv[2]) if len(sys.argv) > 2 else SILICON / "end_to_end.csv"
    closed = played(playable(read_runs(table)))
    for one in closed:
        of = one.run
        print(
            f"{of.prompt}+{of.output}, {of.concurrency} clients, {of.tensor_parallel} GPUs: "
            f"TPOT {one.tpot_ms:.1f} / {of.tpot_ms:.1f} ({one.tpot_off:+.1%}), "
            f"TTFT {one.ttft_ms:.0f} / {of.ttft_ms:.0f} ({one.ttft_off:+.1%})"
        )
    tpot, ttft = (
        np.mean(np.abs([getattr(one, n) for one in closed])) for n in ("tpot_off", "ttft_off")
    )
    print(f"{len(closed)} runs: TPOT {tpot:.1%}, TTFT {ttft:.1%}")


if __name__ == "__main__":
    main()
