"""What one device holds of every layer, under tensor, expert and attention data parallelism.

Megatron-LM's scheme (Shoeybi et al., arXiv 1909.08053, section 3): heads and the intermediate
size are split, so that each layer needs a sum over devices after the mixer and one after the
feed-forward part; the vocabulary is split for the embedding and the output head; norms, routers,
latents, indexers and learned positions are copied to every device. The share of a layer is a layer.

Mixers may instead be split over groups of the devices, each with requests of its own (attention
data parallelism), and experts may be kept whole, each on a part of the devices (expert
parallelism). docs/model/parallelism.md has the equations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attacc.errors import InputError
from attacc.models.architecture import divisors
from attacc.models.feedforward import AnyFeedForward, Dense, Mixture, MixtureShare
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import (
    AnyMixer,
    Attention,
    CompressedAttention,
    DeltaNet,
    LatentAttention,
    Mamba2,
)


@dataclass(frozen=True, slots=True, order=True)
class Split:
    """How the devices that hold one copy of a model share its layers.

    Attributes:
        devices: all of them. They share dense feed-forward parts, shared experts and the
            vocabulary.
        mixer_groups: groups into which they are dealt out for the mixers. Each group has a whole
            mixer and requests of its own.
        expert_parts: parts into which they are dealt out for routed experts. Each part has whole
            experts of its own.
    """

    devices: int
    mixer_groups: int = 1
    expert_parts: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: the groups or the parts do not divide the devices.
        """
        for name, parts in (("dp", self.mixer_groups), ("ep", self.expert_parts)):
            if parts < 1 or self.devices % parts:
                raise InputError(
                    f"{parts} parts do not divide {self.devices} devices",
                    where=name,
                    hint="use a divisor of the devices",
                )

    @classmethod
    def of(cls, given: int | Split) -> Split:
        """Return a split; a number of devices is tensor parallelism alone."""
        return given if isinstance(given, Split) else Split(given)

    @property
    def mixer_devices(self) -> int:
        """Devices that split the heads of a mixer."""
        return self.devices // self.mixer_groups

    @property
    def expert_devices(self) -> int:
        """Devices that split each routed expert."""
        return self.devices // self.expert_parts

    @property
    def plain(self) -> bool:
        """Whether it is tensor parallelism alone."""
        return self.mixer_groups == self.expert_parts == 1

    def dispatches(self, block: AnyFeedForward | None) -> bool:
        """Whether the tokens of a feed-forward part travel to the devices of their experts.

        They do where each expert lies whole on one device, each group has tokens of its own, and no
        other part of the block needs all tokens on all devices. Otherwise tokens are gathered.

        Args:
            block: the feed-forward part.
        """
        return (
            isinstance(block, Mixture)
            and self.mixer_groups > 1
            and self.expert_devices == 1
            and not block.shared_width
            and block.dense is None
        )


UNSPLIT: Final = Split(1)
"""One device with the whole model."""


def valid_shares(model: LayeredModel, *, mixer_groups: int = 1, expert_parts: int = 1) -> list[int]:
    """Return the numbers of devices that a model can be split over, rising.

    The heads of mixers must divide among the devices of a group. With several parts, the experts
    must divide among the parts, and the width of an expert among the devices of a part. With one
    part, the last slice of a width may be smaller.

    Args:
        model: the model.
        mixer_groups: as in `Split`.
        expert_parts: as in `Split`.
    """
    heads = [_split_heads(layer.mixer) for layer in model.layers if layer.mixer is not None]
    most = math.gcd(*(split for split, _ in heads)) or 1
    kept = {size for _, sizes in heads for size in sizes}
    shares = [t for t in divisors(most) if all(size % t == 0 or t % size == 0 for size in kept)]
    return [
        mixer_groups * t
        for t in shares
        if expert_parts == 1 or _divides_experts(model, mixer_groups * t, expert_parts)
    ]


def _divides_experts(model: LayeredModel, devices: int, parts: int) -> bool:
    """Return whether there are routed experts, and whether they divide among parts of devices."""
    found = list(mixtures(model))
    return (
        bool(found)
        and devices % parts == 0
        and all(one.here % parts == 0 for one in found)
        and all(one.width % (devices // parts) == 0 for one in found)
    )


def mixtures(model: LayeredModel) -> Iterator[Mixture]:
    """Yield the routed experts of a model's layers, those of its draft included."""
    layers = model.layers if model.draft is None else (*model.layers, *model.draft.layers)
    for layer in layers:
        if isinstance(layer.feed_forward, Mixture):
            yield layer.feed_forward


def valid_splits(model: LayeredModel, devices: int) -> list[Split]:
    """Return the splits of a model over a number of devices, rising.

    Args:
        model: the model.
        devices: all devices.
    """
    return [
        Split(devices, groups, parts)
        for groups in divisors(devices)
        for parts in divisors(devices)
        if devices in valid_shares(model, mixer_groups=groups, expert_parts=parts)
    ]


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


def share_of_layer(layer: Layer, split: Split) -> Layer:
    """Return one device's share of a layer.

    Args:
        layer: the layer.
        split: one of `valid_splits`.
    """
    if split.devices == 1:
        return layer
    changes: dict[str, object] = {}
    if layer.mixer is not None and split.mixer_devices > 1:
        own = _share_of_mixer(layer.mixer, split.mixer_devices)
        changes["mixer"] = layer.mixer.model_copy(update=own)
    if layer.feed_forward is not None:
        changes["feed_forward"] = _share_of_block(layer.feed_forward, split)
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


def _share_of_block(block: AnyFeedForward, split: Split) -> AnyFeedForward:
    match block:
        case Dense():
            return block.model_copy(update={"width": -(-block.width // split.devices)})
        case Mixture():
            changes: dict[str, object] = {
                "width": -(-block.width // split.expert_devices),
                "shared_width": -(-block.shared_width // split.devices),
            }
            if block.dense is not None:
                changes["dense"] = _share_of_block(block.dense, split)
            if split.expert_parts > 1:
                changes["held"] = block.here // split.expert_parts
                return MixtureShare.model_validate(dict(block) | changes)
            return block.model_copy(update=changes)
        case _:
            return block


def share_of_outside(model: LayeredModel, split: Split) -> dict[str, object]:
    """Return the changes of what stands outside the layers: rows of the vocabulary, rounded up."""
    return {"vocab_size": -(-model.vocab_size // split.devices)}
