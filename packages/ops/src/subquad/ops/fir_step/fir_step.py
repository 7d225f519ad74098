"""One decode step of a causal FIR filter: the public function."""

import torch
from torch import Tensor

from subquad.ops import _checks, dispatch
from subquad.ops._autocast import without_autocast
from subquad.ops.axes import Active, History, PerChannel, Position, Step, Taps

_FEW = 3  # earlier samples that are added one by one


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
    batch, channels = _checks.step(x)
    _checks.taps("taps", taps, x, channels)
    _checks.shaped("ring", ring, (batch, channels, taps.shape[1] - 1), x)
    _checks.shaped("bias", bias, (channels,), x)
    _checks.shaped("skip", skip, (channels,), x)
    _checks.row_values("position", position, batch, x, (torch.int64, torch.int32))
    _checks.row_values("active", active, batch, x, (torch.bool,))
    chosen, _ = dispatch.choose(describe(x, taps, ring, position, bias=bias, skip=skip, active=active), backend)
    run = compute_in_torch if chosen is None else chosen.run
    with torch.no_grad():
        return run(x, taps, ring, position, bias=bias, skip=skip, active=active)


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
    named = {"bias": bias, "skip": skip, "active": active}
    return dispatch.Call(
        operator="fir_step",
        dtype=x.dtype,
        device=x.device.type,
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
    wide = _checks.accumulation_dtype(x)
    filters, current = taps.to(wide), x.to(wide)
    first = _checks.expand_groups(filters[:, 0:1], x.shape[1])[:, 0]
    if x.shape[0] == 1 and x.device.type == "cpu" and taps.shape[1] > 1 and dispatch.runs_plainly(x):
        y = first * current + _one_row(x, filters, ring, int(position), active)
    else:
        y = first * current
        if taps.shape[1] > 1 and x.shape[0]:
            y = y + _all_rows(x, filters, ring, position, active)
    if skip is not None:
        y = y + skip.to(wide) * current
    if bias is not None:
        y = y + bias.to(wide)
    return y.to(x.dtype)


def _one_row(x: Tensor, filters: Tensor, ring: Tensor, position: int, active: Tensor | None) -> Tensor:
    """Filters the past of a single row, whose position the host may look at, group by group; stores the sample."""
    groups, past = filters.shape[0], filters.shape[1] - 1
    slot = position % past
    if past <= _FEW and groups == x.shape[1]:
        y = filters[:, 1] * ring[0, :, (position - 1) % past]
        for lag in range(2, past + 1):
            y.addcmul_(filters[:, lag], ring[0, :, (position - lag) % past].to(y.dtype))
        if active is None or bool(active):
            ring[0, :, slot] = x[0]
        return y[None]
    turned = torch.cat([filters[:, 1 : slot + 1].flip(1), filters[:, slot + 1 :].flip(1)], dim=1)
    held = ring[0].to(filters.dtype).reshape(groups, -1, past)
    y = torch.bmm(held, turned[:, :, None]) if held.shape[1] > 1 else (held[:, 0] * turned).sum(dim=1)
    if active is None or bool(active):
        ring[0, :, slot] = x[0]
    return y.view(1, -1)


def _all_rows(x: Tensor, filters: Tensor, ring: Tensor, position: Tensor, active: Tensor | None) -> Tensor:
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
