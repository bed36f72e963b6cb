"""What one device holds of every layer under tensor parallelism.

Megatron-LM's scheme (Shoeybi et al., arXiv 1909.08053, section 3): heads and the intermediate
size are split, so that each layer needs a sum over devices after the mixer and one after the
feed-forward part; the vocabulary is split for the embedding and the output head; norms, routers,
latents, indexers and learned positions are copied to every device. The share of a layer is a layer.
"""

from __future__ import annotations

import math

from attacc.models.architecture import divisors
from attacc.models.feedforward import AnyFeedForward, Dense, Mixture
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import (
    AnyMixer,
    Attention,
    CompressedAttention,
    DeltaNet,
    LatentAttention,
    Mamba2,
)


def valid_shares(model: LayeredModel) -> list[int]:
    """Return the numbers of devices that a model can be split over, rising."""
    heads = [_split_heads(layer.mixer) for layer in model.layers if layer.mixer is not None]
    most = math.gcd(*(split for split, _ in heads)) or 1
    kept = {size for _, sizes in heads for size in sizes}
    return [t for t in divisors(most) if all(size % t == 0 or t % size == 0 for size in kept)]


def _split_heads(mixer: AnyMixer) -> tuple[int, tuple[int, ...]]:
    """Return the heads that must divide, and those that are copied where devices outnumber them."""
    match mixer:
        case Attention():
            return mixer.heads, (mixer.kv_heads,)
        case LatentAttention():
            return mixer.heads, ()
        case CompressedAttention():
            return math.gcd(mixer.heads, mixer.output_groups), ()
        case DeltaNet():
            return mixer.value_heads, (mixer.key_heads,)
        case Mamba2():
            return mixer.heads, (mixer.groups,)
        case _:
            return 0, ()


def share_of_layer(layer: Layer, devices: int) -> Layer:
    """Return one device's share of a layer.

    Args:
        layer: the layer.
        devices: one of `valid_shares`.
    """
    if devices == 1:
        return layer
    changes: dict[str, object] = {}
    if layer.mixer is not None:
        changes["mixer"] = layer.mixer.model_copy(update=_share_of_mixer(layer.mixer, devices))
    if layer.feed_forward is not None:
        changes["feed_forward"] = _share_of_block(layer.feed_forward, devices)
    return layer.model_copy(update=changes)


def _share_of_mixer(mixer: AnyMixer, devices: int) -> dict[str, object]:
    match mixer:
        case Attention():
            changes: dict[str, object] = {
                "heads": mixer.heads // devices,
                "kv_heads": max(1, mixer.kv_heads // devices),
            }
            if mixer.selector is not None:
                heads = max(1, mixer.selector.heads // devices)
                changes["selector"] = mixer.selector.model_copy(update={"heads": heads})
            return changes
        case LatentAttention():
            return {"heads": mixer.heads // devices}
        case CompressedAttention():
            return {
                "heads": mixer.heads // devices,
                "output_groups": mixer.output_groups // devices,
            }
        case DeltaNet():
            return {
                "value_heads": mixer.value_heads // devices,
                "key_heads": max(1, mixer.key_heads // devices),
            }
        case Mamba2():
            return {
                "heads": mixer.heads // devices,
                "groups": max(1, mixer.groups // devices),
            }
        case _:
            return {}


def _share_of_block(block: AnyFeedForward, devices: int) -> AnyFeedForward:
    match block:
        case Dense():
            return block.model_copy(update={"width": -(-block.width // devices)})
        case Mixture():
            changes: dict[str, object] = {
                "width": -(-block.width // devices),
                "shared_width": -(-block.shared_width // devices),
            }
            if block.dense is not None:
                changes["dense"] = _share_of_block(block.dense, devices)
            return block.model_copy(update=changes)
        case _:
            return block


def share_of_outside(model: LayeredModel, devices: int) -> dict[str, object]:
    """Return the changes of what stands outside the layers: rows of the vocabulary, rounded up."""
    return {"vocab_size": -(-model.vocab_size // devices)}
