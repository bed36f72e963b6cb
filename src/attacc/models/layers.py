"""A model as a sequence of layers, whatever they are made of.

Each layer has a mixer (`attacc.models.mixers`), a feed-forward part (`attacc.models.feedforward`),
both, or one of them. Equal layers in a row are stated once, with their number. Everything that is
counted of a model, parameters and bytes by part and by kind of layer, follows from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from attacc.documents import PresetSpec, Spec
from attacc.models.architecture import MAX_LAYERS
from attacc.models.feedforward import AnyFeedForward
from attacc.models.mixers import (
    AnyMixer,
    Attention,
    CompressedAttention,
    DeltaNet,
    LatentAttention,
    Mamba2,
    Size,
)
from attacc.models.precision import Precision
from attacc.models.weights import Part, Weight, linear, vector
from attacc.units import MAX_SIZE

_Parameters = Annotated[int, Field(ge=0, le=10**15)]


class Layer(Spec):
    """Equal layers in a row.

    Attributes:
        repeat: how many there are.
        mixer: how tokens see one another; None where the layer has none.
        feed_forward: what is done with each token by itself; None where the layer has none.
        norms: norms of the residual stream's width.
        parallel: mixer and feed-forward part read the same input, and are summed (GPT-NeoX).
        other: parameters of paths besides: residual streams that are mixed.
    """

    repeat: Annotated[int, Field(gt=0, le=MAX_LAYERS)] = 1
    mixer: AnyMixer | None = None
    feed_forward: AnyFeedForward | None = None
    norms: Annotated[int, Field(ge=0, le=64)] = 2
    parallel: bool = False
    other: _Parameters = 0

    @property
    def kind(self) -> str:
        """What it is, in words: "sliding window of 128 + experts"."""
        parts = [_mixer_words(self.mixer)] if self.mixer is not None else []
        if self.feed_forward is not None:
            parts.append(self.feed_forward.kind.replace("linear", "linear block"))
        return " + ".join(parts) or "nothing"

    @property
    def site_kind(self) -> str:
        """Its kind where devices are chosen: "full", "window", "latent", "state", ...; "" without.

        Layers of one such kind run their mixers on the same devices.
        """
        match self.mixer:
            case Attention() as mixer:
                if mixer.window is not None:
                    return "window"
                if mixer.chunk is not None:
                    return "chunk"
                return "full" if mixer.selector is None else "blocks"
            case LatentAttention() as mixer:
                return "latent" if mixer.indexer is None else "sparse"
            case DeltaNet() | Mamba2():
                return "state"
            case CompressedAttention():
                return "compressed"
            case _:
                return ""

    def weights(self, hidden: int, norm_width: int) -> tuple[Weight, ...]:
        """Return the weights of one such layer.

        Args:
            hidden: elements of the residual stream.
            norm_width: numbers of one of its norms.
        """
        found: tuple[Weight, ...] = ()
        if self.norms:
            found += (vector("norm", Part.NORMS, norm_width, count=self.norms),)
        if self.mixer is not None:
            found += self.mixer.weights(hidden)
        if self.feed_forward is not None:
            found += self.feed_forward.weights(hidden)
        if self.other:
            found += (vector("other", Part.OTHER, self.other),)
        return found


def _mixer_words(mixer: AnyMixer) -> str:
    """Return the kind of a mixer in words."""
    if isinstance(mixer, Attention):
        if mixer.window is not None:
            return f"sliding window of {mixer.window:,}"
        if mixer.chunk is not None:
            return f"chunks of {mixer.chunk:,}"
        return "block-sparse attention" if mixer.selector is not None else "full attention"
    if isinstance(mixer, LatentAttention):
        return "latent attention" if mixer.indexer is None else "sparse latent attention"
    if mixer.kind == "compressed":
        return f"window + records of {mixer.ratio}" if mixer.ratio else "window of records"
    return {"delta_net": "gated delta net", "mamba2": "Mamba-2", "linear": "linear"}[mixer.kind]


class Draft(Spec):
    """Layers that predict further tokens: not part of the model, usable as its draft.

    Attributes:
        modules: how many there are.
        layers: of each of them.
        projection: the residual stream and the embedding of the last token are joined by a matrix
            of twice the width.
        norms: further norms of the residual stream's width in each.
        other: further parameters of each, such as an output head of its own.
        repeated: one module's weights serve every draft step.
    """

    modules: Size
    layers: tuple[Layer, ...]
    projection: bool = True
    norms: Annotated[int, Field(ge=0, le=64)] = 3
    other: _Parameters = 0
    repeated: bool = False


class LayeredModel(PresetSpec):
    """A decoder-only language model, layer by layer.

    Attributes:
        family: a label for listings, as in "deepseek_v3"; nothing is derived from it.
        hidden_size: elements of the residual stream.
        vocab_size: rows of the embedding table as stored.
        embedding_size: its columns, where these are not the hidden size.
        tied_embeddings: the output head is the embedding table.
        head_bias: the output head has biases.
        learned_positions: rows of the table of learned positions; 0 for none.
        norm_bias: norms have a bias beside their weight.
        final_norm: a norm stands before the output head.
        embedding_norm: a norm stands behind the embedding.
        layers: in order; equal ones in a row once.
        other: parameters outside the layers besides: the end of mixed residual streams.
        max_context: tokens the model was made for; recorded, not enforced.
        draft: layers for drafting, counted apart; None for none.
        precision: element types, where no format of single weights is stated.
        vision_parameters: parameters of what sees pictures, counted apart; None where the model has
            nothing of the kind, or the file does not tell how large it is (then a note says so).
        notes: what was counted apart, is missing from the file, or was taken from elsewhere.
    """

    family: str = Field(min_length=1)
    hidden_size: Size
    vocab_size: Size
    embedding_size: Size | None = None
    tied_embeddings: bool
    head_bias: bool = False
    learned_positions: int = Field(default=0, ge=0, le=MAX_SIZE)
    norm_bias: bool = False
    final_norm: bool = True
    embedding_norm: bool = False
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    other: _Parameters = 0
    max_context: Size | None = None
    draft: Draft | None = None
    precision: Precision = Precision()
    vision_parameters: _Parameters | None = None
    notes: tuple[str, ...] = ()

    @property
    def layer_count(self) -> int:
        """All layers."""
        return sum(layer.repeat for layer in self.layers)

    @property
    def norm_width(self) -> int:
        """Numbers of a norm of the residual stream."""
        return self.hidden_size * (2 if self.norm_bias else 1)

    def each_layer(self) -> Iterator[tuple[int, Layer]]:
        """Yield the number of the first layer of each run of equal ones, and the layer."""
        first = 0
        for layer in self.layers:
            yield first, layer
            first += layer.repeat

    def outside(self) -> tuple[Weight, ...]:
        """Return the weights outside the layers."""
        width = self.embedding_size or self.hidden_size
        found = [vector("embed_tokens", Part.EMBEDDING, self.vocab_size * width)]
        if self.embedding_size is not None:
            found.append(linear("project_in", Part.EMBEDDING, width, self.hidden_size))
            found.append(linear("project_out", Part.HEAD, self.hidden_size, width))
        if self.learned_positions:
            positions = self.learned_positions * self.hidden_size
            found.append(vector("embed_positions", Part.EMBEDDING, positions))
        norms = self.final_norm + self.embedding_norm
        if norms:
            found.append(vector("norm", Part.NORMS, self.norm_width, count=norms))
        if not self.tied_embeddings:
            found.append(linear("lm_head", Part.HEAD, width, self.vocab_size))
        if self.head_bias:
            found.append(vector("lm_head.bias", Part.HEAD, self.vocab_size))
        if self.other:
            found.append(vector("other", Part.OTHER, self.other))
        return tuple(found)

    def of_layer(self, layer: Layer) -> tuple[Weight, ...]:
        """Return the weights of one of the layers."""
        return layer.weights(self.hidden_size, self.norm_width)

    def of_one(self, layer: Layer) -> int:
        """Return the parameters of one of the layers."""
        return sum(weight.numbers for weight in self.of_layer(layer))

    def active_of_one(self, layer: Layer) -> int:
        """Return the parameters of one of the layers that one token meets."""
        if layer.feed_forward is None:
            return self.of_one(layer)
        experts = sum(w.numbers for w in self.of_layer(layer) if w.part is Part.EXPERTS)
        return self.of_one(layer) - round(experts * (1 - layer.feed_forward.visited_share))

    @property
    def parameters(self) -> int:
        """Parameters of the language part."""
        inside = sum(layer.repeat * self.of_one(layer) for layer in self.layers)
        return inside + sum(weight.numbers for weight in self.outside())

    @property
    def active_parameters(self) -> int:
        """Of these, those that one token meets, embeddings included."""
        inside = sum(layer.repeat * self.active_of_one(layer) for layer in self.layers)
        return inside + sum(weight.numbers for weight in self.outside())

    def by_part(self) -> dict[Part, int]:
        """Return the parameters of each part that has any."""
        found = dict.fromkeys(Part, 0)
        for weight in self.outside():
            found[weight.part] += weight.numbers
        for layer in self.layers:
            for weight in self.of_layer(layer):
                found[weight.part] += layer.repeat * weight.numbers
        return {part: numbers for part, numbers in found.items() if numbers}

    @property
    def draft_parameters(self) -> int:
        """Parameters of the layers for drafting, counted apart."""
        if self.draft is None:
            return 0
        d, h = self.draft, self.hidden_size
        inside = sum(layer.repeat * self.of_one(layer) for layer in d.layers)
        own = inside + 2 * h * h * d.projection + d.norms * self.norm_width + d.other
        return d.modules * own
