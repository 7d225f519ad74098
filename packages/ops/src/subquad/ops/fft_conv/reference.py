"""The definition of fft_conv, written from its equation. Slow; any dtype; differentiable."""

import itertools

import torch
from torch import Tensor


def fft_conv_reference(x: Tensor, taps: Tensor, boundary: tuple[str, ...], causal: bool = False) -> Tensor:
    """``y[b, c, t] = sum(taps[c, k] * x[b, c, t + centre - k] for k)``, per axis ``centre = tap // 2`` (0 if causal).

    x ``[batch, channel, *space]``; taps ``[channel, *tap]`` or ``[batch or 1, channel, *tap]``. Outside
    the grid, samples are zero along a "zero" axis and wrap round along a "circular" axis.
    """
    rank = x.dim() - 2
    rows = taps if taps.dim() == x.dim() else taps[None]
    y = torch.zeros_like(x)
    for lags in itertools.product(*(range(size) for size in rows.shape[2:])):
        moved = x
        for axis, (lag, size) in enumerate(zip(lags, rows.shape[2:], strict=True)):
            moved = _moved(moved, 2 + axis, lag - (0 if causal else size // 2), boundary[axis])
        y = y + rows[(..., *lags)].reshape(*rows.shape[:2], *[1] * rank) * moved
    return y


def _moved(x: Tensor, dim: int, by: int, boundary: str) -> Tensor:
    """Returns ``x[t - by]`` along one axis."""
    if boundary == "circular":
        return x.roll(by, dim)
    size = x.shape[dim]
    if abs(by) >= size:
        return torch.zeros_like(x)
    zeros = torch.zeros_like(x.narrow(dim, 0, abs(by)))
    kept = x.narrow(dim, max(0, -by), size - abs(by))
    return torch.cat([zeros, kept] if by > 0 else [kept, zeros], dim)
