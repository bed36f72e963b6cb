"""How much a model stores: parameters, weights, key/value cache and live activations.

Every function takes the number of devices that share the layers and answers for one of them;
with one device that is the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.models.architecture import ModelSpec, NormKind
from attacc.models.sharding import Shard, shard

LOGIT_BYTES: Final = 4
"""Logits are held in fp32 while they are sampled from, whatever the activations are."""


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters held by one device, over all layers.

    Attributes:
        embedding: token embedding, with the projection into the hidden size if there is one.
        position: learned positions.
        attention: query, key, value and output matrices, their biases, and query/key norms.
        feed_forward: all feed-forward matrices, of all experts, and their biases.
        router: the matrices that choose experts.
        norms: norms of the layers and the final one.
        lm_head: the LM head where it is not the embedding table, with the projection out of the
            hidden size if there is one.
        idle: those of feed_forward that one token does not meet, in the experts it does not visit.
    """

    embedding: int
    position: int
    attention: int
    feed_forward: int
    router: int
    norms: int
    lm_head: int
    idle: int

    @property
    def total(self) -> int:
        """All parameters."""
        return (
            self.embedding
            + self.position
            + self.attention
            + self.feed_forward
            + self.router
            + self.norms
            + self.lm_head
        )

    @property
    def active(self) -> int:
        """Those that one token meets."""
        return self.total - self.idle


def count_parameters(model: ModelSpec, tensor_parallel: int = 1) -> ParameterCounts:
    """Count the parameters that one device holds.

    Biases of the split matrices are split with them; those added after the sum over devices
    (projection, last feed-forward matrix) are on every device.

    Args:
        model: the model.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    part = shard(model, tensor_parallel)
    expert = _block_parameters(model, part)
    experts = model.experts.experts if model.experts else 1
    visited = model.experts.experts_per_token if model.experts else 1
    projection = model.hidden_size * model.embedding_size if model.embedding_size else 0
    table = part.vocab_size * model.embedding_width
    norm = model.hidden_size * (2 if model.norm is NormKind.LAYER else 1)
    return ParameterCounts(
        embedding=table + projection,
        position=model.learned_positions * model.hidden_size,
        attention=model.layers * _attention_parameters(model, part),
        feed_forward=model.layers * experts * expert,
        router=model.layers * model.hidden_size * experts if model.experts else 0,
        norms=(2 * model.layers + model.final_norm) * norm,
        lm_head=(0 if model.tied_embeddings else table) + projection,
        idle=model.layers * (experts - visited) * expert,
    )


def _attention_parameters(model: ModelSpec, part: Shard) -> int:
    query = part.heads * model.head_dim
    qkv = query + 2 * part.kv_heads * model.head_dim
    weights = model.hidden_size * (qkv + query)
    biases = qkv * model.biases.qkv + model.hidden_size * model.biases.out
    return weights + biases + 2 * model.head_dim * model.qk_norm


def _block_parameters(model: ModelSpec, part: Shard) -> int:
    block = model.feed_forward
    weights = (block.widenings + 1) * model.hidden_size * part.intermediate_size
    biases = block.widenings * part.intermediate_size + model.hidden_size
    return weights + biases * model.biases.ffn


def weight_bytes(model: ModelSpec, tensor_parallel: int = 1) -> float:
    """Return the bytes of all parameters that one device holds.

    All are stored in the weights' element type, embeddings and norms too. The scales and zero
    points of quantised weights are not counted: 3 to 4 % of int4 weights in groups of 128.

    Args:
        model: the model.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    return count_parameters(model, tensor_parallel).total * model.precision.weights.bytes


def kv_bytes_per_token(model: ModelSpec, tensor_parallel: int = 1) -> float:
    """Return the bytes of keys and values that one device stores per token, over all layers.

    2 x key/value heads x head_dim x layers x bytes of one element. Where devices outnumber the
    key/value heads each holds a copy of one head, so that the sum over devices exceeds the
    figure for one.

    Args:
        model: the model.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    heads = shard(model, tensor_parallel).kv_heads
    return 2 * heads * model.head_dim * model.layers * model.precision.kv.bytes


def activation_bytes(
    model: ModelSpec, *, tokens: int, sequences: int, tensor_parallel: int = 1
) -> float:
    """Estimate the peak of live activations on one device during a step.

    The largest, over the stages of a layer, of the residual stream plus what the stage reads and
    writes; or, after the last layer, the residual stream plus the logits in fp32. Attention is
    taken to be fused (FlashAttention), so scores are not stored. Buffers are reused between
    stages and layers, without fragmentation: a lower estimate of what a framework reserves.

    Args:
        model: the model.
        tokens: tokens in flight: the batch in decode, all prompt tokens of it in prefill.
        sequences: requests, each with one row of logits.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    part = shard(model, tensor_parallel)
    hidden = model.hidden_size
    context = part.heads * model.head_dim
    qkv = context + 2 * part.kv_heads * model.head_dim
    block, width = model.feed_forward, part.intermediate_size
    copies = model.experts.experts_per_token if model.experts else 1
    per_token = hidden + max(
        hidden + qkv,
        qkv + context,
        context + hidden,
        copies * (hidden + block.widenings * width),
        copies * (block.widenings + 1) * width,
        copies * (width + hidden),
    )
    element = model.precision.activations.bytes
    logits = sequences * part.vocab_size * LOGIT_BYTES
    return max(tokens * per_token * element, tokens * hidden * element + logits)
