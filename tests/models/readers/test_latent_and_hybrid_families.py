"""Readers of latent attention and of hybrid models: counts, storage and contradictions.

The numbers of files are those of reference/model-architectures.md: section 4.2 for parameters, 2
for draft layers, and 4.3 for what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from attacc.documents import parse_document
from attacc.errors import DocumentError
from attacc.models.layers import LayeredModel
from attacc.models.mixers import Attention, DeltaNet, LatentAttention, Mamba2
from attacc.models.readers import hybrid, latent
from attacc.models.readers.base import Family
from attacc.models.weights import Part

FAMILIES = {**latent.FAMILIES, **hybrid.FAMILIES}
WRAPPERS = {**latent.WRAPPERS, **hybrid.WRAPPERS}

Config = Mapping[str, object]

LATENT: Config = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4, "v_head_dim": 10, "intermediate_size": 48, "moe_intermediate_size": 20,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "max_position_embeddings": 64,
}  # fmt: skip
SPARSE: Config = {**LATENT, "index_n_heads": 3, "index_head_dim": 8, "index_topk": 5}
V4: Config = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 4, "q_lora_rank": 12,
    "o_lora_rank": 6, "o_groups": 2, "sliding_window": 8, "compress_ratios": [0, 4, 128, 4, 0],
    "index_n_heads": 3, "index_head_dim": 8, "index_topk": 5, "moe_intermediate_size": 20,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1, "num_hash_layers": 1,
    "hc_mult": 3, "num_nextn_predict_layers": 1, "max_position_embeddings": 64,
}  # fmt: skip
QWEN: Config = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
    "linear_key_head_dim": 4, "linear_value_head_dim": 5, "linear_conv_kernel_dim": 3,
    "max_position_embeddings": 64,
}  # fmt: skip
QWEN_DENSE: Config = {**QWEN, "intermediate_size": 48}
QWEN_EXPERTS: Config = {
    **QWEN, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 24,
}  # fmt: skip
NEMOTRON: Config = {
    "vocab_size": 40, "hidden_size": 32, "hybrid_override_pattern": "ME*-M", "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "mamba_num_heads": 6,
    "mamba_head_dim": 4, "ssm_state_size": 7, "n_groups": 3, "conv_kernel": 3,
    "use_conv_bias": True, "mamba_ssm_cache_dtype": "float32", "intermediate_size": 48,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1,
    "moe_intermediate_size": 20, "moe_shared_expert_intermediate_size": 24,
    "max_position_embeddings": 64,
}  # fmt: skip
KIMI: Config = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 4, "kv_lora_rank": 16, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
    "v_head_dim": 10, "intermediate_size": 48, "moe_intermediate_size": 20, "num_experts": 8,
    "num_experts_per_token": 3, "num_shared_experts": 2, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "mla_use_nope": True, "pad_token_id": 0,
    "linear_attn_config": {
        "full_attn_layers": [4], "kda_layers": [1, 2, 3, 5], "num_heads": 3, "head_dim": 6,
        "short_conv_kernel_size": 4,
    },
}  # fmt: skip
K3: Config = {
    "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "q_lora_rank": 4, "kv_lora_rank": 5, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2,
    "v_head_dim": 3, "intermediate_size": 5, "moe_intermediate_size": 3, "num_experts": 4,
    "num_experts_per_token": 2, "num_shared_experts": 2, "first_k_dense_replace": 1,
    "routed_expert_hidden_size": 6, "latent_moe_use_norm": True, "mla_use_output_gate": True,
    "attn_res_block_size": 1,
    "linear_attn_config": {
        "full_attn_layers": [2], "kda_layers": [1], "num_heads": 2, "head_dim": 3,
        "short_conv_kernel_size": 4, "gate_lower_bound": -5.0, "use_full_rank_gate": True,
    },
}  # fmt: skip
SMALL: Mapping[str, Config] = {
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "kimi_k2": LATENT,
    "deepseek_v32": SPARSE,
    "glm_moe_dsa": SPARSE,
    "deepseek_v4": V4,
    "deepseek_ref": V4,
    "qwen3_next": QWEN_EXPERTS,
    "qwen3_5_text": QWEN_DENSE,
    "qwen3_5_moe_text": QWEN_EXPERTS,
    "nemotron_h": NEMOTRON,
    "kimi_linear": KIMI,
}


def parsed(family: str, config: Config) -> Family:
    return parse_document(FAMILIES[family], config, where="config.json")


def described(family: str, config: Config, *, tied: bool = False) -> LayeredModel:
    return parsed(family, config).described(tied=tied)


def stored(model: LayeredModel, kv_bytes: float) -> tuple[float, float, float]:
    """Bytes for each token, of full rings, and of states."""
    found = [(layer.repeat, layer.mixer.stored(kv_bytes)) for layer in model.layers if layer.mixer]
    return (
        sum(repeat * one.per_token for repeat, one in found),
        sum(repeat * one.per_request for repeat, one in found),
        sum(repeat * one.state for repeat, one in found),
    )


def built(family: str, config: Config) -> int:
    """Parameters of the model that transformers builds, tied ones once."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    name = {"kimi_k2": "deepseek_v3", "deepseek_ref": "deepseek_v4"}.get(family, family)
    try:
        stated = transformers.AutoConfig.for_model(name, **json.loads(json.dumps(config)))
    except ValueError as error:  # an older release
        pytest.skip(str(error).splitlines()[0])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(stated)
    return sum(cast("int", one.numel()) for one in model.parameters())


