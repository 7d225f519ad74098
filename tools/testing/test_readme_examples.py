"""Runs the examples of one README: every ``python`` block, and every command of its ``sh`` blocks.

The README is named by the environment variable ``SUBQUAD_README``. Blocks run in their order in one temporary folder,
so that a later block may use what an earlier one wrote. A command is handled by its first words:

- ``subquad …`` and ``python -m subquad…`` run this source tree's code; in a package's README, ``subquad`` runs that
  package's own commands, as ``python -m subquad.<package>`` does;
- ``./bazelw build|run|test LABEL`` must name a target that a ``BUILD`` file defines: a build cannot be started inside
  a build, and those targets are built and run by the same command as this test;
- ``pip install subquad-…`` must name one of our distributions, which the wheel tests install.

Anything else fails the test, so a README cannot hold a command that nobody runs.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_DISTRIBUTION = re.compile(r"^subquad(-(lazy-config|ops|modules|parallel|inference|recipes|server))?(\[[a-z,]+\])?$")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block: its language, its text and the line it starts on."""

    language: str
    text: str
    line: int


def read_blocks(readme: Path) -> list[Block]:
    """The ``python`` and ``sh`` blocks of a Markdown file, in order."""
    text = readme.read_text()
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
        if match[1] in ("python", "sh")
    ]


def _readme() -> Path:
    return _ROOT / os.environ["SUBQUAD_README"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("block", read_blocks(_readme()), ids=lambda block: f"line {block.line}")
def test_the_example_runs(block: Block, folder: Path):
    if block.language == "python":
        _run([sys.executable, "-c", block.text], folder)
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            _run_command(words, folder)


def test_the_readme_holds_an_example():
    assert read_blocks(_readme()), f"{_readme()} has no example to run"


def _run_command(words: list[str], folder: Path) -> None:
    match words:
        case ["subquad", *rest]:
            _run([sys.executable, "-m", _program(), *rest], folder)
        case ["python" | "python3", "-m", module, *rest] if module.startswith("subquad"):
            _run([sys.executable, "-m", module, *rest], folder)
        case ["./bazelw", "build" | "run" | "test", *rest]:
            for label in (word for word in rest if word.startswith("//")):
                assert _target_exists(label), f"no BUILD file defines {label}"
        case ["pip", "install", *rest]:
            for name in (word for word in rest if not word.startswith("-")):
                assert _DISTRIBUTION.match(name), f"{name} is not one of our distributions"
        case _:
            pytest.fail(f"no test runs the command {shlex.join(words)!r}")


def _program() -> str:
    """The module that offers the commands of the package whose README this is."""
    match Path(os.environ["SUBQUAD_README"]).parts:
        case ["packages", package, _] if package != "subquad":
            return f"subquad.{package}"
    return "subquad"


def _run(command: list[str], folder: Path) -> None:
    # As for a reader, a module in the current folder can be imported.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, f"{shlex.join(command[-6:])}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"


def _target_exists(label: str) -> bool:
    if label == "//...":
        return True
    package, _, name = label[2:].partition(":")
    build = _ROOT / package / "BUILD"
    if package.endswith("..."):
        return (_ROOT / package.removesuffix("...").rstrip("/")).is_dir()
    return build.is_file() and f'name = "{name or Path(package).name}"' in build.read_text()
