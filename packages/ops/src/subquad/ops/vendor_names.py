"""The names and conventions of subquadratic-ops-torch, as thin adapters over our operators.

Its short convolutions correlate: their last tap multiplies the current sample. Its FFT convolutions convolve: their
first tap does. Both run on whatever backend ``"auto"`` takes.
"""

from typing import Literal

from torch import Tensor

from subquad.ops import _checks
from subquad.ops.axes import Layout, Modes, PerChannel, ProjectionTaps, Sequence, Taps
from subquad.ops.causal_conv import causal_conv
from subquad.ops.errors import ShapeMismatch
from subquad.ops.fft_conv import fft_conv
from subquad.ops.gated_conv import gated_conv
from subquad.ops.modal_conv import modal_filter


def causal_conv1d(
    x: Sequence,
    weight: Taps,
    bias: PerChannel | None = None,
    activation: Literal["identity", "silu"] = "identity",
    channel_last: bool = False,
) -> Sequence:
    """Correlates: ``y[b, c, t] = activation(sum(weight[c, k] * x[b, c, t - (tap - 1) + k] for k) + bias[c])``.

    With ``channel_last`` x is ``[batch, length, channel]`` and weight ``[tap, channel]``.
    """
    _checks.one_of("activation", activation, ("identity", "silu"))
    layout: Layout = "BLH" if channel_last else "BHL"
    _checks.channel_first(x, layout)
    _checks.floating("weight", weight)
    if weight.dim() != 2:
        raise ShapeMismatch(f"weight has {weight.dim()} axes {tuple(weight.shape)}; accepted: 2")
    taps = weight.mT if channel_last else weight
    after = None if activation == "identity" else activation
    return causal_conv(x, taps.flip(-1), bias=bias, activation=after, layout=layout)


def fft_causal_conv1d(x: Sequence, weight: Taps) -> Sequence:
    """Convolves: ``y[b, c, t] = sum(weight[c, k] * x[b, c, t - k] for k)``, any number of taps."""
    _checks.floating("weight", weight)
    return causal_conv(x, weight)


def b2b_causal_conv1d(x: Sequence, weight_proj: ProjectionTaps, weight_mixer: Taps, skip_bias: PerChannel) -> Sequence:
    """Does gated_conv with both filters correlating: their last tap multiplies the current sample."""
    _checks.floating("weight_proj", weight_proj)
    _checks.floating("weight_mixer", weight_mixer)
    return gated_conv(x, weight_proj.flip(-1), weight_mixer.flip(-1), skip=skip_bias)


def fft_conv1d(x: Sequence, weight: Taps) -> Sequence:
    """Convolves over one axis, zero-padded, with the centre at ``tap // 2``."""
    _checks.axes_of_space("fft_conv1d", x, 1)
    _checks.floating("weight", weight)
    return fft_conv(x, weight)


def fft_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Convolves ``[batch, channel, height, width]`` with ``[channel, *tap]``, zero-padded, centre at ``tap // 2``."""
    _checks.axes_of_space("fft_conv2d", x, 2)
    _checks.floating("weight", weight)
    return fft_conv(x, weight)


def implicit_filter(glogp: Modes, R: Modes, L: int) -> Tensor:
    """Builds ``h[c, t] = sum(R[c, s] * exp(glogp[c, s] * t) for s)``, ``[channel, L]``."""
    return modal_filter(glogp, R, L)
