"""Documents that people write: TOML and JSON files, checked against typed specifications.

A `Spec` is a frozen, closed pydantic model: an unknown key, a missing one or an impossible value
is a `DocumentError` that names the file, the field, the value and the nearest valid choice.
`Presets` are documents shipped inside the package, one per file, addressed by name.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Final, Generic, TypeVar, Union, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from attacc.errors import DocumentError, InputError, UnknownNameError, nearest_hint
from attacc.files import (
    MAX_DOCUMENT_BYTES,
    MAX_TOML_BYTES,
    json_of,
    name_as_text,
    read_data,
    text_of,
)
from attacc.units import Quantity

SUFFIXES: Final = (".toml", ".json")
MAX_KEY_PARTS: Final = 8
"""Most parts of a TOML key, as in ``a.b.c``."""

_TOML_LITERALS: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:"{3,5})?|' + r"'''(?:[^']|'(?!''))*+(?:'{3,5})?|"
    r'"(?:[^"\\\n]|\\.)*+"?|' + r"'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
"""Matches texts and comments of TOML. A text that does not end matches, too, so that no text is
searched twice; the parser stops at such a text anyway."""
_TOML_MARKS: Final = re.compile(r"[=,{}\[\]\n]")
"""Characters that a key without quoted texts cannot hold."""
_OUTSIDE: Final = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
"""Pydantic's names for the fault that a number is outside its range."""
_NOT: Final = {
    "int": ("no whole number", "write a number without quotation marks and without a point"),
    "float": ("no number", "write a number without quotation marks"),
    "finite": ("no finite number", "write a number"),
    "string": ("no text", "put it in quotation marks"),
    "bool": ("neither true nor false", "write true or false, without quotation marks"),
    "tuple": ("no list", "write [..., ...]"),
    "list": ("no list", "write [..., ...]"),
    "dict": ("no table", "write a table of keys and values"),
    "model": ("no table", "write a table of keys and values"),
}
"""First word of pydantic's kind of fault -> what is wrong with a value, and the way out."""


class Spec(BaseModel):
    """Base of everything that people write: immutable, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, strict=True
    )


class PresetSpec(Spec):
    """A specification that can be shipped as a preset.

    Attributes:
        name: the preset's name, which is also the name of its file.
        description: one sentence for listings.
        sources: field (or "default" for all other fields) -> where its numbers come from.
    """

    name: str = Field(min_length=1, max_length=200)
    description: str = ""
    sources: dict[str, str] = Field(default_factory=dict)


BASE: Final = "base"
"""The key of a document that names the preset which the document changes."""
BY_HAND: Final = "changed by hand"
"""The source of what a caller changes, rather than a file."""
_TOLD: Final = frozenset({"name", "description", "sources"})
"""Keys by which a document describes itself."""

S = TypeVar("S", bound=Spec)
P = TypeVar("P", bound=PresetSpec)


def names_file(name: str) -> bool:
    """Return whether a name is that of a file: it has a slash or a document's suffix."""
    return "/" in name or Path(name).suffix in SUFFIXES


def beside(folder: Path, name: str) -> str:
    """Return the path of a file that a document in a folder names; an absolute path stays."""
    path = str(folder / name)
    # A path of one part must not be taken for the name of a preset later.
    return path if names_file(path) else f"./{path}"


def folder_of(info: ValidationInfo) -> Path | None:
    """Return the folder of the document that is being checked; None if it is not a file."""
    context = cast("Mapping[str, object] | None", info.context) or {}
    return cast("Path | None", context.get("folder"))


def _resolve_name(name: str, info: ValidationInfo) -> str:
    folder = folder_of(info)
    return name if folder is None or not names_file(name) else beside(folder, name)


def _resolve_file(name: str, info: ValidationInfo) -> str:
    folder = folder_of(info)
    return name if folder is None else beside(folder, name)


DocumentName = Annotated[str, AfterValidator(_resolve_name)]
"""A preset's name, or the file of another document. A document's files are relative to the folder
of the document; checking makes them relative to the current folder."""
FileName = Annotated[str, AfterValidator(_resolve_file)]
"""The name of a file in a document; it is relative to the document's folder likewise."""


