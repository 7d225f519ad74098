"""Every operator inside torch.compile(fullgraph=True), in a process without the shape checker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = (
    "causal_conv short",
    "causal_conv medium",
    "causal_conv long",
    "fft_conv",
    "fp8_linear",
    "gated_conv",
    "modal_conv",
    "gated_modal_conv",
    "selective_scan",
    "rearrange",
    "rms_norm",
    "rms_norm_of_sum",
    "gated_linear",
    "gated_product",
    "fft_conv of a filter a sample, of any length",
    "rotary",
    "rotary of any length",
    "rotary step",
    "attention_step",
    "fir_step",
    "fir_step of one row",
    "gated_conv_step",
    "gated_modal_step",
    "causal_conv packed",
    "causal_conv of any length",
    "fft_conv of any length",
    "modal_conv of any length",
    "causal_conv with its state, of any length",
    "gated_conv with its state, channels last, of any length",
    "gated_modal_conv with its state, of any length",
    "selective_scan with its state, of any length",
    "modal_step",
)


@pytest.fixture(scope="module")
def report() -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(Path(__file__).with_name("compile_cases.py"))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("name", NAMES)
def test_operator_compiles_to_one_graph_with_the_same_result_and_gradient(name: str, report: str) -> None:
    assert f"{name}: passed" in report.splitlines(), report
