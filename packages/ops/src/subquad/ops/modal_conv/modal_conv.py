"""Convolution with a sum of real exponentials: the public functions."""

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._any_length import of_any_length
from subquad.ops._autocast import without_autocast
from subquad.ops._blocks import lengthwise
from subquad.ops._channels import check_chunk, recomputed, wide_parameters
from subquad.ops.axes import Layout, ModalState, Modes, PerChannel, Sequence
from subquad.ops.modal_conv.chunked import filter_modal


@of_any_length
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

    Args:
      x: the sequence; float32, float64, bfloat16 or float16, any strides.
      log_poles: ``[channel, state]``, the logarithm of each pole: finite, and negative for a filter that decays.
      residues: ``[channel, state]``.
      skip: factor ``[channel]`` of the unfiltered input.
      initial_state: s before the first sample, ``[batch, channel, state]``; zeros when absent.
      chunk_size: process so many samples at a time and recompute them in backward, so that peak memory no longer
        grows with the intermediates of the whole length.
      layout: ``"BHL"`` or ``"BLH"``.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      The filtered sequence in the dtype and layout of x; the recurrence runs in float32 (float64 for float64).

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
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


@of_any_length
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
    """Does modal_conv and also returns s after the last sample, ``[batch, channel, state]`` in float32 or float64.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    stream = _checks.channel_first(x, layout)
    batch, channels, length = stream.shape
    _checks.modes(log_poles, residues, x, channels)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.shaped("initial_state", initial_state, (batch, channels, log_poles.shape[1]), x)
    check_chunk(chunk_size, "samples")
    chosen, _ = dispatch.choose(describe(stream, log_poles, residues, skip=skip, initial_state=initial_state), backend)
    run = compute_in_torch if chosen is None else chosen.run
    if chunk_size is None or chunk_size >= length:
        y, state = run(stream, log_poles, residues, skip=skip, initial_state=initial_state)
        return _checks.as_layout(y, layout), state
    log_poles, residues, skip = wide_parameters(x, log_poles, residues, skip)
    state, pieces = initial_state, []
    for piece in stream.split(chunk_size, dim=-1):
        y, state = recomputed(run, piece, log_poles, residues, skip=skip, initial_state=state)
        pieces.append(y)
    assert state is not None
    return _checks.as_layout(torch.cat(pieces, dim=-1), layout), state


def describe(
    x: Tensor,
    log_poles: Tensor,
    residues: Tensor,
    *,
    skip: Tensor | None = None,
    initial_state: Tensor | None = None,
    chunk_size: int | None = None,
    layout: Layout = "BHL",
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    batch, channels, length = _checks.channel_first(x, layout).shape
    named = {"skip": skip, "initial_state": initial_state}
    return dispatch.Call(
        operator="modal_conv",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=batch,
        channels=channels,
        length=length,
        taps=log_poles.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        gradient=dispatch.gradient_wanted(x, log_poles, residues, skip, initial_state),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor, log_poles: Tensor, residues: Tensor, *, skip: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Computes the checked call in plain torch; returns y and the new state."""
    samples = lengthwise(x).to(_checks.accumulation_dtype(x))
    y, state = filter_modal(samples, log_poles, residues, initial_state)
    if skip is not None:
        y = y + skip.to(y.dtype)[:, None] * samples
    return y.to(x.dtype), state
