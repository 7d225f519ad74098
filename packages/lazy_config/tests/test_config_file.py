"""Experiments in files."""

import pathlib
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from subquad.lazy_config import (
    ConfigFileError,
    LazyConfig,
    TargetError,
    TargetRefusedError,
    UnknownFieldError,
    apply_overrides,
    instantiate,
    load_config_file,
    save_yaml,
    to_yaml,
)


@dataclass
class Layer:
    width: int = 1


def write(folder: pathlib.Path, name: str, text: str) -> pathlib.Path:
    path = folder / name
    path.write_text(text)
    return path


BASE = """
from datetime import timedelta
from subquad.lazy_config import LazyConfig

def config(hours=2):
    return LazyConfig(timedelta)(hours=hours, minutes=30)
"""


def test_a_python_file_gives_the_tree_of_its_config_function(tmp_path: pathlib.Path) -> None:
    tree = load_config_file(write(tmp_path, "base.py", BASE))
    assert str(instantiate(apply_overrides(tree, ["hours=3"]))) == "3:30:00"


def test_one_file_derives_from_another_by_a_call(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "base.py", BASE)
    text = """
import pathlib
from subquad.lazy_config import derive, load_config_file

def config():
    return derive(load_config_file(pathlib.Path(__file__).with_name("base.py")), {"minutes": 45})
"""
    assert str(instantiate(load_config_file(str(write(tmp_path, "long.py", text))))) == "2:45:00"


def test_files_of_the_same_name_do_not_collide_and_the_import_path_is_untouched(tmp_path: pathlib.Path) -> None:
    before = list(sys.path)
    for hours in (1, 2):
        folder = tmp_path / str(hours)
        folder.mkdir()
        write(folder, "base.py", BASE.replace("hours=2", f"hours={hours}"))
    trees = [load_config_file(tmp_path / str(hours) / "base.py") for hours in (1, 2)]
    assert [tree.hours for tree in trees] == [1, 2]
    assert sys.path == before
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_file_may_define_classes_but_they_cannot_be_written_by_name(tmp_path: pathlib.Path) -> None:
    text = """
from __future__ import annotations
from dataclasses import dataclass
from subquad.lazy_config import LazyConfig

@dataclass
class Own:
    width: int = 1

def config():
    return LazyConfig(Own)(width="2 * 3")
"""
    tree = load_config_file(write(tmp_path, "own.py", text))
    assert instantiate(tree).width == 6
    with pytest.raises(
        TargetError, match=r"Own is defined in the config file .*own\.py; move it to an importable module"
    ):
        to_yaml(tree)


def test_a_yaml_file_is_read_with_the_allow_list(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.yaml"
    save_yaml(LazyConfig(Layer)(width=3), path)
    assert load_config_file(path, allowed=[__name__]) == LazyConfig(Layer)(width=3)
    with pytest.raises(TargetRefusedError):
        load_config_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "it must define a function config() that returns a tree"),
        ("config = 3", "it must define a function config()"),
        ("def config():\n    return 3", "config() must return a config, or a list, tuple or dict of them; got 3"),
        ("def config(:\n    pass", "bad.py:1: SyntaxError"),
        ("import nothing_of_this_name", "bad.py:1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def config():\n    return {}['k']", "bad.py:2: KeyError: 'k'"),
        ("def config(size):\n    return {}", "bad.py: TypeError"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load_config_file(write(tmp_path, "bad.py", text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.py", "there is no such file"),
        ("no.yaml", "cannot be read"),
        ("a.json", "a config file ends in .py, .yaml or .yml"),
    ],
)
def test_a_missing_file_or_another_kind_is_refused(tmp_path: pathlib.Path, name: str, message: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load_config_file(tmp_path / name)
    assert message in str(caught.value)


def test_a_file_that_is_not_python_text_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\x00\xff")
    with pytest.raises(ConfigFileError, match=r"a\.py"):
        load_config_file(tmp_path / "a.py")


def test_an_error_in_a_config_keeps_its_type_and_names_the_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UnknownFieldError, match="did you mean 'minutes'") as caught:
        load_config_file(
            write(
                tmp_path,
                "bad.py",
                BASE.replace("minutes", "minuts")
                .replace("timedelta)(", "time)(")
                .replace(
                    "import timedelta",
                    "import timedelta\nfrom typing import Any\ndef time(hours: int = 0, minutes: int = 0) -> Any: ...",
                ),
            )
        )
    assert any("bad.py" in note for note in caught.value.__notes__)


def test_a_failed_load_leaves_no_module_behind(tmp_path: pathlib.Path) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigFileError):
        load_config_file(write(tmp_path, "bad.py", "1/0"))
    assert set(sys.modules) == before


def test_the_history_names_the_config_file(tmp_path: pathlib.Path) -> None:
    def fail(width: int) -> Any:
        raise ValueError("no")

    path = write(tmp_path, "base.py", BASE.replace("hours=hours", "hours='x'"))
    with pytest.raises(TypeError, match=r"hours = 'x', set at .*base\.py:6"):
        instantiate(load_config_file(path))
