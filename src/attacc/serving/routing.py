"""Routers: which of several instances serves a request.

All are deterministic: of equal instances, that with the lowest number gets the request. A router
knows what has happened up to the arrival. It looks at the instances, and keeps what it remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from attacc.errors import member
from attacc.serving.engines.policy import Request
from attacc.serving.engines.radix import RadixTree, sequence
from attacc.serving.simulator import Load, Router

WAITING_WEIGHT: Final = 4
"""Running requests that a waiting one counts for. Source: vLLM 0.16, `v1/engine/core_client.py`."""
BALANCE_LOAD: Final = 64
"""Requests by which loads may differ. Source: sglang-router 0.3.2, `balance_abs_threshold`."""
BALANCE_FACTOR: Final = 1.5
"""Factor by which loads may differ. Source: sglang-router 0.3.2, `balance_rel_threshold`."""
MATCH_SHARE: Final = 0.3
"""Share of a prompt that must match. Source: sglang-router 0.3.2, `cache_threshold`."""


class RouterName(StrEnum):
    """A router."""

    ROUND_ROBIN = "round-robin"
    """One instance after the other."""
    LEAST_LOADED = "least-loaded"
    """The instance with the least 4 * waiting + running requests, as vLLM's data parallelism."""
    PREFIX = "prefix"
    """The instance that was sent the longest beginning of the prompt, as sglang-router."""


class RoundRobin:
    """One instance after the other."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, request: Request, instances: Sequence[Load]) -> int:  # noqa: ARG002
        """Return the instance after the last one, and the first one after all."""
        number = self._next
        self._next = (number + 1) % len(instances)
        return number


class LeastLoaded:
    """The instance with the least load. A request counts from the moment when it is sent."""

    def choose(self, request: Request, instances: Sequence[Load]) -> int:  # noqa: ARG002
        """Return the instance with the least 4 * waiting + running requests."""
        return _least([WAITING_WEIGHT * one.waits + one.runs for one in instances])


class PrefixAware:
    """The instance that was sent the longest beginning of the prompt.

    The router keeps a tree of the prompts that each instance was sent. It does not know what an
    instance has given up since. If the requests in flight differ by more than 64, and by more than
    a factor of 1.5, the instance with the fewest gets the request. Else, if more than 0.3 of the
    prompt matches, the longest match gets it, and otherwise the instance with the smallest tree.
    """

    def __init__(self) -> None:
        self._trees: list[RadixTree] = []

    def choose(self, request: Request, instances: Sequence[Load]) -> int:
        """Return the instance by the rules of the class, and remember the prompt."""
        if not self._trees:
            self._trees = [RadixTree() for _ in instances]
        prompt = sequence(request, request.prompt)
        number = self._choose(request.prompt, instances, [t.match(prompt)[0] for t in self._trees])
        self._trees[number].insert(prompt)
        return number

    def _choose(self, tokens: int, instances: Sequence[Load], matches: list[int]) -> int:
        loads = [one.in_flight for one in instances]
        most, least = max(loads), min(loads)
        if most - least > BALANCE_LOAD and most > BALANCE_FACTOR * least:
            return loads.index(least)
        longest = max(matches)
        if longest > MATCH_SHARE * tokens:
            return matches.index(longest)
        return _least([tree.tokens for tree in self._trees])


def router_of(name: RouterName | str) -> Router:
    """Return a router that has sent nothing yet.

    Args:
        name: as users give it.

    Raises:
        UnknownNameError: there is no such router.
    """
    match member(RouterName, name, where="router"):
        case RouterName.ROUND_ROBIN:
            return RoundRobin()
        case RouterName.LEAST_LOADED:
            return LeastLoaded()
        case RouterName.PREFIX:
            return PrefixAware()


def _least(values: Sequence[int]) -> int:
    """Return the number of the least value, the first one of equal ones."""
    return min(range(len(values)), key=values.__getitem__)
