"""FFT convolution over one, two or three axes: the public function."""

import torch

from subquad.ops import _checks
from subquad.ops.axes import Boundary, Grid, Layout, PerChannel
from subquad.ops.errors import ArgumentOutOfRange, ShapeMismatch
from subquad.ops.fft_sizes import fast_fft_size


def fft_conv(
    x: Grid,
    taps: Grid,
    *,
    boundary: Boundary | tuple[Boundary, ...] = "zero",
    causal: bool = False,
    skip: PerChannel | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Grid:
    """Convolves each channel of a grid with its own filter by FFT.

    ``y[b, c, t] = sum(taps[c, k] * x[b, c, t + centre - k] for k) + skip[c] * x[b, c, t]`` with ``centre = tap // 2``
    """
    grid = x if layout == "BHL" else x.movedim(-1, 1)
    rank = grid.dim() - 2
    boundaries = (boundary,) * rank if isinstance(boundary, str) else tuple(boundary)
    if len(boundaries) != rank:
        raise ShapeMismatch(f"boundary names {len(boundaries)} axes, x has {rank}; they must agree")
    if causal and (rank != 1 or boundaries != ("zero",)):
        raise ArgumentOutOfRange("causal is True; accepted only with one axis and a zero boundary")
    rows = taps if taps.dim() == grid.dim() else taps.unsqueeze(0)
    wide = _checks.accumulation_dtype(x)
    dims = tuple(range(2, 2 + rank))
    space, sizes = grid.shape[2:], rows.shape[2:]
    centres = [0 if causal else size // 2 for size in sizes]
    lengths = [
        fast_fft_size(n + max(c, k - 1 - c)) if b == "zero" else n
        for n, k, c, b in zip(space, sizes, centres, boundaries, strict=True)
    ]
    kernel = rows.to(wide)
    for dim, length, size in zip(dims, lengths, sizes, strict=True):
        if size > length:  # taps that lie a whole period further act on the same samples
            folds = -(-size // length)
            kernel = torch.nn.functional.pad(kernel.movedim(dim, -1), (0, folds * length - size))
            kernel = kernel.unflatten(-1, (folds, length)).sum(-2).movedim(-1, dim)
    signal = torch.fft.rfftn(grid.to(wide), s=lengths, dim=dims)
    y = torch.fft.irfftn(signal * torch.fft.rfftn(kernel, s=lengths, dim=dims), s=lengths, dim=dims)
    for dim, n, centre, kind in zip(dims, space, centres, boundaries, strict=True):
        y = y.roll(-centre, dim) if kind == "circular" else y.narrow(dim, centre, n)
    if skip is not None:
        y = y + skip.to(wide).reshape(-1, *[1] * rank) * grid.to(wide)
    y = y.to(x.dtype)
    return y if layout == "BHL" else y.movedim(1, -1)
