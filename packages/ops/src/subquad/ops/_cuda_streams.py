"""The kernels of the CUDA library that march along channels: Toeplitz and modal mixers, plain or between two gates.

Nothing here checks shapes: the operators have done so, and the backend has refused what no kernel takes.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops._checks import expand_groups
from subquad.ops._cuda_interface import ACTIVATION_CODES, DTYPE_CODES, StreamArguments, address
from subquad.ops._cuda_library import load_cuda_library

TILE = 256
FEWEST_TAPS, MOST_TAPS, MOST_PROJECTION_TAPS, MOST_STATES = 2, 129, 3, 16
_WARPS, _FEWEST_MODAL_TILES = 2048, 6  # so many fill a GPU; so many tiles are worth another launch
_BACKWARD_TILES = 32  # tiles that one warp takes in a backward pass; it reads one more at each end


class Stream(NamedTuple):
    """What goes into a mixer and what is done with its result; no projection taps: neither projection nor gates."""

    x: Tensor  # [batch, channel, length], or three rows a channel
    projection_taps: Tensor | None = None
    projection_history: Tensor | None = None
    skip: Tensor | None = None
    bias: Tensor | None = None
    pregate: bool = True
    postgate: bool = True
    activation: str = ""

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.x.shape[1] // (1 if self.projection_taps is None else 3)


def time_contiguous(x: Tensor) -> Tensor:
    """Returns x with unit stride along its last dimension."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _parameter(value: Tensor) -> Tensor:
    return (value if value.dtype in DTYPE_CODES else value.float()).contiguous()


def _settled(stream: Stream) -> Stream:
    """The same stream with every array as the library reads it."""
    x, projection, history, skip, bias = stream[:5]
    shared = None if skip is None or bias is None or skip.dtype == bias.dtype else torch.float32
    return stream._replace(
        x=time_contiguous(x),
        projection_taps=None if projection is None else _parameter(expand_groups(projection, x.shape[1])),
        projection_history=None if history is None or history.shape[-1] == 0 else history.to(x.dtype).contiguous(),
        skip=None if skip is None else _parameter(skip.to(shared or skip.dtype)),
        bias=None if bias is None else _parameter(bias.to(shared or bias.dtype)),
    )


def _arguments(stream: Stream, output: Tensor | None, tiles_a_warp: int = 0) -> StreamArguments:
    x, projection = stream.x, stream.projection_taps
    scale = stream.skip if stream.skip is not None else stream.bias
    return StreamArguments(
        x.data_ptr(),
        address(projection),
        address(stream.projection_history),
        address(stream.skip),
        address(stream.bias),
        address(output),
        x.shape[0],
        stream.channels,
        x.shape[2],
        x.stride(0) if x.shape[0] > 1 else 0,  # a single row's stride means nothing, and must not look unaligned
        x.stride(1) if x.shape[1] > 1 else 0,
        DTYPE_CODES[x.dtype],
        0 if projection is None else DTYPE_CODES[projection.dtype],
        0 if scale is None else DTYPE_CODES[scale.dtype],
        1 if projection is None else projection.shape[1],
        stream.pregate,
        stream.postgate,
        ACTIVATION_CODES[stream.activation],
        tiles_a_warp,
    )


def _output(stream: Stream) -> Tensor:
    x = stream.x
    return torch.empty((x.shape[0], stream.channels, x.shape[2]), dtype=x.dtype, device=x.device)


def _enqueue(name: str, x: Tensor, *arguments: object) -> None:
    with torch.cuda.device(x.device):
        load_cuda_library().call(name, *arguments, torch.cuda.current_stream().cuda_stream)


