"""Distributions of lengths, against enumeration of every step of every request."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.workload.lengths import (
    LengthDistribution,
    LengthKind,
    condense,
    decode_lengths,
    final_lengths,
    held_lengths,
    prompt_lengths,
)
from attacc.workload.requests import Request, Workload, WorkloadKind, fixed_lengths

REQUESTS = st.lists(st.builds(Request, st.integers(1, 60), st.integers(1, 40)), min_size=1)


def workload_of(*requests: Request) -> Workload:
    return Workload.of(requests, name="test", kind=WorkloadKind.TRACE, source="test")


def enumerated(requests: list[Request]) -> list[int]:
    """The KV length of every decode step of every request."""
    return [r.prompt_tokens + step for r in requests for step in range(1, r.output_tokens)]


def check_is_a_distribution(distribution: LengthDistribution) -> None:
    assert list(distribution.lengths) == sorted(set(distribution.lengths))
    assert all(weight > 0 for weight in distribution.weights)
    assert math.isclose(sum(distribution.weights), 1, rel_tol=1e-12)


def test_fixed_lengths_are_exact() -> None:
    """Another range than the published model's Lin + 1 to Lin + Lout - 1, or a condensed one."""
    lengths = decode_lengths(fixed_lengths(2048, 2048), bins=8)
    assert lengths.kind is LengthKind.EXACT
    assert lengths.lengths == tuple(range(2049, 4096))
    assert set(lengths.weights) == {1 / 2047}
    assert math.isclose(lengths.mean_tokens, 3072, rel_tol=1e-12)
    final = final_lengths(fixed_lengths(2048, 2048))
    assert (final.mean_tokens, final.variance_tokens2, final.max_tokens) == (4096, 0, 4096)


def test_steps_are_weighted_equally() -> None:
    """Requests weighted equally, so that short answers count too much."""
    lengths = decode_lengths(workload_of(Request(10, 2), Request(10, 4), Request(1, 1)), bins=8)
    assert lengths.kind is LengthKind.EXACT
    assert lengths.lengths == (11, 12, 13)
    assert lengths.weights == (2 / 4, 1 / 4, 1 / 4)


def test_slots_are_weighted_by_occupancy() -> None:
    """Final lengths weighted by request: a slot holds long answers for longer."""
    final = final_lengths(workload_of(Request(10, 1), Request(10, 3)))
    assert final.mean_tokens == (1 * 11 + 3 * 13) / 4
    assert final.variance_tokens2 == (1 * 11**2 + 3 * 13**2) / 4 - 12.5**2
    assert final.max_tokens == 13


def test_prompts_are_weighted_by_request() -> None:
    """Prompts weighted by steps: each is processed once."""
    lengths = prompt_lengths(workload_of(Request(10, 9), Request(4, 1), Request(4, 2)), bins=8)
    assert (lengths.lengths, lengths.weights) == ((4, 10), (2 / 3, 1 / 3))


@given(requests=REQUESTS)
def test_exact_distribution_is_that_of_all_steps(requests: list[Request]) -> None:
    """A step lost or counted twice where runs of lengths overlap or touch."""
    steps = enumerated(requests)
    if not steps:
        return
    lengths = decode_lengths(workload_of(*requests), bins=1000)
    check_is_a_distribution(lengths)
    assert lengths.kind is LengthKind.EXACT
    assert lengths.lengths == tuple(sorted(set(steps)))
    for length, weight in zip(lengths.lengths, lengths.weights, strict=True):
        assert weight == steps.count(length) / len(steps)


@given(requests=REQUESTS, bins=st.integers(2, 30))
def test_condensed_distribution_keeps_the_mean(requests: list[Request], bins: int) -> None:
    """A cut inside a run that loses weight, or more lengths than asked for."""
    steps = enumerated(requests)
    if not steps:
        return
    workload = workload_of(*requests)
    lengths = decode_lengths(workload, bins)
    check_is_a_distribution(lengths)
    assert math.isclose(lengths.mean_tokens, sum(steps) / len(steps), rel_tol=1e-12)
    assert min(steps) <= lengths.lengths[0]
    assert lengths.lengths[-1] <= max(steps)
    if lengths.kind is LengthKind.ESTIMATE:
        assert len(lengths.lengths) <= bins < len(set(steps))
    prompts = prompt_lengths(workload, bins)
    check_is_a_distribution(prompts)
    assert len(prompts.lengths) <= bins
    assert math.isclose(prompts.mean_tokens, workload.mean_prompt_tokens, rel_tol=1e-12)


