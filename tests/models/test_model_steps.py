"""The operators of a step, against the published shapes and figures."""

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.models.architecture import MODELS, ModelSpec
from attacc.models.operators import (
    AllReduce,
    Attention,
    Experts,
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    Size,
    Step,
    expected_visits,
)
from attacc.models.parameters import count_parameters, kv_bytes_per_token
from attacc.models.precision import ElementType, Precision
from attacc.models.served import valid_tensor_parallel
from attacc.models.steps import decode_step, prefill_step

# Operations per element, as the published system model counts them (reference/system-model.md).
PUBLISHED_FLOPS = {
    PointwiseKind.SOFTMAX: 5,
    PointwiseKind.GELU: 8,
    PointwiseKind.RELU: 1,
    PointwiseKind.LAYER_NORM: 5,
}
PUBLISHED_NAMES = {
    "GPT-13B": "gpt3-13b",
    "GPT-175B": "gpt3-175b",
    "MT-530B": "mt-nlg-530b",
    "OPT-66B": "opt-66b",
}


def products(operators: tuple[Operator, ...]) -> list[Operator]:
    """The operators, attention as its score, softmax and context, experts as their products."""
    flat: list[Operator] = []
    for op in operators:
        match op:
            case Attention():
                flat += (op.score, op.softmax, op.context)
            case Experts():
                flat += op.products()
            case _:
                flat.append(op)
    return flat


def matmul(operators: tuple[Operator, ...], name: str) -> MatMul:
    [found] = [op for op in products(operators) if op.name == name]
    assert isinstance(found, MatMul)
    return found


def pointwise(operators: tuple[Operator, ...], name: str) -> Pointwise:
    [found] = [op for op in products(operators) if op.name == name]
    assert isinstance(found, Pointwise)
    return found


def attention(step: Step, layer: int = 0) -> Attention:
    [found] = [op for op in step.layers[layer].operators if isinstance(op, Attention)]
    return found


def shape(op: MatMul) -> tuple[Size, Size, Size, Size]:
    return op.m, op.n, op.k, op.count


def names(operators: tuple[Operator, ...]) -> list[str]:
    return [op.name for op in products(operators)]


def layer_flops(step: Step) -> float:
    """Operations of all layers on all devices."""
    total = 0.0
    for op in products(step.layers[0].operators):
        if isinstance(op, MatMul):
            total += float(op.flops)
        elif isinstance(op, Pointwise):
            total += float(PUBLISHED_FLOPS[op.kind] * op.m * op.n * op.count)
    return total * step.layer_count * step.tensor_parallel


