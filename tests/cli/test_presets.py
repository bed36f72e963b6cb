"""``attacc presets``."""

import io
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

import pytest
from rich.console import Console

import attacc.gpu.calibrated.coefficients
import attacc.gpu.frameworks
import attacc.gpu.published.model
import attacc.hardware.cpu
import attacc.hardware.dram
import attacc.hardware.gpu
import attacc.hardware.link
import attacc.hardware.system
import attacc.models.architecture
import attacc.pim.energy.dram
import attacc.study.specification
import attacc.workload.synthetic
from attacc.cli.presets import KIND_NAMES
from attacc.documents import Presets
from attacc.report import presets as records
from attacc.study import shipped
from tests.cli.console import answer, document, refusal

EXPECTED: Final[dict[str, Presets[Any]]] = {
    "model": attacc.models.architecture.MODELS,
    "workload": attacc.workload.synthetic.WORKLOADS,
    "study": attacc.study.specification.STUDIES,
    "system": attacc.hardware.system.SYSTEMS,
    "gpu": attacc.hardware.gpu.GPUS,
    "cpu": attacc.hardware.cpu.CPUS,
    "link": attacc.hardware.link.LINKS,
    "device": attacc.hardware.dram.DRAMS,
    "rules": attacc.hardware.dram.RULE_SETS,
    "energy": attacc.pim.energy.dram.DRAM_ENERGIES,
    "cost-model": attacc.gpu.published.model.COST_MODELS,
    "calibration": attacc.gpu.calibrated.coefficients.CALIBRATIONS,
    "cpu-calibration": attacc.gpu.calibrated.coefficients.CPU_CALIBRATIONS,
    "serving": attacc.gpu.frameworks.SERVING,
}
NAMES = [(kind, name) for kind, presets in EXPECTED.items() for name in presets.names()]


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Return dotted path -> value of everything in a document that is no table."""
    if isinstance(value, list):
        items = cast("list[object]", value)
        if any(isinstance(item, dict) for item in items):
            value = {str(i): item for i, item in enumerate(items)}
    if not isinstance(value, dict):
        return {path[1:]: value}
    found: dict[str, object] = {}
    for key, nested in cast("dict[str, object]", value).items():
        found |= leaves(nested, f"{path}.{key}")
    return found


def written(kind: str, name: str) -> dict[str, object]:
    """Return a preset's file, with the tables of the preset that it changes under its own."""
    presets = EXPECTED[kind]
    text = (files(presets.package) / presets.folder / f"{name}.toml").read_text(encoding="utf-8")
    own = tomllib.loads(text)
    if "base" not in own:
        return own
    base = str(own.pop("base"))
    found = written(kind, base)
    # Numbers that stay keep the sources that they have there, the default included.
    sources = cast("dict[str, object]", found.pop("sources"))
    found["sources"] = {f"{base}: {key}": source for key, source in sources.items()}
    return merged(found, own)


