"""Mixers: the part of a layer through which a token sees others.

A mixer states its weights, what it stores of every token and of every request, and the work of
decoding. The names of sizes are those of the page docs/model/layers.md; the arithmetic follows
reference/model-architectures.md, sections 1 and 4. A query token sees ``n`` keys at most, its own
included. FLOPs count a multiply and an add as two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.models.weights import Part, Weight, linear, vector
from attacc.units import MAX_SIZE

Size = Annotated[int, Field(gt=0, le=MAX_SIZE)]
_Count = Annotated[int, Field(ge=0, le=MAX_SIZE)]

_WIDE_BYTES: Final = 2.0
"""Bytes of an element that no KV type covers, such as an index key of MiniMax M3 or a column of a
convolution: bf16."""
_SCALED_BLOCK: Final = 128
"""Elements of a latent that share one fp32 scale in the records of sparse attention."""
_SCALE_BYTES: Final = 4.0


@dataclass(frozen=True, slots=True)
class Stored:
    """What one layer stores, in bytes.

    Attributes:
        per_token: for each token of the context, without end.
        per_request: for each request at most: a full ring of keys and values.
        state: for each request, at any length.
    """

    per_token: float = 0.0
    per_request: float = 0.0
    state: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one layer's mixer for one request in a decode step, projections apart.

    Attributes:
        flops: operations.
        bytes: keys, values, index keys and state that are read, and state that is written.
    """

    flops: float
    bytes: float


class Mixer(Spec, ABC):
    """How the tokens of a request see one another in a layer."""

    @abstractmethod
    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights, for a residual stream of so many elements."""

    @abstractmethod
    def stored(self, kv_bytes: float) -> Stored:
        """Return what is stored, with elements of keys and values of so many bytes."""

    @abstractmethod
    def decode_work(self, keys: int, kv_bytes: float, queries: int = 1) -> Work:
        """Return the work of one decode step of one request.

        Args:
            keys: tokens of the context, the newest included.
            kv_bytes: of one element of keys and values.
            queries: query tokens of the step: 1, and more with drafts to be verified.
        """


class Gate(StrEnum):
    """What multiplies the context before the output projection."""

    ELEMENT = "element"
    """A number for each element: the query projection has twice the width."""
    HEAD = "head"
    """A number for each head, from a matrix of its own."""


class QkNorm(StrEnum):
    """Norms of queries and keys that have weights."""

    HEAD = "head"
    """One of head_dim elements for all query heads, one for all key heads."""
    HEADS = "heads"
    """One of head_dim elements for each head."""
    WIDTH = "width"
    """Over all heads together."""


class BlockSelector(Spec):
    """Chooses blocks of keys for each key/value head, by small index keys (MiniMax M3).

    Attributes:
        heads: index heads; head j serves key/value head j.
        dim: elements of an index key, of which there is one for each token.
        block: keys of a block.
        blocks: blocks that an index head chooses.
    """

    heads: Size
    dim: Size
    block: Size
    blocks: Size


class Attention(Mixer):
    """Attention with heads of keys and values: MHA, GQA, MQA; full, windowed or chunked.

    Attributes:
        heads: query heads.
        kv_heads: key/value heads.
        head_dim: elements of a query and of a key.
        value_dim: elements of a value; None for head_dim.
        window: a query sees so many keys at most, the newest ones; None for all.
        chunk: a query sees the keys of its own aligned chunk of so many; None for all.
        gate: what multiplies the context; None for nothing.
        qk_norm: norms of queries and keys with weights; None for none.
        qkv_bias: queries, keys and values have biases.
        out_bias: the output projection has one.
        sinks: every query head has a learned logit beside its scores.
        keys_as_values: keys and values come from one projection (Gemma 4). Both are stored.
        borrowed: the layer reads the keys and values of an earlier one, and has none of its own.
        selector: chooses blocks of keys; None for all keys.
    """

    kind: Literal["attention"] = "attention"
    heads: Size
    kv_heads: Size
    head_dim: Size
    value_dim: Size | None = None
    window: Size | None = None
    chunk: Size | None = None
    gate: Gate | None = None
    qk_norm: QkNorm | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    sinks: bool = False
    keys_as_values: bool = False
    borrowed: bool = False
    selector: BlockSelector | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Attention:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}")
        if self.window is not None and self.chunk is not None:
            raise ValueError("window and chunk: a layer has one of them")
        return self

    @property
    def values(self) -> int:
        """Elements of a value."""
        return self.value_dim or self.head_dim

    @property
    def reach(self) -> int | None:
        """Keys that a query sees at most; None for all."""
        return self.window or self.chunk

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`Mixer.weights`)."""
        h, d, part = hidden, self.head_dim, Part.MIXER
        query = self.heads * d
        key, value = self.kv_heads * d, self.kv_heads * self.values
        if self.borrowed:
            key = value = 0
        elif self.keys_as_values:
            value = 0
        found = [
            linear("self_attn.q_proj", part, h, query * (2 if self.gate is Gate.ELEMENT else 1))
        ]
        if key:
            found.append(linear("self_attn.k_proj", part, h, key))
        if value:
            found.append(linear("self_attn.v_proj", part, h, value))
        found.append(linear("self_attn.o_proj", part, self.heads * self.values, h))
        if self.gate is Gate.HEAD:
            found.append(linear("self_attn.g_proj", part, h, self.heads))
        if self.qkv_bias:
            found.append(vector("self_attn.qkv_bias", part, query + key + value))
        if self.out_bias:
            found.append(vector("self_attn.o_proj.bias", part, h))
        if self.qk_norm is not None:
            of_keys = {QkNorm.HEAD: d, QkNorm.HEADS: key, QkNorm.WIDTH: key}[self.qk_norm]
            of_queries = d if self.qk_norm is QkNorm.HEAD else query
            norms = of_queries + (of_keys if key else 0)
            found.append(vector("self_attn.qk_norm", part, norms))
        if self.sinks:
            found.append(vector("self_attn.sinks", part, self.heads))
        if self.selector is not None:
            s = self.selector
            found += [
                linear("self_attn.index_q_proj", part, h, s.heads * s.dim),
                linear("self_attn.index_k_proj", part, h, s.dim),
                vector("self_attn.index_norm", part, 2 * s.dim),
            ]
        return tuple(found)

    def _record(self, kv_bytes: float) -> float:
        """Return the bytes of the keys and values of one token."""
        return self.kv_heads * (self.head_dim + self.values) * kv_bytes

    def token_bytes(self, kv_bytes: float) -> float:
        """Return what is stored of one token while it is kept: without end, or within reach."""
        stored = self.stored(kv_bytes)
        return stored.per_token if self.reach is None else stored.per_request / self.reach

    def stored(self, kv_bytes: float) -> Stored:
        """Return what is stored (`Mixer.stored`)."""
        if self.borrowed:
            return Stored()
        record = self._record(kv_bytes)
        if self.reach is not None:
            return Stored(per_request=self.reach * record)
        index = 0.0 if self.selector is None else self.selector.dim * _WIDE_BYTES
        return Stored(per_token=record + index)

    def decode_work(self, keys: int, kv_bytes: float, queries: int = 1) -> Work:
        """Return the work of one decode step (`Mixer.decode_work`)."""
        seen = keys if self.reach is None else min(keys, self.reach)
        flops = read = 0.0
        if self.selector is not None:
            s = self.selector
            flops, read = 2.0 * queries * s.heads * s.dim * keys, keys * s.dim * _WIDE_BYTES
            seen = min(keys, s.block * s.blocks)
        flops += 2.0 * queries * self.heads * (self.head_dim + self.values) * seen
        return Work(flops, read + seen * self._record(kv_bytes))


