"""The plain residual block: norms, a sequence mixer and an MLP, each named by a configuration."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.blocks.sequence_mixer import QKVSequenceMixer
from subquad.modules.mixer import MixerState


class ResidualBlock(nn.Module):
    """Adds a mixing branch, then an MLP branch: ``u = x + drop(mix(norm(x))); y = u + drop(mlp(norm(u)))``.

    Args:
      sequence_mixer_cfg: Configuration of a ``QKVSequenceMixer``.
      norm_cfg: Configuration of a norm over channels; each branch gets one of its own.
      mlp_cfg: Configuration of a module that keeps the shape; None leaves the second branch out.
      dropout: Chance that an element of a branch is dropped in training.
    """

    def __init__(
        self,
        sequence_mixer_cfg: Config[QKVSequenceMixer],
        norm_cfg: Config[nn.Module],
        mlp_cfg: Config[nn.Module] | None = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sequence_mixer_norm = instantiate(norm_cfg)
        self.sequence_mixer = instantiate(sequence_mixer_cfg)
        self.mlp_norm = None if mlp_cfg is None else instantiate(norm_cfg)
        self.mlp = None if mlp_cfg is None else instantiate(mlp_cfg)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch *space channel"], state: MixerState | None = None
    ) -> Float[Tensor, "batch *space channel"]:
        """Transforms whole sequences, or the next chunk of those in ``state``, whose position the caller advances."""
        return self._feed_forward(x + self.dropout(self.sequence_mixer(self.sequence_mixer_norm(x), state)))

    def step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, *, active: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channel"]:
        """Transforms one more token per row; see ``Mixer``."""
        mixed = self.sequence_mixer.step(self.sequence_mixer_norm(x), state, active=active)
        return self._feed_forward(x + self.dropout(mixed))

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MixerState:
        """Returns the empty state of the mixer inside."""
        return self.sequence_mixer.init_state(batch_size, max_length=max_length, device=device, dtype=dtype)

    def _feed_forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
