"""The AttAccs of a system: decode attention of a batch, of equal or of different lengths.

The key/value heads of all requests are dealt out to the stacks. A system states whether heads stay
whole, as in the papers, or are cut where that makes the fullest stack less full. A stack deals its
heads out to its channels, and cuts them where that makes the fullest channel less full. The stack
that ends last decides the time, since layers wait for all heads; energy counts all stacks. The
query heads that share a key/value head attend in the channels that hold it, `queries_per_read` at a
time, with a pass over the keys and values for each such set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import EngineError, InputError
from attacc.gpu.costs import Energies, EnergyBreakdown
from attacc.gpu.rates import AttaccRates
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import ResolvedSystem, Schedule
from attacc.models.mixers import Attention as AttentionMixer
from attacc.models.mixers import LatentAttention as LatentMixer
from attacc.models.mixers import Mixer
from attacc.models.operators import Attention, LatentAttention, Size
from attacc.models.parameters import AnyModel
from attacc.models.precision import ElementType
from attacc.models.served import served
from attacc.pim.energy.dram import DRAM_ENERGIES
from attacc.pim.energy.power import standby
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.stack import Stack, StackAttention
from attacc.pim.stacks import RequestPlacement, attend_over
from attacc.units import BITS_PER_BYTE

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MULTIPLY_BUDGET: Final = 4_000_000
"""Multiplies per channel that a curve may simulate before it is sampled instead."""
FEWEST_SAMPLES: Final = 9
RING_PLACES: Final = 8
"""Places of the oldest key at which a full ring is timed."""
_GOLDEN: Final = 0.618033988749895


@dataclass(frozen=True, slots=True, eq=False)
class AttaccAttention:
    """Decode attention of one layer on all AttAccs, in several steps.

    Arrays have one element for each step; a single element stands for all steps.

    Attributes:
        time_ns: time of the stack that finishes last.
        energy: energy of all stacks together: cells and internal moves as DRAM, units as ALU.
        softmax_ns: time of a softmax that is not part of ``time_ns``. It hides other work, and
            takes no time of its own, as in the published model (`published_softmax_ns`). It is 0
            where ``time_ns`` contains the softmax.
        extra_parts: parts of key/value heads that were cut over stacks, beyond one part a head.
            Queries go to every part, and each part returns a context, a maximum and a sum.
    """

    time_ns: F64
    energy: Energies
    softmax_ns: F64 | float = 0.0
    extra_parts: F64 | float = 0.0

    @classmethod
    def one(
        cls, time_ns: float, energy: EnergyBreakdown, softmax_ns: float = 0.0
    ) -> AttaccAttention:
        """Return the attention of one step, of heads that are whole."""
        return cls(np.array([time_ns]), Energies.equal(energy), softmax_ns)


class CurveKind(StrEnum):
    """How attention at the lengths of a curve was obtained."""

    EXACT = "exact"
    """Every length's program was timed."""
    INTERPOLATED = "interpolated"
    """Some lengths were timed, the others lie on straight lines between them."""


