"""A virtual environment with a wheel, its sibling and a piece of a hub, all made here."""

import zipfile
from pathlib import Path

import pytest

from tools.release.requirement_closure import UnmetRequirement
from tools.release.smoke_environment import SmokeEnvironment


def metadata(name: str, requires: tuple[str, ...], extras: tuple[str, ...]) -> str:
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 0.1.0"]
    lines += [f"Provides-Extra: {each}" for each in extras] + [f"Requires-Dist: {each}" for each in requires]
    return "\n".join(lines) + "\n"


def write_wheel(folder: Path, name: str, *requires: str, extras: tuple[str, ...] = ()) -> Path:
    """A wheel whose one module says its own name."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-0.1.0.dist-info"
    path = folder / f"{module}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}.py", f"print({name!r})\n")
        archive.writestr(f"{info}/METADATA", metadata(name, requires, extras))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{module}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def write_hub(folder: Path, name: str, *requires: str) -> Path:
    """An unpacked distribution, as the hub has them."""
    site = folder / name / "site"
    info = site / f"{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata(name, requires, ()))
    (site / f"{name}.py").write_text(f"print({name!r})\n")
    return site


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> SmokeEnvironment:
    tmp_path = tmp_path_factory.mktemp("environment")
    wheel = write_wheel(tmp_path, "top-part", "lower-part", "declared", "optional; extra == 'more'", extras=("more",))
    siblings = [write_wheel(tmp_path, "lower-part"), write_wheel(tmp_path, "other-part")]
    hub = [write_hub(tmp_path, each) for each in ("declared", "undeclared", "optional")]
    return SmokeEnvironment(tmp_path, wheel, [], siblings, hub)


def test_the_wheel_its_sibling_and_its_hub_folder_are_importable(environment: SmokeEnvironment) -> None:
    result = environment.run("-c", "import top_part, lower_part, declared")
    assert result.stdout.split() == ["top-part", "lower-part", "declared"], result.stderr
    assert environment.closure == {"top-part", "lower-part", "declared"}


@pytest.mark.parametrize("module", ["undeclared", "optional", "other_part", "pytest", "pip"])
def test_nothing_else_is_importable(environment: SmokeEnvironment, module: str) -> None:
    result = environment.run("-c", f"import {module}")
    assert result.returncode == 1
    assert f"No module named '{module}'" in result.stderr


def test_the_callers_variables_do_not_reach_the_environment(
    environment: SmokeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBQUAD_EXTRAS", "leaked")
    result = environment.run("-c", "import os; print('SUBQUAD_EXTRAS' in os.environ, 'PYTHONPATH' in os.environ)")
    assert result.stdout.split() == ["False", "False"]


def test_an_undeclared_edge_of_the_build_is_an_error(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "top-part", "lower-part")
    with pytest.raises(UnmetRequirement, match="top-part declares lower-part, which is not among the dependencies"):
        SmokeEnvironment(tmp_path, wheel, [], [], [])
