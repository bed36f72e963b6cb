"""Arrivals: their form, their statistics, and what is refused.

Statistical tests have fixed seeds, so they pass always or never. Their tolerance is four standard
errors of what is measured: a right generator exceeds it for one seed in 16,000, and an error of the
size of its parameters is several tens of standard errors.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.workload.arrivals import Arrivals, at_once, constant, gamma, poisson
from attacc.workload.requests import Requests

COUNT = 20_000


@given(
    count=st.integers(1, 300),
    rate=st.floats(1e-6, 1e6),
    burstiness=st.floats(0.05, 1e6),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_arrivals_end_at_their_time(
    count: int, rate: float, burstiness: float, seed: int
) -> None:
    """Catches times that fall by rounding, that are negative, or that end elsewhere."""
    for made in (
        gamma(count, rate, burstiness=burstiness, seed=seed),
        poisson(count, rate, seed=seed),
        constant(count, rate),
    ):
        assert len(made) == count
        assert made.times_s[-1] == count / rate
        assert made.times_s[0] > 0
        assert (np.diff(made.times_s) >= 0).all()


@pytest.mark.parametrize("burstiness", [0.05, 0.25, 1.0, 4.0, 1e6])
@pytest.mark.parametrize("seed", [0, 1])
def test_gaps_have_the_spread_of_the_burstiness(burstiness: float, seed: int) -> None:
    """Catches a scale or a shape that is taken for the other, and a first request without a gap.

    The mean gap is exact, because times are scaled to it. The variance of the gaps' variance is
    that of the fourth moment: (2 + 6 / shape) / n, relative to its square.
    """
    rate = 8.0
    times = gamma(COUNT, rate, burstiness=burstiness, seed=seed).times_s
    gaps = np.diff(times, prepend=0.0)
    assert math.isclose(gaps.mean(), 1 / rate, rel_tol=1e-12)
    error = math.sqrt((2 + 6 / burstiness) / COUNT)
    assert abs(gaps.var() * rate**2 * burstiness - 1) < 4 * error


@pytest.mark.parametrize("seed", [0, 1])
def test_gaps_of_a_poisson_process_are_exponential_and_independent(seed: int) -> None:
    """Catches another distribution of the same variance, and gaps that follow each other."""
    gaps = np.diff(poisson(COUNT, 2.0, seed=seed).times_s, prepend=0.0) * 2.0
    for share in (0.1, 0.5, 0.9):
        found = (gaps < -math.log1p(-share)).mean()
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / COUNT)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / math.sqrt(COUNT)
    # Bursts of one another: the number of arrivals in a second has the variance of its mean.
    counts = np.bincount(np.cumsum(gaps / 2.0).astype(np.int64))[:-1]
    assert abs(counts.var() / counts.mean() - 1) < 4 * math.sqrt(2 / len(counts))


def test_a_seed_decides_every_byte() -> None:
    """Catches times that depend on anything else, or on nothing."""
    first, again, other = (
        gamma(100, 3.0, burstiness=0.5, seed=seed).times_s.tobytes() for seed in (5, 5, 6)
    )
    assert first == again != other
    assert poisson(9, 3.0).times_s.tobytes() == gamma(9, 3.0, burstiness=1).times_s.tobytes()


def test_arrivals_without_chance() -> None:
    """Catches a first request at time 0 at a constant rate, which vLLM's benchmark has not."""
    assert constant(4, 2.0).times_s.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert at_once(3).times_s.tolist() == [0, 0, 0]
    assert Arrivals.at([0, 1, 1]).times_s.tolist() == [0, 1, 1]
    assert "constant 2 requests/s" in constant(4, 2.0).source
    assert "burstiness 0.5, seed 3" in gamma(4, 2.0, burstiness=0.5, seed=3).source


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "no times of arrival"),
        ([[0.0, 1.0]], "no times of arrival"),
        ([0.0, -1.0], "arrival 1 at -1.0 s is no time"),
        ([0.0, math.nan], "arrival 1 at nan s is no time"),
        ([0.0, math.inf], "arrival 1 at inf s is no time"),
        ([0.0, 2.0, 1.0], "arrival 2 at 1.0 s comes before arrival 1 at 2.0 s .sort"),
    ],
)
def test_impossible_times_are_refused(times: list[float], message: str) -> None:
    """Catches a clock that runs back."""
    with pytest.raises(InputError, match=message):
        Arrivals.at(times)


def test_impossible_numbers_are_refused() -> None:
    """Catches a rate of nothing, and times that are no numbers."""
    for rate in (0, -1, math.nan, math.inf, 1e7):
        with pytest.raises(InputError, match=r"requests_per_s: .* is out of range"):
            poisson(3, rate)
        with pytest.raises(InputError, match=r"requests_per_s: .* is out of range"):
            constant(3, rate)
    for burstiness in (0, 0.04, math.inf):
        with pytest.raises(InputError, match=r"burstiness: .* is out of range"):
            gamma(3, 1, burstiness=burstiness)
    with pytest.raises(InputError, match="seed: -1 is out of range"):
        poisson(3, 1, seed=-1)
    with pytest.raises(InputError, match="count: 0 is out of range"):
        at_once(0)


def test_requests_at_other_rates() -> None:
    """Catches a rate that is divided where it is multiplied, and requests that lose their times."""
    requests = Requests.fixed(10, 3, count=4).with_arrivals(Arrivals.at([1, 2, 2, 4]))
    assert requests.requests_per_s == 1.0
    fast = requests.at_rate(3)
    assert fast.arrival_s is not None
    np.testing.assert_allclose(fast.arrival_s, [1 / 3, 2 / 3, 2 / 3, 4 / 3], rtol=1e-15)
    assert math.isclose(fast.requests_per_s, 3, rel_tol=1e-15)
    assert fast.source.endswith("given times of arrival; arrivals scaled to 3 requests/s")
    slow = requests.scaled(0.5)
    assert slow.arrival_s is not None
    assert slow.arrival_s.tolist() == [2, 4, 4, 8]
    assert slow.source.endswith("arrivals 0.5 times as fast")
    assert requests.arrival_s is not None
    assert requests.arrival_s.tolist() == [1, 2, 2, 4]
    first = requests.first(2)
    assert first.arrival_s is not None
    assert first.arrival_s.tolist() == [1, 2]
    assert first.source.endswith("the first 2 requests")
    assert requests.first(4) is requests


def test_requests_without_a_rate_are_refused() -> None:
    """Catches a division by nothing."""
    requests = Requests.fixed(10, 3, count=4)
    for ask in (lambda: requests.at_rate(1), lambda: requests.scaled(2)):
        with pytest.raises(InputError, match=r"no times of arrival .*with_arrivals"):
            ask()
    together = requests.with_arrivals(at_once(4))
    with pytest.raises(InputError, match="all requests arrive at once"):
        together.at_rate(1)
    with pytest.raises(InputError, match="3 arrivals for 4 requests"):
        requests.with_arrivals(at_once(3))
    with pytest.raises(InputError, match=r"factor: 0.0 is out of range"):
        together.scaled(0)
    with pytest.raises(InputError, match=r"requests_per_s: 0.0 is out of range"):
        together.at_rate(0)
    for count in (0, 5):
        with pytest.raises(InputError, match=f"count: {count} is out of range .*1 to 4"):
            requests.first(count)
