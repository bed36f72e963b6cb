"""Formats of weights, and what checkpoints state of them."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from attacc.documents import read_document
from attacc.errors import DocumentError, UnknownNameError
from attacc.models.feedforward import Dense, Mixture
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Attention, Decay, DeltaNet
from attacc.models.readers.registry import language_part, read_layers
from attacc.models.storage.formats import (
    BF16,
    FORMATS,
    FP8,
    FP8_BLOCK,
    FP8_CHANNEL,
    FP16,
    FP32,
    INT8,
    LLM_INT8,
    MXFP4,
    MXFP8,
    NF4,
    NF4_DOUBLE,
    NVFP4,
    ElementFormat,
    Rule,
    Spread,
    WeightFormats,
    awq,
    fp8_block,
    gptq,
    int_groups,
    mlx,
    named_format,
    part_bytes,
    weight_bytes,
)
from attacc.models.storage.stated import stated_formats
from attacc.models.weights import Part, linear

Config = dict[str, object]
UE8M0_BLOCK = fp8_block(scale_bits=8)

# --- Bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "outputs", "inputs", "size"),
    [
        (FP32, 3, 5, 60),
        (FP16, 3, 5, 30),
        (BF16, 3, 5, 30),
        (FP8, 300, 200, 60_000 + 4),
        (FP8_CHANNEL, 300, 200, 60_000 + 4 * 300),
        (FP8_BLOCK, 256, 256, 65_536 + 4 * 4),
        # 3 tiles by 2 tiles: the last row and column of tiles are cut.
        (FP8_BLOCK, 300, 200, 60_000 + 4 * 6),
        (UE8M0_BLOCK, 300, 200, 60_000 + 6),
        (INT8, 300, 200, 60_000 + 4),
        (LLM_INT8, 300, 200, 60_000 + 4 * 300),
        (int_groups(8, None), 300, 200, 60_000 + 2 * 300),
        (int_groups(4, 32), 10, 64, 320 + 2 * 20),
        # 50 inputs: 200 bits are filled up to 7 words of 32; two groups in each of 10 rows.
        (int_groups(4, 32), 10, 50, 10 * 28 + 2 * 20),
        # Two groups; the zero points of 10 outputs are 40 bits, two words.
        (int_groups(4, 128, symmetric=False), 10, 256, 1280 + 2 * 20 + 2 * 8),
        (int_groups(4, 128, order=True), 10, 256, 1280 + 2 * 20 + 4 * 256),
        (gptq(4, 128), 16, 256, 2048 + 2 * 32 + 2 * 8 + 4 * 256),
        (gptq(4, None), 16, 256, 2048 + 2 * 16 + 8 + 4 * 256),
        (gptq(3, 128), 32, 128, 32 * 48 + 2 * 32 + 12 + 4 * 128),
        (awq(4, 128), 16, 256, 2048 + 2 * 32 + 2 * 8),
        (awq(4, 128, zeros=False), 16, 256, 2048 + 2 * 32),
        (NVFP4, 10, 32, 160 + 20 + 4),
        # 33 inputs: 17 bytes and three scales in a row.
        (NVFP4, 10, 33, 170 + 30 + 4),
        (MXFP4, 10, 64, 320 + 20),
        (MXFP4, 10, 65, 330 + 30),
        (MXFP8, 10, 64, 640 + 20),
        (NF4, 64, 64, 2048 + 4 * 64),
        # 65 x 3 = 195 elements are 98 bytes and four blocks, across rows.
        (NF4, 65, 3, 98 + 4 * 4),
        # 64 x 512 elements have 512 scales of a byte, and these two of 4 bytes.
        (NF4_DOUBLE, 64, 512, 16_384 + 512 + 8),
        (NF4_DOUBLE, 65, 3, 98 + 4 + 4),
        (mlx(4, 64), 10, 128, 640 + 4 * 20),
        (mlx(3, 64), 10, 128, 480 + 4 * 20),
    ],
    ids=lambda value: value.name if isinstance(value, ElementFormat) else None,
)
def test_bytes_of_a_matrix(stored: ElementFormat, outputs: int, inputs: int, size: int) -> None:
    """Catches scales that are left out, or cut off with a matrix that groups do not divide."""
    assert stored.bytes(outputs, inputs) == size


@pytest.mark.parametrize(
    ("stored", "each"),
    [
        (FP8_BLOCK, 1 + 4 / 16384),
        (UE8M0_BLOCK, 1 + 1 / 16384),
        (NVFP4, 0.5625),
        (MXFP4, 0.53125),
        (MXFP8, 1.03125),
        (int_groups(4, 32), 0.5625),
        (int_groups(4, 128), 0.515625),
        (gptq(4, 128), 0.51953125 + 4 / 4096),
        (awq(4, 128), 0.51953125),
        (NF4, 0.5625),
        (NF4_DOUBLE, 0.5 + 1 / 64 + 4 / 16384),
        (LLM_INT8, 1 + 4 / 8192),
        (mlx(4, 64), 0.5625),
    ],
    ids=lambda value: value.name if isinstance(value, ElementFormat) else None,
)
def test_bytes_of_an_element_are_those_of_the_page(stored: ElementFormat, each: float) -> None:
    """Catches another share of scales than section 5.1 of the reference has."""
    size = stored.bytes(4096, 8192) - stored.matrix_bits // 8
    assert size / (4096 * 8192) == pytest.approx(each, rel=1e-12)


def test_elements_of_a_large_matrix_carry_their_scales() -> None:
    """Catches keys and values of NVFP4 that count half a byte."""
    assert NVFP4.element_bytes == 0.5625
    assert FP8.element_bytes == 1.0
    assert NF4_DOUBLE.element_bytes == 0.5 + 1 / 64 + 4 / 16384
    assert FP8_BLOCK.element_bytes == 1 + 4 / 16384


def test_formats_are_found_by_name() -> None:
    """Catches a name that stands for two formats, and a misspelt one that is accepted."""
    for name, stored in FORMATS.items():
        assert named_format(name) is stored
    assert len(set(FORMATS.values())) == len(FORMATS)
    with pytest.raises(UnknownNameError, match=r"'nvfp5'.*nvfp4"):
        named_format("nvfp5")


@pytest.mark.parametrize(
    "keys",
    [
        {"scales": Spread.GROUP, "scale_bits": 8},
        {"scales": Spread.TENSOR, "group": 32},
        {"scales": Spread.TILE},
        {"scales": Spread.TENSOR, "zero_bits": 4},
    ],
)
def test_a_format_must_be_whole(keys: dict[str, object]) -> None:
    """Catches groups and tiles without a size, which would count nothing for scales."""
    with pytest.raises(ValidationError, match="belong to"):
        ElementFormat.model_validate({"name": "own", "bits": 4, **keys})


# --- Formats of a model ---------------------------------------------------------------------------


def model_of(*layers: Layer, tied: bool = False, family: str = "llama") -> LayeredModel:
    return LayeredModel(
        name="made", family=family, hidden_size=64, vocab_size=256, tied_embeddings=tied,
        layers=layers,
    )  # fmt: skip


ATTENTION = Attention(heads=4, kv_heads=2, head_dim=16)
PLAIN = Layer(repeat=4, mixer=ATTENTION, feed_forward=Dense(width=128))
MIXED = Layer(
    repeat=2,
    mixer=ATTENTION,
    feed_forward=Mixture(experts=4, experts_per_token=2, width=32, shared_width=32),
)
DELTA = Layer(
    mixer=DeltaNet(key_heads=2, value_heads=2, key_dim=16, value_dim=16, conv=4),
    feed_forward=Dense(width=128),
)


def test_rules_hold_for_names_and_layers() -> None:
    """Catches a rule for one layer that holds for all, and a later rule that does not win."""
    formats = WeightFormats(
        default=FP8,
        rules=(
            Rule(name="self_attn.*", format=NVFP4),
            Rule(name="self_attn.q_proj", format=None, first=2, last=3),
            Rule(name="lm_head", format=FP8),
        ),
    )
    query = linear("self_attn.q_proj", Part.MIXER, 64, 64)
    assert [formats.of(query, layer).name for layer in range(5)] == [
        "nvfp4", "nvfp4", "bf16", "bf16", "nvfp4"
    ]  # fmt: skip
    assert formats.of(linear("mlp.up_proj", Part.FEED_FORWARD, 64, 64), 0) is FP8
    assert formats.of(linear("mlp.gate", Part.ROUTER, 64, 4), 0) is BF16
    assert formats.of(linear("lm_head", Part.HEAD, 64, 256), None) == FP8
    for first, last in ((3, 2), (None, 2)):
        with pytest.raises(ValidationError, match="last: give a first"):
            Rule(name="x", format=None, first=first, last=last)


def test_bytes_by_format_and_by_part_count_every_weight_once() -> None:
    """Catches layers or experts that are counted once where there are several."""
    model = model_of(PLAIN, MIXED)
    formats = WeightFormats(default=int_groups(8, None))
    mixers = 6 * (64 * 64 + 2 * 32 * 64 + 64 * 64)
    blocks = 4 * 3 * 64 * 128 + 2 * (4 + 1) * 3 * 64 * 32
    scales = 6 * (64 + 32 + 32 + 64) + 4 * (128 + 128 + 64) + 2 * 5 * (32 + 32 + 64)
    wide = 2 * 256 * 64 + 2 * 4 * 64 + 64 * (2 * 6 + 1)
    sizes = weight_bytes(model, formats)
    assert sizes == {"bf16": 2 * wide, "int8_channel": mixers + blocks + 2 * scales}
    assert sum(part_bytes(model, formats).values()) == sum(sizes.values())
    assert part_bytes(model, formats)[Part.EMBEDDING] == 2 * 256 * 64
    assert sum(weight_bytes(model, WeightFormats()).values()) == 2 * model.parameters


# --- What the published files say -----------------------------------------------------------------

FOLDER = Path("data") / "model_configs"
Answer = tuple[LayeredModel, WeightFormats]


def published(reference: Path, name: str) -> Answer:
    """Read a published file, and what it and its sibling state."""
    path = reference / FOLDER / f"{name}_config.json"
    document = read_document(path)
    part = language_part(document, str(path))
    # The type of experts is read with the formats, and not with the layers.
    sizes = {key: value for key, value in document.items() if key != "expert_dtype"}
    model = read_layers(sizes, path)
    return model, stated_formats(document, part.document, path, model)


def by_name(model: LayeredModel, formats: WeightFormats) -> dict[str, set[str]]:
    """Return the formats of every linear weight, by its name; all layers together."""
    found: dict[str, set[str]] = {}
    for weight in model.outside():
        if weight.linear or weight.name == "embed_tokens":
            found.setdefault(weight.name, set()).add(formats.of(weight, None).name)
    for first, layer in model.each_layer():
        for number in range(first, first + layer.repeat):
            for weight in model.of_layer(layer):
                if weight.linear:
                    found.setdefault(weight.name, set()).add(formats.of(weight, number).name)
    return found


def narrow(model: LayeredModel, formats: WeightFormats) -> dict[str, set[str]]:
    """Return the weights that are not in 16 bits, and those of which only some layers are."""
    return {name: own for name, own in by_name(model, formats).items() if own != {"bf16"}}


GATED = ("gate_proj", "up_proj", "down_proj")
EXPERTS = tuple(f"mlp.experts.*.{one}" for one in GATED)
SHARED = tuple(f"mlp.shared_experts.{one}" for one in GATED)
DENSE = tuple(f"mlp.{one}" for one in GATED)
QKVO = tuple(f"self_attn.{one}_proj" for one in "qkvo")
MLA = tuple(
    f"self_attn.{one}" for one in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
)
MLA_OUT = (*MLA, "self_attn.o_proj")
INDEXER = ("self_attn.indexer.wq_b", "self_attn.indexer.wk")


def all_in(stored: str, *names: Iterable[str]) -> dict[str, set[str]]:
    return {name: {stored} for some in names for name in some}


PUBLISHED: dict[str, tuple[str, dict[str, set[str]], str | None]] = {
    "MiniMaxAI--MiniMax-M2.5": ("", all_in("fp8_block", QKVO, EXPERTS), None),
    "Qwen--Qwen3-235B-A22B-FP8": ("", all_in("fp8_block", QKVO, EXPERTS), None),
    "Qwen--Qwen3-30B-A3B-FP8": ("", all_in("fp8_block", QKVO, EXPERTS), None),
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": ("", all_in("fp8", QKVO, DENSE), "fp8"),
    "Qwen--Qwen3-32B-FP8": ("", all_in("fp8_block", QKVO, DENSE), None),
    "XiaomiMiMo--MiMo-V2-Flash": ("", all_in("fp8_block", QKVO, DENSE, EXPERTS), None),
    "deepseek-ai--DeepSeek-R1": ("", all_in("fp8_block", MLA_OUT, DENSE, EXPERTS, SHARED), None),
    "deepseek-ai--DeepSeek-V3.2": (
        "servers load", all_in("fp8_block", MLA_OUT, INDEXER, DENSE, EXPERTS, SHARED), None
    ),
    "moonshotai--Kimi-K2-Instruct": (
        "", all_in("fp8_block", MLA_OUT, DENSE, EXPERTS, SHARED), None
    ),
    "zai-org--GLM-5-FP8": (
        "", all_in("fp8_block", MLA_OUT, INDEXER, DENSE, EXPERTS, SHARED), None
    ),
    "zai-org--GLM-5.2-FP8": (
        "", all_in("fp8_block", MLA_OUT, INDEXER, DENSE, EXPERTS, SHARED), None
    ),
    "nvidia--Llama-3.1-70B-Instruct-FP8": ("", all_in("fp8", QKVO, DENSE), "fp8"),
    "nvidia--Qwen3-235B-A22B-NVFP4": ("", all_in("nvfp4", QKVO, EXPERTS), "fp8"),
    "nvidia--DeepSeek-V3.1-NVFP4": (
        "", all_in("nvfp4", ["self_attn.o_proj"], DENSE, EXPERTS, SHARED), "fp8"
    ),
    "nvidia--GLM-5-NVFP4": ("", all_in("nvfp4", DENSE, EXPERTS, SHARED), "fp8"),
    "nvidia--GLM-5.2-NVFP4": ("", all_in("nvfp4", EXPERTS), "fp8"),
    "nvidia--Kimi-K2.6-NVFP4": ("", all_in("nvfp4", EXPERTS), "fp8"),
    "nvidia--Kimi-K2.7-Code-NVFP4": ("", all_in("nvfp4", EXPERTS), "fp8"),
    "moonshotai--Kimi-K2.5": ("", all_in("int4_g32", EXPERTS), None),
    "moonshotai--Kimi-K3": ("servers load", all_in("mxfp4", EXPERTS), None),
    "nvidia--MiniMax-M2.5-NVFP4": ("", all_in("nvfp4", EXPERTS), "fp8"),
    "nvidia--MiniMax-M2.7-NVFP4": ("", all_in("nvfp4", EXPERTS), "fp8"),
    "nvidia--MiniMax-M3-NVFP4": (
        "",
        all_in("nvfp4", EXPERTS)
        | all_in(
            "mxfp8", QKVO, DENSE, SHARED, ["self_attn.index_q_proj", "self_attn.index_k_proj"]
        ),
        None,
    ),
    "nvidia--Qwen3.5-122B-A10B-NVFP4": ("", all_in("nvfp4", EXPERTS), "fp8"),
    "nvidia--Qwen3.6-35B-A3B-NVFP4": (
        "",
        all_in("nvfp4", EXPERTS, SHARED, ["lm_head"])
        | all_in(
            "fp8", QKVO, [f"linear_attn.{one}" for one in ("in_proj_qkv", "in_proj_z", "out_proj")]
        ),
        "fp8",
    ),
    "nvidia--Gemma-4-31B-IT-NVFP4": ("", all_in("nvfp4", DENSE), "fp8"),
    "openai--gpt-oss-120b": ("no element type", all_in("mxfp4", EXPERTS), None),
}  # fmt: skip


@pytest.mark.reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_read_as_the_page_says(reference: Path, name: str) -> None:
    """Catches lists of modules that are matched wrongly: section 5.2 says what is quantised."""
    note, expected, kv = PUBLISHED[name]
    model, formats = published(reference, name)
    assert narrow(model, formats) == expected
    assert (formats.kv.name if formats.kv else None) == kv
    assert formats.wide == BF16
    assert not note or note in " ".join(formats.notes)
    assert len(formats.places) == len(set(formats.places)) > 0


V4_FP8 = [f"attn.{one}" for one in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "indexer.wq_b")]


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("deepseek-ai--DeepSeek-V4-Flash", "mxfp4"),
        ("sgl-project--DeepSeek-V4-Flash-FP8", "fp8_block_scale8"),
        ("nvidia--DeepSeek-V4-Flash-NVFP4", "nvfp4"),
        ("nvidia--DeepSeek-V4-Pro-NVFP4", "nvfp4"),
    ],
)
def test_deepseek_v4_keeps_its_fp8_blocks_around_the_experts(
    reference: Path, name: str, experts: str
) -> None:
    """Catches a list of what ModelOpt left alone that is taken for 16 bits, and the fp4 of a
    missing key, against the name of the file."""
    model, formats = published(reference, name)
    expected = all_in(experts, EXPERTS) | all_in("fp8_block_scale8", V4_FP8, SHARED)
    assert narrow(model, formats) == expected
    assert formats.kv is None
    told = "what ignore names keeps the form of fp8_block_scale8" in " ".join(formats.notes)
    assert told == (experts == "nvfp4")


@pytest.mark.reference
def test_window_and_layer_of_step_are_in_fp8(reference: Path) -> None:
    """Catches a head gate of Step that is forgotten."""
    model, formats = published(reference, "stepfun-ai--Step-3.7-Flash-FP8")
    found = by_name(model, formats)
    wide = {name for name, own in found.items() if own == {"bf16"}}
    assert wide == {"embed_tokens", "lm_head", "mlp.gate"}
    assert {next(iter(own)) for name, own in found.items() if name not in wide} == {"fp8_block"}


@pytest.mark.reference
@pytest.mark.parametrize("size", ["Super-120B-A12B", "Ultra-550B-A55B"])
@pytest.mark.parametrize("algorithm", ["FP8", "NVFP4"])
def test_without_a_list_all_linear_layers_count(reference: Path, size: str, algorithm: str) -> None:
    """Catches a guess that is not told: Nemotron's siblings do not say which layers they mean."""
    model, formats = published(reference, f"nvidia--NVIDIA-Nemotron-3-{size}-{algorithm}")
    wide = {name for name, own in by_name(model, formats).items() if own == {"bf16"}}
    assert wide == {"embed_tokens", "lm_head", "mlp.gate"}
    assert set(narrow(model, formats)) > {"mixer.in_proj", "mlp.latent_in", "self_attn.q_proj"}
    assert formats.kv == FP8
    assert "no list of modules that keep 16 bits" in " ".join(formats.notes)


