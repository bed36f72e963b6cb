"""One step of a dense model on GPUs, from the calibrated operators of one library.

Products, attention and all-reduces are the calibrated ones. What frameworks fuse is fused here:
gate and up projections are one product, residual additions belong to the norms. Norms and
activations are priced by their traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attacc.errors import InputError
from attacc.models.architecture import ModelSpec
from attacc.models.precision import ElementType
from attacc.models.sharding import shard
from attacc.system.calibrated import (
    AttentionShapes,
    CalibratedGpu,
    GemmShapes,
    collective_ns,
    decode_ns,
    matmul_ns,
    prefill_ns,
)
from attacc.system.calibration import DecodeSeries, GemmSeries, PrefillSeries

ACTIVATION_BYTES: Final = 2
POINTWISE_SHARE: Final = 0.7
"""Of the memory's bandwidth, for norms and activations; assumed, no table measures them."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The calibrated operators that a framework runs on one GPU.

    Attributes:
        gpu: the GPU.
        gemm: products of the layers.
        lm_head: the product of the LM head, which stays in 16 bits.
        decode: decode attention.
        decode_single: decode attention that prompts of one token run.
        prefill: prefill attention.
    """

    gpu: CalibratedGpu
    gemm: GemmSeries
    lm_head: GemmSeries
    decode: DecodeSeries
    prefill: PrefillSeries


def kernels_of(
    gpu: CalibratedGpu,
    *,
    framework: str | None,
    weights: ElementType,
    cache: ElementType,
    products: CalibratedGpu | None = None,
) -> Kernels:
    """Return the operators of a framework.

    Args:
        gpu: the GPU.
        framework: as the tables of measurements call it; by default the GPU's reference.
        weights: element type of the products in the layers.
        cache: element type of the key/value cache.
        products: another calibration for the products, where the GPU's own has none of this
            framework.

    Raises:
        InputError: one of the operators was not measured.
    """
    source = products or gpu
    return Kernels(
        gpu,
        source.gemm(weights, framework),
        source.gemm(ElementType.BF16, framework),
        gpu.decode(cache, framework),
        gpu.prefill(cache, framework),
    )


@dataclass(frozen=True, slots=True)
class StepTime:
    """Where the time of a step goes, in nanoseconds.

    Attributes:
        products_ns: products with weights.
        attention_ns: attention.
        pointwise_ns: norms and activations.
        reduce_ns: all-reduces.
        launch_ns: part of the products and attention that is starting kernels.
        layers: layers of the model.
    """

    products_ns: float
    attention_ns: float
    pointwise_ns: float
    reduce_ns: float
    launch_ns: float
    layers: int


def decode_time(
    model: ModelSpec, kernels: Kernels, *, batch: int, kv_length: int, tensor_parallel: int
) -> StepTime:
    """Return the time of decoding one token of every request.

    Args:
        model: a dense model.
        kernels: the operators.
        batch: requests.
        kv_length: keys that every request attends to.
        tensor_parallel: GPUs that share every layer.

    Raises:
        InputError: the model is a mixture of experts, or cannot be split so.
    """
    part = shard(model, tensor_parallel)
    shapes = AttentionShapes.of(batch, part.heads, part.kv_heads, model.head_dim, kv_length)
    attention = float(decode_ns(kernels.decode, kernels.gpu.gpu, shapes)[0])
    start = kernels.decode.kernels[-1].coefficients.launch_ns
    return _step(model, kernels, batch, batch, attention, start, tensor_parallel)


def prefill_time(
    model: ModelSpec, kernels: Kernels, *, prompts: int, prompt_length: int, tensor_parallel: int
) -> StepTime:
    """Return the time of processing whole prompts in one step.

    Args:
        model: a dense model.
        kernels: the operators.
        prompts: how many.
        prompt_length: tokens of each.
        tensor_parallel: GPUs that share every layer.

    Raises:
        InputError: as in `decode_time`.
    """
    part = shard(model, tensor_parallel)
    shapes = AttentionShapes.of(prompts, part.heads, part.kv_heads, model.head_dim, prompt_length)
    times = prefill_ns(kernels.prefill, kernels.decode, kernels.gpu.gpu, shapes)
    start = kernels.prefill.coefficients.launch_ns
    tokens = prompts * prompt_length
    return _step(model, kernels, tokens, prompts, float(times[0]), start, tensor_parallel)


def _step(
    model: ModelSpec,
    kernels: Kernels,
    tokens: int,
    sequences: int,
    attention_ns: float,
    attention_launch_ns: float,
    tensor_parallel: int,
) -> StepTime:
    if model.experts is not None:
        raise InputError(
            "products of experts were not measured", where=model.name, hint="use a dense model"
        )
    part, hidden, dim = shard(model, tensor_parallel), model.hidden_size, model.head_dim
    sheet = kernels.gpu.gpu
    context = part.heads * dim
    wide = model.feed_forward.widenings * part.intermediate_size
    layer = GemmShapes.of(
        tokens,
        [context + 2 * part.kv_heads * dim, hidden, wide, hidden],
        [hidden, context, hidden, part.intermediate_size],
    )
    head = GemmShapes.of(sequences, part.vocab_size, hidden)
    products = model.layers * float(matmul_ns(kernels.gemm, sheet, layer).sum())
    products += float(matmul_ns(kernels.lm_head, sheet, head)[0])
    launches = len(layer.m) * kernels.gemm.coefficients.launch_ns + attention_launch_ns
    # Two norms with their residual (read twice, written twice), and the activation.
    moved = tokens * ACTIVATION_BYTES * (8 * hidden + wide + part.intermediate_size)
    pointwise = moved / (POINTWISE_SHARE * sheet.memory_bytes_per_s) * 1e9
    reduce = 0.0
    if tensor_parallel > 1:
        series = kernels.gpu.collective("all_reduce")
        message = tokens * hidden * ACTIVATION_BYTES
        sums = 1 if model.parallel_residual else 2
        reduce = sums * float(collective_ns(series, tensor_parallel, message)[0])
    return StepTime(
        products_ns=products,
        attention_ns=model.layers * attention_ns,
        pointwise_ns=model.layers * pointwise,
        reduce_ns=model.layers * reduce,
        launch_ns=model.layers * launches,
        layers=model.layers,
    )