@dataclass(frozen=True, eq=False)
class AttentionCurve:
    """Attention of one layer of a batch, over the length of its keys.

    Attributes:
        kind: exact, or interpolated.
        relative_error: estimate that bounds the error of a mean over the lengths; 0 if exact. The
            largest deviation of a timed length from the line between its neighbours. Time rises
            in steps, so that a single length may be off by several times as much.
        heads_per_stack: query heads of the fullest stack.
        passes_per_kv_head: times that the keys and values of one head are read in a step.
    """

    kind: CurveKind
    relative_error: float
    heads_per_stack: int
    passes_per_kv_head: int
    _keys_per_part: F64
    _time_ns: F64
    _dram_pj: F64
    _alu_pj: F64
    _extra_parts: F64
    _parts: int

    def at(self, lengths: Sequence[int] | I64) -> AttaccAttention:
        """Return attention at lengths that the curve covers."""
        x = np.ceil(np.asarray(lengths, dtype=np.float64) / self._parts)

        def line(values: F64) -> F64:
            return np.atleast_1d(np.interp(x, self._keys_per_part, values))

        return AttaccAttention(
            time_ns=line(self._time_ns),
            energy=Energies.of(dram_pj=line(self._dram_pj), alu_pj=line(self._alu_pj)),
            extra_parts=line(self._extra_parts),
        )


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
    """Time and energy of the attention of one layer on all stacks together."""

    time_ns: float
    dram_pj: float
    alu_pj: float
    extra_parts: int
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerHeads:
    """The heads of one layer that AttAccs attend to, over all devices.

    Attributes:
        kv_heads: key/value heads.
        group: query heads that share one of them.
        head_dim: elements of a key.
        element: element type of keys and values.
        value_dim: elements of a value; None for head_dim.
        one_copy: the first elements of a key are its value, as in a record of latent attention.
        window: keys that a query attends to at most, the newest ones; None for all.
        chunk: a query attends to the keys of its own aligned chunk of so many; None for all.
        tokens: new tokens of a request in a step. Their queries share keys like those of a group.
    """

    kv_heads: int
    group: int
    head_dim: int
    element: ElementType
    value_dim: int | None = None
    one_copy: bool = False
    window: int | None = None
    chunk: int | None = None
    tokens: int = 1

    @classmethod
    def of(cls, mixer: Mixer, kv: ElementType, tokens: int = 1) -> LayerHeads | None:
        """Return the heads of a mixer; None where AttAccs cannot run it.

        Args:
            mixer: of a layer.
            kv: element type of keys and values.
            tokens: new tokens of a request in a step.
        """
        if isinstance(mixer, LatentMixer):
            if mixer.indexer is not None:
                return None
            return cls(
                1, mixer.heads, mixer.width, kv,
                value_dim=mixer.latent, one_copy=True, tokens=tokens,
            )  # fmt: skip
        if not isinstance(mixer, AttentionMixer) or mixer.selector or mixer.borrowed:
            return None
        return cls(
            mixer.kv_heads, mixer.heads // mixer.kv_heads, mixer.head_dim, kv,
            value_dim=mixer.value_dim, window=mixer.window, chunk=mixer.chunk, tokens=tokens,
        )  # fmt: skip

    @classmethod
    def of_model(cls, model: AnyModel) -> LayerHeads:
        """Return the heads of the first layers whose attention AttAccs can run.

        Args:
            model: the model.

        Raises:
            InputError: there are none.
        """
        whole = served(model)
        for layer in whole.model.layers:
            found = None if layer.mixer is None else cls.of(layer.mixer, whole.kv)
            if found is not None:
                return found
        raise InputError(f"{whole.name} has no attention that AttAccs run", where="model")

    @property
    def queries(self) -> int:
        """Queries that share a key: of the query heads of a group, and of all new tokens."""
        return self.group * self.tokens

    @property
    def ring(self) -> int | None:
        """Places for the keys of a window; None without one."""
        return None if self.window is None else self.window + self.tokens - 1

    def shared(self, keys: int) -> int:
        """Return the keys that requests with so many equal first keys share: all, or none."""
        return keys if self.window is None and self.chunk is None else 0

    def kept(self, keys: I64) -> I64:
        """Return the tokens of each request as stacks take them: of its chunk, or of all."""
        return keys if self.chunk is None else (keys - 1) % self.chunk + 1

    def seen(self, keys: I64) -> I64:
        """Return the keys that are attended to, for each number of keys of the context.

        A ring that is full and has moved on is told by one key more than it holds.
        """
        if self.ring is not None:
            return np.minimum(keys, self.ring + 1)
        return self.kept(keys)


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


