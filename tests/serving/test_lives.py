"""Lives of requests: what the engine did to each of them, one by one."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from rich.console import Console

from attacc.errors import InputError
from attacc.hardware.system import load_system
from attacc.report.serve import service_renderable
from attacc.serving.engines.policy import Ended, Policy, Refusal, Request
from attacc.serving.engines.sarathi import Sarathi, SarathiSettings
from attacc.serving.engines.sglang import Sglang, SglangSettings
from attacc.serving.engines.static import Static, StaticSettings
from attacc.serving.engines.vllm_v0 import VllmV0, VllmV0Settings
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.serving.records.lives import LifeKind, Lives
from attacc.serving.serve import Server, serve
from attacc.serving.simulator import Events, Run, play
from attacc.workload.requests import Requests
from tests.cli.console import answer, refusal

MS = 10**9
ONE = load_system("8xh100", name="one", gpus=1)
MODEL = "llama-3.1-8b"
POLICIES: dict[str, Callable[[], Policy]] = {
    "vllm-v1": lambda: VllmV1(VllmV1Settings(60, max_num_batched_tokens=256)),
    "vllm-v1 without asynchrony": lambda: VllmV1(
        VllmV1Settings(60, max_num_batched_tokens=100, asynchronous=False)
    ),
    "vllm-v0": lambda: VllmV0(VllmV0Settings(60, 400, 16)),
    "sarathi": lambda: Sarathi(SarathiSettings(60, 16, chunk_size=100)),
    "sglang": lambda: Sglang(SglangSettings(700, chunked_prefill_size=128, conservativeness=0.0)),
    "static": lambda: Static(StaticSettings(80, 400, 16, 4)),
}
PREEMPTING = ("vllm-v1", "vllm-v1 without asynchrony", "vllm-v0", "sarathi", "sglang")


def requests() -> Iterator[Request]:
    """Requests of many lengths, more than fit into memory at once."""
    random = np.random.default_rng(5)
    for i in range(40):
        yield Request(i, i * 3 * MS, int(random.integers(1, 300)), int(random.integers(1, 60)))


def played(policy: Policy, events: Events | None = None) -> Run:
    """Play them."""
    return play(
        policy, requests(), lambda work: MS * (1 + work.new_tokens // 64), lambda _: MS // 10,
        events=events,
    )  # fmt: skip


@pytest.mark.parametrize("name", list(POLICIES))
def test_lives_agree_with_steps_and_with_the_ledger(name: str) -> None:
    """Catches a token, a preemption or a time that is told to a request wrongly, or not at all."""
    alone = played(POLICIES[name]())
    lives = Lives(range(40))
    run = played(POLICIES[name](), lives)
    # To follow requests changes nothing of what happens to them.
    assert list(run.steps) == list(alone.steps)
    assert run.policy.ledger.ended == alone.policy.ledger.ended
    numbers = run.policy.ledger.ended.tolist()
    ended = {numbers[i]: Ended(*numbers[i : i + 8]) for i in range(0, len(numbers), 8)}
    assert len(ended) == 40
    assert any(one.preemptions for one in ended.values()) == (name in PREEMPTING)
    new, decoded = Counter[int](), 0
    for life in lives.lives(run.steps):
        told = ended[life.number]
        kinds = [event.kind for event in life.events]
        assert kinds[0] is LifeKind.ARRIVAL
        assert kinds[-1] is LifeKind.END
        assert life.events[0].start_ps == told.arrival_ps
        assert life.events[-1].end_ps == told.end_ps
        assert life.events[-1].tokens == told.outputs == life.outputs
        first = next(event for event in life.events if event.kind is LifeKind.FIRST)
        assert first.start_ps == told.first_ps
        assert kinds.count(LifeKind.PREEMPTION) == told.preemptions
        assert kinds.count(LifeKind.ADMISSION) == told.preemptions + 1
        for event in life.events:
            assert told.arrival_ps <= event.start_ps <= event.end_ps <= told.end_ps
            if event.kind is LifeKind.DECODE:
                assert 0 < event.tokens <= event.last_step - event.first_step + 1
                decoded += event.tokens
            elif event.kind is LifeKind.CHUNK:
                new.update({event.first_step: event.tokens})
        # What is computed since the last admission is all but the last output.
        since = [*reversed(kinds)].index(LifeKind.ADMISSION)
        known = sum(event.tokens for event in life.events[-since - 1 : -1])
        assert known == life.prompt + life.outputs - 1
    chunks = run.steps.column("new_tokens") - run.steps.column("decoding")
    assert [new[step] for step in range(len(run.steps))] == chunks.tolist()
    assert decoded == run.steps.column("decoding").sum()


def test_only_chosen_requests_are_kept() -> None:
    """Catches a run that remembers every request, and a number that nobody asked for."""
    lives = Lives([3])
    run = played(POLICIES["vllm-v1"](), lives)
    assert [life.number for life in lives.lives(run.steps)] == [3]
    with pytest.raises(InputError, match="request 4 was not followed"):
        lives.life(4, run.steps)
    assert Lives([3]).life(3, run.steps) is None


def test_a_rejected_request_has_a_life() -> None:
    """Catches a request that vanishes without a word."""
    lives = Lives([1])
    asked = [Request(0, 0, 10, 2), Request(1, 5 * MS, 5000, 2)]
    policy = VllmV1(VllmV1Settings(60))
    run = play(policy, iter(asked), lambda _: MS, lambda _: 0, events=lives)
    life = lives.life(1, run.steps)
    assert life is not None
    assert life.events[-1].kind is LifeKind.REJECTION
    assert life.reason is Refusal.NEVER
    assert life.events[0].start_ps == 5 * MS


def test_a_service_tells_the_life_of_a_request() -> None:
    """Catches a life that is lost on its way to the user, and figures that change by it."""
    stream = Requests.fixed(300, 12, 6)
    plain, found = serve(MODEL, ONE, stream), serve(MODEL, ONE, stream, follow=5)
    assert plain.life is None
    assert found.life is not None
    assert found.life.number == 5
    one, other = plain.to_dict(), found.to_dict()
    assert one.pop("life") is None
    assert other.pop("life")["events"][0]["kind"] == "arrival"
    assert one == other
    text = io.StringIO()
    Console(file=text, width=100).print(service_renderable(found))
    assert "Request 5" in text.getvalue()
    assert "first token" in text.getvalue()
    assert found.life.to_frame().height == len(found.life.events)
    with pytest.raises(InputError, match="follow"):
        Server(MODEL, ONE).serve(stream, follow=6)


def test_the_command_follows_a_request() -> None:
    """Catches an option that is dropped, and a number that is counted from 1."""
    drawn = ("--synthetic", "5", "--prompt", "100..900", "--output", "6")
    asked = ("serve", "--model", MODEL, "--set", "gpus=1", *drawn)
    told = json.loads(answer(*asked, "--follow", "0", "--json"))
    assert told["life"]["number"] == 0
    assert told["life"]["events"][-1]["kind"] == "end"
    assert "follow" in refusal(*asked, "--follow", "5")
    found = refusal(*asked, "--rate", "2", "--find-rate", "--follow", "1")
    assert "--follow: --find-rate plays many runs" in found
