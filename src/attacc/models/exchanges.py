"""What the devices that share a model send each other, and how evenly experts are visited.

Groups of devices have tokens of their own for the mixers (`attacc.models.sharding.Split`). An
exchange over groups has one device of each; each device of a group takes part in one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import numpy as np

from attacc.models.operators import (
    AllReduce,
    Collective,
    CollectiveKind,
    Operator,
    Size,
    expert_chances,
)
from attacc.models.served import ServedModel

POINTS: Final = 4001
"""Points at which the greatest of several normal variables is integrated."""
REACH: Final = 10.0
"""Standard deviations up to which it is."""


def all_reduce(
    share: ServedModel, name: str, tokens: Size, width: int | None = None
) -> tuple[Operator, ...]:
    """Return the sum over the devices of one group."""
    split = share.split
    if split.mixer_devices == 1:
        return ()
    devices = None if split.mixer_groups == 1 else split.mixer_devices
    return (AllReduce(name, tokens, width or share.model.hidden_size, share.activations, devices),)


def gather(
    share: ServedModel, name: str, tokens: Size, width: int | None = None
) -> Iterator[Operator]:
    """Yield the exchange that gives each device the tokens of all groups."""
    groups = share.split.mixer_groups
    yield from exchange(share, name, CollectiveKind.ALL_GATHER, tokens, groups, width)


def scatter(
    share: ServedModel, name: str, tokens: Size, width: int | None = None
) -> Iterator[Operator]:
    """Yield the sum over groups. Each device gets the tokens of its own group from it.

    The devices of a group still have to sum what they got.
    """
    groups = share.split.mixer_groups
    yield from exchange(share, name, CollectiveKind.REDUCE_SCATTER, tokens, groups, width)


def exchange(
    share: ServedModel,
    name: str,
    kind: CollectiveKind,
    rows: Size,
    devices: int,
    width: int | None = None,
) -> Iterator[Operator]:
    """Yield an exchange of rows, unless a device is alone.

    Args:
        share: one device's share of the model.
        name: of the operator.
        kind: how rows are exchanged.
        rows: as in `Collective`.
        devices: devices of one exchange.
        width: elements of a row; by default those of the residual stream.
    """
    if devices > 1:
        columns = width or share.model.hidden_size
        yield Collective(name, kind, rows, columns, share.activations, devices)


def busiest_load(experts: int, per_token: int, tokens: Size, parts: int, skew: float = 0.0) -> Size:
    """Return the visits to the busiest part of the experts, over the mean of all parts.

    Tokens choose independently of each other, and experts lie on the parts without regard to how
    often they are chosen. The other parts wait for the one with the most visits.

    The variance of the visits to one part is exact: that of the choices of the tokens, and with a
    skewed choice that of the experts which lie on the part. The greatest of all parts is estimated
    as that of normal variables with this variance and a constant sum. It is at least the mean
    rounded up, and at most all visits, or each token's visits to as many experts as a part has.

    Args:
        experts: experts of the layer, E.
        per_token: experts that a token visits, k.
        tokens: tokens of the step.
        parts: parts among which the experts are dealt out, P; each has E / P of them.
        skew: exponent of the power law by which tokens choose experts; 0 for an even choice.
    """
    if parts == 1:
        return 1.0
    chances = expert_chances(experts, per_token, skew)
    one_of = (1 - 1 / parts) / parts * experts / (experts - 1)
    choices = one_of * float(np.sum(chances * (1 - chances)))
    places = one_of * float(np.sum((chances - per_token / experts) ** 2))
    batch = np.asarray(tokens, dtype=np.float64)
    mean = batch * per_token / parts
    spread = np.sqrt(batch * choices + batch**2 * places)
    greatest = mean + spread * math.sqrt(parts / (parts - 1)) * greatest_normal(parts)
    most = batch * min(per_token, experts // parts)
    # Rounding of the mean itself must not count as a further visit.
    found = np.minimum(np.maximum(greatest, np.ceil(mean - 1e-9)), most) / mean
    return float(found) if found.ndim == 0 else found


@lru_cache
def greatest_normal(count: int) -> float:
    """Return the expected value of the greatest of several independent standard normal variables.

    Args:
        count: how many there are.
    """
    z = np.linspace(-REACH, REACH, POINTS)
    below = np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in z.tolist()])
    # The mean of a variable below R is R less the integral of its distribution up to R.
    return REACH - float(np.trapezoid(below**count, z))


def parts_of_a_token(experts: int, per_token: int, parts: int) -> float:
    """Return the expected number of parts that hold at least one of a token's experts.

    A token chooses evenly among all sets of k experts, so a part has none of them with probability
    C(E - E/P, k) / C(E, k).

    Args:
        experts: experts of the layer, E.
        per_token: experts that a token visits, k.
        parts: parts among which the experts are dealt out, P.
    """
    others = experts - experts // parts
    none = math.comb(others, per_token) / math.comb(experts, per_token)
    return parts * (1 - none)
