"""``attacc presets``: what is shipped with the package, with the source of every number."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, cast

import typer

from attacc.cli.options import Json
from attacc.cli.output import print_answer, print_text
from attacc.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from attacc.documents import Presets, PresetSpec, Spec
    from attacc.report.presets import Preset, PresetField, PresetKind


def _models() -> Presets[Any]:
    from attacc.models.architecture import MODELS

    return MODELS


def _workloads() -> Presets[Any]:
    from attacc.workload.synthetic import WORKLOADS

    return WORKLOADS


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
    """A kind of preset: what it describes, and the room that has it, loaded when needed."""

    description: str
    presets: Callable[[], Presets[Any]]


KINDS: Final = {
    "model": _Kind("what a language model consists of", _models),
    "workload": _Kind("lengths of prompts and answers", _workloads),
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


def presets(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Kind of preset: " + ", ".join(KINDS))
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE", help="One preset, or a document of that kind, shown in full."
        ),
    ] = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the preset's own document, to start from.")
    ] = False,
    json: Json = False,
) -> None:
    """List what is shipped: models, systems and so on, with the source of every number.

    Without KIND all kinds, with it the presets of that kind, and with NAME every field of one.
    """
    if toml:
        _print_document(kind, name, json=json)
        return
    from attacc.report.presets import kinds_renderable, preset_renderable, presets_renderable

    if kind is None:
        print_answer([_listed(known) for known in KINDS], kinds_renderable, as_json=json)
        return
    _known(kind)
    if name is None:
        print_answer(_listed(kind), presets_renderable, as_json=json)
    else:
        print_answer(_shown(kind, name), preset_renderable, as_json=json)


def _print_document(kind: str | None, name: str | None, *, json: bool) -> None:
    """Print the document of a preset as it is shipped, with its comments and sources."""
    if kind is None or name is None or json:
        raise InputError(
            "prints the document of one preset",
            where="--toml",
            hint="name the kind and the preset, without --json: "
            "attacc presets system dgx-attacc-bank --toml",
        )
    _known(kind)
    print_text(KINDS[kind].presets().text(name))


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownNameError("kind of preset", kind, KINDS, where="KIND")


def _listed(kind: str) -> PresetKind:
    from attacc.report.presets import PresetKind, PresetName

    known = KINDS[kind].presets()
    return PresetKind(
        kind=kind,
        description=KINDS[kind].description,
        presets=[PresetName(name, known.load(name).description) for name in known.names()],
    )


def _shown(kind: str, name: str) -> Preset:
    from attacc.documents import names_file
    from attacc.report.presets import Preset

    known = KINDS[kind].presets()
    if names_file(name):
        document = known.document(Path(name))
        spec = cast("PresetSpec", known.parse(document, Path(name)))
    else:
        name = known.name_of(name)
        spec = known.load(name)
        document = tomllib.loads(known.text(name))
    return Preset(
        kind=kind,
        name=name,
        description=spec.description,
        fields=list(_fields(spec, document)),
    )


def _fields(spec: PresetSpec, document: Mapping[str, object]) -> Iterator[PresetField]:
    """Go through all fields of a preset, as they are or would be written in its document."""
    from attacc.documents import PresetSpec
    from attacc.report.presets import PresetField

    for field, value, is_default in _values(spec, document, ""):
        if field.partition(".")[0] not in PresetSpec.model_fields:
            source = None if is_default else _source(field, spec.sources)
            yield PresetField(field, value, is_default, source)


def _values(
    spec: Spec, document: Mapping[str, object], prefix: str
) -> Iterator[tuple[str, object, bool]]:
    """Yield dotted field, value as written, and whether it is the specification's default."""
    from attacc.documents import Spec, keys_of

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
