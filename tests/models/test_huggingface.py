"""Hugging Face configurations: published ones, and bad ones."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacc.errors import AttaccError, DocumentError, InputError, UnknownNameError
from attacc.models.architecture import MODELS
from attacc.models.feedforward import Dense, Mixture
from attacc.models.huggingface import load_model
from attacc.models.mixers import Attention
from attacc.models.operators import Attention as AttentionOperator
from attacc.models.operators import Experts as ExpertsOperator
from attacc.models.operators import MatMul, Pointwise, PointwiseKind
from attacc.models.parameters import activation_bytes, count_parameters, kv_bytes_per_token
from attacc.models.precision import BlockFormat, ElementType, WeightType
from attacc.models.readers.registry import families, wrappers
from attacc.models.served import ServedModel, weight_type
from attacc.models.steps import decode_step, prefill_step
from tests import share

Config = dict[str, object]


def gpt2() -> Config:
    """openai-community/gpt2."""
    return {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "resid_pdrop": 0.1, "summary_activation": None, "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    }  # fmt: skip


def opt(hidden: int, layers: int, heads: int) -> Config:
    """facebook/opt-*."""
    return {
        "_remove_final_layer_norm": False, "activation_function": "relu",
        "architectures": ["OPTForCausalLM"], "do_layer_norm_before": True,
        "ffn_dim": 4 * hidden, "hidden_size": hidden, "max_position_embeddings": 2048,
        "model_type": "opt", "num_attention_heads": heads, "num_hidden_layers": layers,
        "torch_dtype": "float16", "vocab_size": 50272, "word_embed_proj_dim": hidden,
    }  # fmt: skip


def opt_350m() -> Config:
    """facebook/opt-350m: norms after the blocks, and narrow embeddings."""
    return opt(1024, 24, 16) | {"do_layer_norm_before": False, "word_embed_proj_dim": 512}


def gpt_neox(hidden: int = 6144, layers: int = 44, heads: int = 64, vocab: int = 50432) -> Config:
    """EleutherAI/gpt-neox-20b and pythia-*."""
    return {
        "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu_fast",
        "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "max_position_embeddings": 2048, "model_type": "gpt_neox",
        "num_attention_heads": heads, "num_hidden_layers": layers, "rotary_pct": 0.25,
        "tie_word_embeddings": False, "torch_dtype": "float16", "use_parallel_residual": True,
        "vocab_size": vocab,
    }  # fmt: skip


def rotary(family: str, *sizes: int, **more: object) -> Config:
    """Layers, hidden size, heads, key/value heads, intermediate size, vocabulary."""
    layers, hidden, heads, kv_heads, intermediate, vocab = sizes
    return {
        "model_type": family, "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": intermediate, "max_position_embeddings": 32768,
        "num_attention_heads": heads, "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
        "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "vocab_size": vocab, **more,
    }  # fmt: skip


def tiny_llama() -> Config:
    """TinyLlama/TinyLlama-1.1B-Chat-v1.0."""
    return rotary("llama", 22, 2048, 32, 4, 5632, 32000)


def llama_3_2() -> Config:
    """meta-llama/Llama-3.2-1B: tied, head_dim given."""
    return rotary("llama", 16, 2048, 32, 8, 8192, 128256, head_dim=64, tie_word_embeddings=True)


def mistral_7b() -> Config:
    """mistralai/Mistral-7B-v0.1."""
    return rotary("mistral", 32, 4096, 32, 8, 14336, 32000, sliding_window=4096)


def qwen2(*sizes: int, tied: bool) -> Config:
    """Qwen/Qwen2-*: biases on query, key and value."""
    return rotary(
        "qwen2", *sizes, tie_word_embeddings=tied, use_sliding_window=False,
        sliding_window=131072, max_window_layers=28,
    )  # fmt: skip


def qwen3(*sizes: int, tied: bool) -> Config:
    """Qwen/Qwen3-*: head_dim given, norms on query and key."""
    return rotary(
        "qwen3", *sizes, tie_word_embeddings=tied, head_dim=128, attention_bias=False,
        use_sliding_window=False, sliding_window=None, max_window_layers=28,
    )  # fmt: skip


def mixtral() -> Config:
    """mistralai/Mixtral-8x7B-v0.1."""
    return rotary(
        "mixtral", 32, 4096, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2,
        sliding_window=None,
    )  # fmt: skip


EXAMPLES: dict[str, Config] = {
    "gpt2": gpt2(),
    "opt": opt_350m(),
    "gpt_neox": gpt_neox(),
    "llama": tiny_llama(),
    "mistral": mistral_7b(),
    "qwen2": qwen2(28, 3584, 28, 4, 18944, 152064, tied=False),
    "qwen3": qwen3(28, 1024, 16, 8, 3072, 151936, tied=True),
    "mixtral": mixtral(),
}


def written(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def read(folder: Path, config: object) -> ServedModel:
    return load_model(str(written(folder, config)))


def block(model: ServedModel) -> Dense | Mixture:
    """The feed-forward part of the first layer."""
    found = model.model.layers[0].feed_forward
    assert isinstance(found, Dense | Mixture)
    return found


def group_size(model: ServedModel) -> int:
    """Query heads that share a key/value head in the first layer."""
    mixer = model.full_attention()
    return mixer.heads // mixer.kv_heads


def weights(model: ServedModel) -> WeightType:
    """The type of most weights."""
    return weight_type(model.formats.default)


def type_named(name: str) -> WeightType:
    """The type of this name."""
    return BlockFormat(name) if name in list(BlockFormat) else ElementType(name)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        pytest.param(gpt2(), 124_439_808, id="gpt2"),
        pytest.param(gpt2() | {"n_embd": 1600, "n_head": 25, "n_layer": 48}, 1_557_611_200,
                     id="gpt2-xl"),
        pytest.param(opt(768, 12, 12), 125_239_296, id="opt-125m"),
        pytest.param(opt_350m(), 331_196_416, id="opt-350m"),
        pytest.param(opt(4096, 32, 32), 6_658_473_984, id="opt-6.7b"),
        pytest.param(gpt_neox(), 20_554_567_680, id="gpt-neox-20b"),
        pytest.param(gpt_neox(2560, 32, 32, 50304), 2_775_208_960, id="pythia-2.8b"),
        pytest.param(gpt_neox(768, 12, 12, 50304), 162_322_944, id="pythia-160m"),
        pytest.param(tiny_llama(), 1_100_048_384, id="tinyllama-1.1b"),
        pytest.param(llama_3_2(), 1_235_814_400, id="llama-3.2-1b"),
        pytest.param(mistral_7b(), 7_241_732_096, id="mistral-7b"),
        pytest.param(qwen2(28, 3584, 28, 4, 18944, 152064, tied=False), 7_615_616_512,
                     id="qwen2-7b"),
        pytest.param(qwen2(24, 896, 14, 2, 4864, 151936, tied=True), 494_032_768,
                     id="qwen2-0.5b"),
        pytest.param(qwen3(28, 1024, 16, 8, 3072, 151936, tied=True), 596_049_920,
                     id="qwen3-0.6b"),
        pytest.param(qwen3(36, 4096, 32, 8, 12288, 151936, tied=False), 8_190_735_360,
                     id="qwen3-8b"),
        pytest.param(mixtral(), 46_702_792_704, id="mixtral-8x7b"),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_checkpoint(
    tmp_path: Path, config: Config, published: int
) -> None:
    """A bias, norm, tie or projection of a family got wrong.

    The counts are those of the checkpoints on the Hugging Face Hub (tied tensors once), to the
    last parameter.
    """
    assert count_parameters(read(tmp_path, config)).total == published


def test_a_name_of_any_bytes(tmp_path: Path) -> None:
    """A file or folder whose name is no UTF-8: pydantic's ValidationError came out."""
    path = tmp_path / "caf\udce9.json"
    path.write_text(json.dumps(tiny_llama()), encoding="utf-8")
    assert load_model(str(path)).name == r"caf\udce9"
    folder = tmp_path / "mine\udcff"
    folder.mkdir()
    quantised = tiny_llama() | {"quantization_config": {"quant_method": "fp8"}}
    model = read(folder, quantised)
    assert model.name == r"mine\udcff"
    assert r"mine\udcff" in model.model.sources["precision"]


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("mixtral-8x7b", mixtral()),
        ("qwen3-32b", qwen3(64, 5120, 64, 8, 25600, 151936, tied=False)),
        ("qwen3-14b", qwen3(40, 5120, 40, 8, 17408, 151936, tied=False)),
        ("qwen2.5-7b", qwen2(28, 3584, 28, 4, 18944, 152064, tied=False)),
        ("opt-66b", opt(9216, 64, 72)),
        ("llama-2-70b", rotary("llama", 80, 8192, 64, 8, 28672, 32000, torch_dtype="float16")),
    ],
)
def test_config_and_preset_agree(tmp_path: Path, preset: str, config: Config) -> None:
    """A preset and a configuration of the same model that are computed differently."""
    ignored = {"name", "description", "sources", "family", "max_context", "precision"}
    model, shipped = read(tmp_path, config), load_model(preset)
    assert model.model.model_dump(exclude=ignored) == shipped.model.model_dump(exclude=ignored)
    assert (model.formats.default, model.formats.wide, model.activations, model.kv) == (
        shipped.formats.default, shipped.formats.wide, shipped.activations, shipped.kv
    )  # fmt: skip
    assert model.weight_bytes == shipped.weight_bytes


