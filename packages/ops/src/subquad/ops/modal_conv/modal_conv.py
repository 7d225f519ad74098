"""Convolution with a sum of real exponentials: the public functions."""

import torch
from torch import Tensor

from subquad.ops import _checks
from subquad.ops.axes import Layout, ModalState, Modes, PerChannel, Sequence
from subquad.ops.errors import ArgumentOutOfRange
from subquad.ops.modal_conv.chunked import convolve_modal

_BLOCK = 32


def modal_filter(log_poles: Modes, residues: Modes, length: int) -> Tensor:
    """Builds the taps of a modal filter.

    ``h[c, t] = sum(residues[c, s] * exp(log_poles[c, s] * t) for s in range(state))``
    """
    _checks.modes(log_poles, residues, None, None)
    if length < 0:
        raise ArgumentOutOfRange(f"length is {length}; accepted: 0 or more")
    wide = _checks.accumulation_dtype(log_poles)
    block = 256
    fine = torch.exp(log_poles.double()[..., None] * torch.arange(min(block, length), device=log_poles.device))
    if length <= block:
        return (residues.double()[:, None] @ fine).squeeze(1).to(wide)
    starts = torch.arange(-(-length // block), device=log_poles.device) * block
    coarse = residues.double()[..., None] * torch.exp(log_poles.double()[..., None] * starts)
    return (coarse.transpose(1, 2) @ fine).flatten(1)[:, :length].to(wide)


def modal_conv(
    x: Sequence,
    log_poles: Modes,
    residues: Modes,
    *,
    skip: PerChannel | None = None,
    initial_state: ModalState | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Sequence:
    """Convolves each channel with a sum of real exponentials.

    ``s[t] = exp(log_poles) * s[t - 1] + x[t]``; ``y[t] = sum(residues * s[t]) + skip * x[t]``
    """
    y, _ = modal_conv_with_state(
        x,
        log_poles,
        residues,
        skip=skip,
        initial_state=initial_state,
        chunk_size=chunk_size,
        layout=layout,
        backend=backend,
    )
    return y


def modal_conv_with_state(
    x: Sequence,
    log_poles: Modes,
    residues: Modes,
    *,
    skip: PerChannel | None = None,
    initial_state: ModalState | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> tuple[Sequence, ModalState]:
    """Does modal_conv and also returns the state after the last sample ``[batch, channel, state]`` (float32 or float64)."""
    stream = _checks.channel_first(x, layout)
    batch, channels, _ = stream.shape
    _checks.modes(log_poles, residues, x, channels)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.shaped("initial_state", initial_state, (batch, channels, log_poles.shape[1]), x)
    wide = _checks.accumulation_dtype(x)
    state = x.new_zeros(batch, channels, log_poles.shape[1], dtype=wide) if initial_state is None else initial_state
    samples = stream.to(wide)
    y, state = convolve_modal(samples, log_poles, residues, state, _BLOCK)
    if skip is not None:
        y = y + skip.to(wide)[:, None] * samples
    return _checks.as_layout(y.to(x.dtype), layout), state
