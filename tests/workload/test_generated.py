"""Requests that are drawn: bounds, statistics, seeds, and what is refused.

Statistical tests have fixed seeds, so they pass always or never. Their tolerance is four standard
errors of the mean, which a right generator exceeds for one seed in 16,000; the standard error
divides by the root of the number of draws. A standard deviation has a wider one, which is stated.
"""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.workload.arrivals import poisson
from attacc.workload.generated import (
    Fixed,
    Independent,
    Lengths,
    LogNormal,
    Normal,
    Resampled,
    Uniform,
    generated,
)
from attacc.workload.requests import I64, Requests, WorkloadKind

COUNT = 20_000


def drawn(lengths: Lengths, seed: int = 0) -> I64:
    return generated(COUNT, Independent(lengths, Fixed(1)), seed=seed).prompt_tokens


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("lengths", "mean", "std"),
    [
        (Normal(1000, 100), 1000, 100),
        (Normal.of_cv(1000, 0.2), 1000, 200),
        (LogNormal(1000, 300), 1000, 300),
        (LogNormal.of_cv(2000, 1.0), 2000, 2000),
        (Uniform(100, 300), 200, math.sqrt((201**2 - 1) / 12)),
        (Uniform.around(1000, 0.5), 1000, math.sqrt((1001**2 - 1) / 12)),
    ],
)
def test_lengths_have_the_mean_and_the_spread_asked_for(
    lengths: Lengths, mean: float, std: float, seed: int
) -> None:
    """Catches moments of the logarithms taken for those of the lengths, and a ratio halved.

    Rounding adds a variance of 1/12. The bounds cut less than 1e-6 of any of these distributions,
    of which only the lognormal ones come near to one. The standard error of a standard deviation
    is std * sqrt((kurtosis - 1) / 4 n). The widest lognormal has a kurtosis of 41.
    """
    found = drawn(lengths, seed)
    assert abs(found.mean() - mean) < 4 * std / math.sqrt(COUNT)
    assert abs(found.std() / std - 1) < 4 * math.sqrt((41 - 1) / 4 / COUNT)


@pytest.mark.parametrize("seed", [0, 1])
def test_lengths_beyond_a_bound_are_drawn_again(seed: int) -> None:
    """Catches lengths that pile up on a bound, and a cut that removes lengths within the bounds."""
    cut = Normal(100, 100, least=50, most=200)
    found = drawn(cut, seed)
    assert found.min() == 50
    assert found.max() == 200
    whole = NormalDist(100, 100)
    share = whole.cdf(200.5) - whole.cdf(49.5)
    assert math.isclose(cut.share, share, rel_tol=1e-12)
    for bound in (50, 75, 100, 150, 199):
        expected = (whole.cdf(bound + 0.5) - whole.cdf(49.5)) / share
        error = math.sqrt(expected * (1 - expected) / COUNT)
        assert abs((found <= bound).mean() - expected) < 4 * error


@pytest.mark.parametrize("seed", [0, 1])
def test_half_of_lognormal_lengths_are_below_their_median(seed: int) -> None:
    """Catches a normal distribution in place of the lognormal one: the median is e^mu."""
    median = 2000 / math.sqrt(2)  # of a coefficient of variation of 1
    found = (drawn(LogNormal.of_cv(2000, 1.0), seed) <= median).mean()
    assert abs(found - 0.5) < 4 * 0.5 / math.sqrt(COUNT)


@given(
    mean=st.floats(1, 1e5),
    cv=st.floats(0, 3),
    least=st.integers(1, 2000),
    width=st.integers(0, 5000),
    seed=st.integers(0, 2**64 - 1),
)
def test_no_length_leaves_its_bounds(
    mean: float, cv: float, least: int, width: int, seed: int
) -> None:
    """Catches a length outside the bounds, or draws without end where bounds hold too little."""
    for kind in (Normal, LogNormal):
        try:
            lengths = kind.of_cv(mean, cv, least, least + width)
        except InputError as error:
            refusal = str(error)
            continue_with = None
        else:
            refusal, continue_with = "", lengths
        assert ("of the distribution" in refusal) == (continue_with is None)
        if continue_with is not None:
            found = continue_with.draw(50, np.random.default_rng(seed))
            assert found.shape == (50,)
            assert least <= found.min() <= found.max() <= least + width


@given(tokens=st.integers(1, 10_000), ratio=st.floats(0, 1, exclude_max=True))
def test_the_range_of_vllms_random_lengths(tokens: int, ratio: float) -> None:
    """Catches bounds that are rounded the other way, and an output of no token."""
    around = Uniform.around(tokens, ratio)
    assert around.least == max(1, math.floor(tokens * (1 - ratio)))
    assert around.most == math.ceil(tokens * (1 + ratio))
    found = around.draw(20, np.random.default_rng(0))
    assert around.least <= found.min() <= found.max() <= around.most


