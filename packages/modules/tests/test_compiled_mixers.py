"""Every mixer of the table inside torch.compile(fullgraph=True), in a process without the shape checker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from packages.modules.tests.mixer_table import CASES


@pytest.fixture(scope="module")
def report() -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(Path(__file__).with_name("compile_mixers.py"))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_a_compiled_mixer_equals_the_plain_one_in_result_and_gradients(name: str, report: str) -> None:
    assert f"{name}: passed" in report.splitlines(), report
