"""The kernels of the CUDA library over rows: norms, gates, products, one-byte rows, rotations, rings; no gradients.

Nothing here checks shapes: the operators have done so, and the backend has refused what no kernel takes.
"""

import ctypes

import torch
from torch import Tensor

from subquad.ops._cuda_interface import (
    ACTIVATION_CODES,
    DTYPE_CODES,
    FirStepArguments,
    GatedLinearArguments,
    RotaryArguments,
    RowsArguments,
    TurnArguments,
    address,
)
from subquad.ops._cuda_streams import enqueue, parameter
from subquad.ops.fp8_linear.e4m3 import E4M3

MOST_CHANNELS = 24_576  # a row lies in the registers of one block
MOST_UNALIGNED = 8192  # channels of rows that need not begin at multiples of 16 bytes
PACK = 8  # channels that a longer row must be a multiple of
MOST_BATCH = 65_535
MOST_PAST = 128  # samples of a ring that fir_step's lanes hold
NORM_CODES = {"vortex": 1, "standard": 2}


def _aligned(array: Tensor, stride: int, channels: int) -> bool:
    return channels <= MOST_UNALIGNED or not (array.data_ptr() % 16 or stride % PACK)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """Returns x with unit stride along its channels, a view where that is possible, and its stride from row to row."""
    channels = x.shape[-1]
    if x.is_contiguous() and (channels <= MOST_UNALIGNED or _aligned(x, channels, channels)):
        return x, channels
    rows = x.reshape(-1, channels)
    if rows.stride(1) != 1 or not _aligned(rows, rows.stride(0), channels):
        return _clone(rows), channels
    return rows, rows.stride(0)


def _others(x: Tensor) -> tuple[Tensor, int]:
    """The same for what meets the rows, which may have any dtype."""
    return _rows(x if x.dtype in DTYPE_CODES else x.float())


def _scale(scale: Tensor) -> Tensor:
    if scale.dtype not in DTYPE_CODES or not scale.is_contiguous():
        scale = parameter(scale)
    return scale if scale.data_ptr() % 16 == 0 else scale.clone()


def _enqueue_rows(
    name: str,
    x: tuple[Tensor, int],
    other: tuple[Tensor, int] | None,
    output: Tensor,
    *,
    channels: int,
    scale: Tensor | None = None,
    total: Tensor | None = None,
    inverse: Tensor | None = None,
    norm: int = 0,
    eps: float = 0.0,
    activation: int = 0,
) -> None:
    rows, stride = x
    others, other_stride = (None, 0) if other is None else other
    arguments = RowsArguments(  # a call of ``address`` for each would take as long as all of this
        rows.data_ptr(),
        None if others is None else others.data_ptr(),
        None if scale is None else scale.data_ptr(),
        None if total is None else total.data_ptr(),
        output.data_ptr(),
        None if inverse is None else inverse.data_ptr(),
        output.numel() // channels,
        channels,
        stride,
        other_stride,
        DTYPE_CODES[rows.dtype],
        0 if others is None else DTYPE_CODES[others.dtype],
        0 if scale is None else DTYPE_CODES[scale.dtype],
        norm,
        activation,
        eps,
    )
    enqueue(name, output, ctypes.byref(arguments))