def test_every_family_has_an_example() -> None:
    """A family without a test of its parameters."""
    assert set(EXAMPLES) <= set(families())


def test_key_value_heads_left_out_are_query_heads(tmp_path: Path) -> None:
    """MHA read as something else; a family whose default is another model's size."""
    llama = {k: v for k, v in tiny_llama().items() if k != "num_key_value_heads"}
    assert read(tmp_path, llama).full_attention().kv_heads == 32
    for family in ("llama", "mistral", "mixtral", "qwen2", "qwen3"):
        null = EXAMPLES[family] | {"num_key_value_heads": None}
        assert group_size(read(tmp_path, null)) == 1
    mistral = {k: v for k, v in mistral_7b().items() if k != "num_key_value_heads"}
    with pytest.raises(DocumentError, match="missing key 'num_key_value_heads'"):
        read(tmp_path, mistral)


def test_multi_query_attention(tmp_path: Path) -> None:
    """One key/value head for all."""
    model = read(tmp_path, tiny_llama() | {"num_key_value_heads": 1})
    assert group_size(model) == 32
    assert kv_bytes_per_token(model) == 2 * 64 * 22 * 2


def test_head_dim_is_given_or_derived(tmp_path: Path) -> None:
    """A head_dim that is ignored, or derived for Qwen3, which states it."""
    assert read(tmp_path, tiny_llama()).full_attention().head_dim == 64
    assert read(tmp_path, tiny_llama() | {"head_dim": None}).full_attention().head_dim == 64
    assert read(tmp_path, tiny_llama() | {"head_dim": 80}).full_attention().head_dim == 80
    with pytest.raises(DocumentError, match="head_dim"):
        read(tmp_path, EXAMPLES["qwen3"] | {"head_dim": None})


def test_gpt2_inner_size(tmp_path: Path) -> None:
    """The block's size ignored, or null not taken as four times the hidden size."""
    assert block(read(tmp_path, gpt2())).width == 3072
    assert block(read(tmp_path, gpt2() | {"n_inner": None})).width == 3072
    assert block(read(tmp_path, gpt2() | {"n_inner": 100})).width == 100


def function(model: ServedModel) -> PointwiseKind:
    """What is computed between the matrices of the first layer's block."""
    step = decode_step(model, batch=1, kv_length=1, tensor_parallel=1)
    [found] = [op for op in step.layers[0].operators if op.name == "activation"]
    assert isinstance(found, Pointwise)
    return found.kind


