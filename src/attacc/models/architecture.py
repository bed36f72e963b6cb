"""What a decoder-only transformer consists of, in the terms its operators need."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, model_validator

from attacc.documents import Presets, PresetSpec, Spec
from attacc.models.precision import Precision
from attacc.units import MAX_SIZE

Size = Annotated[int, Field(gt=0, le=MAX_SIZE)]
MAX_LAYERS: Final = 2**16
"""Layers of a model at most: a slip in a document is caught."""


class Activation(StrEnum):
    """The non-linear function of a feed-forward block."""

    GELU = "gelu"
    RELU = "relu"
    SILU = "silu"


class NormKind(StrEnum):
    """How activations are normalised."""

    LAYER = "layer"
    """Mean and variance, with a weight and a bias per element."""
    RMS = "rms"
    """Root mean square, with a weight per element."""


class FeedForward(Spec):
    """The feed-forward block of a layer, or of one expert.

    Attributes:
        intermediate_size: width between the matrices.
        gated: three matrices (gate, up, down) rather than two (up, down).
        activation: silu where gated (SwiGLU), gelu or relu where plain.
    """

    intermediate_size: Size
    gated: bool
    activation: Activation

    @model_validator(mode="after")
    def _is_supported(self) -> FeedForward:
        if self.gated != (self.activation is Activation.SILU):
            raise ValueError(
                f"gated = {str(self.gated).lower()} with activation {self.activation.value!r} is "
                "not supported: use silu where gated (SwiGLU), gelu or relu where plain"
            )
        return self

    @property
    def widenings(self) -> int:
        """Matrices from the hidden to the intermediate size: 2 where gated, else 1."""
        return 2 if self.gated else 1


class Experts(Spec):
    """A mixture of experts in place of the one feed-forward block of every layer.

    A router (one matrix, hidden size x experts) chooses the experts of each token.

    Attributes:
        experts: feed-forward blocks per layer.
        experts_per_token: how many of them a token visits.
    """

    experts: Size
    experts_per_token: Size

    @model_validator(mode="after")
    def _visits_existing_ones(self) -> Experts:
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token = {self.experts_per_token} is more than "
                f"experts = {self.experts}: use 1 to {self.experts}"
            )
        return self


class Biases(Spec):
    """Which linear layers add a bias.

    Attributes:
        qkv: query, key and value generation.
        out: the projection after attention.
        ffn: the matrices of the feed-forward block.
    """

    qkv: bool = False
    out: bool = False
    ffn: bool = False


class ModelSpec(PresetSpec):
    """A decoder-only transformer.

    Attributes:
        family: a label for listings, as in "llama"; nothing is derived from it.
        layers: transformer layers.
        hidden_size: width of the residual stream.
        heads: query heads.
        kv_heads: key/value heads: as many as ``heads`` in MHA, fewer in GQA, one in MQA.
        head_dim: elements of one head.
        feed_forward: the feed-forward block, or that of one expert.
        experts: the mixture of experts, if it is one.
        vocab_size: rows of the embedding table as stored.
        embedding_size: its columns, where these are not the hidden size (then a matrix projects
            in and another out, as in OPT-350M).
        learned_positions: rows of the table of learned positions; 0 for rotary embeddings.
        tied_embeddings: the LM head is the embedding table.
        norm: kind of all norms.
        final_norm: a norm stands between the last layer and the LM head.
        qk_norm: every query and key head is normalised over head_dim (Qwen3).
        biases: which linear layers have one.
        parallel_residual: attention and feed-forward read the same input and are summed
            (GPT-NeoX), so that one all-reduce serves both.
        max_context: tokens the model was made for; recorded, not enforced, since the published
            studies run GPT-3 and LLaMA beyond it.
        sliding_window: keys that a query may see at most. Up to this length attention is full;
            steps at longer contexts are refused.
        precision: element types unless the study says otherwise.
    """

    family: str = Field(min_length=1)
    layers: Annotated[int, Field(gt=0, le=MAX_LAYERS)]
    hidden_size: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    feed_forward: FeedForward
    experts: Experts | None = None
    vocab_size: Size
    embedding_size: Size | None = None
    learned_positions: int = Field(default=0, ge=0, le=MAX_SIZE)
    tied_embeddings: bool
    norm: NormKind
    final_norm: bool = True
    qk_norm: bool = False
    biases: Biases = Biases()
    parallel_residual: bool = False
    max_context: Size | None = None
    sliding_window: Size | None = None
    precision: Precision = Precision()

    @model_validator(mode="after")
    def _is_consistent(self) -> ModelSpec:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}: "
                f"use one of {divisors(self.heads)}"
            )
        if self.learned_positions and (self.max_context or 0) > self.learned_positions:
            raise ValueError(
                f"max_context = {self.max_context} is more than "
                f"learned_positions = {self.learned_positions}"
            )
        return self

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head: 1 in MHA."""
        return self.heads // self.kv_heads

    @property
    def embedding_width(self) -> int:
        """Columns of the embedding table."""
        return self.embedding_size or self.hidden_size


def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number, rising."""
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


MODELS: Final = Presets("model", ModelSpec, "attacc.models", "presets")
"""The models shipped with the package."""

AS_DOCUMENT: Final = "describe the model in a TOML document (docs/howto/models.md)"
"""The way out for models that another project's file describes in a form that is not read."""