def row_norm(x: Tensor, addend: Tensor | None, scale: Tensor, eps: float, norm: int) -> tuple[Tensor, Tensor | None]:
    """Returns the norm of ``x + addend``, and the sum where there is one; ``norm`` is of NORM_CODES."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = None if addend is None else torch.empty_like(y)
    other = None if addend is None else _others(addend)
    _enqueue_rows(
        "subquad_ops_row_norm", _rows(x), other, y,
        channels=x.shape[-1], scale=_scale(scale), total=total, norm=norm, eps=eps,
    )  # fmt: skip
    return y, total


def product(x: Tensor, other: Tensor | None, activation: str) -> Tensor:
    """Returns ``activation(x) * other`` in the dtype of both; without other, x holds one beside the other."""
    channels = x.shape[-1]
    if other is not None and x.is_contiguous() and other.is_contiguous():  # one row: no row ends within a block
        y = torch.empty_like(x)
        gates, values, channels = (x, 0), (other, 0), x.numel()
    elif other is not None:
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        gates, values = _strided(x), _strided(other)
    else:
        channels //= 2
        rows, stride = _strided(x)
        gates, values = (rows, stride), (rows[..., channels:], stride)
        y = torch.empty((*x.shape[:-1], channels), dtype=x.dtype, device=x.device)
    code = ACTIVATION_CODES[activation]
    _enqueue_rows("subquad_ops_gated_product", gates, values, y, channels=channels, activation=code)
    return y


def gated_linear(x: Tensor, gate_weight: Tensor, value_weight: Tensor, activation: str) -> Tensor:
    """Returns ``activation(x @ gate_weight.T) * (x @ value_weight.T)`` of bfloat16, sizes multiples of PACK."""
    outputs, inputs = gate_weight.shape
    rows, stride = _strided(x)
    if stride % PACK or rows.data_ptr() % 16:
        rows, stride = _clone(rows), inputs
    gate, value = _packed(gate_weight), _packed(value_weight)
    y = x.new_empty((*x.shape[:-1], outputs))
    arguments = GatedLinearArguments(
        rows.data_ptr(),
        gate.data_ptr(),
        value.data_ptr(),
        x.numel() // inputs,
        inputs,
        outputs,
        stride,
        ACTIVATION_CODES[activation],
    )
    enqueue("subquad_ops_gated_linear", x, ctypes.byref(arguments), y.data_ptr())
    return y


def _packed(weight: Tensor) -> Tensor:
    return weight if weight.is_contiguous() and weight.data_ptr() % 16 == 0 else _clone(weight)


def _clone(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _strided(x: Tensor) -> tuple[Tensor, int]:
    """Returns rows with unit stride along the channels, and how far apart they begin."""
    if x.is_contiguous():
        return x, x.shape[-1]
    rows = x.reshape(-1, x.shape[-1])
    rows = rows if rows.stride(1) == 1 else _clone(rows)
    return rows, rows.stride(0)


def _codes_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns room for the codes and inverse scales of the rows of x."""
    codes = torch.empty_like(x, dtype=E4M3, memory_format=torch.contiguous_format)
    return codes, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


