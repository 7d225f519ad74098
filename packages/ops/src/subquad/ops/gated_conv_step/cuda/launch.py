"""gated_conv_step and gated_modal_step as a torch custom operator over the CUDA library."""

import torch
from torch import Tensor

from subquad.ops import _cuda_steps
from subquad.ops._cuda_steps import Matrix, Norm, StepFilters
from subquad.ops.dispatch import runs_plainly
from subquad.ops.gated_conv_step.step_projection import StepProjection


def _launch(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor | None,
    norm_scale: Tensor | None,
    norm: int,
    eps: float,
    projection_taps: Tensor,
    ring: Tensor,
    first: Tensor,
    second: Tensor | None,
    memory: Tensor,
    position: Tensor,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """One vector; ``first`` holds taps, or log poles where ``second`` holds residues; everything contiguous."""
    filters = StepFilters(projection_taps, ring, first, second, memory, position, skip, active)
    return _cuda_steps.gated_step(x, Matrix(weight, weight_scale), Norm(norm_scale, norm, eps), filters)


gated_step_cuda = torch.library.custom_op("subquad::gated_step_cuda", mutates_args=("ring", "memory"))(_launch)


@gated_step_cuda.register_fake
def _(
    x, weight, weight_scale, norm_scale, norm, eps, projection_taps, ring, first, second, memory, position, skip, active
):
    return x.new_empty(memory.shape[:2])


def run_step(
    x: Tensor,
    projection_taps: Tensor,
    first: Tensor,
    second: Tensor | None,
    ring: Tensor,
    memory: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Runs either step; a ring or a state that is a strided view is copied there and back."""
    assert projection is not None  # the backend refuses rows that were projected already
    numbers, scale = _cuda_steps.matrix(projection.weight)
    norm_scale, code, eps = _cuda_steps.norm_of(projection.norm)
    own_ring, own_memory = ring.contiguous(), memory.contiguous()
    plain = runs_plainly(x, numbers, norm_scale, projection_taps, first, second, own_ring, own_memory, skip)
    y = (_launch if plain else torch.ops.subquad.gated_step_cuda)(
        x.contiguous(), numbers, scale, norm_scale, code, eps, projection_taps, own_ring, first, second, own_memory,
        position.contiguous(), skip, None if active is None else active.contiguous(),
    )  # fmt: skip
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
    """Does what gated_conv_step's torch form does; the kernel behind fetches its own weights ahead."""
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
    )
