"""Models described by a Hugging Face ``config.json``.

Each class holds the keys of one family's configuration that decide its size, under the names and
with the defaults of the transformers library (class names in the docstrings). A default is taken
over only where the library treats the key as optional; the sizes it would fill in with those of
one particular model are required here. Of the other keys, those that could change what is computed
or stored are refused (`attacc.models.contradictions`); the rest is ignored. How the weights are
stored is read by `attacc.models.quantization`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from attacc.documents import BASE, Spec, keys_of, parse_document, read_document
from attacc.errors import DocumentError, UnknownNameError
from attacc.files import name_as_text
from attacc.models.architecture import (
    AS_DOCUMENT,
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
from attacc.models.contradictions import refuse_foreign_parts, refuse_other_sizes
from attacc.models.precision import ElementType, Precision
from attacc.models.quantization import QUANTIZATION_KEYS, stated_precision
from attacc.units import MAX_SIZE

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


class _Ignoring(Spec):
    # The files have keys such as model_type, in a namespace that pydantic protects.
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class _Config(_Ignoring, ABC):
    """What the configurations of all families have in common."""

    vocab_size: Size
    torch_dtype: _DType | None = None
    dtype: _DType | None = None
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None

    classes: ClassVar[str]
    """What the names of the family's classes in the transformers library begin with."""
    harmless: ClassVar[frozenset[str]] = frozenset()
    """Keys that the library ignores for this family, besides those that change nothing."""

    @model_validator(mode="after")
    def _names_one_type(self) -> _Config:
        if self.torch_dtype and self.dtype and self.torch_dtype != self.dtype:
            raise ValueError(
                f"dtype = {self.dtype!r} and torch_dtype = {self.torch_dtype!r} disagree"
            )
        return self

    def stored(self) -> ElementType:
        """Return the element type of whatever is not quantised.

        Weights saved in float32, or in no stated type (which means float32), are served in fp16.
        """
        return _SERVED[self.dtype or self.torch_dtype or "float32"]

    @abstractmethod
    def model(self, name: str, sources: dict[str, str], precision: Precision) -> ModelSpec:
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

    classes = "GPT2"

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

    def model(self, name: str, sources: dict[str, str], precision: Precision) -> ModelSpec:
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
            precision=precision,
        )


class _OPT(_Config):
    """OPTConfig."""

    classes = "OPT"

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

    def model(self, name: str, sources: dict[str, str], precision: Precision) -> ModelSpec:
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
            precision=precision,
        )


class _GPTNeoX(_Config):
    """GPTNeoXConfig."""

    classes = "GPTNeoX"

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

    def model(self, name: str, sources: dict[str, str], precision: Precision) -> ModelSpec:
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
            precision=precision,
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

    def model(self, name: str, sources: dict[str, str], precision: Precision) -> ModelSpec:
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
            precision=precision,
        )


class _Llama(_Gated):
    """LlamaConfig."""

    classes = "Llama"

    num_key_value_heads: Size | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    def biases(self) -> Biases:
        return Biases(qkv=self.attention_bias, out=self.attention_bias, ffn=self.mlp_bias)


class _Mistral(_Gated):
    """MistralConfig."""

    classes = "Mistral"

    sliding_window: Size | None = 4096

    def window(self) -> int | None:
        return self.sliding_window


class _Mixtral(_Gated):
    """MixtralConfig."""

    classes = "Mixtral"

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

    classes = "Qwen2"
    # Its query, key and value always have biases, its output never.
    harmless = frozenset({"attention_bias", "qkv_bias"})

    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    max_window_layers: int = Field(default=0, ge=0, le=MAX_SIZE)

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

    classes = "Qwen3"
    harmless = frozenset()

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

_HUB_PREFIX: Final = "models--"
_NO_DESCRIPTIONS: Final = {
    ".gguf": "a GGUF file of weights",
    ".safetensors": "a safetensors file of weights",
    ".bin": "a file of weights",
    ".pt": "a PyTorch file of weights",
    ".pth": "a PyTorch file of weights",
    ".onnx": "an ONNX graph",
    ".zip": "an archive",
    ".tar": "an archive",
    ".gz": "an archive",
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
}
"""Suffixes of files that people have of a model, and that do not tell its sizes here."""


class _Typed(_Ignoring):
    model_type: str


def model_from_config(path: Path) -> ModelSpec:
    """Read the model that a Hugging Face ``config.json`` describes.

    The model is called like the file, or like its folder where the file is ``config.json``; in
    the cache of the Hugging Face Hub like its repository, as in "org/name".

    Args:
        path: the file. Files beside it that state a quantisation are read too.

    Raises:
        DocumentError: the file is malformed, lacks a key, has a value that cannot be, or asks
            for something that is not modelled (a quantisation, an activation, cross attention,
            a key that contradicts its family).
        UnknownNameError: its ``model_type`` is not one of `FAMILIES`.
    """
    return _model_from_document(read_document(path), path)


def _model_from_document(document: Mapping[str, object], path: Path) -> ModelSpec:
    where = str(path)
    family = parse_document(_Typed, document, where=where).model_type
    if family not in _FAMILIES:
        raise UnknownNameError(
            "model family",
            family,
            FAMILIES,
            where=f"{where}: model_type",
            # Names that are near are other architectures: qwen3_moe is no qwen3.
            hint=f"{AS_DOCUMENT}; the families that are read from a config.json are "
            + ", ".join(sorted(FAMILIES)),
        )
    spec = _FAMILIES[family]
    read = frozenset(keys_of(spec))
    refuse_foreign_parts(
        document,
        family=family,
        classes=spec.classes,
        read=read | spec.harmless | QUANTIZATION_KEYS,
        where=where,
    )
    config = parse_document(spec, document, where=where)
    stated = stated_precision(document, path)
    stored = config.stored()
    precision = Precision(
        weights=stated.weights or stored, activations=stored, kv=stated.kv or stored
    )
    sources = {"default": f"Hugging Face configuration {name_as_text(where)}"}
    notes = [f"quantised as stated in {name_as_text(place)}" for place in stated.where]
    if (config.dtype or config.torch_dtype or "float32") == "float32":
        notes.append("stored in float32 or in no stated type; served in fp16")
    if notes:
        sources["precision"] = "; ".join(notes)
    model = config.model(name_as_text(_name_of(path)) or family, sources, precision)
    refuse_other_sizes(document, model, read=read, where=where)
    _check_layer_types(config, model, where)
    return model


