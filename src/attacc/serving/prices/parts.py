"""Steps priced in bulk, and taken apart into the host's time, attention, and the rest.

Requests on GPUs are priced with the lengths of `Works.batches`. Where AttAccs attend and a step
tells what their channels hold, attention follows from that (`attacc.system.residents`). Elsewhere
all requests of a step get the mean length, and attention is timed at the ends of a block of steps,
and lies on straight lines between them (`Pricer.sized`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import Energies, Floats
from attacc.hardware.system import AttentionSite
from attacc.models.operators import Phase
from attacc.pim.mapping.resident_counts import Policy
from attacc.serving.prices.residents import Residents
from attacc.serving.prices.works import Works
from attacc.system.batches import Ints
from attacc.system.layer_attention import AttaccAttention
from attacc.system.pricer import Pricer, Prompts, Timed
from attacc.system.residents import Channels, HeldKeys, HeldTimes, held_times
from attacc.system.schedule import plan_of
from attacc.system.step import Group, StepCosts

HOST: Final = frozenset({"host_layer", "host_step"})
"""Operators that stand for the time of the host."""
SENT: Final = frozenset({"qkv_transfer", "index_transfer"})
"""Transfers to the devices that attend."""
RETURNED: Final = frozenset({"context_transfer", "score_transfer"})
"""Transfers back from these devices."""
MOVED: Final = frozenset({"kv_transfer", "kv_read_back"})
"""Transfers of keys and values of prompts."""
EQUAL: Final = "decode attention away from the GPUs: as of requests that all have the mean length"
"""Note of a surrogate that does not know the lengths as they lie in the channels."""


@dataclass(frozen=True, slots=True, eq=False)
class StepParts:
    """Times of steps in nanoseconds.

    Attributes:
        device_ns: (steps,) time without that of the host.
        host_ns: (steps,) time that the host adds.
        attention_ns: (steps,) of the device's time, attention and the transfers of its operands.
    """

    device_ns: Floats
    host_ns: Floats
    attention_ns: Floats

    @property
    def others_ns(self) -> Floats:
        """(steps,) of the device's time, all but attention and the transfers of its operands."""
        return self.device_ns - self.attention_ns