def test_every_length_of_a_range_is_drawn() -> None:
    """Catches an upper bound that is left out."""
    assert set(drawn(Uniform(3, 6)).tolist()) == {3, 4, 5, 6}


@pytest.mark.parametrize("seed", [0, 1])
def test_prompts_and_outputs_of_other_requests_stay_together(seed: int) -> None:
    """Catches outputs that are drawn apart from their prompts, and requests that are not drawn."""
    others = Requests(
        name="o",
        kind=WorkloadKind.TRACE,
        source="trace",
        prompt_tokens=np.array([10, 20, 20, 30]),
        output_tokens=np.array([1, 2, 2, 3]),
    )
    requests = generated(COUNT, Resampled(others), seed=seed)
    assert (requests.prompt_tokens == 10 * requests.output_tokens).all()
    for length, share in ((10, 0.25), (20, 0.5), (30, 0.25)):
        found = (requests.prompt_tokens == length).mean()
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / COUNT)
    assert "lengths drawn from 4 requests (trace)" in requests.source


@pytest.mark.parametrize("seed", [0, 1])
def test_independent_lengths_do_not_depend_on_each_other(seed: int) -> None:
    """Catches one stream of random numbers for both: the correlation's standard error is 1/√n."""
    both = generated(COUNT, Independent(Normal(500, 50), Normal(500, 50)), seed=seed)
    found = np.corrcoef(both.prompt_tokens, both.output_tokens)[0, 1]
    assert abs(found) < 4 / math.sqrt(COUNT)


def test_a_seed_decides_every_byte() -> None:
    """Catches lengths that depend on anything else, on nothing, or on the arrivals."""
    lengths = Independent(LogNormal(500, 400), Uniform(1, 99))
    first, other = (generated(100, lengths, seed=seed) for seed in (5, 6))
    again = generated(100, lengths, seed=5, arrivals=poisson(100, 3.0, seed=1))
    for name in ("prompt_tokens", "output_tokens"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
        assert getattr(first, name).tobytes() != getattr(other, name).tobytes()
    assert again.arrival_s is not None
    assert again.arrival_s[-1] == 100 / 3.0
    assert first.kind is WorkloadKind.SYNTHETIC
    assert again.source == (
        "100 requests drawn with seed 5: prompt tokens lognormal with mean 500 and standard "
        "deviation 400, within 1 to 16777216; output tokens 1 to 99, uniform; Poisson arrivals at "
        "3 requests/s, seed 1"
    )
    fixed = generated(3, Independent(Fixed(7), Normal(5, 0)))
    assert fixed.prompt_tokens.tolist() == [7, 7, 7]
    assert fixed.output_tokens.tolist() == [5, 5, 5]
    assert "prompt tokens 7; output tokens normal" in fixed.source


def test_impossible_lengths_are_refused() -> None:
    """Catches a request of no tokens, and draws without end."""
    for make, message in (
        (lambda: Fixed(0), "tokens: 0 is out of range"),
        (lambda: Uniform(0, 5), "least: 0 is out of range"),
        (lambda: Uniform(6, 5), "most: 5 is out of range"),
        (lambda: Uniform.around(100, 1.0), "range_ratio: 1.0 is out of range"),
        (lambda: Uniform.around(100, -0.1), "range_ratio: -0.1 is out of range"),
        (lambda: Uniform.around(2**24, 0.5), "most: 25165824 is out of range"),
        (lambda: Normal(0.5, 1), "mean_tokens: 0.5 is out of range"),
        (lambda: Normal(math.nan, 1), "mean_tokens: nan is out of range"),
        (lambda: Normal(100, -1), "std_tokens: -1.0 is out of range"),
        (lambda: Normal(100, 10, 50, 40), "most: 40 is out of range"),
        (lambda: Normal(100, 10, 150, 200), "150 to 200 tokens hold .* of the distribution"),
        (lambda: LogNormal(100, 0, 101, 200), "101 to 200 tokens hold 0 of the distribution"),
        (lambda: LogNormal.of_cv(100, -1), "cv: -1.0 is out of range"),
        (lambda: generated(0, Independent(Fixed(1), Fixed(1))), "count: 0 is out of range"),
        (lambda: generated(1, Independent(Fixed(1), Fixed(1)), seed=-1), "seed: -1 is out of"),
        (
            lambda: generated(2, Independent(Fixed(1), Fixed(1)), arrivals=poisson(3, 1)),
            "3 arrivals for 2 requests",
        ),
    ):
        with pytest.raises(InputError, match=message):
            make()
