"""The definition of rearrange, element by element."""

from torch import Tensor


def rearrange_reference(x: Tensor) -> Tensor:
    """``y[t, b, c] = x[b, c, t]``."""
    batch, channels, length = x.shape
    y = x.new_empty(length, batch, channels)
    for b in range(batch):
        for c in range(channels):
            for t in range(length):
                y[t, b, c] = x[b, c, t]
    return y
