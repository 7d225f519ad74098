"""Stochastic depth: a residual branch is left out for some samples in training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.widths import require_floats


class DropPath(nn.Module):
    """Zeroes whole samples with a chance and divides the others by what is left: ``y = x * keep / (1 - rate)``.

    Args:
      rate: Chance that a sample is zeroed in training; 0 and more, below 1.

    Raises:
      ConfigurationError: ``rate`` is out of its range.

    Source: Huang et al., Deep networks with stochastic depth, 2016.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ConfigurationError(f"the drop-path rate is {rate}; accepted are 0 and more, below 1")
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Drops samples in training, and returns ``x`` otherwise.

        Raises:
          InputMismatch: ``x`` is no dense tensor of floating point numbers.
        """
        require_floats("x", x)
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)
