"""causal_conv as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from subquad.ops.causal_conv.causal_conv import compute_in_torch
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.causal_conv.triton.kernels import causal_conv_short_kernel, causal_conv_toeplitz_kernel
from subquad.ops.dispatch import gradients_by_recomputing

SHORT_TAPS = 8
MOST_TAPS = 256
_SHORT_TILE = 1024
_TILE_SAMPLES = 4096


def time_contiguous(x: Tensor) -> Tensor:
    """Returns x with unit stride along its last dimension."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def precision(x: Tensor) -> str:
    """Returns how exact a product on the tensor cores must be for results in the dtype of x.

    One TF32 product rounds its factors to 11 bits: a quarter of what rounding the result to bfloat16 costs. float32
    takes three of them, which is exact to about 22 bits.
    """
    return "tf32x3" if x.dtype == torch.float32 else "tf32"


class ToeplitzTiling(NamedTuple):
    """How a filter becomes matrix products: the constants that a kernel is compiled for, in its order."""

    diagonals: int  # of Toeplitz blocks
    block: int  # rows and columns of one
    blocks: int  # of samples that a program takes


def toeplitz_tiling(taps: int) -> ToeplitzTiling:
    """Returns the tiling for a filter of ``taps``, more than one."""
    block = 16 if taps <= 17 else 32 if taps <= 33 else 64
    return ToeplitzTiling(triton.cdiv(taps - 1, block) + 1, block, max(16, min(128, _TILE_SAMPLES // block)))


@torch.library.custom_op("subquad::causal_conv_triton", mutates_args=())
def causal_conv_triton(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: str,
    initial_state: Tensor | None,
) -> Tensor:
    """Filters ``[batch, channel, length]``; arguments as in causal_conv, activation ``""`` for none."""
    stream = time_contiguous(x)
    batch, channels, length = stream.shape
    size = taps.shape[1]
    y = torch.empty((batch, channels, length), dtype=x.dtype, device=x.device)
    arguments = (
        stream,
        taps.contiguous(),
        x if bias is None else bias.contiguous(),
        x if skip is None else skip.contiguous(),
        x if initial_state is None else initial_state.contiguous(),
        y,
        length,
        channels,
        channels // taps.shape[0],
        stream.stride(0),
        stream.stride(1),
    )
    flags = {
        "HISTORY": initial_state is not None and size > 1,
        "BIAS": bias is not None,
        "SKIP": skip is not None,
        "ACTIVATION": activation,
    }
    if size <= SHORT_TAPS:
        grid = (triton.cdiv(length, _SHORT_TILE), channels, batch)
        causal_conv_short_kernel[grid](*arguments, TAPS=size, TILE=_SHORT_TILE, num_warps=4, **flags)
    else:
        tiling = toeplitz_tiling(size)
        grid = (triton.cdiv(length, tiling.block * tiling.blocks), channels, batch)
        causal_conv_toeplitz_kernel[grid](*arguments, size, *tiling, PRECISION=precision(x), num_warps=4, **flags)
    return y


@causal_conv_triton.register_fake
def _(x, taps, bias, skip, activation, initial_state):
    return x.new_empty(x.shape)


def _keep(ctx, inputs, output) -> None:
    x, taps, bias, skip, ctx.activation, initial_state = inputs
    ctx.save_for_backward(x, taps, bias, skip, initial_state)


def _backward(ctx, gradient):
    x, taps, bias, skip, before = ctx.saved_tensors

    def again(*tensors):
        return compute_in_torch(
            *tensors[:2], bias=tensors[2], skip=tensors[3], activation=ctx.activation or None, initial_state=tensors[4]
        )[:1]

    to_x, to_taps, to_bias, to_skip, to_before = gradients_by_recomputing(
        again, (x, taps, bias, skip, before), (gradient,)
    )
    return to_x, to_taps, to_bias, to_skip, None, to_before


causal_conv_triton.register_autograd(_backward, setup_context=_keep)


def run(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Does what causal_conv's torch form does."""
    y = torch.ops.subquad.causal_conv_triton(x, taps, bias, skip, activation or "", initial_state)
    return y, next_history(x, taps.shape[1] - 1, initial_state)
