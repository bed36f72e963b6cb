"""Synthetic loads: how many requests, how long, and when they come."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from attacc.errors import InputError
from attacc.units import decimal_number, whole_number
from attacc.workload.arrivals import check_seed, gamma, poisson
from attacc.workload.generated import (
    Fixed,
    Independent,
    Lengths,
    LogNormal,
    Resampled,
    Uniform,
    generated,
)
from attacc.workload.requests import TRACE_SUFFIXES, Requests, ZeroOutput

WRITTEN: Final = "write 1024, 512..2048 (uniform) or 1024~0.8 (lognormal, and ..8192 to cut it)"
_RANGE: Final = re.compile(r"([0-9]+)\.\.([0-9]+)")
_LOGNORMAL: Final = re.compile(r"([0-9.e+]+)~([0-9.e+-]+?)(?:\.\.([0-9]+))?")


def lengths_of(text: str, *, where: str) -> Lengths:
    """Return a distribution of lengths that a text states.

    ``1024`` is one length. ``512..2048`` are all lengths between two bounds, equally likely.
    ``1024~0.8`` is lognormal with a mean of 1024 and a standard deviation of 0.8 times the mean;
    ``1024~0.8..8192`` draws lengths beyond 8192 again.

    Args:
        text: the text.
        where: the option or the argument that it came from, for messages.

    Raises:
        InputError: it states no distribution, or a number is out of range.
    """
    written = text.strip()
    if found := _RANGE.fullmatch(written):
        least, most = (whole_number(number, where=where) for number in found.groups())
        return Uniform(least, most)
    if found := _LOGNORMAL.fullmatch(written):
        mean, spread, most = found.groups()
        numbers = decimal_number(mean, where=where), decimal_number(spread, where=where)
        if most is None:
            return LogNormal.of_cv(*numbers)
        return LogNormal.of_cv(*numbers, most=whole_number(most, where=where))
    if not written.isdecimal():
        raise InputError(f"{text!r:.40} is no distribution of lengths", where=where, hint=WRITTEN)
    return Fixed(whole_number(written, where=where))


def lengths_source(
    name: str | Path, *, zero_output: ZeroOutput | str = ZeroOutput.ERROR
) -> Requests:
    """Return requests from which lengths are drawn.

    Args:
        name: a file of requests, or the name or the file of a workload preset.
        zero_output: what becomes of requests of a file that generated no token.

    Raises:
        InputError: as in `Requests.of`.
    """
    if Path(name).suffix in TRACE_SUFFIXES:
        return Requests.from_trace(name, zero_output=zero_output)
    return Requests.synthetic(name)


def synthetic_load(
    count: int,
    lengths: Independent | Resampled | tuple[str, str],
    *,
    requests_per_s: float | None = None,
    burstiness: float = 1.0,
    seed: int = 0,
) -> Requests:
    """Draw requests, and when they arrive.

    Lengths and arrivals are drawn with seeds of their own, so that neither tells of the other.

    Args:
        count: how many.
        lengths: what their lengths are drawn from; or prompt and output lengths as `lengths_of`
            reads them.
        requests_per_s: mean rate; None for requests without times.
        burstiness: as in `attacc.workload.arrivals.gamma`; 1 for a Poisson process.
        seed: equal seeds give equal requests.

    Raises:
        InputError: a text states no distribution, or a number is out of range.
    """
    if isinstance(lengths, tuple):
        prompt, output = lengths
        lengths = Independent(
            lengths_of(prompt, where="prompt"), lengths_of(output, where="output")
        )
    own = np.random.SeedSequence(check_seed(seed)).generate_state(2, np.uint64).tolist()
    arrivals = None
    if requests_per_s is not None:
        drawn = (
            poisson(count, requests_per_s, seed=own[1])
            if burstiness == 1.0
            else gamma(count, requests_per_s, burstiness=burstiness, seed=own[1])
        )
        arrivals = replace(drawn, source=drawn.source.rpartition(", seed")[0])
    requests = generated(count, lengths, seed=own[0], arrivals=arrivals)
    told = f"; {arrivals.source}" if arrivals is not None else ""
    return replace(
        requests,
        name="synthetic",
        source=f"{count} requests drawn with seed {seed}: {lengths.words}{told}",
    )
