"""Readers of models whose tokens are stored as one latent vector for all heads.

These are DeepSeek V2, V3, V3.2 and V4, the models of the same keys (Kimi K2), and GLM-5. Sections
1.4, 1.5, 1.7 and 2 of reference/model-architectures.md say what their keys build.

``num_key_value_heads`` and ``head_dim`` say nothing about what these models store. The first must
be the number of heads, and the second is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from attacc.models.feedforward import Dense, Mixture
from attacc.models.layers import Draft, Layer, LayeredModel
from attacc.models.mixers import CompressedAttention, LatentAttention, Size, TokenIndexer
from attacc.models.readers.base import Family, LayerCount, Wrapper, model, needed, one_for_each
from attacc.units import MAX_SIZE

_Count = Annotated[int, Field(ge=0, le=MAX_SIZE)]

CORRECTION: Final = "the numbers by which routers correct their choice are not counted"
"""A note: implementations hold them outside the parameters."""
_DRAFT_COPIES: Final = (
    "checkpoints hold copies of the embedding and of the output head beside the draft layer; "
    "they are not counted"
)
_DRAFT_BY_FORMULA: Final = (
    "the draft layer is counted by a formula that was not checked against a checkpoint"
)


def chosen_experts(experts: int, visited: int, key: str, all_key: str) -> None:
    """Refuse tokens that visit more experts than there are.

    Args:
        experts: how many there are.
        visited: how many a token visits.
        key: the key that says the latter.
        all_key: the key that says the former.

    Raises:
        ValueError: there are fewer experts.
    """
    if visited > experts:
        raise ValueError(
            f"{key} = {visited} is more than {all_key} = {experts}: use 1 to {experts}"
        )


class Latent(Family):
    """Keys of all models with multi-head latent attention.

    Attributes:
        hidden_size: elements of the residual stream.
        num_hidden_layers: layers.
        num_attention_heads: query heads.
        num_key_value_heads: the number of heads again, where it is stated.
        head_dim: not used; files state various sizes.
        q_lora_rank: elements of the latent of queries; null for one plain projection.
        kv_lora_rank: elements of the latent of keys and values.
        qk_nope_head_dim: elements of a head's key that the latent expands to.
        qk_rope_head_dim: elements of a key that are rotated.
        qk_head_dim: the sum of the two, where it is stated.
        v_head_dim: elements of a head's value.
        max_position_embeddings: tokens the model was made for.
    """

    hidden_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    q_lora_rank: Size | None
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: _Count
    qk_head_dim: Size | None = None
    v_head_dim: Size
    max_position_embeddings: Size | None = None

    @model_validator(mode="after")
    def _has_one_size_of_heads(self) -> Latent:
        heads, stated = self.num_attention_heads, self.num_key_value_heads
        if stated is not None and stated != heads:
            raise ValueError(
                f"num_key_value_heads = {stated}: a latent serves all heads; "
                f"write num_attention_heads = {heads}, or remove the key"
            )
        together = self.qk_nope_head_dim + self.qk_rope_head_dim
        if self.qk_head_dim is not None and self.qk_head_dim != together:
            raise ValueError(
                f"qk_head_dim = {self.qk_head_dim} is not qk_nope_head_dim + qk_rope_head_dim = "
                f"{together}: remove it, or correct one of them"
            )
        return self

    def attention(
        self, *, indexer: TokenIndexer | None = None, gate: bool = False
    ) -> LatentAttention:
        """Return the attention of a layer.

        Args:
            indexer: chooses the tokens of a query; None for all of them.
            gate: the context is multiplied by a number for each element.
        """
        return LatentAttention(
            heads=self.num_attention_heads,
            query_rank=self.q_lora_rank,
            latent=self.kv_lora_rank,
            rope_dim=self.qk_rope_head_dim,
            nope_dim=self.qk_nope_head_dim,
            value_dim=self.v_head_dim,
            gate=gate,
            indexer=indexer,
        )


class _DeepSeek(Latent):
    """Keys of DeepSeek V2, V3 and V3.2, and of GLM-5.

    Attributes:
        intermediate_size: width of dense blocks.
        moe_intermediate_size: width of an expert.
        n_routed_experts: experts of a layer.
        num_experts_per_tok: experts that a token visits, shared ones apart.
        n_shared_experts: experts that every token visits; null for none.
        first_k_dense_replace: the first layers that have a dense block.
        moe_layer_freq: must be 1, since the library follows no other.
        hidden_act: name of the non-linear function.
        num_nextn_predict_layers: draft layers behind the others.
    """

    harmless: ClassVar[frozenset[str]] = frozenset({"moe_router_dtype"})
    family: ClassVar[str]
    """The label for listings."""
    remarks: ClassVar[tuple[str, ...]] = (CORRECTION,)
    """Notes on every model of the family."""
    draft_remarks: ClassVar[tuple[str, ...]] = ()
    """Further notes on those with draft layers."""

    intermediate_size: Size
    moe_intermediate_size: Size
    n_routed_experts: Size
    num_experts_per_tok: Size
    n_shared_experts: _Count | None
    first_k_dense_replace: _Count
    moe_layer_freq: Literal[1] = 1
    hidden_act: Literal["silu"] = "silu"
    num_nextn_predict_layers: _Count = 0

    @model_validator(mode="after")
    def _has_the_experts(self) -> _DeepSeek:
        chosen_experts(
            self.n_routed_experts, self.num_experts_per_tok,
            "num_experts_per_tok", "n_routed_experts",
        )  # fmt: skip
        return self

    def sparse(self) -> Sequence[bool]:
        """Say of each layer whether it has experts."""
        return [i >= self.first_k_dense_replace for i in range(self.num_hidden_layers)]

    def attentions(self) -> Sequence[LatentAttention]:
        """Return the attention of each layer."""
        return [self.attention()] * self.num_hidden_layers

    def draft_attention(self) -> LatentAttention:
        """Return the attention of a draft layer."""
        return self.attention()

    def _experts(self) -> Mixture:
        return Mixture(
            experts=self.n_routed_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
            activation=self.hidden_act,
            shared_width=(self.n_shared_experts or 0) * self.moe_intermediate_size,
        )

    def _draft(self) -> Draft | None:
        modules = self.num_nextn_predict_layers
        if not modules:
            return None
        layer = Layer(mixer=self.draft_attention(), feed_forward=self._experts())
        return Draft(modules=modules, layers=(layer,), repeated=modules == 1)

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        dense = Dense(width=self.intermediate_size, activation=self.hidden_act)
        blocks = {False: dense, True: self._experts()}
        return model(
            family=self.family,
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=[
                Layer(mixer=attention, feed_forward=blocks[sparse])
                for attention, sparse in zip(self.attentions(), self.sparse(), strict=True)
            ],
            max_context=self.max_position_embeddings,
            draft=self._draft(),
            notes=self.remarks + (self.draft_remarks if self.num_nextn_predict_layers else ()),
        )


class DeepSeekV2(_DeepSeek):
    """DeepSeek V2 and V2 Lite."""

    classes: ClassVar[tuple[str, ...]] = ("DeepseekV2",)
    family: ClassVar[str] = "deepseek_v2"
    # A router of this family corrects nothing.
    remarks: ClassVar[tuple[str, ...]] = ()

    n_shared_experts: _Count | None = 2
    first_k_dense_replace: _Count = 0


class DeepSeekV3(_DeepSeek):
    """DeepSeek V3, V3.1 and R1."""

    classes: ClassVar[tuple[str, ...]] = ("DeepseekV3",)
    family: ClassVar[str] = "deepseek_v3"
    draft_remarks: ClassVar[tuple[str, ...]] = (_DRAFT_COPIES,)


class KimiK2(DeepSeekV3):
    """Kimi K2, which has the keys and the layers of DeepSeek V3."""

    classes: ClassVar[tuple[str, ...]] = ("DeepseekV3", "KimiK2")
    family: ClassVar[str] = "kimi_k2"


class DeepSeekV32(_DeepSeek):
    """DeepSeek V3.2: every layer chooses tokens by an indexer of its own.

    Attributes:
        index_n_heads: index heads.
        index_head_dim: elements of an index key.
        index_topk: tokens that a query attends to at most.
        layer_types: the kind of attention of each layer, which is one for all.
        mlp_layer_types: the block of each layer; None where other keys say it.
        num_experts: experts of a layer again, where it is stated.
    """

    classes: ClassVar[tuple[str, ...]] = ("DeepseekV32",)
    family: ClassVar[str] = "deepseek_v32"
    draft_remarks: ClassVar[tuple[str, ...]] = (_DRAFT_COPIES,)
    harmless: ClassVar[frozenset[str]] = _DeepSeek.harmless | {
        "index_share_for_mtp_iteration",
        "indexer_rope_interleave",
    }

    first_k_dense_replace: _Count = 3
    index_n_heads: Size
    index_head_dim: Size
    index_topk: Size
    layer_types: tuple[Literal["deepseek_sparse_attention", "indexed_attention"], ...] | None = None
    mlp_layer_types: tuple[Literal["dense", "sparse"], ...] | None = None
    num_experts: Size | None = None

    @model_validator(mode="after")
    def _says_the_same_twice(self) -> DeepSeekV32:
        needed("q_lora_rank", self.q_lora_rank, "index queries are made from that latent")
        if self.num_experts is not None and self.num_experts != self.n_routed_experts:
            raise ValueError(
                f"num_experts = {self.num_experts} is not n_routed_experts = "
                f"{self.n_routed_experts}: remove it, or correct one of them"
            )
        if self.layer_types is not None:
            one_for_each("layer_types", self.layer_types, self.num_hidden_layers)
        if self.mlp_layer_types is None:
            return self
        one_for_each("mlp_layer_types", self.mlp_layer_types, self.num_hidden_layers)
        stated = self.model_fields_set & {"first_k_dense_replace", "moe_layer_freq"}
        rule = super().sparse()
        for i, kind in enumerate(self.mlp_layer_types):
            if stated and rule[i] != (kind == "sparse"):
                raise ValueError(
                    f"mlp_layer_types[{i}] = {kind!r} contradicts first_k_dense_replace = "
                    f"{self.first_k_dense_replace} and moe_layer_freq = {self.moe_layer_freq}: "
                    "remove these, or correct the list"
                )
        return self

    def sparse(self) -> Sequence[bool]:
        """Say of each layer whether it has experts."""
        if self.mlp_layer_types is None:
            return super().sparse()
        return [kind == "sparse" for kind in self.mlp_layer_types]

    def _choosing(self, *, shared: bool = False) -> LatentAttention:
        indexer = TokenIndexer(
            heads=self.index_n_heads,
            dim=self.index_head_dim,
            chosen=self.index_topk,
            shared=shared,
        )
        return self.attention(indexer=indexer)

    def attentions(self) -> Sequence[LatentAttention]:
        """Return the attention of each layer."""
        return [self._choosing()] * self.num_hidden_layers

    def draft_attention(self) -> LatentAttention:
        """Return the attention of a draft layer, which has an indexer of its own."""
        return self._choosing()


Indexing = Literal["full", "shared"]
"""Whether a layer chooses tokens, or takes the choice of the last layer that did."""


class GlmMoeDsa(DeepSeekV32):
    """GLM-5, 5.1 and 5.2: some layers may take the choice of tokens of an earlier one.

    Attributes:
        indexer_types: whether each layer chooses, or takes the last choice.
        index_topk_pattern: the same by one letter a layer, as in "FSSF", or by a list.
        index_topk_freq: the same by a rule: one of so many layers chooses.
        index_skip_topk_offset: layers that stand before the rule begins.
    """

    classes: ClassVar[tuple[str, ...]] = ("GlmMoeDsa",)
    family: ClassVar[str] = "glm_moe_dsa"
    # The published totals of GLM-5 hold a draft layer without copies.
    draft_remarks: ClassVar[tuple[str, ...]] = ()

    indexer_types: tuple[Indexing, ...] | None = None
    index_topk_pattern: str | tuple[Indexing, ...] | None = None
    index_topk_freq: _Count | None = None
    index_skip_topk_offset: Annotated[int, Field(ge=-MAX_SIZE, le=MAX_SIZE)] | None = None

    def _by_pattern(self) -> Sequence[Indexing] | None:
        """Return what the pattern says of each layer; None without one."""
        pattern = self.index_topk_pattern
        if not isinstance(pattern, str):
            return pattern
        if foreign := set(pattern) - {"F", "S"}:
            raise ValueError(
                f"index_topk_pattern = {pattern!r:.80} has the letter {min(foreign)!r}: "
                "write F for a layer that chooses, and S for one that takes the last choice"
            )
        return ["full" if letter == "F" else "shared" for letter in pattern]

    def _by_rule(self) -> Sequence[Indexing]:
        """Return what the rule of the transformers library says of each layer."""
        each = max(1 if self.index_topk_freq is None else self.index_topk_freq, 1)
        offset = 2 if self.index_skip_topk_offset is None else self.index_skip_topk_offset
        return [
            "full" if max(i - offset + 1, 0) % each == 0 else "shared"
            for i in range(self.num_hidden_layers)
        ]

    def indexing(self) -> Sequence[Indexing]:
        """Say of each layer whether it chooses tokens."""
        return self.indexer_types or self._by_pattern() or self._by_rule()

    @model_validator(mode="after")
    def _chooses_by_one_rule(self) -> GlmMoeDsa:
        ruled = self.index_topk_freq is not None or self.index_skip_topk_offset is not None
        statements = {
            "indexer_types": self.indexer_types,
            "index_topk_pattern": self._by_pattern(),
            "index_topk_freq and index_skip_topk_offset": self._by_rule() if ruled else None,
        }
        found = {key: each for key, each in statements.items() if each is not None}
        first, chosen = next(iter(found), "index_skip_topk_offset"), self.indexing()
        for key, each in found.items():
            one_for_each(key, each, self.num_hidden_layers)
            for i, (one, other) in enumerate(zip(chosen, each, strict=True)):
                if one != other:
                    raise ValueError(
                        f"{first} makes layer {i} {one!r}, and {key} makes it {other!r}: "
                        "remove one of them"
                    )
        if chosen[0] == "shared":
            raise ValueError(
                f"{first} makes layer 0 'shared', and there is no choice before it to take: "
                "make it 'full'"
            )
        return self

    def attentions(self) -> Sequence[LatentAttention]:
        """Return the attention of each layer."""
        kinds = {"full": self._choosing(), "shared": self._choosing(shared=True)}
        return [kinds[kind] for kind in self.indexing()]


_RATIOS: Final = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}
"""What newer files call a layer -> tokens that one of its compressed records stands for."""


class DeepSeekV4(Family):
    """DeepSeek V4: a window, compressed records beside it, and several residual streams.

    Attributes:
        hidden_size: elements of one residual stream.
        num_hidden_layers: layers.
        num_attention_heads: query heads.
        num_key_value_heads: 1, where it is stated.
        head_dim: elements of the vector that is a token's key and value.
        qk_rope_head_dim: of these, the rotated ones; None where the factor says it.
        partial_rotary_factor: their share; an eighth where neither is stated.
        q_lora_rank: elements of the latent of queries.
        o_groups: groups of heads that are projected apart.
        o_lora_rank: elements that each group is projected to.
        sliding_window: newest tokens that a query sees one by one.
        compress_ratios: tokens that a compressed record stands for, layer by layer and then for
            the draft layers: 0 for none, 4 or 128.
        layer_types: the same by names.
        compress_rates: the numbers of these names, where they are stated.
        index_n_heads: index heads.
        index_head_dim: elements of an index key.
        index_topk: compressed records that a query attends to at most, where it chooses.
        moe_intermediate_size: width of an expert, and of the shared one.
        n_routed_experts: experts of a layer.
        num_experts_per_tok: experts that a token visits, the shared one apart.
        n_shared_experts: 1.
        num_hash_layers: first layers that choose experts by a table of token ids.
        mlp_layer_types: the same by names.
        hc_mult: residual streams.
        hidden_act: name of the non-linear function.
        num_nextn_predict_layers: draft layers behind the others.
        max_position_embeddings: tokens the model was made for.
    """

    classes: ClassVar[tuple[str, ...]] = ("DeepseekV4",)
    harmless: ClassVar[frozenset[str]] = frozenset({"compress_rope_theta"})

    hidden_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    num_key_value_heads: Size = 1
    head_dim: Size
    qk_rope_head_dim: Size | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    q_lora_rank: Size
    o_groups: Size
    o_lora_rank: Size
    sliding_window: Size
    compress_ratios: tuple[_Count, ...] | None = None
    layer_types: (
        tuple[
            Literal[
                "sliding_attention",
                "compressed_sparse_attention",
                "heavily_compressed_attention",
            ],
            ...,
        ]
        | None
    ) = None
    compress_rates: dict[str, _Count] | None = None
    index_n_heads: Size
    index_head_dim: Size
    index_topk: Size
    moe_intermediate_size: Size
    n_routed_experts: Size
    num_experts_per_tok: Size
    n_shared_experts: _Count = 1
    num_hash_layers: _Count | None = None
    mlp_layer_types: tuple[Literal["hash_moe", "moe"], ...] | None = None
    hc_mult: Annotated[int, Field(gt=0, le=16)] = 4
    hidden_act: Literal["silu"] = "silu"
    num_nextn_predict_layers: _Count = 0
    max_position_embeddings: Size | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> DeepSeekV4:
        chosen_experts(
            self.n_routed_experts, self.num_experts_per_tok,
            "num_experts_per_tok", "n_routed_experts",
        )  # fmt: skip
        for key in ("num_key_value_heads", "n_shared_experts"):
            if getattr(self, key) != 1:
                raise ValueError(
                    f"{key} = {getattr(self, key)}: the layers of this family have one; write 1"
                )
        context = self.num_attention_heads * self.head_dim
        if context % self.o_groups:
            raise ValueError(
                f"o_groups = {self.o_groups} does not divide num_attention_heads * head_dim = "
                f"{context}: use a divisor"
            )
        if not 0 < self._rotated <= self.head_dim:
            raise ValueError(
                f"qk_rope_head_dim = {self._rotated} is not within head_dim = {self.head_dim}: "
                f"use 1 to {self.head_dim}"
            )
        return self

    @model_validator(mode="after")
    def _has_kinds_of_layers(self) -> DeepSeekV4:
        if self.compress_ratios is None and self.layer_types is None:
            raise ValueError(
                "compress_ratios is missing: add one number for each layer, 0, 4 or 128"
            )
        rates = self.compress_rates or {}
        for name, rate in rates.items():
            if _RATIOS.get(name) != rate:
                raise ValueError(
                    f"compress_rates.{name} = {rate}: records of "
                    "compressed_sparse_attention = 4 and heavily_compressed_attention = 128 tokens "
                    "are described, and no others"
                )
        for i, ratio in enumerate(self.compress_ratios or ()):
            if ratio not in _RATIOS.values():
                raise ValueError(f"compress_ratios[{i}] = {ratio}: use 0, 4 or 128")
        own, drafts = self._ratios(), self._draft_ratios()
        if self.layer_types is not None and self.compress_ratios is not None:
            one_for_each("layer_types", self.layer_types, self.num_hidden_layers)
            for i, (ratio, name) in enumerate(zip(own, self.layer_types, strict=True)):
                if ratio != _RATIOS[name]:
                    raise ValueError(
                        f"compress_ratios[{i}] = {ratio} contradicts layer_types[{i}] = {name!r}: "
                        "remove one of the lists"
                    )
        if any(drafts):
            raise ValueError(
                f"compress_ratios ends with {max(drafts)} for a draft layer: draft layers have a "
                "window alone; write 0"
            )
        return self

    @model_validator(mode="after")
    def _has_blocks(self) -> DeepSeekV4:
        if self.mlp_layer_types is None:
            return self
        one_for_each("mlp_layer_types", self.mlp_layer_types, self.num_hidden_layers)
        hashed = self.mlp_layer_types.count("hash_moe")
        if self.num_hash_layers not in (None, hashed):
            raise ValueError(
                f"num_hash_layers = {self.num_hash_layers}, and mlp_layer_types has {hashed} of "
                "them: remove one of the keys"
            )
        return self

    @property
    def _rotated(self) -> int:
        if self.qk_rope_head_dim is not None:
            return self.qk_rope_head_dim
        return int(self.head_dim * (self.partial_rotary_factor or 1 / 8))

    @property
    def _hashed(self) -> int:
        """First layers that choose experts by a table."""
        if self.mlp_layer_types is not None:
            return self.mlp_layer_types.count("hash_moe")
        stated = self.num_hash_layers
        return min(3 if stated is None else stated, self.num_hidden_layers)

    def _ratios(self) -> Sequence[int]:
        """Return the compression of each layer."""
        layers, drafts = self.num_hidden_layers, self.num_nextn_predict_layers
        if self.compress_ratios is not None:
            return one_for_each("compress_ratios", self.compress_ratios, layers, more=drafts)
        names = one_for_each("layer_types", self.layer_types or (), layers)
        return [_RATIOS[name] for name in names]

    def _draft_ratios(self) -> Sequence[int]:
        """Return the compression of each draft layer that the file states."""
        return (self.compress_ratios or ())[self.num_hidden_layers :]

    def _layer(self, ratio: int) -> Layer:
        """Return a layer whose compressed records stand for so many tokens."""
        indexer = TokenIndexer(
            heads=self.index_n_heads, dim=self.index_head_dim, chosen=self.index_topk
        )
        streams = self.hc_mult
        # Before each of the two parts, all streams are projected to what is read of each, what is
        # written to each, and how each passes to each; with a bias, and three scales.
        mixes = streams * (2 + streams)
        return Layer(
            mixer=CompressedAttention(
                heads=self.num_attention_heads,
                head_dim=self.head_dim,
                rope_dim=self._rotated,
                query_rank=self.q_lora_rank,
                output_groups=self.o_groups,
                output_rank=self.o_lora_rank,
                window=self.sliding_window,
                ratio=ratio,
                indexer=indexer if ratio == _RATIOS["compressed_sparse_attention"] else None,
            ),
            feed_forward=Mixture(
                experts=self.n_routed_experts,
                experts_per_token=self.num_experts_per_tok,
                width=self.moe_intermediate_size,
                activation=self.hidden_act,
                shared_width=self.moe_intermediate_size,
            ),
            other=2 * (mixes * streams * self.hidden_size + mixes + 3),
        )

    @property
    def _end(self) -> int:
        """Parameters that join the residual streams to one."""
        return self.hc_mult * self.hc_mult * self.hidden_size + self.hc_mult + 1

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        kinds = {ratio: self._layer(ratio) for ratio in _RATIOS.values()}
        modules = self.num_nextn_predict_layers
        notes = [
            f"{self.hc_mult} residual streams: what mixes them is counted as other",
            CORRECTION,
        ]
        if self._hashed:
            notes.append(
                f"{self._hashed} layers choose experts by a table of token ids, "
                f"{self.vocab_size:,} x {self.num_experts_per_tok} numbers each, which are not "
                "counted as parameters"
            )
        if modules:
            notes.append(_DRAFT_BY_FORMULA)
        return model(
            family="deepseek_v4",
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=[kinds[ratio] for ratio in self._ratios()],
            other=self._end,
            max_context=self.max_position_embeddings,
            draft=Draft(modules=modules, layers=(kinds[0],), other=self._end, repeated=modules == 1)
            if modules
            else None,
            notes=tuple(notes),
        )


FAMILIES: Final[dict[str, type[Family]]] = {
    "deepseek_v2": DeepSeekV2,
    "deepseek_v3": DeepSeekV3,
    "kimi_k2": KimiK2,
    "deepseek_v32": DeepSeekV32,
    "glm_moe_dsa": GlmMoeDsa,
    "deepseek_v4": DeepSeekV4,
    "deepseek_ref": DeepSeekV4,
}
"""The readers of this module by their model type."""

WRAPPERS: Final[dict[str, Wrapper]] = {
    "kimi_k25": Wrapper(
        families=("deepseek_v3", "kimi_k2"), classes=("KimiK25", "Kimi_K25"), tied=True
    ),
}
"""Multimodal files by their model type."""
