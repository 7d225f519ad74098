"""Long filters: one real FFT of the stream, one of the taps, one back; overlap-save where the stream is much longer."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from subquad.ops._elementwise import product, product_of_windows
from subquad.ops.fft_sizes import fast_fft_size


def convolve_fft(stream: Tensor, rows: Tensor) -> Tensor:
    """Convolves ``stream`` ``[batch, channel, tap - 1 + length]`` with ``[channel, tap]``; returns the last length.

    The first ``tap - 1`` results are thrown away, so an FFT of the stream's own length is enough: only they wrap round.
    """
    past = rows.shape[1] - 1
    total = stream.shape[-1]
    n = fast_fft_size(total)
    spectrum = product(torch.fft.rfft(stream, n=n), torch.fft.rfft(rows, n=n)[None])
    return torch.fft.irfft(spectrum, n=n)[..., past:total]


def convolve_overlap_save(stream: Tensor, rows: Tensor, n: int) -> Tensor:
    """Does convolve_fft in overlapping windows of n samples, each of which yields ``n - (tap - 1)`` outputs."""
    past = rows.shape[1] - 1
    hop = n - past
    length = stream.shape[-1] - past
    windows = -(-length // hop)
    cut = pad(stream, (0, windows * hop - length)).unfold(-1, n, hop)
    spectrum = product_of_windows(torch.fft.rfft(cut), torch.fft.rfft(rows, n=n)[None, :, None])
    return torch.fft.irfft(spectrum, n=n)[..., past:].flatten(-2)[..., :length]


def correlate_fft(stream: Tensor, gradient: Tensor, taps: int) -> Tensor:
    """Returns the gradient of the taps, ``[channel, tap]``: ``sum(gradient[t] * stream[t + tap - 1 - k] for t)``."""
    n = fast_fft_size(stream.shape[-1])
    spectrum = torch.fft.rfft(gradient, n=n).conj() * torch.fft.rfft(stream, n=n)
    return torch.fft.irfft(spectrum.sum(dim=0), n=n)[..., :taps].flip(-1)
