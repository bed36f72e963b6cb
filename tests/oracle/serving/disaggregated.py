"""Prefill and decode in two pools of vLLM V1, with KV pulled over NIXL (0.16).

Source: the project's page of serving engines, section 6. Each pool is an engine of `vllm_v1`.

The pool P gets each request with one output. Its token is discarded, and its blocks stay until D
has read them. D allocates blocks for the whole prompt, sets the request aside while the KV is on
its way, and then computes the last prompt token again, which gives the first token of the response.

Decisions:

1. The log is the whole log of P, each line after "P ", then the whole log of D, each after "D ".
2. A request reaches D at the time of the update of P that finishes it.
3. Of two turns at the same time, that of P is first.
4. The transfer begins at the time of D's schedule call that allocates the blocks. It carries the
   prompt tokens that D's prefix cache does not have, and takes `transfer_ps` of them. Transfers do
   not share the link.
5. Each engine notices the end of a transfer when a schedule call begins: D hashes all full blocks
   of the prompt, sets done to P - 1 and looks at the request again; P frees the blocks. Transfers
   are noticed in the order of (end, request), before arrivals. An idle engine wakes at the end of a
   transfer. A call of P that then has nothing waiting is not logged.
6. A request whose KV is on its way stays in the waiting queue and is listed there. The tokens that
   D's prefix cache had are listed as a hit in the call that allocates.
7. D admits asynchronously once for each request. A request that D preempts is recomputed in D.
8. A head is not rejected as never while a transfer or a held block may still change what is free.
   A request that D rejects frees its blocks in P at the time of the rejection, unless it was read.
9. The gate, the watermark and the head-of-line block hold for an asynchronous admission, too. The
   threshold of long prefills and the token budget do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.oracle.serving import vllm_v1
from tests.oracle.serving.common import Call, Job, Time, nothing
from tests.oracle.serving.vllm_v1 import BlockRequest, Engine


@dataclass(frozen=True)
class Settings:
    """How the two pools are started, and how long a transfer of that many tokens takes."""

    prefill: vllm_v1.Settings
    decode: vllm_v1.Settings
    transfer_ps: Callable[[int], int]


class Prefill(Engine):
    """The engine of the pool P.

    Attributes:
        held: finished requests whose blocks D has not read.
        reads: (end of the read, request) that P has not noticed.
        handed: requests that were finished since somebody looked.
    """

    held: dict[int, BlockRequest]
    reads: list[tuple[int, int]]
    handed: list[int]

    def next_event_ps(self) -> int | None:
        times = [end for end, _ in self.reads]
        if (arrival := super().next_event_ps()) is not None:
            times.append(arrival)
        return min(times, default=None)

    def receive(self) -> None:
        for end, index in sorted(self.reads):
            if end <= self.now:
                self.reads.remove((end, index))
                self.pool.release(self.held.pop(index))
        super().receive()

    def pending(self) -> bool:
        return bool(self.held)

    def finish(self, request: BlockRequest) -> None:
        self.held[request.index] = request
        self.handed.append(request.index)


class Decode(Engine):
    """The engine of the pool D.

    Attributes:
        transfer_ps: time of a transfer.
        loading: (end of the transfer, index, request) on its way.
        begun: (end of the transfer, index) begun since somebody looked.
        dropped: (time of the rejection, index) rejected since somebody looked.
    """

    transfer_ps: Callable[[int], int]
    loading: list[tuple[int, int, BlockRequest]]
    begun: list[tuple[int, int]]
    dropped: list[tuple[int, int]]

    def reject(self, request: BlockRequest, reason: str) -> None:
        super().reject(request, reason)
        self.dropped.append((self.now, request.index))

    def next_event_ps(self) -> int | None:
        times = [end for end, _, _ in self.loading]
        if (arrival := super().next_event_ps()) is not None:
            times.append(arrival)
        return min(times, default=None)

    def receive(self) -> None:
        for end, index, request in sorted(self.loading, key=lambda one: one[:2]):
            if end <= self.now:
                self.loading.remove((end, index, request))
                self.pool.register(request, request.prompt)
                request.done = request.prompt - 1
                request.remote = ""
        known = list(self.waiting)
        super().receive()
        for request in self.waiting:
            if request not in known:
                request.remote = "wanted"

    def pending(self) -> bool:
        return bool(self.loading)

    def schedule(self) -> Call:
        call = super().schedule()
        on_its_way = [request for _, _, request in self.loading]
        for request in self.waiting:
            if request.remote == "loading" and request not in on_its_way:
                end = self.now + self.transfer_ps(request.prompt - request.done)
                self.loading.append((end, request.index, request))
                self.begun.append((end, request.index))
        return call


def simulate(
    jobs: Sequence[Job], settings: Settings, duration_ps: Time, host_ps: Time = nothing
) -> str:
    """The event logs of both pools; a step tells its pool."""
    by_index = {job.index: job for job in jobs}
    first = [replace(job, outputs=1) for job in jobs]
    p = Prefill(first, settings.prefill, duration_ps, host_ps, "P")
    d = Decode([], settings.decode, duration_ps, host_ps, "D")
    p.held, p.reads, p.handed = {}, [], []
    d.transfer_ps, d.loading, d.begun, d.dropped = settings.transfer_ps, [], [], []
    while True:
        at_p, at_d = p.next_ps(), d.next_ps()
        if at_p is not None and (at_d is None or at_p <= at_d):
            p.turn()
            d.arrivals.add([replace(by_index[index], arrival_ps=p.now) for index in p.handed])
            p.handed = []
        elif at_d is not None:
            d.turn()
            p.reads += d.begun
            read = [index for _, index in p.reads]
            p.reads += [(at, i) for at, i in d.dropped if i in p.held and i not in read]
            d.begun, d.dropped = [], []
        else:
            return p.log.text() + d.log.text()