def toeplitz(stream: Stream, taps: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mixes by a filter of 2 to 129 taps; returns the output and the last ``min(tap - 1, length)`` samples mixed."""
    stream = _settled(stream)
    x, size = stream.x, taps.shape[1]
    y = _output(stream)
    tail = torch.empty((x.shape[0], stream.channels, min(size - 1, x.shape[2])), dtype=x.dtype, device=x.device)
    taps = _parameter(taps)
    before = None if history is None or size == 1 else history.to(x.dtype).contiguous()
    _enqueue(
        "subquad_ops_toeplitz", x,
        ctypes.byref(_arguments(stream, y)), taps.data_ptr(), address(before), tail.data_ptr(),
        taps.shape[0], tail.shape[-1], size, DTYPE_CODES[taps.dtype],
    )  # fmt: skip
    return y, tail


class ToeplitzGradients(NamedTuple):
    """Gradients of a Toeplitz mixer, those of the parameters in float32."""

    x: Tensor
    projection_taps: Tensor  # [3 * channel, projection tap]; empty without projection
    taps: Tensor  # [group, tap]
    skip: Tensor  # [channel]
    bias: Tensor  # [channel]


def toeplitz_backward(stream: Stream, taps: Tensor, upstream: Tensor) -> ToeplitzGradients:
    """Returns the gradients of ``toeplitz`` without histories and activation for the gradient of its output."""
    stream = _settled(stream)
    x, channels, size = stream.x, stream.channels, taps.shape[1]
    batch, rows, length = x.shape
    parts = batch * -(-length // (TILE * _BACKWARD_TILES))

    def sums(*shape: int) -> Tensor:
        return torch.empty((parts, *shape), dtype=torch.float32, device=x.device)

    filters = stream.projection_taps
    projection = sums(0, 0) if filters is None else sums(rows, filters.shape[1])
    results = [sums(channels, size), projection, sums(channels), sums(channels)]
    to_x = torch.empty((batch, rows, length), dtype=x.dtype, device=x.device)
    upstream, taps = upstream.contiguous(), _parameter(taps)
    _enqueue(
        "subquad_ops_toeplitz_backward", x,
        ctypes.byref(_arguments(stream, None, _BACKWARD_TILES)), taps.data_ptr(), upstream.data_ptr(), to_x.data_ptr(),
        results[0].data_ptr(), None if filters is None else projection.data_ptr(), results[2].data_ptr(),
        results[3].data_ptr(),
        taps.shape[0], size, DTYPE_CODES[taps.dtype],
    )  # fmt: skip
    to_taps, to_projection, to_skip, to_bias = (part[0] if parts == 1 else part.sum(dim=0) for part in results)
    if taps.shape[0] != channels:
        to_taps = to_taps.view(taps.shape[0], -1, size).sum(dim=1)
    return ToeplitzGradients(to_x, to_projection, to_taps, to_skip, to_bias)


def modal(
    stream: Stream, log_poles: Tensor, residues: Tensor, history: Tensor | None, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixes by a sum of 1 to 16 exponentials.

    Returns:
      The output; the states after the last sample, in float32; and the states before each tile ``[batch, channel, tile,
      16]``, which the gradients need (no tile without ``keep``).
    """
    stream = _settled(stream)
    x, states = stream.x, log_poles.shape[1]
    batch, _, length = x.shape
    y = _output(stream)
    state = torch.empty((batch, stream.channels, states), dtype=torch.float32, device=x.device)
    shape = (batch, stream.channels, tiles_kept(length, keep), MOST_STATES)
    entries = torch.empty(shape, dtype=torch.float32, device=x.device)
    poles, weights = log_poles.float().contiguous(), residues.float().contiguous()
    before = None if history is None else history.float().contiguous()
    tiles = -(-length // TILE)
    each = _modal_tiles(batch * stream.channels, tiles)
    rooms = (tiles - 1) // each if each else 0
    parts = torch.empty((batch, stream.channels, rooms, MOST_STATES), dtype=torch.float32, device=x.device)
    _enqueue(
        "subquad_ops_modal", x,
        ctypes.byref(_arguments(stream, y, each)), poles.data_ptr(), weights.data_ptr(), address(before),
        state.data_ptr(),
        entries.data_ptr() if keep else None, parts.data_ptr() if rooms else None, states,
    )  # fmt: skip
    return y, state, entries


def _modal_tiles(rows: int, tiles: int) -> int:
    """Returns how many tiles of a row one warp takes, 0 for all: few rows are cut into parts, which are read twice."""
    parts = min(_WARPS // max(1, rows), tiles // _FEWEST_MODAL_TILES)
    return -(-tiles // parts) if parts > 1 else 0


def tiles_kept(length: int, keep: bool) -> int:
    """Returns how many tiles' states ``modal`` returns."""
    return -(-length // TILE) if keep else 0


class ModalGradients(NamedTuple):
    """Gradients of a modal mixer, those of the parameters in float32."""

    x: Tensor
    projection_taps: Tensor  # [3 * channel, projection tap]; empty without projection
    log_poles: Tensor  # [channel, state]
    residues: Tensor  # [channel, state]
    skip: Tensor  # [channel]


def modal_backward(
    stream: Stream, log_poles: Tensor, residues: Tensor, entries: Tensor, upstream: Tensor
) -> ModalGradients:
    """Returns the gradients of ``modal`` without history for the gradient of its output and the states it kept."""
    stream = _settled(stream)
    x, channels, states = stream.x, stream.channels, log_poles.shape[1]
    batch, rows, length = x.shape

    def sums(*shape: int) -> Tensor:
        return torch.empty((batch, *shape), dtype=torch.float32, device=x.device)

    filters = stream.projection_taps
    projection = sums(0, 0) if filters is None else sums(rows, filters.shape[1])
    results = [projection, sums(channels, states), sums(channels, states), sums(channels)]
    to_x = torch.empty((batch, rows, length), dtype=x.dtype, device=x.device)
    poles, weights = log_poles.float().contiguous(), residues.float().contiguous()
    upstream = upstream.contiguous()
    _enqueue(
        "subquad_ops_modal_backward", x,
        ctypes.byref(_arguments(stream, None)), poles.data_ptr(), weights.data_ptr(), entries.data_ptr(),
        upstream.data_ptr(), to_x.data_ptr(), results[1].data_ptr(), results[2].data_ptr(),
        None if filters is None else projection.data_ptr(), results[3].data_ptr(), states,
    )  # fmt: skip
    return ModalGradients(to_x, *(part[0] if batch == 1 else part.sum(dim=0) for part in results))
