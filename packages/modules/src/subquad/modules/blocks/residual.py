"""The plain residual block: norms, a sequence mixer and an MLP, each named by a configuration."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.blocks.condition_mixer import QKVConditionMixer
from subquad.modules.blocks.sequence_mixer import QKVSequenceMixer
from subquad.modules.errors import InputMismatch
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.parts.drop_path import DropPath
from subquad.modules.parts.layer_scale import LayerScale
from subquad.modules.widths import require_grid, require_part


class ResidualBlock(nn.Module):
    """Adds a mixing branch, then an MLP branch: ``u = x + drop(mix(norm(x))); y = u + drop(mlp(norm(u)))``.

    With ``condition_mixer_cfg`` a branch between the two mixes a condition in. With ``layer_scale`` and ``drop_path``
    this is the block of vision transformers: each branch ends in a ``LayerScale`` and a ``DropPath``.

    Args:
      sequence_mixer_cfg: Configuration of a ``QKVSequenceMixer``.
      norm_cfg: Configuration of a norm over channels; each branch gets one of its own.
      mlp_cfg: Configuration of a module that keeps the shape; None leaves the second branch out.
      condition_mixer_cfg: Configuration of a ``QKVConditionMixer``; None for no such branch.
      layer_scale: Initial value of a learned factor per channel of each branch; None for none.
      drop_path: Chance that a branch is left out for a sample in training.
      dropout: Chance that an element of a branch is dropped in training.

    Raises:
      ConfigurationError: A part was made for another number of channels than the sequence mixer.
    """

    def __init__(
        self,
        sequence_mixer_cfg: Config[QKVSequenceMixer],
        norm_cfg: Config[nn.Module],
        mlp_cfg: Config[nn.Module] | None = None,
        *,
        condition_mixer_cfg: Config[QKVConditionMixer] | None = None,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sequence_mixer_norm = instantiate(norm_cfg)
        self.sequence_mixer = instantiate(sequence_mixer_cfg)
        self.mlp_norm = None if mlp_cfg is None else instantiate(norm_cfg)
        self.mlp = None if mlp_cfg is None else instantiate(mlp_cfg)
        self.condition_mixer_norm = None if condition_mixer_cfg is None else instantiate(norm_cfg)
        self.condition_mixer = None if condition_mixer_cfg is None else instantiate(condition_mixer_cfg)
        self.hidden_dim: int = self.sequence_mixer.hidden_dim
        for name, part in (
            ("norm_cfg", self.sequence_mixer_norm),
            ("mlp_cfg", self.mlp),
            ("condition_mixer_cfg", self.condition_mixer),
        ):
            require_part(name, part, self.hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)
        weight = self.sequence_mixer.out_proj.weight
        branches = [name for name in ("sequence_mixer", "condition_mixer", "mlp") if getattr(self, name) is not None]
        self.layer_scales = nn.ModuleDict(
            {}
            if layer_scale is None
            else {
                name: LayerScale(weight.shape[0], init=layer_scale, device=weight.device, dtype=weight.dtype)
                for name in branches
            }
        )

    def forward(
        self,
        x: Float[Tensor, "batch *space channel"],
        state: MixerState | None = None,
        *,
        condition: Float[Tensor, "batch *points condition"] | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Transforms whole sequences, or the next chunk of those in ``state``, whose position the caller advances.

        Raises:
          InputMismatch: ``x`` has another number of channels, a condition is missing, or there is no branch for it.
        """
        require_grid("x", x, self.hidden_dim)
        if (condition is None) != (self.condition_mixer is None):
            given = "condition is missing" if condition is None else "a condition was given"
            raise InputMismatch(
                f"{given}; the block has {'no' if self.condition_mixer is None else 'a'} condition_mixer"
            )
        x = x + self._branch("sequence_mixer", self.sequence_mixer(self.sequence_mixer_norm(x), state))
        if condition is not None and self.condition_mixer is not None and self.condition_mixer_norm is not None:
            x = x + self._branch("condition_mixer", self.condition_mixer(self.condition_mixer_norm(x), condition))
        return self._feed_forward(x)

    def step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, *, active: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channel"]:
        """Transforms one more token per row; see ``Mixer``."""
        require_grid("x", x, self.hidden_dim, axes=0)
        mixed = self.sequence_mixer.step(self.sequence_mixer_norm(x), state, active=active)
        return self._feed_forward(x + self._branch("sequence_mixer", mixed))

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MixerState:
        """Returns the empty state of the mixer inside.

        Raises:
          StateUnsupported: The mixer is not causal, or the block mixes a condition in.
        """
        if self.condition_mixer is not None:
            refuse_state(self, "it mixes a condition in")
        return self.sequence_mixer.init_state(batch_size, max_length=max_length, device=device, dtype=dtype)

    def _feed_forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self._branch("mlp", self.mlp(self.mlp_norm(x)))

    def _branch(self, name: str, y: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "batch *space channel"]:
        """Ends a branch: dropout, layer scale, drop path."""
        y = self.dropout(y)
        return self.drop_path(self.layer_scales[name](y) if name in self.layer_scales else y)
