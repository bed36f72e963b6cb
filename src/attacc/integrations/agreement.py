"""The agreement of a model with itself when its attention moves to a device.

The text is given, and not written by the model (teacher forcing). Each token is predicted from the
tokens before it, once with the model's own attention, and once with attention on the device as in a
decode step. So one early difference does not change later predictions.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from attacc.errors import InputError
from attacc.integrations.huggingface_session import Session

_ROWS: Final = 4
"""Windows that are predicted at a time. The scores of a window of 256 tokens take 50 MB for a
vocabulary of 49,152."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a model for every token of some windows, except the first tokens.

    Attributes:
        likeliest: (predictions,) the token with the greatest score.
        loss: (predictions,) negative log-likelihood of the true token, in nats.
    """

    likeliest: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]

    @property
    def perplexity(self) -> float:
        """Perplexity of all predictions."""
        return math.exp(float(self.loss.mean()))

    def top1_agreement(self, other: Predictions) -> float:
        """Return the share of predictions whose likeliest token is the same."""
        return float((self.likeliest == other.likeliest).mean())

    def relative_perplexity(self, reference: Predictions) -> float:
        """Return the relative increase of perplexity over that of a reference."""
        return self.perplexity / reference.perplexity - 1


def windows_of(tokens: Sequence[int], length: int) -> torch.Tensor:
    """Cut a text into windows of one length. A shorter rest at the end is left out.

    Returns:
        (windows, length).

    Raises:
        InputError: the text is too short for a window of two tokens.
    """
    whole = len(tokens) // length
    if length <= 1 or not whole:
        raise InputError(
            f"{len(tokens)} tokens make no window of {length}", hint="give a longer text"
        )
    return torch.tensor(tokens[: whole * length]).view(whole, length)


def predict(
    model: PreTrainedModel,
    windows: torch.Tensor,
    *,
    prompt: int = 1,
    session: Session | None = None,
) -> Predictions:
    """Predict the tokens of windows after a prompt, from the tokens before them in their window.

    Args:
        model: the model, in evaluation mode.
        windows: (windows, length) tokens; each window is a text of its own.
        prompt: number of tokens at the start of each window that are prefilled on the host. Their
            predictions do not count.
        session: an entered session that the model is attached to. Then the device attends to every
            token after the prompt, and the windows are the requests of a batch. None for the
            model's own attention.

    Raises:
        InputError: a window has no token after its prompt that has a successor.
    """
    if not 1 <= prompt < windows.shape[1] - 1:
        raise InputError(
            f"a prompt of {prompt} tokens leaves nothing to predict of {windows.shape[1]}",
            hint="give longer windows, or a prompt of at least 1",
        )
    likeliest: list[torch.Tensor] = []
    loss: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(windows), _ROWS):
            rows = windows[start : start + _ROWS]
            scores = _scores(model, rows[:, :-1], prompt, session)
            shares = torch.log_softmax(scores.float(), dim=-1)
            coming = rows[:, prompt + 1 :, None]
            likeliest.append(scores.argmax(dim=-1).flatten())
            loss.append(-shares.gather(-1, coming).double().flatten())
    return Predictions(torch.cat(likeliest).numpy(), torch.cat(loss).numpy())


def _scores(
    model: PreTrainedModel, given: torch.Tensor, prompt: int, session: Session | None
) -> torch.Tensor:
    """Return the scores after each token that follows the prompt: (windows, tokens, vocabulary)."""
    if session is None:
        call = cast("Callable[..., Any]", model)
        tokens = given.shape[1] - prompt
        return call(given, use_cache=False, logits_to_keep=tokens).logits
    cache = session.cache()
    try:
        session.forward(given[:, :prompt], cache, logits_to_keep=1)
        return session.forward(given[:, prompt:], cache).logits
    finally:
        cache.free()
