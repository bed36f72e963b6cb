"""Measured serving runs, served again: how they are read, what they ask for, and their figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attacc.calibration.closed_loop import playable, simulated, step_tokens
from attacc.calibration.open_loop import (
    SHARED,
    Figures,
    OpenLoopRun,
    dense,
    fitted,
    read_open_loop,
    with_experts,
)
from attacc.calibration.serving import Run, read_runs
from attacc.errors import DocumentError, InputError
from attacc.serving.started import NO_OVERHEADS, EngineOptions, Overheads
from attacc.study.claims.open_loop import (
    CLOSED,
    CLOSED_RECORDED,
    OPEN,
    RECORDED,
    closed_error,
    mean_off,
)
from tests import share

HEADER = (
    "run,engine,engine_version,gpu,model,precision,tensor_parallel,max_num_batched_tokens,"
    "max_num_seqs,max_model_len,block_tokens,memory_utilization,workload,prompt_tokens_mean,"
    "output_tokens_mean,stage_requests_per_s,stage_seconds,ttft_mean_ms,ttft_p90_ms,ttft_p99_ms,"
    "itl_mean_ms,e2e_mean_ms,e2e_p90_ms,e2e_p99_ms"
)
ROW = (
    "7,vllm,0.15.1,h100-sxm-80gb,meta-llama/Llama-3.1-8B-Instruct,fp16,1,2048,128,4096,16,0.9,"
    "codegen,566,11,5;10,600;600,30,40,50,8,130,150,170"
)


def table(path: Path, *rows: str) -> Path:
    """Write a table of runs."""
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


@pytest.fixture
def run(tmp_path: Path) -> OpenLoopRun:
    """A run of one row."""
    return read_open_loop(table(tmp_path / "runs.csv", ROW))[0]


def test_a_run_is_read(run: OpenLoopRun) -> None:
    """Catches columns that are swapped, and a TPOT that counts the first token."""
    assert (run.number, run.model, run.tensor_parallel) == (7, "llama-3.1-8b", 1)
    assert run.options == EngineOptions(
        engine_version="0.15.1", max_num_seqs=128, max_num_batched_tokens=2048, max_model_len=4096
    )
    assert (run.rates, run.seconds) == ((5.0, 10.0), (600.0, 600.0))
    assert run.measured == Figures(30.0, 40.0, 50.0, 10.0, 8.0, 130.0, 150.0, 170.0)
    assert replace(run.measured, ttft=33.0).off(run.measured).ttft == pytest.approx(0.1)


def test_a_malformed_table_is_named(tmp_path: Path) -> None:
    """Catches a run with holes that is read as if it had none."""
    with pytest.raises(DocumentError, match="holds no runs"):
        read_open_loop(table(tmp_path / "none.csv"))
    broken = table(tmp_path / "broken.csv", ROW, ROW.replace("5;10", "5;"))
    with pytest.raises(DocumentError, match="no run under open-loop load") as error:
        read_open_loop(broken)
    assert str(error.value.where).endswith("broken.csv:3")


def test_stages_follow_each_other(run: OpenLoopRun) -> None:
    """Catches stages that overlap, another rate, and a stage that is not cut."""
    times = run.requests(20.0).arrival_s
    assert times is not None
    assert np.count_nonzero(times <= 20.0) == 100
    assert len(times) == 300
    assert times[-1] == pytest.approx(40.0)


def test_prompts_repeat(run: OpenLoopRun) -> None:
    """Catches prompts that differ, groups without a common start, and hits within a block."""
    hashes = run.requests(20.0).prefix_hashes
    assert hashes is not None
    prompts = SHARED["codegen"].prompts
    assert hashes.of(0) == hashes.of(prompts)
    assert len({hashes.of(i) for i in range(prompts)}) == prompts
    # Four users of a group share the 6 full blocks of 100 tokens.
    assert hashes.of(0)[:6] == hashes.of(3)[:6] != hashes.of(4)[:6]
    assert hashes.of(0)[6] != hashes.of(1)[6]
    assert run.requests(20.0, shared=False).prefix_hashes is None
    with pytest.raises(InputError, match="prompts of the load 'chess' are not known"):
        replace(run, workload="chess").requests()


def test_what_has_no_preset_is_refused(run: OpenLoopRun) -> None:
    """Catches a run that is priced as another model."""
    with pytest.raises(InputError, match="no preset stands for meta-llama"):
        replace(run, precision="fp8").server()
    assert dense([run]) == [run]
    assert dense([replace(run, precision="fp8")]) == []


def test_overheads_are_found_again(run: OpenLoopRun) -> None:
    """Catches a fit that mixes both overheads, or does not converge. The run's latencies are
    simulated ones; nothing measured is needed.
    """
    truth = Overheads(layer_us=50.0, request_ms=20.0)
    known = replace(run, measured=run.simulated(truth, 5.0))
    found = fitted([known], 5.0)
    assert found.layer_us == pytest.approx(50.0, rel=0.02)
    assert found.request_ms == pytest.approx(20.0, rel=0.05)


def test_repeated_prompts_take_less(run: OpenLoopRun) -> None:
    """Catches a prefix cache that is not used: measured dense models show its effect."""
    hits, misses = (run.simulated(NO_OVERHEADS, 10.0, shared=shared) for shared in (True, False))
    assert misses.ttft > 1.3 * hits.ttft
    assert misses.tpot > hits.tpot


@pytest.mark.skipif(not share.is_full(__name__), reason="long: with --full; the claims do the same")
def test_what_is_recorded_of_runs_is_what_is_served(reference: Path) -> None:
    """Catches errors that are no longer those that the claims record, and a goal that is missed."""
    runs = dense(read_open_loop(reference / OPEN))
    found = [run.simulated() for run in runs]
    for latency, of in RECORDED.items():
        assert mean_off(runs, found, latency) == pytest.approx(of.error, abs=1.5e-3), latency


@pytest.mark.skipif(not share.is_full(__name__), reason="long: with --full; the claims do the same")
def test_experts_are_served_shorter_than_measured(reference: Path) -> None:
    """Catches a page that says that such runs are missed when they no longer are."""
    runs = with_experts(read_open_loop(reference / OPEN))
    assert len(runs) == 4
    off = [run.simulated().off(run.measured) for run in runs]
    assert all(one.tpot < -0.1 for one in off)
    assert all(one.e2el_p99 < -0.4 for one in off)


CLIENTS = Run(
    "vllm", "0.12.0", "h100_sxm", "qwen3-32b", "Qwen/Qwen3-32B", "", 1024, 128, 8, 2, 154.2, 18.04
)
"""One measured run: Qwen3 32B on 2 H100, 8 requests in flight (ai-dynamo/aiconfigurator)."""


def test_one_measured_run_at_constant_concurrency() -> None:
    """Catches queues, a host or prices that are lost or counted twice. 6 %: twice the error of the
    day on which this was written.
    """
    assert step_tokens(CLIENTS) == 2544
    found = simulated([CLIENTS])[0]
    assert found.tpot_off == pytest.approx(0.0, abs=0.06)
    assert found.ttft_off == pytest.approx(0.0, abs=0.06)


def test_runs_of_unknown_engines_are_left_out() -> None:
    """Catches runs that are played by the rules of another version, or priced in 16 bits."""
    unknown, eight = replace(CLIENTS, version=""), replace(CLIENTS, quantised="fp8")
    other = replace(CLIENTS, framework="sglang")
    assert playable([unknown, CLIENTS, eight, other]) == [CLIENTS]


@pytest.mark.skipif(not share.is_full(__name__), reason="long: with --full; the claims do the same")
def test_what_is_recorded_of_constant_concurrency(reference: Path) -> None:
    """Catches an error of a part of the runs that is no longer near that of all of them."""
    pytest.importorskip("polars", reason="tables are read with polars")
    runs = playable(read_runs(reference / CLOSED))
    assert len(runs) == 57
    some = simulated([run for run in runs if run.concurrency * run.output <= 16_384])
    assert closed_error(some, "tpot") == pytest.approx(CLOSED_RECORDED["tpot"], abs=0.01)
    assert closed_error(some, "ttft") < CLOSED_RECORDED["ttft"] + 0.06
