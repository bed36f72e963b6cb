"""Hugging Face configurations: published ones, and bad ones."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacc.errors import AttaccError, DocumentError, InputError, UnknownNameError
from attacc.models.architecture import Activation, ModelSpec
from attacc.models.huggingface import FAMILIES, load_model, model_from_config
from attacc.models.parameters import activation_bytes, count_parameters, kv_bytes_per_token
from attacc.models.precision import ElementType
from attacc.models.steps import decode_step, prefill_step

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


def read(folder: Path, config: object) -> ModelSpec:
    return model_from_config(written(folder, config))


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


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("mixtral-8x7b", mixtral()),
        ("qwen3-32b", qwen3(64, 5120, 64, 8, 25600, 151936, tied=False)),
        ("opt-66b", opt(9216, 64, 72)),
        ("llama-2-70b", rotary("llama", 80, 8192, 64, 8, 28672, 32000, torch_dtype="float16")),
    ],
)
def test_config_and_preset_agree(tmp_path: Path, preset: str, config: Config) -> None:
    """A preset and a configuration of the same model that are computed differently."""
    ignored = {"name", "description", "sources", "family", "max_context"}
    model, shipped = read(tmp_path, config), load_model(preset)
    assert model.model_dump(exclude=ignored) == shipped.model_dump(exclude=ignored)


def test_every_family_has_an_example() -> None:
    """A family without a test of its parameters."""
    assert set(EXAMPLES) == set(FAMILIES)


def test_key_value_heads_left_out_are_query_heads(tmp_path: Path) -> None:
    """MHA read as something else; a family whose default is another model's size."""
    llama = {k: v for k, v in tiny_llama().items() if k != "num_key_value_heads"}
    assert read(tmp_path, llama).kv_heads == 32
    for family in ("llama", "mistral", "mixtral", "qwen2", "qwen3"):
        null = EXAMPLES[family] | {"num_key_value_heads": None}
        assert read(tmp_path, null).group_size == 1
    mistral = {k: v for k, v in mistral_7b().items() if k != "num_key_value_heads"}
    with pytest.raises(DocumentError, match="missing key 'num_key_value_heads'"):
        read(tmp_path, mistral)


def test_multi_query_attention(tmp_path: Path) -> None:
    """One key/value head for all."""
    model = read(tmp_path, tiny_llama() | {"num_key_value_heads": 1})
    assert model.group_size == 32
    assert kv_bytes_per_token(model) == 2 * 64 * 22 * 2


def test_head_dim_is_given_or_derived(tmp_path: Path) -> None:
    """A head_dim that is ignored, or derived for Qwen3, which states it."""
    assert read(tmp_path, tiny_llama()).head_dim == 64
    assert read(tmp_path, tiny_llama() | {"head_dim": None}).head_dim == 64
    assert read(tmp_path, tiny_llama() | {"head_dim": 80}).head_dim == 80
    with pytest.raises(DocumentError, match="head_dim"):
        read(tmp_path, EXAMPLES["qwen3"] | {"head_dim": None})


def test_gpt2_inner_size(tmp_path: Path) -> None:
    """The block's size ignored, or null not taken as four times the hidden size."""
    assert read(tmp_path, gpt2()).feed_forward.intermediate_size == 3072
    assert read(tmp_path, gpt2() | {"n_inner": None}).feed_forward.intermediate_size == 3072
    assert read(tmp_path, gpt2() | {"n_inner": 100}).feed_forward.intermediate_size == 100


def test_activation_functions(tmp_path: Path) -> None:
    """A variant of GELU taken for something else."""
    for name in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        model = read(tmp_path, gpt2() | {"activation_function": name})
        assert model.feed_forward.activation is Activation.GELU
    assert read(tmp_path, opt_350m()).feed_forward.activation is Activation.RELU


def test_biases_of_llama(tmp_path: Path) -> None:
    """A switch that is ignored."""
    model = read(tmp_path, tiny_llama() | {"attention_bias": True, "mlp_bias": True})
    assert model.biases.qkv
    assert model.biases.out
    assert model.biases.ffn


def test_sequential_residual_of_gpt_neox(tmp_path: Path) -> None:
    """A switch that is ignored."""
    assert read(tmp_path, gpt_neox()).parallel_residual
    assert not read(tmp_path, gpt_neox() | {"use_parallel_residual": False}).parallel_residual


@pytest.mark.parametrize(
    ("family", "change", "window"),
    [
        ("mistral", {"sliding_window": 4096}, 4096),
        ("mistral", {"sliding_window": None}, None),
        ("mixtral", {"sliding_window": 512}, 512),
        ("qwen2", {}, None),
        ("qwen2", {"use_sliding_window": True}, None),  # 28 of 28 layers are full
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 21}, 131072),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}, 64),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["full_attention"] * 28},
            None,
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 28},
            131072,
        ),
    ],
)
def test_sliding_window(tmp_path: Path, family: str, change: Config, window: int | None) -> None:
    """A window that is ignored, or one that is not in use."""
    model = read(tmp_path, EXAMPLES[family] | change)
    assert model.sliding_window == window
    if window is not None:
        with pytest.raises(InputError, match="exceed the sliding window"):
            decode_step(model, batch=1, kv_length=window + 1, tensor_parallel=1)


def test_window_left_out_is_that_of_the_library(tmp_path: Path) -> None:
    """MistralConfig: 4096 tokens where the key is absent."""
    config = {k: v for k, v in mistral_7b().items() if k != "sliding_window"}
    assert read(tmp_path, config).sliding_window == 4096


