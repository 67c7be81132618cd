"""The lock fits the declared dependencies."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]


def locked() -> dict[str, str]:
    lines = [
        line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    ]
    versions: dict[str, str] = {}
    for line in lines:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        versions[canonicalize_name(requirement.name)] = specifier.version
    return versions


def declared() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    found = [Requirement(line) for line in project["dependencies"] + extras]
    return [requirement for requirement in found if requirement.name != "caliper"]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_each_dependency_is_locked_within_its_range(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    if name == "torch":
        assert name not in locked(), "hosts with a GPU need another build of PyTorch than the lock could name"
    else:
        assert requirement.specifier.contains(locked()[name])


def test_the_cpu_build_of_torch_is_within_its_range() -> None:
    (torch,) = [requirement for requirement in declared() if requirement.name == "torch"]
    for path in ("Makefile", "Dockerfile"):
        assert "torch==2.13.0" in (REPOSITORY / path).read_text()
    assert torch.specifier.contains("2.13.0")
    assert torch.specifier.contains("2.11.0")
