"""The versions that the gate installs, against those that the project allows."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}


def requirements_of(path: Path) -> list[Requirement]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


CONSTRAINTS = requirements_of(ROOT / ".ci" / "constraints.txt")
DIRECT = {
    str(requirement): requirement
    for told in (
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    )
    for requirement in map(Requirement, told)
    if requirement.name != PROJECT["project"]["name"]
}


def exact_version_of(constraint: Requirement) -> str:
    """Return the only version that a constraint allows."""
    (only,) = constraint.specifier
    assert only.operator == "=="
    assert "*" not in only.version
    return only.version


@pytest.mark.parametrize("text", list(DIRECT))
def test_every_direct_dependency_has_one_exact_version(text: str) -> None:
    """A dependency added, or a bound raised, without renewing the constraints: the gate would
    install whatever is newest that day, or nothing. Also a version for some platforms only."""
    requirement = DIRECT[text]
    for python in PYTHONS:
        for platform, system in PLATFORMS.items():
            environment = {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "sys_platform": platform,
                "platform_system": system,
            }
            versions = [
                exact_version_of(constraint)
                for constraint in CONSTRAINTS
                if canonicalize_name(constraint.name) == canonicalize_name(requirement.name)
                and (constraint.marker is None or constraint.marker.evaluate(environment))
            ]
            assert len(versions) == 1, f"{versions} on {platform}, Python {python}"
            assert requirement.specifier.contains(versions[0]), versions[0]


def test_torch_is_the_build_for_cpus() -> None:
    """Constraints renewed to a version of torch of which there may be a CUDA build alone."""
    (installed_first,) = requirements_of(ROOT / ".ci" / "torch.txt")
    assert installed_first in CONSTRAINTS
