"""The convolutional baseline: a UNet of ConvNeXt blocks over one, two or three axes."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config, LazyConfig
from subquad.modules.errors import InputMismatch
from subquad.modules.networks.block_stack import BlockStack
from subquad.modules.parts.layer_scale import LayerScale
from subquad.modules.parts.mlp import MLP
from subquad.modules.parts.patches import Patchify, Unpatchify
from subquad.modules.parts.short_convolution import ShortConvolution
from subquad.modules.widths import require_grid, require_positive

Boundary = Literal["zero", "circular"]


class ConvNeXtBlock(nn.Module):
    """Computes ``y = x + layer_scale(mlp(norm(depthwise_conv(x))))``.

    Args:
      channels: Channels in and out.
      data_dim: Axes of space, 1 to 3.
      filter_size: Taps along each axis.
      boundary: See ``ShortConvolution``.
      expansion: Inner channels of the MLP for each channel.
      layer_scale: Initial value of the factor per channel.

    Raises:
      ConfigurationError: A size is below 1, or the convolution refuses its arguments.

    Source: Liu et al., A ConvNet for the 2020s, 2022.
    """

    def __init__(
        self,
        channels: int,
        *,
        data_dim: int = 2,
        filter_size: int = 7,
        boundary: Boundary | Sequence[Boundary] = "zero",
        expansion: int = 4,
        layer_scale: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, expansion=expansion)
        self.channels = channels
        self.convolution = ShortConvolution(
            channels, filter_size=filter_size, data_dim=data_dim, boundary=boundary, bias=True
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels, expansion * channels, activation="gelu", bias=True)
        self.scale = LayerScale(channels, init=layer_scale)
        self.to(device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *space channel"]:
        """Transforms a grid, channels last.

        Raises:
          InputMismatch: The grid has another number of channels or axes.
        """
        return x + self.scale(self.mlp(self.norm(self.convolution(x))))


class UNetConvNeXt(nn.Module):
    """Maps a grid to a grid: stages that halve it, a neck, stages that double it and read what the first ones left.

    Stage ``s`` has ``init_features * 2 ** s`` channels. On the way up a stage sees its own grid and the one of the same
    size on the way down, concatenated.

    Args:
      in_channels: Channels of the input.
      out_channels: Channels of the output.
      data_dim: Axes of space, 1 to 3.
      stages: Times that the grid is halved; ``2 ** stages`` divides its size along each axis.
      blocks_per_stage: ConvNeXt blocks of each stage, on each way.
      neck_blocks: Blocks at the coarsest grid.
      init_features: Channels at the finest grid.
      filter_size: Taps of the depthwise convolutions along each axis.
      boundary: See ``ShortConvolution``.
      layer_scale: See ``ConvNeXtBlock``.
      gradient_checkpointing: See ``BlockStack``.

    Raises:
      ConfigurationError: A count is below 1.

    Source: Ronneberger et al., U-Net, 2015; Liu et al., A ConvNet for the 2020s, 2022; Ohana et al., The Well, 2024.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        data_dim: int = 2,
        stages: int = 4,
        blocks_per_stage: int = 1,
        neck_blocks: int = 1,
        init_features: int = 32,
        filter_size: int = 7,
        boundary: Boundary | Sequence[Boundary] = "zero",
        layer_scale: float = 1e-6,
        gradient_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(
            in_channels=in_channels, out_channels=out_channels, stages=stages, blocks_per_stage=blocks_per_stage,
            neck_blocks=neck_blocks, init_features=init_features,
        )  # fmt: skip
        self.factor, self.data_dim = 2**stages, data_dim
        widths = [init_features * 2**stage for stage in range(stages + 1)]
        self.in_proj = nn.Linear(in_channels, init_features)
        self.out_proj = nn.Linear(init_features, out_channels)

        def blocks(channels: int, count: int) -> BlockStack:
            cfg: Config[nn.Module] = LazyConfig(ConvNeXtBlock)(
                channels=channels, data_dim=data_dim, filter_size=filter_size, boundary=boundary,
                layer_scale=layer_scale,
            )  # fmt: skip
            return BlockStack([cfg] * count, gradient_checkpointing=gradient_checkpointing)

        pairs = list(itertools.pairwise(widths))
        self.down_blocks = nn.ModuleList(blocks(fine, blocks_per_stage) for fine, _ in pairs)
        self.down_norms = nn.ModuleList(nn.LayerNorm(fine, eps=1e-6) for fine, _ in pairs)
        self.down = nn.ModuleList(Patchify(fine, coarse, patch_size=2, data_dim=data_dim) for fine, coarse in pairs)
        self.neck = blocks(widths[-1], neck_blocks)
        self.up_norms = nn.ModuleList(nn.LayerNorm(coarse, eps=1e-6) for _, coarse in pairs)
        self.up = nn.ModuleList(Unpatchify(coarse, fine, patch_size=2, data_dim=data_dim) for fine, coarse in pairs)
        self.merge = nn.ModuleList(nn.Linear(2 * fine, fine) for fine, _ in pairs)
        self.up_blocks = nn.ModuleList(blocks(fine, blocks_per_stage) for fine, _ in pairs)
        self.to(device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *space out"]:
        """Maps a grid, channels last.

        Raises:
          InputMismatch: The input has another number of channels or axes, or cannot be halved as often as there are
            stages.
        """
        require_grid("the input", x, self.in_proj.in_features, axes=self.data_dim)
        if any(size % self.factor for size in x.shape[1:-1]):
            raise InputMismatch(
                f"a grid of {tuple(x.shape[1:-1])} points; each axis must be a multiple of {self.factor}"
            )
        x, left = self.in_proj(x), []
        for blocks, norm, down in zip(self.down_blocks, self.down_norms, self.down, strict=True):
            left.append(blocks(x))
            x = down(norm(left[-1]))
        x = self.neck(x)
        stages = zip(self.up_norms, self.up, self.merge, self.up_blocks, left, strict=True)
        for norm, up, merge, blocks, same_size in reversed(list(stages)):
            x = blocks(merge(torch.cat([up(norm(x)), same_size], dim=-1)))
        return self.out_proj(x)
