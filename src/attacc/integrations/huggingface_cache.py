"""A key/value cache for models of transformers that holds no keys and values.

`DeviceCache` passes keys and values of new tokens to its session, whose device keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from attacc.errors import InputError


class CacheOwner(Protocol):
    """The methods of a session that its caches call."""

    def open_requests(self, count: int) -> tuple[int, ...]:
        """Open requests, and return numbers for them that no earlier request of the session had."""
        ...

    def hand_over(self, handed: Handed) -> None:
        """Take the keys and values of a layer's new tokens."""
        ...

    def free(self, requests: Sequence[int]) -> None:
        """Free some requests; those that are no longer open are ignored."""
        ...


@dataclass(frozen=True, slots=True)
class Handed:
    """Keys and values on their way from a cache to the attention of the same layer."""

    cache: DeviceCache
    layer: int
    keys: torch.Tensor
    values: torch.Tensor


class DeviceLayer(CacheLayerMixin):
    """A layer of a `DeviceCache`, which counts tokens and holds no keys and values."""

    is_sliding = False

    def __init__(self) -> None:
        cast("Any", super()).__init__()
        self.tokens = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing, because the layer holds no keys and values."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ARG002 - this and others: transformers' signature
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Count new tokens, and return their keys and values unchanged."""
        self.tokens += key_states.shape[-2]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys of a mask, and the number of its first key."""
        return self.tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens of a row, including padding."""
        return self.tokens

    def get_max_length(self) -> int:
        """Return -1 for no limit; the device's memory limits the tokens."""
        return -1


class DeviceCache(Cache):
    """A model's key/value cache, which passes new keys and values to the session.

    Args:
        session: the session whose device keeps the keys and values.
        layers: makes the layers, empty: a `DeviceLayer` for each layer with keys and values, and
            transformers' own for each layer that has another state, or none.
    """

    def __init__(self, session: CacheOwner, layers: Callable[[], list[Any]]) -> None:
        super().__init__(layers=layers())
        self._session = session
        self._new_layers = layers
        self._requests: tuple[int, ...] = ()
        self._padding: tuple[int, ...] = ()
        self._passing = False

    @property
    def requests(self) -> tuple[int, ...]:
        """For each row, the number of its request on the device; empty before the first tokens."""
        return self._requests

    def begin(self) -> None:
        """Note that a pass through the model begins.

        Raises:
            InputError: the pass before did not end, so that layers have different numbers of
                tokens.
        """
        if self._passing:
            raise InputError(
                "a pass through the model broke off", hint="free the cache, or take a new one"
            )
        self._passing = True

    def end(self) -> None:
        """Note that all layers have attended."""
        self._passing = False

    def open(
        self, padding: tuple[int, ...] | None, rows: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the request of every row, and the number of padding tokens at its start.

        Args:
            padding: padding tokens of each row, by the mask; None for no padding.
            rows: number of rows of the batch.

        Raises:
            InputError: rows or padding differ from those of earlier tokens.
        """
        given = padding or (0,) * rows
        if not self._requests:
            self._requests, self._padding = self._session.open_requests(rows), given
        elif given != self._padding:
            raise InputError(
                f"the batch has {len(given)} rows with {sum(given)} tokens of padding, and had "
                f"{len(self._padding)} with {sum(self._padding)} before",
                hint="keep the rows of a cache, their order and their padding as they are",
            )
        return self._requests, self._padding

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass keys and values of new tokens to the session, and return them unchanged."""
        if layer_idx < len(self.layers) and not isinstance(self.layers[layer_idx], DeviceLayer):
            raise unsupported(f"keys of layer {layer_idx}, which has none by the config")
        new = cast("Any", super()).update(key_states, value_states, layer_idx, *args, **kwargs)
        self._session.hand_over(Handed(self, layer_idx, *new))
        return new

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Return the state of a layer without keys and values, which the host keeps."""
        self._check_state(layer_idx)
        return cast("Any", super()).get_conv_state(layer_idx, state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """Return the state of a layer without keys and values, which the host keeps."""
        self._check_state(layer_idx)
        return cast("Any", super()).get_recurrent_state(layer_idx, state_idx)

    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Update the state of a layer without keys and values, which the host keeps."""
        self._check_state(layer_idx)
        of_host = cast("Any", super())
        return of_host.update_conv_state(conv_states, layer_idx, state_idx, **kwargs)

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Update the state of a layer without keys and values, which the host keeps."""
        self._check_state(layer_idx)
        of_host = cast("Any", super())
        return of_host.update_recurrent_state(recurrent_states, layer_idx, state_idx, **kwargs)

    def _check_state(self, layer: int) -> None:
        """Refuse a layer that has both keys and a state, or whose type the config does not name."""
        if isinstance(self.layers[layer], DeviceLayer):
            raise unsupported(f"layer {layer}, which has keys and another state, too")

    def update_indexer(self, indexer_key_states: torch.Tensor, layer_idx: int) -> torch.Tensor:  # noqa: ARG002
        """Refuse, because a device reads all keys of a head, and not an indexer's choice."""
        raise unsupported(f"attention to selected keys (layer {layer_idx} has an indexer)")

    def free(self) -> None:
        """Free the requests on the device. After that the cache is empty."""
        self._session.free(self._requests)
        self._requests = self._padding = ()
        self._passing = False
        self.layers = self._new_layers()

    def reset(self) -> None:
        """Free the requests on the device, under the name that transformers calls."""
        self.free()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:  # noqa: ARG002
        """Refuse, because a device has no command that copies a request."""
        raise unsupported("beam search, which reorders requests")

    def batch_repeat_interleave(self, repeats: int) -> None:  # noqa: ARG002
        """Refuse, because a device has no command that copies a request."""
        raise unsupported("copies of requests")

    def batch_select_indices(self, indices: torch.Tensor) -> None:  # noqa: ARG002
        """Refuse, because a device has no command that copies a request."""
        raise unsupported("a selection of requests")

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to remove tokens, because a device has no command for that."""
        if tokens_to_remove:
            raise unsupported("taking tokens back, as assisted generation does")


def unsupported(what: str) -> InputError:
    """Return the error for a feature that the device does not compute."""
    return InputError(
        f"the device does not compute {what}",
        hint='use attn_implementation="sdpa" or "eager" for such a model',
    )
