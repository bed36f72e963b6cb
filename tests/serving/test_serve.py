"""Requests over time on a system, from names to latencies."""

import json
from pathlib import Path
from typing import Any

import pytest

import attacc
from attacc.errors import CapacityError, InputError, UnknownNameError
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.system import load_system
from attacc.serving.results import Targets
from attacc.serving.serve import Server, Service, serve
from attacc.serving.started import (
    ASYNCHRONOUS,
    NO_OVERHEADS,
    SYNCHRONOUS,
    EngineOptions,
    Overheads,
    PolicyName,
    overheads_of,
    policy_of,
    start,
    version_of,
)
from attacc.system.batches import Chunk
from attacc.system.pricer import Pricer
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests
from tests.cli.console import answer, refusal

ONE = load_system("8xh100", name="one", gpus=1)
MODEL = "llama-3.1-8b"
STREAM = Requests.fixed(300, 20, 40).with_arrivals(poisson(40, 20.0, seed=1))


def static(requests: Requests, **others: Any) -> Service:
    """Serve with static batching, every step priced exactly."""
    options = EngineOptions(policy=PolicyName.STATIC, max_num_seqs=4)
    return serve(MODEL, ONE, requests, options=options, exact=True, **others)


def test_static_batching_is_the_sum_of_its_steps() -> None:
    """Catches a second price, a step that is left out, and times that are not rounded each."""
    found = static(Requests.fixed(300, 5, 3))
    reserve = found.run  # the pricer of the run reserves what vLLM does; prices do not depend on it
    assert reserve.steps
    pricer = Pricer(MODEL, ONE, gpu_model=cost_model(GpuModel.CALIBRATED, Engine.VLLM))
    steps = [pricer.step(prefill=[Chunk(300)] * 3)]
    steps += [pricer.step(decode=[301 + token] * 3) for token in range(4)]
    each = [step.end_ps - step.scheduled_ps for step in found.run.steps]
    assert len(each) == 5
    for own, step in zip(each, steps, strict=True):
        # Devices and host are rounded by themselves.
        assert abs(own - step.time_ns * 1e3) <= 1.0
    assert found.run.end_ps == sum(each)


def test_one_request_alone() -> None:
    """Catches a first token that waits, and a mean that counts it."""
    found = static(Requests.fixed(300, 5, 1)).latencies
    assert found.e2el_ms.mean == pytest.approx(found.ttft_ms.mean + 4 * found.tpot_ms.mean)
    assert found.completed == 1


ALONE = [policy for policy in PolicyName if policy is not PolicyName.DISAGGREGATED]
"""Policies of one engine."""


@pytest.mark.parametrize("policy", ALONE)
def test_every_policy_serves(policy: PolicyName) -> None:
    """Catches a policy that cannot be started, and figures that do not fit together."""
    options = EngineOptions(policy=policy, max_num_seqs=8)
    found = serve(MODEL, ONE, STREAM, options=options, targets=Targets(ttft_ms=1e6))
    told = found.latencies
    assert (told.completed, told.rejected, told.slo_attainment) == (40, 0, 1.0)
    assert told.request_goodput == pytest.approx(told.request_throughput)
    assert 0 < found.kv_use < 1
    assert 0 < found.busy_share <= 1
    assert 0 < found.mean_running <= 8
    assert found.step_surrogate.max_deviation <= found.step_surrogate.bound < 0.05
    energy = found.energy_per_output_token_j
    idle_w = sum(energy.values()) * told.output_throughput
    # One H100 draws at least its idle power, and at most that of its board.
    assert 60 < idle_w < 800
    assert found.utilisation["gpus"] <= 1
    assert found.utilisation["attaccs"] == 0.0


def test_the_same_run_gives_the_same_bytes() -> None:
    """Catches chance, and an order of tables that changes prices."""
    assert serve(MODEL, ONE, STREAM).to_json() == serve(MODEL, ONE, STREAM).to_json()


def test_idle_boards_count() -> None:
    """Catches energy of steps alone: an engine that waits draws power, too."""
    rare = Requests.fixed(300, 20, 40).with_arrivals(poisson(40, 0.5, seed=1))
    found = serve(MODEL, ONE, rare)
    assert found.busy_share < 0.2
    watts = cost_model(GpuModel.CALIBRATED, Engine.VLLM).static_w(ONE.gpu)
    idle_j = watts * found.latencies.duration_s
    assert idle_j <= found.energy_per_output_token_j["static"] * 40 * 20 < 1.1 * idle_j


