"""The definition of causal_conv, written from its equation. Slow; any dtype; differentiable."""

import torch
from torch import Tensor


def causal_conv_reference(x: Tensor, taps: Tensor, initial_state: Tensor | None = None) -> Tensor:
    """``y[b, c, t] = sum(taps[g(c), k] * x[b, c, t - k] for k in range(tap))`` with ``g(c) = c // (channel / group)``.

    Samples before the start are those of ``initial_state`` ``[batch, channel, tap - 1]`` (oldest first), else zeros.
    """
    batch, channels, length = x.shape
    rows = taps.repeat_interleave(channels // taps.shape[0], dim=0)
    past = taps.shape[1] - 1
    before = x.new_zeros(batch, channels, past) if initial_state is None else initial_state.to(x)
    stream = torch.cat([before, x], dim=-1)
    y = torch.zeros_like(x)
    for k in range(past + 1):
        y = y + rows[:, k, None] * stream[..., past - k : past - k + length]
    return y


def causal_conv_at(x: Tensor, taps: Tensor, samples: list[int]) -> Tensor:
    """The same sum without a history, at the named samples only, in float64: for filters of millions of taps.

    Returns ``[batch, channel, len(samples)]``.
    """
    rows = taps.repeat_interleave(x.shape[1] // taps.shape[0], dim=0)
    columns = []
    for t in samples:
        reach = min(t + 1, rows.shape[1])
        past = x[..., t + 1 - reach : t + 1].double().flip(-1)
        columns.append((rows[:, :reach].double() * past).sum(dim=-1))
    return torch.stack(columns, dim=-1)
