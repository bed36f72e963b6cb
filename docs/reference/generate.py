"""Writes the reference pages of all documents: ``python docs/reference/generate.py``.

Every key of every kind of document, with its type, default, unit or range, and meaning, from the
specifications in the code. A test compares the pages with what this module would write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from attacc.documents import PresetSpec, Spec, keys_of, ranges_of
from attacc.gpu.calibrated.coefficients import CalibrationSpec
from attacc.gpu.frameworks import ServingSpec
from attacc.hardware.cpu import CpuSpec
from attacc.hardware.dram import DramDevice, RuleSet
from attacc.hardware.gpu import GpuSpec
from attacc.hardware.link import LinkSpec
from attacc.hardware.system import SystemSpec
from attacc.models.architecture import ModelSpec
from attacc.pim.energy.dram import DramEnergy
from attacc.study.accuracy import AccuracySpec
from attacc.study.specification import StudySpec
from attacc.units import Quantity
from attacc.workload.synthetic import SyntheticSpec

HERE: Final = Path(__file__).parent
PAGES: Final[dict[str, tuple[str, type[BaseModel]]]] = {
    "study": ("A comparison: `attacc compare STUDY.toml`", StudySpec),
    "system": ("A system: GPUs, and what decode attention runs on", SystemSpec),
    "model": ("A language model", ModelSpec),
    "device": ("A DRAM device: a stack with its units", DramDevice),
    "rules": ("The commands and timing rules of devices", RuleSet),
    "energy": ("Energy per event inside a DRAM stack", DramEnergy),
    "gpu": ("A GPU", GpuSpec),
    "cpu": ("A CPU socket with its memory", CpuSpec),
    "link": ("A link between devices", LinkSpec),
    "workload": ("A distribution of lengths to sample requests from", SyntheticSpec),
    "calibration": ("A GPU's operators, fitted to measurements", CalibrationSpec),
    "serving": ("What a serving framework adds to the operators", ServingSpec),
    "accuracy": ("What is asked about accuracy: `attacc.accuracy(...)`", AccuracySpec),
}
"""Page -> its title and its specification."""


def page(name: str) -> str:
    """Return the text of a page."""
    title, spec = PAGES[name]
    lines = [
        f"# {title}",
        "",
        "<!-- Written by docs/reference/generate.py: change the code, not this page. -->",
        "",
    ]
    if issubclass(spec, PresetSpec) or spec is StudySpec:
        lines += [
            f"`attacc presets {name} NAME --toml` prints a document to start from.",
            'The key `base = "NAME"` takes all other keys from a preset.',
            "",
        ]
    for heading, table in _tables(spec, ""):
        if heading:
            lines += [f"## {heading}", ""]
        lines += [*table, ""]
    return "\n".join(lines).rstrip() + "\n"


def _tables(spec: type[BaseModel], prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the heading and the rows of a table, and of all tables inside it."""
    meanings = _meanings(spec)
    rows = ["| key | type | default | unit or range | meaning |", "|---|---|---|---|---|"]
    inner: list[tuple[str, type[BaseModel]]] = []
    for (attribute, info), key in zip(spec.model_fields.items(), keys_of(spec), strict=True):
        nested = _nested(info.annotation)
        path = f"{prefix}{key}"
        if nested is not None:
            inner.append((path, nested))
        cells = (
            f"`{key}`",
            _type(info.annotation)
            if not any(_metadata(info.annotation, info.metadata))
            else "text with a unit",
            _default(info),
            _range(info),
            meanings.get(attribute, ""),
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    yield (f"`[{prefix.rstrip('.')}]`" if prefix else "", rows)
    for path, nested in inner:
        yield from _tables(nested, f"{path}.")


def _nested(annotation: object) -> type[BaseModel] | None:
    """Return the specification of a table inside, alone or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _nested(argument)
        if found is not None:
            return found
    return None


def _type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in arguments if one is not NoneType)
    if origin is Literal:
        return " or ".join(f'`"{one}"`' for one in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if isinstance(annotation, type):
        if issubclass(annotation, StrEnum):
            return " or ".join(f'`"{one}"`' for one in annotation)
        if issubclass(annotation, BaseModel):
            return "table"
        names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
        return names.get(annotation.__name__, annotation.__name__)
    return str(annotation)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "needed"
    value: Any = info.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, Spec):
        return "its own"
    if isinstance(value, tuple):
        shown = ", ".join(f"`{one}`" for one in value[:3])  # pyright: ignore[reportUnknownVariableType]
        return f"{shown}, ..." if len(value) > 3 else shown or "empty"  # pyright: ignore[reportUnknownArgumentType]
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(info: FieldInfo) -> str:
    found = [f"{one.dimension}, {one.text}" for one in _metadata(info.annotation, info.metadata)]
    plain = (str(one) for one in ranges_of(info) if one.bounded)
    return "; ".join(dict.fromkeys([*found, *plain]))


def _metadata(annotation: object, metadata: list[Any]) -> Iterator[Quantity]:
    yield from (one for one in metadata if isinstance(one, Quantity))
    if get_origin(annotation) is Annotated:
        yield from (one for one in get_args(annotation)[1:] if isinstance(one, Quantity))
    for argument in get_args(annotation):
        yield from _metadata(argument, [])


def _meanings(spec: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings of a specification, and of its bases, say of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(spec.__mro__):
        text = base.__dict__.get("__doc__") or ""
        part = text.partition("Attributes:")[2]
        for match in re.finditer(r"^ {8}(\w+): ((?:.|\n {12})+)", part, re.MULTILINE):
            found[match[1]] = " ".join(match[2].split())
    return found


def main() -> None:
    """Write all pages."""
    for name in PAGES:
        (HERE / f"{name}.md").write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    main()
