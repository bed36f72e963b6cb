"""Readers of families with attention in every layer and experts in most of them.

The keys and their defaults are those of the transformers library; what each of them builds is
written in reference/model-architectures.md, sections 1 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.models.feedforward import AnyFeedForward, Dense, Mixture
from attacc.models.layers import Draft, Layer
from attacc.models.mixers import Attention, BlockSelector, Gate, QkNorm, Size
from attacc.models.readers.attention import (
    CHUNKED,
    FULL,
    SLIDING,
    Count,
    Decoder,
    Flags,
    LayerTypes,
    Patterned,
    Window,
    agree,
    nearest,
    one_by_type,
    visits_existing,
)
from attacc.models.readers.base import Family, Wrapper, needed, one_for_each

_Drafts = Annotated[int, Field(ge=0, le=64)]
_MIMO_DRAFTS: Final = 3
_DENSE: Final = "some layers have no experts"
_NO_DRAFTS: Final = (
    "the file has keys of layers for drafting, and the published weights have no such layers"
)


class Mixtral(Decoder):
    """MixtralConfig: every layer has experts, and all see the same window."""

    classes = ("Mixtral",)
    family = "mixtral"

    intermediate_size: Size
    num_local_experts: Size
    num_experts_per_tok: Size
    sliding_window: Size | None = None
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _visits_existing_experts(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("num_local_experts", self.num_local_experts),
        )
        return self

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        return (self.sliding_window,) * self.num_hidden_layers

    def feed_forward(self, number: int) -> AnyFeedForward:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return Mixture(
            experts=self.num_local_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.intermediate_size,
        )


class _QwenMoe(Decoder):
    """What Qwen's families with experts share.

    Attributes:
        decoder_sparse_step: of so many layers the last one has experts.
        mlp_only_layers: numbers of layers, from 0, that have none nevertheless.
        intermediate_size: width of the block of layers without experts; unused where there are
            none.
    """

    num_experts: Size
    num_experts_per_tok: Size
    moe_intermediate_size: Size
    intermediate_size: Size | None = None
    decoder_sparse_step: Size = 1
    mlp_only_layers: tuple[Count, ...] | None = None
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _has_experts_as_stated(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok), ("num_experts", self.num_experts)
        )
        for number in self.mlp_only_layers or ():
            if number >= self.num_hidden_layers:
                raise ValueError(
                    f"mlp_only_layers names layer {number}, and the model has layers 0 to "
                    f"{self.num_hidden_layers - 1}: remove it"
                )
        if not all(map(self._sparse, range(self.num_hidden_layers))):
            needed("intermediate_size", self.intermediate_size, _DENSE)
        return self

    def _sparse(self, number: int) -> bool:
        """Return whether a layer has experts."""
        listed = number in (self.mlp_only_layers or ())
        return not listed and (number + 1) % self.decoder_sparse_step == 0

    def experts(self) -> Mixture:
        """Return the experts of a layer."""
        return Mixture(
            experts=self.num_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
        )

    def feed_forward(self, number: int) -> AnyFeedForward:
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        if self._sparse(number):
            return self.experts()
        return Dense(width=needed("intermediate_size", self.intermediate_size, _DENSE))


class Qwen2Moe(_QwenMoe):
    """Qwen2MoeConfig: biases of queries, keys and values, and a shared expert.

    Attributes:
        use_sliding_window: must be false; no published model has windows.
        shared_expert_intermediate_size: width of the expert that every token visits.
    """

    classes = ("Qwen2Moe",)
    family = "qwen2_moe"
    # The library reads qkv_bias; without the switch no window is in use.
    harmless = frozenset({"attention_bias", "sliding_window"})

    qkv_bias: bool = True
    use_sliding_window: Literal[False] = False
    shared_expert_intermediate_size: Size

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=self.qkv_bias)

    def experts(self) -> Mixture:
        """Return the experts of a layer."""
        return Mixture(
            experts=self.num_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
            shared_width=self.shared_expert_intermediate_size,
            shared_gate=True,
        )


class Qwen3Moe(_QwenMoe):
    """Qwen3MoeConfig: norms on queries and keys.

    Attributes:
        sliding_window: in use in all layers, where use_sliding_window is true.
    """

    classes = ("Qwen3Moe",)
    family = "qwen3_moe"

    num_key_value_heads: Size | None = 4
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Size | None = 4096

    @model_validator(mode="after")
    def _has_head_dim_or_derives_it(self) -> Self:
        if self.head_dim is None and "head_dim" in self.model_fields_set:
            raise ValueError(
                "head_dim is null, which the library does not read: give the number, or remove the "
                "key where it is hidden_size / num_attention_heads"
            )
        return self

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        window = self.sliding_window if self.use_sliding_window else None
        return (window,) * self.num_hidden_layers

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(
            window,
            qk_norm=QkNorm.HEAD,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )


class Qwen3VLMoeText(_QwenMoe):
    """Qwen3VLMoeTextConfig: the language part of Qwen3-VL with experts, without windows.

    Features of pictures are added to the first layers, which needs no weights here.
    """

    classes = ("Qwen3VLMoe", "Qwen3VLMoeText")
    family = "qwen3_vl_moe"
    tied = True
    harmless = frozenset({"sliding_window"})  # there are no windows

    attention_bias: bool = False
    use_sliding_window: Literal[False] = False

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(
            window,
            qk_norm=QkNorm.HEAD,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )


class MiMoV2Flash(Decoder):
    """MiMoV2FlashConfig: windows with heads of their own, and values narrower than keys.

    Attributes:
        hybrid_layer_pattern: 1 for a layer with a window.
        sliding_window_size: the same as sliding_window.
        swa_num_attention_heads: query heads of layers with a window; likewise the other sizes.
        add_swa_attention_sink_bias: query heads of layers with a window have a learned logit
            beside their scores.
        add_full_attention_sink_bias: query heads of full layers have one.
        moe_layer_freq: 1 for a layer with experts.
        intermediate_size: width of the block of layers without experts, and of draft layers.
        n_shared_experts: null or 0; shared experts are not read.
    """

    classes = ("MiMoV2Flash",)
    family = "mimo_v2_flash"
    harmless = frozenset({"attention_chunk_size"})  # no layer has chunks

    v_head_dim: Size
    intermediate_size: Size
    sliding_window: Size
    sliding_window_size: Size | None = None
    hybrid_layer_pattern: Flags
    swa_num_attention_heads: Size
    swa_num_key_value_heads: Size
    swa_head_dim: Size
    swa_v_head_dim: Size
    add_swa_attention_sink_bias: bool
    add_full_attention_sink_bias: bool
    attention_bias: bool = False
    moe_layer_freq: Flags
    moe_intermediate_size: Size
    n_routed_experts: Size
    n_shared_experts: Literal[0] | None = None
    num_experts_per_tok: Size
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("n_routed_experts", self.n_routed_experts),
        )
        one_for_each("moe_layer_freq", self.moe_layer_freq, self.num_hidden_layers)
        if self.head_dim is None:
            # The library's default is that of one model.
            raise ValueError("missing key 'head_dim', or null: MiMo-V2 states it")
        if self.swa_num_attention_heads % self.swa_num_key_value_heads:
            heads, kv_heads = self.swa_num_attention_heads, self.swa_num_key_value_heads
            raise ValueError(
                f"swa_num_key_value_heads = {kv_heads} does not divide swa_num_attention_heads = "
                f"{heads}: the nearest that do are {nearest(heads, kv_heads)}"
            )
        if self.sliding_window_size not in (None, self.sliding_window):
            raise ValueError(
                f"sliding_window_size = {self.sliding_window_size} and sliding_window = "
                f"{self.sliding_window} disagree: remove one of them"
            )
        return self

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        pattern = one_for_each(
            "hybrid_layer_pattern", self.hybrid_layer_pattern, self.num_hidden_layers
        )
        return tuple(self.sliding_window if one else None for one in pattern)

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        if window is None:
            return self.attention(
                None,
                value_dim=self.v_head_dim,
                sinks=self.add_full_attention_sink_bias,
                qkv_bias=self.attention_bias,
            )
        return self.attention(
            window,
            heads=self.swa_num_attention_heads,
            kv_heads=self.swa_num_key_value_heads,
            head_dim=self.swa_head_dim,
            value_dim=self.swa_v_head_dim,
            sinks=self.add_swa_attention_sink_bias,
            qkv_bias=self.attention_bias,
        )

    def feed_forward(self, number: int) -> AnyFeedForward:
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        if not self.moe_layer_freq[number]:
            return Dense(width=self.intermediate_size)
        return Mixture(
            experts=self.n_routed_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
        )

    def drafting(self) -> Draft | None:
        """Return the layers for drafting (`Decoder.drafting`)."""
        block = Dense(width=self.intermediate_size)
        layer = Layer(mixer=self.mixer(self.sliding_window), feed_forward=block)
        return Draft(modules=_MIMO_DRAFTS, layers=(layer,))

    def remarks(self) -> tuple[str, ...]:
        """Return what the reader of the description should know (`Decoder.remarks`)."""
        window = self.sliding_window
        keys = (
            f"a query sees {window} keys in layers with a window, as in vLLM; the transformers "
            f"library has {window + 1}"
        )
        drafts = (
            f"the file does not mention the {_MIMO_DRAFTS} layers for drafting of the published "
            "weights, which are counted apart"
        )
        return keys, drafts


class MiniMaxM2(Decoder):
    """MiniMaxM2Config: every layer has experts, whose width is intermediate_size.

    Attributes:
        attn_type_list: 1 for softmax attention, which every layer must have.
        shared_intermediate_size: must be 0; there is no shared expert.
        use_qk_norm: must be true: the library has the norms whatever the key says.
    """

    classes = ("MiniMaxM2",)
    family = "minimax_m2"
    harmless = frozenset({"use_mtp", "mtp_transformer_layers"})

    intermediate_size: Size
    num_local_experts: Size
    num_experts_per_tok: Size
    shared_intermediate_size: Literal[0] = 0
    attn_type_list: Flags | None = None
    use_qk_norm: Literal[True] = True
    qk_norm_type: Literal["per_layer"] = "per_layer"
    num_mtp_modules: Count = 0
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("num_local_experts", self.num_local_experts),
        )
        if self.attn_type_list is not None:
            types = one_for_each("attn_type_list", self.attn_type_list, self.num_hidden_layers)
            if 0 in types:
                raise ValueError(
                    f"attn_type_list has 0 for layer {types.index(0)}, which is linear attention: "
                    "it is not read for this family"
                )
        if self.head_dim is None:
            raise ValueError("missing key 'head_dim', or null: MiniMax M2 states it")
        return self

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qk_norm=QkNorm.WIDTH)

    def feed_forward(self, number: int) -> AnyFeedForward:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return Mixture(
            experts=self.num_local_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.intermediate_size,
        )

    def remarks(self) -> tuple[str, ...]:
        """Return what the reader of the description should know (`Decoder.remarks`)."""
        return (_NO_DRAFTS,) if self.num_mtp_modules else ()


class _BlockSparse(Spec):
    """How layers of MiniMax M3 choose blocks of keys.

    Attributes:
        sparse_attention_freq: 1 for a layer that chooses.
        sparse_num_index_heads: index heads, one for each key/value head.
        sparse_index_dim: elements of an index key.
        sparse_block_size: keys of a block.
        sparse_topk_blocks: blocks that an index head chooses.
        sparse_disable_index_value: 1 for a layer whose index has no values, as all that choose.
        sparse_score_type: how a block is scored by its keys.
        sparse_init_block: blocks at the beginning that are always chosen, among the others.
        sparse_local_block: likewise at the end.
        use_sparse_attention: must be true: the library chooses whatever the key says.
    """

    sparse_attention_freq: Flags
    sparse_num_index_heads: Size
    sparse_index_dim: Size
    sparse_block_size: Size
    sparse_topk_blocks: Size
    sparse_disable_index_value: Flags | None = None
    sparse_score_type: Literal["max"] = "max"
    sparse_init_block: Count = 0
    sparse_local_block: Count = 0
    use_sparse_attention: Literal[True] = True


class MiniMaxM3(Decoder):
    """MiniMax M3: most layers choose blocks of keys, and have experts.

    Attributes:
        intermediate_size: width of an expert; moe_intermediate_size says the same.
        dense_intermediate_size: width of the block of layers without experts.
        shared_intermediate_size: width of the expert that every token visits.
        moe_layer_freq: 1 for a layer with experts.
        first_k_dense_replace: so many layers at the beginning have none, which must agree.
        use_qk_norm: must be true: the library has the norms whatever the key says.
        attention_output_gate: must be false.
    """

    classes = ("MiniMaxM3", "MiniMaxM3Sparse", "MiniMaxM3VLText")
    family = "minimax_m3"
    harmless = frozenset({"use_mtp", "mtp_transformer_layers"})

    intermediate_size: Size
    moe_intermediate_size: Size | None = None
    dense_intermediate_size: Size
    shared_intermediate_size: Size
    n_shared_experts: Literal[1] = 1
    num_local_experts: Size
    num_experts_per_tok: Size
    moe_layer_freq: Flags
    first_k_dense_replace: Count | None = None
    sparse_attention_config: _BlockSparse
    use_qk_norm: Literal[True] = True
    qk_norm_type: Literal["per_head"] = "per_head"
    attention_output_gate: Literal[False] = False
    num_mtp_modules: Count = 0
    num_nextn_predict_layers: Count = 0
    hidden_act: Literal["silu", "swigluoai"] = "swigluoai"

    @model_validator(mode="after")
    def _has_experts_as_stated(self) -> Self:
        layers = self.num_hidden_layers
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("num_local_experts", self.num_local_experts),
        )
        if self.moe_intermediate_size not in (None, self.intermediate_size):
            raise ValueError(
                f"moe_intermediate_size = {self.moe_intermediate_size} and intermediate_size = "
                f"{self.intermediate_size} disagree: both are the width of an expert"
            )
        if self.head_dim is None:
            # The library's default is that of one model.
            raise ValueError("missing key 'head_dim', or null: MiniMax M3 states it")
        one_for_each("moe_layer_freq", self.moe_layer_freq, layers)
        if self.first_k_dense_replace is not None:
            found = [int(i >= self.first_k_dense_replace) for i in range(layers)]
            agree("moe_layer_freq", self.moe_layer_freq, found, "first_k_dense_replace")
        return self

    @model_validator(mode="after")
    def _chooses_blocks_as_stated(self) -> Self:
        own, layers = self.sparse_attention_config, self.num_hidden_layers
        key = "sparse_attention_config.sparse_attention_freq"
        freq = one_for_each(key, own.sparse_attention_freq, layers)
        if own.sparse_disable_index_value is not None:
            key = "sparse_attention_config.sparse_disable_index_value"
            disabled = one_for_each(key, own.sparse_disable_index_value, layers)
            for i, (chosen, off) in enumerate(zip(freq, disabled, strict=True)):
                if chosen and not off:
                    raise ValueError(
                        f"{key} has 0 for layer {i}, whose index would have values: it is not read"
                    )
        if own.sparse_num_index_heads != self.kv_heads:
            raise ValueError(
                "sparse_attention_config.sparse_num_index_heads = "
                f"{own.sparse_num_index_heads} is not num_key_value_heads = {self.kv_heads}: each "
                "index head chooses for one key/value head"
            )
        return self

    def layer(self, number: int, window: Window) -> Layer:
        """Return a layer (`Decoder.layer`)."""
        own = self.sparse_attention_config
        selector: BlockSelector | None = None
        if own.sparse_attention_freq[number]:
            selector = BlockSelector(
                heads=own.sparse_num_index_heads,
                dim=own.sparse_index_dim,
                block=own.sparse_block_size,
                blocks=own.sparse_topk_blocks,
            )
        return Layer(
            mixer=self.attention(window, qk_norm=QkNorm.HEAD, selector=selector),
            feed_forward=self.feed_forward(number),
        )

    def feed_forward(self, number: int) -> AnyFeedForward:
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        if not self.moe_layer_freq[number]:
            return Dense(width=self.dense_intermediate_size)
        return Mixture(
            experts=self.num_local_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.intermediate_size,
            shared_width=self.shared_intermediate_size,
        )

    def remarks(self) -> tuple[str, ...]:
        """Return what the reader of the description should know (`Decoder.remarks`)."""
        return (_NO_DRAFTS,) if self.num_mtp_modules or self.num_nextn_predict_layers else ()


class GptOss(Patterned):
    """GptOssConfig: biases everywhere, a learned logit for each head, windows in every other layer.

    Attributes:
        intermediate_size: width of an expert.
        experts_per_token: the same as num_experts_per_tok.
    """

    classes = ("GptOss",)
    family = "gpt_oss"

    head_dim: Size | None = 64
    intermediate_size: Size
    num_local_experts: Size
    num_experts_per_tok: Size
    experts_per_token: Size | None = None
    sliding_window: Size | None = 128
    attention_bias: bool = True
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("num_local_experts", self.num_local_experts),
        )
        if self.experts_per_token not in (None, self.num_experts_per_tok):
            raise ValueError(
                f"experts_per_token = {self.experts_per_token} and num_experts_per_tok = "
                f"{self.num_experts_per_tok} disagree: remove one of them"
            )
        return self

    def period(self) -> int:
        """Return of how many layers the last one is full (`Patterned.period`)."""
        return 2

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(
            window, sinks=True, qkv_bias=self.attention_bias, out_bias=self.attention_bias
        )

    def feed_forward(self, number: int) -> AnyFeedForward:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return Mixture(
            experts=self.num_local_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.intermediate_size,
            bias=True,
            router_bias=True,
        )


class Llama4Text(Decoder):
    """Llama4TextConfig: layers see the keys of their own chunk, and every fourth sees all.

    Attributes:
        attention_chunk_size: tokens of a chunk; null for all keys in every layer.
        no_rope_layers: 1 for a layer with rotary positions, which has chunks; without the list, or
            with an empty one, every no_rope_layer_interval-th layer has none.
        intermediate_size: width of an expert, and of the one that every token visits.
        intermediate_size_mlp: width of the block of layers without experts.
        interleave_moe_layer_step: of so many layers the last one has experts.
        moe_layers: numbers of the layers with experts, in place of it.
        use_qk_norm: queries and keys are normed without weights.
    """

    classes = ("Llama4", "Llama4Text")
    family = "llama4"

    head_dim: Size | None = 128
    intermediate_size: Size
    intermediate_size_mlp: Size | None = None
    num_local_experts: Size
    num_experts_per_tok: Size
    interleave_moe_layer_step: Size = 1
    moe_layers: tuple[Count, ...] | None = None
    attention_chunk_size: Size | None = 8192
    no_rope_layers: Flags | None = None
    no_rope_layer_interval: Size = 4
    attention_bias: bool = False
    use_qk_norm: bool = True
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _has_experts_as_stated(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("num_local_experts", self.num_local_experts),
        )
        for number in self.moe_layers or ():
            if number >= self.num_hidden_layers:
                raise ValueError(
                    f"moe_layers names layer {number}, and the model has layers 0 to "
                    f"{self.num_hidden_layers - 1}: remove it"
                )
        if not all(map(self._sparse, range(self.num_hidden_layers))):
            needed("intermediate_size_mlp", self.intermediate_size_mlp, _DENSE)
        return self

    @model_validator(mode="after")
    def _layer_types_agree(self) -> Self:
        agree("layer_types", self.layer_types, self._types(), "no_rope_layers")
        return self

    def _sparse(self, number: int) -> bool:
        """Return whether a layer has experts."""
        if self.moe_layers is not None:
            return number in self.moe_layers
        return (number + 1) % self.interleave_moe_layer_step == 0

    def _types(self) -> LayerTypes:
        """Return what each layer sees.

        Raises:
            ValueError: no_rope_layers has another number of entries than there are layers.
        """
        layers = self.num_hidden_layers
        if self.no_rope_layers:
            rotary: Sequence[object] = one_for_each("no_rope_layers", self.no_rope_layers, layers)
        else:
            rotary = [(i + 1) % self.no_rope_layer_interval for i in range(layers)]
        chunks = self.attention_chunk_size is not None
        return tuple(CHUNKED if chunks and one else FULL for one in rotary)

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees at most: those of its chunk (`Decoder.windows`)."""
        chunk = self.attention_chunk_size
        return tuple(chunk if one == CHUNKED else None for one in self._types())

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        bias = self.attention_bias
        return self.attention(None, chunk=window, qkv_bias=bias, out_bias=bias)

    def feed_forward(self, number: int) -> AnyFeedForward:
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        if not self._sparse(number):
            return Dense(width=needed("intermediate_size_mlp", self.intermediate_size_mlp, _DENSE))
        return Mixture(
            experts=self.num_local_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.intermediate_size,
            shared_width=self.intermediate_size,
        )