@pytest.mark.reference
def test_every_other_published_file_is_in_16_bits(reference: Path) -> None:
    """Catches a quantisation that is made up, or a quantised file that no test looks at."""
    files = sorted((reference / FOLDER).glob("*_config.json"))
    names = [p.name.removesuffix("_config.json") for p in files if "hf_quant" not in p.name]
    told = ("V4", "Step-3.7", "Nemotron-3-Super", "Nemotron-3-Ultra")
    others = [n for n in names if n not in PUBLISHED and not any(one in n for one in told)]
    assert len(names) == 58
    for name in others:
        model, formats = published(reference, name)
        assert not narrow(model, formats), name
        assert formats.places == (), name
        assert sum(weight_bytes(model, formats).values()) == 2 * model.parameters, name


@pytest.mark.reference
def test_kimi_k3_is_as_large_as_published(reference: Path) -> None:
    """Catches latent projections or shared experts that count as 4 bits: 1.56 TB are published."""
    model, formats = published(reference, "moonshotai--Kimi-K3")
    sizes = weight_bytes(model, formats)
    assert sizes["mxfp4"] == 2_722_740_830_208 * 17 // 32
    assert sum(sizes.values()) / 1e12 == pytest.approx(1.5599, abs=5e-5)


@pytest.mark.reference
def test_lists_of_thousands_of_modules_are_read_in_seconds(reference: Path) -> None:
    """Catches a search over all weights for each of MiniMax-M3's 22,000 names."""
    start = time.process_time()
    published(reference, "nvidia--MiniMax-M3-NVFP4")
    assert time.process_time() - start < 20


