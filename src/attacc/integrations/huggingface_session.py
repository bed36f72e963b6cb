"""The session of a model of transformers that is attached to a modelled AttAcc, with its costs.

In a pass of new tokens, each layer calls first the cache and then the attention. The session takes
keys and values from the cache, writes them to the device, and attends on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from types import TracebackType
from typing import Any, Final, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel, masking_utils

from attacc.errors import CapacityError, EngineError, InputError, Shortfall
from attacc.integrations.huggingface_cache import DeviceCache, DeviceLayer, Handed, unsupported
from attacc.integrations.huggingface_layers import (
    Expansion,
    Latents,
    attention_layers,
    chunks_of,
    come_from,
    prefilled,
    windows_shown,
)
from attacc.integrations.huggingface_passes import Forward, Mask, Prefill, Sent, Step, float32
from attacc.models.precision import ElementType
from attacc.pim.host.costs import AppendCost, AttendCost, KvShape
from attacc.pim.host.device import HostDevice

F32 = npt.NDArray[np.float32]

# transformers states no types for some arguments or results of these.
_HOST_CACHE: Final[Any] = DynamicCache
_MASKS: Final[Any] = masking_utils

_CACHE_ARGUMENTS: Final = ("cache", "past_key_values")
"""Names of a model's argument for its key/value cache: since transformers 5.24, and before."""

NAME: Final = "attacc"
"""Value of ``attn_implementation``."""


