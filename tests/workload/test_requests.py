"""Requests and fixed workloads."""

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.workload.requests import Request, Workload, WorkloadKind, fixed_lengths


def test_fixed_lengths() -> None:
    """Prompt and output exchanged."""
    workload = fixed_lengths(2048, 512)
    assert workload.requests == (Request(prompt_tokens=2048, output_tokens=512),)
    assert workload.counts.tolist() == [1]
    assert workload.kind is WorkloadKind.FIXED
    assert workload.name == "2048+512"
    assert (workload.mean_prompt_tokens, workload.mean_output_tokens) == (2048, 512)
    assert workload.max_final_tokens == 2560


def test_steps_and_final_length_of_a_request() -> None:
    """The first output token counted as a decode step (it comes from prefill)."""
    request = Request(10, 3)
    assert (request.decode_steps, request.final_tokens) == (2, 13)


def test_equal_requests_are_grouped() -> None:
    """A request lost, or its weight."""
    requests = [Request(5, 1), Request(1, 3), Request(5, 1)]
    workload = Workload.of(requests, name="w", kind=WorkloadKind.TRACE, source="test")
    assert workload.requests == (Request(1, 3), Request(5, 1))
    assert workload.counts.tolist() == [1, 2]
    assert workload.total_requests == 3
    assert workload.mean_prompt_tokens == 11 / 3
    assert workload.mean_output_tokens == 5 / 3


@pytest.mark.parametrize(
    ("prompt", "output", "message"),
    [
        (0, 1, "prompt_tokens: 0 is out of range"),
        (-1, 1, "prompt_tokens: -1 is out of range"),
        (1, 0, "output_tokens: 0 is out of range"),
        (2**24 + 1, 1, r"16777217 is out of range \(use a whole number from 1 to 16777216\)"),
    ],
)
def test_impossible_lengths_are_refused(prompt: int, output: int, message: str) -> None:
    """A request of no tokens, whose cost would be zero."""
    with pytest.raises(InputError, match=message):
        fixed_lengths(prompt, output)


def test_columns_are_grouped_as_requests_are() -> None:
    """Pairs of lengths mixed up where they are sorted as one number, at the largest too."""
    most = 2**24
    prompts, outputs = np.array([most, 1, most, 2, 1]), np.array([1, most, 1, 1, 1])
    columns = Workload.of_lengths(prompts, outputs, name="w", kind=WorkloadKind.TRACE, source="s")
    pairs = zip(prompts.tolist(), outputs.tolist(), strict=True)
    requests = [Request(prompt, output) for prompt, output in pairs]
    alike = Workload.of(requests, name="w", kind=WorkloadKind.TRACE, source="s")
    assert columns.requests == alike.requests == tuple(sorted(set(requests)))
    assert alike.counts.tolist() == [1, 1, 1, 2]
    assert columns.counts.tolist() == [1, 1, 1, 2]
    with pytest.raises(InputError, match="output_tokens: 0 is out of range"):
        Workload.of_lengths(prompts, outputs - 1, name="w", kind=WorkloadKind.TRACE, source="s")


def test_workload_without_requests_is_refused() -> None:
    """Means of nothing."""
    with pytest.raises(InputError, match="no requests"):
        Workload.of([], name="empty", kind=WorkloadKind.TRACE, source="test")
