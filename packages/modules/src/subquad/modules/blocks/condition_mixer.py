"""Cross mixing: queries from a sequence, keys and values from a condition."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError, InputMismatch
from subquad.modules.mixer import Mixer
from subquad.modules.parts.initialization import reset_constant, reset_normal
from subquad.modules.widths import require_grid, require_part, require_positive


class QKVConditionMixer(nn.Module):
    """Mixes a condition into a sequence or grid: ``out_proj(mixer(q(x), k(condition), v(condition)))``.

    A condition of one vector a sample is the same at every point. One over points of its own goes to mixers that take
    keys of another length (``MultiHeadAttention`` without rotary positions); the others need a condition of x's size.

    Args:
      hidden_dim: Channels in and out; the mixer must take as many.
      mixer_cfg: Configuration of a ``Mixer``.
      condition_dim: Channels of the condition; None for ``hidden_dim``.
      bias: Whether the projections have biases.

    Raises:
      ConfigurationError: What ``mixer_cfg`` makes is no ``Mixer``, takes no queries or returns another number of
        channels.
    """

    def __init__(
        self,
        hidden_dim: int,
        mixer_cfg: Config[nn.Module],
        *,
        condition_dim: int | None = None,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        mixer = instantiate(mixer_cfg)
        widths: tuple[int, int, int] = getattr(mixer, "stream_channels", (hidden_dim, hidden_dim, hidden_dim))
        if not isinstance(mixer, Mixer) or not isinstance(mixer, nn.Module) or widths[0] == 0:
            raise ConfigurationError(
                f"mixer_cfg makes a {type(mixer).__name__}; accepted is a Mixer that takes queries, which come from x"
            )
        if not hasattr(mixer, "output_channels"):
            require_part("mixer_cfg", mixer, hidden_dim)
        self.hidden_dim = hidden_dim
        self.condition_dim = hidden_dim if condition_dim is None else condition_dim
        require_positive(hidden_dim=hidden_dim, condition_dim=self.condition_dim)
        self.stream_channels = widths
        self.q_proj = nn.Linear(hidden_dim, widths[0], bias=bias, device=device, dtype=dtype)
        self.kv_proj = nn.Linear(self.condition_dim, widths[1] + widths[2], bias=bias, device=device, dtype=dtype)
        self.mixer = mixer.to(device=device, dtype=dtype)
        mixed: int = getattr(mixer, "output_channels", hidden_dim)
        self.out_proj = nn.Linear(mixed, hidden_dim, bias=bias, device=device, dtype=dtype)
        self.reset_projections()

    def reset_projections(self, generator: torch.Generator | None = None) -> None:
        """Draws the projections with deviation ``sqrt(2 / (5 * inputs))``; biases are zero."""
        for linear in (self.q_proj, self.kv_proj, self.out_proj):
            reset_normal(linear.weight, (2 / (5 * linear.in_features)) ** 0.5, generator)
            reset_constant(linear.bias, 0.0)

    def forward(
        self, x: Float[Tensor, "batch *space channel"], condition: Float[Tensor, "batch *points condition"]
    ) -> Float[Tensor, "batch *space channel"]:
        """Mixes the condition into ``x``.

        Raises:
          InputMismatch: ``x`` or the condition has another number of channels, or the condition has neither no axis
            of space nor as many as ``x``, or other rows.
        """
        require_grid("x", x, self.hidden_dim)
        require_grid("the condition", condition, self.condition_dim)
        if condition.dim() not in (2, x.dim()):
            raise InputMismatch(f"the condition has {condition.dim()} axes, x has {x.dim()}; accepted are 2 or as many")
        if condition.shape[0] != x.shape[0]:
            raise InputMismatch(
                f"the condition has {condition.shape[0]} rows, x has {x.shape[0]}; accepted are as many"
            )
        q, kv = self.q_proj(x), self.kv_proj(condition)
        if condition.dim() == 2:
            kv = kv.view(kv.shape[0], *[1] * (x.dim() - 2), -1).expand(*x.shape[:-1], -1)
        k, v = kv.split(self.stream_channels[1:], dim=-1)
        return self.out_proj(self.mixer(q, k, v))

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts the projections and the mixer on one sample with a condition of the same size."""
        points = length if isinstance(length, int) else math.prod(length)
        weights = sum(linear.weight.numel() for linear in (self.q_proj, self.kv_proj, self.out_proj))
        return 2 * weights * points + self.mixer.flop_count(length)  # pyright: ignore[reportCallIssue]
