"""modal_conv as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_streams import Stream, modal
from subquad.ops.dispatch import gradients_by_recomputing
from subquad.ops.modal_conv.modal_conv import compute_in_torch


@torch.library.custom_op("subquad::modal_conv_cuda", mutates_args=())
def modal_conv_cuda(
    x: Tensor, log_poles: Tensor, residues: Tensor, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns y ``[batch, channel, length]`` and the state ``[batch, channel, state]`` in float32."""
    return modal(Stream(x, skip=skip), log_poles, residues, initial_state)


@modal_conv_cuda.register_fake
def _(x, log_poles, residues, skip, initial_state):
    batch, channels, _ = x.shape
    return x.new_empty(x.shape), x.new_empty(batch, channels, log_poles.shape[1], dtype=torch.float32)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, to_y, to_state):
    def again(x, log_poles, residues, skip, initial_state):
        return compute_in_torch(x, log_poles, residues, skip=skip, initial_state=initial_state)

    return gradients_by_recomputing(again, ctx.saved_tensors, (to_y, to_state))


modal_conv_cuda.register_autograd(_backward, setup_context=_keep)


def run(
    x: Tensor, log_poles: Tensor, residues: Tensor, *, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Does what modal_conv's torch form does."""
    return torch.ops.subquad.modal_conv_cuda(x, log_poles, residues, skip, initial_state)
