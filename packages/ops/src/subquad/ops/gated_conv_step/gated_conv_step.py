"""One decode step of a gated convolution, and of the projection in front of it: the public function."""

from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._rows_on_host import host_reads_freely
from subquad.ops.axes import (
    Active,
    History,
    PerChannel,
    Position,
    ProjectedStep,
    ProjectionRing,
    ProjectionTaps,
    Step,
    Taps,
)
from subquad.ops.fir_step.filter_of_rows import FilterOfRows
from subquad.ops.fir_step.fir_step import compute_in_torch as fir_step_in_torch
from subquad.ops.gated_conv_step.step_projection import (
    StepProjection,
    check_streams,
    describe_step,
    gated_rows,
    streams_in_torch,
)


def gated_conv_step(
    x: ProjectedStep,
    projection_taps: ProjectionTaps,
    mixer_taps: Taps,
    projection_ring: ProjectionRing,
    mixer_ring: History,
    position: Position,
    *,
    projection: StepProjection | None = None,
    skip: PerChannel | None = None,
    active: Active | None = None,
    upcoming: Tensor | None = None,
    backend: str = "auto",
) -> Step:
    """Takes one token of each row through projection, projection filter, gate, mixer filter and gate.

    ``p = fir_step(z, projection_taps)``; ``g[c] = p[3c + 1] * p[3c + 2]``;
    ``y[c] = p[3c] * (fir_step(g, mixer_taps)[c] + skip[c] * g[c])`` with ``z = projection(x)``

    Args:
      x: ``[batch, 3 * channel]``, the projected rows; with ``projection``, the vectors ``[batch, input]`` before it.
      projection_taps: ``[3 * channel, tap]``; tap 0 multiplies the current sample.
      mixer_taps: ``[group, tap]``, channel c takes row ``c // (channels / group)``.
      projection_ring: ``[batch, 3 * channel, tap - 1]``, changed in place; see fir_step.
      mixer_ring: ``[batch, channel, tap - 1]``, changed in place.
      position: ``[batch]`` integers, the tokens that each row has already seen; not changed.
      projection: makes the rows from x.
      skip: factor ``[channel]`` of the gated sample, added before the last gate.
      active: ``[batch]``; the rings of a row that is False keep their values, and its output means nothing.
      upcoming: weights that the next operator will read; a GPU brings the first megabytes of them to its cache while
        it has time. Changes no result.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, channel]`` in the dtype of x. Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check(
        x,
        projection_taps,
        mixer_taps,
        projection_ring,
        mixer_ring,
        position,
        projection=projection,
        skip=skip,
        active=active,
    )
    call = describe(
        x,
        projection_taps,
        mixer_taps,
        projection_ring,
        mixer_ring,
        position,
        projection=projection,
        skip=skip,
        active=active,
    )
    chosen, _ = dispatch.choose(call, backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(
            x,
            projection_taps,
            mixer_taps,
            projection_ring,
            mixer_ring,
            position,
            projection=projection,
            skip=skip,
            active=active,
            upcoming=upcoming,
        )


def check(
    x: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    projection_ring: Tensor,
    mixer_ring: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None = None,
    skip: Tensor | None = None,
    active: Tensor | None = None,
    upcoming: Tensor | None = None,
) -> None:
    """Raises unless the arguments of a call fit each other."""
    channels = check_streams(x, projection_taps, projection_ring, position, projection, active)
    _checks.taps("mixer_taps", mixer_taps, x, channels, "the gated stream")
    _checks.kept("mixer_ring", mixer_ring, (x.shape[0], channels, mixer_taps.shape[1] - 1), x)
    _checks.shaped("skip", skip, (channels,), x)


def describe(
    x: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    projection_ring: Tensor,
    mixer_ring: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None = None,
    skip: Tensor | None = None,
    active: Tensor | None = None,
    upcoming: Tensor | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    named = {"projection": projection, "skip": skip, "active": active}
    usual = projection_ring.dtype == mixer_ring.dtype == x.dtype
    return describe_step("gated_conv_step", x, projection_taps, mixer_taps.shape[1], named, usual=usual)


@without_autocast
def compute_in_torch(
    x: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    projection_ring: Tensor,
    mixer_ring: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None,
    skip: Tensor | None,
    active: Tensor | None,
    upcoming: Tensor | None = None,
) -> Tensor:
    """Computes the checked call in plain torch; changes the rings in place and returns y."""
    run = prepare_in_torch(
        x,
        projection_taps,
        mixer_taps,
        projection_ring,
        mixer_ring,
        position,
        projection=projection,
        skip=skip,
        active=active,
    )
    return run(x)


def prepare_in_torch(
    x: Tensor,
    projection_taps: Tensor,
    mixer_taps: Tensor,
    projection_ring: Tensor,
    mixer_ring: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None,
    skip: Tensor | None,
    active: Tensor | None,
    upcoming: Tensor | None = None,
) -> Callable[[Tensor], Tensor]:
    """Returns the checked call as a function of x."""
    if not host_reads_freely(x):

        def on_all_rows(x: Tensor) -> Tensor:
            q, k, v = streams_in_torch(
                x, projection_taps, projection_ring, position, projection=projection, active=active
            )
            return q * fir_step_in_torch(k * v, mixer_taps, mixer_ring, position, bias=None, skip=skip, active=active)

        return on_all_rows

    wide = _checks.accumulation_dtype(x)
    return gated_rows(
        x,
        FilterOfRows(projection_taps, projection_ring, bias=None, skip=None, dtype=wide),
        FilterOfRows(mixer_taps, mixer_ring, bias=None, skip=skip, dtype=wide),
        position,
        projection=projection,
        active=active,
    )
