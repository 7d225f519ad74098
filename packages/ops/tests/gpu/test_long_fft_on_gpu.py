"""Causal FFT convolution with up to 16,777,216 taps on a GPU, held to float64 sums at some samples; its peak memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquad.ops import causal_conv, fft_conv
from subquad.ops.causal_conv.reference import causal_conv_at
from tools.testing.oracle import assert_as_exact_as

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("unchecked")]

LENGTHS = (8_192, 262_144, 1_048_576, 8_388_608, 16_777_216)
OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "causal_conv": causal_conv,
    "fft_conv": lambda x, w: fft_conv(x, w, causal=True),
    "fft_conv a channel at a time": lambda x, w: fft_conv(x, w, causal=True, chunk_size=1),
}


def plain(x: Tensor, w: Tensor) -> Tensor:
    """What one writes in PyTorch: transforms of twice the length, in the dtype of the input."""
    n = 2 * x.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(x, n=n) * torch.fft.rfft(w, n=n), n=n)[..., : x.shape[-1]]


def with_gradients(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor, upstream: Tensor
) -> list[Tensor]:
    """The output and the gradients of x and w."""
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", OPERATORS)
def test_as_many_taps_as_samples_are_as_exact_as_plain_torch(name: str, length: int) -> None:
    x, w = torch.randn(1, 2, length, device="cuda"), torch.randn(2, length, device="cuda") / length**0.5
    upstream = torch.randn_like(x)
    samples = [0, 1, length - 1, *torch.randint(length, (61,)).tolist()]
    mirrored = [length - 1 - t for t in samples]
    backwards = upstream.flip(-1)  # a gradient is the same sum over the mirrored upstream gradient
    exact = {
        "output": causal_conv_at(x, w, samples),
        "gradient of x": causal_conv_at(backwards, w, mirrored),
        "gradient of w": causal_conv_at(x, backwards[0], mirrored)[0],
    }
    usual = with_gradients(plain, x, w, upstream)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = with_gradients(OPERATORS[name], x, w, upstream)
    peak = (torch.cuda.max_memory_allocated() - before) / x.nbytes
    error = float((got[0][..., samples].double() - exact["output"]).norm() / exact["output"].norm())
    print(f"\n{name}, {length} taps: peak memory {peak:.1f} times the input, relative error {error:.1e}")
    for (part, oracle), own, other in zip(exact.items(), got, usual, strict=True):
        assert_as_exact_as(part, oracle, other[..., samples], own[..., samples])


def test_a_channel_at_a_time_takes_less_memory() -> None:
    x, w = torch.randn(1, 16, 1 << 20, device="cuda"), torch.randn(16, 1 << 20, device="cuda")
    peaks = []
    for operator in (OPERATORS["fft_conv"], OPERATORS["fft_conv a channel at a time"]):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with_gradients(operator, x, w, torch.ones_like(x))
        peaks.append((torch.cuda.max_memory_allocated() - before) / x.nbytes)
    print(f"\npeak memory of 16 channels in units of the input: together {peaks[0]:.1f}, one by one {peaks[1]:.1f}")
    assert peaks[1] < 0.6 * peaks[0]