class Glm4Moe(Decoder):
    """Glm4MoeConfig.

    Attributes:
        first_k_dense_replace: so many layers at the beginning have no experts.
        intermediate_size: width of their blocks.
        n_shared_experts: experts that every token visits.
        num_nextn_predict_layers: modules for drafting, each one layer with experts.
    """

    classes = ("Glm4Moe",)
    family = "glm4_moe"

    intermediate_size: Size
    moe_intermediate_size: Size
    n_routed_experts: Size
    n_shared_experts: Count = 1
    num_experts_per_tok: Size
    first_k_dense_replace: Count
    attention_bias: bool = False
    use_qk_norm: bool = False
    num_nextn_predict_layers: _Drafts = 0
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("n_routed_experts", self.n_routed_experts),
        )
        _check_dense(self.first_k_dense_replace, self.num_hidden_layers)
        return self

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        norm = QkNorm.HEAD if self.use_qk_norm else None
        return self.attention(window, qk_norm=norm, qkv_bias=self.attention_bias)

    def feed_forward(self, number: int) -> AnyFeedForward:
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        if number < self.first_k_dense_replace:
            return Dense(width=self.intermediate_size)
        return Mixture(
            experts=self.n_routed_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
            shared_width=self.n_shared_experts * self.moe_intermediate_size,
        )

    def drafting(self) -> Draft | None:
        """Return the layers for drafting (`Decoder.drafting`)."""
        if not self.num_nextn_predict_layers:
            return None
        layer = self.layer(self.num_hidden_layers, None)
        return Draft(modules=self.num_nextn_predict_layers, layers=(layer,))