def test_decode_of_gpt3_has_the_published_shapes() -> None:
    """A shape that departs from the published model where that applies."""
    b, L, t, h, d = 18, 2049, 8, 12288, 128
    step = decode_step(MODELS.load("gpt3-175b"), batch=b, kv_length=L, tensor_parallel=t)
    assert (step.phase, step.decoding, step.tensor_parallel, step.layer_count) == (
        Phase.DECODE,
        b,
        t,
        96,
    )
    assert names(step.layers[0].operators) == [
        "qkv", "score", "softmax", "context", "projection", "all_reduce1", "norm1",
        "ff1", "activation", "ff2", "all_reduce2", "norm2",
    ]  # fmt: skip
    assert shape(matmul(step.layers[0].operators, "qkv")) == (b, 3 * h // t, h, 1)
    assert shape(matmul(step.layers[0].operators, "score")) == (1, L, d, 96 // t * b)
    assert shape(matmul(step.layers[0].operators, "context")) == (1, d, L, 96 // t * b)
    assert shape(matmul(step.layers[0].operators, "projection")) == (b, h, h // t, 1)
    assert shape(matmul(step.layers[0].operators, "ff1")) == (b, 4 * h // t, h, 1)
    assert shape(matmul(step.layers[0].operators, "ff2")) == (b, h, 4 * h // t, 1)
    softmax = pointwise(step.layers[0].operators, "softmax")
    assert (softmax.m, softmax.n, softmax.count) == (1, L, 96 // t * b)
    activation = pointwise(step.layers[0].operators, "activation")
    assert activation.kind is PointwiseKind.GELU
    assert (activation.m, activation.n, activation.count) == (b, 4 * h // t, 1)
    assert pointwise(step.layers[0].operators, "norm1").kind is PointwiseKind.LAYER_NORM
    [reduce, _] = [op for op in step.layers[0].operators if isinstance(op, AllReduce)]
    assert (reduce.m, reduce.n) == (b, h)


def test_work_outside_the_layers() -> None:
    """Embedding, final norm or LM head forgotten, or run for every prompt token."""
    model = MODELS.load("gpt3-175b")
    step = prefill_step(model, batch=3, prompt_length=100, tensor_parallel=8)
    assert names(step.outside) == ["embedding", "embedding_all_reduce", "final_norm", "lm_head"]
    assert shape(matmul(step.outside, "lm_head")) == (3, 6283, 12288, 1)
    embedding = pointwise(step.outside, "embedding")
    assert (embedding.kind, embedding.m, embedding.n) == (PointwiseKind.EMBEDDING, 300, 12288)
    assert pointwise(step.outside, "final_norm").m == 3


def test_prefill_of_gpt3_has_the_published_shapes() -> None:
    """Rows of the batch or of the prompt lost."""
    b, L, t, h = 2, 64, 8, 12288
    model = MODELS.load("gpt3-175b")
    step = prefill_step(model, batch=b, prompt_length=L, tensor_parallel=t)
    assert (step.phase, step.decoding) == (Phase.PREFILL, 0)
    assert shape(matmul(step.layers[0].operators, "qkv")) == (b * L, 3 * h // t, h, 1)
    assert shape(matmul(step.layers[0].operators, "score")) == (L, L, 128, 96 // t * b)
    assert shape(matmul(step.layers[0].operators, "context")) == (L, 128, L, 96 // t * b)
    assert shape(matmul(step.layers[0].operators, "ff2")) == (b * L, h, 4 * h // t, 1)
    assert pointwise(step.layers[0].operators, "norm2").m == b * L
    [reduce, _] = [op for op in step.layers[0].operators if isinstance(op, AllReduce)]
    assert reduce.m == b * L


@pytest.mark.reference
def test_flops_are_those_of_the_published_system_model(reference: Path) -> None:
    """Any operator of a layer missing, added or of another size, in either phase.

    Equal to float rounding for every plain multi-head model of golden/system.csv; LLaMA's
    feed-forward size is rounded differently there. Decode is the mean over its steps. The
    released code divides the prefill's operations by the number of decode steps.
    """
    compared = 0
    with (reference / "reference" / "golden" / "system.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["model_name"] not in PUBLISHED_NAMES:
                continue
            model = MODELS.load(PUBLISHED_NAMES[row["model_name"]])
            batch, devices = int(row["batch"]), int(row["ngpu"])
            if devices not in valid_tensor_parallel(model):
                continue
            prompt, steps = int(row["lin"]), int(row["lout"]) - 1
            prefill = prefill_step(
                model, batch=batch, prompt_length=prompt, tensor_parallel=devices
            )
            decode = [
                decode_step(model, batch=batch, kv_length=prompt + i, tensor_parallel=devices)
                for i in range(1, steps + 1)
            ]
            published = float(row["s_flops"])
            assert math.isclose(layer_flops(prefill) / steps, published, rel_tol=1e-12)
            mean = sum(map(layer_flops, decode)) / steps
            assert math.isclose(mean, float(row["g_flops"]), rel_tol=1e-12)
            compared += 1
    assert compared == 62  # of 130; the others are LLaMA, or heads that 16 devices do not divide


def test_grouped_queries_share_keys_and_values() -> None:
    """K and V read once per query head, or once per group of another size."""
    model = MODELS.load("llama-3.1-70b")  # 64 query heads, 8 key/value heads
    step = decode_step(model, batch=5, kv_length=1000, tensor_parallel=4)
    assert shape(matmul(step.layers[0].operators, "qkv")) == (5, (64 + 16) * 128 // 4, 8192, 1)
    assert shape(matmul(step.layers[0].operators, "score")) == (8, 1000, 128, 5 * 2)
    assert shape(matmul(step.layers[0].operators, "context")) == (8, 128, 1000, 5 * 2)
    copied = decode_step(model, batch=5, kv_length=1000, tensor_parallel=16)
    assert shape(matmul(copied.layers[0].operators, "score")) == (4, 1000, 128, 5)
    assert shape(matmul(copied.layers[0].operators, "qkv")) == (5, (4 + 2) * 128, 8192, 1)
    prefill = prefill_step(model, batch=5, prompt_length=1000, tensor_parallel=4)
    assert shape(matmul(prefill.layers[0].operators, "score")) == (1000, 1000, 128, 5 * 16)


def test_gated_block_has_three_matrices() -> None:
    """A gate without its matrix, or SwiGLU of the wrong width."""
    step = decode_step(MODELS.load("llama-65b"), batch=7, kv_length=10, tensor_parallel=8)
    assert shape(matmul(step.layers[0].operators, "ff1")) == (7, 2752, 8192, 1)
    assert shape(matmul(step.layers[0].operators, "ff2")) == (7, 2752, 8192, 1)
    assert shape(matmul(step.layers[0].operators, "ff3")) == (7, 8192, 2752, 1)
    activation = pointwise(step.layers[0].operators, "activation")
    assert (activation.kind, activation.n) == (PointwiseKind.SWIGLU, 2752)
    assert pointwise(step.layers[0].operators, "norm1").kind is PointwiseKind.RMS_NORM


def test_query_and_key_norms_of_qwen3() -> None:
    """Norms over head_dim forgotten, or run over values too."""
    step = decode_step(MODELS.load("qwen3-32b"), batch=3, kv_length=10, tensor_parallel=4)
    norm = pointwise(step.layers[0].operators, "qk_norm")
    assert (norm.m, norm.n, norm.kind) == (3 * (16 + 2), 128, PointwiseKind.RMS_NORM)


def test_mixture_of_experts() -> None:
    """Experts that are not visited but computed, or tokens that meet too few."""
    model = MODELS.load("mixtral-8x7b")
    one = decode_step(model, batch=1, kv_length=10, tensor_parallel=2)
    assert names(one.layers[0].operators)[7:12] == ["router", "ff1", "ff2", "activation", "ff3"]
    assert shape(matmul(one.layers[0].operators, "router")) == (1, 8, 4096, 1)
    assert shape(matmul(one.layers[0].operators, "ff1")) == (1, 7168, 4096, 2)
    many = decode_step(model, batch=64, kv_length=10, tensor_parallel=2)
    assert shape(matmul(many.layers[0].operators, "ff3")) == (16, 4096, 7168, 8)
    assert pointwise(many.layers[0].operators, "activation").count == 8


@given(tokens=st.integers(1, 10_000), experts=st.integers(1, 300), visited=st.integers(1, 300))
def test_visited_experts_are_possible(tokens: int, experts: int, visited: int) -> None:
    """More experts than there are, fewer than one token visits, or than tokens could."""
    visited = min(visited, experts)
    active = expected_visits(experts, visited, tokens)
    assert visited * (1 - 1e-12) <= active <= min(experts, tokens * visited) * (1 + 1e-12)


def test_visited_experts_of_mixtral() -> None:
    """Another expectation: 8 (1 - (6/8)^n)."""
    active = [expected_visits(8, 2, n) for n in (1, 2, 4, 8, 32)]
    assert active == [8 * (1 - 0.75**n) for n in (1, 2, 4, 8, 32)]
    assert [round(float(n), 2) for n in active] == [2, 3.5, 5.47, 7.2, 8]


def test_parallel_residual_needs_one_sum_over_devices() -> None:
    """Both blocks' sums counted where one serves both (arXiv 2204.06745, 2.1)."""
    model = MODELS.load("gpt3-13b").model_copy(update={"parallel_residual": True})
    step = decode_step(model, batch=1, kv_length=10, tensor_parallel=8)
    assert [op.name for op in step.layers[0].operators if isinstance(op, AllReduce)] == [
        "all_reduce2"
    ]


def test_projections_around_narrow_embeddings() -> None:
    """Projections of OPT-350M left out, or reversed."""
    model = MODELS.load("gpt3-13b").model_copy(update={"embedding_size": 512, "final_norm": False})
    step = decode_step(model, batch=4, kv_length=10, tensor_parallel=1)
    assert names(step.outside) == ["embedding", "project_in", "project_out", "lm_head"]
    assert shape(matmul(step.outside, "project_in")) == (4, 5120, 512, 1)
    assert shape(matmul(step.outside, "project_out")) == (4, 512, 5120, 1)
    assert shape(matmul(step.outside, "lm_head")) == (4, 50257, 512, 1)


def test_one_device_sums_nothing() -> None:
    """An all-reduce among one."""
    step = decode_step(MODELS.load("gpt3-13b"), batch=1, kv_length=10, tensor_parallel=1)
    assert not [
        op for op in (*step.layers[0].operators, *step.outside) if isinstance(op, AllReduce)
    ]


def test_element_types_reach_their_operands() -> None:
    """KV read at the weights' precision, or prefill attention at the cache's."""
    precision = Precision(
        weights=ElementType.INT4, activations=ElementType.BF16, kv=ElementType.FP8
    )
    model = MODELS.load("gpt3-13b").model_copy(update={"precision": precision})
    decode = decode_step(model, batch=1, kv_length=10, tensor_parallel=1)
    qkv, score = (
        matmul(decode.layers[0].operators, "qkv"),
        matmul(decode.layers[0].operators, "score"),
    )
    assert (qkv.left, qkv.right, qkv.out) == (
        ElementType.BF16, ElementType.INT4, ElementType.BF16
    )  # fmt: skip
    assert (score.left, score.right, score.out) == (
        ElementType.BF16, ElementType.FP8, ElementType.BF16
    )  # fmt: skip
    prefill = prefill_step(model, batch=1, prompt_length=10, tensor_parallel=1)
    assert matmul(prefill.layers[0].operators, "context").right is ElementType.BF16


@pytest.mark.parametrize("name", MODELS.names())
def test_a_decode_step_reads_the_weights_and_the_cache(name: str) -> None:
    """Operators and storage that disagree on the size of a model.

    The matrices read by a batch large enough to visit every expert are all parameters but
    norms, biases, learned positions and the embedding table where it is not the LM head; keys
    and values read are those of every token.
    """
    model, batch, length = MODELS.load(name), 4096, 100
    step = decode_step(model, batch=batch, kv_length=length, tensor_parallel=1)
    every = [op for op in products(step.layers[0].operators) if isinstance(op, MatMul)]
    fc = [op for op in every if op.role is MatMulRole.FC]
    read = step.layer_count * sum(op.n * op.k * op.count for op in fc)
    counts = count_parameters(model)
    stored = counts.attention + counts.feed_forward + counts.router
    h, block = model.hidden_size, model.feed_forward
    biases = (
        model.biases.qkv * (h + 2 * model.kv_heads * model.head_dim)
        + model.biases.out * h
        + model.biases.ffn * (block.intermediate_size + h)
        + model.qk_norm * 2 * model.head_dim
    )
    assert read == stored - model.layers * biases
    head = matmul(step.outside, "lm_head")
    assert head.n * head.k == (counts.embedding if model.tied_embeddings else counts.lm_head)
    others = [op for op in every if op not in fc]
    cache = step.layer_count * sum(op.n * op.k * op.count * op.right.bytes for op in others)
    assert cache == batch * length * kv_bytes_per_token(model)


@pytest.mark.parametrize(
    ("batch", "length", "message"),
    [
        (0, 10, r"batch: 0 is out of range"),
        (-1, 10, r"batch: -1 is out of range"),
        (1, 0, r"length: 0 is out of range"),
        (1, 2**24 + 1, r"length: 16777217 is out of range \(use 1 to 16777216\)"),
    ],
)
def test_impossible_sizes_are_refused(batch: int, length: int, message: str) -> None:
    """A step of nothing, whose cost would be zero."""
    model = MODELS.load("gpt3-13b")
    with pytest.raises(InputError, match=message):
        decode_step(model, batch=batch, kv_length=length, tensor_parallel=1)
    with pytest.raises(InputError, match=message):
        prefill_step(model, batch=batch, prompt_length=length, tensor_parallel=1)


def test_a_window_limits_the_keys() -> None:
    """A sliding window that is ignored, so that attention costs too much."""
    model: ModelSpec = MODELS.load("mixtral-8x7b").model_copy(update={"sliding_window": 4096})
    for length, keys in ((10, 10), (4096, 4096), (4097, 4096), (100_000, 4096)):
        op = attention(decode_step(model, batch=1, kv_length=length, tensor_parallel=1))
        assert (op.queries, op.keys, op.window) == (1, keys, 4096)
        op = attention(prefill_step(model, batch=1, prompt_length=length, tensor_parallel=1))
        assert (op.queries, op.keys, op.window) == (length, keys, 4096)


def test_heads_that_do_not_divide_are_refused() -> None:
    """Heads cut into pieces by the number of devices."""
    with pytest.raises(InputError, match="tensor parallelism 7 does not split"):
        decode_step(MODELS.load("gpt3-175b"), batch=1, kv_length=10, tensor_parallel=7)
