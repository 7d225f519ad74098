"""Every kernel's schema, fake form and gradient as torch.library.opcheck wants them; in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = (
    "causal_conv_triton",
    "gated_conv_triton",
    "gated_modal_conv_triton",
    "modal_conv_triton",
    "selective_scan_triton",
    "rms_norm_triton",
    "gated_product_triton",
    "rotary_triton",
    "rotary_into_triton",
    "fir_step_triton",
    "modal_step_triton",
    "gated_step_triton",
    "projected_gated_step_triton",
    "linear_step_triton",
    "gated_linear_step_triton",
    "attention_step_triton",
    "greedy_step_triton",
    "rounded_rows_triton",
)


@pytest.fixture(scope="module")
def report() -> str:
    path = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(Path(__file__).with_name("registration_cases.py"))]
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_is_registered_as_torch_wants_it(name: str, report: str) -> None:
    assert f"{name}: passed" in report.splitlines(), report
