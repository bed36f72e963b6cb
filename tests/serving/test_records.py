"""What a run leaves behind: its steps and requests in columns, and as files."""

import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from attacc.errors import InputError
from attacc.hardware.system import load_system
from attacc.report.serve import service_renderable
from attacc.serving.engines.policy import Ledger, Refusal, Request
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.serving.prices.steps import StepPrices
from attacc.serving.prices.works import Works
from attacc.serving.records import steps as columns
from attacc.serving.records.steps import COLUMNS, Steps, StepTimes
from attacc.serving.serve import Server, serve
from attacc.serving.simulator import Run, play
from attacc.serving.started import EngineOptions
from attacc.serving.work import Chunk, Work
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests
from tests.cli.console import answer, refusal

MS = 10**9
ONE = load_system("8xh100", name="one", gpus=1)
MODEL = "llama-3.1-8b"


def crowded(blocks: int = 60) -> Run:
    """Play requests that lose their memory now and then; one of them can never run."""
    random = np.random.default_rng(5)
    requests = [
        Request(i, i * 3 * MS, int(random.integers(1, 300)), int(random.integers(1, 60)))
        for i in range(40)
    ]
    requests[7].prompt = 2000
    settings = VllmV1Settings(blocks, max_model_len=1000, max_num_batched_tokens=256)
    return play(
        VllmV1(settings), iter(requests), lambda work: MS * (1 + work.new_tokens // 64),
        lambda _: MS // 10,
    )  # fmt: skip


def made(count: int) -> tuple[Steps, list[StepTimes]]:
    """Steps with chunks here and there, in columns and as objects."""
    steps, expected = Steps(), list[StepTimes]()
    for i in range(count):
        chunks = tuple(Chunk(n + 1, 10 * n, n, n % 2 == 0) for n in range((i + 1) % 3))
        work = Work(i, max(0, 3 * i - 1), 2 * i, chunks)
        times = (i * 2**40, i * 2**40 + 1, i * 2**40 + 2, i * 2**40 + 3)
        steps.add(work, times, (i, i + 1, i + 2), i % 2)
        steps.end(i % 5)
        expected.append(StepTimes(work, *times, i, i + 1, i + 2, i % 2, i % 5))
    return steps, expected


def test_columns_hold_what_steps_were_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a number in another column, one that is cut, and chunks of a neighbouring step."""
    monkeypatch.setattr(columns, "PAGE_STEPS", 7)
    for count in (0, 3, 7, 14, 40):
        steps, expected = made(count)
        assert list(steps) == expected
        assert len(steps) == count
        assert [steps[i] for i in range(count)] == expected
        assert steps[1:5] == expected[1:5]
        assert steps.column("keys").tolist() == [step.work.keys for step in expected]
        new = [step.work.new_tokens for step in expected]
        assert steps.column("new_tokens").tolist() == new
    works = [page.works() for page in made(40)[0].pages()]
    joined, at_once = Works.joined(works), Works.of(step.work for step in made(40)[1])
    assert list(joined.rows()) == list(at_once.rows())


def test_steps_can_be_looked_at_while_they_are_told() -> None:
    """Catches columns that cannot grow because a view of them is kept."""
    steps, expected = made(5)
    seen = steps[4], steps.column("start_ps"), next(steps.pages())
    steps.add(Work(1, 1, 1), (0, 0, 0, 0), (1, 0, 0), 0)
    assert len(steps) == 6
    assert seen[0] == expected[4]
    assert len(seen[2]) == 5
    # The results of the last step are not known yet.
    assert steps[5].ended == 0


def test_large_numbers_are_kept_or_refused() -> None:
    """Catches a number that wraps around without a word."""
    steps = Steps()
    steps.add(Work(1, 2**60, 2**24), (2**62, 2**62, 2**62, 2**62), (1, 0, 2**32 - 1), 0)
    assert (steps[0].work.keys, steps[0].end_ps, steps[0].free) == (2**60, 2**62, 2**32 - 1)
    with pytest.raises(struct.error):
        steps.add(Work(2**32, 1, 1), (0, 0, 0, 0), (1, 0, 0), 0)
    assert len(steps) == 1


def test_gaps_are_merged_without_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches counts that vanish when equal times are merged."""
    monkeypatch.setattr("attacc.serving.engines.policy.MERGED", 8)
    ledger, expected = Ledger(), dict[int, int]()
    for i in range(500):
        gap, count = i * i % 37, i % 3
        ledger.together(gap, count)
        if count:
            expected[gap] = expected.get(gap, 0) + count
    assert ledger.gaps == expected
    assert len(ledger._gaps) < 200  # pyright: ignore[reportPrivateUsage]


def test_steps_agree_with_requests() -> None:
    """Catches requests that end, lose their memory or are rejected without being counted."""
    run = crowded()
    assert len(run.rejected) == 1
    lost = run.rejected[0]
    assert (lost.number, lost.prompt, lost.reason) == (7, 2000, Refusal.LONG)
    assert lost.rejected_ps >= lost.arrival_ps == 21 * MS
    frame = run.steps.frame()
    assert frame.columns == ["step", *COLUMNS]
    assert frame["ended"].sum() == 39
    assert frame["preempted"].sum() == sum(run.policy.ledger.ended[7::8]) > 1
    assert (frame["scheduled_ps"] <= frame["launched_ps"]).all()
    assert (frame["launched_ps"] <= frame["start_ps"]).all()
    assert (frame["end_ps"].shift(1) <= frame["start_ps"]).drop_nulls().all()


def test_a_service_writes_its_requests_and_steps(tmp_path: Path) -> None:
    """Catches a row that is missing, and a file that differs from the frame."""
    prompts = Requests.fixed(300, 8, 30)
    prompts.prompt_tokens[4] = 5000
    stream = prompts.with_arrivals(poisson(30, 20.0, seed=1))
    found = serve(MODEL, ONE, stream, options=EngineOptions(kv_blocks=200))
    requests, steps = found.requests_frame(), found.steps_frame()
    assert requests["number"].to_list() == list(range(30))
    assert requests.filter(pl.col("reason").is_not_null())["number"].to_list() == [4]
    assert requests["reason"][4] == "never"
    assert requests["ttft_ms"].null_count() == 1
    assert steps.height == found.steps
    for name, frame, write in (
        ("requests", requests, found.write_requests),
        ("steps", steps, found.write_steps),
    ):
        write(tmp_path / f"{name}.parquet")
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(frame)
        write(tmp_path / f"{name}.csv.gz")
        assert pl.read_csv(tmp_path / f"{name}.csv.gz").height == frame.height
    with pytest.raises(InputError, match="names no kind of table"):
        found.write_steps(tmp_path / "steps.xls")


def test_an_interrupt_keeps_what_was_played() -> None:
    """Catches figures of a time that was not played, and an interrupt that is swallowed unasked."""
    asked = [False]

    def interrupted() -> bool:
        asked[0] = True
        return True

    def stream(stop: int) -> Iterator[Request]:
        for number in range(40):
            if number == stop:
                raise KeyboardInterrupt
            yield Request(number, number * 20 * MS, 100, 30)

    def played(stop: int, wanted: Callable[[], bool] | None) -> Run:
        policy = VllmV1(VllmV1Settings(1000))
        return play(policy, stream(stop), lambda _: MS, lambda _: 0, interrupted=wanted)

    whole, part = played(99, None), played(20, interrupted)
    assert asked == [True]
    assert (whole.partial, part.partial) == (False, True)
    assert list(part.steps)[:-2] == list(whole.steps)[: len(part.steps) - 2]
    assert part.policy.ledger.ended == whole.policy.ledger.ended[: len(part.policy.ledger.ended)]
    assert 0 < len(part.policy.ledger.ended) < len(whole.policy.ledger.ended)
    for wanted in (None, lambda: False):
        with pytest.raises(KeyboardInterrupt):
            played(20, wanted)


def test_an_interrupted_service_is_partial() -> None:
    """Catches shares above one, and a table that does not say that the run was cut off."""
    stream = Requests.fixed(300, 30, 40).with_arrivals(poisson(40, 20.0, seed=1))
    server = Server(MODEL, ONE)
    whole = server.serve(stream)
    with pytest.MonkeyPatch.context() as patch:
        left = [200]
        own = StepPrices.device_ps

        def device_ps(self: StepPrices, work: Work) -> int:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return own(self, work)

        patch.setattr(StepPrices, "device_ps", device_ps)
        found = server.serve(stream, interrupted=lambda: True)
        left[0] = 2
        with pytest.raises(KeyboardInterrupt):
            server.serve(stream, interrupted=lambda: True)
    assert (whole.partial, whole.unfinished) == (False, 0)
    assert (found.partial, found.steps) == (True, 199)
    assert found.unfinished == 40 - found.latencies.completed > 0
    assert found.busy_share <= 1
    assert 0 < found.kv_use < 1
    assert found.steps_frame().height == 199
    assert found.requests_frame().height == found.latencies.completed
    text = io.StringIO()
    Console(file=text, width=100).print(service_renderable(found))
    assert "The run was interrupted" in text.getvalue()


def test_the_command_writes_tables(tmp_path: Path) -> None:
    """Catches an option that is dropped, and a bad name that is told only after the run."""
    trace = tmp_path / "requests.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,200,5\n0.1,300,6\n")
    asked = ["serve", str(trace), "--model", MODEL, "--set", "gpus=1"]
    steps, requests = tmp_path / "steps.csv", tmp_path / "requests.parquet"
    told = ["--write-steps", str(steps), "--write-requests", str(requests), "--json"]
    printed = json.loads(answer(*asked, *told))
    assert pl.read_csv(steps).height == printed["steps"]
    assert pl.read_parquet(requests)["outputs"].to_list() == [5, 6]
    assert "--write-steps" in refusal(*asked, "--write-steps", "steps.txt")
    missing = str(tmp_path / "none" / "steps.csv")
    assert "there is no folder" in " ".join(refusal(*asked, "--write-steps", missing).split())
    twice = refusal(*asked, "--write-steps", str(steps), "--write-requests", str(steps))
    assert "is also the file of --write-requests" in " ".join(twice.split())
    assert "is also read" in " ".join(refusal(*asked, "--timeline", str(trace)).split())
    assert trace.read_text().count("\n") == 3
    found = refusal(*asked, "--find-rate", "--slo-ttft-ms", "50", "--write-steps", str(steps))
    assert "--find-rate plays many runs" in found
