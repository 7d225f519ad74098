"""Fixed position embeddings over one, two or three axes, for grids of any size."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.parts.full_precision import full_precision_dtype
from subquad.modules.widths import require_floats


class SinusoidalEmbedding(nn.Module):
    """Adds sines and cosines: ``y[i, j] = x[i, j] + concatenate(wave(i), wave(j))``, an equal part for each axis.

    ``wave(i) = concatenate(sin(i * w), cos(i * w))`` with ``w[n] = base ** (-n / size)``, as many of each as fit.
    Has no parameters; positions are computed in float32 or wider.

    Args:
      channels: Size of the last axis; a multiple of ``2 * data_dim``.
      data_dim: Axes of space, 1 to 3.
      base: Ratio of the slowest period to the fastest; above 1.

    Raises:
      ConfigurationError: ``channels`` does not divide, or an argument is out of its range.

    Source: Vaswani et al., Attention is all you need, 2017.
    """

    def __init__(self, channels: int, *, data_dim: int = 1, base: float = 1e4) -> None:
        super().__init__()
        if data_dim not in (1, 2, 3) or channels < 1 or channels % (2 * data_dim) or base <= 1:
            raise ConfigurationError(
                f"channels is {channels}, data_dim {data_dim}, base {base}; accepted are 1 to 3 axes, multiples of "
                "2 * data_dim channels, bases above 1"
            )
        self.channels, self.data_dim, self.base = channels, data_dim, base

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *space channel"]:
        """Adds the embedding of every point.

        Raises:
          InputMismatch: The input has another number of axes.
        """
        require_floats("the input", x)
        size = x.shape[1:-1]
        if len(size) != self.data_dim:
            raise InputMismatch(f"the input has {len(size)} axes of space, the embedding {self.data_dim}")
        half, wide = self.channels // (2 * self.data_dim), full_precision_dtype(x.dtype)
        rates = self.base ** (-torch.arange(half, device=x.device, dtype=wide) / half)
        parts = []
        for axis, length in enumerate(size):
            angles = torch.arange(length, device=x.device, dtype=wide)[:, None] * rates
            shape = [1] * len(size) + [2 * half]
            shape[axis] = length
            parts.append(torch.cat([angles.sin(), angles.cos()], dim=-1).view(shape).expand(*size, -1))
        return x + torch.cat(parts, dim=-1).to(x.dtype)
