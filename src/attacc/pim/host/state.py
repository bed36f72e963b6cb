"""The state of AttAccs: a model, its stored requests, and remembered plans with their costs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attacc.pim.host.costs import (
    PARTIAL_BYTES,
    SCALE_BYTES,
    AttaccHardware,
    AttendCost,
    KvShape,
    LinkBytes,
)
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.mapping.residence import (
    BankRows,
    Growth,
    Residence,
    ResidentChunk,
    ResidentRequest,
)
from attacc.pim.mapping.ring import NewTokens, rotation
from attacc.pim.numerics.resident import (
    Attender,
    BankStore,
    Placed,
    ResidentPlan,
    TokenPlaces,
)
from attacc.pim.numerics.sights import ChunkSights
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.timing.engine import TimedRun, count_by_name
from attacc.pim.timing.tables import TimingTables

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class KeptChunk:
    """A chunk, and where the store keeps its rows.

    Attributes:
        place: the chunk.
        kept: (layers, rows) number of each row of the chunk in the store.
    """

    place: ResidentChunk
    kept: I64


@dataclass(frozen=True, eq=False)
class Units:
    """The units of all stacks, in steps with a number of new tokens.

    Attributes:
        passes: how the queries that share keys and values are divided into passes.
        tables: the timing of the device.
        attender: the units.
    """

    passes: QueryPasses
    tables: TimingTables
    attender: Attender


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that have heads of the same sizes and the same window, and so the same chunks.

    Attributes:
        number: number of the group.
        shape: the shape that the host has set for these layers, and maybe for others.
        layout: how a key lies in the banks.
        units: the units of a step with so many new tokens, by their number less 1.
        growth: how requests may grow.
        tokens: which keys are stored: all, or those of a ring.
        layers: the layers.
        residence: which request has which rows in these layers.
    """

    number: int
    shape: KvShape
    layout: KeyLayout
    units: tuple[Units, ...]
    growth: Growth
    tokens: NewTokens
    layers: tuple[int, ...]
    residence: Residence

    @property
    def attender(self) -> Attender:
        """The units of a step with one new token, which also write tokens."""
        return self.units[0].attender

    @property
    def window(self) -> int | None:
        """Keys that a token sees at most; None for all."""
        (window,) = self.shape.windows or (None,)
        return window

    def runs(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """Return where consecutive tokens lie that are stored.

        Args:
            first: number of the first token.
            count: number of tokens, no more than a ring has places.

        Returns:
            For each run of consecutive places: its first place, and the tokens that lie there, from
            one of the given tokens to one before another.
        """
        places = self.tokens.places
        if places is None:
            return [(first, 0, count)]
        begin = first % places
        before = min(count, places - begin)
        runs = [(begin, 0, before), (0, before, count)]
        return [run for run in runs if run[1] < run[2]]


@dataclass(slots=True, eq=False)
class StoredLayers:
    """The stored keys and values of a request in the layers of a group.

    Attributes:
        resident: the chunks that it has been given.
        version: version of `resident` for which the following attributes are filled in.
        chunks: its chunks, head by head, in the order of their keys.
        places: where its tokens are written.
        devices: (chunks,) AttAcc that holds each chunk.
    """

    resident: ResidentRequest
    version: int = -1
    chunks: list[KeptChunk] = field(default_factory=list[KeptChunk])
    places: TokenPlaces | None = None
    devices: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def keep(self, store: BankStore, attender: Attender, layers: int, per_device: int) -> None:
        """Take rows of the store for chunks that are new.

        Args:
            store: the rows of all stacks.
            attender: the units.
            layers: layers of the group.
            per_device: stacks of an AttAcc.
        """
        known = {id(one.place): one for one in self.chunks}
        self.chunks = [
            known.get(id(chunk))
            or KeptChunk(chunk, store.take(chunk.rows.size).reshape(layers, -1))
            for chunk in self.resident.chunks()
        ]
        self.places = attender.token_places(
            [len(chunks) for chunks in self.resident.heads],
            [(one.place.start, one.place.capacity, one.kept) for one in self.chunks],
        )
        self.devices = np.array([one.place.stack // per_device for one in self.chunks])
        self.version = self.resident.version

    def busiest_share(self, runs: Sequence[tuple[int, int, int]], devices: int) -> float:
        """Return the largest share that one AttAcc holds of some tokens.

        Args:
            runs: where the tokens lie, as `LayerGroup.runs` says.
            devices: number of AttAccs.
        """
        if devices == 1:
            return 1.0
        starts = np.array([one.place.start for one in self.chunks])
        ends = np.array([one.place.end for one in self.chunks])
        own = np.zeros(len(starts), dtype=np.int64)
        for place, begin, end in runs:
            inside = np.minimum(ends, place + end - begin) - np.maximum(starts, place)
            own += np.maximum(inside, 0)
        by_device = np.bincount(self.devices, weights=own)
        return float(by_device.max() / by_device.sum())

    def turns(self, oldest: int, held: int, parts: int) -> tuple[int, ...]:
        """Return the key of each part with which reading each chunk begins.

        Args:
            oldest: place of the oldest key.
            held: keys that are stored.
            parts: parts into which the sequence of a chunk is cut.
        """
        if not oldest:
            return (0,) * len(self.chunks)
        each = [one.place for one in self.chunks]
        return tuple(rotation(oldest, at.start, at.keys(held), parts) for at in each)


@dataclass(slots=True, eq=False)
class StoredRequest:
    """The stored keys and values of a request.

    Attributes:
        serial: number of the request among all requests of the session.
        tokens: (layers,) tokens that each layer was given, those that were overwritten included.
        key_scales: for each layer, (kv_heads,) scales of the keys.
        value_scales: for each layer, (kv_heads,) scales of the values.
        groups: what is stored in each group of layers, by the number of the group.
    """

    serial: int
    tokens: I64
    key_scales: list[F32]
    value_scales: list[F32]
    groups: dict[int, StoredLayers] = field(default_factory=dict[int, StoredLayers])


@dataclass(slots=True, eq=False)
class CostedPlan:
    """A plan with its costs.

    Attributes:
        plan: the plan of all stacks.
        rows: (layers, rows) number in the store of each row of the plan.
        run: commands of all stacks, and the cycles of the slowest one.
        stacks: number of stacks that have keys to attend to.
        link: bytes that cross the links.
        busiest_bytes: bytes to the AttAcc that receives most, and from the one that sends most.
        lengths: keys of each request for which the following attributes are filled in.
        oldest: place of the oldest key of each request, likewise.
        chunk_lengths: keys of each chunk.
        sights: which keys of each chunk the queries see.
        cost: costs of attending.
    """

    plan: ResidentPlan
    rows: I64
    run: TimedRun
    stacks: int
    link: LinkBytes
    busiest_bytes: int
    lengths: list[int] = field(default_factory=list[int])
    oldest: list[int] = field(default_factory=list[int])
    chunk_lengths: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    sights: ChunkSights | None = None
    cost: AttendCost | None = None


class PlanKey(NamedTuple):
    """What a plan depends on.

    Attributes:
        group: number of the group of layers.
        tokens: new tokens of each request.
        merged: whether the host merges every head.
        quanta: keys of each request, in quanta.
        serials: serial numbers of the requests.
        versions: versions of their chunks.
        turns: per request, the key of each part with which reading each chunk begins.
    """

    group: int
    tokens: int
    merged: bool
    quanta: tuple[int, ...]
    serials: tuple[int, ...]
    versions: tuple[int, ...]
    turns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class HostState:
    """A model, and its stored requests.

    Attributes:
        shapes: the shapes that the host has set, for layers one after another.
        rows: the rows of the banks.
        groups: the layers of each shape and window.
        store: the contents of the rows.
        requests: stored requests by the host's numbers.
        plans: remembered plans by their key, the least recently used first.
    """

    shapes: tuple[KvShape, ...]
    rows: BankRows
    groups: tuple[LayerGroup, ...]
    store: BankStore
    requests: dict[int, StoredRequest] = field(default_factory=dict[int, StoredRequest])
    plans: OrderedDict[PlanKey, CostedPlan] = field(
        default_factory=OrderedDict[PlanKey, CostedPlan]
    )
    _serials: count[int] = field(default_factory=count)

    @cached_property
    def of_layers(self) -> tuple[tuple[LayerGroup, int], ...]:
        """For each layer, its group, and its number among the layers of the group."""
        each = {
            layer: (group, number)
            for group in self.groups
            for number, layer in enumerate(group.layers)
        }
        return tuple(each[layer] for layer in range(self.layers))

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return sum(shape.layers for shape in self.shapes)

    def opened(self) -> StoredRequest:
        """Return a new request that has no keys stored yet."""
        heads = [group.shape.kv_heads for group, _ in self.of_layers]
        return StoredRequest(
            next(self._serials),
            np.zeros(self.layers, dtype=np.int64),
            [np.ones(count, dtype=np.float32) for count in heads],
            [np.ones(count, dtype=np.float32) for count in heads],
        )


def plan_for(
    state: HostState,
    hardware: AttaccHardware,
    asked: Sequence[StoredRequest],
    key: PlanKey,
) -> CostedPlan:
    """Return the plan by which the stacks attend to some requests.

    Args:
        state: the model and its stored requests.
        hardware: the AttAccs.
        asked: the requests.
        key: what the plan depends on.

    Raises:
        InputError: queries or scores do not fit into the buffers of a channel.
    """
    group = state.groups[key.group]
    units, heads = group.units[key.tokens - 1], group.shape.kv_heads
    by_channel: dict[tuple[int, int], list[tuple[Placed, KeptChunk]]] = {}
    for position, (held, quanta, turns) in enumerate(
        zip(asked, key.quanta, key.turns, strict=True)
    ):
        for one, turned in zip(held.groups[key.group].chunks, turns, strict=True):
            at = one.place
            if keys := at.keys(quanta * group.growth.quantum):
                owner = position * heads + at.head
                placed = Placed(owner, at.start, at.capacity, keys, turned)
                by_channel.setdefault((at.stack, at.channel), []).append((placed, one))
    where = sorted(by_channel)
    for own in by_channel.values():
        # Longest first, as chunks are dealt out, independent of the order of the requests.
        own.sort(key=lambda one: (-one[0].length, asked[one[0].owner // heads].serial, one[0]))
    plan = ResidentPlan.of(
        units.attender,
        [[placed for placed, _ in by_channel[at]] for at in where],
        len(asked) * heads,
    )
    # A program names the rows of values that are part of keys by numbers of their own.
    names = 2 if group.shape.one_copy else 1
    rows = np.concatenate(
        [one.kept for at in where for _, one in by_channel[at] for _ in range(names)], axis=1
    )
    counts = np.sum([work.counts for work in plan.channel_works], axis=0)
    run = TimedRun(
        plan.cycles,
        plan.cycles * units.tables.clock_ns,
        count_by_name(counts, units.tables),
    )
    stacks_of: list[set[int]] = [set() for _ in range(len(asked) * heads)]
    for stack, channel in where:
        for placed, _ in by_channel[stack, channel]:
            stacks_of[placed.owner].add(stack)
    inward, outward = _link_bytes(
        group, hardware, stacks_of, queries=units.passes.queries, merged=key.merged
    )
    return CostedPlan(
        plan=plan,
        rows=np.ascontiguousarray(rows),
        run=run,
        stacks=len({stack for stack, _ in where}),
        link=LinkBytes(queries=int(inward.sum()), contexts=int(outward.sum())),
        busiest_bytes=int(inward.max()) + int(outward.max()),
    )


def _link_bytes(
    group: LayerGroup,
    hardware: AttaccHardware,
    stacks_of: Sequence[set[int]],
    *,
    queries: int,
    merged: bool,
) -> tuple[I64, I64]:
    """Return the bytes to and from each AttAcc.

    Args:
        group: the layers.
        hardware: the AttAccs.
        stacks_of: for each key/value head that attends, the stacks that hold a part of it.
        queries: queries that share each of these heads, of all new tokens.
        merged: whether the host merges every head, and not only those of several stacks.
    """
    shape, arithmetic = group.shape, group.attender.arithmetic
    query = shape.head_dim * arithmetic.operand.bits // 8
    if arithmetic.operand.bits == 8:
        query += SCALE_BYTES
    whole = shape.value_elements * arithmetic.output.bits // 8
    part = shape.value_elements * PARTIAL_BYTES + 2 * SCALE_BYTES
    inward = np.zeros(hardware.devices, dtype=np.int64)
    outward = np.zeros(hardware.devices, dtype=np.int64)
    for stacks in stacks_of:
        context = part if merged or len(stacks) > 1 else whole
        for stack in stacks:
            inward[stack // hardware.stacks_per_device] += queries * query
            outward[stack // hardware.stacks_per_device] += queries * context
    return inward, outward
