"""The specification of a model, the presets, and where they are loaded from."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from attacc.documents import load_document, parse_document
from attacc.errors import DocumentError, UnknownNameError
from attacc.models.architecture import MODELS, Activation, FeedForward, ModelSpec, divisors
from attacc.models.huggingface import load_model
from attacc.models.precision import ElementType
from attacc.models.served import served
from attacc.models.uniform import layered

TINY = """
name = "tiny"
family = "llama"
layers = 2
hidden_size = 64
heads = 4
kv_heads = 2
head_dim = 16
vocab_size = 100
tied_embeddings = false
norm = "rms"

[feed_forward]
intermediate_size = 96
gated = true
activation = "silu"
"""

EXPECTED_PRESETS = [
    "codellama-34b",
    "gpt3-13b",
    "gpt3-175b",
    "llama-2-70b",
    "llama-2-7b",
    "llama-3.1-405b",
    "llama-3.1-70b",
    "llama-3.1-8b",
    "llama-65b",
    "mixtral-8x22b",
    "mixtral-8x7b",
    "mt-nlg-530b",
    "opt-66b",
    "qwen2.5-7b",
    "qwen3-14b",
    "qwen3-32b",
]


def written(folder: Path, text: str, name: str = "model.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_presets_are_those_promised() -> None:
    """A preset that is missing, misnamed, or not installed with the package."""
    assert MODELS.names() == EXPECTED_PRESETS


@pytest.mark.parametrize("name", EXPECTED_PRESETS)
def test_preset_is_named_like_its_file_and_has_sources(name: str) -> None:
    """A preset copied from another without its name, or figures without an origin."""
    model = MODELS.load(name)
    assert model.name == name
    assert model.description
    assert "arXiv" in model.sources["default"]


def test_gpt3_is_the_model_of_the_papers() -> None:
    """A typing slip in the model of the main job (reference/attacc.md)."""
    model = MODELS.load("gpt3-175b")
    assert (model.layers, model.hidden_size, model.heads, model.head_dim) == (96, 12288, 96, 128)
    assert model.feed_forward.intermediate_size == 4 * 12288
    assert model.feed_forward.activation is Activation.GELU
    assert model.group_size == 1


def test_own_document_is_read_with_its_defaults(tmp_path: Path) -> None:
    """A default that silently changed."""
    path = written(tmp_path, TINY)
    model = MODELS.load_file(path)
    assert load_model(str(path)) == served(model)
    assert served(model).model.layers == layered(model).layers
    assert model.group_size == 2
    assert model.embedding_width == 64
    assert model.final_norm
    assert not model.qk_norm
    assert not model.parallel_residual
    assert model.learned_positions == 0
    assert model.experts is None
    assert model.sliding_window is None
    assert model.precision.weights is ElementType.FP16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kv_heads = 2", "kv_heads = 3", r"kv_heads = 3 does not divide heads = 4: .*\[1, 2, 4\]"),
        ("layers = 2", "layers = 0", r"layers: 0 is out of range"),
        ("layers = 2", "layers = -2", r"layers: -2 is out of range"),
        ("layers = 2", 'layers = "2"', r"layers: '2' is no whole number"),
        ("layers = 2", "layers = nan", r"layers: nan"),
        ("layers = 2", "layers = 99999999999999999999", r"layers: 9999"),
        ("layers = 2", "layer = 2", r"unknown key 'layer'.*\(did you mean 'layers'"),
        ("vocab_size = 100", "", r"missing key 'vocab_size'"),
        ('"silu"', '"gelu"', r"gated = true with activation 'gelu' is not supported"),
        ('"silu"', '"swish"', r"activation: 'swish' is unknown"),
        ("gated = true", "gatd = true", r"unknown key 'gatd'.*\(did you mean 'gated'"),
        (
            "norm =",
            "learned_positions = 8\nmax_context = 9\nnorm =",
            r"max_context = 9 is more than learned_positions = 8",
        ),
        (
            "[feed_forward]",
            "[experts]\nexperts = 2\nexperts_per_token = 3\n[feed_forward]",
            r"experts_per_token = 3 is more than experts = 2: use 1 to 2",
        ),
    ],
)
def test_impossible_document_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A fault that passes, or whose message does not name field, value and way out."""
    assert old in TINY
    path = written(tmp_path, TINY.replace(old, new))
    with pytest.raises(DocumentError, match=message) as error:
        load_document(ModelSpec, path)
    assert str(error.value).startswith(str(path))


