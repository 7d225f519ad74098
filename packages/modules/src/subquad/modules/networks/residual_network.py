"""The general-purpose residual network: any blocks with any mixers, from a grid to a grid or to classes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config, LazyConfig, instantiate
from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.networks.block_stack import BlockStack
from subquad.modules.widths import require_grid, require_part, require_positive


class ResidualNetwork(nn.Module):
    """Computes ``out_proj(norm(blocks(position(in_proj(x)))))`` over one, two or three axes.

    Args:
      in_proj_cfg: Configuration of what makes the residual stream: ``Patchify``, ``nn.Linear``, ``nn.Embedding``.
      block_cfg: Configuration of a block, such as ``ResidualBlock`` or ``AdaLNZeroBlock``, with any mixer.
      out_proj_cfg: Configuration of what leaves it: ``Unpatchify`` or ``nn.Linear``.
      num_blocks: Number of blocks, each with weights of its own; 1 or more.
      norm_cfg: Configuration of the norm behind the last block; None for none.
      position_cfg: Configuration of a module that adds positions, such as ``PositionEmbedding``; None for none.
      condition_proj_cfg: Configuration of what a condition passes before it reaches the blocks; None for nothing.
      dropout: Chance that an element of the stream is dropped in training, before the first block.
      gradient_checkpointing: See ``BlockStack``.

    Raises:
      ConfigurationError: There is no block, or norm, positions or ``out_proj_cfg`` are for other channels than it.
    """

    def __init__(
        self,
        in_proj_cfg: Config[nn.Module],
        block_cfg: Config[nn.Module],
        out_proj_cfg: Config[nn.Module],
        *,
        num_blocks: int,
        norm_cfg: Config[nn.Module] | None = None,
        position_cfg: Config[nn.Module] | None = None,
        condition_proj_cfg: Config[nn.Module] | None = None,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ConfigurationError(f"num_blocks is {num_blocks}; accepted are 1 and more")
        self.in_proj = instantiate(in_proj_cfg)
        self.position = nn.Identity() if position_cfg is None else instantiate(position_cfg)
        self.condition_proj = nn.Identity() if condition_proj_cfg is None else instantiate(condition_proj_cfg)
        self.dropout = nn.Dropout(dropout)
        self.stack = BlockStack([block_cfg] * num_blocks, gradient_checkpointing=gradient_checkpointing)
        self.norm = nn.Identity() if norm_cfg is None else instantiate(norm_cfg)
        self.out_proj = instantiate(out_proj_cfg)
        hidden = getattr(self.stack.blocks[0], "hidden_dim", None)
        for name, part in (("norm_cfg", self.norm), ("position_cfg", self.position), ("out_proj_cfg", self.out_proj)):
            if isinstance(hidden, int):
                require_part(name, part, hidden)
        self.to(device=device, dtype=dtype)

    def forward(
        self, x: Tensor, *, condition: Float[Tensor, "batch *points condition"] | None = None
    ) -> Float[Tensor, "batch *space out"]:
        """Maps a grid, ``[batch, *space, channel]`` or whatever ``in_proj_cfg`` reads, to a grid.

        Raises:
          InputMismatch: The input or the condition has another number of channels.
        """
        return self.out_proj(self.features(x, condition=condition))

    def features(
        self, x: Tensor, *, condition: Float[Tensor, "batch *points condition"] | None = None
    ) -> Float[Tensor, "batch *coarse channel"]:
        """Returns the last norm's output, for ``[batch, *space, channel]`` or what ``in_proj_cfg`` reads.

        Raises:
          InputMismatch: The input or the condition has another number of channels.
        """
        if isinstance(self.in_proj, nn.Linear):
            require_grid("the input", x, self.in_proj.in_features)
        if condition is not None and isinstance(self.condition_proj, nn.Linear):
            require_grid("the condition", condition, self.condition_proj.in_features)
        x = self.dropout(self.position(self.in_proj(x)))
        return self.norm(self.stack(x, condition=None if condition is None else self.condition_proj(condition)))


class ResidualClassifier(nn.Module):
    """Classifies by the mean of a residual network's stream: ``logits = head(mean(norm(blocks(in_proj(x)))))``.

    Args:
      in_proj_cfg: See ``ResidualNetwork``; so are all arguments that are not described here.
      block_cfg: See there.
      hidden_dim: Channels of the residual stream.
      num_classes: Number of logits; 1 or more.

    Raises:
      ConfigurationError: There is no block or no class, or blocks are for other channels than ``hidden_dim``.
    """

    def __init__(
        self,
        in_proj_cfg: Config[nn.Module],
        block_cfg: Config[nn.Module],
        *,
        num_blocks: int,
        hidden_dim: int,
        num_classes: int,
        norm_cfg: Config[nn.Module] | None = None,
        position_cfg: Config[nn.Module] | None = None,
        condition_proj_cfg: Config[nn.Module] | None = None,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(hidden_dim=hidden_dim, num_classes=num_classes)
        self.network = ResidualNetwork(
            in_proj_cfg,
            block_cfg,
            LazyConfig(nn.Identity)(),
            num_blocks=num_blocks,
            norm_cfg=norm_cfg,
            position_cfg=position_cfg,
            condition_proj_cfg=condition_proj_cfg,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )
        require_part("block_cfg", self.network.stack.blocks[0], hidden_dim)
        self.head = nn.Linear(hidden_dim, num_classes)
        self.to(device=device, dtype=dtype)

    def forward(
        self, x: Tensor, *, condition: Float[Tensor, "batch *points condition"] | None = None
    ) -> Float[Tensor, "batch class"]:
        """Returns the logits of every sample, of ``[batch, *space, channel]`` or what ``in_proj_cfg`` reads.

        Raises:
          InputMismatch: The stream has another number of channels than ``hidden_dim``.
        """
        features = self.network.features(x, condition=condition)
        if features.shape[-1] != self.head.in_features:
            raise InputMismatch(f"the stream has {features.shape[-1]} channels, hidden_dim is {self.head.in_features}")
        return self.head(features.flatten(1, -2).mean(dim=1))
