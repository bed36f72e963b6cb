"""The presets of the package: their kinds, their names, and every field with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, overload

from attacc.documents import Presets, PresetSpec, Spec, keys_of, names_file
from attacc.errors import InputError, UnknownNameError
from attacc.results import Listing, Result


@dataclass(frozen=True, slots=True)
class PresetName:
    """One preset in a list.

    Attributes:
        name: what options and documents call it.
        description: one sentence.
    """

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class PresetKind(Result):
    """All presets of a kind.

    Attributes:
        kind: name of the kind on the command line.
        description: what a preset of this kind describes.
        presets: the presets, sorted by name.
    """

    kind: str
    description: str
    presets: list[PresetName]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each preset."""
        return [asdict(preset) for preset in self.presets]


@dataclass(frozen=True, slots=True)
class PresetField:
    """One field of a preset.

    Attributes:
        field: name of the field in a document, after the tables that it lies in, as in
            "timing.nRCD".
        value: value as written in a document; a quantity is text with its unit.
        is_default: whether the preset leaves the field out, so that its default holds.
        source: where the value comes from; None for defaults.
    """

    field: str
    value: object
    is_default: bool
    source: str | None


@dataclass(frozen=True, slots=True)
class Preset(Result):
    """One preset in full.

    Attributes:
        kind: name of its kind on the command line.
        name: name of the preset in options and documents.
        description: one sentence.
        fields: all fields.
    """

    kind: str
    name: str
    description: str
    fields: list[PresetField]

    def to_toml(self) -> str:
        """Return the document of the preset as it is shipped, with its comments and sources.

        Raises:
            UnknownNameError: it is a user's document, and not a preset.
        """
        return document_of(self.kind, self.name)

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each field, its value as text."""
        return [asdict(field) | {"value": str(field.value)} for field in self.fields]


def _models() -> Presets[Any]:
    from attacc.models.architecture import MODELS

    return MODELS


def _workloads() -> Presets[Any]:
    from attacc.workload.synthetic import WORKLOADS

    return WORKLOADS


def _studies() -> Presets[Any]:
    from attacc.study.specification import STUDIES

    return STUDIES


def _systems() -> Presets[Any]:
    from attacc.hardware.system import SYSTEMS

    return SYSTEMS


def _gpus() -> Presets[Any]:
    from attacc.hardware.gpu import GPUS

    return GPUS


def _cpus() -> Presets[Any]:
    from attacc.hardware.cpu import CPUS

    return CPUS


def _links() -> Presets[Any]:
    from attacc.hardware.link import LINKS

    return LINKS


def _devices() -> Presets[Any]:
    from attacc.hardware.dram import DRAMS

    return DRAMS


def _rules() -> Presets[Any]:
    from attacc.hardware.dram import RULE_SETS

    return RULE_SETS


def _energies() -> Presets[Any]:
    from attacc.pim.energy.dram import DRAM_ENERGIES

    return DRAM_ENERGIES


def _cost_models() -> Presets[Any]:
    from attacc.gpu.published.model import COST_MODELS

    return COST_MODELS


def _calibrations() -> Presets[Any]:
    from attacc.gpu.calibrated.coefficients import CALIBRATIONS

    return CALIBRATIONS


def _cpu_calibrations() -> Presets[Any]:
    from attacc.gpu.calibrated.coefficients import CPU_CALIBRATIONS

    return CPU_CALIBRATIONS


def _serving() -> Presets[Any]:
    from attacc.gpu.frameworks import SERVING

    return SERVING


class _Kind(NamedTuple):
    """A kind of preset: its description, and a function that loads the module with its presets."""

    description: str
    presets: Callable[[], Presets[Any]]


KINDS: Final = {
    "model": _Kind("what a language model consists of", _models),
    "workload": _Kind("lengths of prompts and answers", _workloads),
    "study": _Kind("which systems are compared, on what", _studies),
    "system": _Kind("GPUs, and what decode attention runs on", _systems),
    "gpu": _Kind("one GPU", _gpus),
    "cpu": _Kind("one socket with its memory", _cpus),
    "link": _Kind("between devices", _links),
    "device": _Kind("a DRAM stack with its timing", _devices),
    "rules": _Kind("commands and timing rules of devices", _rules),
    "energy": _Kind("energy per bit inside a DRAM stack", _energies),
    "cost-model": _Kind("prices of operators on GPUs and links", _cost_models),
    "calibration": _Kind("a GPU's operators, fitted to measurements", _calibrations),
    "cpu-calibration": _Kind("what attention on a CPU reaches", _cpu_calibrations),
    "serving": _Kind("what a serving framework adds to the operators", _serving),
}
"""Every kind of preset, by the name that the command line gives it."""


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownNameError("kind of preset", kind, KINDS, where="kind")


def presets_of(kind: str) -> Presets[Any]:
    """Return the presets of a kind, to be loaded by name.

    Raises:
        UnknownNameError: there is no such kind.
    """
    _check_kind(kind)
    return KINDS[kind].presets()


def document_of(kind: str, name: str) -> str:
    """Return the document of a preset as it is shipped, with its comments and sources.

    Raises:
        UnknownNameError: there is no such kind, or preset.
    """
    return presets_of(kind).text(name)


def listed(kind: str) -> PresetKind:
    """Return the presets of a kind.

    Raises:
        UnknownNameError: there is no such kind.
    """
    _check_kind(kind)
    known = KINDS[kind].presets()
    return PresetKind(
        kind=kind,
        description=KINDS[kind].description,
        presets=[PresetName(name, known.load(name).description) for name in known.names()],
    )


def shown(kind: str, name: str) -> Preset:
    """Return every field of a preset, or of a document of that kind.

    Raises:
        UnknownNameError: there is no such kind, or preset.
        DocumentError: the file is absent or malformed.
    """
    _check_kind(kind)
    known = KINDS[kind].presets()
    if names_file(name):
        document = known.document(Path(name))
        spec = cast("PresetSpec", known.parse(document, Path(name)))
    else:
        name = known.name_of(name)
        spec = known.load(name)
        document = known.preset_document(name)
    return Preset(
        kind=kind,
        name=name,
        description=spec.description,
        fields=list(_fields(spec, document)),
    )


def _fields(spec: PresetSpec, document: Mapping[str, object]) -> Iterator[PresetField]:
    """Go through all fields of a preset, as they are or would be written in its document."""
    for field, value, is_default in _values(spec, document, ""):
        if field.partition(".")[0] not in PresetSpec.model_fields:
            source = None if is_default else _source(field, spec.sources)
            yield PresetField(field, value, is_default, source)


def _values(
    spec: Spec, document: Mapping[str, object], prefix: str
) -> Iterator[tuple[str, object, bool]]:
    """Yield dotted field, value as written, and whether it is the specification's default."""
    for attribute, key in zip(type(spec).model_fields, keys_of(type(spec)), strict=True):
        value, written, field = getattr(spec, attribute), document.get(key), prefix + key
        if isinstance(value, Spec):
            nested = cast("Mapping[str, object]", written or {})
            yield from _values(value, nested, f"{field}.")
        elif written is None:
            yield field, value, True
        else:
            for path, leaf in _leaves(field, written):
                yield path, leaf, False


