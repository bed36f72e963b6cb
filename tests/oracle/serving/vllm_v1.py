"""The scheduler of vLLM V1 (0.14.1 to 0.16, gates of 0.19 and 0.24), synchronous or asynchronous.

Source: the executed semantics on the project's page of serving engines, sections 1.1 and 10.

One engine thread schedules, launches and takes in results. `depth` steps may be in flight: one if
synchronous, two if asynchronous. The thread repeats:

- With `depth` steps in flight, or after a schedule call that ran nothing while a step is in flight:
  wait for the oldest step, take in its results.
- Otherwise: schedule. A step is launched at the time of the call plus `host_ps`, and the thread
  goes on at the launch. The step executes from max(launch, end of the step before) on.

Decisions:

1. There is one host thread. It takes in results at max(end of the step, launch of the step that it
   is launching). So a step takes max(duration, host) in the steady state. Where `host_ps` of a step
   is at most the duration of the step before, every update is at the end of its step.
2. A prompt of more than `max_model_len - 1` tokens is rejected as long when it is first seen.
3. Nothing checks at arrival whether the KV of a request will ever fit. A call that runs nothing,
   leaves `running` empty and leaves something waiting shows that the head can never run. The head
   is rejected (never) when nothing is in flight: at once, or after the update of the step in
   flight, unless that update finished the request. Its line follows the line of the call or update.
   This rule also ends the livelock of a lone request that preempts itself.
4. A token in flight of a preempted request is delivered: it is emitted in the update, and it is
   known when the request resumes. A request that it finishes leaves the waiting queue.
5. Asynchronous registration: a schedule call registers the full blocks of the first
   min(done + n, known) tokens. The update registers, for a running request that receives a token,
   the full blocks of the first (done - placeholders) tokens.
6. Whether a row emits is decided when it is scheduled: done + n == known + placeholders.
7. The full-prompt gate (0.19) compares ceil(known / block) - hit blocks + hit blocks in the free
   queue with the free blocks. The watermark (0.24) is taken off the free blocks, for the gate and
   for the allocation, while `running` is not empty, those admitted in this call included.
8. Duplicates: of blocks with the same hash a lookup returns the one that was registered first.
9. A lookup compares whole token sequences from the start, so no two contents collide.
10. Outputs end a request, or a length of max_model_len.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.oracle.serving.common import (
    Arrivals,
    Call,
    Job,
    Log,
    Planned,
    Request,
    Time,
    Token,
    ceil_div,
    nothing,
    step_of,
)


@dataclass(frozen=True)
class Settings:
    """What vLLM V1 is started with; the defaults are those of a large GPU and the API server."""

    blocks: int
    """Blocks of KV memory; block 0 is the null block, so one less is usable."""
    max_model_len: int = 4096
    block_tokens: int = 16
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    prefix_caching: bool = True
    chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    """Most prompt tokens of a request in a step; 0 is no limit."""
    asynchronous: bool = True
    reserve_full_isl: bool = False
    """Admit only where the blocks of all known tokens are free (on from 0.19)."""
    watermark: float = 0.0
    """Part of the blocks that stays free at admissions while something runs (0.24)."""


class BlockRequest(Request):
    """A request with its blocks.

    Attributes:
        blocks: ids of its blocks, in order.
        registered: how many of them are in the prefix cache by this request's doing or by a hit.
        placeholders: outputs in flight.
        remote: "" if the engine computes the KV of the prompt; else "wanted" before and "loading"
            while this KV comes from outside.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.blocks: list[int] = []
        self.registered = 0
        self.placeholders = 0
        self.remote = ""


Key = tuple[Token, ...]


