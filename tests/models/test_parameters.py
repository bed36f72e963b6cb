"""Parameter counts against published ones; bytes of weights, KV and activations."""

import math

import pytest

from attacc.errors import InputError
from attacc.models.architecture import MODELS, Activation, Biases, FeedForward, ModelSpec
from attacc.models.feedforward import Dense
from attacc.models.huggingface import load_model
from attacc.models.parameters import (
    activation_bytes,
    count_parameters,
    kv_bytes_per_token,
    weight_bytes,
)
from attacc.models.precision import ElementType, Precision
from attacc.models.served import served, valid_tensor_parallel

PUBLISHED_PARAMETERS = {
    # arXiv 2005.14165, table D.1, "Params (M)": 12,850 and 174,600
    "gpt3-13b": 12.850e9,
    "gpt3-175b": 174.600e9,
    # arXiv 2302.13971, table 2: 65.2B
    "llama-65b": 65.2e9,
    # arXiv 2201.11990, title and section 3.2: 530B
    "mt-nlg-530b": 530e9,
    # arXiv 2205.01068, table 1, names the size only: 66B
    "opt-66b": 66e9,
    # Hugging Face Hub, safetensors' metadata of each repository ("model size" on its page)
    "llama-2-7b": 6.738e9,
    "llama-2-70b": 68.977e9,
    "llama-3.1-8b": 8.030e9,
    "llama-3.1-70b": 70.554e9,
    "llama-3.1-405b": 405.853e9,
    "qwen3-32b": 32.762e9,
    "qwen3-14b": 14.768e9,
    "qwen2.5-7b": 7.616e9,
    "codellama-34b": 33.744e9,
    "mixtral-8x7b": 46.703e9,
    "mixtral-8x22b": 140.621e9,
}


@pytest.mark.parametrize("name", MODELS.names())
def test_parameters_are_those_published(name: str) -> None:
    """A wrong size, or a matrix, bias, norm or table forgotten.

    The tolerance of 1 % is the project's; the figures of the Hub are exact to the digits given,
    those of the papers are rounded.
    """
    total = count_parameters(MODELS.load(name)).total
    assert math.isclose(total, PUBLISHED_PARAMETERS[name], rel_tol=0.01)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("mixtral-8x7b", 46_702_792_704),
        ("mixtral-8x22b", 140_620_634_112),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-14b", 14_768_307_200),
        ("qwen3-32b", 32_762_123_264),
    ],
)
def test_parameters_are_exact_where_the_exact_number_is_published(name: str, total: int) -> None:
    """An error too small for 1 %: a norm, a bias. Totals of the Hub's safetensors metadata."""
    assert count_parameters(MODELS.load(name)).total == total


def test_active_parameters_of_a_mixture() -> None:
    """Experts counted as active that a token does not visit (12.9B, arXiv 2401.04088, table 1)."""
    counts = count_parameters(MODELS.load("mixtral-8x7b"))
    assert math.isclose(counts.active, 12.9e9, rel_tol=0.01)
    dense = count_parameters(MODELS.load("llama-2-7b"))
    assert dense.active == dense.total


def test_parts_of_gpt3() -> None:
    """A part that is counted under another name, in the terms of arXiv 2005.14165."""
    counts = count_parameters(MODELS.load("gpt3-175b"))
    h, layers = 12288, 96
    assert counts.embedding == 50257 * h
    assert counts.position == 2048 * h
    assert counts.attention == layers * (4 * h * h + 4 * h)
    assert counts.feed_forward == layers * (8 * h * h + 5 * h)
    assert counts.norms == (2 * layers + 1) * 2 * h
    assert counts.router == counts.lm_head == 0


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        (name, devices)
        for name in MODELS.names()
        for devices in (1, 2, 4, 8, 16)
        if devices in valid_tensor_parallel(MODELS.load(name))
    ],
)
def test_devices_together_hold_the_model(name: str, devices: int) -> None:
    """A matrix lost or counted twice by the split, or something copied without need.

    Together the devices hold the model, a copy on each of norms, routers, learned positions,
    biases added after the sum and key/value heads that they outnumber, and the padding of the
    vocabulary.
    """
    model = MODELS.load(name)
    whole, part = count_parameters(model), count_parameters(model, devices)
    h = model.hidden_size
    per_layer = h * (model.biases.out + model.biases.ffn) + 2 * model.head_dim * model.qk_norm
    copied = whole.norms + whole.router + whole.position + model.layers * per_layer
    kv_copies = max(devices - model.kv_heads, 0) * 2 * model.head_dim * h * model.layers
    tables = 1 if model.tied_embeddings else 2
    padding = -model.vocab_size % devices * h * tables
    assert devices * part.total == whole.total + (devices - 1) * copied + kv_copies + padding


def test_split_of_a_dense_layer_is_exact() -> None:
    """Rounding where nothing needs to be rounded."""
    model = MODELS.load("gpt3-175b")
    whole, part = count_parameters(model), count_parameters(model, 8)
    biases = model.layers * 2 * model.hidden_size  # after the sums over devices: on each of them
    split = whole.attention + whole.feed_forward - biases
    assert part.attention + part.feed_forward - biases == split / 8
    assert part.norms == whole.norms


def test_weights_follow_their_element_type() -> None:
    """Weights counted at the precision of something else."""
    model = MODELS.load("llama-2-7b")
    assert weight_bytes(model) == 2 * 6_738_415_616
    int4 = model.model_copy(update={"precision": Precision(weights=ElementType.INT4)})
    assert weight_bytes(int4) == 0.5 * 6_738_415_616
    assert kv_bytes_per_token(int4) == kv_bytes_per_token(model)


