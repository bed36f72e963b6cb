"""Attention of transformers' models on a modelled AttAcc: ``attn_implementation="attacc"``.

Registered through transformers' own interfaces for attention and for masks. The division of work
is that of AttAcc (ASPLOS 2024): the host computes prefill and all that is not attention; keys and
values are written to the device when they are new, and each later token is attended to there::

    with attach(model, device) as session:
        session.generate(input_ids, max_new_tokens=20)
        print(session.steps[-1].attention.time_ns)

Keys and values do not stay on the host. The model's key/value cache, a `DeviceCache` of
`attacc.integrations.huggingface_cache`, hands them over and forgets them. What the device does not
compute (sliding windows, sinks, soft caps, masks of one's own, beams) is refused by name.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attacc.integrations.huggingface_cache import unsupported
from attacc.integrations.huggingface_session import NAME, Session, session_of
from attacc.models.precision import ElementType
from attacc.pim.host.device import HostDevice

# transformers leaves these without types.
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
"""Arguments that models hand to every attention, and that do not change what it computes."""

_REFUSED: Final = {
    "sliding_window": "a sliding window",
    "softcap": "soft-capped scores",
    "s_aux": "attention sinks",
    "position_bias": "a bias of positions",
    "head_mask": "a mask of heads",
    "output_attentions": "attention probabilities as an output",
    "cu_seq_lens_q": "several sequences packed into one row",
    "cache": "a paged cache",
}


def attach(
    model: PreTrainedModel, device: HostDevice, *, element: ElementType = ElementType.FP16
) -> Session:
    """Attach a decoder-only model to a device, for as long as the returned session is entered.

    The first tokens of a request, if several, are prefilled on the host; every other token is
    attended to on the device, also where a pass brings several of them. Dropout must be off, and
    no gradients flow.

    Args:
        model: from transformers, with an attention that goes through its interface.
        device: holds keys and values; whatever it held is freed.
        element: of keys and values in its banks.

    Raises:
        InputError: the model has no key/value cache; on entering, or in the first pass, whatever
            the device cannot compute.
    """
    return Session(model, device, element)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,  # noqa: FBT001 - transformers' signature
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' interface for attention wants it."""
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
    return session.attend(module, query, key, value, attention_mask, scale), None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    config: object = None,
    **arguments: Any,
) -> torch.Tensor | None:
    """Make a mask as transformers' interface for masks wants it."""
    return session_of(config).mask(
        batch=batch_size,
        tokens=q_length,
        length=int(kv_length),
        padding_mask=attention_mask,
        **arguments,
    )


for _interface, _function in zip(_INTERFACES, (_attention, _mask), strict=True):
    _interface.register(NAME, _function)
