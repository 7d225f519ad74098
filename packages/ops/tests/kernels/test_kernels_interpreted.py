"""Every Triton kernel under Triton's CPU interpreter, in a process without the shape checker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = (
    "causal_conv float32",
    "causal_conv bfloat16",
    "causal_conv activations",
    "gated_conv float32",
    "gated_conv bfloat16",
    "gated_conv gates",
    "gated_modal_conv float32",
    "gated_modal_conv bfloat16",
    "modal_conv float32",
    "modal_conv bfloat16",
    "linear_step float32",
    "linear_step 16 bits",
    "gated_linear_step float32",
    "gated_linear_step 16 bits",
    "gated steps float32",
    "gated steps 16 bits",
    "attention_step float32",
    "attention_step 16 bits",
    "gated_modal_conv long",
    "gated_modal_conv gates",
    "rms_norm float32",
    "rms_norm bfloat16",
    "gated_product float32",
    "gated_product bfloat16",
    "rotary float32",
    "rotary bfloat16",
    "rotary far",
    "fir_step",
    "fp8 rounding",
    "rounded rows",
    "rings",
    "modal_step",
    "slow poles",
    "greedy_step",
    "gradients",
    "strides",
    "one graph",
    "refusals",
    "far strides",
    "far rows",
)


@pytest.fixture(scope="module")
def report() -> str:
    path = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    command = [sys.executable, str(Path(__file__).with_name("kernel_cases.py")), "cpu"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_kernel_computes_what_the_torch_form_computes(name: str, report: str) -> None:
    assert f"{name}: passed" in report.splitlines(), report
