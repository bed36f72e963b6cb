"""Readers of families with gated blocks, attention in every layer and no experts.

The keys and their defaults are those of the transformers library; what each of them builds is
written in reference/model-architectures.md, sections 1 to 3. Gemma 4 is here too, though its larger
models have experts beside the block.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from attacc.documents import Spec
from attacc.models.feedforward import AnyFeedForward, Dense, LinearBlock, Mixture
from attacc.models.layers import Draft, Layer, LayeredModel
from attacc.models.mixers import AnyMixer, Attention, LinearMixer, QkNorm, Size
from attacc.models.readers.attention import (
    FULL,
    SLIDING,
    Count,
    Decoder,
    Flags,
    GatedDecoder,
    LayerTypes,
    Patterned,
    Window,
    agree,
    nearest,
    one_by_type,
    split_evenly,
    visits_existing,
)
from attacc.models.readers.base import Family, LayerCount, Wrapper, model, needed, one_for_each
from attacc.units import MAX_SIZE

MAX_TABLE: Final = 10**15
"""Numbers of a table of inputs for each layer at most: a slip in a file is caught."""
_GELU = Literal["gelu", "gelu_pytorch_tanh"]


class _Biased(GatedDecoder):
    """A family with switches for the biases of attention and of the block."""

    attention_bias: bool = False
    mlp_bias: bool = False

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=self.attention_bias, out_bias=self.attention_bias)

    def feed_forward(self, number: int) -> AnyFeedForward:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return Dense(width=self.intermediate_size, bias=self.mlp_bias)


class Llama(_Biased):
    """LlamaConfig."""

    classes = ("Llama",)
    family = "llama"

    num_key_value_heads: Size | None = None


class Granite(Llama):
    """GraniteConfig: Llama with four multipliers, which cost nothing."""

    classes = ("Granite",)
    family = "granite"


class Mistral(GatedDecoder):
    """MistralConfig: every layer sees the same window.

    Attributes:
        sliding_window: null for all keys. Where the key is absent, the library takes 4096.
    """

    classes = ("Mistral",)
    family = "mistral"

    sliding_window: Size | None = 4096

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        return (self.sliding_window,) * self.num_hidden_layers


class Phi3(Mistral):
    """Phi3Config: projections are fused, which changes no count."""

    classes = ("Phi3",)
    family = "phi3"

    num_key_value_heads: Size | None = None
    sliding_window: Size | None = None
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    lm_head_bias: Literal[False] = False


class InternLM2(GatedDecoder):
    """InternLM2Config, of its own code.

    Attributes:
        bias: the projections of attention have biases.
    """

    classes = ("InternLM2",)
    family = "internlm2"

    num_key_value_heads: Size | None = None
    bias: bool

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=self.bias, out_bias=self.bias)


class Olmo2(GatedDecoder):
    """Olmo2Config: norms stand behind attention and block, and over all heads together."""

    classes = ("Olmo2",)
    family = "olmo2"

    num_key_value_heads: Size | None = None
    attention_bias: bool = False

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(
            window,
            qk_norm=QkNorm.WIDTH,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )


class Cohere(GatedDecoder):
    """CohereConfig: attention and block stand side by side, behind one norm."""

    classes = ("Cohere",)
    family = "cohere"
    tied = True
    norms = 1
    parallel = True

    num_key_value_heads: Size | None = None
    attention_bias: bool = False
    use_qk_norm: bool | None = False

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(
            window,
            qk_norm=QkNorm.HEADS if self.use_qk_norm else None,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )


class _Repeating(Patterned):
    """A family whose file may say of how many layers the last one is full."""

    sliding_window_pattern: Count | str | None

    harmless = frozenset({"_sliding_window_pattern"})  # the library writes it beside layer_types

    @model_validator(mode="after")
    def _pattern_agrees(self) -> Self:
        if "sliding_window_pattern" in self.model_fields_set and self.sliding_window is not None:
            agree("layer_types", self.layer_types, self.default_types(), "sliding_window_pattern")
        return self

    def period(self) -> int:
        """Return of how many layers the last one is full (`Patterned.period`)."""
        return self.sliding_window_pattern if isinstance(self.sliding_window_pattern, int) else 0

    def default_types(self) -> LayerTypes:
        """Return what each layer sees (`Patterned.default_types`)."""
        letters = self.sliding_window_pattern
        if self.sliding_window is None or not isinstance(letters, str):
            return super().default_types()
        if not letters or set(letters) - {"L", "G"}:
            raise ValueError(
                f"sliding_window_pattern = {letters!r:.40} has other letters than L for a window "
                'and G for all keys: write for example "LLLG"'
            )
        return tuple(
            SLIDING if letters[i % len(letters)] == "L" else FULL
            for i in range(self.num_hidden_layers)
        )


class Cohere2(Cohere, _Repeating):
    """Cohere2Config: three layers with a window, then one that sees everything."""

    classes = ("Cohere2",)
    family = "cohere2"

    sliding_window: Size | None = 4096
    sliding_window_pattern: Count | str | None = 4
    position_embedding_type: Literal["rope", "rope_gptj"] = "rope_gptj"


class Exaone4(_Repeating, GatedDecoder):
    """Exaone4Config: norms stand behind attention and block, and on queries and keys."""

    classes = ("Exaone4",)
    family = "exaone4"

    sliding_window: Size | None = 4096
    sliding_window_pattern: Count | str | None = 4

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qk_norm=QkNorm.HEAD)


class SmolLM3(_Biased):
    """SmolLM3Config: some layers have no rotary positions, which costs nothing.

    Attributes:
        no_rope_layers: 0 for a layer without rotary positions. With use_sliding_window these have
            the window.
        no_rope_layer_interval: of so many layers the last one has none, where there is no list.
    """

    classes = ("SmolLM3",)
    family = "smollm3"
    tied = True

    use_sliding_window: bool = False
    sliding_window: Size | None = None
    no_rope_layers: Flags | None = None
    no_rope_layer_interval: Size = 4

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        layers = self.num_hidden_layers
        if not self.use_sliding_window or self.sliding_window is None:
            return super().windows()
        if self.layer_types is not None:
            return one_by_type(self.layer_types, self.sliding_window, layers)
        if self.no_rope_layers is None:
            rotary = [int((i + 1) % self.no_rope_layer_interval != 0) for i in range(layers)]
        else:
            rotary = one_for_each("no_rope_layers", self.no_rope_layers, layers)
        return tuple(None if one else self.sliding_window for one in rotary)


class Glm4(GatedDecoder):
    """Glm4Config: norms stand before and behind attention and block."""

    classes = ("Glm4",)
    family = "glm4"
    norms = 4

    num_key_value_heads: Size | None = 2
    head_dim: Size | None = 128
    attention_bias: bool = True

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=self.attention_bias)


class Nemotron(Decoder):
    """NemotronConfig: a plain block of squared ReLU, and norms with biases."""

    classes = ("Nemotron",)
    family = "nemotron"
    norm_bias = True

    num_key_value_heads: Size | None = None
    intermediate_size: Size
    hidden_act: Literal["relu2"] = "relu2"
    attention_bias: bool = False
    mlp_bias: bool = False

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=self.attention_bias, out_bias=self.attention_bias)

    def feed_forward(self, number: int) -> AnyFeedForward:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return Dense(
            width=self.intermediate_size, gated=False, activation="relu2", bias=self.mlp_bias
        )


class _Switched(GatedDecoder):
    """A family of Qwen: a switch says whether later layers have a window.

    Attributes:
        max_window_layers: so many layers at the beginning are full nevertheless.
    """

    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    # The library's default is that of one model, so that the key is asked for where it matters.
    max_window_layers: Count | None = None

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer (`Decoder.windows`)."""
        layers = self.num_hidden_layers
        if not self.use_sliding_window or self.sliding_window is None:
            return super().windows()
        if self.layer_types is not None:
            return one_by_type(self.layer_types, self.sliding_window, layers)
        if self.max_window_layers is None:
            raise ValueError(
                "missing key 'max_window_layers': use_sliding_window = true needs the number of "
                "layers at the beginning that are full"
            )
        first = self.max_window_layers
        return tuple(self.sliding_window if i >= first else None for i in range(layers))


