"""What every batching policy is: requests in, steps out.

A policy is called in turns (`attacc.serving.simulator`): requests arrive, a call decides on a step,
and an update takes in the step's results. The policy never sees the clock or the true number of
outputs of a running request before the request ends, as an engine does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Iterable
from enum import Enum, StrEnum
from hashlib import blake2b
from typing import ClassVar, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from attacc.serving.work import Held, Work

MERGED: Final = 2**18
"""Times between tokens that are kept before equal ones are merged."""
Runs = tuple[tuple[int, int], ...]
"""A prompt: (content, tokens) of its runs. Token j of a run is known by its content and j."""
Key = bytes | tuple[int, int]
"""Identity of a block of tokens with all tokens before it: a digest where prompts share contents,
or the request and the number of the block."""


class Refusal(StrEnum):
    """The reason why a request is rejected."""

    LONG = "long"
    """Its prompt is longer than the engine allows."""
    NEVER = "never"
    """It does not fit into memory even when nothing else runs."""


class Remote(Enum):
    """Where the keys and values of a prompt come from."""

    NONE = "none"
    """The engine computes them."""
    WANTED = "wanted"
    """Another engine has computed them; there is no memory for them here yet."""
    LOADING = "loading"
    """They are on their way."""
    LOADED = "loaded"
    """They have come; the last token of the prompt is computed again."""


class Request:
    """A request inside an engine.

    Attributes:
        index: its number; it orders equal arrivals.
        arrival_ps: when it arrives.
        prompt: tokens of its prompt.
        outputs: tokens that it asks for.
        runs: contents of the prompt that other requests share; None for a prompt of its own.
        known: tokens that are known: those of the prompt, and the outputs so far.
        done: tokens whose keys and values are computed, or are being computed.
        order: number of its last admission.
        preemptions: how often it lost its memory.
        hits: tokens of its prompt that it found in the prefix cache when it was first admitted.
        cached: tokens that it found there when it was last admitted.
        remote: where the keys and values of its prompt come from.
        first_ps: when its first output came; -1 before.
        last_ps: when its last output came that was told one by one; -1 before.
    """

    __slots__ = (
        "arrival_ps", "blocks", "cached", "done", "first_ps", "hits", "index", "joined", "keys",
        "known", "last_ps", "last_step", "lead", "order", "outputs", "pending", "preemptions",
        "prompt", "registered", "remote", "runs", "until",
    )  # fmt: skip

    def __init__(
        self, index: int, arrival_ps: int, prompt: int, outputs: int, runs: Runs | None = None
    ) -> None:
        self.index, self.arrival_ps, self.runs = index, arrival_ps, runs
        self.prompt, self.outputs = prompt, outputs
        self.known, self.done = prompt, 0
        self.order = self.preemptions = self.hits = self.cached = 0
        self.first_ps = self.last_ps = -1
        self.blocks: list[int] = []
        self.registered = 0
        self.remote = Remote.NONE
        self.pending = 0
        self.keys: list[bytes] | None = None
        self.joined = self.lead = self.until = self.last_step = -1

    def key(self, block: int, size: int) -> Key:
        """Return the identity of a full block.

        Args:
            block: its number within the request.
            size: tokens of a block.
        """
        if self.runs is None or (block + 1) * size > self.prompt:
            return self.index, block
        if self.keys is None:
            self.keys = block_keys(self.runs, size)
        return self.keys[block]


def block_keys(runs: Runs, size: int) -> list[bytes]:
    """Return a digest of each full block of a prompt and of all tokens before it.

    Args:
        runs: the prompt.
        size: tokens of a block.
    """
    found: list[bytes] = []
    chain = blake2b(digest_size=16)
    room = size
    for content, tokens in runs:
        start = 0
        while start < tokens:
            taken = min(room, tokens - start)
            chain.update(b"%d,%d,%d;" % (content, start, taken))
            start += taken
            room -= taken
            if room == 0:
                found.append(chain.digest())
                room = size
    return found


class Call:
    """What one call of a policy decides.

    Attributes:
        work: what the step computes; None for nothing.
        step: number among the steps that compute something.
        rows: (request, tokens) in scheduled order; only where events are told.
        hits: (request, tokens) that were found in the prefix cache.
        preempted: requests that lost their memory, in order.
        rejected: requests that the call gives up, with the reason.
        emits: requests that get a token at the end of the step, in scheduled order; only where
            events are told.
        tokens: how many requests get a token at the end of the step.
        begins: requests whose prompts end with the step, so that they decode from then on.
        loads: requests that decode for the first time, since their prompts were loaded.
        leaves: requests that decode no more, since their last tokens are in flight.
    """

    __slots__ = (
        "begins", "emits", "hits", "leaves", "loads", "preempted", "rejected", "rows", "step",
        "tokens", "work",
    )  # fmt: skip

    def __init__(self) -> None:
        # A step takes a few microseconds, and a data class would take three of them.
        self.work: Work | None = None
        self.step = -1
        self.rows: list[tuple[Request, int]] = []
        self.hits: list[tuple[Request, int]] = []
        self.preempted: list[Request] = []
        self.rejected: list[tuple[Request, Refusal]] = []
        self.emits: list[Request] = []
        self.tokens = 0
        self.begins: list[Request] = []
        self.loads: list[Request] = []
        self.leaves: list[Request] = []


class Ended(NamedTuple):
    """A request that ended.

    Attributes:
        number: its number.
        arrival_ps: when it arrived.
        first_ps: when its first token came.
        end_ps: when its last token came.
        prompt: tokens of its prompt.
        outputs: tokens that it got.
        hits: tokens of its prompt that it found in the prefix cache.
        preemptions: how often it lost its memory.
    """

    number: int
    arrival_ps: int
    first_ps: int
    end_ps: int
    prompt: int
    outputs: int
    hits: int
    preemptions: int


class Ledger:
    """Times of tokens, as policies tell them.

    Most requests of a step got a token at the end of the step before, too. These are counted
    together; all others are told one by one.

    Attributes:
        ended: numbers of the requests that ended, in order, those of `Ended` one after the other.
    """

    def __init__(self) -> None:
        self.ended = array("q")
        # Times between two tokens of a request, each before the number of times that it occurred.
        self._gaps = array("q")
        self._most = 2 * MERGED

    @property
    def gaps(self) -> dict[int, int]:
        """Times between two tokens of a request -> how often they occurred."""
        gaps, counts = self.gap_columns()
        return dict(zip(gaps.tolist(), counts.tolist(), strict=True))

    def gap_columns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return times between two tokens of a request, rising, and how often each occurred.

        Returns:
            (gaps,) picoseconds, and (gaps,) counts.
        """
        each, times = np.array(self._gaps, dtype=np.int64).reshape(-1, 2).T
        gaps, inverse = np.unique(each, return_inverse=True)
        counts = np.zeros(gaps.size, dtype=np.int64)
        np.add.at(counts, inverse, times)
        return gaps, counts

    @classmethod
    def joined(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """Return what several engines have told together.

        Args:
            ledgers: of the engines; no request ended on two of them.
        """
        found = cls()
        for ledger in ledgers:
            found.ended.extend(ledger.ended)
            for gap_ps, requests in ledger.gaps.items():
                found.together(gap_ps, requests)
        return found

    def __len__(self) -> int:
        """Return the number of requests that ended."""
        return len(self.ended) // len(Ended._fields)

    def together(self, gap_ps: int, requests: int) -> None:
        """Count requests that got a token at the ends of two steps in a row.

        Args:
            gap_ps: time between both ends.
            requests: how many.
        """
        if requests:
            # One call, so that an interrupt leaves whole pairs.
            self._gaps.extend((gap_ps, requests))
            if len(self._gaps) >= self._most:
                self._gaps = array("q", np.stack(self.gap_columns(), axis=1).tobytes())
                self._most = 2 * max(MERGED, len(self._gaps))

    def alone(self, request: Request, now_ps: int) -> None:
        """Count one token of a request.

        Args:
            request: the request.
            now_ps: when it comes.
        """
        if request.first_ps < 0:
            request.first_ps = now_ps
        else:
            self.together(now_ps - request.last_ps, 1)
        request.last_ps = now_ps

    def finish(self, request: Request, now_ps: int) -> None:
        """Count the end of a request, with its last token."""
        outputs = request.known - request.prompt
        self.ended.extend(
            Ended(
                request.index, request.arrival_ps, request.first_ps, now_ps, request.prompt,
                outputs, request.hits, request.preemptions,
            )
        )  # fmt: skip


class Residents(Protocol):
    """Requests that decode, in the channels in which their keys stay."""

    def begin(self, requests: Iterable[Request], *, coming: int = 0) -> None:
        """Give requests, whose prompts are computed, places.

        Args:
            requests: the requests, with the tokens that are done.
            coming: of these tokens, those that the next step adds.
        """

    def end(self, requests: Iterable[Request]) -> None:
        """Take the places of requests back, if they have any."""

    def step(self) -> Held:
        """Let all requests grow by one key, and return what they then hold."""
        ...


class Policy(ABC):
    """A batching policy, with its queue. A subclass is an engine.

    Attributes:
        depth: steps that may be in flight at once.
        ledger: where times of tokens are told.
        tells: whether rows and emitting requests of each step are listed, which takes time.
        residents: where keys stay that others than GPUs attend to; None where nothing depends on
            it.
        name: name of the policy, as users give it.
    """

    name: ClassVar[str]

    def __init__(self, *, depth: int = 1, tells: bool = False) -> None:
        self.depth, self.tells = depth, tells
        self.ledger = Ledger()
        self.residents: Residents | None = None
        self._waiting: deque[Request] = deque()
        self._stuck: Request | None = None

    @abstractmethod
    def arrive(self, request: Request) -> Refusal | None:
        """Take in a request, or tell why it is refused."""

    @abstractmethod
    def schedule(self) -> Call:
        """Decide on a step."""

    @abstractmethod
    def update(self, call: Call, now_ps: int) -> list[Request]:
        """Take in the results of a step, and return the requests that it ends, in order.

        Args:
            call: that decided on the step.
            now_ps: when the step ends.
        """

    def waiting(self) -> Iterable[Request]:
        """Return the queue, the front first."""
        return self._waiting

    @property
    def waits(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    @abstractmethod
    def runs(self) -> int:
        """Requests that have memory."""

    @property
    @abstractmethod
    def free(self) -> int:
        """Blocks, or tokens, of memory that are free."""

    @property
    def awaits(self) -> bool:
        """Whether other engines will free memory, or bring what a request waits for."""
        return False

    def stuck(self) -> Request | None:
        """Return the request that can never run, if the last call showed one."""
        return self._stuck

    def drop(self, request: Request) -> bool:
        """Take a request out of the queue; False if it has ended meanwhile."""
        self._stuck = None
        if request not in self._waiting:
            return False
        self._waiting.remove(request)
        return True
