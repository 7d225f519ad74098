"""Tests of subquad.command.discovery."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

from typer.testing import CliRunner

from subquad.command import discovery
from subquad.command.application import build_application


def test_every_command_of_our_packages_is_offered():
    registrations, problems = discovery.find_registrations(third_party=[])
    help_text = CliRunner().invoke(build_application(registrations), ["--help"]).output
    assert problems == []
    for command in (
        "doctor",
        "train",
        "generate",
        "score",
        "embed",
        "variants",
        "plot",
        "info",
        "serve",
        "client",
        "quickstart",
    ):
        assert command in help_text, f"{command} is missing from:\n{help_text}"


def test_a_third_party_entry_point_adds_its_command(tmp_path: Path, monkeypatch):
    (tmp_path / "plug_in_for_subquad.py").write_text(
        "def register(app):\n    @app.command('from-elsewhere')\n    def run():\n        print('from elsewhere')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("elsewhere", "plug_in_for_subquad:register", discovery.ENTRY_POINT_GROUP)
    registrations, problems = discovery.find_registrations(third_party=[entry])
    result = CliRunner().invoke(build_application(registrations), ["from-elsewhere"])
    assert problems == []
    assert result.output == "from elsewhere\n"


def test_a_broken_third_party_entry_point_is_named_and_left_out():
    entry = EntryPoint("broken", "no_such_module_anywhere:register", discovery.ENTRY_POINT_GROUP)
    registrations, problems = discovery.find_registrations(third_party=[entry])
    assert [r.origin for r in registrations if "no_such_module" in r.origin] == []
    assert len(problems) == 1
    assert "broken (no_such_module_anywhere:register)" in problems[0]


def test_an_absent_package_of_ours_is_passed_over(monkeypatch):
    monkeypatch.setattr(discovery, "COMMAND_PACKAGES", ("no_such_package",))
    assert discovery.find_registrations(third_party=[]) == ([], [])


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from subquad.command.discovery import find_registrations; "
        "from subquad.command.application import build_application; from typer.testing import CliRunner; "
        "CliRunner().invoke(build_application(find_registrations([])[0]), ['--help']); "
        "print([m for m in ('torch', 'lightning', 'matplotlib', 'megatron') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


def test_the_module_runs_like_the_command():
    run = subprocess.run([sys.executable, "-m", "subquad", "--version"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("subquad ")


def test_the_help_is_shown_in_any_locale():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    command = [sys.executable, "-m", "subquad", "score", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (shown.returncode, shown.stderr) == (0, "")
