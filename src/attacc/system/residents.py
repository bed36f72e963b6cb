"""Attention of AttAccs to requests that stay in their channels, by sums over the fullest channel.

Channels of a stack do not wait for each other, so that the channel which takes longest decides. Its
time is nearly a line in its keys and its chunks: each key is read, and each chunk opens rows and
moves its queries, scores and contexts. `held_times` fits that line, and lines of energy, to
programs that the engine plays, of channels that `ResidentCounts` has filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import CapacityError
from attacc.gpu.costs import BOUNDS, Bound, Energies
from attacc.pim.limits import Limiter
from attacc.pim.mapping.resident_counts import CountedRequest, ResidentCounts
from attacc.system.attaccs import Attaccs
from attacc.system.layer_attention import AttaccAttention, LayerHeads

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Channels = tuple[tuple[int, ...], ...]
"""Keys of the chunks in each channel of a stack."""

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Requests in the channels that are fitted, as far as the banks have room for them."""
FULLEST: Final = 4
"""Fullest channels of each batch that are fitted."""
OTHERS: Final = 4
"""Further channels of each batch, drawn at random."""
MEDIAN_KEYS: Final = 1000.0
"""Median of the requests' lengths, which are distributed lognormally."""
SPREAD: Final = 1.0
"""Standard deviation of the logarithm of the lengths."""
MOST_STEPS: Final = 300
"""Most steps that the requests have grown by."""


@dataclass(frozen=True, slots=True)
class HeldTimes:
    """Attention of one layer to requests that stay in their channels.

    Attributes:
        ns: nanoseconds of a channel: for each key, for each chunk, and once.
        dram_pj: picojoules of cells and internal moves of a channel, likewise.
        alu_pj: picojoules of the units of a channel, likewise.
        error: largest relative deviation of the times of fullest channels that were not fitted.
    """

    ns: tuple[float, float, float]
    dram_pj: tuple[float, float, float]
    alu_pj: tuple[float, float, float]
    error: float

    def times(self, keys: I64 | F64, chunks: I64 | F64) -> F64:
        """Return nanoseconds of channels that hold something.

        Args:
            keys: (...) keys of each channel.
            chunks: (...) chunks of each channel.
        """
        each, chunk, once = self.ns
        return each * keys + chunk * chunks + once

    def ns_of(self, keys: int, chunks: int) -> float:
        """Return nanoseconds of one channel that holds something.

        Args:
            keys: its keys.
            chunks: its chunks.
        """
        each, chunk, once = self.ns
        return each * keys + chunk * chunks + once

    def attention(self, held: HeldKeys) -> AttaccAttention:
        """Return attention of one layer in several steps.

        Args:
            held: what the channels hold.
        """
        some = held.all_chunks > 0

        def energy(line: tuple[float, float, float]) -> F64:
            each, chunk, once = line
            channels = np.minimum(held.all_chunks, held.channels)
            return each * held.all_keys + chunk * held.all_chunks + once * channels

        return AttaccAttention(
            np.where(some, self.times(held.keys, held.chunks), 0.0),
            Energies.of(dram_pj=energy(self.dram_pj), alu_pj=energy(self.alu_pj)),
            np.full(some.size, BOUNDS.index(Bound(Limiter.READS)), dtype=np.int8),
        )


@dataclass(frozen=True, slots=True)
class HeldKeys:
    """What channels hold for one layer, in several steps.

    Attributes:
        keys: (steps,) keys in the channel that takes longest.
        chunks: (steps,) chunks in this channel.
        all_keys: (steps,) keys in all channels.
        all_chunks: (steps,) chunks in all channels; 0 where none decodes.
        channels: channels of all stacks.
    """

    keys: I64
    chunks: I64
    all_keys: I64
    all_chunks: I64
    channels: int


