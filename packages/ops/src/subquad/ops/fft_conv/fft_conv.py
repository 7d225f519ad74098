"""FFT convolution over one, two or three axes: the public function."""

from typing import get_args

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._any_length import of_any_length
from subquad.ops._autocast import without_autocast
from subquad.ops._blocks import block_sizes, channels_at_once, fewest_channels
from subquad.ops._channels import Part, by_channels, check_chunk
from subquad.ops.axes import Boundary, Grid, Layout, PerChannel
from subquad.ops.errors import ArgumentOutOfRange, ShapeMismatch
from subquad.ops.fft_conv.placement import place
from subquad.ops.fft_conv.spectral import convolve_spectral, reach


@of_any_length
def fft_conv(
    x: Grid,
    taps: Grid,
    *,
    boundary: Boundary | tuple[Boundary, ...] = "zero",
    causal: bool = False,
    skip: PerChannel | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Grid:
    """Convolves each channel of a grid with its own filter by FFT.

    ``y[b, c, t] = sum(taps[c, k] * x[b, c, t + centre - k] for k) + skip[c] * x[b, c, t]`` along each axis, where
    ``centre = tap // 2`` for odd and even filters and every boundary, and 0 when causal.

    Args:
      x: the grid, ``[batch, channel, *space]`` with 1, 2 or 3 axes of space; float32, float64, bfloat16 or float16.
      taps: ``[channel, *tap]``, or ``[batch or 1, channel, *tap]`` for one filter a sample; any size along any axis.
        With ``layout="BLH"`` the channel comes last: ``[*tap, channel]`` or ``[batch or 1, *tap, channel]``.
      boundary: ``"zero"`` outside the grid, ``"circular"`` to wrap round, or one of the two per axis.
      causal: no output sees a later sample; one axis with a zero boundary only.
      skip: factor ``[channel]`` of the unfiltered input.
      chunk_size: transform so many channels at a time and recompute them in backward, so that peak memory falls; the
        result has the same bits. On a CPU 2 at least, and of transforms that its threads share more than half as many
        as threads.
      layout: ``"BHL"`` ``[batch, channel, *space]`` or ``"BLH"`` ``[batch, *space, channel]``.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      The filtered grid in the shape, dtype and layout of x, transformed in float32 (float64 for float64). It may be a
      view of the padded transform, up to twice as large along each axis; ``.clone()`` what is kept.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    grid, kernel, boundaries = _canonical(x, taps, boundary, causal, layout)
    _checks.shaped("skip", skip, (grid.shape[1],), x)
    check_chunk(chunk_size)
    call = describe(x, taps, boundary=boundary, causal=causal, skip=skip, layout=layout)
    chosen, _ = dispatch.choose(call, backend)

    def run(grid: Tensor, kernel: Tensor, skip: Tensor | None) -> tuple[Tensor, ...]:
        compute = compute_in_torch if chosen is None else chosen.run
        return (compute(grid, kernel, boundary=boundaries, causal=causal, skip=skip),)

    parts = (Part(grid, 1), Part(kernel, 1), Part(skip, 0))
    (y,) = by_channels(run, chunk_size, grid.shape[1], parts, 1 if chunk_size is None else _fewest(grid, kernel))
    return y if layout == "BHL" else y.movedim(1, -1)


def describe(
    x: Tensor,
    taps: Tensor,
    *,
    boundary: Boundary | tuple[Boundary, ...] = "zero",
    causal: bool = False,
    skip: Tensor | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    grid, kernel, boundaries = _canonical(x, taps, boundary, causal, layout)
    named = {
        "skip": skip is not None,
        "causal": causal,
        "circular": "circular" in boundaries,
        "per-sample": kernel.shape[0] > 1,
        f"{grid.dim() - 2}d": True,
    }
    return dispatch.Call(
        operator="fft_conv",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=grid.shape[0],
        channels=grid.shape[1],
        length=grid[0, 0].numel() if grid.shape[0] and grid.shape[1] else 0,
        taps=max(kernel.shape[2:]),
        space=tuple(grid.shape[2:]),
        space_taps=tuple(kernel.shape[2:]),
        transform=_transform(grid, kernel, boundaries),
        options=frozenset(name for name, used in named.items() if used),
        gradient=dispatch.gradient_wanted(x, taps, skip),
        capturing=dispatch.capturing(x),
    )


def _transform(grid: Tensor, kernel: Tensor, boundary: tuple[Boundary, ...]) -> int:
    """Returns the side of the square transform of a call with two axes; 0 where there is none."""
    space = grid.shape[2:]
    if len(space) != 2 or not min(space):
        return 0
    reaches = [reach(size, tap, kind) for size, tap, kind in zip(space, kernel.shape[2:], boundary, strict=True)]
    return place(space, [count for _, count, _ in reaches], [centre for _, _, centre in reaches], boundary)[0]


def _canonical(
    x: Tensor, taps: Tensor, boundary: Boundary | tuple[Boundary, ...], causal: bool, layout: Layout
) -> tuple[Tensor, Tensor, tuple[Boundary, ...]]:
    """Checks a call; returns x and taps channel-first, the taps with a batch axis, and one boundary an axis."""
    _checks.one_of("layout", layout, get_args(Layout))
    _checks.floating("x", x)
    _checks.floating("taps", taps)
    _checks.same_device("taps", taps, "x", x)
    rank = x.dim() - 2
    if not 1 <= rank <= 3:
        raise ShapeMismatch(f"x has {x.dim()} axes {tuple(x.shape)}; accepted: 3, 4 or 5 (1-3 of space)")
    if taps.dim() not in (rank + 1, rank + 2):
        raise ShapeMismatch(f"taps has {taps.dim()} axes, x has {x.dim()}; accepted: {rank + 1} or {rank + 2}")
    kernel = taps if taps.dim() == x.dim() else taps.unsqueeze(0)
    grid = x if layout == "BHL" else x.movedim(-1, 1)
    kernel = kernel if layout == "BHL" else kernel.movedim(-1, 1)
    if kernel.shape[1] != grid.shape[1]:
        raise ShapeMismatch(f"taps has {kernel.shape[1]} channels, x has {grid.shape[1]}; they must agree")
    if kernel.shape[0] != 1 and kernel.shape[0] != grid.shape[0]:
        raise ShapeMismatch(f"taps has batch {kernel.shape[0]}, x has {grid.shape[0]}; accepted: 1 or the same")
    if min(kernel.shape[2:]) < 1:
        raise ShapeMismatch(f"taps has shape {tuple(taps.shape)}; accepted: 1 or more taps along every axis")
    boundaries = tuple(boundary) if isinstance(boundary, tuple | list) else (boundary,) * rank
    if len(boundaries) != rank:
        raise ShapeMismatch(f"boundary names {len(boundaries)} axes, x has {rank} of space; they must agree")
    for name in boundaries:
        _checks.one_of("boundary", name, get_args(Boundary))
    if causal and boundaries != ("zero",):
        raise ArgumentOutOfRange(f"causal is True with boundary {boundaries!r}; accepted: one axis with 'zero'")
    return grid, kernel, boundaries  # type: ignore[return-value]


@without_autocast
def compute_in_torch(
    x: Tensor, taps: Tensor, *, boundary: tuple[Boundary, ...], causal: bool, skip: Tensor | None
) -> Tensor:
    """Computes the checked call in plain torch; returns y alone."""
    width = channels_at_once(x)
    if width >= x.shape[1]:
        return _convolve(x, taps, boundary, causal, skip).to(x.dtype)
    sizes = block_sizes(x.shape[1], width, _fewest(x, taps))
    factors = [None] * len(sizes) if skip is None else skip.split(sizes)
    blocks = zip(x.split(sizes, dim=1), taps.split(sizes, dim=1), factors, strict=True)
    if not dispatch.runs_plainly(x, taps, skip):
        return torch.cat([_convolve(part, own, boundary, causal, s).to(x.dtype) for part, own, s in blocks], dim=1)
    y = x.new_empty(x.shape)
    for result, (part, own, factor) in zip(y.split(sizes, dim=1), blocks, strict=True):
        result.copy_(_convolve(part, own, boundary, causal, factor))
    return y


def _convolve(x: Tensor, taps: Tensor, boundary: tuple[Boundary, ...], causal: bool, skip: Tensor | None) -> Tensor:
    """Convolves some channels; returns the sums in their own dtype, maybe as a view."""
    wide = _checks.accumulation_dtype(x)
    grid = x.to(wide)
    y = convolve_spectral(grid, taps.to(wide), boundary, causal)
    return y if skip is None else y + skip.to(wide).reshape(-1, *[1] * (x.dim() - 2)) * grid


def _fewest(x: Tensor, taps: Tensor) -> int:
    return fewest_channels(x, max(size + tap for size, tap in zip(x.shape[2:], taps.shape[2:], strict=True)))
