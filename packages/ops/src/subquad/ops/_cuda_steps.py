"""The kernels of the CUDA library that decode: products with streamed weights, and mixers behind them.

Nothing here checks shapes: the operators have done so, and the backend has refused what no kernel takes.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops._cuda_interface import (
    ACTIVATION_CODES,
    DTYPE_CODES,
    E4M3_CODE,
    AttentionArguments,
    ProductArguments,
    StepFilterArguments,
    address,
)
from subquad.ops._cuda_streams import enqueue, parameter
from subquad.ops.linear_step.rounded_weight import RoundedWeight, matrix_of, scale_of
from subquad.ops.linear_step.step_norm import StepNorm

MOST_NORMED_INPUTS = 8192  # of one vector
MOST_INPUTS_OF_ROWS = {1: 24_576, 8: 24_576, 32: 19_456, 64: 8192}  # by the most vectors; shared memory holds an eighth
ATTENTION_SIZES = (64, 128)
MOST_PROJECTION_TAPS, MOST_RING, MOST_MODES = 8, 128, 32
_NORM_CODES = {"vortex": 1, "standard": 2}


class Matrix(NamedTuple):
    """Weights as custom operators take them: the numbers in memory, and what rows of one byte were multiplied by."""

    numbers: Tensor
    scale: Tensor | None


class Norm(NamedTuple):
    """A norm as custom operators take it; code 0 is none."""

    scale: Tensor | None
    code: int
    eps: float


def matrix(weight: Tensor | RoundedWeight) -> Matrix:
    """Takes a weight apart."""
    scale = scale_of(weight)
    return Matrix(matrix_of(weight).contiguous(), None if scale is None else scale.float().contiguous())


def norm_of(norm: StepNorm | None) -> Norm:
    """Takes a norm apart."""
    return Norm(None, 0, 0.0) if norm is None else Norm(parameter(norm.scale), _NORM_CODES[norm.form], norm.eps)


def _aligned(array: Tensor) -> Tensor:
    """Returns an array that begins where 16 bytes can be read at once; only a view into another may not."""
    return array if array.data_ptr() % 16 == 0 else array.clone()


def _aligned_matrix(weight: Matrix) -> Matrix:
    return weight._replace(numbers=_aligned(weight.numbers))


def _product(x: Tensor, weight: Matrix, norm: Norm, second: Matrix | None = None) -> ProductArguments:
    outputs, inputs = weight.numbers.shape
    return ProductArguments(
        x.data_ptr(),
        address(norm.scale),
        weight.numbers.data_ptr(),
        None if second is None else second.numbers.data_ptr(),
        address(weight.scale),
        None if second is None else address(second.scale),
        outputs,
        inputs,
        E4M3_CODE if weight.scale is not None else DTYPE_CODES[weight.numbers.dtype],
        norm.code,
        0 if norm.scale is None else DTYPE_CODES[norm.scale.dtype],
        norm.eps,
    )


def _vectors(x: Tensor, outputs: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty((x.shape[0], outputs), dtype=dtype or x.dtype, device=x.device)


def linear(
    x: Tensor, weight: Matrix, norm: Norm, bias: Tensor | None, residual: Tensor | None, *, wide: bool
) -> Tensor:
    """Returns ``weight @ norm(x) + bias + residual`` of each vector of x, 1 to 64, in float32 if ``wide``."""
    x, weight = _aligned(x), _aligned_matrix(weight)
    y = _vectors(x, weight.numbers.shape[0], torch.float32 if wide else None)
    bias = None if bias is None else parameter(bias)
    codes = (0 if bias is None else DTYPE_CODES[bias.dtype], DTYPE_CODES[y.dtype])
    product, rest = ctypes.byref(_product(x, weight, norm)), (address(bias), address(residual), y.data_ptr(), *codes)
    if x.shape[0] == 1:
        enqueue("subquad_ops_linear_step", x, product, *rest)
    else:
        enqueue("subquad_ops_linear_rows", x, product, x.shape[0], *rest)
    return y


def gated_linear(x: Tensor, gate: Matrix, value: Matrix, norm: Norm, activation: str) -> Tensor:
    """Returns ``activation(gate @ norm(x)) * (value @ norm(x))`` of each vector of x, 1 to 64."""
    x, gate, value = _aligned(x), _aligned_matrix(gate), _aligned_matrix(value)
    y = _vectors(x, gate.numbers.shape[0])
    product, code = ctypes.byref(_product(x, gate, norm, value)), ACTIVATION_CODES[activation]
    if x.shape[0] == 1:
        enqueue("subquad_ops_gated_linear_step", x, product, y.data_ptr(), code)
    else:
        enqueue("subquad_ops_gated_linear_rows", x, product, x.shape[0], y.data_ptr(), code)
    return y


class StepFilters(NamedTuple):
    """What stands behind the projection of a Hyena mixer; rings and memory are contiguous and change in place."""

    projection_taps: Tensor  # [3 * channel, tap]
    projection_ring: Tensor  # [1, 3 * channel, tap - 1]
    first: Tensor  # taps [group, tap], or the logarithms of poles [channel, mode]
    second: Tensor | None  # residues [channel, mode]
    memory: Tensor  # ring [1, channel, tap - 1], or modes [1, channel, mode] in float32
    position: Tensor  # [1]
    skip: Tensor | None
    active: Tensor | None


def gated_step(x: Tensor, weight: Matrix, norm: Norm, filters: StepFilters) -> Tensor:
    """Takes the one vector of x through norm, projection, projection filter, gate, mixer and gate."""
    x, weight = _aligned(x), _aligned_matrix(weight)
    y = _vectors(x, weight.numbers.shape[0] // 3)
    taps = parameter(filters.projection_taps)
    same = filters.second is None or filters.second.dtype == filters.first.dtype
    first = parameter(filters.first if same else filters.first.float())
    second = None if filters.second is None else parameter(filters.second if same else filters.second.float())
    skip = None if filters.skip is None else parameter(filters.skip)
    active = None if filters.active is None else filters.active.view(torch.uint8)
    arguments = StepFilterArguments(
        taps.data_ptr(),
        filters.projection_ring.data_ptr(),
        first.data_ptr(),
        address(second),
        filters.memory.data_ptr(),
        address(skip),
        filters.position.data_ptr(),
        address(active),
        first.shape[0],
        filters.projection_ring.shape[2],
        filters.memory.shape[2],
        DTYPE_CODES[taps.dtype],
        DTYPE_CODES[first.dtype],
        0 if skip is None else DTYPE_CODES[skip.dtype],
        filters.position.element_size(),
    )
    enqueue("subquad_ops_gated_step", x, ctypes.byref(_product(x, weight, norm)), ctypes.byref(arguments), y.data_ptr())
    return y


class StoredTokens(NamedTuple):
    """Keys and values of the rows of a decode step, which change in place, and where they lie; all contiguous."""

    keys: Tensor  # [slot, head, size]
    values: Tensor  # [slot, head, size]
    pages: Tensor  # [batch, page]
    position: Tensor  # [batch]
    page_size: int
    active: Tensor | None


def attention(qkv: Tensor, stored: StoredTokens, inv_freq: Tensor, position_scale: float) -> Tensor:
    """Stores the new token of each row of qkv ``[batch, head, 3, size]`` and attends to its row; returns the heads."""
    batch, heads, _, size = qkv.shape
    qkv, inv_freq = _aligned(qkv), inv_freq.float().contiguous()
    y = torch.empty((batch, heads, size), dtype=qkv.dtype, device=qkv.device)
    active = None if stored.active is None else stored.active.view(torch.uint8)
    arguments = AttentionArguments(
        qkv.data_ptr(),
        stored.keys.data_ptr(),
        stored.values.data_ptr(),
        stored.pages.data_ptr(),
        stored.position.data_ptr(),
        inv_freq.data_ptr(),
        address(active),
        batch,
        heads,
        stored.pages.shape[1],
        size,
        stored.page_size,
        stored.pages.element_size(),
        stored.position.element_size(),
        position_scale,
    )
    enqueue("subquad_ops_attention_step", qkv, ctypes.byref(arguments), y.data_ptr())
    return y
