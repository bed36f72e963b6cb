"""How weights are stored: elements of few bits with their scales, and which weight has which form.

An `ElementFormat` tells the bytes of one matrix exactly, scales and zero points included. A
`WeightFormats` tells the format of every weight of a model. Linear layers have its default, apart
from the output head and routers; everything else has its wide format, of 16 bits. Rules change both
for weights by name and by layer. The arithmetic follows reference/model-architectures.md,
section 5.1. Scales of activations, which some checkpoints store beside the weights, are not
counted: they are one number for each matrix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Final

from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.errors import UnknownNameError
from attacc.models.layers import LayeredModel
from attacc.models.mixers import Size
from attacc.models.weights import Part, Weight
from attacc.units import MAX_SIZE

_Bits = Annotated[int, Field(ge=0, le=64)]
_LayerNumber = Annotated[int, Field(ge=0, le=MAX_SIZE)]
_BYTE: Final = 8
_FP32: Final = 32
EMBEDDING: Final = "embed_tokens"
"""The name of the embedding table, which MLX stores in few bits as well."""


class Spread(StrEnum):
    """What one scale belongs to."""

    NONE = "none"
    """There are no scales."""
    TENSOR = "tensor"
    """A whole matrix."""
    CHANNEL = "channel"
    """A row: all inputs of one output."""
    GROUP = "group"
    """So many inputs of one output."""
    TILE = "tile"
    """A rectangle of the matrix."""
    FLAT = "flat"
    """So many elements of the matrix, row after row, whatever its shape."""


class ElementFormat(Spec):
    """How the numbers of a matrix are stored.

    Attributes:
        name: what it is called.
        bits: of an element.
        scales: what one scale belongs to.
        scale_bits: of a scale; of scale and offset together, where both have a full number.
        zero_bits: of the zero point beside each scale; zero points of a group are packed along the
            outputs.
        group: elements that share a scale, along the inputs, where scales belong to groups.
        tile: outputs and inputs that share a scale, where scales belong to tiles.
        nested: scales that share one fp32 scale of their own; None where they have none.
        matrix_bits: of numbers that a matrix has besides, such as a scale of its scales.
        input_bits: of numbers that each input has besides, such as the order of the groups.
        word_bits: a row of elements is filled up to whole words of so many bits.
    """

    name: Annotated[str, Field(min_length=1)]
    bits: Annotated[int, Field(gt=0, le=64)]
    scales: Spread = Spread.NONE
    scale_bits: _Bits = 0
    zero_bits: _Bits = 0
    group: Size | None = None
    tile: tuple[Size, Size] | None = None
    nested: Size | None = None
    matrix_bits: _Bits = 0
    input_bits: _Bits = 0
    word_bits: Annotated[int, Field(ge=8, le=64)] = 8

    @model_validator(mode="after")
    def _is_consistent(self) -> ElementFormat:
        if (self.scales in (Spread.GROUP, Spread.FLAT)) != (self.group is not None):
            raise ValueError("group: give it where scales belong to groups, and nowhere else")
        if (self.scales is Spread.TILE) != (self.tile is not None):
            raise ValueError("tile: give it where scales belong to tiles, and nowhere else")
        if self.zero_bits and self.scales not in (Spread.GROUP, Spread.CHANNEL):
            raise ValueError("zero_bits: zero points belong to groups or to channels")
        return self

    def scale_count(self, outputs: int, inputs: int) -> int:
        """Return the scales of a matrix.

        Args:
            outputs: rows.
            inputs: columns.
        """
        if self.scales is Spread.NONE:
            return 0
        if self.scales is Spread.TENSOR:
            return 1
        if self.scales is Spread.CHANNEL:
            return outputs
        if self.tile is not None:
            return _ceil(outputs, self.tile[0]) * _ceil(inputs, self.tile[1])
        group = self.group or 1
        if self.scales is Spread.FLAT:
            return _ceil(outputs * inputs, group)
        return outputs * _ceil(inputs, group)

    def bytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of a matrix, scales and zero points included.

        Args:
            outputs: rows.
            inputs: columns.
        """
        if self.scales is Spread.FLAT:
            elements = _in_words(outputs * inputs * self.bits, self.word_bits)
        else:
            elements = outputs * _in_words(inputs * self.bits, self.word_bits)
        scales = self.scale_count(outputs, inputs)
        found = elements + _in_words(scales * self.scale_bits, _BYTE)
        if self.nested is not None:
            found += _ceil(scales, self.nested) * _FP32 // _BYTE
        if self.zero_bits:
            found += scales // outputs * _in_words(outputs * self.zero_bits, self.word_bits)
        return found + (self.matrix_bits + inputs * self.input_bits) // _BYTE

    @property
    def element_bytes(self) -> float:
        """Bytes of one element of a large matrix, with its share of the scales of its group."""
        shared = (self.scale_bits + self.zero_bits) / (self.group or 1) if self.group else 0.0
        if self.tile is not None:
            shared = self.scale_bits / (self.tile[0] * self.tile[1])
        if self.nested is not None:
            shared += _FP32 / (self.nested * (self.group or 1))
        return (self.bits + shared) / _BYTE


