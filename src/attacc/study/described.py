"""What was understood of a model: its layers by kind, its parameters, and what it stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from attacc.models.checkpoint import Checkpoint
from attacc.models.huggingface import load_layers
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Stored
from attacc.models.parameters import AnyModel
from attacc.models.precision import kv_element
from attacc.models.storage.formats import named_format
from attacc.results import Result, flat

CONTEXTS: Final = (1024, 32_768, 1_048_576)
"""Tokens of the context at which the work of decoding is told."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Work of the mixers of one kind of layer, for one request and one new token.

    Attributes:
        context: tokens of the context, the new one included.
        flops: operations of one layer, projections apart.
        bytes: what one layer reads and writes of keys, values, index keys and state.
        flops_per_byte: how much computing each byte is worth; None where nothing is read.
    """

    context: int
    flops: float
    bytes: float
    flops_per_byte: float | None


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Layers of one kind.

    Attributes:
        kind: what they are, in words.
        site_kind: their kind where devices are chosen, as in ``attacc where``; empty without mixer.
        layers: how many there are.
        parameters: of one of them.
        active_parameters: of one of them, those that one token meets.
        bytes_per_token: what one stores for each token of the context, without end.
        window_bytes_per_request: what one stores for each request at most, of a window or a chunk.
        state_bytes_per_request: what one stores for each request at any length.
        decoding: work of one, at some lengths of the context.
    """

    kind: str
    site_kind: str
    layers: int
    parameters: int
    active_parameters: int
    bytes_per_token: float
    window_bytes_per_request: float
    state_bytes_per_request: float
    decoding: tuple[Decoding, ...]


@dataclass(frozen=True, slots=True)
class FormatBytes:
    """Weights in one format.

    Attributes:
        format: its name.
        bytes: of all weights in it, scales included.
    """

    format: str
    bytes: float


@dataclass(frozen=True, slots=True)
class ModelDescription(Result):
    """A model as it was understood.

    Attributes:
        name: its name.
        family: for listings.
        hidden_size: elements of the residual stream.
        vocab_size: rows of the embedding table.
        max_context: tokens it was made for; None where that is not stated.
        parameters: of the language part.
        active_parameters: of these, those that one token meets, embeddings included.
        parameters_by_part: part -> parameters.
        weight_bytes: bytes of the weights, by format.
        kv: element type of keys and values.
        kv_bytes_per_token: keys, values and index keys of one token of the context, in all layers
            that keep them without end.
        window_bytes_per_request: keys and values of one request in windows and chunks, at most.
        state_bytes_per_request: recurrent state of one request.
        layers: by kind, in the order in which kinds first occur.
        draft_parameters: of layers for drafting, counted apart.
        vision_parameters: of what sees pictures, counted apart; None where there is nothing of
            the kind, or the file does not tell.
        notes: what was counted apart, is missing from the file, or was taken from elsewhere.
    """

    name: str
    family: str
    hidden_size: int
    vocab_size: int
    max_context: int | None
    parameters: int
    active_parameters: int
    parameters_by_part: dict[str, int]
    weight_bytes: tuple[FormatBytes, ...]
    kv: str
    kv_bytes_per_token: float
    window_bytes_per_request: float
    state_bytes_per_request: float
    layers: tuple[LayerKind, ...]
    draft_parameters: int
    vision_parameters: int | None
    notes: tuple[str, ...]

    @property
    def total_weight_bytes(self) -> float:
        """Bytes of all weights of the language part."""
        return sum(one.bytes for one in self.weight_bytes)

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each kind of layer."""
        return [
            flat(asdict(layer))
            | {f"flops_per_byte_at_{one.context}": one.flops_per_byte for one in layer.decoding}
            for layer in self.layers
        ]


def describe_layers(
    model: LayeredModel, *, kv: str, kv_bytes: float, weight_bytes: Mapping[str, float]
) -> ModelDescription:
    """Tell what a model of layers consists of, stores and costs.

    Args:
        model: the model.
        kv: name of the element type of keys and values.
        kv_bytes: bytes of one of their elements.
        weight_bytes: format -> bytes of the weights in it.
    """
    kinds = tuple(_kinds(model, kv_bytes))
    return ModelDescription(
        name=model.name,
        family=model.family,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        max_context=model.max_context,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        parameters_by_part={str(part): numbers for part, numbers in model.by_part().items()},
        weight_bytes=tuple(FormatBytes(name, size) for name, size in weight_bytes.items()),
        kv=kv,
        kv_bytes_per_token=sum(one.layers * one.bytes_per_token for one in kinds),
        window_bytes_per_request=sum(one.layers * one.window_bytes_per_request for one in kinds),
        state_bytes_per_request=sum(one.layers * one.state_bytes_per_request for one in kinds),
        layers=kinds,
        draft_parameters=model.draft_parameters,
        vision_parameters=model.vision_parameters,
        notes=model.notes,
    )


def _kinds(model: LayeredModel, kv_bytes: float) -> Iterator[LayerKind]:
    """Yield the kinds of layers, in the order in which they first occur."""
    counts: dict[Layer, int] = {}
    for layer in model.layers:
        one = layer.model_copy(update={"repeat": 1})
        counts[one] = counts.get(one, 0) + layer.repeat
    for layer, count in counts.items():
        stored = Stored() if layer.mixer is None else layer.mixer.stored(kv_bytes)
        yield LayerKind(
            kind=layer.kind,
            site_kind=layer.site_kind,
            layers=count,
            parameters=model.of_one(layer),
            active_parameters=model.active_of_one(layer),
            bytes_per_token=stored.per_token,
            window_bytes_per_request=stored.per_request,
            state_bytes_per_request=stored.state,
            decoding=tuple(_decoding(layer, kv_bytes)),
        )


def _decoding(layer: Layer, kv_bytes: float) -> Iterator[Decoding]:
    """Yield the work of a layer's mixer at some lengths of the context."""
    if layer.mixer is None:
        return
    for context in CONTEXTS:
        work = layer.mixer.decode_work(context, kv_bytes)
        ratio = work.flops / work.bytes if work.bytes else None
        yield Decoding(context, work.flops, work.bytes, ratio)


def describe(
    source: str | Path | Mapping[str, object] | AnyModel, *, kv: str | None = None
) -> ModelDescription:
    """Tell what a model consists of: its layers by kind, its parameters, and what it stores.

    Args:
        source: a preset's name; a TOML document, of layers or of equal ones; a Hugging Face
            ``config.json``, or a folder that holds one; a document as a mapping; or a model that is
            loaded already.
        kv: element type of keys and values; None for the stated one.

    Raises:
        UnknownNameError: there is no such preset, family or element type.
        DocumentError: the file cannot be read, is malformed, or has a key that may change the
            answer and that is not understood.
    """
    element = None if kv is None else kv_element(kv, where="kv")
    found = load_layers(source, where="source")
    if isinstance(found, Checkpoint):
        stored = found.kv if element is None else named_format(element)
        return describe_layers(
            found.model,
            kv=stored.name,
            kv_bytes=stored.element_bytes,
            weight_bytes=found.weight_bytes(),
        )
    own, weights = element or found.precision.kv, found.precision.weights
    return describe_layers(
        found,
        kv=own,
        kv_bytes=own.bytes,
        weight_bytes={str(weights): found.parameters * weights.bytes},
    )
