"""What a document names is found beside it, not where attacc runs among its namesakes."""

import os
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from attacc.documents import Presets, beside
from attacc.errors import DocumentError
from attacc.gpu.calibrated.coefficients import CALIBRATIONS
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.hardware.cpu import CPUS
from attacc.hardware.dram import DRAMS
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.hardware.system import SYSTEMS, ResolvedSystem, load_system
from attacc.models.architecture import MODELS
from attacc.study.specification import load_study
from attacc.workload.synthetic import WORKLOADS
from tests.cli.console import document, refusal


def raw(presets: Presets[Any], name: str) -> dict[str, Any]:
    text = (files(presets.package) / presets.folder / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def save(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return path


PARTS: dict[str, tuple[Presets[Any], str]] = {
    "gpu.toml": (GPUS, "a100"),
    "link.toml": (LINKS, "nvlink3"),
    "cpu.toml": (CPUS, "epyc-7742"),
    "dram.toml": (DRAMS, "hbm3-5.2"),
    "model.toml": (MODELS, "llama-2-7b"),
    "lengths.toml": (WORKLOADS, "azure-code-2023"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of documents called "mine"; attacc runs in another, of namesakes called "other"."""
    for place in ("mine", "other"):
        for name, (presets, preset) in PARTS.items():
            save(tmp_path / place, f"parts/{name}", raw(presets, preset) | {"name": place})
            save(tmp_path / place, name, raw(presets, preset) | {"name": place})
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "mine"


def names_of(system: ResolvedSystem) -> set[str]:
    found = {system.gpu.name}
    if system.link is not None:
        found.add(system.link.name)
    if system.host is not None:
        found |= {system.host.cpu.name, system.host.link.name}
    if system.attacc is not None:
        found.add(system.attacc.link.name)
        found.add(DRAMS.load_name_or_file(system.attacc.table.dram).name)
    return found


def system_of(site: str, prefix: str = "") -> dict[str, Any]:
    found = raw(SYSTEMS, "dgx-cpu" if site == "cpu" else "dgx-attacc-bank")
    found |= {"gpu": f"{prefix}gpu.toml", "link": f"{prefix}link.toml"}
    if site == "cpu":
        found["cpu"] |= {"preset": f"{prefix}cpu.toml", "link": f"{prefix}link.toml"}
    else:
        found["attacc"] |= {"dram": f"{prefix}dram.toml", "link": f"{prefix}link.toml"}
    return found


@pytest.mark.parametrize("prefix", ["", "./", "parts/", "../mine/"])
@pytest.mark.parametrize("site", ["cpu", "attacc"])
def test_a_system_names_files_beside_it(folder: Path, site: str, prefix: str) -> None:
    """Before, the namesakes of the current folder were taken, without a word."""
    path = save(folder, "system.toml", system_of(site, prefix))
    assert names_of(load_system(str(path))) == {"mine"}
    assert names_of(load_system(os.path.relpath(path))) == {"mine"}


def test_absolute_names_and_presets_stay(folder: Path) -> None:
    """Catches a folder that is put before what is no relative path."""
    absolute = str(folder.parent / "other" / "gpu.toml")
    path = save(folder, "system.toml", system_of("cpu") | {"gpu": absolute, "link": "nvlink4"})
    loaded = load_system(str(path))
    assert loaded.gpu.name == "other"
    assert loaded.link is not None
    assert loaded.link.name == "nvlink4"


def test_a_file_without_a_suffix_is_no_preset(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches ./a100 that becomes the preset a100 where the folder is the current one."""
    save(folder, "system.toml", system_of("cpu") | {"gpu": "./a100"})
    monkeypatch.chdir(folder)
    with pytest.raises(DocumentError, match="a100: unknown file kind"):
        load_system("system.toml")
    assert beside(Path(), "./a100") == "./a100"
    assert beside(Path(), "my.toml") == "my.toml"
    assert beside(Path("far"), "a100/") == "far/a100"


def test_an_absent_file_is_told_where_it_was_looked_for(folder: Path) -> None:
    """Catches a file of the current folder that takes the place of one that is missing."""
    (folder / "gpu.toml").unlink()
    path = save(folder, "system.toml", system_of("cpu"))
    with pytest.raises(DocumentError, match=f"{re.escape(str(folder))}/gpu.toml: no such file"):
        load_system(str(path))


def test_a_calibration_names_a_gpu_beside_it(folder: Path) -> None:
    """Before, the GPU's namesake of the current folder was taken."""
    found = raw(CALIBRATIONS, "b200") | {"gpu": "gpu.toml"}
    path = save(folder, "calibration.toml", found)
    assert CalibratedGpu.load(str(path)).gpu.name == "mine"


def test_a_study_names_files_beside_it(folder: Path) -> None:
    """One rule for the study and for what it names: system, model, lengths, and a trace."""
    save(folder, "system.toml", system_of("cpu"))
    study = {
        "model": "model.toml",
        "systems": ["system.toml"],
        "workload": {"synthetic": "lengths.toml"},
        "batch": 1,
    }
    loaded = load_study(save(folder, "study.toml", study))
    assert loaded.load_model().name == "mine"
    assert loaded.load_workload().name == "mine"
    assert names_of(load_system(loaded.systems[0])) == {"mine"}
    for place in (folder, folder.parent / "other"):
        header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        line = f"2023-11-16 18:15:46.6805900,374,{44 if place == folder else 45}\n"
        (place / "requests").write_text(header + line)
    traced = load_study(save(folder, "s.toml", study | {"workload": {"trace": "requests"}}))
    assert traced.load_workload().mean_output_tokens == 44


def test_options_beside_a_study_are_relative_to_the_current_folder(folder: Path) -> None:
    """Catches an option whose file is looked for in the folder of the study."""
    study = {"batch": 1, "systems": ["dgx-base"], "workload": {"prompt": 10, "output": 3}}
    path = save(folder, "study.toml", study | {"model": "model.toml"})
    assert document("compare", path)["model"]["name"] == "mine"
    assert document("compare", path, "--model", "model.toml")["model"]["name"] == "other"


def test_a_study_does_not_take_a_folder_of_the_current_one_for_its_model(folder: Path) -> None:
    """Before, a misspelt preset was the folder of that name where attacc happened to run."""
    save(folder.parent / "other", "lama/config.json", {})
    path = save(folder, "study.toml", {"model": "lama"})
    assert "unknown model preset 'lama'" in refusal("compare", path)
    assert "./folder" in refusal("compare", path)