class Attaccs:
    """The AttAccs of a system, ready to attend.

    Args:
        system: a system whose attention runs on AttAccs.
        cadence: cycles between multiplies of a bank's units in place of the power-limited ones.

    Attributes:
        stacks: stacks of all devices.
        stack_bytes: memory of one stack.
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
        self.stack_bytes = float(device.organization.stack_bytes)
        self._queries_per_read = table.queries_per_read
        self._table = table
        self._cut = table.cuts_heads
        try:
            self._stack = _stack(
                _StackKey(
                    device,
                    device.model_dump_json(),
                    table.placement,
                    table.power_limited,
                    table.schedule,
                )
            )
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
        per_run = fullest * passes * (longest.score_multiplies + longest.context_multiplies)
        samples = max(FEWEST_SAMPLES, MULTIPLY_BUDGET // per_run)
        exact = len(needed) <= samples
        if not exact:
            needed = _sampled(int(needed[0]), int(needed[-1]), samples)
        timed = [self._at(heads, batch, shares, keys * parts) for keys in needed.tolist()]
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
            _extra_parts=np.array([float(one.extra_parts) for one in timed]),
            _parts=parts,
        )

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
            extra_parts=float(one.extra_parts),
        )

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

    def _at(
        self, heads: LayerHeads, batch: int, shares: Sequence[_Share], length: int
    ) -> _OfStacks:
        """Attend to equal heads; in a ring that has moved on, on average over its oldest place."""
        if heads.ring is None or length <= heads.ring:
            return self._equal(heads, batch, shares, length)
        step = max(1, heads.ring // RING_PLACES)
        places = [heads.ring + place for place in range(1, heads.ring + 1, step)]
        each = [self._equal(heads, batch, shares, place) for place in places]
        time_ns = np.array([one.time_ns for one in each])
        return _OfStacks(
            time_ns=float(time_ns.mean()),
            dram_pj=float(np.mean([one.dram_pj for one in each])),
            alu_pj=float(np.mean([one.alu_pj for one in each])),
            extra_parts=each[0].extra_parts,
            spread=float(np.ptp(time_ns) / time_ns.mean()),
        )

    def _equal(
        self, heads: LayerHeads, batch: int, shares: Sequence[_Share], length: int
    ) -> _OfStacks:
        """Attend to equal heads."""
        if self._cut or self._table.heads_of_channel(heads.kv_heads) is not None:
            return self._over_stacks(heads, [length] * (batch * heads.kv_heads))
        runs = [(self._attend(heads, share.simulated, length), share) for share in shares]
        return _OfStacks(
            time_ns=max(run.time_ns for run, _ in runs),
            dram_pj=sum(_dram_pj(run) * share.weight for run, share in runs),
            alu_pj=sum(_alu_pj(run) * share.weight for run, share in runs),
            extra_parts=0,
        )

    def _over_stacks(self, heads: LayerHeads, keys: Sequence[int]) -> _OfStacks:
        """Attend to heads of any lengths."""
        over = attend_over(
            self._stack,
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
        each = [run for run in over.each if run is not None]
        return _OfStacks(
            time_ns=over.time_ns,
            dram_pj=sum(_dram_pj(run) for run in each),
            alu_pj=sum(_alu_pj(run) for run in each),
            extra_parts=over.parts - len(keys),
        )

    def _placed(self, heads: LayerHeads) -> RequestPlacement | None:
        """Return how the heads of a request lie in one channel of each device, if they must."""
        together = self._table.heads_of_channel(heads.kv_heads)
        if together is None:
            return None
        return RequestPlacement(heads.kv_heads, together, self._table.devices)

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


def _dram_pj(run: StackAttention) -> float:
    e = run.energy
    return e.activate_pj + e.cell_pj + e.read_path_pj + e.move_pj


def _alu_pj(run: StackAttention) -> float:
    return run.energy.multiply_pj + run.energy.softmax_pj


def _leave_one_out(x: F64, y: F64) -> float:
    """Return the largest relative distance of an inner point from the line of its neighbours."""
    slope = (y[2:] - y[:-2]) / (x[2:] - x[:-2])
    line = y[:-2] + slope * (x[1:-1] - x[:-2])
    return float(np.max(np.abs(line / y[1:-1] - 1)))


SCORE_BYTES: Final = 2
"""Bytes of a score, and of a probability, that crosses a link."""
PARTIAL_SUM_BYTES: Final = 8
"""Bytes that a part of a head returns with its context: a maximum and a sum of four bytes each."""


def query_bytes(op: Attention | LatentAttention, extra_parts: Size = 0.0) -> Size:
    """Return the bytes that one GPU sends for decode attention: a layer's queries, keys, values.

    Args:
        op: the attention of one GPU.
        extra_parts: parts of its key/value heads beyond one a head; each needs the queries.
    """
    if isinstance(op, LatentAttention):
        width, group, record = op.latent + op.rope_dim, op.heads, op.record
    else:
        width, group = op.head_dim, op.heads // op.kv_heads
        record = op.kv_heads * (op.head_dim + op.values) * op.kv.bytes
    queries = op.heads * width * op.activation.bytes
    again = extra_parts * group * width * op.activation.bytes
    return op.batch * op.queries * (queries + record) + again


def context_bytes(op: Attention | LatentAttention, extra_parts: Size = 0.0) -> Size:
    """Return the bytes that one GPU gets back from decode attention: the contexts of a layer.

    Args:
        op: the attention of one GPU.
        extra_parts: parts of its key/value heads beyond one a head; each returns a context.
    """
    latent = isinstance(op, LatentAttention)
    each = (op.latent if latent else op.values) * op.activation.bytes
    group = op.heads if latent else op.heads // op.kv_heads
    again = extra_parts * group * (each + PARTIAL_SUM_BYTES)
    return op.batch * op.queries * op.heads * each + again
