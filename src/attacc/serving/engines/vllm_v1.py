"""The scheduler of vLLM V1: one queue, blocks of memory, prefill and decode in the same steps.

Source: vLLM 0.14.1 to 0.16.0, with the admission gates of 0.19 and 0.24 as options. There are no
phases: every request has tokens whose keys and values are to be computed, one in steady decode.
Running requests come first, in the order of their admission; if memory runs out, the youngest loses
its blocks and is computed again later. Then waiting requests are admitted while tokens, places and
blocks last, unless the step took blocks from a request.

Asynchronous scheduling decides on a step while the step before runs: so it knows the results of the
step before that one. A request whose last token is in flight is left out.

Nearly all steps only decode. Requests in steady decode therefore are not visited one by one: each
computes one token in every step, so that its numbers follow from the number of the step. A step
visits the requests that need a block, that begin or that end. Where memory or tokens run short, all
running requests are visited in order (`_in_order`). As long as no request begins, ends or arrives,
and none can be admitted, calls are alike but for blocks (`_alike`).
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from operator import attrgetter
from typing import ClassVar, Final

from attacc.serving.engines.blocks import BlockPool
from attacc.serving.engines.policy import Call, Policy, Refusal, Remote, Request
from attacc.serving.engines.sums import Sums
from attacc.serving.work import Work

_ORDER: Final = attrgetter("order")


@dataclass(frozen=True, slots=True)
class VllmV1Settings:
    """What vLLM V1 is started with; defaults are those of its server on large GPUs.

    Attributes:
        blocks: blocks of memory. One of them is a placeholder that no request gets.
        block_tokens: tokens of a block.
        max_model_len: most tokens of a request.
        max_num_batched_tokens: most tokens of a step.
        max_num_seqs: most running requests.
        prefix_caching: whether requests find what others have computed.
        chunked_prefill: whether a prompt may take several steps.
        long_prefill_token_threshold: most tokens of one request in a step; 0 for no limit.
        asynchronous: whether a step is scheduled while the one before runs.
        reserve_full_isl: whether a request is admitted only where blocks for all its known tokens
            are free (on from 0.19).
        watermark: share of the blocks that stays free when requests are admitted beside others
            (from 0.24).
    """

    blocks: int
    block_tokens: int = 16
    max_model_len: int = 2**31
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 1024
    prefix_caching: bool = True
    chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    asynchronous: bool = True
    reserve_full_isl: bool = False
    watermark: float = 0.0


class VllmV1(Policy):
    """The scheduler.

    Args:
        settings: what it is started with.
        tells: as in `Policy`.
    """

    name: ClassVar[str] = "vllm-v1"

    def __init__(self, settings: VllmV1Settings, *, tells: bool = False) -> None:
        super().__init__(depth=2 if settings.asynchronous else 1, tells=tells)
        self._settings = settings
        self._pool = BlockPool(
            settings.blocks, settings.block_tokens, caching=settings.prefix_caching
        )
        self._running: dict[int, Request] = {}
        self._admissions = 0
        self._spare = int(settings.watermark * settings.blocks)
        # Steps that were scheduled, and of these, steps whose results are known.
        self._steps = self._updates = 0
        self._last_ps = 0
        # Requests in steady decode, by the phase in which they need a block; what they attend to.
        self._steady: list[dict[int, Request]] = [{} for _ in range(settings.block_tokens)]
        self._decoding = self._keys = 0
        self._leads: list[tuple[int, int, Request]] = []
        self._partial: dict[int, Request] = {}
        # Calls to come that are like the last one, if nothing arrives; keys of the longest request.
        self._quiet = self._most_keys = 0
        # By step: requests that end with it, that begin with it, and that left steady decode.
        self._ends: dict[int, list[Request]] = {}
        self._begins: dict[int, list[Request]] = {}
        self._late: dict[int, list[Request]] = {}

    # What others ask.

    @property
    def runs(self) -> int:
        """Requests that have memory."""
        return len(self._running)

    @property
    def free(self) -> int:
        """Blocks that are free."""
        return self._pool.free

    @property
    def queue(self) -> list[int]:
        """Free blocks, the next one to be taken first."""
        return self._pool.queue

    def arrive(self, request: Request) -> Refusal | None:
        """Put a request into the queue."""
        if request.prompt > self._settings.max_model_len - 1:
            return Refusal.LONG
        if not self._waiting:
            self._quiet = 0
        self._waiting.append(request)
        return None

    # A step.

    def schedule(self) -> Call:
        """Decide on a step."""
        if self._quiet:
            return self._repeat()
        call = self._decide()
        # Whoever waits now cannot be admitted before something ends.
        stalled = not self._waiting or not (call.preempted or call.begins)
        if call.work is not None and not self._partial and stalled:
            self._quiet, self._most_keys = self._alike(), call.work.longest
        return call

    def _repeat(self) -> Call:
        """Decide on a step like the last one."""
        call, decoding = Call(), self._decoding
        self._quiet -= 1
        self._most_keys += 1
        self._keys += decoding
        for request in self._needing():
            self._pool.take(request, 1)
        call.work = Work(decoding, self._keys, self._most_keys)
        call.tokens, call.step = decoding, self._steps
        if self.tells:
            self._list(call)
        self._steps += 1
        return call

    def _alike(self) -> int:
        """Return how many calls to come are alike but for blocks, if nothing arrives."""
        step, pool = self._steps, self._pool
        if self._begins or self._late or not self._decoding:
            return 0
        if self._settings.long_prefill_token_threshold:
            return 0
        if self._decoding >= self._settings.max_num_batched_tokens:
            return 0
        if any(known in self._ends for known in range(self._updates, step)):
            return 0
        free = pool.free
        for ahead in range(step, step + pool.size):
            free -= len(self._steady[ahead % pool.size])
            if free < 0 or ahead in self._ends:
                return ahead - step
        return pool.size

    def _decide(self) -> Call:
        """Decide on any step."""
        call, sums, budget = Call(), Sums(), self._settings.max_num_batched_tokens
        call.leaves += self._leave()
        if self._has_room(budget):
            self._decode(call, sums)
            budget -= sums.decoding
            for request in list(self._partial.values()):
                tokens = max(0, self._wanted(request, budget))
                self._compute(request, tokens, call, sums)
                budget -= tokens
        else:
            budget = self._in_order(budget, call, sums)
        if self._waiting and not call.preempted:
            self._admit(budget, call, sums)
        call.work, call.tokens = sums.work(), sums.tokens
        call.begins, call.loads = sums.begins, sums.loads
        if call.work is not None:
            call.step = self._steps
            self._steps += 1
        elif self._waiting and not self._running and not self.awaits:
            self._stuck = self._waiting[0]
        return call

    def _decode(self, call: Call, sums: Sums) -> None:
        """Compute a token of every request in steady decode."""
        sums.decoding = sums.tokens = self._decoding
        sums.keys, sums.longest = self._keys + self._decoding, self._longest()
        for request in self._needing():
            self._pool.take(request, 1)
        self._keys += self._decoding
        if self.tells:
            self._list(call)

    def _list(self, call: Call) -> None:
        """List the requests in steady decode."""
        for request in self._running.values():
            if request.index in self._steady[-request.lead % self._pool.size]:
                call.rows.append((request, 1))
                call.emits.append(request)

    def _leave(self) -> list[Request]:
        """Take requests whose last token was scheduled out of steady decode, and return them."""
        found = self._ends.get(self._steps - 1, [])
        for request in found:
            self._part(request)
        return found

    def _part(self, request: Request) -> None:
        """Take a request out of the sums of steady decode."""
        if self._steady[-request.lead % self._pool.size].pop(request.index, None) is not None:
            self._decoding -= 1
            self._keys -= request.lead + self._steps

    def _has_room(self, budget: int) -> bool:
        """Return whether every running request gets all that it wants, in any order."""
        if self._decoding >= budget and self._running:
            return False
        if len(self._partial) > 1 or self._settings.long_prefill_token_threshold:
            return False
        need = len(self._steady[self._steps % self._pool.size])
        for request in self._partial.values():
            if next(reversed(self._running)) != request.index:
                return False
            wanted = self._wanted(request, budget - self._decoding)
            need += self._pool.need(request, self._tokens(request.done + wanted))
        return need <= self._pool.free

    def _needing(self) -> list[Request]:
        """Return requests of steady decode that need a block, in order."""
        found = list(self._steady[self._steps % self._pool.size].values())
        if len(found) > 1:
            found.sort(key=_ORDER)
        return found

    def _longest(self) -> int:
        """Return the keys of the longest request in steady decode."""
        leads = self._leads
        while leads:
            lead, order, request = leads[0]
            own = self._steady[lead % self._pool.size]
            if request.order == order and request.lead == -lead and request.index in own:
                return self._steps - lead + 1
            heappop(leads)
        return 0

    def _tokens(self, tokens: int) -> int:
        return min(tokens, self._settings.max_model_len)

    def _end(self, request: Request) -> int:
        """Return the known tokens with which a request ends."""
        return self._tokens(request.prompt + request.outputs)

    def _cut(self, tokens: int) -> int:
        threshold = self._settings.long_prefill_token_threshold
        return threshold if 0 < threshold < tokens else tokens

    def _wanted(self, request: Request, budget: int) -> int:
        """Return the tokens of a running request that a step computes."""
        missing = self._cut(request.known + request.pending - request.done)
        return min(missing, budget, self._settings.max_model_len - 1 - request.done)

    def _compute(self, request: Request, tokens: int, call: Call, sums: Sums) -> None:
        """Compute tokens of a running request for which there are blocks."""
        if tokens:
            pool, end = self._pool, request.done + tokens
            pool.take(request, pool.need(request, self._tokens(end)))
            pool.register(request, min(end, request.known))
            self._count(request, tokens, 0, call, sums)

    def _count(self, request: Request, tokens: int, cached: int, call: Call, sums: Sums) -> None:
        """Put tokens of a request into the step."""
        emits = request.done + tokens == request.known + request.pending
        sums.add(request, tokens, cached, emits=emits)
        request.done += tokens
        if emits:
            self._partial.pop(request.index, None)
            self._join(request)
        else:
            self._partial[request.index] = request
        if self.tells:
            call.rows.append((request, tokens))
            if emits:
                call.emits.append(request)

    def _join(self, request: Request) -> None:
        """Put a request into steady decode: this step and the next ones give it a token each."""
        step = self._steps
        request.joined, request.lead = step, request.done - step - 1
        left = self._end(request) - request.known - request.pending
        request.until = step + left - 1
        self._ends.setdefault(request.until, []).append(request)
        if request.last_step != step - 1 or request.first_ps < 0:
            self._begins.setdefault(step, []).append(request)
        if left > 1:
            self._steady[-request.lead % self._pool.size][request.index] = request
            self._decoding += 1
            self._keys += request.done
            heappush(self._leads, (-request.lead, request.order, request))

    # Steps in which memory or tokens are short.

    def _in_order(self, budget: int, call: Call, sums: Sums) -> int:
        """Visit all running requests in order, and take blocks from the youngest where needed.

        Returns:
            The tokens that are left of the budget.
        """
        self._settle()
        for request in list(self._running.values()):
            if budget <= 0 or request.index not in self._running:
                break
            tokens = self._wanted(request, budget)
            if tokens <= 0 or self._is_leaving(request):
                continue
            if not self._make_room(request, tokens, call.preempted):
                break
            self._compute(request, tokens, call, sums)
            budget -= tokens
        return budget

    def _is_leaving(self, request: Request) -> bool:
        """Return whether the last token of a request is in flight."""
        return request.known + request.pending >= self._end(request)

    def _make_room(self, request: Request, tokens: int, preempted: list[Request]) -> bool:
        """Free blocks for a request; return False if it lost its own ones."""
        pool = self._pool
        while pool.need(request, self._tokens(request.done + tokens)) > pool.free:
            _, victim = self._running.popitem()
            self._partial.pop(victim.index, None)
            pool.release(victim, preempted=True)
            victim.done, victim.remote = 0, Remote.NONE
            victim.preemptions += 1
            self._waiting.appendleft(victim)
            preempted.append(victim)
            if victim is request:
                return False
        return True

    def _settle(self) -> None:
        """Give every request in steady decode numbers of its own again."""
        steps, updates = self._steps, self._updates
        for request in self._running.values():
            if request.joined < 0:
                continue
            last = min(steps - 1, request.until)
            self._part(request)
            request.done = request.lead + last + 1
            request.known += max(0, min(updates, last + 1) - request.joined)
            first = max(updates, request.joined)
            request.pending += max(0, last + 1 - first)
            if updates > request.joined:
                request.last_ps = self._last_ps
            self._ends[request.until].remove(request)
            for step in range(first, last + 1):
                self._late.setdefault(step, []).append(request)
            request.last_step, request.joined = last, -1
            # Blocks were registered when they were full, which nobody saw until now.
            self._pool.register(request, request.done - request.pending)

    # Admission.

    def _admit(self, budget: int, call: Call, sums: Sums) -> None:
        """Admit waiting requests from the front, until one does not fit."""
        settings, pool = self._settings, self._pool
        aside: list[Request] = []
        while self._waiting and budget > 0 and len(self._running) < settings.max_num_seqs:
            request = self._waiting[0]
            if request.remote is Remote.LOADING:
                aside.append(self._waiting.popleft())
                continue
            hits = [] if request.done else pool.hits(request)
            hit = request.done or len(hits) * pool.size
            loads = request.remote is Remote.WANTED
            tokens = self._cut(request.known - hit)
            if not settings.chunked_prefill and tokens > budget and not loads:
                break
            tokens = min(tokens, budget)
            new = self._admitted(request, hits, request.known if loads else hit + tokens)
            if new is None:
                break
            self._waiting.popleft()
            pool.touch(request, hits)
            pool.take(request, new)
            if hits:
                call.hits.append((request, hit))
            if request.remote is not Remote.LOADED:
                request.cached = hit
            if loads:
                request.remote, request.done = Remote.LOADING, hit
                self._load(request)
                aside.append(request)
                continue
            pool.register(request, min(hit + tokens, request.known))
            if not request.preemptions and request.remote is Remote.NONE:
                request.hits = hit
            request.order = self._admissions
            self._admissions += 1
            self._running[request.index] = request
            request.done = hit
            self._count(request, tokens, hit, call, sums)
            budget -= tokens
        self._waiting.extendleft(reversed(aside))

    def _admitted(self, request: Request, hits: list[int], tokens: int) -> int | None:
        """Return the blocks that a request takes to be admitted; None if it is not.

        Args:
            request: the request.
            hits: cached blocks that it begins with.
            tokens: its first tokens that get blocks.
        """
        pool = self._pool
        spare = self._spare if self._running else 0
        free = pool.free - spare - pool.evictable(hits)
        if self._settings.reserve_full_isl:
            whole = pool.need(request, self._tokens(request.known), len(hits))
            if whole > free:
                return None
        new = pool.need(request, self._tokens(tokens), len(hits))
        return None if new > free else new

    # What pools do that hand keys and values on (`attacc.serving.engines.disaggregated`).

    def _load(self, request: Request) -> None:
        """Begin to load keys and values of a prompt, for which there are blocks now."""

    def _let_go(self, request: Request) -> None:
        """Take the blocks from a request that has ended."""
        self._pool.release(request)

    # Results.

    def update(self, call: Call, now_ps: int) -> list[Request]:
        """Take in the results of a step."""
        step = call.step
        if step not in self._ends and step not in self._begins and step not in self._late:
            self.ledger.together(now_ps - self._last_ps, call.tokens)
            self._updates, self._last_ps = step + 1, now_ps
            return []
        ended = [request for request in self._ends.pop(step, ()) if request.until == step]
        begins, late = self._begins.pop(step, []), self._late.pop(step, [])
        alone = [request for request in begins if request.joined == step]
        for request in alone:
            self.ledger.alone(request, now_ps)
        for request in late:
            self.ledger.alone(request, now_ps)
            request.known += 1
            request.pending -= 1
            if not request.pending and self._is_leaving(request):
                ended.append(request)
        self.ledger.together(now_ps - self._last_ps, call.tokens - len(alone) - len(late))
        self._updates, self._last_ps = step + 1, now_ps
        ended.sort(key=_ORDER)
        for request in ended:
            self._part(request)
            if self._running.pop(request.index, None) is None:
                self._waiting.remove(request)
            self._partial.pop(request.index, None)
            self._let_go(request)
            request.known = self._end(request)
            request.joined = -1
            self.ledger.finish(request, now_ps)
        return ended
