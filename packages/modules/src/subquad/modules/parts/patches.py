"""Patches of a grid as channels of a coarser one, and back."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.filters.positions import per_axis
from subquad.modules.parts.initialization import reset_constant, reset_uniform
from subquad.modules.widths import require_grid


class Patchify(nn.Module):
    """Maps each patch to one point: ``y[i] = weight @ x[i * patch : (i + 1) * patch].flatten() + bias``.

    A patch is flattened with its channels last.

    Args:
      in_channels: Channels of the fine grid.
      out_channels: Channels of the coarse grid.
      patch_size: Points of a patch along each axis, or along all.
      data_dim: Axes of space, 1 to 3.
      bias: Whether there is a term per channel.

    Raises:
      ConfigurationError: A size is below 1, or there are more or fewer sizes than axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: int | Sequence[int],
        data_dim: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = per_axis("patch_size", patch_size, data_dim, least=1)
        self.channels = in_channels
        volume = torch.Size(self.patch_size).numel()
        self.linear = _linear(in_channels * volume, out_channels, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the weight from ``U(-1/sqrt(in), 1/sqrt(in))``; the bias is zero."""
        reset_uniform(self.linear.weight, 1 / self.linear.in_features, generator)
        reset_constant(self.linear.bias, 0.0)

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *coarse out"]:
        """Makes one point of each patch.

        Raises:
          InputMismatch: The input has another number of channels or axes, or patches do not fill it.
        """
        require_grid("the input", x, self.channels, axes=len(self.patch_size))
        size = x.shape[1:-1]
        if any(n % p for n, p in zip(size, self.patch_size, strict=True)):
            raise InputMismatch(f"a grid of {tuple(size)} points does not divide into patches of {self.patch_size}")
        axes = [part for n, p in zip(size, self.patch_size, strict=True) for part in (n // p, p)]
        x = x.reshape(x.shape[0], *axes, x.shape[-1])
        rank = len(size)
        outer, inner = [1 + 2 * a for a in range(rank)], [2 + 2 * a for a in range(rank)]
        return self.linear(x.permute(0, *outer, *inner, 2 * rank + 1).flatten(rank + 1))


class Unpatchify(nn.Module):
    """Maps each point to a patch of a finer grid, the reverse of ``Patchify``.

    Args:
      in_channels: Channels of the coarse grid.
      out_channels: Channels of the fine grid.
      patch_size: Points of a patch along each axis, or along all.
      data_dim: Axes of space, 1 to 3.
      bias: Whether there is a term per channel and point of a patch.

    Raises:
      ConfigurationError: A size is below 1, or there are more or fewer sizes than axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: int | Sequence[int],
        data_dim: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = per_axis("patch_size", patch_size, data_dim, least=1)
        self.channels = in_channels
        volume = torch.Size(self.patch_size).numel()
        self.linear = _linear(in_channels, out_channels * volume, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the weight from ``U(-1/sqrt(in), 1/sqrt(in))``; the bias is zero."""
        reset_uniform(self.linear.weight, 1 / self.linear.in_features, generator)
        reset_constant(self.linear.bias, 0.0)

    def forward(self, x: Float[Tensor, "batch *coarse channel"]) -> Float[Tensor, "batch *space out"]:
        """Makes a patch of each point.

        Raises:
          InputMismatch: The input has another number of channels or axes.
        """
        rank = len(self.patch_size)
        require_grid("the input", x, self.channels, axes=rank)
        size = x.shape[1:-1]
        x = self.linear(x).unflatten(-1, (*self.patch_size, -1))
        pairs = [axis for a in range(rank) for axis in (1 + a, 1 + rank + a)]
        x = x.permute(0, *pairs, 2 * rank + 1)
        fine = [n * p for n, p in zip(size, self.patch_size, strict=True)]
        return x.reshape(x.shape[0], *fine, x.shape[-1])


def _linear(
    inputs: int, outputs: int, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Linear:
    if inputs < 1 or outputs < 1:
        raise ConfigurationError(f"a patch layer of {inputs} inputs and {outputs} outputs; both must be 1 or more")
    return nn.Linear(inputs, outputs, bias=bias, device=device, dtype=dtype)
