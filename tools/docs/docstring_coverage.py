"""Measures what the docstrings of every package say, and writes the page ``docs/reference/coverage.md``.

usage: docstring_coverage.py [--write]

Everything is read from the sources; nothing is imported. Three questions are asked:

- of every module, class, function and method whose names, and those of all that holds them, do not start with an
  underscore: does it have a docstring;
- of those that an ``__init__.py`` exports, where an argument or the result is annotated as a tensor or array: does the
  annotation, or the docstring, say a shape;
- of the same, where the body raises an error of this project: does the docstring, or that of its class, say ``Raises``.

Without ``--write`` the page is compared; the exit status is 1 if it would change.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path("docs/reference/coverage.md")
COMMAND = "./bazelw run //tools/docs:docstring_coverage -- --write"
_ARRAYS = re.compile(r"\b(Tensor|Array|ndarray)\b")
_SHAPE = re.compile(r"\[(Tensor|Array|np\.ndarray), ?['\"]|`\[|\bshape\b|\bof shape\b|the shape of")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | _Function


@dataclass
class Count:
    """How many of some things answer a question with yes, and which do not."""

    total: int = 0
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, answer: bool) -> None:
        """Counts one more."""
        self.total += 1
        if not answer:
            self.missing.append(name)

    def __str__(self) -> str:
        have = self.total - len(self.missing)
        return f"{have} of {self.total} ({have / self.total:.0%})" if self.total else "–"


@dataclass
class Coverage:
    """The three counts of one package."""

    docstrings: Count = field(default_factory=Count)
    shapes: Count = field(default_factory=Count)
    errors: Count = field(default_factory=Count)


def coverage_of(source: Path) -> Coverage:
    """Measures the package in a folder such as ``packages/ops/src``; generated stubs are left out."""
    trees = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if "_pb2" not in path.name:
            trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    survey = _Survey(trees)
    for name, tree in trees.items():
        if not any(part.startswith("_") for part in name.split(".")):
            survey.coverage.docstrings.add(name, bool(ast.get_docstring(tree)))
            survey.measure(name, tree, exported=False)
    return survey.coverage


class _Survey:
    """Measures one package, whose modules are given as syntax trees by their dotted names."""

    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self.coverage = Coverage()
        errors = [tree for name, tree in trees.items() if name.endswith(".errors")]
        self._errors = {node.name for tree in errors for node in tree.body if isinstance(node, ast.ClassDef)}
        self._shaped = {
            target.id
            for tree in trees.values()
            for node in tree.body
            if isinstance(node, ast.Assign) and _SHAPE.search(ast.unparse(node.value))
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self._exports = {
            f"{node.module}.{alias.name}"
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname == alias.name
        }

    def measure(self, name: str, holder: ast.Module | ast.ClassDef, *, exported: bool) -> None:
        """Asks everything that a module or class defines."""
        for node in holder.body:
            if not isinstance(node, ast.ClassDef | _Function) or node.name.startswith("_"):
                continue
            full, text = f"{name}.{node.name}", ast.get_docstring(node) or ""
            public = exported or full in self._exports
            if isinstance(node, ast.ClassDef):
                self.coverage.docstrings.add(full, bool(text))
                self.measure(full, node, exported=public)
                constructors = [each for each in node.body if isinstance(each, _Function) and each.name == "__init__"]
                for each in constructors if public else []:
                    self._ask(full, each, f"{text}\n{ast.get_docstring(each) or ''}")
            elif not _repeats(node):
                self.coverage.docstrings.add(full, bool(text))
                if public:
                    self._ask(full, node, text)

    def _ask(self, name: str, function: _Function, text: str) -> None:
        """Asks one function, or a class by its constructor, for shapes and errors."""
        annotations = [ast.unparse(annotation) for annotation in _annotations(function)]
        shaped = [bool(_SHAPE.search(each)) or each.split(" ")[0] in self._shaped for each in annotations]
        arrays = [has for each, has in zip(annotations, shaped, strict=True) if has or _ARRAYS.search(each)]
        if arrays:
            self.coverage.shapes.add(name, bool(_SHAPE.search(text)) or all(arrays))
        if self._errors & set(_raised(function)):
            self.coverage.errors.add(name, "Raises:" in text)


def _repeats(node: _Function) -> bool:
    """Whether this is an overload or a property's setter, described by its first definition."""
    decorators = [ast.unparse(each) for each in node.decorator_list]
    return any(each.endswith(("overload", ".setter")) for each in decorators)


def _annotations(function: _Function) -> Iterator[ast.expr]:
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    yield from (argument.annotation for argument in arguments if argument.annotation)
    if function.returns:
        yield function.returns


def _raised(function: _Function) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield ast.unparse(node.exc.func)


def render(root: Path) -> str:
    """Returns the page for the packages under ``root``."""
    packages = {path.parent.name: coverage_of(path) for path in sorted(root.glob("packages/*/src"))}
    lines = [
        "# Docstring coverage",
        "",
        f"Written by `{COMMAND}`; a test holds it to the sources.",
        "",
        "*Docstrings*: every module, class, function and method without a leading underscore. *Shapes*: what is",
        "exported and takes or returns tensors or arrays, and says their shapes. *Errors*: what is exported and raises",
        "a typed error itself, and lists it under `Raises`.",
        "",
        "| package | docstrings | shapes | errors |",
        "|---|---|---|---|",
    ]
    for name, one in packages.items():
        title = name if name == "subquad" else f"subquad.{name}"
        lines.append(f"| `{title}` | {one.docstrings} | {one.shapes} | {one.errors} |")
    missing = {
        title: [name for one in packages.values() for name in getattr(one, kind).missing]
        for title, kind in (("Without a docstring", "docstrings"), ("Shapes", "shapes"), ("Errors", "errors"))
    }
    for title, names in missing.items():
        lines += ["", f"## {title}" if title.startswith("Without") else f"## Without {title.lower()}", ""]
        lines += [f"- `{name}`" for name in names] or ["None."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Compares or writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    text, page = render(root), root / PAGE
    if page.exists() and page.read_text() == text:
        return 0
    if options.write:
        scratch = page.with_suffix(".new")
        scratch.write_text(text)
        scratch.replace(page)
        print(f"{page}: written")
        return 0
    print(f"{page} is out of date; run `{COMMAND}`")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
