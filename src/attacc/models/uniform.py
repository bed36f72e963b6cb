"""Models of equal layers as layered ones: what is counted of the one is counted of the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attacc.errors import InputError
from attacc.models.architecture import (
    Activation,
    Biases,
    Experts,
    FeedForward,
    ModelSpec,
    NormKind,
)
from attacc.models.feedforward import AnyFeedForward, Dense, Mixture
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Attention, QkNorm
from attacc.models.precision import Precision


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


_ACTIVATIONS: Final = {"silu": Activation.SILU, "gelu": Activation.GELU, "relu": Activation.RELU}
_ALIKE: Final = {
    "gelu_fast": "gelu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_tanh": "gelu",
    "quick_gelu": "gelu",
}
"""Activations that cost the same."""


def uniform(model: LayeredModel, precision: Precision) -> ModelSpec:
    """Return a model of equal layers of full attention, which is what is priced so far.

    Up to the smallest window of its layers, attention is full: steps at longer contexts are refused
    where they are priced.

    Args:
        model: a model of layers.
        precision: its element types.

    Raises:
        InputError: its layers differ, or have parts that are not priced; names the first of them.
    """
    refusal = next(_not_priced(model), None)
    if refusal is not None:
        raise InputError(
            f"{model.name} {refusal}, which is described but not priced yet",
            where="model",
            hint="attacc model tells what it consists of; priced are models of equal layers with "
            "full attention",
        )
    layer = _without_window(model.layers[0])
    mixer, block = layer.mixer, layer.feed_forward
    windows = [
        one.mixer.window
        for one in model.layers
        if isinstance(one.mixer, Attention) and one.mixer.window is not None
    ]
    assert isinstance(mixer, Attention)  # noqa: S101 - others are refused above
    assert isinstance(block, Dense | Mixture)  # noqa: S101
    activation = _ALIKE.get(block.activation, block.activation)
    return ModelSpec(
        name=model.name,
        description=model.description,
        sources=model.sources,
        family=model.family,
        layers=model.layer_count,
        hidden_size=model.hidden_size,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_dim=mixer.head_dim,
        feed_forward=FeedForward(
            intermediate_size=block.width,
            gated=block.gated,
            activation=_ACTIVATIONS[activation],
        ),
        experts=Experts(experts=block.experts, experts_per_token=block.experts_per_token)
        if isinstance(block, Mixture)
        else None,
        vocab_size=model.vocab_size,
        embedding_size=model.embedding_size,
        learned_positions=model.learned_positions,
        tied_embeddings=model.tied_embeddings,
        norm=NormKind.LAYER if model.norm_bias else NormKind.RMS,
        final_norm=model.final_norm,
        qk_norm=mixer.qk_norm is not None,
        biases=Biases(qkv=mixer.qkv_bias, out=mixer.out_bias, ffn=block.bias),
        parallel_residual=layer.parallel,
        max_context=model.max_context,
        sliding_window=min(windows, default=None),
        precision=precision,
    )


def _without_window(layer: Layer) -> Layer:
    """Return one such layer, with full attention in place of a window."""
    changes: dict[str, object] = {"repeat": 1}
    if isinstance(layer.mixer, Attention):
        changes["mixer"] = layer.mixer.model_copy(update={"window": None})
    return layer.model_copy(update=changes)


def _not_priced(model: LayeredModel) -> Iterator[str]:
    """Yield what of a model is not priced, as the end of a sentence."""
    alike = [_without_window(layer) for layer in model.layers]
    kinds = list(dict.fromkeys(layer.kind for layer in alike))
    if len(kinds) > 1:
        yield f"has layers of several kinds ({', '.join(kinds)})"
    layer = alike[0]
    if any(one != layer for one in alike):
        yield "has layers of different sizes"
    mixer, block = layer.mixer, layer.feed_forward
    if not isinstance(mixer, Attention) or not isinstance(block, Dense | Mixture):
        yield f"has layers of {layer.kind}"
        return
    parts = {
        "attention in chunks": mixer.chunk is not None,
        "values of another size than keys": mixer.values != mixer.head_dim,
        "gates of attention": mixer.gate is not None,
        "attention sinks": mixer.sinks,
        "keys that are values": mixer.keys_as_values,
        "keys of other layers": mixer.borrowed,
        "a choice of blocks of keys": mixer.selector is not None,
        "norms over all query heads": mixer.qk_norm not in (None, QkNorm.HEAD),
        f"{layer.norms} norms a layer": layer.norms != 2,
        "several residual streams": bool(layer.other or model.other),
        "a norm behind the embedding": model.embedding_norm,
        "a bias of the output head": model.head_bias,
        f"the activation {block.activation}": _ALIKE.get(block.activation, block.activation)
        not in _ACTIVATIONS
        or block.gated != (block.activation == "silu"),
    }
    if isinstance(block, Mixture):
        parts |= {
            "shared experts": bool(block.shared_width),
            "a block beside the experts": block.dense is not None,
            "experts in a latent": block.latent is not None,
            "biases of the router": block.router_bias,
            "scales of the router": block.scales,
        }
    yield from (f"has {part}" for part, there in parts.items() if there)
