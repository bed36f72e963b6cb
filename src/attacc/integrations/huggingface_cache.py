"""What a model of transformers takes for its key/value cache, and what holds nothing.

`DeviceCache` hands keys and values of new tokens to the session whose device keeps them, and
forgets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from attacc.errors import InputError


class CacheOwner(Protocol):
    """What a cache asks of the session that it belongs to."""

    def open_requests(self, count: int) -> tuple[int, ...]:
        """Return numbers that no request of this session has had."""
        ...

    def hand_over(self, handed: Handed) -> None:
        """Take keys and values of a layer's new tokens."""
        ...

    def free(self, requests: Sequence[int]) -> None:
        """Free those of some requests that are still open."""
        ...


@dataclass(frozen=True, slots=True)
class Handed:
    """Keys and values on their way from a cache to the attention of the same layer."""

    cache: DeviceCache
    layer: int
    keys: torch.Tensor
    values: torch.Tensor


class DeviceLayer(CacheLayerMixin):
    """A layer of a `DeviceCache`: counts tokens, and holds none."""

    is_sliding = False

    def __init__(self) -> None:
        cast("Any", super()).__init__()
        self.tokens = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: there is nothing to hold."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ARG002 - this and others: transformers' signature
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Count new tokens, and return them."""
        self.tokens += key_states.shape[-2]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys a mask has, and which one it begins with."""
        return self.tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens of a row, padding included."""
        return self.tokens

    def get_max_length(self) -> int:
        """Return -1: the device's memory is the bound."""
        return -1


class DeviceCache(Cache):
    """What a model takes for its key/value cache: hands new keys and values to the device.

    Args:
        session: whose device.
        layers: of the model.
    """

    def __init__(self, session: CacheOwner, layers: int) -> None:
        super().__init__(layers=[DeviceLayer() for _ in range(layers)])
        self._session = session
        self._requests: tuple[int, ...] = ()
        self._padding: tuple[int, ...] = ()
        self._passing = False

    @property
    def requests(self) -> tuple[int, ...]:
        """The device's number of every row's request; empty before the first tokens."""
        return self._requests

    def begin(self) -> None:
        """Take note that a pass through the model begins.

        Raises:
            InputError: the one before did not come to its end, so that layers differ in tokens.
        """
        if self._passing:
            raise InputError(
                "a pass through the model broke off", hint="free the cache, or take a new one"
            )
        self._passing = True

    def end(self) -> None:
        """Take note that all layers have attended."""
        self._passing = False

    def open(
        self, padding: tuple[int, ...] | None, rows: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the request of every row, and tokens of padding at its start.

        Args:
            padding: of each row, as the mask tells; None for none.
            rows: of the batch.

        Raises:
            InputError: they are not those of the tokens before.
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
        """Hand keys and values of new tokens to the session, and return them as they are."""
        new = cast("Any", super()).update(key_states, value_states, layer_idx, *args, **kwargs)
        self._session.hand_over(Handed(self, layer_idx, *new))
        return new

    def free(self) -> None:
        """Free the requests on the device; the cache is empty then."""
        self._session.free(self._requests)
        self._requests = self._padding = ()
        self._passing = False
        for layer in self.layers:
            cast("DeviceLayer", layer).tokens = 0

    def reset(self) -> None:
        """Do as `free` does; the name that transformers has for it."""
        self.free()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:  # noqa: ARG002
        """Refuse: a device has no command to copy a request."""
        raise unsupported("beam search, which reorders requests")

    def batch_repeat_interleave(self, repeats: int) -> None:  # noqa: ARG002
        """Refuse, likewise."""
        raise unsupported("copies of requests")

    def batch_select_indices(self, indices: torch.Tensor) -> None:  # noqa: ARG002
        """Refuse, likewise."""
        raise unsupported("a selection of requests")

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse, unless there is nothing to do: a device has no command to take tokens back."""
        if tokens_to_remove:
            raise unsupported("taking tokens back, as assisted generation does")


def unsupported(what: str) -> InputError:
    """Return the error for what the device does not compute."""
    return InputError(
        f"the device does not compute {what}",
        hint='use attn_implementation="sdpa" or "eager" for such a model',
    )
