"""Random draws for parameters, made on the CPU in float32: a seed gives the same weights on every device."""

import torch
from torch import Tensor, nn


def reset_uniform(parameter: Tensor | None, square_bound: float, generator: torch.Generator | None) -> None:
    """Fills a parameter from ``U(-sqrt(bound), sqrt(bound))``, drawn on the CPU; does nothing for None and on meta."""
    if parameter is not None and not parameter.is_meta:
        bound = square_bound**0.5
        with torch.no_grad():
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)


def reset_normal(parameter: Tensor | None, deviation: float, generator: torch.Generator | None) -> None:
    """Fills a parameter from ``N(0, deviation ** 2)``, drawn on the CPU; does nothing for None and on meta."""
    if parameter is not None and not parameter.is_meta:
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)


def reset_truncated_normal(parameter: Tensor | None, deviation: float, generator: torch.Generator | None) -> None:
    """Fills a parameter from a normal cut at two deviations, drawn on the CPU; does nothing for None and on meta."""
    if parameter is not None and not parameter.is_meta:
        draws = torch.empty(parameter.shape)
        with torch.no_grad():
            parameter.copy_(nn.init.trunc_normal_(draws, 0.0, 1.0, -2.0, 2.0, generator) * deviation)


def reset_constant(parameter: Tensor | None, value: float) -> None:
    """Fills a parameter with one value; does nothing for None and on meta."""
    if parameter is not None and not parameter.is_meta:
        with torch.no_grad():
            parameter.fill_(value)