def merged(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    """Return a document with another's keys in place of its own, in tables within tables, too."""
    found = dict(old)
    for key, value in new.items():
        before = found.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        found[key] = (
            merged(cast("dict[str, object]", before), cast("dict[str, object]", value))
            if both
            else value
        )
    return found


def test_every_kind_is_listed() -> None:
    """A kind of preset that the command does not know, or lists under another's name."""
    kinds = document("presets")
    assert [kind["kind"] for kind in kinds] == list(EXPECTED) == list(KIND_NAMES)
    text = answer("presets")
    for kind in kinds:
        assert list(kind) == ["kind", "description", "presets"]
        names = [preset["name"] for preset in kind["presets"]]
        assert names == EXPECTED[kind["kind"]].names()
        assert f" {len(names)}  " in text
        for name in (kind["kind"], *names):
            assert name in text


def test_all_presets_of_the_package_are_reached() -> None:
    """A room that gains a kind of preset has to be added to the command."""
    package = Path(str(files("attacc")))
    folders = {file.parent for file in package.rglob("presets/**/*.toml")}
    shown = {
        package.parent / presets.package.replace(".", "/") / presets.folder
        for presets in EXPECTED.values()
    }
    assert shown == folders


@pytest.mark.parametrize("kind", list(EXPECTED))
def test_presets_of_a_kind(kind: str) -> None:
    """Descriptions of other presets, or cut off."""
    presets = EXPECTED[kind]
    listed = document("presets", kind)
    assert listed["kind"] == kind
    assert listed["presets"] == [
        {"name": name, "description": presets.load(name).description} for name in presets.names()
    ]
    words = answer("presets", kind).split()
    for preset in listed["presets"]:
        assert preset["name"] in words
        assert set(preset["description"].split()) <= set(words)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_one_preset(kind: str, name: str) -> None:
    """A field that is left out, a value that is not the file's, a number without its source."""
    shown = document("presets", kind, name)
    assert list(shown) == ["kind", "name", "description", "fields"]
    assert (shown["kind"], shown["name"]) == (kind, name)
    file = written(kind, name)
    assert shown["description"] == file.pop("description")
    assert file.pop("name") == name
    sources = file.pop("sources")
    assert isinstance(sources, dict)
    values = leaves(file)
    for field in shown["fields"]:
        assert list(field) == ["field", "value", "is_default", "source"]
        if field["is_default"]:
            assert field["field"] not in values
            assert field["source"] is None
        else:
            assert field["value"] == values.pop(field["field"])
            assert field["source"] in sources.values()
    assert not values


@pytest.mark.untraced  # of all presets, as test_one_preset, which is traced
@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_preset_can_be_told(kind: str, name: str) -> None:
    """A value that the table cannot show; a source that is missing below it."""
    shown = document("presets", kind, name)
    words = answer("presets", kind, name).split()
    for field in shown["fields"]:
        assert field["field"] in words
        assert set((field["source"] or "").split()) <= set(words)


def test_sources_by_the_longest_prefix() -> None:
    """A number shown with the source of its neighbours."""
    device = document("presets", "device", "hbm3-6.4-asplos24")
    source = {field["field"]: field["source"] for field in device["fields"]}
    assert source["timing.nRFC"].startswith("350 ns divided by the clock")
    assert source["timing.nRCD"].startswith("DRAMsim3")
    assert source["power_limited.nCCDAB"].startswith("cadence")
    assert source["unlimited.nCCDAB"].startswith("AttAcc, ASPLOS 2024")


def test_defaults_of_the_specification() -> None:
    """What a preset does not say still decides; it must be shown, and as a default."""
    model = document("presets", "model", "llama-2-7b")
    fields = {field["field"]: field for field in model["fields"]}
    for name, value in (("experts", None), ("biases.qkv", False), ("final_norm", True)):
        assert fields[name] == {"field": name, "value": value, "is_default": True, "source": None}
    text = answer("presets", "model", "llama-2-7b")
    assert ["experts", "none", "default"] in [line.split() for line in text.splitlines()]
    assert ["final_norm", "yes", "default"] in [line.split() for line in text.splitlines()]


def test_field_without_a_source() -> None:
    """A preset need not name sources; the table then leaves the place empty."""
    field = shipped.PresetField("cores", 3, is_default=False, source=None)
    preset = shipped.Preset("gpu", "mine", "a GPU", [field])
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(records.preset_renderable(preset))
    assert ["cores", "3"] in [line.split() for line in captured.get().splitlines()]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("modell",), ["KIND: unknown kind of preset 'modell'", "did you mean 'model'"]),
        (("models", "gpt3-175b"), ["'models'", "'model'"]),
        (("model", "gpt3-176b"), ["unknown model preset 'gpt3-176b'", "'gpt3-175b'"]),
        (("model", "mine.toml"), ["mine.toml: no such file"]),
        (("cost-model", "../published"), ["../published: unknown file kind ''"]),
        (("gpu", ""), ["unknown GPU preset ''"]),
        (("",), ["unknown kind of preset ''"]),
    ],
)
def test_unknown_names(args: tuple[str, ...], parts: list[str]) -> None:
    """A misspelt name answered with an empty list, or without the nearest."""
    for option in ((), ("--json",)):
        message = refusal("presets", *args, *option)
        for part in parts:
            assert part in message


@pytest.mark.untraced  # of all presets: it would take twice as long
@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_the_document_of_a_preset_is_that_preset(kind: str, name: str, tmp_path: Path) -> None:
    """Catches a document that lost something on its way to the user's own file."""
    path = tmp_path / f"{name}.toml"
    path.write_text(answer("presets", kind, name.upper(), "--toml"), encoding="utf-8")
    shown, shipped = document("presets", kind, path), document("presets", kind, name)
    assert shown["fields"] == shipped["fields"]
    assert EXPECTED[kind].load(name.upper()) is EXPECTED[kind].load(name)


def test_a_document_of_several_presets_is_refused() -> None:
    """Catches a table where a document was asked for."""
    assert "prints the document of one preset" in refusal("presets", "gpu", "--toml")
    assert "prints the document of one preset" in refusal(
        "presets", "gpu", "h200", "--toml", "--json"
    )
    assert "unknown kind of preset" in refusal("presets", "gpus", "h200", "--toml")
    assert "no such file" in refusal("presets", "gpu", "none.toml")
