"""What counts as documented, on small sources."""

from pathlib import Path

from tools.docs.docstring_coverage import coverage_of, main, render

ERRORS = '"""Errors."""\n\n\nclass Wrong(ValueError):\n    """It is wrong."""\n'
MODULE = '''"""A module."""

from errors import Wrong


def bare(x: "Tensor"):
    if x is None:
        raise Wrong("x")


def full(x: Float[Tensor, "batch"]) -> Tensor:
    """Doubles, ``[batch]``.

    Raises:
      Wrong: There is no x.
    """
    if x is None:
        raise Wrong("x")
    return _hidden(x)


class Layer:
    """A layer.

    Raises:
      Wrong: The size is 0.
    """

    def __init__(self, size: int) -> None:
        if not size:
            raise Wrong("size")

    def forward(self, x: Tensor) -> Tensor:
        """Says nothing of it."""

    def _inner(self):
        pass


def internal(x: Tensor):
    """Is not exported."""


def _hidden(x):
    return 2 * x
'''


def package(root: Path) -> Path:
    source = root / "packages" / "one" / "src"
    folder = source / "subquad" / "one"
    folder.mkdir(parents=True)
    exports = "".join(f"from subquad.one.module import {name} as {name}\n" for name in ("bare", "full", "Layer"))
    (folder / "__init__.py").write_text(f'"""A package."""\n\n{exports}')
    (folder / "errors.py").write_text(ERRORS)
    (folder / "module.py").write_text(MODULE)
    (folder / "_private.py").write_text("def hidden():\n    pass\n")
    (folder / "stub_pb2.py").write_text("x = 1\n")
    return source


def test_docstrings_of_all_that_is_not_private_are_counted(tmp_path: Path) -> None:
    coverage = coverage_of(package(tmp_path))
    assert coverage.docstrings.missing == ["subquad.one.module.bare"]
    assert coverage.docstrings.total == 9


def test_shapes_and_errors_are_asked_of_exported_names(tmp_path: Path) -> None:
    coverage = coverage_of(package(tmp_path))
    assert coverage.shapes.missing == ["subquad.one.module.bare", "subquad.one.module.Layer.forward"]
    assert coverage.shapes.total == 3
    assert coverage.errors.missing == ["subquad.one.module.bare"]
    assert coverage.errors.total == 3


def test_the_page_is_written_once_and_then_up_to_date(tmp_path: Path, monkeypatch) -> None:
    package(tmp_path)
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    assert main([]) == 1
    assert main(["--write"]) == 0
    assert main([]) == 0
    text = (tmp_path / "docs" / "reference" / "coverage.md").read_text()
    assert text == render(tmp_path)
    assert "| `subquad.one` | 8 of 9 (89%) | 1 of 3 (33%) | 2 of 3 (67%) |" in text
