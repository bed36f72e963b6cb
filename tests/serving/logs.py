"""What every event log of a serving engine must satisfy, whatever the policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.serving.golden_vectors import Event, event


@dataclass(frozen=True)
class Rules:
    """Bounds of one engine.

    Attributes:
        prompts: prompt tokens of each request that the engine is given.
        outputs: tokens that each of them receives if it finishes.
        arrivals: when each of them arrives, ps.
        capacity: blocks or tokens that are free at most.
        empty: whether all of them are free at the end.
        tokens: most tokens in a step.
        seqs: most requests in a step.
        in_flight: most steps between their schedule call and their update.
        loaded: whether the KV of all but the last prompt token comes from outside.
    """

    prompts: Mapping[int, int]
    outputs: Mapping[int, int]
    arrivals: Mapping[int, int]
    capacity: int
    empty: bool = True
    tokens: int | None = None
    seqs: int | None = None
    in_flight: int = 1
    loaded: bool = False


@dataclass
class Replay:
    """A log played again from what its lines tell.

    Attributes:
        done: tokens of each request with KV.
        emitted: tokens that each request has received.
        ended: requests that were finished or rejected, in order.
        rejected: those of them that were rejected.
        started: requests in the order of their first rows.
        preempted: how often a request was preempted.
        open: steps without an update, with the tokens that their requests had after them.
    """

    rules: Rules
    done: dict[int, int] = field(default_factory=dict[int, int])
    emitted: dict[int, int] = field(default_factory=dict[int, int])
    ended: list[int] = field(default_factory=list[int])
    rejected: list[int] = field(default_factory=list[int])
    started: list[int] = field(default_factory=list[int])
    preempted: int = 0
    open: list[tuple[int, dict[int, int]]] = field(default_factory=list[tuple[int, dict[int, int]]])

    def schedule(self, one: Event, at: int) -> None:
        """A schedule call keeps the bounds, and runs what has arrived and not ended."""
        rules = self.rules
        for index in map(int, one.fields.get("preempt", [])):
            self.done[index] = 0
            self.preempted += 1
        for index, tokens in pairs(one.fields.get("hit", [])):
            self.done[index] = max(self.done.get(index, 0), tokens)
        rows = pairs(one.fields["run"])
        names = [index for index, _ in rows]
        assert len(set(names)) == len(names)
        assert rules.seqs is None or len(rows) <= rules.seqs
        assert rules.tokens is None or sum(tokens for _, tokens in rows) <= rules.tokens
        for index, tokens in rows:
            assert tokens > 0
            assert index not in self.ended
            assert rules.arrivals[index] <= at
            if index not in self.started:
                self.started.append(index)
                if rules.loaded:
                    self.done[index] = rules.prompts[index] - 1
            self.done[index] = self.done.get(index, 0) + tokens
        waiting = [int(index) for index in one.fields.get("wait", [])]
        assert not set(waiting) & set(self.ended)
        assert not set(waiting) & set(names)
        if rows:
            self.open.append((one.number, {index: self.done[index] for index in names}))
        assert len(self.open) <= rules.in_flight

    def update(self, one: Event) -> None:
        """An update ends the oldest step, and gives tokens to requests that have all their KV."""
        number, after = self.open.pop(0)
        assert number == one.number
        emitted = [int(index) for index in one.fields.get("emit", [])]
        finished = [int(index) for index in one.fields.get("finish", [])]
        assert set(finished) <= set(emitted) <= set(after)
        for index, done in after.items():
            known = self.rules.prompts[index] + self.emitted.get(index, 0)
            assert (done == known) == (index in emitted)
        for index in emitted:
            self.emitted[index] = self.emitted.get(index, 0) + 1
            last = self.emitted[index] == self.rules.outputs[index]
            assert last == (index in finished)
        self.ended += finished

    def end(self) -> None:
        """At the end every request has finished or was rejected, once; memory is free."""
        assert not self.open
        assert sorted(self.ended) == sorted(self.rules.prompts)
        if not self.preempted and not self.rules.loaded:
            order = {index: (at, index) for index, at in self.rules.arrivals.items()}
            assert self.started == sorted(self.started, key=order.__getitem__)


def pairs(words: Sequence[str]) -> list[tuple[int, int]]:
    """Numbers from `request:tokens`."""
    return [(int(index), int(tokens)) for index, tokens in (word.split(":") for word in words)]


def check(log: str, rules: Rules) -> Replay:
    """Play a log again; every rule that it breaks is an AssertionError."""
    replay = Replay(rules)
    time, free, calls = 0, rules.capacity, 0
    for one in map(event, log.splitlines()):
        at = int(one.fields["@"][0])
        assert at >= time
        time = at
        if one.kind == "reject":
            assert rules.arrivals[one.number] <= at
            replay.ended.append(one.number)
            replay.rejected.append(one.number)
            continue
        free = int(one.fields["free"][0])
        assert 0 <= free <= rules.capacity
        if one.kind == "S":
            assert one.number == calls
            calls += 1
            replay.schedule(one, at)
        else:
            replay.update(one)
    replay.end()
    if rules.empty and not replay.rejected:
        assert free == rules.capacity
    return replay
