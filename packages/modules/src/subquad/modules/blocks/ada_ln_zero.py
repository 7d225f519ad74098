"""The residual block that a condition steers: shifts, scales and gates of both branches (AdaLN-Zero)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.lazy_config import Config, instantiate
from subquad.modules.blocks.sequence_mixer import QKVSequenceMixer
from subquad.modules.parts.initialization import reset_constant


class AdaLNZeroBlock(nn.Module):
    """Adds ``gate * branch(norm(x) * (1 + scale) + shift)`` for the mixer, then for the MLP.

    Shift, scale and gate of both come from ``linear(silu(condition_norm(condition)))``, which starts at zero: a new
    block returns its input. A mixer that takes a condition itself (``takes_condition``) is given the normed one.

    Args:
      hidden_dim: Channels in and out.
      sequence_mixer_cfg: Configuration of a ``QKVSequenceMixer``, with any mixer.
      norm_cfg: Configuration of a norm over channels; each branch gets one of its own.
      mlp_cfg: Configuration of a module that keeps the shape.
      condition_dim: Channels of the condition; None for ``hidden_dim``.
      condition_norm_cfg: Configuration of a norm of the condition; None for none.
      dropout: Chance that an element of a branch is dropped in training.

    Source: Peebles and Xie, Scalable diffusion models with transformers, 2023.
    """

    def __init__(
        self,
        hidden_dim: int,
        sequence_mixer_cfg: Config[QKVSequenceMixer],
        norm_cfg: Config[nn.Module],
        mlp_cfg: Config[nn.Module],
        *,
        condition_dim: int | None = None,
        condition_norm_cfg: Config[nn.Module] | None = None,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.sequence_mixer_norm = instantiate(norm_cfg)
        self.sequence_mixer = instantiate(sequence_mixer_cfg)
        self.mlp_norm = instantiate(norm_cfg)
        self.mlp = instantiate(mlp_cfg)
        self.condition_norm = nn.Identity() if condition_norm_cfg is None else instantiate(condition_norm_cfg)
        width = hidden_dim if condition_dim is None else condition_dim
        self.condition_proj = nn.Linear(width, 6 * hidden_dim, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.to(device=device, dtype=dtype)
        self.reset_condition()

    def reset_condition(self) -> None:
        """Makes the block the identity."""
        reset_constant(self.condition_proj.weight, 0.0)
        reset_constant(self.condition_proj.bias, 0.0)

    def forward(
        self, x: Float[Tensor, "batch *space channel"], condition: Float[Tensor, "batch *points condition"]
    ) -> Float[Tensor, "batch *space channel"]:
        """Transforms a sequence or grid; a condition over points counts by its mean."""
        condition = self.condition_norm(condition.flatten(1, -2).mean(1) if condition.dim() > 2 else condition)
        steering = self.condition_proj(functional.silu(condition)).view(x.shape[0], *[1] * (x.dim() - 2), -1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = steering.chunk(6, dim=-1)
        mixed = self.sequence_mixer(
            self.sequence_mixer_norm(x) * (1 + scale) + shift,
            condition=condition if self.sequence_mixer.takes_condition else None,
        )
        x = x + gate * self.dropout(mixed)
        return x + mlp_gate * self.dropout(self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift))
