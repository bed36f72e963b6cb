"""The scheduler of SGLang (0.5.8, synchronous loop, page size 1, fcfs, radix cache).

Source: the executed semantics on the project's page of serving engines, sections 1.4 and 10.
The overlapped loop, mixed chunks, larger pages and the order by longest prefix are not modelled.

An iteration of the engine's loop is a schedule call and the update of its step. `free` in the log
counts slots that nothing holds; slots that the radix tree could evict are not among them.

Decisions:

1. `batch_is_full` also clears when a request leaves the last prefill batch before that batch is
   merged: a request that its prefill finished, or the chunked request. The page tells of shrinking
   running batches alone. Without this rule a batch of one-output requests leaves the flag set on an
   empty running batch, which would then admit nothing for ever.
2. Finished requests stay in the running batch until the next decode prepares. Until then they count
   for `max_running_requests`.
3. The loop over the queue stops, with the flag set, when running and new requests reach
   `max_running_requests`.
4. Every iteration that runs nothing resets `new_token_ratio` to its start.
5. An eviction asks for all slots needed, not for the shortfall, if fewer are free
   (`evict_from_tree_cache` of 0.5.8).
6. A match that ends within a node stamps the node and then splits it, so that both parts carry the
   stamp. Each match and each insertion is one tick of the clock. Equal stamps: the older node goes
   first. A refused request of the queue has stamped and split all the same.
7. After an insertion the whole sequence is matched once more, as the engine does, which stamps it.
8. `rem_total` and `cur_rem` follow the locks while a batch is formed. Sums of the reserved outputs
   are floating-point numbers, added in the order of the running batch; a chunk takes the integer
   part of `rem_total`.
9. A request that is taken whole charges min(max_new, 4096), outputs so far included, as the page
   says. The check against `rem_total` uses min(max_new - outputs, 4096).
10. A call that runs nothing rejects the head as never if the running batch was empty when the call
    began. The rejection clears the flag. Where only finished requests were left in the running
    batch, the call is followed by another.
11. A lone request that gets no slot for its next token is rejected as never (the engine crashes
    there up to 0.5.8, and aborts the request in 0.5.23). Its line stands before the call's line.
12. With `insert_outputs=False` a finished request inserts the tokens of its last prefill.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle.serving.common import (
    Call,
    Job,
    Planned,
    Policy,
    Request,
    Time,
    Token,
    drive,
    nothing,
)

CLIP = 4096
"""Most outputs that an admission reserves for a request."""
RETRACT_STEPS = 20
"""Decode steps that a retraction makes room for."""
DECAY_STEPS = 600
"""Decode steps in which the ratio falls to its least value."""


@dataclass(frozen=True)
class Settings:
    """What SGLang is started with; the defaults are those of a GPU with 80 GB."""

    pool_tokens: int
    chunked_prefill_size: int = 8192
    max_prefill_tokens: int = 16384
    max_running_requests: int = 2048
    conservativeness: float = 1.0
    insert_outputs: bool = True
    """Whether a finished request enters the tree with its outputs (not so in 0.5.6 to 0.5.8)."""


class Node:
    """A node of the radix tree, with the tokens between its parent and itself."""

    def __init__(self, key: list[Token], parent: "Node | None", born: int) -> None:
        self.key = key
        self.parent = parent
        self.children: dict[Token, Node] = {}
        self.locks = 0
        self.stamp = born
        self.born = born


class Tree:
    """The radix tree: a prefix cache by token."""

    def __init__(self) -> None:
        self.ticks = 0
        self.births = 0
        self.root = self.node([], None)

    def node(self, key: list[Token], parent: Node | None) -> Node:
        """A new node, stamped now."""
        self.births += 1
        node = Node(key, parent, self.births)
        node.stamp = self.ticks
        if parent is not None:
            parent.children[key[0]] = node
        return node

    def match(self, names: Sequence[Token]) -> tuple[Node, int]:
        """Walk down as far as the names agree; returns the last node, and how many agree."""
        self.ticks += 1
        node, at = self.root, 0
        node.stamp = self.ticks
        while at < len(names) and names[at] in node.children:
            child = node.children[names[at]]
            child.stamp = self.ticks
            same = 0
            while (
                same < len(child.key)
                and at + same < len(names)
                and child.key[same] == names[at + same]
            ):
                same += 1
            at += same
            if same < len(child.key):
                return self.split(child, same), at
            node = child
        return node, at

    def split(self, child: Node, at: int) -> Node:
        """Cut a node in two; returns the upper part."""
        assert child.parent is not None
        upper = self.node(child.key[:at], child.parent)
        upper.locks = child.locks
        child.key = child.key[at:]
        child.parent = upper
        upper.children[child.key[0]] = child
        return upper

    def insert(self, names: Sequence[Token]) -> int:
        """Enter a sequence; returns how many of its tokens the tree had before."""
        node, at = self.match(names)
        if at < len(names):
            self.node(list(names[at:]), node)
        return at

    def lock(self, node: Node | None, by: int) -> None:
        """Lock (1) or unlock (-1) a node and all above it."""
        while node is not None:
            node.locks += by
            node = node.parent

    def nodes(self) -> list[Node]:
        """All nodes but the root."""
        found = list(self.root.children.values())
        for node in found:
            found += node.children.values()
        return found

    def evictable(self) -> int:
        """Tokens in nodes that nothing locks."""
        return sum(len(node.key) for node in self.nodes() if node.locks == 0)

    def evict(self, tokens: int) -> int:
        """Drop unlocked leaves, least recently stamped first; returns the tokens dropped."""
        dropped = 0
        while dropped < tokens:
            leaves = [n for n in self.nodes() if n.locks == 0 and not n.children]
            if not leaves:
                break
            leaf = min(leaves, key=lambda node: (node.stamp, node.born))
            assert leaf.parent is not None
            del leaf.parent.children[leaf.key[0]]
            dropped += len(leaf.key)
        return dropped


class TreeRequest(Request):
    """A request with its place in the tree.

    Attributes:
        node: the node that it locks.
        prefix: tokens of it that the tree holds.
        filled: tokens that its last prefill covered.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.node: Node | None = None
        self.prefix = 0
        self.filled = 0


