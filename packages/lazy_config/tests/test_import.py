"""What importing the package brings with it."""

import os
import pathlib
import subprocess
import sys

import subquad.lazy_config

CODE = """
import sys
before = set(sys.modules)
import subquad.lazy_config
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(name for name in new if name not in sys.stdlib_module_names and not name.startswith(("_", "cython"))))
"""


def test_the_package_needs_nothing_but_yaml() -> None:
    source = str(pathlib.Path(subquad.lazy_config.__file__).parents[2])
    yaml_folder = str(pathlib.Path(__import__("yaml").__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": f"{source}:{yaml_folder}"}
    command = [sys.executable, "-S", "-c", CODE]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["subquad", "yaml"]


def test_every_public_name_has_a_docstring() -> None:
    for name in dir(subquad.lazy_config):
        value = getattr(subquad.lazy_config, name)
        if not name.startswith("_") and callable(value):
            assert value.__doc__, name


def test_no_public_module_shadows_a_public_function_of_another_meaning() -> None:
    assert callable(subquad.lazy_config.instantiate)
    assert callable(subquad.lazy_config.expr)
