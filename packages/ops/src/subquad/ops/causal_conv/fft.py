"""Long filters: one real FFT of the stream, one of the taps, one back."""

import torch
from torch import Tensor

from subquad.ops.fft_sizes import fast_fft_size


def convolve_fft(stream: Tensor, rows: Tensor) -> Tensor:
    """Convolves ``stream`` ``[batch, channel, tap - 1 + length]`` with ``rows`` ``[channel, tap]``; returns the last length.

    The first ``tap - 1`` results are thrown away, so an FFT of the stream's own length is enough: only they wrap round.
    """
    past = rows.shape[1] - 1
    total = stream.shape[-1]
    n = fast_fft_size(total)
    spectrum = torch.fft.rfft(stream, n=n) * torch.fft.rfft(rows, n=n)
    return torch.fft.irfft(spectrum, n=n)[..., past:total]
