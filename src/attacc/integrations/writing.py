"""Writing text with a language model. All arguments are checked before torch is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attacc.errors import InputError, member
from attacc.pim.host.device import HostDevice
from attacc.study.generated import Generated, HostType, Sampling

_NEEDED: Final = ("torch", "transformers", "gguf")


def write(
    prompt: str,
    device: HostDevice,
    *,
    model: str | Path = "bundled",
    max_tokens: int = 64,
    sampling: Sampling | None = None,
    kv: str = "fp16",
    chat: bool = True,
    host_dtype: HostType | str = HostType.AUTO,
    threads: int | None = None,
    take: Callable[[str], None] | None = None,
    loading: Callable[[], None] = lambda: None,
) -> Generated:
    """Write text with a language model whose attention runs on AttAccs. Needs the torch extra.

    Args:
        prompt: the text that the model answers or continues.
        device: the AttAccs. All their requests are freed first.
        model: folder with a model in safetensors or GGUF, a GGUF file, or "bundled".
        max_tokens: most tokens to write.
        sampling: how tokens are chosen; None takes the likeliest.
        kv: format of keys and values, in which the device computes.
        chat: whether the prompt goes into the model's template for conversations.
        host_dtype: type of weights and activations on the host.
        threads: number of torch's threads; None leaves it unchanged.
        take: function that is called with each piece of the text as it is written.
        loading: function that is called after all checks, before the model is loaded.

    Raises:
        InputError: a library is not installed, the model cannot be loaded, or the device cannot
            compute its attention.
        CapacityError: keys and values do not fit into the device.
    """
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"writing text needs {name}, which is not installed",
                hint='pip install "attacc[torch]"',
            )
    host_type = member(HostType, host_dtype, where="host_dtype")
    from attacc.integrations.generation import write_text
    from attacc.integrations.huggingface_models import load_language_model

    loading()
    return write_text(
        load_language_model(str(model), host_type),
        device,
        prompt,
        tokens=max_tokens,
        sampling=sampling or Sampling(),
        kv=kv,
        chat=chat,
        threads=threads,
        take=take,
    )