class Budget:
    """What a prefill batch may still take."""

    def __init__(self, scheduler: "Scheduler") -> None:
        self.scheduler = scheduler
        self.input = scheduler.settings.max_prefill_tokens
        self.chunk = scheduler.settings.chunked_prefill_size
        self.reserved = 0.0
        for request in scheduler.running:
            self.reserved += min(request.most - request.outputs, CLIP) * scheduler.ratio
        self.taken = 0

    def total(self) -> float:
        """Tokens left after all that is reserved for outputs."""
        return self.scheduler.free() + self.scheduler.tree.evictable() - self.reserved

    def current(self) -> int:
        """Tokens left for this batch."""
        return self.scheduler.free() + self.scheduler.tree.evictable() - self.taken

    def charge(self, tokens: int, outputs: int) -> None:
        """Take tokens now, and reserve outputs."""
        self.reserved += tokens + outputs
        self.taken += tokens
        self.input -= tokens
        self.chunk -= tokens


class Scheduler(Policy):
    """The state of the scheduler."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.tree = Tree()
        self.slots = settings.pool_tokens
        self.queue: list[TreeRequest] = []
        self.running: list[TreeRequest] = []
        self.last_prefill: list[TreeRequest] = []
        self.chunked: TreeRequest | None = None
        self.full = False
        self.start = 0.7 * settings.conservativeness
        self.least = 0.14 * self.start
        self.ratio = self.start

    def free(self) -> int:
        return self.slots

    def arrive(self, job: Job) -> None:
        self.queue.append(TreeRequest(job))
        self.waiting = list[Request](self.queue)

    def reject_head(self) -> None:
        super().reject_head()
        self.queue.pop(0)
        self.full = False

    def schedule(self) -> Call:
        self.merge()
        call = Call([], [], [], stuck=not self.running)
        if self.prefill(call):
            self.last_prefill = [r for p in call.planned if isinstance(r := p.request, TreeRequest)]
            call = call._replace(kind="P")
        else:
            self.decode(call)
            call = call._replace(kind="D")
        if not call.planned:
            self.ratio = self.start
        self.waiting = list[Request](self.queue)
        return call

    def merge(self) -> None:
        """Move what the last prefill step has finished into the running batch."""
        if self.chunked is not None:
            self.insert(self.chunked)
        stay = [r for r in self.last_prefill if not r.ended() and r is not self.chunked]
        if len(stay) < len(self.last_prefill):
            self.full = False
        if stay and not self.running:
            self.full = False  # the flag is the old running batch's
        self.running += stay
        self.last_prefill = []

    # Prefill.

    def prefill(self, call: Call) -> bool:
        """Try to form a prefill batch; returns whether there is one."""
        most = self.settings.max_running_requests
        if self.chunked is None and (self.full or not self.queue):
            return False
        if len(self.running) >= most:
            return False
        budget = Budget(self)
        if self.chunked is not None:
            self.next_chunk(self.chunked, call, budget)
        while self.queue:
            if len(self.running) + len(call.planned) >= most:
                self.full = True
                break
            if not self.admit(self.queue[0], call, budget):
                break
            if budget.total() <= 0 or budget.current() <= 0:
                self.full = True
                break
            if budget.input <= 0 or budget.chunk <= 0:
                break
        self.take_slots(sum(p.new for p in call.planned))
        return bool(call.planned)

    def next_chunk(self, request: TreeRequest, call: Call, budget: Budget) -> None:
        """Take the next chunk of the request that the last batch cut."""
        left = request.known - request.done
        limit = min(budget.chunk, int(budget.total()))
        n = min(left, limit if limit > 0 else budget.chunk)
        budget.charge(n, min(request.most, CLIP) if n == left else 0)
        self.chunked = None if n == left else request
        self.plan(call, request, n)

    def admit(self, request: TreeRequest, call: Call, budget: Budget) -> bool:
        """Take the head of the queue, whole or cut; returns whether it was taken."""
        node, hit = self.tree.match(request.names[: request.known - 1])
        extend = request.known - hit
        total = extend + min(request.most - request.outputs, CLIP)
        if total >= budget.total():
            self.full = True
            return False
        if extend >= budget.input and call.planned:
            return False
        self.tree.lock(node, 1)
        n = min(extend, budget.chunk)
        if total >= budget.total():
            self.full = True
        elif n > 0:
            request.node, request.prefix, request.done = node, hit, hit
            budget.charge(n, min(request.most, CLIP) if n == extend else 0)
            if n < extend:
                self.chunked = request
            if hit:
                call.hits.append((request, hit))
            self.queue.pop(0)
            self.plan(call, request, n)
            return True
        self.tree.lock(node, -1)
        return False

    def plan(self, call: Call, request: TreeRequest, n: int) -> None:
        """Put n tokens of a request into the step."""
        before = request.done
        request.done += n
        request.filled = request.done
        call.planned.append(Planned(request, n, before, request.done == request.known))

    def make_free(self, tokens: int) -> bool:
        """Evict until that many slots are free; returns whether they are."""
        if self.slots < tokens:
            self.slots += self.tree.evict(tokens)
        return self.slots >= tokens

    def take_slots(self, tokens: int) -> None:
        """Take slots. Admission has checked that there are enough."""
        if not self.make_free(tokens):
            raise RuntimeError(f"{tokens} slots are needed, {self.slots} are free")
        self.slots -= tokens

    # Decode.

    def decode(self, call: Call) -> None:
        """Prepare a decode step of all running requests."""
        before = len(self.running)
        self.running = [request for request in self.running if not request.ended()]
        if self.running and not self.make_free(len(self.running)):
            self.retract(call)
        elif self.running:
            decay = (self.start - self.least) / DECAY_STEPS
            self.ratio = max(self.ratio - decay, self.least)
        if len(self.running) < before:
            self.full = False
        self.take_slots(len(self.running))
        for request in self.running:
            call.planned.append(Planned(request, 1, request.done, True))
            request.done += 1

    def retract(self, call: Call) -> None:
        """Take requests out of the running batch until the others have room for a token."""
        self.running.sort(key=lambda r: (r.outputs, -r.prompt), reverse=True)
        while True:
            if len(self.running) == 1:
                self.log.reject(self.running[0], self.now, "never")
                self.give_up(self.running.pop())
                return
            victim = self.running.pop()
            self.give_up(victim)
            self.make_free(RETRACT_STEPS * len(self.running))
            self.queue.append(victim)
            call.preempted.append(victim)
            if self.make_free(len(self.running)):
                break
        outputs = sum(r.outputs for r in self.running) + RETRACT_STEPS * len(self.running)
        self.ratio = min(1.0, outputs / (sum(r.most for r in self.running) + 1))

    def give_up(self, request: TreeRequest) -> None:
        """Take all memory from a request; the tree keeps what it has."""
        self.slots += request.done - request.prefix
        self.tree.lock(request.node, -1)
        request.node, request.prefix, request.done = None, 0, 0

    # Results.

    def update(self, planned: Sequence[Planned]) -> tuple[list[Request], list[Request]]:
        emitted: list[Request] = []
        finished: list[Request] = []
        for request, _, _, emits in planned:
            assert isinstance(request, TreeRequest)
            if not emits:
                continue
            request.emit()
            emitted.append(request)
            if request.ended():
                finished.append(request)
                self.insert_finished(request)
            elif request in self.last_prefill:
                self.insert(request)
        return emitted, finished

    def insert(self, request: TreeRequest) -> None:
        """Enter what a request has into the tree; what the tree had before is freed."""
        names = request.names[: request.done]
        self.slots += self.tree.insert(names) - request.prefix
        node, request.prefix = self.tree.match(names)
        self.tree.lock(request.node, -1)
        self.tree.lock(node, 1)
        request.node = node

    def insert_finished(self, request: TreeRequest) -> None:
        """Enter a finished request into the tree, and free the rest of its slots."""
        entered = request.done if self.settings.insert_outputs else request.filled
        self.slots += self.tree.insert(request.names[:entered]) - request.prefix
        self.slots += request.done - entered
        self.tree.lock(request.node, -1)


def simulate(
    jobs: Sequence[Job], settings: Settings, duration_ps: Time, host_ps: Time = nothing
) -> str:
    """The event log of SGLang."""
    return drive(Scheduler(settings), jobs, duration_ps, host_ps)
