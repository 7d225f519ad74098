"""modal_conv as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_streams import MOST_STATES, Stream, modal, modal_backward, tiles_kept
from subquad.ops.dispatch import gradient_wanted, gradients_by_recomputing, runs_plainly
from subquad.ops.modal_conv.modal_conv import compute_in_torch


def _launch(
    x: Tensor, log_poles: Tensor, residues: Tensor, skip: Tensor | None, initial_state: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y ``[batch, channel, length]``, the state and, with ``keep``, the states that the gradients need."""
    return modal(Stream(x, skip=skip), log_poles, residues, initial_state, keep=keep)


modal_conv_cuda = torch.library.custom_op("subquad::modal_conv_cuda", mutates_args=())(_launch)


@modal_conv_cuda.register_fake
def _(x, log_poles, residues, skip, initial_state, keep):
    batch, channels, length = x.shape
    return (
        x.new_empty(x.shape),
        x.new_empty(batch, channels, log_poles.shape[1], dtype=torch.float32),
        x.new_empty(batch, channels, tiles_kept(length, keep), MOST_STATES, dtype=torch.float32),
    )


@torch.library.custom_op("subquad::modal_conv_backward_cuda", mutates_args=())
def modal_conv_backward_cuda(
    x: Tensor, log_poles: Tensor, residues: Tensor, skip: Tensor | None, entries: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of x, log_poles, residues and skip, the last three in float32."""
    found = modal_backward(Stream(x, skip=skip), log_poles, residues, entries, upstream)
    return found.x, found.log_poles, found.residues, found.skip


@modal_conv_backward_cuda.register_fake
def _(x, log_poles, residues, skip, entries, upstream):
    shapes = (log_poles.shape, log_poles.shape, x.shape[1:2])
    return x.new_empty(x.shape), *[x.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.kept = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y, to_state, _):
    *tensors, entries = ctx.saved_tensors
    x, log_poles, residues, skip, before = tensors
    if ctx.kept and before is None and to_y is not None and to_state is None:
        to_x, to_poles, to_residues, to_skip = torch.ops.subquad.modal_conv_backward_cuda(
            x, log_poles, residues, skip, entries, to_y
        )
        to_skip = None if skip is None else to_skip.to(skip.dtype)
        return to_x, to_poles.to(log_poles.dtype), to_residues.to(residues.dtype), to_skip, None, None

    def again(x, log_poles, residues, skip, initial_state):
        return compute_in_torch(x, log_poles, residues, skip=skip, initial_state=initial_state)

    return *gradients_by_recomputing(again, tuple(tensors), (to_y, to_state)), None


modal_conv_cuda.register_autograd(_backward, setup_context=_keep)


def run(
    x: Tensor, log_poles: Tensor, residues: Tensor, *, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Does what modal_conv's torch form does."""
    launch = _launch if runs_plainly(x, log_poles, residues, skip, initial_state) else torch.ops.subquad.modal_conv_cuda
    keep = x.dtype == torch.bfloat16 and gradient_wanted(x, log_poles, residues, skip)
    y, state, _ = launch(x, log_poles, residues, skip, initial_state, keep)
    return y, state
