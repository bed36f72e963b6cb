"""The highest rate of requests at which most users still get what they were promised."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from math import ceil, log
from typing import Any, Final

from attacc.errors import InputError
from attacc.results import Result
from attacc.serving.results import Latencies, Targets
from attacc.serving.serve import Fleet, Server, Service
from attacc.units import PS_PER_MS, finite
from attacc.workload.requests import Requests

STEP: Final = 1.02
"""Factor between two rates that are told apart."""
LEAST: Final = 2.0**-16
"""Requests in a second below which no rate is tried."""
LASTING: Final = 3.0
"""Mean latencies that the arrivals of a run have to last. Else most requests are there at once."""
MOST: Final = 2.0**18
"""Requests in a second above which no rate is doubled."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A rate that was tried.

    Attributes:
        requests_per_s: mean rate of the arrivals.
        attainment: share of the requests that kept all targets.
    """

    requests_per_s: float
    attainment: float


@dataclass(frozen=True)
class FoundRate(Result):
    """The highest rate that keeps the targets.

    Attributes:
        model: the model.
        system: the system.
        requests_per_s: the rate; 2 % more miss the targets.
        share: share of the requests that have to keep them.
        attainment: share that does at this rate.
        burst: whether the rate is that of a burst: the run is overloaded, or its arrivals last less
            than three times as long as a request on average. It is too high for requests that go
            on.
        tried: all rates that were tried, rising.
        service: the run at this rate.
    """

    model: str
    system: str
    requests_per_s: float
    share: float
    attainment: float
    burst: bool
    tried: tuple[Tried, ...]
    service: Service = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, and those of the run."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        own["tried"] = [asdict(one) for one in self.tried]
        return own | {"service": self.service.to_dict()}

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each rate that was tried."""
        return list(self.to_dict()["tried"])


def is_burst(found: Latencies) -> bool:
    """Return whether a run tells nothing of requests that go on.

    Args:
        found: latencies of the run.
    """
    arrivals = found.requests.column("arrival_ps")
    lasts_ms = float(arrivals.max() - arrivals.min()) / PS_PER_MS
    return found.overloaded or lasts_ms < LASTING * found.e2el_ms.mean


def find_rate(
    server: Server | Fleet, requests: Requests, targets: Targets, *, share: float = 0.9
) -> FoundRate:
    """Find the highest rate at which a share of the requests keeps all targets.

    Rates are doubled or halved until one keeps the targets and the next misses them, and then
    bisected in steps of 2 %. All rates have the same requests in the same order, with the gaps of
    the source made shorter or longer.

    Args:
        server: what serves: one engine, or a fleet.
        requests: the requests, with arrivals.
        targets: latencies that users accept.
        share: share of the requests that have to keep them.

    Raises:
        InputError: no target is given, the requests have no arrivals, not even one request at a
            time keeps the targets, or all at once do.
    """
    if not targets.given:
        raise InputError(
            "there is no target to keep", where="targets", hint="give a TTFT, a TPOT, or both"
        )
    least = finite(share, where="share", least=0)
    if not 0 < least <= 1:
        raise InputError(
            f"{least:g} is out of range", where="share", hint="use a share of up to 1, as 0.9"
        )
    known: dict[float, float] = {}

    def keeps(rate: float) -> bool:
        if rate not in known:
            found: Latencies = server.latencies(requests.at_rate(rate), targets)
            reached = found.slo_attainment or 0.0
            known[rate] = reached * found.completed / (found.completed + found.rejected)
        return known[rate] >= least

    low = requests.requests_per_s
    while not keeps(low):
        low /= 2
        if low < LEAST:
            best = max(known.values())
            raise InputError(
                f"no rate keeps the targets for {least:.0%} of the requests: at most {best:.0%} "
                "keep them, however few come",
                where="targets",
                hint="allow more time, use a faster system, or ask for a smaller share",
            )
    high = 2 * low
    while keeps(high):
        low, high = high, 2 * high
        if high > MOST:
            raise InputError(
                f"the targets are kept however fast the {len(requests):,} requests come, so that "
                "no rate is the highest",
                where="targets",
                hint="give more requests, or tighter targets",
            )
    steps = ceil(log(high / low) / log(STEP))
    rates = [low * STEP**step for step in range(steps)]
    place = bisect_left(rates, True, key=lambda rate: not keeps(rate))
    best = rates[max(0, place - 1)]
    service = server.serve(requests.at_rate(best), targets)
    return FoundRate(
        model=service.model,
        system=service.system,
        requests_per_s=best,
        share=least,
        attainment=known[best],
        burst=is_burst(service.latencies),
        tried=tuple(Tried(rate, known[rate]) for rate in sorted(known)),
        service=service,
    )
