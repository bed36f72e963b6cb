"""The operators of a model's step, as seen by one of the devices that share it.

An operator states its work and never its cost: which device runs it, and how fast, is decided in
``system``. Sizes are those of one device under tensor parallelism; attention operators carry
which part of the key/value cache they read, so that a system can place them elsewhere.

A size that differs from step to step may be an array with one element for each step. The operators
of ten thousand steps are then the same few objects as those of one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from attacc.models.precision import ElementType

Size = int | float | NDArray[np.float64]
"""A size of an operator: a number, or an array with one number for each step."""


class Phase(StrEnum):
    """What a step does for its requests."""

    PREFILL = "prefill"
    """It processes prompts, or parts of them."""
    DECODE = "decode"
    """It adds one token to each request."""
    MIXED = "mixed"
    """It does both, for different requests."""


class MatMulRole(StrEnum):
    """What a matrix product is for."""

    FC = "fc"
    """Activations times weights; every request of the batch shares the weights."""
    SCORE = "score"
    """Queries times the keys of one request."""
    CONTEXT = "context"
    """Softmax output times the values of one request."""


class PointwiseKind(StrEnum):
    """Operators that touch every element a fixed number of times."""

    SOFTMAX = "softmax"
    GELU = "gelu"
    RELU = "relu"
    SWIGLU = "swiglu"
    LAYER_NORM = "layer_norm"
    RMS_NORM = "rms_norm"
    EMBEDDING = "embedding"
    """Look-up of one row of a table per token."""


@dataclass(frozen=True, slots=True)
class MatMul:
    """``count`` independent products of an (m, k) with a (k, n) matrix.

    Attributes:
        name: as in "qkv", "score", "context", "projection", "ff1", "lm_head".
        role: what the product is for.
        m: rows of the left matrix (tokens, or queries that share one K and V).
        n: columns of the right matrix.
        k: inner dimension.
        count: how many such products (heads times requests, or experts).
        left: element type of the (m, k) matrix.
        right: element type of the (k, n) matrix (weights, or the key/value cache).
        out: element type of the result.
    """

    name: str
    role: MatMulRole
    m: Size
    n: Size
    k: Size
    count: Size
    left: ElementType
    right: ElementType
    out: ElementType

    @property
    def flops(self) -> float | NDArray[np.float64]:
        """Floating-point operations, a multiply and an add counted as two."""
        return 2.0 * self.m * self.n * self.k * self.count

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of all operands and results, each moved once."""
        return self.count * (
            self.m * self.k * self.left.bytes
            + self.k * self.n * self.right.bytes
            + self.m * self.n * self.out.bytes
        )


@dataclass(frozen=True, slots=True)
class Pointwise:
    """``count`` times an operator on an (m, n) matrix.

    Attributes:
        name: as in "softmax", "activation", "norm1".
        kind: which function.
        m: rows.
        n: columns of the result; SwiGLU reads twice as many.
        count: how many such matrices.
        element: element type of input and output.
    """

    name: str
    kind: PointwiseKind
    m: Size
    n: Size
    count: Size
    element: ElementType


@dataclass(frozen=True, slots=True)
class AllReduce:
    """Sum of one (m, n) matrix over all devices, the result on each of them.

    Attributes:
        name: as in "all_reduce1".
        m: rows.
        n: columns.
        element: element type.
    """

    name: str
    m: Size
    n: Size
    element: ElementType


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one layer on one device: every query of a request attends to its keys.

    Kernels that fuse it and models that price its products one by one see the same operator.
    Requests of different sizes are described by means, which keep the sum of their work.

    Attributes:
        phase: prefill, where the queries are the new tokens of a prompt, or decode.
        batch: requests; in prefill, chunks of prompts.
        heads: query heads of the device.
        kv_heads: key/value heads of the device.
        head_dim: elements of a head.
        queries: new tokens of every request, or their mean.
        keys: tokens that every request attends to, the new ones included; where requests differ,
            the mean over all queries.
        activation: element type of queries and results.
        kv: element type in which keys and values are cached.
        past: in prefill, how many of the keys were there before the chunk.
        longest: in decode, keys of the longest request; None where all requests are alike.
    """

    phase: Phase
    batch: Size
    heads: int
    kv_heads: int
    head_dim: int
    queries: Size
    keys: Size
    activation: ElementType
    kv: ElementType
    past: Size = 0
    longest: Size | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return "attention"

    @property
    def score(self) -> MatMul:
        """Queries times keys.

        In decode, the query heads that share a key/value head are the rows of one product. In
        prefill there is one product per query head, and keys are read in the activations' type,
        before they are stored in that of the cache.
        """
        act = self.activation
        rows, count, read = self._products
        return MatMul(
            "score", MatMulRole.SCORE, rows, self.keys, self.head_dim, count, act, read, act
        )

    @property
    def softmax(self) -> Pointwise:
        """Softmax of the scores."""
        rows, count, _ = self._products
        return Pointwise("softmax", PointwiseKind.SOFTMAX, rows, self.keys, count, self.activation)

    @property
    def context(self) -> MatMul:
        """Softmax output times values."""
        act = self.activation
        rows, count, read = self._products
        return MatMul(
            "context", MatMulRole.CONTEXT, rows, self.head_dim, self.keys, count, act, read, act
        )

    @property
    def _products(self) -> tuple[Size, Size, ElementType]:
        """Return rows of a product, how many products there are, and in what type keys are read."""
        if self.phase is Phase.DECODE:
            group = self.heads // self.kv_heads
            return self.queries * group, self.batch * self.kv_heads, self.kv
        return self.queries, self.batch * self.heads, self.activation

    @property
    def flops(self) -> float | NDArray[np.float64]:
        """Operations of both products, a multiply and an add counted as two; no mask saves any."""
        return 4.0 * self.batch * self.heads * self.queries * self.keys * self.head_dim

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of queries, keys, values and results, each moved once; scores stay inside."""
        read = self._products[2]
        queries = 2 * self.heads * self.queries * self.activation.bytes
        keys = 2 * self.kv_heads * self.keys * read.bytes
        return self.batch * self.head_dim * (queries + keys)


Operator = MatMul | Pointwise | AllReduce | Attention


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a model on one device, or many steps of the same operators.

    Attributes:
        phase: prefill, decode, or both.
        decoding: requests that get a token in the step; 0 in a prefill.
        tensor_parallel: devices that share every layer.
        layers: how many times ``layer`` runs.
        layer: operators of one layer, in order.
        outside: operators that run once per step: embedding, final norm, LM head.
    """

    phase: Phase
    decoding: Size
    tensor_parallel: int
    layers: int
    layer: tuple[Operator, ...]
    outside: tuple[Operator, ...]