# --- Small files ----------------------------------------------------------------------------------


def read(
    folder: Path,
    config: Config,
    beside: dict[str, object] | None = None,
    *,
    model: LayeredModel | None = None,
    text: Config | None = None,
) -> WeightFormats:
    """Read a file that is written here; its element type is bf16 if it does not state another."""
    config = {"dtype": "bfloat16"} | config
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    for name, content in (beside or {}).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    model = model or model_of(PLAIN, MIXED)
    return stated_formats(config, text if text is not None else config, path, model)


ALL = (*QKVO, *DENSE, *EXPERTS, *SHARED)
BLOCK: Config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
GPTQ: Config = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "desc_act": False,
    "sym": True,
}
AWQ: Config = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
FOUR: Config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
MLX: Config = {"group_size": 64, "bits": 4}


def compressed(weights: Config, **more: object) -> Config:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "config_groups": {"group_0": group},
        "ignore": ["lm_head"], **more,
    }  # fmt: skip


def numbers(bits: int, kind: str, strategy: str | None = None, **more: object) -> Config:
    return {"num_bits": bits, "type": kind, "strategy": strategy, **more}


def modelopt(algorithm: str | None, kv: str | None = None, **more: object) -> Config:
    lists: Config = {"exclude_modules": ["lm_head"]} if "exclude_modules" not in more else {}
    return {"quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": kv} | lists | more}