def rounded(
    x: Tensor, addend: Tensor | None, scale: Tensor | None, eps: float, norm: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns codes and inverse scales of ``x + addend``, behind a norm where there is a scale, and the sum."""
    codes, inverse = _codes_of(x)
    total = None if addend is None else torch.empty_like(x, memory_format=torch.contiguous_format)
    other = None if addend is None else _others(addend)
    scale = None if scale is None else _scale(scale)
    _enqueue_rows(
        "subquad_ops_rounded_rows", _rows(x), other, codes,
        channels=x.shape[-1], scale=scale, total=total, inverse=inverse, norm=norm, eps=eps,
    )  # fmt: skip
    return codes, inverse, total


def rounded_product(gate: Tensor, value: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Returns codes and inverse scales of ``activation(gate) * value``."""
    codes, inverse = _codes_of(gate)
    _enqueue_rows(
        "subquad_ops_rounded_rows", _rows(gate), _rows(value), codes,
        channels=gate.shape[-1], inverse=inverse, activation=ACTIVATION_CODES[activation],
    )  # fmt: skip
    return codes, inverse


def rounded_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns codes ``[batch, length, channel]`` and inverse scales of x ``[batch, channel, length]``."""
    batch, channels, length = x.shape
    if batch > MOST_BATCH:
        codes, inverse, _ = rounded(x.transpose(1, 2).contiguous(), None, None, 0.0, 0)
        return codes, inverse
    x = x if x.stride(2) == 1 else x.contiguous()
    codes = torch.empty((batch, length, channels), dtype=E4M3, device=x.device)
    inverse = torch.empty((batch, length), dtype=torch.float32, device=x.device)
    enqueue(
        "subquad_ops_rounded_columns", x,
        x.data_ptr(), codes.data_ptr(), inverse.data_ptr(), batch, channels, length,
        x.stride(0) if batch > 1 else 0, x.stride(1), DTYPE_CODES[x.dtype],
    )  # fmt: skip
    return codes, inverse


def rotary(
    x: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    scale: float,
    keys: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """Turns ``[batch, length, head, size]``; or of ``[batch, length, head, 3, size]``, filling keys and values."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, length, heads, size = (*x.shape[:3], x.shape[-1])
    inv_freq = inv_freq.float().contiguous()
    y = x.new_empty((batch, length, heads, size))
    stored = tuple(_target(each) for each in (keys, values))
    strides = [0] * 6 if stored[0] is None or stored[1] is None else [*stored[0].stride()[:3], *stored[1].stride()[:3]]
    arguments = RotaryArguments(
        x.data_ptr(),
        position.data_ptr(),
        inv_freq.data_ptr(),
        y.data_ptr(),
        address(stored[0]),
        address(stored[1]),
        batch,
        length,
        heads,
        size // 2,
        *x.stride()[:3],
        0 if keys is None else x.stride(3),
        0 if position.shape[0] == 1 else position.stride(0),
        position.stride(1),
        *strides,
        DTYPE_CODES[x.dtype],
        *(0 if each is None else DTYPE_CODES[each.dtype] for each in stored),
        position.element_size(),
        scale,
    )
    enqueue("subquad_ops_rotary", x, ctypes.byref(arguments))
    for given, filled in zip((keys, values), stored, strict=True):
        if given is not None and filled is not None and given is not filled:
            given.copy_(filled)
    return y


def _target(place: Tensor | None) -> Tensor | None:
    """Returns where the kernel writes: the place itself, unless it has a dtype that the library does not know."""
    if place is None or place.dtype in DTYPE_CODES:
        return place
    return torch.empty(place.shape, dtype=torch.float32, device=place.device)


def fir_step(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Filters one sample of each row and stores it in a contiguous ring in the dtype of x."""
    x, position = x.contiguous(), position.contiguous()
    taps = (taps if taps.dtype == x.dtype else taps.float()).contiguous()
    bias, skip = (None if each is None else parameter(each) for each in (bias, skip))
    active = None if active is None else active.contiguous()
    y = torch.empty_like(x)
    arguments = FirStepArguments(
        x.data_ptr(),
        taps.data_ptr(),
        ring.data_ptr(),
        position.data_ptr(),
        address(bias),
        address(skip),
        address(active),
        y.data_ptr(),
        *x.shape,
        taps.shape[0],
        taps.shape[1] - 1,
        DTYPE_CODES[x.dtype],
        DTYPE_CODES[taps.dtype],
        0 if bias is None else DTYPE_CODES[bias.dtype],
        0 if skip is None else DTYPE_CODES[skip.dtype],
        position.element_size(),
    )
    enqueue("subquad_ops_fir_step", x, ctypes.byref(arguments))
    return y


def turn_ring(source: Tensor, target: Tensor, position: Tensor, length: int, into_ring: bool) -> None:
    """Fills ``target`` from ``source``, both ``[batch, channel, past]`` with any strides, dtypes of DTYPE_CODES."""
    arguments = TurnArguments(
        source.data_ptr(),
        target.data_ptr(),
        position.contiguous().data_ptr(),
        *source.shape,
        length,
        *source.stride(),
        *target.stride(),
        DTYPE_CODES[source.dtype],
        DTYPE_CODES[target.dtype],
        position.element_size(),
        into_ring,
    )
    enqueue("subquad_ops_turn_ring", target, ctypes.byref(arguments))
