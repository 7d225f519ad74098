"""A learned factor per channel at the end of a residual branch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.widths import require_channels, require_positive


class LayerScale(nn.Module):
    """Multiplies channels: ``y = x * scale``.

    Args:
      channels: Size of the last axis.
      init: Initial value of every factor.

    Raises:
      ConfigurationError: ``channels`` is below 1.

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
        require_positive(channels=channels)
        self.channels = channels
        self.scale = nn.Parameter(torch.full((channels,), init, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        """Multiplies the last axis.

        Raises:
          InputMismatch: The last axis has another width.
        """
        require_channels("the input", x, self.channels)
        return x * self.scale
