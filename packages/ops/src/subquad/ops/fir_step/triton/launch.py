"""fir_step as a torch custom operator over the Triton kernel."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.fir_step.triton.kernels import fir_step_kernel

_TILE, _LARGEST_TILE = 512, 4096  # ring samples of a program; the larger where a ring is short and rows are many
_SHORT = 16
_PROGRAMS = 1056  # eight on each of 132 multiprocessors


@torch.library.custom_op("subquad::fir_step_triton", mutates_args=("ring",))
def fir_step_triton(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Arguments as in fir_step; the ring must be contiguous."""
    batch, channels = x.shape
    past = taps.shape[1] - 1
    slots = triton.next_power_of_2(past) if past else 0
    tile = _TILE
    if slots <= _SHORT:
        tile = max(tile, min(triton.next_power_of_2(batch * channels * max(slots, 1) // _PROGRAMS + 1), _LARGEST_TILE))
    width = max(1, min(tile // max(slots, 1), triton.next_power_of_2(channels), 512))
    y = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    fir_step_kernel[(triton.cdiv(channels, width), batch)](
        x.contiguous(),
        taps.contiguous(),
        ring,
        position.contiguous(),
        x if bias is None else bias.contiguous(),
        x if skip is None else skip.contiguous(),
        position if active is None else active.contiguous().view(torch.uint8),
        y,
        channels,
        channels // taps.shape[0],
        past,
        CHANNELS=width,
        SLOTS=slots,
        BIAS=bias is not None,
        SKIP=skip is not None,
        ACTIVE=active is not None,
        num_warps=4,
    )
    return y


@fir_step_triton.register_fake
def _(x, taps, ring, position, bias, skip, active):
    return x.new_empty(x.shape)


def run(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Does what fir_step's torch form does; a ring that is a strided view is copied there and back."""
    held = ring.contiguous()
    y = torch.ops.subquad.fir_step_triton(x, taps, held, position, bias, skip, active)
    if held is not ring and held.data_ptr() != ring.data_ptr():
        ring.copy_(held)
    return y
