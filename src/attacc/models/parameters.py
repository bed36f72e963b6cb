"""How much a model stores: parameters, weights, key/value cache and live activations.

Every function takes the number of devices that share the layers and answers for one of them;
with one device that is the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.models.architecture import ModelSpec
from attacc.models.feedforward import AnyFeedForward, Dense, Mixture
from attacc.models.mixers import (
    AnyMixer,
    Attention,
    CompressedAttention,
    DeltaNet,
    Gate,
    LatentAttention,
    Mamba2,
)
from attacc.models.served import ServedModel, served
from attacc.models.sharding import Split
from attacc.models.weights import Part

LOGIT_BYTES: Final = 4
"""Logits are held in fp32 while they are sampled from, whatever the activations are."""

AnyModel = ModelSpec | ServedModel
"""A model of equal layers, or one as it is served."""


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters held by one device, over all layers.

    Attributes:
        embedding: token embedding, with the projection into the hidden size if there is one.
        position: learned positions.
        attention: all matrices of mixers, their biases, and query/key norms.
        feed_forward: all feed-forward matrices, of all experts, and their biases.
        router: the matrices that choose experts.
        norms: norms of the layers and the final one.
        lm_head: the LM head where it is not the embedding table, with the projection out of the
            hidden size if there is one.
        other: paths of the residual stream besides the layers' own.
        idle: those of feed_forward that one token does not meet, in the experts it does not visit.
    """

    embedding: int
    position: int
    attention: int
    feed_forward: int
    router: int
    norms: int
    lm_head: int
    other: int
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
            + self.other
        )

    @property
    def active(self) -> int:
        """Those that one token meets."""
        return self.total - self.idle


FEED_FORWARD_PARTS: Final = (Part.FEED_FORWARD, Part.EXPERTS, Part.SHARED)
"""The parts that hold feed-forward matrices."""


def count_parameters(model: AnyModel, tensor_parallel: int | Split = 1) -> ParameterCounts:
    """Count the parameters that one device holds.

    Biases of the split matrices are split with them; those added after the sum over devices
    (projection, last feed-forward matrix) are on every device.

    Args:
        model: the model.
        tensor_parallel: devices that share every layer, or how they do.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    share = served(model).share(tensor_parallel)
    parts = dict.fromkeys(Part, 0) | share.by_part
    position = share.model.learned_positions * share.model.hidden_size
    return ParameterCounts(
        embedding=parts[Part.EMBEDDING] - position,
        position=position,
        attention=parts[Part.MIXER],
        feed_forward=sum(parts[part] for part in FEED_FORWARD_PARTS),
        router=parts[Part.ROUTER],
        norms=parts[Part.NORMS],
        lm_head=parts[Part.HEAD],
        other=parts[Part.OTHER],
        idle=share.model.parameters - share.model.active_parameters,
    )


def weight_bytes(model: AnyModel, tensor_parallel: int | Split = 1) -> float:
    """Return the bytes of all parameters that one device holds, scales of narrow ones included.

    Args:
        model: the model. All weights of a `ModelSpec` have one type, without scales: those of int4
            in groups of 128 would add 3 to 4 %.
        tensor_parallel: devices that share every layer, or how they do.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    return served(model).share(tensor_parallel).weight_bytes


