"""Short filters: one depthwise convolution on an explicitly left-padded stream."""

import torch
from torch import Tensor
from torch.nn.functional import conv1d


def convolve_direct(stream: Tensor, rows: Tensor) -> Tensor:
    """Convolves ``stream`` ``[batch, channel, tap - 1 + length]`` with ``[channel, tap]``; returns the last length.

    The pad must be explicit: ``conv1d(padding=tap - 1)`` followed by a slice leaves oneDNN's depthwise kernel and is
    up to 20 times slower on a CPU. One output is a sum, as a convolution up to 20 times slower, too.
    """
    if stream.shape[-1] == rows.shape[1]:
        return (stream * rows.flip(-1)).sum(dim=-1, keepdim=True)
    return conv1d(stream, rows.flip(-1).unsqueeze(1), groups=rows.shape[0])


def convolve_padded(x: Tensor, rows: Tensor) -> Tensor:
    """Convolves ``[batch, channel, length]`` that nothing precedes with a few taps; the result is a view.

    Up to about 8 taps the convolution runs at the speed of memory either way, and this spares the padded copy.
    """
    past = rows.shape[1] - 1
    return conv1d(x, rows.flip(-1).unsqueeze(1), padding=past, groups=rows.shape[0])[..., : x.shape[-1]]


def correlate_direct(stream: Tensor, gradient: Tensor, taps: int) -> Tensor:
    """Returns the gradient of the taps, ``[channel, tap]``: ``sum(gradient[t] * stream[t + tap - 1 - k] for t)``."""
    length = gradient.shape[-1]
    starts = range(taps - 1, -1, -1)
    return torch.stack([(gradient * stream[..., s : s + length]).sum(dim=(0, 2)) for s in starts], dim=-1)
