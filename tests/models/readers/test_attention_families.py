"""Readers of families with attention in every layer: counts, storage and contradictions.

The numbers of files are those of reference/model-architectures.md: section 4.2 for parameters, 2
for draft layers, and 4.3 for what is stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.documents import keys_of, parse_document
from attacc.errors import DocumentError
from attacc.models.layers import MAX_LAYERS, LayeredModel
from attacc.models.mixers import Attention
from attacc.models.readers import dense, experts, gpt
from attacc.models.readers.base import Family
from attacc.models.weights import Part
from tests import share

FAMILIES: Mapping[str, type[Family]] = {**gpt.FAMILIES, **dense.FAMILIES, **experts.FAMILIES}
WRAPPERS = {**gpt.WRAPPERS, **dense.WRAPPERS, **experts.WRAPPERS}

Config = Mapping[str, object]

HEADS: Config = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GATED: Config = {**HEADS, "intermediate_size": 20}
GEMMA: Config = {**GATED, "head_dim": 10}
MOE: Config = {
    **GATED, "num_local_experts": 5, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN_MOE: Config = {
    **HEADS, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 14,
}  # fmt: skip
GEMMA4: Config = {
    **GEMMA, "global_head_dim": 14, "sliding_window": 8, "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
}  # fmt: skip
GEMMA4_MOE: Config = {
    **GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True,
    "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 14,
}  # fmt: skip
GPT: Config = {"vocab_size": 40, "n_embd": 24, "n_layer": 3, "n_head": 6, "n_positions": 64}
BLOOM: Config = {"vocab_size": 40, "hidden_size": 24, "n_layer": 3, "n_head": 6}
FALCON: Config = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6,
}  # fmt: skip
MPT: Config = {"vocab_size": 40, "d_model": 24, "n_heads": 6, "n_layers": 3, "max_seq_len": 64}
MIMO_V2: Config = {
    **GEMMA, "num_attention_heads": 8, "v_head_dim": 6, "sliding_window": 8,
    "sliding_window_size": 8, "hybrid_layer_pattern": [0, 1, 1, 1], "swa_num_attention_heads": 8,
    "swa_num_key_value_heads": 4, "swa_head_dim": 10, "swa_v_head_dim": 6,
    "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
    "moe_layer_freq": [0, 1, 1, 1], "moe_intermediate_size": 14, "n_routed_experts": 5,
    "num_experts_per_tok": 2,
}  # fmt: skip
M3: Config = {
    **MOE, "head_dim": 10, "dense_intermediate_size": 22, "shared_intermediate_size": 18,
    "moe_layer_freq": [0, 1, 1, 1],
    "sparse_attention_config": {
        "sparse_attention_freq": [0, 0, 1, 1], "sparse_num_index_heads": 2, "sparse_index_dim": 6,
        "sparse_block_size": 4, "sparse_topk_blocks": 2,
        "sparse_disable_index_value": [0, 0, 1, 1],
    },
}  # fmt: skip
LLAMA4: Config = {**MOE, "head_dim": 10, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 9}
GLM4_MOE: Config = {
    **GEMMA, "moe_intermediate_size": 14, "n_routed_experts": 5, "num_experts_per_tok": 2,
    "n_shared_experts": 2, "first_k_dense_replace": 1,
}  # fmt: skip
STEP: Config = {
    **GEMMA, "sliding_window": 8, "first_k_dense_replace": 1, "num_experts": 5,
    "num_experts_per_tok": 2, "moe_intermediate_size": 14, "share_expert_dim": 18,
    "layer_types": ["full_attention"] + ["sliding_attention"] * 3, "num_nextn_predict_layers": 2,
}  # fmt: skip
BLOCKS: Config = {
    **{k: v for k, v in HEADS.items() if k != "num_key_value_heads"},
    "block_configs": [
        {"attention": {"n_heads_in_group": 3}, "ffn": {"ffn_mult": 1.5}},
        {"attention": {"no_op": True}, "ffn": {"ffn_mult": 20.0}},
        {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}},
        {"attention": {"no_op": True}, "ffn": {"no_op": True}},
    ],
}  # fmt: skip

SMALL: Mapping[str, Config] = {
    "gpt2": GPT, "gptj": GPT, "bloom": BLOOM, "mpt": MPT, "falcon": FALCON,
    "opt": {
        "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6,
        "ffn_dim": 20, "max_position_embeddings": 64,
    },
    "gpt_neox": {k: v for k, v in GATED.items() if k != "num_key_value_heads"},
    "starcoder2": GATED, "llama": GATED, "mistral": GATED, "qwen2": GATED, "qwen3": GEMMA,
    "qwen3_vl_text": GEMMA, "gemma": GEMMA, "gemma2": GEMMA, "gemma3_text": GEMMA,
    "gemma4_text": GEMMA4, "phi3": GATED, "internlm2": {**GATED, "bias": False}, "olmo2": GATED,
    "granite": GATED, "cohere": GATED, "cohere2": GATED, "nemotron": GATED, "smollm3": GATED,
    "glm4": GEMMA, "exaone4": GATED, "mimo": GATED, "nemotron-nas": BLOCKS, "mixtral": MOE,
    "qwen2_moe": {**QWEN_MOE, "shared_expert_intermediate_size": 18}, "qwen3_moe": QWEN_MOE,
    "qwen3_vl_moe_text": QWEN_MOE, "mimo_v2_flash": MIMO_V2,
    "minimax_m2": {**MOE, "head_dim": 10}, "minimax_m3": M3, "minimax_m3_vl_text": M3,
    "gpt_oss": MOE, "llama4_text": LLAMA4, "glm4_moe": GLM4_MOE, "step3p7": STEP,
}  # fmt: skip
"""A small configuration of every family."""

BIASED: Config = {"attention_bias": True}
VARIANTS: Mapping[str, tuple[str, Config]] = {
    **{family: (family, config) for family, config in SMALL.items()},
    "gpt2 untied, another block": ("gpt2", {**GPT, "n_inner": 20, "tie_word_embeddings": False}),
    "gptj, another block": ("gptj", {**GPT, "n_inner": 20}),
    "opt, narrow embeddings": (
        "opt", {**SMALL["opt"], "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    ),
    "opt without biases": ("opt", {**SMALL["opt"], "enable_bias": False}),
    "gpt_neox without biases": ("gpt_neox", {**SMALL["gpt_neox"], "attention_bias": False}),
    "bloom by its old key": (
        "bloom", {"vocab_size": 40, "n_embed": 24, "n_layer": 3, "n_head": 6, "n_inner": 96},
    ),
    "falcon with dead kv heads": ("falcon", {**FALCON, "num_kv_heads": 6}),
    "falcon, new": ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, new, one norm": (
        "falcon",
        {
            **FALCON, "new_decoder_architecture": True, "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
    ),
    "falcon, old": (
        "falcon",
        {
            **FALCON, "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True,
            "ffn_hidden_size": 20,
        },
    ),
    "starcoder2 without biases": ("starcoder2", {**GATED, "use_bias": False}),
    "starcoder2, default heads": (
        "starcoder2", {k: v for k, v in GATED.items() if k != "num_key_value_heads"},
    ),
    "llama, heads of another size": ("llama", {**GEMMA, **BIASED, "mlp_bias": True}),
    "llama, all heads": (
        "llama", {k: v for k, v in GATED.items() if k != "num_key_value_heads"},
    ),
    "qwen3 with biases": ("qwen3", {**GEMMA, **BIASED}),
    "gemma with biases": ("gemma", {**GEMMA, **BIASED}),
    "gemma of default heads": ("gemma", GATED),
    "gemma2 of default heads": (
        "gemma2",
        {
            **{k: v for k, v in GATED.items() if k != "num_key_value_heads"},
            "num_attention_heads": 12,
        },
    ),
    "gemma3 of default sizes": (
        "gemma3_text", {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 20},
    ),
    "gemma4 with experts": ("gemma4_text", GEMMA4_MOE),
    "gemma4 of default sizes": (
        "gemma4_text",
        {k: v for k, v in GEMMA4.items() if k not in ("head_dim", "global_head_dim")},
    ),
    "gemma4 with inputs for each layer": (
        "gemma4_text",
        {
            **GEMMA4, "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 30,
            "num_hidden_layers": 6, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
            "layer_types": ["sliding_attention", "full_attention"] * 3, **BIASED,
        },
    ),
    "gemma4 with the inputs that are the default": (
        "gemma4_text", {k: v for k, v in GEMMA4.items() if k != "hidden_size_per_layer_input"},
    ),
    "olmo2 with biases": ("olmo2", {**GATED, **BIASED}),
    "granite with biases": ("granite", {**GATED, **BIASED, "mlp_bias": True}),
    "cohere with norms": ("cohere", {**GATED, **BIASED, "use_qk_norm": True}),
    "cohere untied": ("cohere", {**GATED, "tie_word_embeddings": False}),
    "nemotron with biases": ("nemotron", {**GEMMA, **BIASED, "mlp_bias": True}),
    "smollm3 with biases": ("smollm3", {**GATED, **BIASED, "mlp_bias": True}),
    "glm4 without biases": ("glm4", {**GEMMA, "attention_bias": False}),
    "qwen2_moe, some dense": (
        "qwen2_moe",
        {
            **SMALL["qwen2_moe"], "intermediate_size": 20, "decoder_sparse_step": 2,
            "mlp_only_layers": [1], "qkv_bias": False,
        },
    ),
    "qwen3_moe with biases": ("qwen3_moe", {**QWEN_MOE, **BIASED, "head_dim": 10}),
    "minimax_m3 by another list": ("minimax_m3", {**M3, "moe_layer_freq": [1, 0, 1, 0]}),
    "gpt_oss without biases": ("gpt_oss", {**MOE, "attention_bias": False, "head_dim": 10}),
    "llama4 by a list": ("llama4_text", {**LLAMA4, **BIASED, "moe_layers": [0, 1, 3]}),
    "glm4_moe with norms": ("glm4_moe", {**GLM4_MOE, **BIASED, "use_qk_norm": True}),
}  # fmt: skip
"""Small configurations: a family, and its keys."""

BY_HAND = ("internlm2", "mimo", "nemotron-nas", "step3p7")
"""Families that transformers does not know, or reads by other keys."""
NAMES = {"minimax_m3": "minimax_m3_vl_text"}
"""Families that transformers calls otherwise."""
HEADLESS = ("qwen3_vl_text", "qwen3_vl_moe_text")
"""Families of which transformers builds the language part without an output head."""


def described(family: str, config: Config, *, tied: bool | None = None) -> LayeredModel:
    """The model of a configuration."""
    reader = parse_document(FAMILIES[family], config, where="config.json")
    stated = config.get("tie_word_embeddings", FAMILIES[family].tied)
    return reader.described(tied=bool(stated) if tied is None else tied)


def stored(model: LayeredModel) -> tuple[float, float]:
    """Bytes for each token, and of full rings, in 16 bits."""
    found = [(layer.repeat, layer.mixer.stored(2.0)) for layer in model.layers if layer.mixer]
    return (
        sum(repeat * one.per_token for repeat, one in found),
        sum(repeat * one.per_request for repeat, one in found),
    )


def windows(model: LayeredModel) -> list[int | None]:
    """The keys that a query sees at most, layer by layer."""
    return [
        layer.mixer.reach
        for layer in model.layers
        for _ in range(layer.repeat)
        if isinstance(layer.mixer, Attention)
    ]


def built(family: str, config: Config) -> int:
    """Parameters of the model that transformers builds, tied ones once."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    try:
        # Padding may not lie outside of a small vocabulary; a copy, since the library keeps lists.
        stated = transformers.AutoConfig.for_model(
            NAMES.get(family, family), **json.loads(json.dumps({**config, "pad_token_id": 0}))
        )
    except ValueError as error:  # an older release
        pytest.skip(str(error).splitlines()[0])
    auto = transformers.AutoModel if family in HEADLESS else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(stated)
    return sum(cast("int", one.numel()) for one in model.parameters())