@pytest.mark.parametrize(
    ("table", "stored"),
    [
        (BLOCK, FP8_BLOCK),
        (BLOCK | {"weight_block_size": [64, 32]}, fp8_block(64, 32)),
        # Only DeepSeek-V4 stores its scales in the type that others round them to.
        (BLOCK | {"scale_fmt": "ue8m0"}, FP8_BLOCK),
        ({"quant_method": "fp8", "activation_scheme": "static"}, FP8),
        ({"quant_method": "fbgemm_fp8"}, FP8_CHANNEL),
        (GPTQ, gptq(4, 128)),
        (GPTQ | {"bits": 8, "group_size": -1}, gptq(8, None)),
        (AWQ, awq(4, 128)),
        (AWQ | {"zero_point": False}, awq(4, 128, zeros=False)),
        (FOUR, NF4),
        (FOUR | {"bnb_4bit_quant_type": "fp4"}, NF4),
        (FOUR | {"bnb_4bit_use_double_quant": True}, NF4_DOUBLE),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, LLM_INT8),
        (compressed(numbers(8, "float", "tensor")), FP8),
        (compressed(numbers(8, "float", "channel")), FP8_CHANNEL),
        (compressed(numbers(8, "float", "block", block_structure=[128, 128])), FP8_BLOCK),
        (compressed(numbers(8, "float", "group", group_size=32)), MXFP8),
        (compressed(numbers(8, "int", "channel")), int_groups(8, None)),
        (compressed(numbers(8, "int", "tensor")), INT8),
        (compressed(numbers(4, "int", "group", group_size=128)), int_groups(4, 128)),
        (
            compressed(numbers(4, "int", "group", group_size=32, symmetric=False)),
            int_groups(4, 32, symmetric=False),
        ),
        (
            compressed(numbers(4, "int", "group", group_size=128, actorder="group")),
            int_groups(4, 128, order=True),
        ),
        (compressed(numbers(4, "float", "tensor_group", group_size=16)), NVFP4),
        (compressed(numbers(4, "float", "group", group_size=32)), MXFP4),
        (compressed(numbers(8, "int", "channel"), sparsity_config={"format": "dense"}),
         int_groups(8, None)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": []}, NVFP4),
    ],
)  # fmt: skip
def test_methods_are_read(tmp_path: Path, table: Config, stored: ElementFormat) -> None:
    """Catches a method whose linear layers have another format, or whose router has it."""
    formats = read(tmp_path, {"quantization_config": table})
    found = narrow(model_of(PLAIN, MIXED), formats)
    head = found.pop("lm_head", None)
    assert found == all_in(stored.name, ALL)
    assert formats.default == stored
    # Tables that list what they leave alone list the output head too, unless they mean it.
    assert (head is not None) == (table.get("ignore") == [])
    assert formats.places == (f"{tmp_path}/config.json: quantization_config",)


