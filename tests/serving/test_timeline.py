"""Timelines of runs: what a viewer needs of every event, and what the events tell."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from attacc.errors import InputError
from attacc.hardware.dram import load_device
from attacc.hardware.system import load_system
from attacc.pim.stack import Stack
from attacc.serving.records.timeline import (
    CHANNEL,
    DEVICES,
    ENGINE,
    HOST_TRACK,
    LAYERS,
    MOST_STEPS,
    REQUESTS,
    STEP_TRACK,
    Timeline,
    TimelineWindow,
)
from attacc.serving.serve import Server, Service
from attacc.serving.started import NO_OVERHEADS, EngineOptions, PolicyName
from attacc.system.pricer import Pricer
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests
from tests.cli.console import answer, refusal

ONE = load_system("8xh100", name="one", gpus=1)
MODEL = "llama-3.1-8b"
PS_US = 1e-6
"""A picosecond in microseconds: as far as times of events are rounded at most."""
STREAM = Requests.fixed(600, 40, 30).with_arrivals(poisson(30, 100.0, seed=1))


def check(timeline: Timeline) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Check every event as the format asks for, and return the spans of each track."""
    document = json.loads(timeline.to_json())
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    tracks = defaultdict[tuple[int, int], list[dict[str, Any]]](list)
    named, before = set[tuple[int, int]](), 0.0
    for event in document["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["args"], dict)
        track = event["pid"], event["tid"]
        assert all(isinstance(number, int) for number in track)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            named.add(track)
            continue
        assert event["ph"] == "X"
        assert event["ts"] >= before, "times rise"
        assert event["dur"] >= 0
        before = event["ts"]
        tracks[track].append(event)
    assert named == set(tracks), "every track has a name"
    for spans in tracks.values():
        ends = list[float]()
        for span in spans:
            start, end = span["ts"], span["ts"] + span["dur"]
            while ends and ends[-1] <= start + PS_US:
                ends.pop()
            assert not ends or end <= ends[-1] + PS_US, f"{span} crosses another span"
            ends.append(end)
    return tracks


def drawn(
    window: TimelineWindow, *, blocks: int | None = None, policy: PolicyName = PolicyName.VLLM_V1
) -> tuple[Service, dict[tuple[int, int], list[dict[str, Any]]]]:
    """Serve requests, and draw them."""
    options = EngineOptions(
        policy=policy, kv_blocks=blocks, max_num_batched_tokens=512, overheads=NO_OVERHEADS
    )
    found = Server(MODEL, ONE, options=options).serve(STREAM, draw=window)
    assert found.timeline is not None
    return found, check(found.timeline)


@pytest.mark.parametrize("blocks", [None, 120])
@pytest.mark.parametrize("policy", [PolicyName.VLLM_V1, PolicyName.SARATHI])
def test_every_event_is_what_the_format_asks_for(policy: PolicyName, blocks: int | None) -> None:
    """Catches spans that cross, times that fall, and tracks without a name."""
    found, tracks = drawn(TimelineWindow(0, 29, opened=20), blocks=blocks, policy=policy)
    assert (found.latencies.preemptions > 0) == (blocks is not None)
    assert sum(process == REQUESTS for process, _ in tracks) == 30
    names = {span["name"] for track, spans in tracks.items() for span in spans if track[0] == 1}
    assert {"request", "prefill", "decode"} <= names
    assert ("preempted" in names) == (blocks is not None)


def test_a_timeline_shows_the_run() -> None:
    """Catches spans of another step or request, and times that are not those of the run."""
    found, tracks = drawn(TimelineWindow(0, 29))
    requests = found.requests_frame()
    for row in requests.iter_rows(named=True):
        outer = tracks[REQUESTS, row["number"] + 1][0]
        assert outer["name"] == "request"
        assert outer["ts"] == pytest.approx(row["arrival_ps"] / 1e6)
        assert outer["ts"] + outer["dur"] == pytest.approx(row["end_ps"] / 1e6)
    steps = found.steps_frame()
    assert len(tracks[ENGINE, STEP_TRACK]) == len(tracks[ENGINE, HOST_TRACK]) == found.steps
    for row, span in zip(steps.iter_rows(named=True), tracks[ENGINE, STEP_TRACK], strict=True):
        assert span["ts"] == pytest.approx(row["start_ps"] / 1e6)
        assert span["args"]["keys"] == row["keys"]
        assert span["args"]["ended"] == row["ended"]


def test_operators_fill_their_step() -> None:
    """Catches an operator that is left out, or drawn beyond its step. GPUs alone hide nothing.

    A step's price by tables is within 1 % of the price of its operators.
    """
    found, tracks = drawn(TimelineWindow(0, 29, opened=30))
    gpus = tracks[DEVICES, 3]
    for number, step in enumerate(tracks[ENGINE, STEP_TRACK]):
        end = step["ts"] + step["dur"]
        inside = [span for span in gpus if step["ts"] <= span["ts"] + PS_US < end]
        assert sum(span["dur"] for span in inside) == pytest.approx(step["dur"], rel=1e-6)
        alone = sum(span["args"]["adds_us"] for span in inside)
        assert alone == pytest.approx(step["dur"], rel=0.01)
        # Llama 3.1 8B has 32 layers; the opened step has a span for each of them.
        each = [span for span in inside if span["args"]["runs"] == 32]
        assert bool(each) == (number != 30)
    layers = tracks[LAYERS, 1]
    assert len(layers) == 32
    assert found.timeline is not None
    assert found.timeline.words == f"30 requests and steps 0 to {found.steps - 1} of {found.steps}"


def test_attaccs_and_transfers_have_tracks() -> None:
    """Catches attention on AttAccs that is drawn on GPUs, and hidden work that is drawn twice."""
    found = Server("llama-3.1-70b", "8xh100-attacc-hbm3").serve(
        Requests.fixed(2000, 6, 8), draw=TimelineWindow(0, 7, opened=4)
    )
    assert found.timeline is not None
    tracks = check(found.timeline)
    links, transfers, gpus, attaccs = (tracks[DEVICES, track] for track in range(1, 5))
    assert links
    assert transfers
    assert gpus
    opened = tracks[ENGINE, STEP_TRACK][4]
    assert opened["args"]["decoding"] == 8
    end = opened["ts"] + opened["dur"]
    ours, theirs = (
        [span["name"] for span in spans if opened["ts"] <= span["ts"] + PS_US < end]
        for spans in (gpus, attaccs)
    )
    # A decode step attends on AttAccs alone, in each of the 80 layers.
    assert theirs == ["attention"] * 80
    assert "attention" not in ours
    check_commands(found, tracks, attaccs)


def check_commands(
    found: Service,
    tracks: dict[tuple[int, int], list[dict[str, Any]]],
    attaccs: list[dict[str, Any]],
) -> None:
    """Check the DRAM commands of the opened step: they fill the attention of its first layer."""
    commands = sorted(
        (span for (process, _), spans in tracks.items() if process == CHANNEL for span in spans),
        key=lambda span: span["args"]["cycle"],
    )
    begin = commands[0]["ts"]
    block = next(span for span in attaccs if span["ts"] <= begin + PS_US < span["ts"] + span["dur"])
    assert "MACAB" in {span["name"] for span in commands}
    cycles = [span["args"]["cycle"] for span in commands]
    for cycle, span in zip(cycles, commands, strict=True):
        assert block["ts"] <= span["ts"] + PS_US
        assert span["ts"] + span["dur"] <= block["ts"] + block["dur"] + PS_US
        assert span["ts"] == pytest.approx(block["ts"] + cycle * span["dur"])
    # The channel that ends last takes about as long as the price of the layer says, which lies on
    # a line through keys and chunks.
    clock_ns = load_device("hbm3-5.2").clock_ns
    assert cycles[-1] * clock_ns == pytest.approx(block["args"]["alone_us"] * 1e3, rel=0.1)
    assert found.timeline is not None
    assert f"{len(commands):,} of {len(commands):,} commands" in found.timeline.words


def test_commands_that_cannot_be_told_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that is lost because its commands cannot be drawn, and a silent gap."""

    def refused(self: Pricer, decode: list[int]) -> None:
        raise InputError("the commands are secret")

    monkeypatch.setattr(Pricer, "logged", refused)
    found = Server("llama-3.1-70b", "8xh100-attacc-hbm3").serve(
        Requests.fixed(200, 4, 2), draw=TimelineWindow(0, 1, opened=2)
    )
    assert found.timeline is not None
    assert found.timeline.words.endswith("; no DRAM commands: the commands are secret")
    check(found.timeline)


def test_a_stack_that_logs_answers_as_another_one() -> None:
    """Catches a log of another program than the one that is priced."""
    plain, logged = (
        Stack(logs=logs).attend_to((900, 500, 500, 100), queries_per_kv_head=4, queries_per_read=2)
        for logs in (False, True)
    )
    assert plain == logged
    assert plain.log is None
    assert logged.log is not None
    counted = Counter(command.command for command in logged.log)
    assert counted == {one.command: one.count for one in logged.commands if one.count}
    assert max(command.cycle for command in logged.log) == logged.cycles


def test_a_timeline_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file that grows with the run, and spans that are cut off without a word."""
    assert MOST_STEPS <= 1000
    monkeypatch.setattr("attacc.serving.records.timeline.MOST_STEPS", 10)
    found, tracks = drawn(TimelineWindow(3, 8, opened=70))
    assert found.timeline is not None
    steps = tracks[ENGINE, STEP_TRACK]
    assert len(steps) == 11
    assert steps[-1]["name"] == "step 70"
    assert found.timeline.steps is not None
    assert len(found.timeline.steps) == 10
    last = steps[9]["ts"] + steps[9]["dur"]
    for (process, track), spans in tracks.items():
        if process == REQUESTS:
            assert 4 <= track <= 9
            assert all(span["ts"] + span["dur"] <= last + PS_US for span in spans)
    assert "of" in found.timeline.words


def test_what_a_timeline_draws_is_read() -> None:
    """Catches a range that is off by one, and text that is taken for one."""

    def parse(text: str | None) -> tuple[int, int]:
        window = TimelineWindow.parse(text, None, where="here")
        return window.first, window.last

    assert parse(None) == (0, 31)
    assert parse("5") == (0, 4)
    assert parse("64..95") == (64, 95)
    for text in ("", "0", "5..3", "0..1000", "a", "1001"):
        with pytest.raises(InputError, match="here"):
            parse(text)
    found, _ = drawn(TimelineWindow(0, 3, opened=10**6))
    assert found.timeline is not None
    assert found.timeline.words.endswith("; there is no step 1,000,000 to open")


def test_the_command_writes_a_timeline(tmp_path: Path) -> None:
    """Catches an option that is dropped on its way."""
    file = tmp_path / "run.json"
    asked = ("serve", "--model", MODEL, "--set", "gpus=1", "--synthetic", "5", "--prompt", "100",
             "--output", "6")  # fmt: skip
    told = answer(*asked, "--timeline", str(file), "--timeline-requests", "3")
    assert "The timeline draws 3 requests" in told
    assert len(json.loads(file.read_text())["traceEvents"]) > 30
    assert "give --timeline FILE" in refusal(*asked, "--timeline-step", "3")
    assert "is no range" in refusal(*asked, "--timeline", str(file), "--timeline-requests", "x")