def test_every_family_has_an_example() -> None:
    """Catches a family whose parameters no test counts."""
    assert set(SMALL) == set(FAMILIES)


@pytest.mark.parametrize(
    "name", [n for n, (family, _) in VARIANTS.items() if family not in BY_HAND]
)
def test_parameters_are_those_that_the_library_builds(name: str) -> None:
    """Catches a bias, a norm, a tie or a width that is left out or counted twice."""
    family, config = VARIANTS[name]
    model = described(family, config)
    head = 40 * 24 if family in HEADLESS and not model.tied_embeddings else 0
    assert model.parameters == built(family, config) + head


TABLES = 2 * 40 * 24
ATTENTION = 24 * (24 + 2 * 8) + 24 * 24
BLOCK = 3 * 24 * 20
STEP_ATTENTION = 24 * (60 + 2 * 20) + 60 * 24 + 24 * 6 + 2 * 10
STEP_EXPERTS = 5 * (3 * 24 * 14 + 24) + 3 * 24 * 18


@pytest.mark.parametrize(
    ("family", "parameters", "draft"),
    [
        ("internlm2", TABLES + 24 + 4 * (ATTENTION + BLOCK + 48), 0),
        ("mimo", TABLES + 24 + 4 * (ATTENTION + 40 + BLOCK + 48), 0),
        # Widths 24 and 320, each rounded up to a multiple of 256; a linear pair; nothing.
        (
            "nemotron-nas",
            TABLES + 24 + ATTENTION + 3 * 24 * 256 + 48 + 3 * 24 * 512 + 24 + 2 * 24 * 24 + 48,
            0,
        ),
        (
            "step3p7",
            TABLES + 24 + 4 * (STEP_ATTENTION + 48) + BLOCK + 3 * STEP_EXPERTS,
            2 * (2 * 24 * 24 + STEP_ATTENTION + BLOCK + 5 * 24 + 40 * 24),
        ),
    ],
)
def test_families_that_the_library_does_not_know(family: str, parameters: int, draft: int) -> None:
    """Catches a bias, a norm or a rounding of a family that only its own code builds."""
    model = described(family, SMALL[family])
    assert (model.parameters, model.draft_parameters) == (parameters, draft)