def read_document(path: Path) -> dict[str, object]:
    """Read a TOML or JSON file whose top level is a table.

    Raises:
        DocumentError: the file is absent, unreadable, of another kind, too large, or malformed.
    """
    where = str(path)
    if path.suffix not in SUFFIXES:
        raise DocumentError(
            f"unknown file kind {path.suffix!r:.40}", where=where, hint="use a .toml or .json file"
        )
    limit = MAX_TOML_BYTES if path.suffix == ".toml" else MAX_DOCUMENT_BYTES
    text = text_of(read_data(path, limit=limit, suffixes=SUFFIXES), where=where)
    document = _toml_of(text, where) if path.suffix == ".toml" else json_of(text, where=where)
    if not isinstance(document, dict):
        raise DocumentError(f"holds {document!r:.60}, not a table of named fields", where=where)
    return cast(dict[str, object], document)


def _toml_of(text: str, where: str) -> dict[str, object]:
    # The parser's time grows with the square of a key's parts.
    keys = _TOML_LITERALS.sub('""', text)
    if any(part.count(".") >= MAX_KEY_PARTS for part in _TOML_MARKS.split(keys)):
        raise DocumentError(
            f"is not usable: a key has more than {MAX_KEY_PARTS} parts",
            where=where,
            hint="no field lies as deep",
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # malformed, or a number of too many digits
        raise DocumentError(f"is not valid TOML: {error}", where=where) from None


def parse_document(
    spec: type[S], document: Mapping[str, object], *, where: str, folder: Path | None = None
) -> S:
    """Check a document against its specification.

    Args:
        spec: the specification's class.
        document: the parsed file.
        where: the file's name, for messages.
        folder: folder to which files in the document are relative; None for the current folder.

    Raises:
        DocumentError: names the first fault, and the number of further faults.
    """
    try:
        data = json.dumps(document, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"holds {error.object[error.start]!r}, which is no character",
            where=where,
            hint="write text in UTF-8; it may be the name of a file",
        ) from None
    except (ValueError, RecursionError) as error:  # a hexadecimal of thousands of digits, say
        raise DocumentError(f"is not usable: {error}", where=where) from None
    context = {"document": where, "folder": folder}
    try:
        # The context tells the validators of quantities that this is a document: units required.
        # JSON mode is strict about types, yet lets lists become tuples and text enumerations.
        return spec.model_validate_json(data, strict=True, context=context)
    except ValidationError as error:
        found = error.errors(include_url=False)
        faults = [fault for fault in found if not _follows(fault, found)]
        # A misspelt key explains a missing key, so the misspelt key is reported.
        faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
        raise _document_error(spec, faults[0], len(faults) - 1, where) from None


def _follows(fault: ErrorDetails, faults: Iterable[ErrorDetails]) -> bool:
    """Return whether a list is too short only because its entries are faulty."""
    place = fault["loc"]
    inside = (one["loc"] for one in faults if len(one["loc"]) > len(place))
    return fault["type"] == "too_short" and any(loc[: len(place)] == place for loc in inside)


def load_document(spec: type[S], path: Path) -> S:
    """Read a TOML or JSON file and check it against its specification.

    Raises:
        DocumentError: the file cannot be read, or it does not keep to its specification.
    """
    return parse_document(spec, read_document(path), where=str(path), folder=path.parent)


def _document_error(
    spec: type[BaseModel], fault: ErrorDetails, others: int, where: str
) -> DocumentError:
    location = [str(part) for part in fault["loc"] if not str(part).startswith("function-")]
    field = ".".join(f"{part:.60}" for part in location)
    hint: str | None = None
    if fault["type"] == "extra_forbidden":
        message = f"unknown key {location[-1]!r:.60}"
        table = _place(spec, location[:-1])[0]
        deeper = list(_deeper(table, location[-1]))
        hint = nearest_hint(location[-1], keys_of(table))
        if deeper:
            hint = f"did you mean {' or '.join(map(repr, deeper))}?"
    elif fault["type"] == "missing":
        message = f"missing key {location[-1]!r}"
        hint = f"add {location[-1]} = {_values_of(_place(spec, location)[1])}"
    else:
        message, hint = _in_words(fault, _place(spec, location)[1])
    if others:
        message += f"; {others} more fault{'s' if others > 1 else ''} in this document"
    return DocumentError(message, where=f"{where}: {field}" if field else where, hint=hint)


def _values_of(info: FieldInfo | None) -> str:
    """Return the values that a key may have, for a hint; three dots where there are too many."""
    annotation = None if info is None else info.annotation
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Enum):
            return " or ".join(f'"{member.value}"' for member in one)
    return "..."


