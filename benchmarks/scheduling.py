"""Fit a step's time to the odd requests of a recorded run, and test the scheduler on the even ones.

Usage: python benchmarks/scheduling.py RUN.requests.jsonl BLOCKS MAX_NUM_SEQS
"""

import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

from attacc.calibration.scheduling import StepLine, deviation, read_recorded, replay
from attacc.serving.engines.vllm_v1 import VllmV1Settings

START = StepLine(15.0, 0.1, 0.05, 0.05, 0.5)
TRIES = 400


def main() -> None:
    """Fit, and print coefficients and deviations."""
    recorded = read_recorded(Path(sys.argv[1]))
    settings = VllmV1Settings(
        int(sys.argv[2]),
        max_num_batched_tokens=2048,
        max_num_seqs=int(sys.argv[3]),
        reserve_full_isl=True,
    )
    odd, even = (list(range(first, len(recorded), 2)) for first in (1, 0))

    def loss(logarithms: Any) -> float:
        line = StepLine(*np.exp(logarithms).tolist())
        off = deviation(recorded, replay(recorded, line, settings), odd)
        return off.ttft + off.e2el

    first = np.log(astuple(START))
    corners = np.vstack([first, first + 0.7 * np.eye(first.size)])
    scipy: Any = optimize  # whose types are its own matter
    best = scipy.minimize(
        loss, first, method="Nelder-Mead", options={"maxfev": TRIES, "initial_simplex": corners}
    )
    line = StepLine(*np.exp(best.x).tolist())
    run = replay(recorded, line, settings)
    print(line)
    for name, chosen in (("odd", odd), ("even", even)):
        print(name, deviation(recorded, run, chosen))


if __name__ == "__main__":
    main()
