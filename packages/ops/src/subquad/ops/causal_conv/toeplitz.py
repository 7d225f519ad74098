"""Medium filters: block Toeplitz matrix products.

With blocks of ``T`` samples, block i of the output is ``sum(X[i - d] @ M[d] for d in range(ceil((tap - 1) / T) + 1))``
where ``M[d][j, i] = taps[d * T + i - j]`` (zero outside the taps): ``2 (tap + T)`` multiplications a sample, all of them
in matrix products over views of the stream, with no copy of it.
"""

import torch
from torch import Tensor


def toeplitz_blocks(rows: Tensor, block: int) -> Tensor:
    """Builds ``[channel, diagonals, block, block]`` from ``rows`` ``[channel, tap]``: entry d, j, i is tap d*block + i - j."""
    channels, taps = rows.shape
    diagonals = (taps - 1 + block - 1) // block + 1
    padded = torch.nn.functional.pad(rows, (block - 1, diagonals * block - taps))
    # row of lag: index = block - 1 + d * block + i - j
    windows = padded.unfold(-1, block, 1)  # [channel, start, block], start = block - 1 + d * block - j
    d = torch.arange(diagonals, device=rows.device) * block + block - 1
    j = torch.arange(block, device=rows.device)
    return windows[:, d[:, None] - j[None, :]]


def convolve_toeplitz(stream: Tensor, rows: Tensor, block: int) -> Tensor:
    """Convolves ``stream`` ``[batch, channel, tap - 1 + length]`` with ``rows`` ``[channel, tap]``; returns the last length."""
    channels, taps = rows.shape
    batch, _, total = stream.shape
    length = total - (taps - 1)
    matrices = toeplitz_blocks(rows, block)
    diagonals = matrices.shape[1]
    count = -(-length // block)
    front = (diagonals - 1) * block - (taps - 1)
    padded = torch.nn.functional.pad(stream, (front, count * block - length))
    blocks = padded.transpose(0, 1).reshape(channels, batch, diagonals - 1 + count, block)
    y: Tensor | None = None
    for d in range(diagonals):
        start = diagonals - 1 - d
        part = blocks[:, :, start : start + count].reshape(channels, batch * count, block)
        y = part @ matrices[:, d] if y is None else torch.baddbmm(y, part, matrices[:, d])
    assert y is not None
    return y.view(channels, batch, count * block)[..., :length].transpose(0, 1)
