"""Conditioning of a filter network: scales and shifts of its layers, made from a vector per sample (FiLM)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.modules.errors import ConfigurationError
from subquad.modules.filters.full_precision_linear import FullPrecisionLinear
from subquad.modules.parts.initialization import reset_constant, reset_normal, reset_uniform
from subquad.modules.widths import require_grid, require_positive


class FilterFiLM(nn.Module):
    """Maps a condition to ``(scale, shift)`` of each layer: ``out_proj(gelu(in_proj(condition)))``.

    At its initial values every scale is 1 and every shift 0, or near that with ``init_deviation``, so that the filters
    are those without a condition.

    Args:
      condition_dim: Channels of the condition.
      hidden_dim: Channels of the layers it acts on.
      num_layers: Number of those layers.
      inner_dim: Channels in between.
      init_deviation: Deviation of the last layer's initial weights.

    Raises:
      ConfigurationError: A width or ``num_layers`` is below 1, or ``init_deviation`` below 0.
    """

    def __init__(
        self,
        condition_dim: int,
        hidden_dim: int,
        *,
        num_layers: int,
        inner_dim: int = 64,
        init_deviation: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(condition_dim=condition_dim, hidden_dim=hidden_dim, inner_dim=inner_dim)
        if num_layers < 1:
            raise ConfigurationError(f"num_layers is {num_layers}; FiLM needs at least one layer to act on")
        if init_deviation < 0:
            raise ConfigurationError(f"init_deviation is {init_deviation}; accepted are numbers >= 0")
        self.num_layers, self.hidden_dim, self.init_deviation = num_layers, hidden_dim, init_deviation
        self.in_proj = FullPrecisionLinear(condition_dim, inner_dim, bias=True, device=device, dtype=dtype)
        self.out_proj = FullPrecisionLinear(
            inner_dim, 2 * num_layers * hidden_dim, bias=True, device=device, dtype=dtype
        )
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the first layer from ``U(-1/sqrt(in), 1/sqrt(in))``; the second gives scale 1 and shift 0."""
        reset_uniform(self.in_proj.weight, 1 / self.in_proj.in_features, generator)
        reset_constant(self.in_proj.bias, 0.0)
        reset_normal(self.out_proj.weight, self.init_deviation, generator)
        reset_constant(self.out_proj.bias, 0.0)
        reset_constant(self.out_proj.bias.view(self.num_layers, 2, self.hidden_dim)[:, 0], 1.0)

    def forward(self, condition: Float[Tensor, "batch condition"]) -> Float[Tensor, "batch layer 2 hidden"]:
        """Returns the scale (index 0) and shift (index 1) of every layer for every sample.

        Raises:
          InputMismatch: The condition has another number of channels, or is no vector per sample.
        """
        require_grid("the condition", condition, self.in_proj.in_features, axes=0)
        inner = functional.gelu(self.in_proj(condition.to(self.in_proj.weight.dtype)))
        return self.out_proj(inner).unflatten(-1, (self.num_layers, 2, self.hidden_dim))

    def flop_count(self) -> int:
        """Counts both layers for one sample."""
        return 2 * (self.in_proj.weight.numel() + self.out_proj.weight.numel())
