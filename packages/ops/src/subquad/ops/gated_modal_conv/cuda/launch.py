"""gated_modal_conv as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_streams import MOST_STATES, Stream, modal, modal_backward, tiles_kept
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import gradient_wanted, gradients_by_recomputing, runs_plainly
from subquad.ops.gated_modal_conv.gated_modal_conv import GatedModalState, compute_in_torch


def _launch(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None,
    projection_state: Tensor | None,
    modal_state: Tensor | None,
    pregate: bool,
    postgate: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y, the modal state ``[batch, channel, state]`` and, with ``keep``, the states that gradients need."""
    stream = Stream(z, projection_taps, projection_state, skip, None, pregate, postgate)
    return modal(stream, log_poles, residues, modal_state, keep=keep)


gated_modal_conv_cuda = torch.library.custom_op("subquad::gated_modal_conv_cuda", mutates_args=())(_launch)


@gated_modal_conv_cuda.register_fake
def _(z, projection_taps, log_poles, residues, skip, projection_state, modal_state, pregate, postgate, keep):
    batch, rows, length = z.shape
    channels = rows // 3
    return (
        z.new_empty(batch, channels, length),
        z.new_empty(batch, channels, log_poles.shape[1], dtype=torch.float32),
        z.new_empty(batch, channels, tiles_kept(length, keep), MOST_STATES, dtype=torch.float32),
    )


@torch.library.custom_op("subquad::gated_modal_conv_backward_cuda", mutates_args=())
def gated_modal_conv_backward_cuda(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None,
    entries: Tensor,
    upstream: Tensor,
    pregate: bool,
    postgate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of z and, in float32, of every row's projection taps, log_poles, residues and skip."""
    stream = Stream(z, projection_taps, None, skip, None, pregate, postgate)
    found = modal_backward(stream, log_poles, residues, entries, upstream)
    return found.x, found.projection_taps, found.log_poles, found.residues, found.skip


@gated_modal_conv_backward_cuda.register_fake
def _(z, projection_taps, log_poles, residues, skip, entries, upstream, pregate, postgate):
    rows = z.shape[1]
    shapes = ((rows, projection_taps.shape[1]), log_poles.shape, log_poles.shape, (rows // 3,))
    return z.new_empty(z.shape), *[z.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.pregate, ctx.postgate, ctx.kept = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y, to_state, _):
    *tensors, entries = ctx.saved_tensors
    z, projection_taps, log_poles, residues, skip, before, _ = tensors
    if ctx.kept and before is None and to_y is not None and to_state is None:
        found = torch.ops.subquad.gated_modal_conv_backward_cuda(
            z, projection_taps, log_poles, residues, skip, entries, to_y, ctx.pregate, ctx.postgate
        )
        to_z, to_projection, to_poles, to_residues, to_skip = found
        if projection_taps.shape[0] != z.shape[1]:
            to_projection = to_projection.view(projection_taps.shape[0], -1, projection_taps.shape[1]).sum(dim=1)
        to_skip = None if skip is None else to_skip.to(skip.dtype)
        to_poles, to_residues = to_poles.to(log_poles.dtype), to_residues.to(residues.dtype)
        to_projection = to_projection.to(projection_taps.dtype)
        return to_z, to_projection, to_poles, to_residues, to_skip, None, None, None, None, None

    def again(z, projection_taps, log_poles, residues, skip, projection_state, modal_state):
        before = None if projection_state is None else GatedModalState(projection_state, modal_state)
        y, state = compute_in_torch(
            z,
            projection_taps,
            log_poles,
            residues,
            skip=skip,
            pregate=ctx.pregate,
            postgate=ctx.postgate,
            initial_state=before,
        )
        return y, state.modal

    return *gradients_by_recomputing(again, tuple(tensors), (to_y, to_state)), None, None, None


gated_modal_conv_cuda.register_autograd(_backward, setup_context=_keep)


def run(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    *,
    skip: Tensor | None,
    pregate: bool,
    postgate: bool,
    initial_state: GatedModalState | None,
) -> tuple[Tensor, GatedModalState]:
    """Does what gated_modal_conv's torch form does."""
    projection, state = initial_state if initial_state is not None else (None, None)
    launch = (
        _launch
        if runs_plainly(z, projection_taps, log_poles, residues, skip, projection, state)
        else torch.ops.subquad.gated_modal_conv_cuda
    )
    keep = z.dtype == torch.bfloat16 and gradient_wanted(z, projection_taps, log_poles, residues, skip)
    y, state, _ = launch(z, projection_taps, log_poles, residues, skip, projection, state, pregate, postgate, keep)
    return y, GatedModalState(next_history(z, projection_taps.shape[1] - 1, projection), state)
