"""The product of two spectra over any number of axes, each axis with its own boundary."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from subquad.ops._elementwise import product
from subquad.ops.fft_sizes import fast_fft_size


def convolve_spectral(x: Tensor, taps: Tensor, boundary: tuple[str, ...], causal: bool) -> Tensor:
    """Convolves ``[batch, channel, *space]`` with ``[batch or 1, channel, *tap]``; see fft_conv for the equation.

    A zero axis is padded until what wraps round falls outside the crop, then to a fast length; a circular axis keeps
    its length and is turned back by the centre.
    """
    if x.numel() == 0:
        return x * taps.sum(dim=tuple(range(2, taps.dim())), keepdim=True)
    dims = tuple(range(2, x.dim()))
    taps, crops = reaching_taps(x.shape[2:], taps, boundary, causal)
    lengths = []
    for size, tap, kind, centre in zip(x.shape[2:], taps.shape[2:], boundary, crops, strict=True):
        lengths.append(size if kind == "circular" else fast_fft_size(size + max(centre, tap - 1 - centre)))
    spectrum = product(torch.fft.rfftn(x, s=lengths, dim=dims), torch.fft.rfftn(taps, s=lengths, dim=dims))
    y = torch.fft.irfftn(spectrum, s=lengths, dim=dims)
    for dim, kind, centre in zip(dims, boundary, crops, strict=True):
        y = y.roll(-centre, dim) if kind == "circular" else y.narrow(dim, centre, x.shape[dim])
    return y


def reaching_taps(
    space: Sequence[int], taps: Tensor, boundary: tuple[str, ...], causal: bool
) -> tuple[Tensor, list[int]]:
    """Returns filters no longer than what acts on a grid of these sizes, and the tap of each axis that is its centre.

    Filters longer than their axis are folded (circular) or cropped to the taps that can reach the grid (zero).
    """
    centres = []
    for dim, (size, kind) in enumerate(zip(space, boundary, strict=True), start=2):
        first, count, centre = reach(size, taps.shape[dim], kind, causal=causal)
        taps = _folded(taps, dim, size) if kind == "circular" else taps.narrow(dim, first, count)
        centres.append(centre)
    return taps, centres


def reach(size: int, taps: int, kind: str, *, causal: bool = False) -> tuple[int, int, int]:
    """Returns the first tap that acts on an axis of ``size`` samples, how many do, and which of them is the centre."""
    centre = 0 if causal else taps // 2
    if kind == "circular":
        return 0, min(taps, size), centre
    first = max(0, centre - (size - 1))  # earlier taps only reach beyond the end of the grid
    return first, min(taps, centre + size) - first, centre - first


def _folded(taps: Tensor, dim: int, period: int) -> Tensor:
    """Adds up the taps that act on the same sample of a circle of ``period`` samples."""
    size = taps.shape[dim]
    if size <= period:
        return taps
    turns = -(-size // period)
    padded = pad(taps.movedim(dim, -1), (0, turns * period - size))
    return padded.unflatten(-1, (turns, period)).sum(dim=-2).movedim(-1, dim)
