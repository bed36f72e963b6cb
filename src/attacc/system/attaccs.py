"""The AttAccs of a system: decode attention of a batch, of equal or of different lengths.

The key/value heads of all requests are dealt out to the stacks. A system states whether heads stay
whole, as in the papers, or are cut where that makes the fullest stack less full. A stack deals its
heads out to its channels, and cuts them where that makes the fullest channel less full. The stack
that ends last decides the time, since layers wait for all heads; energy counts all stacks. The
query heads that share a key/value head attend in the channels that hold it, `queries_per_read` at a
time, with a pass over the keys and values for each such set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import BOUNDS, Bound, Codes, Energies
from attacc.gpu.rates import AttaccRates
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import ResolvedSystem, Schedule
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.energy.power import standby
from attacc.pim.limits import Limiter
from attacc.pim.mapping.geometry import HeadLayout, KeyLayout
from attacc.pim.mapping.resident_counts import Policy, ResidentCounts
from attacc.pim.product import AttaccProducts, StackProduct
from attacc.pim.program.growth import chunk_growth
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.program.product import ProductShape
from attacc.pim.selection import SelectedHeads, SelectedPart, selected_over, selection_ends
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.stacks import AttentionOfStacks, RequestPlacement, attend_over
from attacc.pim.written import StackWrites, WritesAlone, added_beside
from attacc.system.batches import Batches
from attacc.system.layer_attention import (
    AttaccAttention,
    AttentionCurve,
    ChosenKeys,
    CurveKind,
    KvWrites,
    LayerHeads,
    Selection,
    WrittenPrompts,
)
from attacc.units import BITS_PER_BYTE

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MULTIPLY_BUDGET: Final = 4_000_000
"""Multiplies per channel that a curve may simulate before it is sampled instead."""
CUT_MULTIPLIES: Final = 100_000
"""The same where heads may be cut, which evens out channels: time then rises nearly in a line, and
few samples suffice."""
FEWEST_SAMPLES: Final = 9
"""Lengths at which a curve is timed at least."""
FEWEST_CUT: Final = 5
"""The same where heads may be cut. On curves of 1,000 to 8,000 lengths, for batches of 27 to 227,
five lengths give means within 0.4 % of those of 64 to 128 lengths."""
RING_PLACES: Final = 8
"""Places of the oldest key at which a full ring is timed."""
_GOLDEN: Final = 0.618033988749895
REMEMBERED: Final = 4096
"""Batches of equal heads whose attention AttAccs keep; the least recently used ones are dropped."""


@dataclass(frozen=True, slots=True)
class _Share:
    """The heads of equal stacks.

    Attributes:
        kv_heads: key/value heads of each stack.
        simulated: simulated heads: `kv_heads`, filled up to a full round of channels.
        weight: factor of the energy of the simulated heads.
    """

    kv_heads: int
    simulated: int
    weight: float


@dataclass(frozen=True, slots=True)
class _OfStacks:
    """Time and energy of the attention of one layer on all stacks together.

    Limiters are those of the stack that takes longest. Where nothing is scanned, the scan takes no
    time, and its limiter has no meaning.
    """

    time_ns: float
    dram_pj: float
    alu_pj: float
    limiter: Limiter
    extra_parts: int
    spread: float = 0.0
    clustered_ns: float = 0.0
    scan_ns: float = 0.0
    scan_limiter: Limiter = Limiter.READS
    scan_dram_pj: float = 0.0
    scan_alu_pj: float = 0.0


@dataclass(frozen=True)
class _StackKey:
    """Identity of a stack: all that its device states, and how the stack is used."""

    device: DramDevice = field(compare=False)
    stated: str
    placement: Placement
    power_limited: bool
    schedule: Schedule


@lru_cache(maxsize=16)
def _stack(key: _StackKey) -> Stack:
    """Return a stack that remembers its timed programs, for all systems with equal stacks."""
    return Stack(key.device, key.placement, power_limited=key.power_limited, schedule=key.schedule)


@lru_cache(maxsize=16)
def _products(key: _StackKey, rows_per_read: int) -> AttaccProducts:
    """Return the products of such a stack, likewise."""
    return AttaccProducts(
        key.device,
        key.placement,
        power_limited=key.power_limited,
        rows_per_read=rows_per_read,
    )


class Attaccs:
    """The AttAccs of a system, ready to attend.

    Args:
        system: a system whose attention runs on AttAccs.
        cadence: cycles between multiplies of a bank's units in place of the power-limited ones.

    Attributes:
        stacks: stacks of all devices.
        channels: channels of all stacks.
        stack_bytes: memory of one stack.
        writes: whether writing keys and values takes time and energy.
        standby: power of all stacks whose units do nothing; None where the system does not count
            it.
        rates: of one device, in products with weights.

    Raises:
        UnknownNameError: the system names a device that does not exist.
        InputError: the device cannot run the system's schedule.
    """

    def __init__(self, system: ResolvedSystem, *, cadence: int | None = None) -> None:
        if system.attacc is None:
            raise EngineError(f"system {system.spec.name} has no AttAccs")
        table = system.attacc.table
        device = DRAMS.load_name_or_file(
            table.dram, where=f"system {system.spec.name}: attacc.dram"
        )
        if cadence is not None:
            limited = device.power_limited.model_copy(update={"nCCDAB": cadence})
            device = device.model_copy(update={"power_limited": limited})
        self.stacks = system.attacc.stacks
        self.channels: Final = self.stacks * device.organization.channels
        self.stack_bytes = float(device.organization.stack_bytes)
        self._queries_per_read = table.queries_per_read
        self._table = table
        self._cut = table.cuts_heads
        key = _StackKey(
            device, device.model_dump_json(), table.placement, table.power_limited, table.schedule
        )
        self._products = _products(key, table.queries_per_read)
        try:
            self._stack = _stack(key)
        except InputError as error:
            where = f"system {system.spec.name}: attacc.schedule"
            raise InputError(error.message, where=where, hint=error.hint) from None
        energy = DRAM_ENERGIES.load(device.energy)
        self.standby = standby(device, energy).times(self.stacks) if table.standby else None
        cell_pj_per_bit = energy.activate + energy.cell + energy.cell_to_unit(table.placement)
        self.rates = AttaccRates(
            interface_bytes_per_s=device.external_bytes_per_s * table.stacks_per_device,
            internal_bytes_per_s=device.internal_bytes_per_s(
                table.placement, power_limited=table.power_limited
            )
            * table.stacks_per_device,
            read_pj_per_byte=cell_pj_per_bit * BITS_PER_BYTE,
            multiply_add_pj=energy.multiply_add,
        )

        if table.writes and device.rule_set.ordinary is None:
            raise InputError(
                f"{device.name} has no commands for ordinary writes",
                where=f"system {system.spec.name}: attacc.writes",
                hint="write false, or use a device whose rule set has them, as hbm3-5.2",
            )
        self.writes: Final = table.writes
        self._writes_of: Final = lru_cache(maxsize=64)(self._find_writes)
        self._equal: Final = lru_cache(maxsize=REMEMBERED)(self._attend_equal)

    def curve(self, heads: LayerHeads, batch: int, lengths: Sequence[int]) -> AttentionCurve:
        """Time and cost one layer's attention of a batch at every length that occurs.

        Args:
            heads: of the layer.
            batch: number of requests; all have the same length at a time.
            lengths: keys that the requests attend to; at least one.

        Raises:
            InputError: the heads of a stack do not fit into its banks, or the queries that share
                a read into the vector buffers.
        """
        longest = self._layout(heads, max(lengths))
        parts = longest.sequence_parts
        shares = self._shares(batch * heads.kv_heads)
        passes = QueryPasses.of(heads.queries, self._queries_per_read).passes
        needed: I64 = np.unique(-(-np.array(lengths, dtype=np.int64) // parts))
        fullest = -(-max(share.simulated for share in shares) // longest.organization.channels)
        read = longest
        if heads.selection is not None:
            read = self._layout(heads, min(max(lengths), heads.selection.chosen * parts))
        per_run = fullest * passes * (read.score_multiplies + read.context_multiplies)
        fewest, budget = FEWEST_SAMPLES, MULTIPLY_BUDGET
        if self._cut:
            fewest, budget = FEWEST_CUT, CUT_MULTIPLIES
        samples = max(fewest, budget // per_run)
        exact = len(needed) <= samples
        if not exact:
            needed = _sampled(int(needed[0]), int(needed[-1]), samples)
        timed = [self._at(heads, batch, keys * parts) for keys in needed.tolist()]
        x = needed.astype(np.float64)
        time_ns = np.array([one.time_ns for one in timed])
        spread = max(one.spread for one in timed)
        return AttentionCurve(
            kind=CurveKind.EXACT if exact and not spread else CurveKind.INTERPOLATED,
            relative_error=spread if exact else spread + _leave_one_out(x, time_ns),
            heads_per_stack=shares[0].kv_heads * heads.group,
            passes_per_kv_head=passes,
            _keys_per_part=x,
            _time_ns=time_ns,
            _dram_pj=np.array([one.dram_pj for one in timed]),
            _alu_pj=np.array([one.alu_pj for one in timed]),
            _bound=_bounds(one.limiter for one in timed),
            _extra_parts=np.array([float(one.extra_parts) for one in timed]),
            _parts=parts,
            _chosen=None if heads.selection is None else _chosen_keys(timed),
        )

    def least_ns(self, heads: LayerHeads, length: int) -> float:
        """Return what each request adds at least to the time of one layer's attention.

        No channel ends before its multiplies, and no way to deal out heads beats an even one.

        Args:
            heads: of the layer.
            length: keys that the request attends to, as in `curve`.
        """
        if heads.selection is not None:
            return 0.0
        each = self._stack.least_ns(
            self._layout(heads, length), heads.queries, self._queries_per_read
        )
        return heads.kv_heads * each / self.channels

    def attend(self, heads: LayerHeads, lengths: Sequence[int]) -> AttaccAttention:
        """Time and cost one layer's attention of requests of any lengths, exactly.

        Args:
            heads: of the layer.
            lengths: keys that each request attends to.

        Raises:
            InputError: as in `curve`, or the schedule knows equal heads only.
        """
        keys = [length for length in lengths for _ in range(heads.kv_heads)]
        one = self._over_stacks(heads, keys)
        return AttaccAttention(
            time_ns=np.array([one.time_ns]),
            energy=Energies.of(dram_pj=one.dram_pj, alu_pj=one.alu_pj),
            bound=_bounds([one.limiter]),
            extra_parts=float(one.extra_parts),
            chosen=None if heads.selection is None else _chosen_keys([one]),
        )

    def logged(self, heads: LayerHeads, lengths: Sequence[int]) -> StackAttention:
        """Return the attention of one layer on the slowest stack, with every command.

        Args:
            heads: of the layer.
            lengths: keys that each request attends to.

        Raises:
            InputError: as in `attend`, or the layer chooses keys.
        """
        if heads.selection is not None:
            raise InputError(
                "commands of attention to chosen keys are not told",
                hint="name a model whose layers attend to all keys, or within windows",
            )
        own = self._stack
        stack = Stack(
            own.device,
            own.placement,
            power_limited=own.power_limited,
            schedule=own.schedule,
            logs=True,
        )
        keys = [length for length in lengths for _ in range(heads.kv_heads)]
        return self._attended_over(stack, heads, keys).slowest

    def written(
        self,
        heads: LayerHeads,
        decode: Batches,
        prompts: WrittenPrompts,
        attention_ns: F64,
        device_bytes_per_s: float,
    ) -> KvWrites:
        """Time and cost what one layer writes into the stacks in several steps.

        Heads of prompts lie as those of other requests do: whole, or in chunks of at most a
        channel's share of all keys. The channel with most writes counts.

        Args:
            heads: of the layer.
            decode: steps, whose requests store the keys and values of their new tokens.
            prompts: chunks of prompts that come beside them.
            attention_ns: attention of each step by itself.
            device_bytes_per_s: rate at which a device receives keys and values.

        Raises:
            InputError: as in `curve`.
        """
        each, table = self._writes_of(heads), self._table
        channels = self.channels
        together = table.heads_of_channel(heads.kv_heads) or 1
        new = prompts.tokens / np.maximum(1.0, prompts.chunks)
        if heads.ring is not None:
            new = np.minimum(new, heads.ring)
        chunk = np.full(new.shape, np.inf)
        if each.longest is not None and together == 1:
            fair = decode.keys * heads.kv_heads / channels
            chunk = np.clip(np.ceil(fair / each.grain) * each.grain, each.grain, each.longest)
        reached = prompts.chunks * heads.kv_heads / together * np.ceil(new / chunk)
        tokens = np.minimum(new, chunk) * together * np.ceil(reached / channels)
        writes = tokens * each.writes_per_token
        busy = np.clip(reached, table.devices, channels) / table.devices
        interval = busy * each.cycles_per_write(device_bytes_per_s)
        all_writes = prompts.chunks * new * heads.kv_heads * each.writes_per_token
        alone = each.alone if all_writes.any() else WritesAlone(0.0, 0.0)
        append_ns, append_pj = self._appended(heads, decode.requests)
        return KvWrites(
            append_ns=append_ns,
            append_energy=Energies.of(dram_pj=append_pj),
            beside_ns=added_beside(each, writes, interval, attention_ns),
            alone_ns=alone.time_ns * writes,
            prompt_energy=Energies.of(dram_pj=alone.energy_pj * all_writes),
        )

    def _appended(self, heads: LayerHeads, requests: F64) -> tuple[F64, F64]:
        """Return time and energy of storing the new tokens of decoding requests, for each step."""
        together = self._table.heads_of_channel(heads.kv_heads) or 1
        channels = self.channels
        of_channel = np.ceil(requests * heads.kv_heads / together / channels) * together
        distinct, place = np.unique(of_channel, return_inverse=True)
        each = [
            self._writes_of(heads).append(int(share), heads.tokens) for share in distinct.tolist()
        ]
        time_ns = np.array([one.time_ns for one in each])[place]
        energy_pj = np.array([one.energy_pj for one in each])[place]
        return time_ns, energy_pj * requests * heads.kv_heads / np.maximum(1.0, of_channel)

    def _find_writes(self, heads: LayerHeads) -> StackWrites:
        passes = QueryPasses.of(heads.queries, self._queries_per_read)
        return StackWrites(self._stack, self._key_layout(heads), passes)

    def _key_layout(self, heads: LayerHeads) -> KeyLayout:
        """Return how a key lies in a stack."""
        return self._stack.layout(
            1,
            heads.head_dim,
            heads.element,
            value_dim=heads.value_dim,
            key_slices=self._key_slices(heads),
            one_copy=heads.one_copy,
            queries_per_read=QueryPasses.of(heads.queries, self._queries_per_read).most,
        ).of_any_length

    def resident(self, heads: LayerHeads) -> bool:
        """Return whether heads can be followed in the channels in which they stay.

        Not those whose keys lie in a ring or are chosen, nor those that stay with other heads, nor
        those of a schedule with barriers.
        """
        return (
            self._stack.schedule is Schedule.INTERLEAVED
            and heads.ring is None
            and heads.selection is None
            and self._table.heads_of_channel(heads.kv_heads) is None
        )

    def empty_banks(
        self,
        heads: LayerHeads,
        layers: int,
        *,
        rows: int = 1,
        policy: Policy = Policy.RESIDENT,
    ) -> ResidentCounts:
        """Return the channels of all stacks, without requests.

        Args:
            heads: of every layer.
            layers: how many there are.
            rows: factor of the rows of every bank.
            policy: where new chunks go.
        """
        layout, device = self._key_layout(heads), self._stack.device
        growth = chunk_growth(device, layout, QueryPasses.of(heads.queries, self._queries_per_read))
        more = layout.organization.model_copy(update={"rows": rows * layout.organization.rows})
        return ResidentCounts(
            replace(layout, organization=more),
            stacks=self.stacks,
            layers=layers,
            heads=heads.kv_heads,
            growth=growth,
            policy=policy,
        )

    def attend_held(
        self, heads: LayerHeads, channels: Sequence[Sequence[int]]
    ) -> tuple[float, float, float]:
        """Time and cost attention of one layer in one stack, whose chunks stay where they are.

        Args:
            heads: of the layer.
            channels: keys of the chunks in each channel.

        Returns:
            Nanoseconds, and picojoules of cells and internal moves, and of units.

        Raises:
            InputError: as in `Stack.attend_held`.
        """
        run = self._stack.attend_held(
            channels,
            head_dim=heads.head_dim,
            element=heads.element,
            value_dim=heads.value_dim,
            key_slices=self._key_slices(heads),
            one_copy=heads.one_copy,
            query_tokens=heads.tokens,
            queries_per_kv_head=heads.group,
            queries_per_read=self._queries_per_read,
        )
        return run.time_ns, _dram_pj(run), _alu_pj(run)

    def _layout(self, heads: LayerHeads, length: int) -> HeadLayout:
        """Return how a head lies in a stack."""
        return self._stack.layout(
            length if heads.ring is None else min(length, heads.ring),
            heads.head_dim,
            heads.element,
            value_dim=heads.value_dim,
            key_slices=self._key_slices(heads),
            one_copy=heads.one_copy,
        )

    def _key_slices(self, heads: LayerHeads) -> int | None:
        """Return the slices of a key: of one access each for one copy in the banks, else few.

        One copy in slices of one access opens every row once (docs/model/heads.md).
        """
        if not heads.one_copy or self._stack.placement is not Placement.BANK:
            return None
        return self._stack.layout(1, heads.head_dim, heads.element, key_slices=1).columns_per_key

    def _at(self, heads: LayerHeads, batch: int, length: int) -> _OfStacks:
        """Attend to equal heads; in a ring that has moved on, on average over its oldest place."""
        if heads.ring is None or length <= heads.ring:
            return self._equal(heads, batch, length)
        step = max(1, heads.ring // RING_PLACES)
        places = [heads.ring + place for place in range(1, heads.ring + 1, step)]
        each = [self._equal(heads, batch, place) for place in places]
        time_ns = np.array([one.time_ns for one in each])
        return _OfStacks(
            time_ns=float(time_ns.mean()),
            dram_pj=float(np.mean([one.dram_pj for one in each])),
            alu_pj=float(np.mean([one.alu_pj for one in each])),
            limiter=each[int(time_ns.argmax())].limiter,
            extra_parts=each[0].extra_parts,
            spread=float(np.ptp(time_ns) / time_ns.mean()),
        )

    def _attend_equal(self, heads: LayerHeads, batch: int, length: int) -> _OfStacks:
        """Attend to equal heads."""
        together = self._table.heads_of_channel(heads.kv_heads)
        if self._cut or heads.selection is not None or together is not None:
            return self._over_stacks(heads, [length] * (batch * heads.kv_heads))
        shares = self._shares(batch * heads.kv_heads)
        runs = [(self._attend(heads, share.simulated, length), share) for share in shares]
        slowest = max((run for run, _ in runs), key=lambda run: run.time_ns)
        return _OfStacks(
            time_ns=slowest.time_ns,
            dram_pj=sum(_dram_pj(run) * share.weight for run, share in runs),
            alu_pj=sum(_alu_pj(run) * share.weight for run, share in runs),
            limiter=slowest.limiter,
            extra_parts=0,
        )

    def _over_stacks(self, heads: LayerHeads, keys: Sequence[int]) -> _OfStacks:
        """Attend to heads of any lengths."""
        if heads.selection is not None:
            return self._selected(heads, heads.selection, keys)
        over = self._attended_over(self._stack, heads, keys)
        each = [run for run in over.each if run is not None]
        return _OfStacks(
            time_ns=over.time_ns,
            dram_pj=sum(_dram_pj(run) for run in each),
            alu_pj=sum(_alu_pj(run) for run in each),
            limiter=over.slowest.limiter,
            extra_parts=over.parts - len(keys),
        )

    def _attended_over(
        self, stack: Stack, heads: LayerHeads, keys: Sequence[int]
    ) -> AttentionOfStacks:
        """Attend to heads of any lengths that are read whole, on stacks like this one."""
        return attend_over(
            stack,
            keys,
            stacks=self.stacks,
            head_dim=heads.head_dim,
            element=heads.element,
            value_dim=heads.value_dim,
            key_slices=self._key_slices(heads),
            one_copy=heads.one_copy,
            window=heads.window,
            query_tokens=heads.tokens,
            queries_per_kv_head=heads.group,
            queries_per_read=self._queries_per_read,
            cut=self._cut,
            placed=self._placed(heads),
        )

    def _placed(self, heads: LayerHeads) -> RequestPlacement | None:
        """Return how the heads of a request lie in one channel of each device, if they must."""
        together = self._table.heads_of_channel(heads.kv_heads)
        if together is None:
            return None
        return RequestPlacement(heads.kv_heads, together, self._table.devices)

    def _selected(self, heads: LayerHeads, selection: Selection, keys: Sequence[int]) -> _OfStacks:
        """Scan the index keys of heads of any lengths, and attend to the chosen keys.

        Index keys lie with the keys that they stand for. New tokens share the scan, and attend one
        after another, each to its own choice.
        """
        sizes = SelectedHeads(
            heads.head_dim,
            heads.element,
            value_dim=heads.value_dim,
            key_slices=self._key_slices(heads),
            one_copy=heads.one_copy,
            queries_per_kv_head=heads.group,
            queries_per_read=self._queries_per_read,
        )
        held = [
            own
            for own in selected_over(
                self._stack, keys, chosen=selection.chosen, stacks=self.stacks, sizes=sizes,
                cut=self._cut,
            )
            if own
        ]  # fmt: skip
        counted = Counter(held)
        ends = {own: selection_ends(self._stack, own, sizes) for own in counted}
        scans = {own: self._scans(selection, heads.tokens, own) for own in counted}
        runs = [(run, count) for own, count in counted.items() for run in ends[own].scattered]
        scanned = [(run, count) for own, count in counted.items() for run in scans[own]]
        tokens = heads.tokens
        slowest = max(ends.values(), key=lambda one: one.scattered_ns)
        longest = max(scans.values(), key=lambda own: sum(run.time_ns for run in own))
        return _OfStacks(
            time_ns=tokens * slowest.scattered_ns,
            dram_pj=tokens * sum(_dram_pj(run) * count for run, count in runs),
            alu_pj=tokens * sum(_alu_pj(run) * count for run, count in runs),
            limiter=max(slowest.scattered, key=lambda run: run.time_ns).limiter,
            extra_parts=sum(map(len, held)) - len(keys),
            clustered_ns=tokens * max(one.clustered.time_ns for one in ends.values()),
            scan_ns=sum(run.time_ns for run in longest),
            scan_limiter=max(longest, key=lambda run: run.time_ns).limiter
            if longest
            else Limiter.READS,
            scan_dram_pj=sum(_dram_pj(run) * count for run, count in scanned),
            scan_alu_pj=sum(_alu_pj(run) * count for run, count in scanned),
        )

    def _scans(
        self, selection: Selection, tokens: int, parts: Sequence[SelectedPart]
    ) -> tuple[StackProduct, ...]:
        """Return the scans of one stack: of each part of a request's index keys by itself.

        Sizes are rounded up to full channels, which changes no command.
        """
        if not selection.heads:
            return ()
        full = self._stack.device.organization.channels
        full *= self._products.column_grain(selection.element)
        return tuple(
            self._products.multiply(
                ProductShape(
                    selection.heads * tokens,
                    selection.dim,
                    -(-part.stored // full) * full,
                    selection.element,
                )
            )
            for part in parts
        )

    def _shares(self, kv_heads: int) -> list[_Share]:
        """Deal key/value heads out to the stacks: the fullest first."""
        least, fuller = divmod(kv_heads, self.stacks)
        if self._stack.schedule is Schedule.INTERLEAVED:
            shares = [
                _Share(least + 1, least + 1, fuller),
                _Share(least, least, self.stacks - fuller),
            ]
            return [share for share in shares if share.kv_heads and share.weight]
        # Behind barriers full rounds: channels that idle in a round change neither its time nor a
        # head's energy.
        heads = least + (fuller > 0)
        channels = self._stack.device.organization.channels
        filled = -(-heads // channels) * channels
        return [_Share(heads, filled, kv_heads / filled)]

    def _attend(self, heads: LayerHeads, kv_heads: int, length: int) -> StackAttention:
        return self._stack.attend(
            heads=kv_heads * heads.group,
            length=length,
            head_dim=heads.head_dim,
            element=heads.element,
            value_dim=heads.value_dim,
            key_slices=self._key_slices(heads),
            one_copy=heads.one_copy,
            window=heads.window,
            query_tokens=heads.tokens,
            queries_per_kv_head=heads.group,
            queries_per_read=self._queries_per_read,
        )


@dataclass(frozen=True)
class _Stated:
    """Identity of the AttAccs of a system: all that attention on them depends on."""

    system: ResolvedSystem = field(compare=False)
    device: str
    table: str
    cadence: int | None


_NOT_TIMED: Final = {
    "link",
    "capacity",
    "prefill_kv",
    "start_ns",
    "base_power_w",
    "link_power_w",
    "cost",
}
"""Keys of AttAccs on which attention inside their stacks does not depend."""


@lru_cache(maxsize=64)
def _attaccs(stated: _Stated) -> Attaccs:
    return Attaccs(stated.system, cadence=stated.cadence)


def attaccs_of(system: ResolvedSystem, *, cadence: int | None = None) -> Attaccs:
    """Return the AttAccs of a system, shared by all systems with equal ones.

    Args:
        system: as in `Attaccs`.
        cadence: as in `Attaccs`.

    Raises:
        UnknownNameError: as in `Attaccs`.
        InputError: as in `Attaccs`.
    """
    if system.attacc is None:
        raise EngineError(f"system {system.spec.name} has no AttAccs")
    table = system.attacc.table
    where = f"system {system.spec.name}: attacc.dram"
    device = DRAMS.load_name_or_file(table.dram, where=where).model_dump_json()
    stated = table.model_dump_json(exclude=_NOT_TIMED)
    return _attaccs(_Stated(system, device, stated, cadence))


def _sampled(first: int, last: int, samples: int) -> I64:
    """Return about `samples` whole numbers from first to last, unevenly spaced.

    Time rises in steps, one per group of moves. An even spacing by a multiple of a step would
    sample all steps at the same phase, and show no error.
    """
    index = np.arange(samples)
    spacing = (last - first) / (samples - 1)
    shift = 0.8 * (index * _GOLDEN % 1 - 0.5)
    shift[[0, -1]] = 0
    return np.unique(np.rint(first + spacing * (index + shift)).astype(np.int64))


def _chosen_keys(each: Sequence[_OfStacks]) -> ChosenKeys:
    return ChosenKeys(
        np.array([one.clustered_ns for one in each]),
        np.array([one.scan_ns for one in each]),
        _bounds(one.scan_limiter for one in each),
        Energies.of(
            dram_pj=[one.scan_dram_pj for one in each], alu_pj=[one.scan_alu_pj for one in each]
        ),
    )


def _bounds(limiters: Iterable[Limiter]) -> Codes:
    return np.array([BOUNDS.index(Bound(one)) for one in limiters], dtype=np.int8)


def _dram_pj(run: StackAttention | StackProduct) -> float:
    e = run.energy
    return e.activate_pj + e.cell_pj + e.read_path_pj + e.move_pj


def _alu_pj(run: StackAttention | StackProduct) -> float:
    return run.energy.multiply_pj + run.energy.softmax_pj


def _leave_one_out(x: F64, y: F64) -> float:
    """Return the largest relative distance of an inner point from the line of its neighbours."""
    slope = (y[2:] - y[:-2]) / (x[2:] - x[:-2])
    line = y[:-2] + slope * (x[1:-1] - x[:-2])
    return float(np.max(np.abs(line / y[1:-1] - 1)))
