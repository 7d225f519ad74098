"""The examples of the README and of the docstrings run."""

import doctest
import pathlib
import re
from types import ModuleType

import pytest

import subquad.lazy_config

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_each_example_of_the_readme_runs(block: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("readme_example")
    monkeypatch.setitem(__import__("sys").modules, "readme_example", module)
    exec(compile(block, str(README), "exec"), module.__dict__)


def test_the_readme_has_an_example() -> None:
    assert BLOCKS


def test_the_example_of_the_package_runs() -> None:
    results = doctest.testmod(subquad.lazy_config)
    assert results.attempted
    assert not results.failed
