"""Learned position embeddings over one, two or three axes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.filters.positions import per_axis
from subquad.modules.parts.initialization import reset_normal
from subquad.modules.widths import require_grid


class PositionEmbedding(nn.Module):
    """Adds learned vectors: ``y[i, j] = x[i, j] + concatenate(table_0[i], table_1[j])``, one table an axis.

    Args:
      channels: Size of the last axis; each axis of space has an equal part.
      max_size: Greatest number of positions, per axis or for all.
      data_dim: Axes of space, 1 to 3; divides ``channels``.

    Raises:
      ConfigurationError: ``data_dim`` does not divide ``channels``, or ``max_size`` does not fit.
    """

    def __init__(
        self,
        channels: int,
        *,
        max_size: int | Sequence[int],
        data_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.max_size = per_axis("max_size", max_size, data_dim, least=1)
        if channels < 1 or channels % data_dim:
            raise ConfigurationError(f"{channels} channels cannot be shared by {data_dim} axes; they must divide")
        self.channels = channels
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(size, channels // data_dim, device=device, dtype=dtype)) for size in self.max_size
        )
        exempt = frozenset(str(axis) for axis in range(data_dim))
        self.tables.no_weight_decay = exempt  # pyright: ignore[reportArgumentType]
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the tables with deviation 0.02."""
        for table in self.tables:
            reset_normal(table, 0.02, generator)

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *space channel"]:
        """Adds the embeddings of the first positions along each axis.

        Raises:
          InputMismatch: The input has another number of channels or axes, or more positions than a table.
        """
        require_grid("the input", x, self.channels)
        size = x.shape[1:-1]
        if len(size) != len(self.max_size) or any(n > m for n, m in zip(size, self.max_size, strict=False)):
            raise InputMismatch(f"a grid of {tuple(size)} points; there are embeddings for up to {self.max_size}")
        parts = []
        for axis, table in enumerate(self.tables):
            shape = [1] * len(size) + [table.shape[1]]
            shape[axis] = size[axis]
            parts.append(table[: size[axis]].view(shape).expand(*size, -1))
        return x + torch.cat(parts, dim=-1)