def test_biases_of_internlm2() -> None:
    """Catches a switch that is ignored."""
    more = described("internlm2", {**GATED, "bias": True}).parameters
    assert more - described("internlm2", {**GATED, "bias": False}).parameters == 4 * (40 + 24)


class Published(NamedTuple):
    """What the page says of a file.

    Attributes:
        parameters: of the language part.
        active: that a token meets.
        per_token: bytes stored for each token.
        per_request: bytes of full rings.
        draft: parameters of one module for drafting.
    """

    parameters: int
    active: int
    per_token: int
    per_request: int = 0
    draft: int = 0


QWEN_32 = Published(32_762_123_264, 32_762_123_264, 262_144)
QWEN_30 = Published(30_532_122_624, 3_353_032_704, 98_304)
QWEN_235 = Published(235_093_634_560, 22_190_763_520, 192_512)
MINIMAX_M2 = Published(228_689_748_992, 11_030_537_216, 253_952)
MINIMAX_M3 = Published(426_174_565_632, 25_962_466_560, 122_880 + 14_592)
PUBLISHED: Mapping[str, Published] = {
    "MiniMaxAI--MiniMax-M2.5": MINIMAX_M2,
    "MiniMaxAI--MiniMax-M3": MINIMAX_M3,
    "Qwen--Qwen3-0.6B": Published(596_049_920, 596_049_920, 114_688),
    "Qwen--Qwen3-235B-A22B-FP8": QWEN_235,
    "Qwen--Qwen3-30B-A3B": QWEN_30,
    "Qwen--Qwen3-30B-A3B-FP8": QWEN_30,
    "Qwen--Qwen3-32B-FP8": QWEN_32,
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": QWEN_32,
    "Qwen--Qwen3-8B": Published(8_190_735_360, 8_190_735_360, 147_456),
    "Qwen--Qwen3-VL-235B-A22B-Instruct": QWEN_235,
    "Qwen--Qwen3-VL-2B-Instruct": Published(1_720_574_976, 1_720_574_976, 114_688),
    "Qwen--Qwen3-VL-32B-Thinking": QWEN_32,
    "Qwen--Qwen3-VL-4B-Instruct": Published(4_022_468_096, 4_022_468_096, 147_456),
    "XiaomiMiMo--MiMo-7B-Base": Published(
        7_622_619_136, 7_622_619_136, 147_456, draft=210_790_400
    ),
    "XiaomiMiMo--MiMo-V2-Flash": Published(
        308_778_768_832, 15_445_924_288, 23_040, 25_559_040, 329_273_408
    ),
    "google--gemma-4-26B-A4B": Published(25_233_141_760, 3_822_530_560, 20_480, 209_715_200),
    "meta-llama--Llama-4-Maverick-17B-128E-Instruct": Published(
        400_711_848_960, 17_184_691_200, 49_152, 1_207_959_552
    ),
    "meta-llama--Meta-Llama-3.1-405B": Published(405_853_388_800, 405_853_388_800, 516_096),
    "meta-llama--Meta-Llama-3.1-8B": Published(8_030_261_248, 8_030_261_248, 131_072),
    "mistralai--Mixtral-8x22B-v0.1": Published(140_620_634_112, 39_152_031_744, 229_376),
    "nvidia--Gemma-4-31B-IT-NVFP4": Published(
        30_697_345_280, 30_697_345_280, 81_920, 838_860_800
    ),
    "nvidia--Llama-3.1-70B-Instruct-FP8": Published(70_553_706_496, 70_553_706_496, 327_680),
    "nvidia--Llama-3_3-Nemotron-Super-49B-v1": Published(
        49_867_145_216, 49_867_145_216, 200_704
    ),
    "nvidia--MiniMax-M2.5-NVFP4": MINIMAX_M2,
    "nvidia--MiniMax-M2.7-NVFP4": MINIMAX_M2,
    "nvidia--MiniMax-M3-NVFP4": MINIMAX_M3,
    "nvidia--Qwen3-235B-A22B-NVFP4": QWEN_235,
    "openai--gpt-oss-120b": Published(116_829_156_672, 5_711_982_912, 36_864, 4_718_592),
    "stepfun-ai--Step-3.7-Flash-FP8": Published(
        195_844_496_640, 10_875_690_240, 49_152, 69_206_016,
        # The page's 281,432,320 have 96 heads: 32 heads less, and its own output head.
        281_432_320 - 32 * (2 * 4096 * 128 + 4096) + 527_958_016,
    ),
}  # fmt: skip


