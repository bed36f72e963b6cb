"""Documents that people write: TOML and JSON files, checked against typed specifications.

A `Spec` is a frozen, closed pydantic model: an unknown key, a missing one or an impossible value
is a `DocumentError` that names the file, the field, the value and the nearest valid choice.
`Presets` are documents shipped inside the package, one per file, addressed by name.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from attacc.errors import DocumentError, UnknownNameError, nearest_hint

SUFFIXES: Final = (".toml", ".json")


class Spec(BaseModel):
    """Base of everything that people write: immutable, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, strict=True
    )


class PresetSpec(Spec):
    """A specification that can be shipped as a preset.

    Attributes:
        name: the preset's name; the file is called the same.
        description: one sentence for listings.
        sources: field (or "default" for all other fields) -> where its numbers come from.
    """

    name: str = Field(min_length=1)
    description: str = ""
    sources: dict[str, str] = Field(default_factory=dict)


S = TypeVar("S", bound=Spec)
P = TypeVar("P", bound=PresetSpec)


def read_document(path: Path) -> dict[str, object]:
    """Read a TOML or JSON file whose top level is a table.

    Raises:
        DocumentError: the file is absent, unreadable, of another kind, or malformed.
    """
    where = str(path)
    if path.suffix not in SUFFIXES:
        raise DocumentError(
            f"unknown file kind {path.suffix!r}", where=where, hint="use a .toml or .json file"
        )
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        hint = nearest_hint(path.name, _siblings(path))
        raise DocumentError("no such file", where=where, hint=hint) from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}", where=where) from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not UTF-8 text: {error}", where=where) from None
    except (ValueError, RecursionError) as error:  # malformed, or a number of too many digits
        kind = path.suffix[1:].upper()
        raise DocumentError(f"is not valid {kind}: {error}", where=where) from None
    if not isinstance(document, dict):
        raise DocumentError(f"holds {document!r:.60}, not a table of named fields", where=where)
    return cast(dict[str, object], document)


def _siblings(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir() if p.suffix in SUFFIXES]
    except OSError:
        return []


def parse_document(spec: type[S], document: Mapping[str, object], *, where: str) -> S:
    """Check a document against its specification.

    Args:
        spec: the specification's class.
        document: the parsed file.
        where: the file's name, for messages.

    Raises:
        DocumentError: the first fault, and how many more there are.
    """
    try:
        text = json.dumps(document, default=str)
    except (ValueError, RecursionError) as error:  # a hexadecimal of thousands of digits, say
        raise DocumentError(f"is not usable: {error}", where=where) from None
    try:
        # The context tells the validators of quantities that this is a document: units required.
        # JSON mode is strict about types, yet lets lists become tuples and text enumerations.
        return spec.model_validate_json(text, strict=True, context={"document": where})
    except ValidationError as error:
        faults = error.errors(include_url=False)
        # A misspelt key explains the missing one, so it is the one to report.
        faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
        raise _document_error(spec, faults[0], len(faults) - 1, where) from None


def load_document(spec: type[S], path: Path) -> S:
    """Read a TOML or JSON file and check it against its specification."""
    return parse_document(spec, read_document(path), where=str(path))


def _document_error(
    spec: type[BaseModel], fault: ErrorDetails, others: int, where: str
) -> DocumentError:
    location = [str(part) for part in fault["loc"] if not str(part).startswith("function-")]
    field = ".".join(location)
    hint: str | None = None
    if fault["type"] == "extra_forbidden":
        message = f"unknown key {location[-1]!r}"
        hint = nearest_hint(location[-1], keys_of(_spec_at(spec, location[:-1])))
    elif fault["type"] == "missing":
        message = f"missing key {location[-1]!r}"
        hint = f"add {location[-1]} = ..."
    else:
        message = fault["msg"].removeprefix("Value error, ")
        value = repr(fault["input"])
        if fault["type"] != "value_error" and not isinstance(fault["input"], dict):
            message += f", not {value:.80}"
    if others:
        message += f"; {others} more fault{'s' if others > 1 else ''} in this document"
    return DocumentError(message, where=f"{where}: {field}" if field else where, hint=hint)


def keys_of(spec: type[BaseModel]) -> list[str]:
    """Return the keys that a document of this specification may have, as they are written."""
    return [
        str(info.validation_alias or name)
        for name, info in spec.model_fields.items()
        if info.init is not False
    ]


def _spec_at(spec: type[BaseModel], location: list[str]) -> type[BaseModel]:
    """Return the specification that holds the field at this location, as far as it is known."""
    for part in location:
        for name, info in spec.model_fields.items():
            if part not in (name, info.validation_alias):
                continue
            candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
            nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
            if nested:
                spec = nested[0]
    return spec


@dataclass(frozen=True)
class Presets(Generic[P]):
    """The documents of one kind that are shipped with the package.

    Attributes:
        kind: what they are, for messages and listings, as in "model".
        spec: their specification.
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

    def load(self, name: str, *, where: str | None = None) -> P:
        """Return the preset of this name.

        Raises:
            UnknownNameError: there is none; proposes the nearest names.
        """
        loaded = _load_preset(self, name)
        if loaded is None:
            raise UnknownNameError(f"{self.kind} preset", name, self.names(), where=where)
        return loaded

    def load_name_or_file(self, name: str, *, where: str | None = None) -> P:
        """Return a preset by its name, or a document by its path (with a suffix or a slash)."""
        path = Path(name)
        if path.suffix in SUFFIXES or "/" in name:
            return load_document(self.spec, path)
        return self.load(name, where=where)


@cache
def _load_preset(presets: Presets[P], name: str) -> P | None:
    """Return the preset of this name; None if there is none."""
    if name not in presets.names():
        return None
    source = files(presets.package) / presets.folder / f"{name}.toml"
    document = tomllib.loads(source.read_text(encoding="utf-8"))
    return parse_document(presets.spec, document, where=f"{presets.kind} preset {name}")