def test_plain_block_has_no_silu() -> None:
    """A plain feed-forward block whose activation has no operator."""
    with pytest.raises(ValidationError, match="gated = false"):
        FeedForward(intermediate_size=4, gated=False, activation=Activation.SILU)


@pytest.mark.parametrize("number", [1, 2, 12, 49, 96, 97])
def test_divisors(number: int) -> None:
    """A divisor that is left out or repeated."""
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_model_is_loaded_by_name_document_config_and_folder(tmp_path: Path) -> None:
    """A way of naming a model that leads elsewhere."""
    toml = written(tmp_path, TINY)
    tiny = load_model(str(toml))
    own_json = written(tmp_path, MODELS.load_file(toml).model_dump_json(), "own.json")
    layers_json = written(tmp_path, tiny.model.model_dump_json(), "layers.json")
    assert load_model(json.loads(layers_json.read_text())) == tiny
    assert load_model(str(own_json)) == tiny
    config = {
        "model_type": "gpt2", "vocab_size": 10, "n_embd": 8, "n_layer": 1, "n_head": 2,
        "n_positions": 4,
    }  # fmt: skip
    folder = tmp_path / "small"
    folder.mkdir()
    written(folder, json.dumps(config), "config.json")
    assert load_model(str(folder)).name == "small"
    assert load_model(str(folder / "config.json")) == load_model(str(folder))
    written(tmp_path, json.dumps(config), "other.json")
    assert load_model(str(tmp_path / "other.json")).name == "other"
    assert load_model("gpt3-13b") == served(MODELS.load("gpt3-13b"))


def test_preset_comes_before_a_folder_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the working directory that changes what a preset's name means."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt3-13b").mkdir()
    assert load_model("gpt3-13b").model.layer_count == 40


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "gpt3-175",
            UnknownNameError,
            r"unknown model preset 'gpt3-175' \(did you mean 'gpt3-175b'",
        ),
        ("absent.json", DocumentError, "no such file"),
        ("absent.toml", DocumentError, "no such file"),
        ("./absent", DocumentError, "no such file or folder, and no model hub is asked"),
        ("x" * 5000, DocumentError, "cannot be read"),
        ("a\0/b.json", DocumentError, "null"),
    ],
)
def test_unknown_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], message: str
) -> None:
    """A name that leads to a traceback, or to a model that was not asked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_model(name)


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    """A folder of something else."""
    with pytest.raises(DocumentError, match=r"config\.json: no such file"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("text", ["[]", "1", "{", "1" * 5000, "[" * 100_000, '{"a": "\\ud800"}'])
def test_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    """JSON whose reading raises something other than an error of this project."""
    with pytest.raises(DocumentError):
        load_model(str(written(tmp_path, text, "model.json")))


def test_hexadecimal_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    """TOML reads a number that Python refuses to print in decimal."""
    text = TINY.replace("layers = 2", "layers = 0x" + "f" * 5000)
    with pytest.raises(DocumentError, match="is not usable"):
        load_model(str(written(tmp_path, text)))


def test_where_is_named() -> None:
    """A study's field that is lost from the message."""
    with pytest.raises(UnknownNameError, match="--model: unknown model preset"):
        load_model("nothing", where="--model")


def test_presets_survive_a_round_trip() -> None:
    """A field that cannot be written, so that results could not name their model."""
    for name in MODELS.names():
        model = MODELS.load(name)
        document = json.loads(model.model_dump_json())
        assert parse_document(ModelSpec, document, where=name) == model
