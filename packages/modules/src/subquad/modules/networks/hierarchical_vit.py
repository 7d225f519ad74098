"""A pyramid of stages with patch merging between them, whose layers take any mixer by patterns of letters."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError
from subquad.modules.networks.block_stack import BlockStack
from subquad.modules.networks.vit5 import drop_path_rates, pattern_blocks
from subquad.modules.parts.initialization import reset_constant, reset_truncated_normal
from subquad.modules.parts.patch_merging import PatchMerging
from subquad.modules.parts.patches import Patchify
from subquad.modules.widths import require_positive


class HierarchicalViT(nn.Module):
    """Classifies by a pyramid: ``logits = head(mean(norm(stage_n(... merge(stage_0(patchify(x)))))))``.

    Every stage works on a grid, so that mixers are those over ``data_dim`` axes; grids may have any size that patches
    fill.

    Args:
      in_channels: Channels of the input.
      num_classes: Number of logits.
      widths: Channels of each stage, filled in for its mixers, norms and MLPs.
      patterns: One letter a layer, one string a stage.
      mixer_cfg: Configuration of the mixer that each letter stands for; each layer has weights of its own.
      norm_cfg: Configuration of a norm with an argument ``channels``.
      mlp_cfg: Configuration of a module with an argument ``channels`` that keeps the shape; None for blocks without.
      patch_size: Points of a patch along each axis, or along all.
      data_dim: Axes of space, 1 to 3.
      layer_scale: See ``ResidualBlock``.
      drop_path: Chance of the last layer that a branch is left out in training; it grows linearly from 0.
      gradient_checkpointing: See ``BlockStack``.

    Raises:
      ConfigurationError: A width is below 1, widths and patterns are none or not as many, or a letter has no mixer.

    Source: Liu et al., Swin transformer: hierarchical vision transformer using shifted windows, 2021.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        widths: Sequence[int],
        patterns: Sequence[str],
        mixer_cfg: Mapping[str, Config[nn.Module]],
        norm_cfg: Config[nn.Module],
        mlp_cfg: Config[nn.Module] | None,
        patch_size: int | Sequence[int] = 4,
        data_dim: int = 2,
        layer_scale: float | None = 1e-4,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(
            in_channels=in_channels, num_classes=num_classes, **{f"widths[{i}]": n for i, n in enumerate(widths)}
        )
        if not widths or len(widths) != len(patterns):
            raise ConfigurationError(f"{len(widths)} widths and {len(patterns)} patterns; there is one a stage of each")
        self.patchify = Patchify(in_channels, widths[0], patch_size=patch_size, data_dim=data_dim)
        rates = iter(drop_path_rates(drop_path, sum(map(len, patterns))))
        self.stages = nn.ModuleList(
            BlockStack(
                pattern_blocks(
                    pattern, mixer_cfg, norm_cfg, mlp_cfg, hidden_dim=width, layer_scale=layer_scale,
                    drop_path_rates=[next(rates) for _ in pattern],
                ),
                gradient_checkpointing=gradient_checkpointing,
            )
            for pattern, width in zip(patterns, widths, strict=True)
        )  # fmt: skip
        self.mergings = nn.ModuleList(
            PatchMerging(fine, coarse, data_dim=data_dim, norm_cfg=norm_cfg)
            for fine, coarse in itertools.pairwise(widths)
        )
        self.norm = instantiate(norm_cfg, channels=widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        self.reset_parameters()
        self.to(device=device, dtype=dtype)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the head with deviation 0.02; the other parts reset themselves."""
        reset_truncated_normal(self.head.weight, 0.02, generator)
        reset_constant(self.head.bias, 0.0)

    def forward(self, x: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch class"]:
        """Returns the logits of every sample, channels last in.

        Raises:
          InputMismatch: The input has another number of channels or axes, or patches do not fill it.
        """
        return self.head(self.norm(self.stage_outputs(x)[-1]).flatten(1, -2).mean(dim=1))

    def stage_outputs(self, x: Float[Tensor, "batch *space channel"]) -> list[Tensor]:
        """Returns the stream behind each stage, ``[batch, *coarse, width]``, each half the size of the one before.

        Raises:
          InputMismatch: The input has another number of channels or axes, or patches do not fill it.
        """
        outputs = []
        x = self.patchify(x)
        for stage, merging in zip(self.stages, [*self.mergings, None], strict=True):
            x = stage(x)
            outputs.append(x)
            x = x if merging is None else merging(x)
        return outputs
