"""The operators of one step of a model, on one of the devices that share it.

The shapes are those of the published system model (reference/system-model.md), generalised to
every mixer and feed-forward part of `attacc.models`, and to the work outside the layers. Not
counted, as in that model: rotary embeddings, residual additions, the choice of the top experts and
sampling, each a few passes over the activations that kernels fuse into their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from attacc.errors import InputError
from attacc.models.exchanges import (
    all_reduce,
    busiest_load,
    exchange,
    gather,
    parts_of_a_token,
    scatter,
)
from attacc.models.feedforward import Dense, LinearBlock, Mixture
from attacc.models.in_flight import (
    Decoding,
    Floats,
    Prefilling,
    Seen,
    all_keys,
    applied,
    at_most,
    beyond,
    in_chunk,
    prefill_keys,
)
from attacc.models.layers import Layer
from attacc.models.mixers import (
    Attention as AttentionMixer,
)
from attacc.models.mixers import (
    CompressedAttention,
    Decay,
    DeltaNet,
    Gate,
    LinearMixer,
    Mamba2,
    QkNorm,
    TokenIndexer,
)
from attacc.models.mixers import (
    LatentAttention as LatentMixer,
)
from attacc.models.operators import (
    Attention,
    CollectiveKind,
    Convolution,
    Experts,
    GroupShares,
    IndexScan,
    LatentAttention,
    LayerOperators,
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    Size,
    StateKind,
    StateUpdate,
    Step,
)
from attacc.models.parameters import AnyModel
from attacc.models.precision import WeightType
from attacc.models.served import LayerGroup, ServedModel, served, weight_type
from attacc.models.sharding import Split
from attacc.units import MAX_SIZE

HEAD_GATHER: Final = "head_gather"
"""The exchange before the output head."""
_OF_EVERYONE: Final = frozenset({"embedding", "embedding_reduce_scatter", HEAD_GATHER, "lm_head"})
"""Operators outside the layers whose size is that of all groups of devices."""
_PLAIN: Final = {"relu": PointwiseKind.RELU, "relu2": PointwiseKind.RELU}
"""Activations that are not gated and are no kind of GELU."""


def decode_step(
    model: AnyModel, *, batch: int, kv_length: int, tensor_parallel: int | Split
) -> Step:
    """Return the operators that decode one token of every request.

    The query heads that share a key/value head are the rows of one product, m = heads / kv_heads
    (1 in MHA), so K and V of a request are read once per key/value head.

    Args:
        model: the model.
        batch: requests in the step.
        kv_length: keys that every request attends to, its own newest included. The published
            model has Lin + i in the i-th decode step.
        tensor_parallel: devices that share every layer, or how they do.

    Raises:
        InputError: a size is out of range, or the model cannot be split over so many devices.
    """
    _check_size("batch", batch)
    _check_size("kv_length", kv_length)
    decode = Decoding(batch, kv_length)
    return model_step(model, decode=decode, tensor_parallel=tensor_parallel)


def prefill_step(
    model: AnyModel, *, batch: int, prompt_length: int, tensor_parallel: int | Split
) -> Step:
    """Return the operators that process the prompts of a batch and give each its first token.

    Every token of a prompt attends to all of it: like the published model, the operator does not
    say that the causal mask leaves half of the products unused. Final norm and LM head run for
    the last position of each request only.

    Args:
        model: the model.
        batch: requests in the step.
        prompt_length: tokens of every prompt.
        tensor_parallel: devices that share every layer, or how they do.

    Raises:
        InputError: as in `decode_step`.
    """
    _check_size("batch", batch)
    _check_size("prompt_length", prompt_length)
    prefill = Prefilling(batch, prompt_length, prompt_length)
    return model_step(model, prefill=prefill, tensor_parallel=tensor_parallel)


def model_step(
    model: AnyModel,
    *,
    decode: Decoding | None = None,
    prefill: Prefilling | None = None,
    tensor_parallel: int | Split,
) -> Step:
    """Return the operators of a step, or of many steps at once.

    Products see all tokens of the step together; mixers are apart for requests that decode and for
    chunks of prompts. The LM head runs for one position of every request and chunk.

    Args:
        model: the model.
        decode: requests that get a token; None for a prefill.
        prefill: chunks of prompts; None for a decode step.
        tensor_parallel: devices that share every layer, or how they do. With groups, requests and
            chunks are dealt out to them, and the operators are those of the largest group.

    Raises:
        InputError: neither is given, or the model cannot be split over so many devices.
    """
    if prefill is None and decode is None:
        raise InputError("a step without requests", hint="give requests that decode, or prompts")
    split = Split.of(tensor_parallel)
    share = served(model).share(split)
    tokens, sequences = _rows(decode, prefill)
    asked, prompts = decode, prefill
    if decode is not None:
        decode = decode.dealt(split.mixer_groups)
    if prefill is not None:
        prefill = prefill.dealt(split.mixer_groups)
    own, own_sequences = _rows(decode, prefill)
    phase = Phase.DECODE if decode is not None else Phase.PREFILL
    if decode is not None and prefill is not None:
        phase = Phase.MIXED
    builders = [_Builder(share, group, decode, prefill, own, tokens) for group in share.groups]
    layers = [one.operators(one.group.layer.kind, one.group.count) for one in builders]
    if asked is not None and asked.queries > 1:
        layers += _drafting(share, asked)
    return Step(
        phase=phase,
        decoding=0 if decode is None else decode.requests,
        tensor_parallel=split.devices,
        layers=tuple(layers),
        outside=_outside(share, tokens, sequences, own, own_sequences),
        mixer_groups=split.mixer_groups,
        everyone=_OF_EVERYONE,
        shares=_shares(split.mixer_groups, (asked, decode), (prompts, prefill), (tokens, own)),
    )


def _shares(
    groups: int,
    decode: tuple[Decoding | None, Decoding | None],
    prefill: tuple[Prefilling | None, Prefilling | None],
    tokens: tuple[Size, Size],
) -> GroupShares:
    """Return how much all groups do.

    Args:
        groups: how many there are.
        decode: requests of all groups, and of the largest one.
        prefill: chunks, likewise.
        tokens: tokens, likewise.
    """
    if groups == 1:
        return GroupShares()
    requests = [0 if one is None else one.requests for one in decode]
    chunks = [0 if one is None else one.chunks for one in prefill]
    most = np.maximum(requests[0], chunks[0])
    return GroupShares(
        tokens=tokens[0] / (groups * tokens[1]),
        decode=requests[0] / (groups * requests[1]) if decode[0] is not None else 1.0,
        prefill=chunks[0] / (groups * chunks[1]) if prefill[0] is not None else 1.0,
        present=np.minimum(groups, most) / groups,
    )


def _rows(decode: Decoding | None, prefill: Prefilling | None) -> tuple[Size, Size]:
    """Return the tokens of requests and chunks, and the positions that need logits."""
    tokens: Size = 0
    sequences: Size = 0
    if prefill is not None:
        tokens, sequences = prefill.tokens, prefill.chunks
    if decode is not None:
        tokens, sequences = tokens + decode.tokens, sequences + decode.tokens
    return tokens, sequences


def _drafting(share: ServedModel, decode: Decoding) -> Iterator[LayerOperators]:
    """Yield the layers that make drafts, one token of every request at a time.

    Every draft runs the layers of one module, and the output head. A model without such layers
    makes its drafts elsewhere, and nothing is counted.
    """
    draft = share.model.draft
    if draft is None:
        return
    every, drafts, hidden = replace(decode, queries=1), decode.queries - 1, share.model.hidden_size
    one = every.dealt(share.split.mixer_groups)
    act = share.activations
    own: list[Operator] = []
    if draft.projection:
        own.append(
            MatMul(
                "draft_projection", MatMulRole.FC, one.tokens, hidden, 2 * hidden, 1, act, act, act
            )
        )
    outside = _outside(share, every.tokens, every.tokens, one.tokens, one.tokens)
    own += [op for op in outside if op.name in (HEAD_GATHER, "lm_head")]
    yield LayerOperators("draft", drafts, tuple(own), _OF_EVERYONE)
    for group in share.draft_groups:
        builder = _Builder(share, group, one, None, one.tokens, every.tokens)
        yield builder.operators(f"draft: {group.layer.kind}", drafts * group.count)


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds the operators of one kind of layer.

    Attributes:
        share: one device's share of the model.
        group: the kind of layer.
        decode: requests that get a token, of one group of devices.
        prefill: chunks of prompts, likewise.
        tokens: rows of the activations.
        everyone: tokens of all groups.
    """

    share: ServedModel
    group: LayerGroup
    decode: Decoding | None
    prefill: Prefilling | None
    tokens: Size
    everyone: Size

    @property
    def _layer(self) -> Layer:
        return self.group.layer

    @property
    def _hidden(self) -> int:
        return self.share.model.hidden_size

    def operators(self, kind: str, runs: int) -> LayerOperators:
        """Return the operators of one layer.

        Args:
            kind: what such layers are.
            runs: how many there are.
        """
        everyone = frozenset({"experts"} if self._travels else (o.name for o in self._gathered()))
        return LayerOperators(kind, runs, tuple(self.layer()), everyone)

    def layer(self) -> Iterator[Operator]:
        """Yield the operators of one layer.

        Of a layer with both parts, half of the norms follow each of them. With a parallel residual,
        partial sums of both are added on each device before they are summed over devices, once
        (GPT-NeoX-20B, arXiv 2204.06745, 2.1).

        Groups of devices gather their tokens before a feed-forward part, and get the sums of their
        own tokens back, unless tokens travel to the devices of their experts.
        """
        layer, travels = self._layer, self._travels
        both = layer.mixer is not None and layer.feed_forward is not None
        first = layer.norms // 2 if both else layer.norms
        norms = [self._norm(f"norm{i + 1}") for i in range(layer.norms)]
        if layer.mixer is not None:
            yield from self._mixer()
            if not (both and layer.parallel) or travels:
                yield from all_reduce(self.share, "all_reduce1", self.tokens)
        if layer.other:
            yield self._fc("streams", -(-layer.other // self._hidden), self._hidden)
        yield from norms[:first]
        if travels:
            yield from self.feed_forward()
        elif layer.feed_forward is not None:
            yield from self._gathered()
            yield from all_reduce(self.share, "all_reduce2", self.tokens)
        yield from norms[first:]

    def _gathered(self) -> Iterator[Operator]:
        """Yield the feed-forward part for the tokens of all groups, and how these get there."""
        if self._layer.feed_forward is not None:
            yield from gather(self.share, "all_gather", self.everyone)
            yield from replace(self, tokens=self.everyone).feed_forward()
            yield from scatter(self.share, "reduce_scatter", self.everyone)

    @property
    def _travels(self) -> bool:
        """Whether tokens travel to the devices of their experts."""
        return self.share.split.dispatches(self._layer.feed_forward)

    # Mixers

    def _mixer(self) -> Iterable[Operator]:
        match self._layer.mixer:
            case AttentionMixer() as mixer:
                return self._attention(mixer)
            case LatentMixer() as mixer:
                return self._latent(mixer)
            case CompressedAttention() as mixer:
                return self._compressed(mixer)
            case DeltaNet() as mixer:
                return self._delta_net(mixer)
            case Mamba2() as mixer:
                return self._mamba2(mixer)
            case LinearMixer():
                return (self._fc("linear", self._hidden, self._hidden, "self_attn.linear_attn"),)
            case None:
                return ()

    def _attention(self, mixer: AttentionMixer) -> Iterator[Operator]:
        query = mixer.heads * mixer.head_dim * (2 if mixer.gate is Gate.ELEMENT else 1)
        key, value = mixer.kv_heads * mixer.head_dim, mixer.kv_heads * mixer.values
        if mixer.borrowed:
            key = value = 0
        elif mixer.keys_as_values:
            value = 0
        yield self._fc("qkv", query + key + value, self._hidden, "self_attn.q_proj")
        if mixer.gate is Gate.HEAD:
            yield self._fc("gate", mixer.heads, self._hidden, "self_attn.g_proj")
        if mixer.qk_norm is QkNorm.WIDTH:
            width = mixer.heads * mixer.head_dim + key
            yield self._pointwise("qk_norm", PointwiseKind.RMS_NORM, width)
        elif mixer.qk_norm is not None:
            rows = self.tokens * (mixer.heads + mixer.kv_heads)
            yield self._pointwise("qk_norm", PointwiseKind.RMS_NORM, mixer.head_dim, rows)
        limit: Seen = all_keys
        if mixer.selector is not None:
            chooser = mixer.selector
            yield self._fc(
                "index", (chooser.heads + 1) * chooser.dim, self._hidden, "self_attn.index_q_proj"
            )
            yield from self._scans(
                chooser.heads, chooser.dim, 2.0 * chooser.dim, chooser.blocks, all_keys
            )
            limit = at_most(chooser.block * chooser.blocks)
        elif mixer.window is not None:
            limit = at_most(mixer.window)
        elif mixer.chunk is not None:
            limit = in_chunk(mixer.chunk)
        act, kv = self.share.activations, self.share.kv
        heads = mixer.heads, mixer.kv_heads, mixer.head_dim
        value_dim, window = mixer.value_dim, mixer.reach
        if self.prefill is not None:
            # A window or a chunk is taken as a band of so many keys for every token.
            p = self.prefill
            band = limit if mixer.reach is None else at_most(mixer.reach)
            keys = prefill_keys(band, p)
            past = p.past if band is all_keys else applied(band, p.past)
            yield Attention(
                Phase.PREFILL, p.chunks, *heads, p.new, keys, act, kv, past,
                value_dim=value_dim, window=window,
            )  # fmt: skip
        if self.decode is not None:
            d = self.decode
            if d.shared and limit is all_keys:
                limit = beyond(d.shared)
                yield Attention(
                    Phase.DECODE, 1, *heads, d.tokens, d.shared, act, kv,
                    value_dim=mixer.value_dim, shared=True,
                )  # fmt: skip
            keys, longest = d.seen(limit)
            yield Attention(
                Phase.DECODE, d.requests, *heads, d.queries, keys, act, kv, 0, longest,
                value_dim=value_dim, window=window,
            )  # fmt: skip
        if mixer.gate is not None:
            yield self._pointwise("gating", PointwiseKind.SWIGLU, mixer.heads * mixer.values)
        yield self._fc("projection", self._hidden, mixer.heads * mixer.values, "self_attn.o_proj")

    def _latent(self, mixer: LatentMixer) -> Iterator[Operator]:
        query = mixer.heads * (mixer.nope_dim + mixer.rope_dim)
        if mixer.query_rank is None:
            yield self._fc("qkv", query + mixer.width, self._hidden, "self_attn.q_proj")
            yield self._pointwise("latent_norm", PointwiseKind.RMS_NORM, mixer.latent)
        else:
            rank = mixer.query_rank
            yield self._fc("latents", rank + mixer.width, self._hidden, "self_attn.q_a_proj")
            yield self._pointwise("latent_norm", PointwiseKind.RMS_NORM, rank + mixer.latent)
            yield self._fc("qkv", query, rank, "self_attn.q_b_proj")
        if mixer.gate:
            yield self._fc("gate", mixer.heads * mixer.value_dim, self._hidden, "self_attn.g_proj")
        limit: Seen = all_keys
        if mixer.indexer is not None:
            x = mixer.indexer
            limit = at_most(x.chosen)
            yield from self._indexer(x, mixer.query_rank or self._hidden, "self_attn", all_keys)
        stored = self._stored("self_attn.kv_b_proj")
        sparse = mixer.indexer is not None
        if self.prefill is not None:
            yield from self._latent_prefill(mixer, stored, limit, sparse=sparse)
        if self.decode is not None:
            d = self.decode
            keys, longest = d.seen(limit)
            yield self._of_heads("absorb_keys", d.tokens, mixer.latent, mixer.nope_dim,
                                 mixer.heads, stored)  # fmt: skip
            yield self._latent_attention(
                mixer, Phase.DECODE, d.requests, d.queries, keys, longest=longest
            )
            yield self._of_heads("absorb_values", d.tokens, mixer.value_dim, mixer.latent,
                                 mixer.heads, stored)  # fmt: skip
        context = mixer.heads * mixer.value_dim
        if mixer.gate:
            yield self._pointwise("gating", PointwiseKind.SWIGLU, context)
        yield self._fc("projection", self._hidden, context, "self_attn.o_proj")

    def _latent_prefill(
        self, mixer: LatentMixer, stored: WeightType, limit: Seen, *, sparse: bool
    ) -> Iterator[Operator]:
        """Yield a prefill: expanded, or absorbed where an indexer chooses each query's tokens."""
        assert self.prefill is not None  # noqa: S101 - asked only then
        p = self.prefill
        new = p.chunks * p.new
        keys = prefill_keys(limit, p)
        if sparse:
            yield self._of_heads("prefill_absorb_keys", new, mixer.latent, mixer.nope_dim,
                                 mixer.heads, stored)  # fmt: skip
            yield self._latent_attention(mixer, Phase.PREFILL, p.chunks, p.new, keys)
            yield self._of_heads("prefill_absorb_values", new, mixer.value_dim, mixer.latent,
                                 mixer.heads, stored)  # fmt: skip
            return
        # Earlier tokens of the prompt are expanded again.
        act, rows = self.share.activations, new + p.chunks * p.past
        width = mixer.heads * (mixer.nope_dim + mixer.value_dim)
        yield MatMul("expansion", MatMulRole.FC, rows, width, mixer.latent, 1, act, stored, act)
        yield self._latent_attention(mixer, Phase.PREFILL, p.chunks, p.new, keys, past=p.past)

    def _latent_attention(
        self,
        mixer: LatentMixer,
        phase: Phase,
        batch: Size,
        queries: Size,
        keys: Size,
        *,
        past: Size = 0,
        longest: Size | None = None,
    ) -> LatentAttention:
        return LatentAttention(
            phase, batch, mixer.heads, mixer.latent, mixer.rope_dim, mixer.nope_dim,
            mixer.value_dim, queries, keys, self.share.activations, self.share.kv, past, longest,
            gathers=mixer.indexer is not None,
            record_bytes=mixer.record_bytes(self.share.kv.bytes),
        )  # fmt: skip

    def _compressed(self, mixer: CompressedAttention) -> Iterator[Operator]:
        d, rank, ratio = mixer.head_dim, mixer.query_rank, mixer.ratio
        context = mixer.heads * d
        yield self._fc("latents", rank + d, self._hidden, "attn.wq_a")
        yield self._pointwise("latent_norm", PointwiseKind.RMS_NORM, rank + d)
        yield self._fc("qkv", context, rank, "attn.wq_b")

        def records(keys: Floats) -> Floats:
            return np.floor(keys / ratio)

        def seen(keys: Floats) -> Floats:
            found = np.minimum(keys, mixer.window)
            if ratio:
                old = records(keys)
                chosen = mixer.indexer
                found = found + (old if chosen is None else np.minimum(old, chosen.chosen))
            return found

        if ratio:
            wide = d * (2 if mixer.indexer is not None else 1)
            yield self._fc("compressor", 2 * wide, self._hidden, "attn.compressor.wkv")
        if mixer.indexer is not None:
            x = mixer.indexer
            yield self._fc(
                "index_compressor", 4 * x.dim, self._hidden, "attn.indexer.compressor.wkv"
            )
            yield self._fc("index_queries", x.heads * x.dim, rank, "attn.indexer.wq_b")
            yield self._fc("index_weights", x.heads, self._hidden, "attn.indexer.weights_proj")
            key_bytes = mixer.index_key_bytes(self.share.kv.bytes)
            yield from self._scans(x.heads, x.dim, key_bytes, x.chosen, records)
        act, kv = self.share.activations, self.share.kv
        sizes, record = (mixer.heads, d, 0, d, d), mixer.record_bytes(kv.bytes)
        if self.prefill is not None:
            p = self.prefill
            yield LatentAttention(
                Phase.PREFILL, p.chunks, *sizes, p.new, prefill_keys(seen, p), act, kv,
                gathers=True, record_bytes=record,
            )  # fmt: skip
        if self.decode is not None:
            keys, longest = self.decode.seen(seen)
            yield LatentAttention(
                Phase.DECODE, self.decode.requests, *sizes, self.decode.queries, keys, act, kv, 0,
                longest, gathers=True, record_bytes=record,
            )  # fmt: skip
        groups = mixer.output_groups
        yield self._of_heads(
            "output_groups", self.tokens, mixer.output_rank, context // groups, groups,
            self._stored("attn.wo_a"),
        )  # fmt: skip
        yield self._fc("projection", self._hidden, groups * mixer.output_rank, "attn.wo_b")

    def _delta_net(self, mixer: DeltaNet) -> Iterator[Operator]:
        keys = mixer.key_heads * mixer.key_dim
        values = mixer.value_heads * mixer.value_dim
        made = 2 * keys + values + mixer.value_heads
        if mixer.decay is Decay.HEAD:
            made += mixer.value_heads
        else:
            yield self._fc("decay_latent", mixer.key_dim, self._hidden, "linear_attn.f_a_proj")
            yield self._fc("decay", keys, mixer.key_dim, "linear_attn.f_b_proj")
        if mixer.gate_rank is None:
            made += values
        else:
            rank = mixer.gate_rank
            yield self._fc("gate_latent", rank, self._hidden, "linear_attn.g_a_proj")
            yield self._fc("gate", values, rank, "linear_attn.g_b_proj")
        yield self._fc("qkv", made, self._hidden, "linear_attn.in_proj_qkv")
        yield from self._states(
            StateKind.DELTA_NET, mixer.value_heads, mixer.key_heads, mixer.key_dim,
            mixer.value_dim, mixer.state_bytes, mixer.channels, mixer.conv,
        )  # fmt: skip
        rows = self.tokens * mixer.value_heads
        yield self._pointwise("state_norm", PointwiseKind.RMS_NORM, mixer.value_dim, rows)
        yield self._fc("projection", self._hidden, values, "linear_attn.out_proj")

    def _mamba2(self, mixer: Mamba2) -> Iterator[Operator]:
        made = mixer.width + mixer.channels + mixer.heads
        yield self._fc("qkv", made, self._hidden, "mixer.in_proj")
        yield from self._states(
            StateKind.MAMBA2, mixer.heads, mixer.groups, mixer.state, mixer.head_dim,
            mixer.state_bytes, mixer.channels, mixer.conv,
        )  # fmt: skip
        yield self._pointwise("state_norm", PointwiseKind.RMS_NORM, mixer.width)
        yield self._fc("projection", self._hidden, mixer.width, "mixer.out_proj")

    def _states(
        self,
        kind: StateKind,
        heads: int,
        key_heads: int,
        key_dim: int,
        value_dim: int,
        state_bytes: float,
        channels: int,
        conv: int,
    ) -> Iterator[Operator]:
        """Yield the convolution and the state of chunks, and those of requests that decode."""
        act = self.share.activations
        for phase, batch, queries in self._phases():
            yield Convolution(phase, batch, queries, channels, conv, act)
            yield StateUpdate(
                kind, phase, batch, queries, heads, key_heads, key_dim, value_dim, state_bytes, act
            )

    def _phases(self) -> Iterator[tuple[Phase, Size, Size]]:
        if self.prefill is not None:
            yield Phase.PREFILL, self.prefill.chunks, self.prefill.new
        if self.decode is not None:
            yield Phase.DECODE, self.decode.requests, self.decode.queries

    def _indexer(
        self, indexer: TokenIndexer, rank: int, prefix: str, limit: Seen
    ) -> Iterator[Operator]:
        if indexer.shared:
            return
        x, name = indexer, f"{prefix}.indexer"
        yield self._fc("index_queries", x.heads * x.dim, rank, f"{name}.wq_b")
        yield self._fc("index_keys", x.dim + x.heads, self._hidden, f"{name}.wk")
        yield from self._scans(x.heads, x.dim, x.key_bytes, x.chosen, limit)

    def _scans(
        self, heads: int, dim: int, key_bytes: float, chosen: int, limit: Seen
    ) -> Iterator[Operator]:
        if self.prefill is not None:
            p = self.prefill
            keys = prefill_keys(limit, p)
            yield IndexScan(Phase.PREFILL, p.chunks, heads, dim, p.new, keys, key_bytes, chosen)
        if self.decode is not None:
            d = self.decode
            keys, _ = d.seen(limit)
            yield IndexScan(
                Phase.DECODE, d.requests, heads, dim, d.queries, keys, key_bytes, chosen
            )

    # Feed-forward parts

    def feed_forward(self) -> Iterator[Operator]:
        """Yield the operators of the feed-forward part, without sums over devices."""
        match self._layer.feed_forward:
            case Dense() as block:
                yield from self._dense(block, "ff", "activation")
            case Mixture() as block:
                yield from self._mixture(block)
            case LinearBlock():
                yield self._fc("linear_block", self._hidden, self._hidden, "mlp.linear_mlp")
            case None:
                return

    def _dense(
        self, block: Dense, name: str, activation: str, weights: str = "mlp"
    ) -> Iterator[Operator]:
        names = [f"{name}{i + 1}" for i in range(3 if block.gated else 2)]
        stored = f"{weights}.up_proj"
        for one in names[:-1]:
            yield self._fc(one, block.width, self._hidden, stored)
        yield self._pointwise(activation, _function(block.activation, block.gated), block.width)
        yield self._fc(names[-1], self._hidden, block.width, f"{weights}.down_proj")

    def _mixture(self, block: Mixture) -> Iterator[Operator]:
        inputs, parts = block.latent or self._hidden, self.share.split.expert_parts
        yield self._fc("router", block.experts, self._hidden, "mlp.gate")
        if block.latent is not None:
            yield self._fc("latent_in", block.latent, self._hidden, "mlp.latent_in")
        yield from self._travelling("dispatch", block)
        yield Experts(
            tokens=self.everyone,
            hidden=inputs,
            width=block.width,
            experts=block.experts,
            here=block.here,
            per_token=block.experts_per_token,
            gated=block.gated,
            function=_function(block.activation, block.gated),
            activation=self.share.activations,
            weights=self._stored("mlp.experts.*.up_proj"),
            load=busiest_load(block.experts, block.experts_per_token, self.everyone, parts),
            dispatched=self._travels,
        )
        yield from self._travelling("combine", block)
        if self._travels:
            # Each device of a group has got the sums of its slice of the group's tokens.
            split = self.share.split
            yield from exchange(
                self.share, "group_gather", CollectiveKind.ALL_GATHER, self.tokens,
                split.mixer_devices, inputs,
            )  # fmt: skip
        if block.latent is not None:
            yield self._fc("latent_out", self._hidden, block.latent, "mlp.latent_out")
        if block.shared_width:
            shared = Dense(width=block.shared_width, gated=block.gated, activation=block.activation)
            yield from self._dense(shared, "shared", "shared_activation", "mlp.shared_experts")
        if block.shared_gate:
            yield self._fc("shared_gate", 1, self._hidden, "mlp.shared_expert_gate")
        if block.dense is not None:
            yield from self._dense(block.dense, "dense", "dense_activation")

    def _travelling(self, name: str, block: Mixture) -> Iterator[Operator]:
        """Yield tokens on their way to the devices of their experts, or back.

        The devices of a group deal its tokens out among themselves. A token goes once to each
        device that holds some of its experts, and comes back as the sum over these experts.
        """
        if not self._travels:
            return
        split = self.share.split
        own = -(-self.tokens // split.mixer_devices)
        copies = parts_of_a_token(block.experts, block.experts_per_token, split.expert_parts)
        yield from exchange(
            self.share, name, CollectiveKind.ALL_TO_ALL, own * copies, split.devices,
            block.latent or self._hidden,
        )  # fmt: skip

    # Parts

    def _stored(self, *names: str) -> WeightType:
        return self.group.stored_as(*names)

    def _fc(self, name: str, n: int, k: int, stored: str | None = None) -> MatMul:
        act = self.share.activations
        right = act if stored is None else self._stored(stored)
        return MatMul(name, MatMulRole.FC, self.tokens, n, k, 1, act, right, act)

    def _of_heads(
        self, name: str, rows: Size, n: int, k: int, heads: int, stored: WeightType
    ) -> MatMul:
        act = self.share.activations
        return MatMul(name, MatMulRole.HEADS, rows, n, k, heads, act, stored, act)

    def _pointwise(
        self, name: str, kind: PointwiseKind, n: int, rows: Size | None = None
    ) -> Pointwise:
        return Pointwise(
            name, kind, self.tokens if rows is None else rows, n, 1, self.share.activations
        )

    def _norm(self, name: str) -> Pointwise:
        return self._pointwise(name, _norm_kind(self.share), self._hidden)


def _function(activation: str, gated: bool) -> PointwiseKind:  # noqa: FBT001 - as layers state it
    if gated:
        return PointwiseKind.SWIGLU
    return _PLAIN.get(activation, PointwiseKind.GELU)


def _norm_kind(share: ServedModel) -> PointwiseKind:
    return PointwiseKind.LAYER_NORM if share.model.norm_bias else PointwiseKind.RMS_NORM


def _outside(
    share: ServedModel, tokens: Size, sequences: Size, own: Size, own_sequences: Size
) -> tuple[Operator, ...]:
    """Return the operators that run once per step.

    Args:
        share: one device's share of the model.
        tokens: tokens of all groups.
        sequences: positions of all groups that need logits.
        own: tokens of one group.
        own_sequences: positions of one group that need logits.
    """
    model, act = share.model, share.activations
    hidden = model.hidden_size
    width = model.embedding_size or hidden
    projects = model.embedding_size is not None

    def product(name: str, rows: Size, n: int, k: int, weights: str) -> MatMul:
        stored = weight_type(share.format_of(weights))
        return MatMul(name, MatMulRole.FC, rows, n, k, 1, act, stored, act)

    norm = Pointwise("final_norm", _norm_kind(share), own_sequences, hidden, 1, act)
    embedding = Pointwise("embedding", PointwiseKind.EMBEDDING, tokens, width, 1, act)
    head = "embed_tokens" if model.tied_embeddings else "lm_head"
    project_out = product("project_out", own_sequences, width, hidden, "project_out")
    return (
        embedding,
        # Each device looks up the rows of its part of the vocabulary.
        *scatter(share, "embedding_reduce_scatter", tokens, width),
        *all_reduce(share, "embedding_all_reduce", own, width),
        *([product("project_in", own, hidden, width, "project_in")] if projects else []),
        *([norm] if model.final_norm else []),
        *([project_out] if projects else []),
        *gather(share, HEAD_GATHER, sequences, width),
        product("lm_head", sequences, model.vocab_size, width, head),
    )


def _check_size(name: str, value: int) -> None:
    if not 1 <= value <= MAX_SIZE:
        raise InputError(f"{value} is out of range", where=name, hint=f"use 1 to {MAX_SIZE}")
