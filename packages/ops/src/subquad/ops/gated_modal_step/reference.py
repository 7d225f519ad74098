"""The definition of gated_modal_step: gated_modal_conv over the whole stream so far; the last sample is kept."""

from torch import Tensor

from subquad.ops.gated_modal_conv.reference import gated_modal_conv_reference


def gated_modal_step_reference(
    stream: Tensor, projection_taps: Tensor, log_poles: Tensor, residues: Tensor, skip: Tensor | None = None
) -> Tensor:
    """Returns the last column of ``gated_modal_conv(stream, …)`` for ``stream`` ``[batch, 3 * channel, length]``."""
    y = gated_modal_conv_reference(stream, projection_taps, log_poles, residues, skip=skip)
    return y[..., -1]
