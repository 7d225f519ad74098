"""gated_conv as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops._checks import expand_groups
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.causal_conv.triton.launch import SHORT_TAPS, precision, time_contiguous, toeplitz_tiling
from subquad.ops.dispatch import gradients_by_recomputing
from subquad.ops.gated_conv.gated_conv import GatedConvState, compute_in_torch
from subquad.ops.gated_conv.triton.kernels import gated_conv_short_kernel, gated_conv_toeplitz_kernel

_SHORT_TILE = 1024


@torch.library.custom_op("subquad::gated_conv_triton", mutates_args=())
def gated_conv_triton(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None,
    projection_state: Tensor | None,
    mixer_state: Tensor | None,
    pregate: bool,
    postgate: bool,
) -> tuple[Tensor, Tensor]:
    """Returns y and the last ``min(mixer tap - 1, length)`` gated samples."""
    stream = time_contiguous(z)
    batch, rows, length = stream.shape
    channels, size = rows // 3, mixer_taps.shape[1]
    y = torch.empty((batch, channels, length), dtype=z.dtype, device=z.device)
    tail = torch.empty((batch, channels, min(size - 1, length)), dtype=z.dtype, device=z.device)
    before = None if projection_state is None or mixer_state is None else (projection_state, mixer_state)
    arguments = (
        stream,
        expand_groups(projection_taps, rows).contiguous(),
        mixer_taps.contiguous(),
        z if skip is None else skip.contiguous(),
        z if before is None else before[0].to(z.dtype).contiguous(),
        z if before is None else before[1].to(z.dtype).contiguous(),
        y,
        tail,
        length,
        channels,
        channels // mixer_taps.shape[0],
        stream.stride(0),
        stream.stride(1),
        tail.shape[-1],
    )
    flags = {
        "PROJECTION": projection_taps.shape[1],
        "HISTORY": before is not None,
        "SKIP": skip is not None,
        "PREGATE": pregate,
        "POSTGATE": postgate,
    }
    if size <= SHORT_TAPS:
        grid = (triton.cdiv(length, _SHORT_TILE), channels, batch)
        gated_conv_short_kernel[grid](*arguments, MIXER=size, TILE=_SHORT_TILE, num_warps=4, **flags)
    else:
        tiling = toeplitz_tiling(size)
        grid = (triton.cdiv(length, tiling.block * tiling.blocks), channels, batch)
        gated_conv_toeplitz_kernel[grid](*arguments, size, *tiling, PRECISION=precision(z), num_warps=8, **flags)
    return y, tail


@gated_conv_triton.register_fake
def _(z, projection_taps, mixer_taps, skip, projection_state, mixer_state, pregate, postgate):
    batch, rows, length = z.shape
    past = min(mixer_taps.shape[1] - 1, length)
    return z.new_empty(batch, rows // 3, length), z.new_empty(batch, rows // 3, past)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.pregate, ctx.postgate = inputs
    ctx.save_for_backward(*tensors)
    ctx.tail = output[1].shape[-1]


def _backward(ctx, to_y, to_tail):
    def again(z, projection_taps, mixer_taps, skip, projection_state, mixer_state):
        before = None if projection_state is None else GatedConvState(projection_state, mixer_state)
        y, state = compute_in_torch(
            z,
            projection_taps,
            mixer_taps,
            skip=skip,
            pregate=ctx.pregate,
            postgate=ctx.postgate,
            initial_state=before,
        )
        return y, state.mixer[..., state.mixer.shape[-1] - ctx.tail :]

    return *gradients_by_recomputing(again, ctx.saved_tensors, (to_y, to_tail)), None, None


gated_conv_triton.register_autograd(_backward, setup_context=_keep)


def run(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedConvState | None,
) -> tuple[Tensor, GatedConvState]:
    """Does what gated_conv's torch form does."""
    projection, mixer = initial_state if initial_state is not None else (None, None)
    y, tail = torch.ops.subquad.gated_conv_triton(
        z, projection_taps, mixer_taps, skip, projection, mixer, pregate, postgate
    )
    history = next_history(z, projection_taps.shape[1] - 1, projection)
    return y, GatedConvState(history, next_history(tail, mixer_taps.shape[1] - 1, mixer))