def test_activation_functions(tmp_path: Path) -> None:
    """A variant of GELU taken for something else."""
    for name in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        model = read(tmp_path, gpt2() | {"activation_function": name})
        assert function(model) is PointwiseKind.GELU
    assert function(read(tmp_path, opt_350m())) is PointwiseKind.RELU
    assert function(read(tmp_path, tiny_llama())) is PointwiseKind.SWIGLU


def test_biases_of_llama(tmp_path: Path) -> None:
    """A switch that is ignored."""
    model = read(tmp_path, tiny_llama() | {"attention_bias": True, "mlp_bias": True})
    plain = read(tmp_path, tiny_llama())
    for one, has in ((model, True), (plain, False)):
        mixer, dense = one.full_attention(), block(one)
        assert (mixer.qkv_bias, mixer.out_bias, dense.bias) == (has, has, has)


def test_sequential_residual_of_gpt_neox(tmp_path: Path) -> None:
    """A switch that is ignored."""
    for parallel in (True, False):
        model = read(tmp_path, gpt_neox() | {"use_parallel_residual": parallel})
        assert [layer.parallel for layer in model.model.layers] == [parallel]


@pytest.mark.parametrize(
    ("family", "change", "windows"),
    [
        ("mistral", {"sliding_window": 4096}, {4096: 32}),
        ("mistral", {"sliding_window": None}, {None: 32}),
        ("mixtral", {"sliding_window": 512}, {512: 32}),
        ("qwen2", {}, {None: 28}),
        ("qwen2", {"use_sliding_window": True}, {None: 28}),  # 28 of 28 layers are full
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 21}, {None: 21, 131072: 7}),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0},
            {64: 28},
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["full_attention"] * 28},
            {None: 28},
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 28},
            {131072: 28},
        ),
        (
            "qwen2",
            {
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"] * 14,
            },
            {131072: 14, None: 14},
        ),
    ],
)
def test_sliding_window(
    tmp_path: Path, family: str, change: Config, windows: dict[int | None, int]
) -> None:
    """A window that is ignored, or one that is not in use."""
    model = read(tmp_path, EXAMPLES[family] | change)
    found: dict[int | None, int] = {}
    for layer in model.model.layers:
        assert isinstance(layer.mixer, Attention)
        found[layer.mixer.window] = found.get(layer.mixer.window, 0) + layer.repeat
    assert found == windows
    step = decode_step(model, batch=1, kv_length=131073, tensor_parallel=1)
    seen = {
        op.keys: layer.runs
        for layer in step.layers
        for op in layer.operators
        if isinstance(op, AttentionOperator)
    }
    assert seen == {window or 131073: layers for window, layers in windows.items()}


def test_window_left_out_is_that_of_the_library(tmp_path: Path) -> None:
    """MistralConfig: 4096 tokens where the key is absent."""
    config = {k: v for k, v in mistral_7b().items() if k != "sliding_window"}
    assert read(tmp_path, config).full_attention().window == 4096


@pytest.mark.parametrize(
    ("change", "stored", "others"),
    [
        ({"torch_dtype": "float16"}, "fp16", "fp16"),
        ({"torch_dtype": "bfloat16"}, "bf16", "bf16"),
        ({"torch_dtype": "float32"}, "fp16", "fp16"),
        ({"torch_dtype": None}, "bf16", "bf16"),
        ({"torch_dtype": None, "dtype": "bfloat16"}, "bf16", "bf16"),
        ({"torch_dtype": "float8_e4m3fn"}, "fp8", "fp8"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8", "bf16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "int4_g128", "bf16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "int8", "bf16"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
            "int4_g128",
            "bf16",
        ),
    ],
)
def test_precision(tmp_path: Path, change: Config, stored: str, others: str) -> None:
    """Bytes of the wrong type, or quantisation of the weights taken for that of KV."""
    model = read(tmp_path, tiny_llama() | change)
    assert weights(model) is type_named(stored)
    assert model.activations is ElementType(others)
    assert model.kv is ElementType(others)


def compressed(bits: int, kind: str, **more: object) -> Config:
    """The quantization_config of llm-compressor."""
    weights = {"num_bits": bits, "type": kind, "strategy": "channel", "symmetric": True}
    group = {"weights": weights, "targets": ["Linear"], "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "config_groups": {"group_0": group},
        "ignore": ["lm_head"], "kv_cache_scheme": None, "sparsity_config": {}, **more,
    }  # fmt: skip


EIGHT_BIT_KV = {"num_bits": 8, "type": "float", "dynamic": False, "strategy": "tensor"}
MLX = {"group_size": 64, "bits": 4}


def modelopt(algorithm: str | None, kv: str | None, **more: object) -> Config:
    """The hf_quant_config.json of ModelOpt."""
    return {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": kv, **more},
    }


