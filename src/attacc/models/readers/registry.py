"""Which reader a ``config.json`` takes, and what of the file is checked for every family alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from attacc.documents import keys_of, parse_document
from attacc.errors import DocumentError, UnknownNameError
from attacc.models.architecture import AS_DOCUMENT
from attacc.models.contradictions import CLASS_ENDS, refuse_foreign_parts, refuse_sizes
from attacc.models.layers import LayeredModel
from attacc.models.mixers import Attention, CompressedAttention, LatentAttention
from attacc.models.readers.base import HARMLESS, Document, Family, Wrapper
from attacc.models.readers.vision import vision_parameters
from attacc.models.storage.stated import QUANTIZATION_KEYS

_MODULES: Final = ("gpt", "dense", "experts", "latent", "hybrid")
TEXT: Final = "text_config"
"""The key of a multimodal file that holds its language part."""


@dataclass(frozen=True, slots=True)
class LanguagePart:
    """The language part of a file, and who reads it.

    Attributes:
        kind: model type of the whole file.
        family: model type of the language part.
        reader: the family's reader.
        document: the keys of the language part: the file itself, or its ``text_config``.
        top: the file.
        wrapper: the keys around the language part; None where the file is the language part.
        where: the place of the language part, for messages.
    """

    kind: str
    family: str
    reader: type[Family]
    document: Document
    top: Document
    wrapper: Wrapper | None
    where: str


@cache
def families() -> dict[str, type[Family]]:
    """Return every reader by its model type."""
    found: dict[str, type[Family]] = {}
    for name in _MODULES:
        found |= import_module(f"attacc.models.readers.{name}").FAMILIES
    return found


@cache
def wrappers() -> dict[str, Wrapper]:
    """Return what is known of multimodal files, by their model type."""
    found: dict[str, Wrapper] = {}
    for name in _MODULES:
        found |= import_module(f"attacc.models.readers.{name}").WRAPPERS
    return found


def language_part(document: Document, where: str) -> LanguagePart:
    """Return the language part of a ``config.json``.

    Args:
        document: the parsed file.
        where: the file, for messages.

    Raises:
        DocumentError: the file states no family.
        UnknownNameError: the family is not one of `families`.
    """
    stated = document.get("model_type")
    name = stated if isinstance(stated, str) else _by_class(document)
    if name is None:
        raise DocumentError(
            "missing key 'model_type', and architectures names no class that is known",
            where=f"{where}: model_type",
            hint=AS_DOCUMENT,
        )
    if name in wrappers():
        wrapper = wrappers()[name]
        inner = document.get(TEXT)
        if not isinstance(inner, dict):
            raise DocumentError(
                f"{TEXT} holds no table, and by model_type or architectures the file is one of "
                f"{name!r}, whose language part is in it",
                where=where,
            )
        text = cast("Document", inner)
        place = f"{where}: {TEXT}"
        own = text.get("model_type", wrapper.families[0])
        if own not in wrapper.families:
            raise UnknownNameError(
                "language part", str(own), wrapper.families, where=f"{place}.model_type"
            )
        return LanguagePart(name, str(own), families()[str(own)], text, document, wrapper, place)
    if name not in families():
        raise UnknownNameError(
            "model family",
            name,
            families(),
            where=f"{where}: model_type",
            # Names that are near are other architectures: qwen3_moe is no qwen3.
            hint=f"{AS_DOCUMENT}; the families that are read from a config.json are "
            + ", ".join(sorted({*families(), *wrappers()})),
        )
    return LanguagePart(name, name, families()[name], document, document, None, where)


def _by_class(document: Document) -> str | None:
    """Return the family whose class the file names first; None if none is known."""
    stated = document.get("architectures")
    named = cast("list[object]", stated) if isinstance(stated, list) else [stated]
    for name in map(str, named):
        known: Mapping[str, tuple[str, ...]] = {
            family: reader.classes for family, reader in families().items()
        }
        around = {family: wrapper.classes for family, wrapper in wrappers().items()}
        # A language part alone, and the file around it, have classes of the same beginning.
        known = {**around, **known} if TEXT in document else {**known, **around}
        for family, classes in known.items():
            if re.fullmatch(_any_of(classes) + CLASS_ENDS, name, re.IGNORECASE):
                return family
    return None


def _any_of(classes: tuple[str, ...]) -> str:
    return "(" + "|".join(map(re.escape, classes)) + ")"


def read_layers(document: Document, path: Path) -> LayeredModel:
    """Return the model that a ``config.json`` describes, without a name and element types.

    Args:
        document: the parsed file.
        path: its path, for messages.

    Raises:
        DocumentError: the file is malformed, lacks a key, has a value that cannot be, or a key that
            may change the answer and that its family does not use.
        UnknownNameError: its family is not one of `families`.
    """
    part = language_part(document, str(path))
    reader, read = part.reader, frozenset(keys_of(part.reader))
    refuse_foreign_parts(
        part.document,
        family=part.family,
        classes=_any_of(_classes_of(part)),
        read=read | reader.harmless | HARMLESS | QUANTIZATION_KEYS,
        where=part.where,
    )
    if part.wrapper is not None:
        refuse_foreign_parts(
            part.top,
            family=str(part.top.get("model_type", part.family)),
            classes=_any_of((*part.wrapper.classes, *reader.classes)),
            read={TEXT, *part.wrapper.vision_keys, *part.wrapper.harmless}
            | HARMLESS
            | QUANTIZATION_KEYS,
            where=str(path),
        )
    config = parse_document(reader, part.document, where=part.where)
    model = config.described(tied=_tied(part))
    refuse_sizes(part.document, _sizes(model), family=part.family, read=read, where=part.where)
    vision, notes = None, list(model.notes)
    if part.wrapper is not None:
        vision = vision_parameters(part.kind, part.top, str(path))
        if vision is None and any(part.top.get(key) for key in part.wrapper.vision_keys):
            notes.append("the part that sees pictures is not counted")
        elif vision is None:
            notes.append("the part that sees pictures is not counted: the file has no sizes of it")
    return model.model_copy(
        update={"family": part.family, "vision_parameters": vision, "notes": tuple(notes)}
    )


def _classes_of(part: LanguagePart) -> tuple[str, ...]:
    """Return what the names of classes in the language part begin with."""
    return (*part.reader.classes, *(part.wrapper.classes if part.wrapper else ()))


def _tied(part: LanguagePart) -> bool:
    """Return whether the output head is the embedding table: the outermost statement decides."""
    for document in (part.top, part.document):
        stated = document.get("tie_word_embeddings", part)
        if isinstance(stated, bool):
            return stated
        if stated is not part:  # null too: the library refuses it, and defaults differ by family
            raise DocumentError(
                f"{stated!r:.40} is neither true nor false",
                where=f"{part.where}: tie_word_embeddings",
                hint="write true or false, without quotation marks",
            )
    if part.wrapper is not None and part.wrapper.tied is not None:
        return part.wrapper.tied
    return part.reader.tied


def _sizes(model: LayeredModel) -> dict[str, set[int]]:
    """Return every value of each size that occurs in the layers."""
    found: dict[str, set[int]] = {
        "layers": {model.layer_count},
        "hidden_size": {model.hidden_size},
        "heads": set(),
        "kv_heads": set(),
        "head_dim": set(),
        "intermediate_size": set(),
    }
    for layer in model.layers:
        mixer, block = layer.mixer, layer.feed_forward
        if isinstance(mixer, Attention | LatentAttention | CompressedAttention):
            found["heads"].add(mixer.heads)
        if isinstance(mixer, Attention):
            found["kv_heads"].add(mixer.kv_heads)
            found["head_dim"] |= {mixer.head_dim, mixer.values}
        if block is not None and block.kind != "linear":
            found["intermediate_size"].add(block.width)
    return found