def _ceil(number: int, by: int) -> int:
    return -(-number // by)


def _in_words(bits: int, word: int) -> int:
    """Return the bytes of whole words that hold so many bits."""
    return _ceil(bits, word) * word // _BYTE


FP32: Final = ElementFormat(name="fp32", bits=32)
FP16: Final = ElementFormat(name="fp16", bits=16)
BF16: Final = ElementFormat(name="bf16", bits=16)
FP8: Final = ElementFormat(name="fp8", bits=8, scales=Spread.TENSOR, scale_bits=32)
"""One fp32 scale for each matrix."""
FP8_CHANNEL: Final = ElementFormat(name="fp8_channel", bits=8, scales=Spread.CHANNEL, scale_bits=32)
INT8: Final = ElementFormat(name="int8", bits=8, scales=Spread.TENSOR, scale_bits=32)
LLM_INT8: Final = ElementFormat(name="llm_int8", bits=8, scales=Spread.CHANNEL, scale_bits=32)
"""LLM.int8() of bitsandbytes: one fp32 scale for each row."""
NVFP4: Final = ElementFormat(
    name="nvfp4", bits=4, scales=Spread.GROUP, scale_bits=8, group=16, matrix_bits=32
)
"""e2m1 with an fp8 scale for 16, and an fp32 scale for each matrix."""
MXFP4: Final = ElementFormat(name="mxfp4", bits=4, scales=Spread.GROUP, scale_bits=8, group=32)
MXFP8: Final = ElementFormat(name="mxfp8", bits=8, scales=Spread.GROUP, scale_bits=8, group=32)
NF4: Final = ElementFormat(name="nf4", bits=4, scales=Spread.FLAT, scale_bits=32, group=64)
"""bitsandbytes in 4 bits; its fp4 takes as many bytes."""
NF4_DOUBLE: Final = ElementFormat(
    name="nf4_double", bits=4, scales=Spread.FLAT, scale_bits=8, group=64, nested=256
)
"""The same with scales of 8 bits, of which 256 share an fp32 scale."""


def fp8_block(rows: int = 128, columns: int = 128, *, scale_bits: int = 32) -> ElementFormat:
    """Return fp8 with one scale for each tile.

    Args:
        rows: outputs of a tile.
        columns: inputs of a tile.
        scale_bits: 32 for fp32, and 8 for UE8M0.
    """
    name = "fp8_block" if (rows, columns) == (128, 128) else f"fp8_block_{rows}x{columns}"
    return ElementFormat(
        name=name if scale_bits == _FP32 else f"{name}_scale{scale_bits}",
        bits=8, scales=Spread.TILE, scale_bits=scale_bits, tile=(rows, columns),
    )  # fmt: skip


FP8_BLOCK: Final = fp8_block()


def int_groups(
    bits: int, group: int | None, *, symmetric: bool = True, order: bool = False
) -> ElementFormat:
    """Return whole numbers as compressed-tensors packs them, with 16-bit scales.

    Args:
        bits: of an element.
        group: inputs that share a scale; None for a whole row.
        symmetric: there are no zero points.
        order: each input states its group, as 32 bits.
    """
    name = f"int{bits}_{_grouped(group)}{'' if symmetric else '_zeros'}{'_order' if order else ''}"
    return ElementFormat(
        name=name, bits=bits, scales=Spread.CHANNEL if group is None else Spread.GROUP,
        scale_bits=16, zero_bits=0 if symmetric else bits, group=group,
        input_bits=32 if order else 0, word_bits=32,
    )  # fmt: skip


def gptq(bits: int, group: int | None) -> ElementFormat:
    """Return GPTQ's form: packed zero points always, and the group of each input as 32 bits.

    Args:
        bits: of an element.
        group: inputs that share a scale; None for a whole row.
    """
    found = int_groups(bits, group, symmetric=False, order=True)
    return found.model_copy(update={"name": f"gptq_int{bits}_{_grouped(group)}"})


def awq(bits: int, group: int | None, *, zeros: bool = True) -> ElementFormat:
    """Return AWQ's form.

    Args:
        bits: of an element.
        group: inputs that share a scale; None for a whole row.
        zeros: there are packed zero points.
    """
    found = int_groups(bits, group, symmetric=not zeros)
    name = f"awq_int{bits}_{_grouped(group)}{'' if zeros else '_symmetric'}"
    return found.model_copy(update={"name": name})


def mlx(bits: int, group: int) -> ElementFormat:
    """Return MLX's affine form: a scale and a bias of 16 bits each for every group.

    Args:
        bits: of an element.
        group: inputs that share them.
    """
    return ElementFormat(
        name=f"mlx_int{bits}_g{group}", bits=bits, scales=Spread.GROUP, scale_bits=32,
        group=group, word_bits=32,
    )  # fmt: skip


def _grouped(group: int | None) -> str:
    return "channel" if group is None else f"g{group}"


FORMATS: Final[Mapping[str, ElementFormat]] = {
    known.name: known
    for known in (
        FP32, FP16, BF16, FP8, FP8_CHANNEL, FP8_BLOCK, fp8_block(scale_bits=8), INT8, LLM_INT8,
        int_groups(8, None), int_groups(4, 32), int_groups(4, 128),
        int_groups(4, 128, symmetric=False),
        gptq(4, 128), gptq(8, 128), awq(4, 128), NVFP4, MXFP4, MXFP8, NF4, NF4_DOUBLE,
        mlx(4, 64), mlx(8, 64),
    )
}  # fmt: skip
"""Formats that are known by name."""


def named_format(name: str, *, where: str | None = None) -> ElementFormat:
    """Return the format of a name.

    Args:
        name: as in `FORMATS`.
        where: the option or field that it came from.

    Raises:
        UnknownNameError: there is none of this name.
    """
    if name not in FORMATS:
        raise UnknownNameError("element format", name, FORMATS, where=where)
    return FORMATS[name]


def may_be_narrow(weight: Weight) -> bool:
    """Say whether a weight may be stored in few bits: a linear layer, or the embedding table.

    Args:
        weight: of a model.
    """
    return weight.linear or weight.name == EMBEDDING


class Rule(Spec):
    """A format for some weights.

    Attributes:
        name: of the weights, as `attacc.models.weights.Weight` has it; ``*`` stands for anything.
        format: of these weights; None for the wide format.
        first: the first layer that it holds for; None for all layers and what is outside them.
        last: the last one; None for all that follow.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    format: ElementFormat | None
    first: _LayerNumber | None = None
    last: _LayerNumber | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Rule:
        if self.last is not None and (self.first is None or self.last < self.first):
            raise ValueError("last: give a first layer before it, or none of both")
        return self

    def covers(self, name: str, layer: int | None) -> bool:
        """Say whether it holds for a weight.

        Args:
            name: of the weight.
            layer: the number of its layer; None outside the layers.
        """
        if self.first is not None:
            if layer is None or layer < self.first:
                return False
            if self.last is not None and layer > self.last:
                return False
        return self.name == name or fnmatchcase(name, self.name)


class WeightFormats(Spec):
    """The format of every weight of a model, and the type of its keys and values.

    Attributes:
        default: of linear layers, apart from the output head and routers.
        wide: of everything else.
        rules: what differs from this; the last one that covers a weight holds.
        kv: of keys and values; None where it is left to whoever serves the model.
        places: where they are stated.
        notes: what a reader of the numbers should know.
    """

    default: ElementFormat = BF16
    wide: ElementFormat = BF16
    rules: tuple[Rule, ...] = ()
    kv: ElementFormat | None = None
    places: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def without_rules(self, weight: Weight) -> ElementFormat:
        """Return the format that a weight has where no rule covers it.

        Args:
            weight: of a model.
        """
        return self.default if is_plain(weight) else self.wide

    def of(self, weight: Weight, layer: int | None) -> ElementFormat:
        """Return the format of a weight.

        Args:
            weight: of a model.
            layer: the number of its layer, from 0 on; None outside the layers.
        """
        if may_be_narrow(weight):
            for rule in reversed(self.rules):
                if rule.covers(weight.name, layer):
                    return rule.format or self.wide
        return self.without_rules(weight)


def is_plain(weight: Weight) -> bool:
    """Say whether a weight is one of those that have the default format.

    Args:
        weight: of a model.
    """
    return weight.linear and weight.part not in (Part.ROUTER, Part.HEAD, Part.EMBEDDING)


def each_weight(model: LayeredModel) -> Iterator[tuple[int | None, Weight]]:
    """Yield the weights of a model with the number of their layer, and None for those outside.

    Args:
        model: whose weights they are.
    """
    for weight in model.outside():
        yield None, weight
    for first, layer in model.each_layer():
        weights = model.of_layer(layer)
        for number in range(first, first + layer.repeat):
            for weight in weights:
                yield number, weight


def matrix_bytes(weight: Weight, stored: ElementFormat, model: LayeredModel) -> int:
    """Return the bytes of all equal matrices that a weight stands for.

    Args:
        weight: of the model.
        stored: its format.
        model: whose weight it is; the width of its embedding table counts.
    """
    outputs, inputs = weight.outputs, weight.inputs
    if weight.name == EMBEDDING:
        inputs = model.embedding_size or model.hidden_size
        outputs //= inputs
    return weight.count * stored.bytes(outputs, inputs)


def _all_bytes(
    model: LayeredModel, formats: WeightFormats
) -> Iterable[tuple[Weight, ElementFormat, int]]:
    for layer, weight in each_weight(model):
        stored = formats.of(weight, layer)
        yield weight, stored, matrix_bytes(weight, stored, model)


def weight_bytes(model: LayeredModel, formats: WeightFormats) -> dict[str, int]:
    """Return the bytes of a model's weights by the name of their format.

    Args:
        model: layer by layer.
        formats: of its weights.
    """
    found: Counter[str] = Counter()
    for _, stored, size in _all_bytes(model, formats):
        found[stored.name] += size
    return dict(found)


def part_bytes(model: LayeredModel, formats: WeightFormats) -> dict[Part, int]:
    """Return the bytes of a model's weights by the part that they belong to.

    Args:
        model: layer by layer.
        formats: of its weights.
    """
    found: Counter[Part] = Counter()
    for weight, _, size in _all_bytes(model, formats):
        found[weight.part] += size
    return dict(found)