def test_overheads_lengthen_steps_and_first_tokens() -> None:
    """Catches a layer that is not counted, time that the devices wait for a front end, and
    overheads of another engine.
    """
    alone = Requests.fixed(300, 20, 1)

    def told(**options: Any) -> Service:
        return serve(MODEL, ONE, alone, options=EngineOptions(**options), exact=True)

    plain = told(overheads=NO_OVERHEADS)
    layers = told(overheads=Overheads(layer_us=100.0))
    # 32 layers of 100 us in each of 20 steps.
    assert layers.run.end_ps == plain.run.end_ps + 20 * 32 * 100 * 10**6
    front = told(overheads=Overheads(request_ms=5.0))
    assert front.run.end_ps == plain.run.end_ps
    assert front.latencies.tpot_ms == plain.latencies.tpot_ms
    for latency in ("ttft_ms", "e2el_ms"):
        later, sooner = (getattr(one.latencies, latency).mean for one in (front, plain))
        assert later == pytest.approx(sooner + 5.0)
    assert told().run.end_ps == told(overheads=ASYNCHRONOUS).run.end_ps
    assert overheads_of(EngineOptions(engine_version="0.11.0")) == SYNCHRONOUS
    assert overheads_of(EngineOptions(policy=PolicyName.SGLANG)) == NO_OVERHEADS
    papers = Server(MODEL, ONE, gpu_model=GpuModel.PUBLISHED).serve(alone)
    own = EngineOptions(overheads=NO_OVERHEADS)
    same = Server(MODEL, ONE, options=own, gpu_model=GpuModel.PUBLISHED).serve(alone)
    assert papers.to_json() == same.to_json()
    assert not any("overheads" in note for note in papers.estimates)
    assert told().estimates[-1].endswith("13.8 ms for a request, as fitted to vLLM 0.15.1 on H100")
    assert front.estimates[-1].endswith(
        "0 us for each layer and step, 5 ms for a request, as given"
    )
    with pytest.raises(InputError, match="layer_us"):
        Overheads(layer_us=-1.0)


MEASURED = [
    ("llama-2-7b", 1, 119_408),
    ("llama-2-70b", 4, 501_712),
    ("mixtral-8x7b", 2, 440_176),
]
"""Tokens that vLLM 0.15.1 found room for on H100 with 80 GB, at a utilisation of 0.9."""


@pytest.mark.parametrize(("model", "gpus", "tokens"), MEASURED)
def test_memory_holds_what_vllm_found(model: str, gpus: int, tokens: int) -> None:
    """Catches a reservation that is left out. 1.5 %: activations are not those of vLLM's graph."""
    options = EngineOptions(max_num_seqs=128, max_num_batched_tokens=2048)
    system = load_system("8xh100", name="some", gpus=gpus)
    found = serve(model, system, Requests.fixed(500, 2, 2), options=options)
    assert found.kv_blocks * found.block_tokens == pytest.approx(tokens, rel=0.015)


def test_what_an_engine_is_started_with() -> None:
    """Catches options that reach no engine, and defaults of another version."""
    pricer = Pricer(MODEL, ONE)
    asked = EngineOptions(kv_blocks=100, max_num_seqs=3, engine_version="0.11.0")
    engine = start(pricer, STREAM, asked)
    assert (engine.capacity, engine.unit_tokens, engine.policy.depth) == (99, 16, 1)
    assert start(pricer, STREAM, EngineOptions(kv_blocks=100)).policy.depth == 2
    assert version_of("0.15.1") == (0, 15)
    with pytest.raises(InputError, match="is no version"):
        version_of("latest")
    with pytest.raises(InputError, match=r"played as of 0\.6 alone"):
        EngineOptions(policy=PolicyName.VLLM_V0, engine_version="0.5")
    with pytest.raises(InputError, match="kv_memory_fraction"):
        EngineOptions(kv_memory_fraction=1.5)
    with pytest.raises(UnknownNameError, match="unknown policy"):
        policy_of("orca")


def test_what_cannot_be_served_is_refused() -> None:
    """Catches a model without room, a layout of several engines, and requests that never fit."""
    with pytest.raises(CapacityError, match="GB needed"):
        serve("llama-3.1-70b", ONE, STREAM)
    with pytest.raises(InputError, match=r"2 replicas are no layout .* --replicas 2"):
        serve(MODEL, "8xh100", STREAM, layout="tp=4,replicas=2")
    few = EngineOptions(kv_blocks=4)
    with pytest.raises(InputError, match="none of the 40 requests can run"):
        serve(MODEL, ONE, STREAM, options=few)


def test_clients_wait() -> None:
    """Catches a closed loop that is open."""
    found = serve(MODEL, ONE, Requests.fixed(100, 10, 20), concurrency=2)
    assert max(step.running + step.waiting for step in found.run.steps) == 2


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file with six requests."""
    file = tmp_path / "requests.csv"
    rows = "".join(f"{i / 10},{200 + i},{5 + i}\n" for i in range(6))
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return file


def test_the_command_prints_what_the_library_answers(trace: Path) -> None:
    """Catches an option that is dropped on its way."""
    asked = ["serve", str(trace), "--model", MODEL, "--set", "gpus=1", "--max-num-seqs", "2"]
    printed = json.loads(answer(*asked, "--slo-ttft-ms", "50", "--scale", "2", "--json"))
    requests = Requests.from_trace(trace).scaled(2.0)
    system = load_system("8xh100", gpus=1)
    options = EngineOptions(max_num_seqs=2)
    found = attacc.serve(MODEL, system, requests, options=options, targets=Targets(ttft_ms=50.0))
    assert printed == json.loads(found.to_json())
    for name in ("completed", "rejected", "duration_s", "request_throughput", "overloaded"):
        assert name in printed
    assert set(printed["ttft_ms"]) == {"mean", "median", "p90", "p99"}
    text = answer(*asked)
    assert "serves 6 requests" in text
    assert "TTFT" in text


def test_bad_options_are_named(trace: Path) -> None:
    """Catches an error without its option."""
    assert "unknown policy" in refusal("serve", str(trace), "--policy", "orca")
    assert "is no version" in refusal("serve", str(trace), "--engine-version", "new")
