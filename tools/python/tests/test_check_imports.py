"""The import check on small trees: what a forbidden edge looks like, and what is allowed."""

import pathlib

import pytest

from tools.python.check_imports import check

TORCH = {"modules": "torch/MODULES", "roots": ["torch/site"], "sources": []}
OPS = {
    "modules": None,
    "roots": ["subquad/packages/ops/src"],
    "sources": ["subquad/packages/ops/src/subquad/ops/__init__.py"],
}


@pytest.fixture
def tree(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A runfiles folder with a lock and one wheel."""
    monkeypatch.setenv("TEST_WORKSPACE", "subquad")
    lock = tmp_path / "subquad/third_party/python/requirements.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("torch==2.13.0 \\\nsafetensors==0.8.0 \\\n")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/MODULES").write_text("torch\ngoogle.protobuf\n")
    return tmp_path


def messages(tree: pathlib.Path, sources: dict[str, str], deps=(), optional=(), optional_modules=()) -> list[str]:
    """Writes a package `modules` with these sources and checks it."""
    paths = []
    for name, text in sources.items():
        path = f"subquad/packages/modules/src/subquad/modules/{name}"
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        paths.append(path)
    manifest = {
        "deps": list(deps),
        "library": "//packages/modules:modules",
        "optional": list(optional),
        "optional_modules": list(optional_modules),
        "package": "subquad.modules",
        "roots": ["subquad/packages/modules/src"],
        "sources": paths,
    }
    return check(manifest, str(tree))


def test_a_forbidden_edge_is_named_with_file_line_and_fix(tree: pathlib.Path) -> None:
    (message,) = messages(tree, {"__init__.py": "import math\n\nfrom subquad.parallel import exchange\n"}, [TORCH, OPS])
    assert message == (
        "packages/modules/src/subquad/modules/__init__.py:3: imports subquad.parallel, which no dependency provides; "
        'add "//packages/parallel" to deps of //packages/modules:modules, if packages/BUILD lets it be seen from there'
    )


def test_declared_edges_the_standard_library_and_own_modules_pass(tree: pathlib.Path) -> None:
    sources = {
        "__init__.py": "from subquad.modules.part import x\nfrom . import part\n",
        "part.py": "import os.path\nimport torch.nn\nfrom subquad import ops\nfrom google import protobuf\nx = 1\n",
    }
    assert messages(tree, sources, [TORCH, OPS]) == []


@pytest.mark.parametrize(
    "text",
    [
        "import safetensors.torch\n",
        "from safetensors import torch\n",
        "def f():\n    import safetensors\n",
        "try:\n    import safetensors\nexcept ImportError:\n    pass\n",
        "import importlib\nimportlib.import_module('safetensors')\n",
    ],
)
def test_an_undeclared_distribution_is_found_wherever_it_is_imported(tree: pathlib.Path, text: str) -> None:
    (message,) = messages(tree, {"__init__.py": text}, [TORCH])
    assert 'add "@pypi//safetensors" to deps of //packages/modules:modules' in message


OPTIONAL_IMPORTS = {
    "def f():\n    import torch\n": True,
    "try:\n    import torch\nexcept ImportError:\n    torch = None\n": True,
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n": True,
    "import torch\n": False,
    "try:\n    import torch\nexcept ValueError:\n    pass\n": False,
}


@pytest.mark.parametrize(("text", "allowed"), OPTIONAL_IMPORTS.items())
def test_an_optional_dependency_is_not_loaded_with_the_package(tree: pathlib.Path, text: str, allowed: bool) -> None:
    found = messages(tree, {"__init__.py": text}, optional=[TORCH])
    assert (found == []) is allowed
    assert allowed or "imports the optional torch whenever subquad.modules is imported" in found[0]


def test_a_module_that_the_package_does_not_load_may_import_an_optional_dependency(tree: pathlib.Path) -> None:
    sources = {"__init__.py": "", "strategy.py": "import torch\n"}
    assert messages(tree, sources, optional=[TORCH]) == []
    assert messages(tree, {**sources, "__init__.py": "from subquad.modules import strategy\n"}, optional=[TORCH])


def test_a_module_that_no_lock_holds_is_optional_by_its_name(tree: pathlib.Path) -> None:
    sources = {"__init__.py": "", "kernel.py": "import triton.language as tl\n"}
    assert messages(tree, sources)
    assert messages(tree, sources, optional_modules=["triton"]) == []
