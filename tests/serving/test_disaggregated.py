"""Prefill and decode on GPUs of their own, from names to latencies."""

import json
from pathlib import Path
from typing import Any

import pytest

from attacc.errors import InputError
from attacc.hardware.system import load_system
from attacc.serving.disaggregated import decoding, move_of, prefilling
from attacc.serving.serve import Service, serve
from attacc.serving.started import NO_OVERHEADS, EngineOptions, PolicyName, start
from attacc.system.pricer import Pricer
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests
from tests.cli.console import answer, refusal

TWO = load_system("8xh100", name="two", gpus=2)
MODEL = "llama-3.1-8b"
STREAM = Requests.fixed(300, 20, 30).with_arrivals(poisson(30, 20.0, seed=1))
APART = EngineOptions(policy=PolicyName.DISAGGREGATED, prefill_gpus=1, overheads=NO_OVERHEADS)


def apart(requests: Requests | tuple[int, int], system: Any = TWO, **others: Any) -> Service:
    """Serve requests where one GPU prefills."""
    options = others.pop("options", APART)
    return serve(MODEL, system, requests, options=options, **others)


def test_one_request_is_the_sum_of_its_parts() -> None:
    """Catches a second price of a step or of the move, and a first token that P gives."""
    found = apart((300, 5), exact=True)
    prefill, decode = found.engines
    step = prefill.run.steps[0]
    assert (step.work.chunks[0].new, len(prefill.run.steps)) == (300, 1)
    pricer = Pricer(MODEL, decoding(TWO, 1))
    need = pricer.need(STREAM, chunk_tokens=8192, staggered=True)
    move_ns = move_of(need, pricer, need, 300).time_ns
    first = decode.run.steps[0]
    assert first.scheduled_ps == pytest.approx(step.end_ps + move_ns * 1e3, abs=1)
    assert found.latencies.ttft_ms.mean == pytest.approx(first.end_ps / 1e9)
    assert [one.work.keys for one in decode.run.steps] == [300, 301, 302, 303, 304]
    # 128 KiB for each token, over a link of 450 GB/s.
    assert move_ns == pytest.approx(300 * 2**17 / 450)


def test_the_move_takes_energy() -> None:
    """Catches a move that is free: two single GPUs have no other use of their link."""
    found = apart(STREAM)
    prefill, decode = found.engines
    pricer = Pricer(MODEL, decoding(TWO, 1))
    need = pricer.need(STREAM, chunk_tokens=8192, staggered=True)
    one = move_of(need, pricer, need, 300).energies_pj[:, 0].sum() / 1e12
    assert prefill.energy_j["link"] == 0.0
    assert decode.energy_j["link"] == pytest.approx(30 * one, rel=1e-6)


def test_both_pools_are_told() -> None:
    """Catches prompts that count as outputs, and a pool that is left out of the sums."""
    found = apart(STREAM)
    assert [one.name for one in found.engines] == ["two prefill", "two decode"]
    assert [one.requests for one in found.engines] == [30, 30]
    assert found.latencies.completed == 30
    assert found.latencies.output_throughput * found.latencies.duration_s == pytest.approx(600)
    assert found.policy == "disaggregated 0.16"
    assert found.router is None
    assert found.kv_blocks == sum(one.kv_blocks for one in found.engines)


def test_decode_steps_are_not_held_up_by_prompts() -> None:
    """Catches prompts in the steps of the GPUs that decode: they make the longest gaps."""
    burst = Requests.fixed(4000, 40, 30).with_arrivals(poisson(30, 5.0, seed=1))
    mixed = serve(MODEL, TWO, burst)
    assert apart(burst).latencies.itl_ms.p99 < 0.5 * mixed.latencies.itl_ms.p99


def test_memory_lost_in_a_prefill_is_counted() -> None:
    """Catches preemptions that nobody tells: a prompt in parts gives way to one that is kept."""
    options = EngineOptions(
        policy=PolicyName.DISAGGREGATED, prefill_gpus=1, kv_blocks=30, max_num_batched_tokens=64
    )
    found = apart(Requests.fixed(300, 2, 3), options=options)
    assert found.latencies.completed == 3
    assert found.latencies.preemptions > 0
    assert found.engines[1].run.policy.ledger.ended[7::8].tolist() == [0, 0, 0]


