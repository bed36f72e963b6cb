"""A model as it is served: its layers, and the element types of all that it computes with.

Everything that is priced starts from here. A preset or a document of equal layers becomes one by
`served`, and so does a published checkpoint. The share of one device under tensor parallelism is a
served model, too (`ServedModel.share`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from attacc.errors import InputError
from attacc.models.architecture import AS_DOCUMENT, ModelSpec
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Attention
from attacc.models.precision import BlockFormat, ElementType, Precision, WeightType
from attacc.models.sharding import (
    UNSPLIT,
    Split,
    mixtures,
    share_of_layer,
    share_of_outside,
    valid_shares,
    valid_splits,
)
from attacc.models.storage.formats import ElementFormat, Spread, WeightFormats, matrix_bytes
from attacc.models.uniform import layered
from attacc.models.weights import Part, Weight

_FEW_INPUTS: Final = 64
"""Inputs that share a scale, below which a format of 4 bits is taken as one of groups of 32."""
_SIXTEEN: Final = 16


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Equal layers, wherever they stand, whose weights have equal formats.

    Attributes:
        layer: one of them.
        count: how many there are.
        formats: name of a weight -> its format, for the linear layers.
    """

    layer: Layer
    count: int
    formats: dict[str, ElementFormat]

    def stored_as(self, *names: str) -> WeightType:
        """Return the type of the first weight that exists, as products are priced.

        Args:
            names: names of weights, as in "self_attn.q_proj".

        Raises:
            InputError: products with such weights are not priced.
        """
        for name in names:
            if name in self.formats:
                return weight_type(self.formats[name])
        raise KeyError(names)


