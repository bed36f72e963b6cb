"""Clients that send requests: at times of their own, or when they have got an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from attacc.serving.engines.policy import Request


class Clients:
    """The clients of an engine.

    Args:
        requests: what they send, in order. Without a concurrency, in the order of their arrivals,
            equal ones by their numbers.
        concurrency: how many clients there are. Each sends a request, waits for its end, and sends
            the next one. None for clients that never wait: then requests arrive at their own times.
    """

    def __init__(self, requests: Iterator[Request], *, concurrency: int | None = None) -> None:
        self._requests = requests
        self._next = next(requests, None)
        # When clients without a request in flight send the next one, in order.
        self._idle = None if concurrency is None else deque([0] * concurrency)

    @property
    def arrival_ps(self) -> int | None:
        """When the next request arrives; None where none is known to come."""
        if self._next is None:
            return None
        if self._idle is None:
            return self._next.arrival_ps
        return self._idle[0] if self._idle else None

    def take(self) -> Request:
        """Return the next request, which arrives."""
        request, arrival = self._next, self.arrival_ps
        if request is None or arrival is None:
            raise StopIteration
        if self._idle is not None:
            request.arrival_ps = self._idle.popleft()
        self._next = next(self._requests, None)
        return request

    def answer(self, now_ps: int) -> None:
        """Tell one of the clients that its request has ended, or is rejected.

        Args:
            now_ps: when.
        """
        if self._idle is not None:
            self._idle.append(now_ps)
