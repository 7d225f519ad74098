"""Projection FIR, pre-gate, modal filter, post-gate: the public functions."""

from typing import NamedTuple

from torch import Tensor

from subquad.ops import _checks
from subquad.ops.axes import Layout, Modes, PerChannel, Sequence, Taps
from subquad.ops.gated_conv.gated_conv import project_and_gate
from subquad.ops.modal_conv import modal_conv_with_state


class GatedModalState(NamedTuple):
    """What a gated modal convolution must remember between two calls."""

    projection: Tensor  # the last inputs z, [batch, 3 * channel, projection tap - 1], oldest first
    modal: Tensor  # the modal state, [batch, channel, state], float32 (float64 for float64 input)


def gated_modal_conv(
    z: Sequence,
    projection_taps: Taps,
    log_poles: Modes,
    residues: Modes,
    *,
    skip: PerChannel | None = None,
    pregate: bool = True,
    postgate: bool = True,
    initial_state: GatedModalState | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> Sequence:
    """Projects, gates, filters with a sum of exponentials and gates again; see gated_modal_conv_with_state."""
    y, _ = gated_modal_conv_with_state(
        z,
        projection_taps,
        log_poles,
        residues,
        skip=skip,
        pregate=pregate,
        postgate=postgate,
        initial_state=initial_state,
        layout=layout,
        backend=backend,
    )
    return y


def gated_modal_conv_with_state(
    z: Sequence,
    projection_taps: Taps,
    log_poles: Modes,
    residues: Modes,
    *,
    skip: PerChannel | None = None,
    pregate: bool = True,
    postgate: bool = True,
    initial_state: GatedModalState | None = None,
    layout: Layout = "BHL",
    backend: str = "auto",
) -> tuple[Sequence, GatedModalState]:
    """Projects, gates, filters with a sum of exponentials and gates again.

    ``p = causal_conv(z, projection_taps)``; ``g[c] = p[3c + 1] * p[3c + 2]``; ``y[c] = p[3c] * modal_conv(g, …)[c]``
    """
    stream = _checks.channel_first(z, layout, "z")
    q, g, projection = project_and_gate(stream, projection_taps, pregate, initial_state and initial_state.projection)
    before = None if initial_state is None else initial_state.modal
    mixed, modal = modal_conv_with_state(g, log_poles, residues, skip=skip, initial_state=before, backend=backend)
    y = q * mixed if postgate else mixed
    return _checks.as_layout(y.to(z.dtype), layout), GatedModalState(projection, modal)