class Qwen2(_Switched):
    """Qwen2Config: queries, keys and values always have biases, the output never."""

    classes = ("Qwen2",)
    family = "qwen2"
    harmless = frozenset({"attention_bias", "qkv_bias"})

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=True)


class MiMo(_Switched):
    """MiMoConfig, of its own code: Qwen2 with layers for drafting."""

    classes = ("MiMo",)
    family = "mimo"

    attention_bias: Literal[True] = True
    num_nextn_predict_layers: Annotated[int, Field(ge=0, le=64)] = 0

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(window, qkv_bias=True)

    def drafting(self) -> Draft | None:
        """Return the layers for drafting (`Decoder.drafting`)."""
        if not self.num_nextn_predict_layers:
            return None
        return Draft(modules=self.num_nextn_predict_layers, layers=(self.layer(0, None),))


class Qwen3(_Switched):
    """Qwen3Config: norms on queries and keys."""

    classes = ("Qwen3",)
    family = "qwen3"

    attention_bias: bool = False

    @model_validator(mode="after")
    def _has_head_dim(self) -> Self:
        # The library does not derive it for this family.
        if self.head_dim is None:
            raise ValueError("missing key 'head_dim', or null: Qwen3 states it")
        return self

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(
            window,
            qk_norm=QkNorm.HEAD,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )


class Qwen3VLText(Qwen3):
    """Qwen3VLTextConfig: the language part of Qwen3-VL, without windows.

    Features of pictures are added to the first layers, which needs no weights here.
    """

    classes = ("Qwen3VL", "Qwen3VLText")
    family = "qwen3_vl"

    @model_validator(mode="after")
    def _has_no_window(self) -> Self:
        if self.use_sliding_window:
            raise ValueError("use_sliding_window = true: Qwen3-VL has no windows; remove the key")
        return self


class _GemmaLike(Decoder):
    """What the families of Gemma share: gated blocks of GELU, and heads of a size of their own."""

    tied = True

    intermediate_size: Size
    attention_bias: bool = False
    head_dim: Size | None = 256

    qk_norm: ClassVar[QkNorm | None] = None

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        return self.attention(
            window,
            qk_norm=self.qk_norm,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )

    def feed_forward(self, number: int) -> AnyFeedForward:  # noqa: ARG002 - all are alike
        """Return the feed-forward part (`Decoder.feed_forward`)."""
        return Dense(width=self.intermediate_size, activation="gelu")


class Gemma(_GemmaLike):
    """GemmaConfig."""

    classes = ("Gemma",)
    family = "gemma"

    hidden_act: _GELU = "gelu_pytorch_tanh"
    use_bidirectional_attention: Literal[False] | None = None


class Gemma2(_GemmaLike, Patterned):
    """Gemma2Config: every other layer has a window, and each layer four norms.

    Attributes:
        sliding_window_size: the same as sliding_window, in older files.
    """

    classes = ("Gemma2",)
    family = "gemma2"
    norms = 4

    num_key_value_heads: Size | None = 4
    hidden_activation: _GELU = "gelu_pytorch_tanh"
    sliding_window: Size | None = 4096
    sliding_window_size: Size | None = None
    use_bidirectional_attention: Literal[False] | None = None

    @model_validator(mode="after")
    def _has_one_window(self) -> Self:
        if self.sliding_window_size not in (None, self.sliding_window):
            raise ValueError(
                f"sliding_window_size = {self.sliding_window_size} and sliding_window = "
                f"{self.sliding_window} disagree: remove one of them"
            )
        return self

    def period(self) -> int:
        """Return of how many layers the last one is full (`Patterned.period`)."""
        return 2


class Gemma3Text(_GemmaLike, _Repeating):
    """Gemma3TextConfig: five layers with a window, then one that sees everything.

    Published files leave out what the library fills in, heads and vocabulary included.
    """

    classes = ("Gemma3", "Gemma3Text")
    family = "gemma3"
    norms = 4
    qk_norm = QkNorm.HEAD

    vocab_size: Size = 262_208
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    hidden_activation: _GELU = "gelu_pytorch_tanh"
    sliding_window: Size | None = 4096
    sliding_window_pattern: Count | str | None = 6
    use_bidirectional_attention: Literal[False] | None = None


