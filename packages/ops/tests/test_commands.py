"""The doctor command."""

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from subquad.ops.__main__ import main
from subquad.ops.commands import register

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_doctor_prints_versions_devices_and_every_backend() -> None:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    for start in ("python ", "torch ", "cpu: ", "gpu", "backend torch: usable", "backend triton: ", "backend cuda: "):
        assert any(line.startswith(start) for line in result.stdout.splitlines()), start
    assert 'pip install "subquad-ops[vendor]"' in result.stdout


def test_the_package_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "subquad.ops", "doctor"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "backend torch: usable" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["docto"], "error: No such command 'docto'. Did you mean 'doctor'?; see `python -m subquad.ops --help`\n"),
        (["doctor", "--fast"], "error: No such option: --fast; see `python -m subquad.ops doctor --help`\n"),
        ([], ""),
    ],
)
def test_wrong_arguments_are_one_line(monkeypatch, capsys, arguments, told) -> None:
    monkeypatch.setattr(sys, "argv", ["ops", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == told


def test_importing_the_package_imports_neither_triton_nor_typer() -> None:
    code = "import sys, subquad.ops; print([m for m in ('triton', 'typer', 'rich') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert result.stdout.strip() == "[]"