class Session:
    """A model that is attached to a device. `attach` makes it; use it as a context manager.

    Attributes:
        prefills: every prefill so far.
        steps: every decode step so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        device: HostDevice,
        element: ElementType,
        latents: Latents = Latents.EXPANDED,
        query_tokens: int = 1,
    ) -> None:
        self.prefills: list[Prefill] = []
        self.steps: list[Step] = []
        self._model: Any = model
        self._device = device
        self._element = element
        self._latents = latents
        self._query_tokens = query_tokens
        self._expansions: dict[int, Expansion | None] = {}
        self._config: Any = self._model.config.get_text_config(decoder=True)
        self._layers: dict[int, int | None] = {}
        self._cache_argument = _cache_argument(model)
        self._before: str | None = None
        self._probed: list[KvShape] | None = None
        self._shapes: tuple[KvShape, ...] = ()
        self._is_set = False
        self._forward: Forward | None = None
        self._other_mask: torch.Tensor | None = None
        self._handed: Handed | None = None
        self._next_request = 0
        self._open: set[int] = set()

    def __enter__(self) -> Self:
        model = self._model
        if model.config.is_encoder_decoder:
            raise unsupported("cross-attention of an encoder and a decoder")
        if not model._can_set_attn_implementation():  # noqa: SLF001 - transformers has no public name
            raise InputError(
                f"{type(model).__name__} does not compute its attention through transformers' "
                "interface",
                hint="use a model that takes attn_implementation, as Llama, Qwen, GPT-2 or OPT do",
            )
        if id(self._config) in _ATTACHED:
            raise InputError(
                "the model is attached to a device already", hint="leave that session first"
            )
        self._layers = attention_layers(self._config)
        self._before = self._config._attn_implementation  # noqa: SLF001 - transformers has no public name
        _ATTACHED[id(self._config)] = self
        model.set_attn_implementation(NAME)
        try:
            self._probe()
        except BaseException:
            self._detach()
            raise
        return self

    def _probe(self) -> None:
        """Learn the shape of every layer's keys and values, from a pass of one token.

        The pass computes no attention, and writes nothing to the device.
        """
        model, found = self._model, list[KvShape]()
        training = model.training
        self._probed = found
        try:
            model.eval()
            with torch.no_grad():
                self.forward(torch.zeros(1, 1, dtype=torch.long, device=model.device), self.cache())
        finally:
            model.train(training)
            self._probed = self._handed = None
        if len(found) != len(self._layers):
            return
        windows = tuple(self._layers.values())
        if len(set(found)) == 1:
            self._shapes = (replace(found[0], layers=len(found), windows=windows),)
            return
        self._shapes = tuple(
            replace(shape, windows=(window,)) for shape, window in zip(found, windows, strict=True)
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free_all()
        self._detach()

    def _detach(self) -> None:
        # A model that was loaded with this attention has no other to return to.
        before = "sdpa" if self._before in (NAME, None) else self._before
        self._model.set_attn_implementation(before)
        del _ATTACHED[id(self._config)]

    @property
    def device(self) -> HostDevice:
        """The device that the model is attached to."""
        return self._device

    def cache(self) -> DeviceCache:
        """Return a cache for new requests, as an argument of `forward`.

        Every row of the first batch that uses the cache becomes a request of the device. Several
        caches are independent of each other, and share the device. Layers without keys and values
        (linear attention, state spaces, convolutions) keep their states on the host.
        """
        return DeviceCache(self, self._layers_of_cache)

    def _layers_of_cache(self) -> list[Any]:
        count = int(self._config.num_hidden_layers)
        if len(self._layers) == count:
            return [DeviceLayer() for _ in range(count)]
        states: Any = _HOST_CACHE(config=self._config).layers
        return [DeviceLayer() if at in self._layers else states[at] for at in range(count)]

    def forward(self, tokens: torch.Tensor, cache: DeviceCache, **arguments: Any) -> Any:
        """Call the model with new tokens and a cache of this session.

        The model gets the cache under the name that its version of transformers has for it.

        Args:
            tokens: (batch, tokens) new tokens, which follow the earlier tokens of this cache.
            cache: a cache of this session.
            arguments: other arguments of the model.

        Returns:
            What the model returns.

        Raises:
            InputError: the device cannot compute the model's attention.
        """
        return self._model(tokens, **{self._cache_argument: cache}, **arguments)

    def generate(self, *inputs: torch.Tensor, **arguments: Any) -> Any:
        """Call the model's own ``generate`` with a new cache of this session."""
        cache = self.cache()
        try:
            return self._model.generate(*inputs, **{self._cache_argument: cache}, **arguments)
        finally:
            cache.free()

    def check_room(self, tokens: int) -> None:
        """Refuse tokens that the device has no room for, before the first of them is computed.

        The check needs the shape of the model, which is known after a first pass.

        Args:
            tokens: number of tokens that a single request will get in addition.

        Raises:
            CapacityError: the keys and values of the tokens exceed the free memory. The device may
                also refuse tokens later, because it rounds the memory of a head up.
        """
        if not self._is_set:
            raise EngineError("room is asked for before the model has passed any token")
        needed = 0.0
        for shape in self._shapes:
            elements = shape.kv_heads * shape.stored_elements
            # A layer with a window stores no more keys than the new tokens of a step see.
            for window in shape.windows or ():
                more = shape.query_tokens - 1
                keys = tokens if window is None else min(tokens, window + more)
                needed += keys * elements * shape.element.bytes
        if needed > self._device.free_bytes:
            raise CapacityError(
                Shortfall("memory of the AttAccs", needed, self._device.free_bytes),
                where=None,
                hint="ask for fewer tokens, or take more stacks",
            )

    def reset(self) -> None:
        """Free every request on the device, and clear the lists of steps and prefills."""
        self.prefills.clear()
        self.steps.clear()
        self._free_all()

    def free(self, requests: Sequence[int]) -> None:
        """Free some requests; those that are no longer open are ignored."""
        for request in requests:
            if request in self._open:
                self._open.discard(request)
                # The device lacks a request whose first keys it refused.
                if request in self._device.requests:
                    self._device.free(request)

    def hand_over(self, handed: Handed) -> None:
        """Take keys and values from a cache. The attention of the same layer uses them next.

        Raises:
            InputError: no attention has used the keys and values before them.
        """
        self._all_fetched()
        self._handed = handed

    def mask(
        self,
        *,
        batch: int,
        tokens: int,
        length: int,
        padding_mask: torch.Tensor | None,
        **arguments: Any,
    ) -> torch.Tensor | None:
        """Begin a pass of new tokens, and return the mask for its layers.

        Args:
            batch: number of rows.
            tokens: number of new tokens of each row.
            length: number of all tokens of each row after the pass.
            padding_mask: (batch, length) mask that is false at padding.
            arguments: arguments of transformers' function that makes masks.

        Raises:
            InputError: padding is not at the start of a row.
        """
        if self._probed is not None:
            return None
        self._all_fetched()
        windows = windows_shown(arguments, batch, tokens, length, {None, *self._layers.values()})
        if not windows:
            # Some models make masks that no layer uses. `attend` refuses a layer with this mask.
            self._other_mask = torch.empty(0)
            return self._other_mask
        forward = self._begun(tokens, length, _left_padding(padding_mask, batch, length))
        given: torch.Tensor | None = None
        if forward.is_prefill:
            given = _MASKS.sdpa_mask(
                batch_size=batch,
                q_length=tokens,
                kv_length=length,
                attention_mask=padding_mask,
                **arguments,
            )
        elif None not in windows:
            given = torch.empty(0)
        forward.masks.append(Mask(given, windows))
        return given

    def _begun(self, tokens: int, length: int, padding: tuple[int, ...] | None) -> Forward:
        """Return the pass that a mask belongs to. A pass may have masks of several windows."""
        forward = self._forward
        if (
            forward is not None
            and not forward.has_begun
            and (forward.tokens, forward.length, forward.padding) == (tokens, length, padding)
        ):
            return forward
        forward = Forward(tokens, length, padding, at_once=self._query_tokens)
        self._forward = forward
        if not forward.is_prefill:
            forward.attention = [[] for _ in forward.runs]
        forward.appended = [[] for _ in forward.runs]
        return forward

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
        *,
        window: int | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend for one layer.

        Args:
            module: the attention module of the layer.
            query: (batch, heads, tokens, head_dim) queries.
            key: (batch, kv_heads, tokens, head_dim) keys of the new tokens alone.
            value: (batch, kv_heads, tokens, value elements) values of the new tokens alone.
            mask: the mask that the layer got.
            scale: factor of the scores.
            window: the layer's window, as the layer states it; None for none, or for no statement.
            sinks: (heads,) a score beside those of the keys; None for none.

        Returns:
            (batch, tokens, heads, value elements) the context.
        """
        handed, self._handed = self._handed, None
        if handed is None or not come_from(module, handed, key, value):
            raise InputError(
                "keys and values do not come from a cache of this session",
                hint="call session.forward(tokens, session.cache()), or session.generate",
            )
        expansion = self._expansion(module, handed)
        shape = self._shape_of(query, key, value, scale, expansion)
        if self._probed is not None:
            self._probed.append(shape)
            return query.new_zeros(len(query), query.shape[2], query.shape[1], value.shape[-1])
        cache, forward = handed.cache, self._forward
        # The device numbers the layers that attend.
        layer = list(self._layers).index(handed.layer)
        if layer == 0:
            cache.begin()
        windows = frozenset[int | None]() if forward is None else forward.windows(mask)
        if forward is None or not windows:
            raise unsupported(self._named(mask))
        if forward.layers != layer or cache.get_seq_length(handed.layer) != forward.length:
            raise unsupported(f"layer {layer} after {forward.layers} others, or without some")
        self._check_window(handed.layer, windows, window)
        self._set_model(layer, shape)
        requests, padding = cache.open(forward.padding, len(query))
        new = Sent.of(query, key, value, handed, expansion)
        if forward.is_prefill:
            forward.appended[0] += [
                self._append(request, layer, new, row, slice(padding[row], None))
                for row, request in enumerate(requests)
            ]
            context = prefilled(module, query, key, value, mask, scale, sinks)
        else:
            elements = shape.value_elements
            context = query.new_empty((len(query), forward.tokens, query.shape[1], elements))
            self._decode(forward, layer, requests, new, sinks, context)
            if expansion is not None:
                context = expansion.applied(context)
        forward.layers += 1
        if forward.layers == len(self._layers):
            cache.end()
            self._record(forward, requests, padding)
        return context

    def _decode(
        self,
        forward: Forward,
        layer: int,
        requests: Sequence[int],
        new: Sent,
        sinks: torch.Tensor | None,
        context: torch.Tensor,
    ) -> None:
        """Write the new tokens of a layer run by run, and attend with each run on the device.

        Args:
            forward: the pass.
            layer: number of the layer on the device.
            requests: requests of the rows.
            new: queries, keys and values of the new tokens.
            sinks: (heads,) a score beside those of the keys; None for none.
            context: (batch, tokens, heads, value elements) output.
        """
        beside = None if sinks is None else float32(sinks)
        for number, own in enumerate(forward.runs):
            forward.appended[number] += [
                self._append(request, layer, new, row, own) for row, request in enumerate(requests)
            ]
            several = own.stop - own.start > 1
            queries = new.queries[:, :, own].swapaxes(1, 2)
            attended = self._device.attend(
                layer, requests, queries if several else queries[:, 0], beside
            )
            forward.attention[number].append(attended.cost)
            answer = torch.as_tensor(attended.context)
            context[:, own] = answer if several else answer[:, None]

    def _append(self, request: int, layer: int, new: Sent, row: int, tokens: slice) -> AppendCost:
        """Write some of the new tokens of a row to the device."""
        values = None if new.values is None else new.values[row, :, tokens]
        return self._device.append(request, layer, new.keys[row, :, tokens], values)

    def _expansion(self, module: torch.nn.Module, handed: Handed) -> Expansion | None:
        """Return the matrices that expand a layer's latents; None where the device holds none."""
        if self._latents is Latents.EXPANDED:
            return None
        if handed.layer not in self._expansions:
            self._expansions[handed.layer] = Expansion.of(module, handed)
        return self._expansions[handed.layer]

    def _check_window(self, layer: int, shown: frozenset[int | None], stated: int | None) -> None:
        """Refuse a layer whose window is another than that of the config.

        Args:
            layer: number of the layer.
            shown: windows whose keys the layer's mask shows.
            stated: the window that the layer states; None for no statement.
        """
        window = self._layers[layer]
        if stated not in (None, window):
            raise unsupported(
                f"a sliding window (sliding_window = {stated}) in layer {layer}, for which the "
                f"config has {window}"
            )
        if window not in shown:
            raise unsupported(
                f"layer {layer} with another mask than the config's window ({window}) has"
            )

    def open_requests(self, count: int) -> tuple[int, ...]:
        """Open requests, and return numbers for them that no earlier request of the session had."""
        requests = tuple(range(self._next_request, self._next_request + count))
        self._next_request += count
        self._open.update(requests)
        return requests

    def _free_all(self) -> None:
        self._forward = self._handed = None
        self.free(sorted(self._open))

    def _shape_of(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        expansion: Expansion | None,
    ) -> KvShape:
        """Return the shape of one layer, without its window."""
        if expansion is not None:
            return KvShape(
                layers=1,
                kv_heads=1,
                queries_per_kv_head=query.shape[1],
                head_dim=expansion.width,
                element=self._element,
                scale=scale,
                value_dim=expansion.latent,
                one_copy=True,
                query_tokens=self._query_tokens,
            )
        return KvShape(
            layers=1,
            kv_heads=key.shape[1],
            queries_per_kv_head=query.shape[1] // key.shape[1],
            head_dim=key.shape[-1],
            element=self._element,
            scale=scale,
            value_dim=value.shape[-1],
            query_tokens=self._query_tokens,
        )

    def _set_model(self, layer: int, shape: KvShape) -> None:
        """Set the model of the device, and refuse a layer of another shape than it has.

        Args:
            layer: number of the layer on the device.
            shape: shape of the layer in this pass.
        """
        if not self._shapes:
            raise unsupported("a model of which other layers attend than its config says")
        if not self._is_set:
            self._device.set_model(self._shapes)
            self._is_set = True
        known = self._shapes[0] if len(self._shapes) == 1 else self._shapes[layer]
        if replace(known, layers=1, windows=None) != shape:
            raise unsupported("layers whose heads, or whose scale of scores, change between passes")

    def _named(self, mask: torch.Tensor | None) -> str:
        """Return in words what kind of mask a layer got in place of the causal one."""
        if mask is None or mask is not self._other_mask:
            return "a mask that was made elsewhere"
        if getattr(self._config, "attention_chunk_size", None) is not None:
            return chunks_of(self._config)
        return "a mask other than the causal one: packed sequences, or a mask of the model's own"

    def _record(
        self, forward: Forward, requests: tuple[int, ...], padding: tuple[int, ...]
    ) -> None:
        """Add the costs of a pass to the prefills or to the steps."""
        self._forward = None
        rows = len(requests)
        if forward.is_prefill:
            tokens = rows * forward.tokens - sum(padding)
            self.prefills.append(Prefill(rows, tokens, AppendCost.total(forward.appended[0])))
            return
        before = forward.length - forward.tokens
        for own, attention, appended in zip(
            forward.runs, forward.attention, forward.appended, strict=True
        ):
            lengths = range(before + own.start + 1, before + own.stop + 1)
            self.steps.append(
                Step(
                    rows,
                    rows * sum(lengths) - len(lengths) * sum(padding),
                    AttendCost.total(attention),
                    AppendCost.total(appended),
                    len(lengths),
                )
            )

    def _all_fetched(self) -> None:
        if self._handed is not None:
            layer, self._handed = self._handed.layer, None
            raise InputError(
                f"the attention of layer {layer} did not come through transformers' interface",
                hint="the model has an attention of its own, perhaps by an option of its config",
            )


