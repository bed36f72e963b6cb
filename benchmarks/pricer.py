"""Prices many steps in one go, and the same steps one by one: ``python benchmarks/pricer.py``.

The steps are those of a server: requests of different lengths that decode, beside chunks of
prompts in every fourth step. Each step is another one, so that no price is remembered.
"""

import time
from typing import Annotated

import numpy as np
import typer

from attacc.gpu.models import GpuModel
from attacc.hardware.system import load_system
from attacc.models.architecture import MODELS
from attacc.system.batches import Batches, Chunk
from attacc.system.pricer import Pricer


def main(
    steps: Annotated[int, typer.Option(help="Steps of the one go.")] = 10_000,
    alone: Annotated[int, typer.Option(help="Steps priced one by one.")] = 200,
    model: Annotated[str, typer.Option(help="Preset of the model.")] = "llama-3.1-70b",
    system: Annotated[str, typer.Option(help="Preset of the system.")] = "dgx-base",
) -> None:
    """Print both costs for each step, and their ratio."""
    rng = np.random.default_rng(1)
    served = [
        (
            rng.integers(1, 8000, rng.integers(1, 200)).tolist(),
            [Chunk(int(rng.integers(1, 2048)), int(rng.integers(0, 4096)))] if i % 4 == 0 else [],
        )
        for i in range(steps)
    ]
    batches = Batches.of(served)
    for kind in GpuModel:
        pricer = Pricer(MODELS.load(model), load_system(system), gpu_model=kind)
        pricer.step(decode=[10], prefill=[Chunk(10, 5)])
        begin = time.process_time()
        together = pricer.steps(batches).time_ns
        each_us = (time.process_time() - begin) / steps * 1e6
        begin = time.process_time()
        one_by_one = [
            pricer.step(decode=lengths, prefill=chunks).time_ns
            for lengths, chunks in served[:alone]
        ]
        alone_us = (time.process_time() - begin) / alone * 1e6
        worst = np.abs(together[:alone] / one_by_one - 1).max()
        print(
            f"{kind:10}  {steps:,} steps in one go: {each_us:6.1f} us each; one by one: "
            f"{alone_us:7.1f} us; ratio {alone_us / each_us:5.1f}; largest difference {worst:.1e}"
        )


if __name__ == "__main__":
    typer.run(main)