@pytest.mark.parametrize(
    ("algorithm", "more", "stored"),
    [
        ("FP8", {}, FP8),
        ("FP8_PB_WO", {}, FP8_BLOCK),
        ("FP8_PER_CHANNEL_PER_TOKEN", {}, FP8_CHANNEL),
        ("W4A16_NVFP4", {"group_size": 16}, NVFP4),
        ("MXFP8", {}, MXFP8),
        ("W4A16_AWQ", {"group_size": 64}, int_groups(4, 64)),
        ("INT4_AWQ", {}, int_groups(4, 128)),
        ("INT8_SQ", {}, int_groups(8, None)),
    ],
)
def test_algorithms_of_modelopt_are_read(
    tmp_path: Path, algorithm: str, more: Config, stored: ElementFormat
) -> None:
    """Catches an algorithm that is taken for another, and a file beside that is not read."""
    beside: dict[str, object] = {"hf_quant_config.json": modelopt(algorithm, "FP8", **more)}
    formats = read(tmp_path, {}, beside)
    assert narrow(model_of(PLAIN, MIXED), formats) == all_in(stored.name, ALL)
    assert formats.kv == FP8
    assert formats.places == (f"{tmp_path}/hf_quant_config.json: quantization",)


def test_mlx_stores_embeddings_routers_and_the_head_in_few_bits(tmp_path: Path) -> None:
    """Catches modules of their own width that are read as the others, and fused experts that have
    another name."""
    table = MLX | {
        "model.layers.4.mlp.gate": {"group_size": 64, "bits": 8},
        "model.layers.4.mlp.switch_mlp.up_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        "lm_head": False,
        "model.layers.0.mlp.up_proj": True,
    }
    formats = read(tmp_path, {"quantization": table, "quantization_config": table})
    model = model_of(PLAIN, MIXED)
    found = by_name(model, formats)
    assert found["embed_tokens"] == {"mlx_int4_g64"}
    assert found["mlp.gate"] == {"mlx_int4_g64", "mlx_int8_g64"}
    assert found["mlp.experts.*.up_proj"] == {"mlx_int4_g64", "mxfp4"}
    assert found["mlp.experts.*.down_proj"] == {"mlx_int4_g64"}
    assert found["lm_head"] == {"bf16"}
    assert part_bytes(model, formats)[Part.EMBEDDING] == mlx(4, 64).bytes(256, 64)
    assert len(formats.places) == 1


