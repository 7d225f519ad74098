"""Automatic mixed precision does not change what an operator sums in, forward or backward."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquad.ops import causal_conv, fft_conv, gated_conv, gated_modal_conv, modal_conv, rms_norm, selective_scan

_CASES: dict[str, tuple[Callable[..., Tensor], Callable[[], list[Tensor]]]] = {
    "causal_conv, 3 taps": (causal_conv, lambda: [torch.randn(2, 8, 70), torch.randn(8, 3)]),
    "causal_conv, 128 taps": (causal_conv, lambda: [torch.randn(2, 8, 70), torch.randn(8, 128)]),
    "fft_conv": (fft_conv, lambda: [torch.randn(2, 8, 70), torch.randn(8, 9)]),
    "gated_conv": (gated_conv, lambda: [torch.randn(2, 24, 70), torch.randn(24, 3), torch.randn(8, 7)]),
    "rms_norm": (rms_norm, lambda: [torch.randn(2, 8, 70), torch.randn(70)]),
    "modal_conv": (modal_conv, lambda: [torch.randn(2, 8, 70), -torch.rand(8, 16), torch.randn(8, 16)]),
    "selective_scan": (
        selective_scan,
        lambda: [*torch.rand(2, 2, 8, 70), -torch.rand(8, 16), *torch.randn(2, 2, 2, 16, 70)],
    ),
    "gated_modal_conv": (
        gated_modal_conv,
        lambda: [torch.randn(2, 24, 70), torch.randn(24, 3), -torch.rand(8, 16), torch.randn(8, 16)],
    ),
}


@pytest.mark.parametrize("name", _CASES)
def test_autocast_changes_neither_the_output_nor_a_gradient(name: str) -> None:
    operator, make = _CASES[name]
    inputs = [x.requires_grad_() for x in make()]
    expected = operator(*inputs)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        got = operator(*inputs)
    assert torch.equal(got, expected)
    for one, other in zip(torch.autograd.grad(got, inputs, upstream), gradients, strict=True):
        assert torch.equal(one, other)


def test_a_stream_that_autocast_has_rounded_stays_bfloat16_and_reaches_a_float32_filter() -> None:
    x, taps = torch.randn(2, 8, 70), torch.randn(8, 3, requires_grad=True)
    weight = torch.randn(8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = causal_conv(weight @ x, taps)
        loss = y.float().square().mean()
    loss.backward()
    assert y.dtype == torch.bfloat16
    assert taps.grad is not None
    assert taps.grad.dtype == torch.float32
    assert weight.grad is not None
