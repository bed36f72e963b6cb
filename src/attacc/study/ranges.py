"""How sure a speed-up is: draws of all that is not known exactly, priced anew.

One draw sets every unknown for all systems: how far off the GPU prices are, by kind of operators
(measured on shapes that were held back, lognormal), the cadence of multiplies in the banks
(uniform in its logarithm over what budgets of 116 to 23 W allow), the time to start a layer's
attention on AttAccs (likewise, from 1.5 to 10 us), whether all-bank activations keep to the
four-activate window of a rank, of a pseudo-channel, or to none (each as likely), and powers that
nobody has measured. Every draw prices the steady state of every system anew, in the layout and
batch that were chosen. The ratio is taken within the draw. The range is that from the 5th to the
95th percentile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from attacc.gpu.costs import PARTS, Floats, GpuPart
from attacc.serving.candidates import Served
from attacc.serving.policies import ServingOptions
from attacc.serving.search import states_drawn
from attacc.system.doubts import FASTEST, SLOWEST, activations
from attacc.system.pricer import Drawn
from attacc.workload.requests import Workload

DRAWS: Final = 256
SEED: Final = 0
LOW: Final = 5
HIGH: Final = 95
"""Percentiles of a range."""
SIGMA_PER_ERROR: Final = float(np.sqrt(np.pi / 2))
"""Standard deviation of a normal distribution over its mean absolute value."""
CADENCE: Final = "cadence of multiplies (power budget of a stack)"
ACTIVATIONS: Final = "four-activate window of all-bank activations"
START: Final = "time to start attention on AttAccs"
FASTEST_START: Final = 1.5 / 4
SLOWEST_START: Final = 10 / 4
"""Times to start a layer's attention on another device, 1.5 and 10 us, over the 4 us of today's
systems (docs/model/boundary.md)."""
IDLE: Final = "idle power of GPUs"
BASE: Final = "base power of AttAcc devices"
STANDBY: Final = "standby of AttAcc stacks"
POWERS: Final = {IDLE: ("static_pj", 0.8, 1.25), BASE: ("device_pj", 0.25, 3.0)} | {
    STANDBY: ("standby_pj", 0.5, 2.0)
}
"""Power -> kind of energy, and the least and the greatest factor of it, all assumed: idle power of
a GPU differs by so much between boards and drivers; a device's logic takes 5 to 60 W instead of 20;
currents of HBM3 are not public, and those of HBM2 are off by up to 2."""


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What is drawn, once for all systems.

    Attributes:
        gpu: kind of operators -> (draws,) standard normal numbers.
        cadence: (draws,) cadence over the published one.
        window: (draws,) 0 for no window, 1 for one of each rank, 2 for one of each pseudo-channel.
        start: (draws,) time to start a layer's attention on AttAccs, over the one that is stated.
        powers: name of a power -> (draws,) factors.
    """

    gpu: Mapping[GpuPart, Floats]
    cadence: Floats
    window: Floats
    start: Floats
    powers: Mapping[str, Floats]

    @classmethod
    def of(cls, draws: int = DRAWS, seed: int = SEED) -> Draws:
        """Draw all unknowns.

        Args:
            draws: how many times.
            seed: of the generator.
        """
        random = np.random.default_rng(seed)
        gpu = {part: random.standard_normal(draws) for part in GpuPart}
        low, high = np.log(FASTEST), np.log(SLOWEST)
        cadence = np.exp(random.uniform(low, high, draws))
        window = random.integers(0, 3, draws).astype(np.float64)
        start = np.exp(random.uniform(np.log(FASTEST_START), np.log(SLOWEST_START), draws))
        powers = {
            name: np.exp(random.uniform(np.log(least), np.log(most), draws))
            for name, (_, least, most) in POWERS.items()
        }
        return cls(gpu, cadence, window, start, powers)

    def columns(self) -> dict[str, Floats]:
        """Return every unknown by its name."""
        named = {str(part): values for part, values in self.gpu.items()}
        own = {CADENCE: self.cadence, ACTIVATIONS: self.window, START: self.start}
        return named | own | dict(self.powers)


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a ratio.

    Attributes:
        low: 5th percentile.
        high: 95th percentile.
        depends_most_on: the unknown with the largest rank correlation with the ratio; None where
            the ratio does not vary.
    """

    low: float
    high: float
    depends_most_on: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What a way to serve gives, for each draw.

    Attributes:
        requests_per_s: (draws,) requests that end in a second.
        energy_j: (draws,) energy of one request.
    """

    requests_per_s: Floats
    energy_j: Floats


def outcomes(way: Served, workload: Workload, options: ServingOptions, draws: Draws) -> Outcomes:
    """Return what a way to serve gives, for each draw.

    Args:
        way: as chosen by the best estimates.
        workload: the requests.
        options: what was asked.
        draws: the unknowns.
    """
    pricer = way.pricer
    errors = pricer.costs.errors(pricer.system.gpu)
    gpu = {
        part: np.exp(SIGMA_PER_ERROR * errors[part] * normal) for part, normal in draws.gpu.items()
    }
    attacc = np.ones(draws.cadence.size)
    if pricer.attaccs is not None:
        share = max(1, way.batch // way.layout.replicas)
        length = max(1, round(workload.mean_prompt_tokens + workload.mean_output_tokens / 2))
        ratios = pricer.at_cadences(share, length)
        if ratios:
            at, factors = zip(*ratios, strict=True)
            attacc = np.asarray(np.interp(draws.cadence, at, factors), dtype=np.float64)
        longer = activations(pricer.system, pricer.model.kv.bits)
        by_window = np.array([1.0, longer.per_rank, longer.per_pseudo_channel])
        attacc = attacc * by_window[draws.window.astype(np.int64)]
    found = states_drawn(way, workload, options, Drawn(gpu, attacc, draws.start))
    factors = np.ones((len(PARTS), 1)) * np.ones(draws.start.size)
    for name, (kind, _, _) in POWERS.items():
        factors[PARTS.index(kind)] = draws.powers[name]
    return Outcomes(found.requests_per_s, (found.energies_j * factors).sum(axis=0))


def range_of(ratios: Floats, draws: Draws) -> Range:
    """Return the range of a ratio, and what it depends on most.

    Args:
        ratios: (draws,) the ratio.
        draws: what was drawn.
    """
    low, high = np.percentile(ratios, [LOW, HIGH])
    if np.ptp(ratios) <= 1e-9 * abs(ratios.mean()):
        return Range(float(low), float(high), None)
    ranks = _ranks(ratios)
    strength = {
        name: abs(float(np.corrcoef(_ranks(values), ranks)[0, 1]))
        for name, values in draws.columns().items()
    }
    return Range(float(low), float(high), max(strength, key=lambda name: strength[name]))


def _ranks(values: Floats) -> Floats:
    """Return ranks; equal values have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