class Gemma4Text(_GemmaLike, Patterned):
    """Gemma4TextConfig: full layers have heads of their own, and experts may stand beside blocks.

    Attributes:
        global_head_dim: elements of a head of full layers.
        num_global_key_value_heads: key/value heads of full layers, where attention_k_eq_v is true.
        attention_k_eq_v: full layers project keys and values together.
        num_kv_shared_layers: so many layers at the end read the keys and values of an earlier one.
        use_double_wide_mlp: their blocks are twice as wide.
        hidden_size_per_layer_input: elements that each layer takes of the token itself, from a
            table of its own; 0 for none. Where the key is absent, the library takes 256.
    """

    classes = ("Gemma4", "Gemma4Text")
    family = "gemma4"
    qk_norm = QkNorm.HEAD

    num_key_value_heads: Size | None = 4
    hidden_activation: _GELU = "gelu_pytorch_tanh"
    sliding_window: Size | None = 512
    global_head_dim: Size = 512
    num_global_key_value_heads: Size | None = None
    attention_k_eq_v: bool = False
    num_kv_shared_layers: Count | None = 0
    use_double_wide_mlp: bool | None = False
    hidden_size_per_layer_input: Annotated[int, Field(ge=0, le=2**16)] | None = 256
    vocab_size_per_layer_input: Annotated[int, Field(gt=0, le=2**20)] = 262_144
    enable_moe_block: bool = False
    num_experts: Size | None = None
    top_k_experts: Size | None = None
    moe_intermediate_size: Size | None = None
    use_bidirectional_attention: Literal["vision"] | None = None

    @model_validator(mode="after")
    def _has_experts_if_it_says_so(self) -> Self:
        if self.enable_moe_block:
            self._experts(Dense(width=1))
        return self

    @model_validator(mode="after")
    def _has_sizes_within_bounds(self) -> Self:
        if 2 * self.intermediate_size > MAX_SIZE:
            raise ValueError(
                f"intermediate_size = {self.intermediate_size} is out of range: "
                f"use at most {MAX_SIZE // 2}"
            )
        if self._outside() > MAX_TABLE:
            raise ValueError(
                f"hidden_size_per_layer_input = {self.hidden_size_per_layer_input} makes a table "
                f"of more than {MAX_TABLE:,} numbers: use a smaller number"
            )
        return self

    @model_validator(mode="after")
    def _has_global_heads(self) -> Self:
        if self.num_attention_heads % self._global_kv_heads:
            raise ValueError(
                f"num_global_key_value_heads = {self._global_kv_heads} does not divide "
                f"num_attention_heads = {self.num_attention_heads}: the nearest that do are "
                f"{nearest(self.num_attention_heads, self._global_kv_heads)}"
            )
        return self

    @model_validator(mode="after")
    def _borrows_of_its_own_kind(self) -> Self:
        own = self.num_hidden_layers - (self.num_kv_shared_layers or 0)
        kinds = [window is None for window in self.windows()]
        if own < 1 or not set(kinds[own:]) <= set(kinds[:own]):
            raise ValueError(
                f"num_kv_shared_layers = {self.num_kv_shared_layers} leaves layers whose keys and "
                "values no earlier layer of their kind has: use a smaller number"
            )
        return self

    @property
    def _global_kv_heads(self) -> int:
        own = self.num_global_key_value_heads if self.attention_k_eq_v else None
        return own or self.kv_heads

    def period(self) -> int:
        """Return of how many layers the last one is full (`Patterned.period`)."""
        return 6

    def windows(self) -> tuple[Window, ...]:
        """Return how many keys a query sees in each layer; the last one is always full."""
        types = self.default_types() if self.layer_types is None else self.layer_types
        found = one_by_type(types, self.sliding_window, self.num_hidden_layers)
        if self.layer_types is not None:
            agree("layer_types", types[-1:], (FULL,), "the family's rule for the last layer")
        return (*found[:-1], None)

    def mixer(self, window: Window) -> Attention:
        """Return the attention of a layer (`Decoder.mixer`)."""
        bias = self.attention_bias
        more: dict[str, Any] = {"qk_norm": self.qk_norm, "qkv_bias": bias, "out_bias": bias}
        if window is None:
            more["head_dim"] = self.global_head_dim
            more["kv_heads"] = self._global_kv_heads
            more["keys_as_values"] = self.attention_k_eq_v
        return self.attention(window, **more)

    def _experts(self, block: Dense) -> Mixture:
        """Return the experts of a layer, beside its block.

        Raises:
            ValueError: a key is missing, or a token visits more experts than there are.
        """
        why = "enable_moe_block is true"
        experts = needed("num_experts", self.num_experts, why)
        chosen = needed("top_k_experts", self.top_k_experts, why)
        visits_existing(("top_k_experts", chosen), ("num_experts", experts))
        return Mixture(
            experts=experts,
            experts_per_token=chosen,
            width=needed("moe_intermediate_size", self.moe_intermediate_size, why),
            activation="gelu",
            dense=block,
            scales=True,
        )

    def layer(self, number: int, window: Window) -> Layer:
        """Return a layer (`Decoder.layer`)."""
        borrowed = number >= self.num_hidden_layers - (self.num_kv_shared_layers or 0)
        wide = 2 if borrowed and self.use_double_wide_mlp else 1
        block = Dense(width=wide * self.intermediate_size, activation="gelu")
        inputs = self.hidden_size_per_layer_input or 0
        return Layer(
            mixer=self.mixer(window).model_copy(update={"borrowed": borrowed}),
            feed_forward=self._experts(block) if self.enable_moe_block else block,
            norms=4 + 3 * self.enable_moe_block + (1 if inputs else 0),
            other=2 * self.hidden_size * inputs,
        )

    def outside(self) -> dict[str, Any]:
        """Return further fields of `LayeredModel` (`Decoder.outside`)."""
        return {"other": self._outside()}

    def _outside(self) -> int:
        """Return the parameters of the inputs for each layer that lie outside the layers."""
        inputs = self.hidden_size_per_layer_input or 0
        columns = self.num_hidden_layers * inputs
        return (self.vocab_size_per_layer_input + self.hidden_size) * columns + inputs

    def remarks(self) -> tuple[str, ...]:
        """Return what the reader of the description should know (`Decoder.remarks`)."""
        found: list[str] = []
        if self.attention_k_eq_v:
            found.append(
                "full layers make keys and values of one projection; both are counted as stored, "
                "as the transformers library stores them"
            )
        if self.hidden_size_per_layer_input:
            table = self.vocab_size_per_layer_input * self.num_hidden_layers
            numbers = table * self.hidden_size_per_layer_input
            found.append(
                f"{numbers:,} of the parameters of other paths are a table of inputs for each "
                "layer, of which a token reads one row"
            )
        return tuple(found)


