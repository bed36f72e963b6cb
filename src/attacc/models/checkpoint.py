"""A published checkpoint: its layers, and the formats of its weights, from a ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attacc.errors import InputError
from attacc.files import name_as_text
from attacc.models.architecture import AS_DOCUMENT, ModelSpec
from attacc.models.formats import ElementFormat, WeightFormats, each_weight, is_plain, weight_bytes
from attacc.models.layers import LayeredModel
from attacc.models.precision import ElementType, Precision
from attacc.models.readers.registry import language_part, read_layers
from attacc.models.stored import stated_formats
from attacc.models.uniform import uniform

_WIDE: Final = {"fp32": ElementType.FP16, "fp16": ElementType.FP16, "bf16": ElementType.BF16}
_NARROW: Final = {
    ("fp8", 8): ElementType.FP8,
    ("int", 8): ElementType.INT8,
    ("int", 4): ElementType.INT4,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a ``config.json`` and the files beside it say.

    Attributes:
        model: layer by layer.
        formats: of its weights, and of its keys and values.
    """

    model: LayeredModel
    formats: WeightFormats

    @property
    def kv(self) -> ElementFormat:
        """Format of keys and values: the stated one, or that of what is not quantised."""
        return self.formats.kv or self.formats.wide

    def weight_bytes(self) -> dict[str, int]:
        """Return the bytes of the weights by the name of their format, scales included."""
        return weight_bytes(self.model, self.formats)

    def priced(self) -> ModelSpec:
        """Return the model as it is priced.

        Raises:
            InputError: its layers differ, its weights have several formats, or one that is not
                priced.
        """
        wide = _element(self.formats.wide, "activations")
        weights: dict[str, ElementFormat] = {}
        for layer, weight in each_weight(self.model):
            if is_plain(weight):
                stored = self.formats.of(weight, layer)
                weights[stored.name] = stored
        if len(weights) > 1:
            names = ", ".join(sorted(weights))
            raise InputError(
                f"{self.model.name} has weights of several formats ({names}), which are described "
                "but not priced yet",
                where="model",
                hint=f"{AS_DOCUMENT} with one type, to be priced; attacc model tells their bytes",
            )
        precision = Precision(
            weights=_element(next(iter(weights.values())), "weights"),
            activations=wide,
            kv=_element(self.kv, "keys and values"),
        )
        return uniform(self.model, precision)


def _element(stored: ElementFormat, what: str) -> ElementType:
    """Return the element type that a format is priced as.

    Raises:
        InputError: there is none.
    """
    if stored.name in _WIDE:
        return _WIDE[stored.name]
    for (kind, bits), element in _NARROW.items():
        if stored.bits == bits and kind in stored.name.replace("gptq", "int").replace("awq", "int"):
            return element
    raise InputError(
        f"{what} in {stored.name} are described but not priced yet",
        where="model",
        hint=f"{AS_DOCUMENT} with another type, which is priced; attacc model tells their bytes",
    )


def read_checkpoint(document: Mapping[str, object], path: Path, name: str) -> Checkpoint:
    """Read what a ``config.json`` and the files beside it say.

    Args:
        document: the parsed file.
        path: its path; files beside it that state a quantisation are read too.
        name: of the model; empty for that of its family.

    Raises:
        DocumentError: a file is malformed, lacks a key, has a value that cannot be, or a key that
            may change the answer and that is not understood.
        UnknownNameError: there is no such family.
    """
    model = read_layers(document, path)
    formats = stated_formats(document, language_part(document, str(path)).document, path, model)
    sources = {"default": f"Hugging Face configuration {name_as_text(str(path))}"}
    told = [f"quantised as stated in {name_as_text(place)}" for place in formats.places]
    told += [note for note in formats.notes if "served" in note]
    if told:
        sources["precision"] = "; ".join(told)
    named = {
        "name": name or model.family,
        "sources": sources,
        "notes": (*model.notes, *formats.notes),
    }
    return Checkpoint(model.model_copy(update=named), formats)