@pytest.mark.parametrize(
    ("change", "files", "stored", "kv"),
    [
        ({"quantization": MLX}, {}, "int4_g32", "bf16"),
        ({"quantization": MLX | {"bits": 8}}, {}, "int8", "bf16"),
        ({"quantization": MLX, "quantization_config": MLX}, {}, "int4_g32", "bf16"),
        ({"quantization": MLX | {"lm_head": False, "model.layers.0.mlp.up_proj": MLX}}, {},
         "int4_g32", "bf16"),
        ({"quantization_config": compressed(8, "float")}, {}, "fp8", "bf16"),
        ({"quantization_config": compressed(8, "int")}, {}, "int8", "bf16"),
        ({"compression_config": compressed(4, "int")}, {}, "int4", "bf16"),
        ({"quantization_config": compressed(8, "float", kv_cache_scheme=EIGHT_BIT_KV)}, {},
         "fp8", "fp8"),
        ({"quantization_config": {"quant_algo": "FP8", "kv_cache_scheme": "FP8"}}, {},
         "fp8", "fp8"),
        ({"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": [
            "lm_head", "model.norm", "model.layers.0.input_layernorm", "re:.*lm_head"]}}, {},
         "fp8", "bf16"),
        ({"kv_cache_scheme": "FP8"}, {}, "bf16", "fp8"),
        ({"kv_cache_quant_algo": "INT8"}, {}, "bf16", "int8"),
        ({"quant_method": "gptq", "bits": 4}, {}, "int4_g128", "bf16"),
        ({}, {"hf_quant_config.json": modelopt("FP8", "FP8", exclude_modules=["lm_head"])},
         "fp8", "fp8"),
        ({}, {"hf_quant_config.json": modelopt(None, "FP8")}, "bf16", "fp8"),
        ({}, {"hf_quant_config.json": modelopt("W4A16_AWQ", None)}, "int4_g128", "bf16"),
        ({}, {"quantize_config.json": {"bits": 4, "group_size": 128, "desc_act": False}},
         "int4_g128", "bf16"),
        ({}, {"quant_config.json": {"zero_point": True, "w_bit": 4, "version": "GEMM"}},
         "int4_g128", "bf16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}},
         {"quantize_config.json": {"bits": 8}}, "int8", "bf16"),
        # One place leaves keys and values open, the other does not.
        ({"quantization_config": {"quant_algo": "FP8", "kv_cache_scheme": None}},
         {"hf_quant_config.json": modelopt("FP8", "FP8")}, "fp8", "fp8"),
        ({"quantization_config": compressed(8, "int")}, {"recipe.yaml": {}}, "int8", "bf16"),
    ],
)  # fmt: skip
def test_quantisation_is_read_wherever_it_is_stated(
    tmp_path: Path, change: Config, files: dict[str, Config], stored: str, kv: str
) -> None:
    """Weights counted as 16 bits because the statement stands in another place than one."""
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    model = read(tmp_path, tiny_llama() | change)
    assert weights(model) is type_named(stored)
    assert model.kv is ElementType(kv)
    assert model.activations is ElementType.BF16
    assert "quantised as stated in" in model.model.sources["precision"]


@pytest.mark.parametrize(
    ("change", "files", "message"),
    [
        ({"quantization": MLX | {"bits": 3}}, {},
         "weights in mlx_int3_g64 are described but not priced"),
        ({"quantization": MLX | {"model.layers.0.mlp.up_proj": MLX | {"bits": 6}}}, {},
         "weights in mlx_int6_g64 are described but not priced"),
        ({"quantization": MLX | {"lm_head": MLX | {"bits": 6}}}, {},
         "weights in mlx_int6_g64 are described but not priced"),
        ({"quantization": MLX | {"mode": "mxfp4"}}, {}, "bits = 4 in mode 'mxfp4'"),
        ({"quantization": "q4f16_1"}, {}, "quantization: should be a table .*'q4f16_1'"),
        ({"quip_params": {"codebook": "E8P12"}}, {}, "quip_params = {'codebook': 'E8P12'}"),
        ({"load_in_4bit": True}, {}, "load_in_4bit = True"),
        ({"bits": 4}, {}, "missing key 'quant_method'"),
        ({"quantization_config": {"quant_method": "exl2", "bits": 4.25}}, {},
         "'exl2' is not supported"),
        ({"quantization_config": {"quant_method": "modelopt"}}, {},
         "quant_method = 'modelopt' without quant_algo"),
        ({"quantization_config": {"quant_algo": "FP8", "kv_cache_scheme": "NVFP4"}}, {},
         "keys and values in nvfp4 are described but not priced"),
        ({"quantization_config": compressed(4, "float")}, {}, "num_bits = 4 and type = 'float'"),
        ({"quantization_config": compressed(8, "int", sparsity_config={"format": "2:4"})},
         {}, "sparsity_config = {'format': '2:4'}"),
        ({}, {"hf_quant_config.json": modelopt("MIXED_PRECISION", None)},
         "'MIXED_PRECISION' without quantized_layers"),
        ({}, {"hf_quant_config.json": {}}, "hf_quant_config.json: quantization: should be a table"),
        ({}, {"quantize_config.json": {"bits": 3, "group_size": 128}},
         "weights in gptq_int3_g128 are described but not priced"),
        ({}, {"recipe.yaml": {}}, "recipe.yaml: states how the weights were compressed"),
        ({}, {"quanto_qmap.json": {}}, "quanto_qmap.json: seems to state a quantisation"),
        ({"quantization_config": {"quant_method": "fp8"}}, {"quantize_config.json": {"bits": 4}},
         "different types: self_attn.q_proj of layer 0 is fp8 in .*, .*quantize_config.json"),
        ({"kv_cache_quant_algo": "INT8"}, {"hf_quant_config.json": modelopt("FP8", "FP8")},
         "keys and values are stated to be of different types: int8 in .*, fp8 in"),
    ],
)  # fmt: skip
def test_quantisation_that_is_not_read_is_refused(
    tmp_path: Path, change: Config, files: dict[str, Config], message: str
) -> None:
    """Weights counted as 16 bits because what is stated about them was not understood."""
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, tiny_llama() | change)
    assert "describe the model in a TOML document (docs/howto/models.md)" in str(error.value)


