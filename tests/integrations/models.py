"""Small models, made here with random weights, and devices for them."""

import copy
from pathlib import Path
from typing import Any

import pytest

NEEDS = 'needs torch and transformers: pip install "attacc[torch]"'
torch: Any = pytest.importorskip("torch", reason=NEEDS)
transformers: Any = pytest.importorskip("transformers", reason=NEEDS)

from attacc.hardware.dram import DRAMS
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.pim.host.device import HostDevice
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format

VOCABULARY = 120
LAYERS = 3
SPREAD = 0.15
"""Standard deviation of weights: attention is far from even, as in a trained model."""
WIDE = Arithmetic(multiplier=Format.FP32, adder=Format.FP32, accumulator=Format.FP32)

GROUPED = {
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "initializer_range": SPREAD,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALTERNATING = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
"""Windows that a prompt of 11 tokens exceeds, and that 7 more tokens go around."""
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
EXPANDED = {
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64, "q_lora_rank": 32,
    "kv_lora_rank": 32, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
"""Latent attention, whose keys of 192 and values of 128 elements are expanded from latents."""
ROTATION = {"rope_type": "default", "rope_theta": 10000.0}
SINKS = {"num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": ROTATION}
GLOBAL = {
    "global_head_dim": 32, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
}  # fmt: skip
"""Layers without a window have one head of keys of twice the size, for eight queries."""
SIZES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": ALTERNATING | {"use_sliding_window": True},
    "Qwen2Moe": ALTERNATING | EXPERTS | {
        "use_sliding_window": True, "shared_expert_intermediate_size": 32,
    },
    "Qwen3": {},
    "Qwen3Moe": EXPERTS,
    "Mistral": {"sliding_window": 5},
    "Mixtral": {"sliding_window": 5, "num_local_experts": 2},
    "Phimoe": {"sliding_window": 5, "num_local_experts": 2},
    "Ministral": {"sliding_window": 5},
    "Gemma": {},
    "Gemma2": ALTERNATING | {"attn_logit_softcapping": None},
    "Gemma3Text": ALTERNATING,
    "Gemma4Text": ALTERNATING | GLOBAL,
    "GptOss": ALTERNATING | SINKS,
    "Phi": {},
    "Phi3": {"sliding_window": 5},
    "Olmo2": {},
    "Olmo3": ALTERNATING,
    "Granite": {},
    "Cohere": {},
    "Cohere2": ALTERNATING,
    "Starcoder2": {"sliding_window": 5},
    "StableLm": {"head_dim": 8},
    "GPTNeoX": {},
    "GPTBigCode": {},
    "Glm4": {},
    "Glm4Moe": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "SmolLM3": {},
    "Nemotron": {},
    "SeedOss": {},
    "Exaone4": ALTERNATING,
    "Ernie4_5": {},
    "DeepseekV3": EXPANDED,
    "DeepseekV2": EXPANDED | {"qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 24},
    "MiniCPM3": EXPANDED | {"qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 24},
    "GPT2": {
        "n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 64,
        "vocab_size": VOCABULARY, "initializer_range": SPREAD, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "OPT": {
        "hidden_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "ffn_dim": 96,
        "word_embed_proj_dim": 64, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
        "init_std": SPREAD, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
    "Falcon": {
        "hidden_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "vocab_size": VOCABULARY, "initializer_range": SPREAD, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip
"""Of each family, what differs from `GROUPED`, or all there is to say."""
_STATES = {"mamba_d_state": 16, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}  # fmt: skip
HYBRIDS: dict[str, dict[str, Any]] = {
    "Qwen3Next": EXPERTS | _LINEAR,
    "Qwen3_5Text": _LINEAR,
    "OlmoHybrid": _LINEAR,
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "Bamba": _STATES | {"attn_layer_indices": [1]},
    "GraniteMoeHybrid": _STATES | {
        "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2,
        "num_experts_per_tok": 1, "shared_intermediate_size": 32,
    },
    "Jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 16, "mamba_dt_rank": 8,
        "num_experts": 2, "num_experts_per_tok": 1, "expert_layer_period": 5,
        "expert_layer_offset": 4, "use_mamba_kernels": False,
    },
    "NemotronH": {
        "layers_block_type": ["mamba", "attention", "moe"], "mamba_num_heads": 4,
        "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 1, "n_routed_experts": 2,
        "num_experts_per_tok": 1, "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 32,
    },
}  # fmt: skip
"""Families in which only the second of three layers attends."""
COMPLETE = ("GPT2", "OPT", "Falcon")
OUTSIDE = ("Falcon",)
"""Families whose attention does not go through transformers' interface."""


def config_of(family: str, **others: Any) -> Any:
    """Return the configuration of a small model of a family."""
    own = (SIZES | HYBRIDS).get(family, {})
    sizes = own if family in COMPLETE else GROUPED | own
    # Some configurations change the lists that they are given.
    return getattr(transformers, f"{family}Config")(**copy.deepcopy(sizes | others))


def model_of(family: str = "Llama", attention: str = "eager", **others: Any) -> Any:
    """Return a small model, the same one every time, ready to be called."""
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(
        config_of(family, **others), attn_implementation=attention
    ).eval()


def tokens_of(rows: int, length: int, seed: int = 0) -> Any:
    """Return tokens of some rows, none of them special."""
    return torch.randint(
        3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed)
    )


def device_of(arithmetic: Arithmetic | None = WIDE, **others: Any) -> HostDevice:
    """Return a device; products and sums in fp32 unless told otherwise."""
    return HostDevice.of(
        DRAMS.load("hbm3-5.2"),
        Placement.BANK,
        link=LINKS.load("nvlink3"),
        arithmetic=arithmetic,
        **others,
    )


def save_with_tokenizer(model: Any, folder: Path) -> Path:
    """Save a model, and a tokenizer of whole words w3, w4, ..., as transformers does."""
    tokenizers = pytest.importorskip("tokenizers", reason=NEEDS)
    words = {f"w{number}": number for number in range(3, VOCABULARY)}
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | words
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))  # noqa: S106 - no secret, nor below
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
