"""Writing fitted coefficients as documents, in the form of the presets."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final, cast

from pydantic import BaseModel

from attacc.documents import PresetSpec
from attacc.errors import InputError
from attacc.files import write_whole

SUFFIX: Final = ".toml"
DIGITS: Final = 4
"""Significant digits of a coefficient; measurements determine fewer."""
UNITS: Final = (
    ("bytes_per_s", 1e9, "GB/s"),
    ("_pj_per_byte", 1.0, "pJ/B"),
    ("_bytes", 1e6, "MB"),
    ("_ns", 1.0, "ns"),
    ("_pj", 1.0, "pJ"),
    ("_w", 1.0, "W"),
)
"""For each unit: the ending of a field's name, the divisor of its value, and the unit's text."""


def check_document(path: Path, where: str) -> None:
    """Refuse a file name that readers of documents do not take, before anything is computed.

    Args:
        path: the file to be written.
        where: the option or argument that named the file.

    Raises:
        InputError: the name does not end in .toml, or no writer of TOML is installed.
    """
    if path.suffix != SUFFIX:
        raise InputError(
            f"{path.suffix or 'no suffix'!r:.40} is no ending of a document's name",
            where=f"{where} {path}",
            hint=f"name it {path.stem or 'mine'}{SUFFIX}",
        )
    if importlib.util.find_spec("tomli_w") is None:
        raise _no_writer()


def _no_writer() -> InputError:
    return InputError(
        "documents are written by tomli-w, which is not installed",
        hint="pip install 'attacc[gpu]'",
    )


def document_toml(spec: PresetSpec) -> str:
    """Return the TOML text of a specification, with numbers of four digits.

    Raises:
        InputError: no writer of TOML is installed.
    """
    try:
        import tomli_w
    except ImportError:
        raise _no_writer() from None
    return tomli_w.dumps(_plain(spec))


def write_document(spec: PresetSpec, path: Path) -> None:
    """Write the document of a specification.

    Raises:
        DocumentError: the file cannot be written.
        InputError: no writer of TOML is installed.
    """
    write_whole(path, document_toml(spec).encode("utf-8"))


def _plain(record: BaseModel) -> dict[str, object]:
    document: dict[str, object] = {}
    for name, info in type(record).model_fields.items():
        value = getattr(record, name)
        if value is None or value in ((), {}, ""):
            continue
        document[str(info.validation_alias or name)] = _value(name, value)
    return document


def _value(name: str, value: object) -> object:
    if isinstance(value, BaseModel):
        return _plain(value)
    if isinstance(value, tuple):
        return [_value("", item) for item in cast("tuple[object, ...]", value)]
    if isinstance(value, float):
        for ending, scale, unit in UNITS:
            if name.endswith(ending):
                return f"{value / scale:.{DIGITS}g} {unit}"
        return float(f"{value:.{DIGITS}g}")
    return str(value) if isinstance(value, str) else value