UP, DOWN, QUERIES = "mlp.up_proj", "mlp.down_proj", "self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "files", "expected"),
    [
        ({"quantization": MLX | {"model.layers.0.mlp.up_proj": MLX | {"bits": 8}}}, {},
         {UP: {"int8": 1, "int4_g32": 21}, DOWN: {"int4_g32": 22}}),
        ({"quantization": MLX | {"model.layers.0.mlp.up_proj": False}}, {},
         {UP: {"bf16": 1, "int4_g32": 21}, DOWN: {"int4_g32": 22}}),
        ({"quantization_config": compressed(8, "int", ignore=["model.layers.21.mlp.up_proj"])},
         {}, {UP: {"int8": 21, "bf16": 1}, DOWN: {"int8": 22}}),
        ({"quantization_config":
            {"quant_method": "gptq", "bits": 4, "dynamic": {".*up_proj": {"bits": 8}}}}, {},
         {UP: {"int8": 22}, DOWN: {"int4_g128": 22}, QUERIES: {"int4_g128": 22}}),
        ({}, {"hf_quant_config.json": modelopt("NVFP4", "FP8", group_size=16)},
         {UP: {"nvfp4": 22}, QUERIES: {"nvfp4": 22}}),
        ({}, {"hf_quant_config.json": modelopt("FP8", None, exclude_modules=["*.self_attn*"])},
         {UP: {"fp8": 22}, DOWN: {"fp8": 22}, QUERIES: {"bf16": 22}}),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128],
                                  "modules_to_not_convert": ["model.layers.3"]}}, {},
         {UP: {"fp8_block": 21, "bf16": 1}, QUERIES: {"fp8_block": 21, "bf16": 1}}),
    ],
)  # fmt: skip
def test_weights_of_several_formats_are_priced_as_stored(
    tmp_path: Path,
    change: Config,
    files: dict[str, Config],
    expected: dict[str, dict[str, int]],
) -> None:
    """A format that is taken for all weights, or layers of it that are counted wrongly."""
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    model = read(tmp_path, tiny_llama() | change)
    step = decode_step(model, batch=1, kv_length=1, tensor_parallel=1)
    products = {UP: "ff1", QUERIES: "qkv"}
    for name, formats in expected.items():
        found: dict[str, int] = {}
        priced: dict[str, int] = {}
        for group, layer in zip(model.groups, step.layers, strict=True):
            assert layer.runs == group.count
            stored = group.stored_as(name).value
            found[stored] = found.get(stored, 0) + group.count
            for op in layer.operators:
                if isinstance(op, MatMul) and op.name == products.get(name):
                    priced[op.right.value] = priced.get(op.right.value, 0) + layer.runs
        assert found == formats
        assert priced == (formats if name in products else {})


def test_only_files_of_the_same_model_are_read(tmp_path: Path) -> None:
    """The quantisation of a neighbour in a folder of many configurations."""
    for name, content in (
        ("a_config.json", tiny_llama()),
        ("a_hf_quant_config.json", modelopt("FP8", "FP8")),
        ("b_config.json", tiny_llama()),
        ("plain.json", tiny_llama()),
    ):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    assert weights(load_model(str(tmp_path / "a_config.json"))) is ElementType.FP8
    assert weights(load_model(str(tmp_path / "b_config.json"))) is ElementType.BF16
    assert weights(load_model(str(tmp_path / "plain.json"))) is ElementType.BF16


