"""Teacher-forced predictions."""

import pytest

from tests.integrations import models as small

torch = small.torch

from attacc.errors import InputError
from attacc.integrations.agreement import predict, windows_of
from attacc.integrations.huggingface_attention import attach
from tests.integrations.models import device_of, model_of, tokens_of


def test_windows() -> None:
    """Tokens that are lost between windows."""
    windows = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    assert torch.equal(windows_of(range(11), 5), windows)
    for tokens, length in ((range(4), 5), (range(4), 1)):
        with pytest.raises(InputError, match="make no window"):
            windows_of(tokens, length)


@pytest.mark.parametrize("prompt", [1, 4])
def test_predictions_are_of_the_tokens_that_come(prompt: int) -> None:
    """Predictions that are off by one token, or in another order on the device."""
    model, windows = model_of(), tokens_of(5, 9)  # more than go in one batch
    own = predict(model, windows, prompt=prompt)
    assert own.loss.shape == own.likeliest.shape == (5 * (8 - prompt),)
    with torch.inference_mode():
        shares = torch.log_softmax(model(windows).logits, dim=-1)
    first = shares[0, prompt]
    assert own.likeliest[0] == int(first.argmax())
    assert own.loss[0] == pytest.approx(-float(first[windows[0, prompt + 1]]), rel=1e-5)
    with attach(model, device_of()) as session:
        got = predict(model, windows, prompt=prompt, session=session)
        assert len(session.steps) == 2 * (8 - prompt) + 2 * (prompt == 1)
    assert got.top1_agreement(own) == 1
    assert got.loss == pytest.approx(own.loss, abs=0.02)
    assert abs(got.relative_perplexity(own)) < 1e-3


@pytest.mark.parametrize("prompt", [0, 8])
def test_nothing_to_predict(prompt: int) -> None:
    with pytest.raises(InputError, match="nothing to predict"):
        predict(model_of(), tokens_of(1, 9), prompt=prompt)
