"""Requests of an engine in the channels of AttAccs, in which their keys stay.

The engine's blocks decide how many requests run. Where their keys then lie follows from
`attacc.pim.mapping.resident_counts`. A channel may run out of rows although blocks are free. Chunks
then lie in rows that the banks do not have, and `Residents.short_steps` counts the steps in which
some do.

Requests that found the beginning of their prompts in the prefix cache read these keys where they
lie. The channels with a beginning that many share are read once for each of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import numpy as np

from attacc.pim.mapping.resident_counts import I64, CountedRequest, Policy, Prefix
from attacc.serving.engines.policy import Key, Request
from attacc.serving.work import Held
from attacc.system.attaccs import Attaccs
from attacc.system.layer_attention import LayerHeads
from attacc.system.residents import Channels, HeldTimes, held_in

REMEMBERED: Final = 2**18
"""Blocks of prompts whose places are remembered; the least recently used ones are dropped."""
MORE_ROWS: Final = 4
"""Factor of the rows of a bank up to which chunks may lie in rows that it does not have."""


class Residents:
    """Requests that decode, in the channels of all stacks.

    Args:
        attaccs: whose channels.
        heads: of every layer.
        layers: how many there are.
        times: of channels.
        policy: where new chunks go.
        block_tokens: tokens of a block of the prefix cache.

    Attributes:
        steps: steps so far.
        short_steps: of these, steps in which a channel held more rows than it has.
    """

    def __init__(
        self,
        attaccs: Attaccs,
        heads: LayerHeads,
        layers: int,
        times: HeldTimes,
        policy: Policy = Policy.RESIDENT,
        block_tokens: int = 16,
    ) -> None:
        self._counts = attaccs.empty_banks(heads, layers, rows=MORE_ROWS, policy=policy)
        rows = int(self._counts.free_rows[0, 0])
        self._least_free = rows - rows // MORE_ROWS
        self._held: dict[int, CountedRequest] = {}
        self._size = block_tokens
        # Chunks that hold a block of tokens, and all tokens before it.
        self._places: OrderedDict[Key, I64] = OrderedDict()
        self.steps = self.short_steps = 0
        self._per_key, self._per_chunk, _ = times.ns
        # Times of channels, less what each takes once, and by how much a step makes them longer.
        self._ns = np.zeros(self._counts.loads.shape)
        self._longer = np.zeros(self._counts.loads.shape)
        self._all_chunks, self._short, self._visits = 0, False, -1

    def begin(self, requests: Iterable[Request], *, coming: int = 0) -> None:
        """Give requests, whose prompts are computed, places.

        Args:
            requests: the requests, with the tokens that are done.
            coming: of these tokens, those that the next step adds.

        Raises:
            CapacityError: the channels are full beyond all measure.
        """
        for request in requests:
            length = max(1, request.done - coming)
            held = self._counts.arrive(length, self._prefix(request, length))
            self._held[request.index] = held
            self._visits = -1
            if request.runs is not None:
                self._remember(request, held.chunks)

    def _prefix(self, request: Request, length: int) -> Prefix | None:
        """Return where a request found the beginning of its prompt; None where it computed all."""
        blocks = min(request.cached, length - 1, request.prompt) // self._size
        if request.runs is None or not blocks:
            return None
        chunks = self._places.get(request.key(blocks - 1, self._size))
        return None if chunks is None else Prefix.of(chunks, blocks * self._size)

    def _remember(self, request: Request, chunks: I64) -> None:
        """Remember where the full blocks of a prompt lie."""
        for block in range(request.prompt // self._size):
            key = request.key(block, self._size)
            self._places[key] = chunks
            self._places.move_to_end(key)
        while len(self._places) > REMEMBERED:
            self._places.popitem(last=False)

    def end(self, requests: Iterable[Request]) -> None:
        """Take the places of requests back, if they have any."""
        for request in requests:
            held = self._held.pop(request.index, None)
            if held is not None:
                self._counts.free(held)
                self._visits = -1

    def step(self) -> Held:
        """Let all requests grow by one key, and return what they then hold."""
        counts = self._counts
        counts.step()
        if counts.visits != self._visits:
            self._look()
        else:
            self._ns += self._longer
        fullest = int(self._ns.argmax())
        self.steps += 1
        self.short_steps += self._short
        chunks = counts.chunks.item(fullest)
        keys = counts.loads.item(fullest) - chunks * counts.overhead
        return Held(keys, chunks, self._all_chunks, self.lists)

    def _look(self) -> None:
        """Note what has changed with the chunks."""
        counts = self._counts
        self._visits = counts.visits
        self._all_chunks = int(counts.chunks.sum())
        self._short = int(counts.free_rows.min()) < self._least_free
        # Loads count an overhead for each chunk besides its keys.
        each = self._per_chunk - self._per_key * counts.overhead
        np.multiply(counts.loads, self._per_key, out=self._ns)
        self._ns += each * counts.chunks
        np.multiply(counts.growing, self._per_key, out=self._longer)

    def lists(self) -> tuple[Channels, ...]:
        """Return per stack and channel the keys of its chunks."""
        return held_in(self._counts, list(self._held.values()))