def test_float32_is_said_to_be_served_in_fp16(tmp_path: Path) -> None:
    """A change of precision that the reader is not told of."""
    assert (
        "fp16"
        in read(tmp_path, tiny_llama() | {"torch_dtype": "float32"}).model.sources["precision"]
    )
    assert "precision" not in read(tmp_path, tiny_llama()).model.sources


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"num_key_value_heads": 3},
         "num_key_value_heads = 3 does not divide num_attention_heads = 32: .* 2, 4"),
        ("llama", {"num_attention_heads": 7},
         "num_attention_heads = 7 does not divide hidden_size = 2048: .* 8, 4"),
        ("gpt2", {"n_head": 7}, "n_head = 7 does not divide n_embd = 768: .* 6, 8"),
        ("opt", {"num_attention_heads": 7}, "num_attention_heads = 7 does not divide"),
        ("gpt_neox", {"num_attention_heads": 7}, "num_attention_heads = 7 does not divide"),
        ("mixtral", {"num_experts_per_tok": 9},
         "num_experts_per_tok = 9 is more than num_local_experts = 8"),
        ("llama", {"hidden_size": 0}, "hidden_size: 0 is out of range"),
        ("llama", {"hidden_size": -1}, "hidden_size: -1 is out of range"),
        ("llama", {"hidden_size": "2048"}, "hidden_size: '2048' is no whole number"),
        ("llama", {"hidden_size": 2048.0}, "hidden_size: 2048.0 is no whole number"),
        ("llama", {"hidden_size": True}, "hidden_size: True is no whole number"),
        ("llama", {"hidden_size": None}, "hidden_size: None is no whole number"),
        ("llama", {"hidden_size": math.nan}, "is not valid JSON: NaN is no number of JSON"),
        ("llama", {"hidden_size": 10**40}, "hidden_size: .*is out of range .*16777216"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act: 'gelu' is unknown"),
        ("opt", {"activation_function": "tanh"}, "activation_function: 'tanh'"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention: True"),
        ("llama", {"torch_dtype": "int8"}, "torch_dtype = 'int8' is not supported"),
        ("llama", {"dtype": "float16"}, "dtype = 'float16' and torch_dtype = 'bfloat16' disagree"),
        ("llama", {"quantization_config": {"quant_method": "bitsandbytes"}},
         "quant_method = 'bitsandbytes' with load_in_4bit = False"),
        ("llama", {"quantization_config": {}}, "missing key 'quant_method'"),
        ("llama", {"quantization_config": 4}, "quantization_config: .*not 4"),
        ("qwen2", {"layer_types": ["linear_attention"]}, "layer_types.*'linear_attention'"),
    ],
)  # fmt: skip
def test_impossible_configuration_is_refused(
    tmp_path: Path, family: str, change: Config, message: str
) -> None:
    """A fault that passes, or whose message does not name file, field and value."""
    path = written(tmp_path, EXAMPLES[family] | change)
    with pytest.raises(InputError, match=message) as error:
        load_model(str(path))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("gpt2", "attention_head_type", "multiquery"),
        ("gpt2", "num_key_value_heads", 1),
        ("gpt2", "head_dim", 128),
        ("gpt2", "position_embedding_type", "alibi"),
        ("opt", "multi_query", True),
        ("gpt_neox", "n_head_kv", 8),
        ("gpt_neox", "new_decoder_architecture", True),
        ("llama", "num_key_value_heads_per_layer", [4, 4, 8]),
        ("llama", "kv_lora_rank", 512),
        ("llama", "sliding_window", 4096),
        ("llama", "layer_types", ["full_attention", "sliding_attention"] * 11),
        ("llama", "index_topk", 2048),
        ("llama", "ssm_state_size", 128),
        ("llama", "conv_kernel", 4),
        ("llama", "num_nextn_predict_layers", 1),
        ("llama", "text_config", {"hidden_size": 8}),
        ("llama", "parallel_attn", True),
        ("llama", "pruned_heads", {"0": [1]}),
        ("llama", "moe_of_tomorrow", 3),  # told by its name
        ("llama", "architectures", ["Qwen3MoeForCausalLM"]),
        ("llama", "architectures", "LlavaLlamaForCausalLM"),
        ("llama", "auto_map", {"AutoModelForCausalLM": "org--modeling.DeciLMForCausalLM"}),
        ("llama", "auto_map", "DeciLMForCausalLM"),
        ("mistral", "num_local_experts", 8),
        ("mistral", "attention_bias", True),
        ("mistral", "layer_types", ["full_attention"] * 32),
        ("mixtral", "mlp_only_layers", [0]),
        ("qwen2", "layer_types", ["full_attention"] * 3),
        ("qwen3", "num_experts", 128),
    ],
)
def test_key_that_contradicts_the_family_is_refused(
    tmp_path: Path, family: str, key: str, value: object
) -> None:
    """Another model computed than the file describes, without a word.

    A key that is ignored changes the cache of a GPT-2 sixteen-fold (multi-query), or leaves out
    the experts of a Mistral.
    """
    with pytest.raises(DocumentError, match=key) as error:
        read(tmp_path, EXAMPLES[family] | {key: value})
    assert "TOML document (docs/howto/models.md)" in str(error.value) or "remove the key" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("gpt2", {"attention_head_type": "multihead", "multi_query": False, "hidden_size": 768}),
        ("gpt2", {"head_dim": 64, "num_key_value_heads": 12}),
        ("gpt_neox", {"partial_rotary_factor": 0.25, "n_head_kv": 64}),
        ("llama", {"num_local_experts": 1, "num_experts_per_tok": 1, "num_experts": 0}),
        ("llama", {"num_key_value_heads_per_layer": [4] * 22, "kv_lora_rank": None}),
        ("llama", {"layer_types": ["full_attention"] * 22, "pruned_heads": {}}),
        ("llama", {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 8}),
        ("llama", {"router_aux_loss_coef": 0.001, "_pre_quantization_dtype": "bfloat16"}),
        ("llama", {"rope_scaling": {"type": "linear"}, "original_max_position_embeddings": 8192}),
        ("llama", {"architectures": ["LLaMAForCausalLM"]}),
        ("llama", {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None],
                                "AutoConfig": "configuration_llama.LlamaConfig"}}),
        ("mistral", {"layer_types": ["sliding_attention"] * 32, "attention_bias": False}),
        ("mixtral", {"router_jitter_noise": 0.0, "output_router_logits": True}),
        ("qwen2", {"attention_bias": True, "architectures": ["Qwen2ForSequenceClassification"]}),
    ],
)  # fmt: skip
def test_key_that_changes_nothing_is_accepted(tmp_path: Path, family: str, change: Config) -> None:
    """A published file refused for what is not in use, or says the same again."""
    ignored = {"sources"}
    plain, changed = read(tmp_path, EXAMPLES[family]), read(tmp_path, EXAMPLES[family] | change)
    assert changed.model.model_dump(exclude=ignored) == plain.model.model_dump(exclude=ignored)
    assert (changed.formats, changed.activations, changed.kv) == (
        plain.formats, plain.activations, plain.kv
    )  # fmt: skip


def test_multi_query_gpt2_can_be_described(tmp_path: Path) -> None:
    """The way out that the refusal names, if it did not lead to the right cache.

    SantaCoder (24 layers, 16 heads of 128, one key/value head): 2 * 24 * 128 * 2 bytes a token.
    """
    santa = gpt2() | {"n_embd": 2048, "n_head": 16, "n_layer": 24, "n_positions": 2048}
    with pytest.raises(DocumentError, match="attention_head_type = 'multiquery'"):
        read(tmp_path, santa | {"attention_head_type": "multiquery"})
    base = MODELS.load("gpt3-13b").model_dump(mode="json")
    sizes: dict[str, object] = {"name": "santacoder", "family": "gpt2"}
    document = base | sizes | {
        "layers": 24, "hidden_size": 2048, "heads": 16, "kv_heads": 1, "head_dim": 128,
    }  # fmt: skip
    path = tmp_path / "santacoder.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert kv_bytes_per_token(load_model(str(path))) == 12_288