class TokenIndexer(Spec):
    """Chooses tokens for all heads alike, by small index keys (DeepSeek sparse attention).

    Attributes:
        heads: index heads.
        dim: elements of an index key, of which there is one for each token.
        chosen: tokens that a query attends to at most.
        shared: the layer takes the choice of an earlier one, and has neither weights nor keys for
            it.
    """

    heads: Size
    dim: Size
    chosen: Size
    shared: bool = False

    @property
    def key_bytes(self) -> float:
        """Bytes of an index key: fp8, with one fp32 scale."""
        return 0.0 if self.shared else self.dim + _SCALE_BYTES


class LatentAttention(Mixer):
    """Multi-head latent attention: one latent of each token serves all heads (DeepSeek V2, V3).

    Attributes:
        heads: query heads.
        query_rank: elements of the latent of queries; None for one plain projection.
        latent: elements of the latent of keys and values.
        rope_dim: elements of a key that are stored beside the latent, rotated.
        nope_dim: elements of a head's key that the latent expands to.
        value_dim: elements of a head's value that it expands to.
        gate: the context is multiplied by a number for each element, from a matrix of its own.
        indexer: chooses tokens; None for all of them.
    """

    kind: Literal["latent"] = "latent"
    heads: Size
    query_rank: Size | None = None
    latent: Size
    rope_dim: _Count
    nope_dim: Size
    value_dim: Size
    gate: bool = False
    indexer: TokenIndexer | None = None

    @property
    def width(self) -> int:
        """Elements that are stored of each token, one copy for all heads."""
        return self.latent + self.rope_dim

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`Mixer.weights`)."""
        h, part = hidden, Part.MIXER
        query = self.heads * (self.nope_dim + self.rope_dim)
        if self.query_rank is None:
            found = [linear("self_attn.q_proj", part, h, query)]
        else:
            found = [
                linear("self_attn.q_a_proj", part, h, self.query_rank),
                vector("self_attn.q_a_layernorm", part, self.query_rank),
                linear("self_attn.q_b_proj", part, self.query_rank, query),
            ]
        found += [
            linear("self_attn.kv_a_proj_with_mqa", part, h, self.width),
            vector("self_attn.kv_a_layernorm", part, self.latent),
            linear(
                "self_attn.kv_b_proj", part, self.latent,
                self.heads * (self.nope_dim + self.value_dim),
            ),
            linear("self_attn.o_proj", part, self.heads * self.value_dim, h),
        ]  # fmt: skip
        if self.gate:
            found.append(linear("self_attn.g_proj", part, h, self.heads * self.value_dim))
        if self.indexer is not None and not self.indexer.shared:
            x = self.indexer
            found += [
                linear("self_attn.indexer.wq_b", part, self.query_rank or h, x.heads * x.dim),
                linear("self_attn.indexer.wk", part, h, x.dim),
                vector("self_attn.indexer.k_norm", part, 2 * x.dim),
                linear("self_attn.indexer.weights_proj", part, h, x.heads),
            ]
        return tuple(found)

    def record_bytes(self, kv_bytes: float) -> float:
        """Return the bytes of one token: 8-bit records of sparse attention carry scales."""
        if self.indexer is not None and kv_bytes == 1:
            scales = -(-self.latent // _SCALED_BLOCK) * _SCALE_BYTES
            return self.latent + scales + self.rope_dim * _WIDE_BYTES
        return self.width * kv_bytes

    def stored(self, kv_bytes: float) -> Stored:
        """Return what is stored (`Mixer.stored`)."""
        index = 0.0 if self.indexer is None else self.indexer.key_bytes
        return Stored(per_token=self.record_bytes(kv_bytes) + index)

    def decode_work(self, keys: int, kv_bytes: float, queries: int = 1) -> Work:
        """Return the work of one decode step (`Mixer.decode_work`)."""
        seen, flops, read = keys, 0.0, 0.0
        if self.indexer is not None:
            x = self.indexer
            seen = min(keys, x.chosen)
            if not x.shared:
                flops, read = 2.0 * queries * x.heads * x.dim * keys, keys * x.key_bytes
        # The absorbed form: scores over the whole record, values are its latent.
        flops += 2.0 * queries * self.heads * (2 * self.latent + self.rope_dim) * seen
        return Work(flops, read + seen * self.record_bytes(kv_bytes))


class CompressedAttention(Mixer):
    """A window of tokens, and beside it compressed records of older ones (DeepSeek V4).

    One vector of a token is its key and its value, for all heads.

    Attributes:
        heads: query heads.
        head_dim: elements of a record.
        rope_dim: of these, the rotated ones, which stay in 16 bits where the others are in fp8.
        query_rank: elements of the latent of queries.
        output_groups: groups of heads that are projected apart.
        output_rank: elements that each group is projected to.
        window: newest tokens that a query sees one by one.
        ratio: tokens that one compressed record stands for: 0 for none, 4 with overlap and a
            choice among the records, or more without both.
        indexer: chooses compressed records; where the ratio is 4.
    """

    kind: Literal["compressed"] = "compressed"
    heads: Size
    head_dim: Size
    rope_dim: Size
    query_rank: Size
    output_groups: Size
    output_rank: Size
    window: Size
    ratio: _Count = 0
    indexer: TokenIndexer | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> CompressedAttention:
        if (self.ratio == _OVERLAPPED) != (self.indexer is not None):
            raise ValueError(
                f"ratio = {self.ratio}: records of {_OVERLAPPED} tokens, and no others, are chosen "
                "by an indexer"
            )
        if self.heads * self.head_dim % self.output_groups:
            raise ValueError(f"output_groups = {self.output_groups} does not divide the context")
        return self

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`Mixer.weights`)."""
        h, part, d = hidden, Part.MIXER, self.head_dim
        context = self.heads * d
        found = [
            linear("attn.wq_a", part, h, self.query_rank),
            vector("attn.q_norm", part, self.query_rank),
            linear("attn.wq_b", part, self.query_rank, context),
            linear("attn.wkv", part, h, d),
            vector("attn.kv_norm", part, d),
            linear(
                "attn.wo_a", part, context // self.output_groups,
                self.output_groups * self.output_rank,
            ),
            linear("attn.wo_b", part, self.output_groups * self.output_rank, h),
            vector("attn.attn_sink", part, self.heads),
        ]  # fmt: skip
        if self.ratio:
            wide = d * (2 if self.ratio == _OVERLAPPED else 1)
            found += [
                linear("attn.compressor.wkv", part, h, wide),
                linear("attn.compressor.wgate", part, h, wide),
                vector("attn.compressor.ape", part, self.ratio * wide),
                vector("attn.compressor.norm", part, d),
            ]
        if self.indexer is not None:
            x = self.indexer
            found += [
                linear("attn.indexer.compressor.wkv", part, h, 2 * x.dim),
                linear("attn.indexer.compressor.wgate", part, h, 2 * x.dim),
                vector("attn.indexer.compressor.ape", part, self.ratio * 2 * x.dim),
                vector("attn.indexer.compressor.norm", part, x.dim),
                linear("attn.indexer.wq_b", part, self.query_rank, x.heads * x.dim),
                linear("attn.indexer.weights_proj", part, h, x.heads),
            ]
        return tuple(found)

    def record_bytes(self, kv_bytes: float) -> float:
        """Return the bytes of one record; in fp8 with a scale for every 64 elements."""
        if kv_bytes != 1:
            return self.head_dim * kv_bytes
        narrow = self.head_dim - self.rope_dim
        scales = -(-narrow // _RECORD_BLOCK)
        return narrow + self.rope_dim * _WIDE_BYTES + scales + scales % 2

    def index_key_bytes(self, kv_bytes: float) -> float:
        """Return the bytes of an index key, which are of the type of the records."""
        if self.indexer is None:
            return 0.0
        return self.indexer.key_bytes if kv_bytes == 1 else self.indexer.dim * kv_bytes

    def stored(self, kv_bytes: float) -> Stored:
        """Return what is stored (`Mixer.stored`)."""
        record = self.record_bytes(kv_bytes)
        ring = self.window * record
        if not self.ratio:
            return Stored(per_request=ring)
        if self.indexer is None:
            state = self.ratio * 2 * self.head_dim * _STATE_BYTES
            return Stored(record / self.ratio, ring, state)
        # The open records: two windows of twice the width, of values and of gates.
        slots = 2 * self.ratio
        state = slots * 2 * (2 * self.head_dim + 2 * self.indexer.dim) * _STATE_BYTES
        return Stored((record + self.index_key_bytes(kv_bytes)) / self.ratio, ring, state)

    def decode_work(self, keys: int, kv_bytes: float, queries: int = 1) -> Work:
        """Return the work of one decode step (`Mixer.decode_work`)."""
        seen, flops, read = min(keys, self.window), 0.0, 0.0
        if self.ratio:
            records = keys // self.ratio
            if self.indexer is not None:
                x = self.indexer
                flops = 2.0 * queries * x.heads * x.dim * records
                read = records * self.index_key_bytes(kv_bytes)
                records = min(records, x.chosen)
            seen += records
        flops += 4.0 * queries * self.heads * self.head_dim * seen
        return Work(flops, read + seen * self.record_bytes(kv_bytes))


_OVERLAPPED: Final = 4
_RECORD_BLOCK: Final = 64
_STATE_BYTES: Final = 4.0
"""Bytes of a number of a compressor's state: fp32."""


class Decay(StrEnum):
    """What a delta net forgets by."""

    HEAD = "head"
    """One number for each value head (Qwen3-Next, Qwen3.5)."""
    CHANNEL = "channel"
    """One number for each channel of the keys, by a matrix of low rank (Kimi)."""


class DeltaNet(Mixer):
    """Gated delta net: a state of fixed size for each head, read and written at every token.

    Attributes:
        key_heads: heads of queries and keys.
        value_heads: heads of values, each with a state of key_dim x value_dim.
        key_dim: elements of a key.
        value_dim: elements of a value.
        conv: width of the short convolution over queries, keys and values.
        decay: what the state forgets by.
        gate_rank: elements of the latent of the output gate; None for a full matrix.
        state_bytes: of one number of the state.
    """

    kind: Literal["delta_net"] = "delta_net"
    key_heads: Size
    value_heads: Size
    key_dim: Size
    value_dim: Size
    conv: Size
    decay: Decay = Decay.HEAD
    gate_rank: Size | None = None
    state_bytes: Annotated[float, Field(ge=1, le=8)] = 4.0

    @property
    def channels(self) -> int:
        """Channels of the convolution."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`Mixer.weights`)."""
        h, part = hidden, Part.MIXER
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        found = [
            linear("linear_attn.in_proj_qkv", part, h, 2 * keys + values),
            linear("linear_attn.out_proj", part, values, h),
            linear("linear_attn.in_proj_b", part, h, self.value_heads),
            vector("linear_attn.conv1d", part, self.conv * self.channels),
            vector("linear_attn.A_log", part, self.value_heads),
            vector("linear_attn.norm", part, self.value_dim),
        ]
        if self.decay is Decay.HEAD:
            found += [
                linear("linear_attn.in_proj_a", part, h, self.value_heads),
                vector("linear_attn.dt_bias", part, self.value_heads),
            ]
        else:
            found += [
                linear("linear_attn.f_a_proj", part, h, self.key_dim),
                linear("linear_attn.f_b_proj", part, self.key_dim, keys),
                vector("linear_attn.dt_bias", part, keys),
            ]
        if self.gate_rank is None:
            found.append(linear("linear_attn.in_proj_z", part, h, values))
        else:
            found += [
                linear("linear_attn.g_a_proj", part, h, self.gate_rank),
                linear("linear_attn.g_b_proj", part, self.gate_rank, values),
            ]
        return tuple(found)

    @property
    def _state(self) -> float:
        return self.value_heads * self.key_dim * self.value_dim * self.state_bytes

    def stored(self, kv_bytes: float) -> Stored:  # noqa: ARG002 - a state has a type of its own
        """Return what is stored (`Mixer.stored`)."""
        return Stored(state=self._state + self.channels * (self.conv - 1) * _WIDE_BYTES)

    def decode_work(self, keys: int, kv_bytes: float, queries: int = 1) -> Work:  # noqa: ARG002
        """Return the work of one decode step (`Mixer.decode_work`)."""
        # Decay 1, product with the key 2, update 2, product with the query 2.
        flops = 7.0 * queries * self.value_heads * self.key_dim * self.value_dim
        return Work(flops, 2 * self._state * queries)


class Mamba2(Mixer):
    """Mamba-2: a state of head_dim x state for each head, read and written at every token.

    Attributes:
        heads: heads.
        head_dim: elements of a head.
        state: columns of its state.
        groups: groups of heads that share the vectors B and C.
        conv: width of the short convolution.
        conv_bias: the convolution has biases.
        state_bytes: of one number of the state.
    """

    kind: Literal["mamba2"] = "mamba2"
    heads: Size
    head_dim: Size
    state: Size
    groups: Size
    conv: Size
    conv_bias: bool = True
    state_bytes: Annotated[float, Field(ge=1, le=8)] = 4.0

    @property
    def width(self) -> int:
        """Elements of all heads."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution."""
        return self.width + 2 * self.groups * self.state

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`Mixer.weights`)."""
        part = Part.MIXER
        return (
            linear("mixer.in_proj", part, hidden, self.width + self.channels + self.heads),
            vector("mixer.conv1d", part, self.channels * (self.conv + self.conv_bias)),
            vector("mixer.A_log_D_dt_bias", part, 3 * self.heads),
            vector("mixer.norm", part, self.width),
            linear("mixer.out_proj", part, self.width, hidden),
        )

    @property
    def _state(self) -> float:
        return self.width * self.state * self.state_bytes

    def stored(self, kv_bytes: float) -> Stored:  # noqa: ARG002 - a state has a type of its own
        """Return what is stored (`Mixer.stored`)."""
        return Stored(state=self._state + self.channels * (self.conv - 1) * _WIDE_BYTES)

    def decode_work(self, keys: int, kv_bytes: float, queries: int = 1) -> Work:  # noqa: ARG002
        """Return the work of one decode step (`Mixer.decode_work`)."""
        return Work(6.0 * queries * self.width * self.state, 2 * self._state * queries)


class LinearMixer(Mixer):
    """A single matrix in place of attention (Llama-Nemotron); a token sees no other."""

    kind: Literal["linear"] = "linear"

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Return the weights (`Mixer.weights`)."""
        return (linear("self_attn.linear_attn", Part.MIXER, hidden, hidden),)

    def stored(self, kv_bytes: float) -> Stored:  # noqa: ARG002 - nothing is stored
        """Return what is stored (`Mixer.stored`)."""
        return Stored()

    def decode_work(self, keys: int, kv_bytes: float, queries: int = 1) -> Work:  # noqa: ARG002
        """Return the work of one decode step (`Mixer.decode_work`)."""
        return Work(0.0, 0.0)


AnyMixer = Annotated[
    Attention | LatentAttention | CompressedAttention | DeltaNet | Mamba2 | LinearMixer,
    Field(discriminator="kind"),
]
