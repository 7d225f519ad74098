"""The residual block that a condition steers: shifts, scales and gates of both branches (AdaLN-Zero)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.lazy_config import Config, instantiate
from subquad.modules.blocks.sequence_mixer import QKVSequenceMixer
from subquad.modules.errors import InputMismatch
from subquad.modules.mixer import MixerState
from subquad.modules.mixers.stateless import refuse_state
from subquad.modules.parts.initialization import reset_constant
from subquad.modules.widths import require_grid, require_part, require_positive


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

    Raises:
      ConfigurationError: A width is below 1, or a part was made for another number of channels than ``hidden_dim``.

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
        width = hidden_dim if condition_dim is None else condition_dim
        require_positive(hidden_dim=hidden_dim, condition_dim=width)
        self.hidden_dim, self.condition_dim = hidden_dim, width
        self.sequence_mixer_norm = instantiate(norm_cfg)
        self.sequence_mixer = instantiate(sequence_mixer_cfg)
        self.mlp_norm = instantiate(norm_cfg)
        self.mlp = instantiate(mlp_cfg)
        self.condition_norm = nn.Identity() if condition_norm_cfg is None else instantiate(condition_norm_cfg)
        for name, part, channels in (
            ("norm_cfg", self.mlp_norm, hidden_dim),
            ("sequence_mixer_cfg", self.sequence_mixer, hidden_dim),
            ("mlp_cfg", self.mlp, hidden_dim),
            ("condition_norm_cfg", self.condition_norm, width),
        ):
            require_part(name, part, channels)
        self.condition_proj = nn.Linear(width, 6 * hidden_dim, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.to(device=device, dtype=dtype)
        self.reset_condition()

    def reset_condition(self) -> None:
        """Makes the block the identity."""
        reset_constant(self.condition_proj.weight, 0.0)
        reset_constant(self.condition_proj.bias, 0.0)

    def forward(
        self,
        x: Float[Tensor, "batch *space channel"],
        condition: Float[Tensor, "batch *points condition"],
        state: MixerState | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Transforms sequences or grids, or the next chunk of those in ``state``; see ``Mixer``.

        A condition over points counts by its mean.

        Raises:
          InputMismatch: ``x`` or the condition has another number of channels, or they have not as many rows.
        """
        self._check(x, condition, None)
        condition = self._one_vector(condition)
        steering = self._steering(condition, x.dim())
        mixed = self.sequence_mixer(
            self.sequence_mixer_norm(x) * (1 + steering[1]) + steering[0],
            state,
            condition=condition if self.sequence_mixer.takes_condition else None,
        )
        return self._added(x, mixed, steering)

    def step(
        self,
        x: Float[Tensor, "batch channel"],
        condition: Float[Tensor, "batch *points condition"],
        state: MixerState,
        *,
        active: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Transforms one more token per row; see ``Mixer``."""
        self._check(x, condition, 0)
        steering = self._steering(self._one_vector(condition), x.dim())
        steered = self.sequence_mixer_norm(x) * (1 + steering[1]) + steering[0]
        return self._added(x, self.sequence_mixer.step(steered, state, active=active), steering)

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
          StateUnsupported: The mixer is not causal, or the condition makes another filter of it.
        """
        if self.sequence_mixer.takes_condition:
            refuse_state(self, "its condition makes another filter")
        return self.sequence_mixer.init_state(batch_size, max_length=max_length, device=device, dtype=dtype)

    def _check(self, x: Tensor, condition: Tensor, axes: int | None) -> None:
        require_grid("x", x, self.hidden_dim, axes=axes)
        require_grid("the condition", condition, self.condition_dim)
        if condition.shape[0] != x.shape[0]:
            raise InputMismatch(
                f"the condition has {condition.shape[0]} rows, x has {x.shape[0]}; accepted are as many"
            )

    def _one_vector(self, condition: Float[Tensor, "batch *points condition"]) -> Float[Tensor, "batch condition"]:
        return self.condition_norm(condition.flatten(1, -2).mean(1) if condition.dim() > 2 else condition)

    def _steering(self, condition: Float[Tensor, "batch condition"], axes: int) -> tuple[Tensor, ...]:
        """Returns shift, scale and gate of the mixer's branch and of the MLP's, for an input of so many axes."""
        steering = self.condition_proj(functional.silu(condition))
        return steering.view(len(steering), *[1] * (axes - 2), -1).chunk(6, dim=-1)

    def _added(
        self, x: Float[Tensor, "batch *space channel"], mixed: Tensor, steering: tuple[Tensor, ...]
    ) -> Float[Tensor, "batch *space channel"]:
        """Adds the mixer's branch, then the MLP's."""
        _, _, gate, shift, scale, mlp_gate = steering
        x = x + gate * self.dropout(mixed)
        return x + mlp_gate * self.dropout(self.mlp(self.mlp_norm(x) * (1 + scale) + shift))
