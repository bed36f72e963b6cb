"""Models described by a Hugging Face ``config.json``.

Each class holds the keys of one family's configuration that decide its size, under the names and
with the defaults of the transformers library (class names in the docstrings). A default is taken
over only where the library treats the key as optional; the sizes it would fill in with those of
one particular model are required here. Other keys are ignored: there are many, and they do not
change what is computed or stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from attacc.documents import Spec, load_document, parse_document, read_document
from attacc.errors import DocumentError, UnknownNameError
from attacc.models.architecture import (
    MAX_SIZE,
    MODELS,
    Activation,
    Biases,
    Experts,
    FeedForward,
    ModelSpec,
    NormKind,
    Size,
    divisors,
)
from attacc.models.precision import ElementType, Precision

CONFIG_FILE: Final = "config.json"
_OPT_OFFSET: Final = 2

_PLAIN_ACTIVATIONS: Final = {
    "gelu": Activation.GELU,
    "gelu_fast": Activation.GELU,
    "gelu_new": Activation.GELU,
    "gelu_pytorch_tanh": Activation.GELU,
    "quick_gelu": Activation.GELU,
    "relu": Activation.RELU,
}
_PlainActivation = Literal[
    "gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu"
]
_DType = Literal["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
_SERVED: Final = {
    "float32": ElementType.FP16,
    "float16": ElementType.FP16,
    "bfloat16": ElementType.BF16,
    "float8_e4m3fn": ElementType.FP8,
    "float8_e5m2": ElementType.FP8,
}
_QUANTIZED: Final[dict[tuple[str, int | None], ElementType]] = {
    ("fp8", None): ElementType.FP8,
    ("gptq", 4): ElementType.INT4,
    ("gptq", 8): ElementType.INT8,
    ("awq", 4): ElementType.INT4,
}


class _Ignoring(Spec):
    # The files have keys such as model_type, in a namespace that pydantic protects.
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class _Quantization(_Ignoring):
    """How the weights were quantised."""

    quant_method: str
    bits: Annotated[int, Field(ge=1, le=64)] | None = None

    @model_validator(mode="after")
    def _is_known(self) -> _Quantization:
        if (self.quant_method, self.bits) not in _QUANTIZED:
            bits = "" if self.bits is None else f" with bits = {self.bits}"
            known = ", ".join(
                method if bits is None else f"{method} ({bits} bits)" for method, bits in _QUANTIZED
            )
            raise ValueError(
                f"quantization method {self.quant_method!r}{bits} is not supported: "
                f"choose from {known}, or describe the model in a TOML document"
            )
        return self

    @property
    def weights(self) -> ElementType:
        return _QUANTIZED[self.quant_method, self.bits]


class _Config(_Ignoring, ABC):
    """What the configurations of all families have in common."""

    vocab_size: Size
    torch_dtype: _DType | None = None
    dtype: _DType | None = None
    quantization_config: _Quantization | None = None

    @model_validator(mode="after")
    def _names_one_type(self) -> _Config:
        if self.torch_dtype and self.dtype and self.torch_dtype != self.dtype:
            raise ValueError(
                f"dtype = {self.dtype!r} and torch_dtype = {self.torch_dtype!r} disagree"
            )
        return self

    def precision(self) -> Precision:
        """Return the element types that the model is served with.

        Weights saved in float32, or in no stated type (which means float32), are served in
        fp16. Quantisation changes the weights only: activations and KV keep the other type.
        """
        stored = _SERVED[self.dtype or self.torch_dtype or "float32"]
        weights = self.quantization_config.weights if self.quantization_config else stored
        return Precision(weights=weights, activations=stored, kv=stored)

    @abstractmethod
    def model(self, name: str, sources: dict[str, str]) -> ModelSpec:
        """Return the model that this configuration describes."""


def _split_evenly(hidden: tuple[str, int], heads: tuple[str, int]) -> int:
    """Return the size of one head, which the configuration leaves to be derived."""
    if hidden[1] % heads[1]:
        nearest = ", ".join(map(str, _nearest_divisors(hidden[1], heads[1])))
        raise ValueError(
            f"{heads[0]} = {heads[1]} does not divide {hidden[0]} = {hidden[1]}: "
            f"the nearest that do are {nearest}"
        )
    return hidden[1] // heads[1]


def _nearest_divisors(number: int, divisor: int) -> list[int]:
    return sorted(divisors(number), key=lambda d: abs(d - divisor))[:2]


class _GPT2(_Config):
    """GPT2Config."""

    n_embd: Annotated[int, Field(gt=0, le=MAX_SIZE // 4)]  # n_inner is four times as large
    n_layer: Size
    n_head: Size
    n_positions: Size
    n_inner: Size | None = None
    activation_function: _PlainActivation = "gelu_new"
    tie_word_embeddings: bool = True
    add_cross_attention: Literal[False] = False

    @model_validator(mode="after")
    def _has_whole_heads(self) -> _GPT2:
        _split_evenly(("n_embd", self.n_embd), ("n_head", self.n_head))
        return self

    def model(self, name: str, sources: dict[str, str]) -> ModelSpec:
        return ModelSpec(
            name=name,
            sources=sources,
            family="gpt2",
            layers=self.n_layer,
            hidden_size=self.n_embd,
            heads=self.n_head,
            kv_heads=self.n_head,
            head_dim=self.n_embd // self.n_head,
            feed_forward=FeedForward(
                intermediate_size=self.n_inner or 4 * self.n_embd,
                gated=False,
                activation=_PLAIN_ACTIVATIONS[self.activation_function],
            ),
            vocab_size=self.vocab_size,
            learned_positions=self.n_positions,
            max_context=self.n_positions,
            tied_embeddings=self.tie_word_embeddings,
            norm=NormKind.LAYER,
            biases=Biases(qkv=True, out=True, ffn=True),
            precision=self.precision(),
        )


class _OPT(_Config):
    """OPTConfig."""

    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    ffn_dim: Size
    # OPTLearnedPositionalEmbedding keeps two rows below the first position.
    max_position_embeddings: Annotated[int, Field(gt=0, le=MAX_SIZE - _OPT_OFFSET)]
    word_embed_proj_dim: Size | None = None
    activation_function: _PlainActivation = "relu"
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = Field(default=False, alias="_remove_final_layer_norm")
    layer_norm_elementwise_affine: Literal[True] = True
    enable_bias: bool = True
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _has_whole_heads(self) -> _OPT:
        _split_evenly(
            ("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads)
        )
        return self

    def model(self, name: str, sources: dict[str, str]) -> ModelSpec:
        embedding = self.word_embed_proj_dim or self.hidden_size
        return ModelSpec(
            name=name,
            sources=sources,
            family="opt",
            layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_attention_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            feed_forward=FeedForward(
                intermediate_size=self.ffn_dim,
                gated=False,
                activation=_PLAIN_ACTIVATIONS[self.activation_function],
            ),
            vocab_size=self.vocab_size,
            embedding_size=embedding if embedding != self.hidden_size else None,
            learned_positions=self.max_position_embeddings + _OPT_OFFSET,
            max_context=self.max_position_embeddings,
            tied_embeddings=self.tie_word_embeddings,
            norm=NormKind.LAYER,
            final_norm=self.do_layer_norm_before and not self.remove_final_layer_norm,
            biases=Biases(qkv=self.enable_bias, out=self.enable_bias, ffn=self.enable_bias),
            precision=self.precision(),
        )


class _GPTNeoX(_Config):
    """GPTNeoXConfig."""

    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size | None = None
    hidden_act: _PlainActivation = "gelu"
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _has_whole_heads(self) -> _GPTNeoX:
        _split_evenly(
            ("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads)
        )
        return self

    def model(self, name: str, sources: dict[str, str]) -> ModelSpec:
        return ModelSpec(
            name=name,
            sources=sources,
            family="gpt_neox",
            layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_attention_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            feed_forward=FeedForward(
                intermediate_size=self.intermediate_size,
                gated=False,
                activation=_PLAIN_ACTIVATIONS[self.hidden_act],
            ),
            vocab_size=self.vocab_size,
            max_context=self.max_position_embeddings,
            tied_embeddings=self.tie_word_embeddings,
            norm=NormKind.LAYER,
            biases=Biases(qkv=self.attention_bias, out=self.attention_bias, ffn=True),
            parallel_residual=self.use_parallel_residual,
            precision=self.precision(),
        )


class _Gated(_Config):
    """What the families around Llama share: rotary positions, RMS norms, SwiGLU."""

    model_type: str
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    # Where the key is absent the library's defaults differ by family, and are those of one
    # model (8 for Mistral and Mixtral, 32 for Qwen2 and Qwen3), so that only Llama has one.
    # Null means as many as query heads everywhere.
    num_key_value_heads: Size | None
    head_dim: Size | None = None
    intermediate_size: Size
    max_position_embeddings: Size | None = None
    hidden_act: Literal["silu"] = "silu"
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _has_whole_heads(self) -> _Gated:
        heads = self.num_attention_heads
        if self.head_dim is None:
            _split_evenly(("hidden_size", self.hidden_size), ("num_attention_heads", heads))
        if heads % self.kv_heads():
            nearest = ", ".join(map(str, _nearest_divisors(heads, self.kv_heads())))
            raise ValueError(
                f"num_key_value_heads = {self.kv_heads()} does not divide "
                f"num_attention_heads = {heads}: the nearest that do are {nearest}"
            )
        return self

    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    def window(self) -> int | None:
        return None

    def qk_norm(self) -> bool:
        return False

    def experts(self) -> Experts | None:
        return None

    def biases(self) -> Biases:
        return Biases()

    def model(self, name: str, sources: dict[str, str]) -> ModelSpec:
        return ModelSpec(
            name=name,
            sources=sources,
            family=self.model_type,
            layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            heads=self.num_attention_heads,
            kv_heads=self.kv_heads(),
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            feed_forward=FeedForward(
                intermediate_size=self.intermediate_size,
                gated=True,
                activation=Activation.SILU,
            ),
            experts=self.experts(),
            vocab_size=self.vocab_size,
            max_context=self.max_position_embeddings,
            tied_embeddings=self.tie_word_embeddings,
            norm=NormKind.RMS,
            qk_norm=self.qk_norm(),
            biases=self.biases(),
            sliding_window=self.window(),
            precision=self.precision(),
        )


class _Llama(_Gated):
    """LlamaConfig."""

    num_key_value_heads: Size | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    def biases(self) -> Biases:
        return Biases(qkv=self.attention_bias, out=self.attention_bias, ffn=self.mlp_bias)


class _Mistral(_Gated):
    """MistralConfig."""

    sliding_window: Size | None = 4096

    def window(self) -> int | None:
        return self.sliding_window


class _Mixtral(_Gated):
    """MixtralConfig."""

    num_local_experts: Size
    num_experts_per_tok: Size
    sliding_window: Size | None = None

    @model_validator(mode="after")
    def _visits_existing_experts(self) -> _Mixtral:
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok = {self.num_experts_per_tok} is more than "
                f"num_local_experts = {self.num_local_experts}"
            )
        return self

    def experts(self) -> Experts:
        return Experts(experts=self.num_local_experts, experts_per_token=self.num_experts_per_tok)

    def window(self) -> int | None:
        return self.sliding_window


class _Qwen2(_Gated):
    """Qwen2Config."""

    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    max_window_layers: int = Field(default=0, ge=0, le=MAX_SIZE)
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None

    def window(self) -> int | None:
        if not self.use_sliding_window:
            return None
        if self.layer_types is not None:
            some = "sliding_attention" in self.layer_types
        else:
            # The library's default of max_window_layers is that of one model; where the key is
            # absent every layer counts as windowed, so that nothing is assumed to be full.
            some = self.max_window_layers < self.num_hidden_layers
        return self.sliding_window if some else None

    def biases(self) -> Biases:
        return Biases(qkv=True)


class _Qwen3(_Qwen2):
    """Qwen3Config."""

    attention_bias: bool = False

    @model_validator(mode="after")
    def _has_head_dim(self) -> _Qwen3:
        # The library does not derive it for this family.
        if self.head_dim is None:
            raise ValueError("missing key 'head_dim', or null: Qwen3 states it")
        return self

    def qk_norm(self) -> bool:
        return True

    def biases(self) -> Biases:
        return Biases(qkv=self.attention_bias, out=self.attention_bias)


_FAMILIES: Final[dict[str, type[_Config]]] = {
    "gpt2": _GPT2,
    "opt": _OPT,
    "gpt_neox": _GPTNeoX,
    "llama": _Llama,
    "mistral": _Mistral,
    "qwen2": _Qwen2,
    "qwen3": _Qwen3,
    "mixtral": _Mixtral,
}
FAMILIES: Final = tuple(_FAMILIES)
"""The values of ``model_type`` that are understood."""


class _Typed(_Ignoring):
    model_type: str


def model_from_config(path: Path) -> ModelSpec:
    """Read the model that a Hugging Face ``config.json`` describes.

    The model is called like the file, or like its folder where the file is ``config.json``.

    Args:
        path: the file.

    Raises:
        DocumentError: the file is malformed, lacks a key, has a value that cannot be, or asks
            for something that is not modelled (a quantisation, an activation, cross attention).
        UnknownNameError: its ``model_type`` is not one of `FAMILIES`.
    """
    return _model_from_document(read_document(path), path)


def _model_from_document(document: Mapping[str, object], path: Path) -> ModelSpec:
    where = str(path)
    family = parse_document(_Typed, document, where=where).model_type
    if family not in _FAMILIES:
        raise UnknownNameError("model family", family, FAMILIES, where=f"{where}: model_type")
    config = parse_document(_FAMILIES[family], document, where=where)
    name = path.resolve().parent.name if path.name == CONFIG_FILE else path.stem
    sources = {"default": f"Hugging Face configuration {where}"}
    if (config.dtype or config.torch_dtype or "float32") == "float32":
        sources["precision"] = "stored in float32 or in no stated type; served in fp16"
    return config.model(name or family, sources)


def load_model(name_or_path: str, *, where: str | None = None) -> ModelSpec:
    """Return a model by the name of its preset (which comes first), or from a file or folder.

    A file is a TOML (or JSON) document of `ModelSpec`, or a Hugging Face ``config.json``, which
    a ``model_type`` tells apart; a folder is one that holds a ``config.json``.

    Args:
        name_or_path: a preset's name, or a path: anything with a slash, the suffix of a
            document, or the name of an existing folder.
        where: the option or field that the name came from, for messages.

    Raises:
        UnknownNameError: there is no such preset or model family.
        DocumentError: the file cannot be read or is malformed.
    """
    path = Path(name_or_path)
    if name_or_path in MODELS.names():
        return MODELS.load(name_or_path, where=where)
    if _is_folder(path):
        return model_from_config(path / CONFIG_FILE)
    if path.suffix == ".json":
        document = read_document(path)
        # Only documents of this project have a family; a config.json without model_type is
        # reported as one that lacks it.
        if "family" in document and "model_type" not in document:
            return parse_document(ModelSpec, document, where=str(path))
        return _model_from_document(document, path)
    if path.suffix == ".toml" or "/" in name_or_path:
        return load_document(ModelSpec, path)
    return MODELS.load(name_or_path, where=where)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}", where=str(path)) from None
