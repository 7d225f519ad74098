"""The definition of modal_conv, written from its recurrence. Slow; any dtype; differentiable."""

import torch
from torch import Tensor


def modal_filter_reference(log_poles: Tensor, residues: Tensor, length: int) -> Tensor:
    """``h[c, t] = sum(residues[c, s] * exp(log_poles[c, s] * t) for s in range(state))``."""
    t = torch.arange(length, device=log_poles.device, dtype=log_poles.dtype)
    return (residues[..., None] * torch.exp(log_poles[..., None] * t)).sum(dim=1)


def modal_conv_reference(
    x: Tensor, log_poles: Tensor, residues: Tensor, skip: Tensor | None = None, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``s[t] = exp(log_poles) * s[t - 1] + x[t]``; ``y[t] = sum(residues * s[t]) + skip * x[t]``; also the last s."""
    batch, channels, length = x.shape
    state = x.new_zeros(batch, channels, log_poles.shape[1]) if initial_state is None else initial_state.to(x)
    poles = torch.exp(log_poles)
    columns = []
    for t in range(length):
        state = poles * state + x[..., t, None]
        columns.append((residues * state).sum(dim=-1))
    y = torch.stack(columns, dim=-1) if columns else torch.zeros_like(x)
    return (y if skip is None else y + skip[:, None] * x), state
