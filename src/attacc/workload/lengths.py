"""Distributions of lengths that a workload causes in decode, prefill and capacity.

Under continuous batching each slot of the batch is refilled as soon as its request ends. So in the
steady state, a slot is equally likely in every decode step of every request. A request of p prompt
and o output tokens takes o - 1 decode steps at KV lengths p + 1 to p + o - 1. The lengths that a
slot sees are the mixture of these runs, with equal weight for each step.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from attacc.errors import InputError
from attacc.workload.requests import I64, Workload

EXACT_STEPS: Final = 2**15
"""Decode steps of equal requests up to which every length is kept."""


class LengthKind(StrEnum):
    """Whether a distribution of lengths is exact."""

    EXACT = "exact"
    """Every length that occurs, with its weight."""
    ESTIMATE = "estimate"
    """Condensed to fewer lengths with the same mean; see `condense`."""


@dataclass(frozen=True, slots=True)
class LengthDistribution:
    """Lengths in tokens with their shares.

    Attributes:
        kind: exact, or an estimate.
        lengths: distinct lengths, rising.
        weights: share of each length; the shares add up to one.
    """

    kind: LengthKind
    lengths: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def mean_tokens(self) -> float:
        """Mean length."""
        return math.fsum(w * n for w, n in zip(self.weights, self.lengths, strict=True))


@dataclass(frozen=True, slots=True)
class FinalLengths:
    """Prompt and output tokens of requests at their end, as seen by a slot of the batch.

    A slot sees long answers more often: each request counts once for each of its output tokens.
    The first output token comes from the prefill.

    Attributes:
        mean_tokens: mean of prompt + output tokens.
        variance_tokens2: variance of prompt + output tokens, in tokens squared.
        max_tokens: prompt + output tokens of the longest request.
    """

    mean_tokens: float
    variance_tokens2: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class _Run:
    """The lengths from ``start`` to ``stop - 1``, each with this weight."""

    start: int
    stop: int
    weight: Fraction | int

    @property
    def total(self) -> Fraction | int:
        return self.weight * (self.stop - self.start)

    @property
    def total_moment(self) -> Fraction | int:
        """The sum of length times weight over the run."""
        return self.weight * self._below(self.stop - self.start)

    def moment(self, weight: Fraction) -> Fraction:
        """Return the sum of length times weight over the first part of the run.

        Args:
            weight: weight of the part, at most the run's total; the part may end inside a length.
        """
        lengths = weight / self.weight
        whole = math.floor(lengths)
        part = (lengths - whole) * (self.start + whole)
        return self.weight * (self._below(whole) + part)

    def _below(self, lengths: int) -> int:
        """Return the sum of the first `lengths` lengths of the run."""
        return lengths * self.start + lengths * (lengths - 1) // 2


def decode_lengths(workload: Workload, bins: int, *, all_equal: bool = True) -> LengthDistribution:
    """Return the KV lengths that a slot of the batch sees over its decode steps.

    Args:
        workload: the requests.
        bins: most lengths that represent a mixture of requests. A workload of equal requests is
            exact up to `EXACT_STEPS`.
        all_equal: whether a workload of equal requests is exact; otherwise it has that many
            lengths, too.

    Raises:
        InputError: no request decodes (one output token each), or bins is less than 2.
    """
    _check_bins(bins)
    runs = _merged(workload.prompt_tokens + 1, workload.final_tokens, workload.counts)
    if not runs:
        raise _no_decode(workload)
    alike = len(workload) == 1 and workload.output_tokens[0] - 1 <= EXACT_STEPS
    exact = alike and all_equal
    return _distribution(runs, None if exact else bins)


def prompt_lengths(workload: Workload, bins: int) -> LengthDistribution:
    """Return the prompt lengths of a workload's requests, each request counting once.

    Args:
        workload: the requests.
        bins: most lengths that represent them.

    Raises:
        InputError: bins is less than 2.
    """
    _check_bins(bins)
    prompts = workload.prompt_tokens
    runs = _merged(prompts, prompts + 1, workload.counts)
    return _distribution(runs, bins)


def condense(distribution: LengthDistribution, bins: int) -> LengthDistribution:
    """Represent a distribution by at most ``bins`` lengths of the same mean.

    The lengths are cut into bins // 2 parts of equal weight (quantile bins; a length is divided
    where a cut falls inside it). Each part is represented by the two whole numbers next to its
    mean, weighted so that the mean is kept. Costs that are linear in the length stay exact. The
    spread within a part is lost, so other costs err by their curvature.

    Args:
        distribution: the distribution.
        bins: most lengths of the result.

    Raises:
        InputError: bins is less than 2.
    """
    _check_bins(bins)
    if len(distribution.lengths) <= bins:
        return distribution
    pairs = zip(distribution.lengths, distribution.weights, strict=True)
    return _condensed([_Run(n, n + 1, Fraction(weight)) for n, weight in pairs], bins)


def final_lengths(workload: Workload) -> FinalLengths:
    """Return mean, variance and maximum of the tokens that slots of the batch must hold.

    Args:
        workload: the requests.
    """
    tokens, shares = _summed(workload.final_tokens, workload.counts * workload.output_tokens)
    weight = sum(shares)
    # These sums may exceed 64 bits, so they are Python's integers.
    mean = Fraction(sum(share * n for share, n in zip(shares, tokens, strict=True)), weight)
    square = Fraction(sum(share * n**2 for share, n in zip(shares, tokens, strict=True)), weight)
    return FinalLengths(float(mean), float(square - mean**2), workload.max_final_tokens)


def held_lengths(workload: Workload) -> FinalLengths:
    """Return mean, variance and maximum of the tokens that slots hold at any one time.

    Requests of a steady state are at all stages of their outputs, each decode step being as likely
    as any other. A request holds the tokens that it attends to.

    Args:
        workload: the requests.

    Raises:
        InputError: no request decodes (one output token each).
    """
    total = first = second = 0
    for prompt, output, count in zip(
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        workload.counts.tolist(),
        strict=True,
    ):
        steps = output - 1
        total += count * steps
        first += count * (steps * prompt + steps * (steps + 1) // 2)
        square = steps * prompt**2 + prompt * steps * (steps + 1)
        second += count * (square + steps * (steps + 1) * (2 * steps + 1) // 6)
    if not total:
        raise _no_decode(workload)
    mean = Fraction(first, total)
    variance = Fraction(second, total) - mean**2
    return FinalLengths(float(mean), float(variance), workload.max_final_tokens)


def _no_decode(workload: Workload) -> InputError:
    return InputError(
        "every request ends with its first output token, so nothing is decoded",
        where=workload.name,
        hint="give requests of 2 output tokens or more",
    )


def _check_bins(bins: int) -> None:
    if bins < 2:
        raise InputError(
            f"{bins} lengths cannot represent a distribution", where="bins", hint="use 2 or more"
        )


def _summed(keys: I64, values: I64) -> tuple[list[int], list[int]]:
    """Return the distinct keys, rising, and for each key the sum of its values."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(sums, inverse, values)
    return distinct.tolist(), sums.tolist()


