"""modal_conv as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_streams import MOST_STATES, Stream, as_gradient, modal, modal_backward, tiles_kept
from subquad.ops.dispatch import gradient_wanted, runs_plainly


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
    x: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None,
    entries: Tensor,
    upstream: Tensor,
    upstream_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of x, log_poles, residues, skip and the initial state, all but the first in float32."""
    found = modal_backward(Stream(x, skip=skip), log_poles, residues, entries, upstream, upstream_state)
    return found.shared.x, found.log_poles, found.residues, found.shared.skip, found.history


@modal_conv_backward_cuda.register_fake
def _(x, log_poles, residues, skip, entries, upstream, upstream_state):
    shapes = (log_poles.shape, log_poles.shape, x.shape[1:2], (x.shape[0], *log_poles.shape))
    return x.new_empty(x.shape), *[x.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _keep(ctx, inputs, output) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y, to_state, _):
    *tensors, initial_state, entries = ctx.saved_tensors
    upstream = torch.zeros_like(tensors[0]) if to_y is None else to_y
    found = torch.ops.subquad.modal_conv_backward_cuda(*tensors, entries, upstream, to_state)
    return *map(as_gradient, (*tensors, initial_state), found), None


modal_conv_cuda.register_autograd(_backward, setup_context=_keep)


def run(
    x: Tensor, log_poles: Tensor, residues: Tensor, *, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Does what modal_conv's torch form does."""
    launch = _launch if runs_plainly(x, log_poles, residues, skip, initial_state) else torch.ops.subquad.modal_conv_cuda
    keep = gradient_wanted(x, log_poles, residues, skip, initial_state)
    y, state, _ = launch(x, log_poles, residues, skip, initial_state, keep)
    return y, state
