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

from attacc.models.precision import ElementType, WeightType

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
    HEADS = "heads"
    """Activations of every head times weights of that head, as in absorbed latent attention."""


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
    right: WeightType
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
    """Sum of one (m, n) matrix over devices, the result on each of them.

    Attributes:
        name: as in "all_reduce1".
        m: rows.
        n: columns.
        element: element type.
        devices: devices of one sum; None for all that share the model.
    """

    name: str
    m: Size
    n: Size
    element: ElementType
    devices: int | None = None

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of the matrix."""
        return 1.0 * self.m * self.n * self.element.bytes


class CollectiveKind(StrEnum):
    """How devices exchange rows, under the names of tables of measurements."""

    ALL_GATHER = "all_gather"
    """Each device has some of the rows, and gets all of them."""
    REDUCE_SCATTER = "reduce_scatter"
    """Each device has partial sums of all rows, and gets the sums of some of them."""
    ALL_TO_ALL = "alltoall"
    """Each device has rows for every device, and gets its rows from every device."""


@dataclass(frozen=True, slots=True)
class Collective:
    """Devices exchange rows of n elements.

    Attributes:
        name: as in "dispatch".
        kind: how.
        m: rows that every device holds in the end (all-gather), or at the beginning (otherwise),
            its own included.
        n: elements of a row.
        element: element type.
        devices: devices of one exchange; None for all that share the model.
    """

    name: str
    kind: CollectiveKind
    m: Size
    n: Size
    element: ElementType
    devices: int | None = None

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of the rows."""
        return 1.0 * self.m * self.n * self.element.bytes


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
        value_dim: elements of a value; None for head_dim.
        window: keys that a query attends to at most, the newest ones; None for all. ``keys`` and
            ``longest`` are within it.
        shared: in decode, the keys of a prefix that all requests share: one request, whose queries
            are those of all.
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
    value_dim: int | None = None
    window: int | None = None
    shared: bool = False

    @property
    def values(self) -> int:
        """Elements of a value."""
        return self.value_dim or self.head_dim

    @property
    def name(self) -> str:
        """What it is called."""
        return "shared_attention" if self.shared else "attention"

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
            "context", MatMulRole.CONTEXT, rows, self.values, self.keys, count, act, read, act
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
        width = self.head_dim + self.values
        return 2.0 * self.batch * self.heads * self.queries * self.keys * width

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of queries, keys, values and results, each moved once; scores stay inside."""
        read = self._products[2]
        queries = self.heads * self.queries * self.activation.bytes
        keys = self.kv_heads * self.keys * read.bytes
        return self.batch * (self.head_dim + self.values) * (queries + keys)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Attention over latents of one layer on one device (DeepSeek V2 and V3).

    Decode steps run the absorbed form: scores over the whole record of a token, and contexts of its
    latent, for every head. Prefills run the expanded form, with a key and a value for each head.
    Products with the matrices that absorb or expand are operators of their own.

    Attributes:
        phase: prefill or decode.
        batch: requests; in prefill, chunks of prompts.
        heads: query heads of the device.
        latent: elements of the latent.
        rope_dim: rotated elements beside it.
        nope_dim: elements of an expanded key, without the rotated ones.
        value_dim: elements of an expanded value.
        queries: new tokens of every request, or their mean.
        keys: tokens that every query attends to, as in `Attention`; where an indexer chooses
            tokens, the chosen ones.
        activation: element type of queries and results.
        kv: element type of the records.
        past: in prefill, how many of the keys were there before the chunk.
        longest: in decode, keys of the longest request; None where all requests are alike.
        gathers: an indexer chose the tokens, which lie apart.
        record_bytes: of one token, scales included; None for elements of the type of the records.
        elsewhere: other devices attend; left are the kernels that libraries run beside it.
    """

    phase: Phase
    batch: Size
    heads: int
    latent: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    queries: Size
    keys: Size
    activation: ElementType
    kv: ElementType
    past: Size = 0
    longest: Size | None = None
    gathers: bool = False
    record_bytes: float | None = None
    elsewhere: bool = False

    @property
    def record(self) -> float:
        """Bytes of the record of one token."""
        if self.record_bytes is not None:
            return self.record_bytes
        return (self.latent + self.rope_dim) * self.kv.bytes

    @property
    def name(self) -> str:
        """What it is called."""
        return "beside_attention" if self.elsewhere else "attention"

    @property
    def flops(self) -> float | NDArray[np.float64]:
        """Operations of both products; no mask saves any."""
        if self.elsewhere:
            return 0.0
        if self.phase is Phase.DECODE or self.gathers:
            width = 2 * self.latent + self.rope_dim
        else:
            width = self.nope_dim + self.rope_dim + self.value_dim
        return 2.0 * self.batch * self.heads * self.queries * self.keys * width

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of queries, records (or expanded keys and values) and results, each moved once."""
        act = self.activation.bytes
        record = self.latent + self.rope_dim
        if self.phase is Phase.DECODE or self.gathers:
            queries = self.heads * self.queries * (record + self.latent) * act
            keys = 0.0 if self.elsewhere else self.keys * self.record
            if self.gathers:
                keys = keys * self.queries
        else:
            wide = self.nope_dim + self.rope_dim
            queries = self.heads * self.queries * (wide + self.value_dim) * act
            keys = self.heads * self.keys * (wide + self.value_dim) * act
        return self.batch * (queries + keys)


@dataclass(frozen=True, slots=True)
class IndexScan:
    """Scores of small keys of all tokens, and the choice of the best ones (sparse attention).

    Attributes:
        phase: prefill or decode.
        batch: requests, or chunks.
        heads: index heads. Devices do not share them: each scans all.
        dim: elements of an index key.
        queries: new tokens of every request, or their mean.
        keys: tokens that are scanned for every query.
        key_bytes: of one index key with its scale.
        chosen: tokens that are chosen for every query at most.
        scored: other devices compute the scores; left is the choice.
    """

    phase: Phase
    batch: Size
    heads: int
    dim: int
    queries: Size
    keys: Size
    key_bytes: float
    chosen: int
    scored: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return "index_choice" if self.scored else "index_scan"

    @property
    def flops(self) -> float | NDArray[np.float64]:
        """Operations of the scores."""
        if self.scored:
            return 0.0
        return 2.0 * self.batch * self.queries * self.heads * self.dim * self.keys

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of keys, queries, scores (fp32, written and read) and indices."""
        chosen = self.queries * (8 * self.keys + 4 * self.chosen)
        if self.scored:
            return 1.0 * self.batch * chosen
        return self.batch * (
            self.keys * self.key_bytes + self.queries * self.heads * self.dim + chosen
        )


