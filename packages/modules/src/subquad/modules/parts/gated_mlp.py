"""The gated two-branch MLP of StripedHyena 2."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.parts.linear_layouts import add_product, plain_weight
from subquad.modules.parts.registered import registered
from subquad.modules.widths import require_floats, require_positive
from subquad.ops import RoundedRows, gated_linear, gated_product, rounded_product


class GatedMLP(nn.Module):
    """Computes ``l3(activation(l1(x)) * l2(x))`` without biases.

    Args:
      channels: Size of input and output.
      inner_size: Size of the two branches.
      activation: ``"gelu"`` (exact, with erf) or ``"identity"``, which leaves a purely bilinear gate.

    Raises:
      ConfigurationError: A size is below 1, or ``activation`` is neither of the two.
    """

    l1: nn.Linear = registered("module")
    l2: nn.Linear = registered("module")
    l3: nn.Linear = registered("module")

    def __init__(
        self,
        channels: int,
        inner_size: int,
        *,
        activation: Literal["gelu", "identity"],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, inner_size=inner_size)
        if activation not in ("gelu", "identity"):
            raise ConfigurationError(f"activation is {activation!r}; accepted are 'gelu' and 'identity'")
        self.activation = activation
        self.l1 = nn.Linear(channels, inner_size, bias=False, device=device, dtype=dtype)
        self.l2 = nn.Linear(channels, inner_size, bias=False, device=device, dtype=dtype)
        self.l3 = nn.Linear(inner_size, channels, bias=False, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "... channel"]) -> Float[Tensor, "... channel"]:
        """Transforms the last axis.

        Raises:
          InputMismatch: ``x`` is no dense tensor of floating point numbers.
        """
        require_floats("x", x)
        return self.l3(self._gated(x))

    def add_to(
        self, residual: Float[Tensor, "... channel"], x: Float[Tensor, "... channel"]
    ) -> Float[Tensor, "... channel"]:
        """Returns ``residual + forward(x)``; see ``add_product`` for who owns ``residual``."""
        return add_product(self.l3, residual, self._gated(x))

    def of_rounded(self, x: RoundedRows, *, dtype: torch.dtype) -> Float[Tensor, "... channel"]:
        """Returns ``forward`` of rows that are rounded; all three layers must be ``RoundedLinear``."""
        inner = rounded_product(self.l1(x, dtype=dtype), self.l2(x, dtype=dtype), activation=self._gate_activation)
        return self.l3(inner, dtype=dtype)

    @property
    def _gate_activation(self) -> Literal["gelu"] | None:
        return "gelu" if self.activation == "gelu" else None

    def _gated(self, x: Tensor) -> Tensor:
        gate_weight, value_weight = plain_weight(self.l1, x), plain_weight(self.l2, x)
        if gate_weight is None or value_weight is None:
            return gated_product(self.l1(x), self.l2(x), activation=self._gate_activation)
        return gated_linear(x, gate_weight, value_weight, activation=self._gate_activation)
