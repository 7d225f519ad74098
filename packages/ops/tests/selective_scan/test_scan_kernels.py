"""The Triton kernels of selective_scan: interpreted anywhere, compiled on a GPU; each in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from subquad.ops import selective_scan_with_state
from tools.testing.oracle import assert_close


def _run(program: str, device: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), device],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_interpreted_kernels_compute_output_state_and_gradients() -> None:
    result = _run("scan_kernel_cases.py", "cpu", TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout + result.stderr


def test_interpreted_exp_is_within_a_unit_and_a_half_everywhere() -> None:
    result = _run("exp_cases.py", "cpu", TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.gpu
def test_compiled_kernels_compute_output_state_and_gradients() -> None:
    result = _run("scan_kernel_cases.py", "cuda")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.gpu
def test_compiled_exp_is_within_a_unit_and_a_half_everywhere() -> None:
    result = _run("exp_cases.py", "cuda")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.gpu
@pytest.mark.usefixtures("unchecked")
def test_a_call_in_chunks_is_the_whole_with_little_memory() -> None:
    x, step = torch.randn(1, 256, 8192, device="cuda"), torch.rand(1, 256, 8192, device="cuda")
    weights = torch.randn(2, 1, 1, 16, 8192, device="cuda")
    inputs = (x, step, -torch.rand(256, 16, device="cuda"), *weights)
    whole, last = selective_scan_with_state(*inputs, backend="triton")
    for backend in ("triton", "torch"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y, state = selective_scan_with_state(*inputs, chunk_size=512, backend=backend)
        peak = torch.cuda.max_memory_allocated() - before
        assert_close(y, whole, 1e-5)
        assert_close(state, last, 1e-5)
        assert peak < 16 * x.numel() * 4, peak  # of every state at once; the whole keeps several times as much