def test_gptq_has_modules_of_their_own(tmp_path: Path) -> None:
    """Catches GPTQ's patterns for modules that are left alone or have another width."""
    table = GPTQ | {
        "lm_head": True,
        "dynamic": {
            r"-:model\.layers\.0\..*": {},
            r"+:.*\.down_proj.*": {"bits": 8, "group_size": 64},
        },
    }
    formats = read(tmp_path, {"quantization_config": table}, model=model_of(PLAIN))
    found = by_name(model_of(PLAIN), formats)
    assert found["lm_head"] == {"gptq_int4_g128"}
    assert found["self_attn.q_proj"] == {"bf16", "gptq_int4_g128"}
    assert found["mlp.down_proj"] == {"gptq_int8_g64"}
    only = GPTQ | {"modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]}
    formats = read(tmp_path, {"quantization_config": only}, model=model_of(PLAIN))
    assert set(narrow(model_of(PLAIN), formats)) == {"self_attn.q_proj", "mlp.up_proj"}


def test_a_group_size_that_is_left_out_is_told(tmp_path: Path) -> None:
    """Catches a default of a tool that is used without a word."""
    formats = read(tmp_path, {"quant_method": "gptq", "bits": 4})
    assert formats.default == gptq(4, 128)
    assert "no group_size: 128" in formats.notes[0]


ATTENTION_OFF = set(DENSE) | set(EXPERTS) | set(SHARED)


@pytest.mark.parametrize(
    ("pattern", "wide"),
    [
        ("self_attn", set(QKVO)),
        ("*self_attn*", set(QKVO)),
        ("model.layers.*.self_attn", set(QKVO)),
        ("re:.*self_attn.*", set(QKVO)),
        (r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", set(DENSE)),
        (r"re:model\.layers\.\d+\.self_attn\.(q|k)_proj$", {QKVO[0], QKVO[1]}),
        (r"re:.*\.experts\.\d+\..*", set(EXPERTS)),
        ("*.mlp.experts.*", set(EXPERTS)),
        ("block_sparse_moe.experts", set(EXPERTS)),
        ("*.block_sparse_moe.experts.*.w2", {EXPERTS[2]}),
        ("*.feed_forward.experts.gate_up_proj", {EXPERTS[0], EXPERTS[1]}),
        ("*shared_expert.*", set(SHARED)),
        ("*qkv_proj", {QKVO[0], QKVO[1], QKVO[2]}),
        ("re:.*(q|k|v|o)_proj.*", set(QKVO)),
        ("*.gate", set[str]()),
    ],
)
def test_patterns_mean_what_they_say(tmp_path: Path, pattern: str, wide: set[str]) -> None:
    """Catches the dense blocks' pattern that takes experts along, and spellings of other tools."""
    formats = read(tmp_path, {"quantization_config": BLOCK | {"modules_to_not_convert": [pattern]}})
    found = by_name(model_of(PLAIN, MIXED), formats)
    assert {name for name in ALL if found[name] == {"bf16"}} == wide
    assert {name for name in ALL if found[name] == {"fp8_block"}} == set(ALL) - wide


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("model.layers.1*", [1, 10, 11]),
        ("model.layers.1.*", [1]),
        ("model.layers.1", [1]),
        ("language_model.model.layers.11*", [11]),
        ("model.language_model.layers.2.mlp*", [2]),
        ("backbone.layers.3.mixer.up_proj", [3]),
        ("layers.4.ffn", [4]),
        ("re:model.layers.5.mlp.up_proj$", [5]),
        (r"re:.*layers\.(7|11)\..*", [7, 11]),
        ("mtp.layers.0*", []),
        ("model.layers.12*", []),
        ("model.layers.13.eh_proj", []),
        ("visual.blocks.3.mlp", []),
        ("model.layers.3.input_layernorm", []),
        ("model.layers.3.mlp.gate.e_score_correction_bias", []),
    ],
)
def test_layers_are_told_apart(tmp_path: Path, pattern: str, layers: list[int]) -> None:
    """Catches layer 1 that takes 10 and 11 along, or not; and layers for drafting and of vision
    that are taken for those of the model."""
    model = model_of(PLAIN.model_copy(update={"repeat": 12}))
    formats = read(
        tmp_path, {"quantization_config": BLOCK | {"ignored_layers": [pattern]}}, model=model
    )
    up = linear("mlp.up_proj", Part.FEED_FORWARD, 64, 128)
    assert [n for n in range(12) if formats.of(up, n) == BF16] == layers
    assert not formats.notes


def test_experts_are_named_one_by_one(tmp_path: Path) -> None:
    """Catches experts of which only some are named, which have one format here."""
    names = [f"model.layers.4.mlp.experts.{n}.w1" for n in range(4)]
    listed = {name: {"quant_algo": "NVFP4", "group_size": 16} for name in names}
    table: Config = {"quant_algo": "MIXED_PRECISION", "quantized_layers": listed}
    formats = read(tmp_path, {"quantization_config": table})
    gate = linear(EXPERTS[0], Part.EXPERTS, 64, 32, count=4)
    assert (formats.of(gate, 4), formats.of(gate, 5)) == (NVFP4, BF16)
    del listed[names[2]]
    with pytest.raises(DocumentError, match=r"quantized_layers: names 3 of the 4 matrices of mlp"):
        read(tmp_path, {"quantization_config": table})


def test_kimis_delta_attention_is_called_self_attention(tmp_path: Path) -> None:
    """Catches that only one of three matrices, which are one here, has another format."""
    kda = DeltaNet(
        key_heads=2,
        value_heads=2,
        key_dim=16,
        value_dim=16,
        conv=4,
        decay=Decay.CHANNEL,
        gate_rank=16,
    )
    model = model_of(Layer(mixer=kda, feed_forward=Dense(width=128)))
    wide = {"modules_to_not_convert": ["self_attn"]}
    found = narrow(model, read(tmp_path, {"quantization_config": BLOCK | wide}, model=model))
    assert set(found) == set(DENSE)
    part = {"modules_to_not_convert": ["model.layers.0.self_attn.q_proj"]}
    with pytest.raises(DocumentError, match=r"names 1 of the 3 matrices of linear_attn"):
        read(tmp_path, {"quantization_config": BLOCK | part}, model=model)
    other = {"modules_to_not_convert": ["self_attn"]}
    plain = model_of(DELTA)
    found = narrow(plain, read(tmp_path, {"quantization_config": BLOCK | other}, model=plain))
    assert "linear_attn.in_proj_qkv" in found


def test_a_name_of_nothing_is_noted_or_refused(tmp_path: Path) -> None:
    """Catches a list that names weights which are not there: something was read wrongly."""

    def listed(name: str) -> Config:
        return {"quantization_config": BLOCK | {"modules_to_not_convert": [name]}}

    where = f"{tmp_path}/config.json: quantization_config"
    formats = read(tmp_path, listed("down_block"))
    assert formats.notes == (
        f"{where}: modules_to_not_convert names none of the weights by 'down_block'",
    )
    assert (
        "by 'model.layers.0.mlp.gate'" in read(tmp_path, listed("model.layers.0.mlp.gate")).notes[0]
    )
    for name in ("model.layers.1.mlp.upproj", "thinker.layers.1.mlp.up_proj", "model.layers.90"):
        with pytest.raises(DocumentError, match=f"names '{name}', which is none of the weights"):
            read(tmp_path, listed(name))


