"""modal_conv as a torch custom operator over the Triton kernel."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.causal_conv.triton.launch import precision, time_contiguous
from subquad.ops.dispatch import gradients_by_recomputing, runs_plainly
from subquad.ops.gated_modal_conv.triton.kernels import modal_taps_kernel
from subquad.ops.gated_modal_conv.triton.launch import BLOCK, COUNT
from subquad.ops.modal_conv.modal_conv import compute_in_torch
from subquad.ops.modal_conv.triton.kernels import modal_conv_kernel


def _launch(
    x: Tensor, log_poles: Tensor, residues: Tensor, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns y ``[batch, channel, length]`` and the state ``[batch, channel, state]`` in float32."""
    stream = time_contiguous(x)
    batch, channels, length = stream.shape
    states = log_poles.shape[1]
    padded = max(16, triton.next_power_of_2(states))
    poles, weights = log_poles.contiguous(), residues.contiguous()
    taps = torch.empty((channels, BLOCK), dtype=torch.float32, device=x.device)
    y = torch.empty((batch, channels, length), dtype=x.dtype, device=x.device)
    state = torch.empty((batch, channels, states), dtype=torch.float32, device=x.device)
    modal_taps_kernel[(channels,)](poles, weights, taps, states, BLOCK=BLOCK, STATES=padded, num_warps=4)
    modal_conv_kernel[(channels, batch)](
        stream,
        poles,
        weights,
        taps,
        x if skip is None else skip.contiguous(),
        x if initial_state is None else initial_state.contiguous(),
        y,
        state,
        length,
        channels,
        states,
        stream.stride(0),
        stream.stride(1),
        STATES=padded,
        BLOCK=BLOCK,
        COUNT=COUNT,
        HISTORY=initial_state is not None,
        SKIP=skip is not None,
        PRECISION=precision(x),
        num_warps=2 if initial_state is None else 4,
    )
    return y, state


modal_conv_triton = torch.library.custom_op("subquad::modal_conv_triton", mutates_args=())(_launch)


@modal_conv_triton.register_fake
def _(x, log_poles, residues, skip, initial_state):
    batch, channels, _ = x.shape
    return x.new_empty(x.shape), x.new_empty(batch, channels, log_poles.shape[1], dtype=torch.float32)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, to_y, to_state):
    def again(x, log_poles, residues, skip, initial_state):
        return compute_in_torch(x, log_poles, residues, skip=skip, initial_state=initial_state)

    return gradients_by_recomputing(again, ctx.saved_tensors, (to_y, to_state))


modal_conv_triton.register_autograd(_backward, setup_context=_keep)


def run(
    x: Tensor, log_poles: Tensor, residues: Tensor, *, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Does what modal_conv's torch form does."""
    launch = (
        _launch if runs_plainly(x, log_poles, residues, skip, initial_state) else torch.ops.subquad.modal_conv_triton
    )
    return launch(x, log_poles, residues, skip, initial_state)