def _in_words(fault: ErrorDetails, info: FieldInfo | None) -> tuple[str, str | None]:
    """Return what is wrong with a value, and the way out."""
    kind, value = fault["type"], f"{fault['input']!r:.80}"
    if kind == "value_error":
        return fault["msg"].removeprefix("Value error, "), None
    if kind in _OUTSIDE:
        ranges = () if info is None else ranges_of(info)
        return f"{value} is out of range", " or ".join(f"use {one}" for one in ranges) or None
    if kind in ("enum", "literal_error"):
        choices = re.findall(r"'([^']*)'", str(fault.get("ctx", {}).get("expected", "")))
        return f"{value} is unknown", nearest_hint(str(fault["input"]), choices)
    wrong, way_out = _NOT.get(kind.partition("_")[0], (None, None))
    if kind.endswith("too_short"):
        wrong, way_out = "too short", "give at least one character or entry"
    if wrong is not None:
        shown = "a table" if isinstance(fault["input"], dict) else value
        return f"{shown} is {wrong}", way_out
    return f"{fault['msg']}, not {value}", None


def keys_of(spec: type[BaseModel]) -> list[str]:
    """Return the keys that a document of this specification may have, as they are written."""
    return [
        str(info.validation_alias or name)
        for name, info in spec.model_fields.items()
        if info.init is not False
    ]


def _deeper(spec: type[BaseModel], key: str) -> Iterator[str]:
    """Yield the paths of a key in the tables of a specification."""
    for name in keys_of(spec):
        table = _place(spec, [name])[0]
        if table is not spec and key in keys_of(table):
            yield f"{name}.{key}"


def _place(spec: type[BaseModel], location: list[str]) -> tuple[type[BaseModel], FieldInfo | None]:
    """Return the specification and the field at a location, as far as they are known."""
    field = None
    for part in location:
        for name, info in spec.model_fields.items():
            if part in (name, info.validation_alias):
                field = info
                candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
                nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
                spec = nested[0] if nested else spec
                break
    return spec, field


