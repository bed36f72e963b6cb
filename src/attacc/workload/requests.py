"""Requests and workloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from attacc.errors import InputError
from attacc.models.architecture import MAX_SIZE


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
            value = getattr(self, name)
            if not 1 <= value <= MAX_SIZE:
                raise InputError(
                    f"{value} is out of range", where=name, hint=f"use 1 to {MAX_SIZE} tokens"
                )

    @property
    def decode_steps(self) -> int:
        """Decode steps that the request takes part in."""
        return self.output_tokens - 1

    @property
    def final_tokens(self) -> int:
        """Tokens of prompt and output, each of which has its keys and values stored."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Workload:
    """Distinct requests and how often each occurs.

    Attributes:
        name: a preset's name, a file's name, or the lengths.
        kind: where the lengths come from.
        source: the same in words, for reports.
        requests: distinct requests, sorted.
        counts: how often each of them occurs.
    """

    name: str
    kind: WorkloadKind
    source: str
    requests: tuple[Request, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(
        cls, requests: Iterable[Request], *, name: str, kind: WorkloadKind, source: str
    ) -> Workload:
        """Group requests by their lengths.

        Raises:
            InputError: there are no requests.
        """
        grouped = sorted(Counter(requests).items())
        if not grouped:
            raise InputError("no requests", where=name, hint="give at least one")
        return cls(
            name=name,
            kind=kind,
            source=source,
            requests=tuple(request for request, _ in grouped),
            counts=tuple(count for _, count in grouped),
        )

    @property
    def total_requests(self) -> int:
        """Requests, each as often as it occurs."""
        return sum(self.counts)

    @property
    def mean_prompt_tokens(self) -> float:
        """Mean over requests."""
        return self._total(lambda request: request.prompt_tokens) / self.total_requests

    @property
    def mean_output_tokens(self) -> float:
        """Mean over requests."""
        return self._total(lambda request: request.output_tokens) / self.total_requests

    @property
    def max_final_tokens(self) -> int:
        """Tokens of the longest request, prompt and output."""
        return max(request.final_tokens for request in self.requests)

    def _total(self, tokens: Callable[[Request], int]) -> int:
        return sum(
            count * tokens(request)
            for request, count in zip(self.requests, self.counts, strict=True)
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
