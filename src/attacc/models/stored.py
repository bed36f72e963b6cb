"""Element formats that a published checkpoint states, module by module.

Tools that quantise write what they did in different places: in ``config.json``, inside its language
part, or in a file beside it. Every place that is known is looked into. What is stated there is
either read, or refused by file, key and value. Nothing counts as 16 bits because it was not
understood.

Checkpoints name modules in their own ways. One table (`_BLOCKS`, `_LEAVES`) has the spellings of
each name of `attacc.models.weights`; lists of modules are matched against all of them. The meaning
of the forms follows reference/model-architectures.md, section 5.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, cast

from pydantic import ConfigDict, Field

from attacc.documents import Spec, parse_document, read_document
from attacc.errors import DocumentError
from attacc.files import name_as_text
from attacc.models.architecture import AS_DOCUMENT
from attacc.models.formats import (
    BF16,
    EMBEDDING,
    FP8,
    FP8_BLOCK,
    FP8_CHANNEL,
    FP16,
    INT8,
    LLM_INT8,
    MXFP4,
    MXFP8,
    NF4,
    NF4_DOUBLE,
    NVFP4,
    ElementFormat,
    Rule,
    WeightFormats,
    awq,
    fp8_block,
    gptq,
    int_groups,
    is_plain,
    may_be_narrow,
    mlx,
)
from attacc.models.layers import LayeredModel
from attacc.models.weights import Part, Weight

_TABLES: Final = ("quantization_config", "compression_config", "quantization")
_FLAT: Final = (
    "quant_method",
    "quant_algo",
    "moe_quant_algo",
    "bits",
    "w_bit",
    "config_groups",
    "quantized_layers",
    "kv_cache_scheme",
    "kv_cache_quant_algo",
)
_FLAT_BESIDE: Final = (
    "group_size",
    "q_group_size",
    "weight_block_size",
    "zero_point",
    "desc_act",
    "sym",
    "dynamic",
    "ignore",
    "ignored_layers",
    "exclude_modules",
    "modules_to_not_convert",
)
_EXPERTS_KEY: Final = "expert_dtype"
_REFUSED: Final = ("quip_params", "load_in_4bit", "load_in_8bit", "sparsity_config")
QUANTIZATION_KEYS: Final = frozenset((*_TABLES, *_FLAT, *_FLAT_BESIDE, *_REFUSED, _EXPERTS_KEY))
"""The keys of a ``config.json``, or of its language part, that are read or refused here."""

_OUT: Final = (
    f"{AS_DOCUMENT}, or remove the statement and give the types in the precision of the study "
    "(--weights, --kv)"
)
_MLX: Final = "mlx"
_FP8_METHODS: Final = ("fp8", "fbgemm_fp8")
_COMPRESSED: Final = "compressed-tensors"
_MODELOPT: Final = "modelopt"
_METHODS: Final = (*_FP8_METHODS, "gptq", "awq", "bitsandbytes", "mxfp4", _COMPRESSED, _MODELOPT)
_MIXED: Final = "MIXED_PRECISION"
_GROUPED: Final = 128
"""Inputs of a group where GPTQ, AWQ and ModelOpt's forms of int4 leave it to their default."""

# ModelOpt's and TensorRT-LLM's names of algorithms, by the form of the weights. A function takes
# the size of a group.
_ALGORITHMS: Final[Mapping[str, ElementFormat]] = {
    "FP8": FP8,
    "FP8_PB_WO": FP8_BLOCK,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8_CHANNEL,
    "NVFP4": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "W4A8_NVFP4_FP8": NVFP4,
    "MXFP4": MXFP4,
    "W4A8_MXFP4_FP8": MXFP4,
    "MXFP8": MXFP8,
    "INT8_SQ": int_groups(8, None),
    "W8A8_SQ_PER_CHANNEL": int_groups(8, None),
    "W8A16": int_groups(8, None),
}
_INT4_ALGORITHMS: Final = ("INT4_AWQ", "W4A16", "W4A16_AWQ", "W4A16_GPTQ", "W4A8_AWQ")
_KV: Final = {
    "fp8": FP8,
    "fp8_e4m3": FP8,
    "fp8_e5m2": FP8,
    "int8": INT8,
    "nvfp4": NVFP4,
}
_EXPERT_TYPES: Final[Mapping[str, ElementFormat | None]] = {
    "fp4": MXFP4,
    "mxfp4": MXFP4,
    "nvfp4": NVFP4,
    "bf16": None,
    "bfloat16": None,
}
_WIDE: Final = {
    "bfloat16": BF16,
    "bf16": BF16,
    "float16": FP16,
    "fp16": FP16,
    "half": FP16,
    "float32": FP16,
    "fp32": FP16,
    "float": FP16,
    "float8_e4m3fn": FP8,
    "float8_e5m2": FP8,
}

# Keys of a table about a quantisation that do not change the bytes of its weights.
_HARMLESS: Final = frozenset({
    "activation_scheme", "backend", "batch_size", "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage", "cache_block_outputs", "checkpoint_format", "damp_percent", "dataset",
    "desc_act", "disable_exllama", "do_fuse", "exllama_config", "fmt", "global_compression_ratio",
    "is_marlin_format", "llm_int8_enable_fp32_cpu_offload", "llm_int8_threshold", "meta",
    "model_file_base_name", "model_name_or_path", "model_seqlen", "modules_to_fuse", "pack_dtype",
    "producer", "quantization_status", "quantizer", "static_groups", "sym", "tokenizer",
    "true_sequential", "use_cuda_fp16", "use_exllama", "version",
})  # fmt: skip
_SUSPICIOUS: Final = re.compile(
    "bit|group|layer|module|type|rank|codebook|spars|target|quant|scheme|format|block|overrid"
    "|dynamic|config|weight|ignore|exclude|skip|expert|kv|algo|load_in|zero_point|rotat|transform|outlier"
)
_ABSENT: Final[tuple[object, ...]] = (None, False, "", [], {})
_DENSE: Final = {"format": "dense"}

# The files beside a config.json, with the method that their form implies.
_FILES: Final = {
    "hf_quant_config.json": None,
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": None,
}
_NESTED: Final = "hf_quant_config.json"
_RECIPES: Final = ("recipe.yaml", "recipe.yml")
_OTHER_FILE: Final = re.compile(r".*quant.*\.(json|ya?ml)", re.IGNORECASE)

# --- Names ----------------------------------------------------------------------------------------

