"""Causal depthwise convolution of a sequence: the public functions."""

import torch
from torch import Tensor

from subquad.ops import _checks
from subquad.ops.axes import Activation, History, Layout, PerChannel, Sequence, Taps
from subquad.ops.causal_conv.direct import convolve_direct
from subquad.ops.causal_conv.fft import convolve_fft
from subquad.ops.causal_conv.toeplitz import convolve_toeplitz


def _convolve(stream: Tensor, rows: Tensor) -> Tensor:
    if rows.shape[1] <= 8:
        return convolve_direct(stream, rows)
    if rows.shape[1] <= 256:
        return convolve_toeplitz(stream, rows, 32)
    return convolve_fft(stream, rows)


def filter_stream(stream: Tensor, taps: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Filters ``[batch, channel, length]``; returns the sums, still in their own dtype, and the new history."""
    past = taps.shape[1] - 1
    batch, channels, length = stream.shape
    history = stream.new_zeros(batch, channels, past) if before is None else before.to(stream.dtype)
    joined = torch.cat([history, stream], dim=-1)
    wide = _checks.accumulation_dtype(stream)
    return _convolve(joined.to(wide), _checks.expand_groups(taps.to(wide), channels)), joined[..., length:]


def _activate(y: Tensor, activation: Activation | None) -> Tensor:
    if activation is None:
        return y
    return torch.nn.functional.silu(y) if activation == "silu" else torch.nn.functional.gelu(y)


def causal_conv(
    x: Sequence,
    taps: Taps,
    *,
    bias: PerChannel | None = None,
    skip: PerChannel | None = None,
    activation: Activation | None = None,
    initial_state: History | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Sequence:
    """Convolves each channel of a sequence with its own causal filter.

    ``y[b, c, t] = activation(sum(taps[g(c), k] * x[b, c, t - k] for k in range(tap)) + skip[c] * x[b, c, t] + bias[c])``
    """
    y, _ = causal_conv_with_state(
        x,
        taps,
        bias=bias,
        skip=skip,
        activation=activation,
        initial_state=initial_state,
        layout=layout,
        backend=backend,
    )
    return y


def causal_conv_with_state(
    x: Sequence,
    taps: Taps,
    *,
    bias: PerChannel | None = None,
    skip: PerChannel | None = None,
    activation: Activation | None = None,
    initial_state: History | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> tuple[Sequence, History]:
    """Does causal_conv and also returns the last ``tap - 1`` inputs ``[batch, channel, tap - 1]``, oldest first."""
    stream = _checks.channel_first(x, layout)
    batch, channels, length = stream.shape
    _checks.taps("taps", taps, x, channels)
    past = taps.shape[1] - 1
    _checks.shaped("bias", bias, (channels,), x)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.shaped("initial_state", initial_state, (batch, channels, past), x)
    _checks.activation(activation)
    y, state = filter_stream(stream, taps, initial_state)
    wide = y.dtype
    if skip is not None:
        y = y + skip.to(wide)[:, None] * stream.to(wide)
    if bias is not None:
        y = y + bias.to(wide)[:, None]
    return _checks.as_layout(_activate(y, activation).to(x.dtype), layout), state
