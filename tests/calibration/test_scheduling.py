"""Recorded runs of engines: how they are read, and played again."""

import json
from pathlib import Path

import numpy as np
import pytest

from attacc.calibration.scheduling import StepLine, deviation, read_recorded, replay
from attacc.errors import DocumentError
from attacc.serving.engines.vllm_v1 import VllmV1Settings
from attacc.serving.work import Chunk, Work
from attacc.study.claims.scheduling import RUNS, PlayedRun

LINE = StepLine(10.0, 0.01, 0.1, 1.0, 0.5)
SETTINGS = VllmV1Settings(1000, asynchronous=False)


def written(path: Path, rows: list[dict[str, float]]) -> Path:
    """Write a run."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return path


def row(arrival: float, queued: float, first: float, last: float) -> dict[str, float]:
    """One request of 20 and 3 tokens; the engine's clock is 100 s before the client's."""
    return {
        "input_toks": 20,
        "output_toks": 3,
        "arrival_time": arrival + 100,
        "queued_ts": queued,
        "first_token_ts": first,
        "last_token_ts": last,
    }


def test_two_clocks_are_brought_together(tmp_path: Path) -> None:
    """Catches latencies with the difference of two clocks, and arrivals of another clock."""
    rows = [row(5.0, 5.01, 5.3, 6.0), row(7.0, 7.5, 8.0, 9.0)]
    found = read_recorded(written(tmp_path / "run.jsonl", rows))
    assert found.arrival_s.tolist() == [0.0, 2.0]
    # The first request is queued soonest: its 10 ms count as none.
    assert found.ttft_ms == pytest.approx([290.0, 990.0])
    assert found.e2el_ms == pytest.approx([990.0, 1990.0])


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    """Catches a run with holes that is read as if it had none."""
    file = tmp_path / "run.jsonl"
    with pytest.raises(DocumentError, match="holds no requests"):
        read_recorded(written(file, []))
    broken = row(0.0, 0.0, 0.1, 0.2)
    del broken["queued_ts"]
    with pytest.raises(DocumentError, match=r"no line of a recorded run: 'queued_ts'") as error:
        read_recorded(written(file, [row(0.0, 0.0, 0.1, 0.2), broken]))
    assert str(error.value.where).endswith("run.jsonl:2")


def test_the_time_of_a_step_is_a_line() -> None:
    """Catches a term that is left out, or a unit that slips."""
    work = Work(4, 3000, 1000, (Chunk(100, 0, 0, emits=True),))
    assert LINE.device_ps(work) == round((10.0 + 1.0 + 0.4 + 3.0) * 1e9)
    assert LINE.host_ps(work) == 500_000_000


def test_a_run_that_is_played_is_its_own_record(tmp_path: Path) -> None:
    """Catches latencies that are compared with those of other requests."""
    rows = [row(0.2 * i, 0.2 * i, 0.0, 0.0) for i in range(6)]
    told = read_recorded(written(tmp_path / "run.jsonl", rows))
    run = replay(told, LINE, SETTINGS)
    # Each request is alone: its prompt in one step, two more tokens in two.
    first = 0.5 + 10.0 + 0.2
    further = [2 * 0.5 + 2 * 10.1 + (21 + 22) / 1000] * 6
    rows = [
        row(0.2 * i, 0.2 * i, 0.2 * i + first / 1e3, 0.2 * i + (first + more) / 1e3)
        for i, more in enumerate(further)
    ]
    again = read_recorded(written(tmp_path / "again.jsonl", rows))
    off = deviation(again, run, range(6))
    assert off.requests == 6
    assert max(off.ttft, off.e2el) < 1e-9


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_what_is_recorded_of_runs_is_what_is_played(run: PlayedRun, reference: Path) -> None:
    """Catches deviations that are no longer those that the claim records."""
    told = read_recorded(reference / run.file)
    off = deviation(told, replay(told, run.line, run.settings), range(0, len(told), 2))
    assert off.requests == run.even.requests
    for name in ("ttft", "e2el", "mean_ttft", "mean_e2el"):
        assert np.isclose(getattr(off, name), getattr(run.even, name), atol=1.5e-3), name
