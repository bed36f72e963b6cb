"""Element types that a published checkpoint states: in its ``config.json``, or beside it.

Tools that quantise write what they did in different places. Every place that is known is looked
into; what is stated there is either read, or refused by name. Nothing counts as 16 bits because
it was not understood.

Read are: ``quantization_config`` (or ``compression_config``) of fp8, GPTQ, AWQ,
compressed-tensors and ModelOpt; ``quantization`` of MLX; the files ``hf_quant_config.json``
(ModelOpt), ``quantize_config.json`` (GPTQ), ``quant_config.json`` (AWQ) and
``quantization_config.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, cast

from pydantic import ConfigDict, Field

from attacc.documents import Spec, parse_document, read_document
from attacc.errors import DocumentError
from attacc.models.architecture import AS_DOCUMENT
from attacc.models.precision import ElementType

_TABLES: Final = ("quantization_config", "compression_config", "quantization")
_FLAT: Final = (
    "quant_method",
    "quant_algo",
    "bits",
    "w_bit",
    "config_groups",
    "kv_cache_scheme",
    "kv_cache_quant_algo",
)
QUANTIZATION_KEYS: Final = frozenset((*_TABLES, *_FLAT))
"""The keys of a ``config.json`` that are read here."""

_OUT: Final = (
    f"{AS_DOCUMENT}, or remove the statement and give the types in the precision of the study "
    "(--weights, --kv)"
)

_METHODS: Final[dict[tuple[str, int | None], ElementType]] = {
    ("fp8", None): ElementType.FP8,
    ("gptq", 4): ElementType.INT4,
    ("gptq", 8): ElementType.INT8,
    ("awq", 4): ElementType.INT4,
}
_MLX: Final = "mlx"
_MLX_BITS: Final = {4: ElementType.INT4, 8: ElementType.INT8}
# Methods whose element type other keys of the same table state.
_DESCRIBED: Final = ("compressed-tensors", "modelopt")
# ModelOpt's and TensorRT-LLM's names of algorithms, by the type of the weights.
_ALGORITHMS: Final = {
    "FP8": ElementType.FP8,
    "FP8_PB_WO": ElementType.FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": ElementType.FP8,
    "INT8_SQ": ElementType.INT8,
    "W8A8_SQ_PER_CHANNEL": ElementType.INT8,
    "W8A16": ElementType.INT8,
    "INT4_AWQ": ElementType.INT4,
    "W4A16": ElementType.INT4,
    "W4A16_AWQ": ElementType.INT4,
    "W4A16_GPTQ": ElementType.INT4,
    "W4A8_AWQ": ElementType.INT4,
}
_NUMBERS: Final = {
    (4, "int"): ElementType.INT4,
    (8, "int"): ElementType.INT8,
    (8, "float"): ElementType.FP8,
}
_KV: Final = {
    "fp8": ElementType.FP8,
    "fp8_e4m3": ElementType.FP8,
    "fp8_e5m2": ElementType.FP8,
    "int8": ElementType.INT8,
}
# Keys (null, as to the first) of a table that leaves the weights alone.
_NO_WEIGHTS: Final = {"quant_algo", "kv_cache_scheme", "kv_cache_quant_algo"}
_EXCLUSIONS: Final = ("ignore", "ignored_layers", "exclude_modules", "modules_to_not_convert")
# Parts whose type the model does not keep apart (docs/howto/models.md, "What is stored"):
# embeddings,
# head, norms and routers. An exclusion of anything else makes the precision a mixed one.
_MINOR: Final = re.compile(
    r"(re:)?[\W_]*([\w*]+\\?\.)*"
    r"(lm_head|embed_\w+|word_embeddings|wte|wpe|\w*norm\w*|ln_\w+|gate|router)[\W_]*"
)
# Keys by which the tools give single layers another type, or change the weights otherwise.
_MIXED: Final = (
    "quantized_layers",
    "moe_quant_algo",
    "dynamic",
    "modules_in_block_to_quantize",
    "extra_config",
    "layer_quant_config",
    "sparsity_config",
)
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


Bits = Annotated[int, Field(ge=0, le=64)]
FractionalBits = Annotated[float, Field(ge=0, le=64)]


class _Ignoring(Spec):
    model_config = ConfigDict(extra="ignore")


class _Numbers(_Ignoring):
    """How numbers are stored, in compressed-tensors' terms."""

    num_bits: Bits | None = None
    type: str = "int"


