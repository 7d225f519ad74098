"""The front half of both gated operators: the projection filter on 3 rows a channel, and the pre-gate."""

from torch import Tensor

from subquad.ops import _checks
from subquad.ops.causal_conv.causal_filter import filter_stream, next_history
from subquad.ops.errors import ShapeMismatch


def check_projection(z: Tensor, projection_taps: Tensor, before: Tensor | None) -> int:
    """Checks z ``[batch, 3 * channel, length]``, its filter and its history; returns the channel count."""
    rows = z.shape[1]
    if rows % 3:
        raise ShapeMismatch(f"z has {rows} channels; accepted: a multiple of 3 (row 3c is q, 3c + 1 is k, 3c + 2 is v)")
    _checks.taps("projection_taps", projection_taps, z, rows, "z")
    past = (z.shape[0], rows, projection_taps.shape[1] - 1)
    _checks.shaped("initial_state.projection", before, past, z, "z")
    return rows // 3


def project_and_gate(
    z: Tensor, projection_taps: Tensor, pregate: bool, before: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns q and the gated stream ``[batch, channel, length]``, still in their own dtype, and the history of z."""
    projected = filter_stream(z, projection_taps, before)
    q, k, v = projected.unflatten(1, (z.shape[1] // 3, 3)).unbind(2)
    return q, (k * v if pregate else v), next_history(z, projection_taps.shape[1] - 1, before)
