"""Building a wheel of a small project: what goes in, and that the bytes do not depend on when and where."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from tools.release import build_wheel

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "subquad-sample"
dynamic = ["version"]
requires-python = ">=3.11"
license = "Apache-2.0"

[tool.hatch.version]
path = "VERSION"
pattern = "(?P<version>.+)"

[tool.hatch.build.targets.wheel]
packages = ["src/subquad"]
"""


def write_project(folder: Path, version: str = "1.2.3") -> list[tuple[str, str]]:
    """Writes a project under `folder`; returns what to stage."""
    texts = {
        "pyproject.toml": PROJECT,
        "VERSION": f"{version}\n",
        "LICENSE": "A licence.\n",
        "src/subquad/sample/__init__.py": '"""A sample."""\n',
        "src/subquad/sample/py.typed": "",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [(str(folder / name), name) for name in texts]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_version_of_the_wheel_is_read_from_the_file(tmp_path: Path) -> None:
    wheel = build_wheel.build(tmp_path / "out", write_project(tmp_path / "project", "4.5.6"), [])
    assert wheel.name == "subquad_sample-4.5.6-py3-none-any.whl"


def test_only_staged_files_are_in_the_wheel(tmp_path: Path) -> None:
    files = write_project(tmp_path / "project")
    (tmp_path / "project/src/subquad/sample/undeclared.py").write_text("")
    names = zipfile.ZipFile(build_wheel.build(tmp_path / "out", files, [])).namelist()
    assert sorted(names) == [
        "subquad/sample/__init__.py",
        "subquad/sample/py.typed",
        "subquad_sample-1.2.3.dist-info/METADATA",
        "subquad_sample-1.2.3.dist-info/RECORD",
        "subquad_sample-1.2.3.dist-info/WHEEL",
        "subquad_sample-1.2.3.dist-info/licenses/LICENSE",
    ]


def test_the_bytes_depend_on_neither_place_nor_time_nor_permissions(tmp_path: Path) -> None:
    first = build_wheel.build(tmp_path / "a", write_project(tmp_path / "one"), [])
    files = write_project(tmp_path / "quite" / "another")
    for source, _ in files:
        os.chmod(source, 0o700)
        os.utime(source, (1_000_000_000, 1_000_000_000))
    second = build_wheel.build(tmp_path / "b", list(reversed(files)), [])
    assert sha256(first) == sha256(second)


def test_a_native_library_makes_the_wheel_one_for_this_platform(tmp_path: Path) -> None:
    library = tmp_path / "libsample.so"
    library.write_bytes(b"\x7fELF machine code")
    native = [(str(library), "src/subquad/sample/libsample.so")]
    wheels = [build_wheel.build(tmp_path / out, write_project(tmp_path / "project"), native) for out in ("a", "b")]
    assert wheels[0].name == "subquad_sample-1.2.3-py3-none-linux_x86_64.whl"
    assert sha256(wheels[0]) == sha256(wheels[1])
    assert [each.name for each in (tmp_path / "a").iterdir()] == [wheels[0].name]
    archive = zipfile.ZipFile(wheels[0])
    assert archive.testzip() is None
    facts = archive.read("subquad_sample-1.2.3.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in facts
    assert "Tag: py3-none-linux_x86_64" in facts
    record = archive.read("subquad_sample-1.2.3.dist-info/RECORD").decode()
    assert {line.split(",")[0] for line in record.splitlines()} == set(archive.namelist())


@pytest.mark.parametrize("place", ["VERSION", "../outside", "/absolute"])
def test_a_place_outside_the_project_or_taken_is_refused(tmp_path: Path, place: str) -> None:
    files = write_project(tmp_path / "project")
    with pytest.raises(ValueError, match="the place is taken or outside the project"):
        build_wheel.stage(tmp_path / "staged", [*files, (files[0][0], place)])
