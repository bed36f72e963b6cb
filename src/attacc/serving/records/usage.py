"""What a run used: memory, devices and energy, summed over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from attacc.serving.prices.steps import StepPrices
from attacc.serving.prices.totals import Totals
from attacc.serving.prices.works import Works
from attacc.serving.records.steps import Steps


@dataclass(frozen=True, slots=True)
class Usage:
    """What the steps of a run used.

    Attributes:
        running: requests with memory times the picoseconds of the step, summed over steps.
        used: blocks, or tokens, of memory in use times the picoseconds of the step, likewise.
        busy_ps: durations of all steps on the devices.
        totals: energy and busy time.
        imbalance: time of the fullest channel of AttAccs over that of the mean one; None where
            attention does not follow from what channels hold.
    """

    running: float
    used: float
    busy_ps: float
    totals: Totals
    imbalance: float | None


def usage_of(steps: Steps, prices: StepPrices, capacity: int) -> Usage:
    """Return what the steps of a run used.

    Args:
        steps: the steps.
        prices: prices them.
        capacity: blocks, or tokens, of memory that requests can have.
    """
    running = used = busy_ps = 0.0
    totals: list[Totals] = []
    channels = np.zeros(2)
    for page in steps.pages():
        busy = (page.column("end_ps") - page.column("start_ps")).astype(np.float64)
        running += float(page.column("running").astype(np.float64) @ busy)
        used += float((capacity - page.column("free")).astype(np.float64) @ busy)
        busy_ps += float(busy.sum())
        works = page.works()
        totals.append(prices.totals(works))
        channels += prices.channel_ns(works)
    if not totals:
        totals.append(prices.totals(Works.of(())))
    fullest, mean = channels.tolist()
    return Usage(running, used, busy_ps, joined_totals(totals), fullest / mean if mean else None)


def joined_totals(totals: Sequence[Totals]) -> Totals:
    """Return the totals of several records of steps together.

    Args:
        totals: of each record, at least one.
    """
    return reduce(_joined, totals)


def _joined(one: Totals, other: Totals) -> Totals:
    return Totals(
        steps=one.steps + other.steps,
        time_ns=one.time_ns + other.time_ns,
        gpus_ns=one.gpus_ns + other.gpus_ns,
        links_ns=one.links_ns + other.links_ns,
        transfers_ns=one.transfers_ns + other.transfers_ns,
        away_ns=one.away_ns + other.away_ns,
        host_ns=one.host_ns + other.host_ns,
        energy=one.energy + other.energy,
        node_energy=one.node_energy + other.node_energy,
        estimates=tuple(dict.fromkeys((*one.estimates, *other.estimates))),
    )
