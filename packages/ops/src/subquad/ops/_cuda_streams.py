"""The kernels of the CUDA library that march along channels: Toeplitz and modal mixers, plain or between two gates.

Nothing here checks shapes: the operators have done so, and the backend has refused what no kernel takes.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops._checks import expand_groups
from subquad.ops._cuda_interface import ACTIVATION_CODES, DTYPE_CODES, GradientArguments, StreamArguments, address
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


def parameter(value: Tensor) -> Tensor:
    """Returns a parameter as the library reads it, whatever its dtype was."""
    return (value if value.dtype in DTYPE_CODES else value.float()).contiguous()


def _is_settled(value: Tensor) -> bool:
    return value.dtype in DTYPE_CODES and value.is_contiguous()


def _settled(stream: Stream) -> Stream:
    """The same stream with every array as the library reads it."""
    x, projection, history, skip, bias = stream[:5]
    if (  # as a network gives it: no array is made anew
        history is None
        and bias is None
        and x.stride(-1) == 1
        and (projection is None or (_is_settled(projection) and projection.shape[0] == x.shape[1]))
        and (skip is None or _is_settled(skip))
    ):
        return stream
    shared = None if skip is None or bias is None or skip.dtype == bias.dtype else torch.float32
    return Stream(
        time_contiguous(x),
        None if projection is None else parameter(expand_groups(projection, x.shape[1])),
        None if history is None or history.shape[-1] == 0 else history.to(x.dtype).contiguous(),
        None if skip is None else parameter(skip if shared is None else skip.to(shared)),
        None if bias is None else parameter(bias if shared is None else bias.to(shared)),
        *stream[5:],
    )


def _arguments(stream: Stream, output: Tensor | None, tiles_a_warp: int = 0) -> StreamArguments:
    x, projection = stream.x, stream.projection_taps
    scale = stream.skip if stream.skip is not None else stream.bias
    batch, rows, length = x.shape
    return StreamArguments(
        x.data_ptr(),
        address(projection),
        address(stream.projection_history),
        address(stream.skip),
        address(stream.bias),
        address(output),
        batch,
        rows if projection is None else rows // 3,
        length,
        x.stride(0) if batch > 1 else 0,  # a single row's stride means nothing, and must not look unaligned
        x.stride(1) if rows > 1 else 0,
        DTYPE_CODES[x.dtype],
        0 if projection is None else DTYPE_CODES[projection.dtype],
        0 if scale is None else DTYPE_CODES[scale.dtype],
        1 if projection is None else projection.shape[1],
        stream.pregate,
        stream.postgate,
        ACTIVATION_CODES[stream.activation],
        tiles_a_warp,
    )


def enqueue(name: str, x: Tensor, *arguments: object) -> None:
    """Calls a function of the library on the device of x and torch's current stream."""
    load_cuda_library().enqueue(name, x, *arguments)


