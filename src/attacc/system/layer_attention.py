"""The attention of one layer on AttAccs: which heads attend to what, and its cost in steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import InputError
from attacc.gpu.costs import Bound, Codes, Energies, EnergyBreakdown, Estimate, only
from attacc.models.mixers import Attention as AttentionMixer
from attacc.models.mixers import LatentAttention as LatentMixer
from attacc.models.mixers import Mixer
from attacc.models.parameters import AnyModel
from attacc.models.precision import ElementType
from attacc.models.served import served

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Selection:
    """How the keys that a new token attends to are chosen: by a scan of small keys of all tokens.

    Attributes:
        chosen: keys that are chosen at most.
        heads: index heads, each with a query; 0 where an earlier layer chose.
        dim: elements of an index key.
        element: their type.
    """

    chosen: int
    heads: int
    dim: int
    element: ElementType = ElementType.FP8


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
        tokens: new tokens of a request in a step. Their queries share keys like those of a group,
            except where each token attends to keys of its own choice.
        selection: how keys are chosen; None for attention to all keys.
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
    selection: Selection | None = None

    @classmethod
    def of(cls, mixer: Mixer, kv: ElementType, tokens: int = 1) -> LayerHeads | None:
        """Return the heads of a mixer; None where AttAccs cannot run it.

        Args:
            mixer: of a layer.
            kv: element type of keys and values.
            tokens: new tokens of a request in a step.
        """
        if isinstance(mixer, LatentMixer):
            selection, width, x = None, mixer.width, mixer.indexer
            if x is not None:
                selection = Selection(x.chosen, 0 if x.shared else x.heads, x.dim)
                # Rotated elements of 8-bit records have 16 bits: they take the room of two.
                width = mixer.latent + mixer.rope_dim * (2 if kv.bytes == 1 else 1)
            return cls(
                1, mixer.heads, width, kv, value_dim=mixer.latent, one_copy=True, tokens=tokens,
                selection=selection,
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
        own = self.window is not None or self.chunk is not None or self.selection is not None
        return 0 if own else keys

    def kept(self, keys: I64) -> I64:
        """Return the tokens of each request as stacks take them: of its chunk, or of all."""
        return keys if self.chunk is None else (keys - 1) % self.chunk + 1

    def seen_at_least(self, keys: int) -> int:
        """Return the keys that any context of at least so many keys attends to.

        A chunk begins anew at its multiples, so that a longer context may attend to fewer keys.
        """
        return 1 if self.chunk is not None else int(self.seen(np.array([keys]))[0])

    def seen(self, keys: I64) -> I64:
        """Return the keys that are attended to, for each number of keys of the context.

        A ring that is full and has moved on is told by one key more than it holds.
        """
        if self.ring is not None:
            return np.minimum(keys, self.ring + 1)
        return self.kept(keys)


@dataclass(frozen=True, slots=True, eq=False)
class ChosenKeys:
    """What sparse attention adds to `AttaccAttention`; arrays likewise.

    Attributes:
        clustered_ns: time of the attention if the chosen keys of a head were neighbours; the
            attention's own time is that of keys that lie apart (`attacc.pim.selection`).
        scan_ns: time of the scan of the stack that finishes it last; 0 where an earlier layer
            chose.
        scan_bound: what limits that scan, as codes of `attacc.gpu.costs.BOUNDS`.
        scan_energy: energy of the scan on all stacks.
    """

    clustered_ns: F64
    scan_ns: F64
    scan_bound: Codes
    scan_energy: Energies


@dataclass(frozen=True, slots=True, eq=False)
class AttaccAttention:
    """Decode attention of one layer on all AttAccs, in several steps.

    Arrays have one element for each step; a single element stands for all steps.

    Attributes:
        time_ns: time of the stack that finishes last.
        energy: energy of all stacks together: cells and internal moves as DRAM, units as ALU.
        bound: what limits that stack, as codes of `attacc.gpu.costs.BOUNDS`.
        softmax_ns: time of a softmax that is not part of ``time_ns``. It hides other work, and
            takes no time of its own, as in the published model (`published_softmax_ns`). It is 0
            where ``time_ns`` contains the softmax.
        extra_parts: parts of key/value heads that were cut over stacks, beyond one part a head.
            Queries go to every part, and each part returns a context, a maximum and a sum.
        chosen: what sparse attention adds; None for attention to all keys.
    """

    time_ns: F64
    energy: Energies
    bound: Codes
    softmax_ns: F64 | float = 0.0
    extra_parts: F64 | float = 0.0
    chosen: ChosenKeys | None = None

    @classmethod
    def one(
        cls, time_ns: float, energy: EnergyBreakdown, softmax_ns: float = 0.0
    ) -> AttaccAttention:
        """Return the attention of one step, of heads that are whole.

        Its program is not known, and neither is what limits it inside the stacks: memory.
        """
        return cls(np.array([time_ns]), Energies.equal(energy), only(Bound.MEMORY), softmax_ns)

    def take(self, chosen: I64) -> AttaccAttention:
        """Return attention to all keys in some of the steps.

        Args:
            chosen: their numbers.
        """
        return AttaccAttention(
            self.time_ns[chosen],
            Energies(self.energy.parts_pj[:, chosen]),
            self.bound[chosen],
            extra_parts=self.extra_parts,
        )

    @classmethod
    def joined(cls, steps: int, pieces: Sequence[tuple[I64, AttaccAttention]]) -> AttaccAttention:
        """Return attention of steps that were timed in pieces.

        Args:
            steps: number of steps.
            pieces: numbers of steps, and their attention; together all steps.
        """

        def over(each: Callable[[AttaccAttention], F64 | Codes | float]) -> F64:
            found = np.empty(steps)
            for places, piece in pieces:
                found[places] = each(piece)
            return found

        def energies(each: Callable[[AttaccAttention], Energies]) -> Energies:
            found = np.zeros((Energies.of().parts_pj.shape[0], steps))
            for places, piece in pieces:
                found[:, places] = each(piece).parts_pj
            return Energies(found)

        chosen = None
        if pieces and all(piece.chosen is not None for _, piece in pieces):
            chosen = ChosenKeys(
                over(lambda one: _chosen(one).clustered_ns),
                over(lambda one: _chosen(one).scan_ns),
                over(lambda one: _chosen(one).scan_bound).astype(np.int8),
                energies(lambda one: _chosen(one).scan_energy),
            )
        return cls(
            over(lambda one: one.time_ns),
            energies(lambda one: one.energy),
            over(lambda one: one.bound).astype(np.int8),
            extra_parts=over(lambda one: one.extra_parts),
            chosen=chosen,
        )


@dataclass(frozen=True, slots=True, eq=False)
class WrittenPrompts:
    """Chunks of prompts whose keys and values are written, in several steps.

    Attributes:
        chunks: (steps,) chunks of a step.
        tokens: (steps,) new tokens of all of them.
    """

    chunks: F64
    tokens: F64


@dataclass(frozen=True, slots=True, eq=False)
class KvWrites:
    """Keys and values of one layer that are written into the stacks, in several steps.

    Attributes:
        append_ns: time until those of the requests that decode are in the banks.
        append_energy: energy of these writes.
        beside_ns: time by which the writes of prompts make attention longer, if they begin with it.
        alone_ns: time of the writes of prompts in the channel with most of them, by themselves.
        prompt_energy: energy of these writes.
        arriving: whether other GPUs prefill the prompts, so that their keys and values come at any
            time of a step, and are means over steps.
    """

    append_ns: F64
    append_energy: Energies
    beside_ns: F64
    alone_ns: F64
    prompt_energy: Energies
    arriving: bool = False

    def of_arriving(self, prompts: F64) -> KvWrites:
        """Return the mean writes of steps to which prompts come from other GPUs.

        Args:
            prompts: (steps,) prompts for each step, where these are the writes of one.
        """
        return replace(
            self,
            beside_ns=self.beside_ns * prompts,
            alone_ns=self.alone_ns * prompts,
            prompt_energy=self.prompt_energy.times(prompts),
            arriving=True,
        )


WRITTEN: Final = (
    "writes of keys and values into the stacks of AttAccs: by small programs of one channel, which "
    "is within 1,000 cycles and 10 % of attention in full programs; keys of a prompt's head lie in "
    "few channels"
)
"""Note of attention beside which keys and values are written."""


def _chosen(attention: AttaccAttention) -> ChosenKeys:
    assert attention.chosen is not None  # noqa: S101 - asked only then
    return attention.chosen


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
    _bound: Codes
    _extra_parts: F64
    _parts: int
    _chosen: ChosenKeys | None = None

    def at(self, lengths: Sequence[int] | I64) -> AttaccAttention:
        """Return attention at lengths that the curve covers.

        What limits it is that of the nearest length that was timed.
        """
        x = np.ceil(np.asarray(lengths, dtype=np.float64) / self._parts)

        def line(values: F64) -> F64:
            return np.atleast_1d(np.interp(x, self._keys_per_part, values))

        chosen = self._chosen
        between = (self._keys_per_part[1:] + self._keys_per_part[:-1]) / 2
        nearest = np.atleast_1d(np.searchsorted(between, x))
        return AttaccAttention(
            time_ns=line(self._time_ns),
            energy=Energies.of(dram_pj=line(self._dram_pj), alu_pj=line(self._alu_pj)),
            bound=self._bound[nearest],
            extra_parts=line(self._extra_parts),
            chosen=None
            if chosen is None
            else ChosenKeys(
                line(chosen.clustered_ns),
                line(chosen.scan_ns),
                chosen.scan_bound[nearest],
                Energies(np.stack([line(part) for part in chosen.scan_energy.parts_pj])),
            ),
        )


SCAN_ON_ATTACC: Final = (
    "index scores on AttAccs: weighed and added over the index heads on the buffer die, assumed to "
    "take no time"
)


def ends_told(attention: AttaccAttention) -> tuple[Estimate, ...]:
    """Return what is told of attention to chosen keys: how far its two ends are apart."""
    if attention.chosen is None:
        return ()
    shares = attention.chosen.clustered_ns / attention.time_ns
    least, most = (f"{100 * float(share):.0f}" for share in (shares.min(), shares.max()))
    share = least if least == most else f"{least} to {most}"
    return (
        Estimate.always(
            "attention to chosen keys on AttAccs: as of keys that lie apart; keys that lie beside "
            f"each other take {share} % of its time"
        ),
    )