@given(requests=REQUESTS)
def test_parts_have_equal_weight_and_their_own_mean(requests: list[Request]) -> None:
    """Parts that are not quantiles: the lower half's mean is not represented by its own."""
    steps = sorted(enumerated(requests) * 2)  # doubled, so that halves are whole
    if not steps or len(requests) == 1:
        return
    lengths = decode_lengths(workload_of(*requests), bins=4)
    if lengths.kind is LengthKind.EXACT:
        return
    half = len(steps) // 2
    below = sum(steps[:half]) / half
    pairs = list(zip(lengths.lengths, lengths.weights, strict=True))
    left, mean = 0.5, 0.0
    for length, weight in pairs:
        taken = min(left, weight)
        left, mean = left - taken, mean + taken * length / 0.5
    # Both halves may share a whole number next to their means; then its weight is divided.
    assert abs(mean - below) <= 1


@given(requests=REQUESTS)
def test_final_lengths_are_those_of_all_slots(requests: list[Request]) -> None:
    """Moments over another weight than the output tokens."""
    slots = [r.prompt_tokens + r.output_tokens for r in requests for _ in range(r.output_tokens)]
    final = final_lengths(workload_of(*requests))
    mean = sum(slots) / len(slots)
    variance = sum((tokens - mean) ** 2 for tokens in slots) / len(slots)
    assert math.isclose(final.mean_tokens, mean, rel_tol=1e-12)
    assert math.isclose(final.variance_tokens2, variance, rel_tol=1e-9, abs_tol=1e-9)
    assert final.max_tokens == max(slots)


@given(requests=REQUESTS)
def test_held_lengths_are_those_of_all_stages(requests: list[Request]) -> None:
    """Catches the tokens of a request's end, and a request that counts once in place of steps."""
    held = [
        request.prompt_tokens + step
        for request in requests
        for step in range(1, request.output_tokens)
    ]
    workload = workload_of(*requests)
    if not held:
        with pytest.raises(InputError, match="nothing is decoded"):
            held_lengths(workload)
        return
    found = held_lengths(workload)
    mean = sum(held) / len(held)
    variance = sum((tokens - mean) ** 2 for tokens in held) / len(held)
    assert math.isclose(found.mean_tokens, mean, rel_tol=1e-12)
    assert math.isclose(found.variance_tokens2, variance, rel_tol=1e-9, abs_tol=1e-9)
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    assert found.max_tokens == longest


def test_exact_lengths_can_be_condensed() -> None:
    """A mean that moves, or a distribution that is short enough but changed."""
    exact = decode_lengths(fixed_lengths(2048, 2048), bins=8)
    few = condense(exact, 8)
    check_is_a_distribution(few)
    assert few.kind is LengthKind.ESTIMATE
    assert len(few.lengths) <= 8
    assert math.isclose(few.mean_tokens, exact.mean_tokens, rel_tol=1e-12)
    assert condense(exact, 2047) is exact


@pytest.mark.parametrize("bins", [1, 0, -3])
def test_too_few_bins_are_refused(bins: int) -> None:
    """Whole numbers that cannot keep the mean."""
    workload = fixed_lengths(10, 10)
    with pytest.raises(InputError, match=f"bins: {bins} lengths cannot represent"):
        decode_lengths(workload, bins)
    with pytest.raises(InputError, match="use 2 or more"):
        prompt_lengths(workload, bins)
    with pytest.raises(InputError, match="use 2 or more"):
        condense(decode_lengths(workload, 8), bins)


def test_workload_that_decodes_nothing_is_refused() -> None:
    """A mean over no steps."""
    with pytest.raises(InputError, match="nothing is decoded"):
        decode_lengths(fixed_lengths(10, 1), 8)