_MIXERS: Final = ("self_attn", "attn", "self_attention", "attention", "mixer")
_FEED_FORWARD: Final = ("mlp", "ffn", "feed_forward", "block_sparse_moe", "moe", "mixer")
_BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "self_attn": _MIXERS,
    "attn": _MIXERS,
    "linear_attn": ("linear_attn",),
    "mixer": ("mixer", "mamba"),
    "mlp": _FEED_FORWARD,
}
"""First part of a weight's name -> how checkpoints spell it."""
_LEAVES: Final[Mapping[str, tuple[str, ...]]] = {
    "gate_proj": ("gate_proj", "w1", "gate_up_proj"),
    "up_proj": ("up_proj", "w3", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h", "fc_in"),
    "down_proj": ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h", "fc_out"),
    "gate": ("gate", "router", "router.proj", "router.layer", "gate.wg"),
    "q_proj": ("q_proj", "qkv_proj", "query_key_value", "c_attn", "wq", "W_pack"),
    "k_proj": ("k_proj", "qkv_proj", "query_key_value", "c_attn", "wk", "W_pack"),
    "v_proj": ("v_proj", "qkv_proj", "query_key_value", "c_attn", "wv", "W_pack"),
    "o_proj": ("o_proj", "out_proj", "dense", "c_proj", "wo"),
    "q_a_proj": ("q_a_proj", "fused_qkv_a_proj_with_mqa", "wq_a"),
    "q_b_proj": ("q_b_proj", "wq_b"),
    "kv_a_proj_with_mqa": ("kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa", "wkv_a"),
    "kv_b_proj": ("kv_b_proj", "wkv_b"),
    # GLM's lists lack ".weight" in the middle of this one.
    "indexer.weights_proj": ("indexer.weights_proj", "indexers_proj"),
    "wq_a": ("wq_a", "q_a_proj"),
    "wq_b": ("wq_b", "q_b_proj"),
    "wkv": ("wkv", "kv_proj"),
    "wo_a": ("wo_a", "o_a_proj"),
    "wo_b": ("wo_b", "o_b_proj"),
    "in_proj_qkv": ("in_proj_qkv", "in_proj_qkvz"),
    "in_proj_z": ("in_proj_z", "in_proj_qkvz"),
    "in_proj_b": ("in_proj_b", "in_proj_ba"),
    "in_proj_a": ("in_proj_a", "in_proj_ba"),
    "latent_in": ("latent_in", "fc1_latent_proj"),
    "latent_out": ("latent_out", "fc2_latent_proj"),
}
"""The rest of a weight's name -> how checkpoints spell it."""
_EXPERTS: Final = ("experts.0", "experts")
"""The experts of a layer: each by a number, for which 0 stands here, or all in one tensor."""
_MLX_EXPERTS: Final = "mlp.switch_mlp"
"""MLX's name of all experts of a layer in one tensor."""
_SHARED: Final = ("shared_experts", "shared_expert", "share_expert")
_JOINED: Final[Mapping[str, str]] = {
    "gate_up_proj": "gate_up",
    "qkv_proj": "qkv",
    "query_key_value": "query_key",
    "c_attn": "c_attn",
    "W_pack": "W_pack",
    "fused_qkv_a_proj_with_mqa": "qkv",
    "in_proj_qkvz": "qkvz",
    "in_proj_ba": "in_proj_ba",
}
"""Spellings of several weights in one tensor -> what a pattern must contain to mean them: a pattern
for "gate" does not mean the matrix beside it."""
_KDA: Final[Mapping[str, tuple[str, ...]]] = {
    "in_proj_qkv": ("q_proj", "k_proj", "v_proj"),
    "in_proj_z": ("g_proj",),
    "in_proj_b": ("b_proj",),
    "out_proj": ("o_proj",),
}
"""Kimi's names of the matrices of its delta attention, which it calls self_attn as well."""
_KDA_MARK: Final = "linear_attn.f_a_proj"
_OUTSIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "lm_head": (
        "lm_head", "language_model.lm_head", "model.lm_head", "head", "output", "embed_out",
    ),
    EMBEDDING: (
        "model.embed_tokens", "embed_tokens", "language_model.model.embed_tokens",
        "model.language_model.embed_tokens", "embed", "model.embed", "backbone.embeddings",
        "transformer.wte", "wte", "word_embeddings",
    ),
}  # fmt: skip
_PREFIXES: Final = (
    "model.layers.",
    "layers.",
    "language_model.model.layers.",
    "model.language_model.layers.",
    "backbone.layers.",
)
_IN_LAYER: Final = re.compile(
    r"(?:(?:model|language_model|text_model|transformer|decoder|backbone|gpt_neox)\.)*"
    r"(?:layers|h|blocks)\.(?:(\d{1,6})|\*)(?:\.(.*))?"
)
_NUMBERED: Final = re.compile(r"(?:layers|h|blocks)\\?\.(\d{1,6})(?!\d)")
_EXPERT_NUMBER: Final = re.compile(r"(?<=experts\.)\d{1,6}(?=\.|$)")
_ELSEWHERE: Final = re.compile(
    r"visual|vision|vit\b|projector|patch_m|patch_e|embed_vision|embed_audio|audio|image|speech"
    r"|mtp|nextn|eagle|draft|eh_proj|enorm|hnorm|shared_head|mm_"
)
"""Names of parts that are counted apart: of pictures and sound, and of layers for drafting."""
_NOT_LINEAR: Final = re.compile(
    r"(.*[._])?(\w*norm\w*|ln_\w+|bias|\w*_bias|conv1d|\w+_conv|A_log|D|sinks?|attn_sink|ape|scale"
    r"|rotary_emb|inv_freq|act_fn|e_score_correction\w*|wpe|embed_positions|position_embeddings)"
)
"""Names of what is no linear layer, and is not quantised anyway."""
_MOST_DRAFT_LAYERS: Final = 16
_MOST_CHARACTERS: Final = 500
_TOKEN: Final = re.compile(r"\\[dw.\-/]|\[\^?[\w.\-\\]+\]|\(\?:|[\w\-/:,]|[()|^$]|\.\*|\.\+|[.+*?]")
_QUANTIFIED: Final = ("\\d", "\\w", ".")
_MOST_QUANTIFIED: Final = 3
_PLAIN_REGEX: Final = re.compile(r"\^?(?:[\w\-]|\\[.\-]|\.\*|\.(?![*+?]))*\$?")

_Key = tuple[int | None, str]
_Test = Callable[[str], bool]


def _spellings(weights: Iterable[Weight]) -> list[tuple[str, str, str | None]]:
    """Return how the weights of a layer are spelt, whose they are, and which share of it it is."""
    names = [weight.name for weight in weights]
    found: list[tuple[str, str, str | None]] = []
    for name in names:
        block, _, rest = name.partition(".")
        start, _, leaf = rest.rpartition(".")
        blocks = _BLOCKS.get(block, (block,))
        if start == "experts.*":
            rests = [f"{one}.{last}" for one in _EXPERTS for last in _LEAVES.get(leaf, (leaf,))]
        elif start == "shared_experts":
            rests = [f"{one}.{last}" for one in _SHARED for last in _LEAVES.get(leaf, (leaf,))]
        else:
            rests = list(_LEAVES.get(rest, (rest,)))
        found += [(f"{one}.{last}", name, None) for one in blocks for last in rests]
        if start == "experts.*" or rest == "gate":
            # Gemma has its experts and their router beside the block, and not inside.
            found += [(last, name, None) for last in rests]
        if block == "linear_attn" and _KDA_MARK in names:
            shares = _KDA.get(rest, (rest,))
            found += [
                (f"{one}.{share}", name, share if len(shares) > 1 else None)
                for one in ("self_attn", "linear_attn")
                for share in shares
            ]
    return found


