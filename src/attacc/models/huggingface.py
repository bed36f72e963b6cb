"""Models by the name of a preset, from a document, or from a Hugging Face ``config.json``.

What a ``config.json`` says is read by `attacc.models.readers`, and how its weights are stored by
`attacc.models.storage.stated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from attacc.documents import BASE, parse_document, read_document
from attacc.errors import DocumentError
from attacc.files import name_as_text
from attacc.models.architecture import MODELS, ModelSpec
from attacc.models.checkpoint import Checkpoint, read_checkpoint
from attacc.models.layers import LayeredModel
from attacc.models.precision import BlockFormat, ElementType, Precision, StoredWeights, WeightType
from attacc.models.served import ServedModel, plain_format, served, served_layers
from attacc.models.storage.formats import (
    FP8_BLOCK,
    MXFP4,
    NVFP4,
    ElementFormat,
    WeightFormats,
)
from attacc.models.uniform import layered

CONFIG_FILE: Final = "config.json"

_HUB_PREFIX: Final = "models--"
_NO_DESCRIPTIONS: Final = {
    ".gguf": "a GGUF file of weights",
    ".safetensors": "a safetensors file of weights",
    ".bin": "a file of weights",
    ".pt": "a PyTorch file of weights",
    ".pth": "a PyTorch file of weights",
    ".onnx": "an ONNX graph",
    ".zip": "an archive",
    ".tar": "an archive",
    ".gz": "an archive",
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
}
"""Suffixes of files that people have of a model, and that do not tell its sizes here."""


def checkpoint_of(document: Mapping[str, object], path: Path) -> Checkpoint:
    """Read the checkpoint that a ``config.json`` describes.

    The model is called like the file, or like its folder where the file is ``config.json``; in
    the cache of the Hugging Face Hub like its repository, as in "org/name".

    Args:
        document: the parsed file.
        path: its path. Files beside it that state a quantisation are read too.

    Raises:
        DocumentError: the file is malformed, lacks a key, has a value that cannot be, or a key that
            may change the answer and that is not understood.
        UnknownNameError: its ``model_type`` is none of the families that are read.
    """
    return read_checkpoint(document, path, name_as_text(_name_of(path)))


def _name_of(path: Path) -> str:
    """Return what the model of a file is called; empty for a ``config.json`` at the root.

    Links are not followed: in the cache of the Hugging Face Hub every file is one, to a name that
    means nothing.
    """
    if path.name != CONFIG_FILE:
        return path.stem
    folder = Path.cwd() / path.parent
    if ".." in folder.parts:  # the parent of where a link leads to, not of the link
        parts = folder.parts
        last = len(parts) - parts[::-1].index("..")
        folder = Path(*parts[:last]).resolve().joinpath(*parts[last:])
    repository, kind = folder.parts[-3:-1] if len(folder.parts) > 3 else ("", "")
    if kind == "snapshots" and repository.startswith(_HUB_PREFIX):
        return repository.removeprefix(_HUB_PREFIX).replace("--", "/")
    return folder.name


def load_model(
    source: str | Path | Mapping[str, object] | ModelSpec | ServedModel,
    *,
    weights: StoredWeights | WeightType | str | None = None,
    activations: ElementType | str | None = None,
    kv: ElementType | str | None = None,
    where: str | None = None,
) -> ServedModel:
    """Return a model by the name of its preset (which comes first), or from a file or folder.

    A file is a TOML (or JSON) document of `ModelSpec` or `LayeredModel`, or a Hugging Face
    ``config.json``, which a ``model_type`` tells apart; a folder is one that holds a
    ``config.json``. No model hub is asked for a name.

    Args:
        source: a preset's name, or a path: anything with a slash, the suffix of a document, or
            the name of an existing folder; a document as a mapping; or a model that is loaded
            already.
        weights: element type of all parameters, or a block format of linear layers ("fp8_block",
            "nvfp4", "mxfp4"); None for the model's own, likewise the others.
        activations: of what flows between operators.
        kv: of the key/value cache.
        where: the option or field that the name came from, for messages.

    Raises:
        UnknownNameError: there is no such preset or model family.
        DocumentError: the file cannot be read or is malformed.
        InputError: an element type is of no use where it is asked for.
    """
    asked = {"weights": weights, "activations": activations, "kv": kv}
    changes = {name: str(element) for name, element in asked.items() if element is not None}
    found = source if isinstance(source, ServedModel) else _found(source, where)
    return _changed(found, changes) if changes else found


def _found(source: str | Path | Mapping[str, object] | ModelSpec, where: str | None) -> ServedModel:
    if isinstance(source, ModelSpec):
        return served(source)
    if isinstance(source, str | Path):
        found = _load(str(source), where)
    elif isinstance(source.get("layers"), list):
        found = parse_document(LayeredModel, source, where=where or "model")
    else:
        found = MODELS.load_any(source, where=where)
    match found:
        case Checkpoint():
            return found.served()
        case LayeredModel():
            return served_layers(found, found.precision)
        case ModelSpec():
            return served(found)


_BLOCK_FORMATS: Final[dict[str, ElementFormat]] = {
    BlockFormat.FP8_BLOCK: FP8_BLOCK,
    BlockFormat.NVFP4: NVFP4,
    BlockFormat.MXFP4: MXFP4,
}
"""Formats of linear layers, apart from the output head and routers, beside which all else stays in
bf16, as checkpoints in these formats have it."""


def _changed(model: ServedModel, changes: Mapping[str, str]) -> ServedModel:
    """Return a model with other element types.

    Raises:
        DocumentError: there is no such type, or it is of no use where it is asked for.
    """
    unchanged = {"activations": str(model.activations), "kv": str(model.kv)}
    blocks = _BLOCK_FORMATS.get(changes.get("weights", ""))
    asked = {name: value for name, value in changes.items() if name != "weights" or not blocks}
    precision = parse_document(Precision, unchanged | asked, where="precision")
    formats = model.formats
    if blocks:
        formats = WeightFormats(default=blocks)
    elif "weights" in changes:
        plain = plain_format(precision.weights)
        formats = WeightFormats(default=plain, wide=plain)
    return replace(model, formats=formats, activations=precision.activations, kv=precision.kv)


def load_layers(
    source: str | Path | Mapping[str, object] | ModelSpec | ServedModel, *, where: str | None = None
) -> LayeredModel | Checkpoint:
    """Return a model layer by layer, with the formats of its weights where a checkpoint has them.

    Args:
        source: as in `load_model`; a document may also be one of `LayeredModel`, whose ``layers``
            are a list of tables.
        where: the option or field that the name came from, for messages.

    Raises:
        UnknownNameError: as in `load_model`.
        DocumentError: as in `load_model`.
    """
    if isinstance(source, Mapping):
        return _layered_document(source, where or "model", None)
    if isinstance(source, ModelSpec):
        return _with_precision(source)
    if isinstance(source, ServedModel):
        return Checkpoint(source.model, source.stated_formats)
    found = _load(str(source), where)
    return found if isinstance(found, LayeredModel | Checkpoint) else _with_precision(found)


def _with_precision(model: ModelSpec) -> LayeredModel:
    return layered(model).model_copy(update={"precision": model.precision})


def _layered_document(
    document: Mapping[str, object], where: str, folder: Path | None
) -> LayeredModel:
    """Return a model of layers from a document; one of equal layers is read as such first."""
    if isinstance(document.get("layers"), list):
        return parse_document(LayeredModel, document, where=where, folder=folder)
    return _with_precision(MODELS.parse(MODELS.completed(document, Path(where)), Path(where)))


def _load(name_or_path: str, where: str | None) -> ModelSpec | LayeredModel | Checkpoint:
    path = Path(name_or_path)
    if name_or_path in MODELS.names():
        return MODELS.load(name_or_path, where=where)
    if _is_folder(path):
        config = _config_in(path)
        return checkpoint_of(read_document(config), config)
    if path.suffix.lower() in _NO_DESCRIPTIONS:
        raise DocumentError(
            f"is {_NO_DESCRIPTIONS[path.suffix.lower()]}, which is not read",
            where=str(path),
            hint="give the config.json of the model, or its folder, or a TOML document "
            "(docs/howto/models.md), or a preset's name",
        )
    if path.suffix == ".json":
        document = read_document(path)
        # Only documents of this project have a family; a config.json without model_type is
        # reported as one that lacks it.
        if {"family", BASE} & set(document) and "model_type" not in document:
            return MODELS.parse(MODELS.completed(document, path), path)
        return checkpoint_of(document, path)
    if path.suffix == ".toml" or path.is_file():
        if isinstance(read_document(path).get("layers"), list):
            return parse_document(LayeredModel, read_document(path), where=str(path))
        return MODELS.load_file(path)
    if "/" in name_or_path:
        raise DocumentError(
            "no such file or folder, and no model hub is asked",
            where=f"{where}: {name_or_path}" if where else name_or_path,
            hint="download the model's config.json and give its path, or name a preset: "
            + ", ".join(MODELS.names()),
        )
    return MODELS.load(name_or_path, where=where)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _config_in(folder: Path) -> Path:
    """Return the ``config.json`` of a folder.

    Raises:
        DocumentError: it has none.
    """
    path = folder / CONFIG_FILE
    if path.is_file():
        return path
    revisions = sorted(folder.glob(f"snapshots/*/{CONFIG_FILE}"))
    raise DocumentError(
        "no such file in this folder",
        where=str(path),
        hint=f"give the folder of a revision: {revisions[0].parent}"
        if revisions
        else "give a folder that holds the config.json of a model, or a TOML document",
    )
