"""Fails where a library imports what none of its direct dependencies provides.

usage: check_imports.py MANIFEST

Bazel's visibility keeps a forbidden dependency from being declared. It cannot see an import of something that came
along with another dependency; this does, by reading the syntax trees. The manifest (`imports.bzl`) names the sources
and, for each dependency, either its own sources or the list of modules that its wheel provides.

An optional dependency may be imported in a function, under ``try: ... except ImportError`` and under
``if TYPE_CHECKING``, and anywhere in a module that importing the package does not load.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

LOCK = "third_party/python/requirements.lock"

# Modules whose distribution has another name. Only for the fix that a message proposes.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis_common_protos",
    "grpc": "grpcio",
    "grpc_health": "grpcio_health_checking",
    "grpc_reflection": "grpcio_reflection",
    "grpc_status": "grpcio_status",
    "grpc_tools": "grpcio_tools",
    "megatron.core": "megatron_core",
    "yaml": "pyyaml",
}


@dataclass(frozen=True)
class Import:
    """One imported name: ``names`` are the spellings of which one has to be provided."""

    line: int
    names: tuple[str, ...]
    guarded: bool


@dataclass
class Module:
    """One source file and what it imports."""

    path: str
    name: str
    imports: list[Import] = field(default_factory=list)


def dotted(path: str, roots: list[str]) -> str:
    """The module name of a source file, given the folders on PYTHONPATH that it may lie under."""
    for root in sorted(roots, key=len, reverse=True):
        if path.startswith(root + "/"):
            path = path[len(root) + 1 :]
            break
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def catches_import_errors(node: ast.Try) -> bool:
    """Whether a try statement is there for a module that may be absent."""
    caught = {ast.unparse(handler.type) for handler in node.handlers if handler.type}
    return any(name in " ".join(caught) for name in ("ImportError", "ModuleNotFoundError"))


def find_imports(node: ast.AST, module: Module, is_package: bool, guarded: bool = False) -> Iterator[Import]:
    """Yields the imports below a node, literal ``import_module`` calls included."""
    if isinstance(node, ast.Import):
        yield from (Import(node.lineno, (alias.name,), guarded) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = module.name.split(".") if is_package else module.name.split(".")[:-1]
        start = parts[: len(parts) - node.level + 1] if node.level else []
        base = ".".join([*start, *([node.module] if node.module else [])])
        yield from (Import(node.lineno, (base, f"{base}.{alias.name}"), guarded) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        literals = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
        yield from (Import(node.lineno, (str(name),), guarded) for name in literals)
    if isinstance(node, ast.Try):
        inside = guarded or catches_import_errors(node)
        for child in node.body:
            yield from find_imports(child, module, is_package, inside)
        rest = [*node.handlers, *node.orelse, *node.finalbody]
        for child in rest:
            yield from find_imports(child, module, is_package, inside)
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        guarded = True
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        guarded = True
    for child in ast.iter_child_nodes(node):
        yield from find_imports(child, module, is_package, guarded)


def read_module(path: str, runfiles: str, roots: list[str]) -> Module:
    """Parses one source file."""
    module = Module(path, dotted(path, roots))
    with open(os.path.join(runfiles, path), encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    module.imports = list(find_imports(tree, module, path.endswith("/__init__.py")))
    return module


def provided(dependencies: list[dict], runfiles: str) -> set[str]:
    """The dotted names that dependencies provide; everything below a name counts as provided."""
    names = set()
    for dependency in dependencies:
        names |= {dotted(source, dependency["roots"]) for source in dependency["sources"]}
        if dependency["modules"]:
            with open(os.path.join(runfiles, dependency["modules"]), encoding="utf-8") as file:
                names |= set(file.read().split())
    return names


def is_provided(imported: Import, names: set[str]) -> bool:
    """Whether one spelling of an import is one of the names, or below one."""
    return any(
        ".".join(name.split(".")[:end]) in names for name in imported.names for end in range(1, name.count(".") + 2)
    )


def loaded_with_package(modules: list[Module], package: str) -> set[str]:
    """Names of the modules that ``import package`` loads, by following unguarded imports."""
    by_name = {module.name: module for module in modules}
    waiting, loaded = [package], set()
    while waiting:
        name = waiting.pop()
        if name in loaded or name not in by_name:
            continue
        loaded.add(name)
        for imported in by_name[name].imports:
            if not imported.guarded:
                for spelling in imported.names:
                    parts = spelling.split(".")
                    waiting += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return loaded


def locked_distributions(runfiles: str) -> set[str]:
    """The names in the lock."""
    with open(os.path.join(runfiles, os.environ["TEST_WORKSPACE"], LOCK), encoding="utf-8") as file:
        return {line.split("==")[0] for line in file if "==" in line}


def proposal(imported: Import, library: str, runfiles: str) -> str:
    """What to do about an import that nothing provides."""
    name = imported.names[-1]
    if name.startswith("subquad."):
        sibling = name.split(".")[1]
        return f'add "//packages/{sibling}" to deps of {library}, if packages/BUILD lets it be seen from there'
    for module, distribution in DISTRIBUTIONS.items():
        if f"{name}.".startswith(f"{module}."):
            return f'add "@pypi//{distribution}" to deps of {library}'
    distribution = re.sub(r"[-_.]+", "-", name.split(".")[0]).lower()
    if distribution in locked_distributions(runfiles):
        return f'add "@pypi//{distribution.replace("-", "_")}" to deps of {library}'
    return f"name its distribution in third_party/python/requirements.in and in deps of {library}, or drop it"


def check(manifest: dict, runfiles: str) -> list[str]:
    """One message per offending import, in the order of the sources; empty if all is declared."""
    modules = [read_module(path, runfiles, manifest["roots"]) for path in manifest["sources"]]
    declared = provided(manifest["deps"], runfiles) | set(sys.stdlib_module_names)
    declared |= {module.name for module in modules}
    optional = provided(manifest["optional"], runfiles) | set(manifest["optional_modules"])
    eager = loaded_with_package(modules, manifest["package"])
    messages = []
    for module in modules:
        for imported in module.imports:
            where = f"{module.path.split('/', 1)[1]}:{imported.line}: "
            if is_provided(imported, declared):
                continue
            if not is_provided(imported, optional):
                fix = proposal(imported, manifest["library"], runfiles)
                messages.append(f"{where}imports {imported.names[0]}, which no dependency provides; {fix}")
            elif module.name in eager and not imported.guarded:
                messages.append(
                    f"{where}imports the optional {imported.names[0]} whenever {manifest['package']} is imported; "
                    "import it in the function that needs it"
                )
    return messages


def main() -> None:
    """Prints the messages; exits 1 if there are any."""
    with open(sys.argv[1], encoding="utf-8") as file:
        manifest = json.load(file)
    messages = check(manifest, os.environ["RUNFILES_DIR"])
    print("\n".join(messages) or f"{len(manifest['sources'])} files of {manifest['library']}: every import is declared")
    sys.exit(1 if messages else 0)


if __name__ == "__main__":
    main()
