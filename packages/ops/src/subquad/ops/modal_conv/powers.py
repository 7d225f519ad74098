"""Powers of the poles, computed in float64 from the log poles so that a long filter does not drift."""

import torch
from torch import Tensor


def pole_powers(log_poles: Tensor, count: int, step: int = 1) -> Tensor:
    """Returns ``exp(log_poles * e)`` ``[channel, state, count]`` for ``e = 0, step, 2 * step, …`` in float64."""
    exponents = torch.arange(count, device=log_poles.device, dtype=torch.float64) * step
    return torch.exp(log_poles.double()[..., None] * exponents)
