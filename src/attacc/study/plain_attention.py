"""Attention in the order of docs/model/numerics.md, in plain NumPy without commands and buffers.

Sums and products of fp16 are NumPy's own half precision, those of other formats its float32. The
module uses only two parts of the project: the rounding of 8-bit formats and bf16, and the powers of
two by which 8-bit sums are divided before they move. It covers the default arithmetic, and heads of
one chunk and one phase with one query each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attacc.hardware.dram import Organization
from attacc.hardware.placement import Placement
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization
from attacc.pim.numerics.formats import Format, Overflow

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Wide = npt.NDArray[np.floating[Any]]

BUFFER_WORDS = 16
"""Accesses of half a vector buffer (AttAcc, ASPLOS 2024: 512 B of 32 B)."""


@dataclass(frozen=True)
class PlainDevice:
    """The properties of a stack that decide the order of operations.

    Attributes:
        organization: organisation of the stack.
        placement: placement of its units.
        arithmetic: arithmetic of its units.
    """

    organization: Organization
    placement: Placement
    arithmetic: Arithmetic

    @property
    def sharing(self) -> int:
        """Banks that share a key."""
        return self.organization.banks if self.placement is Placement.BANK else 1

    @property
    def parts(self) -> int:
        """Parts over which the keys of a head are spread."""
        o = self.organization
        whole = o.pseudo_channels
        return whole if self.placement is Placement.BUFFER else whole * o.ranks * o.bank_groups

    @property
    def elements(self) -> int:
        """Elements of an access."""
        return self.organization.access_bytes * 8 // self.arithmetic.operand.bits

    def attend(self, query: F64, keys: F64, values: F64) -> F32:
        """Return the context of one query.

        Args:
            query: (head_dim,).
            keys: (length, head_dim).
            values: (length, head_dim).

        Returns:
            (head_dim,) context.
        """
        a = self.arithmetic
        (q, q_scale), (k, k_scale), (v, v_scale) = map(self._stored, (query, keys, values))
        shift = a.score_shift(query.size)
        factor = np.float32(np.float64(q_scale) * np.float64(k_scale) / np.sqrt(query.size))
        factor = np.float32(np.float64(factor) * 2.0**shift)
        returned, total = self._softmax(_half(self._scores(q, k), shift).astype(np.float32), factor)
        way = a.context_shift(BUFFER_WORDS * self.elements)
        context = self._context(returned, v, way)[: query.size]
        context = context * np.float32(np.float64(v_scale) * 2.0**way / a.gain)
        if a.normalization is Normalization.AFTER:
            context = context * (np.float32(1) / total)
        return context.astype(np.float16).astype(np.float32)

    def _stored(self, x: F64) -> tuple[Wide, np.float32]:
        to = self.arithmetic.operand
        if to is Format.FP16:
            return x.astype(np.float16), np.float32(1)
        if to.bits > np.dtype(np.uint8).itemsize * 8:
            return to.rounded(x).astype(np.float32), np.float32(1)
        scale = np.float32(np.abs(x).max() / to.largest)
        return to.rounded(x / np.float64(scale), Overflow.SATURATE).astype(np.float32), scale

    def _split(self, x: Wide) -> Wide:
        """Cut the last axis into banks, accesses and elements, padded with zeros."""
        columns = -(-x.shape[-1] // (self.sharing * self.elements))
        whole = np.zeros((*x.shape[:-1], self.sharing * columns * self.elements), dtype=x.dtype)
        whole[..., : x.shape[-1]] = x
        return whole.reshape(*x.shape[:-1], self.sharing, columns, self.elements)

    def _scores(self, query: Wide, keys: Wide) -> Wide:
        """Return (length,) scores as they arrive from the banks that share a key."""
        lanes = self.arithmetic.lanes
        products = self._split(query) * self._split(keys)
        passes = products.reshape(*products.shape[:2], -1, lanes)
        while passes.shape[-1] > 1:
            passes = passes[..., ::2] + passes[..., 1::2]
        return _one_after_the_other(_one_after_the_other(passes[..., 0], axis=2), axis=1)

    def _softmax(self, scores: F32, factor: np.float32) -> tuple[Wide, np.float32]:
        """Return (length,) values that return to the units, and the sum of exponentials."""
        a = self.arithmetic
        x = scores * factor
        e = np.exp((x - x.max()).astype(np.float64)).astype(np.float32)
        rows = np.zeros((-(-e.size // a.softmax_lanes), a.softmax_lanes), dtype=np.float32)
        rows.flat[: e.size] = e
        lanes = _one_after_the_other(rows, axis=0)
        while lanes.size > 1:
            lanes = lanes[::2] + lanes[1::2]
        gain = np.float32(a.gain)
        if a.normalization is Normalization.BEFORE:
            gain = gain * (np.float32(1) / lanes[0])
        if a.probability is Format.FP16:
            return (e * gain).astype(np.float16), lanes[0]
        return a.probability.rounded((e * gain).astype(np.float64)).astype(np.float32), lanes[0]

    def _context(self, returned: Wide, values: Wide, way: int) -> F32:
        """Return (head_dim and more,) the context on the buffer die."""
        own = -(-len(returned) // self.parts)
        p = np.zeros((own * self.parts, 1, 1, 1), dtype=returned.dtype)
        p[: len(returned), 0, 0, 0] = returned
        split = self._split(values)
        v = np.zeros((own * self.parts, *split.shape[1:]), dtype=values.dtype)
        v[: len(values)] = split
        sums = _one_after_the_other((p * v).reshape(own, self.parts, *split.shape[1:]), axis=0)
        if self.placement is not Placement.BUFFER:
            groups = sums.reshape(-1, self.organization.bank_groups, *split.shape[1:])
            sums = _one_after_the_other(groups, axis=1)
        arriving = _half(sums, way).astype(np.float32)
        return _one_after_the_other(arriving, axis=0).reshape(-1)


def _half(x: Wide, shift: int) -> npt.NDArray[np.float16]:
    """Divide by a power of two, and round to 16 bits."""
    return (x.astype(np.float64) * 2.0**-shift).astype(np.float16)


def _one_after_the_other(x: Any, *, axis: int) -> Any:
    """Add up along an axis, from the first on, rounding every sum to the type of the terms."""
    terms = np.moveaxis(x, axis, 0)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