class _Names:
    """The weights of a model that may be quantised, found by the names of checkpoints."""

    def __init__(self, model: LayeredModel) -> None:
        self.weights: dict[_Key, Weight] = {
            (None, weight.name): weight for weight in model.outside() if may_be_narrow(weight)
        }
        self._kinds: list[list[tuple[str, str, str | None]]] = []
        self._kind_of: list[int] = []
        self._found: dict[tuple[int, str], tuple[tuple[str, str | None], ...]] = {}
        for first, layer in model.each_layer():
            weights = [weight for weight in model.of_layer(layer) if weight.linear]
            for number in range(first, first + layer.repeat):
                self.weights |= {(number, weight.name): weight for weight in weights}
            spelt = _spellings(weights)
            if spelt not in self._kinds:
                self._kinds.append(spelt)
            self._kind_of += [self._kinds.index(spelt)] * layer.repeat

    @property
    def layers(self) -> int:
        """All layers."""
        return len(self._kind_of)

    def chosen(self, patterns: Iterable[str], where: str) -> tuple[set[_Key], list[str]]:
        """Return the weights that some patterns name, and those patterns that name none.

        Raises:
            DocumentError: a pattern is not understood, names weights of a layer that are not
                known, or patterns name a share of matrices that have one format here.
        """
        shares: dict[_Key, set[str] | None] = {}
        idle: list[str] = []
        for pattern in patterns:
            found = self._named(pattern, where)
            if not found and not self._is_known(pattern, where):
                idle.append(pattern)
            for key, share in found:
                if share is None:
                    shares[key] = None
                elif (so_far := shares.setdefault(key, set())) is not None:
                    so_far.add(share)
        for (layer, name), some in shares.items():
            if some is None:
                continue
            whole = self.weights[layer, name].count
            whole = len(_KDA["in_proj_qkv"]) if whole == 1 and not _is_number(some) else whole
            if len(some) < whole:
                raise DocumentError(
                    f"names {len(some)} of the {whole} matrices of {name} in layer {layer} "
                    f"({', '.join(sorted(some)[:3])}), which have one format here",
                    where=where,
                    hint=_OUT,
                )
        return set(shares), idle

    def _named(self, pattern: str, where: str) -> list[tuple[_Key, str | None]]:
        """Return the weights that one pattern names, each with the share of it."""
        if len(pattern) > _MOST_CHARACTERS:
            raise DocumentError(f"names {pattern!r:.80}, which is no name", where=where, hint=_OUT)
        text = pattern.strip().removesuffix(".weight")
        if text.startswith("re:"):
            return self._by_regex(text.removeprefix("re:"), where)
        return self._by_name(text)

    def _by_regex(self, regex: str, where: str) -> list[tuple[_Key, str | None]]:
        if _PLAIN_REGEX.fullmatch(regex):
            return self._by_name(_as_glob(regex))
        test = re.compile(_safe_regex(regex, where)).match
        same = regex.startswith(".*") and not re.search(r"[0-9\[]|\\d(?!\+)", regex)
        return self._everywhere(lambda name: test(name) is not None, f"*{regex}", same=same)

    def _by_name(self, text: str) -> list[tuple[_Key, str | None]]:
        if inside := _IN_LAYER.fullmatch(text):
            number, rest = inside.groups()
            if number is not None and int(number) >= self.layers:
                return []
            layers = range(self.layers) if number is None else (int(number),)
            return [
                ((layer, name), share)
                for layer in layers
                for name, share in self._in_kind(self._kind_of[layer], rest or "*")
            ]
        outside: list[tuple[_Key, str | None]] = []
        if not _has_wildcard(text):
            outside = [(key, None) for key in self._outside(lambda name: name == text)]
            return outside + [
                ((layer, name), share)
                for layer, kind in enumerate(self._kind_of)
                for name, share in self._in_kind(kind, text, anywhere=True)
            ]
        return self._everywhere(
            _glob(text), text, same=text.startswith("*") and not re.search(r"[0-9\[?]", text)
        )

    def _outside(self, test: _Test) -> Iterator[_Key]:
        for layer, name in self.weights:
            if layer is None and any(test(one) for one in _OUTSIDE.get(name, (name,))):
                yield None, name

    def _meant(self, kind: int, text: str) -> Iterator[tuple[str, str, str | None]]:
        """Yield the spellings of a kind of layer that a pattern may mean."""
        for entry in self._kinds[kind]:
            joined = _JOINED.get(entry[0].rpartition(".")[2])
            if joined is None or joined in text:
                yield entry

    def _everywhere(self, test: _Test, text: str, *, same: bool) -> list[tuple[_Key, str | None]]:
        """Return all whose whole name meets a test.

        Args:
            test: of a name.
            text: the pattern that it tests for.
            same: the test does not look at prefixes and at numbers of layers.
        """
        found: list[tuple[_Key, str | None]] = [(key, None) for key in self._outside(test)]
        prefixes = _PREFIXES[:1] if same else _PREFIXES
        known: dict[int, list[tuple[str, str | None]]] = {}
        for layer, kind in enumerate(self._kind_of):
            starts = [f"{prefix}{layer}" for prefix in prefixes]
            starts = [one for one in starts if _fits(f"{one}.", text)]
            if kind not in known or not same:
                known[kind] = [
                    (name, share)
                    for spelling, name, share in self._meant(kind, text)
                    if any(test(f"{start}.{spelling}") for start in starts)
                ]
            found += [((layer, name), share) for name, share in known[kind]]
        return found

    def _in_kind(
        self, kind: int, rest: str, *, anywhere: bool = False
    ) -> list[tuple[str, str | None]]:
        """Return the weights of a kind of layer that the rest of a name means.

        Args:
            kind: of layer.
            rest: of the name, behind the number of the layer.
            anywhere: the rest may be a part in the middle of a name.
        """
        number = _EXPERT_NUMBER.search(rest)
        if number is not None:
            rest = _EXPERT_NUMBER.sub("0", rest)
        place = (kind, f".{rest}" if anywhere else rest)
        if place not in self._found:
            if _has_wildcard(rest):
                test = _glob(rest)
            elif anywhere:
                test: _Test = lambda name: f".{rest}." in f".{name}."  # noqa: E731
            else:
                test = lambda name: name == rest or name.startswith(f"{rest}.")  # noqa: E731
            self._found[place] = tuple(
                (name, share) for spelling, name, share in self._meant(kind, rest) if test(spelling)
            )
        if number is None:
            return list(self._found[place])
        return [(name, number.group()) for name, _ in self._found[place]]

    def _is_known(self, pattern: str, where: str) -> bool:
        """Say whether a pattern that names none of the weights has a reason for it.

        Raises:
            DocumentError: it names weights of a layer, and they are not known.
        """
        text = pattern.strip().removesuffix(".weight").removeprefix("re:")
        if _ELSEWHERE.search(text) or _NOT_LINEAR.fullmatch(text.rstrip("*.$")):
            return True
        if any(text in spellings for spellings in _OUTSIDE.values()):
            return True  # a tied output head
        if _has_wildcard(text) and "layers" not in text:
            return False
        number = _NUMBERED.search(text)
        if number is None:
            return False
        layer = int(number.group(1))
        if self.layers <= layer < self.layers + _MOST_DRAFT_LAYERS:
            return True
        inside = _IN_LAYER.fullmatch(text)
        rest = inside.group(2) if inside else None
        kinds = range(len(self._kinds)) if layer < self.layers and rest else ()
        if any(self._in_kind(kind, rest or "") for kind in kinds):
            return False
        raise DocumentError(
            f"names {pattern!r}, which is none of the weights of the model of {self.layers} layers",
            where=where,
            hint=f"correct the name, or {AS_DOCUMENT}",
        )