@dataclass(frozen=True)
class ServedModel:
    """A model as it is served.

    Attributes:
        model: layer by layer; on one device, the device's share of every layer.
        formats: of its weights.
        activations: element type of what flows between operators.
        kv: element type of keys and values.
        split: how devices share every layer.
        whole: the model that this is the share of; None for a whole one.
    """

    model: LayeredModel
    formats: WeightFormats
    activations: ElementType
    kv: ElementType
    split: Split = UNSPLIT
    whole: ServedModel | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.model.name

    @property
    def devices(self) -> int:
        """Devices that share every layer."""
        return self.split.devices

    def beyond_context(self, longest: int, prompt: int = 0) -> tuple[str, ...]:
        """Return a note where requests are longer than the model was made for, else nothing.

        Args:
            longest: tokens of the longest request.
            prompt: tokens of the longest prompt, which is told where it is too long by itself.
        """
        made_for = self.model.max_context
        if made_for is None or longest <= made_for:
            return ()
        told = f"requests of up to {longest:,} tokens"
        if prompt > made_for:
            told = f"prompts of up to {prompt:,} tokens and {told}"
        return (f"{told}, of a model that was made for {made_for:,}",)

    @cached_property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The layers by kind, in the order in which kinds first occur.

        Those of a share are the shares of those of the whole.
        """
        if self.whole is not None:
            return tuple(
                LayerGroup(share_of_layer(group.layer, self.split), group.count, group.formats)
                for group in self.whole.groups
            )
        counts: dict[tuple[Layer, tuple[tuple[str, ElementFormat], ...]], int] = {}
        for first, layer in self.model.each_layer():
            one = layer.model_copy(update={"repeat": 1})
            weights = [w for w in self.model.of_layer(layer) if w.linear]
            if not self.formats.rules:
                found = tuple((w.name, self.formats.of(w, first)) for w in weights)
                counts[one, found] = counts.get((one, found), 0) + layer.repeat
                continue
            for number in range(first, first + layer.repeat):
                found = tuple((w.name, self.formats.of(w, number)) for w in weights)
                counts[one, found] = counts.get((one, found), 0) + 1
        return tuple(LayerGroup(key[0], count, dict(key[1])) for key, count in counts.items())

    @cached_property
    def draft_groups(self) -> tuple[LayerGroup, ...]:
        """The layers of one draft module; empty without any."""
        if self.whole is not None:
            return tuple(
                LayerGroup(share_of_layer(group.layer, self.split), group.count, group.formats)
                for group in self.whole.draft_groups
            )
        if self.model.draft is None:
            return ()
        behind = self.model.layer_count
        found: list[LayerGroup] = []
        for layer in self.model.draft.layers:
            weights = [weight for weight in self.model.of_layer(layer) if weight.linear]
            formats = {weight.name: self.formats.of(weight, behind) for weight in weights}
            one = layer.model_copy(update={"repeat": 1})
            found.append(LayerGroup(one, layer.repeat, formats))
        return tuple(found)

    def step_layers(self, queries: int) -> list[tuple[Layer, int]]:
        """Return the kinds of layers of a decode step in order, with the tokens of each request.

        Where drafts are verified, what stands outside the draft's layers comes first of the draft,
        as a layer without parts; then come its layers, one token at a time.

        Args:
            queries: tokens of each request that the model's own layers compute.
        """
        found = [(group.layer, queries) for group in self.groups]
        if queries > 1 and self.draft_groups:
            found += [(Layer(), 1), *((group.layer, 1) for group in self.draft_groups)]
        return found

    @cached_property
    def draft_bytes(self) -> float:
        """Bytes of the weights of all draft modules."""
        if self.model.draft is None:
            return 0.0
        modules = self.model.draft.modules
        layers = sum(size for group in self.draft_groups for _, size in self._sizes(group))
        wide, hidden = self.formats.wide.element_bytes, self.model.hidden_size
        own = self.model.draft
        besides = 2 * hidden * hidden * own.projection + own.norms * self.model.norm_width
        return modules * (layers + (besides + own.other) * wide)

    def format_of(self, name: str) -> ElementFormat:
        """Return the format of a weight outside the layers; the wide one where it is not there."""
        for weight in self.model.outside():
            if weight.name == name:
                return self.formats.of(weight, None)
        return self.formats.wide

    @cached_property
    def by_part(self) -> dict[Part, int]:
        """Parameters of each part."""
        return self.model.by_part()

    @cached_property
    def weight_bytes(self) -> float:
        """Bytes of all weights, scales included."""
        return sum(self.bytes_by_part.values())

    @cached_property
    def bytes_by_part(self) -> dict[Part, float]:
        """Bytes of the weights of each part, scales included."""
        found = dict.fromkeys(Part, 0.0)
        for weight in self.model.outside():
            found[weight.part] += self._bytes(weight, self.formats.of(weight, None))
        for group in self.groups:
            for weight, size in self._sizes(group):
                found[weight.part] += size
        return found

    def _sizes(self, group: LayerGroup) -> Iterator[tuple[Weight, float]]:
        """Yield the weights of some layers with the bytes of all of them."""
        for weight in self.model.of_layer(group.layer):
            stored = group.formats.get(weight.name, self.formats.without_rules(weight))
            yield weight, group.count * self._bytes(weight, stored)

    def _bytes(self, weight: Weight, stored: ElementFormat) -> float:
        if stored.scales is Spread.NONE and not stored.matrix_bits and not stored.input_bits:
            return weight.numbers * stored.bits / 8
        return matrix_bytes(weight, stored, self.model)

    @cached_property
    def _shares(self) -> dict[Split, ServedModel]:
        return {}

    def share(self, split: int | Split) -> ServedModel:
        """Return what one device has of every layer (`attacc.models.sharding`).

        Args:
            split: how devices share every layer; a number is tensor parallelism alone.

        Raises:
            InputError: the model cannot be split in this way.
        """
        split = Split.of(split)
        if split.devices == self.devices == 1:
            return self
        if split not in self._shares:
            refusal = split_refusal(self, split)
            if refusal is not None:
                raise refusal
            layers = tuple(share_of_layer(layer, split) for layer in self.model.layers)
            changes = share_of_outside(self.model, split) | {"layers": layers}
            self._shares[split] = ServedModel(
                self.model.model_copy(update=changes),
                self.formats,
                self.activations,
                self.kv,
                split,
                self,
            )
        return self._shares[split]

    @property
    def stated_formats(self) -> WeightFormats:
        """The formats of the weights, with the type of keys and values."""
        return self.formats.model_copy(update={"kv": plain_format(self.kv)})

    @property
    def weights_name(self) -> str:
        """What most parameters of the layers are stored as."""
        return self.weights_format.name

    @cached_property
    def weights_format(self) -> ElementFormat:
        """The format of most parameters of the layers."""
        numbers: Counter[ElementFormat] = Counter()
        for group in self.groups:
            for weight in self.model.of_layer(group.layer):
                stored = group.formats.get(weight.name, self.formats.wide)
                numbers[stored] += group.count * weight.numbers
        return numbers.most_common(1)[0][0]

    def full_attention(self) -> Attention:
        """Return the mixer of the first layers with heads of keys and values.

        Raises:
            InputError: the model has none.
        """
        for layer in self.model.layers:
            if isinstance(layer.mixer, Attention):
                return layer.mixer
        raise InputError(f"{self.name} has no attention with heads of keys", where="model")


def valid_tensor_parallel(
    model: ModelSpec | ServedModel, *, mixer_groups: int = 1, expert_parts: int = 1
) -> list[int]:
    """Return the numbers of devices that a model can be split over, rising.

    Args:
        model: the model.
        mixer_groups: as in `Split`.
        expert_parts: as in `Split`.
    """
    return valid_shares(served(model).model, mixer_groups=mixer_groups, expert_parts=expert_parts)


def splits_of(model: ModelSpec | ServedModel, devices: int) -> list[Split]:
    """Return the splits of a model over a number of devices, rising.

    Args:
        model: the model.
        devices: all devices.
    """
    return valid_splits(served(model).model, devices)


def split_refusal(model: ServedModel, split: Split) -> InputError | None:
    """Return the error of a split that does not exist; None where it does.

    Args:
        model: the model.
        split: how devices would share it.
    """
    layers, groups = model.model, split.mixer_groups
    of_mixers = valid_shares(layers, mixer_groups=groups)
    if split.devices < 1 or split.devices not in of_mixers:
        if groups == 1:
            return InputError(
                f"tensor parallelism {split.devices} does not split the {heads_words(layers)} of "
                f"{model.name}",
                where="tensor_parallel",
                hint=f"use one of {', '.join(map(str, of_mixers))}",
            )
        return InputError(
            f"groups of {split.mixer_devices} devices do not split the {heads_words(layers)} of "
            f"{model.name}",
            where="dp",
            hint=f"use groups of one of {', '.join(map(str, valid_shares(layers)))} devices",
        )
    if split in valid_splits(layers, split.devices):
        return None
    parts = [
        one.expert_parts
        for one in valid_splits(layers, split.devices)
        if one.mixer_groups == groups
    ]
    return InputError(
        f"{split.expert_parts} parts of {split.expert_devices} devices do not divide the "
        f"{experts_words(layers)} of {model.name}",
        where="ep",
        hint=f"use one of {', '.join(map(str, parts))}",
    )


def heads_words(model: LayeredModel) -> str:
    """Return the heads of a model in words: "64 query heads and 8 key/value heads"."""
    found: list[str] = []
    for layer in model.layers:
        mixer = layer.mixer
        if mixer is None or mixer.kind == "linear":
            continue
        if isinstance(mixer, Attention):
            words = f"{mixer.heads} query heads and {mixer.kv_heads} key/value heads"
        elif mixer.kind == "delta_net":
            words = f"{mixer.key_heads} key heads and {mixer.value_heads} value heads"
        elif mixer.kind == "mamba2":
            words = f"{mixer.heads} heads and {mixer.groups} groups"
        else:
            words = f"{mixer.heads} query heads"
        if words not in found:
            found.append(words)
    return ", ".join(found) or "layers"


def experts_words(model: LayeredModel) -> str:
    """Return the routed experts of a model in words: "128 experts of width 1,536"."""
    found = [f"{one.here} experts of width {one.width:,}" for one in mixtures(model)]
    return ", ".join(dict.fromkeys(found)) or "layers without experts"


def served(model: ModelSpec | ServedModel) -> ServedModel:
    """Return a model as it is served.

    All weights of a `ModelSpec` have one type, embeddings and norms too.

    Args:
        model: a preset, a document, or a model that is served already.
    """
    if isinstance(model, ServedModel):
        return model
    key = id(model)
    known = _KNOWN.get(key)
    if known is None or known[0] is not model:
        known = model, served_layers(layered(model), model.precision)
        if len(_KNOWN) >= _REMEMBERED:
            _KNOWN.clear()
        _KNOWN[key] = known
    return known[1]


_KNOWN: Final[dict[int, tuple[ModelSpec, ServedModel]]] = {}
_REMEMBERED: Final = 256


def served_layers(model: LayeredModel, precision: Precision) -> ServedModel:
    """Return a model of layers all of whose weights have one type.

    Args:
        model: the model.
        precision: its element types.
    """
    plain = plain_format(precision.weights)
    return ServedModel(
        model.model_copy(update={"precision": precision}),
        WeightFormats(default=plain, wide=plain),
        precision.activations,
        precision.kv,
    )


def plain_format(element: ElementType) -> ElementFormat:
    """Return the format of numbers of an element type, without scales.

    Args:
        element: the element type.
    """
    return ElementFormat(name=element.value, bits=element.bits)


def element_type(stored: ElementFormat, what: str) -> ElementType:
    """Return the element type of activations, or of keys and values, for a format.

    Raises:
        InputError: nothing is computed in it.
    """
    wide = {"fp32": ElementType.FP16, "fp16": ElementType.FP16, "bf16": ElementType.BF16}
    if stored.name in wide:
        return wide[stored.name]
    if stored.bits == 8:
        return ElementType.FP8 if "fp8" in stored.name else ElementType.INT8
    raise InputError(
        f"{what} in {stored.name} are described but not priced",
        where="model",
        hint=f"name another type, or {AS_DOCUMENT}; attacc model tells their bytes",
    )


def weight_type(stored: ElementFormat) -> WeightType:
    """Return the type as which products with weights of a format are priced.

    Formats of 4 bits in groups are taken as one of `BlockFormat`, with nearly the same bytes.

    Raises:
        InputError: products with such weights are not priced.
    """
    name, bits = stored.name, stored.bits
    exact = {element.value: element for element in ElementType}
    exact |= {"fp32": ElementType.FP16, "nvfp4": BlockFormat.NVFP4, "mxfp4": BlockFormat.MXFP4}
    if name in exact:
        return exact[name]
    if bits == 8 and "fp8" in name:
        return BlockFormat.FP8_BLOCK if stored.tile is not None else ElementType.FP8
    if bits == 8 and "int" in name:
        return ElementType.INT8
    if bits == 4 and stored.scales in (Spread.GROUP, Spread.FLAT):
        few = (stored.group or 0) <= _FEW_INPUTS
        return BlockFormat.INT4_G32 if few else BlockFormat.INT4_G128
    if bits == 4 and "int" in name:
        return ElementType.INT4
    raise InputError(
        f"weights in {name} are described but not priced",
        where="model",
        hint=f"{AS_DOCUMENT} with another type; attacc model tells their bytes",
    )
