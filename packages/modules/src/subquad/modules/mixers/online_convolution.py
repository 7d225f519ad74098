"""A causal convolution with a long filter, one token at a time, in time that hardly grows with the length.

Every pair of an input and a later output lies in exactly one square tile: inputs ``n - size`` to ``n - 1``, outputs
``n`` to ``n + size - 1``, with ``size`` the greatest power of two that divides ``n``. Once input ``n - 1`` has come,
the tile of ``n`` is computed by one short convolution and added to what those outputs wait for. A token costs
``O(log(n) ** 2)`` on average, where a sum over all inputs costs ``O(n)``.

Source: van der Hoeven, Relax, but don't be too lazy, 2002; for sequence models Oncescu et al., Flash inference, 2024.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from subquad.ops import fft_conv


def add_due_tiles(
    inputs: Float[Tensor, "batch channel room"],
    pending: Float[Tensor, "batch channel room"],
    taps: Float[Tensor, "channel room"],
    ends: list[int],
    *,
    backend: str,
) -> None:
    """Adds to ``pending`` the tile that is due once each row holds so many inputs; -1 leaves a row out."""
    for end, rows in _rows_by_end(ends):
        size = end & -end
        width = min(size, inputs.shape[-1] - end)
        if width > 0:
            tile = _tile(inputs[rows, :, end - size : end], taps, size, pending.dtype, backend)
            pending[rows, :, end : end + width] += tile[..., :width]


def restart_tiles(
    inputs: Float[Tensor, "batch channel room"],
    pending: Float[Tensor, "batch channel room"],
    taps: Float[Tensor, "channel room"],
    ends: list[int],
    *,
    backend: str,
) -> None:
    """Makes ``pending`` what it would be, had the inputs of each row come one by one."""
    room = inputs.shape[-1]
    for end, rows in _rows_by_end(ends):
        waiting = torch.zeros_like(pending[rows])
        for bit in range(end.bit_length()):
            if not end >> bit & 1:
                continue
            corner, size = end >> bit << bit, 1 << bit
            width = min(size, room - corner)
            tile = _tile(inputs[rows, :, corner - size : corner], taps, size, pending.dtype, backend)
            waiting[..., corner : corner + width] += tile[..., :width]
        pending[rows, :, end:] = waiting[..., end:]


def _rows_by_end(ends: list[int]) -> Iterator[tuple[int, list[int]]]:
    for end in sorted(set(ends) - {-1, 0}):
        yield end, [row for row, other in enumerate(ends) if other == end]


def _tile(
    x: Float[Tensor, "rows channel size"],
    taps: Float[Tensor, "channel room"],
    size: int,
    dtype: torch.dtype,
    backend: str,
) -> Float[Tensor, "rows channel size"]:
    """Convolves a run of inputs and returns what reaches the equally long run behind it."""
    padded = functional.pad(x.to(dtype), (0, size))
    return fft_conv(padded, taps[None, :, : 2 * size], causal=True, backend=backend)[..., size:]
