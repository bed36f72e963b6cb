"""Readers of models some of whose layers keep a state of fixed size in place of keys and values.

These are Qwen3-Next and Qwen3.5 (gated delta nets), Nemotron-H and Nemotron 3 (Mamba-2), and Kimi
Linear and K3 (Kimi delta attention). Sections 1.4, 1.8 to 1.10 and 2 of
reference/model-architectures.md say what their keys build.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.models.feedforward import AnyFeedForward, Dense, Mixture
from attacc.models.layers import Draft, Layer, LayeredModel
from attacc.models.mixers import AnyMixer, Attention, Decay, DeltaNet, Gate, Mamba2, QkNorm, Size
from attacc.models.readers.base import Family, LayerCount, Wrapper, model, needed, one_for_each
from attacc.models.readers.latent import CORRECTION, Latent, chosen_experts
from attacc.units import MAX_SIZE

_Count = Annotated[int, Field(ge=0, le=MAX_SIZE)]
_StateType = Literal["float32", "bfloat16", "float16"]
_STATE_BYTES: Final[dict[str, float]] = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_KEPT_STREAMS: Final = (
    "what scores kept residual streams is counted as other; the model is counted by a formula that "
    "was not checked against a checkpoint"
)
_DRAFT_BY_FORMULA: Final = (
    "the draft layer is counted by a formula that was not checked against a checkpoint"
)


def _state_bytes(key: str, stated: str | None) -> tuple[float, tuple[str, ...]]:
    """Return the bytes of a number of a recurrent state, and a note where the file is silent.

    Args:
        key: the key that states its type.
        stated: its value; None where the file has none.
    """
    if stated is None:
        note = f"{key} is not stated: recurrent states are counted in fp32, 4 bytes a number"
        return 4.0, (note,)
    return _STATE_BYTES[stated], ()


def _divides(key: str, divisor: int, of_key: str, number: int) -> None:
    """Refuse heads that cannot be shared evenly.

    Raises:
        ValueError: the first number does not divide the second.
    """
    if number % divisor:
        raise ValueError(
            f"{key} = {divisor} does not divide {of_key} = {number}: use a divisor of {number}"
        )


class _Qwen(Family):
    """Keys of Qwen3-Next and Qwen3.5: delta nets, and every few layers full attention.

    Attributes:
        hidden_size: elements of the residual stream.
        num_hidden_layers: layers.
        num_attention_heads: query heads of full attention.
        num_key_value_heads: its key/value heads.
        head_dim: elements of its heads.
        attn_output_gate: must be true: its context is multiplied by numbers from the query
            projection, and the library has the gate whatever the key says.
        linear_num_key_heads: heads of queries and keys of a delta net.
        linear_num_value_heads: its heads of values.
        linear_key_head_dim: elements of its keys.
        linear_value_head_dim: elements of its values.
        linear_conv_kernel_dim: width of its convolution.
        layer_types: the kind of each layer.
        full_attention_interval: one of so many layers has full attention; the last of each group.
        mamba_ssm_dtype: the type of the numbers of the state.
        mtp_num_hidden_layers: draft layers, 0 or 1.
        hidden_act: name of the non-linear function.
        max_position_embeddings: tokens the model was made for.
    """

    label: ClassVar[str]
    """The label for listings."""

    hidden_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size = 256
    attn_output_gate: Literal[True] = True
    linear_num_key_heads: Size
    linear_num_value_heads: Size
    linear_key_head_dim: Size
    linear_value_head_dim: Size
    linear_conv_kernel_dim: Size = 4
    layer_types: tuple[Literal["linear_attention", "full_attention"], ...] | None = None
    full_attention_interval: Size | None = None
    mamba_ssm_dtype: _StateType | None = None
    mtp_num_hidden_layers: _Count = 0
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: Size | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> _Qwen:
        _divides(
            "num_key_value_heads", self.num_key_value_heads,
            "num_attention_heads", self.num_attention_heads,
        )  # fmt: skip
        _divides(
            "linear_num_key_heads", self.linear_num_key_heads,
            "linear_num_value_heads", self.linear_num_value_heads,
        )  # fmt: skip
        if self.mtp_num_hidden_layers > 1:
            raise ValueError(
                f"mtp_num_hidden_layers = {self.mtp_num_hidden_layers}: it is not established how "
                "several draft layers take turns; write 1, or 0 for none"
            )
        if self.layer_types is None:
            return self
        one_for_each("layer_types", self.layer_types, self.num_hidden_layers)
        if self.full_attention_interval is not None:
            for i, (kind, full) in enumerate(zip(self.layer_types, self._by_rule(), strict=True)):
                if full != (kind == "full_attention"):
                    raise ValueError(
                        f"layer_types[{i}] = {kind!r} contradicts full_attention_interval = "
                        f"{self.full_attention_interval}: remove one of the keys"
                    )
        return self

    def _by_rule(self) -> Sequence[bool]:
        """Say of each layer whether the interval gives it full attention."""
        each = self.full_attention_interval or 4
        return [(i + 1) % each == 0 for i in range(self.num_hidden_layers)]

    def _full(self) -> Sequence[bool]:
        """Say of each layer whether it has full attention."""
        if self.layer_types is None:
            return self._by_rule()
        return [kind == "full_attention" for kind in self.layer_types]

    @abstractmethod
    def _blocks(self) -> Sequence[AnyFeedForward]:
        """Return the feed-forward part of each layer."""

    def _draft_block(self) -> AnyFeedForward:
        """Return the feed-forward part of a draft layer."""
        return self._blocks()[-1]

    def _more_notes(self) -> tuple[str, ...]:
        """Say what is open for the family."""
        return ()

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        state_bytes, notes = _state_bytes("mamba_ssm_dtype", self.mamba_ssm_dtype)
        attention = Attention(
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            gate=Gate.ELEMENT,
            qk_norm=QkNorm.HEAD,
        )
        net = DeltaNet(
            key_heads=self.linear_num_key_heads,
            value_heads=self.linear_num_value_heads,
            key_dim=self.linear_key_head_dim,
            value_dim=self.linear_value_head_dim,
            conv=self.linear_conv_kernel_dim,
            state_bytes=state_bytes,
        )
        draft = None
        if self.mtp_num_hidden_layers:
            layer = Layer(mixer=attention, feed_forward=self._draft_block())
            draft = Draft(modules=1, layers=(layer,), repeated=True)
            notes += (_DRAFT_BY_FORMULA,)
        return model(
            family=self.label,
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=[
                Layer(mixer=attention if full else net, feed_forward=block)
                for full, block in zip(self._full(), self._blocks(), strict=True)
            ],
            max_context=self.max_position_embeddings,
            draft=draft,
            notes=notes + self._more_notes(),
        )


class Qwen35(_Qwen):
    """The dense models of Qwen3.5.

    Attributes:
        intermediate_size: width of the blocks.
    """

    classes: ClassVar[tuple[str, ...]] = ("Qwen3_5", "Qwen3_5Text")
    label: ClassVar[str] = "qwen3_5_text"

    intermediate_size: Size

    def _blocks(self) -> Sequence[AnyFeedForward]:
        """Return the feed-forward part of each layer."""
        return [Dense(width=self.intermediate_size, activation=self.hidden_act)] * (
            self.num_hidden_layers
        )


class _QwenExperts(_Qwen):
    """Keys of the models with experts.

    Attributes:
        num_experts: experts of a layer.
        num_experts_per_tok: experts that a token visits, the shared one apart.
        moe_intermediate_size: width of an expert.
        shared_expert_intermediate_size: width of the expert that every token visits.
    """

    num_experts: Size
    num_experts_per_tok: Size
    moe_intermediate_size: Size
    shared_expert_intermediate_size: Size

    @model_validator(mode="after")
    def _has_the_experts(self) -> _QwenExperts:
        chosen_experts(
            self.num_experts, self.num_experts_per_tok, "num_experts_per_tok", "num_experts"
        )
        return self

    def _experts(self) -> Mixture:
        return Mixture(
            experts=self.num_experts,
            experts_per_token=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
            activation=self.hidden_act,
            shared_width=self.shared_expert_intermediate_size,
            shared_gate=True,
        )

    def _blocks(self) -> Sequence[AnyFeedForward]:
        """Return the feed-forward part of each layer."""
        return [self._experts()] * self.num_hidden_layers


class Qwen35Experts(_QwenExperts):
    """The models of Qwen3.5 and 3.6 with experts."""

    classes: ClassVar[tuple[str, ...]] = ("Qwen3_5Moe", "Qwen3_5MoeText")
    label: ClassVar[str] = "qwen3_5_moe_text"


class Qwen3Next(_QwenExperts):
    """Qwen3-Next.

    Attributes:
        intermediate_size: width of dense blocks, where there are any.
        decoder_sparse_step: one of so many layers has experts; the last of each group.
        mlp_only_layers: layers that have a dense block all the same, from 0.
    """

    classes: ClassVar[tuple[str, ...]] = ("Qwen3Next",)
    label: ClassVar[str] = "qwen3_next"

    intermediate_size: Size | None = None
    decoder_sparse_step: Size = 1
    mlp_only_layers: tuple[_Count, ...] | None = None

    @model_validator(mode="after")
    def _has_blocks(self) -> Qwen3Next:
        for layer in self.mlp_only_layers or ():
            if layer >= self.num_hidden_layers:
                raise ValueError(
                    f"mlp_only_layers names layer {layer}, and num_hidden_layers = "
                    f"{self.num_hidden_layers}: use 0 to {self.num_hidden_layers - 1}"
                )
        self._blocks()
        return self

    def _blocks(self) -> Sequence[AnyFeedForward]:
        """Return the feed-forward part of each layer."""
        dense = {*(self.mlp_only_layers or ())}
        sparse = [
            i not in dense and (i + 1) % self.decoder_sparse_step == 0
            for i in range(self.num_hidden_layers)
        ]
        experts: AnyFeedForward = self._experts()
        if all(sparse):
            return [experts] * self.num_hidden_layers
        width = needed("intermediate_size", self.intermediate_size, "some layers have no experts")
        block = Dense(width=width, activation=self.hidden_act)
        return [experts if has_experts else block for has_experts in sparse]

    def _draft_block(self) -> AnyFeedForward:
        """Return the feed-forward part of a draft layer."""
        return self._experts()

    def _more_notes(self) -> tuple[str, ...]:
        """Say what is open for the family."""
        if self.mtp_num_hidden_layers:
            return ()
        return ("checkpoints of this family hold a draft layer that no key states",)


_NEMOTRON_HEAD: Final = 128
"""Elements of a head of Nemotron-H where no key states them."""
_Block = Literal["mamba", "attention", "moe", "mlp"]
_BLOCKS: Final[dict[str, _Block]] = {
    "M": "mamba",
    "*": "attention",
    "E": "moe",
    "-": "mlp",
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
    "moe": "moe",
    "mlp": "mlp",
}
"""What files call a block, by a letter or by a name."""


def _blocks_of(key: str, entries: Sequence[str]) -> tuple[_Block, ...]:
    """Return the blocks that a pattern or a list names.

    Args:
        key: its name, for messages.
        entries: letters of a pattern, or names.

    Raises:
        ValueError: one of them names no block.
    """
    for i, entry in enumerate(entries):
        if entry not in _BLOCKS:
            raise ValueError(
                f"{key}[{i}] = {entry!r:.40} is no block: use M, *, E and - in a pattern, or "
                "'mamba', 'attention', 'moe' and 'mlp' in a list"
            )
    return tuple(_BLOCKS[entry] for entry in entries)


class NemotronH(Family):
    """Nemotron-H and Nemotron 3: a layer is one block, with one norm.

    Attributes:
        hidden_size: elements of the residual stream.
        num_hidden_layers: blocks; None where the list tells it.
        hybrid_override_pattern: the blocks by letters: M for Mamba-2, * for attention, E for
            experts, - for a dense block.
        layers_block_type: the blocks by names.
        num_attention_heads: query heads of attention.
        num_key_value_heads: its key/value heads.
        head_dim: elements of its heads; 128 where no key states it.
        attention_head_dim: the same under an older name, which must agree.
        mamba_num_heads: heads of Mamba-2.
        mamba_head_dim: elements of its heads.
        ssm_state_size: columns of the state of a head.
        n_groups: groups of heads that share the vectors B and C.
        conv_kernel: width of the convolution.
        use_conv_bias: it has biases.
        use_bias: projections have biases, which are not described.
        mamba_ssm_cache_dtype: the type of the numbers of the state.
        intermediate_size: width of dense blocks.
        mlp_hidden_act: name of the non-linear function of blocks and experts.
        n_routed_experts: experts of a block.
        num_experts_per_tok: experts that a token visits, shared ones apart.
        n_shared_experts: 1.
        moe_intermediate_size: width of an expert.
        moe_shared_expert_intermediate_size: width of the expert that every token visits.
        moe_latent_size: elements that tokens are projected to before the experts.
        num_nextn_predict_layers: draft modules, 0 or 1.
        mtp_hybrid_override_pattern: the blocks of a draft module by letters.
        mtp_layers_block_type: the same by names.
        max_position_embeddings: tokens the model was made for.
        tie_word_embeddings: must be false: the library has an output head whatever the key says.
    """

    classes: ClassVar[tuple[str, ...]] = ("NemotronH",)
    harmless: ClassVar[frozenset[str]] = frozenset(
        {"mamba_hidden_act", "moe_shared_expert_overlap", "use_mamba_kernels"}
    )

    hidden_size: Size
    num_hidden_layers: LayerCount | None = None
    hybrid_override_pattern: str | None = None
    layers_block_type: tuple[str, ...] | None = None
    num_attention_heads: Size | None = None
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    attention_head_dim: Size | None = None
    mamba_num_heads: Size | None = None
    mamba_head_dim: Size | None = None
    ssm_state_size: Size | None = None
    n_groups: Size | None = None
    conv_kernel: Size = 4
    use_conv_bias: bool = True
    use_bias: bool = False
    mamba_ssm_cache_dtype: _StateType | None = None
    intermediate_size: Size | None = None
    mlp_hidden_act: Literal["relu2"] = "relu2"
    n_routed_experts: Size | None = None
    num_experts_per_tok: Size | None = None
    n_shared_experts: _Count = 1
    moe_intermediate_size: Size | None = None
    moe_shared_expert_intermediate_size: Size | None = None
    moe_latent_size: Size | None = None
    num_nextn_predict_layers: _Count = 0
    mtp_hybrid_override_pattern: str | None = None
    mtp_layers_block_type: tuple[str, ...] | None = None
    max_position_embeddings: Size | None = None
    tie_word_embeddings: Literal[False] = False

    @staticmethod
    def _one_list(
        pattern_key: str, pattern: str | None, list_key: str, names: Sequence[str] | None
    ) -> tuple[_Block, ...] | None:
        """Return the blocks that a pattern, a list, or both name; None where neither is given."""
        by_pattern = None if pattern is None else _blocks_of(pattern_key, pattern)
        by_names = None if names is None else _blocks_of(list_key, names)
        if by_pattern is not None and by_names is not None and by_pattern != by_names:
            raise ValueError(
                f"{pattern_key} = {pattern!r:.80} names other blocks than {list_key}: "
                "remove one of them"
            )
        return by_names if by_pattern is None else by_pattern

    def _own(self) -> tuple[_Block, ...]:
        """Return the blocks of the model."""
        found = self._one_list(
            "hybrid_override_pattern", self.hybrid_override_pattern,
            "layers_block_type", self.layers_block_type,
        )  # fmt: skip
        return needed(
            "layers_block_type", found or None, "no hybrid_override_pattern names the blocks"
        )

    def _of_draft(self) -> tuple[_Block, ...]:
        """Return the blocks of a draft module; none without one."""
        if not self.num_nextn_predict_layers:
            return ()
        found = self._one_list(
            "mtp_hybrid_override_pattern", self.mtp_hybrid_override_pattern,
            "mtp_layers_block_type", self.mtp_layers_block_type,
        )  # fmt: skip
        return ("attention", "moe") if found is None else found

    @model_validator(mode="after")
    def _is_consistent(self) -> NemotronH:
        own = self._own()
        layers = self.num_hidden_layers
        if layers is not None:
            stated = self.hybrid_override_pattern is not None
            one_for_each("hybrid_override_pattern" if stated else "layers_block_type", own, layers)
        if self.num_nextn_predict_layers > 1:
            raise ValueError(
                f"num_nextn_predict_layers = {self.num_nextn_predict_layers}: the weights of one "
                "draft module serve every draft step; write 1, or 0 for none"
            )
        if self.use_bias:
            raise ValueError(
                "use_bias = true: biases of projections are not described for this family; "
                "remove the key if the model has none"
            )
        size = self.head_dim or _NEMOTRON_HEAD
        if self.attention_head_dim not in (None, size):
            stated = "" if self.head_dim else ", which is the default"
            raise ValueError(
                f"head_dim = {size}{stated}, contradicts attention_head_dim = "
                f"{self.attention_head_dim}, which the library does not read: write the size of "
                "heads in head_dim, and remove the other key"
            )
        for block in set(own) | set(self._of_draft()):
            self._makers[block]()
        return self

    @property
    def _makers(self) -> dict[_Block, Callable[[], Layer]]:
        return {
            "mamba": self._mamba,
            "attention": self._attention,
            "moe": self._experts,
            "mlp": self._dense,
        }

    def _mamba(self) -> Layer:
        why = "some blocks are Mamba-2"
        heads = needed("mamba_num_heads", self.mamba_num_heads, why)
        groups = needed("n_groups", self.n_groups, why)
        _divides("n_groups", groups, "mamba_num_heads", heads)
        mixer = Mamba2(
            heads=heads,
            head_dim=needed("mamba_head_dim", self.mamba_head_dim, why),
            state=needed("ssm_state_size", self.ssm_state_size, why),
            groups=groups,
            conv=self.conv_kernel,
            conv_bias=self.use_conv_bias,
            state_bytes=_state_bytes("mamba_ssm_cache_dtype", self.mamba_ssm_cache_dtype)[0],
        )
        return Layer(mixer=mixer, norms=1)

    def _attention(self) -> Layer:
        heads = needed("num_attention_heads", self.num_attention_heads, "some blocks are attention")
        # Where the key is absent the library has as many as one model.
        kv_heads = needed(
            "num_key_value_heads", self.num_key_value_heads, "some blocks are attention"
        )
        _divides("num_key_value_heads", kv_heads, "num_attention_heads", heads)
        size = self.head_dim or _NEMOTRON_HEAD
        return Layer(mixer=Attention(heads=heads, kv_heads=kv_heads, head_dim=size), norms=1)

    def _experts(self) -> Layer:
        why = "some blocks have experts"
        experts = needed("n_routed_experts", self.n_routed_experts, why)
        visited = needed("num_experts_per_tok", self.num_experts_per_tok, why)
        chosen_experts(experts, visited, "num_experts_per_tok", "n_routed_experts")
        if self.n_shared_experts != 1:
            raise ValueError(
                f"n_shared_experts = {self.n_shared_experts}: the width of several is not "
                "established; write 1, and their width together in "
                "moe_shared_expert_intermediate_size"
            )
        shared = needed(
            "moe_shared_expert_intermediate_size", self.moe_shared_expert_intermediate_size, why
        )
        block = Mixture(
            experts=experts,
            experts_per_token=visited,
            width=needed("moe_intermediate_size", self.moe_intermediate_size, why),
            gated=False,
            activation=self.mlp_hidden_act,
            shared_width=shared,
            latent=self.moe_latent_size,
        )
        return Layer(feed_forward=block, norms=1)

    def _dense(self) -> Layer:
        width = needed("intermediate_size", self.intermediate_size, "some blocks are dense")
        block = Dense(width=width, gated=False, activation=self.mlp_hidden_act)
        return Layer(feed_forward=block, norms=1)

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        own, of_draft = self._own(), self._of_draft()
        made = {block: self._makers[block]() for block in set(own) | set(of_draft)}
        notes: tuple[str, ...] = ()
        if "mamba" in made:
            notes += _state_bytes("mamba_ssm_cache_dtype", self.mamba_ssm_cache_dtype)[1]
        if "moe" in made:
            notes += (CORRECTION,)
        draft = None
        if of_draft:
            layers = tuple(made[block] for block in of_draft)
            draft = Draft(modules=1, layers=layers, repeated=True)
            notes += (_DRAFT_BY_FORMULA,)
        return model(
            family="nemotron_h",
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=[made[block] for block in own],
            max_context=self.max_position_embeddings,
            draft=draft,
            notes=notes,
        )


class KimiLayers(Spec):
    """The table ``linear_attn_config`` of Kimi Linear.

    Attributes:
        full_attn_layers: layers with latent attention, from 1.
        kda_layers: layers with Kimi delta attention, from 1.
        num_heads: heads of the latter.
        head_dim: elements of their queries, keys and values.
        short_conv_kernel_size: width of the convolutions.
        use_full_rank_gate: the output gate has a full matrix.
        gate_lower_bound: bound of the decay; nothing that is counted follows from it.
    """

    full_attn_layers: tuple[_Count, ...]
    kda_layers: tuple[_Count, ...]
    num_heads: Size
    head_dim: Size
    short_conv_kernel_size: Size = 4
    use_full_rank_gate: bool = False
    gate_lower_bound: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None


class KimiLinear(Latent):
    """Kimi Linear and Kimi K3.

    Attributes:
        linear_attn_config: which layers are which, and the sizes of Kimi delta attention.
        q_lora_rank: elements of the latent of queries; None for one plain projection.
        mla_use_output_gate: the context of latent attention is multiplied by a gate.
        intermediate_size: width of dense blocks.
        moe_intermediate_size: width of an expert.
        num_experts: experts of a layer.
        num_experts_per_token: experts that a token visits, shared ones apart.
        num_shared_experts: experts that every token visits.
        first_k_dense_replace: the first layers that have a dense block.
        moe_layer_freq: must be 1, since the library follows no other.
        routed_expert_hidden_size: elements that tokens are projected to before the experts.
        latent_moe_use_norm: a norm stands before the projection back.
        attn_res_block_size: layers after which the residual stream is kept for later ones to mix.
        hidden_act: name of the non-linear function.
        model_max_length: tokens the model was made for.
        tie_word_embeddings: must be false: the library has an output head whatever the key says.
    """

    classes: ClassVar[tuple[str, ...]] = ("KimiLinear",)
    harmless: ClassVar[frozenset[str]] = frozenset(
        {
            "mla_use_nope",
            "moe_renormalize",
            "moe_router_activation_func",
            "num_expert_group",
        }
    )

    linear_attn_config: KimiLayers
    q_lora_rank: Size | None = None
    mla_use_output_gate: bool = False
    intermediate_size: Size
    moe_intermediate_size: Size
    num_experts: Size
    num_experts_per_token: Size
    num_shared_experts: _Count
    first_k_dense_replace: _Count = 1
    moe_layer_freq: Literal[1] = 1
    routed_expert_hidden_size: Size | None = None
    latent_moe_use_norm: bool = False
    attn_res_block_size: Size | None = None
    hidden_act: Literal["silu", "situ"] = "silu"
    model_max_length: Size | None = None
    tie_word_embeddings: Literal[False] = False

    @model_validator(mode="after")
    def _is_consistent(self) -> KimiLinear:
        chosen_experts(
            self.num_experts, self.num_experts_per_token, "num_experts_per_token", "num_experts"
        )
        lists, layers = self.linear_attn_config, self.num_hidden_layers
        named = Counter((*lists.full_attn_layers, *lists.kda_layers))
        for layer in sorted({*named, *range(1, layers + 1)}):
            if named[layer] != (layer <= layers):
                raise ValueError(
                    f"linear_attn_config.full_attn_layers and kda_layers name layer {layer} "
                    f"{named[layer]} times, and num_hidden_layers = {layers}: name each layer "
                    f"from 1 to {layers} once, in one of them"
                )
        if self.latent_moe_use_norm and self.routed_expert_hidden_size is None:
            raise ValueError(
                "latent_moe_use_norm = true, and routed_expert_hidden_size is missing: add it, or "
                "remove the former"
            )
        return self

    def _mixers(self) -> Sequence[AnyMixer]:
        """Return the mixer of each layer."""
        sizes, full = self.linear_attn_config, {*self.linear_attn_config.full_attn_layers}
        latent: AnyMixer = self.attention(gate=self.mla_use_output_gate)
        delta: AnyMixer = DeltaNet(
            key_heads=sizes.num_heads,
            value_heads=sizes.num_heads,
            key_dim=sizes.head_dim,
            value_dim=sizes.head_dim,
            conv=sizes.short_conv_kernel_size,
            decay=Decay.CHANNEL,
            gate_rank=None if sizes.use_full_rank_gate else sizes.head_dim,
        )
        return [latent if i in full else delta for i in range(1, self.num_hidden_layers + 1)]

    def _blocks(self) -> Sequence[AnyFeedForward]:
        """Return the feed-forward part of each layer."""
        dense: AnyFeedForward = Dense(width=self.intermediate_size, activation=self.hidden_act)
        experts: AnyFeedForward = Mixture(
            experts=self.num_experts,
            experts_per_token=self.num_experts_per_token,
            width=self.moe_intermediate_size,
            activation=self.hidden_act,
            shared_width=self.num_shared_experts * self.moe_intermediate_size,
            latent=self.routed_expert_hidden_size,
            latent_norm=self.latent_moe_use_norm,
        )
        first = self.first_k_dense_replace
        return [experts if i >= first else dense for i in range(self.num_hidden_layers)]

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        mixed = self.attn_res_block_size is not None
        notes: tuple[str, ...] = (CORRECTION,)
        if mixed:
            notes += (_KEPT_STREAMS,)
        return model(
            family="kimi_linear",
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            # Before attention, before the block and before the output head, a vector and a norm
            # score the residual streams that were kept.
            layers=[
                Layer(mixer=mixer, feed_forward=block, other=4 * self.hidden_size if mixed else 0)
                for mixer, block in zip(self._mixers(), self._blocks(), strict=True)
            ],
            other=2 * self.hidden_size if mixed else 0,
            max_context=self.max_position_embeddings or self.model_max_length,
            notes=notes,
        )


FAMILIES: Final[dict[str, type[Family]]] = {
    "qwen3_next": Qwen3Next,
    "qwen3_5_text": Qwen35,
    "qwen3_5_moe_text": Qwen35Experts,
    "nemotron_h": NemotronH,
    "kimi_linear": KimiLinear,
}
"""The readers of this module by their model type."""

WRAPPERS: Final[dict[str, Wrapper]] = {
    "qwen3_5": Wrapper(families=("qwen3_5_text",), classes=("Qwen3_5",)),
    "qwen3_5_moe": Wrapper(families=("qwen3_5_moe_text",), classes=("Qwen3_5Moe",)),
    "kimi_k3": Wrapper(families=("kimi_linear",), classes=("KimiK3",)),
}
"""Multimodal files by their model type."""