def _merged(starts: I64, stops: I64, counts: I64) -> list[_Run]:
    """Add up overlapping runs with their counts to disjoint runs, rising."""
    points, changes = _summed(np.concatenate([starts, stops]), np.concatenate([counts, -counts]))
    return [
        _Run(start, stop, count)
        for (start, stop), count in zip(pairwise(points), accumulate(changes), strict=False)
        if count
    ]


def _distribution(runs: Sequence[_Run], bins: int | None) -> LengthDistribution:
    if bins is not None and sum(run.stop - run.start for run in runs) > bins:
        return _condensed(runs, bins)
    total = sum(run.total for run in runs)
    return LengthDistribution(
        LengthKind.EXACT,
        tuple(length for run in runs for length in range(run.start, run.stop)),
        tuple(
            float(Fraction(run.weight) / total) for run in runs for _ in range(run.start, run.stop)
        ),
    )


def _condensed(runs: Sequence[_Run], bins: int) -> LengthDistribution:
    parts = bins // 2
    weights = list(accumulate((run.total for run in runs), initial=0))
    moments = list(accumulate((run.total_moment for run in runs), initial=0))
    total = Fraction(weights[-1])

    def moment(weight: Fraction) -> Fraction:
        """Return the sum of length times weight over the shortest lengths of this weight."""
        index = min(bisect_right(weights, weight), len(runs)) - 1
        return moments[index] + runs[index].moment(weight - weights[index])

    cuts = [moment(total * part / parts) for part in range(parts + 1)]
    shares: defaultdict[int, Fraction] = defaultdict(Fraction)
    for low, high in pairwise(cuts):
        mean = (high - low) * parts / total
        floor = math.floor(mean)
        shares[floor + 1] += (mean - floor) / parts
        shares[floor] += (1 - mean + floor) / parts
    lengths = sorted(length for length, share in shares.items() if share)
    return LengthDistribution(
        LengthKind.ESTIMATE, tuple(lengths), tuple(float(shares[length]) for length in lengths)
    )
