"""Passes of new tokens through a model of transformers, and what they cost on a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from attacc.integrations.huggingface_cache import Handed
from attacc.integrations.huggingface_layers import Expansion
from attacc.pim.host.costs import AppendCost, AttendCost, LinkBytes

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prefill:
    """One prefill on the host.

    Attributes:
        requests: number of requests whose prompts were prefilled.
        tokens: tokens of all the prompts, without padding.
        appended: cost of writing the keys and values of all layers to the device.
    """

    requests: int
    tokens: int
    appended: AppendCost


@dataclass(frozen=True, slots=True)
class Step:
    """One decode step: one token of each request, or several at once, through all layers.

    Attributes:
        requests: number of requests.
        keys: keys that the tokens attended to in layers without a window, including their own,
            summed over tokens and requests.
        attention: cost of attending in all layers.
        appended: cost of writing the keys and values of the new tokens in all layers.
        tokens: tokens of each request, which attended at once.
    """

    requests: int
    keys: int
    attention: AttendCost
    appended: AppendCost
    tokens: int = 1

    @property
    def link(self) -> LinkBytes:
        """Bytes that crossed the links: queries, keys and values, and contexts."""
        return self.attention.link + self.appended.link

    @property
    def link_ns(self) -> float:
        """Time of these bytes on the links."""
        return self.attention.link_ns + self.appended.link_ns

    @property
    def link_pj(self) -> float:
        """Energy of these bytes on the links."""
        return self.attention.link_pj + self.appended.link_pj


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of a pass.

    Attributes:
        given: the mask that layers get.
        windows: the windows, or None for no window, whose keys it shows in this pass.
    """

    given: torch.Tensor | None
    windows: frozenset[int | None]


@dataclass(slots=True)
class Forward:
    """A pass of new tokens through the model.

    Attributes:
        tokens: number of new tokens of each row, including padding.
        length: number of all tokens of each row after the pass, including padding.
        padding: number of padding tokens at the start of each row; None for no padding.
        masks: masks. Every layer's attention must get one of them.
        layers: number of layers that have attended.
        attention: for each run of tokens, the costs of attending in the layers so far; empty in
            prefill.
        appended: for each run of tokens, the costs of writing in the layers so far.
        at_once: tokens of a run, which attend at once; the last run may have fewer.
    """

    tokens: int
    length: int
    padding: tuple[int, ...] | None
    masks: list[Mask] = field(default_factory=list[Mask])
    layers: int = 0
    attention: list[list[AttendCost]] = field(default_factory=list[list[AttendCost]])
    appended: list[list[AppendCost]] = field(default_factory=list[list[AppendCost]])
    at_once: int = 1

    @property
    def is_prefill(self) -> bool:
        """Whether the host attends. It does so for several tokens that have none before them."""
        return self.tokens > 1 and self.tokens == self.length

    @property
    def runs(self) -> list[slice]:
        """The new tokens that attend at once; in prefill, all of them."""
        each = self.tokens if self.is_prefill else self.at_once
        return [
            slice(first, min(first + each, self.tokens)) for first in range(0, self.tokens, each)
        ]

    @property
    def has_begun(self) -> bool:
        """Whether a layer has attended, or written a token."""
        return self.layers > 0 or any(self.appended)

    def windows(self, mask: torch.Tensor | None) -> frozenset[int | None]:
        """Return the windows of a layer that got this mask; empty for an unknown mask."""
        each = (one.windows for one in self.masks if one.given is mask)
        return frozenset[int | None]().union(*each)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a layer sends to the device for new tokens.

    Attributes:
        queries: (batch, heads, tokens, elements of a key).
        keys: (batch, kv_heads, tokens, elements of a key).
        values: (batch, kv_heads, tokens, elements of a value); None where they are part of the
            keys.
    """

    queries: F32
    keys: F32
    values: F32 | None

    @classmethod
    def of(
        cls,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        handed: Handed,
        expansion: Expansion | None,
    ) -> Sent:
        """Return queries, keys and values as they are, or absorbed queries and latents."""
        if expansion is None:
            return cls(float32(query), float32(key), float32(value))
        records = torch.cat([handed.keys, handed.values], dim=-1)
        return cls(float32(expansion.absorbed(query)), float32(records), None)


def float32(tensor: torch.Tensor) -> F32:
    """Return a tensor as an array of float32."""
    return cast("F32", tensor.detach().to("cpu", torch.float32).numpy())
