"""The operators of one step of a model, on one of the devices that share it.

The shapes are those of the published system model (reference/system-model.md), generalised to
grouped queries, gated and plain feed-forward blocks, mixtures of experts, and the work outside
the layers. Not counted, as in that model: rotary embeddings, residual additions, the choice of
the top experts and sampling, each a few passes over the activations that kernels fuse into their
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

from attacc.errors import InputError
from attacc.models.architecture import MAX_SIZE, Activation, ModelSpec, NormKind
from attacc.models.operators import (
    AllReduce,
    Attention,
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    Step,
)
from attacc.models.sharding import Shard, shard

_ACTIVATION = {
    Activation.GELU: PointwiseKind.GELU,
    Activation.RELU: PointwiseKind.RELU,
    Activation.SILU: PointwiseKind.SWIGLU,
}
_NORM = {NormKind.LAYER: PointwiseKind.LAYER_NORM, NormKind.RMS: PointwiseKind.RMS_NORM}


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
    part = shard(model, tensor_parallel)
    builder = _Builder(model, part, tokens=batch, sequences=batch)
    return builder.step(Phase.DECODE, queries=1, keys=kv_length)


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
    part = shard(model, tensor_parallel)
    builder = _Builder(model, part, tokens=batch * prompt_length, sequences=batch)
    return builder.step(Phase.PREFILL, queries=prompt_length, keys=prompt_length)


def active_experts(*, tokens: int, experts: int, experts_per_token: int) -> int:
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
    return max(experts_per_token, round(experts * (1 - left_out)))


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
    tokens: int
    sequences: int

    def step(self, phase: Phase, *, queries: int, keys: int) -> Step:
        model, part = self.model, self.part
        attention = Attention(
            phase=phase,
            batch=self.sequences,
            heads=part.heads,
            kv_heads=part.kv_heads,
            head_dim=model.head_dim,
            queries=queries,
            keys=keys,
            activation=model.precision.activations,
            kv=model.precision.kv,
        )
        return Step(
            phase=phase,
            batch=self.sequences,
            tensor_parallel=self.part.devices,
            layers=self.model.layers,
            layer=self._layer(attention),
            outside=self._outside(),
        )

    def _layer(self, attention: Attention) -> tuple[Operator, ...]:
        model, part, tokens = self.model, self.part, self.tokens
        hidden, dim = model.hidden_size, model.head_dim
        context = part.heads * dim
        # Parallel residual: attention's and feed-forward's partial sums are added on each device
        # before they are summed over devices, once (GPT-NeoX-20B, arXiv 2204.06745, 2.1).
        reduce_attention = () if model.parallel_residual else self._all_reduce("all_reduce1")
        return (
            self._fc("qkv", tokens, context + 2 * part.kv_heads * dim, hidden),
            *self._qk_norm(),
            attention,
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
        model, rows, count = self.model, self.tokens, 1
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

    def _outside(self) -> tuple[Operator, ...]:
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

    def _fc(self, name: str, m: int, n: int, k: int, count: int = 1) -> MatMul:
        precision = self.model.precision
        act = precision.activations
        return MatMul(name, MatMulRole.FC, m, n, k, count, act, precision.weights, act)

    def _norm(self, name: str, rows: int) -> Pointwise:
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