class _BlockAttention(Spec):
    """What a block of Llama-Nemotron has in place of attention.

    Attributes:
        n_heads_in_group: query heads that share keys and values.
        no_op: the block has no attention.
        replace_with_linear: it has a single matrix instead.
        window_length: must be null; likewise the others that narrow what a query sees.
    """

    n_heads_in_group: Size | None = None
    no_op: bool = False
    replace_with_linear: bool = False
    window_length: None = None
    num_sink_tokens: None = None
    sparsify: None = None
    unshifted_sink: bool = False
    use_prefill_window_in_sink_attention: bool = False


class _BlockFeedForward(Spec):
    """What a block of Llama-Nemotron has in place of a feed-forward block.

    Attributes:
        ffn_mult: width, as a multiple of two thirds of the hidden size.
        no_op: the block has none.
        replace_with_linear: it has a single matrix instead.
        sparsify: must be null.
    """

    ffn_mult: Annotated[float, Field(gt=0, le=1000)] | None = None
    no_op: bool = False
    replace_with_linear: bool = False
    sparsify: None = None


class _Block(Spec):
    """One block of Llama-Nemotron."""

    attention: _BlockAttention
    ffn: _BlockFeedForward


class NemotronNAS(Family):
    """DeciLMConfig, of its own code: every layer is what a search left of it.

    Attributes:
        block_configs: what each layer is made of.
        intermediate_size: must be null, since each block states its own; likewise
            num_key_value_heads.
    """

    classes = ("DeciLM",)

    hidden_size: Annotated[int, Field(gt=0, le=2**14)]
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    num_key_value_heads: None = None
    head_dim: Size | None = None
    intermediate_size: None = None
    max_position_embeddings: Size | None = None
    hidden_act: Literal["silu"] = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    block_configs: tuple[_Block, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        heads = self.num_attention_heads
        one_for_each("block_configs", self.block_configs, self.num_hidden_layers)
        if self.head_dim is None:
            split_evenly(("hidden_size", self.hidden_size), ("num_attention_heads", heads))
        for i, block in enumerate(self.block_configs):
            at, ffn = block.attention, block.ffn
            if (at.no_op and at.replace_with_linear) or (ffn.no_op and ffn.replace_with_linear):
                raise ValueError(
                    f"block_configs: block {i} has no_op and replace_with_linear: keep one"
                )
            if not (at.no_op or at.replace_with_linear):
                if at.n_heads_in_group is None:
                    raise ValueError(f"block_configs: block {i} has no n_heads_in_group: add it")
                split_evenly(
                    ("num_attention_heads", heads),
                    (f"block_configs: block {i}: n_heads_in_group", at.n_heads_in_group),
                )
            if not (ffn.no_op or ffn.replace_with_linear) and ffn.ffn_mult is None:
                raise ValueError(f"block_configs: block {i} has no ffn_mult: add it")
        return self

    def _mixer(self, one: _BlockAttention) -> AnyMixer | None:
        if one.no_op:
            return None
        if one.replace_with_linear:
            return LinearMixer()
        return Attention(
            heads=self.num_attention_heads,
            kv_heads=self.num_attention_heads // (one.n_heads_in_group or 1),
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )

    def _feed_forward(self, one: _BlockFeedForward) -> AnyFeedForward | None:
        if one.no_op:
            return None
        if one.replace_with_linear:
            return LinearBlock()
        width = int(2 * (one.ffn_mult or 0) * self.hidden_size / 3)
        return Dense(width=-(-max(width, 1) // _WIDTH_UNIT) * _WIDTH_UNIT, bias=self.mlp_bias)

    def described(self, *, tied: bool) -> LayeredModel:
        """Return the model (`Family.described`)."""
        layers: list[Layer] = []
        for block in self.block_configs:
            mixer, feed_forward = self._mixer(block.attention), self._feed_forward(block.ffn)
            norms = (mixer is not None) + (feed_forward is not None)
            layers.append(Layer(mixer=mixer, feed_forward=feed_forward, norms=norms))
        return model(
            family="nemotron-nas",
            hidden=self.hidden_size,
            vocabulary=self.vocab_size,
            tied=tied,
            layers=layers,
            max_context=self.max_position_embeddings,
        )


_WIDTH_UNIT: Final = 256
"""Widths of Llama-Nemotron are rounded up to a multiple of this."""

FAMILIES: Final[dict[str, type[Family]]] = {
    "llama": Llama,
    "mistral": Mistral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "qwen3_vl_text": Qwen3VLText,
    "gemma": Gemma,
    "gemma2": Gemma2,
    "gemma3_text": Gemma3Text,
    "gemma4_text": Gemma4Text,
    "phi3": Phi3,
    "internlm2": InternLM2,
    "olmo2": Olmo2,
    "granite": Granite,
    "cohere": Cohere,
    "cohere2": Cohere2,
    "nemotron": Nemotron,
    "smollm3": SmolLM3,
    "glm4": Glm4,
    "exaone4": Exaone4,
    "mimo": MiMo,
    "nemotron-nas": NemotronNAS,
}
"""Model types -> what reads them."""

WRAPPERS: Final[dict[str, Wrapper]] = {
    "qwen3_vl": Wrapper(families=("qwen3_vl_text",), classes=("Qwen3VL",), tied=False),
    "gemma3": Wrapper(
        families=("gemma3_text",),
        classes=("Gemma3",),
        tied=True,
        harmless=frozenset({"mm_tokens_per_image"}),
    ),
    "gemma4": Wrapper(
        families=("gemma4_text",),
        classes=("Gemma4",),
        tied=True,
        vision_keys=("vision_config", "audio_config"),
    ),
    "mistral3": Wrapper(families=("mistral",), classes=("Mistral3",), tied=True),
}
"""Model types of multimodal files -> the keys around their language part."""
