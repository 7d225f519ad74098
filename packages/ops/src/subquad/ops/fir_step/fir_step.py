"""One decode step of a causal FIR filter: the public function."""

import torch

from subquad.ops import _checks
from subquad.ops.axes import Active, History, PerChannel, Position, Step, Taps


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

    ``y[b, c] = sum(taps[g(c), k] * x_at(position[b] - k) for k in range(tap)) + skip[c] * x[b, c] + bias[c]``
    """
    batch, channels = x.shape
    _checks.taps("taps", taps, x, channels)
    past = taps.shape[1] - 1
    _checks.shaped("ring", ring, (batch, channels, past), x)
    _checks.shaped("bias", bias, (channels,), x)
    _checks.shaped("skip", skip, (channels,), x)
    wide = _checks.accumulation_dtype(x)
    rows = _checks.expand_groups(taps.to(wide), channels)
    current = x.to(wide)
    y = rows[:, 0] * current
    if past:
        slots = torch.arange(past, device=x.device)
        lags = torch.remainder(position[:, None] - slots - 1, past) + 1
        weights = rows.t()[lags]  # [batch, past, channel]
        y = y + torch.einsum("bkc,bck->bc", weights, ring.to(wide))
        slot = torch.remainder(position, past)[:, None, None].expand(batch, channels, 1)
        sample = x.to(ring.dtype)[..., None]
        if active is not None:
            sample = torch.where(active[:, None, None], sample, ring.gather(-1, slot))
        ring.scatter_(-1, slot, sample)
    if skip is not None:
        y = y + skip.to(wide) * current
    if bias is not None:
        y = y + bias.to(wide)
    return y.to(x.dtype)
