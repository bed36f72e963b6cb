"""What one device holds of every layer under tensor parallelism.

Megatron-LM's scheme (Shoeybi et al., arXiv 1909.08053, section 3): heads and the intermediate
size are split, so that each layer needs a sum over devices after attention and one after the
feed-forward block; the vocabulary is split for the embedding and the LM head; norms, routers and
learned positions are copied to every device.
"""

from __future__ import annotations

from dataclasses import dataclass

from attacc.errors import InputError
from attacc.models.architecture import ModelSpec, divisors


@dataclass(frozen=True, slots=True)
class Shard:
    """One device's share of a model.

    Attributes:
        devices: how many devices share every layer.
        heads: query heads.
        kv_heads: key/value heads; at least one, so heads are copied where devices outnumber them.
        intermediate_size: columns of the feed-forward matrices, rounded up.
        vocab_size: rows of the embedding table and the LM head, rounded up.
    """

    devices: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int

    @property
    def group_size(self) -> int:
        """Query heads of this device that share one key/value head."""
        return self.heads // self.kv_heads


def valid_tensor_parallel(model: ModelSpec) -> list[int]:
    """Return the numbers of devices that a model can be split over, rising."""
    return [t for t in divisors(model.heads) if _divides_kv_heads(model, t)]


def _divides_kv_heads(model: ModelSpec, devices: int) -> bool:
    return model.kv_heads % devices == 0 or devices % model.kv_heads == 0


def shard(model: ModelSpec, tensor_parallel: int) -> Shard:
    """Split a model over devices.

    Sizes that do not divide (feed-forward, vocabulary) are padded up to the next that does, as
    serving systems do; heads must divide.

    Args:
        model: the model.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: the heads, or the key/value heads, cannot be split so.
    """
    if (
        tensor_parallel < 1
        or model.heads % tensor_parallel
        or not _divides_kv_heads(model, tensor_parallel)
    ):
        choices = ", ".join(map(str, valid_tensor_parallel(model)))
        raise InputError(
            f"tensor parallelism {tensor_parallel} does not split the {model.heads} query heads "
            f"and {model.kv_heads} key/value heads of {model.name}",
            where="tensor_parallel",
            hint=f"use one of {choices}",
        )
    return Shard(
        devices=tensor_parallel,
        heads=model.heads // tensor_parallel,
        kv_heads=max(1, model.kv_heads // tensor_parallel),
        intermediate_size=-(-model.feed_forward.intermediate_size // tensor_parallel),
        vocab_size=-(-model.vocab_size // tensor_parallel),
    )