def kv_bytes_per_token(model: AnyModel, tensor_parallel: int | Split = 1) -> float:
    """Return the bytes that one device stores per token without end, over all layers.

    Keys, values, latents and index keys count; windows, chunks and states do not grow with the
    context, and do not count. Where devices outnumber the key/value heads each holds a copy of one
    head, and every device holds all latents, so that the sum over devices exceeds the figure for
    one.

    Args:
        model: the model.
        tensor_parallel: devices that share every layer, or how they do.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    share = served(model).share(tensor_parallel)
    return sum(
        layer.repeat * layer.mixer.stored(share.kv.bytes).per_token
        for layer in share.model.layers
        if layer.mixer is not None
    )


def activation_bytes(
    model: AnyModel, *, tokens: int, sequences: int, tensor_parallel: int | Split = 1
) -> float:
    """Estimate the peak of live activations on one device during a step.

    The largest, over the stages of all layers, of the residual stream plus what the stage reads and
    writes; or, after the last layer, the residual stream plus the logits in fp32. Attention is
    taken to be fused (FlashAttention), so scores are not stored. Buffers are reused between
    stages and layers, without fragmentation: a lower estimate of what a framework reserves.

    Args:
        model: the model.
        tokens: tokens in flight: the batch in decode, all prompt tokens of it in prefill.
        sequences: requests, each with one row of logits.
        tensor_parallel: devices that share every layer, or how they do.

    Raises:
        InputError: the model cannot be split over so many devices.
    """
    share = served(model).share(tensor_parallel)
    return max(
        mixer_activation_bytes(share, tokens=tokens),
        block_activation_bytes(share, tokens=tokens, sequences=sequences),
    )


def mixer_activation_bytes(share: ServedModel, *, tokens: float) -> float:
    """Return the most live activations on one device in the mixers of a step.

    Args:
        share: one device's share of the model.
        tokens: tokens of the device's group, as in `activation_bytes`.
    """
    hidden = share.model.hidden_size
    widest = max(_mixer_width(layer.mixer, hidden) for layer in share.model.layers)
    return tokens * (hidden + widest) * share.activations.bytes


def block_activation_bytes(share: ServedModel, *, tokens: float, sequences: float) -> float:
    """Return the most live activations on one device in feed-forward parts, or with logits.

    Tokens of all groups are taken to be there; where they travel to their experts, fewer are.

    Args:
        share: one device's share of the model.
        tokens: tokens of all groups, as in `activation_bytes`.
        sequences: as in `activation_bytes`.
    """
    hidden, element = share.model.hidden_size, share.activations.bytes
    widest = max(_block_width(layer.feed_forward, hidden) for layer in share.model.layers)
    logits = sequences * share.model.vocab_size * LOGIT_BYTES
    return max(tokens * (hidden + widest) * element, tokens * hidden * element + logits)


def _mixer_width(mixer: AnyMixer | None, hidden: int) -> int:
    """Return the most elements that a stage of a mixer reads and writes for a token."""
    match mixer:
        case Attention():
            query = mixer.heads * mixer.head_dim * (2 if mixer.gate is Gate.ELEMENT else 1)
            made = query + mixer.kv_heads * (mixer.head_dim + mixer.values)
            context = mixer.heads * mixer.values
        case LatentAttention():
            # Absorbed queries and contexts of the latent are the widest.
            made = mixer.heads * (mixer.nope_dim + 2 * mixer.rope_dim + mixer.latent)
            context = mixer.heads * (mixer.latent + mixer.value_dim)
        case CompressedAttention():
            made = mixer.heads * mixer.head_dim + mixer.query_rank + mixer.head_dim
            context = mixer.heads * mixer.head_dim
        case DeltaNet():
            made = mixer.channels + mixer.value_heads * mixer.value_dim
            context = mixer.value_heads * mixer.value_dim
        case Mamba2():
            made, context = mixer.channels + mixer.width, mixer.width
        case _:
            return 2 * hidden
    return max(hidden + made, made + context, context + hidden)


def _block_width(block: AnyFeedForward | None, hidden: int) -> float:
    """Return the most elements that a stage of a feed-forward part reads and writes for a token.

    Of experts that are dealt out to devices, the mean over the devices.
    """
    match block:
        case Dense():
            return _stages(hidden, block.width, gated=block.gated)
        case Mixture():
            inputs = block.latent or hidden
            visits = block.experts_per_token * block.here / block.experts
            return visits * _stages(inputs, block.width, gated=block.gated)
        case _:
            return 2 * hidden


def _stages(inputs: int, width: int, *, gated: bool) -> int:
    widenings = 2 if gated else 1
    return max(inputs + widenings * width, (widenings + 1) * width, width + inputs)
