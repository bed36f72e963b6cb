"""Element formats that a published checkpoint states, module by module.

Tools that quantise write what they did in different places: in ``config.json``, inside its language
part, or in a file beside it. Every place that is known is looked into. What is stated there is
either read, or refused by file, key and value. Nothing counts as 16 bits because it was not
understood.

Which weights a list of modules means is told by `attacc.models.storage.module_names`. The meaning
of the forms follows reference/model-architectures.md, section 5.
"""

from __future__ import annotations

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
from attacc.models.layers import LayeredModel
from attacc.models.storage.formats import (
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
    mlx,
)
from attacc.models.storage.module_names import MLX_EXPERTS, OUT, Key, Names
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
    formats: dict[Key, ElementFormat | None] = field(
        default_factory=dict[Key, ElementFormat | None]
    )
    default: ElementFormat | None = None
    named: set[Key] = field(default_factory=set[Key])
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
    names = Names(model)
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
            hint=OUT,
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
        hint=OUT,
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
        names: Names,
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
                    f"{wanted}: the weights' type is not stated", where=self._where, hint=OUT
                )
        else:
            raise DocumentError(
                f"quantization method quant_method = {method!r:.80} is not supported: choose from "
                f"{', '.join(_METHODS)}",
                where=self._where,
                hint=OUT,
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

    def _chosen(self, lists: Mapping[str, tuple[str, ...]]) -> set[Key]:
        """Return the weights that lists of modules name; what they name in vain is noted."""
        found: set[Key] = set()
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
        excluded: set[Key] | None = None,
    ) -> None:
        """Give a format to all weights of a kind, and the wide one to all others."""
        if excluded is None:
            excluded = self._chosen(self._says.patterns(*_BASE_LISTS, *_OVER_LISTS))
        self._found.default = stored
        for key, weight in self._names.weights.items():
            narrow = covers(weight) and key not in excluded
            self._found.formats[key] = stored if narrow else None

    def _give(self, keys: Iterable[Key], stored: ElementFormat | None, place: str) -> None:
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

    def _overlay(self, excluded: set[Key]) -> None:
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

    def _experts(self) -> set[Key]:
        weights = self._names.weights.items()
        return {key for key, weight in weights if weight.part is Part.EXPERTS}

    def _give_quantized_layers(self, excluded: set[Key]) -> None:
        by_format: dict[tuple[str | None, int | None], list[str]] = {}
        for name, own in (self._says.quantized_layers or {}).items():
            by_format.setdefault((own.quant_algo, own.group_size), []).append(name)
        for (algorithm, group), patterns in by_format.items():
            place = f"{self._where}: quantized_layers"
            if algorithm is None:
                raise DocumentError(
                    f"states no quant_algo of {patterns[0]!r:.80}", where=place, hint=OUT
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
                        hint=OUT,
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
                hint=OUT,
            )

    def _give_described(self, stored: ElementFormat | None, excluded: set[Key]) -> None:
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
                hint=OUT,
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
                hint=OUT,
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
            keys = self._chosen({name: (name.replace(MLX_EXPERTS, "mlp.experts"),)})
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
            hint=OUT,
        )
    stored = _ALGORITHMS[algorithm]
    if group and stored.group is not None and group != stored.group:
        raise DocumentError(
            f"group_size = {group} is not supported for {algorithm}: it is {stored.group}",
            where=where,
            hint=OUT,
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
            hint=OUT,
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
        hint=OUT,
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
                hint=OUT,
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


def _disagree(key: Key, stated: Mapping[str, ElementFormat | None], where: str) -> DocumentError:
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


def _merged(readings: Iterable[_Reading], where: str) -> dict[Key, ElementFormat | None]:
    """Return the formats that all statements agree on.

    Raises:
        DocumentError: two of them disagree.
    """
    merged: dict[Key, ElementFormat | None] = {}
    said: dict[Key, str] = {}
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
    merged: dict[Key, ElementFormat | None],
    readings: Iterable[_Reading],
    names: Names,
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
                hint=OUT,
            )
        merged[key] = _EXPERT_TYPES[name]


def _rules(
    merged: Mapping[Key, ElementFormat | None], names: Names, default: ElementFormat | None
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
