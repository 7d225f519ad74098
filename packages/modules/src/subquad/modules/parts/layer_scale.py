"""A learned factor per channel at the end of a residual branch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiplies channels: ``y = x * scale``.

    Args:
      channels: Size of the last axis.
      init: Initial value of every factor.

    Source: Touvron et al., Going deeper with image transformers, 2021.
    """

    def __init__(
        self,
        channels: int,
        *,
        init: float = 1e-4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), init, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        """Multiplies the last axis."""
        return x * self.scale
