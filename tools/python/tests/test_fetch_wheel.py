"""Unpacking a wheel: every file where importing and running expect it, and what it provides."""

import importlib.metadata
import os
import pathlib
import zipfile

import pytest

from tools.python import fetch_wheel

FILES = {
    "plain/__init__.py": "",
    "plain/deep/module.py": "",
    "single.py": "",
    "native.cpython-311-x86_64-linux-gnu.so": "",
    "space/part/__init__.py": "",
    "space/other.py": "",
    "typed-stubs/__init__.pyi": "",
    "thing-1.0.data/scripts/tool": "#!/bin/sh\n",
    "thing-1.0.data/purelib/late/__init__.py": "",
    "thing-1.0.data/data/share/note.txt": "",
    "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
}


@pytest.fixture
def site(tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder that a small wheel is unpacked to."""
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    record = "".join(f"{name},,\n" for name in FILES)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**FILES, "thing-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    folder = tmp_path / "site"
    fetch_wheel.unpack(str(wheel), str(folder))
    fetch_wheel.correct_record(str(folder))
    return folder


def test_data_files_land_where_an_installation_puts_them(site: pathlib.Path) -> None:
    assert os.access(site / "bin/tool", os.X_OK)
    assert (site / "late/__init__.py").exists()
    assert (site / "data/share/note.txt").exists()
    assert not list(site.glob("*.data"))


def test_metadata_names_files_that_exist(site: pathlib.Path) -> None:
    (distribution,) = importlib.metadata.distributions(path=[str(site)])
    assert {file.name for file in distribution.files or []} >= {"tool", "single.py"}
    assert all(pathlib.Path(str(file.locate())).exists() for file in distribution.files or [])


def test_provided_modules_look_through_namespaces(site: pathlib.Path) -> None:
    names = fetch_wheel.provided_modules(str(site))
    assert names == ["late", "native", "plain", "single", "space.other", "space.part", "typed-stubs"]


def test_a_wheel_with_another_hash_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SystemExit, match=r"(?s)pip cannot fetch thing==1.0.*hash"):
        fetch_wheel.fetch("thing==1.0", str(tmp_path / "out"), ["sha256:" + "0" * 64])