class _Group(_Ignoring):
    """Layers that are quantised alike, in compressed-tensors' terms."""

    weights: _Numbers | None = None
    targets: tuple[str, ...] | None = None


class _Statement(_Ignoring):
    """One table that states a quantisation, of any of the tools."""

    quant_method: str | None = None
    quant_algo: str | None = None
    bits: FractionalBits | None = None
    w_bit: FractionalBits | None = None
    mode: str | None = None
    config_groups: dict[str, _Group] | None = None
    kv_cache_scheme: str | _Numbers | None = None
    kv_cache_quant_algo: str | None = None
    ignore: tuple[str, ...] | None = None
    ignored_layers: tuple[str, ...] | None = None
    exclude_modules: tuple[str, ...] | None = None
    modules_to_not_convert: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class StatedPrecision:
    """Element types that a checkpoint states.

    Attributes:
        weights: of the weights; None where no quantisation is stated.
        kv: of the key/value cache; None where it is left to whoever serves the model.
        where: the places that state them.
    """

    weights: ElementType | None
    kv: ElementType | None
    where: tuple[str, ...]


def stated_precision(document: Mapping[str, object], path: Path) -> StatedPrecision:
    """Return the element types that a ``config.json`` and the files beside it state.

    Args:
        document: the parsed ``config.json``.
        path: its path, as given: the files beside it are looked for there. For a file called
            ``NAME_config.json`` they begin with ``NAME_``.

    Raises:
        DocumentError: a quantisation that is not read, types that differ by layer, or two
            statements that disagree.
    """
    weights: dict[str, ElementType] = {}
    kv: dict[str, ElementType] = {}
    for where, table, method in _statements(document, path):
        statement = parse_document(_Statement, table, where=where)
        _refuse_mixed(table, statement, where)
        if (element := _weights_of(statement, method, where)) is not None:
            weights[where] = element
        if (element := _kv_of(statement, where)) is not None:
            kv[where] = element
    return StatedPrecision(
        _agreed("weights", weights, str(path)),
        _agreed("keys and values", kv, str(path)),
        tuple(dict.fromkeys((*weights, *kv))),
    )


def _statements(
    document: Mapping[str, object], path: Path
) -> Iterator[tuple[str, dict[str, object], str | None]]:
    """Yield where each statement stands, its table, and the method that its form implies."""
    config_states = False
    for key in _TABLES:
        # MLX writes its table twice, the second time without saying whose it is.
        copied = key == "quantization_config" and document.get(key) == document.get("quantization")
        if document.get(key) is None or copied:
            continue
        config_states = True
        where = f"{path}: {key}"
        table = _table(document[key], where)
        yield where, table, _MLX if key == "quantization" and "bits" in table else None
    if flat := {key: document[key] for key in _FLAT if document.get(key) is not None}:
        config_states = True
        yield str(path), flat, None
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


def _refuse_mixed(table: Mapping[str, object], statement: _Statement, where: str) -> None:
    """Refuse types that differ by layer: a model has one type for all its weights."""
    for key, value in table.items():
        if (key in _MIXED and value and value != _DENSE) or _differs(key, value, table):
            raise _not_one_type(f"{key} = {value!r:.80}", where)
    for key in _EXCLUSIONS:
        names: tuple[str, ...] = getattr(statement, key) or ()
        for name in names:
            if not _MINOR.fullmatch(name):
                raise _not_one_type(f"{key} names {name!r}, which keeps another type", where)


def _differs(key: str, value: object, table: Mapping[str, object]) -> bool:
    """Say whether this entry of MLX's table is a module of another type than the table's."""
    if "." not in key or value is True or _MINOR.fullmatch(key):
        return False
    own = cast(dict[str, object], value) if isinstance(value, dict) else {}
    return not own or any(own[k] != table.get(k) for k in own)


def _not_one_type(what: str, where: str) -> DocumentError:
    return DocumentError(
        f"{what}: weights of more than one element type are not modelled",
        where=where,
        hint=f"{AS_DOCUMENT} with the type that most of them have",
    )


