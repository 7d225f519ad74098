"""The tests of one package's wheel: pytest runs this file once for each wheel and set of extras.

`defs.bzl` says by environment variables what to test; see `wheel_smoke_test` there. Paths are relative to the
workspace's runfiles.
"""

import os
import sys
import tomllib
import zipfile
from importlib.metadata import distribution as installed_distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from tools.release.smoke_environment import SmokeEnvironment

ROOT = Path(os.environ["RUNFILES_DIR"], os.environ["TEST_WORKSPACE"])
PACKAGE = ROOT / os.environ["SUBQUAD_PACKAGE"]
EXTRAS = os.environ["SUBQUAD_EXTRAS"].split()
ABSENT = os.environ["SUBQUAD_ABSENT"].split()
LICENSE = "Apache-2.0"


def only_wheel(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


WHEEL = only_wheel(PACKAGE / os.environ["SUBQUAD_WHEEL"])
SIBLINGS = [only_wheel(ROOT / folder) for folder in os.environ["SUBQUAD_SIBLING_WHEELS"].split()]
HUB = [Path(folder) for folder in sys.path if Path(folder).name == "site"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> SmokeEnvironment:
    return SmokeEnvironment(tmp_path_factory.mktemp("environment"), WHEEL, EXTRAS, SIBLINGS, HUB)


def modules_of(environment: SmokeEnvironment, name: str) -> list[str]:
    """The dotted modules that a hub distribution provides, as the hub lists them beside it."""
    return (environment.candidates[name][1].parent / "MODULES").read_text().split()


def test_the_metadata_say_what_the_project_says(environment: SmokeEnvironment) -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    metadata = environment.candidates[environment.root][0].metadata
    folder = PACKAGE.name.replace("_", "-")
    assert metadata["Name"] == project["name"] == ("subquad" if folder == "subquad" else f"subquad-{folder}")
    assert metadata["Version"] == (PACKAGE / "VERSION").read_text().strip()
    assert metadata["License-Expression"] == LICENSE
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_supported_pythons_are_3_11_and_later(environment: SmokeEnvironment) -> None:
    accepted = SpecifierSet(environment.candidates[environment.root][0].metadata["Requires-Python"])
    assert [version for version in ("3.10.14", "3.11.0", "3.12.0") if version in accepted] == ["3.11.0", "3.12.0"]


def test_every_sibling_range_is_closed_and_holds_the_sibling_of_this_tree(environment: SmokeEnvironment) -> None:
    siblings = {canonicalize_name(parse_wheel_filename(wheel.name)[0]) for wheel in SIBLINGS}
    declared = [Requirement(text) for text in environment.candidates[environment.root][0].requires or []]
    for requirement in declared:
        name = canonicalize_name(requirement.name)
        if name != "subquad" and not name.startswith("subquad-"):
            continue
        assert name in siblings, f"{environment.root} may not depend on {name}: it is not a layer below"
        assert {each.operator for each in requirement.specifier} == {">=", "<"}, str(requirement)
        assert environment.candidates[name][0].version in requirement.specifier, str(requirement)


def test_the_tag_says_whether_the_wheel_holds_machine_code() -> None:
    native = [name for name in zipfile.ZipFile(WHEEL).namelist() if name.endswith(".so")]
    assert WHEEL.name.endswith("-py3-none-any.whl") is (not native)


def test_the_wheel_holds_the_package_and_shares_the_namespace() -> None:
    names = zipfile.ZipFile(WHEEL).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"subquad"}
    assert "subquad/__init__.py" not in names
    assert [name for name in names if name.count("/") == 2 and name.endswith("/py.typed")]
    assert not [name for name in names if "/tests/" in name or name.endswith(".pyc")]


def test_the_environment_holds_exactly_what_is_declared(environment: SmokeEnvironment) -> None:
    program = "import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata['Name'])"
    result = environment.run("-c", program)
    assert {canonicalize_name(line) for line in result.stdout.split()} == environment.closure, result.stderr


def test_the_smoke_script_passes(environment: SmokeEnvironment) -> None:
    result = environment.run(str(PACKAGE / os.environ["SUBQUAD_SMOKE"]))
    print(result.stdout)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ABSENT)
def test_importing_an_undeclared_distribution_fails(environment: SmokeEnvironment, name: str) -> None:
    assert installed_distribution(name), f"{name} is not even in the hub: its absence would show nothing"
    assert name not in environment.closure, f"{name} is declared: {sorted(environment.closure)}"
    modules = modules_of(environment, name)
    assert modules
    for module in modules:
        assert find_spec(module.split(".")[0])
        result = environment.run("-c", f"import {module}")
        assert result.returncode == 1
        assert "ModuleNotFoundError: No module named" in result.stderr
