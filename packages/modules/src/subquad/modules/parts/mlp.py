"""MLPs over channels: two layers with an activation between, or with a gate."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from subquad.lazy_config import Config, instantiate
from subquad.modules.errors import ConfigurationError
from subquad.modules.widths import require_channels, require_part

MLPActivation = Literal["relu", "gelu", "silu", "glu", "geglu", "swiglu"]
_PLAIN = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}
_GATES = {"glu": torch.sigmoid, "geglu": functional.gelu, "swiglu": functional.silu}


class MLP(nn.Module):
    """Computes ``out(norm(drop(act(x W))))``, or with a gate ``out(norm(drop(a * act(g))))`` for ``[a, g] = x W``.

    Args:
      channels: Size of input and output.
      inner_size: Size in between; None for ``2 * channels``.
      activation: ``"relu"``, ``"gelu"`` (exact), ``"silu"``; gated ``"glu"`` (sigmoid), ``"geglu"``, ``"swiglu"``.
      bias: Whether both layers have biases.
      dropout: Chance that an inner channel is dropped in training.
      norm_cfg: Configuration of a norm of ``inner_size`` channels, such as ``GlobalResponseNorm``; None for none.

    Raises:
      ConfigurationError: The activation is unknown, a size is below 1, or the norm is of another size.
    """

    def __init__(
        self,
        channels: int,
        inner_size: int | None = None,
        *,
        activation: MLPActivation = "gelu",
        bias: bool = False,
        dropout: float = 0.0,
        norm_cfg: Config[nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        inner_size = 2 * channels if inner_size is None else inner_size
        if activation not in _PLAIN | _GATES:
            raise ConfigurationError(f"activation is {activation!r}; accepted are {', '.join({**_PLAIN, **_GATES})}")
        if channels < 1 or inner_size < 1:
            raise ConfigurationError(f"channels is {channels} and inner_size {inner_size}; accepted are 1 and more")
        self.activation: MLPActivation = activation
        self.channels = channels
        width = 2 * inner_size if activation in _GATES else inner_size
        self.in_proj = nn.Linear(channels, width, bias=bias, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.Identity() if norm_cfg is None else instantiate(norm_cfg)
        require_part("norm_cfg", self.norm, inner_size)
        self.out_proj = nn.Linear(inner_size, channels, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        """Transforms the last axis.

        Raises:
          InputMismatch: The last axis has another width.
        """
        require_channels("the input", x, self.channels)
        x = self.in_proj(x)
        if self.activation in _GATES:
            value, gate = x.chunk(2, dim=-1)
            x = value * _GATES[self.activation](gate)
        else:
            x = _PLAIN[self.activation](x)
        return self.out_proj(self.norm(self.dropout(x)))

    def flop_count(self, length: int | tuple[int, ...]) -> int:
        """Counts both layers on one sample, of a length or of a size per axis."""
        points = length if isinstance(length, int) else math.prod(length)
        return 2 * points * (self.in_proj.weight.numel() + self.out_proj.weight.numel())
