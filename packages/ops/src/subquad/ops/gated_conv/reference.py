"""The definition of gated_conv, written from its equation. Slow; any dtype; differentiable."""

from torch import Tensor

from subquad.ops.causal_conv.reference import causal_conv_reference


def gated_conv_reference(
    z: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    skip: Tensor | None = None,
    pregate: bool = True,
    postgate: bool = True,
) -> Tensor:
    """``p = conv(z, projection_taps)``; ``g = p[1::3] * p[2::3]``;

    ``y = p[0::3] * (conv(g, mixer_taps) + skip * g)``."""
    p = causal_conv_reference(z, projection_taps)
    q, k, v = p[:, 0::3], p[:, 1::3], p[:, 2::3]
    g = k * v if pregate else v
    y = causal_conv_reference(g, mixer_taps)
    if skip is not None:
        y = y + skip[:, None] * g
    return q * y if postgate else y