def _is_number(shares: set[str]) -> bool:
    return all(share.isdigit() for share in shares)


def _has_wildcard(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _fits(start: str, text: str) -> bool:
    """Say whether names that start so may be meant by a pattern with stars."""
    literal = re.split(r"[*?\[]", text, maxsplit=1)[0]
    return start.startswith(literal) or literal.startswith(start)


def _glob(text: str) -> _Test:
    """Return the test whether a name, or a module around it, is meant by a pattern with stars."""
    own = re.compile(fnmatch.translate(text))
    around = re.compile(fnmatch.translate(f"{text}.*"))
    return lambda name: own.match(name) is not None or around.match(name) is not None


def _as_glob(regex: str) -> str:
    """Return a regular expression of literal characters and ``.*`` as a pattern with stars."""
    end = "" if regex.endswith(("$", ".*")) else "*"
    text = regex.removeprefix("^").removesuffix("$").replace(".*", "*").replace("\\.", "\0")
    return text.replace(".", "?").replace("\0", ".").replace("\\-", "-") + end


def _safe_regex(regex: str, where: str) -> str:
    """Return an equal regular expression that takes little time on any name.

    Wildcards outside of parentheses are satisfied by the first match of what follows, which
    excludes that a match takes exponential time.

    Raises:
        DocumentError: it has other things than characters, classes, alternatives and wildcards.
    """
    marks = _TOKEN.findall(regex)
    depth = quantified = 0
    pieces, piece, fault = list[str](), "", "".join(marks) != regex
    for before, mark in zip(["", *marks], marks, strict=False):
        depth += mark.startswith("(") - (mark == ")")
        if mark in ("+", "*", ".+"):
            quantified += 1
            fault |= mark != ".+" and before not in _QUANTIFIED and not before.startswith("[")
        fault |= depth < 0 or (mark == ".*" and depth > 0) or (mark == "|" and depth == 0)
        fault |= mark == "?" and before in ("", "*", "+", "?", ".*", ".+", "(", "|")
        if mark == ".*":
            pieces.append(piece)
            piece = ""
        else:
            piece += mark
    pieces.append(piece)
    if fault or depth or quantified > _MOST_QUANTIFIED:
        raise DocumentError(
            f"names modules by {'re:' + regex!r:.80}, a regular expression that is not read",
            where=where,
            hint=f"use names, * and alternatives in parentheses, or {AS_DOCUMENT}",
        )
    return pieces[0] + "".join(f"(?>.*?{one})" for one in pieces[1:] if one)


# --- Statements -----------------------------------------------------------------------------------

_Count = Annotated[int, Field(ge=-1, le=2**20)]
_Bits = Annotated[int, Field(ge=0, le=64)]
_FractionalBits = Annotated[float, Field(ge=0, le=64)]
_Side = Annotated[int, Field(gt=0, le=2**20)]
_Patterns = tuple[str, ...] | None


class _Ignoring(Spec):
    model_config = ConfigDict(extra="ignore")


class _Numbers(_Ignoring):
    """How numbers are stored, in compressed-tensors' terms."""

    num_bits: _Bits | None = None
    type: str = "int"
    strategy: str | None = None
    group_size: _Count | None = None
    block_structure: tuple[_Side, _Side] | None = None
    symmetric: bool = True
    scale_dtype: str | None = None
    actorder: str | bool | None = None


class _Group(_Ignoring):
    """Layers that are quantised alike, in compressed-tensors' terms."""

    weights: _Numbers | None = None
    targets: _Patterns = None
    format: str | None = None


class _Own(_Ignoring):
    """What ModelOpt states of one module."""

    quant_algo: str | None = None
    group_size: _Count | None = None


class _Statement(_Ignoring):
    """One table that states a quantisation, of any of the tools."""

    quant_method: str | None = None
    quant_algo: str | None = None
    moe_quant_algo: str | None = None
    quantized_layers: dict[str, _Own] | None = None
    bits: _FractionalBits | None = None
    w_bit: _FractionalBits | None = None
    group_size: _Count | None = None
    q_group_size: _Count | None = None
    mode: str | None = None
    format: str | None = None
    weight_block_size: tuple[_Side, _Side] | None = None
    scale_fmt: str | None = None
    zero_point: bool = True
    load_in_4bit: bool | None = None
    load_in_8bit: bool | None = None
    bnb_4bit_quant_type: str = "fp4"
    bnb_4bit_use_double_quant: bool = False
    config_groups: dict[str, _Group] | None = None
    kv_cache_scheme: str | _Numbers | None = None
    kv_cache_quant_algo: str | None = None
    ignore: _Patterns = None
    ignored_layers: _Patterns = None
    exclude_modules: _Patterns = None
    modules_to_not_convert: _Patterns = None
    llm_int8_skip_modules: _Patterns = None
    modules_in_block_to_quantize: tuple[tuple[str, ...], ...] | None = None

    def patterns(self, *keys: str) -> dict[str, tuple[str, ...]]:
        """Return the lists of modules of these keys, those that have any."""
        lists: dict[str, tuple[str, ...] | None] = {key: getattr(self, key) for key in keys}
        return {key: names for key, names in lists.items() if names}


_BASE_LISTS: Final = ("modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules")
_OVER_LISTS: Final = ("ignore", "exclude_modules")


@dataclass(slots=True)
class _Reading:
    """What one statement says.

    Attributes:
        where: it stands.
        formats: of the weights that it speaks of; None for the wide format.
        default: of linear layers.
        named: weights that it gives a format by name.
        kv: of keys and values.
        notes: what a reader of the numbers should know.
    """

    where: str
    formats: dict[_Key, ElementFormat | None] = field(
        default_factory=dict[_Key, ElementFormat | None]
    )
    default: ElementFormat | None = None
    named: set[_Key] = field(default_factory=set[_Key])
    kv: ElementFormat | None = None
    notes: list[str] = field(default_factory=list[str])


def stated_formats(
    document: Mapping[str, object],
    text_document: Mapping[str, object],
    path: Path,
    model: LayeredModel,
) -> WeightFormats:
    """Return the formats that a ``config.json`` and the files beside it state.

    Args:
        document: the parsed ``config.json``.
        text_document: its language part; the document itself where it has none.
        path: its path, as given: the files beside it are looked for there. For a file called
            ``NAME_config.json`` they begin with ``NAME_``.
        model: the model that was read from it.

    Raises:
        DocumentError: a quantisation that is not read, names that are not known, or two statements
            that disagree.
    """
    names = _Names(model)
    wide, notes = _wide_of(document, text_document, str(path))
    kimi = "kimi" in str(text_document.get("model_type", "")).lower()
    readings = [
        _Reader(names, where, table, method, kimi=kimi).read()
        for where, table, method in _statements(document, text_document, path)
    ]
    merged = _merged(readings, str(path))
    experts = _expert_statement(document, text_document, str(path))
    if experts is not None:
        _give_experts(merged, readings, names, experts)
    default = next((r.default for r in readings if r.default is not None), None)
    places = [r.where for r in readings if r.formats or r.kv is not None]
    if experts is not None:
        places.append(experts[0])
    return WeightFormats(
        default=default or wide,
        wide=wide,
        rules=_rules(merged, names, default),
        kv=_agreed_kv({r.where: r.kv for r in readings if r.kv is not None}, str(path)),
        places=tuple(dict.fromkeys(map(name_as_text, places))),
        notes=tuple(dict.fromkeys([*notes, *(note for r in readings for note in r.notes)])),
    )


def _wide_of(
    document: Mapping[str, object], text: Mapping[str, object], where: str
) -> tuple[ElementFormat, list[str]]:
    """Return the format of what is not quantised, and a note where it was not taken as stated."""
    for part in (text, document):
        stated = {key: part[key] for key in ("dtype", "torch_dtype") if part.get(key) is not None}
        if len({str(value).removeprefix("torch.") for value in stated.values()}) > 1:
            shown = " and ".join(f"{key} = {value!r:.40}" for key, value in stated.items())
            raise DocumentError(
                f"{shown} disagree", where=where, hint="correct one of them, or remove one"
            )
        for key in ("dtype", "torch_dtype"):
            value = part.get(key)
            if value is None:
                continue
            name = str(value).removeprefix("torch.")
            if name not in _WIDE:
                raise DocumentError(
                    f"{key} = {value!r:.80} is not supported: choose from {', '.join(_WIDE)}",
                    where=where,
                    hint=AS_DOCUMENT,
                )
            single = name in ("float32", "fp32", "float")
            return _WIDE[name], ["stored in float32; served in fp16"] if single else []
    return BF16, ["the file states no element type; taken for bf16"]


def _statements(
    document: Mapping[str, object], text: Mapping[str, object], path: Path
) -> Iterator[tuple[str, dict[str, object], str | None]]:
    """Yield where each statement stands, its table, and the method that its form implies."""
    config_states = False
    own = next((key for key, value in document.items() if value == text), "text_config")
    parts = [("", document)] if text is document or text == document else [
        ("", document), (f"{own}.", text)
    ]  # fmt: skip
    seen: list[object] = []
    for inside, part in parts:
        for key in _TABLES:
            # MLX writes its table twice, the second time without saying whose it is.
            copied = key == "quantization_config" and part.get(key) == part.get("quantization")
            if part.get(key) is None or copied or part[key] in seen:
                continue
            config_states = True
            seen.append(part[key])
            where = f"{path}: {inside}{key}"
            table = _table(part[key], where)
            yield where, table, _MLX if key == "quantization" and "bits" in table else None
        for key in _REFUSED:
            if part.get(key) not in _ABSENT:
                raise _not_read(f"{inside}{key}", part[key], str(path))
        if flat := {key: part[key] for key in _FLAT if part.get(key) is not None}:
            config_states = True
            flat |= {key: part[key] for key in _FLAT_BESIDE if part.get(key) is not None}
            yield f"{path}: {inside.removesuffix('.')}" if inside else str(path), flat, None
    prefix = path.name.removesuffix("config.json") if path.name.endswith("config.json") else None
    for name in _names_beside(path, prefix or ""):
        file = path.with_name((prefix or "") + name)
        if name in _FILES:
            where, beside = str(file), read_document(file)
            if name == _NESTED:
                where = f"{file}: quantization"
                beside = _table(beside.get("quantization"), where)
            yield where, beside, _FILES[name]
        elif name in _RECIPES:
            # The recipe of llm-compressor is a record of what config.json then states.
            if not config_states:
                raise DocumentError(
                    "states how the weights were compressed, which is not read, and config.json "
                    "states nothing of it",
                    where=str(file),
                    hint=f"{AS_DOCUMENT}, or remove the file if the weights are not quantised",
                )
        elif prefix is not None and _OTHER_FILE.fullmatch(name):
            raise DocumentError(
                "seems to state a quantisation, in a form that is not read",
                where=str(file),
                hint=f"{AS_DOCUMENT}, or remove the file if the weights are not quantised",
            )


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DocumentError(
            f"should be a table that states a quantisation, not {value!r:.80}",
            where=where,
            hint=_OUT,
        )
    return cast(dict[str, object], value)


def _names_beside(path: Path, prefix: str) -> list[str]:
    """Return the names of the other files of the same model, without their prefix."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}", where=str(path.parent)) from None
    return [n.removeprefix(prefix) for n in names if n != path.name and n.startswith(prefix)]


def _not_read(key: str, value: object, where: str) -> DocumentError:
    return DocumentError(
        f"{key} = {value!r:.80} is not read, and may change what the weights take",
        where=where,
        hint=_OUT,
    )


class _Reader:
    """Reads one statement.

    Args:
        names: of the model's weights.
        where: the statement stands.
        table: the statement.
        method: that the form of the file implies.
        kimi: the model is one of Kimi's with delta attention or without.
    """

    def __init__(
        self,
        names: _Names,
        where: str,
        table: dict[str, object],
        method: str | None,
        *,
        kimi: bool,
    ) -> None:
        self._names = names
        self._where = where
        self._table = table
        self._kimi = kimi
        self._says = parse_document(_Statement, table, where=where)
        self._method = self._says.quant_method or method
        self._found = _Reading(where, kv=_kv_of(self._says, where))

    def read(self) -> _Reading:
        """Return what it says.

        Raises:
            DocumentError: it says something that is not read.
        """
        says, method = self._says, self._method
        self._refuse_unknown_keys()
        if method == _MLX:
            self._read_mlx()
        elif method in _FP8_METHODS:
            self._read_fp8()
        elif method == "gptq":
            self._read_gptq()
        elif method == "awq":
            self._read_awq()
        elif method == "bitsandbytes":
            self._read_bitsandbytes()
        elif method == "mxfp4":
            self._give_default(MXFP4, lambda weight: weight.part is Part.EXPERTS)
            self._found.default = None
        elif method is None or method == _COMPRESSED or method.startswith(_MODELOPT):
            if says.quant_algo or says.config_groups or says.quantized_layers:
                self._read_described()
            elif method is not None or not says.model_fields_set & {
                "quant_algo", "kv_cache_scheme", "kv_cache_quant_algo"
            }:  # fmt: skip
                wanted = (
                    "missing key 'quant_method', and neither quant_algo nor config_groups is given"
                    if method is None
                    else f"quant_method = {method!r} without quant_algo or config_groups"
                )
                raise DocumentError(
                    f"{wanted}: the weights' type is not stated", where=self._where, hint=_OUT
                )
        else:
            raise DocumentError(
                f"quantization method quant_method = {method!r:.80} is not supported: choose from "
                f"{', '.join(_METHODS)}",
                where=self._where,
                hint=_OUT,
            )
        return self._found

    def _refuse_unknown_keys(self) -> None:
        known = _HARMLESS | set(_Statement.model_fields)
        for key, value in self._table.items():
            if value in _ABSENT or (key == "sparsity_config" and value == _DENSE):
                continue
            own = self._method == _MLX and ("." in key or key in ("lm_head", EMBEDDING))
            if own or (self._method == "gptq" and key in ("dynamic", "lm_head")):
                continue
            if key not in known and _SUSPICIOUS.search(key.lower()):
                if self._method == "bitsandbytes" and key in _LOADED:
                    continue
                raise _not_read(key, value, self._where)

    def _note(self, text: str) -> None:
        self._found.notes.append(f"{name_as_text(self._where)}: {text}")

    # Choosing weights

    def _chosen(self, lists: Mapping[str, tuple[str, ...]]) -> set[_Key]:
        """Return the weights that lists of modules name; what they name in vain is noted."""
        found: set[_Key] = set()
        for key, patterns in lists.items():
            keys, idle = self._names.chosen(patterns, f"{self._where}: {key}")
            found |= keys
            if idle:
                shown = ", ".join(f"{one!r:.80}" for one in idle[:3])
                more = f" and {len(idle) - 3} others" if len(idle) > 3 else ""
                self._note(f"{key} names none of the weights by {shown}{more}")
        return found

    def _give_default(
        self,
        stored: ElementFormat,
        covers: Callable[[Weight], bool],
        excluded: set[_Key] | None = None,
    ) -> None:
        """Give a format to all weights of a kind, and the wide one to all others."""
        if excluded is None:
            excluded = self._chosen(self._says.patterns(*_BASE_LISTS, *_OVER_LISTS))
        self._found.default = stored
        for key, weight in self._names.weights.items():
            narrow = covers(weight) and key not in excluded
            self._found.formats[key] = stored if narrow else None

    def _give(self, keys: Iterable[_Key], stored: ElementFormat | None, place: str) -> None:
        """Give a format to weights that are named.

        Raises:
            DocumentError: the same statement gives one of them another.
        """
        for key in sorted(keys, key=str):
            so_far = self._found.formats.get(key)
            if key in self._found.named and so_far != stored:
                raise _disagree(key, {self._where: so_far, place: stored}, self._where)
            self._found.formats[key] = stored
            self._found.named.add(key)

    # Methods

    def _read_fp8(self) -> None:
        says = self._says
        if self._method == "fbgemm_fp8":
            stored = FP8_CHANNEL
        elif says.weight_block_size is None:
            stored = FP8
        else:
            rows, columns = says.weight_block_size
            # DeepSeek-V4 stores its scales in the type that others only round them to.
            narrow = says.scale_fmt == "ue8m0" and any(
                ".compressor." in name for _, name in self._names.weights
            )
            stored = fp8_block(rows, columns, scale_bits=8 if narrow else 32)
        over = bool(says.moe_quant_algo or says.quantized_layers or says.config_groups)
        lists = says.patterns(*_BASE_LISTS, *(() if over else _OVER_LISTS))
        excluded = self._chosen(lists)
        kept = {
            key for key, weight in self._names.weights.items()
            if is_plain(weight)
            and (".compressor." in weight.name or weight.name.endswith(_KEPT_BY_SERVERS))
        }  # fmt: skip
        if kept - excluded:
            self._note(
                "projections of compressors and the weights_proj of indexers count as 16 bits, as "
                "servers load them"
            )
        self._give_default(stored, is_plain, excluded | kept)
        if over:
            apart = says.patterns(*_OVER_LISTS)
            if apart:
                self._note(f"what {' and '.join(apart)} names keeps the form of {stored.name}")
            self._overlay(self._chosen(apart))

    def _overlay(self, excluded: set[_Key]) -> None:
        """Give the formats that are stated besides, for some modules, to all but these."""
        says = self._says
        if says.moe_quant_algo is not None:
            place = f"{self._where}: moe_quant_algo"
            stored = _of_algorithm(says.moe_quant_algo, says.group_size, place)
            experts = self._experts() - excluded
            self._give(experts, stored, place)
        self._give_quantized_layers(excluded)
        for place, group, stored in self._groups():
            if _for_all(group):
                plain = {key for key, weight in self._names.weights.items() if is_plain(weight)}
                self._give(plain - excluded, stored, place)
            else:
                self._give(self._chosen({"targets": group.targets or ()}), stored, place)

    def _experts(self) -> set[_Key]:
        weights = self._names.weights.items()
        return {key for key, weight in weights if weight.part is Part.EXPERTS}

    def _give_quantized_layers(self, excluded: set[_Key]) -> None:
        by_format: dict[tuple[str | None, int | None], list[str]] = {}
        for name, own in (self._says.quantized_layers or {}).items():
            by_format.setdefault((own.quant_algo, own.group_size), []).append(name)
        for (algorithm, group), patterns in by_format.items():
            place = f"{self._where}: quantized_layers"
            if algorithm is None:
                raise DocumentError(
                    f"states no quant_algo of {patterns[0]!r:.80}", where=place, hint=_OUT
                )
            stored = _of_algorithm(algorithm, group, place)
            keys = self._chosen({"quantized_layers": tuple(patterns)})
            self._give(keys - excluded, stored, place)

    def _groups(self) -> Iterator[tuple[str, _Group, ElementFormat | None]]:
        for name, group in (self._says.config_groups or {}).items():
            place = f"{self._where}: config_groups.{name}"
            for target in group.targets or ():
                if target != _LINEAR and re.fullmatch(r"[A-Z]\w*", target):
                    raise DocumentError(
                        f"targets name {target!r:.80}, which is a class that is not known: choose "
                        f"{_LINEAR!r}, or names of modules",
                        where=place,
                        hint=_OUT,
                    )
            form = group.format or self._says.format
            numbers = group.weights
            yield place, group, None if numbers is None else _of_numbers(numbers, form, place)

    def _read_described(self) -> None:
        """Read ModelOpt's and compressed-tensors' tables: an algorithm, groups, or modules."""
        says = self._says
        excluded = self._chosen(says.patterns(*_BASE_LISTS, *_OVER_LISTS))
        defaults: dict[str, ElementFormat | None] = {}
        if says.quant_algo is not None and says.quant_algo != _MIXED:
            place = f"{self._where}: quant_algo"
            defaults[place] = _of_algorithm(says.quant_algo, says.group_size, place)
        groups = list(self._groups())
        defaults |= {place: stored for place, group, stored in groups if _for_all(group)}
        if len(set(defaults.values())) > 1:
            raise _disagree((None, "linear layers"), defaults, self._where)
        if defaults:
            self._give_described(next(iter(defaults.values())), excluded)
        if says.moe_quant_algo is not None:
            place = f"{self._where}: moe_quant_algo"
            stored = _of_algorithm(says.moe_quant_algo, says.group_size, place)
            self._give(self._experts() - excluded, stored, place)
        self._give_quantized_layers(set())
        for place, group, stored in groups:
            if not _for_all(group):
                named = self._chosen({"targets": group.targets or ()})
                self._give(named - excluded, stored, place)
        if not self._found.formats:
            raise DocumentError(
                f"quant_algo = {says.quant_algo!r} without quantized_layers: the weights' type is "
                "not stated",
                where=self._where,
                hint=_OUT,
            )

    def _give_described(self, stored: ElementFormat | None, excluded: set[_Key]) -> None:
        """Give the format of all linear layers; lists tell whether the output head is one."""
        says = self._says
        if stored is None:
            return
        listed = (
            any(getattr(says, key) is not None for key in (*_BASE_LISTS, *_OVER_LISTS))
            or self._method == _COMPRESSED
        )
        if not listed:
            self._note(
                "no list of modules that keep 16 bits: all linear layers count as "
                f"{stored.name}, apart from the output head and routers"
            )
        if self._kimi:
            latent = {key for key in self._names.weights if key[1] in _LATENT}
            if latent - excluded:
                self._note(
                    "the projections around the experts count as 16 bits, as servers load them"
                )
            excluded = excluded | latent
        self._give_default(
            stored,
            lambda weight: is_plain(weight) or (listed and weight.name == "lm_head"),
            excluded,
        )

    def _read_gptq(self) -> None:
        bits = self._bits((2, 3, 4, 8))
        stored = gptq(bits, self._group())
        head = self._table.get("lm_head") is True
        overrides: dict[str, object] = {}
        excluded = self._chosen(self._says.patterns(*_BASE_LISTS, *_OVER_LISTS))
        dynamic = self._table.get("dynamic")
        for pattern, own in _table(dynamic or {}, f"{self._where}: dynamic").items():
            if pattern.startswith("-:"):
                excluded |= self._chosen({"dynamic": (f"re:{pattern[2:]}",)})
            else:
                overrides[f"re:{pattern.removeprefix('+:')}"] = own
        if (blocks := self._says.modules_in_block_to_quantize) is not None:
            named = tuple(name for block in blocks for name in block)
            kept = self._chosen({"modules_in_block_to_quantize": named})
            excluded |= {key for key in self._names.weights if key[0] is not None} - kept
        self._give_default(
            stored,
            lambda weight: is_plain(weight) or (head and weight.name == "lm_head"),
            excluded,
        )
        for pattern, own in overrides.items():
            place = f"{self._where}: dynamic"
            says = parse_document(_Statement, _table(own, place), where=place)
            width = says.bits if says.bits is not None else bits
            group = says.group_size if says.group_size is not None else self._group()
            if width not in (2, 3, 4, 8):
                raise _not_read("bits", width, place)
            other = gptq(int(width), None if group == -1 else group)
            self._give(self._chosen({"dynamic": (pattern,)}), other, place)

    def _read_awq(self) -> None:
        stored = awq(self._bits((4,)), self._group(), zeros=self._says.zero_point)
        self._give_default(stored, is_plain)

    def _bits(self, known: tuple[int, ...]) -> int:
        says = self._says
        bits = says.bits if says.bits is not None else says.w_bit
        if bits not in known:
            given = "" if bits is None else f" with bits = {bits:g}"
            raise DocumentError(
                f"quantization method {self._method!r}{given} is not supported: choose bits from "
                f"{', '.join(map(str, known))}",
                where=self._where,
                hint=_OUT,
            )
        return int(bits)

    def _group(self) -> int | None:
        """Return the inputs of a group of GPTQ or AWQ; None for a whole row."""
        says = self._says
        group = says.group_size if says.group_size is not None else says.q_group_size
        if group is None:
            self._note(f"no group_size: {_GROUPED}, the tool's default")
            return _GROUPED
        if group == 0:
            raise _not_read("group_size", group, self._where)
        return None if group == -1 else group

    def _read_bitsandbytes(self) -> None:
        says = self._says
        four = says.load_in_4bit or self._table.get("_load_in_4bit") is True
        eight = says.load_in_8bit or self._table.get("_load_in_8bit") is True
        if four == eight or says.bnb_4bit_quant_type not in ("nf4", "fp4"):
            raise DocumentError(
                f"quant_method = 'bitsandbytes' with load_in_4bit = {bool(four)}, load_in_8bit = "
                f"{bool(eight)} and bnb_4bit_quant_type = {says.bnb_4bit_quant_type!r:.40} is not "
                "supported: choose 4 bits of nf4 or fp4, or 8 bits",
                where=self._where,
                hint=_OUT,
            )
        narrow = NF4_DOUBLE if says.bnb_4bit_use_double_quant else NF4
        self._give_default(LLM_INT8 if eight else narrow, is_plain)

    def _read_mlx(self) -> None:
        says, where = self._says, self._where
        own_bits = says.bits if says.bits is not None else says.w_bit
        stored = _of_mlx(own_bits, says.group_size, says.mode, where)
        self._give_default(stored, lambda _: True)
        for name, own in self._table.items():
            if "." not in name and name not in ("lm_head", EMBEDDING):
                continue
            place = f"{where}: {name}"
            keys = self._chosen({name: (name.replace(_MLX_EXPERTS, "mlp.experts"),)})
            if own is False:
                self._give(keys, None, place)
            elif own is not True:
                table = parse_document(_Statement, _table(own, place), where=place)
                bits = table.bits if table.bits is not None else own_bits
                group = table.group_size if table.group_size is not None else says.group_size
                self._give(keys, _of_mlx(bits, group, table.mode or says.mode, place), place)


_LINEAR: Final = "Linear"
_LATENT: Final = ("mlp.latent_in", "mlp.latent_out")
_KEPT_BY_SERVERS: Final = ".indexer.weights_proj"
_LOADED: Final = ("_load_in_4bit", "_load_in_8bit")


def _for_all(group: _Group) -> bool:
    return group.targets is None or group.targets == (_LINEAR,)


def _of_algorithm(algorithm: str, group: int | None, where: str) -> ElementFormat:
    """Return the format of one of ModelOpt's algorithms.

    Raises:
        DocumentError: it is not known, or its groups have another size.
    """
    if algorithm in _INT4_ALGORITHMS:
        return int_groups(4, _GROUPED if not group or group < 0 else group)
    if algorithm not in _ALGORITHMS:
        known = ", ".join((*_ALGORITHMS, *_INT4_ALGORITHMS))
        raise DocumentError(
            f"quant_algo = {algorithm!r:.80} is not supported: choose from {known}",
            where=where,
            hint=_OUT,
        )
    stored = _ALGORITHMS[algorithm]
    if group and stored.group is not None and group != stored.group:
        raise DocumentError(
            f"group_size = {group} is not supported for {algorithm}: it is {stored.group}",
            where=where,
            hint=_OUT,
        )
    return stored


def _of_numbers(numbers: _Numbers, form: str | None, where: str) -> ElementFormat:
    """Return the format of a group in compressed-tensors' terms.

    Raises:
        DocumentError: it is not known.
    """
    bits, group = numbers.num_bits, numbers.group_size or None
    group = None if group == -1 else group
    by_group = ("group", "tensor_group")
    strategy = numbers.strategy or ("group" if group else "tensor")
    found: ElementFormat | None = None
    if form in ("dense", "marlin-24", "sparse-24-bitmask", "sparse-bitmask"):
        pass
    elif numbers.type == "float" and bits == 4 and strategy in by_group:
        found = {16: NVFP4, 32: MXFP4}.get(group or 0)
    elif numbers.type == "float" and bits == 8:
        if strategy == "block" and numbers.block_structure is not None:
            found = fp8_block(*numbers.block_structure)
        elif strategy in by_group and group == 32:
            found = MXFP8
        else:
            found = {"tensor": FP8, "channel": FP8_CHANNEL}.get(strategy)
    elif numbers.type == "int" and bits is not None and 2 <= bits <= 8:
        order = numbers.actorder in (True, "group")
        if strategy == "channel" or (strategy == "group" and group):
            found = int_groups(
                bits, group if strategy == "group" else None,
                symmetric=numbers.symmetric, order=order,
            )  # fmt: skip
        elif strategy == "tensor" and bits == 8 and numbers.symmetric:
            found = INT8
    if found is None:
        raise DocumentError(
            f"weights of num_bits = {bits} and type = {numbers.type!r:.20} with strategy = "
            f"{strategy!r:.20}, group_size = {numbers.group_size} and format = {form!r:.40} are "
            "not supported: choose from 2 to 8 bits of int, 8 bits of float, and 4 bits of float "
            "in groups of 16 (NVFP4) or 32 (MXFP4)",
            where=where,
            hint=_OUT,
        )
    return found


def _of_mlx(bits: float | None, group: int | None, mode: str | None, where: str) -> ElementFormat:
    """Return the format of one of MLX's tables.

    Raises:
        DocumentError: it is not known.
    """
    modes = {"mxfp4": (MXFP4, 4), "mxfp8": (MXFP8, 8), "nvfp4": (NVFP4, 4)}
    if mode in modes:
        stored, width = modes[mode]
        if bits in (None, width) and group in (None, stored.group):
            return stored
    elif mode in (None, "affine") and bits in (2, 3, 4, 5, 6, 8) and (group is None or group > 0):
        return mlx(int(bits), group or 64)
    raise DocumentError(
        f"bits = {bits if bits is None else format(bits, 'g')} in mode {mode or 'affine'!r:.40} "
        f"and group_size = {group} is not supported: choose from 2 to 8 bits, other than 7, in "
        f"mode 'affine', and {', '.join(modes)}",
        where=where,
        hint=_OUT,
    )


def _kv_of(statement: _Statement, where: str) -> ElementFormat | None:
    """Return the format of keys and values, if it is stated.

    Raises:
        DocumentError: it is not known.
    """
    found: dict[str, ElementFormat] = {}
    for key in ("kv_cache_scheme", "kv_cache_quant_algo"):
        value: str | _Numbers | None = getattr(statement, key)
        if value is None:
            continue
        if isinstance(value, str):
            stored = _KV.get(value.lower())
        else:
            stored = {(8, "float"): FP8, (8, "int"): INT8}.get((value.num_bits or 0, value.type))
        if stored is None:
            shown = value if isinstance(value, str) else value.model_dump(exclude_unset=True)
            raise DocumentError(
                f"{key} = {shown!r:.80} is not supported for keys and values: "
                "choose from FP8, INT8 and NVFP4",
                where=where,
                hint=_OUT,
            )
        found[f"{where}: {key}"] = stored
    return _agreed_kv(found, where)


def _agreed_kv(stated: Mapping[str, ElementFormat], where: str) -> ElementFormat | None:
    """Return the one format that all places state; None where there are none."""
    if len(set(stated.values())) > 1:
        places = ", ".join(f"{stored.name} in {place}" for place, stored in stated.items())
        raise DocumentError(
            f"keys and values are stated to be of different types: {places}",
            where=where,
            hint=f"remove the wrong statement, or {AS_DOCUMENT}",
        )
    return next(iter(stated.values()), None)


def _disagree(key: _Key, stated: Mapping[str, ElementFormat | None], where: str) -> DocumentError:
    layer, name = key
    what = name if layer is None else f"{name} of layer {layer}"
    places = ", ".join(
        f"{'16 bits' if stored is None else stored.name} in {place}"
        for place, stored in stated.items()
    )
    return DocumentError(
        f"weights are stated to be of different types: {what} is {places}",
        where=where,
        hint=f"remove the wrong statement, or {AS_DOCUMENT}",
    )


def _merged(readings: Iterable[_Reading], where: str) -> dict[_Key, ElementFormat | None]:
    """Return the formats that all statements agree on.

    Raises:
        DocumentError: two of them disagree.
    """
    merged: dict[_Key, ElementFormat | None] = {}
    said: dict[_Key, str] = {}
    for reading in readings:
        for key, stored in reading.formats.items():
            if key in merged and merged[key] != stored:
                places = {said[key]: merged[key], reading.where: stored}
                raise _disagree(key, places, where)
            merged[key] = stored
            said.setdefault(key, reading.where)
    return merged


def _expert_statement(
    document: Mapping[str, object], text: Mapping[str, object], path: str
) -> tuple[str, str] | None:
    """Return where the type of experts is stated, and the type; None where it is not."""
    for part in (text, document):
        value = part.get(_EXPERTS_KEY)
        if value is not None:
            return f"{path}: {_EXPERTS_KEY}", str(value)
    return None


def _give_experts(
    merged: dict[_Key, ElementFormat | None],
    readings: Iterable[_Reading],
    names: _Names,
    stated: tuple[str, str],
) -> None:
    """Give the experts the type that is stated for them, where no list of modules has another.

    Raises:
        DocumentError: the type is not known.
    """
    where, value = stated
    name = value.lower()
    named = {key for reading in readings for key in reading.named}
    for key, weight in names.weights.items():
        if weight.part is not Part.EXPERTS or key in named:
            continue
        so_far = merged.get(key)
        if name == "fp8" and so_far is not None and so_far.bits == FP8.bits:
            continue
        if name not in _EXPERT_TYPES:
            raise DocumentError(
                f"{_EXPERTS_KEY} = {value!r:.80} is not supported: choose from "
                f"{', '.join(_EXPERT_TYPES)}, and fp8 where the other weights are in fp8",
                where=where,
                hint=_OUT,
            )
        merged[key] = _EXPERT_TYPES[name]


def _rules(
    merged: Mapping[_Key, ElementFormat | None], names: _Names, default: ElementFormat | None
) -> tuple[Rule, ...]:
    """Return rules for what differs from the default, with layers in a row in one rule."""
    by_name: dict[str, list[tuple[int | None, ElementFormat | None]]] = {}
    plain: dict[str, bool] = {}
    for key, weight in names.weights.items():
        by_name.setdefault(weight.name, []).append((key[0], merged.get(key)))
        plain[weight.name] = is_plain(weight)
    found: list[Rule] = []
    for name, entries in by_name.items():
        usual = default if plain[name] else None
        runs: list[tuple[int | None, int | None, ElementFormat | None]] = []
        for layer, stored in entries:
            if runs and runs[-1][2] == stored:
                runs[-1] = (runs[-1][0], layer, stored)
            else:
                runs.append((layer, layer, stored))
        for first, last, stored in runs:
            if stored == usual:
                continue
            everywhere = len(runs) == 1
            found.append(
                Rule(
                    name=name,
                    format=stored,
                    first=None if everywhere else first,
                    last=None if everywhere else last,
                )
            )
    return tuple(found)
