"""Weights one by one: what a part of a model stores, under the name that checkpoints give it.

Counts, bytes and element types all come from these lists. A `Weight` is a matrix of a linear layer,
which quantisation may store in few bits, or anything else (a norm, a bias, a convolution), which
stays in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """Which part of a model a weight belongs to."""

    EMBEDDING = "embedding"
    """Tables that are looked up by token or by position."""
    MIXER = "mixer"
    """Attention, or a recurrent state: all through which a token sees others."""
    FEED_FORWARD = "feed_forward"
    """Feed-forward blocks that every token visits, experts apart."""
    EXPERTS = "experts"
    """Experts that a router chooses."""
    SHARED = "shared_experts"
    """Experts that every token visits."""
    ROUTER = "router"
    """What chooses experts."""
    NORMS = "norms"
    """Norms of layers, and the last one."""
    HEAD = "lm_head"
    """The output head, where it is not the embedding table."""
    OTHER = "other"
    """Paths of the residual stream besides the layers' own."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Equal matrices or vectors.

    Attributes:
        name: as checkpoints call it, from the layer on: "self_attn.q_proj",
            "mlp.experts.*.up_proj".
        part: where it counts.
        outputs: rows of a matrix as it is stored; elements of a vector.
        inputs: columns; 1 for a vector.
        count: how many of them there are.
        linear: whether it is the matrix of a linear layer, which may be quantised.
    """

    name: str
    part: Part
    outputs: int
    inputs: int = 1
    count: int = 1
    linear: bool = True

    @property
    def numbers(self) -> int:
        """Numbers in all of them."""
        return self.outputs * self.inputs * self.count


def linear(name: str, part: Part, inputs: int, outputs: int, *, count: int = 1) -> Weight:
    """Return the matrix of a linear layer."""
    return Weight(name, part, outputs, inputs, count)


def vector(name: str, part: Part, numbers: int, *, count: int = 1) -> Weight:
    """Return a vector, or anything else that is no matrix of a linear layer."""
    return Weight(name, part, numbers, 1, count, linear=False)
