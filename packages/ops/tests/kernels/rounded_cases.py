"""The kernels that round rows to one byte a number, against the torch form; steps that round where kernels do."""

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from subquad import ops
from tools.testing.oracle import assert_close

_SMALLEST = 2.0**-9  # step of the numbers below the smallest normal one


def rounded_rows(device: torch.device, backend: str) -> None:
    """Rows as they are, channels first, behind a norm, and products."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device)

    def hold(make: Callable[[str], ops.RoundedRows]) -> None:
        got, expected = make(backend), make("torch")
        assert_close(got.inverse, expected.inverse, 1e-5)
        _hold_codes(got.codes.double(), expected.codes.double(), interpreted=device.type == "cpu")

    for dtype in (torch.float32, torch.bfloat16):
        for length, channels in ((1, 16), (5, 300), (70, 300)):
            x, other = (random(2, length, channels) * 3).to(dtype), random(2, length, channels).to(dtype)
            x[0, 0] = 0
            norm = ops.StepNorm(random(channels), 1e-3, "vortex")
            hold(lambda b, x=x: ops.rounded_rows(x, backend=b))
            hold(lambda b, x=x: ops.rounded_rows(x.transpose(1, 2).contiguous(), layout="BHL", backend=b))
            for activation in (None, "gelu"):
                hold(lambda b, x=x, o=other, a=activation: ops.rounded_product(x, o, activation=a, backend=b))
            for addend in (None, other):
                hold(lambda b, x=x, o=addend, n=norm: ops.rounded_norm(x, n, addend=o, backend=b)[0])
            total = ops.rounded_norm(x, norm, addend=other, backend=backend)[1]
            assert_close(total, x.double() + other.double(), 8e-3 if dtype == torch.bfloat16 else 1e-6)


def _hold_codes(got: torch.Tensor, expected: torch.Tensor, *, interpreted: bool) -> None:
    """Asserts the same numbers, but for a few that lie in the middle between two."""
    distance = (got - expected).abs()
    off = distance > 0
    if interpreted:  # the interpreter rounds ties away, and forgets the carry to the next power of two
        off &= distance > torch.clamp(expected.abs() / 8, min=_SMALLEST)
        off &= 2 * got != expected
        assert not off.any()
    else:
        assert float(off.double().mean()) < 2e-3
        assert not (distance > torch.clamp(expected.abs() / 8, min=_SMALLEST)).any()


def step_on_all_rows(step: Callable, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
    """The torch form that rounds where the kernels do, at each gate; row by row a CPU rounds only in the end."""
    module = sys.modules[step.__module__]
    with patch.object(module, "host_reads_freely", lambda x: False):
        return step(*inputs, **options, backend="torch")


def hold_behind_norm(
    name: str, got: torch.Tensor, plain: torch.Tensor, oracle: torch.Tensor, *, dtype: torch.dtype
) -> None:
    """Asserts the error of numbers that the torch form rounds to dtype in other places: it rounds what a norm left.

    It is as large on the whole. The largest is that of one product of two sums, where chance has its way: it is held to
    what four roundings can make of the largest number.
    """
    error, ordinary = (float((x.double() - oracle).square().mean().sqrt()) for x in (got, plain))
    assert error <= 2 * ordinary, f"{name}: root mean square error {error:.2e}, that of torch {ordinary:.2e}"
    largest, allowed = (got - oracle).abs().max(), 2 * torch.finfo(dtype).eps * oracle.abs().max()
    assert largest <= allowed, f"{name}: largest error {float(largest):.2e}, allowed {float(allowed):.2e}"