REQUIRED = {
    "gpt2": ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size"),
    "opt": ("hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim",
            "max_position_embeddings", "vocab_size"),
    "gpt_neox": ("hidden_size", "num_hidden_layers", "num_attention_heads",
                 "intermediate_size", "vocab_size"),
    **dict.fromkeys(
        ("llama", "mistral", "mixtral", "qwen2", "qwen3"),
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "vocab_size"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", EXAMPLES)
def test_missing_size_is_refused(tmp_path: Path, family: str) -> None:
    """A size filled in with that of another model."""
    for key in (*REQUIRED[family], "model_type"):
        config = {k: v for k, v in EXAMPLES[family].items() if k not in (key, "architectures")}
        with pytest.raises(DocumentError, match=f"config.json: {key}: missing key '{key}'"):
            read(tmp_path, config)


@pytest.mark.parametrize("family", ["lama", "qwen2_5_moe", "qwen9_moe", "deepseek_v5", "llava"])
def test_unknown_family_is_refused(tmp_path: Path, family: str) -> None:
    """A family computed as a similar one: experts, latent attention or vision left out.

    Nor may the message lead there: read as qwen3, which is near, qwen3_moe of 30.5 B parameters
    has 3.3 B.
    """
    config = tiny_llama() | {"model_type": family, "text_config": tiny_llama()}
    with pytest.raises(UnknownNameError, match=f"unknown model family '{family}'") as error:
        read(tmp_path, config)
    message = str(error.value)
    assert "did you mean" not in message
    assert "describe the model in a TOML document (docs/howto/models.md)" in message
    assert ", ".join(sorted({*families(), *wrappers()})) in message


@pytest.mark.parametrize("family", [None, 3, ["llama"], {}])
def test_family_of_another_type_is_refused(tmp_path: Path, family: object) -> None:
    """A lookup that fails on what is no text."""
    with pytest.raises(DocumentError, match="model_type"):
        read(tmp_path, tiny_llama() | {"model_type": family})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.integers(-2, 70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([2**24, 2**24 - 1, 2**22, "float16", "gelu", "silu", "full_attention"]),
)
OPTIONAL = (
    "head_dim", "torch_dtype", "dtype", "quantization_config", "layer_types", "n_inner",
    "word_embed_proj_dim", "use_sliding_window", "sliding_window", "max_window_layers",
    "attention_bias", "_remove_final_layer_norm", "quantization", "kv_cache_scheme", "bits",
    "architectures", "auto_map", "num_experts", "head_type", "n_head_kv",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> Config:
    """A configuration of some family with values replaced or left out."""
    config = dict(EXAMPLES[draw(st.sampled_from(sorted(EXAMPLES)))])
    keys = st.sampled_from(sorted({*config, *OPTIONAL}))
    for key in draw(st.lists(keys, min_size=1, max_size=3)):
        if draw(st.booleans()):
            config.pop(key, None)
        else:
            config[key] = draw(VALUES)
    return config


@pytest.mark.untraced  # of many files alike
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=share.examples(__name__, 500, 150),
)
@given(config=damaged())
def test_damaged_configuration_is_read_or_refused(tmp_path: Path, config: Config) -> None:
    """A document that leads to a traceback, or to a model that cannot be."""
    refusal = ""
    model = None
    try:
        model = read(tmp_path, config)
    except AttaccError as error:
        refusal = str(error)
    if model is None:
        assert refusal.startswith(str(tmp_path))
        return
    counts = count_parameters(model)
    assert 0 < counts.active <= counts.total
    assert model.full_attention().heads % model.full_attention().kv_heads == 0
    stored = [layer.mixer.stored(2.0) for layer in model.model.layers if layer.mixer is not None]
    assert all((one.per_token > 0) != (one.per_request > 0) for one in stored)
    assert (kv_bytes_per_token(model) > 0) == any(one.per_token > 0 for one in stored)
    assert activation_bytes(model, tokens=2, sequences=1) > 0


def small(layers: int, kv_heads: int, group: int, dim: int, experts: int) -> Config:
    heads = kv_heads * group
    return rotary(
        "mixtral", layers, heads * dim, heads, kv_heads, 3 * dim, 97,
        num_local_experts=experts, num_experts_per_tok=1 + experts // 3,
    )  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layers=st.integers(1, 8),
    kv_heads=st.integers(1, 8),
    group=st.integers(1, 8),
    dim=st.integers(1, 64),
    experts=st.integers(1, 12),
)
def test_smaller_models_hold_and_compute_less(
    tmp_path: Path, layers: int, kv_heads: int, group: int, dim: int, experts: int
) -> None:
    """A term of the wrong sign, or a size that does not enter."""
    model = read(tmp_path, small(layers, kv_heads, group, dim, experts))
    larger = read(tmp_path, small(layers + 1, kv_heads, group, dim + 1, experts))
    assert 0 < count_parameters(model).total < count_parameters(larger).total
    assert kv_bytes_per_token(model) < kv_bytes_per_token(larger)
    decode = decode_step(model, batch=3, kv_length=5, tensor_parallel=kv_heads)
    prefill = prefill_step(model, batch=3, prompt_length=5, tensor_parallel=kv_heads)
    for step in (decode, prefill):
        assert step.layer_count == layers
        operators = step.layers[0].operators
        [chosen] = [op for op in operators if isinstance(op, ExpertsOperator)]
        assert len(operators) - 1 + len(chosen.products()) >= 10


@pytest.mark.untraced  # of many files alike
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=share.examples(__name__, 300, 90),
)
@given(data=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_random_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    """Bytes whose reading raises something other than an error of this project."""
    for name in ("config.json", "model.toml"):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(AttaccError):
            load_model(str(path))


def hub_cache(root: Path, repository: str, config: Config) -> Path:
    """A repository in the cache of the Hugging Face Hub: every file is a link to a blob."""
    folder = root / f"models--{repository.replace('/', '--')}"
    revision = folder / "snapshots" / "0123abcd"
    (folder / "blobs").mkdir(parents=True)
    revision.mkdir(parents=True)
    (folder / "blobs" / "fedc").write_text(json.dumps(config), encoding="utf-8")
    (revision / "config.json").symlink_to(Path("..", "..", "blobs", "fedc"))
    return revision


def test_model_in_the_hub_cache_is_named_by_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cached model called "blobs", where its links lead to, or by a hash."""
    revision = hub_cache(tmp_path, "org/My-Model", tiny_llama())
    assert load_model(str(revision)).name == "org/My-Model"
    assert load_model(f"{revision}/config.json").name == "org/My-Model"
    assert load_model(str(hub_cache(tmp_path, "gpt2", gpt2()))).name == "gpt2"
    monkeypatch.chdir(revision)
    assert load_model("config.json").name == "org/My-Model"


def test_quantisation_in_the_hub_cache_is_found(tmp_path: Path) -> None:
    """Files beside a link looked for where it leads to."""
    revision = hub_cache(tmp_path, "org/model", tiny_llama())
    text = json.dumps(modelopt("FP8", "FP8"))
    (revision / "hf_quant_config.json").write_text(text, encoding="utf-8")
    assert weights(load_model(str(revision))) is ElementType.FP8


def test_model_is_named_by_its_folder_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that depends on how the path is written, or on where a link leads."""
    folder = tmp_path / "zoo" / "tiny"
    folder.mkdir(parents=True)
    written(folder, tiny_llama())
    (tmp_path / "mine").symlink_to(folder)
    assert load_model(str(tmp_path / "mine")).name == "mine"
    assert load_model(f"{tmp_path}/zoo/./tiny/").name == "tiny"
    assert load_model(f"{tmp_path}/zoo/../zoo/tiny").name == "tiny"
    # The parent of a link is the parent of where it leads to.
    written(folder.parent, gpt2())
    assert load_model(f"{tmp_path}/mine/../config.json").name == "zoo"
    monkeypatch.chdir(folder)
    for name in (".", "./", "config.json", "./config.json", "../tiny"):
        assert load_model(name).name == "tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/name", "--model: org/name: no such file or folder, and no model hub is asked"),
        ("org/name", "download the model's config.json and give its path, or name a preset: code"),
        ("model.gguf", "model.gguf: is a GGUF file of weights, which is not read .give the config"),
        ("a/model-00001-of-00002.safetensors", "is a safetensors file of weights"),
        ("model.ZIP", "is an archive"),
        ("pytorch_model.bin", "is a file of weights"),
        ("recipe.yaml", "is a YAML file"),
        ("notes.txt", "notes.txt: unknown file kind '.txt'"),
        ("README", "README: unknown file kind ''"),
    ],
)  # fmt: skip
def test_what_is_no_description_is_said_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    """An unknown preset, or a file without a suffix, where something else was meant."""
    monkeypatch.chdir(tmp_path)
    for file in ("model.gguf", "notes.txt", "README"):
        (tmp_path / file).write_bytes(b"GGUF")
    with pytest.raises(DocumentError, match=message):
        load_model(name, where="--model")


