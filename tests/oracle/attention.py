"""Attention as the device computes it, in plain NumPy: no commands, no addresses, no buffers.

Follows the order of operations of docs/model/numerics.md, of one chunk after the other. Rounds by
its own means: a number is a whole multiple of the distance of its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

FORMATS = {
    # bits of the significand, least exponent, largest, what is beyond
    "fp32": (24, -126, (2 - 2.0**-23) * 2.0**127, np.inf),
    "bf16": (8, -126, (2 - 2.0**-7) * 2.0**127, np.inf),
    "fp16": (11, -14, 65504.0, np.inf),
    "fp8-e4m3": (4, -6, 448.0, np.nan),
    "fp8-e5m2": (3, -14, 57344.0, np.inf),
    "int8": (8, 7, 127.0, 127.0),
}
GAINS = {"int8": 127.0, "fp8-e4m3": 256.0, "fp8-e5m2": 32768.0}


@dataclass(frozen=True)
class Device:
    """A stack as far as it decides the order of operations."""

    placement: str
    pseudo_channels: int
    ranks: int
    groups: int
    banks: int
    access_bytes: int = 32
    buffer_words: int = 16


@dataclass(frozen=True)
class Numbers:
    """Formats and orders, as `attacc.pim.numerics.arithmetic.Arithmetic` has them."""

    operand: str = "fp16"
    probability: str = "fp16"
    multiplier: str = "fp16"
    adder: str = "fp16"
    accumulator: str = "fp16"
    lanes: int = 16
    tree: str = "pairwise"
    groups: str = "sequential"
    score: str = "fp16"
    context: str = "fp16"
    exponential: str = "exact"
    table_bits: int = 6
    softmax_lanes: int = 16
    normalization: str = "before"
    merge: str = "sequential"
    output: str = "fp16"
    overflow: str = "infinite"


def exact(q: F64, keys: F64, values: F64, scale: float) -> F64:
    """Attention in float64: q (queries, d), keys and values (length, d)."""
    scores = q @ keys.T * scale
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ values


def rounded(x: F64, to: str, overflow: str = "infinite") -> F64:
    """Round to the nearest value of a format, ties to even."""
    significand, least, largest, beyond = FORMATS[to]
    if overflow == "saturate":
        beyond = largest
    x = np.asarray(x, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        _, exponent = np.frexp(x)
        apart = 2.0 ** (np.maximum(exponent - 1, least) - significand + 1)
        near = np.where(np.isfinite(x), np.rint(x / apart) * apart, x)
    found = np.where(np.abs(near) > largest, np.copysign(beyond, x), near)
    return found + 0.0 if to == "int8" else found  # two's complement has no negative zero


def summed(terms: Sequence[F64], order: str, to: str, overflow: str) -> F64:
    """Add numbers up in an order, rounding every sum."""
    terms = list(terms)
    with np.errstate(invalid="ignore", over="ignore"):
        if order == "sequential":
            total = terms[0]
            for term in terms[1:]:
                total = rounded(total + term, to, overflow)
            return total
        while len(terms) > 1:
            pairs = [
                rounded(a + b, to, overflow) for a, b in zip(terms[::2], terms[1::2], strict=False)
            ]
            terms = pairs + terms[2 * len(pairs) :]
        return terms[0]


def stored(x: F64, to: str) -> tuple[F64, np.float32]:
    """Values of a format, and the scale that 8 bits need."""
    significand, _, largest, _ = FORMATS[to]
    if significand > 4 and to != "int8":
        return rounded(x, to), np.float32(1)
    scale = np.float32(np.abs(x).max(initial=0) / largest)
    scale = scale if scale > 0 else np.float32(1)
    return rounded(x / np.float64(scale), to, "saturate"), scale


def shift(most: float, numbers: Numbers, way: str) -> int:
    """By which power of two what is on its way has to be divided."""
    return (
        max(0, int(np.ceil(np.log2(most / FORMATS[way][2])))) if bits(numbers.operand) == 8 else 0
    )


def bits(of: str) -> int:
    return {"fp32": 32, "bf16": 16, "fp16": 16}.get(of, 8)


def exponential(x: F32, numbers: Numbers) -> F32:
    """e**x as the softmax computes it, for x of no more than 0."""
    with np.errstate(invalid="ignore", under="ignore"):
        if numbers.exponential == "exact":
            return np.exp(x.astype(np.float64)).astype(np.float32)
        y = np.maximum(x, np.float32(-160)) * np.float32(np.log2(np.e))
        whole = np.floor(y)
        size = 1 << numbers.table_bits
        powers = np.exp2(np.arange(size + 1) / size).astype(np.float32)
        place = (y - whole) * np.float32(size)
        index = np.minimum(np.nan_to_num(place).astype(np.int64), size - 1)
        step = (place - index.astype(np.float32)) * (powers[index + 1] - powers[index])
        value = (powers[index] + step).astype(np.float64) * np.exp2(whole.astype(np.float64))
        return value.astype(np.float32)


class Attention:
    """One head with its queries on a device."""

    def __init__(
        self,
        device: Device,
        numbers: Numbers,
        head_dim: int,
        value_dim: int | None = None,
        key_slices: int = 1,
        *,
        one_copy: bool = False,
    ) -> None:
        self.device, self.numbers, self.head_dim = device, numbers, head_dim
        self.value_dim = head_dim if value_dim is None else value_dim
        self.key_slices, self.one_copy = key_slices, one_copy
        self.n = device.access_bytes * 8 // bits(numbers.operand)
        self.shared = device.banks if device.placement == "bank" else 1
        whole = -(-head_dim // (self.shared * self.n))
        self.columns = -(-whole // key_slices)
        self.outputs = -(-self.value_dim // (self.shared * self.n))
        self.parts = device.pseudo_channels
        if device.placement != "buffer":
            self.parts *= device.ranks * device.groups

    def _split(self, x: F64, slices: int, columns: int) -> F64:
        """Cut the last axis into slices, banks, accesses and elements, zeros behind them."""
        whole = np.zeros((*x.shape[:-1], slices * self.shared * columns * self.n))
        whole[..., : x.shape[-1]] = x
        return whole.reshape(*x.shape[:-1], slices, self.shared, columns, self.n)

    def score(self, q: F64, keys: F64) -> F64:
        """(length,) scores in the softmax buffer: those of all slices, added up in fp32."""
        q, keys = (self._split(x, self.key_slices, self.columns) for x in (q, keys))
        moved = self._moved(q[0], keys[:, 0])
        with np.errstate(invalid="ignore", over="ignore"):
            for which in range(1, self.key_slices):
                more = self._moved(q[which], keys[:, which])
                moved = (moved.astype(np.float32) + more.astype(np.float32)).astype(np.float64)
        return moved

    def _moved(self, q: F64, keys: F64) -> F64:
        """(length,) scores of one slice on their way to the buffer die."""
        a = self.numbers
        with np.errstate(invalid="ignore"):
            products = rounded(q * keys, a.multiplier, a.overflow)
        sums: F64 | None = None
        for column in range(self.columns):
            for first in range(0, self.n, a.lanes):
                lanes = [products[..., column, first + i] for i in range(a.lanes)]
                term = summed(lanes, a.tree, a.adder, a.overflow)
                if sums is None:
                    sums = term
                else:
                    sums = summed([sums, term], "sequential", a.accumulator, a.overflow)
        assert sums is not None
        banks = [sums[:, bank] for bank in range(self.shared)]
        total = summed(banks, a.groups, a.accumulator, a.overflow)
        most = FORMATS[a.operand][2] ** 2 * self.head_dim
        return rounded(total * 2.0 ** -shift(most, a, a.score), a.score, a.overflow)

    def softmax(
        self, scores: F64, factor: np.float32, seen: npt.NDArray[np.bool_] | None = None
    ) -> tuple[np.float32, np.float32, F64]:
        """Greatest score, sum of exponentials, and what returns to the units.

        Keys that are not seen have the probability 0.
        """
        a = self.numbers
        seen = np.ones(len(scores), dtype=np.bool_) if seen is None else seen
        if not seen.any():
            return np.float32(-np.inf), np.float32(0), np.zeros(len(scores))
        with np.errstate(all="ignore"):
            x = scores.astype(np.float32) * factor
            known = x[~np.isnan(x) & seen]
            greatest = np.float32(known.max() if len(known) else -np.inf)
            e = np.where(seen, exponential(x - greatest, a), np.float32(0))
            lanes = np.zeros(a.softmax_lanes, dtype=np.float32)
            for first in range(0, len(e), a.softmax_lanes):
                row = e[first : first + a.softmax_lanes]
                lanes[: len(row)] = lanes[: len(row)] + row
            while len(lanes) > 1:
                pairs = lanes[: len(lanes) // 2 * 2].reshape(-1, 2)
                odd = lanes[len(pairs) * 2 :]
                lanes = np.concatenate([pairs[:, 0] + pairs[:, 1], odd])
            total = lanes[0]
            gain = np.float32(GAINS.get(a.probability, 1.0))
            if a.normalization == "before":
                gain = gain * (np.float32(1) / total)
            returned = rounded((e * gain).astype(np.float64), a.probability, a.overflow)
        return greatest, total, returned

    def context(
        self, probabilities: F64, values: F64, words: int, scale: np.float32, rotation: int = 0
    ) -> F32:
        """(value_dim,) context of a chunk in fp32, probabilities of so many words at a time.

        Keys of each part are read from one of them on, and around.
        """
        a, o = self.numbers, self.device
        own = -(-len(values) // self.parts)
        p = np.zeros((own * self.parts, 1, 1, 1))
        p[: len(values), 0, 0, 0] = probabilities
        v = np.zeros((own * self.parts, self.shared, self.outputs, self.n))
        v[: len(values)] = self._split(values, 1, self.outputs)[:, 0]
        with np.errstate(invalid="ignore", over="ignore"):
            products = rounded(p * v, a.multiplier, a.overflow)
        products = products.reshape(own, self.parts, self.shared, self.outputs, self.n)
        products = np.roll(products, -rotation, axis=0)
        most = GAINS.get(a.probability, 1.0) * FORMATS[a.operand][2] * o.buffer_words * self.n
        way = shift(most, a, a.context)
        arriving: list[F64] = []
        for first in range(0, own, words * self.n):
            phase = list(products[first : first + words * self.n])
            sums = summed(phase, "sequential", a.accumulator, a.overflow)
            if o.placement == "buffer":
                moved = [sums[part] for part in range(self.parts)]
            else:
                in_groups = sums.reshape(-1, o.groups, *sums.shape[1:])
                moved = [
                    summed(list(groups), a.groups, a.accumulator, a.overflow)
                    for groups in in_groups
                ]
            arriving += [rounded(one * 2.0**-way, a.context, a.overflow) for one in moved]
        total = summed(arriving, a.merge, "fp32", "infinite").astype(np.float32)
        by = np.float32(np.float64(scale) * 2.0**way / GAINS.get(a.probability, 1.0))
        with np.errstate(all="ignore"):
            return total.reshape(-1)[: self.value_dim] * by

    def attend(
        self,
        q: F64,
        keys: F64,
        values: F64,
        chunks: Sequence[tuple[int, int]],
        *,
        scale: float,
        words: int,
        oldest: int = 0,
        seen: tuple[int, int] | None = None,
        sink: float | None = None,
    ) -> F32:
        """(value_dim,) context of one query.

        Args:
            q: (head_dim,).
            keys: (length, head_dim).
            values: (length, value_dim).
            chunks: first place and length of each, in order.
            scale: of the scores.
            words: accesses of probabilities at a time.
            oldest: place of the first key; the others have the next ones, and around.
            seen: first key that the query sees, and one past the last; None for all.
            sink: a score beside those of the keys, that has no value; None for none.
        """
        a = self.numbers
        first, end = (0, len(keys)) if seen is None else seen
        visible = np.zeros(len(keys), dtype=np.bool_)
        visible[first:end] = True
        visible = np.roll(visible, oldest)
        keys, values = (np.roll(x, oldest, axis=0) for x in (keys, values))
        (qv, qs), (kv, ks), (vv, vs) = (stored(x, a.operand) for x in (q, keys, values))
        if self.one_copy:
            vv, vs = kv[:, : self.value_dim], ks
        most = FORMATS[a.operand][2] ** 2 * self.head_dim
        factor = np.float32(np.float64(qs) * np.float64(ks) * scale)
        factor = np.float32(np.float64(factor) * 2.0 ** shift(most, a, a.score))
        maxima: list[np.float32] = []
        totals: list[np.float32] = []
        contexts: list[F32] = []
        for start, length in chunks:
            own = slice(start, start + length)
            scores = self.score(qv, kv[own])
            greatest, total, returned = self.softmax(scores, factor, visible[own])
            inside = start <= oldest < start + length
            rotation = (oldest - start) // self.parts if inside else 0
            maxima.append(greatest)
            totals.append(total)
            contexts.append(self.context(returned, vv[own], words, vs, rotation))
        with np.errstate(all="ignore"):
            result = self._merge(maxima, totals, contexts, sink)
        return rounded(result.astype(np.float64), a.output, a.overflow).astype(np.float32)

    def _merge(
        self,
        maxima: Sequence[np.float32],
        totals: Sequence[np.float32],
        contexts: Sequence[F32],
        sink: float | None,
    ) -> F32:
        divided = self.numbers.normalization == "before"
        if divided and len(contexts) == 1 and sink is None:
            return contexts[0]
        greatest = max(maxima) if sink is None else max(*maxima, np.float32(sink))
        above, below = None, None
        for m, s, o in zip(maxima, totals, contexts, strict=True):
            weight = np.exp(np.float64(m - greatest)).astype(np.float32)
            term, part = (weight * s if divided else weight) * o, weight * s
            above = term if above is None else above + term
            below = part if below is None else below + part
        assert above is not None
        assert below is not None
        if sink is not None:
            below = below + np.exp(np.float64(np.float32(sink) - greatest)).astype(np.float32)
        return above * (np.float32(1) / below)
