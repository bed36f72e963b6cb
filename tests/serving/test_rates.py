"""The highest rate at which most requests keep their targets."""

import pytest

from attacc.errors import InputError
from attacc.hardware.system import load_system
from attacc.serving.rates import STEP, find_rate
from attacc.serving.results import Targets
from attacc.serving.serve import Server
from attacc.serving.started import EngineOptions
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests

pytestmark = pytest.mark.untraced  # other tests reach these lines, too

ONE = load_system("8xh100", name="one", gpus=1)
SERVER = Server("llama-3.1-8b", ONE, options=EngineOptions(max_num_seqs=16))
STREAM = Requests.fixed(200, 30, 150).with_arrivals(poisson(150, 10.0, seed=2))
TARGETS = Targets(ttft_ms=60.0)


def test_the_highest_rate_keeps_the_targets_and_the_next_one_misses_them() -> None:
    """Catches a search that stops early, or beyond what is kept."""
    found = find_rate(SERVER, STREAM, TARGETS)
    assert found.attainment >= 0.9
    assert found.service.latencies.slo_attainment == found.attainment
    more = SERVER.latencies(STREAM.at_rate(found.requests_per_s * STEP), TARGETS)
    assert more.slo_attainment is not None
    assert more.slo_attainment < 0.9
    rates = [one.requests_per_s for one in found.tried]
    assert rates == sorted(rates)
    assert found.to_dict()["service"]["completed"] == 150


def test_a_smaller_share_allows_a_higher_rate() -> None:
    """Catches a share that is ignored."""
    all_of, some = (find_rate(SERVER, STREAM, TARGETS, share=share) for share in (1.0, 0.5))
    assert all_of.requests_per_s < some.requests_per_s


def test_what_no_rate_keeps_is_refused() -> None:
    """Catches a search without end, and targets that nobody gave."""
    with pytest.raises(InputError, match="no rate keeps the targets for 90% of the requests"):
        find_rate(SERVER, STREAM, Targets(ttft_ms=0.01))
    with pytest.raises(InputError, match="there is no target to keep"):
        find_rate(SERVER, STREAM, Targets())
    with pytest.raises(InputError, match="out of range"):
        find_rate(SERVER, STREAM, TARGETS, share=1.5)


def test_targets_that_are_always_kept_have_no_highest_rate() -> None:
    """Catches a rate that is out of range, and one that only says that requests are few."""
    requests = Requests.fixed(100, 5, 3).with_arrivals(poisson(3, 1.0, seed=0))
    with pytest.raises(InputError, match="however fast the 3 requests come"):
        find_rate(Server("llama-3.1-8b", "8xh100"), requests, Targets(ttft_ms=1e6))
