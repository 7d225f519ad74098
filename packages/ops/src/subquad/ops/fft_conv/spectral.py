"""The product of two spectra over any number of axes, each axis with its own boundary."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from subquad.ops.fft_sizes import fast_fft_size


def convolve_spectral(x: Tensor, taps: Tensor, boundary: tuple[str, ...], causal: bool) -> Tensor:
    """Convolves ``[batch, channel, *space]`` with ``[batch or 1, channel, *tap]``; see fft_conv for the equation.

    A zero axis is padded until what wraps round falls outside the crop, then to a fast length; a circular axis keeps
    its length and is turned back by the centre. Filters longer than their axis are first folded (circular) or cropped
    to the taps that can reach the grid (zero).
    """
    if x.numel() == 0:
        return x * taps.sum(dim=tuple(range(2, taps.dim())), keepdim=True)
    dims = tuple(range(2, x.dim()))
    lengths, crops = [], []
    for dim, kind in zip(dims, boundary, strict=True):
        size = x.shape[dim]
        centre = 0 if causal else taps.shape[dim] // 2
        if kind == "circular":
            taps = _folded(taps, dim, size)
            lengths.append(size)
        else:
            first = max(0, centre - (size - 1))  # earlier taps only reach beyond the end of the grid
            taps = taps.narrow(dim, first, min(taps.shape[dim], centre + size) - first)
            centre -= first
            lengths.append(fast_fft_size(size + max(centre, taps.shape[dim] - 1 - centre)))
        crops.append(centre)
    spectrum = torch.fft.rfftn(x, s=lengths, dim=dims) * torch.fft.rfftn(taps, s=lengths, dim=dims)
    y = torch.fft.irfftn(spectrum, s=lengths, dim=dims)
    for dim, kind, centre in zip(dims, boundary, crops, strict=True):
        y = y.roll(-centre, dim) if kind == "circular" else y.narrow(dim, centre, x.shape[dim])
    return y


def _folded(taps: Tensor, dim: int, period: int) -> Tensor:
    """Adds up the taps that act on the same sample of a circle of ``period`` samples."""
    size = taps.shape[dim]
    if size <= period:
        return taps
    turns = -(-size // period)
    padded = pad(taps.movedim(dim, -1), (0, turns * period - size))
    return padded.unflatten(-1, (turns, period)).sum(dim=-2).movedim(-1, dim)
