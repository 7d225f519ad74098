"""packages/BUILD says who may depend on whom, as the architecture does; Bazel refuses every other edge.

`ci/show_layers.sh` shows a refusal: it cannot be a test, since Bazel does not run inside Bazel.
"""

import ast
import os
import pathlib

import pytest

TABLE = pathlib.Path(os.environ["RUNFILES_DIR"]) / os.environ["TEST_WORKSPACE"] / "packages" / "BUILD"

# Each package and what it may import of ours. The meta-package may import everything.
MAY_IMPORT = {
    "lazy_config": set(),
    "ops": set(),
    "modules": {"lazy_config", "ops"},
    "parallel": {"modules", "ops"},
    "inference": {"lazy_config", "modules", "ops", "parallel"},
    "server": {"inference", "lazy_config"},
    "recipes": {"inference", "lazy_config", "modules", "ops", "parallel"},
    "subquad": {"inference", "lazy_config", "modules", "ops", "parallel", "recipes", "server"},
}


def read_groups() -> dict[str, set[str]]:
    """The package groups of packages/BUILD: name and the folders they let in."""
    groups = {}
    for statement in ast.parse(TABLE.read_text()).body:
        if isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("package_group("):
            assert isinstance(statement.value, ast.Call)
            fields = {keyword.arg: ast.literal_eval(keyword.value) for keyword in statement.value.keywords}
            groups[fields["name"]] = set(fields["packages"])
    return groups


def test_every_package_but_the_top_has_a_group_and_there_is_no_other() -> None:
    assert set(read_groups()) == {f"above_{package}" for package in MAY_IMPORT if package != "subquad"}


@pytest.mark.parametrize("package", [package for package in MAY_IMPORT if package != "subquad"])
def test_a_package_is_seen_by_itself_by_those_above_it_and_by_the_documentation(package: str) -> None:
    above = {package} | {name for name, imports in MAY_IMPORT.items() if package in imports}
    expected = {f"//packages/{name}/..." for name in above}
    assert read_groups()[f"above_{package}"] - {"//docs/..."} == expected


def test_no_package_imports_what_imports_it() -> None:
    reached = {name: set(imports) for name, imports in MAY_IMPORT.items()}
    for _ in MAY_IMPORT:
        reached = {name: imports.union(*(reached[each] for each in imports)) for name, imports in reached.items()}
    assert not [name for name, imports in reached.items() if name in imports]