def language(document: Config) -> tuple[str, Config, bool]:
    """The family of a file, the keys of its language part, and whether its head is its table."""
    family, text = str(document["model_type"]), document
    wrapper = WRAPPERS.get(family)
    default = None
    if wrapper is not None:
        text = cast("Config", document["text_config"])
        family, default = str(text.get("model_type", wrapper.families[0])), wrapper.tied
    tied = document.get("tie_word_embeddings", text.get("tie_word_embeddings", default))
    return family, text, bool(FAMILIES[family].tied if tied is None else tied)


def published(reference: Path, name: str) -> tuple[str, Config, bool]:
    """The language part of a published file."""
    path = reference / "data" / "model_configs" / f"{name}_config.json"
    return language(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_counted_right(reference: Path, name: str) -> None:
    """Catches a published model of other parameters, or a cache of another size."""
    family, text, tied = published(reference, name)
    model = described(family, text, tied=tied)
    modules = 1 if model.draft is None else model.draft.modules
    found = (
        model.parameters, model.active_parameters, *stored(model),
        model.draft_parameters // modules,
    )  # fmt: skip
    assert found == PUBLISHED[name]


def test_all_published_files_of_the_families_are_counted(reference: Path) -> None:
    """Catches a file of these families that the table leaves out."""
    folder = reference / "data" / "model_configs"
    found: set[str] = set()
    for path in folder.glob("*_config.json"):
        if path.name.endswith("_hf_quant_config.json"):
            continue
        document = cast("Config", json.loads(path.read_text(encoding="utf-8")))
        if document.get("model_type") in {*FAMILIES, *WRAPPERS}:
            found.add(path.name.removesuffix("_config.json"))
    assert found == set(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stepfun-ai--Step-3.7-Flash-FP8", "have 96 in layers with a window"),
        ("XiaomiMiMo--MiMo-V2-Flash", "the transformers library has 129"),
        ("XiaomiMiMo--MiMo-V2-Flash", "does not mention the 3 layers for drafting"),
        ("MiniMaxAI--MiniMax-M2.5", "the published weights have no such layers"),
        ("MiniMaxAI--MiniMax-M3", "the published weights have no such layers"),
        ("google--gemma-4-26B-A4B", "both are counted as stored"),
    ],
)
def test_what_a_file_does_not_tell_is_said(reference: Path, name: str, words: str) -> None:
    """Catches a reader of the description who is not told where the file misleads."""
    family, text, tied = published(reference, name)
    assert words in " ".join(described(family, text, tied=tied).notes)


def test_heads_of_step_as_in_the_weights(reference: Path) -> None:
    """Catches heads of layers with a window that are stated and not read.

    With the 96 heads of the published weights the numbers are those of the page.
    """
    family, text, tied = published(reference, "stepfun-ai--Step-3.7-Flash-FP8")
    setting = {
        "attention_type": "sliding_attention", "num_attention_heads": 96,
        "num_attention_groups": 8, "head_dim": 128, "true_head_dim": 128,
    }  # fmt: skip
    types = [*cast("list[str]", text["layer_types"]), *["sliding_attention"] * 3]
    whole = {**text, "attention_other_setting": setting, "layer_types": types}
    model = described(family, whole, tied=tied)
    assert model.parameters == 196_956_118_272
    assert model.active_parameters == 11_987_311_872
    assert model.draft_parameters == 3 * (281_432_320 + 527_958_016)
    assert model.notes == ()