class StepSource:
    """Prices works in bulk, and counts the calls.

    Args:
        pricer: prices the steps.
        residence: where keys go in the channels of AttAccs.

    Attributes:
        pricer: prices the steps.
        calls: calls of the pricer so far.
        away: whether other devices than GPUs attend for requests that decode.
        additive: whether a step's time is a sum over its products, its decode attention and the
            attention of its prompts.
        residing: heads whose requests stay in the channels of AttAccs, and the layers that have
            them; None where attention does not follow from what the channels hold.

    Raises:
        InputError: the pricer verifies drafts, or requests share a prefix. A `Work` tells neither.
    """

    def __init__(self, pricer: Pricer, residence: Policy = Policy.RESIDENT) -> None:
        self._residence = residence
        if pricer.speculation.queries != 1 or pricer.shared_prefix:
            raise InputError(
                "the work of a step tells of no drafts and of no shared prefix",
                where="pricer",
                hint="use a pricer without speculation and shared_prefix",
            )
        spec = pricer.system.spec
        kinds = {group.layer.site_kind for group in pricer.model.groups if group.layer.mixer}
        self.pricer: Final = pricer
        self.calls = 0
        self.away: Final = spec.attention is not AttentionSite.GPU and bool(kinds - pricer.home)
        plans = [plan_of(spec, phase) for phase in (Phase.DECODE, Phase.MIXED)]
        serial = not (spec.head_level_pipelining or any(p.takes_turns or p.beside for p in plans))
        self.additive: Final = (
            pricer.split.mixer_groups == 1
            and not spec.ff_coprocessing
            and (serial or not self.away)
        )
        self.residing: Final = pricer.residing if self.additive else None

    @property
    def equal(self) -> bool:
        """Whether all requests of a step are taken to have the mean length."""
        return self.away and self.pricer.attaccs is not None

    @cached_property
    def held_times(self) -> HeldTimes:
        """Times of the channels of AttAccs.

        Raises:
            EngineError: attention does not follow from what the channels hold.
        """
        if self.residing is None or self.pricer.attaccs is None:
            raise EngineError("no requests stay in the channels of AttAccs")
        return held_times(self.pricer.attaccs, *self.residing)

    def residents(self, block_tokens: int) -> Residents | None:
        """Return the channels of AttAccs for a run; None where nothing depends on them.

        Args:
            block_tokens: tokens of a block of the engine's prefix cache.
        """
        if self.residing is None or self.pricer.attaccs is None:
            return None
        return Residents(
            self.pricer.attaccs, *self.residing, self.held_times, self._residence, block_tokens
        )

    def played_ns(self, lists: Sequence[Channels]) -> float:
        """Return the time of one layer's attention to what the channels hold, by the engine.

        Args:
            lists: per stack and channel, the keys of its chunks.
        """
        if self.residing is None or self.pricer.attaccs is None:
            raise EngineError("no requests stay in the channels of AttAccs")
        # Channels do not wait for each other, so that stacks with equal channels are equal.
        stacks = {tuple(sorted(own, reverse=True)) for own in lists if any(own)}
        heads, attend = self.residing[0], self.pricer.attaccs.attend_held
        return max(attend(heads, own)[0] for own in stacks)

    def exact(self, works: Works, layer_ns: Floats | None = None) -> StepParts:
        """Return the parts of steps with the lengths of `Works.batches`.

        Args:
            works: the steps.
            layer_ns: (steps,) time of one layer's attention on AttAccs, to the heads of `residing`;
                None where it follows from the works.

        Raises:
            InputError: as in `Pricer.steps`.
        """
        return taken_apart(len(works), self.groups(works, layer_ns))

    def groups(self, works: Works, layer_ns: Floats | None = None) -> list[tuple[Ints, StepCosts]]:
        """Return numbers of steps and their costs, with the lengths of `Works.batches`.

        Args:
            works: the steps.
            layer_ns: as in `exact`.

        Raises:
            InputError: as in `Pricer.steps`.
        """
        self.calls += 1
        held = self._attention(works)
        if layer_ns is not None:
            held = AttaccAttention(
                layer_ns, Energies.of(dram_pj=0.0 * layer_ns), np.zeros(len(works), dtype=np.int8)
            )
        return list(self.pricer.steps(works.batches(), held).groups)

    def _attention(self, works: Works) -> AttaccAttention | None:
        """Return attention of one layer on AttAccs, where the works tell what the channels hold."""
        if self.residing is None or self.pricer.attaccs is None or works.held is None:
            return None
        keys, chunks, all_chunks = works.held
        return self.held_times.attention(
            HeldKeys(
                keys, chunks, works.keys * self.residing[0].kv_heads, all_chunks,
                self.pricer.attaccs.channels,
            )
        )  # fmt: skip

    def in_block(self, works: Works, block: Timed) -> list[tuple[Ints, StepCosts]]:
        """Return numbers of steps and their costs, as tables hold them.

        Args:
            works: steps whose chunks have no cached tokens.
            block: numbers of requests and of mean keys that enclose those of all steps that decode.
        """
        decodes = works.decoding > 0
        if not self.equal or works.held is not None or not decodes.any():
            return self.groups(works)
        found: list[tuple[Ints, StepCosts]] = []
        if not decodes.all():
            chosen = np.flatnonzero(~decodes)
            own = self.groups(works.take(chosen))
            found += [(chosen[places], costs) for places, costs in own]
        for mixed in (False, True):
            chosen = np.flatnonzero(decodes & ((works.chunks > 0) == mixed))
            if chosen.size:
                found.append((chosen, self._sized(works.take(chosen), block)))
        return found

    def parts_in_block(self, works: Works, block: Timed) -> StepParts:
        """Return the parts of steps, as tables hold them.

        Args:
            works: as in `in_block`.
            block: as in `in_block`.
        """
        return taken_apart(len(works), self.in_block(works, block))

    def _sized(self, works: Works, block: Timed) -> StepCosts:
        """Price steps of one phase with equal requests, and equal chunks with as many pairs."""
        self.calls += 1
        mean = np.maximum(1, np.rint(works.keys / works.decoding).astype(np.int64))
        chunks, prompts = works.chunks, None
        if chunks.any():
            first = works.chunk_ends - chunks
            pairs = works.new * (works.past + works.new / 2)
            new, pairs = np.add.reduceat(np.stack([works.new, pairs]), first, axis=1)
            each = np.maximum(1, np.rint(new / chunks).astype(np.int64))
            past = np.rint(pairs / new - each / 2).astype(np.int64)
            prompts = Prompts(each, np.maximum(0, past), chunks)
        need = self.pricer.need((block.keys[1], 1))
        return self.pricer.sized(works.decoding, mean, timed=block, need=need, beside=prompts)


def taken_apart(steps: int, groups: Sequence[tuple[Ints, StepCosts]]) -> StepParts:
    """Return the parts of steps.

    Args:
        steps: number of steps.
        groups: numbers of steps, and their costs; together all steps.
    """
    device, host, attention = (np.zeros(steps) for _ in range(3))
    for chosen, costs in groups:
        total, waits, attends = (np.zeros(costs.steps) for _ in range(3))
        for op in costs.operators:
            ns = op.runs * op.time_ns
            if op.name in HOST:
                waits += ns
                continue
            total += ns
            if op.group is Group.ATTENTION or op.name in SENT | RETURNED | MOVED:
                attends += ns
        device[chosen], host[chosen], attention[chosen] = total, waits, attends
    return StepParts(device, host, attention)
