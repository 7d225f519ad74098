"""Filters from an MLP over random Fourier features of the position."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from subquad.lazy_config import Config
from subquad.modules.errors import ConfigurationError
from subquad.modules.filters.film import FilterFiLM
from subquad.modules.filters.full_precision_linear import FullPrecisionLinear
from subquad.modules.filters.network import ImplicitFilter
from subquad.modules.parts.initialization import reset_constant, reset_normal, reset_uniform

FilterActivation = Literal["gelu", "silu", "relu", "sine"]
_ACTIVATIONS = {"gelu": functional.gelu, "silu": functional.silu, "relu": functional.relu, "sine": torch.sin}


class RandomFourierFilter(ImplicitFilter):
    """An MLP over ``[cos(W p + b), sin(W p + b)]`` with ``W`` drawn from ``N(0, (2 * pi * omega_0) ** 2)``.

    Args:
      channels: Number of filters.
      data_dim: Axes of space, 1 to 3.
      trained_reach: Taps on one side at which a coordinate reaches 1, per axis or for all; at least 2.
      omega_0: Typical number of periods per unit of position; positive.
      hidden_dim: Size of the hidden layers.
      embedding_dim: Number of features; even.
      num_layers: Layers after the features, the output layer counted; at least 2.
      activation: ``"gelu"``, ``"silu"``, ``"relu"`` or ``"sine"``.
      frozen_features: Whether ``W`` and ``b`` keep their initial values; they then need no gradient.
      bias: Whether layers have biases.
      film_cfg: See ``ImplicitFilter``.
      film_on_embedding: See ``ImplicitFilter``.

    Raises:
      ConfigurationError: A size or the frequency is out of its range, or the activation is unknown.

    Source: Tancik et al., Fourier features let networks learn high frequency functions, 2020.
    """

    def __init__(
        self,
        channels: int,
        *,
        trained_reach: int | Sequence[int],
        data_dim: int = 1,
        omega_0: float = 1.0,
        hidden_dim: int = 32,
        embedding_dim: int = 32,
        num_layers: int = 3,
        activation: FilterActivation = "gelu",
        frozen_features: bool = False,
        bias: bool = True,
        film_cfg: Config[FilterFiLM] | None = None,
        film_on_embedding: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            data_dim=data_dim,
            trained_reach=trained_reach,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            bias=bias,
            film_cfg=film_cfg,
            film_on_embedding=film_on_embedding,
            device=device,
            dtype=dtype,
        )
        if embedding_dim % 2 or omega_0 <= 0:
            raise ConfigurationError(
                f"embedding_dim is {embedding_dim}, omega_0 {omega_0}; accepted are an even size, a positive number"
            )
        if activation not in _ACTIVATIONS:
            raise ConfigurationError(f"activation is {activation!r}; accepted are {', '.join(map(repr, _ACTIVATIONS))}")
        self.omega_0, self.activation = omega_0, activation
        self.first = FullPrecisionLinear(data_dim, embedding_dim // 2, bias=bias, device=device, dtype=dtype)
        self.first.requires_grad_(not frozen_features)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the features as said above and the layers from ``U(-sqrt(3 / in), sqrt(3 / in))``; biases are zero."""
        reset_normal(self.first.weight, 2 * math.pi * self.omega_0, generator)
        for layer in (*self.hidden, self.out):
            assert isinstance(layer, FullPrecisionLinear)
            reset_uniform(layer.weight, 3 / layer.in_features, generator)
        for layer in (self.first, *self.hidden, self.out):
            reset_constant(layer.bias, 0.0)  # pyright: ignore[reportArgumentType]
        self._scale_output()

    def embed(self, position: Float[Tensor, "*tap axis"]) -> Float[Tensor, "*tap embedding"]:
        """Returns cosines, then sines."""
        angle = self.first(position)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def activate(self, x: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        """The chosen activation."""
        return _ACTIVATIONS[self.activation](x)