def _check_dense(first: int, layers: int) -> None:
    """Check how many layers at the beginning have no experts.

    Raises:
        ValueError: there are fewer layers.
    """
    if first > layers:
        raise ValueError(
            f"first_k_dense_replace = {first} is more than num_hidden_layers = {layers}: "
            f"use 0 to {layers}"
        )


class _WindowHeads(Spec):
    """The heads of layers with a window in Step 3.7.

    Attributes:
        attention_type: the layers that it is about.
        num_attention_heads: their query heads.
        num_attention_groups: their key/value heads.
        head_dim: elements of a head; true_head_dim says the same.
    """

    attention_type: Literal["sliding_attention"] = SLIDING
    num_attention_heads: Size
    num_attention_groups: Size | None = None
    head_dim: Size | None = None
    true_head_dim: Size | None = None


class Step3p7(Decoder):
    """Step 3.7, with the keys of its flat files.

    Attributes:
        layer_types: what each layer sees; draft layers may follow.
        attention_other_setting: heads of layers with a window, where they differ.
        intermediate_size: width of the block of layers without experts, and of draft layers.
        first_k_dense_replace: so many layers at the beginning have no experts.
        share_expert_dim: width of the expert that every token visits.
        num_nextn_predict_layers: modules for drafting, each with an output head of its own.
    """

    classes = ("Step3p7", "Step3p7Flash")
    family = "step3p7"
    harmless = frozenset({"use_moe_router_bias", "moe_router_scaling_factor"})

    intermediate_size: Size
    sliding_window: Size
    attention_other_setting: _WindowHeads | None = None
    first_k_dense_replace: Count
    num_experts: Size
    num_experts_per_tok: Size
    moe_intermediate_size: Size
    share_expert_dim: Size
    n_shared_experts: Literal[1] = 1
    num_nextn_predict_layers: _Drafts = 0
    hidden_act: Literal["silu"] = "silu"

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        visits_existing(
            ("num_experts_per_tok", self.num_experts_per_tok), ("num_experts", self.num_experts)
        )
        _check_dense(self.first_k_dense_replace, self.num_hidden_layers)
        heads, kv_heads = self._window_heads()
        if heads % kv_heads:
            raise ValueError(
                f"attention_other_setting.num_attention_groups = {kv_heads} does not divide "
                f"num_attention_heads = {heads}: the nearest that do are {nearest(heads, kv_heads)}"
            )
        return self

    @model_validator(mode="after")
    def _layer_types_agree(self) -> Self:
        self.windows()
        return self

    def _window_heads(self) -> tuple[int, int]:
        """Return the query heads and the key/value heads of layers with a window."""
        own = self.attention_other_setting
        if own is None:
            return self.num_attention_heads, self.kv_heads
        return own.num_attention_heads, own.num_attention_groups or self.kv_heads

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        types = one_for_each(
            "layer_types",
            needed("layer_types", self.layer_types, "layers differ"),
            self.num_hidden_layers,
            more=self.num_nextn_predict_layers,
        )
        return one_by_type(tuple(types), self.sliding_window, self.num_hidden_layers)

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        more: dict[str, Any] = {"qk_norm": QkNorm.HEAD, "gate": Gate.HEAD}
        if window is not None:
            more["heads"], more["kv_heads"] = self._window_heads()
            if self.attention_other_setting is not None:
                more["head_dim"] = self.attention_other_setting.head_dim or self.dim
        return self.attention(window, **more)

    def feed_forward(self, number: int) -> AnyFeedForward:
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        if number < self.first_k_dense_replace:
            return Dense(width=self.intermediate_size)
        return Mixture(
            experts=self.num_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
            shared_width=self.share_expert_dim,
        )

    def drafting(self) -> Draft | None:
        """Return the layers for drafting (`Decoder.drafting`)."""
        if not self.num_nextn_predict_layers:
            return None
        block = Dense(width=self.intermediate_size)
        layer = Layer(mixer=self.mixer(self.sliding_window), feed_forward=block)
        head = self.vocab_size * self.hidden_size
        return Draft(modules=self.num_nextn_predict_layers, layers=(layer,), other=head)

    def remarks(self) -> tuple[str, ...]:
        """Return what the reader of the description should know (`Decoder.remarks`)."""
        if self.attention_other_setting is not None:
            return ()
        heads = (
            "the file gives all layers the same number of query heads; the published weights of "
            "Step 3.7 Flash have 96 in layers with a window, and 196,956,118,272 parameters"
        )
        return (heads,)