_ATTACHED: Final[dict[int, Session]] = {}
"""Session of every attached model, by the identity of the model's configuration.

transformers' tables of functions are global, and a mask function gets nothing but a configuration.
"""


def _cache_argument(model: PreTrainedModel) -> str:
    """Return the name of a model's argument for its key/value cache.

    Raises:
        InputError: the model takes no key/value cache.
    """
    names = signature(model.forward).parameters
    for name in _CACHE_ARGUMENTS:
        if name in names:
            return name
    raise InputError(
        f"{type(model).__name__} takes no key/value cache (it has no argument "
        f"{' or '.join(_CACHE_ARGUMENTS)})",
        hint="use a decoder-only model that writes text, as Llama, Qwen, GPT-2 or OPT do",
    )


def session_of(config: object) -> Session:
    """Return the session of a model by its configuration.

    Raises:
        InputError: the model is attached to no device.
    """
    try:
        return _ATTACHED[id(config)]
    except KeyError:
        raise InputError(
            f'attn_implementation="{NAME}", but the model is attached to no device',
            hint="call the model inside of: with attach(model, device) as session",
        ) from None


def _left_padding(mask: torch.Tensor | None, batch: int, length: int) -> tuple[int, ...] | None:
    """Return the number of padding tokens at the start of each row; None for no padding.

    Raises:
        InputError: a row has padding elsewhere, or nothing except padding.
    """
    if mask is None or bool(mask.all()):
        return None
    if mask.shape != (batch, length):
        raise EngineError(f"a mask of {tuple(mask.shape)} for {batch} rows of {length} tokens")
    padding = length - mask.sum(dim=1)
    at_start = torch.arange(length, device=mask.device)[None, :] >= padding[:, None]
    if not torch.equal(at_start, mask.bool()):
        raise InputError(
            "attention_mask hides tokens that are not at the start of a row",
            where="attention_mask",
            hint='pad on the left: padding_side="left" of the tokenizer',
        )
    if int(padding.max()) == length:
        raise InputError("a row is nothing but padding", where="attention_mask")
    return tuple(cast("list[int]", cast("Any", padding).tolist()))
