"""gated_modal_conv as a torch custom operator over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops._checks import expand_groups
from subquad.ops.causal_conv.causal_filter import next_history
from subquad.ops.causal_conv.triton.launch import precision, time_contiguous
from subquad.ops.dispatch import gradients_by_recomputing
from subquad.ops.gated_modal_conv.gated_modal_conv import GatedModalState, compute_in_torch
from subquad.ops.gated_modal_conv.triton.kernels import gated_modal_conv_kernel, modal_taps_kernel

# 16 chunks of 32 samples: on sm_90 the kernel then needs 128 registers with 2 warps (of 64: 255), and 241 with 4
# warps where the history's branch is compiled in.
BLOCK = 32
COUNT = 16
MOST_STATES = 64


@torch.library.custom_op("subquad::gated_modal_conv_triton", mutates_args=())
def gated_modal_conv_triton(
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
    stream = time_contiguous(z)
    batch, rows, length = stream.shape
    channels, states = rows // 3, log_poles.shape[1]
    padded = max(16, triton.next_power_of_2(states))
    poles, weights = log_poles.contiguous(), residues.contiguous()
    taps = torch.empty((channels, BLOCK), dtype=torch.float32, device=z.device)
    y = torch.empty((batch, channels, length), dtype=z.dtype, device=z.device)
    state = torch.empty((batch, channels, states), dtype=torch.float32, device=z.device)
    before = None if projection_state is None or modal_state is None else (projection_state, modal_state)
    modal_taps_kernel[(channels,)](poles, weights, taps, states, BLOCK=BLOCK, STATES=padded, num_warps=4)
    gated_modal_conv_kernel[(channels, batch)](
        stream,
        expand_groups(projection_taps, rows).contiguous(),
        poles,
        weights,
        taps,
        z if skip is None else skip.contiguous(),
        z if before is None else before[0].to(z.dtype).contiguous(),
        z if before is None else before[1].contiguous(),
        y,
        state,
        length,
        channels,
        states,
        stream.stride(0),
        stream.stride(1),
        PROJECTION=projection_taps.shape[1],
        STATES=padded,
        BLOCK=BLOCK,
        COUNT=COUNT,
        HISTORY=before is not None,
        SKIP=skip is not None,
        PREGATE=pregate,
        POSTGATE=postgate,
        PRECISION=precision(z),
        num_warps=2 if before is None else 4,
    )
    return y, state


@gated_modal_conv_triton.register_fake
def _(z, projection_taps, log_poles, residues, skip, projection_state, modal_state, pregate, postgate):
    batch, rows, length = z.shape
    channels = rows // 3
    return (
        z.new_empty(batch, channels, length),
        z.new_empty(batch, channels, log_poles.shape[1], dtype=torch.float32),
    )


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


gated_modal_conv_triton.register_autograd(_backward, setup_context=_keep)


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
    projection, modal = initial_state if initial_state is not None else (None, None)
    y, state = torch.ops.subquad.gated_modal_conv_triton(
        z, projection_taps, log_poles, residues, skip, projection, modal, pregate, postgate
    )
    return y, GatedModalState(next_history(z, projection_taps.shape[1] - 1, projection), state)
