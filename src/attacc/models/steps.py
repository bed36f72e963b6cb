"""The operators of one step of a model, on one of the devices that share it.

The shapes are those of the published system model (reference/system-model.md), generalised to
grouped queries, gated and plain feed-forward blocks, mixtures of experts, and the work outside
the layers. Not counted, as in that model: rotary embeddings, residual additions, the choice of
the top experts and sampling, each a few passes over the activations that kernels fuse into their
neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from attacc.errors import InputError
from attacc.models.architecture import Activation, ModelSpec, NormKind
from attacc.models.operators import (
    AllReduce,
    Attention,
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    Size,
    Step,
)
from attacc.models.sharding import Shard, shard
from attacc.units import MAX_SIZE

_ACTIVATION = {
    Activation.GELU: PointwiseKind.GELU,
    Activation.RELU: PointwiseKind.RELU,
    Activation.SILU: PointwiseKind.SWIGLU,
}
_NORM = {NormKind.LAYER: PointwiseKind.LAYER_NORM, NormKind.RMS: PointwiseKind.RMS_NORM}


@dataclass(frozen=True, slots=True)
class Decoding:
    """Requests that get one token each; any size may be an array with one element for each step.

    Attributes:
        requests: how many.
        keys: keys that a request attends to, its newest included; where they differ, the mean.
        longest: keys of the longest request; None where all are alike.
    """

    requests: Size
    keys: Size
    longest: Size | None = None


@dataclass(frozen=True, slots=True)
class Prefilling:
    """Parts of prompts that are processed; any size may be an array with one element for each step.

    Chunks of different sizes are described by means that keep the number of tokens, and the number
    of pairs of a query and a key.

    Attributes:
        chunks: how many.
        new: new tokens of a chunk, or their mean.
        keys: keys that a new token may attend to: those before the chunk and those of the chunk;
            where chunks differ, the mean over all new tokens.
        past: of these, the keys before the chunk.
    """

    chunks: Size
    new: Size
    keys: Size
    past: Size = 0


def decode_step(model: ModelSpec, *, batch: int, kv_length: int, tensor_parallel: int) -> Step:
    """Return the operators that decode one token of every request.

    The query heads that share a key/value head are the rows of one product, m = heads / kv_heads
    (1 in MHA), so K and V of a request are read once per key/value head.

    Args:
        model: the model.
        batch: requests in the step.
        kv_length: keys that every request attends to, its own newest included. The published
            model has Lin + i in the i-th decode step.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: a size is out of range, the length exceeds the model's sliding window, or the
            model cannot be split over so many devices.
    """
    _check_size("batch", batch)
    _check_length(model, "kv_length", kv_length)
    decode = Decoding(batch, kv_length)
    return model_step(model, decode=decode, tensor_parallel=tensor_parallel)


def prefill_step(model: ModelSpec, *, batch: int, prompt_length: int, tensor_parallel: int) -> Step:
    """Return the operators that process the prompts of a batch and give each its first token.

    Every token of a prompt attends to all of it: like the published model, the operator does not
    say that the causal mask leaves half of the products unused. Final norm and LM head run for
    the last position of each request only.

    Args:
        model: the model.
        batch: requests in the step.
        prompt_length: tokens of every prompt.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: as in `decode_step`.
    """
    _check_size("batch", batch)
    _check_length(model, "prompt_length", prompt_length)
    prefill = Prefilling(batch, prompt_length, prompt_length)
    return model_step(model, prefill=prefill, tensor_parallel=tensor_parallel)


def model_step(
    model: ModelSpec,
    *,
    decode: Decoding | None = None,
    prefill: Prefilling | None = None,
    tensor_parallel: int,
) -> Step:
    """Return the operators of a step, or of many steps at once.

    Products see all tokens of the step together; attention is apart for requests that decode and
    for chunks of prompts. The LM head runs for one position of every request and chunk.

    Args:
        model: the model.
        decode: requests that get a token; None for a prefill.
        prefill: chunks of prompts; None for a decode step.
        tensor_parallel: devices that share every layer.

    Raises:
        InputError: neither is given, or the model cannot be split over so many devices.
    """
    part = shard(model, tensor_parallel)
    act, kv = model.precision.activations, model.precision.kv
    heads = part.heads, part.kv_heads, model.head_dim
    tokens: Size = 0
    sequences: Size = 0
    attention: list[Attention] = []
    if prefill is not None:
        p = prefill
        tokens, sequences = p.chunks * p.new, p.chunks
        attention.append(
            Attention(Phase.PREFILL, p.chunks, *heads, p.new, p.keys, act, kv, past=p.past)
        )
    if decode is not None:
        d = decode
        tokens, sequences = tokens + d.requests, sequences + d.requests
        attention.append(
            Attention(Phase.DECODE, d.requests, *heads, 1, d.keys, act, kv, longest=d.longest)
        )
    if not attention:
        raise InputError("a step without requests", hint="give requests that decode, or prompts")
    builder = _Builder(model, part, tokens, sequences)
    return Step(
        phase=attention[0].phase if len(attention) == 1 else Phase.MIXED,
        decoding=0 if decode is None else decode.requests,
        tensor_parallel=part.devices,
        layers=model.layers,
        layer=builder.layer(attention),
        outside=builder.outside(),
    )


def active_experts(*, tokens: Size, experts: int, experts_per_token: int) -> Size:
    """Return the expected number of distinct experts that a batch of tokens visits.

    With every token choosing k of E experts at random, and independently of the others, an
    expert is left out by all tokens with probability (1 - k/E)^tokens; the expected number of
    those visited, E (1 - (1 - k/E)^tokens), is rounded to the nearest whole one. An expectation:
    real routing is less even, so fewer experts are read and the busiest has more rows.

    Args:
        tokens: tokens in the step.
        experts: experts of a layer, E.
        experts_per_token: experts that a token visits, k.
    """
    left_out = (1 - experts_per_token / experts) ** tokens
    return np.maximum(experts_per_token, np.rint(experts * (1 - left_out)))


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds the operators that do not depend on the phase.

    Attributes:
        model: the model.
        part: one device's share of it.
        tokens: rows of the activations.
        sequences: rows that reach the LM head.
    """

    model: ModelSpec
    part: Shard
    tokens: Size
    sequences: Size

    def layer(self, attention: Iterable[Attention]) -> tuple[Operator, ...]:
        """Return the operators of one layer, with this attention."""
        model, part, tokens = self.model, self.part, self.tokens
        hidden, dim = model.hidden_size, model.head_dim
        context = part.heads * dim
        # Parallel residual: attention's and feed-forward's partial sums are added on each device
        # before they are summed over devices, once (GPT-NeoX-20B, arXiv 2204.06745, 2.1).
        reduce_attention = () if model.parallel_residual else self._all_reduce("all_reduce1")
        return (
            self._fc("qkv", tokens, context + 2 * part.kv_heads * dim, hidden),
            *self._qk_norm(),
            *attention,
            self._fc("projection", tokens, hidden, context),
            *reduce_attention,
            self._norm("norm1", tokens),
            *self._feed_forward(),
            *self._all_reduce("all_reduce2"),
            self._norm("norm2", tokens),
        )

    def _qk_norm(self) -> tuple[Operator, ...]:
        if not self.model.qk_norm:
            return ()
        rows = self.tokens * (self.part.heads + self.part.kv_heads)
        act = self.model.precision.activations
        return (Pointwise("qk_norm", PointwiseKind.RMS_NORM, rows, self.model.head_dim, 1, act),)

    def _feed_forward(self) -> tuple[Operator, ...]:
        model = self.model
        rows: Size = self.tokens
        count: Size = 1
        hidden, width = model.hidden_size, self.part.intermediate_size
        router: tuple[Operator, ...] = ()
        if model.experts:
            experts, visited = model.experts.experts, model.experts.experts_per_token
            router = (self._fc("router", self.tokens, experts, hidden),)
            count = active_experts(tokens=rows, experts=experts, experts_per_token=visited)
            rows = -(-rows * visited // count)
        kind = _ACTIVATION[model.feed_forward.activation]
        activation = Pointwise("activation", kind, rows, width, count, model.precision.activations)
        names = [f"ff{i + 1}" for i in range(model.feed_forward.widenings + 1)]
        return (
            *router,
            *(self._fc(name, rows, width, hidden, count) for name in names[:-1]),
            activation,
            self._fc(names[-1], rows, hidden, width, count),
        )

    def outside(self) -> tuple[Operator, ...]:
        """Return the operators that run once per step."""
        model, hidden, width = self.model, self.model.hidden_size, self.model.embedding_width
        act = model.precision.activations
        embedding = Pointwise("embedding", PointwiseKind.EMBEDDING, self.tokens, width, 1, act)
        projects = model.embedding_size is not None
        return (
            embedding,
            # Each device looks up the rows of its part of the vocabulary.
            *self._all_reduce("embedding_all_reduce", width),
            *([self._fc("project_in", self.tokens, hidden, width)] if projects else []),
            *([self._norm("final_norm", self.sequences)] if model.final_norm else []),
            *([self._fc("project_out", self.sequences, width, hidden)] if projects else []),
            self._fc("lm_head", self.sequences, self.part.vocab_size, width),
        )

    def _fc(self, name: str, m: Size, n: int, k: int, count: Size = 1) -> MatMul:
        precision = self.model.precision
        act = precision.activations
        return MatMul(name, MatMulRole.FC, m, n, k, count, act, precision.weights, act)

    def _norm(self, name: str, rows: Size) -> Pointwise:
        model = self.model
        kind, act = _NORM[model.norm], model.precision.activations
        return Pointwise(name, kind, rows, model.hidden_size, 1, act)

    def _all_reduce(self, name: str, width: int | None = None) -> tuple[Operator, ...]:
        if self.part.devices == 1:
            return ()
        columns = width or self.model.hidden_size
        return (AllReduce(name, self.tokens, columns, self.model.precision.activations),)


def _check_size(name: str, value: int) -> None:
    if not 1 <= value <= MAX_SIZE:
        raise InputError(f"{value} is out of range", where=name, hint=f"use 1 to {MAX_SIZE}")


def _check_length(model: ModelSpec, name: str, length: int) -> None:
    _check_size(name, length)
    if model.sliding_window is not None and length > model.sliding_window:
        raise InputError(
            f"{length} tokens exceed the sliding window of {model.name}, beyond which its "
            "attention is not full",
            where=name,
            hint=f"use at most {model.sliding_window} tokens",
        )
