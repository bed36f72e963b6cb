"""Element types, and which of them a model uses where."""

from __future__ import annotations

from enum import StrEnum

from pydantic import field_validator

from attacc.documents import Spec
from attacc.errors import UnknownNameError


class ElementType(StrEnum):
    """How one number is stored."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return _BITS[self]

    @property
    def bytes(self) -> float:
        """Bytes of one element; half a byte for int4."""
        return _BITS[self] / 8


_BITS = {
    ElementType.FP16: 16,
    ElementType.BF16: 16,
    ElementType.FP8: 8,
    ElementType.INT8: 8,
    ElementType.INT4: 4,
}


class BlockFormat(StrEnum):
    """Formats of weights whose blocks of elements share a scale.

    ``bytes`` counts the scales. Products of such weights are measured and priced apart from those
    of an `ElementType`.
    """

    FP8_BLOCK = "fp8_block"
    """`ElementType.FP8`: weights in blocks of 128 x 128, activations in groups of 128."""
    NVFP4 = "nvfp4"
    """Four bits, and a scale of 8 bits for 16 elements, of weights and activations."""
    MXFP4 = "mxfp4"
    """Four bits, and a scale of 8 bits for 32 elements; activations stay wider."""
    INT4_G128 = "int4_g128"
    """Four bits, and a scale of 16 bits for 128 elements (GPTQ, AWQ); activations have 16 bits."""
    INT4_G32 = "int4_g32"
    """Four bits, and a scale of 16 bits for 32 elements; activations have 16 bits."""

    @property
    def bits(self) -> float:
        """Bits of one element with its share of the scale."""
        return _BLOCK_BITS[self]

    @property
    def bytes(self) -> float:
        """Bytes of one element with its share of the scale."""
        return _BLOCK_BITS[self] / 8


_BLOCK_BITS = {
    BlockFormat.FP8_BLOCK: 8.0,
    BlockFormat.NVFP4: 4 + 8 / 16,
    BlockFormat.MXFP4: 4 + 8 / 32,
    BlockFormat.INT4_G128: 4 + 16 / 128,
    BlockFormat.INT4_G32: 4 + 16 / 32,
}

WeightType = ElementType | BlockFormat
"""How the weights of a product are stored."""


def kv_element(name: ElementType | str, *, where: str | None = None) -> ElementType:
    """Return the element type of keys and values that a name stands for.

    Args:
        name: of an element type, or the type.
        where: the option or argument that the name came from.

    Raises:
        UnknownNameError: there is none of this name, or only weights have it.
    """
    known = [element.value for element in ElementType if element is not ElementType.INT4]
    if name not in known:
        raise UnknownNameError("element type of keys and values", str(name), known, where=where)
    return ElementType(name)


class StoredWeights(StrEnum):
    """Formats that all weights of a model can be asked for in: those of numbers, and of blocks."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    FP8_BLOCK = "fp8_block"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"


class Precision(Spec):
    """Element types of weights, activations and the key/value cache.

    Attributes:
        weights: of every parameter.
        activations: of what flows between operators.
        kv: of the key/value cache.
    """

    weights: ElementType = ElementType.FP16
    activations: ElementType = ElementType.FP16
    kv: ElementType = ElementType.FP16

    @field_validator("activations", "kv")
    @classmethod
    def _is_computed_with(cls, element: ElementType) -> ElementType:
        if element is ElementType.INT4:
            raise ValueError("only weights are stored in int4: choose fp16, bf16, fp8 or int8")
        return element