def test_kv_of_gpt3_and_of_grouped_queries() -> None:
    """A factor of two, of heads or of layers in what decides the batch."""
    # 2 x 96 layers x 12288 x 2 B = 4.7 MB per token (reference/attacc.md: MHA, FP16)
    assert kv_bytes_per_token(MODELS.load("gpt3-175b")) == 2 * 96 * 12288 * 2
    model = MODELS.load("llama-3.1-70b")
    assert kv_bytes_per_token(model) == 2 * 80 * 8 * 128 * 2
    assert kv_bytes_per_token(model, 8) == kv_bytes_per_token(model) / 8
    # 16 devices share 8 key/value heads: each holds one
    assert kv_bytes_per_token(model, 16) == kv_bytes_per_token(model, 8)


def test_activations_of_a_decode_step_by_hand() -> None:
    """An estimate that leaves out the widest stage, or the logits."""
    model = MODELS.load("llama-2-7b")
    h, i, vocab = 4096, 11008, 32000
    peak = activation_bytes(model, tokens=1000, sequences=1)
    assert peak == 2 * 1000 * (h + 3 * i)
    assert activation_bytes(model, tokens=10, sequences=10) == 10 * (2 * h + 4 * vocab)
    split = activation_bytes(model, tokens=1000, sequences=1, tensor_parallel=8)
    assert split == 2 * 1000 * (h + max(h + 2 * i // 8, h + 3 * h // 8))
    mixture = MODELS.load("mixtral-8x7b")
    peak = activation_bytes(mixture, tokens=1000, sequences=1)
    assert peak == 2 * 1000 * (4096 + 2 * 3 * 14336)


def test_activations_grow_with_tokens_and_shrink_with_devices() -> None:
    """A term divided by the devices that is not split, or the reverse."""
    model = MODELS.load("gpt3-175b")
    small = activation_bytes(model, tokens=64, sequences=64, tensor_parallel=8)
    large = activation_bytes(model, tokens=64 * 2048, sequences=64, tensor_parallel=8)
    alone = activation_bytes(model, tokens=64, sequences=64)
    assert small < alone < large


@pytest.mark.parametrize(
    ("name", "devices", "choices"),
    [
        ("gpt3-175b", 5, "1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96"),
        ("gpt3-175b", 0, "1, 2, 3"),
        ("gpt3-175b", -8, "1, 2, 3"),
        ("llama-3.1-8b", 64, "1, 2, 4, 8, 16, 32"),
    ],
)
def test_impossible_split_is_refused(name: str, devices: int, choices: str) -> None:
    """Heads cut into pieces, or a message without the way out."""
    with pytest.raises(InputError, match=rf"tensor parallelism {devices} .*use one of {choices}"):
        served(MODELS.load(name)).share(devices)


def test_key_value_heads_that_do_not_split_are_refused() -> None:
    """Devices that divide the query heads but leave key/value heads in pieces."""
    model = MODELS.load("llama-3.1-8b").model_copy(update={"heads": 24, "kv_heads": 8})
    assert valid_tensor_parallel(model) == [1, 2, 4, 8, 24]
    with pytest.raises(InputError, match=r"use one of 1, 2, 4, 8, 24"):
        served(model).share(3)


def test_sizes_that_do_not_divide_are_padded() -> None:
    """Columns lost by rounding down."""
    part = served(MODELS.load("gpt3-175b")).share(8).model
    assert part.vocab_size == 6283  # 50257 / 8 = 6282.1
    odd = served(
        MODELS.load("llama-2-7b").model_copy(
            update={
                "feed_forward": FeedForward(
                    intermediate_size=11009, gated=True, activation=Activation.SILU
                )
            }
        )
    )
    for model, width in ((part, 49152 // 8), (odd.share(8).model, 1377)):  # 11009 / 8 = 1376.1
        block = model.layers[0].feed_forward
        assert isinstance(block, Dense)
        assert block.width == width


def test_biases_count_each() -> None:
    """A bias counted with the switch of another."""
    plain = MODELS.load("gpt3-13b")
    h, layers = plain.hidden_size, plain.layers

    def attention_and_feed_forward(biases: Biases) -> int:
        model: ModelSpec = plain.model_copy(update={"biases": biases})
        counts = count_parameters(model)
        return counts.attention + counts.feed_forward

    none = attention_and_feed_forward(Biases())
    assert attention_and_feed_forward(Biases(qkv=True)) - none == layers * 3 * h
    assert attention_and_feed_forward(Biases(out=True)) - none == layers * h
    assert attention_and_feed_forward(Biases(ffn=True)) - none == layers * 5 * h


def test_a_model_is_loaded_with_a_block_format_of_its_linear_layers() -> None:
    """Catches scales that are left out, and embeddings, output head or norms in four bits.

    Llama 3.1 8B: 32 layers of 7 matrices with an fp8 scale for 16 weights and an fp32 scale each.
    """
    linear_layers = 2 * 4096 * (4096 + 1024) + 3 * 4096 * 14336
    rest = 2 * 128256 * 4096 + (2 * 32 + 1) * 4096
    expected = 32 * (linear_layers * (4 / 8 + 1 / 16) + 7 * 4) + 2 * rest
    four = load_model("llama-3.1-8b", weights="nvfp4")
    assert weight_bytes(four) == expected
    assert (four.activations, four.kv) == (ElementType.BF16, ElementType.BF16)
    eight = load_model("llama-3.1-8b", weights="fp8_block", kv="fp8")
    tiles = linear_layers / 128**2 * 4
    assert weight_bytes(eight) == 32 * (linear_layers + tiles) + 2 * rest
    assert (eight.activations, eight.kv) == (ElementType.BF16, ElementType.FP8)
