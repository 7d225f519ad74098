"""gated_conv_step and gated_modal_step as torch custom operators over the Triton kernels."""

# pyright: reportCallIssue=false, reportArgumentType=false
# Launch options such as num_warps are no parameters of a kernel.

import torch
import triton
from torch import Tensor

from subquad.ops.gated_conv_step.step_projection import StepProjection
from subquad.ops.gated_conv_step.triton.kernels import gated_step_kernel, projected_gated_step_kernel
from subquad.ops.linear_step.linear_step import linear_step
from subquad.ops.linear_step.rounded_weight import matrix_of, scale_of
from subquad.ops.linear_step.triton.launch import norm_arguments, padded, upcoming_arguments
from subquad.ops.linear_step.triton.programmatic import dependent_launch

_TILE = 2048  # ring samples or modes a program


_PROJECTED_TILE = (4, 512, 4)  # channels and inputs of a tile of each of their three rows, and warps; measured
_ROUNDED_TILE = (4, 1024, 4)  # the same for weights of one byte


@torch.library.custom_op("subquad::gated_step_triton", mutates_args=("ring", "memory"))
def gated_step_triton(
    z: Tensor,
    short_taps: Tensor,
    first: Tensor,
    second: Tensor | None,
    ring: Tensor,
    memory: Tensor,
    position: Tensor,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """The rows are given. ``first`` holds taps, or log poles where ``second`` holds residues; all contiguous."""
    batch, channels, size = memory.shape
    width = padded(size)
    own = max(1, min(_TILE // width, padded(channels), 64))
    y = torch.empty((batch, channels), dtype=z.dtype, device=z.device)
    gated_step_kernel[(triton.cdiv(channels, own), batch)](
        z,
        short_taps,
        ring,
        first,
        first if second is None else second,
        memory,
        position,
        z if skip is None else skip,
        position if active is None else active.view(torch.uint8),
        y,
        channels,
        channels // first.shape[0],
        size,
        ring.shape[2],
        CHANNELS=own,
        SHORT=padded(ring.shape[2]),
        WIDTH=width,
        MODAL=second is not None,
        SKIP=skip is not None,
        ACTIVE=active is not None,
        num_warps=4,
        **dependent_launch(),
    )
    return y


@gated_step_triton.register_fake
def _(z, short_taps, first, second, ring, memory, position, skip, active):
    return z.new_empty(memory.shape[:2])


@torch.library.custom_op("subquad::projected_gated_step_triton", mutates_args=("ring", "memory"))
def projected_gated_step_triton(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    scale: Tensor | None,
    norm: int,
    eps: float,
    upcoming: Tensor | None,
    short_taps: Tensor,
    first: Tensor,
    second: Tensor | None,
    ring: Tensor,
    memory: Tensor,
    position: Tensor,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Makes the rows of one vector; the rest as in ``gated_step_triton``."""
    _, channels, size = memory.shape
    inputs = x.shape[1]
    own, columns, warps = _PROJECTED_TILE if weight_scale is None else _ROUNDED_TILE
    y = torch.empty((1, channels), dtype=x.dtype, device=x.device)
    projected_gated_step_kernel[(triton.cdiv(channels, own),)](
        x,
        x if scale is None else scale,
        weight,
        x if weight_scale is None else weight_scale,
        short_taps,
        ring,
        first,
        first if second is None else second,
        memory,
        position,
        x if skip is None else skip,
        position if active is None else active.view(torch.uint8),
        y,
        channels,
        channels // first.shape[0],
        size,
        ring.shape[2],
        inputs,
        eps,
        CHANNELS=own,
        IN=min(columns, padded(inputs)),
        NORM=norm,
        SCALED=weight_scale is not None,
        SHORT=padded(ring.shape[2]),
        WIDTH=padded(size),
        MODAL=second is not None,
        SKIP=skip is not None,
        ACTIVE=active is not None,
        num_warps=warps,
        **upcoming_arguments(upcoming, weight),
        **dependent_launch(),
    )
    return y


@projected_gated_step_triton.register_fake
def _(
    x, weight, weight_scale, scale, norm, eps, upcoming, short_taps, first, second, ring, memory, position, skip, active
):
    return x.new_empty(memory.shape[:2])


def run_step(
    x: Tensor,
    short_taps: Tensor,
    first: Tensor,
    second: Tensor | None,
    ring: Tensor,
    memory: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None,
    skip: Tensor | None,
    active: Tensor | None,
    upcoming: Tensor | None,
) -> Tensor:
    """Runs either step; a ring or a state that is a strided view is copied there and back.

    Several vectors are projected by linear_step, with the backend that it chooses.
    """
    first, second = first.contiguous(), None if second is None else second.contiguous()
    skip, active = None if skip is None else skip.contiguous(), None if active is None else active.contiguous()
    own_ring, own_memory = ring.contiguous(), memory.contiguous()
    shared = (short_taps.contiguous(), first, second, own_ring, own_memory, position.contiguous(), skip, active)
    if projection is not None and x.shape[0] == 1:
        scale, form, eps = norm_arguments(projection.norm)
        y = torch.ops.subquad.projected_gated_step_triton(
            x.contiguous(),
            matrix_of(projection.weight).contiguous(),
            scale_of(projection.weight),
            scale,
            form,
            eps,
            upcoming,
            *shared,
        )
    else:
        if projection is not None:
            x = linear_step(x, projection.weight, norm=projection.norm, upcoming=upcoming)
        y = torch.ops.subquad.gated_step_triton(x.contiguous(), *shared)
    for own, given in ((own_ring, ring), (own_memory, memory)):
        if own.data_ptr() != given.data_ptr():
            given.copy_(own)
    return y


def run(
    x: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    projection_ring: Tensor,
    mixer_ring: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None,
    skip: Tensor | None,
    active: Tensor | None,
    upcoming: Tensor | None,
) -> Tensor:
    """Does what gated_conv_step's torch form does."""
    return run_step(
        x,
        projection_taps,
        mixer_taps,
        None,
        projection_ring,
        mixer_ring,
        position,
        projection=projection,
        skip=skip,
        active=active,
        upcoming=upcoming,
    )
