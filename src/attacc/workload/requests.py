"""Requests and workloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.units import MAX_SIZE, finite, whole
from attacc.workload.arrivals import LEAST_RATE_PER_S, MOST_RATE_PER_S, Arrivals
from attacc.workload.prefixes import PrefixHashes, PromptRuns, private_runs

I64 = npt.NDArray[np.int64]

_PAIR: Final = MAX_SIZE + 1
"""More than any length."""


TRACE_SUFFIXES: Final = (".csv", ".jsonl", ".json", ".parquet", ".gz")
"""Endings of files of requests."""


class ZeroOutput(StrEnum):
    """What becomes of a recorded request that generated no token."""

    ERROR = "error"
    """The file is refused."""
    SKIP = "skip"
    """The request is left out, as one that failed."""
    ONE = "one"
    """The request counts as one output token, that of its prefill."""


class WorkloadKind(StrEnum):
    """Where the lengths of a workload come from."""

    FIXED = "fixed"
    """Every request is alike."""
    TRACE = "trace"
    """A recorded trace."""
    SYNTHETIC = "synthetic"
    """Sampled from a fitted distribution."""


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """One request.

    Prefill processes the prompt and yields the first output token; the other
    ``output_tokens - 1`` take one decode step each, at KV lengths ``prompt_tokens + 1`` to
    ``prompt_tokens + output_tokens - 1`` (as the published system model counts).

    Attributes:
        prompt_tokens: tokens of the prompt, at least one.
        output_tokens: tokens generated, at least one.
    """

    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            whole(getattr(self, name), where=name)

    @property
    def decode_steps(self) -> int:
        """Decode steps that the request takes part in."""
        return self.output_tokens - 1

    @property
    def final_tokens(self) -> int:
        """Tokens of prompt and output; keys and values are stored for each of them."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Distinct requests and how often each occurs, as columns.

    Attributes:
        name: a preset's name, a file's name, or the lengths.
        kind: kind of source of the lengths.
        source: source of the lengths in words, for reports.
        prompt_tokens: (n,) prompt lengths of the distinct requests, sorted by prompt, then output.
        output_tokens: (n,) output lengths of the distinct requests.
        counts: (n,) how often each distinct request occurs.
    """

    name: str
    kind: WorkloadKind
    source: str
    prompt_tokens: I64
    output_tokens: I64
    counts: I64

    @classmethod
    def of(
        cls, requests: Iterable[Request], *, name: str, kind: WorkloadKind, source: str
    ) -> Workload:
        """Group a few requests by their lengths.

        Raises:
            InputError: there are no requests.
        """
        lengths = np.array(
            [(request.prompt_tokens, request.output_tokens) for request in requests], dtype=np.int64
        ).reshape(-1, 2)
        return cls.of_lengths(lengths[:, 0], lengths[:, 1], name=name, kind=kind, source=source)

    @classmethod
    def of_lengths(
        cls,
        prompt_tokens: I64,
        output_tokens: I64,
        *,
        name: str,
        kind: WorkloadKind,
        source: str,
    ) -> Workload:
        """Group any number of requests by their lengths.

        Args:
            prompt_tokens: (requests,) tokens of each prompt.
            output_tokens: (requests,) tokens that each request generates.
            name: a preset's name, a file's name, or the lengths.
            kind: where the lengths come from.
            source: the same in words, for reports.

        Raises:
            InputError: there are no requests, or a length is out of range.
        """
        if not len(prompt_tokens):
            raise InputError("no requests", where=name, hint="give at least one")
        for what, lengths in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)):
            for end in (lengths.min(), lengths.max()):
                whole(end, where=what)
        # One number for each pair sorts as the pair does.
        pairs, counts = np.unique(prompt_tokens * _PAIR + output_tokens, return_counts=True)
        prompts, outputs = np.divmod(pairs, _PAIR)
        return cls(name, kind, source, prompts, outputs, counts)

    def __len__(self) -> int:
        """Return the number of distinct requests."""
        return len(self.counts)

    @property
    def requests(self) -> tuple[Request, ...]:
        """Distinct requests, sorted, as objects that are made anew at each call."""
        pairs = zip(self.prompt_tokens.tolist(), self.output_tokens.tolist(), strict=True)
        return tuple(Request(prompt, output) for prompt, output in pairs)

    @property
    def final_tokens(self) -> I64:
        """(n,) tokens of prompt and output of the distinct requests."""
        return self.prompt_tokens + self.output_tokens

    @property
    def total_requests(self) -> int:
        """Number of requests, where each counts as often as it occurs."""
        return int(self.counts.sum())

    @property
    def mean_prompt_tokens(self) -> float:
        """Mean over requests."""
        return int(self.counts @ self.prompt_tokens) / self.total_requests

    @property
    def mean_output_tokens(self) -> float:
        """Mean over requests."""
        return int(self.counts @ self.output_tokens) / self.total_requests

    @property
    def max_final_tokens(self) -> int:
        """Tokens of the longest request, prompt and output."""
        return int(self.final_tokens.max())


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Requests one by one, in the order of their source.

    Attributes:
        name: a preset's name, a file's name, or the lengths.
        kind: kind of source of the requests.
        source: source of the requests in words, for reports.
        prompt_tokens: (requests,) tokens of each prompt.
        output_tokens: (requests,) tokens that each request generates.
        arrival_s: (requests,) seconds from the start, never falling; None where the source has no
            times. A trace starts with its first arrival.
        prefix_hashes: ids of the blocks of each prompt, equal where prompts begin alike; None where
            the source has no ids.
    """

    name: str
    kind: WorkloadKind
    source: str
    prompt_tokens: I64
    output_tokens: I64
    arrival_s: npt.NDArray[np.float64] | None = None
    prefix_hashes: PrefixHashes | None = None

    @classmethod
    def fixed(cls, prompt: int, output: int, count: int = 1) -> Requests:
        """Return equal requests.

        Args:
            prompt: tokens of every prompt, Lin in the papers.
            output: tokens generated for each, Lout in the papers.
            count: how many.

        Raises:
            InputError: a number is out of range.
        """
        for name, value in (("prompt", prompt), ("output", output), ("count", count)):
            whole(value, where=name)
        return cls(
            name=f"{prompt}+{output}",
            kind=WorkloadKind.FIXED,
            source=f"every request has {prompt} prompt and {output} output tokens",
            prompt_tokens=np.full(count, prompt, dtype=np.int64),
            output_tokens=np.full(count, output, dtype=np.int64),
        )

    @classmethod
    def from_trace(
        cls, path: str | Path, *, zero_output: ZeroOutput | str = ZeroOutput.ERROR
    ) -> Requests:
        """Read a file of requests (`attacc.workload.traces`).

        Args:
            path: the file, plain or compressed with gzip; docs/reference/request-files.md lists the
                formats.
            zero_output: what becomes of requests that generated no token.

        Raises:
            DocumentError: the file cannot be read, or a line is malformed.
            UnknownNameError: `zero_output` has no such value.
        """
        from attacc.workload.traces import read_requests

        return read_requests(Path(path), zero_output=zero_output)

    @classmethod
    def synthetic(cls, name: str | Path, *, count: int | None = None, seed: int = 0) -> Requests:
        """Sample requests from a fitted distribution of lengths (`attacc.workload.synthetic`).

        Args:
            name: name of a workload preset, or a file.
            count: number of requests; None for the number that comparisons take.
            seed: seed of the sample.

        Raises:
            UnknownNameError: there is no such preset.
            InputError: a number is out of range.
        """
        from attacc.workload.synthetic import SAMPLED_REQUESTS, sampled

        return sampled(str(name), requests=SAMPLED_REQUESTS if count is None else count, seed=seed)

    @classmethod
    def of(cls, source: object) -> Requests:
        """Return requests as callers give them.

        Args:
            source: requests; the numbers of prompt and output tokens of equal ones; the name of a
                workload preset, or its file; or the path of a recorded trace.

        Raises:
            InputError: it is none of these, or a number is out of range.
            DocumentError: the file cannot be read, or is malformed.
            UnknownNameError: there is no such preset.
        """
        if isinstance(source, Requests):
            return source
        if isinstance(source, str | Path):
            is_trace = Path(source).suffix in TRACE_SUFFIXES
            return cls.from_trace(source) if is_trace else cls.synthetic(source)
        if isinstance(source, tuple | list):
            sizes = cast("Sequence[int]", source)
            if len(sizes) == 2:
                return cls.fixed(*sizes)
        raise InputError(
            f"{source!r:.60} is no requests",
            where="requests",
            hint="give prompt and output tokens as in (2048, 512), the name of a workload preset, "
            "or the path of a trace",
        )

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def requests_per_s(self) -> float:
        """Mean rate of arrivals: the gaps between arrivals, divided by the time that they span.

        Raises:
            InputError: the requests have no times of arrival, or all have the same.
        """
        times = self._times_s
        span_s = float(times[-1] - times[0])
        if not span_s:
            raise InputError(
                "all requests arrive at once, so they have no rate",
                where=self.name,
                hint="give their arrivals with with_arrivals",
            )
        return (len(times) - 1) / span_s

    @property
    def _times_s(self) -> npt.NDArray[np.float64]:
        if self.arrival_s is None:
            raise InputError(
                "the requests have no times of arrival",
                where=self.name,
                hint="give their arrivals with with_arrivals",
            )
        return self.arrival_s

    def first(self, count: int) -> Requests:
        """Return the first requests.

        Args:
            count: how many, at most all.

        Raises:
            InputError: the number is out of range.
        """
        whole(count, where="count", most=len(self))
        if count == len(self):
            return self
        return replace(
            self._taken(np.arange(count)), source=f"{self.source}; the first {count} requests"
        )

    def _taken(self, rows: I64) -> Requests:
        """Return some requests in the order of their places."""
        return replace(
            self,
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            arrival_s=None if self.arrival_s is None else self.arrival_s[rows],
            prefix_hashes=None if self.prefix_hashes is None else self.prefix_hashes.take(rows),
        )

    def at_rate(self, requests_per_s: float) -> Requests:
        """Return the requests with arrival times scaled to a mean rate (`requests_per_s`).

        Args:
            requests_per_s: the mean rate that the result has.

        Raises:
            InputError: the requests have no times of arrival, all arrive at once, or the rate is
                out of range.
        """
        rate = finite(
            requests_per_s, where="requests_per_s", least=LEAST_RATE_PER_S, most=MOST_RATE_PER_S
        )
        times = self._times_s * (self.requests_per_s / rate)
        return self._at(times, f"arrivals scaled to {rate:g} requests/s")

    def scaled(self, factor: float) -> Requests:
        """Return the requests with a rate that is some times as high.

        Args:
            factor: what every arrival time is divided by.

        Raises:
            InputError: the requests have no times of arrival, or the factor is out of range.
        """
        by = finite(factor, where="factor", least=LEAST_RATE_PER_S, most=MOST_RATE_PER_S)
        return self._at(self._times_s / by, f"arrivals {by:g} times as fast")

    def with_arrivals(self, arrivals: Arrivals) -> Requests:
        """Return the requests, in their order, with other times of arrival.

        Args:
            arrivals: a time for each request (`attacc.workload.arrivals`).

        Raises:
            InputError: there are more times than requests, or fewer.
        """
        if len(arrivals) != len(self):
            raise InputError(
                f"{len(arrivals)} arrivals for {len(self)} requests",
                where="arrivals",
                hint="give one for each request",
            )
        return self._at(arrivals.times_s, arrivals.source)

    def _at(self, times_s: npt.NDArray[np.float64], words: str) -> Requests:
        return replace(self, arrival_s=times_s, source=f"{self.source}; {words}")

    def prompt_runs(self, block_tokens: int | None = None) -> PromptRuns:
        """Return what each prompt shares with others, as runs of text.

        Args:
            block_tokens: tokens of a block of `prefix_hashes`; None for those of the format.

        Raises:
            InputError: a prompt has more ids than blocks, or the size of a block is out of range.
        """
        if self.prefix_hashes is None:
            return private_runs(self.prompt_tokens)
        return self.prefix_hashes.runs(self.prompt_tokens, block_tokens)

    def workload(self) -> Workload:
        """Return the distinct pairs of lengths and their counts, which decide batches and steps."""
        return Workload.of_lengths(
            self.prompt_tokens,
            self.output_tokens,
            name=self.name,
            kind=self.kind,
            source=self.source,
        )


def fixed_lengths(prompt: int, output: int) -> Workload:
    """Return the workload of equal requests.

    Args:
        prompt: tokens of every prompt, Lin in the papers.
        output: tokens generated for each, Lout in the papers.

    Raises:
        InputError: a length is out of range.
    """
    return Workload.of(
        [Request(prompt, output)],
        name=f"{prompt}+{output}",
        kind=WorkloadKind.FIXED,
        source=f"every request has {prompt} prompt and {output} output tokens",
    )


def workload_of(source: object) -> Workload:
    """Return requests as callers give them (`Requests.of`), grouped by their lengths.

    Raises:
        InputError: as in `Requests.of`.
    """
    return source if isinstance(source, Workload) else Requests.of(source).workload()
