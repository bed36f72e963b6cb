"""The arithmetic of the units and of the buffer die: formats, and orders of summation.

AttAcc, ASPLOS 2024, gives a unit 16 FP16 multipliers and 16 FP16 adders, and the buffer die FP32
lanes for the softmax (reference/attacc.md). Everything else is assumed; each assumed field says so.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.errors import InputError, UnknownNameError
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import SCORE_BYTES, KeyLayout
from attacc.pim.numerics.formats import Format, Overflow
from attacc.units import BITS_PER_BYTE

TABLE_BITS: Final = 8
"""Most bits that index the table of an exponential."""


class Order(StrEnum):
    """The order in which several numbers are added."""

    PAIRWISE = "pairwise"
    """Neighbours first, then neighbouring sums, and so on; a number without a neighbour waits."""
    SEQUENTIAL = "sequential"
    """One after the other, from the first."""


class Exponential(StrEnum):
    """How the softmax computes its exponential."""

    EXACT = "exact"
    """Rounded to the nearest float32."""
    TABLE = "table"
    """2**(x log2 e) in fp32, the fraction of the exponent interpolated in a table."""


class Normalization(StrEnum):
    """When exponentials are divided by their sum."""

    BEFORE = "before"
    """Before the context: probabilities return to the units."""
    AFTER = "after"
    """After the context: exponentials return to the units; the greatest of them is 1."""


class Arithmetic(Spec):
    """How a device computes attention.

    Attributes:
        operand: format of keys, values and queries in banks and vector buffers.
        probability: format of the values that the softmax returns. It is as wide as the operands,
            since an access of the vector buffer is multiplied with an access of a bank.
        multiplier: format of a product.
        adder: format of the adder tree of the score, which contains that of the products.
        accumulator: format of the accumulators, and of the sums over banks and bank groups on
            the way to the buffer die. It contains that of the adder tree.
        lanes: products that one pass through the tree adds up.
        tree: order of the adder tree.
        groups: order of the sums over the banks of a group (score) or over the bank groups of a
            rank (context). Assumed: one after the other, by an accumulator.
        score: format of a score that moves to the softmax, of 16 bits. Assumed.
        context: format of a part of the context that moves to the buffer die, of 16 bits. Assumed.
        exponential: how the exponential is computed. Assumed: exact.
        table_bits: bits of the exponent's fraction that index the table, if there is one.
        softmax_lanes: softmax lanes of a channel. Lane i adds exponentials i, i + lanes, ... in
            this order, and the lanes are added pairwise. The default is 256 lanes shared by 16
            channels; the order is assumed.
        normalization: when exponentials are divided by their sum. Assumed: before the context.
        merge: order in which the buffer die adds up, in fp32, the parts of a context that come
            from phases, pseudo-channels and ranks, the last varying fastest. Assumed.
        output: format of the context that leaves the stack.
        overflow: result for values that a floating-point format cannot hold.
    """

    operand: Format = Format.FP16
    probability: Format = Format.FP16
    multiplier: Format = Format.FP16
    adder: Format = Format.FP16
    accumulator: Format = Format.FP16
    lanes: int = Field(default=16, ge=1, le=256)
    tree: Order = Order.PAIRWISE
    groups: Order = Order.SEQUENTIAL
    score: Format = Format.FP16
    context: Format = Format.FP16
    exponential: Exponential = Exponential.EXACT
    table_bits: int = Field(default=6, ge=1, le=TABLE_BITS)
    softmax_lanes: int = Field(default=16, ge=1, le=1024)
    normalization: Normalization = Normalization.BEFORE
    merge: Order = Order.SEQUENTIAL
    output: Format = Format.FP16
    overflow: Overflow = Overflow.INFINITE

    @classmethod
    def of(cls, element: ElementType, *, fp8: Format = Format.E4M3) -> Arithmetic:
        """Return the default arithmetic for keys and values of an element type.

        For fp16 it is the paper's arithmetic. The paper gives none for other types. For these,
        products and sums are assumed to be in fp32 (sums of int8 are exact integers there, up to
        2**24), and 8-bit exponentials, whose greatest is 1, return in place of probabilities, which
        may all be tiny.

        Args:
            element: element type of keys and values.
            fp8: which of the two fp8 formats.

        Raises:
            InputError: there are no units for this type.
        """
        if element is ElementType.FP16:
            return cls()
        if element is ElementType.INT4 or (element is ElementType.FP8 and fp8.bits != _FP8_BITS):
            name = fp8 if element is ElementType.FP8 else element
            raise InputError(
                f"keys and values of {name} are not computed with",
                hint="use fp16, bf16, int8 or fp8 (fp8-e4m3 or fp8-e5m2)",
            )
        operand = fp8 if element is ElementType.FP8 else Format.named(element)
        wide = Format.FP32
        eight = operand.bits == _FP8_BITS
        return cls(
            operand=operand,
            probability=operand,
            multiplier=wide,
            adder=wide,
            accumulator=wide,
            normalization=Normalization.AFTER if eight else Normalization.BEFORE,
        )

    @model_validator(mode="after")
    def _check(self) -> Arithmetic:
        if Format.FP32 in (self.operand, self.probability):
            raise ValueError("operands and probabilities have 8 or 16 bits, fp32 has 32")
        if self.probability.bits != self.operand.bits:
            raise ValueError(
                f"probabilities in {self.probability} are not as wide as operands in {self.operand}"
            )
        for name in ("multiplier", "adder", "accumulator", "output"):
            if getattr(self, name) not in _COMPUTED:
                raise ValueError(f"{name} {getattr(self, name)}: choose fp16, bf16 or fp32")
        for name in ("score", "context"):
            if getattr(self, name).bits != SCORE_BYTES * BITS_PER_BYTE:
                raise ValueError(f"{name} {getattr(self, name)} does not have 16 bits")
        for narrow, wide in (("multiplier", "adder"), ("adder", "accumulator")):
            first, second = getattr(self, narrow), getattr(self, wide)
            if not second.contains(first):
                raise ValueError(f"{wide} {second} does not hold every value of {narrow} {first}")
        if self.lanes & (self.lanes - 1):
            raise ValueError(f"lanes = {self.lanes} is not a power of two")
        return self

    @property
    def gain(self) -> float:
        """Factor of probabilities that makes use of the whole range of their format.

        It is 127 in int8, a power of two in fp8 (whose small values are far apart), otherwise 1.
        """
        return _GAINS.get(self.probability, 1.0)

    def score_shift(self, head_dim: int) -> int:
        """Return the power of two by which scores are divided before they move.

        A score of 8-bit operands may be beyond a 16-bit format. The division is just large enough
        that no score is; this is assumed. The softmax undoes it.
        """
        return self._shift(self.operand.largest**2 * head_dim, self.score)

    def context_shift(self, keys: int) -> int:
        """Return the power of two by which parts of a context are divided before they move.

        Args:
            keys: most keys over which one unit sums.
        """
        return self._shift(self.gain * self.operand.largest * keys, self.context)

    def _shift(self, most: float, way: Format) -> int:
        if self.operand.bits > _FP8_BITS:
            return 0
        return max(0, math.ceil(math.log2(most / way.largest)))

    def check_layout(self, layout: KeyLayout) -> None:
        """Refuse a layout whose accesses do not suit the operands.

        Raises:
            InputError: elements have another width, or an access is not a whole number of passes
                through the adder tree.
        """
        if self.operand.bits != layout.element.bits:
            raise InputError(
                f"the arithmetic takes operands in {self.operand}, keys and values are laid out "
                f"as {layout.element}",
                hint=f"use Arithmetic.of({layout.element!s})",
            )
        if layout.elements_per_column % self.lanes:
            raise InputError(
                f"lanes = {self.lanes}: an access holds {layout.elements_per_column} elements",
                hint="use a number of lanes that divides it",
            )


_FP8_BITS: Final = 8
_COMPUTED: Final = (Format.FP16, Format.BF16, Format.FP32)
_GAINS: Final = {Format.INT8: 127.0, Format.E4M3: 256.0, Format.E5M2: 32768.0}


_FP8: Final = {"fp8": Format.E4M3, "fp8-e4m3": Format.E4M3, "fp8-e5m2": Format.E5M2}
_SUMS: Final = (Format.FP16, Format.FP32)


def kv_format(kv: str) -> tuple[ElementType, Format]:
    """Return the element type and the number format of keys and values that a name stands for.

    Args:
        kv: "fp16", "bf16", "int8", "fp8" (which is fp8-e4m3), "fp8-e4m3" or "fp8-e5m2".

    Raises:
        UnknownNameError: there is no such format.
    """
    known = ("fp16", "bf16", "int8", *_FP8)
    if kv not in known:
        raise UnknownNameError("format of keys and values", kv, known, where="kv")
    if kv in _FP8:
        return ElementType.FP8, _FP8[kv]
    return ElementType(kv), Format.named(kv)


def kv_arithmetic(kv: str, accumulate: str | None = None) -> Arithmetic:
    """Return how units compute with keys and values of a format.

    Args:
        kv: as in `kv_format`.
        accumulate: format of sums and products, "fp16" or "fp32"; None for fp16 (AttAcc's) with
            keys and values in fp16, and fp32 with others.

    Raises:
        UnknownNameError: there is no such format.
        InputError: sums cannot be in this format.
    """
    element, operand = kv_format(kv)
    if accumulate is not None and accumulate not in _SUMS:
        raise UnknownNameError("format of sums", accumulate, _SUMS, where="accumulate")
    if element is ElementType.FP16:
        if accumulate == Format.FP32:
            wide = Format.FP32
            return Arithmetic(multiplier=wide, adder=wide, accumulator=wide)
        return Arithmetic.of(element)
    if accumulate == Format.FP16:
        raise InputError(
            f"{kv} is not summed in fp16, which does not hold its products",
            where="accumulate",
            hint="leave it out, or say fp32",
        )
    return Arithmetic.of(element, fp8=operand)
