"""The definition of selective_scan, written from its recurrence. Slow; any dtype; differentiable."""

import torch
from torch import Tensor


def selective_scan_reference(
    x: Tensor,
    step_size: Tensor,
    decay: Tensor,
    input_weights: Tensor,
    output_weights: Tensor,
    skip: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``s[t] = exp(step_size[t] * decay) * s[t - 1] + step_size[t] * input_weights[t] * x[t]``;

    ``y[t] = output_weights[t] . s[t]``. Returns y and the last s."""
    batch, channels, length = x.shape
    repeat = channels // input_weights.shape[1]
    into = input_weights.repeat_interleave(repeat, dim=1)
    out = output_weights.repeat_interleave(repeat, dim=1)
    state = x.new_zeros(batch, channels, decay.shape[1]) if initial_state is None else initial_state
    columns = []
    for t in range(length):
        delta = step_size[..., t, None]
        state = torch.exp(delta * decay) * state + delta * into[..., t] * x[..., t, None]
        columns.append((out[..., t] * state).sum(dim=-1))
    y = torch.stack(columns, dim=-1)
    return y if skip is None else y + skip[:, None] * x, state
