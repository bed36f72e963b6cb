"""What sees pictures: its parameters by the reference table, and by transformers.

The numbers of files are those of reference/model-architectures.md, table 4.2.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attacc.errors import DocumentError
from attacc.models.readers.vision import FAMILIES, vision_parameters

Config = dict[str, Any]

PUBLISHED = {
    "Qwen--Qwen3-VL-235B-A22B-Instruct": 576_388_336,
    "Qwen--Qwen3-VL-2B-Instruct": 406_957_056,
    "Qwen--Qwen3-VL-32B-Thinking": 595_266_800,
    "Qwen--Qwen3-VL-4B-Instruct": 415_347_712,
    "Qwen--Qwen3.5-122B-A10B": 451_290_864,
    "nvidia--Qwen3.5-122B-A10B-NVFP4": 451_290_864,
    "Qwen--Qwen3.5-27B": 460_730_096,
    "Qwen--Qwen3.5-397B-A17B": 456_010_480,
    "nvidia--Qwen3.6-35B-A3B-NVFP4": 446_571_248,
    "google--gemma-4-26B-A4B": 572_792_112,
    "nvidia--Gemma-4-31B-IT-NVFP4": 575_741_232,
    "moonshotai--Kimi-K2.5": 471_143_920,
    "nvidia--Kimi-K2.6-NVFP4": 471_143_920,
    "nvidia--Kimi-K2.7-Code-NVFP4": 471_143_920,
    "nvidia--MiniMax-M3-NVFP4": 865_567_232,
}
"""Files that have a vision part that is counted -> its parameters."""


def _text(family: str, **more: object) -> Config:
    """Return a small language part of 64 elements."""
    return {
        "model_type": family,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 128,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        **more,
    }


def _file(family: str, text: Config, vision: Config, **more: object) -> Config:
    return {"model_type": family, "text_config": text, "vision_config": vision, **more}


TOWER: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 14,
    "image_size": 60,
}
QWEN: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "depth": 3,
    "num_heads": 4,
    "in_channels": 4,
    "patch_size": 6,
    "temporal_patch_size": 3,
    "spatial_merge_size": 3,
    "num_position_embeddings": 49,
    "out_hidden_size": 64,
}
DEEPSTACK: Config = {**QWEN, "deepstack_visual_indexes": [0, 2]}
GEMMA4: Config = {
    **TOWER,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "position_embedding_size": 100,
    "standardize": True,
}
AUDIO: Config = {
    "model_type": "gemma4_audio",
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "subsampling_conv_channels": [26, 12],
    "conv_kernel_size": 7,
    "output_proj_dims": 44,
}
LLAMA4: Config = {
    **TOWER,
    "intermediate_size": 128,
    "projector_input_dim": 44,
    "projector_output_dim": 40,
    "vision_output_dim": 36,
}
KIMI: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pos_emb_height": 6,
    "pos_emb_width": 5,
    "patch_size": 14,
    "merge_kernel_size": [2, 3],
}
KIMI_PUBLISHED: Config = {
    "vt_hidden_size": 32,
    "vt_intermediate_size": 48,
    "vt_num_hidden_layers": 3,
    "vt_num_attention_heads": 4,
    "init_pos_emb_height": 6,
    "init_pos_emb_width": 5,
    "patch_size": 14,
    "merge_kernel_size": [2, 3],
    "mm_hidden_size": 32,
    "mm_projector_type": "patchmerger",
    "pos_emb_type": "divided_fixed",
    "text_hidden_size": 64,
}
MINIMAX: Config = {
    **TOWER,
    "num_channels": 4,
    "temporal_patch_size": 3,
    "spatial_merge_size": 3,
}
EXPERTS: Config = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
SPARSE: Config = {"num_local_experts": 2, "num_experts_per_tok": 1}
LATENT: Config = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "moe_intermediate_size": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
SIGLIP: Config = {**TOWER, "model_type": "siglip_vision_model"}
PIXTRAL: Config = {**TOWER, "model_type": "pixtral"}
GEMMA4_TEXT = _text(
    "gemma4_text",
    hidden_size_per_layer_input=0,
    layer_types=["sliding_attention", "full_attention"],
)

SMALL: Mapping[str, Config] = {
    "qwen3_vl": _file("qwen3_vl", _text("qwen3_vl_text"), DEEPSTACK),
    "qwen3_vl_moe": _file("qwen3_vl_moe", _text("qwen3_vl_moe_text", **EXPERTS), DEEPSTACK),
    "qwen3_vl, deepstack by default": _file(
        "qwen3_vl", _text("qwen3_vl_text"), {**QWEN, "depth": 26}
    ),
    "qwen3_5": _file("qwen3_5", _text("qwen3_5_text"), QWEN),
    "qwen3_5_moe": _file("qwen3_5_moe", _text("qwen3_5_moe_text", **EXPERTS), QWEN),
    "gemma3": _file("gemma3", _text("gemma3_text"), SIGLIP, mm_tokens_per_image=4),
    "gemma3, no head": _file(
        "gemma3",
        _text("gemma3_text"),
        {**SIGLIP, "vision_use_head": False, "num_channels": 4},
        mm_tokens_per_image=4,
    ),
    "gemma4": _file("gemma4", GEMMA4_TEXT, GEMMA4, audio_config=None),
    "gemma4, clipped, biases": _file(
        "gemma4", GEMMA4_TEXT, {**GEMMA4, "use_clipped_linears": True, "attention_bias": True}
    ),
    "gemma4, audio": _file("gemma4", GEMMA4_TEXT, GEMMA4, audio_config=AUDIO),
    "llama4": _file("llama4", _text("llama4_text", intermediate_size_mlp=80, **SPARSE), LLAMA4),
    "kimi_k25": _file("kimi_k25", _text("deepseek_v3", **LATENT), KIMI, projection_hidden_size=32),
    "minimax_m3_vl": _file(
        "minimax_m3_vl",
        _text("minimax_m3_vl_text", **SPARSE),
        MINIMAX,
        projector_hidden_size=56,
    ),
    "mistral3": _file("mistral3", _text("mistral"), PIXTRAL),
    "mistral3, biases, two blocks": _file(
        "mistral3",
        _text("mistral"),
        {**PIXTRAL, "num_channels": 4},
        spatial_merge_size=3,
        vision_feature_layer=[-1, -2],
        multimodal_projector_bias=True,
    ),
}
"""Small files of every family, with the variants that change a count."""


def count(document: Config) -> int | None:
    """Parameters of what sees pictures in a document."""
    return vision_parameters(document["model_type"], document, "config.json")


def changed(name: str, **vision: object) -> Config:
    """A small file with other keys in its vision part; those that are None go."""
    document = copy.deepcopy(SMALL[name])
    tower = {**document["vision_config"], **vision}
    document["vision_config"] = {key: value for key, value in tower.items() if value is not None}
    return document


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items())
def test_counts_of_the_reference_files(reference: Path, name: str, expected: int) -> None:
    """A term of a formula that is wrong for a published model, or a key that is not read."""
    path = reference / "data" / "model_configs" / f"{name}_config.json"
    assert count(json.loads(path.read_text())) == expected


def test_every_file_with_a_vision_part_is_counted_or_known_not_to_be(reference: Path) -> None:
    """A family whose files have a vision part, and that no reader here counts."""
    found: set[str] = set()
    for path in (reference / "data" / "model_configs").glob("*_config.json"):
        document = json.loads(path.read_text())
        if document.get("vision_config"):
            found.add(path.name.removesuffix("_config.json"))
    assert found == {*PUBLISHED, "moonshotai--Kimi-K3"}


def test_llama_4_with_its_published_keys() -> None:
    """A wrong Llama 4, of which the reference files hold no vision part; the page has its count."""
    tower = {
        "hidden_size": 1408,
        "intermediate_size": 5632,
        "num_hidden_layers": 34,
        "image_size": 336,
        "patch_size": 14,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 4096,
    }
    document = _file("llama4", {"hidden_size": 5120}, tower)
    assert count(document) == 871_932_416


@pytest.mark.parametrize("name", SMALL)
def test_small_models_have_the_parameters_that_transformers_builds(name: str) -> None:
    """A term that published sizes hide, or a default that differs from the library's."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    document = copy.deepcopy(SMALL[name])
    expected = count(document)
    family = document.pop("model_type")
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this release of transformers does not know {family}")
    config = transformers.AutoConfig.for_model(family, **document)
    with torch.device("meta"):
        built = transformers.AutoModelForImageTextToText.from_config(config)
    parts = [n for n, _ in built.named_parameters() if "language_model" in n]
    assert parts, "the language part has another name"
    assert expected == sum(
        weight.numel()
        for n, weight in built.named_parameters()
        if "language_model" not in n and not n.startswith("lm_head")
    )


