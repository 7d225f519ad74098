"""The kernels of the CUDA library that convolve images by FFT.

Nothing here checks shapes: the operator has done so, and the backend has refused what no kernel takes. Spectra are
``[filter, column 0 to size / 2, row frequency 0 to size - 1]``, complex64.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from subquad.ops._cuda_interface import DTYPE_CODES, ImagesArguments, address
from subquad.ops._cuda_library import load_cuda_library
from subquad.ops.fft_conv.placement import LARGE_SIZES, PASSES, Axis

_SHARED_BYTES = 227 * 1024  # of a block on compute capability 9.0
_SCRATCH_BYTES = 24 << 20  # half of the level-2 cache of an H100, where the rows' transforms then stay
_BLOCKS = 1056  # so many fill a GPU: eight for each of 132 multiprocessors


def _start(name: str, x: Tensor, arguments: ImagesArguments) -> None:
    scratch = None
    if arguments.size in LARGE_SIZES:
        name = name.replace("ops_image", "ops_large_image")
        image = arguments.height[1] * (arguments.size // 2 + 1)
        count = max(1, min(x.shape[0] * x.shape[1], _SCRATCH_BYTES // (8 * image)))
        scratch = torch.empty(count * image, dtype=torch.complex64, device=x.device)
        arguments.scratch_images, arguments.scratch = count, address(scratch)
    load_cuda_library().enqueue(name, x, ctypes.byref(arguments))


def _arguments(x: Tensor, output: Tensor, size: int, height: Axis, width: Axis) -> ImagesArguments:
    given = ImagesArguments(input=address(x), output=address(output), batch=x.shape[0], channel=x.shape[1])
    given.size, given.dtype = size, DTYPE_CODES[x.dtype]
    given.height[:], given.width[:] = height, width
    return given


def _fit(size: int, *rows: int) -> bool:
    """Says whether a block's shared memory holds so many rows of each of several images, and a column of each."""
    if size in LARGE_SIZES:
        return False
    first, second = PASSES[size]
    row = first * (second + 1 if second % 4 == 0 else second) + 1
    pairs = sum(-(-count // (2 * second)) * second for count in rows)
    return 8 * (1 + pairs + len(rows)) * row <= _SHARED_BYTES


def spectra(images: Tensor, size: int, height: Axis, width: Axis) -> Tensor:
    """Returns the spectrum of each of ``[batch, channel, height, width]``, contiguous."""
    batch, channels = images.shape[:2]
    found = torch.empty(batch * channels, size // 2 + 1, size, dtype=torch.complex64, device=images.device)
    _start("subquad_ops_image_spectra", images, _arguments(images, found, size, height, width))
    return found


def convolve(x: Tensor, spectrum: Tensor, skip: Tensor | None, axes: Sequence[Axis], *, turned: bool = False) -> Tensor:
    """Returns x, contiguous, convolved with the filters of one or of all samples.

    Args:
      x: ``[batch, channel, height, width]``.
      spectrum: of ``channel`` or ``batch * channel`` filters.
      skip: factor ``[channel]`` of x, added.
      axes: place x, then the result, the height first.
      turned: turn the filters round.
    """
    y = torch.empty_like(x)
    given = _arguments(x, y, spectrum.shape[2], axes[0], axes[1])
    given.other_height[:], given.other_width[:] = axes[2], axes[3]
    given.spectrum, given.skip = address(spectrum), address(skip)
    given.skip_dtype = 0 if skip is None else DTYPE_CODES[skip.dtype]
    given.per_sample, given.conjugate = int(spectrum.shape[0] != x.shape[1]), int(turned)
    _start("subquad_ops_image_convolve", x, given)
    return y


def correlate(
    x: Tensor, other: Tensor, size: int, axes: Sequence[Axis], lags: Sequence[Axis], *, summed: bool
) -> Tensor:
    """Returns ``sum(x[t] * other[t + lag])`` over places t, ``[batch or 1, channel, *lag]`` in float32.

    Args:
      x: ``[batch, channel, height, width]``, contiguous.
      other: likewise.
      size: of the transform.
      axes: place x, then the other, the height first.
      lags: place the lags that are wanted.
      summed: over the batch, or for each sample.
    """
    batch, channels = x.shape[:2]
    if _fit(size, axes[0].extent, axes[2].extent):
        parts = min(batch, -(-_BLOCKS // channels)) if summed else batch
        products = torch.empty(parts, channels, size // 2 + 1, size, dtype=torch.complex64, device=x.device)
        given = _arguments(x, products, size, axes[0], axes[1])
        given.other, given.parts, given.per_sample = address(other), parts, int(not summed)
        given.other_height[:], given.other_width[:] = axes[2], axes[3]
        _start("subquad_ops_image_correlate", x, given)
    else:
        products = spectra(x, size, *axes[:2]).conj() * spectra(other, size, *axes[2:])
        products = products.view(batch, channels, size // 2 + 1, size)
        products = products.sum(dim=0, keepdim=True) if summed else products
    if size in LARGE_SIZES:
        products = products.sum(dim=0, keepdim=True) if summed else products
        square = torch.fft.irfft2(products.mT, s=(size, size)).roll([-axis.shift for axis in lags], dims=(2, 3))
        return square[..., : lags[0].size, : lags[1].size].contiguous()
    rows = 1 if summed else batch
    found = torch.empty(rows, channels, lags[0].size, lags[1].size, dtype=torch.float32, device=x.device)
    given = _arguments(found, found, size, *lags)
    given.other_height[:], given.other_width[:] = lags
    given.spectrum, given.parts = address(products), products.shape[0] if summed else 1
    _start("subquad_ops_image_inverses", x, given)
    return found