def held_in(counts: ResidentCounts, requests: Sequence[CountedRequest]) -> tuple[Channels, ...]:
    """Return the keys of the chunks in each channel of each stack.

    Args:
        counts: the channels.
        requests: all requests that are in them.
    """
    stacks, channels = counts.chunks.shape
    at, keys = counts.held(requests)
    order = np.argsort(at, kind="stable")
    ends = np.cumsum(np.bincount(at, minlength=stacks * channels)).tolist()
    each = keys[order].tolist()
    found = [tuple(each[first:end]) for first, end in pairwise((0, *ends))]
    return tuple(tuple(found[first : first + channels]) for first in range(0, len(found), channels))


@lru_cache(maxsize=64)
def held_times(attaccs: Attaccs, heads: LayerHeads, layers: int) -> HeldTimes:
    """Return lines through the times and energies of channels.

    Args:
        attaccs: whose channels.
        heads: of every layer.
        layers: how many there are, which decides how many requests have room.

    Raises:
        InputError: as in `Attaccs.attend_held`.
    """
    fitted, told = (_played(attaccs, heads, layers, seed) for seed in (0, 1))
    design = np.stack([fitted.keys, fitted.chunks, np.ones(fitted.keys.size)], axis=1)

    def line(values: F64) -> tuple[float, float, float]:
        # Long programs count by their relative deviations, short ones less.
        scale = values + np.median(values)
        found, *_ = np.linalg.lstsq(design / scale[:, None], values / scale, rcond=None)
        return float(found[0]), float(found[1]), float(found[2])

    ns = line(fitted.ns)
    found = HeldTimes(ns, line(fitted.dram_pj), line(fitted.alu_pj), 0.0)
    own = found.times(told.keys, told.chunks)[told.fullest]
    error = float(np.abs(own / told.ns[told.fullest] - 1).max())
    return HeldTimes(found.ns, found.dram_pj, found.alu_pj, error)


@dataclass(frozen=True, slots=True)
class _Played:
    """Channels that the engine played.

    Attributes:
        keys: (channels,) keys.
        chunks: (channels,) chunks.
        ns: (channels,) times.
        dram_pj: (channels,) energies of cells and internal moves.
        alu_pj: (channels,) energies of units.
        fullest: (channels,) whether they are among the fullest of their batch.
    """

    keys: I64
    chunks: I64
    ns: F64
    dram_pj: F64
    alu_pj: F64
    fullest: npt.NDArray[np.bool_]


def _played(attaccs: Attaccs, heads: LayerHeads, layers: int, seed: int) -> _Played:
    """Play channels that requests of random lengths have filled, each channel by itself."""
    random = np.random.default_rng(seed)
    rows: list[tuple[int, int, float, float, float, bool]] = []
    for batch in BATCHES:
        counts = attaccs.empty_banks(heads, layers)
        requests = _arrived(counts, batch, random)
        every = [own for stack in held_in(counts, requests) for own in stack if own]
        every.sort(key=sum, reverse=True)
        rest = max(0, len(every) - FULLEST)
        drawn = FULLEST + random.permutation(rest)[:OTHERS]
        chosen: list[int] = [*range(min(len(every), FULLEST)), *drawn.tolist()]
        empty: list[tuple[int, ...]] = [()] * (counts.chunks.shape[1] - 1)
        for number in chosen:
            own = every[number]
            played = attaccs.attend_held(heads, [own, *empty])
            rows.append((sum(own), len(own), *played, number < FULLEST))
        if len(requests) < batch:
            break
    keys, chunks, ns, dram, alu, fullest = zip(*rows, strict=True)
    return _Played(
        np.array(keys),
        np.array(chunks),
        np.array(ns),
        np.array(dram),
        np.array(alu),
        np.array(fullest),
    )


def _arrived(
    counts: ResidentCounts, batch: int, random: np.random.Generator
) -> list[CountedRequest]:
    """Let requests of random lengths arrive and grow, as long as the banks have room."""
    lengths = np.rint(MEDIAN_KEYS * np.exp(SPREAD * random.standard_normal(batch)))
    requests: list[CountedRequest] = []
    for length in np.maximum(1, lengths).astype(np.int64).tolist():
        try:
            requests.append(counts.arrive(length))
        except CapacityError:
            break
    for _ in range(int(random.integers(MOST_STEPS))):
        for full in counts.step():
            counts.free(full)
            requests.remove(full)
    return requests