def test_small_files_cover_every_family() -> None:
    """A family that is added without a check against transformers."""
    assert {document["model_type"] for document in SMALL.values()} == set(FAMILIES)


def test_kimi_is_read_under_the_names_of_its_published_files() -> None:
    """A name of the published files that is read as another one, or not at all."""
    published = {**SMALL["kimi_k25"], "vision_config": KIMI_PUBLISHED}
    assert count(published) == count(SMALL["kimi_k25"])


def test_minimax_merges_as_its_own_table_says() -> None:
    """A table of merging that is not read, so that the library's defaults are counted."""
    merging = {"spatial_merge_size": 3, "temporal_patch_size": 3}
    nested = changed(
        "minimax_m3_vl",
        spatial_merge_size=2,
        temporal_patch_size=2,
        img_token_compression_config=merging,
    )
    assert count(nested) == count(SMALL["minimax_m3_vl"])


def test_minimax_without_biases_in_its_projector() -> None:
    """A switch of the file for biases that is not read: four vectors of 56 or 64 elements."""
    plain = {**SMALL["minimax_m3_vl"], "multimodal_projector_bias": False}
    whole, without = count(SMALL["minimax_m3_vl"]), count(plain)
    assert whole is not None
    assert without == whole - 2 * (56 + 64)


