"""Models of equal layers as layered ones: what is counted of the one is counted of the other."""

from __future__ import annotations

from attacc.models.architecture import ModelSpec, NormKind
from attacc.models.feedforward import AnyFeedForward, Dense, Mixture
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Attention, QkNorm


def layered(model: ModelSpec) -> LayeredModel:
    """Return a model of equal layers as a sequence of layers.

    Args:
        model: a preset, or a document of one's own.
    """
    block = model.feed_forward
    feed_forward: AnyFeedForward
    if model.experts is None:
        feed_forward = Dense(
            width=block.intermediate_size,
            gated=block.gated,
            activation=block.activation,
            bias=model.biases.ffn,
        )
    else:
        feed_forward = Mixture(
            experts=model.experts.experts,
            experts_per_token=model.experts.experts_per_token,
            width=block.intermediate_size,
            gated=block.gated,
            activation=block.activation,
            bias=model.biases.ffn,
        )
    mixer = Attention(
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        window=model.sliding_window,
        qk_norm=QkNorm.HEAD if model.qk_norm else None,
        qkv_bias=model.biases.qkv,
        out_bias=model.biases.out,
    )
    return LayeredModel(
        name=model.name,
        description=model.description,
        sources=model.sources,
        family=model.family,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        embedding_size=model.embedding_size,
        tied_embeddings=model.tied_embeddings,
        learned_positions=model.learned_positions,
        norm_bias=model.norm is NormKind.LAYER,
        final_norm=model.final_norm,
        layers=(
            Layer(
                repeat=model.layers,
                mixer=mixer,
                feed_forward=feed_forward,
                parallel=model.parallel_residual,
            ),
        ),
        max_context=model.max_context,
    )