def _check_layer_types(config: _Config, model: ModelSpec, where: str) -> None:
    """Refuse a list of layers that does not describe the model as it was read."""
    types = config.layer_types
    if types is None:
        return
    if len(types) != model.layers:
        raise DocumentError(
            f"layer_types has {len(types)} entries, and the model {model.layers} layers",
            where=where,
            hint="give one entry per layer, or remove the key",
        )
    if ("sliding_attention" in types) != (model.sliding_window is not None):
        shown = ", ".join(dict.fromkeys(types))
        raise DocumentError(
            f"layer_types names {shown}, while by the other keys of the family "
            f"{model.family!r} the window is {model.sliding_window or 'not in use'}",
            where=where,
            hint=f"correct one of the keys, or {AS_DOCUMENT}",
        )


def _name_of(path: Path) -> str:
    """Return what the model of a file is called; empty for a ``config.json`` at the root.

    Links are not followed: in the cache of the Hugging Face Hub every file is one, to a name that
    means nothing.
    """
    if path.name != CONFIG_FILE:
        return path.stem
    folder = Path.cwd() / path.parent
    if ".." in folder.parts:  # the parent of where a link leads to, not of the link
        parts = folder.parts
        last = len(parts) - parts[::-1].index("..")
        folder = Path(*parts[:last]).resolve().joinpath(*parts[last:])
    repository, kind = folder.parts[-3:-1] if len(folder.parts) > 3 else ("", "")
    if kind == "snapshots" and repository.startswith(_HUB_PREFIX):
        return repository.removeprefix(_HUB_PREFIX).replace("--", "/")
    return folder.name


def load_model(
    source: str | Path | Mapping[str, object] | ModelSpec,
    *,
    weights: ElementType | str | None = None,
    activations: ElementType | str | None = None,
    kv: ElementType | str | None = None,
    where: str | None = None,
) -> ModelSpec:
    """Return a model by the name of its preset (which comes first), or from a file or folder.

    A file is a TOML (or JSON) document of `ModelSpec`, or a Hugging Face ``config.json``, which
    a ``model_type`` tells apart; a folder is one that holds a ``config.json``. No model hub is
    asked for a name.

    Args:
        source: a preset's name, or a path: anything with a slash, the suffix of a document, or
            the name of an existing folder; a document as a mapping; or a model that is loaded
            already.
        weights: element type of the parameters; None for the model's own, likewise the others.
        activations: of what flows between operators.
        kv: of the key/value cache.
        where: the option or field that the name came from, for messages.

    Raises:
        UnknownNameError: there is no such preset or model family.
        DocumentError: the file cannot be read or is malformed.
        InputError: an element type is of no use where it is asked for.
    """
    if isinstance(source, str | Path):
        model = _load(str(source), where)
    else:
        model = MODELS.load_any(source, where=where)
    asked = {"weights": weights, "activations": activations, "kv": kv}
    changes = {name: str(element) for name, element in asked.items() if element is not None}
    if not changes:
        return model
    document = {name: str(element) for name, element in model.precision} | changes
    precision = parse_document(Precision, document, where="precision")
    return model.model_copy(update={"precision": precision})


def _load(name_or_path: str, where: str | None) -> ModelSpec:
    path = Path(name_or_path)
    if name_or_path in MODELS.names():
        return MODELS.load(name_or_path, where=where)
    if _is_folder(path):
        return model_from_config(_config_in(path))
    if path.suffix.lower() in _NO_DESCRIPTIONS:
        raise DocumentError(
            f"is {_NO_DESCRIPTIONS[path.suffix.lower()]}, which is not read",
            where=str(path),
            hint="give the config.json of the model, or its folder, or a TOML document "
            "(docs/howto/models.md), or a preset's name",
        )
    if path.suffix == ".json":
        document = read_document(path)
        # Only documents of this project have a family; a config.json without model_type is
        # reported as one that lacks it.
        if {"family", BASE} & set(document) and "model_type" not in document:
            return MODELS.parse(MODELS.completed(document, path), path)
        return _model_from_document(document, path)
    if path.suffix == ".toml" or path.is_file():
        return MODELS.load_file(path)
    if "/" in name_or_path:
        raise DocumentError(
            "no such file or folder, and no model hub is asked",
            where=f"{where}: {name_or_path}" if where else name_or_path,
            hint="download the model's config.json and give its path, or name a preset: "
            + ", ".join(MODELS.names()),
        )
    return MODELS.load(name_or_path, where=where)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _config_in(folder: Path) -> Path:
    """Return the ``config.json`` of a folder.

    Raises:
        DocumentError: it has none.
    """
    path = folder / CONFIG_FILE
    if path.is_file():
        return path
    revisions = sorted(folder.glob(f"snapshots/*/{CONFIG_FILE}"))
    raise DocumentError(
        "no such file in this folder",
        where=str(path),
        hint=f"give the folder of a revision: {revisions[0].parent}"
        if revisions
        else "give a folder that holds the config.json of a model, or a TOML document",
    )