@dataclass(frozen=True, slots=True)
class NumberRange:
    """The range of a field of plain numbers.

    Attributes:
        at_least: the smallest number; None if `more_than` is the lower end, or if there is none.
        more_than: the lower end, if it is not part of the range.
        at_most: the largest number; None if `less_than` is the upper end, or if there is none.
        less_than: the upper end, if it is not part of the range.
    """

    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    less_than: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether the range has a lower and an upper end."""
        low = self.at_least is not None or self.more_than is not None
        return low and (self.at_most is not None or self.less_than is not None)

    def __str__(self) -> str:
        """Return the range in words, as in "at least 0 and at most 10"."""
        words = {
            "at least": self.at_least,
            "more than": self.more_than,
            "at most": self.at_most,
            "less than": self.less_than,
        }
        return " and ".join(f"{word} {end}" for word, end in words.items() if end is not None)


def ranges_of(info: FieldInfo) -> Iterator[NumberRange]:
    """Yield the range of each kind of plain number that a field holds, alone or in a tuple or dict.

    Quantities with units are left out: their ranges are in `attacc.units.Quantity`.
    """
    yield from _ranges(info.annotation, info.metadata)


def _ranges(annotation: object, metadata: Iterable[object]) -> Iterator[NumberRange]:
    conditions = list(metadata)
    if annotation is int or annotation is float:
        if not any(isinstance(condition, Quantity) for condition in conditions):
            ends = {"at_least": "ge", "more_than": "gt", "at_most": "le", "less_than": "lt"}
            found = {
                end: next((getattr(c, short) for c in conditions if hasattr(c, short)), None)
                for end, short in ends.items()
            }
            yield NumberRange(**found)
    elif get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        for condition in more:
            conditions += condition.metadata if isinstance(condition, FieldInfo) else [condition]
        yield from _ranges(inner, conditions)
    else:
        for argument in get_args(annotation):
            # Conditions of the whole type hold for its parts only where these are alternatives.
            whole = conditions if get_origin(annotation) in (Union, UnionType) else ()
            yield from _ranges(argument, whole)


@dataclass(frozen=True)
class Presets(Generic[P]):
    """The documents of one kind that are shipped with the package.

    Attributes:
        kind: name of the kind, for messages and listings, as in "model".
        spec: specification of the documents.
        package: the package that holds them, as in "attacc.models".
        folder: the folder of TOML files inside the package.
    """

    kind: str
    spec: type[P]
    package: str
    folder: str

    def names(self) -> list[str]:
        """Return the names of all presets, sorted."""
        folder = files(self.package) / self.folder
        return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))

    def name_of(self, name: str, *, where: str | None = None) -> str:
        """Return the spelling of a preset's name that is given in small or capital letters.

        Raises:
            UnknownNameError: there is no such preset; proposes the nearest names.
        """
        spelt = _spellings(self).get(name.lower())
        if spelt is None:
            raise UnknownNameError(f"{self.kind} preset", name, self.names(), where=where)
        return spelt

    def text(self, name: str, *, where: str | None = None) -> str:
        """Return the TOML document of the preset of this name.

        Raises:
            UnknownNameError: there is none; proposes the nearest names.
        """
        source = files(self.package) / self.folder / f"{self.name_of(name, where=where)}.toml"
        return source.read_text(encoding="utf-8")

    def preset_document(self, name: str, *, where: str | None = None) -> dict[str, object]:
        """Return what the preset of this name says, with all keys of the preset that it changes.

        Raises:
            UnknownNameError: there is none; proposes the nearest names.
        """
        name = self.name_of(name, where=where)
        return self.completed(tomllib.loads(self.text(name)), Path(f"{name}.toml"))

    def load(self, name: str, *, where: str | None = None) -> P:
        """Return the preset of this name.

        Raises:
            UnknownNameError: there is none; proposes the nearest names.
        """
        return _load_preset(self, self.name_of(name, where=where))

    def load_name_or_file(self, name: str, *, where: str | None = None) -> P:
        """Return a preset by its name, or a document by its path (with a suffix or a slash)."""
        if not names_file(name):
            return self.load(name, where=where)
        try:
            return self.load_file(Path(name))
        except DocumentError as error:
            if where is not None and error.where == name:
                error.where = f"{where}: {name}"
            raise

    def load_any(
        self,
        source: str | Path | Mapping[str, object] | P,
        changes: Mapping[str, object] | None = None,
        *,
        where: str | None = None,
    ) -> P:
        """Return a document by its name, path or content, with some of its keys changed.

        Args:
            source: a preset's name, a path, a document as a mapping (with ``base``, if it changes
                a preset), or a specification that is loaded already.
            changes: key -> value, as a document would have them; keys of tables with a dot, as in
                "attacc.stacks_per_device", or as mappings.
            where: the option or argument that the source came from, for messages.

        Raises:
            DocumentError: a file is malformed, or the document does not keep to its specification.
            UnknownNameError: there is no such preset.
            InputError: a specification that is loaded already is to be changed.
        """
        if isinstance(source, self.spec):
            if changes:
                raise InputError(
                    f"a {self.kind} that is loaded already is not changed",
                    where=where,
                    hint="give its name, its file, or a document",
                )
            return source
        if not isinstance(source, str | Path | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"{source!r:.60} is no {self.kind}",
                where=where,
                hint="give its name, its file, or a document",
            )
        if isinstance(source, str | Path) and not changes:
            return self.load_name_or_file(str(source), where=where)
        at, folder = where or self.kind, None
        if isinstance(source, Mapping):
            document = self.completed(source, Path(at))
        elif names_file(str(source)):
            at, folder = str(source), Path(str(source)).parent
            document = self.document(Path(str(source)))
        else:
            document = self.preset_document(str(source), where=where)
        own = _nested(changes or {})
        if own:
            told: dict[str, object] = {"sources": dict.fromkeys(_paths(own), BY_HAND)}
            if document.get("description"):
                told["description"] = f"{document['description']}, {BY_HAND}"
            document = _merged(_merged(document, told), own)
        return parse_document(self.spec, document, where=at, folder=folder)

    def load_file(self, path: Path) -> P:
        """Return a document of one's own (`document`).

        Raises:
            DocumentError: the file cannot be read, or it does not keep to its specification.
            UnknownNameError: it changes a preset that does not exist.
        """
        return self.parse(self.document(path), path)

    def parse(self, document: Mapping[str, object], path: Path) -> P:
        """Check a complete document of a file against the specification.

        Raises:
            DocumentError: it does not keep to its specification.
        """
        return parse_document(self.spec, document, where=str(path), folder=path.parent)

    def document(self, path: Path) -> dict[str, object]:
        """Return what a document of one's own says, completed by the preset that it changes.

        Raises:
            DocumentError: the file cannot be read, or its ``base`` is no name.
            UnknownNameError: there is no such preset.
        """
        return self.completed(read_document(path), path)

    def completed(self, document: Mapping[str, object], path: Path) -> dict[str, object]:
        """Return a document of one's own with all keys of the preset that it changes.

        Its key ``base`` names that preset. Every key that it has replaces the preset's, in tables
        key by key; the others stay. Its name is the file's, unless it has one. Where it changes a
        number, the file is the source.

        Args:
            document: what the file says.
            path: the file.

        Raises:
            DocumentError: its ``base`` is no name.
            UnknownNameError: there is no such preset.
        """
        own = dict(document)
        if BASE not in own:
            return own
        base = own.pop(BASE)
        if not isinstance(base, str):
            raise DocumentError(
                f"{base!r:.60} is no name of a preset",
                where=f"{path}: {BASE}",
                hint="choose from " + ", ".join(self.names()),
            )
        preset = self.preset_document(base, where=f"{path}: {BASE}")
        file = name_as_text(path.name)
        sources = own.get("sources")
        default: object = file
        if isinstance(sources, dict):  # its default is that of its own keys, not of the preset's
            sources = dict(cast("dict[str, object]", sources))
            default = sources.pop("default", file)
            own["sources"] = sources
        told = {
            "name": name_as_text(path.stem),
            "description": f"{self.name_of(base)}, changed by {file}",
            "sources": {key: default for key in _paths(own) if key.partition(".")[0] not in _TOLD},
        }
        return _merged(_merged(preset, told), own)


def _nested(changes: Mapping[str, object]) -> dict[str, object]:
    """Return changes with a table for each part of a dotted key."""
    nested: dict[str, object] = {}
    for key, value in changes.items():
        *tables, last = key.split(".")
        change: dict[str, object] = {last: value}
        for table in reversed(tables):
            change = {table: change}
        nested = _merged(nested, change)
    return nested


def _merged(document: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """Return a document with some keys replaced, in tables key by key."""
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merged(cast("dict[str, object]", old), cast("dict[str, object]", value))
        else:
            merged[key] = value
    return merged


def _paths(document: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of all keys that hold no table."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _paths(cast("dict[str, object]", value), f"{prefix}{key}.")
        else:
            yield prefix + key


@cache
def _spellings(presets: Presets[P]) -> dict[str, str]:
    """Return the names of all presets, by the same name in small letters."""
    return {name.lower(): name for name in presets.names()}


@cache  # one entry for each preset
def _load_preset(presets: Presets[P], name: str) -> P:
    """Return the preset whose name is spelt so."""
    document = presets.preset_document(name)
    return parse_document(presets.spec, document, where=f"{presets.kind} preset {name}")
