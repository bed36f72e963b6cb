"""Small models, made here with random weights, and devices for them."""

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
SIZES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": None},
    "Gemma": {},
    "Phi3": {"sliding_window": None},
    "Mixtral": {"sliding_window": None, "num_local_experts": 2},
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
}  # fmt: skip
"""Of each family, what differs from `GROUPED`, or all there is to say."""
COMPLETE = ("GPT2", "OPT")


def config_of(family: str, **others: Any) -> Any:
    """Return the configuration of a small model of a family."""
    sizes = SIZES.get(family, {}) if family in COMPLETE else GROUPED | SIZES.get(family, {})
    return getattr(transformers, f"{family}Config")(**sizes | others)


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
