"""Attention of transformers' models on a modelled AttAcc: ``attn_implementation="attacc"``.

It is registered through transformers' own interfaces for attention and for masks. The division of
work is that of AttAcc (ASPLOS 2024). The host computes prefill, and everything except attention.
New keys and values are written to the device, and the device computes the attention of each later
token::

    with attach(model, device) as session:
        session.generate(input_ids, max_new_tokens=20)
        print(session.steps[-1].attention.time_ns)

Keys and values do not stay on the host. The model's key/value cache is a `DeviceCache` of
`attacc.integrations.huggingface_cache`, which passes keys and values to the session and does not
keep them. Features that the device does not compute (soft caps, custom masks, beams) are refused by
name.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attacc.errors import member
from attacc.integrations.huggingface_cache import unsupported
from attacc.integrations.huggingface_layers import Latents
from attacc.integrations.huggingface_session import NAME, Session, session_of
from attacc.models.precision import ElementType
from attacc.pim.host.device import HostDevice
from attacc.units import whole

# transformers states no types for these.
_INTERFACES: Final[tuple[Any, Any]] = AttentionInterface, AttentionMaskInterface

_WITHOUT_EFFECT: Final = frozenset(
    {
        "cache_position",
        "logits_to_keep",
        "num_items_in_batch",
        "output_hidden_states",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
"""Arguments that models pass to every attention and that do not change its result."""

_REFUSED: Final = {
    "softcap": "soft-capped scores",
    "position_bias": "a bias of positions",
    "head_mask": "a mask of heads",
    "output_attentions": "attention probabilities as an output",
    "cu_seq_lens_q": "several sequences packed into one row",
    "cache": "a paged cache",
}


def attach(
    model: PreTrainedModel,
    device: HostDevice,
    *,
    element: ElementType = ElementType.FP16,
    latents: Latents | str = Latents.EXPANDED,
    query_tokens: int = 1,
) -> Session:
    """Attach a decoder-only model to a device, for as long as the returned session is entered.

    If the first pass of a request brings several tokens, the host prefills them. The device attends
    to every other token, also if a pass brings several. Dropout must be off, and no gradients are
    computed.

    Args:
        model: a model of transformers whose attention goes through transformers' interface.
        device: the device that holds keys and values. All its requests are freed first.
        element: element type of keys and values in the banks.
        latents: what the device holds of latent attention: "expanded" keys and values of every
            head, or "one_copy" of the latents.
        query_tokens: new tokens of a pass that attend at once at most, where others are before
            them. They share reads as far as the device's `queries_per_read` allows.

    Raises:
        InputError: there are no such latents, query_tokens is below 1, or the model has no
            key/value cache. Entering the session, or the first pass, raises it if the device cannot
            compute the model's attention.
    """
    return Session(
        model,
        device,
        element,
        member(Latents, latents, where="latents"),
        whole(query_tokens, where="query_tokens"),
    )


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,  # noqa: FBT001 - transformers' signature
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, with the signature of transformers' interface for attention."""
    session = session_of(getattr(module, "config", None))
    for name, argument in others.items():
        if name in _WITHOUT_EFFECT or argument is None or argument is False:
            continue
        what = _REFUSED.get(name, "an argument of attention")
        told = f" ({name} = {argument})" if isinstance(argument, int | float | str) else ""
        raise unsupported(what + told)
    if dropout:
        raise unsupported(f"dropout of {dropout}: call model.eval()")
    if is_causal is False or not getattr(module, "is_causal", True):
        raise unsupported("attention that is not causal")
    if query.requires_grad and torch.is_grad_enabled():
        raise unsupported("gradients: use torch.inference_mode()")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    own = (module, query, key, value, attention_mask, scale)
    return session.attend(*own, window=sliding_window, sinks=s_aux), None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    config: object = None,
    **arguments: Any,
) -> torch.Tensor | None:
    """Make a mask, with the signature of transformers' interface for masks."""
    return session_of(config).mask(
        batch=batch_size,
        tokens=q_length,
        length=int(kv_length),
        padding_mask=attention_mask,
        **arguments,
    )


for _interface, _function in zip(_INTERFACES, (_attention, _mask), strict=True):
    _interface.register(NAME, _function)
