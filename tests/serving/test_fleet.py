"""Several systems that serve together, from names to latencies."""

import json
from pathlib import Path

import numpy as np
import pytest

import attacc
from attacc.errors import InputError, UnknownNameError
from attacc.hardware.system import load_system
from attacc.serving.fleet import numbered, together
from attacc.serving.rates import find_rate
from attacc.serving.results import Targets
from attacc.serving.serve import Fleet, Server, serve
from attacc.serving.started import EngineOptions
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests
from tests.cli.console import answer, refusal

pytestmark = pytest.mark.untraced  # other tests reach these lines, too

ONE = load_system("8xh100", name="one", gpus=1)
TWO = load_system("8xh100", name="two", gpus=2)
MODEL = "llama-3.1-8b"
STREAM = Requests.fixed(300, 20, 40).with_arrivals(poisson(40, 20.0, seed=1))


def test_two_copies_share_the_requests() -> None:
    """Catches requests that are served twice or never, and figures that do not add up."""
    found = serve(MODEL, ONE, STREAM, replicas=2)
    assert (found.system, found.router) == ("2 x one", "round-robin")
    assert [one.name for one in found.engines] == ["one 1", "one 2"]
    assert [one.requests for one in found.engines] == [20, 20]
    assert found.latencies.completed == 40
    assert found.steps == sum(one.steps for one in found.engines)
    assert found.kv_blocks == 2 * found.engines[0].kv_blocks
    assert found.busy_share == pytest.approx(np.mean([one.busy_share for one in found.engines]))
    tokens = 40 * 20
    for part, each in found.energy_per_output_token_j.items():
        assert each * tokens == pytest.approx(sum(one.energy_j[part] for one in found.engines))
    with pytest.raises(InputError, match=r"2 engines .* engines\[0\]\.run"):
        _ = found.run


def test_copies_far_apart_do_what_one_does() -> None:
    """Catches an engine that waits for another: each copy has every second request alone."""
    rare = Requests.fixed(300, 20, 6).with_arrivals(poisson(6, 0.05, seed=1))
    one, two = serve(MODEL, ONE, rare), serve(MODEL, ONE, rare, replicas=2)
    assert two.latencies.ttft_ms == one.latencies.ttft_ms
    assert two.latencies.itl_ms == one.latencies.itl_ms
    # Two boards wait where one does, for nearly all of the time.
    ratio = two.energy_per_output_token_j["static"] / one.energy_per_output_token_j["static"]
    assert ratio == pytest.approx(2.0, rel=0.02)


def test_a_copy_without_requests_is_told() -> None:
    """Catches a division by nothing, and boards that draw nothing while nobody asks."""
    found = serve(MODEL, ONE, (300, 20), replicas=2)
    idle = found.engines[1]
    assert (idle.requests, idle.steps, idle.busy_share, idle.kv_use) == (0, 0, 0.0, 0.0)
    assert sum(idle.energy_j.values()) > 0


def test_different_systems_serve_together() -> None:
    """Catches steps that are priced by another system's prices."""
    found = serve(MODEL, [ONE, TWO], STREAM, router="least-loaded")
    assert found.system == "one + two"
    one, two = found.engines
    assert one.requests + two.requests == 40
    assert found.layout == "tp=1,replicas=1 + tp=2,replicas=1"
    first = [engine.run.steps[0] for engine in found.engines]
    assert first[1].end_ps - first[1].start_ps < first[0].end_ps - first[0].start_ps


def test_one_server_is_a_fleet_of_one() -> None:
    """Catches a second way to the same answer."""
    server = Server(MODEL, ONE)
    alone, fleet = server.serve(STREAM), Fleet([server]).serve(STREAM)
    assert alone.to_json() == fleet.to_json()
    assert alone.router is None
    assert alone.run is alone.engines[0].run
    latencies = Fleet([server]).latencies(STREAM, Targets())
    assert latencies.to_json() == alone.latencies.to_json()