LOCAL, GLOBAL = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [
        ("mistral", GATED, [4096] * 4),
        ("mistral", {**GATED, "sliding_window": None}, [None] * 4),
        ("mixtral", MOE, [None] * 4),
        ("mixtral", {**MOE, "sliding_window": 8}, [8] * 4),
        ("phi3", {**GATED, "sliding_window": 2047}, [2047] * 4),
        ("starcoder2", {**GATED, "sliding_window": 8}, [8] * 4),
        ("qwen2", {**GATED, "sliding_window": 8}, [None] * 4),
        (
            "qwen2",
            {**GATED, "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3},
            [None, None, None, 8],
        ),
        (
            "qwen3",
            {
                **GEMMA, "sliding_window": 8, "use_sliding_window": True,
                "layer_types": [LOCAL, GLOBAL, GLOBAL, LOCAL],
            },
            [8, None, None, 8],
        ),
        ("qwen3_moe", {**QWEN_MOE, "sliding_window": 8}, [None] * 4),
        ("qwen3_moe", {**QWEN_MOE, "sliding_window": 8, "use_sliding_window": True}, [8] * 4),
        ("gemma2", GEMMA, [4096, None, 4096, None]),
        ("gemma3_text", {**GEMMA, "sliding_window": 512}, [512] * 4),
        (
            "gemma3_text",
            {**GEMMA, "sliding_window": 512, "sliding_window_pattern": 2},
            [512, None, 512, None],
        ),
        (
            "gemma4_text",
            {k: v for k, v in GEMMA4.items() if k not in ("layer_types", "sliding_window")},
            [512, 512, 512, None],
        ),
        ("cohere2", GATED, [4096, 4096, 4096, None]),
        ("exaone4", GATED, [4096, 4096, 4096, None]),
        ("exaone4", {**GATED, "sliding_window": None}, [None] * 4),
        ("exaone4", {**GATED, "sliding_window_pattern": "LG"}, [4096, None, 4096, None]),
        ("smollm3", {**GATED, "sliding_window": 8}, [None] * 4),
        (
            "smollm3", {**GATED, "sliding_window": 8, "use_sliding_window": True},
            [None, None, None, 8],
        ),
        ("gpt_oss", MOE, [128, None, 128, None]),
        ("llama4_text", LLAMA4, [8192, 8192, 8192, None]),
        ("llama4_text", {**LLAMA4, "no_rope_layers": []}, [8192, 8192, 8192, None]),
        (
            "llama4_text",
            {**LLAMA4, "no_rope_layers": [0, 1, 1, 1], "attention_chunk_size": 16},
            [None, 16, 16, 16],
        ),
        ("llama4_text", {**LLAMA4, "attention_chunk_size": None}, [None] * 4),
        ("mimo_v2_flash", MIMO_V2, [None, 8, 8, 8]),
    ],
)  # fmt: skip
def test_what_each_layer_sees(family: str, config: Config, expected: list[int | None]) -> None:
    """Catches a window in the wrong layers, one that is not in use, or another default."""
    assert windows(described(family, config)) == expected


@pytest.mark.parametrize(
    ("family", "config", "heads"),
    [
        ("falcon", {**FALCON, "num_kv_heads": 6}, 1),
        ("falcon", {**FALCON, "multi_query": False}, 6),
        ("falcon", {**FALCON, "new_decoder_architecture": True, "n_head_kv": 3}, 3),
        ("mpt", MPT, 6),
        ("mpt", {**MPT, "attn_config": {"attn_type": "multiquery_attention"}}, 1),
        (
            "mpt",
            {**MPT, "attn_config": {"attn_type": "grouped_query_attention", "kv_n_heads": 2}},
            2,
        ),
        ("glm4", {k: v for k, v in GEMMA.items() if k != "num_key_value_heads"}, 2),
        ("mistral", {**GATED, "num_key_value_heads": None}, 6),
        ("gpt_oss", {**MOE, "num_key_value_heads": None}, 6),
    ],
)
def test_key_value_heads(family: str, config: Config, heads: int) -> None:
    """Catches a cache several times too large or too small: heads that are dead, or a default."""
    mixer = described(family, config).layers[0].mixer
    assert isinstance(mixer, Attention)
    assert mixer.kv_heads == heads


def test_layers_that_borrow_store_nothing() -> None:
    """Catches keys and values counted in layers that read those of an earlier one."""
    more = {"num_hidden_layers": 6, "layer_types": [LOCAL, GLOBAL] * 3}
    whole = described("gemma4_text", {**GEMMA4, **more})
    shared = described("gemma4_text", {**GEMMA4, **more, "num_kv_shared_layers": 2})
    assert stored(shared) == tuple(part * 2 / 3 for part in stored(whole))


def test_experts_of_gemma4_stand_beside_the_block() -> None:
    """Catches a block that is left out, or that is counted as an expert."""
    parts = described("gemma4_text", GEMMA4_MOE).by_part()
    assert parts[Part.FEED_FORWARD] == 4 * BLOCK
    assert parts[Part.EXPERTS] == 4 * 5 * 3 * 24 * 14


