"""Blocks one after the other, with or without gradient checkpointing."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError


class BlockStack(nn.Module):
    """Applies blocks in their order; a condition, where there is one, is given to each.

    With gradient checkpointing a block keeps its input alone and is computed again in backward: the same gradients, at
    the price of one more forward pass, and memory for the inside of one block at a time.

    Args:
      blocks_cfg: One configuration a block, of a module that keeps the shape.
      gradient_checkpointing: Whether to compute blocks again in backward; may be changed at any time.

    Raises:
      ConfigurationError: There is no block.
    """

    def __init__(self, blocks_cfg: Sequence[Config[nn.Module]], *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        if not blocks_cfg:
            raise ConfigurationError("a stack of 0 blocks; accepted are 1 and more")
        self.blocks = nn.ModuleList(instantiate(cfg) for cfg in blocks_cfg)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(
        self,
        x: Float[Tensor, "batch *space channel"],
        *,
        condition: Float[Tensor, "batch *points condition"] | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Transforms a sequence or grid."""
        given = {} if condition is None else {"condition": condition}
        for block in self.blocks:
            run = functools.partial(block, **given)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(run, x, use_reentrant=False)
            else:
                x = run(x)
        return x
