"""modal_step as a torch custom operator over the Triton kernel."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.modal_step.triton.kernels import modal_step_kernel

_TILE = 512  # modes a program


@torch.library.custom_op("subquad::modal_step_triton", mutates_args=("state",))
def modal_step_triton(
    x: Tensor, log_poles: Tensor, residues: Tensor, state: Tensor, skip: Tensor | None, active: Tensor | None
) -> Tensor:
    """Arguments as in modal_step; the state must be contiguous."""
    batch, channels = x.shape
    states = log_poles.shape[1]
    padded = triton.next_power_of_2(states)
    width = max(1, min(_TILE // padded, triton.next_power_of_2(channels)))
    y = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    modal_step_kernel[(triton.cdiv(channels, width), batch)](
        x.contiguous(),
        log_poles.contiguous(),
        residues.contiguous(),
        state,
        x if skip is None else skip.contiguous(),
        x if active is None else active.contiguous().view(torch.uint8),
        y,
        channels,
        states,
        CHANNELS=width,
        STATES=padded,
        SKIP=skip is not None,
        ACTIVE=active is not None,
        num_warps=4,
    )
    return y


@modal_step_triton.register_fake
def _(x, log_poles, residues, state, skip, active):
    return x.new_empty(x.shape)


def run(
    x: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    state: Tensor,
    *,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Does what modal_step's torch form does; a state that is a strided view is copied there and back."""
    held = state.contiguous()
    y = torch.ops.subquad.modal_step_triton(x, log_poles, residues, held, skip, active)
    if held is not state and held.data_ptr() != state.data_ptr():
        state.copy_(held)
    return y