@pytest.mark.parametrize(
    "document",
    [
        {"model_type": "kimi_k3", "vision_config": KIMI_PUBLISHED, "text_config": {}},
        {"model_type": "llama4", "text_config": {"hidden_size": 64}},
        {"model_type": "gemma4", "text_config": {}, "vision_config": None, "audio_config": AUDIO},
        {"model_type": "qwen9_vl", "vision_config": QWEN},
    ],
    ids=["not established", "no table", "null", "unknown family"],
)
def test_what_is_not_counted(document: Config) -> None:
    """A number for a vision part that is absent, or whose modules nobody established."""
    assert count(document) is None


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "gemma3", "gemma4", "llama4", "mistral3"])
@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "patch_size"])
def test_missing_keys_are_named(name: str, key: str) -> None:
    """A size that is taken from a default where the file does not state it."""
    with pytest.raises(DocumentError, match=f"missing key '{key}'") as caught:
        count(changed(name, **{key: None}))
    assert caught.value.where == f"config.json: vision_config.{key}"


def test_a_missing_key_of_kimi_has_its_published_name() -> None:
    """A message that names none of the two names of a key."""
    with pytest.raises(DocumentError, match="missing key 'vt_num_hidden_layers'"):
        count(changed("kimi_k25", num_hidden_layers=None))


def test_missing_keys_around_the_vision_part_are_named() -> None:
    """A projector that is counted without the width of what it connects."""
    document = copy.deepcopy(SMALL["minimax_m3_vl"])
    del document["projector_hidden_size"]
    with pytest.raises(DocumentError, match="missing key 'projector_hidden_size'"):
        count(document)
    document = copy.deepcopy(SMALL["gemma3"])
    del document["text_config"]["hidden_size"]
    with pytest.raises(DocumentError, match="missing key 'hidden_size'") as caught:
        count(document)
    assert caught.value.where == "config.json: text_config.hidden_size"


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("qwen3_vl", "depth", "27", "no whole number"),
        ("qwen3_vl", "depth", 0, "out of range"),
        ("qwen3_vl", "out_hidden_size", 128, "text_config.hidden_size = 64"),
        ("qwen3_5", "deepstack_visual_indexes", [1], "at most 0 items"),
        ("gemma3", "model_type", "clip_vision_model", "is unknown"),
        ("mistral3", "model_type", "siglip_vision_model", "is unknown"),
        ("kimi_k25", "mm_projector_type", "patchmergerv2", "is unknown"),
        ("kimi_k25", "mm_hidden_size", 40, "vt_hidden_size = 32"),
        ("kimi_k25", "text_hidden_size", 40, "text_config.hidden_size = 64"),
    ],
)
def test_values_that_cannot_be_are_refused(
    name: str, key: str, value: object, message: str
) -> None:
    """A number for a tower that no module of the family computes."""
    with pytest.raises(DocumentError, match=message):
        count(changed(name, **{key: value}))


def test_a_vision_part_that_is_no_table_is_refused() -> None:
    """A text or a list in place of the table, which would crash or count as absent."""
    with pytest.raises(DocumentError, match="is no table") as caught:
        count({**SMALL["gemma3"], "vision_config": "siglip"})
    assert caught.value.where == "config.json: vision_config"


def test_heads_that_hear_divide_the_width() -> None:
    """A head of a broken number of elements, which the library would round down."""
    audio = {**AUDIO, "num_attention_heads": 3}
    with pytest.raises(DocumentError, match="does not divide hidden_size = 40"):
        count({**SMALL["gemma4"], "audio_config": audio})


def test_faults_elsewhere_in_the_file_do_not_matter() -> None:
    """A fault of a table that decides no size here, named as one of the vision part."""
    document = {**SMALL["gemma3"], "torch_dtype": "\ud800"}
    assert count(document) == count(SMALL["gemma3"])
