"""fir_step as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops._cuda_rows import fir_step
from subquad.ops.dispatch import runs_plainly


def _launch(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Arguments as in fir_step; the ring must be contiguous."""
    return fir_step(x, taps, ring, position, bias, skip, active)


fir_step_cuda = torch.library.custom_op("subquad::fir_step_cuda", mutates_args=("ring",))(_launch)


@fir_step_cuda.register_fake
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
    launch = fir_step if runs_plainly(x) else torch.ops.subquad.fir_step_cuda
    held = ring.contiguous()
    y = launch(x, taps, held, position, bias, skip, active)
    if held is not ring and held.data_ptr() != ring.data_ptr():
        ring.copy_(held)
    return y