def test_clients_wait_for_any_engine() -> None:
    """Catches clients that a fleet has several times."""
    found = serve(MODEL, ONE, Requests.fixed(100, 10, 20), replicas=2, concurrency=2)
    steps = [step for one in found.engines for step in one.run.steps]
    assert max(step.running + step.waiting for step in steps) <= 2
    assert found.mean_running <= 2
    assert [one.requests for one in found.engines] == [10, 10]


def test_two_copies_serve_twice_the_rate() -> None:
    """Catches a rate that is found for one copy alone. 15 %: arrivals differ, in steps of 2 %."""
    requests = Requests.fixed(400, 40, 200).with_arrivals(poisson(200, 20.0, seed=2))
    targets, server = Targets(tpot_ms=12.0), Server(MODEL, ONE)
    one = find_rate(server, requests, targets)
    two = find_rate(Fleet([server], replicas=2), requests, targets)
    assert two.system == "2 x one"
    assert two.requests_per_s / one.requests_per_s == pytest.approx(2.0, rel=0.15)


def test_what_no_fleet_can_be_is_refused() -> None:
    """Catches a fleet of nothing, and a router that stands for another one."""
    with pytest.raises(InputError, match="replicas: 0 is out of range"):
        serve(MODEL, ONE, STREAM, replicas=0)
    with pytest.raises(UnknownNameError, match="unknown router"):
        serve(MODEL, ONE, STREAM, router="random")
    with pytest.raises(InputError, match="there is no system"):
        Fleet([])
    others = [Server(MODEL, ONE), Server("llama-2-7b", ONE)]
    with pytest.raises(InputError, match="different models"):
        Fleet(others)
    engines = [Server(MODEL, ONE), Server(MODEL, ONE, options=EngineOptions(block_tokens=32))]
    with pytest.raises(InputError, match="different options"):
        Fleet(engines)


def test_names_of_instances() -> None:
    """Catches two engines of one name."""
    assert numbered(["a", "b", "a"]) == ["a 1", "b", "a 2"]
    assert together(["a", "a", "b"]) == "2 x a + b"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file with six requests."""
    file = tmp_path / "requests.csv"
    rows = "".join(f"{i / 10},{200 + i},{5 + i}\n" for i in range(6))
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return file


def test_the_command_prints_what_the_library_answers(trace: Path) -> None:
    """Catches an option that is dropped on its way, and a table without the engines."""
    asked = ["serve", str(trace), "--model", MODEL, "--system", "8xh100", "--system", "8xh200"]
    asked += ["--set", "gpus=1", "--replicas", "2", "--router", "prefix"]
    printed = json.loads(answer(*asked, "--json"))
    systems = [load_system(name, gpus=1) for name in ("8xh100", "8xh200")]
    requests = Requests.from_trace(trace)
    found = attacc.serve(MODEL, systems, requests, replicas=2, router="prefix")
    assert printed == json.loads(found.to_json())
    assert [one["name"] for one in printed["engines"]] == [
        *("8xh100 1", "8xh100 2", "8xh200 1", "8xh200 2")
    ]
    text = answer(*asked)
    assert "2 x 8xh100 + 2 x 8xh200 serves 6 requests" in text
    assert "8xh200 2" in text
    assert "prefix" in text


def test_rates_of_several_copies(trace: Path) -> None:
    """Catches copies that the search for a rate leaves out."""
    asked = ["serve", str(trace), "--model", MODEL, "--set", "gpus=1", "--replicas", "2"]
    found = json.loads(answer(*asked, "--find-rate", "--slo-ttft-ms", "40", "--json"))
    assert found[0]["system"] == "2 x 8xh100"
    assert len(found[0]["service"]["engines"]) == 2


def test_bad_options_are_named(trace: Path) -> None:
    """Catches an error without its option."""
    assert "unknown router" in refusal("serve", str(trace), "--router", "any")
    assert "--replicas" in refusal("serve", str(trace), "--replicas", "0")
    assert "--replicas 2" in refusal("serve", str(trace), "--layout", "tp=4,replicas=2")
