"""gated_modal_conv as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_streams import Stream, modal
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.dispatch import gradients_by_recomputing
from subquad.ops.gated_modal_conv.gated_modal_conv import GatedModalState, compute_in_torch


@torch.library.custom_op("subquad::gated_modal_conv_cuda", mutates_args=())
def gated_modal_conv_cuda(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None,
    projection_state: Tensor | None,
    modal_state: Tensor | None,
    pregate: bool,
    postgate: bool,
) -> tuple[Tensor, Tensor]:
    """Returns y ``[batch, channel, length]`` and the modal state ``[batch, channel, state]`` in float32."""
    stream = Stream(z, projection_taps, projection_state, skip, None, pregate, postgate)
    return modal(stream, log_poles, residues, modal_state)


@gated_modal_conv_cuda.register_fake
def _(z, projection_taps, log_poles, residues, skip, projection_state, modal_state, pregate, postgate):
    batch, rows, length = z.shape
    y = z.new_empty(batch, rows // 3, length)
    return y, z.new_empty(batch, rows // 3, log_poles.shape[1], dtype=torch.float32)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.pregate, ctx.postgate = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, to_y, to_state):
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

    return *gradients_by_recomputing(again, ctx.saved_tensors, (to_y, to_state)), None, None


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
    y, state = torch.ops.subquad.gated_modal_conv_cuda(
        z, projection_taps, log_poles, residues, skip, projection, state, pregate, postgate
    )
    return y, GatedModalState(next_history(z, projection_taps.shape[1] - 1, projection), state)
