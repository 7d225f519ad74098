"""Projection FIR, pre-gate, mixer FIR, post-gate: the public functions."""

from typing import NamedTuple

from torch import Tensor

from subquad.ops import _checks
from subquad.ops.axes import History, Layout, PerChannel, Sequence, Taps
from subquad.ops.causal_conv.causal_conv import filter_stream
from subquad.ops.errors import ShapeMismatch


class GatedConvState(NamedTuple):
    """What a gated convolution must remember between two calls."""

    projection: Tensor  # the last inputs z, [batch, 3 * channel, projection tap - 1], oldest first
    mixer: Tensor  # the last gated samples, [batch, channel, mixer tap - 1], oldest first


def gated_conv(
    z: Sequence,
    projection_taps: Taps,
    mixer_taps: Taps,
    *,
    skip: PerChannel | None = None,
    pregate: bool = True,
    postgate: bool = True,
    initial_state: GatedConvState | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Sequence:
    """Projects, gates, convolves and gates again; see gated_conv_with_state."""
    y, _ = gated_conv_with_state(
        z,
        projection_taps,
        mixer_taps,
        skip=skip,
        pregate=pregate,
        postgate=postgate,
        initial_state=initial_state,
        layout=layout,
        backend=backend,
    )
    return y


def gated_conv_with_state(
    z: Sequence,
    projection_taps: Taps,
    mixer_taps: Taps,
    *,
    skip: PerChannel | None = None,
    pregate: bool = True,
    postgate: bool = True,
    initial_state: GatedConvState | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> tuple[Sequence, GatedConvState]:
    """Projects, gates, convolves and gates again.

    ``p = causal_conv(z, projection_taps)``; ``g[c] = p[3c + 1] * p[3c + 2]``; ``y[c] = p[3c] * (conv(g, mixer_taps)[c] + skip[c] * g[c])``
    """
    stream = _checks.channel_first(z, layout, "z")
    q, g, projection = project_and_gate(stream, projection_taps, pregate, initial_state and initial_state.projection)
    channels = g.shape[1]
    _checks.taps("mixer_taps", mixer_taps, z, channels, "the gated stream")
    _checks.shaped("skip", skip, (channels,), z, "z")
    past = (z.shape[0], channels, mixer_taps.shape[1] - 1)
    before = None if initial_state is None else initial_state.mixer
    _checks.shaped("initial_state.mixer", before, past, z, "z")
    mixed, mixer = filter_stream(g, mixer_taps, before)
    if skip is not None:
        mixed = mixed + skip.to(g.dtype)[:, None] * g
    y = q * mixed if postgate else mixed
    return _checks.as_layout(y.to(z.dtype), layout), GatedConvState(projection, mixer.to(z.dtype))


def project_and_gate(
    z: Tensor, projection_taps: Tensor, pregate: bool, before: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the projection filter over ``z`` ``[batch, 3 * channel, length]``; returns q, the gated stream and the new history."""
    rows = z.shape[1]
    if rows % 3:
        raise ShapeMismatch(f"z has {rows} channels; accepted: a multiple of 3 (row 3c is q, 3c + 1 is k, 3c + 2 is v)")
    _checks.taps("projection_taps", projection_taps, z, rows, "z")
    past = (z.shape[0], rows, projection_taps.shape[1] - 1)
    _checks.shaped("initial_state.projection", before, past, z, "z")
    projected, history = filter_stream(z, projection_taps, before)
    q, k, v = projected.unflatten(1, (rows // 3, 3)).unbind(2)
    return q, (k * v if pregate else v), history
