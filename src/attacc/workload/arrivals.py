"""When requests arrive: times that are given, or drawn.

Drawn times are those of vLLM's benchmark (``vllm bench serve``, vLLM 0.16): the gaps between
arrivals are independent draws from a gamma distribution, the first request waits a gap, too, and
all times are scaled so that the last request arrives at requests / rate. Burstiness is the shape of
the distribution; the gaps' standard deviation is their mean divided by the root of the burstiness.
Equal seeds give equal times here. They are not the times that vLLM draws from that seed, since its
random numbers are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.units import finite, whole

F64 = npt.NDArray[np.float64]

LEAST_RATE_PER_S: Final = 1e-6
MOST_RATE_PER_S: Final = 1e6
LEAST_BURSTINESS: Final = 0.05
"""Least burstiness. The gaps' standard deviation is 4.5 times their mean there. A gap of a smaller
shape is often so short that it is 0 in binary, and all gaps may be."""
MOST_BURSTINESS: Final = 1e6
"""Most burstiness; gaps differ by a thousandth there."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Times at which requests arrive.

    Attributes:
        times_s: (requests,) seconds from the start, at least 0, never falling.
        source: where the times come from, in words, for reports.
    """

    times_s: F64
    source: str

    def __post_init__(self) -> None:
        times = self.times_s
        if times.ndim != 1 or not len(times):
            raise InputError(
                "no times of arrival", where="arrivals", hint="give one for each request"
            )
        wrong = np.flatnonzero(~(np.isfinite(times) & (times >= 0)))
        if len(wrong):
            raise InputError(
                f"arrival {wrong[0]} at {times[wrong[0]]!s} s is no time",
                where="arrivals",
                hint="give seconds from the start, 0 or more",
            )
        back = np.flatnonzero(np.diff(times) < 0)
        if len(back):
            first = int(back[0]) + 1
            raise InputError(
                f"arrival {first} at {times[first]!s} s comes before arrival {first - 1} at "
                f"{times[first - 1]!s} s",
                where="arrivals",
                hint="sort the requests by arrival",
            )

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.times_s)

    @classmethod
    def at(cls, times_s: Sequence[float] | F64) -> Arrivals:
        """Return given times.

        Args:
            times_s: (requests,) seconds from the start, never falling.

        Raises:
            InputError: there are none, one is negative or not finite, or one comes before the time
                in front of it.
        """
        return cls(np.array(times_s, dtype=np.float64), "given times of arrival")


def poisson(count: int, requests_per_s: float, *, seed: int = 0) -> Arrivals:
    """Draw arrivals of a Poisson process, scaled to end at ``count / requests_per_s``.

    Args:
        count: number of requests.
        requests_per_s: mean rate.
        seed: seed of the random numbers.

    Raises:
        InputError: a number is out of range.
    """
    drawn = _gamma(count, requests_per_s, 1.0, seed)
    return Arrivals(drawn, f"Poisson arrivals at {requests_per_s:g} requests/s, seed {seed}")


def gamma(count: int, requests_per_s: float, *, burstiness: float, seed: int = 0) -> Arrivals:
    """Draw arrivals with gamma-distributed gaps, scaled to end at ``count / requests_per_s``.

    Args:
        count: number of requests.
        requests_per_s: mean rate.
        burstiness: shape of the distribution of gaps. 1 is a Poisson process, less is burstier.
        seed: seed of the random numbers.

    Raises:
        InputError: a number is out of range.
    """
    drawn = _gamma(count, requests_per_s, burstiness, seed)
    return Arrivals(
        drawn,
        f"arrivals at {requests_per_s:g} requests/s with gamma-distributed gaps, burstiness "
        f"{burstiness:g}, seed {seed}",
    )


def constant(count: int, requests_per_s: float) -> Arrivals:
    """Return arrivals with equal gaps; the first request waits a gap, too.

    Args:
        count: number of requests.
        requests_per_s: rate.

    Raises:
        InputError: a number is out of range.
    """
    whole(count, where="count")
    rate = _rate(requests_per_s)
    return Arrivals(
        np.arange(1, count + 1) / rate, f"arrivals at constant {requests_per_s:g} requests/s"
    )


def at_once(count: int) -> Arrivals:
    """Return arrivals that are all at time 0, as an infinite rate has them.

    Args:
        count: number of requests.

    Raises:
        InputError: the number is out of range.
    """
    whole(count, where="count")
    return Arrivals(np.zeros(count), "all requests arrive at once")


def check_seed(seed: int) -> int:
    """Return a seed of random numbers.

    Raises:
        InputError: it is negative, no whole number, or has more than 64 bits.
    """
    return whole(seed, where="seed", least=0, most=2**64 - 1)


def _rate(requests_per_s: float) -> float:
    return finite(
        requests_per_s, where="requests_per_s", least=LEAST_RATE_PER_S, most=MOST_RATE_PER_S
    )


def _gamma(count: int, requests_per_s: float, burstiness: float, seed: int) -> F64:
    whole(count, where="count")
    rate = _rate(requests_per_s)
    shape = finite(burstiness, where="burstiness", least=LEAST_BURSTINESS, most=MOST_BURSTINESS)
    random = np.random.default_rng(check_seed(seed))
    times = np.cumsum(random.gamma(shape, 1 / (rate * shape), count))
    end = count / rate
    scaled = np.minimum(times * (end / times[-1]), end)  # a product may be rounded up
    scaled[-1] = end
    return scaled
