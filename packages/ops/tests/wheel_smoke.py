"""Runs in a fresh environment that holds the wheel and only what it declares to need."""

import importlib.util
import subprocess
import sys

import torch

from subquad.ops import causal_conv, explain, gated_modal_conv

x, taps = torch.randn(1, 4, 50), torch.randn(4, 3)
assert torch.allclose(causal_conv(x, taps), torch.nn.functional.conv1d(
    torch.nn.functional.pad(x, (2, 0)), taps.flip(-1)[:, None], groups=4), atol=1e-5)  # fmt: skip
y = gated_modal_conv(torch.randn(1, 12, 50), torch.randn(12, 3), -torch.rand(4, 16), torch.randn(4, 16))
assert y.shape == (1, 4, 50)
assert explain("causal_conv", x, taps).backend == "torch"
report = subprocess.run([sys.executable, "-m", "subquad.ops", "doctor"], capture_output=True, text=True, check=True)
assert "backend torch: usable" in report.stdout
for absent in ("lightning", "megatron", "grpc", "omegaconf"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is within reach; the wheel must not need it"
