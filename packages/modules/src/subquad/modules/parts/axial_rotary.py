"""Rotary position embedding over one, two or three axes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.parts.rotary import RotaryEmbedding
from subquad.modules.widths import require_floats, require_positions


class AxialRotaryEmbedding(nn.Module):
    """Gives each axis of space an equal part of a head and rotates that part by the position along the axis.

    Products of a rotated query and key depend on the distance along each axis alone; any size of grid is accepted.

    Args:
      head_size: Channels per head; a multiple of ``2 * data_dim``.
      data_dim: Axes of space, 1 to 3.
      base: See ``RotaryEmbedding``.

    Raises:
      ConfigurationError: ``head_size`` does not divide into pairs for every axis.
    """

    def __init__(
        self,
        head_size: int,
        *,
        data_dim: int = 1,
        base: float = 1e4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if data_dim not in (1, 2, 3) or head_size < 2 or head_size % (2 * data_dim):
            raise ConfigurationError(
                f"head_size {head_size} does not divide into pairs for {data_dim} axes; accepted are multiples of "
                f"{2 * data_dim} and 1 to 3 axes"
            )
        self.data_dim = data_dim
        self.rotary = RotaryEmbedding(head_size // data_dim, base=base, device=device, dtype=dtype)

    def forward(
        self, x: Float[Tensor, "batch length head size"], positions: Int[Tensor, "rows length axis"]
    ) -> Float[Tensor, "batch length head size"]:
        """Rotates heads to the given positions; ``rows`` is the batch, or 1 for the same in every sample.

        Raises:
          InputMismatch: ``x`` is no dense tensor of floats, or ``positions`` no integers ``[rows, length, axis]``.
        """
        require_floats("x", x)
        require_positions(positions, self.data_dim)
        parts = [self.rotary(part, positions[:, :, axis]) for axis, part in enumerate(x.chunk(self.data_dim, dim=-1))]
        return torch.cat(parts, dim=-1)


def grid_positions(size: Sequence[int], device: torch.device | str | None) -> Int[Tensor, "length axis"]:
    """Returns the positions of all points of a grid, in the order in which the grid is flattened."""
    axes = [torch.arange(count, device=device) for count in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
