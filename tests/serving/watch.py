"""Watches engines while they play, and counts again what they count step by step.

A watch takes the events of one engine. It plays the rows of every call again, one request after the
other, and compares what it finds with the engine's own sums.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from attacc.serving.engines.policy import Call, Ended, Policy, Refusal, Remote, Request
from attacc.serving.engines.sglang import Sglang
from attacc.serving.engines.static import Static
from attacc.serving.engines.synchronous import Synchronous
from attacc.serving.engines.vllm_v1 import VllmV1
from attacc.serving.simulator import Events, Flight, Run
from attacc.serving.work import Work

NONE: Final = (0, 0, 0, 0)


@dataclass(slots=True)
class Watch(Events):
    """The events of one engine, each checked when it happens.

    Attributes:
        capacity: blocks, or slots, that requests can have.
        tokens: most tokens of a step; None where decodes have no bound.
        seqs: most requests of a step.
        has: KV of each request with memory, in tokens; absent without memory.
        emitted: tokens that each request has got.
        admitted: requests in the order of their first rows.
        ended: requests that ended.
        rejected: requests that were rejected.
        steps: steps that computed something.
        preempted: how often a request lost its memory.
    """

    capacity: int = 0
    tokens: int | None = None
    seqs: int | None = None
    has: dict[int, int] = field(default_factory=dict[int, int])
    held: dict[int, int] = field(default_factory=dict[int, int])
    emitted: Counter[int] = field(default_factory=Counter[int])
    admitted: dict[int, Request] = field(default_factory=dict[int, Request])
    ended: list[Request] = field(default_factory=list[Request])
    rejected: list[tuple[Request, Refusal]] = field(default_factory=list[tuple[Request, Refusal]])
    steps: int = 0
    preempted: int = 0
    now_ps: int = 0

    def reject(self, request: Request, now_ps: int, reason: Refusal) -> None:
        """A rejected request has arrived, and has not left before."""
        Events.reject(self, request, now_ps, reason)
        self._at(now_ps)
        assert request.arrival_ps <= now_ps
        assert request.index not in self._left()
        self._lose(request)
        self.rejected.append((request, reason))

    def schedule(self, policy: Policy, call: Call, now_ps: int) -> int:
        """A call keeps the bounds, and its sums are those of its rows."""
        self._at(now_ps)
        for request in call.preempted:
            self._lose(request)
            self.preempted += 1
        for request, tokens in call.hits:
            assert 0 < tokens < request.known
            if request.remote is not Remote.LOADING:
                self.has[request.index] = tokens
        self._rows(policy, call, now_ps)
        assert not {one.index for one in policy.waiting()} & {one.index for one, _ in call.rows}
        self._memory(policy)
        return Events.schedule(self, policy, call, now_ps)

    def update(self, policy: Policy, flight: Flight, ended: list[Request], now_ps: int) -> None:
        """Results give one token to each request that has all of its KV; the ended ones leave."""
        Events.update(self, policy, flight, ended, now_ps)
        self._at(now_ps)
        emits = [one.index for one in flight.call.emits]
        assert len(set(emits)) == len(emits) == flight.call.tokens
        self.emitted.update(emits)
        assert {one.index for one in ended} <= set(emits)
        for request in ended:
            assert request.index not in self._left()
            assert self.emitted[request.index] == request.known - request.prompt
            self._lose(request)
            self.ended.append(request)
        self._memory(policy)

    def _at(self, now_ps: int) -> None:
        assert now_ps >= self.now_ps
        self.now_ps = now_ps

    def _left(self) -> set[int]:
        return {one.index for one in self.ended} | {one.index for one, _ in self.rejected}

    def _lose(self, request: Request) -> None:
        self.has.pop(request.index, None)
        self.held.pop(request.index, None)

    def _rows(self, policy: Policy, call: Call, now_ps: int) -> None:
        """Count what a step computes again, row by row."""
        names = [request.index for request, _ in call.rows]
        assert len(set(names)) == len(names)
        assert self.seqs is None or len(names) <= self.seqs
        total = sum(tokens for _, tokens in call.rows)
        assert self.tokens is None or total <= self.tokens
        keys: list[int] = []
        chunks: list[tuple[int, int]] = []
        for request, tokens in call.rows:
            assert tokens > 0
            assert request.arrival_ps <= now_ps
            assert request.index not in self._left()
            loaded = request.remote is Remote.LOADED
            before = self.has.get(request.index, request.prompt - 1 if loaded else 0)
            self.admitted.setdefault(request.index, request)
            if tokens == 1 and (before >= request.prompt or loaded):
                keys.append(before + 1)
            else:
                chunks.append((tokens, before))
            self.has[request.index] = before + tokens
            self._take(policy, request, before + tokens)
        assert (call.work is not None) == bool(call.rows)
        if call.work is not None:
            decoding, all_keys, longest, own, _ = call.work
            assert (decoding, all_keys, longest) == (len(keys), sum(keys), max(keys, default=0))
            assert [(chunk.new, chunk.past) for chunk in own] == chunks
            assert call.work.new_tokens == total
            assert call.step == self.steps
            self.steps += 1

    def _take(self, policy: Policy, request: Request, tokens: int) -> None:
        """Note the blocks of a request: policies with one step at a time give a prompt all."""
        if isinstance(policy, Synchronous):
            inside: Any = policy
            size: int = inside._size
            whole = request.prompt + self.emitted[request.index]
            first = tokens if request.index in self.held else max(tokens, whole)
            self.held[request.index] = max(self.held.get(request.index, 0), -(-first // size))

    def _memory(self, policy: Policy) -> None:
        """Count memory again."""
        assert 0 <= policy.free <= self.capacity
        if isinstance(policy, VllmV1):
            self._blocks(policy)
        elif isinstance(policy, Sglang):
            self._slots(policy)
        else:
            assert isinstance(policy, Synchronous)
            inside: Any = policy
            if isinstance(policy, Static):
                assert policy.free == self.capacity - inside._each * policy.runs
                assert set(self.has) <= set(inside._running)
            else:
                assert policy.free == self.capacity - sum(self.held.values())
                assert set(inside._running) == set(self.has)

    def _slots(self, policy: Sglang) -> None:
        """Every slot is free, or in the tree, or of one request alone."""
        inside: Any = policy
        requests = {one.index: one for one in (*inside._running, *inside._last)}
        own = sum(self.has[index] - requests[index].registered for index in self.has)
        assert policy.free + inside._tree.tokens + own == self.capacity
        assert set(inside._nodes) == set(self.has)

    def _blocks(self, policy: VllmV1) -> None:
        """Every block is free, or referred to; users, keys and decodes are counted right."""
        inside: Any = policy
        pool: Any = inside._pool
        loading = [one for one in policy.waiting() if one.blocks]
        requests: list[Request] = [*inside._running.values(), *loading]
        requests += getattr(inside, "_held", {}).values()
        users = Counter(block for one in requests for block in one.blocks)
        free = set(pool.queue)
        assert 0 not in users
        assert not free & set(users)
        assert len(free) == policy.free == self.capacity - len(users)
        for block, count in users.items():
            assert count == pool._users.get(block, 1)
        assert all(users[block] == count for block, count in pool._users.items())
        assert set(pool._keys) == set(pool._users)
        assert sum(map(len, pool._cached.values())) == len(pool._keys)
        for one in requests:
            assert len(set(one.blocks)) == len(one.blocks)
        for index, tokens in self.has.items():
            assert len(inside._running[index].blocks) == -(-tokens // pool.size)
        assert set(self.has) == set(inside._running)
        steady = [one for own in inside._steady for one in own.values()]
        assert inside._decoding == len(steady)
        assert inside._keys == sum(one.lead + inside._steps for one in steady)


def check_end(watch: Watch, run: Run, sent: Sequence[int] | None = None) -> None:
    """Check a whole run: memory is free, tokens are conserved, and steps follow one another.

    Without preemptions, requests begin in the order in which they were sent, if that is given.
    """
    policy, ledger = run.policy, run.policy.ledger
    inside: Any = policy
    kept = inside._tree.evictable if isinstance(policy, Sglang) else 0
    assert policy.free + kept == watch.capacity
    assert (policy.runs, policy.waits, policy.awaits) == (0, 0, False)
    assert not watch.has
    numbers = [Ended(*ledger.ended[at : at + 8]) for at in range(0, len(ledger.ended), 8)]
    assert [one.number for one in numbers] == [one.index for one in watch.ended]
    for one in numbers:
        assert one.arrival_ps <= one.first_ps <= one.end_ps <= run.end_ps
        assert one.outputs == watch.emitted[one.number] > 0
    found = [(one.number, one.reason) for one in run.rejected]
    assert found == [(one.index, reason) for one, reason in watch.rejected]
    _tokens(watch, run)
    if not watch.rejected:
        total = sum(one.end_ps - one.first_ps for one in numbers)
        assert sum(gap * count for gap, count in ledger.gaps.items()) == total
    if sent is not None and not watch.preempted:
        assert list(watch.admitted) == [index for index in sent if index in watch.admitted]
    _times(run)


def _tokens(watch: Watch, run: Run) -> None:
    """Tokens of steps, of requests and of the times between them agree."""
    emitted = sum(watch.emitted.values())
    further = sum(count - 1 for count in watch.emitted.values())
    assert sum(run.policy.ledger.gaps.values()) == further
    works: list[Work] = [step.work for step in run.steps]
    given = sum(work.decoding + sum(chunk.emits for chunk in work.chunks) for work in works)
    # A token that decodes gives none where an output is computed again after a preemption.
    assert given == emitted if not watch.preempted else given >= emitted
    assert len(run.steps) == watch.steps
    assert int(run.steps.column("preempted").sum()) <= watch.preempted
    assert int(run.steps.column("ended").sum()) == len(watch.ended)


def _times(run: Run) -> None:
    """Times of a step rise, and the device computes one step after the other."""
    before = NONE
    for step in run.steps:
        own = step.scheduled_ps, step.launched_ps, step.start_ps, step.end_ps
        assert list(own) == sorted(own)
        assert own[0] >= before[1]
        assert own[2] >= before[3]
        before = own
