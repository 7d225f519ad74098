"""gated_conv as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_streams import Stream, toeplitz, toeplitz_backward
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import gradients_by_recomputing, runs_plainly
from subquad.ops.gated_conv.gated_conv import GatedConvState, compute_in_torch


def _launch(
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
    stream = Stream(z, projection_taps, projection_state, skip, None, pregate, postgate)
    return toeplitz(stream, mixer_taps, mixer_state)


gated_conv_cuda = torch.library.custom_op("subquad::gated_conv_cuda", mutates_args=())(_launch)


@gated_conv_cuda.register_fake
def _(z, projection_taps, mixer_taps, skip, projection_state, mixer_state, pregate, postgate):
    batch, rows, length = z.shape
    past = min(mixer_taps.shape[1] - 1, length)
    return z.new_empty(batch, rows // 3, length), z.new_empty(batch, rows // 3, past)


@torch.library.custom_op("subquad::gated_conv_backward_cuda", mutates_args=())
def gated_conv_backward_cuda(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None,
    upstream: Tensor,
    pregate: bool,
    postgate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of z and, in float32, of every row's projection taps, of the mixer taps and of skip."""
    found = toeplitz_backward(Stream(z, projection_taps, None, skip, None, pregate, postgate), mixer_taps, upstream)
    return found.x, found.projection_taps, found.taps, found.skip


@gated_conv_backward_cuda.register_fake
def _(z, projection_taps, mixer_taps, skip, upstream, pregate, postgate):
    rows = z.shape[1]
    shapes = ((rows, projection_taps.shape[1]), mixer_taps.shape, (rows // 3,))
    return z.new_empty(z.shape), *[z.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.pregate, ctx.postgate = inputs
    ctx.save_for_backward(*tensors)
    ctx.tail = output[1].shape[-1]
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y, to_tail):
    z, projection_taps, mixer_taps, skip, before, _ = ctx.saved_tensors
    if before is None and to_y is not None and to_tail is None:
        to_z, to_projection, to_taps, to_skip = torch.ops.subquad.gated_conv_backward_cuda(
            z, projection_taps, mixer_taps, skip, to_y, ctx.pregate, ctx.postgate
        )
        if projection_taps.shape[0] != z.shape[1]:
            to_projection = to_projection.view(projection_taps.shape[0], -1, projection_taps.shape[1]).sum(dim=1)
        to_skip = None if skip is None else to_skip.to(skip.dtype)
        to_taps = to_taps.to(mixer_taps.dtype)
        return to_z, to_projection.to(projection_taps.dtype), to_taps, to_skip, None, None, None, None

    def again(z, projection_taps, mixer_taps, skip, projection_state, mixer_state):
        state = None if projection_state is None else GatedConvState(projection_state, mixer_state)
        y, state = compute_in_torch(
            z,
            projection_taps,
            mixer_taps,
            skip=skip,
            pregate=ctx.pregate,
            postgate=ctx.postgate,
            initial_state=state,
        )
        return y, state.mixer[..., state.mixer.shape[-1] - ctx.tail :]

    return *gradients_by_recomputing(again, ctx.saved_tensors, (to_y, to_tail)), None, None


gated_conv_cuda.register_autograd(_backward, setup_context=_keep)


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
    launch = (
        _launch
        if runs_plainly(z, projection_taps, mixer_taps, skip, projection, mixer)
        else torch.ops.subquad.gated_conv_cuda
    )
    y, tail = launch(z, projection_taps, mixer_taps, skip, projection, mixer, pregate, postgate)
    history = next_history(z, projection_taps.shape[1] - 1, projection)
    return y, GatedConvState(history, next_history(tail, mixer_taps.shape[1] - 1, mixer))
