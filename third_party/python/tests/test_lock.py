"""The lock answers its requirements and names no place to fetch from."""

import os
import pathlib
import re

import pytest
from packaging.requirements import Requirement

FOLDER = pathlib.Path(os.environ["RUNFILES_DIR"]) / os.environ["TEST_WORKSPACE"] / "third_party" / "python"


def canonical(name: str) -> str:
    """The normalised form of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins() -> dict[str, str]:
    """The locked versions."""
    lines = (FOLDER / "requirements.lock").read_text().splitlines()
    return dict(line.split()[0].split("==") for line in lines if line[:1].isalnum())


def read_requirements() -> list[Requirement]:
    """The direct requirements of all files."""
    names = ("requirements.in", "without_torch.in", "oracles.in")
    lines = [line for name in names for line in (FOLDER / name).read_text().splitlines()]
    return [Requirement(line.split("#")[0].strip()) for line in lines if line[:1].isalnum()]


@pytest.mark.parametrize("requirement", read_requirements(), ids=lambda requirement: requirement.name)
def test_each_requirement_is_locked_at_a_version_it_accepts(requirement: Requirement) -> None:
    version = read_pins()[canonical(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


def test_every_pin_has_exactly_one_hash_and_every_need_is_locked() -> None:
    text = (FOLDER / "requirements.lock").read_text()
    pins = read_pins()
    assert text.count("--hash=sha256:") == len(pins)
    needs = {need for line in re.findall(r"# needs: (.*)", text) if line != "nothing" for need in line.split()}
    assert needs <= set(pins)


def test_the_lock_names_no_address() -> None:
    assert "://" not in (FOLDER / "requirements.lock").read_text()


def test_torch_is_the_build_for_machines_without_a_gpu() -> None:
    assert read_pins()["torch"].endswith("+cpu")
