"""One decode step of a causal FIR filter: the public function."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops._rows_on_host import each_row, host_filters_rows, in_type_of_sums
from subquad.ops.axes import Active, History, PerChannel, Position, Step, Taps
from subquad.ops.fir_step.filter_of_rows import FilterOfRows
from subquad.ops.linear_step.linear_step import OTHER_DTYPE


def fir_step(
    x: Step,
    taps: Taps,
    ring: History,
    position: Position,
    *,
    bias: PerChannel | None = None,
    skip: PerChannel | None = None,
    active: Active | None = None,
    backend: str = "auto",
) -> Step:
    """Filters one sample of each row and stores it in the ring, in place.

    ``y[b, c] = sum(taps[g(c), k] * stream[b, c, position[b] - k] for k in range(tap)) + skip[c] * x[b, c] + bias[c]``

    Args:
      x: one sample of each stream, ``[batch, channel]``.
      taps: ``[group, tap]``, tap 0 multiplies the current sample; channel c takes row ``c // (channels / group)``.
      ring: ``[batch, channel, tap - 1]``, changed in place: the sample of absolute time t lies in slot
        ``t % (tap - 1)``; zeros before the first sample (see ring_from_history).
      position: ``[batch]`` integers, the tokens that each row has already seen; not changed.
      bias: added to every sample of a channel.
      skip: factor ``[channel]`` of the unfiltered input.
      active: ``[batch]``; the ring of a row that is False keeps its values, and its output means nothing.
      backend: ``"auto"`` or a name that ``subquad doctor`` lists.

    Returns:
      ``[batch, channel]`` in the dtype of x, summed in float32 (float64 for float64). Not differentiable.

    Raises:
      ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentOutOfRange: an argument disagrees with x; names both.
      BackendUnavailable: the named backend cannot take this call; says why.
    """
    check(x, taps, ring, position, bias=bias, skip=skip, active=active)
    chosen, _ = dispatch.choose(describe(x, taps, ring, position, bias=bias, skip=skip, active=active), backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(x, taps, ring, position, bias=bias, skip=skip, active=active)


def check(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    active: Tensor | None = None,
) -> None:
    """Raises unless the arguments of a call fit each other."""
    batch, channels = _checks.step(x)
    _checks.taps("taps", taps, x, channels)
    _checks.kept("ring", ring, (batch, channels, taps.shape[1] - 1), x)
    _checks.shaped("bias", bias, (channels,), x)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.row_values("position", position, batch, x, (torch.int64, torch.int32), optional=False)
    _checks.row_values("active", active, batch, x, (torch.bool,))


def describe(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    active: Tensor | None = None,
) -> dispatch.Call:
    """Describes a call to the dispatcher."""
    other = ring if ring.dtype != x.dtype else None
    named = {"bias": bias, "skip": skip, "active": active, OTHER_DTYPE: other}
    return dispatch.Call(
        operator="fir_step",
        dtype=x.dtype,
        device=x.device.type,
        index=x.get_device(),
        batch=x.shape[0],
        channels=x.shape[1],
        length=1,
        taps=taps.shape[1],
        options=frozenset(name for name, value in named.items() if value is not None),
        capturing=dispatch.capturing(x),
    )


@without_autocast
def compute_in_torch(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    """Computes the checked call in plain torch; changes the state in place and returns y."""
    return prepare_in_torch(x, taps, ring, position, bias=bias, skip=skip, active=active)(x)


def prepare_in_torch(
    x: Tensor,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    *,
    bias: Tensor | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Callable[[Tensor], Tensor]:
    """Returns the checked call as a function of x."""
    if host_filters_rows(x, taps.shape[1], taps, ring, bias, skip):
        rows = FilterOfRows(taps, ring, bias=bias, skip=skip, dtype=_checks.accumulation_dtype(x))
        return in_type_of_sums(each_row(rows, position, active, (x.shape[1],)), x)
    return partial(_on_all_rows, taps=taps, ring=ring, position=position, bias=bias, skip=skip, active=active)


def _on_all_rows(
    x: Tensor,
    *,
    taps: Tensor,
    ring: Tensor,
    position: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    active: Tensor | None,
) -> Tensor:
    wide = _checks.accumulation_dtype(x)
    filters, current = taps.to(wide), x.to(wide)
    y = _checks.expand_groups(filters[:, 0:1], x.shape[1])[:, 0] * current
    if taps.shape[1] > 1 and x.shape[0]:
        y = y + _past_of_all_rows(x, filters, ring, position, active)
    if skip is not None:
        y = y + skip.to(wide) * current
    if bias is not None:
        y = y + bias.to(wide)
    return y.to(x.dtype)


def _past_of_all_rows(x: Tensor, filters: Tensor, ring: Tensor, position: Tensor, active: Tensor | None) -> Tensor:
    """Filters the past of every row without looking at a position; stores the samples."""
    batch, channels = x.shape
    past = filters.shape[1] - 1
    lags = torch.remainder(position[:, None] - torch.arange(1, past + 1, device=x.device), past) + 1
    weights = _checks.expand_groups(filters, channels).t()[lags]  # [batch, slot, channel]
    y = (weights.transpose(1, 2) * ring.to(filters.dtype)).sum(dim=-1)
    slot = torch.remainder(position, past).long()[:, None, None].expand(batch, channels, 1)
    sample = x.to(ring.dtype)[..., None]
    if active is not None:
        sample = torch.where(active[:, None, None], sample, ring.gather(-1, slot))
    ring.scatter_(-1, slot, sample)
    return y
