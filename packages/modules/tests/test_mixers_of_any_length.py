"""Every mixer traced with a length that is not known, in a process without the shape checker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from packages.modules.tests.any_length_mixers import checks


@pytest.fixture(scope="module")
def report() -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(Path(__file__).with_name("any_length_mixers.py"))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("name", checks())
def test_one_graph_serves_every_length_with_the_same_results(name: str, report: str) -> None:
    assert f"{name}: passed" in report.splitlines(), report
