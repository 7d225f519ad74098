"""gated_modal_step over the kernel of gated_conv_step."""

from torch import Tensor

from subquad.ops.gated_conv_step.cuda.launch import run_step
from subquad.ops.gated_conv_step.step_projection import StepProjection


def run(
    x: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    projection_ring: Tensor,
    state: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None,
    skip: Tensor | None,
    active: Tensor | None,
    upcoming: Tensor | None,
) -> Tensor:
    """Does what gated_modal_step's torch form does; the kernel behind fetches its own weights ahead."""
    return run_step(
        x,
        projection_taps,
        log_poles,
        residues,
        projection_ring,
        state,
        position,
        projection=projection,
        skip=skip,
        active=active,
    )