class StateKind(StrEnum):
    """Which recurrence keeps a state."""

    DELTA_NET = "delta_net"
    """Gated delta net: decay, product with the key, update, product with the query."""
    MAMBA2 = "mamba2"
    """Mamba-2: decay, update, product with C."""


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """A recurrent state of every request of one layer on one device, read and written.

    Attributes:
        kind: which recurrence.
        phase: in prefill, kernels work through chunks of tokens; in decode, token by token.
        batch: requests, or chunks of prompts.
        queries: new tokens of every request, or their mean.
        heads: heads, each with a state.
        key_heads: heads of queries and keys, or groups that share B and C.
        key_dim: elements of a key; columns of the state in Mamba-2.
        value_dim: elements of a value; elements of a head in Mamba-2.
        state_bytes: of one number of the state.
        activation: element type of what goes in and comes out.
    """

    kind: StateKind
    phase: Phase
    batch: Size
    queries: Size
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    state_bytes: float
    activation: ElementType

    @property
    def name(self) -> str:
        """What it is called."""
        return "state"

    @property
    def flops(self) -> float | NDArray[np.float64]:
        """Operations of the recurrence, token by token."""
        each = 7.0 if self.kind is StateKind.DELTA_NET else 6.0
        return each * self.batch * self.queries * self.heads * self.key_dim * self.value_dim

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of the state, read and written once a step, and of what goes in and comes out."""
        state = 2 * self.heads * self.key_dim * self.value_dim * self.state_bytes
        rows = 2 * self.key_heads * self.key_dim + 2 * self.heads * self.value_dim
        return self.batch * (state + self.queries * rows * self.activation.bytes)


@dataclass(frozen=True, slots=True)
class Convolution:
    """The short causal convolution before a recurrent state, of one layer on one device.

    Attributes:
        phase: prefill, or decode, where the last columns of each request are kept.
        batch: requests, or chunks of prompts.
        queries: new tokens of every request, or their mean.
        channels: channels of the device.
        width: tokens that it reaches over.
        activation: element type.
    """

    phase: Phase
    batch: Size
    queries: Size
    channels: int
    width: int
    activation: ElementType

    @property
    def name(self) -> str:
        """What it is called."""
        return "convolution"

    @property
    def flops(self) -> float | NDArray[np.float64]:
        """Operations."""
        return 2.0 * self.batch * self.queries * self.channels * self.width

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of rows in and out, and of the kept columns, read and written."""
        moved = 2 * self.queries + 2 * (self.width - 1)
        return 1.0 * self.batch * self.channels * moved * self.activation.bytes


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of one layer on one device; every token visits some of them.

    Attributes:
        tokens: tokens of the step, over all devices.
        hidden: inputs and outputs of an expert.
        width: elements between its matrices, of this device.
        experts: experts of the layer.
        here: experts whose weights this device holds.
        per_token: experts that a token visits.
        gated: three matrices rather than two.
        function: the activation.
        activation: element type of what goes in and comes out.
        weights: how the weights are stored.
        skew: exponent of the power law by which tokens choose experts; 0 for an even choice.
        load: visits to experts of this device, over the mean of all devices. The other devices wait
            for the busiest one.
        dispatched: the device has rows of its own visits alone, and not of all tokens.
    """

    tokens: Size
    hidden: int
    width: int
    experts: int
    here: int
    per_token: int
    gated: bool
    function: PointwiseKind
    activation: ElementType
    weights: WeightType
    skew: float = 0.0
    load: Size = 1.0
    dispatched: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return "experts"

    @property
    def present(self) -> Size:
        """Tokens whose rows the device has."""
        return (
            self.tokens * self.load * self.here / self.experts if self.dispatched else self.tokens
        )

    @property
    def matrices(self) -> int:
        """Matrices of an expert."""
        return 3 if self.gated else 2

    @property
    def visits(self) -> Size:
        """Visits of tokens to experts of this device."""
        return self.tokens * self.per_token * self.here / self.experts * self.load

    @property
    def visited(self) -> float | NDArray[np.float64]:
        """Expected number of experts of this device that at least one token visits."""
        tokens = self.tokens * self.load
        share = expected_visits(self.experts, self.per_token, tokens, self.skew)
        return share * self.here / self.experts

    @property
    def flops(self) -> float | NDArray[np.float64]:
        """Operations of all products."""
        return 2.0 * self.matrices * self.visits * self.hidden * self.width

    @property
    def bytes(self) -> float | NDArray[np.float64]:
        """Bytes of visited weights, and of what every visit reads and writes."""
        weights = self.matrices * self.hidden * self.width * self.weights.bytes
        rows = 2 * self.hidden + (self.matrices + 1) * self.width
        return self.visited * weights + self.visits * rows * self.activation.bytes

    def products(self) -> tuple[MatMul | Pointwise, ...]:
        """Return the experts as equal products, one for each visited expert, rounded up.

        For models that price products one by one: the visited experts are taken as a whole number
        with equal numbers of rows.
        """
        least = max(1, self.per_token + self.here - self.experts)
        count = np.maximum(least, np.rint(self.visited))
        rows = -(-self.visits // count)
        act, names = self.activation, [f"ff{i + 1}" for i in range(self.matrices)]
        fc = MatMulRole.FC
        widenings = [
            MatMul(name, fc, rows, self.width, self.hidden, count, act, self.weights, act)
            for name in names[:-1]
        ]
        return (
            *widenings,
            Pointwise("activation", self.function, rows, self.width, count, act),
            MatMul(names[-1], fc, rows, self.hidden, self.width, count, act, self.weights, act),
        )


def expected_visits(
    experts: int, per_token: int, tokens: Size, skew: float = 0.0
) -> float | NDArray[np.float64]:
    """Return the expected number of distinct experts that a batch of tokens visits.

    Tokens choose independently of each other. An expert that a token visits with probability p is
    left out by all with probability (1 - p)^tokens. The sum of 1 - (1 - p)^tokens over all experts
    is exact. In an even choice p = k/E. In a skewed one p follows a power law of the expert's rank,
    cut at 1, with the sum k.

    Args:
        experts: experts of a layer, E.
        per_token: experts that a token visits, k.
        tokens: tokens in the step.
        skew: exponent of the power law; 0 for an even choice.
    """
    if skew == 0:
        return experts * (1 - (1 - per_token / experts) ** tokens)
    chance = expert_chances(experts, per_token, skew)
    batch = np.asarray(tokens, dtype=np.float64)
    found = np.sum(1 - (1 - chance) ** batch[..., None], axis=-1)
    return float(found) if found.ndim == 0 else found


def expert_chances(experts: int, per_token: int, skew: float = 0.0) -> NDArray[np.float64]:
    """Return the chance of each expert to be visited by a token. The arguments are those above."""
    ranks = np.arange(1, experts + 1, dtype=np.float64)
    return _inclusions(ranks**-skew, per_token)


def _inclusions(weights: NDArray[np.float64], chosen: int) -> NDArray[np.float64]:
    """Return chances in proportion to falling weights, at most 1 each, that sum to ``chosen``."""
    for certain in range(chosen + 1):
        rest = weights[certain:]
        chance = (chosen - certain) * rest / rest.sum() if rest.size else rest
        if not chance.size or chance[0] <= 1:
            return np.concatenate([np.ones(certain), chance])
    raise AssertionError("no more experts are chosen than there are")


Operator = (
    MatMul
    | Pointwise
    | AllReduce
    | Collective
    | Attention
    | LatentAttention
    | IndexScan
    | StateUpdate
    | Convolution
    | Experts
)


@dataclass(frozen=True, slots=True)
class LayerOperators:
    """The operators of equal layers on one device.

    Attributes:
        kind: what they are, as in "sliding window of 128 + experts".
        runs: how many such layers there are.
        operators: of one of them, in order.
        everyone: names of those whose size is that of all groups of devices; the others have the
            size of the largest group.
    """

    kind: str
    runs: int
    operators: tuple[Operator, ...]
    everyone: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GroupShares:
    """Work of all groups of devices, over that of as many groups as large as the largest one.

    Attributes:
        tokens: tokens.
        decode: requests that decode; 1 without any.
        prefill: chunks of prompts; 1 without any.
        present: groups that have a request or a chunk.
    """

    tokens: Size = 1.0
    decode: Size = 1.0
    prefill: Size = 1.0
    present: Size = 1.0

    def of_phase(self, phase: Phase) -> Size:
        """Return the share of requests that decode, or of chunks of prompts."""
        return self.decode if phase is Phase.DECODE else self.prefill


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a model on one device, or many steps of the same operators.

    Attributes:
        phase: prefill, decode, or both.
        decoding: requests of one group of devices that get a token in the step; 0 in a prefill.
        tensor_parallel: devices that share every layer.
        layers: the layers by kind. Layers of one kind stand together, whatever their order.
        outside: operators that run once per step: embedding, final norm, LM head.
        mixer_groups: groups of devices, each with requests of its own for the mixers.
        everyone: as in `LayerOperators`, of the operators outside.
        shares: how much all groups do, since operators are those of the largest one.
    """

    phase: Phase
    decoding: Size
    tensor_parallel: int
    layers: tuple[LayerOperators, ...]
    outside: tuple[Operator, ...]
    mixer_groups: int = 1
    everyone: frozenset[str] = frozenset()
    shares: GroupShares = GroupShares()

    @property
    def layer_count(self) -> int:
        """All layers."""
        return sum(layer.runs for layer in self.layers)