def _leaves(field: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, nested in cast("dict[str, object]", value).items():
            yield from _leaves(f"{field}.{key}", nested)
    elif isinstance(value, list) and _holds_tables(cast("list[object]", value)):
        for number, item in enumerate(cast("list[object]", value)):
            yield from _leaves(f"{field}.{number}", item)
    else:
        yield field, value


def _holds_tables(values: list[object]) -> bool:
    return any(isinstance(value, dict) for value in values)


def _source(field: str, sources: Mapping[str, str]) -> str | None:
    """Return the source of a field: that of its longest prefix, or the default."""
    parts = field.split(".")
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in sources:
            return sources[key]
    return sources.get("default")


@overload
def presets() -> Listing[PresetKind]: ...
@overload
def presets(kind: str) -> PresetKind: ...
@overload
def presets(kind: str, name: str) -> Preset: ...
def presets(
    kind: str | None = None, name: str | None = None
) -> Listing[PresetKind] | PresetKind | Preset:
    """Return the presets of the package, the presets of a kind, or one preset.

    Args:
        kind: kind of preset, as in "system"; None for all kinds.
        name: name of a preset, or a file, to return every field with its source; None for all
            presets of the kind.

    Raises:
        UnknownNameError: there is no such kind, or preset.
        DocumentError: the file is absent or malformed.
    """
    for place, given in (("kind", kind), ("name", name)):
        if given is not None and not isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"{given!r:.60} is no text", where=place, hint="give a name")
    if kind is None:
        return Listing(listed(known) for known in KINDS)
    return listed(kind) if name is None else shown(kind, name)