FAMILIES: Final[dict[str, type[Family]]] = {
    "mixtral": Mixtral,
    "qwen2_moe": Qwen2Moe,
    "qwen3_moe": Qwen3Moe,
    "qwen3_vl_moe_text": Qwen3VLMoeText,
    "mimo_v2_flash": MiMoV2Flash,
    "minimax_m2": MiniMaxM2,
    "minimax_m3": MiniMaxM3,
    "minimax_m3_vl_text": MiniMaxM3,
    "gpt_oss": GptOss,
    "llama4_text": Llama4Text,
    "glm4_moe": Glm4Moe,
    "step3p7": Step3p7,
}
"""Model types -> what reads them."""

WRAPPERS: Final[dict[str, Wrapper]] = {
    "qwen3_vl_moe": Wrapper(families=("qwen3_vl_moe_text",), classes=("Qwen3VLMoe",), tied=False),
    "minimax_m3_vl": Wrapper(
        families=("minimax_m3", "minimax_m3_vl_text"),
        classes=("MiniMaxM3VL", "MiniMaxM3Sparse"),
        tied=False,
        harmless=frozenset({"img_token_compression_config"}),
    ),
    "llama4": Wrapper(families=("llama4_text",), classes=("Llama4",), tied=False),
}
"""Model types of multimodal files -> the keys around their language part."""
