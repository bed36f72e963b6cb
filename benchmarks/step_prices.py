"""Times the durations of a run's steps, and compares them: ``python benchmarks/step_prices.py``.

The run is a synthetic one of an engine with a budget of tokens: requests come at random, their
prompts are prefilled in chunks beside the requests that decode, and every request has a length of
its own. All steps are priced by `StepPrices`, and then exactly in bulk. The totals of energy and
busy time are timed as well.
"""

import time
from typing import Annotated

import numpy as np
import typer

from attacc.serving.prices.steps import PS_PER_NS, StepPrices
from attacc.serving.prices.works import Works
from attacc.serving.work import Chunk, Work
from attacc.system.pricer import Pricer

PAIRS = (
    ("llama-3.1-70b", "8xh100"),
    ("gpt3-175b", "8xh100"),
    ("llama-3.1-70b", "dgx-base"),
    ("gpt3-175b", "dgx-base"),
)
BUDGET, MOST = 2048, 256


def synthetic_run(steps: int, per_step: float, seed: int) -> list[Work]:
    """Return the steps of a run.

    Args:
        steps: how many.
        per_step: requests that come in a step, on average.
        seed: seed of the requests.
    """
    rng = np.random.default_rng(seed)
    keys, left = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    waiting: list[list[int]] = []
    found: list[Work] = []
    while len(found) < steps:
        for _ in range(rng.poisson(per_step)):
            prompt = int(np.clip(rng.lognormal(6.9, 0.8), 16, 16_000))
            waiting.append([prompt, 0, int(np.clip(rng.lognormal(5.1, 0.7), 2, 2000))])
        chunks: list[Chunk] = []
        room, starts = BUDGET - keys.size, list[list[int]]()
        while waiting and room > 0 and keys.size + len(starts) < MOST:
            prompt, past, _ = waiting[0]
            new = min(room, prompt - past)
            chunks.append(Chunk(new, past, 0, past + new == prompt))
            room -= new
            waiting[0][1] += new
            if past + new < prompt:
                break
            starts.append(waiting.pop(0))
        if not keys.size and not chunks:
            continue
        longest = int(keys.max()) if keys.size else 0
        found.append(Work(int(keys.size), int(keys.sum()), longest, tuple(chunks)))
        left -= 1
        keys = np.concatenate([keys[left > 0] + 1, [prompt + 1 for prompt, _, _ in starts]])
        left = np.concatenate([left[left > 0], [output - 1 for _, _, output in starts]])
        keys, left = keys.astype(np.int64), left.astype(np.int64)
    return found


def main(
    steps: Annotated[int, typer.Option(help="Steps of the run.")] = 20_000,
    per_step: Annotated[float, typer.Option(help="Requests that come in a step.")] = 0.4,
) -> None:
    """Print microseconds for each step, calls of the pricer, and the largest deviation."""
    run = synthetic_run(steps, per_step, seed=1)
    columns = Works.of(run)
    mixed = sum(bool(work.chunks) for work in run)
    print(
        f"{steps:,} steps, {mixed:,} with prompts, {columns.decoding.mean():.0f} decode on average"
    )
    for model, system in PAIRS:
        pricer = Pricer(model, system)
        pricer.step(decode=[10])
        prices = StepPrices(pricer)
        begin = time.process_time()
        own = np.array([prices.time_ps(work) for work in run])
        cold_us = (time.process_time() - begin) / steps * 1e6
        calls = prices.calls
        warm_us = list[float]()
        for some in (
            [work for work in run if not work.chunks],
            [work for work in run if work.chunks],
        ):
            begin = time.process_time()
            for work in some:
                prices.time_ps(work)
            warm_us.append((time.process_time() - begin) / max(1, len(some)) * 1e6)
        begin = time.process_time()
        totals = prices.totals(columns)
        totals_s = time.process_time() - begin
        exact = pricer.steps(columns.batches()).time_ns * PS_PER_NS
        off = np.abs(own / exact - 1)
        print(
            f"{model:14} {system:9} {cold_us:6.1f} us a step with {calls:4} calls; tables filled: "
            f"decode {warm_us[0]:4.1f}, mixed {warm_us[1]:4.1f} us; deviation: largest "
            f"{100 * off.max():.2f} %, 99th percentile {100 * np.quantile(off, 0.99):.2f} %, run "
            f"{100 * abs(own.sum() / exact.sum() - 1):.3f} %; bound {100 * prices.bound:.2f} %; "
            f"totals {totals_s:.2f} s, {totals.energy.total_pj * 1e-12 / steps:.0f} J a step"
        )


if __name__ == "__main__":
    typer.run(main)