VARIANTS: Mapping[str, tuple[str, Config]] = {
    **{family: (family, config) for family, config in SMALL.items()},
    "v2 without a latent of queries": ("deepseek_v2", {**LATENT, "q_lora_rank": None}),
    "v2 of experts alone": (
        "deepseek_v2", {k: v for k, v in LATENT.items() if k != "first_k_dense_replace"},
    ),
    "v3 tied": ("deepseek_v3", {**LATENT, "tie_word_embeddings": True}),
    "v32 by a list of blocks": (
        "deepseek_v32",
        {**SPARSE, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    ),
    "glm with shared choices": (
        "glm_moe_dsa", {**SPARSE, "indexer_types": ["full", "shared", "full", "shared"]},
    ),
    "glm by a pattern": ("glm_moe_dsa", {**SPARSE, "index_topk_pattern": "FSSF"}),
    "glm by a rule": (
        "glm_moe_dsa",
        {**SPARSE, "num_hidden_layers": 9, "index_topk_freq": 4, "index_skip_topk_offset": 3},
    ),
    "glm by half a rule": ("glm_moe_dsa", {**SPARSE, "index_topk_freq": 2}),
    "v4 by names": (
        "deepseek_v4",
        {
            **{k: v for k, v in V4.items() if k not in ("compress_ratios", "num_hash_layers")},
            "layer_types": [
                "heavily_compressed_attention", "sliding_attention",
                "compressed_sparse_attention", "compressed_sparse_attention",
            ],
            "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
        },
    ),
    "qwen3_next with dense layers": (
        "qwen3_next",
        {**QWEN_EXPERTS, "intermediate_size": 48, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    ),
    "qwen3_5 by a list": (
        "qwen3_5_text",
        {**QWEN_DENSE, "layer_types": ["full_attention"] * 2 + ["linear_attention"] * 3},
    ),
    "qwen3_5 by another interval": (
        "qwen3_5_moe_text", {**QWEN_EXPERTS, "full_attention_interval": 2},
    ),
    "nemotron with a latent": ("nemotron_h", {**NEMOTRON, "moe_latent_size": 12}),
    "nemotron by names": (
        "nemotron_h",
        {
            **{
                k: v
                for k, v in NEMOTRON.items()
                if k not in ("hybrid_override_pattern", "num_hidden_layers")
            },
            "layers_block_type": ["linear_attention", "moe", "full_attention", "moe", "mlp"],
            "use_conv_bias": False,
        },
    ),
    "kimi with a latent of queries": ("kimi_linear", {**KIMI, "q_lora_rank": 12}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_those_of_the_model_that_transformers_builds(variant: str) -> None:
    """A weight that is missing, too much, or of another shape.

    The sizes differ from one another, so that no slip cancels another.
    """
    family, config = VARIANTS[variant]
    found = described(family, config, tied=bool(config.get("tie_word_embeddings")))
    assert found.parameters == built(family, config)


def test_the_extras_of_kimi_k3_are_counted_by_hand() -> None:
    """A gate, a norm, a latent or a kept stream of K3 that is left out or counted twice."""
    found = described("kimi_linear", K3)
    width = 2 * 3
    delta = 5 * 8 * width + 12 * width + 3 * 8 + width * 3 + 2 * 8 + 2 + width + 3
    dense = 3 * 8 * 5
    attention = 8 * 4 + 4 + 4 * 2 * 5 + 8 * 7 + 5 + 5 * 2 * 6 + 2 * 3 * 8 + 8 * 2 * 3
    experts, shared, projections = 4 * 3 * 6 * 3, 3 * 8 * 2 * 3, 2 * 8 * 6 + 6
    layers = delta + dense + attention + 8 * 4 + experts + shared + projections
    assert found.parameters == 1568 == layers + 2 * (2 * 8 + 4 * 8) + 2 * 10 * 8 + 8 + 2 * 8
    assert found.active_parameters == 1460 == found.parameters - experts // 2
    assert found.by_part()[Part.OTHER] == 2 * 4 * 8 + 2 * 8


def test_rank_of_gates_and_first_layers_follow_the_keys_of_kimi() -> None:
    """Lists that are read as if they began with 0, and a gate of full rank in Kimi Linear."""
    kinds = [layer.kind for layer in described("kimi_linear", KIMI).layers]
    assert kinds == [
        "gated delta net + dense",
        "gated delta net + experts",
        "latent attention + experts",
        "gated delta net + experts",
    ]
    mixer = described("kimi_linear", KIMI).layers[0].mixer
    assert isinstance(mixer, DeltaNet)
    assert mixer.gate_rank == 6


@dataclass(frozen=True)
class Row:
    """What the tables say of a file."""

    parameters: int
    active: int
    per_token: float
    per_token_in_8_bits: float
    ring: float = 0.0
    ring_in_8_bits: float = 0.0
    state: float = 0.0
    draft: int = 0


V3 = Row(671_026_404_352, 37_552_282_624, 70_272, 61 * 576, draft=11_610_067_968)
K2 = Row(1_026_408_209_408, 32_861_477_888, 70_272, 61 * 576)
GLM5 = Row(743_911_199_232, 41_784_709_632, 89_856 + 10_296, 51_168 + 10_296, draft=9_952_920_320)
GLM52 = Row(743_377_000_704, 41_250_511_104, 89_856 + 2_772, 51_168 + 2_772, draft=9_952_920_320)
FLASH = Row(
    284_332_230_231, 13_799_622_231, 6_880, 3_850.25, 43 * 128 * 1_024, 3_214_336, 12_206_080,
    draft=6_610_048_635,
)  # fmt: skip
PRO = Row(
    1_572_997_179_491, 49_779_058_787, 9_848, 5_511.4375, 61 * 128 * 1_024, 4_559_872, 18_710_528,
    draft=25_840_145_595,
)  # fmt: skip
QWEN_122B = Row(
    122_111_526_912, 9_771_288_576, 24_576, 12_288, state=153_649_152, draft=2_523_679_232
)
SUPER = Row(120_668_687_360, 12_770_216_960, 8_192, 4_096, state=170_229_760, draft=2_942_324_736)
ULTRA = Row(549_308_968_960, 56_058_818_560, 12_288, 6_144, state=407_961_600, draft=11_215_609_856)
FILES: Mapping[str, Row] = {
    "deepseek-ai--DeepSeek-R1": V3,
    "nvidia--DeepSeek-V3.1-NVFP4": V3,
    "deepseek-ai--DeepSeek-V3.2": Row(
        671_877_929_216, 38_403_807_488, 70_272 + 8_052, 40_016 + 8_052, draft=11_624_027_392
    ),
    "moonshotai--Kimi-K2-Instruct": K2,
    "moonshotai--Kimi-K2.5": K2,
    "nvidia--Kimi-K2.6-NVFP4": K2,
    "nvidia--Kimi-K2.7-Code-NVFP4": K2,
    "moonshotai--Kimi-K3": Row(
        2_779_484_393_568, 105_363_935_328, 27_648, 13_824, state=449_372_160
    ),
    "zai-org--GLM-5": GLM5,
    "zai-org--GLM-5-FP8": GLM5,
    "zai-org--GLM-5.1": GLM5,
    "nvidia--GLM-5-NVFP4": GLM5,
    "zai-org--GLM-5.2-FP8": GLM52,
    "nvidia--GLM-5.2-NVFP4": GLM52,
    "deepseek-ai--DeepSeek-V4-Flash": FLASH,
    "nvidia--DeepSeek-V4-Flash-NVFP4": FLASH,
    "sgl-project--DeepSeek-V4-Flash-FP8": FLASH,
    "nvidia--DeepSeek-V4-Pro-NVFP4": PRO,
    "Qwen--Qwen3.5-27B": Row(
        26_895_998_464, 26_895_998_464, 65_536, 32_768, state=153_944_064, draft=424_699_392
    ),
    "Qwen--Qwen3.5-122B-A10B": QWEN_122B,
    "nvidia--Qwen3.5-122B-A10B-NVFP4": QWEN_122B,
    "Qwen--Qwen3.5-397B-A17B": Row(
        396_346_350_336, 17_349_040_896, 30_720, 15_360, state=192_061_440, draft=6_595_568_128
    ),
    "nvidia--Qwen3.6-35B-A3B-NVFP4": Row(
        34_660_610_688, 3_454_988_928, 20_480, 10_240, state=64_389_120, draft=844_640_768
    ),
    "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": Row(
        31_577_937_344, 3_580_073_408, 6_144, 3_072, state=49_082_368
    ),
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8": SUPER,
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4": SUPER,
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8": ULTRA,
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4": ULTRA,
    "nvidia--Nemotron-H-56B-Base-8K": Row(
        56_324_350_464, 56_324_350_464, 40_960, 20_480, state=912_605_184
    ),
}


def of_file(reference: Path, name: str) -> LayeredModel:
    text = (reference / "data" / "model_configs" / f"{name}_config.json").read_text("utf-8")
    document = cast("dict[str, Any]", json.loads(text))
    family, tied = document["model_type"], bool(document.get("tie_word_embeddings", False))
    if family in WRAPPERS:
        document = document["text_config"]
        assert document["model_type"] in WRAPPERS[family].families
        family = document["model_type"]
    return described(family, document, tied=tied)


@pytest.mark.parametrize("name", FILES)
def test_files_have_the_counts_of_the_tables(reference: Path, name: str) -> None:
    """A published file that is read otherwise than the reference page counts it."""
    model, row = of_file(reference, name), FILES[name]
    assert model.parameters == row.parameters
    assert model.active_parameters == row.active
    assert model.draft_parameters == row.draft
    assert stored(model, 2) == (row.per_token, row.ring, row.state)
    assert stored(model, 1) == (row.per_token_in_8_bits, row.ring_in_8_bits, row.state)


def test_every_file_of_the_families_is_in_the_table(reference: Path) -> None:
    """A file of these families that no row checks."""
    found: set[str] = set()
    for path in (reference / "data" / "model_configs").glob("*_config.json"):
        document = json.loads(path.read_text("utf-8"))
        if document.get("model_type") in {*FAMILIES, *WRAPPERS}:
            found.add(path.name.removesuffix("_config.json"))
    assert found == set(FILES)


def test_layers_of_glm_choose_where_the_rule_says(reference: Path) -> None:
    """A rule of indexing layers that disagrees with the list of the published file."""
    path = reference / "data" / "model_configs" / "zai-org--GLM-5.2-FP8_config.json"
    document = cast("dict[str, object]", json.loads(path.read_text("utf-8")))
    of_list = described("glm_moe_dsa", document)
    del document["indexer_types"]
    assert described("glm_moe_dsa", document) == of_list
    choosing = {
        first: layer.repeat
        for first, layer in of_list.each_layer()
        if isinstance(layer.mixer, LatentAttention)
        and layer.mixer.indexer is not None
        and not layer.mixer.indexer.shared
    }
    assert choosing == {0: 3, **dict.fromkeys(range(6, 75, 4), 1)}


def test_types_of_states_follow_the_file() -> None:
    """A state that is counted in 4 bytes whatever the file says, or without a word about it."""
    for family, key in (
        ("nemotron_h", "mamba_ssm_cache_dtype"),
        ("qwen3_5_text", "mamba_ssm_dtype"),
    ):
        narrow = described(family, {**SMALL[family], key: "bfloat16"})
        silent = described(family, {k: v for k, v in SMALL[family].items() if k != key})
        wide = described(family, {**SMALL[family], key: "float32"})
        mixers = [
            next(
                layer.mixer for layer in model.layers if isinstance(layer.mixer, Mamba2 | DeltaNet)
            )
            for model in (narrow, silent, wide)
        ]
        assert [mixer.state_bytes for mixer in mixers] == [2, 4, 4]
        assert any(key in note for note in silent.notes)
        assert not any(key in note for note in wide.notes)


def test_a_gate_that_the_library_has_all_the_same_cannot_be_turned_off() -> None:
    """A query projection that is not doubled, though transformers ignores ``attn_output_gate``."""
    with pytest.raises(DocumentError, match="attn_output_gate: False"):
        parsed("qwen3_5_text", {**QWEN_DENSE, "attn_output_gate": False})


def test_heads_have_the_size_that_any_of_the_keys_states() -> None:
    """A size of heads under the older name of Nemotron-H, or none, that is overlooked."""
    without = {k: v for k, v in NEMOTRON.items() if k != "head_dim"}
    stated = {"head_dim": 6, "attention_head_dim": 6}
    for changes, size in ((stated, 6), ({"attention_head_dim": 128}, 128), ({}, 128)):
        mixers = [layer.mixer for layer in described("nemotron_h", {**without, **changes}).layers]
        heads = [mixer.head_dim for mixer in mixers if isinstance(mixer, Attention)]
        assert heads == [size]


def test_draft_layers_are_counted_apart() -> None:
    """A draft layer that adds to the model, or one that a key turns off and that is counted."""
    for family, changes in (
        ("deepseek_v3", {"num_nextn_predict_layers": 1}),
        ("qwen3_5_moe_text", {"mtp_num_hidden_layers": 1}),
        ("nemotron_h", {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}),
        ("nemotron_h", {"num_nextn_predict_layers": 1}),
    ):
        without, drafting = (described(family, {**SMALL[family], **more}) for more in ({}, changes))
        assert without.draft is None
        assert drafting.parameters == without.parameters
        assert drafting.draft_parameters > 2 * 32 * 32
        off = {key: 0 for key in changes if key.startswith(("num_", "mtp_num"))}
        assert described(family, {**SMALL[family], **off}).draft is None


def test_published_totals_are_the_model_and_its_draft_layers() -> None:
    """Notes that do not say what a published total holds besides: copies of V3, none of GLM-5."""
    drafting = {"num_nextn_predict_layers": 1}
    notes = {
        family: " ".join(described(family, {**SMALL[family], **drafting}).notes)
        for family in ("deepseek_v3", "glm_moe_dsa")
    }
    assert "copies" in notes["deepseek_v3"]
    assert "copies" not in notes["glm_moe_dsa"]


def test_json_may_hold_infinity() -> None:
    """A limit of time steps in Nemotron's files that stops the reader, though it is not used."""
    assert described("nemotron_h", {**NEMOTRON, "time_step_limit": [0.0, float("inf")]})


def test_defaults_are_those_of_optional_keys() -> None:
    """A key that the reference page calls optional, and that is required or has another default."""
    bare = {k: v for k, v in LATENT.items() if k not in ("n_shared_experts",)}
    assert described("deepseek_v2", bare) == described("deepseek_v2", LATENT)
    bare = {k: v for k, v in SPARSE.items() if k != "first_k_dense_replace"}
    three = described("glm_moe_dsa", {**SPARSE, "first_k_dense_replace": 3})
    assert described("glm_moe_dsa", bare) == three
    every = described("glm_moe_dsa", {**SPARSE, "indexer_types": ["full"] * 4})
    assert described("glm_moe_dsa", SPARSE) == every
    bare = {k: v for k, v in KIMI.items() if k not in ("first_k_dense_replace", "moe_layer_freq")}
    assert described("kimi_linear", bare) == described("kimi_linear", KIMI)


def test_all_layers_behind_the_dense_ones_have_experts() -> None:
    """Dense layers by ``moe_layer_freq``, which transformers ignores."""
    for family in ("deepseek_v2", "deepseek_v3", "glm_moe_dsa", "kimi_linear"):
        with pytest.raises(DocumentError, match="moe_layer_freq: 2"):
            parsed(family, {**SMALL[family], "moe_layer_freq": 2})


Names = tuple[str, ...]
WRONG: Mapping[str, tuple[str, Config, Names]] = {
    "more experts than there are": (
        "deepseek_v3", {"num_experts_per_tok": 9},
        ("num_experts_per_tok = 9", "n_routed_experts = 8", "use 1 to 8"),
    ),
    "other key/value heads": (
        "kimi_k2", {"num_key_value_heads": 2},
        ("num_key_value_heads = 2", "num_attention_heads = 4", "remove"),
    ),
    "another sum": (
        "glm_moe_dsa", {"qk_head_dim": 12}, ("qk_head_dim = 12", "10", "remove"),
    ),
    "experts twice": (
        "glm_moe_dsa", {"num_experts": 9}, ("num_experts = 9", "n_routed_experts = 8", "remove"),
    ),
    "too few kinds of attention": (
        "glm_moe_dsa", {"layer_types": ["deepseek_sparse_attention"]}, ("layer_types has 1", "4"),
    ),
    "a foreign kind of attention": (
        "glm_moe_dsa", {"layer_types": ["full_attention"] * 4}, ("full_attention", "unknown"),
    ),
    "too few blocks": ("deepseek_v32", {"mlp_layer_types": ["dense"]}, ("mlp_layer_types has 1",)),
    "blocks by two rules": (
        "deepseek_v32", {"mlp_layer_types": ["sparse"] * 4},
        ("mlp_layer_types[0] = 'sparse'", "first_k_dense_replace = 1", "remove"),
    ),
    "no latent to choose by": ("deepseek_v32", {"q_lora_rank": None}, ("q_lora_rank", "add")),
    "too few indexers": ("glm_moe_dsa", {"indexer_types": ["full"]}, ("indexer_types has 1", "4")),
    "too short a pattern": (
        "glm_moe_dsa", {"index_topk_pattern": "FS"}, ("index_topk_pattern has 2", "4"),
    ),
    "a foreign letter": (
        "glm_moe_dsa", {"index_topk_pattern": "FSXF"}, ("index_topk_pattern", "'X'", "write F"),
    ),
    "indexers by two rules": (
        "glm_moe_dsa",
        {"indexer_types": ["full", "shared", "full", "shared"], "index_topk_freq": 1},
        ("indexer_types makes layer 1 'shared'", "index_topk_freq", "remove"),
    ),
    "nothing to share": (
        "glm_moe_dsa", {"indexer_types": ["shared"] * 4}, ("indexer_types", "layer 0", "'full'"),
    ),
    "too few ratios": ("deepseek_v4", {"compress_ratios": [0, 4]}, ("compress_ratios has 2", "4")),
    "a ratio without a draft layer": (
        "deepseek_v4", {"num_nextn_predict_layers": 0}, ("compress_ratios has 5", "4"),
    ),
    "another ratio": (
        "deepseek_v4", {"compress_ratios": [0, 4, 64, 4]},
        ("compress_ratios[2] = 64", "use 0, 4 or 128"),
    ),
    "a draft layer that compresses": (
        "deepseek_v4", {"compress_ratios": [0, 4, 128, 4, 128]},
        ("compress_ratios", "128", "write 0"),
    ),
    "no ratios": ("deepseek_v4", {"compress_ratios": None}, ("compress_ratios is missing", "add")),
    "ratios by two rules": (
        "deepseek_v4", {"layer_types": ["sliding_attention"] * 4},
        ("compress_ratios[1] = 4", "layer_types[1] = 'sliding_attention'", "remove"),
    ),
    "another rate": (
        "deepseek_v4", {"compress_rates": {"heavily_compressed_attention": 64}},
        ("compress_rates.heavily_compressed_attention = 64", "128"),
    ),
    "two vectors a token": (
        "deepseek_v4", {"num_key_value_heads": 2}, ("num_key_value_heads = 2", "write 1"),
    ),
    "two shared experts": (
        "deepseek_v4", {"n_shared_experts": 2}, ("n_shared_experts = 2", "write 1"),
    ),
    "uneven groups": ("deepseek_v4", {"o_groups": 3}, ("o_groups = 3", "64", "divisor")),
    "rotated beyond the head": (
        "deepseek_v4", {"qk_rope_head_dim": 17},
        ("qk_rope_head_dim = 17", "head_dim = 16", "use 1"),
    ),
    "hash layers by two rules": (
        "deepseek_v4", {"mlp_layer_types": ["moe"] * 4},
        ("num_hash_layers = 1", "mlp_layer_types has 0", "remove"),
    ),
    "uneven heads": (
        "qwen3_5_text", {"num_key_value_heads": 3},
        ("num_key_value_heads = 3", "num_attention_heads = 4", "divisor"),
    ),
    "uneven heads of a delta net": (
        "qwen3_next", {"linear_num_key_heads": 4},
        ("linear_num_key_heads = 4", "linear_num_value_heads = 6", "divisor"),
    ),
    "too few layers": (
        "qwen3_5_text", {"layer_types": ["full_attention"]}, ("layer_types has 1", "5"),
    ),
    "layers by two rules": (
        "qwen3_5_moe_text",
        {"layer_types": ["linear_attention"] * 5, "full_attention_interval": 4},
        ("layer_types[3] = 'linear_attention'", "full_attention_interval = 4", "remove"),
    ),
    "several draft layers": (
        "qwen3_5_text", {"mtp_num_hidden_layers": 2}, ("mtp_num_hidden_layers = 2", "write 1"),
    ),
    "more experts than Qwen has": (
        "qwen3_5_moe_text", {"num_experts_per_tok": 9},
        ("num_experts_per_tok = 9", "num_experts = 8"),
    ),
    "a layer behind the last": (
        "qwen3_next", {"mlp_only_layers": [5]}, ("mlp_only_layers", "5", "use 0 to 4"),
    ),
    "dense layers without a width": (
        "qwen3_next", {"mlp_only_layers": [0]}, ("intermediate_size is missing", "add"),
    ),
    "a type of states that is none": (
        "qwen3_5_text", {"mamba_ssm_dtype": "int3"}, ("mamba_ssm_dtype", "int3"),
    ),
    "another number of blocks": (
        "nemotron_h", {"num_hidden_layers": 6}, ("hybrid_override_pattern has 5", "6"),
    ),
    "no blocks": (
        "nemotron_h", {"hybrid_override_pattern": None}, ("layers_block_type is missing", "add"),
    ),
    "a foreign block": (
        "nemotron_h", {"hybrid_override_pattern": "ME*-X"},
        ("hybrid_override_pattern[4] = 'X'", "use M"),
    ),
    "blocks by two lists": (
        "nemotron_h", {"layers_block_type": ["mamba"] * 5},
        ("hybrid_override_pattern", "layers_block_type", "remove"),
    ),
    "heads under two names": (
        "nemotron_h", {"attention_head_dim": 9},
        ("head_dim = 8", "attention_head_dim = 9", "remove"),
    ),
    "uneven groups of Mamba": (
        "nemotron_h", {"n_groups": 4}, ("n_groups = 4", "mamba_num_heads = 6", "divisor"),
    ),
    "no width": (
        "nemotron_h", {"intermediate_size": None}, ("intermediate_size is missing", "add"),
    ),
    "biases": ("nemotron_h", {"use_bias": True}, ("use_bias", "remove")),
    "several shared experts": (
        "nemotron_h", {"n_shared_experts": 2}, ("n_shared_experts = 2", "write 1"),
    ),
    "several draft modules": (
        "nemotron_h", {"num_nextn_predict_layers": 2}, ("num_nextn_predict_layers = 2", "write 1"),
    ),
    "more experts than Nemotron has": (
        "nemotron_h", {"num_experts_per_tok": 9},
        ("num_experts_per_tok = 9", "n_routed_experts = 8"),
    ),
    "lists that begin with 0": (
        "kimi_linear",
        {
            "linear_attn_config": {
                "full_attn_layers": [3], "kda_layers": [0, 1, 2, 4], "num_heads": 3, "head_dim": 6,
            }
        },
        ("full_attn_layers", "kda_layers", "num_hidden_layers = 5", "from 1 to 5"),
    ),
    "a layer of two kinds": (
        "kimi_linear",
        {
            "linear_attn_config": {
                "full_attn_layers": [4], "kda_layers": [1, 2, 3, 4, 5], "num_heads": 3,
                "head_dim": 6,
            }
        },
        ("layer 4 2 times", "once"),
    ),
    "an unknown size of delta attention": (
        "kimi_linear",
        {
            "linear_attn_config": {
                "full_attn_layers": [4], "kda_layers": [1, 2, 3, 5], "num_heads": 3,
                "head_dim": 6, "num_key_heads": 2,
            }
        },
        ("num_key_heads",),
    ),
    "a norm of no latent": (
        "kimi_linear", {"latent_moe_use_norm": True},
        ("latent_moe_use_norm", "routed_expert_hidden_size is missing"),
    ),
    "more experts than Kimi has": (
        "kimi_linear", {"num_experts_per_token": 9},
        ("num_experts_per_token = 9", "num_experts = 8"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_files_that_contradict_themselves_are_refused(fault: str) -> None:
    """A contradiction that is read by one of its halves, or a message without key and way out."""
    family, changes, names = WRONG[fault]
    with pytest.raises(DocumentError) as refused:
        parsed(family, {**SMALL[family], **changes})
    for name in names:
        assert name in str(refused.value)


@pytest.mark.parametrize("family", SMALL)
def test_keys_that_decide_a_size_are_required(family: str) -> None:
    """A size that falls back to a default, which no published model need have."""
    for key in ("vocab_size", "hidden_size", "moe_intermediate_size", "kv_lora_rank"):
        if key in SMALL[family]:
            without = {k: v for k, v in SMALL[family].items() if k != key}
            with pytest.raises(DocumentError, match=f"{key}.* missing|missing.*{key}"):
                parsed(family, without)


def test_a_multimodal_file_without_a_word_about_ties_has_the_default_of_its_class() -> None:
    """A head that is counted for a file of Kimi K2.5 that leaves out ``tie_word_embeddings``."""
    assert WRAPPERS["kimi_k25"].tied is True
    assert not any(family.tied for family in FAMILIES.values())
