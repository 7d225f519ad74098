"""Lints the files of one Bazel package; `lint_test` in defs.bzl makes a target of it.

The environment says what to read: LINT_FILES lists the package's files, separated by colons, LINT_RUFF is ruff's
unpacked wheel and LINT_BUILDIFIER a program; all are relative to the workspace's folder in the runfiles.
"""

import os
import pathlib
import subprocess

import pytest

from tools.lint.checks import CHECKS

ROOT = pathlib.Path(os.environ["RUNFILES_DIR"]) / os.environ["TEST_WORKSPACE"]
RUFF = ROOT / os.environ["LINT_RUFF"] / "bin" / "ruff"
BUILDIFIER = ROOT / os.environ["LINT_BUILDIFIER"]
FILES = [ROOT / path for path in os.environ["LINT_FILES"].split(":")]
PYTHON = [str(file) for file in FILES if file.suffix in (".py", ".pyi")]
STARLARK = [str(file) for file in FILES if file.name in ("BUILD", "WORKSPACE", "MODULE.bazel") or file.suffix == ".bzl"]
SOURCES = [file for file in PYTHON if "/src/" in file]


def run(program: pathlib.Path, *arguments: str) -> None:
    """Runs a linter and fails with what it says, paths as seen from the workspace."""
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if result.returncode:
        pytest.fail((result.stdout + result.stderr).replace(f"{ROOT}/", ""), pytrace=False)


def read_texts() -> dict[str, str]:
    """The text files, by their path in the workspace."""
    texts = {}
    for file in FILES:
        try:
            texts[str(file.relative_to(ROOT))] = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
    return texts


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_files_pass(check) -> None:
    messages = [f"{path}:{message}" for path, text in read_texts().items() for message in check(path, text)]
    assert not messages, "\n" + "\n".join(messages)


if PYTHON:

    def test_ruff_finds_nothing() -> None:
        run(RUFF, "check", "--no-cache", "--config", "pyproject.toml", "--output-format", "concise", *PYTHON)

    def test_python_is_formatted() -> None:
        run(RUFF, "format", "--no-cache", "--config", "pyproject.toml", "--diff", *PYTHON)


if SOURCES:

    def test_public_names_have_docstrings() -> None:
        rules = "D100,D101,D102,D103,D104"
        run(RUFF, "check", "--no-cache", "--isolated", "--select", rules, "--output-format", "concise", *SOURCES)


if STARLARK:

    def test_build_files_are_formatted_and_clean() -> None:
        run(BUILDIFIER, "-mode=diff", "-lint=warn", f"-warnings={os.environ['LINT_BUILDIFIER_WARNINGS']}", *STARLARK)
