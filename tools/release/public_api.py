"""Lists the public API of a package: what its ``__init__`` files re-export, with signatures.

usage: public_api.py [--write] [PACKAGE_FOLDER]...

A name is public where an ``__init__.py`` says ``from module import name as name``, or defines it. The listing,
``api.txt`` in the package's folder, is read from the sources alone: nothing is imported. A test compares the two, so
that every change of the API shows in a review. ``--write`` brings ``api.txt`` up to date; without it differences are
printed, and the exit status is 1 if there are any. Without folders every package is meant.
"""

import argparse
import ast
import difflib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

LISTING = "api.txt"
_HEADER = "# Written by tools/release/public_api.py: `python3 tools/release/public_api.py --write`\n"
_SPECIAL = {"__init__", "__call__", "__enter__", "__getitem__", "__iter__", "__len__"}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class UnresolvedExport(ValueError):
    """An ``__init__.py`` re-exports a name that its module does not define."""


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Module-level statements, those under ``if TYPE_CHECKING`` and the like included."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements(statement.body)
            yield from _statements(statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from _statements(statement.body)
        else:
            yield statement


def _is_public(name: str) -> bool:
    return not name.startswith("_")


class Sources:
    """The modules of one source folder, parsed when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parsed: dict[str, list[ast.stmt] | None] = {}

    def packages(self) -> list[str]:
        """Dotted names of the public packages (folders with an ``__init__.py``)."""
        folders = (path.parent.relative_to(self._folder) for path in self._folder.rglob("__init__.py"))
        return sorted(".".join(folder.parts) for folder in folders if all(map(_is_public, folder.parts)))

    def body(self, module: str) -> list[ast.stmt] | None:
        """The statements of a module; None where this folder does not hold it."""
        if module not in self._parsed:
            path = self._folder.joinpath(*module.split("."))
            files = [each for each in (path / "__init__.py", path.with_suffix(".py")) if each.is_file()]
            self._parsed[module] = list(_statements(ast.parse(files[0].read_text()).body)) if files else None
        return self._parsed[module]

    def lines(self, module: str, name: str, exported: str) -> list[str]:
        """Describes what `name` is in `module`, following re-exports within this folder."""
        body = self.body(module)
        if body is None:
            return [f"{exported} = {module}.{name}"]
        found: list[str] = []
        for statement in body:
            if isinstance(statement, _Function | ast.ClassDef) and statement.name == name:
                found += _describe(statement)
            elif isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    source = _absolute(module, statement)
                    if (alias.asname or alias.name) == name and source != module:
                        found += self.lines(source, alias.name, exported)
            elif (value := _assigned(statement, name)) is not None:
                found.append(f"{exported}{value}")
        if not found and self.body(f"{module}.{name}") is not None:
            return [f"module {exported}"]
        if not found:
            raise UnresolvedExport(f"{module} defines no {name}, which is re-exported as {exported}")
        return found


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    if statement.level:
        raise UnresolvedExport(f"{module} uses a relative import; write the full name")
    return statement.module or ""


def _assigned(statement: ast.stmt, name: str) -> str | None:
    """The text after `name` where the statement assigns to it."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.target.id == name:
        value = f" = {ast.unparse(statement.value)}" if statement.value else ""
        return f": {ast.unparse(statement.annotation)}{value}"
    if isinstance(statement, ast.Assign):
        names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        return f" = {ast.unparse(statement.value)}" if name in names else None
    return None


def _describe(node: _Function | ast.ClassDef) -> list[str]:
    if not isinstance(node, ast.ClassDef):
        return _function(node)
    bases = ", ".join(ast.unparse(each) for each in [*node.bases, *(k.value for k in node.keywords)])
    decorators = [f"@{ast.unparse(each)}" for each in node.decorator_list]
    lines = [*decorators, f"class {node.name}({bases})" if bases else f"class {node.name}"]
    for member in node.body:
        if isinstance(member, _Function) and (_is_public(member.name) or member.name in _SPECIAL):
            lines += [f"  {line}" for line in _function(member)]
        elif isinstance(member, ast.AnnAssign | ast.Assign):
            targets = [member.target] if isinstance(member, ast.AnnAssign) else member.targets
            names = [target.id for target in targets if isinstance(target, ast.Name) and _is_public(target.id)]
            lines += [f"  {name}{_assigned(member, name)}" for name in names]
    return lines


def _function(node: _Function) -> list[str]:
    decorators = [f"@{ast.unparse(each)}" for each in node.decorator_list]
    word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return [*decorators, f"{word}{node.name}({ast.unparse(node.args)}){returns}"]


def _exports(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            yield from (alias.name for alias in statement.names if alias.asname == alias.name)
        elif isinstance(statement, _Function | ast.ClassDef) and _is_public(statement.name):
            yield statement.name


def render(package: Path) -> str:
    """The listing of the package in a folder such as ``packages/ops``.

    Raises:
      UnresolvedExport: A re-exported name does not exist.
    """
    sources = Sources(package / "src")
    text = _HEADER
    for module in sources.packages():
        names = sorted(set(_exports(sources.body(module) or [])))
        lines = [line for name in names for line in sources.lines(module, name, name)]
        if lines:
            text += f"\n{module}\n" + "".join(f"  {line}\n" for line in lines)
    return text


def difference(package: Path) -> str:
    """What `api.txt` would have to change; empty where it is up to date."""
    path = package / LISTING
    before = path.read_text() if path.exists() else ""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        render(package).splitlines(keepends=True),
        f"{LISTING} (listed)",
        "the sources",
    )
    return "".join(lines)


def main(arguments: list[str]) -> int:
    """Compares or writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("packages", nargs="*", type=Path, metavar="PACKAGE_FOLDER")
    options = parser.parse_args(arguments)
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    folders = [root / each for each in options.packages] or sorted(each.parent for each in root.glob("packages/*/src"))
    stale = False
    for folder in folders:
        try:
            changes = difference(folder)
        except (UnresolvedExport, SyntaxError) as error:
            sys.exit(f"error: {folder}: {error}")
        if changes and options.write:
            scratch = folder / f"{LISTING}.new"
            scratch.write_text(render(folder))
            scratch.replace(folder / LISTING)
            print(f"{folder / LISTING}: written")
        elif changes:
            print(f"{folder}:\n{changes}")
            stale = True
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
