"""Holds the scan's own exp to float64 over all of float32; prints a line a range.

usage: exp_cases.py cpu|cuda

On ``cpu`` it runs in Triton's interpreter (``TRITON_INTERPRET=1``). A program, so that no checker is on.
"""

import math
import sys

import torch
import triton
import triton.language as tl
from torch import Tensor

from subquad.ops.selective_scan.triton.exponential import exact_exp

BLOCK = 1024
SMALLEST = 2.0**-149  # the smallest step of float32: the unit of subnormal numbers
RANGES = (
    ("near zero", -1e-3, 1e-3),
    ("decays of a scan", -2.0, 0.0),
    ("around one", -1.0, 1.0),
    ("normal numbers", -87.3, 88.7),
    ("the last powers", 88.0, 88.72),
    ("subnormal numbers", -103.9, -87.3),
)
ENDS = (
    (-math.inf, 0.0),
    (-1e30, 0.0),
    (-104.0, 0.0),
    (-0.0, 1.0),
    (0.0, 1.0),
    (88.73, math.inf),
    (1e30, math.inf),
    (math.inf, math.inf),
)


@triton.jit
def exp_kernel(x, y, size, BLOCK: tl.constexpr):
    """Writes exact_exp of each element."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, exact_exp(tl.load(x + at, mask=at < size, other=0.0)), mask=at < size)


def exp(x: Tensor) -> Tensor:
    """Runs the kernel."""
    y = torch.empty_like(x)
    exp_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, y, x.numel(), BLOCK=BLOCK)
    return y


def units(x: Tensor, y: Tensor) -> Tensor:
    """Returns the error of y as exp(x) in units of the last place of float32."""
    exact = x.double().exp()
    unit = torch.exp2(exact.log2().floor() - 23).clamp(min=SMALLEST)
    return (y.double() - exact) / unit


def main() -> None:
    """Checks every range and every end; the exit status is 1 if one failed."""
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    torch.manual_seed(0)
    failed = False
    for name, low, high in RANGES:
        x = torch.empty(200_000, device=device).uniform_(low, high)
        error = units(x, exp(x))
        worst, mean = float(error.abs().max()), float(error.mean())
        passed = worst < 1.5 and abs(mean) < 0.05  # a mean would add up over the samples of a scan
        failed = failed or not passed
        print(f"{name}: {'passed' if passed else 'FAILED'}: worst {worst:.3f}, mean {mean:+.4f} units", flush=True)
    given, wanted = zip(*ENDS, strict=True)
    got = exp(torch.tensor([*given, math.nan], device=device)).tolist()
    passed = got[:-1] == list(wanted) and math.isnan(got[-1])
    print(f"ends: {'passed' if passed else 'FAILED'}: {got}", flush=True)
    sys.exit(failed or not passed)


if __name__ == "__main__":
    main()
