"""Merging of neighbouring points between the stages of a hierarchical network."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError
from subquad.modules.filters.positions import per_axis
from subquad.modules.parts.initialization import reset_truncated_normal
from subquad.modules.widths import require_grid


class PatchMerging(nn.Module):
    """Makes one point of each small patch: ``y[i] = weight @ norm(x[i * factor : (i + 1) * factor].flatten())``.

    Unlike ``Patchify`` it takes grids of any size: a last patch that the grid does not fill is filled with zeros.

    Args:
      in_channels: Channels of the fine grid.
      out_channels: Channels of the coarse grid.
      factor: Points of a patch along each axis, or along all.
      data_dim: Axes of space, 1 to 3.
      norm_cfg: Configuration of a norm over the points of a patch together, whose ``channels`` are filled in; None for
        none.

    Raises:
      ConfigurationError: A size is below 1, or there are more or fewer factors than axes.

    Source: Liu et al., Swin transformer: hierarchical vision transformer using shifted windows, 2021.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int | Sequence[int] = 2,
        data_dim: int = 1,
        norm_cfg: Config[nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise ConfigurationError(f"merging {in_channels} to {out_channels} channels; both must be 1 or more")
        self.channels = in_channels
        self.factor = per_axis("factor", factor, data_dim, least=1)
        width = in_channels * torch.Size(self.factor).numel()
        self.norm = nn.Identity() if norm_cfg is None else instantiate(norm_cfg, channels=width)
        self.linear = nn.Linear(width, out_channels, bias=False)
        self.to(device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the weight with deviation 0.02; the norm resets itself."""
        reset_truncated_normal(self.linear.weight, 0.02, generator)

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *coarse out"]:
        """Merges the points of a grid, channels last; ``ceil(size / factor)`` are left along each axis.

        Raises:
          InputMismatch: The input has another number of channels or axes.
        """
        require_grid("the input", x, self.channels, axes=len(self.factor))
        size = x.shape[1:-1]
        missing = [-n % f for n, f in zip(size, self.factor, strict=True)]
        if any(missing):
            x = nn.functional.pad(x, [0, 0, *(pad for m in reversed(missing) for pad in (0, m))])
        offsets = itertools.product(*(range(f) for f in self.factor))
        points = [
            x[(slice(None), *(slice(o, None, f) for o, f in zip(at, self.factor, strict=True)))] for at in offsets
        ]
        return self.linear(self.norm(torch.cat(points, dim=-1)))
