"""The definition of fir_step: causal_conv over the whole stream so far, of which only the last sample is kept."""

from torch import Tensor

from subquad.ops.causal_conv.reference import causal_conv_reference


def fir_step_reference(stream: Tensor, taps: Tensor) -> Tensor:
    """Returns the last column of ``causal_conv(stream, taps)`` for ``stream`` ``[batch, channel, length]``."""
    return causal_conv_reference(stream, taps)[..., -1]
