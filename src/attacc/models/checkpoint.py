"""A published checkpoint: its layers, and the formats of its weights, from a ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attacc.files import name_as_text
from attacc.models.layers import LayeredModel
from attacc.models.readers.registry import language_part, read_layers
from attacc.models.served import ServedModel, element_type, weight_type
from attacc.models.storage.formats import ElementFormat, WeightFormats, weight_bytes
from attacc.models.storage.stated import stated_formats


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

    def served(self) -> ServedModel:
        """Return the model as it is served, with the types that the checkpoint states.

        Raises:
            InputError: activations, keys and values, or weights of a product have a format that is
                not computed with.
        """
        found = ServedModel(
            self.model,
            self.formats,
            element_type(self.formats.wide, "activations"),
            element_type(self.kv, "keys and values"),
        )
        head = "embed_tokens" if self.model.tied_embeddings else "lm_head"
        inside = (stored for group in found.groups for stored in group.formats.values())
        for stored in dict.fromkeys((*inside, found.format_of(head))):
            weight_type(stored)
        return found


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