def test_draft_of_glm4_moe_is_a_layer_with_experts() -> None:
    """Catches draft layers that are left out, counted into the model, or dense."""
    plain = described("glm4_moe", GLM4_MOE)
    drafting = described("glm4_moe", {**GLM4_MOE, "num_nextn_predict_layers": 2})
    layer = drafting.of_layer(drafting.layers[-1])
    numbers = sum(weight.numbers for weight in layer)
    assert plain.draft is None
    assert drafting.parameters == plain.parameters
    assert drafting.draft_parameters == 2 * (2 * 24 * 24 + numbers + 3 * 24)


SPARSE = cast("Config", M3["sparse_attention_config"])
BLOCK_LIST = cast("list[Config]", BLOCKS["block_configs"])
BAD: list[tuple[str, Config, str]] = [
    ("gpt2", {**GPT, "n_head": 7}, "n_head = 7 does not divide n_embd = 24: .* are 6, 8"),
    ("gpt2", {**GPT, "add_cross_attention": True}, "add_cross_attention: True"),
    ("gptj", {**GPT, "n_head": 7}, "n_head = 7 does not divide n_embd = 24"),
    ("opt", {**SMALL["opt"], "num_attention_heads": 7}, "num_attention_heads = 7 does not divide"),
    ("opt", {**SMALL["opt"], "activation_function": "tanh"}, "activation_function: 'tanh'"),
    ("opt", {**SMALL["opt"], "layer_norm_elementwise_affine": False}, "elementwise_affine: False"),
    ("gpt_neox", {**GATED, "num_attention_heads": 7}, "num_attention_heads = 7 does not divide"),
    ("bloom", {**BLOOM, "n_inner": 20}, "n_inner = 20 is not four times the hidden size 24"),
    ("bloom", {**BLOOM, "n_embed": 48}, "hidden_size = 24 and n_embed = 48 disagree"),
    ("bloom", {**BLOOM, "n_layer": None}, "missing key 'num_hidden_layers': add it, or n_layer"),
    ("bloom", {**BLOOM, "n_head": 7}, "num_attention_heads = 7 does not divide hidden_size = 24"),
    ("falcon", {**FALCON, "multi_query": False, "num_kv_heads": 2}, "num_kv_heads = 2, while"),
    (
        "falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 4},
        "num_kv_heads = 4 does not divide num_attention_heads = 6",
    ),
    ("mpt", {**MPT, "n_heads": 7}, "n_heads = 7 does not divide d_model = 24"),
    ("mpt", {**MPT, "attn_config": {"alibi": False}}, "attn_config.alibi: False"),
    ("mpt", {**MPT, "attn_config": {"qk_ln": True}}, "attn_config.qk_ln: True"),
    ("mpt", {**MPT, "attn_config": {"kv_n_heads": 2}}, "attn_config.kv_n_heads = 2 is not that of"),
    ("mpt", {**MPT, "no_bias": False}, "no_bias: False"),
    ("mpt", {**MPT, "ffn_config": {"ffn_type": "mptglu"}}, "ffn_config.ffn_type: 'mptglu'"),
    ("starcoder2", {**GATED, "mlp_type": "gated"}, "mlp_type: 'gated'"),
    (
        "llama", {**GATED, "num_key_value_heads": 4},
        "num_key_value_heads = 4 does not divide num_attention_heads = 6: .* are 3, 2",
    ),
    (
        "llama", {**GATED, "num_attention_heads": 7},
        "num_attention_heads = 7 does not divide hidden_size = 24: .* are 6, 8",
    ),
    ("llama", {**GATED, "hidden_act": "gelu"}, "hidden_act: 'gelu' is unknown"),
    ("llama", {**GATED, "hidden_size": 10**40}, "hidden_size: .*is out of range .*16777216"),
    ("llama", {**GATED, "num_hidden_layers": MAX_LAYERS + 1}, "num_hidden_layers: .*out of range"),
    ("llama", {**GATED, "layer_types": [LOCAL, GLOBAL] * 2}, "layer_types names .*remove the key"),
    ("llama", {**GATED, "layer_types": [GLOBAL] * 3}, "layer_types has 3 entries, .* 4 layers"),
    ("llama", {**GATED, "layer_types": ["linear_attention"] * 4}, "layer_types.*'linear_at"),
    ("llama", {**GATED, "layer_types": ["chunked_attention"] * 4}, "layer_types names chunked"),
    ("mistral", {**GATED, "layer_types": [GLOBAL] * 4}, "layer_types names full_attention, while"),
    ("mistral", {**GATED, "layer_types": [LOCAL, GLOBAL] * 2}, "layer_types names .* is 4096"),
    (
        "mistral", {k: v for k, v in GATED.items() if k != "num_key_value_heads"},
        "missing key 'num_key_value_heads'",
    ),
    ("phi3", {**GATED, "attention_bias": True}, "attention_bias: True"),
    ("internlm2", GATED, "missing key 'bias'"),
    ("qwen2", {**GATED, "layer_types": [LOCAL] * 4}, "by the other keys of the family 'qwen2'"),
    ("qwen2", {**GATED, "use_sliding_window": True}, "missing key 'max_window_layers'"),
    ("qwen3", GATED, "missing key 'head_dim', or null: Qwen3 states it"),
    ("qwen3", {**GEMMA, "head_dim": None}, "missing key 'head_dim', or null"),
    (
        "qwen3_vl_text", {**GEMMA, "use_sliding_window": True, "max_window_layers": 2},
        "use_sliding_window = true: Qwen3-VL has no windows",
    ),
    ("gemma", {**GEMMA, "use_bidirectional_attention": True}, "use_bidirectional_attention: True"),
    ("gemma2", {**GEMMA, "sliding_window_size": 8}, "sliding_window_size = 8 and sliding_window"),
    ("gemma2", {**GEMMA, "sliding_window": None, "layer_types": [LOCAL] * 4}, "is null: give"),
    (
        "gemma3_text", {**GEMMA, "sliding_window_pattern": 2, "layer_types": [LOCAL] * 4},
        "layer_types has 'sliding_attention' for layer 1, where sliding_window_pattern means",
    ),
    ("exaone4", {**GATED, "sliding_window_pattern": "LLX"}, "sliding_window_pattern = 'LLX'"),
    ("cohere2", {**GATED, "layer_types": [GLOBAL] * 3}, "layer_types has 3 entries"),
    ("gemma4_text", {**GEMMA4, "layer_types": [LOCAL] * 4}, "layer_types has .* for layer 0"),
    ("gemma4_text", {**GEMMA4, "enable_moe_block": True}, "num_experts is missing, and enable_moe"),
    (
        "gemma4_text", {**GEMMA4_MOE, "top_k_experts": 6},
        "top_k_experts = 6 is more than num_experts = 5: use 1 to 5",
    ),
    (
        "gemma4_text", {**GEMMA4_MOE, "num_global_key_value_heads": 4},
        "num_global_key_value_heads = 4 does not divide num_attention_heads = 6",
    ),
    ("gemma4_text", {**GEMMA4, "num_kv_shared_layers": 1}, "num_kv_shared_layers = 1 leaves"),
    ("gemma4_text", {**GEMMA4, "num_kv_shared_layers": 4}, "num_kv_shared_layers = 4 leaves"),
    ("gemma4_text", {**GEMMA4, "intermediate_size": 2**24}, "intermediate_size = .*out of range"),
    ("gemma4_text", {**GEMMA4, "use_bidirectional_attention": "all"}, "attention: 'all'"),
    ("smollm3", {**GATED, "use_sliding_window": True, "sliding_window": 8,
                 "no_rope_layers": [1]}, "no_rope_layers has 1 entries"),
    ("mimo", {**GATED, "attention_bias": False}, "attention_bias: False"),
    ("nemotron", {**GATED, "hidden_act": "silu"}, "hidden_act: 'silu' is unknown"),
    ("nemotron-nas", {**BLOCKS, "num_hidden_layers": 5}, "block_configs has 4 entries"),
    ("nemotron-nas", {**BLOCKS, "intermediate_size": 20}, "intermediate_size: .* not 20"),
    (
        "nemotron-nas",
        {**BLOCKS, "block_configs": [
            {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}}, *BLOCK_LIST[1:],
        ]},
        "block 0: n_heads_in_group = 4 does not divide num_attention_heads = 6",
    ),
    (
        "nemotron-nas",
        {**BLOCKS, "block_configs": [
            {"attention": {"n_heads_in_group": 3, "window_length": 8}, "ffn": {"no_op": True}},
            *BLOCK_LIST[1:],
        ]},
        "block_configs.0.attention.window_length: .* not 8",
    ),
    (
        "nemotron-nas",
        {**BLOCKS, "block_configs": [
            {"attention": {"no_op": True}, "ffn": {"no_op": False}}, *BLOCK_LIST[1:],
        ]},
        "block 0 has no ffn_mult",
    ),
    (
        "nemotron-nas",
        {**BLOCKS, "block_configs": [
            {"attention": {"no_op": True, "mamba": {}}, "ffn": {"no_op": True}}, *BLOCK_LIST[1:],
        ]},
        "unknown key 'mamba'",
    ),
    (
        "mixtral", {**MOE, "num_experts_per_tok": 9},
        "num_experts_per_tok = 9 is more than num_local_experts = 5",
    ),
    ("qwen2_moe", {**SMALL["qwen2_moe"], "use_sliding_window": True}, "use_sliding_window: True"),
    ("qwen2_moe", QWEN_MOE, "missing key 'shared_expert_intermediate_size'"),
    ("qwen3_moe", {**QWEN_MOE, "mlp_only_layers": [4]}, "mlp_only_layers names layer 4"),
    ("qwen3_moe", {**QWEN_MOE, "mlp_only_layers": [1]}, "intermediate_size is missing, and some"),
    ("qwen3_moe", {**QWEN_MOE, "num_experts_per_tok": 6}, "6 is more than num_experts = 5"),
    ("mimo_v2_flash", {**MIMO_V2, "hybrid_layer_pattern": [0, 1]}, "hybrid_layer_pattern has 2"),
    ("mimo_v2_flash", {**MIMO_V2, "moe_layer_freq": [0, 1]}, "moe_layer_freq has 2 entries"),
    ("mimo_v2_flash", {**MIMO_V2, "n_shared_experts": 1}, "n_shared_experts: 1"),
    (
        "mimo_v2_flash", {**MIMO_V2, "sliding_window_size": 9},
        "sliding_window_size = 9 and sliding_window = 8 disagree",
    ),
    (
        "mimo_v2_flash", {**MIMO_V2, "swa_num_key_value_heads": 3},
        "swa_num_key_value_heads = 3 does not divide swa_num_attention_heads = 8",
    ),
    ("minimax_m2", MOE, "missing key 'head_dim', or null"),
    (
        "minimax_m2", {**MOE, "head_dim": 10, "attn_type_list": [1, 1, 0, 1]},
        "attn_type_list has 0 for layer 2",
    ),
    (
        "minimax_m2", {**MOE, "head_dim": 10, "shared_intermediate_size": 8},
        "shared_intermediate_size: 8",
    ),
    ("minimax_m3", {**M3, "moe_intermediate_size": 8}, "moe_intermediate_size = 8 and"),
    ("minimax_m3", {**M3, "first_k_dense_replace": 2}, "moe_layer_freq has 1 for layer 1, where"),
    ("minimax_m3", {**M3, "attention_output_gate": True}, "attention_output_gate: True"),
    (
        "minimax_m3", {**M3, "sparse_attention_config": {**SPARSE, "sparse_num_index_heads": 3}},
        "sparse_num_index_heads = 3 is not num_key_value_heads = 2",
    ),
    (
        "minimax_m3",
        {**M3, "sparse_attention_config": {**SPARSE, "sparse_disable_index_value": [0] * 4}},
        "sparse_disable_index_value has 0 for layer 2",
    ),
    (
        "minimax_m3", {**M3, "sparse_attention_config": {**SPARSE, "sparse_heads_of_tomorrow": 1}},
        "unknown key 'sparse_heads_of_tomorrow'",
    ),
    ("gpt_oss", {**MOE, "experts_per_token": 3}, "experts_per_token = 3 and num_experts_per_tok"),
    ("gpt_oss", {**MOE, "layer_types": [LOCAL]}, "layer_types has 1 entries"),
    ("llama4_text", {**LLAMA4, "intermediate_size_mlp": None}, "intermediate_size_mlp is missing"),
    ("llama4_text", {**LLAMA4, "moe_layers": [7]}, "moe_layers names layer 7"),
    ("llama4_text", {**LLAMA4, "no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries"),
    (
        "llama4_text", {**LLAMA4, "layer_types": [GLOBAL] * 4},
        "layer_types has 'full_attention' for layer 0, where no_rope_layers means",
    ),
    ("glm4_moe", {**GLM4_MOE, "first_k_dense_replace": 5}, "first_k_dense_replace = 5 is more"),
    ("glm4_moe", {**GLM4_MOE, "num_experts_per_tok": 6}, "is more than n_routed_experts = 5"),
    ("step3p7", {**STEP, "layer_types": [GLOBAL] * 7}, "layer_types has 7 entries"),
    ("step3p7", {k: v for k, v in STEP.items() if k != "layer_types"}, "layer_types is missing"),
    (
        "step3p7", {**STEP, "attention_other_setting": {"num_attention_heads": 7}},
        "attention_other_setting.num_attention_groups = 2 does not divide",
    ),
    ("step3p7", {**STEP, "n_shared_experts": 2}, "n_shared_experts: 2"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "config", "message"), BAD)