@pytest.mark.parametrize(
    ("change", "weights", "others"),
    [
        ({"torch_dtype": "float16"}, "fp16", "fp16"),
        ({"torch_dtype": "bfloat16"}, "bf16", "bf16"),
        ({"torch_dtype": "float32"}, "fp16", "fp16"),
        ({"torch_dtype": None}, "fp16", "fp16"),
        ({"torch_dtype": None, "dtype": "bfloat16"}, "bf16", "bf16"),
        ({"torch_dtype": "float8_e4m3fn"}, "fp8", "fp8"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8", "bf16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "int4", "bf16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "int8", "bf16"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
            "int4",
            "bf16",
        ),
    ],
)
def test_precision(tmp_path: Path, change: Config, weights: str, others: str) -> None:
    """Bytes of the wrong type, or quantisation of the weights taken for that of KV."""
    precision = read(tmp_path, tiny_llama() | change).precision
    assert precision.weights is ElementType(weights)
    assert precision.activations is ElementType(others)
    assert precision.kv is ElementType(others)


def test_float32_is_said_to_be_served_in_fp16(tmp_path: Path) -> None:
    """A change of precision that the reader is not told of."""
    assert "fp16" in read(tmp_path, tiny_llama() | {"torch_dtype": "float32"}).sources["precision"]
    assert "precision" not in read(tmp_path, tiny_llama()).sources


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
        ("llama", {"hidden_size": 0}, "hidden_size: .* greater than 0, not 0"),
        ("llama", {"hidden_size": -1}, "hidden_size: .* greater than 0, not -1"),
        ("llama", {"hidden_size": "2048"}, "hidden_size: .* integer, not '2048'"),
        ("llama", {"hidden_size": 2048.0}, "hidden_size: .* integer, not 2048.0"),
        ("llama", {"hidden_size": True}, "hidden_size: .* integer, not True"),
        ("llama", {"hidden_size": None}, "hidden_size: .* integer, not None"),
        ("llama", {"hidden_size": math.nan}, "is not valid JSON: NaN is no number of JSON"),
        ("llama", {"hidden_size": 10**40}, "hidden_size: .* less than or equal to 16777216"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act: .*'silu', not 'gelu'"),
        ("opt", {"activation_function": "tanh"}, "activation_function: .* not 'tanh'"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention: .* not True"),
        ("llama", {"torch_dtype": "int8"}, "torch_dtype: .* not 'int8'"),
        ("llama", {"dtype": "float16"}, "dtype = 'float16' and torch_dtype = 'bfloat16' disagree"),
        ("llama", {"quantization_config": {"quant_method": "bitsandbytes"}},
         "'bitsandbytes' is not supported: choose from fp8, gptq .4 bits., gptq .8 bits., awq"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 3}},
         "'gptq' with bits = 3 is not supported"),
        ("llama", {"quantization_config": {}}, "missing key 'quant_method'"),
        ("llama", {"quantization_config": 4}, "quantization_config: .* not 4"),
        ("qwen2", {"layer_types": ["linear_attention"]}, "layer_types.* not 'linear_attention'"),
    ],
)  # fmt: skip
def test_impossible_configuration_is_refused(
    tmp_path: Path, family: str, change: Config, message: str
) -> None:
    """A fault that passes, or whose message does not name file, field and value."""
    path = written(tmp_path, EXAMPLES[family] | change)
    with pytest.raises(DocumentError, match=message) as error:
        model_from_config(path)
    assert str(error.value).startswith(str(path))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_size_is_refused(tmp_path: Path, family: str) -> None:
    """A size filled in with that of another model."""
    for key in (*REQUIRED[family], "model_type"):
        config = {k: v for k, v in EXAMPLES[family].items() if k != key}
        with pytest.raises(DocumentError, match=f"config.json: {key}: missing key '{key}'"):
            read(tmp_path, config)


@pytest.mark.parametrize(
    ("family", "nearest"),
    [
        ("lama", "did you mean 'llama'"),
        ("qwen2_moe", "did you mean 'qwen2'"),
        ("qwen3_moe", "did you mean 'qwen3'"),
        ("deepseek_v3", "choose from gpt2, gpt_neox, llama"),
        ("llava", "did you mean 'llama'"),
    ],
)
def test_unknown_family_is_refused(tmp_path: Path, family: str, nearest: str) -> None:
    """A family computed as a similar one: experts, latent attention or vision left out."""
    config = tiny_llama() | {"model_type": family, "text_config": tiny_llama()}
    with pytest.raises(UnknownNameError, match=f"unknown model family '{family}' .*{nearest}"):
        read(tmp_path, config)


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
    "attention_bias", "_remove_final_layer_norm",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> Config:
    """A configuration of some family with values replaced or left out."""
    config = dict(EXAMPLES[draw(st.sampled_from(FAMILIES))])
    keys = st.sampled_from(sorted({*config, *OPTIONAL}))
    for key in draw(st.lists(keys, min_size=1, max_size=3)):
        if draw(st.booleans()):
            config.pop(key, None)
        else:
            config[key] = draw(VALUES)
    return config


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=500)
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
    assert model.heads % model.kv_heads == 0
    assert kv_bytes_per_token(model) > 0
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
        assert step.layers == layers
        assert len(step.layer) >= 10


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_random_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    """Bytes whose reading raises something other than an error of this project."""
    for name in ("config.json", "model.toml"):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(AttaccError):
            load_model(str(path))