def test_folder_of_a_cached_repository_leads_to_its_revision(tmp_path: Path) -> None:
    """A dead end, one folder away from the model."""
    revision = hub_cache(tmp_path, "org/model", tiny_llama())
    with pytest.raises(DocumentError, match=f"give the folder of a revision: {revision}"):
        load_model(str(revision.parents[1]))


PUBLISHED: dict[str, tuple[int, float, str, str]] = {
    "Qwen--Qwen3-0.6B": (596_049_920, 114_688, "bf16", "bf16"),
    "Qwen--Qwen3-8B": (8_190_735_360, 147_456, "bf16", "bf16"),
    "Qwen--Qwen3-32B-FP8": (32_762_123_264, 262_144, "fp8_block", "bf16"),
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": (32_762_123_264, 131_072, "fp8", "fp8"),
    "Qwen--Qwen3-235B-A22B-FP8": (235_093_634_560, 192_512, "fp8_block", "bf16"),
    "Qwen--Qwen3-30B-A3B": (30_532_122_624, 98_304, "bf16", "bf16"),
    "Qwen--Qwen3-30B-A3B-FP8": (30_532_122_624, 98_304, "fp8_block", "bf16"),
    "Qwen--Qwen3-VL-235B-A22B-Instruct": (235_093_634_560, 192_512, "bf16", "bf16"),
    "Qwen--Qwen3-VL-2B-Instruct": (1_720_574_976, 114_688, "bf16", "bf16"),
    "Qwen--Qwen3-VL-32B-Thinking": (32_762_123_264, 262_144, "bf16", "bf16"),
    "Qwen--Qwen3-VL-4B-Instruct": (4_022_468_096, 147_456, "bf16", "bf16"),
    "XiaomiMiMo--MiMo-7B-Base": (7_622_619_136, 147_456, "bf16", "bf16"),
    "meta-llama--Meta-Llama-3.1-8B": (8_030_261_248, 131_072, "bf16", "bf16"),
    "meta-llama--Meta-Llama-3.1-405B": (405_853_388_800, 516_096, "bf16", "bf16"),
    "mistralai--Mixtral-8x22B-v0.1": (140_620_634_112, 229_376, "bf16", "bf16"),
    "nvidia--Llama-3.1-70B-Instruct-FP8": (70_553_706_496, 163_840, "fp8", "fp8"),
}
"""Parameters, bytes of keys and values per token, types of weights and of keys and values."""


@pytest.mark.untraced  # of 58 files
def test_published_files_are_read_right(reference: Path) -> None:
    """A published file that is priced as another model, or refused.

    The 70B in FP8 states so only in the file beside its config.json, and counted as 16 bits.
    """
    folder = reference / "data" / "model_configs"
    found: dict[str, tuple[int, float, str, str]] = {}
    for path in sorted(folder.glob("*_config.json")):
        if path.name.endswith("_hf_quant_config.json"):
            continue
        model = load_model(str(path))
        found[path.name.removesuffix("_config.json")] = (
            count_parameters(model).total,
            kv_bytes_per_token(model),
            model.weights_name,
            model.kv.value,
        )
    assert len(found) == 58
    assert {name: found[name] for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_document_may_change_a_preset(suffix: str, tmp_path: Path) -> None:
    """Catches a document with a base that is taken for a config.json."""
    path = tmp_path / f"small{suffix}"
    text = 'base = "llama-3.1-8b"\nlayers = 16\n'
    path.write_text(text if suffix == ".toml" else '{"base": "llama-3.1-8b", "layers": 16}')
    small, whole = load_model(str(path)), load_model("llama-3.1-8b")
    assert (small.name, small.model.layer_count) == ("small", 16)
    told = {name: getattr(whole.model, name) for name in ("name", "description", "sources")}
    layers = tuple(layer.model_copy(update={"repeat": 32}) for layer in small.model.layers)
    assert small.model.model_copy(update=told | {"layers": layers}) == whole.model
    assert (small.formats, small.activations, small.kv) == (
        whole.formats, whole.activations, whole.kv
    )  # fmt: skip
