"""Requests whose lengths are drawn from distributions, or from other requests.

Prompt and output lengths are drawn apart from each other (`Independent`), or together as they occur
in other requests (`Resampled`). A distribution that has no end is cut at bounds: what is drawn
beyond a bound is drawn again. Its mean and its standard deviation are those before the cut.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacc.errors import InputError
from attacc.units import MAX_SIZE, finite, whole
from attacc.workload.arrivals import Arrivals, check_seed
from attacc.workload.requests import I64, Requests, WorkloadKind

F64 = NDArray[np.float64]

LEAST_SHARE: Final = 0.01
"""Least share of a distribution that lies within its bounds. With less, a length would be drawn
more than a hundred times on average, and its mean has little to do with what was asked for."""


class Lengths(ABC):
    """A distribution of lengths in tokens."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The distribution in words, for reports."""

    @abstractmethod
    def draw(self, count: int, random: np.random.Generator) -> I64:
        """Draw lengths.

        Args:
            count: how many.
            random: source of random numbers.

        Returns:
            (count,) tokens, at least one each.
        """


@dataclass(frozen=True, slots=True)
class Fixed(Lengths):
    """One length.

    Attributes:
        tokens: the length.
    """

    tokens: int

    def __post_init__(self) -> None:
        whole(self.tokens, where="tokens")

    @property
    def words(self) -> str:
        """The length in words."""
        return str(self.tokens)

    def draw(self, count: int, random: np.random.Generator) -> I64:  # noqa: ARG002 - no chance
        """Return the length, as often as asked for."""
        return np.full(count, self.tokens, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Uniform(Lengths):
    """All lengths between two bounds, equally likely.

    Attributes:
        least: the shortest length.
        most: the longest length.
    """

    least: int
    most: int

    def __post_init__(self) -> None:
        _check_bounds(self.least, self.most)

    @classmethod
    def around(cls, tokens: int, range_ratio: float) -> Uniform:
        """Return the lengths of vLLM's random data set (``--random-range-ratio``, vLLM 0.16).

        They lie between ``tokens * (1 - range_ratio)``, rounded down, and
        ``tokens * (1 + range_ratio)``, rounded up, and are at least one. vLLM takes a tokenizer's
        special tokens off the prompt's length first; give the length without them.

        Args:
            tokens: the middle.
            range_ratio: 0 for one length, less than 1.

        Raises:
            InputError: a number is out of range.
        """
        whole(tokens, where="tokens")
        ratio = finite(range_ratio, where="range_ratio", least=0)
        if ratio >= 1:
            raise InputError(
                f"{range_ratio} is out of range",
                where="range_ratio",
                hint="use a number of at least 0 and less than 1",
            )
        least = max(1, math.floor(tokens * (1 - ratio)))
        return cls(least, math.ceil(tokens * (1 + ratio)))

    @property
    def words(self) -> str:
        """The bounds in words."""
        return f"{self.least} to {self.most}, uniform"

    def draw(self, count: int, random: np.random.Generator) -> I64:
        """Draw lengths."""
        return random.integers(self.least, self.most, count, endpoint=True)


@dataclass(frozen=True, slots=True)
class _Cut(Lengths):
    """A distribution of real numbers, rounded, and cut at bounds.

    Attributes:
        mean_tokens: mean before the cut.
        std_tokens: standard deviation before the cut.
        least: the shortest length.
        most: the longest length.
    """

    mean_tokens: float
    std_tokens: float
    least: int = 1
    most: int = MAX_SIZE

    def __post_init__(self) -> None:
        _check_bounds(self.least, self.most)
        finite(self.mean_tokens, where="mean_tokens", least=1, most=MAX_SIZE)
        finite(self.std_tokens, where="std_tokens", least=0, most=MAX_SIZE)
        share = self.share
        if share < LEAST_SHARE:
            raise InputError(
                f"{self.least} to {self.most} tokens hold {share:.2g} of the distribution",
                where="lengths",
                hint=f"give bounds that hold at least {LEAST_SHARE:g} of it",
            )

    @property
    def share(self) -> float:
        """Share of the distribution within the bounds."""
        # A number within half a token of a length is rounded to it.
        return self._below(self.most + 0.5) - self._below(self.least - 0.5)

    @abstractmethod
    def _below(self, tokens: float) -> float:
        """Return the share of the distribution below a number of tokens."""

    @abstractmethod
    def _real(self, count: int, random: np.random.Generator) -> F64:
        """Draw real numbers of tokens, before rounding and cut."""

    def draw(self, count: int, random: np.random.Generator) -> I64:
        """Draw lengths; those beyond a bound are drawn again."""
        lengths = np.empty(count, dtype=np.int64)
        left = np.arange(count)
        while len(left):
            drawn = np.rint(self._real(len(left), random))
            fits = (drawn >= self.least) & (drawn <= self.most)
            lengths[left[fits]] = drawn[fits].astype(np.int64)
            left = left[~fits]
        return lengths

    def _words(self, kind: str) -> str:
        told = f"{kind} with mean {self.mean_tokens:g} and standard deviation {self.std_tokens:g}"
        return f"{told}, within {self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class Normal(_Cut):
    """A normal distribution, rounded, and cut at bounds.

    Attributes:
        mean_tokens: mean before the cut.
        std_tokens: standard deviation before the cut.
        least: the shortest length.
        most: the longest length.
    """

    @classmethod
    def of_cv(cls, mean_tokens: float, cv: float, least: int = 1, most: int = MAX_SIZE) -> Normal:
        """Return the distribution of a coefficient of variation: standard deviation over mean.

        Raises:
            InputError: a number is out of range.
        """
        return cls(mean_tokens, _std(mean_tokens, cv), least, most)

    @property
    def words(self) -> str:
        """The distribution in words."""
        return self._words("normal")

    def _below(self, tokens: float) -> float:
        return _normal_below(tokens - self.mean_tokens, self.std_tokens)

    def _real(self, count: int, random: np.random.Generator) -> F64:
        return random.normal(self.mean_tokens, self.std_tokens, count)


@dataclass(frozen=True, slots=True)
class LogNormal(_Cut):
    """A lognormal distribution, rounded, and cut at bounds: many short lengths, and few long ones.

    Attributes:
        mean_tokens: mean before the cut, of the lengths and not of their logarithms.
        std_tokens: standard deviation before the cut, of the lengths.
        least: the shortest length.
        most: the longest length.
    """

    @classmethod
    def of_cv(
        cls, mean_tokens: float, cv: float, least: int = 1, most: int = MAX_SIZE
    ) -> LogNormal:
        """Return the distribution of a coefficient of variation: standard deviation over mean.

        Raises:
            InputError: a number is out of range.
        """
        return cls(mean_tokens, _std(mean_tokens, cv), least, most)

    @property
    def words(self) -> str:
        """The distribution in words."""
        return self._words("lognormal")

    @property
    def _log(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithms."""
        variance = math.log1p((self.std_tokens / self.mean_tokens) ** 2)
        return math.log(self.mean_tokens) - variance / 2, math.sqrt(variance)

    def _below(self, tokens: float) -> float:
        mean, std = self._log
        return _normal_below(math.log(tokens) - mean, std)

    def _real(self, count: int, random: np.random.Generator) -> F64:
        return random.lognormal(*self._log, count)


def _std(mean_tokens: float, cv: float) -> float:
    return mean_tokens * finite(cv, where="cv", least=0, most=MAX_SIZE)


def _normal_below(distance: float, std: float) -> float:
    """Return the share of a normal distribution below a distance from its mean."""
    if not std:
        return float(distance > 0)
    return (1 + math.erf(distance / std / math.sqrt(2))) / 2


def _check_bounds(least: int, most: int) -> None:
    whole(least, where="least")
    whole(most, where="most", least=least)


@dataclass(frozen=True, slots=True)
class Independent:
    """Prompt and output lengths that do not depend on each other.

    Attributes:
        prompt: lengths of the prompts.
        output: lengths of the outputs.
    """

    prompt: Lengths
    output: Lengths

    @property
    def words(self) -> str:
        """Both in words."""
        return f"prompt tokens {self.prompt.words}; output tokens {self.output.words}"

    def draw(self, count: int, random: np.random.Generator) -> tuple[I64, I64]:
        """Draw prompt and output lengths, (count,) each."""
        prompts = self.prompt.draw(count, random)
        return prompts, self.output.draw(count, random)


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """Lengths of other requests. Each request is drawn with its prompt and its output together.

    All are equally likely at each draw, so one may be drawn more than once. What prompts share is
    not drawn: equal requests are other texts.

    Attributes:
        requests: the other requests.
    """

    requests: Requests

    @property
    def words(self) -> str:
        """The other requests in words."""
        return f"lengths drawn from {len(self.requests):,} requests ({self.requests.source})"

    def draw(self, count: int, random: np.random.Generator) -> tuple[I64, I64]:
        """Draw prompt and output lengths, (count,) each."""
        rows = random.integers(len(self.requests), size=count)
        return self.requests.prompt_tokens[rows], self.requests.output_tokens[rows]


def generated(
    count: int,
    lengths: Independent | Resampled,
    *,
    seed: int = 0,
    arrivals: Arrivals | None = None,
) -> Requests:
    """Draw requests.

    Args:
        count: how many.
        lengths: what their lengths are drawn from.
        seed: seed of the lengths; equal seeds give equal requests. Arrivals have a seed of their
            own, so that one changes without the other.
        arrivals: a time for each request; None for requests without times.

    Raises:
        InputError: a number is out of range, or there are more arrivals than requests, or fewer.
    """
    whole(count, where="count")
    prompts, outputs = lengths.draw(count, np.random.default_rng(check_seed(seed)))
    requests = Requests(
        name="generated",
        kind=WorkloadKind.SYNTHETIC,
        source=f"{count} requests drawn with seed {seed}: {lengths.words}",
        prompt_tokens=prompts,
        output_tokens=outputs,
    )
    return requests if arrivals is None else requests.with_arrivals(arrivals)