def test_copies_of_both_pools() -> None:
    """Catches copies that hand requests to the other one's pool."""
    found = apart(STREAM, replicas=2)
    assert [one.name for one in found.engines] == [
        *("two 1 prefill", "two 1 decode", "two 2 prefill", "two 2 decode")
    ]
    assert [one.requests for one in found.engines] == [15, 15, 15, 15]
    assert (found.system, found.router) == ("2 x two", "round-robin")


def test_replicas_of_a_layout_are_engines_of_a_side() -> None:
    """Catches a layout of one side that the other one gets, and memory of all replicas in each."""
    system = load_system("8xh100", name="three", gpus=3)
    found = apart(STREAM, system, layout="tp=1,replicas=2", router="least-loaded")
    assert [one.name for one in found.engines] == [
        *("three prefill", "three decode 1", "three decode 2")
    ]
    first, second, third = found.engines
    assert first.requests == second.requests + third.requests == 30
    assert second.requests > 0 < third.requests
    assert second.kv_blocks == third.kv_blocks == apart(STREAM).engines[1].kv_blocks
    options = EngineOptions(policy=PolicyName.DISAGGREGATED, prefill_gpus=2)
    other = apart(STREAM, system, options=options, prefill_layout="tp=1,replicas=2")
    assert [one.requests for one in other.engines] == [15, 15, 30]
    with pytest.raises(InputError, match="prefill_layout: no GPUs only prefill"):
        serve(MODEL, TWO, STREAM, prefill_layout="tp=1")


def test_attaccs_attend_where_requests_decode() -> None:
    """Catches AttAccs at the GPUs that prefill, and prompts that are read back."""
    system = load_system("8xh100-attacc-hbm3", name="with", gpus=2)
    found = apart(Requests.fixed(300, 4, 3), system)
    prefill, decode = found.engines
    assert prefill.utilisation["attaccs"] == 0.0
    assert decode.utilisation["attaccs"] > 0.0
    assert not any(step.work.chunks for step in decode.run.steps)
    assert any("moved keys and values" in note for note in found.estimates)
    assert prefilling(system, 1).attacc is None


def test_what_pools_cannot_be_is_refused() -> None:
    """Catches pools without GPUs, without a link, and one engine where two are needed."""
    for wrong in (2, 8):
        with pytest.raises(InputError, match=f"prefill_gpus: {wrong} is out of range"):
            apart(
                STREAM, options=EngineOptions(policy=PolicyName.DISAGGREGATED, prefill_gpus=wrong)
            )
    with pytest.raises(InputError, match="how many GPUs prefill"):
        EngineOptions(policy=PolicyName.DISAGGREGATED)
    with pytest.raises(InputError, match="of no use with vllm-v1"):
        EngineOptions(prefill_gpus=2)
    with pytest.raises(InputError, match="two engines serve together"):
        start(Pricer(MODEL, TWO), STREAM, APART)
    with pytest.raises(InputError, match="is played as of"):
        EngineOptions(policy=PolicyName.STATIC, engine_version="0.16")
    assert EngineOptions(PolicyName.DISAGGREGATED, "0.19", prefill_gpus=1).version == "0.19"


def test_the_command_prints_what_the_library_answers(tmp_path: Path) -> None:
    """Catches an option that is dropped on its way."""
    file = tmp_path / "requests.csv"
    rows = "".join(f"{i / 10},{200 + i},{5 + i}\n" for i in range(6))
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    asked = ["serve", str(file), "--model", MODEL, "--set", "gpus=2", "--policy", "disaggregated"]
    printed = json.loads(answer(*asked, "--prefill-gpus", "1", "--json"))
    usual = EngineOptions(policy=PolicyName.DISAGGREGATED, prefill_gpus=1)
    found = apart(Requests.from_trace(file), load_system("8xh100", gpus=2), options=usual)
    assert printed == json.loads(found.to_json())
    assert "8xh100 prefill" in answer(*asked, "--prefill-gpus", "1")
    assert "how many GPUs prefill" in refusal(*asked)
