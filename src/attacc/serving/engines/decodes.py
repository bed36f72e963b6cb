"""Requests that decode together, without a visit to each of them in each step.

Each round gives every member one token. So the numbers of a member follow from the number of the
round. A round visits only the members that joined since the round before, and those that end.
Members hold blocks for the tokens that are computed: a member takes a block whenever these fill its
blocks.
"""

from __future__ import annotations

from attacc.serving.engines.policy import Ledger, Request
from attacc.serving.engines.sums import Sums


class Decodes:
    """The members, and the rounds that they took part in.

    While a request is a member, ``request.lead`` is its computed tokens less the rounds so far, and
    ``request.until`` is the round that ends it. Its other numbers are those at its entry.

    Args:
        size: tokens of a block.
        ledger: where times of tokens are told.
    """

    def __init__(self, size: int, ledger: Ledger) -> None:
        self._size, self._ledger = size, ledger
        self._members: dict[int, Request] = {}
        self._rounds = self._last_ps = 0
        # Tokens computed of all members, and the lead of the longest one, if that is known.
        self._keys = 0
        self._lead: int | None = None
        # Members by the phase of the rounds in which they take a block.
        self._phases = [0] * size
        self._ends: dict[int, list[Request]] = {}
        # Members that joined since the last round.
        self._fresh: dict[int, Request] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, request: Request) -> bool:
        return request.index in self._members

    @property
    def need(self) -> int:
        """Blocks that the members take in the next round."""
        return self._phases[-self._rounds % self._size]

    def needs(self, request: Request) -> bool:
        """Return whether a member takes a block in the next round."""
        return (request.lead + self._rounds) % self._size == 0

    def add(self, request: Request, end: int) -> None:
        """Let a request take part in the rounds to come.

        Args:
            request: the request, whose last known token is the only one that is not computed.
            end: known tokens with which it ends.
        """
        request.joined, request.lead = self._rounds, request.done - self._rounds
        request.until = self._rounds + end - request.known
        self._members[request.index] = self._fresh[request.index] = request
        self._ends.setdefault(request.until, []).append(request)
        self._phases[request.lead % self._size] += 1
        self._keys += request.done
        if len(self._members) == 1:
            self._lead = request.lead
        elif self._lead is not None:
            self._lead = max(self._lead, request.lead)

    def remove(self, request: Request) -> None:
        """Take a member out, with numbers of its own again."""
        del self._members[request.index]
        self._fresh.pop(request.index, None)
        request.done = request.lead + self._rounds
        request.known = request.done + 1
        if self._rounds > request.joined:
            request.last_ps = self._last_ps
        self._phases[request.lead % self._size] -= 1
        self._keys -= request.done
        same = self._ends.get(request.until)
        if same is not None:
            same.remove(request)
        if request.lead == self._lead:
            self._lead = None

    def round(self, sums: Sums) -> None:
        """Compute a token of every member; nothing where there is none.

        Args:
            sums: what the step computes.
        """
        count = len(self._members)
        if not count:
            return
        if self._lead is None:
            self._lead = max(request.lead for request in self._members.values())
        self._rounds += 1
        self._keys += count
        sums.decoding += count
        sums.tokens += count
        sums.keys += self._keys
        sums.longest = max(sums.longest, self._lead + self._rounds)

    def results(self, now_ps: int, count: int) -> list[Request]:
        """Take in the results of a round, if there was one in the step.

        Args:
            now_ps: when the step ends.
            count: members that took part; 0 if there was no round.

        Returns:
            The members that ended, in the order of their entry. They are members no more.
        """
        if not count:
            return []
        for request in self._fresh.values():
            self._ledger.alone(request, now_ps)
        self._ledger.together(now_ps - self._last_ps, count - len(self._fresh))
        self._fresh.clear()
        self._last_ps = now_ps
        ended = self._ends.pop(self._rounds, [])
        for request in ended:
            self.remove(request)
        return ended