def toeplitz(stream: Stream, taps: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mixes by a filter of 2 to 129 taps; returns the output and the last ``min(tap - 1, length)`` samples mixed."""
    stream = _settled(stream)
    x, size = stream.x, taps.shape[1]
    batch, channels, length = x.shape[0], stream.channels, x.shape[2]
    y, tail = x.new_empty((batch, channels, length)), x.new_empty((batch, channels, min(size - 1, length)))
    taps = parameter(taps)
    before = None if history is None or size == 1 else history.to(x.dtype).contiguous()
    enqueue(
        "subquad_ops_toeplitz", x,
        ctypes.byref(_arguments(stream, y)), taps.data_ptr(), address(before), tail.data_ptr(),
        taps.shape[0], tail.shape[-1], size, DTYPE_CODES[taps.dtype],
    )  # fmt: skip
    return y, tail


class SharedGradients(NamedTuple):
    """Gradients of what goes into every mixer, those of the parameters in float32."""

    x: Tensor
    projection_taps: Tensor  # [3 * channel, projection tap]; empty without projection
    skip: Tensor  # [channel]
    bias: Tensor  # [channel]
    projection_history: Tensor  # as the stream has it; empty without


def as_gradient(of: Tensor | None, gradient: Tensor) -> Tensor | None:
    """Returns a gradient as autograd wants that of ``of``: in its dtype, summed over the rows that share one of its."""
    if of is None:
        return None
    if gradient.shape != of.shape:
        gradient = gradient.view(of.shape[0], -1, *of.shape[1:]).sum(dim=1)
    return gradient.to(of.dtype)


def history_shape(history: Tensor | None) -> tuple[int, ...]:
    """Says which shape the gradient of a history has where there may be none."""
    return (0,) if history is None else tuple(history.shape)


class _GradientRoom:
    """Where a backward kernel leaves the gradients of a stream: sums of each part of the work, to be added up."""

    def __init__(self, stream: Stream, upstream: Tensor, parts: int) -> None:
        x, filters, history = stream.x, stream.projection_taps, stream.projection_history
        self.parts, self.device = parts, x.device
        self._upstream = upstream.to(x.dtype).contiguous()
        self._x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        self._history = torch.empty(history_shape(history), dtype=x.dtype, device=x.device)
        self._projection = self.sums(*((0, 0) if filters is None else (x.shape[1], filters.shape[1])))
        self._skip, self._bias = self.sums(stream.channels), self.sums(stream.channels)

    def sums(self, *shape: int) -> Tensor:
        """Returns room for sums of every part."""
        return torch.empty((self.parts, *shape), dtype=torch.float32, device=self.device)

    def total(self, sums: Tensor) -> Tensor:
        """Adds the parts up."""
        return sums[0] if self.parts == 1 else sums.sum(dim=0)

    def arguments(self) -> GradientArguments:
        """What the library is given."""
        return GradientArguments(
            self._upstream.data_ptr(),
            self._x.data_ptr(),
            self._history.data_ptr() if self._history.numel() else None,
            self._projection.data_ptr() if self._projection.numel() else None,
            self._skip.data_ptr(),
            self._bias.data_ptr(),
        )

    def shared(self) -> SharedGradients:
        """What the kernel has left."""
        projection, skip, bias = (self.total(sums) for sums in (self._projection, self._skip, self._bias))
        return SharedGradients(self._x, projection, skip, bias, self._history)


class ToeplitzGradients(NamedTuple):
    """Gradients of a Toeplitz mixer."""

    shared: SharedGradients
    taps: Tensor  # [group, tap] in float32
    history: Tensor  # [batch, channel, tap - 1] in the dtype of the stream; empty without history


def toeplitz_backward(
    stream: Stream, taps: Tensor, history: Tensor | None, upstream: Tensor, upstream_tail: Tensor | None
) -> ToeplitzGradients:
    """Returns the gradients of ``toeplitz`` without activation for those of its output and of its last samples."""
    stream = _settled(stream)
    x, channels, size = stream.x, stream.channels, taps.shape[1]
    batch, _, length = x.shape
    room = _GradientRoom(stream, upstream, parts=batch * -(-length // (TILE * _BACKWARD_TILES)))
    to_taps = room.sums(channels, size)
    taps = parameter(taps)
    before = None if history is None or size == 1 else history.to(x.dtype).contiguous()
    to_before = torch.empty(history_shape(before), dtype=x.dtype, device=x.device)
    tail = None if upstream_tail is None else upstream_tail.to(x.dtype).contiguous()
    enqueue(
        "subquad_ops_toeplitz_backward", x,
        ctypes.byref(_arguments(stream, None, _BACKWARD_TILES)), ctypes.byref(room.arguments()), taps.data_ptr(),
        address(before), address(tail), to_taps.data_ptr(), None if before is None else to_before.data_ptr(),
        taps.shape[0], 0 if tail is None else tail.shape[2], size, DTYPE_CODES[taps.dtype],
    )  # fmt: skip
    of_taps = room.total(to_taps)
    if taps.shape[0] != channels:
        of_taps = of_taps.view(taps.shape[0], -1, size).sum(dim=1)
    return ToeplitzGradients(room.shared(), of_taps, to_before)


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
    batch, channels, length = x.shape[0], stream.channels, x.shape[2]
    y = x.new_empty((batch, channels, length))
    state = x.new_empty((batch, channels, states), dtype=torch.float32)
    entries = x.new_empty((batch, channels, tiles_kept(length, keep), MOST_STATES), dtype=torch.float32)
    poles, weights = log_poles.float().contiguous(), residues.float().contiguous()
    before = None if history is None else history.float().contiguous()
    tiles = -(-length // TILE)
    each = _modal_tiles(batch * channels, tiles)
    rooms = (tiles - 1) // each if each else 0
    parts = x.new_empty((batch, channels, rooms, MOST_STATES), dtype=torch.float32) if rooms else None
    enqueue(
        "subquad_ops_modal", x,
        ctypes.byref(_arguments(stream, y, each)), poles.data_ptr(), weights.data_ptr(), address(before),
        state.data_ptr(),
        entries.data_ptr() if keep else None, address(parts), states,
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
    """Gradients of a modal mixer, its own in float32."""

    shared: SharedGradients
    log_poles: Tensor  # [channel, state]
    residues: Tensor  # [channel, state]
    history: Tensor  # [batch, channel, state]


def modal_backward(
    stream: Stream,
    log_poles: Tensor,
    residues: Tensor,
    entries: Tensor,
    upstream: Tensor,
    upstream_state: Tensor | None,
) -> ModalGradients:
    """Returns the gradients of ``modal`` for those of its output and last states, and the states that it kept."""
    stream = _settled(stream)
    x, channels, states = stream.x, stream.channels, log_poles.shape[1]
    room = _GradientRoom(stream, upstream, parts=x.shape[0])
    to_poles, to_residues, to_history = (room.sums(channels, states) for _ in range(3))
    poles, weights = log_poles.float().contiguous(), residues.float().contiguous()
    of_state = None if upstream_state is None else upstream_state.float().contiguous()
    enqueue(
        "subquad_ops_modal_backward", x,
        ctypes.byref(_arguments(stream, None)), ctypes.byref(room.arguments()), poles.data_ptr(), weights.data_ptr(),
        entries.data_ptr(), address(of_state), to_poles.data_ptr(), to_residues.data_ptr(), to_history.data_ptr(),
        states,
    )  # fmt: skip
    return ModalGradients(room.shared(), room.total(to_poles), room.total(to_residues), to_history)
