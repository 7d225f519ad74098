"""Global response normalisation: channels compete by their energy over the whole grid."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.parts.full_precision import full_precision_dtype
from subquad.modules.widths import require_grid, require_positive


class GlobalResponseNorm(nn.Module):
    """Computes ``y = x + scale * x * g / (mean(g) + eps) + shift`` with ``g[c] = norm(x[..., c])`` over space.

    Sees all positions at once. Statistics are float32 or wider; ``scale`` and ``shift`` start at zero.

    Args:
      channels: Size of the last axis.
      eps: Keeps the quotient finite; positive.

    Raises:
      ConfigurationError: ``channels`` is below 1.

    Source: Woo et al., ConvNeXt V2, 2023.
    """

    spans_positions = True

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels, self.eps = channels, eps
        self.scale = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))
        self.shift = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *space channel"]:
        """Normalises over all axes of space.

        Raises:
          InputMismatch: The input has another number of channels.
        """
        require_grid("the input", x, self.channels)
        wide = x.to(full_precision_dtype(x.dtype))
        energy = torch.linalg.vector_norm(wide, dim=tuple(range(1, x.dim() - 1)), keepdim=True)
        share = energy / (energy.mean(dim=-1, keepdim=True) + self.eps)
        return (wide + self.scale.to(wide.dtype) * wide * share + self.shift.to(wide.dtype)).to(x.dtype)