class Pool:
    """Blocks, the queue of free ones, and the prefix cache."""

    def __init__(self, settings: Settings) -> None:
        self.size = settings.block_tokens
        self.caching = settings.prefix_caching
        self.queue = list(range(1, settings.blocks))
        self.users = [0] * settings.blocks
        self.key: list[Key | None] = [None] * settings.blocks
        self.cached: dict[Key, list[int]] = {}

    def hits(self, request: BlockRequest) -> list[int]:
        """Cached blocks of the request from the start; the last known token is always computed."""
        found: list[int] = []
        if self.caching:
            for i in range((request.known - 1) // self.size):
                block = self.cached.get(tuple(request.names[: (i + 1) * self.size]))
                if block is None:
                    break
                found.append(block[0])
        return found

    def register(self, request: BlockRequest, tokens: int) -> None:
        """Enter the full blocks of the first `tokens` tokens into the prefix cache."""
        if not self.caching:
            return
        for i in range(request.registered, tokens // self.size):
            key = tuple(request.names[: (i + 1) * self.size])
            self.key[request.blocks[i]] = key
            self.cached.setdefault(key, []).append(request.blocks[i])
            request.registered += 1

    def allocate(self, request: BlockRequest, tokens: int, hits: Sequence[int], spare: int) -> bool:
        """Give the request the blocks of its first `tokens` tokens; False if too few are free.

        Args:
            request: who gets them.
            tokens: that need blocks.
            hits: cached blocks that the request begins with.
            spare: blocks that have to stay free.
        """
        new = max(ceil_div(tokens, self.size) - len(request.blocks) - len(hits), 0)
        if new + self.evictable(hits) > len(self.queue) - spare:
            return False
        for block in hits:
            if self.users[block] == 0:
                self.queue.remove(block)
            self.users[block] += 1
        request.blocks += hits
        request.registered += len(hits)
        for _ in range(new):
            block = self.queue.pop(0)
            self.forget(block)
            self.users[block] = 1
            request.blocks.append(block)
        return True

    def evictable(self, hits: Sequence[int]) -> int:
        """Hit blocks that lie in the free queue."""
        return sum(self.users[block] == 0 for block in hits)

    def forget(self, block: int) -> None:
        """Take a block out of the prefix cache."""
        key = self.key[block]
        if key is not None:
            self.cached[key].remove(block)
            if not self.cached[key]:
                del self.cached[key]
            self.key[block] = None

    def release(self, request: BlockRequest) -> None:
        """Take all blocks from a request; the last block is freed first."""
        for block in reversed(request.blocks):
            self.users[block] -= 1
            if self.users[block] == 0:
                self.queue.append(block)
        request.blocks = []
        request.registered = 0


class InFlight(NamedTuple):
    """A step between its schedule call and its update."""

    number: int
    planned: list[Planned]
    end_ps: int


class Engine:
    """One engine, moved on turn by turn.

    Args:
        jobs: what will arrive.
        settings: how the engine is started.
        duration_ps: time of a step on the device.
        host_ps: time from a schedule call to the launch.
        pool: name of the pool, for a disaggregated system.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        settings: Settings,
        duration_ps: Time,
        host_ps: Time = nothing,
        pool: str = "",
    ) -> None:
        self.settings = settings
        self.duration_ps, self.host_ps = duration_ps, host_ps
        self.name = pool
        self.arrivals = Arrivals(jobs)
        self.waiting: list[BlockRequest] = []
        self.running: list[BlockRequest] = []
        self.pool = Pool(settings)
        self.log = Log(f"{pool} " if pool else "")
        self.depth = 2 if settings.asynchronous else 1
        self.in_flight: list[InFlight] = []
        self.now = 0
        self.device_ps = 0
        self.waits = False  # for an update, since a call ran nothing
        self.idle = True  # nothing changes before the next event from outside
        self.hopeless: BlockRequest | None = None
        self.rejected: list[BlockRequest] = []

    # What a pool of a disaggregated system does otherwise.

    def next_event_ps(self) -> int | None:
        """When something comes from outside; None if nothing is known to come."""
        return self.arrivals.next_ps()

    def receive(self) -> None:
        """Take in what has come from outside."""
        for job in self.arrivals.due(self.now):
            self.arrive(job)

    def pending(self) -> bool:
        """Whether something outside will free blocks or unblock a request."""
        return False

    def finish(self, request: BlockRequest) -> None:
        """Let a finished request go."""
        self.pool.release(request)

    # The loop.

    def next_ps(self) -> int | None:
        """When the engine's next turn is; None if it waits for something that nobody has sent."""
        if self.must_update():
            return max(self.now, self.in_flight[0].end_ps)
        if not self.idle:
            return self.now
        event = self.next_event_ps()
        return None if event is None else max(self.now, event)

    def must_update(self) -> bool:
        """Whether the next turn is an update."""
        return bool(self.in_flight) and (self.waits or len(self.in_flight) == self.depth)

    def turn(self) -> None:
        """Take the next turn: an update or a schedule call."""
        at = self.next_ps()
        if at is None:
            raise RuntimeError("the engine has nothing to do")
        self.now = at
        if self.must_update():
            self.update()
        else:
            self.receive()
            self.launch(self.schedule())

    def arrive(self, job: Job) -> None:
        """Put a job into the queue, or reject it."""
        request = BlockRequest(job)
        if request.prompt > self.settings.max_model_len - 1:
            self.reject(request, "long")
        else:
            self.waiting.append(request)

    def reject(self, request: BlockRequest, reason: str) -> None:
        """Drop a request that can never run."""
        self.log.reject(request, self.now, reason)
        self.rejected.append(request)

    def launch(self, call: Call) -> None:
        """Log a schedule call, and launch its step."""
        self.idle = self.waits = False
        if call.planned or self.waiting or self.in_flight:
            number = self.log.schedule(self.now, call, self.waiting, len(self.pool.queue))
            if call.planned:
                step = step_of(call.planned, pool=self.name)
                self.now += self.host_ps(step)
                self.device_ps = max(self.device_ps, self.now) + self.duration_ps(step)
                self.in_flight.append(InFlight(number, call.planned, self.device_ps))
                return
        if self.waiting and not self.running and not self.pending():
            self.hopeless = self.waiting[0]
        if self.in_flight:
            self.waits = True
        elif self.hopeless is not None:
            self.reject_hopeless()
        else:
            self.idle = True

    def reject_hopeless(self) -> None:
        """Reject the request that was found to be unable to run, unless it has finished."""
        if self.hopeless in self.waiting:
            self.waiting.remove(self.hopeless)
            self.pool.release(self.hopeless)
            self.reject(self.hopeless, "never")
        self.hopeless = None

    def schedule(self) -> Call:
        """Decide on a step: running requests first, then waiting ones if none was preempted."""
        call = Call([], [], [])
        budget = self.schedule_running(call)
        if not call.preempted:
            self.schedule_waiting(call, budget)
        return call

    def schedule_running(self, call: Call) -> int:
        """Schedule running requests in order; returns what is left of the budget."""
        budget = self.settings.max_num_batched_tokens
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            index += 1
            last_in_flight = (
                request.placeholders > 0
                and request.done + 2 - request.placeholders >= request.prompt + request.most
            )
            n = request.known + request.placeholders - request.done
            n = min(self.cut(n), budget, self.settings.max_model_len - 1 - request.done)
            if last_in_flight or n == 0:
                continue
            if not self.make_room(request, n, call.preempted):
                break
            self.plan(call, request, n)
            budget -= n
        return budget

    def cut(self, tokens: int) -> int:
        """Tokens of a request in one step, cut to the threshold of long prefills."""
        threshold = self.settings.long_prefill_token_threshold
        return threshold if 0 < threshold < tokens else tokens

    def make_room(self, request: BlockRequest, n: int, preempted: list[Request]) -> bool:
        """Allocate n tokens, preempting from the end; False if the request itself was preempted."""
        while not self.allocate(request, request.done + n, []):
            victim = self.running.pop()
            self.pool.release(victim)
            victim.done = 0
            self.waiting.insert(0, victim)
            preempted.append(victim)
            if victim is request:
                return False
        return True

    def allocate(
        self, request: BlockRequest, tokens: int, hits: Sequence[int], spare: int = 0
    ) -> bool:
        """Allocate the blocks of the first tokens, and register those that are full."""
        tokens = min(tokens, self.settings.max_model_len)
        if not self.pool.allocate(request, tokens, hits, spare):
            return False
        if not request.remote:
            self.pool.register(request, min(tokens, request.known))
        return True

    def plan(self, call: Call, request: BlockRequest, n: int) -> None:
        """Put n tokens of a request into the step."""
        before = request.done
        request.done += n
        emits = request.done == request.known + request.placeholders
        if emits and self.settings.asynchronous:
            request.placeholders += 1
        call.planned.append(Planned(request, n, before, emits))

    def schedule_waiting(self, call: Call, budget: int) -> None:
        """Admit waiting requests from the head, until one does not fit."""
        settings = self.settings
        aside: list[BlockRequest] = []
        while self.waiting and budget > 0 and len(self.running) < settings.max_num_seqs:
            request = self.waiting[0]
            if request.remote == "loading":
                aside.append(self.waiting.pop(0))
                continue
            hits = self.pool.hits(request) if request.done == 0 else []
            hit = len(hits) * settings.block_tokens if request.done == 0 else request.done
            n = self.cut(request.known - hit)
            loads = request.remote == "wanted"
            if not settings.chunked_prefill and not loads and n > budget:
                break
            n = min(n, budget)
            spare = int(settings.watermark * settings.blocks) if self.running else 0
            if not self.gate(request, hits, spare):
                break
            if not self.allocate(request, request.known if loads else hit + n, hits, spare):
                break
            self.waiting.pop(0)
            if hits:
                call.hits.append((request, hit))
            if loads:
                request.remote = "loading"
                request.done = hit
                aside.append(request)
                continue
            self.running.append(request)
            request.done = hit
            self.plan(call, request, n)
            budget -= n
        self.waiting[:0] = aside

    def gate(self, request: BlockRequest, hits: Sequence[int], spare: int) -> bool:
        """Whether the blocks of all known tokens are free, if that is asked for."""
        if not self.settings.reserve_full_isl:
            return True
        need = ceil_div(min(request.known, self.settings.max_model_len), self.pool.size)
        need = max(need - len(request.blocks) - len(hits), 0)
        return need + self.pool.evictable(hits) <= len(self.pool.queue) - spare

    def update(self) -> None:
        """Take in the results of the oldest step in flight."""
        number, planned, _ = self.in_flight.pop(0)
        self.idle = self.waits = False
        emitted: list[Request] = []
        finished: list[Request] = []
        for request, _, _, emits in planned:
            if not emits:
                continue
            assert isinstance(request, BlockRequest)
            request.emit()
            emitted.append(request)
            if self.settings.asynchronous:
                request.placeholders -= 1
                if request in self.running:
                    self.pool.register(request, request.done - request.placeholders)
            if request.ended(self.settings.max_model_len):
                (self.running if request in self.running else self.waiting).remove(request)
                self.finish(request)
                finished.append(request)
        self.log.update(number, self.now, emitted, finished, len(self.pool.queue))
        if not self.in_flight and self.hopeless is not None:
            self.reject_hopeless()


def run(
    jobs: Sequence[Job], settings: Settings, duration_ps: Time, host_ps: Time = nothing
) -> Engine:
    """Run an engine until nothing is left; returns it with its log and its pool."""
    engine = Engine(jobs, settings, duration_ps, host_ps)
    while engine.next_ps() is not None:
        engine.turn()
    return engine


def simulate(
    jobs: Sequence[Job], settings: Settings, duration_ps: Time, host_ps: Time = nothing
) -> str:
    """The event log of vLLM V1."""
    return run(jobs, settings, duration_ps, host_ps).log.text()
