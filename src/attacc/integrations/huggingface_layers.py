"""What the layers of a model of transformers attend to: their windows, masks, latents and sinks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import torch
from transformers import masking_utils
from transformers.integrations import sdpa_attention

from attacc.integrations.huggingface_cache import Handed, unsupported

# transformers states no types for some arguments or results of these.
_SDPA: Final[Any] = sdpa_attention
_MASKS: Final[Any] = masking_utils

_FULL: Final = ("full_attention", "attention")
_SLIDING: Final = "sliding_attention"
_CHUNKED: Final = "chunked_attention"
_WITHOUT_KEYS: Final = ("linear_attention", "conv", "moe", "mlp")
"""Names of types of layers in a model's configuration. The last ones have no keys and values."""


def attention_layers(config: Any) -> dict[int, int | None]:
    """Return the layers that attend, with the window of each, as a model's configuration states it.

    Raises:
        InputError: a layer is of a type that the device does not compute, or no layer attends.
    """
    shared: int = getattr(config, "num_kv_shared_layers", 0)
    if shared:
        raise unsupported(
            "layers that attend to the keys and values of another layer "
            f"(num_kv_shared_layers = {shared})"
        )
    layers = int(config.num_hidden_layers)
    window: int | None = getattr(config, "sliding_window", None)
    kinds: Sequence[str] | None = getattr(config, "layer_types", None)
    if kinds is None:
        sliding = getattr(config, "use_sliding_window", True)
        return dict.fromkeys(range(layers), window if sliding else None)
    for layer, kind in enumerate(kinds[:layers]):
        if kind == _CHUNKED:
            raise unsupported(chunks_of(config))
        if kind not in (*_FULL, _SLIDING, *_WITHOUT_KEYS):
            raise unsupported(f"layers of the type {kind}, as layer {layer} is")
    attending = {
        layer: window if kind == _SLIDING else None
        for layer, kind in enumerate(kinds[:layers])
        if kind not in _WITHOUT_KEYS
    }
    if not attending:
        raise unsupported("anything of a model in which no layer attends")
    return attending


def chunks_of(config: Any) -> str:
    """Return in words that layers attend within chunks."""
    return f"attention within chunks of {config.attention_chunk_size} tokens"


def windows_shown(
    arguments: Mapping[str, Any],
    batch: int,
    tokens: int,
    length: int,
    known: Collection[int | None],
) -> frozenset[int | None]:
    """Return the windows whose keys, and no others, a mask shows to the new tokens of a pass.

    The mask's function is called for every row, new token and key, so that no other mask passes.

    Args:
        arguments: arguments of transformers' function that makes masks.
        batch: number of rows.
        tokens: number of new tokens of each row.
        length: number of all tokens of each row after the pass.
        known: windows of the model's layers; None for no window.
    """
    function = arguments["mask_function"]
    if arguments.get("use_vmap"):
        return frozenset()
    if function is _MASKS.causal_mask_function:
        return frozenset(one for one in known if one is None or one >= length)
    place = arguments.get("device", "cpu")
    row = torch.arange(batch, device=place)[:, None, None]
    query = torch.arange(length - tokens, length, device=place)[None, :, None]
    key = torch.arange(length, device=place)[None, None, :]
    shown = torch.as_tensor(function(row, 0, query, key)).expand(batch, tokens, length)
    causal = key <= query
    return frozenset(
        one
        for one in known
        if torch.equal(
            shown, (causal if one is None else causal & (key > query - one)).expand_as(shown)
        )
    )


def come_from(
    module: torch.nn.Module, handed: Handed, key: torch.Tensor, value: torch.Tensor
) -> bool:
    """Return whether keys and values are those of a cache, or expanded from its latents.

    transformers' caches of latent attention hold latents since 5.24. The device holds the keys and
    values that a module expands from them.
    """
    if key is handed.keys and value is handed.values:
        return True
    expand: Any = getattr(module, "expand_kv", None)
    if expand is None:
        return False
    of_keys, of_values = expand(handed.keys, handed.values)
    return torch.equal(key, of_keys) and torch.equal(value, of_values)


class Latents(StrEnum):
    """What the device holds of latent attention."""

    EXPANDED = "expanded"
    """A key and a value of every head, which the host expands from the latents."""
    ONE_COPY = "one_copy"
    """The latents: one record of a token for all heads, whose first elements are its value. The
    host absorbs the matrices that expand it into queries, and applies them to contexts."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """The matrices with which a layer expands latents.

    Attributes:
        keys: (heads, latent + rotated elements, elements of a key).
        values: (heads, latent, elements of a value).
    """

    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, module: torch.nn.Module, handed: Handed) -> Expansion | None:
        """Return the matrices of a module; None where it attends to what the cache holds.

        They are what the module makes of latents with a single one.

        Args:
            module: the attention module of a layer.
            handed: what it gave to the cache.

        Raises:
            InputError: keys and values are no linear function of latents.
        """
        expand: Any = getattr(module, "expand_kv", None)
        if expand is None:
            return None
        latent, rotated = handed.keys, handed.values
        width, more = latent.shape[-1], rotated.shape[-1]
        ones = torch.eye(width + more, dtype=latent.dtype, device=latent.device)[None, None]
        keys, values = expand(ones[..., :width].contiguous(), ones[..., width:].contiguous())
        none = [torch.zeros(1, 1, 1, size).to(latent) for size in (width, more)]
        rest = torch.cat([one.flatten() for one in (*expand(*none), values[:, :, width:])])
        if rest.any():
            raise unsupported("latents in one copy that do not expand by matrices alone")
        return cls(keys[0], values[0, :, :width])

    @property
    def width(self) -> int:
        """Elements of a record."""
        return self.keys.shape[1]

    @property
    def latent(self) -> int:
        """Elements of its value."""
        return self.values.shape[1]

    def absorbed(self, query: torch.Tensor) -> torch.Tensor:
        """Return (batch, heads, tokens, width) queries to records."""
        return torch.einsum("bhtk,hck->bhtc", query, self.keys)

    def applied(self, context: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens, heads, value elements) contexts from those of latents."""
        return torch.einsum("bthc,hcv->bthv", context, self.values)


def prefilled(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Return the context of a prompt, (batch, tokens, heads, value elements), by sdpa.

    A sink is one more key of zeros with a value of zeros, whose mask adds the sink to its score.
    """
    if sinks is not None:
        tokens = query.shape[2]
        if mask is None:
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
        shown = mask.expand(len(query), query.shape[1], tokens, tokens)
        added = torch.zeros_like(shown, dtype=query.dtype).masked_fill(~shown, -torch.inf)
        beside = sinks.to(query.dtype).view(1, -1, 1, 1).expand(*added.shape[:3], 1)
        mask = torch.cat([added, beside], dim=-1)
        key, value = (torch.nn.functional.pad(one, (0, 0, 0, 1)) for one in (key, value))
    context, _ = _SDPA.sdpa_attention_forward(module, query, key, value, mask, scaling=scale)
    return context
