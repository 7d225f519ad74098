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
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream().cuda_stream
        load_cuda_library().call(name, ctypes.byref(arguments), stream)


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
    return 8 * (size + (pairs + (len(rows) if second > 1 else 0)) * row) <= _SHARED_BYTES


def spectra(images: Tensor, size: int, height: Axis, width: Axis) -> Tensor:
    """Returns the spectrum of each of ``[batch, channel, height, width]``, contiguous."""
    batch, channels = images.shape[:2]
    found = torch.empty(batch * channels, size // 2 + 1, size, dtype=torch.complex64, device=images.device)
    _start("subquad_ops_image_spectra", images, _arguments(images, found, size, height, width))
    return found


def convolve(
    x: Tensor, spectrum: Tensor, skip: Tensor | None, height: Axis, width: Axis, *, turned: bool = False
) -> Tensor:
    """Returns x, contiguous, convolved with the filters of one or of all samples.

    Args:
      x: ``[batch, channel, height, width]``.
      spectrum: of ``channel`` or ``batch * channel`` filters.
      skip: factor ``[channel]`` of x, added.
      height: places the rows.
      width: places the columns.
      turned: turn the filters round.
    """
    y = torch.empty_like(x)
    given = _arguments(x, y, spectrum.shape[2], height, width)
    given.spectrum, given.skip = address(spectrum), address(skip)
    given.skip_dtype = 0 if skip is None else DTYPE_CODES[skip.dtype]
    given.per_sample, given.conjugate = int(spectrum.shape[0] != x.shape[1]), int(turned)
    _start("subquad_ops_image_convolve", x, given)
    return y


def correlate(x: Tensor, other: Tensor, size: int, axes: Sequence[Axis], *, summed: bool) -> Tensor:
    """Returns ``conj(spectrum of x) * (spectrum of other)`` for each channel, summed over the batch or for each sample.

    Args:
      x: ``[batch, channel, height, width]``, contiguous.
      other: likewise.
      size: of the transform.
      axes: of x, then of the other, height first.
      summed: over the batch.
    """
    batch, channels = x.shape[:2]
    if not _fit(size, axes[0].extent, axes[2].extent):
        shape = (batch, channels, size // 2 + 1, size)
        products = spectra(x, size, *axes[:2]).conj() * spectra(other, size, *axes[2:])
        return products.view(shape).sum(dim=0, keepdim=True) if summed else products.view(shape)
    parts = min(batch, -(-_BLOCKS // channels)) if summed else batch
    found = torch.empty(parts, channels, size // 2 + 1, size, dtype=torch.complex64, device=x.device)
    given = _arguments(x, found, size, axes[0], axes[1])
    given.other, given.parts = address(other), parts
    given.other_height[:], given.other_width[:] = axes[2], axes[3]
    _start("subquad_ops_image_correlate", x, given)
    return found.sum(dim=0, keepdim=True) if summed and parts > 1 else found
