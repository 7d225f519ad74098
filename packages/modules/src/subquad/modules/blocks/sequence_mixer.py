"""Self-mixing of a sequence: projections around a mixer that a configuration names."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.mixer import Mixer, MixerState, ProjectedMixer
from subquad.modules.parts.initialization import reset_constant, reset_normal
from subquad.modules.parts.placement import Placement
from subquad.modules.widths import require_grid, require_part, require_positive, require_rows
from subquad.ops import fir_step


class QKVSequenceMixer(nn.Module):
    """Projects a sequence or a grid to q, k and v, mixes, and projects back: ``out_proj(mixer(q, k, v))``.

    Row ``3 * c + p`` of the input projection makes stream p (q, k, v) of channel c; for a mixer with
    ``stream_channels`` of its own the rows of q, k and v follow each other, as many as it takes. Where the mixer owns
    ``projection_taps`` (see ``HyenaFIR``) the streams go through that short convolution first, fused with the mixer.

    Args:
      hidden_dim: Channels in and out; also of q, k, v and the mixer's output, unless the mixer says otherwise.
      mixer_cfg: Configuration of a ``Mixer``, such as ``LazyConfig(HyenaLong)(channels=64)``.
      qkv_bias: Whether the input projection has a bias.
      out_proj_bias: Whether the output projection has a bias.

    Raises:
      ConfigurationError: What ``mixer_cfg`` makes is no ``Mixer`` or returns another number of channels.
    """

    def __init__(
        self,
        hidden_dim: int,
        mixer_cfg: Config[nn.Module],
        *,
        qkv_bias: bool = False,
        out_proj_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(hidden_dim=hidden_dim)
        place = Placement(device=device, dtype=dtype)
        mixer = instantiate(mixer_cfg)
        if not isinstance(mixer, Mixer) or not isinstance(mixer, nn.Module):
            raise ConfigurationError(
                f"mixer_cfg makes a {type(mixer).__name__}, which is no Mixer; "
                "a Mixer has forward, init_state, step and flop_count"
            )
        if not hasattr(mixer, "output_channels"):
            require_part("mixer_cfg", mixer, hidden_dim)
        self.hidden_dim = hidden_dim
        self.stream_channels: tuple[int, int, int] = getattr(
            mixer, "stream_channels", (hidden_dim, hidden_dim, hidden_dim)
        )
        self.qkv_proj = nn.Linear(hidden_dim, sum(self.stream_channels), bias=qkv_bias, **place)
        self.mixer = mixer.to(device=device, dtype=dtype)
        mixed: int = getattr(mixer, "output_channels", hidden_dim)
        self.out_proj = nn.Linear(mixed, hidden_dim, bias=out_proj_bias, **place)
        self.reset_projections()

    def reset_projections(self, generator: torch.Generator | None = None) -> None:
        """Draws both projections with deviation ``sqrt(2 / (5 * hidden_dim))``; biases are zero."""
        for linear in (self.qkv_proj, self.out_proj):
            reset_normal(linear.weight, (2 / (5 * self.hidden_dim)) ** 0.5, generator)
            reset_constant(linear.bias, 0.0)

    @property
    def projection_taps(self) -> Float[Tensor, "rows tap"] | None:
        """The taps of the short convolution behind the input projection, where the mixer owns any."""
        return getattr(self.mixer, "projection_taps", None)

    @property
    def takes_condition(self) -> bool:
        """Whether the mixer accepts a condition."""
        return bool(getattr(self.mixer, "takes_condition", False))

    def _streams(self, z: Float[Tensor, "... rows"]) -> tuple[Tensor, ...]:
        """Splits projected channels into q, k and v."""
        if self.stream_channels == (self.hidden_dim,) * 3:
            return z.unflatten(-1, (self.hidden_dim, 3)).unbind(-1)
        return z.split(self.stream_channels, dim=-1)

    def forward(
        self,
        x: Float[Tensor, "batch *space channel"],
        state: MixerState | None = None,
        *,
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch *space channel"]:
        """Mixes whole sequences, or the next chunk of those in ``state``, whose position the caller advances.

        Raises:
          InputMismatch: ``x`` has other channels than ``hidden_dim`` or other rows than ``state``, or a condition was
            given and the mixer takes none.
        """
        require_grid("x", x, self.hidden_dim)
        if state is not None:
            require_rows(x, state)
        if condition is not None and not self.takes_condition:
            raise InputMismatch(f"a condition was given, but {type(self.mixer).__name__} takes none")
        z, taps = self.qkv_proj(x), self.projection_taps
        if taps is not None:
            assert isinstance(self.mixer, ProjectedMixer)
            y, _ = self.mixer.forward_projected(z.transpose(1, 2), taps, state=state)
            return self.out_proj(y.transpose(1, 2))
        given = {"state": state, "condition": condition}
        return self.out_proj(self.mixer(*self._streams(z), **{k: v for k, v in given.items() if v is not None}))

    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MixerState:
        """Returns the mixer's empty state, by default where and in the type of the projections."""
        weight = self.out_proj.weight
        state = self.mixer.init_state(  # pyright: ignore[reportCallIssue]
            batch_size, max_length=max_length, device=device or weight.device, dtype=dtype or weight.dtype
        )
        assert isinstance(state, MixerState)
        return state

    def step(
        self, x: Float[Tensor, "batch channel"], state: MixerState, *, active: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channel"]:
        """Mixes one more token per row; see ``Mixer``."""
        require_grid("x", x, self.hidden_dim, axes=0)
        require_rows(x, state)
        z, taps = self.qkv_proj(x), self.projection_taps
        if taps is not None:
            z = fir_step(z, taps, state.tensors()["projection"], state.position, active=active)
        mixed = self.mixer.step(*self._streams(z), state, active=active)  # pyright: ignore[reportCallIssue]
        return self.out_proj(mixed)

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts the projections, the short convolution and the mixer on one sample."""
        points, taps = length if isinstance(length, int) else math.prod(length), self.projection_taps
        short = 0 if taps is None else 2 * taps.numel() * points
        projections = 2 * (self.qkv_proj.weight.numel() + self.out_proj.weight.numel()) * points
        return projections + short + self.mixer.flop_count(length)  # pyright: ignore[reportCallIssue]
