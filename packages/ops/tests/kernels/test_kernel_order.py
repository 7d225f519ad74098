"""Kernels that read memory in one arrangement of threads and overwrite it in another wait in between."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_gated_step_overwrites_its_rings_after_all_threads_have_read_them() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(Path(__file__).with_name("order_cases.py"))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    orders = [line.partition(": ") for line in result.stdout.splitlines()]
    assert len(orders) == 6
    for name, _, order in orders:
        before, _, _ = order.partition("S")
        assert before.rstrip("L").endswith("B"), f"{name}: {order}"
