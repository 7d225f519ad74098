"""Medium filters: block Toeplitz matrix products.

With blocks of ``T`` samples, block i of the output is ``sum(X[i - d] @ M[d] for d in range(ceil((tap - 1) / T) + 1))``
where ``M[d][j, i] = taps[d * T + i - j]`` (zero outside the taps): ``2 (tap + T)`` multiplications a sample, all in
matrix products over views of the stream.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def diagonal_count(taps: int, block: int) -> int:
    """Returns how many blocks of the past a block of the output depends on, itself included."""
    return -(-(taps - 1) // block) + 1


def toeplitz_blocks(rows: Tensor, block: int) -> Tensor:
    """Builds ``[channel, diagonals, block, block]`` from ``rows`` ``[channel, tap]``, farthest past first.

    Entry e, j, i is tap ``d * block + i - j`` with ``d = diagonals - 1 - e``.
    """
    taps = rows.shape[1]
    diagonals = diagonal_count(taps, block)
    padded = pad(rows, (block - 1, diagonals * block - taps))
    return padded.unfold(-1, block, 1).flip(1).unflatten(1, (diagonals, block))


def _stream_blocks(stream: Tensor, taps: int, block: int) -> tuple[Tensor, int]:
    """Cuts ``[batch, channel, tap - 1 + length]`` into ``[channel, batch, diagonals - 1 + count, block]``."""
    batch, channels, total = stream.shape
    length = total - (taps - 1)
    earlier = diagonal_count(taps, block) - 1
    count = -(-length // block)
    padded = pad(stream, (earlier * block - (taps - 1), count * block - length))
    return padded.transpose(0, 1).reshape(channels, batch, earlier + count, block), count


def convolve_toeplitz(stream: Tensor, rows: Tensor, block: int) -> Tensor:
    """Convolves ``stream`` ``[batch, channel, tap - 1 + length]`` with ``[channel, tap]``; returns the last length."""
    channels, taps = rows.shape
    batch, _, total = stream.shape
    matrices = toeplitz_blocks(rows, block)
    blocks, count = _stream_blocks(stream, taps, block)
    y = stream.new_zeros(())
    for e in range(matrices.shape[1]):
        part = blocks[:, :, e : e + count].reshape(channels, batch * count, block)
        y = torch.baddbmm(y, part, matrices[:, e]) if e else torch.bmm(part, matrices[:, e])
    return y.view(channels, batch, count * block)[..., : total - (taps - 1)].transpose(0, 1)


def correlate_toeplitz(stream: Tensor, gradient: Tensor, taps: int, block: int) -> Tensor:
    """Returns the gradient of the taps, ``[channel, tap]``: ``sum(gradient[t] * stream[t + tap - 1 - k] for t)``.

    The same products with the roles of matrix and result exchanged; each matrix is then summed along its diagonals.
    """
    batch, channels, length = gradient.shape
    blocks, count = _stream_blocks(stream, taps, block)
    diagonals = diagonal_count(taps, block)
    columns = pad(gradient, (0, count * block - length)).transpose(0, 1).reshape(channels, batch * count, block)
    sums = gradient.new_zeros(channels, (diagonals + 1) * block - 1)
    for e in range(diagonals):
        part = blocks[:, :, e : e + count].reshape(channels, batch * count, block)
        matrix = torch.bmm(part.transpose(1, 2), columns)
        start = (diagonals - 1 - e) * block
        sums = sums + pad(_diagonal_sums(matrix), (start, (diagonals - 1) * block - start))
    return sums[:, block - 1 : block - 1 + taps]


def _diagonal_sums(matrix: Tensor) -> Tensor:
    """Sums ``matrix[c, j, i]`` over equal ``i - j``, smallest first: shears the rows, then adds them."""
    channels, block, _ = matrix.shape
    if block == 1:
        return matrix.flatten(1)
    sheared = pad(pad(matrix, (0, block - 2)).flatten(1), (block - 1, 1))
    return sheared.view(channels, block, 2 * block - 1).sum(dim=1)
