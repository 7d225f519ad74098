"""Initial values of the linear layers of a whole network, each rule a small object that a configuration can name."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from subquad.modules.errors import ConfigurationError
from subquad.modules.parts.initialization import reset_constant, reset_normal, reset_truncated_normal


@runtime_checkable
class Initializer(Protocol):
    """Fills a parameter, drawing on the CPU in float32, so that a seed gives the same weights on every device."""

    def __call__(self, parameter: Tensor, generator: torch.Generator | None = None) -> None:
        """Fills ``parameter`` in place."""
        ...


@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Draws from ``N(0, deviation ** 2)``, cut at two deviations.

    Attributes:
      deviation: Of the normal that is cut; positive.
    """

    deviation: float = 0.02

    def __call__(self, parameter: Tensor, generator: torch.Generator | None = None) -> None:
        """Fills ``parameter`` in place."""
        reset_truncated_normal(parameter, self.deviation, generator)


@dataclasses.dataclass(frozen=True)
class SmallInit:
    """Draws from ``N(0, 2 / (5 * channels))``.

    Attributes:
      channels: Width of the residual stream; 1 or more.

    Source: Nguyen and Salazar, Transformers without tears, 2019.
    """

    channels: int

    def __call__(self, parameter: Tensor, generator: torch.Generator | None = None) -> None:
        """Fills ``parameter`` in place."""
        reset_normal(parameter, math.sqrt(2 / (5 * self.channels)), generator)


@dataclasses.dataclass(frozen=True)
class WangInit:
    """Draws from ``N(0, (2 / (num_layers * sqrt(channels))) ** 2)``, for the last layer of a residual branch.

    Attributes:
      channels: Width of the residual stream; 1 or more.
      num_layers: Blocks of the network; 1 or more.

    Source: Wang and Komatsuzaki, GPT-J, 2021.
    """

    channels: int
    num_layers: int

    def __call__(self, parameter: Tensor, generator: torch.Generator | None = None) -> None:
        """Fills ``parameter`` in place."""
        reset_normal(parameter, 2 / (self.num_layers * math.sqrt(self.channels)), generator)


def initialize_linears(
    model: nn.Module,
    weight: Initializer,
    *,
    output_weight: Initializer | None = None,
    output_name: str = "out_proj",
    generator: torch.Generator | None = None,
) -> None:
    """Draws the weights of every ``nn.Linear`` in a model anew, in the order of their names; biases become zero.

    Filters, norms and everything that is no plain ``nn.Linear`` keep the values of their own rules.

    Args:
      model: Changed in place.
      weight: Rule of the weights.
      output_weight: Rule of the layers that end a residual branch; None for ``weight``.
      output_name: Last part of those layers' names.
      generator: Of the draws; None for torch's own.

    Raises:
      ConfigurationError: ``output_weight`` is given and no layer has the name.
    """
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    outputs = {name for name in linears if name.rpartition(".")[2] == output_name}
    if output_weight is not None and not outputs:
        raise ConfigurationError(f"no linear layer is named {output_name!r}; set output_name, or no output_weight")
    for name, linear in linears.items():
        rule = output_weight if output_weight is not None and name in outputs else weight
        rule(linear.weight, generator)
        reset_constant(linear.bias, 0.0)
