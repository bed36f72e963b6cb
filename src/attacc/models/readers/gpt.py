"""Readers of families with plain blocks: two matrices, layer norms, and biases in most of them.

The keys and their defaults are those of the transformers library; what each of them builds is
written in reference/model-architectures.md, section 3.3.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from attacc.documents import Spec
from attacc.models.feedforward import Dense
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Attention, Size
from attacc.models.readers.attention import Decoder, Narrow, Window, either, split_evenly
from attacc.models.readers.base import Family, LayerCount, Wrapper, model
from attacc.units import MAX_SIZE

_Activation = Literal["gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu"]
_OPT_OFFSET: Final = 2


def _plain(width: int, activation: str, *, bias: bool) -> Dense:
    """Return a block of two matrices."""
    name = "relu" if activation == "relu" else "gelu"
    return Dense(width=width, gated=False, activation=name, bias=bias)


def _mha(hidden: int, heads: int, *, bias: bool) -> Attention:
    """Return attention in which every query head has keys and values of its own."""
    return Attention(
        heads=heads, kv_heads=heads, head_dim=hidden // heads, qkv_bias=bias, out_bias=bias
    )


class GPT2(Family):
    """GPT2Config."""

    classes = ("GPT2",)
    tied = True

    n_embd: Narrow
    n_layer: LayerCount
    n_head: Size
    n_positions: Size
    n_inner: Size | None = None
    activation_function: _Activation = "gelu_new"
    add_cross_attention: Literal[False] = False

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        split_evenly(("n_embd", self.n_embd), ("n_head", self.n_head))
        return self

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        layer = Layer(
            repeat=self.n_layer,
            mixer=_mha(self.n_embd, self.n_head, bias=True),
            feed_forward=_plain(
                self.n_inner or 4 * self.n_embd, self.activation_function, bias=True
            ),
        )
        return model(
            family="gpt2",
            hidden=self.n_embd,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=(layer,),
            learned_positions=self.n_positions,
            norm_bias=True,
            max_context=self.n_positions,
        )


class GPTJ(Family):
    """GPTJConfig: attention and block stand side by side, behind one norm."""

    classes = ("GPTJ",)

    n_embd: Narrow
    n_layer: LayerCount
    n_head: Size
    n_positions: Size | None = None
    n_inner: Size | None = None
    activation_function: _Activation = "gelu_new"

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        split_evenly(("n_embd", self.n_embd), ("n_head", self.n_head))
        return self

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        layer = Layer(
            repeat=self.n_layer,
            mixer=_mha(self.n_embd, self.n_head, bias=False),
            feed_forward=_plain(
                self.n_inner or 4 * self.n_embd, self.activation_function, bias=True
            ),
            norms=1,
            parallel=True,
        )
        return model(
            family="gptj",
            hidden=self.n_embd,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=(layer,),
            head_bias=True,
            norm_bias=True,
            max_context=self.n_positions,
        )


class OPT(Family):
    """OPTConfig."""

    classes = ("OPT",)
    tied = True

    hidden_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    ffn_dim: Size
    # OPTLearnedPositionalEmbedding keeps two rows below the first position.
    max_position_embeddings: Annotated[int, Field(gt=0, le=MAX_SIZE - _OPT_OFFSET)]
    word_embed_proj_dim: Size | None = None
    activation_function: _Activation = "relu"
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = Field(default=False, alias="_remove_final_layer_norm")
    layer_norm_elementwise_affine: Literal[True] = True
    enable_bias: bool = True

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        split_evenly(
            ("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads)
        )
        return self

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        embedding = self.word_embed_proj_dim or self.hidden_size
        layer = Layer(
            repeat=self.num_hidden_layers,
            mixer=_mha(self.hidden_size, self.num_attention_heads, bias=self.enable_bias),
            feed_forward=_plain(self.ffn_dim, self.activation_function, bias=self.enable_bias),
        )
        return model(
            family="opt",
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=(layer,),
            embedding_size=embedding if embedding != self.hidden_size else None,
            learned_positions=self.max_position_embeddings + _OPT_OFFSET,
            norm_bias=True,
            final_norm=self.do_layer_norm_before and not self.remove_final_layer_norm,
            max_context=self.max_position_embeddings,
        )


class GPTNeoX(Family):
    """GPTNeoXConfig.

    Attributes:
        use_parallel_residual: attention and block stand side by side. No count depends on it.
    """

    classes = ("GPTNeoX",)

    hidden_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size | None = None
    hidden_act: _Activation = "gelu"
    use_parallel_residual: bool = True
    attention_bias: bool = True

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        split_evenly(
            ("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads)
        )
        return self

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        layer = Layer(
            repeat=self.num_hidden_layers,
            mixer=_mha(self.hidden_size, self.num_attention_heads, bias=self.attention_bias),
            feed_forward=_plain(self.intermediate_size, self.hidden_act, bias=True),
            parallel=self.use_parallel_residual,
        )
        return model(
            family="gpt_neox",
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=(layer,),
            norm_bias=True,
            max_context=self.max_position_embeddings,
        )


class _TwoNames(Family):
    """A family whose files state the same sizes under older or newer names.

    Attributes:
        hidden_size: elements of the residual stream; n_embed in older files.
        num_hidden_layers: layers; n_layer in older files, or in newer ones.
        num_attention_heads: query heads; likewise n_head.
    """

    tied = True

    hidden_size: Narrow | None = None
    n_embed: Narrow | None = None
    num_hidden_layers: LayerCount | None = None
    n_layer: LayerCount | None = None
    num_attention_heads: Size | None = None
    n_head: Size | None = None

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        split_evenly(("hidden_size", self._hidden), ("num_attention_heads", self._heads))
        either("num_hidden_layers", self.num_hidden_layers, "n_layer", self.n_layer)
        return self

    @property
    def _hidden(self) -> int:
        return either("hidden_size", self.hidden_size, "n_embed", self.n_embed)

    @property
    def _heads(self) -> int:
        return either("num_attention_heads", self.num_attention_heads, "n_head", self.n_head)

    @abstractmethod
    def _layer(self) -> Layer:
        """Return one of the layers, which are all alike."""

    def _model(
        self, family: str, *, tied: bool, embedding_norm: bool = False, context: int | None = None
    ) -> LayeredModel:
        layers = either("num_hidden_layers", self.num_hidden_layers, "n_layer", self.n_layer)
        return model(
            family=family,
            hidden=self._hidden,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=(self._layer().model_copy(update={"repeat": layers}),),
            embedding_norm=embedding_norm,
            norm_bias=True,
            max_context=context,
        )


class Bloom(_TwoNames):
    """BloomConfig: positions come from ALiBi, which has no parameters.

    Attributes:
        n_inner: width of the block, always four times the hidden size.
    """

    classes = ("Bloom",)
    harmless = frozenset({"offset_alibi"})

    n_inner: Size | None = None
    seq_length: Size | None = None

    @model_validator(mode="after")
    def _has_the_usual_block(self) -> Self:
        if self.n_inner not in (None, 4 * self._hidden):
            raise ValueError(
                f"n_inner = {self.n_inner} is not four times the hidden size {self._hidden}, and "
                "the family's blocks always are: remove the key"
            )
        return self

    def _layer(self) -> Layer:
        return Layer(
            mixer=_mha(self._hidden, self._heads, bias=True),
            feed_forward=_plain(4 * self._hidden, "gelu", bias=True),
        )

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        return self._model("bloom", tied=tied, embedding_norm=True, context=self.seq_length)


class Falcon(_TwoNames):
    """FalconConfig.

    Attributes:
        num_kv_heads: key/value heads; n_head_kv in older files. They count only where
            new_decoder_architecture is true.
        multi_query: one key/value head for all, where new_decoder_architecture is false.
        parallel_attn: attention and block stand side by side, behind one norm.
        num_ln_in_parallel_attn: norms there; two with the new architecture.
        bias: all linear layers have biases.
        alibi: positions come from ALiBi, which has no parameters.
    """

    classes = ("Falcon",)

    num_kv_heads: Size | None = None
    n_head_kv: Size | None = None
    new_decoder_architecture: bool | None = False
    multi_query: bool | None = True
    parallel_attn: bool | None = True
    num_ln_in_parallel_attn: Literal[1, 2] | None = None
    bias: bool | None = False
    alibi: bool | None = False
    ffn_hidden_size: Size | None = None
    activation: _Activation = "gelu"
    max_position_embeddings: Size | None = None

    @model_validator(mode="after")
    def _has_whole_groups(self) -> Self:
        split_evenly(("num_attention_heads", self._heads), ("num_kv_heads", self._kv_heads()))
        return self

    def _kv_heads(self) -> int:
        stated = self._heads
        if self.num_kv_heads is not None or self.n_head_kv is not None:
            stated = either("num_kv_heads", self.num_kv_heads, "n_head_kv", self.n_head_kv)
        if self.new_decoder_architecture:
            return stated
        if self.multi_query:
            return 1
        if stated != self._heads:
            raise ValueError(
                f"num_kv_heads = {stated}, while multi_query and new_decoder_architecture are "
                f"false, so that there are as many as query heads, {self._heads}: correct one of "
                "the keys"
            )
        return stated

    def _layer(self) -> Layer:
        bias = bool(self.bias)
        norms = 2
        if self.parallel_attn:
            norms = self.num_ln_in_parallel_attn or (2 if self.new_decoder_architecture else 1)
        return Layer(
            mixer=Attention(
                heads=self._heads,
                kv_heads=self._kv_heads(),
                head_dim=self._hidden // self._heads,
                qkv_bias=bias,
                out_bias=bias,
            ),
            feed_forward=_plain(
                self.ffn_hidden_size or 4 * self._hidden, self.activation, bias=bias
            ),
            norms=norms,
            parallel=bool(self.parallel_attn),
        )

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        return self._model("falcon", tied=tied, context=self.max_position_embeddings)


class _MPTAttention(Spec):
    """The attention of MPT.

    Attributes:
        attn_type: how many key/value heads there are: as many, one, or kv_n_heads.
        alibi: positions come from ALiBi; other positions are not read.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    attn_type: Literal["multihead_attention", "multiquery_attention", "grouped_query_attention"] = (
        "multihead_attention"
    )
    kv_n_heads: Size | None = None
    alibi: Literal[True] = True
    rope: Literal[False] = False
    qk_ln: Literal[False] = False
    qk_gn: Literal[False] = False
    prefix_lm: Literal[False] = False
    sliding_window_size: Literal[-1] = -1


