"""The linear layer that makes the three rows of each channel of a gated step."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._rows_on_host import RowStep, each_row, in_type_of_sums
from subquad.ops.errors import ShapeMismatch
from subquad.ops.fir_step.fir_step import compute_in_torch as fir_step_in_torch
from subquad.ops.linear_step.linear_step import OTHER_DTYPE, check_product
from subquad.ops.linear_step.linear_step import compute_in_torch as linear_step_in_torch
from subquad.ops.linear_step.linear_step import prepare_in_torch as prepare_linear_step
from subquad.ops.linear_step.rounded_weight import RoundedWeight, matrix_of
from subquad.ops.linear_step.step_norm import StepNorm


class StepProjection(NamedTuple):
    """``z = weight @ norm(x)``, row ``3 * c + p`` stream p of channel c."""

    weight: Tensor | RoundedWeight  # [3 * channel, input]
    norm: StepNorm | None = None


def check_streams(
    x: Tensor,
    projection_taps: Tensor,
    projection_ring: Tensor,
    position: Tensor,
    projection: StepProjection | None,
    active: Tensor | None,
) -> int:
    """Checks what both gated steps have in common and returns the number of channels."""
    batch, rows = _checks.step(x)
    if projection is not None:
        rows = check_product(x, projection.weight, projection.norm, "projection.weight")
    if rows % 3 or not rows:
        raise ShapeMismatch(f"there are {rows} projected rows; a gated step has three for every channel")
    _checks.taps("projection_taps", projection_taps, x, rows)
    if projection_taps.shape[0] != rows:
        raise ShapeMismatch(f"projection_taps has {projection_taps.shape[0]} rows; {rows} projected rows need as many")
    _checks.kept("projection_ring", projection_ring, (batch, rows, projection_taps.shape[1] - 1), x)
    _checks.row_values("position", position, batch, x, (torch.int64, torch.int32), optional=False)
    _checks.row_values("active", active, batch, x, (torch.bool,))
    return rows // 3


def describe_step(
    operator: str,
    x: Tensor,
    projection_taps: Tensor,
    width: int,
    named: dict[str, object | None],
    *,
    usual: bool,
) -> dispatch.Call:
    """Describes a gated step to the dispatcher; ``usual``: rings and states have the dtypes that they should."""
    projection = named["projection"]
    named = {**named, OTHER_DTYPE: None if usual else x}
    if isinstance(projection, StepProjection) and isinstance(projection.weight, RoundedWeight):
        named = {**named, "rounded weight": projection.weight}
    return dispatch.Call(
        operator=operator,
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=x.shape[0],
        channels=projection_taps.shape[0] // 3,
        length=1,
        taps=width,
        projection_taps=projection_taps.shape[1],
        inputs=x.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        capturing=dispatch.capturing(x),
    )


def streams_in_torch(
    x: Tensor,
    projection_taps: Tensor,
    projection_ring: Tensor,
    position: Tensor,
    *,
    projection: StepProjection | None,
    active: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns q, k and v of one token a row, ``[batch, channel]`` each, in plain torch."""
    if projection is not None:
        x = linear_step_in_torch(x, projection.weight, norm=projection.norm, bias=None, residual=None)
    z = fir_step_in_torch(x, projection_taps, projection_ring, position, bias=None, skip=None, active=active)
    q, k, v = z.unflatten(1, (-1, 3)).unbind(2)
    return q, k, v


def gated_rows(
    x: Tensor,
    short: RowStep,
    mixer: RowStep,
    position: Tensor,
    *,
    projection: StepProjection | None,
    active: Tensor | None,
) -> Callable[[Tensor], Tensor]:
    """Returns a gated step on the host as a function of x: the projection for all rows, what is behind it by rows."""

    def gated(z: Tensor, row: int, seen: int) -> Tensor:
        q, k, v = short(z, row, seen).view(-1, 3).unbind(1)
        return mixer(k * v, row, seen).mul_(q)

    rows = x.shape[1] if projection is None else matrix_of(projection.weight).shape[0]
    by_rows = in_type_of_sums(each_row(gated, position, active, (rows // 3,)), x)
    if projection is None:
        return by_rows
    project = prepare_linear_step(x, projection.weight, norm=projection.norm, bias=None, residual=None)
    return lambda x: by_rows(project(x))