def test_kv_is_taken_from_whoever_names_a_type(tmp_path: Path) -> None:
    """Catches the null of one place that hides the type of the other, and two types."""
    table: Config = {"quant_algo": "FP8", "ignore": ["lm_head"], "kv_cache_scheme": None}
    beside: dict[str, object] = {"hf_quant_config.json": modelopt("FP8", "NVFP4")}
    assert read(tmp_path, {"quantization_config": table}, beside).kv == NVFP4
    for value in ("FP8", {"num_bits": 8, "type": "float", "dynamic": False}):
        table["kv_cache_scheme"] = value
        with pytest.raises(DocumentError, match=r"keys and values .* fp8 in .* nvfp4 in "):
            read(tmp_path, {"quantization_config": table}, beside)
    formats = read(
        tmp_path, {"kv_cache_quant_algo": "INT8"}, {"hf_quant_config.json": modelopt(None)}
    )
    assert (formats.kv, formats.default) == (INT8, BF16)


def test_two_places_that_differ_are_refused(tmp_path: Path) -> None:
    """Catches one of two statements that is dropped in silence."""
    table = {"quant_algo": "FP8", "ignore": ["lm_head"]}
    both = r"is fp8 in .*config.json: quantization_config, nvfp4 in .*hf_quant_config.json: quant"
    with pytest.raises(DocumentError, match=both):
        read(tmp_path, {"quantization_config": table}, {"hf_quant_config.json": modelopt("NVFP4")})
    other = modelopt("FP8", exclude_modules=["lm_head", "*self_attn*"])
    with pytest.raises(
        DocumentError, match=r"self_attn.q_proj of layer 0 is fp8 in .*, 16 bits in"
    ):
        read(tmp_path, {"quantization_config": table}, {"hf_quant_config.json": other})


def test_the_language_part_may_state_it(tmp_path: Path) -> None:
    """Catches Kimi's statement, which stands inside text_config, and a copy that counts twice."""
    text: Config = {"quantization_config": BLOCK, "dtype": "float16"}
    formats = read(tmp_path, {"text_config": text}, text=text)
    assert formats.places == (f"{tmp_path}/config.json: text_config.quantization_config",)
    assert (formats.default, formats.wide) == (FP8_BLOCK, FP16)
    formats = read(tmp_path, {"text_config": text, "quantization_config": BLOCK}, text=text)
    assert formats.places == (f"{tmp_path}/config.json: quantization_config",)


@pytest.mark.parametrize(
    ("config", "wide", "note"),
    [
        ({"dtype": "float16"}, FP16, ""),
        ({"dtype": None, "torch_dtype": "torch.bfloat16"}, BF16, ""),
        ({"dtype": "float32"}, FP16, "served in fp16"),
        ({"dtype": None}, BF16, "no element type"),
    ],
)
def test_the_type_of_the_rest(
    tmp_path: Path, config: Config, wide: ElementFormat, note: str
) -> None:
    """Catches a type that is made up without a word."""
    formats = read(tmp_path, config)
    assert (formats.wide, formats.default) == (wide, wide)
    assert note in " ".join(formats.notes)
    assert bool(note) == bool(formats.notes)


def test_the_type_of_experts(tmp_path: Path) -> None:
    """Catches experts in four bits that count as the fp8 around them."""
    config: Config = {"quantization_config": BLOCK, "expert_dtype": "fp4"}
    found = by_name(model_of(PLAIN, MIXED), read(tmp_path, config))
    assert found[EXPERTS[0]] == {"mxfp4"}
    assert found[SHARED[0]] == {"fp8_block"}
    found = by_name(model_of(PLAIN, MIXED), read(tmp_path, config | {"expert_dtype": "fp8"}))
    assert found[EXPERTS[0]] == {"fp8_block"}


@pytest.mark.parametrize("method", ["quip", "aqlm", "hqq", "vptq", "torchao", "exl2", "quark"])
def test_methods_that_are_not_known_are_refused(tmp_path: Path, method: str) -> None:
    """Catches weights of a strange form that count as 16 bits."""
    with pytest.raises(DocumentError, match=f"quantization_config: .*'{method}'.*choose from fp8"):
        read(tmp_path, {"quantization_config": {"quant_method": method, "bits": 2}})


LOW = "quant_algo = 'NVFP4_NEW' is not supported: choose from FP8, "


