"""Engines that prefill and engines that decode, played together.

A router chooses the engine that prefills a request when it arrives, and another router chooses the
one that decodes when the prefill ends. The request reaches that engine at once. The transfer of
keys and values begins with the call that takes memory for them, and carries what the prefix cache
there does not have. Transfers do not share the link. Both engines notice the end of a transfer when
their next call begins, in the order of (end, request), before they take in arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from attacc.serving.engines.disaggregated import Decode, Prefill
from attacc.serving.engines.policy import Call, Refusal, Request
from attacc.serving.simulator import Answer, Engine, Instance, Router, Times

Transfer = Callable[[int], int]
"""Picoseconds that the keys and values of so many tokens are on their way."""
HandOn = Callable[["PrefillEngine", Request, int], None]
"""Takes the engine that has prefilled, the request as it knows it, and the time."""


class PrefillEngine(Engine):
    """The engine that prefills.

    Args:
        policy: its scheduler.
        device_ps: as in `Engine`.
        host_ps: as in `Engine`.
        answer: as in `Engine`; is told of rejections alone.
        hand_on: takes a request whose prefill has ended.
    """

    __slots__ = ("_hand_on", "_prefill", "_reads")

    def __init__(
        self,
        policy: Prefill,
        device_ps: Times,
        host_ps: Times,
        answer: Answer,
        hand_on: HandOn,
    ) -> None:
        super().__init__(policy, device_ps, host_ps, answer)
        self._prefill, self._hand_on = policy, hand_on
        # Ends of reads that have not been noticed, with the numbers of the requests.
        self._reads: list[tuple[int, int]] = []

    def read(self, index: int, end_ps: int) -> None:
        """Note when the blocks of a request will have been read.

        Args:
            index: number of the request.
            end_ps: when.
        """
        heappush(self._reads, (end_ps, index))
        self._wake(end_ps)

    def turn(self) -> None:
        """Take the next turn; a call first notices what was read."""
        while not self._takes and self._reads and self._reads[0][0] <= self.next_ps:
            self._prefill.release(heappop(self._reads)[1])
        super().turn()

    def _end(self, ended: Sequence[Request], now: int) -> None:
        self.told = True
        self.left += len(ended)
        for request in sorted(ended, key=lambda one: one.index):
            self._hand_on(self, request, now)

    def _pause(self, call: Call, now: int) -> None:
        super()._pause(call, now)
        if self._reads:
            self._wake(self._reads[0][0])


class DecodeEngine(Engine):
    """The engine that decodes.

    Args:
        policy: its scheduler.
        device_ps: as in `Engine`.
        host_ps: as in `Engine`.
        answer: as in `Engine`.
        transfer_ps: time of a transfer of so many tokens.
    """

    __slots__ = ("_decode", "_loads", "_sources", "_transfer_ps")

    def __init__(
        self,
        policy: Decode,
        device_ps: Times,
        host_ps: Times,
        answer: Answer,
        transfer_ps: Transfer,
    ) -> None:
        super().__init__(policy, device_ps, host_ps, answer)
        self._decode, self._transfer_ps = policy, transfer_ps
        # By number of the request: who keeps its blocks, until a transfer begins.
        self._sources: dict[int, PrefillEngine] = {}
        # Transfers on their way: end, number of the request, request.
        self._loads: list[tuple[int, int, Request]] = []

    def expect(self, request: Request, source: PrefillEngine) -> None:
        """Note who has prefilled a request that is about to be delivered.

        Args:
            request: the request.
            source: keeps its keys and values.
        """
        self._sources[request.index] = source

    def turn(self) -> None:
        """Take the next turn; a call first notices what has come."""
        now = self.next_ps
        while not self._takes and self._loads and self._loads[0][0] <= now:
            self._decode.loaded(heappop(self._loads)[2])
        super().turn()
        if self._decode.begun:
            self._send(now)

    def _send(self, now: int) -> None:
        """Begin the transfers for requests that have got memory."""
        self.told = True
        for request in self._decode.begun:
            end = now + self._transfer_ps(request.prompt - request.done)
            heappush(self._loads, (end, request.index, request))
            self._sources.pop(request.index).read(request.index, end)
            self._wake(end)
        self._decode.begun.clear()

    def _reject(self, request: Request, reason: Refusal, now: int) -> None:
        source = self._sources.pop(request.index, None)
        if source is not None:  # which nobody will read
            self.told = True
            source.read(request.index, now)
        super()._reject(request, reason, now)

    def _pause(self, call: Call, now: int) -> None:
        super()._pause(call, now)
        if self._loads:
            self._wake(self._loads[0][0])


class Pools(Instance):
    """Engines that prefill, and engines that decode.

    Args:
        prefill: makes the engines that prefill, from what takes the requests that they hand on.
        decode: the engines that decode.
        routers: choose the engine that prefills, and the one that decodes.
    """

    def __init__(
        self,
        prefill: Callable[[HandOn], Sequence[PrefillEngine]],
        decode: Sequence[DecodeEngine],
        routers: tuple[Router, Router],
    ) -> None:
        first = prefill(self._hand_on)
        super().__init__([*first, *decode])
        self._firsts = [Instance([engine]) for engine in first]
        self._seconds = [Instance([engine]) for engine in decode]
        self._decode, self._routers = decode, routers
        # Requests that are in their prefill, as they were asked for.
        self._asked: dict[int, Request] = {}

    @property
    def in_flight(self) -> int:
        """Requests that were sent to it and have neither ended nor been rejected."""
        return sum(one.in_flight for one in (*self._firsts, *self._seconds))

    def deliver(self, request: Request, now_ps: int) -> None:
        """Take in a request; an engine that prefills computes one output of it.

        Args:
            request: the request.
            now_ps: when it arrives.
        """
        self._asked[request.index] = request
        prompt = Request(request.index, request.arrival_ps, request.prompt, 1, request.runs)
        number = self._routers[0].choose(prompt, self._firsts)
        self._firsts[number].deliver(prompt, now_ps)

    def _hand_on(self, source: PrefillEngine, prompt: Request, now_ps: int) -> None:
        """Send a request on whose prefill has ended."""
        request = self._asked.pop(prompt.index)
        request.hits = prompt.hits
        number = self._routers[1].choose(request, self._seconds)
        self._decode[number].expect(request, source)
        self._seconds[number].deliver(request, now_ps)
