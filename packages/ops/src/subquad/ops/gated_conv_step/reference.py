"""The definition of gated_conv_step: gated_conv over the whole stream so far, of which only the last sample is kept."""

from torch import Tensor

from subquad.ops.gated_conv.reference import gated_conv_reference


def gated_conv_step_reference(
    stream: Tensor, projection_taps: Tensor, mixer_taps: Tensor, skip: Tensor | None = None
) -> Tensor:
    """Returns the last column of ``gated_conv(stream, …)`` for ``stream`` ``[batch, 3 * channel, length]``."""
    y = gated_conv_reference(stream, projection_taps, mixer_taps, skip=skip)
    return y[..., -1]
