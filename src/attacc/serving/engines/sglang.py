"""The scheduler of SGLang: prefill before decode, one slot of memory a token, a radix cache.

Source: SGLang 0.5.8, synchronous loop, pages of one token, first come first served. A step either
prefills or decodes. Prefill comes first: waiting requests are admitted while the slots that are
free, or that the cache can give up, hold them and a share of the outputs that running requests may
still ask for. This share falls with every decode step. If the slots run out all the same, running
requests with the fewest outputs lose theirs, wait again at the end of the queue, and the share
rises.

All requests that decode get one token in each decode step. So their numbers follow from the number
of decode steps: `lead` is the known tokens before the first one, and `until` is the last one. They
are visited when the batch changes, not in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

from attacc.serving.engines.policy import Call, Policy, Refusal, Request
from attacc.serving.engines.radix import Node, RadixTree, sequence
from attacc.serving.work import Chunk, Work

_CLIP = 4096
"""Outputs of one request that admission counts at most (0.5.8)."""
_AHEAD = 20
"""Decode steps for which a retraction makes room (0.5.8)."""
_START, _LEAST, _STEPS = 0.7, 0.14, 600
"""Share of outputs that admission counts: at the start, at least (as a part of the start), and the
decode steps from one to the other (0.5.8)."""

_LEAD, _UNTIL = attrgetter("lead"), attrgetter("until")


@dataclass(frozen=True, slots=True)
class SglangSettings:
    """What SGLang is started with; defaults are those of 0.5.8 on a GPU with 80 GB.

    Attributes:
        pool_tokens: slots of memory, a token each.
        chunked_prefill_size: most prompt tokens of a step; a longer prompt takes several steps.
        max_prefill_tokens: prompt tokens at which a step takes no further request.
        max_running_requests: most running requests. The engine takes half the slots if that is
            less, and up to 4096 where the context is short for the memory.
        conservativeness: factor of the share of outputs that admission counts at the start.
        insert_outputs: whether a finished request leaves its outputs in the cache. Versions 0.5.6
            to 0.5.8 do not, by mistake.
    """

    pool_tokens: int
    chunked_prefill_size: int = 8192
    max_prefill_tokens: int = 16384
    max_running_requests: int = 2048
    conservativeness: float = 1.0
    insert_outputs: bool = True


@dataclass(slots=True)
class _Budget:
    """What a prefill step may still take.

    Attributes:
        inputs: prompt tokens before no further request is taken.
        chunk: prompt tokens.
        promised: slots that are promised to running requests, and to those of the step.
    """

    inputs: int
    chunk: int
    promised: float

    def charge(self, tokens: int, outputs: int) -> None:
        """Count a request of the step.

        Args:
            tokens: that the step computes for it.
            outputs: slots for outputs.
        """
        self.inputs -= tokens
        self.chunk -= tokens
        self.promised += tokens + outputs


class Sglang(Policy):
    """The scheduler.

    Args:
        settings: what it is started with.
        tells: as in `Policy`.

    Attributes:
        ratio: share of the outputs still to come that admission counts.
    """

    name: ClassVar[str] = "sglang"

    def __init__(self, settings: SglangSettings, *, tells: bool = False) -> None:
        super().__init__(tells=tells)
        self._settings = settings
        self._tree, self._free = RadixTree(), settings.pool_tokens
        self._start = _START * settings.conservativeness
        self._least = _LEAST * self._start
        self._decay = (self._start - self._least) / _STEPS
        self.ratio = self._start
        self._full = False
        # What the last step prefilled, the request whose prompt it cut, and where requests' own
        # prefixes end in the tree.
        self._last: list[Request] = []
        self._chunked: Request | None = None
        self._nodes: dict[int, Node] = {}
        # The running batch, with those that have finished since it was last put in order.
        self._running: list[Request] = []
        self._fresh: list[Request] = []
        self._decodes = self._keys = self._lead = self._until = 0
        self._changed = False
        self._steps = self._last_ps = 0

    # What others ask.

    @property
    def runs(self) -> int:
        """Requests that have memory."""
        return len(self._nodes)

    @property
    def free(self) -> int:
        """Slots that neither a request nor the cache holds."""
        return self._free

    def arrive(self, request: Request) -> Refusal | None:
        """Put a request into the queue."""
        self._waiting.append(request)
        return None

    def drop(self, request: Request) -> bool:
        """Take a request out of the queue."""
        self._full = False
        return super().drop(request)

    # A step.

    def schedule(self) -> Call:
        """Decide on a step."""
        call, alone = Call(), not self._running
        self._stuck = None
        self._merge()
        if not self._prefill(call):
            self._decode(call)
        if call.work is None:
            self.ratio = self._start
            if alone and self._waiting:
                self._stuck = self._waiting[0]
        else:
            call.step = self._steps
            self._steps += 1
        return call

    def _merge(self) -> None:
        """Let what the last step prefilled decode from now on, but for a prompt that it cut."""
        last, chunked = self._last, self._chunked
        if not last:
            return
        self._last = []
        if chunked is not None:
            self._cache(chunked)
        ready = [one for one in last if one is not chunked and one.known < one.prompt + one.outputs]
        # The flag belongs to a batch: it clears when the batch shrinks, and goes with an empty one.
        if len(ready) < len(last) or not self._running:
            self._full = False
        for request in ready:
            request.lead = request.known - self._decodes
            request.until = self._decodes + request.prompt + request.outputs - request.known
            self._keys += request.known
        self._running += ready
        self._fresh += ready
        self._changed = True

    # Prefill.

    def _prefill(self, call: Call) -> bool:
        """Put a prefill step together; return False if there is none."""
        limit = self._settings.max_running_requests
        if self._chunked is None and (
            self._full or not self._waiting or len(self._running) >= limit
        ):
            return False
        budget = _Budget(
            self._settings.max_prefill_tokens, self._settings.chunked_prefill_size, self._promised()
        )
        chunks: list[Chunk] = []
        if self._chunked is not None:
            self._go_on(self._chunked, budget, chunks)
        while self._waiting:
            if len(self._running) + len(self._last) >= limit:
                self._full = True
                break
            if not self._admit(self._waiting[0], budget, chunks, call):
                break
        if not chunks:
            return False
        tokens = sum(chunk.new for chunk in chunks)
        self._make_room(tokens)
        self._free -= tokens
        call.work = Work(0, 0, 0, tuple(chunks))
        call.tokens = sum(chunk.emits for chunk in chunks)
        call.begins = [one for one in self._last if one is not self._chunked]
        if self.tells:
            pairs = list(zip(self._last, chunks, strict=True))
            call.rows = [(request, chunk.new) for request, chunk in pairs]
            call.emits = [request for request, chunk in pairs if chunk.emits]
        return True

    def _promised(self) -> float:
        """Return the slots that running requests may still ask for, as far as they count."""
        promised, decodes, ratio = 0.0, self._decodes, self.ratio
        # The engine adds numbers in this order; another order could round otherwise.
        for request in self._running:
            left = request.until - decodes
            promised += (left if left < _CLIP else _CLIP) * ratio
        return promised

    def _room(self, budget: _Budget) -> float:
        """Return the slots that are free, or can be, and not promised."""
        return self._free + self._tree.evictable - budget.promised

    def _go_on(self, request: Request, budget: _Budget, chunks: list[Chunk]) -> None:
        """Compute the next tokens of a prompt that the step before has cut."""
        most = min(budget.chunk, int(self._room(budget)))
        self._compute(request, most if most > 0 else budget.chunk, 0, budget, chunks)

    def _admit(self, request: Request, budget: _Budget, chunks: list[Chunk], call: Call) -> bool:
        """Admit the head of the queue, if it fits; return whether to try the next one."""
        # The last token is always computed, as its result is needed.
        hit, node = self._tree.match(sequence(request, request.known - 1))
        left = request.prompt + request.outputs - request.known
        tokens = request.known - hit
        total = tokens + min(left, _CLIP)
        if total >= self._room(budget):
            self._full = True
            return False
        if tokens >= budget.inputs and chunks:
            return False
        # What the request holds from now on cannot be given up for it.
        self._tree.lock(node)
        short = total >= self._room(budget)
        if short or budget.chunk <= 0:
            self._tree.unlock(node)
            self._full = self._full or short
            return False
        self._waiting.popleft()
        self._nodes[request.index] = node
        request.registered = request.done = hit
        request.order = self._steps
        if hit:
            call.hits.append((request, hit))
        request.cached = hit
        if not request.preemptions:
            request.hits = hit
        self._compute(request, budget.chunk, hit, budget, chunks)
        if self._room(budget) <= 0:
            self._full = True
            return False
        return budget.inputs > 0 and budget.chunk > 0

    def _compute(
        self, request: Request, most: int, hit: int, budget: _Budget, chunks: list[Chunk]
    ) -> None:
        """Put tokens of a request into the step: all that are left, or as many as may be."""
        new = min(request.known - request.done, most)
        emits = request.done + new == request.known
        chunks.append(Chunk(new, request.done, hit, emits))
        request.done += new
        self._chunked = None if emits else request
        self._last.append(request)
        budget.charge(new, min(request.outputs, _CLIP) if emits else 0)

    # Decode.

    def _decode(self, call: Call) -> None:
        """Put a decode step together, if requests run."""
        if self._until <= self._decodes:
            left = [one for one in self._running if one.until > self._decodes]
            if len(left) < len(self._running):
                self._running, self._full, self._changed = left, False, True
        if not self._running:
            return
        if self._make_room(len(self._running)):
            self.ratio = max(self.ratio - self._decay, self._least)
        else:
            self._retract(call)
            if not self._running:
                return
        if self._changed:
            self._lead = max(map(_LEAD, self._running))
            self._until = min(map(_UNTIL, self._running))
            self._changed = False
        decoding = len(self._running)
        self._free -= decoding
        call.work = Work(decoding, self._keys, self._lead + self._decodes)
        call.tokens = decoding
        if self.tells:
            call.rows = [(request, 1) for request in self._running]
            call.emits = list(self._running)

    def _make_room(self, tokens: int) -> bool:
        """Give up cached tokens if slots are short; return whether enough are free."""
        if self._free < tokens:
            # The engine asks for all of them, not for those that are missing.
            self._free += self._tree.evict(tokens)
        return self._free >= tokens

    def _retract(self, call: Call) -> None:
        """Take slots from requests with the fewest outputs until the others have enough."""
        decodes = self._decodes
        kept = sorted(
            self._running, key=lambda one: (one.lead - one.prompt, -one.prompt), reverse=True
        )
        fresh = {request.index for request in self._fresh}
        fits = False
        while not fits and len(kept) > 1:
            victim = kept.pop()
            self._lose(victim, is_fresh=victim.index in fresh)
            victim.preemptions += 1
            self._waiting.append(victim)
            call.preempted.append(victim)
            self._make_room(_AHEAD * len(kept))
            fits = self._make_room(len(kept))
        if not fits and not self._make_room(len(kept)):
            self._lose(kept[0], is_fresh=kept[0].index in fresh)
            call.rejected.append((kept.pop(), Refusal.NEVER))
        self._running, self._full, self._changed = kept, False, True
        self._fresh = [request for request in self._fresh if request.index in self._nodes]
        self._keys = sum(request.lead + decodes for request in kept)
        outputs = sum(request.lead + decodes - request.prompt for request in kept)
        most = sum(request.outputs for request in kept)
        self.ratio = min(1.0, (outputs + _AHEAD * len(kept)) / (most + 1))

    def _lose(self, request: Request, *, is_fresh: bool) -> None:
        """Free the slots of a running request; nothing of them enters the cache."""
        request.known = request.lead + self._decodes
        if not is_fresh:
            request.last_ps = self._last_ps
        self._free += request.known - 1 - request.registered
        self._tree.unlock(self._nodes.pop(request.index))
        request.done = request.registered = 0

    # Results.

    def update(self, call: Call, now_ps: int) -> list[Request]:
        """Take in the results of a step."""
        is_prefill = call.work is not None and bool(call.work.chunks)
        return self._prefilled(now_ps) if is_prefill else self._decoded(now_ps)

    def _prefilled(self, now_ps: int) -> list[Request]:
        """Take in the results of a prefill step."""
        ended: list[Request] = []
        for request in self._last:
            if request is self._chunked:
                continue
            request.known += 1
            self.ledger.alone(request, now_ps)
            if request.known == request.prompt + request.outputs:
                self._finish(request, now_ps)
                ended.append(request)
            else:
                self._cache(request)
        return ended

    def _decoded(self, now_ps: int) -> list[Request]:
        """Take in the results of a decode step."""
        for request in self._fresh:
            self.ledger.alone(request, now_ps)
        running = len(self._running)
        self.ledger.together(now_ps - self._last_ps, running - len(self._fresh))
        self._fresh.clear()
        self._last_ps = now_ps
        self._decodes += 1
        self._keys += running
        if self._decodes < self._until:
            return []
        ended = [request for request in self._running if request.until == self._decodes]
        for request in ended:
            request.known = request.prompt + request.outputs
            self._keys -= request.known
            self._finish(request, now_ps)
        return ended

    def _cache(self, request: Request) -> None:
        """Enter the computed tokens of a request into the tree, and lock them there."""
        found, node = self._tree.insert(sequence(request, request.done))
        # What another request has entered meanwhile was computed twice.
        self._free += found - request.registered
        self._tree.lock(node)
        self._tree.unlock(self._nodes[request.index])
        self._nodes[request.index] = node
        request.registered = request.done

    def _finish(self, request: Request, now_ps: int) -> None:
        """Leave a finished request's tokens in the tree, and free its other slots.

        The last output has no slot.
        """
        held = request.known - 1
        entered = held if self._settings.insert_outputs else request.done
        found, _ = self._tree.insert(sequence(request, entered))
        self._free += held - request.registered - (entered - found)
        self._tree.unlock(self._nodes.pop(request.index))
        request.done = held
        self.ledger.finish(request, now_ps)