class _MPTBlock(Spec):
    """The block of MPT: other kinds than the plain one are not read."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    ffn_type: Literal["mptmlp"] = "mptmlp"


class MPT(Family):
    """MptConfig: no biases at all, not even in norms.

    Attributes:
        expansion_ratio: width of the block, as a multiple of d_model.
        attn_config: the kind of attention.
    """

    classes = ("MPT", "Mpt")
    tied = True

    d_model: Annotated[int, Field(gt=0, le=MAX_SIZE // 64)]
    n_heads: Size
    n_layers: LayerCount
    max_seq_len: Size | None = None
    expansion_ratio: Annotated[int, Field(gt=0, le=64)] = 4
    attn_config: _MPTAttention | None = None
    ffn_config: _MPTBlock | None = None
    no_bias: Literal[True] = True
    block_overrides: None = None

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        split_evenly(("d_model", self.d_model), ("n_heads", self.n_heads))
        split_evenly(("n_heads", self.n_heads), ("attn_config.kv_n_heads", self._kv_heads()))
        return self

    def _kv_heads(self) -> int:
        """Return the number of key/value heads.

        Raises:
            ValueError: the number is not that of the kind of attention.
        """
        stated = self.attn_config or _MPTAttention()
        found = {
            "multihead_attention": self.n_heads,
            "multiquery_attention": 1,
            "grouped_query_attention": stated.kv_n_heads,
        }[stated.attn_type]
        if found is None or stated.kv_n_heads not in (None, found):
            raise ValueError(
                f"attn_config.kv_n_heads = {stated.kv_n_heads} is not that of attn_type = "
                f"{stated.attn_type!r}: correct one of them"
            )
        return found

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        layer = Layer(
            repeat=self.n_layers,
            mixer=Attention(
                heads=self.n_heads,
                kv_heads=self._kv_heads(),
                head_dim=self.d_model // self.n_heads,
            ),
            feed_forward=_plain(self.expansion_ratio * self.d_model, "gelu", bias=False),
        )
        return model(
            family="mpt",
            hidden=self.d_model,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=(layer,),
            max_context=self.max_seq_len,
        )


class Starcoder2(Decoder):
    """Starcoder2Config: every layer sees the same window.

    Attributes:
        use_bias: all linear layers have biases.
    """

    classes = ("Starcoder2",)
    family = "starcoder2"
    tied = True
    norm_bias: ClassVar[bool] = True

    num_key_value_heads: Size | None = 2
    intermediate_size: Size
    sliding_window: Size | None = None
    use_bias: bool = True
    hidden_act: _Activation = "gelu_pytorch_tanh"
    mlp_type: Literal["default"] = "default"
    norm_type: Literal["layer_norm"] = "layer_norm"

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        return (self.sliding_window,) * self.num_hidden_layers

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=self.use_bias, out_bias=self.use_bias)

    def feed_forward(self, number: int) -> Dense:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return _plain(self.intermediate_size, self.hidden_act, bias=self.use_bias)


FAMILIES: Final[dict[str, type[Family]]] = {
    "gpt2": GPT2,
    "opt": OPT,
    "gpt_neox": GPTNeoX,
    "gptj": GPTJ,
    "bloom": Bloom,
    "mpt": MPT,
    "falcon": Falcon,
    "starcoder2": Starcoder2,
}
"""Model types -> what reads them."""

WRAPPERS: Final[dict[str, Wrapper]] = {}
"""Model types of multimodal files -> the keys around their language part; there are none."""
