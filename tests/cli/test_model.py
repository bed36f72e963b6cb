"""``attacc model``: what is told of a model, from a preset, a document, a file or a folder."""

import json
from pathlib import Path

import pytest

import attacc as aa
from tests.cli.console import answer, document, refusal

DEEPSEEK: dict[str, object] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "hidden_size": 64, "intermediate_size": 96, "kv_lora_rank": 16, "moe_intermediate_size": 32,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 3,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "q_lora_rank": 24, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 8, "vocab_size": 100, "torch_dtype": "bfloat16",
    "num_nextn_predict_layers": 0, "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "n_group": 1, "topk_group": 1,
}  # fmt: skip
LAYERS = """\
family = "mine"
name = "mine"
hidden_size = 8
vocab_size = 10
tied_embeddings = true

[[layers]]
repeat = 2
mixer = { kind = "attention", heads = 4, kv_heads = 2, head_dim = 2, window = 16 }
feed_forward = { kind = "dense", width = 4 }

[[layers]]
mixer = { kind = "mamba2", heads = 2, head_dim = 4, state = 8, groups = 1, conv = 4 }

[precision]
kv = "fp8"
"""


def written(folder: Path, config: dict[str, object]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def test_a_preset_is_told_as_the_library_tells_it() -> None:
    """Catches a figure of the command line that is not one of the result."""
    told = document("model", "mixtral-8x7b")
    assert told == json.loads(aa.describe("mixtral-8x7b").to_json())
    assert told["parameters"] == 46_702_792_704
    assert told["active_parameters"] == 12_879_925_248
    assert told["kv_bytes_per_token"] == 2 * 8 * 128 * 32 * 2
    assert told["state_bytes_per_request"] == 0
    (layer,) = told["layers"]
    assert (layer["kind"], layer["layers"]) == ("full attention + experts", 32)
    assert [one["flops_per_byte"] for one in layer["decoding"]] == [4, 4, 4]
    text = answer("model", "mixtral-8x7b")
    for part in ("46.70 G", "12.88 G", "131.1 kB", "full attention + experts", "96.6%"):
        assert part in text


def test_a_folder_is_told_like_its_file(tmp_path: Path) -> None:
    """Catches latent attention that is told as heads of keys and values."""
    path = written(tmp_path, DEEPSEEK)
    told = document("model", tmp_path)
    assert told == document("model", path)
    assert told["name"] == tmp_path.name
    assert [layer["kind"] for layer in told["layers"]] == [
        "latent attention + dense",
        "latent attention + experts",
    ]
    # 16 + 4 elements of 2 bytes in each of 3 layers.
    assert told["kv_bytes_per_token"] == 3 * 20 * 2
    assert document("model", path, "--kv", "fp8")["kv_bytes_per_token"] == 3 * 20
    assert sum(one["bytes"] for one in told["weight_bytes"]) == 2 * told["parameters"]
    attention = 64 * 24 + 24 + 24 * 48 + 64 * 20 + 16 + 16 * 64 + 32 * 64
    expert, norms = 3 * 64 * 32, 2 * 64
    dense = attention + norms + 3 * 64 * 96
    sparse = attention + norms + 9 * expert + 64 * 8
    assert told["parameters"] == dense + 2 * sparse + 2 * 6400 + 64
    assert told["active_parameters"] == told["parameters"] - 2 * 6 * expert


def test_what_is_described_is_priced(tmp_path: Path) -> None:
    """Catches a model of latent attention that is refused, or priced as one of heads."""
    path = written(tmp_path, DEEPSEEK)
    told = document(
        "compare", "--model", path, "--system", "dgx-base", "--batch", "4", "--set", "gpus=4"
    )
    assert told["systems"][0]["sites"] == {"latent": "gpu"}
    described = document("model", path)
    assert told["model"]["parameters"] == described["parameters"]
    assert told["model"]["kv_bytes_per_token"] == described["kv_bytes_per_token"]
    assert [one["site_kind"] for one in described["layers"]] == ["latent", "latent"]


def test_a_document_of_layers(tmp_path: Path) -> None:
    """Catches a document of several kinds of layers that is read as one of equal layers."""
    path = tmp_path / "mine.toml"
    path.write_text(LAYERS, encoding="utf-8")
    told = document("model", path)
    assert [(one["kind"], one["layers"]) for one in told["layers"]] == [
        ("sliding window of 16 + dense", 2),
        ("Mamba-2", 1),
    ]
    assert told["kv"] == "fp8"
    assert told["kv_bytes_per_token"] == 0
    assert told["window_bytes_per_request"] == 2 * 16 * 2 * 4
    assert told["state_bytes_per_request"] == 8 * 8 * 4 + 24 * 3 * 2
    path.write_text(LAYERS.replace('"mamba2"', '"mamba3"'), encoding="utf-8")
    assert "mamba3" in refusal("model", path)
    path.write_text(LAYERS.replace("heads = 4", "heads = 3"), encoding="utf-8")
    assert "kv_heads = 2 does not divide heads = 3" in refusal("model", path)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"n_routed_experts": None}, ["n_routed_experts"]),
        ({"q_lora_rank": "many"}, ["q_lora_rank"]),
        ({"sliding_window": 128}, ["sliding_window", "128"]),
        ({"index_topk": 2048}, ["index_topk", "2048"]),
        ({"model_type": "deepseek_v9"}, ["unknown model family 'deepseek_v9'", "TOML document"]),
        ({"architectures": ["KimiForCausalLM"]}, ["architectures", "KimiForCausalLM"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers"]),
        ({"num_experts_per_tok": 9}, ["num_experts_per_tok"]),
    ],
)
def test_what_may_change_the_answer_is_refused(
    tmp_path: Path, change: dict[str, object], parts: list[str]
) -> None:
    """Catches a key that is passed over."""
    told = refusal("model", written(tmp_path, DEEPSEEK | change))
    for part in parts:
        assert part in told


def test_names_of_a_hub_are_not_fetched() -> None:
    """Catches a name of a hub that is taken for a path without a word."""
    assert "no model hub is asked" in refusal("model", "org/name")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """Catches a file of an editor that writes one."""
    plain = document("model", written(tmp_path, DEEPSEEK))
    marked = b"\xef\xbb\xbf" + json.dumps(DEEPSEEK).encode()
    (tmp_path / "config.json").write_bytes(marked)
    assert document("model", tmp_path) == plain


@pytest.mark.untraced  # of 58 files
def test_every_published_file_is_told(reference: Path) -> None:
    """Catches a served model that is not understood, or a table that cannot be drawn of it."""
    folder = reference / "data" / "model_configs"
    paths = [p for p in sorted(folder.glob("*_config.json")) if "hf_quant" not in p.name]
    assert len(paths) == 58
    for path in paths:
        told = aa.describe(path)
        assert told.to_frame().height == len(told.layers)
        assert sum(told.parameters_by_part.values()) == told.parameters
        assert told.total_weight_bytes > 0.5 * told.parameters