def _weights_of(statement: _Statement, method: str | None, where: str) -> ElementType | None:
    """Return the type of the weights; None where only that of keys and values is stated."""
    method = statement.quant_method or method
    found: dict[str, ElementType] = {}
    if statement.quant_algo is not None:
        found["quant_algo"] = _of_algorithm(statement.quant_algo, where)
    if statement.config_groups:
        found["config_groups"] = _of_groups(statement.config_groups, where)
    bits = statement.bits if statement.bits is not None else statement.w_bit
    if method == _MLX:
        found["bits"] = _of_mlx(bits, statement.mode, where)
    elif method is not None and method not in _DESCRIBED:
        found["quant_method"] = _of_method(method, bits, where)
    elif not found and (method is not None or not statement.model_fields_set & _NO_WEIGHTS):
        wanted = (
            "missing key 'quant_method', and neither quant_algo nor config_groups is given"
            if method is None
            else f"quant_method = {method!r} without quant_algo or config_groups"
        )
        raise DocumentError(f"{wanted}: the weights' type is not stated", where=where, hint=_OUT)
    return _agreed("weights", found, where)


def _of_method(method: str, bits: float | None, where: str) -> ElementType:
    for (known, width), element in _METHODS.items():
        if (method, bits) == (known, width):
            return element
    given = "" if bits is None else f" with bits = {bits:g}"
    known_methods = ", ".join(
        name if width is None else f"{name} ({width} bits)" for name, width in _METHODS
    )
    raise DocumentError(
        f"quantization method {method!r}{given} is not supported: choose from {known_methods}, "
        f"{', '.join(_DESCRIBED)}",
        where=where,
        hint=_OUT,
    )


def _of_algorithm(algorithm: str, where: str) -> ElementType:
    if algorithm == "MIXED_PRECISION":
        raise _not_one_type(f"quant_algo = {algorithm!r}", where)
    if algorithm not in _ALGORITHMS:
        raise DocumentError(
            f"quant_algo = {algorithm!r} is not supported: choose from {', '.join(_ALGORITHMS)}",
            where=where,
            hint=_OUT,
        )
    return _ALGORITHMS[algorithm]


def _of_groups(groups: Mapping[str, _Group], where: str) -> ElementType:
    elements: dict[str, ElementType] = {}
    for name, group in groups.items():
        place = f"{where}: config_groups.{name}"
        if group.targets is not None and group.targets != ("Linear",):
            raise _not_one_type(f"targets = {list(group.targets)!r:.80}", place)
        numbers = group.weights or _Numbers()
        if (numbers.num_bits or 0, numbers.type) not in _NUMBERS:
            raise DocumentError(
                f"weights of num_bits = {numbers.num_bits} and type = {numbers.type!r} are not "
                "supported: choose from 4 and 8 bits of int, 8 bits of float",
                where=place,
                hint=_OUT,
            )
        elements[place] = _NUMBERS[numbers.num_bits or 0, numbers.type]
    if len(set(elements.values())) > 1:
        listed = ", ".join(sorted({element.value for element in elements.values()}))
        raise _not_one_type(f"config_groups of {listed}", where)
    return next(iter(elements.values()))


def _of_mlx(bits: float | None, mode: str | None, where: str) -> ElementType:
    element = None if bits is None else _MLX_BITS.get(int(bits)) if bits == int(bits) else None
    if element is None or mode not in (None, "affine"):
        raise DocumentError(
            f"bits = {bits if bits is None else format(bits, 'g')} in mode {mode or 'affine'!r} "
            "is not supported: choose from 4 and 8 bits in mode 'affine'",
            where=where,
            hint=_OUT,
        )
    return element


def _kv_of(statement: _Statement, where: str) -> ElementType | None:
    """Return the type of keys and values, if it is stated."""
    found: dict[str, ElementType] = {}
    for key in ("kv_cache_scheme", "kv_cache_quant_algo"):
        value: str | _Numbers | None = getattr(statement, key)
        if value is None:
            continue
        if isinstance(value, str):
            element = _KV.get(value.lower())
        else:
            element = _NUMBERS.get((value.num_bits or 0, value.type))
        if element is None or element not in _KV.values():
            shown = value if isinstance(value, str) else value.model_dump()
            raise DocumentError(
                f"{key} = {shown!r:.80} is not supported for keys and values: "
                "choose from FP8 and INT8",
                where=where,
                hint=_OUT,
            )
        found[key] = element
    return _agreed("keys and values", found, where)


def _agreed(what: str, stated: Mapping[str, ElementType], where: str) -> ElementType | None:
    """Return the one type that all places state; None where there are none."""
    if len(set(stated.values())) > 1:
        places = ", ".join(f"{element.value} in {place}" for place, element in stated.items())
        raise DocumentError(
            f"{what} are stated to be of different types: {places}",
            where=where,
            hint=f"remove the wrong statement, or {AS_DOCUMENT}",
        )
    return next(iter(stated.values()), None)
