"""The definition of gated_modal_conv, written from its equation. Slow; any dtype; differentiable."""

from torch import Tensor

from subquad.ops.causal_conv.reference import causal_conv_reference
from subquad.ops.modal_conv.reference import modal_conv_reference


def gated_modal_conv_reference(
    z: Tensor,
    projection_taps: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    skip: Tensor | None = None,
    pregate: bool = True,
    postgate: bool = True,
) -> Tensor:
    """``p = conv(z, projection_taps)``; ``g = p[1::3] * p[2::3]``;

    ``y = p[0::3] * modal_conv(g, log_poles, residues, skip)``."""
    p = causal_conv_reference(z, projection_taps)
    q, k, v = p[:, 0::3], p[:, 1::3], p[:, 2::3]
    y, _ = modal_conv_reference(k * v if pregate else v, log_poles, residues, skip)
    return q * y if postgate else y