@pytest.mark.parametrize(
    ("config", "beside", "message"),
    [
        ({"quip_params": {"codebook": "E8P12"}}, {}, "quip_params = .*E8P12.* is not read"),
        ({"quantization": "q4f16_1"}, {}, "quantization: should be a table .*'q4f16_1'"),
        ({"bits": 4}, {}, "missing key 'quant_method'"),
        ({"quantization": MLX | {"bits": 7}}, {}, "bits = 7 in mode 'affine'"),
        ({"quantization": MLX | {"mode": "ternary"}}, {}, "mode 'ternary'"),
        ({"quantization_config": {"quant_method": "modelopt"}}, {}, "without quant_algo"),
        ({"quantization_config": {"quant_algo": "NVFP4_NEW"}}, {}, LOW),
        ({"quantization_config": {"quant_algo": "NVFP4", "group_size": 32}}, {}, "it is 16"),
        ({"quantization_config": {"quant_algo": "MIXED_PRECISION"}}, {},
         "'MIXED_PRECISION' without quantized_layers"),
        ({"quantization_config": {"quant_algo": "FP8", "kv_cache_scheme": "FP4"}}, {},
         "kv_cache_scheme = 'FP4' is not supported for keys and values: choose from FP8"),
        ({"quantization_config": BLOCK | {"weight_block_size": [0, 128]}}, {}, "weight_block_size"),
        ({"quantization_config": BLOCK | {"moe_quant_algo": "ODD"}}, {},
         "moe_quant_algo: quant_algo = 'ODD'"),
        ({"quantization_config": {"quant_algo": "W4A16", "has_zero_point": True}}, {},
         "has_zero_point = True is not read"),
        ({"quantization_config": BLOCK | {"extra_config": {"a": 1}}}, {}, "extra_config = "),
        ({"quantization_config": BLOCK, "expert_dtype": "fp3"}, {}, "expert_dtype: .*'fp3'"),
        ({"expert_dtype": "fp8"}, {}, "expert_dtype: .*fp8 where the other weights"),
        ({"quantization_config": GPTQ | {"bits": 5}}, {}, "'gptq' with bits = 5"),
        ({"quantization_config": AWQ | {"bits": 8}}, {}, "'awq' with bits = 8"),
        ({"quantization_config": GPTQ | {"group_size": 0}}, {}, "group_size = 0"),
        ({"quantization_config": FOUR | {"load_in_8bit": True}}, {}, "'bitsandbytes' with"),
        ({"quantization_config": compressed(numbers(4, "float", "tensor"))}, {},
         "config_groups.group_0: weights of num_bits = 4 and type = 'float'"),
        ({"quantization_config": compressed(numbers(8, "int", "channel"), format="marlin-24")}, {},
         "format = 'marlin-24'"),
        ({"quantization_config": compressed(numbers(8, "int", "channel"),
                                            sparsity_config={"format": "2:4"})}, {},
         "sparsity_config"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"a": {
            "targets": ["LlamaMLP"], "weights": numbers(8, "int", "channel")}}}}, {},
         "targets name 'LlamaMLP'"),
        ({"quantization_config": BLOCK | {"ignored_layers": ["re:.*(a+)+b"]}}, {},
         "regular expression that is not read"),
        ({"quantization_config": BLOCK | {"ignored_layers": ["x" * 600]}}, {}, "no name"),
        ({"dtype": "float6"}, {}, "dtype = 'float6' is not supported: choose from bfloat16"),
        ({"torch_dtype": "float16"}, {}, "dtype = 'bfloat16' and torch_dtype = 'float16' disagree"),
        ({}, {"recipe.yaml": {}}, "recipe.yaml: states how the weights were compressed"),
        ({}, {"quanto_quant.json": {}}, "quanto_quant.json: seems to state a quantisation"),
        ({}, {"hf_quant_config.json": {}}, "hf_quant_config.json: quantization: should be a table"),
        ({}, {"quantize_config.json": {"bits": 5}}, "quantize_config.json: .*'gptq' with bits = 5"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused(
    tmp_path: Path, config: Config, beside: dict[str, object], message: str
) -> None:
    """Catches a statement that is passed over: file, key and value are named, and a way out."""
    with pytest.raises(DocumentError, match=message) as refusal:
        read(tmp_path, config, beside)
    assert refusal.value.hint or refusal.value.where


def test_files_beside_are_read(tmp_path: Path) -> None:
    """Catches a GPTQ or AWQ file beside that is not looked for, or a recipe that is refused."""
    formats = read(tmp_path, {}, {"quantize_config.json": {"bits": 4, "group_size": 128}})
    assert formats.default == gptq(4, 128)
    (tmp_path / "quantize_config.json").unlink()
    file = {"quant_config.json": {"zero_point": True, "w_bit": 4, "q_group_size": 64}}
    assert read(tmp_path, {}, dict(file)).default == awq(4, 64)
    (tmp_path / "quant_config.json").unlink()
    table = compressed(numbers(8, "int", "channel"))
    formats = read(tmp_path, {"compression_config": table}, {"recipe.yaml": {}})
    assert formats.default == int_groups(8, None)


def test_regular_expressions_take_no_time(tmp_path: Path) -> None:
    """Catches a pattern of a file from elsewhere that keeps the reader busy for minutes."""
    slow = "re:" + ".*(a|e|o|_)" * 20 + "9"
    start = time.process_time()
    read(tmp_path, {"quantization_config": BLOCK | {"ignored_layers": [slow, "*a" * 30 + "!"]}})
    assert time.process_time() - start < 10


VALUES = st.recursive(
    st.sampled_from([
        None, True, False, 0, 1, 4, 8, 16, -1, 10**30, 2.5, "", "fp8", "gptq", "NVFP4", "re:.*",
        "re:(a", "*", "model.layers.1", "model.layers.1.mlp", "lm_head", "Linear", "float",
        "\x1b[1m", "group", "MIXED_PRECISION", "modelopt", "compressed-tensors",
        "bitsandbytes", "awq",
    ]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["num_bits", "type", "weights", "a.b", "quant_algo"]), inner),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from([
    "quant_method", "quant_algo", "moe_quant_algo", "bits", "group_size", "weight_block_size",
    "config_groups", "quantized_layers", "ignore", "modules_to_not_convert", "dynamic", "lm_head",
    "kv_cache_scheme", "load_in_4bit", "mode", "model.layers.0.mlp", "exclude_modules", "odd_bits",
])  # fmt: skip


@given(
    place=st.sampled_from(["quantization_config", "quantization", "compression_config", ""]),
    table=st.dictionaries(KEYS, VALUES, max_size=6),
    experts=VALUES,
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_statement_is_read_or_refused(
    tmp_path: Path, place: str, table: Config, experts: object
) -> None:
    """Catches a file from elsewhere that ends in another error than a refusal."""
    refusal: DocumentError | None = None
    try:
        read(tmp_path, {place: table, "expert_dtype": experts} if place else table)
    except DocumentError as error:
        refusal = error
    assert refusal is None or refusal.where
