"""The vendor's names follow the vendor's tap order."""

import pytest
import torch
from torch.nn import functional

from subquad.ops import ArgumentOutOfRange, ShapeMismatch, vendor_names
from tools.testing.oracle import assert_close

X, W = torch.randn(2, 4, 30).double(), torch.randn(4, 5).double()


def test_short_convolution_correlates_as_conv1d_does() -> None:
    expected = functional.conv1d(functional.pad(X, (4, 0)), W[:, None], groups=4)
    assert_close(vendor_names.causal_conv1d(X, W), expected, 1e-12)
    bias = torch.randn(4).double()
    assert_close(
        vendor_names.causal_conv1d(X, W, bias, "silu"), functional.silu(expected + bias[:, None]), 1e-12
    )  # fmt: skip


def test_short_convolution_takes_channels_last() -> None:
    y = vendor_names.causal_conv1d(X.mT, W.mT, torch.ones(4).double(), "silu", True)
    assert_close(y.mT, vendor_names.causal_conv1d(X, W, torch.ones(4).double(), "silu"), 1e-12)


def test_fft_convolution_takes_the_current_sample_first() -> None:
    expected = functional.conv1d(functional.pad(X, (4, 0)), W.flip(-1)[:, None], groups=4)
    assert_close(vendor_names.fft_causal_conv1d(X, W), expected, 1e-12)


def test_back_to_back_convolution_correlates_twice_and_gates() -> None:
    z, p, s = torch.randn(2, 12, 30).double(), torch.randn(12, 3).double(), torch.randn(4).double()
    q, k, v = vendor_names.causal_conv1d(z, p).unflatten(1, (4, 3)).unbind(2)
    g = k * v
    expected = q * (vendor_names.causal_conv1d(g, W) + s[:, None] * g)
    assert_close(vendor_names.b2b_causal_conv1d(z, p, W, s), expected, 1e-12)


@pytest.mark.usefixtures("unchecked")
def test_what_the_vendor_does_not_take_is_refused() -> None:
    for activation in ("gelu", None, "relu"):
        with pytest.raises(ArgumentOutOfRange, match=f"activation is {activation!r}; accepted: 'identity', 'silu'"):
            vendor_names.causal_conv1d(X, W, None, activation)  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatch, match=r"x has 4 axes .* fft_conv1d takes 3"):
        vendor_names.fft_conv1d(X[..., None], W[..., None])
    with pytest.raises(ShapeMismatch, match=r"x has 3 axes .* fft_conv2d takes 4"):
        vendor_names.fft_conv2d(X, W)


def test_centred_convolutions_and_filter_keep_their_meaning() -> None:
    delta = torch.zeros(4, 5).double()
    delta[:, 2] = 1.0
    assert_close(vendor_names.fft_conv1d(X, delta), X, 1e-12)
    image = torch.randn(1, 2, 6, 6).double()
    kernel = torch.zeros(2, 3, 3).double()
    kernel[:, 1, 1] = 1.0
    assert_close(vendor_names.fft_conv2d(image, kernel), image, 1e-12)
    delta[:, 2], delta[:, 3] = 0.0, 1.0  # a tap behind the centre meets the sample before
    assert_close(vendor_names.fft_conv1d(X, delta)[..., 1:], X[..., :-1], 1e-12)
    kernel[:, 1, 1], kernel[:, 2, 0] = 0.0, 1.0
    assert_close(vendor_names.fft_conv2d(image, kernel)[..., 1:, :-1], image[..., :-1, 1:], 1e-12)
    t = torch.arange(9).double()
    taps = vendor_names.implicit_filter(torch.full((1, 1), -0.5).double(), torch.ones(1, 1).double(), 9)
    assert_close(taps[0], torch.exp(-0.5 * t), 1e-12)