def test_contradictions_are_refused(family: str, config: Config, message: str) -> None:
    """Catches a contradiction that passes, or whose message names neither key nor value."""
    with pytest.raises(DocumentError) as error:
        described(family, config)
    assert re.search(message, str(error.value)), str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_key_is_used_and_harmless(family: str) -> None:
    """Catches a key that is listed as one that changes nothing, while it is read."""
    reader = FAMILIES[family]
    assert not reader.harmless & set(keys_of(reader))


OPTIONAL: Mapping[str, frozenset[str]] = {
    "gemma3_text": frozenset({"num_attention_heads", "vocab_size"}),
}
"""Sizes that the library fills in, and that published files leave out."""


@pytest.mark.parametrize("family", FAMILIES)
def test_no_size_is_filled_in(family: str) -> None:
    """Catches a size of one model that is taken for that of another, where the key is missing."""
    sizes = {
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "n_embd", "n_layer", "n_head", "d_model", "n_heads", "n_layers",
        "ffn_dim", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
        "moe_intermediate_size",
    }  # fmt: skip
    config = SMALL[family]
    for key in (sizes & set(config)) - OPTIONAL.get(family, frozenset()):
        with pytest.raises(DocumentError, match=key):
            described(family, {k: v for k, v in config.items() if k != key})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.sampled_from([2**24, 2**24 - 1, 2**23, 2**22, 10**20, 1.5, "silu", LOCAL, "LG", {}]),
    st.lists(st.integers(0, 4), max_size=5),
    st.lists(st.sampled_from([LOCAL, GLOBAL]), min_size=4, max_size=4),
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, Config]:
    """A configuration of some family with values replaced or left out."""
    family, config = VARIANTS[draw(st.sampled_from(sorted(VARIANTS)))]
    changed = dict(config)
    keys = st.sampled_from(sorted({*config, *keys_of(FAMILIES[family])} - {"num_hidden_layers"}))
    for key in draw(st.lists(keys, min_size=1, max_size=3)):
        if draw(st.booleans()):
            changed.pop(key, None)
        else:
            changed[key] = draw(VALUES)
    return family, changed


@pytest.mark.untraced  # of many files alike
@settings(max_examples=share.examples(__name__, 400, 120))
@given(damaged())
def test_damaged_configurations_are_read_or_refused(case: tuple[str, Config]) -> None:
    """Catches a document that leads to a traceback, or to a model that cannot be."""
    family, config = case
    try:
        model = described(family, config, tied=False)
    except DocumentError:
        return
    assert 0 < model.active_parameters <= model.parameters
    assert min(stored(model)) >= 0
