"""Holds the Triton kernels of selective_scan, output, state and gradients, to float64; prints a line a case.

usage: scan_kernel_cases.py cpu|cuda

On ``cpu`` they run in Triton's interpreter (``TRITON_INTERPRET=1``) at small shapes. A program, so that no checker is
on.
"""

import sys

import torch
from torch import Tensor

from subquad import ops
from tools.testing.oracle import assert_as_exact_as, assert_close

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
# batch, channels, length, groups, states, skip, initial state
SMALL = (
    (1, 2, 1, 1, 1, False, False),
    (1, 4, 70, 2, 3, True, True),
    (2, 3, 65, 1, 2, False, True),
    (1, 2, 64, 2, 5, True, False),
)
LARGE = (
    *SMALL,
    (1, 5, 129, 1, 2, False, True),
    (2, 64, 1000, 1, 16, True, True),
    (3, 37, 4096, 1, 16, True, False),
    (1, 16, 515, 4, 128, True, True),
)
NAMES = ("output", "state", "to x", "to step_size", "to decay", "to input_weights", "to output_weights")


def _inputs(case: tuple, dtype: torch.dtype) -> list[Tensor | None]:
    batch, channels, length, groups, states, skip, initial = case
    weights = torch.randn(2, batch, groups, states, length, device=DEVICE).to(dtype).unbind(0)
    return [
        torch.randn(batch, channels, length, device=DEVICE).to(dtype),
        torch.rand(batch, channels, length, device=DEVICE) + 0.01,
        -torch.rand(channels, states, device=DEVICE),
        *weights,
        torch.randn(channels, device=DEVICE) if skip else None,
        torch.randn(batch, channels, states, device=DEVICE) if initial else None,
    ]


def _results(
    inputs: list[Tensor | None], backend: str, dtype: torch.dtype | None, upstream: list[Tensor]
) -> list[Tensor]:
    leaves = [None if x is None else x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
    y, state = ops.selective_scan_with_state(*leaves[:5], skip=leaves[5], initial_state=leaves[6], backend=backend)
    wanted = [leaf for leaf in leaves if leaf is not None]
    given = [u.to(r) for u, r in zip(upstream, (y, state), strict=True)]
    return [y, state, *torch.autograd.grad([y, state], wanted, given)]


def hold(case: tuple, dtype: torch.dtype) -> None:
    """Asserts the errors of one call."""
    inputs = _inputs(case, dtype)
    upstream = [torch.randn_like(inputs[0]), torch.randn(case[0], case[1], case[4], device=DEVICE)]
    oracle = _results(inputs, "torch", torch.float64, upstream)
    plain, got = (_results(inputs, backend, None, upstream) for backend in ("torch", "triton"))
    names = [*NAMES, *(name for name, used in (("to skip", case[5]), ("to state", case[6])) if used)]
    for name, o, p, g in zip(names, oracle, plain, got, strict=True):
        assert_as_exact_as(f"{name} of {case}", o, p, g)
    alone = ops.selective_scan(*inputs[:5], skip=inputs[5], initial_state=inputs[6], backend="triton")  # type: ignore[arg-type]
    assert torch.equal(alone, got[0])


def hold_a_slow_mode() -> None:
    """Asserts that the state of a mode whose decays all round the same way does not drift with the samples."""
    samples, state = torch.zeros(1, 1, 640, device=DEVICE), torch.ones(1, 1, 1, device=DEVICE, requires_grad=True)
    step_size, decay = torch.full_like(samples, 0.01), torch.full((1, 1), -9e-6, device=DEVICE)
    weights = torch.ones(1, 1, 1, 640, device=DEVICE)
    inputs = (samples, step_size, decay, weights, weights)
    y, last = ops.selective_scan_with_state(*inputs, initial_state=state, backend="triton")
    (gradient,) = torch.autograd.grad(last.sum(), state)
    exact = torch.exp(decay.double() * step_size.double().cumsum(-1))
    assert_close(y, exact, 4e-7)  # a rounded decay is 3e-8 off, 640 of them 2e-5
    assert_close(last[..., 0], exact[..., -1], 4e-7)
    assert_close(gradient[..., 0], exact[..., -1], 4e-7)


def main() -> None:
    """Runs every case; the exit status is 1 if one failed."""
    failed = False
    try:
        hold_a_slow_mode()
        print("a slow mode: passed", flush=True)
    except AssertionError as error:
        failed = True
        print(f"a slow mode: {error}", flush=True)
    half = torch.float16 if DEVICE.type == "cpu" else torch.bfloat16  # the interpreter cuts bfloat16 off
    for dtype in (torch.float32, half):
        for case in SMALL if DEVICE.type == "cpu" else LARGE:
            torch.manual_seed(0)
            try:
                hold(case, dtype)
                print(f"{case} {str(dtype)[6:]}: passed", flush=True)
            except Exception as error:  # one broken case must not hide the others
                failed = True
                print(f"{case} {str(dtype)[6:]}: {type(error).__name__}: {str(error)[:2000]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
